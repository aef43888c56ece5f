/* The contract against nats-server with JetStream: one server, and a cluster of three whose leader is killed in the middle of a put. */
#include <criterion/criterion.h>
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "contract/contract.h"
#include "replicas/nats_meta.h"
#include "replicas/url.h"
#include "support/nats_server.h"

struct store {
	char servers[128], bucket[64];
	int replicas;
};

static enum ms_code open_nats(struct ms_contract *c, struct ms_replica **ret, struct ms_err *err) {
	struct store *s = c->arg;
	struct ms_replica_spec spec = {0};
	char url[400];
	snprintf(url, sizeof url, "nats://%s/%s/some/prefix?replicas=%d&timeout=20s", s->servers, s->bucket, s->replicas);
	enum ms_code rc = ms_url_parse(url, &spec, err);
	if (!rc)
		rc = ms_replica_open(c->env, &spec, ret, err);
	ms_replica_spec_release(&spec);
	return rc;
}

/* Another client's object under a raw name. */
static void plant(struct ms_contract *c, const char *name, const void *data, size_t len) {
	struct store *s = c->arg;
	natsConnection *nc = NULL;
	jsCtx *js = NULL;
	char url[200], subject[MS_NATS_SUBJECT_MAX], full[300], json[700];
	snprintf(url, sizeof url, "nats://%.*s", (int)strcspn(s->servers, ","), s->servers);
	cr_assert(natsConnection_ConnectTo(&nc, url) == NATS_OK && natsConnection_JetStream(&js, nc, NULL) == NATS_OK);
	snprintf(full, sizeof full, "some/prefix/%s", name);
	snprintf(subject, sizeof subject, "$O.%s.C.PLANTEDPLANTEDPLANTED0", s->bucket);
	cr_assert_eq(js_Publish(NULL, js, subject, data, (int)len, NULL, NULL), NATS_OK);
	ms_nats_meta_subject(s->bucket, full, subject);
	snprintf(json, sizeof json, "{\"name\":\"x\",\"bucket\":\"%s\",\"nuid\":\"PLANTEDPLANTEDPLANTED0\",\"size\":%zu,\"chunks\":1}", s->bucket, len);
	cr_assert_eq(js_Publish(NULL, js, subject, json, (int)strlen(json), NULL, NULL), NATS_OK);
	jsCtx_Destroy(js);
	natsConnection_Destroy(nc);
}

static void run_cases(struct ms_env *env, const char *servers, int replicas, unsigned listed, unsigned races) {
	for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
		struct store s = {.replicas = replicas};
		struct timespec a, b;
		snprintf(s.servers, sizeof s.servers, "%s", servers);
		snprintf(s.bucket, sizeof s.bucket, "%s", k->name);
		struct ms_contract c = {.env = env, .open = open_nats, .plant = plant, .listed = listed, .races = races, .large = 20u << 20, .arg = &s};
		clock_gettime(CLOCK_MONOTONIC, &a);
		k->run(&c);
		clock_gettime(CLOCK_MONOTONIC, &b);
		if (getenv("MS_TEST_TIMES"))
			fprintf(stderr, "%s %.2f s\n", k->name, (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
		cr_expect(!c.failed, "%s: %s", k->name, c.why);
	}
}

static struct ms_env *start(void) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "%s", err.msg);
	struct ms_env *env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env, "%s", err.msg);
	return env;
}

Test(contract, nats) {
	struct nats_server s;
	char servers[64];
	if (!nats_server_available("contract/test_nats"))
		cr_skip_test();
	struct ms_env *env = start();
	nats_server_start(&s, NULL);
	snprintf(servers, sizeof servers, "127.0.0.1:%d", s.port);
	run_cases(env, servers, 1, 1500, 100);
	nats_server_kill(&s);
	ms_env_uv_free(env);
}

struct kill_body {
	struct ms_body body;
	size_t at, len, kill_at;
	struct nats_server *victim;
};

static enum ms_code kill_read(struct ms_body *b, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct kill_body *k = (struct kill_body *)b;
	(void)err;
	if (k->victim && k->at >= k->kill_at) {
		nats_server_kill(k->victim);
		k->victim = NULL;
	}
	size_t n = k->len - k->at < cap ? k->len - k->at : cap;
	memset(buf, 'k', n);
	k->at += n;
	*ret_n = n;
	return MS_OK;
}

