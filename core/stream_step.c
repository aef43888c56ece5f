/*
 * The source job of a stream: attach, follow, scan.
 *
 * Following: the source hands transactions to the sink, which is the capture. Seed: every page of a fresh database is hashed into
 * empty page sums while the source's position is moved along without handing over commits (skip); pages written meanwhile are
 * read again; the state at the end is the base of a new generation. Catch-up: the same scan, comparing with the page sums we
 * have; what differs becomes one transaction. A catch-up that ends at a state which the journal already holds at an older txid means that the
 * database went back (power loss, an old copy): a new generation forks there. One over another file under the same name goes into a generation
 * of its own, forked where the old file ended.
 */
#include "core/stream_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/hash.h"
#include "core/journal_walk.h"

#define SCAN_BUDGET_US 20000u
#define FILL_BUDGET_US 10000u
#define HURRY_BYTES (2u << 20) /* above what a poll under load leaves, below the buffer */
#define KICK_NS 4000000ull
#define FINAL_PAGES 2048u /* dirty pages that may be left for the last pass, read at one position */

static void kick_posted(void *arg) {
	struct ms_stream *s = arg;
	atomic_store(&s->kick_posted, false);
	ms_journal_nudge(s->journal);
}

static void kick(struct ms_stream *s) {
	s->kicked_ns = ms_env_mono_ns(s->env);
	pthread_mutex_lock(&s->handed_mu);
	s->handed = (struct handed){ms_capture_last_seq(s->cap), *ms_capture_state(s->cap)};
	pthread_mutex_unlock(&s->handed_mu);
	if (!atomic_exchange(&s->kick_posted, true))
		s->env->ops->post(s->env, kick_posted, s);
}

static struct ms_stream *of_sink(struct ms_sink *k) { return (struct ms_stream *)((char *)k - offsetof(struct ms_stream, sink)); }

static enum ms_code sink_begin(struct ms_sink *k, struct ms_err *err) {
	ms_capture_hurry(of_sink(k)->cap, k->backlog > HURRY_BYTES);
	return ms_capture_begin(of_sink(k)->cap, err);
}

static enum ms_code sink_page(struct ms_sink *k, uint32_t pgno, const uint8_t *page, struct ms_err *err) {
	return ms_capture_page(of_sink(k)->cap, pgno, page, false, err);
}

static enum ms_code sink_commit(struct ms_sink *k, const struct ms_flush_meta *m, struct ms_err *err) {
	struct ms_stream *s = of_sink(k);
	enum ms_code rc = ms_capture_commit(s->cap, m, 0, 0, err);
	/* A sync for all that one look has found, and not one for its first commit. */
	if (rc == MS_OK && (!k->backlog || ms_env_mono_ns(s->env) - s->kicked_ns > KICK_NS))
		kick(s);
	return rc;
}

static void sink_abort(struct ms_sink *k) { ms_capture_abort(of_sink(k)->cap); }

void ms_stream_sink_init(struct ms_stream *s) { s->sink = (struct ms_sink){sink_begin, sink_page, sink_commit, sink_abort, 0}; }

static bool prev_page(void *arg, uint32_t pgno, uint8_t *out) {
	struct ms_stream *s = arg;
	return s->source->ops->prev_page(s->source, pgno, out);
}

static void touch(void *arg, uint32_t pgno) {
	struct ms_stream *s = arg;
	ms_stream_snapshots_touch(s, pgno);
	ms_stream_catchups_touch(s, pgno);
}

static enum ms_code open_capture(struct ms_stream *s, struct ms_err *err) {
	struct ms_capture_config cfg = {s->name, s->dir, s->level, s->codec_none};
	enum ms_code rc = ms_capture_open(s->env, s->journal, &cfg, &s->cap, s->out.note, sizeof s->out.note, err);
	if (rc != MS_OK)
		return rc;
	ms_capture_set_prev(s->cap, prev_page, s);
	ms_capture_set_touch(s->cap, touch, s);
	return MS_OK;
}

