/*
 * The checker: restores all that a store holds, straight from the objects, knowing nothing of the worker. Every snapshot is unpacked, then every
 * transaction that follows on is applied, into child generations too; each state must equal the model's image byte by byte.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/codec.h"
#include "core/head.h"
#include "core/names.h"
#include "core/segment.h"
#include "replicas/mem.h"
#include "support/worker_rig.h"

struct page {
	enum ms_record_type type;
	struct ms_page_record rec;
	uint8_t *data;
};
struct tx {
	struct ms_generation generation;
	uint64_t txid;
	uint32_t db_pages;
	uint64_t checksum;
	struct page *pages;
	unsigned npages;
};
struct snap {
	struct ms_name name;
	const uint8_t *data;
	size_t len;
};
struct check {
	const struct wrig *const *hosts;
	unsigned nhosts;
	const char *store;
	struct tx *txs;
	unsigned ntx;
	struct snap snaps[512];
	unsigned nsnaps;
	struct ms_lineage links[1024]; /* of all heads: which generation forks where */
	unsigned nlinks;
	/* segment being read */
	struct ms_segment_info info;
	struct page *pending;
	unsigned npending;
	struct {
		struct ms_generation generation;
		uint64_t txid;
	} *found;
	unsigned nfound;
	char *why;
	size_t cap;
	bool failed, lenient; /* lenient: other hosts' states are no failure */
};

static void MS_PRINTF(2, 3) fail(struct check *c, const char *fmt, ...) {
	va_list ap;
	if (c->failed)
		return;
	va_start(ap, fmt);
	vsnprintf(c->why, c->cap, fmt, ap);
	va_end(ap);
	c->failed = true;
}

static void *grow(void *v, unsigned n, size_t size) {
	if (n & (n - 1)) /* room for a power of two */
		return v;
	v = realloc(v, (n ? n * 2 : 1) * size);
	if (!v)
		abort();
	return v;
}

/* ---- reading segments ---- */

static enum ms_code got_info(void *arg, const struct ms_segment_info *i, struct ms_err *err) {
	struct check *c = arg;
	(void)err;
	c->info = *i;
	return MS_OK;
}

static enum ms_code got_record(void *arg, const struct ms_record *rec, struct ms_err *err) {
	struct check *c = arg;
	(void)err;
	if (rec->type != MS_REC_COMMIT) {
		c->pending = grow(c->pending, c->npending, sizeof *c->pending);
		struct page *p = &c->pending[c->npending++];
		*p = (struct page){.type = rec->type, .rec = rec->page, .data = malloc(rec->page.len + 1)};
		memcpy(p->data, rec->page.data, rec->page.len);
		p->rec.data = p->data;
		return MS_OK;
	}
	c->txs = grow(c->txs, c->ntx, sizeof *c->txs);
	struct tx *t = &c->txs[c->ntx++];
	*t = (struct tx){.generation = c->info.generation,
			 .txid = rec->commit.txid,
			 .db_pages = rec->commit.db_pages,
			 .checksum = rec->commit.checksum,
			 .pages = c->pending,
			 .npages = c->npending};
	c->pending = NULL;
	c->npending = 0;
	return MS_OK;
}

static void drop_pending(struct check *c) {
	for (unsigned i = 0; i < c->npending; i++)
		free(c->pending[i].data);
	free(c->pending);
	c->pending = NULL;
	c->npending = 0;
}

static void read_segment(struct check *c, const char *name, const uint8_t *data, size_t len) {
	static const struct ms_segment_callbacks cb = {got_info, got_record};
	struct ms_err err = MS_ERR_INIT;
	struct ms_segment_reader *r = ms_segment_reader_new(&cb, c);
	if (ms_segment_push(r, data, len, &err) || ms_segment_finish(r, &err))
		fail(c, "%s: %s", name, err.msg);
	ms_segment_reader_free(r);
	if (!c->info.more)
		drop_pending(c);
}

/* Parts of a transaction are listed before its first object ('+' before '.'), so segments are read in an order of their own. */
struct seg {
	struct ms_name n;
	char name[MS_NAME_MAX];
	const uint8_t *data;
	size_t len;
};
struct load {
	struct check *c;
	struct seg *segs;
	unsigned nsegs;
};

static void read_head(struct check *c, const char *name, const uint8_t *data, size_t len) {
	struct ms_head h;
	struct ms_err err = MS_ERR_INIT;
	if (ms_head_decode(data, len, &h, &err)) {
		fail(c, "%s: %s", name, err.msg);
		return;
	}
	for (uint32_t i = 0; i < h.nlineage; i++) {
		bool known = !h.lineage[i].parent.s[0];
		for (unsigned k = 0; k < c->nlinks; k++)
			known |= strcmp(c->links[k].generation.s, h.lineage[i].generation.s) == 0;
		if (!known && c->nlinks < 1024)
			c->links[c->nlinks++] = h.lineage[i];
	}
	ms_head_release(&h);
}

