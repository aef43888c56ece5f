#include "core/stream_purge.h"

struct files {
	uint64_t need, cap; /* in: keep from this sequence on; at most this many bytes */
	uint64_t first;	    /* sequence of the oldest file */
	uint64_t boundary, before; /* what lies before this file may go, or has to; the file before it */
	uint64_t left, held; /* bytes from the file that is looked at, and from the boundary, to the end */
};

static void count_file(void *arg, const char *name, uint64_t first, uint64_t last, uint64_t bytes, bool active) {
	struct files *f = arg;
	(void)name, (void)last, (void)active;
	if (!f->first) {
		f->first = f->boundary = f->before = first;
	} else if (first <= f->need || f->held > f->cap) {
		f->before = f->boundary;
		f->boundary = first;
		f->held = f->left;
	}
	f->left -= bytes < f->left ? bytes : f->left;
}

static uint64_t let_go(struct ms_stream *const *streams, unsigned n, uint64_t before) {
	uint64_t keep = UINT64_MAX;
	for (unsigned i = 0; i < n; i++) {
		uint64_t k = ms_stream_let_go(streams[i], before);
		keep = k < keep ? k : keep;
	}
	return keep;
}

bool ms_streams_purge_pressed(struct ms_journal *j, uint64_t max_bytes) {
	struct ms_journal_stats st;
	ms_journal_get_stats(j, &st);
	return max_bytes && st.total_bytes > max_bytes / 2;
}

enum ms_code ms_streams_purge(struct ms_journal *j, struct ms_stream *const *streams, unsigned n, uint64_t max_bytes, struct ms_err *err) {
	struct ms_journal_stats st;
	uint64_t files, bytes, keep = let_go(streams, n, 0);
	ms_journal_get_stats(j, &st);
	if (keep < st.next_seq) {
		struct files f = {.need = UINT64_MAX, .cap = max_bytes ? max_bytes / 2 : UINT64_MAX, .left = st.total_bytes, .held = st.total_bytes};
		for (unsigned i = 0; i < n; i++) {
			uint64_t k = ms_stream_needs_seq(streams[i]);
			f.need = k < f.need ? k : f.need;
		}
		ms_journal_list(j, count_file, &f);
		keep = let_go(streams, n, st.total_bytes > f.cap ? f.boundary : f.before);
	}
	return keep ? ms_journal_purge(j, keep, &files, &bytes, err) : MS_OK;
}
