#include "core/segment_upload.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A run up to this size is encoded at once: its length is then known before the put, which costs some backends less. */
#define SMALL_RUN (1u << 20)
#define OUT_MAX (160u << 20) /* an entry's records in blocks, and an index */

void ms_run_release(struct ms_run *r) {
	ms_generation_start_release(&r->start);
	*r = (struct ms_run){.what = MS_RUN_NOTHING};
}

/* ---- scanning ---- */

struct scan {
	const struct ms_run_start *in;
	struct ms_run *run;
	unsigned ntx;
	bool gap, big;
	enum ms_code rc;
	struct ms_err *err;
};

static enum ms_code begin_info(struct scan *s, uint64_t txid, uint32_t flags) {
	const struct ms_run_start *in = s->in;
	struct ms_segment_info *i = &s->run->info;
	*i = (struct ms_segment_info){.generation = in->generation,
				      .first_txid = txid,
				      .last_txid = txid,
				      .parent_txid = in->state.txid,
				      .checksum_before = in->state.checksum,
				      .checksum_after = in->state.checksum,
				      .kind = flags & MS_COMMIT_CATCHUP ? MS_SEG_CATCHUP : MS_SEG_COMMIT,
				      .part = in->part,
				      .epoch = in->epoch};
	if (in->fork.parent.s[0]) {
		i->parent_generation = in->fork.parent;
		i->fork_txid = in->fork.fork_txid;
	}
	return MS_OK;
}

static bool scan_tx(void *arg, const struct ms_walk_tx *tx) {
	struct scan *s = arg;
	struct ms_run *run = s->run;
	struct ms_segment_info *i = &run->info;
	if (tx->txid <= s->in->state.txid) /* already in the snapshot that became the cursor */
		return true;
	if (tx->txid != (s->ntx ? i->last_txid : s->in->state.txid) + 1) {
		s->gap = true;
		return false;
	}
	enum ms_segment_kind kind = tx->flags & MS_COMMIT_CATCHUP ? MS_SEG_CATCHUP : MS_SEG_COMMIT;
	bool big = tx->bytes > s->in->object_max;
	if (s->ntx && (tx->after_broken || kind != i->kind || kind == MS_SEG_CATCHUP || big || tx->state.page_size != i->page_size ||
		       tx->bytes > s->in->segment_bytes || run->bytes > s->in->segment_bytes - tx->bytes)) {
		run->full = true;
		return false;
	}
	if (!s->ntx++) {
		s->rc = begin_info(s, tx->txid, tx->flags);
		run->what = MS_RUN_SEGMENT;
		run->from_seq = tx->first_seq;
		i->page_size = tx->state.page_size;
		i->first_us = tx->state.time_us;
	}
	run->next_seq = tx->next_seq;
	run->bytes += tx->bytes;
	run->after = tx->state;
	i->last_txid = tx->txid;
	i->last_us = tx->state.time_us;
	i->checksum_after = tx->state.checksum;
	i->db_pages = tx->state.db_pages;
	i->frames += tx->frames;
	s->big = big;
	return !big && !s->rc;
}

static bool scan_generation(void *arg, const struct ms_generation_start *g, uint64_t seq, uint64_t next_seq) {
	struct scan *s = arg;
	struct ms_run *run = s->run;
	(void)seq;
	if (s->ntx) {
		run->full = true;
		return false;
	}
	/* The start entry of the generation that the cursor is in already. */
	if (strcmp(g->generation.s, s->in->generation.s) == 0 && g->base.txid <= s->in->state.txid)
		return true;
	run->start = *g;
	run->start.lineage = calloc((size_t)g->nlineage + 1, sizeof *g->lineage);
	if (!run->start.lineage) {
		s->rc = ms_err_set(s->err, MS_ENOMEM, "start of generation %s", g->generation.s);
		return false;
	}
	memcpy(run->start.lineage, g->lineage, g->nlineage * sizeof *g->lineage);
	run->what = MS_RUN_GENERATION;
	run->next_seq = next_seq;
	return false;
}

