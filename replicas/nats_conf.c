#include "replicas/nats_conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/timefmt.h"

const struct ms_option_def ms_nats_options[] = {
	{.key = "url", .type = "string", .required = true, .help = "servers of one cluster: nats://host:port,host:port or tls://..."},
	{.key = "bucket", .type = "string", .required = true, .help = "object-store bucket; made when it is missing"},
	{.key = "prefix", .type = "string", .help = "put before every object's name, with a slash"},
	{.key = "username", .type = "string", .help = "user name; else $NATS_USER"},
	{.key = "password", .type = "string", .secret = true, .help = "password; else $NATS_PASSWORD"},
	{.key = "token", .type = "string", .secret = true, .help = "token; else $NATS_TOKEN"},
	{.key = "creds", .type = "path", .help = "file with a user's JWT and seed; else $NATS_CREDS"},
	{.key = "nkey", .type = "path", .help = "file with a user's seed; else $NATS_NKEY"},
	{.key = "nkeySeed", .type = "string", .secret = true, .help = "the seed itself"},
	{.key = "tls", .type = "bool", .help = "TLS or nothing (true as soon as another TLS option is given)"},
	{.key = "rootCAs", .type = "list", .help = "files with the authorities that sign servers' certificates; else the system's"},
	{.key = "certFile", .type = "path", .help = "client certificate"},
	{.key = "keyFile", .type = "path", .help = "its key"},
	{.key = "serverName", .type = "string", .help = "name that servers' certificates must bear, if not that of the URL"},
	{.key = "insecure", .type = "bool", .help = "true: TLS without a look at the certificate"},
	{.key = "replicas", .type = "uint", .help = "servers of the cluster that hold a bucket that is made (1, 3 or 5; 1)"},
	{.key = "storage", .type = "string", .help = "of a bucket that is made: file or memory (file)"},
	{.key = "maxBytes", .type = "size", .help = "most that a bucket that is made takes (no limit)"},
	{.key = "compression", .type = "bool", .help = "true: a bucket that is made is compressed by the server (2.10 and later)"},
	{.key = "timeout", .type = "duration", .help = "for each request (10s)"},
	{.key = "connectTimeout", .type = "duration", .help = "for each server that is tried (5s)"},
	{.key = "syncInterval", .type = "duration", .help = "the server's sync_interval: how long an acknowledged write may be lost in its crash (2m; 0: sync_interval: always)"},
	{.key = "sweepAge", .type = "duration", .help = "age from which chunks without an object are removed (24h; 0: never)"},
	{0},
};

#define SECOND INT64_C(1000000)

static enum ms_code nomem(struct ms_err *err) { return ms_err_set(err, MS_ENOMEM, "nats replica"); }

static enum ms_code copy(const char *v, char **ret, struct ms_err *err) {
	if (!v || !v[0])
		return MS_OK;
	*ret = strdup(v);
	return *ret ? MS_OK : nomem(err);
}

/* "host", "host:port", "[v6]:port" */
static enum ms_code add_server(struct ms_nats_conf *c, const char *p, size_t n, struct ms_err *err) {
	const char *colon = NULL, *host = p;
	size_t nhost;
	if (n && p[0] == '[') {
		const char *close = memchr(p, ']', n);
		if (!close || (close + 1 < p + n && close[1] != ':'))
			return ms_err_set(err, MS_EUSAGE, "nats: '%.*s' is not host:port", (int)n, p);
		host = p + 1;
		nhost = (size_t)(close - host);
		colon = close + 1 < p + n ? close + 1 : NULL;
	} else {
		colon = memchr(p, ':', n);
		nhost = colon ? (size_t)(colon - p) : n;
	}
	size_t nport = colon ? (size_t)(p + n - colon - 1) : 0;
	char port[8] = "4222";
	if (colon) {
		if (nport == 0 || nport > 5 || strspn(colon + 1, "0123456789") < nport)
			return ms_err_set(err, MS_EUSAGE, "nats: '%.*s' is not host:port", (int)n, p);
		memcpy(port, colon + 1, nport);
		port[nport] = '\0';
	}
	if (nhost == 0 || nhost > 255 || strcspn(host, "/@? \t") < nhost || atoi(port) < 1 || atoi(port) > 65535)
		return ms_err_set(err, MS_EUSAGE, "nats: '%.*s' is not host:port", (int)n, p);
	if (c->nservers == MS_NATS_SERVERS_MAX)
		return ms_err_set(err, MS_EUSAGE, "nats: more than %u servers", MS_NATS_SERVERS_MAX);
	struct ms_nats_server *s = &c->servers[c->nservers++];
	bool v6 = p[0] == '[';
	if (!(s->host = strndup(host, nhost)) || asprintf(&s->url, "nats://%s%s%s:%s", v6 ? "[" : "", s->host, v6 ? "]" : "", port) < 0) {
		s->url = NULL;
		return nomem(err);
	}
	return MS_OK;
}

