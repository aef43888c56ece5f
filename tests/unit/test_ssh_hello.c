/* What an SSH server says in the clear. The greeting below is laid out by hand from RFC 4253, sections 4.2 and 7.1. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "replicas/ssh_hello.h"

static const char *const ours[MS_SSH_LISTS] = {"curve25519-sha256", "ssh-ed25519,ecdsa-sha2-nistp256", "aes256-ctr", "aes256-ctr", "hmac-sha2-256", "hmac-sha2-256"};

static size_t greeting(uint8_t *p, const char *lines, const char *const lists[10]) {
	size_t n = (size_t)sprintf((char *)p, "%s", lines), at = n;
	n += 5; /* length, padding */
	p[n++] = 20;
	memset(p + n, 'r', 16);
	n += 16;
	for (int i = 0; i < 10; i++) {
		size_t len = strlen(lists[i]);
		p[n] = p[n + 1] = 0, p[n + 2] = (uint8_t)(len >> 8), p[n + 3] = (uint8_t)len;
		memcpy(p + n + 4, lists[i], len);
		n += 4 + len;
	}
	memset(p + n, 0, 5 + 7);
	n += 5 + 7;
	size_t len = n - at - 4;
	p[at] = p[at + 1] = 0, p[at + 2] = (uint8_t)(len >> 8), p[at + 3] = (uint8_t)len, p[at + 4] = 7;
	return n;
}

Test(ssh_hello, names_the_list_that_lacks) {
	const char *lists[10] = {"x,curve25519-sha256", "ssh-ed25519", "aes128-ctr,aes256-ctr", "aes256-ctr", "hmac-sha2-256", "hmac-sha2-512,hmac-sha2-256", "none", "none", "", ""};
	static const char *const what[6] = {"key exchange", "host key algorithm", "cipher", "cipher", "MAC", "MAC"};
	uint8_t p[2000];
	char why[300], want[300];
	size_t n = greeting(p, "SSH-2.0-OpenSSH_9.2p1\r\n", lists);
	cr_expect_not(ms_ssh_hello_lacks(p, n, ours, why, sizeof why));
	for (int i = 0; i < 6; i++) {
		const char *was = lists[i];
		/* A part of a name is not the name; what could harm a terminal is not passed on. */
		lists[i] = "aes256,ssh-ed2551,hmac-sha2-2566,\x1b[31m";
		n = greeting(p, "a first line\r\nSSH-2.0-x\r\n", lists);
		cr_expect(ms_ssh_hello_lacks(p, n, ours, why, sizeof why));
		snprintf(want, sizeof want, "no %s in common: the server takes aes256,ssh-ed2551,hmac-sha2-2566,?[31m, we have %s", what[i], ours[i]);
		cr_expect_str_eq(why, want);
		/* Cut anywhere it is no greeting, and nothing is said. */
		for (size_t cut = 0; cut < n - 20; cut++)
			cr_expect_not(ms_ssh_hello_lacks(p, cut, ours, why, sizeof why) && cut + 12 < n - 20, "cut at %zu", cut);
		lists[i] = was;
	}
	cr_expect_not(ms_ssh_hello_lacks((const uint8_t *)"HTTP/1.0 400 Bad Request\r\n", 26, ours, why, sizeof why));
	cr_expect_not(ms_ssh_hello_lacks(NULL, 0, ours, why, sizeof why));
}

Test(ssh_hello, listed) {
	static const char list[] = "a,bc,,d";
	cr_expect(ms_ssh_listed(list, sizeof list - 1, "a", 1) && ms_ssh_listed(list, sizeof list - 1, "bc", 2) && ms_ssh_listed(list, sizeof list - 1, "d", 1));
	cr_expect_not(ms_ssh_listed(list, sizeof list - 1, "b", 1) || ms_ssh_listed(list, sizeof list - 1, "", 0) || ms_ssh_listed(list, 3, "bc", 2) || ms_ssh_listed("", 0, "a", 1));
}
