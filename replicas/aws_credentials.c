#include "replicas/aws_credentials.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/aws_metadata.h"
#include "replicas/aws_profile.h"

#define RENEW_BEFORE_US (INT64_C(300) * 1000000)
/* Without a stated end: looked up again after this. */
#define UNKNOWN_END_US (INT64_C(900) * 1000000)
#define KEPT_MAX 8

void ms_aws_keys_clear(struct ms_aws_keys *k) { explicit_bzero(k, sizeof *k); }

static const char *env(const char *name) {
	const char *v = getenv(name);
	return v && v[0] ? v : NULL;
}

static enum ms_code fill(struct ms_aws_keys *k, const char *id, const char *secret, const char *token, const char *source, struct ms_err *err) {
	if (strlen(id) >= sizeof k->access_key || strlen(secret) >= sizeof k->secret_key || (token && strlen(token) >= sizeof k->token))
		return ms_err_set(err, MS_EAUTH, "the credentials from %s are too long", source);
	for (const char *p = id; *p; p++)
		if ((unsigned char)*p <= 0x20 || *p == '/' || *p == ',' || *p == 0x7f)
			return ms_err_set(err, MS_EAUTH, "the access key ID from %s holds a space, '/', ',' or a control character", source);
	*k = (struct ms_aws_keys){.expires_us = 0};
	snprintf(k->access_key, sizeof k->access_key, "%s", id);
	snprintf(k->secret_key, sizeof k->secret_key, "%s", secret);
	snprintf(k->token, sizeof k->token, "%s", token ? token : "");
	snprintf(k->source, sizeof k->source, "%s", source);
	return MS_OK;
}

/* ---- what expires is kept ---- */

struct kept {
	char name[256]; /* "" free */
	struct ms_aws_keys keys;
	int64_t until_us;
};
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept kept[KEPT_MAX];
static unsigned kept_next;

/* The lock is held while fetching: whoever needs the same keys waits for them instead of asking too. */
static enum ms_code renewed(const struct ms_aws_source *s, const struct ms_aws_fetch *f, int64_t now_us, bool renew, struct ms_aws_keys *ret, struct ms_err *err) {
	char name[256];
	enum ms_code rc = MS_OK;
	struct kept *k = NULL;
	ms_aws_fetch_name(f, name);
	pthread_mutex_lock(&kept_lock);
	for (unsigned i = 0; i < KEPT_MAX && !k; i++)
		if (strcmp(kept[i].name, name) == 0)
			k = &kept[i];
	if (!k || renew || now_us > k->until_us - RENEW_BEFORE_US) {
		struct ms_aws_keys fresh;
		struct ms_err e = MS_ERR_INIT;
		rc = ms_aws_fetch(s->env, f, &fresh, &e);
		if (!rc) {
			if (!k) {
				k = &kept[kept_next++ % KEPT_MAX];
				snprintf(k->name, sizeof k->name, "%s", name);
			}
			k->keys = fresh;
			k->until_us = fresh.expires_us ? fresh.expires_us : now_us + UNKNOWN_END_US;
			ms_aws_keys_clear(&fresh);
		} else if (k && !renew && now_us < k->until_us) {
			rc = MS_OK;
		} else if (err) {
			*err = e;
		}
	}
	if (!rc)
		*ret = k->keys;
	pthread_mutex_unlock(&kept_lock);
	return rc;
}

/* ---- the chain ---- */

