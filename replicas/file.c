/*
 * The `file` backend: a directory, on any file system with hard links.
 *
 *   <path>/.tmp/<16 hex>.tmp         objects being written
 *   <path>/[<prefix>/]<object name>  objects, mode 0600
 *
 * Put: write the temporary, fsync it, link(2) it to its name (fails when the name is taken: create-if-absent, atomic even between
 * machines that share the directory), fsync the directory, unlink the temporary. A writer that dies leaves a temporary at most; those not
 * touched for an hour are swept at open.
 *
 * `.tmp` is also the mark of a replica directory: it is made together with the directory by a handle opened with create=true, and a
 * handle without that never makes it. So an unmounted disk (its mount point an empty directory, or gone) is an error, not a new replica.
 *
 * No component below <path> is followed when it is a symbolic link.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "replicas/builtin.h"
#include "replicas/tree.h"

#define IO_SIZE (256u << 10)
#define TMP_DIR ".tmp"
#define TMP_MAX_AGE_US (INT64_C(3600) * 1000000)
#define DIR_MODE 0700u
#define FILE_MODE 0600u

struct file_replica {
	struct ms_replica_base base;
	struct ms_env *env;
	atomic_bool cancelled;
	bool create; /* may make the directory; cleared by the first success */
	bool seen;   /* dev and ino are known */
	uint64_t dev, ino;
	size_t nroot;		  /* length of `root` */
	char root[MS_PATH_MAX];	  /* <path> */
	char prefix[MS_OBJECT_NAME_MAX + 2]; /* "" or "<prefix>/" */
};

static enum ms_code canceled(struct file_replica *r, struct ms_err *err) {
	return ms_err_set(err, MS_ECANCELED, "file replica %s: the call was cancelled", r->root);
}

/* <root>/<name>, where name holds the prefix already. */
static enum ms_code path_of(struct file_replica *r, char ret[MS_PATH_MAX], const char *name, struct ms_err *err) {
	return ms_path_join(ret, MS_PATH_MAX, r->root, name, err);
}

#define FULL_NAME_MAX (2 * MS_OBJECT_NAME_MAX + 4)

static void full_name(struct file_replica *r, char ret[FULL_NAME_MAX], const char *name) {
	size_t np = strlen(r->prefix), n = strlen(name);
	memcpy(ret, r->prefix, np);
	memcpy(ret + np, name, n + 1);
}

/* env's stat follows links, its open does not when asked; opening a directory fails with another errno. */
static bool is_symlink(struct file_replica *r, const char *path) {
	struct ms_file *f = NULL;
	struct ms_err e = MS_ERR_INIT;
	if (r->env->ops->open(r->env, path, MS_O_RDONLY | MS_O_NOFOLLOW, 0, &f, &e) == MS_OK)
		r->env->ops->close(f);
	return e.sys == ELOOP;
}

enum root_state { ROOT_THERE, ROOT_NOT_YET };