static void mark_dirty(void *arg, uint32_t pgno) { ms_scan_mark(arg, pgno); }

static void drop_tx(struct ms_stream *s) {
	if (s->tx_open)
		ms_capture_abort(s->cap);
	s->tx_open = false;
}

static enum ms_code begin_scan(struct ms_stream *s, enum step_mode mode, struct ms_err *err) {
	enum ms_code rc;
	drop_tx(s);
	ms_scan_release(&s->scan);
	if ((rc = ms_scan_init(&s->scan, s->info.db_pages, err)) != MS_OK)
		return rc;
	if (!s->slice && !(s->slice = malloc(MS_SLICE_BYTES)))
		return ms_err_set(err, MS_ENOMEM, "scan buffer");
	if (mode == MODE_SEED) {
		if ((rc = ms_pagesums_reset(ms_capture_sums(s->cap), err)) != MS_OK)
			return rc;
	} else {
		ms_capture_hurry(s->cap, false);
		if ((rc = ms_capture_begin(s->cap, err)) != MS_OK)
			return rc;
		s->tx_open = true;
	}
	s->mode = mode;
	return MS_OK;
}

static enum ms_code attach(struct ms_stream *s, struct ms_err *err, bool *ret_ours) {
	const struct ms_cookie *cookie = ms_capture_cookie(s->cap);
	bool have = ms_capture_generation(s->cap)->generation.s[0] != 0;
	enum ms_code rc = s->source->ops->attach(s->source, have && !s->replaced && cookie->len ? cookie : NULL, &s->info, &s->out.src, err);
	if (rc != MS_OK || s->out.src.state != MS_SRC_FOLLOWING)
		return rc;
	s->out.attached_now = *ret_ours = true;
	if (!have || s->start_root || s->info.page_size != ms_capture_state(s->cap)->page_size)
		rc = begin_scan(s, MODE_SEED, err);
	else if (!s->info.continuous || s->replaced)
		rc = begin_scan(s, MODE_CATCHUP, err);
	else
		s->mode = MODE_FOLLOW;
	if (rc == MS_OK) {
		*ret_ours = false;
		return MS_OK;
	}
	drop_tx(s);
	ms_scan_release(&s->scan);
	s->source->ops->detach(s->source);
	s->mode = MODE_DETACHED;
	return rc;
}

static void to_detached(struct ms_stream *s) {
	drop_tx(s);
	ms_scan_release(&s->scan);
	if (s->mode != MODE_DETACHED)
		s->source->ops->detach(s->source);
	s->mode = MODE_DETACHED;
}

static struct ms_generation new_generation(struct ms_stream *s) {
	struct ms_generation g;
	uint32_t random;
	s->env->ops->random(s->env, &random, sizeof random);
	ms_generation_make(&g, s->epoch, random);
	return g;
}

/* g's lineage: first, unless it is NULL, and behind it `older`. */
static enum ms_code put_lineage(struct ms_generation_start *g, const struct ms_lineage *first, const struct ms_lineage *older, uint32_t n,
				struct ms_err *err) {
	if (!(g->lineage = calloc((size_t)n + 1, sizeof *g->lineage)))
		return ms_err_set(err, MS_ENOMEM, "lineage");
	if (first)
		g->lineage[g->nlineage++] = *first;
	if (n)
		memcpy(g->lineage + g->nlineage, older, n * sizeof *older);
	g->nlineage += n;
	return MS_OK;
}

/* A new generation in front of the lineage we know. */
static enum ms_code push_lineage(struct ms_stream *s, struct ms_generation_start *g, const struct ms_generation *parent, uint64_t fork,
				 struct ms_err *err) {
	const struct ms_generation_start *old = ms_capture_generation(s->cap);
	struct ms_lineage own = {g->generation, *parent, fork, false};
	return put_lineage(g, &own, old->lineage, old->nlineage, err);
}

