#include "replicas/nats_tail.h"

#include <stdlib.h>
#include <string.h>

/* The server's timer starts anew when a sync has ended: a write waits for the interval and that sync. */
#define SYNC_MARGIN_US INT64_C(10000000)

struct entry {
	char *name;
	char nuid[MS_NATS_NUID + 1];
	uint64_t chunks;
	uint64_t until_ns; /* monotonic: synced by then */
};

struct ms_nats_tail {
	const struct ms_nats_link *link; /* identity only: as long as a handle of it lives, this pointer is its */
	char bucket[MS_NATS_BUCKET_MAX + 1], prefix[MS_OBJECT_NAME_MAX + 2];
	unsigned refs; /* under `registry` */
	struct ms_nats_tail *next;

	pthread_mutex_t mu;
	/* Under mu. */
	pthread_cond_t idle;
	bool checking;
	uint64_t serial; /* connection it was checked on; 0: to be checked */
	struct entry v[MS_NATS_TAIL_MAX];
	unsigned n;
};

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct ms_nats_tail *tails; /* under registry */

struct ms_nats_tail *ms_nats_tail_get(const struct ms_nats_link *l, const struct ms_nats_conf *c) {
	pthread_mutex_lock(&registry);
	struct ms_nats_tail *t = tails;
	while (t && (t->link != l || strcmp(t->bucket, c->bucket) != 0 || strcmp(t->prefix, c->prefix) != 0))
		t = t->next;
	if (t) {
		t->refs++;
	} else if ((t = calloc(1, sizeof *t))) {
		t->link = l;
		memcpy(t->bucket, c->bucket, sizeof t->bucket);
		memcpy(t->prefix, c->prefix, sizeof t->prefix);
		pthread_mutex_init(&t->mu, NULL);
		pthread_cond_init(&t->idle, NULL);
		t->refs = 1;
		t->next = tails;
		tails = t;
	}
	pthread_mutex_unlock(&registry);
	return t;
}

static void drop(struct ms_nats_tail *t, unsigned i) {
	free(t->v[i].name);
	memmove(t->v + i, t->v + i + 1, (t->n - i - 1) * sizeof t->v[0]);
	t->n--;
}

void ms_nats_tail_unref(struct ms_nats_tail *t) {
	if (!t)
		return;
	pthread_mutex_lock(&registry);
	bool last = --t->refs == 0;
	if (last) {
		struct ms_nats_tail **p = &tails;
		while (*p != t)
			p = &(*p)->next;
		*p = t->next;
	}
	pthread_mutex_unlock(&registry);
	if (!last)
		return;
	while (t->n)
		drop(t, t->n - 1);
	pthread_cond_destroy(&t->idle);
	pthread_mutex_destroy(&t->mu);
	free(t);
}

static void expire(struct ms_nats_tail *t, uint64_t now) {
	unsigned kept = 0;
	for (unsigned i = 0; i < t->n; i++) {
		if (t->v[i].until_ns <= now)
			free(t->v[i].name);
		else
			t->v[kept++] = t->v[i];
	}
	t->n = kept;
}

/* nuid NULL: whichever it is. False: it is not there. */
static bool forget(struct ms_nats_tail *t, const char *name, const char *nuid) {
	for (unsigned i = 0; i < t->n; i++)
		if (strcmp(t->v[i].name, name) == 0 && (!nuid || strcmp(t->v[i].nuid, nuid) == 0)) {
			drop(t, i);
			return true;
		}
	return false;
}

enum ms_code ms_nats_tail_add(struct ms_nats_tail *t, struct ms_nats_session *s, const struct ms_nats_meta *m, struct ms_err *err) {
	uint64_t now = ms_env_mono_ns(s->env);
	struct entry e = {.chunks = m->chunks, .until_ns = now + (uint64_t)(s->conf->sync_us + SYNC_MARGIN_US) * 1000};
	if (s->conf->sync_us == 0)
		return MS_OK;
	if (!(e.name = strdup(m->name)))
		return ms_err_set(err, MS_ENOMEM, "nats bucket %s", s->conf->bucket);
	memcpy(e.nuid, m->nuid, sizeof e.nuid);
	pthread_mutex_lock(&t->mu);
	(void)forget(t, m->name, NULL);
	expire(t, now);
	if (t->n == MS_NATS_TAIL_MAX)
		drop(t, 0);
	t->v[t->n++] = e;
	pthread_mutex_unlock(&t->mu);
	return MS_OK;
}

