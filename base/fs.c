#include "base/fs.h"

#include <inttypes.h>
#include <stdio.h>

#define READ_STEP 65536
#define NAMES_MAX 65536			/* bytes of names handled at a time while removing a tree */
#define PENDING_MAX (64u * 1024 * 1024) /* bytes of directory paths waiting while measuring a tree */

enum ms_code ms_fs_read_file(struct ms_env *env, const char *path, struct ms_buf *out, struct ms_err *err) {
	struct ms_file *f = NULL;
	enum ms_code rc = env->ops->open(env, path, MS_O_RDONLY, 0, &f, err);
	int64_t size = 0, off = 0;
	size_t start = out->len;

	if (rc != MS_OK)
		return rc;
	if ((rc = env->ops->fsize(f, &size, err)) != MS_OK)
		goto out;
	/* The size is a hint: the file may grow while it is read. One byte more lets the first read see the end. */
	size_t step = size > 0 && (uint64_t)size < out->limit - out->len ? (size_t)size + 1 : READ_STEP;
	for (;;) {
		size_t n = 0, room = out->limit - out->len;

		if (room == 0) {
			uint8_t more;
			if ((rc = env->ops->pread(f, &more, 1, off, &n, err)) == MS_OK && n > 0)
				rc = ms_err_set(err, MS_ETOOBIG, "%s: larger than the limit of %zu bytes", path, out->limit);
			goto out;
		}
		if (step > room)
			step = room;
		if ((rc = ms_buf_reserve(out, step, err)) != MS_OK) {
			rc = ms_err_wrap(err, "%s", path);
			goto out;
		}
		if ((rc = env->ops->pread(f, out->data + out->len, step, off, &n, err)) != MS_OK)
			goto out;
		out->len += n;
		off += (int64_t)n;
		if (n < step)
			goto out;
		step = READ_STEP;
	}
out:
	env->ops->close(f);
	if (rc != MS_OK)
		out->len = start;
	return rc;
}

enum ms_code ms_fs_replace_file(struct ms_env *env, const char *path, const void *data, size_t len, unsigned mode,
				struct ms_err *err) {
	char dir[MS_PATH_MAX], tmp[MS_PATH_MAX];
	uint64_t salt;
	struct ms_file *f = NULL;
	enum ms_code rc;

	if ((rc = ms_path_dir(dir, sizeof dir, path, err)) != MS_OK)
		return rc;
	env->ops->random(env, &salt, sizeof salt);
	if (snprintf(tmp, sizeof tmp, "%s.tmp-%016" PRIx64, path, salt) >= (int)sizeof tmp)
		return ms_err_set(err, MS_ETOOBIG, "%s: path is longer than %d bytes", path, MS_PATH_MAX);
	if ((rc = env->ops->open(env, tmp, MS_O_RDWR | MS_O_CREATE | MS_O_EXCL | MS_O_NOFOLLOW, mode, &f, err)) != MS_OK)
		return rc;
	/* The umask does not decide: the mode is that which was asked for. */
	if ((rc = env->ops->fchmod(f, mode, err)) != MS_OK)
		goto fail;
	if ((rc = env->ops->pwrite(f, data, len, 0, err)) != MS_OK)
		goto fail;
	if ((rc = env->ops->fsync(f, err)) != MS_OK)
		goto fail;
	env->ops->close(f);
	f = NULL;
	if ((rc = env->ops->rename(env, tmp, path, err)) != MS_OK)
		goto fail;
	return env->ops->fsync_dir(env, dir, err);
fail:
	env->ops->close(f);
	(void)!env->ops->unlink(env, tmp, NULL);
	return rc;
}

static enum ms_code sync_parent(struct ms_env *env, const char *path, struct ms_err *err) {
	char dir[MS_PATH_MAX];
	enum ms_code rc = ms_path_dir(dir, sizeof dir, path, err);

	return rc != MS_OK ? rc : env->ops->fsync_dir(env, dir, err);
}

/* Length of the parent's part of path[0..len): "a/b" gives 1, "/a" and "a" give 0. */
static size_t parent_len(const char *path, size_t len) {
	while (len > 0 && path[len - 1] == '/')
		len--;
	while (len > 0 && path[len - 1] != '/')
		len--;
	while (len > 0 && path[len - 1] == '/')
		len--;
	return len;
}

