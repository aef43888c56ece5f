#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/timefmt.h"
#include "config/schema.h"

/* Ranges in the type's own unit. */
#define MSEC 1e3
#define SEC 1e6
#define HOUR (3600 * SEC)
#define DAY (24 * HOUR)
#define KIB 1024.0
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

#define IN(struct_, member) .offset = offsetof(struct struct_, member)
#define DAEMON(member) .scope = MS_SCOPE_DAEMON, IN(ms_config, member)
#define SETTING(member) .scope = MS_SCOPE_SETTINGS, IN(ms_config_settings, member)
#define DATABASE(member) .scope = MS_SCOPE_DATABASE, IN(ms_config_database, member)
#define REPLICA(member) .scope = MS_SCOPE_REPLICA, IN(ms_config_replica, member)

const struct ms_key_def ms_config_keys[] = {
	{"shadowDir", DAEMON(shadow_dir), .type = MS_KEY_PATH,
	 .help = "directory of the journal, page sums, cursors and the local replica; one daemon each"},
	{"owner", DAEMON(owner), .type = MS_KEY_STRING, .flags = MS_KEY_NAME,
	 .help = "who writes to the replicas; default: a random id kept in the shadow directory"},
	{"takeover", SETTING(takeover), .type = MS_KEY_ENUM, .values = "never|auto", .def = "never",
	 .help = "whether a start may take a replica over from another owner"},
	{"snapshotInterval", SETTING(snapshot_interval_us), .type = MS_KEY_DURATION, .def = "6h", .min = 10 * MSEC, .max = 3650 * DAY,
	 .help = "a changing database gets a snapshot at the latest this long after the last"},
	{"snapshotShare", SETTING(snapshot_share), .type = MS_KEY_NUMBER, .def = "0.8", .min = 0, .max = 1e6,
	 .help = "segment bytes as a share of the database's bytes that trigger a snapshot; 0 = never"},
	{"retention.snapshotInterval", SETTING(retention.snapshot_interval_us), .type = MS_KEY_DURATION, .def = "0", .min = 10 * MSEC,
	 .max = 3650 * DAY, .flags = MS_KEY_ZERO_INHERITS, .help = "of snapshots that lie closer, retention keeps one in this time; default: snapshotInterval"},
	{"retention.snapshotRetention", SETTING(retention.snapshot_retention_us), .type = MS_KEY_DURATION, .def = "24h", .min = 10 * MSEC,
	 .max = 36500 * DAY, .flags = MS_KEY_ZERO_INHERITS, .help = "how long snapshots, and every commit since them, are kept at least"},
	{"retention.checkInterval", SETTING(retention.check_interval_us), .type = MS_KEY_DURATION, .def = "1h", .min = 10 * MSEC,
	 .max = 3650 * DAY, .flags = MS_KEY_ZERO_INHERITS, .help = "how often retention runs"},
	{"compression.codec", SETTING(compression.codec), .type = MS_KEY_ENUM, .values = "none|zstd", .def = "zstd", .flags = MS_KEY_BARE,
	 .help = "how pages are stored"},
	{"compression.level", SETTING(compression.level), .type = MS_KEY_UINT, .def = "1", .min = 1, .max = 19, .help = "zstd level, of page records and of the blocks of segments and snapshots"},
	{"compression.window", SETTING(compression.window), .type = MS_KEY_UINT, .def = "0", .min = 10, .max = 27, .flags = MS_KEY_ZERO_OK,
	 .help = "zstd window log of the blocks of segments and snapshots, for readers with little memory; 0 = a block's 1 MiB, and above 20 nothing changes"},
	{"minInterval", SETTING(min_interval_us), .type = MS_KEY_DURATION, .def = "1s", .min = 0, .max = DAY,
	 .help = "at most one segment per replica in this time; the first commit after quiet goes at once; 0 = as fast as the backend acknowledges"},
	{"maxShadowBytes", DAEMON(max_shadow_bytes), .type = MS_KEY_SIZE, .def = "16GiB", .min = 16 * MIB, .max = 1024 * TIB,
	 .flags = MS_KEY_ZERO_OK, .help = "cap of the journal, which is what grows in the shadow directory; beyond it commits in between are given up, not continuity; 0 = none"},
	{"maxWalBytes", SETTING(max_wal_bytes), .type = MS_KEY_SIZE, .def = "1GiB", .min = MIB, .max = 1024 * TIB,
	 .help = "when the database's WAL passes this, it is let go of, and a catch-up follows"},
	{"checkpoint", SETTING(checkpoint), .type = MS_KEY_BOOL, .def = "true",
	 .help = "allow a PASSIVE checkpoint through SQLite on a quiet database with a long WAL"},
	{"checkpointBytes", SETTING(checkpoint_bytes), .type = MS_KEY_SIZE, .def = "3MiB", .min = 64 * KIB, .max = 1024 * TIB,
	 .help = "WAL size above which that checkpoint is tried"},
	{"dataLossWindowThreshold", SETTING(data_loss_window_threshold_us), .type = MS_KEY_DURATION, .def = "0", .min = MSEC, .max = 3650 * DAY,
	 .flags = MS_KEY_ZERO_OK, .help = "age of the oldest unshipped commit that raises an alarm; 0 = none"},
	{"restore.enabled", SETTING(restore.enabled), .type = MS_KEY_BOOL, .def = "false",
	 .help = "at start, restore a database that is missing, empty or fails validation"},
	{"restore.targetPath", SETTING(restore.target_path), .type = MS_KEY_PATH, .help = "where to restore to; default: the database's path"},
	{"restore.tempDir", SETTING(restore.temp_dir), .type = MS_KEY_PATH, .help = "directory of the unfinished restore; default: beside the target"},
	{"local.enabled", SETTING(local.enabled), .type = MS_KEY_BOOL, .def = "false",
	 .help = "keep artefacts in the shadow directory too, as a replica; always so without any other replica"},
	{"journal.syncMode", DAEMON(journal.sync_mode), .type = MS_KEY_ENUM, .values = "fsync|fdatasync|async", .def = "fdatasync",
	 .help = "what makes an entry durable; async syncs by syncInterval and syncBytes"},
	{"journal.syncInterval", DAEMON(journal.sync_interval_us), .type = MS_KEY_DURATION, .def = "100ms", .min = 0, .max = HOUR,
	 .help = "async: sync at the latest after this; 0 = at every write"},
	{"journal.syncBytes", DAEMON(journal.sync_bytes), .type = MS_KEY_SIZE, .def = "1MiB", .min = 0, .max = TIB,
	 .help = "async: sync after this many bytes; 0 = no byte threshold"},
	{"journal.maxSizeBytes", DAEMON(journal.max_size_bytes), .type = MS_KEY_SIZE, .def = "64MiB", .min = 4 * KIB, .max = TIB,
	 .help = "a journal file is followed by the next at this size"},
	{"journal.maxAge", DAEMON(journal.max_age_us), .type = MS_KEY_DURATION, .def = "1h", .min = MSEC, .max = 3650 * DAY,
	 .help = "a journal file is followed by the next at this age"},
	{"journal.bufferSize", DAEMON(journal.buffer_size), .type = MS_KEY_UINT, .def = "10000", .min = 1, .max = 1e7,
	 .help = "async: entries accepted but not yet written; beyond it they are refused"},
	{"metrics.address", DAEMON(metrics.address), .type = MS_KEY_STRING,
	 .help = "host:port, [v6]:port or :port for /metrics and /healthz; default: none"},
	{"log.level", DAEMON(log.level), .type = MS_KEY_ENUM, .values = "debug|info|warn|error|off", .def = "info", .help = "least level that is logged"},
	{"log.format", DAEMON(log.format), .type = MS_KEY_ENUM, .values = "logfmt|json", .def = "logfmt", .help = "form of log lines"},
	{"shutdownTimeout", DAEMON(shutdown_timeout_us), .type = MS_KEY_DURATION, .def = "10s", .min = 0, .max = HOUR,
	 .help = "how long a stop goes on shipping, and --once waits for a replica that fails"},

	{"path", DATABASE(path), .type = MS_KEY_PATH, .flags = MS_KEY_REQUIRED, .help = "the database file"},
	{"name", DATABASE(name), .type = MS_KEY_STRING, .flags = MS_KEY_NAME, .help = "name in status and in shared replica prefixes; default: the file's name"},

	{"name", REPLICA(name), .type = MS_KEY_STRING, .flags = MS_KEY_NAME, .help = "name in status and metrics; default: the type"},
	{"url", REPLICA(url), .type = MS_KEY_STRING, .help = "where the replica lies, e.g. file:///backup/app"},
	{"type", REPLICA(type), .type = MS_KEY_STRING, .flags = MS_KEY_NAME, .help = "backend, with its own keys beside it, instead of url"},
	{"required", REPLICA(required), .type = MS_KEY_BOOL, .def = "true", .help = "the journal keeps what this replica does not hold yet"},
	{"minInterval", REPLICA(min_interval_us), .type = MS_KEY_DURATION, .min = 0, .max = DAY, .help = "default: the database's"},
	{"bandwidth", REPLICA(bandwidth), .type = MS_KEY_SIZE, .def = "0", .min = KIB, .max = TIB, .flags = MS_KEY_ZERO_OK,
	 .help = "most bytes a second that segments and snapshots take on their way to this replica; 0 = no limit"},
	{"concurrency", REPLICA(concurrency), .type = MS_KEY_UINT, .def = "0", .min = 1, .max = 16, .flags = MS_KEY_ZERO_OK,
	 .help = "most snapshot chunks (up to 4), or parts of one large object, on their way at once; 0 = as many as the backend calls useful"},
	{"retention.snapshotInterval", REPLICA(retention.snapshot_interval_us), .type = MS_KEY_DURATION, .min = 10 * MSEC, .max = 3650 * DAY,
	 .flags = MS_KEY_ZERO_INHERITS, .help = "default: the database's"},
	{"retention.snapshotRetention", REPLICA(retention.snapshot_retention_us), .type = MS_KEY_DURATION, .min = 10 * MSEC, .max = 36500 * DAY,
	 .flags = MS_KEY_ZERO_INHERITS, .help = "default: the database's"},
	{"retention.checkInterval", REPLICA(retention.check_interval_us), .type = MS_KEY_DURATION, .min = 10 * MSEC, .max = 3650 * DAY,
	 .flags = MS_KEY_ZERO_INHERITS, .help = "default: the database's"},
	{"fencing", REPLICA(fencing), .type = MS_KEY_ENUM, .values = "enforce|none", .def = "enforce",
	 .help = "none: a backend that cannot create objects only if absent; nothing then stops a second writer"},
	{0},
};

