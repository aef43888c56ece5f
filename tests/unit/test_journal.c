/* Seed `wal`, checks 5 to 8 and 10 to 14, and the reader. Real files where threads or large payloads matter, else the simulator.
 */
#include <pthread.h>
#include <unistd.h>

#include "support/tmpdir.h"
#include "unit/journal_rig.h"

static struct ms_env *real(void) {
	struct ms_env *env;
	struct ms_err err = MS_ERR_INIT;
	env = ms_env_uv_new(NULL, &err);
	cr_assert(env, "%s", err.msg);
	return env;
}

/* ---- 5: rotation ---- */

static int64_t frozen_now(struct ms_env *env) {
	(void)env;
	return 1767225600000000;
}

Test(journal, wal05_rotation_by_size_names_unique_under_a_frozen_clock) {
	struct ms_env *env = ms_env_sim_new(1);
	struct ms_env_ops ops = *env->ops;
	const struct ms_env_ops *was = env->ops;
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 600};
	ops.now_us = frozen_now;
	env->ops = &ops;
	uint64_t id = 1, restarts = 0;
	for (; restarts < 5; restarts++) {
		struct ms_journal *j = rig_open(env, &cfg);
		uint64_t before = rig_stats(j).rotations, dirs = ms_env_sim_ops(env, MS_SIM_FSYNC_DIR);
		for (int i = 0; i < 40; i++)
			rig_put(j, id++);
		OK(ms_journal_sync(j, id - 1, &err));
		cr_assert_geq(rig_stats(j).rotations, before + 3);
		cr_assert_geq(ms_env_sim_ops(env, MS_SIM_FSYNC_DIR), dirs + 3);
		rig_expect(j, 1, id - 1);
		rig_close(j);
	}
	struct ms_journal *j = rig_open(env, &cfg);
	rig_expect(j, 1, id - 1);
	cr_assert_geq(rig_stats(j).files, 15);
	cr_assert_eq(rig_stats(j).corrupt_entries, 0);
	rig_close(j);
	env->ops = was;
	ms_env_sim_free(env);
}

Test(journal, wal05_rotation_by_age) {
	struct ms_env *env = ms_env_sim_new(2);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_age_us = 60000000};
	struct ms_journal *j = rig_open(env, &cfg);
	rig_put(j, 1);
	ms_env_sim_shift_wall(env, 59000000);
	rig_put(j, 2);
	cr_assert_eq(rig_stats(j).rotations, 0);
	ms_env_sim_shift_wall(env, 1000000);
	rig_put(j, 3);
	cr_assert_eq(rig_stats(j).rotations, 1);
	ms_env_sim_shift_wall(env, -600000000); /* a clock that steps back rotates nothing */
	rig_put(j, 4);
	cr_assert_eq(rig_stats(j).rotations, 1);
	OK(ms_journal_sync(j, 4, &err));
	OK(ms_journal_rotate(j, &err));
	OK(ms_journal_rotate(j, &err)); /* an empty file is not rotated */
	cr_assert_eq(rig_stats(j).rotations, 2);
	rig_expect(j, 1, 4);
	rig_close(j);
	ms_env_sim_free(env);
}

/* A new file survives a crash together with its first durable entry: its directory entry was synced before. */
Test(journal, wal05_new_file_is_in_the_directory_before_its_first_entry_counts) {
	for (uint64_t seed = 0; seed < 50; seed++) {
		struct ms_env *env = ms_env_sim_new(seed);
		struct ms_journal *j = rig_open(env, NULL);
		rig_put(j, 1);
		OK(ms_journal_rotate(j, &err));
		rig_put(j, 2);
		OK(ms_journal_sync(j, 2, &err));
		ms_env_sim_crash(env);
		ms_journal_free(j);
		ms_env_sim_restart(env);
		j = rig_open(env, NULL);
		rig_expect(j, 1, 2);
		rig_close(j);
		ms_env_sim_free(env);
	}
}

/* ---- 6 and 7: dropped entries, hooks ---- */

struct seen {
	uint64_t seq[4096];
	unsigned n;
	uint64_t durable_at_call;
	struct ms_journal *j;
	bool too_early;
};
static void on_entry(void *arg, const struct ms_journal_entry *e) {
	struct seen *s = arg;
	s->too_early |= ms_journal_durable_seq(s->j) < e->seq;
	cr_assert(s->n < 4096);
	s->seq[s->n++] = e->seq;
	cr_assert_eq(e->len, rig_len(e->seq));
	cr_assert(!memcmp(e->payload, rig_payload(e->seq, e->len), e->len));
	cr_assert_str_eq(e->db, rig_db(e->seq));
}

