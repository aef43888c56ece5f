#include "cmd/auto_restore.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/timefmt.h"
#include "cmd/replica_spec.h"
#include "core/capture.h"
#include "replicas/url.h"
#include "restore/restore.h"

/* Only what proves damage counts: a database that is locked or unreadable for us is not replaced. */
static bool damaged(const char *path, int64_t size, char *why, size_t cap) {
	sqlite3 *db = NULL;
	sqlite3_stmt *q = NULL;
	bool bad = false;
	int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
		rc = sqlite3_prepare_v2(db, size <= (int64_t)MS_AUTO_RESTORE_CHECK ? "PRAGMA quick_check(1)" : "SELECT 'ok' FROM sqlite_master LIMIT 1",
					-1, &q, NULL);
	}
	if (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
		const char *text = (const char *)sqlite3_column_text(q, 0);
		if (text && strcmp(text, "ok") != 0) {
			snprintf(why, cap, "%s", text);
			bad = true;
		}
	} else if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB) {
		snprintf(why, cap, "%s", sqlite3_errmsg(db));
		bad = true;
	}
	sqlite3_finalize(q);
	sqlite3_close(db);
	return bad;
}

static enum ms_code set_aside(struct ms_env *env, const char *path, struct ms_err *err) {
	static const char *const parts[] = {"", "-wal", "-shm", "-journal"};
	char when[32], from[MS_PATH_MAX], to[MS_PATH_MAX + 64];
	ms_time_format(when, ms_env_now_us(env));
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		snprintf(from, sizeof from, "%s%s", path, parts[i]);
		snprintf(to, sizeof to, "%s.damaged-%s%s", path, when, parts[i]);
		struct ms_err e = MS_ERR_INIT;
		enum ms_code rc = env->ops->rename(env, from, to, &e);
		char q[700];
		if (rc == MS_OK) {
			ms_log(MS_LOG_WARN, "set aside", "path=%s", ms_log_q(q, sizeof q, to));
		} else if (rc != MS_ENOTFOUND) {
			*err = e;
			return rc;
		}
	}
	return MS_OK;
}

static bool any_object(void *arg, const struct ms_object *o) {
	(void)o;
	*(bool *)arg = true;
	return false;
}

struct probe_job {
	struct ms_job job;
	struct ms_env *env;
	const struct ms_restore_replica *replicas;
	unsigned n;
	bool found;
	struct ms_err err;
};

static void probe_run(void *arg) {
	struct probe_job *p = arg;
	for (unsigned i = 0; i < p->n && !p->found; i++) {
		struct ms_replica *r = NULL;
		struct ms_err e = MS_ERR_INIT;
		enum ms_code rc = ms_replica_open(p->env, p->replicas[i].spec, &r, &e);
		if (rc == MS_OK)
			rc = ms_replica_list(r, "", NULL, any_object, &p->found, &e);
		ms_replica_close(r);
		if (rc != MS_OK && rc != MS_ENOTFOUND)
			p->err = e; /* what cannot be read may hold the database */
	}
}

static void probe_done(void *arg) {
	struct probe_job *p = arg;
	p->env->ops->stop(p->env);
}

struct context {
	struct ms_env *env;
	const struct ms_config *config;
	const char *shadow;
	const atomic_bool *cancel;
};

/* The replica that stays on this host: <shadow>/db/<name>/replica. */
static enum ms_code local_spec(const struct context *x, const struct ms_config_database *c, struct ms_replica_spec *ret, struct ms_err *err) {
	char dir[MS_PATH_MAX];
	if (snprintf(dir, sizeof dir, "%s/db/%s/replica", x->shadow, c->name) >= (int)sizeof dir)
		return ms_err_set(err, MS_ETOOBIG, "%s: path of the shadow directory is too long", c->name);
	return ms_url_parse(dir, ret, err);
}

/* Has this shadow directory known the database with something in it? Then replicas without anything are no first start. */
static bool captured_before(const struct context *x, const struct ms_config_database *c) {
	char dir[MS_PATH_MAX];
	struct ms_capture_mark mark = {0};
	if (snprintf(dir, sizeof dir, "%s/db/%s", x->shadow, c->name) >= (int)sizeof dir || ms_capture_peek(x->env, dir, &mark, NULL) != MS_OK)
		return false;
	ms_generation_start_release(&mark.gen);
	return true;
}

