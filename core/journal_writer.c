/*
 * Append, group commit, rotation.
 *
 * An append puts its entry into `in`. Whoever owns `writing` swaps it with `out` and writes that with one pwrite, outside the
 * mutex, so appends go on meanwhile. Whoever owns `syncing` does the same and then syncs the file, outside the mutex too; threads
 * that want to be durable meanwhile wait and usually find that the next sync has covered them all (group commit). `exclusive`
 * keeps appends out: for rotation (with both other flags) and for an entry larger than a buffer.
 *
 * Failure of a write: the bytes stay in `out` and are written again at the same offset, so an accepted entry is never lost while
 * the process lives. Appends are refused from then on until a write succeeds. Failure of a sync: the kernel may have dropped the
 * dirty pages and will call the next sync a success. So before the next one everything above the durable offset is read back,
 * proven by its checksums and written again. If that cannot be proven, written entries are lost: the journal is poisoned and only
 * a new open, which cuts them off, helps. Failure to create the next file: the old one is sealed already; appends fail until the
 * file is there (its name stays right, because no sequence is given out before).
 */
#include "core/journal_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/crc.h"

enum ms_code msj_poisoned(struct ms_journal *j, struct ms_err *err) {
	return ms_err_set(err, j->poison.code, "%s", j->poison.msg);
}

enum ms_code msj_write_out(struct ms_journal *j, uint64_t target, struct ms_err *err) {
	while (j->written_seq < target) {
		if (!j->out->len) {
			struct msj_wbuf *b = j->out;
			j->out = j->in;
			j->in = b;
		}
		struct msj_wbuf *b = j->out;
		struct msj_file *f = msj_active(j);
		pthread_mutex_unlock(&j->mu);
		enum ms_code rc = j->env->ops->pwrite(f->fh, b->data, b->len, (int64_t)b->off, err);
		pthread_mutex_lock(&j->mu);
		if (rc != MS_OK) {
			j->write_failed = true;
			return rc;
		}
		j->written_seq = b->last;
		j->written_off = b->off + b->len;
		b->len = 0;
		b->count = 0;
	}
	j->write_failed = false;
	return MS_OK;
}

static enum ms_code flush(struct ms_journal *j, uint64_t target, struct ms_err *err) {
	while (j->writing)
		pthread_cond_wait(&j->cond, &j->mu);
	j->writing = true;
	enum ms_code rc = msj_write_out(j, target, err);
	j->writing = false;
	pthread_cond_broadcast(&j->cond);
	return rc;
}

/* Without mu, owning `syncing`: writes [from, to) of the file again, entries that are proven there and nothing else. */
static enum ms_code rewrite(struct ms_journal *j, struct msj_file *f, uint64_t from, uint64_t to, uint64_t first_seq,
			    uint64_t last_seq, struct ms_err *err) {
	struct msj_scan s = {.first = f->first, .off = from, .next = first_seq};
	struct msj_head h;
	struct msj_damage d;
	enum msj_event ev;
	enum ms_code rc;
	bool ok = true;

	msj_window_set(&s.w, j->env, f->fh, to);
	while ((rc = msj_scan_next(&s, &ev, &h, &d, err)) == MS_OK && (ev == MSJ_ENTRY || ev == MSJ_NOTE) && ok)
		if (ev == MSJ_ENTRY && (rc = msj_payload_check(&s, &h, &ok, err)) != MS_OK)
			break;
	if (rc == MS_OK && (!ok || ev != MSJ_END || s.next != last_seq + 1)) {
		rc = ms_err_set(err, MS_EIO,
				"%s/%s: entries %llu to %llu were written but not kept: a sync failed before; the journal must "
				"be opened again",
				j->dir, f->name, (unsigned long long)first_seq, (unsigned long long)last_seq);
		pthread_mutex_lock(&j->mu);
		j->poison = (struct ms_err){MS_EIO, 0, ""};
		snprintf(j->poison.msg, sizeof j->poison.msg,
			 "%s/%s: entries %llu to %llu are lost after a failed sync; the journal must be opened again", j->dir,
			 f->name, (unsigned long long)first_seq, (unsigned long long)last_seq);
		pthread_mutex_unlock(&j->mu);
	}
	for (uint64_t at = from; rc == MS_OK && at < to;) {
		const uint8_t *p;
		size_t n = 0;
		uint64_t piece = to - at < MSJ_WINDOW ? to - at : MSJ_WINDOW;
		if ((rc = msj_window_get(&s.w, at, (size_t)piece, &p, &n, err)) == MS_OK)
			rc = n == piece ? j->env->ops->pwrite(f->fh, p, n, (int64_t)at, err)
					: ms_err_set(err, MS_EIO, "%s/%s: shorter than what was written to it", j->dir, f->name);
		at += n;
	}
	msj_window_release(&s.w);
	return rc;
}

