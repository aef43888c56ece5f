/*
 * A TCP connection within a deadline that another thread can cut short, the lookup of the name included. Blocking; any thread.
 */
#ifndef MS_REPLICAS_TCP_H
#define MS_REPLICAS_TCP_H

#include "base/env.h"

/* deadline_ns: of ms_env_mono_ns(). wake_fd: readable = give up, MS_ECANCELED. host may be an IPv4 or IPv6 literal. *ret is non-blocking and
 * close-on-exec, without Nagle's delay and with keepalive. Failures are MS_ERETRY or MS_ETIMEDOUT. */
enum ms_code ms_tcp_connect(struct ms_env *env, const char *host, unsigned port, uint64_t deadline_ns, int wake_fd, int *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Polls fd for events and wake_fd. MS_OK when fd has something, MS_ECANCELED, MS_ETIMEDOUT; the caller words the error. */
enum ms_code ms_tcp_wait(struct ms_env *env, int fd, short events, uint64_t deadline_ns, int wake_fd) MS_WARN_UNUSED;

#endif