/* Finds the deepest directory that is there already; *ret_len is how much of path names it (0: root or working directory). */
static enum ms_code find_existing(struct ms_env *env, char *p, size_t full, size_t *ret_len, struct ms_err *err) {
	for (size_t len = full; len > 0; len = parent_len(p, len)) {
		struct ms_err why = MS_ERR_INIT;
		struct ms_stat st;
		char cut = p[len];

		p[len] = '\0';
		enum ms_code rc = env->ops->stat(env, p, &st, &why);
		if (rc == MS_OK && !st.is_dir)
			rc = ms_err_set(&why, MS_EEXISTS, "%s: is not a directory", p);
		else if (rc == MS_OK) {
			/* A run before us may have been killed between its mkdir and the sync, so this one is synced too. Where
			 * the parent may not be opened it was not us who made it. */
			rc = sync_parent(env, p, &why);
			if (rc == MS_EPERM)
				rc = MS_OK;
		}
		p[len] = cut;
		if (rc == MS_OK) {
			*ret_len = len;
			return MS_OK;
		}
		if (rc != MS_ENOTFOUND) {
			if (err)
				*err = why;
			return rc;
		}
	}
	*ret_len = 0;
	return MS_OK;
}

enum ms_code ms_fs_mkdir_p(struct ms_env *env, const char *path, unsigned mode, struct ms_err *err) {
	char p[MS_PATH_MAX];
	size_t full = strlen(path), len = 0;
	enum ms_code rc;

	if (full == 0 || full >= sizeof p)
		return ms_err_set(err, full ? MS_ETOOBIG : MS_EINVAL, "\"%.200s\": not a directory path", path);
	memcpy(p, path, full + 1);
	while (full > 1 && p[full - 1] == '/')
		p[--full] = '\0';
	if ((rc = find_existing(env, p, full, &len, err)) != MS_OK)
		return rc;
	while (len < full) {
		while (p[len] == '/')
			len++;
		while (len < full && p[len] != '/')
			len++;
		char cut = p[len];
		struct ms_err why = MS_ERR_INIT;
		p[len] = '\0';
		rc = env->ops->mkdir(env, p, mode, &why);
		/* Another process may have been faster; what is there is checked by the next step or by its user. */
		if (rc == MS_OK || rc == MS_EEXISTS)
			rc = sync_parent(env, p, &why);
		p[len] = cut;
		if (rc != MS_OK) {
			if (err)
				*err = why;
			return rc;
		}
	}
	return MS_OK;
}

/* What one look into a directory found: names of other things to unlink, up to NAMES_MAX bytes, or one subdirectory. */
struct look {
	struct ms_buf names; /* each terminated by NUL */
	char subdir[256];
};

static bool look_cb(void *arg, const char *name, bool is_dir) {
	struct look *l = arg;

	if (is_dir) {
		size_t n = strlen(name);
		if (n >= sizeof l->subdir)
			return false;
		memcpy(l->subdir, name, n + 1);
		return false;
	}
	return ms_buf_append(&l->names, name, strlen(name) + 1, NULL) == MS_OK;
}

/* One step of emptying the directory `path`; *ret_empty when nothing was left to do in it. */
static enum ms_code empty_step(struct ms_env *env, const char *path, struct look *l, bool *ret_empty, struct ms_err *err) {
	char child[MS_PATH_MAX];
	enum ms_code rc;

	ms_buf_clear(&l->names);
	l->subdir[0] = '\0';
	if ((rc = env->ops->readdir(env, path, look_cb, l, err)) != MS_OK)
		return rc;
	for (size_t i = 0; i < l->names.len;) {
		const char *name = (const char *)l->names.data + i;
		struct ms_err why = MS_ERR_INIT;

		if ((rc = ms_path_join(child, sizeof child, path, name, err)) != MS_OK)
			return rc;
		rc = env->ops->unlink(env, child, &why);
		if (rc != MS_OK && rc != MS_ENOTFOUND) {
			if (err)
				*err = why;
			return rc;
		}
		i += strlen(name) + 1;
	}
	*ret_empty = l->names.len == 0 && !l->subdir[0];
	return MS_OK;
}

enum ms_code ms_fs_remove_tree(struct ms_env *env, const char *path, struct ms_err *err) {
	char p[MS_PATH_MAX];
	size_t root = strlen(path), len = root;
	struct ms_err why = MS_ERR_INIT;
	struct ms_stat st;
	struct look l;

