/*
 * Names and metadata of the JetStream object-store layout (docs/formats.md, "NATS object store"), as the ecosystem's clients write and read
 * them. Pure; no connection. Everything read is hostile until it has passed here.
 */
#ifndef MS_REPLICAS_NATS_META_H
#define MS_REPLICAS_NATS_META_H

#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "replicas/replica.h"

#define MS_NATS_CHUNK (128u << 10)
#define MS_NATS_NUID 22u	   /* characters of an object's id */
#define MS_NATS_BUCKET_MAX 200u	   /* bytes; letters, digits, '_' and '-' */
#define MS_NATS_FULL_NAME_MAX (2u * MS_OBJECT_NAME_MAX + 1) /* "<prefix>/<name>" */
#define MS_NATS_TOKEN_MAX ((MS_NATS_FULL_NAME_MAX + 2) / 3 * 4) /* base64url of it, padded */
#define MS_NATS_SUBJECT_MAX (MS_NATS_TOKEN_MAX + MS_NATS_BUCKET_MAX + 16)
#define MS_NATS_META_MAX (64u << 10) /* longest metadata message that is looked at */
#define MS_NATS_RUNS 64u

/* Where the chunks lie in the stream, as our own puts write it into the metadata: runs of neighbouring sequences, in order. */
struct ms_nats_run {
	uint64_t first, count;
};

struct ms_nats_meta {
	char name[MS_NATS_FULL_NAME_MAX + 1];
	char bucket[MS_NATS_BUCKET_MAX + 1];
	char nuid[MS_NATS_NUID + 1]; /* empty: none given */
	uint64_t size, chunks, chunk_size; /* chunk_size 0: not given */
	bool deleted, link;
	bool has_digest;
	uint8_t digest[32]; /* SHA-256 */
	struct ms_nats_run runs[MS_NATS_RUNS];
	unsigned nruns; /* 0: not known; then chunks need not be of equal size either */
};

bool ms_nats_bucket_valid(const char *bucket);
/* Base64 with '-' and '_', padded. ret has room for (n + 2) / 3 * 4 + 1. */
void ms_nats_b64url(const void *data, size_t n, char *ret);
/* Padded or not; both alphabets. False: not base64, or longer than cap. */
bool ms_nats_b64_decode(const char *s, size_t n, void *ret, size_t cap, size_t *ret_n);
/* "$O.<bucket>.M.<base64url>" */
void ms_nats_meta_subject(const char *bucket, const char *name, char ret[MS_NATS_SUBJECT_MAX]);
void ms_nats_chunk_subject(const char *bucket, const char *nuid, char ret[MS_NATS_SUBJECT_MAX]);
/* The object's name in a metadata subject of that bucket; false for any other subject. The name is text, not yet an object name. */
bool ms_nats_meta_subject_name(const char *bucket, const char *subject, char ret[MS_NATS_FULL_NAME_MAX + 1]);

/* Makes the JSON. size, chunks, digest and runs from m. MS_NATS_META_MAX bounds it. */
enum ms_code ms_nats_meta_encode(const struct ms_nats_meta *m, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
/* MS_ECORRUPT: no metadata, or of another shape. Unknown fields are skipped. Runs that do not add up to the chunks are left out. */
enum ms_code ms_nats_meta_decode(const void *json, size_t n, struct ms_nats_meta *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Adds the next chunk's sequence; with more runs than fit, none is kept (*nruns = MS_NATS_RUNS + 1). */
void ms_nats_runs_add(struct ms_nats_run runs[MS_NATS_RUNS], unsigned *nruns, uint64_t seq);
/* Sequence of chunk i, 0 when not known. */
uint64_t ms_nats_runs_at(const struct ms_nats_meta *m, uint64_t i);

#endif