Test(journal, wal06_full_buffer_drops_and_never_replicates_the_dropped) {
	struct ms_env *env = ms_env_sim_new(3);
	struct ms_journal_config cfg = {.mode = MS_SYNC_ASYNC, .buffer_size = 10, .sync_interval_us = 1000000};
	struct ms_journal *j = rig_open(env, &cfg);
	static struct seen s;
	uint64_t seq;
	s.j = j;
	ms_journal_set_entry_hook(j, on_entry, &s);
	for (int round = 0; round < 3; round++) {
		for (uint64_t i = 1; i <= 10; i++)
			rig_put(j, (uint64_t)round * 10 + i);
		for (int i = 0; i < 5; i++)
			FAILS(MS_EDROPPED, rig_try(j, "a", 0, 999, 20, &seq, &err));
		cr_assert_eq(rig_stats(j).dropped, (uint64_t)(round + 1) * 5);
		cr_assert_eq(s.n, (unsigned)round * 10);
		OK(ms_journal_sync(j, UINT64_MAX, &err));
	}
	cr_assert_eq(s.n, 30);
	for (unsigned i = 0; i < 30; i++)
		cr_assert_eq(s.seq[i], i + 1);
	cr_assert(!s.too_early);
	rig_expect(j, 1, 30);
	rig_close(j);
	ms_env_sim_free(env);
}

/* The byte bound of ASYNC: entries that together pass 8 MiB are not taken, whatever buffer_size says. */
Test(journal, wal06_async_buffer_is_bounded_in_bytes) {
	struct ms_env *env = ms_env_sim_new(4);
	struct ms_journal_config cfg = {.mode = MS_SYNC_ASYNC, .sync_interval_us = 1000000};
	struct ms_journal *j = rig_open(env, &cfg);
	uint64_t seq, n = 0;
	struct ms_err why = MS_ERR_INIT;
	enum ms_code rc;
	while ((rc = rig_try(j, "a", 0, n + 1, 1 << 20, &seq, &why)) == MS_OK)
		n++;
	cr_assert_eq(rc, MS_EDROPPED);
	cr_assert_eq(n, 7); /* eight with their headers are more than 8 MiB */
	OK(ms_journal_sync(j, UINT64_MAX, &err));
	OK(rig_try(j, "a", 0, n + 1, 1 << 20, &seq, &err));
	cr_assert_eq(seq, n + 1);
	rig_close(j);
	ms_env_sim_free(env);
}

struct writer {
	struct ms_journal *j;
	uint64_t *taken; /* sequence -> 1 */
	unsigned n, tag;
};
static void *write_many(void *arg) {
	struct writer *w = arg;
	for (unsigned i = 0; i < w->n; i++) {
		uint8_t p[200];
		uint64_t seq = 0;
		struct ms_err why = MS_ERR_INIT;
		memset(p, (int)w->tag, sizeof p);
		ms_put_le64(p, i);
		struct iovec iov = {p, 8 + (i * 13 + w->tag) % 190};
		char db[8];
		snprintf(db, sizeof db, "db%u", w->tag);
		enum ms_code rc = ms_journal_append(w->j, db, strlen(db), 0, &iov, 1, &seq, &why);
		if (rc == MS_OK && (i % 3 == 0 || i + 1 == w->n)) { /* the last one too: nobody else would, and a reader waits */
			rc = ms_journal_sync(w->j, seq, &why);
			if (rc == MS_OK && ms_journal_durable_seq(w->j) < seq)
				rc = MS_EIO;
		}
		if (rc != MS_OK)
			return (void *)"append or sync failed";
		w->taken[seq]++;
	}
	return NULL;
}

struct order {
	uint64_t last, count;
	bool wrong;
	struct ms_journal *j;
};
static void on_ordered(void *arg, const struct ms_journal_entry *e) {
	struct order *o = arg;
	o->wrong |= e->seq != o->last + 1 || ms_journal_durable_seq(o->j) < e->seq;
	o->last = e->seq;
	o->count++;
}

Test(journal, wal07_group_commit_of_threads_hook_order_is_file_order) {
	enum { THREADS = 6, EACH = 600 };
	struct ms_env *env = real();
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 60000};
	struct ms_journal *j;
	pthread_t t[THREADS];
	struct writer w[THREADS];
	uint64_t *taken = calloc(THREADS * EACH + 2, sizeof *taken), files, bytes;
	struct order o = {0};
	void *why;
	OK(ms_journal_open(env, ms_test_tmpdir(), &cfg, &j, &err));
	o.j = j;
	ms_journal_set_entry_hook(j, on_ordered, &o);
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct writer){j, taken, EACH, i};
		cr_assert(!pthread_create(&t[i], NULL, write_many, &w[i]));
	}
	/* A reader of one database and a purge run beside them. */
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	struct ms_err re = MS_ERR_INIT;
	uint64_t next = 0;
	OK(ms_journal_reader_new(j, "db3", 3, 1, &r, &err));
	while (next < EACH) {
		enum ms_code rc = ms_journal_reader_next(r, &e, &re);
		if (rc == MS_ENOTFOUND) {
			usleep(200);
			continue;
		}
		cr_assert_eq(rc, MS_OK, "%s", re.msg);
		cr_assert_eq(ms_get_le64(e.payload), next);
		next++;
		if (next == EACH / 2)
			OK(ms_journal_purge(j, e.seq, &files, &bytes, &err));
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(t[i], &why);
		cr_assert(!why, "%s", (char *)why);
	}
	ms_journal_reader_free(r);
	OK(ms_journal_close(j, &err));
	for (unsigned i = 1; i <= THREADS * EACH; i++)
		cr_assert_eq(taken[i], 1, "sequence %u given out %llu times", i, (unsigned long long)taken[i]);
	cr_assert(o.count == THREADS * EACH && !o.wrong);
	struct ms_journal_stats st = rig_stats(j);
	cr_assert_eq(st.entries, THREADS * EACH);
	cr_assert_lt(st.syncs, THREADS * EACH / 3, "%llu syncs: no group commit", (unsigned long long)st.syncs);
	ms_journal_free(j);
	ms_env_uv_free(env);
	free(taken);
}

