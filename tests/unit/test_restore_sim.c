/*
 * Restores in the simulator: every file operation fails once, the power fails before every one, the backend fails, delays, cuts short and loses
 * objects while they are read. Whatever happens: the target is as it was, or whole; and nothing of ours is left while we are alive.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "replicas/mem.h"
#include "replicas/url.h"
#include "restore/restore.h"
#include "support/replica_maker.h"
#include "support/tmpdir.h"

#define STORE "r"
static const char old_bytes[] = "the database that was there before";

static char *made;
static int plant(const char *path, const struct stat *st, int type, struct FTW *ftw) {
	(void)ftw;
	if (type != FTW_F)
		return 0;
	uint8_t *p = malloc((size_t)st->st_size + 1);
	FILE *f = fopen(path, "rb");
	cr_assert_eq(fread(p, 1, (size_t)st->st_size, f), (size_t)st->st_size);
	fclose(f);
	ms_mem_plant(STORE, path + strlen(made) + 1, p, (size_t)st->st_size);
	free(p);
	return 0;
}

struct fix {
	struct maker *m;
	struct ms_replica_spec spec;
	struct ms_restore_replica replica;
	const uint8_t *want;
	size_t len;
};

static void setup(struct fix *f) {
	struct ms_err err;
	memset(f, 0, sizeof *f);
	made = ms_test_tmpdir();
	f->m = maker_new(made, 1024);
	for (int i = 0; i < 4; i++)
		maker_work(f->m, 40);
	maker_head(f->m, 1, 0, MAKER_T0);
	maker_snapshot(f->m, 3, 8);
	maker_segment(f->m, 4, 4);
	maker_parts(f->m, 5, 2);
	for (int i = 0; i < 3; i++)
		maker_segment(f->m, 6 + (uint64_t)i, maker_work(f->m, 10));
	f->want = maker_image(f->m, 8, &f->len);
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK, "%s", err.msg);
	nftw(made, plant, 16, FTW_PHYS);
	cr_assert_eq(ms_url_parse("mem://" STORE, &f->spec, &err), MS_OK, "%s", err.msg);
	f->replica = (struct ms_restore_replica){&f->spec, "mem://" STORE};
}

static void teardown(struct fix *f) {
	ms_replica_spec_release(&f->spec);
	maker_free(f->m);
	ms_mem_drop(STORE);
}

static void put_file(struct ms_env *env, const char *path, const void *data, size_t n) {
	struct ms_file *f;
	struct ms_err err;
	cr_assert_eq(env->ops->open(env, path, MS_O_RDWR | MS_O_CREATE, 0600, &f, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(env->ops->pwrite(f, data, n, 0, &err), MS_OK);
	env->ops->close(f);
}

static struct ms_env *world(uint64_t seed, bool old) {
	struct ms_env *env = ms_env_sim_new(seed);
	struct ms_err err;
	cr_assert_eq(env->ops->mkdir(env, "/d", 0700, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(env->ops->mkdir(env, "/t", 0700, &err), MS_OK, "%s", err.msg);
	if (old) {
		put_file(env, "/d/x.db", old_bytes, sizeof old_bytes);
		put_file(env, "/d/x.db-wal", "old wal", 7);
	}
	ms_env_sim_sync_all(env);
	return env;
}

static bool holds(struct ms_env *env, const char *path, const void *want, size_t n) {
	struct ms_buf b;
	ms_buf_init(&b, 64u << 20);
	bool ok = ms_fs_read_file(env, path, &b, NULL) == MS_OK && b.len == n && memcmp(b.data, want, n) == 0;
	ms_buf_release(&b);
	return ok;
}

static bool count_entry(void *arg, const char *name, bool is_dir) {
	(void)name, (void)is_dir;
	++*(unsigned *)arg;
	return true;
}
static unsigned entries(struct ms_env *env, const char *dir) {
	unsigned n = 0;
	cr_assert_eq(env->ops->readdir(env, dir, count_entry, &n, NULL), MS_OK);
	return n;
}

static enum ms_code restore(struct fix *f, struct ms_env *env, bool force, struct ms_restore_result *res, struct ms_err *err) {
	struct ms_restore_options o = {.replicas = &f->replica, .nreplicas = 1, .path = "/d/x.db", .verify = MS_VERIFY_CHECKSUM, .force = force,
		.hash_bytes = 256, .cache_bytes = 16 * 1024, .parallel = 3};
	*err = MS_ERR_INIT;
	return ms_restore_run(env, &o, res, err);
}

Test(restore_sim, plain) {
	struct fix f;
	setup(&f);
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct ms_restore_result res;
		struct ms_err err;
		struct ms_env *env = world(seed, false);
		cr_assert_eq(restore(&f, env, false, &res, &err), MS_OK, "seed %llu: %s", (unsigned long long)seed, err.msg);
		cr_assert(holds(env, "/d/x.db", f.want, f.len));
		cr_assert_eq(entries(env, "/d"), 1);
		/* durable at once */
		ms_env_sim_crash(env);
		ms_env_sim_restart(env);
		cr_assert(holds(env, "/d/x.db", f.want, f.len), "seed %llu: lost in a crash", (unsigned long long)seed);
		cr_assert_eq(entries(env, "/d"), 1);
		ms_env_sim_free(env);
	}
	teardown(&f);
}

