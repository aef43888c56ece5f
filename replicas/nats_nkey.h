/*
 * NKeys: Ed25519 keys in the text form of NATS (base32 without padding of: prefix bits, key, CRC-16 little-endian). Only what a login
 * needs: the public key that belongs to a seed. Pure.
 */
#ifndef MS_REPLICAS_NATS_NKEY_H
#define MS_REPLICAS_NATS_NKEY_H

#include "base/err.h"

#define MS_NATS_SEED_MAX 128 /* bytes of text with its NUL; a seed has 58 characters */
#define MS_NATS_NKEY_MAX 64  /* a public key has 56 */

/* MS_EUSAGE when seed (surrounding white space is allowed) is no seed of a user key. The message never holds the seed. */
enum ms_code ms_nats_nkey_public(const char *seed, char ret[MS_NATS_NKEY_MAX], struct ms_err *err) MS_WARN_UNUSED;

#endif