/* One part of a transaction that is known to be complete: entries from seq up to object_max. */
static enum ms_code scan_part(struct ms_journal *j, const struct ms_run_start *in, struct ms_run *run, uint64_t seq, struct ms_err *err) {
	struct ms_journal_reader *reader = NULL;
	struct ms_journal_entry entry;
	struct ms_stream_entry e;
	struct scan s = {.in = in, .run = run};
	struct ms_segment_info *i = &run->info;
	enum ms_code rc = ms_journal_reader_new(j, in->db, strlen(in->db), seq, &reader, err);
	if (rc)
		return rc;
	*run = (struct ms_run){.what = MS_RUN_SEGMENT, .after = in->state};
	(void)begin_info(&s, in->state.txid + 1, 0);
	i->more = true;
	/* Without a commit record there is nothing newer to state. */
	i->page_size = in->state.page_size;
	i->db_pages = in->state.db_pages;
	i->first_us = i->last_us = in->state.time_us;
	for (bool first = true;; first = false) {
		struct ms_walk_records r;
		rc = ms_journal_reader_next(reader, &entry, err);
		if (rc == MS_ENOTFOUND)
			rc = ms_err_set(err, MS_EGAP, "journal entry %" PRIu64 ": transaction %" PRIu64 " is not complete", seq, i->first_txid);
		if (rc || (rc = ms_stream_entry_parse(entry.payload, entry.len, &e, err)))
			break;
		if (e.kind != MS_ENTRY_RUN || e.txid != i->first_txid) {
			rc = ms_err_set(err, MS_EGAP, "journal entry %" PRIu64 ": not of transaction %" PRIu64, entry.seq, i->first_txid);
			ms_stream_entry_release(&e);
			break;
		}
		if (!first && e.records_len > in->object_max - (run->bytes < in->object_max ? run->bytes : in->object_max)) {
			run->full = true;
			break;
		}
		if ((rc = ms_walk_records(e.records, e.records_len, &r, err)))
			break;
		if (first)
			run->from_seq = entry.seq;
		run->next_seq = entry.seq + 1;
		run->bytes += e.records_len;
		i->frames += r.frames;
		if (e.flags & MS_RUN_LAST) {
			if (!r.has_commit) {
				rc = ms_err_set(err, MS_ECORRUPT, "journal entry %" PRIu64 ": no commit record", entry.seq);
				break;
			}
			const struct ms_commit *c = &r.commit;
			run->after = (struct ms_dbstate){
				.txid = c->txid, .time_us = c->time_us, .checksum = c->checksum, .page_size = c->page_size, .db_pages = c->db_pages};
			i->more = false;
			i->kind = c->flags & MS_COMMIT_CATCHUP ? MS_SEG_CATCHUP : MS_SEG_COMMIT;
			i->page_size = c->page_size;
			i->db_pages = c->db_pages;
			i->first_us = i->last_us = c->time_us;
			i->checksum_after = c->checksum;
			break;
		}
	}
	ms_journal_reader_free(reader);
	return rc;
}

enum ms_code ms_run_scan(struct ms_journal *j, const struct ms_run_start *in, struct ms_run *ret, struct ms_err *err) {
	struct ms_run run = {.what = MS_RUN_NOTHING, .next_seq = in->seq, .after = in->state};
	if (in->part) {
		enum ms_code rc = scan_part(j, in, &run, in->seq, err);
		if (!rc)
			*ret = run;
		return rc;
	}
	struct scan s = {.in = in, .run = &run, .err = err};
	struct ms_walk_visitor v = {.tx = scan_tx, .generation = scan_generation, .arg = &s};
	enum ms_code rc = ms_journal_walk(j, in->db, in->seq, &v, NULL, err);
	if (!rc)
		rc = s.rc;
	if (!rc && s.gap && !s.ntx)
		rc = ms_err_set(err, MS_EGAP, "the journal does not go on from txid %" PRIu64 " of generation %s at entry %" PRIu64, in->state.txid,
				in->generation.s, in->seq);
	if (!rc && s.big) {
		uint64_t first = run.from_seq;
		ms_run_release(&run);
		rc = scan_part(j, in, &run, first, err);
	}
	if (rc)
		ms_run_release(&run);
	else
		*ret = run;
	return rc;
}

/* ---- body ---- */

struct ms_segment_body {
	struct ms_body body;
	struct ms_journal *journal;
	char *db;
	const struct ms_run *run;
	struct ms_journal_reader *reader; /* NULL before the first byte and after the last */
	struct ms_segment_writer *writer;
	struct ms_buf out;
	size_t off; /* of what has been taken from out */
	uint64_t sent;
	bool ended;
	int compression;
};

static enum ms_code start(struct ms_segment_body *b, struct ms_err *err) {
	ms_buf_clear(&b->out);
	b->off = 0;
	b->sent = 0;
	b->ended = false;
	ms_segment_writer_free(b->writer);
	b->writer = NULL;
	ms_journal_reader_free(b->reader);
	b->reader = NULL;
	b->writer = ms_segment_writer_new(&b->run->info, &b->out);
	if (!b->writer)
		return ms_err_set(err, MS_ENOMEM, "segment %" PRIu64, b->run->info.first_txid);
	ms_segment_writer_set_compression(b->writer, b->compression);
	return ms_journal_reader_new(b->journal, b->db, strlen(b->db), b->run->from_seq, &b->reader, err);
}

