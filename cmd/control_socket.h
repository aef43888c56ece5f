/*
 * Listening and connecting sockets of the control plane. A Unix socket's address holds 107 bytes: longer paths go through
 * /proc/self/fd/<descriptor of the directory>. Blocking; any thread.
 */
#ifndef MS_CMD_CONTROL_SOCKET_H
#define MS_CMD_CONTROL_SOCKET_H

#include "base/fs.h"

#define MS_SOCKET_ADDRESS_MAX 107u

/* An address that reaches `path`: path itself, or through *ret_dirfd (else -1), which stays open as long as the address is used. */
enum ms_code ms_socket_address(const char *path, char ret[MS_SOCKET_ADDRESS_MAX + 1], int *ret_dirfd, struct ms_err *err) MS_WARN_UNUSED;
/* Mode 0600 from its first moment. A dead daemon's socket file is replaced; MS_EBUSY when something answers on it. */
enum ms_code ms_unix_listen(const char *path, int *ret_fd, struct ms_err *err) MS_WARN_UNUSED;
/* "host:port", "[v6]:port" or ":port" (every address). *ret_port = the port bound. */
enum ms_code ms_tcp_listen(const char *address, int *ret_fd, unsigned *ret_port, struct ms_err *err) MS_WARN_UNUSED;

#endif
