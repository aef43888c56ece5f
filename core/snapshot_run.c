#include "core/snapshot_run.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/names.h"
#include "core/proven_read.h"
#include "core/scan.h"

#define WINDOW MS_SNAPSHOT_WINDOW
#define OBJECT_MAX (2 * MS_SNAPSHOT_CHUNK_BYTES + 2 * MS_SNAPSHOT_PATCH_MAX + MS_HEADER_MAX)
#define SECOND_US INT64_C(1000000)

enum phase { FILLING, CHUNK_READY, ENCODING, FINAL_READY, ENCODING_FINAL, WAIT_DURABLE, UPLOADING_FINAL, ENDED };

/* An encoded object. Chunk number n lies in window[n % WINDOW] as long as somebody who takes part needs it. A replica that has left may
 * still be at it for a while: it keeps the object, not the place in the window. */
struct object {
	struct ms_buf data;
	char name[MS_NAME_MAX];
	uint32_t needed; /* by participants that still have to put it, or are at it */
	uint32_t holds;	 /* puts under way, and the place in the window */
	bool odd; /* packed otherwise on some replica, and the manifest is for all of them: its size there is not stated */
	bool patch;
	uint32_t first_page;
	uint64_t hash;
};

struct participant {
	struct ms_snapshot_run *run;
	struct ms_worker *worker; /* NULL: dropped out */
	uint64_t next; /* chunk that it puts next */
	unsigned busy; /* puts under way */
	bool published;
	struct put {
		struct participant *p; /* NULL: not in use */
		struct object *o;
		bool left; /* not needed any more */
	} puts[MS_WORKER_SNAP_PUTS];
};

struct ms_snapshot_run {
	struct ms_env *env;
	struct ms_journal *journal;
	struct ms_capture *cap;
	int compression;
	struct ms_snapshot_hooks hooks;

	struct ms_snapshot_run **list, *next; /* where a run waits that was given up */
	_Atomic enum phase phase; /* the job acts in FILLING only, and leaves it for *_READY; the loop thread acts in the others */
	bool cancelled;
	struct participant *parts;
	uint32_t nparts;
	uint64_t chunks; /* handed out */
	struct object *window[WINDOW], *manifest, *encoding; /* NULL none */
	bool waited_for; /* by replicas that do not take part, and cannot have one of their own */
	bool within; /* a callback may come from a call that is being made: progress() is looked at after it */
	/* How long everything stood still only for the slower ones. Monotonic microseconds. */
	struct ms_timer *timer;
	int64_t began_us, held_us, still_since_us; /* the last: 0 = it does not */

	struct ms_scan scan;
	struct ms_manifest m;
	uint32_t chunk_cap;	   /* of m.chunks */
	uint64_t chunks_read, chunks_most;
	uint32_t ref;		   /* index of the chunk being made */
	uint8_t *raw;		   /* MS_SNAPSHOT_CHUNK_BYTES */
	uint32_t raw_first, raw_pages, raw_done;
	uint32_t *raw_pgno;	   /* of a patch chunk: the pages in raw, which lie anywhere; raw_first is the lowest */
	bool raw_patch;
	struct ms_chunk_ref *patches; /* patch chunks put; they come behind the chunks in m with the final state */
	uint32_t npatches, patches_cap;
	uint32_t *patch_pgno;
	uint8_t *patch;		   /* npatches pages */
	uint64_t final_seq;
	uint64_t bytes;

	struct ms_job job; /* encode */
	struct ms_err job_err;
	struct ms_snapshot_result result;
};

static void on_timer(void *arg);
static void progress(struct ms_snapshot_run *r);

static int64_t mono_us(const struct ms_snapshot_run *r) { return (int64_t)(ms_env_mono_ns(r->env) / 1000); }

static void unhold(struct object *o) {
	if (!o || --o->holds)
		return;
	ms_buf_release(&o->data);
	free(o);
}

