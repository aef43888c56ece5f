/*
 *   subject  $O.<bucket>.M.<base64url of the name, padded>
 *   payload  {"name","bucket","nuid","size","mtime","chunks","digest":"SHA-256=<base64url>","options":{"max_chunk_size"},
 *             "metadata":{"migstream-chunks":"<first>+<count>,..."}}
 * A deleted object of other clients is {"deleted":true} with size 0; a link has options.link.
 */
#include "replicas/nats_meta.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALNUM "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define RUNS_KEY "migstream-chunks"
#define RUNS_TEXT_MAX (MS_NATS_RUNS * 42)

bool ms_nats_bucket_valid(const char *bucket) {
	size_t n = strlen(bucket);
	return n > 0 && n <= MS_NATS_BUCKET_MAX && strspn(bucket, ALNUM "_-") == n;
}

void ms_nats_b64url(const void *data, size_t n, char *ret) {
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const uint8_t *p = data;
	for (; n >= 3; n -= 3, p += 3) {
		*ret++ = set[p[0] >> 2];
		*ret++ = set[(p[0] & 3) << 4 | p[1] >> 4];
		*ret++ = set[(p[1] & 15) << 2 | p[2] >> 6];
		*ret++ = set[p[2] & 63];
	}
	if (n) {
		uint8_t second = n == 2 ? p[1] : 0;
		*ret++ = set[p[0] >> 2];
		*ret++ = set[(p[0] & 3) << 4 | second >> 4];
		*ret++ = n == 2 ? set[(second & 15) << 2] : '=';
		*ret++ = '=';
	}
	*ret = '\0';
}

static int digit(char c) {
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' || c == '+' ? 62 : c == '_' || c == '/' ? 63 : -1;
}

bool ms_nats_b64_decode(const char *s, size_t n, void *ret, size_t cap, size_t *ret_n) {
	uint8_t *out = ret;
	uint32_t bits = 0;
	unsigned have = 0;
	size_t o = 0;
	for (unsigned pad = 0; n && s[n - 1] == '=' && pad < 2; pad++)
		n--;
	if (n % 4 == 1)
		return false;
	for (size_t i = 0; i < n; i++) {
		int d = digit(s[i]);
		if (d < 0)
			return false;
		bits = bits << 6 | (uint32_t)d;
		if ((have += 6) < 8)
			continue;
		have -= 8;
		if (o == cap)
			return false;
		out[o++] = (uint8_t)(bits >> have);
	}
	*ret_n = o;
	return (bits & ((1u << have) - 1)) == 0;
}

void ms_nats_meta_subject(const char *bucket, const char *name, char ret[MS_NATS_SUBJECT_MAX]) {
	char token[MS_NATS_TOKEN_MAX + 1];
	ms_nats_b64url(name, strnlen(name, MS_NATS_FULL_NAME_MAX), token);
	snprintf(ret, MS_NATS_SUBJECT_MAX, "$O.%.*s.M.%s", (int)MS_NATS_BUCKET_MAX, bucket, token);
}

void ms_nats_chunk_subject(const char *bucket, const char *nuid, char ret[MS_NATS_SUBJECT_MAX]) {
	snprintf(ret, MS_NATS_SUBJECT_MAX, "$O.%.*s.C.%.*s", (int)MS_NATS_BUCKET_MAX, bucket, (int)MS_NATS_NUID, nuid);
}

bool ms_nats_meta_subject_name(const char *bucket, const char *subject, char ret[MS_NATS_FULL_NAME_MAX + 1]) {
	size_t nb = strlen(bucket), n;
	if (strncmp(subject, "$O.", 3) != 0 || strncmp(subject + 3, bucket, nb) != 0 || strncmp(subject + 3 + nb, ".M.", 3) != 0)
		return false;
	const char *token = subject + nb + 6;
	if (!ms_nats_b64_decode(token, strlen(token), ret, MS_NATS_FULL_NAME_MAX, &n) || n == 0 || memchr(ret, '\0', n))
		return false;
	ret[n] = '\0';
	return true;
}

void ms_nats_runs_add(struct ms_nats_run runs[MS_NATS_RUNS], unsigned *nruns, uint64_t seq) {
	if (*nruns > MS_NATS_RUNS)
		return;
	if (*nruns && runs[*nruns - 1].first + runs[*nruns - 1].count == seq) {
		runs[*nruns - 1].count++;
		return;
	}
	if (*nruns < MS_NATS_RUNS)
		runs[*nruns] = (struct ms_nats_run){seq, 1};
	++*nruns;
}

uint64_t ms_nats_runs_at(const struct ms_nats_meta *m, uint64_t i) {
	for (unsigned k = 0; k < m->nruns; k++) {
		if (i < m->runs[k].count)
			return m->runs[k].first + i;
		i -= m->runs[k].count;
	}
	return 0;
}

