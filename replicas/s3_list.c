/* Reading: ranged gets whose length is verified against what the server says it sends, and listings page by page. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/s3_internal.h"

struct get {
	struct ms_s3_request *q;
	int64_t off, len; /* asked for; len -1 = to the end */
	int64_t got;	  /* bytes delivered */
	int64_t skip;	  /* still to be skipped: the server sends the whole object */
	bool begun, done, refused;
	int64_t first, last, total; /* of Content-Range; total -1 unknown */
	ms_get_cb cb;
	void *arg;
};

static bool content_range(const char *v, int64_t *first, int64_t *last, int64_t *total) {
	char end = '\0';
	*total = -1;
	if (!v || sscanf(v, "bytes %" SCNd64 "-%" SCNd64 "/%" SCNd64 "%c", first, last, total, &end) != 3) {
		if (!v || sscanf(v, "bytes %" SCNd64 "-%" SCNd64 "/*%c", first, last, &end) != 2)
			return false;
		*total = -1;
	}
	return *first >= 0 && *last >= *first;
}

static enum ms_code begin(struct get *g, struct ms_err *err) {
	struct ms_s3_request *q = g->q;
	g->begun = true;
	if (q->x.status != 206) {
		g->skip = g->off; /* Range was ignored, or there was none */
		return MS_OK;
	}
	const char *v = ms_http_header(&q->x, "content-range");
	if (!content_range(v, &g->first, &g->last, &g->total) || g->first != g->off || (g->len >= 0 && g->last - g->first >= g->len) ||
	    (g->total >= 0 && g->last >= g->total))
		return ms_err_set(err, MS_EPERMANENT, "%s: %s: the server sends '%.60s' instead of %" PRId64 "+%" PRId64, q->r->subject, q->what, v ? v : "",
				  g->off, g->len);
	return MS_OK;
}

static enum ms_code sink(void *arg, const void *data, size_t n, struct ms_err *err) {
	struct get *g = arg;
	const char *p = data;
	enum ms_code rc;
	if (!g->begun && (rc = begin(g, err))) {
		g->refused = true;
		return rc;
	}
	if (g->skip) {
		size_t s = (int64_t)n < g->skip ? n : (size_t)g->skip;
		g->skip -= (int64_t)s;
		p += s, n -= s;
	}
	if (g->len >= 0 && (int64_t)n > g->len - g->got) {
		n = (size_t)(g->len - g->got);
		g->done = true;
	}
	if (n && (rc = g->cb(g->arg, p, n, err))) {
		g->refused = true;
		g->done = false;
		return rc;
	}
	g->got += (int64_t)n;
	return g->done ? ms_err_set(err, MS_ECANCELED, "enough") : MS_OK;
}

static enum ms_code verify(const struct get *g, struct ms_err *err) {
	const struct ms_s3_request *q = g->q;
	if (q->x.status != 206)
		return MS_OK; /* curl has held it against Content-Length */
	int64_t want = g->last - g->first + 1, last = g->len < 0 ? INT64_MAX : g->off > INT64_MAX - g->len ? INT64_MAX : g->off + g->len - 1;
	if (!g->begun || g->got != want)
		return ms_err_set(err, MS_ERETRY, "%s: %s: %" PRId64 " bytes came instead of %" PRId64, q->r->subject, q->what, g->got, g->begun ? want : -1);
	if (g->total >= 0 && g->last != (last < g->total - 1 ? last : g->total - 1))
		return ms_err_set(err, MS_EPERMANENT, "%s: %s: the server sent a shorter range than was asked for", q->r->subject, q->what);
	return MS_OK;
}

