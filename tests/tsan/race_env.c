/*
 * Races of the real environment: jobs of every lane while other threads post to the loop, timers fire and are re-armed, and jobs
 * submit themselves again. Plain program; run it under ThreadSanitizer. What must come out is counted, so it means something without.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/env.h"
#include "base/log.h"

#define JOBS 64
#define ROUNDS 200
#define POSTERS 4
#define POSTS 2000

static struct ms_env *env;
/* Loop thread only, without atomics on purpose: a callback on another thread would be a race. */
static unsigned done_calls, posts_seen, ticks, finished;
static atomic_uint runs;

struct work {
	struct ms_job job;
	unsigned round;
	enum ms_lane lane;
	uint64_t scratch; /* written by run, read by done, without a lock */
};

static void check_end(void) {
	if (finished == JOBS && posts_seen == POSTERS * POSTS && ticks >= 20)
		env->ops->stop(env);
}

static void run(void *arg) {
	struct work *w = arg;
	w->scratch = ms_env_mono_ns(env);
	ms_env_random(env, &w->scratch, 4);
	ms_log(MS_LOG_DEBUG, "job", "round=%u", w->round);
	atomic_fetch_add(&runs, 1);
}

static void done(void *arg) {
	struct work *w = arg;
	done_calls += w->scratch != 0;
	if (++w->round < ROUNDS) {
		w->lane = (enum ms_lane)((w->lane + 1) % MS_LANE_COUNT);
		env->ops->submit(env, w->lane, &w->job);
		return;
	}
	finished++;
	check_end();
}

static void posted(void *arg) {
	(void)arg;
	posts_seen++;
	check_end();
}

static void *poster(void *arg) {
	for (unsigned i = 0; i < POSTS; i++)
		env->ops->post(env, posted, arg);
	return NULL;
}

static struct ms_timer *timer;
static void tick(void *arg) {
	(void)arg;
	ticks++;
	if (ticks < 20)
		env->ops->timer_start(timer, 1000);
	check_end();
}

int main(void) {
	struct ms_err err = MS_ERR_INIT;
	static struct work works[JOBS];
	pthread_t threads[POSTERS];
	env = ms_env_uv_new((const unsigned[MS_LANE_COUNT]){2, 1, 4, 2}, &err);
	if (!env || !(timer = env->ops->timer_new(env, tick, NULL))) {
		fprintf(stderr, "environment: %s\n", err.msg);
		return 1;
	}
	env->ops->timer_start(timer, 1000);
	for (unsigned i = 0; i < JOBS; i++) {
		works[i].job = (struct ms_job){.run = run, .done = done, .arg = &works[i]};
		works[i].lane = (enum ms_lane)(i % MS_LANE_COUNT);
		env->ops->submit(env, works[i].lane, &works[i].job);
	}
	for (unsigned i = 0; i < POSTERS; i++)
		if (pthread_create(&threads[i], NULL, poster, NULL))
			return 1;
	env->ops->run(env);
	for (unsigned i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	env->ops->timer_free(timer);
	ms_env_uv_free(env);
	if (atomic_load(&runs) != JOBS * ROUNDS || done_calls != JOBS * ROUNDS || posts_seen != POSTERS * POSTS) {
		fprintf(stderr, "ran %u, done %u, posts %u\n", atomic_load(&runs), done_calls, posts_seen);
		return 1;
	}
	return 0;
}
