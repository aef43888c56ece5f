/* File operations of the simulator: each is one step (counted, hooked, failed by rules), then a change of the disk. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/env_sim_internal.h"

struct ms_file {
	struct ms_sim *sim;
	struct ms_file *prev, *next;
	struct ms_sim_inode *inode; /* NULL: from before a crash */
	uint64_t epoch;
	bool writable, locked;
	char path[];
};

/* Begins an operation on a path or a handle. 0: go on, else an errno. */
static int begin(struct ms_sim *s, enum ms_sim_op op, const char *name, const char *path, const char *to, int64_t off,
		 size_t len) {
	struct ms_sim_step step = {.op = op, .name = name, .path = path, .to = to, .off = off, .len = len};

	return ms_sim_step_begin(s, &step);
}

static int begin_file(struct ms_file *f, enum ms_sim_op op, const char *name, int64_t off, size_t len) {
	/* A handle of a dead process does nothing, whatever became of the machine. */
	if (f->epoch != f->sim->epoch)
		return EIO;
	int sys = begin(f->sim, op, name, f->path, NULL, off, len);
	return sys ? sys : f->epoch != f->sim->epoch ? EIO : 0;
}

static void unlink_file(struct ms_file *f) {
	if (f->prev)
		f->prev->next = f->next;
	else
		f->sim->files = f->next;
	if (f->next)
		f->next->prev = f->prev;
}

static void detach(struct ms_file *f) {
	if (!f->inode)
		return;
	if (f->locked)
		f->inode->locked = false;
	ms_sim_inode_close(&f->sim->disk, f->inode);
	f->inode = NULL;
	f->locked = false;
}

void ms_sim_files_detach(struct ms_sim *s) {
	for (struct ms_file *f = s->files; f; f = f->next)
		detach(f);
}

void ms_sim_files_free(struct ms_sim *s) {
	while (s->files) {
		struct ms_file *f = s->files;

		detach(f);
		unlink_file(f);
		free(f);
	}
}

static int find_or_create(struct ms_sim *s, const char *path, int flags, unsigned mode, struct ms_sim_inode **ret) {
	int sys = ms_sim_disk_find(&s->disk, path, ret);

	if (sys == ENOENT && (flags & MS_O_CREATE))
		return ms_sim_disk_create(&s->disk, path, false, mode, ms_sim_wall_us(s), ret);
	if (sys)
		return sys;
	if ((flags & MS_O_CREATE) && (flags & MS_O_EXCL))
		return EEXIST;
	return (*ret)->is_dir ? EISDIR : 0;
}

static enum ms_code file_open(struct ms_env *env, const char *path, int flags, unsigned mode, struct ms_file **ret,
			      struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	struct ms_sim_inode *i = NULL;
	size_t n = strlen(path);

	if ((flags & MS_O_TRUNC) && !(flags & MS_O_RDWR))
		return ms_err_sys(err, EINVAL, MS_EINVAL, "%s: truncating needs write access", path);
	int sys = begin(s, MS_SIM_OPEN, "open", path, NULL, 0, 0);
	if (sys == 0)
		sys = find_or_create(s, path, flags, mode, &i);
	if (sys == 0 && (flags & MS_O_TRUNC))
		sys = ms_sim_inode_truncate(&s->disk, i, 0, ms_sim_wall_us(s));
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: open", path);
	struct ms_file *f = ms_sim_alloc(NULL, sizeof *f + n + 1);
	*f = (struct ms_file){.sim = s, .next = s->files, .inode = i, .epoch = s->epoch, .writable = flags & MS_O_RDWR};
	memcpy(f->path, path, n + 1);
	if (f->next)
		f->next->prev = f;
	s->files = f;
	ms_sim_inode_open(&s->disk, i);
	*ret = f;
	return MS_OK;
}

static void file_close(struct ms_file *f) {
	if (!f)
		return;
	detach(f);
	unlink_file(f);
	free(f);
}

static enum ms_code file_pread(struct ms_file *f, void *buf, size_t n, int64_t off, size_t *ret_n, struct ms_err *err) {
	int sys = begin_file(f, MS_SIM_PREAD, "pread", off, n);

	if (sys == 0 && off < 0 && n > 0)
		sys = EINVAL;
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: read of %zu bytes at %lld", f->path, n, (long long)off);
	size_t size = f->inode->now.size, at = (uint64_t)off < size ? (size_t)off : size;
	if (n > size - at)
		n = size - at;
	if (n)
		memcpy(buf, f->inode->now.data + at, n);
	*ret_n = n;
	return MS_OK;
}

