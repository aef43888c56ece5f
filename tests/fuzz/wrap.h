/*
 * Checksums keep a fuzzer out of what they protect. The targets of artefacts therefore read their input in two ways, by its first byte:
 * even: the rest is the artefact itself. odd: the rest is u16le header length, header, then blocks (u8 kind, u16le length, bytes), around
 * which a sound container is built.
 */
#ifndef MS_TESTS_FUZZ_WRAP_H
#define MS_TESTS_FUZZ_WRAP_H

#include "core/artefact.h"
#include "fuzz/fuzz.h"

/* Leaves the artefact in out. False when the input is too short for anything. */
static inline bool wrap(enum ms_artefact_kind kind, const uint8_t *p, size_t n, struct ms_buf *out) {
	if (n < 1)
		return false;
	bool sound = p[0] & 1;
	p++, n--;
	if (!sound)
		return !ms_buf_append(out, p, n, NULL);
	if (n < 3)
		return false;
	size_t header = (size_t)p[0] | (size_t)p[1] << 8;
	p += 2, n -= 2;
	if (!header || header > n)
		return false;
	struct ms_artefact_writer *w = ms_artefact_writer_new(kind, 1, out);
	bool ok = !ms_artefact_begin(w, p, header, NULL);
	p += header, n -= header;
	while (ok && n > 3) {
		size_t len = (size_t)p[1] | (size_t)p[2] << 8;
		uint16_t block_kind = p[0];
		p += 3, n -= 3;
		if (len > n)
			len = n;
		if (len && block_kind)
			ok = !ms_artefact_block(w, block_kind, p, len, true, NULL);
		p += len, n -= len;
	}
	ok = ok && !ms_artefact_end(w, NULL, 0, NULL);
	ms_artefact_writer_free(w);
	return ok;
}

/* Sizes of the pieces a reader is given: they depend on the input, so that splits are explored too. */
static inline size_t piece_size(const uint8_t *p, size_t n) { return n > 2 ? 1 + ((size_t)p[0] >> 1) * 5 + p[n - 1] : 1; }

#endif
