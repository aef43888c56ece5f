#include "core/proven_read.h"

#include "core/hash.h"

enum ms_code ms_proven_read(struct ms_capture *cap, struct ms_source *src, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err) {
	uint32_t ps = ms_capture_state(cap)->page_size, lock = ms_lock_page(ps);
	enum ms_code rc = src->ops->read_pages(src, first, count, out, err);
	if (rc != MS_OK)
		return rc;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t want;
		uint8_t chain;
		if (first + i == lock)
			continue;
		if ((rc = ms_pagesums_get(ms_capture_sums(cap), first + i, &want, &chain, err)) != MS_OK)
			return rc;
		if (ms_page_hash(first + i, out + (size_t)i * ps, ps) != want)
			return ms_err_set(err, MS_ECORRUPT, "page %u of the database differs from what was captured", first + i);
	}
	return MS_OK;
}