void ms_nats_tail_forget(struct ms_nats_tail *t, const char *full_name) {
	pthread_mutex_lock(&t->mu);
	(void)forget(t, full_name, NULL);
	pthread_mutex_unlock(&t->mu);
}

void ms_nats_tail_doubt(struct ms_nats_tail *t) {
	pthread_mutex_lock(&t->mu);
	t->serial = 0;
	pthread_mutex_unlock(&t->mu);
}

/* Is it there? *ret_there false: no. Only other failures are errors. */
static enum ms_code look(struct ms_nats_session *s, const struct entry *e, bool *ret_there, struct ms_err *err) {
	struct ms_nats_meta m;
	struct ms_nats_found at;
	struct ms_err one = MS_ERR_INIT;
	uint64_t n = 0;
	*ret_there = false;
	enum ms_code rc = ms_nats_meta_get(s, e->name, &m, &at, NULL, &one);
	if (rc == MS_ENOTFOUND || rc == MS_ECORRUPT)
		return MS_OK;
	if (!rc && (m.deleted || strcmp(m.nuid, e->nuid) != 0))
		return MS_OK;
	if (!rc && e->chunks)
		rc = ms_nats_chunk_count(s, e->nuid, &n, &one);
	if (rc == MS_ENOTFOUND)
		return MS_OK;
	if (rc && err)
		*err = one;
	*ret_there = !rc && n == e->chunks;
	return rc;
}

enum ms_code ms_nats_tail_check(struct ms_nats_tail *t, struct ms_nats_session *s, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	unsigned lost = 0, all = 0;
	char first[MS_NATS_FULL_NAME_MAX + 1] = "";
	uint64_t serial = s->conn->serial;
	pthread_mutex_lock(&t->mu);
	while (t->checking && !(rc = ms_nats_session_alive(s, err)))
		ms_nats_wait(&t->idle, &t->mu);
	if (rc || t->serial == serial)
		goto out;
	expire(t, ms_env_mono_ns(s->env));
	t->checking = true;
	/* Others may add and forget meanwhile, but not check: by name, from a copy of each. */
	struct entry *copy = calloc(t->n + 1, sizeof *copy);
	unsigned n = copy ? t->n : 0;
	for (unsigned i = 0; i < n; i++) {
		copy[i] = t->v[i];
		if (!(copy[i].name = strdup(t->v[i].name)))
			rc = MS_ENOMEM;
	}
	if (!copy || rc)
		rc = ms_err_set(err, MS_ENOMEM, "nats bucket %s", s->conf->bucket);
	pthread_mutex_unlock(&t->mu);
	all = n;
	for (unsigned i = 0; i < n && !rc; i++) {
		bool there;
		rc = look(s, &copy[i], &there, err);
		if (rc || there)
			continue;
		/* Another handle may have removed it meanwhile, and has forgotten it before. */
		pthread_mutex_lock(&t->mu);
		bool ours = forget(t, copy[i].name, copy[i].nuid);
		pthread_mutex_unlock(&t->mu);
		if (ours && !lost++)
			memcpy(first, copy[i].name, strlen(copy[i].name) + 1);
	}
	for (unsigned i = 0; i < n; i++)
		free(copy[i].name);
	free(copy);
	pthread_mutex_lock(&t->mu);
	t->checking = false;
	if (!rc)
		t->serial = serial;
	pthread_cond_broadcast(&t->idle);
out:
	pthread_mutex_unlock(&t->mu);
	if (!rc && lost)
		rc = ms_err_set(err, MS_ELOST, "nats %s: bucket %s has lost %u of the %u newest objects, which it had acknowledged (%.200s): a server crashed before its sync_interval, "
				"or an older copy was put back", s->conf->servers_text, s->conf->bucket, lost, all, first);
	return rc;
}
