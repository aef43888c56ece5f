#include <string.h>
#include "core/cbor.h"
#include "core/snapshot.h"
#include "fuzz/wrap.h"

static enum ms_code on_pages(void *arg, uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *p, struct ms_err *err) {
	(void)err;
	REQUIRE(count && first);
	*(uint64_t *)arg += p[(size_t)count * page_size - 1];
	return MS_OK;
}

/* The reference that the reader is given is taken from the header itself where it has one, so that the header is agreed with. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_buf b;
	ms_buf_init(&b, 8 << 20);
	if (wrap(MS_ART_CHUNK, data, size, &b)) {
		uint64_t seen = 0, first = 1, pages = 2, page_size = 512, hash = 0;
		bool patch = false;
		const uint8_t *cbor;
		size_t len, need, piece = piece_size(data, size);
		struct ms_cbor_doc d;
		if (!ms_artefact_peek(MS_ART_CHUNK, b.data, b.len, &cbor, &len, &need, NULL) && !ms_cbor_parse(cbor, len, &d, NULL)) {
			(void)!ms_cbor_get_uint_max(&d, 1, UINT32_MAX, &first, &first, NULL);
			(void)!ms_cbor_get_uint_max(&d, 2, UINT32_MAX, &pages, &pages, NULL);
			(void)!ms_cbor_get_uint_max(&d, 3, UINT32_MAX, &page_size, &page_size, NULL);
			(void)!ms_cbor_get_uint(&d, 4, &hash, NULL);
			const struct ms_cbor_item *item = ms_cbor_get(&d, 0, 5);
			patch = item && item->u;
			ms_cbor_doc_release(&d);
		}
		struct ms_page_sink sink = {on_pages, &seen};
		struct ms_chunk_ref ref = {.first_page = first ? (uint32_t)first : 1, .pages = (uint32_t)pages, .patch = patch, .hash = hash};
		struct ms_chunk_reader *r = ms_chunk_reader_new(&ref, (uint32_t)page_size, &sink);
		enum ms_code rc = r ? MS_OK : MS_EINVAL;
		for (size_t at = 0; at < b.len && !rc; at += piece)
			rc = ms_chunk_push(r, b.data + at, b.len - at < piece ? b.len - at : piece, NULL);
		if (!rc)
			rc = ms_chunk_finish(r, NULL);
		ms_chunk_reader_free(r);
	}
	ms_buf_release(&b);
	return 0;
}
