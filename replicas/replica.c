/*
 * Registry of drivers, the checked callers every user of a replica goes through, and replica specs.
 *
 * The callers are the one place where object names are judged, in both directions: a name that breaks the rule never reaches
 * a driver, and one that a listing brings back never reaches a caller.
 */
#include "replicas/replica.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/timefmt.h"
#include "replicas/builtin.h"
#include "replicas/nearest.h"

#define DRIVERS_MAX 32

static const struct ms_replica_driver *drivers[DRIVERS_MAX];
static unsigned ndrivers;

/* Of drivers[i]; CALLS is their number. */
enum call { CALL_OPEN, CALL_PUT, CALL_GET, CALL_LIST, CALL_REMOVE, CALLS };
static atomic_uint_fast64_t calls[DRIVERS_MAX][CALLS];

static void count(const struct ms_replica_driver *d, enum call c) {
	for (unsigned i = 0; i < ndrivers; i++)
		if (drivers[i] == d)
			atomic_fetch_add_explicit(&calls[i][c], 1, memory_order_relaxed);
}

void ms_replica_calls_at(unsigned i, struct ms_replica_calls *ret) {
	*ret = (struct ms_replica_calls){0};
	if (i < ndrivers)
		*ret = (struct ms_replica_calls){.open = calls[i][CALL_OPEN], .put = calls[i][CALL_PUT], .get = calls[i][CALL_GET],
						 .list = calls[i][CALL_LIST], .remove = calls[i][CALL_REMOVE]};
}

enum ms_code ms_replica_register(const struct ms_replica_driver *d, struct ms_err *err) {
	if (!d || !d->scheme || !d->scheme[0] || !d->options || !d->open || !d->put || !d->get || !d->list || !d->remove || !d->caps ||
	    !d->cancel || !d->close)
		return ms_err_set(err, MS_EINVAL, "replica driver '%s' is incomplete", d && d->scheme ? d->scheme : "?");
	if (ms_replica_driver_find(d->scheme))
		return ms_err_set(err, MS_EEXISTS, "a replica driver for '%s' is registered already", d->scheme);
	if (ndrivers == DRIVERS_MAX)
		return ms_err_set(err, MS_ETOOBIG, "more than %d replica drivers", DRIVERS_MAX);
	drivers[ndrivers++] = d;
	return MS_OK;
}

const struct ms_replica_driver *ms_replica_driver_find(const char *scheme) {
	for (unsigned i = 0; i < ndrivers; i++)
		if (strcmp(drivers[i]->scheme, scheme) == 0)
			return drivers[i];
	return NULL;
}

const struct ms_replica_driver *ms_replica_driver_at(unsigned i) { return i < ndrivers ? drivers[i] : NULL; }

enum ms_code ms_replicas_register_builtin(struct ms_err *err) {
	for (unsigned i = 0; ms_builtin_drivers[i]; i++) {
		if (ms_replica_driver_find(ms_builtin_drivers[i]->scheme))
			continue;
		enum ms_code rc = ms_replica_register(ms_builtin_drivers[i], err);
		if (rc)
			return rc;
	}
	return MS_OK;
}

static const struct ms_option_def *option_find(const struct ms_replica_driver *d, const char *key) {
	for (const struct ms_option_def *o = d->options; o->key; o++)
		if (strcmp(o->key, key) == 0)
			return o;
	return NULL;
}

static bool type_ok(const char *type, const char *v) {
	if (strcmp(type, "bool") == 0)
		return strcmp(v, "true") == 0 || strcmp(v, "false") == 0;
	if (strcmp(type, "uint") == 0)
		return v[0] && strspn(v, "0123456789") == strlen(v) && strlen(v) <= 18;
	if (strcmp(type, "duration") == 0) {
		int64_t us;
		return ms_duration_parse(v, &us, NULL) == MS_OK;
	}
	if (strcmp(type, "size") == 0) {
		uint64_t n;
		return ms_size_parse(v, &n, NULL) == MS_OK;
	}
	return true;
}

enum ms_code ms_replica_spec_check(const struct ms_replica_spec *s, struct ms_err *err) {
	const struct ms_replica_driver *d = s->scheme ? ms_replica_driver_find(s->scheme) : NULL;
	if (!d)
		return ms_err_set(err, MS_EUSAGE, "no replica driver for '%s'", s->scheme ? s->scheme : "");
	for (unsigned i = 0; i < s->noptions; i++) {
		const struct ms_option *o = &s->options[i];
		const struct ms_option_def *def = option_find(d, o->key);
		if (!def) {
			struct ms_nearest n = ms_nearest_init(o->key);
			for (def = d->options; def->key; def++)
				ms_nearest_offer(&n, def->key);
			if (n.best)
				return ms_err_set(err, MS_EUSAGE, "a %s replica has no option '%s': did you mean '%s'?", d->scheme, o->key, n.best);
			return ms_err_set(err, MS_EUSAGE, "a %s replica has no option '%s'", d->scheme, o->key);
		}
		if (!type_ok(def->type, o->value))
			return ms_err_set(err, MS_EUSAGE, "option '%s' of a %s replica wants a %s, not '%s'", o->key, d->scheme, def->type,
					  def->secret ? "(secret)" : o->value);
	}
	for (const struct ms_option_def *def = d->options; def->key; def++) {
		const char *v = ms_replica_spec_get(s, def->key);
		if (def->required && (!v || !v[0]))
			return ms_err_set(err, MS_EUSAGE, "a %s replica needs '%s' (%s)", d->scheme, def->key, def->help);
	}
	return MS_OK;
}

