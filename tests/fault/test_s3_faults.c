/* The S3 backend against a server that misbehaves as it is told (tests/support/s3double). */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "replicas/url.h"
#include "support/s3_server.h"

static struct ms_s3_server server;
static struct ms_env *env;
static struct ms_err err;

static void setup(void) {
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
	cr_assert(env = ms_env_uv_new(NULL, &err), "%s", err.msg);
	cr_assert(ms_s3_server_start(&server, "support/s3double", NULL), "%s", server.why);
}

static void teardown(void) {
	ms_s3_server_stop(&server);
	ms_env_uv_free(env);
}
TestSuite(s3, .init = setup, .fini = teardown, .timeout = 60);

static struct ms_replica *open_with(const char *more) {
	struct ms_replica_spec spec = {0};
	struct ms_replica *r = NULL;
	char url[600];
	snprintf(url, sizeof url, "s3://test/p/q?endpoint=%s%s&partSize=5MiB%s", server.endpoint, strstr(more, "timeout=") ? "" : "&timeout=2s", more);
	cr_assert_eq(ms_url_parse(url, &spec, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&spec);
	return r;
}

static void tell(const char *line) { ms_s3_server_tell(&server, line); }

static const char *ask(const char *line) {
	static char answer[4000];
	ms_s3_server_ask(&server, line, answer, sizeof answer);
	return answer;
}

static int count(const char *what) {
	char line[200];
	snprintf(line, sizeof line, "count %s", what);
	return atoi(ask(line));
}

static enum ms_code put(struct ms_replica *r, const char *name, const char *data) { return ms_replica_put_mem(r, name, data, strlen(data), &err); }

static char *large;
#define LARGE (21u << 20)

static void make_large(void) {
	if (large)
		return;
	large = malloc(LARGE);
	for (uint32_t i = 0, x = 1; i < LARGE; i++, x = x * 1103515245u + 12345u)
		large[i] = (char)(x >> 16);
}

static enum ms_code put_large(struct ms_replica *r, const char *name) {
	make_large();
	return ms_replica_put_mem(r, name, large, LARGE, &err);
}

static enum ms_code get(struct ms_replica *r, const char *name, int64_t off, int64_t len, struct ms_buf *out) {
	ms_buf_clear(out);
	return ms_replica_get_buf(r, name, off, len, out, &err);
}

static double seconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Each kind of refusal in its class, with the name of what was done, and nothing that is secret. */
Test(s3, classes) {
	static const struct {
		const char *fault;
		enum ms_code code;
		int sys;
		const char *text;
	} cases[] = {
		{"status 500 InternalError", MS_ERETRY, 500, "InternalError"},
		{"status 502 -", MS_ERETRY, 502, "HTTP 502"},
		{"status 503 SlowDown Retry-After=7", MS_ETHROTTLED, 7, "SlowDown"},
		{"status 503 SlowDown", MS_ETHROTTLED, 0, "SlowDown"},
		{"status 429 TooManyRequests Retry-After=2", MS_ETHROTTLED, 2, "TooManyRequests"},
		{"status 403 AccessDenied", MS_EPERM, 403, "policy"},
		{"status 403 SignatureDoesNotMatch", MS_EAUTH, 403, "secret key is wrong"},
		{"status 403 InvalidAccessKeyId", MS_EAUTH, 403, "accessKeyId"},
		{"status 404 NoSuchBucket", MS_ENOTFOUND, 404, "create the bucket"},
		{"status 409 ConditionalRequestConflict", MS_ERETRY, 409, "another writer"},
		{"status 409 SomethingElse", MS_ECONFLICT, 409, "SomethingElse"},
		{"status 412 PreconditionFailed", MS_EEXISTS, 0, "x/1 exists"},
		{"status 400 BadDigest", MS_ERETRY, 400, "changed on their way"},
		{"status 507 -", MS_ENOSPC, 507, "no room"},
		{"status 400 EntityTooLarge", MS_EPERMANENT, 400, "EntityTooLarge"},
		{"status 301 PermanentRedirect", MS_EPERMANENT, 301, "region"},
		{"close", MS_ERETRY, 0, "http://127.0.0.1"},
	};
	struct ms_replica *r = open_with("");
	cr_assert_eq(put(r, "x/0", "0"), MS_OK, "%s", err.msg);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char line[200];
		snprintf(line, sizeof line, "fault PUT x/1 -1 %s", cases[i].fault);
		tell(line);
		err = MS_ERR_INIT;
		cr_expect_eq(put(r, "x/1", "1"), cases[i].code, "%s: %s %s", cases[i].fault, ms_code_name(err.code), err.msg);
		if (cases[i].code != MS_EEXISTS && cases[i].sys)
			cr_expect_eq(err.sys, cases[i].sys, "%s: %d", cases[i].fault, err.sys);
		cr_expect_not_null(strstr(err.msg, cases[i].text), "%s", err.msg);
		cr_expect_not_null(strstr(err.msg, "s3://test/p/q"), "%s", err.msg);
		cr_expect_null(strstr(err.msg, "migstream-test-secret"), "%s", err.msg);
		tell("clear");
	}
	cr_assert_eq(put(r, "x/1", "1"), MS_OK, "%s", err.msg);
	ms_replica_close(r);
}

