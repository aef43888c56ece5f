#include <string.h>
#include "fuzz/fuzz.h"
#include "replicas/sftp_wire.h"

static enum ms_code entry(void *arg, const char *name, const struct ms_sftp_attrs *a, struct ms_err *err) {
	(void)a, (void)err;
	REQUIRE(name[0] && strlen(name) < 256 && strcmp(name, ".") && strcmp(name, ".."));
	++*(unsigned *)arg;
	return MS_OK;
}

/* What a hostile server answers: the type, then what follows the id. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static const struct ms_sftp_target to = {.host = "h", .user = "u", .port = 22};
	struct ms_sftp s = {.conn = {.to = &to}};
	struct ms_sftp_call call = {0};
	struct ms_err err = MS_ERR_INIT;
	unsigned names = 0;
	if (size == 0)
		return 0;
	struct ms_sftp_reply r = {.type = data[0], .p = data + 1, .n = size - 1};
	if (ms_sftp_parse(&s, &r, &call, &err) == MS_OK) {
		REQUIRE(strlen(call.text) < sizeof call.text && call.handle.n <= MS_SFTP_HANDLE_MAX);
		for (const char *p = call.text; *p; p++)
			REQUIRE((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f);
	} else {
		REQUIRE(err.code == MS_EPERMANENT);
	}
	/* Each entry takes at least 12 bytes. */
	(void)!ms_sftp_names(&s, &r, entry, &names, NULL);
	REQUIRE(names <= size / 12);
	return 0;
}
