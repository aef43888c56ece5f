/*
 * Reading a journal directory: which entries are there, which transactions are whole, where damage lies.
 *
 * Torn tail or damage? Every entry says up to which sequence the writer knew the journal to be synced. D is the highest such
 * claim in the newest file. The first bad place whose sequence is above D was never acknowledged by a sync: from there on
 * everything is a torn tail and is cut, valid entries behind it included (the kernel writes back in any order). Bad bytes at or
 * below D were durable once: that is damage; the scan goes on behind it, the file is set aside, nothing is deleted. In every
 * older file, which was synced as a whole before its successor was created, everything was durable.
 *
 * Whole or not at all: an entry with MS_ENTRY_CONTINUES is followed by one with MS_ENTRY_FOLLOWS of the same database. A run
 * whose next entry does not follow, that begins with one that follows, that has lost something, or that ends with the journal, is
 * not whole; its entries stay in the files (their sequences have been given out) and no reader gets them after recovery.
 */
#include "core/journal_internal.h"

#include <stdlib.h>

#define BATCH_BYTES (16u << 20)

struct names {
	struct msj_dir *d;
	const char *skip;
	enum ms_code rc;
	struct ms_err *err;
};

static enum ms_code dir_push(struct msj_dir *d, struct msj_file *f, struct ms_err *err) {
	if (d->n == d->cap) {
		size_t cap = d->cap ? d->cap * 2 : 16;
		struct msj_file **v = realloc(d->files, cap * sizeof *v);
		if (!v)
			return ms_err_set(err, MS_ENOMEM, "list of %zu journal files", cap);
		d->files = v;
		d->cap = cap;
	}
	d->files[d->n++] = f;
	return MS_OK;
}

static bool on_name(void *arg, const char *name, bool is_dir) {
	struct names *n = arg;
	uint64_t first;
	bool quarantined;

	if (is_dir || !msj_name_parse(name, &first, &quarantined))
		return true;
	struct msj_file *f = calloc(1, sizeof *f);
	if (!f) {
		n->rc = ms_err_set(n->err, MS_ENOMEM, "journal file");
		return false;
	}
	f->first = first;
	f->last = first - 1;
	f->refs = 1;
	f->quarantined = quarantined;
	memcpy(f->name, name, strlen(name) + 1);
	if ((n->rc = dir_push(n->d, f, n->err)) != MS_OK)
		msj_file_free(f);
	return n->rc == MS_OK;
}

static int by_first(const void *a, const void *b) {
	const struct msj_file *x = *(struct msj_file *const *)a, *y = *(struct msj_file *const *)b;
	if (x->first != y->first)
		return x->first < y->first ? -1 : 1;
	return (int)y->quarantined - (int)x->quarantined; /* what was set aside comes before its successor */
}

void msj_dir_release(struct msj_dir *d) {
	for (size_t i = 0; i < d->n; i++)
		msj_file_free(d->files[i]);
	free(d->files);
	msj_runs_release(&d->open);
	msj_runs_release(&d->abandoned);
	memset(d, 0, sizeof *d);
}

/* Size and header of one file. */
static enum ms_code read_header(struct ms_env *env, const char *dir, struct msj_file *f, bool newest, bool *ret_headless,
				struct ms_err *err) {
	char path[4096];
	struct ms_file *fh;
	uint8_t raw[MSJ_FILE_HEADER];
	struct msj_file_header h;
	int64_t size;
	size_t n;
	enum ms_code rc;

	if ((rc = msj_path(path, dir, f->name, err)) != MS_OK ||
	    (rc = env->ops->open(env, path, MS_O_RDONLY, 0, &fh, err)) != MS_OK)
		return rc;
	if ((rc = env->ops->fsize(fh, &size, err)) == MS_OK)
		rc = env->ops->pread(fh, raw, sizeof raw, 0, &n, err);
	env->ops->close(fh);
	if (rc != MS_OK)
		return rc;
	f->size = (uint64_t)size;
	if (n == sizeof raw && msj_file_header_get(raw, &h)) {
		if (h.version != 1 || h.features)
			return ms_err_set(err, MS_EUNSUPPORTED,
					  "%s: journal version %u with features %llx; this program reads version 1 without any",
					  path, h.version, (unsigned long long)h.features);
		if (h.first != f->first) { /* renamed: the name is not what the checksums were made with */
			f->damaged = true;
			f->first = h.first;
			f->last = h.first - 1;
		}
		f->created_us = h.created_us;
	} else if (newest && f->size <= MSJ_FILE_HEADER && !f->quarantined) {
		*ret_headless = true;
	} else {
		f->damaged = true;
	}
	return MS_OK;
}

