#include "sources/wal_index.h"

#include <string.h>

#include "base/buf.h"

#define INDEX_VERSION 3007000u
#define WORDS 12 /* of one header copy */

static void load(const volatile uint32_t *from, uint32_t to[WORDS]) {
	for (int i = 0; i < WORDS; i++)
		to[i] = __atomic_load_n(from + i, __ATOMIC_ACQUIRE);
}

bool ms_wal_index_read(const volatile void *shm, struct ms_wal_index *ret) {
	const volatile uint32_t *p = shm;
	uint32_t a[WORDS], b[WORDS];
	load(p, a);
	load(p + WORDS, b);
	if (memcmp(a, b, sizeof a) != 0 || a[0] != INDEX_VERSION)
		return false;
	uint8_t raw[sizeof a];
	memcpy(raw, a, sizeof a);
	struct ms_wal_sum sum = {0, 0};
	ms_wal_checksum(__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__, raw, 40, &sum);
	if (!raw[12] || sum.s1 != a[10] || sum.s2 != a[11])
		return false;
	uint16_t size;
	memcpy(&size, raw + 14, 2);
	*ret = (struct ms_wal_index){.change = a[2],
				     .page_size = (size & 0xfe00u) + ((size & 1u) << 16),
				     .mx_frame = a[4],
				     .db_pages = a[5],
				     .salt1 = ms_get_be32(raw + 32),
				     .salt2 = ms_get_be32(raw + 36),
				     .sum = {a[6], a[7]},
				     .big_endian = raw[13]};
	ret->backfill = __atomic_load_n(p + 2 * WORDS, __ATOMIC_ACQUIRE);
	return true;
}