/* A takeover where the replica is ahead of us in our own generation: we go on from what we have, in a generation that forks here. */
static enum ms_code fork_here(struct ms_stream *s, struct ms_err *err) {
	const struct ms_generation_start *old = ms_capture_generation(s->cap);
	struct ms_generation_start g = {.generation = new_generation(s), .base = *ms_capture_state(s->cap), .mode = old->mode};
	struct ms_generation parent = old->generation;
	struct ms_cookie cookie = *ms_capture_cookie(s->cap);
	enum ms_code rc = push_lineage(s, &g, &parent, g.base.txid, err);
	if (rc == MS_OK)
		rc = ms_capture_start_generation(s->cap, &g, &cookie, err);
	ms_generation_start_release(&g);
	return rc;
}

/*
 * What has been captured of this database before, as far as anything here tells. generation empty: nothing.
 * A takeover from another owner follows what that one's replica holds, so that the replica's history hangs together. Else the local state counts; where
 * it is gone, the journal's end, which may be ahead of every replica; else the replica.
 */
struct history {
	struct ms_generation generation;
	struct ms_dbstate state; /* txid 0: none of this generation's own */
	struct ms_lineage *lineage; /* owned; [0] = generation */
	uint32_t nlineage;
	const struct ms_stream *s;
	struct ms_err err;
};

static void history_release(struct history *h) {
	free(h->lineage);
	h->lineage = NULL;
}

static enum ms_code history_set(struct history *h, const struct ms_generation *g, const struct ms_dbstate *state, const struct ms_lineage *lineage,
				uint32_t n, struct ms_err *err) {
	struct ms_lineage *copy = calloc((size_t)n + 1, sizeof *copy);
	if (!copy)
		return ms_err_set(err, MS_ENOMEM, "lineage");
	if (n)
		memcpy(copy, lineage, n * sizeof *copy);
	else
		copy[0].generation = *g; /* a head without lineage: a root, as far as is known */
	history_release(h);
	h->generation = *g;
	h->state = *state;
	h->lineage = copy;
	h->nlineage = n ? n : 1;
	return MS_OK;
}

static enum ms_code history_of_head(struct history *h, struct ms_err *err) {
	const struct ms_head *head = &h->s->adopt_head;
	return history_set(h, &head->generation, &h->s->adopt_state, head->lineage, head->nlineage, err);
}

static bool history_generation(void *arg, const struct ms_generation_start *g, uint64_t seq, uint64_t next_seq) {
	struct history *h = arg;
	(void)seq, (void)next_seq;
	return history_set(h, &g->generation, &g->base, g->lineage, g->nlineage, &h->err) == MS_OK;
}

static bool history_tx(void *arg, const struct ms_walk_tx *tx) {
	struct history *h = arg;
	const struct ms_dbstate *tail = &h->s->adopt_state;
	/* Where the journal's beginning is gone, only what leads on from the replica's newest state has a known generation. */
	if (!h->generation.s[0] && h->s->adopt && tail->txid == tx->state.txid && tail->checksum == tx->state.checksum)
		return history_of_head(h, &h->err) == MS_OK;
	if (h->generation.s[0])
		h->state = tx->state;
	return true;
}

static bool history_gap(void *arg, uint64_t seq) {
	struct history *h = arg;
	(void)seq;
	h->generation = (struct ms_generation){""}; /* the start of a generation may be among what is gone */
	return true;
}

static enum ms_code find_history(struct ms_stream *s, struct history *h, struct ms_err *err) {
	const struct ms_generation_start *own = ms_capture_generation(s->cap);
	enum ms_code rc;
	*h = (struct history){.s = s, .err = MS_ERR_INIT};
	if (s->start_root || (s->adopt && !s->adopt_same_owner))
		return history_of_head(h, err);
	if (own->generation.s[0])
		return history_set(h, &own->generation, ms_capture_state(s->cap), own->lineage, own->nlineage, err);
	struct ms_walk_visitor visitor = {history_tx, history_generation, history_gap, h};
	if ((rc = ms_journal_walk(s->journal, s->name, 0, &visitor, NULL, err)) == MS_OK && (rc = h->err.code) && err)
		*err = h->err;
	if (rc == MS_ECORRUPT || rc == MS_EUNSUPPORTED) { /* it says nothing, then */
		h->generation = (struct ms_generation){""};
		rc = MS_OK;
	}
	if (rc == MS_OK && !h->generation.s[0] && s->adopt)
		rc = history_of_head(h, err);
	return rc;
}

