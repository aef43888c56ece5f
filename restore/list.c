#include "restore/list.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "restore/jobs.h"

#define DEFAULT_PARALLEL 4u

/* ---- notes ---- */

struct ms_notes {
	pthread_mutex_t lock;
	char **text; /* [MS_LIST_WARNINGS + 1] */
	size_t n, more;
};

struct ms_notes *ms_notes_new(void) {
	struct ms_notes *n = calloc(1, sizeof *n);
	if (n)
		n->text = calloc(MS_LIST_WARNINGS + 1, sizeof *n->text);
	if (!n || !n->text || pthread_mutex_init(&n->lock, NULL) != 0) {
		if (n)
			free(n->text);
		free(n);
		return NULL;
	}
	return n;
}

void ms_notes_free(struct ms_notes *n) {
	if (!n)
		return;
	for (size_t i = 0; i < n->n; i++)
		free(n->text[i]);
	free(n->text);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

void ms_notes_add(void *notes, const struct ms_err *err) {
	struct ms_notes *n = notes;
	pthread_mutex_lock(&n->lock);
	bool known = false;
	for (size_t i = 0; i < n->n && !known; i++)
		known = strcmp(n->text[i], err->msg) == 0;
	char *copy = known || n->n == MS_LIST_WARNINGS ? NULL : strdup(err->msg);
	if (copy)
		n->text[n->n++] = copy;
	else if (!known)
		n->more++;
	pthread_mutex_unlock(&n->lock);
}

char **ms_notes_take(struct ms_notes *n, size_t *ret_n) {
	char text[64];
	if (n->more) {
		snprintf(text, sizeof text, "and %zu more", n->more);
		if ((n->text[n->n] = strdup(text)))
			n->n++;
	}
	char **r = n->text;
	*ret_n = n->n;
	n->text = NULL;
	n->n = 0;
	return r;
}

/* ---- one generation ---- */

static enum ms_code grow(void **array, size_t n, size_t size, struct ms_err *err) {
	if (n & (n - 1)) /* room is doubled at powers of two */
		return MS_OK;
	void *p = realloc(*array, (n ? n * 2 : 1) * size);
	if (!p)
		return ms_err_set(err, MS_ENOMEM, "out of memory for a list of %zu", n);
	*array = p;
	return MS_OK;
}

static int cmp_snapshot(const void *va, const void *vb) {
	const struct ms_list_snapshot *a = va, *b = vb;
	return a->txid < b->txid ? -1 : a->txid > b->txid;
}

/* A snapshot on several replicas counts once. A manifest that cannot be read is noted and no base for anything. */
static enum ms_code list_snapshots(struct ms_load *l, struct ms_inventory *inv, struct ms_inv_generation *g, struct ms_list_generation *d,
				   struct ms_err *err) {
	for (unsigned r = 0; r < inv->nreplicas; r++) {
		for (size_t i = 0; i < g->shelf[r].nsnaps; i++) {
			struct ms_inv_snapshot *s = &g->shelf[r].snaps[i];
			struct ms_manifest m = {0};
			struct ms_err e = MS_ERR_INIT;
			bool known = false;
			enum ms_code rc = ms_load_manifest(l, r, &g->id, s, NULL, &m, &e);
			if (rc == MS_ECANCELED || rc == MS_ENOMEM) {
				*err = e;
				return rc;
			}
			if (rc) {
				s->bad = true;
				if (l->note)
					l->note(l->note_arg, &e);
				continue;
			}
			for (size_t k = 0; k < d->nsnapshots; k++)
				known |= d->snapshots[k].txid == s->txid;
			if (!known && !(rc = grow((void **)&d->snapshots, d->nsnapshots, sizeof *d->snapshots, err))) {
				struct ms_list_snapshot *o = &d->snapshots[d->nsnapshots++];
				*o = (struct ms_list_snapshot){.txid = s->txid, .bytes = s->bytes, .time_us = s->time_us, .objects = 1 + m.nchunks};
				for (uint32_t k = 0; k < m.nchunks; k++)
					o->bytes += m.chunks[k].bytes;
			}
			ms_manifest_release(&m);
			if (rc)
				return rc;
		}
	}
	if (d->nsnapshots)
		qsort(d->snapshots, d->nsnapshots, sizeof *d->snapshots, cmp_snapshot);
	return MS_OK;
}

/* Smallest first txid in the generation after txid; 0 none. */
static uint64_t next_first(const struct ms_inventory *inv, const struct ms_inv_generation *g, uint64_t txid) {
	uint64_t best = 0;
	for (unsigned r = 0; r < inv->nreplicas; r++) {
		const struct ms_inv_shelf *sh = &g->shelf[r];
		for (int merged = 0; merged < 2; merged++) {
			const struct ms_inv_segment *a = merged ? sh->merged : sh->live;
			size_t n = merged ? sh->nmerged : sh->nlive;
			for (size_t i = 0; i < n; i++) {
				if (!(a[i].flags & (MS_SEG_BAD | MS_SEG_FENCE | MS_SEG_INCOMPLETE)) && a[i].first > txid && (!best || a[i].first < best))
					best = a[i].first;
			}
		}
	}
	return best;
}

static enum ms_code list_runs(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *link,
			      struct ms_list_generation *d, struct ms_err *err) {
	uint64_t txid = next_first(inv, link->gen, 0);
	struct ms_list_run *run = NULL;
	while (txid) {
		struct ms_inv_segment *s = NULL;
		unsigned r;
		enum ms_code rc = ms_chain_cover(inv, probe, link, txid, &s, &r, err);
		if (rc)
			return rc;
		if (!s) {
			run = NULL;
			txid = next_first(inv, link->gen, txid);
			continue;
		}
		if (!run) {
			if ((rc = grow((void **)&d->runs, d->nruns, sizeof *d->runs, err)))
				return rc;
			run = &d->runs[d->nruns++];
			*run = (struct ms_list_run){.first_txid = s->first, .first_us = s->first_us};
		}
		run->last_txid = s->last;
		run->last_us = s->last_us;
		run->bytes += s->bytes;
		run->objects += s->nparts;
		txid = s->last + 1;
	}
	return MS_OK;
}

static enum ms_code add_range(struct ms_list_generation *d, const struct ms_list_range *g, struct ms_err *err) {
	enum ms_code rc = grow((void **)&d->ranges, d->nranges, sizeof *d->ranges, err);
	if (!rc)
		d->ranges[d->nranges++] = *g;
	return rc;
}

/* From a snapshot within a catch-up by commits, to before its end. *next: becomes the last snapshot in that range. */
static enum ms_code list_within(struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *link, size_t *next, uint64_t end,
				struct ms_list_generation *d, struct ms_err *err) {
	const struct ms_list_snapshot *base = &d->snapshots[*next];
	struct ms_list_range g = {.from_txid = base->txid, .to_txid = base->txid, .from_us = base->time_us, .to_us = base->time_us};
	struct ms_inv_segment *s = NULL;
	unsigned r;
	for (enum ms_code rc; g.to_txid < end;) {
		if ((rc = ms_chain_cover(inv, probe, link, g.to_txid + 1, &s, &r, err)))
			return rc;
		if (!s || ms_inv_is_fold(s))
			break;
		/* What lies behind the end is in the range that begins there. */
		g.to_txid = s->last < end ? s->last : end - 1;
		g.to_us = s->last < end ? s->last_us : g.to_us;
		if (s->last >= end)
			break;
	}
	while (*next + 1 < d->nsnapshots && d->snapshots[*next + 1].txid <= g.to_txid)
		++*next;
	return add_range(d, &g, err);
}

/* Everything that can be reached from a base without a hole. Bases: the fork point, if the parent restores it, and each snapshot. */
static enum ms_code list_ranges(struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *link, bool fork_restores,
				struct ms_list_generation *d, struct ms_err *err) {
	size_t next = 0;
	bool fork = fork_restores && link->above > 0;
	struct ms_list_fold after = {0}; /* the range to come begins with the end of this catch-up */
	while (after.last_txid || fork || next < d->nsnapshots) {
		uint64_t cur = after.last_txid ? after.last_txid : fork ? link->above : d->snapshots[next].txid;
		struct ms_list_range g = {.from_txid = cur, .from_us = after.last_txid ? after.time_us : fork ? 0 : d->snapshots[next].time_us, .to_txid = cur};
		if (fork && !after.last_txid)
			g.from_txid = 0;
		g.to_us = g.from_us;
		after = (struct ms_list_fold){0};
		for (;;) {
			struct ms_inv_segment *s = NULL;
			unsigned r;
			enum ms_code rc = ms_chain_cover(inv, probe, link, cur + 1, &s, &r, err);
			if (rc)
				return rc;
			/* Behind what another replica has of it, a catch-up leads on from a state before. */
			if (!s && (s = ms_chain_fold(inv, link, cur + 1, UINT64_MAX, &r)) && (!g.from_txid || s->first <= g.from_txid))
				s = NULL;
			if (!s)
				break;
			if (ms_inv_is_fold(s)) {
				after = (struct ms_list_fold){cur + 1, s->last, s->last_us};
				if ((rc = grow((void **)&d->folds, d->nfolds, sizeof *d->folds, err)))
					return rc;
				d->folds[d->nfolds++] = after;
				break;
			}
			if (!g.from_txid) {
				g.from_txid = s->first;
				g.from_us = s->first_us;
			}
			g.squashed |= s->kind == MS_SEG_SQUASH;
			g.to_txid = cur = s->last;
			g.to_us = s->last_us;
		}
		uint64_t reached = after.last_txid ? after.last_txid : cur;
		enum ms_code rc = g.from_txid ? add_range(d, &g, err) : MS_OK;
		for (; !rc && next < d->nsnapshots && d->snapshots[next].txid <= reached; next++) {
			/* One within the catch-up restores, but the catch-up does not lead on from it; what other replicas have does. */
			if (after.last_txid && d->snapshots[next].txid >= after.first_txid && d->snapshots[next].txid < after.last_txid)
				rc = list_within(inv, probe, link, &next, after.last_txid, d, err);
		}
		if (rc)
			return rc;
		fork = false;
	}
	return MS_OK;
}

static bool restores(struct ms_inventory *inv, const struct ms_plan_probe *probe, const char *generation, uint64_t txid) {
	struct ms_plan_request req = {.kind = MS_TARGET_TXID, .txid = txid, .generation = generation};
	struct ms_plan p;
	if (ms_plan_make(inv, &req, probe, &p, NULL) != MS_OK)
		return false;
	ms_plan_release(&p);
	return true;
}

enum ms_code ms_list_make(struct ms_load *l, struct ms_inventory *inv, struct ms_list *ret, struct ms_err *err) {
	struct ms_plan_probe probe = ms_load_probe(l);
	struct ms_list out = {0};
	enum ms_code rc = MS_OK;
	const struct ms_inv_head *head = ms_inventory_newest_head(inv);
	char newest[MS_GENERATION_LEN + 1] = "";
	if (head)
		snprintf(newest, sizeof newest, "%s", head->generation.s);
	/* Lineage first: it may make further generations known and move the array. */
	for (size_t i = 0; !rc && i < inv->ngens; i++) {
		struct ms_chain c = {0};
		struct ms_generation id = inv->gens[i].id;
		rc = ms_chain_make(inv, &probe, id.s, &c, err);
		ms_chain_release(&c);
	}
	if (!rc && !(out.generations = calloc(inv->ngens ? inv->ngens : 1, sizeof *out.generations)))
		rc = ms_err_set(err, MS_ENOMEM, "out of memory for a list");
	/* All snapshots before any range: damaged ones must be known as such first. */
	for (size_t i = 0; !rc && i < inv->ngens; i++) {
		struct ms_list_generation *d = &out.generations[i];
		d->id = inv->gens[i].id;
		d->parent = inv->gens[i].parent;
		d->fork_txid = inv->gens[i].fork_txid;
		d->seeded = inv->gens[i].seeded;
		d->head = strcmp(newest, d->id.s) == 0;
		for (size_t k = 0; k < inv->nheads; k++) {
			if (strcmp(inv->heads[k].generation.s, d->id.s) == 0 && inv->heads[k].settled_txid > d->settled_txid)
				d->settled_txid = inv->heads[k].settled_txid;
		}
		rc = list_snapshots(l, inv, &inv->gens[i], d, err);
		out.n = i + 1;
	}
	for (size_t i = 0; !rc && i < inv->ngens; i++) {
		struct ms_list_generation *d = &out.generations[i];
		struct ms_chain c = {0};
		if ((rc = ms_chain_make(inv, &probe, d->id.s, &c, err)))
			break;
		rc = list_runs(inv, &probe, &c.links[0], d, err);
		if (!rc)
			rc = list_ranges(inv, &probe, &c.links[0], d->parent.s[0] && !d->seeded && restores(inv, &probe, d->id.s, d->fork_txid), d, err);
		ms_chain_release(&c);
	}
	if (rc)
		ms_list_release(&out);
	else
		*ret = out;
	return rc;
}

void ms_list_release(struct ms_list *l) {
	for (size_t i = 0; i < l->n; i++) {
		free(l->generations[i].snapshots);
		free(l->generations[i].runs);
		free(l->generations[i].ranges);
		free(l->generations[i].folds);
	}
	free(l->generations);
	for (size_t i = 0; i < l->nwarnings; i++)
		free(l->warnings[i]);
	free(l->warnings);
	*l = (struct ms_list){0};
}

/* ---- the whole run ---- */

struct lister {
	struct ms_env *env;
	struct ms_fetch *fetch;
	struct ms_jobs jobs;
	struct ms_notes *notes;
	struct ms_inventory inv;
	atomic_size_t next;
	struct ms_list list;
	struct ms_err err;
};

static struct ms_load load_of(struct lister *s, unsigned worker) {
	return (struct ms_load){.fetch = s->fetch, .worker = worker, .tolerant = true, .note = ms_notes_add, .note_arg = s->notes};
}

static enum ms_code list_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct lister *s = arg;
	struct ms_load l = load_of(s, worker);
	return ms_load_inventory(&l, true, &s->inv, err);
}

