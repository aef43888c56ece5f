/*
 * One signed request: path and query as they are signed are what is sent. What one more try can mend is mended once: a redirect to another region, a
 * clock that is off, credentials that ended, a server that wants Content-MD5.
 */
#include <curl/curl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timefmt.h"
#include "replicas/s3_internal.h"

#define URL_MAX (32u << 10)
/* S3 allows 15 minutes; an answer without a body (HEAD) does not say why it is 403. */
#define SKEW_SUSPECT_US (INT64_C(600) * 1000000)
#define RENEW_BEFORE_US (INT64_C(300) * 1000000)

enum { MENDED_REGION = 1, MENDED_CLOCK = 2, MENDED_KEYS = 4, MENDED_MD5 = 8 };

int64_t ms_s3_now_us(const struct ms_s3 *r) { return ms_env_now_us(r->env) + r->facts.skew_us; }

static void forget_keys(struct ms_s3 *r) {
	char **all[] = {&r->access_key, &r->secret_key, &r->token};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		if (*all[i])
			explicit_bzero(*all[i], strlen(*all[i]));
		free(*all[i]);
		*all[i] = NULL;
	}
}

static enum ms_code need_keys(struct ms_s3 *r, bool renew, struct ms_err *err) {
	if (!renew && r->access_key && (!r->keys_until_us || ms_s3_now_us(r) < r->keys_until_us - RENEW_BEFORE_US))
		return MS_OK;
	struct ms_aws_source s = {.env = r->env, .access_key = r->opt_access_key, .secret_key = r->opt_secret_key, .token = r->opt_token,
				  .profile = r->profile, .region = r->at.region, .ca_file = r->ca_file};
	struct ms_aws_keys k;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_aws_credentials(&s, ms_s3_now_us(r), renew, &k, &e);
	if (rc)
		return ms_err_set(err, rc, "%s: %s", r->subject, e.msg);
	forget_keys(r);
	r->access_key = strdup(k.access_key);
	r->secret_key = strdup(k.secret_key);
	r->token = strdup(k.token);
	r->keys_until_us = k.expires_us;
	ms_aws_keys_clear(&k);
	if (r->access_key && r->secret_key && r->token)
		return MS_OK;
	forget_keys(r);
	return ms_err_set(err, MS_ENOMEM, "%s: credentials", r->subject);
}

void ms_s3_request_init(struct ms_s3_request *q, struct ms_s3 *r, const char *method, const char *key, const char *what, const void *body, size_t len) {
	memset(q, 0, sizeof *q);
	q->r = r;
	q->method = method;
	q->key = key;
	q->what = what;
	ms_http_exchange_init(&q->x);
	ms_buf_init(&q->url, URL_MAX);
	ms_buf_init(&q->authorization, URL_MAX);
	q->x.body = body;
	q->x.body_len = len;
	ms_sha256_hex(q->sha256, body, body ? len : 0);
}

void ms_s3_request_release(struct ms_s3_request *q) {
	ms_http_exchange_release(&q->x);
	ms_buf_release(&q->url);
	ms_buf_release(&q->authorization);
}

void ms_s3_request_param(struct ms_s3_request *q, const char *name, const char *value) {
	if (q->nparams == sizeof q->params / sizeof q->params[0])
		abort();
	q->params[q->nparams++] = (struct ms_sigv4_pair){name, value};
}

void ms_s3_request_header(struct ms_s3_request *q, const char *name, const char *value) {
	if (q->nheaders == sizeof q->headers / sizeof q->headers[0])
		abort();
	q->headers[q->nheaders++] = (struct ms_sigv4_pair){name, value};
}

void ms_s3_request_customer_key(struct ms_s3_request *q) {
	if (!q->r->customer_key)
		return;
	ms_s3_request_header(q, "x-amz-server-side-encryption-customer-algorithm", "AES256");
	ms_s3_request_header(q, "x-amz-server-side-encryption-customer-key", q->r->customer_key);
	ms_s3_request_header(q, "x-amz-server-side-encryption-customer-key-md5", q->r->customer_key_md5);
}

