#include "base/env.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/file_table.h"
#include "support/tmpdir.h"

static struct ms_env *env;

static void start(const unsigned *lanes) {
	struct ms_err err = MS_ERR_INIT;

	env = ms_env_uv_new(lanes, &err);
	cr_assert_not_null(env, "%s", err.msg);
}

static void end(void) {
	ms_env_uv_free(env);
	env = NULL;
}

static void stop_cb(void *arg) {
	(void)arg;
	env->ops->stop(env);
}

Test(env_uv, file_operations) {
	char why[512];

	umask(022);
	start(NULL);
	int wrong = ms_test_file_table(env, ms_test_tmpdir(), why);
	cr_assert_eq(wrong, 0, "%d of %d: %s", wrong, ms_test_file_table_rows(), why);
	end();
}

Test(env_uv, free_without_running) {
	ms_env_uv_free(NULL);
	start(NULL);
	end();
}

Test(env_uv, clocks_and_random) {
	static const uint8_t zero[40];
	struct timespec t;
	uint8_t a[40] = {0}, b[40] = {0};

	start(NULL);
	clock_gettime(CLOCK_REALTIME, &t);
	int64_t now = ms_env_now_us(env), want = t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
	cr_assert(now >= want && now < want + 5000000);
	uint64_t m = ms_env_mono_ns(env);
	env->ops->sleep_us(env, 2000);
	cr_assert_geq(ms_env_mono_ns(env), m + 2000000);
	ms_env_random(env, a, sizeof a);
	ms_env_random(env, b, sizeof b);
	cr_assert_neq(memcmp(a, b, sizeof a), 0);
	cr_assert_neq(memcmp(a + 20, zero, 20), 0);
	end();
}

/* --- timers ---------------------------------------------------------------------------------------------------------- */

struct fired {
	struct ms_timer *t;
	uint64_t at;
	int n, stop_at;
};

static void on_timer(void *arg) {
	struct fired *f = arg;

	f->at = ms_env_mono_ns(env);
	if (++f->n == f->stop_at)
		env->ops->stop(env);
	else if (f->stop_at)
		env->ops->timer_start(f->t, 1000);
}

Test(env_uv, timers_are_one_shot_and_never_early) {
	start(NULL);
	for (uint64_t us = 100; us < 6000; us += 739) {
		struct fired f = {.stop_at = 1};

		f.t = env->ops->timer_new(env, on_timer, &f);
		uint64_t from = ms_env_mono_ns(env);
		env->ops->timer_start(f.t, us);
		env->ops->run(env);
		cr_assert_eq(f.n, 1);
		cr_assert_geq(f.at, from + us * 1000, "%d us: early by %d ns", (int)us, (int)(from + us * 1000 - f.at));
		env->ops->timer_free(f.t);
	}
	end();
}

Test(env_uv, timers_restart_stop_and_go) {
	struct fired one = {.stop_at = 3}, never = {0}, freed = {0}, far = {0};

	start(NULL);
	one.t = env->ops->timer_new(env, on_timer, &one);
	never.t = env->ops->timer_new(env, on_timer, &never);
	freed.t = env->ops->timer_new(env, on_timer, &freed);
	far.t = env->ops->timer_new(env, on_timer, &far);
	env->ops->timer_start(never.t, 0);
	env->ops->timer_stop(never.t);
	env->ops->timer_start(freed.t, 0);
	env->ops->timer_free(freed.t);
	env->ops->timer_free(NULL);
	env->ops->timer_start(far.t, 0); /* armed anew: only the later counts */
	env->ops->timer_start(far.t, UINT64_MAX);
	env->ops->timer_start(one.t, 500);
	env->ops->run(env);
	cr_assert_eq(one.n, 3);
	cr_assert_eq(never.n, 0);
	cr_assert_eq(freed.n, 0);
	cr_assert_eq(far.n, 0);
	env->ops->timer_free(one.t);
	env->ops->timer_free(never.t);
	env->ops->timer_free(far.t);
	end();
}

Test(env_uv, stop_before_run_counts) {
	start(NULL);
	env->ops->stop(env);
	env->ops->run(env); /* would wait for ever */
	end();
}

/* --- polls ----------------------------------------------------------------------------------------------------------- */

struct pipe_end {
	int fds[2], n;
	struct ms_poll *poll;
};

static void on_readable(void *arg) {
	struct pipe_end *p = arg;
	char c;

	/* One byte each time: level-triggered, so it comes again for the rest. */
	cr_assert_eq(read(p->fds[0], &c, 1), 1);
	if (++p->n == 3) {
		env->ops->poll_free(p->poll);
		env->ops->stop(env);
	}
}

Test(env_uv, poll) {
	struct pipe_end p = {.n = 0};

	start(NULL);
	cr_assert_eq(pipe(p.fds), 0);
	p.poll = env->ops->poll_new(env, p.fds[0], on_readable, &p);
	cr_assert_not_null(p.poll);
	cr_assert_eq(write(p.fds[1], "abc", 3), 3);
	env->ops->run(env);
	cr_assert_eq(p.n, 3);
	env->ops->poll_free(NULL);
	cr_assert_null(env->ops->poll_new(env, -1, on_readable, &p));
	end();
}

