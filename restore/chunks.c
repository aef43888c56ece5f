#include "restore/chunks.h"

#include <stdlib.h>

#include "core/hash.h"

#define HASHES_AT_ONCE 512u

void ms_chunk_name(const struct ms_chunk_ref *ref, char ret[MS_NAME_MAX]) {
	struct ms_name n = {.kind = MS_NAME_CHUNK, .generation = ref->generation, .number = ref->first_page, .hash = ref->hash};
	ms_name_format(&n, ret);
}

/* Page sink: write, hash, remember. */
static enum ms_code sink_pages(void *arg, uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *data, struct ms_err *err) {
	struct ms_chunks *c = arg;
	struct ms_env *env = ms_fetch_env(c->fetch);
	uint32_t lock = ms_lock_page(page_size);
	uint64_t h[HASHES_AT_ONCE];
	if (c->patching && page_size == c->manifest->state.page_size && count == 1 && first > c->manifest->state.db_pages)
		return MS_OK; /* the database has shrunk since that patch chunk was put */
	if (page_size != c->manifest->state.page_size || first < 1 || count > c->manifest->state.db_pages ||
	    first > c->manifest->state.db_pages - count + 1)
		return ms_err_set(err, MS_ECORRUPT, "pages %u+%u of a database of %u pages", first, count, c->manifest->state.db_pages);
	enum ms_code rc = env->ops->pwrite(c->file, data, (size_t)count * page_size, ((int64_t)first - 1) * page_size, err);
	for (uint32_t done = 0; !rc && done < count;) {
		uint32_t n = count - done < HASHES_AT_ONCE ? count - done : HASHES_AT_ONCE;
		for (uint32_t i = 0; i < n; i++) {
			uint32_t pgno = first + done + i;
			h[i] = pgno == lock ? 0 : ms_page_hash(pgno, data + (size_t)(done + i) * page_size, page_size);
		}
		rc = ms_pagehash_set(c->hashes, first + done, n, h, err);
		done += n;
	}
	return rc;
}

static enum ms_code chunk_bytes(void *arg, const void *data, size_t n, struct ms_err *err) { return ms_chunk_push(arg, data, n, err); }

static enum ms_code get_chunk(struct ms_fetch *f, unsigned worker, unsigned replica, const struct ms_chunk_ref *ref, uint32_t page_size,
			      const struct ms_page_sink *sink, struct ms_err *err) {
	char name[MS_NAME_MAX];
	struct ms_err e = MS_ERR_INIT;
	struct ms_chunk_reader *r = ms_chunk_reader_new(ref, page_size, sink);
	ms_chunk_name(ref, name);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "out of memory for %s", name);
	enum ms_code rc = ms_fetch_get(f, worker, replica, name, 0, -1, chunk_bytes, r, &e);
	if (!rc)
		rc = ms_chunk_finish(r, &e);
	if (rc == MS_ECORRUPT || rc == MS_EUNSUPPORTED)
		ms_err_wrap(&e, "%s of %s", name, ms_fetch_url(f, replica));
	if (rc && err)
		*err = e;
	ms_chunk_reader_free(r);
	return rc;
}

/* Is it the replica's fault, so that another one may help? Our own disk being full is not. */
static bool replicas_fault(enum ms_code rc) {
	return rc != MS_OK && rc != MS_ECANCELED && rc != MS_ENOMEM && rc != MS_ENOSPC && rc != MS_EINVAL;
}

/* One chunk, from the first replica that has it whole. */
static enum ms_code take(struct ms_chunks *c, unsigned worker, unsigned i, const struct ms_page_sink *sink, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	unsigned n = ms_fetch_replicas(c->fetch);
	struct ms_err first = MS_ERR_INIT;
	for (unsigned k = 0; k < n; k++) {
		struct ms_err e = MS_ERR_INIT;
		rc = get_chunk(c->fetch, worker, (c->replica + k) % n, &c->manifest->chunks[i], c->manifest->state.page_size, sink, &e);
		/* The first replica's complaint says most; the others may simply not have it. */
		if (rc && (k == 0 || !replicas_fault(rc)))
			first = e;
		if (!replicas_fault(rc))
			break;
	}
	if (rc) {
		rc = first.code;
		if (err)
			*err = first;
	}
	return rc;
}

enum ms_code ms_chunks_work(struct ms_chunks *c, unsigned worker, struct ms_err *err) {
	const struct ms_page_sink sink = {sink_pages, c};
	enum ms_code rc = MS_OK;
	while (!rc && !atomic_load(&c->failed)) {
		unsigned i = atomic_fetch_add(&c->next, 1);
		if (i >= c->manifest->nchunks || c->manifest->chunks[i].patch)
			break;
		rc = take(c, worker, i, &sink, err);
	}
	if (rc)
		atomic_store(&c->failed, true);
	return rc;
}

static enum ms_code check_sum(struct ms_chunks *c, struct ms_err *err) {
	uint64_t sum = 0, h[HASHES_AT_ONCE];
	const struct ms_dbstate *st = &c->manifest->state;
	for (uint64_t p = 1; p <= st->db_pages;) {
		uint32_t n = st->db_pages - p + 1 < HASHES_AT_ONCE ? (uint32_t)(st->db_pages - p + 1) : HASHES_AT_ONCE;
		enum ms_code rc = ms_pagehash_get(c->hashes, (uint32_t)p, n, h, err);
		if (rc)
			return rc;
		for (uint32_t i = 0; i < n; i++)
			sum += h[i];
		p += n;
	}
	if (sum != st->checksum)
		return ms_err_set(err, MS_ECORRUPT, "its pages give database checksum %016llx, it states %016llx", (unsigned long long)sum,
				  (unsigned long long)st->checksum);
	return MS_OK;
}

enum ms_code ms_chunks_finish(struct ms_chunks *c, unsigned worker, const struct ms_generation *g, const struct ms_inv_snapshot *s,
			      struct ms_err *err) {
	const struct ms_page_sink patches = {sink_pages, c};
	enum ms_code rc = MS_OK;
	char name[MS_NAME_MAX];
	c->patching = true;
	for (uint32_t i = 0; i < c->manifest->nchunks && !rc; i++)
		if (c->manifest->chunks[i].patch)
			rc = take(c, worker, i, &patches, err);
	c->patching = false;
	if (rc)
		return rc;
	if (c->manifest->inline_pages || c->manifest->npatches) {
		const struct ms_page_sink sink = {sink_pages, c};
		struct ms_load l = {.fetch = c->fetch, .worker = worker};
		struct ms_manifest again = {0};
		rc = ms_load_manifest(&l, c->replica, g, s, &sink, &again, err);
		ms_manifest_release(&again);
	}
	if (!rc && (rc = check_sum(c, err)) == MS_ECORRUPT) {
		ms_inv_snapshot_name(g, s, name);
		ms_err_wrap(err, "%s of %s", name, ms_fetch_url(c->fetch, c->replica));
	}
	return rc;
}

static enum ms_code drop_pages(void *arg, uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *data, struct ms_err *err) {
	(void)arg, (void)first, (void)count, (void)page_size, (void)data, (void)err;
	return MS_OK;
}

enum ms_code ms_chunk_check(struct ms_fetch *f, unsigned worker, unsigned replica, const struct ms_chunk_ref *ref, uint32_t page_size,
			    struct ms_err *err) {
	static const struct ms_page_sink sink = {drop_pages, NULL};
	return get_chunk(f, worker, replica, ref, page_size, &sink, err);
}
