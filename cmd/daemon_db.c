/* From one configured database to its stream: canonical path, own directory in the shadow directory, source, replicas. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/daemon.h"
#include "cmd/shadow.h"
#include "sources/sqlite_wal.h"

static void stream_changed(void *arg, struct ms_stream *s) {
	struct ms_daemon_db *db = arg;
	(void)s;
	if (db->daemon->changed)
		db->daemon->changed(db->daemon->changed_arg);
}

static void stream_ended(void *arg, struct ms_stream *s, const struct ms_err *err) {
	struct ms_daemon_db *db = arg;
	char q[700];
	(void)s;
	db->ended = *err;
	ms_log(MS_LOG_ERROR, err->code == MS_EFENCED ? "fenced: this database is not replicated any more" : "database failed", "db=%s error=%s",
	       db->name, ms_log_q(q, sizeof q, err->msg));
	/* The others go on; with none left there is nothing to do. */
	struct ms_daemon *d = db->daemon;
	int code = 0;
	if (d->restoring)
		return; /* another one is about to begin */
	for (unsigned i = 0; i < d->ndbs; i++) {
		if (d->dbs[i]->ended.code == MS_OK)
			return;
		int c = ms_code_exit(d->dbs[i]->ended.code);
		code = c > code ? c : code;
	}
	ms_daemon_stop(d, code);
}

void ms_daemon_db_free(struct ms_daemon_db *db) {
	if (!db)
		return;
	ms_stream_free(db->stream);
	free(db->name);
	free(db->path);
	free(db);
}

enum ms_code ms_daemon_db_dir(const struct ms_daemon *d, const char *name, char ret[MS_PATH_MAX], struct ms_err *err) {
	if (snprintf(ret, MS_PATH_MAX, "%s/db/%s", d->shadow, name) >= MS_PATH_MAX)
		return ms_err_set(err, MS_ETOOBIG, "%s: path of the shadow directory is too long", name);
	return MS_OK;
}

void ms_daemon_db_policy(const struct ms_config_database *c, struct ms_stream_config *ret) {
	ret->snapshot_interval_us = c->s.snapshot_interval_us;
	ret->snapshot_share = c->s.snapshot_share;
	ret->data_loss_threshold_us = c->s.data_loss_window_threshold_us;
}

enum ms_code ms_daemon_db_new(struct ms_daemon *d, const struct ms_config_database *c, struct ms_daemon_db **ret, struct ms_err *err) {
	char dir[MS_PATH_MAX], canonical[MS_PATH_MAX];
	enum ms_code rc;
	struct ms_daemon_replicas replicas = {0};
	struct ms_daemon_db *db = calloc(1, sizeof *db);
	struct ms_source *source = NULL;

	if (!db) {
		rc = ms_err_set(err, MS_ENOMEM, "database %s", c->name);
		goto out;
	}
	db->daemon = d;
	db->name = strdup(c->name);
	if ((rc = ms_canonical_path(c->path, canonical, err)) != MS_OK)
		goto out;
	db->path = strdup(canonical);
	if (!db->name || !db->path) {
		rc = ms_err_set(err, MS_ENOMEM, "database %s", c->name);
		goto out;
	}
	if ((rc = ms_daemon_db_dir(d, c->name, dir, err)) != MS_OK || (rc = ms_fs_mkdir_p(d->env, dir, 0700, err)) != MS_OK ||
	    (rc = ms_daemon_replicas_make(d->config ? d->config->file : NULL, c, dir, &replicas, err)) != MS_OK)
		goto out;
	for (unsigned i = 0; i < replicas.n; i++)
		ms_daemon_replica_warn(db->name, &replicas.w[i]);
	struct ms_sqlite_wal_options so = {.checkpoint = c->s.checkpoint, .checkpoint_bytes = c->s.checkpoint_bytes, .max_wal_bytes = c->s.max_wal_bytes};
	source = d->opt.make_source ? d->opt.make_source(d->opt.make_source_arg, c, err) : ms_sqlite_wal_new(d->env, db->path, &so, err);
	if (!source) {
		rc = err->code;
		goto out;
	}
	/* `migstream takeover` without a daemon leaves this mark for the next start; it is used once. */
	char mark[MS_PATH_MAX];
	struct ms_err none = MS_ERR_INIT;
	bool takeover = c->s.takeover == MS_TAKEOVER_AUTO;
	if (snprintf(mark, sizeof mark, "%s/takeover", dir) < (int)sizeof mark && d->env->ops->unlink(d->env, mark, &none) == MS_OK) {
		ms_log(MS_LOG_WARN, "takeover was asked for", "db=%s", db->name);
		takeover = true;
	}
	struct ms_stream_config sc = {
		.name = db->name, .path = db->path, .dir = dir, .owner = d->owner, .host = d->host,
		.level = (int)c->s.compression.level, .codec_none = c->s.compression.codec == MS_CODEC_NONE,
		.window = (int)c->s.compression.window, .takeover = takeover, .workers = replicas.w, .nworkers = replicas.n, .authority = -1,
	};
	ms_daemon_db_policy(c, &sc);
	struct ms_stream_hooks hooks = {stream_changed, stream_ended, db};
	if ((rc = ms_stream_new(d->env, d->journal, source, &sc, &hooks, &db->stream, err)) != MS_OK)
		goto out;
	source = NULL;
	if (!c->nreplicas)
		ms_log(MS_LOG_INFO, "no replica is configured: artefacts stay on this host", "db=%s replica=%s", db->name, replicas.urls[0]);
	*ret = db;
	db = NULL;
out:
	if (source)
		source->ops->free(source);
	ms_daemon_replicas_release(&replicas);
	ms_daemon_db_free(db);
	return rc;
}
