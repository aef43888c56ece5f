#include "cmd/observer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cmd/daemon.h"
#include "cmd/shadow.h"

struct ms_observer {
	struct ms_env *env;
	struct ms_daemon *d;
	struct ms_source *source; /* the stream's */
	struct ms_push_config db;
	pthread_t thread;
	pthread_mutex_t mutex; /* guards ended and the waiters */
	pthread_cond_t cond;
	bool ended; /* the loop has */
	struct waiter *waiters;
};

/* One call of ms_observer_wait(): the caller's reference and the loop's, which a loop that ends does not give back. */
struct waiter {
	struct waiter *next;
	struct ms_observer *o;
	unsigned refs;
	bool done;
	uint64_t txid, seq;
	struct ms_err err;
};

static struct ms_source *make_source(void *arg, const struct ms_config_database *c, struct ms_err *err) {
	struct ms_observer *o = arg;
	(void)c;
	return o->source = ms_push_source_new(o->env, &o->db, err);
}

static void *loop(void *arg) {
	struct ms_observer *o = arg;
	ms_daemon_start(o->d);
	o->env->ops->run(o->env);
	pthread_mutex_lock(&o->mutex);
	o->ended = true;
	pthread_cond_broadcast(&o->cond);
	pthread_mutex_unlock(&o->mutex);
	return NULL;
}

static enum ms_code start(struct ms_observer *o, const struct ms_observer_config *cfg, struct ms_err *err) {
	char shadow[MS_PATH_MAX];
	struct ms_config *config = NULL;
	struct ms_daemon_options opt = {.make_source = make_source, .make_source_arg = o};
	enum ms_code rc;
	if ((rc = ms_replicas_register_builtin(err)) != MS_OK || (rc = ms_config_from_args(cfg->path, cfg->urls, cfg->nurls, &config, err)) != MS_OK)
		return rc;
	rc = cfg->shadow_dir ? ms_canonical_path(cfg->shadow_dir, shadow, err) : ms_shadow_default(cfg->path, shadow, err);
	if (rc == MS_OK && !(o->env = ms_env_uv_new(NULL, err)))
		rc = err ? err->code : MS_EIO;
	if (rc == MS_OK && (rc = ms_daemon_new(o->env, config, shadow, &opt, &o->d, err)) == MS_OK) {
		config = NULL; /* the daemon's */
		if (pthread_create(&o->thread, NULL, loop, o) != 0)
			rc = ms_err_set(err, MS_ENOMEM, "loop thread");
	}
	ms_config_release(config);
	return rc;
}

static void release(struct ms_observer *o) {
	ms_daemon_free(o->d);
	ms_env_uv_free(o->env);
	while (o->waiters) {
		struct waiter *w = o->waiters;
		o->waiters = w->next;
		free(w);
	}
	pthread_cond_destroy(&o->cond);
	pthread_mutex_destroy(&o->mutex);
	free(o);
}

enum ms_code ms_observer_open(const struct ms_observer_config *cfg, struct ms_observer **ret, struct ms_err *err) {
	struct ms_observer *o = calloc(1, sizeof *o);
	struct ms_err e = MS_ERR_INIT;
	pthread_condattr_t attr;
	sigset_t all, before;
	if (!o)
		return ms_err_set(err, MS_ENOMEM, "observer");
	o->db = cfg->db;
	pthread_mutex_init(&o->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&o->cond, &attr);
	pthread_condattr_destroy(&attr);
	/* The engine's signals are the engine's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	enum ms_code rc = start(o, cfg, &e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == MS_OK) {
		*ret = o;
		return MS_OK;
	}
	release(o);
	if (err)
		*err = e;
	return rc;
}

void ms_observer_begin(struct ms_observer *o) { ms_push_begin(o->source); }
void ms_observer_cancel(struct ms_observer *o) { ms_push_cancel(o->source); }

enum ms_code ms_stream_on_page_flush(struct ms_observer *o, const struct ms_page_flush *f, struct ms_err *err) {
	enum ms_code rc = ms_push_flush(o->source, f, err);
	if (rc != MS_OK)
		return rc;
	/* The journal is shared by nobody else here: its newest entry is ours. */
	return ms_journal_sync(o->d->journal, ms_journal_next_seq(o->d->journal) - 1, err);
}

