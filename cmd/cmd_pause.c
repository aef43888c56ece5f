/* migstream pause, resume and takeover: one request each. A takeover without a daemon leaves a mark for the next start. */
#include <stdio.h>
#include <string.h>

#include "base/env.h"
#include "cmd/cmds.h"
#include "cmd/control_client.h"

#define ANSWER_US 60000000

/* <shadow>/db/<name>/takeover, which cmd/daemon_db.c uses once. */
static enum ms_code leave_mark(const struct ms_args *a, const char *db, struct ms_err *err) {
	struct ms_target t;
	struct ms_config *made = NULL;
	struct ms_stat st;
	char dir[MS_PATH_MAX], mark[MS_PATH_MAX + 16];
	struct ms_env *env = NULL;
	enum ms_code code = ms_target_find(a, db, &t, err);
	if (code)
		return code;
	const struct ms_config_database *d = NULL;
	if (!t.shadow[0])
		code = ms_err_set(err, MS_ECLOSED, "no daemon is running on %s; start it with `migstream replicate --takeover`, or name its configuration with -c FILE", t.socket);
	else if (t.config && !(d = ms_config_find(t.config, db)))
		code = ms_err_set(err, MS_ENOTFOUND, "no database %s in %s", db, t.config->file);
	else if (!t.config && !(code = ms_config_from_args(db, NULL, 0, &made, err)))
		d = &made->databases[0];
	if (!code && !(env = ms_env_uv_new(NULL, err)))
		code = err->code;
	if (!code && snprintf(dir, sizeof dir, "%s/db/%s", t.shadow, d->name) >= (int)sizeof dir)
		code = ms_err_set(err, MS_ETOOBIG, "path of the shadow directory is too long");
	/* A mistyped name would wait for ever. */
	if (!code && made && env->ops->stat(env, dir, &st, NULL) && env->ops->stat(env, d->path, &st, NULL))
		code = ms_err_set(err, MS_ENOTFOUND, "there is no database %s, and %s knows nothing of one", db, t.shadow);
	if (!code && !(code = ms_fs_mkdir_p(env, dir, 0700, err))) {
		snprintf(mark, sizeof mark, "%s/takeover", dir);
		code = ms_fs_replace_file(env, mark, "", 0, 0600, err);
	}
	if (!code)
		printf("no daemon is running: the next start takes over the replicas of %s (%s)\n", d->name, mark);
	ms_env_uv_free(env);
	ms_config_release(made);
	ms_target_release(&t);
	return code;
}

int ms_cmd_pause(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find(argv[0]);
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	char path[32];
	json_t *o = NULL;
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	snprintf(path, sizeof path, "/%s", command->name);
	enum ms_code code = ms_control_call_db(&a, a.positionals[0], true, path, NULL, ANSWER_US, &o, &err);
	json_decref(o);
	if (code == MS_ECLOSED && strcmp(command->name, "takeover") == 0) {
		err = MS_ERR_INIT;
		code = leave_mark(&a, a.positionals[0], &err);
	}
	return code ? ms_command_fail(command, &err) : 0;
}
