#include <string.h>
#include "fuzz/wrap.h"

static uint64_t total;
static enum ms_code on_header(void *arg, const uint8_t *p, size_t n, struct ms_err *err) {
	(void)arg, (void)err;
	total += n + p[n - 1];
	return MS_OK;
}
static enum ms_code on_block(void *arg, uint16_t kind, const uint8_t *p, size_t n, struct ms_err *err) {
	(void)arg, (void)err, (void)kind;
	REQUIRE(n && n <= MS_BLOCK_MAX);
	total += n + p[n - 1];
	return MS_OK;
}
static enum ms_code on_index(void *arg, const uint8_t *p, size_t n, struct ms_err *err) { return on_block(arg, 0, p, n, err); }

static enum ms_code read_all(const uint8_t *p, size_t n, size_t piece) {
	static const struct ms_artefact_callbacks cb = {on_header, on_block, on_index};
	struct ms_artefact_reader *r = ms_artefact_reader_new(MS_ART_SEGMENT, &cb, NULL);
	enum ms_code rc = MS_OK;
	for (size_t at = 0; at < n && !rc; at += piece)
		rc = ms_artefact_push(r, p + at, n - at < piece ? n - at : piece, NULL);
	if (!rc)
		rc = ms_artefact_finish(r, NULL);
	ms_artefact_reader_free(r);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_buf b, raw;
	ms_buf_init(&b, 8 << 20), ms_buf_init(&raw, MS_BLOCK_MAX);
	if (wrap(MS_ART_SEGMENT, data, size, &b)) {
		enum ms_code whole = read_all(b.data, b.len, b.len + 1), pieces = read_all(b.data, b.len, piece_size(data, size));
		REQUIRE(whole == pieces);
		REQUIRE(whole == MS_OK || !(data[0] & 1)); /* what the writer makes, the reader takes */
		const uint8_t *cbor;
		size_t len, need, used;
		uint16_t kind;
		struct ms_artefact_trailer t;
		(void)!ms_artefact_peek(MS_ART_SEGMENT, b.data, b.len, &cbor, &len, &need, NULL);
		if (b.len >= MS_TRAILER_LEN)
			(void)!ms_artefact_trailer_parse(b.data + b.len - MS_TRAILER_LEN, &t, NULL);
		(void)!ms_artefact_block_decode(1, 2, b.data, b.len, &raw, &kind, &used, NULL);
	}
	ms_buf_release(&b), ms_buf_release(&raw);
	return 0;
}