bool ms_config_name_valid(const char *s) {
	size_t n = strlen(s);
	return n > 0 && n <= MS_CONFIG_NAME_MAX && s[0] != '.' &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") == n;
}

static const char *size_exact(uint64_t v, char *ret, size_t cap) {
	static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
	unsigned u = 0;
	while (v && v % 1024 == 0 && u < 4)
		v /= 1024, u++;
	snprintf(ret, cap, "%" PRIu64 "%s", v, units[u]);
	return ret;
}

static const char *quantity(enum ms_key_type type, double v, char ret[48]) {
	char text[32];
	switch (type) {
	case MS_KEY_DURATION:
		snprintf(ret, 48, "%s", v == 0 ? "0" : ms_duration_format(text, (int64_t)v));
		break;
	case MS_KEY_SIZE:
		size_exact((uint64_t)v, ret, 48);
		break;
	default:
		snprintf(ret, 48, "%.15g", v);
	}
	return ret;
}

/* i-th of "a|b|c" into ret; false past the end. */
static bool enum_item(const char *values, int i, char *ret, size_t cap) {
	while (i-- > 0) {
		values = strchr(values, '|');
		if (!values)
			return false;
		values++;
	}
	snprintf(ret, cap, "%.*s", (int)strcspn(values, "|"), values);
	return true;
}

