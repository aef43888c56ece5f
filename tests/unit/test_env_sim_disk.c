/* What the simulated disk keeps, may lose and must not lose in a crash. */
#include "base/env_sim.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/sim_files.h"

#define OK(call) cr_assert_eq((call), MS_OK)
#define open_file(path, flags) ms_test_open(env, path, flags)
#define create(path, data) ms_test_create(env, path, data)
#define create_durable(path, data) ms_test_create_durable(env, path, data)
#define content(path) ms_test_content(env, path)

static struct ms_env *env;
static const struct ms_env_ops *ops;

static void start(uint64_t seed) {
	env = ms_env_sim_new(seed);
	ops = env->ops;
}

static void end(void) {
	ms_env_sim_free(env);
}

static void crash_and_restart(void) {
	ms_env_sim_crash(env);
	ms_env_sim_restart(env);
}

Test(env_sim_disk, what_was_synced_survives) {
	for (uint64_t seed = 0; seed < 100; seed++) {
		start(seed);
		OK(ops->mkdir(env, "/d", 0755, NULL));
		OK(ops->fsync_dir(env, "/", NULL));
		struct ms_file *f = create("/d/f", "hello");
		OK(seed % 2 ? ops->fsync(f, NULL) : ops->fdatasync(f, NULL));
		OK(ops->link(env, "/d/f", "/d/g", NULL));
		OK(ops->fsync_dir(env, "/d", NULL));
		crash_and_restart();
		cr_assert_str_eq(content("/d/f"), "hello");
		cr_assert_str_eq(content("/d/g"), "hello");
		struct ms_stat a, b;
		OK(ops->stat(env, "/d/f", &a, NULL));
		OK(ops->stat(env, "/d/g", &b, NULL));
		cr_assert_eq(a.ino, b.ino);
		cr_assert_eq(ms_env_sim_disk_bytes(env), 5);
		ops->close(f);
		end();
	}
}

/* Counts how often each outcome came in 400 crashes; each has to come, and no other. */
#define ROUNDS 400

static int tally(void (*prepare)(void), const char *(*look)(void), const char *const *outcomes, int n) {
	int seen[16] = {0}, met = 0;

	for (uint64_t seed = 0; seed < ROUNDS; seed++) {
		int k = 0;

		start(seed);
		prepare();
		crash_and_restart();
		const char *got = look();
		while (k < n && strcmp(outcomes[k], got) != 0)
			k++;
		cr_assert_lt(k, n, "seed %d: \"%s\" is no possible outcome", (int)seed, got);
		seen[k]++;
		/* Nothing more is lost when nothing has been done since. */
		crash_and_restart();
		cr_assert_str_eq(look(), outcomes[k]);
		end();
	}
	for (int k = 0; k < n; k++)
		met += seen[k] >= ROUNDS / 40;
	return met;
}

#define TALLY(prepare, look, ...)                                                                                                \
	do {                                                                                                                     \
		static const char *const o[] = {__VA_ARGS__};                                                                    \
		int want = (int)(sizeof o / sizeof *o);                                                                          \
		cr_assert_eq(tally(prepare, look, o, want), want);                                                               \
	} while (0)

static const char *both(void) {
	static char text[64];
	int n = snprintf(text, sizeof text, "%.20s ", content("/a"));

	snprintf(text + n, sizeof text - (size_t)n, "%.20s", content("/b"));
	return text;
}

static void unsynced_create(void) {
	struct ms_file *f = create("/a", "x");

	OK(ops->fsync(f, NULL));
	ops->close(f);
}

static void unsynced_unlink(void) {
	create_durable("/a", "x");
	OK(ops->unlink(env, "/a", NULL));
}

static void unsynced_rename(void) {
	create_durable("/a", "x");
	create_durable("/b", "old");
	OK(ops->rename(env, "/a", "/b", NULL));
}

static void unsynced_link(void) {
	create_durable("/a", "x");
	OK(ops->link(env, "/a", "/b", NULL));
}

/* Both may be kept or lost, each by itself. */
static void two_creates(void) {
	ops->close(create("/a", ""));
	ops->close(create("/b", ""));
}

static const char *both_exist(void) {
	static char text[3];
	struct ms_stat st;

	text[0] = ops->stat(env, "/a", &st, NULL) == MS_OK ? 'a' : '-';
	text[1] = ops->stat(env, "/b", &st, NULL) == MS_OK ? 'b' : '-';
	return text;
}

Test(env_sim_disk, unsynced_names_may_be_lost_or_not) {
	TALLY(unsynced_create, both, "x -", "- -");
	TALLY(unsynced_unlink, both, "x -", "- -");
	TALLY(unsynced_link, both, "x -", "x x");
	TALLY(two_creates, both_exist, "--", "a-", "-b", "ab");
}

/* All or nothing: neither both names nor none. */
Test(env_sim_disk, a_rename_is_atomic) {
	TALLY(unsynced_rename, both, "x old", "- x");
}

