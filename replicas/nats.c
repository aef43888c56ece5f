/*
 * The `nats` backend: a JetStream object store (docs/formats.md), spoken over nats.c's messages, since that library has no object-store API.
 *
 *   put     chunks of 128 KiB under a fresh id, four under way; then the metadata with "expected last sequence of this subject: 0", which
 *           is the create-if-absent; then both are read back. A loser's or a failed put's chunks are purged at once, those of a dead one by a sweep.
 *   get     metadata from the stream's leader, chunks by their sequences, as the metadata states them; whole reads are checked against the SHA-256
 *   list    names from the leader's list of subjects, sorted here, then the metadata of those that match
 *   remove  metadata first, then chunks
 *
 * An acknowledgement comes before the server's fsync (sync_interval): caps.settle_us says so, and nats_tail.c finds what a crash has lost.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/builtin.h"
#include "replicas/nats_internal.h"

/* The server's timer starts anew when a sync has ended. */
#define SETTLE_MARGIN_US INT64_C(10000000)

void ms_nats_full_name(const struct ms_nats *r, const char *name, char ret[MS_NATS_FULL_NAME_MAX + 1]) {
	snprintf(ret, MS_NATS_FULL_NAME_MAX + 1, "%s%s", r->conf.prefix, name);
}

enum ms_code ms_nats_enter(struct ms_nats *r, bool make, struct ms_err *err) {
	enum ms_code rc;
	if ((rc = ms_nats_session_ready(&r->session, err)) || (rc = ms_nats_tail_check(r->tail, &r->session, err)))
		return rc;
	return ms_nats_bucket_ready(&r->session, &r->bucket, make, err);
}

static enum ms_code nats_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) {
	struct ms_nats *r = calloc(1, sizeof *r);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "nats replica");
	enum ms_code rc = ms_nats_conf_init(&r->conf, env, spec, err);
	if (rc) {
		free(r);
		return rc;
	}
	r->base.driver = &ms_replica_nats_driver;
	r->env = env;
	r->session.env = env;
	r->session.conf = &r->conf;
	if (!(r->link = ms_nats_link_get(env, spec, &r->conf, err)))
		goto fail;
	if (!(r->tail = ms_nats_tail_get(r->link, &r->conf))) {
		(void)ms_err_set(err, MS_ENOMEM, "nats replica");
		goto fail;
	}
	r->session.link = r->link;
	*ret = (struct ms_replica *)r;
	return MS_OK;
fail:
	rc = err && err->code ? err->code : MS_ENOMEM;
	ms_nats_link_unref(r->link);
	ms_nats_conf_release(&r->conf);
	free(r);
	return rc;
}

static enum ms_code op_put(struct ms_replica *r, const char *name, struct ms_body *b, struct ms_err *err) { return ms_nats_put((struct ms_nats *)r, name, b, err); }

static enum ms_code op_get(struct ms_replica *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	return ms_nats_get((struct ms_nats *)r, name, off, len, cb, arg, err);
}

static enum ms_code op_list(struct ms_replica *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	return ms_nats_list((struct ms_nats *)r, prefix, start_after, cb, arg, err);
}

enum ms_code ms_nats_remove(struct ms_nats *r, const char *name, struct ms_err *err) {
	struct ms_nats_session *s = &r->session;
	struct ms_nats_meta m;
	struct ms_nats_found at;
	struct ms_err e = MS_ERR_INIT;
	char full[MS_NATS_FULL_NAME_MAX + 1], subject[MS_NATS_SUBJECT_MAX];
	enum ms_code rc = ms_nats_enter(r, false, &e);
	if (rc == MS_ENOTFOUND)
		return MS_OK;
	ms_nats_full_name(r, name, full);
	if (!rc)
		rc = ms_nats_meta_get(s, full, &m, &at, NULL, &e);
	if (rc == MS_ENOTFOUND)
		return MS_OK;
	if (!rc) {
		ms_nats_tail_forget(r->tail, full);
		ms_nats_meta_subject(r->conf.bucket, full, subject);
		/* Only up to this one: an object that takes the name meanwhile stays. */
		rc = ms_nats_purge(s, subject, at.seq + 1, &e);
	}
	if (!rc && m.nuid[0]) {
		ms_nats_chunk_subject(r->conf.bucket, m.nuid, subject);
		rc = ms_nats_purge(s, subject, 0, &e);
	}
	if (rc)
		return ms_err_set(err, rc, "%s", e.msg);
	ms_nats_sweep(r);
	return MS_OK;
}

static enum ms_code op_remove(struct ms_replica *r, const char *name, struct ms_err *err) { return ms_nats_remove((struct ms_nats *)r, name, err); }

static void op_caps(struct ms_replica *base, struct ms_replica_caps *ret) {
	struct ms_nats *r = (struct ms_nats *)base;
	*ret = (struct ms_replica_caps){
		.create_if_absent = true, .settle_us = r->conf.sync_us ? r->conf.sync_us + SETTLE_MARGIN_US : 0, .parallel = 8, .warning = r->bucket.warning[0] ? r->bucket.warning : NULL};
}

static void op_cancel(struct ms_replica *r) { atomic_store(&((struct ms_nats *)r)->session.cancelled, true); }

static void op_close(struct ms_replica *base) {
	struct ms_nats *r = (struct ms_nats *)base;
	ms_nats_session_close(&r->session);
	ms_nats_tail_unref(r->tail);
	ms_nats_link_unref(r->link);
	ms_nats_conf_release(&r->conf);
	free(r);
}

const struct ms_replica_driver ms_replica_nats_driver = {
	.scheme = "nats",
	.help = "a JetStream object store: nats://host:4222/bucket/prefix",
	.options = ms_nats_options,
	.open = nats_open,
	.put = op_put,
	.get = op_get,
	.list = op_list,
	.remove = op_remove,
	.caps = op_caps,
	.cancel = op_cancel,
	.close = op_close,
};
