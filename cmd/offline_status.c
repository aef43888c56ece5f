#include "cmd/offline_status.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "cmd/replica_spec.h"
#include "cmd/shadow.h"
#include "config/schema.h"
#include "core/capture.h"
#include "core/cursor.h"
#include "core/journal_walk.h"
#include "replicas/url.h"

#define BATCH 64u
#define REPLICAS_MAX 256u /* cursor files looked at where no configuration names them */

struct replica {
	bool has_cursor, jump;
	uint64_t from_seq; /* the first entry that it does not hold */
};

struct db {
	struct ms_stream_status *st; /* its workers are filled in step with `replicas` */
	struct replica *replicas;
	uint64_t mark_seq; /* st->db holds everything up to here */
	int64_t base_us;   /* of the state that the generation began with */
	uint64_t open, open_seq, open_bytes; /* transaction under way, 0 none; its first entry and record bytes */
};

struct look {
	struct ms_env *env;
	const char *shadow;
	struct db *dbs, **by_name;
	unsigned n, cap;
	struct ms_journal_stats *journal;
};

static void note(struct ms_stream_status *st, const struct ms_err *err) {
	if (!st->why[0])
		snprintf(st->why, sizeof st->why, "%s", err->msg);
}

/* ---- what is there ---- */

static struct ms_worker_status *add_replica(struct db *d, const char *name) {
	struct ms_stream_status *st = d->st;
	struct ms_worker_status *w = reallocarray(st->workers, st->nworkers + 1, sizeof *w);
	if (w)
		st->workers = w;
	struct replica *r = w ? reallocarray(d->replicas, st->nworkers + 1, sizeof *r) : NULL;
	if (!r)
		return NULL;
	d->replicas = r;
	r[st->nworkers] = (struct replica){0};
	w = &st->workers[st->nworkers++];
	*w = (struct ms_worker_status){.state = MS_WORKER_STOPPED, .required = true};
	snprintf(w->name, sizeof w->name, "%s", name);
	return w;
}

static bool add_local(struct db *d, const char *dir, bool required) {
	struct ms_worker_status *w = add_replica(d, "local");
	if (!w)
		return false;
	snprintf(w->type, sizeof w->type, "file");
	/* A URL that does not fit is left out rather than cut. */
	if (snprintf(w->url, sizeof w->url, "file://%s/replica", dir) >= (int)sizeof w->url)
		w->url[0] = 0;
	w->required = required;
	return true;
}

static enum ms_code configured(struct db *d, const char *dir, const struct ms_config *config, const struct ms_config_database *c, struct ms_err *err) {
	for (unsigned i = 0; i < c->nreplicas; i++) {
		struct ms_replica_spec spec = {0};
		struct ms_worker_status *w = add_replica(d, c->replicas[i].name);
		if (!w)
			return ms_err_set(err, MS_ENOMEM, "status: out of memory");
		w->required = c->replicas[i].required;
		if (ms_replica_spec_from_config(config->file, &c->replicas[i], &spec, err) != MS_OK)
			return err->code;
		snprintf(w->type, sizeof w->type, "%s", spec.scheme);
		(void)ms_url_format(&spec, w->url, sizeof w->url);
		ms_replica_spec_release(&spec);
	}
	if ((!c->nreplicas || c->s.local.enabled) && !add_local(d, dir, !c->nreplicas))
		return ms_err_set(err, MS_ENOMEM, "status: out of memory");
	return MS_OK;
}

struct cursors {
	struct db *d;
	const char *dir;
	bool nomem;
};

/* "cursor-<replica>", but not the temporary file of a replacement that was cut off. */
static bool on_file(void *arg, const char *name, bool is_dir) {
	struct cursors *c = arg;
	const char *replica = name + strlen("cursor-"), *tmp = strstr(name, ".tmp-");
	if (is_dir || strncmp(name, "cursor-", strlen("cursor-")) != 0 || !ms_config_name_valid(replica) || c->d->st->nworkers == REPLICAS_MAX)
		return true;
	if (tmp && strspn(tmp + 5, "0123456789abcdef") == 16 && !tmp[21])
		return true;
	c->nomem = strcmp(replica, "local") == 0 ? !add_local(c->d, c->dir, true) : !add_replica(c->d, replica);
	return !c->nomem;
}