static void each(void *arg, const char *name, const uint8_t *data, size_t len) {
	struct load *l = arg;
	struct ms_name n;
	int kind;
	if (!ms_name_parse(name, &n))
		return;
	if (n.kind == MS_NAME_SNAPSHOT && l->c->nsnaps < 512)
		l->c->snaps[l->c->nsnaps++] = (struct snap){n, data, len};
	if (n.kind == MS_NAME_HEAD)
		read_head(l->c, name, data, len);
	if (n.kind != MS_NAME_SEGMENT && n.kind != MS_NAME_SEGMENT_PART)
		return;
	if (ms_artefact_kind_of(data, len, &kind, NULL) || kind == MS_ART_FENCE)
		return;
	l->segs = grow(l->segs, l->nsegs, sizeof *l->segs);
	struct seg *s = &l->segs[l->nsegs++];
	*s = (struct seg){.n = n, .data = data, .len = len};
	snprintf(s->name, sizeof s->name, "%s", name);
}

static int seg_cmp(const void *a, const void *b) {
	const struct seg *x = a, *y = b;
	int g = strcmp(x->n.generation.s, y->n.generation.s);
	if (g)
		return g;
	if (x->n.first != y->n.first)
		return x->n.first < y->n.first ? -1 : 1;
	return (int)x->n.number - (int)y->n.number;
}

/* ---- applying ---- */

/* The model's state; of several hosts' (copies that went on apart) the one that equals image, if one does. */
static const struct wrig_state *model(const struct check *c, const struct ms_generation *g, uint64_t txid, const uint8_t *image) {
	const struct wrig_state *any = NULL;
	for (unsigned h = 0; h < c->nhosts; h++)
		for (unsigned i = 0; i < c->hosts[h]->nstates; i++) {
			const struct wrig_state *s = &c->hosts[h]->states[i];
			if (s->db.txid != txid || strcmp(s->generation.s, g->s) != 0)
				continue;
			any = s;
			if (memcmp(s->image, image, (size_t)s->db.db_pages * WRIG_PAGE) == 0)
				return s;
		}
	return any;
}

static bool is_found(const struct check *c, const struct ms_generation *g, uint64_t txid) {
	for (unsigned i = 0; i < c->nfound; i++)
		if (c->found[i].txid == txid && strcmp(c->found[i].generation.s, g->s) == 0)
			return true;
	return false;
}

static void found(struct check *c, const struct ms_generation *g, uint64_t txid, const uint8_t *image, uint32_t pages) {
	const struct wrig_state *s = model(c, g, txid, image);
	if (!s && c->lenient)
		return;
	if (!s) {
		fail(c, "%s: %s/%" PRIu64 " is on the replica, but the model never had it", c->store, g->s, txid);
		return;
	}
	if (s->db.db_pages != pages || memcmp(s->image, image, (size_t)pages * WRIG_PAGE) != 0)
		fail(c, "%s: %s/%" PRIu64 " restores to other content than the model's", c->store, g->s, txid);
	if (is_found(c, g, txid))
		return;
	c->found = grow(c->found, c->nfound, sizeof *c->found);
	c->found[c->nfound].generation = *g;
	c->found[c->nfound++].txid = txid;
}

static void apply(struct check *c, struct ms_page_decoder *d, uint8_t *image, const struct tx *t) {
	struct ms_err err = MS_ERR_INIT;
	for (unsigned i = 0; i < t->npages; i++) {
		uint8_t out[WRIG_PAGE], *at = image + (size_t)(t->pages[i].rec.pgno - 1) * WRIG_PAGE;
		if (t->pages[i].rec.pgno > WRIG_PAGES_MAX) {
			fail(c, "page %" PRIu32, t->pages[i].rec.pgno);
			return;
		}
		if (ms_page_decode(d, t->pages[i].type, &t->pages[i].rec, WRIG_PAGE, at, out, &err)) {
			fail(c, "%s/%" PRIu64 ": %s", t->generation.s, t->txid, err.msg);
			return;
		}
		memcpy(at, out, WRIG_PAGE);
	}
	for (uint32_t p = t->db_pages; p < WRIG_PAGES_MAX; p++)
		memset(image + (size_t)p * WRIG_PAGE, 0, WRIG_PAGE);
}

static void follow(struct check *c, struct ms_page_decoder *d, const struct ms_generation *g, uint64_t txid, const uint8_t *from, unsigned depth) {
	uint8_t image[WRIG_PAGES_MAX * WRIG_PAGE];
	memcpy(image, from, sizeof image);
	for (bool more = true; more && !c->failed && depth < 60;) {
		const struct tx *next = NULL;
		more = false;
		for (unsigned i = 0; i < c->ntx; i++) {
			const struct tx *t = &c->txs[i];
			if (strcmp(t->generation.s, g->s) == 0 && t->txid == txid + 1) {
				if (next)
					fail(c, "%s/%" PRIu64 " is there twice", g->s, t->txid);
				next = t;
			}
		}
		for (unsigned i = 0; i < c->nlinks; i++) {
			const struct ms_lineage *l = &c->links[i];
			if (strcmp(l->parent.s, g->s) != 0 || l->fork_txid != txid || is_found(c, &l->generation, txid))
				continue;
			/* A child: its base state is this one. */
			const struct wrig_state *s = model(c, &l->generation, txid, image);
			if (s)
				found(c, &l->generation, txid, image, s->db.db_pages);
			follow(c, d, &l->generation, txid, image, depth + 1);
		}
		if (next) {
			apply(c, d, image, next);
			txid++;
			found(c, g, txid, image, next->db_pages);
			more = true;
		}
	}
}

