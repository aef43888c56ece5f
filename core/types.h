/*
 * Vocabulary types shared by every layer (DESIGN §1). No behaviour beyond formatting and parsing.
 */
#ifndef MS_CORE_TYPES_H
#define MS_CORE_TYPES_H

#include <stdint.h>
#include "base/err.h"

#define MS_PAGE_SIZE_MIN 512u
#define MS_PAGE_SIZE_MAX 65536u
/* The page that holds byte 0x40000000 is never used by SQLite, never shipped and not part of the database checksum. */
#define MS_LOCK_BYTE 0x40000000u
static inline uint32_t ms_lock_page(uint32_t page_size) { return MS_LOCK_BYTE / page_size + 1; }
static inline bool ms_page_size_valid(uint64_t n) { return n >= MS_PAGE_SIZE_MIN && n <= MS_PAGE_SIZE_MAX && (n & (n - 1)) == 0; }

/* "<epoch %08x>-<8 hex>", 17 characters. The empty string means none. */
#define MS_GENERATION_LEN 17
struct ms_generation {
	char s[MS_GENERATION_LEN + 1];
};
/* True for exactly that form, in lower case. */
bool ms_generation_valid(const char *s);
uint32_t ms_generation_epoch(const struct ms_generation *g); /* 0 when empty or not valid */
void ms_generation_make(struct ms_generation *ret, uint32_t epoch, uint32_t random);

struct ms_position {
	struct ms_generation generation;
	uint64_t txid;
};

/* State of a database at one txid. */
struct ms_dbstate {
	uint64_t txid;
	int64_t time_us;
	uint64_t checksum; /* database checksum: sum of page hashes mod 2^64, lock page left out */
	uint32_t page_size;
	uint32_t db_pages;
};

enum { /* flags of a commit record */
	MS_COMMIT_CATCHUP = 1,	/* stands for a blind interval; lost_commits says how many commits it folds (-1 unknown) */
	MS_COMMIT_ATTACH = 2,	/* txid 1 of a generation without parent: the state found at attach, carried by a snapshot */
	MS_COMMIT_SQUASH = 4,	/* folds kept points (retention) */
};

#endif