static int by_worker_name(const void *a, const void *b) {
	return strcmp(((const struct ms_worker_status *)a)->name, ((const struct ms_worker_status *)b)->name);
}

static enum ms_code found(struct ms_env *env, struct db *d, const char *dir, struct ms_err *err) {
	struct cursors c = {d, dir, false};
	enum ms_code rc = env->ops->readdir(env, dir, on_file, &c, err);
	if (c.nomem)
		return ms_err_set(err, MS_ENOMEM, "status: out of memory");
	if (rc == MS_OK && d->st->nworkers)
		qsort(d->st->workers, d->st->nworkers, sizeof *d->st->workers, by_worker_name);
	return rc;
}

static enum ms_code read_cursor(struct ms_env *env, struct db *d, uint32_t i, const char *dir, struct ms_err *err) {
	struct ms_worker_status *w = &d->st->workers[i];
	struct ms_cursor c = {0};
	struct ms_stat file;
	char path[MS_PATH_MAX];
	struct ms_err e = MS_ERR_INIT;
	if (snprintf(path, sizeof path, "%s/cursor-%s", dir, w->name) >= (int)sizeof path)
		return ms_err_set(err, MS_ETOOBIG, "path of the cursor of %s", w->name);
	enum ms_code rc = ms_cursor_load(env, path, &c, &e);
	if (rc == MS_ENOTFOUND)
		return MS_OK;
	if (rc != MS_OK) { /* that file alone: the rest of the picture is still worth having */
		snprintf(w->last_error, sizeof w->last_error, "%s", e.msg);
		return MS_OK;
	}
	d->replicas[i] = (struct replica){c.seq != 0, c.base == MS_BASE_JUMP, c.seq};
	w->txid = c.state.txid;
	w->settled_txid = c.settled_txid;
	w->cursor_time_us = c.state.time_us;
	w->last_snapshot_txid = c.snapshot_txid;
	w->last_snapshot_us = c.snapshot_us;
	if (env->ops->stat(env, path, &file, &e) == MS_OK && c.seq)
		w->last_uploaded_us = file.mtime_us;
	/* Nothing restores before a snapshot has come. */
	if (c.base != MS_BASE_THERE)
		w->oldest_unshipped_us = c.state.time_us;
	ms_cursor_release(&c);
	return MS_OK;
}

static enum ms_code read_db(struct look *k, struct db *d, const struct ms_config *config, const struct ms_config_database *c, struct ms_err *err) {
	struct ms_stream_status *st = d->st;
	struct ms_capture_mark mark = {0};
	struct ms_err e = MS_ERR_INIT;
	char dir[MS_PATH_MAX], wal[MS_PATH_MAX + 8];
	struct ms_stat file;
	enum ms_code rc;
	if (snprintf(dir, sizeof dir, "%s/db/%s", k->shadow, st->name) >= (int)sizeof dir)
		return ms_err_set(err, MS_ETOOBIG, "%s: path of the shadow directory is too long", st->name);
	rc = c ? configured(d, dir, config, c, err) : found(k->env, d, dir, err);
	if (rc != MS_OK)
		return rc;
	for (uint32_t i = 0; i < st->nworkers; i++)
		if ((rc = read_cursor(k->env, d, i, dir, err)) != MS_OK)
			return rc;
	if (ms_fs_tree_bytes(k->env, dir, &st->shadow_bytes, &e) != MS_OK && e.code != MS_ENOTFOUND)
		note(st, &e);
	snprintf(wal, sizeof wal, "%s-wal", st->path);
	if (st->path[0] && k->env->ops->stat(k->env, wal, &file, &e) == MS_OK)
		st->wal_bytes = (uint64_t)file.size;
	rc = ms_capture_peek(k->env, dir, &mark, &e);
	if (rc == MS_OK) {
		st->generation = mark.gen.generation;
		st->db = mark.state;
		d->mark_seq = mark.seq;
		d->base_us = mark.gen.base.time_us;
		ms_generation_start_release(&mark.gen);
	} else if (rc != MS_ENOTFOUND) {
		note(st, &e);
	}
	return MS_OK;
}

