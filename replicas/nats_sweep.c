/*
 * Chunks of puts that died (killed, connection lost at the end) have no metadata that names them. Ours bear the name they were meant for in a
 * header, so each is judged by one look at that name; chunks of other clients have no such header and are left alone.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timefmt.h"
#include "replicas/nats_internal.h"

#define SWEEP_MESSAGES 4096u
#define BATCH 256u
#define SWEEP_EVERY_NS (UINT64_C(3600) * 1000000000)

struct sweep {
	struct ms_nats *r;
	int64_t before_us; /* wall time */
	char last[MS_NATS_NUID + 1]; /* already judged: chunks of one object mostly lie together */
	bool young;
	unsigned seen;
	uint64_t seq;
};

/* "$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>", with two more tokens after ACK from some servers */
static bool ack_fields(const char *reply, uint64_t *ret_seq, int64_t *ret_us, uint64_t *ret_pending) {
	const char *token[16];
	unsigned n = 0;
	for (const char *p = reply; p && n < 16; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL)
		token[n++] = p;
	if (n < 9 || strncmp(reply, "$JS.ACK.", 8) != 0)
		return false;
	unsigned base = n >= 11 ? 4 : 2;
	*ret_seq = strtoull(token[base + 3], NULL, 10);
	*ret_us = (int64_t)(strtoull(token[base + 5], NULL, 10) / 1000);
	*ret_pending = strtoull(token[base + 6], NULL, 10);
	return true;
}

static enum ms_code newest_is_old(struct sweep *w, const char *subject, bool *ret, struct ms_err *err) {
	char body[MS_NATS_SUBJECT_MAX + 32];
	json_t *o = NULL;
	snprintf(body, sizeof body, "{\"last_by_subj\":\"%s\"}", subject);
	enum ms_code rc = ms_nats_api(&w->r->session, "STREAM.MSG.GET", NULL, body, &o, err);
	const char *time = json_string_value(json_object_get(json_object_get(o, "message"), "time"));
	int64_t us;
	*ret = !rc && time && ms_time_parse(time, &us, err) == MS_OK && us < w->before_us;
	json_decref(o);
	return rc;
}

static enum ms_code judge(struct sweep *w, natsMsg *m, struct ms_err *err) {
	struct ms_nats *r = w->r;
	const char *subject = natsMsg_GetSubject(m), *owner = NULL;
	char prefix[MS_NATS_BUCKET_MAX + 8], chunks[MS_NATS_SUBJECT_MAX], full[MS_NATS_FULL_NAME_MAX + 1];
	struct ms_nats_meta meta;
	struct ms_nats_found at;
	size_t n;
	bool old;
	snprintf(prefix, sizeof prefix, "$O.%s.C.", r->conf.bucket);
	const char *nuid = subject + strlen(prefix);
	if (strncmp(subject, prefix, strlen(prefix)) != 0 || strlen(nuid) != MS_NATS_NUID || strcmp(nuid, w->last) == 0)
		return MS_OK;
	memcpy(w->last, nuid, sizeof w->last);
	if (natsMsgHeader_Get(m, MS_NATS_OWNER_HEADER, &owner) != NATS_OK || !ms_nats_b64_decode(owner, strlen(owner), full, MS_NATS_FULL_NAME_MAX, &n))
		return MS_OK;
	full[n] = '\0';
	enum ms_code rc = ms_nats_meta_get(&r->session, full, &meta, &at, NULL, err);
	if (rc && rc != MS_ENOTFOUND)
		return rc == MS_ECORRUPT ? MS_OK : rc;
	if (!rc && strcmp(meta.nuid, w->last) == 0 && !meta.deleted)
		return MS_OK;
	ms_nats_chunk_subject(r->conf.bucket, w->last, chunks);
	rc = newest_is_old(w, chunks, &old, err);
	if (rc || !old)
		return rc == MS_ENOTFOUND ? MS_OK : rc;
	return ms_nats_purge(&r->session, chunks, 0, err);
}

/* One batch. *ret_more: there is more behind it. */
static enum ms_code batch(struct sweep *w, const char *consumer, bool *ret_more, struct ms_err *err) {
	char subject[MS_NATS_SUBJECT_MAX], body[64];
	natsMsg *got[BATCH];
	unsigned n = 0;
	uint64_t id, from = 0, pending = 0;
	snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.%s.%.200s", w->r->conf.stream, consumer);
	int nbody = snprintf(body, sizeof body, "{\"batch\":%u,\"no_wait\":true}", BATCH);
	enum ms_code rc = ms_nats_send(&w->r->session, subject, NULL, body, (size_t)nbody, &id, err);
	*ret_more = false;
	w->r->session.raw = true;
	while (!rc && n < BATCH && !w->young) {
		natsMsg *m = NULL;
		const char *status = NULL;
		int64_t us;
		rc = ms_nats_receive(&w->r->session, -1, &from, &m, err);
		if (rc)
			break;
		/* Only our own request is under way: its own answer is a status, which ends the batch. */
		if (from != UINT64_MAX || natsMsgHeader_Get(m, "Status", &status) == NATS_OK || !natsMsg_GetReply(m) ||
		    !ack_fields(natsMsg_GetReply(m), &w->seq, &us, &pending)) {
			natsMsg_Destroy(m);
			break;
		}
		w->young = us >= w->before_us;
		w->seen++;
		got[n++] = m;
		*ret_more = pending > 0;
		if (!pending)
			break;
	}
	w->r->session.raw = false;
	/* Judged only now: the answers to those questions would come between the messages. */
	for (unsigned i = 0; i < n; i++) {
		if (!rc && !(w->young && i == n - 1))
			rc = judge(w, got[i], err);
		natsMsg_Destroy(got[i]);
	}
	return rc;
}

void ms_nats_sweep(struct ms_nats *r) {
	struct ms_nats_session *s = &r->session;
	uint64_t now = ms_env_mono_ns(r->env);
	struct sweep w = {.r = r, .before_us = ms_env_now_us(r->env) - r->conf.sweep_us, .seq = r->sweep_seq};
	struct ms_err err = MS_ERR_INIT;
	char body[MS_NATS_SUBJECT_MAX + 512], consumer[128];
	json_t *o = NULL;
	bool more = true;
	if (!r->conf.sweep_us || now < r->sweep_at_ns)
		return;
	r->sweep_at_ns = now + SWEEP_EVERY_NS;
	snprintf(body, sizeof body,
		 "{\"stream_name\":\"%s\",\"config\":{\"deliver_policy\":\"by_start_sequence\",\"opt_start_seq\":%" PRIu64
		 ",\"ack_policy\":\"none\",\"filter_subject\":\"$O.%s.C.>\",\"replay_policy\":\"instant\",\"headers_only\":true,\"inactive_threshold\":30000000000,"
		 "\"num_replicas\":1,\"mem_storage\":true}}",
		 r->conf.stream, r->sweep_seq + 1, r->conf.bucket);
	enum ms_code rc = ms_nats_api(s, "CONSUMER.CREATE", NULL, body, &o, &err);
	if (rc)
		return;
	const char *name = json_string_value(json_object_get(o, "name"));
	snprintf(consumer, sizeof consumer, "%s", name ? name : "");
	json_decref(o);
	while (!rc && more && !w.young && w.seen < SWEEP_MESSAGES)
		rc = batch(&w, consumer, &more, &err);
	/* At the end, and where everything else is young, it begins anew next time. */
	r->sweep_seq = !rc && (w.young || !more) ? 0 : w.seq;
	if (s->conn)
		(void)!ms_nats_api(s, "CONSUMER.DELETE", consumer, "", NULL, &err);
}
