/* What the NATS driver says and does when things go wrong: logins, TLS, a full bucket, a frozen server, a server that lost its newest writes. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "replicas/url.h"
#include "support/nats_server.h"
#include "support/tmpdir.h"

static struct ms_env *env;

static struct ms_replica *open_at(const struct nats_server *s, const char *query, const char *key, const char *secret) {
	struct ms_replica_spec spec = {0};
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	char url[600];
	if (!env) {
		env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
		cr_assert(env && ms_replicas_register_builtin(&err) == MS_OK, "%s", err.msg);
	}
	snprintf(url, sizeof url, "nats://127.0.0.1:%d/b/p?%s", s->port, query);
	cr_assert_eq(ms_url_parse(url, &spec, &err), MS_OK, "%s", err.msg);
	if (key)
		cr_assert_eq(ms_replica_spec_set(&spec, key, secret, &err), MS_OK);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&spec);
	return r;
}

static enum ms_code put_one(struct ms_replica *r, const char *name, size_t n, struct ms_err *err) {
	char *data = calloc(1, n + 1);
	*err = MS_ERR_INIT;
	enum ms_code rc = ms_replica_put_mem(r, name, data, n, err);
	free(data);
	return rc;
}

static void expect_put(const struct nats_server *s, const char *query, const char *key, const char *secret, enum ms_code want, const char *says) {
	struct ms_err err;
	struct ms_replica *r = open_at(s, query, key, secret);
	enum ms_code rc = put_one(r, "x", 10, &err);
	cr_expect_eq(rc == MS_EEXISTS ? MS_OK : rc, want, "%s: %s: %s", query, ms_code_name(rc), err.msg);
	cr_expect(want == MS_OK || strstr(err.msg, says), "%s: %s", query, err.msg);
	cr_expect(!secret || !strstr(err.msg, secret), "the secret shows: %s", err.msg);
	ms_replica_close(r);
}

Test(nats_faults, logins) {
	struct nats_server s;
	if (!nats_server_available("contract/test_nats_faults logins"))
		cr_skip_test();
	nats_server_start(&s, "authorization { users = [ {user: u, password: geheim1}, {nkey: UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK},\n"
			      "{user: poor, password: geheim2, permissions: {publish: \"nothing\"}} ] }");
	expect_put(&s, "username=u", "password", "geheim1", MS_OK, "");
	expect_put(&s, "username=u", "password", "falsch99", MS_EAUTH, "login");
	expect_put(&s, "timeout=1s", NULL, NULL, MS_EAUTH, "login");
	expect_put(&s, "timeout=1s", "nkeySeed", "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y", MS_OK, "");
	expect_put(&s, "username=poor&timeout=1s", "password", "geheim2", MS_EAUTH, "permission");
	expect_put(&s, "tls=true", NULL, NULL, MS_EPERMANENT, "no TLS");
	nats_server_kill(&s);
	nats_server_start(&s, "authorization { token: geheim3 }");
	expect_put(&s, "", "token", "geheim3", MS_OK, "");
	expect_put(&s, "", "token", "falsch99", MS_EAUTH, "login");
	nats_server_kill(&s);
}

Test(nats_faults, tls) {
	struct nats_server s;
	char conf[900], query[900], *dir = ms_test_tmpdir(), cmd[1800];
	if (!nats_server_available("contract/test_nats_faults tls"))
		cr_skip_test();
	snprintf(cmd, sizeof cmd,
		 "cd %s && exec 2>log && openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2 && "
		 "for n in server client; do openssl req -newkey rsa:2048 -nodes -keyout $n.key -out $n.csr -subj /CN=$n && "
		 "printf 'subjectAltName=DNS:nats.example\\n' >ext && openssl x509 -req -in $n.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $n.pem || exit 1; done",
		 dir);
	cr_assert_eq(system(cmd), 0);
	snprintf(conf, sizeof conf, "tls { cert_file: \"%s/server.pem\", key_file: \"%s/server.key\", ca_file: \"%s/ca.pem\", verify: true }", dir, dir, dir);
	nats_server_start(&s, conf);
	snprintf(query, sizeof query, "rootCAs=%s/ca.pem&certFile=%s/client.pem&keyFile=%s/client.key&serverName=nats.example", dir, dir, dir);
	expect_put(&s, query, NULL, NULL, MS_OK, "");
	snprintf(query, sizeof query, "rootCAs=%s/ca.pem&certFile=%s/client.pem&keyFile=%s/client.key&serverName=other.example", dir, dir, dir);
	expect_put(&s, query, NULL, NULL, MS_EAUTH, "TLS");
	snprintf(query, sizeof query, "certFile=%s/client.pem&keyFile=%s/client.key&serverName=nats.example", dir, dir);
	expect_put(&s, query, NULL, NULL, MS_EAUTH, "TLS"); /* an authority that the system does not know */
	expect_put(&s, "", NULL, NULL, MS_EAUTH, "TLS"); /* the server demands it, so it is TLS, and checked */
	nats_server_kill(&s);
}

