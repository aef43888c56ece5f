/*
 * Bringing one replica to the present where the journal no longer leads there (DESIGN §5): the pages that are owed (core/owed.h), read from
 * the database while commits go on, each proven by its page sum, put as the parts of one transaction. Pages written after they were read
 * come again; the last part holds what is left at one captured state, and its commit.
 *
 * A part is put only when the journal is durable up to the state it was read at, so that no page of a commit that a crash takes back is ever
 * there. Memory: MS_CATCHUP_PART raw and its records (the last part up to MS_CATCHUP_LAST where the database is rewritten faster), one
 * bit a page.
 *
 * Threads as core/snapshot_run.h: fill() and touch() in the stream's source job; the rest on the loop thread, advance() and drop() while no
 * such job runs.
 */
#ifndef MS_CORE_CATCHUP_RUN_H
#define MS_CORE_CATCHUP_RUN_H

#include "core/capture.h"
#include "core/worker.h"

#define MS_CATCHUP_PART (2u << 20)
#define MS_CATCHUP_LAST (32u << 20)

struct ms_catchup_run;
struct ms_catchup_result {
	struct ms_err err;	   /* MS_OK: the replica is at `to` */
	uint64_t from_txid, to_txid; /* of the commits that are one now; equal when there was nothing to bring */
	uint64_t pages, bytes;	   /* page records and their bytes */
};
/* Begins at the captured state: pages written from now on are to be told by touch(). done runs on the loop thread once; the caller frees the run
 * when no source job runs. wake runs there whenever fill() is wanted. */
enum ms_code ms_catchup_run_new(struct ms_env *env, struct ms_journal *j, struct ms_capture *cap, struct ms_worker *w, int level, bool codec_none,
				void (*done)(void *arg, struct ms_catchup_run *r, const struct ms_catchup_result *), void (*wake)(void *arg), void *arg,
				struct ms_catchup_run **ret, struct ms_err *err) MS_WARN_UNUSED;
bool ms_catchup_run_wants_fill(const struct ms_catchup_run *r);
/* Source job: exact at the captured position. MS_EBUSY: not pinned now, try after the next step. */
enum ms_code ms_catchup_run_fill(struct ms_catchup_run *r, struct ms_source *src, struct ms_err *err) MS_WARN_UNUSED;
/* Source job: a page was given to the capture. */
void ms_catchup_run_touch(struct ms_catchup_run *r, uint32_t pgno);
/* Loop thread, no source job: takes over what has become ready. */
void ms_catchup_run_advance(struct ms_catchup_run *r);
/* Loop thread: the journal's durable sequence has moved. */
void ms_catchup_run_durable(struct ms_catchup_run *r, uint64_t seq);
bool ms_catchup_run_ended(const struct ms_catchup_run *r);
/* Gives it up if it has not ended, and frees it: at once, or when what is under way has returned. Until then it is in *list (NULL at first), which
 * it leaves by itself; wake() is called then. No done() afterwards. Accepts NULL. */
void ms_catchup_run_drop(struct ms_catchup_run *r, struct ms_catchup_run **list);
/* Frees one whose job and put never return, because the machine is dead: its own, or the first of a list. */
void ms_catchup_run_abandon(struct ms_catchup_run *r);

#endif
