#include "core/crc.h"

#include <isa-l/crc64.h>

uint64_t ms_crc64(uint64_t crc, const void *data, size_t len) {
	/* ISA-L complements the seed and the result itself, so results chain; it must not be handed NULL. */
	return len ? crc64_ecma_refl(crc, data, len) : crc;
}
