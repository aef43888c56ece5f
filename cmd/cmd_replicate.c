/*
 * migstream replicate: the daemon in the foreground.
 *
 * --once: captures what is there, ships it, exits 0 (1 if anything is unshipped). --exec CMD: starts CMD by /bin/sh -c once every database
 * has been looked at, passes SIGTERM, SIGINT and SIGHUP on to it, and ends when it ends: with its exit code, or 1 when shipping failed.
 */
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/log.h"
#include "cmd/args.h"
#include "cmd/auto_restore.h"
#include "cmd/cmds.h"
#include "cmd/daemon.h"
#include "cmd/shadow.h"

#define UPLOAD_THREADS 16u
#define UPLOAD_THREADS_MAX 32u

struct replicate {
	struct ms_env *env;
	struct ms_daemon *d;
	const char *exec;
	uv_process_t child;
	bool child_started, child_running, child_ended;
	int child_code;
	uv_signal_t signals[3];
	atomic_bool cancel; /* of a restore at start */
};

static void child_exited(uv_process_t *p, int64_t status, int term_signal) {
	struct replicate *r = p->data;
	r->child_running = false;
	r->child_ended = true;
	r->child_code = term_signal ? 128 + term_signal : (int)status;
	uv_close((uv_handle_t *)p, NULL);
	ms_log(MS_LOG_INFO, "command ended", "code=%d", r->child_code);
	ms_daemon_stop(r->d, 0);
}

static void changed(void *arg) {
	struct replicate *r = arg;
	if (!r->exec || r->child_started || r->d->stopping || !ms_daemon_all_attached(r->d))
		return;
	char shell[] = "/bin/sh", dash_c[] = "-c";
	char *args[] = {shell, dash_c, (char *)(uintptr_t)r->exec, NULL};
	uv_stdio_container_t stdio[3];
	for (int i = 0; i < 3; i++) {
		stdio[i].flags = UV_INHERIT_FD;
		stdio[i].data.fd = i;
	}
	uv_process_options_t o = {.exit_cb = child_exited, .file = "/bin/sh", .args = args, .stdio = stdio, .stdio_count = 3};
	r->child.data = r;
	r->child_started = true;
	int rc = uv_spawn(ms_env_uv_loop(r->env), &r->child, &o);
	if (rc) {
		ms_log(MS_LOG_ERROR, "command cannot be started", "error=%s", uv_strerror(rc));
		uv_close((uv_handle_t *)&r->child, NULL);
		ms_daemon_stop(r->d, 1);
		return;
	}
	r->child_running = true;
	ms_log(MS_LOG_INFO, "command started", "pid=%d", r->child.pid);
}

static void on_signal(uv_signal_t *h, int signum) {
	struct replicate *r = h->data;
	if (!r->d) { /* still restoring */
		atomic_store(&r->cancel, signum != SIGHUP || atomic_load(&r->cancel));
		return;
	}
	if (r->child_running) {
		uv_process_kill(&r->child, signum);
		if (signum != SIGHUP)
			return; /* its end ends us */
	}
	if (signum == SIGHUP) {
		ms_daemon_reload(r->d);
		return;
	}
	ms_log(MS_LOG_INFO, "stopping", "signal=%s", signum == SIGTERM ? "SIGTERM" : "SIGINT");
	ms_daemon_stop(r->d, 0);
}

static enum ms_code prepare(void *arg, const struct ms_config *config, const char *shadow, struct ms_err *err) {
	struct replicate *r = arg;
	return ms_auto_restore(r->env, config, shadow, &r->cancel, err);
}

static void watch_signals(struct replicate *r) {
	static const int wanted[3] = {SIGTERM, SIGINT, SIGHUP};
	for (int i = 0; i < 3; i++) {
		uv_signal_init(ms_env_uv_loop(r->env), &r->signals[i]);
		r->signals[i].data = r;
		uv_signal_start(&r->signals[i], on_signal, wanted[i]);
		uv_unref((uv_handle_t *)&r->signals[i]);
	}
}

static void unwatch_signals(struct replicate *r) {
	for (int i = 0; i < 3; i++)
		uv_close((uv_handle_t *)&r->signals[i], NULL);
}

/* A put that waits for its replica's bandwidth keeps its thread: each such replica brings its own two. */
static unsigned upload_threads(const struct ms_config *c) {
	unsigned n = UPLOAD_THREADS;
	for (unsigned i = 0; i < c->ndatabases; i++)
		for (unsigned k = 0; k < c->databases[i].nreplicas && n < UPLOAD_THREADS_MAX; k++)
			n += c->databases[i].replicas[k].bandwidth ? 2 : 0;
	return n;
}

int ms_cmd_replicate(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("replicate");
	struct ms_args a;
	struct ms_err err = MS_ERR_INIT;
	struct ms_config *config = NULL;
	char shadow[MS_PATH_MAX];
	struct replicate r = {0};
	int code = ms_args_parse(command, argc, argv, &a);

	if (code >= 0)
		return code;
	/* Resident memory is a promise: no arena for each thread, and large buffers go back to the system when they are freed. */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 256 << 10);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a write past a file size limit is an error like ENOSPC */
	if (ms_replicas_register_builtin(&err) != MS_OK || ms_replicate_config(&a, &config, shadow, &err) != MS_OK)
		return ms_command_fail(command, &err);
	ms_log_configure(2, (enum ms_log_level)config->log.level, config->log.format == MS_CONFIG_JSON);
	r.exec = ms_args_get(&a, "exec");
	if (!(r.env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){[MS_LANE_UPLOAD] = upload_threads(config)}, &err)))
		goto fail;
	struct ms_daemon_options opt = {.once = ms_args_flag(&a, "once"), .prepare = prepare, .prepare_arg = &r};
	watch_signals(&r);
	if (ms_daemon_new(r.env, config, shadow, &opt, &r.d, &err) != MS_OK) {
		unwatch_signals(&r);
		goto fail;
	}
	r.d->changed = changed;
	r.d->changed_arg = &r;
	ms_log(MS_LOG_INFO, "migstream starts", "version=%s databases=%u shadow=%s owner=%s", MS_VERSION, r.d->ndbs, r.d->shadow, r.d->owner);
	ms_daemon_start(r.d);
	if (atomic_load(&r.cancel))
		ms_daemon_stop(r.d, 0);
	r.env->ops->run(r.env);
	code = r.d->exit_code;
	if (r.child_ended) {
		uint64_t bytes;
		code = code ? code : ms_daemon_unshipped(r.d, &bytes) ? 1 : r.child_code;
	}
	ms_daemon_free(r.d);
	unwatch_signals(&r);
	ms_env_uv_free(r.env);
	return code;
fail:
	code = ms_command_fail(command, &err);
	ms_config_release(config);
	if (r.env)
		ms_env_uv_free(r.env);
	return code;
}