/* Is the directory there, and the one that we know? With create and nothing there: ROOT_NOT_YET. */
static enum ms_code root_check(struct file_replica *r, enum root_state *ret, struct ms_err *err) {
	struct ms_stat st;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc;
	if (atomic_load(&r->cancelled))
		return canceled(r, err);
	rc = r->env->ops->stat(r->env, r->root, &st, &e);
	if (rc == MS_ENOTFOUND) {
		char parent[MS_PATH_MAX];
		struct ms_stat pst;
		if (r->seen)
			return ms_err_set(err, MS_ENOTFOUND, "file replica %s: the directory has vanished (unmounted, renamed or deleted?)", r->root);
		if ((rc = ms_path_dir(parent, sizeof parent, r->root, err)))
			return rc;
		rc = r->env->ops->stat(r->env, parent, &pst, &e);
		if (rc == MS_ENOTFOUND)
			return ms_err_set(err, MS_ENOTFOUND, "file replica %s: no such directory, and its parent directory %s does not exist either (mount it, or create it)", r->root, parent);
		if (rc)
			return ms_err_set(err, rc, "file replica %s: %s", r->root, e.msg);
		if (!r->create)
			return ms_err_set(err, MS_ENOTFOUND, "file replica %s: no such directory (unmounted, or deleted?)", r->root);
		*ret = ROOT_NOT_YET;
		return MS_OK;
	}
	if (rc)
		return ms_err_set(err, rc, "file replica %s: %s", r->root, e.msg);
	if (!st.is_dir)
		return ms_err_set(err, MS_ENOTFOUND, "file replica %s: not a directory", r->root);
	if (!r->seen || st.dev != r->dev || st.ino != r->ino) {
		/* Known is a directory that has the mark. A mount point without its disk has none; the disk that comes back, under whatever
		 * device number, has. */
		char mark[MS_PATH_MAX];
		struct ms_stat mst;
		if ((rc = path_of(r, mark, TMP_DIR, err)))
			return rc;
		bool marked = r->env->ops->stat(r->env, mark, &mst, &e) == MS_OK && mst.is_dir;
		if (r->seen && !marked)
			return ms_err_set(err, MS_ENOTFOUND,
					  "file replica %s: another directory lies there now, without the mark of a replica (unmounted or replaced?)",
					  r->root);
		r->dev = st.dev;
		r->ino = st.ino;
		r->seen = marked;
	}
	*ret = ROOT_THERE;
	return MS_OK;
}

static enum ms_code mkdir_durable(struct file_replica *r, const char *path, const char *parent, struct ms_err *err) {
	enum ms_code rc = r->env->ops->mkdir(r->env, path, DIR_MODE, err);
	if (rc && rc != MS_EEXISTS)
		return rc;
	/* Also when it exists: its maker may not have come to the fsync. */
	return r->env->ops->fsync_dir(r->env, parent, err);
}

/* Before a write: the directory and its mark are there. */
static enum ms_code root_ready(struct file_replica *r, char tmp[MS_PATH_MAX], struct ms_err *err) {
	enum root_state state;
	struct ms_stat st;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc;
	if ((rc = root_check(r, &state, err)) || (rc = path_of(r, tmp, TMP_DIR, err)))
		return rc;
	if (state == ROOT_NOT_YET) {
		char parent[MS_PATH_MAX];
		if ((rc = ms_path_dir(parent, sizeof parent, r->root, err)) || (rc = mkdir_durable(r, r->root, parent, err)) ||
		    (rc = root_check(r, &state, err)))
			return rc;
	}
	rc = r->env->ops->stat(r->env, tmp, &st, &e);
	if (rc == MS_ENOTFOUND && r->create)
		return mkdir_durable(r, tmp, r->root, err);
	if (rc == MS_ENOTFOUND)
		return ms_err_set(err, MS_ENOTFOUND,
				  "file replica %s: the directory lacks its mark (%s), so it is not the one written before: unmounted? "
				  "If it is to be filled anew: mkdir %s", r->root, TMP_DIR, tmp);
	if (rc)
		return ms_err_set(err, rc, "file replica %s: %s", r->root, e.msg);
	if (!st.is_dir || is_symlink(r, tmp))
		return ms_err_set(err, MS_EPERMANENT, "file replica %s: %s is not a directory (symbolic links are not followed)", r->root, tmp);
	return MS_OK;
}

/*
 * Walks the directories of a full name below the root. make: creates those that are missing. MS_ENOTFOUND when one is missing and not made,
 * MS_EPERMANENT when one is no directory.
 */
