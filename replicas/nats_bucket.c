/*
 * Metadata is always asked of the stream's leader ($JS.API.STREAM.MSG.GET): a follower that lags would deny an object that has just been put.
 */
#include "replicas/nats_bucket.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timefmt.h"

#define MESSAGE_MAX (8u << 20) /* no chunk of ours is larger; foreign ones up to a server's usual limit */

static int64_t number(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

/* What a bucket must not do, or a stored commit would vanish by itself. */
static enum ms_code judge(struct ms_nats_session *s, struct ms_nats_bucket *b, const json_t *info, bool write, struct ms_err *err) {
	const json_t *c = json_object_get(info, "config");
	const struct ms_nats_conf *f = s->conf;
	const char *what = NULL, *discard = json_string_value(json_object_get(c, "discard")), *storage = json_string_value(json_object_get(c, "storage")),
		   *compression = json_string_value(json_object_get(c, "compression")), *retention = json_string_value(json_object_get(c, "retention"));
	bool old = discard && strcmp(discard, "old") == 0, memory = storage && strcmp(storage, "memory") == 0;
	if (!json_is_object(c))
		return ms_err_set(err, MS_ERETRY, "nats %s, bucket %s: an answer without the stream's configuration", f->servers_text, f->bucket);
	if (number(c, "max_age") > 0)
		what = "it forgets objects after a time (max_age)";
	else if (retention && strcmp(retention, "limits") != 0)
		what = "its retention is not `limits`";
	else if (number(c, "max_msgs_per_subject") > 0)
		what = "it keeps a number of messages for each subject only (max_msgs_per_subject), so that chunks vanish";
	else if (old && (number(c, "max_bytes") > 0 || number(c, "max_msgs") > 0))
		what = "when full it drops old objects (discard: old)";
	else if (write && json_is_true(json_object_get(c, "sealed")))
		what = "it is sealed";
	else if (write && !json_is_true(json_object_get(c, "allow_rollup_hdrs")))
		what = "it takes no rollups (allow_rollup_hdrs), which object stores need";
	else if (write && json_is_true(json_object_get(c, "deny_purge")))
		what = "it cannot be purged (deny_purge), so that nothing could be removed";
	else if (write && f->storage_stated && !f->memory && memory)
		what = "it keeps objects in memory, and the configuration says storage: file";
	if (what)
		return ms_err_set(err, MS_EPERMANENT, "nats %s: bucket %s cannot be a replica: %s", f->servers_text, f->bucket, what);
	b->direct = json_is_true(json_object_get(c, "allow_direct"));
	b->replicas = (unsigned)number(c, "num_replicas");
	b->warning[0] = '\0';
	size_t n = 0;
	if (memory)
		n += (size_t)snprintf(b->warning + n, sizeof b->warning - n, "bucket %.64s is kept in memory: a restart of its server loses it; ", f->bucket);
	if (b->replicas <= 1)
		n += (size_t)snprintf(b->warning + n, sizeof b->warning - n, "bucket %.64s lies on one server only (R1): with its disk the replica is lost; ", f->bucket);
	if (f->replicas && f->replicas != b->replicas)
		n += (size_t)snprintf(b->warning + n, sizeof b->warning - n, "the bucket has %u replicas, the configuration says %u; ", b->replicas, f->replicas);
	if (f->compression && (!compression || strcmp(compression, "s2") != 0))
		n += (size_t)snprintf(b->warning + n, sizeof b->warning - n, "the bucket is not compressed, although compression: true; ");
	if (n >= 2 && n < sizeof b->warning)
		b->warning[n - 2] = '\0';
	b->known = true;
	b->serial = s->conn->serial;
	return MS_OK;
}

/* One at a time: of several identical requests at once, a cluster of 2.9 leaves some without an answer. */
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

static enum ms_code create(struct ms_nats_session *s, json_t **ret, struct ms_err *err) {
	const struct ms_nats_conf *c = s->conf;
	char chunks[MS_NATS_BUCKET_MAX + 16], metas[MS_NATS_BUCKET_MAX + 16];
	snprintf(chunks, sizeof chunks, "$O.%s.C.>", c->bucket);
	snprintf(metas, sizeof metas, "$O.%s.M.>", c->bucket);
	json_t *o = json_pack("{s:s, s:[s,s], s:s, s:i, s:i, s:I, s:i, s:i, s:i, s:s, s:s, s:i, s:I, s:b, s:b}", "name", c->stream, "subjects", chunks, metas, "retention", "limits",
			      "max_consumers", -1, "max_msgs", -1, "max_bytes", c->max_bytes ? (json_int_t)c->max_bytes : (json_int_t)-1, "max_age", 0,
			      "max_msgs_per_subject", -1, "max_msg_size", -1, "discard", "new", "storage", c->memory ? "memory" : "file", "num_replicas",
			      c->replicas ? (int)c->replicas : 1, "duplicate_window", (json_int_t)INT64_C(120000000000), "allow_rollup_hdrs", 1, "allow_direct", 1);
	if (o && c->compression && json_object_set_new(o, "compression", json_string("s2"))) {
		json_decref(o);
		o = NULL;
	}
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (!text)
		return ms_err_set(err, MS_ENOMEM, "nats bucket %s", c->bucket);
	enum ms_code rc = ms_nats_api(s, "STREAM.CREATE", NULL, text, ret, err);
	free(text);
	if (rc || !c->compression)
		return rc;
	const char *got = json_string_value(json_object_get(json_object_get(*ret, "config"), "compression"));
	if (got && strcmp(got, "s2") == 0)
		return MS_OK;
	json_decref(*ret);
	*ret = NULL;
	/* An older server leaves out what it does not know. The bucket is empty and ours. */
	struct ms_err ignored = MS_ERR_INIT;
	(void)!ms_nats_api(s, "STREAM.DELETE", NULL, "", NULL, &ignored);
	return ms_err_set(err, MS_EUNSUPPORTED, "nats %s: the server cannot compress buckets (2.10 and later can): leave out compression", c->servers_text);
}

enum ms_code ms_nats_bucket_ready(struct ms_nats_session *s, struct ms_nats_bucket *b, bool make, struct ms_err *err) {
	json_t *info = NULL;
	struct ms_err e = MS_ERR_INIT;
	if (b->known && b->serial == s->conn->serial)
		return MS_OK;
	b->known = false;
	enum ms_code rc = ms_nats_api(s, "STREAM.INFO", NULL, "", &info, &e);
	if (rc == MS_ENOTFOUND && make) {
		e = MS_ERR_INIT;
		while (pthread_mutex_trylock(&making)) {
			if ((rc = ms_nats_session_alive(s, err)))
				return rc;
			s->env->ops->sleep_us(s->env, 20000);
		}
		if ((rc = ms_nats_api(s, "STREAM.INFO", NULL, "", &info, &e)) == MS_ENOTFOUND) {
			e = MS_ERR_INIT;
			rc = create(s, &info, &e);
		}
		pthread_mutex_unlock(&making);
		if (rc && e.sys == MS_NATS_STREAM_EXISTS) { /* made meanwhile, with other settings */
			e = MS_ERR_INIT;
			rc = ms_nats_api(s, "STREAM.INFO", NULL, "", &info, &e);
		}
	} else if (rc == MS_ENOTFOUND) {
		(void)ms_err_set(&e, rc, "nats %s: there is no bucket %s", s->conf->servers_text, s->conf->bucket);
	}
	if (!rc)
		rc = judge(s, b, info, make, &e);
	json_decref(info);
	if (rc && err)
		*err = e;
	return rc;
}

/* ---- messages ---- */

static enum ms_code message_of(const struct ms_nats_session *s, const json_t *answer, struct ms_buf *out, char ret_subject[MS_NATS_SUBJECT_MAX], uint64_t *ret_seq,
			       int64_t *ret_time_us, struct ms_err *err) {
	const json_t *m = json_object_get(answer, "message"), *data = json_object_get(m, "data");
	const char *subject = json_string_value(json_object_get(m, "subject")), *time = json_string_value(json_object_get(m, "time"));
	size_t n = json_string_length(data), got = 0;
	enum ms_code rc;
	if (!subject || strlen(subject) >= MS_NATS_SUBJECT_MAX || n > MESSAGE_MAX / 3 * 4)
		return ms_err_set(err, MS_ECORRUPT, "nats %s, bucket %s: a message without subject, or too long", s->conf->servers_text, s->conf->bucket);
	if ((rc = ms_buf_reserve(out, n / 4 * 3 + 3, err)))
		return rc;
	if (n && !ms_nats_b64_decode(json_string_value(data), n, out->data + out->len, n / 4 * 3 + 3, &got))
		return ms_err_set(err, MS_ECORRUPT, "nats %s, bucket %s: a message that is not base64", s->conf->servers_text, s->conf->bucket);
	out->len += got;
	memcpy(ret_subject, subject, strlen(subject) + 1);
	*ret_seq = (uint64_t)number(m, "seq");
	*ret_time_us = 0;
	struct ms_err ignored = MS_ERR_INIT;
	if (time && ms_time_parse(time, ret_time_us, &ignored))
		*ret_time_us = 0;
	return MS_OK;
}

enum ms_code ms_nats_msg_get(struct ms_nats_session *s, const char *body, struct ms_buf *out, char ret_subject[MS_NATS_SUBJECT_MAX], uint64_t *ret_seq,
			     struct ms_err *err) {
	json_t *o = NULL;
	int64_t ignored;
	enum ms_code rc = ms_nats_api(s, "STREAM.MSG.GET", NULL, body, &o, err);
	if (!rc)
		rc = message_of(s, o, out, ret_subject, ret_seq, &ignored, err);
	json_decref(o);
	return rc;
}

static size_t meta_request(const struct ms_nats_conf *c, const char *full_name, char api[MS_NATS_BUCKET_MAX + 64], char body[MS_NATS_SUBJECT_MAX + 32]) {
	char subject[MS_NATS_SUBJECT_MAX];
	ms_nats_meta_subject(c->bucket, full_name, subject);
	snprintf(api, MS_NATS_BUCKET_MAX + 64, "$JS.API.STREAM.MSG.GET.%s", c->stream);
	return (size_t)snprintf(body, MS_NATS_SUBJECT_MAX + 32, "{\"last_by_subj\":\"%s\"}", subject);
}

enum ms_code ms_nats_meta_ask(struct ms_nats_session *s, const char *full_name, uint64_t *ret_id, struct ms_err *err) {
	char body[MS_NATS_SUBJECT_MAX + 32], api[MS_NATS_BUCKET_MAX + 64];
	size_t n = meta_request(s->conf, full_name, api, body);
	return ms_nats_send(s, api, NULL, body, n, ret_id, err);
}

enum ms_code ms_nats_meta_answer(struct ms_nats_session *s, const natsMsg *m, const char *full_name, struct ms_nats_meta *ret, struct ms_nats_found *at,
				 struct ms_buf *raw, struct ms_err *err) {
	char subject[MS_NATS_SUBJECT_MAX];
	struct ms_buf own, *out = raw ? raw : &own;
	json_t *o = NULL;
	ms_buf_init(&own, MS_NATS_META_MAX + 4);
	enum ms_code rc = ms_nats_answer(s, m, &o, err);
	if (!rc && !(rc = message_of(s, o, out, subject, &at->seq, &at->time_us, err)) && (rc = ms_nats_meta_decode(out->data, out->len, ret, err)))
		rc = ms_err_wrap(err, "nats bucket %s: %.200s", s->conf->bucket, full_name);
	if (!rc && strcmp(ret->name, full_name) != 0)
		rc = ms_err_set(err, MS_ECORRUPT, "nats bucket %s: the metadata of %.200s states another name", s->conf->bucket, full_name);
	json_decref(o);
	ms_buf_release(&own);
	return rc;
}

enum ms_code ms_nats_meta_get(struct ms_nats_session *s, const char *full_name, struct ms_nats_meta *ret, struct ms_nats_found *at, struct ms_buf *raw,
			      struct ms_err *err) {
	char body[MS_NATS_SUBJECT_MAX + 32], api[MS_NATS_BUCKET_MAX + 64];
	natsMsg *m = NULL;
	size_t n = meta_request(s->conf, full_name, api, body);
	enum ms_code rc = ms_nats_request(s, api, NULL, body, n, &m, err);
	if (!rc)
		rc = ms_nats_meta_answer(s, m, full_name, ret, at, raw, err);
	natsMsg_Destroy(m);
	return rc;
}

enum ms_code ms_nats_chunk_count(struct ms_nats_session *s, const char *nuid, uint64_t *ret, struct ms_err *err) {
	char subject[MS_NATS_SUBJECT_MAX], body[MS_NATS_SUBJECT_MAX + 32];
	json_t *o = NULL;
	ms_nats_chunk_subject(s->conf->bucket, nuid, subject);
	snprintf(body, sizeof body, "{\"subjects_filter\":\"%s\"}", subject);
	enum ms_code rc = ms_nats_api(s, "STREAM.INFO", NULL, body, &o, err);
	if (!rc)
		*ret = (uint64_t)number(json_object_get(json_object_get(o, "state"), "subjects"), subject);
	json_decref(o);
	return rc;
}

enum ms_code ms_nats_purge(struct ms_nats_session *s, const char *subject, uint64_t before, struct ms_err *err) {
	char body[MS_NATS_SUBJECT_MAX + 64];
	if (before)
		snprintf(body, sizeof body, "{\"filter\":\"%s\",\"seq\":%" PRIu64 "}", subject, before);
	else
		snprintf(body, sizeof body, "{\"filter\":\"%s\"}", subject);
	enum ms_code rc = ms_nats_api(s, "STREAM.PURGE", NULL, body, NULL, err);
	return rc == MS_ENOTFOUND ? MS_OK : rc;
}
