/* The chain of credentials: files by hand, services by tests/support/s3double. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replicas/aws_credentials.h"
#include "replicas/aws_metadata.h"
#include "replicas/aws_profile.h"
#include "support/s3_server.h"
#include "support/tmpdir.h"

static struct ms_s3_server server;
static struct ms_env *env;
static struct ms_err err;
static struct ms_aws_keys k;
static struct ms_aws_source s;
static char *dir;

static void setup(void) {
	cr_assert(env = ms_env_uv_new(NULL, &err), "%s", err.msg);
	cr_assert(ms_s3_server_start(&server, "support/s3double", NULL), "%s", server.why);
	/* Nothing of the one who runs this. */
	unsetenv("AWS_ACCESS_KEY_ID");
	unsetenv("AWS_SECRET_ACCESS_KEY");
	unsetenv("AWS_EC2_METADATA_DISABLED");
	setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.endpoint, 1);
	dir = ms_test_tmpdir();
	setenv("HOME", dir, 1);
	unsetenv("AWS_SHARED_CREDENTIALS_FILE");
	unsetenv("AWS_CONFIG_FILE");
	s = (struct ms_aws_source){.env = env, .region = "eu-west-1"};
}

static void teardown(void) {
	ms_s3_server_stop(&server);
	ms_env_uv_free(env);
}
TestSuite(aws_credentials, .init = setup, .fini = teardown, .timeout = 60);

static enum ms_code look(void) {
	err = MS_ERR_INIT;
	return ms_aws_credentials(&s, ms_env_now_us(env), false, &k, &err);
}

static void write_file(const char *name, const char *text) {
	char path[4200];
	snprintf(path, sizeof path, "mkdir -p %s/.aws", dir);
	cr_assert_eq(system(path), 0);
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
}

static int count(const char *what) {
	char answer[100];
	ms_s3_server_ask(&server, what, answer, sizeof answer);
	return atoi(answer);
}

Test(aws_credentials, order) {
	/* The weakest first: each next one goes before. */
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.source, "the instance's role the-role");
	write_file(".aws/credentials", "# mine\n[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key=s/e+c=ret\n\n"
				       "[backup]\r\naws_access_key_id=AKBACKUP\r\naws_secret_access_key = hush \r\naws_session_token=tok\r\n[other]\naws_access_key_id=AKO\n");
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.access_key, "AKDEFAULT");
	cr_expect_str_eq(k.secret_key, "s/e+c=ret");
	cr_expect_str_eq(k.token, "");
	setenv("AWS_PROFILE", "backup", 1);
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.access_key, "AKBACKUP");
	cr_expect_str_eq(k.secret_key, "hush");
	cr_expect_str_eq(k.token, "tok");
	cr_expect_str_eq(k.source, "profile backup");
	setenv("AWS_ACCESS_KEY_ID", "AKENV", 1);
	cr_expect_eq(look(), MS_EAUTH);
	setenv("AWS_SECRET_ACCESS_KEY", "envsecret", 1);
	setenv("AWS_SESSION_TOKEN", "envtoken", 1);
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.access_key, "AKENV");
	cr_expect_str_eq(k.token, "envtoken");
	s.profile = "default";
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.access_key, "AKDEFAULT");
	s.access_key = "AKOPTION";
	cr_expect_eq(look(), MS_EAUTH);
	s.secret_key = "optionsecret";
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.access_key, "AKOPTION");
	cr_expect_str_eq(k.token, "");
}

Test(aws_credentials, config_file) {
	struct ms_aws_profile p = {.found = false};
	write_file(".aws/config", "[default]\nregion = eu-south-2\ns3 =\n  region = nested\n[profile work]\nregion=us-west-2\naws_access_key_id=AKW\naws_secret_access_key=w\n"
				  "[work]\nregion=not-this\n[profile sso]\nsso_session = x\n");
	write_file(".aws/credentials", "[work]\naws_access_key_id=AKFIRST\naws_secret_access_key=first\n");
	cr_expect_eq(ms_aws_profile_load(env, NULL, &p, &err), MS_OK);
	cr_expect_str_eq(p.region, "eu-south-2");
	cr_expect_eq(ms_aws_profile_load(env, "work", &p, &err), MS_OK);
	cr_expect_str_eq(p.region, "us-west-2");
	cr_expect_str_eq(p.access_key, "AKFIRST");
	s.profile = "sso";
	cr_expect_eq(look(), MS_EAUTH);
	cr_expect_not_null(strstr(err.msg, "single sign-on"), "%s", err.msg);
	s.profile = "nobody";
	cr_expect_eq(look(), MS_EAUTH);
	cr_expect_not_null(strstr(err.msg, "no profile nobody"), "%s", err.msg);
	write_file(".aws/credentials", "[work\n");
	s.profile = "work";
	cr_expect_eq(look(), MS_EAUTH);
	cr_expect_not_null(strstr(err.msg, "credentials:1:"), "%s", err.msg);
}

