#include <stdio.h>
#include "core/cbor.h"
#include "unit/bytes.h"

/* Encodings from RFC 8949, appendix A. */
Test(cbor, writes_the_rfc_examples) {
	struct {
		uint64_t v;
		const char *hex;
	} ints[] = {{0, "00"}, {23, "17"}, {24, "1818"}, {100, "1864"}, {1000, "1903e8"}, {1000000, "1a000f4240"},
		    {1000000000000, "1b000000e8d4a51000"}, {UINT64_MAX, "1bffffffffffffffff"}};
	for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
		struct ms_buf b;
		ms_buf_init(&b, 64);
		OK(ms_cbor_put_uint(&b, ints[i].v, &err));
		char hex[32] = "";
		for (size_t k = 0; k < b.len; k++)
			sprintf(hex + 2 * k, "%02x", b.data[k]);
		cr_assert_str_eq(hex, ints[i].hex);
		ms_buf_release(&b);
	}
	struct ms_buf b;
	ms_buf_init(&b, 256);
	OK(ms_cbor_put_map(&b, 3, &err));
	OK(ms_cbor_put_uint(&b, 1, &err));
	OK(ms_cbor_put_text(&b, "\xc3\xbc", &err));
	OK(ms_cbor_put_uint(&b, 2, &err));
	OK(ms_cbor_put_bytes(&b, "\x01\x02\x03\x04", 4, &err));
	OK(ms_cbor_put_uint(&b, 3, &err));
	OK(ms_cbor_put_array(&b, 2, &err));
	OK(ms_cbor_put_bool(&b, false, &err));
	OK(ms_cbor_put_bool(&b, true, &err));
	static const uint8_t want[] = {0xa3, 1, 0x62, 0xc3, 0xbc, 2, 0x44, 1, 2, 3, 4, 3, 0x82, 0xf4, 0xf5};
	cr_assert_eq(b.len, sizeof want);
	cr_assert_arr_eq(b.data, want, sizeof want);
	FAILS(MS_EINVAL, ms_cbor_put_text(&b, "\xff", &err));
	cr_assert_eq(b.len, sizeof want);
	ms_buf_release(&b);
}

static enum ms_code parse_hex(const char *hex, struct ms_cbor_doc *d, struct ms_err *err, uint8_t **ret_keep) {
	size_t n = strlen(hex) / 2;
	uint8_t *p = malloc(n + !n); /* exact, so that sanitizers see a read past the end */
	for (size_t i = 0; i < n; i++) {
		unsigned v;
		sscanf(hex + 2 * i, "%2x", &v);
		p[i] = (uint8_t)v;
	}
	*ret_keep = p;
	return ms_cbor_parse(p, n, d, err);
}

Test(cbor, reads_a_document) {
	/* {1: "gen", 2: 1000000, 3: [1, [2, 3], h'ff'], "x": {5: null}, 9: -1, 10: true} */
	struct ms_cbor_doc d;
	uint8_t *keep;
	OK(parse_hex("a6" "01" "6367656e" "02" "1a000f4240" "03" "83" "01" "820203" "41ff" "6178" "a105f6" "09" "20" "0a" "f5", &d, &err, &keep));
	uint64_t v;
	char s[8];
	OK(ms_cbor_get_uint(&d, 2, &v, &err));
	cr_assert_eq(v, 1000000);
	OK(ms_cbor_get_text(&d, 1, s, sizeof s, &err));
	cr_assert_str_eq(s, "gen");
	FAILS(MS_ECORRUPT, ms_cbor_get_text(&d, 1, s, 3, &err));
	FAILS(MS_ECORRUPT, ms_cbor_get_text(&d, 2, s, sizeof s, &err));
	FAILS(MS_ECORRUPT, ms_cbor_get_uint(&d, 1, &v, &err));
	FAILS(MS_ECORRUPT, ms_cbor_get_uint(&d, 99, &v, &err));
	const uint64_t absent = 7;
	OK(ms_cbor_get_uint_max(&d, 99, 10, &absent, &v, &err));
	cr_assert_eq(v, 7);
	FAILS(MS_ECORRUPT, ms_cbor_get_uint_max(&d, 2, 999999, &absent, &v, &err));
	const struct ms_cbor_item *a = ms_cbor_get(&d, 0, 3);
	cr_assert(a && a->type == MS_CBOR_ARRAY && a->u == 3);
	const struct ms_cbor_item *inner = &d.items[(a + 1)->next];
	cr_assert(inner->type == MS_CBOR_ARRAY && inner->u == 2);
	const struct ms_cbor_item *bytes = &d.items[inner->next];
	cr_assert(bytes->type == MS_CBOR_BYTES && bytes->n == 1 && bytes->p[0] == 0xff);
	const struct ms_cbor_item *neg = ms_cbor_get(&d, 0, 9);
	cr_assert(neg && neg->type == MS_CBOR_NINT && neg->u == 0);
	const struct ms_cbor_item *yes = ms_cbor_get(&d, 0, 10);
	cr_assert(yes && yes->type == MS_CBOR_BOOL && yes->u == 1);
	cr_assert_eq(d.items[0].next, d.count);
	ms_cbor_doc_release(&d);
	free(keep);
}

