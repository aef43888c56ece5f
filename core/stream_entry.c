#include "core/stream_entry.h"

#include <stdlib.h>
#include <string.h>

#include "core/cbor.h"

#define LINEAGE_MAX 4096u

void ms_generation_start_release(struct ms_generation_start *g) {
	free(g->lineage);
	*g = (struct ms_generation_start){0};
}

size_t ms_run_header_put(uint8_t p[MS_RUN_HEADER_MAX], unsigned flags, uint64_t txid, const struct ms_cookie *cookie) {
	uint8_t *at = p;
	*at++ = MS_ENTRY_RUN;
	*at++ = (uint8_t)flags;
	at += ms_varint_put(at, txid);
	uint8_t n = (flags & MS_RUN_LAST) && cookie ? cookie->len : 0;
	*at++ = n;
	if (n)
		memcpy(at, cookie->data, n);
	return (size_t)(at + n - p);
}

enum ms_code ms_generation_start_encode(const struct ms_generation_start *g, struct ms_buf *out, struct ms_err *err) {
	size_t before = out->len;
	if (!g->nlineage || !ms_generation_valid(g->generation.s) || strcmp(g->lineage[0].generation.s, g->generation.s) != 0 || g->base.time_us < 0)
		return ms_err_set(err, MS_EINVAL, "generation start: the lineage does not begin with the generation itself");
	const struct ms_lineage *own = &g->lineage[0];
	bool root = !own->parent.s[0];
	enum ms_code rc;
	if ((rc = ms_buf_u8(out, MS_ENTRY_GENERATION, err)) || (rc = ms_cbor_put_map(out, root ? 8 : 10, err)) ||
	    (rc = ms_cbor_put_uint(out, 1, err)) || (rc = ms_cbor_put_text(out, g->generation.s, err)))
		goto fail;
	if (!root && ((rc = ms_cbor_put_uint(out, 2, err)) || (rc = ms_cbor_put_text(out, own->parent.s, err)) ||
		      (rc = ms_cbor_put_uint(out, 3, err)) || (rc = ms_cbor_put_uint(out, own->fork_txid, err))))
		goto fail;
	const uint64_t fields[] = {g->base.page_size, g->base.db_pages, g->base.txid, g->base.checksum, (uint64_t)g->base.time_us};
	for (uint64_t i = 0; i < 5; i++)
		if ((rc = ms_cbor_put_uint(out, 4 + i, err)) || (rc = ms_cbor_put_uint(out, fields[i], err)))
			goto fail;
	if ((rc = ms_cbor_put_uint(out, 9, err)) || (rc = ms_cbor_put_array(out, g->nlineage, err)))
		goto fail;
	for (uint32_t i = 0; i < g->nlineage; i++)
		if ((rc = ms_lineage_put(out, &g->lineage[i], err)))
			goto fail;
	if ((rc = ms_cbor_put_uint(out, 10, err)) || (rc = ms_cbor_put_uint(out, g->mode, err)))
		goto fail;
	return MS_OK;
fail:
	out->len = before;
	return rc;
}

static bool generation_of(const struct ms_cbor_item *it, struct ms_generation *ret, bool or_empty) {
	if (!it || it->type != MS_CBOR_TEXT || (it->n != MS_GENERATION_LEN && !(or_empty && it->n == 0)))
		return false;
	memcpy(ret->s, it->p, it->n);
	ret->s[it->n] = '\0';
	return it->n == 0 || ms_generation_valid(ret->s);
}

static enum ms_code parse_lineage(const struct ms_cbor_doc *d, struct ms_generation_start *g, struct ms_err *err) {
	const struct ms_cbor_item *a = ms_cbor_get(d, 0, 9);
	if (!a || a->type != MS_CBOR_ARRAY || a->u == 0 || a->u > LINEAGE_MAX)
		return ms_err_set(err, MS_ECORRUPT, "generation start: no lineage");
	g->lineage = calloc((size_t)a->u, sizeof *g->lineage);
	if (!g->lineage)
		return ms_err_set(err, MS_ENOMEM, "generation start");
	g->nlineage = (uint32_t)a->u;
	uint32_t at = (uint32_t)(a - d->items) + 1;
	for (uint32_t i = 0; i < g->nlineage; i++, at = d->items[at].next) {
		enum ms_code rc = ms_lineage_get(d, at, &g->lineage[i], err);
		if (rc)
			return ms_err_wrap(err, "generation start: lineage %u", i);
	}
	return MS_OK;
}

