/* Text form: github.com/nats-io/nkeys, "Strkey". seed = 'S' and the key's type over 13 bits, 32 bytes, CRC-16/XMODEM. */
#include "replicas/nats_nkey.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

#define PREFIX_SEED (18u << 3) /* 'S' */
#define PREFIX_USER (20u << 3) /* 'U' */
#define SEED_CHARS 58u
#define SEED_BYTES 36u /* 2 prefix, 32 key, 2 CRC */

static uint16_t crc16(const uint8_t *p, size_t n) {
	uint16_t crc = 0;
	for (size_t i = 0; i < n; i++) {
		crc ^= (uint16_t)(p[i] << 8);
		for (int b = 0; b < 8; b++)
			crc = (uint16_t)(crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1);
	}
	return crc;
}

static int base32_digit(char c) { return c >= 'A' && c <= 'Z' ? c - 'A' : c >= '2' && c <= '7' ? c - '2' + 26 : -1; }

static bool seed_decode(const char *s, uint8_t ret[SEED_BYTES]) {
	uint32_t bits = 0;
	unsigned have = 0, o = 0;
	for (unsigned i = 0; i < SEED_CHARS; i++) {
		int d = base32_digit(s[i]);
		if (d < 0)
			return false;
		bits = (bits << 5 | (uint32_t)d) & 0xffff;
		if ((have += 5) >= 8)
			have -= 8, ret[o++] = (uint8_t)(bits >> have);
	}
	return o == SEED_BYTES;
}

enum ms_code ms_nats_nkey_public(const char *seed, char ret[MS_NATS_NKEY_MAX], struct ms_err *err) {
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
	uint8_t raw[SEED_BYTES], out[35] = {PREFIX_USER};
	size_t n = 32;
	seed += strspn(seed, " \t\r\n");
	size_t len = strcspn(seed, " \t\r\n");
	if (len != SEED_CHARS || !seed_decode(seed, raw) || (raw[0] & 0xf8) != PREFIX_SEED ||
	    crc16(raw, 34) != (uint16_t)(raw[34] | raw[35] << 8)) {
		OPENSSL_cleanse(raw, sizeof raw);
		return ms_err_set(err, MS_EUSAGE, "nkey: not a seed (58 characters that begin with SU; a file with nothing else in it)");
	}
	unsigned type = (raw[0] & 7u) << 5 | raw[1] >> 3;
	EVP_PKEY *key = type == PREFIX_USER ? EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, raw + 2, 32) : NULL;
	OPENSSL_cleanse(raw, sizeof raw);
	bool ok = key && EVP_PKEY_get_raw_public_key(key, out + 1, &n) == 1;
	EVP_PKEY_free(key);
	if (type != PREFIX_USER)
		return ms_err_set(err, MS_EUSAGE, "nkey: the seed is not a user's (those begin with SU)");
	if (!ok)
		return ms_err_set(err, MS_ENOMEM, "nkey: Ed25519 is not available");
	uint16_t crc = crc16(out, 33);
	out[33] = (uint8_t)crc;
	out[34] = (uint8_t)(crc >> 8);
	char *p = ret;
	uint32_t bits = 0;
	unsigned have = 0;
	for (unsigned i = 0; i < sizeof out; i++) {
		bits = (bits << 8 | out[i]) & 0xffff;
		for (have += 8; have >= 5; have -= 5)
			*p++ = set[bits >> (have - 5) & 31];
	}
	*p = '\0';
	return MS_OK;
}
