#include "support/worker_rig.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "core/hash.h"
#include "core/journal_walk.h"
#include "core/names.h"
#include "replicas/mem.h"
#include "replicas/url.h"

#define DB "db"

#define OR_DIE(call)                                                                                                                                 \
	do {                                                                                                                                         \
		struct ms_err err_ = MS_ERR_INIT, *err = &err_;                                                                                      \
		if ((call) != MS_OK) {                                                                                                               \
			fprintf(stderr, "rig %s:%d: %s: %s\n", __FILE__, __LINE__, #call, err_.msg);                                                 \
			abort();                                                                                                                     \
		}                                                                                                                                    \
	} while (0)

static uint64_t rnd(struct wrig *r) {
	r->rng ^= r->rng << 13;
	r->rng ^= r->rng >> 7;
	r->rng ^= r->rng << 17;
	return r->rng;
}

void wrig_init(struct wrig *r, struct ms_env *env, const char *dir, const char *owner, uint64_t seed) {
	*r = (struct wrig){.env = env, .rng = seed * 2654435761u + 88172645463325252u, .auto_start = true, .auto_snapshot = true};
	snprintf(r->dir, sizeof r->dir, "%s", dir);
	snprintf(r->owner, sizeof r->owner, "%s", owner);
	r->cfg.required = true;
	r->cfg.authority = true;
	OR_DIE(ms_replica_mem_register(err));
	OR_DIE(ms_fs_mkdir_p(env, dir, 0700, err));
}

const struct wrig_state *wrig_now(const struct wrig *r) { return r->nstates ? &r->states[r->nstates - 1] : NULL; }

/* ---- workers ---- */

static void put_next(struct wrig_worker *x);

static void on_probed(void *arg, struct ms_worker *w, const struct ms_probe *p) {
	struct wrig *r = arg;
	for (unsigned i = 0; i < r->nworkers; i++)
		if (r->workers[i].w == w) {
			r->workers[i].probed = true;
			r->workers[i].probe = *p;
			if (r->auto_start)
				wrig_start(r, i);
		}
}

static struct wrig_worker *find(struct wrig *r, struct ms_worker *w) {
	for (unsigned i = 0; i < r->nworkers; i++)
		if (r->workers[i].w == w)
			return &r->workers[i];
	abort();
}

static void on_fenced(void *arg, struct ms_worker *w, const struct ms_err *err) {
	struct wrig_worker *x = find(arg, w);
	x->fenced = true;
	x->fenced_err = *err;
}

static void snapshot_later(void *arg) {
	struct wrig *r = arg;
	for (unsigned i = 0; i < r->nworkers; i++)
		if (r->workers[i].wants_snapshot && !r->workers[i].snapping && wrig_now(r))
			wrig_snapshot(r, i);
}

static void on_need(void *arg, struct ms_worker *w, const char *reason) {
	struct wrig *r = arg;
	struct wrig_worker *x = find(r, w);
	x->wants_snapshot = true;
	x->needs++;
	snprintf(x->reason, sizeof x->reason, "%s", reason);
	if (getenv("MS_VERBOSE"))
		fprintf(stderr, "  %s wants a snapshot at txid %llu: %s\n", x->store, (unsigned long long)(wrig_now(r) ? wrig_now(r)->db.txid : 0), reason);
	if (r->auto_snapshot)
		r->env->ops->post(r->env, snapshot_later, r);
}

static void on_changed(void *arg, struct ms_worker *w) { (void)arg, (void)w; }

void wrig_start(struct wrig *r, unsigned i) {
	const struct wrig_state *s = wrig_now(r);
	struct ms_local_facts local = {.lineage = r->lineage, .nlineage = r->nlineage, .epoch = r->epoch};
	if (s) {
		local.generation = s->generation;
		local.state = s->db;
	}
	r->workers[i].started = true;
	r->workers[i].fenced = false;
	ms_worker_start(r->workers[i].w, &local);
}

void wrig_boot(struct wrig *r, const char *const *stores, unsigned n) {
	char path[128], url[128];
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 64u << 10};
	snprintf(path, sizeof path, "%s/journal", r->dir);
	OR_DIE(ms_journal_open(r->env, path, &jc, &r->journal, err));
	r->nworkers = n;
	r->epoch++;
	for (unsigned i = 0; i < n; i++) {
		struct wrig_worker *x = &r->workers[i];
		struct ms_replica_spec spec = {0};
		struct ms_worker_config cfg = r->cfg;
		struct ms_worker_hooks hooks = {on_probed, on_changed, on_fenced, on_need, r};
		*x = (struct wrig_worker){.rig = r};
		snprintf(x->store, sizeof x->store, "%s", stores[i]);
		snprintf(url, sizeof url, "mem://%s", stores[i]);
		snprintf(path, sizeof path, "%s/cursor%u", r->dir, i);
		OR_DIE(ms_url_parse(url, &spec, err));
		cfg.db = DB;
		cfg.name = stores[i];
		cfg.spec = &spec;
		cfg.url = url;
		cfg.state_path = path;
		cfg.owner = r->owner;
		cfg.host = "host";
		cfg.takeover = r->takeover;
		OR_DIE(ms_worker_new(r->env, r->journal, &cfg, &hooks, &x->w, err));
		ms_replica_spec_release(&spec);
		ms_worker_probe(x->w, 5000000);
	}
}