static enum ms_code seed_finish(struct ms_stream *s, struct ms_err *err) {
	struct ms_generation_start g = {.mode = s->info.mode};
	struct ms_pagesums *sums = ms_capture_sums(s->cap);
	struct history before;
	uint64_t sum;
	enum ms_code rc;

	if ((rc = ms_pagesums_sum(sums, s->info.db_pages, &sum, err)) != MS_OK || (rc = find_history(s, &before, err)) != MS_OK)
		return rc;
	g.base = (struct ms_dbstate){1, ms_env_now_us(s->env), sum, s->info.page_size, s->info.db_pages};
	if (s->adopt && before.state.txid && before.state.checksum == sum && before.state.db_pages == s->info.db_pages &&
	    before.state.page_size == s->info.page_size) {
		/* No local state, but the database is exactly what the newest state known of says: the history goes on. */
		/* Another owner's history is not continued but forked, in a generation of ours, so that its next upload meets our fence. */
		g.generation = s->adopt_same_owner ? before.generation : new_generation(s);
		g.base = before.state;
		struct ms_lineage fork = {g.generation, before.generation, g.base.txid, false};
		rc = put_lineage(&g, s->adopt_same_owner ? NULL : &fork, before.lineage, before.nlineage, err);
	} else if (s->adopt && s->adopt_only) {
		history_release(&before);
		s->out.fenced = true;
		return ms_err_set(err, MS_EFENCED,
				  "the replica holds generation %s up to txid %llu of %s, which this database is not, and nothing local tells how they relate; "
				  "run `migstream takeover %s` to start a new generation",
				  s->adopt_head.generation.s, (unsigned long long)s->adopt_state.txid, s->name, s->path);
	} else {
		/* The parent's pages say nothing about these, but its history is this database's, and its txids go on. */
		g.generation = new_generation(s);
		struct ms_lineage own = {.generation = g.generation};
		if (before.generation.s[0]) {
			own.parent = before.generation;
			own.fork_txid = before.state.txid ? before.state.txid : ms_lineage_base(&before.lineage[0]);
			own.seeded = true;
			g.base.txid = ms_lineage_base(&own);
			if (g.base.time_us < before.state.time_us)
				g.base.time_us = before.state.time_us;
			snprintf(s->out.note, sizeof s->out.note,
				 "generation %s follows txid %llu of %s without going on from its state: nothing of it restores before its first snapshot has ended",
				 g.generation.s, (unsigned long long)own.fork_txid, own.parent.s);
		}
		rc = put_lineage(&g, &own, before.lineage, before.generation.s[0] ? before.nlineage : 0, err);
	}
	history_release(&before);
	if (rc == MS_OK)
		rc = ms_capture_start_generation(s->cap, &g, &s->info.cookie, err);
	ms_generation_start_release(&g);
	if (rc != MS_OK)
		return rc;
	s->adopt = s->start_root = false;
	s->out.generation_now = true;
	return MS_OK;
}

/* *ret_again: the scan has to be made once more. */
static enum ms_code catchup_finish(struct ms_stream *s, bool *ret_again, struct ms_err *err) {
	const struct ms_dbstate *st = ms_capture_state(s->cap);
	uint32_t changed = ms_capture_tx_pages(s->cap);
	struct ms_dbstate older;
	enum ms_code rc;