static enum ms_code dirs_check(struct file_replica *r, const char *name, bool make, struct ms_err *err) {
	char path[MS_PATH_MAX], parent[MS_PATH_MAX];
	enum ms_code rc = path_of(r, path, name, err);
	if (rc)
		return rc;
	memcpy(parent, r->root, r->nroot + 1);
	for (char *slash = path + r->nroot + 1; (slash = strchr(slash, '/')); slash++) {
		struct ms_stat st;
		struct ms_err e = MS_ERR_INIT;
		*slash = '\0';
		rc = r->env->ops->stat(r->env, path, &st, &e);
		if (rc == MS_ENOTFOUND && make)
			rc = mkdir_durable(r, path, parent, err);
		else if (rc)
			rc = ms_err_set(err, rc, "file replica %s: %s", r->root, e.msg);
		else if (!st.is_dir || is_symlink(r, path))
			rc = ms_err_set(err, MS_EPERMANENT, "file replica %s: %s is not a directory (symbolic links are not followed)", r->root, path);
		if (rc)
			return rc;
		memcpy(parent, path, strlen(path) + 1);
		*slash = '/';
	}
	return MS_OK;
}

struct sweep {
	struct file_replica *r;
	const char *dir;
	int64_t before_us;
};

static bool sweep_one(void *arg, const char *name, bool is_dir) {
	struct sweep *s = arg;
	char path[MS_PATH_MAX];
	struct ms_stat st;
	size_t n = strlen(name);
	if (is_dir || n != 20 || strcmp(name + 16, ".tmp") != 0 || ms_path_join(path, sizeof path, s->dir, name, NULL))
		return true;
	if (s->r->env->ops->stat(s->r->env, path, &st, NULL) == MS_OK && st.is_file && st.mtime_us < s->before_us)
		(void)s->r->env->ops->unlink(s->r->env, path, NULL);
	return true;
}

static enum ms_code file_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) {
	const char *path = ms_replica_spec_get(spec, "path"), *prefix = ms_replica_spec_get(spec, "prefix"), *create = ms_replica_spec_get(spec, "create");
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (n == 1 && path[0] == '/')
		return ms_err_set(err, MS_EUSAGE, "the root directory cannot be a file replica");
	if (n + 2 * MS_OBJECT_NAME_MAX + 4 >= MS_PATH_MAX)
		return ms_err_set(err, MS_EUSAGE, "file replica %.100s...: the path is too long", path);
	if (prefix && prefix[0] && !ms_object_name_valid(prefix))
		return ms_err_set(err, MS_EUSAGE, "file replica %s: '%s' is not a prefix of object names", path, prefix);
	struct file_replica *r = calloc(1, sizeof *r);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "file replica %s", path);
	r->base.driver = &ms_replica_file_driver;
	r->env = env;
	r->create = create && strcmp(create, "true") == 0;
	memcpy(r->root, path, n);
	r->nroot = n;
	if (prefix && prefix[0])
		snprintf(r->prefix, sizeof r->prefix, "%s/", prefix);

	char tmp[MS_PATH_MAX];
	struct sweep s = {r, tmp, ms_env_now_us(env) - TMP_MAX_AGE_US};
	if (path_of(r, tmp, TMP_DIR, NULL) == MS_OK)
		(void)env->ops->readdir(env, tmp, sweep_one, &s, NULL);
	*ret = (struct ms_replica *)r;
	return MS_OK;
}

static enum ms_code write_body(struct file_replica *r, struct ms_file *f, const char *name, struct ms_body *b, struct ms_err *err) {
	uint8_t *buf = malloc(IO_SIZE);
	int64_t off = 0;
	size_t n;
	enum ms_code rc;
	if (!buf)
		return ms_err_set(err, MS_ENOMEM, "file replica %s: %s", r->root, name);
	do {
		/* Bodies deliver in pieces as they come; a write wants to be large. */
		size_t have = 0;
		do {
			if ((rc = b->read(b, buf + have, IO_SIZE - have, &n, err)))
				goto out;
			have += n;
		} while (n && have < IO_SIZE);
		if (atomic_load(&r->cancelled)) {
			rc = canceled(r, err);
			goto out;
		}
		if (have && (rc = r->env->ops->pwrite(f, buf, have, off, err)))
			goto out;
		off += (int64_t)have;
	} while (n);
	if (b->size >= 0 && b->size != off)
		rc = ms_err_set(err, MS_EINVAL, "%s: the body gave %lld bytes instead of %lld", name, (long long)off, (long long)b->size);
	else
		rc = r->env->ops->fsync(f, err);
out:
	free(buf);
	return rc;
}

