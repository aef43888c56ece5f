#include "cmd/shadow.h"

#include <errno.h>
#include <limits.h>
#include <openssl/sha.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/control_server.h"
#include "cmd/replica_spec.h"

static enum ms_code too_long(struct ms_err *err, const char *path) {
	return ms_err_set(err, MS_ETOOBIG, "path is longer than %d bytes: %.100s...", MS_PATH_MAX - 1, path);
}

/* Appends components of `tail` to ret (canonical so far), taking "." and ".." by their letters: nothing there exists. */
static enum ms_code append_tail(char ret[MS_PATH_MAX], const char *tail, struct ms_err *err) {
	while (*tail) {
		size_t n = strcspn(tail, "/"), used = strlen(ret);
		if (n == 2 && strncmp(tail, "..", 2) == 0) {
			char *slash = strrchr(ret, '/');
			slash[slash == ret] = 0;
		} else if (n && !(n == 1 && *tail == '.')) {
			if (used + n + 2 > MS_PATH_MAX)
				return too_long(err, ret);
			snprintf(ret + used, MS_PATH_MAX - used, "%s%.*s", used > 1 ? "/" : "", (int)n, tail);
		}
		tail += n + (tail[n] == '/');
	}
	return MS_OK;
}

enum ms_code ms_canonical_path(const char *path, char ret[MS_PATH_MAX], struct ms_err *err) {
	char head[MS_PATH_MAX], found[PATH_MAX];
	size_t n = strlen(path);
	if (!n || n >= sizeof head)
		return n ? too_long(err, path) : ms_err_set(err, MS_EUSAGE, "the path is empty");
	/* The longest part that exists, then the rest by its letters. */
	for (size_t end = n;;) {
		memcpy(head, path, end);
		head[end] = 0;
		if (realpath(end ? head : path[0] == '/' ? "/" : ".", found)) {
			snprintf(ret, MS_PATH_MAX, "%s", found);
			return append_tail(ret, path + end, err);
		}
		if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
			return ms_err_sys(err, errno, MS_EIO, "%s", path);
		if (!end)
			return ms_err_sys(err, errno, MS_EIO, "%s", path);
		while (end > 0 && path[end - 1] == '/')
			end--;
		while (end > 0 && path[end - 1] != '/')
			end--;
	}
}

static enum ms_code state_dir(char ret[MS_PATH_MAX], struct ms_err *err) {
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	if (geteuid() == 0) {
		snprintf(ret, MS_PATH_MAX, "/var/lib/migstream");
		return MS_OK;
	}
	if (xdg && *xdg == '/')
		return snprintf(ret, MS_PATH_MAX, "%s/migstream", xdg) < MS_PATH_MAX ? MS_OK : too_long(err, xdg);
	if (!home || *home != '/') {
		const struct passwd *p = getpwuid(geteuid());
		home = p ? p->pw_dir : NULL;
	}
	if (!home || *home != '/')
		return ms_err_set(err, MS_EUSAGE, "no home directory: set MIGSTREAM_SHADOW, or shadowDir in a configuration");
	return snprintf(ret, MS_PATH_MAX, "%s/.local/state/migstream", home) < MS_PATH_MAX ? MS_OK : too_long(err, home);
}

