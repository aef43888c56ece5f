#include "restore/pagecache.h"

#include <stdlib.h>
#include <string.h>

/*
 * Slots hold pages; an open-addressing table (linear probing, twice the slots or more, rounded to a power of two) maps page numbers to slots.
 * Replacement is CLOCK. When a dirty page must go, a batch of dirty pages is written in page order, so that neighbours
 * reach the file together.
 */
#define EVICT_BATCH 64u

struct slot {
	uint32_t pgno; /* 0 free */
	bool dirty, recent;
};
struct ms_pagecache {
	struct ms_env *env;
	struct ms_file *file;
	uint32_t page_size, nslots, used, hand, mask;
	struct slot *slots;
	uint32_t *table; /* slot + 1, 0 empty */
	uint8_t *pages;
	uint32_t *order; /* scratch of flush: slots to sort */
	uint64_t writes;
};

enum ms_code ms_pagecache_new(struct ms_env *env, struct ms_file *file, uint32_t page_size, size_t bytes, struct ms_pagecache **ret,
			      struct ms_err *err) {
	struct ms_pagecache *c = calloc(1, sizeof *c);
	size_t n = bytes / page_size;
	if (n < 8)
		n = 8;
	if (n > (1u << 20))
		n = 1u << 20;
	size_t table = 16;
	while (table < n * 2)
		table *= 2;
	if (c) {
		c->slots = calloc(n, sizeof *c->slots);
		c->table = calloc(table, sizeof *c->table);
		c->order = malloc(n * sizeof *c->order);
		c->pages = malloc(n * page_size);
	}
	if (!c || !c->slots || !c->table || !c->order || !c->pages) {
		ms_pagecache_free(c);
		return ms_err_set(err, MS_ENOMEM, "out of memory for a cache of %zu pages", n);
	}
	c->env = env;
	c->file = file;
	c->page_size = page_size;
	c->nslots = (uint32_t)n;
	c->mask = (uint32_t)table - 1;
	*ret = c;
	return MS_OK;
}

void ms_pagecache_free(struct ms_pagecache *c) {
	if (!c)
		return;
	free(c->slots);
	free(c->table);
	free(c->order);
	free(c->pages);
	free(c);
}

static uint32_t spot(const struct ms_pagecache *c, uint32_t pgno) { return (pgno * 2654435761u >> 7) & c->mask; }
static uint8_t *page_of(const struct ms_pagecache *c, uint32_t slot) { return c->pages + (size_t)slot * c->page_size; }

/* Table position of pgno, or of the empty place where it would go. */
static uint32_t locate(const struct ms_pagecache *c, uint32_t pgno) {
	uint32_t i = spot(c, pgno);
	while (c->table[i] && c->slots[c->table[i] - 1].pgno != pgno)
		i = (i + 1) & c->mask;
	return i;
}

/* Linear probing without tombstones: what follows the hole moves up where its own place allows. */
static void unlink_slot(struct ms_pagecache *c, uint32_t slot) {
	uint32_t hole = locate(c, c->slots[slot].pgno);
	c->table[hole] = 0;
	for (uint32_t i = (hole + 1) & c->mask; c->table[i]; i = (i + 1) & c->mask) {
		uint32_t home = spot(c, c->slots[c->table[i] - 1].pgno);
		if (((i - home) & c->mask) >= ((i - hole) & c->mask)) {
			c->table[hole] = c->table[i];
			c->table[i] = 0;
			hole = i;
		}
	}
	c->slots[slot] = (struct slot){0};
}

static int cmp_pgno(const void *va, const void *vb, void *arg) {
	const struct slot *slots = arg;
	uint32_t a = slots[*(const uint32_t *)va].pgno, b = slots[*(const uint32_t *)vb].pgno;
	return a < b ? -1 : a > b;
}

