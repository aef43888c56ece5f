/*
 * LD_PRELOAD shim: ends or fails the process at a chosen call, so that a test reaches every step of an unchanged binary.
 *
 *   MS_KILL_AT=<call>:<n>:before|after[:<substring>]   SIGKILL at the n-th call (from 1) on a path that holds the substring
 *   MS_FAIL_AT=<call>:<n>:<errno>[:<substring>]        the n-th call fails with that errno number (n = 0: every one)
 *   MS_CALL_LOG=<file>                                 one line "<call> <path>" for every counted call (to learn the steps)
 *
 * Calls: fsync fdatasync rename link unlink open pwrite write ftruncate mkdir. Paths of descriptors come from /proc/self/fd.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

struct rule {
	bool set, after;
	char call[16], substring[256];
	long n;
	int error;
	atomic_long count;
};
static struct rule kill_rule, fail_rule;
static int log_fd = -1;

static void parse(const char *variable, struct rule *r, bool killing) {
	const char *v = getenv(variable);
	char how[16] = "";
	if (!v || !*v)
		return;
	int fields = sscanf(v, "%15[^:]:%ld:%15[^:]:%255[^\n]", r->call, &r->n, how, r->substring);
	if (fields < 3) {
		dprintf(2, "killat: cannot read %s=%s\n", variable, v);
		_exit(99);
	}
	r->after = killing && !strcmp(how, "after");
	r->error = killing ? 0 : atoi(how);
	r->set = true;
}

__attribute__((constructor)) static void start(void) {
	const char *log = getenv("MS_CALL_LOG");
	parse("MS_KILL_AT", &kill_rule, true);
	parse("MS_FAIL_AT", &fail_rule, false);
	if (log && *log)
		log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static bool hits(struct rule *r, const char *call, const char *path) {
	if (!r->set || strcmp(r->call, call) || (r->substring[0] && !strstr(path, r->substring)))
		return false;
	long k = atomic_fetch_add(&r->count, 1) + 1;
	return r->n == 0 || k == r->n;
}

static void die(void) {
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

/* Before a call. Returns true when it must fail with errno as set; *ret_die: end the process after it. */
static bool before(const char *call, const char *path, bool *ret_die) {
	if (log_fd >= 0)
		dprintf(log_fd, "%s %s\n", call, path);
	*ret_die = false;
	if (hits(&kill_rule, call, path)) {
		if (!kill_rule.after)
			die();
		*ret_die = true;
	}
	if (hits(&fail_rule, call, path)) {
		errno = fail_rule.error;
		return true;
	}
	return false;
}

static const char *fd_path(int fd, char buf[512]) {
	char link_name[64];
	snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link_name, buf, 511);
	buf[n < 0 ? 0 : n] = 0;
	return buf;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(label, name, path, ...)                                                                                                                \
	do {                                                                                                                                         \
		static __typeof__(&name) real;                                                                                                       \
		bool end;                                                                                                                            \
		if (!real)                                                                                                                           \
			real = REAL(name);                                                                                                           \
		if (before(label, path, &end))                                                                                                       \
			return -1;                                                                                                                   \
		__typeof__(real(__VA_ARGS__)) rc = real(__VA_ARGS__);                                                                                \
		if (end)                                                                                                                             \
			die();                                                                                                                       \
		return rc;                                                                                                                           \
	} while (0)

#define EXPORT __attribute__((visibility("default")))
EXPORT int fsync(int fd) { char b[512]; WRAP("fsync", fsync, fd_path(fd, b), fd); }
EXPORT int fdatasync(int fd) { char b[512]; WRAP("fdatasync", fdatasync, fd_path(fd, b), fd); }
EXPORT int rename(const char *from, const char *to) { WRAP("rename", rename, to, from, to); }
EXPORT int renameat(int a, const char *from, int b, const char *to) { WRAP("rename", renameat, to, a, from, b, to); }
EXPORT int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { WRAP("rename", renameat2, to, a, from, b, to, flags); }
EXPORT int link(const char *from, const char *to) { WRAP("link", link, to, from, to); }
EXPORT int linkat(int a, const char *from, int b, const char *to, int flags) { WRAP("link", linkat, to, a, from, b, to, flags); }
EXPORT int unlink(const char *path) { WRAP("unlink", unlink, path, path); }
EXPORT int unlinkat(int d, const char *path, int flags) { WRAP("unlink", unlinkat, path, d, path, flags); }
EXPORT int mkdir(const char *path, mode_t mode) { WRAP("mkdir", mkdir, path, path, mode); }
EXPORT int ftruncate(int fd, off_t n) { char b[512]; WRAP("ftruncate", ftruncate, fd_path(fd, b), fd, n); }
EXPORT int ftruncate64(int fd, off64_t n) { char b[512]; WRAP("ftruncate", ftruncate64, fd_path(fd, b), fd, n); }
EXPORT ssize_t pwrite(int fd, const void *p, size_t n, off_t off) { char b[512]; WRAP("pwrite", pwrite, fd_path(fd, b), fd, p, n, off); }
EXPORT ssize_t pwrite64(int fd, const void *p, size_t n, off64_t off) { char b[512]; WRAP("pwrite", pwrite64, fd_path(fd, b), fd, p, n, off); }
EXPORT ssize_t write(int fd, const void *p, size_t n) { char b[512]; WRAP("write", write, fd_path(fd, b), fd, p, n); }
