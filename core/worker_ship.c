/*
 * One step of shipping: a head for the cursor's generation if there is none, then one segment or one generation start.
 * Order: object, then cursor file. A name that is taken is either our own lost response (its chain equals the journal's: adopted) or
 * somebody else's: fenced.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

#define FENCE_TRIES 1000

void ms_retention_names_release(struct ms_retention_names *n) {
	for (uint32_t i = 0; i < n->n; i++)
		free(n->names[i]);
	free(n->names);
	*n = (struct ms_retention_names){0};
}

void ms_task_save(struct ms_worker *w, struct ms_task *t) {
	t->save_err = MS_ERR_INIT;
	if (t->settles_at_once || t->cur.settled_seq > t->cur.seq)
		ms_cursor_settle(&t->cur, t->owed.next_seq > t->cur.seq);
	t->saved = ms_cursor_save(w->env, w->cfg.state_path, &t->cur, &t->save_err) == MS_OK;
	t->have_cursor = true;
}

/* ---- heads and fences ---- */

/* The number is taken: by an earlier attempt of ours whose response was lost (*ret_ours; it may have said something else), or by another. */
static enum ms_code head_taken(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const char *name, struct ms_head *ret, struct ms_err *err) {
	struct ms_buf b;
	ms_buf_init(&b, MS_WORKER_HEAD_MAX);
	enum ms_code rc = ms_replica_get_buf(r, name, 0, -1, &b, err);
	if (!rc)
		rc = ms_head_decode(b.data, b.len, ret, err);
	ms_buf_release(&b);
	if (rc)
		return rc;
	for (unsigned i = 0; i < t->ntried && i < sizeof t->tried / sizeof t->tried[0]; i++)
		if (t->tried[i].number == ret->number && t->tried[i].time_us == ret->time_us && ret->epoch == t->epoch && strcmp(ret->owner, w->cfg.owner) == 0)
			return MS_OK;
	rc = ms_err_set(err, MS_EFENCED, "replica %s was taken over by owner %s on %s (%s, epoch %" PRIu32 ", generation %s); this one had epoch %" PRIu32
			" and generation %s up to txid %" PRIu64 ". To take it back: `migstream takeover %s`",
			w->cfg.url, ret->owner, ret->host, name, ret->epoch, ret->generation.s, t->epoch, t->cur.generation.s, t->cur.state.txid, w->cfg.db);
	ms_head_release(ret);
	return rc;
}

static bool higher_head(void *arg, const struct ms_object *o) {
	struct ms_name n, *newest = arg;
	if (ms_name_parse(o->name, &n) && n.kind == MS_NAME_HEAD && n.number > newest->number)
		*newest = n;
	return true;
}

/* Old heads are removed, and a number that is free again would not stop a writer that has slept through its successors. The newest heads stay,
 * so a number is either still taken when its put is tried, or a higher one is listed here. *ret: name of the newest one above ours, or "". */
static enum ms_code newer_head(struct ms_task *t, struct ms_replica *r, char ret[MS_NAME_MAX], struct ms_err *err) {
	struct ms_name newest = {.kind = MS_NAME_HEAD, .number = t->cur.head_number + 1};
	char after[MS_NAME_MAX];
	ms_name_format(&newest, after);
	enum ms_code rc = ms_replica_list(r, "head/", after, higher_head, &newest, err);
	ret[0] = '\0';
	if (!rc && newest.number > t->cur.head_number + 1)
		ms_name_format(&newest, ret);
	return rc;
}

static bool says_other(const struct ms_head *there, const struct ms_head *wanted) {
	return strcmp(there->generation.s, wanted->generation.s) != 0 || there->nremovals != wanted->nremovals;
}

/* By number and time a head is known as ours again. Each further try of a number has the time of the first, so that tries without end
 * take one place. */
