/* Reading a replica: heads, the tail of a generation, what lies at a name. Blocking. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

#define PEEK_FIRST 4096

void ms_view_release(struct ms_view *v) {
	ms_head_release(&v->head);
	*v = (struct ms_view){0};
}

/* ---- heads ---- */

static bool newest_head_cb(void *arg, const struct ms_object *o) {
	struct ms_name n;
	if (ms_name_parse(o->name, &n) && n.kind == MS_NAME_HEAD && n.number > *(uint32_t *)arg)
		*(uint32_t *)arg = n.number;
	return true;
}

enum ms_code ms_view_head(struct ms_replica *r, uint32_t known, bool *ret_found, struct ms_head *ret, struct ms_err *err) {
	uint32_t number = 0;
	char after[MS_NAME_MAX] = "", name[MS_NAME_MAX];
	enum ms_code rc;
	if (known > 1)
		ms_name_format(&(struct ms_name){.kind = MS_NAME_HEAD, .number = known - 1}, after);
	if ((rc = ms_replica_list(r, "head/", after, newest_head_cb, &number, err)))
		return rc;
	if (!number && known > 1 && (rc = ms_replica_list(r, "head/", "", newest_head_cb, &number, err)))
		return rc;
	if (!number) {
		*ret_found = false;
		return MS_OK;
	}
	struct ms_buf b;
	ms_buf_init(&b, MS_WORKER_HEAD_MAX);
	ms_name_format(&(struct ms_name){.kind = MS_NAME_HEAD, .number = number}, name);
	rc = ms_replica_get_buf(r, name, 0, -1, &b, err);
	if (!rc && (rc = ms_head_decode(b.data, b.len, ret, err)))
		rc = ms_err_wrap(err, "%s", name);
	if (!rc && ret->number != number) {
		ms_head_release(ret);
		rc = ms_err_set(err, MS_ECORRUPT, "%s: states another number", name);
	}
	ms_buf_release(&b);
	*ret_found = !rc;
	return rc;
}

/* ---- one object ---- */

enum ms_code ms_view_at(struct ms_replica *r, const char *name, struct ms_at_name *ret, struct ms_err *err) {
	struct ms_buf b;
	size_t need = PEEK_FIRST;
	enum ms_code rc;
	int kind;
	ms_buf_init(&b, MS_HEADER_MAX + PEEK_FIRST);
	for (;;) {
		ms_buf_clear(&b);
		if ((rc = ms_replica_get_buf(r, name, 0, (int64_t)need, &b, err)))
			break;
		if ((rc = ms_artefact_kind_of(b.data, b.len, &kind, err)))
			break;
		if (kind == MS_ART_FENCE) {
			struct ms_buf whole;
			ms_buf_init(&whole, MS_WORKER_HEAD_MAX);
			rc = ms_replica_get_buf(r, name, 0, -1, &whole, err);
			if (!rc)
				rc = ms_fence_decode(whole.data, whole.len, &ret->fence, err);
			ms_buf_release(&whole);
			ret->is_fence = true;
			break;
		}
		if (kind != MS_ART_SEGMENT) {
			rc = ms_err_set(err, MS_ECORRUPT, "holds a %s", ms_artefact_kind_name((enum ms_artefact_kind)kind));
			break;
		}
		ret->is_fence = false;
		size_t before = need;
		struct ms_err e = MS_ERR_INIT;
		rc = ms_segment_peek(b.data, b.len, &ret->info, &need, &e);
		if (rc == MS_ETOOBIG && need > before && b.len == before && need <= MS_HEADER_MAX)
			continue;
		if (rc == MS_ETOOBIG)
			rc = MS_ECORRUPT;
		if (rc)
			rc = ms_err_set(err, rc, "%s", e.msg);
		break;
	}
	ms_buf_release(&b);
	return rc && rc != MS_ENOTFOUND ? ms_err_wrap(err, "%s", name) : rc;
}

static enum ms_code push_manifest(void *arg, const void *data, size_t n, struct ms_err *err) { return ms_manifest_push(arg, data, n, err); }

enum ms_code ms_view_manifest(struct ms_replica *r, const char *name, struct ms_manifest *ret, struct ms_err *err) {
	struct ms_manifest m = {0};
	struct ms_manifest_reader *reader = ms_manifest_reader_new(&m, NULL);
	if (!reader)
		return ms_err_set(err, MS_ENOMEM, "%s", name);
	enum ms_code rc = ms_replica_get(r, name, 0, -1, push_manifest, reader, err);
	if (!rc && (rc = ms_manifest_finish(reader, err)))
		rc = ms_err_wrap(err, "%s", name);
	ms_manifest_reader_free(reader);
	if (rc)
		ms_manifest_release(&m);
	else
		*ret = m;
	return rc;
}

