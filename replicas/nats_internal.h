/* A handle of the NATS driver, and its operations by file. One thread at a time, but for the session's `cancelled`. */
#ifndef MS_REPLICAS_NATS_INTERNAL_H
#define MS_REPLICAS_NATS_INTERNAL_H

#include "replicas/nats_bucket.h"
#include "replicas/nats_tail.h"

/* Header of our chunks: the metadata token of the object they are put for. Chunks without it are never swept. */
#define MS_NATS_OWNER_HEADER "Migstream-Object"

struct ms_nats {
	struct ms_replica_base base;
	struct ms_env *env;
	struct ms_nats_conf conf;
	struct ms_nats_link *link;
	struct ms_nats_session session;
	struct ms_nats_bucket bucket;
	struct ms_nats_tail *tail;
	uint64_t top_seq;     /* of the metadata put last */
	uint64_t sweep_at_ns; /* monotonic: the next sweep */
	uint64_t sweep_seq;   /* where it goes on */
};

/* Begins every operation: connected, the tail looked at, the bucket known. */
enum ms_code ms_nats_enter(struct ms_nats *r, bool make, struct ms_err *err) MS_WARN_UNUSED;
void ms_nats_full_name(const struct ms_nats *r, const char *name, char ret[MS_NATS_FULL_NAME_MAX + 1]);

enum ms_code ms_nats_put(struct ms_nats *r, const char *name, struct ms_body *b, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_nats_get(struct ms_nats *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_nats_list(struct ms_nats *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_nats_remove(struct ms_nats *r, const char *name, struct ms_err *err) MS_WARN_UNUSED;
/* Removes chunks that no object names and whose newest is older than sweepAge: at most SWEEP_MESSAGES looked at, then the next call goes on. Its
 * failures are nobody's. */
void ms_nats_sweep(struct ms_nats *r);

#endif
