#include "cmd/replica_spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/timefmt.h"
#include "cmd/shadow.h"
#include "config/nearest.h"
#include "replicas/url.h"

static const char *where(const char *file, unsigned line, unsigned column, char ret[300]) {
	ret[0] = 0;
	if (file && line)
		snprintf(ret, 300, "%.200s:%u:%u: ", file, line, column);
	return ret;
}

static const struct ms_option_def *option_def(const struct ms_replica_driver *d, const char *key) {
	for (const struct ms_option_def *o = d->options; o && o->key; o++)
		if (strcmp(o->key, key) == 0)
			return o;
	return NULL;
}

static const char *option_name(void *arg, unsigned i) {
	static const char *const common[] = {"name", "url", "type", "required", "minInterval", "bandwidth", "concurrency", "retention", "fencing", NULL};
	const struct ms_replica_driver *d = arg;
	for (unsigned n = 0; d->options && d->options[n].key; n++, i--)
		if (i == 0)
			return d->options[n].key;
	return i < sizeof common / sizeof *common ? common[i] : NULL;
}

/* A value's form; the value itself never shows, it may be a secret. */
static const char *bad_value(const struct ms_option_def *o, const char *v) {
	struct ms_err ignored = MS_ERR_INIT;
	int64_t us;
	uint64_t bytes;
	if (!*v)
		return "is empty";
	if (strcmp(o->type, "bool") == 0 && strcmp(v, "true") && strcmp(v, "false"))
		return "must be true or false";
	if (strcmp(o->type, "uint") == 0 && (strspn(v, "0123456789") != strlen(v) || strlen(v) > 18))
		return "must be a whole number";
	if (strcmp(o->type, "duration") == 0 && ms_duration_parse(v, &us, &ignored))
		return "must be a duration, e.g. 30s, 1h30m or 500ms";
	if (strcmp(o->type, "size") == 0 && ms_size_parse(v, &bytes, &ignored))
		return "must be a size, e.g. 65536, 512KiB or 1GiB";
	return NULL;
}

