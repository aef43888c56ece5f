/*
 * Blowfish's first tables are the fraction of pi: 18 words of P, then 4 x 256 of S. They are computed once, by Machin's formula, instead of
 * standing here. The hash: an expensive key schedule from (password, salt), 64 more of each, then one constant text encrypted 64 times.
 */
#include "replicas/bcrypt_pbkdf.h"

#include <openssl/bn.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "base/buf.h"

#define P_WORDS 18
#define WORDS (P_WORDS + 1024)
#define GUARD_BITS 64 /* for what the divisions cut off: some ten thousand times less than 1 */
#define HASH 32

struct blowfish {
	uint32_t w[WORDS]; /* P, S0, S1, S2, S3 */
};

static struct blowfish first;
static bool ready;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* sum += sign * factor * atan(1/x) * 2^bits, by its series. */
static bool add_atan(BIGNUM *sum, BN_ULONG factor, BN_ULONG x, int bits, bool minus, BIGNUM *power, BIGNUM *term) {
	if (!BN_set_word(power, factor) || !BN_lshift(power, power, bits) || BN_div_word(power, x) == (BN_ULONG)-1)
		return false;
	for (BN_ULONG k = 1; !BN_is_zero(power); k += 2, minus = !minus)
		if (!BN_copy(term, power) || BN_div_word(term, k) == (BN_ULONG)-1 || !(minus ? BN_sub(sum, sum, term) : BN_add(sum, sum, term)) ||
		    BN_div_word(power, x * x) == (BN_ULONG)-1)
			return false;
	return true;
}

static void compute(void) {
	static uint8_t bytes[WORDS * 4 + 1]; /* "3", then the fraction */
	BIGNUM *pi = BN_new(), *a = BN_new(), *b = BN_new();
	int bits = WORDS * 32 + GUARD_BITS;
	if (pi && a && b && add_atan(pi, 16, 5, bits, false, a, b) && add_atan(pi, 4, 239, bits, true, a, b) && BN_rshift(pi, pi, GUARD_BITS) &&
	    BN_bn2binpad(pi, bytes, sizeof bytes) == sizeof bytes && bytes[0] == 3) {
		for (size_t i = 0; i < WORDS; i++)
			first.w[i] = ms_get_be32(bytes + 1 + 4 * i);
		ready = true;
	}
	BN_free(pi);
	BN_free(a);
	BN_free(b);
}

static void encipher(const struct blowfish *f, uint32_t *l, uint32_t *r) {
	const uint32_t *s = f->w + P_WORDS;
	uint32_t x = *l ^ f->w[0], y = *r;
	for (int i = 1; i <= 16; i += 2) {
		y ^= (((s[x >> 24] + s[256 + (x >> 16 & 255)]) ^ s[512 + (x >> 8 & 255)]) + s[768 + (x & 255)]) ^ f->w[i];
		x ^= (((s[y >> 24] + s[256 + (y >> 16 & 255)]) ^ s[512 + (y >> 8 & 255)]) + s[768 + (y & 255)]) ^ f->w[i + 1];
	}
	*l = y ^ f->w[17];
	*r = x;
}

/* The next word of 64 bytes that are read round and round. */
static uint32_t next(const uint8_t b[64], unsigned *at) {
	uint32_t v = ms_get_be32(b + *at);
	*at = (*at + 4) % 64;
	return v;
}

/* data NULL: zeroes. */
static void expand(struct blowfish *f, const uint8_t *data, const uint8_t key[64]) {
	uint32_t l = 0, r = 0;
	unsigned at = 0;
	for (int i = 0; i < P_WORDS; i++)
		f->w[i] ^= next(key, &at);
	at = 0;
	for (int i = 0; i < WORDS; i += 2) {
		if (data) {
			l ^= next(data, &at);
			r ^= next(data, &at);
		}
		encipher(f, &l, &r);
		f->w[i] = l;
		f->w[i + 1] = r;
	}
}

static void hash(struct blowfish *f, const uint8_t pass[64], const uint8_t salt[64], uint8_t ret[HASH]) {
	static const char text[HASH + 1] = "OxychromaticBlowfishSwatDynamite";
	*f = first;
	expand(f, salt, pass);
	for (int i = 0; i < 64; i++) {
		expand(f, NULL, salt);
		expand(f, NULL, pass);
	}
	for (int i = 0; i < HASH; i += 8) {
		uint32_t l = ms_get_be32((const uint8_t *)text + i), r = ms_get_be32((const uint8_t *)text + i + 4);
		for (int k = 0; k < 64; k++)
			encipher(f, &l, &r);
		ms_put_le32(ret + i, l);
		ms_put_le32(ret + i + 4, r);
	}
}

enum ms_code ms_bcrypt_pbkdf(const void *pass, size_t npass, const uint8_t *salt, size_t nsalt, unsigned rounds, uint8_t *key, size_t nkey) {
	struct blowfish f;
	uint8_t hpass[64], hsalt[64], block[HASH], sum[HASH], counted[MS_BCRYPT_SALT_MAX + 4];
	enum ms_code rc = MS_ENOMEM;
	if (!npass || !nsalt || !nkey || !rounds || nsalt > MS_BCRYPT_SALT_MAX || nkey > MS_BCRYPT_KEY_MAX || rounds > MS_BCRYPT_ROUNDS_MAX)
		return MS_EINVAL;
	pthread_once(&once, compute);
	if (!ready || !EVP_Digest(pass, npass, hpass, NULL, EVP_sha512(), NULL))
		return MS_ENOMEM;
	memcpy(counted, salt, nsalt);
	/* Byte i of block b is byte i * blocks + b of the key. */
	size_t blocks = (nkey + HASH - 1) / HASH;
	for (size_t b = 0; b < blocks; b++) {
		ms_put_be32(counted + nsalt, (uint32_t)b + 1);
		if (!EVP_Digest(counted, nsalt + 4, hsalt, NULL, EVP_sha512(), NULL))
			goto out;
		hash(&f, hpass, hsalt, block);
		memcpy(sum, block, HASH);
		for (unsigned i = 1; i < rounds; i++) {
			if (!EVP_Digest(block, HASH, hsalt, NULL, EVP_sha512(), NULL))
				goto out;
			hash(&f, hpass, hsalt, block);
			for (int k = 0; k < HASH; k++)
				sum[k] ^= block[k];
		}
		for (size_t i = 0; i < HASH && i * blocks + b < nkey; i++)
			key[i * blocks + b] = sum[i];
	}
	rc = MS_OK;
out:
	explicit_bzero(&f, sizeof f);
	explicit_bzero(hpass, sizeof hpass);
	explicit_bzero(block, sizeof block);
	explicit_bzero(sum, sizeof sum);
	return rc;
}
