#include "cmd/daemon.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/replica_spec.h"
#include "cmd/shadow.h"

#define TICK_US 1000000u
#define GIVEN_UP_US 1000000 /* to stop a database whose replica has been given up */

static enum ms_code take_lock(struct ms_daemon *d, struct ms_err *err) {
	char path[MS_PATH_MAX], text[32] = "";
	size_t n = 0;
	enum ms_code rc = ms_path_join(path, sizeof path, d->shadow, "lock", err);
	if (rc != MS_OK || (rc = d->env->ops->open(d->env, path, MS_O_RDWR | MS_O_CREATE, 0600, &d->lock, err)) != MS_OK)
		return rc;
	if ((rc = d->env->ops->lock(d->lock, err)) != MS_OK) {
		if (rc == MS_EBUSY && d->env->ops->pread(d->lock, text, sizeof text - 1, 0, &n, NULL) == MS_OK) {
			text[n] = 0;
			text[strcspn(text, "\n")] = 0;
			return ms_err_set(err, MS_EBUSY,
					  "%s: another migstream (pid %s) uses this shadow directory; stop it, or give this one a shadowDir of its own",
					  d->shadow, text[0] ? text : "unknown");
		}
		return rc;
	}
	snprintf(text, sizeof text, "%ld\n", (long)getpid());
	if ((rc = d->env->ops->truncate(d->lock, 0, err)) != MS_OK)
		return rc;
	return d->env->ops->pwrite(d->lock, text, strlen(text), 0, err);
}

/* Configured name, else a random id kept in the shadow directory. */
static enum ms_code find_owner(struct ms_daemon *d, struct ms_err *err) {
	char path[MS_PATH_MAX];
	struct ms_buf b;
	if (gethostname(d->host, sizeof d->host) != 0)
		snprintf(d->host, sizeof d->host, "unknown");
	d->host[sizeof d->host - 1] = 0;
	if (d->config->owner) {
		snprintf(d->owner, sizeof d->owner, "%s", d->config->owner);
		return MS_OK;
	}
	enum ms_code rc = ms_path_join(path, sizeof path, d->shadow, "owner", err);
	if (rc != MS_OK)
		return rc;
	struct ms_err e = MS_ERR_INIT;
	ms_buf_init(&b, sizeof d->owner - 1);
	rc = ms_fs_read_file(d->env, path, &b, &e);
	if (rc == MS_OK && b.len >= 16) {
		memcpy(d->owner, b.data, b.len);
		d->owner[strcspn(d->owner, "\n")] = 0;
	} else if (rc == MS_OK || rc == MS_ENOTFOUND) {
		uint8_t r[8];
		d->env->ops->random(d->env, r, sizeof r);
		for (int i = 0; i < 8; i++)
			snprintf(d->owner + 2 * i, 3, "%02x", r[i]);
		char line[sizeof d->owner + 1];
		snprintf(line, sizeof line, "%s\n", d->owner);
		rc = ms_fs_replace_file(d->env, path, line, strlen(line), 0600, err);
	} else {
		*err = e;
	}
	ms_buf_release(&b);
	return rc;
}

static void purge(struct ms_daemon *d);

static void journal_durable(void *arg, uint64_t seq, const struct ms_err *err) {
	struct ms_daemon *d = arg;
	if (ms_streams_purge_pressed(d->journal, d->cap_bytes))
		purge(d);
	for (unsigned i = 0; i < d->ndbs; i++)
		ms_stream_durable(d->dbs[i]->stream, seq, err);
}

static void purge(struct ms_daemon *d) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_stream **streams = calloc(d->ndbs + 1, sizeof *streams);
	char q[700];
	if (!streams)
		return; /* the next tick tries again */
	for (unsigned i = 0; i < d->ndbs; i++)
		streams[i] = d->dbs[i]->stream;
	enum ms_code rc = ms_streams_purge(d->journal, streams, d->ndbs, d->cap_bytes, &err);
	free(streams);
	if (rc == MS_OK)
		return;
	ms_log(MS_LOG_WARN, "journal cannot be purged", "error=%s", ms_log_q(q, sizeof q, err.msg));
}

