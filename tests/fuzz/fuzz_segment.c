#include "core/segment.h"
#include "core/segment_index.h"
#include "fuzz/wrap.h"

static enum ms_code on_info(void *arg, const struct ms_segment_info *i, struct ms_err *err) {
	(void)arg, (void)err;
	struct ms_buf b;
	struct ms_segment_info again;
	ms_buf_init(&b, 4096);
	REQUIRE(!ms_segment_info_encode(i, &b, NULL) && !ms_segment_info_parse(b.data, b.len, &again, NULL));
	REQUIRE(again.first_txid == i->first_txid && again.last_txid == i->last_txid && again.parent_txid == i->parent_txid &&
		again.epoch == i->epoch && again.frames == i->frames && again.more == i->more);
	ms_buf_release(&b);
	return MS_OK;
}
static enum ms_code on_record(void *arg, const struct ms_record *r, struct ms_err *err) {
	(void)err;
	*(uint64_t *)arg += r->type == MS_REC_COMMIT ? r->commit.txid : r->page.data[r->page.len - 1];
	return MS_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static const struct ms_segment_callbacks cb = {on_info, on_record};
	struct ms_buf b;
	ms_buf_init(&b, 8 << 20);
	if (wrap(MS_ART_SEGMENT, data, size, &b)) {
		uint64_t seen = 0;
		size_t piece = piece_size(data, size);
		struct ms_segment_reader *r = ms_segment_reader_new(&cb, &seen);
		enum ms_code rc = MS_OK;
		for (size_t at = 0; at < b.len && !rc; at += piece)
			rc = ms_segment_push(r, b.data + at, b.len - at < piece ? b.len - at : piece, NULL);
		if (!rc)
			rc = ms_segment_finish(r, NULL);
		ms_segment_reader_free(r);
	}
	ms_buf_release(&b);
	struct ms_index_entry e;
	(void)!ms_index_find(data, size, 5, 100, size ? data[0] : 1, &e, NULL);
	return 0;
}