static void note_try(struct ms_task *t, struct ms_head *h) {
	const unsigned most = sizeof t->tried / sizeof t->tried[0];
	for (unsigned i = 0; i < t->ntried && i < most; i++)
		if (t->tried[i].number == h->number) {
			h->time_us = t->tried[i].time_us;
			return;
		}
	t->tried[t->ntried++ % most] = (struct ms_tried_head){h->number, h->time_us};
}

enum ms_code ms_task_put_head(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const struct ms_retention_names *removals,
			      int64_t remove_after_us, struct ms_err *err) {
	struct ms_buf b;
	enum ms_code rc = MS_OK;
	if (w->cfg.fencing_none) {
		t->head_generation = t->cur.generation;
		return MS_OK;
	}
	ms_buf_init(&b, MS_WORKER_HEAD_MAX);
	for (bool again = true; again && !rc;) {
		char name[MS_NAME_MAX];
		struct ms_head h = {.number = t->cur.head_number + 1,
				    .epoch = t->epoch,
				    .generation = t->cur.generation,
				    .lineage = t->cur.lineage,
				    .nlineage = t->cur.nlineage,
				    .time_us = ms_env_now_us(w->env),
				    .settled_txid = t->cur.state.txid,
				    .removals = removals ? removals->names : NULL,
				    .nremovals = removals ? removals->n : 0,
				    .remove_after_us = remove_after_us};
		snprintf(h.owner, sizeof h.owner, "%s", w->cfg.owner);
		snprintf(h.host, sizeof h.host, "%s", w->cfg.host);
		if ((rc = newer_head(t, r, name, err)))
			break;
		struct ms_head there;
		if (name[0]) { /* another's, or ours of a task that failed afterwards, with which its number was forgotten */
			if ((rc = head_taken(w, t, r, name, &there, err)))
				break;
			t->cur.head_number = there.number;
			again = says_other(&there, &h);
			ms_head_release(&there);
			continue;
		}
		note_try(t, &h);
		ms_name_format(&(struct ms_name){.kind = MS_NAME_HEAD, .number = h.number}, name);
		ms_buf_clear(&b);
		if ((rc = ms_head_encode(&h, &b, err)))
			break;
		rc = ms_replica_put_mem(r, name, b.data, b.len, err);
		again = false;
		if (rc == MS_EEXISTS) {
			if ((rc = head_taken(w, t, r, name, &there, err)))
				break;
			again = says_other(&there, &h);
			ms_head_release(&there);
		}
		if (!rc)
			t->cur.head_number = h.number;
	}
	ms_buf_release(&b);
	if (rc)
		return rc;
	t->cur.epoch = t->epoch;
	t->head_generation = t->cur.generation;
	return MS_OK;
}

enum ms_code ms_task_fence(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const struct ms_generation *g, uint64_t near,
			   struct ms_err *err) {
	struct ms_fence f = {.epoch = t->epoch, .head_number = t->cur.head_number, .time_us = ms_env_now_us(w->env)};
	struct ms_buf b;
	enum ms_code rc;
	if (w->cfg.fencing_none)
		return MS_OK;
	snprintf(f.owner, sizeof f.owner, "%s", w->cfg.owner);
	snprintf(f.host, sizeof f.host, "%s", w->cfg.host);
	ms_buf_init(&b, MS_WORKER_HEAD_MAX);
	rc = ms_fence_encode(&f, &b, err);
	for (int i = 0; !rc; i++) {
		struct ms_name n;
		char name[MS_NAME_MAX];
		bool fenced;
		if ((rc = ms_view_next_live(r, g, near, &n, &fenced, err)) || fenced)
			break;
		ms_name_format(&n, name);
		rc = ms_replica_put_mem(r, name, b.data, b.len, err);
		if (rc != MS_EEXISTS)
			break;
		/* The old owner has just put that one: the next name then. */
		rc = i < FENCE_TRIES ? MS_OK : ms_err_set(err, MS_ERETRY, "replica %s: generation %s grows faster than it can be fenced", w->cfg.url, g->s);
	}
	ms_buf_release(&b);
	return rc;
}

