#include "core/catchup_run.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/hash.h"
#include "core/owed.h"
#include "core/proven_read.h"
#include "core/scan.h"

#define RUN_PAGES 64u /* most pages of one read */

/* FOLDING: the journal up to the state of the start is being folded into the owed pages. */
enum phase { FOLDING, FILLING, READY, ENCODING, WAIT_DURABLE, PUTTING, ENDED };

struct ms_catchup_run {
	struct ms_catchup_run **list, *next; /* of those that were given up */
	struct ms_env *env;
	struct ms_journal *journal;
	struct ms_capture *cap;
	struct ms_worker *worker;
	int level;
	bool codec_none;
	void (*done)(void *arg, struct ms_catchup_run *r, const struct ms_catchup_result *);
	void (*wake)(void *arg);
	void *arg;

	_Atomic enum phase phase; /* the source job acts in FILLING only */
	bool cancelled;
	bool unsent;	   /* the part in raw was put in vain; its pages are owed still */
	_Atomic bool held; /* until the worker tries again */
	uint64_t fold_to; /* sequence behind the state of the start */
	struct ms_scan scan;
	struct ms_dbstate base; /* of the cursor */
	uint64_t first_pages, sent_pages; /* owed at the start; put so far */

	uint8_t *raw;
	uint32_t raw_cap, last_cap; /* bytes: of raw; that the last part may hold */
	uint32_t *pgno;
	uint32_t n;
	uint64_t seq; /* of the state that raw was read at */
	struct ms_dbstate state;
	struct ms_buf records;
	struct ms_catchup_part part;
	struct ms_job job;
	struct ms_err job_err;
	struct ms_catchup_result result;
};

static void release(struct ms_catchup_run *r) {
	ms_scan_release(&r->scan);
	ms_buf_release(&r->records);
	free(r->raw);
	free(r->pgno);
	free(r);
}

void ms_catchup_run_abandon(struct ms_catchup_run *r) {
	struct ms_catchup_run **at = r->list;
	while (at && *at != r)
		at = &(*at)->next;
	if (at)
		*at = r->next;
	release(r);
}

static void end(struct ms_catchup_run *r, const struct ms_err *err) {
	r->phase = ENDED;
	if (err)
		r->result.err = *err;
	if (!r->cancelled) {
		r->done(r->arg, r, &r->result);
		return;
	}
	void (*wake)(void *) = r->wake;
	void *arg = r->arg;
	ms_catchup_run_abandon(r);
	wake(arg);
}

static enum ms_code reserve(struct ms_catchup_run *r, uint32_t bytes, struct ms_err *err) {
	uint32_t ps = r->base.page_size;
	if (bytes <= r->raw_cap)
		return MS_OK;
	free(r->raw);
	free(r->pgno);
	r->raw_cap = 0;
	r->raw = malloc(bytes);
	r->pgno = malloc(((size_t)bytes / ps + 1) * sizeof *r->pgno);
	if (!r->raw || !r->pgno)
		return ms_err_set(err, MS_ENOMEM, "catch-up of %u bytes", bytes);
	r->raw_cap = bytes;
	return MS_OK;
}

enum ms_code ms_catchup_run_new(struct ms_env *env, struct ms_journal *j, struct ms_capture *cap, struct ms_worker *w, int level, bool codec_none,
				void (*done)(void *arg, struct ms_catchup_run *r, const struct ms_catchup_result *), void (*wake)(void *arg), void *arg,
				struct ms_catchup_run **ret, struct ms_err *err) {
	const struct ms_dbstate *st = ms_capture_state(cap);
	struct ms_catchup_run *r = calloc(1, sizeof *r);
	if (!r || ms_scan_init(&r->scan, st->db_pages, err) != MS_OK) {
		free(r);
		return ms_err_set(err, MS_ENOMEM, "catch-up of %u pages", st->db_pages);
	}
	r->env = env;
	r->journal = j;
	r->cap = cap;
	r->worker = w;
	r->level = level;
	r->codec_none = codec_none;
	r->done = done;
	r->wake = wake;
	r->arg = arg;
	r->phase = FOLDING;
	r->fold_to = ms_capture_last_seq(cap) + 1;
	r->last_cap = MS_CATCHUP_PART;
	r->scan.next = st->db_pages + 1; /* nothing is read but what is owed, and what comes into being */
	ms_buf_init(&r->records, 2 * MS_CATCHUP_LAST + (1u << 20));
	*ret = r;
	return MS_OK;
}

