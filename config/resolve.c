/*
 * What parsing leaves open: names, inherited values, shared replicas handed out to the databases, and what must hold between databases.
 * Also the construction from arguments, copies and release.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/expand.h"
#include "config/schema.h"

const char *ms_config_where(const char *file, unsigned line, unsigned column, char *ret, size_t cap) {
	if (file && line)
		snprintf(ret, cap, "%.200s:%u:%u: ", file, line, column);
	else
		*ret = 0;
	return ret;
}

static enum ms_code nomem(struct ms_err *err) {
	return ms_err_set(err, MS_ENOMEM, "configuration: out of memory");
}

/* A NULL from strdup(NULL) is fine; false: out of memory. */
static bool copy(char **to, const char *from) {
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

void ms_config_settings_release(struct ms_config_settings *s) {
	free(s->restore.target_path);
	free(s->restore.temp_dir);
	s->restore.target_path = s->restore.temp_dir = NULL;
}

enum ms_code ms_config_settings_copy(struct ms_config_settings *to, const struct ms_config_settings *from, struct ms_err *err) {
	*to = *from;
	to->restore.target_path = to->restore.temp_dir = NULL;
	if (!copy(&to->restore.target_path, from->restore.target_path) || !copy(&to->restore.temp_dir, from->restore.temp_dir)) {
		ms_config_settings_release(to);
		return nomem(err);
	}
	return MS_OK;
}

void ms_config_replicas_release(struct ms_config_replica *r, unsigned n) {
	for (unsigned i = 0; r && i < n; i++) {
		for (unsigned j = 0; j < r[i].noptions; j++) {
			free(r[i].options[j].key);
			free(r[i].options[j].value);
		}
		free(r[i].options);
		free(r[i].name);
		free(r[i].url);
		free(r[i].type);
	}
	free(r);
}

enum ms_code ms_config_replica_copy(struct ms_config_replica *to, const struct ms_config_replica *from, struct ms_err *err) {
	*to = *from;
	to->name = to->url = to->type = NULL;
	to->noptions = 0;
	to->options = calloc(from->noptions ? from->noptions : 1, sizeof *to->options);
	if (!to->options || !copy(&to->name, from->name) || !copy(&to->url, from->url) || !copy(&to->type, from->type))
		return nomem(err);
	for (unsigned i = 0; i < from->noptions; i++) {
		struct ms_config_option *o = &to->options[to->noptions++];
		o->line = from->options[i].line, o->column = from->options[i].column;
		if (!copy(&o->key, from->options[i].key) || !copy(&o->value, from->options[i].value))
			return nomem(err);
	}
	return MS_OK;
}

void ms_config_release(struct ms_config *c) {
	if (!c)
		return;
	for (unsigned i = 0; i < c->ndatabases; i++) {
		struct ms_config_database *d = &c->databases[i];
		free(d->path);
		free(d->name);
		ms_config_settings_release(&d->s);
		ms_config_replicas_release(d->replicas, d->nreplicas);
	}
	free(c->databases);
	ms_config_settings_release(&c->defaults);
	free(c->file);
	free(c->shadow_dir);
	free(c->owner);
	free(c->metrics.address);
	free(c);
}

enum ms_code ms_config_set_defaults(struct ms_config *c, struct ms_err *err) {
	for (const struct ms_key_def *k = ms_config_keys; k->path; k++) {
		void *base = k->scope == MS_SCOPE_DAEMON ? (void *)c : k->scope == MS_SCOPE_SETTINGS ? (void *)&c->defaults : NULL;
		if (base && k->def) {
			enum ms_code code = ms_key_set(k, base, k->def, true, err);
			if (code)
				return ms_err_wrap(err, "default of %s", k->path);
		}
	}
	return MS_OK;
}

const char *ms_config_replica_type(const struct ms_config_replica *r, char ret[32]) {
	if (r->type) {
		snprintf(ret, 32, "%s", r->type);
	} else {
		const char *s = r->url ? strstr(r->url, "://") : NULL;
		snprintf(ret, 32, "%.*s", s ? (int)(s - r->url) : 4, s ? r->url : "file");
	}
	return ret;
}

/* Base name of the path, foreign characters as '_'. */
static char *default_name(const char *path) {
	size_t end = strlen(path);
	while (end > 1 && path[end - 1] == '/')
		end--;
	size_t start = end;
	while (start > 0 && path[start - 1] != '/')
		start--;
	size_t n = end - start < MS_CONFIG_NAME_MAX ? end - start : MS_CONFIG_NAME_MAX;
	char *name = n ? strndup(path + start, n) : strdup("db");
	for (size_t i = 0; name && name[i]; i++) {
		char one[2] = {name[i], 0};
		if (!ms_config_name_valid(one) && (name[i] != '.' || i == 0))
			name[i] = '_';
	}
	return name;
}

/* Puts the database's name into a shared replica: for {db}, or at the end of the URL's path, of `prefix` or of `path`. */
static enum ms_code share(const struct ms_config *c, struct ms_config_replica *r, const char *db, bool several, struct ms_err *err) {
	char where[300];
	unsigned hits = 0, n = 0;
	char **fields[1 + 64], *text;
	unsigned nfields = 0;
	if (r->url)
		fields[nfields++] = &r->url;
	for (unsigned i = 0; i < r->noptions && nfields < 65; i++)
		fields[nfields++] = &r->options[i].value;
	for (unsigned i = 0; i < nfields; i++) {
		enum ms_code code = ms_expand_db(*fields[i], db, &text, &n, err);
		if (code)
			return code == MS_ECONFIG ? ms_err_set(err, code, "%sa value is too long", ms_config_where(c->file, r->line, r->column, where, sizeof where)) : code;
		free(*fields[i]);
		*fields[i] = text;
		hits += n;
	}
	if (hits || !several)
		return MS_OK;
	char **field = r->url ? &r->url : NULL;
	static const char *const places[] = {"prefix", "path"};
	for (unsigned k = 0; !field && k < 2; k++)
		for (unsigned i = 0; i < r->noptions; i++)
			if (strcmp(r->options[i].key, places[k]) == 0)
				field = &r->options[i].value;
	if (!field)
		return ms_err_set(err, MS_ECONFIG, "%sreplicas: several databases share this replica: give it a prefix or path, e.g. prefix: \"{db}\"",
				  ms_config_where(c->file, r->line, r->column, where, sizeof where));
	size_t path_len = r->url ? strcspn(*field, "?#") : strlen(*field);
	while (path_len > 1 && (*field)[path_len - 1] == '/' && !(path_len >= 3 && strncmp(*field + path_len - 3, "://", 3) == 0))
		path_len--;
	bool slash = path_len > 0 && (*field)[path_len - 1] == '/';
	if (asprintf(&text, "%.*s%s%s%s", (int)path_len, *field, slash || path_len == 0 ? "" : "/", db, *field + (r->url ? strcspn(*field, "?#") : strlen(*field))) < 0)
		return nomem(err);
	free(*field);
	*field = text;
	return MS_OK;
}

static uint32_t fnv32(const char *s) {
	uint32_t h = 2166136261u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	return h;
}

/* What a replica says of its retention holds for it; the rest is the database's. */
static void inherit_retention(struct ms_config_retention *r, const struct ms_config_retention *of) {
	r->snapshot_interval_us = r->snapshot_interval_us ? r->snapshot_interval_us : of->snapshot_interval_us;
	r->snapshot_retention_us = r->snapshot_retention_us ? r->snapshot_retention_us : of->snapshot_retention_us;
	r->check_interval_us = r->check_interval_us ? r->check_interval_us : of->check_interval_us;
}

static enum ms_code replica_names(const struct ms_config *c, struct ms_config_database *d, struct ms_err *err) {
	char where[300], type[32];
	for (unsigned i = 0; i < d->nreplicas; i++) {
		struct ms_config_replica *r = &d->replicas[i];
		bool given = r->name;
		if (!given && !(r->name = strdup(ms_config_replica_type(r, type))))
			return nomem(err);
		if (!ms_config_name_valid(r->name))
			return ms_err_set(err, MS_ECONFIG, "%sreplicas: '%.32s' is not a backend", ms_config_where(c->file, r->line, r->column, where, sizeof where), r->name);
		if (!r->min_interval_set_)
			r->min_interval_us = d->s.min_interval_us;
		inherit_retention(&r->retention, &d->s.retention);
		for (unsigned j = 0; j < i; j++)
			if (strcmp(d->replicas[j].name, r->name) == 0)
				return ms_err_set(err, MS_ECONFIG, "%sreplicas: two replicas of database %s are named '%s'%s: give each a name of its own",
						  ms_config_where(c->file, r->line, r->column, where, sizeof where), d->name, r->name, given ? "" : " (by their type)");
	}
	return MS_OK;
}

/* Where a replica writes to, as one string, to find two that are the same. */
struct place {
	char *text;
	const struct ms_config_database *d;
	const struct ms_config_replica *r;
};

static int by_text(const void *a, const void *b) {
	const struct place *x = a, *y = b;
	int c = strcmp(x->text, y->text);
	return c ? c : (x->r->line > y->r->line) - (x->r->line < y->r->line);
}

static int by_key(const void *a, const void *b) {
	return strcmp(((const struct ms_config_option *)a)->key, ((const struct ms_config_option *)b)->key);
}

static char *place_text(const struct ms_config_replica *r) {
	struct ms_buf b;
	struct ms_err ignored = MS_ERR_INIT;
	char *text = NULL;
	struct ms_config_option *sorted = calloc(r->noptions ? r->noptions : 1, sizeof *sorted);
	ms_buf_init(&b, 64u << 20);
	if (!sorted)
		return NULL;
	if (r->noptions)
		memcpy(sorted, r->options, r->noptions * sizeof *sorted);
	qsort(sorted, r->noptions, sizeof *sorted, by_key);
	enum ms_code code = ms_buf_printf(&b, &ignored, "%s\n%s\n", r->url ? r->url : "", r->type ? r->type : "");
	for (unsigned i = 0; !code && i < r->noptions; i++)
		code = ms_buf_printf(&b, &ignored, "%s=%s\n", sorted[i].key, sorted[i].value);
	if (!code)
		text = strndup((const char *)b.data, b.len);
	free(sorted);
	ms_buf_release(&b);
	return text;
}

static enum ms_code places(const struct ms_config *c, struct ms_err *err) {
	size_t n = 0, used = 0;
	enum ms_code code = MS_OK;
	for (unsigned i = 0; i < c->ndatabases; i++)
		n += c->databases[i].nreplicas;
	struct place *p = calloc(n ? n : 1, sizeof *p);
	if (!p)
		return nomem(err);
	for (unsigned i = 0; i < c->ndatabases && !code; i++)
		for (unsigned j = 0; j < c->databases[i].nreplicas && !code; j++) {
			p[used] = (struct place){place_text(&c->databases[i].replicas[j]), &c->databases[i], &c->databases[i].replicas[j]};
			code = p[used++].text ? MS_OK : nomem(err);
		}
	if (!code)
		qsort(p, used, sizeof *p, by_text);
	for (size_t i = 1; i < used && !code; i++)
		if (strcmp(p[i].text, p[i - 1].text) == 0) {
			char where[300];
			code = ms_err_set(err, c->file ? MS_ECONFIG : MS_EUSAGE, "%sreplicas: %s/%s and %s/%s lie at the same place: every database needs its own",
					  ms_config_where(c->file, p[i].r->line, p[i].r->column, where, sizeof where), p[i - 1].d->name, p[i - 1].r->name,
					  p[i].d->name, p[i].r->name);
		}
	for (size_t i = 0; i < used; i++)
		free(p[i].text);
	free(p);
	return code;
}

struct named {
	const char *text;
	const struct ms_config_database *d;
};

static int by_named(const void *a, const void *b) {
	const struct named *x = a, *y = b;
	int c = strcmp(x->text, y->text);
	return c ? c : (x->d > y->d) - (x->d < y->d);
}

static enum ms_code unique(const struct ms_config *c, bool names, struct ms_err *err) {
	enum ms_code code = MS_OK;
	struct named *all = calloc(c->ndatabases, sizeof *all);
	if (!all)
		return nomem(err);
	for (unsigned i = 0; i < c->ndatabases; i++)
		all[i] = (struct named){names ? c->databases[i].name : c->databases[i].path, &c->databases[i]};
	qsort(all, c->ndatabases, sizeof *all, by_named);
	for (unsigned i = 1; i < c->ndatabases && !code; i++)
		if (strcmp(all[i].text, all[i - 1].text) == 0) {
			char where[300];
			code = ms_err_set(err, MS_ECONFIG, "%sdatabases[%u].%s: '%.100s' is also databases[%u] in line %u%s",
					  ms_config_where(c->file, all[i].d->line, all[i].d->column, where, sizeof where), (unsigned)(all[i].d - c->databases),
					  names ? "name" : "path", all[i].text, (unsigned)(all[i - 1].d - c->databases), all[i - 1].d->line,
					  names ? ": give each a name of its own" : "");
		}
	free(all);
	return code;
}

static enum ms_code inherit(struct ms_config *c, struct ms_config_database *d, const struct ms_config_replica *shared, unsigned nshared, struct ms_err *err) {
	if (!(d->replicas = calloc(nshared ? nshared : 1, sizeof *d->replicas)))
		return nomem(err);
	for (unsigned i = 0; i < nshared; i++) {
		d->nreplicas = i + 1;
		enum ms_code code = ms_config_replica_copy(&d->replicas[i], &shared[i], err);
		if (!code)
			code = share(c, &d->replicas[i], d->name, c->ndatabases > 1, err);
		if (code)
			return code;
	}
	return MS_OK;
}

enum ms_code ms_config_resolve(struct ms_config *c, const struct ms_config_replica *shared, unsigned nshared, struct ms_err *err) {
	enum ms_code code = MS_OK;
	for (unsigned i = 0; i < c->ndatabases; i++)
		if (!c->databases[i].name && !(c->databases[i].name = default_name(c->databases[i].path)))
			return nomem(err);
	if ((code = unique(c, false, err)) || (code = unique(c, true, err)))
		return code;
	if (c->defaults.retention.snapshot_interval_us == 0)
		c->defaults.retention.snapshot_interval_us = c->defaults.snapshot_interval_us;
	for (unsigned i = 0; i < c->ndatabases && !code; i++) {
		struct ms_config_database *d = &c->databases[i];
		if (d->s.retention.snapshot_interval_us == 0)
			d->s.retention.snapshot_interval_us = d->s.snapshot_interval_us;
		if (d->inherits_replicas_) {
			code = inherit(c, d, shared, nshared, err);
		} else {
			for (unsigned j = 0; j < d->nreplicas && !code; j++)
				code = share(c, &d->replicas[j], d->name, false, err);
		}
		if (!code)
			code = replica_names(c, d, err);
	}
	return code ? code : places(c, err);
}

enum ms_code ms_config_from_args(const char *db_path, const char *const *urls, unsigned nurls, struct ms_config **ret, struct ms_err *err) {
	struct ms_config *c = calloc(1, sizeof *c);
	enum ms_code code = MS_OK;
	if (!c || !(c->databases = calloc(1, sizeof *c->databases)) || !(c->databases[0].replicas = calloc(nurls ? nurls : 1, sizeof *c->databases[0].replicas))) {
		code = nomem(err);
		goto out;
	}
	struct ms_config_database *d = &c->databases[0];
	c->ndatabases = 1;
	if (!*db_path) {
		code = ms_err_set(err, MS_EUSAGE, "the database's path is empty");
		goto out;
	}
	if ((code = ms_config_set_defaults(c, err)) || (code = ms_config_settings_copy(&d->s, &c->defaults, err)))
		goto out;
	if (!(d->path = strdup(db_path))) {
		code = nomem(err);
		goto out;
	}
	for (unsigned i = 0; i < nurls && !code; i++) {
		struct ms_config_replica *r = &d->replicas[i];
		char type[32];
		d->nreplicas = i + 1;
		r->required = 1;
		for (unsigned j = 0; j < i && !code; j++)
			if (strcmp(urls[j], urls[i]) == 0)
				code = ms_err_set(err, MS_EUSAGE, "the replica's URL is given twice");
		if (!code && !(r->url = strdup(urls[i])))
			code = nomem(err);
		if (code)
			break;
		ms_config_replica_type(r, type);
		/* A name that does not depend on the order of the arguments: cursors are kept by it. */
		for (unsigned j = 0; j < nurls; j++) {
			struct ms_config_replica other = {.url = (char *)(uintptr_t)urls[j]};
			char other_type[32];
			if (j != i && strcmp(ms_config_replica_type(&other, other_type), type) == 0 && !r->name &&
			    asprintf(&r->name, "%s-%08" PRIx32, type, fnv32(urls[i])) < 0)
				r->name = NULL, code = nomem(err);
		}
	}
	if (!code)
		code = ms_config_resolve(c, NULL, 0, err);
	if (code == MS_ECONFIG) {
		code = MS_EUSAGE;
		if (err)
			err->code = code;
	}
	if (!code)
		*ret = c, c = NULL;
out:
	ms_config_release(c);
	return code;
}

const struct ms_config_database *ms_config_find(const struct ms_config *c, const char *name_or_path) {
	char wanted[PATH_MAX], have[PATH_MAX];
	for (unsigned i = 0; i < c->ndatabases; i++)
		if (strcmp(c->databases[i].name, name_or_path) == 0 || strcmp(c->databases[i].path, name_or_path) == 0)
			return &c->databases[i];
	if (!realpath(name_or_path, wanted))
		return NULL;
	for (unsigned i = 0; i < c->ndatabases; i++)
		if (realpath(c->databases[i].path, have) && strcmp(have, wanted) == 0)
			return &c->databases[i];
	return NULL;
}