/* Nobody there. */
Test(s3, unreachable) {
	struct ms_replica *r = open_with("");
	struct ms_replica_caps caps;
	ms_s3_server_stop(&server);
	ms_replica_caps(r, &caps);
	cr_expect(caps.create_if_absent);
	cr_expect_eq(put(r, "x/1", "1"), MS_ERETRY, "%s", err.msg);
	ms_replica_close(r);
}

/* An answer cut anywhere is an error, and what came before the cut is right. */
Test(s3, cut_gets) {
	struct ms_replica *r = open_with("");
	struct ms_buf b;
	enum { N = 256 << 10 };
	char *data = malloc(N);
	for (int i = 0; i < N; i++)
		data[i] = (char)(i * 7 + i / 251);
	ms_buf_init(&b, N);
	cr_assert_eq(ms_replica_put_mem(r, "x/cut", data, N, &err), MS_OK);
	for (int at = 0; at < N; at += 16 << 10)
		for (int ranged = 0; ranged < 2; ranged++) {
			char line[100];
			snprintf(line, sizeof line, "fault GET x/cut 1 cut %d", at);
			tell(line);
			cr_expect_eq(get(r, "x/cut", ranged, -1, &b), MS_ERETRY, "cut at %d: %s", at, err.msg);
			cr_expect_eq(b.len, 0);
			cr_expect_eq(get(r, "x/cut", ranged, -1, &b), MS_OK, "after cut at %d: %s", at, err.msg);
			cr_expect(b.len == (size_t)(N - ranged) && memcmp(b.data, data + ranged, b.len) == 0, "after cut at %d", at);
			tell("clear");
		}
	ms_buf_release(&b);
	free(data);
	ms_replica_close(r);
}

Test(s3, ranges_that_lie) {
	static const struct {
		const char *fault;
		enum ms_code code;
	} cases[] = {
		{"bytes 101-199/1000", MS_EPERMANENT}, {"bytes 0-99/1000", MS_EPERMANENT},  {"bytes 100-300/1000", MS_EPERMANENT},
		{"nonsense", MS_EPERMANENT},	       {"bytes 100-199/150", MS_EPERMANENT}, {"bytes 100-150/1000", MS_ERETRY},
	};
	struct ms_replica *r = open_with("");
	char data[1000];
	struct ms_buf b;
	ms_buf_init(&b, 2000);
	memset(data, 'd', sizeof data);
	cr_assert_eq(ms_replica_put_mem(r, "x/r", data, sizeof data, &err), MS_OK);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char line[100];
		snprintf(line, sizeof line, "fault GET x/r 1 range %s", cases[i].fault);
		tell(line);
		cr_expect_eq(get(r, "x/r", 100, 100, &b), cases[i].code, "%s: %s %s", cases[i].fault, ms_code_name(err.code), err.msg);
	}
	/* One that sends the whole object instead. */
	tell("set ignore-range 1");
	cr_expect_eq(get(r, "x/r", 990, 100, &b), MS_OK, "%s", err.msg);
	cr_expect_eq(b.len, 10);
	cr_expect_eq(get(r, "x/r", 5, 3, &b), MS_OK, "%s", err.msg);
	cr_expect_eq(b.len, 3);
	cr_expect_eq(get(r, "x/r", 1000, 3, &b), MS_OK, "%s", err.msg);
	cr_expect_eq(b.len, 0);
	ms_buf_release(&b);
	ms_replica_close(r);
}

