/*
 * An upload in parts, which becomes visible at its completion, if the name is still free (If-None-Match: * there).
 *
 * Memory: one part (8 MiB, or more where 10,000 parts of that size would not hold the object) for each put, and up to `concurrency` - 1 more of a budget of
 * EXTRA_PARTS that all puts of the process share. A part is sent again up to TRIES times: one of a thousand will fail, and a whole gigabyte is not
 * to be sent again for it. A failed put aborts its upload; one that was cancelled or died leaves it to the sweep.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timefmt.h"
#include "replicas/retry.h"
#include "replicas/s3_internal.h"

#define EXTRA_PARTS 4
#define PARALLEL_BYTES (64u << 20) /* no parallel parts above this in sum */
#define TRIES 4u
#define ETAG_MAX 128
#define MIB (UINT64_C(1) << 20)
#define SWEEP_AGE_US (INT64_C(86400) * 1000000)
#define SWEEP_PAGES 10

static atomic_int extra_parts = EXTRA_PARTS;

static bool extra_take(void) {
	if (atomic_fetch_sub(&extra_parts, 1) > 0)
		return true;
	atomic_fetch_add(&extra_parts, 1);
	return false;
}

static void extra_give(void) { atomic_fetch_add(&extra_parts, 1); }

struct slot {
	struct ms_buf data;
	struct ms_s3_request q;
	bool open;	 /* q is initialised: a part is under way, or waits for its next try */
	bool waiting;	 /* for retry_at */
	uint64_t retry_at_us;
	unsigned number; /* of the part, from 1 */
	struct ms_retry retry;
	char number_text[16];
};

struct upload {
	struct ms_s3 *r;
	const char *name, *key, *what;
	struct ms_body *b;
	char id[1100];
	struct slot slots[MS_S3_CONCURRENCY_MAX];
	unsigned nslots, most;
	char (*etags)[ETAG_MAX];
	unsigned nparts, cap;
	uint64_t part_size, total;
	bool eof;
};

static uint64_t mono_us(struct ms_s3 *r) { return ms_env_mono_ns(r->env) / 1000; }

enum ms_code ms_s3_upload_begin(struct ms_s3 *r, const char *key, const char *what, char *ret_id, size_t cap, struct ms_err *err) {
	struct ms_s3_request q;
	char until[32];
	ms_s3_request_init(&q, r, "POST", key, what, "", 0);
	ms_s3_request_param(&q, "uploads", "");
	ms_s3_write_headers(&q, until);
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_s3_call(&q, err);
	if (!rc && (rc = ms_s3_upload_id_decode(q.x.answer.data, q.x.answer.len, ret_id, cap, &e)))
		rc = ms_err_set(err, MS_ERETRY, "%s: %s: %s", r->subject, what, e.msg);
	ms_s3_request_release(&q);
	return rc;
}

enum ms_code ms_s3_upload_abort(struct ms_s3 *r, const char *key, const char *id, struct ms_err *err) {
	struct ms_s3_request q;
	ms_s3_request_init(&q, r, "DELETE", key, "abort an upload", NULL, 0);
	ms_s3_request_param(&q, "uploadId", id);
	enum ms_code rc = ms_s3_call(&q, err);
	ms_s3_request_release(&q);
	return rc;
}

/* ---- parts ---- */

/* Size of the next part. Of a body of known length all parts are alike (some servers insist); of an unknown one they are up to part 5,000, and
 * double every 1,000 from there. */
static uint64_t next_size(const struct upload *u) {
	unsigned n = u->nparts;
	return n < 5000 ? u->part_size : u->part_size << (n / 1000 - 4);
}

static enum ms_code part_start(struct slot *s, struct ms_err *err) {
	s->waiting = false;
	return ms_s3_request_start(&s->q, err);
}

