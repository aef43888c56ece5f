/* The journal's handle: open with repair, close, purge, figures. */
#include "core/journal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "core/journal_internal.h"

#define MAX_ASIDE 1000

enum ms_code msj_files_push(struct ms_journal *j, struct msj_file *f, struct ms_err *err) {
	if (j->nfiles == j->files_cap) {
		size_t cap = j->files_cap ? j->files_cap * 2 : 16;
		struct msj_file **v = realloc(j->files, cap * sizeof *v);
		if (!v)
			return ms_err_set(err, MS_ENOMEM, "list of %zu journal files", cap);
		j->files = v;
		j->files_cap = cap;
	}
	j->files[j->nfiles++] = f;
	j->total += f->size;
	return MS_OK;
}

void msj_file_unref(struct ms_journal *j, struct msj_file *f) {
	if (--f->refs)
		return;
	if (f->fh)
		j->env->ops->close(f->fh);
	msj_file_free(f);
}

enum ms_code msj_file_create(struct ms_journal *j, uint64_t first, struct msj_file **ret, struct ms_err *err) {
	const struct ms_env_ops *ops = j->env->ops;
	struct msj_file_header h = {.first = first, .version = 1, .created_us = ms_env_now_us(j->env)};
	uint8_t raw[MSJ_FILE_HEADER];
	char path[4096];
	struct ms_file *fh = NULL;
	int64_t size;
	enum ms_code rc;

	struct msj_file *f = calloc(1, sizeof *f);
	if (!f)
		return ms_err_set(err, MS_ENOMEM, "journal file");
	f->refs = 1;
	f->first = first;
	f->last = first - 1;
	f->size = MSJ_FILE_HEADER;
	f->created_us = h.created_us;
	atomic_store(&f->durable_off, MSJ_FILE_HEADER);
	snprintf(f->name, sizeof f->name, "journal-%016llx.msj", (unsigned long long)first);
	if ((rc = msj_path(path, j->dir, f->name, err)) != MS_OK ||
	    (rc = ops->open(j->env, path, MS_O_RDWR | MS_O_CREATE, 0600, &fh, err)) != MS_OK)
		goto fail;
	/* What an attempt that failed left behind holds no entry, because this sequence has not been given out. */
	if ((rc = ops->fsize(fh, &size, err)) != MS_OK)
		goto fail;
	if (size > (int64_t)MSJ_FILE_HEADER) {
		rc = ms_err_set(err, MS_EEXISTS,
				"%s: holds %lld bytes where a new journal file is due; is another daemon writing here?", path,
				(long long)size);
		goto fail;
	}
	msj_file_header_put(raw, &h);
	if ((rc = ops->pwrite(fh, raw, sizeof raw, 0, err)) != MS_OK || (rc = ops->fsync(fh, err)) != MS_OK ||
	    (rc = ops->fsync_dir(j->env, j->dir, err)) != MS_OK)
		goto fail;
	f->fh = fh;
	*ret = f;
	return MS_OK;
fail:
	ops->close(fh);
	msj_file_free(f);
	return rc;
}

/* Renames a file, to a name that is free: what was set aside is never replaced. */
static enum ms_code set_aside(struct ms_journal *j, struct msj_file *f, const char *suffix, struct ms_err *err) {
	char from[4096], to[4096], name[MSJ_NAME_CAP];
	struct ms_stat st;
	enum ms_code rc;