static void make_two_dirs(void) {
	OK(ops->mkdir(env, "/1", 0755, NULL));
	OK(ops->mkdir(env, "/2", 0755, NULL));
	ops->close(create("/1/f", "x"));
	ms_env_sim_sync_all(env);
	OK(ops->rename(env, "/1/f", "/2/f", NULL));
}

static void move_sync_target(void) {
	make_two_dirs();
	OK(ops->fsync_dir(env, "/2", NULL));
}

static void move_sync_origin(void) {
	make_two_dirs();
	OK(ops->fsync_dir(env, "/1", NULL));
}

static const char *in_two_dirs(void) {
	static char text[32];
	int n = snprintf(text, sizeof text, "%.9s ", content("/1/f"));

	snprintf(text + n, sizeof text - (size_t)n, "%.9s", content("/2/f"));
	return text;
}

Test(env_sim_disk, a_move_never_loses_the_file) {
	TALLY(make_two_dirs, in_two_dirs, "x -", "- x");
	TALLY(move_sync_target, in_two_dirs, "- x", "x x");
	TALLY(move_sync_origin, in_two_dirs, "- x");
}

static void move_dir_sync_target(void) {
	OK(ops->mkdir(env, "/1", 0755, NULL));
	OK(ops->mkdir(env, "/1/f", 0755, NULL));
	OK(ops->mkdir(env, "/2", 0755, NULL));
	ops->close(create("/1/f/x", "x"));
	ms_env_sim_sync_all(env);
	OK(ops->rename(env, "/1/f", "/2/f", NULL));
	OK(ops->fsync_dir(env, "/2", NULL));
}

static const char *in_moved_dirs(void) {
	static char text[32];
	int n = snprintf(text, sizeof text, "%.9s ", content("/1/f/x"));

	snprintf(text + n, sizeof text - (size_t)n, "%.9s", content("/2/f/x"));
	return text;
}

Test(env_sim_disk, a_directory_never_has_two_names) {
	TALLY(move_dir_sync_target, in_moved_dirs, "- x");
}

/* A directory that is lost takes along what is in it, synced or not. */
static void lost_parent(void) {
	OK(ops->mkdir(env, "/a", 0755, NULL));
	struct ms_file *f = create("/a/f", "x");
	OK(ops->fsync(f, NULL));
	OK(ops->fsync_dir(env, "/a", NULL));
	ops->close(f);
}

static const char *below_a(void) {
	return content("/a/f");
}

Test(env_sim_disk, a_lost_directory_takes_its_files_along) {
	TALLY(lost_parent, below_a, "x", "-");
}

/* Two sectors over two old ones. */
static void overwrite(void) {
	static char data[1025];
	struct ms_file *f;

	memset(data, 'o', 1024);
	create_durable("/a", data);
	f = open_file("/a", MS_O_RDWR);
	memset(data, 'n', 1024);
	OK(ops->pwrite(f, data, 1024, 0, NULL));
	ops->close(f);
}

static const char *sectors(void) {
	static char text[3];
	const char *c = content("/a");

	cr_assert_eq(strlen(c), 1024);
	for (int i = 0; i < 2; i++) {
		text[i] = c[i * 512];
		for (int k = 0; k < 512; k++)
			cr_assert_eq(c[i * 512 + k], text[i], "a sector was torn");
	}
	return text;
}

Test(env_sim_disk, unsynced_writes_tear_at_sectors) {
	TALLY(overwrite, sectors, "oo", "no", "on", "nn");
}

/* Growth by less than a sector: nothing, zeros or the data of it, or a part. */
static void grow(void) {
	create_durable("/a", "12");
	struct ms_file *f = open_file("/a", MS_O_RDWR);
	OK(ops->pwrite(f, "34", 2, 2, NULL));
	ops->close(f);
}

static const char *content_a(void) {
	return content("/a");
}

Test(env_sim_disk, unsynced_growth_may_be_cut_or_zero) {
	TALLY(grow, content_a, "12", "1234", "123", "1200", "120");
}

static void shrink(void) {
	create_durable("/a", "1234");
	struct ms_file *f = open_file("/a", MS_O_RDWR);
	OK(ops->truncate(f, 2, NULL));
	ops->close(f);
}

static const char *shrunk(void) {
	const char *c = content("/a");

	/* Between the sizes anything may be, but what remains is the old data or zero. */
	cr_assert(strncmp(c, "12", 2) == 0 && strlen(c) <= 4);
	cr_assert(strchr("30", c[2]) || !c[2]);
	return strlen(c) == 2 ? "short" : strcmp(c, "1234") == 0 ? "long" : "other";
}

Test(env_sim_disk, unsynced_truncation) {
	TALLY(shrink, shrunk, "short", "long", "other");
}

