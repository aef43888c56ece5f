#include <inttypes.h>
#include <stdlib.h>

#include "core/cbor.h"
#include "core/snapshot.h"
#include "core/snapshot_internal.h"

enum { C_FIRST = 1, C_PAGES, C_PAGE_SIZE, C_HASH, C_PATCH };

static enum ms_code encode(uint32_t first_page, const uint32_t *pgno, uint32_t count, uint32_t page_size, const uint8_t *pages, uint64_t hash,
			   int compression, struct ms_buf *out, struct ms_err *err) {
	const uint64_t fields[] = {C_FIRST, first_page, C_PAGES, count, C_PAGE_SIZE, page_size, C_HASH, hash};
	struct ms_buf header;
	ms_buf_init(&header, 256);
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_CHUNK, compression, out);
	enum ms_code rc = w ? ms_cbor_put_map(&header, pgno ? 5 : 4, err) : ms_err_set(err, MS_ENOMEM, "no memory for a chunk");
	for (size_t i = 0; i < sizeof fields / sizeof fields[0] && !rc; i++)
		rc = ms_cbor_put_uint(&header, fields[i], err);
	if (!rc && pgno && !(rc = ms_cbor_put_uint(&header, C_PATCH, err)))
		rc = ms_cbor_put_bool(&header, true, err);
	if (!rc && !(rc = ms_artefact_begin(w, header.data, header.len, err)) &&
	    !(rc = pgno ? ms_patches_write(w, page_size, pgno, pages, count, err) : ms_pages_write(w, count, page_size, pages, err)))
		rc = ms_artefact_end(w, NULL, 0, err);
	ms_artefact_writer_free(w);
	ms_buf_release(&header);
	return rc;
}

enum ms_code ms_chunk_encode_patch(const uint32_t *pgno, uint32_t count, uint32_t page_size, const uint8_t *pages, int compression, struct ms_buf *out,
				   uint64_t *ret_hash, struct ms_err *err) {
	uint64_t sum = 0;
	bool ok = count && ms_page_size_valid(page_size) && count <= MS_CHUNK_BYTES_MAX / page_size && pgno[0];
	for (uint32_t i = 0; i < count && ok; i++) {
		ok = !i || pgno[i] > pgno[i - 1];
		sum += ms_pages_sum(pgno[i], 1, page_size, pages + (size_t)i * page_size);
	}
	if (!ok)
		return ms_err_set(err, MS_EINVAL, "patch chunk of %" PRIu32 " pages of %" PRIu32 " bytes, or out of order", count, page_size);
	enum ms_code rc = encode(pgno[0], pgno, count, page_size, pages, ~sum, compression, out, err);
	if (!rc)
		*ret_hash = ~sum;
	return rc;
}

enum ms_code ms_chunk_encode(uint32_t first_page, uint32_t count, uint32_t page_size, const uint8_t *pages, int compression,
			     struct ms_buf *out, uint64_t *ret_hash, struct ms_err *err) {
	if (!first_page || !count || !ms_page_size_valid(page_size) || count - 1 > UINT32_MAX - first_page ||
	    count > MS_CHUNK_BYTES_MAX / page_size)
		return ms_err_set(err, MS_EINVAL, "chunk of %" PRIu32 " pages of %" PRIu32 " bytes from page %" PRIu32, count, page_size,
				  first_page);
	uint64_t hash = ms_pages_sum(first_page, count, page_size, pages);
	enum ms_code rc = encode(first_page, NULL, count, page_size, pages, hash, compression, out, err);
	if (!rc)
		*ret_hash = hash;
	return rc;
}

struct ms_chunk_reader {
	struct ms_artefact_reader *art;
	struct ms_chunk_ref expect;
	uint32_t page_size;
	struct ms_page_sink sink;
	uint32_t seen; /* pages */
	uint32_t last; /* of a patch chunk: its page that came last */
	uint64_t hash;
};

static enum ms_code on_header(void *arg, const uint8_t *cbor, size_t len, struct ms_err *err) {
	struct ms_chunk_reader *r = arg;
	struct ms_cbor_doc d;
	enum ms_code rc = ms_cbor_parse(cbor, len, &d, err);
	if (rc)
		return rc;
	uint64_t first, pages, page_size, hash;
	if (!(rc = ms_cbor_get_uint(&d, C_FIRST, &first, err)) && !(rc = ms_cbor_get_uint(&d, C_PAGES, &pages, err)) &&
	    !(rc = ms_cbor_get_uint(&d, C_PAGE_SIZE, &page_size, err)) && !(rc = ms_cbor_get_uint(&d, C_HASH, &hash, err)) &&
	    (first != r->expect.first_page || pages != r->expect.pages || page_size != r->page_size || hash != r->expect.hash))
		rc = ms_err_set(err, MS_ECORRUPT,
				"chunk: holds %" PRIu64 " pages of %" PRIu64 " bytes from page %" PRIu64 ", content %016" PRIx64
				", where the manifest names %" PRIu32 " of %" PRIu32 " from %" PRIu32 ", content %016" PRIx64,
				pages, page_size, first, hash, r->expect.pages, r->page_size, r->expect.first_page, r->expect.hash);
	const struct ms_cbor_item *patch = rc ? NULL : ms_cbor_get(&d, 0, C_PATCH);
	if (!rc && (patch && (patch->type != MS_CBOR_BOOL || patch->u)) != r->expect.patch)
		rc = ms_err_set(err, MS_ECORRUPT, "chunk: any pages where the manifest names a run of them, or the other way round");
	ms_cbor_doc_release(&d);
	return rc;
}

