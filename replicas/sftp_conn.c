#include "replicas/sftp_conn.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/fs.h"
#include "replicas/known_hosts.h"
#include "replicas/ssh_hello.h"
#include "replicas/tcp.h"

#define KNOWN_HOSTS_LIMIT (4u << 20) /* bytes of a known_hosts file */
#define WIRE_HIGH (64u << 10)	     /* no further data while so much waits for the socket */
#define WIRE_LIMIT (1u << 20)	     /* beyond that (key exchanges, window adjustments without end) the server is broken */
#define WINDOW (4u << 20)	     /* what may be under way to us: twice the reads that sftp_get.c has flying */
#define READ_CAP (64u << 10)	     /* libssh2 widens the window by what a read asks for */
#define LIST_CAP 1024		     /* bytes of one list of algorithms */

static pthread_once_t library = PTHREAD_ONCE_INIT;
static int library_rc;

/* For the life of the process. */
static void start_library(void) { library_rc = libssh2_init(0); }

enum ms_code ms_sftp_err(const struct ms_sftp_conn *c, struct ms_err *err, enum ms_code code, const char *fmt, ...) {
	char text[480];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	bool v6 = strchr(c->to->host, ':') != NULL;
	return ms_err_set(err, code, "sftp replica %s@%s%s%s:%u: %s", c->to->user, v6 ? "[" : "", c->to->host, v6 ? "]" : "", c->to->port, text);
}

static void clean(char *text) {
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = ' ';
}

enum ms_code ms_sftp_lost(struct ms_sftp_conn *c, struct ms_err *err, const char *what) {
	char *said = NULL, text[200] = "";
	if (c->words[0])
		snprintf(text, sizeof text, "the server says: %s", c->words);
	else if (c->gone)
		snprintf(text, sizeof text, "%s", c->sys ? strerror(c->sys) : "the server closed it");
	else if (c->ssh && libssh2_session_last_error(c->ssh, &said, NULL, 0) && said)
		snprintf(text, sizeof text, "%s", said);
	clean(text);
	return ms_sftp_err(c, err, MS_ERETRY, "%s%s%s", what, text[0] ? ": " : "", text);
}

/* ---- the socket ---- */

static void fail(struct ms_sftp_conn *c, int sys) {
	if (!c->gone)
		c->sys = sys;
	c->gone = true;
}

static size_t waiting(const struct ms_sftp_conn *c) { return c->wire.len - c->wire_off; }

/* Bytes that the socket took. */
static size_t flush(struct ms_sftp_conn *c) {
	size_t before = waiting(c);
	while (waiting(c) && !c->gone) {
		ssize_t n = send(c->fd, c->wire.data + c->wire_off, waiting(c), MSG_NOSIGNAL);
		if (n >= 0)
			c->wire_off += (size_t)n;
		else if (errno == EAGAIN)
			break;
		else if (errno != EINTR)
			fail(c, errno);
	}
	size_t moved = before - waiting(c);
	if (!waiting(c))
		c->wire.len = c->wire_off = 0;
	return moved;
}

/* Takes all of a packet, always: what the socket does not take now waits in `wire`. */
static LIBSSH2_SEND_FUNC(on_send) {
	struct ms_sftp_conn *c = *abstract;
	size_t sent = 0;
	(void)socket, (void)flags;
	flush(c);
	if (!c->gone && !waiting(c)) {
		ssize_t n = send(c->fd, buffer, length, MSG_NOSIGNAL);
		if (n >= 0)
			sent = (size_t)n;
		else if (errno != EAGAIN && errno != EINTR)
			fail(c, errno);
	}
	if (c->wire_off > WIRE_HIGH) {
		memmove(c->wire.data, c->wire.data + c->wire_off, waiting(c));
		c->wire.len -= c->wire_off;
		c->wire_off = 0;
	}
	if (!c->gone && sent < length && ms_buf_append(&c->wire, (const uint8_t *)buffer + sent, length - sent, NULL))
		fail(c, ENOBUFS);
	return c->gone ? -EPIPE : (ssize_t)length;
}

