#include "core/journal_walk.h"

#include <inttypes.h>
#include <string.h>

enum ms_code ms_walk_records(const uint8_t *p, size_t len, struct ms_walk_records *ret, struct ms_err *err) {
	struct ms_walk_records r = {0};
	for (size_t at = 0, used; at < len; at += used) {
		struct ms_record rec;
		enum ms_code rc = ms_record_parse(p + at, len - at, &rec, &used, err);
		if (rc)
			return rc;
		if (r.has_commit)
			return ms_err_set(err, MS_ECORRUPT, "records follow the commit record");
		if (rec.type == MS_REC_COMMIT) {
			r.has_commit = true;
			r.commit = rec.commit;
		} else {
			r.frames++;
		}
	}
	*ret = r;
	return MS_OK;
}

struct walk {
	const struct ms_walk_visitor *v;
	struct ms_walk_tx tx;
	bool open; /* tx has begun */
	bool go;
};

static enum ms_code visit_run(struct walk *w, const struct ms_stream_entry *e, uint64_t seq, struct ms_err *err) {
	struct ms_walk_records r;
	enum ms_code rc;
	if (e->flags & MS_RUN_FIRST) {
		w->tx = (struct ms_walk_tx){.txid = e->txid, .first_seq = seq, .after_broken = w->open};
		w->open = true;
	} else if (!w->open) {
		return MS_OK;
	}
	if (e->txid != w->tx.txid)
		return ms_err_set(err, MS_ECORRUPT, "journal entry %" PRIu64 ": of transaction %" PRIu64 " within transaction %" PRIu64, seq, e->txid, w->tx.txid);
	if ((rc = ms_walk_records(e->records, e->records_len, &r, err)))
		return ms_err_wrap(err, "journal entry %" PRIu64, seq);
	w->tx.bytes += e->records_len;
	w->tx.frames += r.frames;
	if (!(e->flags & MS_RUN_LAST))
		return r.has_commit ? ms_err_set(err, MS_ECORRUPT, "journal entry %" PRIu64 ": a commit before the last entry", seq) : MS_OK;
	if (!r.has_commit || r.commit.txid != e->txid)
		return ms_err_set(err, MS_ECORRUPT, "journal entry %" PRIu64 ": no commit of transaction %" PRIu64, seq, e->txid);
	w->open = false;
	w->tx.flags = r.commit.flags;
	w->tx.next_seq = seq + 1;
	w->tx.state = (struct ms_dbstate){.txid = r.commit.txid,
					  .time_us = r.commit.time_us,
					  .checksum = r.commit.checksum,
					  .page_size = r.commit.page_size,
					  .db_pages = r.commit.db_pages};
	w->go = !w->v->tx || w->v->tx(w->v->arg, &w->tx);
	return MS_OK;
}

enum ms_code ms_journal_walk(struct ms_journal *j, const char *db, uint64_t from_seq, const struct ms_walk_visitor *v, uint64_t *ret_end,
			     struct ms_err *err) {
	struct ms_journal_reader *reader = NULL;
	struct walk w = {.v = v, .go = true};
	struct ms_journal_entry entry;
	if (!from_seq) {
		struct ms_journal_stats st;
		ms_journal_get_stats(j, &st);
		from_seq = st.first_seq ? st.first_seq : 1;
	}
	enum ms_code rc = ms_journal_reader_new(j, db, strlen(db), from_seq, &reader, err);
	if (rc)
		return rc;
	while (w.go) {
		struct ms_err e = MS_ERR_INIT;
		struct ms_stream_entry parsed;
		rc = ms_journal_reader_next(reader, &entry, &e);
		if (rc == MS_ENOTFOUND) {
			rc = MS_OK;
			break;
		}
		if (rc == MS_EGAP && v->gap) {
			w.open = false;
			w.go = v->gap(v->arg, ms_journal_reader_seq(reader));
			rc = MS_OK;
			continue;
		}
		if (rc) {
			rc = ms_err_set(err, rc, "%s", e.msg);
			break;
		}
		if ((rc = ms_stream_entry_parse(entry.payload, entry.len, &parsed, err))) {
			rc = ms_err_wrap(err, "journal entry %" PRIu64, entry.seq);
			break;
		}
		if (parsed.kind == MS_ENTRY_GENERATION) {
			w.open = false;
			w.go = !v->generation || v->generation(v->arg, &parsed.start, entry.seq, entry.seq + 1);
		} else {
			rc = visit_run(&w, &parsed, entry.seq, err);
		}
		ms_stream_entry_release(&parsed);
		if (rc)
			break;
	}
	if (!rc && ret_end)
		*ret_end = w.open ? w.tx.first_seq : ms_journal_reader_seq(reader);
	ms_journal_reader_free(reader);
	return rc;
}