static void release(struct ms_snapshot_run *r) {
	ms_scan_release(&r->scan);
	ms_manifest_release(&r->m);
	for (uint32_t i = 0; i < WINDOW; i++)
		unhold(r->window[i]);
	unhold(r->manifest);
	unhold(r->encoding);
	/* Of puts under way there are some only on a dead machine. */
	for (uint32_t i = 0; i < r->nparts; i++)
		for (uint32_t k = 0; k < MS_WORKER_SNAP_PUTS; k++)
			if (r->parts[i].puts[k].p)
				unhold(r->parts[i].puts[k].o);
	r->env->ops->timer_free(r->timer);
	free(r->raw);
	free(r->raw_pgno);
	free(r->patches);
	free(r->patch_pgno);
	free(r->patch);
	free(r->parts);
	free(r);
}

void ms_snapshot_run_abandon(struct ms_snapshot_run *r) {
	struct ms_snapshot_run **at = r->list;
	while (at && *at != r)
		at = &(*at)->next;
	if (at)
		*at = r->next;
	release(r);
}

static uint32_t puts_under_way(const struct ms_snapshot_run *r) {
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->nparts; i++)
		n += r->parts[i].busy;
	return n;
}

static void gone(struct ms_snapshot_run *r) {
	void (*wake)(void *) = r->hooks.wake;
	void *arg = r->hooks.arg;
	ms_snapshot_run_abandon(r);
	wake(arg);
}

/* r may be gone afterwards. */
static void end(struct ms_snapshot_run *r, const struct ms_err *err) {
	r->phase = ENDED;
	r->env->ops->timer_stop(r->timer);
	if (err)
		r->result.err = *err;
	if (!r->cancelled)
		r->hooks.done(r->hooks.arg, &r->result);
	else if (!puts_under_way(r))
		gone(r);
}

enum ms_code ms_snapshot_run_new(struct ms_env *env, struct ms_journal *j, struct ms_capture *cap, struct ms_worker **workers, uint32_t n,
				 int compression, uint32_t epoch, const struct ms_snapshot_hooks *hooks, struct ms_snapshot_run **ret, struct ms_err *err) {
	const struct ms_dbstate *st = ms_capture_state(cap);
	const struct ms_generation_start *g = ms_capture_generation(cap);
	struct ms_snapshot_run *r = calloc(1, sizeof *r);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "snapshot");
	r->env = env;
	r->journal = j;
	r->cap = cap;
	r->compression = compression;
	r->hooks = *hooks;
	r->began_us = mono_us(r);
	r->timer = env->ops->timer_new(env, on_timer, r);
	r->m.generation = g->generation;
	r->m.mode = g->mode;
	r->m.pages_per_chunk = MS_SNAPSHOT_CHUNK_BYTES / st->page_size;
	r->m.epoch = epoch;
	if (g->nlineage && g->lineage[0].parent.s[0]) {
		r->m.parent_generation = g->lineage[0].parent;
		r->m.fork_txid = g->lineage[0].fork_txid;
		r->m.seeded = g->lineage[0].seeded;
	}
	r->chunks_most = 4 * ((uint64_t)st->db_pages / r->m.pages_per_chunk + 1) + 64;
	r->raw = malloc(MS_SNAPSHOT_CHUNK_BYTES > MS_SNAPSHOT_INLINE ? MS_SNAPSHOT_CHUNK_BYTES : MS_SNAPSHOT_INLINE);
	r->parts = calloc(n ? n : 1, sizeof *r->parts);
	if (!r->raw || !r->parts || !r->timer || ms_scan_init(&r->scan, st->db_pages, err) != MS_OK) {
		release(r);
		return ms_err_set(err, MS_ENOMEM, "snapshot of %u pages", st->db_pages);
	}
	for (uint32_t i = 0; i < n; i++)
		r->parts[i] = (struct participant){.run = r, .worker = workers[i]};
	r->nparts = n;
	*ret = r;
	return MS_OK;
}

bool ms_snapshot_run_wants_fill(const struct ms_snapshot_run *r) { return r->phase == FILLING; }

