#include <criterion/criterion.h>
#include <stdlib.h>
#include "core/hash.h"

/* Expected values: a separate implementation of docs/formats.md "Checksums" (tests/golden/read_artefact.py agrees with them). */
Test(hash, fmix64) {
	cr_assert_eq(ms_fmix64(0), 0);
	cr_assert_eq(ms_fmix64(1), 0xb456bcfc34c2cb2cull);
	cr_assert_eq(ms_fmix64(0x0123456789abcdefull), 0x87cbfbfe89022ceaull);
}

Test(hash, pages) {
	unsigned char *p = calloc(1, 4096);
	cr_assert_eq(ms_page_hash(1, p, 512), 0xf99f8ab9bcd3aa3full);
	cr_assert_eq(ms_page_hash(1, p, 4096), 0xf3f882b6c6693f06ull);
	cr_assert_eq(ms_page_hash(2, p, 4096), 0x93a34c1d145b7eacull);
	for (int i = 0; i < 4096; i++)
		p[i] = (unsigned char)(i * 7 + 3);
	cr_assert_eq(ms_page_hash(0x01020304, p, 4096), 0x789cff11d490c663ull);
	free(p);
}

/* Plain CRCs are linear, so a sum of them would not see these. */
Test(hash, sum_sees_swapped_pages_and_paired_flips) {
	unsigned char a[512], b[512];
	for (int i = 0; i < 512; i++)
		a[i] = (unsigned char)(i * 5), b[i] = (unsigned char)(i * 11 + 1);
	uint64_t sum = ms_page_hash(1, a, 512) + ms_page_hash(2, b, 512);
	cr_assert_neq(ms_page_hash(1, b, 512) + ms_page_hash(2, a, 512), sum);
	for (int bit = 0; bit < 4096; bit++) {
		a[bit / 8] ^= (unsigned char)(1 << bit % 8), b[bit / 8] ^= (unsigned char)(1 << bit % 8);
		cr_assert_neq(ms_page_hash(1, a, 512) + ms_page_hash(2, b, 512), sum, "bit %d", bit);
		a[bit / 8] ^= (unsigned char)(1 << bit % 8), b[bit / 8] ^= (unsigned char)(1 << bit % 8);
	}
}
