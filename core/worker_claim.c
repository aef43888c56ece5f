/*
 * Taking ownership of a replica (DESIGN §6): read it, walk the journal, decide (core/claim.h), then write head n+1 and, when a
 * generation is left behind, its fence. A claim that fails in the middle is begun again from reading.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

enum ms_code ms_task_probe(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) {
	ms_view_release(&t->view);
	if (w->cfg.fencing_none)
		return MS_OK;
	return ms_view_read(r, t->cur.head_number, &t->cur.generation, t->cur.segment_first, &t->view, err);
}

/* ---- walking the journal ---- */

struct look {
	const struct ms_view *view;
	const struct ms_local_facts *local;
	struct ms_claim_journal *out;
	/* Are the entries that come of the head's generation? Unknown where the journal's beginning or a stretch of it is gone. */
	enum { INSIDE_NO, INSIDE_YES, INSIDE_UNKNOWN } inside;
	bool segments_found;
	struct ms_dbstate segments; /* that the newest whole segment ends in; a fork's first state where there is none */
	uint64_t segments_seq;
	bool gap;
};

/* Segments that were put and are not there, though a newer snapshot may be. */
static bool lacks_segments(const struct ms_view *v, const struct ms_cursor *c) {
	return c->segment_first && strcmp(c->generation.s, v->head.generation.s) == 0 && (!v->has_segments || v->segments.txid < c->state.txid);
}

/* A snapshot may have run ahead of the segments: those between are owed still, as far as the journal has them. */
static void set_resume(struct look *l, const struct ms_cursor *cursor) {
	struct ms_claim_journal *o = l->out;
	if (!o->tail_found)
		return;
	if (l->segments_found) {
		o->resume = l->segments;
		o->resume_seq = l->segments_seq;
	}
	bool here = cursor && o->cursor_ok && strcmp(cursor->generation.s, l->view->head.generation.s) == 0 && !lacks_segments(l->view, cursor);
	if (here && (!l->segments_found || cursor->state.txid >= o->resume.txid)) {
		o->resume = cursor->state;
		o->resume_seq = cursor->seq;
	}
}

static bool is(const struct ms_generation *a, const struct ms_generation *b) { return strcmp(a->s, b->s) == 0; }

static void at_state(struct look *l, const struct ms_dbstate *s, uint64_t next_seq) {
	struct ms_claim_journal *o = l->out;
	const struct ms_view *v = l->view;
	if (v->has_segments && s->txid == v->segments.txid && s->checksum == v->segments.checksum) {
		l->segments_found = true;
		l->segments = *s;
		l->segments_seq = next_seq;
	}
	bool same = l->view->has_tail && s->txid == l->view->tail.txid && s->checksum == l->view->tail.checksum;
	if (l->inside == INSIDE_UNKNOWN && !same)
		return;
	o->knows_head = true;
	o->head_end = *s;
	if (!l->view->has_tail || s->txid != l->view->tail.txid || o->tail_found)
		return;
	if (!same) {
		o->tail_differs = true;
		return;
	}
	l->inside = INSIDE_YES;
	o->tail_found = true;
	o->tail_differs = false;
	o->resume = *s;
	o->resume_seq = next_seq;
}

static bool look_tx(void *arg, const struct ms_walk_tx *tx) {
	struct look *l = arg;
	if (l->inside != INSIDE_NO)
		at_state(l, &tx->state, tx->next_seq);
	return true;
}

static bool look_generation(void *arg, const struct ms_generation_start *g, uint64_t seq, uint64_t next_seq) {
	struct look *l = arg;
	struct ms_claim_journal *o = l->out;
	(void)seq;
	l->inside = l->view->has_head && is(&g->generation, &l->view->head.generation) ? INSIDE_YES : INSIDE_NO;
	if (l->inside == INSIDE_YES) {
		const struct ms_head *h = &l->view->head;
		if (!l->view->has_segments && h->nlineage && !ms_lineage_needs_base(&h->lineage[0])) {
			l->segments_found = true;
			l->segments = g->base;
			l->segments_seq = next_seq;
		}
		at_state(l, &g->base, next_seq);
		if (!l->view->has_tail && !o->tail_found) { /* named by a head, nothing put yet */
			o->tail_found = true;
			o->resume = g->base;
			o->resume_seq = next_seq;
		}
	}
	if (is(&g->generation, &l->local->generation)) {
		o->local_start = true;
		o->start_seq = next_seq;
		o->start_base = g->base;
	}
	return true;
}