/* Under mu, which it drops: makes the active file durable as far as it is written. The caller owns `syncing`. */
static enum ms_code sync_file(struct ms_journal *j, struct ms_err *err) {
	struct msj_file *f = msj_active(j);
	uint64_t seq = j->written_seq, off = j->written_off, was = atomic_load(&j->durable),
		 was_off = atomic_load(&f->durable_off);
	bool suspect = j->suspect;
	enum ms_code rc = MS_OK;

	pthread_mutex_unlock(&j->mu);
	if (suspect)
		rc = rewrite(j, f, was_off, off, was + 1, seq, err);
	if (rc == MS_OK)
		rc = j->cfg.mode == MS_SYNC_FSYNC ? j->env->ops->fsync(f->fh, err) : j->env->ops->fdatasync(f->fh, err);
	pthread_mutex_lock(&j->mu);
	if (rc != MS_OK) {
		j->suspect = true;
		j->stats.failed_syncs++;
		return rc;
	}
	j->suspect = false;
	j->stats.syncs++;
	j->since_sync = f->size - off;
	atomic_store(&f->durable_off, off);
	atomic_store(&j->durable, seq);
	return MS_OK;
}

enum ms_code ms_journal_sync(struct ms_journal *j, uint64_t seq, struct ms_err *err) {
	enum ms_code rc = MS_OK;

	if (atomic_load(&j->durable) >= seq)
		return MS_OK;
	pthread_mutex_lock(&j->mu);
	if (seq >= j->next)
		seq = j->next - 1;
	while (atomic_load(&j->durable) < seq && rc == MS_OK) {
		if (j->ended)
			rc = ms_err_set(err, MS_ECLOSED, "%s: the journal is closed", j->dir);
		else if (j->poison.code != MS_OK)
			rc = msj_poisoned(j, err);
		else if (j->syncing)
			pthread_cond_wait(&j->cond, &j->mu);
		else {
			j->syncing = true;
			if ((rc = flush(j, j->next - 1, err)) == MS_OK)
				rc = sync_file(j, err);
			j->syncing = false;
			pthread_cond_broadcast(&j->cond);
		}
	}
	pthread_mutex_unlock(&j->mu);
	msj_deliver(j);
	return rc;
}

/* ---- rotation ---- */

static enum ms_code seal(struct ms_journal *j, struct ms_err *err) {
	enum ms_code rc = msj_write_out(j, j->next - 1, err);
	if (rc != MS_OK)
		return rc;
	struct msj_file *f = msj_active(j);
	if (j->dirty_tail) {
		uint64_t end = j->written_off;
		pthread_mutex_unlock(&j->mu);
		rc = j->env->ops->truncate(f->fh, (int64_t)end, err);
		pthread_mutex_lock(&j->mu);
		if (rc != MS_OK)
			return rc;
		j->dirty_tail = false;
	}
	return sync_file(j, err);
}

enum ms_code msj_rotate(struct ms_journal *j, struct msj_file *f, struct ms_err *err) {
	struct msj_file *next = NULL;
	enum ms_code rc = MS_OK;

