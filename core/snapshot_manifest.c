#include <inttypes.h>
#include <stdlib.h>

#include "core/cbor.h"
#include "core/snapshot.h"
#include "core/snapshot_internal.h"

enum {
	M_GENERATION = 1,
	M_TXID,
	M_TIME,
	M_PAGE_SIZE,
	M_DB_PAGES,
	M_CHECKSUM,
	M_MODE,
	M_CHUNKS,
	M_PAGES_PER_CHUNK,
	M_PATCHES,
	M_PARENT,
	M_FORK,
	M_EPOCH,
	M_INLINE,
	M_GENERATIONS,
	M_SEEDED,
	M_PATCH_CHUNKS,
};

/* varint pages, hash, varint bytes, varint generation: the shortest entry */
#define CHUNK_ENTRY_MIN (1 + 8 + 1 + 1)

/* One rule for writer and reader; NULL when m is sound. *ret_covered = pages held by chunks or inline. */
static const char *manifest_fault(const struct ms_manifest *m, uint32_t *ret_covered) {
	const struct ms_dbstate *s = &m->state;
	if (!ms_generation_valid(m->generation.s))
		return "no valid generation";
	if (!s->txid || s->time_us < 0 || !ms_page_size_valid(s->page_size) || !s->db_pages)
		return "no valid database state";
	if (m->parent_generation.s[0] ? !ms_generation_valid(m->parent_generation.s) : m->fork_txid != 0 || m->seeded)
		return "a fork without its parent";
	if (m->inline_pages && m->nchunks)
		return "both inline pages and chunks";
	if (m->mode > 07777)
		return "no permission bits";
	uint64_t next = 1;
	bool patches = false;
	for (uint32_t i = 0; i < m->nchunks; i++) {
		const struct ms_chunk_ref *c = &m->chunks[i];
		if (c->patch) {
			if (!c->first_page || !c->pages || c->pages > MS_CHUNK_BYTES_MAX / s->page_size || !ms_generation_valid(c->generation.s))
				return "a patch chunk without pages";
			patches = true;
			continue;
		}
		if (patches || c->first_page != next || !c->pages || c->pages > MS_CHUNK_BYTES_MAX / s->page_size || !ms_generation_valid(c->generation.s))
			return "a chunk that does not follow the one before";
		next += c->pages;
		if (next - 1 > s->db_pages)
			return "chunks past the end of the database";
	}
	*ret_covered = m->inline_pages ? s->db_pages : (uint32_t)(next - 1);
	return NULL;
}

/* Pages past what chunks cover must be patched; the lock page may be missing. */
struct coverage {
	uint32_t covered, db_pages, lock_page;
	uint32_t last;	 /* page of the last patch */
	uint32_t beyond; /* patches of pages past `covered` */
	bool lock_patched;
};

static bool cover(struct coverage *c, uint32_t pgno) {
	if (pgno <= c->last || pgno > c->db_pages)
		return false;
	c->last = pgno;
	c->beyond += pgno > c->covered;
	c->lock_patched |= pgno == c->lock_page;
	return true;
}

static bool covers_all(const struct coverage *c) {
	uint32_t needed = c->db_pages - c->covered;
	if (c->lock_page > c->covered && c->lock_page <= c->db_pages && !c->lock_patched)
		needed--;
	return c->beyond == needed;
}

/* The generations of chunks other than the manifest's own, each once. They are few: a linear search does. */
struct generation_table {
	const struct ms_generation **list;
	size_t n;
};

static enum ms_code generation_index(struct generation_table *t, const struct ms_manifest *m, const struct ms_generation *g, size_t *ret,
				     struct ms_err *err) {
	if (!strcmp(g->s, m->generation.s)) {
		*ret = 0;
		return MS_OK;
	}
	for (size_t i = t->n; i > 0; i--)
		if (!strcmp(t->list[i - 1]->s, g->s)) {
			*ret = i;
			return MS_OK;
		}
	const struct ms_generation **list = realloc(t->list, (t->n + 1) * sizeof *list);
	if (!list)
		return ms_err_set(err, MS_ENOMEM, "no memory for a manifest");
	t->list = list;
	list[t->n++] = g;
	*ret = t->n;
	return MS_OK;
}

