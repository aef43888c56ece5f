/*
 * What a replica is owed that the journal no longer keeps for it (DESIGN §5): the pages written since its cursor, one bit a page.
 * A stretch of the journal is folded into it, it is saved, and only then may that stretch go. When the replica is back, one catch-up
 * (core/catchup_run.h) takes the place of the commits in between.
 *
 * File `owed-<replica>` beside the cursor, replaced as a whole (docs/formats.md "Owed pages"):
 *   "MSOWED01" | u32le n | n bytes CBOR map | bits, (pages + 7) / 8 bytes | u64le CRC-64 of all before it
 *   map: 1 generation, 2 base txid, 3 end txid, 4 end checksum, 5 end time us, 6 page size, 7 db pages, 8 next sequence, 9 commits,
 *   10 time us of the first of them, 11 epoch, 12 pages that the bits stand for, 13 a transaction is open (0 or 1)
 * It belongs to a cursor of the same generation with base txid <= cursor <= end txid whose sequence is below the next sequence: then the replica is owed
 * these pages. Or to one at or behind the next sequence that is not settled up to there: then they are a reserve, owed only when the replica turns
 * out to have lost what it acknowledged. Any other is stale. Losing it loses no data: the replica is then given a snapshot.
 *
 * Memory: one bit a page (64 KiB for 2 GiB of 4 KiB pages). One thread at a time; blocking.
 */
#ifndef MS_CORE_OWED_H
#define MS_CORE_OWED_H

#include "core/journal.h"
#include "core/types.h"

/* All but the bits: cheap to copy. */
struct ms_owed_info {
	struct ms_generation generation;
	uint64_t base_txid;    /* of the state that the first stretch was folded from; the cursor may have moved on since */
	struct ms_dbstate end; /* newest commit folded, or the cursor's state */
	uint64_t next_seq;     /* everything before this journal sequence is folded; 0 = nothing is owed */
	uint64_t commits;      /* folded */
	int64_t since_us;      /* time of the first of them, 0 none */
	uint32_t epoch;	       /* lowest epoch whose objects behind the cursor are our own */
	bool open;	       /* entries of a transaction are folded whose commit lies at or behind next_seq */
	bool left;	       /* not saved: the journal enters another generation at next_seq, which no catch-up reaches */
};
struct ms_owed {
	struct ms_owed_info i;
	uint8_t *bits; /* bit (pgno - 1) */
	uint32_t nbits; /* a multiple of 8 */
	uint32_t npages; /* bits set */
};

#define MS_OWED_BASE_UNKNOWN UINT64_MAX /* as a base txid, not saved: that of the first state that the stretch leads on from */

void ms_owed_release(struct ms_owed *o); /* and clears it */
bool ms_owed_has(const struct ms_owed *o, uint32_t pgno);
/* Folds the database's durable entries with o->i.next_seq <= sequence < before. On failure bits may have been set, which does no harm. MS_EGAP when
 * entries of that stretch are missing. Stops at the start of another generation (left). With a base that is not known the stretch may begin in an older
 * generation: what counts is then what comes behind the last start of one, which is to be o->i.generation; if it is not, or no state was met, the base
 * stays unknown. */
enum ms_code ms_owed_fold(struct ms_owed *o, struct ms_journal *j, const char *db, uint64_t before, struct ms_err *err) MS_WARN_UNUSED;
/* MS_ENOTFOUND when there is none, MS_ECORRUPT when it is damaged; *ret untouched then. */
enum ms_code ms_owed_load(struct ms_env *env, const char *path, struct ms_owed *ret, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_owed_save(struct ms_env *env, const char *path, const struct ms_owed *o, struct ms_err *err) MS_WARN_UNUSED;

#endif
