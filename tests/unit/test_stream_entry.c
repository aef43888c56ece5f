#include <criterion/criterion.h>
#include <string.h>

#include "core/stream_entry.h"

static void append(struct ms_buf *b, const void *p, size_t n) { cr_assert_eq(ms_buf_append(b, p, n, NULL), MS_OK); }

Test(stream_entry, run_header_bytes) {
	uint8_t p[MS_RUN_HEADER_MAX];
	struct ms_cookie c = {.len = 3, .data = "abc"};
	/* kind 1 | flags | varint txid | cookie length | cookie; 300 = ac 02 */
	static const uint8_t last[] = {1, 2, 0xac, 0x02, 3, 'a', 'b', 'c'}, first[] = {1, 1, 0xac, 0x02, 0};
	cr_assert_eq(ms_run_header_put(p, MS_RUN_LAST, 300, &c), sizeof last);
	cr_expect_arr_eq(p, last, sizeof last);
	/* Without LAST there is no cookie. */
	cr_assert_eq(ms_run_header_put(p, MS_RUN_FIRST, 300, &c), sizeof first);
	cr_expect_arr_eq(p, first, sizeof first);
	struct ms_cookie most = {.len = MS_COOKIE_MAX};
	memset(most.data, 7, sizeof most.data);
	cr_expect_eq(ms_run_header_put(p, MS_RUN_FIRST | MS_RUN_LAST, UINT64_MAX, &most), MS_RUN_HEADER_MAX);
	struct ms_stream_entry e;
	cr_assert_eq(ms_stream_entry_parse(p, sizeof p, &e, NULL), MS_OK);
	cr_expect(e.kind == MS_ENTRY_RUN && e.flags == 3 && e.txid == UINT64_MAX && e.cookie.len == MS_COOKIE_MAX && e.records_len == 0);
	cr_expect_arr_eq(e.cookie.data, most.data, MS_COOKIE_MAX);
	ms_stream_entry_release(&e);
}

Test(stream_entry, run_round_trip) {
	struct ms_buf b;
	uint8_t h[MS_RUN_HEADER_MAX];
	struct ms_stream_entry e;
	ms_buf_init(&b, 1000);
	append(&b, h, ms_run_header_put(h, MS_RUN_FIRST | MS_RUN_LAST, 5, NULL));
	append(&b, "records", 7);
	cr_assert_eq(ms_stream_entry_parse(b.data, b.len, &e, NULL), MS_OK);
	cr_expect(e.txid == 5 && e.records_len == 7 && memcmp(e.records, "records", 7) == 0 && e.cookie.len == 0);
	ms_stream_entry_release(&e);
	ms_buf_release(&b);
}

static enum ms_code parse(const uint8_t *p, size_t n) {
	struct ms_stream_entry e;
	struct ms_err err = MS_ERR_INIT;
	/* An exact copy, so that a read behind the end is seen by the sanitizer. */
	uint8_t *copy = malloc(n ? n : 1);
	memcpy(copy, p, n);
	enum ms_code rc = ms_stream_entry_parse(copy, n, &e, &err);
	if (rc == MS_OK)
		ms_stream_entry_release(&e);
	else
		cr_expect(err.msg[0]);
	free(copy);
	return rc;
}

Test(stream_entry, bad_runs) {
	static const uint8_t bad_flags[] = {1, 4, 1, 0}, short1[] = {1}, short2[] = {1, 1}, no_cookie[] = {1, 1, 5}, long_varint[] = {1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0},
			     cut_cookie[] = {1, 2, 5, 4, 'a', 'b'}, cookie_without_last[] = {1, 1, 5, 1, 'a'}, unknown[] = {9, 0, 0};
	uint8_t big_cookie[200] = {1, 2, 5, MS_COOKIE_MAX + 1};
	cr_expect_eq(parse(bad_flags, sizeof bad_flags), MS_ECORRUPT);
	cr_expect_eq(parse(short1, 0), MS_ECORRUPT);
	cr_expect_eq(parse(short1, sizeof short1), MS_ECORRUPT);
	cr_expect_eq(parse(short2, sizeof short2), MS_ECORRUPT);
	cr_expect_eq(parse(no_cookie, sizeof no_cookie), MS_ECORRUPT);
	cr_expect_eq(parse(long_varint, sizeof long_varint), MS_ECORRUPT);
	cr_expect_eq(parse(cut_cookie, sizeof cut_cookie), MS_ECORRUPT);
	cr_expect_eq(parse(cookie_without_last, sizeof cookie_without_last), MS_ECORRUPT);
	cr_expect_eq(parse(big_cookie, sizeof big_cookie), MS_ECORRUPT);
	cr_expect_eq(parse(unknown, sizeof unknown), MS_EUNSUPPORTED);
}

