#include "restore/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COPY_BYTES (1u << 20)
/* SQLite's pending, reserved and shared lock bytes. */
#define SQLITE_LOCKS_AT 0x40000000L
#define SQLITE_LOCKS_LEN 512L
#define BASE_KEPT 180

static const char *const suffixes[3] = {"-wal", "-shm", "-journal"};

/* "<dir>/.<base>.migrestore-<random>" */
static enum ms_code temp_name(struct ms_restore_target *t, const char *dir, const char *base, char ret[MS_PATH_MAX], struct ms_err *err) {
	uint64_t r;
	char name[256];
	ms_env_random(t->env, &r, sizeof r);
	snprintf(name, sizeof name, ".%.*s.migrestore-%016llx", BASE_KEPT, base, (unsigned long long)r);
	return ms_path_join(ret, MS_PATH_MAX, dir, name, err);
}

enum ms_code ms_restore_target_init(struct ms_restore_target *t, struct ms_env *env, const char *path, const char *temp_dir, bool force, struct ms_err *err) {
	const char *base = ms_path_base(path);
	enum ms_code rc;
	memset(t, 0, sizeof *t);
	t->env = env;
	t->force = force;
	/* Room for the longest suffix that is put behind it. */
	if (strlen(path) >= MS_PATH_MAX - 64)
		return ms_err_set(err, MS_EUSAGE, "the target's path is too long (%zu bytes)", strlen(path));
	if (!base[0] || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
		return ms_err_set(err, MS_EUSAGE, "\"%s\" cannot be the name of a database file", path);
	snprintf(t->path, sizeof t->path, "%s", path);
	if ((rc = ms_path_dir(t->dir, sizeof t->dir, path, err)) || (rc = temp_name(t, t->dir, base, t->beside, err)))
		return rc;
	if (temp_dir)
		rc = temp_name(t, temp_dir, base, t->work, err);
	else
		memcpy(t->work, t->beside, sizeof t->work);
	return rc ? rc : temp_name(t, temp_dir ? temp_dir : t->dir, base, t->scratch, err);
}

/* Does another open file hold a lock there? */
static enum ms_code locked(struct ms_env *env, const char *path, off_t start, off_t len, bool *ret, struct ms_err *err) {
	struct ms_file *f = NULL;
	enum ms_code rc = env->ops->open(env, path, MS_O_RDONLY, 0, &f, err);
	if (rc)
		return rc;
	int fd = env->ops->fd(f);
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
	*ret = false;
	/* Asked with an open-file-description lock, which meets the locks of this process too. */
	if (fd >= 0 && fcntl(fd, F_OFD_GETLK, &l) != 0) {
		l.l_pid = 0;
		if (errno != EINVAL || fcntl(fd, F_GETLK, &l) != 0)
			rc = ms_err_sys(err, errno, MS_EIO, "%s: cannot ask for its locks", path);
	}
	if (fd >= 0 && !rc)
		*ret = l.l_type != F_UNLCK;
	env->ops->close(f);
	return rc;
}

/* MS_OK with *ret_there; anything but a regular file is refused. */
static enum ms_code look(struct ms_restore_target *t, const char *path, bool *ret_there, struct ms_err *err) {
	struct ms_stat st;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = t->env->ops->stat(t->env, path, &st, &e);
	*ret_there = rc == MS_OK;
	if (rc == MS_ENOTFOUND)
		return MS_OK;
	if (rc) {
		if (err)
			*err = e;
		return rc;
	}
	if (!st.is_file)
		return ms_err_set(err, MS_EEXISTS, "%s is %s and is not replaced", path, st.is_dir ? "a directory" : "not a regular file");
	return MS_OK;
}

enum ms_code ms_restore_target_check(struct ms_restore_target *t, bool *ret_leftover, struct ms_err *err) {
	bool there = false, busy = false, any = false;
	char side[MS_PATH_MAX + 16], which[MS_PATH_MAX + 16] = "";
	enum ms_code rc = look(t, t->path, &there, err);
	if (ret_leftover)
		*ret_leftover = false;
	if (!rc && there)
		rc = locked(t->env, t->path, SQLITE_LOCKS_AT, SQLITE_LOCKS_LEN, &busy, err);
	for (int i = 0; !rc && i < 3; i++) {
		bool here = false;
		snprintf(side, sizeof side, "%s%s", t->path, suffixes[i]);
		rc = look(t, side, &here, err);
		if (rc || !here)
			continue;
		any = true;
		if (!which[0])
			memcpy(which, side, sizeof which);
		bool held = false;
		if (i == 1)
			rc = locked(t->env, side, 0, 0, &held, err);
		busy |= held;
	}
	if (rc)
		return rc;
	if (busy)
		return ms_err_set(err, MS_EBUSY, "%s is in use by another process and is not replaced, with or without --force; stop what has it open", t->path);
	if (t->force || (!there && !any))
		return MS_OK;
	if (!there && ret_leftover)
		*ret_leftover = true;
	if (there)
		return ms_err_set(err, MS_EEXISTS, "%s exists; --force replaces it", t->path);
	return ms_err_set(err, MS_EEXISTS, "%s is left over from an earlier database, and SQLite would replay it into the restored one; --force sets it aside", which);
}

enum ms_code ms_restore_target_create(struct ms_restore_target *t, struct ms_err *err) {
	return t->env->ops->open(t->env, t->work, MS_O_RDWR | MS_O_CREATE | MS_O_EXCL | MS_O_NOFOLLOW, 0600, &t->file, err);
}

/* Copies work to beside, durable, and proves by reading both that they are equal. */
static enum ms_code copy_beside(struct ms_restore_target *t, bool (*canceled)(void *), void *arg, struct ms_file **ret, struct ms_err *err) {
	const struct ms_env_ops *ops = t->env->ops;
	struct ms_file *to = NULL;
	uint8_t *a = malloc(COPY_BYTES), *b = malloc(COPY_BYTES);
	enum ms_code rc = a && b ? MS_OK : ms_err_set(err, MS_ENOMEM, "out of memory for copying");
	if (!rc)
		rc = ops->open(t->env, t->beside, MS_O_RDWR | MS_O_CREATE | MS_O_EXCL | MS_O_NOFOLLOW, 0600, &to, err);
	t->made_beside = !rc;
	for (int pass = 0; !rc && pass < 2; pass++) {
		for (int64_t off = 0;; off += COPY_BYTES) {
			size_t na = 0, nb = 0;
			if (canceled && canceled(arg)) {
				rc = ms_err_set(err, MS_ECANCELED, "interrupted");
				break;
			}
			if ((rc = ops->pread(t->file, a, COPY_BYTES, off, &na, err)))
				break;
			if (pass == 0 && na)
				rc = ops->pwrite(to, a, na, off, err);
			else if (pass == 1)
				rc = ops->pread(to, b, COPY_BYTES, off, &nb, err);
			if (!rc && pass == 1 && (na != nb || memcmp(a, b, na) != 0))
				rc = ms_err_set(err, MS_EIO, "%s does not read back as it was written, near byte %lld", t->beside, (long long)off);
			if (rc || na < COPY_BYTES)
				break;
		}
		if (!rc && pass == 0)
			rc = ops->fsync(to, err);
	}
	free(a);
	free(b);
	if (rc)
		ops->close(to);
	else
		*ret = to;
	return rc;
}

static enum ms_code set_aside(struct ms_restore_target *t, struct ms_err *err) {
	long long now = (long long)ms_env_now_us(t->env);
	bool any = false;
	for (int i = 0; i < 3; i++) {
		char from[MS_PATH_MAX];
		struct ms_err e = MS_ERR_INIT;
		snprintf(from, sizeof from, "%.*s%s", MS_PATH_MAX - 16, t->path, suffixes[i]);
		int n = snprintf(t->aside[i], sizeof t->aside[i], "%s.migrestore-old-%lld", from, now);
		enum ms_code rc = n >= (int)sizeof t->aside[i] ? ms_err_set(&e, MS_ETOOBIG, "%s: path too long", from)
							      : t->env->ops->rename(t->env, from, t->aside[i], &e);
		if (rc)
			t->aside[i][0] = '\0';
		if (rc && rc != MS_ENOTFOUND) {
			if (err)
				*err = e;
			return rc;
		}
		memcpy(t->old[i], from, sizeof from);
		any |= rc == MS_OK;
	}
	/* Durable before the new name: a power failure between must not bring an old -wal back beside the new file. */
	return any ? t->env->ops->fsync_dir(t->env, t->dir, err) : MS_OK;
}

static void put_back(struct ms_restore_target *t) {
	for (int i = 0; i < 3; i++) {
		if (t->aside[i][0])
			(void)t->env->ops->rename(t->env, t->aside[i], t->old[i], NULL);
		t->aside[i][0] = '\0';
	}
}

/* The name is taken only if nobody has it. Where hard links do not exist, a look and a rename must do. */
static enum ms_code take_name(struct ms_restore_target *t, const char *from, struct ms_err *err) {
	const struct ms_env_ops *ops = t->env->ops;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = ops->link(t->env, from, t->path, &e);
	if (rc == MS_EEXISTS)
		return ms_err_set(err, MS_EEXISTS, "%s has appeared meanwhile; --force replaces it", t->path);
	if (rc == MS_OK) {
		/* The file has its name; a second one that cannot go is no failure. */
		(void)ops->unlink(t->env, from, NULL);
		return MS_OK;
	}
	if (e.sys != EPERM && e.sys != EOPNOTSUPP && e.sys != ENOSYS && e.sys != EMLINK) {
		if (err)
			*err = e;
		return rc;
	}
	if ((rc = ms_restore_target_check(t, NULL, err)))
		return rc;
	return ops->rename(t->env, from, t->path, err);
}

enum ms_code ms_restore_target_publish(struct ms_restore_target *t, unsigned mode, bool (*canceled)(void *arg), void *arg, struct ms_err *err) {
	const struct ms_env_ops *ops = t->env->ops;
	struct ms_file *copy = NULL;
	struct ms_err e = MS_ERR_INIT;
	bool named = false;
	enum ms_code rc;
	if ((rc = ms_restore_target_check(t, NULL, err)))
		return rc;
	if (strcmp(t->work, t->beside) != 0) {
		rc = ops->rename(t->env, t->work, t->beside, &e);
		if (rc && e.sys == EXDEV)
			rc = copy_beside(t, canceled, arg, &copy, err);
		else if (rc && err)
			*err = e;
		else if (!rc)
			memcpy(t->work, t->beside, sizeof t->work);
		if (rc)
			return rc;
	}
	struct ms_file *f = copy ? copy : t->file;
	if ((rc = ops->fchmod(f, mode, err)))
		goto out;
	if ((rc = ops->fsync(f, err)))
		goto out;
	if (canceled && canceled(arg)) {
		rc = ms_err_set(err, MS_ECANCELED, "interrupted");
		goto out;
	}
	if (t->force) {
		/* Aside before the name changes: at no moment does the new file stand beside an old -wal. */
		if (!(rc = set_aside(t, err)))
			rc = ops->rename(t->env, t->beside, t->path, err);
	} else {
		rc = take_name(t, t->beside, err);
	}
	if (rc) {
		put_back(t);
		goto out;
	}
	named = true;
	rc = ops->fsync_dir(t->env, t->dir, err);
	if (rc)
		ms_err_wrap(err, "%s is in place, but may not survive a power loss", t->path);
	for (int i = 0; !rc && i < 3; i++) {
		if (t->aside[i][0])
			(void)ops->unlink(t->env, t->aside[i], NULL);
	}
out:
	if (named && !copy)
		t->work[0] = '\0';
	if (named)
		t->made_beside = false;
	ops->close(copy);
	return rc;
}

void ms_restore_target_cleanup(struct ms_restore_target *t) {
	if (!t->env)
		return;
	if (t->file) {
		t->env->ops->close(t->file);
		if (t->work[0])
			(void)t->env->ops->unlink(t->env, t->work, NULL);
	}
	if (t->made_beside)
		(void)t->env->ops->unlink(t->env, t->beside, NULL);
	t->file = NULL;
	t->made_beside = false;
}