static enum ms_code chunk_table(const struct ms_manifest *m, bool patch, struct generation_table *t, struct ms_buf *out, struct ms_err *err) {
	for (uint32_t i = 0; i < m->nchunks; i++) {
		const struct ms_chunk_ref *c = &m->chunks[i];
		size_t generation = 0;
		if (c->patch != patch)
			continue;
		enum ms_code rc = generation_index(t, m, &c->generation, &generation, err);
		if (rc || (patch && (rc = ms_buf_varint(out, c->first_page, err))) || (rc = ms_buf_varint(out, c->pages, err)) || (rc = ms_buf_u64(out, c->hash, err)) ||
		    (rc = ms_buf_varint(out, c->bytes, err)) || (rc = ms_buf_varint(out, generation, err)))
			return rc;
	}
	return MS_OK;
}

static enum ms_code put_uint(struct ms_buf *b, uint64_t key, uint64_t v, struct ms_err *err) {
	enum ms_code rc = ms_cbor_put_uint(b, key, err);
	return rc ? rc : ms_cbor_put_uint(b, v, err);
}

static enum ms_code put_text(struct ms_buf *b, uint64_t key, const char *s, struct ms_err *err) {
	enum ms_code rc = ms_cbor_put_uint(b, key, err);
	return rc ? rc : ms_cbor_put_text(b, s, err);
}

static enum ms_code manifest_header(const struct ms_manifest *m, struct ms_buf *b, struct ms_err *err) {
	const struct ms_dbstate *s = &m->state;
	bool forked = m->parent_generation.s[0], own_epoch = m->epoch == ms_generation_epoch(&m->generation);
	struct generation_table t = {NULL, 0};
	struct ms_buf table, patches;
	ms_buf_init(&table, MS_HEADER_MAX);
	ms_buf_init(&patches, MS_HEADER_MAX);
	enum ms_code rc = chunk_table(m, false, &t, &table, err);
	if (rc || (rc = chunk_table(m, true, &t, &patches, err)))
		goto out;
	size_t pairs = 7u + (table.len > 0) + (patches.len > 0) + (m->pages_per_chunk > 0) + (m->npatches > 0) + 2u * forked + !own_epoch + m->inline_pages +
		       (t.n > 0) + m->seeded;
	if ((rc = ms_cbor_put_map(b, pairs, err)) || (rc = put_text(b, M_GENERATION, m->generation.s, err)) ||
	    (rc = put_uint(b, M_TXID, s->txid, err)) || (rc = put_uint(b, M_TIME, (uint64_t)s->time_us, err)) ||
	    (rc = put_uint(b, M_PAGE_SIZE, s->page_size, err)) || (rc = put_uint(b, M_DB_PAGES, s->db_pages, err)) ||
	    (rc = put_uint(b, M_CHECKSUM, s->checksum, err)) || (rc = put_uint(b, M_MODE, m->mode, err)))
		goto out;
	if (table.len && ((rc = ms_cbor_put_uint(b, M_CHUNKS, err)) || (rc = ms_cbor_put_bytes(b, table.data, table.len, err))))
		goto out;
	if ((m->pages_per_chunk && (rc = put_uint(b, M_PAGES_PER_CHUNK, m->pages_per_chunk, err))) ||
	    (m->npatches && (rc = put_uint(b, M_PATCHES, m->npatches, err))))
		goto out;
	if (forked && ((rc = put_text(b, M_PARENT, m->parent_generation.s, err)) || (rc = put_uint(b, M_FORK, m->fork_txid, err))))
		goto out;
	if (!own_epoch && (rc = put_uint(b, M_EPOCH, m->epoch, err)))
		goto out;
	if (m->inline_pages && ((rc = ms_cbor_put_uint(b, M_INLINE, err)) || (rc = ms_cbor_put_bool(b, true, err))))
		goto out;
	if (t.n && ((rc = ms_cbor_put_uint(b, M_GENERATIONS, err)) || (rc = ms_cbor_put_array(b, t.n, err))))
		goto out;
	for (size_t i = 0; i < t.n && !rc; i++)
		rc = ms_cbor_put_text(b, t.list[i]->s, err);
	if (!rc && m->seeded && !(rc = ms_cbor_put_uint(b, M_SEEDED, err)))
		rc = ms_cbor_put_bool(b, true, err);
	if (!rc && patches.len && !(rc = ms_cbor_put_uint(b, M_PATCH_CHUNKS, err)))
		rc = ms_cbor_put_bytes(b, patches.data, patches.len, err);
out:
	free(t.list);
	ms_buf_release(&patches);
	ms_buf_release(&table);
	return rc;
}

