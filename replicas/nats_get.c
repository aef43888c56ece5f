/*
 * Get. The metadata of our own puts states the chunks' sequences, so any range is a matter of its chunks: WINDOW reads under way, from any
 * server that holds the stream, and from its leader where that one does not have it yet. Without sequences (another client's object, a bucket restored
 * under new numbers) the chunks are walked from the first.
 */
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/nats_internal.h"

#define WINDOW 4u
#define PAYLOAD_MAX (8u << 20)

struct get {
	struct ms_nats *r;
	struct ms_nats_session *s;
	struct ms_nats_meta meta;
	char full[MS_NATS_FULL_NAME_MAX + 1], subject[MS_NATS_SUBJECT_MAX];
	uint64_t from, to; /* bytes wanted */
	ms_get_cb cb;
	void *arg;
	EVP_MD_CTX *sha; /* whole reads only */
	bool direct;	 /* any server may answer; false once one lacked a chunk */
	struct {
		uint64_t id, index;
		natsMsg *m;
		bool failed;
	} slots[WINDOW];
};

/* data lies at off of the object. */
static enum ms_code deliver(struct get *g, uint64_t off, const uint8_t *data, size_t n, struct ms_err *err) {
	enum ms_code rc = ms_nats_session_alive(g->s, err);
	if (rc)
		return rc;
	if (g->sha && !EVP_DigestUpdate(g->sha, data, n))
		return ms_err_set(err, MS_ENOMEM, "SHA-256");
	uint64_t a = off > g->from ? off : g->from, z = off + n < g->to ? off + n : g->to;
	return a < z ? g->cb(g->arg, data + (a - off), (size_t)(z - a), err) : MS_OK;
}

static enum ms_code missing(struct get *g, uint64_t index, struct ms_err *err) {
	struct ms_nats_meta m;
	struct ms_nats_found at;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_nats_meta_get(g->s, g->full, &m, &at, NULL, &e);
	if (rc == MS_ENOTFOUND || (!rc && strcmp(m.nuid, g->meta.nuid) != 0))
		return ms_err_set(err, MS_ENOTFOUND, "nats bucket %s: %s was removed while it was read", g->r->conf.bucket, g->full);
	if (rc)
		return ms_err_set(err, rc, "%s", e.msg);
	return ms_err_set(err, MS_ECORRUPT, "nats bucket %s: %s lacks chunk %" PRIu64 " of %" PRIu64, g->r->conf.bucket, g->full, index + 1, g->meta.chunks);
}

/* ---- by sequence ---- */

static size_t chunk_len(const struct ms_nats_meta *m, uint64_t i) {
	return (size_t)(i + 1 < m->chunks ? m->chunk_size : m->size - (m->chunks - 1) * m->chunk_size);
}

static enum ms_code ask(struct get *g, unsigned slot, uint64_t index, struct ms_err *err) {
	char subject[MS_NATS_BUCKET_MAX + 64], body[64];
	snprintf(subject, sizeof subject, "$JS.API.DIRECT.GET.%s", g->r->conf.stream);
	int n = snprintf(body, sizeof body, "{\"seq\":%" PRIu64 "}", ms_nats_runs_at(&g->meta, index));
	g->slots[slot].index = index;
	g->slots[slot].m = NULL;
	g->slots[slot].failed = false;
	return ms_nats_send(g->s, subject, NULL, body, (size_t)n, &g->slots[slot].id, err);
}

/* Chunk i from the leader. *ret_there false: another message, or none, has that sequence. */
static enum ms_code from_leader(struct get *g, uint64_t i, bool *ret_there, struct ms_err *err) {
	char body[64], subject[MS_NATS_SUBJECT_MAX];
	struct ms_buf b;
	struct ms_err e = MS_ERR_INIT;
	uint64_t seq;
	ms_buf_init(&b, PAYLOAD_MAX + 4);
	snprintf(body, sizeof body, "{\"seq\":%" PRIu64 "}", ms_nats_runs_at(&g->meta, i));
	enum ms_code rc = ms_nats_msg_get(g->s, body, &b, subject, &seq, &e);
	*ret_there = !rc && strcmp(subject, g->subject) == 0 && b.len == chunk_len(&g->meta, i);
	if (rc == MS_ENOTFOUND)
		rc = MS_OK;
	else if (rc)
		rc = ms_err_set(err, rc, "%s", e.msg);
	if (*ret_there)
		rc = deliver(g, i * g->meta.chunk_size, b.data, b.len, err);
	ms_buf_release(&b);
	return rc;
}

