/*
 * Commit records out, and all records in. Layout in codec.h and docs/formats.md "Records".
 */
#include "core/codec.h"

#include <inttypes.h>

#include "core/cbor.h"

#define KNOWN_FLAGS (MS_COMMIT_CATCHUP | MS_COMMIT_ATTACH | MS_COMMIT_SQUASH)
/* flags, txid, time, page size, pages, checksum, lost commits */
#define COMMIT_FIXED_MAX (5 + 10 + 10 + 3 + 5 + 8 + 10)
_Static_assert(COMMIT_FIXED_MAX <= 64, "a commit with MS_ATTRS_MAX bytes of attributes stays below MS_PAGE_SIZE_MAX");

static enum ms_code check_attrs(const uint8_t *p, size_t n, enum ms_code code, struct ms_err *err) {
	struct ms_cbor_doc doc;
	enum ms_code rc = ms_cbor_parse(p, n, &doc, err);
	if (rc)
		return rc == MS_ENOMEM ? rc : ms_err_set(err, code, "commit attributes are not one CBOR map");
	if (doc.items[0].type != MS_CBOR_MAP)
		rc = ms_err_set(err, code, "commit attributes are not a CBOR map");
	for (uint32_t i = 1; !rc && i < doc.count; i++)
		if (doc.items[i].type != MS_CBOR_TEXT)
			rc = ms_err_set(err, code, "commit attributes hold something else than text");
	ms_cbor_doc_release(&doc);
	return rc;
}

/* One rule for both directions; NULL when every field is acceptable. */
static const char *commit_fault(const struct ms_commit *c) {
	if (!c->txid)
		return "txid 0";
	if (c->time_us < 0)
		return "a time before 1970";
	if (!ms_page_size_valid(c->page_size))
		return "no valid page size";
	if (c->lost_commits < -1)
		return "a negative count of lost commits";
	if (c->attrs_len > MS_ATTRS_MAX)
		return "more attributes than allowed";
	return NULL;
}

enum ms_code ms_commit_encode(const struct ms_commit *c, struct ms_buf *out, struct ms_err *err) {
	const char *fault = commit_fault(c);
	if (fault || (c->flags & ~(uint32_t)KNOWN_FLAGS))
		return ms_err_set(err, MS_EINVAL, "commit %" PRIu64 ": %s", c->txid, fault ? fault : "unknown flags");
	size_t attrs_len = c->attrs ? c->attrs_len : 0;
	enum ms_code rc = attrs_len ? check_attrs(c->attrs, attrs_len, MS_EINVAL, err) : MS_OK;
	if (rc)
		return rc;

	uint8_t fixed[COMMIT_FIXED_MAX];
	size_t n = ms_varint_put(fixed, c->flags);
	n += ms_varint_put(fixed + n, c->txid);
	n += ms_varint_put(fixed + n, (uint64_t)c->time_us);
	n += ms_varint_put(fixed + n, c->page_size);
	n += ms_varint_put(fixed + n, c->db_pages);
	ms_put_le64(fixed + n, c->checksum);
	n += 8;
	if (c->flags & MS_COMMIT_CATCHUP)
		n += ms_varint_put(fixed + n, (uint64_t)c->lost_commits + 1);

	if ((rc = ms_buf_reserve(out, 1 + 3 + n + attrs_len, err)))
		return rc;
	uint8_t *p = out->data + out->len;
	*p++ = MS_REC_COMMIT;
	p += ms_varint_put(p, n + attrs_len);
	memcpy(p, fixed, n);
	p += n;
	if (attrs_len)
		memcpy(p, c->attrs, attrs_len);
	out->len = (size_t)(p + attrs_len - out->data);
	return MS_OK;
}

/* Bytes not yet read of a record. */
struct cursor {
	const uint8_t *p;
	size_t n;
};

static bool take_varint(struct cursor *c, uint64_t max, uint64_t *ret) {
	size_t used = ms_varint_get(c->p, c->n, ret);
	c->p += used, c->n -= used;
	return used && *ret <= max;
}

