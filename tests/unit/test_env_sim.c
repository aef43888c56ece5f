#include "base/env_sim.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/file_table.h"
#include "support/sim_files.h"

#define OK(call) cr_assert_eq((call), MS_OK)
#define open_file(path, flags) ms_test_open(env, path, flags)
#define create(path, data) ms_test_create(env, path, data)
#define create_durable(path, data) ms_test_create_durable(env, path, data)
#define content(path) ms_test_content(env, path)

static struct ms_env *env;
static const struct ms_env_ops *ops;

static void start(uint64_t seed) {
	env = ms_env_sim_new(seed);
	ops = env->ops;
}

static void end(void) {
	ms_env_sim_free(env);
}

Test(env_sim, file_operations) {
	for (uint64_t seed = 0; seed < 20; seed++) {
		char why[512];

		start(seed);
		OK(ops->mkdir(env, "/some", 0755, NULL));
		OK(ops->mkdir(env, "/some/where", 0755, NULL));
		int wrong = ms_test_file_table(env, "/some/where", why);
		cr_assert_eq(wrong, 0, "%d of %d: %s", wrong, ms_test_file_table_rows(), why);
		cr_assert_eq(ms_env_sim_disk_bytes(env), 0);
		end();
	}
}

/* --- scheduler ------------------------------------------------------------------------------------------------------- */

static char trace[4096];

static void note(char c) {
	size_t n = strlen(trace);

	cr_assert_lt(n + 1, sizeof trace);
	trace[n] = c;
}

struct task {
	struct ms_job job;
	char run, done;
};

static void task_run(void *arg) {
	note(((struct task *)arg)->run);
}
static void task_done(void *arg) {
	note(((struct task *)arg)->done);
}
static void post_cb(void *arg) {
	note(*(char *)arg);
}

static void submit(struct task *t, enum ms_lane lane, char run, char done) {
	*t = (struct task){.job = {.run = task_run, .done = done ? task_done : NULL, .arg = t}, .run = run, .done = done};
	ops->submit(env, lane, &t->job);
}

/* A busy moment: jobs of two lanes, posts, timers. */
static const char *play(uint64_t seed) {
	static char letters[] = "uvwxyz";
	struct task s[4], u[4];

	memset(trace, 0, sizeof trace);
	start(seed);
	for (int i = 0; i < 4; i++) {
		struct ms_timer *t = ops->timer_new(env, post_cb, &letters[i % 2 + 4]);

		submit(&s[i], MS_LANE_SYNC, (char)('a' + i), (char)('A' + i));
		submit(&u[i], MS_LANE_UPLOAD, (char)('e' + i), (char)('E' + i));
		ops->post(env, post_cb, &letters[i]);
		ops->timer_start(t, (uint64_t)i * 100);
	}
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, MS_SIM_FOREVER), MS_SIM_IDLE);
	cr_assert_eq(strlen(trace), 4 * 6);
	cr_assert_eq(ms_env_sim_events(env), 4 * 6);
	end();
	return trace;
}

static long where(char c) {
	return strchr(trace, c) - trace;
}

Test(env_sim, same_seed_same_run_other_seed_other_run) {
	char first[64];
	int different = 0;

	for (uint64_t seed = 0; seed < 50; seed++) {
		strcpy(first, play(seed));
		cr_assert_str_eq(play(seed), first);
		different += strcmp(play(seed + 1), first) != 0;
	}
	cr_assert_gt(different, 48);
}

Test(env_sim, orders_that_threads_allow_and_no_others) {
	int upload_swapped = 0, done_swapped = 0, post_swapped = 0;

	for (uint64_t seed = 0; seed < 200; seed++) {
		play(seed);
		for (char c = 'a'; c <= 'h'; c++)
			cr_assert_lt(where(c), where((char)(c - 'a' + 'A')));
		/* One thread: jobs run in order, and are reported in order. */
		for (char c = 'a'; c < 'd'; c++) {
			cr_assert_lt(where(c), where((char)(c + 1)));
			cr_assert_lt(where((char)(c - 32)), where((char)(c - 31)));
		}
		upload_swapped += where('e') > where('f');
		done_swapped += (where('e') > where('f')) != (where('E') > where('F'));
		post_swapped += where('u') > where('v');
	}
	cr_assert(upload_swapped > 40 && upload_swapped < 160, "%d", upload_swapped);
	cr_assert(done_swapped > 10, "%d", done_swapped);
	cr_assert(post_swapped > 40 && post_swapped < 160, "%d", post_swapped);
}

