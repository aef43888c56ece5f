/*
 * Retention as a pure plan (DESIGN §8, seed `stream` 8): from what a replica holds and a policy to the names that may go, so that
 * every point that `list` advertises afterwards restores, the newest snapshot always stays, and needed bases stay.
 *
 * Kept: snapshots not older than snapshot_retention_us, the newest of all, and the newest that leads to the current generation, and through the newest
 * catch-up of one replica there (`fold_first`): one between the ends of that leads nowhere. Those not older
 * are thinned: one goes when the next of its generation lies within snapshot_spacing_us of the kept one before it, so what is left lies no
 * further apart than that, where it did not before; and it stays when the segments do not lead through it (`pinned`). Of segments
 * those may go that lie wholly before the oldest kept snapshot of their generation, when no kept snapshot of an ancestor leads through
 * them, and those of generations that no kept snapshot leads to. Of the heads older than the newest MS_HEADS_KEPT those may go whose generation the caller has filled
 * in, unless something of that generation is still there and it is the first or the last head that names it: the first tells since when that was head, and
 * both its lineage. For fewer than MS_HEADS_KEPT of them alone nothing is planned, as each plan puts a head. Foreign names never go. Without any snapshot nothing goes.
 */
#ifndef MS_CORE_RETENTION_H
#define MS_CORE_RETENTION_H

#include "core/head.h"
#include "core/names.h"

#define MS_HEADS_KEPT 8u

struct ms_retention_policy {
	int64_t now_us;
	int64_t snapshot_retention_us; /* snapshots older than this may go, but the newest stays; 0 = keep all */
	int64_t snapshot_spacing_us;   /* 0 = no thinning */
	/* For names[i]: a snapshot that the points behind it need, because history has a gap before it. The caller finds out for each one that would
	 * be thinned (ms_retention_segment_before) and asks again. NULL: none. */
	const bool *pinned;
	/* [0] = current generation. May be cut off: then every generation that could be an ancestor by its epoch counts as one. */
	const struct ms_lineage *lineage;
	uint32_t nlineage;
	/* Of the current generation: the segment that holds only the last of these txids; 0 none. */
	uint64_t fold_first, fold_last;
	bool keep_chunks; /* a snapshot is being put: its chunks have no manifest yet */
};
struct ms_retention_plan {
	char **names; /* owned, in the order in which to remove: manifests, segments from the oldest, chunks, heads from the oldest */
	uint32_t n;
};
/* Which of names are snapshots that stay; ret_keep[i] for names[i], false for everything else. The caller reads their manifests. */
enum ms_code ms_retention_kept_snapshots(const struct ms_name *names, uint32_t n, const struct ms_retention_policy *policy, bool *ret_keep,
					 struct ms_err *err) MS_WARN_UNUSED;
/* Is names[i] a snapshot that only its age would not remove? */
bool ms_retention_in_time(const struct ms_name *snapshot, const struct ms_retention_policy *policy);
/* The segment that has to reach the snapshot's txid if history leads through it: the newest of its generation that begins at or before that
 * txid; NULL when there is none. A live name does not say where it ends: its header does. */
const struct ms_name *ms_retention_segment_before(const struct ms_name *names, uint32_t n, const struct ms_name *snapshot);
/* names: every object of the database on the replica, as listed, any order; `generation` of a head is the one that it names, or empty, and then
 * the head stays. needed_chunks: the chunks that the manifests of the kept snapshots name.
 * At most max names come back (0 = no bound); the order makes every beginning of the plan safe by itself. */
enum ms_code ms_retention_plan_make(const struct ms_name *names, uint32_t n, const struct ms_retention_policy *policy,
				    const struct ms_name *needed_chunks, uint32_t nneeded, uint32_t max, struct ms_retention_plan *ret,
				    struct ms_err *err) MS_WARN_UNUSED;
void ms_retention_plan_release(struct ms_retention_plan *p);

#endif