enum ms_code ms_patches_write(struct ms_artefact_writer *w, uint32_t page_size, const uint32_t *pgno, const uint8_t *pages, uint32_t n,
			      struct ms_err *err) {
	struct ms_buf block;
	ms_buf_init(&block, MS_BLOCK_MAX);
	enum ms_code rc = MS_OK;
	for (uint32_t i = 0; i < n && !rc; i++) {
		if (block.len + 4 + page_size > MS_BLOCK_MAX) {
			rc = ms_artefact_block(w, MS_BLOCK_PATCHES, block.data, block.len, true, err);
			ms_buf_clear(&block);
		}
		if (!rc && !(rc = ms_buf_u32(&block, pgno[i], err)))
			rc = ms_buf_append(&block, pages + (size_t)i * page_size, page_size, err);
	}
	if (!rc && block.len)
		rc = ms_artefact_block(w, MS_BLOCK_PATCHES, block.data, block.len, true, err);
	ms_buf_release(&block);
	return rc;
}

enum ms_code ms_manifest_encode(const struct ms_manifest *m, const uint8_t *inline_pages, const uint32_t *patch_pgno,
				const uint8_t *patch_pages, int level, struct ms_buf *out, struct ms_err *err) {
	struct coverage c = {.db_pages = m->state.db_pages};
	const char *fault = manifest_fault(m, &c.covered);
	if (!fault) {
		c.lock_page = ms_lock_page(m->state.page_size);
		for (uint32_t i = 0; i < m->npatches && !fault; i++)
			if (!cover(&c, patch_pgno[i]))
				fault = "patches out of order, or past the end of the database";
		if (!fault && !covers_all(&c))
			fault = "pages that neither chunks nor patches hold";
		if (!fault && m->inline_pages && !inline_pages)
			fault = "no inline pages";
	}
	if (fault)
		return ms_err_set(err, MS_EINVAL, "snapshot %s/%" PRIu64 ": %s", m->generation.s, m->state.txid, fault);

	struct ms_buf header;
	ms_buf_init(&header, MS_HEADER_MAX);
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_SNAPSHOT, level, out);
	enum ms_code rc = w ? manifest_header(m, &header, err) : ms_err_set(err, MS_ENOMEM, "no memory for a manifest");
	if (!rc && !(rc = ms_artefact_begin(w, header.data, header.len, err)) &&
	    (!m->inline_pages || !(rc = ms_pages_write(w, m->state.db_pages, m->state.page_size, inline_pages, err))) &&
	    !(rc = ms_patches_write(w, m->state.page_size, patch_pgno, patch_pages, m->npatches, err)))
		rc = ms_artefact_end(w, NULL, 0, err);
	ms_artefact_writer_free(w);
	ms_buf_release(&header);
	return rc;
}

struct ms_manifest_reader {
	struct ms_artefact_reader *art;
	struct ms_manifest *m; /* the caller's */
	struct ms_page_sink sink;
	struct coverage coverage;
	uint32_t inline_seen, patches_seen;
	uint64_t inline_sum;
};

static enum ms_code get_bool(const struct ms_cbor_doc *d, uint64_t key, bool *ret, struct ms_err *err) {
	const struct ms_cbor_item *item = ms_cbor_get(d, 0, key);
	if (item && item->type != MS_CBOR_BOOL)
		return ms_err_set(err, MS_ECORRUPT, "header: key %" PRIu64 " is not a boolean", key);
	*ret = item && item->u;
	return MS_OK;
}

/* Index of the k-th generation (from 1) in the array under key 15. */
static const struct ms_cbor_item *nth_generation(const struct ms_cbor_doc *d, uint64_t k) {
	const struct ms_cbor_item *a = ms_cbor_get(d, 0, M_GENERATIONS);
	if (!a || a->type != MS_CBOR_ARRAY || k > a->u)
		return NULL;
	/* Texts have no children: they lie next to each other. A nested item in between fails as a generation. */
	return a + k;
}

