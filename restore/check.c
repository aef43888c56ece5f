#include "restore/check.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "restore/chunks.h"
#include "restore/jobs.h"
#include "restore/restore.h"

#define DEFAULT_PARALLEL 4u
#define TICK_US 200000u

typedef unsigned long long ull;

enum item_kind { ITEM_SEGMENT, ITEM_CHUNK };
struct item {
	enum item_kind kind;
	unsigned replica;
	struct ms_inv_generation *gen;
	struct ms_inv_segment *seg;
	struct ms_chunk_ref chunk;
	uint32_t page_size;
};
struct items {
	struct item *a;
	size_t n, cap;
};
struct checker {
	struct ms_env *env;
	const struct ms_check_options *o;
	struct ms_fetch *fetch;
	struct ms_jobs jobs;
	struct ms_timer *timer;
	struct ms_notes *notes;
	struct ms_inventory inv;
	atomic_size_t next;
	struct items items; /* segments, then chunks; manifests have been read for the list */
	atomic_size_t done;
	bool reading; /* loop thread */
	size_t total; /* items, once reading */
	struct ms_check_report report;
	struct ms_err err;
};

static struct ms_load load_of(struct checker *c, unsigned worker) {
	return (struct ms_load){.fetch = c->fetch, .worker = worker, .tolerant = true, .note = ms_notes_add, .note_arg = c->notes};
}

static enum ms_code push(struct items *v, const struct item *i, struct ms_err *err) {
	if (v->n == v->cap) {
		size_t cap = v->cap ? v->cap * 2 : 256;
		struct item *p = realloc(v->a, cap * sizeof *p);
		if (!p)
			return ms_err_set(err, MS_ENOMEM, "out of memory for %zu objects", v->n);
		v->a = p;
		v->cap = cap;
	}
	v->a[v->n++] = *i;
	return MS_OK;
}

/* A problem goes into the report; what is ours (memory, interruption) ends the check. */
static enum ms_code judge(struct checker *c, enum ms_code rc, const struct ms_err *e, struct ms_err *err) {
	if (rc == MS_OK)
		return MS_OK;
	if (rc == MS_ECANCELED || rc == MS_ENOMEM) {
		*err = *e;
		return rc;
	}
	ms_notes_add(c->notes, e);
	return MS_OK;
}

/* ---- listing ---- */

static enum ms_code list_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct checker *c = arg;
	struct ms_load l = load_of(c, worker);
	return ms_load_inventory(&l, true, &c->inv, err);
}

static enum ms_code probe_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct checker *c = arg;
	struct ms_load l = load_of(c, worker);
	return ms_load_probe_all(&l, &c->inv, &c->next, err);
}

static int cmp_item(const void *va, const void *vb) {
	const struct item *a = va, *b = vb;
	int d = strcmp(a->chunk.generation.s, b->chunk.generation.s);
	if (d)
		return d;
	if (a->replica != b->replica)
		return a->replica < b->replica ? -1 : 1;
	if (a->chunk.first_page != b->chunk.first_page)
		return a->chunk.first_page < b->chunk.first_page ? -1 : 1;
	return a->chunk.hash < b->chunk.hash ? -1 : a->chunk.hash > b->chunk.hash;
}

static enum ms_code add_chunks(struct ms_load *l, struct items *chunks, unsigned r, struct ms_inv_generation *g,
			       struct ms_inv_snapshot *s, struct ms_err *err) {
	struct ms_manifest m = {0};
	/* Damage in it has been noted by the list. */
	enum ms_code rc = s->bad ? MS_EINVAL : ms_load_manifest(l, r, &g->id, s, NULL, &m, NULL);
	if (rc)
		return MS_OK;
	for (uint32_t i = 0; !rc && i < m.nchunks; i++) {
		struct item it = {.kind = ITEM_CHUNK, .replica = r, .chunk = m.chunks[i], .page_size = m.state.page_size};
		rc = push(chunks, &it, err);
	}
	ms_manifest_release(&m);
	return rc;
}

