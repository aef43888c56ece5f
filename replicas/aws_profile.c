#include "replicas/aws_profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"

const char *ms_aws_profile_name(const char *name) {
	const char *env = getenv("AWS_PROFILE");
	if (name && name[0])
		return name;
	return env && env[0] ? env : "default";
}

static bool blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static void trim(const char **p, size_t *n) {
	while (*n && blank(**p))
		++*p, --*n;
	while (*n && blank((*p)[*n - 1]))
		--*n;
}

/* "[default]", "[name]", "[profile name]" */
static bool section_is(const char *p, size_t n, bool config, const char *name) {
	size_t nname = strlen(name);
	trim(&p, &n);
	if (config && n > 8 && strncmp(p, "profile", 7) == 0 && blank(p[7])) {
		p += 8, n -= 8;
		trim(&p, &n);
	} else if (config && strcmp(name, "default") != 0) {
		return false;
	}
	return n == nname && memcmp(p, name, n) == 0;
}

static enum ms_code set(struct ms_aws_profile *p, const char *key, size_t nkey, const char *v, size_t n, const char *file, unsigned line, struct ms_err *err) {
	const struct {
		const char *key;
		char *to;
		size_t cap;
	} fields[] = {
		{"aws_access_key_id", p->access_key, sizeof p->access_key},
		{"aws_secret_access_key", p->secret_key, sizeof p->secret_key},
		{"aws_session_token", p->token, sizeof p->token},
		{"region", p->region, sizeof p->region},
		{"role_arn", p->role_arn, sizeof p->role_arn},
		{"role_session_name", p->role_session, sizeof p->role_session},
		{"web_identity_token_file", p->web_identity_file, sizeof p->web_identity_file},
	};
	static const char *const tools[] = {"sso_session", "sso_start_url", "credential_process", "source_profile", "credential_source"};
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		if (strlen(fields[i].key) != nkey || memcmp(fields[i].key, key, nkey) != 0 || fields[i].to[0])
			continue;
		if (n >= fields[i].cap)
			return ms_err_set(err, MS_EAUTH, "%s:%u: %s is longer than %zu bytes", file, line, fields[i].key, fields[i].cap - 1);
		memcpy(fields[i].to, v, n);
		fields[i].to[n] = '\0';
	}
	for (size_t i = 0; i < sizeof tools / sizeof tools[0]; i++)
		p->needs_tool |= strlen(tools[i]) == nkey && memcmp(tools[i], key, nkey) == 0;
	return MS_OK;
}

enum ms_code ms_aws_profile_parse(const char *file, const char *text, size_t len, bool config, const char *name, struct ms_aws_profile *p,
				  struct ms_err *err) {
	bool inside = false;
	unsigned number = 0;
	for (size_t i = 0; i < len;) {
		const char *line = text + i, *end = memchr(line, '\n', len - i);
		size_t n = end ? (size_t)(end - line) : len - i;
		i += n + 1;
		number++;
		bool nested = n && blank(line[0]); /* "s3 =\n  key = value": settings of a tool, not ours */
		trim(&line, &n);
		if (n == 0 || line[0] == '#' || line[0] == ';')
			continue;
		if (line[0] == '[') {
			const char *close = memchr(line, ']', n);
			if (!close)
				return ms_err_set(err, MS_EAUTH, "%s:%u: a section without ']'", file, number);
			inside = section_is(line + 1, (size_t)(close - line - 1), config, name);
			p->found |= inside;
			continue;
		}
		const char *eq = memchr(line, '=', n);
		if (!inside || nested || !eq)
			continue;
		const char *key = line, *v = eq + 1;
		size_t nkey = (size_t)(eq - line), nv = n - nkey - 1;
		trim(&key, &nkey);
		trim(&v, &nv);
		enum ms_code rc = set(p, key, nkey, v, nv, file, number, err);
		if (rc)
			return rc;
	}
	return MS_OK;
}

static enum ms_code load(struct ms_env *env, const char *variable, const char *base, bool config, const char *name, struct ms_aws_profile *p,
			 struct ms_err *err) {
	const char *path = getenv(variable), *home = getenv("HOME");
	char at_home[MS_PATH_MAX];
	struct ms_buf b;
	if (!path || !path[0]) {
		if (!home || !home[0] || snprintf(at_home, sizeof at_home, "%s/.aws/%s", home, base) >= (int)sizeof at_home)
			return MS_OK;
		path = at_home;
	}
	ms_buf_init(&b, MS_AWS_FILE_MAX);
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ms_fs_read_file(env, path, &b, &e);
	if (rc == MS_ENOTFOUND)
		rc = MS_OK;
	else if (rc)
		rc = ms_err_set(err, MS_EAUTH, "credentials: %s", e.msg);
	else
		rc = ms_aws_profile_parse(path, (const char *)b.data, b.len, config, name, p, err);
	if (b.data)
		explicit_bzero(b.data, b.cap);
	ms_buf_release(&b);
	return rc;
}

enum ms_code ms_aws_profile_load(struct ms_env *env, const char *name, struct ms_aws_profile *ret, struct ms_err *err) {
	name = ms_aws_profile_name(name);
	*ret = (struct ms_aws_profile){.found = false};
	enum ms_code rc = load(env, "AWS_SHARED_CREDENTIALS_FILE", "credentials", false, name, ret, err);
	if (!rc)
		rc = load(env, "AWS_CONFIG_FILE", "config", true, name, ret, err);
	if (rc)
		ms_aws_profile_clear(ret);
	return rc;
}

void ms_aws_profile_clear(struct ms_aws_profile *p) { explicit_bzero(p, sizeof *p); }
