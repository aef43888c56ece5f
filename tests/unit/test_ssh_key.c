/* Private keys as ssh-keygen and openssl write them. What is expected comes from those programs: public keys, and their word on our signatures. */
#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replicas/bcrypt_pbkdf.h"
#include "replicas/ssh_key.h"
#include "support/tmpdir.h"

static char dir[400];

static void __attribute__((format(printf, 1, 2))) sh(const char *fmt, ...) {
	char command[3000];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(command, sizeof command, fmt, ap);
	va_end(ap);
	cr_assert_eq(system(command), 0, "%s", command);
}

static size_t slurp(const char *name, char *buf, size_t cap) {
	FILE *f = fopen(name, "r");
	cr_assert(f, "%s", name);
	size_t n = fread(buf, 1, cap - 1, f);
	buf[n] = '\0';
	fclose(f);
	return n;
}

static enum ms_ssh_key_verdict read_file(struct ms_ssh_key *k, const char *name, const char *passphrase) {
	static char text[60000];
	slurp(name, text, sizeof text);
	return ms_ssh_key_read(k, text, passphrase);
}

static void setup(void) {
	snprintf(dir, sizeof dir, "%s", ms_test_tmpdir());
	cr_assert_eq(chdir(dir), 0);
}
TestSuite(ssh_key, .init = setup, .timeout = 120);

/* The public half is what ssh-keygen wrote, and a signature by each algorithm is good in ssh-keygen's eyes. */
static void check_key(const char *name, const char *passphrase, const char *algorithm) {
	struct ms_ssh_key k;
	static char text[9000];
	uint8_t sig[MS_SSH_SIG_MAX], blob[9000], data[2000], sshsig[9000], b64[12000];
	size_t n;
	cr_assert_eq(read_file(&k, name, passphrase), MS_SSH_KEY_READ, "%s", name);
	char pub[500], line[6000];
	snprintf(pub, sizeof pub, "%s.pub", name);
	slurp(pub, text, sizeof text);
	int b = EVP_EncodeBlock(b64, k.blob, (int)k.blob_len);
	snprintf(line, sizeof line, "%s %.*s", k.type, b, (char *)b64);
	cr_expect(strncmp(line, text, strlen(line)) == 0, "%s: %s instead of %s", name, line, text);

	/* PROTOCOL.sshsig: what is signed is "SSHSIG", namespace, reserved, hash name, hash of the message; the file adds version and public key. */
	uint8_t hash[64], *p = data;
	cr_assert(EVP_Digest("hello\n", 6, hash, NULL, EVP_sha512(), NULL));
#define STR(s_, n_) (p[0] = 0, p[1] = 0, p[2] = (uint8_t)((n_) >> 8), p[3] = (uint8_t)(n_), memcpy(p + 4, (s_), (n_)), p += 4 + (n_))
	memcpy(p, "SSHSIG", 6), p += 6;
	STR("test", 4);
	STR("", 0);
	STR("sha512", 6);
	STR(hash, 64);
	cr_assert_eq(ms_ssh_key_sign(&k, algorithm, data, (size_t)(p - data), sig, &n), MS_OK, "%s", name);
	p = blob;
	STR(algorithm, strlen(algorithm));
	STR(sig, n);
	size_t nblob = (size_t)(p - blob);
	p = sshsig;
	memcpy(p, "SSHSIG\0\0\0\1", 10), p += 10;
	STR(k.blob, k.blob_len);
	STR("test", 4);
	STR("", 0);
	STR("sha512", 6);
	STR(blob, nblob);
	EVP_EncodeBlock(b64, sshsig, (int)(p - sshsig));
	FILE *f = fopen("sig", "w");
	fprintf(f, "-----BEGIN SSH SIGNATURE-----\n");
	for (const char *q = (const char *)b64; *q; q += strlen(q) < 70 ? strlen(q) : 70)
		fprintf(f, "%.70s\n", q);
	fprintf(f, "-----END SSH SIGNATURE-----\n");
	fclose(f);
	sh("sed 's/^/me /' '%s' >allowed && echo hello | ssh-keygen -q -Y verify -f allowed -I me -n test -s sig >out 2>&1 || { cat out >&2; false; }", pub);
	/* Another message is not what was signed. */
	sh("! echo hullo | ssh-keygen -q -Y verify -f allowed -I me -n test -s sig >/dev/null 2>&1");
	ms_ssh_key_release(&k);
}

