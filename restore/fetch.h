/*
 * Reading from one or several replicas of a database: one handle per (worker, replica), opened on first use; gets that resume after a
 * transient failure; byte counts; cancel.
 *
 * Threads: a worker number belongs to one job at a time (a handle serves one thread). cancel() may be called from any
 * thread; counters may be read from any. Calls block: pool threads only.
 */
#ifndef MS_RESTORE_FETCH_H
#define MS_RESTORE_FETCH_H

#include <stdatomic.h>
#include "replicas/replica.h"

#define MS_FETCH_WORKERS_MAX 32u

/* A replica to read: its address and how to print it. Borrowed. */
struct ms_restore_replica {
	const struct ms_replica_spec *spec;
	const char *url;
};

struct ms_fetch;
/* cancel may be NULL; once true, every call fails MS_ECANCELED. replicas and cancel must outlive it. */
enum ms_code ms_fetch_new(struct ms_env *env, const struct ms_restore_replica *replicas, unsigned nreplicas, unsigned workers,
			  const atomic_bool *cancel, struct ms_fetch **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_fetch_free(struct ms_fetch *f); /* no call under way; accepts NULL */
void ms_fetch_cancel(struct ms_fetch *f);
bool ms_fetch_canceled(const struct ms_fetch *f);

struct ms_env *ms_fetch_env(const struct ms_fetch *f);
unsigned ms_fetch_replicas(const struct ms_fetch *f);
unsigned ms_fetch_workers(const struct ms_fetch *f);
const char *ms_fetch_url(const struct ms_fetch *f, unsigned replica);
uint64_t ms_fetch_bytes(const struct ms_fetch *f); /* received so far */
uint64_t ms_fetch_gets(const struct ms_fetch *f);

/* The raw handle, for listings. */
enum ms_code ms_fetch_handle(struct ms_fetch *f, unsigned worker, unsigned replica, struct ms_replica **ret, struct ms_err *err) MS_WARN_UNUSED;
/* Streams bytes [off, off + len) of an object (len -1: to the end) to cb. Transient failures are tried again up to 5 times with growing
 * delays, from where the stream stopped. A range past the end delivers what is there. Errors name the object and the replica,
 * but for those that cb returned itself. */
enum ms_code ms_fetch_get(struct ms_fetch *f, unsigned worker, unsigned replica, const char *name, int64_t off, int64_t len, ms_get_cb cb,
			  void *arg, struct ms_err *err) MS_WARN_UNUSED;
/* Into memory: exactly what the range holds, at most cap bytes. */
enum ms_code ms_fetch_mem(struct ms_fetch *f, unsigned worker, unsigned replica, const char *name, int64_t off, size_t len, uint8_t *ret,
			  size_t *ret_n, struct ms_err *err) MS_WARN_UNUSED;

#endif