/* ---- the journal ---- */

static int db_cmp(const void *a, const void *b) { return strcmp((*(struct db *const *)a)->st->name, (*(struct db *const *)b)->st->name); }

static struct db *find(const struct look *k, const struct ms_journal_entry *e) {
	struct ms_stream_status key_st;
	struct db key = {.st = &key_st}, *p = &key, **at;
	if (e->db_len >= sizeof key_st.name || !k->n)
		return NULL;
	memcpy(key_st.name, e->db, e->db_len);
	key_st.name[e->db_len] = 0;
	at = bsearch(&p, k->by_name, k->n, sizeof *k->by_name, db_cmp);
	return at ? *at : NULL;
}

static void on_generation(struct db *d, const struct ms_generation_start *g, uint64_t seq) {
	d->open = 0;
	if (seq <= d->mark_seq)
		return;
	if (d->mark_seq && strcmp(d->st->generation.s, g->generation.s) != 0) {
		struct ms_err e = MS_ERR_INIT;
		(void)ms_err_set(&e, MS_EGAP, "the journal enters generation %s, page sums know %s: the next start begins a new one", g->generation.s,
				 d->st->generation.s);
		note(d->st, &e);
	}
	d->st->generation = g->generation;
	d->base_us = g->base.time_us;
	if (g->base.txid > d->st->db.txid || !d->mark_seq)
		d->st->db = g->base;
}

static void on_transaction(struct db *d, const struct ms_commit *m, uint64_t next_seq) {
	struct ms_stream_status *st = d->st;
	if (next_seq - 1 > d->mark_seq)
		st->db = (struct ms_dbstate){m->txid, m->time_us, m->checksum, m->page_size, m->db_pages};
	for (uint32_t i = 0; i < st->nworkers; i++) {
		struct ms_worker_status *w = &st->workers[i];
		const struct replica *r = &d->replicas[i];
		if (r->has_cursor && d->open_seq < r->from_seq)
			continue;
		w->pending_bytes += d->open_bytes;
		if (!w->oldest_unshipped_us)
			w->oldest_unshipped_us = m->time_us;
	}
}

static enum ms_code on_entry(struct db *d, const struct ms_journal_entry *je, struct ms_err *err) {
	struct ms_stream_entry e;
	struct ms_walk_records r;
	enum ms_code rc = ms_stream_entry_parse(je->payload, je->len, &e, err);
	if (rc != MS_OK)
		return rc;
	if (e.kind == MS_ENTRY_GENERATION) {
		on_generation(d, &e.start, je->seq);
		goto out;
	}
	if (e.flags & MS_RUN_FIRST) {
		d->open = e.txid;
		d->open_seq = je->seq;
		d->open_bytes = 0;
	}
	if (d->open != e.txid)
		goto out; /* its beginning is gone */
	d->open_bytes += e.records_len;
	if (e.flags & MS_RUN_LAST) {
		if ((rc = ms_walk_records(e.records, e.records_len, &r, err)) == MS_OK && r.has_commit)
			on_transaction(d, &r.commit, je->seq + 1);
		d->open = 0;
	}
out:
	ms_stream_entry_release(&e);
	return rc;
}

static enum ms_code on_batch(void *arg, const struct ms_journal_entry *entries, unsigned n, struct ms_err *err) {
	struct look *k = arg;
	(void)err;
	for (unsigned i = 0; i < n; i++) {
		struct db *d = find(k, &entries[i]);
		struct ms_err e = MS_ERR_INIT;
		/* One that makes no sense to us hides nothing else. */
		if (d && on_entry(d, &entries[i], &e) != MS_OK)
			note(d->st, &e);
	}
	return MS_OK;
}

