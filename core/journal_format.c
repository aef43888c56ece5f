/*
 * Bytes of the journal, all little-endian; the contract is docs/formats.md "Journal".
 *
 * File header, 64 bytes:
 *   0 "MSJL" | 4 u16 version (1) | 6 u16 header length (64) | 8 u64 incompatible features | 16 u64 first sequence |
 *   24 i64 created us | 32 24 bytes zero | 56 u64 CRC-64 of bytes 0..55
 * Entry, a multiple of 8 bytes:
 *   0 u32 payload length | 4 u16 flags | 6 u16 name length | 8 u64 sequence | 16 i64 time us | 24 u64 durable sequence |
 *   32 u64 header check | 40 u64 payload check | 48 name | payload | zeros
 *   header check = CRC-64 of (u64 the file's first sequence, u64 the entry's offset, bytes 0..31, name)
 *   payload check = the header check continued over payload and zeros
 *
 * A valid header proves its length, so damage in a payload costs that entry alone and a reader may step over an entry without
 * reading its payload. The file's first sequence and the offset in the checksum make a copy of an entry at any other place (stale
 * blocks, a journal stored inside a database) no entry. When a header is bad the scan looks at every multiple of 8 behind it for
 * one that is valid and has a sequence that is still due.
 *
 * "Durable sequence" is what the writer knew to be synced when it wrote the entry. It tells a torn tail from damage: see
 * journal_recovery.c.
 */
#include "core/journal_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/crc.h"

void msj_file_header_put(uint8_t p[MSJ_FILE_HEADER], const struct msj_file_header *h) {
	memset(p, 0, MSJ_FILE_HEADER);
	memcpy(p, "MSJL", 4);
	p[4] = (uint8_t)h->version, p[5] = (uint8_t)(h->version >> 8);
	p[6] = MSJ_FILE_HEADER;
	ms_put_le64(p + 8, h->features);
	ms_put_le64(p + 16, h->first);
	ms_put_le64(p + 24, (uint64_t)h->created_us);
	ms_put_le64(p + 56, ms_crc64(0, p, 56));
}

bool msj_file_header_get(const uint8_t p[MSJ_FILE_HEADER], struct msj_file_header *ret) {
	if (memcmp(p, "MSJL", 4) != 0 || ms_get_le64(p + 56) != ms_crc64(0, p, 56))
		return false;
	ret->version = (uint16_t)(p[4] | p[5] << 8);
	ret->features = ms_get_le64(p + 8);
	ret->first = ms_get_le64(p + 16);
	ret->created_us = (int64_t)ms_get_le64(p + 24);
	return true;
}

static uint64_t head_crc(const uint8_t p[MSJ_HEAD], uint64_t file_first, uint64_t off, const void *name, size_t name_len) {
	uint8_t b[48];
	ms_put_le64(b, file_first);
	ms_put_le64(b + 8, off);
	memcpy(b + 16, p, 32);
	return ms_crc64(ms_crc64(0, b, sizeof b), name, name_len);
}

void msj_head_put(uint8_t p[MSJ_HEAD], struct msj_head *h, uint64_t file_first, const void *name) {
	ms_put_le32(p, h->len);
	ms_put_le32(p + 4, h->flags | (uint32_t)h->name_len << 16);
	ms_put_le64(p + 8, h->seq);
	ms_put_le64(p + 16, (uint64_t)h->time_us);
	ms_put_le64(p + 24, h->durable);
	h->hcrc = head_crc(p, file_first, h->off, name, h->name_len);
	ms_put_le64(p + 32, h->hcrc);
}

void msj_head_seal(uint8_t p[MSJ_HEAD], uint64_t pcrc) {
	ms_put_le64(p + 40, pcrc);
}

void msj_window_release(struct msj_window *w) {
	free(w->buf);
	memset(w, 0, sizeof *w);
}

void msj_window_set(struct msj_window *w, struct ms_env *env, struct ms_file *fh, uint64_t limit) {
	w->ops = env->ops;
	w->fh = fh;
	w->limit = limit;
	w->len = 0;
	w->off = 0;
}

