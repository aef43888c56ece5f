/*
 * Letting the journal go while the replica is behind, or while it may still lose what it has acknowledged (core/owed.h). Order: pages noted, the file
 * durable, and only then does needs_seq() move, which is what purge looks at. The cursor stays where it is; what lies between it and owed.next_seq is
 * owed as one catch-up.
 *
 * Where owed.next_seq is not beyond the cursor nothing is owed: the pages of what is not settled are a reserve. Shipping goes on beside it. It goes when the
 * replica has settled that stretch; if a look finds the replica's tail within the stretch, the claim takes the cursor back to that tail, and the
 * reserve is owed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

static bool is(const struct ms_generation *a, const struct ms_generation *b) { return strcmp(a->s, b->s) == 0; }

/* The file stays until the cursor that passes it is durable: the one on disk may still need it. */
static void forget(struct ms_worker *w) {
	ms_owed_release(&w->owed);
	w->owed_info = (struct ms_owed_info){0};
	w->owed_stale = true;
}

static void unlink_stale(struct ms_worker *w) {
	struct ms_err ignored = MS_ERR_INIT;
	if (!w->owed_stale || w->owed_info.next_seq || w->save_owed || w->durable_seq != w->cur.seq)
		return;
	w->owed_stale = false;
	/* One that stays is stale by its txids. */
	(void)!w->env->ops->unlink(w->env, w->owed_path, &ignored);
}

/* Does it belong to this cursor, and reach beyond it, or beyond what is settled? */
static bool belongs(const struct ms_owed_info *o, const struct ms_cursor *c) {
	if (!o->next_seq || !is(&o->generation, &c->generation) || o->base_txid > c->state.txid || c->base == MS_BASE_JUMP)
		return false;
	return o->next_seq > c->seq ? c->state.txid <= o->end.txid : c->settled_seq < o->next_seq;
}

bool ms_task_reserve_serves(const struct ms_task *t, const struct ms_dbstate *held) {
	const struct ms_owed_info *o = &t->owed;
	const struct ms_cursor *c = &t->cur;
	bool settled = held->txid == c->settled_txid && c->settled_checksum;
	return belongs(o, c) && held->txid >= o->base_txid && held->txid < o->end.txid && held->page_size == o->end.page_size &&
	       (!settled || held->checksum == c->settled_checksum);
}

enum ms_code ms_worker_owed_load(struct ms_worker *w, struct ms_err *err) {
	struct ms_err e = MS_ERR_INIT;
	size_t n = strlen(w->cfg.state_path) + 8;
	if (!(w->owed_path = malloc(n)))
		return ms_err_set(err, MS_ENOMEM, "replica worker");
	const char *base = strrchr(w->cfg.state_path, '/');
	int dir = base ? (int)(base - w->cfg.state_path) + 1 : 0;
	const char *name = w->cfg.state_path + dir;
	snprintf(w->owed_path, n, "%.*sowed-%s", dir, w->cfg.state_path, strncmp(name, "cursor-", 7) == 0 ? name + 7 : name);
	enum ms_code rc = ms_owed_load(w->env, w->owed_path, &w->owed, &e);
	if (rc && rc != MS_ENOTFOUND && rc != MS_ECORRUPT)
		return ms_err_set(err, rc, "%s", e.msg);
	if (!rc && w->have_cursor && belongs(&w->owed.i, &w->cur)) {
		w->owed_info = w->owed.i;
	} else {
		ms_owed_release(&w->owed);
		w->owed_stale = rc != MS_ENOTFOUND;
	}
	return MS_OK;
}

/* ---- folding ---- */

static bool same_state(const struct ms_dbstate *a, const struct ms_dbstate *b) {
	return a->txid == b->txid && a->checksum == b->checksum && a->db_pages == b->db_pages;
}

static void begin_at_cursor(struct ms_worker *w) {
	struct ms_owed_info i = {.generation = w->owed.i.generation,
				 .base_txid = w->fold_cursor.txid,
				 .end = w->fold_cursor,
				 .next_seq = w->fold_cursor_seq,
				 .epoch = w->owed.i.epoch};
	ms_owed_release(&w->owed);
	w->owed.i = i;
	w->fold_anew = true;
}

/* The stretch before the cursor, to its end: there it has to be at the cursor's state. What can no longer be noted, because it went before, is done
 * without. */
static void fold_reserve(struct ms_worker *w) {
	struct ms_owed *o = &w->owed;
	enum ms_code rc = ms_owed_fold(o, w->journal, w->cfg.db, w->fold_cursor_seq, &w->fold_err);
	if (rc || o->i.left || o->i.open || o->i.base_txid == MS_OWED_BASE_UNKNOWN || o->i.next_seq != w->fold_cursor_seq || !same_state(&o->i.end, &w->fold_cursor))
		begin_at_cursor(w);
	o->i.commits = 0; /* they are on the replica */
	o->i.since_us = 0;
}

