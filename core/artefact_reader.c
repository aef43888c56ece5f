/*
 * Push reader: each state wants a known number of bytes. Bytes that arrive whole are used where they lie; others are gathered in
 * `part`. A stored length of 0 where a block could begin is the trailer.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include <inttypes.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/artefact_internal.h"
#include "core/crc.h"

enum state { PREAMBLE, HEADER, BLOCK_OR_TRAILER, BLOCK_HEAD, BLOCK_BODY, TRAILER, DONE };

struct ms_artefact_reader {
	enum ms_artefact_kind kind;
	struct ms_artefact_callbacks cb;
	void *arg;
	enum state state;
	size_t want;   /* bytes the state needs */
	uint64_t at;   /* offset of the first of them */
	struct ms_buf part;
	uint8_t preamble[MS_PREAMBLE_LEN];
	uint64_t header_crc;
	uint32_t header_end;
	uint64_t index_start; /* 0: no index block yet */
	uint8_t head_bytes[MS_BLOCK_HEADER_LEN];
	struct ms_block_head head;
	uint8_t *raw; /* MS_BLOCK_MAX, made for the first compressed block */
	ZSTD_DCtx *dctx;
	enum ms_code failed;
};

struct ms_artefact_reader *ms_artefact_reader_new(enum ms_artefact_kind kind, const struct ms_artefact_callbacks *cb, void *arg) {
	struct ms_artefact_reader *r = calloc(1, sizeof *r);
	if (!r)
		return NULL;
	r->kind = kind, r->cb = *cb, r->arg = arg, r->want = MS_PREAMBLE_LEN;
	ms_buf_init(&r->part, MS_HEADER_MAX + 8);
	return r;
}

void ms_artefact_reader_free(struct ms_artefact_reader *r) {
	if (!r)
		return;
	ms_buf_release(&r->part);
	ZSTD_freeDCtx(r->dctx);
	free(r->raw);
	free(r);
}

uint64_t ms_artefact_reader_offset(const struct ms_artefact_reader *r) { return r->at + r->part.len; }

static enum ms_code broken(struct ms_artefact_reader *r, const char *what, struct ms_err *err) {
	return ms_err_set(err, MS_ECORRUPT, "%s: %s at byte %" PRIu64, ms_artefact_kind_name(r->kind), what, r->at);
}

static enum ms_code take_block_head(struct ms_artefact_reader *r, struct ms_err *err) {
	if (!ms_artefact_block_head_parse(r->head_bytes, &r->head))
		return broken(r, "block with impossible lengths", err);
	r->want = r->head.stored;
	r->state = BLOCK_BODY;
	return MS_OK;
}

static ZSTD_DCtx *new_dctx(void) {
	ZSTD_DCtx *d = ZSTD_createDCtx();
	if (d && ZSTD_isError(ZSTD_DCtx_setParameter(d, ZSTD_d_format, ZSTD_f_zstd1_magicless))) {
		ZSTD_freeDCtx(d);
		return NULL;
	}
	return d;
}

static bool unpack(ZSTD_DCtx *d, const struct ms_block_head *h, const uint8_t *p, uint8_t *raw) {
	return ZSTD_decompressDCtx(d, raw, h->raw, p, h->stored) == h->raw; /* an error is a number above any size */
}

static enum ms_code take_block_body(struct ms_artefact_reader *r, const uint8_t *p, struct ms_err *err) {
	uint64_t offset = r->at - MS_BLOCK_HEADER_LEN;
	const struct ms_block_head *h = &r->head;
	const char *what;
	enum ms_code rc = ms_artefact_block_check(h, r->header_crc, offset, p, &what);
	if (rc)
		return ms_err_set(err, rc, "%s: %s, at byte %" PRIu64, ms_artefact_kind_name(r->kind), what, offset);
	if (h->packed) {
		if ((!r->dctx && !(r->dctx = new_dctx())) || (!r->raw && !(r->raw = malloc(MS_BLOCK_MAX))))
			return ms_err_set(err, MS_ENOMEM, "no memory to unpack a block");
		if (!unpack(r->dctx, h, p, r->raw))
			return broken(r, "block that does not unpack to its raw length", err);
		p = r->raw;
	}
	r->state = BLOCK_OR_TRAILER;
	r->want = 4;
	if (h->kind == MS_BLOCK_INDEX) {
		if (!r->index_start)
			r->index_start = offset;
		return r->cb.index ? r->cb.index(r->arg, p, h->raw, err) : MS_OK;
	}
	if (r->index_start)
		return broken(r, "block after the index", err);
	return r->cb.block(r->arg, h->kind, p, h->raw, err);
}

