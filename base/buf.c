#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

#define FIRST_CAP 64

void ms_buf_init(struct ms_buf *b, size_t limit) {
	/* Beyond PTRDIFF_MAX no allocation succeeds; the cut keeps cap + 1 from wrapping. */
	*b = (struct ms_buf){.limit = limit < PTRDIFF_MAX ? limit : PTRDIFF_MAX - 1};
}

void ms_buf_release(struct ms_buf *b) {
	if (!b)
		return;
	free(b->data);
	b->data = NULL;
	b->len = b->cap = 0;
}

enum ms_code ms_buf_reserve(struct ms_buf *b, size_t extra, struct ms_err *err) {
	if (extra > b->limit - b->len)
		return ms_err_set(err, MS_ETOOBIG, "buffer: %zu bytes and %zu more pass the limit of %zu", b->len, extra,
				  b->limit);
	size_t need = b->len + extra;
	if (need <= b->cap && b->data)
		return MS_OK;

	size_t cap = b->cap ? b->cap : FIRST_CAP;
	while (cap < need)
		cap = cap > b->limit / 2 ? b->limit : cap * 2;
	if (cap > b->limit)
		cap = b->limit;
	/* One byte beyond cap for the terminator that vsnprintf() insists on. */
	uint8_t *data = realloc(b->data, cap + 1);
	if (!data)
		return ms_err_set(err, MS_ENOMEM, "buffer: cannot allocate %zu bytes", cap);
	b->data = data;
	b->cap = cap;
	return MS_OK;
}

enum ms_code ms_buf_append(struct ms_buf *b, const void *data, size_t len, struct ms_err *err) {
	if (len == 0)
		return MS_OK;
	enum ms_code rc = ms_buf_reserve(b, len, err);

	if (rc != MS_OK)
		return rc;
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return MS_OK;
}

enum ms_code ms_buf_printf(struct ms_buf *b, struct ms_err *err, const char *fmt, ...) {
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return ms_err_set(err, MS_EINVAL, "buffer: cannot format \"%s\"", fmt);
	enum ms_code rc = ms_buf_reserve(b, (size_t)n, err);
	if (rc != MS_OK)
		return rc;
	va_start(ap, fmt);
	vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
	return MS_OK;
}

enum ms_code ms_buf_u8(struct ms_buf *b, uint8_t v, struct ms_err *err) {
	return ms_buf_append(b, &v, 1, err);
}

enum ms_code ms_buf_u32(struct ms_buf *b, uint32_t v, struct ms_err *err) {
	uint8_t p[4];

	ms_put_le32(p, v);
	return ms_buf_append(b, p, sizeof p, err);
}

enum ms_code ms_buf_u64(struct ms_buf *b, uint64_t v, struct ms_err *err) {
	uint8_t p[8];

	ms_put_le64(p, v);
	return ms_buf_append(b, p, sizeof p, err);
}

enum ms_code ms_buf_varint(struct ms_buf *b, uint64_t v, struct ms_err *err) {
	uint8_t p[10];

	return ms_buf_append(b, p, ms_varint_put(p, v), err);
}

size_t ms_varint_get(const uint8_t *p, size_t n, uint64_t *ret_v) {
	uint64_t v = 0;

	for (size_t i = 0; i < n && i < 10; i++) {
		uint64_t bits = p[i] & 0x7f;

		/* The tenth byte has room for bit 63 only. */
		if (i == 9 && bits > 1)
			return 0;
		v |= bits << (7 * i);
		if (p[i] & 0x80)
			continue;
		/* A zero last byte adds nothing: a value has one encoding only. */
		if (i > 0 && bits == 0)
			return 0;
		*ret_v = v;
		return i + 1;
	}
	return 0;
}

size_t ms_varint_put(uint8_t *p, uint64_t v) {
	size_t n = 0;

	while (v >= 0x80) {
		p[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	p[n++] = (uint8_t)v;
	return n;
}