struct reader {
	struct ms_env *env;
	struct msj_scan scan;
	struct ms_file *fh;
	char path[4096];
};

static enum ms_code reader_open(struct reader *r, struct ms_env *env, const char *dir, const struct msj_file *f,
				struct ms_err *err) {
	enum ms_code rc = msj_path(r->path, dir, f->name, err);
	if (rc != MS_OK || (rc = env->ops->open(env, r->path, MS_O_RDONLY, 0, &r->fh, err)) != MS_OK)
		return rc;
	r->env = env;
	return MS_OK;
}

static void reader_start(struct reader *r, const struct msj_file *f, uint64_t limit) {
	msj_window_set(&r->scan.w, r->env, r->fh, limit);
	r->scan.first = r->scan.next = f->first;
	r->scan.off = MSJ_FILE_HEADER < limit ? MSJ_FILE_HEADER : limit;
}

static void reader_close(struct reader *r) {
	if (r->fh)
		r->env->ops->close(r->fh);
	r->fh = NULL;
}

/* One pass over the newest file. D of the comment above; the first bad place with a sequence above `above`. */
static enum ms_code probe(struct reader *r, const struct msj_file *f, uint64_t above, uint64_t *ret_durable, uint64_t *ret_bad,
			  struct ms_err *err) {
	uint64_t durable = f->first - 1; /* the file's predecessor was synced before the file came to be */
	*ret_bad = UINT64_MAX;
	reader_start(r, f, f->size);
	for (;;) {
		enum msj_event ev;
		struct msj_head h;
		struct msj_damage d;
		uint64_t off = r->scan.off, bad = 0;
		bool ok = true;
		enum ms_code rc = msj_scan_next(&r->scan, &ev, &h, &d, err);
		if (rc != MS_OK)
			return rc;
		if (ev == MSJ_ENTRY && (rc = msj_payload_check(&r->scan, &h, &ok, err)) != MS_OK)
			return rc;
		if (ev == MSJ_LOST || ev == MSJ_TAIL)
			bad = d.from;
		else if (ev == MSJ_ENTRY && !ok)
			bad = h.seq;
		if ((ev == MSJ_ENTRY || ev == MSJ_NOTE) && ok && h.durable > durable)
			durable = h.durable;
		if (bad > above && *ret_bad == UINT64_MAX)
			*ret_bad = off;
		if (ev == MSJ_TAIL || ev == MSJ_END)
			break;
	}
	*ret_durable = durable;
	return MS_OK;
}

/* Where the newest file's torn tail begins; its size when it has none. */
static enum ms_code find_cut(struct reader *r, const struct msj_file *f, uint64_t *ret, struct ms_err *err) {
	uint64_t durable, bad, again;
	enum ms_code rc = probe(r, f, 0, &durable, &bad, err);
	if (rc == MS_OK && bad != UINT64_MAX)
		rc = probe(r, f, durable, &again, &bad, err);
	*ret = bad == UINT64_MAX ? f->size : bad;
	return rc;
}

/* ---- transactions ---- */

static enum ms_code abandon(struct msj_dir *d, struct msj_run *run, struct ms_err *err) {
	enum ms_code rc = msj_runs_add(&d->abandoned, run->db, run->db_len, run->first, err);
	if (rc != MS_OK)
		return rc;
	d->abandoned.v[d->abandoned.n - 1].last = run->last;
	msj_runs_remove(&d->open, run);
	return MS_OK;
}

