/* Puts of snapshot objects: one at a time, on a handle of their own, retried until they are there. */
#include <stdlib.h>
#include <string.h>

#include "core/crc.h"
#include "core/worker_internal.h"

/* ---- job ---- */

struct bytes_compare {
	const uint8_t *data;
	size_t len, at;
	bool differs;
};

static enum ms_code compare(void *arg, const void *data, size_t n, struct ms_err *err) {
	struct bytes_compare *c = arg;
	(void)err;
	if (n > c->len - c->at || memcmp(c->data + c->at, data, n) != 0)
		c->differs = true;
	else
		c->at += n;
	return MS_OK;
}

/* A manifest that was put before a crash, and is put again for the same state by another start (whose epoch it states), serves as well:
 * its chunks came before it. */
static enum ms_code manifest_serves(struct ms_worker *w, struct ms_replica *r, bool *ret, struct ms_err *err) {
	struct ms_name n;
	struct ms_manifest own = {0}, there = {0};
	enum ms_code rc = MS_OK;
	*ret = false;
	if (!ms_name_parse(w->snap_name, &n) || n.kind != MS_NAME_SNAPSHOT)
		return MS_OK;
	struct ms_manifest_reader *reader = ms_manifest_reader_new(&own, NULL);
	if (!reader)
		return ms_err_set(err, MS_ENOMEM, "%s", w->snap_name);
	if ((rc = ms_manifest_push(reader, w->snap_data, w->snap_len, err)) || (rc = ms_manifest_finish(reader, err)))
		goto out;
	rc = ms_view_manifest(r, w->snap_name, &there, err);
	if (rc == MS_ECORRUPT)
		rc = MS_OK; /* it does not serve */
	else if (!rc)
		*ret = strcmp(own.generation.s, there.generation.s) == 0 && own.state.txid == there.state.txid &&
		       own.state.checksum == there.state.checksum && own.state.page_size == there.state.page_size &&
		       own.state.db_pages == there.state.db_pages;
out:
	ms_manifest_reader_free(reader);
	ms_manifest_release(&own);
	ms_manifest_release(&there);
	return rc;
}

/* What an artefact holds, however its blocks are compressed. */
struct content {
	uint64_t crc, bytes;
};

static enum ms_code content_header(void *arg, const uint8_t *cbor, size_t len, struct ms_err *err) {
	struct content *c = arg;
	(void)err;
	c->crc = ms_crc64(c->crc, cbor, len);
	return MS_OK;
}

static enum ms_code content_block(void *arg, uint16_t kind, const uint8_t *raw, size_t len, struct ms_err *err) {
	struct content *c = arg;
	uint8_t k[2] = {(uint8_t)kind, (uint8_t)(kind >> 8)};
	(void)err;
	c->crc = ms_crc64(ms_crc64(c->crc, k, sizeof k), raw, len);
	c->bytes += len;
	return MS_OK;
}

static enum ms_code content_push(void *arg, const void *data, size_t n, struct ms_err *err) { return ms_artefact_push(arg, data, n, err); }

/* A chunk that an earlier snapshot put with another compression (settings or library have changed since) has the same name, since that
 * comes from the content: it serves as well. */
static enum ms_code chunk_serves(struct ms_worker *w, struct ms_replica *r, bool *ret, struct ms_err *err) {
	static const struct ms_artefact_callbacks cb = {.header = content_header, .block = content_block};
	struct content own = {0}, there = {0};
	struct ms_name n;
	*ret = false;
	if (!ms_name_parse(w->snap_name, &n) || n.kind != MS_NAME_CHUNK)
		return MS_OK;
	struct ms_artefact_reader *a = ms_artefact_reader_new(MS_ART_CHUNK, &cb, &own), *b = ms_artefact_reader_new(MS_ART_CHUNK, &cb, &there);
	enum ms_code rc = a && b ? MS_OK : ms_err_set(err, MS_ENOMEM, "%s", w->snap_name);
	if (!rc && !(rc = ms_artefact_push(a, w->snap_data, w->snap_len, err)))
		rc = ms_artefact_finish(a, err);
	if (!rc && !(rc = ms_replica_get(r, w->snap_name, 0, -1, content_push, b, err)))
		rc = ms_artefact_finish(b, err);
	if (rc == MS_ECORRUPT || rc == MS_EUNSUPPORTED)
		rc = MS_OK; /* it does not serve */
	else if (!rc)
		*ret = own.crc == there.crc && own.bytes == there.bytes;
	ms_artefact_reader_free(a);
	ms_artefact_reader_free(b);
	return rc;
}

/* MS_EEXISTS: the object is there with the same content in other bytes. */
static enum ms_code put(struct ms_worker *w, struct ms_err *err) {
	struct ms_replica *r;
	enum ms_code rc = ms_handle_open(w, &w->snap, false, &r, err);
	if (rc)
		return rc;
	rc = ms_replica_put_mem(r, w->snap_name, w->snap_data, w->snap_len, err);
	if (rc != MS_EEXISTS)
		return rc;
	struct bytes_compare c = {.data = w->snap_data, .len = w->snap_len};
	if ((rc = ms_replica_get(r, w->snap_name, 0, -1, compare, &c, err)))
		return rc;
	bool serves = !c.differs && c.at == c.len;
	if (!serves && (rc = manifest_serves(w, r, &serves, err)))
		return rc;
	if (serves)
		return MS_OK;
	if ((rc = chunk_serves(w, r, &serves, err)))
		return rc;
	if (serves)
		return ms_err_set(err, MS_EEXISTS, "%s", w->snap_name);
	return ms_err_set(err, MS_ECONFLICT, "replica %s: %s is there with other bytes", w->cfg.url, w->snap_name);
}