Test(journal, wal07_sequence_grows_across_restarts) {
	struct ms_env *env = ms_env_sim_new(5);
	uint64_t id = 1;
	for (int round = 0; round < 12; round++) {
		struct ms_journal *j = rig_open(env, NULL);
		cr_assert_eq(ms_journal_next_seq(j), id);
		cr_assert_eq(ms_journal_durable_seq(j), id - 1);
		for (int i = 0; i < round % 3; i++)
			rig_put(j, id++);
		OK(ms_journal_sync(j, UINT64_MAX, &err));
		if (round % 4 == 0)
			OK(ms_journal_rotate(j, &err));
		if (round % 2) {
			rig_close(j);
		} else {
			ms_env_sim_crash(env);
			ms_journal_free(j);
			ms_env_sim_restart(env);
		}
		ms_env_sim_shift_wall(env, -3600000000ll); /* the clock goes back an hour at each start */
	}
	struct ms_journal *j = rig_open(env, NULL);
	rig_expect(j, 1, id - 1);
	uint64_t files, bytes;
	OK(ms_journal_purge_all(j, &files, &bytes, &err));
	rig_close(j);
	j = rig_open(env, NULL);
	cr_assert_eq(ms_journal_next_seq(j), id);
	rig_put(j, id);
	rig_close(j);
	ms_env_sim_free(env);
}

/* ---- 8: purge ---- */

Test(journal, wal08_purge_stops_at_the_slowest_cursor_never_by_age) {
	struct ms_env *env = ms_env_sim_new(6);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 400};
	struct ms_journal *j = rig_open(env, &cfg);
	uint64_t files, bytes;
	for (uint64_t id = 1; id <= 60; id++)
		rig_put(j, id);
	OK(ms_journal_sync(j, 60, &err));
	ms_env_sim_shift_wall(env, 365ll * 86400 * 1000000);
	uint64_t had = rig_stats(j).files, total = rig_stats(j).total_bytes;
	OK(ms_journal_purge(j, 1, &files, &bytes, &err));
	cr_assert(files == 0 && rig_stats(j).files == had);
	for (uint64_t keep = 1; keep <= 60; keep += 7) {
		OK(ms_journal_purge(j, keep, &files, &bytes, &err));
		struct ms_journal_stats st = rig_stats(j);
		had -= files;
		total -= bytes;
		cr_assert(st.files == had && st.total_bytes == total);
		cr_assert_leq(st.first_seq, keep);
		rig_expect(j, keep, 60);
	}
	OK(ms_journal_purge(j, UINT64_MAX, &files, &bytes, &err)); /* the active file stays */
	cr_assert_eq(rig_stats(j).files, 1);
	/* Who comes too late is told which entries he misses, and may go on. */
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	struct ms_err why = MS_ERR_INIT;
	uint64_t first = rig_stats(j).first_seq;
	char want[64];
	OK(ms_journal_reader_new(j, NULL, 0, 3, &r, &err));
	cr_assert_eq(ms_journal_reader_next(r, &e, &why), MS_EGAP);
	snprintf(want, sizeof want, "entries 3 to %llu have been purged", (unsigned long long)first - 1);
	cr_assert(strstr(why.msg, want), "%s", why.msg);
	OK(ms_journal_reader_next(r, &e, &err));
	cr_assert_eq(e.seq, first);
	ms_journal_reader_free(r);
	rig_close(j);
	ms_env_sim_free(env);
}