static enum ms_code parse_chunks(const struct ms_cbor_doc *d, uint64_t key, struct ms_manifest *m, struct ms_err *err) {
	const struct ms_cbor_item *table = ms_cbor_get(d, 0, key);
	const bool patch = key == M_PATCH_CHUNKS;
	if (!table)
		return MS_OK;
	if (table->type != MS_CBOR_BYTES || !table->n)
		return ms_err_set(err, MS_ECORRUPT, "header: key %" PRIu64 " is not a chunk table", key);
	struct ms_chunk_ref *grown = reallocarray(m->chunks, m->nchunks + table->n / CHUNK_ENTRY_MIN + 1, sizeof *grown);
	if (!grown)
		return ms_err_set(err, MS_ENOMEM, "no memory for a chunk table of %zu bytes", table->n);
	m->chunks = grown;
	const uint8_t *p = table->p;
	size_t left = table->n;
	uint64_t next = 1;
	while (left) {
		uint64_t pages, bytes, generation;
		size_t a = patch ? ms_varint_get(p, left, &next) : 0;
		if (patch && !a)
			goto broken;
		p += a, left -= a;
		a = ms_varint_get(p, left, &pages);
		if (!a || left - a < 8)
			goto broken;
		uint64_t hash = ms_get_le64(p + a);
		p += a + 8, left -= a + 8;
		size_t b = ms_varint_get(p, left, &bytes), g = b ? ms_varint_get(p + b, left - b, &generation) : 0;
		if (!g || pages > UINT32_MAX || next > UINT32_MAX)
			goto broken;
		p += b + g, left -= b + g;
		struct ms_chunk_ref *c = &m->chunks[m->nchunks++];
		*c = (struct ms_chunk_ref){.first_page = (uint32_t)next, .pages = (uint32_t)pages, .patch = patch, .hash = hash, .bytes = bytes};
		if (generation) {
			const struct ms_cbor_item *item = nth_generation(d, generation);
			if (!item || ms_cbor_item_generation(item, false, &c->generation, NULL))
				goto broken;
		} else
			c->generation = m->generation;
		next += pages;
	}
	return MS_OK;
broken:
	return ms_err_set(err, MS_ECORRUPT, "header: entry %" PRIu32 " of the chunk table is broken", m->nchunks);
}

static enum ms_code parse_header(const struct ms_cbor_doc *d, struct ms_manifest *m, struct ms_err *err) {
	const uint64_t zero = 0;
	uint64_t time_us, page_size, db_pages, mode, per_chunk, patches, epoch;
	enum ms_code rc = ms_cbor_get_generation(d, M_GENERATION, false, &m->generation, err);
	if (rc)
		return rc;
	const uint64_t own_epoch = ms_generation_epoch(&m->generation);
	if ((rc = ms_cbor_get_uint(d, M_TXID, &m->state.txid, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_TIME, INT64_MAX, NULL, &time_us, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_PAGE_SIZE, UINT32_MAX, NULL, &page_size, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_DB_PAGES, UINT32_MAX, NULL, &db_pages, err)) ||
	    (rc = ms_cbor_get_uint(d, M_CHECKSUM, &m->state.checksum, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_MODE, UINT32_MAX, NULL, &mode, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_PAGES_PER_CHUNK, UINT32_MAX, &zero, &per_chunk, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_PATCHES, UINT32_MAX, &zero, &patches, err)) ||
	    (rc = ms_cbor_get_generation(d, M_PARENT, true, &m->parent_generation, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_FORK, UINT64_MAX, &zero, &m->fork_txid, err)) ||
	    (rc = ms_cbor_get_uint_max(d, M_EPOCH, UINT32_MAX, &own_epoch, &epoch, err)))
		return rc;
	if ((rc = get_bool(d, M_INLINE, &m->inline_pages, err)) || (rc = get_bool(d, M_SEEDED, &m->seeded, err)))
		return rc;
	m->state.time_us = (int64_t)time_us, m->state.page_size = (uint32_t)page_size, m->state.db_pages = (uint32_t)db_pages;
	m->mode = (uint32_t)mode, m->pages_per_chunk = (uint32_t)per_chunk, m->npatches = (uint32_t)patches, m->epoch = (uint32_t)epoch;
	rc = parse_chunks(d, M_CHUNKS, m, err);
	return rc ? rc : parse_chunks(d, M_PATCH_CHUNKS, m, err);
}

static enum ms_code on_header(void *arg, const uint8_t *cbor, size_t len, struct ms_err *err) {
	struct ms_manifest_reader *r = arg;
	struct ms_cbor_doc d;
	enum ms_code rc = ms_cbor_parse(cbor, len, &d, err);
	if (rc)
		return rc;
	struct ms_manifest m = {.nchunks = 0};
	rc = parse_header(&d, &m, err);
	ms_cbor_doc_release(&d);
	if (!rc) {
		const char *fault = manifest_fault(&m, &r->coverage.covered);
		if (fault)
			rc = ms_err_set(err, MS_ECORRUPT, "snapshot %s/%" PRIu64 ": %s", m.generation.s, m.state.txid, fault);
	}
	if (rc) {
		ms_manifest_release(&m);
		return rc;
	}
	r->coverage.db_pages = m.state.db_pages;
	r->coverage.lock_page = ms_lock_page(m.state.page_size);
	*r->m = m;
	return MS_OK;
}

