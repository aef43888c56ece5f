/*
 * Most bytes a second on the way to one replica, whatever the backend: a token bucket, and a put's body that is read no faster than it
 * fills. One bucket for all handles of a replica. It holds what one second brings, so that a little after quiet goes at once. A read
 * asks for at most a tenth of a second's bytes and sleeps in the put's thread until they are paid for, so the backend gets to look
 * after its connections; a backend that collects a whole object before it sends it (up to one part) sends that at full speed, and the average holds.
 * Any thread, but for init and release.
 */
#ifndef MS_REPLICAS_THROTTLE_H
#define MS_REPLICAS_THROTTLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "replicas/replica.h"

struct ms_throttle {
	struct ms_env *env;
	pthread_mutex_t lock;
	uint64_t rate;	  /* bytes a second; 0 = no limit */
	double tokens;	  /* bytes; below 0: owed */
	uint64_t at_us;	  /* monotonic: when tokens were counted */
	uint64_t until_us; /* monotonic: when what is owed will be paid */
	uint64_t waited_us; /* in sum */
};
void ms_throttle_init(struct ms_throttle *t, struct ms_env *env, uint64_t rate);
void ms_throttle_release(struct ms_throttle *t);
/* Holds from the next read on, also for puts under way. */
void ms_throttle_set(struct ms_throttle *t, uint64_t rate);
uint64_t ms_throttle_rate(struct ms_throttle *t);
/* Takes n bytes; microseconds until they are paid for, 0 = they are. */
uint64_t ms_throttle_take(struct ms_throttle *t, uint64_t n);
/* Has a put had to wait within the last second? *ret_waited_us: in sum since init. */
bool ms_throttle_holds(struct ms_throttle *t, uint64_t *ret_waited_us);

/* ms_replica_put() at the pace of the bucket. cancel ends a wait within a tenth of a second (MS_ECANCELED), besides ms_replica_cancel(). */
enum ms_code ms_throttle_put(struct ms_throttle *t, struct ms_replica *r, const char *name, struct ms_body *b, const atomic_bool *cancel,
			     struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_throttle_put_mem(struct ms_throttle *t, struct ms_replica *r, const char *name, const void *data, size_t n, const atomic_bool *cancel,
				 struct ms_err *err) MS_WARN_UNUSED;

#endif