/* Index of the server that leads the bucket's stream. */
static int leader_of(const char *servers, const char *bucket) {
	natsConnection *nc = NULL;
	natsMsg *m = NULL;
	char subject[128];
	int leader = -1;
	snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.OBJ_%s", bucket);
	cr_assert_eq(natsConnection_ConnectTo(&nc, servers), NATS_OK);
	cr_assert_eq(natsConnection_RequestString(&m, nc, subject, "", 5000), NATS_OK);
	const char *p = strstr(natsMsg_GetData(m), "\"leader\":\"n");
	if (p)
		leader = p[11] - '0';
	natsMsg_Destroy(m);
	natsConnection_Destroy(nc);
	return leader;
}

Test(contract, nats_cluster) {
	struct nats_server s[3];
	char servers[128], url[256];
	if (!nats_server_available("contract/test_nats of a cluster"))
		cr_skip_test();
	struct ms_env *env = start();
	struct ms_err err = MS_ERR_INIT;
	nats_cluster_start(s);
	snprintf(servers, sizeof servers, "127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d", s[0].port, s[1].port, s[2].port);
	snprintf(url, sizeof url, "nats://127.0.0.1:%d,nats://127.0.0.1:%d,nats://127.0.0.1:%d", s[0].port, s[1].port, s[2].port);

	/* Until the cluster has a leader, buckets cannot be made: an error that is tried again, no other. */
	struct store st = {.replicas = 3, .bucket = "leader"};
	snprintf(st.servers, sizeof st.servers, "%s", servers);
	struct ms_contract c = {.env = env, .open = open_nats, .arg = &st};
	struct ms_replica *r = NULL;
	cr_assert_eq(open_nats(&c, &r, &err), MS_OK, "%s", err.msg);
	enum ms_code rc = MS_ERETRY;
	for (int i = 0; i < 100 && rc; i++) {
		err = MS_ERR_INIT;
		rc = ms_replica_put_mem(r, "a/first", "1", 1, &err);
		cr_assert(!rc || ms_code_retryable(rc), "%s", err.msg);
		if (rc)
			nanosleep(&(struct timespec){0, 200000000}, NULL);
	}
	cr_assert_eq(rc, MS_OK, "%s", err.msg);
	struct ms_replica_caps caps;
	ms_replica_caps(r, &caps);
	cr_expect_null(caps.warning, "%s", caps.warning);

	run_cases(env, servers, 3, 300, 40);

	/* The leader dies in the middle of a put: nothing half is visible, the put is tried again and goes through, what was there is there. */
	int leader = leader_of(url, "leader");
	cr_assert(leader >= 0 && leader < 3);
	struct kill_body b = {.body = {.size = 6 << 20, .read = kill_read}, .len = 6 << 20, .kill_at = 3 << 20, .victim = &s[leader]};
	rc = ms_replica_put(r, "a/second", &b.body, &err);
	int tries = 0;
	for (; rc && tries < 100; tries++) {
		cr_assert(ms_code_retryable(rc) || rc == MS_EEXISTS, "%s: %s", ms_code_name(rc), err.msg);
		if (rc == MS_EEXISTS)
			break;
		nanosleep(&(struct timespec){0, 200000000}, NULL);
		struct kill_body again = {.body = {.size = 6 << 20, .read = kill_read}, .len = 6 << 20};
		err = MS_ERR_INIT;
		rc = ms_replica_put(r, "a/second", &again.body, &err);
	}
	cr_assert(rc == MS_OK || rc == MS_EEXISTS, "after %d tries: %s: %s", tries, ms_code_name(rc), err.msg);
	struct ms_buf got;
	ms_buf_init(&got, 8 << 20);
	cr_assert_eq(ms_replica_get_buf(r, "a/second", 0, -1, &got, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(got.len, (size_t)6 << 20);
	for (size_t i = 0; i < got.len; i++)
		cr_assert_eq(got.data[i], 'k');
	got.len = 0;
	cr_assert_eq(ms_replica_get_buf(r, "a/first", 0, -1, &got, &err), MS_OK, "%s", err.msg);
	ms_buf_release(&got);
	ms_replica_close(r);
	for (int i = 0; i < 3; i++)
		nats_server_kill(&s[i]);
	ms_env_uv_free(env);
}
