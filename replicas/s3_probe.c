/*
 * Does this server create only if absent? Asked of the probe object below our prefix, once for a bucket in a process:
 *   PUT with If-None-Match: *      412: honoured. 200: it was just made, or the condition is ignored: once more, then 200 means ignored. 501: not known here.
 *   an upload of one byte to the same name, completed with If-None-Match: *      must be refused too.
 * The probe object stays, so that the next process asks once and writes nothing.
 */
#include <stdio.h>
#include <string.h>

#include "replicas/s3_internal.h"

static const char what[] = "probe create-if-absent (" MS_S3_PROBE_NAME ")";
static const char text[] = "migstream asks here whether If-None-Match is honoured. Harmless; may be deleted.\n";

/* MS_OK: made (or overwritten). MS_EEXISTS: refused. MS_EUNSUPPORTED: the server does not know the condition. */
static enum ms_code put_probe(struct ms_s3 *r, const char *key, struct ms_err *err) {
	struct ms_s3_request q;
	char until[32];
	ms_s3_request_init(&q, r, "PUT", key, what, text, sizeof text - 1);
	ms_s3_write_headers(&q, until);
	ms_s3_request_header(&q, "if-none-match", "*");
	enum ms_code rc = ms_s3_call(&q, err);
	struct ms_s3_answer a = {.status = q.x.status, .fault = q.fault};
	if (rc && rc != MS_EEXISTS && ms_s3_not_implemented(&a))
		rc = ms_err_set(err, MS_EUNSUPPORTED, "%s: If-None-Match is not implemented", r->subject);
	ms_s3_request_release(&q);
	return rc;
}

/* As put_probe, by an upload in parts. */
static enum ms_code upload_probe(struct ms_s3 *r, const char *key, struct ms_err *err) {
	char id[1100], list[400] = "";
	struct ms_err ignored = MS_ERR_INIT;
	struct ms_s3_request q;
	enum ms_code rc = ms_s3_upload_begin(r, key, what, id, sizeof id, err);
	if (rc)
		return rc;
	ms_s3_request_init(&q, r, "PUT", key, what, text, sizeof text - 1);
	ms_s3_request_param(&q, "partNumber", "1");
	ms_s3_request_param(&q, "uploadId", id);
	ms_s3_request_customer_key(&q);
	if (!(rc = ms_s3_call(&q, err))) {
		const char *etag = ms_http_header(&q.x, "etag");
		if (!etag || strlen(etag) > 128 || strpbrk(etag, "<>&"))
			rc = ms_err_set(err, MS_EPERMANENT, "%s: %s: a part was answered without a usable ETag", r->subject, what);
		else
			snprintf(list, sizeof list,
				 "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Part><PartNumber>1</PartNumber>"
				 "<ETag>%s</ETag></Part></CompleteMultipartUpload>", etag);
	}
	ms_s3_request_release(&q);
	if (!rc) {
		struct ms_s3_fault fault;
		ms_s3_request_init(&q, r, "POST", key, what, list, strlen(list));
		ms_s3_request_param(&q, "uploadId", id);
		ms_s3_request_header(&q, "if-none-match", "*");
		rc = ms_s3_call(&q, err);
		struct ms_s3_answer a = {.status = q.x.status, .fault = q.fault};
		if (!rc && !ms_s3_complete_decode(q.x.answer.data, q.x.answer.len, &fault)) {
			a = (struct ms_s3_answer){.status = 500, .fault = fault};
			rc = ms_s3_error(&a, r->subject, what, err);
		}
		if (rc && rc != MS_EEXISTS && ms_s3_not_implemented(&a))
			rc = ms_err_set(err, MS_EUNSUPPORTED, "%s: If-None-Match is not implemented for uploads", r->subject);
		ms_s3_request_release(&q);
	}
	if (rc)
		(void)!ms_s3_upload_abort(r, key, id, &ignored);
	return rc;
}

enum ms_code ms_s3_probe(struct ms_s3 *r, struct ms_err *err) {
	char key[MS_S3_KEY_MAX + 1];
	struct ms_err e = MS_ERR_INIT;
	if (r->facts.conditional == MS_S3_UNKNOWN) {
		struct ms_s3_facts now;
		ms_s3_facts_get(r->where, &now);
		r->facts.conditional = now.conditional;
	}
	r->probe_tried = true;
	if (r->facts.conditional != MS_S3_UNKNOWN)
		return MS_OK;
	ms_s3_address_key(&r->at, MS_S3_PROBE_NAME, key);
	enum ms_code rc = put_probe(r, key, &e);
	if (rc == MS_OK)
		rc = put_probe(r, key, &e);
	if (rc == MS_EEXISTS)
		rc = upload_probe(r, key, &e);
	if (rc && rc != MS_EEXISTS && rc != MS_EUNSUPPORTED) {
		if (err)
			*err = e;
		return rc;
	}
	r->facts.conditional = rc == MS_EEXISTS ? MS_S3_HONOURED : MS_S3_IGNORED;
	ms_s3_facts_put(r->where, &r->facts);
	return MS_OK;
}
