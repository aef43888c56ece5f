#include "base/buf.h"

#include <criterion/criterion.h>

Test(buf, grows_and_keeps_content) {
	struct ms_buf b;

	ms_buf_init(&b, 100000);
	for (int i = 0; i < 10000; i++)
		cr_assert_eq(ms_buf_u8(&b, (uint8_t)(i * 7), NULL), MS_OK);
	cr_assert_eq(b.len, 10000);
	for (int i = 0; i < 10000; i++)
		cr_assert_eq(b.data[i], (uint8_t)(i * 7));
	ms_buf_clear(&b);
	cr_assert_eq(b.len, 0);
	ms_buf_release(&b);
	cr_assert_null(b.data);
	ms_buf_release(&b);
	ms_buf_release(NULL);
}

Test(buf, the_limit_holds_to_the_byte) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf b;

	ms_buf_init(&b, 5);
	cr_assert_eq(ms_buf_append(&b, "abc", 3, &err), MS_OK);
	cr_assert_eq(ms_buf_append(&b, "def", 3, &err), MS_ETOOBIG);
	cr_assert_eq(err.code, MS_ETOOBIG);
	cr_assert_eq(b.len, 3);
	cr_assert_eq(memcmp(b.data, "abc", 3), 0);
	cr_assert_eq(ms_buf_append(&b, "de", 2, NULL), MS_OK);
	cr_assert_eq(b.len, 5);
	cr_assert_leq(b.cap, 5);
	cr_assert_eq(ms_buf_u8(&b, 1, NULL), MS_ETOOBIG);
	cr_assert_eq(ms_buf_append(&b, NULL, 0, NULL), MS_OK);
	cr_assert_eq(ms_buf_reserve(&b, SIZE_MAX, NULL), MS_ETOOBIG);
	ms_buf_release(&b);
	ms_buf_init(&b, 0);
	cr_assert_eq(ms_buf_u8(&b, 1, NULL), MS_ETOOBIG);
	cr_assert_eq(ms_buf_reserve(&b, 0, NULL), MS_OK);
	ms_buf_release(&b);
}

/* AddressSanitizer ends the program at such a size. */
#ifndef __SANITIZE_ADDRESS__
Test(buf, an_impossible_size_is_an_error) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf b;

	ms_buf_init(&b, SIZE_MAX);
	cr_assert_eq(ms_buf_u8(&b, 9, NULL), MS_OK);
	cr_assert_neq(ms_buf_reserve(&b, PTRDIFF_MAX - 100, &err), MS_OK);
	cr_assert_neq(err.code, MS_OK);
	cr_assert_eq(b.len, 1);
	cr_assert_eq(b.data[0], 9);
	ms_buf_release(&b);
}
#endif

Test(buf, reserve_makes_room_for_writing) {
	struct ms_buf b;

	ms_buf_init(&b, 4096);
	cr_assert_eq(ms_buf_reserve(&b, 4096, NULL), MS_OK);
	cr_assert_geq(b.cap, 4096);
	memset(b.data, 'z', 4096);
	b.len = 4096;
	cr_assert_eq(ms_buf_reserve(&b, 1, NULL), MS_ETOOBIG);
	ms_buf_release(&b);
}

Test(buf, printf_appends_exactly) {
	struct ms_buf b;

	ms_buf_init(&b, 9);
	cr_assert_eq(ms_buf_printf(&b, NULL, "%s-%d", "ab", 12), MS_OK);
	cr_assert_eq(b.len, 5);
	cr_assert_eq(ms_buf_printf(&b, NULL, "%04d", 7), MS_OK); /* fills it to the last byte */
	cr_assert_eq(b.len, 9);
	cr_assert_eq(memcmp(b.data, "ab-120007", 9), 0);
	cr_assert_eq(ms_buf_printf(&b, NULL, "x"), MS_ETOOBIG);
	cr_assert_eq(b.len, 9);
	ms_buf_release(&b);
}

Test(buf, integers_are_little_endian) {
	static const uint8_t want[] = {0x04, 0x03, 0x02, 0x01, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0xff};
	struct ms_buf b;
	uint8_t be[4];

	ms_buf_init(&b, 64);
	cr_assert_eq(ms_buf_u32(&b, 0x01020304, NULL), MS_OK);
	cr_assert_eq(ms_buf_u64(&b, 0x0102030405060708, NULL), MS_OK);
	cr_assert_eq(ms_buf_u8(&b, 0xff, NULL), MS_OK);
	cr_assert_eq(b.len, sizeof want);
	cr_assert_eq(memcmp(b.data, want, sizeof want), 0);
	cr_assert_eq(ms_get_le32(want), 0x01020304);
	cr_assert_eq(ms_get_le64(want + 4), 0x0102030405060708);
	cr_assert_eq(ms_get_be32(want), 0x04030201);
	ms_put_be32(be, 0xa1b2c3d4);
	cr_assert_eq(memcmp(be, "\xa1\xb2\xc3\xd4", 4), 0);
	ms_buf_release(&b);
}

/* Encodings from the definition of LEB128. */
static const struct {
	uint64_t v;
	size_t n;
	uint8_t bytes[10];
} varints[] = {
    {0, 1, {0x00}},
    {1, 1, {0x01}},
    {127, 1, {0x7f}},
    {128, 2, {0x80, 0x01}},
    {300, 2, {0xac, 0x02}},
    {624485, 3, {0xe5, 0x8e, 0x26}},
    {UINT64_C(1) << 63, 10, {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}},
    {UINT64_MAX, 10, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
};

Test(buf, varints) {
	for (size_t i = 0; i < sizeof varints / sizeof *varints; i++) {
		uint8_t p[10];
		uint64_t v = 42;
		struct ms_buf b;

		cr_expect_eq(ms_varint_put(p, varints[i].v), varints[i].n);
		cr_expect_eq(memcmp(p, varints[i].bytes, varints[i].n), 0);
		cr_expect_eq(ms_varint_get(varints[i].bytes, varints[i].n, &v), varints[i].n);
		cr_expect_eq(v, varints[i].v);
		for (size_t cut = 0; cut < varints[i].n; cut++) {
			v = 42;
			cr_expect_eq(ms_varint_get(varints[i].bytes, cut, &v), 0);
			cr_expect_eq(v, 42);
		}
		ms_buf_init(&b, 10);
		cr_expect_eq(ms_buf_varint(&b, varints[i].v, NULL), MS_OK);
		cr_expect_eq(b.len, varints[i].n);
		cr_expect_eq(memcmp(b.data, varints[i].bytes, varints[i].n), 0);
		ms_buf_release(&b);
	}
}

Test(buf, bad_varints) {
	static const struct {
		size_t n;
		uint8_t bytes[12];
	} rows[] = {
	    {2, {0x80, 0x00}},								    /* zero in two bytes */
	    {3, {0xff, 0x80, 0x00}},							    /* over-long */
	    {10, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}},		    /* bit 64 */
	    {11, {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}},	    /* eleven bytes */
	    {12, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x00, 0x00}}, /* never ends in time */
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		uint64_t v = 42;

		cr_expect_eq(ms_varint_get(rows[i].bytes, rows[i].n, &v), 0, "row %zu", i);
		cr_expect_eq(v, 42);
	}
}