static bool look_gap(void *arg, uint64_t seq) {
	struct look *l = arg;
	(void)seq;
	l->gap = true;
	l->out->cursor_ok = false;
	l->out->local_start = false;
	/* What was found before the gap does not lead on. */
	l->out->tail_found = false;
	l->segments_found = false;
	if (l->view->has_head)
		l->inside = INSIDE_UNKNOWN;
	return true;
}

/* Txid of the state that a generation starts from, as far as its lineage tells. */
static uint64_t base_txid(const struct ms_cursor *c) { return c->nlineage ? ms_lineage_base(&c->lineage[0]) : 1; }

/* The replica may hold one object more than the cursor says, whose response was lost, and the journal no longer has what is in it: it is ours
 * when it continues the cursor exactly, under an epoch of ours. Shipping then meets it at its name. */
static enum ms_code look_behind(const struct ms_task *t, struct ms_replica *r, struct ms_claim_journal *ret, struct ms_err *err) {
	const struct ms_view *v = &t->view;
	const struct ms_cursor *c = &t->cur;
	if (!r || ret->tail_found || ret->tail_differs || !v->has_segments || v->tail_is_snapshot || !is(&c->generation, &v->head.generation) ||
	    v->tail.txid <= c->state.txid || v->tail.txid > t->owed.end.txid)
		return MS_OK;
	char name[MS_NAME_MAX];
	struct ms_at_name at = {0};
	ms_name_format(&(struct ms_name){.kind = MS_NAME_SEGMENT, .generation = c->generation, .first = c->state.txid + 1}, name);
	enum ms_code rc = ms_view_at(r, name, &at, err);
	if (rc == MS_ENOTFOUND || rc == MS_ECORRUPT)
		return MS_OK;
	if (rc || at.is_fence || !ms_task_own_successor(t, &at.info))
		return rc;
	/* The last part of several states the end, and view found it there. */
	if (!at.info.more && (at.info.last_txid != v->tail.txid || at.info.checksum_after != v->tail.checksum))
		return MS_OK;
	ret->tail_found = ret->knows_head = true;
	ret->resume = c->state;
	ret->resume_seq = c->seq;
	return MS_OK;
}

/* The journal no longer has what a replica has lost behind the state that it holds; but the pages are noted: a catch-up may begin there. */
static bool look_reserve(const struct ms_worker *w, const struct ms_task *t, struct ms_claim_journal *ret) {
	const struct ms_view *v = &t->view;
	const struct ms_cursor *c = &t->cur;
	/* Under a head of ours what is there is ours. */
	if (!v->has_segments || !is(&v->head.generation, &c->generation) || strcmp(v->head.owner, w->cfg.owner) != 0 || v->head.number > c->head_number ||
	    t->owed.next_seq < 2 || !ms_task_reserve_serves(t, &v->segments))
		return false;
	ret->tail_found = ret->knows_head = true;
	ret->tail_differs = false;
	ret->resume = v->segments;
	/* Before the end of the stretch that is noted, so that it is owed. */
	ret->resume_seq = c->settled_seq && c->settled_seq < t->owed.next_seq ? c->settled_seq : t->owed.next_seq - 1;
	return true;
}

/* The replica holds less than the cursor says; perhaps the journal still has what it lost. It is kept from the settled state on, whose own entry
 * may be gone. */
static enum ms_code look_back(struct ms_worker *w, const struct ms_task *t, struct ms_claim_journal *ret, struct ms_err *err) {
	const struct ms_view *v = &t->view;
	const struct ms_cursor *c = &t->cur;
	struct ms_claim_journal all = {.cursor_ok = true};
	struct look again = {.view = v, .local = &t->local, .out = &all, .inside = INSIDE_UNKNOWN};
	struct ms_walk_visitor visitor = {look_tx, look_generation, look_gap, &again};
	const struct ms_dbstate *held = v->has_segments ? &v->segments : &v->tail;
	bool settled = c->settled_seq && c->settled_checksum && held->txid == c->settled_txid && held->checksum == c->settled_checksum;
	if (settled) {
		again.inside = INSIDE_YES;
		at_state(&again, held, c->settled_seq);
	}
	enum ms_code rc = ms_journal_walk(w->journal, w->cfg.db, settled ? c->settled_seq : 0, &visitor, NULL, err);
	if (rc)
		return rc;
	set_resume(&again, NULL);
	bool whole = all.tail_differs || (all.tail_found && (!v->has_segments || again.segments_found));
	if (!whole && look_reserve(w, t, ret))
		return MS_OK;
	if (!whole && t->folds != atomic_load(&w->folds))
		return ms_err_set(err, MS_ERETRY, "replica %s: the journal went on while the replica was being claimed", w->cfg.url);
	if (all.tail_found || all.tail_differs) {
		bool cursor_ok = ret->cursor_ok;
		uint64_t end = ret->end_seq;
		*ret = all;
		ret->cursor_ok = cursor_ok;
		ret->end_seq = end;
	}
	return MS_OK;
}

