#include "sources/page_map.h"

#include <stdlib.h>

#define MIN_SLOTS 64u

static uint32_t home(const struct ms_page_map *m, uint32_t pgno) {
	return (pgno * 0x9e3779b1u >> 7) & m->mask;
}

void ms_page_map_release(struct ms_page_map *m) {
	free(m->slots);
	*m = (struct ms_page_map){0};
}

void ms_page_map_clear(struct ms_page_map *m) {
	m->used = 0;
	if (++m->epoch)
		return;
	for (uint32_t i = 0; m->slots && i <= m->mask; i++) /* the epoch came round: old entries must not look new */
		m->slots[i].pgno = 0;
	m->epoch = 1;
}

static bool live(const struct ms_page_map *m, uint32_t i) {
	return m->slots[i].pgno && m->slots[i].epoch == m->epoch;
}

enum ms_code ms_page_map_reserve(struct ms_page_map *m, uint32_t n, struct ms_err *err) {
	uint64_t want = ((uint64_t)m->used + n) * 2, slots = m->slots ? (uint64_t)m->mask + 1 : MIN_SLOTS;
	if (m->slots && want <= slots)
		return MS_OK;
	while (slots < want)
		slots *= 2;
	struct ms_page_map next = {.mask = (uint32_t)(slots - 1), .epoch = 1};
	if (slots > UINT32_MAX || !(next.slots = calloc(slots, sizeof *next.slots)))
		return ms_err_set(err, MS_ENOMEM, "map of %llu WAL pages", (unsigned long long)want / 2);
	for (uint32_t i = 0; m->slots && i <= m->mask; i++)
		if (live(m, i))
			ms_page_map_put(&next, m->slots[i].pgno, m->slots[i].frame);
	free(m->slots);
	*m = next;
	return MS_OK;
}

void ms_page_map_put(struct ms_page_map *m, uint32_t pgno, uint32_t frame) {
	uint32_t i = home(m, pgno);
	while (live(m, i) && m->slots[i].pgno != pgno)
		i = (i + 1) & m->mask;
	if (!live(m, i))
		m->used++;
	m->slots[i] = (struct ms_page_slot){pgno, frame, m->epoch};
}

uint32_t ms_page_map_get(const struct ms_page_map *m, uint32_t pgno) {
	if (!m->used)
		return 0;
	for (uint32_t i = home(m, pgno); live(m, i); i = (i + 1) & m->mask)
		if (m->slots[i].pgno == pgno)
			return m->slots[i].frame;
	return 0;
}