void ms_snapshot_run_touch(void *run, uint32_t pgno) {
	struct ms_snapshot_run *r = run;
	ms_scan_mark(&r->scan, pgno);
}

uint64_t ms_snapshot_run_needs_seq(const struct ms_snapshot_run *r) {
	switch ((enum phase)r->phase) {
	case FINAL_READY:
	case ENCODING_FINAL:
	case WAIT_DURABLE:
	case UPLOADING_FINAL:
		return r->final_seq + 1;
	default:
		return UINT64_MAX;
	}
}

uint32_t ms_snapshot_run_percent(const struct ms_snapshot_run *r) {
	if (!r->scan.db_pages)
		return 100;
	return (uint32_t)((uint64_t)(r->scan.next - 1) * 100 / r->scan.db_pages);
}

static enum ms_code read_proven(struct ms_snapshot_run *r, struct ms_source *src, uint32_t first, uint32_t count, uint8_t *out,
				struct ms_err *err) {
	enum ms_code rc = ms_proven_read(r->cap, src, first, count, out, err);
	r->result.damaged |= rc == MS_ECORRUPT;
	return rc;
}

static enum ms_code refs_reserve(struct ms_chunk_ref **v, uint32_t *cap, uint32_t need, struct ms_err *err) {
	uint32_t n = *cap ? *cap : 64;
	if (need <= *cap)
		return MS_OK;
	while (n < need)
		n *= 2;
	struct ms_chunk_ref *p = reallocarray(*v, n, sizeof *p);
	if (!p)
		return ms_err_set(err, MS_ENOMEM, "%u chunk references", n);
	*v = p;
	*cap = n;
	return MS_OK;
}

static struct ms_chunk_ref *current_ref(struct ms_snapshot_run *r) { return r->raw_patch ? &r->patches[r->ref] : &r->m.chunks[r->ref]; }

/* The database's size has changed: chunks that reach past its end, and a partial last chunk that it has outgrown, are read again. */
static void follow_size(struct ms_snapshot_run *r, uint32_t db_pages) {
	if (r->raw_pages && (r->raw_first + r->raw_pages - 1 > db_pages ||
			     (r->raw_pages < r->m.pages_per_chunk && r->raw_first + r->raw_pages - 1 < db_pages))) {
		r->scan.next = r->raw_first;
		r->raw_pages = r->raw_done = 0;
	}
	while (r->m.nchunks) {
		struct ms_chunk_ref *last = &r->m.chunks[r->m.nchunks - 1];
		uint32_t end_page = last->first_page + last->pages - 1;
		if (end_page <= db_pages && (last->pages == r->m.pages_per_chunk || end_page == db_pages))
			break;
		if (r->scan.next > last->first_page)
			r->scan.next = last->first_page;
		r->m.nchunks--;
	}
	ms_scan_resize(&r->scan, db_pages);
}

