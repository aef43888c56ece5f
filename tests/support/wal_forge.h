/*
 * A -wal file in memory, changed by hand: checksums written down plainly from the file format document, apart from the code under
 * test. SQLite itself is the judge of what comes out.
 */
#ifndef MS_TESTS_SUPPORT_WAL_FORGE_H
#define MS_TESTS_SUPPORT_WAL_FORGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct forge {
	uint8_t *data;
	size_t len;
	uint32_t page_size;
};

static inline uint32_t forge_get(const uint8_t *p) {
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline void forge_put(uint8_t *p, uint32_t v) {
	for (int i = 3; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
}
static inline uint32_t forge_frames(const struct forge *f) {
	return f->len < 32 ? 0 : (uint32_t)((f->len - 32) / (f->page_size + 24));
}
static inline uint8_t *forge_frame(struct forge *f, uint32_t n) {
	return f->data + 32 + (size_t)(n - 1) * (f->page_size + 24);
}

static inline struct forge forge_read(const char *path) {
	struct forge f = {0};
	FILE *file = fopen(path, "rb");
	if (!file)
		return f;
	fseek(file, 0, SEEK_END);
	f.len = (size_t)ftell(file);
	rewind(file);
	f.data = malloc(f.len + 1);
	if (fread(f.data, 1, f.len, file) != f.len)
		f.len = 0;
	fclose(file);
	f.page_size = f.len >= 32 ? forge_get(f.data + 8) : 0;
	return f;
}

static inline bool forge_write(const struct forge *f, const char *path) {
	FILE *file = fopen(path, "wb");
	return file && fwrite(f->data, 1, f->len, file) == f->len && fclose(file) == 0;
}

static inline void forge_sum(bool big, const uint8_t *p, size_t n, uint32_t s[2]) {
	for (size_t i = 0; i < n; i += 8) {
		uint32_t x[2];
		for (int k = 0; k < 2; k++) {
			const uint8_t *w = p + i + 4 * k;
			x[k] = big ? forge_get(w) : (uint32_t)w[3] << 24 | (uint32_t)w[2] << 16 | (uint32_t)w[1] << 8 | w[0];
		}
		s[0] = s[0] + x[0] + s[1];
		s[1] = s[1] + x[1] + s[0];
	}
}

/* Writes all checksums anew, from the header on, in the given word order. */
static inline void forge_seal(struct forge *f, bool big) {
	uint32_t s[2] = {0, 0};
	forge_put(f->data, big ? 0x377f0683 : 0x377f0682);
	forge_sum(big, f->data, 24, s);
	forge_put(f->data + 24, s[0]);
	forge_put(f->data + 28, s[1]);
	for (uint32_t n = 1; n <= forge_frames(f); n++) {
		uint8_t *p = forge_frame(f, n);
		memcpy(p + 8, f->data + 16, 8);
		forge_sum(big, p, 8, s);
		forge_sum(big, p + 24, f->page_size, s);
		forge_put(p + 16, s[0]);
		forge_put(p + 20, s[1]);
	}
}

/* One more frame, unsealed. */
static inline void forge_append(struct forge *f, uint32_t pgno, uint32_t db_pages, const uint8_t *page) {
	size_t add = f->page_size + 24;
	f->data = realloc(f->data, f->len + add);
	uint8_t *p = f->data + f->len;
	memset(p, 0, 24);
	forge_put(p, pgno);
	forge_put(p + 4, db_pages);
	memcpy(p + 24, page, f->page_size);
	f->len += add;
}

#endif
