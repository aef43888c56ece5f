/*
 * The container all artefacts share (docs/formats.md "Container"). All integers little-endian.
 *   preamble  4 bytes "MSTR" | 4 ASCII kind | u16 version | u16 incompatible-feature bits | u32 header length
 *   header    one CBOR map with integer keys | u64 CRC-64 of preamble and header ("header CRC")
 *   blocks    u32 stored length (>= 1) | u32 raw length (1 .. 1 MiB) | u8 compression (0 none, 1 zstd) | u8 cipher (0 none) |
 *             u16 kind | u64 CRC-64 | stored bytes
 *             The CRC covers u64 header CRC, u64 offset of the block in the artefact, the 12 bytes before it, the stored bytes: a block
 *             that was moved, or belongs to another artefact, does not pass.
 *   index     blocks of kind 0, after all others; may be missing
 *   trailer   40 bytes: u32 0 (no block begins with 0) | u32 offset of the first block | u64 total length | u32 length of the index
 *             blocks | 4 ASCII kind | u64 header CRC | u64 CRC-64 of the 32 bytes before it
 * Kinds: "SEGM" segment, "SNAP" snapshot manifest, "CHNK" snapshot chunk, "HEAD" head, "FENC" fence.
 * So one ranged read of the last bytes finds everything, and every byte is covered by a checksum.
 *
 * ms_artefact_writer appends to a buffer, ms_artefact_reader takes pushed bytes, any split, and calls back with the verified
 * header and then each verified, decompressed block. One thread at a time each.
 */
#ifndef MS_CORE_ARTEFACT_H
#define MS_CORE_ARTEFACT_H

#include "base/buf.h"

#define MS_BLOCK_MAX (1u << 20)
#define MS_HEADER_MAX (16u << 20)
#define MS_PREAMBLE_LEN 16u
#define MS_BLOCK_HEADER_LEN 20u
#define MS_TRAILER_LEN 40u
#define MS_FORMAT_VERSION 1u

enum ms_artefact_kind { MS_ART_SEGMENT, MS_ART_SNAPSHOT, MS_ART_CHUNK, MS_ART_HEAD, MS_ART_FENCE };
enum ms_block_kind { MS_BLOCK_INDEX = 0, MS_BLOCK_RECORDS = 1, MS_BLOCK_PAGES = 2, MS_BLOCK_PATCHES = 3 };

/* How blocks are compressed, in one number: a zstd level (0 = 1), plus a window log where one smaller than the block is wanted (10 to 20; readers
 * and writers then need less memory; more than 20 is 20), or no compression whatever a call asks for. */
#define MS_COMPRESS_WINDOW(log) ((int)(log) << 8)
#define MS_COMPRESS_NONE (1 << 16)

struct ms_artefact_writer; /* opaque, heap */
/* All output is appended to out, which the caller may drain (clear) between calls: offsets are tracked inside. NULL when out of memory. */
struct ms_artefact_writer *ms_artefact_writer_new(enum ms_artefact_kind kind, int compression, struct ms_buf *out);
/* Before begin: another way than the one given to new. */
void ms_artefact_writer_set_compression(struct ms_artefact_writer *w, int compression);
void ms_artefact_writer_free(struct ms_artefact_writer *w);
/* begin, block*, end, in this order; otherwise MS_EINVAL. After a failure the artefact is to be thrown away. */
enum ms_code ms_artefact_begin(struct ms_artefact_writer *w, const uint8_t *header, size_t len, struct ms_err *err) MS_WARN_UNUSED;
/* One block of raw bytes (1..MS_BLOCK_MAX). compress = try zstd, kept only if smaller. kind is not MS_BLOCK_INDEX. */
enum ms_code ms_artefact_block(struct ms_artefact_writer *w, uint16_t kind, const uint8_t *raw, size_t len, bool compress,
			       struct ms_err *err) MS_WARN_UNUSED;
/* Writes the index (any length, split over blocks; 0 = none) and the trailer. */
enum ms_code ms_artefact_end(struct ms_artefact_writer *w, const uint8_t *index, size_t index_len, struct ms_err *err) MS_WARN_UNUSED;
uint64_t ms_artefact_offset(const struct ms_artefact_writer *w); /* bytes produced so far */

struct ms_artefact_trailer {
	enum ms_artefact_kind kind;
	uint32_t header_end;   /* offset of the first block */
	uint32_t index_stored; /* bytes of the index blocks, which end where the trailer begins */
	uint64_t total_len;
	uint64_t header_crc;
};
enum ms_code ms_artefact_trailer_parse(const uint8_t p[MS_TRAILER_LEN], struct ms_artefact_trailer *ret, struct ms_err *err) MS_WARN_UNUSED;

/* What an object holds, by its first 8 bytes alone: MS_ART_*; MS_ECORRUPT when it is no artefact. */
enum ms_code ms_artefact_kind_of(const uint8_t *p, size_t n, int *ret_kind, struct ms_err *err) MS_WARN_UNUSED;
const char *ms_artefact_kind_name(enum ms_artefact_kind kind); /* "segment", ... */

/* Finds and verifies the header in the first bytes of an artefact. MS_ETOOBIG with *ret_need = bytes needed when p[0..n) is too
 * short. *ret_cbor is borrowed from p. */
enum ms_code ms_artefact_peek(enum ms_artefact_kind kind, const uint8_t *p, size_t n, const uint8_t **ret_cbor, size_t *ret_len,
			      size_t *ret_need, struct ms_err *err) MS_WARN_UNUSED;

/* Verifies and unpacks the one block that begins at p, which lies at `offset` of the artefact whose trailer names header_crc: what a
 * ranged read needs. Appends its raw bytes; *ret_used = bytes of p it takes. */
enum ms_code ms_artefact_block_decode(uint64_t header_crc, uint64_t offset, const uint8_t *p, size_t n, struct ms_buf *raw,
				      uint16_t *ret_kind, size_t *ret_used, struct ms_err *err) MS_WARN_UNUSED;

struct ms_artefact_callbacks {
	enum ms_code (*header)(void *arg, const uint8_t *cbor, size_t len, struct ms_err *err);
	enum ms_code (*block)(void *arg, uint16_t kind, const uint8_t *raw, size_t len, struct ms_err *err);
	enum ms_code (*index)(void *arg, const uint8_t *p, size_t len, struct ms_err *err); /* piece by piece; may be NULL */
};
struct ms_artefact_reader;
/* kind is what the caller expects; another one is MS_ECORRUPT. cb is copied. NULL when out of memory. */
struct ms_artefact_reader *ms_artefact_reader_new(enum ms_artefact_kind kind, const struct ms_artefact_callbacks *cb, void *arg);
void ms_artefact_reader_free(struct ms_artefact_reader *r);
/* Memory: the header while it is read, then one block stored and raw. Bytes after the trailer are MS_ECORRUPT; an unknown version,
 * feature, compression or cipher is MS_EUNSUPPORTED. A failure, also of a callback, is final: later calls return its code. */
enum ms_code ms_artefact_push(struct ms_artefact_reader *r, const void *data, size_t len, struct ms_err *err) MS_WARN_UNUSED;
/* After the last byte: MS_ECORRUPT when the artefact is incomplete. */
enum ms_code ms_artefact_finish(struct ms_artefact_reader *r, struct ms_err *err) MS_WARN_UNUSED;
uint64_t ms_artefact_reader_offset(const struct ms_artefact_reader *r); /* bytes taken so far */

#endif
