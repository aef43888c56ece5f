#include "core/cursor.h"

#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "core/cbor.h"
#include "core/crc.h"

static const char magic[8] = "MSCURSOR";
#define CURSOR_MAX (1u << 20)
#define CRC_LEN 8u

void ms_cursor_release(struct ms_cursor *c) {
	free(c->lineage);
	*c = (struct ms_cursor){0};
}

void ms_cursor_settle(struct ms_cursor *c, bool owes) {
	c->settled_seq = c->seq;
	c->settled_txid = c->state.txid;
	c->settled_checksum = owes ? 0 : c->state.checksum;
}

enum ms_code ms_cursor_set_lineage(struct ms_cursor *c, const struct ms_lineage *lineage, uint32_t n, struct ms_err *err) {
	struct ms_lineage *copy = calloc((size_t)n + 1, sizeof *copy);
	if (!copy)
		return ms_err_set(err, MS_ENOMEM, "lineage of %u generations", n);
	if (n)
		memcpy(copy, lineage, n * sizeof *copy);
	free(c->lineage);
	c->lineage = copy;
	c->nlineage = n;
	return MS_OK;
}

enum ms_code ms_cursor_join_lineage(struct ms_cursor *c, const struct ms_lineage *lineage, uint32_t n, const struct ms_lineage *older,
				    uint32_t nolder, struct ms_err *err) {
	uint32_t from = nolder, extra = 0;
	for (uint32_t i = 0; n && lineage[n - 1].parent.s[0] && i < nolder; i++)
		if (strcmp(older[i].generation.s, lineage[n - 1].parent.s) == 0) {
			from = i;
			break;
		}
	extra = nolder - from;
	if (extra > MS_LINEAGE_MAX - n)
		extra = MS_LINEAGE_MAX - n;
	struct ms_lineage *joined = calloc((size_t)n + extra + 1, sizeof *joined);
	if (!joined)
		return ms_err_set(err, MS_ENOMEM, "lineage of %u generations", n + extra);
	if (n)
		memcpy(joined, lineage, n * sizeof *joined);
	if (extra)
		memcpy(joined + n, older + from, extra * sizeof *joined);
	free(c->lineage);
	c->lineage = joined;
	c->nlineage = n + extra;
	return MS_OK;
}

enum ms_code ms_cursor_copy(struct ms_cursor *ret, const struct ms_cursor *c, struct ms_err *err) {
	struct ms_cursor copy = *c;
	copy.lineage = NULL;
	enum ms_code rc = ms_cursor_set_lineage(&copy, c->lineage, c->nlineage, err);
	if (!rc)
		*ret = copy;
	return rc;
}

static enum ms_code encode(const struct ms_cursor *c, struct ms_buf *b, struct ms_err *err) {
	const struct {
		uint64_t key, value;
	} fields[] = {{3, c->state.txid},	    {4, c->state.checksum}, {5, (uint64_t)c->state.time_us}, {6, c->state.page_size},
		      {7, c->state.db_pages},	    {8, c->head_number},    {9, c->epoch},		     {10, c->segment_first},
		      {11, (uint64_t)c->base},	    {12, c->snapshot_txid}, {13, (uint64_t)c->snapshot_us},  {14, c->bytes_since_snapshot},
		      {16, c->fold_last},	    {17, c->place},	    {18, c->settled_seq},	     {19, c->settled_txid},
		      {20, c->settled_checksum}};
	const size_t n = sizeof fields / sizeof fields[0];
	enum ms_code rc;
	if ((rc = ms_buf_append(b, magic, sizeof magic, err)) || (rc = ms_cbor_put_map(b, n + 3, err)) || (rc = ms_cbor_put_uint(b, 1, err)) ||
	    (rc = ms_cbor_put_uint(b, c->seq, err)) || (rc = ms_cbor_put_uint(b, 2, err)) || (rc = ms_cbor_put_text(b, c->generation.s, err)))
		return rc;
	for (size_t i = 0; i < n; i++)
		if ((rc = ms_cbor_put_uint(b, fields[i].key, err)) || (rc = ms_cbor_put_uint(b, fields[i].value, err)))
			return rc;
	if ((rc = ms_cbor_put_uint(b, 15, err)) || (rc = ms_cbor_put_array(b, c->nlineage, err)))
		return rc;
	for (uint32_t i = 0; i < c->nlineage; i++)
		if ((rc = ms_lineage_put(b, &c->lineage[i], err)))
			return rc;
	return ms_buf_u64(b, ms_crc64(0, b->data, b->len), err);
}

