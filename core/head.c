#include "core/head.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/cbor.h"

enum {
	H_NUMBER = 1,
	H_OWNER,
	H_EPOCH,
	H_GENERATION,
	H_TIME,
	H_SETTLED,
	H_HOST,
	H_LINEAGE,
	H_REMOVALS,
	H_REMOVE_AFTER,
};
enum { F_OWNER = 1, F_EPOCH, F_HEAD, F_TIME, F_HOST };

void ms_head_release(struct ms_head *h) {
	for (uint32_t i = 0; i < h->nremovals; i++)
		free(h->removals[i]);
	free(h->removals);
	free(h->lineage);
	*h = (struct ms_head){.number = 0};
}

/* Appends an artefact that is all header. */
static enum ms_code wrap(enum ms_artefact_kind kind, const struct ms_buf *header, struct ms_buf *out, struct ms_err *err) {
	struct ms_artefact_writer *w = ms_artefact_writer_new(kind, 1, out);
	if (!w)
		return ms_err_set(err, MS_ENOMEM, "no memory for a %s", ms_artefact_kind_name(kind));
	enum ms_code rc = ms_artefact_begin(w, header->data, header->len, err);
	if (!rc)
		rc = ms_artefact_end(w, NULL, 0, err);
	ms_artefact_writer_free(w);
	return rc;
}

static enum ms_code put_uint(struct ms_buf *b, uint64_t key, uint64_t v, struct ms_err *err) {
	enum ms_code rc = ms_cbor_put_uint(b, key, err);
	return rc ? rc : ms_cbor_put_uint(b, v, err);
}

static enum ms_code put_text(struct ms_buf *b, uint64_t key, const char *s, struct ms_err *err) {
	enum ms_code rc = ms_cbor_put_uint(b, key, err);
	return rc ? rc : ms_cbor_put_text(b, s, err);
}

static enum ms_code put_array(struct ms_buf *b, uint64_t key, size_t n, struct ms_err *err) {
	enum ms_code rc = ms_cbor_put_uint(b, key, err);
	return rc ? rc : ms_cbor_put_array(b, n, err);
}

/* The same rule for writer and reader; NULL when h is sound. */
static const char *head_fault(const struct ms_head *h) {
	if (!h->number)
		return "number 0";
	if (!ms_generation_valid(h->generation.s))
		return "no valid generation";
	if (h->time_us < 0 || h->remove_after_us < 0)
		return "a time before 1970";
	if (h->nlineage > MS_LINEAGE_MAX || h->nremovals > MS_REMOVALS_MAX)
		return "longer lists than allowed";
	if (h->nlineage && strcmp(h->lineage[0].generation.s, h->generation.s))
		return "a lineage that begins with another generation";
	for (uint32_t i = 0; i < h->nlineage; i++) {
		const struct ms_lineage *l = &h->lineage[i];
		if (!ms_generation_valid(l->generation.s) || (l->parent.s[0] && !ms_generation_valid(l->parent.s)) ||
		    (!l->parent.s[0] && (l->fork_txid || l->seeded)) || (l->seeded && l->fork_txid == UINT64_MAX))
			return "a lineage that is no lineage";
	}
	for (uint32_t i = 0; i < h->nremovals; i++)
		if (!h->removals[i][0] || strlen(h->removals[i]) > MS_REMOVAL_LEN_MAX)
			return "a removal without name, or with too long a one";
	return NULL;
}

enum ms_code ms_head_encode(const struct ms_head *h, struct ms_buf *out, struct ms_err *err) {
	const char *fault = head_fault(h);
	if (fault)
		return ms_err_set(err, MS_EINVAL, "head %" PRIu32 ": %s", h->number, fault);
	struct ms_buf b;
	ms_buf_init(&b, MS_HEADER_MAX);
	size_t pairs = 7u + (h->nlineage > 0) + (h->nremovals > 0) + (h->remove_after_us > 0);
	enum ms_code rc;
	if ((rc = ms_cbor_put_map(&b, pairs, err)) || (rc = put_uint(&b, H_NUMBER, h->number, err)) ||
	    (rc = put_text(&b, H_OWNER, h->owner, err)) || (rc = put_uint(&b, H_EPOCH, h->epoch, err)) ||
	    (rc = put_text(&b, H_GENERATION, h->generation.s, err)) || (rc = put_uint(&b, H_TIME, (uint64_t)h->time_us, err)) ||
	    (rc = put_uint(&b, H_SETTLED, h->settled_txid, err)) || (rc = put_text(&b, H_HOST, h->host, err)))
		goto out;
	if (h->nlineage && (rc = put_array(&b, H_LINEAGE, h->nlineage, err)))
		goto out;
	for (uint32_t i = 0; i < h->nlineage; i++)
		if ((rc = ms_lineage_put(&b, &h->lineage[i], err)))
			goto out;
	if (h->nremovals && (rc = put_array(&b, H_REMOVALS, h->nremovals, err)))
		goto out;
	for (uint32_t i = 0; i < h->nremovals; i++)
		if ((rc = ms_cbor_put_text(&b, h->removals[i], err)))
			goto out;
	if (h->remove_after_us && (rc = put_uint(&b, H_REMOVE_AFTER, (uint64_t)h->remove_after_us, err)))
		goto out;
	rc = wrap(MS_ART_HEAD, &b, out, err);
out:
	ms_buf_release(&b);
	return rc;
}