/* Everything there is to read, each chunk once. */
static enum ms_code collect(struct checker *c, struct ms_load *l, struct ms_err *err) {
	struct items chunks = {0};
	enum ms_code rc = MS_OK;
	for (size_t i = 0; !rc && i < c->inv.ngens; i++) {
		struct ms_inv_generation *g = &c->inv.gens[i];
		for (unsigned r = 0; !rc && r < c->inv.nreplicas; r++) {
			struct ms_inv_shelf *sh = &g->shelf[r];
			for (size_t k = 0; !rc && k < sh->nlive + sh->nmerged; k++) {
				struct ms_inv_segment *s = k < sh->nlive ? &sh->live[k] : &sh->merged[k - sh->nlive];
				struct item it = {.kind = ITEM_SEGMENT, .replica = r, .gen = g, .seg = s};
				if (!(s->flags & (MS_SEG_FENCE | MS_SEG_BAD)))
					rc = push(&c->items, &it, err);
			}
			for (size_t k = 0; !rc && k < sh->nsnaps; k++) {
				c->report.snapshots++;
				c->report.bytes += sh->snaps[k].bytes;
				rc = add_chunks(l, &chunks, r, g, &sh->snaps[k], err);
			}
		}
	}
	if (chunks.n)
		qsort(chunks.a, chunks.n, sizeof *chunks.a, cmp_item);
	for (size_t i = 0; !rc && i < chunks.n; i++) {
		if (i == 0 || cmp_item(&chunks.a[i - 1], &chunks.a[i]) != 0)
			rc = push(&c->items, &chunks.a[i], err);
	}
	free(chunks.a);
	return rc;
}

/* Where something follows the end of a range, what lies between is missing. What comes before the first range has lost its snapshot to
 * retention, or never had one. */
static void find_holes_of(struct checker *c, const struct ms_list_generation *g) {
	struct ms_err e;
	uint64_t newest = g->fork_txid;
	bool needs_base = !g->parent.s[0] || g->seeded;
	if (needs_base && !g->nsnapshots && (g->nruns || g->settled_txid > g->fork_txid)) {
		ms_err_set(&e, MS_ENOTRESTORABLE, "generation %s has no snapshot yet, so nothing of it restores", g->id.s);
		ms_notes_add(c->notes, &e);
		return;
	}
	for (size_t k = 0; k < g->nranges; k++) {
		uint64_t to = g->ranges[k].to_txid, next = 0;
		bool folded = false;
		for (size_t i = 0; i < g->nfolds; i++)
			folded |= g->folds[i].first_txid == to + 1;
		if (folded)
			continue;
		for (size_t i = 0; i < g->nruns; i++) {
			if (g->runs[i].first_txid > to && (!next || g->runs[i].first_txid < next))
				next = g->runs[i].first_txid;
		}
		for (size_t i = 0; i < g->nsnapshots; i++) {
			if (g->snapshots[i].txid > to && (!next || g->snapshots[i].txid < next))
				next = g->snapshots[i].txid;
		}
		if (next) {
			ms_err_set(&e, MS_EGAP, "generation %s: txid %llu to %llu are missing", g->id.s, (ull)to + 1, (ull)next - 1);
			ms_notes_add(c->notes, &e);
		}
		newest = to;
	}
	if (newest < g->settled_txid) {
		ms_err_set(&e, MS_EGAP, "generation %s restores to txid %llu only, but its head says that the replica held txid %llu", g->id.s, (ull)newest,
			   (ull)g->settled_txid);
		ms_notes_add(c->notes, &e);
	}
	if ((g->nruns || g->nsnapshots) && !g->nranges) {
		ms_err_set(&e, MS_EGAP, "generation %s: no point of it restores", g->id.s);
		ms_notes_add(c->notes, &e);
	}
}

static enum ms_code plan_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct checker *c = arg;
	struct ms_load l = load_of(c, worker);
	enum ms_code rc = ms_list_make(&l, &c->inv, &c->report.list, err);
	if (rc)
		return rc;
	c->report.heads = c->inv.nheads;
	for (size_t i = 0; i < c->report.list.n; i++)
		find_holes_of(c, &c->report.list.generations[i]);
	return collect(c, &l, err);
}

/* ---- reading objects ---- */

static enum ms_code skip_info(void *arg, const struct ms_segment_info *info, struct ms_err *err) {
	(void)arg, (void)info, (void)err;
	return MS_OK;
}
static enum ms_code skip_record(void *arg, const struct ms_record *rec, struct ms_err *err) {
	(void)arg, (void)rec, (void)err;
	return MS_OK;
}
static enum ms_code segment_bytes(void *arg, const void *data, size_t n, struct ms_err *err) { return ms_segment_push(arg, data, n, err); }

