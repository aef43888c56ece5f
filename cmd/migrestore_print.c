#include "cmd/migrestore.h"

#include <string.h>

#include "base/timefmt.h"

#define BAR 24
#define RATE_AFTER_US 500000u

typedef unsigned long long ull;

const char *ms_restore_verify_name(enum ms_restore_verify v) {
	static const char *const names[] = {"none", "checksum", "quick", "full"};
	return names[v];
}

/* ---- progress ---- */

void ms_progress_show(void *line, const struct ms_restore_progress *p) {
	struct ms_progress_line *l = line;
	char done[32], rate[32] = "", left[32] = "", bar[BAR + 1];
	if (strcmp(l->phase, p->phase) != 0 || l->total_bytes != p->total_bytes) {
		snprintf(l->phase, sizeof l->phase, "%s", p->phase);
		l->total_bytes = p->total_bytes;
		l->phase_began_us = p->elapsed_us;
	}
	uint64_t us = p->elapsed_us - l->phase_began_us, bytes = p->done_bytes;
	if (p->total_bytes && bytes > p->total_bytes)
		bytes = p->total_bytes;
	double per_s = us >= RATE_AFTER_US ? (double)bytes * 1e6 / (double)us : 0;
	if (per_s >= 1) {
		char size[32];
		snprintf(rate, sizeof rate, "%.20s/s", ms_size_format(size, (uint64_t)per_s));
	}
	l->shown = true;
	if (!p->total_bytes) {
		fprintf(l->out, "\r\033[K%-10s %s %s", p->phase, bytes ? ms_size_format(done, bytes) : "", rate);
		fflush(l->out);
		return;
	}
	if (per_s >= 1) {
		uint64_t s = (uint64_t)((double)(p->total_bytes - bytes) / per_s + 0.999);
		snprintf(left, sizeof left, s >= 3600 ? "%llu:%02u:%02u left" : "%llu:%02u left", s >= 3600 ? (ull)s / 3600 : (ull)s / 60,
			 (unsigned)(s >= 3600 ? s / 60 % 60 : s % 60), (unsigned)(s % 60));
	}
	unsigned n = (unsigned)((double)bytes / (double)p->total_bytes * BAR);
	memset(bar, ' ', BAR);
	memset(bar, '=', n < BAR ? n : BAR);
	bar[BAR] = '\0';
	fprintf(l->out, "\r\033[K%-10s [%s] %3u%%  %s  %s  %s", p->phase, bar, (unsigned)((double)bytes * 100 / (double)p->total_bytes),
		ms_size_format(done, bytes), rate, left);
	fflush(l->out);
}

void ms_progress_end(struct ms_progress_line *l) {
	if (l->shown) {
		fputs("\r\033[K", l->out);
		fflush(l->out);
	}
	l->shown = false;
}

/* ---- words ---- */

static const char *when(char ret[32], int64_t us) { return us ? ms_time_format(ret, us) : "time not known before it is read"; }

void ms_restore_print_plan(const struct ms_restore_sources *s, const struct ms_restore_result *r, FILE *out) {
	char t[32], size[32], size2[32];
	fprintf(out, "would restore txid %llu of generation %s (%s)\n", (ull)r->position.txid, r->position.generation.s, when(t, r->time_us));
	fprintf(out, "  snapshot  txid %llu (%s): %s in %llu objects, %s of %s\n", (ull)r->snapshot_txid, ms_time_format(t, r->snapshot_us),
		ms_size_format(size, r->snapshot_bytes), (ull)r->snapshot_objects, r->snapshot_name, s->urls[r->snapshot_replica]);
	if (r->segment_objects)
		fprintf(out, "  segments  txid %llu to %llu: %s in %llu objects\n", (ull)r->segments_from, (ull)r->segments_to,
			ms_size_format(size, r->segment_bytes), (ull)r->segment_objects);
	if (r->journal_txids)
		fprintf(out, "  journal   %llu transactions that are on no replica yet\n", (ull)r->journal_txids);
	fprintf(out, "  to fetch  %s (%llu bytes); database at the snapshot %s (%u pages of %u)\n",
		ms_size_format(size, r->snapshot_bytes + r->segment_bytes), (ull)(r->snapshot_bytes + r->segment_bytes),
		ms_size_format(size2, (uint64_t)r->page_size * r->db_pages), r->db_pages, r->page_size);
	if (r->gap_txid)
		fprintf(out, "  stops before a gap: txid %llu is missing\n", (ull)r->gap_txid);
}

