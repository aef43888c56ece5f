#include "core/patch.h"

#include <string.h>

#include "base/buf.h"

/* Differences closer together than this are one run: two varints cost as much. */
#define GAP 4u

static uint64_t load(const uint8_t *p) {
	uint64_t v;
	memcpy(&v, p, sizeof v);
	return v;
}

/* First position >= i at which the pages differ; n is a multiple of 8 and i may be anywhere. */
static size_t next_difference(const uint8_t *a, const uint8_t *b, size_t i, size_t n) {
	while (i < n && i % 8) {
		if (a[i] != b[i])
			return i;
		i++;
	}
	for (; i + 32 <= n; i += 32) {
		uint64_t d = (load(a + i) ^ load(b + i)) | (load(a + i + 8) ^ load(b + i + 8)) | (load(a + i + 16) ^ load(b + i + 16)) |
			     (load(a + i + 24) ^ load(b + i + 24));
		if (d)
			break;
	}
	while (i < n && a[i] == b[i])
		i++;
	return i;
}

/* First position > i that begins GAP equal bytes, or n. */
static size_t run_end(const uint8_t *a, const uint8_t *b, size_t i, size_t n) {
	size_t equal = 0;
	for (i++; i < n; i++) {
		equal = a[i] == b[i] ? equal + 1 : 0;
		if (equal == GAP)
			return i + 1 - GAP;
	}
	return n - equal;
}

size_t ms_patch_encode(const uint8_t *page, const uint8_t *base, size_t n, uint8_t *out, size_t cap) {
	size_t at = 0, len = 0;
	for (;;) {
		size_t from = next_difference(page, base, at, n);
		if (from >= n)
			return len;
		size_t to = run_end(page, base, from, n);
		if (len + 20 + (to - from) > cap)
			return 0;
		len += ms_varint_put(out + len, from - at);
		len += ms_varint_put(out + len, to - from);
		memcpy(out + len, page + from, to - from);
		len += to - from;
		at = to;
	}
}

bool ms_patch_decode(const uint8_t *patch, size_t len, const uint8_t *base, size_t n, uint8_t *out) {
	size_t at = 0, i = 0;
	memcpy(out, base, n);
	while (i < len) {
		uint64_t keep, bytes;
		size_t used = ms_varint_get(patch + i, len - i, &keep);
		i += used;
		if (!used || !(used = ms_varint_get(patch + i, len - i, &bytes)))
			return false;
		i += used;
		if (keep > n - at || bytes > n - at - keep || bytes > len - i || !bytes)
			return false;
		memcpy(out + at + keep, patch + i, bytes);
		at += keep + bytes;
		i += bytes;
	}
	return true;
}