static enum ms_code content_md5(struct ms_s3_request *q, struct ms_err *err) {
	unsigned char sum[16];
	if (!EVP_Digest(q->x.body_len ? q->x.body : "", q->x.body_len, sum, NULL, EVP_md5(), NULL))
		return ms_err_set(err, MS_EPERMANENT, "%s: the server wants Content-MD5, and this machine's OpenSSL refuses MD5", q->r->subject);
	EVP_EncodeBlock((unsigned char *)q->md5, sum, sizeof sum);
	return MS_OK;
}

enum ms_code ms_s3_request_start(struct ms_s3_request *q, struct ms_err *err) {
	struct ms_s3 *r = q->r;
	enum ms_code rc = need_keys(r, false, err);
	unsigned n = 0;
	if (rc)
		return rc;
	ms_sigv4_time(q->time, ms_s3_now_us(r));
	ms_s3_address_host(&r->at, q->host);
	q->sent[n++] = (struct ms_sigv4_pair){"host", q->host};
	q->sent[n++] = (struct ms_sigv4_pair){"x-amz-date", q->time};
	q->sent[n++] = (struct ms_sigv4_pair){"x-amz-content-sha256", q->sha256};
	if (r->token[0])
		q->sent[n++] = (struct ms_sigv4_pair){"x-amz-security-token", r->token};
	if (q->x.body && (r->facts.md5 || r->lock_mode)) {
		if ((rc = content_md5(q, err)))
			return rc;
		q->sent[n++] = (struct ms_sigv4_pair){"content-md5", q->md5};
	}
	for (unsigned i = 0; i < q->nheaders; i++)
		q->sent[n++] = q->headers[i];
	/* URL: scheme://host path ?query; the path is remembered by its place. */
	ms_buf_clear(&q->url);
	if ((rc = ms_buf_printf(&q->url, err, "http%s://%s", r->at.tls ? "s" : "", q->host)))
		return rc;
	struct ms_buf path, query;
	ms_buf_init(&path, URL_MAX);
	ms_buf_init(&query, URL_MAX);
	ms_buf_clear(&q->authorization);
	if (!(rc = ms_s3_address_path(&r->at, q->key, &path, err)) && !(rc = ms_buf_u8(&path, 0, err)) &&
	    !(rc = ms_sigv4_query(&query, q->params, q->nparams, err)) && !(rc = ms_buf_u8(&query, 0, err)))
		rc = ms_buf_printf(&q->url, err, "%s%s%s", (char *)path.data, q->nparams ? "?" : "", (char *)query.data);
	if (!rc)
		rc = ms_buf_u8(&q->url, 0, err);
	struct ms_sigv4_request s = {.method = q->method, .path = (char *)path.data, .query = (char *)query.data, .headers = q->sent, .nheaders = n,
				     .payload_sha256 = q->sha256, .region = r->at.region, .service = "s3", .access_key = r->access_key,
				     .secret_key = r->secret_key};
	memcpy(s.time, q->time, sizeof s.time);
	if (!rc && !(rc = ms_sigv4_authorization(&s, &q->authorization, err)))
		rc = ms_buf_u8(&q->authorization, 0, err);
	ms_buf_release(&path);
	ms_buf_release(&query);
	if (rc)
		return rc;
	q->sent[n++] = (struct ms_sigv4_pair){"authorization", (char *)q->authorization.data};
	q->x.method = q->method;
	q->x.url = (char *)q->url.data;
	q->x.headers = q->sent;
	q->x.nheaders = n;
	rc = ms_http_start(r->http, &q->x, err);
	return rc == MS_ECANCELED ? ms_err_set(err, rc, "%s: %s: cancelled", r->subject, q->what) : rc;
}

static void remember(struct ms_s3 *r) { ms_s3_facts_put(r->where, &r->facts); }

static bool mend_region(struct ms_s3_request *q) {
	struct ms_s3 *r = q->r;
	const char *named = ms_http_header(&q->x, "x-amz-bucket-region");
	if (!ms_s3_address_region(&r->at, named ? named : q->fault.region))
		return false;
	snprintf(r->facts.region, sizeof r->facts.region, "%s", r->at.region);
	remember(r);
	return true;
}

