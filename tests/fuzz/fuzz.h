/* One fuzz target for each decoder. A target keeps what it says about its input: no crash, no leak, no read past the end, bounded memory,
 * and where it decodes, that encoding again gives a value that decodes alike. */
#ifndef MS_TESTS_FUZZ_FUZZ_H
#define MS_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(cond)                                                                                                                \
	do {                                                                                                                         \
		if (!(cond)) {                                                                                                       \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                                     \
			abort();                                                                                                     \
		}                                                                                                                    \
	} while (0)

#endif
