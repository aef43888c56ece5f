/*
 * From page flush to journal.
 *
 * Happy path of one commit: begin; for each page: hash it, look up the hash the database had there, encode stored, full or delta against
 * the version with that hash, note the new hash in the page sums' transaction; commit: account for growth and shrink, append the commit record,
 * append one journal entry, commit the page sums under that entry's sequence. Nothing here syncs: the journal's group commit makes the
 * entry durable, and page sums are never written ahead of it (core/pagesums.h).
 *
 * A transaction above MS_CAPTURE_PAYLOAD becomes several entries that carry MS_ENTRY_CONTINUES; readers drop a run of them
 * that is followed by a FIRST entry or a generation, so abort needs no bytes of its own.
 */
#include "core/capture_internal.h"

#include <stdlib.h>

#include "core/hash.h"

#define CHECKPOINT_BYTES (32u << 20) /* journal bytes that a restart replays at most, about */

const struct ms_generation_start *ms_capture_generation(const struct ms_capture *c) { return &c->gen; }
const struct ms_dbstate *ms_capture_state(const struct ms_capture *c) { return &c->state; }
const struct ms_cookie *ms_capture_cookie(const struct ms_capture *c) { return &c->cookie; }
uint64_t ms_capture_last_seq(const struct ms_capture *c) { return c->last_seq; }
uint64_t ms_capture_needs_seq(const struct ms_capture *c) { return atomic_load(&c->needs_seq); }
void ms_capture_stats(const struct ms_capture *c, struct ms_capture_stats *ret) { *ret = c->stats; }
struct ms_pagesums *ms_capture_sums(struct ms_capture *c) { return c->sums; }
uint32_t ms_capture_tx_pages(const struct ms_capture *c) { return c->tx_pages; }
uint32_t ms_capture_tx_extent(const struct ms_capture *c) { return c->tx_high > c->state.db_pages ? c->tx_high : c->state.db_pages; }
uint64_t ms_capture_tx_checksum(const struct ms_capture *c) { return c->tx_checksum; }
void ms_capture_set_cookie(struct ms_capture *c, const struct ms_cookie *cookie) { c->cookie = *cookie; }

void ms_capture_set_prev(struct ms_capture *c, ms_capture_prev prev, void *arg) {
	c->prev = prev;
	c->prev_arg = arg;
}

void ms_capture_set_touch(struct ms_capture *c, void (*touch)(void *arg, uint32_t pgno), void *arg) {
	c->touch = touch;
	c->touch_arg = arg;
}

static enum ms_code cache_prepare(struct ms_capture *c, struct ms_err *err) {
	uint32_t ps = c->state.page_size;
	if (c->cache_page_size == ps)
		return MS_OK;
	free(c->cache);
	free(c->cache_data);
	free(c->scratch);
	c->cache_page_size = 0;
	c->cache_slots = MS_CAPTURE_CACHE / ps;
	c->cache = calloc(c->cache_slots, sizeof *c->cache);
	c->cache_data = malloc((size_t)c->cache_slots * ps);
	c->scratch = malloc(ps);
	if (!c->cache || !c->cache_data || !c->scratch)
		return ms_err_set(err, MS_ENOMEM, "page cache of %u slots of %u bytes", c->cache_slots, ps);
	c->cache_page_size = ps;
	return MS_OK;
}

static uint32_t cache_slot(const struct ms_capture *c, uint32_t pgno) {
	return (uint32_t)(((uint64_t)pgno * 0x9e3779b1u) % c->cache_slots);
}

/* The page's version whose hash is `want`, or NULL. */
static const uint8_t *find_base(struct ms_capture *c, uint32_t pgno, uint64_t want) {
	uint32_t ps = c->state.page_size, slot = cache_slot(c, pgno);
	if (c->cache[slot].pgno == pgno && c->cache[slot].hash == want)
		return c->cache_data + (size_t)slot * ps;
	if (c->prev && c->prev(c->prev_arg, pgno, c->scratch) && ms_page_hash(pgno, c->scratch, ps) == want)
		return c->scratch;
	return NULL;
}

static void cache_put(struct ms_capture *c, uint32_t pgno, uint64_t hash, const uint8_t *page) {
	uint32_t ps = c->state.page_size, slot = cache_slot(c, pgno);
	memcpy(c->cache_data + (size_t)slot * ps, page, ps);
	c->cache[slot] = (struct ms_cached_page){pgno, hash};
}