static enum ms_code publish(struct file_replica *r, const char *tmp, const char *name, const char *path, struct ms_err *err) {
	char dir[MS_PATH_MAX];
	enum ms_code rc = ms_path_dir(dir, sizeof dir, path, err);
	/* A remove may take away the empty directory that was just made: then it is made again. */
	for (int tries = 0; !rc && tries < 8; tries++) {
		struct ms_err e = MS_ERR_INIT;
		enum root_state root;
		rc = dirs_check(r, name, true, &e);
		if (rc == MS_ENOTFOUND) { /* taken away between two steps down; or all of it has gone */
			if ((rc = root_check(r, &root, err)))
				return rc;
			continue;
		}
		if (rc)
			return ms_err_set(err, rc, "%s", e.msg);
		rc = r->env->ops->link(r->env, tmp, path, &e);
		if (rc == MS_EEXISTS) {
			/* Who finds its own object there (a lost response) may rely on it: the name has to be durable. */
			rc = r->env->ops->fsync_dir(r->env, dir, err);
			return rc ? rc : ms_err_set(err, MS_EEXISTS, "file replica %s: %s exists", r->root, name);
		}
		if (rc == MS_ENOTFOUND) {
			struct ms_stat st;
			if (r->env->ops->stat(r->env, tmp, &st, NULL) == MS_OK) {
				rc = MS_OK;
				continue;
			}
		}
		if (rc == MS_EPERM)
			return ms_err_set(err, MS_EPERM, "%s (a file replica needs write permission, and a file system with hard links)", e.msg);
		if (rc)
			return ms_err_set(err, rc, "%s", e.msg);
		rc = r->env->ops->fsync_dir(r->env, dir, err);
		if (rc) /* linked, but nobody can say for how long */
			(void)r->env->ops->unlink(r->env, path, NULL);
		return rc;
	}
	return rc ? rc : ms_err_set(err, MS_ERETRY, "file replica %s: the directory of %s keeps vanishing", r->root, name);
}

static enum ms_code file_put(struct ms_replica *base, const char *name, struct ms_body *b, struct ms_err *err) {
	struct file_replica *r = (struct file_replica *)base;
	char tmp[MS_PATH_MAX], path[MS_PATH_MAX], full[FULL_NAME_MAX];
	struct ms_file *f = NULL;
	struct ms_stat st;
	uint64_t id;
	enum ms_code rc;
	full_name(r, full, name);
	if ((rc = root_ready(r, tmp, err)) || (rc = path_of(r, path, full, err)))
		return rc;
	/* Saves writing what cannot be published; the link decides. */
	if (r->env->ops->stat(r->env, path, &st, NULL) == MS_OK) {
		char dir[MS_PATH_MAX];
		if ((rc = ms_path_dir(dir, sizeof dir, path, err)) || (rc = dirs_check(r, full, false, err)) || (rc = r->env->ops->fsync_dir(r->env, dir, err)))
			return rc;
		return ms_err_set(err, MS_EEXISTS, "file replica %s: %s exists", r->root, name);
	}
	ms_env_random(r->env, &id, sizeof id);
	size_t n = strlen(tmp);
	if (n + 22 >= sizeof tmp)
		return ms_err_set(err, MS_ETOOBIG, "file replica %s: the path is too long", r->root);
	snprintf(tmp + n, sizeof tmp - n, "/%016llx.tmp", (unsigned long long)id);
	if ((rc = r->env->ops->open(r->env, tmp, MS_O_RDWR | MS_O_CREATE | MS_O_EXCL | MS_O_NOFOLLOW, FILE_MODE, &f, err)))
		return rc == MS_EEXISTS ? ms_err_set(err, MS_ERETRY, "file replica %s: the temporary %s exists", r->root, tmp) : rc;
	rc = write_body(r, f, name, b, err);
	r->env->ops->close(f);
	if (!rc)
		rc = publish(r, tmp, full, path, err);
	(void)r->env->ops->unlink(r->env, tmp, NULL);
	if (!rc)
		r->create = false, r->seen = true;
	return rc;
}

