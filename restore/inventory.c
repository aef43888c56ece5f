#include "restore/inventory.h"

#include <stdio.h>
#include <stdlib.h>

/* A head is a small object; its lineage and removal list bound it. */
#define HEAD_OBJECT_MAX (32u << 20)

void ms_inventory_init(struct ms_inventory *inv, unsigned nreplicas) {
	*inv = (struct ms_inventory){.nreplicas = nreplicas};
}

void ms_inventory_release(struct ms_inventory *inv) {
	for (size_t i = 0; i < inv->ngens; i++) {
		for (unsigned r = 0; r < inv->nreplicas; r++) {
			struct ms_inv_shelf *sh = &inv->gens[i].shelf[r];
			free(sh->live);
			free(sh->merged);
			free(sh->parts);
			free(sh->snaps);
		}
		free(inv->gens[i].shelf);
	}
	free(inv->gens);
	free(inv->heads);
	*inv = (struct ms_inventory){.nreplicas = inv->nreplicas};
}

/* Room for one more element in a growing array. */
static enum ms_code grow(void **array, size_t *cap, size_t n, size_t size, struct ms_err *err) {
	if (n < *cap)
		return MS_OK;
	size_t want = *cap ? *cap + *cap / 2 + 1 : 16;
	void *p = want <= SIZE_MAX / size ? realloc(*array, want * size) : NULL;
	if (!p)
		return ms_err_set(err, MS_ENOMEM, "out of memory for the listing of a replica (%zu entries)", n);
	*array = p;
	*cap = want;
	return MS_OK;
}