	if ((rc = msj_path(from, j->dir, f->name, err)) != MS_OK)
		return rc;
	for (int i = 1; i < MAX_ASIDE; i++) {
		int n = i == 1 ? snprintf(name, sizeof name, "%s%s", f->name, suffix)
			       : snprintf(name, sizeof name, "%s%s-%d", f->name, suffix, i);
		if (n >= (int)sizeof name)
			return ms_err_set(err, MS_ETOOBIG, "%s%s: name too long", f->name, suffix);
		if ((rc = msj_path(to, j->dir, name, err)) != MS_OK)
			return rc;
		struct ms_err e = MS_ERR_INIT;
		rc = j->env->ops->stat(j->env, to, &st, &e);
		if (rc == MS_OK)
			continue;
		if (rc != MS_ENOTFOUND) {
			if (err)
				*err = e;
			return rc;
		}
		if ((rc = j->env->ops->rename(j->env, from, to, err)) != MS_OK ||
		    (rc = j->env->ops->fsync_dir(j->env, j->dir, err)) != MS_OK)
			return rc;
		memcpy(f->name, name, sizeof name);
		return MS_OK;
	}
	return ms_err_set(err, MS_EEXISTS, "%s: %d files of this name are set aside already", from, MAX_ASIDE);
}

/* Opens the newest file for writing. After a mere kill, or behind a torn tail, it holds what no sync has covered: that is made
 * durable now, before anything is written behind it and before anybody reads it as durable. */
static enum ms_code open_newest(struct ms_journal *j, struct msj_file *f, bool torn, struct ms_err *err) {
	char path[4096];
	enum ms_code rc = msj_path(path, j->dir, f->name, err);
	if (rc != MS_OK || (rc = j->env->ops->open(j->env, path, MS_O_RDWR, 0, &f->fh, err)) != MS_OK ||
	    (torn && (rc = j->env->ops->truncate(f->fh, (int64_t)f->size, err)) != MS_OK) ||
	    (rc = j->env->ops->fsync(f->fh, err)) != MS_OK)
		return rc;
	return j->env->ops->fsync_dir(j->env, j->dir, err);
}

/* Makes the directory what the writer expects: a whole newest file, damaged ones set aside. */
static enum ms_code repair(struct ms_journal *j, struct msj_dir *d, struct ms_err *err) {
	struct msj_file *newest = d->n && !d->newest_headless ? d->files[d->n - 1] : NULL;
	enum ms_code rc;

	if (newest && !newest->quarantined) {
		if ((rc = open_newest(j, newest, d->newest_torn, err)) != MS_OK)
			return rc;
		newest->sealed = newest->damaged;
	}
	for (size_t i = 0; i < d->n; i++) {
		struct msj_file *f = d->files[i];
		if (f->damaged && !f->quarantined) {
			if ((rc = set_aside(j, f, ".quarantine", err)) != MS_OK)
				return rc;
			f->quarantined = true;
		}
		f->damaged = f->quarantined;
		if (f->quarantined)
			j->stats.quarantined_files++;
	}
	if (newest && newest->sealed && newest->fh) {
		j->env->ops->close(newest->fh);
		newest->fh = NULL;
	}
	return MS_OK;
}

static enum ms_code adopt(struct ms_journal *j, struct msj_dir *d, struct ms_err *err) {
	enum ms_code rc;
	size_t n = d->n;

	if (n && d->newest_headless) /* rewritten below, under the same name */
		msj_file_free(d->files[--n]);
	d->n = 0;
	for (size_t i = 0; i < n; i++) {
		rc = msj_files_push(j, d->files[i], err);
		if (rc != MS_OK) {
			while (i < n)
				msj_file_unref(j, d->files[i++]);
			return rc;
		}
	}
	j->stats.recovered_files = n;
	j->stats.recovered_entries = d->entries;
	j->stats.corrupt_entries = d->corrupt;
	j->stats.lost_bytes = d->lost_bytes;
	j->stats.torn_bytes = d->torn_bytes;
	j->next = d->next;
	j->abandoned = d->abandoned;
	memset(&d->abandoned, 0, sizeof d->abandoned);
	if (!j->nfiles || msj_active(j)->sealed) {
		struct msj_file *f;
		if ((rc = msj_file_create(j, j->next, &f, err)) != MS_OK)
			return rc;
		if ((rc = msj_files_push(j, f, err)) != MS_OK) {
			msj_file_unref(j, f);
			return rc;
		}
	}
	j->written_seq = j->next - 1;
	j->written_off = msj_active(j)->size;
	atomic_store(&j->durable, j->next - 1);
	return MS_OK;
}