/* ---- tail of a generation ---- */

/* Names that begin at one txid. Listings bring parts ('+') and merged ones ('-') before the live name ('.'). */
struct group {
	uint64_t first, last; /* last: of the longest merged one, 0 none */
	bool live;
	uint32_t part; /* highest */
	struct ms_name merged;
};
#define GROUPS 8
struct groups {
	struct group v[GROUPS]; /* the newest, [n-1] last */
	unsigned n;
	bool dropped; /* older ones were seen */
};

static bool groups_cb(void *arg, const struct ms_object *o) {
	struct groups *g = arg;
	struct ms_name n;
	if (!ms_name_parse(o->name, &n) || (n.kind != MS_NAME_SEGMENT && n.kind != MS_NAME_SEGMENT_PART && n.kind != MS_NAME_MERGED))
		return true;
	if (!g->n || g->v[g->n - 1].first != n.first) {
		if (g->n == GROUPS) {
			memmove(g->v, g->v + 1, sizeof g->v - sizeof g->v[0]);
			g->n--;
			g->dropped = true;
		}
		g->v[g->n++] = (struct group){.first = n.first};
	}
	struct group *x = &g->v[g->n - 1];
	if (n.kind == MS_NAME_SEGMENT)
		x->live = true;
	else if (n.kind == MS_NAME_SEGMENT_PART)
		x->part = n.number > x->part ? n.number : x->part;
	else if (n.last > x->last)
		x->last = n.last, x->merged = n;
	return true;
}

static enum ms_code list_groups(struct ms_replica *r, const struct ms_generation *g, uint64_t near, struct groups *ret, struct ms_err *err) {
	char prefix[64], after[MS_NAME_MAX] = "";
	*ret = (struct groups){0};
	snprintf(prefix, sizeof prefix, "%s/segments/", g->s);
	if (near > 1)
		ms_name_format(&(struct ms_name){.kind = MS_NAME_SEGMENT, .generation = *g, .first = near - 1}, after);
	enum ms_code rc = ms_replica_list(r, prefix, after, groups_cb, ret, err);
	if (!rc && after[0] && ret->n == 0)
		rc = ms_replica_list(r, prefix, "", groups_cb, ret, err);
	else if (after[0])
		ret->dropped = true;
	return rc;
}

/* What a group ends with. *ret_whole false: a fence, or a transaction whose last part is missing. */
static enum ms_code group_end(struct ms_replica *r, const struct ms_generation *g, const struct group *x, bool *ret_whole, bool *ret_fence,
			      struct ms_segment_info *ret, struct ms_err *err) {
	struct ms_name n = {.kind = MS_NAME_SEGMENT, .generation = *g, .first = x->first};
	struct ms_at_name at = {0};
	char name[MS_NAME_MAX];
	enum ms_code rc;
	*ret_whole = *ret_fence = false;
	if (x->last && !x->live) {
		ms_name_format(&x->merged, name);
	} else if (!x->live) {
		return MS_OK; /* parts without their first: leftovers */
	} else {
		ms_name_format(&n, name);
	}
	if ((rc = ms_view_at(r, name, &at, err)))
		return rc;
	if (at.is_fence) {
		*ret_fence = true;
		return MS_OK;
	}
	if (at.info.more) {
		if (!x->part)
			return MS_OK;
		n.kind = MS_NAME_SEGMENT_PART;
		n.number = x->part;
		ms_name_format(&n, name);
		if ((rc = ms_view_at(r, name, &at, err)))
			return rc;
		*ret_fence = at.is_fence;
		if (at.is_fence || at.info.more)
			return MS_OK;
	}
	*ret = at.info;
	*ret_whole = true;
	return MS_OK;
}

static enum ms_code segments_tail(struct ms_replica *r, const struct ms_generation *g, uint64_t near, struct ms_view *v, struct ms_err *err) {
	struct groups groups;
	enum ms_code rc = list_groups(r, g, near, &groups, err);
	for (int pass = 0; !rc; pass++) {
		for (unsigned i = groups.n; i-- > 0 && !rc;) {
			struct ms_segment_info info;
			bool whole, fence;
			rc = group_end(r, g, &groups.v[i], &whole, &fence, &info, err);
			if (rc || !whole)
				continue;
			v->has_tail = true;
			v->tail = (struct ms_dbstate){.txid = info.last_txid,
						      .time_us = info.last_us,
						      .checksum = info.checksum_after,
						      .page_size = info.page_size,
						      .db_pages = info.db_pages};
			v->has_segments = true;
			v->segments = v->tail;
			return MS_OK;
		}
		/* Only a fence and the like near the cursor: what lies before it has to be looked at. */
		if (rc || !groups.dropped || pass)
			break;
		rc = list_groups(r, g, 0, &groups, err);
	}
	return rc;
}

