/*
 * The loop-thread half of a stream: start, stepping policy, snapshot policy, reactions. See core/stream.h for the states.
 *
 * One job at a time (core/stream_step.c). Its result is read in step_done(), which decides what comes next: step again at once, at
 * the source's next poll, or when its event descriptor fires.
 */
#include "core/stream_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"

#define RETRY_US 1000000u	      /* after an error of the journal or the source */
#define DRAIN_TICK_US 50000u
#define TICK_US 1000000u	      /* snapshot policy, loss alarm */
#define STOP_LEAST_US 1000000	      /* for the workers at a stop, however long the rest of it took */

static const bool allowed[MS_STREAM_STATES][MS_STREAM_STATES] = {
	/* to:		       STARTING WAITING SEEDING CATCHUP FOLLOWING PAUSED BLOCKED FENCED FAILED STOPPED */
	[MS_STREAM_STARTING] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	[MS_STREAM_WAITING] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	[MS_STREAM_SEEDING] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	[MS_STREAM_CATCHUP] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	[MS_STREAM_FOLLOWING] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	[MS_STREAM_PAUSED] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	[MS_STREAM_BLOCKED] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1},
	[MS_STREAM_FENCED] = {0, 0, 0, 0, 0, 0, 0, 1, 0, 1},
	[MS_STREAM_FAILED] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1},
	[MS_STREAM_STOPPED] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
};

static void submit_step(struct ms_stream *s, enum step_task task);
static void next_step(struct ms_stream *s);
static void probes_done(struct ms_stream *s);
static bool seed_owed(const struct ms_stream *s);
static void stop_now(struct ms_stream *s);

static void set_state(struct ms_stream *s, enum ms_stream_state to, const char *why) {
	if (!allowed[s->state][to])
		return;
	if (!why)
		why = "";
	if (to == s->state && strcmp(why, s->why) == 0)
		return;
	char q[700];
	enum ms_log_level level = to == MS_STREAM_FENCED || to == MS_STREAM_FAILED || to == MS_STREAM_BLOCKED ? MS_LOG_ERROR
				  : to == MS_STREAM_WAITING						   ? MS_LOG_WARN
													   : MS_LOG_INFO;
	if (why[0])
		ms_log(level, "database state", "db=%s state=%s why=%s", s->name, ms_stream_state_name(to), ms_log_q(q, sizeof q, why));
	else
		ms_log(level, "database state", "db=%s state=%s", s->name, ms_stream_state_name(to));
	s->state = to;
	snprintf(s->why, sizeof s->why, "%s", why);
	s->hooks.changed(s->hooks.arg, s);
}

static void answer_barriers(struct ms_stream *s, uint64_t began, const struct ms_err *err) {
	struct barrier **p = &s->barriers;
	while (*p) {
		struct barrier *b = *p;
		if (!err && b->epoch > began) {
			p = &b->next;
			continue;
		}
		*p = b->next;
		b->cb(b->arg, s->pub.state.txid, err);
		free(b);
	}
}

void ms_stream_end(struct ms_stream *s, enum ms_stream_state state, const struct ms_err *err) {
	if (s->ended)
		return;
	s->ended = true;
	set_state(s, state, err->msg);
	ms_stream_snapshots_drop(s);
	ms_stream_catchups_drop(s);
	s->env->ops->timer_stop(s->timer);
	if (!s->stopping && !s->job_running)
		submit_step(s, TASK_RELEASE);
	answer_barriers(s, UINT64_MAX, err);
	s->hooks.ended(s->hooks.arg, s, err);
}

/* ---- workers ---- */