Test(s3, stalled) {
	struct ms_replica *r = open_with("");
	struct ms_buf b;
	ms_buf_init(&b, 2000);
	cr_assert_eq(put(r, "x/s", "stalling"), MS_OK);
	tell("fault GET x/s 1 stall 4");
	double from = seconds();
	cr_expect_eq(get(r, "x/s", 0, -1, &b), MS_ETIMEDOUT, "%s", err.msg);
	cr_expect(seconds() - from < 8, "%.1f s", seconds() - from);
	tell("fault PUT x/t 1 delay 30");
	cr_expect_eq(put(r, "x/t", "t"), MS_ETIMEDOUT, "%s", err.msg);
	ms_buf_release(&b);
	ms_replica_close(r);
}

static void *cancel_soon(void *arg) {
	usleep(300000);
	ms_replica_cancel(arg);
	return NULL;
}

/* Without the cancellation each of these would take a minute or more. */
Test(s3, cancelled) {
	make_large();
	for (int kind = 0; kind < 3; kind++) {
		struct ms_replica *r = open_with("&timeout=60s");
		struct ms_buf b;
		pthread_t t;
		ms_buf_init(&b, 2000);
		if (kind == 0)
			cr_assert_eq(put(r, "x/s", "stalling"), MS_OK, "%s", err.msg);
		tell("clear");
		tell("fault GET x/s 1 stall 4");
		tell("fault PUT x/t 1 delay 55");
		tell("fault PUT partNumber=2 -1 status 503 SlowDown Retry-After=60");
		double from = seconds();
		cr_assert_eq(pthread_create(&t, NULL, cancel_soon, r), 0);
		enum ms_code rc = kind == 0 ? get(r, "x/s", 0, -1, &b) : kind == 1 ? put(r, "x/t", "t") : put_large(r, "x/large");
		cr_expect_eq(rc, MS_ECANCELED, "%d: %s", kind, err.msg);
		cr_expect(seconds() - from < 5, "%d: %.1f s", kind, seconds() - from);
		pthread_join(t, NULL);
		cr_expect_eq(put(r, "x/u", "u"), MS_ECANCELED);
		ms_buf_release(&b);
		ms_replica_close(r);
	}
}

/* The object is there, and the answer was lost: whoever asks again learns that the name is taken, and finds its own bytes. */
Test(s3, lost_answers) {
	struct ms_replica *r = open_with("");
	struct ms_buf b;
	ms_buf_init(&b, 2000);
	cr_assert_eq(put(r, "x/0", "0"), MS_OK);
	tell("fault PUT x/lost 1 lose");
	enum ms_code rc = put(r, "x/lost", "mine");
	cr_expect(rc == MS_ERETRY || rc == MS_EEXISTS, "%s", err.msg);
	cr_expect_eq(put(r, "x/lost", "mine"), MS_EEXISTS, "%s", err.msg);
	cr_expect_eq(get(r, "x/lost", 0, -1, &b), MS_OK);
	cr_expect(b.len == 4 && memcmp(b.data, "mine", 4) == 0);
	tell("fault DELETE x/lost 1 lose");
	rc = ms_replica_remove(r, "x/lost", &err);
	cr_expect(rc == MS_ERETRY || rc == MS_OK, "%s", err.msg);
	cr_expect_eq(ms_replica_remove(r, "x/lost", &err), MS_OK);
	/* Of an upload's completion: the next put sends no part again. */
	tell("clear");
	tell("fault POST uploadId -1 lose");
	rc = put_large(r, "x/parts");
	cr_expect(rc == MS_ERETRY || rc == MS_EEXISTS, "%s", err.msg);
	int parts = count("PUT partNumber");
	cr_expect_eq(parts, 5);
	cr_expect_eq(put_large(r, "x/parts"), MS_EEXISTS, "%s", err.msg);
	cr_expect_eq(count("PUT partNumber"), parts);
	ms_buf_release(&b);
	ms_replica_close(r);
}