static enum ms_code file_pwrite(struct ms_file *f, const void *buf, size_t n, int64_t off, struct ms_err *err) {
	int sys = begin_file(f, MS_SIM_PWRITE, "pwrite", off, n);

	if (f->inode && n > 0 && off >= 0 && f->writable) {
		/* A write that fails may have come a part of the way. */
		size_t part = sys ? (size_t)ms_sim_below(&f->sim->data, n) : n;
		int rc = ms_sim_inode_write(&f->sim->disk, f->inode, buf, part, (uint64_t)off, ms_sim_wall_us(f->sim));
		if (sys == 0)
			sys = rc;
	} else if (sys == 0 && n > 0)
		sys = f->writable ? EINVAL : EBADF;
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: write of %zu bytes at %lld", f->path, n, (long long)off);
	return MS_OK;
}

static int do_sync(struct ms_file *f, int sys) {
	if (sys && f->inode)
		ms_sim_inode_forget_dirty(f->inode);
	else if (f->inode)
		ms_sim_inode_sync(f->inode);
	return sys;
}

static enum ms_code file_fsync(struct ms_file *f, struct ms_err *err) {
	int sys = do_sync(f, begin_file(f, MS_SIM_FSYNC, "fsync", 0, 0));

	return sys ? ms_err_sys(err, sys, MS_EIO, "%s: fsync", f->path) : MS_OK;
}

static enum ms_code file_fdatasync(struct ms_file *f, struct ms_err *err) {
	int sys = do_sync(f, begin_file(f, MS_SIM_FDATASYNC, "fdatasync", 0, 0));

	return sys ? ms_err_sys(err, sys, MS_EIO, "%s: fdatasync", f->path) : MS_OK;
}

static enum ms_code file_truncate(struct ms_file *f, int64_t size, struct ms_err *err) {
	int sys = begin_file(f, MS_SIM_TRUNCATE, "truncate", size, 0);

	if (sys == 0 && (size < 0 || !f->writable))
		sys = EINVAL;
	if (sys == 0)
		sys = ms_sim_inode_truncate(&f->sim->disk, f->inode, (uint64_t)size, ms_sim_wall_us(f->sim));
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: truncate to %lld bytes", f->path, (long long)size);
	return MS_OK;
}

static enum ms_code file_fsize(struct ms_file *f, int64_t *ret, struct ms_err *err) {
	int sys = begin_file(f, MS_SIM_FSIZE, "fsize", 0, 0);

	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: fstat", f->path);
	*ret = (int64_t)f->inode->now.size;
	return MS_OK;
}

static enum ms_code file_fchmod(struct ms_file *f, unsigned mode, struct ms_err *err) {
	int sys = begin_file(f, MS_SIM_FCHMOD, "fchmod", 0, 0);

	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: chmod to %o", f->path, mode);
	f->inode->mode = mode & 07777;
	return MS_OK;
}

static int file_fd(struct ms_file *f) {
	(void)f;
	return -1;
}

static enum ms_code file_lock(struct ms_file *f, struct ms_err *err) {
	int sys = begin_file(f, MS_SIM_LOCK, "lock", 0, 0);

	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: lock", f->path);
	if (f->inode->locked && !f->locked)
		return ms_err_sys(err, EWOULDBLOCK, MS_EBUSY, "%s: locked by another process", f->path);
	f->inode->locked = f->locked = true;
	return MS_OK;
}

static enum ms_code path_stat(struct ms_env *env, const char *path, struct ms_stat *ret, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	struct ms_sim_inode *i;
	int sys = begin(s, MS_SIM_STAT, "stat", path, NULL, 0, 0);

	if (sys == 0)
		sys = ms_sim_disk_find(&s->disk, path, &i);
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: stat", path);
	*ret = (struct ms_stat){
	    .size = i->is_dir ? 4096 : (int64_t)i->now.size,
	    .mtime_us = i->mtime_us,
	    .dev = 1,
	    .ino = i->ino,
	    .mode = i->mode | (i->is_dir ? S_IFDIR : S_IFREG),
	    .is_dir = i->is_dir,
	    .is_file = !i->is_dir,
	};
	return MS_OK;
}

static enum ms_code path_rename(struct ms_env *env, const char *from, const char *to, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	int sys = begin(s, MS_SIM_RENAME, "rename", from, to, 0, 0);

	if (sys == 0)
		sys = ms_sim_disk_rename(&s->disk, from, to, ms_sim_wall_us(s));
	return sys ? ms_err_sys(err, sys, MS_EIO, "%s: rename to %s", from, to) : MS_OK;
}

