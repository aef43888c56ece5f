/*
 * A YAML tree to struct ms_config by the table of schema.c. Order: the top level's own keys, then its replicas, then the databases
 * (which inherit from it), whatever their order in the file. Every error names file, line, column and key.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/expand.h"
#include "config/nearest.h"
#include "config/schema.h"
#include "config/yaml.h"

#define PATH_CAP 300
#define READ_STEP 65536u /* bytes */

struct parser {
	const char *file;
	struct ms_err *err;
};

/* Bases of the scopes that a mapping may set; NULL = that scope's keys do not belong here. */
struct target {
	void *base[MS_SCOPE_REPLICA + 1];
	const char *where; /* key path of the mapping with a dot at its end, "" at the top level */
};

static enum ms_code fail(struct parser *p, const struct ms_yaml_node *n, const char *where, const char *key, const char *text) {
	char full[PATH_CAP];
	snprintf(full, sizeof full, "%s%.80s", where, key);
	size_t len = strlen(full);
	if (len && full[len - 1] == '.')
		full[len - 1] = 0;
	if (!full[0])
		return ms_err_set(p->err, MS_ECONFIG, "%s:%u:%u: %s", p->file, n->line, n->column, text);
	return ms_err_set(p->err, MS_ECONFIG, "%s:%u:%u: %s: %s", p->file, n->line, n->column, full, text);
}

static const char *type_name(const struct ms_yaml_node *n) {
	return n->type == MS_YAML_MAP ? "a mapping" : n->type == MS_YAML_LIST ? "a list" : "a single value";
}

static enum ms_code wrong_type(struct parser *p, const struct ms_yaml_node *n, const char *where, const char *key, const char *wanted) {
	char text[100];
	snprintf(text, sizeof text, "is %s, not %s", type_name(n), wanted);
	return fail(p, n, where, key, text);
}

static bool is_null(const struct ms_yaml_node *n) {
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
	if (n->type != MS_YAML_SCALAR || !n->plain)
		return false;
	for (unsigned i = 0; i < sizeof nulls / sizeof *nulls; i++)
		if (strcmp(n->text, nulls[i]) == 0)
			return true;
	return false;
}

/* The expanded text of a scalar, to be freed. */
static enum ms_code scalar(struct parser *p, const struct ms_yaml_node *n, const char *where, const char *key, char **ret, bool *ret_plain) {
	struct ms_err inner = MS_ERR_INIT;
	bool expanded = false;
	if (is_null(n))
		return fail(p, n, where, key, "has no value");
	if (n->type != MS_YAML_SCALAR)
		return wrong_type(p, n, where, key, "a single value");
	enum ms_code code = ms_expand(n->text, ret, &expanded, &inner);
	if (code)
		return code == MS_ECONFIG ? fail(p, n, where, key, inner.msg) : ms_err_set(p->err, code, "%s", inner.msg);
	*ret_plain = n->plain || expanded;
	return MS_OK;
}

/* The keys that may stand in one mapping, for suggestions: each once. */
struct names {
	char text[64][40];
	unsigned n;
};

static void names_add(struct names *names, const char *s, size_t len) {
	for (unsigned i = 0; i < names->n; i++)
		if (strlen(names->text[i]) == len && strncmp(names->text[i], s, len) == 0)
			return;
	if (names->n < 64)
		snprintf(names->text[names->n++], sizeof names->text[0], "%.*s", (int)len, s);
}

/* The part of a key's path that stands in `group` ("" = first level), NULL when it is elsewhere. */
static const char *part_of(const struct ms_key_def *k, const char *group, size_t *len) {
	size_t g = strlen(group);
	const char *s = k->path;
	if (g) {
		if (strncmp(s, group, g) || s[g] != '.')
			return NULL;
		s += g + 1;
	}
	*len = strcspn(s, ".");
	return s;
}

static const char *name_at(void *arg, unsigned i) {
	const struct names *names = arg;
	return i < names->n ? names->text[i] : NULL;
}

static enum ms_code unknown(struct parser *p, const struct ms_yaml_node *key, const struct target *t, const char *group) {
	char where[PATH_CAP], text[120];
	struct names names = {.n = 0};
	size_t len;
	for (const struct ms_key_def *k = ms_config_keys; k->path; k++) {
		const char *s = part_of(k, group, &len);
		if (s && t->base[k->scope])
			names_add(&names, s, len);
		/* A key of the daemon inside a database is a misunderstanding, not a misspelling. */
		else if (s && !*group && k->scope == MS_SCOPE_DAEMON && t->base[MS_SCOPE_DATABASE] && strlen(key->text) == len &&
			 strncmp(s, key->text, len) == 0)
			return fail(p, key, t->where, key->text, "belongs to the whole daemon: move it to the top level");
	}
	if (!*group && !t->base[MS_SCOPE_REPLICA])
		names_add(&names, "replicas", 8);
	if (!*group && t->base[MS_SCOPE_DAEMON])
		names_add(&names, "databases", 9);
	const char *nearest = ms_nearest(key->text, name_at, &names);
	if (nearest)
		snprintf(text, sizeof text, "unknown key; did you mean %s?", nearest);
	else
		snprintf(text, sizeof text, "unknown key");
	snprintf(where, sizeof where, "%s%s%s", t->where, group, *group ? "." : "");
	return fail(p, key, where, key->text, text);
}

