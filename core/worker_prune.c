/*
 * Retention on a replica (DESIGN §8): plan, commit the removal list in a new head, and after the grace time remove what is on the list and
 * still in a fresh plan. A writer that is no longer the newest head's removes nothing.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

#define OBJECTS_MAX 4000000u
#define REMOVALS_AT_ONCE 16384u
#define HEADS_AT_ONCE 512u /* the oldest; a plan reads and removes no more of them */

struct objects {
	struct ms_name *v;
	uint32_t n, cap;
	bool failed;
};

static bool collect(void *arg, const struct ms_object *o) {
	struct objects *s = arg;
	struct ms_name n;
	if (!ms_name_parse(o->name, &n))
		return true;
	if (s->n == s->cap) {
		uint32_t cap = s->cap ? s->cap * 2 : 1024;
		struct ms_name *grown = cap <= OBJECTS_MAX ? reallocarray(s->v, cap, sizeof *grown) : NULL;
		if (!grown) {
			s->failed = true;
			return false;
		}
		s->v = grown;
		s->cap = cap;
	}
	s->v[s->n++] = n;
	return true;
}

static enum ms_code add_needed(struct objects *needed, const struct ms_manifest *m, struct ms_err *err) {
	for (uint32_t i = 0; i < m->nchunks; i++) {
		char name[MS_NAME_MAX];
		struct ms_name n = {.kind = MS_NAME_CHUNK, .generation = m->chunks[i].generation, .number = m->chunks[i].first_page, .hash = m->chunks[i].hash};
		ms_name_format(&n, name);
		if (!collect(needed, &(struct ms_object){.name = name}))
			return ms_err_set(err, MS_ENOMEM, "chunks of kept snapshots");
	}
	return MS_OK;
}

/* Do the segments lead to the snapshot's txid, so that what follows it restores from an older snapshot as well? */
static enum ms_code leads_through(struct ms_replica *r, const struct objects *all, const struct ms_name *snapshot, bool *ret, struct ms_err *err) {
	const struct ms_name *s = ms_retention_segment_before(all->v, all->n, snapshot);
	struct ms_at_name at = {0};
	char name[MS_NAME_MAX];
	*ret = false;
	if (!s)
		return MS_OK;
	if (s->kind == MS_NAME_MERGED && s->last >= snapshot->first) {
		*ret = true;
		return MS_OK;
	}
	ms_name_format(s, name);
	enum ms_code rc = ms_view_at(r, name, &at, err);
	if (rc == MS_ECORRUPT || rc == MS_ENOTFOUND)
		return MS_OK; /* a gap, then */
	*ret = !rc && !at.is_fence && !at.info.more && at.info.last_txid >= snapshot->first;
	return rc;
}

/* Which snapshots stay. Before one is thinned, what lies right before it is looked at, once. */
static enum ms_code choose(struct ms_replica *r, const struct objects *all, struct ms_retention_policy *policy, bool *pinned, bool *keep, struct ms_err *err) {
	bool *looked = calloc((size_t)all->n + 1, sizeof *looked), again = true;
	enum ms_code rc = looked ? MS_OK : ms_err_set(err, MS_ENOMEM, "retention");
	policy->pinned = pinned;
	while (!rc && again) {
		again = false;
		if ((rc = ms_retention_kept_snapshots(all->v, all->n, policy, keep, err)))
			break;
		for (uint32_t i = 0; i < all->n && !rc; i++) {
			bool leads = true;
			if (all->v[i].kind != MS_NAME_SNAPSHOT || keep[i] || looked[i] || !ms_retention_in_time(&all->v[i], policy))
				continue;
			looked[i] = true;
			rc = leads_through(r, all, &all->v[i], &leads, err);
			pinned[i] = !leads;
			again |= !leads;
		}
	}
	free(looked);
	return rc;
}

static int head_number_cmp(const void *a, const void *b) {
	const struct ms_name *x = *(struct ms_name *const *)a, *y = *(struct ms_name *const *)b;
	return x->number < y->number ? -1 : x->number > y->number;
}

/* Which generations the heads name, when there are more than stay anyway. One that cannot be read stays. */
static enum ms_code read_heads(struct ms_replica *r, struct objects *all, struct ms_err *err) {
	struct ms_name **heads = calloc((size_t)all->n + 1, sizeof *heads);
	struct ms_buf b;
	uint32_t n = 0;
	enum ms_code rc = heads ? MS_OK : ms_err_set(err, MS_ENOMEM, "retention");
	for (uint32_t i = 0; i < all->n && !rc; i++)
		if (all->v[i].kind == MS_NAME_HEAD)
			heads[n++] = &all->v[i];
	if (n)
		qsort(heads, n, sizeof *heads, head_number_cmp);
	ms_buf_init(&b, MS_WORKER_HEAD_MAX);
	for (uint32_t i = 0; i < n && i < HEADS_AT_ONCE && n > MS_HEADS_KEPT && !rc; i++) {
		struct ms_head h;
		char name[MS_NAME_MAX];
		ms_name_format(heads[i], name);
		ms_buf_clear(&b);
		if (!(rc = ms_replica_get_buf(r, name, 0, -1, &b, err)) && !(rc = ms_head_decode(b.data, b.len, &h, err))) {
			heads[i]->generation = h.generation;
			ms_head_release(&h);
		}
		if (rc == MS_ENOTFOUND || rc == MS_ECORRUPT || rc == MS_EUNSUPPORTED)
			rc = MS_OK;
	}
	ms_buf_release(&b);
	free(heads);
	return rc;
}

