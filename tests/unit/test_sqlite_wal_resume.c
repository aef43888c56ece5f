/* Attaching again with a cookie: continuous only when proven, `behind` when the database went back. */
#include <sys/stat.h>

#include "support/sqlite_fx.h"
#include "support/wal_forge.h"

static char *beside(struct fx *f, const char *suffix) {
	static char path[4][4300];
	static int i;
	i = (i + 1) % 4;
	snprintf(path[i], sizeof path[i], "%s%s", f->db, suffix);
	return path[i];
}

static void detach(struct fx *f) {
	f->r.src->ops->detach(f->r.src);
}

static void again(struct fx *f, bool continuous) {
	struct ms_cookie c = f->r.cookie;
	cr_assert_eq(rig_attach_only(&f->r, &c), MS_SRC_FOLLOWING, "%s", f->r.res.why);
	cr_assert_eq(f->r.info.continuous, continuous);
	if (!continuous) {
		rig_seed(&f->r);
		f->r.at = f->r.nexpect;
	}
}

static void restart_app(struct fx *f) {
	f->app = sq_spawn();
	cr_assert_eq(sq_open(f->app, f->db, 1000), 0);
}

Test(sqlite_wal_resume, nothing_changed) {
	struct fx f;
	fx_open(&f, "", NULL);
	for (int i = 0; i < 3; i++) {
		fx_small(&f, 3);
		rig_drain(&f.r, 5);
		detach(&f);
		again(&f, true);
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 9);
	fx_close(&f);
}

Test(sqlite_wal_resume, commits_while_detached_are_found) {
	struct fx f;
	fx_open(&f, "", NULL);
	for (int i = 0; i < 4; i++) {
		fx_small(&f, 3);
		rig_drain(&f.r, 5);
		detach(&f);
		fx_small(&f, 5);
		again(&f, true);
		rig_drain(&f.r, 5);
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 32);
	fx_close(&f);
}

/* The wal-index is recovered and counts commits anew; the chain is proof enough. */
Test(sqlite_wal_resume, application_killed_and_restarted) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 5);
	rig_drain(&f.r, 5);
	detach(&f);
	fx_small(&f, 2);
	sq_kill(f.app);
	restart_app(&f);
	fx_small(&f, 2);
	again(&f, true);
	fx_small(&f, 2);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 11);
	fx_close(&f);
}

Test(sqlite_wal_resume, application_killed_while_attached) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 5);
	rig_drain(&f.r, 5);
	fx_run(&f,
	       "PRAGMA cache_size=5; PRAGMA cache_spill=5; BEGIN; UPDATE kv SET v=randomblob(80)"); /* spilled, never committed */
	sq_kill(f.app);
	rig_step(&f.r);
	restart_app(&f);
	fx_small(&f, 4);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 9);
	fx_close(&f);
}

/* Ours is the last connection then: -wal stays, also when we go, and proves continuity later. */
Test(sqlite_wal_resume, application_closes_its_last_connection) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	fx_small(&f, 2);
	cr_assert_eq(sq_close(f.app), 0);
	rig_drain(&f.r, 5);
	cr_assert_eq(f.r.commits, 5);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	fx_small(&f, 3);
	cr_assert_eq(sq_close(f.app), 0);
	rig_drain(&f.r, 5);
	detach(&f);
	cr_assert_eq(access(beside(&f, "-wal"), F_OK), 0);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	fx_small(&f, 2);
	again(&f, true);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 10);
	fx_close(&f);
}

Test(sqlite_wal_resume, application_closes_after_us) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	detach(&f);
	fx_run(&f, "UPDATE seq SET n=n+1");
	cr_assert_eq(sq_close(f.app), 0);
	cr_assert_neq(access(beside(&f, "-wal"), F_OK), 0, "SQLite removed it");
	again(&f, false);
	cr_assert_not(f.r.info.behind);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	fx_small(&f, 3);
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal_resume, wal_restarted_once_and_all_provable) {
	struct fx f;
	fx_open(&f, "", NULL);
	for (int i = 0; i < 3; i++) {
		fx_small(&f, 30);
		rig_drain(&f.r, 5);
		detach(&f);
		fx_small(&f, 4);
		fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
		fx_small(&f, 3);
		again(&f, true);
		rig_drain(&f.r, 5);
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 111);
	fx_close(&f);
}

