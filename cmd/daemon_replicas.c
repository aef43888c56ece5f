/*
 * The replicas of one configured database, as its stream wants them. Without a replica, or with `local: {enabled: true}`, artefacts stay in the
 * shadow directory as a file replica of their own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/daemon.h"
#include "cmd/replica_spec.h"
#include "replicas/url.h"

#define REMOVAL_GRACE_US 600000000 /* the worker's default */

static enum ms_code local_spec(const char *dir, struct ms_replica_spec *ret, struct ms_err *err) {
	char url[MS_PATH_MAX + 8];
	snprintf(url, sizeof url, "%s/replica", dir);
	return ms_url_parse(url, ret, err);
}

static void retention(struct ms_worker_config *w, const struct ms_config_retention *r) {
	w->snapshot_retention_us = r->snapshot_retention_us;
	w->snapshot_spacing_us = r->snapshot_interval_us;
	w->check_interval_us = r->check_interval_us;
	/* Who lets retention run more often than the default grace time wants to see it happen. */
	if (w->check_interval_us < REMOVAL_GRACE_US)
		w->removal_grace_us = w->check_interval_us;
}

/* In the URL it is the backend's option of the same name. */
static unsigned concurrency(const struct ms_config_replica *r, const struct ms_replica_spec *s) {
	const char *in_url = ms_replica_spec_get(s, "concurrency");
	return r->concurrency ? (unsigned)r->concurrency : in_url ? (unsigned)strtoul(in_url, NULL, 10) : 0;
}

void ms_daemon_replicas_release(struct ms_daemon_replicas *r) {
	for (unsigned i = 0; i < r->n; i++)
		ms_replica_spec_release(&r->specs[i]);
	free(r->specs);
	free(r->urls);
	free(r->w);
	*r = (struct ms_daemon_replicas){0};
}

enum ms_code ms_daemon_replicas_make(const char *file, const struct ms_config_database *c, const char *dir, struct ms_daemon_replicas *ret,
				     struct ms_err *err) {
	unsigned want = c->nreplicas + 1;
	struct ms_daemon_replicas r = {calloc(want, sizeof *r.w), calloc(want, sizeof *r.specs), calloc(want, sizeof *r.urls), 0};
	enum ms_code rc = r.w && r.specs && r.urls ? MS_OK : ms_err_set(err, MS_ENOMEM, "database %s", c->name);
	for (unsigned i = 0; i < c->nreplicas && !rc; i++) {
		const struct ms_config_replica *x = &c->replicas[i];
		if ((rc = ms_replica_spec_from_config(file, x, &r.specs[r.n], err)) != MS_OK)
			break;
		struct ms_worker_config *w = &r.w[r.n];
		*w = (struct ms_worker_config){.name = x->name, .required = x->required, .fencing_none = x->fencing == MS_FENCING_NONE,
					       .min_interval_us = x->min_interval_us, .bandwidth = x->bandwidth,
					       .concurrency = concurrency(x, &r.specs[r.n])};
		retention(w, &x->retention);
		r.n++;
	}
	if (!rc && (!c->nreplicas || c->s.local.enabled) && (rc = local_spec(dir, &r.specs[r.n], err)) == MS_OK) {
		r.w[r.n] = (struct ms_worker_config){.name = "local", .required = !c->nreplicas, .min_interval_us = c->s.min_interval_us};
		retention(&r.w[r.n], &c->s.retention);
		r.n++;
	}
	for (unsigned i = 0; i < r.n && !rc; i++) {
		r.w[i].spec = &r.specs[i];
		r.w[i].url = ms_url_format(&r.specs[i], r.urls[i], sizeof r.urls[i]);
	}
	if (rc)
		ms_daemon_replicas_release(&r);
	else
		*ret = r;
	return rc;
}

void ms_daemon_replica_warn(const char *db, const struct ms_worker_config *w) {
	const char *skip = ms_replica_spec_get(w->spec, "insecureSkipVerify");
	if (skip && strcmp(skip, "true") == 0)
		ms_log(MS_LOG_WARN, "the server's certificate is not checked: anybody in between can read and change everything", "db=%s replica=%s", db, w->name);
}
