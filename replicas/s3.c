/* The S3 driver: options, and the calls of replicas/replica.h over the other s3_*.c (s3_internal.h says which does what). */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timefmt.h"
#include "replicas/aws_profile.h"
#include "replicas/builtin.h"
#include "replicas/s3_internal.h"

#define PART_DEFAULT (8u << 20)
#define PART_MAX (64u << 20)
#define TIMEOUT_DEFAULT_US (INT64_C(30) * 1000000)
#define CONNECT_MAX_US (INT64_C(10) * 1000000)

static const struct ms_option_def options[] = {
	{.key = "bucket", .type = "string", .required = true, .help = "bucket"},
	{.key = "prefix", .type = "string", .help = "what every key begins with"},
	{.key = "endpoint", .type = "string", .help = "[http[s]://]host[:port] of the service; default: AWS_ENDPOINT_URL_S3, else Amazon's of the region"},
	{.key = "region", .type = "string", .help = "default: what the endpoint's name says, AWS_REGION, the profile's, else us-east-1; a redirect corrects it"},
	{.key = "accessKeyId", .type = "string", .help = "default: the AWS environment, profile, container or instance role"},
	{.key = "secretAccessKey", .type = "string", .secret = true, .help = "belongs to accessKeyId"},
	{.key = "sessionToken", .type = "string", .secret = true, .help = "of temporary keys"},
	{.key = "profile", .type = "string", .help = "profile of ~/.aws/credentials and ~/.aws/config"},
	{.key = "forcePathStyle", .type = "bool", .help = "host/bucket instead of bucket.host; default: where the endpoint is an address, has a port or no dot"},
	{.key = "insecure", .type = "bool", .help = "plain http for an endpoint without a scheme"},
	{.key = "insecureSkipVerify", .type = "bool", .help = "do not check the server's certificate: anybody in between can read and change everything"},
	{.key = "caFile", .type = "path", .help = "certificate authorities in PEM; default: AWS_CA_BUNDLE, else the system's"},
	{.key = "storageClass", .type = "string", .help = "x-amz-storage-class of new objects, e.g. STANDARD_IA"},
	{.key = "sse", .type = "string", .help = "encryption by the server: AES256 or aws:kms"},
	{.key = "sseKmsKeyId", .type = "string", .help = "key of aws:kms"},
	{.key = "sseCustomerKey", .type = "string", .secret = true, .help = "base64 of 32 bytes: the server encrypts with this key and forgets it; https only"},
	{.key = "objectLockMode", .type = "string", .help = "GOVERNANCE or COMPLIANCE: new objects cannot be deleted for objectLockDays"},
	{.key = "objectLockDays", .type = "uint", .help = "with objectLockMode; at least retention.snapshotRetention makes sense"},
	{.key = "partSize", .type = "size", .help = "5MiB to 64MiB; larger objects go in parts of this size; default 8MiB"},
	{.key = "concurrency", .type = "uint", .help = "most parts of one object under way at once, 1 to 16; default 4"},
	{.key = "timeout", .type = "duration", .help = "a transfer that does not move for so long is given up and tried again; default 30s"},
	{.key = NULL},
};

static enum ms_code take(char **to, const struct ms_replica_spec *s, const char *key, struct ms_err *err) {
	const char *v = ms_replica_spec_get(s, key);
	if (v && v[0] && !(*to = strdup(v)))
		return ms_err_set(err, MS_ENOMEM, "s3 replica: option %s", key);
	return MS_OK;
}

static void drop(char **p) {
	if (*p)
		explicit_bzero(*p, strlen(*p));
	free(*p);
	*p = NULL;
}

static bool is_true(const struct ms_replica_spec *s, const char *key) {
	const char *v = ms_replica_spec_get(s, key);
	return v && strcmp(v, "true") == 0;
}

static void s3_close(struct ms_replica *base) {
	struct ms_s3 *r = (struct ms_s3 *)base;
	char **owned[] = {&r->opt_access_key, &r->opt_secret_key, &r->opt_token, &r->profile,	 &r->ca_file,	 &r->storage_class,
			  &r->sse,	      &r->kms_key,	  &r->lock_mode, &r->customer_key, &r->customer_key_md5, &r->access_key,
			  &r->secret_key,     &r->token};
	ms_http_free(r->http);
	for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
		drop(owned[i]);
	free(r);
}

