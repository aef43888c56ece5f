/*
 * "Did you mean": the known word nearest to a mistyped one by edit distance, offered one by one. Pure.
 * best stays NULL when nothing is near enough (more than a third of the letters differ).
 */
#ifndef MS_REPLICAS_NEAREST_H
#define MS_REPLICAS_NEAREST_H

#include <stddef.h>

struct ms_nearest {
	const char *word, *best;
	size_t distance;
};
struct ms_nearest ms_nearest_init(const char *word);
void ms_nearest_offer(struct ms_nearest *n, const char *known);

#endif
