/* Segment header, and what must hold between it and the records. */
#include "core/segment.h"

#include <inttypes.h>

#include "core/cbor.h"
#include "core/segment_internal.h"

enum {
	K_GENERATION = 1,
	K_FIRST = 2,
	K_LAST = 3,
	K_PARENT = 4,
	K_PAGE_SIZE = 5,
	K_FIRST_US = 6,
	K_LAST_US = 7,
	K_BEFORE = 8,
	K_AFTER = 9,
	K_KIND = 10,
	K_PART = 11,
	K_MORE = 12,
	K_DB_PAGES = 13,
	K_FRAMES = 15,
	K_PARENT_GENERATION = 16,
	K_FORK = 17,
	K_EPOCH = 18,
};

enum ms_code ms_segment_check_info(const struct ms_segment_info *i, enum ms_code code, struct ms_err *err) {
	const char *fault = NULL;
	if (!ms_generation_valid(i->generation.s))
		fault = "no valid generation";
	else if (!i->first_txid || i->last_txid < i->first_txid || i->parent_txid >= i->first_txid)
		fault = "txids out of order";
	else if (!ms_page_size_valid(i->page_size))
		fault = "no valid page size";
	else if (i->first_us < 0 || i->last_us < i->first_us)
		fault = "times out of order";
	else if ((unsigned)i->kind > MS_SEG_SQUASH)
		fault = "unknown kind";
	else if ((i->more || (i->part && i->kind != MS_SEG_CATCHUP)) && i->first_txid != i->last_txid)
		fault = "a part of more than one transaction";
	else if (i->kind == MS_SEG_CATCHUP && i->first_txid != i->last_txid && i->parent_txid != i->first_txid - 1)
		fault = "a catch-up over a stretch that does not begin at its parent";
	else if (i->more && i->checksum_after != i->checksum_before)
		fault = "a part without commit that changes the checksum";
	else if (i->parent_generation.s[0] && (!ms_generation_valid(i->parent_generation.s) || i->parent_txid < i->fork_txid || i->parent_txid - i->fork_txid > 1))
		fault = "a fork whose parent is neither the fork txid nor the state behind it";
	else if (!i->parent_generation.s[0] && i->fork_txid)
		fault = "a fork txid without parent generation";
	return fault ? ms_err_set(err, code, "segment %s/%" PRIu64 ": %s", i->generation.s, i->first_txid, fault) : MS_OK;
}

enum ms_code ms_segment_check_record(struct ms_segment_check *c, const struct ms_record *rec, enum ms_code code, struct ms_err *err) {
	const struct ms_segment_info *i = c->info;
	if (rec->type != MS_REC_COMMIT) {
		c->frames++, c->open_frames++;
		return MS_OK;
	}
	const struct ms_commit *m = &rec->commit;
	const char *fault = NULL;
	if (i->more)
		fault = "in a part that has none";
	else if (!c->commits && m->txid != (i->kind == MS_SEG_CATCHUP ? i->last_txid : i->first_txid))
		fault = "is not the first the header names";
	else if (i->kind == MS_SEG_CATCHUP && !(m->flags & MS_COMMIT_CATCHUP))
		fault = "is not flagged as the catch-up that the header names";
	else if (!c->commits && m->time_us != i->first_us)
		fault = "does not have the first time of the header";
	else if (c->commits && m->txid <= c->last_txid)
		fault = "does not come after the one before it";
	else if (c->commits && m->time_us < c->last_us)
		fault = "is older than the one before it";
	else if (m->txid > i->last_txid)
		fault = "comes after the last the header names";
	else if (m->page_size != i->page_size)
		fault = "has another page size";
	if (fault)
		return ms_err_set(err, code, "segment %s/%" PRIu64 ": commit %" PRIu64 " %s", i->generation.s, i->first_txid, m->txid, fault);
	c->commits++;
	c->open_frames = 0;
	c->last_txid = m->txid, c->last_us = m->time_us, c->checksum = m->checksum, c->db_pages = m->db_pages;
	return MS_OK;
}

enum ms_code ms_segment_check_end(const struct ms_segment_check *c, enum ms_code code, struct ms_err *err) {
	const struct ms_segment_info *i = c->info;
	const char *fault = NULL;
	if (c->frames != i->frames)
		fault = "another number of frames";
	else if (!i->more && (!c->commits || c->open_frames))
		fault = "frames without their commit";
	else if (i->more && !c->frames)
		fault = "an empty part";
	else if (!i->more && (c->last_txid != i->last_txid || c->last_us != i->last_us || c->checksum != i->checksum_after ||
			      c->db_pages != i->db_pages))
		fault = "another last commit";
	return fault ? ms_err_set(err, code, "segment %s/%" PRIu64 ": %s than the header says", i->generation.s, i->first_txid, fault) : MS_OK;
}

/* Counts pairs first, then writes them: a definite-length map states their number in front. */
struct map_out {
	struct ms_buf *b; /* NULL while counting */
	size_t pairs;
	enum ms_code rc;
	struct ms_err *err;
};

static bool key(struct map_out *m, uint64_t k) {
	m->pairs++;
	if (!m->b || m->rc)
		return false;
	m->rc = ms_cbor_put_uint(m->b, k, m->err);
	return !m->rc;
}

static void put_uint(struct map_out *m, uint64_t k, uint64_t v) {
	if (key(m, k))
		m->rc = ms_cbor_put_uint(m->b, v, m->err);
}