enum ms_code ms_nats_meta_encode(const struct ms_nats_meta *m, struct ms_buf *out, struct ms_err *err) {
	char digest[8 + 45], runs[RUNS_TEXT_MAX] = "";
	size_t n = 0;
	memcpy(digest, "SHA-256=", 8);
	ms_nats_b64url(m->digest, sizeof m->digest, digest + 8);
	for (unsigned i = 0; m->nruns <= MS_NATS_RUNS && i < m->nruns; i++)
		n += (size_t)snprintf(runs + n, sizeof runs - n, "%s%" PRIu64 "+%" PRIu64, i ? "," : "", m->runs[i].first, m->runs[i].count);
	json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:s, s:I, s:s, s:{s:I}}", "name", m->name, "bucket", m->bucket, "nuid", m->nuid, "size", (json_int_t)m->size,
			      "mtime", "0001-01-01T00:00:00Z", "chunks", (json_int_t)m->chunks, "digest", digest, "options", "max_chunk_size",
			      (json_int_t)m->chunk_size);
	if (o && n && json_object_set_new(o, "metadata", json_pack("{s:s}", RUNS_KEY, runs)) != 0) {
		json_decref(o);
		o = NULL;
	}
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (!text)
		return ms_err_set(err, MS_ENOMEM, "metadata of %s", m->name);
	enum ms_code rc = ms_buf_append(out, text, strlen(text), err);
	free(text);
	return rc;
}

static enum ms_code bad(struct ms_err *err, const char *what) { return ms_err_set(err, MS_ECORRUPT, "object metadata: %s", what); }

static bool text_field(const json_t *o, const char *key, char *ret, size_t cap) {
	const json_t *v = json_object_get(o, key);
	ret[0] = '\0';
	if (!v || json_is_null(v))
		return true;
	size_t n = json_string_length(v);
	if (!json_is_string(v) || n >= cap || memchr(json_string_value(v), '\0', n))
		return false;
	memcpy(ret, json_string_value(v), n + 1);
	return true;
}

static bool count_field(const json_t *o, const char *key, uint64_t *ret) {
	const json_t *v = json_object_get(o, key);
	*ret = 0;
	if (!v || json_is_null(v))
		return true;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return false;
	*ret = (uint64_t)json_integer_value(v);
	return true;
}

static bool number(const char **p, char end, uint64_t *ret) {
	char *e;
	if (**p < '1' || **p > '9')
		return false;
	*ret = strtoull(*p, &e, 10);
	if (e - *p > 19 || (*e != end && !(end == ',' && *e == '\0')))
		return false;
	*p = e + (*e != '\0');
	return true;
}

static void parse_runs(const char *text, struct ms_nats_meta *m) {
	uint64_t sum = 0;
	unsigned n = 0;
	while (*text) {
		struct ms_nats_run r;
		if (n == MS_NATS_RUNS || !number(&text, '+', &r.first) || !number(&text, ',', &r.count) || r.count > m->chunks - sum ||
		    r.first > UINT64_MAX - r.count)
			return;
		sum += r.count;
		m->runs[n++] = r;
	}
	/* Equal chunks but for the last, or the numbers do not serve. */
	if (sum == m->chunks && m->chunk_size && m->chunks && m->chunks <= UINT64_MAX / m->chunk_size && m->size <= m->chunks * m->chunk_size &&
	    m->size > (m->chunks - 1) * m->chunk_size)
		m->nruns = n;
}

enum ms_code ms_nats_meta_decode(const void *json, size_t n, struct ms_nats_meta *ret, struct ms_err *err) {
	char digest[128];
	size_t got;
	enum ms_code rc = MS_ECORRUPT;
	if (n > MS_NATS_META_MAX)
		return bad(err, "too long");
	json_t *o = json_loadb(json, n, JSON_REJECT_DUPLICATES, NULL);
	struct ms_nats_meta m = {0};
	if (!json_is_object(o)) {
		rc = bad(err, "not a JSON object");
	} else if (!text_field(o, "name", m.name, sizeof m.name) || !m.name[0] || !text_field(o, "bucket", m.bucket, sizeof m.bucket)) {
		rc = bad(err, "no name");
	} else if (!text_field(o, "nuid", m.nuid, sizeof m.nuid) || strspn(m.nuid, ALNUM) != strlen(m.nuid)) {
		rc = bad(err, "no object id");
	} else if (!count_field(o, "size", &m.size) || !count_field(o, "chunks", &m.chunks) || m.size > INT64_MAX || m.chunks > m.size) {
		rc = bad(err, "size and chunks do not fit");
	} else if (!text_field(o, "digest", digest, sizeof digest)) {
		rc = bad(err, "the digest is no text");
	} else {
		const json_t *options = json_object_get(o, "options"), *metadata = json_object_get(o, "metadata");
		const char *runs = json_string_value(json_object_get(metadata, RUNS_KEY));
		m.deleted = json_is_true(json_object_get(o, "deleted"));
		m.link = json_is_object(json_object_get(options, "link"));
		if (!count_field(options, "max_chunk_size", &m.chunk_size))
			m.chunk_size = 0;
		if (strncmp(digest, "SHA-256=", 8) == 0)
			m.has_digest = ms_nats_b64_decode(digest + 8, strlen(digest + 8), m.digest, sizeof m.digest, &got) && got == sizeof m.digest;
		if (runs)
			parse_runs(runs, &m);
		rc = !m.deleted && !m.link && (!m.nuid[0] || (m.size && !m.chunks)) ? bad(err, "no object id or no chunks") : MS_OK;
	}
	json_decref(o);
	if (!rc)
		*ret = m;
	return rc;
}