static const struct ms_key_def *find(const struct target *t, const char *group, const char *key) {
	for (const struct ms_key_def *k = ms_config_keys; k->path; k++) {
		size_t len;
		const char *s = t->base[k->scope] ? part_of(k, group, &len) : NULL;
		if (s && strlen(key) == len && strncmp(s, key, len) == 0)
			return k;
	}
	return NULL;
}

static enum ms_code set(struct parser *p, const struct ms_key_def *k, const struct target *t, const struct ms_yaml_node *value) {
	struct ms_err inner = MS_ERR_INIT;
	char *text = NULL;
	bool plain;
	enum ms_code code = scalar(p, value, t->where, k->path, &text, &plain);
	if (code)
		return code;
	code = ms_key_set(k, t->base[k->scope], text, plain, &inner);
	free(text);
	return code == MS_ECONFIG ? fail(p, value, t->where, k->path, inner.msg) : code ? ms_err_set(p->err, code, "%s", inner.msg) : MS_OK;
}

/* "retention: {...}", or the bare string that stands for one of its keys. */
static enum ms_code group(struct parser *p, const struct ms_yaml_node *key, const struct ms_yaml_node *value, const struct target *t) {
	enum ms_code code = MS_OK;
	if (value->type == MS_YAML_SCALAR && !is_null(value))
		for (const struct ms_key_def *k = ms_config_keys; k->path; k++) {
			size_t len;
			if ((k->flags & MS_KEY_BARE) && t->base[k->scope] && part_of(k, key->text, &len))
				return set(p, k, t, value);
		}
	if (is_null(value))
		return fail(p, value, t->where, key->text, "has no value");
	if (value->type != MS_YAML_MAP)
		return wrong_type(p, value, t->where, key->text, "a mapping of keys");
	for (unsigned i = 0; !code && i < value->n; i++) {
		const struct ms_key_def *k = find(t, key->text, ms_yaml_key(value, i)->text);
		code = k ? set(p, k, t, ms_yaml_value(value, i)) : unknown(p, ms_yaml_key(value, i), t, key->text);
	}
	return code;
}

/* Every key of a mapping but `replicas` and `databases`. */
static enum ms_code keys(struct parser *p, const struct ms_yaml_node *map, const struct target *t) {
	enum ms_code code = MS_OK;
	for (unsigned i = 0; !code && i < map->n; i++) {
		const struct ms_yaml_node *key = ms_yaml_key(map, i), *value = ms_yaml_value(map, i);
		if (strcmp(key->text, "replicas") == 0 || (strcmp(key->text, "databases") == 0 && t->base[MS_SCOPE_DAEMON]))
			continue;
		const struct ms_key_def *k = find(t, "", key->text);
		if (!k)
			code = unknown(p, key, t, "");
		else if (strchr(k->path, '.'))
			code = group(p, key, value, t);
		else
			code = set(p, k, t, value);
	}
	return code;
}

static const struct ms_yaml_node *child(const struct ms_yaml_node *map, const char *key) {
	for (unsigned i = 0; i < map->n; i++)
		if (strcmp(ms_yaml_key(map, i)->text, key) == 0)
			return ms_yaml_value(map, i);
	return NULL;
}