void msj_window_trim(struct msj_window *w) {
	if (w->cap <= MSJ_WINDOW)
		return;
	free(w->buf);
	w->buf = NULL;
	w->cap = w->len = 0;
}

enum ms_code msj_window_get(struct msj_window *w, uint64_t off, size_t n, const uint8_t **ret, size_t *ret_n,
			    struct ms_err *err) {
	uint64_t left = off < w->limit ? w->limit - off : 0;
	if (n > left)
		n = (size_t)left;
	if (off >= w->off && off - w->off <= w->len && n <= w->len - (off - w->off)) {
		*ret = n ? w->buf + (off - w->off) : (const uint8_t *)"";
		*ret_n = n;
		return MS_OK;
	}
	size_t want = n < MSJ_WINDOW ? MSJ_WINDOW : n, got;
	if (want > w->cap) {
		uint8_t *b = realloc(w->buf, want);
		if (!b)
			return ms_err_set(err, MS_ENOMEM, "journal window of %zu bytes", want);
		w->buf = b;
		w->cap = want;
	}
	if (want > left)
		want = (size_t)left;
	w->len = 0;
	enum ms_code rc = w->ops->pread(w->fh, w->buf, want, (int64_t)off, &got, err);
	if (rc != MS_OK)
		return rc;
	w->off = off;
	w->len = got;
	*ret = w->buf;
	*ret_n = n < got ? n : got; /* the file may be shorter than the limit */
	return MS_OK;
}

/* Parses and proves the header at off; *ret_ok false when there is none. */
static enum ms_code head_at(struct msj_scan *s, uint64_t off, struct msj_head *h, bool *ret_ok, struct ms_err *err) {
	const uint8_t *p;
	size_t n;
	*ret_ok = false;
	enum ms_code rc = msj_window_get(&s->w, off, MSJ_HEAD, &p, &n, err);
	if (rc != MS_OK || n < MSJ_HEAD)
		return rc;
	h->off = off;
	h->len = ms_get_le32(p);
	h->flags = (uint16_t)(p[4] | p[5] << 8);
	h->name_len = (uint16_t)(p[6] | p[7] << 8);
	h->seq = ms_get_le64(p + 8);
	h->time_us = (int64_t)ms_get_le64(p + 16);
	h->durable = ms_get_le64(p + 24);
	h->hcrc = ms_get_le64(p + 32);
	h->pcrc = ms_get_le64(p + 40);
	h->size = msj_entry_size(h->name_len, h->len);
	uint64_t due = h->flags & MSJ_MARK ? s->next - 1 : s->next;
	/* The cheap tests come first: while looking for a valid header this runs for every 8 bytes. */
	if (h->seq < due || h->seq - due > s->w.limit / MSJ_HEAD || h->len > MS_JOURNAL_PAYLOAD_MAX ||
	    h->size > s->w.limit - off || ((h->flags & MSJ_MARK) && (h->len || h->name_len)))
		return MS_OK;
	if ((rc = msj_window_get(&s->w, off, MSJ_HEAD + h->name_len, &p, &n, err)) != MS_OK || n < MSJ_HEAD + (size_t)h->name_len)
		return rc;
	h->name = p + MSJ_HEAD;
	*ret_ok = head_crc(p, s->first, off, h->name, h->name_len) == h->hcrc && (!(h->flags & MSJ_MARK) || h->pcrc == h->hcrc);
	return MS_OK;
}

