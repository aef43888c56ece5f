/*
 * Page sums: a cache of blocks (448 pages each) over the file, and transactions.
 *
 * A transaction works on copies of the blocks it changes. Commit makes the copies the current blocks, by changing their keys;
 * abort drops them. Copies that do not fit into the cache go to a temporary file, so that a transaction of any size needs no more
 * memory than a small one, but for 8 bytes a block (448 pages).
 *
 * Eviction (CLOCK): clean blocks and copies go first; a changed block only when the journal is durable up to its sequence. When
 * all that is left waits for the journal, the journal is synced.
 */
#include "core/pagesums.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/fs.h"
#include "core/pagesums_internal.h"

#define MIN_BLOCKS 16

static uint32_t bucket(const struct ms_pagesums *p, uint64_t key) {
	return (uint32_t)((key ^ key >> 32) * 0x9e3779b97f4a7c15ull >> 32) & (p->nheads - 1);
}

static struct mss_block *find(struct ms_pagesums *p, uint64_t key) {
	for (uint32_t i = p->heads[bucket(p, key)]; i; i = p->blocks[i - 1].next)
		if (p->blocks[i - 1].key == key) {
			p->blocks[i - 1].ref = true;
			return &p->blocks[i - 1];
		}
	return NULL;
}

static void hash_in(struct ms_pagesums *p, struct mss_block *b, uint64_t key) {
	uint32_t *head = &p->heads[bucket(p, key)];
	b->key = key;
	b->next = *head;
	b->ref = true;
	*head = (uint32_t)(b - p->blocks) + 1;
}

static void hash_out(struct ms_pagesums *p, struct mss_block *b) {
	uint32_t *at = &p->heads[bucket(p, b->key)], self = (uint32_t)(b - p->blocks) + 1;
	while (*at != self)
		at = &p->blocks[*at - 1].next;
	*at = b->next;
	b->key = MSS_NO_KEY;
}

static void set_dirty(struct ms_pagesums *p, struct mss_block *b, bool dirty) {
	if (b->dirty != dirty && !(b->key & MSS_TX_KEY))
		p->dirty += dirty ? 1 : UINT32_MAX;
	b->dirty = dirty;
}

/* Back to the free list; its content is not needed. */
static void drop(struct ms_pagesums *p, struct mss_block *b) {
	set_dirty(p, b, false);
	hash_out(p, b);
	b->next = p->free_list;
	p->free_list = (uint32_t)(b - p->blocks) + 1;
}

static uint64_t durable(const struct ms_pagesums *p) {
	return p->hooks.durable ? p->hooks.durable(p->hooks.arg) : UINT64_MAX;
}

static enum ms_code wait_durable(struct ms_pagesums *p, uint64_t seq, struct ms_err *err) {
	if (seq <= durable(p))
		return MS_OK;
	enum ms_code rc = p->hooks.sync(p->hooks.arg, seq, err);
	if (rc == MS_OK && durable(p) < seq)
		return ms_err_set(err, MS_EIO, "%s: the journal does not become durable up to %llu", p->path,
				  (unsigned long long)seq);
	return rc;
}

static uint64_t newest_dirty(const struct ms_pagesums *p) {
	uint64_t seq = 0;
	for (uint32_t i = 0; i < p->used; i++)
		if (p->blocks[i].key != MSS_NO_KEY && !(p->blocks[i].key & MSS_TX_KEY) && p->blocks[i].dirty &&
		    p->blocks[i].seq > seq)
			seq = p->blocks[i].seq;
	return seq;
}

static enum ms_code write_back(struct ms_pagesums *p, struct mss_block *b, struct ms_err *err) {
	enum ms_code rc =
	    b->key & MSS_TX_KEY ? mss_spill_store(p, (uint32_t)b->key, b, err) : mss_store(p, (uint32_t)b->key, b, err);
	if (rc == MS_OK)
		set_dirty(p, b, false);
	return rc;
}

