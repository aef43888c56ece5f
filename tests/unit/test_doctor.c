/* Doctor: databases made by SQLite, headers made by hand, and replicas that behave and that do not. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/buf.h"
#include "cmd/doctor.h"

static char dir[64];
static struct ms_env *env;
static struct ms_doctor d;

static void setup(void) {
	struct ms_err err = MS_ERR_INIT;
	strcpy(dir, "/tmp/ms_doctor_XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	cr_assert_eq(chdir(dir), 0);
	cr_assert_not_null(env = ms_env_uv_new(NULL, &err), "%s", err.msg);
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
	ms_doctor_init(&d, env);
}

static void teardown(void) {
	char command[100];
	ms_doctor_release(&d);
	ms_env_uv_free(env);
	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	cr_assert_eq(chdir("/"), 0);
	cr_assert_eq(system(command), 0);
}

static const struct ms_check *find(const char *name) {
	for (unsigned i = 0; i < d.n; i++)
		if (strcmp(d.checks[i].name, name) == 0)
			return &d.checks[i];
	return NULL;
}

static void is(const char *name, enum ms_finding result, const char *part) {
	const struct ms_check *c = find(name);
	cr_assert_not_null(c, "no check %s", name);
	cr_assert_eq(c->result, result, "%s: %d %s", name, c->result, c->message);
	cr_assert_not_null(strstr(c->message, part), "%s: %s", name, c->message);
	cr_assert_eq(c->advice[0] == 0, result == MS_FINDING_OK, "%s: advice '%s'", name, c->advice);
}

static sqlite3 *make(const char *path, const char *sql) {
	sqlite3 *db;
	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
	return db;
}

Test(doctor, healthy, .init = setup, .fini = teardown) {
	sqlite3 *db = make("app.db", "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
	struct stat before, after;
	cr_assert_eq(stat("app.db-shm", &before), 0);
	ms_doctor_database(&d, "app.db");
	is("file", MS_FINDING_OK, "exists");
	is("wal-mode", MS_FINDING_OK, "WAL");
	is("page-size", MS_FINDING_OK, "1024 bytes");
	is("permissions", MS_FINDING_OK, "owner");
	is("locks", MS_FINDING_OK, "work");
	is("shared-memory", MS_FINDING_OK, "can be mapped");
	cr_assert(ms_doctor_ok(&d));
	for (unsigned i = 0; i < d.n; i++)
		cr_assert_str_eq(d.checks[i].subject, "app.db");
	cr_assert_eq(stat("app.db-shm", &after), 0);
	cr_assert_eq(after.st_ino, before.st_ino);
	sqlite3_close(db);
	/* Looking at a closed database leaves nothing beside it. */
	ms_doctor_database(&d, "app.db");
	cr_assert_eq(access("app.db-wal", F_OK), -1);
	cr_assert_eq(access("app.db-shm", F_OK), -1);
}

Test(doctor, not_wal, .init = setup, .fini = teardown) {
	sqlite3_close(make("app.db", "CREATE TABLE t(x)"));
	ms_doctor_database(&d, "app.db");
	is("wal-mode", MS_FINDING_FAIL, "not in WAL mode (header bytes 18 and 19 are 1 and 1)");
	cr_assert_not_null(strstr(find("wal-mode")->advice, "PRAGMA journal_mode=WAL"));
	cr_assert_not(ms_doctor_ok(&d));
}

