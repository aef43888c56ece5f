/* Whole restores over replicas made from real SQLite databases; every result is compared with an exact copy. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "replicas/url.h"
#include "restore/restore.h"
#include "support/replica_maker.h"
#include "support/tmpdir.h"

struct fix {
	struct ms_env *env;
	struct maker *m;
	char *replica, *dir, *out;
	struct ms_replica_spec specs[2];
	struct ms_restore_replica replicas[2];
	struct ms_restore_options o;
	struct ms_restore_result res;
	struct ms_err err;
};

static void add_replica(struct fix *f, const char *dir) {
	struct ms_err err;
	unsigned n = f->o.nreplicas;
	cr_assert_eq(ms_url_parse(dir, &f->specs[n], &err), MS_OK, "%s", err.msg);
	f->replicas[n] = (struct ms_restore_replica){&f->specs[n], dir};
	f->o.replicas = f->replicas;
	f->o.nreplicas = n + 1;
}

static struct fix setup(uint32_t page_size) {
	struct fix f = {0};
	struct ms_err err;
	static bool registered;
	unsigned lanes[MS_LANE_COUNT] = {0};
	if (!registered)
		cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "%s", err.msg);
	registered = true;
	f.env = ms_env_uv_new(lanes, &err);
	cr_assert_not_null(f.env, "%s", err.msg);
	f.replica = ms_test_tmpdir();
	f.dir = ms_test_tmpdir();
	f.out = ms_test_path(f.dir, "out.db");
	f.m = maker_new(f.replica, page_size);
	f.o.umask = 022;
	f.o.verify = MS_VERIFY_CHECKSUM;
	return f;
}

static void teardown(struct fix *f) {
	for (unsigned i = 0; i < f->o.nreplicas; i++)
		ms_replica_spec_release(&f->specs[i]);
	maker_free(f->m);
	ms_env_uv_free(f->env);
	free(f->out);
}

static enum ms_code run(struct fix *f) {
	f->err = MS_ERR_INIT;
	f->o.path = f->out;
	if (f->o.nreplicas == 0)
		add_replica(f, f->replica);
	/* addresses of a fixture that has been returned by value */
	f->o.replicas = f->replicas;
	for (unsigned i = 0; i < f->o.nreplicas; i++)
		f->replicas[i].spec = &f->specs[i];
	return ms_restore_run(f->env, &f->o, &f->res, &f->err);
}

static unsigned files_in(const char *dir) {
	unsigned n = 0;
	DIR *d = opendir(dir);
	for (struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

static bool equals(const char *path, const uint8_t *want, size_t len) {
	uint8_t *p = malloc(len + 1);
	FILE *fp = fopen(path, "rb");
	if (!fp)
		return false;
	bool ok = fread(p, 1, len + 1, fp) == len && memcmp(p, want, len) == 0;
	fclose(fp);
	free(p);
	return ok;
}

static void check_at(struct fix *f, uint64_t txid) {
	size_t len;
	const uint8_t *want = maker_image(f->m, txid, &len);
	enum ms_code rc = run(f);
	cr_assert_eq(rc, MS_OK, "txid %llu: %s", (unsigned long long)txid, f->err.msg);
	cr_assert_eq(f->res.position.txid, txid, "%llu instead of %llu", (unsigned long long)f->res.position.txid, (unsigned long long)txid);
	cr_assert(equals(f->out, want, len), "txid %llu differs", (unsigned long long)txid);
	cr_assert_eq(files_in(f->dir), 1, "leftovers");
	cr_assert_eq(unlink(f->out), 0);
}

static void check_txid(struct fix *f, uint64_t txid) {
	f->o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = txid};
	check_at(f, txid);
}

/* A history with growth, shrink and a merged stretch. */
static void history(struct fix *f, uint32_t per_chunk) {
	struct maker *m = f->m;
	for (int i = 0; i < 10; i++)
		maker_work(m, i == 4 ? 800 : 30);
	maker_head(m, 1, 0, MAKER_T0);
	maker_snapshot(m, 1, 0);
	maker_segment(m, 2, 4);
	maker_segment(m, 5, 5);
	maker_parts(m, 6, 3);
	maker_segment(m, 7, 11);
	maker_exec(m, "DELETE FROM t WHERE id > 60");
	maker_exec(m, "VACUUM");
	maker_work(m, 200);
	maker_segment(m, 12, 13);
	maker_segment(m, 14, 14);
	maker_snapshot(m, 13, per_chunk);
	maker_work(m, 5);
	maker_work(m, 5);
	maker_segment(m, 15, 15);
	maker_segment(m, 16, 16);
}

Test(restore, every_txid) {
	struct fix f = setup(4096);
	history(&f, 4);
	for (uint64_t t = 1; t <= 16; t++)
		check_txid(&f, t);
	teardown(&f);
}

Test(restore, every_page_size) {
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		struct fix f = setup(size);
		history(&f, 3);
		f.o.target.kind = MS_TARGET_NEWEST;
		f.o.verify = MS_VERIFY_FULL;
		check_at(&f, 16);
		check_txid(&f, 12);
		teardown(&f);
	}
}