/* Every replica has been asked, or did not answer in time. */
static void probes_done(struct ms_stream *s) {
	struct ms_err err = MS_ERR_INIT;
	uint32_t seen = ms_generation_epoch(&s->pub.generation);
	if (!s->pub.generation.s[0])
		seen = 0;
	if (s->auth_head.epoch > seen)
		seen = s->auth_head.epoch;
	uint32_t known;
	if (ms_stream_settle_epoch(s, seen, &known, &err) != MS_OK) {
		s->epoch = 0; /* next_step() comes back here */
		set_state(s, MS_STREAM_BLOCKED, err.msg);
		s->env->ops->timer_start(s->timer, RETRY_US);
		return;
	}
	if (s->pub.generation.s[0]) {
		const struct ms_probe *p = &s->auth_probe;
		if (s->takeover && p->reachable && !p->empty) {
			bool ours = strcmp(s->auth_head.generation.s, s->pub.generation.s) == 0;
			s->start_fork = ours && p->tail.txid > s->pub.state.txid;
			s->start_root = !ours && !p->same_owner;
			s->adopt_state = p->tail;
			s->adopt_head = s->auth_head;
		}
		if (!s->start_fork && !s->start_root)
			ms_stream_start_workers(s);
	} else if (s->auth_probe.reachable && !s->auth_probe.empty) {
		if (!s->auth_probe.same_owner && !s->takeover) {
			(void)ms_err_set(&err, MS_EFENCED,
					 "the replica belongs to owner %s on host %s (generation %s, txid %llu) and this host has no state of its own; if that one is gone, run "
					 "`migstream takeover %s`",
					 s->auth_head.owner, s->auth_head.host, s->auth_head.generation.s,
					 (unsigned long long)s->auth_probe.tail.txid, s->path);
			ms_stream_end(s, MS_STREAM_FENCED, &err);
			return;
		}
		s->adopt = true;
		s->adopt_same_owner = s->auth_probe.same_owner;
		/* A shadow directory that has used the head's epoch wrote that head: its lost state is no sign of a stale disk. */
		s->adopt_only = !s->takeover && !(s->auth_probe.same_owner && known >= s->auth_head.epoch);
		s->adopt_state = s->auth_probe.tail;
		s->adopt_head = s->auth_head;
	}
	s->env->ops->timer_start(s->tick, TICK_US);
	if (s->paused)
		set_state(s, MS_STREAM_PAUSED, NULL);
	else
		next_step(s);
}

void ms_stream_worker_probed(void *arg, struct ms_worker *w, const struct ms_probe *p) {
	struct ms_stream *s = arg;
	bool authority = (s->authority ? s->authority : s->replicas[0])->worker == w;
	if (!p->reachable) {
		char q[700];
		ms_log(MS_LOG_WARN, "replica does not answer", "db=%s error=%s", s->name, ms_log_q(q, sizeof q, p->err.msg));
	}
	if (authority) {
		s->auth_probe = *p;
		ms_head_release(&s->auth_head);
		s->auth_head = p->head;
		s->auth_head.removals = NULL;
		s->auth_head.nremovals = 0;
		s->auth_head.lineage = NULL;
		if (p->head.nlineage) {
			s->auth_head.lineage = malloc(p->head.nlineage * sizeof *p->head.lineage);
			if (s->auth_head.lineage)
				memcpy(s->auth_head.lineage, p->head.lineage, p->head.nlineage * sizeof *p->head.lineage);
			else
				s->auth_head.nlineage = 0;
		}
	} else if (p->reachable && !p->empty && p->head.epoch > s->auth_head.epoch) {
		s->auth_head.epoch = p->head.epoch;
	}
	if (--s->probes_left == 0 && !s->stopping && !s->ended)
		probes_done(s);
}

/* ---- stepping ---- */

static void on_event(void *arg) {
	struct ms_stream *s = arg;
	s->env->ops->poll_free(s->poll); /* level-triggered: off until the step has drained it */
	s->poll = NULL;
	next_step(s);
}

static void on_timer(void *arg) { next_step(arg); }

static int64_t stop_left_us(const struct ms_stream *s) { return s->stop_at_us - (int64_t)(ms_env_mono_ns(s->env) / 1000); }

/* Nothing is stopped while a run that was given up is still in a job. */
void ms_stream_finish_stop(struct ms_stream *s) {
	s->workers_stopped = true;
	if (s->dropped || s->catchups_dropped || s->leaving)
		return;
	set_state(s, MS_STREAM_STOPPED, NULL);
	void (*stopped)(void *) = s->stopped;
	stopped(s->stopped_arg);
}

static void worker_stopped(void *arg) {
	struct ms_stream *s = arg;
	if (--s->workers_left == 0)
		ms_stream_finish_stop(s);
}