/* An unused block, not in the hash table. */
static enum ms_code take(struct ms_pagesums *p, struct mss_block **ret, struct ms_err *err) {
	enum ms_code rc;

	if (p->free_list) {
		*ret = &p->blocks[p->free_list - 1];
		p->free_list = (*ret)->next;
		goto found;
	}
	if (p->used < p->nblocks) {
		*ret = &p->blocks[p->used++];
		goto found;
	}
	bool asked = false;
	uint64_t done = 0;
	for (uint32_t steps = 0;; steps++) {
		struct mss_block *b = &p->blocks[p->hand];
		p->hand = p->hand + 1 < p->nblocks ? p->hand + 1 : 0;
		if (b == p->pinned)
			continue;
		if (b->ref) {
			b->ref = false;
			continue;
		}
		if (b->dirty && !(b->key & MSS_TX_KEY)) {
			if (!asked) {
				done = durable(p);
				asked = true;
			}
			if (b->seq > done) {
				if (steps < 2 * p->nblocks)
					continue;
				if ((rc = wait_durable(p, newest_dirty(p), err)) != MS_OK)
					return rc;
				done = durable(p);
			}
		}
		if (b->dirty && (rc = write_back(p, b, err)) != MS_OK)
			return rc;
		hash_out(p, b);
		*ret = b;
		break;
	}
found:
	(*ret)->key = MSS_NO_KEY;
	(*ret)->dirty = false;
	(*ret)->seq = 0;
	return MS_OK;
}

static void give_back(struct ms_pagesums *p, struct mss_block *b) {
	b->next = p->free_list;
	p->free_list = (uint32_t)(b - p->blocks) + 1;
}

static enum ms_code get_base(struct ms_pagesums *p, uint32_t no, struct mss_block **ret, struct ms_err *err) {
	bool mend;
	enum ms_code rc;
	if ((*ret = find(p, no)))
		return MS_OK;
	struct mss_block *b;
	if ((rc = take(p, &b, err)) != MS_OK)
		return rc;
	if ((rc = mss_load(p, no, b, &mend, err)) != MS_OK) {
		give_back(p, b);
		return rc;
	}
	hash_in(p, b, no);
	if (mend)
		set_dirty(p, b, true);
	*ret = b;
	return MS_OK;
}

/* The transaction's copy, which exists. */
static enum ms_code get_copy(struct ms_pagesums *p, uint32_t no, struct mss_block **ret, struct ms_err *err) {
	enum ms_code rc;
	if ((*ret = find(p, no | MSS_TX_KEY)))
		return MS_OK;
	struct mss_block *b;
	if ((rc = take(p, &b, err)) != MS_OK)
		return rc;
	if ((rc = mss_spill_load(p, no, b, err)) != MS_OK) {
		give_back(p, b);
		return rc;
	}
	hash_in(p, b, no | MSS_TX_KEY);
	*ret = b;
	return MS_OK;
}

static enum ms_code make_copy(struct ms_pagesums *p, uint32_t no, struct mss_block **ret, struct ms_err *err) {
	struct mss_block *base, *b;
	enum ms_code rc;

	if (p->state[no] & MSS_PRIVATE)
		return get_copy(p, no, ret, err);
	if (p->ntx == p->tx_cap) {
		uint32_t cap = p->tx_cap ? p->tx_cap * 2 : 64;
		uint32_t *tx = realloc(p->tx, cap * sizeof *tx);
		if (!tx)
			return ms_err_set(err, MS_ENOMEM, "%s: list of %u blocks", p->path, cap);
		p->tx = tx;
		p->tx_cap = cap;
	}
	if ((rc = get_base(p, no, &base, err)) != MS_OK)
		return rc;
	p->pinned = base;
	rc = take(p, &b, err);
	p->pinned = NULL;
	if (rc != MS_OK)
		return rc;
	memcpy(b->hash, base->hash, sizeof b->hash);
	memcpy(b->chain, base->chain, sizeof b->chain);
	hash_in(p, b, no | MSS_TX_KEY);
	b->dirty = true;
	p->state[no] |= MSS_PRIVATE;
	p->tx[p->ntx++] = no;
	*ret = b;
	return MS_OK;
}