static void drop_snapshot(struct wrig_worker *x) {
	for (unsigned k = 0; k < x->nobjects; k++)
		ms_buf_release(&x->objects[k].data);
	x->nobjects = 0;
	x->snapping = false;
	ms_manifest_release(&x->manifest);
}

static bool newest_tx(void *arg, const struct ms_walk_tx *tx) {
	*(uint64_t *)arg = tx->next_seq;
	return true;
}

static bool newest_generation(void *arg, const struct ms_generation_start *g, uint64_t seq, uint64_t next_seq) {
	(void)g, (void)seq;
	*(uint64_t *)arg = next_seq;
	return true;
}

void wrig_bury(struct wrig *r) {
	for (unsigned i = 0; i < r->nworkers; i++) {
		ms_worker_free(r->workers[i].w);
		drop_snapshot(&r->workers[i]);
		r->workers[i].w = NULL;
	}
	r->nworkers = 0;
	ms_journal_free(r->journal);
	r->journal = NULL;
	if (ms_env_sim_is_down(r->env))
		ms_env_sim_restart(r->env);
	/* What does the journal hold? */
	char path[128];
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 64u << 10};
	uint64_t end = 0;
	struct ms_walk_visitor v = {.tx = newest_tx, .generation = newest_generation, .arg = &end};
	snprintf(path, sizeof path, "%s/journal", r->dir);
	OR_DIE(ms_journal_open(r->env, path, &jc, &r->journal, err));
	OR_DIE(ms_journal_walk(r->journal, DB, 0, &v, NULL, err));
	while (r->nstates && r->states[r->nstates - 1].seq >= end && r->states[r->nstates - 1].seq > r->acked)
		free(r->states[--r->nstates].image);
	if (end && end <= r->acked) {
		fprintf(stderr, "rig: the journal lost acknowledged entries: %" PRIu64 " of %" PRIu64 "\n", end, r->acked);
		abort();
	}
	if (r->nstates) { /* lineage of the newest state that is left */
		uint32_t at = 0;
		while (at < r->nlineage && strcmp(r->lineage[at].generation.s, wrig_now(r)->generation.s) != 0)
			at++;
		memmove(r->lineage, r->lineage + at, (r->nlineage - at) * sizeof r->lineage[0]);
		r->nlineage -= at;
	} else {
		r->nlineage = 0;
	}
	OR_DIE(ms_journal_close(r->journal, err));
	ms_journal_free(r->journal);
	r->journal = NULL;
}

void wrig_free(struct wrig *r) {
	for (unsigned i = 0; i < r->nworkers; i++) {
		ms_worker_free(r->workers[i].w);
		drop_snapshot(&r->workers[i]);
	}
	if (r->journal)
		ms_journal_free(r->journal);
	for (unsigned i = 0; i < r->nstates; i++)
		free(r->states[i].image);
	free(r->states);
	memset(r, 0, sizeof *r);
}

/* ---- model ---- */

static uint64_t checksum(const uint8_t *image, uint32_t pages) {
	uint64_t sum = 0;
	for (uint32_t p = 1; p <= pages; p++)
		sum += ms_page_hash(p, image + (size_t)(p - 1) * WRIG_PAGE, WRIG_PAGE);
	return sum;
}

