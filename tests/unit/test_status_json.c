/* `status --json`, the text for people, and health. */
#include <criterion/criterion.h>
#include <math.h>
#include "base/buf.h"
#include "cmd/status_json.h"
#include "cmd/status_text.h"
#include "unit/fake_status.h"

static const int64_t thresholds[] = {10000000, 0};

static json_t *status(bool running) {
	unsigned n;
	struct ms_stream_status *s = fake_streams(&n);
	struct ms_journal_stats j = {.entries = 5, .bytes = 600, .current_file = "journal-0000000000000001.msj"};
	struct ms_daemon_info info = {.pid = 321, .started_us = FAKE_NOW_US - 3600000000, .shadow_dir = "/var/lib/ms", .config_file = NULL};
	struct ms_status_view v = {
		.info = running ? &info : NULL, .streams = s, .n = n, .thresholds_us = thresholds, .journal = running ? &j : NULL, .now_us = FAKE_NOW_US};
	json_t *o = ms_status_json(&v);
	cr_assert_not_null(o);
	fake_release(s, n);
	return o;
}

static void is_text(const json_t *o, const char *key, const char *wanted) {
	const char *s = json_string_value(json_object_get(o, key));
	cr_assert_not_null(s, "%s", key);
	cr_assert_str_eq(s, wanted, "%s", key);
}

static void is_number(const json_t *o, const char *key, double wanted) {
	json_t *v = json_object_get(o, key);
	cr_assert(json_is_number(v), "%s", key);
	cr_assert_lt(fabs(json_number_value(v) - wanted), 1e-9, "%s is %f", key, json_number_value(v));
}

Test(status_json, fields) {
	json_t *o = status(true), *d = json_array_get(json_object_get(o, "databases"), 0), *e = json_array_get(json_object_get(o, "databases"), 1);
	cr_assert(json_is_true(json_object_get(o, "running")));
	is_number(json_object_get(o, "daemon"), "pid", 321);
	is_text(json_object_get(o, "daemon"), "started", "2027-01-15T07:00:00.000000Z");
	is_text(json_object_get(o, "daemon"), "shadowDir", "/var/lib/ms");
	cr_assert(json_is_null(json_object_get(json_object_get(o, "daemon"), "configFile")));
	is_number(json_object_get(o, "journal"), "bytes", 600);
	cr_assert_eq(json_array_size(json_object_get(o, "databases")), 2);
	/* The schema of the design document. */
	is_text(d, "path", "/srv/app.db");
	is_text(d, "generation", "00000001-89abcdef");
	is_number(d, "txid", 42);
	is_text(d, "time", "2027-01-15T07:59:58.500000Z");
	is_text(d, "source", "sqlite-wal");
	is_number(d, "walBytes", 8192);
	is_number(d, "shadowBytes", 0);
	is_number(d, "dataLossWindowSeconds", 12.5);
	json_t *idle = json_array_get(json_object_get(d, "replicas"), 0), *slow = json_array_get(json_object_get(d, "replicas"), 1);
	is_text(idle, "name", "file");
	is_text(idle, "type", "file");
	is_number(idle, "txid", 42);
	is_number(idle, "lagSeconds", 0);
	is_number(idle, "pendingBytes", 0);
	is_text(idle, "state", "idle");
	cr_assert(json_is_null(json_object_get(idle, "lastError")));
	is_text(idle, "lastUploaded", "2027-01-15T07:59:59.500000Z");
	is_number(slow, "lagSeconds", 12.5);
	is_number(slow, "pendingBytes", 777);
	is_text(slow, "state", "retrying");
	is_text(slow, "lastError", "put \"x\": no\nroute");
	/* What we add. */
	is_text(d, "name", "app.db");
	is_text(d, "state", "following");
	is_text(d, "checksum", "0123456789abcdef");
	is_number(d, "dataLossWindowThresholdSeconds", 10);
	cr_assert(json_is_null(json_object_get(d, "why")));
	is_text(e, "state", "waiting");
	is_text(e, "why", "not in WAL mode: run PRAGMA journal_mode=WAL");
	cr_assert(json_is_null(json_object_get(e, "generation")));
	cr_assert(json_is_null(json_object_get(e, "time")));
	cr_assert(json_is_null(json_object_get(e, "dataLossWindowThresholdSeconds")));
	cr_assert_eq(json_array_size(json_object_get(e, "replicas")), 0);
	json_decref(o);
}

Test(status_json, stopped) {
	json_t *o = status(false);
	cr_assert(json_is_false(json_object_get(o, "running")));
	cr_assert(json_is_null(json_object_get(o, "daemon")));
	cr_assert(json_is_null(json_object_get(o, "journal")));
	json_decref(o);
}

Test(status_json, broken_utf8) {
	struct ms_stream_status s = {.state = MS_STREAM_FAILED};
	struct ms_status_view v = {.streams = &s, .n = 1, .now_us = FAKE_NOW_US};
	strcpy(s.name, "x");
	strcpy(s.why, "caf\xc3");
	json_t *o = ms_status_json(&v);
	cr_assert_not_null(o);
	is_text(json_array_get(json_object_get(o, "databases"), 0), "why", "caf?");
	json_decref(o);
}

