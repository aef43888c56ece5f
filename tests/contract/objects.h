/* Bytes to put and to find again, for the tests of one backend beside the suite. */
#ifndef MS_TESTS_CONTRACT_OBJECTS_H
#define MS_TESTS_CONTRACT_OBJECTS_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "replicas/replica.h"

/* n bytes that do not compress, the same ones each time; the caller frees them. */
static inline uint8_t *noise(size_t n) {
	uint8_t *p = malloc(n);
	uint64_t x = 88172645463325252u;
	cr_assert(p);
	for (size_t i = 0; i < n; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		p[i] = (uint8_t)x;
	}
	return p;
}

static inline bool holds(struct ms_replica *r, const char *name, const void *data, size_t n, struct ms_err *err) {
	struct ms_buf b;
	ms_buf_init(&b, 64u << 20);
	bool ok = ms_replica_get_buf(r, name, 0, -1, &b, err) == MS_OK && b.len == n && (!n || memcmp(b.data, data, n) == 0);
	ms_buf_release(&b);
	return ok;
}

/* A listing's callback: how many there are, and whether each has this size. */
struct seen {
	unsigned n;
	bool whole;
	int64_t size;
};

static inline bool see(void *arg, const struct ms_object *o) {
	struct seen *s = arg;
	s->n++;
	s->whole &= o->size == s->size;
	return true;
}

#endif