/* ---- segments ---- */

static void run_start(struct ms_worker *w, struct ms_task *t, struct ms_run_start *ret) {
	const struct ms_cursor *c = &t->cur;
	*ret = (struct ms_run_start){.db = w->cfg.db,
				     .seq = t->part.part ? t->part.seq : c->seq,
				     .generation = c->generation,
				     .state = c->state,
				     .epoch = t->epoch,
				     .segment_bytes = t->segment_bytes,
				     .object_max = w->cfg.object_max,
				     .part = t->part.part};
	/* The first segment of a forked generation says where it comes from. */
	if (c->nlineage && c->lineage[0].parent.s[0] && c->state.txid == ms_lineage_base(&c->lineage[0]))
		ret->fork = c->lineage[0];
}

enum ms_code ms_task_lost_name(struct ms_worker *w, struct ms_task *t, const char *name, const struct ms_at_name *at, struct ms_err *err) {
	if (at->is_fence)
		return ms_err_set(err, MS_EFENCED, "replica %s was taken over by owner %s on %s (epoch %" PRIu32 ", fence at %s); this one had epoch %" PRIu32
				  " and generation %s up to txid %" PRIu64 ". To take it back: `migstream takeover %s`",
				  w->cfg.url, at->fence.owner, at->fence.host, at->fence.epoch, name, t->epoch, t->cur.generation.s, t->cur.state.txid,
				  w->cfg.db);
	return ms_err_set(err, MS_EFENCED, "replica %s has another writer: %s (txid %" PRIu64 " to %" PRIu64 ", epoch %" PRIu32
			  ") is not what this host's journal says behind txid %" PRIu64 " (epoch %" PRIu32 "). To take it over: `migstream takeover %s`",
			  w->cfg.url, name, at->info.first_txid, at->info.last_txid, at->info.epoch, t->cur.state.txid, t->epoch, w->cfg.db);
}

static enum ms_code adopt(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const struct ms_run_start *start, const char *name,
			  struct ms_run *run, struct ms_err *err) {
	struct ms_at_name at = {0};
	bool same = false;
	enum ms_code rc = ms_view_at(r, name, &at, err);
	if (rc)
		return rc;
	if (at.is_fence)
		return ms_task_lost_name(w, t, name, &at, err);
	if (at.info.part || at.info.more) {
		rc = ms_run_same_part(w->journal, start, r, name, &same, &run->next_seq, err);
		if (!rc && same) {
			bool last = !at.info.more;
			run->info.more = !last;
			if (last)
				run->after = (struct ms_dbstate){.txid = at.info.last_txid,
								 .time_us = at.info.last_us,
								 .checksum = at.info.checksum_after,
								 .page_size = at.info.page_size,
								 .db_pages = at.info.db_pages};
		}
	} else {
		rc = ms_run_same(w->journal, start, &at.info, &same, &run->after, &run->next_seq, err);
		if (!rc && same)
			run->info.more = false;
	}
	if (rc)
		return rc;
	return same ? MS_OK : ms_task_lost_name(w, t, name, &at, err);
}

static enum ms_code ship_segment(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const struct ms_run_start *start,
				 struct ms_run *run, struct ms_err *err) {
	struct ms_segment_body *body = NULL;
	struct ms_name n = {.kind = start->part ? MS_NAME_SEGMENT_PART : MS_NAME_SEGMENT,
			    .generation = start->generation,
			    .number = start->part,
			    .first = run->info.first_txid};
	char name[MS_NAME_MAX];
	enum ms_code rc = ms_segment_body_new(w->journal, w->cfg.db, run, w->cfg.compression, &body, err);
	if (rc)
		return rc;
	ms_name_format(&n, name);
	uint64_t from = ms_env_mono_ns(w->env);
	rc = ms_throttle_put(&w->throttle, r, name, ms_segment_body(body), &w->main.cancel, err);
	t->put_us = (int64_t)((ms_env_mono_ns(w->env) - from) / 1000);
	t->put_bytes = rc ? 0 : ms_segment_body_sent(body);
	ms_segment_body_free(body);
	if (rc == MS_EEXISTS)
		rc = adopt(w, t, r, start, name, run, err);
	if (rc)
		return rc;
	t->shipped_segment = true;
	t->record_bytes = run->bytes;
	t->cur.bytes_since_snapshot += run->bytes;
	t->cur.segment_first = run->info.first_txid;
	if (run->info.more) {
		t->part = (struct ms_part){start->part + 1, run->next_seq};
		t->more = true;
		return MS_OK; /* the cursor moves with the last part */
	}
	t->part = (struct ms_part){0};
	t->more = run->full;
	t->cur.state = run->after;
	t->cur.seq = run->next_seq;
	ms_task_save(w, t);
	return MS_OK;
}

