/*
 * The restore plan (DESIGN §9): from an inventory and a target to one snapshot and the contiguous segments after it, across parent
 * generations. Pure: what names do not tell is asked through struct ms_plan_probe, which reads headers (or a table, in tests).
 *
 * A generation's history is a chain of links: its own txids above the fork, its parent's up to the fork, and so on. Within a link any
 * replica's object may serve any txid; of those that do, the one that reaches furthest is taken (so merged ones win).
 * A segment may be entered in the middle: transactions that the state already holds are passed over when it is applied. But a catch-up that stands
 * for several txids (a fold) leads on from the state before it only: where nothing else does, the plan goes back to that state, or to an older snapshot.
 *
 * The first state of a root or a seeded generation is on snapshots alone. While there is none, "newest" is the newest point of the parent, or of the
 * generation that was head before, with a warning; a txid or time of that generation is an error.
 *
 * Errors: MS_ENOTRESTORABLE (nothing there, no such point, ambiguous time, below settled), MS_EGAP (names the missing txid),
 * MS_ENOTFOUND (an object vanished while its header was read: list again), and what a probe returns.
 */
#ifndef MS_RESTORE_PLAN_H
#define MS_RESTORE_PLAN_H

#include "restore/inventory.h"

enum ms_target_kind { MS_TARGET_NEWEST, MS_TARGET_TXID, MS_TARGET_TIME };

struct ms_plan_request {
	enum ms_target_kind kind;
	uint64_t txid;		/* MS_TARGET_TXID */
	int64_t time_us;	/* MS_TARGET_TIME: the last commit at or before it */
	const char *generation; /* NULL: the one that is head (for a time: that was head then) */
	uint64_t base_txid;	/* start from the newest snapshot at or before it; 0: at or before the target */
	bool stop_at_gap, allow_loss;
};

struct ms_plan_probe {
	/* Reads the header(s) of s and calls ms_inventory_probed(), or sets MS_SEG_FENCE. */
	enum ms_code (*segment)(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s, struct ms_err *err);
	/* Last commit of s at or before time_us and at or before max_txid; *ret_txid = 0 when there is none. */
	enum ms_code (*last_commit)(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s, int64_t time_us,
				    uint64_t max_txid, uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err);
	/* Parent and fork that the first segment's header or a manifest of g states, for generations no head describes. */
	enum ms_code (*lineage)(void *arg, struct ms_inv_generation *g, struct ms_lineage *ret, struct ms_err *err);
	void *arg;
};

struct ms_chain_link {
	struct ms_inv_generation *gen;
	uint64_t above; /* txids of this link are > above ... */
	uint64_t upto;	/* ... and <= upto */
};
/* Does no snapshot before the link lead into it? (struct ms_lineage) */
static inline bool ms_link_needs_base(const struct ms_chain_link *l) { return !l->gen->parent.s[0] || l->gen->seeded; }
struct ms_chain {
	struct ms_chain_link *links; /* owned; [0] is the generation asked for */
	size_t n;
};
enum ms_code ms_chain_make(struct ms_inventory *inv, const struct ms_plan_probe *probe, const char *generation, struct ms_chain *ret,
			   struct ms_err *err) MS_WARN_UNUSED;
void ms_chain_release(struct ms_chain *c);

struct ms_plan_step {
	struct ms_inv_generation *gen;
	struct ms_inv_segment *seg;
	unsigned replica;
	uint64_t upto; /* last txid to apply from it: a fork may lie inside */
};
struct ms_plan {
	struct ms_position target;	/* generation whose history holds the txid, and the txid */
	struct ms_generation asked;	/* generation asked for (chain's first) */
	struct ms_inv_generation *snap_gen;
	struct ms_inv_snapshot *snap;
	unsigned snap_replica;
	struct ms_plan_step *steps; /* owned; in order of application */
	size_t nsteps, cap_steps;
	uint64_t segment_bytes, segment_objects;
	uint64_t gap_txid; /* with stop_at_gap: first txid that is missing, 0 none */
	/* The newest was asked for, but is of a generation whose first snapshot has not come yet: the target is the newest point before it. */
	char warning[400];
};
/* Points into inv, which must outlive it and stay unchanged. */
enum ms_code ms_plan_make(struct ms_inventory *inv, const struct ms_plan_request *req, const struct ms_plan_probe *probe, struct ms_plan *ret,
			  struct ms_err *err) MS_WARN_UNUSED;
void ms_plan_release(struct ms_plan *p);
/* Of an inventory of the newest head's lineage alone: is no snapshot there, so that the newest point may be in what was head before? */
bool ms_plan_wants_all(const struct ms_inventory *inv);

/* ---- pieces, shared with list and verify ---- */

/* The segment of a link that holds txid and reaches furthest; *ret_seg NULL when none does. A segment whose header says that its
 * parent is txid - 1 (an engine's numbers may jump) counts as holding txid. */
enum ms_code ms_chain_cover(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *l, uint64_t txid,
			    struct ms_inv_segment **ret_seg, unsigned *ret_replica, struct ms_err *err) MS_WARN_UNUSED;
/* The fold that txid lies behind the beginning of, so that it serves from further back only, and that ends at or before upto; of several, the nearest.
 * NULL none. Of segments that ms_chain_cover() has looked at for txid. */
struct ms_inv_segment *ms_chain_fold(const struct ms_inventory *inv, const struct ms_chain_link *l, uint64_t txid, uint64_t upto, unsigned *ret_replica);
/* Newest snapshot of the chain at or before txid; NULL when there is none. */
struct ms_inv_snapshot *ms_chain_snapshot(const struct ms_inventory *inv, const struct ms_chain *c, uint64_t txid, size_t *ret_link,
					  unsigned *ret_replica);
/* Newest txid that anything in the link holds (within its bounds); `above` when nothing does. */
enum ms_code ms_chain_newest(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *l,
			     uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err) MS_WARN_UNUSED;

#endif