Test(journal, wal08_at_the_disk_cap_appends_fail_until_a_purge) {
	struct ms_env *env = ms_env_sim_new(7);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_bytes = 4096};
	struct ms_journal *j = rig_open(env, &cfg);
	uint64_t id = 1, seq, files, bytes;
	for (int round = 0; round < 4; round++) {
		struct ms_err why = MS_ERR_INIT;
		enum ms_code rc;
		while ((rc = rig_try(j, rig_db(id), 0, id, rig_len(id), &seq, &why)) == MS_OK)
			id++;
		cr_assert_eq(rc, MS_ENOSPC);
		cr_assert(strstr(why.msg, "4096"), "%s", why.msg);
		cr_assert_leq(rig_stats(j).total_bytes, 4096);
		OK(ms_journal_sync(j, UINT64_MAX, &err));
		uint64_t from = rig_stats(j).first_seq;
		rig_expect(j, from, id - 1);
		FAILS(MS_ENOSPC, rig_try(j, "a", 0, 1, 40, &seq, &err));
		OK(ms_journal_purge(j, from + (round % 2 ? 20 : 1000), &files, &bytes, &err));
		cr_assert_geq(files, 1);
		rig_put(j, id++);
	}
	rig_close(j);
	ms_env_sim_free(env);
}

/* ---- 10 ---- */

Test(journal, wal10_append_after_close_fails_and_close_twice_is_safe) {
	struct ms_env *env = ms_env_sim_new(8);
	struct ms_journal *j = rig_open(env, NULL);
	uint64_t seq, n, bytes;
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	rig_put(j, 1);
	rig_put(j, 2);
	OK(ms_journal_reader_new(j, NULL, 0, 1, &r, &err));
	OK(ms_journal_close(j, &err));
	OK(ms_journal_close(j, &err));
	FAILS(MS_ECLOSED, rig_try(j, "a", 0, 3, 5, &seq, &err));
	FAILS(MS_ECLOSED, ms_journal_rotate(j, &err));
	cr_assert_eq(ms_journal_durable_seq(j), 2);
	OK(ms_journal_sync(j, 2, &err));
	OK(ms_journal_reader_next(r, &e, &err)); /* what is durable stays readable */
	rig_same(&e, 1);
	ms_journal_kick(j);
	ms_journal_reader_free(r);
	OK(ms_journal_purge_all(j, &n, &bytes, &err));
	cr_assert_eq(n, 1);
	ms_journal_free(j);
	ms_journal_free(NULL);
	j = rig_open(env, NULL);
	cr_assert(ms_journal_next_seq(j) == 3 && rig_stats(j).first_seq == 3);
	rig_close(j);
	ms_env_sim_free(env);
}

/* ---- 11: envelopes, caps, continuation ---- */

Test(journal, wal11_name_lengths_and_unnamed_entries) {
	struct ms_env *env = ms_env_sim_new(9);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .default_db = "house"};
	struct ms_journal *j = rig_open(env, &cfg);
	static const size_t lens[] = {0, 1, 255, 65535};
	char *name = malloc(65537);
	uint64_t seq;
	struct iovec iov = {(void *)"payload", 7};
	memset(name, 'n', 65536);
	for (size_t i = 0; i < 4; i++)
		OK(ms_journal_append(j, name, lens[i], 0, &iov, 1, &seq, &err));
	FAILS(MS_ETOOBIG, ms_journal_append(j, name, 65536, 0, &iov, 1, &seq, &err));
	OK(ms_journal_append(j, NULL, 0, MS_ENTRY_UNNAMED, &iov, 1, &seq, &err));
	OK(ms_journal_append(j, "house", 5, 0, &iov, 1, &seq, &err));
	FAILS(MS_EINVAL, ms_journal_append(j, "house", 5, MS_ENTRY_UNNAMED, &iov, 1, &seq, &err));
	FAILS(MS_EINVAL, ms_journal_append(j, "house", 5, MS_ENTRY_FOLLOWS, &iov, 1, &seq, &err));
	OK(ms_journal_sync(j, UINT64_MAX, &err));
	for (int pass = 0; pass < 2; pass++) {
		struct ms_journal_reader *r;
		struct ms_journal_entry e;
		for (size_t i = 0; i < 4; i++) { /* each by its name alone */
			OK(ms_journal_reader_new(j, name, lens[i], 1, &r, &err));
			OK(ms_journal_reader_next(r, &e, &err));
			cr_assert(e.seq == i + 1 && e.db_len == lens[i] && !memcmp(e.db, name, lens[i]) && e.db[lens[i]] == 0);
			cr_assert(e.len == 7 && !memcmp(e.payload, "payload", 7));
			FAILS(MS_ENOTFOUND, ms_journal_reader_next(r, &e, &err));
			ms_journal_reader_free(r);
		}
		OK(ms_journal_reader_new(j, "house", 5, 1, &r, &err)); /* named so and unnamed */
		OK(ms_journal_reader_next(r, &e, &err));
		cr_assert(e.seq == 5 && e.flags == MS_ENTRY_UNNAMED && !strcmp(e.db, "house") && e.len == 7 &&
			  !memcmp(e.payload, "payload", 7));
		OK(ms_journal_reader_next(r, &e, &err));
		cr_assert(e.seq == 6 && e.flags == 0);
		ms_journal_reader_free(r);
		OK(ms_journal_reader_new(j, NULL, 0, 1, &r, &err));
		for (uint64_t i = 1; i <= 6; i++) {
			OK(ms_journal_reader_next(r, &e, &err));
			cr_assert(e.seq == i && e.db_len == (i <= 4 ? lens[i - 1] : 5));
		}
		ms_journal_reader_free(r);
		rig_close(j);
		j = rig_open(env, &cfg);
	}
	rig_close(j);
	free(name);
	ms_env_sim_free(env);
}

