/*
 * SIGHUP. What changed is found line by line (config/diff.c): keys of replicas, and others that a running stream takes over, are changed in
 * place; everything else stops and starts the database's stream. First whatever goes has stopped, databases and replicas; then the new configuration is
 * in force, and what is new starts: it may lie where something else did. A new database is restored first where it says so, on a thread and a loop of
 * its own, since the restore runs one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/auto_restore.h"
#include "cmd/daemon.h"
#include "cmd/replica_spec.h"

#define LEAVE_US 1000000 /* for what is stopped, to ship what it has */
#define REPLICAS_MAX 64  /* of a database: config/parse.c */

/* ---- what changed ---- */

struct reload {
	struct ms_daemon *d;
	unsigned lines;
};

static bool begins(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

static void reload_line(void *arg, const char *text) {
	struct reload *r = arg;
	char q[700];
	static const char *const fixed[] = {"shadowDir", "owner", "maxShadowBytes", "journal.", "metrics."};
	bool restart = false;
	for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
		restart = restart || begins(text, fixed[i]);
	r->lines++;
	ms_log(restart ? MS_LOG_WARN : MS_LOG_INFO, restart ? "configuration changed: takes effect at the next start" : "configuration changed",
	       "change=%s", ms_log_q(q, sizeof q, text));
}

/* What changed of one database. */
struct touched {
	const char *name;
	bool restart, tune;
	char out[REPLICAS_MAX][MS_CONFIG_NAME_MAX + 1]; /* replicas that have to stop; those of them that are configured start again */
	unsigned nout;
};

static void add_out(struct touched *t, const char *name, size_t len) {
	for (unsigned i = 0; i < t->nout; i++)
		if (strlen(t->out[i]) == len && strncmp(t->out[i], name, len) == 0)
			return;
	if (t->nout == REPLICAS_MAX || len > MS_CONFIG_NAME_MAX)
		t->restart = true;
	else
		snprintf(t->out[t->nout++], sizeof t->out[0], "%.*s", (int)len, name);
}

static void touched_line(void *arg, const char *text) {
	static const char *const live[] = {"minInterval:", "retention.", "snapshotInterval:", "snapshotShare:", "dataLossWindowThreshold:"};
	static const char *const live_replica[] = {"minInterval:", "retention.", "bandwidth:", "required:"};
	struct touched *t = arg;
	char prefix[160];
	int n = snprintf(prefix, sizeof prefix, "databases[%s]", t->name);
	if (!begins(text, prefix))
		return;
	const char *key = text + n, *name;
	bool known = false;
	if (*key++ != '.') {
		t->restart = true; /* added or removed */
	} else if (begins(key, "replicas[")) {
		name = key + strlen("replicas[");
		size_t len = strcspn(name, "]");
		key = name + len + 1;
		known = strcmp(key, ": added") == 0;
		for (size_t i = 0; *key == '.' && i < sizeof live_replica / sizeof *live_replica; i++)
			known = known || begins(key + 1, live_replica[i]);
		t->tune = true;
		if (!known)
			add_out(t, name, len);
	} else {
		for (size_t i = 0; i < sizeof live / sizeof *live; i++)
			known = known || begins(key, live[i]);
		t->tune = t->tune || known;
		t->restart = t->restart || !known;
	}
}

/* Who settles ownership: as core/stream.c has it. */
static const char *authority(const struct ms_config_database *c) {
	for (unsigned i = 0; i < c->nreplicas; i++)
		if (c->replicas[i].fencing != MS_FENCING_NONE)
			return c->replicas[i].name;
	return c->nreplicas ? c->replicas[0].name : "";
}

static const struct ms_config_database *by_name(const struct ms_config *c, const char *name) {
	for (unsigned i = 0; i < c->ndatabases; i++)
		if (strcmp(c->databases[i].name, name) == 0)
			return &c->databases[i];
	return NULL;
}

static void look(struct ms_daemon *d, const struct ms_daemon_db *db, const struct ms_config *next, struct touched *t) {
	const struct ms_config_database *a = by_name(d->config, db->name), *b = by_name(next, db->name);
	*t = (struct touched){.name = db->name};
	if (ms_config_diff(d->config, next, ms_replica_option_secret, touched_line, t) < 0 || !a || !b)
		t->restart = true;
	if (t->restart || !t->tune)
		return;
	/* The only replica, the local one that stands in for none, and the one that settles ownership are changed by a start. */
	t->restart = db->ended.code != MS_OK || !ms_stream_replicas_changeable(db->stream) || !a->nreplicas || !b->nreplicas ||
		     strcmp(authority(a), authority(b)) != 0;
	for (unsigned i = 0; i < t->nout; i++)
		t->restart = t->restart || strcmp(t->out[i], authority(a)) == 0;
}

/* ---- databases that are new ---- */

struct restoring {
	struct ms_job job;
	struct ms_daemon *d;
	const struct ms_config_database *c; /* of d->config, which stays while any is restored */
	struct ms_err err;
	enum ms_code rc;
};

static void start_db(struct ms_daemon *d, const struct ms_config_database *c) {
	struct ms_daemon_db *db = NULL, **grown = reallocarray(d->dbs, d->ndbs + 2, sizeof(struct ms_daemon_db *));
	struct ms_err err = MS_ERR_INIT;
	char q[700];
	if (grown)
		d->dbs = grown;
	if ((grown ? ms_daemon_db_new(d, c, &db, &err) : ms_err_set(&err, MS_ENOMEM, "database %s", c->name)) != MS_OK) {
		ms_log(MS_LOG_ERROR, "database cannot be started", "db=%s error=%s", c->name, ms_log_q(q, sizeof q, err.msg));
		return;
	}
	d->dbs[d->ndbs++] = db;
	ms_stream_start(db->stream);
}

static void restore_run(void *arg) {
	struct restoring *r = arg;
	struct ms_env *env = ms_env_uv_new(NULL, &r->err);
	r->rc = env ? ms_auto_restore_database(env, r->d->config, r->c, r->d->shadow, &r->d->restore_cancel, &r->err) : r->err.code;
	if (env)
		ms_env_uv_free(env);
}

static void restore_done(void *arg) {
	struct restoring *r = arg;
	struct ms_daemon *d = r->d;
	char q[700];
	d->restoring--;
	if (r->rc != MS_OK && !d->stopping)
		ms_log(MS_LOG_ERROR, "database cannot be started: the next SIGHUP tries again", "db=%s error=%s", r->c->name, ms_log_q(q, sizeof q, r->err.msg));
	else if (!d->stopping)
		start_db(d, r->c);
	free(r);
	if (d->stopping)
		ms_daemon_maybe_stopped(d);
	else if (!d->restoring)
		ms_daemon_reload_later(d);
}

static void start_new_dbs(struct ms_daemon *d) {
	for (unsigned i = 0; i < d->config->ndatabases; i++) {
		const struct ms_config_database *c = &d->config->databases[i];
		struct restoring *r = NULL;
		bool have = false;
		for (unsigned k = 0; k < d->ndbs; k++)
			have = have || strcmp(d->dbs[k]->name, c->name) == 0;
		if (have)
			continue;
		if (c->s.restore.enabled && (r = calloc(1, sizeof *r))) {
			*r = (struct restoring){.d = d, .c = c, .err = MS_ERR_INIT};
			r->job = (struct ms_job){.run = restore_run, .done = restore_done, .arg = r};
			d->restoring++;
			d->env->ops->submit(d->env, MS_LANE_UPLOAD, &r->job);
		} else {
			start_db(d, c);
		}
	}
}

/* ---- the change itself ---- */

static void tune(struct ms_daemon *d, struct ms_daemon_db *db) {
	const struct ms_config_database *c = by_name(d->config, db->name);
	struct ms_daemon_replicas r = {0};
	struct ms_stream_config policy = {0};
	struct ms_err err = MS_ERR_INIT;
	char dir[MS_PATH_MAX], q[700];
	db->tune = false;
	if (db->ended.code != MS_OK || !ms_stream_replicas_changeable(db->stream))
		return; /* fenced meanwhile: a takeover starts it with the new configuration */
	enum ms_code rc = ms_daemon_db_dir(d, db->name, dir, &err);
	if (!rc)
		rc = ms_daemon_replicas_make(d->config->file, c, dir, &r, &err);
	for (unsigned i = 0; i < r.n && !rc; i++) {
		if (ms_stream_has_replica(db->stream, r.w[i].name)) {
			ms_stream_tune_replica(db->stream, &r.w[i]);
			continue;
		}
		r.w[i].takeover = c->s.takeover == MS_TAKEOVER_AUTO;
		ms_daemon_replica_warn(db->name, &r.w[i]);
		rc = ms_stream_add_replica(db->stream, &r.w[i], &err);
	}
	ms_daemon_db_policy(c, &policy);
	ms_stream_tune(db->stream, &policy);
	ms_daemon_replicas_release(&r);
	if (rc)
		ms_log(MS_LOG_ERROR, "replicas cannot be changed", "db=%s error=%s", db->name, ms_log_q(q, sizeof q, err.msg));
}

/* Everything that had to stop has. */
static void change(struct ms_daemon *d) {
	unsigned n = 0;
	for (unsigned i = 0; i < d->ndbs; i++) {
		if (d->dbs[i]->stopped)
			ms_daemon_db_free(d->dbs[i]);
		else
			d->dbs[n++] = d->dbs[i];
	}
	d->ndbs = n;
	ms_config_release(d->config);
	d->config = d->next_config;
	d->next_config = NULL;
	for (unsigned i = 0; i < d->ndbs; i++)
		if (d->dbs[i]->tune)
			tune(d, d->dbs[i]);
	start_new_dbs(d);
	if (!d->restoring)
		ms_daemon_reload_later(d);
}

static void again(void *arg) {
	struct ms_daemon *d = arg;
	if (!d->reload_again)
		return;
	d->reload_again = false;
	ms_daemon_reload(d);
}

void ms_daemon_reload_later(struct ms_daemon *d) { d->env->ops->post(d->env, again, d); }

static void one_less(struct ms_daemon *d) {
	if (--d->changing == 0 && !d->stopping)
		change(d);
}

static void db_replaced(void *arg) {
	struct ms_daemon_db *db = arg;
	struct ms_daemon *d = db->daemon;
	db->stopped = true;
	one_less(d);
	if (d->stopping)
		ms_daemon_db_stopped(db);
}

static void replica_left(void *arg) { one_less(arg); }

void ms_daemon_reload(struct ms_daemon *d) {
	struct ms_config *next = NULL;
	struct ms_err err = MS_ERR_INIT;
	char q[700];
	if (d->stopping)
		return;
	if (d->next_config || d->restarting || d->restoring) { /* the file may have changed since it was read: once more, when that is done */
		d->reload_again = true;
		return;
	}
	if (!d->config->file) {
		ms_log(MS_LOG_WARN, "nothing to reload: started without a configuration file", NULL);
		return;
	}
	if (ms_config_load(d->config->file, &next, &err) != MS_OK || ms_replica_specs_check(next, &err) != MS_OK) {
		ms_log(MS_LOG_ERROR, "configuration not reloaded: the old one stays", "error=%s", ms_log_q(q, sizeof q, err.msg));
		ms_config_release(next);
		return;
	}
	struct reload r = {d, 0};
	if (ms_config_diff(d->config, next, ms_replica_option_secret, reload_line, &r) < 0 || !r.lines) {
		ms_log(MS_LOG_INFO, "configuration reloaded: nothing changed", NULL);
		ms_config_release(next);
		start_new_dbs(d); /* what could not be started before */
		return;
	}
	ms_log_configure(2, (enum ms_log_level)next->log.level, next->log.format == MS_CONFIG_JSON);
	d->next_config = next;
	d->changing = 1; /* this one, so that nothing ends before all has been asked for */
	for (unsigned i = 0; i < d->ndbs; i++) {
		struct ms_daemon_db *db = d->dbs[i];
		struct touched t;
		look(d, db, next, &t);
		db->stopping = t.restart;
		db->tune = t.tune && !t.restart;
		d->changing += t.restart ? 1 : t.nout;
		if (t.restart)
			ms_stream_stop(db->stream, LEAVE_US, db_replaced, db);
		for (unsigned k = 0; k < t.nout && !t.restart; k++)
			ms_stream_remove_replica(db->stream, t.out[k], LEAVE_US, replica_left, d);
	}
	one_less(d);
}