static enum ms_code on_patches(struct ms_chunk_reader *r, const uint8_t *raw, size_t len, struct ms_err *err) {
	const size_t one = 4 + (size_t)r->page_size;
	if (len % one || len / one > r->expect.pages - r->seen)
		return ms_err_set(err, MS_ECORRUPT, "chunk: more than its pages, or a piece of one");
	for (; len; raw += one, len -= one) {
		uint32_t pgno = ms_get_le32(raw);
		if (r->seen ? pgno <= r->last : pgno != r->expect.first_page)
			return ms_err_set(err, MS_ECORRUPT, "chunk: page %" PRIu32 " after page %" PRIu32, pgno, r->last);
		r->hash += ms_pages_sum(pgno, 1, r->page_size, raw + 4);
		r->last = pgno;
		r->seen++;
		enum ms_code rc = r->sink.pages ? r->sink.pages(r->sink.arg, pgno, 1, r->page_size, raw + 4, err) : MS_OK;
		if (rc)
			return rc;
	}
	return MS_OK;
}

static enum ms_code on_block(void *arg, uint16_t kind, const uint8_t *raw, size_t len, struct ms_err *err) {
	struct ms_chunk_reader *r = arg;
	if (kind == MS_BLOCK_PATCHES && r->expect.patch)
		return on_patches(r, raw, len, err);
	if (kind != MS_BLOCK_PAGES || r->expect.patch)
		return ms_err_set(err, MS_EUNSUPPORTED, "chunk: block of kind %u", kind);
	uint32_t n = (uint32_t)(len / r->page_size);
	if (len % r->page_size || n > r->expect.pages - r->seen)
		return ms_err_set(err, MS_ECORRUPT, "chunk: more than its pages, or a piece of one");
	uint32_t first = r->expect.first_page + r->seen;
	r->hash += ms_pages_sum(first, n, r->page_size, raw);
	r->seen += n;
	return r->sink.pages ? r->sink.pages(r->sink.arg, first, n, r->page_size, raw, err) : MS_OK;
}

struct ms_chunk_reader *ms_chunk_reader_new(const struct ms_chunk_ref *expect, uint32_t page_size, const struct ms_page_sink *sink) {
	struct ms_chunk_reader *r = ms_page_size_valid(page_size) ? calloc(1, sizeof *r) : NULL;
	if (!r)
		return NULL;
	r->expect = *expect, r->page_size = page_size;
	if (sink)
		r->sink = *sink;
	static const struct ms_artefact_callbacks cb = {.header = on_header, .block = on_block};
	if (!(r->art = ms_artefact_reader_new(MS_ART_CHUNK, &cb, r))) {
		free(r);
		return NULL;
	}
	return r;
}

void ms_chunk_reader_free(struct ms_chunk_reader *r) {
	if (!r)
		return;
	ms_artefact_reader_free(r->art);
	free(r);
}

enum ms_code ms_chunk_push(struct ms_chunk_reader *r, const void *data, size_t len, struct ms_err *err) {
	return ms_artefact_push(r->art, data, len, err);
}

enum ms_code ms_chunk_finish(struct ms_chunk_reader *r, struct ms_err *err) {
	enum ms_code rc = ms_artefact_finish(r->art, err);
	if (rc)
		return rc;
	if (r->seen != r->expect.pages)
		return ms_err_set(err, MS_ECORRUPT, "chunk: %" PRIu32 " pages instead of %" PRIu32, r->seen, r->expect.pages);
	uint64_t hash = r->expect.patch ? ~r->hash : r->hash;
	if (hash != r->expect.hash)
		return ms_err_set(err, MS_ECORRUPT, "chunk: content %016" PRIx64 " instead of %016" PRIx64, hash, r->expect.hash);
	uint64_t bytes = ms_artefact_reader_offset(r->art);
	if (r->expect.bytes && bytes != r->expect.bytes)
		return ms_err_set(err, MS_ECORRUPT, "chunk: %" PRIu64 " bytes where the manifest names %" PRIu64, bytes, r->expect.bytes);
	return MS_OK;
}
