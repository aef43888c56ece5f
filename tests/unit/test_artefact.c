#include "core/artefact.h"
#include "core/crc.h"
#include "unit/bytes.h"

struct seen {
	struct ms_buf header, blocks, index;
	unsigned nblocks;
	uint16_t kinds[64];
	enum ms_code fail_block;
};

static enum ms_code on_header(void *arg, const uint8_t *p, size_t n, struct ms_err *err) {
	return ms_buf_append(&((struct seen *)arg)->header, p, n, err);
}
static enum ms_code on_block(void *arg, uint16_t kind, const uint8_t *p, size_t n, struct ms_err *err) {
	struct seen *s = arg;
	if (s->fail_block)
		return ms_err_set(err, s->fail_block, "told to fail");
	if (s->nblocks < 64)
		s->kinds[s->nblocks] = kind;
	s->nblocks++;
	return ms_buf_append(&s->blocks, p, n, err);
}
static enum ms_code on_index(void *arg, const uint8_t *p, size_t n, struct ms_err *err) {
	return ms_buf_append(&((struct seen *)arg)->index, p, n, err);
}
static const struct ms_artefact_callbacks callbacks = {on_header, on_block, on_index};

static void seen_init(struct seen *s) {
	memset(s, 0, sizeof *s);
	ms_buf_init(&s->header, 32 << 20), ms_buf_init(&s->blocks, 64 << 20), ms_buf_init(&s->index, 64 << 20);
}
static void seen_release(struct seen *s) {
	ms_buf_release(&s->header), ms_buf_release(&s->blocks), ms_buf_release(&s->index);
}

static enum ms_code read_pieces(enum ms_artefact_kind kind, const uint8_t *p, size_t n, size_t piece, struct seen *s, struct ms_err *err) {
	struct ms_artefact_reader *r = ms_artefact_reader_new(kind, &callbacks, s);
	cr_assert(r);
	enum ms_code rc = MS_OK;
	for (size_t at = 0; at < n && !rc; at += piece)
		rc = ms_artefact_push(r, p + at, n - at < piece ? n - at : piece, err);
	if (!rc)
		rc = ms_artefact_finish(r, err);
	if (!rc)
		cr_assert_eq(ms_artefact_reader_offset(r), n);
	ms_artefact_reader_free(r);
	return rc;
}

static const uint8_t header[] = {0xa1, 0x01, 0x02}; /* {1: 2} */

/* A small chunk artefact: one plain and one compressed block, and an index. */
static void make_small(struct ms_buf *out) {
	uint8_t zeros[300] = {0};
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_CHUNK, 1, out);
	OK(ms_artefact_begin(w, header, sizeof header, &err));
	OK(ms_artefact_block(w, 7, (const uint8_t *)"plain", 5, true, &err)); /* too short to shrink */
	OK(ms_artefact_block(w, 8, zeros, sizeof zeros, true, &err));
	OK(ms_artefact_end(w, (const uint8_t *)"index", 5, &err));
	cr_assert_eq(ms_artefact_offset(w), out->len);
	ms_artefact_writer_free(w);
}

Test(artefact, layout) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	make_small(&b);
	cr_assert_arr_eq(b.data, "MSTRCHNK\1\0\0\0\3\0\0\0\xa1\1\2", 19);
	cr_assert_eq(ms_get_le64(b.data + 19), ms_crc64(0, b.data, 19));
	const uint8_t *block = b.data + 27;
	cr_assert_arr_eq(block, "\5\0\0\0\5\0\0\0\0\0\7\0", 12);
	cr_assert_arr_eq(block + 20, "plain", 5);
	block += 25;
	uint32_t stored = ms_get_le32(block);
	cr_assert(stored < 30 && ms_get_le32(block + 4) == 300 && block[8] == 1 && block[9] == 0 && block[10] == 8);
	const uint8_t *index = block + 20 + stored;
	cr_assert_arr_eq(index, "\5\0\0\0\5\0\0\0\0\0\0\0", 12);
	cr_assert_arr_eq(index + 20, "index", 5);
	struct ms_artefact_trailer t;
	cr_assert_eq(index + 25 + MS_TRAILER_LEN, b.data + b.len);
	OK(ms_artefact_trailer_parse(index + 25, &t, &err));
	cr_assert(t.kind == MS_ART_CHUNK && t.header_end == 27 && t.index_stored == 25 && t.total_len == b.len &&
		  t.header_crc == ms_get_le64(b.data + 19));
	ms_buf_release(&b);
}