Test(restore, every_time) {
	struct fix f = setup(1024);
	history(&f, 8);
	f.o.target.kind = MS_TARGET_TIME;
	for (uint64_t t = 1; t <= 16; t++) {
		f.o.target.time_us = maker_time(f.m, t);
		check_at(&f, t);
		f.o.target.time_us = maker_time(f.m, t) + 999999;
		check_at(&f, t);
	}
	f.o.target.time_us = maker_time(f.m, 1) - 1;
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	cr_assert(strstr(f.err.msg, "txid 1 (2026-01-01T00:00:00"), "%s", f.err.msg);
	cr_assert(strstr(f.err.msg, "to 16 "), "%s", f.err.msg);
	teardown(&f);
}

Test(restore, small_memory_and_spilled_hashes) {
	struct fix f = setup(512);
	history(&f, 16);
	f.o.cache_bytes = 8 * 512;
	f.o.hash_bytes = 64;
	for (uint64_t t = 1; t <= 16; t++)
		check_txid(&f, t);
	teardown(&f);
}

Test(restore, merged_segments_are_preferred_and_entered_in_the_middle) {
	struct fix f = setup(4096);
	history(&f, 4);
	maker_merged(f.m, 2, 12);
	check_txid(&f, 12);
	cr_assert_eq(f.res.segment_objects, 1);
	check_txid(&f, 9);
	maker_merged(f.m, 10, 15);
	check_txid(&f, 15); /* snapshot 13 lies inside it */
	cr_assert_eq(f.res.snapshot_txid, 13);
	cr_assert_eq(f.res.segment_objects, 1);
	teardown(&f);
}

/* Put while the replica had no segments of its time: what leads through it is a catch-up, which only restores from the state before it. */
Test(restore, a_snapshot_within_a_catch_up) {
	struct fix f = setup(1024);
	for (int i = 0; i < 20; i++)
		maker_work(f.m, 20 + 30 * (unsigned)(i % 4));
	maker_head(f.m, 1, 0, MAKER_T0);
	maker_snapshot(f.m, 1, 0);
	maker_segment(f.m, 2, 5);
	maker_fold(f.m, 6, 14);
	maker_snapshot(f.m, 9, 4);
	check_txid(&f, 14); /* the catch-up is the newest segment, whose name does not say where it ends */
	maker_segment(f.m, 15, 18);
	maker_segment(f.m, 19, 21);
	static const uint64_t restores[] = {1, 2, 5, 9, 14, 15, 17, 21};
	for (size_t i = 0; i < sizeof restores / sizeof *restores; i++)
		check_txid(&f, restores[i]);
	static const uint64_t within[] = {6, 8, 10, 13};
	for (size_t i = 0; i < sizeof within / sizeof *within; i++) {
		f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = within[i]};
		cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
		cr_expect(strstr(f.err.msg, "within a catch-up") && strstr(f.err.msg, "txid 14"), "%s", f.err.msg);
		cr_assert_eq(files_in(f.dir), 0);
	}
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_NEWEST};
	check_at(&f, 21);
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TIME, .time_us = maker_time(f.m, 16) + 10};
	check_at(&f, 16);
	/* With a newer one there is no need to go back. */
	maker_snapshot(f.m, 16, 4);
	check_txid(&f, 20);
	teardown(&f);
}

