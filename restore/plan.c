#include "restore/plan_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/timefmt.h"

typedef unsigned long long ull;

/* ---- resolving a time ---- */

/* Last live segment of the link that begins at or before time_us; *ret_i = n when there is none. */
static enum ms_code live_at(const struct ms_plan_probe *probe, unsigned replica, const struct ms_chain_link *l, int64_t time_us, size_t *ret_i,
			    struct ms_err *err) {
	struct ms_inv_shelf *sh = &l->gen->shelf[replica];
	size_t lo = 0, hi = sh->nlive;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2, k = mid + 1;
		struct ms_inv_segment *s = NULL;
		/* The time of a damaged one is unknown: the nearest whole one before it answers for it. */
		while (k > lo && (!s || (s->flags & MS_SEG_BAD))) {
			s = &sh->live[--k];
			enum ms_code rc = s->first > l->upto ? MS_OK : ms_plan_probe_segment(probe, replica, l->gen, s, err);
			if (rc)
				return rc;
		}
		/* A fence or an incomplete transaction can only be the end. */
		if ((s->flags & MS_SEG_BAD) || (ms_inv_usable(s) && s->first <= l->upto && s->first_us <= time_us))
			lo = mid + 1;
		else
			hi = k;
	}
	while (lo > 0 && !ms_inv_usable(&sh->live[lo - 1]))
		lo--;
	*ret_i = lo ? lo - 1 : sh->nlive;
	return MS_OK;
}

static enum ms_code segment_at(const struct ms_plan_probe *probe, unsigned replica, const struct ms_chain_link *l, struct ms_inv_segment *s,
			       int64_t time_us, uint64_t *txid, int64_t *us, struct ms_err *err) {
	uint64_t t = s->last;
	int64_t at = s->last_us;
	if (s->last_us > time_us || s->last > l->upto) {
		enum ms_code rc = probe->last_commit(probe->arg, replica, l->gen, s, time_us, l->upto, &t, &at, err);
		if (rc)
			return rc;
	}
	if (t > *txid && t > l->above) {
		*txid = t;
		*us = at;
	}
	return MS_OK;
}

/* Last point of one link at or before time_us; *ret_txid = 0 when there is none. */
static enum ms_code link_at(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain_link *l, int64_t time_us,
			    uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err) {
	uint64_t txid = 0;
	int64_t us = 0;
	enum ms_code rc = MS_OK;
	for (unsigned r = 0; !rc && r < inv->nreplicas; r++) {
		struct ms_inv_shelf *sh = &l->gen->shelf[r];
		struct ms_inv_segment *merged = NULL;
		size_t i = sh->nlive;
		for (size_t k = 0; k < sh->nsnaps; k++) {
			struct ms_inv_snapshot *s = &sh->snaps[k];
			if (!s->bad && s->txid >= l->above && s->txid <= l->upto && s->time_us <= time_us && s->txid > txid) {
				txid = s->txid;
				us = s->time_us;
			}
		}
		for (size_t k = 0; k < sh->nmerged; k++) {
			struct ms_inv_segment *s = &sh->merged[k];
			if (!ms_inv_usable(s) || s->first > l->upto || s->first_us > time_us)
				continue;
			/* One that reaches past the time holds the answer, whichever it is: the smallest is read. Of the others the last txid counts. */
			if (s->last_us > time_us || s->last > l->upto) {
				if (!merged || s->bytes < merged->bytes)
					merged = s;
			} else if ((rc = segment_at(probe, r, l, s, time_us, &txid, &us, err))) {
				break;
			}
		}
		if (!rc && merged)
			rc = segment_at(probe, r, l, merged, time_us, &txid, &us, err);
		if (!rc)
			rc = live_at(probe, r, l, time_us, &i, err);
		if (!rc && i < sh->nlive)
			rc = segment_at(probe, r, l, &sh->live[i], time_us, &txid, &us, err);
	}
	if (!rc) {
		*ret_txid = txid;
		*ret_us = us;
	}
	return rc;
}

/* Resolves a time in one chain. *ret_txid = 0: before the chain's first point. *ret_gap = txid that is missing right after the point, where
 * commits at or before the time may be lost; 0 none. */