enum ms_code ms_journal_open(struct ms_env *env, const char *dir, const struct ms_journal_config *cfg, struct ms_journal **ret,
			     struct ms_err *err) {
	struct msj_dir d = {0};
	enum ms_code rc;

	if (cfg->payload_max > MS_JOURNAL_PAYLOAD_MAX)
		return ms_err_set(err, MS_EINVAL, "%s: payload cap of %llu bytes, at most %u are possible", dir,
				  (unsigned long long)cfg->payload_max, MS_JOURNAL_PAYLOAD_MAX);
	struct ms_journal *j = calloc(1, sizeof *j);
	if (!j)
		return ms_err_set(err, MS_ENOMEM, "journal");
	pthread_mutex_init(&j->mu, NULL);
	pthread_cond_init(&j->cond, NULL);
	j->env = env;
	j->cfg = *cfg;
	j->cfg.payload_max = cfg->payload_max ? cfg->payload_max : MS_JOURNAL_PAYLOAD_MAX;
	j->cfg.max_size_bytes = cfg->max_size_bytes ? cfg->max_size_bytes : 64u << 20;
	j->cfg.max_age_us = cfg->max_age_us ? cfg->max_age_us : 3600000000ll;
	j->cfg.buffer_size = cfg->buffer_size ? cfg->buffer_size : 10000;
	j->rotate_size = j->cfg.max_size_bytes;
	if (cfg->max_bytes && cfg->max_bytes / 8 < j->rotate_size)
		j->rotate_size = cfg->max_bytes / 8; /* the cap shall not be one file that cannot be purged */
	j->dir = strdup(dir);
	j->default_db = strdup(cfg->default_db ? cfg->default_db : "default");
	j->in = &j->buf[0];
	j->out = &j->buf[1];
	for (int i = 0; i < 2; i++) {
		j->buf[i].cap = MSJ_WBUF;
		j->buf[i].data = malloc(MSJ_WBUF);
	}
	j->link = msj_link_new(j);
	if (!j->link || !j->dir || !j->default_db || !j->in->data || !j->out->data) {
		rc = ms_err_set(err, MS_ENOMEM, "%s: journal buffers", dir);
		goto fail;
	}
	j->cfg.default_db = j->default_db;
	j->default_hash = msj_name_hash(j->default_db, strlen(j->default_db));
	if ((rc = ms_fs_mkdir_p(env, dir, 0700, err)) != MS_OK ||
	    (rc = msj_dir_read(env, dir, NULL, j->default_db, &d, err)) != MS_OK)
		goto fail;
	rc = repair(j, &d, err);
	if (rc == MS_OK)
		rc = adopt(j, &d, err);
	for (size_t i = 0; i < d.n; i++)
		env->ops->close(d.files[i]->fh);
	msj_dir_release(&d);
	if (rc != MS_OK)
		goto fail;
	*ret = j;
	return MS_OK;
fail:
	ms_journal_free(j);
	return rc;
}

/* Best effort: with the mark at its end, every entry of the file is known to have been durable. Owns the file. */
static void put_mark(struct ms_journal *j) {
	struct msj_file *f = msj_active(j);
	uint8_t raw[MSJ_HEAD];
	uint64_t last = j->next - 1;
	struct msj_head h = {
	    .off = f->size, .seq = last, .durable = last, .size = MSJ_HEAD, .time_us = ms_env_now_us(j->env), .flags = MSJ_MARK};

	if (f->last < f->first || f->marked)
		return;
	msj_head_put(raw, &h, f->first, "");
	msj_head_seal(raw, h.hcrc);
	if (j->env->ops->pwrite(f->fh, raw, sizeof raw, (int64_t)f->size, NULL) != MS_OK ||
	    j->env->ops->fdatasync(f->fh, NULL) != MS_OK)
		return;
	f->size += MSJ_HEAD;
	f->marked = true;
	j->total += MSJ_HEAD;
	atomic_store(&f->durable_off, f->size);
}

