/*
 * The bytes of a SQLite write-ahead log (https://www.sqlite.org/fileformat2.html#the_write_ahead_log). Pure functions.
 *
 * Header, 32 bytes, big-endian words: magic 0x377f0682 or 0x377f0683, version 3007000, page size, checkpoint sequence, salt 1,
 * salt 2, checksum 1, checksum 2 over the first 24 bytes. Bit 0 of the magic set: checksums read the data as big-endian words.
 * Frame, 24 bytes and a page: page number, database size in pages after the commit (0: not a commit frame), the header's salts,
 * checksum 1, checksum 2 over the first 8 bytes and the page, continued from the frame before (the first from the header).
 * A frame is valid when its salts are the header's and its checksum continues the chain. Frames count from 1.
 */
#ifndef MS_SOURCES_WAL_FORMAT_H
#define MS_SOURCES_WAL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MS_WAL_HEADER_BYTES 32u
#define MS_WAL_FRAME_HEADER 24u

struct ms_wal_sum {
	uint32_t s1, s2;
};

struct ms_wal_header {
	uint32_t page_size, ckpt_seq, salt1, salt2;
	bool big_endian; /* word order of the checksums */
	struct ms_wal_sum sum;
};

struct ms_wal_frame {
	uint32_t pgno, db_pages, salt1, salt2;
	struct ms_wal_sum sum;
};

/* Continues *io over n bytes, n a multiple of 8. */
void ms_wal_checksum(bool big_endian, const uint8_t *p, size_t n, struct ms_wal_sum *io);
/* False when the magic, version, page size or checksum is wrong; ret is then unspecified. */
bool ms_wal_header_parse(const uint8_t p[MS_WAL_HEADER_BYTES], struct ms_wal_header *ret);
void ms_wal_frame_parse(const uint8_t p[MS_WAL_FRAME_HEADER], struct ms_wal_frame *ret);
/* p holds the frame header and its page. True when it is the valid successor of the frame whose checksum is *io, which then
 * moves on; *io is untouched otherwise. */
bool ms_wal_frame_verify(const struct ms_wal_header *h, const uint8_t *p, struct ms_wal_sum *io, struct ms_wal_frame *ret);

static inline bool ms_wal_sum_eq(struct ms_wal_sum a, struct ms_wal_sum b) {
	return a.s1 == b.s1 && a.s2 == b.s2;
}
static inline size_t ms_wal_frame_bytes(uint32_t page_size) {
	return (size_t)page_size + MS_WAL_FRAME_HEADER;
}
static inline int64_t ms_wal_frame_offset(uint32_t page_size, uint32_t frame) {
	return (int64_t)MS_WAL_HEADER_BYTES + (int64_t)(frame - 1) * (int64_t)ms_wal_frame_bytes(page_size);
}

#endif