static enum ms_code on_pages(struct ms_manifest_reader *r, const uint8_t *raw, size_t len, struct ms_err *err) {
	const struct ms_manifest *m = r->m;
	uint32_t page_size = m->state.page_size, n = (uint32_t)(len / page_size);
	if (!m->inline_pages || r->patches_seen || len % page_size || n > m->state.db_pages - r->inline_seen)
		return ms_err_set(err, MS_ECORRUPT, "snapshot: inline pages where there should be none");
	uint32_t first = 1 + r->inline_seen;
	r->inline_seen += n;
	if (!r->sink.pages)
		return MS_OK;
	r->inline_sum += ms_pages_sum(first, n, page_size, raw);
	return r->sink.pages(r->sink.arg, first, n, page_size, raw, err);
}

static enum ms_code on_patches(struct ms_manifest_reader *r, const uint8_t *raw, size_t len, struct ms_err *err) {
	uint32_t page_size = r->m->state.page_size;
	if (len % (4 + (size_t)page_size))
		return ms_err_set(err, MS_ECORRUPT, "snapshot: a piece of a patch");
	for (; len; raw += 4 + (size_t)page_size, len -= 4 + (size_t)page_size) {
		uint32_t pgno = ms_get_le32(raw);
		if (!cover(&r->coverage, pgno))
			return ms_err_set(err, MS_ECORRUPT, "snapshot: patch of page %" PRIu32 " after page %" PRIu32 " of %" PRIu32, pgno,
					  r->coverage.last, r->m->state.db_pages);
		r->patches_seen++;
		enum ms_code rc = r->sink.pages ? r->sink.pages(r->sink.arg, pgno, 1, page_size, raw + 4, err) : MS_OK;
		if (rc)
			return rc;
	}
	return MS_OK;
}

static enum ms_code on_block(void *arg, uint16_t kind, const uint8_t *raw, size_t len, struct ms_err *err) {
	if (kind == MS_BLOCK_PAGES)
		return on_pages(arg, raw, len, err);
	if (kind == MS_BLOCK_PATCHES)
		return on_patches(arg, raw, len, err);
	return ms_err_set(err, MS_EUNSUPPORTED, "snapshot: block of kind %u", kind);
}

struct ms_manifest_reader *ms_manifest_reader_new(struct ms_manifest *ret, const struct ms_page_sink *sink) {
	struct ms_manifest_reader *r = calloc(1, sizeof *r);
	if (!r)
		return NULL;
	static const struct ms_artefact_callbacks cb = {.header = on_header, .block = on_block};
	if (!(r->art = ms_artefact_reader_new(MS_ART_SNAPSHOT, &cb, r))) {
		free(r);
		return NULL;
	}
	*ret = (struct ms_manifest){.nchunks = 0};
	r->m = ret;
	if (sink)
		r->sink = *sink;
	return r;
}

void ms_manifest_reader_free(struct ms_manifest_reader *r) {
	if (!r)
		return;
	ms_artefact_reader_free(r->art);
	free(r);
}

enum ms_code ms_manifest_push(struct ms_manifest_reader *r, const void *data, size_t len, struct ms_err *err) {
	return ms_artefact_push(r->art, data, len, err);
}

enum ms_code ms_manifest_finish(struct ms_manifest_reader *r, struct ms_err *err) {
	enum ms_code rc = ms_artefact_finish(r->art, err);
	if (rc)
		return rc;
	const struct ms_manifest *m = r->m;
	if (m->inline_pages && r->inline_seen != m->state.db_pages)
		return ms_err_set(err, MS_ECORRUPT, "snapshot: %" PRIu32 " inline pages instead of %" PRIu32, r->inline_seen, m->state.db_pages);
	if (r->patches_seen != m->npatches || !covers_all(&r->coverage))
		return ms_err_set(err, MS_ECORRUPT, "snapshot: %" PRIu32 " patches instead of %" PRIu32 ", or pages that nothing holds",
				  r->patches_seen, m->npatches);
	if (r->sink.pages && m->inline_pages && !m->npatches && r->inline_sum != m->state.checksum)
		return ms_err_set(err, MS_ECORRUPT, "snapshot: pages sum up to %016" PRIx64 " instead of the database checksum %016" PRIx64,
				  r->inline_sum, m->state.checksum);
	return MS_OK;
}