static enum ms_code chain_at(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain *c, int64_t time_us,
			     size_t *ret_link, uint64_t *ret_txid, int64_t *ret_us, uint64_t *ret_gap, struct ms_err *err) {
	*ret_txid = *ret_gap = 0;
	for (size_t i = 0; i < c->n; i++) {
		struct ms_inv_segment *next = NULL;
		unsigned replica;
		enum ms_code rc = link_at(inv, probe, &c->links[i], time_us, ret_txid, ret_us, err);
		if (rc)
			return rc;
		if (!*ret_txid)
			continue;
		*ret_link = i;
		if (*ret_txid >= c->links[i].upto)
			return MS_OK;
		if ((rc = ms_chain_cover(inv, probe, &c->links[i], *ret_txid + 1, &next, &replica, err)))
			return rc;
		if (!next && (i > 0 || ms_chain_anything_after(inv, &c->links[i], *ret_txid)))
			*ret_gap = *ret_txid + 1;
		return MS_OK;
	}
	return MS_OK;
}

/* ---- which generation a time means ---- */

struct candidate {
	struct ms_generation gen;
	int64_t start_us, end_us; /* head in [start, end) */
};

/* Generations in the order in which they became head, as the heads of all replicas tell. */
static enum ms_code head_history(const struct ms_inventory *inv, struct candidate **ret, size_t *ret_n, struct ms_err *err) {
	struct candidate *a = calloc(inv->nheads ? inv->nheads : 1, sizeof *a);
	size_t n = 0;
	if (!a)
		return ms_err_set(err, MS_ENOMEM, "out of memory for %zu heads", inv->nheads);
	/* Epochs order the heads of all replicas; there are few, so insertion is enough. */
	for (size_t i = 0; i < inv->nheads; i++) {
		const struct ms_inv_head *h = &inv->heads[i];
		size_t at;
		for (at = 0; at < n && strcmp(a[at].gen.s, h->generation.s) != 0; at++)
			continue;
		if (at < n) {
			if (h->time_us < a[at].start_us)
				a[at].start_us = h->time_us;
			continue;
		}
		uint32_t epoch = ms_generation_epoch(&h->generation);
		for (at = n; at > 0 && ms_generation_epoch(&a[at - 1].gen) > epoch; at--)
			a[at] = a[at - 1];
		a[at] = (struct candidate){.gen = h->generation, .start_us = h->time_us};
		n++;
	}
	for (size_t i = 0; i < n; i++)
		a[i].end_us = i + 1 < n ? a[i + 1].start_us : INT64_MAX;
	*ret = a;
	*ret_n = n;
	return MS_OK;
}

struct point {
	struct ms_chain chain;
	size_t link;
	uint64_t txid, gap;
	int64_t us;
};

/* What a time means while this generation was head, but before its first point that restores. */
static enum ms_code not_yet(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_generation *g, int64_t time_us,
			    const struct ms_chain *c, struct ms_err *err) {
	char t[32], points[300];
	ms_chain_describe(inv, probe, c, points, sizeof points);
	return ms_err_set(err, MS_ENOTRESTORABLE, "%s lies behind the start of generation %s, and before the first of its points that restores: %s; choose one with --txid",
			  ms_time_format(t, time_us), g->s, points);
}

