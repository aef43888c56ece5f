/*
 * What the pages of the golden database hold: page `pgno` in its version `v`, page size 512. Stated again in read_artefact.py.
 *   pgno % 4 != 0: byte i = (31 * i + (i >> 7) * pgno) mod 256
 *   pgno % 4 == 0: bytes of the generator x = x * 1664525 + 1013904223 mod 2^32, started with x = pgno, each byte x >> 24 after a step
 * then for k = 1 .. v: 16 bytes from offset (592 * k + 64 * pgno) mod 496 become ((16 * k + j) mod 256) xor 0xa5, j = 0 .. 15.
 */
#ifndef MS_TESTS_GOLDEN_RULE_H
#define MS_TESTS_GOLDEN_RULE_H

#include <stdint.h>

#define GOLDEN_PAGE_SIZE 512u

static inline void golden_page(uint32_t pgno, unsigned v, uint8_t out[GOLDEN_PAGE_SIZE]) {
	uint32_t x = pgno;
	for (uint32_t i = 0; i < GOLDEN_PAGE_SIZE; i++) {
		x = x * 1664525u + 1013904223u;
		out[i] = (uint8_t)(pgno % 4 ? 31 * i + (i >> 7) * pgno : x >> 24);
	}
	for (unsigned k = 1; k <= v; k++)
		for (uint32_t j = 0; j < 16; j++)
			out[(592 * k + 64 * pgno) % 496 + j] = (uint8_t)((16 * k + j) ^ 0xa5);
}

/* Versions of pages 1..8 after each txid; 0 pages beyond db_pages. -1: the page does not exist. */
#define GOLDEN_TXIDS 7
static const struct {
	uint32_t db_pages;
	int version[8];
} golden_states[GOLDEN_TXIDS + 1] = {
	[1] = {4, {0, 0, 0, 0, -1, -1, -1, -1}}, /* attach: snapshot */
	[2] = {4, {0, 1, 0, 0, -1, -1, -1, -1}}, /* one page, delta */
	[3] = {6, {1, 1, 0, 0, 0, 0, -1, -1}},	 /* growth, with attributes */
	[4] = {6, {1, 2, 0, 1, 0, 0, -1, -1}},
	[5] = {8, {2, 2, 1, 1, 0, 0, 0, 0}}, /* catch-up for 7 commits */
	[6] = {3, {3, 2, 2, -1, -1, -1, -1, -1}}, /* first of a forked generation; shrinks */
	[7] = {3, {3, 3, 2, -1, -1, -1, -1, -1}}, /* one page, patch */
};
#define GOLDEN_TIME(txid) (1700000000000000 + 1000 * (int64_t)(txid))

#endif