static struct ms_generation_start sample(struct ms_lineage lineage[2]) {
	lineage[0] = (struct ms_lineage){{"00000002-bbbbbbbb"}, {"00000001-aaaaaaaa"}, 77, false};
	lineage[1] = (struct ms_lineage){{"00000001-aaaaaaaa"}, {""}, 0, false};
	return (struct ms_generation_start){.generation = {"00000002-bbbbbbbb"},
					    .base = {.txid = 77, .checksum = UINT64_MAX, .page_size = 4096, .db_pages = 12345, .time_us = 1767225600000000},
					    .mode = 0640,
					    .lineage = lineage,
					    .nlineage = 2};
}

Test(stream_entry, generation_round_trip) {
	struct ms_lineage lineage[2];
	struct ms_generation_start g = sample(lineage);
	struct ms_stream_entry e;
	struct ms_buf b;
	struct ms_err err = MS_ERR_INIT;
	ms_buf_init(&b, 1u << 16);
	for (int root = 0; root < 2; root++) {
		if (root) {
			lineage[0].parent.s[0] = '\0';
			lineage[0].fork_txid = 0;
			g.nlineage = 1;
			g.base.txid = 1;
		}
		ms_buf_clear(&b);
		cr_assert_eq(ms_generation_start_encode(&g, &b, &err), MS_OK, "%s", err.msg);
		/* kind 2, then a map: of 10 pairs, or 8 without parent and fork. */
		cr_expect_eq(b.data[0], 2);
		cr_expect_eq(b.data[1], root ? 0xa8 : 0xaa);
		cr_assert_eq(ms_stream_entry_parse(b.data, b.len, &e, &err), MS_OK, "%s", err.msg);
		cr_expect_eq(e.kind, MS_ENTRY_GENERATION);
		cr_expect_str_eq(e.start.generation.s, g.generation.s);
		cr_expect(e.start.base.txid == g.base.txid && e.start.base.checksum == UINT64_MAX && e.start.base.page_size == 4096 &&
			  e.start.base.db_pages == 12345 && e.start.base.time_us == g.base.time_us && e.start.mode == 0640);
		cr_assert_eq(e.start.nlineage, g.nlineage);
		for (uint32_t i = 0; i < g.nlineage; i++)
			cr_expect(strcmp(e.start.lineage[i].generation.s, lineage[i].generation.s) == 0 && strcmp(e.start.lineage[i].parent.s, lineage[i].parent.s) == 0 &&
				  e.start.lineage[i].fork_txid == lineage[i].fork_txid && e.start.lineage[i].seeded == lineage[i].seeded);
		ms_stream_entry_release(&e);
	}
	ms_buf_release(&b);
}

Test(stream_entry, damaged_generations) {
	struct ms_lineage lineage[2];
	struct ms_generation_start g = sample(lineage);
	struct ms_buf b;
	ms_buf_init(&b, 1u << 16);
	cr_assert_eq(ms_generation_start_encode(&g, &b, NULL), MS_OK);
	for (size_t n = 0; n < b.len; n++)
		cr_expect_neq(parse(b.data, n), MS_OK, "%zu of %zu bytes", n, b.len);
	/* Flipped bits: never a crash, whatever the answer (the journal's CRC is what finds them). */
	for (size_t bit = 0; bit < b.len * 8; bit++) {
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		(void)parse(b.data, b.len);
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	ms_buf_release(&b);
}

Test(stream_entry, contradictions_are_not_encoded) {
	struct ms_lineage lineage[2];
	struct ms_generation_start g = sample(lineage);
	struct ms_buf b;
	ms_buf_init(&b, 1u << 16);
	append(&b, "x", 1);
	g.nlineage = 0;
	cr_expect_eq(ms_generation_start_encode(&g, &b, NULL), MS_EINVAL);
	g = sample(lineage);
	strcpy(g.generation.s, "00000009-bbbbbbbb");
	cr_expect_eq(ms_generation_start_encode(&g, &b, NULL), MS_EINVAL);
	g = sample(lineage);
	g.base.time_us = -1;
	cr_expect_eq(ms_generation_start_encode(&g, &b, NULL), MS_EINVAL);
	cr_expect_eq(b.len, 1, "a failed encode left bytes");
	g = sample(lineage);
	b.limit = 20;
	cr_expect_eq(ms_generation_start_encode(&g, &b, NULL), MS_ETOOBIG);
	cr_expect_eq(b.len, 1);
	ms_buf_release(&b);
}