Test(ssh_key, kinds) {
	sh("for t in ed25519 'ecdsa -b 256' 'ecdsa -b 384' 'ecdsa -b 521' 'rsa -b 2048' 'rsa -b 3072'; do ssh-keygen -q -t $t -N '' -C 'a comment' -f \"$(echo $t | tr -d ' -')\"; done");
	check_key("ed25519", NULL, "ssh-ed25519");
	check_key("ecdsab256", "", "ecdsa-sha2-nistp256");
	check_key("ecdsab384", "not needed", "ecdsa-sha2-nistp384");
	check_key("ecdsab521", NULL, "ecdsa-sha2-nistp521");
	check_key("rsab2048", NULL, "rsa-sha2-512");
	check_key("rsab3072", NULL, "rsa-sha2-256");
}

Test(ssh_key, sealed) {
	struct ms_ssh_key k;
	/* Ciphers in both modes, key lengths, rounds, all kinds; passphrases of other lengths and letters. */
	static const struct {
		const char *args, *passphrase, *algorithm;
	} cases[] = {{"-t ed25519", "open sesame", "ssh-ed25519"},
		     {"-t ed25519 -Z aes128-ctr -a 1", "x1234", "ssh-ed25519"},
		     {"-t ecdsa -Z aes256-cbc -a 3", "Zauberw\303\266rter helfen nicht immer, aber lange sind besser als kurze und mehr als zweiundsiebzig Bytes", "ecdsa-sha2-nistp256"},
		     {"-t rsa -b 2048 -Z aes192-cbc -a 2", "open sesame", "rsa-sha2-512"},
		     {"-t rsa -b 2048 -a 40", "open sesame", "rsa-sha2-256"}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char name[10];
		snprintf(name, sizeof name, "k%zu", i);
		sh("ssh-keygen -q %s -N '%s' -f %s", cases[i].args, cases[i].passphrase, name);
		check_key(name, cases[i].passphrase, cases[i].algorithm);
		cr_expect_eq(read_file(&k, name, NULL), MS_SSH_KEY_SEALED);
		cr_expect_eq(read_file(&k, name, ""), MS_SSH_KEY_SEALED);
		cr_expect_eq(read_file(&k, name, "open sesamf"), MS_SSH_KEY_WRONG);
	}
	sh("ssh-keygen -q -t ed25519 -Z chacha20-poly1305@openssh.com -N 'open sesame' -f other");
	cr_expect_eq(read_file(&k, "other", "open sesame"), MS_SSH_KEY_CIPHER);
}

Test(ssh_key, pem) {
	struct ms_ssh_key k;
	sh("ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -f rsa && ssh-keygen -q -t rsa -b 2048 -m PEM -N 'open sesame' -f rsa_sealed && "
	   "ssh-keygen -q -t ecdsa -m PEM -N '' -f ec && ssh-keygen -q -t ecdsa -b 384 -m PKCS8 -N 'open sesame' -f ec8 && "
	   "openssl genpkey -algorithm ed25519 -out ed 2>/dev/null && chmod 600 ed && ssh-keygen -q -t ed25519 -N '' -f dummy && "
	   "openssl genpkey -algorithm x25519 -out x25519 2>/dev/null");
	check_key("rsa", NULL, "rsa-sha2-512");
	check_key("rsa_sealed", "open sesame", "rsa-sha2-512");
	check_key("ec", NULL, "ecdsa-sha2-nistp256");
	check_key("ec8", "open sesame", "ecdsa-sha2-nistp384");
	cr_expect_eq(read_file(&k, "rsa_sealed", NULL), MS_SSH_KEY_SEALED);
	cr_expect_eq(read_file(&k, "rsa_sealed", "open sesamf"), MS_SSH_KEY_WRONG);
	cr_expect_eq(read_file(&k, "ec8", NULL), MS_SSH_KEY_SEALED);
	cr_expect_eq(read_file(&k, "ec8", "open sesamf"), MS_SSH_KEY_WRONG);
	cr_expect_eq(read_file(&k, "ed", NULL), MS_SSH_KEY_READ);
	cr_expect_str_eq(k.type, "ssh-ed25519");
	ms_ssh_key_release(&k);
	/* A key, but none that SSH logs in with. */
	cr_expect_eq(read_file(&k, "x25519", NULL), MS_SSH_KEY_NONE);
}