enum ms_code ms_journal_close(struct ms_journal *j, struct ms_err *err) {
	pthread_mutex_lock(&j->mu);
	bool was = j->closed;
	j->closed = true;
	while (!was && j->exclusive)
		pthread_cond_wait(&j->cond, &j->mu);
	pthread_mutex_unlock(&j->mu);
	if (was)
		return MS_OK;
	enum ms_code rc = ms_journal_sync(j, UINT64_MAX, err);
	pthread_mutex_lock(&j->mu);
	while (j->syncing || j->writing || j->purging)
		pthread_cond_wait(&j->cond, &j->mu);
	j->ended = true;
	struct msj_file *f = msj_active(j);
	if (j->dirty_tail && j->env->ops->truncate(f->fh, (int64_t)j->written_off, NULL) == MS_OK)
		j->dirty_tail = false;
	if (rc == MS_OK && !j->dirty_tail && j->poison.code == MS_OK)
		put_mark(j);
	if (!f->users) {
		j->env->ops->close(f->fh);
		f->fh = NULL;
	}
	pthread_cond_broadcast(&j->cond);
	pthread_mutex_unlock(&j->mu);
	if (j->timer)
		j->env->ops->timer_free(j->timer);
	j->timer = NULL;
	return rc;
}

void ms_journal_free(struct ms_journal *j) {
	if (!j)
		return;
	msj_link_leave(j->link);
	if (j->timer)
		j->env->ops->timer_free(j->timer);
	ms_journal_reader_free(j->hook_reader);
	for (size_t i = 0; i < j->nfiles; i++)
		msj_file_unref(j, j->files[i]);
	free(j->files);
	msj_runs_release(&j->runs);
	msj_runs_release(&j->abandoned);
	for (int i = 0; i < 2; i++)
		free(j->buf[i].data);
	free(j->dir);
	free(j->default_db);
	pthread_cond_destroy(&j->cond);
	pthread_mutex_destroy(&j->mu);
	free(j);
}

uint64_t ms_journal_durable_seq(struct ms_journal *j) {
	return atomic_load(&j->durable);
}

uint64_t ms_journal_next_seq(struct ms_journal *j) {
	pthread_mutex_lock(&j->mu);
	uint64_t next = j->next;
	pthread_mutex_unlock(&j->mu);
	return next;
}

/* ---- purge ---- */

/* The oldest file goes: unlinked, or renamed when it is damaged. Each removal is durable before the next, so that a crash leaves
 * no hole. */
static enum ms_code remove_file(struct ms_journal *j, struct msj_file *f, struct ms_err *err) {
	char path[4096];
	enum ms_code rc;

	if (f->quarantined)
		return set_aside(j, f, ".kept", err);
	if ((rc = msj_path(path, j->dir, f->name, err)) != MS_OK)
		return rc;
	struct ms_err e = MS_ERR_INIT;
	if ((rc = j->env->ops->unlink(j->env, path, &e)) != MS_OK && rc != MS_ENOTFOUND) {
		if (err)
			*err = e;
		return rc;
	}
	return j->env->ops->fsync_dir(j->env, j->dir, err);
}

