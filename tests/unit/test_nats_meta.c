#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "replicas/nats_conf.h"
#include "replicas/nats_meta.h"
#include "replicas/nats_nkey.h"
#include "replicas/nats_session.h"
#include "replicas/url.h"

/* RFC 4648, section 10, and bytes that the two alphabets write differently. */
Test(nats_meta, base64) {
	static const char *const v[][2] = {{"", ""},	       {"f", "Zg=="},	     {"fo", "Zm8="},	  {"foo", "Zm9v"},
					   {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff\xfe", "-__-"}};
	char text[32], back[32];
	size_t n;
	for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
		ms_nats_b64url(v[i][0], strlen(v[i][0]), text);
		cr_expect_str_eq(text, v[i][1]);
		cr_expect(ms_nats_b64_decode(v[i][1], strlen(v[i][1]), back, sizeof back, &n) && n == strlen(v[i][0]) && memcmp(back, v[i][0], n) == 0);
	}
	cr_expect(ms_nats_b64_decode("+//+", 4, back, sizeof back, &n) && n == 3, "the other alphabet too");
	cr_expect(ms_nats_b64_decode("Zg", 2, back, sizeof back, &n) && n == 1, "without padding too");
	static const char *const bad[] = {"Z", "Zg=a", "Zm9v!", "Zh==", "Zg= ="};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect_not(ms_nats_b64_decode(bad[i], strlen(bad[i]), back, sizeof back, &n), "%s", bad[i]);
	cr_expect_not(ms_nats_b64_decode("Zm9v", 4, back, 2, &n), "two bytes of room");
}

Test(nats_meta, subjects) {
	char subject[MS_NATS_SUBJECT_MAX], name[MS_NATS_FULL_NAME_MAX + 1];
	ms_nats_meta_subject("b", "p/00000001-38a4d884/segments/0000000000000002.seg", subject);
	/* python3: base64.urlsafe_b64encode */
	cr_expect_str_eq(subject, "$O.b.M.cC8wMDAwMDAwMS0zOGE0ZDg4NC9zZWdtZW50cy8wMDAwMDAwMDAwMDAwMDAyLnNlZw==");
	cr_expect(ms_nats_meta_subject_name("b", subject, name));
	cr_expect_str_eq(name, "p/00000001-38a4d884/segments/0000000000000002.seg");
	static const char *const bad[] = {"$O.c.M.Zg==", "$O.b.C.Zg==", "$O.b.M.", "$O.b.M.Zg.Zg", "$O.b.M.AGEA", "x"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect_not(ms_nats_meta_subject_name("b", bad[i], name), "%s", bad[i]);
	cr_expect(ms_nats_bucket_valid("A-b_9"));
	cr_expect_not(ms_nats_bucket_valid("") || ms_nats_bucket_valid("a.b") || ms_nats_bucket_valid("a b") || ms_nats_bucket_valid("a>"));
}

static enum ms_code decode(const char *json, struct ms_nats_meta *m) {
	struct ms_err err = MS_ERR_INIT;
	return ms_nats_meta_decode(json, strlen(json), m, &err);
}

/* As nats.go 1.37 writes it: 300,000 bytes in three chunks. */
Test(nats_meta, foreign) {
	struct ms_nats_meta m;
	cr_assert_eq(decode("{\"name\":\"a/b.seg\",\"options\":{\"max_chunk_size\":131072},\"bucket\":\"b\",\"nuid\":\"6HAasW8WpJJ0Y4chxG5HmV\",\"size\":300000,"
			    "\"mtime\":\"0001-01-01T00:00:00Z\",\"chunks\":3,\"digest\":\"SHA-256=T5EjaL0_bsP2dls2KOLBuLJ8NZfZ6vSclBp-qDEDiKY=\"}", &m), MS_OK);
	cr_expect_str_eq(m.name, "a/b.seg");
	cr_expect_str_eq(m.nuid, "6HAasW8WpJJ0Y4chxG5HmV");
	cr_expect(m.size == 300000 && m.chunks == 3 && m.chunk_size == 131072 && m.has_digest && !m.deleted && !m.link && m.nruns == 0);
	cr_expect(m.digest[0] == 0x4f && m.digest[31] == 0xa6);
	cr_assert_eq(decode("{\"name\":\"a\",\"bucket\":\"b\",\"nuid\":\"6HAasW8WpJJ0Y4chxG5HmV\",\"size\":0,\"chunks\":0,\"deleted\":true}", &m), MS_OK);
	cr_expect(m.deleted);
	cr_assert_eq(decode("{\"name\":\"a\",\"bucket\":\"b\",\"nuid\":\"x\",\"options\":{\"link\":{\"bucket\":\"c\",\"name\":\"d\"}}}", &m), MS_OK);
	cr_expect(m.link);
}

Test(nats_meta, hostile) {
	static const char *const bad[] = {"",
					  "[]",
					  "{}",
					  "{\"name\":7}",
					  "{\"name\":\"\"}",
					  "{\"name\":\"a\",\"nuid\":\"x.>\"}",
					  "{\"name\":\"a\",\"nuid\":\"\\\"}\"}",
					  "{\"name\":\"a\",\"nuid\":\"x\",\"size\":-1}",
					  "{\"name\":\"a\",\"nuid\":\"x\",\"size\":1,\"chunks\":2}",
					  "{\"name\":\"a\",\"nuid\":\"x\",\"size\":1}",
					  "{\"name\":\"a\",\"nuid\":\"12345678901234567890123\",\"size\":1,\"chunks\":1}",
					  "{\"name\":\"a\\u0000b\",\"nuid\":\"x\"}",
					  "{\"name\":\"a\",\"name\":\"b\",\"nuid\":\"x\"}"};
	struct ms_nats_meta m;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect_eq(decode(bad[i], &m), MS_ECORRUPT, "%s", bad[i]);
	/* Sequences that do not add up are left out: the chunks are walked then. */
	static const char *const runs[] = {"5+3", "5+1,", "5+2,", "+", "5+99999999999999999999", "0+2", "18446744073709551615+2", "5+1,6+1,7+1", "a"};
	for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
		char json[300];
		snprintf(json, sizeof json, "{\"name\":\"a\",\"nuid\":\"x\",\"size\":150000,\"chunks\":2,\"options\":{\"max_chunk_size\":131072},\"metadata\":{\"migstream-chunks\":\"%s\"}}", runs[i]);
		cr_assert_eq(decode(json, &m), MS_OK);
		cr_expect_eq(m.nruns, i == 2 ? 1 : 0, "%s", runs[i]);
	}
}

Test(nats_meta, round_trip) {
	struct ms_nats_meta m = {.name = "p/x", .bucket = "b", .nuid = "ABCDEFGHIJKLMNOPQRSTUV", .size = 5 * MS_NATS_CHUNK - 1, .chunks = 5, .chunk_size = MS_NATS_CHUNK}, back;
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf b;
	unsigned n = 0;
	for (uint64_t i = 0; i < 5; i++)
		ms_nats_runs_add(m.runs, &n, i < 3 ? 10 + i : 20 + i);
	m.nruns = n;
	cr_assert_eq(n, 2);
	ms_buf_init(&b, MS_NATS_META_MAX);
	cr_assert_eq(ms_nats_meta_encode(&m, &b, &err), MS_OK, "%s", err.msg);
	cr_expect(memmem(b.data, b.len, "\"migstream-chunks\":\"10+3,23+2\"", 30));
	cr_assert_eq(ms_nats_meta_decode(b.data, b.len, &back, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(ms_nats_runs_at(&back, 2), 12);
	cr_expect_eq(ms_nats_runs_at(&back, 3), 23);
	cr_expect_eq(ms_nats_runs_at(&back, 4), 24);
	cr_expect_eq(ms_nats_runs_at(&back, 5), 0);
	ms_buf_release(&b);
}

/* Made by github.com/nats-io/nkeys 0.4.7 from the bytes 0..31. */
Test(nats_nkey, public_key) {
	static const char seed[] = "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y";
	static const char *const bad[] = {"", "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H777Y", "SAAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4HYMHI",
					  "suaaaaicamcakbqhbaeqwoymbuha6earcijrifiwc4mbsgq3dqor4h776y", "SUAAAA"};
	char key[MS_NATS_NKEY_MAX], padded[80];
	struct ms_err err = MS_ERR_INIT;
	snprintf(padded, sizeof padded, " %s\n", seed);
	cr_assert_eq(ms_nats_nkey_public(padded, key, &err), MS_OK, "%s", err.msg);
	cr_expect_str_eq(key, "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK");
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		cr_expect_eq(ms_nats_nkey_public(bad[i], key, &err), MS_EUSAGE, "%s", bad[i]);
		cr_expect_null(strstr(err.msg, "AAICAMCA"), "the seed shows: %s", err.msg);
	}
}

/* Codes of the server's errors.json. */
Test(nats_session, classes) {
	cr_expect_eq(ms_nats_class(503, 10077), MS_ENOSPC);
	cr_expect_eq(ms_nats_class(500, 10047), MS_ENOSPC);
	cr_expect_eq(ms_nats_class(400, 10071), MS_EEXISTS);
	cr_expect_eq(ms_nats_class(404, 10059), MS_ENOTFOUND);
	cr_expect_eq(ms_nats_class(404, 10037), MS_ENOTFOUND);
	cr_expect_eq(ms_nats_class(503, 10008), MS_ERETRY);
	cr_expect_eq(ms_nats_class(400, 10005), MS_ERETRY);
	cr_expect_eq(ms_nats_class(503, 10076), MS_EPERMANENT);
	cr_expect_eq(ms_nats_class(429, 10167), MS_ETHROTTLED);
	cr_expect_eq(ms_nats_class(400, 10074), MS_EPERMANENT);
}

static void conf(const char *url, const char *key, const char *value, enum ms_code want, const char *says) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica_spec s = {0};
	struct ms_replica *r = NULL;
	struct ms_env *env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env && ms_replicas_register_builtin(&err) == MS_OK);
	enum ms_code rc = ms_url_parse(url, &s, &err);
	if (!rc && key)
		rc = ms_replica_spec_set(&s, key, value, &err);
	if (!rc)
		rc = ms_replica_open(env, &s, &r, &err);
	cr_expect_eq(rc, want, "%s: %s", url, err.msg);
	cr_expect(rc == MS_OK || strstr(err.msg, says), "%s: %s", url, err.msg);
	cr_expect_not(strstr(err.msg, "hunter2"), "%s", err.msg);
	ms_replica_close(r);
	ms_replica_spec_release(&s);
	ms_env_uv_free(env);
}