static enum ms_code look_up(struct ms_worker *w, const struct ms_task *t, struct ms_replica *r, struct ms_claim_journal *ret, struct ms_err *err) {
	const struct ms_view *v = &t->view;
	const struct ms_cursor *c = &t->cur;
	bool have = t->have_cursor && c->seq && c->base != MS_BASE_JUMP;
	struct look l = {.view = v, .local = &t->local, .out = ret};
	struct ms_walk_visitor visitor = {look_tx, look_generation, look_gap, &l};
	enum ms_code rc;
	*ret = (struct ms_claim_journal){.cursor_ok = have};
	if (!have && v->has_head)
		l.inside = INSIDE_UNKNOWN;
	if (have && v->has_head && is(&c->generation, &v->head.generation)) {
		l.inside = INSIDE_YES;
		at_state(&l, &c->state, c->seq);
		if (!v->has_tail && c->state.txid <= base_txid(c)) {
			ret->tail_found = true;
			ret->resume = c->state;
			ret->resume_seq = c->seq;
		}
	}
	bool owes = have && t->owed.next_seq > c->seq;
	if ((rc = ms_journal_walk(w->journal, w->cfg.db, owes ? t->owed.next_seq : have ? c->seq : 0, &visitor, &ret->end_seq, err)))
		return rc;
	if (l.gap && t->folds != atomic_load(&w->folds))
		return ms_err_set(err, MS_ERETRY, "replica %s: the journal went on while the replica was being claimed", w->cfg.url);
	if (owes && (rc = look_behind(t, r, ret, err)))
		return rc;
	set_resume(&l, have ? c : NULL);
	if (!have || !v->has_tail)
		return MS_OK;
	/* Less: a tail behind the cursor, or segments behind it and a snapshot ahead, or a head before the one that was put last. */
	bool less = !ret->tail_found && (v->head.number < c->head_number || (ret->knows_head && v->tail.txid < c->state.txid));
	return less || lacks_segments(v, c) ? look_back(w, t, ret, err) : MS_OK;
}

/* ---- claiming ---- */

static enum ms_code set_position(struct ms_task *t, const struct ms_generation *g, const struct ms_dbstate *state, uint64_t seq,
				 const struct ms_lineage *lineage, uint32_t nlineage, struct ms_err *err) {
	const struct ms_head *h = &t->view.head;
	enum ms_code rc = ms_cursor_join_lineage(&t->cur, lineage, nlineage, h->lineage, h->nlineage, err);
	if (rc)
		return rc;
	t->cur.generation = *g;
	t->cur.state = *state;
	t->cur.seq = seq;
	return MS_OK;
}

static enum ms_code apply(struct ms_task *t, const struct ms_claim_out *o, const struct ms_claim_journal *j, struct ms_err *err) {
	const struct ms_local_facts *l = &t->local;
	const struct ms_view *v = &t->view;
	enum ms_code rc = MS_OK;
	switch (o->action) {
	case MS_CLAIM_CONTINUE:
		break;
	case MS_CLAIM_ADOPT:
		rc = set_position(t, &v->head.generation, &j->resume, j->resume_seq, v->head.lineage, v->head.nlineage, err);
		break;
	case MS_CLAIM_START:
		rc = set_position(t, &l->generation, &j->start_base, j->start_seq, l->lineage, l->nlineage, err);
		break;
	case MS_CLAIM_SEED:
		rc = set_position(t, &l->generation, &(struct ms_dbstate){0}, j->end_seq, l->lineage, l->nlineage, err);
		break;
	case MS_CLAIM_REFUSE:
		break;
	}
	if (rc)
		return rc;
	/* What is not there is not to be found there by the looks to come. */
	if (!v->has_segments || !is(&t->cur.generation, &v->head.generation) || v->segments.txid < t->cur.state.txid || o->action == MS_CLAIM_SEED)
		t->cur.segment_first = 0;
	if (o->action == MS_CLAIM_SEED)
		t->cur.base = MS_BASE_JUMP;
	else if (o->need_snapshot)
		t->cur.base = MS_BASE_WANTED;
	else if (o->action != MS_CLAIM_CONTINUE && t->cur.base == MS_BASE_JUMP)
		t->cur.base = MS_BASE_THERE;
	if (v->has_head && ms_view_lacks_snapshot(v, &t->cur)) {
		t->cur.base = MS_BASE_WANTED;
		snprintf(t->claim.reason, sizeof t->claim.reason, "its newest snapshot, of txid %" PRIu64 ", is gone", t->cur.snapshot_txid);
	}
	if (v->has_head && is(&t->cur.generation, &v->head.generation) && (v->snapshot_us > t->cur.snapshot_us || t->cur.base == MS_BASE_WANTED)) {
		t->cur.snapshot_us = v->snapshot_us;
		t->cur.snapshot_txid = v->snapshot_txid;
	}
	return MS_OK;
}

