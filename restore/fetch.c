#include "restore/fetch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 6
#define FIRST_DELAY_US 100000u
#define LONGEST_DELAY_US 30000000u
#define SLICE_US 50000u

struct ms_fetch {
	struct ms_env *env;
	const struct ms_restore_replica *replicas;
	unsigned nreplicas, workers;
	const atomic_bool *cancel;
	atomic_bool canceled;
	atomic_uint_fast64_t bytes, gets;
	pthread_mutex_t lock;
	struct ms_replica **handles; /* [workers * nreplicas] */
};

enum ms_code ms_fetch_new(struct ms_env *env, const struct ms_restore_replica *replicas, unsigned nreplicas, unsigned workers,
			  const atomic_bool *cancel, struct ms_fetch **ret, struct ms_err *err) {
	if (workers < 1 || workers > MS_FETCH_WORKERS_MAX || nreplicas < 1)
		return ms_err_set(err, MS_EINVAL, "%u workers for %u replicas", workers, nreplicas);
	struct ms_fetch *f = calloc(1, sizeof *f);
	if (f)
		f->handles = calloc((size_t)workers * nreplicas, sizeof *f->handles);
	if (!f || !f->handles || pthread_mutex_init(&f->lock, NULL) != 0) {
		if (f)
			free(f->handles);
		free(f);
		return ms_err_set(err, MS_ENOMEM, "out of memory for %u readers", workers);
	}
	f->env = env;
	f->replicas = replicas;
	f->nreplicas = nreplicas;
	f->workers = workers;
	f->cancel = cancel;
	*ret = f;
	return MS_OK;
}

void ms_fetch_free(struct ms_fetch *f) {
	if (!f)
		return;
	for (size_t i = 0; i < (size_t)f->workers * f->nreplicas; i++)
		ms_replica_close(f->handles[i]);
	free(f->handles);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

void ms_fetch_cancel(struct ms_fetch *f) {
	atomic_store(&f->canceled, true);
	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < (size_t)f->workers * f->nreplicas; i++) {
		if (f->handles[i])
			ms_replica_cancel(f->handles[i]);
	}
	pthread_mutex_unlock(&f->lock);
}

bool ms_fetch_canceled(const struct ms_fetch *f) { return atomic_load(&f->canceled) || (f->cancel && atomic_load(f->cancel)); }
struct ms_env *ms_fetch_env(const struct ms_fetch *f) { return f->env; }
unsigned ms_fetch_replicas(const struct ms_fetch *f) { return f->nreplicas; }
unsigned ms_fetch_workers(const struct ms_fetch *f) { return f->workers; }
const char *ms_fetch_url(const struct ms_fetch *f, unsigned replica) { return f->replicas[replica].url; }
uint64_t ms_fetch_bytes(const struct ms_fetch *f) { return atomic_load(&f->bytes); }
uint64_t ms_fetch_gets(const struct ms_fetch *f) { return atomic_load(&f->gets); }

enum ms_code ms_fetch_handle(struct ms_fetch *f, unsigned worker, unsigned replica, struct ms_replica **ret, struct ms_err *err) {
	struct ms_replica **slot = &f->handles[(size_t)worker * f->nreplicas + replica];
	if (ms_fetch_canceled(f))
		return ms_err_set(err, MS_ECANCELED, "interrupted");
	/* Only this worker writes its slot; the lock is for cancel(). */
	if (!*slot) {
		struct ms_replica *r = NULL;
		enum ms_code rc = ms_replica_open(f->env, f->replicas[replica].spec, &r, err);
		if (rc)
			return rc;
		pthread_mutex_lock(&f->lock);
		*slot = r;
		bool canceled = atomic_load(&f->canceled);
		pthread_mutex_unlock(&f->lock);
		if (canceled)
			ms_replica_cancel(r);
	}
	*ret = *slot;
	return MS_OK;
}

