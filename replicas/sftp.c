/*
 * The `sftp` backend: a directory on an SSH server.
 *
 *   <path>/.../.ms-<16 hex>.tmp   objects being written, in the directory of their name (hidden: a listing skips what begins with '.')
 *   <path>/<object name>          objects, mode 0600
 *
 * Put: create the temporary, write it with up to 2 MiB under way, fsync@openssh.com, hardlink@openssh.com to its name, fsync of the directory,
 * remove the temporary. link(2) on the server fails when the name is taken, whoever took it: create-if-absent, atomic. (A rename is not the
 * primitive: OpenSSH's own is a link where the file system has links and a racy check where not; other servers replace.) A server that cannot
 * link is MS_EUNSUPPORTED, unless `exclusive: false` says that a check followed by a rename will do.
 *
 * Three round trips: (look whether the name is there, open temporary, open directory), (writes, fsync), (link, fsync directory, remove).
 *
 * A writer that dies leaves a temporary at most. One lost with its connection is removed at the next connection of the handle; those older
 * than a day are swept at a handle's first put into their directory.
 *
 * A connection is made at the first call and again after one was lost. A call that fails half-way drops it: nothing stale is read later.
 */
#include "replicas/sftp.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/timefmt.h"
#include "replicas/builtin.h"
#include "replicas/tree.h"

#define SETTLE_US (INT64_C(60) * 1000000)
#define IDLE_US (INT64_C(15) * 1000000)	     /* after that a connection is asked whether it is still there, */
#define IDLE_ANSWER_US (INT64_C(10) * 1000000) /* and has so long to answer */

void ms_sftp_path(const struct ms_sftp_replica *r, char ret[MS_SFTP_PATH_CAP], const char *name) {
	size_t n = strlen(r->root);
	snprintf(ret, MS_SFTP_PATH_CAP, "%s%s%s", r->root, r->root[n - 1] == '/' ? "" : "/", name);
}

enum ms_code ms_sftp_missing(struct ms_sftp_replica *r, const char *name, struct ms_err *err) {
	return ms_sftp_err(&r->s.conn, err, MS_ENOTFOUND, "%s does not exist", name);
}

enum ms_code ms_sftp_canceled(struct ms_sftp_replica *r, struct ms_err *err) { return ms_sftp_err(&r->s.conn, err, MS_ECANCELED, "the call was cancelled"); }

/* ---- the connection ---- */

void ms_sftp_forget_dirs(struct ms_sftp_replica *r) {
	for (unsigned i = 0; i < MS_SFTP_DIRS_KNOWN; i++) {
		free(r->dirs[i].path);
		r->dirs[i] = (struct ms_sftp_dir){0};
	}
}

/* Asks a server that was not heard of for a while; false: the connection is no good any more. */
static bool answers(struct ms_sftp_replica *r) {
	struct ms_sftp_call c;
	if (!ms_sftp_alive(&r->s))
		return false;
	if (ms_env_mono_ns(r->env) - r->used_ns < (uint64_t)IDLE_US * 1000)
		return true;
	if (r->to.stall_us > IDLE_ANSWER_US)
		r->s.conn.stall_us = IDLE_ANSWER_US;
	bool ok = ms_sftp_ask_path(&r->s, MS_SFTP_LSTAT, r->root, &c, NULL) == MS_OK && ms_sftp_collect(&r->s, &c, 1, NULL) == MS_OK;
	r->s.conn.stall_us = r->to.stall_us;
	return ok;
}

enum ms_code ms_sftp_ready(struct ms_sftp_replica *r, struct ms_err *err) {
	enum ms_code rc;
	if (atomic_load(&r->cancelled))
		return ms_sftp_canceled(r, err);
	if (r->s.conn.ssh && answers(r))
		return MS_OK;
	if (atomic_load(&r->cancelled))
		return ms_sftp_canceled(r, err);
	ms_sftp_stop(&r->s);
	/* Another server may answer now, with another file system. */
	ms_sftp_forget_dirs(r);
	r->dir_sync = r->dir_sync_tried = false;
	if ((rc = ms_sftp_start(&r->s, err)))
		return rc;
	while (!rc && r->norphans) {
		struct ms_sftp_call c;
		char *path = r->orphans[--r->norphans];
		/* The answer does not matter; it is dropped with the next one that does. */
		rc = ms_sftp_ask_path(&r->s, MS_SFTP_REMOVE, path, &c, err);
		free(path);
	}
	return rc;
}

