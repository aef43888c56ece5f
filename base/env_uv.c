/*
 * The real environment: a libuv loop for timers, descriptors and completions. Pool threads and posts reach the loop through
 * one uv_async_t; what they bring waits in two queues under one mutex and is taken over as a whole, so a callback that
 * queues more cannot keep the loop from its timers.
 */
#include "base/env.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <uv.h>

#include "base/env_uv_internal.h"

#define SPARE_POSTS 64
#define KICK_MS 100
/* Far beyond any uptime, and small enough not to wrap when added to the clock. */
#define DELAY_MAX_US (UINT64_C(1) << 60)

struct post {
	struct post *next;
	void (*cb)(void *);
	void *arg;
};

struct uv_env {
	struct ms_env env; /* first: ms_env pointers are cast */
	struct ms_env_ops ops;
	uv_loop_t loop;
	uv_async_t async;
	uv_timer_t kick; /* armed while threads could not be started */
	struct ms_pool pool;
	atomic_bool stop;
	pthread_mutex_t mutex; /* over the fields below */
	struct ms_job *done_head, *done_tail;
	struct post *post_head, *post_tail;
	struct post *spare; /* so that a post rarely allocates */
	unsigned nspare;
};

struct ms_timer {
	uv_timer_t uv; /* first: handle pointers are cast */
	void (*cb)(void *);
	void *arg;
};

struct ms_poll {
	uv_poll_t uv; /* first */
	void (*cb)(void *);
	void *arg;
};

static struct uv_env *self(struct ms_env *env) {
	return (struct uv_env *)env;
}

/* Where no error can be returned and going on would lose work silently. */
static _Noreturn void die(const char *what) {
	fprintf(stderr, "migstream: %s\n", what);
	abort();
}