static enum ms_code in_range(const struct ms_key_def *k, double v, const char *text, struct ms_err *err) {
	char lo[48], hi[48];
	if (k->max == 0 || (v >= k->min && v <= k->max) || (v == 0 && (k->flags & (MS_KEY_ZERO_OK | MS_KEY_ZERO_INHERITS))))
		return MS_OK;
	return ms_err_set(err, MS_ECONFIG, "%.64s is out of range: %s to %s%s", text, quantity(k->type, k->min, lo), quantity(k->type, k->max, hi),
			  k->flags & (MS_KEY_ZERO_OK | MS_KEY_ZERO_INHERITS) ? ", or 0" : "");
}

const char *ms_key_about(const struct ms_key_def *k, char *ret, size_t cap) {
	static const char *const types[] = {[MS_KEY_STRING] = "text",	  [MS_KEY_PATH] = "path",     [MS_KEY_BOOL] = "true or false",
					    [MS_KEY_ENUM] = "",		  [MS_KEY_UINT] = "whole number", [MS_KEY_NUMBER] = "number",
					    [MS_KEY_DURATION] = "duration", [MS_KEY_SIZE] = "size"};
	char values[160] = "", lo[48], hi[48], range[128] = "", def[64] = "";
	for (size_t i = 0, n = 0; k->values && k->values[i] && n < sizeof values - 5; i++)
		n += (size_t)snprintf(values + n, sizeof values - n, k->values[i] == '|' ? " or " : "%c", k->values[i]);
	if (k->max > 0)
		snprintf(range, sizeof range, ", %s to %s%s", quantity(k->type, k->min, lo), quantity(k->type, k->max, hi),
			 k->flags & MS_KEY_ZERO_OK ? " or 0" : "");
	if (k->flags & MS_KEY_REQUIRED)
		snprintf(def, sizeof def, ", required");
	else if (k->def && !(strcmp(k->def, "0") == 0 && (k->flags & MS_KEY_ZERO_INHERITS)))
		snprintf(def, sizeof def, ", default %s", k->def);
	snprintf(ret, cap, "%s%s%s%s", types[k->type], values, range, def);
	return ret;
}