Test(nats_faults, full_and_frozen) {
	struct nats_server s;
	struct ms_err err;
	if (!nats_server_available("contract/test_nats_faults full_and_frozen"))
		cr_skip_test();
	nats_server_start(&s, NULL);
	struct ms_replica *r = open_at(&s, "maxBytes=1MiB&timeout=1s&connectTimeout=1s", NULL, NULL);
	cr_expect_eq(put_one(r, "small", 1000, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(put_one(r, "large", 3u << 20, &err), MS_ENOSPC, "%s", err.msg);
	cr_expect_eq(put_one(r, "fits/again", 500000, &err), MS_OK, "the failed put's chunks are gone: %s", err.msg);
	kill(s.pid, SIGSTOP);
	uint64_t from = ms_env_mono_ns(env);
	enum ms_code rc = put_one(r, "frozen", 200000, &err);
	cr_expect(ms_code_retryable(rc), "%s: %s", ms_code_name(rc), err.msg);
	cr_expect_lt((ms_env_mono_ns(env) - from) / 1000000, 8000);
	kill(s.pid, SIGCONT);
	cr_expect_eq(put_one(r, "thawed", 1000, &err), MS_OK, "%s", err.msg);
	ms_replica_close(r);
	nats_server_kill(&s);
}

/* The server's disk goes back to before an acknowledged put, as after a crash before its sync. */
Test(nats_faults, lost_tail) {
	struct nats_server s;
	struct ms_err err;
	struct ms_buf b;
	char cmd[900];
	if (!nats_server_available("contract/test_nats_faults lost_tail"))
		cr_skip_test();
	nats_server_start(&s, NULL);
	struct ms_replica *r = open_at(&s, "", NULL, NULL), *other = open_at(&s, "", NULL, NULL);
	cr_assert_eq(put_one(r, "kept", 1000, &err), MS_OK, "%s", err.msg);
	nats_server_kill(&s);
	snprintf(cmd, sizeof cmd, "cp -a %s/data %s/old", s.dir, s.dir);
	cr_assert_eq(system(cmd), 0);
	nats_server_again(&s);
	cr_assert_eq(put_one(r, "lost", 1000, &err), MS_OK, "what was kept is found again: %s", err.msg);
	nats_server_kill(&s);
	snprintf(cmd, sizeof cmd, "rm -rf %s/data && mv %s/old %s/data", s.dir, s.dir, s.dir);
	cr_assert_eq(system(cmd), 0);
	nats_server_again(&s);
	/* Whichever handle comes first is told, once. */
	cr_expect_eq(put_one(other, "next", 10, &err), MS_ELOST, "%s", err.msg);
	cr_expect(strstr(err.msg, "p/lost"), "%s", err.msg);
	cr_expect_eq(put_one(r, "next", 10, &err), MS_OK, "%s", err.msg);
	ms_buf_init(&b, 2000);
	cr_expect_eq(ms_replica_get_buf(r, "kept", 0, -1, &b, &err), MS_OK);
	cr_expect_eq(ms_replica_get_buf(r, "lost", 0, -1, &b, &err), MS_ENOTFOUND);
	cr_expect_eq(put_one(r, "lost", 1000, &err), MS_OK, "%s", err.msg);
	ms_buf_release(&b);
	ms_replica_close(other);
	ms_replica_close(r);
	nats_server_kill(&s);
}
