/* Seed `wal`, checks 2, 3 and 4: torn tails, flipped bits, quarantine. The bytes are built here once more from docs/formats.md.
 */
#include "unit/journal_rig.h"

#define N 9

/* CRC-64/XZ, bit by bit. */
static uint64_t crc64(uint64_t crc, const uint8_t *p, size_t n) {
	crc = ~crc;
	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? 0xc96c5795d7870f42ull : 0);
	}
	return ~crc;
}
static void le(uint8_t *p, int n, uint64_t v) {
	for (int i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}
static size_t make_header(uint8_t *p, uint64_t first, uint64_t created) {
	memset(p, 0, 64);
	memcpy(p, "MSJL", 4);
	le(p + 4, 2, 1);
	le(p + 6, 2, 64);
	le(p + 16, 8, first);
	le(p + 24, 8, created);
	le(p + 56, 8, crc64(0, p, 56));
	return 64;
}
static size_t make_entry(uint8_t *file, size_t at, uint64_t first, uint64_t seq, uint64_t time, uint64_t durable, unsigned flags,
			 const char *db, const void *payload, size_t len) {
	uint8_t *p = file + at, seed[16];
	size_t name = strlen(db), size = (48 + name + len + 7) / 8 * 8;
	memset(p, 0, size);
	le(p, 4, len);
	le(p + 4, 2, flags);
	le(p + 6, 2, name);
	le(p + 8, 8, seq);
	le(p + 16, 8, time);
	le(p + 24, 8, durable);
	memcpy(p + 48, db, name);
	memcpy(p + 48 + name, payload, len);
	le(seed, 8, first);
	le(seed + 8, 8, at);
	uint64_t h = crc64(crc64(crc64(0, seed, 16), p, 32), p + 48, name);
	le(p + 32, 8, h);
	le(p + 40, 8, crc64(h, p + 48 + name, size - 48 - name));
	return at + size;
}

static int64_t frozen_now(struct ms_env *env) {
	(void)env;
	return 1767225600000000;
}
/* The same environment with a clock that stands still. */
static struct ms_env *frozen(uint64_t seed) {
	static struct ms_env_ops ops;
	struct ms_env *env = ms_env_sim_new(seed);
	ops = *env->ops;
	ops.now_us = frozen_now;
	env->ops = &ops;
	return env;
}

Test(journal_damage, bytes_are_as_documented) {
	struct ms_env *env = frozen(1);
	struct ms_journal *j = rig_open(env, NULL);
	uint8_t want[4096], got[4096];
	uint64_t seq, now = 1767225600000000;
	struct iovec one = {(void *)"hello", 5}, two = {(void *)"abc", 3};
	OK(ms_journal_append_sync(j, "app.db", 6, 0, &one, 1, &seq, &err));
	OK(ms_journal_append(j, "", 0, MS_ENTRY_UNNAMED, &two, 1, &seq, &err));
	OK(ms_journal_append(j, "x", 1, MS_ENTRY_CONTINUES, NULL, 0, &seq, &err));
	OK(ms_journal_append(j, "x", 1, 0, &two, 1, &seq, &err));
	rig_close(j);
	size_t n = make_header(want, 1, now);
	n = make_entry(want, n, 1, 1, now, 0, 0, "app.db", "hello", 5);
	n = make_entry(want, n, 1, 2, now, 1, 2, "", "abc", 3);
	n = make_entry(want, n, 1, 3, now, 1, 1, "x", "", 0);
	n = make_entry(want, n, 1, 4, now, 1, 8, "x", "abc", 3);
	n = make_entry(want, n, 1, 4, now, 4, 0x8000, "", "", 0);
	cr_assert_eq(rig_load(env, FILE1, got, sizeof got), n);
	cr_assert(!memcmp(got, want, n));
	ms_env_sim_free(env);
}

/* docs/formats.md, "Journal": the worked example. */
static const char example[] = "4d534a4c010040000000000000000000"
			      "01000000000000000040204648470600"
			      "00000000000000000000000000000000"
			      "000000000000000069d1506c1e5f2f54"
			      "05000000000006000100000000000000"
			      "00402046484706000000000000000000"
			      "9ab46e3b646c267f4642133af241d595"
			      "6170702e646268656c6c6f0000000000"
			      "00000000008000000100000000000000"
			      "00402046484706000100000000000000"
			      "b0501cd730abfb09b0501cd730abfb09";

Test(journal_damage, worked_example_of_the_documentation) {
	struct ms_env *env = frozen(1);
	struct ms_journal *j = rig_open(env, NULL);
	uint8_t got[4096];
	char hex[1024];
	uint64_t seq;
	struct iovec one = {(void *)"hello", 5};
	OK(ms_journal_append_sync(j, "app.db", 6, 0, &one, 1, &seq, &err));
	rig_close(j);
	size_t n = rig_load(env, FILE1, got, sizeof got);
	cr_assert_eq(n, 176);
	for (size_t i = 0; i < n; i++)
		snprintf(hex + 2 * i, 3, "%02x", got[i]);
	cr_assert_str_eq(hex, example);
	ms_env_sim_free(env);
}

Test(journal_damage, file_made_by_hand_is_read) {
	struct ms_env *env = ms_env_sim_new(2);
	uint8_t file[4096];
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	size_t n = make_header(file, 70, 5);
	n = make_entry(file, n, 70, 70, 11, 69, 0, "main", "first payload", 13);
	n = make_entry(file, n, 70, 71, 12, 70, 0, "", "", 0);
	OK(env->ops->mkdir(env, DIR_, 0700, &err));
	rig_store(env, "/j/journal-0000000000000046.msj", file, n);
	struct ms_journal *j = rig_open(env, NULL);
	OK(ms_journal_reader_new(j, NULL, 0, 70, &r, &err));
	OK(ms_journal_reader_next(r, &e, &err));
	cr_assert(e.seq == 70 && e.time_us == 11 && e.len == 13 && !memcmp(e.payload, "first payload", 13) &&
		  !strcmp(e.db, "main"));
	OK(ms_journal_reader_next(r, &e, &err));
	cr_assert(e.seq == 71 && e.time_us == 12 && e.len == 0 && e.db_len == 0);
	ms_journal_reader_free(r);
	cr_assert_eq(ms_journal_next_seq(j), 72);
	rig_close(j);
	ms_env_sim_free(env);
}

/* A journal of N entries and where each begins; at[N + 1] is the end of the last. */
static size_t build(struct ms_env *env, uint8_t *file, size_t cap, size_t at[N + 2], bool clean, unsigned group) {
	struct ms_journal *j = rig_open(env, NULL);
	for (uint64_t id = 1; id <= N; id++) {
		at[id] = (size_t)rig_stats(j).total_bytes;
		rig_put(j, id);
		if (id % group == 0)
			OK(ms_journal_sync(j, id, &err));
	}
	at[N + 1] = (size_t)rig_stats(j).total_bytes;
	OK(ms_journal_sync(j, N, &err));
	if (clean)
		OK(ms_journal_close(j, &err));
	size_t n = rig_load(env, FILE1, file, cap);
	cr_assert_eq(n, at[N + 1] + (clean ? 48 : 0));
	ms_journal_free(j);
	return n;
}

/* Cut at every offset; what is missing is missing, or zeros, or garbage. Three opens each. */
Test(journal_damage, wal02_torn_tail_at_every_offset, .timeout = 300) {
	struct ms_env *env = ms_env_sim_new(3);
	uint8_t file[8192], torn[8192];
	size_t at[N + 2];
	size_t n = build(env, file, sizeof file, at, false, 4);
	for (size_t cut = 0; cut < n; cut++) {
		for (int filler = 0; filler < 3; filler++) {
			memcpy(torn, file, cut);
			if (filler == 1)
				memset(torn + cut, 0, n - cut);
			else if (filler == 2)
				fill_random(torn + cut, n - cut, cut);
			/* A cut header with bytes behind it is no torn creation, but damage. */
			if (filler && cut < 64)
				continue;
			rig_empty(env);
			rig_store(env, FILE1, torn, filler ? n : cut);
			uint64_t whole = 0;
			while (whole < N && at[whole + 2] <= cut)
				whole++;
			if (filler == 1 && whole < N) /* the bytes that were zeros before are not missing */
				while (whole < N && !memcmp(torn + cut, file + cut, at[whole + 2] - cut))
					whole++;
			size_t end = cut < 64 ? 0 : at[whole + 1];
			struct ms_journal *j = rig_open(env, NULL);
			struct ms_journal_stats st = rig_stats(j);
			cr_assert_eq(st.torn_bytes, (filler ? n : cut) - end, "cut %zu filler %d: torn %llu", cut, filler,
				     (unsigned long long)st.torn_bytes);
			cr_assert(st.corrupt_entries == 0 && st.quarantined_files == 0 && st.lost_bytes == 0);
			cr_assert_eq(st.recovered_entries, whole);
			cr_assert_eq(st.next_seq, whole + 1);
			rig_expect(j, 1, whole);
			for (uint64_t id = whole + 1; id <= whole + 3; id++)
				rig_put(j, id);
			OK(ms_journal_sync(j, whole + 3, &err));
			rig_expect(j, 1, whole + 3);
			rig_close(j);
			j = rig_open(env, NULL);
			cr_assert_eq(rig_stats(j).torn_bytes, 0);
			cr_assert_eq(rig_stats(j).corrupt_entries, 0);
			rig_expect(j, 1, whole + 3);
			rig_close(j);
		}
	}
	ms_env_sim_free(env);
}

/* Reads everything; returns how many entries are missing. Each that is returned is right; each hole is reported, but the one at
 * the end. */
static uint64_t missing(struct ms_journal *j, uint64_t last, uint64_t *ret_id) {
	struct ms_journal_reader *r = NULL;
	struct ms_journal_entry e;
	struct ms_err err2 = MS_ERR_INIT;
	uint64_t due = 1, gone = 0;
	bool told = false;
	OK(ms_journal_reader_new(j, NULL, 0, 1, &r, &err));
	for (;;) {
		enum ms_code rc = ms_journal_reader_next(r, &e, &err2);
		if (rc == MS_EGAP) {
			char want[32];
			snprintf(want, sizeof want, "entries %llu to ", (unsigned long long)due);
			cr_assert(strstr(err2.msg, want), "%s", err2.msg);
			told = true;
			continue;
		}
		if (rc == MS_ENOTFOUND)
			break;
		cr_assert_eq(rc, MS_OK, "%s", err2.msg);
		cr_assert_geq(e.seq, due);
		for (; due < e.seq; due++) {
			cr_assert(told, "entry %llu is missing and nobody says so", (unsigned long long)due);
			*ret_id = due;
			gone++;
		}
		rig_same(&e, e.seq);
		due = e.seq + 1;
		told = false;
	}
	for (; due <= last; due++) {
		*ret_id = due;
		gone++;
	}
	ms_journal_reader_free(r);
	return gone;
}

/* Every bit of a file that was closed cleanly: noticed, nothing but the entry it lies in lost. */
Test(journal_damage, wal03_every_bit_flip_is_found_and_costs_one_entry, .timeout = 300) {
	struct ms_env *env = ms_env_sim_new(4);
	uint8_t file[8192];
	size_t at[N + 2];
	size_t n = build(env, file, sizeof file, at, true, 100);
	for (size_t bit = 0; bit < n * 8; bit++) {
		size_t off = bit / 8;
		uint64_t hit = 0, id = 0;
		file[off] ^= (uint8_t)(1u << bit % 8);
		rig_empty(env);
		rig_store(env, FILE1, file, n);
		file[off] ^= (uint8_t)(1u << bit % 8);
		while (hit < N && off >= at[hit + 1])
			hit++; /* entry, 0: the file's header */
		bool mark = off >= at[N + 1];
		struct ms_journal *j = rig_open(env, NULL);
		struct ms_journal_stats st = rig_stats(j);
		uint64_t gone = missing(j, N, &id);
		if (mark) {
			cr_assert(st.torn_bytes == 48 && gone == 0, "bit %zu of the mark at %zu: torn %llu", bit, at[N + 1],
				  (unsigned long long)st.torn_bytes);
		} else {
			cr_assert_eq(st.quarantined_files, 1, "bit %zu: not noticed", bit);
			cr_assert_eq(gone, hit ? 1 : 0, "bit %zu: %llu entries lost", bit, (unsigned long long)gone);
			cr_assert_eq(st.corrupt_entries, gone);
			if (hit)
				cr_assert(id == hit && st.lost_bytes == at[hit + 1] - at[hit]);
			cr_assert_eq(st.torn_bytes, 0);
		}
		/* Life goes on, with sequences that were not used before. */
		cr_assert_eq(st.next_seq, N + 1);
		rig_put(j, N + 1);
		rig_close(j);
		j = rig_open(env, NULL);
		cr_assert_eq(missing(j, N + 1, &id), gone);
		rig_close(j);
	}
	ms_env_sim_free(env);
}

/* The same in a file that is not the newest, after a crash (no mark anywhere). */
Test(journal_damage, wal03_bit_flips_in_a_sealed_file, .timeout = 300) {
	struct ms_env *env = ms_env_sim_new(5);
	uint8_t file[8192], file2[8192];
	size_t at[N + 2], n2;
	char second[300];
	size_t n = build(env, file, sizeof file, at, false, 100);
	struct ms_journal *j = rig_open(env, NULL);
	OK(ms_journal_rotate(j, &err));
	rig_put(j, N + 1);
	OK(ms_journal_sync(j, N + 1, &err));
	snprintf(second, sizeof second, DIR_ "/%.200s", rig_stats(j).current_file);
	n2 = rig_load(env, second, file2, sizeof file2);
	ms_journal_free(j);
	for (size_t bit = 0; bit < n * 8; bit++) {
		size_t off = bit / 8;
		uint64_t hit = 0, id = 0;
		file[off] ^= (uint8_t)(1u << bit % 8);
		rig_empty(env);
		rig_store(env, FILE1, file, n);
		rig_store(env, second, file2, n2);
		file[off] ^= (uint8_t)(1u << bit % 8);
		while (hit < N && off >= at[hit + 1])
			hit++;
		j = rig_open(env, NULL);
		cr_assert_eq(rig_stats(j).quarantined_files, 1, "bit %zu", bit);
		cr_assert_eq(rig_stats(j).corrupt_entries, hit ? 1 : 0, "bit %zu", bit);
		cr_assert_eq(missing(j, N + 1, &id), hit ? 1 : 0, "bit %zu", bit);
		cr_assert(!hit || id == hit);
		rig_close(j);
	}
	ms_env_sim_free(env);
}

/* What the seed's log could not survive: a wrong length in the middle, a whole stretch of nonsense, a file that is gone. */
Test(journal_damage, wal03_bad_length_stretch_and_missing_file) {
	struct ms_env *env = ms_env_sim_new(6);
	uint8_t file[8192];
	size_t at[N + 2];
	uint64_t id;
	size_t n = build(env, file, sizeof file, at, true, 1);
	for (uint32_t len = 0; len < 200; len += 7) {
		uint8_t keep[4];
		memcpy(keep, file + at[4], 4);
		le(file + at[4], 4, len == 196 ? 0xffffffff : len);
		rig_empty(env);
		rig_store(env, FILE1, file, n);
		struct ms_journal *j = rig_open(env, NULL);
		bool same = !memcmp(keep, file + at[4], 4);
		cr_assert_eq(missing(j, N, &id), same ? 0 : 1);
		cr_assert_eq(rig_stats(j).corrupt_entries, same ? 0 : 1);
		memcpy(file + at[4], keep, 4);
		rig_close(j);
	}
	fill_random(file + at[3] + 5, at[6] - at[3], 77);
	rig_empty(env);
	rig_store(env, FILE1, file, n);
	struct ms_journal *j = rig_open(env, NULL);
	cr_assert_eq(missing(j, N, &id), 4); /* 3, 4, 5 and the one the stretch ends in */
	cr_assert_eq(rig_stats(j).corrupt_entries, 4);
	cr_assert_eq(rig_stats(j).lost_bytes, at[7] - at[3]);
	rig_put(j, N + 1);
	OK(ms_journal_rotate(j, &err));
	char gone[400];
	snprintf(gone, sizeof gone, DIR_ "/journal-%016x.msj", N + 1);
	rig_put(j, N + 2);
	rig_close(j);
	OK(env->ops->unlink(env, gone, &err));
	j = rig_open(env, NULL);
	cr_assert_eq(rig_stats(j).corrupt_entries, 5);
	cr_assert_eq(missing(j, N + 2, &id), 5);
	cr_assert_eq(id, N + 1);
	rig_close(j);
	ms_env_sim_free(env);
}

Test(journal_damage, wal04_corrupt_file_is_set_aside_and_kept) {
	struct ms_env *env = ms_env_sim_new(7);
	uint8_t file[8192], now[8192];
	size_t at[N + 2];
	uint64_t files, bytes, id;
	size_t n = build(env, file, sizeof file, at, true, 1);
	file[at[5] + 60] ^= 4;
	rig_store(env, FILE1, file, n);
	struct ms_journal *j = rig_open(env, NULL);
	cr_assert(!rig_exists(env, FILE1) && rig_exists(env, FILE1 ".quarantine"));
	cr_assert_eq(rig_load(env, FILE1 ".quarantine", now, sizeof now), n);
	cr_assert(!memcmp(now, file, n));
	cr_assert_str_eq(rig_stats(j).current_file, "journal-000000000000000a.msj");
	cr_assert_eq(missing(j, N, &id), 1);
	rig_put(j, N + 1);
	rig_close(j);
	j = rig_open(env, NULL); /* still read, still reported */
	cr_assert_eq(missing(j, N + 1, &id), 1);
	cr_assert(rig_stats(j).quarantined_files == 1 && rig_stats(j).corrupt_entries == 1);
	OK(ms_journal_purge(j, N, &files, &bytes, &err));
	cr_assert_eq(files, 0);
	OK(ms_journal_purge(j, N + 1, &files, &bytes, &err));
	cr_assert(files == 1 && bytes == n);
	cr_assert(!rig_exists(env, FILE1 ".quarantine"));
	cr_assert_eq(rig_load(env, FILE1 ".quarantine.kept", now, sizeof now), n);
	cr_assert(!memcmp(now, file, n));
	rig_close(j);
	j = rig_open(env, NULL); /* and no part of the journal any more */
	cr_assert(rig_stats(j).first_seq == N + 1 && rig_stats(j).corrupt_entries == 0 && rig_stats(j).quarantined_files == 0);
	rig_expect(j, N + 1, N + 1);
	rig_close(j);
	ms_env_sim_free(env);
}

/* Damage while the journal is open: found by the reader when it gets there, entries around it intact. */
Test(journal_damage, wal03_reader_meets_damage_at_run_time) {
	for (uint64_t bad = 1; bad <= N; bad++)
		for (size_t where = 0; where < 60; where += 3) {
			struct ms_env *env = ms_env_sim_new(bad);
			struct ms_journal *j = rig_open(env, NULL);
			size_t at[N + 2];
			uint8_t byte;
			uint64_t id;
			struct ms_file *f;
			size_t got;
			for (id = 1; id <= N; id++) {
				at[id] = (size_t)rig_stats(j).total_bytes;
				rig_put(j, id);
			}
			at[N + 1] = (size_t)rig_stats(j).total_bytes;
			OK(ms_journal_sync(j, N, &err));
			if (at[bad] + where < at[bad + 1]) {
				OK(env->ops->open(env, FILE1, MS_O_RDWR, 0, &f, &err));
				OK(env->ops->pread(f, &byte, 1, (int64_t)(at[bad] + where), &got, &err));
				byte ^= 0x10;
				OK(env->ops->pwrite(f, &byte, 1, (int64_t)(at[bad] + where), &err));
				env->ops->close(f);
				cr_assert_eq(missing(j, N, &id), 1);
				cr_assert_eq(id, bad);
			}
			ms_journal_free(j);
			ms_env_sim_free(env);
		}
}

Test(journal_damage, newer_version_is_refused) {
	struct ms_env *env = ms_env_sim_new(8);
	uint8_t file[64];
	struct ms_journal_config cfg = {0};
	struct ms_journal *j;
	make_header(file, 1, 0);
	le(file + 4, 2, 2);
	le(file + 56, 8, crc64(0, file, 56));
	OK(env->ops->mkdir(env, DIR_, 0700, &err));
	rig_store(env, FILE1, file, 64);
	FAILS(MS_EUNSUPPORTED, ms_journal_open(env, DIR_, &cfg, &j, &err));
	make_header(file, 1, 0);
	le(file + 8, 8, 1);
	le(file + 56, 8, crc64(0, file, 56));
	rig_store(env, FILE1, file, 64);
	FAILS(MS_EUNSUPPORTED, ms_journal_open(env, DIR_, &cfg, &j, &err));
	ms_env_sim_free(env);
}
