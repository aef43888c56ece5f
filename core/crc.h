/*
 * CRC-64/XZ (ECMA-182 polynomial, reflected, init and xorout all ones; check("123456789") = 995dc9bbdf1939fa), by ISA-L.
 */
#ifndef MS_CORE_CRC_H
#define MS_CORE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Start with 0; chain by passing the previous result. data may be NULL when len is 0. Any thread. */
uint64_t ms_crc64(uint64_t crc, const void *data, size_t len);

#endif
