/*
 * What a replica holds, as its listing and its heads tell (DESIGN §6, §9): generations, each with a shelf per replica that keeps
 * its segments (live and merged) and snapshots sorted. Several replicas of one database share one inventory.
 *
 * Names say: first txid of every segment, everything of merged segments and snapshots. They do not say the last txid of a live
 * segment: seal() takes "next live one's first - 1" of the same shelf, and marks the newest one unknown until its header is
 * read (MS_SEG_PROBED). Pure but for ms_inventory_list_*, which block on the replica. One thread at a time. Memory: about 72
 * bytes for each segment.
 */
#ifndef MS_RESTORE_INVENTORY_H
#define MS_RESTORE_INVENTORY_H

#include "core/head.h"
#include "core/names.h"
#include "core/segment.h"
#include "replicas/replica.h"

#define MS_TXID_UNKNOWN UINT64_MAX

enum { /* flags of an inventory segment */
	MS_SEG_MERGED = 1,
	MS_SEG_PROBED = 2,     /* the fields below the line come from the header */
	MS_SEG_FENCE = 4,      /* a fence object: the generation ended here on this replica */
	MS_SEG_INCOMPLETE = 8, /* last part missing: its transaction does not exist */
	MS_SEG_BAD = 16,       /* found damaged or missing by this reader: not to be used */
	MS_SEG_JOURNAL = 32,   /* no object: a stretch of a shadow directory's journal, used where no object serves */
};

struct ms_inv_segment {
	uint64_t first, last; /* last may be MS_TXID_UNKNOWN */
	uint64_t bytes;	      /* of all parts */
	uint32_t nparts;      /* objects: 1, or more for a transaction that spans parts */
	uint8_t flags;
	/* ---- from the name when merged, else from the header ---- */
	uint8_t kind; /* enum ms_segment_kind */
	uint64_t parent;
	int64_t first_us, last_us;
};
struct ms_inv_part { /* parts 1.. */
	uint64_t first, bytes;
	uint32_t part;
};
struct ms_inv_snapshot {
	uint64_t txid, bytes; /* bytes of the manifest object */
	int64_t time_us;
	bool bad;
};
struct ms_inv_shelf { /* one generation on one replica */
	struct ms_inv_segment *live, *merged; /* ascending by first (merged: then by last) */
	size_t nlive, nmerged, cap_live, cap_merged;
	struct ms_inv_part *parts; /* ascending by (first, part) */
	size_t nparts, cap_parts;
	struct ms_inv_snapshot *snaps; /* ascending by txid */
	size_t nsnaps, cap_snaps;
};
struct ms_inv_generation {
	struct ms_generation id;
	struct ms_inv_shelf *shelf; /* [nreplicas] */
	bool lineage_known;
	struct ms_generation parent; /* empty: a root */
	uint64_t fork_txid;
	bool seeded; /* as in struct ms_lineage */
};
struct ms_inv_head {
	uint32_t number, epoch;
	unsigned replica;
	struct ms_generation generation;
	int64_t time_us;
	uint64_t settled_txid;
	char owner[MS_OWNER_MAX];
};
struct ms_inventory {
	unsigned nreplicas;
	struct ms_inv_generation *gens; /* ascending by id */
	size_t ngens, cap_gens;
	struct ms_inv_head *heads; /* ascending by (number, replica) after seal */
	size_t nheads, cap_heads;
	uint64_t objects, foreign; /* names seen; names that are not ours */
};

/* A catch-up that stands for several txids of which it holds only the last (its own replica was down past the disk cap). Known once probed. */
static inline bool ms_inv_is_fold(const struct ms_inv_segment *s) {
	return (s->flags & MS_SEG_PROBED) && s->kind == MS_SEG_CATCHUP && s->last != MS_TXID_UNKNOWN && s->last > s->first;
}

void ms_inventory_init(struct ms_inventory *inv, unsigned nreplicas);
void ms_inventory_release(struct ms_inventory *inv);
/* Adds one listed object. Heads and chunks are counted only (heads are read, see add_head). Foreign names are counted and ignored. */
enum ms_code ms_inventory_add(struct ms_inventory *inv, unsigned replica, const char *name, uint64_t bytes, struct ms_err *err) MS_WARN_UNUSED;
/* Makes a generation known. */
enum ms_code ms_inventory_add_generation(struct ms_inventory *inv, const struct ms_generation *g, struct ms_err *err) MS_WARN_UNUSED;
/* Adds a stretch of a journal as a probed segment (see MS_SEG_JOURNAL) on a shelf of its own. */
enum ms_code ms_inventory_add_journal(struct ms_inventory *inv, unsigned replica, const struct ms_generation *g, const struct ms_inv_segment *s,
				      struct ms_err *err) MS_WARN_UNUSED;
/* Adds a decoded head with its lineage (which makes generations known that hold no objects of their own yet). Contradicting
 * lineages of one generation are MS_ECORRUPT. */
enum ms_code ms_inventory_add_head(struct ms_inventory *inv, unsigned replica, const struct ms_head *h, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_inventory_set_lineage(struct ms_inventory *inv, const struct ms_lineage *l, struct ms_err *err) MS_WARN_UNUSED;
/* Sorts and fills in what neighbours tell. May be called again after more was added; probed fields stay. */
void ms_inventory_seal(struct ms_inventory *inv);
struct ms_inv_generation *ms_inventory_find(const struct ms_inventory *inv, const char *id); /* NULL when absent */
/* Newest head: highest epoch, then number. NULL when there is none. */
const struct ms_inv_head *ms_inventory_newest_head(const struct ms_inventory *inv);
/* Enters what the headers of a segment's first and last object say (the same info twice when it has one part). */
enum ms_code ms_inventory_probed(struct ms_inv_segment *s, const struct ms_segment_info *first, const struct ms_segment_info *last,
				 struct ms_err *err) MS_WARN_UNUSED;
/* Marks the object of that name (a part stands for its segment) so that plans leave it out. False when it is not listed. */
bool ms_inventory_mark_bad(struct ms_inventory *inv, unsigned replica, const char *name);

/* Object names. part 0 is the segment itself. */
void ms_inv_segment_name(const struct ms_generation *g, const struct ms_inv_segment *s, uint32_t part, char ret[MS_NAME_MAX]);
void ms_inv_snapshot_name(const struct ms_generation *g, const struct ms_inv_snapshot *s, char ret[MS_NAME_MAX]);
/* Size of one part's object (part 0: what is left of `bytes`). */
uint64_t ms_inv_part_bytes(const struct ms_inv_shelf *sh, const struct ms_inv_segment *s, uint32_t part);

/* Blocking. All generations there (a skip scan: chunks are never listed), as ids passed to cb. */
enum ms_code ms_inventory_list_generations(struct ms_replica *r, enum ms_code (*cb)(void *arg, const struct ms_generation *g, struct ms_err *),
					   void *arg, struct ms_err *err) MS_WARN_UNUSED;
/* Adds a generation's segments and snapshots. */
enum ms_code ms_inventory_list_generation(struct ms_inventory *inv, unsigned replica, struct ms_replica *r, const struct ms_generation *g,
					  struct ms_err *err) MS_WARN_UNUSED;
/* Reads heads, newest first: the newest `most` of them (0 = all). *ret_n = how many there are. */
enum ms_code ms_inventory_read_heads(struct ms_inventory *inv, unsigned replica, struct ms_replica *r, unsigned most, unsigned *ret_n,
				     struct ms_err *err) MS_WARN_UNUSED;

#endif