Test(sqlite_wal_resume, wal_restarted_and_overwritten) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 5);
	rig_drain(&f.r, 5);
	detach(&f);
	fx_run(&f, "UPDATE seq SET n=n+1");
	fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
	for (int i = 0; i < 300; i++)
		fx_run(&f, "UPDATE seq SET n=n+1");
	again(&f, false);
	cr_assert_not(f.r.info.behind);
	fx_small(&f, 3);
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal_resume, wal_restarted_twice_truncated_or_after_recovery) {
	static const char *const how[] = {
	    "PRAGMA wal_checkpoint(RESTART); UPDATE seq SET n=n+1; PRAGMA wal_checkpoint(RESTART); UPDATE seq SET n=n+1",
	    "UPDATE seq SET n=n+1; PRAGMA wal_checkpoint(TRUNCATE); UPDATE seq SET n=n+1",
	};
	for (int i = 0; i < 2; i++) {
		struct fx f;
		fx_open(&f, "", NULL);
		fx_small(&f, 5);
		rig_drain(&f.r, 5);
		detach(&f);
		fx_run(&f, how[i]);
		again(&f, false);
		fx_small(&f, 2);
		fx_check(&f);
		fx_close(&f);
	}
}

/* The counter starts at 0 with the recovery, so a lost commit could hide behind it: not believed. */
Test(sqlite_wal_resume, restart_after_recovery_is_not_believed) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 30);
	rig_drain(&f.r, 5);
	detach(&f);
	fx_run(&f, "UPDATE seq SET n=n+1");
	sq_kill(f.app);
	restart_app(&f);
	fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE); UPDATE seq SET n=n+1; UPDATE seq SET n=n+1");
	again(&f, false);
	fx_small(&f, 2);
	fx_check(&f);
	fx_close(&f);
}

/* The same with everything arranged so that the counter would agree: two commits cut off by TRUNCATE, and a counter of two
 * before. */
Test(sqlite_wal_resume, truncate_after_recovery_is_not_believed) {
	struct fx f;
	fx_open(&f, "", NULL);
	f.r.src->ops->detach(f.r.src);
	sq_kill(f.app);
	restart_app(&f);
	for (int i = 0; i < 2; i++) /* the counter was 0 after the recovery */
		fx_run(&f, "UPDATE seq SET n=n+1");
	cr_assert_eq(rig_attach(&f.r, NULL), MS_SRC_FOLLOWING);
	f.r.cookie = f.r.info.cookie;
	detach(&f);
	for (int i = 0; i < 2; i++)
		fx_run(&f, "UPDATE seq SET n=n+1");
	sq_kill(f.app);
	restart_app(&f);
	fx_run(&f, "PRAGMA wal_checkpoint(TRUNCATE); UPDATE seq SET n=n+1; UPDATE seq SET n=n+1");
	again(&f, false);
	fx_small(&f, 2);
	fx_check(&f);
	fx_close(&f);
}

/* Power loss under synchronous=NORMAL: the WAL comes back shorter than what had been captured. */
Test(sqlite_wal_resume, database_went_back_within_the_wal) {
	struct fx f;
	struct ms_cookie at[8];
	fx_open(&f, "", NULL);
	for (int i = 0; i < 8; i++) {
		fx_small(&f, 1);
		rig_drain(&f.r, 5);
		at[i] = f.r.cookie;
	}
	detach(&f);
	sq_kill(f.app);
	struct forge w = forge_read(beside(&f, "-wal"));
	w.len -= 5 * (w.page_size + 24) + 100; /* several commits short, and torn */
	cr_assert(forge_write(&w, beside(&f, "-wal")));
	unlink(beside(&f, "-shm"));
	restart_app(&f);
	int n = atoi(sq_query(f.app, "SELECT n FROM seq"));
	cr_assert(n > 0 && n < 8, "%d", n);
	for (int more = 0; more <= 1; more++) { /* as found, and after the application has gone on */
		f.r.cookie = at[7];
		again(&f, false);
		cr_assert(f.r.info.behind);
		for (int i = 0; i < 8; i++)
			cr_assert_eq(f.r.src->ops->matches(f.r.src, &at[i]), i < n, "commit %d of %d", i + 1, n);
		detach(&f);
		if (!more)
			for (int i = 0; i < 9; i++)
				fx_run(&f, "UPDATE seq SET n=n+1");
	}
	again(&f, false);
	fx_small(&f, 2);
	fx_check(&f);
	free(w.data);
	fx_close(&f);
}