static void break_all(struct msj_dir *d) {
	for (size_t i = 0; i < d->open.n; i++)
		d->open.v[i].broken = true;
}

static enum ms_code track(struct msj_dir *d, uint64_t seq, uint16_t flags, const char *db, size_t db_len, bool readable,
			  struct ms_err *err) {
	struct msj_run *run = d->open.n ? msj_runs_find(&d->open, db, db_len) : NULL;
	enum ms_code rc;

	if (run && !(flags & MS_ENTRY_FOLLOWS)) {
		if ((rc = abandon(d, run, err)) != MS_OK)
			return rc;
		run = NULL;
	}
	if (!run) {
		if (!(flags & (MS_ENTRY_FOLLOWS | MS_ENTRY_CONTINUES)))
			return MS_OK;
		if ((rc = msj_runs_add(&d->open, db, db_len, seq, err)) != MS_OK)
			return rc;
		run = &d->open.v[d->open.n - 1];
		run->broken = flags & MS_ENTRY_FOLLOWS;
	}
	run->last = seq;
	if (!readable)
		run->broken = true;
	if (flags & MS_ENTRY_CONTINUES)
		return MS_OK;
	if (run->broken)
		return abandon(d, run, err);
	msj_runs_remove(&d->open, run);
	return MS_OK;
}

/* ---- one file, one directory ---- */

static enum ms_code scan_file(struct reader *r, struct msj_dir *d, struct msj_file *f, char *name, const char *default_db,
			      struct ms_err *err) {
	size_t default_len = strlen(default_db);

	reader_start(r, f, f->size);
	for (;;) {
		enum msj_event ev;
		struct msj_head h;
		struct msj_damage dm;
		bool ok;
		enum ms_code rc = msj_scan_next(&r->scan, &ev, &h, &dm, err);
		if (rc != MS_OK)
			return rc;
		if (r->scan.next > d->next) /* also behind entries that a valid header proves to have been there */
			d->next = r->scan.next;
		switch (ev) {
		case MSJ_END:
			return MS_OK;
		case MSJ_NOTE:
			f->marked = true;
			break;
		case MSJ_LOST:
			f->damaged = true;
			d->corrupt += dm.lost;
			d->lost_bytes += dm.bytes;
			if (dm.lost)
				break_all(d);
			break;
		case MSJ_TAIL: /* how many entries it was, the next file's name tells */
			f->damaged = true;
			d->lost_bytes += dm.bytes;
			return MS_OK;
		case MSJ_ENTRY: {
			const char *db = h.flags & MS_ENTRY_UNNAMED ? default_db : name;
			size_t db_len = h.flags & MS_ENTRY_UNNAMED ? default_len : h.name_len;
			memcpy(name, h.name, h.name_len);
			if ((rc = msj_payload_check(&r->scan, &h, &ok, err)) != MS_OK)
				return rc;
			if (ok) {
				d->entries++;
			} else {
				f->damaged = true;
				d->corrupt++;
				d->lost_bytes += h.size;
			}
			f->last = h.seq;
			f->marked = false;
			if ((rc = msj_file_note(f, h.off, h.seq, msj_name_hash(db, db_len), err)) != MS_OK ||
			    (rc = track(d, h.seq, h.flags, db, db_len, ok, err)) != MS_OK)
				return rc;
			break;
		}
		}
	}
}