static enum ms_code make_final(struct ms_snapshot_run *r, struct ms_source *src, struct ms_err *err) {
	const struct ms_dbstate *st = ms_capture_state(r->cap);
	uint32_t ps = st->page_size, n = 0, first, run;
	enum ms_code rc;
	if (r->m.inline_pages) {
		if ((rc = read_proven(r, src, 1, st->db_pages, r->raw, err)) != MS_OK)
			return rc;
	} else {
		free(r->patch_pgno);
		free(r->patch);
		r->patch_pgno = malloc(((size_t)r->scan.ndirty + 1) * sizeof *r->patch_pgno);
		r->patch = malloc((size_t)r->scan.ndirty * ps + 1);
		if (!r->patch_pgno || !r->patch)
			return ms_err_set(err, MS_ENOMEM, "%u patch pages", r->scan.ndirty);
		r->scan.cursor = 1;
		while ((run = ms_scan_next(&r->scan, 64, &first))) {
			if ((rc = read_proven(r, src, first, run, r->patch + (size_t)n * ps, err)) != MS_OK) {
				/* not pinned: put back what was taken and come again */
				for (uint32_t i = 0; i < run; i++)
					ms_scan_mark(&r->scan, first + i);
				for (uint32_t i = 0; i < n; i++)
					ms_scan_mark(&r->scan, r->patch_pgno[i]);
				return rc;
			}
			for (uint32_t i = 0; i < run; i++)
				r->patch_pgno[n++] = first + i;
		}
	}
	/* Each page was proven by its page sum; these must add up to the database checksum, or the snapshot proves nothing. */
	uint64_t sum;
	if ((rc = ms_pagesums_sum(ms_capture_sums(r->cap), st->db_pages, &sum, err)) != MS_OK)
		return rc;
	if (sum != st->checksum)
		return ms_err_set(err, MS_EGAP, "page sums add up to %016llx, the last commit says %016llx: local state is not to be trusted",
				  (unsigned long long)sum, (unsigned long long)st->checksum);
	if (r->npatches) {
		if ((rc = refs_reserve(&r->m.chunks, &r->chunk_cap, r->m.nchunks + r->npatches, err)) != MS_OK)
			return rc;
		memcpy(r->m.chunks + r->m.nchunks, r->patches, r->npatches * sizeof *r->patches);
		r->m.nchunks += r->npatches;
		r->npatches = 0;
	}
	r->m.npatches = n;
	r->m.state = *st;
	r->final_seq = ms_capture_last_seq(r->cap);
	r->phase = FINAL_READY;
	return MS_OK;
}

static enum ms_code count_chunk(struct ms_snapshot_run *r, struct ms_err *err) {
	if (++r->chunks_read > r->chunks_most)
		return ms_err_set(err, MS_ETIMEDOUT, "the database changes faster than the snapshot can be stored");
	return MS_OK;
}

/* The next chunk of the main pass. */
static enum ms_code choose_chunk(struct ms_snapshot_run *r, struct ms_err *err) {
	enum ms_code rc = count_chunk(r, err);
	if (rc != MS_OK)
		return rc;
	r->raw_patch = false;
	r->ref = r->m.nchunks;
	r->raw_first = r->scan.next;
	uint32_t left = r->scan.db_pages - r->raw_first + 1;
	r->raw_pages = left < r->m.pages_per_chunk ? left : r->m.pages_per_chunk;
	r->raw_done = 0;
	return MS_OK;
}

/* Pages written since they were read, too many for the manifest: as many as fill a chunk, into one of their own. */
static enum ms_code fill_patch(struct ms_snapshot_run *r, struct ms_source *src, struct ms_err *err) {
	uint32_t ps = ms_capture_state(r->cap)->page_size, most = MS_SNAPSHOT_CHUNK_BYTES / ps, n = 0, first, run;
	if (!r->raw_pgno && !(r->raw_pgno = malloc(most * sizeof *r->raw_pgno)))
		return ms_err_set(err, MS_ENOMEM, "%u patch pages", most);
	r->scan.cursor = 1; /* ascending */
	while (n < most && (run = ms_scan_next(&r->scan, most - n < 64 ? most - n : 64, &first))) {
		for (uint32_t i = 0; i < run; i++)
			r->raw_pgno[n + i] = first + i;
		enum ms_code rc = read_proven(r, src, first, run, r->raw + (size_t)n * ps, err);
		n += run;
		if (rc != MS_OK) { /* not pinned: put back what was taken and come again */
			for (uint32_t i = 0; i < n; i++)
				ms_scan_mark(&r->scan, r->raw_pgno[i]);
			return rc;
		}
	}
	enum ms_code rc = count_chunk(r, err);
	if (rc != MS_OK)
		return rc;
	r->raw_patch = true;
	r->ref = r->npatches;
	r->raw_first = r->raw_pgno[0];
	r->raw_pages = r->raw_done = n;
	r->phase = CHUNK_READY;
	return MS_OK;
}

