#include "core/owed.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "core/cbor.h"
#include "core/crc.h"
#include "core/stream_entry.h"

static const char magic[8] = "MSOWED01";
#define HEADER_MAX 1024u
#define CRC_LEN 8u
#define FILE_MAX ((UINT64_C(1) << 29) + 4096) /* a bit for each of 2^32 pages */

void ms_owed_release(struct ms_owed *o) {
	free(o->bits);
	*o = (struct ms_owed){0};
}

bool ms_owed_has(const struct ms_owed *o, uint32_t pgno) { return pgno && pgno <= o->nbits && (o->bits[(pgno - 1) / 8] >> ((pgno - 1) % 8) & 1); }

static enum ms_code set(struct ms_owed *o, uint32_t pgno, struct ms_err *err) {
	if (pgno > o->nbits) {
		uint64_t want = (uint64_t)pgno + pgno / 4 + 512;
		size_t bytes = (size_t)(want < UINT32_MAX - 7 ? (want + 7) / 8 : UINT32_MAX / 8);
		uint8_t *p = pgno <= bytes * 8 ? realloc(o->bits, bytes) : NULL;
		if (!p)
			return ms_err_set(err, MS_ENOMEM, "bitmap of %u pages", pgno);
		memset(p + o->nbits / 8, 0, bytes - o->nbits / 8);
		o->bits = p;
		o->nbits = (uint32_t)(bytes * 8);
	}
	uint8_t bit = (uint8_t)(1u << ((pgno - 1) % 8));
	o->npages += !(o->bits[(pgno - 1) / 8] & bit);
	o->bits[(pgno - 1) / 8] |= bit;
	return MS_OK;
}

/* ---- folding ---- */

/* Of a stretch whose beginning is not known: base is the state that all pages written since are noted for. */
struct beginning {
	bool wanted, inside; /* inside: a transaction whose first entry is in the stretch is open */
	uint64_t base;
};

static enum ms_code fold_records(struct ms_owed *o, struct beginning *b, const struct ms_stream_entry *e, struct ms_err *err) {
	const uint8_t *p = e->records;
	size_t n = e->records_len, used;
	enum ms_code rc;
	for (; n; p += used, n -= used) {
		struct ms_record r;
		if ((rc = ms_record_parse(p, n, &r, &used, err)))
			return rc;
		if (r.type != MS_REC_COMMIT) {
			o->i.open = true;
			if (r.page.pgno && (rc = set(o, r.page.pgno, err)))
				return rc;
			continue;
		}
		const struct ms_commit *c = &r.commit;
		o->i.open = false;
		if (b->wanted && b->base == MS_OWED_BASE_UNKNOWN)
			b->base = b->inside ? c->txid - 1 : c->txid;
		b->inside = false;
		if (c->txid <= o->i.end.txid)
			continue;
		if (!o->i.commits++)
			o->i.since_us = c->time_us;
		o->i.end = (struct ms_dbstate){
			.txid = c->txid, .time_us = c->time_us, .checksum = c->checksum, .page_size = c->page_size, .db_pages = c->db_pages};
	}
	return MS_OK;
}

enum ms_code ms_owed_fold(struct ms_owed *o, struct ms_journal *j, const char *db, uint64_t before, struct ms_err *err) {
	struct ms_journal_reader *reader = NULL;
	struct beginning b = {.wanted = o->i.base_txid == MS_OWED_BASE_UNKNOWN, .base = MS_OWED_BASE_UNKNOWN};
	bool ours = true;
	if (o->i.next_seq >= before)
		return MS_OK;
	enum ms_code rc = ms_journal_reader_new(j, db, strlen(db), o->i.next_seq, &reader, err);
	while (!rc && !o->i.left) {
		struct ms_journal_entry entry;
		struct ms_stream_entry e;
		struct ms_err re = MS_ERR_INIT;
		rc = ms_journal_reader_next(reader, &entry, &re);
		if (rc == MS_ENOTFOUND) {
			uint64_t end = ms_journal_reader_seq(reader);
			o->i.next_seq = end < before ? end : before;
			rc = MS_OK;
			break;
		}
		if (rc) {
			rc = ms_err_set(err, rc, "%s", re.msg);
			break;
		}
		if (entry.seq >= before) {
			o->i.next_seq = before;
			break;
		}
		if ((rc = ms_stream_entry_parse(entry.payload, entry.len, &e, err))) {
			rc = ms_err_wrap(err, "journal entry %" PRIu64, entry.seq);
			break;
		}
		b.inside |= e.kind == MS_ENTRY_RUN && e.flags & MS_RUN_FIRST;
		if (e.kind == MS_ENTRY_RUN) {
			rc = fold_records(o, &b, &e, err);
		} else if (b.wanted) {
			ours = strcmp(e.start.generation.s, o->i.generation.s) == 0;
			b.base = e.start.base.txid;
			o->i.end = e.start.base;
			o->i.open = b.inside = false;
		} else if (strcmp(e.start.generation.s, o->i.generation.s) != 0 || e.start.base.txid > o->i.end.txid) {
			o->i.left = true;
		}
		if (!rc)
			o->i.next_seq = entry.seq + !o->i.left;
		ms_stream_entry_release(&e);
	}
	ms_journal_reader_free(reader);
	if (!rc && ours && b.wanted)
		o->i.base_txid = b.base;
	return rc;
}