static bool mend_clock(struct ms_s3_request *q) {
	struct ms_s3 *r = q->r;
	const char *date = ms_http_header(&q->x, "date");
	int64_t server = 0;
	if (q->fault.server_time[0] && ms_time_parse(q->fault.server_time, &server, NULL))
		server = 0;
	if (!server && date) {
		time_t t = curl_getdate(date, NULL);
		server = t > 0 ? (int64_t)t * 1000000 : 0;
	}
	int64_t off = server - ms_s3_now_us(r);
	/* By less it is not the clock. */
	if (!server || (off > -SKEW_SUSPECT_US && off < SKEW_SUSPECT_US))
		return false;
	r->facts.skew_us += off;
	remember(r);
	return true;
}

static bool mend(struct ms_s3_request *q, const struct ms_s3_answer *a) {
	struct ms_s3 *r = q->r;
	struct ms_err ignored = MS_ERR_INIT;
	bool silent = a->status == 403 && !a->fault.code[0]; /* HEAD */
	if (!(q->mended & MENDED_REGION) && (ms_s3_is_region(a) || (a->status == 400 && !a->fault.code[0]))) {
		q->mended |= MENDED_REGION;
		if (mend_region(q))
			return true;
	}
	if (!(q->mended & MENDED_CLOCK) && (ms_s3_is_clock(a) || silent)) {
		q->mended |= MENDED_CLOCK;
		if (mend_clock(q))
			return true;
	}
	if (!(q->mended & MENDED_KEYS) && ms_s3_is_expired(a)) {
		q->mended |= MENDED_KEYS;
		return need_keys(r, true, &ignored) == MS_OK;
	}
	if (!(q->mended & MENDED_MD5) && !r->facts.md5 && q->x.body && ms_s3_wants_md5(a)) {
		q->mended |= MENDED_MD5;
		r->facts.md5 = true;
		remember(r);
		return true;
	}
	return false;
}

enum ms_code ms_s3_request_result(struct ms_s3_request *q, bool *ret_again, struct ms_err *err) {
	struct ms_s3 *r = q->r;
	*ret_again = false;
	q->fault = (struct ms_s3_fault){0};
	if (q->x.code == MS_ECANCELED)
		return ms_err_set(err, MS_ECANCELED, "%s: %s: cancelled", r->subject, q->what);
	if (q->x.code)
		return ms_err_set(err, q->x.code, "%s: %s: %s", r->subject, q->what, q->x.err.msg);
	if (q->x.status >= 200 && q->x.status < 300)
		return MS_OK;
	ms_s3_fault_decode(q->x.answer.data, q->x.answer.len, &q->fault);
	struct ms_s3_answer a = {.status = q->x.status, .fault = q->fault, .retry_after = ms_http_header(&q->x, "retry-after"),
				 .request_id = ms_http_header(&q->x, "x-amz-request-id")};
	if (mend(q, &a)) {
		*ret_again = true;
		return MS_OK;
	}
	enum ms_code rc = ms_s3_error(&a, r->subject, q->what, err);
	/* Whoever corrects a file or a role is not to wait for a restart. */
	if (rc == MS_EAUTH || rc == MS_EPERM)
		forget_keys(r);
	return rc;
}

enum ms_code ms_s3_call(struct ms_s3_request *q, struct ms_err *err) {
	for (;;) {
		struct ms_http_exchange *done = NULL;
		bool again;
		enum ms_code rc = ms_s3_request_start(q, err);
		if (!rc && (rc = ms_http_wait(q->r->http, -1, &done, err)))
			rc = rc == MS_ECANCELED ? ms_err_set(err, rc, "%s: %s: cancelled", q->r->subject, q->what) : rc;
		if (!rc)
			rc = ms_s3_request_result(q, &again, err);
		if (rc || !again)
			return rc;
	}
}

enum ms_code ms_s3_head(struct ms_s3 *r, const char *name, struct ms_err *err) {
	char key[MS_S3_KEY_MAX + 1], what[MS_OBJECT_NAME_MAX + 16];
	struct ms_s3_request q;
	ms_s3_address_key(&r->at, name, key);
	snprintf(what, sizeof what, "look for %s", name);
	ms_s3_request_init(&q, r, "HEAD", key, what, NULL, 0);
	ms_s3_request_customer_key(&q);
	enum ms_code rc = ms_s3_call(&q, err);
	ms_s3_request_release(&q);
	return rc;
}
