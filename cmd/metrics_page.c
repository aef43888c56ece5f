#include "cmd/metrics_page.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include "replicas/replica.h"

/* What a family's samples are taken from: an unsigned field, printed as it is or as seconds. */
enum kind { COUNT, MICROSECONDS };
struct field {
	const char *name, *type, *help;
	size_t offset;
	enum kind kind;
};

struct page {
	const struct ms_status_view *v;
	struct ms_buf *out;
	struct ms_err *err;
	enum ms_code code; /* first failure; everything after it does nothing */
};

static void print(struct page *p, const char *fmt, ...) MS_PRINTF(2, 3);
static void print(struct page *p, const char *fmt, ...) {
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (!p->code)
		p->code = n < 0 || n >= (int)sizeof text ? ms_err_set(p->err, MS_ETOOBIG, "metrics line") : ms_buf_append(p->out, text, (size_t)n, p->err);
}

static void family(struct page *p, const char *name, const char *type, const char *help) {
	print(p, "# HELP migstream_%s %s\n# TYPE migstream_%s %s\n", name, help, name, type);
}

/* A label value: backslash, quote and newline escaped, other control characters as '?'. At most 200 bytes of text. */
static const char *label(const char *s, char ret[420]) {
	size_t o = 0;
	for (size_t i = 0; s[i] && i < 200; i++) {
		unsigned char c = (unsigned char)s[i];
		if (c == '\\' || c == '"' || c == '\n')
			ret[o++] = '\\', ret[o++] = c == '\n' ? 'n' : (char)c;
		else
			ret[o++] = c < 32 || c == 127 ? '?' : (char)c;
	}
	/* Not in the middle of a UTF-8 sequence. */
	if (strlen(s) > 200)
		while (o && ((unsigned char)ret[o - 1] & 0xc0) == 0x80)
			o--;
	if (o && strlen(s) > 200 && (unsigned char)ret[o - 1] >= 0xc0)
		o--;
	ret[o] = 0;
	return ret;
}

static void sample(struct page *p, const char *name, const char *labels, const void *base, const struct field *f) {
	uint64_t v;
	memcpy(&v, (const char *)base + f->offset, sizeof v);
	if (f->kind == COUNT)
		print(p, "migstream_%s%s %" PRIu64 "\n", name, labels, v);
	else
		print(p, "migstream_%s%s %.6f\n", name, labels, (double)(int64_t)v / 1e6);
}

static const char *db_labels(const struct ms_stream_status *s, char ret[1000], const char *key, const char *value) {
	char db[420], other[420];
	if (key)
		snprintf(ret, 1000, "{db=\"%s\",%s=\"%s\"}", label(s->name, db), key, label(value, other));
	else
		snprintf(ret, 1000, "{db=\"%s\"}", label(s->name, db));
	return ret;
}

#define STREAM(member) offsetof(struct ms_stream_status, member)
static const struct field stream_fields[] = {
	{"commits_total", "counter", "Commits captured from the source.", STREAM(commits), COUNT},
	{"frames_total", "counter", "Page images captured from the source.", STREAM(frames), COUNT},
	{"raw_bytes_total", "counter", "Bytes of the page images captured.", STREAM(raw_bytes), COUNT},
	{"record_bytes_total", "counter", "Bytes of the records they became.", STREAM(record_bytes), COUNT},
	{"catchups_total", "counter", "Catch-ups after blind intervals.", STREAM(catchups), COUNT},
	{"blind_catchups_total", "counter", "Catch-ups that fold a number of commits that is not known.", STREAM(blind_catchups), COUNT},
	{"lost_commits_total", "counter", "Commits folded into catch-ups, where their number is known.", STREAM(lost_commits), COUNT},
	{"snapshots_total", "counter", "Snapshots taken.", STREAM(snapshots), COUNT},
	{"source_errors_total", "counter", "Failed steps of the source.", STREAM(step_errors), COUNT},
	{"wal_bytes", "gauge", "Size of the database's write-ahead log.", STREAM(wal_bytes), COUNT},
	{"shadow_bytes", "gauge", "Bytes in the shadow directory for this database.", STREAM(shadow_bytes), COUNT},
	{"database_txid", "gauge", "Last captured transaction.", STREAM(db.txid), COUNT},
	{"database_journalled_txid", "gauge", "Last transaction that is durable in the journal.", STREAM(journalled_txid), COUNT},
	{"last_commit_timestamp_seconds", "gauge", "Capture time of the last commit, 0 = none yet.", STREAM(last_commit_us), MICROSECONDS},
	{"capture_to_journal_max_seconds", "gauge", "Longest time from capture to a durable journal entry.", STREAM(capture_to_journal_us_max), MICROSECONDS},
	{"clock_step_back_seconds", "gauge", "Largest step back of the clock seen.", STREAM(clock_back_us), MICROSECONDS},
};

