/*
 * bcrypt_pbkdf, which OpenSSH seals private keys with: PBKDF2's shape around bcrypt over SHA-512, its output spread over the key (OpenBSD,
 * lib/libutil/bcrypt_pbkdf.c; OpenSSH, PROTOCOL.key). OpenSSL has neither it nor Blowfish without its key schedule. Pure; any thread; a
 * round takes some milliseconds.
 */
#ifndef MS_REPLICAS_BCRYPT_PBKDF_H
#define MS_REPLICAS_BCRYPT_PBKDF_H

#include <stdint.h>
#include "base/err.h"

#define MS_BCRYPT_KEY_MAX 128	/* bytes that can be asked for */
#define MS_BCRYPT_SALT_MAX 64
#define MS_BCRYPT_ROUNDS_MAX 1024 /* ssh-keygen -a, whose default is 16 or 24; that many take some seconds */

/* MS_EINVAL beyond the bounds, and for an empty passphrase or salt; MS_ENOMEM. */
enum ms_code ms_bcrypt_pbkdf(const void *pass, size_t npass, const uint8_t *salt, size_t nsalt, unsigned rounds, uint8_t *ret_key, size_t nkey) MS_WARN_UNUSED;

#endif