Test(env_sim, a_lane_of_two_starts_at_most_one_out_of_turn) {
	static const unsigned lanes[MS_LANE_COUNT] = {0, 0, 2, 0};
	bool last_was_second = false;

	for (uint64_t seed = 0; seed < 100; seed++) {
		struct task t[4];

		memset(trace, 0, sizeof trace);
		start(seed);
		ms_env_sim_set_lanes(env, lanes);
		for (int i = 0; i < 4; i++)
			submit(&t[i], MS_LANE_UPLOAD, (char)('a' + i), 0);
		ops->run(env);
		/* When c starts, a or b has been taken; when d starts, two of a, b, c. */
		cr_assert(where('c') > where('a') || where('c') > where('b'));
		cr_assert_geq(where('d'), 2);
		last_was_second |= trace[1] == 'c';
		end();
	}
	cr_assert(last_was_second);
}

static bool is_done(void *arg) {
	return *(int *)arg >= 3;
}

struct tick {
	struct ms_timer *t;
	int n;
	uint64_t at[8];
};

static void on_tick(void *arg) {
	struct tick *k = arg;

	k->at[k->n++ % 8] = ms_env_mono_ns(env);
	ops->timer_start(k->t, 1000000);
}

Test(env_sim, virtual_time) {
	struct tick k = {.n = 0};

	start(3);
	int64_t wall = ms_env_now_us(env);
	uint64_t mono = ms_env_mono_ns(env);
	k.t = ops->timer_new(env, on_tick, &k);
	ops->timer_start(k.t, 1000000);
	cr_assert_eq(ms_env_sim_run_until(env, is_done, &k.n, MS_SIM_FOREVER), MS_SIM_DONE);
	cr_assert_eq(k.n, 3);
	for (int i = 0; i < 3; i++)
		cr_assert(k.at[i] >= mono + (uint64_t)(i + 1) * 1000000000 && k.at[i] < mono + (uint64_t)(i + 1) * 1000100000);
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, 2500000), MS_SIM_TIME);
	cr_assert_eq(k.n, 5);
	int64_t passed = ms_env_now_us(env) - wall;
	cr_assert(passed >= 5500000 && passed < 5501000, "%lld", (long long)passed);
	ops->sleep_us(env, 7000000);
	cr_assert_geq(ms_env_now_us(env), wall + 12500000);
	cr_assert_eq(k.n, 5);
	/* Time that is over already, and the next tick at once. */
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, 0), MS_SIM_TIME);
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, 10), MS_SIM_TIME);
	cr_assert_eq(k.n, 6);
	ms_env_sim_shift_wall(env, -3600 * INT64_C(1000000));
	cr_assert_lt(ms_env_now_us(env), wall);
	cr_assert_gt(ms_env_mono_ns(env), k.at[1]);
	ops->timer_stop(k.t);
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, MS_SIM_FOREVER), MS_SIM_IDLE);
	ops->timer_free(k.t);
	ops->timer_free(NULL);
	end();
}

static void stop_cb(void *arg) {
	(void)arg;
	ops->stop(env);
}

Test(env_sim, stop) {
	struct tick k = {.n = 0};

	start(1);
	k.t = ops->timer_new(env, on_tick, &k);
	ops->timer_start(k.t, 0);
	ops->post(env, stop_cb, NULL);
	ops->run(env); /* would tick for ever */
	ops->stop(env);
	int n = k.n;
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, MS_SIM_FOREVER), MS_SIM_STOPPED);
	cr_assert_eq(k.n, n);
	cr_assert_null(ops->poll_new(env, 0, stop_cb, NULL));
	end(); /* frees the timer too */
}

/* --- a dead machine -------------------------------------------------------------------------------------------------- */

static struct ms_timer *old_timer;

static void crash_in_job(void *arg) {
	struct ms_file *f = arg;
	struct ms_err err = MS_ERR_INIT;
	struct ms_stat st;

	ms_env_sim_crash(env);
	cr_assert_eq(ops->pwrite(f, "dead", 4, 0, &err), MS_EIO);
	cr_assert_eq(ops->stat(env, "/a", &st, &err), MS_EIO);
	cr_assert_eq(ops->mkdir(env, "/dead", 0755, &err), MS_EIO);
	ops->post(env, stop_cb, NULL);
	ops->timer_start(old_timer, 0);
	note('r');
}

static void never_cb(void *arg) {
	(void)arg;
	note('!');
}