	while (j->exclusive || j->syncing || j->writing)
		pthread_cond_wait(&j->cond, &j->mu);
	if (j->closed)
		return ms_err_set(err, MS_ECLOSED, "%s: the journal is closed", j->dir);
	if (msj_active(j) != f || f->last < f->first) {
		j->rotate_due = false;
		return MS_OK;
	}
	j->exclusive = j->syncing = j->writing = true;
	if (!j->rotate_due)
		rc = seal(j, err);
	if (rc == MS_OK) {
		j->rotate_due = true;
		uint64_t first = j->next;
		pthread_mutex_unlock(&j->mu);
		rc = msj_file_create(j, first, &next, err);
		pthread_mutex_lock(&j->mu);
	}
	if (rc == MS_OK && (rc = msj_files_push(j, next, err)) != MS_OK) {
		j->env->ops->close(next->fh);
		msj_file_free(next);
	}
	if (rc == MS_OK) {
		j->rotate_due = false;
		f->sealed = true;
		if (!f->users) {
			j->env->ops->close(f->fh);
			f->fh = NULL;
		}
		j->written_off = next->size;
		j->stats.rotations++;
	}
	j->exclusive = j->syncing = j->writing = false;
	pthread_cond_broadcast(&j->cond);
	return rc;
}

enum ms_code ms_journal_rotate(struct ms_journal *j, struct ms_err *err) {
	pthread_mutex_lock(&j->mu);
	enum ms_code rc = j->poison.code != MS_OK ? msj_poisoned(j, err) : msj_rotate(j, msj_active(j), err);
	pthread_mutex_unlock(&j->mu);
	msj_deliver(j);
	return rc;
}

/* ---- append ---- */

struct request {
	const char *db;
	const struct iovec *iov;
	int niov;
	struct msj_head h;
	uint64_t hash;
};

static void fill_head(struct ms_journal *j, struct request *q) {
	q->h.off = msj_active(j)->size;
	q->h.seq = j->next;
	q->h.durable = atomic_load(&j->durable);
	q->h.time_us = ms_env_now_us(j->env);
}

/* The entry has its place: numbers, summary, figures. The caller has made sure of memory. */
static void accepted(struct ms_journal *j, const struct request *q) {
	struct msj_file *f = msj_active(j);
	f->size += q->h.size;
	f->last = q->h.seq;
	f->marked = false;
	j->next++;
	j->total += q->h.size;
	j->since_sync += q->h.size;
	j->stats.entries++;
	j->stats.bytes += q->h.size;
}

static void append_buffered(struct ms_journal *j, struct request *q) {
	struct msj_wbuf *b = j->in;
	uint8_t *p = b->data + b->len, *at = p + MSJ_HEAD;

	if (!b->len)
		b->off = msj_active(j)->size;
	msj_head_put(p, &q->h, msj_active(j)->first, q->db);
	if (q->h.name_len)
		memcpy(at, q->db, q->h.name_len);
	at += q->h.name_len;
	uint8_t *payload = at;
	for (int i = 0; i < q->niov; i++) {
		if (q->iov[i].iov_len)
			memcpy(at, q->iov[i].iov_base, q->iov[i].iov_len);
		at += q->iov[i].iov_len;
	}
	memset(at, 0, (size_t)(p + q->h.size - at));
	msj_head_seal(p, ms_crc64(q->h.hcrc, payload, (size_t)(p + q->h.size - payload)));
	b->len += (size_t)q->h.size;
	b->last = q->h.seq;
	b->count++;
}

struct stream {
	struct ms_journal *j;
	struct ms_file *fh;
	struct msj_wbuf *b;
	uint64_t at;
};

static enum ms_code stream_put(struct stream *s, const void *data, size_t n, struct ms_err *err) {
	const uint8_t *p = data;
	while (n) {
		size_t part = s->b->cap - s->b->len < n ? s->b->cap - s->b->len : n;
		memcpy(s->b->data + s->b->len, p, part);
		s->b->len += part;
		p += part;
		n -= part;
		if (s->b->len == s->b->cap) {
			enum ms_code rc = s->j->env->ops->pwrite(s->fh, s->b->data, s->b->len, (int64_t)s->at, err);
			if (rc != MS_OK)
				return rc;
			s->at += s->b->len;
			s->b->len = 0;
		}
	}
	return MS_OK;
}

