/*
 * A private key for logging in over SSH: ed25519, ECDSA (nistp256, 384, 521) or RSA, from OpenSSH's own format (PROTOCOL.key; sealed with bcrypt
 * and AES in CTR or CBC mode, which is ssh-keygen's default) or from PEM (whatever OpenSSL reads). Its public half as SSH writes it, and signatures
 * as RFC 4253, 5656, 8332 and 8709 lay them out. The library's own reading is not used: libssh2 1.10 signs with RSA keys by SHA-1 only.
 * Pure; embedded; one owner. Nothing of the key is in an error.
 */
#ifndef MS_REPLICAS_SSH_KEY_H
#define MS_REPLICAS_SSH_KEY_H

#include <openssl/evp.h>
#include <stdint.h>
#include "base/err.h"

#define MS_SSH_BLOB_MAX 4096 /* a public key: RSA of 16384 bits has 2071 bytes */
#define MS_SSH_SIG_MAX 4096

struct ms_ssh_key {
	EVP_PKEY *pkey;
	const char *type; /* "ssh-ed25519", "ecdsa-sha2-nistp256", ..., "ssh-rsa"; static */
	uint8_t blob[MS_SSH_BLOB_MAX];
	size_t blob_len;
};
enum ms_ssh_key_verdict {
	MS_SSH_KEY_READ,
	MS_SSH_KEY_NONE,	/* nothing there that can be used */
	MS_SSH_KEY_SEALED,	/* needs a passphrase, and none was given */
	MS_SSH_KEY_WRONG,	/* the passphrase does not open it */
	MS_SSH_KEY_CIPHER,	/* sealed by a cipher or key derivation that is not known here, or by too many rounds */
};

/* text: of the key file, zero-terminated; passphrase may be NULL. *k needs ms_ssh_key_release() only when MS_SSH_KEY_READ is returned. */
enum ms_ssh_key_verdict ms_ssh_key_read(struct ms_ssh_key *k, const char *text, const char *passphrase);
void ms_ssh_key_release(struct ms_ssh_key *k);
/* The signature without its name: 64 bytes, two mpints, or RSA's number. algorithm: the key's type; for RSA "rsa-sha2-512" or "rsa-sha2-256", never
 * "ssh-rsa", which is SHA-1. */
enum ms_code ms_ssh_key_sign(const struct ms_ssh_key *k, const char *algorithm, const uint8_t *data, size_t n, uint8_t ret[MS_SSH_SIG_MAX], size_t *ret_n) MS_WARN_UNUSED;

#endif