struct files {
	struct look *k;
	const char *dir;
	uint64_t last;
};

static bool on_journal_file(void *arg, const char *name, bool is_dir) {
	struct files *f = arg;
	struct ms_journal_stats *j = f->k->journal;
	char path[MS_PATH_MAX], suffix[24];
	struct ms_stat st;
	uint64_t first;
	if (is_dir || sscanf(name, "journal-%16" SCNx64 "%23s", &first, suffix) != 2 || strncmp(suffix, ".msj", 4) != 0)
		return true;
	if (ms_path_join(path, sizeof path, f->dir, name, NULL) != MS_OK || f->k->env->ops->stat(f->k->env, path, &st, NULL) != MS_OK)
		return true;
	j->quarantined_files += suffix[4] != 0;
	j->files++;
	j->total_bytes += (uint64_t)st.size;
	if (!j->first_seq || first < j->first_seq)
		j->first_seq = first;
	if (!suffix[4] && first >= f->last) {
		f->last = first;
		snprintf(j->current_file, sizeof j->current_file, "%s", name);
	}
	return true;
}

static enum ms_code read_journal(struct look *k, bool *ret_there, struct ms_err *err) {
	struct ms_journal_recovery_stats stats;
	char dir[MS_PATH_MAX];
	struct files f = {.k = k, .dir = dir};
	uint64_t from = UINT64_MAX;
	enum ms_code rc = ms_path_join(dir, sizeof dir, k->shadow, "journal", err);
	if (rc != MS_OK || (rc = k->env->ops->readdir(k->env, dir, on_journal_file, &f, err)) != MS_OK)
		return rc;
	*ret_there = true;
	for (unsigned i = 0; i < k->n; i++) {
		const struct db *d = &k->dbs[i];
		from = d->mark_seq + 1 < from ? d->mark_seq + 1 : from;
		for (uint32_t w = 0; w < d->st->nworkers; w++)
			from = d->replicas[w].from_seq < from ? d->replicas[w].from_seq : from;
	}
	if ((rc = ms_journal_recover(k->env, dir, NULL, BATCH, from == UINT64_MAX ? 0 : from, on_batch, k, &stats, err)) != MS_OK)
		return rc;
	k->journal->corrupt_entries = stats.corrupt;
	k->journal->next_seq = stats.next_seq;
	k->journal->durable_seq = stats.next_seq ? stats.next_seq - 1 : 0;
	return MS_OK;
}

/* ---- all ---- */

static void finish(struct db *d) {
	struct ms_stream_status *st = d->st;
	st->journalled_txid = st->db.txid;
	st->last_commit_us = st->db.time_us;
	for (uint32_t i = 0; i < st->nworkers; i++) {
		struct ms_worker_status *w = &st->workers[i];
		/* It has never held anything: what it lacks began with the generation, not with what the journal still has. */
		if (!d->replicas[i].has_cursor && d->base_us && (!w->oldest_unshipped_us || d->base_us < w->oldest_unshipped_us))
			w->oldest_unshipped_us = d->base_us;
		/* A cursor that the journal no longer leads on from: the newest state is what it lacks, at least. */
		if (d->replicas[i].jump && !w->oldest_unshipped_us)
			w->oldest_unshipped_us = st->db.time_us;
	}
	if (!st->generation.s[0] && !st->why[0])
		snprintf(st->why, sizeof st->why, "nothing has been captured yet");
}

struct names {
	struct look *k;
	struct ms_stream_status **streams;
	bool nomem;
};

static bool grow(struct look *k, struct ms_stream_status **streams) {
	unsigned cap = k->cap ? k->cap * 2 : 16;
	struct ms_stream_status *s = reallocarray(*streams, cap, sizeof *s);
	if (!s)
		return false;
	*streams = s;
	k->cap = cap;
	return true;
}