static enum ms_code probe_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct lister *s = arg;
	struct ms_load l = load_of(s, worker);
	return ms_load_probe_all(&l, &s->inv, &s->next, err);
}

static enum ms_code make_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct lister *s = arg;
	struct ms_load l = load_of(s, worker);
	return ms_list_make(&l, &s->inv, &s->list, err);
}

static void over(void *arg, const struct ms_err *err) {
	struct lister *s = arg;
	if (err)
		s->err = *err;
	s->env->ops->stop(s->env);
}

static void probed(void *arg, const struct ms_err *err) {
	struct lister *s = arg;
	if (err) {
		over(s, err);
		return;
	}
	ms_jobs_add(&s->jobs, MS_LANE_UPLOAD, make_fn, 0);
	ms_jobs_run(&s->jobs, over);
}

static void listed(void *arg, const struct ms_err *err) {
	struct lister *s = arg;
	if (err) {
		over(s, err);
		return;
	}
	for (unsigned i = 0; i < ms_fetch_workers(s->fetch); i++)
		ms_jobs_add(&s->jobs, MS_LANE_UPLOAD, probe_fn, i);
	ms_jobs_run(&s->jobs, probed);
}

static void kick(void *arg) {
	struct lister *s = arg;
	ms_jobs_add(&s->jobs, MS_LANE_UPLOAD, list_fn, 0);
	ms_jobs_run(&s->jobs, listed);
}

enum ms_code ms_list_run(struct ms_env *env, const struct ms_list_options *o, struct ms_list *ret, struct ms_err *err) {
	struct lister *s = calloc(1, sizeof *s);
	enum ms_code rc;
	if (!s || !(s->notes = ms_notes_new())) {
		free(s);
		return ms_err_set(err, MS_ENOMEM, "out of memory for a list");
	}
	s->env = env;
	s->err = MS_ERR_INIT;
	ms_jobs_init(&s->jobs, env, s);
	ms_inventory_init(&s->inv, o->nreplicas);
	rc = ms_fetch_new(env, o->replicas, o->nreplicas, o->parallel ? o->parallel : DEFAULT_PARALLEL, o->cancel, &s->fetch, err);
	if (!rc) {
		env->ops->post(env, kick, s);
		env->ops->run(env);
		if ((rc = s->err.code) && err)
			*err = s->err;
	}
	if (!rc) {
		*ret = s->list;
		ret->warnings = ms_notes_take(s->notes, &ret->nwarnings);
	}
	ms_inventory_release(&s->inv);
	ms_fetch_free(s->fetch);
	ms_notes_free(s->notes);
	free(s);
	return rc;
}
