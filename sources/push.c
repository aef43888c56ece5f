/*
 * One flush at a time is handed from the engine's thread to the stream's step: flush() puts it into the slot, signals the event descriptor and waits;
 * step() delivers it to the sink. While detached, flushes are not captured: they only move the engine's number, so that the next
 * attach sees the gap and the stream catches up by page sums.
 */
#include "sources/push.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define READ_WAIT_MS 50

struct push {
	struct ms_source base;
	struct ms_env *env;
	struct ms_push_config cfg;
	int fd;
	pthread_mutex_t mutex; /* guards all below */
	pthread_cond_t cond;
	bool writing, attached, closed;
	const struct ms_page_flush *slot; /* waiting to be captured */
	bool slot_done;
	struct ms_err slot_err;
	uint32_t db_pages;
	uint64_t txid; /* of the last flushed state */
	uint64_t captured; /* of the last captured one */
	bool lost;
};

static struct push *of(struct ms_source *s) { return (struct push *)s; }

static struct ms_cookie cookie_of(uint64_t txid) {
	struct ms_cookie c = {.len = 9};
	c.data[0] = 1;
	for (int i = 0; i < 8; i++)
		c.data[1 + i] = (uint8_t)(txid >> (8 * i));
	return c;
}

static uint64_t txid_of(const struct ms_cookie *c) {
	uint64_t txid = 0;
	for (int i = 0; i < 8; i++)
		txid |= (uint64_t)c->data[1 + i] << (8 * i);
	return txid;
}

static void result(struct ms_step_result *r) {
	memset(r, 0, sizeof *r);
	r->state = MS_SRC_FOLLOWING;
	r->next_poll_us = 1000000;
}

static void fill_info(const struct push *p, struct ms_source_info *i) {
	i->page_size = p->cfg.page_size;
	i->db_pages = p->db_pages;
	i->mode = p->cfg.mode;
	i->cookie = cookie_of(p->txid);
}

static enum ms_code attach(struct ms_source *s, const struct ms_cookie *resume, struct ms_source_info *ret, struct ms_step_result *res,
			   struct ms_err *err) {
	struct push *p = of(s);
	(void)err;
	result(res);
	memset(ret, 0, sizeof *ret);
	pthread_mutex_lock(&p->mutex);
	struct ms_cookie now = cookie_of(p->txid);
	bool known = resume && resume->len == now.len && resume->data[0] == now.data[0];
	ret->continuous = known && memcmp(resume->data, now.data, now.len) == 0;
	ret->behind = known && txid_of(resume) > p->txid;
	p->attached = true;
	p->lost = false;
	p->captured = p->txid;
	fill_info(p, ret);
	pthread_mutex_unlock(&p->mutex);
	return MS_OK;
}

/* Ends the flush that waits in the slot. Locked. */
static void finish(struct push *p, const struct ms_err *err) {
	p->txid = p->slot->engine_txid;
	p->db_pages = p->slot->db_pages;
	p->slot_err = err ? *err : MS_ERR_INIT;
	p->slot = NULL;
	p->slot_done = true;
	pthread_cond_broadcast(&p->cond);
}

static enum ms_code step(struct ms_source *s, struct ms_sink *sink, struct ms_step_result *res, struct ms_err *err) {
	struct push *p = of(s);
	uint64_t n;
	enum ms_code rc = MS_OK;
	result(res);
	(void)!read(p->fd, &n, sizeof n);
	pthread_mutex_lock(&p->mutex);
	if (p->lost || p->captured != p->txid) {
		res->state = MS_SRC_LOST;
		res->lost_commits = -1;
		p->lost = false;
		p->captured = p->txid;
	} else if (p->slot) {
		const struct ms_page_flush *f = p->slot;
		struct ms_flush_meta m = {.db_pages = f->db_pages, .time_us = f->time_us ? f->time_us : ms_env_now_us(p->env),
					  .cookie = cookie_of(f->engine_txid), .attrs = f->attrs, .attrs_len = f->attrs_len};
		rc = sink->begin(sink, err);
		for (uint32_t i = 0; i < f->nframes && rc == MS_OK; i++)
			rc = sink->page(sink, f->frames[i].pgno, f->frames[i].data, err);
		if (rc == MS_OK)
			rc = sink->commit(sink, &m, err);
		if (rc != MS_OK)
			sink->abort(sink);
		finish(p, rc != MS_OK ? err : NULL);
		if (rc == MS_OK)
			p->captured = p->txid;
	}
	res->caught_up = rc == MS_OK && res->state == MS_SRC_FOLLOWING;
	pthread_mutex_unlock(&p->mutex);
	return rc;
}