/* The new generation of the WAL never reached the disk: the one before it is back. */
Test(sqlite_wal_resume, database_went_back_before_the_wals_restart) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 10);
	rig_drain(&f.r, 5);
	struct ms_cookie before = f.r.cookie;
	fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
	struct forge w = forge_read(beside(&f, "-wal"));
	rig_drain(&f.r, 20);
	fx_small(&f, 2);
	rig_drain(&f.r, 5);
	detach(&f);
	sq_kill(f.app);
	cr_assert(forge_write(&w, beside(&f, "-wal")));
	unlink(beside(&f, "-shm"));
	restart_app(&f);
	cr_assert_str_eq(sq_query(f.app, "SELECT n FROM seq"), "10");
	again(&f, false);
	cr_assert(f.r.info.behind);
	cr_assert(f.r.src->ops->matches(f.r.src, &before));
	fx_small(&f, 2);
	fx_check(&f);
	free(w.data);
	fx_close(&f);
}

/* An idle database with nothing in its WAL: the file itself is the state. */
Test(sqlite_wal_resume, idle_database_without_wal) {
	struct fx f;
	fx_database(&f, "");
	cr_assert_eq(sq_close(f.app), 0);
	usleep(150000); /* younger files prove nothing: their clock is too coarse */
	rig_init(&f.r, f.db, NULL);
	cr_assert_eq(rig_attach(&f.r, NULL), MS_SRC_FOLLOWING);
	detach(&f);
	again(&f, true);
	detach(&f);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	fx_small(&f, 4); /* all still in the WAL */
	again(&f, true);
	rig_drain(&f.r, 5);
	cr_assert_eq(f.r.commits, 4);
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal_resume, idle_database_written_meanwhile) {
	struct fx f;
	fx_database(&f, "");
	cr_assert_eq(sq_close(f.app), 0);
	usleep(150000);
	rig_init(&f.r, f.db, NULL);
	cr_assert_eq(rig_attach(&f.r, NULL), MS_SRC_FOLLOWING);
	detach(&f);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	fx_run(&f, "UPDATE seq SET n=n+1");
	cr_assert_eq(sq_close(f.app), 0);
	again(&f, false);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	fx_small(&f, 2);
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal_resume, cookies_that_prove_nothing) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	struct ms_cookie good = f.r.cookie;
	for (unsigned i = 0; i <= good.len; i++) {
		struct ms_cookie c = good;
		if (i < 2 || i == 4 || (i >= 8 && i < 28)) /* version, flags, page size, salts, frame, checksum */
			c.data[i] ^= 0x41;
		else if (i == good.len)
			c.len--;
		else
			continue;
		detach(&f);
		cr_assert_eq(rig_attach_only(&f.r, &c), MS_SRC_FOLLOWING);
		cr_assert_not(f.r.info.continuous, "byte %u", i);
	}
	detach(&f);
	f.r.cookie = good;
	again(&f, true);
	fx_check(&f);
	fx_close(&f);
}

/* What `pause` is for: leaving WAL mode, another page size. */
Test(sqlite_wal_resume, page_size_change_while_detached) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA busy_timeout=0; PRAGMA journal_mode=DELETE"), "error: database is locked");
	detach(&f);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA journal_mode=DELETE"), "delete");
	cr_assert_eq(rig_attach_only(&f.r, &f.r.cookie), MS_SRC_NOT_WAL);
	fx_run(&f, "PRAGMA page_size=1024; VACUUM");
	cr_assert_str_eq(sq_query(f.app, "PRAGMA journal_mode=WAL"), "wal");
	again(&f, false);
	cr_assert_eq(f.r.info.page_size, 1024);
	cr_assert_eq(f.r.src->ops->step(f.r.src, &f.r.sink, &f.r.res, &err), MS_OK);
	fx_small(&f, 3);
	fx_check(&f);
	fx_close(&f);
}

