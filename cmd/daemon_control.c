/*
 * The daemon's side of the control server. Operations come from the server's threads: each is carried to the loop thread by post()
 * and its caller waits on a condition until it is answered, or the daemon closes.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/daemon.h"

struct op {
	struct op *next; /* of those waiting, loop thread */
	struct ops_state *state;
	enum { OP_STATUS, OP_JOURNAL, OP_THRESHOLD, OP_CAPTURE, OP_PAUSE, OP_PAUSED, OP_RESUME, OP_SNAPSHOT, OP_TAKEOVER, OP_SHUTDOWN } what;
	const char *db;
	struct ms_stream_status *statuses;
	unsigned n;
	struct ms_journal_stats *journal;
	uint64_t number;
	bool yes;
	struct ms_err err;
	pthread_cond_t cond;
	bool done; /* under state->mutex */
};

/* A database's bytes in the shadow directory, as last counted. */
struct counted {
	char name[128];
	uint64_t bytes, at_ns;
};

struct ops_state {
	struct ms_daemon *d;
	pthread_mutex_t mutex; /* guards closing and every op's done */
	bool closing;
	pthread_mutex_t sizes_mutex; /* guards the two below */
	struct counted *sizes;	     /* in the order of the statuses last seen */
	unsigned nsizes;
	struct op *waiting; /* loop thread: answered later */
};

static void answer(struct op *o) {
	struct op **p = &o->state->waiting;
	while (*p && *p != o)
		p = &(*p)->next;
	if (*p)
		*p = o->next;
	pthread_mutex_lock(&o->state->mutex);
	o->done = true;
	pthread_cond_signal(&o->cond);
	pthread_mutex_unlock(&o->state->mutex);
}

static void captured(void *arg, uint64_t txid, const struct ms_err *err) {
	struct op *o = arg;
	o->number = txid;
	if (err)
		o->err = *err;
	answer(o);
}

static void get_statuses(struct op *o) {
	struct ms_daemon *d = o->state->d;
	if (!(o->statuses = calloc(d->ndbs + 1, sizeof *o->statuses))) {
		(void)ms_err_set(&o->err, MS_ENOMEM, "status of %u databases", d->ndbs);
		return;
	}
	for (unsigned i = 0; i < d->ndbs && o->err.code == MS_OK; i++)
		if (ms_stream_get_status(d->dbs[i]->stream, &o->statuses[i], &o->err) == MS_OK)
			o->n++;
}

static uint64_t state_txid(struct ms_stream *s) {
	struct ms_stream_status st;
	uint64_t txid = 0;
	if (ms_stream_get_status(s, &st, NULL) == MS_OK) {
		txid = st.db.txid;
		ms_stream_status_release(&st);
	}
	return txid;
}

static void on_loop(void *arg) {
	struct op *o = arg;
	struct ms_daemon *d = o->state->d;
	struct ms_daemon_db *db = o->db ? ms_daemon_find(d, o->db) : NULL;
	if (d->stopping) {
		(void)ms_err_set(&o->err, MS_ECLOSED, "the daemon is stopping");
		answer(o);
		return;
	}
	if (o->db && !db) {
		char names[256] = "";
		size_t n = 0;
		for (unsigned i = 0; i < d->ndbs && n < sizeof names - 64; i++)
			n += (size_t)snprintf(names + n, sizeof names - n, "%s%.48s", i ? ", " : "", d->dbs[i]->name);
		(void)ms_err_set(&o->err, MS_ENOTFOUND, "no database %s here; there is %s", o->db, names[0] ? names : "none");
		answer(o);
		return;
	}
	switch (o->what) {
	case OP_STATUS:
		get_statuses(o);
		break;
	case OP_JOURNAL:
		ms_journal_get_stats(d->journal, o->journal);
		break;
	case OP_THRESHOLD: {
		const struct ms_config_database *c = db ? ms_config_find(d->config, db->name) : NULL;
		o->number = c ? (uint64_t)c->s.data_loss_window_threshold_us : 0;
		break;
	}
	case OP_CAPTURE:
		if (ms_stream_state(db->stream) == MS_STREAM_PAUSED) {
			o->number = state_txid(db->stream);
			break;
		}
		o->next = o->state->waiting;
		o->state->waiting = o;
		ms_stream_barrier(db->stream, captured, o);
		return;
	case OP_PAUSE:
		ms_stream_pause(db->stream);
		break;
	case OP_PAUSED:
		o->yes = ms_stream_state(db->stream) == MS_STREAM_PAUSED;
		break;
	case OP_RESUME:
		ms_stream_resume(db->stream);
		break;
	case OP_SNAPSHOT:
		ms_stream_snapshot(db->stream, NULL, NULL);
		o->number = state_txid(db->stream);
		break;
	case OP_TAKEOVER:
		(void)!ms_daemon_takeover(d, db, &o->err);
		break;
	case OP_SHUTDOWN:
		answer(o);
		ms_daemon_stop(d, 0);
		return;
	}
	answer(o);
}