	if (!changed && s->info.db_pages == st->db_pages) {
		ms_capture_abort(s->cap);
		s->tx_open = false;
		ms_capture_set_cookie(s->cap, &s->info.cookie);
		return MS_OK;
	}
	uint64_t sum = ms_capture_tx_checksum(s->cap);
	for (uint32_t pgno = s->info.db_pages + 1; pgno <= ms_capture_tx_extent(s->cap); pgno++) { /* what falls off the end is not in the new sum */
		uint64_t hash;
		uint8_t chain;
		if ((rc = ms_pagesums_get(ms_capture_sums(s->cap), pgno, &hash, &chain, err)) != MS_OK)
			return rc;
		sum -= hash;
	}
	/* An application may write again what was there before: the same state alone does not mean that the database went back. */
	bool back = s->info.behind || s->replaced || s->info.born_us > st->time_us, same = false;
	rc = ms_capture_find_state(s->cap, sum, s->info.db_pages, &older, err);
	if (rc == MS_OK && !back) {
		same = true;
		rc = MS_ENOTFOUND;
	}
	if (rc == MS_OK) {
		struct ms_generation_start g = {.generation = new_generation(s), .base = older, .mode = s->info.mode};
		snprintf(s->out.note, sizeof s->out.note,
			 "the database stands at txid %llu, behind txid %llu that was captured (power loss, or an older copy was put back): "
			 "generation %s forks there",
			 (unsigned long long)older.txid, (unsigned long long)st->txid, g.generation.s);
		struct ms_generation parent = ms_capture_generation(s->cap)->generation;
		if ((rc = push_lineage(s, &g, &parent, older.txid, err)) != MS_OK)
			return rc;
		rc = ms_capture_fork(s->cap, &g, &s->info.cookie, err);
		ms_generation_start_release(&g);
		s->tx_open = false;
		s->out.generation_now = true;
		return rc;
	}
	if (rc != MS_ENOTFOUND && rc != MS_EGAP && rc != MS_ECORRUPT)
		return rc;
	if (s->replaced) {
		/* Another database under the same name: a generation of its own, whose first transaction is the difference. Its start has to lie in
		 * the journal before any entry of that, and a large one has put some there: hence once more. */
		drop_tx(s);
		snprintf(s->out.note, sizeof s->out.note, "another database lies under this name: a new generation forks behind txid %llu",
			 (unsigned long long)st->txid);
		if ((rc = fork_here(s, err)) != MS_OK)
			return rc;
		s->out.generation_now = *ret_again = true;
		s->replaced = false;
		return begin_scan(s, MODE_CATCHUP, err);
	}
	struct ms_flush_meta m = {.db_pages = s->info.db_pages, .time_us = ms_env_now_us(s->env), .cookie = s->info.cookie};
	if ((rc = ms_capture_commit(s->cap, &m, MS_COMMIT_CATCHUP, s->lost_commits, err)) != MS_OK)
		return rc;
	s->tx_open = false;
	char again[80] = "";
	if (same)
		snprintf(again, sizeof again, "; the database is again as it was at txid %llu", (unsigned long long)older.txid);
	snprintf(s->out.note, sizeof s->out.note, "catch-up: txid %llu folds %s%.0lld commits, %u pages changed%s",
		 (unsigned long long)ms_capture_state(s->cap)->txid, s->lost_commits < 0 ? "an unknown number of" : "",
		 s->lost_commits < 0 ? 0LL : (long long)s->lost_commits, changed, again);
	kick(s);
	return MS_OK;
}

static enum ms_code scan_pages(struct ms_stream *s, uint32_t first, uint32_t n, struct ms_err *err) {
	struct ms_pagesums *sums = ms_capture_sums(s->cap);
	uint32_t ps = s->info.page_size, lock = ms_lock_page(ps);
	enum ms_code rc = s->source->ops->read_pages(s->source, first, n, s->slice, err);
	if (rc != MS_OK)
		goto again;
	if (s->mode == MODE_SEED)
		ms_pagesums_begin(sums);
	for (uint32_t i = 0; i < n && rc == MS_OK; i++) {
		const uint8_t *page = s->slice + (size_t)i * ps;
		if (first + i == lock)
			continue;
		rc = s->mode == MODE_SEED ? ms_pagesums_set(sums, first + i, ms_page_hash(first + i, page, ps), 0, err)
					  : ms_capture_page(s->cap, first + i, page, true, err);
	}
	if (s->mode == MODE_SEED && rc == MS_OK)
		rc = ms_pagesums_commit(sums, 0, err);
	return rc;
again: /* not pinned just now: the run has been taken off the scan, put it back */
	for (uint32_t i = 0; i < n; i++)
		ms_scan_mark(&s->scan, first + i);
	return rc;
}

