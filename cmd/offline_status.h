/* What a shadow directory tells while no daemon has it open: read only, nothing is created or repaired. */
#ifndef MS_CMD_OFFLINE_STATUS_H
#define MS_CMD_OFFLINE_STATUS_H

#include "config/config.h"
#include "core/journal.h"
#include "core/status.h"

/*
 * The databases of the config in its order, with their configured replicas; without a config, what lies in the directory in the order of
 * the names (path, type and URL are then unknown: empty). State is MS_STREAM_STOPPED, `why` says what could not be read. Position: page sums'
 * mark and the journal behind it; replicas: their cursor files, and what the journal holds behind them. last_uploaded_us is the time of the cursor
 * file. Journal: files and sequences only, no counters of a run.
 *
 * A missing directory is MS_OK with nothing in it. Statuses are the caller's (release each, free the array). Blocking; reads the whole journal.
 */
enum ms_code ms_offline_status(struct ms_env *env, const char *shadow_dir, const struct ms_config *config, struct ms_stream_status **ret, unsigned *ret_n,
			       struct ms_journal_stats *journal, bool *ret_has_journal, struct ms_err *err) MS_WARN_UNUSED;

#endif