enum ms_code ms_snapshot_run_fill(struct ms_snapshot_run *r, struct ms_source *src, uint64_t budget_us, struct ms_err *err) {
	const struct ms_dbstate *st = ms_capture_state(r->cap);
	uint32_t ps = st->page_size;
	uint64_t start = ms_env_mono_ns(r->env);
	enum ms_code rc;

	if (r->phase != FILLING)
		return MS_OK;
	if (r->scan.failed)
		return ms_err_set(err, MS_ENOMEM, "bitmap of the snapshot");
	follow_size(r, st->db_pages);
	r->m.inline_pages = (uint64_t)st->db_pages * ps <= MS_SNAPSHOT_INLINE && !r->m.nchunks && !r->npatches;
	if (r->m.inline_pages || (!r->raw_pages && ms_scan_main_done(&r->scan) &&
				  (uint64_t)r->scan.ndirty * ps <= MS_SNAPSHOT_PATCH_MAX))
		return make_final(r, src, err);
	if (!r->raw_pages && ms_scan_main_done(&r->scan))
		return fill_patch(r, src, err);
	do {
		if (!r->raw_pages && (rc = choose_chunk(r, err)) != MS_OK)
			return rc;
		uint32_t n = r->raw_pages - r->raw_done;
		uint32_t most = (256u << 10) / ps ? (256u << 10) / ps : 1;
		n = n < most ? n : most;
		uint32_t first = r->raw_first + r->raw_done;
		if ((rc = read_proven(r, src, first, n, r->raw + (size_t)r->raw_done * ps, err)) != MS_OK)
			return rc;
		r->raw_done += n;
		r->scan.next = first + n; /* from here on a write to these pages makes them dirty */
		/* An earlier patch chunk may hold older ones of them, and applies later: they have to come again behind it. */
		for (uint32_t i = 0; i < n && r->npatches; i++)
			ms_scan_mark(&r->scan, first + i);
		if (r->raw_done == r->raw_pages) {
			r->phase = CHUNK_READY;
			return MS_OK;
		}
	} while (ms_env_mono_ns(r->env) - start < budget_us * 1000);
	return MS_OK;
}

static bool putting(const struct participant *p, const struct object *o) {
	for (uint32_t i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		if (p->puts[i].p && p->puts[i].o == o)
			return true;
	return false;
}

/* Takes no part any more. What it has under way goes on until it returns. */
static void drop_out(struct participant *p) {
	struct ms_snapshot_run *r = p->run;
	if (!p->worker)
		return;
	p->worker = NULL;
	if (r->phase == UPLOADING_FINAL && !p->published && !putting(p, r->manifest))
		r->manifest->needed--;
	for (uint32_t i = 0; i < MS_WORKER_SNAP_PUTS; i++) {
		if (!p->puts[i].p)
			continue;
		p->puts[i].left = true;
		p->puts[i].o->needed--;
	}
	for (; p->next < r->chunks; p->next++)
		r->window[p->next % WINDOW]->needed--;
}

/* ---- handing out (loop thread) ---- */

static void put_done(void *arg, const struct ms_err *err) {
	struct put *put = arg;
	struct participant *p = put->p;
	struct ms_snapshot_run *r = p->run;
	struct object *o = put->o;
	bool failed = err && err->code && err->code != MS_EEXISTS;
	if (failed)
		drop_out(p); /* fenced, stopped, or left: the others go on */
	bool counts = !put->left;
	put->p = NULL;
	p->busy--;
	if (counts) {
		o->needed--;
		o->odd = o->odd || (err && err->code == MS_EEXISTS);
	}
	if (counts && o == r->manifest && !r->cancelled) {
		p->published = true;
		r->result.published++;
		bool within = r->within;
		r->within = true;
		ms_worker_snapshot_published(p->worker, &r->m, r->final_seq + 1, r->bytes);
		r->within = within;
	}
	unhold(o);
	if (!r->within)
		progress(r);
}

/* It has fewer than MS_WORKER_SNAP_PUTS under way. */
static void put_one(struct participant *p, struct object *o) {
	struct put *put = p->puts;
	while (put->p)
		put++;
	*put = (struct put){.p = p, .o = o};
	p->busy++;
	o->holds++;
	ms_worker_put_snapshot_object(p->worker, o->name, o->data.data, o->data.len, put_done, put);
}

static bool has_all(const struct participant *p) {
	return p->busy == 0 && (p->run->phase == UPLOADING_FINAL ? p->published : p->next == p->run->chunks);
}

static void hand_out(struct ms_snapshot_run *r) {
	for (uint32_t i = 0; i < r->nparts; i++) {
		struct participant *p = &r->parts[i];
		while (p->worker && p->next < r->chunks && p->busy < ms_worker_snapshot_puts(p->worker))
			put_one(p, r->window[p->next++ % WINDOW]);
		if (p->worker && r->phase == UPLOADING_FINAL && !p->published && !p->busy)
			put_one(p, r->manifest);
	}
}

static uint32_t active(const struct ms_snapshot_run *r) {
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->nparts; i++)
		n += r->parts[i].worker != NULL;
	return n;
}