Test(s3, parts) {
	struct ms_replica *r = open_with("");
	struct ms_buf b;
	ms_buf_init(&b, LARGE);
	cr_assert_eq(put(r, "x/0", "0"), MS_OK, "%s", err.msg);
	/* Each kind of passing trouble, in one put. */
	tell("fault PUT partNumber=1 2 status 500 InternalError");
	tell("fault PUT partNumber=3 1 close");
	tell("fault PUT partNumber=4 1 status 503 SlowDown");
	tell("fault POST uploadId 1 error200");
	cr_assert_eq(put_large(r, "x/parts"), MS_OK, "%s", err.msg);
	cr_expect_eq(get(r, "x/parts", 0, -1, &b), MS_OK);
	cr_expect(b.len == LARGE && memcmp(b.data, large, LARGE) == 0);
	cr_expect_eq(atoi(ask("uploads")), 0);
	/* What does not pass ends the put, and leaves nothing behind. */
	tell("clear");
	tell("fault PUT partNumber=3 -1 status 500 InternalError");
	cr_expect_eq(put_large(r, "x/never"), MS_ERETRY, "%s", err.msg);
	cr_expect_eq(count("PUT partNumber=3"), 4);
	cr_expect_eq(atoi(ask("uploads")), 0);
	cr_expect_str_eq(ask("bytes p/q/x/never"), "none");
	tell("clear");
	tell("fault PUT partNumber=2 -1 status 403 AccessDenied");
	cr_expect_eq(put_large(r, "x/never"), MS_EPERM, "%s", err.msg);
	cr_expect_eq(count("PUT partNumber=2"), 1);
	cr_expect_eq(atoi(ask("uploads")), 0);
	/* Taken meanwhile: refused at the completion. */
	tell("clear");
	tell("fault HEAD x/parts 1 status 404 -");
	cr_expect_eq(put_large(r, "x/parts"), MS_EEXISTS, "%s", err.msg);
	cr_expect_eq(count("PUT partNumber"), 5);
	cr_expect_eq(atoi(ask("uploads")), 0);
	ms_buf_release(&b);
	ms_replica_close(r);
}

static void without_conditions(const char *mode) {
	struct ms_replica_caps caps;
	struct ms_buf b;
	char line[100];
	ms_buf_init(&b, 100);
	snprintf(line, sizeof line, "set conditions %s", mode);
	tell(line);
	/* Who puts without having asked is told first. */
	struct ms_replica *r = open_with("");
	cr_expect_eq(put(r, "x/1", "first"), MS_ERETRY, "%s", err.msg);
	cr_expect_str_eq(ask("bytes p/q/x/1"), "none");
	cr_expect_eq(put(r, "x/1", "first"), MS_OK, "%s", err.msg);
	ms_replica_close(r);
	r = open_with("");
	ms_replica_caps(r, &caps);
	cr_expect(!caps.create_if_absent, "%s", mode);
	cr_expect_eq(put(r, "x/1", "second"), MS_EEXISTS, "%s", err.msg);
	cr_expect_eq(put(r, "x/2", "two"), MS_OK, "%s", err.msg);
	cr_expect_eq(get(r, "x/1", 0, -1, &b), MS_OK);
	cr_expect(b.len == 5 && memcmp(b.data, "first", 5) == 0);
	cr_expect_eq(put_large(r, "x/3"), MS_OK, "%s", err.msg);
	cr_expect_eq(put_large(r, "x/3"), MS_EEXISTS, "%s", err.msg);
	ms_buf_release(&b);
	ms_replica_close(r);
}

Test(s3, conditions_ignored) { without_conditions("ignored"); }
Test(s3, conditions_not_implemented) { without_conditions("none"); }
Test(s3, conditions_only_on_puts) { without_conditions("parts"); }

/* Honoured: asked once for a bucket and process, whatever the number of handles. */
Test(s3, conditions_asked_once) {
	struct ms_replica_caps caps;
	for (int i = 0; i < 3; i++) {
		struct ms_replica *r = open_with("");
		char name[20];
		snprintf(name, sizeof name, "x/%d", i);
		ms_replica_caps(r, &caps);
		cr_expect(caps.create_if_absent);
		cr_expect_eq(put(r, name, "x"), MS_OK, "%s", err.msg);
		ms_replica_close(r);
	}
	cr_expect_eq(count("PUT .migstream-probe"), 3); /* made, refused, one part of an upload */
	cr_expect_eq(count("PUT q/x/"), 3);
	cr_expect_eq(atoi(ask("uploads")), 0);
}