Test(status_text, lines) {
	json_t *o = status(true);
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	ms_status_text(o, f);
	fclose(f);
	json_decref(o);
	static const char wanted[] =
		"migstream 0.1.0, pid 321, since 2027-01-15T07:00:00Z, shadow directory /var/lib/ms\n"
		"app.db  following  txid 42  00000001-89abcdef  /srv/app.db\n"
		"    wal 8 KiB, shadow 0 B, data-loss window 12.5s (past its threshold 10s)\n"
		"    REPLICA          TYPE  STATE             TXID        LAG    PENDING  LAST UPLOAD\n"
		"    file             file  idle                42         0s        0 B  2027-01-15T07:59:59Z\n"
		"    slow             file  retrying            40      12.5s      777 B  2027-01-15T07:59:59Z\n"
		"      put \"x\": no\nroute\n"
		"other  waiting  txid 0  (no generation)  /srv/other.db\n"
		"    not in WAL mode: run PRAGMA journal_mode=WAL\n"
		"    wal 0 B, shadow 0 B, data-loss window 0s\n";
	cr_assert_str_eq(text, wanted);
	free(text);
}

/* What is not known is not called nothing. */
Test(status_text, catchups) {
	static const struct {
		int catchups, lost, blind;
		const char *wanted;
	} cases[] = {
		{0, 0, 0, NULL},
		{1, 1, 0, "    1 catch-up, 1 commit folded\n"},
		{1, 0, 1, "    1 catch-up, an unknown number of commits folded\n"},
		{2, 0, 2, "    2 catch-ups, an unknown number of commits folded\n"},
		{3, 40, 1, "    3 catch-ups, 40 commits folded, and an unknown number of commits folded by 1 of them\n"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		json_t *o = status(true), *d = json_array_get(json_object_get(o, "databases"), 0);
		char *text = NULL;
		size_t n = 0;
		cr_assert_eq(json_object_set_new(d, "catchups", json_integer(cases[i].catchups)), 0);
		cr_assert_eq(json_object_set_new(d, "lostCommits", json_integer(cases[i].lost)), 0);
		cr_assert_eq(json_object_set_new(d, "blindCatchups", json_integer(cases[i].blind)), 0);
		FILE *f = open_memstream(&text, &n);
		ms_status_text(o, f);
		fclose(f);
		json_decref(o);
		if (cases[i].wanted)
			cr_assert(strstr(text, cases[i].wanted), "%s", text);
		else
			cr_assert_not(strstr(text, "catch-up"), "%s", text);
		free(text);
	}
}

static char *health(const struct ms_stream_status *s, unsigned n, const int64_t *limits, bool *ok) {
	struct ms_buf out;
	struct ms_err err = MS_ERR_INIT;
	ms_buf_init(&out, 1u << 16);
	cr_assert_eq(ms_health(s, n, limits, FAKE_NOW_US, &out, ok, &err), MS_OK);
	char *text = strndup(out.len ? (const char *)out.data : "", out.len);
	ms_buf_release(&out);
	return text;
}

Test(health, reasons) {
	unsigned n;
	bool ok = true;
	struct ms_stream_status *s = fake_streams(&n);
	char *text = health(s, n, thresholds, &ok);
	cr_assert_not(ok);
	cr_assert_str_eq(text, "app.db: data-loss window 12.5s is past its threshold 10s\n"
			       "other: waiting: not in WAL mode: run PRAGMA journal_mode=WAL\n");
	free(text);
	text = health(s, 1, NULL, &ok);
	cr_assert(ok);
	cr_assert_str_eq(text, "");
	free(text);
	/* Tried again for a minute is no alarm yet. */
	s[0].workers[1].failing_us = 59999999;
	free(health(s, 1, NULL, &ok));
	cr_assert(ok);
	s[0].workers[1].failing_us = 61500000;
	text = health(s, 1, NULL, &ok);
	cr_assert_not(ok);
	cr_assert_str_eq(text, "app.db: replica slow: failing for 1m1s: put \"x\": no\nroute\n");
	free(text);
	s[0].workers[1].state = MS_WORKER_FENCED;
	text = health(s, 1, NULL, &ok);
	cr_assert_not(ok);
	cr_assert_str_eq(text, "app.db: replica slow: fenced: put \"x\": no\nroute\n");
	free(text);
	s[0].workers[1].required = false;
	text = health(s, 1, thresholds, &ok);
	cr_assert(ok);
	free(text);
	static const enum ms_stream_state bad[] = {MS_STREAM_BLOCKED, MS_STREAM_FENCED, MS_STREAM_FAILED, MS_STREAM_STOPPED, MS_STREAM_WAITING};
	static const enum ms_stream_state good[] = {MS_STREAM_STARTING, MS_STREAM_SEEDING, MS_STREAM_CATCHUP, MS_STREAM_PAUSED, MS_STREAM_FOLLOWING};
	for (unsigned i = 0; i < 5; i++) {
		s[0].state = bad[i];
		free(health(s, 1, NULL, &ok));
		cr_assert_not(ok);
		s[0].state = good[i];
		free(health(s, 1, NULL, &ok));
		cr_assert(ok);
	}
	fake_release(s, n);
}