static bool window_empty(const struct ms_snapshot_run *r) {
	for (uint32_t i = 0; i < WINDOW; i++)
		if (r->window[i])
			return false;
	return true;
}

static bool has_room(const struct ms_snapshot_run *r) { return !r->window[r->chunks % WINDOW]; }

/* Nothing moves but the slower ones' puts: some have everything, and the next object waits for the others. */
static bool stands_still(const struct ms_snapshot_run *r) {
	bool ahead = r->waited_for, behind = false;
	for (uint32_t i = 0; i < r->nparts; i++) {
		ahead = ahead || (r->parts[i].worker && has_all(&r->parts[i]));
		behind = behind || (r->parts[i].worker && !has_all(&r->parts[i]));
	}
	if (!ahead || !behind)
		return false;
	return (r->phase == CHUNK_READY && !has_room(r)) || (r->phase == FINAL_READY && !window_empty(r)) || r->phase == UPLOADING_FINAL;
}

static void mind_the_slow(struct ms_snapshot_run *r) {
	bool still = stands_still(r);
	int64_t now = mono_us(r);
	if (still == (r->still_since_us != 0))
		return;
	if (!still) {
		r->held_us += now - r->still_since_us;
		r->still_since_us = 0;
		r->env->ops->timer_stop(r->timer);
		return;
	}
	r->still_since_us = now;
	int64_t left = MS_SNAPSHOT_PATIENCE_US + (now - r->began_us - r->held_us) - r->held_us;
	r->env->ops->timer_start(r->timer, left > 0 ? (uint64_t)left : 0);
}

/* The others have waited long enough. */
static void on_timer(void *arg) {
	struct ms_snapshot_run *r = arg;
	if (!r->still_since_us || r->phase == ENDED)
		return;
	r->within = true;
	for (uint32_t i = 0; i < r->nparts; i++) {
		struct participant *p = &r->parts[i];
		struct ms_worker *w = p->worker;
		if (!w || has_all(p))
			continue;
		drop_out(p);
		ms_worker_leave_snapshot(w);
		r->result.slow++;
		r->hooks.slow(r->hooks.arg, w);
	}
	r->within = false;
	progress(r);
}

