/*
 * URL to spec and back. The parts before '?' become options by a small table per scheme; what is in the query are options by name.
 */
#include "replicas/url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "replicas/nearest.h"

#define URL_MAX 4096

/* Which option each part of the URL is; NULL: the part is not allowed there. */
struct shape {
	const char *scheme;
	const char *user, *host, *port, *path;
	const char *authority; /* host and port together, as "<scheme>://host:port" */
	const char *first;     /* first component of the path; `path` is then the rest */
};
static const struct shape shapes[] = {
	{.scheme = "file", .path = "path"},
	{.scheme = "mem", .host = "name"},
	{.scheme = "s3", .host = "bucket", .path = "prefix"},
	{.scheme = "sftp", .user = "user", .host = "host", .port = "port", .path = "path"},
	{.scheme = "nats", .authority = "url", .first = "bucket", .path = "prefix"},
};
static const struct shape outside = {.user = "user", .host = "host", .port = "port", .path = "path"};

static const struct shape *shape_of(const char *scheme) {
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
		if (strcmp(shapes[i].scheme, scheme) == 0)
			return &shapes[i];
	return &outside;
}

static int hex(char c) {
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum ms_code decode(const char *s, size_t n, char ret[URL_MAX], struct ms_err *err) {
	size_t o = 0;
	if (n >= URL_MAX)
		return ms_err_set(err, MS_EUSAGE, "the URL is longer than %d bytes", URL_MAX - 1);
	for (size_t i = 0; i < n; i++) {
		char c = s[i];
		if (c == '%') {
			int hi = i + 2 < n ? hex(s[i + 1]) : -1, lo = i + 2 < n ? hex(s[i + 2]) : -1;
			if (hi < 0 || lo < 0 || (hi == 0 && lo == 0))
				return ms_err_set(err, MS_EUSAGE, "bad percent-escape '%.*s' in the URL (a plain '%%' is written %%25)",
						  (int)(n - i < 3 ? n - i : 3), s + i);
			c = (char)(hi << 4 | lo);
			i += 2;
		}
		ret[o++] = c;
	}
	ret[o] = '\0';
	return MS_OK;
}

static enum ms_code set_part(struct ms_replica_spec *s, const char *key, const char *what, const char *p, size_t n, struct ms_err *err) {
	char v[URL_MAX];
	if (n == 0)
		return MS_OK;
	if (!key)
		return ms_err_set(err, MS_EUSAGE, "a %s URL has no %s ('%.*s')", s->scheme, what, (int)n, p);
	enum ms_code rc = decode(p, n, v, err);
	return rc ? rc : ms_replica_spec_set(s, key, v, err);
}

static enum ms_code parse_authority(struct ms_replica_spec *s, const struct shape *sh, const char *p, size_t n, struct ms_err *err) {
	enum ms_code rc;
	const char *at = memrchr(p, '@', n);
	if (at) {
		size_t nuser = (size_t)(at - p);
		if (memchr(p, ':', nuser))
			return ms_err_set(err, MS_EUSAGE,
					  "a password does not belong in a URL (it shows in process lists and logs): give it by environment or config");
		if ((rc = set_part(s, sh->user, "user", p, nuser, err)))
			return rc;
		n -= nuser + 1;
		p = at + 1;
	}
	if (sh->authority) {
		char host[URL_MAX], v[URL_MAX + 16];
		if ((rc = decode(p, n, host, err)))
			return rc;
		if (!host[0])
			return MS_OK;
		snprintf(v, sizeof v, "%s://%s", s->scheme, host);
		return ms_replica_spec_set(s, sh->authority, v, err);
	}
	const char *colon = NULL;
	if (n && p[0] == '[') { /* IPv6 literal */
		const char *close = memchr(p, ']', n);
		if (!close)
			return ms_err_set(err, MS_EUSAGE, "'%.*s' lacks its ']'", (int)n, p);
		if (close + 1 < p + n && close[1] == ':')
			colon = close + 1;
		else if (close + 1 != p + n)
			return ms_err_set(err, MS_EUSAGE, "'%.*s' is not a host", (int)n, p);
	} else {
		colon = memchr(p, ':', n);
	}
	size_t nhost = colon ? (size_t)(colon - p) : n;
	if (strcmp(s->scheme, "file") == 0) {
		if (nhost == 0 || (nhost == 9 && strncmp(p, "localhost", 9) == 0))
			return MS_OK;
		return ms_err_set(err, MS_EUSAGE, "a file URL names an absolute path after three slashes: file:///%.*s...", (int)n, p);
	}
	if (colon) {
		size_t nport = n - nhost - 1;
		char v[8] = "";
		if (nport == 0 || nport > 5 || strspn(colon + 1, "0123456789") < nport)
			return ms_err_set(err, MS_EUSAGE, "'%.*s' is not a port", (int)nport, colon + 1);
		memcpy(v, colon + 1, nport);
		if (atoi(v) < 1 || atoi(v) > 65535)
			return ms_err_set(err, MS_EUSAGE, "'%s' is not a port", v);
		if ((rc = set_part(s, sh->port, "port", v, nport, err)))
			return rc;
	}
	bool bracket = nhost && p[0] == '[';
	return set_part(s, sh->host, "host", p + bracket, nhost - 2 * bracket, err);
}

static enum ms_code parse_path(struct ms_replica_spec *s, const struct shape *sh, const char *p, size_t n, struct ms_err *err) {
	enum ms_code rc;
	bool keep_slash = strcmp(s->scheme, "file") == 0 || (!sh->first && strcmp(s->scheme, "s3") != 0 && strcmp(s->scheme, "mem") != 0);
	if (!keep_slash && n && p[0] == '/')
		p++, n--;
	if (sh->first) {
		const char *slash = memchr(p, '/', n);
		size_t nfirst = slash ? (size_t)(slash - p) : n;
		if ((rc = set_part(s, sh->first, sh->first, p, nfirst, err)))
			return rc;
		p += nfirst + (slash != NULL);
		n -= nfirst + (slash != NULL);
	}
	while (!keep_slash && n && p[n - 1] == '/')
		n--;
	if (keep_slash && n == 1 && !sh->path)
		return MS_OK;
	return set_part(s, sh->path, "path", p, n, err);
}

static enum ms_code parse_query(struct ms_replica_spec *s, const struct ms_replica_driver *d, const char *q, struct ms_err *err) {
	while (*q) {
		char key[URL_MAX], value[URL_MAX];
		size_t n = strcspn(q, "&");
		const char *eq = memchr(q, '=', n);
		enum ms_code rc;
		if (n && !eq)
			return ms_err_set(err, MS_EUSAGE, "'%.*s' in the URL has no value (key=value&key=value)", (int)n, q);
		if (n) {
			if ((rc = decode(q, (size_t)(eq - q), key, err)) || (rc = decode(eq + 1, n - (size_t)(eq - q) - 1, value, err)))
				return rc;
			for (const struct ms_option_def *o = d->options; o->key; o++)
				if (o->secret && strcasecmp(o->key, key) == 0)
					return ms_err_set(err, MS_EUSAGE,
							  "'%s' is a secret and does not belong in a URL (it shows in process lists and logs): give it by "
							  "environment or config", o->key);
			if (ms_replica_spec_get(s, key))
				return ms_err_set(err, MS_EUSAGE, "'%s' is given twice in the URL", key);
			if ((rc = ms_replica_spec_set(s, key, value, err)))
				return rc;
		}
		q += n + (q[n] == '&');
	}
	return MS_OK;
}

enum ms_code ms_url_parse(const char *url, struct ms_replica_spec *ret, struct ms_err *err) {
	struct ms_replica_spec s = {0};
	enum ms_code rc;
	bool plain = url[0] == '/' || url[0] == '.';
	size_t nscheme = plain ? 0 : strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
	if (strlen(url) >= URL_MAX)
		return ms_err_set(err, MS_EUSAGE, "the URL is longer than %d bytes", URL_MAX - 1);
	if (!plain && (nscheme == 0 || strncmp(url + nscheme, "://", 3) != 0))
		return ms_err_set(err, MS_EUSAGE, "'%s' is no replica URL: write file:///dir, s3://bucket/prefix, a path that begins with '/' or '.', ...", url);
	s.scheme = plain ? strdup("file") : strndup(url, nscheme);
	if (!s.scheme)
		return ms_err_set(err, MS_ENOMEM, "replica URL");
	for (char *p = s.scheme; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p | 0x20);

	const struct ms_replica_driver *d = ms_replica_driver_find(s.scheme);
	if (!d) {
		struct ms_nearest near = ms_nearest_init(s.scheme);
		for (unsigned i = 0; ms_replica_driver_at(i); i++)
			ms_nearest_offer(&near, ms_replica_driver_at(i)->scheme);
		rc = near.best ? ms_err_set(err, MS_EUSAGE, "no replica driver for '%s': did you mean '%s'?", s.scheme, near.best)
			       : ms_err_set(err, MS_EUSAGE, "no replica driver for '%s'", s.scheme);
		goto out;
	}
	if (plain) {
		rc = ms_replica_spec_set(&s, "path", url, err);
		goto out;
	}
	const struct shape *sh = shape_of(s.scheme);
	const char *rest = url + nscheme + 3;
	size_t nhier = strcspn(rest, "?");
	if (memchr(url, '#', strlen(url))) {
		rc = ms_err_set(err, MS_EUSAGE, "'#' in the URL: write it as %%23");
		goto out;
	}
	const char *slash = memchr(rest, '/', nhier);
	size_t nauth = slash ? (size_t)(slash - rest) : nhier;
	if ((rc = parse_authority(&s, sh, rest, nauth, err)) || (rc = parse_path(&s, sh, rest + nauth, nhier - nauth, err)) ||
	    (rest[nhier] == '?' && (rc = parse_query(&s, d, rest + nhier + 1, err))))
		goto out;
	rc = ms_replica_spec_check(&s, err);
out:
	if (rc) {
		ms_replica_spec_release(&s);
		return rc;
	}
	*ret = s;
	return MS_OK;
}

struct out {
	char *p;
	size_t n, cap;
};

static void put(struct out *o, const char *s, const char *also_safe) {
	static const char digits[] = "0123456789ABCDEF";
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c) ||
			     (also_safe && strchr(also_safe, c));
		if (o->n + (plain ? 1 : 3) >= o->cap)
			return;
		if (plain) {
			o->p[o->n++] = (char)c;
			continue;
		}
		o->p[o->n++] = '%';
		o->p[o->n++] = digits[c >> 4];
		o->p[o->n++] = digits[c & 15];
	}
}

