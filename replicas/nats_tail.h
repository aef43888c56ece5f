/*
 * The tail: what was put lately and a server may still lose in a crash, because it acknowledges before it syncs. Shared by all handles of a
 * process on one bucket and prefix, so that the loss of a snapshot's object is found by whoever calls first. It is looked at again after every new
 * connection, and when the stream's sequence is seen to go back.
 * Bound: MS_NATS_TAIL_MAX objects; when more are put within the sync interval the oldest are no longer looked at.
 */
#ifndef MS_REPLICAS_NATS_TAIL_H
#define MS_REPLICAS_NATS_TAIL_H

#include "replicas/nats_bucket.h"

#define MS_NATS_TAIL_MAX 1024u

struct ms_nats_tail;
struct ms_nats_tail *ms_nats_tail_get(const struct ms_nats_link *l, const struct ms_nats_conf *c); /* NULL: out of memory */
void ms_nats_tail_unref(struct ms_nats_tail *t); /* accepts NULL */

/* An object that is there now (put, or met as "exists"). Out of memory: MS_ENOMEM, and the object is not watched. */
enum ms_code ms_nats_tail_add(struct ms_nats_tail *t, struct ms_nats_session *s, const struct ms_nats_meta *m, struct ms_err *err) MS_WARN_UNUSED;
/* Before an object is removed. */
void ms_nats_tail_forget(struct ms_nats_tail *t, const char *full_name);
/* The next check looks again. */
void ms_nats_tail_doubt(struct ms_nats_tail *t);
/* Unless done on this connection: every object of the tail must be there, with its chunks. MS_ELOST names the first that is not; what is lost is
 * forgotten then, so that the loss is told once. */
enum ms_code ms_nats_tail_check(struct ms_nats_tail *t, struct ms_nats_session *s, struct ms_err *err) MS_WARN_UNUSED;

#endif
