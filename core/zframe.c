#include "core/zframe.h"

/* RFC 8878, section 3.1.1.1.2: exponent in the upper 5 bits, mantissa in eighths in the lower 3. */
static bool window_fits(uint8_t descriptor, unsigned max_log) {
	unsigned log = 10u + (descriptor >> 3);
	return log < max_log || (log == max_log && (descriptor & 7) == 0);
}

bool ms_zframe_single(const uint8_t *p, size_t n, unsigned max_window_log) {
	if (n < 2 || p[0] != 0 || !window_fits(p[1], max_window_log))
		return false;
	size_t at = 2;
	while (n - at >= 3) {
		uint32_t h = (uint32_t)p[at] | (uint32_t)p[at + 1] << 8 | (uint32_t)p[at + 2] << 16;
		unsigned type = h >> 1 & 3; /* 0 raw, 1 run of one byte, 2 compressed, 3 reserved */
		size_t len = type == 1 ? 1 : h >> 3;
		at += 3;
		if (type == 3 || len > n - at)
			return false;
		at += len;
		if (h & 1)
			return at == n;
	}
	return false;
}
