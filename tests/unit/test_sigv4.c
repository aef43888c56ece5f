/*
 * Signatures that Amazon published: the worked examples of "Authenticating Requests: Using the Authorization Header" (S3 API Reference), and cases of the
 * Signature Version 4 test suite (awslabs/aws-c-auth, tests/aws-signing-test-suite/v4). Nothing here was computed by this code.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "replicas/sigv4.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

struct vector {
	const char *name, *method, *path; /* path not encoded */
	struct ms_sigv4_pair params[2];
	unsigned nparams;
	struct ms_sigv4_pair headers[6];
	unsigned nheaders;
	const char *payload, *signed_names, *signature;
};

#define DOC_HOST {"host", "examplebucket.s3.amazonaws.com"}
#define DOC_DATE {"x-amz-date", "20130524T000000Z"}
static const struct vector documented[] = {
	{"GET object", "GET", "/test.txt", {{0}}, 0,
	 {DOC_HOST, {"range", "bytes=0-9"}, {"x-amz-content-sha256", EMPTY}, DOC_DATE}, 4, EMPTY,
	 "host;range;x-amz-content-sha256;x-amz-date", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
	/* "Welcome to Amazon S3." */
	{"PUT object", "PUT", "/test$file.text", {{0}}, 0,
	 {{"x-amz-storage-class", "REDUCED_REDUNDANCY"}, DOC_HOST, {"date", "Fri, 24 May 2013 00:00:00 GMT"}, DOC_DATE,
	  {"x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"}}, 5,
	 "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
	 "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
	{"GET bucket lifecycle", "GET", "/", {{"lifecycle", ""}}, 1, {DOC_HOST, DOC_DATE, {"x-amz-content-sha256", EMPTY}}, 3, EMPTY,
	 "host;x-amz-content-sha256;x-amz-date", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
	{"list objects", "GET", "/", {{"prefix", "J"}, {"max-keys", "2"}}, 2, {DOC_HOST, DOC_DATE, {"x-amz-content-sha256", EMPTY}}, 3, EMPTY,
	 "host;x-amz-content-sha256;x-amz-date", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
};

#define HOST {"host", "example.amazonaws.com"}
#define DATE {"x-amz-date", "20150830T123600Z"}
#define UNRESERVED "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
static const struct vector suite[] = {
	{"get-vanilla", "GET", "/", {{0}}, 0, {HOST, DATE}, 2, EMPTY, "host;x-amz-date",
	 "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
	{"get-vanilla-query-order-key-case", "GET", "/", {{"Param2", "value2"}, {"Param1", "value1"}}, 2, {HOST, DATE}, 2, EMPTY, "host;x-amz-date",
	 "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
	{"get-vanilla-query-unreserved", "GET", "/", {{UNRESERVED, UNRESERVED}}, 1, {HOST, DATE}, 2, EMPTY, "host;x-amz-date",
	 "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
	{"get-vanilla-utf8-query", "GET", "/", {{"\xe1\x88\xb4", "bar"}}, 1, {HOST, DATE}, 2, EMPTY, "host;x-amz-date",
	 "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
	{"get-utf8", "GET", "/\xe1\x88\xb4", {{0}}, 0, {HOST, DATE}, 2, EMPTY, "host;x-amz-date",
	 "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
	{"get-unreserved", "GET", "/" UNRESERVED, {{0}}, 0, {HOST, DATE}, 2, EMPTY, "host;x-amz-date",
	 "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
	{"get-space-unnormalized", "GET", "/example space/", {{0}}, 0, {HOST, DATE}, 2, EMPTY, "host;x-amz-date",
	 "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"},
	{"get-header-value-trim", "GET", "/", {{0}}, 0, {HOST, DATE, {"my-header1", " value1"}, {"my-header2", " \"a   b   c\""}}, 4, EMPTY,
	 "host;my-header1;my-header2;x-amz-date", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
	{"get-vanilla-with-session-token", "GET", "/", {{0}}, 0,
	 {HOST, DATE, {"x-amz-security-token", "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"}}, 3, EMPTY,
	 "host;x-amz-date;x-amz-security-token", "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"},
};

static void check(const struct vector *v, const char *access, const char *secret, const char *service, const char *time) {
	struct ms_buf path, query, out;
	struct ms_err err = MS_ERR_INIT;
	char expect[600];
	ms_buf_init(&path, 4096);
	ms_buf_init(&query, 4096);
	ms_buf_init(&out, 4096);
	cr_assert_eq(ms_sigv4_encode(&path, v->path, true, &err), MS_OK);
	cr_assert_eq(ms_sigv4_query(&query, v->params, v->nparams, &err), MS_OK);
	cr_assert_eq(ms_buf_u8(&path, 0, &err) + ms_buf_u8(&query, 0, &err), 0);
	struct ms_sigv4_request q = {.method = v->method, .path = (char *)path.data, .query = (char *)query.data, .headers = v->headers,
				     .nheaders = v->nheaders, .payload_sha256 = v->payload, .region = "us-east-1", .service = service,
				     .access_key = access, .secret_key = secret};
	strcpy(q.time, time);
	cr_assert_eq(ms_sigv4_authorization(&q, &out, &err), MS_OK, "%s: %s", v->name, err.msg);
	snprintf(expect, sizeof expect, "AWS4-HMAC-SHA256 Credential=%s/%.8s/us-east-1/%s/aws4_request, SignedHeaders=%s, Signature=%s", access, time, service,
		 v->signed_names, v->signature);
	cr_assert_eq(ms_buf_u8(&out, 0, &err), MS_OK);
	cr_expect_str_eq((char *)out.data, expect, "%s: %s", v->name, (char *)out.data);
	ms_buf_release(&path);
	ms_buf_release(&query);
	ms_buf_release(&out);
}

Test(sigv4, documented) {
	for (size_t i = 0; i < sizeof documented / sizeof documented[0]; i++)
		check(&documented[i], "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "s3", "20130524T000000Z");
}

Test(sigv4, suite) {
	for (size_t i = 0; i < sizeof suite / sizeof suite[0]; i++)
		check(&suite[i], "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "service", "20150830T123600Z");
}

Test(sigv4, parts) {
	char hash[MS_SHA256_HEX], time[17];
	struct ms_buf b;
	struct ms_err err = MS_ERR_INIT;
	ms_sha256_hex(hash, NULL, 0);
	cr_assert_str_eq(hash, EMPTY);
	/* FIPS 180-2, B.1 */
	ms_sha256_hex(hash, "abc", 3);
	cr_assert_str_eq(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	ms_sigv4_time(time, INT64_C(1369353600000000));
	cr_assert_str_eq(time, "20130524T000000Z");
	ms_sigv4_time(time, INT64_C(1440938160999999));
	cr_assert_str_eq(time, "20150830T123600Z");
	ms_buf_init(&b, 1000);
	cr_assert_eq(ms_sigv4_encode(&b, "a b/c+d%=&*~", false, &err), MS_OK);
	cr_assert_eq(ms_buf_u8(&b, 0, &err), MS_OK);
	cr_assert_str_eq((char *)b.data, "a%20b%2Fc%2Bd%25%3D%26%2A~");
	ms_buf_release(&b);
}

/* What cannot be signed right is refused. */
Test(sigv4, refused) {
	struct ms_sigv4_pair twice[] = {HOST, DATE, HOST};
	struct ms_sigv4_request q = {.method = "GET", .path = "/", .query = "", .headers = twice, .nheaders = 3, .payload_sha256 = EMPTY, .region = "r",
				     .service = "s3", .access_key = "a", .secret_key = "b", .time = "20150830T123600Z"};
	struct ms_buf out;
	struct ms_err err = MS_ERR_INIT;
	char longest[300];
	ms_buf_init(&out, 4096);
	cr_assert_eq(ms_sigv4_authorization(&q, &out, &err), MS_EINVAL);
	q.nheaders = 0;
	cr_assert_eq(ms_sigv4_authorization(&q, &out, &err), MS_EINVAL);
	q.nheaders = 2;
	cr_assert_eq(ms_sigv4_authorization(&q, &out, &err), MS_OK);
	memset(longest, 'x', sizeof longest);
	longest[sizeof longest - 1] = '\0';
	q.secret_key = longest;
	cr_assert_eq(ms_sigv4_authorization(&q, &out, &err), MS_EAUTH);
	cr_assert_null(strstr(err.msg, "xxx"), "%s", err.msg);
	ms_buf_release(&out);
}
