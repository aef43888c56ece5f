/*
 * The S3 backend's own parts (s3.c: the driver; s3_request.c: one signed request; s3_put.c, s3_multipart.c: writing; s3_list.c: reading; s3_probe.c:
 * what this server can; s3_facts.c: what the process knows of it).
 *
 *   <prefix>/<object name>      objects
 *   <prefix>/.migstream-probe   made once, to find out whether the server honours If-None-Match: its name is no object's
 *
 * A handle holds settings and strings, a few KiB; connections and buffers exist only during a call.
 */
#ifndef MS_REPLICAS_S3_INTERNAL_H
#define MS_REPLICAS_S3_INTERNAL_H

#include "replicas/aws_credentials.h"
#include "replicas/http.h"
#include "replicas/replica.h"
#include "replicas/s3_address.h"
#include "replicas/s3_error.h"
#include "replicas/s3_xml.h"
#include "replicas/sigv4.h"

#define MS_S3_PART_MIN (5u << 20)  /* the protocol's */
#define MS_S3_PARTS_MAX 10000u	   /* the protocol's */
#define MS_S3_OBJECT_MAX (UINT64_C(5) << 40)
#define MS_S3_CONCURRENCY_MAX 16u
#define MS_S3_PROBE_NAME ".migstream-probe"

/* ---- what the process knows of a bucket at an endpoint: 64 of them, the oldest goes ---- */

enum ms_s3_conditional { MS_S3_UNKNOWN, MS_S3_HONOURED, MS_S3_IGNORED };
struct ms_s3_facts {
	enum ms_s3_conditional conditional; /* If-None-Match on PUT and on the completion of an upload */
	char region[64];		    /* found out by a redirect; "" */
	int64_t skew_us;		    /* the server's clock less ours, where it matters */
	bool md5;			    /* wants Content-MD5 */
};
void ms_s3_facts_get(const char *where, struct ms_s3_facts *ret);
void ms_s3_facts_put(const char *where, const struct ms_s3_facts *f);

/* ---- handle ---- */

struct ms_s3 {
	struct ms_replica_base base;
	struct ms_env *env;
	struct ms_http *http;
	struct ms_s3_address at;
	char subject[160]; /* "s3 replica s3://bucket/prefix", for messages */
	char where[820];   /* of facts: endpoint and bucket */
	struct ms_s3_facts facts;
	/* Options; NULL not given. */
	char *opt_access_key, *opt_secret_key, *opt_token, *profile, *ca_file;
	char *storage_class, *sse, *kms_key, *lock_mode;
	char *customer_key, *customer_key_md5; /* base64 */
	unsigned lock_days;
	uint64_t part_size;
	unsigned concurrency;
	/* Keys in use; NULL: to be looked up. */
	char *access_key, *secret_key, *token;
	int64_t keys_until_us; /* 0: no end */
	/* What caps() said last: a put that finds out otherwise says so first, so that nobody claims by a wrong promise. */
	bool said_conditional, probe_tried;
	int64_t swept_us; /* monotonic microseconds of the last sweep, 0 none */
};

int64_t ms_s3_now_us(const struct ms_s3 *r); /* by the server's clock where ours is off */

/* ---- one request ---- */

struct ms_s3_request {
	struct ms_s3 *r;
	const char *method, *key; /* key NULL: the bucket itself */
	const char *what;	  /* "put head/00000001", for messages */
	struct ms_sigv4_pair params[8], headers[20]; /* what the caller adds, see below; borrowed */
	unsigned nparams, nheaders;
	struct ms_http_exchange x; /* sink and bounds may be set before the start */
	struct ms_s3_fault fault;
	/* Private. */
	struct ms_sigv4_pair sent[28];
	struct ms_buf url, authorization;
	char sha256[MS_SHA256_HEX], md5[25], time[17], host[600];
	unsigned mended; /* MENDED_* already tried */
};
/* body NULL: none. It is hashed here. */
void ms_s3_request_init(struct ms_s3_request *q, struct ms_s3 *r, const char *method, const char *key, const char *what, const void *body, size_t len);
void ms_s3_request_release(struct ms_s3_request *q);
void ms_s3_request_param(struct ms_s3_request *q, const char *name, const char *value);
void ms_s3_request_header(struct ms_s3_request *q, const char *name, const char *value); /* name in lower case */
/* SSE-C: the key goes with every access to the object's bytes. */
void ms_s3_request_customer_key(struct ms_s3_request *q);
enum ms_code ms_s3_request_start(struct ms_s3_request *q, struct ms_err *err) MS_WARN_UNUSED;
/* After the exchange has ended. *ret_again: something was mended (region, clock, credentials, Content-MD5; each once): start it again. */
enum ms_code ms_s3_request_result(struct ms_s3_request *q, bool *ret_again, struct ms_err *err) MS_WARN_UNUSED;
/* Both, again where it helps, while nothing else is under way on the handle. */
enum ms_code ms_s3_call(struct ms_s3_request *q, struct ms_err *err) MS_WARN_UNUSED;

/* Does the object exist? MS_OK or MS_ENOTFOUND. */
enum ms_code ms_s3_head(struct ms_s3 *r, const char *name, struct ms_err *err) MS_WARN_UNUSED;

/* ---- writing ---- */

/* Between ms_http_begin() and end(). */
enum ms_code ms_s3_put_object(struct ms_s3 *r, const char *name, struct ms_body *b, struct ms_err *err) MS_WARN_UNUSED;
/* Headers that state how an object is kept; they go with the put, or with the start of an upload. until: scratch for the caller to hold. */
void ms_s3_write_headers(struct ms_s3_request *q, char until[32]);
/* first: the first part's bytes, taken over; eof: the body ends with them. */
enum ms_code ms_s3_put_multipart(struct ms_s3 *r, const char *name, struct ms_body *b, struct ms_buf *first, struct ms_err *err) MS_WARN_UNUSED;
/* Reads up to cap bytes more into buf (its limit allows them), driving what is under way. *ret_eof: the body has ended. */
enum ms_code ms_s3_body_fill(struct ms_s3 *r, struct ms_body *b, struct ms_buf *buf, size_t cap, bool *ret_eof, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_s3_upload_begin(struct ms_s3 *r, const char *key, const char *what, char *ret_id, size_t cap, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_s3_upload_abort(struct ms_s3 *r, const char *key, const char *id, struct ms_err *err) MS_WARN_UNUSED;

/* Fills facts.conditional where it is unknown: one request where the probe object exists, and four for uploads. */
enum ms_code ms_s3_probe(struct ms_s3 *r, struct ms_err *err) MS_WARN_UNUSED;
/* Aborts uploads below our prefix that began more than a day ago; at most once a day by a handle. What fails is left for the next time. */
void ms_s3_sweep(struct ms_s3 *r);

/* ---- reading ---- */

enum ms_code ms_s3_get_object(struct ms_s3 *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_s3_list_objects(struct ms_s3 *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;

#endif