static enum ms_code restore_one(const struct context *x, const struct ms_config_database *c, struct ms_err *err) {
	struct ms_env *env = x->env;
	const char *path = c->s.restore.target_path ? c->s.restore.target_path : c->path;
	struct ms_stat st;
	char why[256] = "", q[700], journal[MS_PATH_MAX];
	unsigned n = 0, want = c->nreplicas + 1;
	enum ms_code rc = env->ops->stat(env, path, &st, err);
	if (rc == MS_OK && st.size > 0 && !damaged(path, st.size, why, sizeof why))
		return MS_OK;
	if (rc != MS_OK && rc != MS_ENOTFOUND)
		return rc;
	bool there = rc == MS_OK;
	struct ms_replica_spec *specs = calloc(want, sizeof *specs);
	struct ms_restore_replica *replicas = calloc(want, sizeof *replicas);
	char(*urls)[512] = calloc(want, sizeof *urls);
	if (!specs || !replicas || !urls) {
		rc = ms_err_set(err, MS_ENOMEM, "restore of %s", c->name);
		goto out;
	}
	for (; n < c->nreplicas; n++)
		if ((rc = ms_replica_spec_from_config(x->config->file, &c->replicas[n], &specs[n], err)) != MS_OK)
			goto out;
	if ((!c->nreplicas || c->s.local.enabled) && (rc = local_spec(x, c, &specs[n++], err)) != MS_OK)
		goto out;
	for (unsigned i = 0; i < n; i++)
		replicas[i] = (struct ms_restore_replica){&specs[i], ms_url_format(&specs[i], urls[i], sizeof urls[i])};
	struct probe_job p = {.env = env, .replicas = replicas, .n = n, .err = MS_ERR_INIT};
	p.job = (struct ms_job){.run = probe_run, .done = probe_done, .arg = &p};
	env->ops->submit(env, MS_LANE_UPLOAD, &p.job);
	env->ops->run(env);
	if (!p.found) {
		rc = MS_OK;
		if (p.err.code != MS_OK) {
			*err = p.err;
			rc = ms_err_wrap(err, "%s is %s and its replica cannot be read, so it is not started empty", path, there ? "empty or damaged" : "missing");
		} else if (why[0]) {
			rc = ms_err_set(err, MS_ECORRUPT, "%s is damaged (%s) and no replica holds it", path, why);
		} else if (captured_before(x, c)) {
			rc = ms_err_set(err, MS_ENOTRESTORABLE,
					"%s is %s, and nothing is found where it was replicated to (unmounted?), so it is not started empty. To begin anew, remove %s/db/%s",
					path, there ? "empty" : "missing", x->shadow, c->name);
		}
		goto out;
	}
	ms_log(MS_LOG_WARN, "restoring", "db=%s reason=%s", c->name, ms_log_q(q, sizeof q, why[0] ? why : there ? "empty" : "missing"));
	if ((rc = set_aside(env, path, err)) != MS_OK)
		goto out;
	mode_t mask = umask(0);
	umask(mask);
	struct ms_restore_options o = {.replicas = replicas, .nreplicas = n, .path = path, .cancel = x->cancel, .temp_dir = c->s.restore.temp_dir,
				       .verify = MS_VERIFY_CHECKSUM, .umask = (unsigned)mask};
	struct ms_restore_result res = {0};
	/* What was captured and not shipped any more is in the journal. */
	if ((rc = ms_path_join(journal, sizeof journal, x->shadow, "journal", err)) != MS_OK)
		goto out;
	if (env->ops->stat(env, journal, &st, NULL) == MS_OK && st.is_dir) {
		o.journal_dir = journal;
		o.journal_db = c->name;
	}
	if ((rc = ms_restore_run(env, &o, &res, err)) == MS_OK)
		ms_log(MS_LOG_INFO, "restored", "db=%s generation=%s txid=%llu", c->name, res.position.generation.s,
		       (unsigned long long)res.position.txid);
	if (rc == MS_OK && res.warning[0])
		ms_log(MS_LOG_WARN, "restored with a warning", "db=%s warning=%s", c->name, ms_log_q(q, sizeof q, res.warning));
	else if (rc != MS_OK)
		rc = ms_err_wrap(err, "restore of %s", path);
out:
	for (unsigned i = 0; specs && i < want; i++)
		ms_replica_spec_release(&specs[i]);
	free(specs);
	free(replicas);
	free(urls);
	return rc;
}

enum ms_code ms_auto_restore_database(struct ms_env *env, const struct ms_config *config, const struct ms_config_database *c, const char *shadow,
				      const atomic_bool *cancel, struct ms_err *err) {
	const struct context x = {env, config, shadow, cancel};
	return c->s.restore.enabled ? restore_one(&x, c, err) : MS_OK;
}

enum ms_code ms_auto_restore(struct ms_env *env, const struct ms_config *config, const char *shadow, const atomic_bool *cancel, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	for (unsigned i = 0; i < config->ndatabases && !rc; i++)
		rc = ms_auto_restore_database(env, config, &config->databases[i], shadow, cancel, err);
	return rc;
}
