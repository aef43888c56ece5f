/* Beside NATS' own object-store client on the same bucket, and logins by JWT whose operator, accounts and users its own libraries made. */
#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "replicas/url.h"
#include "contract/objects.h"
#include "support/nats_server.h"
#include "support/tmpdir.h"

static struct ms_env *env;
static struct nats_server server;
static char out[16384];

static struct ms_replica *open_it(const char *query) {
	struct ms_replica_spec spec = {0};
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	char url[900];
	if (!env) {
		env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
		cr_assert(env && ms_replicas_register_builtin(&err) == MS_OK, "%s", err.msg);
	}
	snprintf(url, sizeof url, "nats://127.0.0.1:%d/b/p?connectTimeout=3s%s", server.port, query);
	cr_assert_eq(ms_url_parse(url, &spec, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&spec);
	return r;
}

#define PEER(...) nats_peer(out, sizeof out, __VA_ARGS__)

static uint8_t *bytes(size_t n, uint32_t x) {
	uint8_t *p = malloc(n + 1);
	cr_assert(p);
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	return p;
}

/* "SHA-256=<base64url, padded>", as the layout has it. */
static void digest_of(const uint8_t *data, size_t n, char ret[64]) {
	uint8_t sha[32];
	unsigned len = 0;
	cr_assert(EVP_Digest(data, n, sha, &len, EVP_sha256(), NULL) && len == 32);
	memcpy(ret, "SHA-256=", 8);
	EVP_EncodeBlock((unsigned char *)ret + 8, sha, 32);
	for (char *p = ret; *p; p++)
		*p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
}

static void write_file(const char *path, const uint8_t *data, size_t n) {
	FILE *f = fopen(path, "wb");
	cr_assert(f && fwrite(data, 1, n, f) == n && fclose(f) == 0, "%s", path);
}

static bool file_is(const char *path, const uint8_t *data, size_t n) {
	struct ms_buf b;
	FILE *f = fopen(path, "rb");
	ms_buf_init(&b, n + 2);
	cr_assert(f && ms_buf_reserve(&b, n + 1, NULL) == MS_OK, "%s", path);
	size_t got = fread(b.data, 1, n + 1, f);
	fclose(f);
	bool same = got == n && memcmp(b.data, data, n) == 0;
	ms_buf_release(&b);
	return same;
}

static bool line(void *arg, const struct ms_object *o) {
	char *text = arg;
	size_t n = strlen(text);
	snprintf(text + n, 1000 - n, "%s %lld\n", o->name, (long long)o->size);
	return true;
}

static void list_is(struct ms_replica *r, const char *want) {
	char got[1000] = "";
	struct ms_err err = MS_ERR_INIT;
	cr_expect_eq(ms_replica_list(r, "", "", line, got, &err), MS_OK, "%s", err.msg);
	cr_expect_str_eq(got, want);
}

/* Chunks of 128 KiB: none, one that is short, one that is whole, and some. */
static const struct {
	const char *name;
	size_t size;
} objects[] = {{"a/empty", 0}, {"a/one", 1000}, {"a/whole", 131072}, {"b/some", 3 * 131072 + 17}};
#define OBJECTS (sizeof objects / sizeof objects[0])

Test(nats_peer, objects_of_both) {
	char url[80], path[400], want[4000] = "", digest[64];
	struct ms_err err = MS_ERR_INIT;
	const char *dir = ms_test_tmpdir();
	uint8_t *data[OBJECTS], *theirs = bytes(300001, 99);
	if (!nats_server_available("contract/test_nats_peer objects_of_both") || !nats_peer_available("contract/test_nats_peer objects_of_both"))
		cr_skip_test();
	nats_server_start(&server, NULL);
	snprintf(url, sizeof url, "nats://127.0.0.1:%d", server.port);
	snprintf(path, sizeof path, "%s/file", dir);
	struct ms_replica *r = open_it("");

	/* It lists ours, with size and digest, and reads them, checking the digest itself. */
	for (size_t i = 0; i < OBJECTS; i++) {
		data[i] = bytes(objects[i].size, (uint32_t)i + 1);
		cr_assert_eq(ms_replica_put_mem(r, objects[i].name, data[i], objects[i].size, &err), MS_OK, "%s", err.msg);
		digest_of(data[i], objects[i].size, digest);
		snprintf(want + strlen(want), sizeof want - strlen(want), "p/%s %zu %s\n", objects[i].name, objects[i].size, digest);
	}
	cr_assert_eq(PEER("%s b list | LC_ALL=C sort", url), 0);
	cr_expect_str_eq(out, want);
	for (size_t i = 0; i < OBJECTS; i++) {
		cr_assert_eq(PEER("%s b get p/%s >%s", url, objects[i].name, path), 0, "%s", objects[i].name);
		cr_expect(file_is(path, data[i], objects[i].size), "%s comes back with other bytes", objects[i].name);
	}
	cr_expect_eq(PEER("%s b get p/a/none 2>/dev/null", url), 3);

	/* We list and read its objects, in whole and in part, and its names are taken for us too. */
	write_file(path, theirs, 300001);
	cr_assert_eq(PEER("%s b put p/b/theirs <%s", url, path), 0);
	cr_assert_eq(PEER("%s b put p/empty </dev/null", url), 0);
	list_is(r, "a/empty 0\na/one 1000\na/whole 131072\nb/some 393233\nb/theirs 300001\nempty 0\n");
	cr_expect(holds(r, "b/theirs", theirs, 300001, &err), "%s", err.msg);
	cr_expect(holds(r, "empty", theirs, 0, &err), "%s", err.msg);
	struct ms_buf part;
	ms_buf_init(&part, 1000);
	cr_expect_eq(ms_replica_get_buf(r, "b/theirs", 131000, 500, &part, &err), MS_OK, "%s", err.msg);
	cr_expect(part.len == 500 && memcmp(part.data, theirs + 131000, 500) == 0);
	ms_buf_release(&part);
	cr_expect_eq(ms_replica_put_mem(r, "b/theirs", "x", 1, &err), MS_EEXISTS, "%s", err.msg);

	/* What it deletes is gone for us, and its name is free. */
	cr_assert_eq(PEER("%s b delete p/a/one", url), 0);
	list_is(r, "a/empty 0\na/whole 131072\nb/some 393233\nb/theirs 300001\nempty 0\n");
	cr_expect_not(holds(r, "a/one", data[1], 1000, &err));
	cr_expect_eq(err.code, MS_ENOTFOUND, "%s", err.msg);
	err = MS_ERR_INIT;
	cr_expect_eq(ms_replica_put_mem(r, "a/one", "again", 5, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(PEER("%s b get p/a/one", url), 0);
	cr_expect_str_eq(out, "again");

	/* And the other way round. */
	cr_expect_eq(ms_replica_remove(r, "b/theirs", &err), MS_OK, "%s", err.msg);
	cr_expect_eq(PEER("%s b get p/b/theirs 2>/dev/null", url), 3);
	cr_assert_eq(PEER("%s b list | grep -c theirs", url), 1);
	ms_replica_close(r);

	/* A bucket that it made serves us. */
	cr_assert_eq(PEER("%s made put first <%s", url, path), 0);
	struct ms_replica_spec spec = {0};
	snprintf(path, sizeof path, "nats://127.0.0.1:%d/made", server.port);
	cr_assert_eq(ms_url_parse(path, &spec, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&spec);
	cr_expect(holds(r, "first", theirs, 300001, &err), "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "second", "2", 1, &err), MS_OK, "%s", err.msg);
	list_is(r, "first 300001\nsecond 1\n");
	ms_replica_close(r);
	for (size_t i = 0; i < OBJECTS; i++)
		free(data[i]);
	free(theirs);
	nats_server_kill(&server);
}

static void put_with(const char *query, enum ms_code want, const char *says) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica *r = open_it(query);
	enum ms_code rc = ms_replica_put_mem(r, "x", "jwt", 3, &err);
	cr_expect_eq(rc, want, "%s: %s: %s", query, ms_code_name(rc), err.msg);
	cr_expect(want == MS_OK || strstr(err.msg, says), "%s: %s", query, err.msg);
	ms_replica_close(r);
}

/* An operator, its accounts in the server's memory, a user's JWT and seed in a credentials file. */
Test(nats_peer, creds) {
	char conf[16000], path[400], query[500], seed[200] = "";
	const char *dir = ms_test_tmpdir();
	if (!nats_server_available("contract/test_nats_peer creds") || !nats_peer_available("contract/test_nats_peer creds"))
		cr_skip_test();
	cr_assert_eq(PEER("jwt %s", dir), 0);
	snprintf(path, sizeof path, "%s/server.conf", dir);
	FILE *f = fopen(path, "r");
	cr_assert(f);
	conf[fread(conf, 1, sizeof conf - 1, f)] = '\0';
	fclose(f);
	nats_server_start(&server, conf);
	snprintf(query, sizeof query, "&creds=%s/user.creds", dir);
	put_with(query, MS_OK, "");
	cr_assert_eq(PEER("-creds %s/user.creds nats://127.0.0.1:%d b get p/x", dir, server.port), 0);
	cr_expect_str_eq(out, "jwt");
	put_with("", MS_EAUTH, "refuses the login");
	snprintf(query, sizeof query, "&creds=%s/unknown.creds", dir);
	put_with(query, MS_EAUTH, "refuses the login");
	snprintf(query, sizeof query, "&creds=%s/other.creds", dir);
	put_with(query, MS_EPERMANENT, "JetStream not enabled for account");
	/* From the environment, and a file that is not there. */
	snprintf(path, sizeof path, "%s/user.creds", dir);
	setenv("NATS_CREDS", path, 1);
	put_with("", MS_EEXISTS, "p/x exists");
	unsetenv("NATS_CREDS");
	struct ms_replica_spec spec = {0};
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	snprintf(query, sizeof query, "nats://127.0.0.1:%d/b/p?creds=%s/none.creds", server.port, dir);
	cr_assert_eq(ms_url_parse(query, &spec, &err), MS_OK, "%s", err.msg);
	cr_expect_neq(ms_replica_open(env, &spec, &r, &err), MS_OK);
	cr_expect(strstr(err.msg, "none.creds"), "%s", err.msg);
	ms_replica_spec_release(&spec);
	/* The user's seed is in no message. */
	f = fopen(path, "r");
	cr_assert(f);
	conf[fread(conf, 1, sizeof conf - 1, f)] = '\0';
	fclose(f);
	const char *line = strstr(conf, "-----BEGIN USER NKEY SEED-----\n");
	cr_assert(line && sscanf(strchr(line, '\n'), " %60s", seed) == 1 && strncmp(seed, "SU", 2) == 0 && strlen(seed) == 58, "%s", path);
	nats_server_kill(&server);
	err = MS_ERR_INIT;
	snprintf(query, sizeof query, "&creds=%s/user.creds&timeout=1s", dir);
	r = open_it(query);
	cr_expect(ms_code_retryable(ms_replica_put_mem(r, "y", "jwt", 3, &err)), "%s", err.msg);
	cr_expect_null(strstr(err.msg, seed), "%s", err.msg);
	ms_replica_close(r);
}