Test(cbor, refuses) {
	static const struct {
		const char *hex, *why;
	} bad[] = {
		{"", "nothing"}, {"0000", "trailing byte"}, {"18", "cut integer"}, {"62c3", "cut text"}, {"8201", "cut array"},
		{"a101", "map without value"}, {"9f01ff", "indefinite array"}, {"bf0101ff", "indefinite map"}, {"5f4101ff", "indefinite bytes"},
		{"7f6161ff", "indefinite text"}, {"ff", "stray break"}, {"c001", "tag"}, {"f93c00", "half float"}, {"fa47c35000", "float"},
		{"fb3ff199999999999a", "double"}, {"f7", "undefined"}, {"a201010102", "duplicate key"}, {"a3020103010201", "duplicate key, unsorted"},
		{"a2616101616102", "duplicate text key"}, {"a1f501", "boolean key"}, {"a1810101", "array key"}, {"61ff", "not UTF-8"},
		{"62c080", "over-long UTF-8"}, {"63eda080", "surrogate"}, {"64f4908080", "beyond Unicode"}, {"64f0808080", "over-long UTF-8"},
		{"8181818101", "depth 4 is fine"}, {"818181818101", "depth 5"}, {"1c", "reserved"}, {"fc", "reserved"},
		/* containers and strings that claim far more than there is: 9 bytes must not cost gigabytes */
		{"9bffffffffffffffff", "huge array"}, {"bbffffffffffffffff", "huge map"}, {"5bffffffffffffffff", "huge bytes"},
		{"7bffffffffffffffff", "huge text"}, {"bb8000000000000000", "map whose doubled size overflows"}, {"9a0001000000", "array of 65,536"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct ms_cbor_doc d = {(void *)1, 77};
		struct ms_err err = MS_ERR_INIT;
		uint8_t *keep;
		enum ms_code rc = parse_hex(bad[i].hex, &d, &err, &keep);
		if (strstr(bad[i].why, "is fine")) {
			cr_assert_eq(rc, MS_OK, "%s", bad[i].why);
			ms_cbor_doc_release(&d);
		} else {
			cr_assert_eq(rc, MS_ECORRUPT, "%s (%s): %d", bad[i].hex, bad[i].why, rc);
			cr_assert(d.count == 77 && err.msg[0], "%s", bad[i].why);
		}
		free(keep);
	}
}

Test(cbor, unsorted_keys_are_read) {
	struct ms_cbor_doc d;
	uint8_t *keep;
	uint64_t v;
	OK(parse_hex("a3030a010b020c", &d, &err, &keep));
	OK(ms_cbor_get_uint(&d, 1, &v, &err));
	cr_assert_eq(v, 11);
	ms_cbor_doc_release(&d);
	free(keep);
}

Test(cbor, item_limit) {
	for (uint32_t n = MS_CBOR_ITEMS_MAX - 1; n <= MS_CBOR_ITEMS_MAX; n++) { /* the array itself is one item */
		struct ms_buf b;
		ms_buf_init(&b, 1 << 20);
		OK(ms_cbor_put_array(&b, n, &err));
		for (uint32_t i = 0; i < n; i++)
			OK(ms_cbor_put_uint(&b, 0, &err));
		struct ms_cbor_doc d;
		if (n < MS_CBOR_ITEMS_MAX) {
			OK(ms_cbor_parse(b.data, b.len, &d, &err));
			cr_assert_eq(d.count, MS_CBOR_ITEMS_MAX);
			ms_cbor_doc_release(&d);
		} else
			FAILS(MS_ECORRUPT, ms_cbor_parse(b.data, b.len, &d, &err));
		ms_buf_release(&b);
	}
}

/* 32,000 keys in falling order, the last a duplicate: found, and in no quadratic time. */
Test(cbor, many_unsorted_keys, .timeout = 5) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	OK(ms_cbor_put_map(&b, 32000, &err));
	for (uint32_t i = 0; i < 32000; i++) {
		OK(ms_cbor_put_uint(&b, i == 31999 ? 20000 : 40000 - i, &err));
		OK(ms_cbor_put_uint(&b, i, &err));
	}
	struct ms_cbor_doc d;
	FAILS(MS_ECORRUPT, ms_cbor_parse(b.data, b.len, &d, &err));
	ms_buf_release(&b);
}
