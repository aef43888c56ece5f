/* migstream status: what the daemon answers, or "stopped" with what the shadow directory knows (exit 1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmds.h"
#include "cmd/control_client.h"
#include "cmd/offline_status.h"
#include "cmd/replica_spec.h"
#include "cmd/status_json.h"
#include "cmd/status_text.h"

#define ANSWER_US 30000000

/* Leaves only one database, by name or path. */
static enum ms_code keep(json_t *status, const char *db, struct ms_err *err) {
	json_t *list = json_object_get(status, "databases"), *only = json_array();
	size_t i;
	json_t *d;
	json_array_foreach(list, i, d) {
		const char *name = json_string_value(json_object_get(d, "name")), *path = json_string_value(json_object_get(d, "path"));
		if ((name && strcmp(name, db) == 0) || (path && strcmp(path, db) == 0))
			json_array_append(only, d);
	}
	bool found = json_array_size(only) > 0;
	json_object_set_new(status, "databases", only);
	return found ? MS_OK : ms_err_set(err, MS_ENOTFOUND, "no database %s there", db);
}

static void show(const json_t *status, bool json) {
	if (json) {
		json_dumpf(status, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		ms_status_text(status, stdout);
	}
}

/* Without a configuration the directory knows names, not paths: of all it holds, the one that `migstream replicate db` would have made. */
static enum ms_code only_named(const char *db, struct ms_stream_status *streams, unsigned *n, struct ms_err *err) {
	struct ms_config *c = NULL;
	unsigned kept = 0;
	enum ms_code code = ms_config_from_args(db, NULL, 0, &c, err);
	if (code)
		return code;
	for (unsigned i = 0; i < *n; i++) {
		if (!kept && strcmp(streams[i].name, c->databases[0].name) == 0) {
			struct ms_stream_status s = streams[0];
			streams[0] = streams[i];
			streams[i] = s;
			kept = 1;
		}
	}
	for (unsigned i = kept; i < *n; i++)
		ms_stream_status_release(&streams[i]);
	*n = kept;
	if (kept && (strchr(db, '/') || access(db, F_OK) == 0))
		code = ms_canonical_path(db, streams[0].path, err);
	ms_config_release(c);
	return code;
}

static enum ms_code stopped(const struct ms_target *t, const char *wanted, json_t **ret, struct ms_err *err) {
	struct ms_status_view v = {.now_us = 0};
	struct ms_stream_status *streams = NULL;
	struct ms_journal_stats journal;
	int64_t *thresholds = NULL;
	bool has_journal = false;
	struct ms_env *env = ms_env_uv_new(NULL, err);
	enum ms_code code = env ? ms_replicas_register_builtin(err) : err->code;
	if (!code && t->shadow[0])
		code = ms_offline_status(env, t->shadow, t->config, &streams, &v.n, &journal, &has_journal, err);
	if (!code && t->config && !(thresholds = calloc(v.n + 1, sizeof *thresholds)))
		code = ms_err_set(err, MS_ENOMEM, "status: out of memory");
	for (unsigned i = 0; !code && t->config && i < v.n; i++)
		thresholds[i] = t->config->databases[i].s.data_loss_window_threshold_us;
	if (!code && wanted && !t->config && streams)
		code = only_named(wanted, streams, &v.n, err);
	if (!code) {
		v.streams = streams;
		v.thresholds_us = thresholds;
		v.journal = has_journal ? &journal : NULL;
		v.now_us = ms_env_now_us(env);
		if (!(*ret = ms_status_json(&v)))
			code = ms_err_set(err, MS_ENOMEM, "status: out of memory");
		else
			json_object_set_new(*ret, "shadowDir", t->shadow[0] ? json_string(t->shadow) : json_null());
	}
	for (unsigned i = 0; i < v.n; i++)
		ms_stream_status_release(&streams[i]);
	free(streams);
	free(thresholds);
	ms_env_uv_free(env);
	return code;
}

int ms_cmd_status(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("status");
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	struct ms_target t;
	json_t *status = NULL;
	bool running = true;
	char db[MS_PATH_MAX];
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	const char *wanted = a.npositionals ? a.positionals[0] : NULL;
	enum ms_code code = ms_target_find(&a, wanted, &t, &err);
	if (code)
		return ms_command_fail(command, &err);
	code = ms_control_call(t.socket, false, "/status", NULL, ANSWER_US, &status, &err);
	if (code == MS_ECLOSED) {
		running = false;
		err = MS_ERR_INIT;
		code = stopped(&t, wanted, &status, &err);
	}
	if (!code && wanted)
		code = ms_control_db(&t, wanted, db, &err);
	if (!code && wanted && (running || t.config))
		code = keep(status, db, &err);
	if (!code)
		show(status, ms_args_flag(&a, "json"));
	json_decref(status);
	ms_target_release(&t);
	return code ? ms_command_fail(command, &err) : running ? 0 : 1;
}
