/* Chains of generations and what their links hold: the pieces that plans, lists and checks are made of. */
#include "restore/plan_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/timefmt.h"

typedef unsigned long long ull;

static uint64_t known_last(const struct ms_inv_segment *s) { return s->last == MS_TXID_UNKNOWN ? s->first : s->last; }

enum ms_code ms_plan_probe_segment(const struct ms_plan_probe *probe, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s,
				  struct ms_err *err) {
	if (s->flags & (MS_SEG_PROBED | MS_SEG_FENCE | MS_SEG_BAD))
		return MS_OK;
	return probe->segment(probe->arg, replica, g, s, err);
}

size_t ms_inv_last_at_or_before(const struct ms_inv_segment *a, size_t n, uint64_t txid) {
	size_t lo = 0, hi = n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (a[mid].first <= txid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? lo - 1 : n;
}

/* ---- chain ---- */

void ms_chain_release(struct ms_chain *c) {
	free(c->links);
	*c = (struct ms_chain){0};
}

enum ms_code ms_chain_make(struct ms_inventory *inv, const struct ms_plan_probe *probe, const char *generation, struct ms_chain *ret,
			   struct ms_err *err) {
	struct ms_generation id;
	enum ms_code rc = MS_OK;
	if (!ms_generation_valid(generation))
		return ms_err_set(err, MS_EUSAGE, "\"%s\" is not a generation (like 0000000a-1b2c3d4e; `migstream list` shows them)", generation);
	snprintf(id.s, sizeof id.s, "%.*s", MS_GENERATION_LEN, generation);
	/* First what is known of the lineage (this may move the inventory's array), then the links. */
	for (size_t depth = 0; id.s[0]; depth++) {
		struct ms_inv_generation *g = ms_inventory_find(inv, id.s);
		if (!g)
			return ms_err_set(err, MS_ENOTRESTORABLE, "there is no generation %s in the replica", id.s);
		if (depth > inv->ngens)
			return ms_err_set(err, MS_ECORRUPT, "the lineage of generation %s runs in a circle", generation);
		if (!g->lineage_known) {
			struct ms_lineage l;
			if ((rc = probe->lineage(probe->arg, g, &l, err)))
				return rc;
			l.generation = id;
			if ((rc = ms_inventory_set_lineage(inv, &l, err)))
				return rc;
			g = ms_inventory_find(inv, id.s);
		}
		id = g->parent;
	}
	struct ms_chain c = {.links = calloc(inv->ngens, sizeof *c.links)};
	if (!c.links)
		return ms_err_set(err, MS_ENOMEM, "out of memory for the lineage of %s", generation);
	uint64_t upto = UINT64_MAX - 1;
	for (struct ms_inv_generation *g = ms_inventory_find(inv, generation); g; g = g->parent.s[0] ? ms_inventory_find(inv, g->parent.s) : NULL) {
		uint64_t above = g->fork_txid < upto ? g->fork_txid : upto;
		c.links[c.n++] = (struct ms_chain_link){.gen = g, .above = above, .upto = upto};
		upto = above;
	}
	*ret = c;
	return MS_OK;
}

/* ---- looking into a link ---- */

struct best {
	struct ms_inv_segment *seg;
	unsigned replica;
	uint64_t reach;
};

static void offer(struct best *b, struct ms_inv_segment *s, unsigned replica, uint64_t upto) {
	uint64_t reach = s->last < upto ? s->last : upto;
	bool merged = (s->flags & MS_SEG_MERGED) != 0, journal = (s->flags & MS_SEG_JOURNAL) != 0;
	if (b->seg && journal != ((b->seg->flags & MS_SEG_JOURNAL) != 0)) {
		if (!journal)
			*b = (struct best){s, replica, reach};
		return;
	}
	/* A replica that holds every commit is better than one that holds their catch-up. */
	bool fold = ms_inv_is_fold(s);
	if (b->seg && fold != ms_inv_is_fold(b->seg)) {
		if (!fold)
			*b = (struct best){s, replica, reach};
		return;
	}
	if (!b->seg || reach > b->reach || (reach == b->reach && merged && !(b->seg->flags & MS_SEG_MERGED)))
		*b = (struct best){s, replica, reach};
}

/* The engine's numbers may jump: the nearest segment after txid counts when its header names txid - 1 as its parent. */
static enum ms_code cover_jump(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *l, uint64_t txid,
			       struct best *b, struct ms_err *err) {
	for (unsigned r = 0; r < inv->nreplicas; r++) {
		struct ms_inv_shelf *sh = &l->gen->shelf[r];
		for (int merged = 0; merged < 2; merged++) {
			struct ms_inv_segment *a = merged ? sh->merged : sh->live;
			size_t n = merged ? sh->nmerged : sh->nlive;
			size_t i = ms_inv_last_at_or_before(a, n, txid);
			i = i == n ? 0 : i + 1;
			if (i >= n || a[i].first > l->upto)
				continue;
			enum ms_code rc = ms_plan_probe_segment(probe, r, l->gen, &a[i], err);
			if (rc)
				return rc;
			if (ms_inv_usable(&a[i]) && a[i].parent + 1 == txid)
				offer(b, &a[i], r, l->upto);
		}
	}
	return MS_OK;
}

enum ms_code ms_chain_cover(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *l, uint64_t txid,
			    struct ms_inv_segment **ret_seg, unsigned *ret_replica, struct ms_err *err) {
	struct best b = {0};
	enum ms_code rc = MS_OK;
	*ret_seg = NULL;
	if (txid <= l->above || txid > l->upto)
		return MS_OK;
	for (unsigned r = 0; r < inv->nreplicas; r++) {
		struct ms_inv_shelf *sh = &l->gen->shelf[r];
		for (size_t i = 0; i < sh->nmerged && sh->merged[i].first <= txid; i++) {
			if (sh->merged[i].last >= txid && ms_inv_usable(&sh->merged[i]))
				offer(&b, &sh->merged[i], r, l->upto);
		}
		size_t i = ms_inv_last_at_or_before(sh->live, sh->nlive, txid);
		if (i == sh->nlive)
			continue;
		struct ms_inv_segment *s = &sh->live[i];
		/* A fold serves from its parent to its end, so it has to be known as one where anything else could be asked of it. */
		bool look = s->last == MS_TXID_UNKNOWN || (ms_inv_may_fold(s) && (inv->nreplicas > 1 || s->last > l->upto || s->first < txid));
		if (look && (rc = ms_plan_probe_segment(probe, r, l->gen, s, err)))
			return rc;
		if (ms_inv_is_fold(s) && (s->first != txid || s->last > l->upto))
			continue;
		if (ms_inv_usable(s) && s->last >= txid)
			offer(&b, s, r, l->upto);
	}
	if (!b.seg && (rc = cover_jump(inv, probe, l, txid, &b, err)))
		return rc;
	*ret_seg = b.seg;
	*ret_replica = b.replica;
	return MS_OK;
}

struct ms_inv_segment *ms_chain_fold(const struct ms_inventory *inv, const struct ms_chain_link *l, uint64_t txid, uint64_t upto, unsigned *ret_replica) {
	struct ms_inv_segment *best = NULL;
	upto = upto < l->upto ? upto : l->upto;
	for (unsigned r = 0; r < inv->nreplicas; r++) {
		struct ms_inv_shelf *sh = &l->gen->shelf[r];
		size_t i = ms_inv_last_at_or_before(sh->live, sh->nlive, txid);
		struct ms_inv_segment *s = i < sh->nlive ? &sh->live[i] : NULL;
		if (!s || !ms_inv_usable(s) || !ms_inv_is_fold(s) || s->first == txid || s->last < txid || s->last > upto || (best && best->first >= s->first))
			continue;
		best = s;
		*ret_replica = r;
	}
	return best;
}

struct ms_inv_snapshot *ms_chain_snapshot(const struct ms_inventory *inv, const struct ms_chain *c, uint64_t txid, size_t *ret_link,
					  unsigned *ret_replica) {
	for (size_t i = 0; i < c->n; i++) {
		const struct ms_chain_link *l = &c->links[i];
		struct ms_inv_snapshot *best = NULL;
		for (unsigned r = 0; r < inv->nreplicas; r++) {
			struct ms_inv_shelf *sh = &l->gen->shelf[r];
			for (size_t k = 0; k < sh->nsnaps; k++) {
				struct ms_inv_snapshot *s = &sh->snaps[k];
				/* A fork's own snapshot may stand at its fork point. */
				if (s->bad || s->txid < l->above || (s->txid == l->above && ms_link_needs_base(l)) || s->txid > l->upto ||
				    s->txid > txid || (best && s->txid <= best->txid))
					continue;
				best = s;
				*ret_link = i;
				*ret_replica = r;
			}
		}
		if (best)
			return best;
		if (txid > l->above && ms_link_needs_base(l))
			return NULL;
	}
	return NULL;
}

enum ms_code ms_chain_newest(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *l,
			     uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err) {
	uint64_t txid = l->above;
	int64_t us = 0;
	for (unsigned r = 0; r < inv->nreplicas; r++) {
		struct ms_inv_shelf *sh = &l->gen->shelf[r];
		for (size_t i = sh->nlive; i-- > 0;) {
			struct ms_inv_segment *s = &sh->live[i];
			if (s->first > l->upto)
				continue;
			enum ms_code rc = ms_plan_probe_segment(probe, r, l->gen, s, err);
			if (rc)
				return rc;
			if (!ms_inv_evidence(s))
				continue;
			if (known_last(s) > txid) {
				txid = known_last(s);
				us = s->last_us;
			}
			break;
		}
		for (size_t i = 0; i < sh->nmerged; i++) {
			if (sh->merged[i].first <= l->upto && sh->merged[i].last > txid) {
				txid = sh->merged[i].last;
				us = sh->merged[i].last_us;
			}
		}
		for (size_t i = 0; i < sh->nsnaps; i++) {
			if (!sh->snaps[i].bad && sh->snaps[i].txid <= l->upto && sh->snaps[i].txid > txid) {
				txid = sh->snaps[i].txid;
				us = sh->snaps[i].time_us;
			}
		}
	}
	*ret_txid = txid < l->upto ? txid : l->upto;
	*ret_us = us;
	return MS_OK;
}

bool ms_chain_anything_after(const struct ms_inventory *inv, const struct ms_chain_link *l, uint64_t txid) {
	for (unsigned r = 0; r < inv->nreplicas; r++) {
		const struct ms_inv_shelf *sh = &l->gen->shelf[r];
		for (size_t i = sh->nlive; i-- > 0 && sh->live[i].first > txid;) {
			if (ms_inv_evidence(&sh->live[i]) && sh->live[i].first <= l->upto)
				return true;
		}
		for (size_t i = 0; i < sh->nmerged; i++) {
			if (sh->merged[i].last > txid && sh->merged[i].first <= l->upto)
				return true;
		}
		for (size_t i = 0; i < sh->nsnaps; i++) {
			if (sh->snaps[i].txid > txid && sh->snaps[i].txid <= l->upto)
				return true;
		}
	}
	return false;
}

void ms_chain_describe(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain *c, char *ret, size_t cap) {
	const struct ms_generation *newer = NULL; /* of points that were described */
	size_t len = 0;
	char t1[32], t2[32];
	/* What restores from the same snapshots: links down to one that needs its own, and so on from there. */
	for (size_t from = 0, end; from < c->n; from = end) {
		const struct ms_inv_snapshot *first = NULL;
		uint64_t last = 0;
		int64_t last_us = 0;
		end = from;
		for (bool more = true; more && end < c->n; end++) {
			const struct ms_chain_link *l = &c->links[end];
			uint64_t txid = 0;
			int64_t us = 0;
			more = !ms_link_needs_base(l);
			for (unsigned r = 0; r < inv->nreplicas; r++) {
				const struct ms_inv_shelf *sh = &l->gen->shelf[r];
				for (size_t k = 0; k < sh->nsnaps; k++) {
					const struct ms_inv_snapshot *s = &sh->snaps[k];
					if (!s->bad && s->txid >= l->above && s->txid <= l->upto && (!first || s->txid < first->txid))
						first = s;
				}
			}
			if (ms_chain_newest(inv, probe, l, &txid, &us, NULL) == MS_OK && txid > last && us) {
				last = txid;
				last_us = us;
			}
		}
		if (!first || len >= cap)
			continue;
		len += (size_t)snprintf(ret + len, cap - len, "%s txid %llu (%s) to %llu (%s)", newer ? ", and of its parent generation" : "restorable are",
					(ull)first->txid, ms_time_format(t1, first->time_us), (ull)(last > first->txid ? last : first->txid),
					ms_time_format(t2, last > first->txid ? last_us : first->time_us));
		if (!newer && from > 0 && len < cap)
			len += (size_t)snprintf(ret + len, cap - len, " of its parent generation %s", c->links[from].gen->id.s);
		newer = &c->links[from].gen->id;
	}
	if (!len)
		snprintf(ret, cap, "no snapshot of generation %s is there yet, so none of its points is restorable", c->links[0].gen->id.s);
}
