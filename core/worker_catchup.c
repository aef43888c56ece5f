/*
 * The objects of a catch-up on a replica: a transaction in parts that takes the name of the segment that was due (docs/formats.md "Catch-up of one
 * replica"). An object that is there already is ours from before a crash or a lost response (it continues exactly our cursor, under an
 * epoch of ours), or somebody else's: fenced.
 *
 * A part of an earlier attempt stays where it is, and this attempt's parts go behind it: what it holds is pages that are owed, all
 * of which come again later in the transaction, and the later record wins. An earlier attempt, or a segment, that turns out to be complete moves the
 * cursor, and the catch-up is begun anew from there.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/worker_internal.h"

#define PART_MAX 0xffffu
#define OBJECT_SLACK (16u << 20)

bool ms_task_own_successor(const struct ms_task *t, const struct ms_segment_info *i) {
	const struct ms_cursor *c = &t->cur;
	return strcmp(i->generation.s, c->generation.s) == 0 && i->first_txid == c->state.txid + 1 && i->parent_txid == c->state.txid &&
	       i->checksum_before == c->state.checksum && i->epoch >= t->owed.epoch && i->epoch <= t->epoch && i->page_size == c->state.page_size;
}

static enum ms_code encode(struct ms_worker *w, const struct ms_task *t, struct ms_buf *out, struct ms_err *err) {
	const struct ms_catchup_part *p = t->catchup;
	const struct ms_cursor *c = &t->cur;
	struct ms_segment_info i = {.generation = c->generation,
				    .first_txid = c->state.txid + 1,
				    .last_txid = p->last ? p->end.txid : c->state.txid + 1,
				    .parent_txid = c->state.txid,
				    .page_size = c->state.page_size,
				    .db_pages = p->last ? p->end.db_pages : c->state.db_pages,
				    .first_us = p->last ? p->end.time_us : c->state.time_us,
				    .checksum_before = c->state.checksum,
				    .checksum_after = p->last ? p->end.checksum : c->state.checksum,
				    .kind = MS_SEG_CATCHUP,
				    .part = t->catchup_part,
				    .more = !p->last,
				    .frames = p->frames,
				    .epoch = t->epoch};
	i.last_us = i.first_us;
	if (c->nlineage && c->lineage[0].parent.s[0] && c->state.txid == c->lineage[0].fork_txid) {
		i.parent_generation = c->lineage[0].parent;
		i.fork_txid = c->lineage[0].fork_txid;
	}
	struct ms_segment_writer *s = ms_segment_writer_new(&i, out);
	if (!s)
		return ms_err_set(err, MS_ENOMEM, "catch-up %" PRIu64, i.first_txid);
	ms_segment_writer_set_compression(s, w->cfg.compression);
	enum ms_code rc = ms_segment_write(s, p->records, p->len, err);
	if (!rc)
		rc = ms_segment_end(s, err);
	ms_segment_writer_free(s);
	return rc;
}

static void name_of(const struct ms_task *t, char name[MS_NAME_MAX]) {
	struct ms_name n = {.kind = t->catchup_part ? MS_NAME_SEGMENT_PART : MS_NAME_SEGMENT,
			    .generation = t->cur.generation,
			    .number = t->catchup_part,
			    .first = t->cur.state.txid + 1};
	ms_name_format(&n, name);
}

/* The cursor after an object that completes what was begun behind it. */
static void take(struct ms_task *t, const struct ms_dbstate *end, uint64_t seq) {
	t->cur.segment_first = t->cur.state.txid + 1;
	if (end->txid > t->cur.segment_first) {
		t->cur.fold_last = end->txid;
		/* Nothing leads on from a snapshot within it; the loop thread says so too (ms_worker_mind_fold), but this is what is saved with it. */
		if (t->cur.base == MS_BASE_THERE && t->cur.snapshot_txid >= t->cur.segment_first && t->cur.snapshot_txid < end->txid)
			t->cur.base = MS_BASE_WANTED;
	}
	t->cur.state = *end;
	t->cur.seq = seq;
	t->catchup_part = 0;
}

