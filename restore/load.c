#include "restore/load.h"

#include <stdio.h>
#include <stdlib.h>

#define PEEK_BYTES 4096u

static void warn(struct ms_load *l, const struct ms_err *e) {
	if (l->note)
		l->note(l->note_arg, e);
	if (!l->warning[0])
		snprintf(l->warning, sizeof l->warning, "%s", e->msg);
}

/* ---- listing ---- */

static enum ms_code add_generation(void *arg, const struct ms_generation *g, struct ms_err *err) {
	return ms_inventory_add_generation(arg, g, err);
}

static enum ms_code list_heads(struct ms_load *l, unsigned r, bool all, struct ms_inventory *inv, unsigned *ret_heads, struct ms_err *err) {
	struct ms_replica *h;
	enum ms_code rc = ms_fetch_handle(l->fetch, l->worker, r, &h, err);
	return rc ? rc : ms_inventory_read_heads(inv, r, h, all ? 0 : 1, ret_heads, err);
}

static enum ms_code list_ids(struct ms_load *l, unsigned r, struct ms_inventory *inv, struct ms_err *err) {
	struct ms_replica *h;
	enum ms_code rc = ms_fetch_handle(l->fetch, l->worker, r, &h, err);
	return rc ? rc : ms_inventory_list_generations(h, add_generation, inv, err);
}

static enum ms_code list_objects(struct ms_load *l, unsigned r, struct ms_inventory *inv, struct ms_err *err) {
	struct ms_replica *h;
	enum ms_code rc = ms_fetch_handle(l->fetch, l->worker, r, &h, err);
	for (size_t i = 0; !rc && i < inv->ngens; i++) {
		struct ms_generation g = inv->gens[i].id;
		rc = ms_inventory_list_generation(inv, r, h, &g, err);
	}
	return rc;
}

enum ms_code ms_load_inventory(struct ms_load *l, bool all, struct ms_inventory *inv, struct ms_err *err) {
	unsigned n = ms_fetch_replicas(l->fetch), alive = 0;
	bool any_head = false;
	struct ms_err first = MS_ERR_INIT;
	bool *failed = calloc(n, sizeof *failed);
	if (!failed)
		return ms_err_set(err, MS_ENOMEM, "out of memory");
	for (unsigned pass = 0; pass < 3; pass++) {
		for (unsigned r = 0; r < n; r++) {
			struct ms_err e = MS_ERR_INIT;
			unsigned heads = 0;
			enum ms_code rc = MS_OK;
			if (failed[r])
				continue;
			if (pass == 0)
				rc = list_heads(l, r, all, inv, &heads, &e);
			else if (pass == 1 && (all || !any_head))
				rc = list_ids(l, r, inv, &e);
			else if (pass == 2)
				rc = list_objects(l, r, inv, &e);
			any_head |= heads > 0;
			if (rc == MS_OK)
				continue;
			if (rc == MS_ECANCELED || rc == MS_ENOMEM || rc == MS_EUSAGE || rc == MS_EINVAL) {
				first = e;
				goto out;
			}
			ms_err_wrap(&e, "%s", ms_fetch_url(l->fetch, r));
			/* Damage in one head of several replicas leaves its other objects usable. */
			if (pass > 0 || (rc != MS_ECORRUPT && rc != MS_EUNSUPPORTED) || (n == 1 && !l->tolerant))
				failed[r] = true;
			if (n > 1 || l->tolerant)
				warn(l, &e);
			if (!first.code)
				first = e;
		}
	}
	for (unsigned r = 0; r < n; r++)
		alive += !failed[r];
	if (alive)
		first = MS_ERR_INIT;
	ms_inventory_seal(inv);
	if (!first.code && inv->ngens == 0) {
		if (n == 1)
			ms_err_set(&first, MS_ENOTRESTORABLE, "there is no replica at %s", ms_fetch_url(l->fetch, 0));
		else
			ms_err_set(&first, MS_ENOTRESTORABLE, "there is no replica at any of the %u addresses", n);
	}
out:
	free(failed);
	/* A directory or bucket that does not exist may be one that is not mounted, or mistyped: a failure, no finding about a replica. */
	if (first.code == MS_ENOTFOUND)
		first.code = MS_EIO;
	if (first.code && err)
		*err = first;
	return first.code;
}

/* ---- headers ---- */