static struct wrig_state *new_state(struct wrig *r, const struct wrig_state *from, uint32_t pages) {
	if (r->nstates == r->cap) {
		r->cap = r->cap ? r->cap * 2 : 64;
		/* `from` may point into the array. */
		ptrdiff_t at = from ? from - r->states : -1;
		bool inside = at >= 0 && at < (ptrdiff_t)r->nstates;
		r->states = realloc(r->states, r->cap * sizeof *r->states);
		if (!r->states)
			abort();
		from = inside ? &r->states[at] : from;
	}
	struct wrig_state *s = &r->states[r->nstates++];
	*s = (struct wrig_state){0};
	s->image = calloc(WRIG_PAGES_MAX, WRIG_PAGE);
	if (!s->image)
		abort();
	if (from) {
		s->generation = from->generation;
		s->db = from->db;
		memcpy(s->image, from->image, (size_t)from->db.db_pages * WRIG_PAGE);
	}
	s->db.page_size = WRIG_PAGE;
	s->db.db_pages = pages;
	return s;
}

static void append(struct wrig *r, uint16_t flags, const void *a, size_t na, const void *b, size_t nb, uint64_t *seq) {
	struct iovec iov[2] = {{(void *)a, na}, {(void *)b, nb}};
	struct ms_err e = MS_ERR_INIT;
	uint64_t next = ms_journal_next_seq(r->journal);
	if (ms_journal_append(r->journal, DB, strlen(DB), flags, iov, b ? 2 : 1, seq, &e) == MS_OK)
		return;
	if (!ms_env_sim_is_down(r->env)) {
		fprintf(stderr, "rig: append: %s\n", e.msg);
		abort();
	}
	*seq = next; /* the machine died at it: wrig_bury() sees whether it got there */
}

void wrig_sync(struct wrig *r) {
	struct ms_err e = MS_ERR_INIT;
	if (ms_env_sim_is_down(r->env) || ms_journal_sync(r->journal, ms_journal_next_seq(r->journal) - 1, &e))
		return;
	r->acked = ms_journal_durable_seq(r->journal);
	for (unsigned i = 0; i < r->nworkers; i++)
		ms_worker_kick(r->workers[i].w);
}

static void start_generation(struct wrig *r, struct wrig_state *s, const struct ms_generation *parent, uint64_t fork) {
	struct ms_buf b;
	memmove(r->lineage + 1, r->lineage, (parent ? r->nlineage : 0) * sizeof r->lineage[0]);
	r->nlineage = parent ? r->nlineage + 1 : 1;
	if (r->nlineage > 60)
		r->nlineage = 60;
	r->lineage[0] = (struct ms_lineage){.generation = s->generation, .fork_txid = fork};
	if (parent)
		r->lineage[0].parent = *parent;
	struct ms_generation_start g = {.generation = s->generation, .base = s->db, .mode = 0600, .lineage = r->lineage, .nlineage = r->nlineage};
	ms_buf_init(&b, 1u << 20);
	OR_DIE(ms_generation_start_encode(&g, &b, err));
	append(r, 0, b.data, b.len, NULL, 0, &s->seq);
	ms_buf_release(&b);
}

static struct ms_generation new_generation(struct wrig *r) {
	struct ms_generation g;
	ms_generation_make(&g, r->epoch ? r->epoch : 1, (uint32_t)rnd(r));
	return g;
}

void wrig_root(struct wrig *r) {
	struct wrig_state *s = new_state(r, NULL, 4 + (uint32_t)(rnd(r) % 4));
	for (size_t i = 0; i < (size_t)s->db.db_pages * WRIG_PAGE; i++)
		s->image[i] = (uint8_t)(rnd(r) % 7);
	s->generation = new_generation(r);
	s->db.txid = 1;
	s->db.time_us = ms_env_now_us(r->env);
	s->db.checksum = checksum(s->image, s->db.db_pages);
	start_generation(r, s, NULL, 0);
	wrig_sync(r);
}

static const struct wrig_state *state_at(const struct wrig *r, const struct ms_generation *g, uint64_t txid) {
	for (unsigned i = r->nstates; i-- > 0;)
		if (r->states[i].db.txid == txid && (!g || strcmp(r->states[i].generation.s, g->s) == 0))
			return &r->states[i];
	return NULL;
}

