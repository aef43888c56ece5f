/* What cannot be followed is told clearly, left untouched, and followed as soon as it can be. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include "support/sqlite_fx.h"

static char *beside(struct fx *f, const char *suffix) {
	static char path[4][4300];
	static int i;
	i = (i + 1) % 4;
	snprintf(path[i], sizeof path[i], "%s%s", f->db, suffix);
	return path[i];
}

static void expect(struct fx *f, enum ms_source_state state, const char *why) {
	cr_assert_eq(rig_attach_only(&f->r, NULL), state, "state %d: %s", f->r.res.state, f->r.res.why);
	cr_assert(strstr(f->r.res.why, why), "%s", f->r.res.why);
	cr_assert_gt(f->r.res.next_poll_us, 0);
	cr_assert_leq(f->r.res.next_poll_us, 1000000);
}

static void expect_following(struct fx *f) {
	cr_assert_eq(rig_attach(&f->r, NULL), MS_SRC_FOLLOWING, "%s", f->r.res.why);
	cr_assert_eq(f->r.mismatches, 0);
}

static void bare(struct fx *f) {
	f->dir = ms_test_tmpdir();
	f->db = ms_test_path(f->dir, "app.db");
	f->app = sq_spawn();
	f->oracle = sq_spawn();
	rig_init(&f->r, f->db, NULL);
}

static uint8_t *slurp(const char *path, size_t *ret_len) {
	struct stat st;
	int fd = open(path, O_RDONLY);
	cr_assert_eq(fstat(fd, &st), 0);
	uint8_t *p = malloc((size_t)st.st_size + 1);
	cr_assert_eq(read(fd, p, (size_t)st.st_size), st.st_size);
	close(fd);
	*ret_len = (size_t)st.st_size;
	return p;
}

static void listing(const char *dir, char ret[1000]) {
	struct dirent **e;
	int n = scandir(dir, &e, NULL, alphasort);
	ret[0] = 0;
	for (int i = 0; i < n; i++) {
		strcat(strcat(ret, e[i]->d_name), " ");
		free(e[i]);
	}
	free(e);
}

/* Not yet existing, then empty, then in rollback mode, then WAL: each told, and the event descriptor wakes at each change. */
Test(sqlite_wal_refuse, missing_empty_not_wal_then_followed) {
	struct fx f;
	bare(&f);
	expect(&f, MS_SRC_MISSING, "does not exist");
	close(open(f.db, O_CREAT | O_WRONLY, 0644));
	expect(&f, MS_SRC_EMPTY, "empty");
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	cr_assert_eq(sq_exec(f.app, "CREATE TABLE t(x)"), 0);
	expect(&f, MS_SRC_NOT_WAL, "PRAGMA journal_mode=WAL");
	cr_assert_str_eq(sq_query(f.app, "PRAGMA journal_mode=WAL"), "wal");
	cr_assert_eq(sq_load_schema(f.app), 0);
	expect_following(&f);
	fx_small(&f, 3);
	fx_check(&f);
	fx_close(&f);
}

static bool readable(struct fx *f, int ms) {
	struct pollfd p = {f->r.src->ops->event_fd(f->r.src), POLLIN, 0};
	return poll(&p, 1, ms) == 1;
}

Test(sqlite_wal_refuse, events_wake_while_waiting_and_while_quiet) {
	struct fx f;
	bare(&f);
	int fd = f.r.src->ops->event_fd(f.r.src);
	cr_assert_geq(fd, 0);
	expect(&f, MS_SRC_MISSING, "");
	cr_assert_not(readable(&f, 0));
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA journal_mode=WAL"), "wal");
	cr_assert_eq(sq_load_schema(f.app), 0);
	cr_assert(readable(&f, 1000), "its creation is an event");
	expect_following(&f);
	rig_drain(&f.r, 60);
	cr_assert_not(readable(&f, 0), "nothing happened");
	cr_assert_geq(f.r.res.next_poll_us, 1000);
	fx_small(&f, 1);
	cr_assert(readable(&f, 1000), "a commit is an event");
	rig_drain(&f.r, 60);
	cr_assert_not(readable(&f, 0), "and step() has read it");
	for (int i = 0; i < 20; i++)
		rig_step(&f.r);
	cr_assert_eq(f.r.res.next_poll_us, 1000000, "polls slow down to one a second");
	cr_assert_eq(f.r.src->ops->event_fd(f.r.src), fd);
	fx_close(&f);
}

