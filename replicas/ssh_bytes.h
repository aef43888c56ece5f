/*
 * Numbers and strings as SSH writes them (RFC 4251, section 5): u32 big-endian; a string is u32 length and bytes. Pure.
 */
#ifndef MS_REPLICAS_SSH_BYTES_H
#define MS_REPLICAS_SSH_BYTES_H

#include "base/buf.h"

/* Over bytes that somebody else owns. Whatever does not fit sets `bad`, and everything after it is 0 or empty. */
struct ms_ssh_reader {
	const uint8_t *p;
	size_t n;
	bool bad;
};

static inline uint32_t ms_ssh_u32(struct ms_ssh_reader *r) {
	if (r->bad || r->n < 4) {
		r->bad = true;
		return 0;
	}
	uint32_t v = ms_get_be32(r->p);
	r->p += 4, r->n -= 4;
	return v;
}

/* NULL and *ret_n 0 when it does not fit; never NULL otherwise. */
static inline const uint8_t *ms_ssh_string(struct ms_ssh_reader *r, size_t *ret_n) {
	size_t n = ms_ssh_u32(r);
	const uint8_t *p = r->p;
	if (r->bad || n > r->n) {
		r->bad = true;
		*ret_n = 0;
		return NULL;
	}
	r->p += n, r->n -= n;
	*ret_n = n;
	return p;
}

/* The next string is this one. */
static inline bool ms_ssh_is(struct ms_ssh_reader *r, const char *want) {
	size_t n;
	const uint8_t *p = ms_ssh_string(r, &n);
	return p && n == strlen(want) && memcmp(p, want, n) == 0;
}

/* Writes 4 + n bytes, returns what lies behind. */
static inline uint8_t *ms_ssh_put(uint8_t *p, const void *data, size_t n) {
	ms_put_be32(p, (uint32_t)n);
	memcpy(p + 4, data, n);
	return p + 4 + n;
}

#endif
