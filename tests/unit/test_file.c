/* The file backend beyond the contract: what happens to its directory, crashes in the simulator, full disks, leftovers, links. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "replicas/replica.h"
#include "support/tmpdir.h"

static struct ms_env *uv;
static char dir[400];

static void setup(void) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
	uv = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	snprintf(dir, sizeof dir, "%s/replica", ms_test_tmpdir());
}
static void teardown(void) { ms_env_uv_free(uv); }
TestSuite(file, .init = setup, .fini = teardown);

static struct ms_replica *open_in(struct ms_env *env, const char *path, const char *prefix, bool create) {
	struct ms_replica_spec s = {.scheme = strdup("file")};
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replica_spec_set(&s, "path", path, &err), MS_OK);
	if (prefix)
		cr_assert_eq(ms_replica_spec_set(&s, "prefix", prefix, &err), MS_OK);
	if (create)
		cr_assert_eq(ms_replica_spec_set(&s, "create", "true", &err), MS_OK);
	cr_assert_eq(ms_replica_open(env, &s, &r, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&s);
	return r;
}

static enum ms_code put(struct ms_replica *r, const char *name, const char *text, struct ms_err *err) {
	return ms_replica_put_mem(r, name, text, strlen(text), err);
}
static bool count_cb(void *arg, const struct ms_object *o) {
	(void)o;
	++*(int *)arg;
	return true;
}
static int count(struct ms_replica *r) {
	int n = 0;
	struct ms_err err = MS_ERR_INIT;
	return ms_replica_list(r, "", "", count_cb, &n, &err) ? -(int)err.code : n;
}
static bool holds(struct ms_replica *r, const char *name, const char *text) {
	struct ms_buf b;
	ms_buf_init(&b, 1u << 20);
	bool ok = ms_replica_get_buf(r, name, 0, -1, &b, NULL) == MS_OK && b.len == strlen(text) && (!b.len || memcmp(b.data, text, b.len) == 0);
	ms_buf_release(&b);
	return ok;
}
static int files_in(const char *path) {
	char cmd[600];
	snprintf(cmd, sizeof cmd, "ls -A '%s' 2>/dev/null | wc -l", path);
	FILE *p = popen(cmd, "r");
	int n = -1;
	cr_assert(p && fscanf(p, "%d", &n) == 1);
	pclose(p);
	return n;
}

Test(file, only_a_claim_makes_the_directory) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf b;
	ms_buf_init(&b, 10);
	struct ms_replica *r = open_in(uv, dir, NULL, false);
	cr_expect_eq(put(r, "a/b", "x", &err), MS_ENOTFOUND);
	cr_expect(strstr(err.msg, dir) && strstr(err.msg, "no such directory"), "%s", err.msg);
	cr_expect_eq(count(r), -MS_ENOTFOUND, "a listing of nothing is no empty listing");
	cr_expect_eq(ms_replica_remove(r, "a/b", &err), MS_ENOTFOUND);
	ms_replica_close(r);
	cr_expect_neq(access(dir, F_OK), 0);

	r = open_in(uv, dir, NULL, true);
	cr_expect_eq(count(r), 0, "a new replica is empty");
	cr_expect_eq(ms_replica_get_buf(r, "a/b", 0, -1, &b, &err), MS_ENOTFOUND);
	cr_expect_eq(ms_replica_remove(r, "a/b", &err), MS_OK);
	cr_expect_neq(access(dir, F_OK), 0, "looking made it");
	cr_assert_eq(put(r, "a/b", "x", &err), MS_OK, "%s", err.msg);
	struct stat st;
	char path[600];
	cr_assert_eq(stat(dir, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0700);
	snprintf(path, sizeof path, "%s/a/b", dir);
	cr_assert_eq(stat(path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
	snprintf(path, sizeof path, "%s/.tmp", dir);
	cr_expect_eq(files_in(path), 0, "no temporary is left");
	ms_replica_close(r);
	ms_buf_release(&b);
}

Test(file, parent_must_exist) {
	char deep[500];
	struct ms_err err = MS_ERR_INIT;
	snprintf(deep, sizeof deep, "%s/not/there", dir);
	struct ms_replica *r = open_in(uv, deep, NULL, true);
	cr_expect_eq(put(r, "a", "x", &err), MS_ENOTFOUND);
	cr_expect(strstr(err.msg, "parent directory") && strstr(err.msg, "/not does not exist either"), "%s", err.msg);
	cr_expect_eq(count(r), -MS_ENOTFOUND);
	ms_replica_close(r);
}

Test(file, a_vanished_directory_is_not_made_again) {
	struct ms_err err = MS_ERR_INIT;
	char moved[500];
	snprintf(moved, sizeof moved, "%s-moved", dir);
	struct ms_replica *r = open_in(uv, dir, NULL, true);
	cr_assert_eq(put(r, "a", "x", &err), MS_OK);
	cr_assert_eq(rename(dir, moved), 0);
	cr_expect_eq(put(r, "b", "x", &err), MS_ENOTFOUND);
	cr_expect(strstr(err.msg, "vanished"), "%s", err.msg);
	cr_expect_eq(count(r), -MS_ENOTFOUND);
	/* An empty directory in its place: a mount point without its disk. */
	cr_assert_eq(mkdir(dir, 0700), 0);
	cr_expect_eq(put(r, "b", "x", &err), MS_ENOTFOUND);
	cr_expect(strstr(err.msg, "another directory"), "%s", err.msg);
	ms_replica_close(r);
	/* The same seen by a new start, which has been there before and so does not claim anew. */
	r = open_in(uv, dir, NULL, false);
	cr_expect_eq(put(r, "b", "x", &err), MS_ENOTFOUND);
	cr_expect(strstr(err.msg, "mkdir") && strstr(err.msg, ".tmp"), "it says what to do: %s", err.msg);
	cr_expect_eq(files_in(dir), 0, "something was written into the mount point");
	ms_replica_close(r);
	/* The disk comes back. */
	cr_assert_eq(rmdir(dir), 0);
	cr_assert_eq(rename(moved, dir), 0);
	r = open_in(uv, dir, NULL, false);
	cr_expect_eq(put(r, "b", "x", &err), MS_OK, "%s", err.msg);
	cr_expect_eq(count(r), 2);
	ms_replica_close(r);
}

