/*
 * Lines of text up to the one that begins with "SSH-", then one packet: u32 length, u8 padding, u8 20 (KEXINIT), 16 random bytes, name lists as strings.
 */
#include "replicas/ssh_hello.h"

#include <stdio.h>
#include <string.h>

#include "replicas/ssh_bytes.h"

#define KEXINIT 20

bool ms_ssh_listed(const char *list, size_t list_len, const char *name, size_t n) {
	for (const char *p = list, *end = list + list_len; n && p < end;) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		size_t len = (size_t)((comma ? comma : end) - p);
		if (len == n && memcmp(p, name, n) == 0)
			return true;
		p += len + 1;
	}
	return false;
}

static bool common(const char *a, size_t na, const char *b) {
	for (const char *p = b; *p;) {
		size_t n = strcspn(p, ",");
		if (ms_ssh_listed(a, na, p, n))
			return true;
		p += n + (p[n] == ',');
	}
	return false;
}

bool ms_ssh_hello_lacks(const uint8_t *p, size_t n, const char *const ours[MS_SSH_LISTS], char *ret, size_t cap) {
	static const char *const what[MS_SSH_LISTS] = {"key exchange", "host key algorithm", "cipher", "cipher", "MAC", "MAC"};
	for (bool name = false; !name;) {
		const uint8_t *eol = n ? memchr(p, '\n', n) : NULL;
		if (!eol)
			return false;
		name = n > 4 && memcmp(p, "SSH-", 4) == 0;
		n -= (size_t)(eol + 1 - p);
		p = eol + 1;
	}
	struct ms_ssh_reader r = {p, n, false};
	uint32_t len = ms_ssh_u32(&r);
	if (r.bad || len > r.n || len < 18 || r.p[1] != KEXINIT)
		return false;
	r = (struct ms_ssh_reader){r.p + 18, len - 18, false};
	for (int i = 0; i < MS_SSH_LISTS; i++) {
		size_t ntheirs;
		const char *theirs = (const char *)ms_ssh_string(&r, &ntheirs);
		if (!theirs)
			return false;
		if (common(theirs, ntheirs, ours[i]))
			continue;
		char text[161];
		size_t m = ntheirs < sizeof text ? ntheirs : sizeof text - 1;
		for (size_t k = 0; k < m; k++)
			text[k] = (uint8_t)theirs[k] <= ' ' || (uint8_t)theirs[k] >= 0x7f ? '?' : theirs[k];
		text[m] = '\0';
		snprintf(ret, cap, "no %s in common: the server takes %s%s, we have %s", what[i], text, m < ntheirs ? "..." : "", ours[i]);
		return true;
	}
	return false;
}
