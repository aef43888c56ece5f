/* Stopping and retention of a worker; the rest is in test_worker.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "core/names.h"
#include "core/retention.h"
#include "replicas/mem.h"
#include "support/worker_rig.h"

#define SECOND UINT64_C(1000000)

static struct ms_env *env;
static struct wrig a, b;
static char why[512];

static void setup(void) {
	env = ms_env_sim_new(7);
	wrig_init(&a, env, "/a", "owner-a", 1);
}
static void teardown(void) {
	wrig_free(&a);
	wrig_free(&b);
	ms_env_sim_free(env);
}
TestSuite(worker_end, .init = setup, .fini = teardown);

static const char *const one[] = {"s0"};

struct counter {
	enum ms_name_kind kind;
	unsigned n;
};
static void count_cb(void *arg, const char *name, const uint8_t *data, size_t len) {
	struct counter *c = arg;
	struct ms_name n;
	(void)data, (void)len;
	c->n += ms_name_parse(name, &n) && n.kind == c->kind;
}
static unsigned count_kind(const char *store, enum ms_name_kind kind) {
	struct counter c = {kind, 0};
	ms_mem_each(store, count_cb, &c);
	return c.n;
}

/* Every state of the rig restores from the store. first: index of the first that must. */
static void expect_all(const struct wrig *r, const char *store, unsigned first) {
	const struct wrig *hosts[2] = {&a, &b};
	unsigned n = wrig_check(hosts, 2, store, why, sizeof why);
	cr_assert(n > 0, "%s", why);
	for (unsigned i = first; i < r->nstates; i++)
		cr_assert(wrig_restores(r, store, &r->states[i]), "state %u (%s/%llu) does not restore", i, r->states[i].generation.s,
			  (unsigned long long)r->states[i].db.txid);
}

static struct ms_worker_status status(const struct wrig *r, unsigned i) {
	struct ms_worker_status st;
	ms_worker_status(r->workers[i].w, &st);
	return st;
}

static void boot_with_commits(unsigned n) {
	wrig_boot(&a, one, 1);
	wrig_root(&a);
	for (unsigned i = 0; i < n; i++)
		wrig_commit(&a, 3, true);
}

static void boot_second(const char *owner) {
	wrig_init(&b, env, "/b", owner, 99);
}

/* ---- stop ---- */

static void was_stopped(void *arg) { *(bool *)arg = true; }
static bool flag(void *arg) { return *(bool *)arg; }

Test(worker_end, stop_ships_what_is_durable) {
	a.cfg.min_interval_us = 100 * (int64_t)SECOND;
	boot_with_commits(1);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	wrig_commit(&a, 2, true);
	wrig_run(&a, NULL, NULL, SECOND);
	wrig_commit(&a, 2, true);
	bool stopped = false;
	ms_worker_stop(a.workers[0].w, 10 * SECOND, was_stopped, &stopped);
	cr_assert_not(stopped, "not from within the call");
	cr_assert(wrig_run(&a, flag, &stopped, SECOND));
	cr_expect_eq(status(&a, 0).state, MS_WORKER_STOPPED);
	expect_all(&a, "s0", 1);
}

Test(worker_end, stop_gives_up_at_its_deadline) {
	boot_with_commits(1);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = -1, .code = MS_ERETRY});
	wrig_commit(&a, 2, true);
	wrig_snapshot(&a, 0);
	bool stopped = false;
	ms_worker_stop(a.workers[0].w, 10 * SECOND, was_stopped, &stopped);
	cr_assert_not(wrig_run(&a, flag, &stopped, 9 * SECOND));
	cr_assert(wrig_run(&a, flag, &stopped, 2 * SECOND));
	cr_expect_not(a.workers[0].snapping, "the snapshot has been answered");
	/* And at once. */
	wrig_bury(&a);
	wrig_boot(&a, one, 1);
	wrig_run(&a, NULL, NULL, SECOND / 100);
	stopped = false;
	ms_worker_stop(a.workers[0].w, 0, was_stopped, &stopped);
	cr_assert(wrig_run(&a, flag, &stopped, SECOND));
}

/* ---- retention ---- */

Test(worker_end, retention_by_itself) {
	a.cfg.snapshot_retention_us = 100 * (int64_t)SECOND;
	a.cfg.check_interval_us = 30 * (int64_t)SECOND;
	a.cfg.removal_grace_us = 10 * (int64_t)SECOND;
	boot_with_commits(1);
	for (int i = 0; i < 60; i++) {
		wrig_commit(&a, 3, true);
		if (i % 5 == 0)
			wrig_snapshot(&a, 0);
		wrig_run(&a, NULL, NULL, 10 * SECOND);
		const struct wrig *hosts[1] = {&a};
		cr_assert(wrig_check(hosts, 1, "s0", why, sizeof why) > 0, "%s", why);
		cr_assert(wrig_restores(&a, "s0", wrig_now(&a)));
	}
	cr_expect_geq(count_kind("s0", MS_NAME_SNAPSHOT), 2);
	cr_expect_leq(count_kind("s0", MS_NAME_SNAPSHOT), 5);
	cr_expect_leq(count_kind("s0", MS_NAME_SEGMENT), 25);
	cr_expect_leq(count_kind("s0", MS_NAME_CHUNK), 15);
	cr_expect_gt(status(&a, 0).removals, 40);
	/* Idle for long: all have expired, the newest stays and restores. */
	wrig_run(&a, NULL, NULL, 1000 * SECOND);
	cr_expect_eq(count_kind("s0", MS_NAME_SNAPSHOT), 1);
	cr_assert(wrig_restores(&a, "s0", wrig_now(&a)));
}