static enum ms_code read_segment(struct checker *c, unsigned worker, const struct item *it, struct ms_err *err) {
	static const struct ms_segment_callbacks cb = {skip_info, skip_record};
	for (uint32_t part = 0; part < it->seg->nparts; part++) {
		char name[MS_NAME_MAX];
		struct ms_err e = MS_ERR_INIT;
		ms_inv_segment_name(&it->gen->id, it->seg, part, name);
		struct ms_segment_reader *r = ms_segment_reader_new(&cb, NULL);
		enum ms_code rc = r ? ms_fetch_get(c->fetch, worker, it->replica, name, 0, -1, segment_bytes, r, &e)
				    : ms_err_set(&e, MS_ENOMEM, "out of memory for reading %s", name);
		if (!rc)
			rc = ms_segment_finish(r, &e);
		ms_segment_reader_free(r);
		if (rc && !strstr(e.msg, name))
			ms_err_wrap(&e, "%s of %s", name, ms_fetch_url(c->fetch, it->replica));
		if ((rc = judge(c, rc, &e, err)))
			return rc;
	}
	return MS_OK;
}

static enum ms_code read_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct checker *c = arg;
	enum ms_code rc = MS_OK;
	while (!rc) {
		size_t i = atomic_fetch_add(&c->next, 1);
		if (i >= c->items.n)
			break;
		const struct item *it = &c->items.a[i];
		struct ms_err e = MS_ERR_INIT;
		if (it->kind == ITEM_SEGMENT)
			rc = read_segment(c, worker, it, err);
		else
			rc = judge(c, ms_chunk_check(c->fetch, worker, it->replica, &it->chunk, it->page_size, &e), &e, err);
		atomic_fetch_add(&c->done, 1);
	}
	return rc;
}

/* ---- the run ---- */

static void over(void *arg, const struct ms_err *err) {
	struct checker *c = arg;
	if (err)
		c->err = *err;
	c->env->ops->timer_stop(c->timer);
	c->env->ops->stop(c->env);
}

static void planned(void *arg, const struct ms_err *err) {
	struct checker *c = arg;
	if (err) {
		over(c, err);
		return;
	}
	atomic_store(&c->next, 0);
	c->total = c->items.n;
	c->reading = true;
	for (unsigned i = 0; i < ms_fetch_workers(c->fetch); i++)
		ms_jobs_add(&c->jobs, MS_LANE_UPLOAD, read_fn, i);
	ms_jobs_run(&c->jobs, over);
}

static void probed(void *arg, const struct ms_err *err) {
	struct checker *c = arg;
	if (err) {
		over(c, err);
		return;
	}
	ms_jobs_add(&c->jobs, MS_LANE_UPLOAD, plan_fn, 0);
	ms_jobs_run(&c->jobs, planned);
}

static void listed(void *arg, const struct ms_err *err) {
	struct checker *c = arg;
	if (err) {
		over(c, err);
		return;
	}
	for (unsigned i = 0; i < ms_fetch_workers(c->fetch); i++)
		ms_jobs_add(&c->jobs, MS_LANE_UPLOAD, probe_fn, i);
	ms_jobs_run(&c->jobs, probed);
}

static void tick(void *arg) {
	struct checker *c = arg;
	if (ms_fetch_canceled(c->fetch))
		ms_fetch_cancel(c->fetch);
	if (c->o->progress)
		c->o->progress(c->o->arg, c->reading ? "reading" : "listing", atomic_load(&c->done), c->total);
	c->env->ops->timer_start(c->timer, TICK_US);
}

static void kick(void *arg) {
	struct checker *c = arg;
	c->env->ops->timer_start(c->timer, TICK_US);
	ms_jobs_add(&c->jobs, MS_LANE_UPLOAD, list_fn, 0);
	ms_jobs_run(&c->jobs, listed);
}

/* ---- deep ---- */

/* One restore into scratch space; the file goes at once. */
static enum ms_code restore_one(struct checker *c, const struct ms_generation *g, uint64_t base, uint64_t txid, struct ms_check_restore *ret,
				struct ms_err *err) {
	char path[MS_PATH_MAX], name[64];
	uint64_t random;
	struct ms_restore_result res;
	struct ms_err e = MS_ERR_INIT;
	ms_env_random(c->env, &random, sizeof random);
	snprintf(name, sizeof name, "migstream-verify-%016llx.db", (ull)random);
	enum ms_code rc = ms_path_join(path, sizeof path, c->o->scratch, name, err);
	if (rc)
		return rc;
	struct ms_restore_options o = {.replicas = c->o->replicas, .nreplicas = c->o->nreplicas, .path = path, .verify = MS_VERIFY_CHECKSUM,
		.parallel = c->o->parallel, .umask = 077, .cancel = c->o->cancel,
		.target = {.kind = MS_TARGET_TXID, .txid = txid, .generation = g->s, .base_txid = base}};
	rc = ms_restore_run(c->env, &o, &res, &e);
	if (rc == MS_OK) {
		(void)c->env->ops->unlink(c->env, path, NULL);
		*ret = (struct ms_check_restore){.generation = *g, .from_txid = res.snapshot_txid, .to_txid = txid, .checksum = res.checksum, .commits = res.commits};
		return MS_OK;
	}
	/* A full scratch disk or an interruption says nothing about the replica. */
	if (ms_code_exit(rc) != 3) {
		*err = e;
		return rc;
	}
	ms_err_wrap(&e, "restoring txid %llu of %s", (ull)txid, g->s);
	ms_notes_add(c->notes, &e);
	*ret = (struct ms_check_restore){0};
	return MS_OK;
}

