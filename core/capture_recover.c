/*
 * Opening a capture: page sums' mark, then replay of the journal behind it.
 *
 * The mark's blob ("everything up to sequence S is in the page sums") is, all little-endian:
 *   u8 version (1) | u8 flags (1: the generation's entry may not be in the journal yet) | u64 last sequence | u64 txid | i64 time us |
 *   u64 checksum | u32 page size | u32 pages | u8 n | n bytes cookie | rest: the generation as in its journal entry (u8 2, CBOR)
 *
 * Replay sets hashes from the records without decoding a page; it is idempotent, because a block of page sums may already hold
 * later hashes than the mark says. What follows is proven: the sum over all page hashes must be the last commit's checksum.
 * Anything that does not fit drops the state: the stream then starts a new generation, loudly.
 */
#include "core/capture_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define SUMS_CACHE (1u << 20)
#define BLOB_FIXED 43

size_t ms_capture_blob_encode(const struct ms_capture *c, uint8_t blob[MS_SUMS_BLOB_MAX], struct ms_err *err) {
	struct ms_buf b;
	ms_buf_init(&b, MS_SUMS_BLOB_MAX);
	uint8_t head[BLOB_FIXED] = {1, c->gen_pending ? 1 : 0};
	ms_put_le64(head + 2, c->last_seq);
	ms_put_le64(head + 10, c->state.txid);
	ms_put_le64(head + 18, (uint64_t)c->state.time_us);
	ms_put_le64(head + 26, c->state.checksum);
	ms_put_le32(head + 34, c->state.page_size);
	ms_put_le32(head + 38, c->state.db_pages);
	head[42] = c->cookie.len;
	size_t n = 0;
	if (ms_buf_append(&b, head, sizeof head, err) == MS_OK && ms_buf_append(&b, c->cookie.data, c->cookie.len, err) == MS_OK &&
	    ms_generation_start_encode(&c->gen, &b, err) == MS_OK) {
		memcpy(blob, b.data, b.len);
		n = b.len;
	}
	ms_buf_release(&b);
	return n;
}

enum ms_code ms_capture_blob_decode(struct ms_capture *c, const uint8_t *p, size_t n, struct ms_err *err) {
	struct ms_stream_entry e;
	if (n < BLOB_FIXED || p[0] != 1 || p[42] > MS_COOKIE_MAX || n < BLOB_FIXED + (size_t)p[42])
		return ms_err_set(err, MS_ECORRUPT, "%s: mark of %zu bytes does not parse", c->sums_path, n);
	enum ms_code rc = ms_stream_entry_parse(p + BLOB_FIXED + p[42], n - BLOB_FIXED - p[42], &e, err);
	if (rc != MS_OK)
		return rc;
	if (e.kind != MS_ENTRY_GENERATION) {
		ms_stream_entry_release(&e);
		return ms_err_set(err, MS_ECORRUPT, "%s: mark holds no generation", c->sums_path);
	}
	ms_generation_start_release(&c->gen);
	c->gen = e.start; /* takes the lineage */
	c->gen_pending = p[1] & 1;
	c->last_seq = ms_get_le64(p + 2);
	c->state = (struct ms_dbstate){ms_get_le64(p + 10), (int64_t)ms_get_le64(p + 18), ms_get_le64(p + 26), ms_get_le32(p + 34),
				       ms_get_le32(p + 38)};
	c->cookie.len = p[42];
	memcpy(c->cookie.data, p + BLOB_FIXED, p[42]);
	return MS_OK;
}

static enum ms_code replay_records(struct ms_capture *c, const struct ms_stream_entry *e, uint64_t seq, struct ms_err *err) {
	enum ms_code rc;
	const uint8_t *p = e->records;
	size_t n = e->records_len;
	while (n) {
		struct ms_record r;
		size_t used;
		if ((rc = ms_record_parse(p, n, &r, &used, err)) != MS_OK)
			return rc;
		p += used;
		n -= used;
		if (r.type != MS_REC_COMMIT) {
			uint64_t old;
			uint8_t chain;
			if ((rc = ms_pagesums_get(c->sums, r.page.pgno, &old, &chain, err)) != MS_OK)
				return rc;
			chain = !ms_record_needs_base(r.type) ? 0 : chain < MS_MAX_CHAIN ? (uint8_t)(chain + 1) : MS_MAX_CHAIN;
			if ((rc = ms_pagesums_set(c->sums, r.page.pgno, r.page.hash, chain, err)) != MS_OK)
				return rc;
			if (r.page.pgno > c->tx_high)
				c->tx_high = r.page.pgno;
			continue;
		}
		const struct ms_commit *m = &r.commit;
		if (m->txid != c->state.txid + 1 || m->txid != e->txid)
			return ms_err_set(err, MS_EGAP, "%s: journal sequence %llu holds txid %llu where %llu is due", c->db,
					  (unsigned long long)seq, (unsigned long long)m->txid, (unsigned long long)c->state.txid + 1);
		uint64_t dropped;
		if (m->db_pages < ms_capture_tx_extent(c) &&
		    (rc = ms_pagesums_truncate(c->sums, ms_capture_tx_extent(c), m->db_pages, &dropped, err)) != MS_OK)
			return rc;
		c->state = (struct ms_dbstate){m->txid, m->time_us, m->checksum, m->page_size, m->db_pages};
		c->cookie = e->cookie;
		c->in_tx = false;
		if ((rc = ms_pagesums_commit(c->sums, seq, err)) != MS_OK)
			return rc;
	}
	return MS_OK;
}