static enum ms_code write_slots(struct ms_pagecache *c, uint32_t n, struct ms_err *err) {
	qsort_r(c->order, n, sizeof *c->order, cmp_pgno, c->slots);
	for (uint32_t i = 0; i < n; i++) {
		struct slot *s = &c->slots[c->order[i]];
		enum ms_code rc = c->env->ops->pwrite(c->file, page_of(c, c->order[i]), c->page_size, ((int64_t)s->pgno - 1) * c->page_size, err);
		if (rc)
			return rc;
		s->dirty = false;
		c->writes++;
	}
	return MS_OK;
}

/* A free slot, by eviction when needed. */
static enum ms_code take_slot(struct ms_pagecache *c, uint32_t *ret, struct ms_err *err) {
	if (c->used < c->nslots) {
		*ret = c->used++;
		return MS_OK;
	}
	for (;; c->hand = (c->hand + 1) % c->nslots) {
		struct slot *s = &c->slots[c->hand];
		if (s->pgno && s->recent) {
			s->recent = false;
			continue;
		}
		if (s->pgno && s->dirty) {
			uint32_t n = 0;
			for (uint32_t k = 0; k < c->nslots && n < EVICT_BATCH; k++) {
				uint32_t i = (c->hand + k) % c->nslots;
				if (c->slots[i].dirty && !c->slots[i].recent)
					c->order[n++] = i;
			}
			enum ms_code rc = write_slots(c, n, err);
			if (rc)
				return rc;
		}
		if (s->pgno)
			unlink_slot(c, c->hand);
		*ret = c->hand;
		c->hand = (c->hand + 1) % c->nslots;
		return MS_OK;
	}
}

static enum ms_code enter(struct ms_pagecache *c, uint32_t pgno, uint32_t *ret_slot, struct ms_err *err) {
	enum ms_code rc = take_slot(c, ret_slot, err);
	if (rc)
		return rc;
	c->table[locate(c, pgno)] = *ret_slot + 1;
	c->slots[*ret_slot] = (struct slot){.pgno = pgno, .recent = true};
	return MS_OK;
}

enum ms_code ms_pagecache_get(struct ms_pagecache *c, uint32_t pgno, const uint8_t **ret, struct ms_err *err) {
	uint32_t slot = c->table[locate(c, pgno)];
	size_t got = 0;
	if (slot) {
		slot--;
		c->slots[slot].recent = true;
	} else {
		enum ms_code rc = enter(c, pgno, &slot, err);
		if (!rc && (rc = c->env->ops->pread(c->file, page_of(c, slot), c->page_size, ((int64_t)pgno - 1) * c->page_size, &got, err)))
			unlink_slot(c, slot);
		if (rc)
			return rc;
		memset(page_of(c, slot) + got, 0, c->page_size - got);
	}
	*ret = page_of(c, slot);
	return MS_OK;
}

enum ms_code ms_pagecache_put(struct ms_pagecache *c, uint32_t pgno, const uint8_t *page, struct ms_err *err) {
	uint32_t slot = c->table[locate(c, pgno)];
	if (slot) {
		slot--;
	} else {
		enum ms_code rc = enter(c, pgno, &slot, err);
		if (rc)
			return rc;
	}
	memcpy(page_of(c, slot), page, c->page_size);
	c->slots[slot].dirty = c->slots[slot].recent = true;
	return MS_OK;
}

void ms_pagecache_drop_above(struct ms_pagecache *c, uint32_t pages) {
	for (uint32_t i = 0; i < c->used; i++) {
		if (c->slots[i].pgno > pages)
			unlink_slot(c, i);
	}
}

enum ms_code ms_pagecache_flush(struct ms_pagecache *c, struct ms_err *err) {
	uint32_t n = 0;
	for (uint32_t i = 0; i < c->used; i++) {
		if (c->slots[i].pgno && c->slots[i].dirty)
			c->order[n++] = i;
	}
	return write_slots(c, n, err);
}

uint64_t ms_pagecache_writes(const struct ms_pagecache *c) { return c->writes; }
