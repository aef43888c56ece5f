/*
 * The contract against real servers of different origin: MinIO and versitygw. One that cannot be had is named as skipped.
 * MS_S3_CASES=text runs the cases with it in their name.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "contract/contract.h"
#include "replicas/url.h"
#include "support/s3_server.h"
#include "support/skip.h"

struct store {
	struct ms_s3_server *server;
	const char *prefix, *more;
};

static enum ms_code open_s3(struct ms_contract *c, struct ms_replica **ret, struct ms_err *err) {
	struct store *s = c->arg;
	struct ms_replica_spec spec = {0};
	char url[1000];
	snprintf(url, sizeof url, "s3://test/%s?endpoint=%s&region=us-east-1%s", s->prefix, s->server->endpoint, s->more ? s->more : "");
	enum ms_code rc = ms_url_parse(url, &spec, err);
	if (!rc)
		rc = ms_replica_open(c->env, &spec, ret, err);
	ms_replica_spec_release(&spec);
	return rc;
}

static void plant(struct ms_contract *c, const char *name, const void *data, size_t len) {
	struct store *s = c->arg;
	char line[2000], *p = line + sprintf(line, "put ");
	char key[600];
	(void)data;
	snprintf(key, sizeof key, "%s/%s", s->prefix, name);
	/* Bytes that are no UTF-8 are no key of S3. */
	for (const char *k = key; *k; k++)
		if ((unsigned char)*k >= 0x80)
			return;
	for (const char *k = key; *k; k++)
		p += sprintf(p, "%02x", (unsigned char)*k);
	sprintf(p, " %zu", len);
	ms_s3_server_tell(s->server, line);
}

/* A put that dies in the middle of its parts leaves nothing visible, and the name free. */
struct endless {
	struct ms_body body;
	uint64_t left;
	int fd;
};

static enum ms_code endless_read(struct ms_body *b, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct endless *e = (struct endless *)b;
	(void)err;
	memset(buf, 'e', cap);
	*ret_n = e->left < cap ? (size_t)e->left : cap;
	e->left -= *ret_n;
	if (e->left < (12u << 20) && e->fd >= 0) {
		if (write(e->fd, "h", 1) != 1)
			_exit(3);
		for (;;)
			pause();
	}
	return MS_OK;
}

static bool count(void *arg, const struct ms_object *o) {
	(void)o;
	++*(unsigned *)arg;
	return true;
}