enum ms_code ms_cursor_save(struct ms_env *env, const char *path, const struct ms_cursor *c, struct ms_err *err) {
	struct ms_buf b;
	ms_buf_init(&b, CURSOR_MAX);
	enum ms_code rc = encode(c, &b, err);
	if (!rc)
		rc = ms_fs_replace_file(env, path, b.data, b.len, 0600, err);
	ms_buf_release(&b);
	return rc;
}

static bool generation_of(const struct ms_cbor_item *it, struct ms_generation *ret) {
	if (!it || it->type != MS_CBOR_TEXT || (it->n && it->n != MS_GENERATION_LEN))
		return false;
	memcpy(ret->s, it->p, it->n);
	ret->s[it->n] = '\0';
	return it->n == 0 || ms_generation_valid(ret->s);
}

static enum ms_code decode(const char *path, const uint8_t *p, size_t n, struct ms_cursor *ret, struct ms_err *err) {
	struct ms_cbor_doc d = {0};
	struct ms_cursor c = {0};
	uint64_t v[15];
	enum ms_code rc = ms_cbor_parse(p, n, &d, err);
	if (rc)
		return rc == MS_ENOMEM ? rc : ms_err_set(err, MS_ECORRUPT, "%s: not a cursor", path);
	const struct ms_cbor_item *a = d.items[0].type == MS_CBOR_MAP ? ms_cbor_get(&d, 0, 15) : NULL;
	rc = MS_ECORRUPT;
	if (!a || a->type != MS_CBOR_ARRAY || a->u > MS_LINEAGE_MAX || !generation_of(ms_cbor_get(&d, 0, 2), &c.generation))
		goto out;
	for (uint64_t k = 1; k <= 14; k++)
		if (k != 2 && ms_cbor_get_uint(&d, k, &v[k], NULL))
			goto out;
	if (v[5] > INT64_MAX || v[6] > UINT32_MAX || v[7] > UINT32_MAX || v[8] > UINT32_MAX || v[9] > UINT32_MAX || v[11] > MS_BASE_JUMP || v[13] > INT64_MAX)
		goto out;
	c.seq = v[1];
	c.state = (struct ms_dbstate){
		.txid = v[3], .checksum = v[4], .time_us = (int64_t)v[5], .page_size = (uint32_t)v[6], .db_pages = (uint32_t)v[7]};
	c.head_number = (uint32_t)v[8], c.epoch = (uint32_t)v[9];
	c.segment_first = v[10];
	c.base = (enum ms_cursor_base)v[11];
	const uint64_t none = 0;
	if (ms_cbor_get_uint_max(&d, 16, UINT64_MAX, &none, &c.fold_last, NULL) || ms_cbor_get_uint_max(&d, 17, UINT64_MAX, &none, &c.place, NULL) ||
	    ms_cbor_get_uint_max(&d, 18, UINT64_MAX, &none, &c.settled_seq, NULL) || ms_cbor_get_uint_max(&d, 19, UINT64_MAX, &none, &c.settled_txid, NULL) ||
	    ms_cbor_get_uint_max(&d, 20, UINT64_MAX, &none, &c.settled_checksum, NULL))
		goto out;
	c.snapshot_txid = v[12], c.snapshot_us = (int64_t)v[13], c.bytes_since_snapshot = v[14];
	c.nlineage = (uint32_t)a->u;
	c.lineage = calloc((size_t)c.nlineage + 1, sizeof *c.lineage);
	if (!c.lineage) {
		rc = MS_ENOMEM;
		goto out;
	}
	uint32_t at = (uint32_t)(a - d.items) + 1;
	for (uint32_t i = 0; i < c.nlineage; i++, at = d.items[at].next) {
		if (ms_lineage_get(&d, at, &c.lineage[i], NULL))
			goto out;
	}
	rc = MS_OK;
	*ret = c;
	c.lineage = NULL;
out:
	ms_cursor_release(&c);
	ms_cbor_doc_release(&d);
	return rc ? ms_err_set(err, rc, "%s: not a cursor", path) : MS_OK;
}

enum ms_code ms_cursor_load(struct ms_env *env, const char *path, struct ms_cursor *ret, struct ms_err *err) {
	struct ms_buf b;
	ms_buf_init(&b, CURSOR_MAX);
	enum ms_code rc = ms_fs_read_file(env, path, &b, err);
	if (!rc && (b.len < sizeof magic + CRC_LEN || memcmp(b.data, magic, sizeof magic) != 0 ||
		    ms_get_le64(b.data + b.len - CRC_LEN) != ms_crc64(0, b.data, b.len - CRC_LEN)))
		rc = ms_err_set(err, MS_ECORRUPT, "%s: not a cursor, or damaged", path);
	if (!rc)
		rc = decode(path, b.data + sizeof magic, b.len - sizeof magic - CRC_LEN, ret, err);
	ms_buf_release(&b);
	return rc;
}
