/* The follower beside real SQLite writers: every commit captured equals an exact copy of the live database. */
#include "support/sqlite_fx.h"

Test(sqlite_wal, each_commit_equals_an_exact_copy) {
	struct fx f;
	fx_open(&f, "", NULL);
	f.r.check_prev = true;
	for (int i = 0; i < 60; i++) {
		char sql[300];
		snprintf(sql, sizeof sql,
			 "BEGIN; UPDATE seq SET n=n+1; INSERT INTO bulk(data) VALUES(randomblob(%d)); UPDATE kv SET "
			 "v=randomblob(%d) WHERE id=%d; COMMIT",
			 100 + i * 90, 40 + i, i * 31);
		fx_commit(&f, sql);
		if (i % 3 == 0)
			rig_step(&f.r);
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 60);
	fx_close(&f);
}

Test(sqlite_wal, every_page_size) {
	for (unsigned ps = 512; ps <= 65536; ps *= 2) {
		struct fx f;
		char sql[100];
		snprintf(sql, sizeof sql, "PRAGMA page_size=%u", ps);
		fx_open(&f, sql, NULL);
		f.r.check_prev = true;
		cr_assert_eq(f.r.info.page_size, ps);
		for (int i = 0; i < 6; i++)
			fx_commit(&f, "BEGIN; UPDATE seq SET n=n+1; INSERT INTO bulk(data) VALUES(randomblob(3000)); COMMIT");
		fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
		for (int i = 0; i < 6; i++)
			fx_commit(&f, "UPDATE kv SET v=randomblob(90) WHERE id % 50 = 3");
		fx_check(&f);
		cr_assert_gt(f.r.prev_ok, 0);
		fx_close(&f);
	}
}

/* A page's version before the transaction, for delta encoding: nearly always there, from buffer, WAL or file. */
Test(sqlite_wal, previous_versions_are_found) {
	struct fx f;
	fx_open(&f, "", NULL);
	f.r.check_prev = true;
	fx_small(&f, 20);
	rig_drain(&f.r, 10);
	fx_small(&f, 20); /* several in one batch */
	fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
	rig_drain(&f.r, 30);
	fx_small(&f, 20);
	fx_check(&f);
	cr_assert_eq(f.r.prev_ok, f.r.page_calls, "%llu of %llu", (unsigned long long)f.r.prev_ok,
		     (unsigned long long)f.r.page_calls);
	fx_close(&f);
}

Test(sqlite_wal, spilled_and_rolled_back_transactions) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA cache_size=5; PRAGMA cache_spill=5");
	for (int i = 0; i < 8; i++) {
		/* Frames of the rollback stay in the file under the live salts until they are overwritten. */
		fx_run(&f, "BEGIN; UPDATE kv SET v=randomblob(80); INSERT INTO bulk SELECT NULL, randomblob(900) FROM kv LIMIT "
			   "300; ROLLBACK");
		rig_step(&f.r);
		fx_commit(&f,
			  "BEGIN; UPDATE seq SET n=n+1; UPDATE kv SET v=randomblob(80); UPDATE kv SET v=randomblob(70); COMMIT");
		fx_run(&f, "BEGIN; UPDATE kv SET v=randomblob(80); SAVEPOINT a; DELETE FROM kv; ROLLBACK TO a");
		rig_step(&f.r); /* while spilled frames of an open transaction lie in the WAL */
		fx_commit(&f, "UPDATE seq SET n=n+1; COMMIT");
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 16);
	fx_close(&f);
}

Test(sqlite_wal, transaction_larger_than_memory_budget) {
	struct fx f;
	struct ms_sqlite_wal_options opt = {.checkpoint = true, .memory_bytes = 64 << 10};
	fx_open(&f, "", &opt);
	fx_small(&f, 3);
	fx_commit(&f, "BEGIN; UPDATE seq SET n=n+1; INSERT INTO bulk SELECT NULL, randomblob(3500) FROM kv; UPDATE kv SET "
		      "v=randomblob(80); COMMIT");
	fx_small(&f, 3);
	fx_run(&f, "PRAGMA cache_size=5"); /* the same page several times in one transaction */
	fx_commit(&f,
		  "BEGIN; UPDATE kv SET v=randomblob(80); DELETE FROM bulk WHERE id%3=0; UPDATE kv SET v=randomblob(60); COMMIT");
	fx_small(&f, 3);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 11);
	fx_close(&f);
}