enum ms_code msj_scan_next(struct msj_scan *s, enum msj_event *ret, struct msj_head *h, struct msj_damage *d,
			   struct ms_err *err) {
	enum ms_code rc;
	bool ok;

	if (s->off == s->w.limit) {
		*ret = MSJ_END;
		return MS_OK;
	}
	uint64_t off = s->off;
	if ((rc = head_at(s, off, h, &ok, err)) != MS_OK)
		return rc;
	uint64_t at = off;
	while (!ok) {
		at += 8;
		if (at + MSJ_HEAD > s->w.limit) {
			*d = (struct msj_damage){s->next, 0, s->w.limit - off};
			*ret = MSJ_TAIL;
			return MS_OK;
		}
		if ((rc = head_at(s, at, h, &ok, err)) != MS_OK)
			return rc;
	}
	uint64_t due = h->flags & MSJ_MARK ? s->next - 1 : s->next;
	if (at != off || h->seq != due) {
		*d = (struct msj_damage){s->next, h->seq - due, at - off};
		s->off = at;
		s->next += d->lost;
		*ret = MSJ_LOST;
		return MS_OK;
	}
	s->off = at + h->size;
	if (h->flags & MSJ_MARK) {
		*ret = MSJ_NOTE;
		return MS_OK;
	}
	s->next = h->seq + 1;
	*ret = MSJ_ENTRY;
	return MS_OK;
}

enum ms_code msj_payload_check(struct msj_scan *s, const struct msj_head *h, bool *ret_ok, struct ms_err *err) {
	uint64_t at = h->off + MSJ_HEAD + h->name_len, end = h->off + h->size, crc = h->hcrc;
	*ret_ok = false;
	while (at < end) {
		const uint8_t *p;
		size_t n;
		uint64_t piece = end - at < MSJ_WINDOW / 2 ? end - at : MSJ_WINDOW / 2;
		enum ms_code rc = msj_window_get(&s->w, at, (size_t)piece, &p, &n, err);
		if (rc != MS_OK)
			return rc;
		if (n < piece)
			return MS_OK;
		crc = ms_crc64(crc, p, n);
		at += n;
	}
	*ret_ok = crc == h->pcrc;
	return MS_OK;
}

enum ms_code msj_payload_load(struct msj_scan *s, const struct msj_head *h, bool *ret_ok, const uint8_t **ret_name,
			      const uint8_t **ret_payload, struct ms_err *err) {
	const uint8_t *p;
	size_t n;
	*ret_ok = false;
	enum ms_code rc = msj_window_get(&s->w, h->off, (size_t)h->size, &p, &n, err);
	if (rc != MS_OK || n < h->size)
		return rc;
	size_t skip = MSJ_HEAD + (size_t)h->name_len;
	*ret_name = p + MSJ_HEAD;
	*ret_payload = p + skip;
	*ret_ok = ms_crc64(h->hcrc, p + skip, (size_t)h->size - skip) == h->pcrc;
	return MS_OK;
}

uint64_t msj_name_hash(const void *name, size_t len) {
	uint64_t h = ms_crc64(0, name, len) + 1; /* of the empty name too */
	return h ^ h >> 29;
}

enum ms_code msj_file_note(struct msj_file *f, uint64_t off, uint64_t seq, uint64_t hash, struct ms_err *err) {
	if (!f->nchunks || off / MSJ_CHUNK != f->chunks[f->nchunks - 1].off / MSJ_CHUNK) {
		if (f->nchunks == f->cap) {
			uint32_t cap = f->cap ? f->cap * 2 : 8;
			struct msj_chunk *c = realloc(f->chunks, cap * sizeof *c);
			if (!c)
				return ms_err_set(err, MS_ENOMEM, "%s: summary of %u stretches", f->name, cap);
			f->chunks = c;
			f->cap = cap;
		}
		f->chunks[f->nchunks++] = (struct msj_chunk){.first = seq, .off = off};
	}
	if (!f->nrecent || off >= f->recent[(f->nrecent - 1) % MSJ_RECENT].off + MSJ_RECENT_STEP) {
		f->recent[f->nrecent % MSJ_RECENT].seq = seq;
		f->recent[f->nrecent % MSJ_RECENT].off = off;
		f->nrecent++;
	}
	uint64_t *b = f->chunks[f->nchunks - 1].bloom;
	b[hash & 3] |= 1ull << (hash >> 8 & 63);
	b[hash >> 2 & 3] |= 1ull << (hash >> 16 & 63);
	return MS_OK;
}

