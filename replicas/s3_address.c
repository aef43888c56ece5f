#include "replicas/s3_address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "replicas/s3_xml.h"
#include "replicas/sigv4.h"

static bool ends_with(const char *s, const char *end) {
	size_t n = strlen(s), m = strlen(end);
	return n >= m && strcasecmp(s + n - m, end) == 0;
}

static const char *opt(const struct ms_replica_spec *s, const char *key) {
	const char *v = ms_replica_spec_get(s, key);
	return v && v[0] ? v : NULL;
}

static bool opt_true(const struct ms_replica_spec *s, const char *key) {
	const char *v = opt(s, key);
	return v && strcmp(v, "true") == 0;
}

static const char *env(const char *name) {
	const char *v = getenv(name);
	return v && v[0] ? v : NULL;
}

static bool region_valid(const char *r) {
	size_t n = strlen(r);
	return n > 0 && n < 64 && strspn(r, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == n;
}

/* A label of the host of a known service that names the region; ret "" when it is not known. */
static void region_of_host(const char *host, char ret[64]) {
	/* label: which of the host's labels, from 0. */
	static const struct {
		const char *end;
		unsigned label;
		const char *always;
	} known[] = {
		{".amazonaws.com", 1, NULL},	   {".amazonaws.com.cn", 1, NULL},	{".backblazeb2.com", 1, NULL},
		{".digitaloceanspaces.com", 0, NULL}, {".your-objectstorage.com", 0, NULL}, {".r2.cloudflarestorage.com", 0, "auto"},
		{".storage.tigris.dev", 0, "auto"},   {".wasabisys.com", 1, NULL},	{".scw.cloud", 1, NULL},
		{".cloud.ovh.net", 1, NULL},	   {".linodeobjects.com", 0, NULL},
	};
	ret[0] = '\0';
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		if (!ends_with(host, known[i].end))
			continue;
		if (known[i].always) {
			snprintf(ret, 64, "%s", known[i].always);
			return;
		}
		const char *p = host, *end = host + strlen(host) - strlen(known[i].end);
		for (unsigned k = 0; k < known[i].label && p < end; k++) {
			const char *dot = memchr(p, '.', (size_t)(end - p));
			p = dot ? dot + 1 : end;
		}
		size_t n = (size_t)(end - p);
		const char *dot = memchr(p, '.', n);
		n = dot ? (size_t)(dot - p) : n;
		if (n && n < 64)
			snprintf(ret, 64, "%.*s", (int)n, p);
		return;
	}
}

static bool is_ip(const char *host) {
	unsigned char a[16];
	char text[300];
	size_t n = strcspn(host, host[0] == '[' ? "]" : ":");
	if (host[0] == '[')
		return true;
	snprintf(text, sizeof text, "%.*s", (int)n, host);
	return inet_pton(AF_INET, text, a) == 1;
}

/* Can the bucket be a label of a host name, also under a certificate for one label? */
static bool bucket_is_label(const char *bucket, bool tls) {
	size_t n = strlen(bucket);
	return n >= 3 && n <= 63 && strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789-.") == n && !(tls && strchr(bucket, '.'));
}

static void aws_host(struct ms_s3_address *a) {
	snprintf(a->host, sizeof a->host, "s3.%s.amazonaws.com%s", a->region, strncmp(a->region, "cn-", 3) == 0 ? ".cn" : "");
}

static enum ms_code endpoint_set(struct ms_s3_address *a, const char *e, bool insecure, struct ms_err *err) {
	const char *rest = e, *scheme = strstr(e, "://");
	a->tls = !insecure;
	if (scheme) {
		size_t n = (size_t)(scheme - e);
		if (n == 4 && strncasecmp(e, "http", 4) == 0)
			a->tls = false;
		else if (n == 5 && strncasecmp(e, "https", 5) == 0)
			a->tls = true;
		else
			return ms_err_set(err, MS_EUSAGE, "endpoint '%.200s' begins neither with http:// nor with https://", e);
		if (a->tls && insecure)
			return ms_err_set(err, MS_EUSAGE, "endpoint '%.200s' is https, and `insecure` asks for http: leave one out", e);
		rest = scheme + 3;
	}
	size_t nhost = strcspn(rest, "/"), npath = strlen(rest + nhost);
	while (npath && rest[nhost + npath - 1] == '/')
		npath--;
	if (nhost == 0 || nhost >= sizeof a->host || npath >= sizeof a->base || strpbrk(rest, "?#@ \t\r\n\\\""))
		return ms_err_set(err, MS_EUSAGE, "endpoint '%.200s' is no http(s) address (https://host[:port])", e);
	memcpy(a->host, rest, nhost);
	a->host[nhost] = '\0';
	memcpy(a->base, rest + nhost, npath);
	a->base[npath] = '\0';
	/* The scheme's own port is not part of the Host header, and the Host header is signed. */
	const char *own = a->tls ? ":443" : ":80";
	if (ends_with(a->host, own) && a->host[0] != '[')
		a->host[nhost - strlen(own)] = '\0';
	return MS_OK;
}

