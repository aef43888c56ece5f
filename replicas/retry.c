#include "replicas/retry.h"

#define SECOND INT64_C(1000000)

struct schedule {
	int64_t first_us, most_us;
};

static bool schedule_of(enum ms_code code, struct schedule *ret) {
	switch (code) {
	case MS_ERETRY:
	case MS_ELOST:
	case MS_EIO:
	case MS_ETIMEDOUT:
		*ret = (struct schedule){SECOND / 10, 30 * SECOND};
		return true;
	case MS_ETHROTTLED:
		*ret = (struct schedule){SECOND, 60 * SECOND};
		return true;
	case MS_EAUTH:
	case MS_ENOSPC:
	case MS_EPERM:
	case MS_ENOTFOUND:
		*ret = (struct schedule){SECOND, 30 * SECOND};
		return true;
	default:
		return false;
	}
}

void ms_retry_ok(struct ms_retry *r) { *r = (struct ms_retry){0}; }

int64_t ms_retry_failed(struct ms_retry *r, struct ms_env *env, const struct ms_err *err) {
	struct schedule s;
	if (!schedule_of(err->code, &s))
		return -1;
	if (!r->failures++)
		r->since_us = ms_env_now_us(env);
	/* A server that names a time is believed, up to ten minutes; jitter only adds to it. */
	if (err->code == MS_ETHROTTLED && err->sys > 0) {
		s.first_us = (err->sys > 600 ? 600 : err->sys) * SECOND;
		s.most_us = s.first_us;
	}
	int64_t wait = s.first_us;
	for (unsigned i = 1; i < r->failures && wait < s.most_us; i++)
		wait *= 2;
	if (wait > s.most_us)
		wait = s.most_us;
	/* Half fixed, half random, so that many workers that lost one backend together do not come back together. */
	uint64_t random;
	ms_env_random(env, &random, sizeof random);
	if (err->code == MS_ETHROTTLED && err->sys > 0)
		return wait + (int64_t)(random % (uint64_t)(wait / 4 + 1));
	return wait / 2 + (int64_t)(random % (uint64_t)(wait / 2 + 1));
}
