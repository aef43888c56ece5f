#include <string.h>
#include "fuzz/fuzz.h"
#include "replicas/ssh_key.h"

/* A key file, with a passphrase and without. What is read describes itself, and signs. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static const char *const passphrases[] = {NULL, "open sesame"};
	static const uint8_t message[] = "what the server asked";
	char *text = malloc(size + 1);
	memcpy(text, data, size);
	text[size] = '\0';
	for (size_t i = 0; i < 2; i++) {
		struct ms_ssh_key k;
		uint8_t sig[MS_SSH_SIG_MAX];
		size_t n = 0;
		if (ms_ssh_key_read(&k, text, passphrases[i]) != MS_SSH_KEY_READ)
			continue;
		REQUIRE(k.blob_len > 4 && k.blob_len <= sizeof k.blob && memcmp(k.blob + 4, k.type, strlen(k.type)) == 0);
		if (ms_ssh_key_sign(&k, strcmp(k.type, "ssh-rsa") ? k.type : "rsa-sha2-512", message, sizeof message, sig, &n) == MS_OK)
			REQUIRE(n > 0 && n <= sizeof sig);
		REQUIRE(ms_ssh_key_sign(&k, "ssh-rsa", message, sizeof message, sig, &n) == MS_EUNSUPPORTED);
		ms_ssh_key_release(&k);
	}
	free(text);
	return 0;
}