static bool on_db(void *arg, const char *name, bool is_dir) {
	struct names *n = arg;
	if (!is_dir || !ms_config_name_valid(name))
		return true;
	if (n->k->n == n->k->cap && !grow(n->k, n->streams)) {
		n->nomem = true;
		return false;
	}
	struct ms_stream_status *s = &(*n->streams)[n->k->n++];
	*s = (struct ms_stream_status){.state = MS_STREAM_STOPPED};
	snprintf(s->name, sizeof s->name, "%s", name);
	return true;
}

static int by_stream_name(const void *a, const void *b) {
	return strcmp(((const struct ms_stream_status *)a)->name, ((const struct ms_stream_status *)b)->name);
}

static enum ms_code list_databases(struct look *k, const struct ms_config *config, struct ms_stream_status **streams, struct ms_err *err) {
	char dir[MS_PATH_MAX];
	enum ms_code rc;
	if (config) {
		if (!(*streams = calloc(config->ndatabases + 1, sizeof **streams)))
			return ms_err_set(err, MS_ENOMEM, "status: out of memory");
		for (k->n = 0; k->n < config->ndatabases; k->n++) {
			struct ms_stream_status *s = &(*streams)[k->n];
			s->state = MS_STREAM_STOPPED;
			snprintf(s->name, sizeof s->name, "%s", config->databases[k->n].name);
			if (ms_canonical_path(config->databases[k->n].path, s->path, NULL) != MS_OK)
				snprintf(s->path, sizeof s->path, "%s", config->databases[k->n].path);
		}
		return MS_OK;
	}
	struct names names = {k, streams, false};
	struct ms_err e = MS_ERR_INIT;
	if ((rc = ms_path_join(dir, sizeof dir, k->shadow, "db", err)) != MS_OK)
		return rc;
	rc = k->env->ops->readdir(k->env, dir, on_db, &names, &e);
	if (names.nomem)
		return ms_err_set(err, MS_ENOMEM, "status: out of memory");
	if (rc != MS_OK && rc != MS_ENOTFOUND) {
		*err = e;
		return rc;
	}
	if (k->n)
		qsort(*streams, k->n, sizeof **streams, by_stream_name);
	return MS_OK;
}

enum ms_code ms_offline_status(struct ms_env *env, const char *shadow_dir, const struct ms_config *config, struct ms_stream_status **ret, unsigned *ret_n,
			       struct ms_journal_stats *journal, bool *ret_has_journal, struct ms_err *err) {
	struct ms_stream_status *streams = NULL;
	struct look k = {.env = env, .shadow = shadow_dir, .journal = journal};
	struct ms_err e = MS_ERR_INIT;
	*journal = (struct ms_journal_stats){0};
	*ret_has_journal = false;
	enum ms_code rc = list_databases(&k, config, &streams, err);
	if (rc == MS_OK && (!(k.dbs = calloc(k.n + 1, sizeof *k.dbs)) || !(k.by_name = calloc(k.n + 1, sizeof *k.by_name))))
		rc = ms_err_set(err, MS_ENOMEM, "status: out of memory");
	for (unsigned i = 0; i < k.n && rc == MS_OK; i++) {
		k.dbs[i].st = &streams[i];
		k.by_name[i] = &k.dbs[i];
		rc = read_db(&k, &k.dbs[i], config, config ? &config->databases[i] : NULL, err);
	}
	if (rc == MS_OK) {
		qsort(k.by_name, k.n, sizeof *k.by_name, db_cmp);
		/* Without the journal there is still what marks and cursors say. */
		enum ms_code read = read_journal(&k, ret_has_journal, &e);
		for (unsigned i = 0; i < k.n; i++) {
			if (read != MS_OK && read != MS_ENOTFOUND)
				note(&streams[i], &e);
			finish(&k.dbs[i]);
		}
	}
	for (unsigned i = 0; k.dbs && i < k.n; i++)
		free(k.dbs[i].replicas);
	free(k.dbs);
	free(k.by_name);
	if (rc != MS_OK) {
		for (unsigned i = 0; i < k.n; i++)
			ms_stream_status_release(&streams[i]);
		free(streams);
		return rc;
	}
	*ret = streams;
	*ret_n = k.n;
	return MS_OK;
}