Test(env_sim, a_crash_in_a_job_ends_everything) {
	struct task t;

	start(5);
	create_durable("/a", "live");
	struct ms_file *f = open_file("/a", MS_O_RDWR);
	struct ms_job job = {.run = crash_in_job, .done = never_cb, .arg = f};
	old_timer = ops->timer_new(env, never_cb, NULL);
	ops->timer_start(old_timer, 10000000);
	ops->submit(env, MS_LANE_SYNC, &job);
	submit(&t, MS_LANE_SYNC, '!', '!');
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, MS_SIM_FOREVER), MS_SIM_DOWN);
	cr_assert(ms_env_sim_is_down(env));
	uint64_t ops_before = ms_env_sim_ops(env, MS_SIM_ANY);
	ms_env_sim_restart(env);
	cr_assert(!ms_env_sim_is_down(env));
	cr_assert_lt(ms_env_mono_ns(env), 6000000000u);
	/* What the old program holds stays dead. */
	cr_assert_eq(ops->pwrite(f, "dead", 4, 0, NULL), MS_EIO);
	ops->timer_start(old_timer, 0);
	ops->close(f);
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, MS_SIM_FOREVER), MS_SIM_IDLE);
	cr_assert_eq(ms_env_sim_ops(env, MS_SIM_ANY), ops_before);
	cr_assert_str_eq(trace, "r");
	cr_assert_str_eq(content("/a"), "live");
	cr_assert_str_eq(content("/dead"), "-");
	ops->timer_free(old_timer);
	end();
}

/* --- rules, hook, capacity ------------------------------------------------------------------------------------------- */

Test(env_sim, rules) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = NULL;
	struct ms_stat st;

	start(1);
	/* The second write to a path with "log", twice. */
	ms_env_sim_fail(env, MS_SIM_PWRITE, "log", 2, 2, ENOSPC);
	f = create("/log", "1");
	ops->close(create("/other", "x"));
	cr_assert_eq(ops->pwrite(f, "2", 1, 0, &err), MS_ENOSPC);
	cr_assert_eq(err.sys, ENOSPC);
	cr_assert_eq(ops->pwrite(f, "3", 1, 0, NULL), MS_ENOSPC);
	OK(ops->pwrite(f, "4", 1, 0, NULL));
	cr_assert_str_eq(content("/log"), "4");
	/* Every stat from the next on, until the rules go. */
	ms_env_sim_fail(env, MS_SIM_STAT, NULL, 1, 0, EACCES);
	for (int i = 0; i < 5; i++)
		cr_assert_eq(ops->stat(env, "/log", &st, NULL), MS_EPERM);
	ms_env_sim_clear_rules(env);
	OK(ops->stat(env, "/log", &st, NULL));
	/* The third operation of any kind. */
	ms_env_sim_fail(env, MS_SIM_ANY, NULL, 3, 1, EIO);
	OK(ops->stat(env, "/log", &st, NULL));
	OK(ops->fsync(f, NULL));
	cr_assert_eq(ops->fsync_dir(env, "/", NULL), MS_EIO);
	OK(ops->fsync_dir(env, "/", NULL));
	/* By the new name of a rename. */
	ms_env_sim_fail(env, MS_SIM_RENAME, "new", 1, 1, EIO);
	cr_assert_eq(ops->rename(env, "/other", "/new", NULL), MS_EIO);
	OK(ops->rename(env, "/other", "/new", NULL));
	cr_assert_eq(ms_env_sim_injected(env), 2 + 5 + 1 + 1);
	cr_assert_eq(ms_env_sim_ops(env, MS_SIM_STAT), 7);
	ops->close(f);
	end();
}

Test(env_sim, every_kind_can_fail_and_changes_nothing) {
	start(1);
	ops->close(create("/f", "data"));
	OK(ops->mkdir(env, "/d", 0755, NULL));
	struct ms_file *f = open_file("/f", MS_O_RDWR), *g = NULL;
	ms_env_sim_fail(env, MS_SIM_ANY, NULL, 1, 0, ENOSPC);
	char c;
	size_t n = 42;
	int64_t size = 42;
	uint64_t space = 42;
	struct ms_stat st;
	enum ms_code want = MS_ENOSPC;
	cr_expect_eq(ops->open(env, "/x", MS_O_RDWR | MS_O_CREATE, 0644, &g, NULL), want);
	cr_expect_eq(ops->pread(f, &c, 1, 0, &n, NULL), want);
	cr_expect_eq(ops->pwrite(f, "x", 1, 0, NULL), want);
	cr_expect_eq(ops->fsync(f, NULL), want);
	cr_expect_eq(ops->fdatasync(f, NULL), want);
	cr_expect_eq(ops->truncate(f, 0, NULL), want);
	cr_expect_eq(ops->fsize(f, &size, NULL), want);
	cr_expect_eq(ops->fchmod(f, 0, NULL), want);
	cr_expect_eq(ops->lock(f, NULL), want);
	cr_expect_eq(ops->stat(env, "/f", &st, NULL), want);
	cr_expect_eq(ops->rename(env, "/f", "/g", NULL), want);
	cr_expect_eq(ops->link(env, "/f", "/g", NULL), want);
	cr_expect_eq(ops->unlink(env, "/f", NULL), want);
	cr_expect_eq(ops->rmdir(env, "/d", NULL), want);
	cr_expect_eq(ops->mkdir(env, "/e", 0755, NULL), want);
	cr_expect_eq(ops->fsync_dir(env, "/", NULL), want);
	cr_expect_eq(ops->readdir(env, "/", NULL, NULL, NULL), want);
	cr_expect_eq(ops->disk_free(env, "/", &space, NULL), want);
	cr_expect_eq(ms_env_sim_injected(env), MS_SIM_OP_COUNT - 1);
	cr_expect(n == 42 && size == 42 && space == 42 && !g);
	ms_env_sim_clear_rules(env);
	cr_expect_str_eq(content("/f"), "data");
	cr_expect_str_eq(content("/g"), "-");
	OK(ops->stat(env, "/f", &st, NULL));
	cr_expect_eq(st.mode & 0777, 0644);
	OK(ops->stat(env, "/d", &st, NULL));
	cr_expect_eq(ops->stat(env, "/e", &st, NULL), MS_ENOTFOUND);
	ops->close(f);
	end();
}