static enum ms_code part_begin(struct upload *u, struct slot *s, struct ms_err *err) {
	if (u->nparts == MS_S3_PARTS_MAX)
		return ms_err_set(err, MS_ETOOBIG, "%s: %s has more than %u parts: raise partSize", u->r->subject, u->name, MS_S3_PARTS_MAX);
	if (u->nparts == u->cap) {
		unsigned cap = u->cap ? u->cap * 2 : 64;
		char(*grown)[ETAG_MAX] = reallocarray(u->etags, cap, sizeof *grown);
		if (!grown)
			return ms_err_set(err, MS_ENOMEM, "%s: parts of %s", u->r->subject, u->name);
		u->etags = grown;
		u->cap = cap;
	}
	s->number = ++u->nparts;
	u->etags[s->number - 1][0] = '\0';
	s->retry = (struct ms_retry){0};
	u->total += s->data.len;
	snprintf(s->number_text, sizeof s->number_text, "%u", s->number);
	ms_s3_request_init(&s->q, u->r, "PUT", u->key, u->what, s->data.len ? (const void *)s->data.data : "", s->data.len);
	s->open = true;
	ms_s3_request_param(&s->q, "partNumber", s->number_text);
	ms_s3_request_param(&s->q, "uploadId", u->id);
	ms_s3_request_customer_key(&s->q);
	return part_start(s, err);
}

static bool transient(enum ms_code rc) { return rc == MS_ERETRY || rc == MS_ETIMEDOUT || rc == MS_ETHROTTLED; }

/* A part's exchange has ended. */
static enum ms_code part_end(struct upload *u, struct slot *s, struct ms_err *err) {
	struct ms_err e = MS_ERR_INIT;
	bool again = false;
	enum ms_code rc = ms_s3_request_result(&s->q, &again, &e);
	if (!rc && again)
		return part_start(s, err);
	if (transient(rc) && s->q.x.status != 404 && s->retry.failures + 1 < TRIES) {
		int64_t wait = ms_retry_failed(&s->retry, u->r->env, &e);
		s->retry_at_us = mono_us(u->r) + (uint64_t)wait;
		s->waiting = true;
		return MS_OK;
	}
	if (!rc) {
		const char *etag = ms_http_header(&s->q.x, "etag");
		if (!etag || !etag[0] || strlen(etag) >= ETAG_MAX || strpbrk(etag, "<>&"))
			rc = ms_err_set(&e, MS_EPERMANENT, "%s: %s: part %u was answered without a usable ETag", u->r->subject, u->what, s->number);
		else
			snprintf(u->etags[s->number - 1], ETAG_MAX, "%s", etag);
	}
	ms_s3_request_release(&s->q);
	s->open = false;
	ms_buf_clear(&s->data);
	if (rc && err)
		*err = e;
	return rc;
}

/* A slot to fill: a free one, or one more where the budget allows it. NULL: all are busy. */
static struct slot *slot_free(struct upload *u) {
	for (unsigned i = 0; i < u->nslots; i++)
		if (!u->slots[i].open)
			return &u->slots[i];
	if (u->nslots == u->most || !extra_take())
		return NULL;
	return &u->slots[u->nslots++];
}

/* Waits for one event: a part that ends, or a try that is due. */
static enum ms_code step(struct upload *u, struct ms_err *err) {
	struct ms_http_exchange *done = NULL;
	uint64_t now = mono_us(u->r);
	int64_t wait = -1;
	enum ms_code rc;
	for (unsigned i = 0; i < u->nslots; i++) {
		struct slot *s = &u->slots[i];
		if (!s->open || !s->waiting)
			continue;
		if (s->retry_at_us <= now)
			return part_start(s, err);
		int64_t left = (int64_t)(s->retry_at_us - now);
		wait = wait < 0 || left < wait ? left : wait;
	}
	if ((rc = ms_http_wait(u->r->http, wait, &done, err)))
		return rc == MS_ECANCELED ? ms_err_set(err, rc, "%s: %s: cancelled", u->r->subject, u->what) : rc;
	for (unsigned i = 0; done && i < u->nslots; i++)
		if (&u->slots[i].q.x == done)
			return part_end(u, &u->slots[i], err);
	return MS_OK;
}

static bool any_open(const struct upload *u) {
	for (unsigned i = 0; i < u->nslots; i++)
		if (u->slots[i].open)
			return true;
	return false;
}

static enum ms_code send_parts(struct upload *u, struct ms_err *err) {
	enum ms_code rc = part_begin(u, &u->slots[0], err);
	while (!rc) {
		struct slot *s = u->eof ? NULL : slot_free(u);
		if (s) {
			uint64_t size = next_size(u);
			s->data.limit = (size_t)size;
			if (!(rc = ms_s3_body_fill(u->r, u->b, &s->data, (size_t)size, &u->eof, err)) && s->data.len)
				rc = part_begin(u, s, err);
		} else if (any_open(u)) {
			rc = step(u, err);
		} else {
			break;
		}
	}
	if (!rc && u->b->size >= 0 && (uint64_t)u->b->size != u->total)
		rc = ms_err_set(err, MS_EINVAL, "%s: the body gave %llu bytes instead of %lld", u->name, (unsigned long long)u->total, (long long)u->b->size);
	return rc;
}