/* The header of one segment object into info; *ret_fence when a fence lies there. */
static enum ms_code peek(struct ms_load *l, unsigned replica, const char *name, struct ms_segment_info *info, bool *ret_fence, struct ms_err *err) {
	size_t want = PEEK_BYTES, got = 0, need = 0;
	uint8_t *p = NULL;
	enum ms_code rc;
	for (int round = 0; round < 2; round++) {
		int kind = 0;
		uint8_t *grown = realloc(p, want);
		if (!grown) {
			rc = ms_err_set(err, MS_ENOMEM, "out of memory for the header of %s", name);
			break;
		}
		p = grown;
		if ((rc = ms_fetch_mem(l->fetch, l->worker, replica, name, 0, want, p, &got, err)))
			break;
		struct ms_err e = MS_ERR_INIT;
		rc = ms_artefact_kind_of(p, got, &kind, &e);
		if (!rc && kind == MS_ART_FENCE) {
			struct ms_fence f;
			*ret_fence = true;
			rc = ms_fence_decode(p, got, &f, &e);
		} else if (!rc) {
			rc = ms_segment_peek(p, got, info, &need, &e);
			if (rc == MS_ETOOBIG && round == 0 && need > want && need <= MS_HEADER_MAX + PEEK_BYTES && got == want) {
				want = need;
				continue;
			}
			if (rc == MS_ETOOBIG)
				rc = ms_err_set(&e, MS_ECORRUPT, "it ends within its header");
		}
		if (rc) {
			ms_err_wrap(&e, "%s of %s", name, ms_fetch_url(l->fetch, replica));
			if (err)
				*err = e;
		}
		break;
	}
	free(p);
	return rc;
}

/* With several replicas what is damaged on one may be whole on another. */
static enum ms_code forgive(struct ms_load *l, struct ms_inv_segment *s, const struct ms_err *e, struct ms_err *err) {
	if ((l->tolerant || ms_fetch_replicas(l->fetch) > 1) && e->code != MS_ECANCELED && e->code != MS_ENOMEM) {
		s->flags |= MS_SEG_BAD;
		warn(l, e);
		return MS_OK;
	}
	if (err)
		*err = *e;
	return e->code;
}

static enum ms_code probe_segment(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s, struct ms_err *err) {
	struct ms_load *l = arg;
	struct ms_segment_info first, last;
	struct ms_err e = MS_ERR_INIT;
	char name[MS_NAME_MAX];
	bool fence = false;
	ms_inv_segment_name(&g->id, s, 0, name);
	enum ms_code rc = peek(l, replica, name, &first, &fence, &e);
	if (!rc && fence) {
		s->flags |= MS_SEG_FENCE;
		return MS_OK;
	}
	last = first;
	if (!rc && s->nparts > 1) {
		ms_inv_segment_name(&g->id, s, s->nparts - 1, name);
		rc = peek(l, replica, name, &last, &fence, &e);
		if (!rc && fence) { /* its writer was displaced before the last part: the transaction does not exist */
			s->flags |= MS_SEG_INCOMPLETE | MS_SEG_PROBED;
			s->last = s->first;
			s->parent = first.parent_txid;
			s->first_us = s->last_us = first.first_us;
			return MS_OK;
		}
	}
	if (!rc && (strcmp(first.generation.s, g->id.s) != 0 || strcmp(last.generation.s, g->id.s) != 0))
		rc = ms_err_set(&e, MS_ECORRUPT, "%s of %s belongs to generation %s", name, ms_fetch_url(l->fetch, replica), first.generation.s);
	if (!rc && (rc = ms_inventory_probed(s, &first, &last, &e)))
		ms_err_wrap(&e, "%s of %s", name, ms_fetch_url(l->fetch, replica));
	return rc ? forgive(l, s, &e, err) : MS_OK;
}

struct commit_search {
	int64_t time_us;
	uint64_t max_txid;
	uint64_t txid;
	int64_t us;
	bool past;
	struct ms_segment_reader *reader;
};

static enum ms_code search_info(void *arg, const struct ms_segment_info *info, struct ms_err *err) {
	(void)arg;
	(void)info;
	(void)err;
	return MS_OK;
}

static enum ms_code search_record(void *arg, const struct ms_record *rec, struct ms_err *err) {
	struct commit_search *c = arg;
	if (rec->type != MS_REC_COMMIT)
		return MS_OK;
	if (rec->commit.time_us > c->time_us || rec->commit.txid > c->max_txid) {
		c->past = true;
		return ms_err_set(err, MS_ECLOSED, "found");
	}
	c->txid = rec->commit.txid;
	c->us = rec->commit.time_us;
	return MS_OK;
}

static enum ms_code search_bytes(void *arg, const void *data, size_t n, struct ms_err *err) {
	struct commit_search *c = arg;
	return ms_segment_push(c->reader, data, n, err);
}

static enum ms_code last_commit(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s, int64_t time_us,
				uint64_t max_txid, uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err) {
	static const struct ms_segment_callbacks cb = {search_info, search_record};
	struct ms_load *l = arg;
	struct commit_search c = {.time_us = time_us, .max_txid = max_txid};
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = MS_OK;
	for (uint32_t part = 0; !rc && !c.past && part < s->nparts; part++) {
		char name[MS_NAME_MAX];
		ms_inv_segment_name(&g->id, s, part, name);
		if (!(c.reader = ms_segment_reader_new(&cb, &c)))
			return ms_err_set(err, MS_ENOMEM, "out of memory for reading %s", name);
		rc = ms_fetch_get(l->fetch, l->worker, replica, name, 0, -1, search_bytes, &c, &e);
		if (rc && c.past)
			rc = MS_OK;
		else if (!rc)
			rc = ms_segment_finish(c.reader, &e);
		if (rc == MS_ECORRUPT)
			ms_err_wrap(&e, "%s of %s", name, ms_fetch_url(l->fetch, replica));
		ms_segment_reader_free(c.reader);
	}
	if (rc) {
		*ret_txid = 0;
		return forgive(l, s, &e, err);
	}
	*ret_txid = c.txid;
	*ret_us = c.us;
	return MS_OK;
}