/* A header's value must be one line of printable characters. */
static enum ms_code plain(const char *v, const char *key, struct ms_err *err) {
	for (const char *p = v ? v : ""; *p; p++)
		if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f)
			return ms_err_set(err, MS_EUSAGE, "s3 replica: %s holds a space or a character outside of ASCII", key);
	return MS_OK;
}

static enum ms_code customer_key(struct ms_s3 *r, struct ms_err *err) {
	unsigned char key[64], sum[16];
	char md5[25];
	if (!r->customer_key)
		return MS_OK;
	if (!r->at.tls)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: sseCustomerKey needs https: the key goes with every request");
	int n = strlen(r->customer_key) == 44 ? EVP_DecodeBlock(key, (const unsigned char *)r->customer_key, 44) : -1;
	bool ok = n == 33 && r->customer_key[43] == '=' && r->customer_key[42] != '=' && EVP_Digest(key, 32, sum, NULL, EVP_md5(), NULL);
	explicit_bzero(key, sizeof key);
	if (!ok)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: sseCustomerKey must be the base64 of 32 bytes (openssl rand -base64 32)");
	EVP_EncodeBlock((unsigned char *)md5, sum, sizeof sum);
	return (r->customer_key_md5 = strdup(md5)) ? MS_OK : ms_err_set(err, MS_ENOMEM, "s3 replica");
}

static enum ms_code write_options(struct ms_s3 *r, const struct ms_replica_spec *s, struct ms_err *err) {
	const char *days = ms_replica_spec_get(s, "objectLockDays");
	enum ms_code rc;
	if ((rc = take(&r->storage_class, s, "storageClass", err)) || (rc = take(&r->sse, s, "sse", err)) || (rc = take(&r->kms_key, s, "sseKmsKeyId", err)) ||
	    (rc = take(&r->customer_key, s, "sseCustomerKey", err)) || (rc = take(&r->lock_mode, s, "objectLockMode", err)) ||
	    (rc = plain(r->storage_class, "storageClass", err)) || (rc = plain(r->kms_key, "sseKmsKeyId", err)))
		return rc;
	if (r->sse && strcmp(r->sse, "AES256") != 0 && strcmp(r->sse, "aws:kms") != 0)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: sse is AES256 or aws:kms, not '%.40s'", r->sse);
	if (r->kms_key && (!r->sse || strcmp(r->sse, "aws:kms") != 0))
		return ms_err_set(err, MS_EUSAGE, "s3 replica: sseKmsKeyId needs sse: aws:kms");
	if (r->customer_key && r->sse)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: sse and sseCustomerKey exclude each other");
	if (r->lock_mode && strcmp(r->lock_mode, "GOVERNANCE") != 0 && strcmp(r->lock_mode, "COMPLIANCE") != 0)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: objectLockMode is GOVERNANCE or COMPLIANCE, not '%.40s'", r->lock_mode);
	unsigned long n = days ? strtoul(days, NULL, 10) : 0;
	if ((r->lock_mode != NULL) != (days != NULL) || (days && (n < 1 || n > 36500)))
		return ms_err_set(err, MS_EUSAGE, "s3 replica: objectLockMode and objectLockDays (1 to 36500) go together");
	r->lock_days = (unsigned)n;
	return customer_key(r, err);
}