static enum ms_code resolve_time(struct ms_inventory *inv, const struct ms_plan_request *req, const struct ms_plan_probe *probe, struct point *ret,
				 struct ms_err *err) {
	struct candidate *cand = NULL;
	size_t n = 0;
	struct point best = {0};
	char t[32], text[300] = "";
	bool ambiguous = false;
	struct ms_err late = MS_ERR_INIT;
	int64_t began_us = INT64_MIN; /* of the first candidate, which is believed to have been head before that too */
	enum ms_code rc = MS_OK;
	if (req->generation) {
		if (!(cand = calloc(1, sizeof *cand)))
			return ms_err_set(err, MS_ENOMEM, "out of memory");
		n = 1;
		snprintf(cand[0].gen.s, sizeof cand[0].gen.s, "%.*s", MS_GENERATION_LEN, req->generation);
		cand[0].start_us = INT64_MIN;
		cand[0].end_us = INT64_MAX;
	} else {
		rc = head_history(inv, &cand, &n, err);
		/* Before the first head that is left: its lineage may still reach back. */
		if (!rc && n) {
			began_us = cand[0].start_us;
			cand[0].start_us = INT64_MIN;
		}
	}
	for (size_t i = 0; !rc && i < n; i++) {
		struct point p = {0};
		if (cand[i].start_us > req->time_us)
			continue;
		if ((rc = ms_chain_make(inv, probe, cand[i].gen.s, &p.chain, err)))
			break;
		if (cand[i].end_us <= req->time_us) {
			/* Its time as head was over, by the next one's clock; it matters still if it has commits that late. */
			uint64_t newest;
			int64_t newest_us = 0;
			rc = ms_chain_newest(inv, probe, &p.chain.links[0], &newest, &newest_us, err);
			if (rc || newest_us < req->time_us || newest_us < cand[i].end_us) {
				ms_chain_release(&p.chain);
				continue;
			}
		}
		rc = chain_at(inv, probe, &p.chain, req->time_us, &p.link, &p.txid, &p.us, &p.gap, err);
		/* Its first state is on no replica; the parent's last one is not what the database held then. */
		int64_t start_us = i == 0 ? began_us : cand[i].start_us;
		if (!rc && start_us != INT64_MIN && start_us <= req->time_us && ms_link_needs_base(&p.chain.links[0]) && (!p.txid || p.link > 0)) {
			(void)not_yet(inv, probe, &cand[i].gen, req->time_us, &p.chain, &late);
			p.txid = 0;
		}
		if (rc || !p.txid) {
			ms_chain_release(&p.chain);
			continue;
		}
		size_t len = strlen(text);
		snprintf(text + len, sizeof text - len, "%stxid %llu of %s (%s)", len ? " or " : "", (ull)p.txid, p.chain.links[p.link].gen->id.s,
			 ms_time_format(t, p.us));
		if (best.chain.n && (best.txid != p.txid || best.chain.links[best.link].gen != p.chain.links[p.link].gen))
			ambiguous = true;
		ms_chain_release(&best.chain);
		best = p;
	}
	if (!rc && ambiguous)
		rc = ms_err_set(err, MS_ENOTRESTORABLE, "%s is ambiguous: %s; choose with --generation or --txid", ms_time_format(t, req->time_us), text);
	if (!rc && !best.chain.n && late.code) {
		if (err)
			*err = late;
		rc = late.code;
	}
	if (!rc && !best.chain.n) {
		/* Nothing at or before it: say where the history begins. */
		char points[200] = "the replica holds no point";
		struct ms_chain c = {0};
		if (n && ms_chain_make(inv, probe, cand[0].gen.s, &c, NULL) == MS_OK)
			ms_chain_describe(inv, probe, &c, points, sizeof points);
		ms_chain_release(&c);
		rc = ms_err_set(err, MS_ENOTRESTORABLE, "%s lies before the first restorable point: %s", ms_time_format(t, req->time_us), points);
	}
	if (rc)
		ms_chain_release(&best.chain);
	else
		*ret = best;
	free(cand);
	return rc;
}

/* ---- the plan ---- */

static enum ms_code push_step(struct ms_plan *p, struct ms_inv_generation *g, struct ms_inv_segment *s, unsigned replica, uint64_t upto,
			      struct ms_err *err) {
	if (p->nsteps == p->cap_steps) {
		size_t cap = p->cap_steps ? p->cap_steps * 2 : 64;
		struct ms_plan_step *a = realloc(p->steps, cap * sizeof *a);
		if (!a)
			return ms_err_set(err, MS_ENOMEM, "out of memory for a plan of %zu segments", p->nsteps);
		p->steps = a;
		p->cap_steps = cap;
	}
	p->steps[p->nsteps++] = (struct ms_plan_step){g, s, replica, upto};
	if (s->flags & MS_SEG_JOURNAL)
		return MS_OK;
	p->segment_bytes += s->bytes;
	p->segment_objects += s->nparts;
	return MS_OK;
}

