/*
 * What the tests of a worker start from that has one replica, "s0", and a backend that may lose what it has acknowledged for `settle`: a
 * database with a first snapshot. Criterion assertions; one at a time.
 */
#ifndef MS_TESTS_SUPPORT_ONE_REPLICA_H
#define MS_TESTS_SUPPORT_ONE_REPLICA_H

#include <criterion/criterion.h>

#include "replicas/mem.h"
#include "support/worker_rig.h"

#define SECOND UINT64_C(1000000)

static struct ms_env *env;
static struct wrig a;
static const char *const one[] = {"s0"};

static inline void begin(uint64_t seed, uint64_t settle) {
	env = ms_env_sim_new(seed);
	wrig_init(&a, env, "/a", "owner-a", 1);
	ms_mem_set_settle("s0", (int64_t)settle);
	wrig_boot(&a, one, 1);
	wrig_root(&a);
	cr_assert(wrig_settle(&a, 5 * SECOND));
}

static inline void end(void) {
	wrig_free(&a);
	ms_env_sim_free(env);
}

static inline struct ms_worker_status status(void) {
	struct ms_worker_status st;
	ms_worker_status(a.workers[0].w, &st);
	return st;
}

/* Commits, each in a journal file of its own and put. */
static inline void commits(unsigned n) {
	struct ms_err err = MS_ERR_INIT;
	for (unsigned i = 0; i < n; i++) {
		wrig_commit(&a, 2, true);
		cr_assert(wrig_settle(&a, 5 * SECOND));
		cr_assert_eq(ms_journal_rotate(a.journal, &err), MS_OK, "%s", err.msg);
	}
}

/* What the journal need not keep goes. */
static inline void purge(void) {
	struct ms_err err = MS_ERR_INIT;
	uint64_t files, bytes;
	cr_assert_eq(ms_journal_purge(a.journal, ms_worker_needs_seq(a.workers[0].w), &files, &bytes, &err), MS_OK, "%s", err.msg);
}

/* States that restore, of which there are some and none differs from the model's. */
static inline unsigned sound(void) {
	const struct wrig *hosts[1] = {&a};
	char why[512] = "";
	unsigned n = wrig_check(hosts, 1, "s0", why, sizeof why);
	cr_assert(n > 0, "%s", why);
	return n;
}

#endif