/* An entry larger than a buffer: written through `in`, which is empty, with nobody else appending. */
static enum ms_code append_large(struct ms_journal *j, struct request *q, struct ms_err *err) {
	static const uint8_t zeros[8];
	uint8_t head[MSJ_HEAD];
	enum ms_code rc;

	j->exclusive = j->writing = true;
	if ((rc = msj_write_out(j, j->next - 1, err)) != MS_OK)
		goto out;
	fill_head(j, q);
	struct msj_file *f = msj_active(j);
	struct stream s = {j, f->fh, j->in, f->size};
	pthread_mutex_unlock(&j->mu);
	msj_head_put(head, &q->h, f->first, q->db);
	uint64_t crc = q->h.hcrc;
	for (int i = 0; i < q->niov; i++)
		crc = ms_crc64(crc, q->iov[i].iov_base, q->iov[i].iov_len);
	size_t pad = (size_t)(q->h.size - MSJ_HEAD - q->h.name_len - q->h.len);
	msj_head_seal(head, ms_crc64(crc, zeros, pad));
	if ((rc = stream_put(&s, head, sizeof head, err)) == MS_OK)
		rc = stream_put(&s, q->db, q->h.name_len, err);
	for (int i = 0; i < q->niov && rc == MS_OK; i++)
		rc = stream_put(&s, q->iov[i].iov_base, q->iov[i].iov_len, err);
	if (rc == MS_OK)
		rc = stream_put(&s, zeros, pad, err);
	if (rc == MS_OK && s.b->len)
		rc = j->env->ops->pwrite(f->fh, s.b->data, s.b->len, (int64_t)s.at, err);
	bool cut = rc == MS_OK || j->env->ops->truncate(f->fh, (int64_t)f->size, NULL) == MS_OK;
	pthread_mutex_lock(&j->mu);
	s.b->len = 0;
	if (rc == MS_OK) {
		accepted(j, q);
		j->written_seq = q->h.seq;
		j->written_off = f->size;
	} else if (!cut) {
		j->dirty_tail = true;
	}
out:
	j->exclusive = j->writing = false;
	pthread_cond_broadcast(&j->cond);
	return rc;
}

/* Room for `need` more bytes in `in`. False: the buffer is as large as it may be. */
static bool in_has_room(struct ms_journal *j, uint64_t need) {
	struct msj_wbuf *b = j->in;
	if (b->cap - b->len >= need)
		return true;
	if (j->cfg.mode != MS_SYNC_ASYNC)
		return false;
	size_t cap = b->cap;
	while (cap < MSJ_ASYNC_WBUF && cap - b->len < need)
		cap *= 2;
	uint8_t *p = cap - b->len >= need ? realloc(b->data, cap) : NULL;
	if (!p)
		return false;
	b->data = p;
	b->cap = cap;
	return true;
}

/* Under mu. Waits, writes or rotates until the entry can be placed at once; *ret_large when it must be streamed. */
static enum ms_code make_room(struct ms_journal *j, uint64_t need, bool *ret_large, struct ms_err *err) {
	enum ms_code rc;

