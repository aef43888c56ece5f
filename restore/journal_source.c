#include "restore/journal_source.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/journal.h"
#include "core/stream_entry.h"

#define BATCH 16u

struct stretch {
	struct ms_generation generation; /* empty: not named by what is left of the journal */
	uint64_t first, last, bytes;
	int64_t first_us, last_us;
};
struct ms_journal_source {
	struct ms_env *env;
	char *dir, *db;
	struct ms_plan_probe below;
	struct ms_generation unnamed; /* generation that unnamed runs are taken for */
};

enum ms_code ms_journal_source_new(struct ms_env *env, const char *dir, const char *db, struct ms_journal_source **ret, struct ms_err *err) {
	struct ms_journal_source *s = calloc(1, sizeof *s);
	if (s) {
		s->dir = strdup(dir);
		s->db = strdup(db);
	}
	if (!s || !s->dir || !s->db) {
		ms_journal_source_free(s);
		return ms_err_set(err, MS_ENOMEM, "out of memory for the journal of %s", dir);
	}
	s->env = env;
	*ret = s;
	return MS_OK;
}

void ms_journal_source_free(struct ms_journal_source *s) {
	if (!s)
		return;
	free(s->dir);
	free(s->db);
	free(s);
}

/* ---- walking through the journal ---- */

struct walk {
	struct ms_journal_source *s;
	struct ms_generation generation; /* of the entries at hand */
	enum ms_code (*start)(struct walk *w, const struct ms_generation_start *g, struct ms_err *err); /* may be NULL */
	enum ms_code (*run)(struct walk *w, const struct ms_stream_entry *e, struct ms_err *err);
	bool stop;
	void *arg;
};

static enum ms_code walk_batch(void *arg, const struct ms_journal_entry *entries, unsigned n, struct ms_err *err) {
	struct walk *w = arg;
	enum ms_code rc = MS_OK;
	for (unsigned i = 0; !rc && !w->stop && i < n; i++) {
		struct ms_stream_entry e;
		if (strcmp(entries[i].db, w->s->db) != 0)
			continue;
		if ((rc = ms_stream_entry_parse(entries[i].payload, entries[i].len, &e, err)))
			break;
		if (e.kind == MS_ENTRY_GENERATION) {
			w->generation = e.start.generation;
			if (w->start)
				rc = w->start(w, &e.start, err);
		} else {
			rc = w->run(w, &e, err);
		}
		ms_stream_entry_release(&e);
		if (rc)
			ms_err_wrap(err, "journal entry %llu", (unsigned long long)entries[i].seq);
	}
	return !rc && w->stop ? ms_err_set(err, MS_ECLOSED, "enough") : rc;
}

static enum ms_code walk_journal(struct walk *w, struct ms_err *err) {
	struct ms_journal_recovery_stats stats;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_journal_recover(w->s->env, w->s->dir, NULL, BATCH, 0, walk_batch, w, &stats, &e);
	if (rc && w->stop)
		return MS_OK;
	if (rc && err)
		*err = e;
	if (rc)
		ms_err_wrap(err, "journal in %s", w->s->dir);
	return rc;
}

/* The commit record of a transaction's last entry. */
static enum ms_code find_commit(const struct ms_stream_entry *e, struct ms_commit *ret, struct ms_err *err) {
	for (size_t off = 0, used = 0; off < e->records_len; off += used) {
		struct ms_record rec;
		enum ms_code rc = ms_record_parse(e->records + off, e->records_len - off, &rec, &used, err);
		if (rc)
			return rc;
		if (rec.type == MS_REC_COMMIT) {
			*ret = rec.commit;
			return MS_OK;
		}
	}
	return ms_err_set(err, MS_ECORRUPT, "txid %llu has no commit record", (unsigned long long)e->txid);
}

/* ---- scan ---- */

struct scan {
	struct stretch *a;
	size_t n, cap;
	struct ms_inventory *inv;
	uint64_t open; /* txid whose first entry has been seen, 0 none */
	uint64_t open_bytes;
};

static enum ms_code scan_start(struct walk *w, const struct ms_generation_start *g, struct ms_err *err) {
	struct scan *sc = w->arg;
	enum ms_code rc = ms_inventory_add_generation(sc->inv, &g->generation, err);
	sc->open = 0;
	for (uint32_t i = 0; !rc && i < g->nlineage; i++)
		rc = ms_inventory_set_lineage(sc->inv, &g->lineage[i], err);
	return rc;
}

static enum ms_code scan_run(struct walk *w, const struct ms_stream_entry *e, struct ms_err *err) {
	struct scan *sc = w->arg;
	struct ms_commit c;
	if (e->flags & MS_RUN_FIRST) {
		sc->open = e->txid;
		sc->open_bytes = 0;
	}
	if (sc->open != e->txid)
		return MS_OK; /* the rest of a transaction whose beginning is gone */
	sc->open_bytes += e->records_len;
	if (!(e->flags & MS_RUN_LAST))
		return MS_OK;
	sc->open = 0;
	enum ms_code rc = find_commit(e, &c, err);
	if (rc)
		return rc;
	struct stretch *last = sc->n ? &sc->a[sc->n - 1] : NULL;
	if (!last || e->txid != last->last + 1 || strcmp(last->generation.s, w->generation.s) != 0) {
		if (sc->n == sc->cap) {
			size_t cap = sc->cap ? sc->cap * 2 : 8;
			struct stretch *p = realloc(sc->a, cap * sizeof *p);
			if (!p)
				return ms_err_set(err, MS_ENOMEM, "out of memory");
			sc->a = p;
			sc->cap = cap;
		}
		last = &sc->a[sc->n++];
		*last = (struct stretch){.generation = w->generation, .first = e->txid, .first_us = c.time_us};
	}
	last->last = e->txid;
	last->last_us = c.time_us;
	last->bytes += sc->open_bytes;
	return MS_OK;
}

