/* Puts of snapshot objects: several at a time, each on a handle of its own, retried until they are there. */
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
static enum ms_code manifest_serves(const struct ms_snap_put *p, struct ms_replica *r, bool *ret, struct ms_err *err) {
	struct ms_name n;
	struct ms_manifest own = {0}, there = {0};
	enum ms_code rc = MS_OK;
	*ret = false;
	if (!ms_name_parse(p->name, &n) || n.kind != MS_NAME_SNAPSHOT)
		return MS_OK;
	struct ms_manifest_reader *reader = ms_manifest_reader_new(&own, NULL);
	if (!reader)
		return ms_err_set(err, MS_ENOMEM, "%s", p->name);
	if ((rc = ms_manifest_push(reader, p->data, p->len, err)) || (rc = ms_manifest_finish(reader, err)))
		goto out;
	rc = ms_view_manifest(r, p->name, &there, err);
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
static enum ms_code chunk_serves(const struct ms_snap_put *p, struct ms_replica *r, bool *ret, struct ms_err *err) {
	static const struct ms_artefact_callbacks cb = {.header = content_header, .block = content_block};
	struct content own = {0}, there = {0};
	struct ms_name n;
	*ret = false;
	if (!ms_name_parse(p->name, &n) || n.kind != MS_NAME_CHUNK)
		return MS_OK;
	struct ms_artefact_reader *a = ms_artefact_reader_new(MS_ART_CHUNK, &cb, &own), *b = ms_artefact_reader_new(MS_ART_CHUNK, &cb, &there);
	enum ms_code rc = a && b ? MS_OK : ms_err_set(err, MS_ENOMEM, "%s", p->name);
	if (!rc && !(rc = ms_artefact_push(a, p->data, p->len, err)))
		rc = ms_artefact_finish(a, err);
	if (!rc && !(rc = ms_replica_get(r, p->name, 0, -1, content_push, b, err)))
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
static enum ms_code put(struct ms_snap_put *p, struct ms_err *err) {
	struct ms_replica *r;
	enum ms_code rc = ms_handle_open(p->w, &p->handle, false, &r, err);
	if (rc)
		return rc;
	rc = ms_throttle_put_mem(&p->w->throttle, r, p->name, p->data, p->len, &p->handle.cancel, err);
	if (rc != MS_EEXISTS)
		return rc;
	struct bytes_compare c = {.data = p->data, .len = p->len};
	if ((rc = ms_replica_get(r, p->name, 0, -1, compare, &c, err)))
		return rc;
	bool serves = !c.differs && c.at == c.len;
	if (!serves && (rc = manifest_serves(p, r, &serves, err)))
		return rc;
	if (serves)
		return MS_OK;
	if ((rc = chunk_serves(p, r, &serves, err)))
		return rc;
	if (serves)
		return ms_err_set(err, MS_EEXISTS, "%s", p->name);
	return ms_err_set(err, MS_ECONFLICT, "replica %s: %s is there with other bytes", p->w->cfg.url, p->name);
}

static void run(void *arg) {
	struct ms_snap_put *p = arg;
	p->err = MS_ERR_INIT;
	if (put(p, &p->err) == MS_OK)
		p->err = MS_ERR_INIT; /* an error on the way that was overcome */
}

/* ---- loop ---- */

bool ms_worker_snap_busy(const struct ms_worker *w) {
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		if (w->snaps[i].busy)
			return true;
	return false;
}

bool ms_worker_snap_wanted(const struct ms_worker *w) {
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		if (w->snaps[i].done)
			return true;
	return false;
}

void ms_worker_snap_cancel(struct ms_worker *w) {
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		ms_handle_cancel(&w->snaps[i].handle);
}

static void finish(struct ms_snap_put *p, const struct ms_err *err) {
	struct ms_worker *w = p->w;
	void (*cb)(void *, const struct ms_err *) = p->done;
	void *arg = p->arg;
	p->done = NULL;
	p->data = NULL;
	p->leaving = false;
	p->retry_at_us = 0;
	ms_retry_ok(&p->retry);
	/* Who gave it drops this replica at the first error; until its other objects have returned, what is lost stays known. */
	if (!ms_worker_snap_wanted(w))
		w->snap_spoilt = false;
	if (err->code && err->code != MS_EEXISTS)
		w->snap_running = false;
	cb(arg, err);
}

static void done(void *arg) {
	struct ms_snap_put *p = arg;
	struct ms_worker *w = p->w;
	p->busy = false;
	if (w->phase == MS_PHASE_STOPPED)
		return;
	if (p->leaving && !w->deadline) { /* a handle that was cancelled serves no more */
		ms_handle_close(&p->handle);
		atomic_store(&p->handle.cancel, false);
	}
	if (!p->err.code || p->err.code == MS_EEXISTS)
		w->snap_failing_at_us = 0;
	if (p->err.code == MS_ELOST || w->snap_spoilt) {
		/* What was put before this object may be gone: another snapshot then, after the claim. */
		if (p->err.code == MS_ELOST && w->phase == MS_PHASE_SHIPPING) {
			w->lost = p->err;
			w->snap_spoilt = true;
		}
		finish(p, &(struct ms_err){MS_ELOST, 0, "the replica has lost objects"});
		ms_worker_pump(w);
		return;
	}
	if (!p->err.code) {
		w->st.puts++;
		w->st.put_bytes += p->len;
		w->st.last_uploaded_us = ms_env_now_us(w->env);
		finish(p, &p->err);
	} else if (p->err.code == MS_EEXISTS) {
		finish(p, &p->err);
	} else if (w->phase == MS_PHASE_FENCED) {
		finish(p, &(struct ms_err){MS_EFENCED, 0, "fenced"});
	} else if (w->deadline || p->leaving) {
		finish(p, &(struct ms_err){MS_ECANCELED, 0, "stopped"});
	} else {
		struct ms_err e = p->err;
		w->st.put_failures++;
		ms_worker_note_failure(w, &w->snap_failing_at_us, &e);
		if (e.code == MS_ENOMEM || e.code == MS_EBUSY)
			e.code = MS_ERETRY;
		int64_t wait = ms_retry_failed(&p->retry, w->env, &e);
		if (wait < 0) {
			finish(p, &p->err);
		} else {
			w->st.retries++;
			p->retry_at_us = ms_worker_mono_us(w) + (uint64_t)wait;
		}
	}
	ms_worker_pump(w);
}

void ms_worker_snap_fail(struct ms_worker *w, const struct ms_err *err) {
	struct ms_err e = *err;
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++) {
		struct ms_snap_put *p = &w->snaps[i];
		if (!p->done || p->busy)
			continue;
		w->env->ops->timer_stop(p->timer);
		finish(p, &e);
	}
}

void ms_worker_leave_snapshot(struct ms_worker *w) {
	w->snap_running = false;
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++) {
		struct ms_snap_put *p = &w->snaps[i];
		if (!p->busy || p->leaving)
			continue;
		p->leaving = true;
		ms_handle_cancel(&p->handle);
	}
	ms_worker_snap_fail(w, &(struct ms_err){MS_ECANCELED, 0, "the snapshot goes on without it"});
}

