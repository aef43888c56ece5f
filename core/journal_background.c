/*
 * Sync in the background: a job on the sync lane, the timer of ASYNC and of retries, and the posts by which an append on any
 * thread reaches the loop thread. All but the job itself runs on the loop thread.
 *
 * A job that is queued and a post cannot be called back. They hold a link and not the journal; the link outlives it.
 */
#include <stdlib.h>

#include "core/journal_internal.h"

#define RETRY_US 250000
#define GAP_US 2000 /* between the beginnings of two syncs that nobody waits for: under load each covers more */

/* Links whose callbacks an environment has dropped: kept where they can be found, because the environment does not say so. */
static pthread_mutex_t orphans_mu = PTHREAD_MUTEX_INITIALIZER;
static struct msj_link *orphans;

struct msj_link *msj_link_new(struct ms_journal *j) {
	struct msj_link *l = calloc(1, sizeof *l);
	if (!l)
		return NULL;
	pthread_mutex_init(&l->mu, NULL);
	pthread_cond_init(&l->cond, NULL);
	l->j = j;
	return l;
}

static void link_free(struct msj_link *l) {
	pthread_cond_destroy(&l->cond);
	pthread_mutex_destroy(&l->mu);
	free(l);
}

void msj_link_leave(struct msj_link *l) {
	if (!l)
		return;
	pthread_mutex_lock(&l->mu);
	while (l->running)
		pthread_cond_wait(&l->cond, &l->mu);
	l->j = NULL;
	bool last = !l->callbacks;
	pthread_mutex_unlock(&l->mu);
	if (last) {
		link_free(l);
		return;
	}
	pthread_mutex_lock(&orphans_mu);
	l->next = orphans;
	orphans = l;
	pthread_mutex_unlock(&orphans_mu);
}

/* A callback has come. Its journal, or NULL when that is gone. */
static struct ms_journal *called(struct msj_link *l) {
	pthread_mutex_lock(&l->mu);
	struct ms_journal *j = l->j;
	bool last = --l->callbacks == 0 && !j;
	pthread_mutex_unlock(&l->mu);
	if (last) {
		pthread_mutex_lock(&orphans_mu);
		struct msj_link **at = &orphans;
		while (*at != l)
			at = &(*at)->next;
		*at = l->next;
		pthread_mutex_unlock(&orphans_mu);
		link_free(l);
	}
	return j;
}

static void expect_call(struct msj_link *l) {
	pthread_mutex_lock(&l->mu);
	l->callbacks++;
	pthread_mutex_unlock(&l->mu);
}

static void job_run(void *arg) {
	struct msj_link *l = arg;
	pthread_mutex_lock(&l->mu);
	struct ms_journal *j = l->j;
	l->running = j != NULL;
	pthread_mutex_unlock(&l->mu);
	if (!j)
		return;
	l->err = MS_ERR_INIT;
	l->err.code = ms_journal_sync(j, UINT64_MAX, &l->err);
	pthread_mutex_lock(&l->mu);
	l->running = false;
	pthread_cond_broadcast(&l->cond);
	pthread_mutex_unlock(&l->mu);
}

static void on_timer(void *arg) {
	struct ms_journal *j = arg;
	pthread_mutex_lock(&j->mu);
	j->timer_armed = false;
	pthread_mutex_unlock(&j->mu);
	ms_journal_kick(j);
}

static void arm(struct ms_journal *j, int64_t us) {
	pthread_mutex_lock(&j->mu);
	bool was = j->timer_armed, closed = j->closed;
	j->timer_armed = !closed;
	pthread_mutex_unlock(&j->mu);
	if (was || closed)
		return;
	if (!j->timer && !(j->timer = j->env->ops->timer_new(j->env, on_timer, j))) {
		on_timer(j); /* without a timer, sync at once */
		return;
	}
	j->env->ops->timer_start(j->timer, (uint64_t)us);
}

static void job_done(void *arg) {
	struct msj_link *l = arg;
	struct ms_err err = l->err;
	struct ms_journal *j = called(l);
	if (!j)
		return;
	bool again = j->job_again, failed = err.code != MS_OK;
	j->job_busy = j->job_again = false;
	if (j->hook)
		j->hook(j->hook_arg, atomic_load(&j->durable), failed ? &err : NULL);
	pthread_mutex_lock(&j->mu);
	bool closed = j->closed, more = atomic_load(&j->durable) + 1 < j->next;
	pthread_mutex_unlock(&j->mu);
	if (closed)
		return;
	if (failed)
		arm(j, RETRY_US);
	else if (again)
		ms_journal_kick(j);
	else if (more && j->cfg.mode != MS_SYNC_ASYNC)
		ms_journal_nudge(j);
	else if (more)
		arm(j, j->cfg.sync_interval_us);
}

void ms_journal_kick(struct ms_journal *j) {
	pthread_mutex_lock(&j->mu);
	bool closed = j->closed;
	pthread_mutex_unlock(&j->mu);
	if (closed)
		return;
	if (j->job_busy) {
		j->job_again = true;
		return;
	}
	j->job_busy = true;
	j->job_began_ns = ms_env_mono_ns(j->env);
	expect_call(j->link);
	j->link->job = (struct ms_job){.run = job_run, .done = job_done, .arg = j->link};
	j->env->ops->submit(j->env, MS_LANE_SYNC, &j->link->job);
}

void ms_journal_nudge(struct ms_journal *j) {
	if (j->cfg.mode == MS_SYNC_ASYNC || j->job_busy) /* job_done() looks for more by itself */
		return;
	pthread_mutex_lock(&j->mu);
	bool more = atomic_load(&j->durable) + 1 < j->next;
	pthread_mutex_unlock(&j->mu);
	if (!more)
		return;
	uint64_t since = (ms_env_mono_ns(j->env) - j->job_began_ns) / 1000;
	if (since < GAP_US)
		arm(j, (int64_t)(GAP_US - since));
	else
		ms_journal_kick(j);
}

static void on_post(void *arg) {
	struct ms_journal *j = called(arg);
	if (!j)
		return;
	pthread_mutex_lock(&j->mu);
	bool kick = j->want_kick;
	j->posted = j->want_kick = false;
	pthread_mutex_unlock(&j->mu);
	if (kick)
		ms_journal_kick(j);
	else
		arm(j, j->cfg.sync_interval_us);
}

void msj_post(struct ms_journal *j) {
	expect_call(j->link);
	j->env->ops->post(j->env, on_post, j->link);
}

void ms_journal_set_hook(struct ms_journal *j, void (*hook)(void *arg, uint64_t durable_seq, const struct ms_err *err),
			 void *arg) {
	j->hook = hook;
	j->hook_arg = arg;
}
