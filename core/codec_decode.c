/*
 * Page decoder. A delta decoded against a wrong prefix yields bytes without an error from zstd, so the result's hash is what proves it.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include "core/codec.h"

#include <inttypes.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/hash.h"
#include "core/patch.h"
#include "core/zframe.h"

struct ms_page_decoder {
	ZSTD_DCtx *dctx;
};

struct ms_page_decoder *ms_page_decoder_new(void) {
	struct ms_page_decoder *d = calloc(1, sizeof *d);
	if (d && (!(d->dctx = ZSTD_createDCtx()) ||
		  ZSTD_isError(ZSTD_DCtx_setParameter(d->dctx, ZSTD_d_format, ZSTD_f_zstd1_magicless)))) {
		ms_page_decoder_free(d);
		return NULL;
	}
	return d;
}

void ms_page_decoder_free(struct ms_page_decoder *d) {
	if (!d)
		return;
	ZSTD_freeDCtx(d->dctx);
	free(d);
}

enum ms_code ms_page_decode(struct ms_page_decoder *d, enum ms_record_type type, const struct ms_page_record *r, uint32_t page_size,
			    const uint8_t *base, uint8_t *out, struct ms_err *err) {
	if (!ms_page_size_valid(page_size))
		return ms_err_set(err, MS_EINVAL, "page decoder: page size %u", page_size);
	switch (type) {
	case MS_REC_STORED:
		if (r->len != page_size)
			return ms_err_set(err, MS_ECORRUPT, "page %u: %zu bytes stored for a page of %u", r->pgno, r->len, page_size);
		memcpy(out, r->data, page_size);
		break;
	case MS_REC_PATCH:
		if (!base)
			return ms_err_set(err, MS_EINVAL, "page %u: a patch needs the page's previous version", r->pgno);
		if (!ms_patch_decode(r->data, r->len, base, page_size, out))
			return ms_err_set(err, MS_ECORRUPT, "page %u: malformed patch", r->pgno);
		break;
	case MS_REC_FULL:
	case MS_REC_DELTA: {
		if (type == MS_REC_FULL)
			base = NULL;
		else if (!base)
			return ms_err_set(err, MS_EINVAL, "page %u: a delta needs the page's previous version", r->pgno);
		/* libzstd takes a prefix with this magic for a dictionary; the encoder never writes such a delta. */
		if (base && ms_page_is_zstd_dictionary(base))
			return ms_err_set(err, MS_ECORRUPT, "page %u: delta against a page that starts like a zstd dictionary", r->pgno);
		if (!ms_zframe_single(r->data, r->len, (unsigned)__builtin_ctz(MS_PAGE_SIZE_MAX) + 1))
			return ms_err_set(err, MS_ECORRUPT, "page %u: not one zstd frame of this format", r->pgno);
		size_t n = ZSTD_decompress_usingDict(d->dctx, out, page_size, r->data, r->len, base, base ? page_size : 0);
		if (ZSTD_isError(n))
			return ms_err_set(err, MS_ECORRUPT, "page %u: zstd: %s", r->pgno, ZSTD_getErrorName(n));
		if (n != page_size)
			return ms_err_set(err, MS_ECORRUPT, "page %u: decodes to %zu bytes instead of %u", r->pgno, n, page_size);
		break;
	}
	default:
		return ms_err_set(err, MS_EINVAL, "page decoder: record type %d is no page", (int)type);
	}
	uint64_t hash = ms_page_hash(r->pgno, out, page_size);
	if (hash != r->hash)
		return ms_err_set(err, MS_ECORRUPT, "page %u: hash %016" PRIx64 " where its record says %016" PRIx64 "%s", r->pgno, hash,
				  r->hash, ms_record_needs_base(type) ? " (damaged, or decoded against another previous version)" : "");
	return MS_OK;
}