Test(worker_end, nothing_is_removed_before_the_grace_time_nor_by_a_loser) {
	a.cfg.snapshot_retention_us = (int64_t)SECOND;
	a.cfg.removal_grace_us = 100 * (int64_t)SECOND;
	boot_with_commits(3);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	wrig_run(&a, NULL, NULL, 5 * SECOND);
	wrig_commit(&a, 3, true);
	wrig_snapshot(&a, 0);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	ms_worker_prune_now(a.workers[0].w);
	wrig_run(&a, NULL, NULL, 50 * SECOND);
	cr_expect_eq(count_kind("s0", MS_NAME_SNAPSHOT), 2, "the grace time is not over");
	/* Somebody takes over meanwhile: the list is no longer the newest head's. */
	boot_second("owner-b");
	b.takeover = true;
	wrig_boot(&b, one, 1);
	wrig_root(&b);
	cr_assert(wrig_settle(&b, 20 * SECOND));
	wrig_run(&a, NULL, NULL, 100 * SECOND);
	cr_expect(a.workers[0].fenced);
	cr_expect_eq(count_kind("s0", MS_NAME_SNAPSHOT), 3);
}

/* Each start puts a head; the old ones go, and yet nobody who has slept through their numbers gets in. */
Test(worker_end, old_heads_go) {
	a.cfg.snapshot_retention_us = 1000000 * (int64_t)SECOND;
	a.cfg.removal_grace_us = (int64_t)SECOND;
	boot_with_commits(3);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	boot_second("owner-b");
	b.takeover = true;
	b.cfg = a.cfg;
	wrig_boot(&b, one, 1);
	wrig_root(&b);
	for (int i = 0; i < 40; i++) {
		wrig_commit(&b, 2, true);
		cr_assert(wrig_settle(&b, 60 * SECOND), "start %d", i);
		ms_worker_prune_now(b.workers[0].w);
		wrig_run(&b, NULL, NULL, 10 * SECOND);
		cr_assert_leq(count_kind("s0", MS_NAME_HEAD), 2 * MS_HEADS_KEPT + 4);
		bool stopped = false;
		ms_worker_stop(b.workers[0].w, 10 * SECOND, was_stopped, &stopped);
		cr_assert(wrig_run(&b, flag, &stopped, 11 * SECOND));
		wrig_bury(&b);
		wrig_boot(&b, one, 1);
	}
	cr_assert(wrig_settle(&b, 60 * SECOND));
	size_t len;
	/* Since when a generation was head, and the last of each: 1 was the other owner's only one, 2 the first of this one's. */
	cr_assert(ms_mem_peek("s0", "head/00000001", &len) && ms_mem_peek("s0", "head/00000002", &len));
	for (unsigned n = 3; n < 20; n++) {
		char name[MS_NAME_MAX];
		snprintf(name, sizeof name, "head/%08x", n);
		cr_assert_null(ms_mem_peek("s0", name, &len), "%s", name);
	}
	cr_assert(wrig_restores(&b, "s0", wrig_now(&b)) && wrig_restores(&a, "s0", wrig_now(&a)));
	/* The first owner wakes up. The next number that it knows of is free again (as if nothing were left of the generation that began with it). */
	ms_mem_erase("s0", "head/00000002");
	wrig_fork(&a);
	wrig_commit(&a, 2, true);
	wrig_run(&a, NULL, NULL, 20 * SECOND);
	cr_assert(a.workers[0].fenced);
	cr_assert_null(ms_mem_peek("s0", "head/00000002", &len));
}

/* ---- generations ---- */

Test(worker_end, generations_in_journal_order) {
	boot_with_commits(3);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	unsigned first = a.nstates - 1;
	for (int g = 0; g < 4; g++) {
		wrig_fork(&a);
		for (int i = 0; i < 3; i++)
			wrig_commit(&a, 2, true);
	}
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect_eq(a.workers[0].needs, 1, "forks need no snapshot");
	expect_all(&a, "s0", first);
	/* The database is behind what was journalled: a fork from an older txid. */
	wrig_fork_at(&a, wrig_now(&a)->db.txid - 2);
	wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	expect_all(&a, "s0", first);
	/* Another database under the same name: a root; until its snapshot is there the old one restores. */
	a.auto_snapshot = false;
	const struct wrig_state before = *wrig_now(&a);
	wrig_root(&a);
	wrig_commit(&a, 2, true);
	wrig_run(&a, NULL, NULL, 5 * SECOND);
	cr_expect(ms_worker_waits_for_snapshot(a.workers[0].w));
	cr_expect_eq(status(&a, 0).state, MS_WORKER_SEEDING);
	cr_assert(wrig_restores(&a, "s0", &before));
	wrig_snapshot(&a, 0);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_assert(wrig_restores(&a, "s0", wrig_now(&a)) && wrig_restores(&a, "s0", &before));
}