/* One replica holds the first commits of the stretch that the other one has as a catch-up. */
Test(restore, a_catch_up_behind_commits_of_another_replica) {
	struct fix f = setup(512);
	char *other = ms_test_tmpdir();
	for (int i = 0; i < 20; i++)
		maker_work(f.m, 30);
	maker_head(f.m, 1, 0, MAKER_T0);
	maker_snapshot(f.m, 1, 0);
	maker_segment(f.m, 2, 5);
	maker_fold(f.m, 6, 14);
	maker_segment(f.m, 15, 21);
	maker_set_dir(f.m, other);
	maker_head(f.m, 1, 0, MAKER_T0);
	maker_snapshot(f.m, 1, 0);
	maker_segment(f.m, 2, 8);
	maker_segment(f.m, 9, 11);
	add_replica(&f, f.replica);
	add_replica(&f, other);
	for (uint64_t t = 1; t <= 21; t++)
		if (t < 12 || t > 13)
			check_txid(&f, t);
	teardown(&f);
}

Test(restore, patched_snapshot) {
	struct fix f = setup(2048);
	history(&f, 4);
	maker_patched_snapshot(f.m, 15, 11, 4);
	check_txid(&f, 15);
	cr_assert_eq(f.res.snapshot_txid, 15);
	check_txid(&f, 16);
	teardown(&f);
}

Test(restore, gap_is_named) {
	struct fix f = setup(4096);
	history(&f, 4);
	cr_assert_eq(unlink(maker_segment_path(f.m, 5)), 0);
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = 9};
	cr_assert_eq(run(&f), MS_EGAP);
	cr_assert(strstr(f.err.msg, "txid 5 is missing"), "%s", f.err.msg);
	cr_assert_eq(files_in(f.dir), 0);
	f.o.target.stop_at_gap = true;
	check_at(&f, 4);
	cr_assert_eq(f.res.gap_txid, 5);
	/* by time: what is missing may lie before it */
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TIME, .time_us = maker_time(f.m, 5)};
	cr_assert_eq(run(&f), MS_EGAP);
	cr_assert(strstr(f.err.msg, "txid 5 is missing"), "%s", f.err.msg);
	/* beyond the newer snapshot nothing is missing */
	check_txid(&f, 16);
	teardown(&f);
}

Test(restore, missing_part_is_a_gap) {
	struct fix f = setup(4096);
	history(&f, 4);
	char path[1024];
	snprintf(path, sizeof path, "%s/%s/segments/0000000000000006+0001.seg", f.replica, maker_generation(f.m));
	cr_assert_eq(unlink(path), 0);
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = 8};
	cr_assert_eq(run(&f), MS_EGAP);
	cr_assert(strstr(f.err.msg, "txid 6 is missing"), "%s", f.err.msg);
	check_txid(&f, 5);
	teardown(&f);
}

Test(restore, unfinished_tail_does_not_count) {
	struct fix f = setup(4096);
	history(&f, 4);
	maker_work(f.m, 400);
	maker_parts(f.m, 17, 3);
	char path[1024];
	snprintf(path, sizeof path, "%s/%s/segments/0000000000000011+0002.seg", f.replica, maker_generation(f.m));
	cr_assert_eq(unlink(path), 0);
	f.o.target.kind = MS_TARGET_NEWEST;
	check_at(&f, 16);
	teardown(&f);
}