static void progress(struct ms_snapshot_run *r) {
	if (r->cancelled) {
		/* An encoding job ends it itself. */
		if (!puts_under_way(r) && r->phase != ENCODING && r->phase != ENCODING_FINAL)
			gone(r);
		return;
	}
	if (r->phase == ENDED)
		return;
	r->within = true;
	hand_out(r);
	r->within = false;
	bool freed = false;
	for (uint32_t i = 0; i < WINDOW; i++) {
		struct object *o = r->window[i];
		if (!o || o->needed)
			continue;
		freed = true;
		if (o->odd)
			continue; /* advance() frees it, when the source job does not look at the list of chunks */
		r->window[i] = NULL;
		unhold(o);
	}
	if (!active(r) && r->phase != ENCODING && r->phase != ENCODING_FINAL) {
		struct ms_err e = MS_ERR_INIT;
		(void)ms_err_set(&e, MS_ECANCELED, "no replica is left that wants this snapshot");
		end(r, r->result.published ? NULL : &e);
		return;
	}
	if (r->phase == UPLOADING_FINAL && !r->manifest->needed) {
		struct ms_err e = MS_ERR_INIT;
		if (!r->result.published)
			(void)ms_err_set(&e, MS_ECANCELED, "no replica took the snapshot");
		end(r, &e);
		return;
	}
	mind_the_slow(r);
	if (freed)
		r->hooks.wake(r->hooks.arg);
}

/* The object is there: for everybody who takes part now. */
static void publish(struct ms_snapshot_run *r, struct object *o) {
	o->needed = active(r);
	r->bytes += o->data.len;
	r->result.txid = r->m.state.txid;
	r->result.bytes = r->bytes;
	progress(r);
}

void ms_snapshot_run_leave(struct ms_snapshot_run *r, struct ms_worker *w) {
	for (uint32_t i = 0; i < r->nparts; i++) {
		if (r->parts[i].worker != w)
			continue;
		r->within = true;
		drop_out(&r->parts[i]);
		ms_worker_leave_snapshot(w);
		r->within = false;
		progress(r);
		return;
	}
}

void ms_snapshot_run_waited_for(struct ms_snapshot_run *r, bool yes) {
	r->waited_for = yes;
	if (r->phase != ENDED)
		mind_the_slow(r);
}

bool ms_snapshot_run_has(const struct ms_snapshot_run *r, const struct ms_worker *w) {
	for (uint32_t i = 0; i < r->nparts; i++)
		if (r->parts[i].worker == w)
			return true;
	return false;
}

/* ---- encoding ---- */

static void encode_run(void *arg) {
	struct ms_snapshot_run *r = arg;
	struct ms_buf *out = &r->encoding->data;
	r->job_err = MS_ERR_INIT;
	if (r->phase == ENCODING && r->raw_patch) {
		struct ms_chunk_ref *c = current_ref(r);
		if (ms_chunk_encode_patch(r->raw_pgno, r->raw_pages, r->m.state.page_size, r->raw, r->compression, out, &c->hash, &r->job_err) == MS_OK)
			c->bytes = out->len;
	} else if (r->phase == ENCODING) {
		struct ms_chunk_ref *c = current_ref(r);
		if (ms_chunk_encode(r->raw_first, r->raw_pages, r->m.state.page_size, r->raw, r->compression, out, &c->hash, &r->job_err) == MS_OK)
			c->bytes = out->len;
	} else {
		enum ms_code rc = ms_manifest_encode(&r->m, r->m.inline_pages ? r->raw : NULL, r->patch_pgno, r->patch, r->compression, out, &r->job_err);
		if (rc != MS_OK)
			r->job_err.code = rc;
	}
}

static void encode_done(void *arg) {
	struct ms_snapshot_run *r = arg;
	if (r->cancelled || r->job_err.code != MS_OK) {
		end(r, r->job_err.code != MS_OK ? &r->job_err : NULL);
		return;
	}
	struct ms_name n = {.generation = r->m.generation};
	if (r->phase == ENCODING) {
		struct object *o = r->window[r->chunks++ % WINDOW] = r->encoding;
		r->encoding = NULL;
		o->patch = r->raw_patch;
		o->first_page = r->raw_first;
		o->hash = current_ref(r)->hash;
		n.kind = MS_NAME_CHUNK;
		n.number = o->first_page;
		n.hash = o->hash;
		ms_name_format(&n, o->name);
		r->raw_pages = r->raw_done = 0;
		r->phase = FILLING;
		void (*wake)(void *) = r->hooks.wake;
		void *wake_arg = r->hooks.arg;
		publish(r, o); /* r may be gone */
		wake(wake_arg);
	} else {
		n.kind = MS_NAME_SNAPSHOT;
		n.first = r->m.state.txid;
		n.first_us = r->m.state.time_us;
		r->manifest = r->encoding;
		r->encoding = NULL;
		ms_name_format(&n, r->manifest->name);
		r->phase = WAIT_DURABLE;
		ms_snapshot_run_durable(r, ms_journal_durable_seq(r->journal));
	}
}