bool ms_catchup_run_wants_fill(const struct ms_catchup_run *r) { return r->phase == FILLING && !r->held; }
bool ms_catchup_run_ended(const struct ms_catchup_run *r) { return r->phase == ENDED; }
void ms_catchup_run_touch(struct ms_catchup_run *r, uint32_t pgno) { ms_scan_mark(&r->scan, pgno); }

/* ---- source job ---- */

static void put_back(struct ms_catchup_run *r, uint32_t n) {
	for (uint32_t i = 0; i < n; i++)
		ms_scan_mark(&r->scan, r->pgno[i]);
}

enum ms_code ms_catchup_run_fill(struct ms_catchup_run *r, struct ms_source *src, struct ms_err *err) {
	const struct ms_dbstate *st = ms_capture_state(r->cap);
	uint32_t ps = st->page_size, first, count;
	enum ms_code rc;
	if (!ms_catchup_run_wants_fill(r))
		return MS_OK;
	if (r->unsent)
		put_back(r, r->n);
	r->unsent = false;
	ms_scan_resize(&r->scan, st->db_pages);
	if (r->scan.failed || ps != r->base.page_size)
		return ms_err_set(err, MS_ENOMEM, "bitmap of a catch-up");
	/* Pages come faster than they are put: more of them have to fit into the last part. */
	uint64_t left = (uint64_t)ms_scan_left(&r->scan) * ps;
	if (left > r->last_cap && r->sent_pages > 2 * r->first_pages && r->last_cap < MS_CATCHUP_LAST) {
		r->last_cap *= 2;
		r->first_pages = r->sent_pages;
	}
	uint32_t most = left <= r->last_cap && left > MS_CATCHUP_PART ? (uint32_t)left : MS_CATCHUP_PART;
	if ((rc = reserve(r, most, err)))
		return rc;
	most /= ps;
	r->n = 0;
	while (r->n < most && (count = ms_scan_next(&r->scan, most - r->n < RUN_PAGES ? most - r->n : RUN_PAGES, &first))) {
		for (uint32_t i = 0; i < count; i++)
			r->pgno[r->n + i] = first + i;
		if ((rc = ms_proven_read(r->cap, src, first, count, r->raw + (size_t)r->n * ps, err))) {
			put_back(r, r->n + count);
			return rc;
		}
		r->n += count;
	}
	r->state = *st;
	r->seq = ms_capture_last_seq(r->cap);
	r->part = (struct ms_catchup_part){.base = r->base, .last = !ms_scan_left(&r->scan)};
	r->phase = READY;
	return MS_OK;
}

/* ---- loop thread ---- */

static void put_done(void *arg, const struct ms_err *err) {
	struct ms_catchup_run *r = arg;
	bool over = err && (err->code == MS_EFENCED || err->code == MS_ECANCELED || err->code == MS_ETOOBIG || err->code == MS_EINVAL);
	if (r->cancelled || over) {
		end(r, over ? err : NULL);
		return;
	}
	if (err && err->code) {
		r->held = true;
		r->unsent = true;
		r->phase = FILLING;
		return;
	}
	r->result.pages += r->n;
	r->result.bytes += r->records.len;
	r->sent_pages += r->n;
	ms_buf_release(&r->records);
	ms_buf_init(&r->records, 2 * MS_CATCHUP_LAST + (1u << 20));
	if (r->part.last) {
		r->result.from_txid = r->base.txid + 1;
		r->result.to_txid = r->state.txid;
		end(r, NULL);
		return;
	}
	r->phase = FILLING;
	r->wake(r->arg);
}