/* A backend's own option: one value, or a list of values joined by commas. */
static enum ms_code option(struct parser *p, const struct ms_yaml_node *key, const struct ms_yaml_node *value, const char *where,
			   struct ms_config_replica *r) {
	struct ms_config_option *o = &r->options[r->noptions];
	struct ms_err inner = MS_ERR_INIT;
	struct ms_buf joined;
	bool plain;
	enum ms_code code = MS_OK;
	if (value->type == MS_YAML_MAP)
		return wrong_type(p, value, where, key->text, "a single value or a list of values");
	if (!(o->key = strdup(key->text)))
		return ms_err_set(p->err, MS_ENOMEM, "%s: out of memory", p->file);
	r->noptions++;
	o->line = value->line, o->column = value->column;
	if (value->type == MS_YAML_SCALAR)
		return scalar(p, value, where, key->text, &o->value, &plain);
	ms_buf_init(&joined, 2 * MS_EXPAND_MAX);
	for (unsigned i = 0; !code && i < value->n; i++) {
		char *text = NULL;
		code = scalar(p, value->items[i], where, key->text, &text, &plain);
		if (!code && strchr(text, ','))
			code = fail(p, value->items[i], where, key->text, "an item of a list must not hold a comma");
		else if (!code && (code = ms_buf_printf(&joined, &inner, "%s%s", i ? "," : "", text)))
			code = fail(p, value->items[i], where, key->text, "the list is too long");
		free(text);
	}
	if (!code && !(o->value = strndup(joined.data ? (const char *)joined.data : "", joined.len)))
		code = ms_err_set(p->err, MS_ENOMEM, "%s: out of memory", p->file);
	ms_buf_release(&joined);
	return code;
}

static enum ms_code replica(struct parser *p, const struct ms_yaml_node *n, const char *where, struct ms_config_replica *r) {
	char sub[PATH_CAP + 2];
	bool plain;
	struct target t = {.where = sub};
	t.base[MS_SCOPE_REPLICA] = r;
	snprintf(sub, sizeof sub, "%s.", where);
	r->line = n->line, r->column = n->column;
	r->required = 1;
	if (n->type == MS_YAML_SCALAR && !is_null(n))
		return scalar(p, n, where, "", &r->url, &plain);
	if (n->type != MS_YAML_MAP)
		return wrong_type(p, n, where, "", "a URL or a mapping of keys");
	bool typed = child(n, "type");
	if (!(r->options = calloc(n->n ? n->n : 1, sizeof *r->options)))
		return ms_err_set(p->err, MS_ENOMEM, "%s: out of memory", p->file);
	enum ms_code code = MS_OK;
	for (unsigned i = 0; !code && i < n->n; i++) {
		const struct ms_yaml_node *key = ms_yaml_key(n, i), *value = ms_yaml_value(n, i);
		const struct ms_key_def *k = find(&t, "", key->text);
		if (k && k->offset == offsetof(struct ms_config_replica, url) && typed)
			k = NULL; /* beside a type it is the backend's own key */
		code = !k ? option(p, key, value, sub, r) : strchr(k->path, '.') ? group(p, key, value, &t) : set(p, k, &t, value);
		if (k && k->offset == offsetof(struct ms_config_replica, min_interval_us))
			r->min_interval_set_ = true;
	}
	if (!code && !r->url && !r->type)
		code = fail(p, n, where, "", "needs a url, or a type with that backend's keys");
	return code;
}

static enum ms_code replicas(struct parser *p, const struct ms_yaml_node *n, const char *where, struct ms_config_replica **ret, unsigned *ret_n) {
	char sub[PATH_CAP];
	if (is_null(n))
		return fail(p, n, where, "replicas", "has no value");
	if (n->type != MS_YAML_LIST)
		return wrong_type(p, n, where, "replicas", "a list");
	if (n->n > 64)
		return fail(p, n, where, "replicas", "more than 64 replicas");
	struct ms_config_replica *r = calloc(n->n ? n->n : 1, sizeof *r);
	if (!r)
		return ms_err_set(p->err, MS_ENOMEM, "%s: out of memory", p->file);
	enum ms_code code = MS_OK;
	for (unsigned i = 0; !code && i < n->n; i++) {
		snprintf(sub, sizeof sub, "%sreplicas[%u]", where, i);
		code = replica(p, n->items[i], sub, &r[i]);
	}
	if (code) {
		ms_config_replicas_release(r, n->n);
		return code;
	}
	*ret = r, *ret_n = n->n;
	return MS_OK;
}

static enum ms_code database(struct parser *p, const struct ms_yaml_node *n, unsigned i, struct ms_config *c, bool *ret_own_replicas) {
	struct ms_config_database *d = &c->databases[i];
	char where[PATH_CAP];
	struct target t = {.where = where};
	t.base[MS_SCOPE_SETTINGS] = &d->s, t.base[MS_SCOPE_DATABASE] = d;
	snprintf(where, sizeof where, "databases[%u]", i);
	d->line = n->line, d->column = n->column;
	if (n->type != MS_YAML_MAP)
		return wrong_type(p, n, where, "", "a mapping of keys");
	strcat(where, ".");
	enum ms_code code = ms_config_settings_copy(&d->s, &c->defaults, p->err);
	if (!code)
		code = keys(p, n, &t);
	if (!code && !d->path)
		code = fail(p, n, where, "", "has no path");
	const struct ms_yaml_node *own = child(n, "replicas");
	if (!code && own)
		code = replicas(p, own, where, &d->replicas, &d->nreplicas);
	*ret_own_replicas = own;
	return code;
}