static void stop_workers(struct ms_stream *s) {
	struct ms_err err = MS_ERR_INIT;
	ms_stream_snapshots_drop(s);
	if (ms_journal_sync(s->journal, ms_journal_next_seq(s->journal) - 1, &err) != MS_OK) {
		char q[700];
		ms_log(MS_LOG_ERROR, "journal cannot be synced", "db=%s error=%s", s->name, ms_log_q(q, sizeof q, err.msg));
	}
	s->journalled = s->pub.state;
	s->workers_left = s->nworkers;
	/* What the first snapshot and the last look have left of the time, and enough for what is all but done. */
	int64_t left = stop_left_us(s), least = s->stop_deadline_us < STOP_LEAST_US ? s->stop_deadline_us : STOP_LEAST_US;
	if (left < least)
		left = least;
	if (!s->nworkers) {
		ms_stream_finish_stop(s);
		return;
	}
	for (uint32_t i = 0; i < s->nworkers; i++) {
		ms_worker_kick(s->replicas[i]->worker);
		ms_worker_stop(s->replicas[i]->worker, left, worker_stopped, s);
	}
}

static void explain(struct ms_stream *s) {
	const struct step_result *r = &s->pub;
	char why[MS_STATUS_TEXT];
	if (s->paused) {
		set_state(s, MS_STREAM_PAUSED, NULL);
		return;
	}
	switch (r->src.state) {
	case MS_SRC_FOLLOWING:
	case MS_SRC_LOST:
	case MS_SRC_BUSY:
		if (s->mode == MODE_FOLLOW)
			set_state(s, ms_stream_seeded(s) ? MS_STREAM_FOLLOWING : MS_STREAM_SEEDING, ms_stream_why_seeding(s, why));
		else if (s->mode != MODE_DETACHED)
			set_state(s, s->mode == MODE_SEED ? MS_STREAM_SEEDING : MS_STREAM_CATCHUP, NULL);
		else if (r->src.why[0])
			set_state(s, MS_STREAM_WAITING, r->src.why);
		break;
	default:
		set_state(s, MS_STREAM_WAITING, r->src.why[0] ? r->src.why : "the database is not there");
	}
}

static void step_done(void *arg) {
	struct ms_stream *s = arg;
	uint64_t began = s->steps;
	s->job_running = false;
	s->pub = s->out;
	s->handed = (struct handed){0};
	struct step_result *r = &s->pub;
	char q[700];

	ms_stream_replicas_settle(s);
	if (r->note[0])
		ms_log(MS_LOG_WARN, r->damaged ? "snapshot page differs" : "continuity", "db=%s txid=%llu note=%s", s->name,
		       (unsigned long long)r->state.txid, ms_log_q(q, sizeof q, r->note));
	if (s->task == TASK_RELEASE) {
		if (r->err.code != MS_OK)
			ms_log(MS_LOG_WARN, "page sums not written", "db=%s error=%s", s->name, ms_log_q(q, sizeof q, r->err.msg));
		if (s->stopping)
			stop_workers(s);
		else if (s->paused && s->started)
			set_state(s, MS_STREAM_PAUSED, NULL);
		if (!s->stopping && !s->paused && !s->ended)
			next_step(s);
		return;
	}
	/* After a new generation or a blind interval, what a snapshot has read is of another history. */
	ms_stream_snapshots_stepped(s, r->snapshots_failed, r->damaged, r->generation_now || s->mode != MODE_FOLLOW);
	if (s->catchups_drop || r->catchup_failed || r->generation_now || s->mode != MODE_FOLLOW)
		ms_stream_catchups_drop(s);
	if (r->err.code != MS_OK) {
		s->step_errors++;
		ms_journal_nudge(s->journal); /* what the step had captured before it failed */
		if (r->fenced) {
			ms_stream_end(s, MS_STREAM_FENCED, &r->err);
			if (s->stopping)
				submit_step(s, TASK_RELEASE);
			return;
		}
		answer_barriers(s, UINT64_MAX, &r->err);
		ms_stream_snapshots_drop(s);
		ms_stream_catchups_drop(s);
		if (r->blocked) {
			/* The journal or the page sums could not be written: what is in memory may be ahead of them. Recover from disk. */
			ms_capture_free(s->cap);
			s->cap = NULL;
		}
		set_state(s, s->task == TASK_OPEN || r->blocked ? MS_STREAM_BLOCKED : MS_STREAM_WAITING, r->err.msg);
		if (s->stopping)
			submit_step(s, TASK_RELEASE);
		else
			s->env->ops->timer_start(s->timer, RETRY_US);
		return;
	}
	if (s->task == TASK_OPEN) {
		if (s->stopping) {
			submit_step(s, TASK_RELEASE);
			return;
		}
		s->probes_left = s->nworkers;
		for (uint32_t i = 0; i < s->nworkers; i++)
			ms_worker_probe(s->replicas[i]->worker, s->probe_timeout_us);
		if (!s->nworkers)
			probes_done(s);
		return;
	}
	if (r->generation_now)
		ms_log(MS_LOG_INFO, "generation starts", "db=%s generation=%s txid=%llu pages=%u page_size=%u", s->name, r->generation.s,
		       (unsigned long long)r->state.txid, r->state.db_pages, r->state.page_size);
	if (r->generation.s[0] && !s->start_fork && !s->start_root)
		ms_stream_start_workers(s);
	/* Whoever waits for a state wants it durable now, also where the journal would take its time. */
	uint64_t durable = ms_journal_durable_seq(s->journal);
	if (s->barriers || s->stopping)
		ms_journal_kick(s->journal);
	else if (durable < r->last_seq)
		ms_journal_nudge(s->journal);
	else
		ms_stream_durable(s, durable, NULL); /* synced before this step had told of it */
	s->settled = s->mode == MODE_FOLLOW && r->src.caught_up;
	if (s->settled)
		answer_barriers(s, began, NULL);
	else if (s->mode == MODE_DETACHED && !r->src.more)
		answer_barriers(s, UINT64_MAX, &(struct ms_err){MS_EMODE, 0, "the database is not being followed just now"});
	if (s->stopping) { /* a last look is over when it has seen everything that was there when it began */
		bool seen = s->settled && began >= s->stop_step;
		bool more = s->task == TASK_STEP && r->src.more && !seen && !s->ended && !s->paused && stop_left_us(s) > 0;
		submit_step(s, more ? TASK_STEP : TASK_RELEASE);
		return;
	}
	if (s->ended || s->paused) {
		submit_step(s, TASK_RELEASE);
		return;
	}
	explain(s);
	ms_stream_snapshots_advance(s);
	ms_stream_catchups_pump(s);
	ms_stream_snapshots_begin(s);
	s->hooks.changed(s->hooks.arg, s);
	if (s->job_running)
		return;
	/* A barrier waits for a look that has seen everything; a source that is busy says itself when to look again. */
	if (s->again || r->src.more || (s->barriers && r->src.state != MS_SRC_BUSY) || ms_stream_catchups_want_fill(s) || ms_stream_snapshots_want_fill(s)) {
		next_step(s);
		return;
	}
	int fd = s->source->ops->event_fd(s->source);
	if (fd >= 0 && !s->poll)
		s->poll = s->env->ops->poll_new(s->env, fd, on_event, s);
	s->env->ops->timer_start(s->timer, r->src.next_poll_us ? r->src.next_poll_us : 1000);
}