/* What one more try mends, and the next handle knows. */
Test(s3, mended) {
	struct ms_buf b;
	ms_buf_init(&b, 100);
	tell("set region eu-west-7");
	struct ms_replica *r = open_with("");
	cr_expect_eq(put(r, "x/region", "1"), MS_OK, "%s", err.msg);
	cr_expect_not_null(strstr(ask("header PUT x/region authorization"), "/eu-west-7/s3/"));
	ms_replica_close(r);
	tell("clear");
	r = open_with("");
	cr_expect_eq(get(r, "x/region", 0, -1, &b), MS_OK, "%s", err.msg);
	cr_expect_eq(count("GET ~"), 1);
	tell("set skew 5000");
	cr_expect_eq(put(r, "x/skew", "2"), MS_OK, "%s", err.msg);
	tell("set skew -5000");
	cr_expect_eq(get(r, "x/skew", 0, 0, &b), MS_OK, "by HEAD, which says nothing: %s", err.msg);
	tell("set skew 0");
	tell("set md5 1");
	cr_expect_eq(put(r, "x/md5", "3"), MS_OK, "%s", err.msg);
	/* MD5 of "3", by Python's hashlib */
	cr_expect_str_eq(ask("header PUT x/md5 content-md5"), "7MvIfktc4v4oMI/Z8qe68w==");
	ms_replica_close(r);
	/* Only once each: no loop. */
	tell("clear");
	tell("fault GET x/loop -1 status 403 RequestTimeTooSkewed");
	r = open_with("");
	cr_expect_eq(get(r, "x/loop", 0, -1, &b), MS_EAUTH, "%s", err.msg);
	cr_expect(count("GET x/loop") <= 2);
	ms_buf_release(&b);
	ms_replica_close(r);
}

Test(s3, sweep) {
	tell("upload p/q/seg/old 90000");
	tell("upload p/q/seg/young 3600");
	tell("upload p/other/old 90000");
	tell("upload p/q2 90000");
	tell("upload p/q/not,ours 90000");
	struct ms_replica *r = open_with("");
	cr_expect_eq(put(r, "x/1", "1"), MS_OK, "%s", err.msg);
	cr_expect_eq(put(r, "x/2", "2"), MS_OK, "%s", err.msg);
	cr_expect_eq(atoi(ask("uploads")), 4);
	cr_expect_eq(count("DELETE uploadId=old0"), 1);
	cr_expect_eq(count("GET uploads"), 1);
	ms_replica_close(r);
}

/* Only what every dialect takes is sent unless it is asked for. */
Test(s3, headers) {
	struct ms_replica *r = open_with("");
	cr_expect_eq(put(r, "x/1", "1"), MS_OK, "%s", err.msg);
	cr_expect_str_eq(ask("headers PUT x/1"), "authorization content-length host if-none-match user-agent x-amz-content-sha256 x-amz-date");
	ms_replica_close(r);
	r = open_with("&storageClass=STANDARD_IA&sse=aws:kms&sseKmsKeyId=arn:aws:kms:eu-west-1:1:key/2&objectLockMode=GOVERNANCE&objectLockDays=30");
	cr_expect_eq(put(r, "x/2", "2"), MS_OK, "%s", err.msg);
	cr_expect_str_eq(ask("headers PUT x/2"),
			 "authorization content-length content-md5 host if-none-match user-agent x-amz-content-sha256 x-amz-date x-amz-object-lock-mode "
			 "x-amz-object-lock-retain-until-date x-amz-server-side-encryption x-amz-server-side-encryption-aws-kms-key-id x-amz-storage-class");
	cr_expect_str_eq(ask("header PUT x/2 x-amz-storage-class"), "STANDARD_IA");
	cr_expect_eq(put_large(r, "x/3"), MS_OK, "%s", err.msg);
	cr_expect_str_eq(ask("header POST uploads= x-amz-object-lock-mode"), "GOVERNANCE");
	cr_expect_str_eq(ask("header PUT partNumber=2 x-amz-object-lock-mode"), "-");
	ms_replica_close(r);
}

static struct ms_replica *open_typed(const char *const *options, enum ms_code code) {
	struct ms_replica_spec spec = {.scheme = strdup("s3")};
	struct ms_replica *r = NULL;
	cr_assert_eq(ms_replica_spec_set(&spec, "bucket", "test", &err), MS_OK);
	cr_assert_eq(ms_replica_spec_set(&spec, "endpoint", server.endpoint, &err), MS_OK);
	for (; options[0]; options += 2)
		cr_assert_eq(ms_replica_spec_set(&spec, options[0], options[1], &err), MS_OK);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), code, "%s", err.msg);
	ms_replica_spec_release(&spec);
	return r;
}

static void setup_tls(void) {
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
	cr_assert(env = ms_env_uv_new(NULL, &err), "%s", err.msg);
	cr_assert(ms_s3_server_start(&server, "support/s3double", "tls"), "%s", server.why);
}