Test(aws_credentials, container) {
	char url[100], path[4200];
	snprintf(url, sizeof url, "%s/creds", server.endpoint);
	setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url, 1);
	cr_expect_eq(look(), MS_EAUTH, "without the token");
	cr_expect_not_null(strstr(err.msg, "HTTP 401"), "%s", err.msg);
	setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic letmein", 1);
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.access_key, "AKID1");
	cr_expect_str_eq(k.token, "token1");
	cr_expect(k.expires_us > ms_env_now_us(env) + INT64_C(3500000000) && k.expires_us < ms_env_now_us(env) + INT64_C(3700000000));
	write_file("token", "Basic letmein\n");
	snprintf(path, sizeof path, "%s/token", dir);
	setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong", 1);
	setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path, 1);
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://evil.example.com/creds", 1);
	cr_expect_eq(look(), MS_EAUTH);
	cr_expect_not_null(strstr(err.msg, "must be https"), "%s", err.msg);
}

Test(aws_credentials, allowed_hosts) {
	static const struct {
		const char *uri;
		bool ok;
	} c[] = {{"https://anywhere.example.com/x", true}, {"http://127.0.0.1:80/x", true}, {"http://127.9.8.7/x", true}, {"http://localhost/x", true},
		 {"http://[::1]:8080/x", true}, {"http://169.254.170.2/x", true}, {"http://169.254.170.23/v1", true}, {"http://[fd00:ec2::23]/v1", true},
		 {"http://169.254.170.22/x", false}, {"http://127.0.0.1.example.com/x", false}, {"http://localhost.example.com/", false},
		 {"http://10.0.0.1/x", false}, {"ftp://127.0.0.1/x", false}, {"http://localhost@evil/", false}, {"http://127.0.0.1@evil/", false}};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++)
		cr_expect_eq(ms_aws_container_uri_allowed(c[i].uri), c[i].ok, "%s", c[i].uri);
}

Test(aws_credentials, instance_is_asked_once) {
	for (int i = 0; i < 3; i++) {
		cr_expect_eq(look(), MS_OK, "%s", err.msg);
		cr_expect_str_eq(k.access_key, "AKID1");
	}
	cr_expect_eq(count("count PUT /latest/api/token"), 1);
	cr_expect_eq(ms_aws_credentials(&s, ms_env_now_us(env), true, &k, &err), MS_OK);
	cr_expect_str_eq(k.access_key, "AKID2");
	/* Five minutes before their end they are renewed; if that fails, they serve to their end. */
	int64_t now = ms_env_now_us(env);
	cr_expect_eq(ms_aws_credentials(&s, now + INT64_C(3200000000), false, &k, &err), MS_OK);
	cr_expect_str_eq(k.access_key, "AKID2");
	cr_expect_eq(ms_aws_credentials(&s, now + INT64_C(3400000000), false, &k, &err), MS_OK);
	cr_expect_str_eq(k.access_key, "AKID3");
	ms_s3_server_tell(&server, "fault * /latest -1 status 500 -");
	cr_expect_eq(ms_aws_credentials(&s, now + INT64_C(3400000000), false, &k, &err), MS_OK);
	cr_expect_str_eq(k.access_key, "AKID3");
	cr_expect_eq(ms_aws_credentials(&s, now + INT64_C(7300000000), false, &k, &err), MS_EAUTH);
}

Test(aws_credentials, none) {
	setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
	cr_expect_eq(look(), MS_EAUTH);
	cr_expect_not_null(strstr(err.msg, "AWS_ACCESS_KEY_ID"), "%s", err.msg);
	cr_expect_eq(count("count * latest"), 0);
}

Test(aws_credentials, web_identity) {
	char path[4200], sts[100];
	write_file("jwt", "jwt+/=\n");
	snprintf(path, sizeof path, "%s/jwt", dir);
	snprintf(sts, sizeof sts, "%s/sts", server.endpoint);
	setenv("AWS_WEB_IDENTITY_TOKEN_FILE", path, 1);
	setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/x", 1);
	setenv("AWS_ENDPOINT_URL_STS", sts, 1);
	cr_expect_eq(look(), MS_OK, "%s", err.msg);
	cr_expect_str_eq(k.access_key, "AKID1");
	cr_expect_str_eq(k.token, "token1");
	write_file("jwt", "wrong");
	cr_expect_eq(ms_aws_credentials(&s, ms_env_now_us(env), true, &k, &err), MS_EAUTH);
	cr_expect_not_null(strstr(err.msg, "InvalidIdentityToken"), "%s", err.msg);
	cr_expect_null(strstr(err.msg, "wrong"), "%s", err.msg);
}

Test(aws_credentials, answers) {
	static const char *const bad[] = {"", "[]", "{\"AccessKeyId\":\"a\"}", "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":1}",
					  "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"b\",\"Expiration\":\"soon\"}",
					  "{\"AccessKeyId\":\"a\",\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"b\"}"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect_eq(ms_aws_keys_decode_json(bad[i], strlen(bad[i]), &k, &err), MS_EAUTH, "%s", bad[i]);
	static const char good[] = "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"b\",\"Token\":\"c\",\"Expiration\":\"2026-11-21T00:00:00Z\"}";
	cr_expect_eq(ms_aws_keys_decode_json(good, sizeof good - 1, &k, &err), MS_OK);
	cr_expect_eq(k.expires_us, INT64_C(1795219200000000));
	cr_expect_neq(ms_aws_keys_decode_sts("<x/>", 4, &k, &err), MS_OK);
}
