/*
 * AWS Signature Version 4 in its header form ("Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference).
 * Pure; any thread. Text in, text out; nothing is kept.
 */
#ifndef MS_REPLICAS_SIGV4_H
#define MS_REPLICAS_SIGV4_H

#include <stdint.h>
#include "base/buf.h"

#define MS_SHA256_HEX 65 /* 64 digits and the end */
#define MS_SIGV4_HEADERS_MAX 32
#define MS_SIGV4_PARAMS_MAX 16

struct ms_sigv4_pair {
	const char *name, *value;
};

struct ms_sigv4_request {
	const char *method;
	const char *path;  /* as it is sent: encoded by ms_sigv4_encode(), begins with '/' */
	const char *query; /* by ms_sigv4_query(); "" for none */
	/* Every header that is signed, in any order: names in lower case, each once, host and x-amz-date among them. Values are trimmed. */
	const struct ms_sigv4_pair *headers;
	unsigned nheaders;
	const char *payload_sha256; /* hex, of the body */
	const char *region, *service;
	const char *access_key, *secret_key;
	char time[17]; /* ms_sigv4_time(); equals the x-amz-date header */
};

/* "20130524T000000Z" */
void ms_sigv4_time(char ret[17], int64_t us);
void ms_sha256_hex(char ret[MS_SHA256_HEX], const void *data, size_t len);
/* Appends text with every byte but A-Z a-z 0-9 - . _ ~ (and '/' with keep_slash) as %XX. */
enum ms_code ms_sigv4_encode(struct ms_buf *out, const char *text, bool keep_slash, struct ms_err *err) MS_WARN_UNUSED;
/* Appends "a=1&b=2": encoded, sorted by name and value as the algorithm wants; good for the URL too. */
enum ms_code ms_sigv4_query(struct ms_buf *out, const struct ms_sigv4_pair *params, unsigned n, struct ms_err *err) MS_WARN_UNUSED;
/* Appends the value of the Authorization header. */
enum ms_code ms_sigv4_authorization(const struct ms_sigv4_request *q, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;

#endif