Test(artefact, any_split) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	make_small(&b);
	for (size_t piece = 1; piece <= b.len; piece++) {
		struct seen s;
		seen_init(&s);
		OK(read_pieces(MS_ART_CHUNK, b.data, b.len, piece, &s, &err));
		cr_assert(s.header.len == sizeof header && !memcmp(s.header.data, header, sizeof header));
		cr_assert(s.nblocks == 2 && s.kinds[0] == 7 && s.kinds[1] == 8 && s.blocks.len == 305);
		cr_assert(s.index.len == 5 && !memcmp(s.index.data, "index", 5));
		seen_release(&s);
	}
	ms_buf_release(&b);
}

static enum ms_code decode_small(const uint8_t *p, size_t n, struct ms_err *err) {
	struct seen s;
	seen_init(&s);
	enum ms_code rc = read_pieces(MS_ART_CHUNK, p, n, n + 1, &s, err);
	seen_release(&s);
	return rc;
}

Test(artefact, every_bit_counts, .timeout = 60) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	make_small(&b);
	damage_everywhere(decode_small, b.data, b.len);
	ms_buf_release(&b);
}

/* Two blocks of equal length exchanged, and a block taken from another artefact: each has a good checksum where it came from. */
Test(artefact, moved_and_foreign_blocks) {
	struct ms_buf b[2];
	for (int i = 0; i < 2; i++) {
		ms_buf_init(&b[i], 1 << 16);
		struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_CHUNK, 1, &b[i]);
		const uint8_t h[] = {0xa1, 0x01, (uint8_t)i};
		OK(ms_artefact_begin(w, h, sizeof h, &err));
		OK(ms_artefact_block(w, 7, (const uint8_t *)"first", 5, false, &err));
		OK(ms_artefact_block(w, 7, (const uint8_t *)"other", 5, false, &err));
		OK(ms_artefact_end(w, NULL, 0, &err));
		ms_artefact_writer_free(w);
		OK(decode_small(b[i].data, b[i].len, &err));
	}
	uint8_t *p = malloc(b[0].len);
	memcpy(p, b[0].data, b[0].len);
	memcpy(p + 27, b[0].data + 52, 25), memcpy(p + 52, b[0].data + 27, 25);
	FAILS(MS_ECORRUPT, decode_small(p, b[0].len, &err));
	memcpy(p, b[0].data, b[0].len);
	memcpy(p + 27, b[1].data + 27, 25);
	FAILS(MS_ECORRUPT, decode_small(p, b[0].len, &err));
	memcpy(p, b[0].data, b[0].len);
	memmove(p + 52, p + 77, b[0].len - 77); /* a whole block left out */
	FAILS(MS_ECORRUPT, decode_small(p, b[0].len - 25, &err));
	free(p);
	ms_buf_release(&b[0]), ms_buf_release(&b[1]);
}

/* A sound artefact of a future version or with features we do not know is not called damaged. */
Test(artefact, newer_ones_are_unsupported) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	make_small(&b);
	b.data[8] = 2;
	FAILS(MS_EUNSUPPORTED, decode_small(b.data, b.len, &err));
	b.data[8] = 1, b.data[10] = 1;
	FAILS(MS_EUNSUPPORTED, decode_small(b.data, b.len, &err));
	b.data[10] = 0;
	/* cipher and compression bytes of the first block, with a checksum that is right */
	for (int at = 8; at <= 9; at++) {
		uint8_t where[16], *block = b.data + 27;
		block[at] = 2;
		if (at == 8)
			ms_put_le32(block, 5), ms_put_le32(block + 4, 6);
		memcpy(where, b.data + 19, 8);
		ms_put_le64(where + 8, 27);
		ms_put_le64(block + 12, ms_crc64(ms_crc64(ms_crc64(0, where, 16), block, 12), block + 20, 5));
		FAILS(MS_EUNSUPPORTED, decode_small(b.data, b.len, &err));
		block[8] = 0, ms_put_le32(block + 4, 5);
	}
	ms_buf_release(&b);
}