/* Takes the plan that begins at txid `from` back to `txid`, which it has passed. False when no step can end there. */
static bool back_to(struct ms_plan *p, uint64_t from, uint64_t txid) {
	while (p->nsteps && (p->nsteps > 1 ? p->steps[p->nsteps - 2].upto : from) >= txid) {
		const struct ms_plan_step *s = &p->steps[--p->nsteps];
		if (s->seg->flags & MS_SEG_JOURNAL)
			continue;
		p->segment_bytes -= s->seg->bytes;
		p->segment_objects -= s->seg->nparts;
	}
	struct ms_plan_step *last = p->nsteps ? &p->steps[p->nsteps - 1] : NULL;
	if (!last || last->upto <= txid)
		return (last ? last->upto : from) == txid;
	if (ms_inv_is_fold(last->seg))
		return false;
	last->upto = txid;
	return true;
}

/* Segments from the snapshot's txid to `to`. *ret_reached < to: the next txid is missing, or (*ret_again > 0) a catch-up leads on that begins behind
 * that txid, which lies before `from`. */
static enum ms_code walk(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain *c, size_t link, uint64_t from,
			 uint64_t to, struct ms_plan *p, uint64_t *ret_reached, uint64_t *ret_again, struct ms_err *err) {
	uint64_t cur = from;
	*ret_again = 0;
	while (cur < to) {
		struct ms_inv_segment *s = NULL;
		unsigned replica = 0;
		while (link > 0 && cur + 1 > c->links[link].upto)
			link--;
		enum ms_code rc = ms_chain_cover(inv, probe, &c->links[link], cur + 1, &s, &replica, err);
		if (rc)
			return rc;
		if (s && s->last > to && ms_inv_may_fold(s) && (rc = ms_plan_probe_segment(probe, replica, c->links[link].gen, s, err)))
			return rc;
		struct ms_inv_segment *other = s && !(ms_inv_is_fold(s) && s->last > to) ? NULL : ms_chain_fold(inv, &c->links[link], cur + 1, to, &replica);
		bool entered = other != NULL;
		if (other || (!s && (other = ms_chain_fold(inv, &c->links[link], cur + 1, UINT64_MAX, &replica))))
			s = other;
		if (!s)
			break;
		if (ms_inv_is_fold(s) && s->last > to)
			return ms_err_set(err, MS_ENOTRESTORABLE,
					  "txid %llu is within a catch-up: the replica was down while txid %llu to %llu were made, and holds only the last of them; "
					  "restorable are txid %llu and txid %llu",
					  (ull)to, (ull)s->first, (ull)s->last, (ull)cur, (ull)s->last);
		if (entered && (from >= s->first || !back_to(p, from, s->first - 1))) {
			*ret_again = s->first - 1;
			break;
		}
		cur = s->last < c->links[link].upto ? s->last : c->links[link].upto;
		if ((rc = push_step(p, c->links[link].gen, s, replica, cur < to ? cur : to, err)))
			return rc;
	}
	*ret_reached = cur;
	return MS_OK;
}

/* Generation that a request without one means: the newest head's, else (a replica without heads) the one of the highest epoch. */
static const char *default_generation(const struct ms_inventory *inv) {
	const struct ms_inv_head *h = ms_inventory_newest_head(inv);
	if (h)
		return h->generation.s;
	return inv->ngens ? inv->gens[inv->ngens - 1].id.s : NULL;
}

static const char *other_generation_with(const struct ms_inventory *inv, uint64_t txid) {
	for (size_t i = inv->ngens; i-- > 0;) {
		for (unsigned r = 0; r < inv->nreplicas; r++) {
			struct ms_inv_shelf *sh = &inv->gens[i].shelf[r];
			size_t k = ms_inv_last_at_or_before(sh->live, sh->nlive, txid);
			if (k < sh->nlive && sh->live[k].last != MS_TXID_UNKNOWN && sh->live[k].last >= txid)
				return inv->gens[i].id.s;
		}
	}
	return NULL;
}

/* Newest point of a chain from link `from` on, whether it restores or not; 0 when there is nothing. A fork without objects of its own stands at
 * its fork point, which the parent must reach; one that needs a snapshot of its own stands behind it. */