Test(file, what_lies_there_may_not_be_a_directory) {
	struct ms_err err = MS_ERR_INIT;
	int fd = open(dir, O_CREAT | O_WRONLY, 0600);
	close(fd);
	struct ms_replica *r = open_in(uv, dir, NULL, true);
	cr_expect_eq(put(r, "a", "x", &err), MS_ENOTFOUND);
	cr_expect(strstr(err.msg, "not a directory"), "%s", err.msg);
	ms_replica_close(r);
}

Test(file, prefixes_are_apart) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica *a = open_in(uv, dir, "one/app.db", true), *b = open_in(uv, dir, "two", true), *all = open_in(uv, dir, NULL, false);
	cr_assert_eq(put(a, "x/y", "a", &err), MS_OK, "%s", err.msg);
	cr_assert_eq(put(b, "x/y", "b", &err), MS_OK);
	cr_expect(holds(a, "x/y", "a") && holds(b, "x/y", "b") && holds(all, "one/app.db/x/y", "a"));
	cr_expect_eq(count(a), 1);
	cr_expect_eq(count(b), 1);
	cr_expect_eq(count(all), 2);
	cr_expect_eq(ms_replica_remove(a, "x/y", &err), MS_OK);
	cr_expect_eq(count(all), 1);
	ms_replica_close(a), ms_replica_close(b), ms_replica_close(all);
	struct ms_replica_spec s = {.scheme = strdup("file")};
	struct ms_replica *r = NULL;
	cr_assert_eq(ms_replica_spec_set(&s, "path", dir, &err), MS_OK);
	cr_assert_eq(ms_replica_spec_set(&s, "prefix", "../up", &err), MS_OK);
	cr_expect_eq(ms_replica_open(uv, &s, &r, &err), MS_EUSAGE);
	cr_assert_eq(ms_replica_spec_set(&s, "prefix", "", &err), MS_OK);
	cr_assert_eq(ms_replica_spec_set(&s, "path", "///", &err), MS_OK);
	cr_expect_eq(ms_replica_open(uv, &s, &r, &err), MS_EUSAGE, "the root directory");
	ms_replica_spec_release(&s);
}