struct find {
	const struct ms_segment_info *info;
	uint64_t seq; /* behind the state, 0 not found */
};

static bool find_tx(void *arg, const struct ms_walk_tx *tx) {
	struct find *f = arg;
	if (tx->txid != f->info->last_txid)
		return tx->txid < f->info->last_txid;
	if (tx->state.checksum == f->info->checksum_after && tx->state.db_pages == f->info->db_pages)
		f->seq = tx->next_seq;
	return false;
}

/* An object is there. *ret_done: it completes the catch-up, or a stretch of it. */
static enum ms_code adopt(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const char *name, bool *ret_done, struct ms_err *err) {
	struct ms_at_name at = {0};
	enum ms_code rc = ms_view_at(r, name, &at, err);
	if (rc)
		return rc;
	if (at.is_fence || !ms_task_own_successor(t, &at.info) || at.info.part != t->catchup_part)
		return ms_task_lost_name(w, t, name, &at, err);
	if (at.info.more) {
		if (t->catchup_part == PART_MAX)
			return ms_err_set(err, MS_ETOOBIG, "%s: a transaction has at most %u parts", name, PART_MAX + 1);
		t->catchup_part++;
		return MS_OK;
	}
	struct ms_dbstate end = {.txid = at.info.last_txid,
				 .time_us = at.info.last_us,
				 .checksum = at.info.checksum_after,
				 .page_size = at.info.page_size,
				 .db_pages = at.info.db_pages};
	const struct ms_catchup_part *p = t->catchup;
	*ret_done = true;
	if (p->last && end.txid == p->end.txid && end.checksum == p->end.checksum && end.db_pages == p->end.db_pages) {
		take(t, &end, p->seq);
		return MS_OK;
	}
	t->catchup_taken = true;
	if (end.txid <= t->owed.end.txid) { /* the rest of what is owed still is */
		take(t, &end, t->cur.seq);
		return MS_OK;
	}
	struct find f = {.info = &at.info};
	struct ms_walk_visitor v = {.tx = find_tx, .arg = &f};
	if ((rc = ms_journal_walk(w->journal, w->cfg.db, t->owed.next_seq, &v, NULL, err)))
		return rc == MS_EGAP ? ms_err_set(err, MS_ERETRY, "replica %s: the journal moved while %s was looked up in it", w->cfg.url, name) : rc;
	if (!f.seq)
		return ms_task_lost_name(w, t, name, &at, err);
	take(t, &end, f.seq);
	return MS_OK;
}

enum ms_code ms_task_catchup(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) {
	const struct ms_catchup_part *p = t->catchup;
	struct ms_buf out;
	enum ms_code rc = MS_OK;
	if (p->base.txid != t->cur.state.txid || p->base.checksum != t->cur.state.checksum) {
		t->catchup_taken = true;
		return MS_OK;
	}
	if (t->check && (rc = ms_task_check(w, t, r, err)))
		return rc;
	ms_buf_init(&out, 2 * p->len + OBJECT_SLACK);
	for (bool done = false; !rc && !done;) {
		char name[MS_NAME_MAX];
		name_of(t, name);
		ms_buf_clear(&out);
		if ((rc = encode(w, t, &out, err)))
			break;
		uint64_t from = ms_env_mono_ns(w->env);
		rc = ms_throttle_put_mem(&w->throttle, r, name, out.data, out.len, &w->main.cancel, err);
		t->put_us = (int64_t)((ms_env_mono_ns(w->env) - from) / 1000);
		if (rc == MS_EEXISTS) {
			rc = adopt(w, t, r, name, &done, err);
			continue;
		}
		if (rc)
			break;
		t->shipped_segment = done = true;
		t->put_bytes = out.len;
		t->record_bytes = p->len;
		if (p->last)
			take(t, &p->end, p->seq);
		else if (t->catchup_part == PART_MAX)
			rc = ms_err_set(err, MS_ETOOBIG, "%s: a transaction has at most %u parts", name, PART_MAX + 1);
		else
			t->catchup_part++;
	}
	ms_buf_release(&out);
	if (!rc && (p->last || t->catchup_taken))
		ms_task_save(w, t);
	return rc;
}