void ms_restore_print_done(const struct ms_restore_options *o, const struct ms_restore_result *r, FILE *out) {
	char t[32], size[32], size2[32], size3[32];
	double s = (double)r->elapsed_us / 1e6;
	uint64_t bytes = (uint64_t)r->page_size * r->db_pages;
	if (r->existed) {
		fprintf(out, "%s exists: nothing to do\n", o->path);
		return;
	}
	fprintf(out, "restored %s: txid %llu of generation %s (%s)\n", o->path, (ull)r->position.txid, r->position.generation.s, when(t, r->time_us));
	fprintf(out, "%s in %.1f s (%s/s, %s read), database checksum %016llx %s\n", ms_size_format(size, bytes), s,
		ms_size_format(size2, s > 0 ? (uint64_t)((double)bytes / s) : bytes), ms_size_format(size3, r->fetched_bytes), (ull)r->checksum,
		o->verify == MS_VERIFY_NONE ? "(file not read back)" : o->verify == MS_VERIFY_CHECKSUM ? "proven"
			: o->verify == MS_VERIFY_QUICK ? "proven, quick_check ok" : "proven, integrity_check ok");
	if (r->gap_txid)
		fprintf(out, "stopped before a gap: txid %llu is missing\n", (ull)r->gap_txid);
}

/* ---- JSON ---- */

static json_t *time_json(int64_t us) {
	char t[32];
	return us ? json_string(ms_time_format(t, us)) : json_null();
}

json_t *ms_restore_json(const struct ms_restore_sources *s, const struct ms_restore_options *o, const struct ms_restore_result *r) {
	char sum[17];
	if (r->existed)
		return json_pack("{s:s,s:b}", "path", o->path, "existed", 1);
	snprintf(sum, sizeof sum, "%016llx", (ull)r->checksum);
	json_t *segments = r->segment_objects ? json_pack("{s:I,s:I,s:I,s:I}", "firstTxid", (json_int_t)r->segments_from, "lastTxid",
							   (json_int_t)r->segments_to, "bytes", (json_int_t)r->segment_bytes, "objects",
							   (json_int_t)r->segment_objects)
					      : json_null();
	json_t *plan = json_pack("{s:{s:I,s:o,s:I,s:I,s:s,s:s},s:o,s:I,s:I}", "snapshot", "txid", (json_int_t)r->snapshot_txid, "time",
				 time_json(r->snapshot_us), "bytes", (json_int_t)r->snapshot_bytes, "objects", (json_int_t)r->snapshot_objects, "name",
				 r->snapshot_name, "replica", s->urls[r->snapshot_replica], "segments", segments, "journalTxids",
				 (json_int_t)r->journal_txids, "bytes", (json_int_t)(r->snapshot_bytes + r->segment_bytes));
	json_t *out = json_pack("{s:s?,s:b,s:b,s:s,s:I,s:o,s:o,s:I,s:o,s:o}", "path", o->path, "existed", 0, "dryRun", o->dry_run ? 1 : 0, "generation",
				r->position.generation.s, "txid", (json_int_t)r->position.txid, "time", time_json(r->time_us), "gapTxid",
				r->gap_txid ? json_integer((json_int_t)r->gap_txid) : json_null(), "pageSize", (json_int_t)r->page_size, "plan", plan,
				"warning", r->warning[0] ? json_string(r->warning) : json_null());
	if (out && !o->dry_run) {
		json_t *more = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:f,s:s}", "checksum", sum, "pages", (json_int_t)r->db_pages, "bytes",
					 (json_int_t)r->db_pages * r->page_size, "fetchedBytes", (json_int_t)r->fetched_bytes, "commits",
					 (json_int_t)r->commits, "pageRecords", (json_int_t)r->pages, "seconds", (double)r->elapsed_us / 1e6, "verified",
					 ms_restore_verify_name(o->verify));
		if (!more || json_object_update_missing(out, more)) {
			json_decref(more);
			json_decref(out);
			return NULL;
		}
		json_decref(more);
	}
	return out;
}
