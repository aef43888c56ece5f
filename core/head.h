/*
 * Heads and fences (DESIGN §6 "Ownership"; docs/formats.md "Head", "Fence"): small artefacts without blocks. Head header map: 1 number,
 * 2 owner, 3 epoch, 4 generation, 5 time us, 6 settled txid, 7 host, 8 lineage: array of [generation, parent (empty text: a root),
 * fork txid] or, of a seeded generation, [generation, parent, fork txid, fork txid + 1], newest first, 9 removal list (array of names),
 * 10 time us after which the removals may be carried out. 8, 9 and 10 are left out when empty or 0. Fence header map: 1 owner, 2 epoch, 3 head number, 4 time us, 5 host. A fence lies at a segment's name.
 * Any thread.
 */
#ifndef MS_CORE_HEAD_H
#define MS_CORE_HEAD_H

#include "core/artefact.h"
#include "core/cbor.h"
#include "core/types.h"

#define MS_OWNER_MAX 128
#define MS_LINEAGE_MAX 4096u
#define MS_REMOVALS_MAX 32768u
#define MS_REMOVAL_LEN_MAX 255u

struct ms_lineage {
	struct ms_generation generation, parent; /* parent empty: a root */
	uint64_t fork_txid;
	/* Comes after the parent's fork txid without going on from its state (another page size, page sums that were lost): its own first state is
	 * fork txid + 1, which no segment leads to. */
	bool seeded;
};
/* A root's and a seeded generation's first state is carried by snapshots alone: without one nothing of it restores. */
static inline bool ms_lineage_needs_base(const struct ms_lineage *l) { return !l->parent.s[0] || l->seeded; }
/* Txid of the state that the generation starts from. */
static inline uint64_t ms_lineage_base(const struct ms_lineage *l) { return l->fork_txid + (ms_lineage_needs_base(l) ? 1 : 0); }
/* One entry of a lineage as it lies in heads, journal entries and cursors: an array of three items or four. */
enum ms_code ms_lineage_put(struct ms_buf *b, const struct ms_lineage *l, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_lineage_get(const struct ms_cbor_doc *d, uint32_t at, struct ms_lineage *ret, struct ms_err *err) MS_WARN_UNUSED;
struct ms_head {
	uint32_t number, epoch;
	char owner[MS_OWNER_MAX], host[MS_OWNER_MAX];
	struct ms_generation generation;
	struct ms_lineage *lineage; /* owned; [0] is this generation, at most MS_LINEAGE_MAX */
	uint32_t nlineage;
	int64_t time_us;
	uint64_t settled_txid;
	char **removals; /* owned, at most MS_REMOVALS_MAX names of MS_REMOVAL_LEN_MAX bytes */
	uint32_t nremovals;
	int64_t remove_after_us;
};
void ms_head_release(struct ms_head *h); /* and clears it */
/* Both append one whole object; MS_EINVAL when no reader would accept it. */
enum ms_code ms_head_encode(const struct ms_head *h, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
/* p[0..n) is the whole object. *ret is written on MS_OK only; release it. */
enum ms_code ms_head_decode(const uint8_t *p, size_t n, struct ms_head *ret, struct ms_err *err) MS_WARN_UNUSED;

struct ms_fence {
	uint32_t epoch, head_number;
	char owner[MS_OWNER_MAX], host[MS_OWNER_MAX];
	int64_t time_us;
};
enum ms_code ms_fence_encode(const struct ms_fence *f, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_fence_decode(const uint8_t *p, size_t n, struct ms_fence *ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