	for (;;) {
		struct msj_file *f = msj_active(j);
		if (j->closed)
			return ms_err_set(err, MS_ECLOSED, "%s: the journal is closed", j->dir);
		if (j->poison.code != MS_OK)
			return msj_poisoned(j, err);
		if (j->exclusive) {
			pthread_cond_wait(&j->cond, &j->mu);
			continue;
		}
		if (j->cfg.max_bytes && j->total + need > j->cfg.max_bytes)
			return ms_err_set(
			    err, MS_ENOSPC,
			    "%s: the journal holds %llu bytes of at most %llu; what keeps it is a replica that does not advance",
			    j->dir, (unsigned long long)j->total, (unsigned long long)j->cfg.max_bytes);
		if (j->rotate_due || (f->last >= f->first && (f->size + need > j->rotate_size ||
							      ms_env_now_us(j->env) - f->created_us >= j->cfg.max_age_us))) {
			if ((rc = msj_rotate(j, f, err)) != MS_OK)
				return rc;
			continue;
		}
		if (j->write_failed && j->cfg.mode != MS_SYNC_ASYNC) {
			if ((rc = flush(j, j->next - 1, err)) != MS_OK)
				return rc;
			continue;
		}
		bool async = j->cfg.mode == MS_SYNC_ASYNC;
		if (async && j->in->count + j->out->count >= j->cfg.buffer_size)
			goto dropped;
		*ret_large = need > (async ? MSJ_ASYNC_WBUF : MSJ_WBUF);
		if (*ret_large) {
			if (!j->writing)
				return MS_OK;
			pthread_cond_wait(&j->cond, &j->mu);
			continue;
		}
		if (in_has_room(j, need))
			return MS_OK;
		if (async)
			goto dropped;
		if ((rc = flush(j, j->next - 1, err)) != MS_OK)
			return rc;
	}
dropped:
	j->stats.dropped++;
	return ms_err_set(err, MS_EDROPPED, "%s: %u entries wait to be written, %u are allowed", j->dir,
			  j->in->count + j->out->count, j->cfg.buffer_size);
}

static bool threshold_passed(const struct ms_journal *j) {
	return j->cfg.sync_interval_us == 0 || (j->cfg.sync_bytes && j->since_sync >= j->cfg.sync_bytes) ||
	       j->in->count >= j->cfg.buffer_size / 2 || j->in->len >= MSJ_ASYNC_WBUF / 2;
}

enum ms_code ms_journal_append(struct ms_journal *j, const char *db, size_t db_len, uint16_t flags, const struct iovec *iov,
			       int niov, uint64_t *ret_seq, struct ms_err *err) {
	struct request q = {.db = db, .iov = iov, .niov = niov};
	uint64_t len = 0;
	bool large = false, post = false;
	enum ms_code rc;

	if (flags & ~(MS_ENTRY_CONTINUES | MS_ENTRY_UNNAMED | MS_ENTRY_BEGINS) || ((flags & MS_ENTRY_UNNAMED) && db_len))
		return ms_err_set(err, MS_EINVAL, "%s: entry flags %x with a name of %zu bytes", j->dir, flags, db_len);
	if (db_len > MS_JOURNAL_NAME_MAX)
		return ms_err_set(err, MS_ETOOBIG, "%s: database name of %zu bytes, at most %u are possible", j->dir, db_len,
				  MS_JOURNAL_NAME_MAX);
	for (int i = 0; i < niov; i++) {
		if (iov[i].iov_len > j->cfg.payload_max - len)
			return ms_err_set(err, MS_ETOOBIG, "%s: payload above %llu bytes", j->dir,
					  (unsigned long long)j->cfg.payload_max);
		len += iov[i].iov_len;
	}
	q.h.len = (uint32_t)len;
	q.h.name_len = (uint16_t)db_len;
	q.h.size = msj_entry_size(db_len, len);
	q.hash = flags & MS_ENTRY_UNNAMED ? j->default_hash : msj_name_hash(db, db_len);
	const char *owner = flags & MS_ENTRY_UNNAMED ? j->default_db : db;
	size_t owner_len = flags & MS_ENTRY_UNNAMED ? strlen(j->default_db) : db_len;

	pthread_mutex_lock(&j->mu);
	if ((rc = make_room(j, q.h.size, &large, err)) != MS_OK)
		goto out;
	struct msj_run *run = j->runs.n ? msj_runs_find(&j->runs, owner, owner_len) : NULL;
	q.h.flags = flags | (run && !(flags & MS_ENTRY_BEGINS) ? MS_ENTRY_FOLLOWS : 0);
	if ((flags & MS_ENTRY_CONTINUES) && !run && (rc = msj_runs_add(&j->runs, owner, owner_len, j->next, err)) != MS_OK)
		goto out;
	/* A stretch noted for an entry that then fails is one that begins with the next entry: same place, same sequence. */
	if ((rc = msj_file_note(msj_active(j), msj_active(j)->size, j->next, q.hash, err)) == MS_OK) {
		if (large) {
			rc = append_large(j, &q, err);
		} else {
			fill_head(j, &q);
			append_buffered(j, &q);
			accepted(j, &q);
		}
	}
	struct msj_run *now = j->runs.n ? msj_runs_find(&j->runs, owner, owner_len) : NULL; /* append_large drops the mutex */
	if (now && (rc == MS_OK ? !(flags & MS_ENTRY_CONTINUES) : !run))
		msj_runs_remove(&j->runs, now);
	if (rc == MS_OK) {
		*ret_seq = q.h.seq;
		if (j->cfg.mode == MS_SYNC_ASYNC && !j->posted) {
			j->want_kick = threshold_passed(j);
			post = j->posted = j->want_kick || !j->timer_armed;
		} else if (j->cfg.mode == MS_SYNC_ASYNC && threshold_passed(j)) {
			j->want_kick = true;
		}
	}
out:
	if (rc == MS_EDROPPED && !j->posted)
		post = j->posted = j->want_kick = true;
	pthread_mutex_unlock(&j->mu);
	if (post)
		msj_post(j);
	if (atomic_load(&j->has_entry_hook))
		msj_deliver(j); /* a rotation may have made entries durable */
	return rc;
}