static enum ms_code parse_servers(struct ms_nats_conf *c, const char *url, struct ms_err *err) {
	for (const char *p = url; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		size_t n = strcspn(p, ",");
		const char *s = p;
		if (strncmp(s, "nats://", 7) == 0) {
			s += 7, n -= 7;
		} else if (strncmp(s, "tls://", 6) == 0) {
			s += 6, n -= 6;
			c->tls = true;
		} else if (memmem(s, n, "://", 3)) {
			return ms_err_set(err, MS_EUSAGE, "nats: '%.*s': the scheme is nats:// or tls://", (int)n, s);
		}
		if (memchr(s, '@', n))
			return ms_err_set(err, MS_EUSAGE, "nats: credentials do not belong in a URL: use the options username, password, token, creds or nkey");
		while (n && s[n - 1] == '/')
			n--;
		enum ms_code rc = add_server(c, s, n, err);
		if (rc)
			return rc;
	}
	size_t cap = 1;
	for (unsigned i = 0; i < c->nservers; i++)
		cap += strlen(c->servers[i].url);
	if (!(c->servers_text = calloc(1, cap)))
		return nomem(err);
	for (unsigned i = 0; i < c->nservers; i++) {
		if (i)
			strcat(c->servers_text, ",");
		strcat(c->servers_text, c->servers[i].url + 7);
	}
	return MS_OK;
}

static enum ms_code must_read(struct ms_env *env, const char *key, const char *path, struct ms_err *err) {
	struct ms_file *f = NULL;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = env->ops->open(env, path, MS_O_RDONLY, 0, &f, &e);
	if (rc)
		return ms_err_set(err, rc, "nats: %s: %s", key, e.msg);
	env->ops->close(f);
	return MS_OK;
}

static enum ms_code read_seed(struct ms_env *env, const char *path, char **ret, struct ms_err *err) {
	struct ms_buf b;
	struct ms_err e = MS_ERR_INIT;
	ms_buf_init(&b, MS_NATS_SEED_MAX - 1);
	enum ms_code rc = ms_fs_read_file(env, path, &b, &e);
	if (rc == MS_ETOOBIG)
		rc = ms_err_set(err, MS_EUSAGE, "nats: nkey: %s holds more than a seed", path);
	else if (rc)
		rc = ms_err_set(err, rc, "nats: nkey: %s", e.msg);
	else if (!(*ret = strndup(b.data ? (const char *)b.data : "", b.len)))
		rc = nomem(err);
	if (b.data)
		explicit_bzero(b.data, b.len);
	ms_buf_release(&b);
	return rc;
}