Test(sqlite_wal_refuse, not_a_database) {
	struct fx f;
	bare(&f);
	FILE *file = fopen(f.db, "w");
	for (int i = 0; i < 1000; i++)
		fputs("not a database\n", file);
	fclose(file);
	expect(&f, MS_SRC_REFUSED, "not a SQLite database");
	unlink(f.db);
	mkdir(f.db, 0755);
	expect(&f, MS_SRC_REFUSED, "not a regular file");
	fx_close(&f);
}

Test(sqlite_wal_refuse, exclusive_locking_mode) {
	struct fx f;
	bare(&f);
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL"), "wal");
	cr_assert_eq(sq_load_schema(f.app), 0);
	cr_assert_neq(access(beside(&f, "-shm"), F_OK), 0);
	for (int i = 0; i < 100 && rig_attach_only(&f.r, NULL) == MS_SRC_BUSY; i++)
		usleep(20000);
	expect(&f, MS_SRC_REFUSED, "Take PRAGMA locking_mode=EXCLUSIVE out");
	cr_assert_eq(sq_close(f.app),
		     0); /* a WAL that was opened in exclusive mode stays exclusive as long as the connection lives */
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	expect_following(&f);
	/* And the other way: while we are attached the application cannot go exclusive. */
	sq_query(f.app, "PRAGMA busy_timeout=0; PRAGMA locking_mode=EXCLUSIVE");
	cr_assert_str_eq(sq_query(f.app, "UPDATE seq SET n=n+1"), "error: database is locked");
	cr_assert_str_eq(sq_query(f.app, "PRAGMA locking_mode=NORMAL"), "normal");
	fx_small(&f, 2);
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal_refuse, foreign_uid) {
	struct fx f;
	if (geteuid() != 0)
		cr_skip_test("needs root to become someone else");
	fx_database(&f, "");
	cr_assert_eq(chmod(f.dir, 0777), 0);
	cr_assert_eq(sq_close(f.app), 0);
	rig_init(&f.r, f.db, NULL);
	cr_assert_eq(seteuid(12345), 0);
	expect(&f, MS_SRC_REFUSED, "run as uid 0 or root");
	cr_assert_neq(access(beside(&f, "-wal"), F_OK), 0, "nothing was made");
	cr_assert_neq(access(beside(&f, "-shm"), F_OK), 0);
	cr_assert_eq(seteuid(0), 0);
	/* Files that exist and that it may write: then it does no harm. */
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	cr_assert_str_eq(sq_query(f.app, "SELECT n FROM seq"), "0");
	cr_assert_eq(seteuid(12345), 0);
	expect(&f, MS_SRC_REFUSED, "cannot be written by uid 12345");
	cr_assert_eq(seteuid(0), 0);
	chmod(beside(&f, "-wal"), 0666);
	chmod(beside(&f, "-shm"), 0666);
	chmod(f.db, 0666);
	cr_assert_eq(seteuid(12345), 0);
	expect_following(&f);
	fx_run(&f, "UPDATE seq SET n=n+1");
	rig_drain(&f.r, 5);
	cr_assert_eq(f.r.commits, 1);
	cr_assert_eq(seteuid(0), 0);
	fx_close(&f);
}

/* Root makes -wal and -shm with the owner's uid and mode, so that the owner can go on writing. */
Test(sqlite_wal_refuse, root_keeps_the_owner) {
	struct fx f;
	struct stat st;
	if (geteuid() != 0)
		cr_skip_test("needs root");
	fx_database(&f, "");
	cr_assert_eq(sq_close(f.app), 0);
	cr_assert_eq(chown(f.db, 12345, 12345), 0);
	cr_assert_eq(chmod(f.db, 0640), 0);
	rig_init(&f.r, f.db, NULL);
	expect_following(&f);
	cr_assert_eq(f.r.info.uid, 12345);
	cr_assert_eq(f.r.info.mode, 0640);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(stat(beside(&f, i ? "-shm" : "-wal"), &st), 0);
		cr_assert_eq(st.st_uid, 12345);
		cr_assert_eq(st.st_mode & 07777, 0640);
	}
	fx_close(&f);
}

