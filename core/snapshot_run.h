/*
 * Taking a snapshot while commits go on (DESIGN §7). The database is read in chunks between capture steps; pages written after their
 * chunk was read are noted (core/scan.h) and read again: as patch chunks while there are many, so that each pass stores only what has changed, the
 * last ones as patches in the manifest, all at one captured state. Every page read is compared with its page sum, so a published snapshot is proven page by page.
 *
 * Read once, given to every participating worker, at the pace of the slowest within a bound: up to MS_SNAPSHOT_WINDOW encoded chunks wait for those
 * that are behind, then everything does, in sum for at most as long as the snapshot has moved plus MS_SNAPSHOT_PATIENCE_US. Then those that
 * still are behind leave it (slow() is told), and the others go on. Each has the snapshot as soon as its own manifest is there. Memory: one
 * chunk raw, the window, what replicas that have left are still at, patches of at most MS_SNAPSHOT_PATCH_MAX. Nothing is copied to local disk.
 *
 * Threads: fill() and touch() in the stream's source job; advance() and free() on the loop thread while no such job runs;
 * the rest on the loop thread at any time.
 */
#ifndef MS_CORE_SNAPSHOT_RUN_H
#define MS_CORE_SNAPSHOT_RUN_H

#include "core/capture.h"
#include "core/worker.h"

#define MS_SNAPSHOT_WINDOW 4u		       /* chunks of at most MS_SNAPSHOT_CHUNK_BYTES */
#define MS_SNAPSHOT_PATIENCE_US INT64_C(30000000) /* with one participant, or while all are behind, nobody waits in vain */

struct ms_snapshot_run;
struct ms_snapshot_result {
	struct ms_err err;  /* MS_OK when at least one worker has it */
	bool damaged;	    /* a page disagreed with its page sum: the stream runs a catch-up */
	uint64_t txid;
	uint64_t bytes;	    /* of all objects */
	uint32_t published; /* workers that have it */
	uint32_t slow;	    /* workers that left because they were too slow */
};
struct ms_snapshot_hooks { /* loop thread */
	void (*done)(void *arg, const struct ms_snapshot_result *); /* once; the caller frees the run when no source job runs */
	void (*wake)(void *arg); /* fill() or advance() is wanted again */
	void (*slow)(void *arg, struct ms_worker *w); /* it was too slow for the others, and has left */
	void *arg;
};
/* workers: the participants (array copied). */
enum ms_code ms_snapshot_run_new(struct ms_env *env, struct ms_journal *j, struct ms_capture *cap, struct ms_worker **workers, uint32_t n,
				 int compression, uint32_t epoch, const struct ms_snapshot_hooks *hooks, struct ms_snapshot_run **ret,
				 struct ms_err *err) MS_WARN_UNUSED;
/* Takes a worker out, which has to stay until it has stopped or its puts have returned. */
void ms_snapshot_run_leave(struct ms_snapshot_run *r, struct ms_worker *w);
/* Others, who do not take part, wait for the place that this run takes: they count as ahead. */
void ms_snapshot_run_waited_for(struct ms_snapshot_run *r, bool yes);
bool ms_snapshot_run_has(const struct ms_snapshot_run *r, const struct ms_worker *w);
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
