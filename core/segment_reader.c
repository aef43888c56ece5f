/* Segment reader: container, then record syntax, then the agreement with the header. */
#include <stdlib.h>

#include "core/segment.h"
#include "core/segment_internal.h"

struct ms_segment_reader {
	struct ms_artefact_reader *art;
	struct ms_segment_callbacks cb;
	void *arg;
	struct ms_segment_info info;
	struct ms_segment_check check;
};

static enum ms_code on_header(void *arg, const uint8_t *cbor, size_t len, struct ms_err *err) {
	struct ms_segment_reader *r = arg;
	enum ms_code rc = ms_segment_info_parse(cbor, len, &r->info, err);
	return rc || !r->cb.info ? rc : r->cb.info(r->arg, &r->info, err);
}

static enum ms_code on_block(void *arg, uint16_t kind, const uint8_t *raw, size_t len, struct ms_err *err) {
	struct ms_segment_reader *r = arg;
	if (kind != MS_BLOCK_RECORDS)
		return ms_err_set(err, MS_EUNSUPPORTED, "segment: block of kind %u", kind);
	while (len) {
		struct ms_record rec;
		size_t used;
		enum ms_code rc = ms_record_parse(raw, len, &rec, &used, err);
		if (!rc)
			rc = ms_segment_check_record(&r->check, &rec, MS_ECORRUPT, err);
		if (!rc && r->cb.record)
			rc = r->cb.record(r->arg, &rec, err);
		if (rc)
			return rc;
		raw += used, len -= used;
	}
	return MS_OK;
}

struct ms_segment_reader *ms_segment_reader_new(const struct ms_segment_callbacks *cb, void *arg) {
	struct ms_segment_reader *r = calloc(1, sizeof *r);
	if (!r)
		return NULL;
	r->cb = *cb, r->arg = arg, r->check.info = &r->info;
	static const struct ms_artefact_callbacks art = {.header = on_header, .block = on_block};
	if (!(r->art = ms_artefact_reader_new(MS_ART_SEGMENT, &art, r))) {
		free(r);
		return NULL;
	}
	return r;
}

void ms_segment_reader_free(struct ms_segment_reader *r) {
	if (!r)
		return;
	ms_artefact_reader_free(r->art);
	free(r);
}

enum ms_code ms_segment_push(struct ms_segment_reader *r, const void *data, size_t len, struct ms_err *err) {
	return ms_artefact_push(r->art, data, len, err);
}

enum ms_code ms_segment_finish(struct ms_segment_reader *r, struct ms_err *err) {
	enum ms_code rc = ms_artefact_finish(r->art, err);
	return rc ? rc : ms_segment_check_end(&r->check, MS_ECORRUPT, err);
}