char *ms_url_format(const struct ms_replica_spec *s, char *ret, size_t cap) {
	struct out o = {ret, 0, cap};
	const struct shape *sh = shape_of(s->scheme ? s->scheme : "");
	const struct ms_replica_driver *d = s->scheme ? ms_replica_driver_find(s->scheme) : NULL;
	const char *used[6] = {sh->user, sh->host, sh->port, sh->path, sh->authority, sh->first};
	const char *v;
	char sep = '?';
	if (cap == 0)
		return ret;
	if (sh->authority && (v = ms_replica_spec_get(s, sh->authority))) {
		put(&o, v, ":/[],@");
	} else {
		put(&o, s->scheme ? s->scheme : "", NULL);
		put(&o, "://", ":/");
	}
	if (sh->user && (v = ms_replica_spec_get(s, sh->user))) {
		put(&o, v, NULL);
		put(&o, "@", "@");
	}
	if (sh->host && (v = ms_replica_spec_get(s, sh->host))) {
		bool bracket = strchr(v, ':') != NULL;
		put(&o, bracket ? "[" : "", "[");
		put(&o, v, ":");
		put(&o, bracket ? "]" : "", "]");
	}
	if (sh->port && (v = ms_replica_spec_get(s, sh->port))) {
		put(&o, ":", ":");
		put(&o, v, NULL);
	}
	if (sh->first && (v = ms_replica_spec_get(s, sh->first))) {
		put(&o, "/", "/");
		put(&o, v, NULL);
	}
	if (sh->path && (v = ms_replica_spec_get(s, sh->path))) {
		if (v[0] != '/' && (strcmp(sh->path, "prefix") == 0))
			put(&o, "/", "/");
		else if (v[0] != '/' && strcmp(s->scheme, "sftp") == 0) /* relative to the login directory */
			put(&o, "/~/", "/~");
		put(&o, v, "/+:@,=");
	}
	for (unsigned i = 0; i < s->noptions; i++) {
		bool skip = false;
		for (size_t k = 0; k < sizeof used / sizeof used[0]; k++)
			skip |= used[k] && strcmp(used[k], s->options[i].key) == 0;
		/* Without a driver nobody knows what is a secret: nothing is printed then. */
		const struct ms_option_def *def = d ? d->options : NULL;
		while (def && def->key && strcmp(def->key, s->options[i].key) != 0)
			def++;
		if (skip || !def || !def->key || def->secret)
			continue;
		char q[2] = {sep, '\0'};
		put(&o, q, "?&");
		put(&o, s->options[i].key, NULL);
		put(&o, "=", "=");
		put(&o, s->options[i].value, "/:@,+");
		sep = '&';
	}
	ret[o.n] = '\0';
	return ret;
}
