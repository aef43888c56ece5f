#include "replicas/aws_metadata.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/timefmt.h"
#include "replicas/http.h"
#include "replicas/s3_xml.h"
#include "replicas/xml.h"

#define SECOND INT64_C(1000000)
#define TOKEN_MAX (64u << 10)
#define URL_MAX 2048

/* ---- decoding ---- */

static enum ms_code copy(char *ret, size_t cap, const char *v, const char *what, struct ms_err *err) {
	size_t n = v ? strlen(v) : 0;
	if (!v || n >= cap)
		return ms_err_set(err, MS_EAUTH, "the answer %s %s", v ? "has too long a" : "has no", what);
	memcpy(ret, v, n + 1);
	return MS_OK;
}

enum ms_code ms_aws_keys_decode_json(const void *data, size_t len, struct ms_aws_keys *ret, struct ms_err *err) {
	json_error_t je;
	json_t *o = json_loadb(data, len, JSON_REJECT_DUPLICATES, &je);
	struct ms_aws_keys k = {.expires_us = 0};
	enum ms_code rc;
	if (!json_is_object(o)) {
		json_decref(o);
		return ms_err_set(err, MS_EAUTH, "the answer is no JSON object");
	}
	const char *end = json_string_value(json_object_get(o, "Expiration")), *token = json_string_value(json_object_get(o, "Token"));
	if (!(rc = copy(k.access_key, sizeof k.access_key, json_string_value(json_object_get(o, "AccessKeyId")), "AccessKeyId", err)) &&
	    !(rc = copy(k.secret_key, sizeof k.secret_key, json_string_value(json_object_get(o, "SecretAccessKey")), "SecretAccessKey", err)) &&
	    !(rc = copy(k.token, sizeof k.token, token ? token : "", "Token", err)) && end && ms_time_parse(end, &k.expires_us, NULL))
		rc = ms_err_set(err, MS_EAUTH, "the answer's Expiration is no time");
	json_decref(o);
	if (!rc)
		*ret = k;
	ms_aws_keys_clear(&k);
	return rc;
}

static enum ms_code sts_cb(void *arg, const char *path, const char *text, bool end, struct ms_err *err) {
	static const char at[] = "/AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/";
	struct ms_aws_keys *k = arg;
	if (!end || strncmp(path, at, sizeof at - 1) != 0)
		return MS_OK;
	path += sizeof at - 1;
	if (strcmp(path, "AccessKeyId") == 0)
		return copy(k->access_key, sizeof k->access_key, text, path, err);
	if (strcmp(path, "SecretAccessKey") == 0)
		return copy(k->secret_key, sizeof k->secret_key, text, path, err);
	if (strcmp(path, "SessionToken") == 0)
		return copy(k->token, sizeof k->token, text, path, err);
	if (strcmp(path, "Expiration") == 0)
		return ms_time_parse(text, &k->expires_us, err);
	return MS_OK;
}

enum ms_code ms_aws_keys_decode_sts(const void *data, size_t len, struct ms_aws_keys *ret, struct ms_err *err) {
	struct ms_aws_keys k = {.expires_us = 0};
	enum ms_code rc = ms_xml_walk(data, len, sts_cb, &k, err);
	if (!rc && (!k.access_key[0] || !k.secret_key[0] || !k.token[0]))
		rc = ms_err_set(err, MS_EAUTH, "the answer holds no credentials");
	if (!rc)
		*ret = k;
	ms_aws_keys_clear(&k);
	return rc;
}

/* ---- requests ---- */

struct call {
	struct ms_http *http;
	struct ms_http_exchange x;
};

static enum ms_code call_open(struct call *c, const struct ms_aws_fetch *f, bool proxy, int64_t connect_us, struct ms_err *err) {
	struct ms_http_config config = {.ca_file = f->ca_file, .no_proxy = !proxy, .connect_us = connect_us, .stall_us = 5 * SECOND};
	ms_http_exchange_init(&c->x);
	c->http = NULL;
	enum ms_code rc = ms_http_new(&config, &c->http, err);
	return rc ? rc : ms_http_begin(c->http, err);
}

static void call_close(struct call *c) {
	if (c->x.answer.data)
		explicit_bzero(c->x.answer.data, c->x.answer.cap);
	ms_http_exchange_release(&c->x);
	ms_http_free(c->http);
}

static enum ms_code ask(struct call *c, const char *method, const char *url, const struct ms_sigv4_pair *headers, unsigned n, const char *what, struct ms_err *err) {
	struct ms_err e = MS_ERR_INIT;
	c->x.method = method;
	c->x.url = url;
	c->x.headers = headers;
	c->x.nheaders = n;
	enum ms_code rc = ms_http_run(c->http, &c->x, &e);
	if (rc)
		return ms_err_set(err, rc == MS_ECANCELED || rc == MS_ENOMEM ? rc : MS_EAUTH, "credentials from %s: %s", what, e.msg);
	if (c->x.status != 200)
		return ms_err_set(err, MS_EAUTH, "credentials from %s: HTTP %d", what, c->x.status);
	return MS_OK;
}