static void submit_step(struct ms_stream *s, enum step_task task) {
	s->env->ops->timer_stop(s->timer);
	if (s->poll) {
		s->env->ops->poll_free(s->poll);
		s->poll = NULL;
	}
	s->task = task;
	s->job_running = true;
	s->again = false;
	s->steps++;
	s->job = (struct ms_job){.run = ms_stream_step_run, .done = step_done, .arg = s};
	s->env->ops->submit(s->env, MS_LANE_SOURCE, &s->job);
}

static void next_step(struct ms_stream *s) {
	if (s->job_running) {
		s->again = true;
		return;
	}
	if (s->ended || s->stopping || s->paused || !s->started || s->probes_left)
		return;
	if (s->cap && !s->epoch)
		probes_done(s);
	else
		submit_step(s, s->epoch ? TASK_STEP : TASK_OPEN);
}

static void on_tick(void *arg) {
	struct ms_stream *s = arg;
	if (s->ended || s->stopping)
		return;
	s->env->ops->timer_start(s->tick, s->draining ? DRAIN_TICK_US : TICK_US);
	if (s->draining && !seed_owed(s)) {
		stop_now(s);
		return;
	}
	if (!s->job_running)
		ms_stream_catchups_pump(s);
	ms_stream_snapshots_begin(s);
	if (!s->job_running && s->state == MS_STREAM_SEEDING && s->mode == MODE_FOLLOW && ms_stream_seeded(s))
		set_state(s, MS_STREAM_FOLLOWING, NULL);
	if (s->data_loss_threshold_us <= 0)
		return;
	struct ms_stream_status st;
	if (ms_stream_get_status(s, &st, NULL) != MS_OK)
		return;
	double window = ms_stream_data_loss_window(&st, ms_env_now_us(s->env));
	bool alarm = window * 1e6 > (double)s->data_loss_threshold_us;
	if (alarm != s->loss_alarm)
		ms_log(alarm ? MS_LOG_WARN : MS_LOG_INFO, alarm ? "data-loss window above threshold" : "data-loss window below threshold again",
		       "db=%s window_seconds=%.3f threshold_seconds=%.3f", s->name, window, (double)s->data_loss_threshold_us / 1e6);
	s->loss_alarm = alarm;
	ms_stream_status_release(&st);
}