static enum ms_code replay_entry(struct ms_capture *c, const struct ms_journal_entry *je, struct ms_err *err) {
	struct ms_stream_entry e;
	enum ms_code rc = ms_stream_entry_parse(je->payload, je->len, &e, err);
	if (rc != MS_OK)
		return rc;
	if (e.kind == MS_ENTRY_GENERATION) {
		ms_capture_abort(c);
		if (strcmp(e.start.generation.s, c->gen.generation.s) != 0)
			rc = ms_err_set(err, MS_EGAP, "%s: journal enters generation %s, page sums know %s", c->db, e.start.generation.s,
					c->gen.generation.s);
		else
			c->gen_pending = false;
	} else {
		if (e.flags & MS_RUN_FIRST) {
			ms_capture_abort(c); /* a transaction that was given up */
			ms_pagesums_begin(c->sums);
			c->in_tx = true;
			c->tx_high = 0;
		}
		/* A continuation whose beginning was dropped belongs to nothing; its transaction never committed. */
		if (c->in_tx)
			rc = replay_records(c, &e, je->seq, err);
	}
	if (rc == MS_OK)
		c->last_seq = je->seq;
	ms_stream_entry_release(&e);
	return rc;
}

enum ms_code ms_capture_replay(struct ms_capture *c, uint64_t mark_seq, struct ms_err *err) {
	struct ms_journal_reader *r = NULL;
	struct ms_journal_entry e;
	uint64_t sum;
	enum ms_code rc = ms_journal_reader_new(c->journal, c->db, strlen(c->db), mark_seq + 1, &r, err);
	while (rc == MS_OK && (rc = ms_journal_reader_next(r, &e, err)) == MS_OK) {
		rc = replay_entry(c, &e, err);
		c->bytes_since_mark += e.len;
	}
	ms_journal_reader_free(r);
	ms_capture_abort(c);
	if (rc != MS_ENOTFOUND)
		return rc;
	if ((rc = ms_pagesums_sum(c->sums, c->state.db_pages, &sum, err)) != MS_OK)
		return rc;
	if (sum != c->state.checksum)
		return ms_err_set(err, MS_ECORRUPT, "%s: page sums give checksum %016llx, the journal's last commit says %016llx", c->sums_path,
				  (unsigned long long)sum, (unsigned long long)c->state.checksum);
	return MS_OK;
}

static enum ms_code sums_sync(void *arg, uint64_t seq, struct ms_err *err) {
	struct ms_capture *c = arg;
	return ms_journal_sync(c->journal, seq, err);
}

static uint64_t sums_durable(void *arg) { return ms_journal_durable_seq(((struct ms_capture *)arg)->journal); }