static enum ms_code append_entry(struct ms_capture *c, uint64_t txid, const struct ms_cookie *cookie, bool last, struct ms_err *err) {
	uint8_t header[MS_RUN_HEADER_MAX];
	unsigned flags = (c->entry_written ? 0 : MS_RUN_FIRST) | (last ? MS_RUN_LAST : 0);
	size_t n = ms_run_header_put(header, flags, txid, cookie);
	struct iovec iov[2] = {{header, n}, {c->payload.data, c->payload.len}};
	uint64_t seq;
	enum ms_code rc = ms_journal_append(c->journal, c->db, strlen(c->db), last ? 0 : MS_ENTRY_CONTINUES, iov, 2, &seq, err);
	if (rc != MS_OK)
		return rc;
	c->last_seq = seq;
	c->entry_written = true;
	c->tx_bytes += n + c->payload.len;
	ms_buf_clear(&c->payload);
	return MS_OK;
}

void ms_capture_hurry(struct ms_capture *c, bool on) { ms_page_encoder_hurry(c->enc, on); }

enum ms_code ms_capture_begin(struct ms_capture *c, struct ms_err *err) {
	if (!c->gen.generation.s[0] || c->in_tx)
		return ms_err_set(err, MS_EINVAL, "%s: begin without a state or inside a transaction", c->db);
	enum ms_code rc = cache_prepare(c, err);
	if (rc != MS_OK)
		return rc;
	ms_pagesums_begin(c->sums);
	ms_buf_clear(&c->payload);
	c->in_tx = true;
	c->entry_written = false;
	c->tx_checksum = c->state.checksum;
	c->tx_pages = c->tx_grown = c->tx_high = 0;
	c->tx_raw = c->tx_bytes = 0;
	return MS_OK;
}

void ms_capture_abort(struct ms_capture *c) {
	if (!c->in_tx)
		return;
	ms_pagesums_abort(c->sums);
	ms_buf_clear(&c->payload);
	c->in_tx = false;
}

enum ms_code ms_capture_page(struct ms_capture *c, uint32_t pgno, const uint8_t *page, bool no_delta, struct ms_err *err) {
	uint32_t ps = c->state.page_size;
	uint64_t old;
	uint8_t chain;
	enum ms_code rc;

	if (c->touch)
		c->touch(c->touch_arg, pgno);
	if (pgno == ms_lock_page(ps))
		return MS_OK;
	if ((rc = ms_pagesums_get(c->sums, pgno, &old, &chain, err)) != MS_OK)
		return rc;
	uint64_t hash = ms_page_hash(pgno, page, ps);
	if (hash == old) { /* written again with the same bytes: no record */
		c->stats.unchanged++;
		return MS_OK;
	}
	if (c->payload.len + ps + 64 > MS_CAPTURE_PAYLOAD && c->payload.len &&
	    (rc = append_entry(c, c->state.txid + 1, NULL, false, err)) != MS_OK)
		return rc;
	const uint8_t *base = NULL;
	if (!no_delta && old && chain < MS_MAX_CHAIN)
		base = find_base(c, pgno, old);
	enum ms_record_type type;
	size_t before = c->payload.len;
	if ((rc = ms_page_encode(c->enc, pgno, page, ps, base, hash, &c->payload, &type, err)) != MS_OK)
		return rc;
	if ((rc = ms_pagesums_set(c->sums, pgno, hash, ms_record_needs_base(type) ? (uint8_t)(chain + 1) : 0, err)) != MS_OK) {
		c->payload.len = before;
		return rc;
	}
	if (pgno > c->tx_high)
		c->tx_high = pgno;
	cache_put(c, pgno, hash, page);
	c->tx_checksum += hash - old;
	c->tx_pages++;
	c->tx_raw += ps;
	if (pgno > c->state.db_pages && !old)
		c->tx_grown++;
	switch (type) {
	case MS_REC_DELTA:
	case MS_REC_PATCH:
		c->stats.deltas++;
		break;
	case MS_REC_FULL:
		c->stats.fulls++;
		break;
	default:
		c->stats.stored++;
	}
	return MS_OK;
}

