/* Files of the real environment: POSIX calls that go on after signals and short transfers, and name the path when they fail. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/env_uv_internal.h"

struct ms_file {
	int fd;
	char path[]; /* for messages */
};

static int retry_open(const char *path, int flags, mode_t mode) {
	int fd;

	do
		fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
	while (fd < 0 && errno == EINTR);
	return fd;
}

static int retry_fsync(int fd) {
	int rc;

	do
		rc = fsync(fd);
	while (rc != 0 && errno == EINTR);
	return rc;
}

static enum ms_code file_open(struct ms_env *env, const char *path, int flags, unsigned mode, struct ms_file **ret,
			      struct ms_err *err) {
	struct stat st;
	size_t n = strlen(path);

	(void)env;
	if ((flags & MS_O_TRUNC) && !(flags & MS_O_RDWR))
		return ms_err_sys(err, EINVAL, MS_EINVAL, "%s: truncating needs write access", path);
	struct ms_file *f = malloc(sizeof *f + n + 1);
	if (!f)
		return ms_err_set(err, MS_ENOMEM, "%s: out of memory", path);
	memcpy(f->path, path, n + 1);
	f->fd = retry_open(path,
			   (flags & MS_O_RDWR ? O_RDWR : O_RDONLY) | (flags & MS_O_CREATE ? O_CREAT : 0) |
			       (flags & MS_O_EXCL ? O_EXCL : 0) | (flags & MS_O_TRUNC ? O_TRUNC : 0) |
			       (flags & MS_O_NOFOLLOW ? O_NOFOLLOW : 0),
			   mode);
	if (f->fd < 0) {
		int sys = errno;
		free(f);
		return ms_err_sys(err, sys, MS_EIO, "%s: open", path);
	}
	if (fstat(f->fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		close(f->fd);
		free(f);
		return ms_err_sys(err, EISDIR, MS_EIO, "%s: open", path);
	}
	*ret = f;
	return MS_OK;
}

static void file_close(struct ms_file *f) {
	if (!f)
		return;
	close(f->fd);
	free(f);
}

static enum ms_code file_pread(struct ms_file *f, void *buf, size_t n, int64_t off, size_t *ret_n, struct ms_err *err) {
	size_t at = 0;

	while (at < n) {
		ssize_t got = pread(f->fd, (char *)buf + at, n - at, off + (int64_t)at);

		if (got == 0)
			break;
		if (got > 0)
			at += (size_t)got;
		else if (errno != EINTR)
			return ms_err_sys(err, errno, MS_EIO, "%s: read of %zu bytes at %lld", f->path, n, (long long)off);
	}
	*ret_n = at;
	return MS_OK;
}

static enum ms_code file_pwrite(struct ms_file *f, const void *buf, size_t n, int64_t off, struct ms_err *err) {
	size_t at = 0;

	while (at < n) {
		ssize_t put = pwrite(f->fd, (const char *)buf + at, n - at, off + (int64_t)at);

		if (put > 0)
			at += (size_t)put;
		else if (put == 0 || errno != EINTR)
			return ms_err_sys(err, put == 0 ? EIO : errno, MS_EIO, "%s: write of %zu bytes at %lld", f->path, n,
					  (long long)off);
	}
	return MS_OK;
}

static enum ms_code file_fsync(struct ms_file *f, struct ms_err *err) {
	if (retry_fsync(f->fd) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: fsync", f->path);
	return MS_OK;
}

static enum ms_code file_fdatasync(struct ms_file *f, struct ms_err *err) {
	while (fdatasync(f->fd) != 0)
		if (errno != EINTR)
			return ms_err_sys(err, errno, MS_EIO, "%s: fdatasync", f->path);
	return MS_OK;
}

static enum ms_code file_truncate(struct ms_file *f, int64_t size, struct ms_err *err) {
	while (ftruncate(f->fd, size) != 0)
		if (errno != EINTR)
			return ms_err_sys(err, errno, MS_EIO, "%s: truncate to %lld bytes", f->path, (long long)size);
	return MS_OK;
}

static enum ms_code file_fsize(struct ms_file *f, int64_t *ret, struct ms_err *err) {
	struct stat st;

	if (fstat(f->fd, &st) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: fstat", f->path);
	*ret = st.st_size;
	return MS_OK;
}

static enum ms_code file_fchmod(struct ms_file *f, unsigned mode, struct ms_err *err) {
	if (fchmod(f->fd, mode) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: chmod to %o", f->path, mode);
	return MS_OK;
}

static int file_fd(struct ms_file *f) {
	return f->fd;
}

/* flock() and not fcntl(): a process loses the latter when it closes any descriptor of the file. */
static enum ms_code file_lock(struct ms_file *f, struct ms_err *err) {
	while (flock(f->fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno == EWOULDBLOCK)
			return ms_err_sys(err, errno, MS_EBUSY, "%s: locked by another process", f->path);
		if (errno != EINTR)
			return ms_err_sys(err, errno, MS_EIO, "%s: lock", f->path);
	}
	return MS_OK;
}

static enum ms_code path_stat(struct ms_env *env, const char *path, struct ms_stat *ret, struct ms_err *err) {
	struct stat st;

	(void)env;
	if (stat(path, &st) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: stat", path);
	*ret = (struct ms_stat){
	    .size = st.st_size,
	    .mtime_us = st.st_mtim.tv_sec * INT64_C(1000000) + st.st_mtim.tv_nsec / 1000,
	    .dev = st.st_dev,
	    .ino = st.st_ino,
	    .mode = st.st_mode,
	    .uid = st.st_uid,
	    .gid = st.st_gid,
	    .is_dir = S_ISDIR(st.st_mode),
	    .is_file = S_ISREG(st.st_mode),
	};
	return MS_OK;
}

static enum ms_code path_rename(struct ms_env *env, const char *from, const char *to, struct ms_err *err) {
	(void)env;
	if (rename(from, to) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: rename to %s", from, to);
	return MS_OK;
}

static enum ms_code path_link(struct ms_env *env, const char *from, const char *to, struct ms_err *err) {
	(void)env;
	if (link(from, to) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: link as %s", from, to);
	return MS_OK;
}

static enum ms_code path_unlink(struct ms_env *env, const char *path, struct ms_err *err) {
	(void)env;
	if (unlink(path) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: unlink", path);
	return MS_OK;
}

static enum ms_code path_rmdir(struct ms_env *env, const char *path, struct ms_err *err) {
	(void)env;
	if (rmdir(path) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: rmdir", path);
	return MS_OK;
}

static enum ms_code path_mkdir(struct ms_env *env, const char *path, unsigned mode, struct ms_err *err) {
	(void)env;
	if (mkdir(path, mode) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: mkdir", path);
	return MS_OK;
}

static enum ms_code path_fsync_dir(struct ms_env *env, const char *path, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	int fd = retry_open(path, O_RDONLY | O_DIRECTORY, 0);

	(void)env;
	if (fd < 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: open directory", path);
	/* EINVAL: the file system has no such sync and orders directory changes by itself. */
	if (retry_fsync(fd) != 0 && errno != EINVAL)
		rc = ms_err_sys(err, errno, MS_EIO, "%s: fsync directory", path);
	close(fd);
	return rc;
}

static enum ms_code path_readdir(struct ms_env *env, const char *path, ms_dir_cb cb, void *arg, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	DIR *d = opendir(path);

	(void)env;
	if (!d)
		return ms_err_sys(err, errno, MS_EIO, "%s: open directory", path);
	for (;;) {
		struct stat st;

		errno = 0;
		struct dirent *de = readdir(d);
		if (!de) {
			if (errno)
				rc = ms_err_sys(err, errno, MS_EIO, "%s: read directory", path);
			break;
		}
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		bool is_dir = de->d_type == DT_DIR;
		if (de->d_type == DT_UNKNOWN) {
			if (fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
				continue; /* gone since */
			is_dir = S_ISDIR(st.st_mode);
		}
		if (!cb(arg, de->d_name, is_dir))
			break;
	}
	closedir(d);
	return rc;
}

static enum ms_code path_disk_free(struct ms_env *env, const char *path, uint64_t *ret, struct ms_err *err) {
	struct statvfs st;

	(void)env;
	if (statvfs(path, &st) != 0)
		return ms_err_sys(err, errno, MS_EIO, "%s: statvfs", path);
	*ret = (uint64_t)st.f_bavail * st.f_frsize;
	return MS_OK;
}

void ms_env_uv_file_ops(struct ms_env_ops *ops) {
	ops->open = file_open;
	ops->close = file_close;
	ops->pread = file_pread;
	ops->pwrite = file_pwrite;
	ops->fsync = file_fsync;
	ops->fdatasync = file_fdatasync;
	ops->truncate = file_truncate;
	ops->fsize = file_fsize;
	ops->fchmod = file_fchmod;
	ops->fd = file_fd;
	ops->lock = file_lock;
	ops->stat = path_stat;
	ops->rename = path_rename;
	ops->link = path_link;
	ops->unlink = path_unlink;
	ops->rmdir = path_rmdir;
	ops->mkdir = path_mkdir;
	ops->fsync_dir = path_fsync_dir;
	ops->readdir = path_readdir;
	ops->disk_free = path_disk_free;
}