static LIBSSH2_RECV_FUNC(on_recv) {
	struct ms_sftp_conn *c = *abstract;
	(void)socket, (void)flags;
	if (c->gone)
		return -EPIPE;
	ssize_t n = recv(c->fd, buffer, length, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n <= 0) {
		fail(c, n < 0 ? errno : 0);
		return n < 0 ? -c->sys : 0;
	}
	/* A greeting that is longer is not kept, and cannot be explained. */
	if (c->greeting && ms_buf_append(&c->hello, buffer, (size_t)n, NULL))
		c->greeting = false;
	return n;
}

static LIBSSH2_DISCONNECT_FUNC(on_disconnect) {
	struct ms_sftp_conn *c = *abstract;
	(void)session, (void)reason, (void)language, (void)language_len;
	fail(c, 0);
	if (message && message_len > 0)
		snprintf(c->words, sizeof c->words, "%.*s", message_len, message);
	clean(c->words);
}

enum ms_code ms_sftp_wait(struct ms_sftp_conn *c, struct ms_err *err) {
	if (!c->grace && atomic_load(c->cancelled))
		return ms_sftp_err(c, err, MS_ECANCELED, "the call was cancelled");
	flush(c);
	if (c->gone)
		return ms_sftp_lost(c, err, "the connection was lost");
	enum ms_code rc = ms_tcp_wait(c->env, c->fd, (short)(POLLIN | (waiting(c) ? POLLOUT : 0)), c->deadline_ns, c->grace ? -1 : c->wake_fd);
	if (rc == MS_ECANCELED)
		return ms_sftp_err(c, err, rc, "the call was cancelled");
	if (rc == MS_ETIMEDOUT)
		return ms_sftp_err(c, err, rc, "the server does not answer (no byte moved for too long)");
	return rc ? ms_sftp_err(c, err, MS_ERETRY, "poll: %s", strerror(errno)) : MS_OK;
}

void ms_sftp_progress(struct ms_sftp_conn *c) {
	if (!c->grace)
		c->deadline_ns = ms_env_mono_ns(c->env) + (uint64_t)c->stall_us * 1000;
}

/* ---- who the server is ---- */

static enum ms_code load_known_hosts(struct ms_sftp_conn *c, struct ms_known_hosts *kh, char path[MS_PATH_MAX], struct ms_err *err) {
	const struct ms_sftp_target *t = c->to;
	const char *home = getenv("HOME");
	struct ms_buf text;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc;
	if (t->host_key) {
		snprintf(path, MS_PATH_MAX, "the option hostKey");
		return ms_known_hosts_pin(kh, t->host_key, &e) ? ms_sftp_err(c, err, e.code, "%s", e.msg) : MS_OK;
	}
	if (t->known_hosts_path) {
		snprintf(path, MS_PATH_MAX, "%s", t->known_hosts_path);
	} else if (home && home[0]) {
		snprintf(path, MS_PATH_MAX, "%s/.ssh/known_hosts", home);
	} else {
		struct passwd *pw = getpwuid(getuid());
		if (!pw)
			return ms_sftp_err(c, err, MS_EAUTH, "no known_hosts: HOME is not set; name the file with knownHostsPath, or the key with hostKey");
		snprintf(path, MS_PATH_MAX, "%s/.ssh/known_hosts", pw->pw_dir);
	}
	ms_buf_init(&text, KNOWN_HOSTS_LIMIT);
	rc = ms_fs_read_file(c->env, path, &text, &e);
	if (!rc)
		rc = ms_known_hosts_scan(kh, (const char *)text.data, text.len, t->host, t->port, &e);
	else if (rc == MS_ENOTFOUND && !t->known_hosts_path)
		rc = MS_OK; /* nothing is known; the message about the key says what to do */
	ms_buf_release(&text);
	return rc ? ms_sftp_err(c, err, rc == MS_ENOTFOUND ? MS_EAUTH : rc, "known_hosts: %s", e.msg) : MS_OK;
}

/* Of the keys that are held, is there one whose signatures can be checked? *ret_held: the type of one that cannot. */
static bool checkable(const struct ms_known_hosts *kh, const char *offered, const char **ret_held) {
	*ret_held = NULL;
	for (unsigned i = 0; i < kh->n; i++) {
		const char *type = strcmp(kh->keys[i].type, "ssh-rsa") == 0 ? "rsa-sha2-512" : kh->keys[i].type;
		if (kh->keys[i].revoked)
			continue;
		if (!type[0] || ms_ssh_listed(offered, strlen(offered), type, strlen(type)))
			return true;
		*ret_held = kh->keys[i].type;
	}
	return *ret_held == NULL;
}