static enum ms_code wrapped(enum ms_code rc, const char *what, const struct ms_err *e, struct ms_err *err) {
	return rc ? ms_err_set(err, MS_EAUTH, "credentials from %s: %s", what, e->msg) : MS_OK;
}

/* Text of a token file, without the line's end. */
static enum ms_code read_token(struct ms_env *env, const char *path, struct ms_buf *b, struct ms_err *err) {
	struct ms_err e = MS_ERR_INIT;
	if (ms_fs_read_file(env, path, b, &e))
		return ms_err_set(err, MS_EAUTH, "credentials: %s", e.msg);
	while (b->len && strchr("\r\n \t", b->data[b->len - 1]))
		b->len--;
	return ms_buf_u8(b, 0, err);
}

bool ms_aws_container_uri_allowed(const char *uri) {
	static const char *const hosts[] = {"127.0.0.1", "localhost", "[::1]", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"};
	if (strncmp(uri, "https://", 8) == 0)
		return true;
	if (strncmp(uri, "http://", 7) != 0)
		return false;
	uri += 7;
	for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
		size_t n = strlen(hosts[i]);
		if (strncmp(uri, hosts[i], n) == 0 && (uri[n] == '/' || uri[n] == ':' || uri[n] == '\0'))
			return true;
	}
	/* 127.0.0.0/8 */
	return strncmp(uri, "127.", 4) == 0 && strspn(uri, "0123456789.") == strcspn(uri, ":/");
}

static enum ms_code fetch_container(struct ms_env *env, const struct ms_aws_fetch *f, struct ms_aws_keys *ret, struct ms_err *err) {
	static const char what[] = "the container's endpoint";
	char url[URL_MAX];
	struct ms_buf token;
	struct ms_err e = MS_ERR_INIT;
	struct call c = {.http = NULL};
	enum ms_code rc = MS_OK;
	if (snprintf(url, sizeof url, "%s%s", f->relative ? "http://169.254.170.2" : "", f->uri) >= (int)sizeof url || !ms_aws_container_uri_allowed(url))
		return ms_err_set(err, MS_EAUTH, "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or http on this host or a container service's address");
	ms_buf_init(&token, TOKEN_MAX);
	if (f->token_file)
		rc = read_token(env, f->token_file, &token, err);
	else if (f->token)
		rc = ms_buf_append(&token, f->token, strlen(f->token) + 1, err);
	struct ms_sigv4_pair h = {"Authorization", token.data ? (const char *)token.data : ""};
	if (!rc && !(rc = call_open(&c, f, false, 2 * SECOND, err)) && !(rc = ask(&c, "GET", url, &h, token.len > 1, what, err)))
		rc = wrapped(ms_aws_keys_decode_json(c.x.answer.data, c.x.answer.len, ret, &e), what, &e, err);
	if (!rc)
		snprintf(ret->source, sizeof ret->source, "the container's role");
	call_close(&c);
	if (token.data)
		explicit_bzero(token.data, token.cap);
	ms_buf_release(&token);
	return rc;
}

