/* What dead puts leave in a bucket: a client that is killed, a connection that is cut at every 16 KiB; and the sweep of it. Compressed buckets. */
#include <criterion/criterion.h>
#include <nats/nats.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "contract/contract.h"
#include "contract/objects.h"
#include "replicas/url.h"
#include "support/nats_server.h"
#include "support/proxy.h"

#define CHUNK (128u << 10)

/* nats.c 3.4 forgets the part of a message that it had when its connection was lost: one for each get that is cut. Nothing of ours is made by that
 * function. */
const char *__lsan_default_suppressions(void), *__lsan_default_options(void);
const char *__lsan_default_suppressions(void) { return "leak:natsBuf_Create\n"; }
const char *__lsan_default_options(void) { return "print_suppressions=0"; } /* a report would be a failure */

static struct ms_env *env;
static struct nats_server server;

static void begin(void) {
	struct ms_err err = MS_ERR_INIT;
	env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env && ms_replicas_register_builtin(&err) == MS_OK, "%s", err.msg);
}

static struct ms_replica *open_at(unsigned port, const char *query) {
	struct ms_replica_spec spec = {0};
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	char url[400];
	snprintf(url, sizeof url, "nats://127.0.0.1:%u/b/p?timeout=2s&connectTimeout=2s%s", port, query);
	cr_assert_eq(ms_url_parse(url, &spec, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&spec);
	return r;
}

/* The bucket from the library's own side. */
static natsConnection *raw(void) {
	natsConnection *nc = NULL;
	char url[80];
	snprintf(url, sizeof url, "nats://127.0.0.1:%d", server.port);
	cr_assert_eq(natsConnection_ConnectTo(&nc, url), NATS_OK);
	return nc;
}

/* Subjects of chunks (one for each put that has sent any), or, with `messages`, all the stream's messages. */
static unsigned left(bool messages) {
	natsConnection *nc = raw();
	natsMsg *m = NULL;
	unsigned n = 0;
	cr_assert_eq(natsConnection_RequestString(&m, nc, "$JS.API.STREAM.INFO.OBJ_b", "{\"subjects_filter\":\"$O.b.C.>\"}", 5000), NATS_OK);
	const char *text = natsMsg_GetData(m), *p = strstr(text, "\"state\":");
	cr_assert(p, "%s", text);
	if (messages)
		cr_assert_eq(sscanf(strstr(p, "\"messages\":"), "\"messages\":%u", &n), 1);
	else
		for (p = strstr(p, "\"subjects\":"); p && (p = strstr(p + 1, "\"$O.b.C."));)
			n++;
	natsMsg_Destroy(m);
	natsConnection_Destroy(nc);
	return n;
}

/* A removal sweeps, once an hour for each handle: a fresh one, when what is there has grown old. */
static void sweep(struct ms_replica *r) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replica_put_mem(r, "broom", "", 0, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_remove(r, "broom", &err), MS_OK, "%s", err.msg);
}

/* ---- killed ---- */

struct dying_body {
	struct ms_body body;
	size_t at, len, die_at;
};

static enum ms_code dying_read(struct ms_body *b, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct dying_body *d = (struct dying_body *)b;
	(void)err;
	if (d->at >= d->die_at)
		kill(getpid(), SIGKILL);
	size_t n = d->len - d->at < cap ? d->len - d->at : cap;
	memset(buf, 'd', n);
	d->at += n;
	*ret_n = n;
	return MS_OK;
}