Test(artefact, large_blocks_and_index) {
	struct ms_buf b, want, index;
	ms_buf_init(&b, 64 << 20), ms_buf_init(&want, 64 << 20), ms_buf_init(&index, 64 << 20);
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_SEGMENT, 3, &b);
	OK(ms_artefact_begin(w, header, sizeof header, &err));
	static const size_t lens[] = {1, MS_BLOCK_MAX, MS_BLOCK_MAX - 1, 1000};
	for (size_t i = 0; i < 8; i++) {
		size_t n = lens[i % 4], at = want.len;
		OK(ms_buf_reserve(&want, n, &err));
		(i < 4 ? fill_random : fill_text)(want.data + at, n, i);
		want.len += n;
		OK(ms_artefact_block(w, 1, want.data + at, n, true, &err));
	}
	OK(ms_buf_reserve(&index, 3 << 20, &err));
	fill_random(index.data, 3 << 20, 1);
	index.len = (3 << 20) - 5;
	OK(ms_artefact_end(w, index.data, index.len, &err));
	ms_artefact_writer_free(w);
	static const size_t pieces[] = {1000, 4097, 1 << 20, 1 << 26};
	for (size_t i = 0; i < 4; i++) {
		struct seen s;
		seen_init(&s);
		OK(read_pieces(MS_ART_SEGMENT, b.data, b.len, pieces[i], &s, &err));
		cr_assert(s.nblocks == 8 && s.blocks.len == want.len && !memcmp(s.blocks.data, want.data, want.len));
		cr_assert(s.index.len == index.len && !memcmp(s.index.data, index.data, index.len));
		seen_release(&s);
	}
	ms_buf_release(&b), ms_buf_release(&want), ms_buf_release(&index);
}

/* The caller drains the output between calls; offsets go on. */
Test(artefact, drained_output) {
	struct ms_buf b, all;
	ms_buf_init(&b, 4096), ms_buf_init(&all, 1 << 20);
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_CHUNK, 1, &b);
	OK(ms_artefact_begin(w, header, sizeof header, &err));
	for (int i = 0; i < 20; i++) {
		uint8_t raw[2000];
		fill_random(raw, sizeof raw, (uint64_t)i);
		OK(ms_artefact_block(w, 7, raw, sizeof raw, false, &err));
		OK(ms_buf_append(&all, b.data, b.len, &err));
		ms_buf_clear(&b);
	}
	OK(ms_artefact_end(w, NULL, 0, &err));
	OK(ms_buf_append(&all, b.data, b.len, &err));
	ms_artefact_writer_free(w);
	OK(decode_small(all.data, all.len, &err));
	ms_buf_release(&b), ms_buf_release(&all);
}

Test(artefact, writer_contract) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	uint8_t *raw = calloc(1, MS_BLOCK_MAX + 1);
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_CHUNK, 1, &b);
	FAILS(MS_EINVAL, ms_artefact_block(w, 7, raw, 1, false, &err));
	FAILS(MS_EINVAL, ms_artefact_begin(w, header, sizeof header, &err)); /* failed for good */
	ms_artefact_writer_free(w);
	static const struct {
		uint16_t kind;
		size_t n;
	} bad[] = {{7, 0}, {7, MS_BLOCK_MAX + 1}, {MS_BLOCK_INDEX, 5}};
	for (size_t i = 0; i < 3; i++) {
		w = ms_artefact_writer_new(MS_ART_CHUNK, 1, &b);
		OK(ms_artefact_begin(w, header, sizeof header, &err));
		FAILS(MS_EINVAL, ms_artefact_block(w, bad[i].kind, raw, bad[i].n, false, &err));
		FAILS(MS_EINVAL, ms_artefact_end(w, NULL, 0, &err));
		ms_artefact_writer_free(w);
	}
	w = ms_artefact_writer_new(MS_ART_CHUNK, 1, &b);
	FAILS(MS_ETOOBIG, ms_artefact_begin(w, header, 0, &err));
	ms_artefact_writer_free(w);
	ms_artefact_writer_free(NULL);
	free(raw);
	ms_buf_release(&b);
}