static enum ms_code fetch_instance(const struct ms_aws_fetch *f, struct ms_aws_keys *ret, struct ms_err *err) {
	static const char what[] = "the instance's metadata", path[] = "/latest/meta-data/iam/security-credentials/";
	const char *base = f->uri ? f->uri : "http://169.254.169.254";
	char url[URL_MAX], token[1024], role[256];
	struct ms_err e = MS_ERR_INIT;
	struct call c = {.http = NULL};
	size_t n = strlen(base);
	while (n && base[n - 1] == '/')
		n--;
	/* Away from such a machine nobody answers there: not to be waited for. */
	enum ms_code rc = call_open(&c, f, false, SECOND, err);
	struct ms_sigv4_pair ttl = {"X-aws-ec2-metadata-token-ttl-seconds", "21600"}, auth = {"X-aws-ec2-metadata-token", token};
	if (!rc && snprintf(url, sizeof url, "%.*s/latest/api/token", (int)n, base) >= (int)sizeof url)
		rc = ms_err_set(err, MS_EAUTH, "AWS_EC2_METADATA_SERVICE_ENDPOINT is too long");
	c.x.body = "";
	if (!rc && !(rc = ask(&c, "PUT", url, &ttl, 1, what, err))) {
		if (c.x.answer.len == 0 || c.x.answer.len >= sizeof token || memchr(c.x.answer.data, '\0', c.x.answer.len)) {
			rc = ms_err_set(err, MS_EAUTH, "credentials from %s: no token", what);
		} else {
			memcpy(token, c.x.answer.data, c.x.answer.len);
			token[c.x.answer.len] = '\0';
		}
	}
	c.x.body = NULL;
	if (!rc) {
		snprintf(url, sizeof url, "%.*s%s", (int)n, base, path);
		rc = ask(&c, "GET", url, &auth, 1, what, err);
		/* One role a line; the first is the instance's. */
		size_t len = c.x.answer.len;
		const char *end = len ? memchr(c.x.answer.data, '\n', len) : NULL;
		len = end ? (size_t)(end - (const char *)c.x.answer.data) : len;
		if (!rc && (len == 0 || len >= sizeof role))
			rc = ms_err_set(err, MS_EAUTH, "credentials from %s: the instance has no role", what);
		if (!rc) {
			memcpy(role, c.x.answer.data, len);
			role[len] = '\0';
			if (strspn(role, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+=,.@_-") != len)
				rc = ms_err_set(err, MS_EAUTH, "credentials from %s: not the name of a role", what);
		}
	}
	if (!rc) {
		snprintf(url, sizeof url, "%.*s%s%s", (int)n, base, path, role);
		if (!(rc = ask(&c, "GET", url, &auth, 1, what, err)))
			rc = wrapped(ms_aws_keys_decode_json(c.x.answer.data, c.x.answer.len, ret, &e), what, &e, err);
	}
	if (!rc)
		snprintf(ret->source, sizeof ret->source, "the instance's role %.40s", role);
	explicit_bzero(token, sizeof token);
	call_close(&c);
	return rc;
}

static enum ms_code fetch_web_identity(struct ms_env *env, const struct ms_aws_fetch *f, struct ms_aws_keys *ret, struct ms_err *err) {
	static const char what[] = "STS for the web identity";
	const char *own = getenv("AWS_ENDPOINT_URL_STS");
	char url[URL_MAX];
	struct ms_buf token, form;
	struct ms_err e = MS_ERR_INIT;
	struct call c = {.http = NULL};
	const char *region = f->region && f->region[0] ? f->region : "us-east-1";
	ms_buf_init(&token, TOKEN_MAX);
	ms_buf_init(&form, 4 * TOKEN_MAX);
	ms_http_exchange_init(&c.x);
	enum ms_code rc = read_token(env, f->token_file, &token, err);
	int n = own && own[0] ? snprintf(url, sizeof url, "%s", own)
			      : snprintf(url, sizeof url, "https://sts.%s.amazonaws.com%s/", region, strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
	if (!rc && (n < 0 || n >= (int)sizeof url))
		rc = ms_err_set(err, MS_EAUTH, "AWS_ENDPOINT_URL_STS is too long");
	if (!rc) {
		struct ms_sigv4_pair params[] = {{"Action", "AssumeRoleWithWebIdentity"},
						 {"Version", "2011-06-15"},
						 {"RoleArn", f->role_arn},
						 {"RoleSessionName", f->session && f->session[0] ? f->session : "migstream"},
						 {"WebIdentityToken", (const char *)token.data}};
		rc = ms_sigv4_query(&form, params, sizeof params / sizeof params[0], err);
	}
	struct ms_sigv4_pair type = {"Content-Type", "application/x-www-form-urlencoded"};
	if (!rc && !(rc = call_open(&c, f, true, 5 * SECOND, err))) {
		c.x.body = form.data;
		c.x.body_len = form.len;
		rc = ask(&c, "POST", url, &type, 1, what, err);
		if (rc && c.x.status >= 400) {
			struct ms_s3_fault fault;
			ms_s3_fault_decode(c.x.answer.data, c.x.answer.len, &fault);
			if (fault.code[0])
				rc = ms_err_set(err, MS_EAUTH, "credentials from %s: %s: %s", what, fault.code, fault.message);
		}
		if (!rc)
			rc = wrapped(ms_aws_keys_decode_sts(c.x.answer.data, c.x.answer.len, ret, &e), what, &e, err);
	}
	if (!rc)
		snprintf(ret->source, sizeof ret->source, "the web identity's role");
	call_close(&c);
	if (token.data)
		explicit_bzero(token.data, token.cap);
	if (form.data)
		explicit_bzero(form.data, form.cap);
	ms_buf_release(&token);
	ms_buf_release(&form);
	return rc;
}

void ms_aws_fetch_name(const struct ms_aws_fetch *f, char ret[256]) {
	static const char *const kinds[] = {"container", "instance", "web-identity"};
	char hash[MS_SHA256_HEX], text[8192];
	snprintf(text, sizeof text, "%s\n%s\n%s\n%s", f->uri ? f->uri : "", f->token_file ? f->token_file : "", f->role_arn ? f->role_arn : "", f->region ? f->region : "");
	ms_sha256_hex(hash, text, strlen(text));
	snprintf(ret, 256, "%s %s", kinds[f->kind], hash);
}

enum ms_code ms_aws_fetch(struct ms_env *env, const struct ms_aws_fetch *f, struct ms_aws_keys *ret, struct ms_err *err) {
	switch (f->kind) {
	case MS_AWS_CONTAINER:
		return fetch_container(env, f, ret, err);
	case MS_AWS_INSTANCE:
		return fetch_instance(f, ret, err);
	case MS_AWS_WEB_IDENTITY:
		return fetch_web_identity(env, f, ret, err);
	}
	return ms_err_set(err, MS_EINVAL, "no such source of credentials");
}