enum ms_code ms_sftp_finish(struct ms_sftp_replica *r, enum ms_code rc, bool wire_broken) {
	r->used_ns = ms_env_mono_ns(r->env);
	r->s.conn.grace = false;
	if (wire_broken)
		ms_sftp_stop(&r->s);
	return rc;
}

/* ---- open, close ---- */

static int64_t duration_or(const struct ms_replica_spec *spec, const char *key, int64_t otherwise) {
	const char *v = ms_replica_spec_get(spec, key);
	int64_t us = otherwise;
	return v && ms_duration_parse(v, &us, NULL) == MS_OK ? us : otherwise;
}

static unsigned uint_or(const struct ms_replica_spec *spec, const char *key, unsigned otherwise) {
	const char *v = ms_replica_spec_get(spec, key);
	return v ? (unsigned)strtoul(v, NULL, 10) : otherwise;
}

static const char *text_or_env(const struct ms_replica_spec *spec, const char *key, const char *name) {
	const char *v = ms_replica_spec_get(spec, key);
	if ((!v || !v[0]) && name)
		v = getenv(name);
	return v && v[0] ? v : NULL;
}

static void sftp_close(struct ms_replica *base) {
	struct ms_sftp_replica *r = (struct ms_sftp_replica *)base;
	ms_sftp_release(&r->s);
	ms_sftp_forget_dirs(r);
	while (r->norphans)
		free(r->orphans[--r->norphans]);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	ms_replica_spec_release(&r->spec);
	free(r);
}

static enum ms_code sftp_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) {
	struct ms_sftp_replica *r = calloc(1, sizeof *r);
	enum ms_code rc;
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "sftp replica");
	r->base.driver = &ms_replica_sftp_driver;
	r->env = env;
	atomic_init(&r->cancelled, false);
	ms_sftp_init(&r->s);
	r->s.conn = (struct ms_sftp_conn){.env = env, .to = &r->to, .cancelled = &r->cancelled, .fd = -1};
	r->wake_fd = r->s.conn.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake_fd < 0) {
		rc = ms_err_set(err, MS_EIO, "sftp replica: eventfd");
		goto fail;
	}
	if ((rc = ms_replica_spec_copy(&r->spec, spec, err)))
		goto fail;
	spec = &r->spec;
	const char *path = ms_replica_spec_get(spec, "path"), *create = ms_replica_spec_get(spec, "create"), *excl = ms_replica_spec_get(spec, "exclusive");
	r->to = (struct ms_sftp_target){
		.host = ms_replica_spec_get(spec, "host"),
		.user = text_or_env(spec, "user", NULL),
		.port = uint_or(spec, "port", 22),
		.key_path = text_or_env(spec, "keyPath", NULL),
		.key_passphrase = text_or_env(spec, "keyPassphrase", "MIGSTREAM_SFTP_KEY_PASSPHRASE"),
		.password = text_or_env(spec, "password", "MIGSTREAM_SFTP_PASSWORD"),
		.known_hosts_path = text_or_env(spec, "knownHostsPath", NULL),
		.host_key = text_or_env(spec, "hostKey", NULL),
		.connect_us = duration_or(spec, "connectTimeout", INT64_C(20000000)),
		.stall_us = duration_or(spec, "stallTimeout", INT64_C(60000000)),
	};
	if (!r->to.user) {
		struct passwd *pw = getpwuid(getuid());
		if (!pw) {
			rc = ms_err_set(err, MS_EUSAGE, "sftp replica %s: name the user (sftp://user@%s/...): uid %u has no name here", r->to.host, r->to.host,
					(unsigned)getuid());
			goto fail;
		}
		snprintf(r->user, sizeof r->user, "%s", pw->pw_name);
		r->to.user = r->user;
	}
	if (r->to.port < 1 || r->to.port > 65535) {
		rc = ms_err_set(err, MS_EUSAGE, "sftp replica %s: %u is not a port", r->to.host, r->to.port);
		goto fail;
	}
	if (r->to.connect_us <= 0 || r->to.stall_us <= 0) {
		rc = ms_err_set(err, MS_EUSAGE, "sftp replica %s: connectTimeout and stallTimeout must be longer than 0", r->to.host);
		goto fail;
	}
	r->parallel = uint_or(spec, "concurrency", 4);
	if (r->parallel < 1 || r->parallel > 64) {
		rc = ms_err_set(err, MS_EUSAGE, "sftp replica %s: concurrency is 1 to 64, not %u", r->to.host, r->parallel);
		goto fail;
	}
	/* "/~/dir" and "dir" lie in the login directory, which is where a server starts. */
	if (path && strncmp(path, "/~/", 3) == 0)
		path += 3;
	else if (path && strcmp(path, "/~") == 0)
		path = ".";
	if (!path || !path[0])
		path = ".";
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (n >= sizeof r->root) {
		rc = ms_err_set(err, MS_EUSAGE, "sftp replica %s: the path is longer than %d bytes", r->to.host, MS_PATH_MAX - 1);
		goto fail;
	}
	memcpy(r->root, path, n);
	r->create = create && strcmp(create, "true") == 0;
	r->exclusive = !excl || strcmp(excl, "true") == 0;
	*ret = (struct ms_replica *)r;
	return MS_OK;
