/*
 * Page and commit records: the bytes that journal entries and segment blocks carry (docs/formats.md "Records").
 *
 *   page    u8 type (1 stored, 2 full, 3 delta, 5 patch) | varint pgno | u64le hash of the page after | varint n | n bytes
 *   commit  u8 type (4) | varint n | n bytes: varint flags | varint txid | varint time_us | varint page_size |
 *           varint db_pages | u64le database checksum | [CATCHUP: varint lost_commits + 1, 0 = unknown] |
 *           rest: attributes as one CBOR map of text to text, or nothing
 * A record of an unknown type, or a commit with an unknown flag, is MS_EUNSUPPORTED.
 * stored: n = page size. full and delta: one zstd frame (core/zframe.h); delta uses the page's previous version as prefix
 * (windowLog covers prefix + page), never one that starts with zstd's dictionary magic. patch: the bytes that differ from the page's
 * previous version (core/patch.h), taken where they are few: a tenth of a delta's time. A transaction is its page records, then its
 * commit record. A page may occur twice in a catch-up: the later record wins and is never a delta or patch.
 *
 * Encoder and decoder are heap objects for one thread at a time, with one reused zstd context each.
 */
#ifndef MS_CORE_CODEC_H
#define MS_CORE_CODEC_H

#include "base/buf.h"
#include "core/types.h"

enum ms_record_type { MS_REC_STORED = 1, MS_REC_FULL = 2, MS_REC_DELTA = 3, MS_REC_COMMIT = 4, MS_REC_PATCH = 5 };
/* Needs the page's previous version to be decoded. */
static inline bool ms_record_needs_base(enum ms_record_type t) { return t == MS_REC_DELTA || t == MS_REC_PATCH; }

/* A page chain has at most this many deltas and patches after a full or stored record. */
#define MS_MAX_CHAIN 63
/* Longest record: a stored page of 64 KiB with its header, or a commit with the most attributes. */
#define MS_RECORD_MAX (MS_PAGE_SIZE_MAX + 64)
/* Most attribute bytes of one commit. */
#define MS_ATTRS_MAX (MS_PAGE_SIZE_MAX - 64)

/* Such a page never serves as a prefix: simple zstd interfaces would take it for a dictionary. page holds at least 4 bytes. */
static inline bool ms_page_is_zstd_dictionary(const uint8_t *page) { return ms_get_le32(page) == 0xec30a437u; }

struct ms_commit {
	uint32_t flags; /* MS_COMMIT_* */
	uint64_t txid;
	int64_t time_us; /* non-decreasing within a generation */
	uint32_t page_size;
	uint32_t db_pages;
	uint64_t checksum; /* of the database after this commit */
	int64_t lost_commits; /* with CATCHUP; -1 unknown */
	const uint8_t *attrs; /* CBOR map or NULL; borrowed */
	size_t attrs_len;
};

struct ms_page_record {
	uint32_t pgno;
	uint64_t hash;	     /* of the page after this record */
	const uint8_t *data; /* encoded bytes, borrowed from the input */
	size_t len;
};

struct ms_record {
	enum ms_record_type type;
	union {
		struct ms_page_record page;
		struct ms_commit commit;
	};
};

struct ms_page_encoder;
/* level: zstd level (1 by default); codec_none = true always stores. NULL when out of memory. */
struct ms_page_encoder *ms_page_encoder_new(int level, bool codec_none);
void ms_page_encoder_free(struct ms_page_encoder *e);
/* Bytes held (zstd context and scratch): about 100 KiB for 4 KiB pages, below 1 MiB for 64 KiB ones. */
size_t ms_page_encoder_memory(const struct ms_page_encoder *e);
/* From now on, until turned off: no compression, for a writer that would otherwise not be kept up with. Patches of up to half a page, else stored;
 * what carries the records is compressed as a whole later. */
void ms_page_encoder_hurry(struct ms_page_encoder *e, bool on);
/* Appends one page record to out; out is unchanged on failure. base = the page's previous version (page_size bytes, not aliasing
 * `page`), or NULL. With a base, a patch is taken when it stays below an eighth of the page. Otherwise whichever of delta, full and stored is
 * smallest is written; full, which ends a chain, is preferred to a delta less than a sixteenth smaller, and is not tried when the delta is
 * below a quarter of the page. *ret_type says which. hash is the caller's ms_page_hash(pgno, page). */
enum ms_code ms_page_encode(struct ms_page_encoder *e, uint32_t pgno, const uint8_t *page, uint32_t page_size, const uint8_t *base,
			    uint64_t hash, struct ms_buf *out, enum ms_record_type *ret_type, struct ms_err *err) MS_WARN_UNUSED;
/* Appends one commit record. MS_EINVAL for a field that no reader would accept. */
enum ms_code ms_commit_encode(const struct ms_commit *c, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;

/* Parses the record at p[0..n). *ret_used = its length. MS_ECORRUPT on truncation or a broken field (attributes included).
 * Decodes no page. What *ret points to is borrowed from p. */
enum ms_code ms_record_parse(const uint8_t *p, size_t n, struct ms_record *ret, size_t *ret_used, struct ms_err *err) MS_WARN_UNUSED;

struct ms_page_decoder;
struct ms_page_decoder *ms_page_decoder_new(void);
void ms_page_decoder_free(struct ms_page_decoder *d);
/* Rebuilds the page into out[page_size] (not aliasing base). base is needed where ms_record_needs_base() says so. The result's hash is
 * checked: MS_ECORRUPT names the page; out is then undefined. */
enum ms_code ms_page_decode(struct ms_page_decoder *d, enum ms_record_type type, const struct ms_page_record *r, uint32_t page_size,
			    const uint8_t *base, uint8_t *out, struct ms_err *err) MS_WARN_UNUSED;

#endif