static enum ms_code add_restore(struct checker *c, const struct ms_check_restore *r, struct ms_err *err) {
	struct ms_check_restore *p = realloc(c->report.restores, (c->report.nrestores + 1) * sizeof *p);
	if (!p)
		return ms_err_set(err, MS_ENOMEM, "out of memory for a report");
	c->report.restores = p;
	p[c->report.nrestores++] = *r;
	return MS_OK;
}

static enum ms_code deep(struct checker *c, struct ms_err *err) {
	uint64_t total = 0, done = 0;
	enum ms_code rc = MS_OK;
	for (size_t i = 0; i < c->report.list.n; i++)
		total += c->report.list.generations[i].nranges + c->report.list.generations[i].nsnapshots;
	for (size_t i = 0; !rc && i < c->report.list.n; i++) {
		const struct ms_list_generation *g = &c->report.list.generations[i];
		for (size_t k = 0; !rc && k < g->nranges + g->nsnapshots; k++, done++) {
			struct ms_check_restore r = {0};
			uint64_t base, txid;
			if (c->o->progress)
				c->o->progress(c->o->arg, "restoring", done, total);
			if (k < g->nranges) {
				base = g->ranges[k].from_txid;
				txid = g->ranges[k].to_txid;
			} else {
				base = txid = g->snapshots[k - g->nranges].txid;
			}
			rc = restore_one(c, &g->id, base, txid, &r, err);
			if (!rc && r.to_txid)
				rc = add_restore(c, &r, err);
		}
	}
	return rc;
}

enum ms_code ms_check_run(struct ms_env *env, const struct ms_check_options *o, struct ms_check_report *ret, struct ms_err *err) {
	struct checker *c = calloc(1, sizeof *c);
	enum ms_code rc;
	if (!c || !(c->notes = ms_notes_new())) {
		free(c);
		return ms_err_set(err, MS_ENOMEM, "out of memory for a check");
	}
	c->env = env;
	c->o = o;
	c->err = MS_ERR_INIT;
	ms_jobs_init(&c->jobs, env, c);
	ms_inventory_init(&c->inv, o->nreplicas);
	rc = ms_fetch_new(env, o->replicas, o->nreplicas, o->parallel ? o->parallel : DEFAULT_PARALLEL, o->cancel, &c->fetch, err);
	if (!rc && !(c->timer = env->ops->timer_new(env, tick, c)))
		rc = ms_err_set(err, MS_ENOMEM, "out of memory for a check");
	if (!rc) {
		env->ops->post(env, kick, c);
		env->ops->run(env);
		if ((rc = c->err.code) && err)
			*err = c->err;
	}
	if (!rc) {
		for (size_t i = 0; i < c->items.n; i++) {
			const struct item *it = &c->items.a[i];
			c->report.segments += it->kind == ITEM_SEGMENT ? it->seg->nparts : 0;
			c->report.chunks += it->kind == ITEM_CHUNK;
			c->report.bytes += it->kind == ITEM_SEGMENT ? it->seg->bytes : it->chunk.bytes;
		}
		if (o->deep)
			rc = deep(c, err);
	}
	if (!rc) {
		c->report.problems = ms_notes_take(c->notes, &c->report.nproblems);
		*ret = c->report;
	} else {
		ms_check_report_release(&c->report);
	}
	if (c->timer)
		env->ops->timer_free(c->timer);
	ms_inventory_release(&c->inv);
	ms_fetch_free(c->fetch);
	ms_notes_free(c->notes);
	free(c->items.a);
	free(c);
	return rc;
}

void ms_check_report_release(struct ms_check_report *r) {
	for (size_t i = 0; i < r->nproblems; i++)
		free(r->problems[i]);
	free(r->problems);
	free(r->restores);
	ms_list_release(&r->list);
	*r = (struct ms_check_report){0};
}