Test(sqlite_wal, vacuum_shrinks_and_growth_comes_back) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_commit(&f, "INSERT INTO bulk SELECT NULL, randomblob(3000) FROM kv LIMIT 400");
	rig_drain(&f.r, 5);
	size_t grown = f.r.len;
	fx_commit(&f, "DELETE FROM bulk");
	fx_commit(&f, "VACUUM");
	rig_drain(&f.r, 5);
	cr_assert_lt(f.r.len, grown);
	fx_commit(&f, "INSERT INTO bulk SELECT NULL, randomblob(2000) FROM kv LIMIT 300");
	fx_run(&f, "PRAGMA wal_checkpoint(TRUNCATE)");
	fx_commit(&f, "DELETE FROM bulk WHERE id%2");
	fx_commit(&f, "VACUUM");
	fx_small(&f, 5);
	fx_check(&f);
	fx_close(&f);
}

/* Pages that are allocated and freed in one transaction, then cut and grown over again. */
Test(sqlite_wal, growth_and_shrink_over_the_same_pages) {
	struct fx f;
	fx_open(&f, "", NULL);
	for (int i = 0; i < 3; i++) {
		fx_commit(&f,
			  "BEGIN; CREATE TABLE a(x); INSERT INTO a SELECT randomblob(3000) FROM kv LIMIT 100; CREATE TABLE b(x);"
			  "INSERT INTO b VALUES(randomblob(3000)); DROP TABLE a; COMMIT");
		fx_commit(&f, "BEGIN; DROP TABLE b; UPDATE seq SET n=n+1; COMMIT");
		if (i == 1)
			fx_run(&f, "PRAGMA wal_checkpoint(TRUNCATE)");
		fx_commit(&f, "VACUUM");
	}
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal, auto_vacuum_full_and_incremental) {
	for (int mode = 1; mode <= 2; mode++) {
		struct fx f;
		char sql[60];
		snprintf(sql, sizeof sql, "PRAGMA auto_vacuum=%d", mode);
		fx_open(&f, sql, NULL);
		for (int i = 0; i < 6; i++) {
			fx_commit(&f, "INSERT INTO bulk SELECT NULL, randomblob(2500) FROM kv LIMIT 150");
			fx_commit(&f, "DELETE FROM bulk WHERE id%4 <> 1");
			if (mode == 2)
				fx_commit(&f, "PRAGMA incremental_vacuum(20)");
			rig_step(&f.r);
		}
		fx_check(&f);
		fx_close(&f);
	}
}

/* Spilled frames of pages that the same transaction then cuts off. */
Test(sqlite_wal, pages_past_the_end_of_their_own_transaction) {
	struct fx f;
	fx_open(&f, "PRAGMA auto_vacuum=1", NULL);
	fx_run(&f, "PRAGMA cache_size=5; PRAGMA cache_spill=5");
	for (int i = 0; i < 4; i++)
		fx_commit(&f, "BEGIN; UPDATE seq SET n=n+1; INSERT INTO bulk SELECT NULL, randomblob(2500) FROM kv LIMIT 200; "
			      "DELETE FROM bulk; COMMIT");
	fx_check(&f);
	fx_close(&f);
}

/* A sink that fails gets the same transaction again. */
Test(sqlite_wal, failed_sink_is_offered_the_same_transaction) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	fx_open(&f, "", NULL);
	fx_small(&f, 4);
	for (int i = 1; i <= 3; i++) {
		f.r.fail_pages = 1;
		err = MS_ERR_INIT;
		cr_assert_eq(f.r.src->ops->step(f.r.src, &f.r.sink, &f.r.res, &err), MS_ENOSPC);
		cr_assert_str_eq(err.msg, "the rig is full");
	}
	cr_assert_eq(f.r.commits, 0);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 4);
	fx_close(&f);
}

static void collect(void *arg, uint32_t pgno) {
	uint8_t *seen = arg;
	if (pgno < 4096)
		seen[pgno] = 1;
}