enum ms_code ms_journal_source_scan(struct ms_journal_source *s, struct ms_inventory *inv, unsigned replica, struct ms_err *err) {
	struct scan sc = {.inv = inv};
	struct walk w = {.s = s, .start = scan_start, .run = scan_run, .arg = &sc};
	const struct ms_inv_head *head = ms_inventory_newest_head(inv);
	s->unnamed = head ? head->generation : inv->ngens ? inv->gens[inv->ngens - 1].id : (struct ms_generation){""};
	enum ms_code rc = walk_journal(&w, err);
	for (size_t i = 0; !rc && i < sc.n; i++) {
		const struct stretch *t = &sc.a[i];
		const struct ms_generation *g = t->generation.s[0] ? &t->generation : &s->unnamed;
		struct ms_inv_segment seg = {.first = t->first, .last = t->last, .bytes = t->bytes, .nparts = 1, .parent = t->first - 1,
			.first_us = t->first_us, .last_us = t->last_us};
		if (g->s[0])
			rc = ms_inventory_add_journal(inv, replica, g, &seg, err);
	}
	if (!rc)
		ms_inventory_seal(inv);
	free(sc.a);
	return rc;
}

/* ---- questions of the plan ---- */

struct search {
	struct ms_generation generation;
	int64_t time_us;
	uint64_t first, max_txid, txid;
	int64_t us;
	struct ms_journal_source *s;
};

static bool same_generation(const struct ms_journal_source *s, const struct ms_generation *of_entry, const struct ms_generation *wanted) {
	return strcmp(of_entry->s[0] ? of_entry->s : s->unnamed.s, wanted->s) == 0;
}

static enum ms_code search_run(struct walk *w, const struct ms_stream_entry *e, struct ms_err *err) {
	struct search *q = w->arg;
	struct ms_commit c;
	if (!(e->flags & MS_RUN_LAST) || e->txid < q->first || e->txid > q->max_txid || !same_generation(w->s, &w->generation, &q->generation))
		return MS_OK;
	enum ms_code rc = find_commit(e, &c, err);
	if (rc)
		return rc;
	if (c.time_us > q->time_us) {
		w->stop = true;
	} else {
		q->txid = e->txid;
		q->us = c.time_us;
	}
	return MS_OK;
}

static enum ms_code probe_segment(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *seg, struct ms_err *err) {
	struct ms_journal_source *s = arg;
	return s->below.segment(s->below.arg, replica, g, seg, err);
}

static enum ms_code probe_commit(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *seg, int64_t time_us,
				 uint64_t max_txid, uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err) {
	struct ms_journal_source *s = arg;
	if (!(seg->flags & MS_SEG_JOURNAL))
		return s->below.last_commit(s->below.arg, replica, g, seg, time_us, max_txid, ret_txid, ret_us, err);
	struct search q = {.generation = g->id, .time_us = time_us, .first = seg->first, .max_txid = max_txid < seg->last ? max_txid : seg->last};
	struct walk w = {.s = s, .run = search_run, .arg = &q};
	enum ms_code rc = walk_journal(&w, err);
	if (!rc) {
		*ret_txid = q.txid;
		*ret_us = q.us;
	}
	return rc;
}

static enum ms_code probe_lineage(void *arg, struct ms_inv_generation *g, struct ms_lineage *ret, struct ms_err *err) {
	struct ms_journal_source *s = arg;
	return s->below.lineage(s->below.arg, g, ret, err);
}

struct ms_plan_probe ms_journal_source_probe(struct ms_journal_source *s, const struct ms_plan_probe *below) {
	s->below = *below;
	return (struct ms_plan_probe){.segment = probe_segment, .last_commit = probe_commit, .lineage = probe_lineage, .arg = s};
}

/* ---- applying ---- */

struct applying {
	struct ms_apply *a;
	const struct ms_generation *generation;
	uint64_t upto, open;
	bool (*canceled)(void *arg);
	void *arg;
};

static enum ms_code apply_run(struct walk *w, const struct ms_stream_entry *e, struct ms_err *err) {
	struct applying *p = w->arg;
	uint64_t at = ms_apply_state(p->a)->txid;
	if (p->canceled(p->arg))
		return ms_err_set(err, MS_ECANCELED, "interrupted");
	if (e->txid <= at || e->txid > p->upto || !same_generation(w->s, &w->generation, p->generation))
		return MS_OK;
	if (e->txid != at + 1)
		return ms_err_set(err, MS_EGAP, "txid %llu is missing from the journal", (unsigned long long)at + 1);
	if (e->flags & MS_RUN_FIRST)
		p->open = e->txid;
	if (p->open != e->txid)
		return MS_OK;
	for (size_t off = 0, used = 0; off < e->records_len; off += used) {
		struct ms_record rec;
		enum ms_code rc = ms_record_parse(e->records + off, e->records_len - off, &rec, &used, err);
		if (!rc)
			rc = ms_apply_record(p->a, &rec, err);
		if (rc)
			return rc;
	}
	w->stop = ms_apply_state(p->a)->txid >= p->upto;
	return MS_OK;
}

enum ms_code ms_journal_source_apply(struct ms_journal_source *s, struct ms_apply *a, const struct ms_generation *g, uint64_t upto,
				     bool (*canceled)(void *arg), void *arg, struct ms_err *err) {
	struct applying p = {.a = a, .generation = g, .upto = upto, .canceled = canceled, .arg = arg};
	struct walk w = {.s = s, .run = apply_run, .arg = &p};
	ms_apply_loose(a, upto);
	return walk_journal(&w, err);
}
