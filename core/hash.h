/*
 * Page hash (DESIGN §1): fmix64(CRC-64/XZ(page number as big-endian u32, then the page)). fmix64 is MurmurHash3's finaliser.
 * Database checksum: sum of all page hashes modulo 2^64, the lock page left out.
 */
#ifndef MS_CORE_HASH_H
#define MS_CORE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t ms_fmix64(uint64_t k);
/* pgno from 1. Any thread. */
uint64_t ms_page_hash(uint32_t pgno, const void *page, size_t page_size);

#endif
