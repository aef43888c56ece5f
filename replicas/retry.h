/*
 * Retry schedule by error class: jittered exponential backoff. Pure but for env's randomness. Embedded, one owner.
 * MS_ERETRY, MS_ELOST, MS_EIO, MS_ETIMEDOUT: 100 ms doubling to 30 s. MS_ETHROTTLED: as the server says, else 1 s doubling to 60 s.
 * MS_EAUTH, MS_ENOSPC, MS_EPERM, MS_ENOTFOUND (replica directory gone): 1 s doubling to 30 s. Everything else: not retried.
 */
#ifndef MS_REPLICAS_RETRY_H
#define MS_REPLICAS_RETRY_H

#include "base/env.h"

struct ms_retry {
	unsigned failures; /* in a row */
	int64_t since_us;  /* wall time of the first failure of the row, 0 none */
};
void ms_retry_ok(struct ms_retry *r);
/* Counts a failure; microseconds to wait, or -1 when the class is not retried. */
int64_t ms_retry_failed(struct ms_retry *r, struct ms_env *env, const struct ms_err *err);

#endif