static enum ms_code size_options(struct ms_s3 *r, const struct ms_replica_spec *s, int64_t *ret_timeout, struct ms_err *err) {
	const char *part = ms_replica_spec_get(s, "partSize"), *concurrency = ms_replica_spec_get(s, "concurrency"), *timeout = ms_replica_spec_get(s, "timeout");
	enum ms_code rc;
	unsigned long n = concurrency ? strtoul(concurrency, NULL, 10) : 4;
	r->part_size = PART_DEFAULT;
	*ret_timeout = TIMEOUT_DEFAULT_US;
	if ((part && (rc = ms_size_parse(part, &r->part_size, err))) || (timeout && (rc = ms_duration_parse(timeout, ret_timeout, err))))
		return rc;
	if (r->part_size < MS_S3_PART_MIN || r->part_size > PART_MAX)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: partSize must be 5MiB to 64MiB");
	if (n < 1 || n > MS_S3_CONCURRENCY_MAX)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: concurrency must be 1 to %u", MS_S3_CONCURRENCY_MAX);
	if (*ret_timeout < 1000000 || *ret_timeout > INT64_C(3600) * 1000000)
		return ms_err_set(err, MS_EUSAGE, "s3 replica: timeout must be 1s to 1h");
	r->concurrency = (unsigned)n;
	return MS_OK;
}

static enum ms_code address(struct ms_s3 *r, const struct ms_replica_spec *s, struct ms_err *err) {
	const char *region = ms_replica_spec_get(s, "region"), *profile = ms_replica_spec_get(s, "profile"), *env = getenv("AWS_REGION"),
		   *env2 = getenv("AWS_DEFAULT_REGION");
	struct ms_aws_profile p = {.found = false};
	enum ms_code rc;
	bool given = (region && region[0]) || (env && env[0]) || (env2 && env2[0]);
	/* Only for its region; a file that cannot be read is reported where its keys are needed. */
	if (!given && ms_aws_profile_load(r->env, profile, &p, NULL))
		p.region[0] = '\0';
	rc = ms_s3_address_init(&r->at, s, p.region, err);
	ms_aws_profile_clear(&p);
	if (rc)
		return rc;
	snprintf(r->subject, sizeof r->subject, "s3 replica s3://%.60s%s%.60s", r->at.bucket, r->at.prefix[0] ? "/" : "", r->at.prefix);
	snprintf(r->where, sizeof r->where, "%s%s|%s", r->at.host, r->at.base, r->at.bucket);
	ms_s3_facts_get(r->where, &r->facts);
	r->said_conditional = r->facts.conditional != MS_S3_IGNORED;
	if (r->facts.region[0])
		(void)ms_s3_address_region(&r->at, r->facts.region);
	return MS_OK;
}

static enum ms_code s3_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) {
	struct ms_s3 *r = calloc(1, sizeof *r);
	const char *bundle = getenv("AWS_CA_BUNDLE");
	int64_t timeout = 0;
	enum ms_code rc;
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "s3 replica");
	r->base.driver = &ms_replica_s3_driver;
	r->env = env;
	if ((rc = take(&r->opt_access_key, spec, "accessKeyId", err)) || (rc = take(&r->opt_secret_key, spec, "secretAccessKey", err)) ||
	    (rc = take(&r->opt_token, spec, "sessionToken", err)) || (rc = take(&r->profile, spec, "profile", err)) ||
	    (rc = take(&r->ca_file, spec, "caFile", err)) || (rc = address(r, spec, err)) || (rc = write_options(r, spec, err)) ||
	    (rc = size_options(r, spec, &timeout, err)))
		goto out;
	if (!r->ca_file && bundle && bundle[0] && !(r->ca_file = strdup(bundle))) {
		rc = ms_err_set(err, MS_ENOMEM, "s3 replica");
		goto out;
	}
	struct ms_http_config c = {.ca_file = r->ca_file, .insecure = is_true(spec, "insecureSkipVerify"),
				   .connect_us = timeout < CONNECT_MAX_US ? timeout : CONNECT_MAX_US, .stall_us = timeout};
	rc = ms_http_new(&c, &r->http, err);
out:
	if (rc)
		s3_close((struct ms_replica *)r);
	else
		*ret = (struct ms_replica *)r;
	return rc;
}

static enum ms_code begin(struct ms_s3 *r, const char *what, const char *name, struct ms_err *err) {
	enum ms_code rc = ms_http_begin(r->http, err);
	return rc == MS_ECANCELED ? ms_err_set(err, rc, "%s: %s %s: cancelled", r->subject, what, name) : rc;
}