void msj_file_recent(const struct msj_file *f, uint64_t seq, uint64_t *ret_seq, uint64_t *ret_off) {
	uint32_t n = f->nrecent < MSJ_RECENT ? f->nrecent : MSJ_RECENT;
	for (uint32_t i = 1; i <= n; i++) {
		uint32_t at = (f->nrecent - i) % MSJ_RECENT;
		if (f->recent[at].seq > seq)
			continue;
		if (f->recent[at].off > *ret_off) {
			*ret_seq = f->recent[at].seq;
			*ret_off = f->recent[at].off;
		}
		return;
	}
}

void msj_file_free(struct msj_file *f) {
	free(f->chunks);
	free(f);
}

bool msj_name_parse(const char *name, uint64_t *ret_first, bool *ret_quarantined) {
	static const char prefix[] = "journal-", suffix[] = ".msj", aside[] = ".quarantine";
	uint64_t v = 0;

	if (strncmp(name, prefix, sizeof prefix - 1) != 0 || strlen(name) >= MSJ_NAME_CAP)
		return false;
	name += sizeof prefix - 1;
	for (int i = 0; i < 16; i++, name++) {
		unsigned digit = *name >= '0' && *name <= '9'	? (unsigned)(*name - '0')
				 : *name >= 'a' && *name <= 'f' ? (unsigned)(*name - 'a') + 10
								: 16;
		if (digit == 16)
			return false;
		v = v << 4 | digit;
	}
	if (strncmp(name, suffix, sizeof suffix - 1) != 0 || v == 0)
		return false;
	name += sizeof suffix - 1;
	*ret_quarantined = *name != '\0';
	if (*name) {
		if (strncmp(name, aside, sizeof aside - 1) != 0)
			return false;
		name += sizeof aside - 1;
		if (*name && (*name != '-' || !name[1] || strspn(name + 1, "0123456789") != strlen(name + 1)))
			return false;
	}
	*ret_first = v;
	return true;
}

enum ms_code msj_path(char ret[4096], const char *dir, const char *name, struct ms_err *err) {
	int n = snprintf(ret, 4096, "%s/%s", dir, name);
	if (n < 0 || n >= 4096)
		return ms_err_set(err, MS_ETOOBIG, "%.200s/%s: path too long", dir, name);
	return MS_OK;
}

/* ---- runs ---- */

struct msj_run *msj_runs_find(struct msj_runs *r, const void *db, size_t db_len) {
	for (size_t i = 0; i < r->n; i++)
		if (r->v[i].db_len == db_len && memcmp(r->v[i].db, db, db_len) == 0)
			return &r->v[i];
	return NULL;
}

enum ms_code msj_runs_add(struct msj_runs *r, const void *db, size_t db_len, uint64_t first, struct ms_err *err) {
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 8;
		struct msj_run *v = realloc(r->v, cap * sizeof *v);
		if (!v)
			return ms_err_set(err, MS_ENOMEM, "list of %zu unfinished transactions", cap);
		r->v = v;
		r->cap = cap;
	}
	char *name = malloc(db_len + 1);
	if (!name)
		return ms_err_set(err, MS_ENOMEM, "name of %zu bytes", db_len);
	memcpy(name, db, db_len);
	name[db_len] = '\0';
	r->v[r->n++] = (struct msj_run){name, db_len, first, first, false};
	return MS_OK;
}

void msj_runs_remove(struct msj_runs *r, struct msj_run *run) {
	free(run->db);
	*run = r->v[--r->n];
}

void msj_runs_release(struct msj_runs *r) {
	for (size_t i = 0; i < r->n; i++)
		free(r->v[i].db);
	free(r->v);
	memset(r, 0, sizeof *r);
}

bool msj_runs_hold(const struct msj_runs *r, uint64_t seq, const void *db, size_t db_len) {
	for (size_t i = 0; i < r->n; i++)
		if (seq >= r->v[i].first && seq <= r->v[i].last && r->v[i].db_len == db_len &&
		    memcmp(r->v[i].db, db, db_len) == 0)
			return true;
	return false;
}
