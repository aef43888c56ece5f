/*
 * The host keys that are trusted for one SSH server: from a known_hosts text (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"), or one pinned by an option.
 * Plain and hashed host names, wildcards, negation, [host]:port, several keys, @revoked. @cert-authority lines are counted and not used: host
 * certificates are not supported. Pure; embedded; one owner.
 */
#ifndef MS_REPLICAS_KNOWN_HOSTS_H
#define MS_REPLICAS_KNOWN_HOSTS_H

#include <stdint.h>
#include "base/err.h"

#define MS_HOST_KEYS_MAX 64	   /* for one host, with those that are revoked for all */
#define MS_HOST_KEY_MAX 4096	   /* bytes of one key's blob */
#define MS_FINGERPRINT_MAX 64	   /* "SHA256:" and 43 characters of base64, terminated */

struct ms_host_key {
	char type[64];	  /* "ssh-ed25519", "ssh-rsa", ...; empty for a pinned fingerprint */
	uint8_t *blob;	  /* owned; NULL for a pinned fingerprint */
	size_t len;
	char fingerprint[MS_FINGERPRINT_MAX];
	unsigned line; /* 0: pinned */
	bool revoked;
};
struct ms_known_hosts {
	struct ms_host_key keys[MS_HOST_KEYS_MAX];
	unsigned n;
	unsigned authorities; /* @cert-authority lines for this host, not used */
};
enum ms_host_verdict {
	MS_HOST_KNOWN,
	MS_HOST_UNKNOWN, /* no key of this host is there */
	MS_HOST_CHANGED, /* others are */
	MS_HOST_REVOKED,
};

void ms_known_hosts_release(struct ms_known_hosts *kh);
/* Adds the keys that the text has for host:port. Lines that make no sense are skipped, as OpenSSH does. A host on another port than 22 is looked up
 * as [host]:port, and by its bare name when that has no key (as OpenSSH does). */
enum ms_code ms_known_hosts_scan(struct ms_known_hosts *kh, const char *text, size_t len, const char *host, unsigned port, struct ms_err *err) MS_WARN_UNUSED;
/* Adds the key of an option: "ssh-ed25519 AAAA...", "AAAA..." or "SHA256:...". */
enum ms_code ms_known_hosts_pin(struct ms_known_hosts *kh, const char *value, struct ms_err *err) MS_WARN_UNUSED;
/* The server's key against them; *ret_line: of the entry that decided, 0 none. */
enum ms_host_verdict ms_known_hosts_judge(const struct ms_known_hosts *kh, const uint8_t *blob, size_t len, unsigned *ret_line);
/* Signature algorithms to offer, comma-separated: those of the keys that are held first, so that the server shows one of these. */
void ms_known_hosts_algorithms(const struct ms_known_hosts *kh, char ret[512]);
void ms_host_key_fingerprint(const uint8_t *blob, size_t len, char ret[MS_FINGERPRINT_MAX]);
/* The line that known_hosts would have for the key; MS_ETOOBIG when it does not fit. */
enum ms_code ms_host_key_line(const char *host, unsigned port, const uint8_t *blob, size_t len, char *ret, size_t cap, struct ms_err *err) MS_WARN_UNUSED;

#endif