/* Path of an existing object; MS_ENOTFOUND when there is none. */
static enum ms_code locate(struct file_replica *r, const char *name, char path[MS_PATH_MAX], struct ms_err *err) {
	char full[FULL_NAME_MAX];
	enum root_state state;
	struct ms_stat st;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc;
	if ((rc = root_check(r, &state, err)))
		return rc;
	if (state == ROOT_NOT_YET)
		return ms_err_set(err, MS_ENOTFOUND, "file replica %s: %s does not exist", r->root, name);
	full_name(r, full, name);
	if ((rc = path_of(r, path, full, err)))
		return rc;
	rc = dirs_check(r, full, false, &e);
	if (!rc)
		rc = r->env->ops->stat(r->env, path, &st, &e);
	if (rc == MS_ENOTFOUND || (!rc && (!st.is_file || is_symlink(r, path))))
		return ms_err_set(err, MS_ENOTFOUND, "file replica %s: %s does not exist", r->root, name);
	return rc ? ms_err_set(err, rc, "%s", e.msg) : MS_OK;
}

static enum ms_code file_get(struct ms_replica *base, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	struct file_replica *r = (struct file_replica *)base;
	char path[MS_PATH_MAX];
	struct ms_file *f = NULL;
	uint8_t *buf = NULL;
	enum ms_code rc;
	if ((rc = locate(r, name, path, err)) || (rc = r->env->ops->open(r->env, path, MS_O_RDONLY | MS_O_NOFOLLOW, 0, &f, err)))
		return rc;
	buf = malloc(IO_SIZE);
	if (!buf) {
		rc = ms_err_set(err, MS_ENOMEM, "file replica %s: %s", r->root, name);
		goto out;
	}
	while (len != 0) {
		size_t want = len < 0 || (uint64_t)len > IO_SIZE ? IO_SIZE : (size_t)len, n;
		if (atomic_load(&r->cancelled)) {
			rc = canceled(r, err);
			goto out;
		}
		if ((rc = r->env->ops->pread(f, buf, want, off, &n, err)) || n == 0 || (rc = cb(arg, buf, n, err)))
			goto out;
		off += (int64_t)n;
		len -= len < 0 ? 0 : (int64_t)n;
	}
out:
	free(buf);
	r->env->ops->close(f);
	return rc;
}

static enum ms_code file_remove(struct ms_replica *base, const char *name, struct ms_err *err) {
	struct file_replica *r = (struct file_replica *)base;
	char path[MS_PATH_MAX];
	struct ms_err e = MS_ERR_INIT;
	enum root_state state;
	enum ms_code rc = root_check(r, &state, err);
	if (rc)
		return rc;
	if ((rc = locate(r, name, path, &e)) || (rc = r->env->ops->unlink(r->env, path, &e)))
		return rc == MS_ENOTFOUND ? MS_OK : ms_err_set(err, rc, "%s", e.msg);
	/* Directories that became empty go too; one that is not, or is the root, stays. */
	for (char *slash; (slash = strrchr(path, '/')) > path + r->nroot;) {
		*slash = '\0';
		if (r->env->ops->rmdir(r->env, path, NULL))
			break;
	}
	return MS_OK;
}

static void file_caps(struct ms_replica *base, struct ms_replica_caps *ret) {
	(void)base;
	*ret = (struct ms_replica_caps){.create_if_absent = true, .parallel = 4};
}

static void file_cancel(struct ms_replica *base) { atomic_store(&((struct file_replica *)base)->cancelled, true); }