Test(nats_conf, options) {
	conf("nats://a:1,b,c:3/bucket/p", NULL, NULL, MS_OK, "");
	conf("nats://[::1]:4222/bucket", NULL, NULL, MS_OK, "");
	conf("nats://a:0/bucket", NULL, NULL, MS_EUSAGE, "host:port");
	conf("nats://a:1,,b/bucket", NULL, NULL, MS_EUSAGE, "host:port");
	conf("nats://a/buc.ket", NULL, NULL, MS_EUSAGE, "bucket");
	conf("nats://a/b?tls=false&serverName=x", NULL, NULL, MS_EUSAGE, "tls: false");
	conf("nats://a/b?tls=maybe", NULL, NULL, MS_EUSAGE, "tls");
	conf("nats://a/b?rootCAs=/nonexistent/ca", NULL, NULL, MS_ENOTFOUND, "rootCAs");
	conf("nats://a/b?certFile=/etc/passwd", NULL, NULL, MS_EUSAGE, "keyFile");
	conf("nats://a/b?insecure=true&serverName=x", NULL, NULL, MS_EUSAGE, "insecure");
	conf("nats://a/b?creds=/nonexistent", NULL, NULL, MS_ENOTFOUND, "creds");
	conf("nats://a/b?username=u&creds=/etc/passwd", NULL, NULL, MS_EUSAGE, "more than one");
	conf("nats://a/b", "password", "hunter2", MS_EUSAGE, "username");
	conf("nats://a/b", "nkeySeed", "hunter2", MS_EUSAGE, "seed");
	conf("nats://a/b?password=hunter2", NULL, NULL, MS_EUSAGE, "secret");
	conf("nats://a/b?replicas=9", NULL, NULL, MS_EUSAGE, "replicas");
	conf("nats://a/b?storage=tape", NULL, NULL, MS_EUSAGE, "storage");
	conf("nats://a/b?timeout=1ms", NULL, NULL, MS_EUSAGE, "timeout");
}