/* ---- public ---- */

static char *dup_or_null(const char *p) { return p ? strdup(p) : NULL; }

enum ms_code ms_stream_new(struct ms_env *env, struct ms_journal *j, struct ms_source *source, const struct ms_stream_config *cfg,
			   const struct ms_stream_hooks *hooks, struct ms_stream **ret, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	struct ms_stream *s = calloc(1, sizeof *s);
	if (!s)
		return ms_err_set(err, MS_ENOMEM, "stream");
	pthread_mutex_init(&s->handed_mu, NULL);
	s->env = env;
	s->journal = j;
	s->hooks = *hooks;
	s->name = dup_or_null(cfg->name);
	s->path = dup_or_null(cfg->path);
	s->dir = dup_or_null(cfg->dir);
	s->owner = dup_or_null(cfg->owner);
	s->host = dup_or_null(cfg->host);
	s->level = cfg->level;
	s->codec_none = cfg->codec_none;
	s->compression = cfg->codec_none ? MS_COMPRESS_NONE : cfg->level | MS_COMPRESS_WINDOW(cfg->window);
	s->takeover = cfg->takeover;
	s->snapshot_interval_us = cfg->snapshot_interval_us;
	s->snapshot_share = cfg->snapshot_share;
	s->probe_timeout_us = cfg->probe_timeout_us ? cfg->probe_timeout_us : 5000000;
	s->data_loss_threshold_us = cfg->data_loss_threshold_us;
	s->lost_commits = -1;
	s->timer = env->ops->timer_new(env, on_timer, s);
	s->tick = env->ops->timer_new(env, on_tick, s);
	s->replicas = calloc(cfg->nworkers + 1, sizeof(struct stream_replica *));
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		s->snapshots_running[i].stream = s;
	ms_stream_sink_init(s);
	if (!s->name || !s->path || !s->dir || !s->timer || !s->tick || !s->replicas) {
		rc = ms_err_set(err, MS_ENOMEM, "stream");
		goto fail;
	}
	int64_t authority = cfg->authority;
	for (uint32_t i = 0; i < cfg->nworkers && authority < 0; i++)
		if (!cfg->workers[i].fencing_none)
			authority = i;
	for (uint32_t i = 0; i < cfg->nworkers; i++) {
		if ((rc = ms_stream_replica_new(s, &cfg->workers[i], authority == i, &s->replicas[i], err)) != MS_OK)
			goto fail;
		s->nworkers++;
		if (authority == i)
			s->authority = s->replicas[i];
	}
	s->source = source;
	*ret = s;
	return MS_OK;
fail:
	ms_stream_free(s);
	return rc;
}

void ms_stream_start(struct ms_stream *s) {
	s->started = true;
	submit_step(s, TASK_OPEN);
}

void ms_stream_durable(struct ms_stream *s, uint64_t durable_seq, const struct ms_err *err) {
	if (err && err->code != MS_OK) {
		set_state(s, MS_STREAM_BLOCKED, err->msg);
		return;
	}
	ms_stream_journalled(s, durable_seq);
	if (s->workers_started)
		for (uint32_t i = 0; i < s->nworkers; i++)
			ms_worker_kick(s->replicas[i]->worker);
	ms_stream_snapshots_durable(s, durable_seq);
	ms_stream_catchups_durable(s, durable_seq);
}

void ms_stream_pause(struct ms_stream *s) {
	if (s->paused || s->ended || s->stopping)
		return;
	s->paused = true;
	ms_stream_snapshots_drop(s);
	ms_stream_catchups_drop(s);
	answer_barriers(s, UINT64_MAX, &(struct ms_err){MS_ECANCELED, 0, "paused"});
	if (s->started && !s->job_running && !s->probes_left)
		submit_step(s, TASK_RELEASE);
}

void ms_stream_resume(struct ms_stream *s) {
	if (!s->paused)
		return;
	s->paused = false;
	next_step(s);
}

void ms_stream_poke(struct ms_stream *s) { next_step(s); }

