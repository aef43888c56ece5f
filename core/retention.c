#include "core/retention.h"

#include <stdlib.h>
#include <string.h>

void ms_retention_plan_release(struct ms_retention_plan *p) {
	for (uint32_t i = 0; i < p->n; i++)
		free(p->names[i]);
	free(p->names);
	*p = (struct ms_retention_plan){0};
}

static bool same(const struct ms_generation *a, const struct ms_generation *b) { return strcmp(a->s, b->s) == 0; }

#define NOT_THERE UINT32_MAX

/* Index in the lineage; nlineage is the parent of the oldest generation that it names. NOT_THERE otherwise. */
static uint32_t lineage_index(const struct ms_retention_policy *p, const struct ms_generation *g) {
	for (uint32_t i = 0; i < p->nlineage; i++)
		if (same(&p->lineage[i].generation, g))
			return i;
	return p->nlineage && same(&p->lineage[p->nlineage - 1].parent, g) ? p->nlineage : NOT_THERE;
}

/* Between the ends of the catch-up. */
static bool in_fold(const struct ms_retention_policy *p, const struct ms_name *s) {
	return p->nlineage && same(&s->generation, &p->lineage[0].generation) && s->first >= p->fold_first && s->first < p->fold_last;
}

enum leads { LEADS_NOT, LEADS_PERHAPS, LEADS };

/* Does a snapshot lead into generation g: is it of an ancestor, and not behind the fork out of that? */
static enum leads leads_into(const struct ms_retention_policy *p, const struct ms_name *snap, const struct ms_generation *g) {
	uint32_t from = lineage_index(p, &snap->generation), to = lineage_index(p, g);
	if (same(&snap->generation, g))
		return LEADS;
	if (from != NOT_THERE && to != NOT_THERE) { /* forks only lie further back the older they are: the first one out of it decides */
		for (uint32_t i = to; i < from; i++)
			if (ms_lineage_needs_base(&p->lineage[i]))
				return LEADS_NOT;
		return from > to && snap->first <= p->lineage[from - 1].fork_txid ? LEADS : LEADS_NOT;
	}
	/* From outside into the lineage: only where the lineage is cut off. */
	bool cut = p->nlineage == 0 || p->lineage[p->nlineage - 1].parent.s[0];
	if (to != NOT_THERE && !cut)
		return LEADS_NOT;
	/* An ancestor never has a higher epoch. */
	return ms_generation_epoch(&snap->generation) <= ms_generation_epoch(g) ? LEADS_PERHAPS : LEADS_NOT;
}

static bool newer(const struct ms_name *a, const struct ms_name *b) {
	return a->first_us != b->first_us ? a->first_us > b->first_us : a->first > b->first;
}

bool ms_retention_in_time(const struct ms_name *snapshot, const struct ms_retention_policy *policy) {
	return policy->snapshot_retention_us <= 0 || snapshot->first_us >= policy->now_us - policy->snapshot_retention_us;
}

static int snapshot_cmp(const void *a, const void *b) {
	const struct ms_name *x = *(const struct ms_name *const *)a, *y = *(const struct ms_name *const *)b;
	int c = strcmp(x->generation.s, y->generation.s);
	return c ? c : newer(x, y) ? 1 : newer(y, x) ? -1 : 0;
}

/* v[0..n): the snapshots in time, by generation and age. The oldest and the newest of each generation stay. */
static void thin(const struct ms_name *const *v, uint32_t n, const struct ms_name *names, const struct ms_retention_policy *policy, bool *keep) {
	const struct ms_name *last = NULL;
	for (uint32_t i = 0; i < n; i++) {
		bool follows = last && same(&last->generation, &v[i]->generation);
		const struct ms_name *next = i + 1 < n && same(&v[i + 1]->generation, &v[i]->generation) ? v[i + 1] : NULL;
		if (follows && next && next->first_us - last->first_us <= policy->snapshot_spacing_us && !(policy->pinned && policy->pinned[v[i] - names]))
			keep[v[i] - names] = false;
		else
			last = v[i];
	}
}