static bool take_u64(struct cursor *c, uint64_t *ret) {
	if (c->n < 8)
		return false;
	*ret = ms_get_le64(c->p);
	c->p += 8, c->n -= 8;
	return true;
}

static enum ms_code parse_commit(struct cursor body, struct ms_commit *ret, struct ms_err *err) {
	struct ms_commit c = {.lost_commits = 0};
	uint64_t flags, time_us, page_size, db_pages, lost = 1;
	if (!take_varint(&body, UINT32_MAX, &flags))
		return ms_err_set(err, MS_ECORRUPT, "commit record: broken flags");
	if (flags & ~(uint64_t)KNOWN_FLAGS)
		return ms_err_set(err, MS_EUNSUPPORTED, "commit record: flags 0x%" PRIx64 " are of a newer version", flags);
	if (!take_varint(&body, UINT64_MAX, &c.txid) || !take_varint(&body, INT64_MAX, &time_us) ||
	    !take_varint(&body, UINT32_MAX, &page_size) || !take_varint(&body, UINT32_MAX, &db_pages) || !take_u64(&body, &c.checksum) ||
	    ((flags & MS_COMMIT_CATCHUP) && !take_varint(&body, INT64_MAX, &lost)))
		return ms_err_set(err, MS_ECORRUPT, "commit record: truncated or out of range");
	c.flags = (uint32_t)flags;
	c.time_us = (int64_t)time_us;
	c.page_size = (uint32_t)page_size;
	c.db_pages = (uint32_t)db_pages;
	c.lost_commits = (int64_t)lost - 1;
	c.attrs_len = body.n;
	c.attrs = body.n ? body.p : NULL;
	const char *fault = commit_fault(&c);
	if (fault)
		return ms_err_set(err, MS_ECORRUPT, "commit record: %s", fault);
	if (c.attrs_len) {
		enum ms_code rc = check_attrs(c.attrs, c.attrs_len, MS_ECORRUPT, err);
		if (rc)
			return rc;
	}
	*ret = c;
	return MS_OK;
}

enum ms_code ms_record_parse(const uint8_t *p, size_t n, struct ms_record *ret, size_t *ret_used, struct ms_err *err) {
	if (!n)
		return ms_err_set(err, MS_ECORRUPT, "record: nothing there");
	struct cursor c = {p + 1, n - 1};
	struct ms_record rec = {.type = (enum ms_record_type)p[0]};
	uint64_t pgno = 0, hash = 0, len;
	switch (p[0]) {
	case MS_REC_STORED:
	case MS_REC_FULL:
	case MS_REC_DELTA:
	case MS_REC_PATCH:
		if (!take_varint(&c, UINT32_MAX, &pgno) || !pgno || !take_u64(&c, &hash))
			return ms_err_set(err, MS_ECORRUPT, "page record: broken header");
		if (!take_varint(&c, MS_PAGE_SIZE_MAX, &len) || !len || len > c.n)
			return ms_err_set(err, MS_ECORRUPT, "page record of page %" PRIu64 ": broken length, or cut short", pgno);
		rec.page = (struct ms_page_record){.pgno = (uint32_t)pgno, .hash = hash, .data = c.p, .len = (size_t)len};
		break;
	case MS_REC_COMMIT: {
		if (!take_varint(&c, MS_PAGE_SIZE_MAX, &len) || len > c.n)
			return ms_err_set(err, MS_ECORRUPT, "commit record: broken length, or cut short");
		enum ms_code rc = parse_commit((struct cursor){c.p, (size_t)len}, &rec.commit, err);
		if (rc)
			return rc;
		break;
	}
	default:
		return ms_err_set(err, MS_EUNSUPPORTED, "record type %u is not known to this version", p[0]);
	}
	*ret = rec;
	*ret_used = (size_t)(c.p - p) + (size_t)len;
	return MS_OK;
}
