#include <criterion/criterion.h>
#include "core/crc.h"

/* The catalogue's check value of CRC-64/XZ; xz --check=crc64 stores the same for these nine bytes. */
Test(crc, check_value) { cr_assert_eq(ms_crc64(0, "123456789", 9), 0x995dc9bbdf1939faull); }

Test(crc, other_values_from_a_bitwise_implementation) {
	unsigned char ramp[1000];
	for (size_t i = 0; i < sizeof ramp; i++)
		ramp[i] = (unsigned char)(i * 7 + 3);
	cr_assert_eq(ms_crc64(0, ramp, sizeof ramp), 0xf033761aeb8e0b26ull);
	cr_assert_eq(ms_crc64(0, "a", 1), 0x330284772e652b05ull);
}

static uint64_t bitwise(const unsigned char *p, size_t n) {
	uint64_t c = ~0ull;
	for (size_t i = 0; i < n; i++) {
		c ^= p[i];
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (c & 1 ? 0xc96c5795d7870f42ull : 0);
	}
	return ~c;
}

Test(crc, every_length_and_alignment_agrees_with_the_definition) {
	unsigned char b[600];
	for (size_t i = 0; i < sizeof b; i++)
		b[i] = (unsigned char)(i * i >> 3 ^ i);
	for (size_t off = 0; off < 17; off++)
		for (size_t n = 0; n + off <= sizeof b; n += n < 300 ? 1 : 37)
			cr_assert_eq(ms_crc64(0, b + off, n), bitwise(b + off, n), "offset %zu length %zu", off, n);
}

Test(crc, chains) {
	unsigned char b[300];
	for (size_t i = 0; i < sizeof b; i++)
		b[i] = (unsigned char)(i * 31);
	for (size_t cut = 0; cut <= sizeof b; cut++)
		cr_assert_eq(ms_crc64(ms_crc64(0, b, cut), b + cut, sizeof b - cut), bitwise(b, sizeof b));
	cr_assert_eq(ms_crc64(77, NULL, 0), 77);
}
