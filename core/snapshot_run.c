#include "core/snapshot_run.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/names.h"
#include "core/proven_read.h"
#include "core/scan.h"

/*
 *   FILLING -> CHUNK_READY -> ENCODING -> WAIT_SLOT -> FILLING ...        one chunk; its puts go on beside the next ones
 *   FILLING -> FINAL_READY -> WAIT_CHUNKS -> ENCODING_FINAL -> WAIT_DURABLE -> UPLOADING_FINAL -> ENDED
 *   any -> ENDING -> ENDED                                                when the puts under way have returned
 */
enum phase { FILLING, CHUNK_READY, ENCODING, WAIT_SLOT, FINAL_READY, WAIT_CHUNKS, ENCODING_FINAL, WAIT_DURABLE, UPLOADING_FINAL, ENDING, ENDED };

#define SLOTS MS_WORKER_SNAP_PUTS

/* One object on its way to the participants. */
struct slot {
	struct ms_buf out;
	char name[MS_NAME_MAX];
	uint32_t first_page;
	uint64_t hash;
	bool used;
	bool repacked;	  /* a participant holds the chunk in other bytes */
	uint32_t waiting; /* puts under way, and one for who gives them out */
	struct put {
		struct ms_snapshot_run *run;
		struct slot *slot;
		uint32_t part;
	} *puts; /* one for each participant */
};

struct ms_snapshot_run {
	struct ms_env *env;
	struct ms_journal *journal;
	struct ms_capture *cap;
	int compression;
	void (*done)(void *arg, const struct ms_snapshot_result *);
	void (*wake)(void *arg);
	void *arg;