static int64_t env_now_us(struct ms_env *env) {
	struct timespec t;

	(void)env;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

static uint64_t mono_ns(void) {
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static uint64_t env_mono_ns(struct ms_env *env) {
	(void)env;
	return mono_ns();
}

static void env_random_bytes(struct ms_env *env, void *buf, size_t n) {
	(void)env;
	for (size_t at = 0; at < n;) {
		ssize_t got = getrandom((char *)buf + at, n - at, 0);

		if (got > 0)
			at += (size_t)got;
		else if (errno != EINTR)
			die("the kernel gives no random bytes");
	}
}

static void env_sleep_us(struct ms_env *env, uint64_t us) {
	struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

	(void)env;
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
		;
}

static struct ms_timer *timer_make(struct ms_env *env, void (*cb)(void *), void *arg) {
	struct ms_timer *t = calloc(1, sizeof *t);

	if (!t)
		return NULL;
	t->cb = cb;
	t->arg = arg;
	uv_timer_init(&self(env)->loop, &t->uv); /* cannot fail */
	return t;
}

static void on_timer(uv_timer_t *uv) {
	struct ms_timer *t = (struct ms_timer *)uv;

	t->cb(t->arg);
}

static void timer_begin(struct ms_timer *t, uint64_t delay_us) {
	if (delay_us > DELAY_MAX_US)
		delay_us = DELAY_MAX_US;
	/* The loop's clock has whole milliseconds: rounded so that the timer is never early. */
	uv_update_time(t->uv.loop);
	uint64_t due_ms = (mono_ns() / 1000 + delay_us + 999) / 1000, now_ms = uv_now(t->uv.loop);
	uv_timer_start(&t->uv, on_timer, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

static void timer_cancel(struct ms_timer *t) {
	uv_timer_stop(&t->uv);
}

static void free_handle(uv_handle_t *h) {
	free(h);
}

static void timer_release(struct ms_timer *t) {
	if (t)
		uv_close((uv_handle_t *)&t->uv, free_handle);
}

static void on_poll(uv_poll_t *uv, int status, int events) {
	struct ms_poll *p = (struct ms_poll *)uv;

	/* A broken descriptor is told like a readable one: the reader meets the error. */
	(void)status;
	(void)events;
	p->cb(p->arg);
}

static struct ms_poll *poll_make(struct ms_env *env, int fd, void (*cb)(void *), void *arg) {
	struct ms_poll *p = calloc(1, sizeof *p);

	if (!p)
		return NULL;
	p->cb = cb;
	p->arg = arg;
	if (uv_poll_init(&self(env)->loop, &p->uv, fd) != 0) {
		free(p);
		return NULL;
	}
	if (uv_poll_start(&p->uv, UV_READABLE, on_poll) != 0) {
		uv_close((uv_handle_t *)&p->uv, free_handle);
		return NULL;
	}
	return p;
}

static void poll_release(struct ms_poll *p) {
	if (p)
		uv_close((uv_handle_t *)&p->uv, free_handle);
}

static void finished(void *arg, struct ms_job *job) {
	struct uv_env *e = arg;

	job->next_ = NULL;
	pthread_mutex_lock(&e->mutex);
	if (e->done_tail)
		e->done_tail->next_ = job;
	else
		e->done_head = job;
	e->done_tail = job;
	pthread_mutex_unlock(&e->mutex);
	uv_async_send(&e->async);
}

static void on_kick(uv_timer_t *t) {
	struct uv_env *e = t->data;

	if (!ms_pool_kick(&e->pool))
		uv_timer_start(&e->kick, on_kick, KICK_MS, 0);
}

static void env_submit(struct ms_env *env, enum ms_lane lane, struct ms_job *job) {
	struct uv_env *e = self(env);

	if (!ms_pool_submit(&e->pool, lane, job))
		uv_timer_start(&e->kick, on_kick, KICK_MS, 0);
}

static void env_post(struct ms_env *env, void (*cb)(void *), void *arg) {
	struct uv_env *e = self(env);

	pthread_mutex_lock(&e->mutex);
	struct post *p = e->spare;
	if (p) {
		e->spare = p->next;
		e->nspare--;
	} else if (!(p = malloc(sizeof *p)))
		die("out of memory for a call to the loop");
	*p = (struct post){.cb = cb, .arg = arg};
	if (e->post_tail)
		e->post_tail->next = p;
	else
		e->post_head = p;
	e->post_tail = p;
	pthread_mutex_unlock(&e->mutex);
	uv_async_send(&e->async);
}

static void free_posts(struct post *p) {
	while (p) {
		struct post *next = p->next;

		free(p);
		p = next;
	}
}

/* Takes used posts back as spare ones, as many as are to be kept. */
static void recycle(struct uv_env *e, struct post *p) {
	pthread_mutex_lock(&e->mutex);
	while (p && e->nspare < SPARE_POSTS) {
		struct post *next = p->next;

		p->next = e->spare;
		e->spare = p;
		e->nspare++;
		p = next;
	}
	pthread_mutex_unlock(&e->mutex);
	free_posts(p);
}

static void on_async(uv_async_t *a) {
	struct uv_env *e = a->data;

	pthread_mutex_lock(&e->mutex);
	struct ms_job *job = e->done_head;
	struct post *posts = e->post_head;
	e->done_head = e->done_tail = NULL;
	e->post_head = e->post_tail = NULL;
	pthread_mutex_unlock(&e->mutex);

	while (job) {
		struct ms_job *next = job->next_; /* done() may submit the job again, or free it */

		job->next_ = NULL;
		job->done(job->arg);
		job = next;
	}
	for (struct post *p = posts; p; p = p->next)
		p->cb(p->arg);
	if (posts)
		recycle(e, posts);
	if (atomic_exchange(&e->stop, false))
		uv_stop(&e->loop);
}

static void env_run(struct ms_env *env) {
	uv_run(&self(env)->loop, UV_RUN_DEFAULT);
}

static void env_stop(struct ms_env *env) {
	struct uv_env *e = self(env);

	atomic_store(&e->stop, true);
	uv_async_send(&e->async);
}

void *ms_env_uv_loop(struct ms_env *env) {
	return &self(env)->loop;
}

struct ms_env *ms_env_uv_new(const unsigned lane_threads[MS_LANE_COUNT], struct ms_err *err) {
	struct uv_env *e = calloc(1, sizeof *e);
	int rc;

	if (!e) {
		ms_err_set(err, MS_ENOMEM, "environment: out of memory");
		return NULL;
	}
	e->ops = (struct ms_env_ops){
	    .now_us = env_now_us,
	    .mono_ns = env_mono_ns,
	    .random = env_random_bytes,
	    .sleep_us = env_sleep_us,
	    .timer_new = timer_make,
	    .timer_start = timer_begin,
	    .timer_stop = timer_cancel,
	    .timer_free = timer_release,
	    .poll_new = poll_make,
	    .poll_free = poll_release,
	    .submit = env_submit,
	    .post = env_post,
	    .run = env_run,
	    .stop = env_stop,
	};
	ms_env_uv_file_ops(&e->ops);
	e->env.ops = &e->ops;
	if ((rc = uv_loop_init(&e->loop)) != 0) {
		ms_err_sys(err, -rc, MS_EIO, "event loop");
		free(e);
		return NULL;
	}
	if ((rc = uv_async_init(&e->loop, &e->async, on_async)) != 0) {
		ms_err_sys(err, -rc, MS_EIO, "event loop: wake-up handle");
		uv_loop_close(&e->loop);
		free(e);
		return NULL;
	}
	e->async.data = e;
	uv_timer_init(&e->loop, &e->kick);
	e->kick.data = e;
	pthread_mutex_init(&e->mutex, NULL);
	if (ms_pool_init(&e->pool, lane_threads, finished, e, err) != MS_OK) {
		ms_env_uv_free(&e->env);
		return NULL;
	}
	return &e->env;
}

static void close_left(uv_handle_t *h, void *arg) {
	(void)arg;
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

void ms_env_uv_free(struct ms_env *env) {
	struct uv_env *e = self(env);

	if (!env)
		return;
	ms_pool_release(&e->pool);
	/* Our own two handles, and whatever an owner forgot; then the loop runs the closing callbacks. */
	uv_walk(&e->loop, close_left, NULL);
	uv_run(&e->loop, UV_RUN_DEFAULT);
	uv_loop_close(&e->loop);
	free_posts(e->post_head);
	free_posts(e->spare);
	pthread_mutex_destroy(&e->mutex);
	free(e);
}