#define WORKER(member) offsetof(struct ms_worker_status, member)
static const struct field worker_fields[] = {
	{"replica_txid", "gauge", "Everything up to this transaction is on the replica.", WORKER(txid), COUNT},
	{"replica_settled_txid", "gauge", "The same, less what the backend may lose in a crash of its own.", WORKER(settled_txid), COUNT},
	{"replica_pending_bytes", "gauge", "Journal bytes not yet on the replica.", WORKER(pending_bytes), COUNT},
	{"replica_puts_total", "counter", "Objects put.", WORKER(puts), COUNT},
	{"replica_put_bytes_total", "counter", "Bytes put.", WORKER(put_bytes), COUNT},
	{"replica_put_seconds_total", "counter", "Time spent in puts.", WORKER(put_us_total), MICROSECONDS},
	{"replica_bandwidth_bytes", "gauge", "Most bytes a second for segments and snapshots, 0 = no limit.", WORKER(bandwidth), COUNT},
	{"replica_limited_seconds_total", "counter", "Time that puts have waited for that limit.", WORKER(limited_us_total), MICROSECONDS},
	{"replica_put_failures_total", "counter", "Puts that failed.", WORKER(put_failures), COUNT},
	{"replica_retries_total", "counter", "Calls tried again.", WORKER(retries), COUNT},
	{"replica_segments_total", "counter", "Segments put.", WORKER(segments), COUNT},
	{"replica_snapshots_total", "counter", "Snapshots published.", WORKER(snapshots), COUNT},
	{"replica_removals_total", "counter", "Objects removed by retention.", WORKER(removals), COUNT},
	{"replica_owed_commits", "gauge", "Commits that are no longer in the journal, to come as one catch-up.", WORKER(owed_commits), COUNT},
	{"replica_catchups_total", "counter", "Catch-ups put, each standing for several commits.", WORKER(catchups), COUNT},
	{"replica_folded_commits_total", "counter", "Commits that such catch-ups stand for.", WORKER(folded_commits), COUNT},
	{"replica_last_upload_timestamp_seconds", "gauge", "Time of the last upload, 0 = none yet.", WORKER(last_uploaded_us), MICROSECONDS},
	{"replica_last_snapshot_timestamp_seconds", "gauge", "Time of the last snapshot, 0 = none yet.", WORKER(last_snapshot_us), MICROSECONDS},
	{"replica_last_error_timestamp_seconds", "gauge", "Time of the last error, 0 = none yet.", WORKER(last_error_us), MICROSECONDS},
};

#define JOURNAL(member) offsetof(struct ms_journal_stats, member)
static const struct field journal_fields[] = {
	{"journal_entries_total", "counter", "Entries accepted.", JOURNAL(entries), COUNT},
	{"journal_bytes_total", "counter", "Bytes written.", JOURNAL(bytes), COUNT},
	{"journal_syncs_total", "counter", "Syncs to disk.", JOURNAL(syncs), COUNT},
	{"journal_rotations_total", "counter", "Files begun.", JOURNAL(rotations), COUNT},
	{"journal_dropped_total", "counter", "Entries refused because the buffer was full.", JOURNAL(dropped), COUNT},
	{"journal_corrupt_entries_total", "counter", "Damaged entries found.", JOURNAL(corrupt_entries), COUNT},
	{"journal_lost_bytes_total", "counter", "Bytes that could not be read again.", JOURNAL(lost_bytes), COUNT},
	{"journal_quarantined_files_total", "counter", "Damaged files set aside.", JOURNAL(quarantined_files), COUNT},
	{"journal_torn_bytes_total", "counter", "Bytes cut from torn tails.", JOURNAL(torn_bytes), COUNT},
	{"journal_recovered_files_total", "counter", "Files read at start.", JOURNAL(recovered_files), COUNT},
	{"journal_recovered_entries_total", "counter", "Entries read at start.", JOURNAL(recovered_entries), COUNT},
	{"journal_files", "gauge", "Files on disk.", JOURNAL(files), COUNT},
	{"journal_size_bytes", "gauge", "Bytes on disk.", JOURNAL(total_bytes), COUNT},
	{"journal_next_sequence", "gauge", "Sequence of the next entry.", JOURNAL(next_seq), COUNT},
	{"journal_durable_sequence", "gauge", "Last sequence that is durable.", JOURNAL(durable_seq), COUNT},
	{"journal_first_sequence", "gauge", "Oldest sequence kept.", JOURNAL(first_seq), COUNT},
};

