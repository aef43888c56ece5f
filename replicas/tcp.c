/*
 * getaddrinfo() blocks for as long as the resolver likes and cannot be interrupted. It runs on a thread of its own that owns half of a
 * small shared record; the caller polls and may leave. Whoever lets go of the record last frees it.
 */
#include "replicas/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct lookup {
	atomic_uint refs;
	int done; /* eventfd, readable when rc and list are set */
	int rc;
	struct addrinfo *list;
	char host[256], port[8];
};

enum ms_code ms_tcp_wait(struct ms_env *env, int fd, short events, uint64_t deadline_ns, int wake_fd) {
	for (;;) {
		struct pollfd p[2] = {{.fd = wake_fd, .events = POLLIN}, {.fd = fd, .events = events}};
		uint64_t now = ms_env_mono_ns(env);
		/* A slice at most, because the clock that counts is env's. */
		uint64_t ms = now < deadline_ns ? (deadline_ns - now + 999999) / 1000000 : 0;
		int n = poll(p, 2, ms > 1000 ? 1000 : (int)ms);
		if (n < 0 && errno != EINTR)
			return MS_EIO;
		if (n > 0 && p[0].revents)
			return MS_ECANCELED;
		if (n > 0 && p[1].revents)
			return MS_OK;
		if (ms == 0)
			return MS_ETIMEDOUT;
	}
}

static void lookup_unref(struct lookup *l) {
	if (atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	if (l->list)
		freeaddrinfo(l->list);
	close(l->done);
	free(l);
}

static void *lookup_run(void *arg) {
	struct lookup *l = arg;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	l->rc = getaddrinfo(l->host, l->port, &hints, &l->list);
	uint64_t one = 1;
	(void)!write(l->done, &one, sizeof one);
	lookup_unref(l);
	return NULL;
}

static enum ms_code resolve(struct ms_env *env, const char *host, unsigned port, uint64_t deadline_ns, int wake_fd, struct lookup **ret, struct ms_err *err) {
	struct lookup *l = calloc(1, sizeof *l);
	pthread_t t;
	sigset_t all, before;
	if (!l || strlen(host) >= sizeof l->host) {
		free(l);
		return l ? ms_err_set(err, MS_EUSAGE, "the host name is longer than 255 bytes") : ms_err_set(err, MS_ENOMEM, "host name");
	}
	snprintf(l->host, sizeof l->host, "%s", host);
	snprintf(l->port, sizeof l->port, "%u", port);
	atomic_init(&l->refs, 1);
	if ((l->done = eventfd(0, EFD_CLOEXEC)) < 0) {
		free(l);
		return ms_err_sys(err, errno, MS_EIO, "eventfd");
	}
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_NUMERICHOST};
	l->rc = getaddrinfo(host, l->port, &hints, &l->list);
	if (l->rc == 0) {
		*ret = l;
		return MS_OK;
	}
	atomic_fetch_add(&l->refs, 1);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = pthread_create(&t, NULL, lookup_run, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		lookup_unref(l);
		lookup_unref(l);
		return ms_err_sys(err, rc, MS_ERETRY, "a thread to look up %s", host);
	}
	pthread_detach(t);
	enum ms_code code = ms_tcp_wait(env, l->done, POLLIN, deadline_ns, wake_fd);
	if (code == MS_OK && l->rc == 0) {
		*ret = l;
		return MS_OK;
	}
	if (code == MS_OK)
		ms_err_set(err, code = MS_ERETRY, "looking up %s: %s", host, l->rc == EAI_SYSTEM ? "system error" : gai_strerror(l->rc));
	else
		ms_err_set(err, code, code == MS_ECANCELED ? "%s: cancelled" : "looking up %s took too long", host);
	lookup_unref(l);
	return code;
}

static enum ms_code connect_one(struct ms_env *env, const struct addrinfo *a, uint64_t deadline_ns, int wake_fd, int *ret, int *ret_errno) {
	int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol), one = 1, e = 0;
	socklen_t n = sizeof e;
	enum ms_code rc = MS_OK;
	if (fd < 0) {
		*ret_errno = errno;
		return MS_ERETRY;
	}
	if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
		e = errno;
		if (e == EINPROGRESS && (rc = ms_tcp_wait(env, fd, POLLOUT, deadline_ns, wake_fd)) == MS_OK && getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0)
			e = errno;
	}
	if (rc || e) {
		close(fd);
		*ret_errno = rc == MS_ETIMEDOUT ? ETIMEDOUT : e;
		return rc ? rc : MS_ERETRY;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	*ret = fd;
	return MS_OK;
}

enum ms_code ms_tcp_connect(struct ms_env *env, const char *host, unsigned port, uint64_t deadline_ns, int wake_fd, int *ret, struct ms_err *err) {
	struct lookup *l;
	unsigned left = 0;
	int e = 0;
	enum ms_code rc = resolve(env, host, port, deadline_ns, wake_fd, &l, err);
	if (rc)
		return rc;
	for (const struct addrinfo *a = l->list; a; a = a->ai_next)
		left++;
	rc = MS_ERETRY;
	for (const struct addrinfo *a = l->list; a && rc && rc != MS_ECANCELED; a = a->ai_next, left--) {
		/* Each address has its share, so that one that swallows packets does not use up the time of the next. */
		uint64_t now = ms_env_mono_ns(env), rest = deadline_ns > now ? deadline_ns - now : 0;
		rc = connect_one(env, a, now + rest / left, wake_fd, ret, &e);
	}
	lookup_unref(l);
	if (rc == MS_ECANCELED)
		return ms_err_set(err, rc, "%s: cancelled", host);
	if (rc == MS_ETIMEDOUT)
		return ms_err_set(err, rc, "connecting to %s port %u took too long: is the address right, and does a firewall let it through?", host, port);
	/* Whatever errno says, the next try may find the server up. */
	return rc ? ms_err_set(err, MS_ERETRY, "connecting to %s port %u: %s", host, port, strerror(e)) : MS_OK;
}