/* *ret_n = number of items of the array under key, 0 when the key is absent; *ret_first = index of the first. */
static enum ms_code get_array(const struct ms_cbor_doc *d, uint64_t key, uint64_t max, uint32_t *ret_first, uint32_t *ret_n,
			      struct ms_err *err) {
	const struct ms_cbor_item *a = ms_cbor_get(d, 0, key);
	if (a && (a->type != MS_CBOR_ARRAY || a->u > max))
		return ms_err_set(err, MS_ECORRUPT, "header: key %" PRIu64 " is not an array of at most %" PRIu64, key, max);
	*ret_n = a ? (uint32_t)a->u : 0;
	*ret_first = a ? (uint32_t)(a - d->items) + 1 : 0;
	return MS_OK;
}

enum ms_code ms_lineage_put(struct ms_buf *b, const struct ms_lineage *l, struct ms_err *err) {
	enum ms_code rc;
	if ((rc = ms_cbor_put_array(b, l->seeded ? 4 : 3, err)) || (rc = ms_cbor_put_text(b, l->generation.s, err)) ||
	    (rc = ms_cbor_put_text(b, l->parent.s, err)) || (rc = ms_cbor_put_uint(b, l->fork_txid, err)))
		return rc;
	return l->seeded ? ms_cbor_put_uint(b, ms_lineage_base(l), err) : MS_OK;
}

enum ms_code ms_lineage_get(const struct ms_cbor_doc *d, uint32_t at, struct ms_lineage *ret, struct ms_err *err) {
	const struct ms_cbor_item *row = &d->items[at];
	struct ms_lineage l = {0};
	enum ms_code rc;
	if (row->type != MS_CBOR_ARRAY || (row->u != 3 && row->u != 4))
		return ms_err_set(err, MS_ECORRUPT, "a lineage entry has neither three items nor four");
	l.seeded = row->u == 4;
	const struct ms_cbor_item *generation = row + 1, *parent = &d->items[generation->next], *fork = &d->items[parent->next];
	if ((rc = ms_cbor_item_generation(generation, false, &l.generation, err)) || (rc = ms_cbor_item_generation(parent, true, &l.parent, err)))
		return rc;
	if (fork->type != MS_CBOR_UINT)
		return ms_err_set(err, MS_ECORRUPT, "a lineage entry without fork txid");
	l.fork_txid = fork->u;
	const struct ms_cbor_item *base = l.seeded ? &d->items[fork->next] : NULL;
	if (base && (!l.parent.s[0] || base->type != MS_CBOR_UINT || l.fork_txid == UINT64_MAX || base->u != l.fork_txid + 1))
		return ms_err_set(err, MS_ECORRUPT, "a lineage entry whose first state is not the one behind the fork");
	*ret = l;
	return MS_OK;
}

static enum ms_code parse_lineage(const struct ms_cbor_doc *d, struct ms_head *h, struct ms_err *err) {
	uint32_t at, n;
	enum ms_code rc = get_array(d, H_LINEAGE, MS_LINEAGE_MAX, &at, &n, err);
	if (rc || !n)
		return rc;
	if (!(h->lineage = calloc(n, sizeof *h->lineage)))
		return ms_err_set(err, MS_ENOMEM, "no memory for a lineage of %" PRIu32, n);
	for (uint32_t i = 0; i < n; i++, at = d->items[at].next) {
		if ((rc = ms_lineage_get(d, at, &h->lineage[i], err)))
			return rc;
		h->nlineage = i + 1;
	}
	return MS_OK;
}

static enum ms_code parse_removals(const struct ms_cbor_doc *d, struct ms_head *h, struct ms_err *err) {
	uint32_t at, n;
	enum ms_code rc = get_array(d, H_REMOVALS, MS_REMOVALS_MAX, &at, &n, err);
	if (rc || !n)
		return rc;
	if (!(h->removals = calloc(n, sizeof *h->removals)))
		return ms_err_set(err, MS_ENOMEM, "no memory for %" PRIu32 " removals", n);
	for (uint32_t i = 0; i < n; i++, at = d->items[at].next) {
		char name[MS_REMOVAL_LEN_MAX + 1];
		if ((rc = ms_cbor_item_text(&d->items[at], name, sizeof name, err)))
			return rc;
		if (!(h->removals[i] = strdup(name)))
			return ms_err_set(err, MS_ENOMEM, "no memory for %" PRIu32 " removals", n);
		h->nremovals = i + 1;
	}
	return MS_OK;
}