/* Everything of the old generation is on the replica: fence it, name the new one, go on there. */
static enum ms_code ship_generation(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_run *run, struct ms_err *err) {
	const struct ms_generation_start *g = &run->start;
	bool alone = ms_lineage_needs_base(&g->lineage[0]);
	enum ms_code rc;
	if (t->head_generation.s[0] && strcmp(t->head_generation.s, g->generation.s) != 0 &&
	    (rc = ms_task_fence(w, t, r, &t->head_generation, t->cur.segment_first, err)))
		return rc;
	if ((rc = ms_cursor_join_lineage(&t->cur, g->lineage, g->nlineage, t->cur.lineage, t->cur.nlineage, err)))
		return rc;
	t->cur.generation = g->generation;
	t->cur.state = g->base;
	t->cur.seq = run->next_seq;
	t->cur.segment_first = 0;
	uint64_t fold = t->cur.fold_last;
	t->cur.fold_last = 0;
	/* Its snapshot may have come before its start was reached here. */
	bool own = strcmp(t->snapshot_generation.s, g->generation.s) == 0;
	/* A fork behind the newest snapshot: whether an older one is left that leads to it is for retention to say, so a new one is safe.
	 * A fork behind the end of a catch-up may lie within it. */
	bool behind = !alone && (t->cur.snapshot_txid > g->lineage[0].fork_txid || fold > g->lineage[0].fork_txid);
	if ((alone || behind) && !own) {
		t->cur.base = MS_BASE_WANTED;
		t->want_reason = alone ? "a new generation that does not go on from its parent's state" : "a new generation that forks behind the newest snapshot or catch-up";
	}
	if ((rc = ms_task_put_head(w, t, r, NULL, 0, err)))
		return rc;
	t->shipped_generation = true;
	t->more = true;
	ms_task_save(w, t);
	return MS_OK;
}

enum ms_code ms_task_ship(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) {
	struct ms_run run = {.what = MS_RUN_NOTHING};
	struct ms_run_start start;
	enum ms_code rc;
	if (t->check && (rc = ms_task_check(w, t, r, err)))
		return rc;
	/* A snapshot made a generation the cursor's that no head names yet. */
	if (strcmp(t->head_generation.s, t->cur.generation.s) != 0) {
		struct ms_generation old = t->head_generation;
		if ((rc = ms_task_put_head(w, t, r, NULL, 0, err)) || (old.s[0] && (rc = ms_task_fence(w, t, r, &old, 0, err))))
			return rc;
	}
	if (t->owed.next_seq > t->cur.seq) /* a catch-up comes first */
		return MS_OK;
	run_start(w, t, &start);
	if ((rc = ms_run_scan(w->journal, &start, &run, err)))
		return rc;
	switch (run.what) {
	case MS_RUN_NOTHING:
		t->nothing = true;
		break;
	case MS_RUN_SEGMENT:
		rc = ship_segment(w, t, r, &start, &run, err);
		break;
	case MS_RUN_GENERATION:
		rc = ship_generation(w, t, r, &run, err);
		break;
	}
	ms_run_release(&run);
	return rc;
}
