/*
 * Connections to NATS. All handles of a process that name the same servers and login share one connection (a link), so that ten thousand
 * databases cost one socket and nats.c's threads once. A connection that breaks is given up, not revived by nats.c: no call's bytes may
 * wait in a reconnect buffer while core believes them lost. The next call connects again, beginning with the server after the last one.
 * Thread-safe. Nothing here survives fork(): nats.c's threads do not.
 */
#ifndef MS_REPLICAS_NATS_LINK_H
#define MS_REPLICAS_NATS_LINK_H

#include <nats/nats.h>
#include <pthread.h>
#include <stdatomic.h>

#include "replicas/nats_conf.h"

struct ms_nats_link;
struct ms_nats_conn {
	natsConnection *nc;
	uint64_t serial; /* of this process, from 1: another connection has another */
	int64_t max_payload;
	atomic_uint refs;
	atomic_bool dead; /* set by whoever saw it fail: the link replaces it */

	pthread_mutex_t mu;
	/* Under mu: subscriptions to be destroyed when the connection is closed and its reader has ended. */
	natsSubscription **ended;
	unsigned nended;
};

/* The link of the spec's servers and login; NULL when out of memory. c: of the same spec. */
struct ms_nats_link *ms_nats_link_get(struct ms_env *env, const struct ms_replica_spec *spec, const struct ms_nats_conf *c, struct ms_err *err);
void ms_nats_link_unref(struct ms_nats_link *l); /* accepts NULL */

/* Blocks until connected, until a round over all servers has failed (with the last server's error; refused logins come first), or until cancelled. */
enum ms_code ms_nats_link_connect(struct ms_nats_link *l, const atomic_bool *cancelled, struct ms_nats_conn **ret, struct ms_err *err) MS_WARN_UNUSED;
/* Ends a subscription. nats.c's reader may be about to deliver to it, without a reference of its own: so it is destroyed only when a PONG has come
 * behind everything sent to it (wait: for that, up to half a second), or with the connection. */
void ms_nats_conn_unsubscribe(struct ms_nats_conn *c, natsSubscription *sub, bool wait);
void ms_nats_conn_unref(struct ms_nats_conn *c); /* accepts NULL; the last one closes it */

/* Waits on cond for 50 ms at most. */
void ms_nats_wait(pthread_cond_t *cond, pthread_mutex_t *mu);

#endif