fail:
	sftp_close((struct ms_replica *)r);
	return rc;
}

/* ---- remove, list ---- */

static enum ms_code removed(struct ms_sftp_replica *r, const char *name, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	struct ms_sftp_call c, ignored;
	char path[MS_SFTP_PATH_CAP];
	enum ms_code rc;
	ms_sftp_path(r, path, name);
	if ((rc = ms_sftp_ask_path(s, MS_SFTP_REMOVE, path, &c, err)))
		return rc;
	/* Directories that became empty go too, in the same round trip; one that is not stays, and so does <path>. */
	size_t keep = strlen(r->root) + (r->root[strlen(r->root) - 1] != '/');
	char dir[MS_SFTP_PATH_CAP];
	memcpy(dir, path, sizeof dir);
	for (char *slash; (slash = strrchr(dir, '/')) && slash > dir + keep;) {
		*slash = '\0';
		if ((rc = ms_sftp_ask_path(s, MS_SFTP_RMDIR, dir, &ignored, err)))
			return rc;
	}
	if ((rc = ms_sftp_collect(s, &c, 1, err)) || c.status == MS_SFTP_OK)
		return rc;
	if (c.status != MS_SFTP_NO_SUCH_FILE) {
		/* "Failure" may say that a part of the path is no directory, or that the name is one. */
		if ((rc = ms_sftp_ask_path(s, MS_SFTP_LSTAT, path, &ignored, err)) || (rc = ms_sftp_collect(s, &ignored, 1, err)))
			return rc;
		bool object = ignored.type == MS_SFTP_ATTRS && (!ignored.attrs.has_mode || S_ISREG(ignored.attrs.mode));
		return object ? ms_sftp_refused(s, &c, "removing", path, err) : MS_OK;
	}
	if (r->create)
		return MS_OK;
	/* A directory that is not mounted holds no object either; that is no answer. */
	return ms_sftp_make_root(r, err);
}

static enum ms_code sftp_remove(struct ms_replica *base, const char *name, struct ms_err *err) {
	struct ms_sftp_replica *r = (struct ms_sftp_replica *)base;
	enum ms_code rc = ms_sftp_ready(r, err);
	if (!rc)
		rc = removed(r, name, err);
	return ms_sftp_finish(r, rc, rc != MS_OK);
}

struct listing {
	struct ms_tree tree;
	struct ms_sftp_replica *r;
	struct ms_tree_dir *to;
	bool read_any;
};

static enum ms_code list_entry(void *arg, const char *name, const struct ms_sftp_attrs *a, struct ms_err *err) {
	struct listing *l = arg;
	/* Symbolic links, sockets and the like are no objects. */
	if (!a->has_mode || !a->has_size || !(S_ISREG(a->mode) || S_ISDIR(a->mode)))
		return MS_OK;
	return ms_tree_add(l->to, name, S_ISDIR(a->mode), (int64_t)a->size, a->has_time ? (int64_t)a->mtime * 1000000 : 0, err);
}

static enum ms_code list_read(struct ms_tree *t, const char *dir, struct ms_tree_dir *to, struct ms_err *err) {
	struct listing *l = (struct listing *)t;
	struct ms_sftp_replica *r = l->r;
	struct ms_sftp_call opened;
	char path[MS_SFTP_PATH_CAP];
	ms_sftp_path(r, path, dir);
	if (strlen(path) > 1 && path[strlen(path) - 1] == '/')
		path[strlen(path) - 1] = '\0';
	l->to = to;
	enum ms_code rc = ms_sftp_read_dir(&r->s, path, list_entry, l, &opened, err);
	if (rc || opened.status == MS_SFTP_OK || opened.status == MS_SFTP_NO_SUCH_FILE)
		return rc;
	/* A file in the place of a directory has no objects below it. */
	struct ms_sftp_call c;
	if ((rc = ms_sftp_ask_path(&r->s, MS_SFTP_STAT, path, &c, err)) || (rc = ms_sftp_collect(&r->s, &c, 1, err)))
		return rc;
	if (c.type == MS_SFTP_STATUS || (c.attrs.has_mode && !S_ISDIR(c.attrs.mode)))
		return MS_OK;
	return ms_sftp_refused(&r->s, &opened, "listing", path, err);
}

