/*
 * A resolved configuration as a jansson tree, and that as JSON or as block YAML. Both load again. Secrets are replaced while the tree
 * is built, so nothing after it can leak one.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/expand.h"
#include "config/schema.h"

#define HIDDEN "***"

static enum ms_code nomem(struct ms_err *err) {
	return ms_err_set(err, MS_ENOMEM, "configuration: out of memory");
}

/* Text that the loader would read back as it is now. */
static json_t *text_value(const char *s) {
	char *escaped = NULL;
	struct ms_err ignored = MS_ERR_INIT;
	if (ms_expand_escape(s, &escaped, &ignored))
		return NULL;
	json_t *v = json_string(escaped);
	if (!v) /* not UTF-8: shown, not loadable */
		v = json_string("(not UTF-8)");
	free(escaped);
	return v;
}

static json_t *value_of(const struct ms_key_def *k, const void *base) {
	char text[4200];
	const void *field = (const char *)base + k->offset;
	const char *s = ms_key_format(k, base, text, sizeof text);
	switch (k->type) {
	case MS_KEY_BOOL:
		return json_boolean(*(const int *)field);
	case MS_KEY_UINT:
		return json_integer(*(const int64_t *)field);
	case MS_KEY_NUMBER:
		return json_real(*(const double *)field);
	case MS_KEY_STRING:
	case MS_KEY_PATH:
		return s ? text_value(*(char *const *)field) : NULL;
	default:
		return strcmp(s, "0") == 0 ? json_integer(0) : json_string(s);
	}
}

/* Every key of a scope that is set, nested by its path. */
static bool add_scope(json_t *o, enum ms_key_scope scope, const void *base) {
	for (const struct ms_key_def *k = ms_config_keys; k->path; k++) {
		if (k->scope != scope)
			continue;
		char unset[8];
		if ((k->type == MS_KEY_STRING || k->type == MS_KEY_PATH) && !ms_key_format(k, base, unset, sizeof unset))
			continue;
		const char *dot = strchr(k->path, '.'), *leaf = dot ? dot + 1 : k->path;
		json_t *in = o;
		if (dot) {
			char group[40];
			snprintf(group, sizeof group, "%.*s", (int)(dot - k->path), k->path);
			if (!(in = json_object_get(o, group))) {
				in = json_object();
				if (json_object_set_new(o, group, in))
					return false;
			}
		}
		if (json_object_set_new(in, leaf, value_of(k, base)))
			return false;
	}
	return true;
}

/* A URL without its password and without secret query values. To be freed. */
static char *url_hidden(const char *url, ms_config_secret_cb secret) {
	struct ms_buf b;
	struct ms_err ignored = MS_ERR_INIT;
	const char *s = strstr(url, "://"), *at;
	size_t scheme = s ? (size_t)(s - url) : 0;
	char type[32], key[64], *text = NULL;
	ms_buf_init(&b, 1u << 20);
	snprintf(type, sizeof type, "%.*s", (int)scheme, url);
	const char *rest = s ? s + 3 : url;
	size_t authority = s ? strcspn(rest, "/?#") : 0;
	enum ms_code code = ms_buf_append(&b, url, (size_t)(rest - url), &ignored);
	at = memrchr(rest, '@', authority);
	if (!code && at) {
		const char *colon = memchr(rest, ':', (size_t)(at - rest));
		size_t user = (size_t)((colon ? colon : at) - rest);
		code = ms_buf_printf(&b, &ignored, "%.*s%s", (int)user, rest, colon ? ":" HIDDEN : "");
		rest = at;
	}
	size_t path = strcspn(rest, "?");
	if (!code)
		code = ms_buf_append(&b, rest, path, &ignored);
	for (rest += path; !code && *rest;) {
		char separator = *rest++;
		size_t n = strcspn(rest, "&"), k = strcspn(rest, "=&");
		snprintf(key, sizeof key, "%.*s", (int)k, rest);
		if (k < n && (!secret || secret(type, key)))
			code = ms_buf_printf(&b, &ignored, "%c%s=" HIDDEN, separator, key);
		else
			code = ms_buf_printf(&b, &ignored, "%c%.*s", separator, (int)n, rest);
		rest += n;
	}
	if (!code)
		text = strndup((const char *)b.data, b.len);
	ms_buf_release(&b);
	return text;
}

static json_t *replica_json(const struct ms_config_replica *r, ms_config_secret_cb secret) {
	json_t *o = json_object();
	char type[32];
	bool ok = add_scope(o, MS_SCOPE_REPLICA, r);
	if (ok && r->url) {
		char *hidden = url_hidden(r->url, secret);
		ok = hidden && json_object_set_new(o, "url", text_value(hidden)) == 0;
		free(hidden);
	}
	ms_config_replica_type(r, type);
	for (unsigned i = 0; ok && i < r->noptions; i++) {
		bool hide = !secret || secret(type, r->options[i].key);
		ok = json_object_set_new(o, r->options[i].key, hide ? json_string(HIDDEN) : text_value(r->options[i].value)) == 0;
	}
	if (ok)
		return o;
	json_decref(o);
	return NULL;
}