static enum ms_code set_string(char **field, const char *text, struct ms_err *err) {
	char *copy = strdup(text);
	if (!copy)
		return ms_err_set(err, MS_ENOMEM, "out of memory");
	free(*field);
	*field = copy;
	return MS_OK;
}

static enum ms_code set_enum(const struct ms_key_def *k, int *field, const char *text, struct ms_err *err) {
	char item[32], list[128] = "";
	size_t used = 0;
	for (int i = 0; enum_item(k->values, i, item, sizeof item); i++) {
		if (strcmp(item, text) == 0) {
			*field = i;
			return MS_OK;
		}
		int n = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", item);
		used = n > 0 && used + (size_t)n < sizeof list ? used + (size_t)n : used;
	}
	return ms_err_set(err, MS_ECONFIG, "'%.64s' is none of %s", text, list);
}

static enum ms_code set_integer(const struct ms_key_def *k, int64_t *field, const char *text, bool plain, struct ms_err *err) {
	char *end;
	errno = 0;
	long long v = strtoll(text, &end, 10);
	if (!plain || end == text || *end || (text[0] != '-' && (text[0] < '0' || text[0] > '9')))
		return ms_err_set(err, MS_ECONFIG, plain ? "'%.64s' is not a whole number" : "\"%.64s\" is text, not a whole number: write it without quotes", text);
	enum ms_code code = in_range(k, errno ? (v < 0 ? -HUGE_VAL : HUGE_VAL) : (double)v, text, err);
	if (!code)
		*field = v;
	return code;
}

static enum ms_code set_number(const struct ms_key_def *k, double *field, const char *text, bool plain, struct ms_err *err) {
	char *end;
	double v = strtod(text, &end);
	if (!plain || end == text || *end || strspn(text, "0123456789.eE+-") != strlen(text))
		return ms_err_set(err, MS_ECONFIG, plain ? "'%.64s' is not a number" : "\"%.64s\" is text, not a number: write it without quotes", text);
	enum ms_code code = in_range(k, v, text, err);
	if (!code)
		*field = v;
	return code;
}

