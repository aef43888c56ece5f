/*
 * The file of page sums, all little-endian; the contract is docs/formats.md "Page sums".
 *
 * Two mark slots of 4,096 bytes; mark number n lies in slot n mod 2:
 *   0 "MSPS" | 4 u16 version (1) | 6 u16 zero | 8 u64 incompatible features | 16 u64 number | 24 u64 journal sequence | 32 u32
 * blob length | 36 u32 zero | 40 blob (at most 1,024) | zeros | 4088 u64 CRC-64 of bytes 0..4087 Then, for block b = (page - 1) /
 * 448, two slots of 4,096 bytes at 8192 + 8192 b; version v lies in slot v mod 2: 0 u64 CRC-64 of bytes 8..4095 | 8 u32 block |
 * 12 u32 version (24 bits) | 16 u64 zero | 24 448 u64 hashes | 3608 448 u8 chains | zeros A slot of zeros has never been written.
 * Both empty: all pages are unset.
 *
 * A write never touches the current version, and no block is written twice without a sync between: a power failure tears at most
 * the newest version of a block, and the one before it is whole and not older than the mark's predecessor sync, so the journal's
 * replay from the mark brings it up to date. A slot that is bad at any other time is damage: while the program runs it knows each
 * version it has seen, and after recovery the sum over all pages is compared with the journal's checksum.
 *
 * A failed sync: before the next one, every block written since the last good one is read back, proven and written again.
 */
#include "core/pagesums_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "core/crc.h"

enum slot { SLOT_EMPTY, SLOT_VALID, SLOT_BAD };

static uint32_t next_version(uint32_t v) {
	v = (v + 1) & MSS_VERSION;
	return v ? v : 2; /* 0 says "never written" */
}

static bool newer(uint32_t a, uint32_t b) {
	return a != b && ((a - b) & MSS_VERSION) < (MSS_VERSION + 1) / 2;
}

static int64_t slot_at(uint32_t no, uint32_t version) {
	return MSS_BLOCKS_AT + (int64_t)no * 2 * MSS_BLOCK + (int64_t)(version & 1) * MSS_BLOCK;
}

static void encode(uint8_t *p, uint32_t no, uint32_t version, const struct mss_block *b) {
	memset(p, 0, MSS_BLOCK);
	ms_put_le32(p + 8, no);
	ms_put_le32(p + 12, version);
	for (uint32_t i = 0; i < MSS_PAGES; i++)
		ms_put_le64(p + 24 + 8 * i, b->hash[i]);
	memcpy(p + 24 + 8 * MSS_PAGES, b->chain, MSS_PAGES);
	ms_put_le64(p, ms_crc64(0, p + 8, MSS_BLOCK - 8));
}

static void decode(const uint8_t *p, struct mss_block *b) {
	for (uint32_t i = 0; i < MSS_PAGES; i++)
		b->hash[i] = ms_get_le64(p + 24 + 8 * i);
	memcpy(b->chain, p + 24 + 8 * MSS_PAGES, MSS_PAGES);
}

static enum slot look(const uint8_t *p, size_t n, uint32_t no, uint32_t slot, uint32_t *ret_version) {
	static const uint8_t zeros[MSS_BLOCK];
	if (!memcmp(p, zeros, n)) /* also past the end of the file */
		return SLOT_EMPTY;
	if (n < MSS_BLOCK || ms_get_le64(p) != ms_crc64(0, p + 8, MSS_BLOCK - 8) || ms_get_le32(p + 8) != no)
		return SLOT_BAD;
	*ret_version = ms_get_le32(p + 12);
	return *ret_version && *ret_version <= MSS_VERSION && (*ret_version & 1) == slot ? SLOT_VALID : SLOT_BAD;
}

static enum ms_code damaged(const struct ms_pagesums *p, uint32_t no, struct ms_err *err) {
	return ms_err_set(err, MS_ECORRUPT, "%s: block %u (pages %llu to %llu) is damaged", p->path, no,
			  (unsigned long long)no * MSS_PAGES + 1, ((unsigned long long)no + 1) * MSS_PAGES);
}

enum ms_code mss_state_reserve(struct ms_pagesums *p, uint32_t no, struct ms_err *err) {
	if (no < p->nstate)
		return MS_OK;
	uint32_t n = p->nstate ? p->nstate : 64;
	while (n <= no)
		n *= 2; /* blocks of 2^32 pages are less than 2^24 */
	uint32_t *s = realloc(p->state, n * sizeof *s);
	if (!s)
		return ms_err_set(err, MS_ENOMEM, "%s: state of %u blocks", p->path, n);
	memset(s + p->nstate, 0, (n - p->nstate) * sizeof *s);
	p->state = s;
	p->nstate = n;
	return MS_OK;
}