/* --- jobs ------------------------------------------------------------------------------------------------------------ */

static atomic_int running, most, ran;
static int done, wanted;
static pthread_t loop_thread;

struct work {
	struct ms_job job;
	int id, times;
	uint64_t us;
	enum ms_lane lane;
	bool has_run;
};

static int order[64];

static void work_run(void *arg) {
	struct work *w = arg;
	int now = atomic_fetch_add(&running, 1) + 1, seen = atomic_load(&most);

	while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
		;
	cr_assert(!pthread_equal(pthread_self(), loop_thread));
	env->ops->sleep_us(env, w->us);
	w->has_run = true;
	order[atomic_fetch_add(&ran, 1) % 64] = w->id;
	atomic_fetch_sub(&running, 1);
}

static void work_done(void *arg) {
	struct work *w = arg;

	cr_assert(pthread_equal(pthread_self(), loop_thread));
	cr_assert(w->has_run);
	w->has_run = false;
	if (++done == wanted)
		env->ops->stop(env);
	else if (--w->times > 0)
		env->ops->submit(env, w->lane, &w->job);
}

static void submit(struct work *w, enum ms_lane lane, int id, uint64_t us, int times) {
	*w = (struct work){
	    .job = {.run = work_run, .done = work_done, .arg = w}, .id = id, .us = us, .lane = lane, .times = times};
	env->ops->submit(env, lane, &w->job);
}

Test(env_uv, a_lane_has_its_bound) {
	static const unsigned lanes[MS_LANE_COUNT] = {0, 0, 3, 0};
	struct work w[12];

	loop_thread = pthread_self();
	start(lanes);
	wanted = 12;
	for (int i = 0; i < 12; i++)
		submit(&w[i], MS_LANE_UPLOAD, i, 20000, 1);
	env->ops->run(env);
	cr_assert_eq(done, 12);
	cr_assert_eq(atomic_load(&most), 3);
	end();
}

Test(env_uv, one_thread_keeps_the_order) {
	struct work w[20];

	loop_thread = pthread_self();
	start(NULL);
	wanted = 20;
	for (int i = 0; i < 20; i++)
		submit(&w[i], MS_LANE_SYNC, i, 100, 1);
	env->ops->run(env);
	cr_assert_eq(atomic_load(&most), 1);
	for (int i = 0; i < 20; i++)
		cr_assert_eq(order[i], i);
	end();
}

/* Runs beside sixteen slow jobs of another lane, and sees all of them at work. */
static void among_slow_ones(void *arg) {
	struct work *w = arg;

	for (int i = 0; i < 5000 && atomic_load(&running) < 16; i++)
		env->ops->sleep_us(env, 1000);
	w->id = atomic_load(&running);
	w->has_run = true;
}

Test(env_uv, full_lanes_do_not_hold_up_others) {
	struct work slow[17], quick = {.job = {.run = among_slow_ones, .done = work_done, .arg = &quick}, .times = 1};

	loop_thread = pthread_self();
	start(NULL);
	wanted = 1; /* stops at the first done */
	for (int i = 0; i < 17; i++)
		submit(&slow[i], MS_LANE_UPLOAD, 100 + i, 1000000, 1);
	env->ops->submit(env, MS_LANE_SOURCE, &quick.job);
	env->ops->run(env);
	cr_assert_eq(quick.id, 16);
	cr_assert_eq(atomic_load(&ran), 0);
	/* Sixteen of the slow ones come to their end, the last is dropped. */
	end();
	cr_assert_eq(atomic_load(&ran), 16);
	cr_assert_eq(done, 1);
}

Test(env_uv, jobs_again_from_done) {
	struct work w[4];

	loop_thread = pthread_self();
	start(NULL);
	wanted = 4 * 500;
	for (int i = 0; i < 4; i++)
		submit(&w[i], (enum ms_lane)i, i, 0, 500);
	env->ops->run(env);
	cr_assert_eq(done, 2000);
	cr_assert_eq(atomic_load(&ran), 2000);
	end();
}

static void run_and_free(void *arg) {
	env->ops->post(env, stop_cb, NULL);
	free(arg);
}

Test(env_uv, a_job_without_done_may_free_itself) {
	struct ms_job *job = calloc(1, sizeof *job);

	start(NULL);
	*job = (struct ms_job){.run = run_and_free, .arg = job};
	env->ops->submit(env, MS_LANE_CPU, job);
	env->ops->run(env);
	end();
}

#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
/* Without room for threads jobs wait until there is some, and the loop goes on meanwhile. */
static struct rlimit before;

static void give_room(void *arg) {
	(void)arg;
	cr_assert_eq(atomic_load(&ran), 0);
	cr_assert_eq(setrlimit(RLIMIT_AS, &before), 0);
}