static enum ms_code make_plan(struct ms_worker *w, const struct ms_task *t, struct ms_replica *r, struct ms_retention_plan *ret, struct ms_err *err) {
	struct objects all = {0}, needed = {0};
	struct ms_retention_policy policy = {.now_us = t->now_us,
					     .snapshot_retention_us = t->retention_us,
					     .snapshot_spacing_us = t->spacing_us,
					     .lineage = t->cur.lineage,
					     .nlineage = t->cur.nlineage,
					     .keep_chunks = t->keep_chunks};
	bool *keep = NULL, *pinned = NULL;
	enum ms_code rc = ms_replica_list(r, "", "", collect, &all, err);
	if (!rc && all.failed)
		rc = ms_err_set(err, MS_ETOOBIG, "replica %s: more than %u objects, or no memory to plan their retention", w->cfg.url, OBJECTS_MAX);
	if (!rc)
		rc = read_heads(r, &all, err);
	if (!rc && (!(keep = calloc((size_t)all.n + 1, sizeof *keep)) || !(pinned = calloc((size_t)all.n + 1, sizeof *pinned))))
		rc = ms_err_set(err, MS_ENOMEM, "retention");
	if (rc)
		goto out;
	if (t->cur.fold_last) {
		struct ms_name end = {.generation = t->cur.generation, .first = t->cur.fold_last};
		const struct ms_name *fold = ms_retention_segment_before(all.v, all.n, &end);
		if (fold && fold->kind == MS_NAME_SEGMENT)
			policy.fold_first = fold->first, policy.fold_last = end.first;
	}
	rc = choose(r, &all, &policy, pinned, keep, err);
	for (uint32_t i = 0; i < all.n && !rc; i++) {
		struct ms_manifest m = {0};
		char name[MS_NAME_MAX];
		if (!keep[i])
			continue;
		ms_name_format(&all.v[i], name);
		/* One that cannot be read ends the plan: what it needs is not known. */
		if ((rc = ms_view_manifest(r, name, &m, err)))
			break;
		rc = add_needed(&needed, &m, err);
		ms_manifest_release(&m);
	}
	if (!rc)
		rc = ms_retention_plan_make(all.v, all.n, &policy, needed.v, needed.n, REMOVALS_AT_ONCE, ret, err);
out:
	free(keep);
	free(pinned);
	free(all.v);
	free(needed.v);
	return rc;
}

enum ms_code ms_task_plan(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) {
	struct ms_retention_plan plan = {0};
	ms_retention_names_release(&t->removals);
	enum ms_code rc = make_plan(w, t, r, &plan, err);
	if (rc || !plan.n)
		return rc;
	t->removals = (struct ms_retention_names){plan.names, plan.n};
	t->remove_after_us = t->now_us + t->grace_us;
	/* A backend without heads has one writer by the user's word: no list to commit, only the grace time. */
	if ((rc = ms_task_put_head(w, t, r, &t->removals, t->remove_after_us, err))) {
		ms_retention_names_release(&t->removals);
		return rc;
	}
	ms_task_save(w, t);
	return MS_OK;
}

static int name_cmp(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

enum ms_code ms_task_remove(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) {
	struct ms_retention_plan plan = {0};
	enum ms_code rc;
	if (!w->cfg.fencing_none) {
		struct ms_head h;
		bool found;
		if ((rc = ms_view_head(r, t->cur.head_number, &found, &h, err)))
			return rc;
		uint32_t newest = found ? h.number : 0, epoch = found ? h.epoch : 0;
		bool ours = found && newest == t->cur.head_number && epoch == t->epoch && strcmp(h.owner, w->cfg.owner) == 0;
		if (found && !ours)
			rc = ms_err_set(err, MS_EFENCED, "replica %s was taken over by owner %s on %s (head %" PRIu32 ", epoch %" PRIu32 "); this one had head %" PRIu32
					", epoch %" PRIu32 ". To take it back: `migstream takeover %s`", w->cfg.url, h.owner, h.host, newest, epoch,
					t->cur.head_number, t->epoch, w->cfg.db);
		else if (!found)
			rc = ms_err_set(err, MS_ERETRY, "replica %s: its heads have vanished, so nothing is removed", w->cfg.url);
		if (found)
			ms_head_release(&h);
		if (rc)
			return rc;
	}
	if ((rc = make_plan(w, t, r, &plan, err)))
		return rc;
	qsort(t->removals.names, t->removals.n, sizeof *t->removals.names, name_cmp);
	for (uint32_t i = 0; i < plan.n && !rc; i++) {
		if (!t->removals.n || !bsearch(&plan.names[i], t->removals.names, t->removals.n, sizeof *t->removals.names, name_cmp))
			continue;
		if (!(rc = ms_replica_remove(r, plan.names[i], err)))
			t->removed++;
	}
	ms_retention_plan_release(&plan);
	return rc;
}