/* A block whose version is known: only its slot is read, and nothing else is accepted. */
static enum ms_code load_known(struct ms_pagesums *p, uint32_t no, struct mss_block *b, struct ms_err *err) {
	uint32_t want = p->state[no] & MSS_VERSION, version;
	size_t n;

	if (!want) {
		memset(b->hash, 0, sizeof b->hash);
		memset(b->chain, 0, sizeof b->chain);
		return MS_OK;
	}
	enum ms_code rc = p->env->ops->pread(p->fh, p->io, MSS_BLOCK, slot_at(no, want), &n, err);
	if (rc != MS_OK)
		return rc;
	if (look(p->io, n, no, want & 1, &version) != SLOT_VALID || version != want)
		return damaged(p, no, err);
	decode(p->io, b);
	return MS_OK;
}

enum ms_code mss_load(struct ms_pagesums *p, uint32_t no, struct mss_block *b, bool *ret_mend, struct ms_err *err) {
	uint32_t v[2] = {0, 0}, version;
	enum slot s[2];
	size_t n;

	*ret_mend = false;
	if (p->state[no] & MSS_KNOWN)
		return load_known(p, no, b, err);
	enum ms_code rc = p->env->ops->pread(p->fh, p->io, 2 * MSS_BLOCK, slot_at(no, 0), &n, err);
	if (rc != MS_OK)
		return rc;
	for (uint32_t i = 0; i < 2; i++) {
		size_t have = n > i * MSS_BLOCK ? n - i * MSS_BLOCK : 0;
		s[i] = look(p->io + i * MSS_BLOCK, have < MSS_BLOCK ? have : MSS_BLOCK, no, i, &v[i]);
	}
	if (s[0] == SLOT_VALID && s[1] == SLOT_VALID) {
		version = newer(v[0], v[1]) ? v[0] : v[1];
	} else if (s[0] == SLOT_EMPTY && s[1] == SLOT_EMPTY) {
		version = 0;
	} else if (s[0] == SLOT_EMPTY && s[1] == SLOT_VALID && v[1] == 1) {
		version = 1; /* written once */
	} else {
		bool first_write_torn = s[0] == SLOT_EMPTY && s[1] == SLOT_BAD;
		if (!p->recovering || (s[0] != SLOT_VALID && s[1] != SLOT_VALID && !first_write_torn))
			return damaged(p, no, err);
		version = s[0] == SLOT_VALID ? v[0] : s[1] == SLOT_VALID ? v[1] : 0;
		*ret_mend = true;
	}
	if (version) {
		decode(p->io + (version & 1) * MSS_BLOCK, b);
	} else {
		memset(b->hash, 0, sizeof b->hash);
		memset(b->chain, 0, sizeof b->chain);
	}
	p->state[no] = (p->state[no] & ~MSS_VERSION) | version;
	if (!*ret_mend)
		p->state[no] |= MSS_KNOWN;
	return MS_OK;
}

enum ms_code mss_store(struct ms_pagesums *p, uint32_t no, const struct mss_block *b, struct ms_err *err) {
	enum ms_code rc;
	if ((p->state[no] & MSS_UNSYNCED) && (rc = mss_sync(p, err)) != MS_OK)
		return rc;
	uint32_t version = next_version(p->state[no] & MSS_VERSION);
	encode(p->io, no, version, b);
	if ((rc = p->env->ops->pwrite(p->fh, p->io, MSS_BLOCK, slot_at(no, version), err)) != MS_OK)
		return rc; /* the same slot is written again the next time */
	p->state[no] = (p->state[no] & ~MSS_VERSION) | version | MSS_KNOWN | MSS_UNSYNCED;
	p->unsynced++;
	return MS_OK;
}

/* After a failed sync the kernel may have dropped what it should have written, and would call the next sync a success. */
static enum ms_code write_again(struct ms_pagesums *p, struct ms_err *err) {
	for (uint32_t no = 0; no < p->nstate; no++) {
		uint32_t version, want = p->state[no] & MSS_VERSION;
		size_t n;
		enum ms_code rc;
		if (!(p->state[no] & MSS_UNSYNCED))
			continue;
		if ((rc = p->env->ops->pread(p->fh, p->io, MSS_BLOCK, slot_at(no, want), &n, err)) != MS_OK)
			return rc;
		if (look(p->io, n, no, want & 1, &version) != SLOT_VALID || version != want) {
			p->broken.code = MS_ECORRUPT;
			snprintf(p->broken.msg, sizeof p->broken.msg, "%.300s: block %u was lost by a failed sync", p->path, no);
			return ms_err_set(err, MS_ECORRUPT, "%s", p->broken.msg);
		}
		if ((rc = p->env->ops->pwrite(p->fh, p->io, MSS_BLOCK, slot_at(no, want), err)) != MS_OK)
			return rc;
	}
	return MS_OK;
}