static enum ms_code s3_put(struct ms_replica *base, const char *name, struct ms_body *b, struct ms_err *err) {
	struct ms_s3 *r = (struct ms_s3 *)base;
	enum ms_code rc = begin(r, "put", name, err);
	if (rc)
		return rc;
	rc = ms_s3_put_object(r, name, b, err);
	if (!rc)
		ms_s3_sweep(r);
	ms_http_end(r->http);
	return rc;
}

static enum ms_code s3_get(struct ms_replica *base, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	struct ms_s3 *r = (struct ms_s3 *)base;
	enum ms_code rc = begin(r, "get", name, err);
	if (rc)
		return rc;
	rc = ms_s3_get_object(r, name, off, len, cb, arg, err);
	ms_http_end(r->http);
	return rc;
}

static enum ms_code s3_list(struct ms_replica *base, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	struct ms_s3 *r = (struct ms_s3 *)base;
	enum ms_code rc = begin(r, "list", prefix, err);
	if (rc)
		return rc;
	rc = ms_s3_list_objects(r, prefix, start_after, cb, arg, err);
	ms_http_end(r->http);
	return rc;
}

static enum ms_code s3_remove(struct ms_replica *base, const char *name, struct ms_err *err) {
	struct ms_s3 *r = (struct ms_s3 *)base;
	char key[MS_S3_KEY_MAX + 1], what[MS_OBJECT_NAME_MAX + 16];
	struct ms_s3_request q;
	enum ms_code rc = begin(r, "remove", name, err);
	if (rc)
		return rc;
	ms_s3_address_key(&r->at, name, key);
	snprintf(what, sizeof what, "remove %s", name);
	ms_s3_request_init(&q, r, "DELETE", key, what, NULL, 0);
	rc = ms_s3_call(&q, err);
	if (rc == MS_ENOTFOUND && strcmp(q.fault.code, "NoSuchBucket") != 0)
		rc = MS_OK;
	ms_s3_request_release(&q);
	ms_http_end(r->http);
	return rc;
}

static void s3_caps(struct ms_replica *base, struct ms_replica_caps *ret) {
	struct ms_s3 *r = (struct ms_s3 *)base;
	struct ms_err ignored = MS_ERR_INIT;
	/* Asked once by a handle: whoever cannot be reached is believed for now, and the first put finds out. */
	if (!r->probe_tried && begin(r, "probe", "", &ignored) == MS_OK) {
		(void)!ms_s3_probe(r, &ignored);
		ms_http_end(r->http);
	}
	r->said_conditional = r->facts.conditional != MS_S3_IGNORED;
	*ret = (struct ms_replica_caps){.create_if_absent = r->said_conditional, .server_checks = true, .parallel = 8, .max_object = MS_S3_OBJECT_MAX};
}

static void s3_cancel(struct ms_replica *base) { ms_http_cancel(((struct ms_s3 *)base)->http); }

/* An IAM policy; most services of other origin take it too. */
static char *s3_rights(const struct ms_replica_spec *spec, char *ret, size_t cap) {
	struct ms_s3_address a;
	struct ms_err ignored = MS_ERR_INIT;
	if (cap)
		ret[0] = '\0';
	if (ms_s3_address_init(&a, spec, NULL, &ignored))
		return ret;
	snprintf(ret, cap,
		 "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"s3:PutObject\",\"s3:GetObject\",\"s3:DeleteObject\","
		 "\"s3:AbortMultipartUpload\"],\"Resource\":\"arn:aws:s3:::%s/%s%s*\"},{\"Effect\":\"Allow\",\"Action\":[\"s3:ListBucket\","
		 "\"s3:ListBucketMultipartUploads\"],\"Resource\":\"arn:aws:s3:::%s\"}]}",
		 a.bucket, a.prefix, a.prefix[0] ? "/" : "", a.bucket);
	return ret;
}

const struct ms_replica_driver ms_replica_s3_driver = {
	.scheme = "s3",
	.help = "bucket of an S3-compatible service: s3://bucket/prefix?endpoint=https://host&region=eu-central-1",
	.options = options,
	.open = s3_open,
	.put = s3_put,
	.get = s3_get,
	.list = s3_list,
	.remove = s3_remove,
	.caps = s3_caps,
	.cancel = s3_cancel,
	.close = s3_close,
	.rights = s3_rights,
};