static void fold_run(void *arg) {
	struct ms_worker *w = arg;
	w->fold_err = MS_ERR_INIT;
	if (w->owed.i.next_seq < w->fold_cursor_seq)
		fold_reserve(w);
	enum ms_code rc = ms_owed_fold(&w->owed, w->journal, w->cfg.db, w->fold_before, &w->fold_err);
	if (!rc)
		rc = ms_owed_save(w->env, w->owed_path, &w->owed, &w->fold_err);
	if (!rc)
		w->fold_err = MS_ERR_INIT;
	else if (!w->fold_err.code)
		(void)ms_err_set(&w->fold_err, rc, "%s: %s", w->owed_path, ms_code_name(rc));
}

static void jump(struct ms_worker *w, const char *reason) {
	char copy[sizeof w->only_snapshot];
	snprintf(copy, sizeof copy, "%s", reason);
	w->only_snapshot[0] = '\0';
	w->nwaiting = 0;
	w->part = (struct ms_part){0};
	w->save_owed = true;
	w->save_version++;
	w->save_at_us = 0;
	forget(w);
	ms_worker_want_snapshot(w, MS_BASE_JUMP, copy);
}

void ms_worker_owed_settle(struct ms_worker *w) {
	struct ms_owed_info *o = &w->owed_info;
	if (w->fold_busy)
		return;
	if (w->only_snapshot[0] && w->phase == MS_PHASE_SHIPPING) {
		jump(w, w->only_snapshot);
		return;
	}
	if (o->next_seq && !belongs(o, &w->cur))
		forget(w);
	unlink_stale(w);
	if (o->next_seq <= w->cur.seq) /* none, or a reserve */
		return;
	if (w->cur.base == MS_BASE_WANTED && w->phase == MS_PHASE_SHIPPING) {
		jump(w, "the replica has no snapshot, and the journal could not be kept for it");
		return;
	}
	/* Nothing of ours was in the stretch: the cursor passes it. */
	if (w->cur.state.txid == o->end.txid && !o->open && w->phase == MS_PHASE_SHIPPING && !w->main_busy) {
		w->cur.seq = o->next_seq;
		if (w->cur.settled_seq && w->cur.settled_txid == w->cur.state.txid)
			w->cur.settled_seq = w->cur.seq;
		for (unsigned i = 0; i < w->nsettling; i++)
			if (w->settling[i].txid == w->cur.state.txid)
				w->settling[i].seq = w->cur.seq;
		w->save_owed = true;
		w->save_version++;
		w->save_at_us = 0;
		if (!belongs(o, &w->cur))
			forget(w);
		ms_worker_waiting_passed(w);
		if (w->scan_seq < w->cur.seq)
			w->scan_seq = w->cur.seq;
	}
}

static void fold_done(void *arg) {
	struct ms_worker *w = arg;
	w->fold_busy = false;
	if (w->phase == MS_PHASE_STOPPED)
		return;
	if (w->fold_err.code) {
		ms_worker_note_error(w, &w->fold_err);
		w->owed.i = w->owed_info; /* what is on disk reaches that far */
		if (!w->owed_info.next_seq || w->fold_anew)
			forget(w);
		/* What the replica lacks is damaged or gone. */
		if (w->fold_err.code == MS_EGAP || w->fold_err.code == MS_ECORRUPT)
			snprintf(w->only_snapshot, sizeof w->only_snapshot, "%s", w->fold_err.msg);
	} else {
		if (w->owed.i.left)
			snprintf(w->only_snapshot, sizeof w->only_snapshot,
				 "the database began another generation while the replica was down, and the journal could not be kept that long");
		w->owed.i.left = false;
		w->owed_info = w->owed.i;
		w->owed_stale = false;
		w->let_go_seq = w->fold_asked;
		if (w->scan_seq < w->owed_info.next_seq) {
			w->scan_seq = w->owed_info.next_seq;
			w->scan_again = w->scan_busy;
		}
		while (w->nwaiting && w->waiting[0].next_seq <= w->owed_info.next_seq)
			memmove(w->waiting, w->waiting + 1, --w->nwaiting * sizeof *w->waiting);
	}
	ms_worker_owed_settle(w);
	if (w->hooks.changed)
		w->hooks.changed(w->hooks.arg, w);
	ms_worker_scan(w);
	ms_worker_pump(w);
}

