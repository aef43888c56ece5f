/*
 * Reading ahead: which commits wait in the journal. What lag and pending bytes are made of, and the sign that there is something to ship.
 * Commits are folded two by two when there are too many: the older time stays, so that lag is never told too small.
 */
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

#define SCAN_GAP_US 50000u

static void fold(struct ms_waiting *v, uint32_t *n) {
	uint32_t out = 0;
	for (uint32_t i = 0; i < *n; i += 2, out++) {
		v[out] = v[i];
		if (i + 1 < *n) {
			v[out].next_seq = v[i + 1].next_seq;
			v[out].bytes += v[i + 1].bytes;
			v[out].generation |= v[i + 1].generation;
		}
	}
	*n = out;
}

static bool add(struct ms_waiting **v, uint32_t *n, const struct ms_waiting *x) {
	if (!*v && !(*v = calloc(MS_WAITING_MAX, sizeof **v)))
		return false;
	if (*n == MS_WAITING_MAX)
		fold(*v, n);
	(*v)[(*n)++] = *x;
	return true;
}

/* ---- job ---- */

static bool scan_tx(void *arg, const struct ms_walk_tx *tx) {
	struct ms_worker *w = arg;
	return add(&w->scan.v, &w->scan.n, &(struct ms_waiting){.next_seq = tx->next_seq, .time_us = tx->state.time_us, .bytes = tx->bytes});
}

static bool scan_generation(void *arg, const struct ms_generation_start *g, uint64_t seq, uint64_t next_seq) {
	struct ms_worker *w = arg;
	(void)seq;
	return add(&w->scan.v, &w->scan.n, &(struct ms_waiting){.next_seq = next_seq, .time_us = g->base.time_us, .generation = true});
}

static bool scan_gap(void *arg, uint64_t seq) {
	struct ms_worker *w = arg;
	/* Shipping will stop here and say so. */
	return add(&w->scan.v, &w->scan.n, &(struct ms_waiting){.next_seq = seq, .generation = true});
}

static void run(void *arg) {
	struct ms_worker *w = arg;
	struct ms_walk_visitor v = {scan_tx, scan_generation, scan_gap, w};
	w->scan.n = 0;
	w->scan.durable = ms_journal_durable_seq(w->journal);
	w->scan.to = w->scan.from;
	w->scan.err = MS_ERR_INIT;
	(void)!ms_journal_walk(w->journal, w->cfg.db, w->scan.from, &v, &w->scan.to, &w->scan.err);
}

static void done(void *arg) {
	struct ms_worker *w = arg;
	w->scan_busy = false;
	if (w->phase == MS_PHASE_STOPPED)
		return;
	if (w->scan.from == w->scan_seq && !w->scan_again) {
		if (w->scan.err.code) {
			ms_worker_note_error(w, &w->scan.err);
			/* Shipping meets the same error and decides what follows from it. */
			if (!w->nwaiting || w->waiting[w->nwaiting - 1].next_seq != UINT64_MAX)
				(void)add(&w->waiting, &w->nwaiting, &(struct ms_waiting){.next_seq = UINT64_MAX, .generation = true});
		} else {
			for (uint32_t i = 0; i < w->scan.n; i++)
				(void)add(&w->waiting, &w->nwaiting, &w->scan.v[i]);
			w->scan_seq = w->scan.to;
		}
		w->scan_durable = w->scan.durable;
		ms_worker_waiting_passed(w);
	}
	w->scan_again = false;
	ms_worker_scan(w);
	ms_worker_pump(w);
}

/* ---- loop ---- */

void ms_worker_scan(struct ms_worker *w) {
	if (ms_worker_scan_due_us(w) > ms_worker_mono_us(w))
		return;
	w->scan_at_us = ms_worker_mono_us(w) + SCAN_GAP_US;
	w->scan.from = w->scan_seq;
	w->scan_busy = true;
	w->scan_job = (struct ms_job){.run = run, .done = done, .arg = w};
	w->env->ops->submit(w->env, MS_LANE_CPU, &w->scan_job);
}

uint64_t ms_worker_scan_due_us(const struct ms_worker *w) {
	/* Before the claim the cursor of the last run tells at least how much lag there is. */
	bool position = w->phase == MS_PHASE_SHIPPING || (w->phase == MS_PHASE_CLAIMING && w->have_cursor);
	if (!position || w->cur.base == MS_BASE_JUMP || w->scan_busy || ms_worker_scan_idle(w))
		return UINT64_MAX;
	/* With the oldest of what waits its lag is known: what comes behind need not be known to the millisecond. */
	return w->nwaiting && !w->stopping ? w->scan_at_us : 0;
}

bool ms_worker_scan_idle(const struct ms_worker *w) { return w->scan_durable >= ms_journal_durable_seq(w->journal); }

void ms_worker_scan_reset(struct ms_worker *w) {
	w->nwaiting = 0;
	w->scan_seq = w->cur.seq > w->owed_info.next_seq ? w->cur.seq : w->owed_info.next_seq;
	w->scan_durable = 0;
	w->scan_again = w->scan_busy; /* what is under way is for another position */
}

void ms_worker_waiting_passed(struct ms_worker *w) {
	uint32_t n = 0;
	while (n < w->nwaiting && w->waiting[n].next_seq <= w->cur.seq)
		n++;
	if (n)
		memmove(w->waiting, w->waiting + n, (w->nwaiting - n) * sizeof *w->waiting);
	w->nwaiting -= n;
}

uint64_t ms_worker_waiting_bytes(const struct ms_worker *w) {
	uint64_t n = 0;
	for (uint32_t i = 0; i < w->nwaiting; i++)
		n += w->waiting[i].bytes;
	return n;
}
