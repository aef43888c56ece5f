#include <string.h>
#include "core/names.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	char *s = malloc(size + 1), again[MS_NAME_MAX];
	memcpy(s, data, size);
	s[size] = '\0';
	struct ms_name n;
	if (ms_name_parse(s, &n)) {
		ms_name_format(&n, again);
		REQUIRE(!strcmp(s, again));
	}
	free(s);
	return 0;
}