enum ms_code mss_sync(struct ms_pagesums *p, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	if (p->suspect)
		rc = write_again(p, err);
	if (rc == MS_OK)
		rc = p->env->ops->fdatasync(p->fh, err);
	p->suspect = rc != MS_OK;
	if (rc != MS_OK)
		return rc;
	for (uint32_t no = 0; p->unsynced && no < p->nstate; no++)
		p->state[no] &= ~MSS_UNSYNCED;
	p->unsynced = 0;
	return MS_OK;
}

/* ---- marks ---- */

static void encode_mark(uint8_t *p, uint64_t number, uint64_t seq, const uint8_t *blob, size_t blob_len) {
	memset(p, 0, MSS_BLOCK);
	memcpy(p, "MSPS", 4);
	p[4] = 1;
	ms_put_le64(p + 16, number);
	ms_put_le64(p + 24, seq);
	ms_put_le32(p + 32, (uint32_t)blob_len);
	if (blob_len)
		memcpy(p + 40, blob, blob_len);
	ms_put_le64(p + MSS_BLOCK - 8, ms_crc64(0, p, MSS_BLOCK - 8));
}

enum ms_code mss_put_mark(struct ms_pagesums *p, uint64_t seq, const uint8_t *blob, size_t blob_len, struct ms_err *err) {
	uint64_t number = p->mark + 1;
	enum ms_code rc;
	encode_mark(p->io, number, seq, blob, blob_len);
	if ((rc = p->env->ops->pwrite(p->fh, p->io, MSS_BLOCK, (int64_t)(number & 1) * MSS_BLOCK, err)) != MS_OK ||
	    (rc = mss_sync(p, err)) != MS_OK)
		return rc; /* the next attempt has the same number and slot */
	p->mark = number;
	p->mark_seq = seq;
	return MS_OK;
}

enum ms_code mss_create_file(struct ms_pagesums *p, struct ms_err *err) {
	const struct ms_env_ops *ops = p->env->ops;
	char tmp[MS_PATH_MAX];
	struct ms_file *fh = NULL;
	enum ms_code rc;

	int n = snprintf(tmp, sizeof tmp, "%s.new", p->path);
	if (n < 0 || n >= (int)sizeof tmp)
		return ms_err_set(err, MS_ETOOBIG, "%.300s: path too long", p->path);
	if ((rc = ops->open(p->env, tmp, MS_O_RDWR | MS_O_CREATE | MS_O_TRUNC, 0600, &fh, err)) != MS_OK)
		return rc;
	encode_mark(p->io, 1, 0, NULL, 0);
	if ((rc = ops->pwrite(fh, p->io, MSS_BLOCK, MSS_BLOCK, err)) != MS_OK || (rc = ops->fsync(fh, err)) != MS_OK ||
	    (rc = ops->rename(p->env, tmp, p->path, err)) != MS_OK) {
		ops->close(fh);
		return rc;
	}
	ops->close(p->fh);
	p->fh = fh;
	p->mark = 1;
	p->mark_seq = 0;
	if ((rc = ops->fsync_dir(p->env, p->dir, err)) !=
	    MS_OK) { /* a crash may bring the old file back: only another reset helps */
		p->broken.code = rc;
		snprintf(p->broken.msg, sizeof p->broken.msg, "%.300s: reset did not become durable", p->path);
	}
	return rc;
}

/* The newer of the two marks in io[0..2 * MSS_BLOCK). */
static enum ms_code newest_mark(const char *path, const uint8_t *io, const uint8_t **ret, struct ms_err *err) {
	const uint8_t *best = NULL;
	for (uint64_t i = 0; i < 2; i++) {
		const uint8_t *m = io + i * MSS_BLOCK;
		if (memcmp(m, "MSPS", 4) != 0 || ms_get_le64(m + MSS_BLOCK - 8) != ms_crc64(0, m, MSS_BLOCK - 8))
			continue;
		if (m[4] != 1 || m[5] || ms_get_le64(m + 8))
			return ms_err_set(err, MS_EUNSUPPORTED, "%s: page sums of version %u; this program reads version 1", path, m[4] | m[5] << 8);
		uint64_t number = ms_get_le64(m + 16);
		if ((number & 1) == i && ms_get_le32(m + 32) <= MS_SUMS_BLOB_MAX && (!best || number > ms_get_le64(best + 16)))
			best = m;
	}
	if (!best)
		return ms_err_set(err, MS_ECORRUPT, "%s: neither of the two marks is valid", path);
	*ret = best;
	return MS_OK;
}