/* *ret_found false: the profile has none. */
static enum ms_code from_profile(const struct ms_aws_source *s, const char *wanted, int64_t now_us, bool renew, struct ms_aws_keys *ret, bool *ret_found,
				 struct ms_err *err) {
	struct ms_aws_profile p;
	const char *name = ms_aws_profile_name(wanted);
	char source[80];
	enum ms_code rc = ms_aws_profile_load(s->env, wanted, &p, err);
	*ret_found = false;
	if (rc)
		return rc;
	snprintf(source, sizeof source, "profile %.60s", name);
	if (p.access_key[0] && p.secret_key[0]) {
		*ret_found = true;
		rc = fill(ret, p.access_key, p.secret_key, p.token, source, err);
	} else if (p.web_identity_file[0] && p.role_arn[0]) {
		struct ms_aws_fetch f = {.kind = MS_AWS_WEB_IDENTITY, .token_file = p.web_identity_file, .role_arn = p.role_arn,
					 .session = p.role_session, .region = s->region, .ca_file = s->ca_file};
		*ret_found = true;
		rc = renewed(s, &f, now_us, renew, ret, err);
	} else if (p.needs_tool) {
		rc = ms_err_set(err, MS_EAUTH, "profile %s gets its keys from single sign-on, another role or a program, which is not supported: "
				"put temporary keys into the environment (aws configure export-credentials)", name);
	} else if (wanted && wanted[0]) {
		rc = ms_err_set(err, MS_EAUTH, p.found ? "profile %s holds no access key" : "no profile %s in the shared AWS files", name);
	}
	ms_aws_profile_clear(&p);
	return rc;
}

static enum ms_code from_services(const struct ms_aws_source *s, int64_t now_us, bool renew, struct ms_aws_keys *ret, struct ms_err *err) {
	const char *relative = env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), *full = env("AWS_CONTAINER_CREDENTIALS_FULL_URI");
	const char *off = env("AWS_EC2_METADATA_DISABLED");
	struct ms_aws_fetch f = {.region = s->region, .ca_file = s->ca_file};
	if (relative || full) {
		f.kind = MS_AWS_CONTAINER;
		f.uri = relative ? relative : full;
		f.relative = relative != NULL;
		f.token_file = env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
		f.token = env("AWS_CONTAINER_AUTHORIZATION_TOKEN");
		return renewed(s, &f, now_us, renew, ret, err);
	}
	struct ms_err e = MS_ERR_INIT;
	if (!off || strcasecmp(off, "true") != 0) {
		f.kind = MS_AWS_INSTANCE;
		f.uri = env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
		if (renewed(s, &f, now_us, renew, ret, &e) == MS_OK)
			return MS_OK;
	}
	return ms_err_set(err, MS_EAUTH, "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or accessKeyId and secretAccessKey in the "
			  "configuration, or a profile in ~/.aws/credentials%s%.120s%s", e.msg[0] ? " (the instance's metadata: " : "", e.msg, e.msg[0] ? ")" : "");
}

enum ms_code ms_aws_credentials(const struct ms_aws_source *s, int64_t now_us, bool renew, struct ms_aws_keys *ret, struct ms_err *err) {
	bool id = s->access_key && s->access_key[0], secret = s->secret_key && s->secret_key[0], found;
	enum ms_code rc;
	if (id != secret)
		return ms_err_set(err, MS_EAUTH, id ? "accessKeyId is given without secretAccessKey" : "secretAccessKey is given without accessKeyId");
	if (id)
		return fill(ret, s->access_key, s->secret_key, s->token, "the options", err);
	if (s->profile && s->profile[0])
		return from_profile(s, s->profile, now_us, renew, ret, &found, err);
	if (env("AWS_ACCESS_KEY_ID") && env("AWS_SECRET_ACCESS_KEY"))
		return fill(ret, env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"), env("AWS_SESSION_TOKEN"), "the environment", err);
	if (env("AWS_ACCESS_KEY_ID") || env("AWS_SECRET_ACCESS_KEY"))
		return ms_err_set(err, MS_EAUTH, "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set");
	if (env("AWS_WEB_IDENTITY_TOKEN_FILE") && env("AWS_ROLE_ARN")) {
		struct ms_aws_fetch f = {.kind = MS_AWS_WEB_IDENTITY, .token_file = env("AWS_WEB_IDENTITY_TOKEN_FILE"), .role_arn = env("AWS_ROLE_ARN"),
					 .session = env("AWS_ROLE_SESSION_NAME"), .region = s->region, .ca_file = s->ca_file};
		return renewed(s, &f, now_us, renew, ret, err);
	}
	rc = from_profile(s, NULL, now_us, renew, ret, &found, err);
	return rc || found ? rc : from_services(s, now_us, renew, ret, err);
}