Test(sqlite_wal_refuse, read_only_directory) {
	struct fx f;
	fx_database(&f, "");
	cr_assert_eq(sq_close(f.app), 0);
	rig_init(&f.r, f.db, NULL);
	if (geteuid() == 0) { /* permission bits do not stop root: be the owner of everything, as someone else */
		cr_assert_eq(chown(f.db, 12345, 12345), 0);
		cr_assert_eq(chown(f.dir, 12345, 12345), 0);
		cr_assert_eq(seteuid(12345), 0);
	}
	cr_assert_eq(chmod(f.dir, 0555), 0);
	expect(&f, MS_SRC_REFUSED, "not writable");
	cr_assert_eq(chmod(f.dir, 0755), 0);
	expect_following(&f);
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	fx_close(&f);
}

Test(sqlite_wal_refuse, hot_rollback_journal_is_left_alone) {
	struct fx f;
	size_t before_len, after_len;
	fx_database(&f, "");
	cr_assert_eq(sq_close(f.app), 0);
	FILE *file = fopen(beside(&f, "-journal"), "w");
	for (int i = 0; i < 600; i++)
		fputc('x', file);
	fclose(file);
	uint8_t *before = slurp(f.db, &before_len);
	rig_init(&f.r, f.db, NULL);
	expect(&f, MS_SRC_BUSY, "rollback journal");
	cr_assert_eq(access(beside(&f, "-journal"), F_OK), 0);
	uint8_t *after = slurp(f.db, &after_len);
	cr_assert(before_len == after_len && !memcmp(before, after, after_len));
	unlink(beside(&f, "-journal"));
	expect_following(&f);
	free(before);
	free(after);
	fx_close(&f);
}

/* Law 1: attach and detach leave nothing and change nothing. */
Test(sqlite_wal_refuse, quiet_database_is_left_as_it_was) {
	for (int open = 0; open <= 2;
	     open++) { /* closed; open by the application; left by one that was killed, with an empty -wal */
		struct fx f;
		char before[1000], after[1000];
		size_t before_len, after_len;
		struct stat a, b;
		fx_database(&f, "");
		fx_run(&f, "UPDATE seq SET n=n+1");
		if (!open)
			cr_assert_eq(sq_close(f.app), 0);
		if (open == 2) {
			cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(TRUNCATE)"), "0");
			sq_kill(f.app);
			f.app = sq_spawn();
		}
		listing(f.dir, before);
		cr_assert_str_eq(before, open ? ". .. app.db app.db-shm app.db-wal " : ". .. app.db ");
		uint8_t *data = slurp(f.db, &before_len), *wal = NULL;
		size_t wal_len = 0;
		if (open)
			wal = slurp(beside(&f, "-wal"), &wal_len);
		cr_assert_eq(stat(f.db, &a), 0);
		rig_init(&f.r, f.db, NULL);
		expect_following(&f);
		for (int i = 0; i < 10; i++)
			rig_step(&f.r);
		rig_drain(&f.r, 150);
		f.r.src->ops->detach(f.r.src);
		listing(f.dir, after);
		cr_assert_str_eq(after, before);
		uint8_t *now = slurp(f.db, &after_len);
		cr_assert(after_len == before_len && !memcmp(now, data, after_len));
		free(now);
		if (open) {
			now = slurp(beside(&f, "-wal"), &after_len);
			cr_assert(after_len == wal_len && !memcmp(now, wal, after_len));
			free(now);
		}
		cr_assert_eq(stat(f.db, &b), 0);
		cr_assert_eq(a.st_mtim.tv_nsec, b.st_mtim.tv_nsec);
		free(data);
		free(wal);
		fx_close(&f);
	}
}