/* Encodes the next entry into out, or ends. */
static enum ms_code step(struct ms_segment_body *b, struct ms_err *err) {
	struct ms_journal_entry entry;
	struct ms_stream_entry e;
	struct ms_err re = MS_ERR_INIT;
	enum ms_code rc;
	if (ms_journal_reader_seq(b->reader) >= b->run->next_seq) {
		b->ended = true;
		return ms_segment_end(b->writer, err);
	}
	rc = ms_journal_reader_next(b->reader, &entry, &re);
	if (rc == MS_ENOTFOUND || (!rc && entry.seq >= b->run->next_seq)) {
		/* The reader passed over other databases' entries behind our last one. */
		b->ended = true;
		return ms_segment_end(b->writer, err);
	}
	if (rc)
		return ms_err_set(err, rc, "%s", re.msg);
	if ((rc = ms_stream_entry_parse(entry.payload, entry.len, &e, err)))
		return ms_err_wrap(err, "journal entry %" PRIu64, entry.seq);
	if (e.kind == MS_ENTRY_RUN)
		rc = ms_segment_write(b->writer, e.records, e.records_len, err);
	ms_stream_entry_release(&e);
	return rc;
}

static enum ms_code body_read(struct ms_body *body, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct ms_segment_body *b = (struct ms_segment_body *)body;
	while (b->off == b->out.len) {
		if (b->ended) {
			*ret_n = 0;
			return MS_OK;
		}
		ms_buf_clear(&b->out);
		b->off = 0;
		enum ms_code rc = step(b, err);
		if (rc)
			return rc;
	}
	size_t n = b->out.len - b->off;
	if (n > cap)
		n = cap;
	memcpy(buf, b->out.data + b->off, n);
	b->off += n;
	b->sent += n;
	*ret_n = n;
	return MS_OK;
}

static enum ms_code body_rewind(struct ms_body *body, struct ms_err *err) {
	struct ms_segment_body *b = (struct ms_segment_body *)body;
	if (body->size >= 0) { /* all of it lies in out */
		b->off = 0;
		b->sent = 0;
		return MS_OK;
	}
	return start(b, err);
}

enum ms_code ms_segment_body_new(struct ms_journal *j, const char *db, const struct ms_run *run, int compression, struct ms_segment_body **ret,
				 struct ms_err *err) {
	struct ms_segment_body *b = calloc(1, sizeof *b);
	if (!b || !(b->db = strdup(db))) {
		free(b);
		return ms_err_set(err, MS_ENOMEM, "segment %" PRIu64, run->info.first_txid);
	}
	b->body = (struct ms_body){.size = -1, .read = body_read, .rewind = body_rewind};
	b->journal = j;
	b->run = run;
	b->compression = compression;
	ms_buf_init(&b->out, OUT_MAX);
	enum ms_code rc = start(b, err);
	while (!rc && run->bytes <= SMALL_RUN && !b->ended)
		rc = step(b, err);
	if (rc) {
		ms_segment_body_free(b);
		return rc;
	}
	if (b->ended)
		b->body.size = (int64_t)b->out.len;
	*ret = b;
	return MS_OK;
}

void ms_segment_body_free(struct ms_segment_body *b) {
	if (!b)
		return;
	ms_segment_writer_free(b->writer);
	ms_journal_reader_free(b->reader);
	ms_buf_release(&b->out);
	free(b->db);
	free(b);
}

struct ms_body *ms_segment_body(struct ms_segment_body *b) { return &b->body; }

uint64_t ms_segment_body_sent(const struct ms_segment_body *b) { return b->sent; }

/* ---- comparing with what is there ---- */

struct same {
	const struct ms_segment_info *info;
	uint64_t after; /* txid before the run */
	bool same, other;
	struct ms_dbstate state;
	uint64_t seq;
};

static bool same_tx(void *arg, const struct ms_walk_tx *tx) {
	struct same *s = arg;
	if (tx->txid <= s->after)
		return true;
	if (tx->txid > s->info->last_txid) {
		s->other = true;
		return false;
	}
	if (tx->txid < s->info->last_txid)
		return true;
	s->same = tx->state.checksum == s->info->checksum_after && tx->state.page_size == s->info->page_size && tx->state.db_pages == s->info->db_pages;
	s->state = tx->state;
	s->seq = tx->next_seq;
	return false;
}

static bool same_generation(void *arg, const struct ms_generation_start *g, uint64_t seq, uint64_t next_seq) {
	struct same *s = arg;
	(void)seq, (void)next_seq;
	return strcmp(g->generation.s, s->info->generation.s) == 0;
}