enum ms_code ms_pagesums_peek(struct ms_env *env, const char *path, uint64_t *ret_mark_seq, uint8_t blob[MS_SUMS_BLOB_MAX], size_t *ret_blob_len,
			      struct ms_err *err) {
	uint8_t io[2 * MSS_BLOCK] = {0};
	struct ms_file *fh;
	const uint8_t *mark;
	size_t n = 0;
	enum ms_code rc = env->ops->open(env, path, MS_O_RDONLY, 0, &fh, err);
	if (rc != MS_OK)
		return rc;
	rc = env->ops->pread(fh, io, sizeof io, 0, &n, err);
	env->ops->close(fh);
	if (rc == MS_OK && !n)
		rc = ms_err_set(err, MS_ENOTFOUND, "%s: empty", path);
	if (rc != MS_OK || (rc = newest_mark(path, io, &mark, err)) != MS_OK)
		return rc;
	*ret_mark_seq = ms_get_le64(mark + 24);
	*ret_blob_len = ms_get_le32(mark + 32);
	memcpy(blob, mark + 40, *ret_blob_len);
	return MS_OK;
}

enum ms_code mss_open_file(struct ms_pagesums *p, uint64_t *ret_seq, uint8_t blob[MS_SUMS_BLOB_MAX], size_t *ret_blob_len,
			   struct ms_err *err) {
	const struct ms_env_ops *ops = p->env->ops;
	struct ms_err e = MS_ERR_INIT;
	int64_t size;
	size_t n;
	const uint8_t *best;

	enum ms_code rc = ops->open(p->env, p->path, MS_O_RDWR, 0, &p->fh, &e);
	if (rc == MS_OK && (rc = ops->fsize(p->fh, &size, &e)) == MS_OK && size == 0)
		rc = MS_ENOTFOUND;
	if (rc == MS_ENOTFOUND) {
		*ret_seq = 0;
		*ret_blob_len = 0;
		return mss_create_file(p, err);
	}
	/* After a mere kill the newest versions may be in the page cache only; no block is written twice without a sync between.
	 */
	if (rc == MS_OK)
		rc = ops->fdatasync(p->fh, &e);
	if (rc == MS_OK)
		rc = ops->pread(p->fh, p->io, 2 * MSS_BLOCK, 0, &n, &e);
	if (rc != MS_OK) {
		if (err)
			*err = e;
		return rc;
	}
	memset(p->io + n, 0, sizeof p->io - n);
	if ((rc = newest_mark(p->path, p->io, &best, err)) != MS_OK)
		return rc;
	p->mark = ms_get_le64(best + 16);
	*ret_seq = p->mark_seq = ms_get_le64(best + 24);
	*ret_blob_len = ms_get_le32(best + 32);
	memcpy(blob, best + 40, *ret_blob_len);
	return MS_OK;
}

/* ---- spill ---- */

static enum ms_code spill_open(struct ms_pagesums *p, struct ms_err *err) {
	char path[MS_PATH_MAX];
	if (p->spill)
		return MS_OK;
	int n = snprintf(path, sizeof path, "%s.tx", p->path);
	if (n < 0 || n >= (int)sizeof path)
		return ms_err_set(err, MS_ETOOBIG, "%.300s: path too long", p->path);
	return p->env->ops->open(p->env, path, MS_O_RDWR | MS_O_CREATE | MS_O_TRUNC, 0600, &p->spill, err);
}

enum ms_code mss_spill_store(struct ms_pagesums *p, uint32_t no, const struct mss_block *b, struct ms_err *err) {
	enum ms_code rc = spill_open(p, err);
	if (rc != MS_OK)
		return rc;
	encode(p->io, no, 1, b);
	if ((rc = p->env->ops->pwrite(p->spill, p->io, MSS_BLOCK, (int64_t)no * MSS_BLOCK, err)) == MS_OK)
		p->state[no] |= MSS_SPILLED;
	return rc;
}

enum ms_code mss_spill_load(struct ms_pagesums *p, uint32_t no, struct mss_block *b, struct ms_err *err) {
	uint32_t version;
	size_t n;
	enum ms_code rc = p->env->ops->pread(p->spill, p->io, MSS_BLOCK, (int64_t)no * MSS_BLOCK, &n, err);
	if (rc != MS_OK)
		return rc;
	if (look(p->io, n, no, 1, &version) != SLOT_VALID)
		return ms_err_set(err, MS_EIO, "%s.tx: block %u does not read back as written", p->path, no);
	decode(p->io, b);
	return MS_OK;
}

void mss_spill_clear(struct ms_pagesums *p) {
	char path[MS_PATH_MAX];
	if (!p->spill)
		return;
	p->env->ops->close(p->spill);
	p->spill = NULL;
	if (snprintf(path, sizeof path, "%s.tx", p->path) < (int)sizeof path)
		(void)!p->env->ops->unlink(p->env, path, NULL);
}