void ms_snapshot_run_durable(struct ms_snapshot_run *r, uint64_t seq) {
	/* A snapshot ahead of our durable journal would look like a newer writer after a crash. */
	if (r->phase != WAIT_DURABLE)
		return;
	if (seq < r->final_seq) {
		ms_journal_kick(r->journal);
		return;
	}
	r->phase = UPLOADING_FINAL;
	publish(r, r->manifest);
}

static void size_unknown(struct ms_snapshot_run *r, const struct object *o) {
	struct ms_chunk_ref *v = o->patch ? r->patches : r->m.chunks;
	for (uint32_t i = 0, n = o->patch ? r->npatches : r->m.nchunks; i < n; i++)
		if (v[i].first_page == o->first_page && v[i].hash == o->hash)
			v[i].bytes = 0;
}

void ms_snapshot_run_advance(struct ms_snapshot_run *r) {
	struct ms_err err = MS_ERR_INIT;
	for (uint32_t i = 0; i < WINDOW; i++) {
		struct object *o = r->window[i];
		if (!o || !o->odd)
			continue;
		size_unknown(r, o);
		o->odd = false;
		if (o->needed)
			continue;
		r->window[i] = NULL;
		unhold(o);
	}
	if (r->phase == CHUNK_READY ? !has_room(r) : r->phase != FINAL_READY || !window_empty(r)) {
		mind_the_slow(r);
		return;
	}
	if (!(r->encoding = calloc(1, sizeof *r->encoding))) {
		(void)ms_err_set(&err, MS_ENOMEM, "snapshot object");
		end(r, &err);
		return;
	}
	r->encoding->holds = 1;
	ms_buf_init(&r->encoding->data, OBJECT_MAX);
	if (r->phase == CHUNK_READY) {
		enum ms_code rc = r->raw_patch ? refs_reserve(&r->patches, &r->patches_cap, r->ref + 1, &err)
					       : refs_reserve(&r->m.chunks, &r->chunk_cap, r->ref + 1, &err);
		if (rc != MS_OK) {
			end(r, &err);
			return;
		}
		*(r->raw_patch ? &r->npatches : &r->m.nchunks) = r->ref + 1;
		r->m.state.page_size = ms_capture_state(r->cap)->page_size;
		*current_ref(r) = (struct ms_chunk_ref){.first_page = r->raw_first, .pages = r->raw_pages, .patch = r->raw_patch, .generation = r->m.generation};
		r->phase = ENCODING;
	} else {
		r->phase = ENCODING_FINAL;
	}
	mind_the_slow(r);
	r->job = (struct ms_job){.run = encode_run, .done = encode_done, .arg = r};
	r->env->ops->submit(r->env, MS_LANE_CPU, &r->job);
}

void ms_snapshot_run_drop(struct ms_snapshot_run *r, struct ms_snapshot_run **list) {
	if (!r)
		return;
	r->cancelled = true;
	r->env->ops->timer_stop(r->timer);
	r->within = true;
	for (uint32_t i = 0; i < r->nparts; i++) {
		struct ms_worker *w = r->parts[i].worker;
		if (!w || r->parts[i].published)
			continue;
		drop_out(&r->parts[i]);
		ms_worker_leave_snapshot(w);
	}
	r->within = false;
	enum phase phase = r->phase;
	if (phase == ENCODING || phase == ENCODING_FINAL || puts_under_way(r)) {
		r->list = list; /* the job or the puts under way end it */
		r->next = *list;
		*list = r;
	} else {
		release(r);
	}
}