/* ---- completion ---- */

static enum ms_code complete_once(struct upload *u, const struct ms_buf *list, int *ret_status, struct ms_err *err) {
	struct ms_s3_request q;
	struct ms_s3_fault fault;
	ms_s3_request_init(&q, u->r, "POST", u->key, u->what, list->data, list->len);
	ms_s3_request_param(&q, "uploadId", u->id);
	if (u->r->facts.conditional == MS_S3_HONOURED)
		ms_s3_request_header(&q, "if-none-match", "*");
	enum ms_code rc = ms_s3_call(&q, err);
	*ret_status = q.x.status;
	/* The answer may begin with 200 before the outcome is known: the body decides. */
	if (!rc && !ms_s3_complete_decode(q.x.answer.data, q.x.answer.len, &fault)) {
		struct ms_s3_answer a = {.status = 500, .fault = fault};
		rc = ms_s3_error(&a, u->r->subject, u->what, err);
	}
	ms_s3_request_release(&q);
	return rc;
}

static enum ms_code complete(struct upload *u, struct ms_err *err) {
	struct ms_buf list;
	struct ms_retry retry = {0};
	enum ms_code rc;
	ms_buf_init(&list, 4u << 20);
	rc = ms_buf_printf(&list, err, "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
	for (unsigned i = 0; i < u->nparts && !rc; i++)
		rc = ms_buf_printf(&list, err, "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag></Part>", i + 1, u->etags[i]);
	if (!rc)
		rc = ms_buf_printf(&list, err, "</CompleteMultipartUpload>");
	while (!rc) {
		struct ms_err e = MS_ERR_INIT;
		struct ms_http_exchange *none;
		int status = 0;
		rc = complete_once(u, &list, &status, &e);
		/* An upload that is not there any more was completed by an answer that got lost, or swept: the next put finds out which. */
		if (!transient(rc) || status == 404 || status == 409 || retry.failures + 1 >= TRIES) {
			if (rc && err)
				*err = e;
			break;
		}
		rc = ms_http_wait(u->r->http, ms_retry_failed(&retry, u->r->env, &e), &none, err);
	}
	ms_buf_release(&list);
	return rc;
}

static enum ms_code look(struct upload *u, struct ms_err *err) {
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_s3_head(u->r, u->name, &e);
	if (rc == MS_OK)
		return ms_err_set(err, MS_EEXISTS, "%s: %s exists", u->r->subject, u->name);
	return rc == MS_ENOTFOUND ? MS_OK : ms_err_set(err, rc, "%s", e.msg);
}

enum ms_code ms_s3_put_multipart(struct ms_s3 *r, const char *name, struct ms_body *b, struct ms_buf *first, struct ms_err *err) {
	char key[MS_S3_KEY_MAX + 1], what[MS_OBJECT_NAME_MAX + 16];
	struct upload *u = calloc(1, sizeof *u);
	enum ms_code rc;
	if (!u)
		return ms_err_set(err, MS_ENOMEM, "%s: put %s", r->subject, name);
	ms_s3_address_key(&r->at, name, key);
	snprintf(what, sizeof what, "put %s", name);
	u->r = r, u->name = name, u->key = key, u->what = what, u->b = b;
	u->part_size = r->part_size;
	u->nslots = 1;
	if (b->size > 0 && (uint64_t)b->size > MS_S3_OBJECT_MAX) {
		rc = ms_err_set(err, MS_ETOOBIG, "%s: %s is larger than 5 TiB", r->subject, name);
		goto out;
	}
	if (b->size > 0 && (uint64_t)b->size > u->part_size * MS_S3_PARTS_MAX)
		u->part_size = ((uint64_t)b->size / MS_S3_PARTS_MAX / MIB + 1) * MIB;
	u->most = r->concurrency;
	if (u->most * u->part_size > PARALLEL_BYTES)
		u->most = u->part_size >= PARALLEL_BYTES ? 1 : (unsigned)(PARALLEL_BYTES / u->part_size);
	for (unsigned i = 0; i < MS_S3_CONCURRENCY_MAX; i++)
		ms_buf_init(&u->slots[i].data, (size_t)u->part_size);
	/* What was read already is the beginning of part 1. */
	ms_buf_release(&u->slots[0].data);
	u->slots[0].data = *first;
	ms_buf_init(first, 0);
	u->slots[0].data.limit = (size_t)u->part_size + 1;
	/* It only saves sending what the completion would refuse. */
	if ((rc = look(u, err)))
		goto out;
	if (u->part_size > u->slots[0].data.len && (rc = ms_s3_body_fill(r, b, &u->slots[0].data, (size_t)u->part_size - u->slots[0].data.len, &u->eof, err)))
		goto out;
	if ((rc = ms_s3_upload_begin(r, key, what, u->id, sizeof u->id, err)))
		goto out;
	if (!(rc = send_parts(u, err)))
		rc = complete(u, err);
	if (rc == MS_EEXISTS)
		rc = ms_err_set(err, MS_EEXISTS, "%s: %s exists", r->subject, name);
	for (unsigned i = 0; i < u->nslots; i++)
		if (u->slots[i].open)
			ms_s3_request_release(&u->slots[i].q);
	struct ms_err ignored = MS_ERR_INIT;
	if (rc && !ms_http_cancelled(r->http))
		(void)!ms_s3_upload_abort(r, key, u->id, &ignored);
out:
	for (unsigned i = 0; i < MS_S3_CONCURRENCY_MAX; i++)
		ms_buf_release(&u->slots[i].data);
	for (unsigned i = 1; i < u->nslots; i++)
		extra_give();
	free(u->etags);
	free(u);
	return rc;
}

/* ---- what crashes left ---- */

static enum ms_code sweep_page(struct ms_s3 *r, struct ms_s3_page *page, struct ms_s3_page *ret, struct ms_err *err) {
	char prefix[MS_S3_PREFIX_MAX + 2];
	struct ms_s3_request q;
	snprintf(prefix, sizeof prefix, "%s%s", r->at.prefix, r->at.prefix[0] ? "/" : "");
	ms_s3_request_init(&q, r, "GET", NULL, "list unfinished uploads", NULL, 0);
	q.x.answer.limit = MS_S3_PAGE_BYTES;
	ms_s3_request_param(&q, "uploads", "");
	ms_s3_request_param(&q, "prefix", prefix);
	ms_s3_request_param(&q, "encoding-type", "url");
	if (page->key_marker[0]) {
		ms_s3_request_param(&q, "key-marker", page->key_marker);
		ms_s3_request_param(&q, "upload-id-marker", page->upload_marker);
	}
	enum ms_code rc = ms_s3_call(&q, err);
	if (!rc)
		rc = ms_s3_page_decode(q.x.answer.data, q.x.answer.len, ret, err);
	ms_s3_request_release(&q);
	return rc;
}

void ms_s3_sweep(struct ms_s3 *r) {
	int64_t now = (int64_t)mono_us(r), before = ms_s3_now_us(r) - SWEEP_AGE_US;
	struct ms_s3_page *page = calloc(1, sizeof *page), *next = calloc(1, sizeof *next);
	struct ms_err ignored = MS_ERR_INIT;
	size_t nprefix = strlen(r->at.prefix);
	bool more = page && next && (!r->swept_us || now - r->swept_us > SWEEP_AGE_US);
	r->swept_us = more ? now + !now : r->swept_us;
	for (unsigned n = 0; more && n < SWEEP_PAGES && !sweep_page(r, page, next, &ignored); n++) {
		for (unsigned i = 0; i < next->n; i++) {
			const char *key = ms_s3_page_key(next, i), *id = ms_s3_page_upload(next, i);
			int64_t began = next->entries[i].time_us;
			if (strncmp(key, r->at.prefix, nprefix) != 0 || (nprefix && key[nprefix] != '/'))
				continue;
			const char *name = key + nprefix + (nprefix > 0);
			bool ours = ms_object_name_valid(name) || strcmp(name, MS_S3_PROBE_NAME) == 0;
			if (ours && id && began && began < before)
				(void)!ms_s3_upload_abort(r, key, id, &ignored);
		}
		more = next->truncated && next->key_marker[0];
		ms_s3_page_release(next);
		struct ms_s3_page *swap = page;
		page = next;
		next = swap;
	}
	free(page);
	free(next);
}