/* A commit may grow the database past pages that have no frame: they are read from the source, never assumed zero. */
static enum ms_code fill_grown(struct ms_capture *c, uint32_t db_pages, struct ms_err *err) {
	uint32_t ps = c->state.page_size, lock = ms_lock_page(ps), from = c->state.db_pages;
	if (db_pages <= from)
		return MS_OK;
	uint32_t want = db_pages - from - (lock > from && lock <= db_pages ? 1 : 0);
	if (c->tx_grown >= want)
		return MS_OK;
	uint8_t *page = malloc(ps);
	if (!page)
		return ms_err_set(err, MS_ENOMEM, "one page");
	enum ms_code rc = MS_OK;
	for (uint32_t pgno = from + 1; pgno <= db_pages && rc == MS_OK; pgno++) {
		uint64_t hash;
		uint8_t chain;
		if (pgno == lock)
			continue;
		if ((rc = ms_pagesums_get(c->sums, pgno, &hash, &chain, err)) != MS_OK || hash)
			continue;
		if (!c->prev || !c->prev(c->prev_arg, pgno, page))
			rc = ms_err_set(err, MS_EGAP, "%s: page %u came into being without a frame and cannot be read", c->db, pgno);
		else
			rc = ms_capture_page(c, pgno, page, true, err);
	}
	free(page);
	return rc;
}

enum ms_code ms_capture_commit(struct ms_capture *c, const struct ms_flush_meta *m, uint32_t commit_flags, int64_t lost_commits,
			       struct ms_err *err) {
	enum ms_code rc;
	if (!c->in_tx)
		return ms_err_set(err, MS_EINVAL, "%s: commit outside a transaction", c->db);
	if ((rc = fill_grown(c, m->db_pages, err)) != MS_OK)
		goto fail;
	if (m->db_pages < ms_capture_tx_extent(c)) {
		uint64_t dropped;
		if ((rc = ms_pagesums_truncate(c->sums, ms_capture_tx_extent(c), m->db_pages, &dropped, err)) != MS_OK)
			goto fail;
		c->tx_checksum -= dropped;
	}
	int64_t time_us = m->time_us;
	if (time_us < c->state.time_us) {
		if (c->state.time_us - time_us > c->stats.clock_back_us)
			c->stats.clock_back_us = c->state.time_us - time_us;
		time_us = c->state.time_us;
	}
	struct ms_commit rec = {.flags = commit_flags, .txid = c->state.txid + 1, .time_us = time_us, .page_size = c->state.page_size,
				.db_pages = m->db_pages, .checksum = c->tx_checksum, .lost_commits = lost_commits, .attrs = m->attrs,
				.attrs_len = m->attrs_len};
	if ((rc = ms_commit_encode(&rec, &c->payload, err)) != MS_OK || (rc = append_entry(c, rec.txid, &m->cookie, true, err)) != MS_OK)
		goto fail;
	/* The entry is in the journal: from here the transaction exists, so a failure of the page sums is one of the state. */
	c->state = (struct ms_dbstate){rec.txid, time_us, rec.checksum, rec.page_size, rec.db_pages};
	c->cookie = m->cookie;
	c->in_tx = false;
	c->bytes_since_mark += c->tx_bytes;
	c->stats.commits++;
	c->stats.frames += c->tx_pages;
	c->stats.raw_bytes += c->tx_raw;
	c->stats.record_bytes += c->tx_bytes;
	if (commit_flags & MS_COMMIT_CATCHUP) {
		c->stats.catchups++;
		c->stats.lost_commits += lost_commits > 0 ? (uint64_t)lost_commits : 0;
		c->stats.blind_catchups += lost_commits < 0;
	}
	return ms_pagesums_commit(c->sums, c->last_seq, err);
fail:
	ms_capture_abort(c);
	return rc;
}

bool ms_capture_wants_checkpoint(const struct ms_capture *c) {
	return c->gen.generation.s[0] && !c->in_tx && c->bytes_since_mark > CHECKPOINT_BYTES;
}

