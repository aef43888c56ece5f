/*
 * From one configured database to its stream: canonical path, own directory in the shadow directory, source, replicas.
 * Without a replica, or with `local: {enabled: true}`, artefacts stay in the shadow directory as a file replica of their own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/daemon.h"
#include "cmd/replica_spec.h"
#include "cmd/shadow.h"
#include "replicas/url.h"
#include "sources/sqlite_wal.h"

#define REMOVAL_GRACE_US 600000000 /* the worker's default */

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
	for (unsigned i = 0; i < d->ndbs; i++) {
		if (d->dbs[i]->ended.code == MS_OK)
			return;
		int c = ms_code_exit(d->dbs[i]->ended.code);
		code = c > code ? c : code;
	}
	ms_daemon_stop(d, code);
}

static enum ms_code local_spec(const char *dir, struct ms_replica_spec *ret, struct ms_err *err) {
	char url[MS_PATH_MAX + 8];
	snprintf(url, sizeof url, "%s/replica", dir);
	return ms_url_parse(url, ret, err);
}

void ms_daemon_db_free(struct ms_daemon_db *db) {
	if (!db)
		return;
	ms_stream_free(db->stream);
	free(db->name);
	free(db->path);
	free(db);
}

enum ms_code ms_daemon_db_new(struct ms_daemon *d, const struct ms_config_database *c, struct ms_daemon_db **ret, struct ms_err *err) {
	char dir[MS_PATH_MAX], canonical[MS_PATH_MAX];
	enum ms_code rc;
	unsigned n = 0, want = c->nreplicas + 1;
	struct ms_worker_config *w = calloc(want, sizeof *w);
	struct ms_replica_spec *specs = calloc(want, sizeof *specs);
	char(*urls)[512] = calloc(want, sizeof *urls);
	struct ms_daemon_db *db = calloc(1, sizeof *db);
	struct ms_source *source = NULL;

	if (!w || !specs || !urls || !db) {
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
	if (snprintf(dir, sizeof dir, "%s/db/%s", d->shadow, c->name) >= (int)sizeof dir) {
		rc = ms_err_set(err, MS_ETOOBIG, "%s: path of the shadow directory is too long", c->name);
		goto out;
	}
	if ((rc = ms_fs_mkdir_p(d->env, dir, 0700, err)) != MS_OK)
		goto out;
	for (unsigned i = 0; i < c->nreplicas; i++, n++) {
		const struct ms_config_replica *r = &c->replicas[i];
		if ((rc = ms_replica_spec_from_config(d->config ? d->config->file : NULL, r, &specs[n], err)) != MS_OK)
			goto out;
		w[n] = (struct ms_worker_config){.name = r->name, .required = r->required, .fencing_none = r->fencing == MS_FENCING_NONE,
						 .min_interval_us = r->min_interval_us};
	}
	if (!c->nreplicas || c->s.local.enabled) {
		if ((rc = local_spec(dir, &specs[n], err)) != MS_OK)
			goto out;
		w[n] = (struct ms_worker_config){.name = "local", .required = !c->nreplicas, .min_interval_us = c->s.min_interval_us};
		n++;
	}
	for (unsigned i = 0; i < n; i++) {
		w[i].spec = &specs[i];
		w[i].url = ms_url_format(&specs[i], urls[i], sizeof urls[i]);
		const char *skip = ms_replica_spec_get(&specs[i], "insecureSkipVerify");
		if (skip && strcmp(skip, "true") == 0)
			ms_log(MS_LOG_WARN, "the server's certificate is not checked: anybody in between can read and change everything", "db=%s replica=%s", db->name,
			       w[i].name);
		w[i].snapshot_retention_us = c->s.retention.snapshot_retention_us;
		w[i].snapshot_spacing_us = c->s.retention.snapshot_interval_us;
		w[i].check_interval_us = c->s.retention.check_interval_us;
		/* Who lets retention run more often than the default grace time wants to see it happen. */
		if (w[i].check_interval_us < REMOVAL_GRACE_US)
			w[i].removal_grace_us = w[i].check_interval_us;
	}
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
		.window = (int)c->s.compression.window, .takeover = takeover, .snapshot_interval_us = c->s.snapshot_interval_us,
		.snapshot_share = c->s.snapshot_share, .data_loss_threshold_us = c->s.data_loss_window_threshold_us,
		.workers = w, .nworkers = n, .authority = -1,
	};
	struct ms_stream_hooks hooks = {stream_changed, stream_ended, db};
	if ((rc = ms_stream_new(d->env, d->journal, source, &sc, &hooks, &db->stream, err)) != MS_OK)
		goto out;
	source = NULL;
	if (!c->nreplicas)
		ms_log(MS_LOG_INFO, "no replica is configured: artefacts stay on this host", "db=%s replica=%s", db->name, urls[0]);
	*ret = db;
	db = NULL;
out:
	if (source)
		source->ops->free(source);
	for (unsigned i = 0; specs && i < want; i++)
		ms_replica_spec_release(&specs[i]);
	free(specs);
	free(urls);
	free(w);
	ms_daemon_db_free(db);
	return rc;
}
