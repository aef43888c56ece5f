#include "cmd/status_text.h"

#include <inttypes.h>
#include <string.h>

#include "base/timefmt.h"

static const char *text(const json_t *o, const char *key, const char *otherwise) {
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : otherwise;
}

static int64_t number(const json_t *o, const char *key) {
	return json_integer_value(json_object_get(o, key));
}

static const char *bytes(const json_t *o, const char *key, char ret[32]) {
	return ms_size_format(ret, (uint64_t)number(o, key));
}

/* Three digits are enough: "0s", "350ms", "12.5s", "3h7m". */
static const char *duration(const json_t *o, const char *key, char ret[32]) {
	double s = json_number_value(json_object_get(o, key));
	int64_t step = s < 1 ? 1000 : s < 60 ? 100000 : 1000000, us = (int64_t)(s * 1e6);
	us = us / step * step;
	if (us == 0)
		return strcpy(ret, s > 0 ? "<1ms" : "0s");
	return ms_duration_format(ret, us);
}

/* "2026-11-21T10:00:00Z": the fraction says nothing to people. */
static const char *when(const json_t *o, const char *key, char ret[32]) {
	const char *s = text(o, key, "never");
	size_t n = strcspn(s, ".");
	snprintf(ret, 32, "%.*s%s", (int)(n < 24 ? n : 24), s, s[n] == '.' ? "Z" : "");
	return ret;
}

static void replicas(const json_t *list, FILE *out) {
	char lag[32], pending[32], last[32];
	size_t i;
	json_t *r;
	if (!json_array_size(list))
		return;
	fprintf(out, "    %-16s %-5s %-11s %10s %10s %10s  %s\n", "REPLICA", "TYPE", "STATE", "TXID", "LAG", "PENDING", "LAST UPLOAD");
	json_array_foreach(list, i, r) {
		fprintf(out, "    %-16s %-5s %-11s %10" PRId64 " %10s %10s  %s%s\n", text(r, "name", "?"), text(r, "type", "?"), text(r, "state", "?"),
			number(r, "txid"), duration(r, "lagSeconds", lag), bytes(r, "pendingBytes", pending), when(r, "lastUploaded", last),
			json_is_false(json_object_get(r, "required")) ? "  (not required)" : "");
		if (number(r, "owedCommits"))
			fprintf(out, "      txid %" PRId64 " to %" PRId64 " are no longer in the journal: one catch-up will stand for them\n",
				number(r, "owedFirstTxid"), number(r, "owedLastTxid"));
		if (json_is_true(json_object_get(r, "limited")))
			fprintf(out, "      held back by its bandwidth: %s a second\n", bytes(r, "bandwidth", pending));
		if (number(r, "catchups"))
			fprintf(out, "      %" PRId64 " catch-ups stand for %" PRId64 " commits, the newest for txid %" PRId64 " to %" PRId64 "\n",
				number(r, "catchups"), number(r, "foldedCommits"), number(r, "foldedFirstTxid"), number(r, "foldedLastTxid"));
		const char *state = text(r, "state", ""), *error = text(r, "lastError", NULL);
		if (error && strcmp(state, "idle") != 0 && strcmp(state, "uploading") != 0)
			fprintf(out, "      %s\n", error);
	}
}

static void database(const json_t *d, FILE *out) {
	char wal[32], shadow[32], window[32];
	const char *why = text(d, "why", NULL);
	fprintf(out, "%s  %s  txid %" PRId64 "  %s  %s\n", text(d, "name", "?"), text(d, "state", "?"), number(d, "txid"),
		text(d, "generation", "(no generation)"), text(d, "path", ""));
	if (why)
		fprintf(out, "    %s\n", why);
	fprintf(out, "    wal %s, shadow %s, data-loss window %s", bytes(d, "walBytes", wal), bytes(d, "shadowBytes", shadow),
		duration(d, "dataLossWindowSeconds", window));
	double limit = json_number_value(json_object_get(d, "dataLossWindowThresholdSeconds"));
	if (limit > 0 && json_number_value(json_object_get(d, "dataLossWindowSeconds")) > limit)
		fprintf(out, " (past its threshold %s)", duration(d, "dataLossWindowThresholdSeconds", window));
	fputc('\n', out);
	int64_t n = number(d, "catchups"), known = number(d, "lostCommits"), blind = number(d, "blindCatchups");
	if (n) {
		fprintf(out, "    %" PRId64 " catch-up%s, ", n, n == 1 ? "" : "s");
		if (blind < n)
			fprintf(out, "%" PRId64 " commit%s folded%s", known, known == 1 ? "" : "s", blind ? ", and " : "");
		if (blind)
			fprintf(out, "an unknown number of commits folded");
		if (blind && blind < n)
			fprintf(out, " by %" PRId64 " of them", blind);
		fputc('\n', out);
	}
	replicas(json_object_get(d, "replicas"), out);
}

void ms_status_text(const json_t *status, FILE *out) {
	const json_t *daemon = json_object_get(status, "daemon"), *list = json_object_get(status, "databases");
	char started[32];
	size_t i;
	json_t *d;
	if (json_is_true(json_object_get(status, "running")))
		fprintf(out, "migstream %s, pid %" PRId64 ", since %s, shadow directory %s\n", text(daemon, "version", "?"), number(daemon, "pid"),
			when(daemon, "started", started), text(daemon, "shadowDir", "?"));
	else
		fprintf(out, "stopped%s%s\n", text(status, "shadowDir", NULL) ? ": no daemon on " : "", text(status, "shadowDir", ""));
	json_array_foreach(list, i, d)
		database(d, out);
}