static enum ms_code newest_of(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain *c, size_t from,
			      uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err) {
	*ret_txid = 0;
	for (size_t i = from; i < c->n; i++) {
		const struct ms_chain_link *l = &c->links[i];
		enum ms_code rc = ms_chain_newest(inv, probe, l, ret_txid, ret_us, err);
		if (!rc && *ret_txid == l->above && l->gen->seeded && l->upto > l->above)
			++*ret_txid;
		if (rc || *ret_txid > l->above || l->above > 0)
			return rc;
	}
	return MS_OK;
}

/* The link that the point at txid needs a snapshot of, or of a later one; c->n when there is none. */
static size_t base_link(const struct ms_chain *c, uint64_t txid) {
	size_t i = 0;
	while (i < c->n && !(ms_link_needs_base(&c->links[i]) && (txid > c->links[i].above || !txid)))
		i++;
	return i;
}

/* Not even a damaged one. */
static bool no_snapshot(const struct ms_inventory *inv, const struct ms_chain *c, size_t upto_link) {
	for (size_t i = 0; i <= upto_link; i++)
		for (unsigned r = 0; r < inv->nreplicas; r++)
			for (size_t k = 0; k < c->links[i].gen->shelf[r].nsnaps; k++)
				if (c->links[i].gen->shelf[r].snaps[k].txid > c->links[i].above || !ms_link_needs_base(&c->links[i]))
					return false;
	return true;
}

/* Generation that was head before g was; NULL none. */
static const char *head_before(const struct ms_inventory *inv, const char *g) {
	const struct ms_inv_head *own = NULL, *best = NULL;
	for (size_t i = 0; i < inv->nheads; i++) {
		const struct ms_inv_head *h = &inv->heads[i];
		if (strcmp(h->generation.s, g) == 0 && (!own || h->epoch < own->epoch || (h->epoch == own->epoch && h->number < own->number)))
			own = h;
	}
	for (size_t i = 0; own && i < inv->nheads; i++) {
		const struct ms_inv_head *h = &inv->heads[i];
		bool older = h->epoch < own->epoch || (h->epoch == own->epoch && h->number < own->number);
		if (older && (!best || h->epoch > best->epoch || (h->epoch == best->epoch && h->number > best->number)))
			best = h;
	}
	return best ? best->generation.s : NULL;
}

/*
 * The newest point is of a generation whose first snapshot has not come yet: what was before it is the best there is. p becomes the newest point of
 * its parent, or of the generation that was head before; and warning says so. Nothing happens where a snapshot is there, or nothing is before it.
 */
static enum ms_code fall_back(struct ms_inventory *inv, const struct ms_plan_probe *probe, struct point *p, char *warning, size_t cap, struct ms_err *err) {
	struct ms_generation pending = {""};
	uint64_t upto = p->txid;
	int64_t us = p->us;
	enum ms_code rc;
	for (;;) {
		size_t k = base_link(&p->chain, p->txid);
		struct point next = {0};
		if (k == p->chain.n || !no_snapshot(inv, &p->chain, k))
			break;
		if (p->chain.links[k].gen->seeded && k + 1 < p->chain.n) {
			if ((rc = newest_of(inv, probe, &p->chain, k + 1, &next.txid, &next.us, err)))
				return rc;
			if (!next.txid)
				return MS_OK;
			if (!pending.s[0])
				pending = p->chain.links[0].gen->id;
			p->txid = next.txid;
			continue;
		}
		const char *before = head_before(inv, p->chain.links[k].gen->id.s);
		if (!before)
			return MS_OK;
		if ((rc = ms_chain_make(inv, probe, before, &next.chain, err)))
			return rc;
		if ((rc = newest_of(inv, probe, &next.chain, 0, &next.txid, &next.us, err)) || !next.txid) {
			ms_chain_release(&next.chain);
			return rc;
		}
		if (!pending.s[0])
			pending = p->chain.links[0].gen->id;
		ms_chain_release(&p->chain);
		*p = next;
	}
	if (pending.s[0]) {
		size_t i = 0;
		char t[32], held[80] = "";
		while (i + 1 < p->chain.n && p->txid <= p->chain.links[i].above)
			i++;
		if (us)
			snprintf(held, sizeof held, ", though it is there up to txid %llu (%s)", (ull)upto, ms_time_format(t, us));
		snprintf(warning, cap, "generation %s has no snapshot yet, so nothing of it restores%s; the newest point before it is txid %llu of generation %s",
			 pending.s, held, (ull)p->txid, p->chain.links[i].gen->id.s);
	}
	return MS_OK;
}