Test(artefact, reader_contract) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	make_small(&b);
	struct seen s;
	seen_init(&s);
	FAILS(MS_ECORRUPT, read_pieces(MS_ART_SEGMENT, b.data, b.len, 1000, &s, &err)); /* another kind */
	struct ms_artefact_reader *r = ms_artefact_reader_new(MS_ART_CHUNK, &callbacks, &s);
	s.fail_block = MS_ECANCELED;
	FAILS(MS_ECANCELED, ms_artefact_push(r, b.data, b.len, &err)); /* a callback's failure is passed on, and is final */
	s.fail_block = MS_OK;
	FAILS(MS_ECANCELED, ms_artefact_push(r, b.data, b.len, &err));
	FAILS(MS_ECANCELED, ms_artefact_finish(r, &err));
	ms_artefact_reader_free(r);
	ms_artefact_reader_free(NULL);
	int kind;
	OK(ms_artefact_kind_of(b.data, 8, &kind, &err));
	cr_assert_eq(kind, MS_ART_CHUNK);
	FAILS(MS_ECORRUPT, ms_artefact_kind_of(b.data, 7, &kind, &err));
	FAILS(MS_ECORRUPT, ms_artefact_kind_of((const uint8_t *)"MSTRXXXX", 8, &kind, &err));
	seen_release(&s);
	ms_buf_release(&b);
}

Test(artefact, peek) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	make_small(&b);
	const uint8_t *cbor;
	size_t len, need = 0, n = 0;
	for (int rounds = 0; rounds < 3; rounds++) { /* nothing -> preamble -> whole header */
		struct ms_err err = MS_ERR_INIT;
		enum ms_code rc = ms_artefact_peek(MS_ART_CHUNK, b.data, n, &cbor, &len, &need, &err);
		if (rc == MS_OK)
			break;
		cr_assert(rc == MS_ETOOBIG && need > n);
		n = need;
	}
	cr_assert(n == 27 && len == sizeof header && !memcmp(cbor, header, len));
	b.data[17] ^= 1;
	FAILS(MS_ECORRUPT, ms_artefact_peek(MS_ART_CHUNK, b.data, b.len, &cbor, &len, &need, &err));
	ms_buf_release(&b);
}

Test(artefact, single_block) {
	struct ms_buf b, raw;
	ms_buf_init(&b, 1 << 16), ms_buf_init(&raw, 1 << 16);
	make_small(&b);
	uint64_t crc = ms_get_le64(b.data + 19);
	uint16_t kind;
	size_t used;
	OK(ms_artefact_block_decode(crc, 27, b.data + 27, b.len - 27, &raw, &kind, &used, &err));
	cr_assert(kind == 7 && used == 25 && raw.len == 5 && !memcmp(raw.data, "plain", 5));
	OK(ms_artefact_block_decode(crc, 52, b.data + 52, b.len - 52, &raw, &kind, &used, &err));
	cr_assert(kind == 8 && raw.len == 305 && raw.data[5] == 0);
	raw.len = 0;
	FAILS(MS_ECORRUPT, ms_artefact_block_decode(crc, 28, b.data + 27, b.len - 27, &raw, &kind, &used, &err)); /* elsewhere */
	FAILS(MS_ECORRUPT, ms_artefact_block_decode(crc + 1, 27, b.data + 27, b.len - 27, &raw, &kind, &used, &err));
	for (size_t n = 0; n < 25; n++) {
		uint8_t *p = malloc(n + !n);
		memcpy(p, b.data + 27, n);
		FAILS(MS_ECORRUPT, ms_artefact_block_decode(crc, 27, p, n, &raw, &kind, &used, &err));
		free(p);
	}
	cr_assert_eq(raw.len, 0);
	ms_buf_release(&b), ms_buf_release(&raw);
}