enum ms_code ms_retention_kept_snapshots(const struct ms_name *names, uint32_t n, const struct ms_retention_policy *policy, bool *ret_keep,
					 struct ms_err *err) {
	const struct ms_name *newest = NULL, *leading = NULL, *perhaps = NULL, **in_time = calloc((size_t)n + 1, sizeof *in_time);
	uint32_t nin_time = 0;
	if (!in_time)
		return ms_err_set(err, MS_ENOMEM, "retention of %u objects", n);
	for (uint32_t i = 0; i < n; i++) {
		const struct ms_name *s = &names[i];
		ret_keep[i] = s->kind == MS_NAME_SNAPSHOT && ms_retention_in_time(s, policy);
		if (s->kind != MS_NAME_SNAPSHOT)
			continue;
		if (ret_keep[i])
			in_time[nin_time++] = s;
		if (!newest || newer(s, newest))
			newest = s;
		enum leads l = in_fold(policy, s) ? LEADS_NOT : policy->nlineage ? leads_into(policy, s, &policy->lineage[0].generation) : LEADS_PERHAPS;
		if (l == LEADS && (!leading || newer(s, leading)))
			leading = s;
		if (l == LEADS_PERHAPS && (!perhaps || newer(s, perhaps)))
			perhaps = s;
	}
	if (!leading)
		leading = perhaps;
	qsort(in_time, nin_time, sizeof *in_time, snapshot_cmp);
	if (policy->snapshot_spacing_us > 0)
		thin(in_time, nin_time, names, policy, ret_keep);
	if (newest)
		ret_keep[newest - names] = true;
	if (leading)
		ret_keep[leading - names] = true;
	free(in_time);
	return MS_OK;
}

static bool is_segment(const struct ms_name *n) {
	return n->kind == MS_NAME_SEGMENT || n->kind == MS_NAME_SEGMENT_PART || n->kind == MS_NAME_MERGED;
}

const struct ms_name *ms_retention_segment_before(const struct ms_name *names, uint32_t n, const struct ms_name *snapshot) {
	const struct ms_name *best = NULL;
	for (uint32_t i = 0; i < n; i++) {
		const struct ms_name *s = &names[i];
		if (!is_segment(s) || s->kind == MS_NAME_SEGMENT_PART || s->first > snapshot->first || !same(&s->generation, &snapshot->generation))
			continue;
		if (!best || s->first > best->first || (s->first == best->first && s->last > best->last))
			best = s;
	}
	return best;
}

struct plan {
	const struct ms_retention_policy *policy;
	const struct ms_name *names;
	const bool *keep;
	uint32_t n, max;
	struct ms_retention_plan out;
	uint32_t cap;
};

static bool add(struct plan *p, const struct ms_name *name) {
	char text[MS_NAME_MAX];
	if (p->max && p->out.n == p->max)
		return true;
	if (p->out.n == p->cap) {
		uint32_t cap = p->cap ? p->cap * 2 : 64;
		char **grown = reallocarray(p->out.names, cap, sizeof *grown);
		if (!grown)
			return false;
		p->out.names = grown;
		p->cap = cap;
	}
	ms_name_format(name, text);
	if (!(p->out.names[p->out.n] = strdup(text)))
		return false;
	p->out.n++;
	return true;
}

/* Does a kept snapshot of another generation perhaps lead into g? */
static bool ancestor_kept(const struct plan *p, const struct ms_generation *g) {
	for (uint32_t i = 0; i < p->n; i++)
		if (p->keep[i] && !same(&p->names[i].generation, g) && leads_into(p->policy, &p->names[i], g) != LEADS_NOT)
			return true;
	return false;
}

static int segment_cmp(const void *a, const void *b) {
	const struct ms_name *x = *(const struct ms_name *const *)a, *y = *(const struct ms_name *const *)b;
	int c = strcmp(x->generation.s, y->generation.s);
	if (c)
		return c;
	if (x->first != y->first)
		return x->first < y->first ? -1 : 1;
	return (int)x->number - (int)y->number;
}

/* v[0..n): the segments of one generation, ascending. */
static bool plan_generation(struct plan *p, const struct ms_name *const *v, uint32_t n) {
	const struct ms_generation *g = &v[0]->generation;
	uint64_t oldest = UINT64_MAX; /* txid of its oldest kept snapshot */
	for (uint32_t i = 0; i < p->n; i++)
		if (p->keep[i] && same(&p->names[i].generation, g) && p->names[i].first < oldest)
			oldest = p->names[i].first;
	if (ancestor_kept(p, g) || (oldest == UINT64_MAX && lineage_index(p->policy, g) == 0))
		return true;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t last = v[i]->last;
		if (v[i]->kind != MS_NAME_MERGED) {
			/* A live name does not say where it ends: right before the next one begins. */
			uint32_t next = i + 1;
			while (next < n && v[next]->first == v[i]->first)
				next++;
			last = next < n ? v[next]->first - 1 : UINT64_MAX;
		}
		if ((oldest == UINT64_MAX || last <= oldest) && !add(p, v[i]))
			return false;
	}
	return true;
}