void ms_stream_barrier(struct ms_stream *s, void (*cb)(void *arg, uint64_t txid, const struct ms_err *err), void *arg) {
	struct barrier *b = s->ended || s->stopping || s->paused ? NULL : calloc(1, sizeof *b);
	if (!b) {
		cb(arg, 0, &(struct ms_err){MS_ECLOSED, 0, "the database is not being followed"});
		return;
	}
	*b = (struct barrier){s->barriers, s->steps + 1, cb, arg};
	s->barriers = b;
	next_step(s);
}

void ms_stream_snapshot(struct ms_stream *s, void (*cb)(void *arg, uint64_t txid, const struct ms_err *err), void *arg) {
	if (s->snapshot_cb || s->ended || s->stopping) {
		if (cb)
			cb(arg, 0, &(struct ms_err){MS_EBUSY, 0, "a snapshot has been asked for already, or the database is not being followed"});
		return;
	}
	s->snapshot_cb = cb;
	s->snapshot_arg = arg;
	s->snapshot_wanted = true;
	ms_stream_snapshots_at_once(s);
	ms_stream_snapshots_begin(s);
}

void ms_stream_takeover(struct ms_stream *s) {
	s->takeover = true;
	s->adopt_only = false;
	for (uint32_t i = 0; i < s->nworkers; i++)
		ms_worker_allow_takeover(s->replicas[i]->worker);
}

static void stop_now(struct ms_stream *s) {
	s->draining = false;
	s->env->ops->timer_stop(s->timer);
	s->env->ops->timer_stop(s->tick);
	ms_stream_snapshots_drop(s);
	ms_stream_catchups_drop(s);
	answer_barriers(s, UINT64_MAX, &(struct ms_err){MS_ECLOSED, 0, "stopping"});
	bool look = s->started && s->cap && s->mode == MODE_FOLLOW && !s->ended && !s->paused;
	s->stopping = true;
	s->stop_step = s->steps + 1;
	if (!s->job_running)
		submit_step(s, look ? TASK_STEP : TASK_RELEASE);
}

/* A first snapshot that is under way, or about to be, is worth the rest of the time: without it nothing restores. */
static bool seed_owed(const struct ms_stream *s) {
	if (!s->workers_started || s->ended || s->paused || stop_left_us(s) <= 0)
		return false;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		struct ms_worker_status st;
		ms_worker_status(s->replicas[i]->worker, &st);
		if (s->replicas[i]->required && ms_worker_waits_for_snapshot(s->replicas[i]->worker) && st.state != MS_WORKER_RETRYING &&
		    st.state != MS_WORKER_FAILED && st.state != MS_WORKER_FENCED)
			return true;
	}
	return false;
}

void ms_stream_stop(struct ms_stream *s, int64_t deadline_us, void (*stopped)(void *arg), void *arg) {
	s->stopped = stopped;
	s->stopped_arg = arg;
	s->stop_deadline_us = deadline_us;
	s->stop_at_us = (int64_t)(ms_env_mono_ns(s->env) / 1000) + deadline_us;
	if (seed_owed(s)) {
		s->draining = true;
		s->env->ops->timer_start(s->tick, 0);
		return;
	}
	stop_now(s);
}

void ms_stream_free(struct ms_stream *s) {
	if (!s)
		return;
	/* Nothing of these is left after a stop; on a dead simulated machine, whatever it was at. */
	ms_stream_snapshots_abandon(s);
	ms_stream_catchups_abandon(s);
	for (uint32_t i = 0; i < s->nworkers; i++)
		ms_stream_replica_free(s->replicas[i]);
	free(s->replicas);
	struct stream_replica *lists[] = {s->joining, s->leaving, s->buried};
	for (int i = 0; i < 3; i++)
		while (lists[i]) {
			struct stream_replica *next = lists[i]->next;
			ms_stream_replica_free(lists[i]);
			lists[i] = next;
		}
	while (s->barriers) {
		struct barrier *next = s->barriers->next;
		free(s->barriers);
		s->barriers = next;
	}
	if (s->poll)
		s->env->ops->poll_free(s->poll);
	s->env->ops->timer_free(s->timer);
	s->env->ops->timer_free(s->tick);
	ms_capture_free(s->cap);
	ms_scan_release(&s->scan);
	pthread_mutex_destroy(&s->handed_mu);
	free(s->slice);
	ms_head_release(&s->auth_head);
	if (s->source)
		s->source->ops->free(s->source);
	free(s->name);
	free(s->path);
	free(s->dir);
	free(s->owner);
	free(s->host);
	free(s);
}
