/*
 * Taking a snapshot while commits go on (DESIGN §7). The database is read in chunks between capture steps; pages written after their
 * chunk was read are noted (core/scan.h) and read again: as patch chunks while there are many, so that each pass stores only what has changed, the
 * last ones as patches in the manifest, all at one captured state. Every page read is compared with its page sum, so a published snapshot is proven page by page.
 *
 * Read once, given to every participating worker; MS_WORKER_SNAP_PUTS chunks are on their way at once, and the next one is read when one of
 * them has arrived everywhere. The manifest is put when all have. Memory: one chunk raw, MS_WORKER_SNAP_PUTS encoded, patches of at most
 * MS_SNAPSHOT_PATCH_MAX. Nothing is copied to local disk.
 *
 * Threads: fill() and touch() in the stream's source job; advance() and free() on the loop thread while no such job runs;
 * the rest on the loop thread at any time.
 */
#ifndef MS_CORE_SNAPSHOT_RUN_H
#define MS_CORE_SNAPSHOT_RUN_H

#include "core/capture.h"
#include "core/worker.h"

struct ms_snapshot_run;
struct ms_snapshot_result {
	struct ms_err err;  /* MS_OK when at least one worker has it */
	bool damaged;	    /* a page disagreed with its page sum: the stream runs a catch-up */
	uint64_t txid;
	uint64_t bytes;	    /* of all objects */
	uint32_t published; /* workers that have it */
};
/* workers: the participants (array copied). done runs on the loop thread once; the caller frees the run when no source job runs.
 * wake runs on the loop thread whenever fill() is wanted again. */
enum ms_code ms_snapshot_run_new(struct ms_env *env, struct ms_journal *j, struct ms_capture *cap, struct ms_worker **workers, uint32_t n,
				 int compression, uint32_t epoch, void (*done)(void *arg, const struct ms_snapshot_result *),
				 void (*wake)(void *arg), void *arg,
				 struct ms_snapshot_run **ret, struct ms_err *err) MS_WARN_UNUSED;
/* True when fill() should be called after the next capture step. */
bool ms_snapshot_run_wants_fill(const struct ms_snapshot_run *r);
/* Source job: reads for at most budget_us, exact at the captured position. MS_EBUSY: not pinned now, try after the next step. */
enum ms_code ms_snapshot_run_fill(struct ms_snapshot_run *r, struct ms_source *src, uint64_t budget_us, struct ms_err *err) MS_WARN_UNUSED;
/* Source job: a page was given to the capture. */
void ms_snapshot_run_touch(void *run, uint32_t pgno);
/* Loop thread, after the source job has ended: starts encoding and uploading what fill() has made ready. */
void ms_snapshot_run_advance(struct ms_snapshot_run *r);
/* Loop thread: the journal's durable sequence has moved. */
void ms_snapshot_run_durable(struct ms_snapshot_run *r, uint64_t seq);
/* Gives the run up, if it has not ended, and frees it: at once, or when the encoding job or the puts under way have returned. Until then it
 * is in *list (NULL at first), which it leaves by itself; wake() is called then. No done() afterwards. Accepts NULL. */
void ms_snapshot_run_drop(struct ms_snapshot_run *r, struct ms_snapshot_run **list);
/* Frees a run whose job and puts never return, because the machine is dead: its own, or the first of a list. */
void ms_snapshot_run_abandon(struct ms_snapshot_run *r);
/* Journal sequence from which the replicas that wait for this snapshot go on; UINT64_MAX while that is not known. Loop thread. */
uint64_t ms_snapshot_run_needs_seq(const struct ms_snapshot_run *r);
uint32_t ms_snapshot_run_percent(const struct ms_snapshot_run *r);

#endif