static void killed_in_parts(struct ms_contract *c) {
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	unsigned seen = 0;
	int fds[2], status;
	char byte;
	cr_assert_eq(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct endless b = {.body = {.size = -1, .read = endless_read}, .left = 40u << 20, .fd = fds[1]};
		if (c->open(c, &r, &err) == MS_OK)
			(void)!ms_replica_put(r, "killed/parts", &b.body, &err);
		_exit(4);
	}
	close(fds[1]);
	cr_assert_eq(read(fds[0], &byte, 1), 1);
	close(fds[0]);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	cr_assert(WIFSIGNALED(status));
	cr_assert_eq(c->open(c, &r, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_list(r, "", "", count, &seen, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(seen, 0);
	struct endless b = {.body = {.size = 23u << 20, .read = endless_read}, .left = 23u << 20, .fd = -1};
	cr_expect_eq(ms_replica_put(r, "killed/parts", &b.body, &err), MS_OK, "%s", err.msg);
	b = (struct endless){.body = {.size = 23u << 20, .read = endless_read}, .left = 23u << 20, .fd = -1};
	cr_expect_eq(ms_replica_put(r, "killed/parts", &b.body, &err), MS_EEXISTS);
	ms_replica_close(r);
}

/* Uploads in parts to one name at once: one becomes the object, whole; the others are refused at their completion. */
#define RACERS 4
#define RACES 6

struct race {
	struct ms_replica *r;
	pthread_barrier_t *gate;
	enum ms_code codes[RACES];
	char why[512];
	uint8_t *data;
};
#define RACE_BYTES (7u << 20)

static void *racer(void *arg) {
	struct race *t = arg;
	for (unsigned i = 0; i < RACES; i++) {
		struct ms_err err = MS_ERR_INIT;
		char name[32];
		snprintf(name, sizeof name, "race/%u", i);
		pthread_barrier_wait(t->gate);
		t->codes[i] = ms_replica_put_mem(t->r, name, t->data, RACE_BYTES, &err);
		if (t->codes[i] && t->codes[i] != MS_EEXISTS)
			snprintf(t->why, sizeof t->why, "%s", err.msg);
	}
	return NULL;
}

static void race_in_parts(struct ms_contract *c) {
	struct race t[RACERS];
	pthread_t id[RACERS];
	pthread_barrier_t gate;
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf b;
	pthread_barrier_init(&gate, NULL, RACERS);
	for (unsigned i = 0; i < RACERS; i++) {
		t[i] = (struct race){.gate = &gate, .data = malloc(RACE_BYTES)};
		memset(t[i].data, 'a' + (int)i, RACE_BYTES);
		cr_assert_eq(c->open(c, &t[i].r, &err), MS_OK, "%s", err.msg);
	}
	for (unsigned i = 0; i < RACERS; i++)
		cr_assert_eq(pthread_create(&id[i], NULL, racer, &t[i]), 0);
	for (unsigned i = 0; i < RACERS; i++)
		pthread_join(id[i], NULL);
	ms_buf_init(&b, RACE_BYTES);
	for (unsigned n = 0; n < RACES; n++) {
		unsigned winners = 0, winner = 0;
		char name[32];
		for (unsigned i = 0; i < RACERS; i++) {
			cr_expect(t[i].codes[n] == MS_OK || t[i].codes[n] == MS_EEXISTS || t[i].codes[n] == MS_ERETRY, "racer %u: %s", i, t[i].why);
			if (t[i].codes[n] == MS_OK)
				winners++, winner = i;
		}
		cr_expect_eq(winners, 1, "round %u has %u winners", n, winners);
		snprintf(name, sizeof name, "race/%u", n);
		ms_buf_clear(&b);
		cr_expect_eq(ms_replica_get_buf(t[0].r, name, 0, -1, &b, &err), MS_OK, "%s", err.msg);
		cr_expect(b.len == RACE_BYTES && memcmp(b.data, t[winner].data, RACE_BYTES) == 0, "round %u", n);
	}
	ms_buf_release(&b);
	for (unsigned i = 0; i < RACERS; i++) {
		ms_replica_close(t[i].r);
		free(t[i].data);
	}
	pthread_barrier_destroy(&gate);
}

static void run(const char *kind) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_s3_server server;
	const char *wanted = getenv("MS_S3_CASES");
	char prefix[64];
	if (!ms_s3_server_start(&server, "support/s3server", kind)) {
		char name[64];
		snprintf(name, sizeof name, "contract/test_s3 %s", kind);
		ms_test_skipped(name, server.why);
		cr_skip_test("%s", server.why);
	}
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "%s", err.msg);
	struct ms_env *env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env, "%s", err.msg);
	for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
		if (wanted && !strstr(k->name, wanted))
			continue;
		snprintf(prefix, sizeof prefix, "deep/%s", k->name);
		/* Part of 5 MiB: what is large goes in parts. */
		struct store s = {&server, prefix, "&partSize=5MiB"};
		struct ms_contract c = {.env = env,   .open = open_s3, .plant = plant,		.listed = 1150,
					.races = 80, .large = 47u << 20, .across_processes = true, .arg = &s};
		k->run(&c);
		cr_expect(!c.failed, "%s: %s: %s", kind, k->name, c.why);
	}
	struct store s = {&server, "parts", "&partSize=5MiB"};
	struct ms_contract c = {.env = env, .open = open_s3, .arg = &s};
	if (!wanted) {
		killed_in_parts(&c);
		s.prefix = "raced";
		race_in_parts(&c);
	}
	/* bucket.localhost, which is this host: MinIO takes the bucket from the name. */
	if (!wanted && strcmp(kind, "minio") == 0) {
		char endpoint[64];
		snprintf(endpoint, sizeof endpoint, "http://localhost%s", strrchr(server.endpoint, ':'));
		memcpy(server.endpoint, endpoint, sizeof endpoint);
		for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
			if (strcmp(k->name, "list") != 0 && strcmp(k->name, "names") != 0)
				continue;
			snprintf(prefix, sizeof prefix, "virtual/%s", k->name);
			struct store v = {&server, prefix, "&forcePathStyle=false"};
			struct ms_contract vc = {.env = env, .open = open_s3, .arg = &v};
			k->run(&vc);
			cr_expect(!vc.failed, "virtual style: %s: %s", k->name, vc.why);
		}
	}
	ms_env_uv_free(env);
	ms_s3_server_stop(&server);
}

/* Over TLS, by HTTP/1.1 (MinIO itself) and by HTTP/2 (nghttpx before it), where parts share one connection. */
static void run_tls(const char *kind, const char *protocol) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_s3_server server;
	char more[700], file[500];
	static const char *const cases[] = {"roundtrip", "ranges", "large", "race", "cancel", "failed_body"};
	if (!ms_s3_server_start(&server, "support/s3server", kind)) {
		char name[64];
		snprintf(name, sizeof name, "contract/test_s3 %s", kind);
		ms_test_skipped(name, server.why);
		cr_skip_test("%s", server.why);
	}
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "%s", err.msg);
	struct ms_env *env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env, "%s", err.msg);
	ms_s3_server_ask(&server, "certificate", file, sizeof file);
	snprintf(more, sizeof more, "&partSize=5MiB&caFile=%s", file);
	for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
		struct store s = {&server, k->name, more};
		struct ms_contract c = {.env = env, .open = open_s3, .races = 20, .large = 47u << 20, .arg = &s};
		bool chosen = false;
		for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
			chosen |= strcmp(k->name, cases[i]) == 0;
		if (!chosen)
			continue;
		k->run(&c);
		cr_expect(!c.failed, "%s: %s: %s", kind, k->name, c.why);
	}
	if (protocol) {
		ms_s3_server_ask(&server, "protocols", file, sizeof file);
		/* The test's own client speaks HTTP/1.1, before the first case. */
		cr_expect_not_null(strstr(file, protocol), "spoken: %s", file);
	}
	ms_env_uv_free(env);
	ms_s3_server_stop(&server);
}

Test(contract, minio) { run("minio"); }
Test(contract, minio_tls) { run_tls("minio-tls", NULL); }
Test(contract, minio_http2) { run_tls("minio-h2", "h2"); }
Test(contract, versitygw) { run("versitygw"); }
