/* One look at a daemon, as its status, metrics and health pages see it. Everything is borrowed. */
#ifndef MS_CMD_STATUS_VIEW_H
#define MS_CMD_STATUS_VIEW_H

#include "cmd/control_server.h"

struct ms_status_view {
	const struct ms_daemon_info *info; /* NULL: no daemon runs */
	const struct ms_stream_status *streams;
	unsigned n;
	const int64_t *thresholds_us;	    /* of each stream; NULL: none */
	const struct ms_journal_stats *journal; /* NULL: unknown */
	int64_t now_us;
};

/* Seconds since the oldest commit that this replica does not hold; 0 when it holds everything. */
static inline double ms_worker_lag(const struct ms_worker_status *w, int64_t now_us) {
	return w->oldest_unshipped_us > 0 && now_us > w->oldest_unshipped_us ? (double)(now_us - w->oldest_unshipped_us) / 1e6 : 0;
}

#endif