#define COUNT_OF(a) (sizeof(a) / sizeof *(a))

/* A daemon-wide or per-database value that is no plain field. */
static void streams(struct page *p) {
	const struct ms_status_view *v = p->v;
	char labels[1000];
	for (size_t f = 0; f < COUNT_OF(stream_fields); f++) {
		family(p, stream_fields[f].name, stream_fields[f].type, stream_fields[f].help);
		for (unsigned i = 0; i < v->n; i++)
			sample(p, stream_fields[f].name, db_labels(&v->streams[i], labels, NULL, NULL), &v->streams[i], &stream_fields[f]);
	}
	family(p, "page_records_total", "counter", "Page records written, by how the page is stored.");
	for (unsigned i = 0; i < v->n; i++) {
		const struct ms_stream_status *s = &v->streams[i];
		print(p, "migstream_page_records_total%s %" PRIu64 "\n", db_labels(s, labels, "kind", "delta"), s->deltas);
		print(p, "migstream_page_records_total%s %" PRIu64 "\n", db_labels(s, labels, "kind", "full"), s->fulls);
		print(p, "migstream_page_records_total%s %" PRIu64 "\n", db_labels(s, labels, "kind", "stored"), s->stored);
	}
	family(p, "database_size_bytes", "gauge", "Size of the database at its last captured transaction.");
	for (unsigned i = 0; i < v->n; i++)
		print(p, "migstream_database_size_bytes%s %" PRIu64 "\n", db_labels(&v->streams[i], labels, NULL, NULL),
		      (uint64_t)v->streams[i].db.page_size * v->streams[i].db.db_pages);
	family(p, "database_state", "gauge", "1 for the state that the database is in.");
	for (unsigned i = 0; i < v->n; i++)
		print(p, "migstream_database_state%s 1\n", db_labels(&v->streams[i], labels, "state", ms_stream_state_name(v->streams[i].state)));
	family(p, "database_advancing", "gauge", "1 while commits of the database are being captured.");
	for (unsigned i = 0; i < v->n; i++) {
		enum ms_stream_state s = v->streams[i].state;
		print(p, "migstream_database_advancing%s %d\n", db_labels(&v->streams[i], labels, NULL, NULL),
		      s == MS_STREAM_FOLLOWING || s == MS_STREAM_SEEDING || s == MS_STREAM_CATCHUP);
	}
	family(p, "data_loss_window_seconds", "gauge", "Age of the oldest commit that some required replica does not hold.");
	double worst = 0;
	for (unsigned i = 0; i < v->n; i++) {
		double w = ms_stream_data_loss_window(&v->streams[i], v->now_us);
		worst = w > worst ? w : worst;
		print(p, "migstream_data_loss_window_seconds%s %.6f\n", db_labels(&v->streams[i], labels, NULL, NULL), w);
	}
	family(p, "data_loss_window_threshold_seconds", "gauge", "dataLossWindowThreshold, 0 = none.");
	for (unsigned i = 0; i < v->n; i++)
		print(p, "migstream_data_loss_window_threshold_seconds%s %.6f\n", db_labels(&v->streams[i], labels, NULL, NULL),
		      v->thresholds_us ? (double)v->thresholds_us[i] / 1e6 : 0);
	family(p, "worst_data_loss_window_seconds", "gauge", "Largest data-loss window of all databases.");
	print(p, "migstream_worst_data_loss_window_seconds %.6f\n", worst);
}

/* labels of one replica, with at most one more. */
static const char *replica_labels(const struct ms_stream_status *s, const struct ms_worker_status *w, const char *key, const char *value, char ret[1300]) {
	char db[420], name[420], other[420];
	if (key)
		snprintf(ret, 1300, "{db=\"%s\",replica=\"%s\",%s=\"%s\"}", label(s->name, db), label(w->name, name), key, label(value, other));
	else
		snprintf(ret, 1300, "{db=\"%s\",replica=\"%s\"}", label(s->name, db), label(w->name, name));
	return ret;
}

#define EACH_WORKER(v, s, w)                                                                                                           \
	for (const struct ms_stream_status *s = (v)->streams; s && s < (v)->streams + (v)->n; s++)                                    \
		for (const struct ms_worker_status *w = s->workers; w && w < s->workers + s->nworkers; w++)

