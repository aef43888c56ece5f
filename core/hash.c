#include "core/hash.h"

#include "base/buf.h"
#include "core/crc.h"

uint64_t ms_fmix64(uint64_t k) {
	k ^= k >> 33;
	k *= 0xff51afd7ed558ccdULL;
	k ^= k >> 33;
	k *= 0xc4ceb9fe1a85ec53ULL;
	k ^= k >> 33;
	return k;
}

uint64_t ms_page_hash(uint32_t pgno, const void *page, size_t page_size) {
	uint8_t be[4];
	ms_put_be32(be, pgno);
	return ms_fmix64(ms_crc64(ms_crc64(0, be, sizeof be), page, page_size));
}