enum ms_code ms_capture_open(struct ms_env *env, struct ms_journal *j, const struct ms_capture_config *cfg, struct ms_capture **ret,
			     char *ret_note, size_t cap, struct ms_err *err) {
	char path[4096];
	uint8_t blob[MS_SUMS_BLOB_MAX];
	size_t blob_len = 0;
	uint64_t mark = 0;
	enum ms_code rc;
	struct ms_err e = MS_ERR_INIT;

	ret_note[0] = 0;
	struct ms_capture *c = calloc(1, sizeof *c);
	if (!c)
		return ms_err_set(err, MS_ENOMEM, "capture");
	c->env = env;
	c->journal = j;
	ms_buf_init(&c->payload, MS_CAPTURE_PAYLOAD + 2 * MS_PAGE_SIZE_MAX);
	snprintf(path, sizeof path, "%s/sums", cfg->dir);
	c->db = strdup(cfg->db);
	c->sums_path = strdup(path);
	c->enc = ms_page_encoder_new(cfg->level, cfg->codec_none);
	if (!c->db || !c->sums_path || !c->enc) {
		rc = ms_err_set(err, MS_ENOMEM, "capture");
		goto fail;
	}
	/* Entries that the journal has accepted but not written yet (it was full, say) are invisible to the replay, and would come again
	 * behind what we append from the replayed state. */
	uint64_t next = ms_journal_next_seq(j);
	if (next > 1 && (rc = ms_journal_sync(j, next - 1, err)) != MS_OK)
		goto fail;
	struct ms_pagesums_hooks hooks = {sums_sync, sums_durable, c};
	rc = ms_pagesums_open(env, path, SUMS_CACHE, &hooks, &c->sums, &mark, blob, &blob_len, &e);
	if (rc == MS_ECORRUPT) { /* no valid mark: nothing in the file can be trusted; keep it for whoever wants to know why */
		char aside[4200];
		snprintf(ret_note, cap, "%s", e.msg);
		snprintf(aside, sizeof aside, "%s.corrupt", path);
		if ((rc = env->ops->rename(env, path, aside, err)) != MS_OK)
			goto fail;
		rc = ms_pagesums_open(env, path, SUMS_CACHE, &hooks, &c->sums, &mark, blob, &blob_len, &e);
	}
	if (rc != MS_OK) {
		*err = e;
		goto fail;
	}
	if (blob_len) {
		if ((rc = ms_capture_blob_decode(c, blob, blob_len, &e)) == MS_OK)
			rc = ms_capture_replay(c, mark, &e);
		if (rc == MS_OK && c->gen_pending)
			rc = ms_capture_journal_generation(c, &e);
		if (rc == MS_ECORRUPT || rc == MS_EGAP || rc == MS_EUNSUPPORTED) {
			snprintf(ret_note, cap, "%s", e.msg);
			ms_generation_start_release(&c->gen);
			memset(&c->gen, 0, sizeof c->gen);
			memset(&c->state, 0, sizeof c->state);
			c->cookie.len = 0;
			c->gen_pending = false;
		} else if (rc != MS_OK) {
			*err = e;
			goto fail;
		}
	}
	atomic_store(&c->needs_seq, c->gen.generation.s[0] ? mark + 1 : UINT64_MAX);
	*ret = c;
	return MS_OK;
fail:
	ms_capture_free(c);
	return rc;
}

enum ms_code ms_capture_peek(struct ms_env *env, const char *dir, struct ms_capture_mark *ret, struct ms_err *err) {
	char path[4096];
	uint8_t blob[MS_SUMS_BLOB_MAX];
	size_t len;
	uint64_t seq;
	if (snprintf(path, sizeof path, "%s/sums", dir) >= (int)sizeof path)
		return ms_err_set(err, MS_ETOOBIG, "%.300s: path too long", dir);
	struct ms_capture c = {.sums_path = path};
	enum ms_code rc = ms_pagesums_peek(env, path, &seq, blob, &len, err);
	if (rc == MS_OK)
		rc = len ? ms_capture_blob_decode(&c, blob, len, err) : ms_err_set(err, MS_ENOTFOUND, "%s: nothing captured yet", path);
	if (rc == MS_OK)
		*ret = (struct ms_capture_mark){seq, c.state, c.gen};
	return rc;
}

enum ms_code ms_capture_find_state(struct ms_capture *c, uint64_t checksum, uint32_t db_pages, struct ms_dbstate *ret, struct ms_err *err) {
	struct ms_journal_reader *r = NULL;
	struct ms_journal_entry je;
	struct ms_journal_stats st;
	struct ms_dbstate found = {0};

	ms_journal_get_stats(c->journal, &st);
	enum ms_code rc = ms_journal_reader_new(c->journal, c->db, strlen(c->db), st.first_seq, &r, err);
	while (rc == MS_OK && (rc = ms_journal_reader_next(r, &je, err)) == MS_OK) {
		struct ms_stream_entry e;
		if ((rc = ms_stream_entry_parse(je.payload, je.len, &e, err)) != MS_OK)
			break;
		if (e.kind == MS_ENTRY_GENERATION) {
			const struct ms_dbstate *b = &e.start.base;
			memset(&found, 0, sizeof found); /* only states of the generation that is current now */
			if (b->checksum == checksum && b->db_pages == db_pages)
				found = *b;
		} else if (e.flags & MS_RUN_LAST) {
			const uint8_t *p = e.records;
			size_t n = e.records_len, used;
			struct ms_record rec;
			while (n && ms_record_parse(p, n, &rec, &used, NULL) == MS_OK) {
				if (rec.type == MS_REC_COMMIT && rec.commit.checksum == checksum && rec.commit.db_pages == db_pages &&
				    rec.commit.txid < c->state.txid)
					found = (struct ms_dbstate){rec.commit.txid, rec.commit.time_us, checksum, rec.commit.page_size, db_pages};
				p += used;
				n -= used;
			}
		}
		ms_stream_entry_release(&e);
	}
	ms_journal_reader_free(r);
	if (rc != MS_ENOTFOUND)
		return rc;
	if (!found.txid || found.txid >= c->state.txid)
		return ms_err_set(err, MS_ENOTFOUND, "no earlier state with this checksum");
	*ret = found;
	return MS_OK;
}
