/* A made-up daemon's state for the tests of its pages: two databases, one of them in trouble. */
#ifndef MS_TESTS_FAKE_STATUS_H
#define MS_TESTS_FAKE_STATUS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cmd/status_view.h"

#define FAKE_NOW_US INT64_C(1800000000000000) /* 2027-01-15T08:00:00Z */

static inline void fake_worker(struct ms_worker_status *w, const char *name, enum ms_worker_state state, uint64_t txid) {
	memset(w, 0, sizeof *w);
	snprintf(w->name, sizeof w->name, "%s", name);
	snprintf(w->type, sizeof w->type, "file");
	snprintf(w->url, sizeof w->url, "file:///%s", name);
	w->state = state;
	w->required = true;
	w->txid = w->settled_txid = txid;
	w->cursor_time_us = FAKE_NOW_US - 60000000;
	w->last_uploaded_us = FAKE_NOW_US - 500000;
	w->puts = 17, w->put_bytes = 4096, w->put_us_total = 2500000;
}

/* The caller releases each and frees the array. */
static inline struct ms_stream_status *fake_streams(unsigned *ret_n) {
	struct ms_stream_status *s = calloc(2, sizeof *s);
	snprintf(s[0].name, sizeof s[0].name, "app.db");
	snprintf(s[0].path, sizeof s[0].path, "/srv/app.db");
	s[0].state = MS_STREAM_FOLLOWING;
	strcpy(s[0].generation.s, "00000001-89abcdef");
	s[0].db = (struct ms_dbstate){.txid = 42, .time_us = FAKE_NOW_US - 1500000, .checksum = 0x0123456789abcdef, .page_size = 4096, .db_pages = 10};
	s[0].journalled_txid = 42;
	s[0].wal_bytes = 8192, s[0].commits = 41, s[0].frames = 100, s[0].deltas = 80, s[0].fulls = 19, s[0].stored = 1;
	s[0].last_commit_us = FAKE_NOW_US - 1500000;
	s[0].nworkers = 2;
	s[0].workers = calloc(2, sizeof *s[0].workers);
	fake_worker(&s[0].workers[0], "file", MS_WORKER_IDLE, 42);
	fake_worker(&s[0].workers[1], "slow", MS_WORKER_RETRYING, 40);
	s[0].workers[1].oldest_unshipped_us = FAKE_NOW_US - 12500000;
	s[0].workers[1].pending_bytes = 777;
	strcpy(s[0].workers[1].last_error, "put \"x\": no\nroute");
	s[0].workers[1].last_error_us = FAKE_NOW_US - 1000000;
	snprintf(s[1].name, sizeof s[1].name, "other");
	snprintf(s[1].path, sizeof s[1].path, "/srv/other.db");
	s[1].state = MS_STREAM_WAITING;
	strcpy(s[1].why, "not in WAL mode: run PRAGMA journal_mode=WAL");
	*ret_n = 2;
	return s;
}

static inline void fake_release(struct ms_stream_status *s, unsigned n) {
	for (unsigned i = 0; i < n; i++)
		ms_stream_status_release(&s[i]);
	free(s);
}

#endif
