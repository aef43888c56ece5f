/* Shared by chunk and manifest code. */
#ifndef MS_CORE_SNAPSHOT_INTERNAL_H
#define MS_CORE_SNAPSHOT_INTERNAL_H

#include "core/snapshot.h"

/* Sum of the hashes of pages first .. first+count-1, the lock page left out. */
uint64_t ms_pages_sum(uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *pages);
/* Writes them as blocks of kind MS_BLOCK_PAGES, whole pages in each. */
enum ms_code ms_pages_write(struct ms_artefact_writer *w, uint32_t count, uint32_t page_size, const uint8_t *pages,
			    struct ms_err *err) MS_WARN_UNUSED;

/* Blocks of u32le page number and page. */
enum ms_code ms_patches_write(struct ms_artefact_writer *w, uint32_t page_size, const uint32_t *pgno, const uint8_t *pages, uint32_t n,
			      struct ms_err *err) MS_WARN_UNUSED;

#endif