enum ms_code ms_s3_get_object(struct ms_s3 *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	char key[MS_S3_KEY_MAX + 1], what[MS_OBJECT_NAME_MAX + 16], range[64];
	struct ms_s3_request q;
	struct ms_err e = MS_ERR_INIT;
	struct get g = {.q = &q, .off = off, .len = len, .cb = cb, .arg = arg};
	enum ms_code rc;
	if (len == 0) {
		rc = ms_s3_head(r, name, &e);
		return rc == MS_ENOTFOUND ? ms_err_set(err, rc, "%s: %s does not exist", r->subject, name) : rc ? ms_err_set(err, rc, "%s", e.msg) : MS_OK;
	}
	ms_s3_address_key(&r->at, name, key);
	snprintf(what, sizeof what, "get %s", name);
	ms_s3_request_init(&q, r, "GET", key, what, NULL, 0);
	if (len > 0 && off <= INT64_MAX - len)
		snprintf(range, sizeof range, "bytes=%" PRId64 "-%" PRId64, off, off + len - 1);
	else
		snprintf(range, sizeof range, "bytes=%" PRId64 "-", off);
	if (off || len > 0)
		ms_s3_request_header(&q, "range", range);
	ms_s3_request_customer_key(&q);
	q.x.sink = sink;
	q.x.sink_arg = &g;
	rc = ms_s3_call(&q, &e);
	if (g.refused) { /* the consumer's own error, or ours: as it is */
		rc = q.x.code;
		e = q.x.err;
	} else if (g.done) {
		rc = MS_OK;
	} else if (q.x.status == 416 && rc) {
		rc = MS_OK; /* past the end: nothing is there */
	} else if (rc == MS_ENOTFOUND && strcmp(q.fault.code, "NoSuchBucket") != 0) {
		rc = ms_err_set(&e, MS_ENOTFOUND, "%s: %s does not exist", r->subject, name);
	} else if (!rc) {
		rc = verify(&g, &e);
	}
	if (!rc && ms_http_cancelled(r->http))
		rc = ms_err_set(&e, MS_ECANCELED, "%s: get %s: cancelled", r->subject, name);
	ms_s3_request_release(&q);
	if (rc && err)
		*err = e;
	return rc;
}

/* ---- listing ---- */

static enum ms_code list_page(struct ms_s3 *r, const char *prefix, const char *start_after, const char *token, struct ms_s3_page *ret, struct ms_err *err) {
	char key[MS_S3_KEY_MAX + 1], after[MS_S3_KEY_MAX + 1], what[MS_OBJECT_NAME_MAX + 16];
	struct ms_s3_request q;
	struct ms_err e = MS_ERR_INIT;
	ms_s3_address_key(&r->at, prefix, key);
	ms_s3_address_key(&r->at, start_after, after);
	snprintf(what, sizeof what, "list %s*", prefix);
	ms_s3_request_init(&q, r, "GET", NULL, what, NULL, 0);
	q.x.answer.limit = MS_S3_PAGE_BYTES;
	ms_s3_request_param(&q, "list-type", "2");
	ms_s3_request_param(&q, "encoding-type", "url");
	ms_s3_request_param(&q, "max-keys", "1000");
	ms_s3_request_param(&q, "prefix", key);
	if (token[0])
		ms_s3_request_param(&q, "continuation-token", token);
	else if (start_after[0])
		ms_s3_request_param(&q, "start-after", after);
	enum ms_code rc = ms_s3_call(&q, err);
	if (!rc && (rc = ms_s3_page_decode(q.x.answer.data, q.x.answer.len, ret, &e)))
		/* Also an error behind a 200, which some send when they fail half-way. */
		rc = ms_err_set(err, rc == MS_ENOMEM ? rc : MS_ERETRY, "%s: %s: %s (is the endpoint an S3 service?)", r->subject, what, e.msg);
	ms_s3_request_release(&q);
	return rc;
}

enum ms_code ms_s3_list_objects(struct ms_s3 *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	size_t nprefix = strlen(r->at.prefix) + (r->at.prefix[0] != '\0');
	struct ms_s3_page *page = calloc(1, sizeof *page);
	char *token = calloc(1, sizeof page->token);
	bool more = true;
	enum ms_code rc = page && token ? MS_OK : ms_err_set(err, MS_ENOMEM, "%s: list", r->subject);
	while (!rc && more) {
		if ((rc = list_page(r, prefix, start_after, token, page, err)))
			break;
		for (unsigned i = 0; i < page->n && more; i++) {
			const char *key = ms_s3_page_key(page, i);
			if (nprefix && (strncmp(key, r->at.prefix, nprefix - 1) != 0 || key[nprefix - 1] != '/'))
				continue;
			struct ms_object o = {.name = key + nprefix, .size = page->entries[i].size, .mtime_us = page->entries[i].time_us};
			more = cb(arg, &o);
		}
		if (more && page->truncated && (!page->token[0] || strcmp(page->token, token) == 0))
			rc = ms_err_set(err, MS_EPERMANENT, "%s: list: more is promised, without a way to get it", r->subject);
		more = more && page->truncated;
		memcpy(token, page->token, sizeof page->token);
		ms_s3_page_release(page);
		memset(page, 0, sizeof *page);
		if (!rc && ms_http_cancelled(r->http))
			rc = ms_err_set(err, MS_ECANCELED, "%s: list: cancelled", r->subject);
	}
	free(token);
	free(page);
	return rc;
}