/* What skip() calls dirty is exactly what differs, so a scan in slices can mend its image. */
Test(sqlite_wal, skip_names_every_page_it_passes_over) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	static uint8_t dirty[4096];
	fx_open(&f, "", NULL);
	for (int round = 0; round < 12; round++) {
		memset(dirty, 0, sizeof dirty);
		fx_run(&f, "INSERT INTO bulk SELECT NULL, randomblob(500) FROM kv LIMIT 20");
		fx_run(&f, "UPDATE kv SET v=randomblob(80) WHERE id%100=7");
		if (round % 4 == 3) /* crosses a reset */
			fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
		cr_assert_eq(f.r.src->ops->skip(f.r.src, collect, dirty, &f.r.info, &f.r.res, &err), MS_OK, "%s", err.msg);
		cr_assert_eq(f.r.res.state, MS_SRC_FOLLOWING, "%s", f.r.res.why);
		size_t len, before = f.r.len;
		uint8_t *want = sq_image(f.oracle, f.db, &len);
		cr_assert_eq(len, (size_t)f.r.info.db_pages * 4096);
		for (uint32_t pgno = 1; pgno <= f.r.info.db_pages; pgno++) {
			uint8_t page[4096];
			cr_assert_eq(f.r.src->ops->read_pages(f.r.src, pgno, 1, page, &err), MS_OK, "%s", err.msg);
			cr_assert_eq(memcmp(page, want + (pgno - 1) * 4096, 4096), 0, "page %u", pgno);
			if ((size_t)pgno * 4096 <= before && memcmp(page, f.r.image + (pgno - 1) * 4096, 4096) != 0)
				cr_assert(dirty[pgno], "page %u changed and was not named", pgno);
		}
		free(want);
		rig_seed(&f.r);
	}
	fx_check(&f);
	fx_close(&f);
}

static struct { uint32_t pages, commits, lock_pages, least, most, db_pages; } big;
static enum ms_code big_begin(struct ms_sink *k, struct ms_err *err) {
	(void)k, (void)err;
	return MS_OK;
}
static enum ms_code big_page(struct ms_sink *k, uint32_t pgno, const uint8_t *page, struct ms_err *err) {
	(void)k, (void)err, (void)page;
	big.pages++;
	big.lock_pages += pgno == ms_lock_page(65536);
	big.most = pgno > big.most ? pgno : big.most;
	return MS_OK;
}
static enum ms_code big_commit(struct ms_sink *k, const struct ms_flush_meta *m, struct ms_err *err) {
	(void)k, (void)err;
	big.commits++;
	big.db_pages = m->db_pages;
	return MS_OK;
}
static void big_abort(struct ms_sink *k) {
	(void)k;
}

static void put_be32(uint8_t *p, uint32_t v) {
	p[0] = (uint8_t)(v >> 24), p[1] = (uint8_t)(v >> 16), p[2] = (uint8_t)(v >> 8), p[3] = (uint8_t)v;
}

/* The page that holds byte 1 GiB is never used: a sparse database that ends just before it, and a transaction that grows across.
 */
Test(sqlite_wal, lock_page_at_one_gib) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_sink sink = {big_begin, big_page, big_commit, big_abort, 0};
	const uint32_t ps = 65536, lock = 0x40000000u / 65536 + 1;
	static uint8_t page[2 * 65536], zero[65536];
	struct fx f;
	fx_database(&f, "PRAGMA page_size=65536");
	cr_assert_eq(sq_exec(f.app, "CREATE TABLE big(x)"), 0);
	cr_assert_eq(sq_close(f.app), 0); /* WAL gone, everything is in the file */
	FILE *file = fopen(f.db, "r+b");
	uint8_t header[100];
	cr_assert_eq(fread(header, 1, 100, file), 100);
	put_be32(header + 28, lock - 3); /* pages; unused ones in the middle belong to nothing */
	memcpy(header + 92, header + 24, 4);
	rewind(file);
	cr_assert_eq(fwrite(header, 1, 100, file), 100);
	cr_assert_eq(ftruncate(fileno(file), (off_t)(lock - 3) * ps), 0);
	fclose(file);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	rig_init(&f.r, f.db, NULL);
	cr_assert_eq(rig_attach_only(&f.r, NULL), MS_SRC_FOLLOWING, "%s", f.r.res.why);
	cr_assert_eq(f.r.info.db_pages, lock - 3);
	fx_run(&f, "INSERT INTO big VALUES(zeroblob(600000))");
	cr_assert_eq(f.r.src->ops->step(f.r.src, &sink, &f.r.res, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(big.commits, 1);
	cr_assert_eq(big.lock_pages, 0);
	cr_assert_gt(big.most, lock);
	cr_assert_eq(big.db_pages, big.most);
	memset(page, 0xff, sizeof page);
	cr_assert_eq(f.r.src->ops->read_pages(f.r.src, lock, 2, page, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(memcmp(page, zero, ps), 0, "the lock page reads as zeros");
	/* Its neighbour is an overflow page of zeros whose first four bytes name the next page. */
	uint8_t next[4];
	put_be32(next, lock + 2);
	cr_assert_eq(memcmp(page + ps, next, 4), 0);
	cr_assert_eq(memcmp(page + ps + 4, zero, ps - 4), 0);
	fx_close(&f);
}
