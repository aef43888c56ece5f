/* Keys, hashed names and fingerprints are ssh-keygen's. */
#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "replicas/known_hosts.h"

#define A "AAAAC3NzaC1lZDI1NTE5AAAAIDekZL5KXtYchIQl6WeXlcMQCSbsFj6133qiaIoGcyHb"
#define B "AAAAC3NzaC1lZDI1NTE5AAAAIM5CoyTC2TiHCKLA4WDvIwfFMjlDHMeW/U2aaH5pgzLg"
#define E                                                                                                                                            \
	"AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKhtQtNabIQIVBdmgesxNvRsIwE4N6fydNbWyu8GbGp7rRxMmeOnp5mKuPYc49eAt5E8aj+"             \
	"DbJZw18tedyBXrLk="
#define A_PRINT "SHA256:od4NPracnt73H/PEpu3q7oPyrON0nu3zzNBxnqlMAuo"
#define E_PRINT "SHA256:RYWvDhCfvi5l7y6SWx6msbST8HZ3q+kNXqCbpO0ugqQ"
#define KEY_A "ssh-ed25519 " A "\n"
#define KEY_B "ssh-ed25519 " B "\n"
#define KEY_E "ecdsa-sha2-nistp256 " E "\n"

static size_t blob(const char *base64, uint8_t ret[200]) {
	int n = EVP_DecodeBlock(ret, (const unsigned char *)base64, (int)strlen(base64));
	cr_assert_gt(n, 0);
	return (size_t)n - (strchr(base64, '=') != NULL);
}

/* The verdict over key, and the line that decided. */
static enum ms_host_verdict verdict(const char *text, const char *host, unsigned port, const char *key, unsigned *line) {
	struct ms_known_hosts kh = {0};
	struct ms_err err = MS_ERR_INIT;
	uint8_t b[200];
	size_t n = blob(key, b);
	unsigned at;
	cr_assert_eq(ms_known_hosts_scan(&kh, text, strlen(text), host, port, &err), MS_OK, "%s", err.msg);
	enum ms_host_verdict v = ms_known_hosts_judge(&kh, b, n, line ? line : &at);
	ms_known_hosts_release(&kh);
	return v;
}