/* One slice of time of a scan. Ends the scan when everything has been read at one position. */
static enum ms_code scan_step(struct ms_stream *s, struct ms_err *err) {
	uint64_t start = ms_env_mono_ns(s->env);
	enum ms_code rc = s->source->ops->skip(s->source, mark_dirty, &s->scan, &s->info, &s->out.src, err);
	if (rc != MS_OK)
		return rc;
	if (s->out.src.state == MS_SRC_LOST) { /* what was skipped is unknown: from the start, at the new position */
		enum step_mode mode = s->mode;
		s->lost_commits = -1;
		return begin_scan(s, mode, err);
	}
	if (s->out.src.state != MS_SRC_FOLLOWING)
		return MS_OK;
	ms_scan_resize(&s->scan, s->info.db_pages);
	if (s->scan.failed)
		return ms_err_set(err, MS_ENOMEM, "bitmap of %u pages", s->info.db_pages);
	uint32_t first, n, most = MS_SLICE_BYTES / s->info.page_size;
	bool final = ms_scan_main_done(&s->scan) && s->scan.ndirty <= FINAL_PAGES;
	while ((n = ms_scan_next(&s->scan, most, &first))) {
		if ((rc = scan_pages(s, first, n, err)) != MS_OK)
			return rc == MS_EBUSY ? MS_OK : rc;
		if (!final && ms_env_mono_ns(s->env) - start > SCAN_BUDGET_US * 1000ull)
			break;
	}
	s->out.src.more = true;
	if (ms_scan_left(&s->scan)) {
		s->out.src.caught_up = false;
		return MS_OK;
	}
	/* Everything has been read, and nothing was skipped since the position that info names: that is the state. */
	bool again = false;
	rc = s->mode == MODE_SEED ? seed_finish(s, err) : catchup_finish(s, &again, err);
	if (rc != MS_OK || again)
		return rc;
	ms_scan_release(&s->scan);
	free(s->slice);
	s->slice = NULL;
	s->replaced = s->info.behind = false; /* what was true at the attach says nothing of later doubts */
	s->info.born_us = 0;
	s->lost_commits = -1;
	s->mode = MODE_FOLLOW;
	return MS_OK;
}

static enum ms_code follow_step(struct ms_stream *s, struct ms_err *err) {
	enum ms_code rc = s->source->ops->step(s->source, &s->sink, &s->out.src, err);
	if (rc == MS_EGAP) { /* the sink met a page it cannot know */
		s->lost_commits = -1;
		s->out.src.state = MS_SRC_LOST;
		rc = MS_OK;
	}
	if (rc != MS_OK)
		return rc;
	if (s->out.src.state == MS_SRC_LOST) {
		struct ms_step_result lost = s->out.src;
		if (lost.why[0] && !s->out.note[0])
			snprintf(s->out.note, sizeof s->out.note, "%s", lost.why);
		s->lost_commits = lost.lost_commits;
		rc = begin_scan(s, MODE_CATCHUP, err);
		s->out.src.more = true;
		return rc;
	}
	if (s->out.src.state != MS_SRC_FOLLOWING)
		return MS_OK;
	struct ms_err e = MS_ERR_INIT;
	if ((rc = ms_stream_snapshots_fill(s, FILL_BUDGET_US, &s->out.snapshots_failed, &e)) != MS_OK) {
		s->out.damaged = rc == MS_ECORRUPT;
		snprintf(s->out.note, sizeof s->out.note, "snapshot: %.480s", e.msg);
		/* A page that differs is caught up; page sums that do not add up cannot be trusted at all: a new generation. */
		if (rc == MS_ECORRUPT || rc == MS_EGAP) {
			s->lost_commits = -1;
			return begin_scan(s, rc == MS_EGAP ? MODE_SEED : MODE_CATCHUP, err);
		}
	}
	if ((rc = ms_stream_catchups_fill(s, &e)) != MS_OK) {
		s->out.catchup_failed = true;
		s->out.damaged = rc == MS_ECORRUPT;
		snprintf(s->out.note, sizeof s->out.note, "catch-up of a replica: %.460s", e.msg);
		if (rc == MS_ECORRUPT) {
			s->lost_commits = -1;
			return begin_scan(s, MODE_CATCHUP, err);
		}
	}
	if (ms_capture_wants_checkpoint(s->cap))
		return ms_capture_checkpoint(s->cap, err);
	return MS_OK;
}

