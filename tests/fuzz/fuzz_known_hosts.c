#include <string.h>
#include "fuzz/fuzz.h"
#include "replicas/known_hosts.h"

/* The first line is the hostKey option, the rest a known_hosts file. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static const char *const hosts[] = {"h", "example.com", "2001:db8::1"};
	const uint8_t *eol = size ? memchr(data, '\n', size) : NULL;
	size_t first = eol ? (size_t)(eol - data) : 0;
	char *pin = malloc(first + 1);
	memcpy(pin, data, first);
	pin[first] = '\0';
	for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
		struct ms_known_hosts kh = {0};
		char algorithms[512], line[8192];
		unsigned at;
		if (i == 0)
			(void)!ms_known_hosts_pin(&kh, pin, NULL);
		if (ms_known_hosts_scan(&kh, (const char *)data, size, hosts[i], i ? 22 : 2222, NULL) == MS_OK)
			for (unsigned k = 0; k < kh.n; k++) {
				if (!kh.keys[k].blob)
					continue;
				/* A key that is held is known or revoked, and its line says so again. */
				enum ms_host_verdict v = ms_known_hosts_judge(&kh, kh.keys[k].blob, kh.keys[k].len, &at);
				REQUIRE(v == MS_HOST_KNOWN || v == MS_HOST_REVOKED);
				REQUIRE(ms_host_key_line(hosts[i], 22, kh.keys[k].blob, kh.keys[k].len, line, sizeof line, NULL) == MS_OK);
				struct ms_known_hosts again = {0};
				REQUIRE(ms_known_hosts_scan(&again, line, strlen(line), hosts[i], 22, NULL) == MS_OK);
				REQUIRE(ms_known_hosts_judge(&again, kh.keys[k].blob, kh.keys[k].len, &at) == MS_HOST_KNOWN);
				ms_known_hosts_release(&again);
			}
		ms_known_hosts_algorithms(&kh, algorithms);
		REQUIRE(strstr(algorithms, "rsa-sha2-512"));
		ms_known_hosts_release(&kh);
	}
	free(pin);
	return 0;
}