bool ms_plan_wants_all(const struct ms_inventory *inv) {
	const struct ms_inv_head *h = ms_inventory_newest_head(inv);
	const struct ms_inv_generation *g = h ? ms_inventory_find(inv, h->generation.s) : NULL;
	for (size_t depth = 0; g && depth <= inv->ngens; depth++) {
		for (unsigned r = 0; r < inv->nreplicas; r++)
			if (g->shelf[r].nsnaps)
				return false;
		g = g->parent.s[0] ? ms_inventory_find(inv, g->parent.s) : NULL;
	}
	return h != NULL;
}

static enum ms_code resolve(struct ms_inventory *inv, const struct ms_plan_request *req, const struct ms_plan_probe *probe, struct point *p,
			    bool *ret_is_newest, char *warning, size_t cap, struct ms_err *err) {
	const char *gen = req->generation ? req->generation : default_generation(inv);
	uint64_t newest = 0;
	int64_t newest_us = 0;
	enum ms_code rc;
	if (!gen)
		return ms_err_set(err, MS_ENOTRESTORABLE, "there is no replica here: neither heads nor generations");
	if (req->kind == MS_TARGET_TIME && (req->generation || inv->nheads)) {
		rc = resolve_time(inv, req, probe, p, err);
	} else if ((rc = ms_chain_make(inv, probe, gen, &p->chain, err)) == MS_OK && req->kind == MS_TARGET_TIME) {
		struct ms_plan_request r2 = *req;
		char copy[MS_GENERATION_LEN + 1];
		snprintf(copy, sizeof copy, "%s", gen);
		r2.generation = copy;
		ms_chain_release(&p->chain);
		rc = resolve_time(inv, &r2, probe, p, err);
	}
	if (rc)
		return rc;
	if ((rc = newest_of(inv, probe, &p->chain, 0, &newest, &newest_us, err)))
		return rc;
	if (req->kind == MS_TARGET_NEWEST) {
		p->txid = newest;
		p->us = newest_us;
		if (!req->generation && (rc = fall_back(inv, probe, p, warning, cap, err)))
			return rc;
		newest = p->txid;
	} else if (req->kind == MS_TARGET_TXID) {
		p->txid = req->txid;
	}
	*ret_is_newest = p->txid == newest;
	if (p->txid > newest || p->txid == 0) {
		char points[300], text[200] = "";
		const char *other = p->txid ? other_generation_with(inv, p->txid) : NULL;
		ms_chain_describe(inv, probe, &p->chain, points, sizeof points);
		if (other && !req->generation && strcmp(other, p->chain.links[0].gen->id.s) != 0)
			snprintf(text, sizeof text, "; generation %s has a txid %llu: --generation %s", other, (ull)p->txid, other);
		if (p->txid == 0)
			return ms_err_set(err, MS_ENOTRESTORABLE, "there is nothing to restore: %s", points);
		return ms_err_set(err, MS_ENOTRESTORABLE, "txid %llu is not in the replica: %s%s", (ull)p->txid, points, text);
	}
	return MS_OK;
}

static uint64_t settled_of(const struct ms_inventory *inv, const char *generation) {
	uint64_t settled = 0;
	for (size_t i = 0; i < inv->nheads; i++) {
		if (strcmp(inv->heads[i].generation.s, generation) == 0 && inv->heads[i].settled_txid > settled)
			settled = inv->heads[i].settled_txid;
	}
	return settled;
}

