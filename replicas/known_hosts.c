/*
 * A line is `[@marker] hosts type base64 [comment]`. hosts: patterns with * and ?, '!' negates, comma-separated; or one hashed name
 * `|1|base64(salt)|base64(HMAC-SHA1(salt, name))`. The name of a host on port 22 is the host alone, else [host]:port; in lower case.
 */
#include "replicas/known_hosts.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

#define NAME_MAX_BYTES 300 /* a host name is at most 253 bytes; brackets, port */

struct span {
	const char *p;
	size_t n;
};

void ms_known_hosts_release(struct ms_known_hosts *kh) {
	for (unsigned i = 0; i < kh->n; i++)
		free(kh->keys[i].blob);
	*kh = (struct ms_known_hosts){0};
}

static struct span word(const char **p, const char *end) {
	while (*p < end && (**p == ' ' || **p == '\t'))
		(*p)++;
	struct span w = {*p, 0};
	while (*p < end && **p != ' ' && **p != '\t')
		(*p)++, w.n++;
	return w;
}

static bool is_word(struct span w, const char *s) { return w.n == strlen(s) && memcmp(w.p, s, w.n) == 0; }

/* Padded base64 into ret[cap]; false when it is none, or too long. */
static bool decode64(struct span s, uint8_t *ret, size_t cap, size_t *ret_n) {
	uint8_t raw[MS_HOST_KEY_MAX + 4];
	if (s.n == 0 || s.n % 4 || s.n / 4 * 3 > MS_HOST_KEY_MAX)
		return false;
	int n = EVP_DecodeBlock(raw, (const unsigned char *)s.p, (int)s.n);
	if (n < 0)
		return false;
	for (size_t i = s.n; n > 0 && i > s.n - 2 && s.p[i - 1] == '='; i--)
		n--;
	if ((size_t)n > cap)
		return false;
	memcpy(ret, raw, (size_t)n);
	*ret_n = (size_t)n;
	return true;
}

/* The type that a key's blob begins with; empty when that is no word. */
static struct span blob_type(const uint8_t *blob, size_t len) {
	if (len < 4)
		return (struct span){0};
	size_t n = ms_get_be32(blob);
	if (n == 0 || n > len - 4 || n >= sizeof ((struct ms_host_key *)0)->type)
		return (struct span){0};
	for (size_t i = 0; i < n; i++)
		if (blob[4 + i] <= ' ' || blob[4 + i] >= 0x7f)
			return (struct span){0};
	return (struct span){(const char *)blob + 4, n};
}

void ms_host_key_fingerprint(const uint8_t *blob, size_t len, char ret[MS_FINGERPRINT_MAX]) {
	uint8_t hash[32], text[48];
	if (EVP_Digest(blob, len, hash, NULL, EVP_sha256(), NULL) != 1)
		memset(hash, 0, sizeof hash);
	EVP_EncodeBlock(text, hash, sizeof hash);
	text[43] = '\0'; /* without the padding, as OpenSSH prints it */
	snprintf(ret, MS_FINGERPRINT_MAX, "SHA256:%s", (const char *)text);
}

static void host_name(const char *host, unsigned port, char ret[NAME_MAX_BYTES]) {
	if (port == 22)
		snprintf(ret, NAME_MAX_BYTES, "%s", host);
	else
		snprintf(ret, NAME_MAX_BYTES, "[%s]:%u", host, port);
	for (char *p = ret; *p; p++)
		*p = (char)tolower((unsigned char)*p);
}

/* '*' and '?'; linear in both by going back to the last star only. */
static bool glob(struct span pat, const char *name) {
	size_t p = 0, star = SIZE_MAX;
	const char *s = name, *again = NULL;
	while (*s) {
		char c = p < pat.n ? (char)tolower((unsigned char)pat.p[p]) : '\0';
		if (p < pat.n && c == '*') {
			star = p++;
			again = s;
		} else if (p < pat.n && (c == '?' || c == *s)) {
			p++, s++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			s = ++again;
		} else {
			return false;
		}
	}
	while (p < pat.n && pat.p[p] == '*')
		p++;
	return p == pat.n;
}

