/*
 * Threads in lanes. A thread is started when a job is queued and nobody waits for one, up to the lane's bound, and ends
 * after it has waited for IDLE_S in vain. Ended threads are joined when their place is used again, or at the end.
 */
#include "base/env_uv_internal.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define IDLE_S 10
#define STACK_BYTES (1024 * 1024)
#define SOURCE_SLICE_NS 100000

static struct ms_job *pop(struct ms_pool_lane *l) {
	struct ms_job *job = l->head;

	if (job) {
		l->head = job->next_;
		if (!l->head)
			l->tail = NULL;
		job->next_ = NULL;
		l->queued--;
	}
	return job;
}

/* Next job, NULL when the thread is to end. Under the mutex. */
static struct ms_job *wait_job(struct ms_pool_lane *l) {
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_S;
	l->idle++;
	while (!l->head && !l->pool->closing && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&l->wake, &l->pool->mutex, &until);
	l->idle--;
	return l->pool->closing ? NULL : pop(l);
}

/*
 * Sources must be back on the processor soon after a sleep, and then do little: since Linux 6.12 a task without privileges may ask
 * for short slices, which the scheduler gives at an earlier deadline. Elsewhere this changes nothing. The struct is the first
 * published form of the system call's (sched_setattr(2)); Debian 12's C library does not declare it.
 */
static void short_slices(void) {
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} a = {.size = sizeof a};
	if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0 || a.policy != SCHED_OTHER)
		return;
	a.size = sizeof a;
	a.runtime = SOURCE_SLICE_NS;
	(void)syscall(SYS_sched_setattr, 0, &a, 0);
}

static void *work(void *arg) {
	struct ms_pool_worker *w = arg;
	struct ms_pool_lane *l = w->lane;
	struct ms_pool *p = l->pool;
	struct ms_job *job;

	if (l == &p->lanes[MS_LANE_SOURCE])
		short_slices();
	pthread_mutex_lock(&p->mutex);
	while ((job = wait_job(l))) {
		bool wants_done = job->done != NULL; /* without one the job may be gone after run() */

		pthread_mutex_unlock(&p->mutex);
		job->run(job->arg);
		if (wants_done)
			p->finished(p->arg, job);
		pthread_mutex_lock(&p->mutex);
	}
	l->running--;
	w->state = MS_WORKER_ENDED;
	pthread_mutex_unlock(&p->mutex);
	return NULL;
}

/* Under the mutex. An ended worker has given the mutex up for good, so joining it here cannot lock up. */
static bool start_worker(struct ms_pool_lane *l) {
	struct ms_pool_worker *w = NULL;
	pthread_attr_t attr;
	sigset_t all, old;
	char name[16];

	for (unsigned i = 0; i < l->max && !w; i++)
		if (l->workers[i].state != MS_WORKER_RUNNING)
			w = &l->workers[i];
	if (!w)
		return false;
	if (w->state == MS_WORKER_ENDED)
		pthread_join(w->thread, NULL);
	w->state = MS_WORKER_NONE;
	w->lane = l;
	if (pthread_attr_init(&attr) != 0)
		return false;
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	/* Signals are for the loop's thread; here they would only interrupt system calls. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(&w->thread, &attr, work, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (rc != 0)
		return false;
	w->state = MS_WORKER_RUNNING;
	l->running++;
	snprintf(name, sizeof name, "ms-%s", l->name);
	pthread_setname_np(w->thread, name);
	return true;
}

/* Under the mutex. */
static bool start_missing(struct ms_pool_lane *l) {
	while (l->queued > l->idle && l->running < l->max)
		if (!start_worker(l))
			return l->running > 0;
	return true;
}

bool ms_pool_submit(struct ms_pool *p, enum ms_lane lane, struct ms_job *job) {
	struct ms_pool_lane *l = &p->lanes[lane];

	job->next_ = NULL;
	pthread_mutex_lock(&p->mutex);
	if (l->tail)
		l->tail->next_ = job;
	else
		l->head = job;
	l->tail = job;
	l->queued++;
	pthread_cond_signal(&l->wake);
	bool ok = start_missing(l);
	pthread_mutex_unlock(&p->mutex);
	return ok;
}

bool ms_pool_kick(struct ms_pool *p) {
	bool ok = true;

	pthread_mutex_lock(&p->mutex);
	for (int i = 0; i < MS_LANE_COUNT; i++)
		ok = start_missing(&p->lanes[i]) && ok;
	pthread_mutex_unlock(&p->mutex);
	return ok;
}

enum ms_code ms_pool_init(struct ms_pool *p, const unsigned threads[MS_LANE_COUNT], void (*finished)(void *, struct ms_job *),
			  void *arg, struct ms_err *err) {
	static const unsigned defaults[MS_LANE_COUNT] = {
	    [MS_LANE_SOURCE] = 2, [MS_LANE_SYNC] = 1, [MS_LANE_UPLOAD] = 16, [MS_LANE_CPU] = 2};
	static const char *const names[MS_LANE_COUNT] = {
	    [MS_LANE_SOURCE] = "source", [MS_LANE_SYNC] = "sync", [MS_LANE_UPLOAD] = "upload", [MS_LANE_CPU] = "cpu"};
	pthread_condattr_t attr;

	*p = (struct ms_pool){.finished = finished, .arg = arg};
	pthread_mutex_init(&p->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	for (int i = 0; i < MS_LANE_COUNT; i++) {
		struct ms_pool_lane *l = &p->lanes[i];

		l->pool = p;
		l->name = names[i];
		l->max = threads && threads[i] ? threads[i] : defaults[i];
		if (l->max > MS_POOL_THREADS_MAX)
			l->max = MS_POOL_THREADS_MAX;
		pthread_cond_init(&l->wake, &attr);
		l->workers = calloc(l->max, sizeof *l->workers);
	}
	pthread_condattr_destroy(&attr);
	for (int i = 0; i < MS_LANE_COUNT; i++)
		if (!p->lanes[i].workers)
			return ms_err_set(err, MS_ENOMEM, "thread pool: cannot allocate %u threads", p->lanes[i].max);
	return MS_OK;
}

void ms_pool_release(struct ms_pool *p) {
	pthread_mutex_lock(&p->mutex);
	p->closing = true;
	for (int i = 0; i < MS_LANE_COUNT; i++) {
		p->lanes[i].head = p->lanes[i].tail = NULL;
		p->lanes[i].queued = 0;
		pthread_cond_broadcast(&p->lanes[i].wake);
	}
	pthread_mutex_unlock(&p->mutex);
	for (int i = 0; i < MS_LANE_COUNT; i++) {
		struct ms_pool_lane *l = &p->lanes[i];

		/* Only the owner of the pool starts threads, so the states that matter stay as they are now. */
		for (unsigned k = 0; l->workers && k < l->max; k++) {
			pthread_mutex_lock(&p->mutex);
			bool started = l->workers[k].state != MS_WORKER_NONE;
			pthread_mutex_unlock(&p->mutex);
			if (started)
				pthread_join(l->workers[k].thread, NULL);
		}
		free(l->workers);
		pthread_cond_destroy(&l->wake);
	}
	pthread_mutex_destroy(&p->mutex);
}
