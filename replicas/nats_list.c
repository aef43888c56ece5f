/*
 * List. One object is one subject, and a subject's token is base64, so the server can neither filter by prefix nor sort: the leader's list of
 * metadata subjects is read (a page of at most 100,000 at once, about 12 MB), names are decoded, filtered, sorted, and then the metadata of those
 * that remain is asked for, WINDOW at once. Of more than NAMES_MAX names the first ones are told, and the subjects are read again for the rest.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/nats_internal.h"

#define NAMES_MAX 65536u
#define WINDOW 16u

struct names {
	char **v;
	size_t n, cap;
	const char *limit; /* one of them: names behind it wait for the next pass; NULL: none was left out */
};

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static enum ms_code add(struct names *l, const char *name, struct ms_err *err) {
	if (l->n == NAMES_MAX) {
		qsort(l->v, l->n, sizeof *l->v, by_name);
		while (l->n > NAMES_MAX / 2)
			free(l->v[--l->n]);
		l->limit = l->v[l->n - 1];
	}
	if (l->limit && strcmp(name, l->limit) > 0)
		return MS_OK;
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 256;
		char **grown = reallocarray(l->v, cap, sizeof *grown);
		if (!grown)
			return ms_err_set(err, MS_ENOMEM, "a listing of %zu names", l->n);
		l->v = grown;
		l->cap = cap;
	}
	if (!(l->v[l->n] = strdup(name)))
		return ms_err_set(err, MS_ENOMEM, "a listing of %zu names", l->n);
	l->n++;
	return MS_OK;
}

static void release(struct names *l) {
	while (l->n)
		free(l->v[--l->n]);
	free(l->v);
	*l = (struct names){0};
}

/* Names (without our prefix) that begin with `prefix` and lie after `after`: the smallest of them, ascending. */
static enum ms_code read_names(struct ms_nats *r, const char *prefix, const char *after, struct names *l, struct ms_err *err) {
	char body[MS_NATS_BUCKET_MAX + 96], full[MS_NATS_FULL_NAME_MAX + 1];
	size_t nown = strlen(r->conf.prefix), nprefix = strlen(prefix);
	int64_t offset = 0, total = 0;
	enum ms_code rc = MS_OK;
	do {
		json_t *o = NULL, *count;
		const char *subject;
		snprintf(body, sizeof body, "{\"subjects_filter\":\"$O.%s.M.>\",\"offset\":%" PRId64 "}", r->conf.bucket, offset);
		if ((rc = ms_nats_api(&r->session, "STREAM.INFO", NULL, body, &o, err)))
			break;
		json_t *subjects = json_object_get(json_object_get(o, "state"), "subjects");
		int64_t n = (int64_t)json_object_size(subjects);
		total = json_integer_value(json_object_get(o, "total"));
		json_object_foreach(subjects, subject, count) {
			(void)count;
			if (!ms_nats_meta_subject_name(r->conf.bucket, subject, full) || strncmp(full, r->conf.prefix, nown) != 0)
				continue;
			const char *name = full + nown;
			if (!ms_object_name_valid(name) || strncmp(name, prefix, nprefix) != 0 || strcmp(name, after) <= 0)
				continue;
			if ((rc = add(l, name, err)))
				break;
		}
		json_decref(o);
		offset += n;
		if (n == 0)
			break;
	} while (!rc && offset < total && !(rc = ms_nats_session_alive(&r->session, err)));
	if (!rc && l->n)
		qsort(l->v, l->n, sizeof *l->v, by_name);
	return rc;
}

struct slot {
	uint64_t id;
	bool answered, live;
	int64_t size, mtime_us;
};

/* Tells of l->v in order. *ret_stopped: the callback has had enough. */
static enum ms_code tell(struct ms_nats *r, const struct names *l, ms_list_cb cb, void *arg, bool *ret_stopped, struct ms_err *err) {
	struct slot slots[WINDOW] = {0};
	struct ms_nats_session *s = &r->session;
	char full[MS_NATS_FULL_NAME_MAX + 1];
	size_t next = 0, asked = 0;
	while (next < l->n) {
		enum ms_code rc = MS_OK;
		for (; asked < l->n && asked - next < WINDOW; asked++) {
			struct slot *k = &slots[asked % WINDOW];
			*k = (struct slot){0};
			ms_nats_full_name(r, l->v[asked], full);
			if ((rc = ms_nats_meta_ask(s, full, &k->id, err)))
				return rc;
		}
		while (!slots[next % WINDOW].answered) {
			uint64_t id = 0;
			natsMsg *m = NULL;
			if ((rc = ms_nats_receive(s, -1, &id, &m, err)))
				return rc;
			for (size_t i = next; i < asked; i++) {
				struct slot *k = &slots[i % WINDOW];
				struct ms_nats_meta meta;
				struct ms_nats_found at;
				struct ms_err e = MS_ERR_INIT;
				if (k->id != id)
					continue;
				ms_nats_full_name(r, l->v[i], full);
				rc = ms_nats_meta_answer(s, m, full, &meta, &at, NULL, &e);
				k->answered = true;
				/* Removed meanwhile, or nothing that a client of object stores has written. */
				if (rc && rc != MS_ENOTFOUND && rc != MS_ECORRUPT && rc != MS_ETOOBIG) {
					natsMsg_Destroy(m);
					return ms_err_set(err, rc, "%s", e.msg);
				}
				k->live = !rc && !meta.deleted && !meta.link;
				if (k->live)
					k->size = (int64_t)meta.size, k->mtime_us = at.time_us;
			}
			natsMsg_Destroy(m);
		}
		const struct slot *k = &slots[next % WINDOW];
		if ((rc = ms_nats_session_alive(s, err)))
			return rc;
		if (k->live && !cb(arg, &(struct ms_object){l->v[next], k->size, k->mtime_us})) {
			*ret_stopped = true;
			return ms_nats_session_alive(s, err);
		}
		next++;
	}
	return ms_nats_session_alive(s, err);
}

enum ms_code ms_nats_list(struct ms_nats *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	char after[MS_OBJECT_NAME_MAX + 1];
	bool stopped = false, more;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_nats_enter(r, false, &e);
	if (rc == MS_ENOTFOUND) /* no bucket yet: nothing is in it */
		return MS_OK;
	if (rc)
		return ms_err_set(err, rc, "%s", e.msg);
	snprintf(after, sizeof after, "%s", start_after);
	do {
		struct names l = {0};
		rc = read_names(r, prefix, after, &l, &e);
		if (rc == MS_ENOTFOUND) { /* the bucket has just gone */
			release(&l);
			return MS_OK;
		}
		if (rc)
			(void)ms_err_set(err, rc, "%s", e.msg);
		if (!rc)
			rc = tell(r, &l, cb, arg, &stopped, err);
		more = l.limit != NULL;
		if (more)
			snprintf(after, sizeof after, "%s", l.v[l.n - 1]);
		release(&l);
	} while (!rc && more && !stopped);
	return rc;
}
