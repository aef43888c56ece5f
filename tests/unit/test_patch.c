#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "core/patch.h"

Test(patch, round_trip_of_random_changes) {
	uint8_t a[4096], b[4096], out[8192], got[4096];
	srand(7);
	for (int round = 0; round < 20000; round++) {
		size_t n = 512u << (rand() % 4);
		for (size_t i = 0; i < n; i++)
			a[i] = (uint8_t)(rand() % 4);
		memcpy(b, a, n);
		for (int k = rand() % 20; k; k--) {
			size_t at = (size_t)rand() % n, len = (size_t)rand() % 40;
			for (size_t i = at; i < n && i < at + len; i++)
				b[i] = (uint8_t)rand();
		}
		size_t len = ms_patch_encode(b, a, n, out, sizeof out);
		if (memcmp(a, b, n) == 0) {
			cr_assert_eq(len, 0);
			continue;
		}
		cr_assert_gt(len, 0);
		cr_assert(ms_patch_decode(out, len, a, n, got));
		cr_assert_arr_eq(got, b, n);
		cr_assert_eq(ms_patch_encode(b, a, n, out, len / 2), 0, "a patch above its cap is refused");
	}
}

/* Written by hand from docs/formats.md: keep 3, 2 bytes, keep 1, 1 byte. */
Test(patch, bytes_by_hand) {
	uint8_t base[512], got[512];
	const uint8_t patch[] = {3, 2, 'x', 'y', 1, 1, 'z'};
	memset(base, '.', sizeof base);
	cr_assert(ms_patch_decode(patch, sizeof patch, base, sizeof base, got));
	cr_assert_eq(memcmp(got, "...xy.z.", 8), 0);
	cr_assert_eq(memcmp(got + 8, base, sizeof base - 8), 0);
}

Test(patch, malformed_is_refused) {
	uint8_t base[512] = {0}, got[512];
	const uint8_t cut[] = {3, 2, 'x'}, empty[] = {3, 0}, past[] = {0xff, 3, 2, 'x', 'y'}, far[] = {0x81, 4, 1, 'x'}, huge[] = {0x80};
	cr_assert_not(ms_patch_decode(cut, sizeof cut, base, 512, got));
	cr_assert_not(ms_patch_decode(empty, sizeof empty, base, 512, got));
	cr_assert_not(ms_patch_decode(past, sizeof past, base, 512, got));
	cr_assert_not(ms_patch_decode(far, sizeof far, base, 512, got));
	cr_assert_not(ms_patch_decode(huge, sizeof huge, base, 512, got));
}