enum ms_code ms_capture_checkpoint(struct ms_capture *c, struct ms_err *err) {
	uint8_t blob[MS_SUMS_BLOB_MAX];
	if (!c->gen.generation.s[0] || c->in_tx)
		return MS_OK;
	size_t n = ms_capture_blob_encode(c, blob, err);
	if (!n)
		return err ? err->code : MS_ETOOBIG;
	/* What is durable behind our last entry is other databases': an idle one must not hold up the journal for them. */
	uint64_t seq = ms_journal_durable_seq(c->journal);
	if (seq < c->last_seq)
		seq = c->last_seq;
	enum ms_code rc = ms_pagesums_checkpoint(c->sums, seq, blob, n, err);
	if (rc != MS_OK)
		return rc;
	c->bytes_since_mark = 0;
	atomic_store(&c->needs_seq, seq + 1);
	return MS_OK;
}

static enum ms_code gen_copy(struct ms_generation_start *to, const struct ms_generation_start *from, struct ms_err *err) {
	uint32_t n = from->nlineage > MS_CAPTURE_LINEAGE ? MS_CAPTURE_LINEAGE : from->nlineage;
	struct ms_lineage *l = n ? malloc(n * sizeof *l) : NULL;
	if (n && !l)
		return ms_err_set(err, MS_ENOMEM, "lineage");
	if (n)
		memcpy(l, from->lineage, n * sizeof *l);
	free(to->lineage);
	*to = *from;
	to->lineage = l;
	to->nlineage = n;
	return MS_OK;
}

/*
 * Order: page sums with a mark that already names the new generation, then the journal's generation entry, durably. A crash between
 * the two leaves a mark whose generation has no entry yet: recovery writes the entry again.
 */
static enum ms_code enter_generation(struct ms_capture *c, const struct ms_generation_start *g, const struct ms_cookie *cookie,
				     struct ms_err *err) {
	enum ms_code rc = gen_copy(&c->gen, g, err);
	if (rc != MS_OK)
		return rc;
	c->state = g->base;
	c->cookie = *cookie;
	if (!c->last_seq)
		c->last_seq = ms_journal_next_seq(c->journal) - 1;
	c->gen_pending = true;
	if ((rc = ms_capture_checkpoint(c, err)) != MS_OK)
		return rc;
	return ms_capture_journal_generation(c, err);
}

enum ms_code ms_capture_journal_generation(struct ms_capture *c, struct ms_err *err) {
	struct ms_buf b;
	uint64_t seq;
	ms_buf_init(&b, 64 << 10);
	enum ms_code rc = ms_generation_start_encode(&c->gen, &b, err);
	if (rc == MS_OK) {
		struct iovec iov = {b.data, b.len};
		rc = ms_journal_append(c->journal, c->db, strlen(c->db), 0, &iov, 1, &seq, err);
	}
	ms_buf_release(&b);
	if (rc != MS_OK)
		return rc;
	c->last_seq = seq;
	if ((rc = ms_journal_sync(c->journal, seq, err)) == MS_OK)
		c->gen_pending = false;
	return rc;
}

enum ms_code ms_capture_start_generation(struct ms_capture *c, const struct ms_generation_start *g, const struct ms_cookie *cookie,
					 struct ms_err *err) {
	if (c->in_tx)
		return ms_err_set(err, MS_EINVAL, "%s: new generation inside a transaction", c->db);
	return enter_generation(c, g, cookie, err);
}

enum ms_code ms_capture_fork(struct ms_capture *c, const struct ms_generation_start *g, const struct ms_cookie *cookie,
			     struct ms_err *err) {
	enum ms_code rc;
	uint64_t dropped;
	if (!c->in_tx)
		return ms_err_set(err, MS_EINVAL, "%s: fork outside a transaction", c->db);
	if (g->base.db_pages < ms_capture_tx_extent(c) &&
	    (rc = ms_pagesums_truncate(c->sums, ms_capture_tx_extent(c), g->base.db_pages, &dropped, err)) != MS_OK)
		return rc;
	/* The hashes belong to no entry of their own: they may be written once all that is in the journal now is durable. */
	if ((rc = ms_pagesums_commit(c->sums, c->last_seq, err)) != MS_OK)
		return rc;
	c->in_tx = false;
	ms_buf_clear(&c->payload);
	return enter_generation(c, g, cookie, err);
}

void ms_capture_free(struct ms_capture *c) {
	if (!c)
		return;
	ms_pagesums_close(c->sums);
	ms_page_encoder_free(c->enc);
	ms_buf_release(&c->payload);
	ms_generation_start_release(&c->gen);
	free(c->cache);
	free(c->cache_data);
	free(c->scratch);
	free(c->sums_path);
	free(c->db);
	free(c);
}
