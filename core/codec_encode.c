/*
 * Page encoder. Happy path: the few bytes in which the page differs from its previous version, as a patch. Where they are many, compress
 * the page with its previous version as prefix; only when that saves little is the page also
 * tried on its own, and the smallest of delta, full and stored is written.
 *
 * The parameters are sized for one page and its prefix: libzstd would otherwise choose tables for megabytes, whose upkeep costs more
 * than the compression of a page.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include "core/codec.h"

#include <stdlib.h>
#include <zstd.h>

#include "core/patch.h"

/* A delta below this share of the page is taken without trying the page alone: it has the same matches and more, so the page alone is
 * smaller by a few bytes at best, and costs several times the time. */
#define DELTA_GOOD_SHARE 4u
/* A patch up to this share of the page is taken without trying zstd. */
#define PATCH_SHARE 8u
#define PATCH_SHARE_HURRY 2u
/* type, page number, hash, length */
#define PAGE_HEADER_MAX (1 + 5 + 8 + 3)

struct ms_page_encoder {
	ZSTD_CCtx *cctx;
	int level;
	bool none, hurry;
	uint32_t page_size; /* that cctx is set up for, 0 none yet */
	uint8_t *scratch[2]; /* [0] delta, [1] full */
	size_t scratch_cap;
};

struct ms_page_encoder *ms_page_encoder_new(int level, bool codec_none) {
	struct ms_page_encoder *e = calloc(1, sizeof *e);
	if (!e)
		return NULL;
	e->level = level ? level : 1;
	e->none = codec_none;
	if (!codec_none && !(e->cctx = ZSTD_createCCtx())) {
		free(e);
		return NULL;
	}
	return e;
}

void ms_page_encoder_free(struct ms_page_encoder *e) {
	if (!e)
		return;
	ZSTD_freeCCtx(e->cctx);
	free(e->scratch[0]);
	free(e->scratch[1]);
	free(e);
}

void ms_page_encoder_hurry(struct ms_page_encoder *e, bool on) { e->hurry = on; }

static unsigned log2_of(uint32_t power_of_two) { return (unsigned)__builtin_ctz(power_of_two); }

static enum ms_code set_up(struct ms_page_encoder *e, uint32_t page_size, struct ms_err *err) {
	size_t cap = ZSTD_compressBound(page_size);
	for (int i = 0; i < 2; i++) {
		uint8_t *p = realloc(e->scratch[i], cap);
		if (!p)
			return ms_err_set(err, MS_ENOMEM, "page encoder: no memory for %zu bytes", cap);
		e->scratch[i] = p;
	}
	e->scratch_cap = cap;

	ZSTD_compressionParameters cp = ZSTD_getCParams(e->level, 2ull * page_size, page_size);
	unsigned span = log2_of(page_size) + 1; /* prefix and page */
	/* A window of one page cannot reach the prefix: deltas would silently become as large as full pages. */
	cp.windowLog = span < ZSTD_WINDOWLOG_MIN ? ZSTD_WINDOWLOG_MIN : span;
	if (cp.hashLog > span)
		cp.hashLog = span;
	if (cp.chainLog > span)
		cp.chainLog = span;
	const struct {
		ZSTD_cParameter name;
		int value;
	} params[] = {
		{ZSTD_c_format, ZSTD_f_zstd1_magicless}, {ZSTD_c_contentSizeFlag, 0},
		{ZSTD_c_checksumFlag, 0},		 {ZSTD_c_dictIDFlag, 0},
		{ZSTD_c_windowLog, (int)cp.windowLog},	 {ZSTD_c_hashLog, (int)cp.hashLog},
		{ZSTD_c_chainLog, (int)cp.chainLog},	 {ZSTD_c_searchLog, (int)cp.searchLog},
		{ZSTD_c_minMatch, (int)cp.minMatch},	 {ZSTD_c_targetLength, (int)cp.targetLength},
		{ZSTD_c_strategy, (int)cp.strategy},
	};
	size_t rc = ZSTD_CCtx_reset(e->cctx, ZSTD_reset_session_and_parameters);
	for (size_t i = 0; i < sizeof params / sizeof params[0] && !ZSTD_isError(rc); i++)
		rc = ZSTD_CCtx_setParameter(e->cctx, params[i].name, params[i].value);
	if (ZSTD_isError(rc))
		return ms_err_set(err, MS_EINVAL, "page encoder: zstd refuses level %d for pages of %u bytes: %s", e->level, page_size,
				  ZSTD_getErrorName(rc));
	e->page_size = page_size;
	return MS_OK;
}

