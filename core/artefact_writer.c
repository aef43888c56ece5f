#define ZSTD_STATIC_LINKING_ONLY
#include <stdlib.h>
#include <zstd.h>

#include "core/artefact_internal.h"
#include "core/crc.h"

enum state { FRESH, BLOCKS, ENDED, FAILED };

struct ms_artefact_writer {
	enum ms_artefact_kind kind;
	enum state state;
	int level;  /* 0: none */
	int window; /* log */
	struct ms_buf *out;
	uint64_t offset;
	uint64_t header_crc;
	uint32_t header_end;
	ZSTD_CCtx *cctx; /* made for the first block that is to be compressed */
	uint8_t *scratch;
	size_t scratch_cap;
};

void ms_artefact_writer_set_compression(struct ms_artefact_writer *w, int compression) {
	int level = compression & 0xff, window = compression >> 8 & 0xff;
	w->level = compression & MS_COMPRESS_NONE ? 0 : level ? level : 1;
	w->window = !window || window > MS_BLOCK_WINDOW_LOG ? MS_BLOCK_WINDOW_LOG : window;
}

struct ms_artefact_writer *ms_artefact_writer_new(enum ms_artefact_kind kind, int compression, struct ms_buf *out) {
	struct ms_artefact_writer *w = calloc(1, sizeof *w);
	if (w) {
		w->kind = kind, w->out = out;
		ms_artefact_writer_set_compression(w, compression);
	}
	return w;
}

void ms_artefact_writer_free(struct ms_artefact_writer *w) {
	if (!w)
		return;
	ZSTD_freeCCtx(w->cctx);
	free(w->scratch);
	free(w);
}

uint64_t ms_artefact_offset(const struct ms_artefact_writer *w) { return w->offset; }

static enum ms_code emit(struct ms_artefact_writer *w, const void *p, size_t n, struct ms_err *err) {
	enum ms_code rc = ms_buf_append(w->out, p, n, err);
	if (rc)
		w->state = FAILED;
	else
		w->offset += n;
	return rc;
}

static enum ms_code out_of_order(struct ms_artefact_writer *w, struct ms_err *err) {
	w->state = FAILED;
	return ms_err_set(err, MS_EINVAL, "%s writer: called out of order, or after a failure", ms_artefact_kind_name(w->kind));
}

enum ms_code ms_artefact_begin(struct ms_artefact_writer *w, const uint8_t *header, size_t len, struct ms_err *err) {
	if (w->state != FRESH)
		return out_of_order(w, err);
	if (!len || len > MS_HEADER_MAX) {
		w->state = FAILED;
		return ms_err_set(err, MS_ETOOBIG, "%s: header of %zu bytes; 1 to %u are possible", ms_artefact_kind_name(w->kind), len,
				  MS_HEADER_MAX);
	}
	uint8_t preamble[MS_PREAMBLE_LEN], crc[8];
	ms_artefact_preamble_put(preamble, w->kind, (uint32_t)len);
	w->header_crc = ms_crc64(ms_crc64(0, preamble, sizeof preamble), header, len);
	w->header_end = MS_PREAMBLE_LEN + (uint32_t)len + 8;
	ms_put_le64(crc, w->header_crc);
	enum ms_code rc = emit(w, preamble, sizeof preamble, err);
	if (!rc)
		rc = emit(w, header, len, err);
	if (!rc)
		rc = emit(w, crc, sizeof crc, err);
	if (!rc)
		w->state = BLOCKS;
	return rc;
}

