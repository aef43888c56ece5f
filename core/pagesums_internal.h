/* Inside of the page sums: blocks in the file and in the cache. Private to core/pagesums*.c. */
#ifndef MS_CORE_PAGESUMS_INTERNAL_H
#define MS_CORE_PAGESUMS_INTERNAL_H

#include "core/pagesums.h"

#define MSS_PAGES 448u /* pages of one block */
#define MSS_BLOCK 4096u
#define MSS_BLOCKS_AT (2 * (int64_t)MSS_BLOCK) /* behind the two mark slots */

/* What is known of each block, 4 bytes for 448 pages: the version that is in the file, and flags. */
#define MSS_VERSION 0xffffffu
#define MSS_KNOWN (1u << 31)	/* the version is known */
#define MSS_UNSYNCED (1u << 30) /* written since the last sync of the file */
#define MSS_PRIVATE (1u << 29)	/* the transaction has a copy of its own */
#define MSS_SPILLED (1u << 28)	/* which is in the spill file */

#define MSS_TX_KEY (UINT64_C(1) << 40) /* key of a transaction's copy: this and the block number */
#define MSS_NO_KEY UINT64_MAX

struct mss_block {
	uint64_t key;
	uint64_t seq;  /* the journal sequence that must be durable before it is written */
	uint32_t next; /* in its hash chain or the free list: index + 1, 0 ends */
	bool dirty, ref;
	uint8_t chain[MSS_PAGES];
	uint64_t hash[MSS_PAGES];
};

struct ms_pagesums {
	struct ms_env *env;
	char *path, *dir;
	struct ms_pagesums_hooks hooks;
	struct ms_file *fh, *spill;
	bool recovering; /* until the first checkpoint: a torn block is what a crash may leave, the journal's replay mends it */
	bool suspect;	 /* a sync failed: what was written since the one before may be gone */
	struct ms_err broken;

	uint64_t mark, mark_seq; /* number of the newest mark, its sequence */

	uint32_t *state;
	uint32_t nstate, unsynced;

	struct mss_block *blocks;
	uint32_t *heads; /* hash table: index + 1 */
	uint32_t nblocks, used, nheads, free_list, hand, dirty;
	const struct mss_block *pinned; /* not to be evicted just now */

	bool in_tx;
	bool committing; /* a commit that failed half-way goes on with the next call; tx belongs to it */
	uint64_t commit_seq;
	uint32_t *tx; /* blocks with a copy */
	uint32_t ntx, tx_cap;

	struct mss_block scratch;
	uint8_t io[2 * MSS_BLOCK];
};

/* ---- pagesums_file ---- */

/* Opens or creates the file, reads the newest mark. */
enum ms_code mss_open_file(struct ms_pagesums *p, uint64_t *ret_seq, uint8_t blob[MS_SUMS_BLOB_MAX], size_t *ret_blob_len,
			   struct ms_err *err) MS_WARN_UNUSED;
/* Puts an empty file in place of whatever is there, durably; p->fh is the new one. */
enum ms_code mss_create_file(struct ms_pagesums *p, struct ms_err *err) MS_WARN_UNUSED;
/* Writes mark number p->mark + 1 and syncs. */
enum ms_code mss_put_mark(struct ms_pagesums *p, uint64_t seq, const uint8_t *blob, size_t blob_len,
			  struct ms_err *err) MS_WARN_UNUSED;
enum ms_code mss_state_reserve(struct ms_pagesums *p, uint32_t no, struct ms_err *err) MS_WARN_UNUSED;
/* Reads block no (its state is reserved) into b's hashes. *ret_mend: the newest copy was torn by a crash, an older one was taken
 * and has to be written again. */
enum ms_code mss_load(struct ms_pagesums *p, uint32_t no, struct mss_block *b, bool *ret_mend, struct ms_err *err) MS_WARN_UNUSED;
/* Writes block no to the slot that does not hold the current version. */
enum ms_code mss_store(struct ms_pagesums *p, uint32_t no, const struct mss_block *b, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code mss_sync(struct ms_pagesums *p, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code mss_spill_load(struct ms_pagesums *p, uint32_t no, struct mss_block *b, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code mss_spill_store(struct ms_pagesums *p, uint32_t no, const struct mss_block *b, struct ms_err *err) MS_WARN_UNUSED;
void mss_spill_clear(struct ms_pagesums *p);

#endif
