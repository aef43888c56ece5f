#include "cmd/status_json.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/timefmt.h"

/* A value that could not be made leaves the object short of a key: set_new() then fails, and `ok` remembers. */
struct builder {
	bool ok;
};

static void put(struct builder *b, json_t *o, const char *key, json_t *v) {
	b->ok = json_object_set_new(o, key, v) == 0 && b->ok;
}

static json_t *number(uint64_t v) {
	return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

static json_t *when(int64_t us) {
	char text[32];
	return us > 0 ? json_string(ms_time_format(text, us)) : json_null();
}

/* Text that may have been cut within a UTF-8 sequence. */
static json_t *text(const char *s) {
	json_t *v = json_string(s);
	char ascii[512];
	size_t i = 0;
	if (v)
		return v;
	for (; s[i] && i < sizeof ascii - 1; i++)
		ascii[i] = (unsigned char)s[i] < 128 ? s[i] : '?';
	ascii[i] = 0;
	return json_string(ascii);
}

static json_t *text_or_null(const char *s) {
	return s && *s ? text(s) : json_null();
}

static json_t *seconds(double s) {
	/* Microseconds are all there is. */
	return json_real((double)(int64_t)(s * 1e6 + 0.5) / 1e6);
}

static json_t *replica(struct builder *b, const struct ms_worker_status *w, int64_t now_us) {
	json_t *o = json_object();
	put(b, o, "name", text(w->name));
	put(b, o, "type", text_or_null(w->type));
	put(b, o, "url", text_or_null(w->url));
	put(b, o, "state", json_string(ms_worker_state_name(w->state)));
	put(b, o, "txid", number(w->txid));
	put(b, o, "time", when(w->cursor_time_us));
	put(b, o, "settledTxid", number(w->settled_txid));
	put(b, o, "lagSeconds", seconds(ms_worker_lag(w, now_us)));
	put(b, o, "pendingBytes", number(w->pending_bytes));
	put(b, o, "owedCommits", number(w->owed_commits));
	put(b, o, "owedPages", number(w->owed_pages));
	put(b, o, "owedFirstTxid", number(w->owed_first));
	put(b, o, "owedLastTxid", number(w->owed_last));
	put(b, o, "catchups", number(w->catchups));
	put(b, o, "foldedCommits", number(w->folded_commits));
	put(b, o, "foldedFirstTxid", number(w->folded_first));
	put(b, o, "foldedLastTxid", number(w->folded_last));
	put(b, o, "bandwidth", number(w->bandwidth));
	put(b, o, "limited", json_boolean(w->limited));
	put(b, o, "limitedSeconds", seconds((double)w->limited_us_total / 1e6));
	put(b, o, "lastUploaded", when(w->last_uploaded_us));
	put(b, o, "lastError", text_or_null(w->last_error));
	put(b, o, "lastErrorTime", when(w->last_error_us));
	put(b, o, "failingSeconds", seconds((double)w->failing_us / 1e6));
	put(b, o, "required", json_boolean(w->required));
	put(b, o, "fencingAuthority", json_boolean(w->authority));
	put(b, o, "lastSnapshotTxid", number(w->last_snapshot_txid));
	put(b, o, "lastSnapshotTime", when(w->last_snapshot_us));
	put(b, o, "puts", number(w->puts));
	put(b, o, "putBytes", number(w->put_bytes));
	put(b, o, "putFailures", number(w->put_failures));
	put(b, o, "retries", number(w->retries));
	put(b, o, "segments", number(w->segments));
	put(b, o, "snapshots", number(w->snapshots));
	put(b, o, "removals", number(w->removals));
	return o;
}

static json_t *database(struct builder *b, const struct ms_stream_status *s, int64_t threshold_us, int64_t now_us) {
	json_t *o = json_object(), *list = json_array();
	char checksum[20];
	put(b, o, "name", text(s->name));
	put(b, o, "path", text(s->path));
	put(b, o, "source", json_string("sqlite-wal"));
	put(b, o, "state", json_string(ms_stream_state_name(s->state)));
	put(b, o, "why", text_or_null(s->why));
	put(b, o, "generation", text_or_null(s->generation.s));
	put(b, o, "txid", number(s->db.txid));
	put(b, o, "time", when(s->db.time_us));
	put(b, o, "journalledTxid", number(s->journalled_txid));
	snprintf(checksum, sizeof checksum, "%016" PRIx64, s->db.checksum);
	put(b, o, "checksum", s->db.txid ? json_string(checksum) : json_null());
	put(b, o, "pageSize", number(s->db.page_size));
	put(b, o, "pages", number(s->db.db_pages));
	put(b, o, "walBytes", number(s->wal_bytes));
	put(b, o, "shadowBytes", number(s->shadow_bytes));
	put(b, o, "dataLossWindowSeconds", seconds(ms_stream_data_loss_window(s, now_us)));
	put(b, o, "dataLossWindowThresholdSeconds", threshold_us > 0 ? seconds((double)threshold_us / 1e6) : json_null());
	put(b, o, "commits", number(s->commits));
	put(b, o, "frames", number(s->frames));
	put(b, o, "rawBytes", number(s->raw_bytes));
	put(b, o, "recordBytes", number(s->record_bytes));
	put(b, o, "catchups", number(s->catchups));
	put(b, o, "lostCommits", number(s->lost_commits));
	put(b, o, "blindCatchups", number(s->blind_catchups));
	put(b, o, "snapshots", number(s->snapshots));
	put(b, o, "lastCommit", when(s->last_commit_us));
	put(b, o, "clockStepBackSeconds", seconds((double)s->clock_back_us / 1e6));
	put(b, o, "replicas", list);
	for (uint32_t i = 0; i < s->nworkers; i++)
		b->ok = json_array_append_new(list, replica(b, &s->workers[i], now_us)) == 0 && b->ok;
	return o;
}

static json_t *journal(struct builder *b, const struct ms_journal_stats *j) {
	json_t *o = json_object();
	put(b, o, "entries", number(j->entries));
	put(b, o, "bytes", number(j->bytes));
	put(b, o, "syncs", number(j->syncs));
	put(b, o, "rotations", number(j->rotations));
	put(b, o, "dropped", number(j->dropped));
	put(b, o, "corruptEntries", number(j->corrupt_entries));
	put(b, o, "lostBytes", number(j->lost_bytes));
	put(b, o, "quarantinedFiles", number(j->quarantined_files));
	put(b, o, "tornBytes", number(j->torn_bytes));
	put(b, o, "files", number(j->files));
	put(b, o, "totalBytes", number(j->total_bytes));
	put(b, o, "firstSequence", number(j->first_seq));
	put(b, o, "nextSequence", number(j->next_seq));
	put(b, o, "durableSequence", number(j->durable_seq));
	put(b, o, "recoveredFiles", number(j->recovered_files));
	put(b, o, "recoveredEntries", number(j->recovered_entries));
	put(b, o, "currentFile", text_or_null(j->current_file));
	return o;
}

static json_t *daemon_json(struct builder *b, const struct ms_daemon_info *i) {
	json_t *o = json_object();
	put(b, o, "pid", json_integer(i->pid));
	put(b, o, "version", json_string(MS_VERSION));
	put(b, o, "started", when(i->started_us));
	put(b, o, "shadowDir", text_or_null(i->shadow_dir));
	put(b, o, "configFile", text_or_null(i->config_file));
	return o;
}

json_t *ms_status_json(const struct ms_status_view *v) {
	struct builder b = {.ok = true};
	json_t *o = json_object(), *list = json_array();
	put(&b, o, "running", json_boolean(v->info != NULL));
	put(&b, o, "time", when(v->now_us));
	put(&b, o, "daemon", v->info ? daemon_json(&b, v->info) : json_null());
	put(&b, o, "journal", v->journal ? journal(&b, v->journal) : json_null());
	put(&b, o, "databases", list);
	for (unsigned i = 0; i < v->n; i++)
		b.ok = json_array_append_new(list, database(&b, &v->streams[i], v->thresholds_us ? v->thresholds_us[i] : 0, v->now_us)) == 0 && b.ok;
	if (b.ok)
		return o;
	json_decref(o);
	return NULL;
}
