#include "restore/apply.h"

#include <stdlib.h>
#include <string.h>

#include "restore/pagecache.h"

typedef unsigned long long ull;

struct ms_apply {
	struct ms_pagehash *hashes;
	struct ms_pagecache *cache;
	struct ms_page_decoder *decoder;
	uint8_t *page;
	struct ms_dbstate state;
	uint64_t sum;	   /* of all page hashes, transaction under way included */
	uint32_t extent;   /* highest page with a hash */
	uint64_t target, upto;
	uint64_t first;	   /* of the object's segment */
	uint32_t next_part; /* expected of the next object when a transaction is open */
	bool open;	   /* pages applied whose commit has not come */
	bool skipping;	   /* within transactions that the state already holds */
	bool passed;	   /* upto or target reached */
	bool more;	   /* the object says that another part follows */
	uint64_t commits, pages;
};

enum ms_code ms_apply_new(struct ms_env *env, struct ms_file *file, struct ms_pagehash *hashes, size_t cache_bytes, const struct ms_dbstate *base,
			  uint64_t target, struct ms_apply **ret, struct ms_err *err) {
	struct ms_apply *a = calloc(1, sizeof *a);
	enum ms_code rc = MS_ENOMEM;
	if (!a)
		return ms_err_set(err, MS_ENOMEM, "out of memory for applying segments");
	a->hashes = hashes;
	a->state = *base;
	a->sum = base->checksum;
	a->extent = base->db_pages;
	a->target = target;
	a->passed = base->txid >= target;
	a->decoder = ms_page_decoder_new();
	a->page = malloc(base->page_size);
	if (!a->decoder || !a->page)
		ms_err_set(err, MS_ENOMEM, "out of memory for applying segments");
	else
		rc = ms_pagecache_new(env, file, base->page_size, cache_bytes, &a->cache, err);
	if (rc) {
		ms_apply_free(a);
		return rc;
	}
	*ret = a;
	return MS_OK;
}

void ms_apply_free(struct ms_apply *a) {
	if (!a)
		return;
	ms_pagecache_free(a->cache);
	ms_page_decoder_free(a->decoder);
	free(a->page);
	free(a);
}

enum ms_code ms_apply_object(struct ms_apply *a, const struct ms_segment_info *info, uint64_t upto, struct ms_err *err) {
	a->upto = upto < a->target ? upto : a->target;
	a->passed = a->state.txid >= a->upto;
	a->more = info->more;
	if (a->passed)
		return MS_OK;
	if (info->page_size != a->state.page_size)
		return ms_err_set(err, MS_ECORRUPT, "its page size is %u, the database's %u", info->page_size, a->state.page_size);
	if (info->part > 0) {
		if (info->first_txid != a->first || info->part != a->next_part)
			return ms_err_set(err, MS_EGAP, "txid %llu is missing: part %u of it comes after part %u", (ull)a->state.txid + 1, info->part,
					  a->next_part ? a->next_part - 1 : 0);
		a->next_part++;
		return MS_OK;
	}
	if (a->open || a->skipping)
		return ms_err_set(err, MS_EGAP, "txid %llu is missing: its last part is not there", (ull)a->state.txid + 1);
	a->first = info->first_txid;
	a->next_part = 1;
	if (info->parent_txid == a->state.txid) {
		if (info->checksum_before != a->state.checksum)
			return ms_err_set(err, MS_ECORRUPT, "it continues a database with checksum %016llx, but txid %llu has %016llx",
					  (ull)info->checksum_before, (ull)a->state.txid, (ull)a->state.checksum);
		return MS_OK;
	}
	if (info->parent_txid > a->state.txid)
		return ms_err_set(err, MS_EGAP, "txid %llu is missing: the next segment continues txid %llu", (ull)a->state.txid + 1, (ull)info->parent_txid);
	if (info->first_txid > a->state.txid)
		return ms_err_set(err, MS_ECORRUPT, "it continues txid %llu, not %llu", (ull)info->parent_txid, (ull)a->state.txid);
	a->skipping = true;
	return MS_OK;
}

void ms_apply_loose(struct ms_apply *a, uint64_t upto) {
	a->upto = upto < a->target ? upto : a->target;
	a->passed = a->state.txid >= a->upto;
	a->more = false;
}

