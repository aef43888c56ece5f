/*
 * Builder: an array of entries, one for each page, and a hash table of array positions. Entries of the transaction under way are
 * chained until its commit tells their txid.
 */
#include "core/segment_index.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/artefact.h"

#define NONE UINT32_MAX

struct entry {
	uint32_t pgno, block, offset;
	uint32_t next_open; /* next entry of the open transaction */
	uint64_t txid;	    /* 0: the open transaction */
	uint64_t prev_txid;
};

struct ms_index_builder {
	uint64_t first_txid;
	uint32_t max_pages;
	bool forgotten;
	struct entry *entries;
	uint32_t count, cap;
	uint32_t *slots; /* positions in entries, NONE free; a power of two of them, at most half full */
	uint32_t nslots;
	uint32_t open; /* first entry of the open transaction */
	uint32_t *stored; /* of each finished block */
	uint32_t nblocks, blocks_cap;
};

struct ms_index_builder *ms_index_builder_new(uint64_t first_txid, uint32_t max_pages) {
	struct ms_index_builder *b = calloc(1, sizeof *b);
	if (b)
		b->first_txid = first_txid, b->max_pages = max_pages, b->open = NONE;
	return b;
}

static void forget(struct ms_index_builder *b) {
	free(b->entries);
	free(b->slots);
	free(b->stored);
	b->entries = NULL, b->slots = b->stored = NULL;
	b->count = b->cap = b->nslots = b->nblocks = b->blocks_cap = 0;
	b->open = NONE;
	b->forgotten = true;
}

void ms_index_builder_free(struct ms_index_builder *b) {
	if (b)
		forget(b);
	free(b);
}

static uint32_t *find_slot(const struct ms_index_builder *b, uint32_t pgno) {
	uint32_t at = pgno * 2654435769u & (b->nslots - 1); /* Knuth's multiplicative hash; neighbours spread */
	while (b->slots[at] != NONE && b->entries[b->slots[at]].pgno != pgno)
		at = (at + 1) & (b->nslots - 1);
	return &b->slots[at];
}

static enum ms_code grow(struct ms_index_builder *b, struct ms_err *err) {
	uint32_t cap = b->cap ? b->cap * 2 : 64;
	struct entry *entries = realloc(b->entries, cap * sizeof *entries);
	if (entries)
		b->entries = entries;
	uint32_t *slots = malloc(2 * (size_t)cap * sizeof *slots);
	if (!entries || !slots) {
		free(slots);
		return ms_err_set(err, MS_ENOMEM, "no memory to index %u pages", cap);
	}
	free(b->slots);
	b->slots = slots;
	b->cap = cap, b->nslots = 2 * cap;
	memset(slots, 0xff, b->nslots * sizeof *slots);
	for (uint32_t i = 0; i < b->count; i++)
		*find_slot(b, b->entries[i].pgno) = i;
	return MS_OK;
}

enum ms_code ms_index_add(struct ms_index_builder *b, uint32_t pgno, uint32_t offset, struct ms_err *err) {
	if (b->forgotten)
		return MS_OK;
	enum ms_code rc = b->count == b->cap ? grow(b, err) : MS_OK;
	if (rc)
		return rc;
	uint32_t *slot = find_slot(b, pgno);
	if (*slot == NONE) {
		if (b->count == b->max_pages) {
			forget(b);
			return MS_OK;
		}
		*slot = b->count++;
		b->entries[*slot] = (struct entry){.pgno = pgno, .txid = UINT64_MAX};
	}
	struct entry *e = &b->entries[*slot];
	if (e->txid) { /* first record of this page in the open transaction */
		e->prev_txid = e->txid == UINT64_MAX ? 0 : e->txid;
		e->txid = 0;
		e->next_open = b->open;
		b->open = *slot;
	}
	e->block = b->nblocks, e->offset = offset;
	return MS_OK;
}

enum ms_code ms_index_commit(struct ms_index_builder *b, uint64_t txid, struct ms_err *err) {
	if (!txid || txid == UINT64_MAX)
		return ms_err_set(err, MS_EINVAL, "index: txid %" PRIu64, txid);
	for (uint32_t i = b->open; i != NONE; i = b->entries[i].next_open)
		b->entries[i].txid = txid;
	b->open = NONE;
	return MS_OK;
}