static enum ms_code path_link(struct ms_env *env, const char *from, const char *to, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	int sys = begin(s, MS_SIM_LINK, "link", from, to, 0, 0);

	if (sys == 0)
		sys = ms_sim_disk_link(&s->disk, from, to, ms_sim_wall_us(s));
	return sys ? ms_err_sys(err, sys, MS_EIO, "%s: link as %s", from, to) : MS_OK;
}

static enum ms_code path_unlink(struct ms_env *env, const char *path, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	int sys = begin(s, MS_SIM_UNLINK, "unlink", path, NULL, 0, 0);

	if (sys == 0)
		sys = ms_sim_disk_remove(&s->disk, path, false, ms_sim_wall_us(s));
	return sys ? ms_err_sys(err, sys, MS_EIO, "%s: unlink", path) : MS_OK;
}

static enum ms_code path_rmdir(struct ms_env *env, const char *path, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	int sys = begin(s, MS_SIM_RMDIR, "rmdir", path, NULL, 0, 0);

	if (sys == 0)
		sys = ms_sim_disk_remove(&s->disk, path, true, ms_sim_wall_us(s));
	return sys ? ms_err_sys(err, sys, MS_EIO, "%s: rmdir", path) : MS_OK;
}

static enum ms_code path_mkdir(struct ms_env *env, const char *path, unsigned mode, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	int sys = begin(s, MS_SIM_MKDIR, "mkdir", path, NULL, 0, 0);

	if (sys == 0)
		sys = ms_sim_disk_create(&s->disk, path, true, mode, ms_sim_wall_us(s), NULL);
	return sys ? ms_err_sys(err, sys, MS_EIO, "%s: mkdir", path) : MS_OK;
}

static int find_dir(struct ms_sim *s, const char *path, struct ms_sim_inode **ret) {
	int sys = ms_sim_disk_find(&s->disk, path, ret);

	return sys ? sys : (*ret)->is_dir ? 0 : ENOTDIR;
}

static enum ms_code path_fsync_dir(struct ms_env *env, const char *path, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	struct ms_sim_inode *dir;
	int sys = begin(s, MS_SIM_FSYNC_DIR, "fsync_dir", path, NULL, 0, 0);

	if (sys == 0)
		sys = find_dir(s, path, &dir);
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: fsync directory", path);
	ms_sim_dir_sync(&s->disk, dir);
	return MS_OK;
}

struct listed {
	char name[MS_SIM_NAME_MAX + 1];
	bool is_dir;
};

static enum ms_code path_readdir(struct ms_env *env, const char *path, ms_dir_cb cb, void *arg, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	struct ms_sim_inode *dir;
	int sys = begin(s, MS_SIM_READDIR, "readdir", path, NULL, 0, 0);

	if (sys == 0)
		sys = find_dir(s, path, &dir);
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: read directory", path);
	/* A copy, since cb may change the directory; shuffled, since no order is promised. */
	size_t n = dir->names.n;
	struct listed *all = ms_sim_alloc(NULL, n * sizeof *all);
	for (size_t k = 0; k < n; k++) {
		strcpy(all[k].name, dir->names.entries[k].name); /* names are at most MS_SIM_NAME_MAX long */
		all[k].is_dir = dir->names.entries[k].inode->is_dir;
	}
	for (size_t k = n; k > 0; k--) {
		size_t pick = (size_t)ms_sim_below(&s->data, k);
		struct listed last = all[k - 1];
		all[k - 1] = all[pick];
		all[pick] = last;
		if (!cb(arg, all[k - 1].name, all[k - 1].is_dir))
			break;
	}
	free(all);
	return MS_OK;
}

static enum ms_code path_disk_free(struct ms_env *env, const char *path, uint64_t *ret, struct ms_err *err) {
	struct ms_sim *s = ms_sim_of(env);
	struct ms_sim_inode *i;
	int sys = begin(s, MS_SIM_DISK_FREE, "disk_free", path, NULL, 0, 0);

	if (sys == 0)
		sys = ms_sim_disk_find(&s->disk, path, &i);
	if (sys)
		return ms_err_sys(err, sys, MS_EIO, "%s: statvfs", path);
	uint64_t cap = s->disk.capacity ? s->disk.capacity : UINT64_C(1) << 40;
	*ret = cap > s->disk.used ? cap - s->disk.used : 0;
	return MS_OK;
}

void ms_sim_file_ops(struct ms_env_ops *ops) {
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