static enum ms_code parse_generation(const uint8_t *p, size_t n, struct ms_generation_start *g, struct ms_err *err) {
	struct ms_cbor_doc d = {0};
	struct ms_generation parent = {""};
	uint64_t v[5], fork = 0, mode;
	enum ms_code rc = ms_cbor_parse(p, n, &d, err);
	if (rc)
		return rc;
	if (d.items[0].type != MS_CBOR_MAP || !generation_of(ms_cbor_get(&d, 0, 1), &g->generation, false)) {
		rc = ms_err_set(err, MS_ECORRUPT, "generation start: bad generation");
		goto out;
	}
	for (uint64_t i = 0; i < 5; i++)
		if ((rc = ms_cbor_get_uint(&d, 4 + i, &v[i], err)))
			goto out;
	if ((rc = ms_cbor_get_uint(&d, 10, &mode, err)) || (rc = parse_lineage(&d, g, err)))
		goto out;
	const struct ms_cbor_item *pi = ms_cbor_get(&d, 0, 2);
	if (pi && (!generation_of(pi, &parent, false) || (rc = ms_cbor_get_uint(&d, 3, &fork, err)))) {
		rc = ms_err_set(err, MS_ECORRUPT, "generation start: bad parent");
		goto out;
	}
	if (!ms_page_size_valid(v[0]) || v[1] > UINT32_MAX || v[4] > INT64_MAX || mode > 07777 ||
	    strcmp(g->lineage[0].generation.s, g->generation.s) != 0 || strcmp(g->lineage[0].parent.s, parent.s) != 0 ||
	    (pi && g->lineage[0].fork_txid != fork) || (g->lineage[0].seeded && v[2] < ms_lineage_base(&g->lineage[0]))) {
		rc = ms_err_set(err, MS_ECORRUPT, "generation start of %s: fields contradict each other", g->generation.s);
		goto out;
	}
	g->base = (struct ms_dbstate){.page_size = (uint32_t)v[0], .db_pages = (uint32_t)v[1], .txid = v[2], .checksum = v[3], .time_us = (int64_t)v[4]};
	g->mode = (uint32_t)mode;
out:
	ms_cbor_doc_release(&d);
	return rc;
}

enum ms_code ms_stream_entry_parse(const uint8_t *p, size_t n, struct ms_stream_entry *ret, struct ms_err *err) {
	struct ms_stream_entry e = {0};
	enum ms_code rc;
	if (n < 1)
		return ms_err_set(err, MS_ECORRUPT, "journal entry without bytes");
	if (p[0] == MS_ENTRY_GENERATION) {
		e.kind = MS_ENTRY_GENERATION;
		if ((rc = parse_generation(p + 1, n - 1, &e.start, err))) {
			ms_generation_start_release(&e.start);
			return rc;
		}
		*ret = e;
		return MS_OK;
	}
	if (p[0] != MS_ENTRY_RUN)
		return ms_err_set(err, MS_EUNSUPPORTED, "journal entry of unknown kind %u (written by a newer version?)", p[0]);
	size_t at = 2, used;
	if (n < 2 || (p[1] & ~(unsigned)(MS_RUN_FIRST | MS_RUN_LAST)))
		return ms_err_set(err, MS_ECORRUPT, "journal entry: bad run header");
	e.kind = MS_ENTRY_RUN;
	e.flags = p[1];
	used = ms_varint_get(p + at, n - at, &e.txid);
	at += used;
	if (!used || at >= n || p[at] > MS_COOKIE_MAX || n - at - 1 < p[at] || (p[at] && !(e.flags & MS_RUN_LAST)))
		return ms_err_set(err, MS_ECORRUPT, "journal entry: bad run header");
	e.cookie.len = p[at++];
	memcpy(e.cookie.data, p + at, e.cookie.len);
	at += e.cookie.len;
	e.records = p + at;
	e.records_len = n - at;
	*ret = e;
	return MS_OK;
}

void ms_stream_entry_release(struct ms_stream_entry *e) {
	if (e->kind == MS_ENTRY_GENERATION)
		ms_generation_start_release(&e->start);
}
