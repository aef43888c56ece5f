/*
 * One SSH connection with the sftp subsystem running on it: TCP, key exchange, host key, authentication, channel; then bytes both ways. libssh2 is
 * driven without blocking and does not touch the socket: our callbacks read it, and take whole packets to be written into `wire`, so that no packet is
 * ever left half written (libssh2 then wants the very same call again, and a read may not come in between) and the deadlines and a cancel hold at
 * every step. One owner; wake_fd and *cancelled may be set by any thread.
 *
 * Bounds: `wire` about 100 KiB; 4 MiB of SSH window in libssh2's queue.
 */
#ifndef MS_REPLICAS_SFTP_CONN_H
#define MS_REPLICAS_SFTP_CONN_H

#include <libssh2.h>
#include <stdatomic.h>
#include "base/buf.h"
#include "base/env.h"

/* Where to, and as whom. Strings belong to the replica's spec or are NULL. */
struct ms_sftp_target {
	const char *host, *user;
	unsigned port;
	const char *key_path, *key_passphrase, *password;
	const char *known_hosts_path, *host_key;
	int64_t connect_us; /* for everything up to the running subsystem */
	int64_t stall_us;   /* without a byte moving */
};

struct ms_sftp_conn {
	struct ms_env *env;
	const struct ms_sftp_target *to;
	atomic_bool *cancelled;
	int wake_fd;	/* eventfd, the replica's; readable = cancelled */
	LIBSSH2_SESSION *ssh; /* NULL: not connected */
	LIBSSH2_CHANNEL *channel;
	int fd;
	uint64_t deadline_ns; /* of what is under way */
	int64_t stall_us;     /* to->stall_us, or less for a while */
	bool grace;	      /* cleaning up after a cancel, within the deadline: not interrupted any more */
	struct ms_buf wire;   /* encrypted, from wire_off on not yet taken by the socket */
	size_t wire_off;
	struct ms_buf hello;  /* what the server said in the clear; empty after the handshake */
	bool greeting;	      /* the handshake is under way */
	bool gone;	      /* the socket ended or failed: callbacks say so from now on */
	int sys;	      /* why; 0: the server ended it */
	bool answered;	      /* keyboard-interactive: the password was given */
	char words[160];      /* the server's, when it ended the connection */
};

/* Messages begin with "sftp replica user@host:port". */
enum ms_code ms_sftp_connect(struct ms_sftp_conn *c, struct ms_err *err) MS_WARN_UNUSED;
void ms_sftp_disconnect(struct ms_sftp_conn *c);
/* Starts the time that may pass until a byte moves. */
void ms_sftp_progress(struct ms_sftp_conn *c);
/* What moves now, 0 nothing. A lost connection is MS_ERETRY. */
enum ms_code ms_sftp_recv(struct ms_sftp_conn *c, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_send(struct ms_sftp_conn *c, const void *data, size_t n, size_t *ret_n, struct ms_err *err) MS_WARN_UNUSED;
/* Until the socket has something to read, or takes more of what is to be written. */
enum ms_code ms_sftp_wait(struct ms_sftp_conn *c, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code MS_PRINTF(4, 5) ms_sftp_err(const struct ms_sftp_conn *c, struct ms_err *err, enum ms_code code, const char *fmt, ...);
/* MS_ERETRY with why: the server's words, the socket's error, or libssh2's. They hold no secrets. */
enum ms_code ms_sftp_lost(struct ms_sftp_conn *c, struct ms_err *err, const char *what);

/* sftp_auth.c: after the host key was found good. */
enum ms_code ms_sftp_authenticate(struct ms_sftp_conn *c, struct ms_err *err) MS_WARN_UNUSED;
/* Repeats `call` until it returns something else than LIBSSH2_ERROR_EAGAIN, into rc; code: how the waiting went. */
#define MS_SFTP_LOOP(c, code, rc, call, err)                                                                                                         \
	do {                                                                                                                                         \
		(code) = MS_OK;                                                                                                                      \
		while (!(code) && ((rc) = (call)) == LIBSSH2_ERROR_EAGAIN)                                                                           \
			(code) = ms_sftp_wait((c), (err));                                                                                           \
	} while (0)

#endif