static enum ms_code prefix_set(struct ms_s3_address *a, const char *p, struct ms_err *err) {
	size_t n;
	while (*p == '/')
		p++;
	n = strlen(p);
	while (n && p[n - 1] == '/')
		n--;
	if (n > MS_S3_PREFIX_MAX)
		return ms_err_set(err, MS_EUSAGE, "prefix '%.60s...' is longer than %d bytes", p, MS_S3_PREFIX_MAX);
	memcpy(a->prefix, p, n);
	a->prefix[n] = '\0';
	/* Proxies and some servers fold these; then a name would not be what was signed. */
	for (const char *part = a->prefix; n; part++) {
		size_t len = strcspn(part, "/");
		if (len == 0 || (len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.'))
			return ms_err_set(err, MS_EUSAGE, "prefix '%.200s' has an empty part, '.' or '..'", a->prefix);
		part += len;
		if (!*part)
			break;
	}
	for (const char *c = a->prefix; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f || *c == '\\')
			return ms_err_set(err, MS_EUSAGE, "prefix '%.200s' holds a control character or a backslash", a->prefix);
	return MS_OK;
}

enum ms_code ms_s3_address_init(struct ms_s3_address *a, const struct ms_replica_spec *spec, const char *profile_region, struct ms_err *err) {
	const char *bucket = opt(spec, "bucket"), *prefix = opt(spec, "prefix"), *endpoint = opt(spec, "endpoint"), *region = opt(spec, "region"),
		   *style = opt(spec, "forcePathStyle");
	enum ms_code rc;
	*a = (struct ms_s3_address){.tls = true};
	size_t n = bucket ? strlen(bucket) : 0;
	if (n == 0 || n > 255 || strspn(bucket, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != n || bucket[0] == '.')
		return ms_err_set(err, MS_EUSAGE, "'%.100s' is not the name of a bucket", bucket ? bucket : "");
	memcpy(a->bucket, bucket, n + 1);
	if (prefix && (rc = prefix_set(a, prefix, err)))
		return rc;
	endpoint = endpoint ? endpoint : env("AWS_ENDPOINT_URL_S3") ? env("AWS_ENDPOINT_URL_S3") : env("AWS_ENDPOINT_URL");
	if (endpoint && (rc = endpoint_set(a, endpoint, opt_true(spec, "insecure"), err)))
		return rc;
	/* A service that names its region in its host is not to be asked for the one that the environment has for Amazon. */
	char of_host[64] = "";
	if (endpoint)
		region_of_host(a->host, of_host);
	if (!region && of_host[0] && region_valid(of_host))
		region = of_host;
	if (!region)
		region = env("AWS_REGION") ? env("AWS_REGION") : env("AWS_DEFAULT_REGION") ? env("AWS_DEFAULT_REGION") : profile_region;
	if (!endpoint && opt_true(spec, "insecure"))
		return ms_err_set(err, MS_EUSAGE, "`insecure` (plain http) needs an `endpoint`");
	if (region && region[0] && !region_valid(region))
		return ms_err_set(err, MS_EUSAGE, "'%.100s' is not a region", region);
	snprintf(a->region, sizeof a->region, "%s", region && region[0] ? region : "us-east-1");
	if (!endpoint) {
		a->aws = true;
		aws_host(a);
	}
	bool named = strchr(a->host, '.') && !strchr(a->host, ':') && !is_ip(a->host);
	if (style)
		a->path_style = strcmp(style, "true") == 0;
	else
		a->path_style = !named || !bucket_is_label(bucket, a->tls);
	return MS_OK;
}

bool ms_s3_address_region(struct ms_s3_address *a, const char *region) {
	if (!region || !region_valid(region) || strcmp(region, a->region) == 0)
		return false;
	snprintf(a->region, sizeof a->region, "%s", region);
	if (a->aws)
		aws_host(a);
	return true;
}

const char *ms_s3_address_host(const struct ms_s3_address *a, char ret[600]) {
	if (a->path_style)
		snprintf(ret, 600, "%s", a->host);
	else
		snprintf(ret, 600, "%s.%s", a->bucket, a->host);
	return ret;
}

enum ms_code ms_s3_address_path(const struct ms_s3_address *a, const char *key, struct ms_buf *out, struct ms_err *err) {
	enum ms_code rc = ms_sigv4_encode(out, a->base, true, err);
	if (!rc)
		rc = ms_buf_u8(out, '/', err);
	if (!rc && a->path_style) {
		rc = ms_sigv4_encode(out, a->bucket, false, err);
		if (!rc && key)
			rc = ms_buf_u8(out, '/', err);
	}
	return rc || !key ? rc : ms_sigv4_encode(out, key, true, err);
}

void ms_s3_address_key(const struct ms_s3_address *a, const char *name, char *ret) {
	snprintf(ret, MS_S3_KEY_MAX + 1, "%s%s%s", a->prefix, a->prefix[0] ? "/" : "", name);
}
