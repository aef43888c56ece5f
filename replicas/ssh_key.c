/*
 * OpenSSH's format, in base64 between its marks:
 *   "openssh-key-v1\0", string cipher, string kdf, string kdf options, u32 number of keys (1), string public key, string sealed
 * kdf "bcrypt": its options are string salt, u32 rounds; it gives the cipher's key and IV. sealed, once opened:
 *   u32 check, u32 check (the same: else the passphrase was wrong), string type, the key's fields, string comment, 1 2 3 ... up to the block
 */
#include "replicas/ssh_key.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/bcrypt_pbkdf.h"
#include "replicas/ssh_bytes.h"

#define MAGIC "openssh-key-v1" /* with its zero byte */
#define TEXT_MAX (256u << 10)

static const struct curve {
	const char *type, *name, *group;
	int bits;
} curves[] = {
	{"ecdsa-sha2-nistp256", "nistp256", "prime256v1", 256},
	{"ecdsa-sha2-nistp384", "nistp384", "secp384r1", 384},
	{"ecdsa-sha2-nistp521", "nistp521", "secp521r1", 521},
};
#define CURVES (sizeof curves / sizeof curves[0])

void ms_ssh_key_release(struct ms_ssh_key *k) {
	EVP_PKEY_free(k->pkey);
	k->pkey = NULL;
}

/* ---- the public half ---- */

/* An mpint at p: the shortest bytes with a clear top bit. NULL: does not fit in front of end. */
static uint8_t *put_mpint(uint8_t *p, const uint8_t *end, const BIGNUM *v) {
	if (!p || !v)
		return NULL;
	size_t n = (size_t)BN_num_bytes(v), lead = BN_num_bits(v) % 8 == 0 && n;
	if (n + lead + 4 > (size_t)(end - p))
		return NULL;
	ms_put_be32(p, (uint32_t)(n + lead));
	p[4] = 0;
	BN_bn2bin(v, p + 4 + lead);
	return p + 4 + lead + n;
}

static uint8_t *put_text(uint8_t *p, const char *text) { return ms_ssh_put(p, text, strlen(text)); }

/* Fills type and blob from pkey; false: not a kind that SSH has. */
static bool describe(struct ms_ssh_key *k) {
	uint8_t *p = k->blob, *end = k->blob + sizeof k->blob;
	if (EVP_PKEY_is_a(k->pkey, "ED25519")) {
		size_t n = 32;
		k->type = "ssh-ed25519";
		p = put_text(p, k->type);
		ms_put_be32(p, 32);
		if (!EVP_PKEY_get_raw_public_key(k->pkey, p + 4, &n) || n != 32)
			return false;
		p += 36;
	} else if (EVP_PKEY_is_a(k->pkey, "EC")) {
		char group[80];
		size_t n = 0, i;
		if (!EVP_PKEY_get_utf8_string_param(k->pkey, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof group, &n))
			return false;
		for (i = 0; i < CURVES && strcmp(curves[i].group, group) != 0; i++)
			;
		if (i == CURVES)
			return false;
		k->type = curves[i].type;
		p = put_text(put_text(p, k->type), curves[i].name);
		/* A point in full: 4, x, y; a PEM file may hold it compressed. */
		size_t field = (size_t)(curves[i].bits + 7) / 8;
		BIGNUM *x = NULL, *y = NULL;
		bool ok = EVP_PKEY_get_bn_param(k->pkey, OSSL_PKEY_PARAM_EC_PUB_X, &x) && EVP_PKEY_get_bn_param(k->pkey, OSSL_PKEY_PARAM_EC_PUB_Y, &y) &&
			  BN_bn2binpad(x, p + 5, (int)field) == (int)field && BN_bn2binpad(y, p + 5 + field, (int)field) == (int)field;
		ms_put_be32(p, (uint32_t)(1 + 2 * field));
		p[4] = 4;
		p += 5 + 2 * field;
		BN_free(x);
		BN_free(y);
		if (!ok)
			return false;
	} else if (EVP_PKEY_is_a(k->pkey, "RSA")) {
		BIGNUM *n = NULL, *e = NULL;
		k->type = "ssh-rsa";
		p = put_text(p, k->type);
		if (EVP_PKEY_get_bn_param(k->pkey, OSSL_PKEY_PARAM_RSA_N, &n) && EVP_PKEY_get_bn_param(k->pkey, OSSL_PKEY_PARAM_RSA_E, &e))
			p = put_mpint(put_mpint(p, end, e), end, n);
		else
			p = NULL;
		BN_free(n);
		BN_free(e);
		if (!p)
			return false;
	} else {
		return false;
	}
	k->blob_len = (size_t)(p - k->blob);
	return true;
}