struct stream {
	struct ms_fetch *f;
	ms_get_cb cb;
	void *arg;
	int64_t got;
	bool refused; /* the error is the consumer's own */
};

static enum ms_code stream_cb(void *arg, const void *data, size_t n, struct ms_err *err) {
	struct stream *s = arg;
	if (ms_fetch_canceled(s->f))
		return ms_err_set(err, MS_ECANCELED, "interrupted");
	s->got += (int64_t)n;
	atomic_fetch_add(&s->f->bytes, n);
	enum ms_code rc = s->cb(s->arg, data, n, err);
	if (rc)
		s->refused = true;
	return rc;
}

/* Waits before try number `failures` + 1; false when cancelled. */
static bool back_off(struct ms_fetch *f, unsigned failures, const struct ms_err *why) {
	uint64_t us = (uint64_t)FIRST_DELAY_US << (failures - 1);
	uint16_t jitter;
	if (why->code == MS_ETHROTTLED && why->sys > 0)
		us = (uint64_t)why->sys * 1000000u;
	if (us > LONGEST_DELAY_US)
		us = LONGEST_DELAY_US;
	ms_env_random(f->env, &jitter, sizeof jitter);
	us += us / 2 * jitter / UINT16_MAX;
	while (us > 0 && !ms_fetch_canceled(f)) {
		uint64_t slice = us < SLICE_US ? us : SLICE_US;
		f->env->ops->sleep_us(f->env, slice);
		us -= slice;
	}
	return !ms_fetch_canceled(f);
}

static bool transient(enum ms_code code) { return code == MS_ERETRY || code == MS_ETHROTTLED || code == MS_ETIMEDOUT; }

enum ms_code ms_fetch_get(struct ms_fetch *f, unsigned worker, unsigned replica, const char *name, int64_t off, int64_t len, ms_get_cb cb,
			  void *arg, struct ms_err *err) {
	struct stream s = {.f = f, .cb = cb, .arg = arg};
	for (unsigned failures = 0;;) {
		struct ms_replica *r = NULL;
		struct ms_err e = MS_ERR_INIT;
		int64_t before = s.got;
		enum ms_code rc = ms_fetch_handle(f, worker, replica, &r, &e);
		if (!rc) {
			atomic_fetch_add(&f->gets, 1);
			rc = ms_replica_get(r, name, off + s.got, len < 0 ? -1 : len - s.got, stream_cb, &s, &e);
		}
		if (!rc)
			return MS_OK;
		if (!s.refused && transient(rc) && !(len >= 0 && s.got >= len)) {
			failures = s.got > before ? 1 : failures + 1;
			if (failures < TRIES && back_off(f, failures, &e))
				continue;
		}
		if (ms_fetch_canceled(f))
			return ms_err_set(err, MS_ECANCELED, "interrupted");
		/* Most drivers name the object themselves. */
		if (!s.refused && !strstr(e.msg, name))
			ms_err_wrap(&e, "reading %s of %s", name, f->replicas[replica].url);
		if (err)
			*err = e;
		return rc;
	}
}

struct into_mem {
	uint8_t *p;
	size_t n, cap;
};

static enum ms_code mem_cb(void *arg, const void *data, size_t n, struct ms_err *err) {
	struct into_mem *m = arg;
	if (n > m->cap - m->n)
		return ms_err_set(err, MS_EPERMANENT, "more bytes came than were asked for");
	memcpy(m->p + m->n, data, n);
	m->n += n;
	return MS_OK;
}

enum ms_code ms_fetch_mem(struct ms_fetch *f, unsigned worker, unsigned replica, const char *name, int64_t off, size_t len, uint8_t *ret,
			  size_t *ret_n, struct ms_err *err) {
	struct into_mem m = {.p = ret, .cap = len};
	enum ms_code rc = ms_fetch_get(f, worker, replica, name, off, (int64_t)len, mem_cb, &m, err);
	if (!rc)
		*ret_n = m.n;
	return rc;
}
