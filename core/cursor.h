/*
 * How far one replica has everything, durably (DESIGN §1): a small file in the shadow directory, replaced atomically.
 * Layout in docs/formats.md "Cursor": magic "MSCURSOR" | one CBOR map | u64le CRC-64 of all before it. Map: 1 next journal sequence,
 * 2 generation, 3 txid, 4 checksum, 5 time us, 6 page size, 7 db pages, 8 head number, 9 epoch, 10 first txid of the newest segment,
 * 11 base (enum ms_cursor_base), 12 txid and 13 time us of the newest snapshot, 14 record bytes put since, 15 lineage as in a head,
 * 16 end of the newest catch-up that folds txids (default 0), 17 place (default 0), 18 settled sequence, 19 settled txid, 20 its checksum (default 0).
 * Losing or damaging it loses no data: the replica's tail is then looked up in the journal.
 */
#ifndef MS_CORE_CURSOR_H
#define MS_CORE_CURSOR_H

#include "base/env.h"
#include "core/head.h"

enum ms_cursor_base {
	MS_BASE_THERE,	/* the replica holds a snapshot (or a parent's) that leads to the cursor */
	MS_BASE_WANTED, /* segments go on, but nothing restores before a snapshot has come */
	MS_BASE_JUMP,	/* the journal no longer leads to the cursor: the next snapshot becomes the cursor */
};

struct ms_cursor {
	uint64_t seq; /* of the next journal entry to ship; 0 = no cursor */
	struct ms_generation generation;
	struct ms_dbstate state; /* the replica holds everything up to here */
	struct ms_lineage *lineage; /* owned; [0] = generation */
	uint32_t nlineage;
	uint32_t head_number, epoch; /* newest head written or seen */
	uint64_t segment_first; /* of the newest segment: the replica is to hold segments up to `state`; 0: a snapshot may stand for them */
	enum ms_cursor_base base;
	uint64_t snapshot_txid, bytes_since_snapshot;
	uint64_t place;	    /* of the replica that it is the cursor of: CRC-64 of its URL without secrets, 0 not known */
	/* Settled: what comes before this entry, and the state there, no longer goes in a crash of the backend's own (caps.settle_us). Never beyond seq; 0 = not
	 * known; a checksum of 0: the state that the journal leads on from there is not known. The journal is kept from there, also over a restart. */
	uint64_t settled_seq, settled_txid, settled_checksum;
	uint64_t fold_last; /* end of the newest catch-up that stands for several txids of this generation on the replica, 0 none */
	int64_t snapshot_us;
};

void ms_cursor_release(struct ms_cursor *c); /* and clears it */
/* Everything before seq is settled. owes: the journal does not lead on from the cursor's state at seq. */
void ms_cursor_settle(struct ms_cursor *c, bool owes);
enum ms_code ms_cursor_set_lineage(struct ms_cursor *c, const struct ms_lineage *lineage, uint32_t n, struct ms_err *err) MS_WARN_UNUSED;
/* A lineage that names only its newest forks is continued with what `older` (another lineage, which may be c's own) knows of the rest. */
enum ms_code ms_cursor_join_lineage(struct ms_cursor *c, const struct ms_lineage *lineage, uint32_t n, const struct ms_lineage *older,
				    uint32_t nolder, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_cursor_copy(struct ms_cursor *ret, const struct ms_cursor *c, struct ms_err *err) MS_WARN_UNUSED;
/* MS_ENOTFOUND when there is none, MS_ECORRUPT when it is damaged; *ret untouched then. Blocking. */
enum ms_code ms_cursor_load(struct ms_env *env, const char *path, struct ms_cursor *ret, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_cursor_save(struct ms_env *env, const char *path, const struct ms_cursor *c, struct ms_err *err) MS_WARN_UNUSED;

#endif