static void fail_each(struct fix *f, bool old) {
	for (uint64_t n = 1;; n++) {
		struct ms_restore_result res;
		struct ms_err err;
		struct ms_env *env = world(n, old);
		ms_env_sim_fail(env, MS_SIM_ANY, NULL, n, 1, n % 3 ? EIO : ENOSPC);
		enum ms_code rc = restore(f, env, old, &res, &err);
		bool met = ms_env_sim_injected(env) > 0;
		ms_env_sim_clear_rules(env);
		if (rc == MS_OK) {
			cr_assert(holds(env, "/d/x.db", f->want, f->len), "operation %llu", (unsigned long long)n);
		} else {
			/* An fsync of the directory that fails comes after the name was taken: reported, and the file is whole. */
			bool whole = holds(env, "/d/x.db", f->want, f->len);
			if (whole)
				cr_assert(strstr(err.msg, "is in place"), "operation %llu: %s", (unsigned long long)n, err.msg);
			else if (old)
				cr_assert(holds(env, "/d/x.db", old_bytes, sizeof old_bytes) && holds(env, "/d/x.db-wal", "old wal", 7),
					  "operation %llu: %s", (unsigned long long)n, err.msg);
			else
				cr_assert_eq(entries(env, "/d"), 0, "operation %llu: %s", (unsigned long long)n, err.msg);
			cr_assert_eq(ms_code_exit(rc), 1, "operation %llu: %s", (unsigned long long)n, err.msg);
		}
		ms_env_sim_free(env);
		if (!met) {
			cr_assert_gt(n, 50);
			break;
		}
	}
}

Test(restore_sim, every_file_operation_fails_once) {
	struct fix f;
	setup(&f);
	fail_each(&f, false);
	fail_each(&f, true);
	teardown(&f);
}

Test(restore_sim, power_fails_before_every_operation) {
	struct fix f;
	setup(&f);
	for (int old = 0; old < 2; old++) {
		for (uint64_t n = 1, seed = 1;; seed++, n += seed % 5 == 0) {
			struct ms_env *env = world(seed, old);
			struct ms_restore_options o = {.replicas = &f.replica, .nreplicas = 1, .path = "/d/x.db", .verify = MS_VERIFY_CHECKSUM, .force = old,
				.hash_bytes = 256, .cache_bytes = 16 * 1024, .parallel = 3};
			struct ms_restore_result res;
			struct ms_err err = MS_ERR_INIT;
			ms_env_sim_crash_at(env, MS_SIM_ANY, NULL, n);
			enum ms_code rc = ms_restore_run(env, &o, &res, &err);
			bool crashed = ms_env_sim_is_down(env);
			if (!crashed) {
				cr_assert_eq(rc, MS_OK, "%s", err.msg);
				cr_assert_gt(n, 50);
				ms_env_sim_free(env);
				break;
			}
			ms_env_sim_restart(env);
			ms_env_sim_clear_rules(env);
			struct ms_stat st;
			bool there = env->ops->stat(env, "/d/x.db", &st, NULL) == MS_OK, whole = holds(env, "/d/x.db", f.want, f.len);
			if (old) {
				cr_assert(whole || holds(env, "/d/x.db", old_bytes, sizeof old_bytes), "operation %llu", (unsigned long long)n);
				/* never a new file beside an old -wal */
				if (whole)
					cr_assert(!holds(env, "/d/x.db-wal", "old wal", 7), "operation %llu: the new file beside an old -wal", (unsigned long long)n);
			} else {
				cr_assert(whole || !there, "operation %llu", (unsigned long long)n);
			}
			ms_env_sim_free(env);
		}
	}
	teardown(&f);
}

Test(restore_sim, transient_failures_of_the_backend_are_waited_out) {
	struct fix f;
	setup(&f);
	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct ms_restore_result res;
		struct ms_err err;
		struct ms_env *env = world(seed, false);
		struct ms_mem_fault fault = {.ops = MS_MEM_GET, .times = -1, .permille = 300, .code = seed % 2 ? MS_ERETRY : MS_ETHROTTLED, .partial = seed % 3 == 0,
			.delay_us = 2000};
		ms_mem_fault(STORE, &fault);
		enum ms_code rc = restore(&f, env, false, &res, &err);
		if (rc == MS_OK)
			cr_assert(holds(env, "/d/x.db", f.want, f.len));
		else
			cr_assert_eq(entries(env, "/d"), 0, "%s", err.msg);
		cr_assert(rc == MS_OK || rc == MS_ERETRY || rc == MS_ETHROTTLED, "seed %llu: %s", (unsigned long long)seed, err.msg);
		ms_mem_clear_faults(STORE);
		ms_env_sim_free(env);
	}
	teardown(&f);
}

Test(restore_sim, objects_that_vanish_are_planned_around) {
	struct fix f;
	struct ms_err err;
	struct ms_restore_result res;
	setup(&f);
	/* The first look at a segment fails as if retention had just removed it; it is there again in the next listing's plan. */
	struct ms_mem_fault once = {.ops = MS_MEM_GET, .name_has = "segments/0000000000000004", .times = 1, .code = MS_ENOTFOUND};
	ms_mem_fault(STORE, &once);
	struct ms_env *env = world(1, false);
	cr_assert_eq(restore(&f, env, false, &res, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(res.replans, 1);
	cr_assert(holds(env, "/d/x.db", f.want, f.len));
	cr_assert_eq(entries(env, "/d"), 1);
	ms_env_sim_free(env);
	/* One that stays away ends it, after a bounded number of tries, as not restorable. */
	struct ms_mem_fault ever = {.ops = MS_MEM_GET, .name_has = "segments/0000000000000004", .times = -1, .code = MS_ENOTFOUND};
	ms_mem_clear_faults(STORE);
	ms_mem_fault(STORE, &ever);
	env = world(2, false);
	cr_assert_eq(restore(&f, env, false, &res, &err), MS_ENOTRESTORABLE, "%s", err.msg);
	cr_assert_eq(entries(env, "/d"), 0);
	ms_env_sim_free(env);
	teardown(&f);
}