static enum ms_code auth(struct ms_nats_conf *c, struct ms_env *env, const struct ms_replica_spec *s, struct ms_err *err) {
	const char *user = ms_replica_spec_get(s, "username"), *password = ms_replica_spec_get(s, "password"), *token = ms_replica_spec_get(s, "token"),
		   *creds = ms_replica_spec_get(s, "creds"), *nkey = ms_replica_spec_get(s, "nkey"), *seed = ms_replica_spec_get(s, "nkeySeed");
	enum ms_code rc;
	/* The environment serves where the configuration names no kind of login at all. */
	if (!user && !token && !creds && !nkey && !seed) {
		creds = getenv("NATS_CREDS");
		nkey = getenv("NATS_NKEY");
		token = getenv("NATS_TOKEN");
		user = getenv("NATS_USER");
	}
	if (user && user[0] && !password)
		password = getenv("NATS_PASSWORD");
	if (password && password[0] && (!user || !user[0]))
		return ms_err_set(err, MS_EUSAGE, "nats: a password without a username");
	if ((rc = copy(user, &c->username, err)) || (rc = copy(password, &c->password, err)) || (rc = copy(token, &c->token, err)) ||
	    (rc = copy(creds, &c->creds, err)) || (rc = copy(seed, &c->seed, err)))
		return rc;
	if (nkey && nkey[0] && c->seed)
		return ms_err_set(err, MS_EUSAGE, "nats: both nkey and nkeySeed");
	if (nkey && nkey[0] && (rc = read_seed(env, nkey, &c->seed, err)))
		return rc;
	if (!!c->username + !!c->token + !!c->creds + !!c->seed > 1)
		return ms_err_set(err, MS_EUSAGE, "nats: more than one of username, token, creds and nkey (options, else NATS_USER, NATS_TOKEN, NATS_CREDS, NATS_NKEY)");
	if (c->creds && (rc = must_read(env, "creds", c->creds, err)))
		return rc;
	if (c->seed && (rc = ms_nats_nkey_public(c->seed, c->public_key, err)))
		return ms_err_wrap(err, "nats");
	if (c->seed) { /* without white space around it from here on */
		size_t lead = strspn(c->seed, " \t\r\n"), n = strcspn(c->seed + lead, " \t\r\n");
		memmove(c->seed, c->seed + lead, n);
		c->seed[n] = '\0';
	}
	return MS_OK;
}

static enum ms_code tls(struct ms_nats_conf *c, struct ms_env *env, const struct ms_replica_spec *s, struct ms_err *err) {
	const char *cas = ms_replica_spec_get(s, "rootCAs"), *on = ms_replica_spec_get(s, "tls"), *insecure = ms_replica_spec_get(s, "insecure");
	enum ms_code rc;
	if ((rc = copy(ms_replica_spec_get(s, "certFile"), &c->cert, err)) || (rc = copy(ms_replica_spec_get(s, "keyFile"), &c->key, err)) ||
	    (rc = copy(ms_replica_spec_get(s, "serverName"), &c->server_name, err)))
		return rc;
	for (const char *p = cas && cas[0] ? cas : NULL; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		size_t n = strcspn(p, ",");
		if (c->ncas == MS_NATS_CAS_MAX)
			return ms_err_set(err, MS_EUSAGE, "nats: rootCAs: more than %u files", MS_NATS_CAS_MAX);
		if (!(c->cas[c->ncas] = strndup(p, n)))
			return nomem(err);
		if ((rc = must_read(env, "rootCAs", c->cas[c->ncas++], err)))
			return rc;
	}
	c->insecure = insecure && strcmp(insecure, "true") == 0;
	bool given = c->ncas || c->cert || c->key || c->server_name || c->insecure || c->tls;
	if (on && strcmp(on, "false") == 0 && given)
		return ms_err_set(err, MS_EUSAGE, "nats: tls: false, although other TLS options are given");
	c->tls = given || (on && strcmp(on, "true") == 0);
	if (!c->cert != !c->key)
		return ms_err_set(err, MS_EUSAGE, "nats: certFile and keyFile belong together");
	if (c->insecure && (c->ncas || c->server_name))
		return ms_err_set(err, MS_EUSAGE, "nats: insecure: true leaves rootCAs and serverName without use");
	if (c->cert && ((rc = must_read(env, "certFile", c->cert, err)) || (rc = must_read(env, "keyFile", c->key, err))))
		return rc;
	return MS_OK;
}

static enum ms_code duration(const struct ms_replica_spec *s, const char *key, int64_t dflt, int64_t min, int64_t *ret, struct ms_err *err) {
	const char *v = ms_replica_spec_get(s, key);
	*ret = dflt;
	if (!v)
		return MS_OK;
	enum ms_code rc = ms_duration_parse(v, ret, err);
	if (!rc && (*ret < min || *ret > 365 * 86400 * SECOND))
		rc = ms_err_set(err, MS_EUSAGE, "nats: %s: %s is out of range", key, v);
	return rc;
}