void ms_worker_let_go(struct ms_worker *w, uint64_t before) {
	const struct ms_cursor *c = &w->cur;
	if (w->phase == MS_PHASE_STOPPED || w->fold_busy || w->stopping || ms_worker_needs_seq(w) >= before)
		return;
	if (!w->have_cursor) {
		w->let_go_seq = before;
		return;
	}
	/* Pages are counted from the cursor that is on disk. */
	if (c->seq != w->durable_seq)
		return;
	if (w->owed_info.next_seq >= before) { /* of a reserve: noted already */
		w->let_go_seq = before;
		return;
	}
	if (!w->owed_info.next_seq) {
		ms_owed_release(&w->owed);
		w->owed.i = (struct ms_owed_info){.generation = c->generation, .epoch = c->epoch, .next_seq = c->seq, .base_txid = c->state.txid, .end = c->state};
		if (c->settled_seq < c->seq) {
			struct ms_journal_stats st;
			ms_journal_get_stats(w->journal, &st);
			w->owed.i.next_seq = c->settled_seq ? c->settled_seq : st.first_seq;
			w->owed.i.base_txid = MS_OWED_BASE_UNKNOWN;
			w->owed.i.end = (struct ms_dbstate){0};
			/* Behind a tail within that stretch may lie what any of our runs in this generation has put. */
			w->owed.i.epoch = ms_generation_epoch(&c->generation);
		}
	}
	w->fold_asked = before;
	w->fold_before = before > c->seq ? before : c->seq;
	w->fold_cursor_seq = c->seq;
	w->fold_cursor = c->state;
	w->fold_anew = false;
	w->fold_busy = true;
	atomic_fetch_add(&w->folds, 1);
	w->fold_job = (struct ms_job){.run = fold_run, .done = fold_done, .arg = w};
	w->env->ops->submit(w->env, MS_LANE_CPU, &w->fold_job);
}

/* ---- what it tells ---- */

uint64_t ms_worker_needs_seq(const struct ms_worker *w) {
	const struct ms_cursor *c = &w->cur;
	uint64_t need = w->durable_seq, let_go = w->let_go_seq;
	if ((w->claimed && c->base == MS_BASE_JUMP) || w->only_snapshot[0])
		return UINT64_MAX;
	if (!w->have_cursor)
		return w->let_go_seq;
	if (ms_worker_owes(w))
		return w->owed_info.next_seq;
	if (need == UINT64_MAX) /* a snapshot has just become the cursor, and is not saved yet */
		return w->claimed ? c->seq : UINT64_MAX;
	let_go = let_go < need ? let_go : need;
	need = c->settled_seq < need ? c->settled_seq : need;
	return let_go > need ? let_go : need;
}

const struct ms_dbstate *ms_worker_position(const struct ms_worker *w) { return &w->cur.state; }

void ms_worker_nothing_owed(struct ms_worker *w) {
	if (w->fold_busy)
		return;
	w->owed.i.open = w->owed_info.open = false;
	ms_worker_owed_settle(w);
	ms_worker_pump(w);
}

bool ms_worker_owes(const struct ms_worker *w) { return w->owed_info.next_seq > w->cur.seq && w->cur.base != MS_BASE_JUMP; }

bool ms_worker_holds_journal(const struct ms_worker *w) { return w->cfg.required && !ms_worker_owes(w) && (w->have_cursor || !w->let_go_seq); }

const struct ms_owed *ms_worker_owed(const struct ms_worker *w) { return w->fold_busy || !w->owed_info.next_seq ? NULL : &w->owed; }

bool ms_worker_ready(const struct ms_worker *w) { return ms_worker_mono_us(w) >= w->retry_at_us; }

bool ms_worker_wants_catchup(const struct ms_worker *w) {
	return w->phase == MS_PHASE_SHIPPING && !w->stopping && ms_worker_owes(w) && w->cur.base == MS_BASE_THERE && !w->only_snapshot[0] && !w->catchup &&
	       ms_worker_ready(w);
}

/* Nothing leads on from a snapshot between the ends of a catch-up: taken before it was known that there would be one, or beside it. */
void ms_worker_mind_fold(struct ms_worker *w) {
	if (w->cur.base == MS_BASE_THERE && w->st.folded_last && is(&w->fold_generation, &w->cur.generation) &&
	    w->cur.snapshot_txid >= w->st.folded_first && w->cur.snapshot_txid < w->st.folded_last) {
		w->save_owed = true;
		w->save_version++;
		w->save_at_us = 0;
		ms_worker_want_snapshot(w, MS_BASE_WANTED, "its newest snapshot lies within a catch-up");
	}
}
