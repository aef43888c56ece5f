/* The agreement between a segment's header and its records, which writer and reader both hold it to. */
#ifndef MS_CORE_SEGMENT_INTERNAL_H
#define MS_CORE_SEGMENT_INTERNAL_H

#include "core/segment.h"

struct ms_segment_check {
	const struct ms_segment_info *info;
	uint64_t frames, commits;
	uint64_t open_frames; /* page records since the last commit */
	uint64_t last_txid;
	int64_t last_us;
	uint64_t checksum;
	uint32_t db_pages;
};
/* code: what a disagreement is (MS_EINVAL for the writer, MS_ECORRUPT for the reader). */
enum ms_code ms_segment_check_info(const struct ms_segment_info *info, enum ms_code code, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_segment_check_record(struct ms_segment_check *c, const struct ms_record *rec, enum ms_code code,
				     struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_segment_check_end(const struct ms_segment_check *c, enum ms_code code, struct ms_err *err) MS_WARN_UNUSED;

#endif