Test(restore, below_settled_is_refused) {
	struct fix f = setup(4096);
	history(&f, 4);
	maker_head(f.m, 2, 16, MAKER_T0);
	f.o.target.kind = MS_TARGET_NEWEST;
	check_at(&f, 16);
	cr_assert_eq(unlink(maker_segment_path(f.m, 16)), 0);
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	cr_assert(strstr(f.err.msg, "txid 15") && strstr(f.err.msg, "txid 16") && strstr(f.err.msg, "--allow-loss"), "%s", f.err.msg);
	f.o.target.allow_loss = true;
	check_at(&f, 15);
	teardown(&f);
}

Test(restore, no_such_point) {
	struct fix f = setup(4096);
	f.o.target.kind = MS_TARGET_NEWEST;
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	history(&f, 4);
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = 17};
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	cr_assert(strstr(f.err.msg, "txid 17 is not in the replica: restorable are txid 1 ("), "%s", f.err.msg);
	cr_assert_eq(unlink(maker_snapshot_path(f.m, 1)), 0);
	f.o.target.txid = 3;
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	cr_assert(strstr(f.err.msg, "txid 13 ("), "%s", f.err.msg);
	teardown(&f);
}

Test(restore, forks) {
	struct fix f = setup(4096);
	struct maker *m = f.m;
	size_t len;
	history(&f, 4);
	char old[MS_GENERATION_LEN + 1];
	snprintf(old, sizeof old, "%s", maker_generation(m));
	/* What txid 16 of the first generation is, before it is abandoned. */
	const uint8_t *p = maker_image(m, 16, &len);
	uint8_t *abandoned = malloc(len);
	memcpy(abandoned, p, len);
	maker_fence(m, 17);
	maker_set_time(m, maker_time(m, 16) + 60 * 1000000LL);
	maker_fork(m, 9);
	maker_head(m, 2, 9, MAKER_T0 + 75 * 1000000LL);
	f.o.target.kind = MS_TARGET_NEWEST;
	check_at(&f, 9); /* nothing of its own yet: the fork point */
	maker_work(m, 40);
	maker_segment(m, 10, 10);
	maker_work(m, 40);
	maker_segment(m, 11, 11);
	f.o.target.kind = MS_TARGET_NEWEST;
	check_at(&f, 11);
	cr_assert_str_eq(f.res.position.generation.s, maker_generation(m));
	check_txid(&f, 9);
	cr_assert_str_eq(f.res.position.generation.s, old);
	check_txid(&f, 10);
	/* A time while the old one was head: its own history, also past the fork. */
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TIME, .time_us = MAKER_T0 + 15 * 1000000LL};
	cr_assert_eq(run(&f), MS_OK, "%s", f.err.msg);
	cr_assert_eq(f.res.position.txid, 16);
	cr_assert(equals(f.out, abandoned, len));
	unlink(f.out);
	f.o.target.time_us = maker_time(m, 10);
	check_at(&f, 10);
	/* Named outright. */
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = 16};
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	f.o.target.generation = old;
	cr_assert_eq(run(&f), MS_OK, "%s", f.err.msg);
	cr_assert(equals(f.out, abandoned, len));
	unlink(f.out);
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_NEWEST, .generation = old};
	cr_assert_eq(run(&f), MS_OK, "%s", f.err.msg);
	cr_assert_eq(f.res.position.txid, 16);
	unlink(f.out);
	f.o.target.generation = "00000009-00000000";
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	free(abandoned);
	teardown(&f);
}

Test(restore, ambiguous_time) {
	struct fix f = setup(4096);
	struct maker *m = f.m;
	history(&f, 4);
	/* The new owner's clock is ten seconds behind: both were head at 12 s. */
	maker_set_time(m, MAKER_T0 + 6 * 1000000LL);
	maker_fork(m, 9);
	maker_head(m, 2, 9, MAKER_T0 + 5 * 1000000LL);
	for (int i = 0; i < 8; i++)
		maker_work(m, 3);
	maker_segment(m, 10, 17);
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TIME, .time_us = MAKER_T0 + 12 * 1000000LL};
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	cr_assert(strstr(f.err.msg, "ambiguous") && strstr(f.err.msg, "txid 13 of 00000001") && strstr(f.err.msg, "txid 16 of 00000002"), "%s", f.err.msg);
	f.o.target.generation = maker_generation(m);
	check_at(&f, 16);
	teardown(&f);
}

