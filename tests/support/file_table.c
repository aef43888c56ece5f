#include "support/file_table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HANDLES 4
#define R MS_O_RDONLY
#define RW MS_O_RDWR
#define C MS_O_CREATE
#define X MS_O_EXCL
#define T MS_O_TRUNC

enum op {
	OPEN,
	CLOSE,
	READ,  /* a: expected bytes, NUL shown as '0' */
	WRITE, /* a: bytes */
	FSYNC,
	FDATASYNC,
	TRUNCATE, /* off: size */
	SIZE,	  /* off: expected size */
	CHMOD,
	LOCK,
	STAT, /* b: "<kind> <mode> <size of a file>" */
	SAME, /* a and b are one inode (n 1) or two (n 0) */
	RENAME,
	LINK,
	UNLINK,
	RMDIR,
	MKDIR,
	SYNC_DIR,
	LIST, /* b: sorted names, directories with a slash behind */
	FREE, /* some space is free */
};

static const struct row {
	enum op op;
	int h;		   /* handle */
	const char *a, *b; /* paths below the directory, or as said above */
	int flags;	   /* open; mode of mkdir and chmod */
	int64_t off;
	size_t n;
	enum ms_code code;
	int sys;
} rows[] = {
    /* An empty directory, and what is not there. */
    {.op = LIST, .a = "", .b = ""},
    {.op = STAT, .a = "none", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = OPEN, .a = "none", .flags = R, .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = OPEN, .a = "none/file", .flags = RW | C, .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = UNLINK, .a = "none", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = RMDIR, .a = "none", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = RENAME, .a = "none", .b = "other", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = LINK, .a = "none", .b = "other", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = MKDIR, .a = "none/dir", .flags = 0755, .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = LIST, .a = "none", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = SYNC_DIR, .a = "none", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = FREE, .a = "none", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = FREE, .a = ""},
    /* Making a file; flags of open. */
    {.op = OPEN, .h = 0, .a = "f", .flags = RW | C | X, .off = 0644},
    {.op = STAT, .a = "f", .b = "file 644 0"},
    {.op = OPEN, .h = 1, .a = "f", .flags = RW | C | X, .code = MS_EEXISTS, .sys = EEXIST},
    {.op = OPEN, .h = 1, .a = "f", .flags = RW | C, .off = 0600},
    {.op = STAT, .a = "f", .b = "file 644 0"},
    {.op = OPEN, .h = 2, .a = "f", .flags = R | T, .code = MS_EINVAL, .sys = EINVAL},
    {.op = OPEN, .h = 2, .a = "f", .flags = R},
    /* Reading and writing, over the end too. */
    {.op = READ, .h = 0, .off = 0, .n = 10, .a = ""},
    {.op = WRITE, .h = 0, .off = 0, .a = "hello"},
    {.op = READ, .h = 1, .off = 0, .n = 10, .a = "hello"},
    {.op = READ, .h = 2, .off = 1, .n = 3, .a = "ell"},
    {.op = READ, .h = 2, .off = 5, .n = 3, .a = ""},
    {.op = READ, .h = 2, .off = 500, .n = 3, .a = ""},
    {.op = READ, .h = 2, .off = 0, .n = 0, .a = ""},
    {.op = READ, .h = 2, .off = -1, .n = 1, .a = "", .code = MS_EIO, .sys = EINVAL},
    {.op = WRITE, .h = 2, .off = 0, .a = "no", .code = MS_EIO, .sys = EBADF},
    {.op = WRITE, .h = 0, .off = -1, .a = "no", .code = MS_EIO, .sys = EINVAL},
    {.op = WRITE, .h = 1, .off = 3, .a = "p me"},
    {.op = READ, .h = 0, .off = 0, .n = 10, .a = "help me"},
    {.op = WRITE, .h = 0, .off = 100, .a = ""},
    {.op = SIZE, .h = 2, .off = 7},
    {.op = WRITE, .h = 0, .off = 9, .a = "!"},
    {.op = READ, .h = 0, .off = 0, .n = 20, .a = "help me00!"},
    {.op = STAT, .a = "f", .b = "file 644 10"},
    {.op = FSYNC, .h = 0},
    {.op = FDATASYNC, .h = 1},
    {.op = FSYNC, .h = 2},
    /* Truncating: what comes back is zero. */
    {.op = TRUNCATE, .h = 0, .off = 4},
    {.op = SIZE, .h = 1, .off = 4},
    {.op = TRUNCATE, .h = 0, .off = 8},
    {.op = READ, .h = 0, .off = 0, .n = 20, .a = "help0000"},
    {.op = TRUNCATE, .h = 0, .off = -1, .code = MS_EIO, .sys = EINVAL},
    {.op = TRUNCATE, .h = 2, .off = 1, .code = MS_EIO, .sys = EINVAL},
    {.op = OPEN, .h = 3, .a = "f", .flags = RW | C | T, .off = 0644},
    {.op = SIZE, .h = 0, .off = 0},
    {.op = CLOSE, .h = 3},
    /* Modes: the umask takes away, chmod does not care. */
    {.op = OPEN, .h = 3, .a = "open", .flags = RW | C, .off = 0666},
    {.op = STAT, .a = "open", .b = "file 644 0"},
    {.op = CHMOD, .h = 3, .flags = 0666},
    {.op = STAT, .a = "open", .b = "file 666 0"},
    {.op = CLOSE, .h = 3},
    {.op = UNLINK, .a = "open"},
    /* Locks belong to the handle. */
    {.op = LOCK, .h = 0},
    {.op = LOCK, .h = 0},
    {.op = LOCK, .h = 1, .code = MS_EBUSY, .sys = EWOULDBLOCK},
    {.op = CLOSE, .h = 0},
    {.op = LOCK, .h = 1},
    {.op = CLOSE, .h = 1},
    {.op = LOCK, .h = 2}, /* read-only */
    /* Hard links share the file; a taken name stays as it is. */
    {.op = LINK, .a = "f", .b = "g"},
    {.op = SAME, .a = "f", .b = "g", .n = 1},
    {.op = LINK, .a = "f", .b = "g", .code = MS_EEXISTS, .sys = EEXIST},
    {.op = OPEN, .h = 0, .a = "g", .flags = RW},
    {.op = WRITE, .h = 0, .off = 0, .a = "both"},
    {.op = READ, .h = 2, .off = 0, .n = 10, .a = "both"},
    {.op = UNLINK, .a = "f"},
    {.op = LIST, .a = "", .b = "g"},
    {.op = READ, .h = 2, .off = 0, .n = 10, .a = "both"},
    /* An open file lives without a name. */
    {.op = UNLINK, .a = "g"},
    {.op = LIST, .a = "", .b = ""},
    {.op = WRITE, .h = 0, .off = 4, .a = " gone"},
    {.op = READ, .h = 2, .off = 0, .n = 10, .a = "both gone"},
    {.op = CLOSE, .h = 0},
    {.op = CLOSE, .h = 2},
    /* Directories. */
    {.op = MKDIR, .a = "d", .flags = 0777},
    {.op = STAT, .a = "d", .b = "dir 755"},
    {.op = STAT, .a = "d/", .b = "dir 755"},
    {.op = STAT, .a = "d/.", .b = "dir 755"},
    {.op = SAME, .a = "d/../d/./", .b = "d", .n = 1},
    {.op = MKDIR, .a = "d", .flags = 0755, .code = MS_EEXISTS, .sys = EEXIST},
    {.op = MKDIR, .a = "d/", .flags = 0755, .code = MS_EEXISTS, .sys = EEXIST},
    {.op = MKDIR, .a = "d/sub/", .flags = 0700},
    {.op = STAT, .a = "d/sub", .b = "dir 700"},
    {.op = OPEN, .a = "d", .flags = R, .code = MS_EIO, .sys = EISDIR},
    {.op = OPEN, .a = "d", .flags = RW, .code = MS_EIO, .sys = EISDIR},
    {.op = OPEN, .a = "d", .flags = RW | C, .code = MS_EIO, .sys = EISDIR},
    {.op = OPEN, .a = "d", .flags = RW | C | X, .code = MS_EEXISTS, .sys = EEXIST},
    {.op = OPEN, .a = "d/new/", .flags = RW | C, .code = MS_EIO, .sys = EISDIR},
    {.op = OPEN, .h = 0, .a = "d//one", .flags = RW | C, .off = 0644},
    {.op = CLOSE, .h = 0},
    {.op = LIST, .a = "", .b = "d/"},
    {.op = LIST, .a = "d", .b = "one sub/"},
    {.op = SYNC_DIR, .a = "d"},
    {.op = SYNC_DIR, .a = "d/one", .code = MS_EIO, .sys = ENOTDIR},
    {.op = LIST, .a = "d/one", .code = MS_EIO, .sys = ENOTDIR},
    {.op = STAT, .a = "d/one/", .code = MS_EIO, .sys = ENOTDIR},
    {.op = STAT, .a = "d/one/x", .code = MS_EIO, .sys = ENOTDIR},
    {.op = OPEN, .a = "d/one/x", .flags = RW | C, .code = MS_EIO, .sys = ENOTDIR},
    {.op = MKDIR, .a = "d/one", .flags = 0755, .code = MS_EEXISTS, .sys = EEXIST},
    {.op = MKDIR, .a = "d/one/x", .flags = 0755, .code = MS_EIO, .sys = ENOTDIR},
    {.op = UNLINK, .a = "d/sub", .code = MS_EIO, .sys = EISDIR},
    {.op = RMDIR, .a = "d/one", .code = MS_EIO, .sys = ENOTDIR},
    {.op = RMDIR, .a = "d", .code = MS_EIO, .sys = ENOTEMPTY},
    {.op = LINK, .a = "d/sub", .b = "l", .code = MS_EPERM, .sys = EPERM},
    {.op = LINK, .a = "d/one", .b = "d/sub", .code = MS_EEXISTS, .sys = EEXIST},
    /* Renames: onto nothing, onto a file, and what may not be. */
    {.op = RENAME, .a = "d/one", .b = "d/sub/two"},
    {.op = LIST, .a = "d", .b = "sub/"},
    {.op = LIST, .a = "d/sub", .b = "two"},
    {.op = OPEN, .h = 0, .a = "three", .flags = RW | C, .off = 0644},
    {.op = WRITE, .h = 0, .off = 0, .a = "333"},
    {.op = OPEN, .h = 1, .a = "d/sub/two", .flags = RW},
    {.op = WRITE, .h = 1, .off = 0, .a = "22"},
    {.op = RENAME, .a = "three", .b = "d/sub/two"},
    {.op = STAT, .a = "three", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = STAT, .a = "d/sub/two", .b = "file 644 3"},
    {.op = READ, .h = 0, .off = 0, .n = 9, .a = "333"},
    {.op = READ, .h = 1, .off = 0, .n = 9, .a = "22"},
    {.op = CLOSE, .h = 0},
    {.op = CLOSE, .h = 1},
    {.op = RENAME, .a = "d/sub/two", .b = "d/sub/two"},
    {.op = LINK, .a = "d/sub/two", .b = "twin"},
    {.op = RENAME, .a = "twin", .b = "d/sub/two"}, /* one inode: nothing happens */
    {.op = LIST, .a = "", .b = "d/ twin"},
    {.op = RENAME, .a = "twin", .b = "d", .code = MS_EIO, .sys = EISDIR},
    {.op = RENAME, .a = "d", .b = "twin", .code = MS_EIO, .sys = ENOTDIR},
    {.op = RENAME, .a = "d", .b = "d/sub/d", .code = MS_EIO, .sys = EINVAL},
    {.op = RENAME, .a = "twin", .b = "none/twin", .code = MS_ENOTFOUND, .sys = ENOENT},
    {.op = MKDIR, .a = "e", .flags = 0755},
    {.op = RENAME, .a = "d", .b = "e"}, /* an empty directory gives way */
    {.op = LIST, .a = "", .b = "e/ twin"},
    {.op = LIST, .a = "e/sub", .b = "two"},
    {.op = MKDIR, .a = "d", .flags = 0755},
    {.op = RENAME, .a = "d", .b = "e", .code = MS_EIO, .sys = ENOTEMPTY},
    /* Away with everything. */
    {.op = UNLINK, .a = "e/sub/two"},
    {.op = RMDIR, .a = "e/sub"},
    {.op = RMDIR, .a = "e"},
    {.op = RMDIR, .a = "d/"},
    {.op = UNLINK, .a = "twin/", .code = MS_EIO, .sys = ENOTDIR},
    {.op = UNLINK, .a = "twin"},
    {.op = LIST, .a = "", .b = ""},
};