/* The block as the owner sees it: with the transaction under way. */
static enum ms_code get_current(struct ms_pagesums *p, uint32_t no, struct mss_block **ret, struct ms_err *err) {
	enum ms_code rc = mss_state_reserve(p, no, err);
	if (rc != MS_OK)
		return rc;
	return p->state[no] & MSS_PRIVATE ? get_copy(p, no, ret, err) : get_base(p, no, ret, err);
}

/* Copies become current, last one first; may be called again after a failure. */
static enum ms_code finish_commit(struct ms_pagesums *p, struct ms_err *err) {
	while (p->ntx) {
		uint32_t no = p->tx[p->ntx - 1];
		struct mss_block *b;
		enum ms_code rc = get_copy(p, no, &b, err);
		if (rc != MS_OK)
			return ms_err_wrap(err, "%s: commit of sequence %llu", p->path, (unsigned long long)p->commit_seq), rc;
		struct mss_block *base = find(p, no);
		uint64_t seq = p->commit_seq;
		if (base) {
			if (base->dirty && base->seq > seq)
				seq = base->seq;
			drop(p, base);
		}
		hash_out(p, b);
		hash_in(p, b, no);
		b->dirty = false;
		set_dirty(p, b, true);
		b->seq = seq;
		p->state[no] &= ~(MSS_PRIVATE | MSS_SPILLED);
		p->ntx--;
	}
	p->committing = false;
	mss_spill_clear(p);
	return MS_OK;
}

/* What every call does first. */
static enum ms_code ready(struct ms_pagesums *p, struct ms_err *err) {
	if (p->broken.code != MS_OK)
		return ms_err_set(err, p->broken.code, "%s", p->broken.msg);
	return p->committing ? finish_commit(p, err) : MS_OK;
}

enum ms_code ms_pagesums_get(struct ms_pagesums *p, uint32_t pgno, uint64_t *ret_hash, uint8_t *ret_chain, struct ms_err *err) {
	struct mss_block *b;
	enum ms_code rc = ready(p, err);
	if (rc != MS_OK)
		return rc;
	if (!pgno)
		return ms_err_set(err, MS_EINVAL, "%s: there is no page 0", p->path);
	if ((rc = get_current(p, (pgno - 1) / MSS_PAGES, &b, err)) != MS_OK)
		return rc;
	*ret_hash = b->hash[(pgno - 1) % MSS_PAGES];
	*ret_chain = b->chain[(pgno - 1) % MSS_PAGES];
	return MS_OK;
}

void ms_pagesums_begin(struct ms_pagesums *p) {
	if (p->in_tx)
		ms_pagesums_abort(p);
	p->in_tx = true;
}

enum ms_code ms_pagesums_set(struct ms_pagesums *p, uint32_t pgno, uint64_t hash, uint8_t chain, struct ms_err *err) {
	struct mss_block *b;
	enum ms_code rc = ready(p, err);
	if (rc != MS_OK)
		return rc;
	if (!pgno || !p->in_tx)
		return ms_err_set(err, MS_EINVAL, "%s: page %u set %s", p->path, pgno, p->in_tx ? "" : "outside a transaction");
	uint32_t no = (pgno - 1) / MSS_PAGES, i = (pgno - 1) % MSS_PAGES;
	if ((rc = mss_state_reserve(p, no, err)) != MS_OK || (rc = make_copy(p, no, &b, err)) != MS_OK)
		return rc;
	b->hash[i] = hash;
	b->chain[i] = chain;
	b->dirty = true;
	return MS_OK;
}

