#include "sources/wal_format.h"

#include <string.h>

#include "base/buf.h"
#include "core/types.h"

#define WAL_MAGIC 0x377f0682u
#define WAL_VERSION 3007000u

static inline uint32_t swap32(uint32_t v) {
	return __builtin_bswap32(v);
}

/* Two loops, so that the usual one carries no byte swap and no branch. */
void ms_wal_checksum(bool big_endian, const uint8_t *p, size_t n, struct ms_wal_sum *io) {
	uint32_t s1 = io->s1, s2 = io->s2, w[2];
	if (big_endian == (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)) {
		for (size_t i = 0; i + 8 <= n; i += 8) {
			memcpy(w, p + i, 8);
			s1 += w[0] + s2;
			s2 += w[1] + s1;
		}
	} else {
		for (size_t i = 0; i + 8 <= n; i += 8) {
			memcpy(w, p + i, 8);
			s1 += swap32(w[0]) + s2;
			s2 += swap32(w[1]) + s1;
		}
	}
	*io = (struct ms_wal_sum){s1, s2};
}

bool ms_wal_header_parse(const uint8_t p[MS_WAL_HEADER_BYTES], struct ms_wal_header *ret) {
	uint32_t magic = ms_get_be32(p);
	if ((magic & ~1u) != WAL_MAGIC || ms_get_be32(p + 4) != WAL_VERSION)
		return false;
	struct ms_wal_sum sum = {0, 0};
	*ret = (struct ms_wal_header){ms_get_be32(p + 8),  ms_get_be32(p + 12), ms_get_be32(p + 16),
				      ms_get_be32(p + 20), magic & 1,		{ms_get_be32(p + 24), ms_get_be32(p + 28)}};
	ms_wal_checksum(ret->big_endian, p, 24, &sum);
	return ms_page_size_valid(ret->page_size) && ms_wal_sum_eq(sum, ret->sum);
}

void ms_wal_frame_parse(const uint8_t p[MS_WAL_FRAME_HEADER], struct ms_wal_frame *ret) {
	*ret = (struct ms_wal_frame){ms_get_be32(p),
				     ms_get_be32(p + 4),
				     ms_get_be32(p + 8),
				     ms_get_be32(p + 12),
				     {ms_get_be32(p + 16), ms_get_be32(p + 20)}};
}

bool ms_wal_frame_verify(const struct ms_wal_header *h, const uint8_t *p, struct ms_wal_sum *io, struct ms_wal_frame *ret) {
	ms_wal_frame_parse(p, ret);
	if (ret->salt1 != h->salt1 || ret->salt2 != h->salt2 || !ret->pgno)
		return false;
	struct ms_wal_sum sum = *io;
	ms_wal_checksum(h->big_endian, p, 8, &sum);
	ms_wal_checksum(h->big_endian, p + MS_WAL_FRAME_HEADER, h->page_size, &sum);
	if (!ms_wal_sum_eq(sum, ret->sum))
		return false;
	*io = sum;
	return true;
}