static enum ms_code call(struct ops_state *st, struct op *o, struct ms_err *err) {
	o->state = st;
	pthread_cond_init(&o->cond, NULL);
	pthread_mutex_lock(&st->mutex);
	if (st->closing) {
		pthread_mutex_unlock(&st->mutex);
		pthread_cond_destroy(&o->cond);
		return ms_err_set(err, MS_ECLOSED, "the daemon is stopping");
	}
	st->d->env->ops->post(st->d->env, on_loop, o);
	while (!o->done)
		pthread_cond_wait(&o->cond, &st->mutex);
	pthread_mutex_unlock(&st->mutex);
	pthread_cond_destroy(&o->cond);
	if (o->err.code != MS_OK && err)
		*err = o->err;
	return o->err.code;
}

static void op_info(void *arg, struct ms_daemon_info *ret) {
	struct ms_daemon *d = ((struct ops_state *)arg)->d;
	*ret = (struct ms_daemon_info){getpid(), d->started_us, d->shadow, d->config->file};
}

#define SIZES_NS UINT64_C(1000000000)

/* Walking directories is for the server's threads, not for the loop's, and once a second is often enough: `wait` asks every few milliseconds. */
static void fill_sizes(struct ops_state *st, struct ms_stream_status *s, unsigned n) {
	uint64_t now = ms_env_mono_ns(st->d->env);
	pthread_mutex_lock(&st->sizes_mutex);
	if (st->nsizes < n) {
		struct counted *grown = reallocarray(st->sizes, n, sizeof *grown);
		if (grown) {
			memset(grown + st->nsizes, 0, (n - st->nsizes) * sizeof *grown);
			st->sizes = grown;
			st->nsizes = n;
		}
	}
	for (unsigned i = 0; i < n && i < st->nsizes; i++) {
		struct counted *c = &st->sizes[i];
		char dir[MS_PATH_MAX];
		if (strcmp(c->name, s[i].name) != 0 || now - c->at_ns >= SIZES_NS) {
			snprintf(c->name, sizeof c->name, "%s", s[i].name);
			c->at_ns = now;
			c->bytes = 0;
			if (snprintf(dir, sizeof dir, "%s/db/%s", st->d->shadow, c->name) < (int)sizeof dir)
				(void)!ms_fs_tree_bytes(st->d->env, dir, &c->bytes, NULL);
		}
		s[i].shadow_bytes = c->bytes;
	}
	pthread_mutex_unlock(&st->sizes_mutex);
}

static enum ms_code op_status(void *arg, struct ms_stream_status **ret, unsigned *ret_n, struct ms_err *err) {
	struct ops_state *st = arg;
	struct op o = {.what = OP_STATUS};
	enum ms_code rc = call(st, &o, err);
	if (rc != MS_OK) {
		for (unsigned i = 0; i < o.n; i++)
			ms_stream_status_release(&o.statuses[i]);
		free(o.statuses);
		return rc;
	}
	fill_sizes(st, o.statuses, o.n);
	*ret = o.statuses;
	*ret_n = o.n;
	return MS_OK;
}

