#include "replicas/throttle.h"

#define SECOND_US UINT64_C(1000000)
#define SLICE_US (SECOND_US / 10)

struct paced_body {
	struct ms_body body;
	struct ms_body *inner;
	struct ms_throttle *t;
	const atomic_bool *cancel;
	const char *name;
};

void ms_throttle_init(struct ms_throttle *t, struct ms_env *env, uint64_t rate) {
	*t = (struct ms_throttle){.env = env, .rate = rate, .tokens = (double)rate, .at_us = ms_env_mono_ns(env) / 1000};
	pthread_mutex_init(&t->lock, NULL);
}

void ms_throttle_release(struct ms_throttle *t) {
	if (t->env)
		pthread_mutex_destroy(&t->lock);
	t->env = NULL;
}

/* Locked. What has come in since the last count; more than a second's bytes are not saved up. */
static uint64_t count(struct ms_throttle *t) {
	uint64_t now = ms_env_mono_ns(t->env) / 1000;
	if (now > t->at_us) {
		t->tokens += (double)(now - t->at_us) * (double)t->rate / (double)SECOND_US;
		t->at_us = now;
	}
	if (t->tokens > (double)t->rate)
		t->tokens = (double)t->rate;
	return now;
}

void ms_throttle_set(struct ms_throttle *t, uint64_t rate) {
	pthread_mutex_lock(&t->lock);
	(void)count(t);
	t->rate = rate;
	pthread_mutex_unlock(&t->lock);
}

uint64_t ms_throttle_rate(struct ms_throttle *t) {
	pthread_mutex_lock(&t->lock);
	uint64_t rate = t->rate;
	pthread_mutex_unlock(&t->lock);
	return rate;
}

uint64_t ms_throttle_take(struct ms_throttle *t, uint64_t n) {
	uint64_t wait = 0;
	pthread_mutex_lock(&t->lock);
	uint64_t now = count(t);
	if (t->rate) {
		t->tokens -= (double)n;
		if (t->tokens < 0) {
			wait = (uint64_t)(-t->tokens * (double)SECOND_US / (double)t->rate) + 1;
			t->until_us = now + wait;
		}
	}
	pthread_mutex_unlock(&t->lock);
	return wait;
}

bool ms_throttle_holds(struct ms_throttle *t, uint64_t *ret_waited_us) {
	pthread_mutex_lock(&t->lock);
	bool holds = t->rate && t->until_us && ms_env_mono_ns(t->env) / 1000 < t->until_us + SECOND_US;
	*ret_waited_us = t->waited_us;
	pthread_mutex_unlock(&t->lock);
	return holds;
}

static enum ms_code paced_read(struct ms_body *body, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct paced_body *b = (struct paced_body *)body;
	uint64_t rate = ms_throttle_rate(b->t), slice = rate * SLICE_US / SECOND_US + 1;
	enum ms_code rc = b->inner->read(b->inner, buf, rate && slice < cap ? (size_t)slice : cap, ret_n, err);
	if (rc)
		return rc;
	uint64_t slept = 0;
	for (uint64_t left = ms_throttle_take(b->t, *ret_n); left && !rc;) {
		uint64_t us = left < SLICE_US ? left : SLICE_US;
		if (b->cancel && atomic_load(b->cancel))
			rc = ms_err_set(err, MS_ECANCELED, "put of %s: cancelled", b->name);
		else
			b->t->env->ops->sleep_us(b->t->env, us);
		slept += rc ? 0 : us;
		left = ms_throttle_rate(b->t) ? left - us : 0; /* the limit may have been lifted meanwhile */
	}
	if (slept) {
		pthread_mutex_lock(&b->t->lock);
		b->t->waited_us += slept;
		pthread_mutex_unlock(&b->t->lock);
	}
	return rc;
}

static enum ms_code paced_rewind(struct ms_body *body, struct ms_err *err) {
	struct paced_body *b = (struct paced_body *)body;
	return b->inner->rewind(b->inner, err);
}

enum ms_code ms_throttle_put(struct ms_throttle *t, struct ms_replica *r, const char *name, struct ms_body *b, const atomic_bool *cancel,
			     struct ms_err *err) {
	struct paced_body paced = {.body = {.size = b->size, .read = paced_read, .rewind = b->rewind ? paced_rewind : NULL},
				   .inner = b,
				   .t = t,
				   .cancel = cancel,
				   .name = name};
	return ms_replica_put(r, name, &paced.body, err);
}

enum ms_code ms_throttle_put_mem(struct ms_throttle *t, struct ms_replica *r, const char *name, const void *data, size_t n, const atomic_bool *cancel,
				 struct ms_err *err) {
	struct ms_mem_body b;
	ms_mem_body_init(&b, data, n);
	return ms_throttle_put(t, r, name, &b.body, cancel, err);
}