static enum ms_code list_check(struct ms_tree *t, struct ms_err *err) {
	struct ms_sftp_replica *r = ((struct listing *)t)->r;
	return atomic_load(&r->cancelled) ? ms_sftp_canceled(r, err) : MS_OK;
}

static enum ms_code sftp_list(struct ms_replica *base, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	struct ms_sftp_replica *r = (struct ms_sftp_replica *)base;
	struct listing l = {.tree = {.read = list_read, .check = list_check}, .r = r};
	char dir[MS_OBJECT_NAME_MAX + 2];
	enum ms_code rc = ms_sftp_ready(r, err);
	/* No directory yet is an empty replica for who may make it, and an error for others. */
	if (!rc && !r->create)
		rc = ms_sftp_make_root(r, err);
	ms_tree_start(prefix, dir);
	if (!rc)
		rc = ms_tree_list(&l.tree, dir, prefix, start_after, cb, arg, err);
	return ms_sftp_finish(r, rc, rc != MS_OK);
}

/* ---- the driver ---- */

static void sftp_caps(struct ms_replica *base, struct ms_replica_caps *ret) {
	struct ms_sftp_replica *r = (struct ms_sftp_replica *)base;
	/* Durable at once only where the file and its directory are known to be synced; else after the kernel's own time for dirty data. */
	*ret = (struct ms_replica_caps){.create_if_absent = r->exclusive, .settle_us = r->s.has_fsync && r->dir_sync ? 0 : SETTLE_US, .parallel = r->parallel};
}

static void sftp_cancel(struct ms_replica *base) {
	struct ms_sftp_replica *r = (struct ms_sftp_replica *)base;
	uint64_t one = 1;
	atomic_store(&r->cancelled, true);
	(void)!write(r->wake_fd, &one, sizeof one);
}

static const struct ms_option_def sftp_options[] = {
	{.key = "host", .type = "string", .required = true, .help = "name or address of the server"},
	{.key = "port", .type = "uint", .help = "default 22"},
	{.key = "user", .type = "string", .help = "default: who runs migstream"},
	{.key = "path", .type = "string", .help = "directory there; /~/dir and dir lie in the login directory"},
	{.key = "keyPath", .type = "path", .help = "private key (ed25519, ECDSA, RSA); without it the agent of SSH_AUTH_SOCK, then ~/.ssh/id_*"},
	{.key = "keyPassphrase", .type = "string", .secret = true, .help = "of that key; else MIGSTREAM_SFTP_KEY_PASSPHRASE"},
	{.key = "password", .type = "string", .secret = true, .help = "of the user there; else MIGSTREAM_SFTP_PASSWORD"},
	{.key = "knownHostsPath", .type = "path", .help = "host keys that are trusted; default ~/.ssh/known_hosts"},
	{.key = "hostKey", .type = "string", .help = "the one host key that is trusted (ssh-ed25519 AAAA... or SHA256:...), instead of known_hosts"},
	{.key = "connectTimeout", .type = "duration", .help = "until the server has let us in; default 20s"},
	{.key = "stallTimeout", .type = "duration", .help = "without a byte moving; default 60s"},
	{.key = "concurrency", .type = "uint", .help = "useful number of connections at once; default 4"},
	{.key = "exclusive", .type = "bool", .help = "false: a server without hard links will do, which cannot create only if absent; needs fencing: none"},
	{.key = "create", .type = "bool", .help = "may make the directory at the first put; set by the claim of a new replica"},
	{0},
};
const struct ms_replica_driver ms_replica_sftp_driver = {
	.scheme = "sftp",
	.help = "a directory on an SSH server: sftp://user@host/backup/app?keyPath=/etc/id_key",
	.options = sftp_options,
	.open = sftp_open,
	.put = ms_sftp_put,
	.get = ms_sftp_get,
	.list = sftp_list,
	.remove = sftp_remove,
	.caps = sftp_caps,
	.cancel = sftp_cancel,
	.close = sftp_close,
};
