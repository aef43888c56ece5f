#include "cmd/control_wait.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Looks often at first, for the usual case that takes milliseconds. */
#define POLL_MIN_US 5000
#define POLL_MAX_US 25000

static const struct ms_stream_status *find(const struct ms_stream_status *s, unsigned n, const char *db) {
	char canonical[PATH_MAX];
	for (unsigned i = 0; i < n; i++)
		if (strcmp(s[i].name, db) == 0 || strcmp(s[i].path, db) == 0)
			return &s[i];
	if (!realpath(db, canonical))
		return NULL;
	for (unsigned i = 0; i < n; i++)
		if (strcmp(s[i].path, canonical) == 0)
			return &s[i];
	return NULL;
}

static enum ms_code cannot(enum ms_code code, const struct ms_stream_status *s, const char *who, const char *state, const char *why, struct ms_err *err) {
	return ms_err_set(err, code, "%s: %s%s%s%s%.300s", s->name, who, *who ? " is " : "is ", state, *why ? ": " : "", why);
}

/* *ret_done: the state is there. An error: it cannot come. */
static enum ms_code look(const struct ms_stream_status *s, const struct ms_wait *w, uint64_t txid, bool *ret_done, struct ms_err *err) {
	bool found = false, any = false, done = true;
	char who[160];
	for (uint32_t i = 0; i < s->nworkers; i++) {
		const struct ms_worker_status *r = &s->workers[i];
		if (w->replica ? strcmp(r->name, w->replica) != 0 : !r->required)
			continue;
		found = any = true;
		if (r->txid >= txid)
			continue;
		done = false;
		snprintf(who, sizeof who, "replica %s", r->name);
		if (r->state == MS_WORKER_FENCED)
			return cannot(MS_EFENCED, s, who, "fenced", r->last_error, err);
		if (r->state == MS_WORKER_FAILED || r->state == MS_WORKER_STOPPED)
			return cannot(MS_EPERMANENT, s, who, ms_worker_state_name(r->state), r->last_error, err);
	}
	if (w->replica && !found) {
		char names[256] = "";
		for (uint32_t i = 0; i < s->nworkers && strlen(names) < 100; i++)
			snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", s->workers[i].name);
		return ms_err_set(err, MS_ENOTFOUND, "%s has no replica %.64s; it has %s", s->name, w->replica, names[0] ? names : "none");
	}
	if (!any)
		done = s->journalled_txid >= txid;
	if (!done && s->state == MS_STREAM_FENCED)
		return cannot(MS_EFENCED, s, "", "fenced", s->why, err);
	if (!done && (s->state == MS_STREAM_FAILED || s->state == MS_STREAM_STOPPED))
		return cannot(MS_EPERMANENT, s, "", ms_stream_state_name(s->state), s->why, err);
	*ret_done = done;
	return MS_OK;
}

static int64_t mono_us(struct ms_env *env) {
	return (int64_t)(ms_env_mono_ns(env) / 1000);
}

enum ms_code ms_control_wait(struct ms_env *env, const struct ms_control_ops *ops, void *arg, const struct ms_wait *w, uint64_t *ret_txid,
			     struct ms_generation *ret_generation, struct ms_err *err) {
	struct ms_generation generation = {""};
	uint64_t txid = w->txid;
	int64_t start = mono_us(env), pause_us = POLL_MIN_US;
	enum ms_code code = w->has_txid ? MS_OK : ops->capture(arg, w->db, &txid, err);
	if (code)
		return code;
	for (;;) {
		struct ms_stream_status *all = NULL;
		unsigned n = 0;
		bool done = false;
		if ((code = ops->get_status(arg, &all, &n, err)))
			return code;
		const struct ms_stream_status *s = find(all, n, w->db);
		if (!s) {
			code = ms_err_set(err, MS_ENOTFOUND, "no database %.200s here", w->db);
		} else {
			/* A fork keeps counting, a new root begins again at 1: the number would mean something else. */
			if (!generation.s[0])
				generation = s->generation;
			if (generation.s[0] && strcmp(generation.s, s->generation.s) != 0 && s->db.txid < txid)
				code = ms_err_set(err, MS_ECONFLICT, "%s: a new generation %s has begun at txid %" PRIu64 " while waiting for %" PRIu64 " of %s", s->name,
						  s->generation.s, s->db.txid, txid, generation.s);
			else
				code = look(s, w, txid, &done, err);
			if (done)
				generation = s->generation;
		}
		for (unsigned i = 0; i < n; i++)
			ms_stream_status_release(&all[i]);
		free(all);
		if (code)
			return code;
		if (done) {
			*ret_txid = txid;
			*ret_generation = generation;
			return MS_OK;
		}
		int64_t left = w->timeout_us ? start + w->timeout_us - mono_us(env) : INT64_MAX;
		if (left <= 0)
			return ms_err_set(err, MS_ETIMEDOUT, "txid %" PRIu64 " is not there yet", txid);
		if (w->give_up && w->give_up(w->give_up_arg))
			return ms_err_set(err, MS_ECLOSED, "the daemon is stopping");
		int64_t us = pause_us < left ? pause_us : left;
		struct timespec ts = {.tv_sec = 0, .tv_nsec = us * 1000};
		nanosleep(&ts, NULL);
		pause_us = pause_us * 5 / 4 > POLL_MAX_US ? POLL_MAX_US : pause_us * 5 / 4;
	}
}