bool ms_view_lacks_snapshot(const struct ms_view *v, const struct ms_cursor *c) {
	const struct ms_lineage *l = c->nlineage ? &c->lineage[0] : NULL;
	bool own = !l || !l->parent.s[0] || c->snapshot_txid > l->fork_txid;
	return own && c->base == MS_BASE_THERE && strcmp(c->generation.s, v->head.generation.s) == 0 && v->snapshot_txid < c->snapshot_txid;
}

enum ms_code ms_task_check(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) {
	const struct ms_cursor *c = &t->cur;
	struct ms_view v = {0};
	/* Where the next snapshot becomes the cursor, or in a generation that no head names yet, there is nothing that it must hold. */
	if (w->cfg.fencing_none || c->base == MS_BASE_JUMP || strcmp(c->generation.s, t->head_generation.s) != 0)
		return MS_OK;
	enum ms_code rc = ms_view_read(r, c->head_number, &c->generation, c->segment_first, &v, err);
	if (rc)
		return rc;
	bool fork = c->nlineage && c->lineage[0].parent.s[0] && c->state.txid == c->lineage[0].fork_txid;
	/* A newer snapshot does not stand for segments that were put: the states before it would be gone. */
	bool holds = c->segment_first ? v.has_segments && v.segments.txid >= c->state.txid
				      : fork || c->base == MS_BASE_WANTED || (v.has_tail && v.tail.txid >= c->state.txid);
	/* What was put with its snapshot may rest on that one alone. */
	bool base = strcmp(t->snapshot_generation.s, c->generation.s) != 0 || !ms_view_lacks_snapshot(&v, c);
	/* A newer head of another generation is somebody else's, and met at the next put. */
	bool there = v.has_head && v.head.number >= c->head_number && ((holds && base) || strcmp(v.head.generation.s, c->generation.s) != 0);
	t->seen = there;
	if (!there) {
		const struct ms_dbstate *has = c->segment_first ? &v.segments : &v.tail;
		t->less = true;
		rc = !holds || base ? ms_err_set(err, MS_EGAP, "replica %s came back with txid %" PRIu64 " of generation %s%s, although it held txid %" PRIu64 " of %s", w->cfg.url,
				has->txid, v.has_head ? v.head.generation.s : "none", v.tail_is_snapshot && c->segment_first ? " and a newer snapshot" : "",
				c->state.txid, c->generation.s)
				    : ms_err_set(err, MS_EGAP, "replica %s came back without its newest snapshot, of txid %" PRIu64 " of generation %s", w->cfg.url,
						 c->snapshot_txid, c->generation.s);
	}
	ms_view_release(&v);
	return rc;
}

/* ---- loop ---- */

void ms_worker_catchup_end(struct ms_worker *w, const struct ms_err *err) {
	void (*cb)(void *, const struct ms_err *) = w->catchup_done;
	void *arg = w->catchup_arg;
	if (!w->catchup || (w->main_busy && w->task.kind == MS_TASK_CATCHUP))
		return;
	w->catchup = NULL;
	w->catchup_done = NULL;
	cb(arg, err);
}

void ms_worker_put_catchup(struct ms_worker *w, const struct ms_catchup_part *part, void (*done)(void *arg, const struct ms_err *err), void *arg) {
	struct ms_err err = MS_ERR_INIT;
	if (w->catchup)
		(void)ms_err_set(&err, MS_EINVAL, "replica %s: another part of a catch-up is under way", w->cfg.url);
	else if (w->phase != MS_PHASE_SHIPPING || w->stopping)
		(void)ms_err_set(&err, MS_ECANCELED, "replica %s: fenced or stopped", w->cfg.url);
	else if (part->base.txid != w->cur.state.txid || part->base.checksum != w->cur.state.checksum || w->cur.base != MS_BASE_THERE)
		(void)ms_err_set(&err, MS_ECANCELED, "replica %s: its cursor has moved", w->cfg.url);
	if (err.code) {
		done(arg, &err);
		return;
	}
	w->catchup = part;
	w->catchup_done = done;
	w->catchup_arg = arg;
	ms_worker_pump(w);
}