/* ---- PEM ---- */

struct asked {
	const char *passphrase;
	bool any;
};

static int give_passphrase(char *buf, int cap, int writing, void *arg) {
	struct asked *a = arg;
	(void)writing;
	a->any = true;
	size_t n = a->passphrase ? strlen(a->passphrase) : 0;
	if (n == 0 || n > (size_t)cap)
		return -1;
	memcpy(buf, a->passphrase, n);
	return (int)n;
}

static enum ms_ssh_key_verdict read_pem(struct ms_ssh_key *k, const char *text, const char *passphrase) {
	struct asked asked = {passphrase, false};
	BIO *bio = BIO_new_mem_buf(text, -1);
	k->pkey = bio ? PEM_read_bio_PrivateKey(bio, NULL, give_passphrase, &asked) : NULL;
	BIO_free(bio);
	ERR_clear_error();
	if (k->pkey)
		return MS_SSH_KEY_READ;
	return !asked.any ? MS_SSH_KEY_NONE : passphrase && passphrase[0] ? MS_SSH_KEY_WRONG : MS_SSH_KEY_SEALED;
}

/* ---- OpenSSH's format ---- */

static BIGNUM *take_mpint(struct ms_ssh_reader *r) {
	size_t n;
	const uint8_t *p = ms_ssh_string(r, &n);
	BIGNUM *v = p && n <= MS_SSH_BLOB_MAX ? BN_bin2bn(p, (int)n, NULL) : NULL;
	if (!v)
		r->bad = true;
	return v;
}

static EVP_PKEY *build(const char *kind, OSSL_PARAM_BLD *bld) {
	EVP_PKEY *pkey = NULL;
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(bld);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, kind, NULL);
	if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 || EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_KEYPAIR, params) != 1)
		pkey = NULL;
	EVP_PKEY_CTX_free(ctx);
	OSSL_PARAM_free(params);
	return pkey;
}

static EVP_PKEY *take_rsa(struct ms_ssh_reader *r) {
	/* In the file: n, e, d, the inverse of q modulo p, p, q. OpenSSL also wants d modulo p-1 and q-1. */
	static const char *const names[8] = {OSSL_PKEY_PARAM_RSA_N,	   OSSL_PKEY_PARAM_RSA_E,	OSSL_PKEY_PARAM_RSA_D,	       OSSL_PKEY_PARAM_RSA_COEFFICIENT1,
					     OSSL_PKEY_PARAM_RSA_FACTOR1, OSSL_PKEY_PARAM_RSA_FACTOR2, OSSL_PKEY_PARAM_RSA_EXPONENT1, OSSL_PKEY_PARAM_RSA_EXPONENT2};
	BIGNUM *v[8] = {0}, *less = BN_new();
	BN_CTX *ctx = BN_CTX_new();
	OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
	EVP_PKEY *pkey = NULL;
	bool ok = ctx && bld && less;
	for (int i = 0; i < 6 && ok; i++)
		ok = (v[i] = take_mpint(r)) != NULL;
	for (int i = 0; i < 2 && ok; i++)
		ok = (v[6 + i] = BN_new()) && BN_num_bits(v[4 + i]) > 1 && BN_sub(less, v[4 + i], BN_value_one()) && BN_mod(v[6 + i], v[2], less, ctx);
	for (int i = 0; i < 8 && ok; i++)
		ok = OSSL_PARAM_BLD_push_BN(bld, names[i], v[i]);
	if (ok)
		pkey = build("RSA", bld);
	OSSL_PARAM_BLD_free(bld);
	BN_CTX_free(ctx);
	BN_clear_free(less);
	for (int i = 0; i < 8; i++)
		BN_clear_free(v[i]);
	return pkey;
}

static EVP_PKEY *take_ecdsa(struct ms_ssh_reader *r, const struct curve *c) {
	size_t n = 0;
	bool named = ms_ssh_is(r, c->name);
	const uint8_t *point = ms_ssh_string(r, &n);
	BIGNUM *d = take_mpint(r);
	OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
	EVP_PKEY *pkey = NULL;
	if (named && point && d && bld && OSSL_PARAM_BLD_push_utf8_string(bld, OSSL_PKEY_PARAM_GROUP_NAME, c->group, 0) &&
	    OSSL_PARAM_BLD_push_octet_string(bld, OSSL_PKEY_PARAM_PUB_KEY, point, n) && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_PRIV_KEY, d))
		pkey = build("EC", bld);
	OSSL_PARAM_BLD_free(bld);
	BN_clear_free(d);
	return pkey;
}

