#include "cmd/control_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64

enum ms_code ms_socket_address(const char *path, char ret[MS_SOCKET_ADDRESS_MAX + 1], int *ret_dirfd, struct ms_err *err) {
	char dir[MS_PATH_MAX];
	*ret_dirfd = -1;
	if (strlen(path) <= MS_SOCKET_ADDRESS_MAX) {
		snprintf(ret, MS_SOCKET_ADDRESS_MAX + 1, "%s", path);
		return MS_OK;
	}
	enum ms_code code = ms_path_dir(dir, sizeof dir, path, err);
	if (code)
		return code;
	int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ms_err_sys(err, errno, MS_EIO, "directory of the control socket %s", dir);
	if (snprintf(ret, MS_SOCKET_ADDRESS_MAX + 1, "/proc/self/fd/%d/%s", fd, ms_path_base(path)) > (int)MS_SOCKET_ADDRESS_MAX) {
		close(fd);
		return ms_err_set(err, MS_ETOOBIG, "the control socket's file name is too long: %s", ms_path_base(path));
	}
	*ret_dirfd = fd;
	return MS_OK;
}

static void fill(struct sockaddr_un *sa, const char *address) {
	memset(sa, 0, sizeof *sa);
	sa->sun_family = AF_UNIX;
	memcpy(sa->sun_path, address, strlen(address));
}

/* Removes a socket file nobody listens on; MS_EBUSY when somebody does, MS_EEXISTS when it is no socket. */
static enum ms_code clear_stale(const char *path, const char *address, struct ms_err *err) {
	struct stat st;
	struct sockaddr_un sa;
	if (lstat(address, &st) < 0)
		return errno == ENOENT ? MS_OK : ms_err_sys(err, errno, MS_EIO, "control socket %s", path);
	if (!S_ISSOCK(st.st_mode))
		return ms_err_set(err, MS_EEXISTS, "%s is not a socket: move it away", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return ms_err_sys(err, errno, MS_EIO, "socket");
	fill(&sa, address);
	int rc = connect(fd, (struct sockaddr *)&sa, sizeof sa), sys = errno;
	close(fd);
	if (rc == 0 || sys != ECONNREFUSED)
		return ms_err_set(err, MS_EBUSY, "another daemon answers on %s", path);
	if (unlink(address) < 0 && errno != ENOENT)
		return ms_err_sys(err, errno, MS_EIO, "stale control socket %s", path);
	return MS_OK;
}

enum ms_code ms_unix_listen(const char *path, int *ret_fd, struct ms_err *err) {
	char address[MS_SOCKET_ADDRESS_MAX + 1];
	struct sockaddr_un sa;
	int dirfd = -1, fd = -1;
	enum ms_code code = ms_socket_address(path, address, &dirfd, err);
	if (code || (code = clear_stale(path, address, err)))
		goto out;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	fill(&sa, address);
	/* bind() gives the file the socket's own mode: no moment at which others could connect. */
	if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || chmod(address, 0600) < 0 || listen(fd, BACKLOG) < 0) {
		code = ms_err_sys(err, errno, MS_EIO, "control socket %s", path);
		goto out;
	}
	*ret_fd = fd;
	fd = -1;
out:
	if (fd >= 0)
		close(fd);
	if (dirfd >= 0)
		close(dirfd);
	return code;
}

static enum ms_code split(const char *address, char host[256], char port[16], struct ms_err *err) {
	const char *colon = strrchr(address, ':');
	size_t n = colon ? (size_t)(colon - address) : 0;
	const char *start = address;
	if (!colon || strspn(colon + 1, "0123456789") != strlen(colon + 1) || !colon[1] || strlen(colon + 1) > 5)
		return ms_err_set(err, MS_ECONFIG, "metrics.address: '%.100s' is not host:port, [v6]:port or :port", address);
	if (n >= 2 && address[0] == '[' && colon[-1] == ']')
		start++, n -= 2;
	else if (memchr(address, ':', n))
		return ms_err_set(err, MS_ECONFIG, "metrics.address: write an IPv6 address in brackets: [%.*s]%s", (int)(n > 60 ? 60 : n), address, colon);
	if (n >= 256)
		return ms_err_set(err, MS_ECONFIG, "metrics.address: the host is too long");
	snprintf(host, 256, "%.*s", (int)n, start);
	snprintf(port, 16, "%s", colon + 1);
	return MS_OK;
}

enum ms_code ms_tcp_listen(const char *address, int *ret_fd, unsigned *ret_port, struct ms_err *err) {
	char host[256], port[16];
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_ADDRCONFIG}, *list = NULL;
	enum ms_code code = split(address, host, port, err);
	if (code)
		return code;
	int rc = getaddrinfo(host[0] ? host : NULL, port, &hints, &list), fd = -1, sys = 0, on = 1;
	if (rc)
		return ms_err_set(err, MS_ECONFIG, "metrics.address %s: %s", address, gai_strerror(rc));
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0) {
			sys = errno;
			continue;
		}
		if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 || bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
			sys = errno;
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(list);
	if (fd < 0)
		return ms_err_sys(err, sys, MS_EIO, "metrics.address %s", address);
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	*ret_port = 0;
	if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
		*ret_port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port : ((struct sockaddr_in *)&ss)->sin_port);
	*ret_fd = fd;
	return MS_OK;
}