/* Compresses into scratch; *ret_len = 0 when it does not get smaller. */
static enum ms_code compress(struct ms_artefact_writer *w, const uint8_t *raw, size_t len, size_t *ret_len, struct ms_err *err) {
	size_t bound = ZSTD_compressBound(len);
	if (!w->cctx) {
		if (!(w->cctx = ZSTD_createCCtx()))
			return ms_err_set(err, MS_ENOMEM, "no memory for a zstd context");
		/* The window never passes the block, so a reader needs no more than the block's raw size. */
		const struct {
			ZSTD_cParameter name;
			int value;
		} params[] = {
			{ZSTD_c_compressionLevel, w->level}, {ZSTD_c_format, ZSTD_f_zstd1_magicless}, {ZSTD_c_contentSizeFlag, 0},
			{ZSTD_c_checksumFlag, 0},	     {ZSTD_c_dictIDFlag, 0},		      {ZSTD_c_windowLog, w->window},
		};
		for (size_t i = 0; i < sizeof params / sizeof params[0]; i++) {
			size_t rc = ZSTD_CCtx_setParameter(w->cctx, params[i].name, params[i].value);
			if (ZSTD_isError(rc))
				return ms_err_set(err, MS_EINVAL, "zstd refuses level %d with window log %d: %s", w->level, w->window, ZSTD_getErrorName(rc));
		}
	}
	if (w->scratch_cap < bound) {
		uint8_t *p = realloc(w->scratch, bound);
		if (!p)
			return ms_err_set(err, MS_ENOMEM, "no memory for a block of %zu bytes", len);
		w->scratch = p, w->scratch_cap = bound;
	}
	size_t n = ZSTD_compress2(w->cctx, w->scratch, w->scratch_cap, raw, len);
	if (ZSTD_isError(n))
		return ms_err_set(err, MS_ENOMEM, "zstd: %s", ZSTD_getErrorName(n));
	*ret_len = n < len ? n : 0;
	return MS_OK;
}

static enum ms_code write_block(struct ms_artefact_writer *w, uint16_t kind, const uint8_t *raw, size_t len, bool try_zstd,
				struct ms_err *err) {
	size_t packed = 0;
	enum ms_code rc = try_zstd && w->level ? compress(w, raw, len, &packed, err) : MS_OK;
	if (rc) {
		w->state = FAILED;
		return rc;
	}
	const uint8_t *stored = packed ? w->scratch : raw;
	size_t stored_len = packed ? packed : len;
	uint8_t head[MS_BLOCK_HEADER_LEN];
	ms_put_le32(head, (uint32_t)stored_len);
	ms_put_le32(head + 4, (uint32_t)len);
	head[8] = packed ? MS_COMPRESSION_ZSTD : MS_COMPRESSION_NONE;
	head[9] = 0;
	head[10] = (uint8_t)kind, head[11] = (uint8_t)(kind >> 8);
	ms_put_le64(head + 12, ms_artefact_block_crc(w->header_crc, w->offset, head, stored, stored_len));
	if (!(rc = emit(w, head, sizeof head, err)))
		rc = emit(w, stored, stored_len, err);
	return rc;
}

enum ms_code ms_artefact_block(struct ms_artefact_writer *w, uint16_t kind, const uint8_t *raw, size_t len, bool try_zstd,
			       struct ms_err *err) {
	if (w->state != BLOCKS)
		return out_of_order(w, err);
	if (!len || len > MS_BLOCK_MAX || kind == MS_BLOCK_INDEX) {
		w->state = FAILED;
		return ms_err_set(err, MS_EINVAL, "%s writer: block of kind %u with %zu bytes", ms_artefact_kind_name(w->kind), kind, len);
	}
	return write_block(w, kind, raw, len, try_zstd, err);
}

enum ms_code ms_artefact_end(struct ms_artefact_writer *w, const uint8_t *index, size_t index_len, struct ms_err *err) {
	if (w->state != BLOCKS)
		return out_of_order(w, err);
	uint64_t start = w->offset;
	for (size_t at = 0; at < index_len;) {
		size_t n = index_len - at < MS_BLOCK_MAX ? index_len - at : MS_BLOCK_MAX;
		enum ms_code rc = write_block(w, MS_BLOCK_INDEX, index + at, n, true, err);
		if (rc)
			return rc;
		at += n;
	}
	if (w->offset - start > UINT32_MAX) {
		w->state = FAILED;
		return ms_err_set(err, MS_ETOOBIG, "%s writer: index of %zu bytes", ms_artefact_kind_name(w->kind), index_len);
	}
	uint8_t trailer[MS_TRAILER_LEN];
	ms_artefact_trailer_put(trailer, &(struct ms_artefact_trailer){
						 .kind = w->kind,
						 .header_end = w->header_end,
						 .index_stored = (uint32_t)(w->offset - start),
						 .total_len = w->offset + MS_TRAILER_LEN,
						 .header_crc = w->header_crc,
					 });
	enum ms_code rc = emit(w, trailer, sizeof trailer, err);
	if (!rc)
		w->state = ENDED;
	return rc;
}