Test(journal, wal11_payload_at_the_cap_and_one_over) {
	struct ms_env *env = real();
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC};
	const char *dir = ms_test_tmpdir();
	struct ms_journal *j;
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	uint64_t seq;
	size_t cap = 100u << 20;
	uint8_t *p = malloc(cap + 1);
	fill_random(p, cap + 1, 5);
	OK(ms_journal_open(env, dir, &cfg, &j, &err));
	struct iovec iov[3] = {{p, 1000}, {p + 1000, cap - 1000}, {p + cap, 1}};
	OK(ms_journal_append(j, "big", 3, 0, iov, 2, &seq, &err));
	FAILS(MS_ETOOBIG, ms_journal_append(j, "big", 3, 0, iov, 3, &seq, &err));
	OK(ms_journal_append(j, "big", 3, 0, iov, 1, &seq, &err));
	cr_assert_eq(seq, 2);
	OK(ms_journal_sync(j, 2, &err));
	for (int pass = 0; pass < 2; pass++) {
		OK(ms_journal_reader_new(j, "big", 3, 1, &r, &err));
		OK(ms_journal_reader_next(r, &e, &err));
		cr_assert(e.len == cap && !memcmp(e.payload, p, cap));
		OK(ms_journal_reader_next(r, &e, &err));
		cr_assert(e.len == 1000 && !memcmp(e.payload, p, 1000));
		ms_journal_reader_free(r);
		rig_close(j);
		OK(ms_journal_open(env, dir, &cfg, &j, &err));
	}
	rig_close(j);
	cfg.payload_max = 50;
	OK(ms_journal_open(env, dir, &cfg, &j, &err));
	iov[0].iov_len = 51;
	FAILS(MS_ETOOBIG, ms_journal_append(j, "big", 3, 0, iov, 1, &seq, &err));
	iov[0].iov_len = 50;
	OK(ms_journal_append(j, "big", 3, 0, iov, 1, &seq, &err));
	rig_close(j);
	cfg.payload_max = cap + 1;
	FAILS(MS_EINVAL, ms_journal_open(env, dir, &cfg, &j, &err));
	ms_env_uv_free(env);
	free(p);
}

struct got {
	uint64_t seq[64];
	unsigned n, calls, stop_at;
	uint64_t last;
};
static enum ms_code take(void *arg, const struct ms_journal_entry *e, unsigned n, struct ms_err *err) {
	struct got *g = arg;
	g->calls++;
	for (unsigned i = 0; i < n; i++) {
		if (g->stop_at && g->n == g->stop_at)
			return ms_err_set(err, MS_ECANCELED, "enough");
		g->seq[g->n++] = e[i].seq;
		g->last = e[i].seq;
	}
	return MS_OK;
}
static void recovered(struct ms_env *env, const uint64_t *want, unsigned n) {
	struct got g = {0};
	struct ms_journal_recovery_stats st;
	OK(ms_journal_recover(env, DIR_, NULL, 0, 1, take, &g, &st, &err));
	cr_assert_eq(g.n, n, "%u entries", g.n);
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(g.seq[i], want[i]);
}
static void read_are(struct ms_journal *j, const uint64_t *want, unsigned n) {
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	OK(ms_journal_reader_new(j, NULL, 0, 1, &r, &err));
	for (unsigned i = 0; i < n; i++) {
		OK(ms_journal_reader_next(r, &e, &err));
		cr_assert_eq(e.seq, want[i], "%llu instead of %llu", (unsigned long long)e.seq, (unsigned long long)want[i]);
	}
	FAILS(MS_ENOTFOUND, ms_journal_reader_next(r, &e, &err));
	ms_journal_reader_free(r);
}