enum ms_code ms_key_set(const struct ms_key_def *k, void *base, const char *text, bool plain, struct ms_err *err) {
	void *field = (char *)base + k->offset;
	struct ms_err inner = MS_ERR_INIT;
	int64_t us;
	uint64_t bytes;
	enum ms_code code;
	if (k->type != MS_KEY_STRING && k->type != MS_KEY_PATH && !*text)
		return ms_err_set(err, MS_ECONFIG, "has no value");
	switch (k->type) {
	case MS_KEY_STRING:
	case MS_KEY_PATH:
		if (!*text)
			return ms_err_set(err, MS_ECONFIG, "is empty");
		if ((k->flags & MS_KEY_NAME) && !ms_config_name_valid(text))
			return ms_err_set(err, MS_ECONFIG, "'%.64s' is not a name: 1 to %u letters, digits or any of . _ + -, not beginning with a dot", text,
					  MS_CONFIG_NAME_MAX);
		if (k->type == MS_KEY_PATH && strlen(text) > 4000)
			return ms_err_set(err, MS_ECONFIG, "is longer than 4000 bytes");
		return set_string(field, text, err);
	case MS_KEY_BOOL:
		if (!plain || (strcmp(text, "true") && strcmp(text, "false")))
			return ms_err_set(err, MS_ECONFIG, plain ? "'%.64s' is not true or false" : "\"%.64s\" is text, not true or false: write it without quotes", text);
		*(int *)field = strcmp(text, "true") == 0;
		return MS_OK;
	case MS_KEY_ENUM:
		return set_enum(k, field, text, err);
	case MS_KEY_UINT:
		return set_integer(k, field, text, plain, err);
	case MS_KEY_NUMBER:
		return set_number(k, field, text, plain, err);
	case MS_KEY_DURATION:
		if (ms_duration_parse(text, &us, &inner))
			return ms_err_set(err, MS_ECONFIG, strspn(text, "0123456789.") == strlen(text) ? "'%.64s' has no unit: write for example 30s, 1h30m or 500ms" :
					  "'%.64s' is not a duration: write for example 30s, 1h30m or 500ms", text);
		if ((code = in_range(k, (double)us, text, err)))
			return code;
		if (us || !(k->flags & MS_KEY_ZERO_INHERITS))
			*(int64_t *)field = us;
		return MS_OK;
	case MS_KEY_SIZE:
		if (ms_size_parse(text, &bytes, &inner))
			return ms_err_set(err, MS_ECONFIG, "'%.64s' is not a size: write for example 65536, 512KiB or 1GiB", text);
		if ((code = in_range(k, (double)bytes, text, err)))
			return code;
		*(uint64_t *)field = bytes;
		return MS_OK;
	}
	return ms_err_set(err, MS_EINVAL, "key of an unknown type");
}

const char *ms_key_format(const struct ms_key_def *k, const void *base, char *ret, size_t cap) {
	const void *field = (const char *)base + k->offset;
	char text[48];
	switch (k->type) {
	case MS_KEY_STRING:
	case MS_KEY_PATH:
		if (!*(char *const *)field)
			return NULL;
		snprintf(ret, cap, "%s", *(char *const *)field);
		break;
	case MS_KEY_BOOL:
		snprintf(ret, cap, "%s", *(const int *)field ? "true" : "false");
		break;
	case MS_KEY_ENUM:
		if (!enum_item(k->values, *(const int *)field, ret, cap))
			snprintf(ret, cap, "?");
		break;
	case MS_KEY_UINT:
		snprintf(ret, cap, "%" PRId64, *(const int64_t *)field);
		break;
	case MS_KEY_NUMBER:
		snprintf(ret, cap, "%.15g", *(const double *)field);
		break;
	case MS_KEY_DURATION:
		snprintf(ret, cap, "%s", quantity(k->type, (double)*(const int64_t *)field, text));
		break;
	case MS_KEY_SIZE:
		size_exact(*(const uint64_t *)field, ret, cap);
		break;
	}
	return ret;
}