struct script {
	int n;
	uint64_t last;
};

/* Fails the first fsync, and crashes at the rename. */
static int on_step(void *arg, const struct ms_sim_step *s) {
	struct script *p = arg;

	cr_assert_eq(s->seq, p->last + 1);
	p->last = s->seq;
	if (s->op == MS_SIM_PWRITE) {
		cr_assert_str_eq(s->name, "pwrite");
		cr_assert_str_eq(s->path, "/a");
		cr_assert_eq(s->off, 7);
		cr_assert_eq(s->len, 3);
		cr_assert_null(s->to);
	}
	if (s->op == MS_SIM_FSYNC && p->n++ == 0)
		return ENOSPC;
	if (s->op == MS_SIM_RENAME) {
		cr_assert_str_eq(s->path, "/a");
		cr_assert_str_eq(s->to, "/b");
		ms_env_sim_crash(env);
	}
	return 0;
}

Test(env_sim, hook) {
	struct script p = {0};

	start(1);
	ms_env_sim_set_hook(env, on_step, &p);
	struct ms_file *f = open_file("/a", MS_O_RDWR | MS_O_CREATE);
	OK(ops->pwrite(f, "abc", 3, 7, NULL));
	cr_assert_eq(ops->fsync(f, NULL), MS_ENOSPC);
	OK(ops->fsync(f, NULL));
	OK(ops->fsync_dir(env, "/", NULL));
	cr_assert_eq(ops->rename(env, "/a", "/b", NULL), MS_EIO);
	cr_assert(ms_env_sim_is_down(env));
	cr_assert_eq(p.last, 6);
	ms_env_sim_set_hook(env, NULL, NULL);
	ms_env_sim_restart(env);
	cr_assert_str_neq(content("/a"), "-");
	cr_assert_str_eq(content("/b"), "-");
	ops->close(f);
	end();
}

Test(env_sim, capacity) {
	struct ms_err err = MS_ERR_INIT;
	uint64_t space = 0;

	start(1);
	ms_env_sim_set_capacity(env, 10);
	struct ms_file *f = create("/a", "12345678");
	OK(ops->disk_free(env, "/", &space, NULL));
	cr_assert_eq(space, 2);
	cr_assert_eq(ops->pwrite(f, "abcd", 4, 8, &err), MS_ENOSPC);
	cr_assert_str_eq(content("/a"), "12345678ab");
	OK(ops->pwrite(f, "xyz", 3, 0, NULL)); /* over what is there */
	cr_assert_eq(ops->truncate(f, 11, NULL), MS_ENOSPC);
	/* A name less frees nothing while the file is open, or has another name. */
	OK(ops->link(env, "/a", "/b", NULL));
	OK(ops->unlink(env, "/a", NULL));
	cr_assert_eq(ms_env_sim_disk_bytes(env), 10);
	OK(ops->unlink(env, "/b", NULL));
	cr_assert_eq(ms_env_sim_disk_bytes(env), 10);
	ops->close(f);
	cr_assert_eq(ms_env_sim_disk_bytes(env), 0);
	ops->close(create("/c", "1234567890"));
	end();
}

Test(env_sim, crash_at) {
	start(1);
	ms_env_sim_crash_at(env, MS_SIM_FSYNC, "b", 2);
	struct ms_file *a = create("/a", "x"), *b = create("/b", "x");
	OK(ops->fsync(a, NULL));
	OK(ops->fsync(b, NULL));
	OK(ops->fsync(a, NULL));
	cr_assert_eq(ops->fsync(b, NULL), MS_EIO);
	cr_assert(ms_env_sim_is_down(env));
	ms_env_sim_restart(env);
	ops->close(a);
	ops->close(b);
	/* The rule is used up. */
	b = open_file("/b2", MS_O_RDWR | MS_O_CREATE);
	for (int i = 0; i < 3; i++)
		OK(ops->fsync(b, NULL));
	end(); /* closes it */
}