/* The cursor keeps up with an unfenced backend by itself: without heads nobody else can be seen. */
static enum ms_code claim_without_fencing(struct ms_worker *w, struct ms_task *t, struct ms_err *err) {
	struct ms_claim_journal j;
	struct ms_claim_in in = {.db = w->cfg.db, .replica = w->cfg.url, .local = &t->local, .cursor = t->have_cursor ? &t->cur : NULL};
	enum ms_code rc;
	ms_view_release(&t->view);
	if ((rc = look_up(w, t, NULL, &j, err)))
		return rc;
	in.journal = j;
	if (in.cursor && j.cursor_ok) {
		t->claim = (struct ms_claim_out){.action = MS_CLAIM_CONTINUE, .refusal = MS_ERR_INIT};
		return MS_OK;
	}
	in.cursor = NULL;
	ms_claim_decide(&in, &t->claim);
	return apply(t, &t->claim, &j, err);
}

enum ms_code ms_task_claim(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) {
	struct ms_claim_journal j;
	struct ms_replica_caps caps;
	enum ms_code rc;
	ms_replica_caps(r, &caps);
	t->settles_at_once = caps.settle_us <= 0;
	if (w->cfg.fencing_none) {
		if ((rc = claim_without_fencing(w, t, err)))
			return rc;
		ms_task_save(w, t);
		return MS_OK;
	}
	if (!caps.create_if_absent)
		return ms_err_set(err, MS_EUNSUPPORTED, "replica %s cannot create objects only if absent, so that a second writer could damage it: "
				  "set `fencing: none` for it if there is only this one", w->cfg.url);
	if ((rc = ms_task_probe(w, t, r, err)) || (rc = look_up(w, t, r, &j, err)))
		return rc;
	struct ms_view *v = &t->view;
	struct ms_claim_in in = {.db = w->cfg.db,
				 .replica = w->cfg.url,
				 .takeover = t->takeover,
				 .head = v->has_head ? &v->head : NULL,
				 .same_owner = v->has_head && strcmp(v->head.owner, w->cfg.owner) == 0,
				 .has_tail = v->has_tail,
				 .has_base = v->has_base,
				 .tail = v->tail,
				 .cursor = t->have_cursor ? &t->cur : NULL,
				 .local = &t->local,
				 .journal = j};
	ms_claim_decide(&in, &t->claim);
	if (t->claim.action == MS_CLAIM_REFUSE) {
		if (err)
			*err = t->claim.refusal;
		return MS_EFENCED;
	}
	if ((rc = apply(t, &t->claim, &j, err)))
		return rc;
	if (v->has_head && v->head.number > t->cur.head_number)
		t->cur.head_number = v->head.number;
	uint32_t epoch = t->local.epoch > t->epoch ? t->local.epoch : t->epoch;
	if (v->has_head && v->head.epoch >= epoch)
		epoch = v->head.epoch + 1;
	if (t->cur.epoch >= epoch)
		epoch = t->cur.epoch + 1;
	t->epoch = t->cur.epoch = epoch;
	t->ntried = 0;
	rc = ms_task_put_head(w, t, r, NULL, 0, err);
	if (rc == MS_EFENCED) /* somebody else starts at the same moment: read again */
		return ms_err_set(err, MS_ERETRY, "replica %s: another writer took head %" PRIu32 " while this one was claiming it", w->cfg.url,
				  t->cur.head_number + 1);
	if (rc)
		return rc;
	bool fresh = !v->has_tail && v->has_head && v->head.nlineage && v->head.lineage[0].parent.s[0] && is(&t->cur.generation, &v->head.generation);
	if (t->claim.fence && v->has_head)
		rc = ms_task_fence(w, t, r, &v->head.generation, 0, err);
	else if (fresh) /* the start that named this generation may have died before its fence */
		rc = ms_task_fence(w, t, r, &v->head.lineage[0].parent, 0, err);
	if (rc)
		return rc;
	ms_task_save(w, t);
	return MS_OK;
}