	if (root == 0 || root >= sizeof p)
		return ms_err_set(err, root ? MS_ETOOBIG : MS_EINVAL, "\"%.200s\": not a path", path);
	/* unlink() first: it takes a symlink away instead of following it, and refuses a directory. */
	enum ms_code rc = env->ops->unlink(env, path, &why);
	if (rc == MS_OK || rc == MS_ENOTFOUND)
		return MS_OK;
	if (env->ops->stat(env, path, &st, NULL) != MS_OK || !st.is_dir) {
		if (err)
			*err = why;
		return rc;
	}
	memcpy(p, path, root + 1);
	ms_buf_init(&l.names, NAMES_MAX);
	for (;;) {
		bool empty = false;

		if ((rc = empty_step(env, p, &l, &empty, err)) != MS_OK)
			break;
		if (l.subdir[0]) {
			if ((rc = ms_path_join(p, sizeof p, p, l.subdir, err)) != MS_OK)
				break;
			len = strlen(p);
		} else if (empty) {
			if ((rc = env->ops->rmdir(env, p, err)) != MS_OK || len == root)
				break;
			len = parent_len(p, len);
			if (len < root)
				len = root; /* the root itself ends in a slash */
			p[len] = '\0';
		}
	}
	ms_buf_release(&l.names);
	return rc;
}

enum ms_code ms_path_join(char *ret, size_t cap, const char *a, const char *b, struct ms_err *err) {
	size_t na = strlen(a), nb;
	bool slash;

	while (na > 0 && *b == '/')
		b++;
	nb = strlen(b);
	slash = na > 0 && nb > 0 && a[na - 1] != '/';
	if (na >= cap || nb >= cap || na + slash + nb >= cap)
		return ms_err_set(err, MS_ETOOBIG, "path %.100s/%.100s is longer than %zu bytes", a, b, cap);
	memmove(ret + na + slash, b, nb + 1);
	memmove(ret, a, na);
	if (slash)
		ret[na] = '/';
	return MS_OK;
}

enum ms_code ms_path_dir(char *ret, size_t cap, const char *path, struct ms_err *err) {
	size_t n = parent_len(path, strlen(path));
	const char *dir = path;

	if (n == 0) {
		dir = path[0] == '/' ? "/" : ".";
		n = 1;
	}
	if (n >= cap)
		return ms_err_set(err, MS_ETOOBIG, "directory of %.200s is longer than %zu bytes", path, cap);
	memmove(ret, dir, n);
	ret[n] = '\0';
	return MS_OK;
}

const char *ms_path_base(const char *path) {
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

struct measure {
	struct ms_env *env;
	const char *dir;
	struct ms_buf *pending;
	uint64_t bytes;
	enum ms_code rc;
	struct ms_err *err;
};

static bool measure_cb(void *arg, const char *name, bool is_dir) {
	struct measure *m = arg;
	char path[MS_PATH_MAX];
	struct ms_err why = MS_ERR_INIT;
	struct ms_stat st;

	if ((m->rc = ms_path_join(path, sizeof path, m->dir, name, m->err)) != MS_OK)
		return false;
	if (is_dir) {
		m->rc = ms_buf_append(m->pending, path, strlen(path) + 1, m->err);
		return m->rc == MS_OK;
	}
	enum ms_code rc = m->env->ops->stat(m->env, path, &st, &why);
	if (rc == MS_OK && st.is_file)
		m->bytes += (uint64_t)st.size;
	if (rc == MS_OK || rc == MS_ENOTFOUND)
		return true;
	m->rc = rc;
	if (m->err)
		*m->err = why;
	return false;
}

enum ms_code ms_fs_tree_bytes(struct ms_env *env, const char *path, uint64_t *ret, struct ms_err *err) {
	struct ms_buf pending; /* paths, each terminated by NUL, used as a stack */
	struct measure m = {.env = env, .pending = &pending, .err = err};
	char dir[MS_PATH_MAX];
	enum ms_code rc;

	if (strlen(path) >= sizeof dir)
		return ms_err_set(err, MS_ETOOBIG, "\"%.200s\": path is longer than %d bytes", path, MS_PATH_MAX);
	ms_buf_init(&pending, PENDING_MAX);
	if ((rc = ms_buf_append(&pending, path, strlen(path) + 1, err)) != MS_OK)
		goto out;
	for (bool top = true; pending.len; top = false) {
		struct ms_err why = MS_ERR_INIT;
		size_t at = pending.len - 1;

		while (at > 0 && pending.data[at - 1] != '\0')
			at--;
		memcpy(dir, pending.data + at, pending.len - at);
		pending.len = at;
		m.dir = dir;
		rc = env->ops->readdir(env, dir, measure_cb, &m, &why);
		if (rc == MS_ENOTFOUND && !top) {
			rc = MS_OK; /* removed since its parent was read */
			continue;
		}
		if (rc != MS_OK) {
			if (err)
				*err = why;
			goto out;
		}
		if ((rc = m.rc) != MS_OK)
			goto out;
	}
	*ret = m.bytes;
out:
	ms_buf_release(&pending);
	return rc;
}