	struct ms_snapshot_run **list, *next; /* where a run waits that was given up */
	_Atomic enum phase phase; /* the job acts in FILLING only, and leaves it for *_READY; the loop thread acts in the others */
	bool cancelled;
	struct ms_err why;  /* ENDING */
	struct ms_worker **parts; /* NULL: dropped out */
	uint32_t nparts;
	struct slot slots[SLOTS];
	struct slot *slot; /* being encoded into */
	uint32_t flying;   /* slots whose puts are under way */

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

static void release(struct ms_snapshot_run *r) {
	ms_scan_release(&r->scan);
	ms_manifest_release(&r->m);
	for (unsigned i = 0; i < SLOTS; i++) {
		ms_buf_release(&r->slots[i].out);
		free(r->slots[i].puts);
	}
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

/* No put and no job is under way. */
static void end(struct ms_snapshot_run *r) {
	r->phase = ENDED;
	if (!r->result.published)
		r->result.err = r->why;
	if (!r->cancelled) {
		r->done(r->arg, &r->result);
		return;
	}
	void (*wake)(void *) = r->wake;
	void *arg = r->arg;
	ms_snapshot_run_abandon(r);
	wake(arg);
}

/* Loop thread, while the source job and the encoding job are not at it. */
static void fail(struct ms_snapshot_run *r, enum ms_code code, const char *why) {
	r->phase = ENDING;
	(void)ms_err_set(&r->why, code, "%s", why);
	if (!r->flying)
		end(r);
}

enum ms_code ms_snapshot_run_new(struct ms_env *env, struct ms_journal *j, struct ms_capture *cap, struct ms_worker **workers, uint32_t n,
				 int compression, uint32_t epoch, void (*done)(void *arg, const struct ms_snapshot_result *),
				 void (*wake)(void *arg), void *arg,
				 struct ms_snapshot_run **ret, struct ms_err *err) {
	const struct ms_dbstate *st = ms_capture_state(cap);
	const struct ms_generation_start *g = ms_capture_generation(cap);
	struct ms_snapshot_run *r = calloc(1, sizeof *r);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "snapshot");
	r->env = env;
	r->journal = j;
	r->cap = cap;
	r->compression = compression;
	r->done = done;
	r->wake = wake;
	r->arg = arg;
	for (unsigned i = 0; i < SLOTS; i++)
		ms_buf_init(&r->slots[i].out, 2 * MS_SNAPSHOT_CHUNK_BYTES + 2 * MS_SNAPSHOT_PATCH_MAX + MS_HEADER_MAX);
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
	bool ok = r->raw && r->parts;
	for (unsigned i = 0; i < SLOTS && ok; i++)
		ok = (r->slots[i].puts = calloc(n ? n : 1, sizeof *r->slots[i].puts)) != NULL;
	if (!ok || ms_scan_init(&r->scan, st->db_pages, err) != MS_OK) {
		release(r);
		return ms_err_set(err, MS_ENOMEM, "snapshot of %u pages", st->db_pages);
	}
	for (uint32_t i = 0; i < n; i++) {
		r->parts[i] = workers[i];
		for (unsigned k = 0; k < SLOTS; k++)
			r->slots[k].puts[i] = (struct put){r, &r->slots[k], i};
	}
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
	case WAIT_CHUNKS:
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

/* ---- puts ---- */

static bool wanted(const struct ms_snapshot_run *r) {
	for (uint32_t i = 0; i < r->nparts; i++)
		if (r->parts[i])
			return true;
	return false;
}

static struct slot *free_slot(struct ms_snapshot_run *r) {
	for (unsigned i = 0; i < SLOTS; i++)
		if (!r->slots[i].used)
			return &r->slots[i];
	return NULL;
}

/* Its puts have returned. Not while the source job may be at the references. */
static void reap(struct ms_snapshot_run *r, struct slot *s) {
	/* The manifest is for all participants: its chunk's size is then not stated. */
	for (uint32_t i = 0; s->repacked && i < r->m.nchunks; i++)
		if (r->m.chunks[i].hash == s->hash && r->m.chunks[i].first_page == s->first_page)
			r->m.chunks[i].bytes = 0;
	for (uint32_t i = 0; s->repacked && i < r->npatches; i++)
		if (r->patches[i].hash == s->hash && r->patches[i].first_page == s->first_page)
			r->patches[i].bytes = 0;
	s->used = s->repacked = false;
}

static void reap_all(struct ms_snapshot_run *r) {
	for (unsigned i = 0; i < SLOTS; i++)
		if (r->slots[i].used && !r->slots[i].waiting)
			reap(r, &r->slots[i]);
}

static void fill_on(struct ms_snapshot_run *r) {
	if (r->phase != WAIT_SLOT || !free_slot(r))
		return;
	r->phase = FILLING;
	r->wake(r->arg);
}

static void published(struct ms_snapshot_run *r) {
	for (uint32_t i = 0; i < r->nparts; i++) {
		if (!r->parts[i])
			continue;
		ms_worker_snapshot_published(r->parts[i], &r->m, r->final_seq + 1, r->bytes);
		r->result.published++;
	}
	r->result.txid = r->m.state.txid;
	r->result.bytes = r->bytes;
	(void)ms_err_set(&r->why, MS_ECANCELED, "no replica took the snapshot");
	end(r);
}

static void encode(struct ms_snapshot_run *r, enum phase phase);

static void put_ended(struct ms_snapshot_run *r, struct slot *s) {
	enum phase phase = r->phase;
	if (--s->waiting)
		return;
	r->flying--;
	/* What the source job may be looking at has to wait until it has ended (advance). */
	if (phase != FILLING || !s->repacked)
		reap(r, s);
	if (phase == ENDING || r->cancelled) {
		if (!r->flying && phase != ENCODING && phase != ENCODING_FINAL)
			end(r);
	} else if (phase == UPLOADING_FINAL) {
		published(r);
	} else if (phase == WAIT_CHUNKS) {
		if (!r->flying)
			encode(r, ENCODING_FINAL);
	} else {
		fill_on(r);
	}
}

static void put_done(void *arg, const struct ms_err *err) {
	struct put *p = arg;
	struct ms_snapshot_run *r = p->run;
	if (err && err->code == MS_EEXISTS)
		p->slot->repacked = true;
	else if (err && err->code != MS_OK)
		r->parts[p->part] = NULL; /* fenced or stopped: the others go on */
	put_ended(r, p->slot);
}

/* May end the run. */
static void put_all(struct ms_snapshot_run *r, struct slot *s) {
	r->bytes += s->out.len;
	r->flying++;
	s->waiting = 1;
	for (uint32_t i = 0; i < r->nparts; i++)
		if (r->parts[i]) {
			s->waiting++;
			ms_worker_put_snapshot_object(r->parts[i], s->name, s->out.data, s->out.len, put_done, &s->puts[i]);
		}
	put_ended(r, s);
}

/* ---- encoding ---- */

static void encode_run(void *arg) {
	struct ms_snapshot_run *r = arg;
	struct ms_buf *out = &r->slot->out;
	ms_buf_clear(out);
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
	struct slot *s = r->slot;
	if (r->cancelled || r->job_err.code != MS_OK || !wanted(r)) {
		s->used = false;
		if (r->job_err.code != MS_OK)
			fail(r, r->job_err.code, r->job_err.msg);
		else
			fail(r, MS_ECANCELED, "no replica is left that wants this snapshot");
		return;
	}
	struct ms_name n = {.generation = r->m.generation};
	if (r->phase == ENCODING) {
		n.kind = MS_NAME_CHUNK;
		n.number = s->first_page = r->raw_first;
		n.hash = s->hash = current_ref(r)->hash;
		r->raw_pages = r->raw_done = 0;
		ms_name_format(&n, s->name);
		r->phase = WAIT_SLOT;
		put_all(r, s);
		fill_on(r);
		return;
	}
	n.kind = MS_NAME_SNAPSHOT;
	n.first = r->m.state.txid;
	n.first_us = r->m.state.time_us;
	ms_name_format(&n, s->name);
	r->phase = WAIT_DURABLE;
	ms_snapshot_run_durable(r, ms_journal_durable_seq(r->journal));
}

static void encode(struct ms_snapshot_run *r, enum phase phase) {
	r->slot = free_slot(r);
	r->slot->used = true;
	r->phase = phase;
	r->job = (struct ms_job){.run = encode_run, .done = encode_done, .arg = r};
	r->env->ops->submit(r->env, MS_LANE_CPU, &r->job);
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
	put_all(r, r->slot);
}

void ms_snapshot_run_advance(struct ms_snapshot_run *r) {
	struct ms_err err = MS_ERR_INIT;
	if (r->phase != CHUNK_READY && r->phase != FINAL_READY)
		return;
	reap_all(r);
	if (r->phase == FINAL_READY) {
		/* The manifest says what is there. */
		if (r->flying)
			r->phase = WAIT_CHUNKS;
		else
			encode(r, ENCODING_FINAL);
		return;
	}
	enum ms_code rc = r->raw_patch ? refs_reserve(&r->patches, &r->patches_cap, r->ref + 1, &err)
				       : refs_reserve(&r->m.chunks, &r->chunk_cap, r->ref + 1, &err);
	if (rc != MS_OK) {
		fail(r, rc, err.msg);
		return;
	}
	*(r->raw_patch ? &r->npatches : &r->m.nchunks) = r->ref + 1;
	r->m.state.page_size = ms_capture_state(r->cap)->page_size;
	*current_ref(r) = (struct ms_chunk_ref){.first_page = r->raw_first, .pages = r->raw_pages, .patch = r->raw_patch, .generation = r->m.generation};
	encode(r, ENCODING);
}

void ms_snapshot_run_drop(struct ms_snapshot_run *r, struct ms_snapshot_run **list) {
	if (!r)
		return;
	r->cancelled = true;
	if (r->flying || r->phase == ENCODING || r->phase == ENCODING_FINAL) {
		r->list = list; /* the job or the puts under way end it */
		r->next = *list;
		*list = r;
		return;
	}
	release(r);
}