static bool hashed(struct span h, const char *name) {
	uint8_t salt[64], want[64], got[EVP_MAX_MD_SIZE];
	size_t nsalt, nwant;
	unsigned ngot;
	const char *bar = memchr(h.p + 3, '|', h.n - 3);
	if (!bar || !decode64((struct span){h.p + 3, (size_t)(bar - h.p) - 3}, salt, sizeof salt, &nsalt) ||
	    !decode64((struct span){bar + 1, (size_t)(h.p + h.n - bar) - 1}, want, sizeof want, &nwant))
		return false;
	return HMAC(EVP_sha1(), salt, (int)nsalt, (const unsigned char *)name, strlen(name), got, &ngot) && ngot == nwant && memcmp(got, want, ngot) == 0;
}

static bool hosts_match(struct span hosts, const char *name) {
	bool match = false;
	if (hosts.n > 3 && memcmp(hosts.p, "|1|", 3) == 0)
		return hashed(hosts, name);
	for (const char *p = hosts.p, *end = hosts.p + hosts.n; p < end;) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		struct span pat = {p, (size_t)((comma ? comma : end) - p)};
		p += pat.n + 1;
		if (pat.n && pat.p[0] == '!') {
			pat.p++, pat.n--;
			if (glob(pat, name))
				return false;
		} else {
			match |= pat.n && glob(pat, name);
		}
	}
	return match;
}

static enum ms_code add(struct ms_known_hosts *kh, const uint8_t *blob, size_t len, bool revoked, unsigned line, struct ms_err *err) {
	struct span type = blob_type(blob, len);
	if (kh->n == MS_HOST_KEYS_MAX)
		return ms_err_set(err, MS_ETOOBIG, "known_hosts has more than %d keys for this host", MS_HOST_KEYS_MAX);
	struct ms_host_key *k = &kh->keys[kh->n];
	*k = (struct ms_host_key){.len = len, .line = line, .revoked = revoked, .blob = malloc(len)};
	if (!k->blob)
		return ms_err_set(err, MS_ENOMEM, "host keys");
	memcpy(k->blob, blob, len);
	memcpy(k->type, type.p, type.n);
	ms_host_key_fingerprint(blob, len, k->fingerprint);
	kh->n++;
	return MS_OK;
}

/* bare: the host's name without its port, for a host on another port; takes keys only, what is revoked was taken before. */
static enum ms_code scan(struct ms_known_hosts *kh, const char *text, size_t len, const char *name, const char *bare, bool take_bare, struct ms_err *err) {
	const char *end = text + len;
	unsigned number = 0;
	for (const char *p = text, *eol; p < end; p = eol + 1) {
		eol = memchr(p, '\n', (size_t)(end - p));
		if (!eol)
			eol = end;
		const char *stop = eol > p && eol[-1] == '\r' ? eol - 1 : eol;
		uint8_t blob[MS_HOST_KEY_MAX];
		size_t n;
		bool revoked = false, authority = false;
		number++;
		struct span hosts = word(&p, stop);
		if (hosts.n == 0 || hosts.p[0] == '#')
			continue;
		if (hosts.p[0] == '@') {
			revoked = is_word(hosts, "@revoked");
			authority = is_word(hosts, "@cert-authority");
			if (!revoked && !authority)
				continue;
			hosts = word(&p, stop);
		}
		struct span type = word(&p, stop), key = word(&p, stop);
		if (take_bare ? revoked || authority || !hosts_match(hosts, bare) : !hosts_match(hosts, name) && !(revoked && bare && hosts_match(hosts, bare)))
			continue;
		if (!decode64(key, blob, sizeof blob, &n))
			continue;
		struct span in_blob = blob_type(blob, n);
		if (in_blob.n == 0 || in_blob.n != type.n || memcmp(in_blob.p, type.p, type.n) != 0)
			continue;
		if (authority) {
			kh->authorities++;
			continue;
		}
		enum ms_code rc = add(kh, blob, n, revoked, number, err);
		if (rc)
			return rc;
	}
	return MS_OK;
}

enum ms_code ms_known_hosts_scan(struct ms_known_hosts *kh, const char *text, size_t len, const char *host, unsigned port, struct ms_err *err) {
	char name[NAME_MAX_BYTES], bare[NAME_MAX_BYTES];
	if (strlen(host) > 255)
		return ms_err_set(err, MS_EUSAGE, "the host name is longer than 255 bytes");
	host_name(host, port, name);
	host_name(host, 22, bare);
	enum ms_code rc = scan(kh, text, len, name, port == 22 ? NULL : bare, false, err);
	for (unsigned i = 0; i < kh->n; i++)
		if (!kh->keys[i].revoked)
			return rc;
	return rc || port == 22 ? rc : scan(kh, text, len, name, bare, true, err);
}