/* ---- file ---- */

enum ms_code ms_owed_save(struct ms_env *env, const char *path, const struct ms_owed *o, struct ms_err *err) {
	const struct ms_owed_info *i = &o->i;
	const uint64_t v[] = {i->base_txid,    i->end.txid,	   i->end.checksum, (uint64_t)i->end.time_us, i->end.page_size, i->end.db_pages,
			      i->next_seq,     i->commits,	   (uint64_t)i->since_us, i->epoch,		   o->nbits,		i->open};
	const size_t n = sizeof v / sizeof v[0], bytes = o->nbits / 8;
	struct ms_buf b, h;
	enum ms_code rc;
	ms_buf_init(&b, FILE_MAX);
	ms_buf_init(&h, HEADER_MAX);
	rc = ms_cbor_put_map(&h, n + 1, err);
	if (!rc && !(rc = ms_cbor_put_uint(&h, 1, err)))
		rc = ms_cbor_put_text(&h, i->generation.s, err);
	for (size_t k = 0; !rc && k < n; k++)
		if (!(rc = ms_cbor_put_uint(&h, k + 2, err)))
			rc = ms_cbor_put_uint(&h, v[k], err);
	if (!rc && !(rc = ms_buf_append(&b, magic, sizeof magic, err)) && !(rc = ms_buf_u32(&b, (uint32_t)h.len, err)) &&
	    !(rc = ms_buf_append(&b, h.data, h.len, err)) && (!bytes || !(rc = ms_buf_append(&b, o->bits, bytes, err))) &&
	    !(rc = ms_buf_u64(&b, ms_crc64(0, b.data, b.len), err)))
		rc = ms_fs_replace_file(env, path, b.data, b.len, 0600, err);
	ms_buf_release(&h);
	ms_buf_release(&b);
	return rc;
}

static enum ms_code decode(const struct ms_buf *b, struct ms_owed *ret, struct ms_err *err) {
	const size_t fixed = sizeof magic + 4 + CRC_LEN;
	struct ms_cbor_doc d = {0};
	struct ms_owed o = {0};
	uint64_t v[14] = {0};
	enum ms_code rc;
	if (b->len < fixed || memcmp(b->data, magic, sizeof magic) != 0 ||
	    ms_get_le64(b->data + b->len - CRC_LEN) != ms_crc64(0, b->data, b->len - CRC_LEN))
		return MS_ECORRUPT;
	size_t head = ms_get_le32(b->data + sizeof magic), bytes;
	if (head > HEADER_MAX || head > b->len - fixed)
		return MS_ECORRUPT;
	bytes = b->len - fixed - head;
	if ((rc = ms_cbor_parse(b->data + sizeof magic + 4, head, &d, err)))
		return rc;
	rc = MS_ECORRUPT;
	if (d.items[0].type != MS_CBOR_MAP || ms_cbor_get_generation(&d, 1, false, &o.i.generation, err))
		goto out;
	for (uint64_t k = 2; k <= 13; k++)
		if (ms_cbor_get_uint(&d, k, &v[k], err))
			goto out;
	if (v[5] > INT64_MAX || v[6] > UINT32_MAX || v[7] > UINT32_MAX || v[10] > INT64_MAX || v[11] > UINT32_MAX || v[12] > UINT32_MAX || v[12] % 8 ||
	    v[12] / 8 != bytes || v[13] > 1 || v[2] > v[3] || !v[8])
		goto out;
	o.i.base_txid = v[2];
	o.i.end = (struct ms_dbstate){
		.txid = v[3], .checksum = v[4], .time_us = (int64_t)v[5], .page_size = (uint32_t)v[6], .db_pages = (uint32_t)v[7]};
	o.i.next_seq = v[8], o.i.commits = v[9], o.i.since_us = (int64_t)v[10], o.i.epoch = (uint32_t)v[11], o.i.open = v[13];
	o.nbits = (uint32_t)v[12];
	if (bytes && !(o.bits = malloc(bytes))) {
		rc = MS_ENOMEM;
		goto out;
	}
	if (bytes)
		memcpy(o.bits, b->data + sizeof magic + 4 + head, bytes);
	for (size_t k = 0; k < bytes; k++)
		o.npages += (uint32_t)__builtin_popcount(o.bits[k]);
	*ret = o;
	rc = MS_OK;
out:
	ms_cbor_doc_release(&d);
	return rc;
}

enum ms_code ms_owed_load(struct ms_env *env, const char *path, struct ms_owed *ret, struct ms_err *err) {
	struct ms_buf b;
	ms_buf_init(&b, FILE_MAX);
	enum ms_code rc = ms_fs_read_file(env, path, &b, err);
	if (!rc && (rc = decode(&b, ret, err)))
		rc = ms_err_set(err, rc == MS_ENOMEM ? rc : MS_ECORRUPT, "%s: no list of owed pages, or damaged", path);
	ms_buf_release(&b);
	return rc;
}
