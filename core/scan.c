#include "core/scan.h"

#include <stdlib.h>
#include <string.h>

static bool get_bit(const struct ms_scan *s, uint32_t pgno) { return pgno <= s->bits && (s->dirty[(pgno - 1) / 8] >> ((pgno - 1) % 8) & 1); }

void ms_scan_clear(struct ms_scan *s, uint32_t pgno) {
	if (get_bit(s, pgno)) {
		s->dirty[(pgno - 1) / 8] &= (uint8_t) ~(1u << ((pgno - 1) % 8));
		s->ndirty--;
	}
}

static bool grow(struct ms_scan *s, uint32_t pages) {
	if (pages <= s->bits)
		return true;
	uint64_t want = (uint64_t)pages + pages / 4 + 64;
	size_t bytes = (size_t)((want + 7) / 8);
	uint8_t *p = realloc(s->dirty, bytes);
	if (!p)
		return false;
	memset(p + s->bits / 8, 0, bytes - s->bits / 8);
	s->dirty = p;
	s->bits = bytes * 8 > UINT32_MAX ? UINT32_MAX & ~7u : (uint32_t)(bytes * 8);
	return true;
}

enum ms_code ms_scan_init(struct ms_scan *s, uint32_t db_pages, struct ms_err *err) {
	*s = (struct ms_scan){.db_pages = db_pages, .next = 1, .cursor = 1};
	if (!grow(s, db_pages ? db_pages : 1))
		return ms_err_set(err, MS_ENOMEM, "bitmap of %u pages", db_pages);
	return MS_OK;
}

void ms_scan_release(struct ms_scan *s) {
	free(s->dirty);
	*s = (struct ms_scan){0};
}

void ms_scan_resize(struct ms_scan *s, uint32_t db_pages) {
	if (db_pages < s->db_pages) {
		uint32_t to = s->db_pages < s->bits ? s->db_pages : s->bits;
		for (uint32_t p = db_pages + 1; p <= to && s->ndirty; p++)
			ms_scan_clear(s, p);
		/* Whatever comes back there later is read by the main pass. */
		if (s->next > db_pages + 1)
			s->next = db_pages + 1;
	} else if (!grow(s, db_pages)) {
		s->failed = true;
	}
	s->db_pages = db_pages;
}

void ms_scan_mark(struct ms_scan *s, uint32_t pgno) {
	if (!pgno || pgno >= s->next)
		return; /* the main pass will read it */
	if (!get_bit(s, pgno)) {
		s->dirty[(pgno - 1) / 8] |= (uint8_t)(1u << ((pgno - 1) % 8));
		s->ndirty++;
	}
}

bool ms_scan_main_done(const struct ms_scan *s) { return s->next > s->db_pages; }

uint32_t ms_scan_left(const struct ms_scan *s) { return (ms_scan_main_done(s) ? 0 : s->db_pages - s->next + 1) + s->ndirty; }

uint32_t ms_scan_next(struct ms_scan *s, uint32_t most, uint32_t *ret_first) {
	if (!ms_scan_main_done(s)) {
		uint32_t n = s->db_pages - s->next + 1;
		*ret_first = s->next;
		n = n < most ? n : most;
		s->next += n;
		return n;
	}
	if (!s->ndirty)
		return 0;
	uint32_t p = s->cursor > s->db_pages ? 1 : s->cursor;
	while (!get_bit(s, p)) {
		if ((p - 1) % 8 == 0 && !s->dirty[(p - 1) / 8])
			p += 8;
		else
			p++;
		if (p > s->db_pages)
			p = 1;
	}
	uint32_t n = 0;
	*ret_first = p;
	while (n < most && p + n <= s->db_pages && get_bit(s, p + n)) {
		ms_scan_clear(s, p + n);
		n++;
	}
	s->cursor = p + n;
	return n;
}