enum ms_code msj_dir_read(struct ms_env *env, const char *dir, const char *skip, const char *default_db, struct msj_dir *ret,
			  struct ms_err *err) {
	struct msj_dir d = {.next = 1};
	struct names names = {&d, skip, MS_OK, err};
	struct reader r = {.env = env};
	bool gap_known = true; /* false behind a file that was skipped */
	char *name = malloc(MS_JOURNAL_NAME_MAX + 1);
	enum ms_code rc;

	if (!name)
		return ms_err_set(err, MS_ENOMEM, "%s: journal recovery", dir);
	rc = env->ops->readdir(env, dir, on_name, &names, err);
	if (rc == MS_OK)
		rc = names.rc;
	if (rc != MS_OK)
		goto out;
	if (d.n)
		qsort(d.files, d.n, sizeof *d.files, by_first);
	for (size_t i = 0; i < d.n; i++)
		if ((!skip || strcmp(d.files[i]->name, skip) != 0) &&
		    (rc = read_header(env, dir, d.files[i], i + 1 == d.n, &d.newest_headless, err)) != MS_OK)
			goto out;
	if (d.n)
		qsort(d.files, d.n, sizeof *d.files, by_first);
	for (size_t i = 0, n = d.n; i < n; i++) {
		struct msj_file *f = d.files[i];
		bool newest = i + 1 == n;
		if (skip && strcmp(f->name, skip) == 0) {
			d.skipped++;
			gap_known = false;
			continue;
		}
		if (i && f->first > d.next && gap_known) {
			d.corrupt += f->first - d.next;
			break_all(&d);
		}
		gap_known = true;
		if (newest && d.newest_headless) {
			d.torn_bytes += f->size;
		} else {
			if ((rc = reader_open(&r, env, dir, f, err)) != MS_OK)
				goto out;
			if (newest && !f->quarantined) {
				uint64_t cut;
				if ((rc = find_cut(&r, f, &cut, err)) != MS_OK)
					goto out;
				d.newest_torn = cut < f->size;
				d.torn_bytes += f->size - cut;
				f->size = cut;
			}
			if ((rc = scan_file(&r, &d, f, name, default_db, err)) != MS_OK)
				goto out;
			reader_close(&r);
		}
		f->sealed = true;
		atomic_store(&f->durable_off, f->size);
		if (f->first > d.next)
			d.next = f->first;
	}
	while (d.open.n)
		if ((rc = abandon(&d, &d.open.v[0], err)) != MS_OK)
			goto out;
out:
	reader_close(&r);
	msj_window_release(&r.scan.w);
	free(name);
	if (rc != MS_OK)
		msj_dir_release(&d);
	else
		*ret = d;
	return rc;
}

/* ---- stand-alone recovery ---- */

struct batch {
	struct ms_journal_entry *v;
	size_t *at; /* offsets into bytes: name, zero, payload */
	unsigned n, cap, max;
	struct ms_buf bytes;
};

static enum ms_code batch_add(struct batch *b, const struct ms_journal_entry *e, struct ms_err *err) {
	enum ms_code rc;
	if (b->n == b->cap) {
		unsigned cap = b->cap ? b->cap * 2 : 64;
		if (b->max && cap > b->max)
			cap = b->max;
		struct ms_journal_entry *v = realloc(b->v, cap * sizeof *v);
		if (v)
			b->v = v;
		size_t *at = realloc(b->at, cap * sizeof *at);
		if (at)
			b->at = at;
		if (!v || !at)
			return ms_err_set(err, MS_ENOMEM, "batch of %u entries", cap);
		b->cap = cap;
	}
	if ((rc = ms_buf_reserve(&b->bytes, e->db_len + 1 + e->len, err)) != MS_OK)
		return rc;
	b->v[b->n] = *e;
	b->at[b->n] = b->bytes.len;
	if ((rc = ms_buf_append(&b->bytes, e->db, e->db_len, err)) != MS_OK ||
	    (rc = ms_buf_append(&b->bytes, "", 1, err)) != MS_OK ||
	    (rc = ms_buf_append(&b->bytes, e->payload, e->len, err)) != MS_OK)
		return rc;
	b->n++;
	return MS_OK;
}

struct sink {
	enum ms_code (*cb)(void *arg, const struct ms_journal_entry *entries, unsigned n, struct ms_err *err);
	void *arg;
	struct ms_journal_recovery_stats *stats;
};