/* Database a in three entries, b between them; then the process dies in the middle of a's next transaction. */
Test(journal, wal11_transaction_of_several_entries_is_whole_or_absent) {
	struct ms_env *env = ms_env_sim_new(10);
	struct ms_journal *j = rig_open(env, NULL);
	uint64_t seq;
	const uint64_t all[] = {1, 2, 3, 4, 5, 6, 7}, whole[] = {1, 2, 3, 4, 6}, later[] = {1, 2, 3, 4, 6, 8, 9},
		       last[] = {1, 2, 3, 4, 6, 8, 9, 12};
	OK(rig_try(j, "a", MS_ENTRY_CONTINUES, 1, 9, &seq, &err));
	OK(rig_try(j, "b", 0, 2, 9, &seq, &err));
	OK(rig_try(j, "a", MS_ENTRY_CONTINUES, 3, 9, &seq, &err));
	OK(rig_try(j, "a", 0, 4, 9, &seq, &err));
	OK(rig_try(j, "a", MS_ENTRY_CONTINUES, 5, 9, &seq, &err));
	OK(rig_try(j, "b", 0, 6, 9, &seq, &err));
	OK(rig_try(j, "a", MS_ENTRY_CONTINUES, 7, 9, &seq, &err));
	OK(ms_journal_sync(j, seq, &err));
	read_are(j, all, 7); /* while the writer lives, what it has so far can be read */
	ms_env_sim_crash(env);
	ms_journal_free(j);
	ms_env_sim_restart(env);
	recovered(env, whole, 5);
	j = rig_open(env, NULL);
	cr_assert_eq(ms_journal_next_seq(j), 8); /* sequences that were durable are not used again */
	read_are(j, whole, 5);
	OK(rig_try(j, "a", MS_ENTRY_CONTINUES, 8, 9, &seq, &err)); /* another transaction, not the rest of the old one */
	OK(rig_try(j, "a", 0, 9, 9, &seq, &err));
	OK(ms_journal_sync(j, seq, &err));
	read_are(j, later, 7);
	rig_close(j);
	recovered(env, later, 7);
	j = rig_open(env, NULL);
	read_are(j, later, 7);
	OK(rig_try(j, "a", MS_ENTRY_CONTINUES, 10, 9, &seq, &err)); /* given up by its owner */
	OK(rig_try(j, "a", MS_ENTRY_BEGINS | MS_ENTRY_CONTINUES, 11, 9, &seq, &err));
	OK(rig_try(j, "a", MS_ENTRY_BEGINS, 12, 9, &seq, &err));
	rig_close(j);
	recovered(env, last, 8);
	ms_env_sim_free(env);
}

/* One of the entries of a transaction is damaged: none of them appears. Of a database that is not concerned, everything. */
Test(journal, wal11_transaction_with_a_damaged_entry_is_absent) {
	for (unsigned bad = 1; bad <= 6; bad++) {
		struct ms_env *env = ms_env_sim_new(11);
		struct ms_journal *j = rig_open(env, NULL);
		uint64_t seq, at[8];
		struct ms_file *f;
		uint8_t byte;
		size_t n;
		static const char *const dbs[] = {"", "a", "b", "a", "b", "a", "a"};
		static const uint16_t flags[] = {0, 1, 0, 1, 0, 0, 0};
		for (unsigned i = 1; i <= 6; i++) {
			at[i] = rig_stats(j).total_bytes;
			OK(rig_try(j, dbs[i], flags[i], i, 30, &seq, &err));
		}
		rig_close(j);
		OK(env->ops->open(env, FILE1, MS_O_RDWR, 0, &f, &err));
		OK(env->ops->pread(f, &byte, 1, (int64_t)at[bad] + 60, &n, &err)); /* in the payload: whose it is, is known */
		byte ^= 1;
		OK(env->ops->pwrite(f, &byte, 1, (int64_t)at[bad] + 60, &err));
		env->ops->close(f);
		uint64_t want[6], k = 0;
		for (unsigned i = 1; i <= 6; i++) {
			bool in_tx = i == 1 || i == 3 || i == 5;
			bool tx_bad = bad == 1 || bad == 3 || bad == 5;
			if (i != bad && !(in_tx && tx_bad))
				want[k++] = i;
		}
		recovered(env, want, (unsigned)k);
		ms_env_sim_free(env);
	}
}

/* ---- 12: stand-alone recovery ---- */