/* A generation that no head describes: its first segment names its origin, else its oldest manifest does. */
static enum ms_code lineage(void *arg, struct ms_inv_generation *g, struct ms_lineage *ret, struct ms_err *err) {
	struct ms_load *l = arg;
	struct ms_inv_segment *first = NULL;
	unsigned replica = 0;
	*ret = (struct ms_lineage){.generation = g->id};
	for (unsigned r = 0; r < ms_fetch_replicas(l->fetch); r++) {
		struct ms_inv_shelf *sh = &g->shelf[r];
		struct ms_inv_segment *a[2] = {sh->nlive ? &sh->live[0] : NULL, sh->nmerged ? &sh->merged[0] : NULL};
		for (int i = 0; i < 2; i++) {
			if (a[i] && (!first || a[i]->first < first->first)) {
				first = a[i];
				replica = r;
			}
		}
	}
	if (first) {
		struct ms_segment_info info = {0};
		char name[MS_NAME_MAX];
		bool fence = false;
		ms_inv_segment_name(&g->id, first, 0, name);
		enum ms_code rc = peek(l, replica, name, &info, &fence, err);
		if (rc)
			return rc;
		if (!fence && info.parent_generation.s[0]) {
			ret->parent = info.parent_generation;
			ret->fork_txid = info.fork_txid;
			ret->seeded = info.parent_txid != info.fork_txid;
			return MS_OK;
		}
	}
	for (unsigned r = 0; r < ms_fetch_replicas(l->fetch); r++) {
		struct ms_manifest m = {0};
		if (!g->shelf[r].nsnaps)
			continue;
		enum ms_code rc = ms_load_manifest(l, r, &g->id, &g->shelf[r].snaps[0], NULL, &m, err);
		if (!rc) {
			ret->parent = m.parent_generation;
			ret->fork_txid = m.fork_txid;
			ret->seeded = m.seeded;
		}
		ms_manifest_release(&m);
		return rc;
	}
	return MS_OK;
}

struct ms_plan_probe ms_load_probe(struct ms_load *l) {
	return (struct ms_plan_probe){.segment = probe_segment, .last_commit = last_commit, .lineage = lineage, .arg = l};
}

enum ms_code ms_load_probe_all(struct ms_load *l, struct ms_inventory *inv, atomic_size_t *next, struct ms_err *err) {
	size_t index = 0, mine = atomic_fetch_add(next, 1);
	for (size_t i = 0; i < inv->ngens; i++) {
		for (unsigned r = 0; r < inv->nreplicas; r++) {
			struct ms_inv_shelf *sh = &inv->gens[i].shelf[r];
			for (; mine - index < sh->nlive; mine = atomic_fetch_add(next, 1)) {
				struct ms_inv_segment *s = &sh->live[mine - index];
				if (s->flags & (MS_SEG_PROBED | MS_SEG_FENCE | MS_SEG_BAD))
					continue;
				enum ms_code rc = probe_segment(l, r, &inv->gens[i], s, err);
				if (rc)
					return rc;
			}
			index += sh->nlive;
		}
	}
	return MS_OK;
}

/* ---- manifests ---- */

static enum ms_code manifest_bytes(void *arg, const void *data, size_t n, struct ms_err *err) { return ms_manifest_push(arg, data, n, err); }

enum ms_code ms_load_manifest(struct ms_load *l, unsigned replica, const struct ms_generation *g, const struct ms_inv_snapshot *s,
			      const struct ms_page_sink *sink, struct ms_manifest *ret, struct ms_err *err) {
	char name[MS_NAME_MAX];
	struct ms_err e = MS_ERR_INIT;
	struct ms_manifest m = {0};
	ms_inv_snapshot_name(g, s, name);
	struct ms_manifest_reader *r = ms_manifest_reader_new(&m, sink);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "out of memory for %s", name);
	enum ms_code rc = ms_fetch_get(l->fetch, l->worker, replica, name, 0, -1, manifest_bytes, r, &e);
	if (!rc)
		rc = ms_manifest_finish(r, &e);
	ms_manifest_reader_free(r);
	if (!rc && (m.state.txid != s->txid || m.state.time_us != s->time_us || strcmp(m.generation.s, g->s) != 0))
		rc = ms_err_set(&e, MS_ECORRUPT, "it is the snapshot of txid %llu of %s", (unsigned long long)m.state.txid, m.generation.s);
	if (rc == MS_ECORRUPT || rc == MS_EUNSUPPORTED)
		ms_err_wrap(&e, "%s of %s", name, ms_fetch_url(l->fetch, replica));
	if (rc) {
		ms_manifest_release(&m);
		if (err)
			*err = e;
		return rc;
	}
	*ret = m;
	return MS_OK;
}