struct ms_inv_generation *ms_inventory_find(const struct ms_inventory *inv, const char *id) {
	size_t lo = 0, hi = inv->ngens;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(inv->gens[mid].id.s, id);
		if (c == 0)
			return &inv->gens[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static enum ms_code find_or_add(struct ms_inventory *inv, const char *id, struct ms_inv_generation **ret, struct ms_err *err) {
	*ret = ms_inventory_find(inv, id);
	if (*ret)
		return MS_OK;
	if (grow((void **)&inv->gens, &inv->cap_gens, inv->ngens, sizeof *inv->gens, err))
		return MS_ENOMEM;
	struct ms_inv_shelf *shelf = calloc(inv->nreplicas, sizeof *shelf);
	if (!shelf)
		return ms_err_set(err, MS_ENOMEM, "out of memory for generation %s", id);
	size_t at = inv->ngens;
	while (at > 0 && strcmp(inv->gens[at - 1].id.s, id) > 0)
		at--;
	memmove(&inv->gens[at + 1], &inv->gens[at], (inv->ngens - at) * sizeof *inv->gens);
	inv->gens[at] = (struct ms_inv_generation){.shelf = shelf};
	snprintf(inv->gens[at].id.s, sizeof inv->gens[at].id.s, "%s", id);
	inv->ngens++;
	*ret = &inv->gens[at];
	return MS_OK;
}

enum ms_code ms_inventory_add(struct ms_inventory *inv, unsigned replica, const char *name, uint64_t bytes, struct ms_err *err) {
	struct ms_name n;
	struct ms_inv_generation *g = NULL;
	enum ms_code rc;
	inv->objects++;
	if (!ms_name_parse(name, &n)) {
		inv->foreign++;
		return MS_OK;
	}
	if (n.kind == MS_NAME_HEAD || n.kind == MS_NAME_CHUNK)
		return MS_OK;
	if ((rc = find_or_add(inv, n.generation.s, &g, err)))
		return rc;
	struct ms_inv_shelf *sh = &g->shelf[replica];
	switch (n.kind) {
	case MS_NAME_SEGMENT:
		if ((rc = grow((void **)&sh->live, &sh->cap_live, sh->nlive, sizeof *sh->live, err)))
			return rc;
		sh->live[sh->nlive++] = (struct ms_inv_segment){.first = n.first, .last = MS_TXID_UNKNOWN, .bytes = bytes, .nparts = 1};
		break;
	case MS_NAME_SEGMENT_PART:
		if ((rc = grow((void **)&sh->parts, &sh->cap_parts, sh->nparts, sizeof *sh->parts, err)))
			return rc;
		sh->parts[sh->nparts++] = (struct ms_inv_part){.first = n.first, .bytes = bytes, .part = n.number};
		break;
	case MS_NAME_MERGED:
		if ((rc = grow((void **)&sh->merged, &sh->cap_merged, sh->nmerged, sizeof *sh->merged, err)))
			return rc;
		sh->merged[sh->nmerged++] = (struct ms_inv_segment){.first = n.first, .last = n.last, .bytes = bytes, .nparts = 1,
			.flags = MS_SEG_MERGED, .first_us = n.first_us, .last_us = n.last_us};
		break;
	case MS_NAME_SNAPSHOT:
		if ((rc = grow((void **)&sh->snaps, &sh->cap_snaps, sh->nsnaps, sizeof *sh->snaps, err)))
			return rc;
		sh->snaps[sh->nsnaps++] = (struct ms_inv_snapshot){.txid = n.first, .bytes = bytes, .time_us = n.first_us};
		break;
	case MS_NAME_HEAD:
	case MS_NAME_CHUNK:
		break;
	}
	return MS_OK;
}

enum ms_code ms_inventory_add_generation(struct ms_inventory *inv, const struct ms_generation *id, struct ms_err *err) {
	struct ms_inv_generation *g = NULL;
	return find_or_add(inv, id->s, &g, err);
}

enum ms_code ms_inventory_add_journal(struct ms_inventory *inv, unsigned replica, const struct ms_generation *id, const struct ms_inv_segment *s,
				      struct ms_err *err) {
	struct ms_inv_generation *g = NULL;
	enum ms_code rc = find_or_add(inv, id->s, &g, err);
	struct ms_inv_shelf *sh = rc ? NULL : &g->shelf[replica];
	if (!rc)
		rc = grow((void **)&sh->merged, &sh->cap_merged, sh->nmerged, sizeof *sh->merged, err);
	if (rc)
		return rc;
	sh->merged[sh->nmerged] = *s;
	sh->merged[sh->nmerged++].flags = MS_SEG_MERGED | MS_SEG_PROBED | MS_SEG_JOURNAL;
	return MS_OK;
}

enum ms_code ms_inventory_set_lineage(struct ms_inventory *inv, const struct ms_lineage *l, struct ms_err *err) {
	struct ms_inv_generation *g = NULL;
	enum ms_code rc = find_or_add(inv, l->generation.s, &g, err);
	bool forked = l->parent.s[0];
	if (rc)
		return rc;
	if (g->lineage_known && (strcmp(g->parent.s, l->parent.s) != 0 || (forked && (g->fork_txid != l->fork_txid || g->seeded != l->seeded))))
		return ms_err_set(err, MS_ECORRUPT, "generation %s has two origins: txid %llu of %s and txid %llu of %s", l->generation.s,
				  (unsigned long long)g->fork_txid, g->parent.s[0] ? g->parent.s : "nothing", (unsigned long long)l->fork_txid,
				  forked ? l->parent.s : "nothing");
	g->lineage_known = true;
	g->parent = l->parent;
	g->fork_txid = forked ? l->fork_txid : 0;
	g->seeded = forked && l->seeded;
	if (forked)
		rc = find_or_add(inv, l->parent.s, &g, err);
	return rc;
}

enum ms_code ms_inventory_add_head(struct ms_inventory *inv, unsigned replica, const struct ms_head *h, struct ms_err *err) {
	struct ms_inv_generation *g = NULL;
	enum ms_code rc = find_or_add(inv, h->generation.s, &g, err);
	for (uint32_t i = 0; !rc && i < h->nlineage; i++)
		rc = ms_inventory_set_lineage(inv, &h->lineage[i], err);
	if (!rc)
		rc = grow((void **)&inv->heads, &inv->cap_heads, inv->nheads, sizeof *inv->heads, err);
	if (rc)
		return rc;
	struct ms_inv_head *d = &inv->heads[inv->nheads++];
	*d = (struct ms_inv_head){.number = h->number, .epoch = h->epoch, .replica = replica, .generation = h->generation,
		.time_us = h->time_us, .settled_txid = h->settled_txid};
	snprintf(d->owner, sizeof d->owner, "%s", h->owner);
	return MS_OK;
}

static int cmp_segment(const void *va, const void *vb) {
	const struct ms_inv_segment *a = va, *b = vb;
	if (a->first != b->first)
		return a->first < b->first ? -1 : 1;
	return a->last < b->last ? -1 : a->last > b->last;
}

static int cmp_part(const void *va, const void *vb) {
	const struct ms_inv_part *a = va, *b = vb;
	if (a->first != b->first)
		return a->first < b->first ? -1 : 1;
	return a->part < b->part ? -1 : a->part > b->part;
}

static int cmp_snapshot(const void *va, const void *vb) {
	const struct ms_inv_snapshot *a = va, *b = vb;
	if (a->txid != b->txid)
		return a->txid < b->txid ? -1 : 1;
	return a->time_us < b->time_us ? -1 : a->time_us > b->time_us;
}

static int cmp_head(const void *va, const void *vb) {
	const struct ms_inv_head *a = va, *b = vb;
	if (a->number != b->number)
		return a->number < b->number ? -1 : 1;
	return a->replica < b->replica ? -1 : a->replica > b->replica;
}

static int cmp_live(const void *va, const void *vb) {
	const struct ms_inv_segment *a = va, *b = vb;
	return a->first < b->first ? -1 : a->first > b->first;
}

static void seal_shelf(struct ms_inv_shelf *sh) {
	if (sh->nlive)
		qsort(sh->live, sh->nlive, sizeof *sh->live, cmp_live);
	if (sh->nmerged)
		qsort(sh->merged, sh->nmerged, sizeof *sh->merged, cmp_segment);
	if (sh->nparts)
		qsort(sh->parts, sh->nparts, sizeof *sh->parts, cmp_part);
	if (sh->nsnaps)
		qsort(sh->snaps, sh->nsnaps, sizeof *sh->snaps, cmp_snapshot);
	size_t p = 0;
	for (size_t i = 0; i < sh->nlive; i++) {
		struct ms_inv_segment *s = &sh->live[i];
		if (!(s->flags & MS_SEG_PROBED))
			s->last = i + 1 < sh->nlive ? sh->live[i + 1].first - 1 : MS_TXID_UNKNOWN;
		while (p < sh->nparts && sh->parts[p].first < s->first)
			p++;
		/* Parts count as far as they are there without a hole; a hole makes the transaction incomplete. */
		if (s->nparts == 1) {
			for (; p < sh->nparts && sh->parts[p].first == s->first && sh->parts[p].part == s->nparts; p++) {
				s->nparts++;
				s->bytes += sh->parts[p].bytes;
			}
		}
	}
}

void ms_inventory_seal(struct ms_inventory *inv) {
	for (size_t i = 0; i < inv->ngens; i++) {
		for (unsigned r = 0; r < inv->nreplicas; r++)
			seal_shelf(&inv->gens[i].shelf[r]);
	}
	if (inv->nheads)
		qsort(inv->heads, inv->nheads, sizeof *inv->heads, cmp_head);
}

const struct ms_inv_head *ms_inventory_newest_head(const struct ms_inventory *inv) {
	const struct ms_inv_head *best = NULL;
	for (size_t i = 0; i < inv->nheads; i++) {
		const struct ms_inv_head *h = &inv->heads[i];
		if (!best || h->epoch > best->epoch || (h->epoch == best->epoch && h->number > best->number))
			best = h;
	}
	return best;
}

enum ms_code ms_inventory_probed(struct ms_inv_segment *s, const struct ms_segment_info *first, const struct ms_segment_info *last,
				 struct ms_err *err) {
	if (first->first_txid != s->first || last->first_txid < s->first)
		return ms_err_set(err, MS_ECORRUPT, "the header says first txid %llu, the name says %llu", (unsigned long long)first->first_txid,
				  (unsigned long long)s->first);
	if (last->last_txid < first->first_txid)
		return ms_err_set(err, MS_ECORRUPT, "the header's last txid %llu lies before its first, %llu", (unsigned long long)last->last_txid,
				  (unsigned long long)first->first_txid);
	if ((s->flags & MS_SEG_MERGED) && (last->last_txid != s->last || first->first_us != s->first_us || last->last_us != s->last_us))
		return ms_err_set(err, MS_ECORRUPT, "the header and the name disagree on last txid or times");
	s->last = last->last_txid;
	s->parent = first->parent_txid;
	/* In parts there is one commit, whose time only the last one knows. */
	s->first_us = s->nparts > 1 ? last->last_us : first->first_us;
	s->last_us = last->last_us;
	s->kind = (uint8_t)last->kind;
	s->flags |= MS_SEG_PROBED;
	if (last->more)
		s->flags |= MS_SEG_INCOMPLETE;
	return MS_OK;
}

bool ms_inventory_mark_bad(struct ms_inventory *inv, unsigned replica, const char *name) {
	struct ms_name n;
	if (replica >= inv->nreplicas || !ms_name_parse(name, &n) || n.kind == MS_NAME_HEAD)
		return false;
	struct ms_inv_generation *g = ms_inventory_find(inv, n.generation.s);
	if (!g)
		return false;
	struct ms_inv_shelf *sh = &g->shelf[replica];
	bool found = false;
	for (size_t i = 0; n.kind == MS_NAME_SNAPSHOT && i < sh->nsnaps; i++) {
		if (sh->snaps[i].txid == n.first && sh->snaps[i].time_us == n.first_us)
			sh->snaps[i].bad = found = true;
	}
	for (size_t i = 0; (n.kind == MS_NAME_SEGMENT || n.kind == MS_NAME_SEGMENT_PART) && i < sh->nlive; i++) {
		if (sh->live[i].first == n.first) {
			sh->live[i].flags |= MS_SEG_BAD;
			found = true;
		}
	}
	for (size_t i = 0; n.kind == MS_NAME_MERGED && i < sh->nmerged; i++) {
		if (sh->merged[i].first == n.first && sh->merged[i].last == n.last) {
			sh->merged[i].flags |= MS_SEG_BAD;
			found = true;
		}
	}
	return found;
}

void ms_inv_segment_name(const struct ms_generation *g, const struct ms_inv_segment *s, uint32_t part, char ret[MS_NAME_MAX]) {
	struct ms_name n = {.kind = MS_NAME_SEGMENT, .generation = *g, .first = s->first};
	if (s->flags & MS_SEG_MERGED) {
		n.kind = MS_NAME_MERGED;
		n.last = s->last;
		n.first_us = s->first_us;
		n.last_us = s->last_us;
	} else if (part) {
		n.kind = MS_NAME_SEGMENT_PART;
		n.number = part;
	}
	ms_name_format(&n, ret);
}

void ms_inv_snapshot_name(const struct ms_generation *g, const struct ms_inv_snapshot *s, char ret[MS_NAME_MAX]) {
	struct ms_name n = {.kind = MS_NAME_SNAPSHOT, .generation = *g, .first = s->txid, .first_us = s->time_us};
	ms_name_format(&n, ret);
}

uint64_t ms_inv_part_bytes(const struct ms_inv_shelf *sh, const struct ms_inv_segment *s, uint32_t part) {
	if (s->nparts == 1)
		return part == 0 ? s->bytes : 0;
	uint64_t others = 0, mine = 0;
	size_t lo = 0, hi = sh->nparts;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (sh->parts[mid].first < s->first)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < sh->nparts && sh->parts[lo].first == s->first && sh->parts[lo].part < s->nparts; lo++) {
		others += sh->parts[lo].bytes;
		if (sh->parts[lo].part == part)
			mine = sh->parts[lo].bytes;
	}
	return part == 0 ? s->bytes - others : mine;
}

/* ---- listing ---- */

struct first_name {
	char name[512];
	bool found;
};

static bool take_first(void *arg, const struct ms_object *o) {
	struct first_name *f = arg;
	snprintf(f->name, sizeof f->name, "%s", o->name);
	f->found = true;
	return false;
}

enum ms_code ms_inventory_list_generations(struct ms_replica *r, enum ms_code (*cb)(void *, const struct ms_generation *, struct ms_err *),
					   void *arg, struct ms_err *err) {
	char after[520] = "";
	for (;;) {
		struct first_name f = {.found = false};
		enum ms_code rc = ms_replica_list(r, "", after[0] ? after : NULL, take_first, &f, err);
		if (rc)
			return rc;
		if (!f.found || (after[0] && strcmp(f.name, after) <= 0))
			return MS_OK;
		char *slash = strchr(f.name, '/');
		if (!slash) {
			snprintf(after, sizeof after, "%s", f.name);
			continue;
		}
		*slash = '\0';
		if (ms_generation_valid(f.name)) {
			struct ms_generation g;
			memcpy(g.s, f.name, sizeof g.s);
			if ((rc = cb(arg, &g, err)))
				return rc;
		}
		/* '0' is the character after '/': everything below the folder is passed over. */
		snprintf(after, sizeof after, "%s0", f.name);
	}
}

struct lister {
	struct ms_inventory *inv;
	unsigned replica;
	enum ms_code rc;
	struct ms_err *err;
};

static bool take_object(void *arg, const struct ms_object *o) {
	struct lister *l = arg;
	l->rc = ms_inventory_add(l->inv, l->replica, o->name, o->size < 0 ? 0 : (uint64_t)o->size, l->err);
	return l->rc == MS_OK;
}

enum ms_code ms_inventory_list_generation(struct ms_inventory *inv, unsigned replica, struct ms_replica *r, const struct ms_generation *g,
					  struct ms_err *err) {
	static const char *const folders[] = {"segments", "snapshots"};
	for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
		char prefix[64];
		struct lister l = {.inv = inv, .replica = replica, .err = err};
		snprintf(prefix, sizeof prefix, "%s/%s/", g->s, folders[i]);
		enum ms_code rc = ms_replica_list(r, prefix, NULL, take_object, &l, err);
		if (rc || l.rc)
			return rc ? rc : l.rc;
	}
	return MS_OK;
}

