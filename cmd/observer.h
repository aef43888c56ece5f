/*
 * libmigstream: replication from inside an engine (page-flush observer). One observer replicates one database; it runs a loop
 * thread of its own, keeps journal and page sums in its shadow directory, ships to the given replicas, and can be watched
 * with `migstream status --socket <shadow>/control.sock`.
 *
 *   struct ms_observer *o;
 *   ms_observer_open(&cfg, &o, &err);
 *   ms_observer_wait(o, timeout_us, NULL, &err);    from now on each flush is a commit of its own
 *   for each write transaction:
 *       ms_observer_begin(o);                       before the first page of the file changes
 *       ... write and sync the file ...
 *       ms_stream_on_page_flush(o, &flush, &err);   returns when the journal has it durably: acknowledge now
 *   ms_observer_close(o, NULL);
 *
 * A flush that fails (MS_EBUSY, MS_ECLOSED, MS_ENOSPC, MS_EIO: sources/push.h) has not been captured by itself: the engine may go on, and the stream
 * brings it with its next state; status says so meanwhile. Threads: any, one write transaction at a time. The threads that an observer
 * starts have all signals blocked.
 */
#ifndef MS_CMD_OBSERVER_H
#define MS_CMD_OBSERVER_H

#include "sources/push.h"

struct ms_observer;
struct ms_observer_config {
	const char *path; /* of the database, for names and messages */
	const char *shadow_dir; /* NULL: the default for path */
	const char *const *urls; /* replicas; none: a local one in the shadow directory */
	unsigned nurls;
	struct ms_push_config db;
};
/* MS_EBUSY: another process, or another observer of this one, uses the shadow directory. Drivers from outside are registered before. Log lines go to
 * standard error (base/log.h). */
enum ms_code ms_observer_open(const struct ms_observer_config *cfg, struct ms_observer **ret, struct ms_err *err) MS_WARN_UNUSED;
/* Waits until the stream is attached and everything flushed before the call is captured and durable in the journal. *ret_txid (may be NULL) is the
 * stream's number of that state: what `migrestore --txid` names, together with the generation. timeout_us 0 = none; MS_ETIMEDOUT. MS_EFENCED and others: it cannot
 * come. Not within begin..flush. */
enum ms_code ms_observer_wait(struct ms_observer *o, int64_t timeout_us, uint64_t *ret_txid, struct ms_err *err) MS_WARN_UNUSED;
void ms_observer_begin(struct ms_observer *o);
void ms_observer_cancel(struct ms_observer *o);
enum ms_code ms_stream_on_page_flush(struct ms_observer *o, const struct ms_page_flush *f, struct ms_err *err) MS_WARN_UNUSED;
/* Ships what is pending for at most 10 s. *ret_unshipped = true when something stays in the journal only; may be NULL. Accepts NULL. */
void ms_observer_close(struct ms_observer *o, bool *ret_unshipped);

#endif