enum ms_code ms_shadow_default(const char *path, char ret[MS_PATH_MAX], struct ms_err *err) {
	char canonical[MS_PATH_MAX], state[MS_PATH_MAX], name[101], hex[17];
	unsigned char digest[SHA256_DIGEST_LENGTH];
	const char *given = getenv("MIGSTREAM_SHADOW");
	enum ms_code code;
	if (given && *given)
		return ms_canonical_path(given, ret, err);
	if ((code = ms_canonical_path(path, canonical, err)) || (code = state_dir(state, err)))
		return code;
	SHA256((const unsigned char *)canonical, strlen(canonical), digest);
	for (int i = 0; i < 8; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	snprintf(name, sizeof name, "%s", ms_path_base(canonical));
	for (char *p = name; *p; p++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-", *p))
			*p = '_';
	if (snprintf(ret, MS_PATH_MAX, "%s/%s-%s", state, name, hex) >= MS_PATH_MAX)
		return too_long(err, state);
	return MS_OK;
}

enum ms_code ms_shadow_of_config(const struct ms_config *c, char ret[MS_PATH_MAX], struct ms_err *err) {
	if (c->shadow_dir)
		return ms_canonical_path(c->shadow_dir, ret, err);
	return ms_shadow_default(c->file ? c->file : c->databases[0].path, ret, err);
}

const char *ms_config_lookup(const char *option) {
	const char *env = getenv("MIGSTREAM_CONFIG");
	if (option)
		return option;
	if (env && *env)
		return env;
	return access("/etc/migstream.yml", F_OK) == 0 ? "/etc/migstream.yml" : NULL;
}

enum ms_code ms_replicate_config(const struct ms_args *a, struct ms_config **ret, char shadow[MS_PATH_MAX], struct ms_err *err) {
	const char *option = ms_args_get(a, "config");
	struct ms_config *c = NULL;
	enum ms_code code;
	if (a->npositionals && option)
		return ms_err_set(err, MS_EUSAGE, "either -c FILE or DB URL..., not both");
	if (a->npositionals) {
		code = ms_config_from_args(a->positionals[0], a->positionals + 1, a->npositionals - 1, &c, err);
	} else {
		const char *file = ms_config_lookup(option);
		if (!file)
			return ms_err_set(err, MS_EUSAGE, "nothing to replicate: name a database (migstream replicate app.db file:///backup/app), or a configuration with -c FILE");
		code = ms_config_load(file, &c, err);
	}
	if (!code)
		code = ms_replica_specs_check(c, err);
	if (!code)
		code = ms_shadow_of_config(c, shadow, err);
	if (code) {
		ms_config_release(c);
		return code;
	}
	for (unsigned i = 0; ms_args_flag(a, "takeover") && i < c->ndatabases; i++)
		c->databases[i].s.takeover = MS_TAKEOVER_AUTO;
	*ret = c;
	return MS_OK;
}

static enum ms_code socket_in(const char *shadow, char ret[MS_PATH_MAX], struct ms_err *err) {
	return ms_path_join(ret, MS_PATH_MAX, shadow, MS_CONTROL_SOCKET, err);
}

static enum ms_code target_of_config(const char *file, struct ms_target *t, struct ms_err *err) {
	enum ms_code code = ms_config_load(file, &t->config, err);
	if (!code)
		code = ms_shadow_of_config(t->config, t->shadow, err);
	return code ? code : socket_in(t->shadow, t->socket, err);
}

enum ms_code ms_target_find(const struct ms_args *a, const char *db, struct ms_target *ret, struct ms_err *err) {
	struct ms_target t = {.config = NULL};
	const char *socket_path = ms_args_get(a, "socket"), *option = ms_args_get(a, "config"), *file = ms_config_lookup(NULL);
	char own[MS_PATH_MAX] = "";
	enum ms_code code = MS_OK;
	if (db && !socket_path && !option)
		code = ms_shadow_default(db, own, err);
	if (code)
		return code;
	if (socket_path) {
		if (snprintf(t.socket, sizeof t.socket, "%s", socket_path) >= (int)sizeof t.socket)
			code = too_long(err, socket_path);
	} else if (option) {
		code = target_of_config(option, &t, err);
	} else if (own[0] && (access(own, F_OK) == 0 || !file)) {
		snprintf(t.shadow, sizeof t.shadow, "%s", own);
		code = socket_in(own, t.socket, err);
	} else if (file) {
		code = target_of_config(file, &t, err);
	} else if (getenv("MIGSTREAM_SHADOW") && *getenv("MIGSTREAM_SHADOW")) {
		if (!(code = ms_shadow_default("/", t.shadow, err)))
			code = socket_in(t.shadow, t.socket, err);
	} else {
		code = ms_err_set(err, MS_EUSAGE, "which daemon? Name the database, its configuration with -c FILE, or its socket with --socket PATH");
	}
	if (code)
		ms_target_release(&t);
	else
		*ret = t;
	return code;
}

void ms_target_release(struct ms_target *t) {
	ms_config_release(t->config);
	t->config = NULL;
}