static void file_close(struct ms_replica *base) { free(base); }

struct listing {
	struct ms_tree tree;
	struct file_replica *r;
};
struct collect {
	struct ms_tree_dir *to;
	enum ms_code rc;
	struct ms_err *err;
};

static bool collect(void *arg, const char *name, bool is_dir) {
	struct collect *c = arg;
	c->rc = ms_tree_add(c->to, name, is_dir, 0, 0, c->err);
	return c->rc == MS_OK;
}

static enum ms_code list_read(struct ms_tree *t, const char *dir, struct ms_tree_dir *to, struct ms_err *err) {
	struct file_replica *r = ((struct listing *)t)->r;
	char full[FULL_NAME_MAX], path[MS_PATH_MAX];
	struct ms_err e = MS_ERR_INIT;
	struct collect c = {.to = to, .err = err};
	enum ms_code rc;
	full_name(r, full, dir);
	if (full[0])
		full[strlen(full) - 1] = '\0';
	memcpy(path, r->root, r->nroot + 1);
	if (full[0] && (rc = path_of(r, path, full, err)))
		return rc;
	rc = r->env->ops->readdir(r->env, path, collect, &c, &e);
	if (rc && rc != MS_ENOTFOUND) /* removed meanwhile, or nothing put yet */
		return ms_err_set(err, rc, "file replica %s: %s", r->root, e.msg);
	return c.rc;
}

static bool list_stat(struct ms_tree *t, struct ms_object *o) {
	struct file_replica *r = ((struct listing *)t)->r;
	char full[FULL_NAME_MAX], path[MS_PATH_MAX];
	struct ms_stat st;
	full_name(r, full, o->name);
	if (path_of(r, path, full, NULL) || r->env->ops->stat(r->env, path, &st, NULL) || !st.is_file || is_symlink(r, path))
		return false;
	o->size = st.size;
	o->mtime_us = st.mtime_us;
	return true;
}

static enum ms_code list_check(struct ms_tree *t, struct ms_err *err) {
	struct file_replica *r = ((struct listing *)t)->r;
	return atomic_load(&r->cancelled) ? canceled(r, err) : MS_OK;
}

static enum ms_code file_list(struct ms_replica *base, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	struct file_replica *r = (struct file_replica *)base;
	struct listing l = {.tree = {.read = list_read, .stat = list_stat, .check = list_check}, .r = r};
	enum root_state state;
	enum ms_code rc = root_check(r, &state, err);
	if (rc || state == ROOT_NOT_YET)
		return rc;
	char dir[MS_OBJECT_NAME_MAX + 2];
	ms_tree_start(prefix, dir);
	if (dir[0]) {
		char full[FULL_NAME_MAX];
		struct ms_err e = MS_ERR_INIT;
		full_name(r, full, dir);
		rc = dirs_check(r, full, false, &e);
		if (rc) /* not there, or no directory of ours: nothing below it */
			return rc == MS_ENOTFOUND || rc == MS_EPERMANENT ? MS_OK : ms_err_set(err, rc, "%s", e.msg);
	}
	return ms_tree_list(&l.tree, dir, prefix, start_after, cb, arg, err);
}

static const struct ms_option_def file_options[] = {
	{.key = "path", .type = "path", .required = true, .help = "the directory; its parent must exist"},
	{.key = "prefix", .type = "string", .help = "folder below it that this replica uses"},
	{.key = "create", .type = "bool", .help = "may make the directory at the first put; set by the claim of a new replica"},
	{0},
};
const struct ms_replica_driver ms_replica_file_driver = {
	.scheme = "file",
	.help = "a directory: file:///backup/app or /backup/app",
	.options = file_options,
	.open = file_open,
	.put = file_put,
	.get = file_get,
	.list = file_list,
	.remove = file_remove,
	.caps = file_caps,
	.cancel = file_cancel,
	.close = file_close,
};