enum ms_code ms_known_hosts_pin(struct ms_known_hosts *kh, const char *value, struct ms_err *err) {
	uint8_t blob[MS_HOST_KEY_MAX];
	size_t n = 0;
	const char *p = value, *end = value + strlen(value);
	struct span first = word(&p, end), second = word(&p, end);
	if (first.n == 50 && memcmp(first.p, "SHA256:", 7) == 0 && second.n == 0 && kh->n < MS_HOST_KEYS_MAX) {
		struct ms_host_key *k = &kh->keys[kh->n++];
		*k = (struct ms_host_key){0};
		memcpy(k->fingerprint, first.p, first.n);
		return MS_OK;
	}
	struct span in_blob = {0};
	if (decode64(second.n ? second : first, blob, sizeof blob, &n))
		in_blob = blob_type(blob, n);
	if (in_blob.n == 0 || (second.n && (in_blob.n != first.n || memcmp(in_blob.p, first.p, first.n) != 0)))
		return ms_err_set(err, MS_EUSAGE, "hostKey is no public key: write it as known_hosts has it (ssh-ed25519 AAAA...), or its fingerprint (SHA256:...)");
	return add(kh, blob, n, false, 0, err);
}

enum ms_host_verdict ms_known_hosts_judge(const struct ms_known_hosts *kh, const uint8_t *blob, size_t len, unsigned *ret_line) {
	enum ms_host_verdict v = MS_HOST_UNKNOWN;
	char print[MS_FINGERPRINT_MAX];
	ms_host_key_fingerprint(blob, len, print);
	*ret_line = 0;
	for (unsigned i = 0; i < kh->n; i++) {
		const struct ms_host_key *k = &kh->keys[i];
		bool same = k->blob ? k->len == len && memcmp(k->blob, blob, len) == 0 : strcmp(k->fingerprint, print) == 0;
		if (same && k->revoked) {
			*ret_line = k->line;
			return MS_HOST_REVOKED;
		}
		if (k->revoked)
			continue;
		if (same) {
			v = MS_HOST_KNOWN;
			*ret_line = k->line;
		} else if (v == MS_HOST_UNKNOWN) {
			v = MS_HOST_CHANGED;
			*ret_line = k->line;
		}
	}
	return v;
}

void ms_known_hosts_algorithms(const struct ms_known_hosts *kh, char ret[512]) {
	/* Order of preference; a key of type ssh-rsa signs with SHA-2, never with SHA-1. */
	static const char *const all[][2] = {
		{"ssh-ed25519", "ssh-ed25519"},
		{"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"},
		{"ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"},
		{"ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"},
		{"ssh-rsa", "rsa-sha2-512,rsa-sha2-256"},
	};
	size_t o = 0;
	for (int held = 1; held >= 0; held--)
		for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
			bool have = false;
			for (unsigned k = 0; k < kh->n; k++)
				have |= !kh->keys[k].revoked && strcmp(kh->keys[k].type, all[i][0]) == 0;
			if (have == (held == 1))
				o += (size_t)snprintf(ret + o, 512 - o, "%s%s", o ? "," : "", all[i][1]);
		}
}

enum ms_code ms_host_key_line(const char *host, unsigned port, const uint8_t *blob, size_t len, char *ret, size_t cap, struct ms_err *err) {
	char name[NAME_MAX_BYTES];
	uint8_t text[(MS_HOST_KEY_MAX + 2) / 3 * 4 + 1];
	struct span type = blob_type(blob, len);
	if (len > MS_HOST_KEY_MAX || type.n == 0 || strlen(host) > 255)
		return ms_err_set(err, MS_ETOOBIG, "host key of %zu bytes", len);
	host_name(host, port, name);
	EVP_EncodeBlock(text, blob, (int)len);
	int n = snprintf(ret, cap, "%s %.*s %s", name, (int)type.n, type.p, (const char *)text);
	return n > 0 && (size_t)n < cap ? MS_OK : ms_err_set(err, MS_ETOOBIG, "host key line");
}
