/* What the artefact writer, reader and preamble code share. */
#ifndef MS_CORE_ARTEFACT_INTERNAL_H
#define MS_CORE_ARTEFACT_INTERNAL_H

#include "core/artefact.h"

#define MS_COMPRESSION_NONE 0
#define MS_COMPRESSION_ZSTD 1
/* Window of a compressed block: its raw size at most. */
#define MS_BLOCK_WINDOW_LOG 20

void ms_artefact_preamble_put(uint8_t p[MS_PREAMBLE_LEN], enum ms_artefact_kind kind, uint32_t header_len);
/* Checks magic, kind, version, features and header length. */
enum ms_code ms_artefact_preamble_parse(const uint8_t p[MS_PREAMBLE_LEN], enum ms_artefact_kind kind, uint32_t *ret_header_len,
					struct ms_err *err) MS_WARN_UNUSED;
void ms_artefact_trailer_put(uint8_t p[MS_TRAILER_LEN], const struct ms_artefact_trailer *t);
/* A block's head, taken apart. Its lengths are plausible, nothing more, until ms_artefact_block_check has seen the stored bytes. */
struct ms_block_head {
	uint8_t bytes[MS_BLOCK_HEADER_LEN];
	uint32_t stored, raw;
	uint16_t kind;
	bool packed; /* with zstd */
};
/* False: impossible lengths. */
bool ms_artefact_block_head_parse(const uint8_t p[MS_BLOCK_HEADER_LEN], struct ms_block_head *ret);
/* Checksum over head->stored bytes at p, compression and cipher known, one zstd frame of this format if packed. *ret_what = NULL, or what is
 * wrong. */
enum ms_code ms_artefact_block_check(const struct ms_block_head *h, uint64_t header_crc, uint64_t offset, const uint8_t *p,
				     const char **ret_what);
/* head: the block's first 12 bytes. */
uint64_t ms_artefact_block_crc(uint64_t header_crc, uint64_t offset, const uint8_t head[12], const uint8_t *stored, size_t len);

#endif
