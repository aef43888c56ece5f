/* Preamble, trailer and block checksum: the fixed parts that writer and reader share. Layout in artefact.h. */
#include "core/artefact_internal.h"

#include <inttypes.h>

#include "core/crc.h"
#include "core/zframe.h"

static const struct {
	char tag[5];
	const char *name;
} kinds[] = {
	[MS_ART_SEGMENT] = {"SEGM", "segment"}, [MS_ART_SNAPSHOT] = {"SNAP", "snapshot"}, [MS_ART_CHUNK] = {"CHNK", "chunk"},
	[MS_ART_HEAD] = {"HEAD", "head"},	[MS_ART_FENCE] = {"FENC", "fence"},
};
#define NKINDS (int)(sizeof kinds / sizeof kinds[0])

static int kind_by_tag(const uint8_t tag[4]) {
	for (int k = 0; k < NKINDS; k++)
		if (!memcmp(tag, kinds[k].tag, 4))
			return k;
	return -1;
}

const char *ms_artefact_kind_name(enum ms_artefact_kind kind) { return kinds[kind].name; }

enum ms_code ms_artefact_kind_of(const uint8_t *p, size_t n, int *ret_kind, struct ms_err *err) {
	int kind = n >= 8 && !memcmp(p, "MSTR", 4) ? kind_by_tag(p + 4) : -1;
	if (kind < 0)
		return ms_err_set(err, MS_ECORRUPT, "not an artefact: it does not begin with a known magic");
	*ret_kind = kind;
	return MS_OK;
}

static void put_le16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8); }
static unsigned get_le16(const uint8_t *p) { return (unsigned)p[0] | (unsigned)p[1] << 8; }

void ms_artefact_preamble_put(uint8_t p[MS_PREAMBLE_LEN], enum ms_artefact_kind kind, uint32_t header_len) {
	memcpy(p, "MSTR", 4);
	memcpy(p + 4, kinds[kind].tag, 4);
	put_le16(p + 8, MS_FORMAT_VERSION);
	put_le16(p + 10, 0);
	ms_put_le32(p + 12, header_len);
}

enum ms_code ms_artefact_preamble_parse(const uint8_t p[MS_PREAMBLE_LEN], enum ms_artefact_kind kind, uint32_t *ret_header_len,
					struct ms_err *err) {
	int found;
	enum ms_code rc = ms_artefact_kind_of(p, MS_PREAMBLE_LEN, &found, err);
	if (rc)
		return rc;
	if (found != (int)kind)
		return ms_err_set(err, MS_ECORRUPT, "a %s where a %s is expected", kinds[found].name, kinds[kind].name);
	if (get_le16(p + 8) != MS_FORMAT_VERSION)
		return ms_err_set(err, MS_EUNSUPPORTED, "%s of format version %u; this program reads version %u", kinds[kind].name,
				  get_le16(p + 8), MS_FORMAT_VERSION);
	if (get_le16(p + 10))
		return ms_err_set(err, MS_EUNSUPPORTED, "%s needs features 0x%04x that this program does not have", kinds[kind].name,
				  get_le16(p + 10));
	uint32_t len = ms_get_le32(p + 12);
	if (!len || len > MS_HEADER_MAX)
		return ms_err_set(err, MS_ECORRUPT, "%s with a header of %u bytes", kinds[kind].name, len);
	*ret_header_len = len;
	return MS_OK;
}

enum ms_code ms_artefact_peek(enum ms_artefact_kind kind, const uint8_t *p, size_t n, const uint8_t **ret_cbor, size_t *ret_len,
			      size_t *ret_need, struct ms_err *err) {
	uint32_t len = 0;
	if (n >= MS_PREAMBLE_LEN) {
		enum ms_code rc = ms_artefact_preamble_parse(p, kind, &len, err);
		if (rc)
			return rc;
	}
	size_t need = len ? (size_t)MS_PREAMBLE_LEN + len + 8 : MS_PREAMBLE_LEN;
	if (!len || n < need) {
		*ret_need = need;
		return ms_err_set(err, MS_ETOOBIG, "%s: %zu bytes are needed to read the header, %zu are there", kinds[kind].name, need, n);
	}
	if (ms_crc64(0, p, need - 8) != ms_get_le64(p + need - 8))
		return ms_err_set(err, MS_ECORRUPT, "%s: header fails its checksum", kinds[kind].name);
	*ret_cbor = p + MS_PREAMBLE_LEN;
	*ret_len = len;
	return MS_OK;
}

