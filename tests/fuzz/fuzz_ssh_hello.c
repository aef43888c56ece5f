#include <string.h>
#include "fuzz/fuzz.h"
#include "replicas/ssh_hello.h"

/* What a stranger on the port says first. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static const char *const ours[MS_SSH_LISTS] = {"curve25519-sha256", "ssh-ed25519", "aes256-ctr", "aes256-ctr", "hmac-sha2-256", "hmac-sha2-256"};
	char why[400] = "";
	if (ms_ssh_hello_lacks(data, size, ours, why, sizeof why)) {
		REQUIRE(strncmp(why, "no ", 3) == 0 && strlen(why) < sizeof why);
		for (const char *p = why; *p; p++)
			REQUIRE((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f);
	} else {
		REQUIRE(why[0] == '\0');
	}
	return 0;
}