Test(ssh_key, refusals) {
	struct ms_ssh_key k;
	uint8_t sig[MS_SSH_SIG_MAX];
	size_t n;
	sh("ssh-keygen -q -t rsa -b 2048 -N '' -f rsa && ssh-keygen -q -t ed25519 -N '' -f ed");
	cr_assert_eq(read_file(&k, "rsa", NULL), MS_SSH_KEY_READ);
	cr_expect_eq(ms_ssh_key_sign(&k, "ssh-rsa", sig, 10, sig, &n), MS_EUNSUPPORTED, "SHA-1");
	cr_expect_eq(ms_ssh_key_sign(&k, "ssh-ed25519", sig, 10, sig, &n), MS_EUNSUPPORTED);
	ms_ssh_key_release(&k);
	cr_assert_eq(read_file(&k, "ed", NULL), MS_SSH_KEY_READ);
	cr_expect_eq(ms_ssh_key_sign(&k, "rsa-sha2-512", sig, 10, sig, &n), MS_EUNSUPPORTED);
	ms_ssh_key_release(&k);
	cr_expect_eq(read_file(&k, "ed.pub", NULL), MS_SSH_KEY_NONE);
	cr_expect_eq(ms_ssh_key_read(&k, "", NULL), MS_SSH_KEY_NONE);
	/* Every cut and every byte turned: read or refused, never more (this is for the sanitizers). */
	static char text[5000], bad[5000];
	size_t len = slurp("ed", text, sizeof text);
	for (size_t i = 0; i < len; i++) {
		memcpy(bad, text, len + 1);
		bad[i] = bad[i] == 'A' ? 'B' : 'A';
		if (ms_ssh_key_read(&k, bad, NULL) == MS_SSH_KEY_READ)
			ms_ssh_key_release(&k);
		memcpy(bad, text, len + 1);
		bad[i] = '\0';
		cr_expect(i > len - 3 || ms_ssh_key_read(&k, bad, NULL) == MS_SSH_KEY_NONE, "cut at %zu", i);
	}
}

/* OpenBSD's own vectors (regress/lib/libutil/bcrypt_pbkdf): password and salt "password"/"salt", 4 rounds, 32 bytes. */
Test(ssh_key, bcrypt_bounds) {
	static const uint8_t want[32] = {0x5b, 0xbf, 0x0c, 0xc2, 0x93, 0x58, 0x7f, 0x1c, 0x36, 0x35, 0x55, 0x5c, 0x27, 0x79, 0x65, 0x98,
					 0xd4, 0x7e, 0x57, 0x90, 0x71, 0xbf, 0x42, 0x7e, 0x9d, 0x8f, 0xbe, 0x84, 0x2a, 0xba, 0x34, 0xd9};
	uint8_t key[MS_BCRYPT_KEY_MAX + 1];
	cr_expect_eq(ms_bcrypt_pbkdf("password", 8, (const uint8_t *)"salt", 4, 4, key, 32), MS_OK);
	cr_expect_arr_eq(key, want, 32);
	cr_expect_eq(ms_bcrypt_pbkdf("", 0, (const uint8_t *)"salt", 4, 4, key, 32), MS_EINVAL);
	cr_expect_eq(ms_bcrypt_pbkdf("p", 1, key, 0, 4, key, 32), MS_EINVAL);
	cr_expect_eq(ms_bcrypt_pbkdf("p", 1, key, MS_BCRYPT_SALT_MAX + 1, 4, key, 32), MS_EINVAL);
	cr_expect_eq(ms_bcrypt_pbkdf("p", 1, key, 4, 0, key, 32), MS_EINVAL);
	cr_expect_eq(ms_bcrypt_pbkdf("p", 1, key, 4, MS_BCRYPT_ROUNDS_MAX + 1, key, 32), MS_EINVAL);
	cr_expect_eq(ms_bcrypt_pbkdf("p", 1, key, 4, 1, key, sizeof key), MS_EINVAL);
}
