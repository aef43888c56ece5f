/*
 * What an S3 error answer means: the error class by HTTP status and code, and what to do, in words. Pure.
 */
#ifndef MS_REPLICAS_S3_ERROR_H
#define MS_REPLICAS_S3_ERROR_H

#include "replicas/s3_xml.h"

struct ms_s3_answer {
	int status;
	struct ms_s3_fault fault;
	const char *retry_after; /* header, NULL none */
	const char *request_id;	 /* header, NULL none */
};

/* what: "put head/00000001", subject: "s3://bucket/prefix". bucket: for advice. Sets err and returns its code, never MS_OK. */
enum ms_code ms_s3_error(const struct ms_s3_answer *a, const char *subject, const char *what, struct ms_err *err);

/* What the driver mends by itself, once, before it fails. */
bool ms_s3_is_region(const struct ms_s3_answer *a);	 /* another region is named or needed */
bool ms_s3_is_clock(const struct ms_s3_answer *a);	 /* our clock is off by more than the server allows */
bool ms_s3_is_expired(const struct ms_s3_answer *a);	 /* temporary credentials have ended */
bool ms_s3_wants_md5(const struct ms_s3_answer *a);	 /* asks for Content-MD5 (object lock, old dialects) */
bool ms_s3_not_implemented(const struct ms_s3_answer *a); /* a header or call this server does not know */

#endif
