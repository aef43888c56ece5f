/* What chunks and manifests share: sums of page hashes, and pages cut into blocks. */
#include "core/snapshot.h"

#include <stdlib.h>

#include "core/hash.h"
#include "core/snapshot_internal.h"

void ms_manifest_release(struct ms_manifest *m) {
	free(m->chunks);
	*m = (struct ms_manifest){.nchunks = 0};
}

uint64_t ms_pages_sum(uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *pages) {
	uint64_t sum = 0;
	for (uint32_t i = 0; i < count; i++)
		if (first + i != ms_lock_page(page_size))
			sum += ms_page_hash(first + i, pages + (size_t)i * page_size, page_size);
	return sum;
}

enum ms_code ms_pages_write(struct ms_artefact_writer *w, uint32_t count, uint32_t page_size, const uint8_t *pages, struct ms_err *err) {
	uint32_t per_block = MS_BLOCK_MAX / page_size;
	while (count) {
		uint32_t n = count < per_block ? count : per_block;
		enum ms_code rc = ms_artefact_block(w, MS_BLOCK_PAGES, pages, (size_t)n * page_size, true, err);
		if (rc)
			return rc;
		pages += (size_t)n * page_size;
		count -= n;
	}
	return MS_OK;
}
