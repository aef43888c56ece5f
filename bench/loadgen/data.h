/*
 * Random numbers and text for the workload: repeatable from a seed, with the redundancy of real text.
 */
#ifndef MS_LOADGEN_DATA_H
#define MS_LOADGEN_DATA_H

#include <stddef.h>
#include <stdint.h>

struct lg_rng {
	uint64_t s;
};
uint64_t lg_random(struct lg_rng *r);
static inline uint64_t lg_below(struct lg_rng *r, uint64_t n) { return n ? lg_random(r) % n : 0; }

/* n bytes of words and numbers; no terminator is written. */
void lg_text(struct lg_rng *r, char *buf, size_t n);
/* A JSON document of roughly n bytes (n >= 64); returns its length, at most n. */
size_t lg_document(struct lg_rng *r, uint64_t id, char *buf, size_t n);

/* Zipf-distributed ranks 0..n-1 with exponent 0.99. Read-only once made. */
struct lg_zipf {
	double *cdf;
	uint32_t n;
};
int lg_zipf_init(struct lg_zipf *z, uint32_t n); /* -1: out of memory */
void lg_zipf_release(struct lg_zipf *z);
uint32_t lg_zipf_next(const struct lg_zipf *z, struct lg_rng *r);

#endif
