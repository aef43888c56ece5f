/*
 * Letting the journal go while the replica is behind (core/owed.h). Order: pages noted, the file durable, and only then does needs_seq() move,
 * which is what purge looks at. The cursor stays where it is; what lies between it and owed.next_seq is owed as one catch-up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

static bool is(const struct ms_generation *a, const struct ms_generation *b) { return strcmp(a->s, b->s) == 0; }

static void drop(struct ms_worker *w) {
	struct ms_err ignored = MS_ERR_INIT;
	ms_owed_release(&w->owed);
	w->owed_info = (struct ms_owed_info){0};
	/* One that stays is stale by its txids. */
	(void)!w->env->ops->unlink(w->env, w->owed_path, &ignored);
}

/* Does it belong to this cursor, and reach beyond it? */
static bool belongs(const struct ms_owed_info *o, const struct ms_cursor *c) {
	return o->next_seq > c->seq && is(&o->generation, &c->generation) && o->base_txid <= c->state.txid && c->state.txid <= o->end.txid &&
	       c->base != MS_BASE_JUMP;
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
	if (!rc && w->have_cursor && belongs(&w->owed.i, &w->cur))
		w->owed_info = w->owed.i;
	else
		ms_owed_release(&w->owed);
	return MS_OK;
}

/* ---- folding ---- */

static void fold_run(void *arg) {
	struct ms_worker *w = arg;
	w->fold_err = MS_ERR_INIT;
	enum ms_code rc = ms_owed_fold(&w->owed, w->journal, w->cfg.db, w->fold_before, &w->fold_err);
	if (!rc)
		rc = ms_owed_save(w->env, w->owed_path, &w->owed, &w->fold_err);
	if (!rc)
		w->fold_err = MS_ERR_INIT;
	else if (!w->fold_err.code)
		(void)ms_err_set(&w->fold_err, rc, "%s: %s", w->owed_path, ms_code_name(rc));
}

static void jump(struct ms_worker *w, const char *reason) {
	drop(w);
	w->nwaiting = 0;
	w->part = (struct ms_part){0};
	w->save_owed = true;
	w->save_version++;
	w->save_at_us = 0;
	ms_worker_want_snapshot(w, MS_BASE_JUMP, reason);
}

void ms_worker_owed_settle(struct ms_worker *w) {
	struct ms_owed_info *o = &w->owed_info;
	if (w->fold_busy || !o->next_seq)
		return;
	if (o->left && w->phase == MS_PHASE_SHIPPING) {
		jump(w, "the database began another generation while the replica was down, and the journal could not be kept that long");
		return;
	}
	if (!belongs(o, &w->cur)) {
		drop(w);
		return;
	}
	if (w->cur.base == MS_BASE_WANTED && w->phase == MS_PHASE_SHIPPING) {
		jump(w, "the replica has no snapshot, and the journal could not be kept for it");
		return;
	}
	/* Nothing of ours was in the stretch: the cursor passes it. */
	if (w->cur.state.txid == o->end.txid && !o->open && !o->left && w->phase == MS_PHASE_SHIPPING && !w->main_busy) {
		w->cur.seq = o->next_seq;
		if (w->cur.settled_seq && w->cur.settled_txid == w->cur.state.txid)
			w->cur.settled_seq = w->cur.seq;
		for (unsigned i = 0; i < w->nsettling; i++)
			if (w->settling[i].txid == w->cur.state.txid)
				w->settling[i].seq = w->cur.seq;
		w->save_owed = true;
		w->save_version++;
		w->save_at_us = 0;
		ms_owed_release(&w->owed);
		*o = (struct ms_owed_info){0};
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
		w->owed.i.next_seq = w->owed_info.next_seq; /* what is on disk reaches that far */
		if (!w->owed_info.next_seq)
			ms_owed_release(&w->owed);
		/* What the replica lacks is damaged or gone. */
		if (w->fold_err.code == MS_EGAP && w->phase == MS_PHASE_SHIPPING)
			jump(w, w->fold_err.msg);
	} else {
		w->owed_info = w->owed.i;
		if (w->scan_seq < w->owed_info.next_seq) {
			w->scan_seq = w->owed_info.next_seq;
			w->scan_again = w->scan_busy;
		}
		while (w->nwaiting && w->waiting[0].next_seq <= w->owed_info.next_seq)
			memmove(w->waiting, w->waiting + 1, --w->nwaiting * sizeof *w->waiting);
		ms_worker_owed_settle(w);
	}
	if (w->hooks.changed)
		w->hooks.changed(w->hooks.arg, w);
	ms_worker_scan(w);
	ms_worker_pump(w);
}

void ms_worker_let_go(struct ms_worker *w, uint64_t before) {
	if (w->phase == MS_PHASE_STOPPED || w->fold_busy || w->stopping || ms_worker_needs_seq(w) >= before)
		return;
	if (!w->have_cursor) {
		w->let_go_seq = before;
		return;
	}
	/* Pages are counted from the cursor that is on disk. */
	if (w->cur.seq != w->durable_seq || w->owed_info.left)
		return;
	if (!w->owed_info.next_seq) {
		ms_owed_release(&w->owed);
		w->owed.i = (struct ms_owed_info){.generation = w->cur.generation,
						  .base_txid = w->cur.state.txid,
						  .end = w->cur.state,
						  .next_seq = w->cur.seq,
						  .epoch = w->cur.epoch};
	}
	w->fold_before = before;
	w->fold_busy = true;
	atomic_fetch_add(&w->folds, 1);
	w->fold_job = (struct ms_job){.run = fold_run, .done = fold_done, .arg = w};
	w->env->ops->submit(w->env, MS_LANE_CPU, &w->fold_job);
}

/* ---- what it tells ---- */

uint64_t ms_worker_needs_seq(const struct ms_worker *w) {
	uint64_t need;
	if (w->claimed && w->cur.base == MS_BASE_JUMP)
		return UINT64_MAX;
	if (!w->have_cursor)
		return w->let_go_seq;
	if (w->durable_seq == UINT64_MAX) /* a snapshot has just become the cursor, and is not saved yet */
		need = w->claimed ? w->cur.seq : UINT64_MAX;
	else
		need = w->cur.settled_seq < w->durable_seq ? w->cur.settled_seq : w->durable_seq;
	return w->owed_info.next_seq > need ? w->owed_info.next_seq : need;
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
	return w->phase == MS_PHASE_SHIPPING && !w->stopping && ms_worker_owes(w) && w->cur.base == MS_BASE_THERE && !w->owed_info.left && !w->catchup && ms_worker_ready(w);
}

/* Nothing leads on from a snapshot between the ends of a catch-up: taken before it was known that there would be one, or beside it. */
void ms_worker_mind_fold(struct ms_worker *w) {
	if (w->cur.base == MS_BASE_THERE && w->st.folded_last && is(&w->fold_generation, &w->cur.generation) &&
	    w->cur.snapshot_txid >= w->st.folded_first && w->cur.snapshot_txid < w->st.folded_last)
		ms_worker_want_snapshot(w, MS_BASE_WANTED, "its newest snapshot lies within a catch-up");
}