static bool newest_snapshot_cb(void *arg, const struct ms_object *o) {
	struct ms_name n;
	if (ms_name_parse(o->name, &n) && n.kind == MS_NAME_SNAPSHOT)
		*(struct ms_name *)arg = n;
	return true;
}

struct oldest {
	uint64_t most, found; /* 0: none */
};

static bool oldest_snapshot_cb(void *arg, const struct ms_object *o) {
	struct oldest *x = arg;
	struct ms_name n;
	if (ms_name_parse(o->name, &n) && n.kind == MS_NAME_SNAPSHOT && n.first <= x->most)
		x->found = n.first;
	return !x->found;
}

/* A generation without a snapshot goes on from its parent's state, which is of use where a snapshot leads to that. */
static enum ms_code base_of_parents(struct ms_replica *r, const struct ms_head *h, bool *ret, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	char prefix[64];
	*ret = false;
	for (uint32_t i = 0; i < h->nlineage && !*ret && !ms_lineage_needs_base(&h->lineage[i]); i++) {
		struct oldest x = {.most = h->lineage[i].fork_txid};
		snprintf(prefix, sizeof prefix, "%s/snapshots/", h->lineage[i].parent.s);
		if ((rc = ms_replica_list(r, prefix, "", oldest_snapshot_cb, &x, err)))
			return rc;
		*ret = x.found != 0;
	}
	return MS_OK;
}

enum ms_code ms_view_next_live(struct ms_replica *r, const struct ms_generation *g, uint64_t near, struct ms_name *ret, bool *ret_fenced,
			       struct ms_err *err) {
	struct groups groups;
	enum ms_code rc = list_groups(r, g, near, &groups, err);
	*ret_fenced = false;
	*ret = (struct ms_name){.kind = MS_NAME_SEGMENT, .generation = *g, .first = 1};
	if (rc || !groups.n)
		return rc;
	const struct group *x = &groups.v[groups.n - 1];
	struct ms_segment_info info;
	bool whole;
	if ((rc = group_end(r, g, x, &whole, ret_fenced, &info, err)))
		return rc;
	if (whole || *ret_fenced || !x->live) {
		ret->first = (whole ? info.last_txid : x->first) + 1;
		return MS_OK;
	}
	/* Its writer goes on with the next part, and where it ends nobody can tell: a catch-up ends at any txid. */
	ret->kind = MS_NAME_SEGMENT_PART;
	ret->first = x->first;
	ret->number = x->part + 1;
	return MS_OK;
}

enum ms_code ms_view_read(struct ms_replica *r, uint32_t known_head, const struct ms_generation *near_generation, uint64_t near,
			  struct ms_view *ret, struct ms_err *err) {
	struct ms_view v = {0};
	struct ms_name snap = {0};
	char prefix[64], name[MS_NAME_MAX];
	enum ms_code rc = ms_view_head(r, known_head, &v.has_head, &v.head, err);
	if (rc || !v.has_head)
		goto out;
	const struct ms_generation *g = &v.head.generation;
	if (!near_generation || strcmp(near_generation->s, g->s) != 0)
		near = 0;
	if ((rc = segments_tail(r, g, near, &v, err)))
		goto out;
	snprintf(prefix, sizeof prefix, "%s/snapshots/", g->s);
	if ((rc = ms_replica_list(r, prefix, "", newest_snapshot_cb, &snap, err)))
		goto out;
	v.has_base = snap.first != 0;
	if (!v.has_base && (rc = base_of_parents(r, &v.head, &v.has_base, err)))
		goto out;
	v.snapshot_txid = snap.first;
	v.snapshot_us = snap.first_us;
	if (snap.first && (!v.has_tail || snap.first > v.tail.txid)) {
		struct ms_manifest m;
		ms_name_format(&snap, name);
		if ((rc = ms_view_manifest(r, name, &m, err)))
			goto out;
		v.has_tail = v.tail_is_snapshot = true;
		v.tail = m.state;
		ms_manifest_release(&m);
	}
out:
	if (rc)
		ms_view_release(&v);
	else
		*ret = v;
	return rc;
}