static enum ms_code databases(struct parser *p, const struct ms_yaml_node *root, struct ms_config *c) {
	const struct ms_yaml_node *n = child(root, "databases");
	enum ms_code code = MS_OK;
	if (!n || is_null(n) || (n->type == MS_YAML_LIST && n->n == 0))
		return fail(p, n ? n : root, "", "databases", "no database: list at least one, e.g. databases: [{path: /var/lib/app/app.db}]");
	if (n->type != MS_YAML_LIST)
		return wrong_type(p, n, "", "databases", "a list");
	if (n->n > MS_CONFIG_DATABASES_MAX)
		return fail(p, n, "", "databases", "too many databases");
	if (!(c->databases = calloc(n->n, sizeof *c->databases)))
		return ms_err_set(p->err, MS_ENOMEM, "%s: out of memory", p->file);
	for (unsigned i = 0; !code && i < n->n; i++) {
		bool own = false;
		c->ndatabases = i + 1;
		code = database(p, n->items[i], i, c, &own);
		if (!own)
			c->databases[i].inherits_replicas_ = true;
	}
	return code;
}

static enum ms_code document(struct parser *p, const struct ms_yaml_node *root, struct ms_config *c) {
	struct target t = {.where = ""};
	struct ms_config_replica *shared = NULL;
	unsigned nshared = 0;
	t.base[MS_SCOPE_DAEMON] = c, t.base[MS_SCOPE_SETTINGS] = &c->defaults;
	enum ms_code code = keys(p, root, &t);
	const struct ms_yaml_node *r = child(root, "replicas");
	if (!code && r)
		code = replicas(p, r, "", &shared, &nshared);
	if (!code)
		code = databases(p, root, c);
	const struct ms_yaml_node *restore = child(root, "restore");
	if (!code && c->defaults.restore.target_path && c->ndatabases > 1)
		code = fail(p, child(restore, "targetPath"), "", "restore.targetPath", "one target for several databases: set it in each database");
	if (!code)
		code = ms_config_resolve(c, shared, nshared, p->err);
	ms_config_replicas_release(shared, nshared);
	return code;
}

enum ms_code ms_config_load_string(const char *name, const char *text, size_t len, struct ms_config **ret, struct ms_err *err) {
	struct parser p = {.file = name, .err = err};
	struct ms_yaml y = {0};
	struct ms_config *c = NULL;
	if (len > MS_CONFIG_FILE_MAX)
		return ms_err_set(err, MS_ECONFIG, "%s: larger than %u MiB", name, MS_CONFIG_FILE_MAX >> 20);
	enum ms_code code = ms_yaml_parse(name, text, len, &y, err);
	if (code)
		return code;
	if (!y.root || is_null(y.root)) {
		code = ms_err_set(err, MS_ECONFIG, "%s: empty: a configuration needs at least databases: [{path: ...}]", name);
		goto out;
	}
	if (y.root->type != MS_YAML_MAP) {
		code = ms_err_set(err, MS_ECONFIG, "%s:%u:%u: is %s, not a mapping of keys", name, y.root->line, y.root->column, type_name(y.root));
		goto out;
	}
	if (!(c = calloc(1, sizeof *c)) || !(c->file = strdup(name))) {
		code = ms_err_set(err, MS_ENOMEM, "%s: out of memory", name);
		goto out;
	}
	code = ms_config_set_defaults(c, err);
	if (!code)
		code = document(&p, y.root, c);
	if (!code)
		*ret = c, c = NULL;
out:
	ms_yaml_release(&y);
	ms_config_release(c);
	return code;
}

enum ms_code ms_config_load(const char *path, struct ms_config **ret, struct ms_err *err) {
	struct ms_buf text;
	enum ms_code code = MS_OK;
	FILE *f = fopen(path, "re");
	if (!f)
		return ms_err_sys(err, errno, MS_EIO, "configuration %s", path);
	ms_buf_init(&text, MS_CONFIG_FILE_MAX + 2 * READ_STEP);
	for (size_t n = 1; !code && n > 0 && text.len <= MS_CONFIG_FILE_MAX;) {
		code = ms_buf_reserve(&text, READ_STEP, err);
		n = code ? 0 : fread(text.data + text.len, 1, READ_STEP, f);
		text.len += n;
	}
	if (!code && ferror(f))
		code = ms_err_sys(err, errno, MS_EIO, "configuration %s", path);
	fclose(f);
	if (!code)
		code = ms_config_load_string(path, text.data ? (const char *)text.data : "", text.len, ret, err);
	ms_buf_release(&text);
	return code;
}
