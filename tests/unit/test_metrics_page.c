/* The metrics page: every line as Prometheus wants it, and promtool's opinion where it is installed. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <unistd.h>
#include "cmd/metrics_page.h"
#include "replicas/mem.h"
#include "replicas/url.h"
#include "unit/fake_status.h"

static const int64_t thresholds[] = {10000000, 0};

static char *page(bool journal) {
	unsigned n;
	struct ms_stream_status *s = fake_streams(&n);
	struct ms_journal_stats j = {.entries = 5, .bytes = 600, .syncs = 3, .next_seq = 6, .durable_seq = 5, .total_bytes = 640};
	struct ms_daemon_info info = {.pid = 1, .started_us = FAKE_NOW_US - 3600000000};
	struct ms_status_view v = {.info = &info, .streams = s, .n = n, .thresholds_us = thresholds, .journal = journal ? &j : NULL, .now_us = FAKE_NOW_US};
	struct ms_buf out;
	struct ms_err err = MS_ERR_INIT;
	ms_buf_init(&out, 1u << 20);
	cr_assert_eq(ms_metrics_page(&v, &out, &err), MS_OK, "%s", err.msg);
	char *text = strndup((const char *)out.data, out.len);
	ms_buf_release(&out);
	fake_release(s, n);
	return text;
}

static void has_line(const char *text, const char *line) {
	char wanted[600];
	snprintf(wanted, sizeof wanted, "\n%s\n", line);
	cr_assert_not_null(strstr(text, wanted), "missing: %s\nin:\n%s", line, text);
}

Test(metrics, values) {
	char *text = page(true);
	has_line(text, "migstream_databases 2");
	has_line(text, "migstream_start_time_seconds 1799996400.000000");
	has_line(text, "# TYPE migstream_commits_total counter");
	has_line(text, "migstream_commits_total{db=\"app.db\"} 41");
	has_line(text, "migstream_commits_total{db=\"other\"} 0");
	has_line(text, "migstream_page_records_total{db=\"app.db\",kind=\"delta\"} 80");
	has_line(text, "migstream_page_records_total{db=\"app.db\",kind=\"full\"} 19");
	has_line(text, "migstream_page_records_total{db=\"app.db\",kind=\"stored\"} 1");
	has_line(text, "migstream_database_size_bytes{db=\"app.db\"} 40960");
	has_line(text, "migstream_database_txid{db=\"app.db\"} 42");
	has_line(text, "migstream_database_state{db=\"other\",state=\"waiting\"} 1");
	has_line(text, "migstream_database_advancing{db=\"app.db\"} 1");
	has_line(text, "migstream_database_advancing{db=\"other\"} 0");
	has_line(text, "migstream_last_commit_timestamp_seconds{db=\"app.db\"} 1799999998.500000");
	has_line(text, "migstream_data_loss_window_seconds{db=\"app.db\"} 12.500000");
	has_line(text, "migstream_data_loss_window_threshold_seconds{db=\"app.db\"} 10.000000");
	has_line(text, "migstream_worst_data_loss_window_seconds 12.500000");
	has_line(text, "migstream_replica_txid{db=\"app.db\",replica=\"slow\"} 40");
	has_line(text, "migstream_replica_lag_seconds{db=\"app.db\",replica=\"file\"} 0.000000");
	has_line(text, "migstream_replica_lag_seconds{db=\"app.db\",replica=\"slow\"} 12.500000");
	has_line(text, "migstream_replica_pending_bytes{db=\"app.db\",replica=\"slow\"} 777");
	has_line(text, "migstream_replica_put_seconds_total{db=\"app.db\",replica=\"file\"} 2.500000");
	has_line(text, "migstream_replica_state{db=\"app.db\",replica=\"slow\",state=\"retrying\"} 1");
	has_line(text, "migstream_replica_last_error_info{db=\"app.db\",replica=\"slow\",error=\"put \\\"x\\\": no\\nroute\"} 1");
	has_line(text, "migstream_journal_entries_total 5");
	has_line(text, "migstream_journal_durable_sequence 5");
	has_line(text, "migstream_journal_size_bytes 640");
	cr_assert_null(strstr(text, "migstream_replica_last_error_info{db=\"app.db\",replica=\"file\""));
	free(text);
	text = page(false);
	cr_assert_null(strstr(text, "migstream_journal_"));
	free(text);
}

static bool any(void *arg, const struct ms_object *o) {
	(void)arg;
	(void)o;
	return true;
}

/* Calls count where they reach a driver, whatever becomes of them; a name that is none does not get there. */
Test(metrics, backend_calls) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica_spec s = {0};
	struct ms_replica *r = NULL;
	struct ms_buf b;
	struct ms_env *env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env, "%s", err.msg);
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK, "%s", err.msg);
	char *text = page(false);
	cr_assert_null(strstr(text, "migstream_backend_calls_total{"));
	free(text);
	cr_assert(!ms_url_parse("mem://counted", &s, &err) && !ms_replica_open(env, &s, &r, &err), "%s", err.msg);
	ms_buf_init(&b, 100);
	cr_assert_eq(ms_replica_put_mem(r, "a", "x", 1, &err), MS_OK);
	cr_assert_eq(ms_replica_put_mem(r, "a", "y", 1, &err), MS_EEXISTS);
	cr_assert_eq(ms_replica_put_mem(r, "/a", "y", 1, &err), MS_EINVAL);
	cr_assert_eq(ms_replica_get_buf(r, "b", 0, -1, &b, &err), MS_ENOTFOUND);
	cr_assert_eq(ms_replica_list(r, "", "", any, NULL, &err), MS_OK);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(ms_replica_remove(r, "a", &err), MS_OK);
	text = page(false);
	has_line(text, "migstream_backend_calls_total{type=\"mem\",call=\"put\"} 2");
	has_line(text, "migstream_backend_calls_total{type=\"mem\",call=\"get\"} 1");
	has_line(text, "migstream_backend_calls_total{type=\"mem\",call=\"list\"} 1");
	has_line(text, "migstream_backend_calls_total{type=\"mem\",call=\"remove\"} 3");
	free(text);
	ms_buf_release(&b);
	ms_replica_close(r);
	ms_mem_drop("counted");
	ms_replica_spec_release(&s);
	ms_env_uv_free(env);
}