struct unpack {
	uint8_t image[WRIG_PAGES_MAX * WRIG_PAGE];
};

static enum ms_code got_pages(void *arg, uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *data, struct ms_err *err) {
	struct unpack *u = arg;
	if (page_size != WRIG_PAGE || first + count - 1 > WRIG_PAGES_MAX)
		return ms_err_set(err, MS_ECORRUPT, "pages %" PRIu32 "+%" PRIu32, first, count);
	memcpy(u->image + (size_t)(first - 1) * WRIG_PAGE, data, (size_t)count * WRIG_PAGE);
	return MS_OK;
}

static void unpack_snapshot(struct check *c, struct ms_page_decoder *d, const struct snap *s) {
	struct unpack u = {0};
	struct ms_page_sink sink = {got_pages, &u};
	struct ms_manifest m;
	struct ms_err err = MS_ERR_INIT;
	struct ms_manifest_reader *r = ms_manifest_reader_new(&m, NULL);
	if (ms_manifest_push(r, s->data, s->len, &err) || ms_manifest_finish(r, &err)) {
		fail(c, "%s: a manifest: %s", c->store, err.msg);
		ms_manifest_reader_free(r);
		return;
	}
	ms_manifest_reader_free(r);
	for (uint32_t i = 0; i < m.nchunks && !c->failed; i++) {
		char name[MS_NAME_MAX];
		size_t len = 0;
		ms_name_format(&(struct ms_name){.kind = MS_NAME_CHUNK, .generation = m.chunks[i].generation, .number = m.chunks[i].first_page, .hash = m.chunks[i].hash}, name);
		const uint8_t *p = ms_mem_peek(c->store, name, &len);
		struct ms_chunk_reader *k = ms_chunk_reader_new(&m.chunks[i], WRIG_PAGE, &sink);
		if (!p || ms_chunk_push(k, p, len, &err) || ms_chunk_finish(k, &err))
			fail(c, "%s: snapshot %s/%" PRIu64 ": %s: %s", c->store, m.generation.s, m.state.txid, name, p ? err.msg : "missing");
		ms_chunk_reader_free(k);
	}
	if (!c->failed) {
		found(c, &m.generation, m.state.txid, u.image, m.state.db_pages);
		follow(c, d, &m.generation, m.state.txid, u.image, 0);
	}
	ms_manifest_release(&m);
}

static void run(struct check *c) {
	struct load l = {.c = c};
	ms_mem_each(c->store, each, &l);
	if (l.nsegs)
		qsort(l.segs, l.nsegs, sizeof *l.segs, seg_cmp);
	for (unsigned i = 0; i < l.nsegs; i++) {
		if (l.segs[i].n.kind == MS_NAME_SEGMENT)
			drop_pending(c);
		read_segment(c, l.segs[i].name, l.segs[i].data, l.segs[i].len);
	}
	drop_pending(c);
	free(l.segs);
	struct ms_page_decoder *d = ms_page_decoder_new();
	for (unsigned i = 0; i < c->nsnaps && !c->failed; i++)
		unpack_snapshot(c, d, &c->snaps[i]);
	ms_page_decoder_free(d);
}

static void release(struct check *c) {
	for (unsigned i = 0; i < c->ntx; i++) {
		for (unsigned k = 0; k < c->txs[i].npages; k++)
			free(c->txs[i].pages[k].data);
		free(c->txs[i].pages);
	}
	free(c->txs);
	free(c->found);
}

unsigned wrig_check(const struct wrig *const *hosts, unsigned nhosts, const char *store, char *why, size_t cap) {
	struct check *c = calloc(1, sizeof *c);
	c->hosts = hosts, c->nhosts = nhosts, c->store = store, c->why = why, c->cap = cap;
	why[0] = '\0';
	run(c);
	unsigned n = c->failed ? 0 : c->nfound;
	release(c);
	free(c);
	return n;
}

void wrig_found(const struct wrig *r, const char *store, bool *ret) {
	char why[512] = "";
	struct check *c = calloc(1, sizeof *c);
	c->hosts = &r, c->nhosts = 1, c->store = store, c->why = why, c->cap = sizeof why, c->lenient = true;
	run(c);
	for (unsigned i = 0; i < r->nstates; i++)
		ret[i] = is_found(c, &r->states[i].generation, r->states[i].db.txid);
	release(c);
	free(c);
}

bool wrig_restores(const struct wrig *r, const char *store, const struct wrig_state *s) {
	char why[512] = "";
	struct check *c = calloc(1, sizeof *c);
	c->hosts = &r, c->nhosts = 1, c->store = store, c->why = why, c->cap = sizeof why, c->lenient = true;
	run(c);
	bool ok = is_found(c, &s->generation, s->db.txid) && !c->failed;
	release(c);
	free(c);
	return ok;
}