static enum ms_code skip(struct ms_source *s, void (*dirty)(void *arg, uint32_t pgno), void *arg, struct ms_source_info *now,
			 struct ms_step_result *res, struct ms_err *err) {
	struct push *p = of(s);
	uint64_t n;
	(void)err;
	result(res);
	(void)!read(p->fd, &n, sizeof n);
	pthread_mutex_lock(&p->mutex);
	if (p->captured != p->txid) {
		res->state = MS_SRC_LOST;
		res->lost_commits = -1;
	} else if (p->slot) {
		for (uint32_t i = 0; i < p->slot->nframes; i++)
			dirty(arg, p->slot->frames[i].pgno);
		for (uint32_t pgno = p->db_pages + 1; pgno <= p->slot->db_pages; pgno++)
			dirty(arg, pgno);
		struct ms_err e = MS_ERR_INIT;
		(void)ms_err_set(&e, MS_EBUSY, "not captured by itself: the whole file is being read, and this becomes part of the state that is found");
		finish(p, &e);
	}
	p->captured = p->txid;
	res->caught_up = res->state == MS_SRC_FOLLOWING;
	fill_info(p, now);
	pthread_mutex_unlock(&p->mutex);
	return MS_OK;
}

static enum ms_code read_pages(struct ms_source *s, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err) {
	struct push *p = of(s);
	struct timespec until;
	enum ms_code rc;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += READ_WAIT_MS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&p->mutex);
	while (p->writing && !p->slot && pthread_cond_timedwait(&p->cond, &p->mutex, &until) == 0)
		;
	if (p->writing || p->captured != p->txid)
		rc = ms_err_set(err, MS_EBUSY, "a write transaction is under way");
	else
		rc = p->cfg.read(p->cfg.arg, first, count, out, err); /* locked: begin waits meanwhile */
	pthread_mutex_unlock(&p->mutex);
	return rc;
}

/* Called within step(), which holds the mutex. The file has the new version of what was there before; only of pages that the flush grew the file by
 * it is the one that is asked for. */
static bool prev_page(struct ms_source *s, uint32_t pgno, uint8_t *out) {
	struct push *p = of(s);
	return p->slot && pgno > p->db_pages && pgno <= p->slot->db_pages && p->cfg.read(p->cfg.arg, pgno, 1, out, NULL) == MS_OK;
}

static bool matches(struct ms_source *s, const struct ms_cookie *c) {
	struct push *p = of(s);
	pthread_mutex_lock(&p->mutex);
	struct ms_cookie now = cookie_of(p->txid);
	pthread_mutex_unlock(&p->mutex);
	return c->len == now.len && memcmp(c->data, now.data, now.len) == 0;
}

static enum ms_code checkpoint(struct ms_source *s, struct ms_err *err) {
	(void)s;
	(void)err;
	return MS_OK;
}

static void detach(struct ms_source *s) {
	struct push *p = of(s);
	struct ms_err e = MS_ERR_INIT;
	(void)ms_err_set(&e, MS_ECLOSED, "not captured: the stream has let go of the database, a catch-up is owed");
	pthread_mutex_lock(&p->mutex);
	p->attached = false;
	if (p->slot)
		finish(p, &e);
	pthread_mutex_unlock(&p->mutex);
}