static json_t *database_json(const struct ms_config_database *d, ms_config_secret_cb secret) {
	json_t *o = json_object(), *list = json_array();
	bool ok = add_scope(o, MS_SCOPE_DATABASE, d) && add_scope(o, MS_SCOPE_SETTINGS, &d->s);
	ok = json_object_set_new(o, "replicas", list) == 0 && ok; /* takes the list in any case */
	for (unsigned i = 0; ok && i < d->nreplicas; i++)
		ok = json_array_append_new(list, replica_json(&d->replicas[i], secret)) == 0;
	if (ok)
		return o;
	json_decref(o);
	return NULL;
}

static json_t *config_json(const struct ms_config *c, ms_config_secret_cb secret) {
	json_t *o = json_object(), *list = json_array();
	bool ok = add_scope(o, MS_SCOPE_DAEMON, c);
	ok = json_object_set_new(o, "databases", list) == 0 && ok;
	for (unsigned i = 0; ok && i < c->ndatabases; i++)
		ok = json_array_append_new(list, database_json(&c->databases[i], secret)) == 0;
	if (ok)
		return o;
	json_decref(o);
	return NULL;
}

/* Written without quotes only where no reader could take it for anything but this text. */
static bool plain_text(const char *s) {
	static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"};
	static const char *const units[] = {"us", "ms", "s", "m", "h", "d", "KiB", "MiB", "GiB", "TiB"};
	for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
		if (strcasecmp(s, words[i]) == 0)
			return false;
	bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || *s == '/';
	const char *unit = s + strspn(s, "0123456789.");
	for (unsigned i = 0; unit > s && i < sizeof units / sizeof *units; i++)
		plain = plain || strcmp(unit, units[i]) == 0;
	return plain && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+") == strlen(s);
}

static enum ms_code yaml_scalar(const json_t *v, struct ms_buf *out, struct ms_err *err) {
	if (json_is_string(v) && plain_text(json_string_value(v)))
		return ms_buf_printf(out, err, "%s", json_string_value(v));
	char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
	enum ms_code code = text ? ms_buf_printf(out, err, "%s", text) : nomem(err);
	free(text);
	return code;
}

static enum ms_code yaml_object(json_t *o, unsigned indent, bool first_in_line, struct ms_buf *out, struct ms_err *err);

static enum ms_code yaml_member(const char *key, json_t *v, unsigned indent, struct ms_buf *out, struct ms_err *err) {
	enum ms_code code;
	size_t i;
	json_t *item;
	json_t *name = json_string(key);
	code = name ? yaml_scalar(name, out, err) : nomem(err);
	json_decref(name);
	if (!code)
		code = ms_buf_u8(out, ':', err);
	if (code)
		return code;
	if (json_is_object(v))
		return (code = ms_buf_u8(out, '\n', err)) ? code : yaml_object(v, indent + 2, false, out, err);
	if (json_is_array(v)) {
		code = ms_buf_printf(out, err, "%s", json_array_size(v) ? "\n" : " []\n");
		json_array_foreach(v, i, item) {
			if (!code)
				code = ms_buf_printf(out, err, "%*s- ", (int)indent + 2, "");
			if (!code)
				code = yaml_object(item, indent + 4, true, out, err);
		}
		return code;
	}
	if (!(code = ms_buf_u8(out, ' ', err)) && !(code = yaml_scalar(v, out, err)))
		code = ms_buf_u8(out, '\n', err);
	return code;
}

static enum ms_code yaml_object(json_t *o, unsigned indent, bool first_in_line, struct ms_buf *out, struct ms_err *err) {
	const char *key;
	json_t *v;
	enum ms_code code = MS_OK;
	json_object_foreach(o, key, v) {
		if (!code && !first_in_line && indent)
			code = ms_buf_printf(out, err, "%*s", (int)indent, "");
		if (!code)
			code = yaml_member(key, v, indent, out, err);
		first_in_line = false;
	}
	return code;
}

enum ms_code ms_config_print(const struct ms_config *c, bool json, ms_config_secret_cb secret, struct ms_buf *out, struct ms_err *err) {
	json_t *o = config_json(c, secret);
	enum ms_code code;
	if (!o)
		return nomem(err);
	if (json) {
		char *text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
		code = text ? ms_buf_append(out, text, strlen(text), err) : nomem(err);
		if (!code)
			code = ms_buf_u8(out, '\n', err);
		free(text);
	} else {
		code = yaml_object(o, 0, false, out, err);
	}
	json_decref(o);
	return code;
}