enum ms_code ms_journal_purge(struct ms_journal *j, uint64_t keep_from, uint64_t *ret_files, uint64_t *ret_bytes,
			      struct ms_err *err) {
	enum ms_code rc = MS_OK;

	*ret_files = *ret_bytes = 0;
	pthread_mutex_lock(&j->mu);
	while (j->purging)
		pthread_cond_wait(&j->cond, &j->mu);
	j->purging = true;
	if (j->cfg.max_bytes && !j->closed && msj_active(j)->last < keep_from && j->total > j->cfg.max_bytes / 2)
		rc = msj_rotate(j, msj_active(j), err);
	while (rc == MS_OK && j->nfiles > 1 && j->files[0]->last < keep_from) {
		struct msj_file *f = j->files[0];
		j->nfiles--; /* first out of the readers' sight */
		memmove(j->files, j->files + 1, j->nfiles * sizeof *j->files);
		pthread_mutex_unlock(&j->mu);
		rc = remove_file(j, f, err);
		pthread_mutex_lock(&j->mu);
		if (rc != MS_OK) { /* there was room for it */
			memmove(j->files + 1, j->files, j->nfiles * sizeof *j->files);
			j->files[0] = f;
			j->nfiles++;
			break;
		}
		j->total -= f->size;
		++*ret_files;
		*ret_bytes += f->size;
		if (f->quarantined)
			j->stats.quarantined_files--;
		msj_file_unref(j, f);
	}
	j->purging = false;
	pthread_cond_broadcast(&j->cond);
	pthread_mutex_unlock(&j->mu);
	return rc;
}

enum ms_code ms_journal_purge_all(struct ms_journal *j, uint64_t *ret_files, uint64_t *ret_bytes, struct ms_err *err) {
	enum ms_code rc = MS_OK;

	*ret_files = *ret_bytes = 0;
	pthread_mutex_lock(&j->mu);
	struct msj_file *f = msj_active(j);
	bool empty = f->last < f->first, closed = j->closed;
	if (!empty && !closed) {
		rc = j->poison.code != MS_OK ? msj_poisoned(j, err) : msj_rotate(j, f, err);
	} else if (!empty) {
		struct msj_file *next;
		if ((rc = msj_file_create(j, j->next, &next, err)) == MS_OK) {
			j->env->ops->close(next->fh);
			next->fh = NULL;
			if ((rc = msj_files_push(j, next, err)) != MS_OK)
				msj_file_unref(j, next);
			else
				f->sealed = true;
		}
	}
	uint64_t keep = msj_active(j)->first;
	pthread_mutex_unlock(&j->mu);
	return rc == MS_OK ? ms_journal_purge(j, keep, ret_files, ret_bytes, err) : rc;
}

/* ---- figures ---- */

void ms_journal_get_stats(struct ms_journal *j, struct ms_journal_stats *ret) {
	pthread_mutex_lock(&j->mu);
	*ret = j->stats;
	ret->files = j->nfiles;
	ret->total_bytes = j->total;
	ret->next_seq = j->next;
	ret->durable_seq = atomic_load(&j->durable);
	ret->first_seq = j->files[0]->first;
	snprintf(ret->current_file, sizeof ret->current_file, "%s", msj_active(j)->name);
	pthread_mutex_unlock(&j->mu);
}

void ms_journal_list(struct ms_journal *j,
		     void (*cb)(void *arg, const char *name, uint64_t first, uint64_t last, uint64_t bytes, bool active),
		     void *arg) {
	/* A file at a time, by its first sequence, so that cb may call the journal. */
	for (uint64_t from = 0;;) {
		char name[MSJ_NAME_CAP];
		uint64_t first = 0, last = 0, size = 0;
		bool active = false, found = false;
		pthread_mutex_lock(&j->mu);
		for (size_t i = 0; i < j->nfiles && !found; i++) {
			const struct msj_file *f = j->files[i];
			if (f->first < from || (f->last < f->first && i + 1 < j->nfiles))
				continue;
			found = true;
			first = f->first, last = f->last, size = f->size;
			active = i + 1 == j->nfiles;
			memcpy(name, f->name, sizeof name);
		}
		pthread_mutex_unlock(&j->mu);
		if (!found)
			return;
		cb(arg, name, first, last, size, active);
		from = last >= first ? last + 1 : first + 1;
	}
}
