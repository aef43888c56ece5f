#include "support/skip.h"

#include <stdio.h>
#include <stdlib.h>

void ms_test_skipped(const char *test, const char *why) {
	const char *log = getenv("MS_SKIP_LOG");
	FILE *f = log && log[0] ? fopen(log, "a") : NULL;
	fprintf(stderr, "SKIPPED %s: %s\n", test, why);
	if (!f)
		return;
	fprintf(f, "%s: %s\n", test, why);
	fclose(f);
}
