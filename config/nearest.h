/* The nearest of a set of names to a mistyped one. Pure. */
#ifndef MS_CONFIG_NEAREST_H
#define MS_CONFIG_NEAREST_H

/* By edit distance (insertions, deletions, replacements, swapped neighbours; case counts half). NULL when none is near: at most a third of the
 * longer word's length and 3. next(arg, i) returns the i-th name, NULL at the end. The first of equals wins. */
const char *ms_nearest(const char *word, const char *(*next)(void *arg, unsigned i), void *arg);

#endif