Test(env_uv, threads_that_cannot_start_are_tried_again) {
	struct work w;
	struct rlimit tight;
	struct ms_timer *t;
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	cr_assert(f && fscanf(f, "%ld", &pages) == 1);
	fclose(f);
	loop_thread = pthread_self();
	start(NULL);
	wanted = 1;
	t = env->ops->timer_new(env, give_room, NULL);
	env->ops->timer_start(t, 150000);
	getrlimit(RLIMIT_AS, &before);
	tight = before;
	tight.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + 600 * 1024; /* less than a stack */
	cr_assert_eq(setrlimit(RLIMIT_AS, &tight), 0);
	submit(&w, MS_LANE_SOURCE, 1, 0, 1);
	env->ops->run(env);
	cr_assert_eq(done, 1);
	env->ops->timer_free(t);
	end();
}
#endif

/* --- posts ----------------------------------------------------------------------------------------------------------- */

#define POSTERS 4
#define POSTS 2000

static int posted[POSTERS], posts;

static void on_post(void *arg) {
	int *n = arg;

	cr_assert(pthread_equal(pthread_self(), loop_thread));
	++*n;
	if (++posts == POSTERS * POSTS)
		env->ops->stop(env);
}

static void *post_many(void *arg) {
	for (int i = 0; i < POSTS; i++)
		env->ops->post(env, on_post, arg);
	return NULL;
}

Test(env_uv, posts_from_many_threads_all_arrive) {
	pthread_t t[POSTERS];

	loop_thread = pthread_self();
	start(NULL);
	for (int i = 0; i < POSTERS; i++)
		cr_assert_eq(pthread_create(&t[i], NULL, post_many, &posted[i]), 0);
	env->ops->run(env);
	for (int i = 0; i < POSTERS; i++) {
		pthread_join(t[i], NULL);
		cr_assert_eq(posted[i], POSTS);
	}
	/* Left over when the environment goes. */
	env->ops->post(env, on_post, &posted[0]);
	end();
	cr_assert_eq(posted[0], POSTS);
}

/* A post that posts again must not keep timers waiting. */
static void post_again(void *arg) {
	if (!*(bool *)arg)
		env->ops->post(env, post_again, arg);
}

static void end_it(void *arg) {
	*(bool *)arg = true;
	env->ops->stop(env);
}

Test(env_uv, posts_do_not_starve_timers) {
	bool over = false;
	struct ms_timer *t;

	start(NULL);
	t = env->ops->timer_new(env, end_it, &over);
	env->ops->timer_start(t, 5000);
	env->ops->post(env, post_again, &over);
	env->ops->run(env);
	cr_assert(over);
	env->ops->timer_free(t);
	end();
}

/* --- files ----------------------------------------------------------------------------------------------------------- */

Test(env_uv, lock_holds_against_another_process) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = NULL, *g = NULL;
	int status;
	char c;
	int fds[2];

	start(NULL);
	char *path = ms_test_path(ms_test_tmpdir(), "lock");
	cr_assert_eq(pipe(fds), 0);
	pid_t child = fork();
	if (child == 0) {
		bool ok = env->ops->open(env, path, MS_O_RDWR | MS_O_CREATE, 0600, &g, NULL) == MS_OK &&
			  env->ops->lock(g, NULL) == MS_OK;
		if (!ok || write(fds[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(fds[1]);
	cr_assert_eq(read(fds[0], &c, 1), 1, "the holder failed");
	cr_assert_eq(env->ops->open(env, path, MS_O_RDWR | MS_O_CREATE, 0600, &f, NULL), MS_OK);
	cr_assert_eq(env->ops->lock(f, &err), MS_EBUSY);
	cr_assert(strstr(err.msg, path));
	/* The kernel lets go when the holder is killed. */
	kill(child, SIGKILL);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert_eq(env->ops->lock(f, NULL), MS_OK);
	env->ops->close(f);
	free(path);
	end();
}

Test(env_uv, open_does_not_follow_when_told) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = NULL;
	struct ms_stat st;

	start(NULL);
	const char *dir = ms_test_tmpdir();
	char *target = ms_test_path(dir, "target"), *name = ms_test_path(dir, "link");
	cr_assert_eq(symlink("target", name), 0);
	cr_assert_eq(env->ops->open(env, name, MS_O_RDWR | MS_O_CREATE | MS_O_NOFOLLOW, 0600, &f, &err), MS_EIO);
	cr_assert_eq(err.sys, ELOOP);
	cr_assert_eq(env->ops->open(env, name, MS_O_RDWR | MS_O_CREATE, 0600, &f, &err), MS_OK);
	cr_assert_eq(env->ops->stat(env, target, &st, NULL), MS_OK);
	cr_assert_geq(env->ops->fd(f), 0);
	env->ops->close(f);
	/* The times are those of the file. */
	cr_assert(llabs(ms_env_now_us(env) - st.mtime_us) < 10000000);
	cr_assert_eq(st.uid, getuid());
	free(target);
	free(name);
	end();
}

Test(env_uv, a_full_device_is_no_space) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = NULL;

	start(NULL);
	cr_assert_eq(env->ops->open(env, "/dev/full", MS_O_RDWR, 0, &f, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(env->ops->pwrite(f, "x", 1, 0, &err), MS_ENOSPC);
	cr_assert_eq(err.sys, ENOSPC);
	cr_assert(strstr(err.msg, "/dev/full"));
	env->ops->close(f);
	end();
}