static void put_text(struct map_out *m, uint64_t k, const char *s) {
	if (key(m, k))
		m->rc = ms_cbor_put_text(m->b, s, m->err);
}

static void put_info(struct map_out *m, const struct ms_segment_info *i) {
	put_text(m, K_GENERATION, i->generation.s);
	put_uint(m, K_FIRST, i->first_txid);
	if (i->last_txid != i->first_txid)
		put_uint(m, K_LAST, i->last_txid);
	if (i->parent_txid != i->first_txid - 1)
		put_uint(m, K_PARENT, i->parent_txid);
	put_uint(m, K_PAGE_SIZE, i->page_size);
	put_uint(m, K_FIRST_US, (uint64_t)i->first_us);
	if (i->last_us != i->first_us)
		put_uint(m, K_LAST_US, (uint64_t)i->last_us);
	put_uint(m, K_BEFORE, i->checksum_before);
	put_uint(m, K_AFTER, i->checksum_after);
	if (i->kind)
		put_uint(m, K_KIND, i->kind);
	if (i->part)
		put_uint(m, K_PART, i->part);
	if (i->more && key(m, K_MORE))
		m->rc = ms_cbor_put_bool(m->b, true, m->err);
	put_uint(m, K_DB_PAGES, i->db_pages);
	put_uint(m, K_FRAMES, i->frames);
	if (i->parent_generation.s[0]) {
		put_text(m, K_PARENT_GENERATION, i->parent_generation.s);
		put_uint(m, K_FORK, i->fork_txid);
	}
	if (i->epoch != ms_generation_epoch(&i->generation))
		put_uint(m, K_EPOCH, i->epoch);
}

enum ms_code ms_segment_info_encode(const struct ms_segment_info *info, struct ms_buf *out, struct ms_err *err) {
	struct map_out m = {.err = err};
	m.rc = ms_segment_check_info(info, MS_EINVAL, err);
	if (m.rc)
		return m.rc;
	put_info(&m, info);
	m.rc = ms_cbor_put_map(out, m.pairs, err);
	m.b = out;
	put_info(&m, info);
	return m.rc;
}

enum ms_code ms_segment_info_parse(const uint8_t *cbor, size_t len, struct ms_segment_info *ret, struct ms_err *err) {
	struct ms_cbor_doc d;
	enum ms_code rc = ms_cbor_parse(cbor, len, &d, err);
	if (rc)
		return rc;
	struct ms_segment_info i = {.kind = MS_SEG_COMMIT};
	const uint64_t zero = 0;
	uint64_t first_us, last_us, page_size, kind, part, db_pages, epoch;
	if ((rc = ms_cbor_get_generation(&d, K_GENERATION, false, &i.generation, err)) ||
	    (rc = ms_cbor_get_uint(&d, K_FIRST, &i.first_txid, err)))
		goto out;
	const uint64_t before_first = i.first_txid - 1, own_epoch = ms_generation_epoch(&i.generation);
	if ((rc = ms_cbor_get_uint_max(&d, K_LAST, UINT64_MAX, &i.first_txid, &i.last_txid, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_PARENT, UINT64_MAX, &before_first, &i.parent_txid, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_PAGE_SIZE, UINT32_MAX, NULL, &page_size, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_FIRST_US, INT64_MAX, NULL, &first_us, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_LAST_US, INT64_MAX, &first_us, &last_us, err)) ||
	    (rc = ms_cbor_get_uint(&d, K_BEFORE, &i.checksum_before, err)) || (rc = ms_cbor_get_uint(&d, K_AFTER, &i.checksum_after, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_KIND, MS_SEG_SQUASH, &zero, &kind, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_PART, UINT32_MAX, &zero, &part, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_DB_PAGES, UINT32_MAX, NULL, &db_pages, err)) ||
	    (rc = ms_cbor_get_uint(&d, K_FRAMES, &i.frames, err)) ||
	    (rc = ms_cbor_get_generation(&d, K_PARENT_GENERATION, true, &i.parent_generation, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_FORK, UINT64_MAX, &zero, &i.fork_txid, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, K_EPOCH, UINT32_MAX, &own_epoch, &epoch, err)))
		goto out;
	const struct ms_cbor_item *more = ms_cbor_get(&d, 0, K_MORE);
	if (more && more->type != MS_CBOR_BOOL) {
		rc = ms_err_set(err, MS_ECORRUPT, "header: key %d is not a boolean", K_MORE);
		goto out;
	}
	i.more = more && more->u;
	i.page_size = (uint32_t)page_size, i.db_pages = (uint32_t)db_pages, i.part = (uint32_t)part, i.epoch = (uint32_t)epoch;
	i.first_us = (int64_t)first_us, i.last_us = (int64_t)last_us;
	i.kind = (enum ms_segment_kind)kind;
	if (!(rc = ms_segment_check_info(&i, MS_ECORRUPT, err)))
		*ret = i;
out:
	ms_cbor_doc_release(&d);
	return rc;
}

enum ms_code ms_segment_peek(const uint8_t *p, size_t n, struct ms_segment_info *ret, size_t *ret_need, struct ms_err *err) {
	const uint8_t *cbor;
	size_t len;
	enum ms_code rc = ms_artefact_peek(MS_ART_SEGMENT, p, n, &cbor, &len, ret_need, err);
	return rc ? rc : ms_segment_info_parse(cbor, len, ret, err);
}
