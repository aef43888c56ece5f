#include "hist.h"

static unsigned bucket(uint64_t v) {
	if (v < 32)
		return (unsigned)v;
	unsigned e = 63 - (unsigned)__builtin_clzll(v); /* >= 5 */
	return (e - 4) * 32 + (unsigned)((v >> (e - 5)) & 31);
}

static uint64_t upper_edge(unsigned b) {
	if (b < 32)
		return b;
	unsigned e = b / 32 + 4;
	return ((UINT64_C(32) + b % 32 + 1) << (e - 5)) - 1;
}

void lg_hist_add(struct lg_hist *h, uint64_t ns) {
	unsigned b = bucket(ns);
	h->counts[b < LG_HIST_BUCKETS ? b : LG_HIST_BUCKETS - 1]++;
	h->n++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
}

void lg_hist_merge(struct lg_hist *into, const struct lg_hist *from) {
	for (unsigned i = 0; i < LG_HIST_BUCKETS; i++)
		into->counts[i] += from->counts[i];
	into->n += from->n;
	into->sum += from->sum;
	if (from->max > into->max)
		into->max = from->max;
}

uint64_t lg_hist_quantile(const struct lg_hist *h, double q) {
	if (!h->n)
		return 0;
	double want = q * (double)h->n;
	uint64_t seen = 0;
	for (unsigned i = 0; i < LG_HIST_BUCKETS; i++) {
		seen += h->counts[i];
		if (seen && (double)seen >= want) {
			uint64_t edge = upper_edge(i);
			return edge < h->max ? edge : h->max;
		}
	}
	return h->max;
}