/* base64 of 32 bytes '0', and of the MD5 of these, by Python */
#define CUSTOMER_KEY "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="
#define CUSTOMER_KEY_MD5 "zZ5FnqcIqUjVwvWmyog4zw=="

Test(s3_tls, certificates, .init = setup_tls, .fini = teardown, .timeout = 60) {
	char file[4000];
	struct ms_buf b;
	ms_buf_init(&b, 100);
	snprintf(file, sizeof file, "%s", ask("certificate"));
	/* Nobody vouches for it. */
	struct ms_replica *r = open_typed((const char *[]){NULL}, MS_OK);
	cr_expect_eq(put(r, "x/1", "1"), MS_EAUTH, "%s", err.msg);
	cr_expect_not_null(strstr(err.msg, "caFile"), "%s", err.msg);
	ms_replica_close(r);
	r = open_typed((const char *[]){"caFile", file, NULL}, MS_OK);
	cr_expect_eq(put(r, "x/1", "1"), MS_OK, "%s", err.msg);
	ms_replica_close(r);
	/* A connection that was made with trust serves nobody who has none. */
	r = open_typed((const char *[]){NULL}, MS_OK);
	cr_expect_eq(get(r, "x/1", 0, -1, &b), MS_EAUTH, "%s", err.msg);
	ms_replica_close(r);
	r = open_typed((const char *[]){"insecureSkipVerify", "true", NULL}, MS_OK);
	cr_expect_eq(get(r, "x/1", 0, -1, &b), MS_OK, "%s", err.msg);
	ms_replica_close(r);
	setenv("AWS_CA_BUNDLE", file, 1);
	r = open_typed((const char *[]){NULL}, MS_OK);
	cr_expect_eq(get(r, "x/1", 0, -1, &b), MS_OK, "%s", err.msg);
	ms_replica_close(r);
	unsetenv("AWS_CA_BUNDLE");
	r = open_typed((const char *[]){"caFile", "/nonexistent.pem", NULL}, MS_OK);
	cr_expect_eq(get(r, "x/1", 0, -1, &b), MS_EAUTH, "%s", err.msg);
	ms_replica_close(r);
	ms_buf_release(&b);
}

Test(s3_tls, customer_key, .init = setup_tls, .fini = teardown, .timeout = 60) {
	char file[4000];
	struct ms_buf b;
	ms_buf_init(&b, 100);
	snprintf(file, sizeof file, "%s", ask("certificate"));
	struct ms_replica *r = open_typed((const char *[]){"caFile", file, "sseCustomerKey", CUSTOMER_KEY, "partSize", "5MiB", NULL}, MS_OK);
	cr_expect_eq(put(r, "x/1", "1"), MS_OK, "%s", err.msg);
	cr_expect_str_eq(ask("header PUT x/1 x-amz-server-side-encryption-customer-key-md5"), CUSTOMER_KEY_MD5);
	cr_expect_eq(get(r, "x/1", 0, -1, &b), MS_OK, "%s", err.msg);
	cr_expect_str_eq(ask("header GET x/1 x-amz-server-side-encryption-customer-key"), CUSTOMER_KEY);
	cr_expect_eq(put_large(r, "x/2"), MS_OK, "%s", err.msg);
	cr_expect_str_eq(ask("header PUT partNumber=2 x-amz-server-side-encryption-customer-algorithm"), "AES256");
	ms_replica_close(r);
	(void)open_typed((const char *[]){"sseCustomerKey", "c2hvcnQ=", NULL}, MS_EUSAGE);
	cr_expect_null(strstr(err.msg, "c2hvcnQ"), "%s", err.msg);
	ms_buf_release(&b);
}

/* What cannot work is said at once. */
Test(s3, options) {
	static const char *const bad[][5] = {
		{"partSize", "1MiB"},	  {"partSize", "1GiB"},		  {"concurrency", "0"},
		{"concurrency", "17"},	  {"timeout", "10ms"},		  {"sse", "rot13"},
		{"sseKmsKeyId", "k"},	  {"objectLockMode", "GOVERNANCE"}, {"objectLockMode", "MAYBE", "objectLockDays", "3"},
		{"objectLockDays", "3"},  {"storageClass", "a b"},	  {"sseCustomerKey", CUSTOMER_KEY},
		{"region", "eu west"},	  {"endpoint", "gopher://h"},	  {"bucket", "a/b"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		(void)open_typed(bad[i], MS_EUSAGE);
}