static EVP_PKEY *take_ed25519(struct ms_ssh_reader *r) {
	size_t npub, n;
	(void)ms_ssh_string(r, &npub);
	const uint8_t *p = ms_ssh_string(r, &n); /* the seed, then the public half again */
	return p && n == 64 && npub == 32 ? EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, p, 32) : NULL;
}

/* Opens the sealed part, n bytes at `p`, in place. */
static enum ms_ssh_key_verdict unseal(uint8_t *p, size_t n, const char *cipher_name, bool bcrypt, struct ms_ssh_reader options, const char *passphrase) {
	static const char *const ciphers[][2] = {{"aes256-ctr", "AES-256-CTR"}, {"aes192-ctr", "AES-192-CTR"}, {"aes128-ctr", "AES-128-CTR"},
						 {"aes256-cbc", "AES-256-CBC"}, {"aes192-cbc", "AES-192-CBC"}, {"aes128-cbc", "AES-128-CBC"}};
	const EVP_CIPHER *cipher = NULL;
	uint8_t key[48];
	size_t nsalt;
	int out = 0;
	for (size_t i = 0; i < sizeof ciphers / sizeof ciphers[0]; i++)
		if (strcmp(ciphers[i][0], cipher_name) == 0)
			cipher = EVP_get_cipherbyname(ciphers[i][1]);
	const uint8_t *salt = ms_ssh_string(&options, &nsalt);
	unsigned rounds = ms_ssh_u32(&options);
	if (!cipher || !bcrypt || options.bad || rounds > MS_BCRYPT_ROUNDS_MAX)
		return MS_SSH_KEY_CIPHER;
	if (!passphrase || !passphrase[0])
		return MS_SSH_KEY_SEALED;
	size_t nkey = (size_t)EVP_CIPHER_get_key_length(cipher);
	if (n % 16 || n > TEXT_MAX || ms_bcrypt_pbkdf(passphrase, strlen(passphrase), salt, nsalt, rounds, key, nkey + 16) != MS_OK)
		return MS_SSH_KEY_NONE;
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	bool ok = ctx && EVP_DecryptInit_ex(ctx, cipher, NULL, key, key + nkey) == 1 && EVP_CIPHER_CTX_set_padding(ctx, 0) == 1 &&
		  EVP_DecryptUpdate(ctx, p, &out, p, (int)n) == 1 && (size_t)out == n;
	EVP_CIPHER_CTX_free(ctx);
	explicit_bzero(key, sizeof key);
	return ok ? MS_SSH_KEY_READ : MS_SSH_KEY_NONE;
}

static enum ms_ssh_key_verdict parse(struct ms_ssh_key *k, uint8_t *raw, size_t len, const char *passphrase) {
	struct ms_ssh_reader r = {raw, len, false};
	char cipher[32] = "", type[32] = "";
	size_t n, nopt, npub, nsealed;
	if (len < sizeof MAGIC || memcmp(raw, MAGIC, sizeof MAGIC) != 0)
		return MS_SSH_KEY_NONE;
	r.p += sizeof MAGIC, r.n -= sizeof MAGIC;
	const uint8_t *p = ms_ssh_string(&r, &n);
	if (p && n < sizeof cipher)
		memcpy(cipher, p, n);
	bool bcrypt = ms_ssh_is(&r, "bcrypt");
	const uint8_t *options = ms_ssh_string(&r, &nopt);
	uint32_t keys = ms_ssh_u32(&r);
	(void)ms_ssh_string(&r, &npub);
	p = ms_ssh_string(&r, &nsealed);
	if (r.bad || keys != 1)
		return MS_SSH_KEY_NONE;
	bool sealed = strcmp(cipher, "none") != 0;
	if (sealed) {
		enum ms_ssh_key_verdict v = unseal(raw + (p - raw), nsealed, cipher, bcrypt, (struct ms_ssh_reader){options, nopt, false}, passphrase);
		if (v != MS_SSH_KEY_READ)
			return v;
	}
	r = (struct ms_ssh_reader){p, nsealed, false};
	uint32_t check = ms_ssh_u32(&r);
	if (check != ms_ssh_u32(&r) || r.bad)
		return sealed ? MS_SSH_KEY_WRONG : MS_SSH_KEY_NONE;
	p = ms_ssh_string(&r, &n);
	if (p && n < sizeof type)
		memcpy(type, p, n);
	if (strcmp(type, "ssh-ed25519") == 0)
		k->pkey = take_ed25519(&r);
	else if (strcmp(type, "ssh-rsa") == 0)
		k->pkey = take_rsa(&r);
	for (size_t i = 0; i < CURVES; i++)
		if (strcmp(type, curves[i].type) == 0)
			k->pkey = take_ecdsa(&r, &curves[i]);
	ERR_clear_error();
	return k->pkey ? MS_SSH_KEY_READ : MS_SSH_KEY_NONE;
}

