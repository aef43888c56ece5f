#include "flat.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct flat {
	struct ms_replica_base base;
	char dir[PATH_MAX - MS_OBJECT_NAME_MAX - 2];
	atomic_bool cancelled;
};

static struct flat *of(struct ms_replica *r) { return (struct flat *)(void *)r; }

static void file_of(const struct flat *f, const char *name, char path[PATH_MAX]) {
	size_t n = (size_t)snprintf(path, PATH_MAX, "%s/", f->dir);
	for (; *name && n < PATH_MAX - 1; name++)
		path[n++] = *name == '/' ? '%' : *name;
	path[n] = 0;
}

static enum ms_code flat_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) {
	const char *path = ms_replica_spec_get(spec, "path");
	struct flat *f = calloc(1, sizeof *f);
	(void)env;
	if (!f)
		return ms_err_set(err, MS_ENOMEM, "flat");
	f->base.driver = &flat_driver;
	if (snprintf(f->dir, sizeof f->dir, "%s", path) >= (int)sizeof f->dir || (mkdir(f->dir, 0700) && errno != EEXIST)) {
		free(f);
		return ms_err_sys(err, errno, MS_EIO, "flat %s", path);
	}
	*ret = (struct ms_replica *)(void *)f;
	return MS_OK;
}

static enum ms_code flat_put(struct ms_replica *r, const char *name, struct ms_body *body, struct ms_err *err) {
	struct flat *f = of(r);
	char path[PATH_MAX], tmp[PATH_MAX], buf[8192];
	enum ms_code rc = MS_OK;
	size_t n;
	if (atomic_load(&f->cancelled))
		return ms_err_set(err, MS_ECANCELED, "cancelled");
	file_of(f, name, path);
	snprintf(tmp, sizeof tmp, "%s/.tmp-XXXXXX", f->dir);
	int fd = mkstemp(tmp);
	if (fd < 0)
		return ms_err_sys(err, errno, MS_EIO, "%s", tmp);
	while ((rc = body->read(body, buf, sizeof buf, &n, err)) == MS_OK && n) {
		if (write(fd, buf, n) != (ssize_t)n) {
			rc = ms_err_sys(err, errno, MS_EIO, "%s", tmp);
			break;
		}
	}
	if (rc == MS_OK && fsync(fd))
		rc = ms_err_sys(err, errno, MS_EIO, "%s", tmp);
	close(fd);
	if (rc == MS_OK && link(tmp, path))
		rc = ms_err_sys(err, errno, MS_EIO, "%s", path);
	unlink(tmp);
	return rc;
}

static enum ms_code flat_get(struct ms_replica *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	struct flat *f = of(r);
	char path[PATH_MAX], buf[8192];
	enum ms_code rc = MS_OK;
	file_of(f, name, path);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ms_err_sys(err, errno, MS_EIO, "%s", path);
	while (rc == MS_OK && len != 0) {
		size_t want = len < 0 || len > (int64_t)sizeof buf ? sizeof buf : (size_t)len;
		ssize_t n = pread(fd, buf, want, off);
		if (atomic_load(&f->cancelled))
			rc = ms_err_set(err, MS_ECANCELED, "cancelled");
		else if (n < 0)
			rc = ms_err_sys(err, errno, MS_EIO, "%s", path);
		if (rc != MS_OK || n == 0)
			break;
		rc = cb(arg, buf, (size_t)n, err);
		off += n;
		len -= len > 0 ? n : 0;
	}
	close(fd);
	return rc;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static enum ms_code flat_list(struct ms_replica *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	struct flat *f = of(r);
	DIR *d = opendir(f->dir);
	char **names = NULL;
	size_t n = 0;
	enum ms_code rc = MS_OK;
	if (!d)
		return ms_err_sys(err, errno, MS_EIO, "%s", f->dir);
	for (struct dirent *e; rc == MS_OK && (e = readdir(d));) {
		char name[MS_OBJECT_NAME_MAX + 1];
		if (strlen(e->d_name) > MS_OBJECT_NAME_MAX)
			continue;
		strcpy(name, e->d_name);
		for (char *p = name; *p; p++)
			*p = *p == '%' ? '/' : *p;
		if (!ms_object_name_valid(name) || strncmp(name, prefix, strlen(prefix)) != 0 || (start_after && strcmp(name, start_after) <= 0))
			continue;
		char **grown = realloc(names, (n + 1) * sizeof *names);
		if (grown)
			names = grown;
		if (!grown || !(names[n] = strdup(name)))
			rc = ms_err_set(err, MS_ENOMEM, "list of %zu names", n);
		else
			n++;
	}
	closedir(d);
	if (n)
		qsort(names, n, sizeof *names, by_name);
	for (size_t i = 0; rc == MS_OK && i < n; i++) {
		char path[PATH_MAX];
		struct stat st;
		file_of(f, names[i], path);
		if (stat(path, &st) == 0 && !cb(arg, &(struct ms_object){.name = names[i], .size = st.st_size}))
			break;
	}
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return rc;
}

static enum ms_code flat_remove(struct ms_replica *r, const char *name, struct ms_err *err) {
	char path[PATH_MAX];
	file_of(of(r), name, path);
	return unlink(path) && errno != ENOENT ? ms_err_sys(err, errno, MS_EIO, "%s", path) : MS_OK;
}

static void flat_caps(struct ms_replica *r, struct ms_replica_caps *ret) {
	(void)r;
	*ret = (struct ms_replica_caps){.create_if_absent = true, .parallel = 2};
}

static void flat_cancel(struct ms_replica *r) { atomic_store(&of(r)->cancelled, true); }
static void flat_close(struct ms_replica *r) { free(of(r)); }

static const struct ms_option_def options[] = {{"path", "path", false, true, "directory of the objects"}, {0}};

const struct ms_replica_driver flat_driver = {
	.scheme = "flat", .help = "one directory of files, flat:///directory", .options = options, .open = flat_open, .put = flat_put, .get = flat_get,
	.list = flat_list, .remove = flat_remove, .caps = flat_caps, .cancel = flat_cancel, .close = flat_close,
};
