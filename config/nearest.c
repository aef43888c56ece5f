#include <ctype.h>
#include <string.h>
#include <strings.h>
#include "config/nearest.h"

#define WORD_MAX 64

static int same(char a, char b) { return tolower((unsigned char)a) == tolower((unsigned char)b); }

/* Optimal string alignment; a replacement costs 2, or 1 between cases of one letter; everything else 2. */
static unsigned distance(const char *a, const char *b) {
	size_t n = strlen(a), m = strlen(b);
	unsigned rows[3][WORD_MAX + 1];
	if (n > WORD_MAX || m > WORD_MAX)
		return ~0u;
	for (size_t j = 0; j <= m; j++)
		rows[0][j] = (unsigned)(2 * j);
	for (size_t i = 1; i <= n; i++) {
		unsigned *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
		row[0] = (unsigned)(2 * i);
		for (size_t j = 1; j <= m; j++) {
			unsigned best = up[j - 1] + (a[i - 1] == b[j - 1] ? 0 : same(a[i - 1], b[j - 1]) ? 1 : 2);
			if (up[j] + 2 < best)
				best = up[j] + 2;
			if (row[j - 1] + 2 < best)
				best = row[j - 1] + 2;
			if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]) && up2[j - 2] + 2 < best)
				best = up2[j - 2] + 2;
			row[j] = best;
		}
	}
	return rows[n % 3][m];
}

const char *ms_nearest(const char *word, const char *(*next)(void *arg, unsigned i), void *arg) {
	const char *best = NULL, *name;
	unsigned best_distance = 0;
	for (unsigned i = 0; (name = next(arg, i)) != NULL; i++) {
		size_t longer = strlen(word) > strlen(name) ? strlen(word) : strlen(name);
		unsigned limit = (unsigned)(longer + 2) / 3, d = distance(word, name);
		if (strcasecmp(word, name) == 0)
			return name;
		if (limit > 3)
			limit = 3;
		if (d <= 2 * limit && (!best || d < best_distance))
			best = name, best_distance = d;
	}
	return best;
}