Test(file, links_are_not_followed) {
	struct ms_err err = MS_ERR_INIT;
	char outside[500], path[600], target[600];
	snprintf(outside, sizeof outside, "%s-outside", dir);
	cr_assert_eq(mkdir(outside, 0700), 0);
	struct ms_replica *r = open_in(uv, dir, NULL, true);
	cr_assert_eq(put(r, "ok/a", "x", &err), MS_OK);
	snprintf(path, sizeof path, "%s/evil", dir);
	cr_assert_eq(symlink(outside, path), 0);
	snprintf(target, sizeof target, "%s/secret", outside);
	int fd = open(target, O_CREAT | O_WRONLY, 0600);
	cr_assert_eq(write(fd, "s", 1), 1);
	close(fd);
	snprintf(path, sizeof path, "%s/ok/link", dir);
	cr_assert_eq(symlink(target, path), 0);
	snprintf(path, sizeof path, "%s/ok/dangling", dir);
	cr_assert_eq(symlink("/nowhere/at/all", path), 0);
	snprintf(path, sizeof path, "%s/ok/fifo", dir);
	cr_assert_eq(mkfifo(path, 0600), 0);

	cr_expect_eq(put(r, "evil/b", "x", &err), MS_EPERMANENT);
	cr_expect(strstr(err.msg, "symbolic links"), "%s", err.msg);
	cr_expect_eq(files_in(outside), 1, "a put went through the link");
	struct ms_buf b;
	ms_buf_init(&b, 100);
	cr_expect_neq(ms_replica_get_buf(r, "evil/secret", 0, -1, &b, &err), MS_OK);
	cr_expect_eq(ms_replica_get_buf(r, "ok/link", 0, -1, &b, &err), MS_ENOTFOUND);
	cr_expect_eq(ms_replica_get_buf(r, "ok/fifo", 0, -1, &b, &err), MS_ENOTFOUND);
	(void)!ms_replica_remove(r, "evil/secret", &err);
	cr_expect_eq(files_in(outside), 1, "a remove went through the link");
	cr_expect_eq(put(r, "ok/dangling", "x", &err), MS_EEXISTS, "a name that is taken, by whatever");
	cr_expect_eq(count(r), 1, "only the object");
	ms_buf_release(&b);
	ms_replica_close(r);
}

Test(file, dead_temporaries_are_swept) {
	struct ms_err err = MS_ERR_INIT;
	char tmp[500], path[700];
	struct ms_replica *r = open_in(uv, dir, NULL, true);
	cr_assert_eq(put(r, "a", "x", &err), MS_OK);
	ms_replica_close(r);
	snprintf(tmp, sizeof tmp, "%s/.tmp", dir);
	static const char *const names[] = {"0123456789abcdef.tmp", "fedcba9876543210.tmp", "somebody-elses-file"};
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", tmp, names[i]);
		close(open(path, O_CREAT | O_WRONLY, 0600));
		struct timespec old = {.tv_sec = time(NULL) - (i == 1 ? 3000 : 4000)};
		cr_assert_eq(utimensat(AT_FDCWD, path, (struct timespec[2]){old, old}, 0), 0);
	}
	ms_replica_close(open_in(uv, dir, NULL, false));
	cr_expect_eq(files_in(tmp), 2, "only ours that are older than an hour");
	snprintf(path, sizeof path, "%s/%s", tmp, names[0]);
	cr_expect_neq(access(path, F_OK), 0);
}

/* ---- in the simulator ---- */

static struct ms_env *sim;
static uint64_t crash_after;
static int crash_hook(void *arg, const struct ms_sim_step *step) {
	(void)arg, (void)step;
	if (crash_after && --crash_after == 0)
		ms_env_sim_crash(sim);
	return 0;
}