static void check_once(struct ms_daemon *d) {
	if (!d->opt.once || d->stopping)
		return;
	bool failed = false;
	for (unsigned i = 0; i < d->ndbs; i++) {
		struct ms_daemon_db *db = d->dbs[i];
		struct ms_err why = MS_ERR_INIT;
		char q[700];
		enum ms_stream_state st = ms_stream_state(db->stream);
		if (db->ended.code != MS_OK || db->given_up)
			failed = failed || db->given_up;
		else if (st == MS_STREAM_WAITING || st == MS_STREAM_BLOCKED)
			failed = true;
		else if (ms_stream_hopeless(db->stream, d->config->shutdown_timeout_us, &why)) {
			db->given_up = failed = true;
			ms_log(MS_LOG_ERROR, "replica cannot be reached: not waiting for it any longer", "db=%s error=%s", db->name, ms_log_q(q, sizeof q, why.msg));
		} else if (!ms_stream_caught_up(db->stream)) {
			ms_journal_kick(d->journal); /* in async mode nobody else asks for the last commits */
			return;
		}
	}
	int code = failed ? 1 : 0;
	for (unsigned i = 0; i < d->ndbs; i++)
		if (d->dbs[i]->ended.code != MS_OK && ms_code_exit(d->dbs[i]->ended.code) > code)
			code = ms_code_exit(d->dbs[i]->ended.code);
	ms_daemon_stop(d, code);
}

static void on_tick(void *arg) {
	struct ms_daemon *d = arg;
	if (d->stopping)
		return;
	d->env->ops->timer_start(d->tick, d->opt.once ? 20000 : TICK_US);
	purge(d);
	check_once(d);
}

enum ms_code ms_daemon_new(struct ms_env *env, struct ms_config *config, const char *shadow, const struct ms_daemon_options *opt, struct ms_daemon **ret,
			   struct ms_err *err) {
	char path[MS_PATH_MAX];
	enum ms_code rc;
	struct ms_daemon *d = calloc(1, sizeof *d);
	if (!d)
		return ms_err_set(err, MS_ENOMEM, "daemon");
	d->env = env;
	d->config = config;
	d->opt = *opt;
	d->started_us = ms_env_now_us(env);
	snprintf(d->shadow, sizeof d->shadow, "%s", shadow);
	if ((rc = ms_replica_specs_check(config, err)) != MS_OK || (rc = ms_fs_mkdir_p(env, shadow, 0700, err)) != MS_OK ||
	    (rc = take_lock(d, err)) != MS_OK || (rc = find_owner(d, err)) != MS_OK ||
	    (opt->prepare && (rc = opt->prepare(opt->prepare_arg, config, shadow, err)) != MS_OK) || (rc = ms_path_join(path, sizeof path, shadow, "journal", err)) != MS_OK)
		goto fail;
	struct ms_journal_config jc = {
		.mode = config->journal.sync_mode == MS_CONFIG_FSYNC	   ? MS_SYNC_FSYNC
			: config->journal.sync_mode == MS_CONFIG_FDATASYNC ? MS_SYNC_FDATASYNC
									   : MS_SYNC_ASYNC,
		.sync_interval_us = config->journal.sync_interval_us, .sync_bytes = config->journal.sync_bytes,
		.max_size_bytes = config->journal.max_size_bytes, .max_age_us = config->journal.max_age_us,
		.buffer_size = (unsigned)config->journal.buffer_size, .max_bytes = config->max_shadow_bytes,
	};
	d->cap_bytes = config->max_shadow_bytes;
	if ((rc = ms_journal_open(env, path, &jc, &d->journal, err)) != MS_OK)
		goto fail;
	ms_journal_set_hook(d->journal, journal_durable, d);
	d->tick = env->ops->timer_new(env, on_tick, d);
	d->dbs = calloc(config->ndatabases + 1, sizeof *d->dbs);
	if (!d->dbs || !d->tick) {
		rc = ms_err_set(err, MS_ENOMEM, "daemon");
		goto fail;
	}
	for (unsigned i = 0; i < config->ndatabases; i++) {
		if ((rc = ms_daemon_db_new(d, &config->databases[i], &d->dbs[d->ndbs], err)) != MS_OK)
			goto fail;
		d->ndbs++;
	}
	if ((rc = ms_daemon_control_start(d, err)) != MS_OK)
		goto fail;
	*ret = d;
	return MS_OK;
fail:
	d->config = NULL; /* stays the caller's */
	ms_daemon_free(d);
	return rc;
}

