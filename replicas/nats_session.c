#include "replicas/nats_session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLICE_MS 50
/* A stream that is being made or has just lost its leader lets requests go unanswered: they are sent again this often within the timeout. Each is one that
 * may be repeated. */
#define ASK_AGAIN_US INT64_C(2000000)

enum ms_code ms_nats_class(int code, int err_code) {
	switch (err_code) {
	case 10002: /* account resources exceeded */
	case 10023: /* insufficient resources */
	case 10028: /* memory resources exceeded for the server */
	case 10047: /* storage resources exceeded for the server */
	case 10077: /* message could not be stored: stream or account full, disk full */
		return MS_ENOSPC;
	case 10039: /* JetStream not enabled for the account */
	case 10076: /* JetStream not enabled */
		return MS_EPERMANENT;
	case MS_NATS_STREAM_NOT_FOUND:
	case MS_NATS_NO_MESSAGE:
	case 10014: /* consumer not found */
		return MS_ENOTFOUND;
	case MS_NATS_WRONG_SEQUENCE:
		return MS_EEXISTS;
	case 10005: /* no suitable peers: a cluster that is still forming, or servers that are down */
		return MS_ERETRY;
	default:
		break;
	}
	if (code == 429)
		return MS_ETHROTTLED;
	if (code == 401 || code == 403)
		return MS_EAUTH;
	if (code == 408 || code >= 500 || code <= 0)
		return MS_ERETRY;
	return MS_EPERMANENT;
}

enum ms_code ms_nats_session_alive(const struct ms_nats_session *s, struct ms_err *err) {
	if (s->deaf || !atomic_load(&s->cancelled))
		return MS_OK;
	return ms_err_set(err, MS_ECANCELED, "nats %s, bucket %s: the call was cancelled", s->conf->servers_text, s->conf->bucket);
}

static void unsubscribe(struct ms_nats_session *s, bool wait) {
	if (s->inbox_sub)
		ms_nats_conn_unsubscribe(s->conn, s->inbox_sub, wait);
	s->inbox_sub = NULL;
	ms_nats_conn_unref(s->conn);
	s->conn = NULL;
}

void ms_nats_session_drop(struct ms_nats_session *s) {
	if (!s->conn)
		return;
	atomic_store(&s->conn->dead, true);
	unsubscribe(s, false);
}

void ms_nats_session_close(struct ms_nats_session *s) { unsubscribe(s, true); }