enum ms_code ms_pagesums_truncate(struct ms_pagesums *p, uint32_t from_pages, uint32_t to_pages, uint64_t *ret_sum_dropped,
				  struct ms_err *err) {
	uint64_t sum = 0;
	enum ms_code rc = ready(p, err);
	if (rc != MS_OK)
		return rc;
	if (!p->in_tx)
		return ms_err_set(err, MS_EINVAL, "%s: truncate outside a transaction", p->path);
	for (uint64_t at = to_pages; at < from_pages;) { /* page at + 1 */
		uint32_t no = (uint32_t)(at / MSS_PAGES), first = (uint32_t)(at % MSS_PAGES);
		uint64_t end = ((uint64_t)no + 1) * MSS_PAGES;
		uint32_t last = end <= from_pages ? MSS_PAGES : (uint32_t)(from_pages % MSS_PAGES);
		struct mss_block *b;
		bool any = false;
		if ((rc = get_current(p, no, &b, err)) != MS_OK)
			return rc;
		for (uint32_t i = first; i < last; i++)
			any |= b->hash[i] || b->chain[i];
		if (any) {
			if ((rc = make_copy(p, no, &b, err)) != MS_OK)
				return rc;
			for (uint32_t i = first; i < last; i++) {
				sum += b->hash[i];
				b->hash[i] = 0;
				b->chain[i] = 0;
			}
			b->dirty = true;
		}
		at = end;
	}
	*ret_sum_dropped = sum;
	return MS_OK;
}

enum ms_code ms_pagesums_commit(struct ms_pagesums *p, uint64_t seq, struct ms_err *err) {
	enum ms_code rc = ready(p, err);
	if (rc != MS_OK)
		return rc;
	if (!p->in_tx)
		return ms_err_set(err, MS_EINVAL, "%s: commit outside a transaction", p->path);
	p->in_tx = false;
	p->committing = true;
	p->commit_seq = seq;
	return finish_commit(p, err);
}

void ms_pagesums_abort(struct ms_pagesums *p) {
	p->in_tx = false;
	if (p->committing) /* the copies belong to a commit */
		return;
	while (p->ntx) {
		uint32_t no = p->tx[--p->ntx];
		struct mss_block *b = find(p, no | MSS_TX_KEY);
		if (b)
			drop(p, b);
		p->state[no] &= ~(MSS_PRIVATE | MSS_SPILLED);
	}
	mss_spill_clear(p);
}

enum ms_code ms_pagesums_sum(struct ms_pagesums *p, uint32_t db_pages, uint64_t *ret, struct ms_err *err) {
	uint64_t sum = 0;
	enum ms_code rc = ready(p, err);
	for (uint64_t at = 0; rc == MS_OK && at < db_pages; at += MSS_PAGES) {
		uint32_t no = (uint32_t)(at / MSS_PAGES);
		if ((rc = mss_state_reserve(p, no, err)) != MS_OK)
			break;
		bool copy = p->state[no] & MSS_PRIVATE, mend = false;
		struct mss_block *b = find(p, copy ? no | MSS_TX_KEY : no);
		if (!b) { /* past the cache, so that it keeps what is in use */
			b = &p->scratch;
			rc = copy ? mss_spill_load(p, no, b, err) : mss_load(p, no, b, &mend, err);
			if (rc == MS_OK && mend)
				rc = get_base(p, no, &b, err);
			if (rc != MS_OK)
				break;
		}
		uint32_t n = db_pages - at < MSS_PAGES ? (uint32_t)(db_pages - at) : MSS_PAGES;
		for (uint32_t i = 0; i < n; i++)
			sum += b->hash[i];
	}
	if (rc == MS_OK)
		*ret = sum;
	return rc;
}