enum ms_code ms_replica_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) {
	enum ms_code rc = ms_replica_spec_check(spec, err);
	if (rc)
		return rc;
	const struct ms_replica_driver *d = ms_replica_driver_find(spec->scheme);
	count(d, CALL_OPEN);
	return d->open(env, spec, ret, err);
}

bool ms_object_name_valid(const char *name) {
	size_t total = 0, part = 0;
	for (const char *p = name;; p++) {
		char c = *p;
		if (c == '/' || c == '\0') {
			if (part == 0)
				return false;
			part = 0;
			if (c == '\0')
				return total <= MS_OBJECT_NAME_MAX;
			total++;
			continue;
		}
		bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '+' || c == '-' ||
			  (c == '.' && part > 0);
		if (!ok || ++part > 255 || ++total > MS_OBJECT_NAME_MAX)
			return false;
	}
}

static enum ms_code check_name(const char *name, struct ms_err *err) {
	if (ms_object_name_valid(name))
		return MS_OK;
	return ms_err_set(err, MS_EINVAL, "'%.200s' is not an object name", name);
}

enum ms_code ms_replica_put(struct ms_replica *r, const char *name, struct ms_body *b, struct ms_err *err) {
	enum ms_code rc = check_name(name, err);
	if (rc)
		return rc;
	count(MS_REPLICA_DRIVER(r), CALL_PUT);
	return MS_REPLICA_DRIVER(r)->put(r, name, b, err);
}

enum ms_code ms_replica_put_mem(struct ms_replica *r, const char *name, const void *data, size_t n, struct ms_err *err) {
	struct ms_mem_body b;
	ms_mem_body_init(&b, data, n);
	return ms_replica_put(r, name, &b.body, err);
}

enum ms_code ms_replica_get(struct ms_replica *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	enum ms_code rc = check_name(name, err);
	if (rc)
		return rc;
	if (off < 0 || len < -1)
		return ms_err_set(err, MS_EINVAL, "%s: range %lld+%lld", name, (long long)off, (long long)len);
	count(MS_REPLICA_DRIVER(r), CALL_GET);
	return MS_REPLICA_DRIVER(r)->get(r, name, off, len, cb, arg, err);
}

static enum ms_code into_buf(void *arg, const void *data, size_t n, struct ms_err *err) { return ms_buf_append(arg, data, n, err); }

enum ms_code ms_replica_get_buf(struct ms_replica *r, const char *name, int64_t off, int64_t len, struct ms_buf *out, struct ms_err *err) {
	size_t before = out->len;
	enum ms_code rc = ms_replica_get(r, name, off, len, into_buf, out, err);
	if (rc)
		out->len = before;
	return rc;
}

struct list_guard {
	const char *prefix, *start_after;
	size_t prefix_len;
	ms_list_cb cb;
	void *arg;
	char last[MS_OBJECT_NAME_MAX + 1];
	bool unordered;
	char unordered_name[MS_OBJECT_NAME_MAX + 1];
};

static bool list_guard_cb(void *arg, const struct ms_object *o) {
	struct list_guard *g = arg;
	if (!ms_object_name_valid(o->name) || strncmp(o->name, g->prefix, g->prefix_len) != 0 || strcmp(o->name, g->start_after) <= 0)
		return true;
	if (g->last[0] && strcmp(o->name, g->last) <= 0) {
		g->unordered = true;
		memcpy(g->unordered_name, o->name, strlen(o->name) + 1);
		return false;
	}
	memcpy(g->last, o->name, strlen(o->name) + 1);
	return g->cb(g->arg, o);
}

