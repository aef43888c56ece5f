/* What changed between two configurations, key by key from the table, as lines for the log. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/schema.h"

struct differ {
	ms_config_secret_cb secret;
	void (*line)(void *arg, const char *text);
	void *arg;
	int n;
};

static void emit(struct differ *d, const char *fmt, ...) MS_PRINTF(2, 3);
static void emit(struct differ *d, const char *fmt, ...) {
	char *text;
	va_list ap;
	va_start(ap, fmt);
	if (d->n >= 0 && vasprintf(&text, fmt, ap) >= 0) {
		d->line(d->arg, text);
		free(text);
		d->n++;
	} else {
		d->n = -1;
	}
	va_end(ap);
}

static void scope(struct differ *d, enum ms_key_scope which, const char *where, const void *a, const void *b) {
	char x[4200], y[4200];
	for (const struct ms_key_def *k = ms_config_keys; k->path; k++) {
		if (k->scope != which)
			continue;
		const char *s = ms_key_format(k, a, x, sizeof x), *t = ms_key_format(k, b, y, sizeof y);
		if ((!s && !t) || (s && t && strcmp(s, t) == 0))
			continue;
		/* A URL may hold what a log must not: cmd prints the new one where it opens it. */
		if (which == MS_SCOPE_REPLICA && strcmp(k->path, "url") == 0)
			emit(d, "%surl: changed", where);
		else
			emit(d, "%s%s: %s -> %s", where, k->path, s ? s : "(none)", t ? t : "(none)");
	}
}

static const struct ms_config_option *option(const struct ms_config_replica *r, const char *key) {
	for (unsigned i = 0; i < r->noptions; i++)
		if (strcmp(r->options[i].key, key) == 0)
			return &r->options[i];
	return NULL;
}

static void options(struct differ *d, const char *where, const struct ms_config_replica *a, const struct ms_config_replica *b) {
	char type[32];
	ms_config_replica_type(b, type);
	for (unsigned i = 0; i < a->noptions; i++)
		if (!option(b, a->options[i].key))
			emit(d, "%s%s: removed", where, a->options[i].key);
	for (unsigned i = 0; i < b->noptions; i++) {
		const struct ms_config_option *y = &b->options[i], *x = option(a, y->key);
		bool hide = !d->secret || d->secret(type, y->key);
		if (x && strcmp(x->value, y->value) == 0)
			continue;
		if (hide)
			emit(d, "%s%s: %s", where, y->key, x ? "changed" : "added");
		else
			emit(d, "%s%s: %s -> %s", where, y->key, x ? x->value : "(none)", y->value);
	}
}

static const struct ms_config_replica *replica(const struct ms_config_database *db, const char *name) {
	for (unsigned i = 0; i < db->nreplicas; i++)
		if (strcmp(db->replicas[i].name, name) == 0)
			return &db->replicas[i];
	return NULL;
}

static void database(struct differ *d, const struct ms_config_database *a, const struct ms_config_database *b) {
	char where[2 * MS_CONFIG_NAME_MAX + 64];
	snprintf(where, sizeof where, "databases[%s].", b->name);
	scope(d, MS_SCOPE_DATABASE, where, a, b);
	scope(d, MS_SCOPE_SETTINGS, where, &a->s, &b->s);
	for (unsigned i = 0; i < a->nreplicas; i++)
		if (!replica(b, a->replicas[i].name))
			emit(d, "%sreplicas[%s]: removed", where, a->replicas[i].name);
	for (unsigned i = 0; i < b->nreplicas; i++) {
		const struct ms_config_replica *y = &b->replicas[i], *x = replica(a, y->name);
		char sub[3 * MS_CONFIG_NAME_MAX + 96];
		if (!x) {
			emit(d, "%sreplicas[%s]: added", where, y->name);
			continue;
		}
		snprintf(sub, sizeof sub, "%sreplicas[%s].", where, y->name);
		scope(d, MS_SCOPE_REPLICA, sub, x, y);
		options(d, sub, x, y);
	}
}

static int by_name(const void *a, const void *b) {
	return strcmp((*(const struct ms_config_database *const *)a)->name, (*(const struct ms_config_database *const *)b)->name);
}

static const struct ms_config_database **sorted(const struct ms_config *c) {
	const struct ms_config_database **list = calloc(c->ndatabases ? c->ndatabases : 1, sizeof *list);
	for (unsigned i = 0; list && i < c->ndatabases; i++)
		list[i] = &c->databases[i];
	if (list)
		qsort(list, c->ndatabases, sizeof *list, by_name);
	return list;
}

int ms_config_diff(const struct ms_config *a, const struct ms_config *b, ms_config_secret_cb secret, void (*line)(void *arg, const char *text), void *arg) {
	struct differ d = {.secret = secret, .line = line, .arg = arg};
	const struct ms_config_database **x = sorted(a), **y = sorted(b);
	if (x && y) {
		scope(&d, MS_SCOPE_DAEMON, "", a, b);
		for (unsigned i = 0, j = 0; i < a->ndatabases || j < b->ndatabases;) {
			int c = i == a->ndatabases ? 1 : j == b->ndatabases ? -1 : strcmp(x[i]->name, y[j]->name);
			if (c < 0)
				emit(&d, "databases[%s]: removed", x[i++]->name);
			else if (c > 0)
				emit(&d, "databases[%s]: added", y[j++]->name);
			else
				database(&d, x[i++], y[j++]);
		}
	} else {
		d.n = -1;
	}
	free(x);
	free(y);
	return d.n;
}