static enum ms_code judge(struct ms_sftp_conn *c, const struct ms_known_hosts *kh, const char *path, const char *offered, struct ms_err *err) {
	char print[MS_FINGERPRINT_MAX], line[300];
	const char *held;
	unsigned at = 0;
	size_t len = 0;
	int type;
	const uint8_t *blob = (const uint8_t *)libssh2_session_hostkey(c->ssh, &len, &type);
	if (!blob || len > MS_HOST_KEY_MAX)
		return ms_sftp_lost(c, err, "the server's host key cannot be read");
	ms_host_key_fingerprint(blob, len, print);
	bool fits = ms_host_key_line(c->to->host, c->to->port, blob, len, line, sizeof line, NULL) == MS_OK;
	switch (ms_known_hosts_judge(kh, blob, len, &at)) {
	case MS_HOST_KNOWN:
		return MS_OK;
	case MS_HOST_REVOKED:
		return ms_sftp_err(c, err, MS_EAUTH, "the server shows host key %s, which %s line %u revokes: do not trust this server", print, path, at);
	case MS_HOST_CHANGED:
		if (!checkable(kh, offered, &held))
			return ms_sftp_err(c, err, MS_EAUTH,
					   "%.100s holds only a key of type %s for this host, which libssh2 %s cannot check%s. The server also has %s; if that is its own (ask its "
					   "owner), %s%s%s", path, held, libssh2_version(0), strcmp(held, "ssh-rsa") == 0 ? " (1.11 can)" : "", print,
					   c->to->host_key ? "name that" : "add", fits ? ": " : " it", fits ? line : "");
		/* The line is worth more than the advice's last words. */
		if (at)
			return ms_sftp_err(c, err, MS_EAUTH,
					   "the server shows host key %s, but %.120s line %u holds another: either the server's key was changed on purpose (ask its "
					   "owner, then replace the line), or someone is in between", print, path, at);
		return ms_sftp_err(c, err, MS_EAUTH,
				   "the server shows host key %s, but %.120s (the option) holds another: either the server's key was changed on purpose (ask its owner, then "
				   "replace it), or someone is in between", print, path);
	case MS_HOST_UNKNOWN:
	default:
		if (fits)
			return ms_sftp_err(c, err, MS_EAUTH, "unknown host key %s%s. If that is the server's own (ask its owner), add this line to %.100s: %s", print,
					   kh->authorities ? " (host certificates are not supported)" : "", path, line);
		return ms_sftp_err(c, err, MS_EAUTH, "unknown host key %s. If that is the server's own (ask its owner), add it: ssh-keyscan -p %u %.100s >>%.100s",
				   print, c->to->port, c->to->host, path);
	}
}

/* ---- the handshake ---- */

static bool weak(const char *name) {
	/* What OpenSSH's client does not offer by itself either. */
	static const char *const parts[] = {"sha1", "group1-", "md5", "ripemd", "-cbc", "arcfour", "none", "ssh-dss"};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
		if (strstr(name, parts[i]))
			return true;
	return false;
}

/* What the library has for `method`, in its order without the weak ones, or those of `wanted` that it has; and sets it. */
static bool prefer(struct ms_sftp_conn *c, int method, const char *wanted, char ret[LIST_CAP]) {
	const char **names = NULL;
	int n = libssh2_session_supported_algs(c->ssh, method, &names);
	size_t o = 0;
	ret[0] = '\0';
	if (n <= 0)
		return false;
	for (const char *p = wanted; wanted && *p;) {
		size_t len = strcspn(p, ",");
		for (int i = 0; i < n; i++)
			if (strlen(names[i]) == len && memcmp(names[i], p, len) == 0)
				o += (size_t)snprintf(ret + o, LIST_CAP - o, "%s%s", o ? "," : "", names[i]);
		p += len + (p[len] == ',');
	}
	for (int i = 0; !wanted && i < n; i++)
		if (!weak(names[i]) && o + strlen(names[i]) + 2 < LIST_CAP)
			o += (size_t)snprintf(ret + o, LIST_CAP - o, "%s%s", o ? "," : "", names[i]);
	libssh2_free(c->ssh, names);
	return ret[0] && libssh2_session_method_pref(c->ssh, method, ret) == 0;
}

