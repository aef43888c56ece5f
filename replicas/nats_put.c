/*
 * Put. Durable order: every chunk is acknowledged before the metadata is sent, so that a visible object is whole. What a put that ends
 * in an error leaves: nothing, or, when the fate of the metadata's message is not known (connection lost, no answer), perhaps the object itself; core
 * then meets it as "exists" and compares.
 */
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/nats_internal.h"

#define WINDOW 4u		/* chunks under way */
#define HEADERS_ROOM 4096	/* of max_payload, for headers */
#define TIDY_US INT64_C(1000000) /* most that a failed put waits for its chunks' acknowledgements before it purges them */
#define META_TRIES 4

struct put {
	struct ms_nats *r;
	struct ms_nats_session *s;
	struct ms_nats_meta meta;
	char full[MS_NATS_FULL_NAME_MAX + 1], subject[MS_NATS_SUBJECT_MAX], chunk_subject[MS_NATS_SUBJECT_MAX], owner[MS_NATS_TOKEN_MAX + 1];
	uint64_t under_way[WINDOW]; /* ids, oldest first */
	unsigned nunder_way;
	unsigned nruns;
};

static void make_nuid(struct ms_env *env, char ret[MS_NATS_NUID + 1]) {
	static const char set[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	/* 62 * 4 = 248: what lies above is drawn again, so that all characters are equally likely. */
	for (unsigned i = 0; i < MS_NATS_NUID;) {
		uint8_t x;
		ms_env_random(env, &x, 1);
		if (x < 248)
			ret[i++] = set[x % 62];
	}
	ret[MS_NATS_NUID] = '\0';
}

/* The sequence in a publish acknowledgement. */
static enum ms_code ack_of(const struct put *p, const natsMsg *m, uint64_t *ret_seq, struct ms_err *err) {
	json_t *o = NULL;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_nats_answer(p->s, m, &o, &e);
	if (!rc) {
		*ret_seq = (uint64_t)json_integer_value(json_object_get(o, "seq"));
		const char *stream = json_string_value(json_object_get(o, "stream"));
		if (!*ret_seq || !stream || strcmp(stream, p->r->conf.stream) != 0)
			rc = ms_err_set(&e, MS_EPERMANENT, "nats bucket %s: another stream (%.64s) takes its messages", p->r->conf.bucket, stream ? stream : "?");
	}
	json_decref(o);
	if (rc && err) {
		*err = e;
		if (rc == MS_ENOSPC)
			(void)ms_err_wrap(err, "%.200s: the bucket, the account or the server's disk is full", p->full);
	}
	return rc;
}

/* Takes one acknowledgement. Chunks of one connection are stored in the order they were sent. */
static enum ms_code take_ack(struct put *p, int64_t timeout_us, struct ms_err *err) {
	uint64_t id = 0, seq;
	natsMsg *m = NULL;
	enum ms_code rc = ms_nats_receive(p->s, timeout_us, &id, &m, err);
	if (rc)
		return rc;
	if (id != p->under_way[0])
		rc = ms_err_set(err, MS_ERETRY, "nats bucket %s: chunks of %.200s were acknowledged out of order", p->r->conf.bucket, p->full);
	else if (!(rc = ack_of(p, m, &seq, err)))
		ms_nats_runs_add(p->meta.runs, &p->nruns, seq);
	natsMsg_Destroy(m);
	memmove(p->under_way, p->under_way + 1, --p->nunder_way * sizeof p->under_way[0]);
	return rc;
}

static enum ms_code send_chunk(struct put *p, const uint8_t *data, size_t n, struct ms_err *err) {
	struct ms_nats_header h[] = {{"Nats-Expected-Stream", p->r->conf.stream}, {MS_NATS_OWNER_HEADER, p->owner}, {NULL, NULL}};
	enum ms_code rc;
	while (p->nunder_way == WINDOW)
		if ((rc = take_ack(p, -1, err)))
			return rc;
	if ((rc = ms_nats_send(p->s, p->chunk_subject, h, data, n, &p->under_way[p->nunder_way], err)))
		return rc;
	p->nunder_way++;
	p->meta.chunks++;
	p->meta.size += n;
	return MS_OK;
}

static enum ms_code send_body(struct put *p, struct ms_body *b, struct ms_err *err) {
	size_t cap = (size_t)p->meta.chunk_size, n = 0;
	uint8_t *buf = malloc(cap);
	EVP_MD_CTX *sha = EVP_MD_CTX_new();
	unsigned ndigest;
	enum ms_code rc = MS_OK;
	if (!buf || !sha || !EVP_DigestInit_ex(sha, EVP_sha256(), NULL))
		rc = ms_err_set(err, MS_ENOMEM, "nats bucket %s: %.200s", p->r->conf.bucket, p->full);
	do {
		size_t have = 0;
		while (!rc && have < cap && !(rc = b->read(b, buf + have, cap - have, &n, err)) && n)
			have += n;
		if (!rc && have && !EVP_DigestUpdate(sha, buf, have))
			rc = ms_err_set(err, MS_ENOMEM, "SHA-256");
		if (!rc)
			rc = ms_nats_session_alive(p->s, err);
		if (!rc && have)
			rc = send_chunk(p, buf, have, err);
	} while (!rc && n);
	while (!rc && p->nunder_way)
		rc = take_ack(p, -1, err);
	if (!rc && b->size >= 0 && (uint64_t)b->size != p->meta.size)
		rc = ms_err_set(err, MS_EINVAL, "%s: the body gave %" PRIu64 " bytes instead of %" PRId64, p->full, p->meta.size, b->size);
	if (!rc && !EVP_DigestFinal_ex(sha, p->meta.digest, &ndigest))
		rc = ms_err_set(err, MS_ENOMEM, "SHA-256");
	EVP_MD_CTX_free(sha);
	free(buf);
	return rc;
}

/* What has the name? MS_EEXISTS: a live object (*ret_ours: this put's own). MS_OK: nothing; a marker that another client's delete has left is taken away. */
static enum ms_code look_at_name(struct put *p, bool *ret_ours, struct ms_err *err) {
	struct ms_nats_meta there;
	struct ms_nats_found at;
	struct ms_err e = MS_ERR_INIT;
	*ret_ours = false;
	enum ms_code rc = ms_nats_meta_get(p->s, p->full, &there, &at, NULL, &e);
	if (rc == MS_ENOTFOUND)
		return MS_OK;
	if (rc == MS_ECORRUPT)
		return ms_err_set(err, MS_EEXISTS, "nats bucket %s: %s exists, and cannot be read: %.150s", p->r->conf.bucket, p->full, e.msg);
	if (rc)
		return ms_err_set(err, rc, "%s", e.msg);
	if (there.deleted)
		return ms_nats_purge(p->s, p->subject, at.seq + 1, err);
	*ret_ours = strcmp(there.nuid, p->meta.nuid) == 0;
	/* Who meets its own object there (a lost response) will rely on it: it is watched from now on. */
	if ((rc = ms_nats_tail_add(p->r->tail, p->s, &there, err)))
		return rc;
	return ms_err_set(err, MS_EEXISTS, "nats bucket %s: %s exists", p->r->conf.bucket, p->full);
}

/* *ret_unknown: whether the metadata is there cannot be said. */
static enum ms_code publish(struct put *p, const struct ms_buf *json, bool *ret_unknown, struct ms_err *err) {
	struct ms_nats_header h[] = {{"Nats-Rollup", "sub"},		   {"Nats-Expected-Last-Subject-Sequence", "0"},
				     {"Nats-Expected-Stream", p->r->conf.stream}, {"Nats-Msg-Id", p->meta.nuid}, {NULL, NULL}};
	for (int i = 0; i < META_TRIES; i++) {
		struct ms_err e = MS_ERR_INIT;
		natsMsg *m = NULL;
		uint64_t seq;
		bool ours;
		enum ms_code rc = ms_nats_session_alive(p->s, err);
		if (rc)
			return rc;
		*ret_unknown = true;
		p->s->deaf = true; /* an answer that is almost there is waited for, or nobody knows what a cancelled put has left */
		rc = ms_nats_request(p->s, p->subject, h, json->data, json->len, &m, &e);
		p->s->deaf = false;
		bool answered = !rc;
		if (answered)
			rc = ack_of(p, m, &seq, &e);
		natsMsg_Destroy(m);
		if (!rc) {
			/* The stream's sequence never falls, unless its end was lost. */
			if (seq <= p->r->top_seq)
				ms_nats_tail_doubt(p->r->tail);
			p->r->top_seq = seq;
			return ms_nats_tail_add(p->r->tail, p->s, &p->meta, err);
		}
		if (rc != MS_EEXISTS) {
			*ret_unknown = !answered || rc == MS_ERETRY;
			if (err)
				*err = e;
			return rc;
		}
		*ret_unknown = false;
		rc = look_at_name(p, &ours, err);
		if (rc)
			return rc == MS_EEXISTS && ours ? MS_OK : rc;
	}
	return ms_err_set(err, MS_ERETRY, "nats bucket %s: %s is put and removed by others all the time", p->r->conf.bucket, p->full);
}

/* Read back from the stream's leader: the metadata byte for byte, and as many chunks as it states. */
static enum ms_code verify(struct put *p, const struct ms_buf *json, struct ms_err *err) {
	struct ms_nats_meta there;
	struct ms_nats_found at = {0};
	struct ms_buf raw;
	struct ms_err e = MS_ERR_INIT;
	uint64_t n = 0;
	ms_buf_init(&raw, MS_NATS_META_MAX + 4);
	enum ms_code rc = ms_nats_meta_get(p->s, p->full, &there, &at, &raw, &e);
	bool same = !rc && raw.len == json->len && memcmp(raw.data, json->data, raw.len) == 0;
	ms_buf_release(&raw);
	if (!rc && same && p->meta.chunks)
		rc = ms_nats_chunk_count(p->s, p->meta.nuid, &n, &e);
	if (rc && rc != MS_ENOTFOUND && rc != MS_ECORRUPT)
		return ms_err_set(err, rc, "%s", e.msg);
	if (!rc && same && n == p->meta.chunks)
		return MS_OK;
	ms_nats_tail_forget(p->r->tail, p->full);
	/* An object without its bytes must not keep the name. */
	if (!rc && same && (rc = ms_nats_purge(p->s, p->subject, at.seq + 1, err)))
		return rc;
	return ms_err_set(err, MS_ERETRY, "nats bucket %s: %s was acknowledged, but reading it back finds %" PRIu64 " of %" PRIu64 " chunks%s", p->r->conf.bucket, p->full, n,
			  p->meta.chunks, same ? "" : " and no such metadata");
}

/* Chunks that were sent after the purge came would stay: so they are waited for, briefly. */
static void tidy(struct put *p) {
	struct ms_err ignored = MS_ERR_INIT;
	uint64_t until = ms_env_mono_ns(p->s->env) + (uint64_t)TIDY_US * 1000;
	if (!p->meta.chunks || !p->s->conn)
		return;
	p->s->deaf = true;
	while (p->nunder_way && p->s->conn) {
		uint64_t now = ms_env_mono_ns(p->s->env);
		if (now >= until)
			break;
		(void)!take_ack(p, (int64_t)((until - now) / 1000), &ignored);
	}
	if (p->s->conn)
		(void)!ms_nats_purge(p->s, p->chunk_subject, 0, &ignored);
	p->s->deaf = false;
}

enum ms_code ms_nats_put(struct ms_nats *r, const char *name, struct ms_body *b, struct ms_err *err) {
	struct ms_buf json;
	bool unknown = false, ours;
	ms_buf_init(&json, MS_NATS_META_MAX);
	enum ms_code rc = ms_nats_enter(r, true, err);
	if (rc)
		return rc;
	struct put *p = calloc(1, sizeof *p);
	if (!p)
		return ms_err_set(err, MS_ENOMEM, "nats bucket %s", r->conf.bucket);
	p->r = r;
	p->s = &r->session;
	ms_nats_full_name(r, name, p->full);
	memcpy(p->meta.name, p->full, sizeof p->full);
	memcpy(p->meta.bucket, r->conf.bucket, sizeof p->meta.bucket);
	make_nuid(r->env, p->meta.nuid);
	ms_nats_meta_subject(r->conf.bucket, p->full, p->subject);
	ms_nats_chunk_subject(r->conf.bucket, p->meta.nuid, p->chunk_subject);
	ms_nats_b64url(p->full, strlen(p->full), p->owner);
	int64_t most = r->session.conn->max_payload - HEADERS_ROOM;
	p->meta.chunk_size = most < MS_NATS_CHUNK ? (uint64_t)(most > 0 ? most : 0) : MS_NATS_CHUNK;
	if (p->meta.chunk_size < 1024) {
		rc = ms_err_set(err, MS_EPERMANENT, "nats %s: the server's max_payload of %" PRId64 " bytes is too small", r->conf.servers_text, r->session.conn->max_payload);
		goto out;
	}
	/* Saves sending what cannot be published; the metadata's own condition decides. */
	if ((b->size < 0 || (uint64_t)b->size > p->meta.chunk_size) && (rc = look_at_name(p, &ours, err)))
		goto out;
	uint64_t began = ms_env_mono_ns(r->env);
	rc = send_body(p, b, err);
	p->meta.nruns = p->nruns <= MS_NATS_RUNS ? p->nruns : 0;
	/* Older chunks might be swept at this very moment. */
	if (!rc && r->conf.sweep_us && ms_env_mono_ns(r->env) - began > (uint64_t)r->conf.sweep_us * 1000 / 2)
		rc = ms_err_set(err, MS_ETIMEDOUT, "nats bucket %s: %s took longer than half of sweepAge", r->conf.bucket, p->full);
	if (!rc && !(rc = ms_nats_meta_encode(&p->meta, &json, err)) && !(rc = publish(p, &json, &unknown, err))) {
		unknown = true; /* from here on the object is there, or removed below */
		rc = verify(p, &json, err);
		unknown = rc != MS_OK && rc != MS_ERETRY;
	}
	if (rc && !unknown)
		tidy(p);
out:
	if (rc && rc != MS_EEXISTS)
		r->bucket.known = false; /* perhaps it is no longer there, or has changed */
	ms_buf_release(&json);
	free(p);
	return rc;
}