static enum ms_code bucket(struct ms_nats_conf *c, const struct ms_replica_spec *s, struct ms_err *err) {
	const char *name = ms_replica_spec_get(s, "bucket"), *prefix = ms_replica_spec_get(s, "prefix"), *storage = ms_replica_spec_get(s, "storage"),
		   *replicas = ms_replica_spec_get(s, "replicas"), *max = ms_replica_spec_get(s, "maxBytes"), *compression = ms_replica_spec_get(s, "compression");
	enum ms_code rc;
	if (!ms_nats_bucket_valid(name))
		return ms_err_set(err, MS_EUSAGE, "nats: bucket '%.64s': at most %u letters, digits, '-' and '_'", name, MS_NATS_BUCKET_MAX);
	snprintf(c->bucket, sizeof c->bucket, "%s", name);
	snprintf(c->stream, sizeof c->stream, "OBJ_%s", name);
	if (prefix && prefix[0]) {
		if (!ms_object_name_valid(prefix))
			return ms_err_set(err, MS_EUSAGE, "nats: '%.200s' is not a prefix of object names", prefix);
		snprintf(c->prefix, sizeof c->prefix, "%s/", prefix);
	}
	if (storage && strcmp(storage, "file") != 0 && strcmp(storage, "memory") != 0)
		return ms_err_set(err, MS_EUSAGE, "nats: storage is file or memory, not '%.32s'", storage);
	c->storage_stated = storage != NULL;
	c->memory = storage && strcmp(storage, "memory") == 0;
	c->compression = compression && strcmp(compression, "true") == 0;
	if (replicas) {
		if (strlen(replicas) != 1 || replicas[0] < '1' || replicas[0] > '5')
			return ms_err_set(err, MS_EUSAGE, "nats: replicas is 1 to 5, not %s", replicas);
		c->replicas = (unsigned)(replicas[0] - '0');
	}
	if (max && ((rc = ms_size_parse(max, &c->max_bytes, err)) || c->max_bytes > INT64_MAX))
		return rc ? rc : ms_err_set(err, MS_EUSAGE, "nats: maxBytes is too large");
	return MS_OK;
}

enum ms_code ms_nats_conf_init(struct ms_nats_conf *c, struct ms_env *env, const struct ms_replica_spec *spec, struct ms_err *err) {
	enum ms_code rc;
	*c = (struct ms_nats_conf){0};
	if ((rc = bucket(c, spec, err)) || (rc = parse_servers(c, ms_replica_spec_get(spec, "url"), err)) || (rc = auth(c, env, spec, err)) ||
	    (rc = tls(c, env, spec, err)) || (rc = duration(spec, "timeout", 10 * SECOND, SECOND / 10, &c->timeout_us, err)) ||
	    (rc = duration(spec, "connectTimeout", 5 * SECOND, SECOND / 10, &c->connect_timeout_us, err)) ||
	    (rc = duration(spec, "syncInterval", 120 * SECOND, 0, &c->sync_us, err)) ||
	    (rc = duration(spec, "sweepAge", 24 * 3600 * SECOND, 0, &c->sweep_us, err))) {
		ms_nats_conf_release(c);
		return rc;
	}
	return MS_OK;
}

static void wipe(char *s) {
	if (s)
		explicit_bzero(s, strlen(s));
	free(s);
}

void ms_nats_conf_release(struct ms_nats_conf *c) {
	for (unsigned i = 0; i < c->nservers; i++) {
		free(c->servers[i].host);
		free(c->servers[i].url);
	}
	for (unsigned i = 0; i < c->ncas; i++)
		free(c->cas[i]);
	free(c->servers_text);
	free(c->username);
	wipe(c->password);
	wipe(c->token);
	wipe(c->seed);
	free(c->creds);
	free(c->cert);
	free(c->key);
	free(c->server_name);
	*c = (struct ms_nats_conf){0};
}

static bool same(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : !a && !b; }

bool ms_nats_conf_same_link(const struct ms_nats_conf *a, const struct ms_nats_conf *b) {
	if (a->ncas != b->ncas || a->tls != b->tls || a->insecure != b->insecure || a->connect_timeout_us != b->connect_timeout_us)
		return false;
	for (unsigned i = 0; i < a->ncas; i++)
		if (!same(a->cas[i], b->cas[i]))
			return false;
	return same(a->servers_text, b->servers_text) && same(a->username, b->username) && same(a->password, b->password) && same(a->token, b->token) &&
	       same(a->creds, b->creds) && same(a->seed, b->seed) && same(a->cert, b->cert) && same(a->key, b->key) && same(a->server_name, b->server_name);
}