static enum ms_code compress(struct ms_page_encoder *e, const uint8_t *page, const uint8_t *base, uint8_t *out, size_t *ret_len,
			     struct ms_err *err) {
	if (base) {
		size_t rc = ZSTD_CCtx_refPrefix(e->cctx, base, e->page_size); /* holds for one frame only */
		if (ZSTD_isError(rc))
			return ms_err_set(err, MS_ENOMEM, "page encoder: %s", ZSTD_getErrorName(rc));
	}
	size_t n = ZSTD_compress2(e->cctx, out, e->scratch_cap, page, e->page_size);
	if (ZSTD_isError(n))
		return ms_err_set(err, MS_ENOMEM, "page encoder: %s", ZSTD_getErrorName(n));
	*ret_len = n;
	return MS_OK;
}

enum ms_code ms_page_encode(struct ms_page_encoder *e, uint32_t pgno, const uint8_t *page, uint32_t page_size, const uint8_t *base,
			    uint64_t hash, struct ms_buf *out, enum ms_record_type *ret_type, struct ms_err *err) {
	if (!pgno || !ms_page_size_valid(page_size))
		return ms_err_set(err, MS_EINVAL, "page encoder: page %u of %u bytes", pgno, page_size);
	if (base && (uintptr_t)base < (uintptr_t)page + page_size && (uintptr_t)page < (uintptr_t)base + page_size)
		return ms_err_set(err, MS_EINVAL, "page encoder: page %u and its previous version share memory", pgno);

	enum ms_record_type type = MS_REC_STORED;
	const uint8_t *data = page;
	size_t len = page_size;
	if (!e->none) {
		enum ms_code rc = e->page_size == page_size ? MS_OK : set_up(e, page_size, err);
		if (rc)
			return rc;
		size_t n;
		if (base && (n = ms_patch_encode(page, base, page_size, e->scratch[0], page_size / (e->hurry ? PATCH_SHARE_HURRY : PATCH_SHARE)))) {
			type = MS_REC_PATCH, data = e->scratch[0], len = n;
		} else if (base && !e->hurry && !ms_page_is_zstd_dictionary(base)) {
			if ((rc = compress(e, page, base, e->scratch[0], &n, err)))
				return rc;
			if (n < len)
				type = MS_REC_DELTA, data = e->scratch[0], len = n;
		}
		if (type != MS_REC_PATCH && !e->hurry && (type != MS_REC_DELTA || len > page_size / DELTA_GOOD_SHARE)) {
			if ((rc = compress(e, page, NULL, e->scratch[1], &n, err)))
				return rc;
			/* A full page about as small as the delta is better: it ends the chain. */
			if (n < page_size && (type != MS_REC_DELTA || n <= len + len / 16))
				type = MS_REC_FULL, data = e->scratch[1], len = n;
		}
	}

	enum ms_code rc = ms_buf_reserve(out, PAGE_HEADER_MAX + len, err);
	if (rc)
		return rc;
	uint8_t *p = out->data + out->len;
	*p++ = (uint8_t)type;
	p += ms_varint_put(p, pgno);
	ms_put_le64(p, hash);
	p += 8;
	p += ms_varint_put(p, len);
	memcpy(p, data, len);
	out->len = (size_t)(p + len - out->data);
	*ret_type = type;
	return MS_OK;
}

size_t ms_page_encoder_memory(const struct ms_page_encoder *e) {
	return sizeof *e + (e->cctx ? ZSTD_sizeof_CCtx(e->cctx) : 0) + 2 * e->scratch_cap;
}