/* A commit that ends past pages nobody wrote: made by hand, recovered and accepted by SQLite. */
Test(sqlite_wal_resume, commit_past_pages_without_frames) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	detach(&f);
	sq_kill(f.app);
	struct forge w = forge_read(beside(&f, "-wal"));
	bool big = forge_get(w.data) & 1;
	uint32_t pages = (uint32_t)(f.r.len / 4096);
	uint8_t page1[4096];
	memcpy(page1, f.r.image, 4096);
	forge_put(page1 + 28, pages + 6);
	forge_append(&w, 1, pages + 6, page1);
	forge_seal(&w, big);
	cr_assert(forge_write(&w, beside(&f, "-wal")));
	unlink(beside(&f, "-shm"));
	restart_app(&f);
	char want[16];
	snprintf(want, sizeof want, "%u", pages + 6);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA page_count"), want);
	rig_expect_now(&f.r, f.oracle, f.db);
	again(&f, true);
	rig_drain(&f.r, 10);
	cr_assert_eq(f.r.commits, 4);
	cr_assert_eq(f.r.holes, 6);
	cr_assert_eq(f.r.mismatches, 0, "%s", f.r.note);
	free(w.data);
	fx_close(&f);
}

static void collect(void *arg, uint32_t pgno) {
	uint8_t *seen = arg;
	if (pgno < 4096)
		seen[pgno] = 1;
}

/* The same passed over: pages that a skipped commit grew the database by are named without a frame, also where they only come back. */
Test(sqlite_wal_resume, skip_names_pages_without_frames) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	static uint8_t dirty[4096];
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	detach(&f);
	sq_kill(f.app);
	struct forge w = forge_read(beside(&f, "-wal"));
	bool big = forge_get(w.data) & 1;
	uint32_t pages = (uint32_t)(f.r.len / 4096), sizes[] = {pages + 6, pages - 1, pages + 3};
	uint8_t page1[4096];
	memcpy(page1, f.r.image, 4096);
	for (int i = 0; i < 3; i++) {
		forge_put(page1 + 28, sizes[i]);
		forge_append(&w, 1, sizes[i], page1);
	}
	forge_seal(&w, big);
	cr_assert(forge_write(&w, beside(&f, "-wal")));
	unlink(beside(&f, "-shm"));
	restart_app(&f);
	char want[16];
	snprintf(want, sizeof want, "%u", pages + 3);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA page_count"), want);
	again(&f, true);
	cr_assert_eq(f.r.src->ops->skip(f.r.src, collect, dirty, &f.r.info, &f.r.res, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(f.r.res.state, MS_SRC_FOLLOWING, "%s", f.r.res.why);
	cr_assert(f.r.res.caught_up);
	cr_assert_eq(f.r.info.db_pages, pages + 3);
	for (uint32_t pgno = 1; pgno < 4096; pgno++)
		cr_assert_eq(dirty[pgno], pgno == 1 || (pgno >= pages && pgno <= pages + 6), "page %u of %u", pgno, pages);
	free(w.data);
	fx_close(&f);
}

/* SQLite continues a WAL in the word order it finds, so this one gets big-endian checksums from SQLite itself. */
Test(sqlite_wal_resume, big_endian_checksums) {
	struct fx f;
	fx_database(&f, "");
	fx_run(&f, "UPDATE seq SET n=n+1");
	sq_kill(f.app);
	struct forge w = forge_read(beside(&f, "-wal"));
	forge_seal(&w, true);
	cr_assert(forge_write(&w, beside(&f, "-wal")));
	unlink(beside(&f, "-shm"));
	restart_app(&f);
	fx_run(&f, "UPDATE seq SET n=n+1");
	rig_init(&f.r, f.db, NULL);
	cr_assert_eq(rig_attach(&f.r, NULL), MS_SRC_FOLLOWING, "%s", f.r.res.why);
	fx_small(&f, 5);
	rig_drain(&f.r, 5);
	detach(&f);
	fx_small(&f, 2);
	again(&f, true);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 7);
	free(w.data);
	w = forge_read(beside(&f, "-wal"));
	cr_assert_eq(forge_get(w.data), 0x377f0683);
	free(w.data);
	fx_close(&f);
}