static int chunk_cmp(const void *a, const void *b) {
	const struct ms_name *x = a, *y = b;
	int c = strcmp(x->generation.s, y->generation.s);
	if (c)
		return c;
	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

static int head_cmp(const void *a, const void *b) {
	const struct ms_name *x = *(const struct ms_name *const *)a, *y = *(const struct ms_name *const *)b;
	return x->number < y->number ? -1 : x->number > y->number;
}

/* heads: room for all names. */
static bool plan_heads(struct plan *p, const struct ms_name **heads) {
	uint32_t n = 0, ngo = 0;
	for (uint32_t i = 0; i < p->n; i++)
		if (p->names[i].kind == MS_NAME_HEAD)
			heads[n++] = &p->names[i];
	bool *go = calloc((size_t)n + 1, sizeof *go), ok = go != NULL;
	qsort(heads, n, sizeof *heads, head_cmp);
	for (uint32_t i = 0; ok && i + MS_HEADS_KEPT < n; i++) {
		const struct ms_generation *g = &heads[i]->generation;
		bool before = false, after = false, there = !g->s[0];
		for (uint32_t k = 0; k < n; k++) {
			before |= k < i && same(&heads[k]->generation, g);
			after |= k > i && same(&heads[k]->generation, g);
		}
		if (before && after)
			there = !g->s[0];
		else
			for (uint32_t k = 0; k < p->n && !there; k++)
				there = p->names[k].kind != MS_NAME_HEAD && same(&p->names[k].generation, g);
		go[i] = !there;
		ngo += !there;
	}
	bool worth = p->out.n || ngo >= MS_HEADS_KEPT;
	for (uint32_t i = 0; ok && worth && i < n; i++)
		ok = !go[i] || add(p, heads[i]);
	free(go);
	return ok;
}

static bool plan_all(struct plan *p, const struct ms_name **segments, const struct ms_name *needed, uint32_t nneeded) {
	uint32_t nsegments = 0;
	for (uint32_t i = 0; i < p->n; i++) {
		if (p->names[i].kind == MS_NAME_SNAPSHOT && !p->keep[i] && !add(p, &p->names[i]))
			return false;
		if (is_segment(&p->names[i]))
			segments[nsegments++] = &p->names[i];
	}
	qsort(segments, nsegments, sizeof *segments, segment_cmp);
	for (uint32_t i = 0, n; i < nsegments; i += n) {
		for (n = 1; i + n < nsegments && same(&segments[i]->generation, &segments[i + n]->generation); n++)
			;
		if (!plan_generation(p, segments + i, n))
			return false;
	}
	for (uint32_t i = 0; i < p->n && !p->policy->keep_chunks; i++)
		if (p->names[i].kind == MS_NAME_CHUNK && !(nneeded && bsearch(&p->names[i], needed, nneeded, sizeof *needed, chunk_cmp)) &&
		    !add(p, &p->names[i]))
			return false;
	return plan_heads(p, segments); /* which are done with */
}

enum ms_code ms_retention_plan_make(const struct ms_name *names, uint32_t n, const struct ms_retention_policy *policy,
				    const struct ms_name *needed_chunks, uint32_t nneeded, uint32_t max, struct ms_retention_plan *ret,
				    struct ms_err *err) {
	bool *keep = calloc((size_t)n + 1, sizeof *keep), any = false;
	const struct ms_name **segments = calloc((size_t)n + 1, sizeof *segments);
	struct ms_name *needed = calloc((size_t)nneeded + 1, sizeof *needed);
	struct plan p = {.policy = policy, .names = names, .keep = keep, .n = n, .max = max};
	enum ms_code rc = MS_OK;
	if (!keep || !segments || !needed) {
		rc = ms_err_set(err, MS_ENOMEM, "retention plan of %u objects", n);
		goto out;
	}
	if (nneeded)
		memcpy(needed, needed_chunks, nneeded * sizeof *needed);
	qsort(needed, nneeded, sizeof *needed, chunk_cmp);
	if ((rc = ms_retention_kept_snapshots(names, n, policy, keep, err)))
		goto out;
	for (uint32_t i = 0; i < n; i++)
		any |= keep[i];
	if (any && !plan_all(&p, segments, needed, nneeded)) {
		ms_retention_plan_release(&p.out);
		rc = ms_err_set(err, MS_ENOMEM, "retention plan of %u objects", n);
		goto out;
	}
	*ret = p.out;
out:
	free(keep);
	free(segments);
	free(needed);
	return rc;
}