Test(restore, without_heads_the_lineage_comes_from_headers) {
	struct fix f = setup(4096);
	struct maker *m = f.m;
	history(&f, 4);
	maker_fork(m, 9);
	maker_work(m, 3);
	maker_segment(m, 10, 10);
	char path[1024];
	snprintf(path, sizeof path, "%s/head/00000001", f.replica);
	cr_assert_eq(unlink(path), 0);
	f.o.target.kind = MS_TARGET_NEWEST;
	check_at(&f, 10);
	teardown(&f);
}

Test(restore, from_whichever_replica_is_whole) {
	struct fix f = setup(4096);
	struct maker *m = f.m;
	history(&f, 4);
	char *second = ms_test_tmpdir();
	maker_set_dir(m, second);
	maker_head(m, 1, 0, MAKER_T0);
	maker_snapshot(m, 1, 0);
	maker_segment(m, 2, 3); /* cut differently */
	maker_segment(m, 4, 8);
	maker_set_dir(m, f.replica);
	add_replica(&f, f.replica);
	add_replica(&f, second);
	cr_assert_eq(unlink(maker_segment_path(m, 5)), 0);
	check_txid(&f, 10);
	/* damaged on the one, whole on the other */
	FILE *fp = fopen(maker_segment_path(m, 2), "r+b");
	fseek(fp, 700, SEEK_SET);
	int c = fgetc(fp);
	fseek(fp, 700, SEEK_SET);
	fputc(c ^ 4, fp);
	fclose(fp);
	check_txid(&f, 10);
	cr_assert(f.res.warning[0]);
	/* nowhere whole */
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = 16};
	check_at(&f, 16);
	teardown(&f);
}

/* ---- the target ---- */

static void put_file(const char *path, const char *text) {
	FILE *fp = fopen(path, "wb");
	fputs(text, fp);
	fclose(fp);
}

Test(restore, target_rules) {
	struct fix f = setup(4096);
	history(&f, 4);
	f.o.target.kind = MS_TARGET_NEWEST;
	put_file(f.out, "precious");
	cr_assert_eq(run(&f), MS_EEXISTS);
	cr_assert(equals(f.out, (const uint8_t *)"precious", 8));
	f.o.if_not_exists = true;
	cr_assert_eq(run(&f), MS_OK);
	cr_assert(f.res.existed);
	cr_assert(equals(f.out, (const uint8_t *)"precious", 8));
	f.o.if_not_exists = false;
	f.o.force = true;
	check_at(&f, 16);
	/* leftovers count as an existing target */
	f.o.force = false;
	char *wal = ms_test_path(f.dir, "out.db-wal"), *journal = ms_test_path(f.dir, "out.db-journal");
	put_file(wal, "stale");
	cr_assert_eq(run(&f), MS_EEXISTS);
	cr_assert(strstr(f.err.msg, "-wal"), "%s", f.err.msg);
	f.o.if_not_exists = true;
	cr_assert_eq(run(&f), MS_EEXISTS);
	put_file(journal, "stale");
	f.o.if_not_exists = false;
	f.o.force = true;
	check_at(&f, 16); /* counts the files: both are gone */
	/* on failure they are back */
	put_file(wal, "stale");
	f.o.target = (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = 99};
	cr_assert_eq(run(&f), MS_ENOTRESTORABLE);
	cr_assert(equals(wal, (const uint8_t *)"stale", 5));
	cr_assert_eq(files_in(f.dir), 1);
	unlink(wal);
	/* not a file */
	cr_assert_eq(mkdir(f.out, 0700), 0);
	cr_assert_eq(run(&f), MS_EEXISTS);
	rmdir(f.out);
	free(wal);
	free(journal);
	teardown(&f);
}

