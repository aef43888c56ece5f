/*
 * The header of a SQLite wal-index, read from the shared memory that SQLite itself has mapped
 * (https://www.sqlite.org/walformat.html).
 *
 * Native byte order; two equal copies of 48 bytes: u32 version 3007000 | u32 unused | u32 change counter | u8 initialised |
 * u8 checksums are big-endian | u16 page size (1 = 65536; 0 while the WAL is empty) | u32 mxFrame | u32 pages | u32 frame
 * checksum [2] | salts [2] as in the WAL header, big-endian | u32 checksum [2] over the first 40 bytes. Then u32 nBackfill | u32
 * read marks [5] | ... Writers store the second copy first, so a reader takes the first, then the second, and believes them when
 * they agree.
 */
#ifndef MS_SOURCES_WAL_INDEX_H
#define MS_SOURCES_WAL_INDEX_H

#include "sources/wal_format.h"

#define MS_WAL_INDEX_BYTES 136u

struct ms_wal_index {
	uint32_t change; /* one more for each commit; survives resets, starts again at 0 after a recovery */
	uint32_t page_size;
	uint32_t mx_frame; /* last committed frame */
	uint32_t db_pages;
	uint32_t salt1, salt2;
	struct ms_wal_sum sum; /* of frame mx_frame */
	bool big_endian;
	uint32_t backfill; /* frames that a checkpoint has written into the database; read after the rest */
};

/* False when a writer is between the two copies, or died there (then the next reader of SQLite's own recovers). */
bool ms_wal_index_read(const volatile void *shm, struct ms_wal_index *ret);

static inline bool ms_wal_index_same_gen(const struct ms_wal_index *a, const struct ms_wal_index *b) {
	return a->salt1 == b->salt1 && a->salt2 == b->salt2;
}

#endif