enum ms_code ms_pagesums_checkpoint(struct ms_pagesums *p, uint64_t seq, const uint8_t *blob, size_t blob_len,
				    struct ms_err *err) {
	enum ms_code rc = ready(p, err);
	if (rc != MS_OK)
		return rc;
	if (blob_len > MS_SUMS_BLOB_MAX)
		return ms_err_set(err, MS_ETOOBIG, "%s: mark with %zu bytes, at most %u fit", p->path, blob_len,
				  MS_SUMS_BLOB_MAX);
	uint64_t newest = newest_dirty(p);
	if ((rc = wait_durable(p, newest > seq ? newest : seq, err)) != MS_OK)
		return rc;
	for (uint32_t i = 0; i < p->used; i++) {
		struct mss_block *b = &p->blocks[i];
		if (b->key != MSS_NO_KEY && !(b->key & MSS_TX_KEY) && b->dirty && (rc = write_back(p, b, err)) != MS_OK)
			return rc;
	}
	if ((p->unsynced || p->suspect) && (rc = mss_sync(p, err)) != MS_OK)
		return rc;
	if ((rc = mss_put_mark(p, seq, blob, blob_len, err)) != MS_OK)
		return rc;
	p->recovering = false;
	return MS_OK;
}

uint64_t ms_pagesums_dirty_bytes(const struct ms_pagesums *p) {
	return (uint64_t)p->dirty * MSS_BLOCK;
}
uint64_t ms_pagesums_mark_seq(const struct ms_pagesums *p) {
	return p->mark_seq;
}

static void forget(struct ms_pagesums *p) {
	memset(p->heads, 0, p->nheads * sizeof *p->heads);
	p->used = p->free_list = p->hand = p->dirty = 0;
	if (p->nstate)
		memset(p->state, 0, p->nstate * sizeof *p->state);
	p->unsynced = 0;
	p->ntx = 0;
	p->in_tx = p->committing = p->suspect = false;
	p->recovering = false;
	p->broken.code = MS_OK;
	mss_spill_clear(p);
}

enum ms_code ms_pagesums_reset(struct ms_pagesums *p, struct ms_err *err) {
	enum ms_code rc = mss_create_file(p, err);
	if (rc == MS_OK)
		forget(p);
	return rc;
}

enum ms_code ms_pagesums_open(struct ms_env *env, const char *path, size_t cache_bytes, const struct ms_pagesums_hooks *hooks,
			      struct ms_pagesums **ret, uint64_t *ret_mark_seq, uint8_t blob[MS_SUMS_BLOB_MAX],
			      size_t *ret_blob_len, struct ms_err *err) {
	char dir[MS_PATH_MAX], tx[MS_PATH_MAX];
	enum ms_code rc;

	struct ms_pagesums *p = calloc(1, sizeof *p);
	if (!p)
		return ms_err_set(err, MS_ENOMEM, "%s: page sums", path);
	p->env = env;
	if (hooks)
		p->hooks = *hooks;
	p->recovering = true;
	p->nblocks = (uint32_t)((cache_bytes ? cache_bytes : 1u << 20) / sizeof *p->blocks);
	if (p->nblocks < MIN_BLOCKS)
		p->nblocks = MIN_BLOCKS;
	p->nheads = 16;
	while (p->nheads < p->nblocks)
		p->nheads *= 2;
	if ((rc = ms_path_dir(dir, sizeof dir, path, err)) != MS_OK)
		goto fail;
	p->path = strdup(path);
	p->dir = strdup(dir);
	p->blocks = calloc(p->nblocks, sizeof *p->blocks);
	p->heads = calloc(p->nheads, sizeof *p->heads);
	if (!p->path || !p->dir || !p->blocks || !p->heads) {
		rc = ms_err_set(err, MS_ENOMEM, "%s: cache of %u blocks", path, p->nblocks);
		goto fail;
	}
	if (snprintf(tx, sizeof tx, "%s.tx", path) < (int)sizeof tx)
		(void)!env->ops->unlink(env, tx, NULL); /* of a process that was killed */
	if ((rc = mss_open_file(p, ret_mark_seq, blob, ret_blob_len, err)) != MS_OK)
		goto fail;
	*ret = p;
	return MS_OK;
fail:
	ms_pagesums_close(p);
	return rc;
}

void ms_pagesums_close(struct ms_pagesums *p) {
	if (!p)
		return;
	mss_spill_clear(p);
	p->env->ops->close(p->fh);
	free(p->path);
	free(p->dir);
	free(p->state);
	free(p->blocks);
	free(p->heads);
	free(p->tx);
	free(p);
}