void wrig_fork_at(struct wrig *r, uint64_t txid) {
	const struct wrig_state *from = state_at(r, &wrig_now(r)->generation, txid);
	struct ms_generation parent = from->generation;
	struct wrig_state *s = new_state(r, from, from->db.db_pages);
	s->generation = new_generation(r);
	start_generation(r, s, &parent, txid);
	wrig_sync(r);
}

void wrig_fork(struct wrig *r) { wrig_fork_at(r, wrig_now(r)->db.txid); }

uint64_t wrig_commit_in(struct wrig *r, unsigned pages, unsigned entries, uint32_t flags, bool sync) {
	const struct wrig_state *old = wrig_now(r);
	uint32_t n = old->db.db_pages;
	if (rnd(r) % 4 == 0 && n < WRIG_PAGES_MAX)
		n++;
	else if (rnd(r) % 16 == 0 && n > 2)
		n--;
	struct wrig_state *s = new_state(r, old, n);
	old = s - 1;
	for (uint32_t p = n; p < old->db.db_pages; p++)
		memset(s->image + (size_t)p * WRIG_PAGE, 0, WRIG_PAGE);
	struct ms_page_encoder *enc = ms_page_encoder_new(1, false);
	struct ms_buf b;
	uint64_t txid = old->db.txid + 1;
	bool changed[WRIG_PAGES_MAX] = {0};
	for (unsigned k = 0; k < pages; k++)
		changed[rnd(r) % n] = true;
	if (n > old->db.db_pages)
		changed[n - 1] = true;
	s->db.txid = txid;
	s->db.time_us = ms_env_now_us(r->env);
	if (s->db.time_us < old->db.time_us)
		s->db.time_us = old->db.time_us;
	ms_buf_init(&b, 1u << 20);
	unsigned done = 0, total = 0;
	for (uint32_t p = 0; p < n; p++)
		total += changed[p];
	for (uint32_t p = 0; p < n; p++) {
		uint8_t *page = s->image + (size_t)p * WRIG_PAGE;
		enum ms_record_type type;
		if (!changed[p])
			continue;
		for (int k = 0; k < 40; k++)
			page[rnd(r) % WRIG_PAGE] = (uint8_t)rnd(r);
		bool delta = p < old->db.db_pages && !(flags & MS_COMMIT_CATCHUP);
		OR_DIE(ms_page_encode(enc, p + 1, page, WRIG_PAGE, delta ? old->image + (size_t)p * WRIG_PAGE : NULL, ms_page_hash(p + 1, page, WRIG_PAGE), &b,
				      &type, err));
		if (++done < total && entries > 1 && done % ((total + entries - 1) / entries) == 0) {
			uint8_t h[MS_RUN_HEADER_MAX];
			size_t nh = ms_run_header_put(h, done <= (total + entries - 1) / entries ? MS_RUN_FIRST : 0, txid, NULL);
			append(r, MS_ENTRY_CONTINUES | (done <= (total + entries - 1) / entries ? MS_ENTRY_BEGINS : 0), h, nh, b.data, b.len, &s->seq);
			ms_buf_clear(&b);
			entries |= 0x100;
		}
	}
	s->db.checksum = checksum(s->image, n);
	struct ms_commit c = {.flags = flags,
			      .txid = txid,
			      .time_us = s->db.time_us,
			      .page_size = WRIG_PAGE,
			      .db_pages = n,
			      .checksum = s->db.checksum,
			      .lost_commits = flags & MS_COMMIT_CATCHUP ? -1 : 0};
	uint8_t h[MS_RUN_HEADER_MAX];
	bool first = !(entries & 0x100);
	OR_DIE(ms_commit_encode(&c, &b, err));
	size_t nh = ms_run_header_put(h, MS_RUN_LAST | (first ? MS_RUN_FIRST : 0), txid, NULL);
	append(r, first ? MS_ENTRY_BEGINS : 0, h, nh, b.data, b.len, &s->seq);
	ms_buf_release(&b);
	ms_page_encoder_free(enc);
	if (sync)
		wrig_sync(r);
	return txid;
}

uint64_t wrig_commit(struct wrig *r, unsigned pages, bool sync) { return wrig_commit_in(r, pages, 1, 0, sync); }

/* ---- snapshots ---- */

static void put_done(void *arg, const struct ms_err *err) {
	struct wrig_worker *x = arg;
	if (err->code) {
		drop_snapshot(x); /* the worker still waits: asked again by the test or the next boot */
		return;
	}
	x->object++;
	put_next(x);
}