/* What the next sync does not write any more. */
static void failed_sync(void) {
	create_durable("/a", "old");
	struct ms_file *f = open_file("/a", MS_O_RDWR);
	OK(ops->pwrite(f, "new", 3, 0, NULL));
	ms_env_sim_fail(env, MS_SIM_FSYNC, NULL, 1, 1, EIO);
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ops->fsync(f, &err), MS_EIO);
	cr_assert_eq(err.sys, EIO);
	cr_assert_str_eq(content("/a"), "new");
	OK(ops->fsync(f, NULL));
	ops->close(f);
}

Test(env_sim_disk, a_failed_sync_forgets) {
	int old = 0;

	for (uint64_t seed = 0; seed < 100; seed++) {
		start(seed);
		failed_sync();
		crash_and_restart();
		old += strcmp(content("/a"), "old") == 0;
		end();
	}
	/* Not always: some had been written back before by itself. */
	cr_assert_gt(old, 80);
	cr_assert_lt(old, 100);
}

Test(env_sim_disk, written_again_after_a_failed_sync_is_durable) {
	for (uint64_t seed = 0; seed < 100; seed++) {
		start(seed);
		failed_sync();
		struct ms_file *f = open_file("/a", MS_O_RDWR);
		OK(ops->pwrite(f, "new", 3, 0, NULL));
		OK(ops->fdatasync(f, NULL));
		crash_and_restart();
		cr_assert_str_eq(content("/a"), "new");
		ops->close(f);
		end();
	}
}

/* A write that is overwritten before any sync may still be what the disk has. */
Test(env_sim_disk, early_write_back_shows_old_states) {
	int between = 0;

	for (uint64_t seed = 0; seed < 400; seed++) {
		start(seed);
		create_durable("/a", "0");
		struct ms_file *f = open_file("/a", MS_O_RDWR);
		for (const char *c = "123456789"; *c; c++)
			OK(ops->pwrite(f, c, 1, 0, NULL));
		crash_and_restart();
		between += strcmp(content("/a"), "0") != 0 && strcmp(content("/a"), "9") != 0;
		ops->close(f);
		end();
	}
	cr_assert_gt(between, 20);
}

Test(env_sim_disk, kill_loses_nothing_but_the_process) {
	for (uint64_t seed = 0; seed < 50; seed++) {
		start(seed);
		struct ms_file *f = create("/a", "x");
		OK(ops->lock(f, NULL));
		ms_env_sim_kill(env);
		ms_env_sim_restart(env);
		cr_assert_str_eq(content("/a"), "x");
		struct ms_file *g = open_file("/a", MS_O_RDWR);
		OK(ops->lock(g, NULL));
		ops->close(g);
		ops->close(f);
		end();
	}
}

/* A model of random names and syncs, checked against the promise: what was there at the last sync of the directory, and has
 * not been touched since, is there. */
Test(env_sim_disk, random_histories) {
	for (uint64_t seed = 0; seed < 300; seed++) {
		char durable[8], now[8]; /* content letter of each name, 0: none */
		bool touched[8];
		char name[8], to[8];

		start(seed);
		memset(durable, 0, sizeof durable);
		memset(now, 0, sizeof now);
		memset(touched, 0, sizeof touched);
		for (int step = 0; step < 60; step++) {
			size_t i = ms_env_sim_pick(env, 8), k = ms_env_sim_pick(env, 8);
			char text[2] = {(char)('a' + step % 26), 0};

			snprintf(name, sizeof name, "/%zu", i);
			snprintf(to, sizeof to, "/%zu", k);
			switch (ms_env_sim_pick(env, 5)) {
			case 0:
				if (!now[i]) {
					struct ms_file *f = create(name, text);
					OK(ops->fsync(f, NULL));
					ops->close(f);
					now[i] = text[0];
					touched[i] = true;
				}
				break;
			case 1:
				cr_assert_eq(ops->unlink(env, name, NULL), now[i] ? MS_OK : MS_ENOTFOUND);
				touched[i] |= now[i] != 0;
				now[i] = 0;
				break;
			case 2:
				cr_assert_eq(ops->rename(env, name, to, NULL), now[i] ? MS_OK : MS_ENOTFOUND);
				if (now[i] && i != k) {
					now[k] = now[i];
					now[i] = 0;
					touched[i] = touched[k] = true;
				}
				break;
			case 3:
				if (ms_env_sim_pick(env, 4))
					break;
				OK(ops->fsync_dir(env, "/", NULL));
				memcpy(durable, now, sizeof now);
				memset(touched, 0, sizeof touched);
				break;
			default:
				if (ms_env_sim_pick(env, 16))
					break;
				ms_env_sim_kill(env);
				ms_env_sim_restart(env);
			}
		}
		for (size_t i = 0; i < 8; i++) {
			snprintf(name, sizeof name, "/%zu", i);
			char want[2] = {now[i] ? now[i] : '-', 0};
			cr_assert_str_eq(content(name), want);
		}
		crash_and_restart();
		for (size_t i = 0; i < 8; i++) {
			snprintf(name, sizeof name, "/%zu", i);
			char want[2] = {durable[i] ? durable[i] : '-', 0};
			if (!touched[i])
				cr_assert_str_eq(content(name), want);
		}
		end();
	}
}
