#include "replicas/nearest.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

#define WORD_MAX 48

/* Levenshtein distance, case ignored; SIZE_MAX for words too long to be ours. */
static size_t distance(const char *a, const char *b) {
	size_t na = strlen(a), nb = strlen(b);
	size_t row[WORD_MAX + 1];
	if (na > WORD_MAX || nb > WORD_MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t up = row[j];
			size_t d = diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
			if (up + 1 < d)
				d = up + 1;
			if (row[j - 1] + 1 < d)
				d = row[j - 1] + 1;
			row[j] = d;
			diagonal = up;
		}
	}
	return row[nb];
}

struct ms_nearest ms_nearest_init(const char *word) { return (struct ms_nearest){.word = word, .distance = strlen(word) / 3 + 2}; }

void ms_nearest_offer(struct ms_nearest *n, const char *known) {
	size_t d = distance(n->word, known);
	if (d < n->distance) {
		n->distance = d;
		n->best = known;
	}
}