static void encode_run(void *arg) {
	struct ms_catchup_run *r = arg;
	uint32_t ps = r->base.page_size, lock = ms_lock_page(ps);
	enum ms_code rc = MS_OK;
	r->job_err = MS_ERR_INIT;
	ms_buf_clear(&r->records);
	struct ms_page_encoder *enc = ms_page_encoder_new(r->level, r->codec_none);
	if (!enc)
		rc = ms_err_set(&r->job_err, MS_ENOMEM, "catch-up");
	for (uint32_t i = 0; i < r->n && !rc; i++) {
		const uint8_t *page = r->raw + (size_t)i * ps;
		enum ms_record_type type;
		if (r->pgno[i] == lock)
			continue;
		rc = ms_page_encode(enc, r->pgno[i], page, ps, NULL, ms_page_hash(r->pgno[i], page, ps), &r->records, &type, &r->job_err);
		r->part.frames++;
	}
	ms_page_encoder_free(enc);
	if (!rc && r->part.last) {
		struct ms_commit c = {.flags = MS_COMMIT_CATCHUP,
				      .txid = r->state.txid,
				      .time_us = r->state.time_us,
				      .page_size = ps,
				      .db_pages = r->state.db_pages,
				      .checksum = r->state.checksum,
				      .lost_commits = (int64_t)(r->state.txid - r->base.txid)};
		rc = ms_commit_encode(&c, &r->records, &r->job_err);
	}
	if (!rc)
		r->job_err = MS_ERR_INIT;
	r->part.records = r->records.data;
	r->part.len = r->records.len;
	r->part.end = r->state;
	r->part.seq = r->seq + 1;
}

static void encode_done(void *arg) {
	struct ms_catchup_run *r = arg;
	if (r->cancelled || r->job_err.code) {
		end(r, r->job_err.code ? &r->job_err : NULL);
		return;
	}
	/* A part of nothing but the lock page is no object. */
	if (!r->part.frames && !r->part.last) {
		r->phase = FILLING;
		r->wake(r->arg);
		return;
	}
	r->phase = WAIT_DURABLE;
	ms_catchup_run_durable(r, ms_journal_durable_seq(r->journal));
}

void ms_catchup_run_durable(struct ms_catchup_run *r, uint64_t seq) {
	if (r->phase != WAIT_DURABLE)
		return;
	if (seq < r->seq) {
		ms_journal_kick(r->journal);
		return;
	}
	r->phase = PUTTING;
	ms_worker_put_catchup(r->worker, &r->part, put_done, r);
}

/* The owed pages are complete up to the state of the start; what was written since has been told by touch(). */
static void take_owed(struct ms_catchup_run *r) {
	const struct ms_owed *o = ms_worker_owed(r->worker);
	if (!o || !ms_worker_owes(r->worker)) {
		struct ms_err e = MS_ERR_INIT;
		if (o || !ms_worker_owes(r->worker)) {
			(void)ms_err_set(&e, MS_ECANCELED, "nothing is owed any more");
			end(r, &e);
		}
		return; /* a fold is under way */
	}
	if (o->i.next_seq < r->fold_to) {
		if (ms_journal_durable_seq(r->journal) + 1 < r->fold_to)
			ms_journal_kick(r->journal);
		else
			ms_worker_let_go(r->worker, r->fold_to);
		return;
	}
	r->base = *ms_worker_position(r->worker);
	for (uint32_t p = 1; p <= o->nbits && p <= r->scan.db_pages; p++) {
		if ((p - 1) % 8 == 0 && !o->bits[(p - 1) / 8])
			p += 7;
		else if (ms_owed_has(o, p))
			ms_scan_mark(&r->scan, p);
	}
	r->first_pages = ms_scan_left(&r->scan);
	r->phase = FILLING;
	r->wake(r->arg);
}

void ms_catchup_run_advance(struct ms_catchup_run *r) {
	if (r->phase == FOLDING)
		take_owed(r);
	if (r->held && ms_worker_ready(r->worker)) {
		r->held = false;
		r->wake(r->arg);
	}
	if (r->phase != READY)
		return;
	if (r->state.txid <= r->base.txid) { /* what was folded came to nothing: no part of it may be put */
		struct ms_err e = MS_ERR_INIT;
		(void)ms_err_set(&e, MS_ECANCELED, "the database stands where the replica does");
		ms_worker_nothing_owed(r->worker);
		end(r, &e);
		return;
	}
	r->phase = ENCODING;
	r->job = (struct ms_job){.run = encode_run, .done = encode_done, .arg = r};
	r->env->ops->submit(r->env, MS_LANE_CPU, &r->job);
}

void ms_catchup_run_drop(struct ms_catchup_run *r, struct ms_catchup_run **list) {
	if (!r)
		return;
	r->cancelled = true;
	if (r->phase != ENCODING && r->phase != PUTTING) {
		release(r);
		return;
	}
	r->list = list;
	r->next = *list;
	*list = r;
}