enum ms_code ms_index_block_done(struct ms_index_builder *b, uint32_t stored, struct ms_err *err) {
	if (b->forgotten)
		return MS_OK;
	if (b->nblocks == b->blocks_cap) {
		uint32_t cap = b->blocks_cap ? b->blocks_cap * 2 : 16;
		uint32_t *p = realloc(b->stored, cap * sizeof *p);
		if (!p)
			return ms_err_set(err, MS_ENOMEM, "no memory to index %u blocks", cap);
		b->stored = p, b->blocks_cap = cap;
	}
	b->stored[b->nblocks++] = stored;
	return MS_OK;
}

static int by_pgno(const void *a, const void *b) {
	uint32_t x = ((const struct entry *)a)->pgno, y = ((const struct entry *)b)->pgno;
	return x < y ? -1 : x > y;
}

enum ms_code ms_index_encode(struct ms_index_builder *b, uint64_t open_txid, struct ms_buf *out, struct ms_err *err) {
	if (b->forgotten)
		return MS_OK;
	enum ms_code rc = ms_index_commit(b, open_txid, err);
	if (rc)
		return rc;
	free(b->slots); /* entries are about to move */
	b->slots = NULL;
	if (b->count)
		qsort(b->entries, b->count, sizeof *b->entries, by_pgno);
	rc = ms_buf_varint(out, b->nblocks, err);
	for (uint32_t i = 0; i < b->nblocks && !rc; i++)
		rc = ms_buf_varint(out, b->stored[i], err);
	if (!rc)
		rc = ms_buf_varint(out, b->count, err);
	uint32_t last = 0;
	for (uint32_t i = 0; i < b->count && !rc; i++) {
		const struct entry *e = &b->entries[i];
		uint8_t t[5 * 10];
		size_t n = ms_varint_put(t, e->pgno - last);
		n += ms_varint_put(t + n, e->block);
		n += ms_varint_put(t + n, e->offset);
		n += ms_varint_put(t + n, e->txid - b->first_txid);
		n += ms_varint_put(t + n, e->prev_txid ? e->txid - e->prev_txid : 0);
		rc = ms_buf_append(out, t, n, err);
		last = e->pgno;
	}
	forget(b);
	return rc;
}

struct cursor {
	const uint8_t *p;
	size_t n;
};

static bool take(struct cursor *c, uint64_t max, uint64_t *ret) {
	size_t used = ms_varint_get(c->p, c->n, ret);
	c->p += used, c->n -= used;
	return used && *ret <= max;
}

enum ms_code ms_index_find(const uint8_t *index, size_t n, uint64_t first_txid, uint32_t first_block, uint32_t pgno,
			   struct ms_index_entry *ret, struct ms_err *err) {
	struct cursor c = {index, n};
	uint64_t nblocks, pages, v[5], at = 0, stored;
	if (!take(&c, UINT32_MAX, &nblocks))
		goto broken;
	struct cursor blocks = c;
	for (uint64_t i = 0; i < nblocks; i++)
		if (!take(&c, MS_BLOCK_MAX, &stored) || !stored)
			goto broken;
	if (!take(&c, UINT32_MAX, &pages))
		goto broken;
	for (uint64_t i = 0; i < pages && at < pgno; i++) {
		static const uint64_t max[5] = {UINT32_MAX, UINT32_MAX, MS_BLOCK_MAX, UINT64_MAX, UINT64_MAX};
		for (int k = 0; k < 5; k++)
			if (!take(&c, max[k], &v[k]))
				goto broken;
		if (!v[0] || v[0] > UINT32_MAX - at || v[1] >= nblocks || v[3] > UINT64_MAX - first_txid || v[4] > v[3])
			goto broken;
		at += v[0];
	}
	if (!pgno || at != pgno)
		return ms_err_set(err, MS_ENOTFOUND, "page %u is not in this segment", pgno);

	struct ms_index_entry e = {.pgno = pgno, .block = (uint32_t)v[1], .offset = (uint32_t)v[2], .block_offset = first_block};
	for (uint64_t i = 0; i < v[1] && take(&blocks, MS_BLOCK_MAX, &stored); i++)
		e.block_offset += MS_BLOCK_HEADER_LEN + stored;
	if (!take(&blocks, MS_BLOCK_MAX, &stored))
		goto broken;
	e.stored = (uint32_t)stored;
	e.txid = first_txid + v[3];
	e.prev_txid = v[4] ? e.txid - v[4] : 0;
	*ret = e;
	return MS_OK;
broken:
	return ms_err_set(err, MS_ECORRUPT, "segment index is broken");
}