static void publish(struct ms_stream *s) {
	if (!s->cap) {
		s->out.needs_seq = s->pub.needs_seq; /* the mark of the page sums has not gone back */
		return;
	}
	s->out.state = *ms_capture_state(s->cap);
	s->out.generation = ms_capture_generation(s->cap)->generation;
	s->out.last_seq = ms_capture_last_seq(s->cap);
	s->out.needs_seq = ms_capture_needs_seq(s->cap);
	ms_capture_stats(s->cap, &s->out.stats);
	s->out.done_pages = s->scan.next ? s->scan.next - 1 : 0;
	s->out.all_pages = s->scan.db_pages;
}

/* The journal waits for page sums that nobody else would write soon: the database is idle, or not there, or the journal is full. */
static enum ms_code checkpoint_wanted(struct ms_stream *s, struct ms_err *err) {
	if (!s->cap || s->tx_open || s->mode == MODE_SEED || !atomic_exchange(&s->checkpoint_wanted, false))
		return MS_OK;
	return ms_capture_checkpoint(s->cap, err);
}

void ms_stream_step_run(void *stream) {
	struct ms_stream *s = stream;
	struct ms_err err = MS_ERR_INIT;
	enum ms_code rc = MS_OK;

	memset(&s->out, 0, sizeof s->out);
	s->out.src.state = MS_SRC_FOLLOWING;
	s->out.src.next_poll_us = 1000000;
	if (s->task == TASK_RELEASE) {
		to_detached(s);
		if (s->cap)
			rc = ms_capture_checkpoint(s->cap, &err);
		goto out;
	}
	if (!s->cap && (rc = open_capture(s, &err)) != MS_OK)
		goto out;
	if (s->task == TASK_OPEN)
		goto out;
	/* A full journal has no room for what comes now, a scan's transaction above all, before it is purged. */
	if ((rc = checkpoint_wanted(s, &err)) != MS_OK)
		goto out;
	if (s->start_fork) {
		if ((rc = fork_here(s, &err)) != MS_OK) {
			s->out.blocked = true;
			goto out;
		}
		s->start_fork = false;
		s->out.generation_now = true;
	}
	if (s->mode == MODE_DETACHED) {
		rc = attach(s, &err, &s->out.blocked);
		s->out.src.more = rc == MS_OK && s->mode != MODE_DETACHED;
		goto out;
	}
	rc = s->mode == MODE_FOLLOW ? follow_step(s, &err) : scan_step(s, &err);
	if (rc != MS_OK) {
		to_detached(s);
		s->out.blocked = !s->out.fenced && rc != MS_EBUSY && rc != MS_EMODE;
		goto out;
	}
	switch (s->out.src.state) {
	case MS_SRC_FOLLOWING:
	case MS_SRC_LOST:
	case MS_SRC_BUSY:
		break;
	case MS_SRC_REPLACED:
		s->replaced = true;
		s->out.src.more = true;
		/* fall through */
	default:
		to_detached(s);
	}
out:
	if (rc == MS_OK)
		rc = checkpoint_wanted(s, &err);
	if (rc != MS_OK)
		s->out.err = err;
	publish(s);
}
