/* WAL bytes as SQLite writes them: parsed, and every change of them noticed. */
#include "sources/wal_format.h"
#include "support/sqlite_fx.h"
#include "support/wal_forge.h"

#include <sqlite3.h>

static struct forge sample(struct fx *f, const char *before) {
	char path[4300];
	fx_database(f, before);
	fx_run(f, "UPDATE kv SET v=randomblob(50) WHERE id<40");
	snprintf(path, sizeof path, "%s-wal", f->db);
	return forge_read(path);
}

static uint32_t valid_frames(const struct forge *w, uint32_t *ret_commits) {
	struct ms_wal_header h;
	struct ms_wal_frame fr;
	uint32_t n = 0;
	*ret_commits = 0;
	if (w->len < MS_WAL_HEADER_BYTES || !ms_wal_header_parse(w->data, &h))
		return 0;
	struct ms_wal_sum sum = h.sum;
	while (n < forge_frames(w) && ms_wal_frame_verify(&h, w->data + ms_wal_frame_offset(h.page_size, n + 1), &sum, &fr)) {
		n++;
		*ret_commits += fr.db_pages != 0;
	}
	return n;
}

Test(wal_format, counts_what_sqlite_counts) {
	struct fx f;
	struct forge w = sample(&f, "PRAGMA page_size=1024");
	struct ms_wal_header h;
	uint32_t commits;
	cr_assert(ms_wal_header_parse(w.data, &h));
	cr_assert_eq(h.page_size, 1024);
	uint32_t n = valid_frames(&w, &commits);
	/* busy, log, checkpointed: the second column is SQLite's own count of frames */
	sqlite3 *db;
	int log = 0, done = 0;
	cr_assert_eq(sqlite3_open(f.db, &db), 0);
	cr_assert_eq(sqlite3_exec(db, "SELECT 1 FROM kv", NULL, NULL, NULL), 0);
	cr_assert_eq(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, &log, &done), 0);
	sqlite3_close(db);
	cr_assert_eq((int)n, log);
	cr_assert_eq(commits, 6); /* schema of four tables and rows: five statements outside a transaction, and the update */
	sq_end(f.app);
	sq_end(f.oracle);
	free(f.db);
	free(w.data);
}

Test(wal_format, any_flipped_bit_ends_the_chain_there) {
	struct fx f;
	struct forge w = sample(&f, "PRAGMA page_size=512");
	uint32_t commits, n = valid_frames(&w, &commits);
	cr_assert_gt(n, 20);
	srand(7);
	for (int i = 0; i < 3000; i++) {
		size_t at = (size_t)rand() % (32 + n * 536u);
		unsigned bit = 1u << rand() % 8;
		w.data[at] ^= (uint8_t)bit;
		uint32_t got = valid_frames(&w, &commits);
		if (at < 32)
			cr_assert_eq(got, 0, "header byte %zu", at);
		else
			cr_assert_eq(got, (at - 32) / 536, "byte %zu", at);
		w.data[at] ^= (uint8_t)bit;
	}
	sq_end(f.app);
	sq_end(f.oracle);
	free(f.db);
	free(w.data);
}

Test(wal_format, both_word_orders_as_sqlite_accepts_them) {
	struct fx f;
	char path[4300], shm[4300];
	struct forge w = sample(&f, "");
	uint32_t commits, n = valid_frames(&w, &commits);
	char rows[64];
	snprintf(rows, sizeof rows, "%s", sq_query(f.app, "SELECT sum(length(v)) FROM kv"));
	sq_kill(f.app); /* no checkpoint at close */
	forge_seal(&w, true);
	cr_assert_eq(valid_frames(&w, &commits), n);
	struct ms_wal_header h;
	cr_assert(ms_wal_header_parse(w.data, &h) && h.big_endian);
	snprintf(path, sizeof path, "%s-wal", f.db);
	snprintf(shm, sizeof shm, "%s-shm", f.db);
	cr_assert(forge_write(&w, path));
	unlink(shm);
	f.app = sq_spawn(); /* SQLite is the judge: it recovers the same rows from those checksums */
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	cr_assert_str_eq(sq_query(f.app, "SELECT sum(length(v)) FROM kv"), rows);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA integrity_check"), "ok");
	forge_seal(&w, false);
	cr_assert_eq(valid_frames(&w, &commits), n);
	sq_end(f.app);
	sq_end(f.oracle);
	free(f.db);
	free(w.data);
}

Test(wal_format, headers_that_are_none) {
	struct ms_wal_header h;
	struct forge w = {calloc(1, 32), 32, 0};
	forge_put(w.data, 0x377f0682);
	forge_put(w.data + 4, 3007000);
	for (uint32_t ps = 256; ps <= 131072; ps *= 2) {
		forge_put(w.data + 8, ps);
		w.page_size = ps;
		forge_seal(&w, false);
		cr_assert_eq(ms_wal_header_parse(w.data, &h), ps >= 512 && ps <= 65536, "page size %u", ps);
	}
	forge_put(w.data + 8, 4095);
	forge_seal(&w, false);
	cr_assert_not(ms_wal_header_parse(w.data, &h));
	forge_put(w.data + 8, 4096);
	forge_put(w.data + 4, 3008000);
	forge_seal(&w, false);
	cr_assert_not(ms_wal_header_parse(w.data, &h), "another version");
	memset(w.data, 0, 32);
	cr_assert_not(ms_wal_header_parse(w.data, &h));
	free(w.data);
}