static void put_next(struct wrig_worker *x) {
	if (x->object < x->nobjects) {
		struct wrig_object *o = &x->objects[x->object];
		ms_worker_put_snapshot_object(x->w, o->name, o->data.data, o->data.len, put_done, x);
		return;
	}
	x->wants_snapshot = false;
	ms_worker_snapshot_published(x->w, &x->manifest, x->snap_seq, 1);
	drop_snapshot(x);
}

void wrig_snapshot(struct wrig *r, unsigned i) {
	struct wrig_worker *x = &r->workers[i];
	const struct wrig_state *s = wrig_now(r);
	uint32_t per = 8, at = 1;
	if (x->snapping || !s)
		return;
	wrig_sync(r);
	if (ms_env_sim_is_down(r->env))
		return;
	x->snapping = true;
	x->object = x->nobjects = 0;
	x->snap_seq = ms_journal_next_seq(r->journal);
	x->manifest = (struct ms_manifest){.generation = s->generation, .state = s->db, .mode = 0600, .pages_per_chunk = per, .epoch = r->epoch};
	x->manifest.chunks = calloc(8, sizeof *x->manifest.chunks);
	if (r->lineage[0].parent.s[0]) {
		x->manifest.parent_generation = r->lineage[0].parent;
		x->manifest.fork_txid = r->lineage[0].fork_txid;
	}
	for (; at <= s->db.db_pages; at += per) {
		struct ms_chunk_ref *c = &x->manifest.chunks[x->manifest.nchunks++];
		struct wrig_object *o = &x->objects[x->nobjects++];
		uint32_t n = s->db.db_pages - at + 1 < per ? s->db.db_pages - at + 1 : per;
		ms_buf_init(&o->data, 1u << 20);
		*c = (struct ms_chunk_ref){.first_page = at, .pages = n, .generation = s->generation};
		OR_DIE(ms_chunk_encode(at, n, WRIG_PAGE, s->image + (size_t)(at - 1) * WRIG_PAGE, 1, &o->data, &c->hash, err));
		c->bytes = o->data.len;
		ms_name_format(&(struct ms_name){.kind = MS_NAME_CHUNK, .generation = s->generation, .number = at, .hash = c->hash}, o->name);
	}
	struct wrig_object *o = &x->objects[x->nobjects++];
	ms_buf_init(&o->data, 1u << 20);
	OR_DIE(ms_manifest_encode(&x->manifest, NULL, NULL, NULL, 1, &o->data, err));
	ms_name_format(&(struct ms_name){.kind = MS_NAME_SNAPSHOT, .generation = s->generation, .first = s->db.txid, .first_us = s->db.time_us}, o->name);
	put_next(x);
}

/* ---- running ---- */

static bool all_shipped(void *arg) {
	struct wrig *r = arg;
	for (unsigned i = 0; i < r->nworkers; i++)
		if (!r->workers[i].fenced && (!ms_worker_caught_up(r->workers[i].w) || r->workers[i].snapping))
			return false;
	return true;
}

bool wrig_run(struct wrig *r, bool (*pred)(void *), void *arg, uint64_t max_us) {
	uint64_t start = ms_env_mono_ns(r->env) / 1000;
	enum ms_sim_end end = ms_env_sim_run_until(r->env, pred, arg, max_us);
	/* Time goes on although nothing happens. */
	uint64_t spent = ms_env_mono_ns(r->env) / 1000 - start;
	if (end == MS_SIM_IDLE && spent < max_us)
		r->env->ops->sleep_us(r->env, max_us - spent);
	return end == MS_SIM_DONE;
}

bool wrig_settle(struct wrig *r, uint64_t max_us) {
	/* A snapshot that failed is asked for again, as the stream does. */
	for (uint64_t spent = 0; spent < max_us; spent += 1000000) {
		if (wrig_run(r, all_shipped, r, 1000000))
			return true;
		if (ms_env_sim_is_down(r->env))
			return false;
		if (r->auto_snapshot)
			for (unsigned i = 0; i < r->nworkers; i++)
				if (!r->workers[i].fenced && r->workers[i].started && ms_worker_waits_for_snapshot(r->workers[i].w) && !r->workers[i].snapping)
					wrig_snapshot(r, i);
	}
	return false;
}