Test(journal, wal12_recovery_in_batches_skips_the_active_file_and_resumes) {
	struct ms_env *env = ms_env_sim_new(12);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 700};
	struct ms_journal *j = rig_open(env, &cfg);
	struct ms_journal_recovery_stats st;
	struct got g = {0};
	char active[256];
	for (uint64_t id = 1; id <= 50; id++)
		rig_put(j, id);
	OK(ms_journal_sync(j, 50, &err));
	uint64_t files = rig_stats(j).files;
	memcpy(active, rig_stats(j).current_file, sizeof active);
	uint64_t first_active = 0;
	sscanf(active, "journal-%llx", (unsigned long long *)&first_active);
	/* Beside a writer: all but what it writes to. */
	OK(ms_journal_recover(env, DIR_, active, 7, 1, take, &g, &st, &err));
	cr_assert(st.skipped_files == 1 && st.files == files - 1 && st.corrupt == 0);
	cr_assert(g.n == first_active - 1 && st.entries == g.n);
	cr_assert(st.batches == (g.n + 6) / 7 && g.calls == st.batches);
	rig_close(j);
	/* No limit: everything at once. */
	g = (struct got){0};
	OK(ms_journal_recover(env, DIR_, NULL, 0, 1, take, &g, &st, &err));
	cr_assert(g.n == 50 && g.calls == 1 && st.skipped_files == 0 && st.next_seq == 51);
	/* A callback that fails half-way through its second batch and is called again for the rest. */
	g = (struct got){.stop_at = 13};
	FAILS(MS_ECANCELED, ms_journal_recover(env, DIR_, NULL, 10, 1, take, &g, &st, &err));
	cr_assert(g.n == 13 && st.entries == 10 && st.next_seq == 11);
	g.stop_at = 0;
	OK(ms_journal_recover(env, DIR_, NULL, 10, g.last + 1, take, &g, &st, &err));
	cr_assert(g.n == 50 && st.entries == 37);
	for (unsigned i = 0; i < 50; i++)
		cr_assert_eq(g.seq[i], i + 1);
	/* It changes nothing. */
	cr_assert_eq(ms_env_sim_ops(env, MS_SIM_RENAME), 0);
	j = rig_open(env, &cfg);
	rig_expect(j, 1, 50);
	rig_close(j);
	struct ms_journal_recovery_stats none;
	FAILS(MS_ENOTFOUND, ms_journal_recover(env, "/nowhere", NULL, 0, 1, take, &g, &none, &err));
	ms_env_sim_free(env);
}

/* ---- 13: configuration ---- */

static unsigned hook_calls;
static uint64_t hook_durable;
static void on_sync(void *arg, uint64_t durable, const struct ms_err *err) {
	(void)arg;
	cr_assert(!err, "%s", err ? err->msg : "");
	hook_calls++;
	hook_durable = durable;
}

Test(journal, wal13_sync_modes) {
	static const struct {
		enum ms_sync_mode mode;
		enum ms_sim_op used, unused;
	} modes[] = {{MS_SYNC_FSYNC, MS_SIM_FSYNC, MS_SIM_FDATASYNC}, {MS_SYNC_FDATASYNC, MS_SIM_FDATASYNC, MS_SIM_FSYNC}};
	for (int i = 0; i < 2; i++) {
		struct ms_env *env = ms_env_sim_new(13);
		struct ms_journal_config cfg = {.mode = modes[i].mode};
		struct ms_journal *j = rig_open(env, &cfg);
		uint64_t used = ms_env_sim_ops(env, modes[i].used), unused = ms_env_sim_ops(env, modes[i].unused);
		for (uint64_t id = 1; id <= 5; id++) {
			rig_put(j, id);
			OK(ms_journal_sync(j, id, &err));
			cr_assert_eq(ms_env_sim_ops(env, modes[i].used), used + id);
		}
		cr_assert_eq(ms_env_sim_ops(env, modes[i].unused), unused);
		/* In the background: nothing is synced before the kick, then once for all. */
		ms_journal_set_hook(j, on_sync, NULL);
		hook_calls = 0;
		for (uint64_t id = 6; id <= 20; id++)
			rig_put(j, id);
		cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, 60000000), MS_SIM_IDLE);
		cr_assert_eq(ms_journal_durable_seq(j), 5);
		ms_journal_kick(j);
		ms_journal_kick(j);
		cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, 60000000), MS_SIM_IDLE);
		cr_assert_eq(ms_env_sim_ops(env, modes[i].used), used + 6);
		cr_assert(hook_calls >= 1 && hook_durable == 20);
		rig_close(j);
		ms_env_sim_free(env);
	}
}

static bool all_durable(void *arg) {
	return ms_journal_durable_seq(arg) + 1 == ms_journal_next_seq(arg);
}

