/* Fuzz target: any bytes as a configuration; what loads must print and load again. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libfyaml 0.7.12 loses a text buffer when a quoted scalar turns out to be wrong. */
const char *__lsan_default_suppressions(void) {
	return "leak:libfyaml";
}

static bool nothing_secret(const char *type, const char *key) {
	(void)type, (void)key;
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_config *c = NULL, *again = NULL;
	if (ms_config_load_string("fuzz", (const char *)data, size, &c, &err) == MS_OK) {
		struct ms_buf out;
		ms_buf_init(&out, 64u << 20);
		if (ms_config_print(c, false, nothing_secret, &out, &err) == MS_OK) {
			(void)!ms_config_load_string("again", (const char *)out.data, out.len, &again, &err);
			ms_config_release(again);
		}
		ms_buf_release(&out);
	}
	ms_config_release(c);
	return 0;
}