enum ms_code ms_nats_session_ready(struct ms_nats_session *s, struct ms_err *err) {
	enum ms_code rc = ms_nats_session_alive(s, err);
	if (rc)
		return rc;
	s->floor = s->next_id;
	if (s->conn && !atomic_load(&s->conn->dead) && !natsConnection_IsClosed(s->conn->nc))
		return MS_OK;
	/* A connection that another handle has made may have broken since it was last used: then it is replaced once. */
	for (int i = 0; i < 2; i++) {
		ms_nats_session_drop(s);
		if ((rc = ms_nats_link_connect(s->link, &s->cancelled, &s->conn, err)))
			return rc;
		if (!natsConnection_IsClosed(s->conn->nc))
			break;
	}
	static const char set[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	uint8_t random[22];
	ms_env_random(s->env, random, sizeof random);
	char subject[sizeof s->inbox + 2];
	int n = snprintf(s->inbox, sizeof s->inbox, "_INBOX.");
	for (unsigned i = 0; i < sizeof random; i++)
		s->inbox[n++] = set[random[i] % 62];
	s->inbox[n] = '\0';
	snprintf(subject, sizeof subject, "%s.*", s->inbox);
	natsStatus st = natsConnection_SubscribeSync(&s->inbox_sub, s->conn->nc, subject);
	if (st) {
		ms_nats_session_drop(s);
		return ms_err_set(err, MS_ERETRY, "nats %s: subscription: %s", s->conf->servers_text, natsStatus_GetText(st));
	}
	return MS_OK;
}

static enum ms_code broken(struct ms_nats_session *s, natsStatus st, struct ms_err *err) {
	ms_nats_session_drop(s);
	if (st == NATS_NO_MEMORY)
		return ms_err_set(err, MS_ENOMEM, "nats %s", s->conf->servers_text);
	return ms_err_set(err, MS_ERETRY, "nats %s, bucket %s: the connection is lost (%s)", s->conf->servers_text, s->conf->bucket, natsStatus_GetText(st));
}

enum ms_code ms_nats_send(struct ms_nats_session *s, const char *subject, const struct ms_nats_header *headers, const void *data, size_t n, uint64_t *ret_id,
			  struct ms_err *err) {
	char reply[sizeof s->inbox + 24];
	natsMsg *m = NULL;
	enum ms_code rc = ms_nats_session_alive(s, err);
	if (rc)
		return rc;
	if (!s->conn)
		return ms_err_set(err, MS_ERETRY, "nats %s: not connected", s->conf->servers_text);
	snprintf(reply, sizeof reply, "%s.%" PRIu64, s->inbox, s->next_id);
	natsStatus st = natsMsg_Create(&m, subject, reply, data, (int)n);
	for (; !st && headers && headers->key; headers++)
		st = natsMsgHeader_Set(m, headers->key, headers->value);
	if (!st)
		st = natsConnection_PublishMsg(s->conn->nc, m);
	natsMsg_Destroy(m);
	if (st == NATS_MAX_PAYLOAD)
		return ms_err_set(err, MS_EPERMANENT, "nats %s: a message of %zu bytes is above the server's max_payload", s->conf->servers_text, n);
	if (st)
		return broken(s, st, err);
	*ret_id = s->next_id++;
	return MS_OK;
}

static enum ms_code timed_out(struct ms_nats_session *s, struct ms_err *err) {
	const char *text = NULL;
	/* A subject that the login may not use is answered by an error of the connection, and by nothing else. */
	if (natsConnection_GetLastError(s->conn->nc, &text) == NATS_NOT_PERMITTED) {
		enum ms_code rc = ms_err_set(err, MS_EAUTH, "nats %s, bucket %s: the login lacks a permission: %.250s", s->conf->servers_text, s->conf->bucket,
					     text ? text : "");
		ms_nats_session_drop(s);
		return rc;
	}
	ms_nats_session_drop(s);
	return ms_err_set(err, MS_ETIMEDOUT, "nats %s, bucket %s: no answer", s->conf->servers_text, s->conf->bucket);
}

/* soft: a timeout leaves the connection as it is, and the error unset. */
static enum ms_code receive(struct ms_nats_session *s, int64_t timeout_us, bool soft, uint64_t *ret_id, natsMsg **ret, struct ms_err *err) {
	if (!s->conn)
		return ms_err_set(err, MS_ERETRY, "nats %s: not connected", s->conf->servers_text);
	uint64_t until = ms_env_mono_ns(s->env) + (uint64_t)timeout_us * 1000;
	size_t ninbox = strlen(s->inbox);
	for (;;) {
		natsMsg *m = NULL;
		enum ms_code rc = ms_nats_session_alive(s, err);
		if (rc)
			return rc;
		natsStatus st = natsSubscription_NextMsg(&m, s->inbox_sub, SLICE_MS);
		if (st == NATS_TIMEOUT) {
			if (ms_env_mono_ns(s->env) >= until)
				return soft ? MS_ETIMEDOUT : timed_out(s, err);
			continue;
		}
		if (st && st != NATS_NO_RESPONDERS)
			return broken(s, st, err);
		const char *subject = m ? natsMsg_GetSubject(m) : NULL;
		if (subject && s->raw && strncmp(subject, "$O.", 3) == 0) {
			*ret_id = UINT64_MAX;
			*ret = m;
			return MS_OK;
		}
		if (!subject || strncmp(subject, s->inbox, ninbox) != 0 || subject[ninbox] != '.') {
			natsMsg_Destroy(m);
			continue;
		}
		uint64_t id = strtoull(subject + ninbox + 1, NULL, 10);
		if (id < s->floor || id >= s->next_id) {
			natsMsg_Destroy(m);
			continue;
		}
		*ret_id = id;
		if (natsMsg_IsNoResponders(m)) {
			natsMsg_Destroy(m);
			return ms_err_set(err, MS_ERETRY, "nats %s, bucket %s: nobody answers for it (JetStream off, not there for this account, or without a leader)",
					  s->conf->servers_text, s->conf->bucket);
		}
		*ret = m;
		return MS_OK;
	}
}

enum ms_code ms_nats_receive(struct ms_nats_session *s, int64_t timeout_us, uint64_t *ret_id, natsMsg **ret, struct ms_err *err) {
	return receive(s, timeout_us < 0 ? s->conf->timeout_us : timeout_us, false, ret_id, ret, err);
}

enum ms_code ms_nats_request(struct ms_nats_session *s, const char *subject, const struct ms_nats_header *headers, const void *data, size_t n, natsMsg **ret,
			     struct ms_err *err) {
	int64_t left = s->conf->timeout_us;
	uint64_t first = s->next_id, id, got = 0;
	enum ms_code rc = MS_OK;
	while (!rc) {
		int64_t wait = left < ASK_AGAIN_US ? left : ASK_AGAIN_US;
		bool last = left <= wait;
		left -= wait;
		rc = ms_nats_send(s, subject, headers, data, n, &id, err);
		uint64_t until = ms_env_mono_ns(s->env) + (uint64_t)wait * 1000;
		while (!rc) {
			uint64_t now = ms_env_mono_ns(s->env);
			natsMsg *m = NULL;
			struct ms_err e = MS_ERR_INIT;
			rc = receive(s, now < until ? (int64_t)((until - now) / 1000) : 0, !last, &got, &m, &e);
			if (!rc && got >= first) { /* an answer to an earlier copy serves as well */
				*ret = m;
				return MS_OK;
			}
			natsMsg_Destroy(m);
			if (rc == MS_ERETRY && s->conn && got < first) {
				rc = MS_OK; /* about something else */
				continue;
			}
			if (rc && err && e.code)
				*err = e;
		}
		if (rc == MS_ETIMEDOUT && !last)
			rc = MS_OK;
	}
	return rc;
}

enum ms_code ms_nats_answer(const struct ms_nats_session *s, const natsMsg *m, json_t **ret, struct ms_err *err) {
	json_t *o = json_loadb(natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m), 0, NULL);
	if (!json_is_object(o)) {
		json_decref(o);
		return ms_err_set(err, MS_ERETRY, "nats %s, bucket %s: an answer that is not JSON", s->conf->servers_text, s->conf->bucket);
	}
	const json_t *e = json_object_get(o, "error");
	if (json_is_object(e)) {
		int code = (int)json_integer_value(json_object_get(e, "code")), err_code = (int)json_integer_value(json_object_get(e, "err_code"));
		const char *text = json_string_value(json_object_get(e, "description"));
		/* Servers before 2.4 give no err_code. */
		enum ms_code rc = ms_err_set(err, code == 404 ? MS_ENOTFOUND : ms_nats_class(code, err_code), "nats %s, bucket %s: %.200s (%d)", s->conf->servers_text,
					     s->conf->bucket, text ? text : "JetStream error", err_code);
		if (err)
			err->sys = rc == MS_ETHROTTLED ? 0 : err_code;
		json_decref(o);
		return rc;
	}
	*ret = o;
	return MS_OK;
}

enum ms_code ms_nats_api(struct ms_nats_session *s, const char *verb, const char *suffix, const char *body, json_t **ret, struct ms_err *err) {
	char subject[MS_NATS_SUBJECT_MAX + 64];
	natsMsg *m = NULL;
	json_t *o = NULL;
	snprintf(subject, sizeof subject, "$JS.API.%s.%s%s%s", verb, s->conf->stream, suffix ? "." : "", suffix ? suffix : "");
	enum ms_code rc = ms_nats_request(s, subject, NULL, body, strlen(body), &m, err);
	if (!rc)
		rc = ms_nats_answer(s, m, &o, err);
	natsMsg_Destroy(m);
	if (!rc && ret)
		*ret = o;
	else
		json_decref(o);
	return rc;
}