int ms_test_file_table_rows(void) {
	return (int)(sizeof rows / sizeof *rows);
}

struct names {
	char *name[64];
	size_t n;
};

static bool keep_name(void *arg, const char *name, bool is_dir) {
	struct names *l = arg;

	if (l->n < 64 && asprintf(&l->name[l->n], "%s%s", name, is_dir ? "/" : "") >= 0)
		l->n++;
	return true;
}

static int by_text(const void *a, const void *b) {
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What the operation brought to light, in the form of the row's expectation. */
struct outcome {
	enum ms_code code;
	struct ms_err err;
	char got[256], want[256];
};

static void list(struct ms_env *env, const char *path, const char *want, struct outcome *o) {
	struct names l = {.n = 0};

	o->code = env->ops->readdir(env, path, keep_name, &l, &o->err);
	qsort(l.name, l.n, sizeof *l.name, by_text);
	for (size_t i = 0; i < l.n; i++) {
		size_t at = strlen(o->got);
		snprintf(o->got + at, sizeof o->got - at, "%s%s", i ? " " : "", l.name[i]);
		free(l.name[i]);
	}
	snprintf(o->want, sizeof o->want, "%s", want ? want : "");
}

static void get_stat(struct ms_env *env, const char *path, const char *want, struct outcome *o) {
	struct ms_stat st;

	o->code = env->ops->stat(env, path, &st, &o->err);
	if (o->code != MS_OK)
		return;
	if (st.is_dir && !st.is_file && S_ISDIR(st.mode))
		snprintf(o->got, sizeof o->got, "dir %o", st.mode & 07777);
	else if (st.is_file && !st.is_dir && S_ISREG(st.mode))
		snprintf(o->got, sizeof o->got, "file %o %lld", st.mode & 07777, (long long)st.size);
	snprintf(o->want, sizeof o->want, "%s", want);
}

static void run_row(struct ms_env *env, const struct row *r, struct ms_file **h, const char *a, const char *b,
		    struct outcome *o) {
	const struct ms_env_ops *ops = env->ops;
	struct ms_stat one, two;
	char data[64];
	size_t got = 0;
	int64_t size = 0;
	uint64_t space = 0;

	switch (r->op) {
	case OPEN:
		o->code = ops->open(env, a, r->flags, (unsigned)r->off, h, &o->err);
		break;
	case CLOSE:
		ops->close(*h);
		*h = NULL;
		break;
	case READ:
		o->code = ops->pread(*h, data, r->n, r->off, &got, &o->err);
		for (size_t i = 0; i < got; i++)
			o->got[i] = data[i] ? data[i] : '0';
		snprintf(o->want, sizeof o->want, "%s", r->a);
		break;
	case WRITE:
		o->code = ops->pwrite(*h, r->a, strlen(r->a), r->off, &o->err);
		break;
	case FSYNC:
		o->code = ops->fsync(*h, &o->err);
		break;
	case FDATASYNC:
		o->code = ops->fdatasync(*h, &o->err);
		break;
	case TRUNCATE:
		o->code = ops->truncate(*h, r->off, &o->err);
		break;
	case SIZE:
		o->code = ops->fsize(*h, &size, &o->err);
		snprintf(o->got, sizeof o->got, "%lld", (long long)size);
		snprintf(o->want, sizeof o->want, "%lld", (long long)r->off);
		break;
	case CHMOD:
		o->code = ops->fchmod(*h, (unsigned)r->flags, &o->err);
		break;
	case LOCK:
		o->code = ops->lock(*h, &o->err);
		break;
	case STAT:
		get_stat(env, a, r->b, o);
		break;
	case SAME:
		if ((o->code = ops->stat(env, a, &one, &o->err)) == MS_OK &&
		    (o->code = ops->stat(env, b, &two, &o->err)) == MS_OK)
			snprintf(o->got, sizeof o->got, "%d", one.dev == two.dev && one.ino == two.ino);
		snprintf(o->want, sizeof o->want, "%zu", r->n);
		break;
	case RENAME:
		o->code = ops->rename(env, a, b, &o->err);
		break;
	case LINK:
		o->code = ops->link(env, a, b, &o->err);
		break;
	case UNLINK:
		o->code = ops->unlink(env, a, &o->err);
		break;
	case RMDIR:
		o->code = ops->rmdir(env, a, &o->err);
		break;
	case MKDIR:
		o->code = ops->mkdir(env, a, (unsigned)r->flags, &o->err);
		break;
	case SYNC_DIR:
		o->code = ops->fsync_dir(env, a, &o->err);
		break;
	case LIST:
		list(env, a, r->b, o);
		break;
	case FREE:
		o->code = ops->disk_free(env, a, &space, &o->err);
		snprintf(o->got, sizeof o->got, "%s", space || o->code ? "" : "none");
		break;
	}
}

int ms_test_file_table(struct ms_env *env, const char *dir, char why[512]) {
	struct ms_file *handles[HANDLES] = {0};
	int wrong = 0;

	why[0] = '\0';
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		const struct row *r = &rows[i];
		struct outcome o = {.err = MS_ERR_INIT};
		char a[512], b[512];

		snprintf(a, sizeof a, "%s/%s", dir, r->a ? r->a : "");
		snprintf(b, sizeof b, "%s/%s", dir, r->b ? r->b : "");
		run_row(env, r, &handles[r->h], a, b, &o);
		/* An error is told in full: code, errno, and the path it is about. */
		bool right = o.code == r->code && o.err.code == r->code && o.err.sys == r->sys;
		if (right && r->code == MS_OK)
			right = strcmp(o.got, o.want) == 0;
		else if (right)
			right = strstr(o.err.msg, dir) != NULL;
		if (!right && wrong++ == 0)
			snprintf(why, 512,
				 "row %zu (op %d, %.60s, %.60s): %s, errno %d, \"%.60s\" (%.120s); want %s, errno %d, \"%.60s\"",
				 i, (int)r->op, r->a ? r->a : "", r->b ? r->b : "", ms_code_name(o.code), o.err.sys, o.got,
				 o.err.msg, ms_code_name(r->code), r->sys, o.want);
	}
	for (int i = 0; i < HANDLES; i++)
		env->ops->close(handles[i]);
	return wrong;
}