Test(journal, wal13_async_syncs_by_interval_and_by_bytes) {
	struct ms_env *env = ms_env_sim_new(14);
	struct ms_journal_config cfg = {.mode = MS_SYNC_ASYNC, .sync_interval_us = 500000};
	struct ms_journal *j = rig_open(env, &cfg);
	uint64_t id = 1, syncs;
	for (int i = 0; i < 5; i++) { /* by time */
		rig_put(j, id++);
		uint64_t t0 = ms_env_mono_ns(env);
		cr_assert_eq(ms_env_sim_run_until(env, all_durable, j, 5000000), MS_SIM_DONE);
		uint64_t us = (ms_env_mono_ns(env) - t0) / 1000;
		cr_assert(us >= 400000 && us < 600000, "synced after %llu us", (unsigned long long)us);
	}
	/* Several appends share the interval's sync. */
	syncs = rig_stats(j).syncs;
	for (int i = 0; i < 50; i++)
		rig_put(j, id++);
	cr_assert_eq(ms_env_sim_run_until(env, all_durable, j, 5000000), MS_SIM_DONE);
	cr_assert_eq(rig_stats(j).syncs, syncs + 1);
	rig_close(j);
	/* By bytes, long before the interval is over. */
	cfg = (struct ms_journal_config){.mode = MS_SYNC_ASYNC, .sync_interval_us = 3600000000ll, .sync_bytes = 2000};
	j = rig_open(env, &cfg);
	uint64_t before = rig_stats(j).bytes;
	syncs = rig_stats(j).syncs;
	while (rig_stats(j).bytes - before < 1900)
		rig_put(j, id++);
	cr_assert_eq(ms_env_sim_run_until(env, all_durable, j, 1000000), MS_SIM_TIME);
	cr_assert_eq(rig_stats(j).syncs, syncs);
	while (rig_stats(j).bytes - before < 2100)
		rig_put(j, id++);
	cr_assert_eq(ms_env_sim_run_until(env, all_durable, j, 1000000), MS_SIM_DONE);
	cr_assert_eq(rig_stats(j).syncs, syncs + 1);
	rig_close(j);
	/* Interval 0: at every write. */
	cfg = (struct ms_journal_config){.mode = MS_SYNC_ASYNC};
	j = rig_open(env, &cfg);
	for (int i = 0; i < 10; i++) {
		rig_put(j, id++);
		cr_assert_eq(ms_env_sim_run_until(env, all_durable, j, 10000), MS_SIM_DONE);
		cr_assert_eq(rig_stats(j).syncs, (uint64_t)i + 1);
	}
	rig_expect(j, 1, id - 1);
	rig_close(j);
	ms_env_sim_free(env);
}

/* ---- 14: figures ---- */

struct listing {
	unsigned n, active;
	uint64_t next, bytes;
	char last[256];
};
static void on_file(void *arg, const char *name, uint64_t first, uint64_t last, uint64_t bytes, bool active) {
	struct listing *l = arg;
	char want[64];
	snprintf(want, sizeof want, "journal-%016llx.msj", (unsigned long long)first);
	cr_assert_str_eq(name, want);
	cr_assert_eq(first, l->next);
	cr_assert_geq(last + 1, first);
	l->next = last + 1;
	l->n++;
	l->active += active;
	l->bytes += bytes;
	snprintf(l->last, sizeof l->last, "%s", name);
}
struct sizes {
	struct ms_env *env;
	uint64_t bytes, files;
};
static bool add_size(void *arg, const char *name, bool is_dir) {
	struct sizes *s = arg;
	char path[4096];
	struct ms_stat st;
	(void)is_dir;
	snprintf(path, sizeof path, DIR_ "/%s", name);
	OK(s->env->ops->stat(s->env, path, &st, &err));
	s->bytes += (uint64_t)st.size;
	s->files++;
	return true;
}

Test(journal, wal14_counters_list_and_purge_all) {
	struct ms_env *env = ms_env_sim_new(15);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 900};
	struct ms_journal *j = rig_open(env, &cfg);
	uint64_t bytes = 0, n, b;
	for (uint64_t id = 1; id <= 40; id++) {
		rig_put(j, id);
		bytes += (48 + strlen(rig_db(id)) + rig_len(id) + 7) / 8 * 8;
	}
	OK(ms_journal_sync(j, 40, &err));
	struct ms_journal_stats st = rig_stats(j);
	struct sizes s = {.env = env};
	OK(env->ops->readdir(env, DIR_, add_size, &s, &err));
	cr_assert(st.entries == 40 && st.bytes == bytes && st.next_seq == 41 && st.durable_seq == 40 && st.first_seq == 1);
	cr_assert(st.files == s.files && st.total_bytes == s.bytes && st.total_bytes == bytes + 64 * st.files);
	cr_assert(st.rotations == st.files - 1 && st.syncs == st.rotations + 1 && st.dropped == 0 && st.corrupt_entries == 0);
	struct listing l = {.next = 1};
	ms_journal_list(j, on_file, &l);
	cr_assert(l.n == st.files && l.active == 1 && l.next == 41 && l.bytes == st.total_bytes);
	cr_assert_str_eq(l.last, st.current_file);
	rig_close(j);
	j = rig_open(env, &cfg);
	st = rig_stats(j);
	cr_assert(st.recovered_entries == 40 && st.recovered_files == s.files && st.entries == 0);
	OK(ms_journal_purge_all(j, &n, &b, &err));
	cr_assert(n == s.files && b == s.bytes + 48); /* and the mark of the clean shutdown */
	s = (struct sizes){.env = env};
	OK(env->ops->readdir(env, DIR_, add_size, &s, &err));
	cr_assert(s.files == 1 && s.bytes == 64);
	OK(ms_journal_purge_all(j, &n, &b, &err));
	cr_assert_eq(n, 0);
	rig_put(j, 41);
	OK(ms_journal_sync(j, 41, &err));
	rig_expect(j, 41, 41);
	rig_close(j);
	ms_env_sim_free(env);
}