/* Another process that has the database open, as `pragma` says, until the pipe is closed. */
static pid_t holder(const char *path, const char *setup_sql, const char *hold_sql, int *ret_pipe) {
	int ready[2], stop[2];
	char c;
	cr_assert_eq(pipe(ready), 0);
	cr_assert_eq(pipe(stop), 0);
	pid_t pid = fork();
	if (pid == 0) {
		sqlite3 *db;
		close(stop[1]);
		if (sqlite3_open(path, &db) || sqlite3_exec(db, setup_sql, NULL, NULL, NULL) || sqlite3_exec(db, hold_sql, NULL, NULL, NULL))
			_exit(9);
		if (write(ready[1], "r", 1) != 1)
			_exit(8);
		(void)!read(stop[0], &c, 1);
		_exit(0);
	}
	close(ready[1]);
	close(stop[0]);
	cr_assert_eq(read(ready[0], &c, 1), 1, "the holder failed");
	close(ready[0]);
	*ret_pipe = stop[1];
	return pid;
}

Test(restore, a_database_in_use_is_never_replaced) {
	static const char *const cases[][2] = {
		{"PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS a(x); INSERT INTO a VALUES(1)", "SELECT * FROM a"}, /* idle, WAL */
		{"PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS a(x)", "BEGIN IMMEDIATE; INSERT INTO a VALUES(2)"},
		{"PRAGMA journal_mode=DELETE; CREATE TABLE IF NOT EXISTS a(x)", "BEGIN; INSERT INTO a VALUES(3)"},
	};
	struct fix f = setup(4096);
	history(&f, 4);
	for (size_t i = 0; i < 3; i++) {
		int fd, status;
		struct stat before, after;
		pid_t pid = holder(f.out, cases[i][0], cases[i][1], &fd);
		cr_assert_eq(stat(f.out, &before), 0);
		f.o.force = true;
		cr_assert_eq(run(&f), MS_EBUSY, "case %zu: %s", i, f.err.msg);
		cr_assert_eq(stat(f.out, &after), 0);
		cr_assert_eq(before.st_ino, after.st_ino);
		close(fd);
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0);
		/* The holder died without closing: its -wal or -journal is a leftover now. */
		check_at(&f, 16);
	}
	teardown(&f);
}

/* What SQLite itself makes of the result, when the old database left a -wal that fits nothing. */
Test(restore, sqlite_sees_the_restored_database) {
	struct fix f = setup(4096);
	int fd, status;
	history(&f, 4);
	pid_t pid = holder(f.out, "PRAGMA journal_mode=WAL; CREATE TABLE old(x); INSERT INTO old VALUES(1)", "INSERT INTO old VALUES(2)", &fd);
	close(fd);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	f.o.force = true;
	f.o.target.kind = MS_TARGET_NEWEST;
	cr_assert_eq(run(&f), MS_OK, "%s", f.err.msg);
	sqlite3 *db;
	sqlite3_stmt *st;
	cr_assert_eq(sqlite3_open(f.out, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_prepare_v2(db, "SELECT count(*) FROM t WHERE (SELECT count(*) FROM sqlite_schema WHERE name = 'old') = 0", -1, &st, NULL), SQLITE_OK);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	cr_assert_gt(sqlite3_column_int(st, 0), 200);
	sqlite3_finalize(st);
	cr_assert_eq(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &st, NULL), SQLITE_OK);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	cr_assert_str_eq((const char *)sqlite3_column_text(st, 0), "ok");
	sqlite3_finalize(st);
	sqlite3_close(db);
	teardown(&f);
}