static enum ms_code on_head(void *arg, const uint8_t *cbor, size_t len, struct ms_err *err) {
	struct ms_head *h = arg;
	struct ms_cbor_doc d;
	enum ms_code rc = ms_cbor_parse(cbor, len, &d, err);
	if (rc)
		return rc;
	const uint64_t zero = 0;
	uint64_t number, epoch, time_us, after;
	if ((rc = ms_cbor_get_uint_max(&d, H_NUMBER, UINT32_MAX, NULL, &number, err)) ||
	    (rc = ms_cbor_get_text(&d, H_OWNER, h->owner, sizeof h->owner, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, H_EPOCH, UINT32_MAX, NULL, &epoch, err)) ||
	    (rc = ms_cbor_get_generation(&d, H_GENERATION, false, &h->generation, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, H_TIME, INT64_MAX, NULL, &time_us, err)) ||
	    (rc = ms_cbor_get_uint(&d, H_SETTLED, &h->settled_txid, err)) ||
	    (rc = ms_cbor_get_text(&d, H_HOST, h->host, sizeof h->host, err)) ||
	    (rc = ms_cbor_get_uint_max(&d, H_REMOVE_AFTER, INT64_MAX, &zero, &after, err)) || (rc = parse_lineage(&d, h, err)) ||
	    (rc = parse_removals(&d, h, err)))
		goto out;
	h->number = (uint32_t)number, h->epoch = (uint32_t)epoch, h->time_us = (int64_t)time_us, h->remove_after_us = (int64_t)after;
	const char *fault = head_fault(h);
	if (fault)
		rc = ms_err_set(err, MS_ECORRUPT, "head %" PRIu32 ": %s", h->number, fault);
out:
	ms_cbor_doc_release(&d);
	return rc;
}

static enum ms_code no_blocks(void *arg, uint16_t kind, const uint8_t *raw, size_t len, struct ms_err *err) {
	(void)arg, (void)raw, (void)len;
	return ms_err_set(err, MS_EUNSUPPORTED, "block of kind %u where none is known", kind);
}

static enum ms_code unwrap(enum ms_artefact_kind kind, const uint8_t *p, size_t n,
			   enum ms_code (*header)(void *, const uint8_t *, size_t, struct ms_err *), void *arg, struct ms_err *err) {
	const struct ms_artefact_callbacks cb = {.header = header, .block = no_blocks};
	struct ms_artefact_reader *r = ms_artefact_reader_new(kind, &cb, arg);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "no memory for a %s", ms_artefact_kind_name(kind));
	enum ms_code rc = ms_artefact_push(r, p, n, err);
	if (!rc)
		rc = ms_artefact_finish(r, err);
	ms_artefact_reader_free(r);
	return rc;
}

enum ms_code ms_head_decode(const uint8_t *p, size_t n, struct ms_head *ret, struct ms_err *err) {
	struct ms_head h = {.number = 0};
	enum ms_code rc = unwrap(MS_ART_HEAD, p, n, on_head, &h, err);
	if (rc)
		ms_head_release(&h);
	else
		*ret = h;
	return rc;
}

enum ms_code ms_fence_encode(const struct ms_fence *f, struct ms_buf *out, struct ms_err *err) {
	if (f->time_us < 0)
		return ms_err_set(err, MS_EINVAL, "fence: a time before 1970");
	struct ms_buf b;
	ms_buf_init(&b, 4096);
	enum ms_code rc;
	if (!(rc = ms_cbor_put_map(&b, 5, err)) && !(rc = put_text(&b, F_OWNER, f->owner, err)) &&
	    !(rc = put_uint(&b, F_EPOCH, f->epoch, err)) && !(rc = put_uint(&b, F_HEAD, f->head_number, err)) &&
	    !(rc = put_uint(&b, F_TIME, (uint64_t)f->time_us, err)) && !(rc = put_text(&b, F_HOST, f->host, err)))
		rc = wrap(MS_ART_FENCE, &b, out, err);
	ms_buf_release(&b);
	return rc;
}

static enum ms_code on_fence(void *arg, const uint8_t *cbor, size_t len, struct ms_err *err) {
	struct ms_fence *f = arg;
	struct ms_cbor_doc d;
	enum ms_code rc = ms_cbor_parse(cbor, len, &d, err);
	if (rc)
		return rc;
	uint64_t epoch, head, time_us;
	if (!(rc = ms_cbor_get_text(&d, F_OWNER, f->owner, sizeof f->owner, err)) &&
	    !(rc = ms_cbor_get_uint_max(&d, F_EPOCH, UINT32_MAX, NULL, &epoch, err)) &&
	    !(rc = ms_cbor_get_uint_max(&d, F_HEAD, UINT32_MAX, NULL, &head, err)) &&
	    !(rc = ms_cbor_get_uint_max(&d, F_TIME, INT64_MAX, NULL, &time_us, err)) &&
	    !(rc = ms_cbor_get_text(&d, F_HOST, f->host, sizeof f->host, err)))
		f->epoch = (uint32_t)epoch, f->head_number = (uint32_t)head, f->time_us = (int64_t)time_us;
	ms_cbor_doc_release(&d);
	return rc;
}

enum ms_code ms_fence_decode(const uint8_t *p, size_t n, struct ms_fence *ret, struct ms_err *err) {
	struct ms_fence f = {.epoch = 0};
	enum ms_code rc = unwrap(MS_ART_FENCE, p, n, on_fence, &f, err);
	if (!rc)
		*ret = f;
	return rc;
}
