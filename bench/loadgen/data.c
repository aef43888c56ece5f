#include "data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64: S. Vigna, public domain description at prng.di.unimi.it. */
uint64_t lg_random(struct lg_rng *r) {
	uint64_t z = r->s += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static const char *const words[] = {
	"account", "address", "after", "amount", "anchor", "april", "arrival", "balance", "basket", "before", "blue", "branch", "bridge",
	"buyer", "cable", "cancelled", "carton", "change", "charge", "city", "claim", "closed", "code", "colour", "company", "contract",
	"copper", "corner", "country", "credit", "customer", "damage", "date", "delay", "delivery", "deposit", "discount", "district",
	"door", "driver", "east", "engine", "entry", "express", "factory", "field", "final", "floor", "forward", "freight", "garden",
	"glass", "gold", "green", "handle", "harbour", "heavy", "holder", "house", "inbound", "index", "invoice", "island", "item",
	"journey", "key", "label", "large", "letter", "light", "limit", "line", "loading", "local", "machine", "manual", "market",
	"material", "message", "metal", "middle", "mobile", "morning", "motor", "narrow", "night", "north", "note", "number", "office",
	"open", "order", "outbound", "owner", "package", "paid", "paper", "parcel", "partner", "payment", "pending", "person", "phone",
	"plain", "plant", "plate", "point", "port", "price", "printed", "product", "pump", "quarter", "quiet", "rail", "receipt", "record",
	"red", "refund", "region", "release", "remote", "repair", "report", "request", "return", "river", "road", "route", "sales",
	"sample", "second", "section", "sender", "serial", "service", "shelf", "shipment", "short", "signal", "silver", "simple", "single",
	"small", "south", "spare", "square", "station", "status", "steel", "stock", "storage", "street", "summer", "supplier", "surface",
	"system", "table", "tariff", "third", "ticket", "timber", "total", "tower", "track", "transfer", "transit", "truck", "unit",
	"urgent", "valley", "value", "vendor", "vessel", "village", "volume", "warehouse", "water", "weight", "west", "wheel", "white",
	"window", "winter", "wood", "yellow", "zone"};
#define NWORDS (sizeof words / sizeof *words)

void lg_text(struct lg_rng *r, char *buf, size_t n) {
	size_t at = 0;
	while (at < n) {
		char digits[24];
		const char *w;
		uint64_t x = lg_random(r);
		if ((x & 7) == 0) {
			snprintf(digits, sizeof digits, "%llu", (unsigned long long)((x >> 8) % 1000000));
			w = digits;
		} else
			w = words[(x >> 8) % NWORDS];
		size_t len = strlen(w);
		if (len > n - at)
			len = n - at;
		memcpy(buf + at, w, len);
		at += len;
		if (at < n)
			buf[at++] = ' ';
	}
}

size_t lg_document(struct lg_rng *r, uint64_t id, char *buf, size_t n) {
	int k = snprintf(buf, n, "{\"id\":%llu,\"version\":%u,\"entries\":[", (unsigned long long)id, (unsigned)lg_below(r, 100000));
	size_t at = (size_t)k;
	for (unsigned i = 0; at + 200 < n; i++) {
		char note[81];
		lg_text(r, note, 80);
		note[80] = 0;
		k = snprintf(buf + at, n - at, "%s{\"n\":%u,\"amount\":%u.%02u,\"paid\":%s,\"note\":\"%s\"}", i ? "," : "", i,
			     (unsigned)lg_below(r, 10000), (unsigned)lg_below(r, 100), lg_random(r) & 1 ? "true" : "false", note);
		at += (size_t)k;
	}
	memcpy(buf + at, "]}", 2);
	return at + 2;
}

int lg_zipf_init(struct lg_zipf *z, uint32_t n) {
	z->n = n;
	z->cdf = malloc((size_t)n * sizeof *z->cdf);
	if (!z->cdf)
		return -1;
	double sum = 0;
	for (uint32_t i = 0; i < n; i++)
		z->cdf[i] = sum += 1 / pow(i + 1, 0.99);
	for (uint32_t i = 0; i < n; i++)
		z->cdf[i] /= sum;
	return 0;
}

void lg_zipf_release(struct lg_zipf *z) {
	free(z->cdf);
	z->cdf = NULL;
}

uint32_t lg_zipf_next(const struct lg_zipf *z, struct lg_rng *r) {
	double u = (double)(lg_random(r) >> 11) * 0x1p-53;
	uint32_t lo = 0, hi = z->n - 1;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (z->cdf[mid] < u)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}
