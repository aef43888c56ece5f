/* Helpers of the tests of artefact bytes: checks that show the error text, and page images. */
#ifndef MS_TESTS_UNIT_BYTES_H
#define MS_TESTS_UNIT_BYTES_H

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"

#define OK(call)                                                                                                                     \
	do {                                                                                                                         \
		struct ms_err err = MS_ERR_INIT;                                                                                     \
		enum ms_code code_ = (call);                                                                                         \
		cr_assert(code_ == MS_OK, "%s: code %d: %s", #call, (int)code_, err.msg);                                            \
	} while (0)
#define FAILS(want, call)                                                                                                            \
	do {                                                                                                                         \
		struct ms_err err = MS_ERR_INIT;                                                                                     \
		enum ms_code code_ = (call);                                                                                         \
		cr_assert(code_ == (want), "%s: code %d instead of %d: %s", #call, (int)code_, (int)(want), err.msg);                \
		cr_assert(err.code == code_ && err.msg[0], "%s: error struct does not tell", #call);                                 \
	} while (0)

/* xorshift64*: tests need reproducible bytes, not good ones. */
static inline uint64_t rnd(uint64_t *s) {
	*s ^= *s >> 12, *s ^= *s << 25, *s ^= *s >> 27;
	return *s * 2685821657736338717ull;
}
static inline void fill_random(uint8_t *p, size_t n, uint64_t seed) {
	uint64_t s = seed * 2 + 1;
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(rnd(&s) >> 32);
}
/* Text that zstd shrinks to a third or so. */
static inline void fill_text(uint8_t *p, size_t n, uint64_t seed) {
	static const char *const words[] = {"alpha ", "customer ", "balance ", "42 ", "1999-12-31 ", "x ", "replica ", "page "};
	uint64_t s = seed * 2 + 1;
	for (size_t at = 0; at < n;) {
		const char *w = words[rnd(&s) >> 61];
		for (; *w && at < n; w++)
			p[at++] = (uint8_t)*w;
	}
}

/* Damages an object in every way of one kind and requires that decode() notices each: every single bit flipped, every shorter length,
 * one byte more, any two neighbouring bytes swapped. The copy is allocated exactly, so that sanitizers see a read past its end. */
typedef enum ms_code (*decode_fn)(const uint8_t *p, size_t n, struct ms_err *err);
static inline void expect_damage(decode_fn decode, const uint8_t *p, size_t n, const char *what, size_t where) {
	struct ms_err err = MS_ERR_INIT;
	enum ms_code rc = decode(p, n, &err);
	cr_assert(rc == MS_ECORRUPT || rc == MS_EUNSUPPORTED, "%s %zu of %zu bytes: code %d", what, where, n, (int)rc);
	cr_assert(err.code == rc && err.msg[0], "%s %zu: no message", what, where);
}
static inline void damage_everywhere(decode_fn decode, const uint8_t *object, size_t n) {
	OK(decode(object, n, &err));
	uint8_t *p = malloc(n);
	memcpy(p, object, n);
	for (size_t bit = 0; bit < 8 * n; bit++) {
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		expect_damage(decode, p, n, "flipped bit", bit);
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (size_t i = 0; i + 1 < n; i++)
		if (p[i] != p[i + 1]) {
			uint8_t t = p[i];
			p[i] = p[i + 1], p[i + 1] = t;
			expect_damage(decode, p, n, "swapped bytes at", i);
			p[i + 1] = p[i], p[i] = t;
		}
	free(p);
	for (size_t len = 0; len < n; len++) {
		uint8_t *cut = malloc(len + !len);
		memcpy(cut, object, len);
		expect_damage(decode, cut, len, "cut to", len);
		free(cut);
	}
	for (int extra = 0; extra < 256; extra += 51) {
		uint8_t *longer = malloc(n + 1);
		memcpy(longer, object, n);
		longer[n] = (uint8_t)extra;
		expect_damage(decode, longer, n + 1, "byte after the end", (size_t)extra);
		free(longer);
	}
}

#endif