void ms_daemon_start(struct ms_daemon *d) {
	for (unsigned i = 0; i < d->ndbs; i++)
		ms_stream_start(d->dbs[i]->stream);
	d->env->ops->timer_start(d->tick, d->opt.once ? 20000 : TICK_US);
}

bool ms_daemon_all_attached(const struct ms_daemon *d) {
	/* A database that is not there yet is the child's to make: it does not hold the child back. */
	for (unsigned i = 0; i < d->ndbs; i++)
		if (!ms_stream_attached(d->dbs[i]->stream))
			return false;
	return true;
}

unsigned ms_daemon_unshipped(const struct ms_daemon *d, uint64_t *ret_bytes) {
	unsigned n = 0;
	*ret_bytes = 0;
	for (unsigned i = 0; i < d->ndbs; i++) {
		struct ms_stream_status st;
		bool behind = false;
		if (ms_stream_get_status(d->dbs[i]->stream, &st, NULL) != MS_OK)
			continue;
		for (uint32_t w = 0; w < st.nworkers; w++) {
			if (!st.workers[w].required ||
			    (st.workers[w].txid >= st.db.txid && !st.workers[w].pending_bytes && !st.workers[w].no_base))
				continue;
			behind = true;
			*ret_bytes += st.workers[w].pending_bytes;
		}
		n += behind;
		ms_stream_status_release(&st);
	}
	return n;
}

struct ms_daemon_db *ms_daemon_find(struct ms_daemon *d, const char *name_or_path) {
	char canonical[MS_PATH_MAX];
	for (unsigned i = 0; i < d->ndbs; i++)
		if (strcmp(d->dbs[i]->name, name_or_path) == 0)
			return d->dbs[i];
	if (ms_canonical_path(name_or_path, canonical, NULL) != MS_OK)
		return NULL;
	for (unsigned i = 0; i < d->ndbs; i++)
		if (strcmp(d->dbs[i]->path, canonical) == 0)
			return d->dbs[i];
	return NULL;
}

/* ---- takeover ---- */

static void db_ended(void *arg) {
	struct ms_daemon_db *db = arg, *fresh = NULL;
	struct ms_daemon *d = db->daemon;
	const struct ms_config_database *c = ms_config_find(d->config, db->name);
	struct ms_err err = MS_ERR_INIT;
	db->stopped = true;
	if (--d->restarting == 0)
		ms_daemon_reload_later(d);
	if (d->stopping) {
		ms_daemon_db_stopped(db);
		return;
	}
	if (!c || ms_daemon_db_new(d, c, &fresh, &err) != MS_OK) { /* stays fenced; its mark serves at the next start */
		char q[700];
		db->stopping = db->stopped = false;
		ms_log(MS_LOG_ERROR, "database cannot be started again", "db=%s error=%s", db->name, ms_log_q(q, sizeof q, err.msg));
		return;
	}
	for (unsigned i = 0; i < d->ndbs; i++)
		if (d->dbs[i] == db)
			d->dbs[i] = fresh;
	ms_daemon_db_free(db);
	ms_stream_start(fresh->stream);
}

