/*
 * One handle's conversation with the servers: requests that carry a number in their reply subject, so that several can be under way
 * and answers may come in any order. One thread at a time; cancelled may be set by any.
 * Every wait ends: with the answer, at the request's timeout (the connection is then given up), when the connection breaks, or within
 * 50 ms of a cancel.
 */
#ifndef MS_REPLICAS_NATS_SESSION_H
#define MS_REPLICAS_NATS_SESSION_H

#include <jansson.h>

#include "replicas/nats_link.h"

struct ms_nats_session {
	struct ms_env *env;
	const struct ms_nats_conf *conf; /* borrowed */
	struct ms_nats_link *link;	 /* borrowed */
	atomic_bool cancelled;
	bool deaf; /* cancelled is not looked at: while something is tidied up */
	bool raw;  /* messages that a consumer delivers bear their own subject: they are received too, with *ret_id UINT64_MAX */

	struct ms_nats_conn *conn; /* a reference; NULL: to be connected */
	natsSubscription *inbox_sub;
	char inbox[64];
	uint64_t next_id, floor; /* answers to numbers below floor are of calls that have ended */
};

struct ms_nats_header {
	const char *key, *value;
};

void ms_nats_session_close(struct ms_nats_session *s);
/* Connected, and no answer of an earlier call is taken for one of this. Begins every call. */
enum ms_code ms_nats_session_ready(struct ms_nats_session *s, struct ms_err *err) MS_WARN_UNUSED;
/* Gives the connection up: the next call makes another. */
void ms_nats_session_drop(struct ms_nats_session *s);
/* MS_OK as long as the call was not cancelled. */
enum ms_code ms_nats_session_alive(const struct ms_nats_session *s, struct ms_err *err) MS_WARN_UNUSED;

/* headers end with key NULL; NULL: none. *ret_id comes back with the answer. */
enum ms_code ms_nats_send(struct ms_nats_session *s, const char *subject, const struct ms_nats_header *headers, const void *data, size_t n, uint64_t *ret_id,
			  struct ms_err *err) MS_WARN_UNUSED;
/* The next answer to anything of this call; the caller destroys it. timeout_us < 0: as configured. MS_ETIMEDOUT drops the connection. No responders:
 * MS_ERETRY, with *ret_id set. */
enum ms_code ms_nats_receive(struct ms_nats_session *s, int64_t timeout_us, uint64_t *ret_id, natsMsg **ret, struct ms_err *err) MS_WARN_UNUSED;
/* One send, one receive, and the same again while no answer comes: only what may be repeated. */
enum ms_code ms_nats_request(struct ms_nats_session *s, const char *subject, const struct ms_nats_header *headers, const void *data, size_t n, natsMsg **ret,
			     struct ms_err *err) MS_WARN_UNUSED;

/* The JSON of an answer; an {"error":...} in it becomes this error, err->sys its err_code. json_decref() the result. */
enum ms_code ms_nats_answer(const struct ms_nats_session *s, const natsMsg *m, json_t **ret, struct ms_err *err) MS_WARN_UNUSED;
/* A request to $JS.API.<verb>.<our stream>[.<suffix>]; body: compact JSON or "". ret may be NULL. */
enum ms_code ms_nats_api(struct ms_nats_session *s, const char *verb, const char *suffix, const char *body, json_t **ret, struct ms_err *err) MS_WARN_UNUSED;

/* err_code of JetStream that callers look at. */
#define MS_NATS_STREAM_NOT_FOUND 10059
#define MS_NATS_NO_MESSAGE 10037
#define MS_NATS_STREAM_EXISTS 10058
#define MS_NATS_WRONG_SEQUENCE 10071

/* Class of a JetStream error: its HTTP-like code and its err_code. */
enum ms_code ms_nats_class(int code, int err_code);

#endif