enum ms_code ms_plan_make(struct ms_inventory *inv, const struct ms_plan_request *req, const struct ms_plan_probe *probe, struct ms_plan *ret,
			  struct ms_err *err) {
	struct point pt = {0};
	struct ms_plan p = {0};
	bool is_newest = false;
	size_t link = 0;
	uint64_t reached = 0, again = 0, gap = 0;
	char points[300];
	enum ms_code rc = resolve(inv, req, probe, &pt, &is_newest, p.warning, sizeof p.warning, err);
	if (rc)
		goto out;
	if (pt.gap && !req->stop_at_gap) {
		ms_chain_describe(inv, probe, &pt.chain, points, sizeof points);
		rc = ms_err_set(err, MS_EGAP, "txid %llu is missing from generation %s, and with it commits that may lie at or before that time (%s); "
					      "--stop-at-gap restores to txid %llu",
				(ull)pt.gap, pt.chain.links[pt.link].gen->id.s, points, (ull)pt.txid);
		goto out;
	}
	gap = pt.gap;
	size_t based = base_link(&pt.chain, pt.txid);
	uint64_t from = req->base_txid && req->base_txid < pt.txid ? req->base_txid : pt.txid;
	if (based < pt.chain.n && from <= pt.chain.links[based].above) /* no snapshot before that link leads to the target */
		from = pt.txid;
	p.snap = ms_chain_snapshot(inv, &pt.chain, from, &link, &p.snap_replica);
	if (!p.snap) {
		const char *whose = based < pt.chain.n ? pt.chain.links[based].gen->id.s : "the lineage";
		ms_chain_describe(inv, probe, &pt.chain, points, sizeof points);
		rc = ms_err_set(err, MS_ENOTRESTORABLE, "txid %llu lies before the first snapshot of %s: %s", (ull)pt.txid, whose, points);
		goto out;
	}
	p.snap_gen = pt.chain.links[link].gen;
	if ((rc = walk(inv, probe, &pt.chain, link, p.snap->txid, pt.txid, &p, &reached, &again, err)))
		goto out;
	/* The snapshot lies within a catch-up: what comes behind that restores from an older one. */
	while (reached < pt.txid && again && !(based < pt.chain.n && again <= pt.chain.links[based].above)) {
		struct ms_plan q = {0};
		uint64_t further = 0;
		if (!(q.snap = ms_chain_snapshot(inv, &pt.chain, again, &link, &q.snap_replica)))
			break;
		q.snap_gen = pt.chain.links[link].gen;
		memcpy(q.warning, p.warning, sizeof q.warning);
		rc = walk(inv, probe, &pt.chain, link, q.snap->txid, pt.txid, &q, &further, &again, err);
		if (!rc && further > reached) {
			struct ms_plan shorter = p;
			p = q;
			q = shorter;
			reached = further;
		}
		ms_plan_release(&q);
		if (rc)
			goto out;
	}
	if (reached < pt.txid) {
		gap = reached + 1;
		if (!req->stop_at_gap) {
			const struct ms_chain_link *l = &pt.chain.links[0];
			for (size_t i = 0; i < pt.chain.n && gap <= pt.chain.links[i].above; i++)
				l = &pt.chain.links[i + 1 < pt.chain.n ? i + 1 : i];
			rc = ms_err_set(err, MS_EGAP, "txid %llu is missing from generation %s; --stop-at-gap restores to txid %llu", (ull)gap, l->gen->id.s,
					(ull)reached);
			goto out;
		}
		pt.txid = reached;
	}
	size_t held = 0;
	while (p.warning[0] && held + 1 < pt.chain.n && pt.txid <= pt.chain.links[held].above)
		held++;
	uint64_t settled = settled_of(inv, pt.chain.links[held].gen->id.s);
	if (settled > pt.chain.links[held].upto)
		settled = pt.chain.links[held].upto;
	if (is_newest && req->kind != MS_TARGET_TXID && pt.txid < settled && !req->allow_loss && !gap) {
		rc = ms_err_set(err, MS_ENOTRESTORABLE, "the newest point here is txid %llu, but the head says that the replica held txid %llu: commits have been lost; "
							"--allow-loss restores to txid %llu",
				(ull)pt.txid, (ull)settled, (ull)pt.txid);
		goto out;
	}
	p.asked = pt.chain.links[0].gen->id;
	p.target.txid = pt.txid;
	for (size_t i = 0; i < pt.chain.n; i++) {
		if (pt.txid > pt.chain.links[i].above && pt.txid <= pt.chain.links[i].upto)
			p.target.generation = pt.chain.links[i].gen->id;
	}
	p.gap_txid = gap;
	*ret = p;
	p = (struct ms_plan){0};
out:
	ms_plan_release(&p);
	ms_chain_release(&pt.chain);
	return rc;
}

void ms_plan_release(struct ms_plan *p) {
	free(p->steps);
	*p = (struct ms_plan){0};
}
