#include "base/env_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim_internal.h"

#define WALL_START_US INT64_C(1767225600000000) /* 2026-01-01T00:00:00Z */
#define BOOT_NS UINT64_C(5000000000)		/* the monotonic clock when the program starts */
#define CLOCK_NS 100				/* a look at a clock takes */
#define DEAD_CALLS_MAX 10000000

struct ms_timer {
	struct ms_sim *sim;
	struct ms_timer *prev, *next;
	void (*cb)(void *);
	void *arg;
	uint64_t epoch, due_ns;
	bool armed;
};

/* xorshift64* */
uint64_t ms_sim_rand(struct ms_sim_rng *r) {
	r->s ^= r->s >> 12;
	r->s ^= r->s << 25;
	r->s ^= r->s >> 27;
	/* The upper half is the better one, and below() uses the lower bits. */
	uint64_t v = r->s * UINT64_C(0x2545f4914f6cdd1d);
	return v >> 32 | v << 32;
}

/* Neighbouring seeds must not give similar streams, and the state must not be 0. */
static uint64_t mix(uint64_t seed) {
	seed += UINT64_C(0x9e3779b97f4a7c15);
	seed = (seed ^ seed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	seed = (seed ^ seed >> 27) * UINT64_C(0x94d049bb133111eb);
	seed ^= seed >> 31;
	return seed ? seed : 1;
}

/* --- clocks ---------------------------------------------------------------------------------------------------------- */

static void spend(struct ms_sim *s, uint64_t ns) {
	s->t_ns += ns;
	if (s->down && ++s->dead_calls > DEAD_CALLS_MAX) {
		fprintf(stderr, "simulator: a program goes on and on after its machine went down\n");
		abort();
	}
}

int64_t ms_sim_wall_us(struct ms_sim *s) {
	return s->wall_us + (int64_t)(s->t_ns / 1000);
}

static int64_t sim_now_us(struct ms_env *env) {
	spend(ms_sim_of(env), CLOCK_NS);
	return ms_sim_wall_us(ms_sim_of(env)) + (int64_t)(ms_sim_of(env)->slept_ns / 1000);
}

static uint64_t sim_mono_ns(struct ms_env *env) {
	struct ms_sim *s = ms_sim_of(env);

	spend(s, CLOCK_NS);
	return s->t_ns + s->slept_ns - s->boot_ns + BOOT_NS;
}

static void sim_random(struct ms_env *env, void *buf, size_t n) {
	struct ms_sim *s = ms_sim_of(env);

	for (size_t i = 0; i < n; i++)
		((uint8_t *)buf)[i] = (uint8_t)ms_sim_rand(&s->data);
}

static void sim_sleep_us(struct ms_env *env, uint64_t us) {
	struct ms_sim *s = ms_sim_of(env);

	if (s->in_job && s->jobs_sleep_apart) {
		s->slept_ns += us * 1000;
		spend(s, 0);
	} else {
		spend(s, us * 1000);
	}
}

/* --- timers ---------------------------------------------------------------------------------------------------------- */

static struct ms_timer *sim_timer_new(struct ms_env *env, void (*cb)(void *), void *arg) {
	struct ms_sim *s = ms_sim_of(env);
	struct ms_timer *t = ms_sim_alloc(NULL, sizeof *t);

	*t = (struct ms_timer){.sim = s, .next = s->timers, .cb = cb, .arg = arg, .epoch = s->epoch};
	if (t->next)
		t->next->prev = t;
	s->timers = t;
	return t;
}

static void sim_timer_start(struct ms_timer *t, uint64_t delay_us) {
	struct ms_sim *s = t->sim;

	if (s->down || t->epoch != s->epoch)
		return;
	t->armed = true;
	t->due_ns = delay_us < (UINT64_MAX - s->t_ns) / 1000 ? s->t_ns + delay_us * 1000 : UINT64_MAX;
}

static void sim_timer_stop(struct ms_timer *t) {
	t->armed = false;
}

static void sim_timer_free(struct ms_timer *t) {
	if (!t)
		return;
	if (t->prev)
		t->prev->next = t->next;
	else
		t->sim->timers = t->next;
	if (t->next)
		t->next->prev = t->prev;
	free(t);
}

static struct ms_poll *sim_poll_new(struct ms_env *env, int fd, void (*cb)(void *), void *arg) {
	(void)env;
	(void)fd;
	(void)cb;
	(void)arg;
	return NULL;
}

static void sim_poll_free(struct ms_poll *p) {
	(void)p;
}

/* --- events ---------------------------------------------------------------------------------------------------------- */

static void add_event(struct ms_sim *s, struct ms_sim_event e) {
	if (s->down)
		return;
	if (s->nevents == s->events_cap) {
		s->events_cap = s->events_cap ? s->events_cap * 2 : 64;
		s->events = ms_sim_alloc(s->events, s->events_cap * sizeof *s->events);
	}
	s->events[s->nevents++] = e;
}

static void sim_submit(struct ms_env *env, enum ms_lane lane, struct ms_job *job) {
	struct ms_sim *s = ms_sim_of(env);
	uint64_t delay_us = ms_sim_below(&s->sched, s->job_delay_us + 1);

	add_event(s, (struct ms_sim_event){.kind = MS_SIM_JOB, .lane = lane, .at_ns = s->t_ns + delay_us * 1000, .job = job});
}

static void sim_post(struct ms_env *env, void (*cb)(void *), void *arg) {
	struct ms_sim *s = ms_sim_of(env);

	add_event(s, (struct ms_sim_event){.kind = MS_SIM_POST, .at_ns = s->t_ns, .cb = cb, .arg = arg});
}

static void sim_stop(struct ms_env *env) {
	ms_sim_of(env)->stop = true;
}

static void sim_run(struct ms_env *env) {
	(void)ms_env_sim_run_until(env, NULL, NULL, MS_SIM_FOREVER);
}

static void run_event(struct ms_sim *s, size_t at) {
	struct ms_sim_event e = s->events[at];
	uint64_t epoch = s->epoch;

	s->nevents--;
	memmove(s->events + at, s->events + at + 1, (s->nevents - at) * sizeof *s->events);
	switch (e.kind) {
	case MS_SIM_POST:
		e.cb(e.arg);
		break;
	case MS_SIM_FINISHED:
		e.job->done(e.job->arg);
		break;
	case MS_SIM_JOB: {
		bool wants_done = e.job->done != NULL; /* without one the job may be gone after run() */

		s->in_job = true;
		s->slept_ns = 0;
		e.job->run(e.job->arg);
		uint64_t slept = s->slept_ns;
		s->in_job = false;
		s->slept_ns = 0;
		if (!wants_done || epoch != s->epoch)
			break;
		e.kind = MS_SIM_FINISHED;
		e.asleep_until_ns = s->t_ns + slept;
		e.at_ns = s->t_ns + slept + ms_sim_below(&s->sched, s->job_delay_us + 1) * 1000;
		add_event(s, e);
	}
	}
}

/* Whether the event may be the next of its lane: threads take jobs in order, and each is busy with one at most. `seen` counts
 * jobs and finished jobs of the lanes before it. */
static bool may_run(const struct ms_sim *s, const struct ms_sim_event *e, unsigned seen[2][MS_LANE_COUNT], const unsigned asleep[MS_LANE_COUNT]) {
	if (e->kind == MS_SIM_POST)
		return true;
	if (e->kind == MS_SIM_JOB)
		return asleep[e->lane] + seen[0][e->lane]++ < s->threads[e->lane];
	return seen[1][e->lane]++ < s->threads[e->lane];
}

/* Picks one of what is ready and runs it. Else *ret_next is when something will be, UINT64_MAX if never. */
static bool run_one(struct ms_sim *s, uint64_t *ret_next) {
	unsigned seen[2][MS_LANE_COUNT] = {{0}}, asleep[MS_LANE_COUNT] = {0};
	struct ms_timer *timer = NULL;
	size_t event = 0, ready = 0;
	uint64_t next = UINT64_MAX;

	for (size_t i = 0; i < s->nevents; i++)
		if (s->events[i].kind == MS_SIM_FINISHED && s->events[i].asleep_until_ns > s->t_ns)
			asleep[s->events[i].lane]++;
	for (size_t i = 0; i < s->nevents; i++) {
		if (!may_run(s, &s->events[i], seen, asleep))
			continue;
		if (s->events[i].at_ns > s->t_ns) {
			if (s->events[i].at_ns < next)
				next = s->events[i].at_ns;
		} else if (ms_sim_below(&s->sched, ++ready) == 0)
			event = i;
	}
	for (struct ms_timer *t = s->timers; t; t = t->next) {
		if (!t->armed)
			continue;
		if (t->due_ns > s->t_ns) {
			if (t->due_ns < next)
				next = t->due_ns;
		} else if (ms_sim_below(&s->sched, ++ready) == 0)
			timer = t;
	}
	*ret_next = next;
	if (!ready)
		return false;
	s->t_ns += 1 + ms_sim_below(&s->sched, 2000);
	s->events_run++;
	if (timer) {
		timer->armed = false;
		timer->cb(timer->arg);
	} else {
		run_event(s, event);
	}
	return true;
}

enum ms_sim_end ms_env_sim_run_until(struct ms_env *env, bool (*pred)(void *arg), void *arg, uint64_t max_us) {
	struct ms_sim *s = ms_sim_of(env);
	uint64_t limit = max_us < (UINT64_MAX - s->t_ns) / 1000 ? s->t_ns + max_us * 1000 : UINT64_MAX, next;

	for (;;) {
		if (s->down)
			return MS_SIM_DOWN;
		if (pred && pred(arg))
			return MS_SIM_DONE;
		if (s->stop) {
			s->stop = false;
			return MS_SIM_STOPPED;
		}
		if (s->t_ns >= limit)
			return MS_SIM_TIME;
		if (run_one(s, &next))
			continue;
		if (next == UINT64_MAX)
			return MS_SIM_IDLE;
		s->t_ns = next < limit ? next : limit;
	}
}

/* --- crashes --------------------------------------------------------------------------------------------------------- */

void ms_env_sim_kill(struct ms_env *env) {
	struct ms_sim *s = ms_sim_of(env);

	if (s->down)
		return;
	s->down = true;
	s->stop = false;
	s->dead_calls = 0;
	s->epoch++;
	s->nevents = 0;
	for (struct ms_timer *t = s->timers; t; t = t->next)
		t->armed = false;
	ms_sim_files_detach(s);
}

void ms_env_sim_crash(struct ms_env *env) {
	struct ms_sim *s = ms_sim_of(env);

	if (s->down)
		return;
	ms_env_sim_kill(env);
	ms_sim_disk_crash(&s->disk);
}

void ms_env_sim_restart(struct ms_env *env) {
	struct ms_sim *s = ms_sim_of(env);

	if (!s->down)
		return;
	s->down = false;
	s->boot_ns = s->t_ns;
}

bool ms_env_sim_is_down(struct ms_env *env) {
	return ms_sim_of(env)->down;
}

/* --- steps ----------------------------------------------------------------------------------------------------------- */

static void drop_rule(struct ms_sim_rule *r) {
	free(r->part);
	*r = (struct ms_sim_rule){0};
}

static bool matches(const struct ms_sim_rule *r, const struct ms_sim_step *step) {
	if (!r->nth || (r->op != MS_SIM_ANY && r->op != step->op))
		return false;
	return !r->part || strstr(step->path, r->part) || (step->to && strstr(step->to, r->part));
}

int ms_sim_step_begin(struct ms_sim *s, struct ms_sim_step *step) {
	bool crash = false;
	int sys = 0;

	spend(s, 1000 + ms_sim_below(&s->sched, 20000));
	if (s->down)
		return EIO;
	s->count[MS_SIM_ANY]++;
	s->count[step->op]++;
	step->seq = s->count[MS_SIM_ANY];
	if (s->hook) {
		sys = s->hook(s->hook_arg, step);
		if (s->down)
			return EIO;
	}
	/* Every rule counts, whatever the others do. */
	for (size_t i = 0; i < MS_SIM_RULES; i++) {
		struct ms_sim_rule *r = &s->rules[i];

		if (!matches(r, step))
			continue;
		if (r->nth > 1) {
			r->nth--;
			continue;
		}
		if (r->crash)
			crash = true;
		else if (!sys)
			sys = r->sys;
		if (r->times && --r->times == 0)
			drop_rule(r);
	}
	if (crash) {
		ms_env_sim_crash(&s->env);
		return EIO;
	}
	if (sys)
		s->injected++;
	return sys;
}

void ms_env_sim_set_hook(struct ms_env *env, int (*hook)(void *arg, const struct ms_sim_step *step), void *arg) {
	ms_sim_of(env)->hook = hook;
	ms_sim_of(env)->hook_arg = arg;
}

static void add_rule(struct ms_sim *s, struct ms_sim_rule rule, const char *part) {
	size_t i = 0;

	while (i < MS_SIM_RULES && s->rules[i].nth)
		i++;
	if (i == MS_SIM_RULES || rule.nth == 0) {
		fprintf(stderr, "simulator: more than %d rules, or a count from 0\n", MS_SIM_RULES);
		abort();
	}
	if (part)
		rule.part = strcpy(ms_sim_alloc(NULL, strlen(part) + 1), part);
	s->rules[i] = rule;
}

void ms_env_sim_fail(struct ms_env *env, enum ms_sim_op op, const char *part, uint64_t nth, uint64_t times, int sys) {
	add_rule(ms_sim_of(env), (struct ms_sim_rule){.op = op, .nth = nth, .times = times, .sys = sys}, part);
}

void ms_env_sim_crash_at(struct ms_env *env, enum ms_sim_op op, const char *part, uint64_t nth) {
	add_rule(ms_sim_of(env), (struct ms_sim_rule){.op = op, .nth = nth, .times = 1, .crash = true}, part);
}

void ms_env_sim_clear_rules(struct ms_env *env) {
	for (size_t i = 0; i < MS_SIM_RULES; i++)
		drop_rule(&ms_sim_of(env)->rules[i]);
}

/* --- settings and counts --------------------------------------------------------------------------------------------- */

void ms_env_sim_set_capacity(struct ms_env *env, uint64_t bytes) {
	ms_sim_of(env)->disk.capacity = bytes;
}

void ms_env_sim_set_lanes(struct ms_env *env, const unsigned threads[MS_LANE_COUNT]) {
	static const unsigned defaults[MS_LANE_COUNT] = {
	    [MS_LANE_SOURCE] = 2, [MS_LANE_SYNC] = 1, [MS_LANE_UPLOAD] = 16, [MS_LANE_CPU] = 2};

	for (int i = 0; i < MS_LANE_COUNT; i++)
		ms_sim_of(env)->threads[i] = threads && threads[i] ? threads[i] : defaults[i];
}

void ms_env_sim_jobs_sleep_apart(struct ms_env *env, bool apart) {
	ms_sim_of(env)->jobs_sleep_apart = apart;
}

void ms_env_sim_set_job_delay(struct ms_env *env, uint64_t max_us) {
	ms_sim_of(env)->job_delay_us = max_us;
}

void ms_env_sim_shift_wall(struct ms_env *env, int64_t delta_us) {
	ms_sim_of(env)->wall_us += delta_us;
}

void ms_env_sim_sync_all(struct ms_env *env) {
	ms_sim_disk_sync_all(&ms_sim_of(env)->disk);
}

uint64_t ms_env_sim_ops(struct ms_env *env, enum ms_sim_op op) {
	return ms_sim_of(env)->count[op];
}

uint64_t ms_env_sim_injected(struct ms_env *env) {
	return ms_sim_of(env)->injected;
}

uint64_t ms_env_sim_events(struct ms_env *env) {
	return ms_sim_of(env)->events_run;
}

uint64_t ms_env_sim_disk_bytes(struct ms_env *env) {
	return ms_sim_of(env)->disk.used;
}

uint64_t ms_env_sim_pick(struct ms_env *env, uint64_t n) {
	return ms_sim_below(&ms_sim_of(env)->data, n);
}

struct ms_env *ms_env_sim_new(uint64_t seed) {
	struct ms_sim *s = ms_sim_alloc(NULL, sizeof *s);

	memset(s, 0, sizeof *s);
	s->sched.s = mix(seed);
	s->data.s = mix(~seed);
	s->wall_us = WALL_START_US;
	s->job_delay_us = 1000;
	s->ops = (struct ms_env_ops){
	    .now_us = sim_now_us,
	    .mono_ns = sim_mono_ns,
	    .random = sim_random,
	    .sleep_us = sim_sleep_us,
	    .timer_new = sim_timer_new,
	    .timer_start = sim_timer_start,
	    .timer_stop = sim_timer_stop,
	    .timer_free = sim_timer_free,
	    .poll_new = sim_poll_new,
	    .poll_free = sim_poll_free,
	    .submit = sim_submit,
	    .post = sim_post,
	    .run = sim_run,
	    .stop = sim_stop,
	};
	ms_sim_file_ops(&s->ops);
	s->env.ops = &s->ops;
	ms_env_sim_set_lanes(&s->env, NULL);
	ms_sim_disk_init(&s->disk, &s->data);
	return &s->env;
}

void ms_env_sim_free(struct ms_env *env) {
	struct ms_sim *s = ms_sim_of(env);

	if (!env)
		return;
	while (s->timers)
		sim_timer_free(s->timers);
	ms_sim_files_free(s);
	ms_env_sim_clear_rules(env);
	ms_sim_disk_release(&s->disk);
	free(s->events);
	free(s);
}
