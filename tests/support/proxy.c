#include "support/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE (16u << 10)
#define LINKS_MAX 64
#define HELD_MAX (16u << 20) /* bytes on the way in one direction */

struct piece {
	struct piece *next;
	uint64_t due_us;
	size_t n, off;
	uint8_t data[PIECE];
};
struct way {
	int from, to;
	struct piece *first, **last;
	size_t held;
	bool ended; /* from has said all; told to `to` when nothing is held */
	bool told;
};
struct link {
	struct way way[2];
};

static uint64_t now_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int dial(unsigned port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
		close(fd);
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static void reset(struct link *l) {
	struct linger hard = {1, 0};
	for (int i = 0; i < 2; i++) {
		setsockopt(l->way[i].from, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
		close(l->way[i].from);
		for (struct piece *p = l->way[i].first, *next; p; p = next) {
			next = p->next;
			free(p);
		}
	}
	free(l);
}

/* false: the link is to be reset. */
static bool serve(struct ms_proxy *p, struct way *w, short in, short out) {
	if (in && !w->ended && w->held < HELD_MAX) {
		struct piece *e = malloc(sizeof *e);
		ssize_t n = e ? read(w->from, e->data, sizeof e->data) : -1;
		if (n <= 0) {
			free(e);
			if (n < 0 && errno != EAGAIN)
				return false;
			w->ended = n == 0;
		} else {
			e->next = NULL;
			e->n = (size_t)n;
			e->off = 0;
			e->due_us = now_us() + atomic_load(&p->delay_us);
			*w->last = e;
			w->last = &e->next;
			w->held += (size_t)n;
		}
	}
	if (out && w->first && w->first->due_us <= now_us()) {
		struct piece *e = w->first;
		size_t n = e->n - e->off;
		int64_t cut = atomic_load(&p->cut_after);
		if (cut >= 0 && (uint64_t)cut <= atomic_load(&p->bytes))
			return false;
		if (cut >= 0 && (uint64_t)cut - atomic_load(&p->bytes) < n)
			n = (size_t)((uint64_t)cut - atomic_load(&p->bytes));
		ssize_t done = send(w->to, e->data + e->off, n, MSG_NOSIGNAL);
		if (done < 0 && errno != EAGAIN)
			return false;
		if (done > 0) {
			atomic_fetch_add(&p->bytes, (uint64_t)done);
			e->off += (size_t)done;
			w->held -= (size_t)done;
		}
		if (e->off == e->n) {
			if (!(w->first = e->next))
				w->last = &w->first;
			free(e);
		}
	}
	if (w->ended && !w->first && !w->told) {
		w->told = true;
		shutdown(w->to, SHUT_WR);
	}
	return true;
}

static void *run(void *arg) {
	struct ms_proxy *p = arg;
	struct link *links[LINKS_MAX];
	unsigned n = 0;
	while (!atomic_load(&p->stop)) {
		struct pollfd fds[1 + 2 * LINKS_MAX] = {{.fd = p->listen_fd, .events = n < LINKS_MAX ? POLLIN : 0}};
		bool frozen = atomic_load(&p->frozen);
		for (unsigned i = 0; i < n; i++)
			for (int k = 0; k < 2; k++) {
				struct way *w = &links[i]->way[k], *back = &links[i]->way[1 - k];
				short events = (short)((!w->ended && w->held < HELD_MAX ? POLLIN : 0) | (back->first && back->first->due_us <= now_us() ? POLLOUT : 0));
				fds[1 + 2 * i + (unsigned)k] = (struct pollfd){.fd = frozen || !events ? -1 : w->from, .events = events};
			}
		/* Pieces come due while nothing happens on any socket. */
		poll(fds, 1 + 2 * n, 1);
		for (unsigned i = 0; i < n && !frozen;) {
			short a = fds[1 + 2 * i].revents, b = fds[2 + 2 * i].revents;
			struct link *l = links[i];
			bool ok = serve(p, &l->way[0], a & (POLLIN | POLLHUP | POLLERR), b & POLLOUT) && serve(p, &l->way[1], b & (POLLIN | POLLHUP | POLLERR), a & POLLOUT);
			if (ok && !(l->way[0].told && l->way[1].told)) {
				i++;
				continue;
			}
			reset(l);
			/* The poll results do not move with it. */
			links[i] = links[--n];
			fds[1 + 2 * i].revents = fds[2 + 2 * i].revents = 0;
			i++;
		}
		if (fds[0].revents) {
			int from = accept4(p->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
			int to = from >= 0 ? dial(p->to_port) : -1;
			struct link *l = to >= 0 ? calloc(1, sizeof *l) : NULL;
			if (!l) {
				close(from);
				close(to);
				continue;
			}
			setsockopt(from, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			fcntl(to, F_SETFL, O_NONBLOCK);
			l->way[0] = (struct way){.from = from, .to = to, .last = &l->way[0].first};
			l->way[1] = (struct way){.from = to, .to = from, .last = &l->way[1].first};
			links[n++] = l;
			atomic_fetch_add(&p->connections, 1);
		}
	}
	while (n)
		reset(links[--n]);
	return NULL;
}

void ms_proxy_start(struct ms_proxy *p, unsigned to_port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof a;
	*p = (struct ms_proxy){.to_port = to_port, .listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	atomic_store(&p->cut_after, -1);
	if (p->listen_fd < 0 || bind(p->listen_fd, (struct sockaddr *)&a, sizeof a) || listen(p->listen_fd, 16) || getsockname(p->listen_fd, (struct sockaddr *)&a, &n) ||
	    pthread_create(&p->thread, NULL, run, p)) {
		perror("proxy");
		_exit(99);
	}
	p->port = ntohs(a.sin_port);
}

void ms_proxy_stop(struct ms_proxy *p) {
	atomic_store(&p->stop, true);
	pthread_join(p->thread, NULL);
	close(p->listen_fd);
}
