/*
 * Latency histogram of fixed size: 32 linear steps in each power of two, so a quantile is at most 3 % too high. Values are
 * nanoseconds. No locks: one writer; adding up afterwards.
 */
#ifndef MS_LOADGEN_HIST_H
#define MS_LOADGEN_HIST_H

#include <stdint.h>

#define LG_HIST_BUCKETS (60 * 32)

struct lg_hist {
	uint64_t counts[LG_HIST_BUCKETS];
	uint64_t n, sum, max;
};

void lg_hist_add(struct lg_hist *h, uint64_t ns);
void lg_hist_merge(struct lg_hist *into, const struct lg_hist *from);
/* Upper edge of the bucket that holds the q-th part (0 < q <= 1) of all values; 0 when empty. */
uint64_t lg_hist_quantile(const struct lg_hist *h, double q);

#endif