void ms_artefact_trailer_put(uint8_t p[MS_TRAILER_LEN], const struct ms_artefact_trailer *t) {
	ms_put_le32(p, 0);
	ms_put_le32(p + 4, t->header_end);
	ms_put_le64(p + 8, t->total_len);
	ms_put_le32(p + 16, t->index_stored);
	memcpy(p + 20, kinds[t->kind].tag, 4);
	ms_put_le64(p + 24, t->header_crc);
	ms_put_le64(p + 32, ms_crc64(0, p, 32));
}

enum ms_code ms_artefact_trailer_parse(const uint8_t p[MS_TRAILER_LEN], struct ms_artefact_trailer *ret, struct ms_err *err) {
	if (ms_crc64(0, p, 32) != ms_get_le64(p + 32))
		return ms_err_set(err, MS_ECORRUPT, "trailer fails its checksum");
	int kind = kind_by_tag(p + 20);
	struct ms_artefact_trailer t = {
		.header_end = ms_get_le32(p + 4),
		.total_len = ms_get_le64(p + 8),
		.index_stored = ms_get_le32(p + 16),
		.header_crc = ms_get_le64(p + 24),
	};
	if (kind < 0 || ms_get_le32(p) || t.header_end <= MS_PREAMBLE_LEN + 8 ||
	    t.total_len < (uint64_t)t.header_end + t.index_stored + MS_TRAILER_LEN)
		return ms_err_set(err, MS_ECORRUPT, "trailer contradicts itself");
	t.kind = (enum ms_artefact_kind)kind;
	*ret = t;
	return MS_OK;
}

uint64_t ms_artefact_block_crc(uint64_t header_crc, uint64_t offset, const uint8_t head[12], const uint8_t *stored, size_t len) {
	uint8_t where[16];
	ms_put_le64(where, header_crc);
	ms_put_le64(where + 8, offset);
	return ms_crc64(ms_crc64(ms_crc64(0, where, sizeof where), head, 12), stored, len);
}

bool ms_artefact_block_head_parse(const uint8_t p[MS_BLOCK_HEADER_LEN], struct ms_block_head *ret) {
	struct ms_block_head h = {
		.stored = ms_get_le32(p),
		.raw = ms_get_le32(p + 4),
		.kind = (uint16_t)get_le16(p + 10),
		.packed = p[8] == MS_COMPRESSION_ZSTD,
	};
	if (!h.stored || h.stored > h.raw || h.raw > MS_BLOCK_MAX || (p[8] == MS_COMPRESSION_NONE && h.stored != h.raw))
		return false;
	memcpy(h.bytes, p, sizeof h.bytes);
	*ret = h;
	return true;
}

enum ms_code ms_artefact_block_check(const struct ms_block_head *h, uint64_t header_crc, uint64_t offset, const uint8_t *p,
				     const char **ret_what) {
	enum ms_code rc = MS_ECORRUPT;
	const char *what = NULL;
	if (ms_artefact_block_crc(header_crc, offset, h->bytes, p, h->stored) != ms_get_le64(h->bytes + 12))
		what = "block fails its checksum";
	else if (h->bytes[8] > MS_COMPRESSION_ZSTD || h->bytes[9])
		rc = MS_EUNSUPPORTED, what = "block with a compression or cipher that this program does not have";
	else if (h->packed && !ms_zframe_single(p, h->stored, MS_BLOCK_WINDOW_LOG))
		what = "block that is not one zstd frame of this format";
	*ret_what = what;
	return what ? rc : MS_OK;
}