/* ---- waiting ---- */

/* Locked. */
static void unref(struct waiter *w) {
	struct waiter **p = &w->o->waiters;
	if (--w->refs)
		return;
	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	free(w);
}

static void captured(void *arg, uint64_t txid, const struct ms_err *err) {
	struct waiter *w = arg;
	struct ms_observer *o = w->o;
	pthread_mutex_lock(&o->mutex);
	w->txid = txid;
	w->seq = ms_journal_next_seq(o->d->journal) - 1;
	if (err)
		w->err = *err;
	w->done = true;
	pthread_cond_broadcast(&o->cond);
	unref(w);
	pthread_mutex_unlock(&o->mutex);
}

static void ask(void *arg) {
	struct waiter *w = arg;
	const struct ms_daemon_db *db = w->o->d->ndbs ? w->o->d->dbs[0] : NULL;
	if (db && db->ended.code != MS_OK)
		captured(w, 0, &db->ended);
	else if (!db || w->o->d->stopping)
		captured(w, 0, &(struct ms_err){MS_ECLOSED, 0, "the observer is closing"});
	else
		ms_stream_barrier(db->stream, captured, w);
}

enum ms_code ms_observer_wait(struct ms_observer *o, int64_t timeout_us, uint64_t *ret_txid, struct ms_err *err) {
	struct waiter *w = calloc(1, sizeof *w);
	struct timespec until;
	enum ms_code rc = MS_OK;
	if (!w)
		return ms_err_set(err, MS_ENOMEM, "wait");
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(timeout_us / 1000000);
	until.tv_nsec += (long)(timeout_us % 1000000) * 1000;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	w->o = o;
	w->refs = 2;
	pthread_mutex_lock(&o->mutex);
	w->next = o->waiters;
	o->waiters = w;
	o->env->ops->post(o->env, ask, w);
	while (!w->done && !o->ended && rc == MS_OK) {
		int n = timeout_us > 0 ? pthread_cond_timedwait(&o->cond, &o->mutex, &until) : pthread_cond_wait(&o->cond, &o->mutex);
		if (n == ETIMEDOUT)
			rc = MS_ETIMEDOUT;
	}
	bool done = w->done;
	uint64_t txid = w->txid, seq = w->seq;
	struct ms_err e = w->err;
	unref(w);
	if (!done && o->ended)
		rc = ms_err_set(err, MS_ECLOSED, "the stream has ended");
	pthread_mutex_unlock(&o->mutex);
	if (rc == MS_ETIMEDOUT && !done)
		return ms_err_set(err, MS_ETIMEDOUT, "the stream is not there yet; `migstream status` says why");
	if (!done)
		return rc;
	if (e.code != MS_OK) {
		if (err)
			*err = e;
		return e.code;
	}
	if ((rc = ms_journal_sync(o->d->journal, seq, err)) == MS_OK && ret_txid)
		*ret_txid = txid;
	return rc;
}

/* ---- closing ---- */

static void stop(void *arg) {
	struct ms_observer *o = arg;
	ms_daemon_stop(o->d, 0);
}

void ms_observer_close(struct ms_observer *o, bool *ret_unshipped) {
	uint64_t bytes;
	if (!o)
		return;
	ms_push_close(o->source);
	o->env->ops->post(o->env, stop, o);
	pthread_join(o->thread, NULL);
	if (ret_unshipped)
		*ret_unshipped = ms_daemon_unshipped(o->d, &bytes) != 0;
	release(o);
}