Test(doctor, exclusive, .init = setup, .fini = teardown) {
	/* In another process: our own locks would not show. */
	int ready[2], leave[2];
	char c = 0;
	cr_assert_eq(pipe(ready), 0);
	cr_assert_eq(pipe(leave), 0);
	pid_t pid = fork();
	if (pid == 0) {
		sqlite3 *db;
		if (sqlite3_open("app.db", &db) || sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE t(x)", NULL, NULL, NULL))
			_exit(1);
		if (write(ready[1], "x", 1) != 1 || read(leave[0], &c, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(ready[1]);
	cr_assert_eq(read(ready[0], &c, 1), 1, "the holder failed");
	ms_doctor_database(&d, "app.db");
	cr_assert_eq(write(leave[1], "x", 1), 1);
	waitpid(pid, NULL, 0);
	is("locks", MS_FINDING_FAIL, "exclusively");
}

/* 100 bytes of a header by the file format's description, in a file of one page. */
static void header(const char *path, unsigned page_size, unsigned mode, uint32_t version, size_t size) {
	uint8_t h[100] = "SQLite format 3";
	FILE *f = fopen(path, "w");
	cr_assert_not_null(f);
	h[16] = (uint8_t)(page_size >> 8), h[17] = (uint8_t)page_size;
	h[18] = h[19] = (uint8_t)mode;
	h[96] = (uint8_t)(version >> 24), h[97] = (uint8_t)(version >> 16), h[98] = (uint8_t)(version >> 8), h[99] = (uint8_t)version;
	cr_assert_eq(fwrite(h, 1, sizeof h, f), sizeof h);
	fclose(f);
	cr_assert_eq(truncate(path, (off_t)size), 0);
}

Test(doctor, headers, .init = setup, .fini = teardown) {
	header("a.db", 4096, 2, 3040001, 8192);
	ms_doctor_database(&d, "a.db");
	is("page-size", MS_FINDING_OK, "4096 bytes, 2 pages");
	is("last-writer", MS_FINDING_WARN, "SQLite 3.40.1 updated the header last; it has the WAL-reset bug");
	cr_assert(ms_doctor_ok(&d));
	ms_doctor_release(&d);
	header("b.db", 1, 2, 3051003, 65536);
	ms_doctor_database(&d, "b.db");
	is("page-size", MS_FINDING_OK, "65536 bytes, 1 pages");
	is("last-writer", MS_FINDING_OK, "SQLite 3.51.3");
	ms_doctor_release(&d);
	header("c.db", 1000, 2, 0, 4000);
	ms_doctor_database(&d, "c.db");
	is("page-size", MS_FINDING_FAIL, "page size 1000 is not possible");
	is("last-writer", MS_FINDING_OK, "does not name");
	ms_doctor_release(&d);
	header("d.db", 4096, 2, 3051003, 5000);
	ms_doctor_database(&d, "d.db");
	is("page-size", MS_FINDING_WARN, "no whole number of pages");
	ms_doctor_release(&d);
	FILE *f = fopen("e.db", "w");
	for (int i = 0; i < 200; i++)
		fputc('x', f);
	fclose(f);
	ms_doctor_database(&d, "e.db");
	is("header", MS_FINDING_FAIL, "not a SQLite database");
	ms_doctor_release(&d);
	fclose(fopen("f.db", "w"));
	ms_doctor_database(&d, "f.db");
	is("header", MS_FINDING_WARN, "empty");
	ms_doctor_release(&d);
	ms_doctor_database(&d, "nowhere.db");
	is("file", MS_FINDING_WARN, "No such file");
	ms_doctor_release(&d);
	ms_doctor_database(&d, dir);
	is("file", MS_FINDING_FAIL, "not a regular file");
	ms_doctor_release(&d);
	cr_assert_eq(symlink("a.db", "link.db"), 0);
	ms_doctor_database(&d, "link.db");
	is("file", MS_FINDING_OK, "a symbolic link to /tmp/");
	cr_assert_eq(d.checks[0].subject[0], 'l');
}

Test(doctor, leftovers, .init = setup, .fini = teardown) {
	header("a.db", 4096, 2, 3051003, 8192);
	header("a.db-journal", 4096, 2, 0, 512);
	header("a.db-wal", 4096, 2, 0, (size_t)300 << 20);
	ms_doctor_database(&d, "a.db");
	is("wal-size", MS_FINDING_WARN, "300 MiB");
	is("rollback-journal", MS_FINDING_WARN, "rollback journal");
}

Test(doctor, foreign_uid, .init = setup, .fini = teardown) {
	if (geteuid() != 0)
		cr_skip_test("needs root");
	header("a.db", 4096, 2, 3051003, 8192);
	cr_assert_eq(chmod(dir, 0777), 0);
	cr_assert_eq(chmod("a.db", 0644), 0);
	cr_assert_eq(setresuid(65534, 65534, 0), 0);
	ms_doctor_database(&d, "a.db");
	is("permissions", MS_FINDING_FAIL, "we run as uid 65534, the owner is uid 0, and there are no -wal and -shm");
	ms_doctor_release(&d);
	cr_assert_eq(setresuid(0, 0, 0), 0);
	header("a.db-wal", 4096, 2, 0, 512);
	header("a.db-shm", 4096, 2, 0, 512);
	cr_assert_eq(chmod("a.db-wal", 0666), 0);
	cr_assert_eq(chmod("a.db-shm", 0666), 0);
	cr_assert_eq(setresuid(65534, 65534, 0), 0);
	/* access() asks for the real uid. */
	ms_doctor_database(&d, "a.db");
	is("permissions", MS_FINDING_WARN, "works only while the application keeps");
	ms_doctor_release(&d);
	cr_assert_eq(setresuid(0, 0, 0), 0);
	cr_assert_eq(chmod("a.db", 0600), 0);
	cr_assert_eq(setresuid(65534, 65534, 0), 0);
	ms_doctor_database(&d, "a.db");
	is("permissions", MS_FINDING_FAIL, "uid 65534 cannot read the database");
	cr_assert_eq(setresuid(0, 0, 0), 0);
}

Test(doctor, filesystems) {
	const char *name;
	/* Magic numbers of statfs(2). */
	cr_assert_eq(ms_doctor_filesystem(0x6969, &name), MS_FINDING_FAIL);
	cr_assert_str_eq(name, "NFS");
	cr_assert_eq(ms_doctor_filesystem(0xff534d42, &name), MS_FINDING_FAIL);
	cr_assert_eq(ms_doctor_filesystem(0x01021997, &name), MS_FINDING_FAIL);
	cr_assert_eq(ms_doctor_filesystem(0x65735546, &name), MS_FINDING_WARN);
	cr_assert_eq(ms_doctor_filesystem(0xef53, &name), MS_FINDING_OK);
	cr_assert_str_eq(name, "ext4");
	cr_assert_eq(ms_doctor_filesystem(0x12345678, &name), MS_FINDING_OK);
	cr_assert_null(name);
}

Test(doctor, wal_reset_versions) {
	static const uint32_t bad[] = {3007000, 3040001, 3044005, 3045000, 3049002, 3050006, 3051000, 3051002};
	static const uint32_t good[] = {3006023, 3044006, 3044009, 3050007, 3050010, 3051003, 3052000, 4000000};
	for (unsigned i = 0; i < 8; i++) {
		cr_assert(ms_sqlite_has_wal_reset_bug(bad[i]), "%u", bad[i]);
		cr_assert_not(ms_sqlite_has_wal_reset_bug(good[i]), "%u", good[i]);
	}
}

Test(doctor, shadow, .init = setup, .fini = teardown) {
	char path[200];
	snprintf(path, sizeof path, "%s/a/b/c", dir);
	ms_doctor_shadow(&d, path, 1000);
	is("permissions", MS_FINDING_OK, "can be made");
	is("free-disk", MS_FINDING_OK, "free");
	cr_assert_eq(access("a", F_OK), -1);
	ms_doctor_release(&d);
	ms_doctor_shadow(&d, dir, UINT64_C(1) << 60);
	is("permissions", MS_FINDING_OK, "writable");
	is("free-disk", MS_FINDING_WARN, "journal and snapshots may need");
}

Test(doctor, system, .init = setup, .fini = teardown) {
	ms_doctor_system(&d);
	is("sqlite", MS_FINDING_OK, sqlite3_libversion());
	cr_assert_not_null(find("clock"));
}

static void file_spec(struct ms_replica_spec *s, const char *path) {
	struct ms_err err = MS_ERR_INIT;
	*s = (struct ms_replica_spec){.scheme = strdup("file")};
	cr_assert_eq(ms_replica_spec_set(s, "path", path, &err), MS_OK);
}

Test(doctor, file_replica, .init = setup, .fini = teardown) {
	struct ms_replica_spec s;
	char path[200], command[300];
	snprintf(path, sizeof path, "%s/replica", dir);
	file_spec(&s, path);
	ms_doctor_replica(&d, "r", &s, false);
	is("writable", MS_FINDING_WARN, "no replica is there yet");
	cr_assert_eq(access(path, F_OK), -1);
	ms_doctor_release(&d);
	/* The directory is made, the one that it lies in is not. */
	struct ms_replica_spec deep;
	char deep_path[220];
	snprintf(deep_path, sizeof deep_path, "%s/not-mounted/replica", dir);
	file_spec(&deep, deep_path);
	ms_doctor_replica(&d, "r", &deep, false);
	is("writable", MS_FINDING_FAIL, "not-mounted does not exist");
	cr_assert_not(ms_doctor_ok(&d));
	ms_doctor_release(&d);
	ms_replica_spec_release(&deep);
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replica_spec_set(&s, "create", "true", &err), MS_OK);
	ms_doctor_replica(&d, "r", &s, false);
	is("writable", MS_FINDING_OK, "4096 bytes");
	is("create-if-absent", MS_FINDING_OK, "refused");
	is("readable", MS_FINDING_OK, "as it was put");
	is("listable", MS_FINDING_OK, "in the listing");
	is("removable", MS_FINDING_OK, "removed");
	cr_assert(ms_doctor_ok(&d));
	snprintf(command, sizeof command, "test -z \"$(find '%s' -type f)\"", path);
	cr_assert_eq(system(command), 0);
	ms_replica_spec_release(&s);
}

/* A backend that is wrong in a chosen way: one object in memory. */
static enum { FINE, OVERWRITES, MANGLES, HIDES, KEEPS, REFUSES, SLOW_CLOCK, ADMITS, AWAY, UNKNOWN_KEY, READ_ONLY, FORBIDDEN } fault;
static struct {
	char name[64];
	uint8_t data[4u << 20];
	size_t len;
} object;

static enum ms_code bad_open(struct ms_env *e, const struct ms_replica_spec *s, struct ms_replica **ret, struct ms_err *err) {
	(void)e, (void)s, (void)err;
	static struct ms_replica_base base;
	extern const struct ms_replica_driver bad_driver;
	base.driver = &bad_driver;
	*ret = (struct ms_replica *)(void *)&base;
	return MS_OK;
}
static enum ms_code bad_put(struct ms_replica *r, const char *name, struct ms_body *b, struct ms_err *err) {
	size_t n = 0;
	(void)r;
	if (fault == REFUSES)
		return ms_err_set(err, MS_EAUTH, "wrong key");
	if (fault == READ_ONLY || fault == FORBIDDEN)
		return ms_err_set(err, MS_EPERM, "no writing");
	if (object.name[0] && fault != OVERWRITES)
		return ms_err_set(err, MS_EEXISTS, "exists");
	snprintf(object.name, sizeof object.name, "%s", name);
	for (object.len = 0; b->read(b, object.data + object.len, sizeof object.data - object.len, &n, err) == MS_OK && n;)
		object.len += n;
	return MS_OK;
}
static enum ms_code bad_get(struct ms_replica *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	(void)r;
	if (fault == FORBIDDEN)
		return ms_err_set(err, MS_EPERM, "no reading");
	if (strcmp(name, object.name) != 0)
		return ms_err_set(err, MS_ENOTFOUND, "not there");
	size_t n = object.len - (size_t)off - (fault == MANGLES);
	return cb(arg, object.data + off, len >= 0 && (size_t)len < n ? (size_t)len : n, err);
}
static enum ms_code bad_list(struct ms_replica *r, const char *prefix, const char *after, ms_list_cb cb, void *arg, struct ms_err *err) {
	(void)r, (void)prefix, (void)after;
	if (fault == AWAY)
		return ms_err_set(err, MS_ERETRY, "connection refused");
	if (fault == UNKNOWN_KEY)
		return ms_err_set(err, MS_EAUTH, "unknown key");
	if (fault == FORBIDDEN)
		return ms_err_set(err, MS_EPERM, "no listing");
	struct ms_object o = {.name = object.name, .size = (int64_t)object.len, .mtime_us = fault == SLOW_CLOCK ? ms_env_now_us(env) - 60000000 : 0};
	if (fault != HIDES)
		cb(arg, &o);
	return MS_OK;
}
static enum ms_code bad_remove(struct ms_replica *r, const char *name, struct ms_err *err) {
	(void)r, (void)name, (void)err;
	if (fault != KEEPS)
		object.name[0] = 0;
	return MS_OK;
}
static void bad_caps(struct ms_replica *r, struct ms_replica_caps *ret) {
	(void)r;
	*ret = (struct ms_replica_caps){.create_if_absent = fault != ADMITS, .settle_us = fault == KEEPS ? 60000000 : 0};
}
static void bad_nothing(struct ms_replica *r) {
	(void)r;
}
static const struct ms_option_def bad_options[] = {{0}};
extern const struct ms_replica_driver bad_driver;
static char *bad_rights(const struct ms_replica_spec *s, char *ret, size_t cap) {
	(void)s;
	snprintf(ret, cap, "allow everything");
	return ret;
}
const struct ms_replica_driver bad_driver = {.scheme = "bad", .help = "bad://", .options = bad_options, .open = bad_open, .put = bad_put, .get = bad_get,
					     .list = bad_list, .remove = bad_remove, .caps = bad_caps, .cancel = bad_nothing, .close = bad_nothing,
					     .rights = bad_rights};

static void examine(int f, bool fencing_none) {
	char scheme[] = "bad";
	struct ms_replica_spec s = {.scheme = scheme};
	ms_doctor_release(&d);
	fault = f;
	object.name[0] = 0;
	ms_doctor_replica(&d, "r", &s, fencing_none);
}

Test(doctor, bad_replicas, .init = setup, .fini = teardown) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replica_register(&bad_driver, &err), MS_OK);
	examine(FINE, false);
	cr_assert(ms_doctor_ok(&d));
	cr_assert_eq(d.n, 8);
	is("durable", MS_FINDING_OK, "at once");
	is("reachable", MS_FINDING_OK, "it answers");
	is("speed", MS_FINDING_OK, "MiB/s");
	examine(OVERWRITES, false);
	is("create-if-absent", MS_FINDING_FAIL, "overwrites");
	is("removable", MS_FINDING_OK, "removed");
	examine(OVERWRITES, true);
	is("create-if-absent", MS_FINDING_WARN, "nothing stops a second writer");
	cr_assert(ms_doctor_ok(&d));
	examine(MANGLES, false);
	is("readable", MS_FINDING_FAIL, "came back different: 4095 bytes for 4096");
	examine(HIDES, false);
	is("listable", MS_FINDING_FAIL, "not in the listing");
	examine(KEEPS, false);
	is("removable", MS_FINDING_WARN, "still there");
	is("durable", MS_FINDING_WARN, "for 1m");
	examine(REFUSES, false);
	is("writable", MS_FINDING_FAIL, "wrong key (auth");
	/* Says itself that it cannot, and is not asked to overwrite. */
	examine(ADMITS, false);
	is("create-if-absent", MS_FINDING_FAIL, "overwrites");
	is("readable", MS_FINDING_OK, "as it was put");
	examine(ADMITS, true);
	is("create-if-absent", MS_FINDING_WARN, "nothing stops a second writer");
	cr_assert(ms_doctor_ok(&d));
	/* Nobody there, or nobody who knows us: one finding says it all. */
	examine(AWAY, false);
	is("reachable", MS_FINDING_FAIL, "connection refused (retry)");
	cr_assert_eq(d.n, 1);
	examine(UNKNOWN_KEY, false);
	is("credentials", MS_FINDING_FAIL, "unknown key (auth)");
	cr_assert_eq(d.n, 1);
	/* Right by right. */
	examine(READ_ONLY, false);
	is("writable", MS_FINDING_FAIL, "no writing");
	is("readable", MS_FINDING_OK, "reading is allowed");
	is("listable", MS_FINDING_OK, "listing is allowed");
	is("removable", MS_FINDING_OK, "removing is allowed");
	is("rights", MS_FINDING_WARN, "lack rights");
	cr_assert_str_eq(find("rights")->advice, "allow everything");
	examine(FORBIDDEN, false);
	is("writable", MS_FINDING_FAIL, "no writing");
	is("readable", MS_FINDING_FAIL, "no reading");
	is("listable", MS_FINDING_FAIL, "no listing");
	examine(SLOW_CLOCK, false);
	is("clock", MS_FINDING_WARN, "behind ours");
	cr_assert(ms_doctor_ok(&d));
}

Test(doctor, output, .init = setup, .fini = teardown) {
	char *text = NULL;
	size_t n;
	ms_doctor_add(&d, MS_FINDING_OK, "one", "a.db", NULL, "fine %d", 1);
	ms_doctor_add(&d, MS_FINDING_FAIL, "two", "a.db", "do this", "bad");
	ms_doctor_add(&d, MS_FINDING_WARN, "three", "b.db", "or that", "so so");
	FILE *f = open_memstream(&text, &n);
	ms_doctor_print(&d, f);
	fclose(f);
	cr_assert_str_eq(text, "a.db\n"
			       "  ok    one              fine 1\n"
			       "  fail  two              bad\n"
			       "                         -> do this\n"
			       "b.db\n"
			       "  warn  three            so so\n"
			       "                         -> or that\n"
			       "1 ok, 1 warnings, 1 failures\n");
	free(text);
	json_t *o = ms_doctor_json(&d);
	text = json_dumps(o, JSON_COMPACT);
	cr_assert_str_eq(text, "{\"ok\":false,\"checks\":[{\"name\":\"one\",\"subject\":\"a.db\",\"result\":\"ok\",\"message\":\"fine 1\",\"advice\":null},"
			       "{\"name\":\"two\",\"subject\":\"a.db\",\"result\":\"fail\",\"message\":\"bad\",\"advice\":\"do this\"},"
			       "{\"name\":\"three\",\"subject\":\"b.db\",\"result\":\"warn\",\"message\":\"so so\",\"advice\":\"or that\"}]}");
	free(text);
	json_decref(o);
}