enum ms_code ms_journal_append_sync(struct ms_journal *j, const char *db, size_t db_len, uint16_t flags, const struct iovec *iov,
				    int niov, uint64_t *ret_seq, struct ms_err *err) {
	enum ms_code rc = ms_journal_append(j, db, db_len, flags, iov, niov, ret_seq, err);
	return rc == MS_OK ? ms_journal_sync(j, *ret_seq, err) : rc;
}

/* ---- entry hook ---- */

void msj_deliver(struct ms_journal *j) {
	struct ms_err err = MS_ERR_INIT;

	if (!atomic_load(&j->has_entry_hook))
		return;
	pthread_mutex_lock(&j->mu);
	if (j->hook_running) {
		pthread_mutex_unlock(&j->mu);
		return; /* the one that runs takes these too */
	}
	j->hook_running = true;
	while (j->entry_hook && j->hook_next <= atomic_load(&j->durable)) {
		ms_journal_entry_hook hook = j->entry_hook;
		void *arg = j->entry_hook_arg;
		uint64_t from = j->hook_next;
		struct ms_journal_entry e;
		pthread_mutex_unlock(&j->mu);
		enum ms_code rc = j->hook_reader ? MS_OK : ms_journal_reader_new(j, NULL, 0, from, &j->hook_reader, &err);
		if (rc == MS_OK && (rc = ms_journal_reader_next(j->hook_reader, &e, &err)) == MS_OK)
			hook(arg, &e);
		pthread_mutex_lock(&j->mu);
		if (rc != MS_OK && rc != MS_EGAP)
			break; /* what cannot be read just now is tried again after the next sync */
		j->hook_next = ms_journal_reader_seq(j->hook_reader);
	}
	j->hook_running = false;
	pthread_cond_broadcast(&j->cond);
	pthread_mutex_unlock(&j->mu);
}

void ms_journal_set_entry_hook(struct ms_journal *j, ms_journal_entry_hook hook, void *arg) {
	pthread_mutex_lock(&j->mu);
	while (j->hook_running)
		pthread_cond_wait(&j->cond, &j->mu);
	j->entry_hook = hook;
	j->entry_hook_arg = arg;
	j->hook_next = j->next;
	struct ms_journal_reader *r = j->hook_reader;
	j->hook_reader = NULL;
	atomic_store(&j->has_entry_hook, hook != NULL);
	pthread_mutex_unlock(&j->mu);
	ms_journal_reader_free(r);
}