/* Without powersafe overwrite SQLite repeats the last frame of a commit up to the sector's end. */
Test(sqlite_wal_resume, padded_commits) {
	struct fx f;
	char uri[4300];
	fx_open(&f, "PRAGMA page_size=512", NULL);
	fx_run(&f, "PRAGMA wal_checkpoint(TRUNCATE)");
	cr_assert_eq(sq_close(f.app), 0);
	snprintf(uri, sizeof uri, "file:%s?psow=0", f.db);
	cr_assert_eq(sq_open(f.app, uri, 1000), 0);
	fx_run(&f, "PRAGMA synchronous=FULL");
	rig_drain(&f.r, 10);
	uint64_t before = f.r.commits;
	for (int i = 0; i < 6; i++) {
		for (int k = 0; k < 5; k++)
			fx_run(&f, "UPDATE seq SET n=n+1");
		cr_assert_eq(rig_drain(&f.r, 5), MS_SRC_FOLLOWING, "%s", f.r.res.why);
		if (i % 2)
			fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
	}
	fx_check(&f);
	cr_assert_geq(f.r.commits - before, 30);
	cr_assert_str_eq(rig_query(&f.r, "SELECT n FROM seq"), "30");
	fx_close(&f);
}

/* A commit that is gone, behind a restart of the WAL whose first commit is padded: as many frames as the change counter says, and more, but not
 * the same commits. */
Test(sqlite_wal_resume, padding_does_not_stand_for_a_lost_commit) {
	for (int cut = 0; cut < 2; cut++) {
		struct fx f;
		char uri[4300];
		fx_open(&f, "PRAGMA page_size=512", NULL);
		snprintf(uri, sizeof uri, "file:%s?psow=0", f.db);
		struct sq_worker *other = sq_spawn();
		cr_assert_eq(sq_open(other, uri, 1000), 0);
		cr_assert_eq(sq_exec(other, "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0"), 0);
		for (int k = 0; k < 40; k++)
			fx_run(&f, "UPDATE seq SET n=n+1");
		rig_drain(&f.r, 10);
		detach(&f);
		struct forge w = forge_read(beside(&f, "-wal"));
		size_t captured = w.len;
		fx_run(&f, "UPDATE seq SET n=n+1"); /* number 41 */
		cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(PASSIVE)"), "0");
		cr_assert_eq(sq_exec(other, "UPDATE seq SET n=n+1"), 0); /* begins the WAL anew */
		if (cut) /* as journal_size_limit does */
			cr_assert_eq(truncate(beside(&f, "-wal"), (off_t)captured), 0);
		again(&f, false);
		cr_assert_str_eq(rig_query(&f.r, "SELECT n FROM seq"), "42");
		fx_run(&f, "UPDATE seq SET n=n+1");
		fx_check(&f);
		free(w.data);
		sq_end(other);
		fx_close(&f);
	}
}

/* Whether the database went back or on: a captured commit that the WAL ought to hold and does not, another file; against a WAL that was emptied. */
Test(sqlite_wal_resume, evidence_of_going_back) {
	for (int how = 0; how < 3; how++) {
		struct fx f;
		char *copy;
		fx_open(&f, "", NULL);
		fx_small(&f, 5);
		rig_drain(&f.r, 10);
		detach(&f);
		if (how == 0) { /* power loss: the last commit's frames never reached the disk */
			sq_kill(f.app);
			struct forge w = forge_read(beside(&f, "-wal"));
			w.len -= 4096 + 24;
			cr_assert(forge_write(&w, beside(&f, "-wal")));
			unlink(beside(&f, "-shm"));
			free(w.data);
			restart_app(&f);
		} else if (how == 1) { /* another file, put in place by hand */
			fx_run(&f, "PRAGMA wal_checkpoint(TRUNCATE)");
			sq_end(f.app);
			copy = ms_test_path(f.dir, "copy.db");
			char command[9000];
			snprintf(command, sizeof command, "cp %s %s && rm -f %s-wal %s-shm && mv %s %s", f.db, copy, f.db, f.db, copy, f.db);
			cr_assert_eq(system(command), 0);
			free(copy);
			restart_app(&f);
			fx_run(&f, "SELECT count(*) FROM kv");
		} else { /* it went on, and the WAL was emptied */
			fx_run(&f, "UPDATE seq SET n=n+1");
			fx_run(&f, "PRAGMA wal_checkpoint(TRUNCATE)");
			fx_run(&f, "UPDATE seq SET n=n-1");
		}
		again(&f, false);
		cr_assert_eq(f.r.info.behind, how < 2, "case %d", how);
		cr_assert(f.r.info.born_us >= 0 && f.r.info.born_us <= ms_env_now_us(f.r.env));
		fx_close(&f);
	}
}