static enum ms_code apply_page(struct ms_apply *a, enum ms_record_type type, const struct ms_page_record *r, struct ms_err *err) {
	const uint8_t *base = NULL;
	uint64_t old = 0;
	enum ms_code rc;
	if (r->pgno == 0 || r->pgno == UINT32_MAX || r->pgno == ms_lock_page(a->state.page_size))
		return ms_err_set(err, MS_ECORRUPT, "a record for page %u, which no database has", r->pgno);
	if (r->pgno <= a->extent && (rc = ms_pagehash_get(a->hashes, r->pgno, 1, &old, err)))
		return rc;
	if (ms_record_needs_base(type)) {
		if (old == 0)
			return ms_err_set(err, MS_ECORRUPT, "page %u is stored as a change, but has no earlier version", r->pgno);
		if ((rc = ms_pagecache_get(a->cache, r->pgno, &base, err)))
			return rc;
	}
	if ((rc = ms_page_decode(a->decoder, type, r, a->state.page_size, base, a->page, err)))
		return rc;
	if ((rc = ms_pagecache_put(a->cache, r->pgno, a->page, err)))
		return rc;
	if (r->pgno > a->extent) {
		if ((rc = ms_pagehash_reserve(a->hashes, r->pgno, err)))
			return rc;
		a->extent = r->pgno;
	}
	a->open = true;
	a->pages++;
	a->sum += r->hash - old;
	return ms_pagehash_set(a->hashes, r->pgno, 1, &r->hash, err);
}

/* The database ends at `pages` now: what lies above is gone. */
static enum ms_code shrink(struct ms_apply *a, uint32_t pages, struct ms_err *err) {
	static const uint64_t zeros[512];
	uint64_t h[512];
	for (uint64_t p = (uint64_t)pages + 1; p <= a->extent;) {
		uint32_t n = a->extent - p + 1 < 512 ? (uint32_t)(a->extent - p + 1) : 512;
		enum ms_code rc = ms_pagehash_get(a->hashes, (uint32_t)p, n, h, err);
		if (!rc)
			rc = ms_pagehash_set(a->hashes, (uint32_t)p, n, zeros, err);
		if (rc)
			return rc;
		for (uint32_t i = 0; i < n; i++)
			a->sum -= h[i];
		p += n;
	}
	ms_pagecache_drop_above(a->cache, pages);
	a->extent = pages;
	return MS_OK;
}

static enum ms_code apply_commit(struct ms_apply *a, const struct ms_commit *c, struct ms_err *err) {
	if (a->skipping) {
		if (c->txid < a->state.txid)
			return MS_OK;
		if (c->txid != a->state.txid)
			return ms_err_set(err, MS_ECORRUPT, "txid %llu follows without txid %llu", (ull)c->txid, (ull)a->state.txid);
		if (c->checksum != a->state.checksum || c->db_pages != a->state.db_pages)
			return ms_err_set(err, MS_ECORRUPT, "at txid %llu it has a database with checksum %016llx, but the snapshot has %016llx",
					  (ull)c->txid, (ull)c->checksum, (ull)a->state.checksum);
		a->skipping = false;
		return MS_OK;
	}
	if (c->page_size != a->state.page_size)
		return ms_err_set(err, MS_ECORRUPT, "txid %llu changes the page size from %u to %u", (ull)c->txid, a->state.page_size, c->page_size);
	if (c->txid <= a->state.txid || c->db_pages == 0)
		return ms_err_set(err, MS_ECORRUPT, "txid %llu comes after txid %llu", (ull)c->txid, (ull)a->state.txid);
	if (c->txid > a->upto)
		return ms_err_set(err, MS_ENOTRESTORABLE, "there is no txid %llu: %llu follows %llu", (ull)a->upto, (ull)c->txid, (ull)a->state.txid);
	if (a->extent > c->db_pages) {
		enum ms_code rc = shrink(a, c->db_pages, err);
		if (rc)
			return rc;
	}
	if (a->sum != c->checksum)
		return ms_err_set(err, MS_ECORRUPT, "at txid %llu the database has checksum %016llx, it should be %016llx", (ull)c->txid, (ull)a->sum,
				  (ull)c->checksum);
	a->state.txid = c->txid;
	a->state.time_us = c->time_us;
	a->state.checksum = c->checksum;
	a->state.db_pages = c->db_pages;
	a->open = false;
	a->commits++;
	a->passed = c->txid >= a->upto;
	return MS_OK;
}

enum ms_code ms_apply_record(struct ms_apply *a, const struct ms_record *rec, struct ms_err *err) {
	if (a->passed)
		return MS_OK;
	if (rec->type == MS_REC_COMMIT)
		return apply_commit(a, &rec->commit, err);
	return a->skipping ? MS_OK : apply_page(a, rec->type, &rec->page, err);
}

enum ms_code ms_apply_object_end(struct ms_apply *a, struct ms_err *err) {
	if (a->passed || a->more)
		return MS_OK;
	if (a->open || a->skipping)
		return ms_err_set(err, MS_ECORRUPT, "it ends within txid %llu", (ull)a->state.txid + 1);
	return MS_OK;
}

bool ms_apply_object_done(const struct ms_apply *a) { return a->passed; }
bool ms_apply_done(const struct ms_apply *a) { return a->state.txid >= a->target && !a->open; }
enum ms_code ms_apply_flush(struct ms_apply *a, struct ms_err *err) { return ms_pagecache_flush(a->cache, err); }
const struct ms_dbstate *ms_apply_state(const struct ms_apply *a) { return &a->state; }
uint64_t ms_apply_commits(const struct ms_apply *a) { return a->commits; }
uint64_t ms_apply_pages(const struct ms_apply *a) { return a->pages; }