static void run(void *arg) {
	struct ms_worker *w = arg;
	w->snap_err = MS_ERR_INIT;
	if (put(w, &w->snap_err) == MS_OK)
		w->snap_err = MS_ERR_INIT; /* an error on the way that was overcome */
}

/* ---- loop ---- */

static void finish(struct ms_worker *w, const struct ms_err *err) {
	void (*cb)(void *, const struct ms_err *) = w->snap_done;
	void *arg = w->snap_arg;
	w->snap_wanted = false;
	w->snap_done = NULL;
	w->snap_data = NULL;
	w->snap_spoilt = false;
	if (err->code && err->code != MS_EEXISTS)
		w->snap_running = false;
	ms_retry_ok(&w->snap_retry);
	cb(arg, err);
}

static void done(void *arg) {
	struct ms_worker *w = arg;
	w->snap_busy = false;
	if (w->phase == MS_PHASE_STOPPED)
		return;
	if (!w->snap_err.code || w->snap_err.code == MS_EEXISTS)
		w->snap_failing_at_us = 0;
	if (w->snap_err.code == MS_ELOST || w->snap_spoilt) {
		/* What was put before this object may be gone: another snapshot then, after the claim. */
		if (w->snap_err.code == MS_ELOST && w->phase == MS_PHASE_SHIPPING)
			w->lost = w->snap_err;
		finish(w, &(struct ms_err){MS_ELOST, 0, "the replica has lost objects"});
		ms_worker_pump(w);
		return;
	}
	if (!w->snap_err.code) {
		w->st.puts++;
		w->st.put_bytes += w->snap_len;
		w->st.last_uploaded_us = ms_env_now_us(w->env);
		finish(w, &w->snap_err);
	} else if (w->snap_err.code == MS_EEXISTS) {
		finish(w, &w->snap_err);
	} else if (w->phase == MS_PHASE_FENCED) {
		ms_worker_snap_fail(w, &(struct ms_err){MS_EFENCED, 0, "fenced"});
	} else if (w->deadline) {
		ms_worker_snap_fail(w, &(struct ms_err){MS_ECANCELED, 0, "stopped"});
	} else {
		struct ms_err e = w->snap_err;
		w->st.put_failures++;
		ms_worker_note_failure(w, &w->snap_failing_at_us, &e);
		if (e.code == MS_ENOMEM || e.code == MS_EBUSY)
			e.code = MS_ERETRY;
		int64_t wait = ms_retry_failed(&w->snap_retry, w->env, &e);
		if (wait < 0) {
			ms_worker_snap_fail(w, &w->snap_err);
		} else {
			w->st.retries++;
			w->env->ops->timer_start(w->snap_timer, (uint64_t)wait);
		}
	}
	ms_worker_pump(w);
}

void ms_worker_snap_fail(struct ms_worker *w, const struct ms_err *err) {
	if (!w->snap_done || w->snap_busy)
		return;
	w->env->ops->timer_stop(w->snap_timer);
	finish(w, err);
}

/* Waits for the claim (whose replica it is comes first) and for a removal under way (which may take away what is being put). */
void ms_worker_snap_pump(struct ms_worker *w) {
	if (!w->snap_wanted || w->snap_busy || w->phase != MS_PHASE_SHIPPING || (w->main_busy && w->task.kind == MS_TASK_REMOVE))
		return;
	w->env->ops->timer_stop(w->snap_timer);
	w->snap_busy = true;
	w->snap_job = (struct ms_job){.run = run, .done = done, .arg = w};
	w->env->ops->submit(w->env, MS_LANE_UPLOAD, &w->snap_job);
}

void ms_worker_put_snapshot_object(struct ms_worker *w, const char *name, const uint8_t *data, size_t len,
				   void (*cb)(void *arg, const struct ms_err *err), void *arg) {
	struct ms_err err = MS_ERR_INIT;
	if (w->snap_done || strlen(name) >= sizeof w->snap_name)
		(void)ms_err_set(&err, MS_EINVAL, "%s: another snapshot object is under way, or the name is too long", name);
	else if (w->phase == MS_PHASE_FENCED)
		(void)ms_err_set(&err, MS_EFENCED, "replica %s is fenced", w->cfg.url);
	else if (w->snap_spoilt)
		(void)ms_err_set(&err, MS_ELOST, "replica %s has lost objects", w->cfg.url);
	else if (w->phase == MS_PHASE_STOPPED || w->deadline)
		(void)ms_err_set(&err, MS_ECANCELED, "replica %s: stopped", w->cfg.url);
	if (err.code) {
		if (err.code == MS_ELOST)
			w->snap_spoilt = w->snap_running = false;
		cb(arg, &err);
		return;
	}
	memcpy(w->snap_name, name, strlen(name) + 1);
	w->snap_data = data;
	w->snap_len = len;
	w->snap_done = cb;
	w->snap_arg = arg;
	w->snap_wanted = w->snap_running = true;
	ms_worker_snap_pump(w);
}
