#include "core/snapshot.h"
#include "fuzz/wrap.h"

static volatile uint8_t last_byte; /* touched, so that sanitizers see a page that is not all there */

static enum ms_code on_pages(void *arg, uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *p, struct ms_err *err) {
	(void)err;
	const struct ms_manifest *m = arg;
	REQUIRE(count && first && page_size == m->state.page_size && (uint64_t)first + count - 1 <= m->state.db_pages);
	last_byte = p[(size_t)count * page_size - 1];
	return MS_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_buf b;
	ms_buf_init(&b, 8 << 20);
	if (wrap(MS_ART_SNAPSHOT, data, size, &b)) {
		struct ms_manifest m;
		struct ms_page_sink sink = {on_pages, &m};
		size_t piece = piece_size(data, size);
		struct ms_manifest_reader *r = ms_manifest_reader_new(&m, data[0] & 2 ? NULL : &sink);
		enum ms_code rc = MS_OK;
		for (size_t at = 0; at < b.len && !rc; at += piece)
			rc = ms_manifest_push(r, b.data + at, b.len - at < piece ? b.len - at : piece, NULL);
		if (!rc)
			rc = ms_manifest_finish(r, NULL);
		uint64_t covered = 0;
		for (uint32_t i = 0; i < m.nchunks; i++) {
			REQUIRE(m.chunks[i].pages && m.chunks[i].first_page && (m.chunks[i].patch || m.chunks[i].first_page == covered + 1));
			REQUIRE(!i || m.chunks[i].patch || !m.chunks[i - 1].patch);
			covered += m.chunks[i].patch ? 0 : m.chunks[i].pages;
		}
		REQUIRE(covered <= m.state.db_pages);
		ms_manifest_reader_free(r);
		ms_manifest_release(&m);
	}
	ms_buf_release(&b);
	return 0;
}
