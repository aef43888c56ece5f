/*
 * Growable byte buffer with a stated limit. Embedded: init/release. Not thread-safe.
 * ms_buf_append() beyond `limit` fails with MS_ETOOBIG and leaves the buffer unchanged.
 */
#ifndef MS_BASE_BUF_H
#define MS_BASE_BUF_H

#include <stdint.h>
#include <string.h>
#include "base/err.h"

struct ms_buf {
	uint8_t *data;
	size_t len;
	size_t cap;
	size_t limit; /* bytes; cap never passes it */
};

void ms_buf_init(struct ms_buf *b, size_t limit);
void ms_buf_release(struct ms_buf *b);
static inline void ms_buf_clear(struct ms_buf *b) { b->len = 0; }
/* Makes room for `extra` more bytes; b->data + b->len is then writable for that many. */
enum ms_code ms_buf_reserve(struct ms_buf *b, size_t extra, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_buf_append(struct ms_buf *b, const void *data, size_t len, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_buf_printf(struct ms_buf *b, struct ms_err *err, const char *fmt, ...) MS_PRINTF(3, 4) MS_WARN_UNUSED;
enum ms_code ms_buf_u8(struct ms_buf *b, uint8_t v, struct ms_err *err) MS_WARN_UNUSED;
/* Little-endian. */
enum ms_code ms_buf_u32(struct ms_buf *b, uint32_t v, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_buf_u64(struct ms_buf *b, uint64_t v, struct ms_err *err) MS_WARN_UNUSED;
/* LEB128 unsigned varint, at most 10 bytes. */
enum ms_code ms_buf_varint(struct ms_buf *b, uint64_t v, struct ms_err *err) MS_WARN_UNUSED;
/* Decodes a varint from p[0..n); returns bytes consumed, 0 when truncated, over-long or above 64 bits. */
size_t ms_varint_get(const uint8_t *p, size_t n, uint64_t *ret_v);
/* Writes at most 10 bytes to p, returns how many. */
size_t ms_varint_put(uint8_t *p, uint64_t v);

static inline uint32_t ms_get_le32(const uint8_t *p) {
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t ms_get_le64(const uint8_t *p) { return (uint64_t)ms_get_le32(p) | (uint64_t)ms_get_le32(p + 4) << 32; }
static inline uint32_t ms_get_be32(const uint8_t *p) {
	return (uint32_t)p[3] | (uint32_t)p[2] << 8 | (uint32_t)p[1] << 16 | (uint32_t)p[0] << 24;
}
static inline void ms_put_le32(uint8_t *p, uint32_t v) {
	p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8), p[2] = (uint8_t)(v >> 16), p[3] = (uint8_t)(v >> 24);
}
static inline void ms_put_le64(uint8_t *p, uint64_t v) { ms_put_le32(p, (uint32_t)v), ms_put_le32(p + 4, (uint32_t)(v >> 32)); }
static inline void ms_put_be32(uint8_t *p, uint32_t v) {
	p[3] = (uint8_t)v, p[2] = (uint8_t)(v >> 8), p[1] = (uint8_t)(v >> 16), p[0] = (uint8_t)(v >> 24);
}

#endif