enum ms_code ms_daemon_takeover(struct ms_daemon *d, struct ms_daemon_db *db, struct ms_err *err) {
	char mark[MS_PATH_MAX];
	enum ms_code rc;
	if (db->ended.code != MS_EFENCED) {
		ms_stream_takeover(db->stream);
		return MS_OK;
	}
	if (db->stopping || d->next_config || d->restoring)
		return ms_err_set(err, MS_EBUSY, "%s: it is being started again just now", db->name);
	if (snprintf(mark, sizeof mark, "%s/db/%s/takeover", d->shadow, db->name) >= (int)sizeof mark)
		return ms_err_set(err, MS_ETOOBIG, "path of the shadow directory is too long");
	if ((rc = ms_fs_replace_file(d->env, mark, "", 0, 0600, err)) != MS_OK)
		return rc;
	db->stopping = true;
	d->restarting++;
	ms_stream_stop(db->stream, 0, db_ended, db);
	return MS_OK;
}

/* ---- stopping ---- */

static void all_stopped(struct ms_daemon *d) {
	uint64_t bytes;
	unsigned left = ms_daemon_unshipped(d, &bytes);
	if (left) {
		ms_log(MS_LOG_WARN, "stopped with commits that are only in the local journal; the next start ships them", "databases=%u bytes=%llu",
		       left, (unsigned long long)bytes);
		if (d->opt.once && d->exit_code == 0)
			d->exit_code = 1;
	} else {
		ms_log(MS_LOG_INFO, "stopped", "databases=%u", d->ndbs);
	}
	d->env->ops->stop(d->env);
}

void ms_daemon_maybe_stopped(struct ms_daemon *d) {
	for (unsigned i = 0; i < d->ndbs; i++)
		if (!d->dbs[i]->stopped)
			return;
	if (!d->restoring)
		all_stopped(d);
}

void ms_daemon_db_stopped(void *db) {
	((struct ms_daemon_db *)db)->stopped = true;
	ms_daemon_maybe_stopped(((struct ms_daemon_db *)db)->daemon);
}

static void stop_later(void *arg) {
	struct ms_daemon *d = arg;
	if (!d->ndbs) {
		ms_daemon_maybe_stopped(d);
		return;
	}
	for (unsigned i = 0; i < d->ndbs; i++) {
		struct ms_daemon_db *db = d->dbs[i];
		if (db->stopping)
			continue; /* a reload has asked already: its end counts as well */
		db->stopping = true;
		int64_t deadline_us = d->config->shutdown_timeout_us;
		if (db->given_up && deadline_us > GIVEN_UP_US)
			deadline_us = GIVEN_UP_US;
		ms_stream_stop(db->stream, deadline_us, ms_daemon_db_stopped, db);
	}
}

void ms_daemon_stop(struct ms_daemon *d, int exit_code) {
	if (exit_code > d->exit_code)
		d->exit_code = exit_code;
	if (d->stopping)
		return;
	d->stopping = true;
	atomic_store(&d->restore_cancel, true);
	ms_daemon_control_close(d);
	d->env->ops->timer_stop(d->tick);
	d->env->ops->post(d->env, stop_later, d); /* we may be inside a stream's callback */
}

void ms_daemon_free(struct ms_daemon *d) {
	if (!d)
		return;
	ms_daemon_control_free(d);
	for (unsigned i = 0; i < d->ndbs; i++)
		ms_daemon_db_free(d->dbs[i]);
	free(d->dbs);
	if (d->journal) {
		struct ms_err err = MS_ERR_INIT;
		char q[700];
		if (ms_journal_close(d->journal, &err) != MS_OK)
			ms_log(MS_LOG_ERROR, "journal not closed cleanly", "error=%s", ms_log_q(q, sizeof q, err.msg));
		ms_journal_free(d->journal);
	}
	d->env->ops->timer_free(d->tick);
	d->env->ops->close(d->lock);
	ms_config_release(d->config);
	ms_config_release(d->next_config);
	free(d);
}