static enum ms_code batch_flush(struct batch *b, const struct sink *to, struct ms_err *err) {
	if (!b->n)
		return MS_OK;
	for (unsigned k = 0; k < b->n; k++) { /* only now does the memory stay where it is */
		b->v[k].db = (const char *)b->bytes.data + b->at[k];
		b->v[k].payload = b->bytes.data + b->at[k] + b->v[k].db_len + 1;
	}
	to->stats->next_seq = b->v[0].seq;
	enum ms_code rc = to->cb(to->arg, b->v, b->n, err);
	if (rc != MS_OK)
		return rc;
	to->stats->batches++;
	to->stats->entries += b->n;
	b->n = 0;
	ms_buf_clear(&b->bytes);
	return MS_OK;
}

enum ms_code ms_journal_recover(struct ms_env *env, const char *dir, const char *skip_file, unsigned batch, uint64_t from_seq,
				enum ms_code (*cb)(void *arg, const struct ms_journal_entry *entries, unsigned n,
						   struct ms_err *err),
				void *arg, struct ms_journal_recovery_stats *ret, struct ms_err *err) {
	static const char default_db[] = "default";
	struct msj_dir d = {0};
	struct batch b = {.max = batch};
	const struct sink to = {cb, arg, ret};
	struct reader r = {.env = env};
	uint64_t start = ms_env_mono_ns(env);
	enum ms_code rc;

	memset(ret, 0, sizeof *ret);
	ret->next_seq = from_seq;
	ms_buf_init(&b.bytes, BATCH_BYTES + MSJ_ENTRY_MAX + 1);
	if ((rc = msj_dir_read(env, dir, skip_file, default_db, &d, err)) != MS_OK)
		goto out;
	ret->skipped_files = d.skipped;
	ret->corrupt = d.corrupt;
	for (size_t i = 0; i < d.n; i++) {
		struct msj_file *f = d.files[i];
		if (!f->sealed) /* the one to skip */
			continue;
		ret->files++;
		if (f->last < from_seq || f->last < f->first)
			continue;
		if ((rc = reader_open(&r, env, dir, f, err)) != MS_OK)
			goto out;
		reader_start(&r, f, f->size);
		for (;;) {
			enum msj_event ev;
			struct msj_head h;
			struct msj_damage dm;
			const uint8_t *name, *payload;
			bool ok;
			if ((rc = msj_scan_next(&r.scan, &ev, &h, &dm, err)) != MS_OK)
				goto out;
			if (ev == MSJ_END || ev == MSJ_TAIL)
				break;
			if (ev != MSJ_ENTRY || h.seq < from_seq)
				continue;
			if ((rc = msj_payload_load(&r.scan, &h, &ok, &name, &payload, err)) != MS_OK)
				goto out;
			struct ms_journal_entry e = {
			    .seq = h.seq, .time_us = h.time_us, .flags = h.flags, .payload = payload, .len = h.len};
			e.db = h.flags & MS_ENTRY_UNNAMED ? default_db : (const char *)name;
			e.db_len = h.flags & MS_ENTRY_UNNAMED ? sizeof default_db - 1 : h.name_len;
			if (!ok || ((h.flags & (MS_ENTRY_CONTINUES | MS_ENTRY_FOLLOWS)) &&
				    msj_runs_hold(&d.abandoned, h.seq, e.db, e.db_len)))
				continue;
			if (((batch && b.n == batch) || b.bytes.len + e.len > BATCH_BYTES) &&
			    (rc = batch_flush(&b, &to, err)) != MS_OK)
				goto out;
			if ((rc = batch_add(&b, &e, err)) != MS_OK)
				goto out;
		}
		reader_close(&r);
	}
	if ((rc = batch_flush(&b, &to, err)) != MS_OK)
		goto out;
	ret->next_seq = d.next > from_seq ? d.next : from_seq;
out:
	ret->duration_us = (int64_t)((ms_env_mono_ns(env) - start) / 1000);
	reader_close(&r);
	msj_window_release(&r.scan.w);
	ms_buf_release(&b.bytes);
	free(b.v);
	free(b.at);
	msj_dir_release(&d);
	return rc;
}
