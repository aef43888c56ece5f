/*
 * A put. What fits one part (8 MiB) is one PUT with If-None-Match: * and the signed SHA-256 of its body, which the server checks; more is an upload in
 * parts (s3_multipart.c). A server that ignores If-None-Match gets a look before each put instead, which saves objects from being overwritten but elects
 * nobody: caps() says so.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timefmt.h"
#include "replicas/s3_internal.h"

#define PIECE (256u << 10)

enum ms_code ms_s3_body_fill(struct ms_s3 *r, struct ms_body *b, struct ms_buf *buf, size_t cap, bool *ret_eof, struct ms_err *err) {
	*ret_eof = false;
	while (cap) {
		size_t want = cap < PIECE ? cap : PIECE, n = 0;
		enum ms_code rc;
		if ((rc = ms_buf_reserve(buf, want, err)) || (rc = b->read(b, buf->data + buf->len, want, &n, err)))
			return rc;
		if (n == 0) {
			*ret_eof = true;
			return MS_OK;
		}
		buf->len += n;
		cap -= n;
		if (ms_http_cancelled(r->http))
			return ms_err_set(err, MS_ECANCELED, "%s: put: cancelled", r->subject);
		ms_http_pump(r->http);
	}
	return MS_OK;
}

void ms_s3_write_headers(struct ms_s3_request *q, char until[32]) {
	struct ms_s3 *r = q->r;
	if (r->storage_class)
		ms_s3_request_header(q, "x-amz-storage-class", r->storage_class);
	if (r->sse)
		ms_s3_request_header(q, "x-amz-server-side-encryption", r->sse);
	if (r->kms_key)
		ms_s3_request_header(q, "x-amz-server-side-encryption-aws-kms-key-id", r->kms_key);
	ms_s3_request_customer_key(q);
	if (r->lock_mode) {
		int64_t day = INT64_C(86400) * 1000000, end = ms_s3_now_us(r) + (int64_t)r->lock_days * day;
		ms_time_format(until, end - end % 1000000);
		ms_s3_request_header(q, "x-amz-object-lock-mode", r->lock_mode);
		ms_s3_request_header(q, "x-amz-object-lock-retain-until-date", until);
	}
}

static enum ms_code exists(struct ms_s3 *r, const char *name, struct ms_err *err) { return ms_err_set(err, MS_EEXISTS, "%s: %s exists", r->subject, name); }

static enum ms_code put_whole(struct ms_s3 *r, const char *name, const struct ms_buf *data, struct ms_err *err) {
	char key[MS_S3_KEY_MAX + 1], what[MS_OBJECT_NAME_MAX + 16], until[32];
	struct ms_s3_request q;
	ms_s3_address_key(&r->at, name, key);
	snprintf(what, sizeof what, "put %s", name);
	ms_s3_request_init(&q, r, "PUT", key, what, data->len ? (const void *)data->data : "", data->len);
	ms_s3_write_headers(&q, until);
	if (r->facts.conditional == MS_S3_HONOURED)
		ms_s3_request_header(&q, "if-none-match", "*");
	enum ms_code rc = ms_s3_call(&q, err);
	ms_s3_request_release(&q);
	return rc == MS_EEXISTS ? exists(r, name, err) : rc;
}

static enum ms_code wrong_size(const char *name, int64_t got, const struct ms_body *b, struct ms_err *err) {
	return ms_err_set(err, MS_EINVAL, "%s: the body gave %lld bytes%s instead of %lld", name, (long long)got, got > b->size ? " or more" : "",
			  (long long)b->size);
}

enum ms_code ms_s3_put_object(struct ms_s3 *r, const char *name, struct ms_body *b, struct ms_err *err) {
	struct ms_buf data;
	bool eof = false;
	enum ms_code rc;
	if ((rc = ms_s3_probe(r, err)))
		return rc;
	if (r->facts.conditional == MS_S3_IGNORED && r->said_conditional) {
		r->said_conditional = false;
		return ms_err_set(err, MS_ERETRY, "%s: it has just turned out that this server cannot create objects only if absent", r->subject);
	}
	bool known = b->size >= 0 && (uint64_t)b->size <= r->part_size;
	if (r->facts.conditional == MS_S3_IGNORED) {
		struct ms_err e = MS_ERR_INIT;
		rc = ms_s3_head(r, name, &e);
		if (rc == MS_OK)
			return exists(r, name, err);
		if (rc != MS_ENOTFOUND)
			return ms_err_set(err, rc, "%s", e.msg);
	}
	ms_buf_init(&data, (size_t)r->part_size + 1);
	if (known) {
		/* One byte more than announced would be a lie. */
		rc = ms_s3_body_fill(r, b, &data, (size_t)b->size + 1, &eof, err);
		if (!rc && (int64_t)data.len != b->size)
			rc = wrong_size(name, (int64_t)data.len, b, err);
	} else {
		rc = ms_s3_body_fill(r, b, &data, (size_t)r->part_size, &eof, err);
		if (!rc && eof && b->size >= 0)
			rc = wrong_size(name, (int64_t)data.len, b, err);
	}
	if (!rc)
		rc = known || eof ? put_whole(r, name, &data, err) : ms_s3_put_multipart(r, name, b, &data, err);
	ms_buf_release(&data);
	return rc;
}