bool ms_worker_snapshot_idle(const struct ms_worker *w) { return !ms_worker_snap_wanted(w); }

unsigned ms_worker_snapshot_puts(const struct ms_worker *w) {
	/* Several at once would only wait for the same bytes a second. */
	unsigned n = w->cfg.concurrency ? w->cfg.concurrency : w->cfg.bandwidth ? 1 : w->caps.parallel;
	return n < 1 ? 1 : n < MS_WORKER_SNAP_PUTS ? n : MS_WORKER_SNAP_PUTS;
}

/* Waits for the claim (whose replica it is comes first) and for a removal under way (which may take away what is being put). */
void ms_worker_snap_pump(struct ms_worker *w) {
	unsigned most = ms_worker_snapshot_puts(w), busy = 0;
	if (w->phase != MS_PHASE_SHIPPING || (w->main_busy && w->task.kind == MS_TASK_REMOVE))
		return;
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		busy += w->snaps[i].busy;
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++) {
		struct ms_snap_put *p = &w->snaps[i];
		if (p->busy)
			continue;
		if (!p->done) {
			/* Connections that only a snapshot needs. */
			if (i && !w->snap_running)
				ms_handle_close(&p->handle);
			continue;
		}
		uint64_t now = ms_worker_mono_us(w);
		if (p->retry_at_us > now) {
			w->env->ops->timer_start(p->timer, p->retry_at_us - now);
			continue;
		}
		if (busy >= most)
			continue;
		busy++;
		p->busy = true;
		p->job = (struct ms_job){.run = run, .done = done, .arg = p};
		w->env->ops->submit(w->env, MS_LANE_UPLOAD, &p->job);
	}
}

