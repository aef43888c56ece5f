/*
 * A scan reads every page of a database once while commits go on, in slices, and remembers which pages were written after they
 * were read, so that they can be read again at the end (DESIGN §5, §7). It knows only page numbers; the caller reads and acts.
 * Pure, embedded, one thread. Memory: one bit a page.
 */
#ifndef MS_CORE_SCAN_H
#define MS_CORE_SCAN_H

#include <stdint.h>
#include "base/err.h"

struct ms_scan {
	uint32_t db_pages; /* newest known size */
	uint32_t next;	   /* first page the main pass has not read; pages below it are re-read when dirty */
	uint8_t *dirty;	   /* bit (pgno - 1) */
	uint32_t bits;
	uint32_t ndirty;
	uint32_t cursor; /* where the search for dirty pages goes on */
	bool failed;	 /* out of memory while marking: the scan must be given up */
};

enum ms_code ms_scan_init(struct ms_scan *s, uint32_t db_pages, struct ms_err *err) MS_WARN_UNUSED;
void ms_scan_release(struct ms_scan *s);
/* The database has this many pages now. Pages that fall off lose their state: they count as unread if they come back. */
void ms_scan_resize(struct ms_scan *s, uint32_t db_pages);
/* pgno has been written. */
void ms_scan_mark(struct ms_scan *s, uint32_t pgno);
/* pgno has just been read. */
void ms_scan_clear(struct ms_scan *s, uint32_t pgno);
/* Next run of at most `most` consecutive pages to read; returns its length, 0 when nothing is left. The run counts as read. Main pass first,
 * then dirty pages. */
uint32_t ms_scan_next(struct ms_scan *s, uint32_t most, uint32_t *ret_first);
bool ms_scan_main_done(const struct ms_scan *s);
/* Pages still to be read, main pass and dirty ones. */
uint32_t ms_scan_left(const struct ms_scan *s);

#endif