static bool same_begin(const struct ms_run_start *start, const struct ms_segment_info *i) {
	return strcmp(i->generation.s, start->generation.s) == 0 && i->parent_txid == start->state.txid && i->checksum_before == start->state.checksum;
}

enum ms_code ms_run_same(struct ms_journal *j, const struct ms_run_start *start, const struct ms_segment_info *info, bool *ret_same,
			 struct ms_dbstate *ret_after, uint64_t *ret_seq, struct ms_err *err) {
	*ret_same = false;
	if (!same_begin(start, info) || info->part || info->more)
		return MS_OK;
	struct same s = {.info = info, .after = start->state.txid};
	struct ms_walk_visitor v = {.tx = same_tx, .generation = same_generation, .arg = &s};
	enum ms_code rc = ms_journal_walk(j, start->db, start->seq, &v, NULL, err);
	if (rc || !s.same)
		return rc;
	*ret_same = true;
	*ret_after = s.state;
	*ret_seq = s.seq;
	return MS_OK;
}

/* Pulls the records of the journal one by one, as the stored part pushes its own. */
struct part_compare {
	const struct ms_run_start *start;
	struct ms_journal_reader *reader;
	struct ms_segment_reader *segment;
	struct ms_buf records; /* of the current entry */
	size_t at;
	uint64_t next_seq; /* entry after the current one */
	bool differs;
};

static enum ms_code compare_info(void *arg, const struct ms_segment_info *i, struct ms_err *err) {
	struct part_compare *c = arg;
	(void)err;
	c->differs |= !same_begin(c->start, i) || i->part != c->start->part || i->first_txid != c->start->state.txid + 1;
	return MS_OK;
}

static enum ms_code compare_record(void *arg, const struct ms_record *rec, struct ms_err *err) {
	struct part_compare *c = arg;
	struct ms_journal_entry entry;
	struct ms_stream_entry e;
	struct ms_record own;
	size_t used;
	enum ms_code rc;
	while (!c->differs && c->at == c->records.len) {
		struct ms_err re = MS_ERR_INIT;
		rc = ms_journal_reader_next(c->reader, &entry, &re);
		if (rc == MS_ENOTFOUND) {
			c->differs = true;
			break;
		}
		if (rc)
			return ms_err_set(err, rc, "%s", re.msg);
		if ((rc = ms_stream_entry_parse(entry.payload, entry.len, &e, err)))
			return rc;
		ms_buf_clear(&c->records);
		c->at = 0;
		c->next_seq = entry.seq + 1;
		if (e.kind != MS_ENTRY_RUN || e.txid != c->start->state.txid + 1)
			c->differs = true;
		else
			rc = ms_buf_append(&c->records, e.records, e.records_len, err);
		ms_stream_entry_release(&e);
		if (rc)
			return rc;
	}
	if (c->differs)
		return MS_OK;
	if ((rc = ms_record_parse(c->records.data + c->at, c->records.len - c->at, &own, &used, err)))
		return rc;
	c->at += used;
	if (own.type != rec->type)
		c->differs = true;
	else if (own.type == MS_REC_COMMIT)
		c->differs = own.commit.txid != rec->commit.txid || own.commit.checksum != rec->commit.checksum;
	else
		c->differs = own.page.pgno != rec->page.pgno || own.page.hash != rec->page.hash;
	return MS_OK;
}

static enum ms_code push_part(void *arg, const void *data, size_t n, struct ms_err *err) {
	return ms_segment_push(((struct part_compare *)arg)->segment, data, n, err);
}

enum ms_code ms_run_same_part(struct ms_journal *j, const struct ms_run_start *start_at, struct ms_replica *r, const char *name, bool *ret_same,
			      uint64_t *ret_seq, struct ms_err *err) {
	struct part_compare c = {.start = start_at};
	static const struct ms_segment_callbacks cb = {compare_info, compare_record};
	enum ms_code rc;
	ms_buf_init(&c.records, MS_JOURNAL_PAYLOAD_MAX);
	c.segment = ms_segment_reader_new(&cb, &c);
	if (!c.segment) {
		rc = ms_err_set(err, MS_ENOMEM, "%s", name);
		goto out;
	}
	if ((rc = ms_journal_reader_new(j, start_at->db, strlen(start_at->db), start_at->seq, &c.reader, err)) ||
	    (rc = ms_replica_get(r, name, 0, -1, push_part, &c, err)) || (rc = ms_segment_finish(c.segment, err)))
		goto out;
	/* A part that ends within an entry was cut by other rules than ours; nothing could be put behind it. */
	*ret_same = !c.differs && c.at == c.records.len;
	*ret_seq = c.next_seq;
out:
	ms_segment_reader_free(c.segment);
	ms_journal_reader_free(c.reader);
	ms_buf_release(&c.records);
	return rc;
}
