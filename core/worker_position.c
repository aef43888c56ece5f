/* Where a worker stands: the cursor as a task left it, and how far the backend can be trusted to have it. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

/* Looks at what the replica holds, for what went without a call of ours failing: wiped, or put back to an older copy. */
#define LOOK_US 60000000ull	      /* after the last one, where something has been put since */
#define LOOK_IDLE_US 21600000000ull /* where nothing has */

void ms_worker_take_position(struct ms_worker *w, struct ms_task *t) {
	struct ms_cursor *c = &w->cur;
	free(c->lineage);
	c->lineage = t->cur.lineage;
	c->nlineage = t->cur.nlineage;
	t->cur.lineage = NULL;
	t->cur.nlineage = 0;
	c->seq = t->cur.seq;
	c->generation = t->cur.generation;
	c->state = t->cur.state;
	c->segment_first = t->cur.segment_first;
	c->head_number = t->cur.head_number;
	c->epoch = t->cur.epoch;
	c->fold_last = t->cur.fold_last;
	w->epoch = t->epoch;
	w->head_generation = t->head_generation;
	w->part = t->part;
	w->have_cursor = true;
}

static void push_settling(struct ms_worker *w, bool owes) {
	const struct ms_cursor *c = &w->cur;
	if (w->nsettling == MS_SETTLING_MAX)
		w->nsettling--;
	w->settling[w->nsettling++] =
		(struct ms_settling){c->seq, c->state.txid, owes ? 0 : c->state.checksum, ms_worker_mono_us(w) + (uint64_t)w->caps.settle_us};
}

void ms_worker_settle_snapshot(struct ms_worker *w) {
	if (w->caps.settle_us > 0)
		push_settling(w, ms_worker_owes(w));
}

/* The backend may lose what it has acknowledged for a while yet: the settled position follows by that. */
void ms_worker_settle(struct ms_worker *w) {
	const struct ms_cursor *c = &w->cur;
	const struct ms_settling *last = w->nsettling ? &w->settling[w->nsettling - 1] : NULL;
	bool owes = ms_worker_owes(w);
	if (w->caps.settle_us <= 0) {
		ms_cursor_settle(&w->cur, owes);
		return;
	}
	if (last ? last->seq == c->seq && last->txid == c->state.txid : c->settled_seq == c->seq && c->settled_txid == c->state.txid)
		return;
	push_settling(w, owes);
}

void ms_worker_settle_checked(struct ms_worker *w) {
	unsigned n = 0;
	for (; n < w->nsettling && w->settling[n].at_us <= w->look_us; n++) {
		w->cur.settled_seq = w->settling[n].seq;
		w->cur.settled_txid = w->settling[n].txid;
		w->cur.settled_checksum = w->settling[n].checksum;
	}
	memmove(w->settling, w->settling + n, (w->nsettling - n) * sizeof w->settling[0]);
	w->nsettling -= n;
}

void ms_worker_looking(struct ms_worker *w) {
	w->look_us = ms_worker_mono_us(w);
	w->looked_puts = w->st.puts;
}

uint64_t ms_worker_look_due_us(const struct ms_worker *w) {
	if (w->stopping)
		return UINT64_MAX;
	bool put = w->st.puts != w->looked_puts;
	uint64_t due = w->cfg.fencing_none ? UINT64_MAX : w->look_us + (put ? LOOK_US : LOOK_IDLE_US);
	if (w->nsettling) {
		uint64_t again = w->look_us + (uint64_t)w->caps.settle_us / MS_SETTLE_CHECKS;
		uint64_t settles = w->settling[0].at_us > again ? w->settling[0].at_us : again;
		due = settles < due ? settles : due;
	}
	return due;
}

void ms_worker_settle_claimed(struct ms_worker *w) {
	ms_worker_looking(w); /* a claim is one */
	w->nsettling = 0;
	if (w->cur.settled_seq > w->cur.seq)
		ms_cursor_settle(&w->cur, ms_worker_owes(w));
	ms_worker_settle(w);
}

void ms_worker_settle_jumped(struct ms_worker *w) {
	w->nsettling = 0;
	w->cur.settled_seq = w->cur.seq;
	w->cur.settled_txid = w->cur.settled_checksum = 0;
	ms_worker_settle(w);
}
