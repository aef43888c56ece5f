/*
 * Page number -> newest frame, open addressing. Embedded: init by zeroing, release. Clearing is O(1). 12 bytes a slot, at most
 * half full: a WAL of n distinct pages costs 24-48 n bytes.
 */
#ifndef MS_SOURCES_PAGE_MAP_H
#define MS_SOURCES_PAGE_MAP_H

#include "base/err.h"
#include <stdint.h>

struct ms_page_map {
	struct ms_page_slot {
		uint32_t pgno, frame, epoch;
	} * slots;
	uint32_t mask; /* slots - 1; 0 none */
	uint32_t used;
	uint32_t epoch;
};

void ms_page_map_release(struct ms_page_map *m);
void ms_page_map_clear(struct ms_page_map *m);
/* Makes room for n more pages, so that as many put() cannot fail. */
enum ms_code ms_page_map_reserve(struct ms_page_map *m, uint32_t n, struct ms_err *err) MS_WARN_UNUSED;
void ms_page_map_put(struct ms_page_map *m, uint32_t pgno, uint32_t frame); /* after reserve */
uint32_t ms_page_map_get(const struct ms_page_map *m, uint32_t pgno);	    /* 0 none */

#endif