static bool is_chunk(struct get *g, natsMsg *m, uint64_t i) {
	const char *status = NULL, *subject = NULL;
	return m && natsMsgHeader_Get(m, "Status", &status) != NATS_OK && natsMsgHeader_Get(m, "Nats-Subject", &subject) == NATS_OK &&
	       strcmp(subject, g->subject) == 0 && (size_t)natsMsg_GetDataLength(m) == chunk_len(&g->meta, i);
}

/* *ret_stale: the sequences do not serve; *ret_next is the first chunk that was not delivered. */
static enum ms_code by_sequence(struct get *g, bool *ret_stale, uint64_t *ret_next, struct ms_err *err) {
	uint64_t next = g->from / g->meta.chunk_size, end = (g->to - 1) / g->meta.chunk_size + 1, asked = next;
	enum ms_code rc = MS_OK;
	while (!rc && next < end && !*ret_stale) {
		while (!rc && g->direct && asked < end && asked - next < WINDOW) {
			rc = ask(g, asked % WINDOW, asked, err);
			asked += !rc;
		}
		unsigned slot = next % WINDOW;
		while (!rc && g->direct && !g->slots[slot].m && !g->slots[slot].failed) {
			uint64_t id = 0;
			natsMsg *m = NULL;
			struct ms_err e = MS_ERR_INIT;
			rc = ms_nats_receive(g->s, -1, &id, &m, &e);
			bool nobody = rc == MS_ERETRY && g->s->conn; /* no follower answers: the leader is asked below */
			if (rc && !nobody) {
				if (err)
					*err = e;
				break;
			}
			rc = MS_OK;
			for (unsigned k = 0; k < WINDOW; k++)
				if (g->slots[k].id == id && !g->slots[k].m && !g->slots[k].failed && g->slots[k].index >= next && g->slots[k].index < asked) {
					g->slots[k].m = m;
					g->slots[k].failed = nobody;
					m = NULL;
				}
			natsMsg_Destroy(m);
		}
		if (rc)
			break;
		bool there = true;
		if (g->direct && is_chunk(g, g->slots[slot].m, next))
			rc = deliver(g, next * g->meta.chunk_size, (const uint8_t *)natsMsg_GetData(g->slots[slot].m), (size_t)natsMsg_GetDataLength(g->slots[slot].m), err);
		else {
			g->direct = false; /* what is still under way is thrown away */
			rc = from_leader(g, next, &there, err);
		}
		natsMsg_Destroy(g->slots[slot].m);
		g->slots[slot].m = NULL;
		*ret_stale = !rc && !there;
		next += !rc && there;
	}
	for (unsigned k = 0; k < WINDOW; k++) {
		natsMsg_Destroy(g->slots[k].m);
		g->slots[k].m = NULL;
	}
	*ret_next = next;
	return rc;
}

/* ---- by walking ---- */

