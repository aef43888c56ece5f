/*
 * Reader over the durable prefix.
 *
 * A reader holds a reference to one file and, in a window of 64 KiB, a stretch of it that was durable when it was read. At the
 * durable end a call is one load and compare. Files are shared: the descriptor belongs to the journal, and is closed when no
 * reader is inside a sealed file.
 *
 * With a database name: at the beginning of each 256 KiB the summary tells which following stretches cannot hold an entry of it,
 * and those are jumped over; inside a stretch an entry of another database costs its header. A damaged file has no summary that
 * could be trusted to hide nothing, and is read header by header.
 */
#include "core/journal_internal.h"

#include <stdlib.h>

struct ms_journal_reader {
	struct ms_journal *j;
	char *db; /* NULL: all */
	size_t db_len;
	uint64_t hash;
	struct msj_file *f; /* NULL: to be looked up by scan.next */
	struct msj_scan scan;
	uint64_t from;	 /* entries before it are only passed over */
	uint64_t chunk;	 /* the stretch that has been looked up in the summary */
	uint64_t beyond; /* from_seq when the journal does not reach it, else 0 */
	char *name;	 /* of the entry returned */
	size_t name_cap;
};

enum ms_code ms_journal_reader_new(struct ms_journal *j, const char *db, size_t db_len, uint64_t from_seq,
				   struct ms_journal_reader **ret, struct ms_err *err) {
	struct ms_journal_reader *r = calloc(1, sizeof *r);
	if (!r || (db && !(r->db = malloc(db_len + 1)))) {
		free(r);
		return ms_err_set(err, MS_ENOMEM, "journal reader");
	}
	r->j = j;
	if (db) {
		memcpy(r->db, db, db_len);
		r->db[db_len] = '\0';
		r->db_len = db_len;
		r->hash = msj_name_hash(db, db_len);
	}
	uint64_t next = ms_journal_next_seq(j);
	if (from_seq > next) {
		r->beyond = from_seq;
		from_seq = next;
	}
	r->from = r->scan.next = from_seq ? from_seq : 1;
	*ret = r;
	return MS_OK;
}

static void leave(struct ms_journal_reader *r) {
	if (!r->f)
		return;
	struct ms_journal *j = r->j;
	pthread_mutex_lock(&j->mu);
	if (--r->f->users == 0 && r->f->fh && (r->f->sealed || j->ended)) {
		j->env->ops->close(r->f->fh);
		r->f->fh = NULL;
	}
	msj_file_unref(j, r->f);
	pthread_mutex_unlock(&j->mu);
	r->f = NULL;
}

void ms_journal_reader_free(struct ms_journal_reader *r) {
	if (!r)
		return;
	leave(r);
	msj_window_release(&r->scan.w);
	free(r->db);
	free(r->name);
	free(r);
}

uint64_t ms_journal_reader_seq(const struct ms_journal_reader *r) {
	return r->scan.next > r->from ? r->scan.next : r->from;
}

/* Finds the file that holds scan.next and a place in it at or before that entry. */
static enum ms_code enter(struct ms_journal_reader *r, struct ms_err *err) {
	struct ms_journal *j = r->j;
	uint64_t seq = ms_journal_reader_seq(r);
	enum ms_code rc = MS_OK;