/* Newer versions of the library have a call with the right types, and warn of the old one. */
static void set_callbacks(struct ms_sftp_conn *c) {
#if LIBSSH2_VERSION_NUM >= 0x010b01
	libssh2_session_callback_set2(c->ssh, LIBSSH2_CALLBACK_SEND, (libssh2_cb_generic *)on_send);
	libssh2_session_callback_set2(c->ssh, LIBSSH2_CALLBACK_RECV, (libssh2_cb_generic *)on_recv);
	libssh2_session_callback_set2(c->ssh, LIBSSH2_CALLBACK_DISCONNECT, (libssh2_cb_generic *)on_disconnect);
#else
	libssh2_session_callback_set(c->ssh, LIBSSH2_CALLBACK_SEND, (void *)on_send);
	libssh2_session_callback_set(c->ssh, LIBSSH2_CALLBACK_RECV, (void *)on_recv);
	libssh2_session_callback_set(c->ssh, LIBSSH2_CALLBACK_DISCONNECT, (void *)on_disconnect);
#endif
}

static enum ms_code handshake(struct ms_sftp_conn *c, struct ms_err *err) {
	static const int methods[MS_SSH_LISTS] = {LIBSSH2_METHOD_KEX,	   LIBSSH2_METHOD_HOSTKEY, LIBSSH2_METHOD_CRYPT_CS,
						  LIBSSH2_METHOD_CRYPT_SC, LIBSSH2_METHOD_MAC_CS,  LIBSSH2_METHOD_MAC_SC};
	struct ms_known_hosts kh = {0};
	char lists[MS_SSH_LISTS][LIST_CAP], known[512], path[MS_PATH_MAX], why[400];
	const char *ours[MS_SSH_LISTS];
	int rc;
	enum ms_code code = load_known_hosts(c, &kh, path, err);
	if (code)
		goto out;
	ms_known_hosts_algorithms(&kh, known);
	for (int i = 0; i < MS_SSH_LISTS; i++) {
		ours[i] = lists[i];
		if (!prefer(c, methods[i], i == MS_SSH_HOST_KEY ? known : NULL, lists[i])) {
			code = ms_sftp_err(c, err, MS_EUNSUPPORTED, "libssh2 %s was built without the algorithms that are needed", libssh2_version(0));
			goto out;
		}
	}
	c->greeting = true;
	MS_SFTP_LOOP(c, code, rc, libssh2_session_handshake(c->ssh, c->fd), err);
	c->greeting = false;
	if (code == MS_ERETRY || (!code && rc)) {
		if (ms_ssh_hello_lacks(c->hello.data, c->hello.len, ours, why, sizeof why))
			code = ms_sftp_err(c, err, MS_ERETRY, "%s (libssh2 %s)", why, libssh2_version(0));
		else /* A server that has enough of logins under way (MaxStartups) closes here: worth another try. */
			code = ms_sftp_lost(c, err, "no SSH session (not an SSH server, or too busy)");
	}
	if (!code)
		code = judge(c, &kh, path, lists[MS_SSH_HOST_KEY], err);
out:
	ms_buf_release(&c->hello);
	ms_known_hosts_release(&kh);
	return code;
}

static enum ms_code subsystem(struct ms_sftp_conn *c, struct ms_err *err) {
	enum ms_code code;
	int rc;
	MS_SFTP_LOOP(c, code, rc, (c->channel = libssh2_channel_open_ex(c->ssh, "session", 7, WINDOW, LIBSSH2_CHANNEL_PACKET_DEFAULT, NULL, 0)) ? 0
				  : libssh2_session_last_errno(c->ssh) ? libssh2_session_last_errno(c->ssh) : LIBSSH2_ERROR_CHANNEL_FAILURE, err);
	if (code)
		return code;
	if (rc)
		return ms_sftp_lost(c, err, "the server opens no session (MaxSessions?)");
	MS_SFTP_LOOP(c, code, rc, libssh2_channel_subsystem(c->channel, "sftp"), err);
	if (code)
		return code;
	if (rc)
		return ms_sftp_lost(c, err, "the server has no sftp subsystem for this user");
	/* What the server's program says on its stderr: nobody reads it, and it must not fill the window. */
	MS_SFTP_LOOP(c, code, rc, libssh2_channel_handle_extended_data2(c->channel, LIBSSH2_CHANNEL_EXTENDED_DATA_IGNORE), err);
	return code || !rc ? code : ms_sftp_lost(c, err, "the connection was lost");
}