static enum ms_ssh_key_verdict read_openssh(struct ms_ssh_key *k, const char *text, const char *end, const char *passphrase) {
	enum ms_ssh_key_verdict v = MS_SSH_KEY_NONE;
	size_t n = 0, cap = (size_t)(end - text);
	uint8_t *line = cap <= TEXT_MAX ? malloc(cap + 1) : NULL, *raw = line ? malloc(cap / 4 * 3 + 4) : NULL;
	if (raw) {
		for (; text < end; text++)
			if (*text != '\n' && *text != '\r' && *text != ' ' && *text != '\t')
				line[n++] = (uint8_t)*text;
		int len = n && n % 4 == 0 ? EVP_DecodeBlock(raw, line, (int)n) : -1;
		for (size_t i = n; len > 0 && i > n - 2 && line[i - 1] == '='; i--)
			len--;
		if (len > 0)
			v = parse(k, raw, (size_t)len, passphrase);
		explicit_bzero(line, cap + 1);
		explicit_bzero(raw, cap / 4 * 3 + 4);
	}
	free(line);
	free(raw);
	return v;
}

enum ms_ssh_key_verdict ms_ssh_key_read(struct ms_ssh_key *k, const char *text, const char *passphrase) {
	static const char head[] = "-----BEGIN OPENSSH PRIVATE KEY-----", tail[] = "-----END OPENSSH PRIVATE KEY-----";
	*k = (struct ms_ssh_key){0};
	const char *at = strstr(text, head), *end = at ? strstr(at, tail) : NULL;
	enum ms_ssh_key_verdict v = end ? read_openssh(k, at + sizeof head - 1, end, passphrase) : read_pem(k, text, passphrase);
	if (v == MS_SSH_KEY_READ && !describe(k)) {
		ms_ssh_key_release(k);
		v = MS_SSH_KEY_NONE;
	}
	return v;
}

/* ---- signatures ---- */

enum ms_code ms_ssh_key_sign(const struct ms_ssh_key *k, const char *algorithm, const uint8_t *data, size_t n, uint8_t ret[MS_SSH_SIG_MAX], size_t *ret_n) {
	const char *md = NULL;
	uint8_t der[MS_SSH_SIG_MAX];
	size_t len = sizeof der;
	bool rsa = strcmp(k->type, "ssh-rsa") == 0, ecdsa = strncmp(k->type, "ecdsa-", 6) == 0;
	if (rsa && strcmp(algorithm, "rsa-sha2-512") == 0)
		md = "SHA512";
	else if (rsa && strcmp(algorithm, "rsa-sha2-256") == 0)
		md = "SHA256";
	else if (rsa || strcmp(algorithm, k->type) != 0)
		return MS_EUNSUPPORTED;
	else if (ecdsa)
		md = strcmp(k->type, curves[0].type) == 0 ? "SHA256" : strcmp(k->type, curves[1].type) == 0 ? "SHA384" : "SHA512";
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = ctx && EVP_DigestSignInit_ex(ctx, NULL, md, NULL, NULL, k->pkey, NULL) == 1 && EVP_DigestSign(ctx, der, &len, data, n) == 1;
	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	if (!ok)
		return MS_EINVAL;
	if (!ecdsa) {
		memcpy(ret, der, len);
		*ret_n = len;
		return MS_OK;
	}
	const unsigned char *p = der;
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)len);
	uint8_t *end = sig ? put_mpint(put_mpint(ret, ret + MS_SSH_SIG_MAX, ECDSA_SIG_get0_r(sig)), ret + MS_SSH_SIG_MAX, ECDSA_SIG_get0_s(sig)) : NULL;
	ECDSA_SIG_free(sig);
	if (!end)
		return MS_EINVAL;
	*ret_n = (size_t)(end - ret);
	return MS_OK;
}
