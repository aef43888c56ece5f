#include <criterion/criterion.h>

#include "base/env_sim.h"
#include "replicas/retry.h"

#define MS INT64_C(1000)
#define S INT64_C(1000000)

/* Waits of a class lie between half and the whole of first * 2^n, up to most. */
static void schedule(enum ms_code code, int sys, int64_t first, int64_t most, bool exact_floor) {
	struct ms_env *env = ms_env_sim_new(3);
	struct ms_retry r = {0};
	struct ms_err err = {code, sys, ""};
	int64_t full = first, distinct = 0, last = -1;
	for (int i = 0; i < 40; i++) {
		int64_t w = ms_retry_failed(&r, env, &err);
		if (exact_floor)
			cr_expect(w >= full && w <= full + full / 4, "%s try %d: %lld", ms_code_name(code), i, (long long)w);
		else
			cr_expect(w >= full / 2 && w <= full, "%s try %d: %lld of %lld", ms_code_name(code), i, (long long)w, (long long)full);
		distinct += w != last;
		last = w;
		full = full * 2 > most ? most : full * 2;
	}
	cr_expect_gt(distinct, 30, "no jitter");
	cr_expect_eq(r.failures, 40);
	cr_expect_gt(r.since_us, 0);
	ms_retry_ok(&r);
	cr_expect_eq(r.failures, 0);
	cr_expect_eq(r.since_us, 0);
	ms_env_sim_free(env);
}

Test(retry, classes) {
	schedule(MS_ERETRY, 0, 100 * MS, 30 * S, false);
	schedule(MS_EIO, 5, 100 * MS, 30 * S, false);
	schedule(MS_ETIMEDOUT, 0, 100 * MS, 30 * S, false);
	schedule(MS_ETHROTTLED, 0, 1 * S, 60 * S, false);
	schedule(MS_ETHROTTLED, 7, 7 * S, 7 * S, true);
	schedule(MS_ETHROTTLED, 100000, 600 * S, 600 * S, true);
	schedule(MS_EAUTH, 0, 1 * S, 30 * S, false);
	schedule(MS_ENOSPC, 0, 1 * S, 30 * S, false);
	schedule(MS_EPERM, 0, 1 * S, 30 * S, false);
	schedule(MS_ENOTFOUND, 0, 1 * S, 30 * S, false);
}

Test(retry, the_rest_is_not_retried) {
	struct ms_env *env = ms_env_sim_new(3);
	static const enum ms_code codes[] = {MS_EFENCED, MS_EEXISTS, MS_ECORRUPT, MS_EPERMANENT, MS_ECONFLICT, MS_EUNSUPPORTED, MS_EINVAL, MS_ECANCELED, MS_EUSAGE, MS_EGAP};
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		struct ms_retry r = {0};
		cr_expect_eq(ms_retry_failed(&r, env, &(struct ms_err){codes[i], 0, ""}), -1, "%s", ms_code_name(codes[i]));
		cr_expect_eq(r.failures, 0);
	}
	ms_env_sim_free(env);
}

Test(retry, the_row_remembers_its_beginning) {
	struct ms_env *env = ms_env_sim_new(3);
	struct ms_retry r = {0};
	struct ms_err err = {MS_ERETRY, 0, ""};
	(void)ms_retry_failed(&r, env, &err);
	int64_t since = r.since_us;
	env->ops->sleep_us(env, 5000000);
	(void)ms_retry_failed(&r, env, &err);
	cr_expect_eq(r.since_us, since);
	ms_env_sim_free(env);
}