Test(restore, permission_bits_are_never_wider) {
	struct fix f = setup(4096);
	struct stat st;
	history(&f, 4);
	f.o.umask = 022;
	cr_assert_eq(run(&f), MS_OK);
	cr_assert_eq(stat(f.out, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0640);
	unlink(f.out);
	f.o.umask = 077;
	cr_assert_eq(run(&f), MS_OK);
	cr_assert_eq(stat(f.out, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600);
	teardown(&f);
}

Test(restore, other_file_system_for_the_work) {
	struct fix f = setup(4096);
	struct stat a, b;
	history(&f, 4);
	char dir[] = "/dev/shm/ms-restore-XXXXXX";
	if (!mkdtemp(dir) || stat(dir, &a) || stat(f.dir, &b) || a.st_dev == b.st_dev)
		cr_skip_test("no second file system");
	f.o.temp_dir = dir;
	check_at(&f, 16);
	cr_assert_eq(files_in(dir), 0);
	rmdir(dir);
	f.o.temp_dir = f.replica; /* the same file system: renamed */
	check_at(&f, 16);
	f.o.temp_dir = "/nonexistent/dir";
	enum ms_code rc = run(&f);
	cr_assert(rc != MS_OK && ms_code_exit(rc) == 1, "%d %s", rc, f.err.msg);
	teardown(&f);
}

Test(restore, cancel_leaves_nothing) {
	struct fix f = setup(4096);
	history(&f, 4);
	atomic_bool cancel = true;
	f.o.cancel = &cancel;
	cr_assert_eq(run(&f), MS_ECANCELED);
	cr_assert_eq(files_in(f.dir), 0);
	teardown(&f);
}

/* ---- damage ---- */

static char victims[64][512];
static unsigned nvictims;
static int collect(const char *path, const struct stat *st, int type, struct FTW *ftw) {
	(void)ftw;
	if (type == FTW_F && st->st_size && nvictims < 64)
		snprintf(victims[nvictims++], sizeof victims[0], "%s", path);
	return 0;
}

Test(restore, any_flipped_bit_is_found) {
	struct fix f = setup(1024);
	struct maker *m = f.m;
	/* Everything there is needed for the newest state. */
	for (int i = 0; i < 3; i++)
		maker_work(m, 30);
	maker_head(m, 1, 0, MAKER_T0);
	maker_patched_snapshot(m, 4, 2, 16);
	maker_work(m, 20);
	maker_work(m, 2);
	maker_work(m, 2);
	maker_segment(m, 5, 6);
	maker_parts(m, 7, 2);
	put_file(f.out, "precious");
	f.o.force = true;
	nvictims = 0;
	nftw(f.replica, collect, 16, FTW_PHYS);
	cr_assert_geq(nvictims, 6);
	srand(1);
	for (unsigned v = 0; v < nvictims; v++) {
		struct stat st;
		cr_assert_eq(stat(victims[v], &st), 0);
		for (int k = 0; k < 60; k++) {
			long bit = k < 10 ? k * 8 + rand() % 8 : k < 20 ? st.st_size * 8 - 1 - (k - 10) * 8 - rand() % 8 : (long)((double)rand() / RAND_MAX * (double)(st.st_size * 8 - 1));
			FILE *fp = fopen(victims[v], "r+b");
			fseek(fp, bit / 8, SEEK_SET);
			int c = fgetc(fp);
			fseek(fp, bit / 8, SEEK_SET);
			fputc(c ^ 1 << bit % 8, fp);
			fclose(fp);
			enum ms_code rc = run(&f);
			cr_assert(ms_code_exit(rc) == 3, "bit %ld of %s: %d %s", bit, victims[v], rc, f.err.msg);
			cr_assert(strstr(f.err.msg, victims[v] + strlen(f.replica) + 1), "bit %ld of %s: %s", bit, victims[v], f.err.msg);
			cr_assert(!strchr(f.err.msg, '\n'));
			cr_assert(equals(f.out, (const uint8_t *)"precious", 8));
			cr_assert_eq(files_in(f.dir), 1);
			fp = fopen(victims[v], "r+b");
			fseek(fp, bit / 8, SEEK_SET);
			fputc(c, fp);
			fclose(fp);
		}
		/* cut short, and longer */
		FILE *fp = fopen(victims[v], "ab");
		fputc(0, fp);
		fclose(fp);
		cr_assert_eq(ms_code_exit(run(&f)), 3, "%s longer: %s", victims[v], f.err.msg);
		cr_assert_eq(truncate(victims[v], st.st_size), 0);
	}
	f.o.target.kind = MS_TARGET_NEWEST;
	check_at(&f, 7);
	teardown(&f);
}