enum ms_code ms_artefact_block_decode(uint64_t header_crc, uint64_t offset, const uint8_t *p, size_t n, struct ms_buf *raw,
				      uint16_t *ret_kind, size_t *ret_used, struct ms_err *err) {
	struct ms_block_head h;
	if (n < MS_BLOCK_HEADER_LEN || !ms_artefact_block_head_parse(p, &h) || h.stored > n - MS_BLOCK_HEADER_LEN)
		return ms_err_set(err, MS_ECORRUPT, "no whole block at byte %" PRIu64, offset);
	p += MS_BLOCK_HEADER_LEN;
	const char *what;
	enum ms_code rc = ms_artefact_block_check(&h, header_crc, offset, p, &what);
	if (rc)
		return ms_err_set(err, rc, "%s, at byte %" PRIu64, what, offset);
	if ((rc = ms_buf_reserve(raw, h.raw, err)))
		return rc;
	if (h.packed) {
		ZSTD_DCtx *d = new_dctx();
		if (!d)
			return ms_err_set(err, MS_ENOMEM, "no memory to unpack a block");
		bool ok = unpack(d, &h, p, raw->data + raw->len);
		ZSTD_freeDCtx(d);
		if (!ok)
			return ms_err_set(err, MS_ECORRUPT, "block at byte %" PRIu64 " does not unpack to its raw length", offset);
	} else
		memcpy(raw->data + raw->len, p, h.raw);
	raw->len += h.raw;
	*ret_kind = h.kind;
	*ret_used = MS_BLOCK_HEADER_LEN + h.stored;
	return MS_OK;
}

static enum ms_code take_trailer(struct ms_artefact_reader *r, const uint8_t *p, struct ms_err *err) {
	uint8_t whole[MS_TRAILER_LEN] = {0};
	memcpy(whole + 4, p, MS_TRAILER_LEN - 4);
	struct ms_artefact_trailer t;
	enum ms_code rc = ms_artefact_trailer_parse(whole, &t, err);
	if (rc)
		return ms_err_wrap(err, "%s at byte %" PRIu64, ms_artefact_kind_name(r->kind), r->at - 4), rc;
	uint64_t start = r->at - 4;
	if (t.kind != r->kind || t.header_end != r->header_end || t.header_crc != r->header_crc || t.total_len != start + MS_TRAILER_LEN ||
	    t.index_stored != (r->index_start ? start - r->index_start : 0))
		return broken(r, "trailer that belongs to something else", err);
	r->state = DONE;
	r->want = 0;
	return MS_OK;
}

static enum ms_code take(struct ms_artefact_reader *r, const uint8_t *p, struct ms_err *err) {
	uint32_t len;
	enum ms_code rc;
	switch (r->state) {
	case PREAMBLE:
		if ((rc = ms_artefact_preamble_parse(p, r->kind, &len, err)))
			return rc;
		memcpy(r->preamble, p, MS_PREAMBLE_LEN);
		r->header_end = MS_PREAMBLE_LEN + len + 8;
		r->want = (size_t)len + 8;
		r->state = HEADER;
		return MS_OK;
	case HEADER:
		len = (uint32_t)r->want - 8;
		r->header_crc = ms_crc64(ms_crc64(0, r->preamble, MS_PREAMBLE_LEN), p, len);
		if (r->header_crc != ms_get_le64(p + len))
			return broken(r, "header fails its checksum", err);
		r->want = 4;
		r->state = BLOCK_OR_TRAILER;
		return r->cb.header(r->arg, p, len, err);
	case BLOCK_OR_TRAILER:
		memcpy(r->head_bytes, p, 4);
		r->state = ms_get_le32(p) ? BLOCK_HEAD : TRAILER;
		r->want = (r->state == TRAILER ? MS_TRAILER_LEN : MS_BLOCK_HEADER_LEN) - 4;
		return MS_OK;
	case BLOCK_HEAD:
		memcpy(r->head_bytes + 4, p, MS_BLOCK_HEADER_LEN - 4);
		return take_block_head(r, err);
	case BLOCK_BODY:
		return take_block_body(r, p, err);
	case TRAILER:
		return take_trailer(r, p, err);
	case DONE:
		break;
	}
	return broken(r, "bytes after the end", err);
}

enum ms_code ms_artefact_push(struct ms_artefact_reader *r, const void *data, size_t len, struct ms_err *err) {
	const uint8_t *p = data;
	if (r->failed)
		return ms_err_set(err, r->failed, "%s: reading has failed before", ms_artefact_kind_name(r->kind));
	enum ms_code rc = MS_OK;
	while (len && !rc) {
		if (r->state == DONE) {
			rc = broken(r, "bytes after the end", err);
			break;
		}
		size_t want = r->want, n = want - r->part.len;
		const uint8_t *whole = p;
		if (r->part.len || len < n) {
			if (n > len)
				n = len;
			if ((rc = ms_buf_append(&r->part, p, n, err)))
				break;
			whole = r->part.len == want ? r->part.data : NULL;
		}
		p += n, len -= n;
		if (whole) {
			/* Offsets in messages and checksums are of the first byte wanted. */
			rc = take(r, whole, err);
			r->at += want;
			ms_buf_clear(&r->part);
			if (r->part.cap > 2 * MS_BLOCK_MAX) { /* a large header is read once, blocks need less */
				ms_buf_release(&r->part);
				ms_buf_init(&r->part, MS_HEADER_MAX + 8);
			}
		}
	}
	r->failed = rc;
	return rc;
}

enum ms_code ms_artefact_finish(struct ms_artefact_reader *r, struct ms_err *err) {
	if (r->failed)
		return ms_err_set(err, r->failed, "%s: reading has failed before", ms_artefact_kind_name(r->kind));
	if (r->state != DONE)
		return r->failed = ms_err_set(err, MS_ECORRUPT, "%s: ends at byte %" PRIu64 ", before its trailer",
					      ms_artefact_kind_name(r->kind), ms_artefact_reader_offset(r));
	return MS_OK;
}