void ms_worker_put_snapshot_object(struct ms_worker *w, const char *name, const uint8_t *data, size_t len,
				   void (*cb)(void *arg, const struct ms_err *err), void *arg) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_snap_put *p = w->snaps;
	while (p < w->snaps + MS_WORKER_SNAP_PUTS && p->done)
		p++;
	if (p == w->snaps + MS_WORKER_SNAP_PUTS || strlen(name) >= sizeof p->name)
		(void)ms_err_set(&err, MS_EINVAL, "%s: too many snapshot objects are under way, or the name is too long", name);
	else if (w->phase == MS_PHASE_FENCED)
		(void)ms_err_set(&err, MS_EFENCED, "replica %s is fenced", w->cfg.url);
	else if (w->snap_spoilt)
		(void)ms_err_set(&err, MS_ELOST, "replica %s has lost objects", w->cfg.url);
	else if (w->phase == MS_PHASE_STOPPED || w->deadline)
		(void)ms_err_set(&err, MS_ECANCELED, "replica %s: stopped", w->cfg.url);
	if (err.code) {
		if (err.code == MS_ELOST) {
			w->snap_spoilt = ms_worker_snap_wanted(w);
			w->snap_running = false;
		}
		cb(arg, &err);
		return;
	}
	memcpy(p->name, name, strlen(name) + 1);
	p->data = data;
	p->len = len;
	p->done = cb;
	p->arg = arg;
	w->snap_running = true;
	ms_worker_snap_pump(w);
}

/* Does what comes at and behind the cursor restore from this snapshot? Not from one of a generation that the cursor has left for a state that
 * does not come of it. */
static bool leads_on(const struct ms_cursor *c, const struct ms_manifest *m, uint64_t journal_seq) {
	if (strcmp(c->generation.s, m->generation.s) == 0 || journal_seq > c->seq)
		return true;
	for (uint32_t i = 0; i < c->nlineage && !ms_lineage_needs_base(&c->lineage[i]); i++)
		if (strcmp(c->lineage[i].parent.s, m->generation.s) == 0)
			return m->state.txid <= c->lineage[i].fork_txid;
	return false;
}

void ms_worker_snapshot_published(struct ms_worker *w, const struct ms_manifest *m, uint64_t journal_seq, uint64_t bytes) {
	struct ms_cursor *c = &w->cur;
	(void)bytes;
	if (w->phase != MS_PHASE_SHIPPING)
		return;
	w->snap_running = false;
	w->st.snapshots++;
	c->snapshot_txid = m->state.txid;
	c->snapshot_us = m->state.time_us;
	c->bytes_since_snapshot = 0;
	if (c->base == MS_BASE_JUMP) {
		/* Lineage: the local one where the snapshot is of its generation, else as far as the manifest tells. */
		struct ms_lineage own = {m->generation, m->parent_generation, m->fork_txid, m->seeded};
		bool local = strcmp(m->generation.s, w->local.generation.s) == 0;
		if (ms_cursor_join_lineage(c, local ? w->local.lineage : &own, local ? w->local.nlineage : 1, c->lineage, c->nlineage, NULL))
			abort();
		c->segment_first = 0;
		c->generation = m->generation;
		c->state = m->state;
		c->seq = journal_seq;
		w->part = (struct ms_part){0};
		ms_worker_scan_reset(w);
		ms_worker_settle_jumped(w);
	}
	w->snapshot_generation = m->generation;
	if (c->base == MS_BASE_JUMP || leads_on(c, m, journal_seq)) {
		c->base = MS_BASE_THERE;
		w->waits_since_us = 0;
	}
	ms_worker_mind_fold(w);
	ms_worker_settle_snapshot(w);
	w->save_owed = true;
	w->save_version++;
	w->save_at_us = 0;
	if (w->hooks.changed)
		w->hooks.changed(w->hooks.arg, w);
	ms_worker_scan(w);
	ms_worker_pump(w);
}

/* ---- making, freeing ---- */

static void on_retry(void *arg) { ms_worker_pump(((struct ms_snap_put *)arg)->w); }

enum ms_code ms_worker_snap_init(struct ms_worker *w, struct ms_err *err) {
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++) {
		w->snaps[i].w = w;
		if (!(w->snaps[i].timer = w->env->ops->timer_new(w->env, on_retry, &w->snaps[i])))
			return ms_err_set(err, MS_ENOMEM, "replica worker");
	}
	return MS_OK;
}

void ms_worker_snap_release(struct ms_worker *w) {
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++) {
		if (w->snaps[i].timer)
			w->env->ops->timer_free(w->snaps[i].timer);
		w->snaps[i].timer = NULL;
		ms_handle_close(&w->snaps[i].handle);
	}
}