enum ms_code ms_sftp_connect(struct ms_sftp_conn *c, struct ms_err *err) {
	struct ms_err e = MS_ERR_INIT;
	enum ms_code code;
	c->deadline_ns = ms_env_mono_ns(c->env) + (uint64_t)c->to->connect_us * 1000;
	c->stall_us = c->to->stall_us;
	c->fd = -1;
	pthread_once(&library, start_library);
	if (library_rc)
		return ms_sftp_err(c, err, MS_ENOMEM, "libssh2 does not start (%d)", library_rc);
	if ((code = ms_tcp_connect(c->env, c->to->host, c->to->port, c->deadline_ns, c->wake_fd, &c->fd, &e)))
		return ms_sftp_err(c, err, code, "%s", e.msg);
	if (!(c->ssh = libssh2_session_init_ex(NULL, NULL, NULL, c))) {
		close(c->fd);
		return ms_sftp_err(c, err, MS_ENOMEM, "SSH session");
	}
	ms_buf_init(&c->wire, WIRE_LIMIT);
	ms_buf_init(&c->hello, MS_SSH_HELLO_MAX);
	c->wire_off = 0;
	c->greeting = c->gone = c->answered = false;
	c->sys = 0;
	c->words[0] = '\0';
	libssh2_session_set_blocking(c->ssh, 0);
	set_callbacks(c);
	if ((code = handshake(c, err)) || (code = ms_sftp_authenticate(c, err)) || (code = subsystem(c, err)))
		ms_sftp_disconnect(c);
	return code;
}

void ms_sftp_disconnect(struct ms_sftp_conn *c) {
	if (!c->ssh)
		return;
	/* Tells the server where the socket takes it at once. */
	if (c->channel && !c->gone)
		(void)libssh2_session_disconnect(c->ssh, "done");
	/* From here on nothing is sent and nothing waited for: freeing would do both. */
	fail(c, 0);
	for (int i = 0; libssh2_session_free(c->ssh) == LIBSSH2_ERROR_EAGAIN && i < 100; i++)
		;
	close(c->fd);
	ms_buf_release(&c->wire);
	ms_buf_release(&c->hello);
	c->wire_off = 0;
	c->ssh = NULL;
	c->channel = NULL;
	c->fd = -1;
}

enum ms_code ms_sftp_recv(struct ms_sftp_conn *c, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	/* 0 without an end is a packet that was not for us; others may be waiting behind it. */
	for (int i = 0; i < 1000; i++) {
		ssize_t n = libssh2_channel_read(c->channel, buf, cap > READ_CAP ? READ_CAP : cap);
		if ((n < 0 && n != LIBSSH2_ERROR_EAGAIN) || (n <= 0 && c->gone) || (n == 0 && libssh2_channel_eof(c->channel)))
			return ms_sftp_lost(c, err, "the connection was lost");
		if (n) {
			*ret_n = n > 0 ? (size_t)n : 0;
			return MS_OK;
		}
	}
	return ms_sftp_lost(c, err, "the server sends what nobody asked for");
}

enum ms_code ms_sftp_send(struct ms_sftp_conn *c, const void *data, size_t n, size_t *ret_n, struct ms_err *err) {
	*ret_n = 0;
	if (flush(c) && waiting(c))
		ms_sftp_progress(c);
	if (waiting(c) >= WIRE_HIGH && !c->gone)
		return MS_OK;
	ssize_t rc = libssh2_channel_write(c->channel, data, n);
	if (c->gone || (rc < 0 && rc != LIBSSH2_ERROR_EAGAIN))
		return ms_sftp_lost(c, err, "the connection was lost");
	*ret_n = rc > 0 ? (size_t)rc : 0;
	return MS_OK;
}