enum ms_code ms_replica_list(struct ms_replica *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	struct list_guard g = {.prefix = prefix ? prefix : "", .start_after = start_after ? start_after : "", .cb = cb, .arg = arg};
	g.prefix_len = strlen(g.prefix);
	/* A prefix is the beginning of a name: "" or something that a letter makes a name. */
	char probe[MS_OBJECT_NAME_MAX + 2];
	if (g.prefix_len >= MS_OBJECT_NAME_MAX)
		return ms_err_set(err, MS_EINVAL, "'%.200s' is not a prefix of object names", g.prefix);
	memcpy(probe, g.prefix, g.prefix_len);
	memcpy(probe + g.prefix_len, "a", 2);
	if (!ms_object_name_valid(probe) || strlen(g.start_after) > MS_OBJECT_NAME_MAX)
		return ms_err_set(err, MS_EINVAL, "'%.200s' after '%.200s' is not a listing of object names", g.prefix, g.start_after);
	count(MS_REPLICA_DRIVER(r), CALL_LIST);
	enum ms_code rc = MS_REPLICA_DRIVER(r)->list(r, g.prefix, g.start_after, list_guard_cb, &g, err);
	if (rc)
		return rc;
	if (g.unordered)
		return ms_err_set(err, MS_EPERMANENT, "the %s replica lists '%s' after '%s': its listings are not in order, so it cannot be used",
				  MS_REPLICA_DRIVER(r)->scheme, g.unordered_name, g.last);
	return MS_OK;
}

enum ms_code ms_replica_remove(struct ms_replica *r, const char *name, struct ms_err *err) {
	enum ms_code rc = check_name(name, err);
	if (rc)
		return rc;
	count(MS_REPLICA_DRIVER(r), CALL_REMOVE);
	return MS_REPLICA_DRIVER(r)->remove(r, name, err);
}

void ms_replica_caps(struct ms_replica *r, struct ms_replica_caps *ret) { MS_REPLICA_DRIVER(r)->caps(r, ret); }

void ms_replica_cancel(struct ms_replica *r) { MS_REPLICA_DRIVER(r)->cancel(r); }

void ms_replica_close(struct ms_replica *r) {
	if (r)
		MS_REPLICA_DRIVER(r)->close(r);
}

static enum ms_code mem_body_read(struct ms_body *body, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct ms_mem_body *b = (struct ms_mem_body *)body;
	(void)err;
	size_t n = b->len - b->off;
	if (n > cap)
		n = cap;
	if (n)
		memcpy(buf, b->data + b->off, n);
	b->off += n;
	*ret_n = n;
	return MS_OK;
}

static enum ms_code mem_body_rewind(struct ms_body *body, struct ms_err *err) {
	(void)err;
	((struct ms_mem_body *)body)->off = 0;
	return MS_OK;
}

void ms_mem_body_init(struct ms_mem_body *b, const void *data, size_t len) {
	*b = (struct ms_mem_body){.body = {.size = (int64_t)len, .read = mem_body_read, .rewind = mem_body_rewind}, .data = data, .len = len};
}

void ms_replica_spec_release(struct ms_replica_spec *s) {
	for (unsigned i = 0; i < s->noptions; i++) {
		free(s->options[i].key);
		if (s->options[i].value) /* may be a secret */
			explicit_bzero(s->options[i].value, strlen(s->options[i].value));
		free(s->options[i].value);
	}
	free(s->options);
	free(s->scheme);
	*s = (struct ms_replica_spec){0};
}

const char *ms_replica_spec_get(const struct ms_replica_spec *s, const char *key) {
	for (unsigned i = 0; i < s->noptions; i++)
		if (strcmp(s->options[i].key, key) == 0)
			return s->options[i].value;
	return NULL;
}

enum ms_code ms_replica_spec_set(struct ms_replica_spec *s, const char *key, const char *value, struct ms_err *err) {
	char *v = strdup(value);
	if (!v)
		return ms_err_set(err, MS_ENOMEM, "replica option %s", key);
	for (unsigned i = 0; i < s->noptions; i++) {
		if (strcmp(s->options[i].key, key) != 0)
			continue;
		explicit_bzero(s->options[i].value, strlen(s->options[i].value));
		free(s->options[i].value);
		s->options[i].value = v;
		return MS_OK;
	}
	char *k = strdup(key);
	struct ms_option *grown = k ? reallocarray(s->options, s->noptions + 1, sizeof *grown) : NULL;
	if (!grown) {
		free(k);
		free(v);
		return ms_err_set(err, MS_ENOMEM, "replica option %s", key);
	}
	s->options = grown;
	s->options[s->noptions++] = (struct ms_option){k, v};
	return MS_OK;
}

enum ms_code ms_replica_spec_copy(struct ms_replica_spec *ret, const struct ms_replica_spec *s, struct ms_err *err) {
	struct ms_replica_spec c = {.scheme = strdup(s->scheme)};
	if (!c.scheme)
		return ms_err_set(err, MS_ENOMEM, "replica address");
	for (unsigned i = 0; i < s->noptions; i++) {
		enum ms_code rc = ms_replica_spec_set(&c, s->options[i].key, s->options[i].value, err);
		if (rc) {
			ms_replica_spec_release(&c);
			return rc;
		}
	}
	*ret = c;
	return MS_OK;
}