/* done: bytes from the object's beginning that were delivered already (and hashed). */
static enum ms_code walk(struct get *g, uint64_t done, struct ms_err *err) {
	uint64_t off = 0, seq = 1;
	struct ms_buf b;
	enum ms_code rc = MS_OK;
	ms_buf_init(&b, PAYLOAD_MAX + 4);
	for (uint64_t i = 0; !rc && i < g->meta.chunks && off < g->to; i++) {
		char body[MS_NATS_SUBJECT_MAX + 64], subject[MS_NATS_SUBJECT_MAX];
		struct ms_err e = MS_ERR_INIT;
		ms_buf_clear(&b);
		snprintf(body, sizeof body, "{\"seq\":%" PRIu64 ",\"next_by_subj\":\"%s\"}", seq, g->subject);
		rc = ms_nats_msg_get(g->s, body, &b, subject, &seq, &e);
		if (rc == MS_ENOTFOUND)
			return ms_buf_release(&b), missing(g, i, err);
		if (rc)
			rc = ms_err_set(err, rc, "%s", e.msg);
		else if (strcmp(subject, g->subject) != 0 || b.len > g->meta.size - off)
			rc = ms_err_set(err, MS_ECORRUPT, "nats bucket %s: the chunks of %s do not fit its metadata", g->r->conf.bucket, g->full);
		else if (off + b.len > done)
			rc = deliver(g, off, b.data, b.len, err);
		off += b.len;
		seq++;
	}
	ms_buf_release(&b);
	if (!rc && off < g->to)
		rc = ms_err_set(err, MS_ECORRUPT, "nats bucket %s: the chunks of %s hold %" PRIu64 " bytes, its metadata says %" PRIu64, g->r->conf.bucket, g->full, off,
				g->meta.size);
	return rc;
}

enum ms_code ms_nats_get(struct ms_nats *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	struct ms_nats_found at;
	struct ms_err e = MS_ERR_INIT;
	uint8_t digest[32];
	unsigned ndigest;
	enum ms_code rc = ms_nats_enter(r, false, err);
	if (rc)
		return rc;
	struct get *g = calloc(1, sizeof *g);
	if (!g)
		return ms_err_set(err, MS_ENOMEM, "nats bucket %s", r->conf.bucket);
	g->r = r;
	g->s = &r->session;
	g->direct = r->bucket.direct;
	g->cb = cb;
	g->arg = arg;
	ms_nats_full_name(r, name, g->full);
	rc = ms_nats_meta_get(g->s, g->full, &g->meta, &at, NULL, &e);
	if (rc == MS_ENOTFOUND || (!rc && g->meta.deleted))
		rc = ms_err_set(err, MS_ENOTFOUND, "nats bucket %s: %s does not exist", r->conf.bucket, g->full);
	else if (!rc && g->meta.link)
		rc = ms_err_set(err, MS_EUNSUPPORTED, "nats bucket %s: %s is a link", r->conf.bucket, g->full);
	else if (rc)
		rc = ms_err_set(err, rc, "%s", e.msg);
	if (rc)
		goto out;
	g->from = (uint64_t)off < g->meta.size ? (uint64_t)off : g->meta.size;
	g->to = len < 0 || (uint64_t)len > g->meta.size - g->from ? g->meta.size : g->from + (uint64_t)len;
	ms_nats_chunk_subject(r->conf.bucket, g->meta.nuid, g->subject);
	bool whole = g->from == 0 && g->to == g->meta.size && g->meta.has_digest;
	if (whole && (!(g->sha = EVP_MD_CTX_new()) || !EVP_DigestInit_ex(g->sha, EVP_sha256(), NULL))) {
		rc = ms_err_set(err, MS_ENOMEM, "SHA-256");
		goto out;
	}
	if (g->from < g->to) {
		bool stale = g->meta.nruns == 0;
		uint64_t next = 0, first = g->meta.nruns ? g->from / g->meta.chunk_size : 0;
		if (!stale)
			rc = by_sequence(g, &stale, &next, err);
		if (!rc && stale) {
			/* Only what was delivered is behind us, not what lies before the range. */
			uint64_t done = g->meta.nruns ? next * g->meta.chunk_size : 0;
			if (next > first && done > g->from)
				g->from = done;
			rc = walk(g, next > first ? done : 0, err);
		}
	}
	if (!rc && whole && (!EVP_DigestFinal_ex(g->sha, digest, &ndigest) || memcmp(digest, g->meta.digest, sizeof digest) != 0))
		rc = ms_err_set(err, MS_ECORRUPT, "nats bucket %s: the bytes of %s do not have the SHA-256 of its metadata", r->conf.bucket, g->full);
out:
	EVP_MD_CTX_free(g->sha);
	free(g);
	return rc;
}