Test(file, power_failure_at_every_step_of_a_put) {
	struct ms_err err = MS_ERR_INIT;
	char text[3000];
	memset(text, 'q', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	bool died = true;
	uint64_t n;
	for (n = 1; died && n < 200; n++)
		for (uint64_t seed = 1; seed <= 6; seed++) {
			sim = ms_env_sim_new(seed * 1000 + n);
			cr_assert_eq(ms_fs_mkdir_p(sim, "/disk", 0700, &err), MS_OK);
			ms_env_sim_sync_all(sim);
			ms_env_sim_set_hook(sim, crash_hook, NULL);
			struct ms_replica *r = open_in(sim, "/disk/r", NULL, true);
			crash_after = n;
			enum ms_code rc = put(r, "a/b/one", text, &err);
			died = ms_env_sim_is_down(sim);
			crash_after = 0;
			/* Also a crash right after it was acknowledged. */
			if (!died)
				ms_env_sim_crash(sim);
			ms_replica_close(r);
			ms_env_sim_restart(sim);
			r = open_in(sim, "/disk/r", NULL, true);
			int have = count(r);
			cr_assert(have == 0 || have == 1, "%d objects", have);
			if (have)
				cr_assert(holds(r, "a/b/one", text), "n=%llu: a partial object became visible", (unsigned long long)n);
			cr_assert(have == 1 || rc != MS_OK, "n=%llu: an acknowledged object is gone", (unsigned long long)n);
			/* And the store is usable. */
			rc = put(r, "a/b/one", text, &err);
			cr_assert(rc == (have ? MS_EEXISTS : MS_OK), "n=%llu: %s", (unsigned long long)n, err.msg);
			ms_env_sim_crash(sim);
			ms_replica_close(r);
			ms_env_sim_restart(sim);
			r = open_in(sim, "/disk/r", NULL, false);
			cr_assert(holds(r, "a/b/one", text), "what was put, or found to exist, must be durable");
			ms_replica_close(r);
			ms_env_sim_free(sim);
		}
	cr_expect_gt(n, 12, "a put has more steps than that");
}

Test(file, a_failing_step_leaves_nothing_visible) {
	static const enum ms_sim_op ops[] = {MS_SIM_OPEN, MS_SIM_PWRITE, MS_SIM_FSYNC, MS_SIM_LINK, MS_SIM_FSYNC_DIR, MS_SIM_MKDIR};
	static const int errnos[] = {EIO, ENOSPC, EROFS, EACCES};
	for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
		for (size_t k = 0; k < sizeof errnos / sizeof errnos[0]; k++) {
			struct ms_err err = MS_ERR_INIT;
			sim = ms_env_sim_new(i * 10 + k);
			cr_assert_eq(ms_fs_mkdir_p(sim, "/disk", 0700, &err), MS_OK);
			struct ms_replica *r = open_in(sim, "/disk/r", NULL, true);
			cr_assert_eq(put(r, "x/first", "1", &err), MS_OK, "%s", err.msg);
			ms_env_sim_fail(sim, ops[i], "/disk/r", 1, 0, errnos[k]);
			enum ms_code rc = put(r, ops[i] == MS_SIM_MKDIR ? "y/second" : "x/second", "2", &err);
			/* A failure to look at a link (open) is not one to write: then there is none. */
			cr_assert_neq(rc, MS_OK, "op %d errno %d", (int)ops[i], errnos[k]);
			cr_expect(strstr(err.msg, "/disk/r"), "it names the place: %s", err.msg);
			if (errnos[k] == ENOSPC)
				cr_expect_eq(rc, MS_ENOSPC, "%s", err.msg);
			ms_env_sim_clear_rules(sim);
			cr_expect_eq(count(r), 1, "op %d errno %d: it is visible", (int)ops[i], errnos[k]);
			cr_assert_eq(put(r, ops[i] == MS_SIM_MKDIR ? "y/second" : "x/second", "2", &err), MS_OK, "%s", err.msg);
			ms_replica_close(r);
			ms_env_sim_free(sim);
		}
}

Test(file, a_full_disk_recovers) {
	struct ms_err err = MS_ERR_INIT;
	static char big[200000];
	memset(big, 'b', sizeof big - 1);
	sim = ms_env_sim_new(1);
	cr_assert_eq(ms_fs_mkdir_p(sim, "/disk", 0700, &err), MS_OK);
	struct ms_replica *r = open_in(sim, "/disk/r", NULL, true);
	cr_assert_eq(put(r, "small", "1", &err), MS_OK);
	ms_env_sim_set_capacity(sim, 100000);
	cr_expect_eq(put(r, "big", big, &err), MS_ENOSPC, "%s", err.msg);
	cr_expect_lt(ms_env_sim_disk_bytes(sim), 1000, "the temporary holds the space");
	cr_expect_eq(count(r), 1);
	ms_env_sim_set_capacity(sim, 0);
	cr_expect_eq(put(r, "big", big, &err), MS_OK);
	ms_replica_close(r);
	ms_env_sim_free(sim);
}