Test(nats_dead, a_killed_clients_put_is_never_seen_and_swept) {
	if (!nats_server_available("contract/test_nats_dead a_killed_clients_put_is_never_seen_and_swept"))
		cr_skip_test();
	nats_server_start(&server, NULL);
	/* Before this process has threads of the library. */
	for (int i = 0; i < 3; i++) {
		pid_t pid = fork();
		cr_assert_geq(pid, 0);
		if (pid == 0) {
			struct ms_err err = MS_ERR_INIT;
			begin();
			struct dying_body d = {.body = {.size = 2 << 20, .read = dying_read}, .len = 2 << 20, .die_at = (size_t)(i + 1) * (512u << 10)};
			(void)!ms_replica_put(open_at((unsigned)server.port, ""), "a/half", &d.body, &err);
			_exit(1); /* it lives */
		}
		int status;
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%x", (unsigned)status);
	}
	begin();
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf b;
	struct seen seen = {0, true, 0};
	ms_buf_init(&b, 4u << 20);
	struct ms_replica *r = open_at((unsigned)server.port, "&sweepAge=1s");
	cr_expect_eq(left(false), 3, "chunks of the three are there");
	cr_expect_eq(ms_replica_list(r, "", "", see, &seen, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(seen.n, 0);
	cr_expect_eq(ms_replica_get_buf(r, "a/half", 0, -1, &b, &err), MS_ENOTFOUND);
	/* The name is free, and the sweep knows what is alive. */
	uint8_t *data = noise(300000);
	err = MS_ERR_INIT;
	cr_expect_eq(ms_replica_put_mem(r, "a/half", data, 300000, &err), MS_OK, "%s", err.msg);
	nanosleep(&(struct timespec){1, 500000000}, NULL);
	sweep(r);
	cr_expect_eq(left(false), 1, "only the whole object's chunks stay");
	cr_expect_eq(left(true), 4, "three chunks and one metadata message");
	cr_expect(holds(r, "a/half", data, 300000, &err), "%s", err.msg);
	free(data);
	ms_buf_release(&b);
	ms_replica_close(r);
	nats_server_kill(&server);
}

/* ---- the sweep ---- */

/* A chunk as a put would have sent it for `name`; NULL: as other clients do. */
static void dead_chunk(jsCtx *js, const char *nuid, const char *name) {
	natsMsg *m = NULL;
	char subject[80], token[200];
	snprintf(subject, sizeof subject, "$O.b.C.%s", nuid);
	cr_assert_eq(natsMsg_Create(&m, subject, NULL, "dead", 4), NATS_OK);
	if (name) {
		EVP_EncodeBlock((unsigned char *)token, (const unsigned char *)name, (int)strlen(name));
		cr_assert_eq(natsMsgHeader_Set(m, "Migstream-Object", token), NATS_OK);
	}
	cr_assert_eq(js_PublishMsg(NULL, js, m, NULL, NULL), NATS_OK);
	natsMsg_Destroy(m);
}

Test(nats_dead, the_sweep_takes_what_is_old_and_ours) {
	if (!nats_server_available("contract/test_nats_dead the_sweep_takes_what_is_old_and_ours"))
		cr_skip_test();
	nats_server_start(&server, NULL);
	begin();
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica *never = open_at((unsigned)server.port, "&sweepAge=0s"), *r = open_at((unsigned)server.port, "&sweepAge=2s");
	uint8_t *data = noise(300000);
	cr_assert_eq(ms_replica_put_mem(r, "live", data, 300000, &err), MS_OK, "%s", err.msg);
	natsConnection *nc = raw();
	jsCtx *js = NULL;
	cr_assert_eq(natsConnection_JetStream(&js, nc, NULL), NATS_OK);
	dead_chunk(js, "OLDOLDOLDOLDOLDOLDOLD1", "p/never/was"); /* of no object */
	dead_chunk(js, "OLDOLDOLDOLDOLDOLDOLD2", "p/live");	 /* a loser's, for a name that another put has won */
	dead_chunk(js, "FOREIGNFOREIGNFOREIGN3", NULL);		 /* another client's, perhaps still at it */
	dead_chunk(js, "not-a-nuid", "p/never/was");
	nanosleep(&(struct timespec){2, 300000000}, NULL);
	dead_chunk(js, "YOUNGYOUNGYOUNGYOUNG04", "p/under/way");
	sweep(never);
	cr_expect_eq(left(false), 6, "sweepAge 0 sweeps nothing");
	sweep(r);
	cr_expect_eq(left(false), 4, "the two old ones of ours go, and nothing else");
	cr_expect_eq(left(true), 7);
	cr_expect(holds(r, "live", data, 300000, &err), "%s", err.msg);
	free(data);
	jsCtx_Destroy(js);
	natsConnection_Destroy(nc);
	ms_replica_close(never);
	ms_replica_close(r);
	nats_server_kill(&server);
}

/* ---- cut ---- */

Test(nats_dead, cut_everywhere, .timeout = 120) {
	enum { SIZE = 300000, STEP = 16 << 10 };
	if (!nats_server_available("contract/test_nats_dead cut_everywhere"))
		cr_skip_test();
	struct ms_proxy p;
	struct ms_err err = MS_ERR_INIT;
	uint8_t *data = noise(SIZE);
	unsigned cuts = 0, objects = 0;
	bool finished = false;
	nats_server_start(&server, NULL);
	begin();
	ms_proxy_start(&p, (unsigned)server.port);
	struct ms_replica *direct = open_at((unsigned)server.port, "");
	for (int64_t at = 0; !finished; at += STEP) {
		char name[40];
		struct seen seen = {0, true, SIZE};
		/* A new connection, which may not move more than `at` bytes. */
		struct ms_replica *through = open_at(p.port, "");
		snprintf(name, sizeof name, "cut/%05lld", (long long)(at / STEP));
		atomic_store(&p.cut_after, (int64_t)atomic_load(&p.bytes) + at);
		enum ms_code rc = ms_replica_put_mem(through, name, data, SIZE, &err);
		finished = rc == MS_OK;
		cr_expect(finished || ms_code_retryable(rc), "cut at %lld: %s %s", (long long)at, ms_code_name(rc), err.msg);
		cuts += !finished;
		cr_expect_eq(ms_replica_list(direct, "cut/", "", see, &seen, &err), MS_OK, "%s", err.msg);
		cr_expect(seen.whole && seen.n >= objects && seen.n <= objects + 1, "cut at %lld: %u objects, a part of one is listed", (long long)at, seen.n);
		cr_expect(seen.n == objects || holds(direct, name, data, SIZE, &err), "cut at %lld: listed, and not whole", (long long)at);
		/* The same handle goes on: the object is there from the first try, or is put now. */
		atomic_store(&p.cut_after, -1);
		rc = ms_replica_put_mem(through, name, data, SIZE, &err);
		cr_expect(rc == MS_OK || rc == MS_EEXISTS, "after a cut at %lld: %s %s", (long long)at, ms_code_name(rc), err.msg);
		cr_expect(holds(direct, name, data, SIZE, &err), "cut at %lld: wrong content %s", (long long)at, err.msg);
		objects++;
		/* And a get that is cut. */
		if (!finished && at / STEP % 4 == 1) {
			atomic_store(&p.cut_after, (int64_t)atomic_load(&p.bytes) + at / 2);
			cr_expect_not(holds(through, name, data, SIZE, &err), "a get over a cut connection");
			cr_expect(ms_code_retryable(err.code), "%s", err.msg);
			atomic_store(&p.cut_after, -1);
			cr_expect(holds(through, name, data, SIZE, &err), "%s", err.msg);
		}
		/* The connection goes with its last handle. */
		ms_replica_close(through);
	}
	cr_expect_gt(cuts, 18, "only %u puts were cut", cuts);
	ms_replica_close(direct);
	direct = open_at((unsigned)server.port, "&sweepAge=1s");
	nanosleep(&(struct timespec){1, 500000000}, NULL);
	sweep(direct);
	cr_expect_eq(left(false), objects, "chunks of cut puts stay: %u puts for %u objects", left(false), objects);
	cr_expect_eq(left(true), objects * ((SIZE + CHUNK - 1) / CHUNK + 1));
	ms_replica_close(direct);
	ms_proxy_stop(&p);
	free(data);
	nats_server_kill(&server);
}

/* ---- compression ---- */

Test(nats_dead, compression_needs_a_server_that_can) {
	if (!nats_server_available("contract/test_nats_dead compression_needs_a_server_that_can"))
		cr_skip_test();
	struct ms_err err = MS_ERR_INIT;
	nats_server_start(&server, NULL);
	begin();
	struct ms_replica *r = open_at((unsigned)server.port, "&compression=true"), *plain = open_at((unsigned)server.port, "");
	enum ms_code rc = ms_replica_put_mem(r, "x", "1", 1, &err);
	struct ms_replica_caps caps;
	if (rc != MS_OK) { /* with a newer server on the PATH it is made */
		cr_expect_eq(rc, MS_EUNSUPPORTED, "%s %s", ms_code_name(rc), err.msg);
		cr_expect(strstr(err.msg, "cannot compress buckets (2.10 and later can)"), "%s", err.msg);
		/* Nothing is left of it: without compression the bucket is made, and then taken as it is, with a warning. */
		cr_expect_eq(ms_replica_put_mem(plain, "x", "1", 1, &err), MS_OK, "%s", err.msg);
		cr_expect_eq(ms_replica_put_mem(r, "y", "1", 1, &err), MS_OK, "%s", err.msg);
	}
	ms_replica_caps(r, &caps);
	cr_expect_eq(rc == MS_EUNSUPPORTED, caps.warning && strstr(caps.warning, "is not compressed, although compression: true"), "%s", caps.warning);
	ms_replica_close(r);
	ms_replica_close(plain);
	nats_server_kill(&server);
}

static enum ms_code open_compressed(struct ms_contract *c, struct ms_replica **ret, struct ms_err *err) {
	struct ms_replica_spec spec = {0};
	char url[200];
	snprintf(url, sizeof url, "nats://127.0.0.1:%d/%s/p?compression=true&timeout=20s", server.port, (const char *)c->arg);
	enum ms_code rc = ms_url_parse(url, &spec, err);
	if (!rc)
		rc = ms_replica_open(env, &spec, ret, err);
	ms_replica_spec_release(&spec);
	return rc;
}

/* A server of a newer version than Debian's, with the bucket compressed. */
Test(nats_dead, compressed_on_a_new_server) {
	static const char *const cases[] = {"roundtrip", "ranges", "large", "list", "race", "create_only"};
	if (!nats_server_use_new("contract/test_nats_dead compressed_on_a_new_server"))
		cr_skip_test();
	struct ms_err err = MS_ERR_INIT;
	unsigned ran = 0;
	nats_server_start(&server, NULL);
	begin();
	for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
		struct ms_contract c = {.env = env, .open = open_compressed, .listed = 300, .races = 20, .large = 8u << 20, .arg = (void *)(uintptr_t)k->name};
		bool chosen = false;
		for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
			chosen |= strcmp(k->name, cases[i]) == 0;
		if (!chosen)
			continue;
		ran++;
		k->run(&c);
		cr_expect(!c.failed, "%s: %s", k->name, c.why);
	}
	cr_expect_eq(ran, sizeof cases / sizeof cases[0]);
	/* As the server has it. */
	struct ms_replica *r = open_at((unsigned)server.port, "&compression=true");
	natsMsg *m = NULL;
	cr_assert_eq(ms_replica_put_mem(r, "x", "1", 1, &err), MS_OK, "%s", err.msg);
	natsConnection *nc = raw();
	cr_assert_eq(natsConnection_RequestString(&m, nc, "$JS.API.STREAM.INFO.OBJ_b", "", 5000), NATS_OK);
	cr_expect(strstr(natsMsg_GetData(m), "\"compression\":\"s2\""), "%s", natsMsg_GetData(m));
	natsMsg_Destroy(m);
	natsConnection_Destroy(nc);
	ms_replica_close(r);
	nats_server_kill(&server);
}