Test(sqlite_wal_refuse, symlink_is_followed_and_its_change_noticed) {
	struct fx f;
	fx_database(&f, "");
	char *link_dir = ms_test_tmpdir(), *link = ms_test_path(link_dir, "link.db"), *other = ms_test_path(f.dir, "other.db");
	cr_assert_eq(symlink(f.db, link), 0);
	rig_init(&f.r, link, NULL);
	expect_following(&f);
	fx_small(&f, 3);
	fx_check(&f);
	char names[1000];
	listing(link_dir, names);
	cr_assert_str_eq(names, ". .. link.db ", "-wal and -shm lie beside the database, not beside the link");
	struct sq_worker *w = sq_spawn();
	cr_assert_eq(sq_open(w, other, 1000), 0);
	cr_assert_str_eq(sq_query(w, "PRAGMA journal_mode=WAL"), "wal");
	cr_assert_eq(sq_load_schema(w), 0);
	cr_assert_eq(unlink(link), 0);
	cr_assert_eq(symlink(other, link), 0);
	usleep(120000);
	cr_assert_eq(rig_step(&f.r), MS_SRC_REPLACED);
	f.r.src->ops->detach(f.r.src);
	expect_following(&f);
	const char *why = rig_compare(&f.r, f.oracle, other);
	cr_assert_str_empty(why, "%s", why);
	sq_end(w);
	free(link);
	free(other);
	fx_close(&f);
}

Test(sqlite_wal_refuse, deleted_and_moved_back) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 2);
	rig_drain(&f.r, 5);
	char *away = ms_test_path(f.dir, "away.db");
	cr_assert_eq(rename(f.db, away), 0);
	cr_assert(readable(&f, 1000));
	cr_assert_eq(rig_step(&f.r), MS_SRC_MISSING);
	cr_assert_eq(rename(away, f.db), 0);
	usleep(120000);
	cr_assert_eq(rig_step(&f.r), MS_SRC_FOLLOWING);
	fx_small(&f, 2);
	fx_check(&f);
	free(away);
	fx_close(&f);
}

/* Another database put in place by rename; the old one's -wal lies beside it, and SQLite would show the old content (fact 16). */
Test(sqlite_wal_refuse, replaced_by_rename_with_a_stale_wal) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	struct ms_cookie cookie = f.r.cookie;
	char *other = ms_test_path(f.dir, "other.db");
	struct sq_worker *w = sq_spawn();
	cr_assert_eq(sq_open(w, other, 1000), 0);
	cr_assert_str_eq(sq_query(w, "PRAGMA journal_mode=WAL"), "wal");
	cr_assert_eq(sq_load_schema(w), 0);
	cr_assert_eq(sq_exec(w, "UPDATE seq SET n=4711"), 0);
	cr_assert_eq(sq_close(w), 0);
	sq_kill(f.app);
	cr_assert_eq(rename(other, f.db), 0);
	usleep(120000);
	cr_assert_eq(rig_step(&f.r), MS_SRC_REPLACED);
	cr_assert(strstr(f.r.res.why, "another file"), "%s", f.r.res.why);
	f.r.src->ops->detach(f.r.src);
	expect(&f, MS_SRC_REFUSED, "-wal of the old file");
	cr_assert_eq(rig_attach_only(&f.r, &cookie), MS_SRC_REFUSED); /* also a new process, which knows only the cookie */
	rig_release(&f.r);
	rig_init(&f.r, f.db, NULL);
	cr_assert_eq(rig_attach_only(&f.r, &cookie), MS_SRC_REFUSED);
	unlink(beside(&f, "-wal"));
	unlink(beside(&f, "-shm"));
	cr_assert_eq(rig_attach_only(&f.r, &cookie), MS_SRC_FOLLOWING);
	cr_assert_not(f.r.info.continuous);
	rig_seed(&f.r);
	cr_assert_str_eq(rig_query(&f.r, "SELECT n FROM seq"), "4711");
	f.app = w;
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	f.r.at = f.r.nexpect;
	fx_small(&f, 2);
	fx_check(&f);
	free(other);
	fx_close(&f);
}

/* A broken frame in the middle of the WAL: SQLite's readers do not check it, we do. */
Test(sqlite_wal_refuse, damaged_wal) {
	struct fx f;
	fx_database(&f, "");
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	for (int i = 0; i < 30; i++)
		fx_run(&f, "UPDATE seq SET n=n+1");
	int fd = open(beside(&f, "-wal"), O_RDWR);
	cr_assert_eq(pwrite(fd, "damage", 6, 32 + 5 * 4120 + 500), 6);
	close(fd);
	rig_init(&f.r, f.db, NULL);
	expect(&f, MS_SRC_REFUSED, "frame 6 fails its checksum");
	fx_close(&f);
}
