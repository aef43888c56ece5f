/* The stream behind a bucket: found, judged, made. And single requests about its messages. Blocking; a session's thread. */
#ifndef MS_REPLICAS_NATS_BUCKET_H
#define MS_REPLICAS_NATS_BUCKET_H

#include "base/buf.h"
#include "replicas/nats_session.h"

struct ms_nats_bucket {
	bool known;	      /* seen on this handle's current connection */
	uint64_t serial;      /* that connection */
	bool direct;	      /* any server of the stream answers reads of messages */
	unsigned replicas;
	char warning[256];    /* why objects are less safe there than one might think, or empty */
};

/* MS_ENOTFOUND when it is missing and may not be made. MS_EPERMANENT: it is there, but loses objects by itself, or is no object store. */
enum ms_code ms_nats_bucket_ready(struct ms_nats_session *s, struct ms_nats_bucket *b, bool make, struct ms_err *err) MS_WARN_UNUSED;

/* The metadata message of an object as the stream's leader has it. MS_ENOTFOUND: none. A deleted marker is MS_OK with ret->deleted. raw: its
 * payload, may be NULL. */
struct ms_nats_found {
	uint64_t seq;
	int64_t time_us;
};
enum ms_code ms_nats_meta_get(struct ms_nats_session *s, const char *full_name, struct ms_nats_meta *ret, struct ms_nats_found *at, struct ms_buf *raw,
			      struct ms_err *err) MS_WARN_UNUSED;
/* The request of that, for several at once; and what to make of its answer. */
enum ms_code ms_nats_meta_ask(struct ms_nats_session *s, const char *full_name, uint64_t *ret_id, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_nats_meta_answer(struct ms_nats_session *s, const natsMsg *m, const char *full_name, struct ms_nats_meta *ret, struct ms_nats_found *at,
				 struct ms_buf *raw, struct ms_err *err) MS_WARN_UNUSED;
/* One message as the leader has it, by a body for STREAM.MSG.GET. Its payload goes to out. */
enum ms_code ms_nats_msg_get(struct ms_nats_session *s, const char *body, struct ms_buf *out, char ret_subject[MS_NATS_SUBJECT_MAX], uint64_t *ret_seq,
			     struct ms_err *err) MS_WARN_UNUSED;
/* Messages that lie under a chunk subject. */
enum ms_code ms_nats_chunk_count(struct ms_nats_session *s, const char *nuid, uint64_t *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Removes the messages of one subject, all (before == 0) or those with a sequence below. Nothing there is MS_OK. */
enum ms_code ms_nats_purge(struct ms_nats_session *s, const char *subject, uint64_t before, struct ms_err *err) MS_WARN_UNUSED;

#endif
