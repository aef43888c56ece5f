#include "core/types.h"

#include <stdio.h>

static int hex_digit(char c) {
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool ms_generation_valid(const char *s) {
	for (size_t i = 0; i < MS_GENERATION_LEN; i++) /* stops at the terminator: it is neither a digit nor '-' */
		if (i == 8 ? s[i] != '-' : hex_digit(s[i]) < 0)
			return false;
	return s[MS_GENERATION_LEN] == '\0';
}

uint32_t ms_generation_epoch(const struct ms_generation *g) {
	if (!ms_generation_valid(g->s))
		return 0;
	uint32_t epoch = 0;
	for (size_t i = 0; i < 8; i++)
		epoch = epoch << 4 | (uint32_t)hex_digit(g->s[i]);
	return epoch;
}

void ms_generation_make(struct ms_generation *ret, uint32_t epoch, uint32_t random) {
	snprintf(ret->s, sizeof ret->s, "%08x-%08x", epoch, random);
}