struct head_numbers {
	uint32_t *n;
	size_t count, cap;
	enum ms_code rc;
	struct ms_err *err;
};

static bool take_head(void *arg, const struct ms_object *o) {
	struct head_numbers *h = arg;
	struct ms_name n;
	if (!ms_name_parse(o->name, &n) || n.kind != MS_NAME_HEAD)
		return true;
	h->rc = grow((void **)&h->n, &h->cap, h->count, sizeof *h->n, h->err);
	if (h->rc)
		return false;
	h->n[h->count++] = n.number;
	return true;
}

enum ms_code ms_inventory_read_heads(struct ms_inventory *inv, unsigned replica, struct ms_replica *r, unsigned most, unsigned *ret_n,
				     struct ms_err *err) {
	struct head_numbers nums = {.err = err};
	struct ms_buf buf;
	ms_buf_init(&buf, HEAD_OBJECT_MAX);
	enum ms_code rc = ms_replica_list(r, "head/", NULL, take_head, &nums, err);
	if (!rc)
		rc = nums.rc;
	for (size_t i = 0; !rc && i < nums.count && (most == 0 || i < most); i++) {
		struct ms_name n = {.kind = MS_NAME_HEAD, .number = nums.n[nums.count - 1 - i]};
		char name[MS_NAME_MAX];
		struct ms_head h = {0};
		ms_name_format(&n, name);
		ms_buf_clear(&buf);
		rc = ms_replica_get_buf(r, name, 0, -1, &buf, err);
		/* An old head may be pruned between the listing and now; the newest never is. */
		if (rc == MS_ENOTFOUND && i > 0) {
			rc = MS_OK;
			continue;
		}
		if (!rc)
			rc = ms_head_decode(buf.data, buf.len, &h, err);
		if (!rc && h.number != n.number)
			rc = ms_err_set(err, MS_ECORRUPT, "it is head %u", h.number);
		if (!rc)
			rc = ms_inventory_add_head(inv, replica, &h, err);
		ms_head_release(&h);
		if (rc)
			ms_err_wrap(err, "%s", name);
	}
	if (!rc)
		*ret_n = (unsigned)nums.count;
	free(nums.n);
	ms_buf_release(&buf);
	return rc;
}