static enum ms_code op_journal(void *arg, struct ms_journal_stats *ret, struct ms_err *err) {
	struct op o = {.what = OP_JOURNAL, .journal = ret};
	return call(arg, &o, err);
}

static int64_t op_threshold(void *arg, const char *name) {
	struct op o = {.what = OP_THRESHOLD, .db = name};
	return call(arg, &o, NULL) == MS_OK ? (int64_t)o.number : 0;
}

static enum ms_code op_capture(void *arg, const char *db, uint64_t *ret_txid, struct ms_err *err) {
	struct op o = {.what = OP_CAPTURE, .db = db};
	enum ms_code rc = call(arg, &o, err);
	if (rc == MS_OK)
		*ret_txid = o.number;
	return rc;
}

static enum ms_code op_pause(void *arg, const char *db, struct ms_err *err) {
	struct ops_state *st = arg;
	struct op o = {.what = OP_PAUSE, .db = db};
	enum ms_code rc = call(st, &o, err);
	for (int i = 0; rc == MS_OK && i < 2000; i++) {
		struct op q = {.what = OP_PAUSED, .db = db};
		if ((rc = call(st, &q, err)) != MS_OK || q.yes)
			return rc;
		usleep(5000);
	}
	return rc != MS_OK ? rc : ms_err_set(err, MS_ETIMEDOUT, "%s: not let go of within 10 s", db);
}

static enum ms_code op_resume(void *arg, const char *db, struct ms_err *err) {
	struct op o = {.what = OP_RESUME, .db = db};
	return call(arg, &o, err);
}

static enum ms_code op_snapshot(void *arg, const char *db, uint64_t *ret_txid, struct ms_err *err) {
	struct op o = {.what = OP_SNAPSHOT, .db = db};
	enum ms_code rc = call(arg, &o, err);
	if (rc == MS_OK)
		*ret_txid = o.number;
	return rc;
}

static enum ms_code op_takeover(void *arg, const char *db, struct ms_err *err) {
	struct op o = {.what = OP_TAKEOVER, .db = db};
	return call(arg, &o, err);
}

static enum ms_code op_shutdown(void *arg, struct ms_err *err) {
	struct op o = {.what = OP_SHUTDOWN};
	return call(arg, &o, err);
}

static const struct ms_control_ops ops = {
	.info = op_info, .get_status = op_status, .get_journal_stats = op_journal, .threshold_us = op_threshold, .capture = op_capture,
	.pause = op_pause, .resume = op_resume, .snapshot = op_snapshot, .takeover = op_takeover, .shutdown = op_shutdown,
};

enum ms_code ms_daemon_control_start(struct ms_daemon *d, struct ms_err *err) {
	struct ops_state *st = calloc(1, sizeof *st);
	if (!st)
		return ms_err_set(err, MS_ENOMEM, "control server");
	st->d = d;
	pthread_mutex_init(&st->mutex, NULL);
	pthread_mutex_init(&st->sizes_mutex, NULL);
	d->ops_state = st;
	return ms_control_server_new(d->env, d->shadow, d->config->metrics.address, &ops, st, &d->control, err);
}

void ms_daemon_control_close(struct ms_daemon *d) {
	struct ops_state *st = d->ops_state;
	if (!st)
		return;
	pthread_mutex_lock(&st->mutex);
	st->closing = true;
	pthread_mutex_unlock(&st->mutex);
	if (d->control)
		ms_control_server_close(d->control);
	/* Operations that wait for a stream are answered by ms_stream_stop(), posted ones by on_loop(): the loop still runs. */
}

void ms_daemon_control_free(struct ms_daemon *d) {
	struct ops_state *st = d->ops_state;
	ms_control_server_free(d->control);
	d->control = NULL;
	if (st) {
		pthread_mutex_destroy(&st->mutex);
		pthread_mutex_destroy(&st->sizes_mutex);
		free(st->sizes);
		free(st);
	}
	d->ops_state = NULL;
}