static enum ms_code typed(const char *file, const struct ms_config_replica *r, const struct ms_replica_driver *d, struct ms_replica_spec *s,
			  struct ms_err *err) {
	char at[300];
	for (unsigned i = 0; i < r->noptions; i++) {
		const struct ms_config_option *o = &r->options[i];
		const struct ms_option_def *def = option_def(d, o->key);
		if (!def) {
			const char *nearest = ms_nearest(o->key, option_name, (void *)(uintptr_t)d);
			return ms_err_set(err, MS_ECONFIG, "%sreplicas: %.64s: unknown key for backend %s%s%s%s", where(file, o->line, o->column, at), o->key,
					  d->scheme, nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
		}
		const char *bad = bad_value(def, o->value);
		if (bad)
			return ms_err_set(err, MS_ECONFIG, "%sreplicas: %s: %s", where(file, o->line, o->column, at), o->key, bad);
		enum ms_code code = ms_replica_spec_set(s, o->key, o->value, err);
		if (code)
			return code;
	}
	for (const struct ms_option_def *o = d->options; o && o->key; o++)
		if (o->required && !ms_replica_spec_get(s, o->key))
			return ms_err_set(err, MS_ECONFIG, "%sreplicas: backend %s needs %s (%s)", where(file, r->line, r->column, at), d->scheme, o->key, o->help);
	return MS_OK;
}

enum ms_code ms_replica_spec_from_config(const char *file, const struct ms_config_replica *r, struct ms_replica_spec *ret, struct ms_err *err) {
	struct ms_replica_spec s = {0};
	struct ms_err inner = MS_ERR_INIT;
	char at[300], known[200] = "";
	enum ms_code code;
	if (r->url) {
		if ((code = ms_url_parse(r->url, &s, &inner)))
			return ms_err_set(err, file && code == MS_EUSAGE ? MS_ECONFIG : code, "%s%s%s", where(file, r->line, r->column, at), file ? "replicas: url: " : "",
					  inner.msg);
	} else if (!(s.scheme = strdup(r->type))) {
		return ms_err_set(err, MS_ENOMEM, "replica %s: out of memory", r->name);
	}
	const struct ms_replica_driver *d = ms_replica_driver_find(s.scheme);
	if (!d) {
		size_t n = 0;
		for (unsigned i = 0; (d = ms_replica_driver_at(i)) && n + 40 < sizeof known; i++)
			n += (size_t)snprintf(known + n, sizeof known - n, "%s%.32s", i ? ", " : "", d->scheme);
		code = ms_err_set(err, file ? MS_ECONFIG : MS_EUSAGE, "%s%s'%.32s' is not a known backend (known: %s)", where(file, r->line, r->column, at),
				  file ? "replicas: type: " : "", s.scheme, known);
	} else {
		char concurrency[24];
		snprintf(concurrency, sizeof concurrency, "%lld", (long long)r->concurrency);
		code = r->concurrency && option_def(d, "concurrency") ? ms_replica_spec_set(&s, "concurrency", concurrency, err) : MS_OK;
		if (!code)
			code = typed(file, r, d, &s, err);
	}
	if (code)
		ms_replica_spec_release(&s);
	else
		*ret = s;
	return code;
}

/* A replica in a local directory: where it really lies, links and dots resolved as far as the path exists. */
struct place {
	char *path;
	const struct ms_config_database *d;
	const struct ms_config_replica *r;
};

static int by_path(const void *a, const void *b) {
	const struct place *x = a, *y = b;
	int c = strcmp(x->path, y->path);
	return c ? c : (x->r->line > y->r->line) - (x->r->line < y->r->line);
}

/* *ret stays NULL for a replica that is not in a local directory. */
static enum ms_code place_of(const struct ms_replica_spec *s, char **ret, struct ms_err *err) {
	const char *path = strcmp(s->scheme, "file") == 0 ? ms_replica_spec_get(s, "path") : NULL, *prefix = ms_replica_spec_get(s, "prefix");
	char canonical[MS_PATH_MAX];
	struct ms_err ignored = MS_ERR_INIT;
	if (!path || ms_canonical_path(path, canonical, &ignored) != MS_OK)
		return MS_OK; /* what cannot be looked up cannot be compared */
	if (asprintf(ret, "%s/%s", canonical, prefix ? prefix : "") < 0) {
		*ret = NULL;
		return ms_err_set(err, MS_ENOMEM, "configuration: out of memory");
	}
	return MS_OK;
}

enum ms_code ms_replica_specs_check(const struct ms_config *c, struct ms_err *err) {
	enum ms_code code = MS_OK;
	size_t n = 0, all = 0;
	char at[300];
	for (unsigned i = 0; i < c->ndatabases; i++)
		all += c->databases[i].nreplicas;
	struct place *p = calloc(all ? all : 1, sizeof *p);
	if (!p)
		return ms_err_set(err, MS_ENOMEM, "configuration: out of memory");
	for (unsigned i = 0; i < c->ndatabases && !code; i++)
		for (unsigned j = 0; j < c->databases[i].nreplicas && !code; j++) {
			struct ms_replica_spec s;
			if ((code = ms_replica_spec_from_config(c->file, &c->databases[i].replicas[j], &s, err)))
				break;
			p[n] = (struct place){NULL, &c->databases[i], &c->databases[i].replicas[j]};
			code = place_of(&s, &p[n].path, err);
			n += p[n].path != NULL;
			ms_replica_spec_release(&s);
		}
	if (!code)
		qsort(p, n, sizeof *p, by_path);
	for (size_t i = 1; i < n && !code; i++)
		if (strcmp(p[i].path, p[i - 1].path) == 0)
			code = ms_err_set(err, c->file ? MS_ECONFIG : MS_EUSAGE, "%sreplicas: %s/%s and %s/%s lie at the same place, %.200s: every database needs its own",
					  where(c->file, p[i].r->line, p[i].r->column, at), p[i - 1].d->name, p[i - 1].r->name, p[i].d->name, p[i].r->name, p[i].path);
	for (size_t i = 0; i < n; i++)
		free(p[i].path);
	free(p);
	return code;
}

bool ms_replica_option_secret(const char *type, const char *key) {
	const struct ms_replica_driver *d = ms_replica_driver_find(type);
	const struct ms_option_def *o = d ? option_def(d, key) : NULL;
	return !o || o->secret;
}