	pthread_mutex_lock(&j->mu);
	size_t lo = 0, hi = j->nfiles;
	while (lo < hi) { /* the first file that begins behind seq */
		size_t mid = (lo + hi) / 2;
		if (j->files[mid]->first <= seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	struct msj_file *f = lo ? j->files[lo - 1] : NULL;
	if (!f || (seq > f->last && lo < j->nfiles)) {
		uint64_t next = j->files[lo]->first;
		rc = ms_err_set(err, MS_EGAP,
				f ? "%s: entries %llu to %llu are missing or damaged"
				  : "%s: entries %llu to %llu have been purged",
				j->dir, (unsigned long long)seq, (unsigned long long)next - 1);
		r->from = r->scan.next = next;
		goto out;
	}
	if (!f->fh) {
		char path[4096];
		if ((rc = msj_path(path, j->dir, f->name, err)) != MS_OK ||
		    (rc = j->env->ops->open(j->env, path, MS_O_RDONLY, 0, &f->fh, err)) != MS_OK)
			goto out;
	}
	f->refs++;
	f->users++;
	r->f = f;
	r->scan.first = f->first;
	r->scan.off = MSJ_FILE_HEADER;
	r->scan.next = f->first;
	uint32_t a = 0, b = f->nchunks;
	while (a < b) {
		uint32_t mid = (a + b) / 2;
		if (f->chunks[mid].first <= seq)
			a = mid + 1;
		else
			b = mid;
	}
	if (a) {
		r->scan.off = f->chunks[a - 1].off;
		r->scan.next = f->chunks[a - 1].first;
	}
	msj_file_recent(f, seq, &r->scan.next, &r->scan.off);
	r->from = seq;
	r->chunk = UINT64_MAX;
	msj_window_set(&r->scan.w, j->env, f->fh, atomic_load(&f->durable_off));
out:
	pthread_mutex_unlock(&j->mu);
	return rc;
}

/* Jumps over stretches without an entry of this database. */
static void skip_chunks(struct ms_journal_reader *r) {
	struct ms_journal *j = r->j;
	struct msj_file *f = r->f;

	pthread_mutex_lock(&j->mu);
	uint64_t durable = atomic_load(&j->durable);
	uint32_t a = 0, b = f->nchunks;
	while (a < b) {
		uint32_t mid = (a + b) / 2;
		if (f->chunks[mid].off <= r->scan.off)
			a = mid + 1;
		else
			b = mid;
	}
	/* a: the first stretch behind. A stretch is complete, and may be jumped over, once there is one behind it. */
	if (a && f->chunks[a - 1].off == r->scan.off) {
		while (a < f->nchunks && f->chunks[a].first <= durable + 1 && !msj_chunk_has(&f->chunks[a - 1], r->hash)) {
			r->scan.off = f->chunks[a].off;
			r->scan.next = f->chunks[a].first;
			a++;
		}
	}
	pthread_mutex_unlock(&j->mu);
	r->chunk = r->scan.off / MSJ_CHUNK;
}

/* Bad bytes between entries that were durable. */
static enum ms_code gap(struct ms_journal_reader *r, uint64_t from, uint64_t to, struct ms_err *err) {
	if (from < r->from)
		from = r->from;
	return ms_err_set(err, MS_EGAP, "%s/%s: entries %llu to %llu are damaged (at offset %llu)", r->j->dir, r->f->name,
			  (unsigned long long)from, (unsigned long long)to, (unsigned long long)r->scan.off);
}

static enum ms_code copy_name(struct ms_journal_reader *r, const uint8_t *name, size_t len, struct ms_err *err) {
	if (len >= r->name_cap) {
		size_t cap = len < 256 ? 256 : len + 1;
		char *p = realloc(r->name, cap);
		if (!p)
			return ms_err_set(err, MS_ENOMEM, "database name of %zu bytes", len);
		r->name = p;
		r->name_cap = cap;
	}
	memcpy(r->name, name, len);
	r->name[len] = '\0';
	return MS_OK;
}

enum ms_code ms_journal_reader_next(struct ms_journal_reader *r, struct ms_journal_entry *ret, struct ms_err *err) {
	struct ms_journal *j = r->j;
	enum ms_code rc;

	if (r->beyond) {
		uint64_t want = r->beyond;
		r->beyond = 0;
		return ms_err_set(err, MS_EGAP, "%s: the journal ends at sequence %llu, before %llu that was expected in it",
				  j->dir, (unsigned long long)r->from - 1, (unsigned long long)want);
	}
	if (r->scan.w.cap > MSJ_WINDOW)
		msj_window_trim(&r->scan.w);
	for (;;) {
		struct msj_head h;
		struct msj_damage d;
		enum msj_event ev;
		uint64_t durable = atomic_load(&j->durable);
		if (ms_journal_reader_seq(r) > durable) {
			msj_window_release(&r->scan.w); /* ten thousand idle readers shall not hold a window each */
			if (r->f)
				msj_window_set(&r->scan.w, j->env, r->f->fh, atomic_load(&r->f->durable_off));
			return ms_err_set(err, MS_ENOTFOUND, "%s: sequence %llu is not durable yet", j->dir,
					  (unsigned long long)durable + 1);
		}
		if (!r->f && (rc = enter(r, err)) != MS_OK)
			return rc;
		struct msj_scan *s = &r->scan;
		s->w.limit = atomic_load(&r->f->durable_off);
		if (s->off == s->w.limit) {
			leave(r);
			continue;
		}
		if (r->db && !r->f->damaged && s->off / MSJ_CHUNK != r->chunk) {
			skip_chunks(r);
			continue;
		}
		uint64_t off = s->off;
		if ((rc = msj_scan_next(s, &ev, &h, &d, err)) != MS_OK)
			return rc;
		if (ev == MSJ_END || ev == MSJ_NOTE)
			continue;
		if (ev == MSJ_LOST) {
			if (s->next > r->from && d.lost)
				return gap(r, d.from, s->next - 1, err);
			continue;
		}
		if (ev == MSJ_TAIL) {
			pthread_mutex_lock(&j->mu);
			bool active = r->f == msj_active(j);
			uint64_t last = active ? atomic_load(&j->durable) : r->f->last;
			uint64_t end = atomic_load(&r->f->durable_off);
			pthread_mutex_unlock(&j->mu);
			uint64_t from = s->next;
			s->off = end;
			if (!active)
				leave(r); /* the next file's first sequence tells what is missing */
			if (last < from)
				continue;
			s->next = last + 1;
			if (s->next <= r->from)
				continue;
			return ms_err_set(err, MS_EGAP, "%s: entries %llu to %llu are damaged", j->dir,
					  (unsigned long long)(from > r->from ? from : r->from), (unsigned long long)last);
		}
		if (h.seq < r->from)
			continue;
		bool unnamed = h.flags & MS_ENTRY_UNNAMED;
		const uint8_t *name = unnamed ? (const uint8_t *)j->default_db : h.name;
		size_t name_len = unnamed ? strlen(j->default_db) : h.name_len;
		if (r->db && (name_len != r->db_len || memcmp(name, r->db, name_len) != 0))
			continue;
		if ((h.flags & (MS_ENTRY_CONTINUES | MS_ENTRY_FOLLOWS)) && j->abandoned.n &&
		    msj_runs_hold(&j->abandoned, h.seq, name, name_len))
			continue;
		const uint8_t *payload;
		bool ok;
		rc = msj_payload_load(s, &h, &ok, &name, &payload, err);
		if (rc != MS_OK) { /* out of memory, or a read that may work the next time */
			s->off = off;
			s->next = h.seq;
			return rc;
		}
		if (!ok)
			return gap(r, h.seq, h.seq, err);
		const char *db = unnamed ? j->default_db : r->db;
		if (!db) {
			if ((rc = copy_name(r, name, name_len, err)) != MS_OK) {
				s->off = off;
				s->next = h.seq;
				return rc;
			}
			db = r->name;
		}
		*ret = (struct ms_journal_entry){.seq = h.seq,
						 .time_us = h.time_us,
						 .flags = h.flags,
						 .db = db,
						 .db_len = name_len,
						 .payload = payload,
						 .len = h.len};
		return MS_OK;
	}
}