Test(known_hosts, plain_names) {
	unsigned line;
	const char *text = "# comment\n\n  h,other.example " KEY_A "h " KEY_E "x " KEY_B;
	cr_expect_eq(verdict(text, "h", 22, A, &line), MS_HOST_KNOWN);
	cr_expect_eq(line, 3);
	cr_expect_eq(verdict(text, "h", 22, E, &line), MS_HOST_KNOWN);
	cr_expect_eq(line, 4);
	cr_expect_eq(verdict(text, "OTHER.Example", 22, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict(text, "h", 22, B, &line), MS_HOST_CHANGED);
	cr_expect_eq(line, 3);
	cr_expect_eq(verdict(text, "hh", 22, A, &line), MS_HOST_UNKNOWN);
	cr_expect_eq(line, 0);
	cr_expect_eq(verdict("", "h", 22, A, NULL), MS_HOST_UNKNOWN);
	/* Tabs, CRLF, a comment behind the key, no newline at the end. */
	cr_expect_eq(verdict("h\tssh-ed25519\t" A "\tme@here\r\n", "h", 22, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict("h ssh-ed25519 " A, "h", 22, A, NULL), MS_HOST_KNOWN);
}

Test(known_hosts, ports) {
	cr_expect_eq(verdict("[h]:2222 " KEY_A, "h", 2222, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict("[h]:2222 " KEY_A, "h", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("[h]:2222 " KEY_A, "h", 2223, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("[2001:db8::1]:2222 " KEY_A, "2001:db8::1", 2222, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict("2001:db8::1 " KEY_A, "2001:DB8::1", 22, A, NULL), MS_HOST_KNOWN);
	/* The bare name counts where the port has no key of its own, and only there. */
	cr_expect_eq(verdict("h " KEY_A, "h", 2222, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict("h " KEY_A "[h]:2222 " KEY_B, "h", 2222, A, NULL), MS_HOST_CHANGED);
	cr_expect_eq(verdict("h " KEY_A "[h]:2222 " KEY_B, "h", 2222, B, NULL), MS_HOST_KNOWN);
}

Test(known_hosts, hashed_names) {
	static const char text[] = "|1|leKMZISqwCub0pupOcbWuwWSVZ4=|oKyoj8IYuy74x7J8hWfdWMPObGk= " KEY_A	  /* example.com */
				   "|1|uuZnDPVwzVcKB73XRABW7OmfevM=|oKe9n75bwWihQskCJIUdcF94OZA= " KEY_B	  /* [example.com]:2222 */
				   "|1|rjLXNh82hfIev8b/rLP2MLJl90M=|+YcyPOnBSTgwNeHRaC1Ga7jaELo= " KEY_A	  /* 2001:db8::1 */
				   "|1|3d/boz3/d+6FK/Qi64SuDEjwlEk=|+2eGQJVOrigseYGLgi+VpJHUyrE= " KEY_B; /* [2001:db8::1]:2222 */
	unsigned line;
	cr_expect_eq(verdict(text, "example.com", 22, A, &line), MS_HOST_KNOWN);
	cr_expect_eq(line, 1);
	cr_expect_eq(verdict(text, "Example.COM", 22, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict(text, "example.com", 2222, B, &line), MS_HOST_KNOWN);
	cr_expect_eq(line, 2);
	cr_expect_eq(verdict(text, "2001:db8::1", 22, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict(text, "2001:db8::1", 2222, B, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict(text, "example.org", 22, A, NULL), MS_HOST_UNKNOWN);
	/* Broken hashes match nothing. */
	cr_expect_eq(verdict("|1| " KEY_A "|1|x| " KEY_A "|1|leKMZISqwCub0pupOcbWuwWSVZ4=| " KEY_A "|1|=|= " KEY_A "|2|a|b " KEY_A, "example.com", 22, A, NULL), MS_HOST_UNKNOWN);
}

Test(known_hosts, patterns) {
	cr_expect_eq(verdict("*.example.com " KEY_A, "a.b.example.com", 22, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict("*.example.com " KEY_A, "example.com", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("*.example.com,!bad.example.com " KEY_A, "bad.example.com", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("!bad.example.com,*.example.com " KEY_A, "bad.example.com", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("!bad.example.com " KEY_A, "good.example.com", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("10.0.0.? " KEY_A, "10.0.0.7", 22, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict("10.0.0.? " KEY_A, "10.0.0.77", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("[*.example.com]:2222 " KEY_A, "a.example.com", 2222, A, NULL), MS_HOST_KNOWN);
	cr_expect_eq(verdict("*a*a*a*a*a*a*a*a*b " KEY_A, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("* " KEY_A, "anything", 2222, A, NULL), MS_HOST_KNOWN);
}

Test(known_hosts, markers) {
	unsigned line;
	cr_expect_eq(verdict("h " KEY_A "@revoked * " KEY_A, "h", 22, A, &line), MS_HOST_REVOKED);
	cr_expect_eq(line, 2);
	cr_expect_eq(verdict("@revoked h " KEY_A "h " KEY_A, "h", 22, A, NULL), MS_HOST_REVOKED);
	cr_expect_eq(verdict("@revoked h " KEY_A "[h]:2222 " KEY_A, "h", 2222, A, NULL), MS_HOST_REVOKED);
	/* Revoked without another entry: still worse than unknown. Another key than the revoked one: judged by the rest. */
	cr_expect_eq(verdict("@revoked * " KEY_A, "h", 22, A, NULL), MS_HOST_REVOKED);
	cr_expect_eq(verdict("@revoked * " KEY_A, "h", 22, B, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("@revoked x " KEY_A "h " KEY_A, "h", 22, A, NULL), MS_HOST_KNOWN);
	/* An authority's key is no host key; an unknown marker means nothing. */
	cr_expect_eq(verdict("@cert-authority * " KEY_A, "h", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("@other h " KEY_A, "h", 22, A, NULL), MS_HOST_UNKNOWN);
	cr_expect_eq(verdict("@revoked\nh " KEY_A, "h", 22, A, NULL), MS_HOST_KNOWN);
	struct ms_known_hosts kh = {0};
	cr_assert_eq(ms_known_hosts_scan(&kh, "@cert-authority * " KEY_A, strlen("@cert-authority * " KEY_A), "h", 22, NULL), MS_OK);
	cr_expect(kh.n == 0 && kh.authorities == 1);
	ms_known_hosts_release(&kh);
}

Test(known_hosts, nonsense_is_skipped) {
	static const char *const bad[] = {"h", "h ssh-ed25519", "h ssh-ed25519 !!!!", "h ssh-ed25519 AAAA", "h ssh-rsa " A, "h 2048 35 1234567890", "h ssh-ed25519 " A "=",
					  "h ssh-ed25519 AAAAAAAA", "h ssh-ed25519 /////////w=="};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char text[600];
		snprintf(text, sizeof text, "%s\nh %s", bad[i], KEY_B);
		cr_expect_eq(verdict(text, "h", 22, B, NULL), MS_HOST_KNOWN, "%s", bad[i]);
		cr_expect_eq(verdict(bad[i], "h", 22, A, NULL), MS_HOST_UNKNOWN, "%s", bad[i]);
	}
}

Test(known_hosts, bounds) {
	static char text[200 * MS_HOST_KEYS_MAX + 400];
	struct ms_known_hosts kh = {0};
	size_t n = 0;
	for (int i = 0; i < MS_HOST_KEYS_MAX; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "h %s", KEY_A);
	cr_expect_eq(ms_known_hosts_scan(&kh, text, n, "h", 22, NULL), MS_OK);
	ms_known_hosts_release(&kh);
	n += (size_t)snprintf(text + n, sizeof text - n, "h %s", KEY_A);
	cr_expect_eq(ms_known_hosts_scan(&kh, text, n, "h", 22, NULL), MS_ETOOBIG);
	ms_known_hosts_release(&kh);
	char host[300];
	memset(host, 'h', sizeof host - 1);
	host[sizeof host - 1] = '\0';
	cr_expect_eq(ms_known_hosts_scan(&kh, "", 0, host, 22, NULL), MS_EUSAGE);
}

Test(known_hosts, pinned) {
	static const char *const good[] = {"ssh-ed25519 " A, A, A_PRINT, " ssh-ed25519  " A " comment"};
	uint8_t a[200], b[200];
	size_t na = blob(A, a), nb = blob(B, b);
	unsigned line;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		struct ms_known_hosts kh = {0};
		struct ms_err err = MS_ERR_INIT;
		cr_assert_eq(ms_known_hosts_pin(&kh, good[i], &err), MS_OK, "%s: %s", good[i], err.msg);
		cr_expect_eq(ms_known_hosts_judge(&kh, a, na, &line), MS_HOST_KNOWN, "%s", good[i]);
		cr_expect_eq(ms_known_hosts_judge(&kh, b, nb, &line), MS_HOST_CHANGED, "%s", good[i]);
		ms_known_hosts_release(&kh);
	}
	static const char *const bad[] = {"", "SHA256:", "SHA256:short", "ssh-rsa " A, "ecdsa-sha2-nistp256 " A, "AAAA", "nonsense", "MD5:aa:bb", A_PRINT "x"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct ms_known_hosts kh = {0};
		cr_expect_eq(ms_known_hosts_pin(&kh, bad[i], NULL), MS_EUSAGE, "%s", bad[i]);
		ms_known_hosts_release(&kh);
	}
}

Test(known_hosts, fingerprint_line_and_order) {
	uint8_t b[200];
	char print[MS_FINGERPRINT_MAX], line[300], algorithms[512];
	size_t n = blob(A, b);
	ms_host_key_fingerprint(b, n, print);
	cr_expect_str_eq(print, A_PRINT);
	cr_expect_eq(ms_host_key_line("H", 22, b, n, line, sizeof line, NULL), MS_OK);
	cr_expect_str_eq(line, "h ssh-ed25519 " A);
	cr_expect_eq(ms_host_key_line("h", 22, b, n, line, 50, NULL), MS_ETOOBIG);
	n = blob(E, b);
	ms_host_key_fingerprint(b, n, print);
	cr_expect_str_eq(print, E_PRINT);
	cr_expect_eq(ms_host_key_line("::1", 2222, b, n, line, sizeof line, NULL), MS_OK);
	cr_expect_str_eq(line, "[::1]:2222 ecdsa-sha2-nistp256 " E);

	struct ms_known_hosts kh = {0};
	ms_known_hosts_algorithms(&kh, algorithms);
	cr_expect_str_eq(algorithms, "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256");
	/* What is known comes first; what is revoked does not count as known. */
	static const char text[] = "h " KEY_E "@revoked * " KEY_A;
	cr_assert_eq(ms_known_hosts_scan(&kh, text, strlen(text), "h", 22, NULL), MS_OK);
	ms_known_hosts_algorithms(&kh, algorithms);
	cr_expect_str_eq(algorithms, "ecdsa-sha2-nistp256,ssh-ed25519,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256");
	ms_known_hosts_release(&kh);
}