static void workers(struct page *p) {
	char labels[1300];
	for (size_t f = 0; f < COUNT_OF(worker_fields); f++) {
		family(p, worker_fields[f].name, worker_fields[f].type, worker_fields[f].help);
		EACH_WORKER (p->v, s, w)
			sample(p, worker_fields[f].name, replica_labels(s, w, NULL, NULL, labels), w, &worker_fields[f]);
	}
	family(p, "replica_lag_seconds", "gauge", "Age of the oldest commit that this replica does not hold.");
	EACH_WORKER (p->v, s, w)
		print(p, "migstream_replica_lag_seconds%s %.6f\n", replica_labels(s, w, NULL, NULL, labels), ms_worker_lag(w, p->v->now_us));
	family(p, "replica_required", "gauge", "1 when the journal keeps what this replica does not hold.");
	EACH_WORKER (p->v, s, w)
		print(p, "migstream_replica_required%s %d\n", replica_labels(s, w, NULL, NULL, labels), w->required);
	family(p, "replica_state", "gauge", "1 for the state that the replica's worker is in.");
	EACH_WORKER (p->v, s, w)
		print(p, "migstream_replica_state%s 1\n", replica_labels(s, w, "state", ms_worker_state_name(w->state), labels));
	family(p, "replica_last_error_info", "gauge", "1 with the text of the last error, while there was one.");
	EACH_WORKER (p->v, s, w)
		if (w->last_error[0])
			print(p, "migstream_replica_last_error_info%s 1\n", replica_labels(s, w, "error", w->last_error, labels));
}

/* Of the daemon as a whole: a backend does not know for which database it works. Backends without a handle so far are left out. */
static void backends(struct page *p) {
	const struct ms_replica_driver *d;
	family(p, "backend_calls_total", "counter", "Calls of the backends' drivers, by type of replica and by kind; failed ones count.");
	for (unsigned i = 0; (d = ms_replica_driver_at(i)); i++) {
		struct ms_replica_calls c;
		char type[420];
		ms_replica_calls_at(i, &c);
		if (!c.open)
			continue;
		label(d->scheme, type);
		print(p, "migstream_backend_calls_total{type=\"%s\",call=\"put\"} %" PRIu64 "\n", type, c.put);
		print(p, "migstream_backend_calls_total{type=\"%s\",call=\"get\"} %" PRIu64 "\n", type, c.get);
		print(p, "migstream_backend_calls_total{type=\"%s\",call=\"list\"} %" PRIu64 "\n", type, c.list);
		print(p, "migstream_backend_calls_total{type=\"%s\",call=\"remove\"} %" PRIu64 "\n", type, c.remove);
	}
}

static void process(struct page *p) {
	struct rusage u;
	unsigned long pages = 0, fds = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	if (f) {
		if (fscanf(f, "%*u %lu", &pages) != 1)
			pages = 0;
		fclose(f);
	}
	DIR *d = opendir("/proc/self/fd");
	if (d) {
		while (readdir(d))
			fds++;
		closedir(d);
		fds = fds > 3 ? fds - 3 : 0; /* ".", ".." and the directory itself */
	}
	memset(&u, 0, sizeof u);
	(void)getrusage(RUSAGE_SELF, &u);
	family(p, "resident_memory_bytes", "gauge", "Resident memory of the daemon.");
	print(p, "migstream_resident_memory_bytes %" PRIu64 "\n", (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE));
	family(p, "open_fds", "gauge", "Open file descriptors of the daemon.");
	print(p, "migstream_open_fds %lu\n", fds);
	family(p, "cpu_seconds_total", "counter", "Processor time of the daemon.");
	print(p, "migstream_cpu_seconds_total %.6f\n",
	      (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
}

enum ms_code ms_metrics_page(const struct ms_status_view *v, struct ms_buf *out, struct ms_err *err) {
	struct page p = {.v = v, .out = out, .err = err, .code = MS_OK};
	family(&p, "build_info", "gauge", "1 with the daemon's version.");
	print(&p, "migstream_build_info{version=\"%s\"} 1\n", MS_VERSION);
	if (v->info) {
		family(&p, "start_time_seconds", "gauge", "When the daemon started.");
		print(&p, "migstream_start_time_seconds %.6f\n", (double)v->info->started_us / 1e6);
	}
	family(&p, "databases", "gauge", "Databases of the daemon.");
	print(&p, "migstream_databases %u\n", v->n);
	process(&p);
	for (size_t f = 0; v->journal && f < COUNT_OF(journal_fields); f++) {
		family(&p, journal_fields[f].name, journal_fields[f].type, journal_fields[f].help);
		sample(&p, journal_fields[f].name, "", v->journal, &journal_fields[f]);
	}
	streams(&p);
	workers(&p);
	backends(&p);
	return p.code;
}