/* Every sample follows HELP and TYPE of its own family; every family once; names in the alphabet; counters end with _total and nothing else does. */
Test(metrics, form) {
	char *text = page(true), *save, family[200] = "", type[40] = "", *seen[400];
	unsigned nseen = 0, samples = 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "# HELP ", 7) == 0) {
			snprintf(family, sizeof family, "%.*s", (int)strcspn(line + 7, " "), line + 7);
			for (unsigned i = 0; i < nseen; i++)
				cr_assert_str_neq(seen[i], family);
			cr_assert_lt(nseen, 400);
			seen[nseen++] = strdup(family);
			cr_assert_eq(line[strlen(line) - 1], '.', "%s", line);
			type[0] = 0;
		} else if (strncmp(line, "# TYPE ", 7) == 0) {
			char name[200];
			cr_assert_eq(sscanf(line, "# TYPE %199s %39s", name, type), 2);
			cr_assert_str_eq(name, family);
			cr_assert_eq(strcmp(type, "counter") == 0, strlen(name) > 6 && strcmp(name + strlen(name) - 6, "_total") == 0, "%s", line);
		} else {
			size_t n = strcspn(line, "{ ");
			cr_assert(strncmp(line, family, n) == 0 && strlen(family) == n, "%s after %s", line, family);
			cr_assert_neq(type[0], 0);
			cr_assert_eq(strncmp(line, "migstream_", 10), 0);
			for (size_t i = 0; i < n; i++)
				cr_assert(islower((unsigned char)line[i]) || line[i] == '_');
			samples++;
		}
	}
	cr_assert_gt(samples, 100);
	for (unsigned i = 0; i < nseen; i++)
		free(seen[i]);
	free(text);
}

Test(metrics, promtool) {
	const char *tool = getenv("PROMTOOL") ? getenv("PROMTOOL") : "promtool";
	char command[300];
	snprintf(command, sizeof command, "command -v '%.100s' >/dev/null 2>&1", tool);
	if (system(command) != 0)
		cr_skip_test("promtool is not installed");
	snprintf(command, sizeof command, "'%.100s' check metrics", tool);
	char *text = page(true);
	FILE *f = popen(command, "w");
	cr_assert_not_null(f);
	fputs(text, f);
	cr_assert_eq(pclose(f), 0);
	free(text);
}
