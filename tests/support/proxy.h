/*
 * A TCP proxy on 127.0.0.1 that a test can slow down, freeze and cut. One thread serves all its connections. Fields marked `set` may be changed
 * at any time.
 */
#ifndef MS_TESTS_SUPPORT_PROXY_H
#define MS_TESTS_SUPPORT_PROXY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct ms_proxy {
	unsigned port, to_port;
	int listen_fd;
	pthread_t thread;
	atomic_bool stop;
	atomic_bool frozen;		 /* set: moves nothing */
	_Atomic int64_t cut_after;	 /* set: bytes, both ways together, until all connections are reset; -1 never */
	atomic_uint delay_us;		 /* set: one way */
	_Atomic uint64_t bytes;		 /* moved so far */
	atomic_uint connections;	 /* accepted so far */
};
void ms_proxy_start(struct ms_proxy *p, unsigned to_port);
void ms_proxy_stop(struct ms_proxy *p);

#endif
