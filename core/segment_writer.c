/* Segment writer: packs whole records into blocks and holds them to the header as they pass. */
#include <stdlib.h>

#include "core/segment.h"
#include "core/segment_index.h"
#include "core/segment_internal.h"

/* Records hold compressed pages already, but their headers and frames resemble each other: a run of OLTP deltas shrinks by a further ninth
 * for a twentieth of the time that encoding them took. A small block gains nothing and would pay for a zstd context. */
#define COMPRESS_MIN 4096u

struct ms_segment_writer {
	struct ms_segment_info info;
	struct ms_segment_check check;
	struct ms_artefact_writer *art;
	struct ms_index_builder *index;
	struct ms_buf block;
	unsigned nblocks;
	bool begun, failed;
};

struct ms_segment_writer *ms_segment_writer_new(const struct ms_segment_info *info, struct ms_buf *out) {
	struct ms_segment_writer *w = calloc(1, sizeof *w);
	if (!w)
		return NULL;
	w->info = *info;
	w->check.info = &w->info;
	ms_buf_init(&w->block, MS_BLOCK_MAX);
	w->art = ms_artefact_writer_new(MS_ART_SEGMENT, 1, out);
	w->index = ms_index_builder_new(info->first_txid, MS_SEGMENT_INDEX_MAX);
	if (!w->art || !w->index) {
		ms_segment_writer_free(w);
		return NULL;
	}
	return w;
}

void ms_segment_writer_free(struct ms_segment_writer *w) {
	if (!w)
		return;
	ms_artefact_writer_free(w->art);
	ms_index_builder_free(w->index);
	ms_buf_release(&w->block);
	free(w);
}

void ms_segment_writer_set_compression(struct ms_segment_writer *w, int compression) { ms_artefact_writer_set_compression(w->art, compression); }

static enum ms_code begin(struct ms_segment_writer *w, struct ms_err *err) {
	struct ms_buf header;
	ms_buf_init(&header, 4096);
	enum ms_code rc = ms_segment_info_encode(&w->info, &header, err);
	if (!rc)
		rc = ms_artefact_begin(w->art, header.data, header.len, err);
	ms_buf_release(&header);
	w->begun = true;
	return rc;
}

static enum ms_code flush(struct ms_segment_writer *w, struct ms_err *err) {
	if (!w->block.len)
		return MS_OK;
	uint64_t before = ms_artefact_offset(w->art);
	bool compress = w->block.len >= COMPRESS_MIN;
	enum ms_code rc = ms_artefact_block(w->art, MS_BLOCK_RECORDS, w->block.data, w->block.len, compress, err);
	ms_buf_clear(&w->block);
	w->nblocks++;
	if (!rc)
		rc = ms_index_block_done(w->index, (uint32_t)(ms_artefact_offset(w->art) - before) - MS_BLOCK_HEADER_LEN, err);
	return rc;
}

static enum ms_code write_record(struct ms_segment_writer *w, const uint8_t *p, size_t n, size_t *ret_used, struct ms_err *err) {
	struct ms_record rec;
	size_t used;
	enum ms_code rc = ms_record_parse(p, n, &rec, &used, err);
	if (rc)
		return rc == MS_ENOMEM ? rc : ms_err_set(err, MS_EINVAL, "segment writer: not given whole records");
	if ((rc = ms_segment_check_record(&w->check, &rec, MS_EINVAL, err)))
		return rc;
	if (used > MS_BLOCK_MAX - w->block.len && (rc = flush(w, err)))
		return rc;
	if (rec.type == MS_REC_COMMIT)
		rc = ms_index_commit(w->index, rec.commit.txid, err);
	else
		rc = ms_index_add(w->index, rec.page.pgno, (uint32_t)w->block.len, err);
	if (!rc)
		rc = ms_buf_append(&w->block, p, used, err);
	*ret_used = used;
	return rc;
}

enum ms_code ms_segment_write(struct ms_segment_writer *w, const uint8_t *records, size_t len, struct ms_err *err) {
	if (w->failed)
		return ms_err_set(err, MS_EINVAL, "segment writer: called after a failure or the end");
	enum ms_code rc = w->begun ? MS_OK : begin(w, err);
	while (len && !rc) {
		size_t used = 0;
		rc = write_record(w, records, len, &used, err);
		records += used, len -= used;
	}
	w->failed = rc != MS_OK;
	return rc;
}

enum ms_code ms_segment_end(struct ms_segment_writer *w, struct ms_err *err) {
	if (w->failed)
		return ms_err_set(err, MS_EINVAL, "segment writer: called after a failure or the end");
	w->failed = true; /* nothing may follow */
	enum ms_code rc = w->begun ? MS_OK : begin(w, err);
	if (rc || (rc = ms_segment_check_end(&w->check, MS_EINVAL, err)) || (rc = flush(w, err)))
		return rc;
	struct ms_buf index;
	ms_buf_init(&index, 64u << 20);
	/* A single block is fetched whole in any case; an index would only make small segments larger. */
	if (w->nblocks > 1)
		rc = ms_index_encode(w->index, w->info.last_txid, &index, err);
	if (!rc)
		rc = ms_artefact_end(w->art, index.data, index.len, err);
	ms_buf_release(&index);
	return rc;
}