static int event_fd(struct ms_source *s) { return of(s)->fd; }

static void source_free(struct ms_source *s) {
	struct push *p = of(s);
	if (p->fd >= 0)
		close(p->fd);
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->mutex);
	free(p);
}

static const struct ms_source_ops ops = {attach, step, skip, read_pages, prev_page, matches, checkpoint, detach, event_fd, source_free};

struct ms_source *ms_push_source_new(struct ms_env *env, const struct ms_push_config *cfg, struct ms_err *err) {
	if (!ms_page_size_valid(cfg->page_size) || !cfg->read) {
		(void)ms_err_set(err, MS_EINVAL, "page size %u is not a power of two from 512 to 65536, or no read function", cfg->page_size);
		return NULL;
	}
	struct push *p = calloc(1, sizeof *p);
	if (!p) {
		(void)ms_err_set(err, MS_ENOMEM, "source");
		return NULL;
	}
	p->base.ops = &ops;
	p->env = env;
	p->cfg = *cfg;
	p->db_pages = cfg->db_pages;
	p->txid = p->captured = cfg->engine_txid;
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->cond, NULL);
	if ((p->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
		(void)ms_err_sys(err, errno, MS_EIO, "eventfd");
		source_free(&p->base);
		return NULL;
	}
	return &p->base;
}

void ms_push_begin(struct ms_source *s) {
	struct push *p = of(s);
	pthread_mutex_lock(&p->mutex);
	while (p->writing)
		pthread_cond_wait(&p->cond, &p->mutex);
	p->writing = true;
	pthread_mutex_unlock(&p->mutex);
}

static void end_write(struct push *p) {
	p->writing = false;
	pthread_cond_broadcast(&p->cond);
}

void ms_push_cancel(struct ms_source *s) {
	struct push *p = of(s);
	uint64_t one = 1;
	pthread_mutex_lock(&p->mutex);
	end_write(p);
	pthread_mutex_unlock(&p->mutex);
	(void)!write(p->fd, &one, sizeof one); /* a scan may wait for this */
}

enum ms_code ms_push_flush(struct ms_source *s, const struct ms_page_flush *f, struct ms_err *err) {
	struct push *p = of(s);
	enum ms_code rc = MS_OK;
	uint64_t one = 1;
	pthread_mutex_lock(&p->mutex);
	if (f->page_size != p->cfg.page_size || f->engine_txid <= p->txid) {
		rc = ms_err_set(err, MS_EINVAL, "flush of engine txid %llu after %llu, page size %u where %u is due", (unsigned long long)f->engine_txid,
				(unsigned long long)p->txid, f->page_size, p->cfg.page_size);
	} else if (!p->attached || p->closed) {
		p->txid = f->engine_txid; /* the gap shows at the next attach or step */
		p->db_pages = f->db_pages;
		rc = ms_err_set(err, MS_ECLOSED, "not captured: the stream has let go of the database, a catch-up is owed");
	} else {
		p->slot = f;
		p->slot_done = false;
		(void)!write(p->fd, &one, sizeof one);
		while (!p->slot_done)
			pthread_cond_wait(&p->cond, &p->mutex);
		if (p->slot_err.code != MS_OK) {
			rc = p->slot_err.code;
			if (err)
				*err = p->slot_err;
		}
	}
	end_write(p);
	pthread_mutex_unlock(&p->mutex);
	return rc;
}

void ms_push_close(struct ms_source *s) {
	struct push *p = of(s);
	struct ms_err e = MS_ERR_INIT;
	(void)ms_err_set(&e, MS_ECLOSED, "closed");
	pthread_mutex_lock(&p->mutex);
	p->closed = true;
	if (p->slot)
		finish(p, &e);
	pthread_mutex_unlock(&p->mutex);
}
