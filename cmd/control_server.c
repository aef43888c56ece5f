#include "cmd/control_server.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/timefmt.h"
#include "cmd/control_socket.h"
#include "cmd/control_wait.h"
#include "cmd/metrics_page.h"
#include "cmd/status_json.h"

#define CONNECTIONS 64u
#define WAITS 48u /* so that a status request always finds room */
#define CONNECTION_MEMORY (16u << 10)
#define IDLE_SECONDS 30u
#define THREAD_STACK (512u << 10)
#define PAGE_MAX (256u << 20) /* bytes of one answer */

struct listener {
	struct ms_control_server *s;
	bool local; /* the Unix socket */
	struct MHD_Daemon *mhd;
};

struct ms_control_server {
	struct ms_env *env;
	const struct ms_control_ops *ops;
	void *arg;
	struct listener local, tcp;
	char path[MS_PATH_MAX]; /* of the socket; "" when it is not ours to remove */
	unsigned port;
	atomic_bool closing;
	atomic_uint waits;
};

/* One answer: status code and a body that is handed over. */
struct answer {
	unsigned status;
	const char *type;
	struct ms_buf body;
};

static unsigned http_status(enum ms_code code) {
	switch (code) {
	case MS_EUSAGE:
	case MS_EINVAL:
		return 400;
	case MS_EPERM:
		return 403;
	case MS_ENOTFOUND:
		return 404;
	case MS_EBUSY:
	case MS_EMODE:
	case MS_ECONFLICT:
	case MS_EFENCED:
	case MS_EPERMANENT:
		return 409;
	case MS_ECLOSED:
		return 503;
	case MS_ETIMEDOUT:
		return 504;
	default:
		return 500;
	}
}

static void answer_json(struct answer *a, unsigned status, json_t *o) {
	char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	struct ms_err ignored = MS_ERR_INIT;
	ms_buf_clear(&a->body);
	a->type = "application/json";
	a->status = text && !ms_buf_append(&a->body, text, strlen(text), &ignored) && !ms_buf_u8(&a->body, '\n', &ignored) ? status : 500;
	free(text);
	json_decref(o);
}

static void answer_error(struct answer *a, const struct ms_err *err, unsigned status) {
	answer_json(a, status, json_pack("{s:s%,s:s}", "error", err->msg, strnlen(err->msg, sizeof err->msg), "code", ms_code_name(err->code)));
	if (!a->body.len) /* a message cut within a UTF-8 sequence */
		answer_json(a, status, json_pack("{s:s,s:s}", "error", "failed", "code", ms_code_name(err->code)));
}

static void fail(struct answer *a, enum ms_code code, unsigned status, const char *text) {
	struct ms_err err = MS_ERR_INIT;
	(void)ms_err_set(&err, code, "%s", text);
	answer_error(a, &err, status);
}

/* Everything that a page needs, copied from the daemon. */
struct look {
	struct ms_stream_status *streams;
	unsigned n;
	int64_t *thresholds;
	struct ms_journal_stats journal;
	struct ms_daemon_info info;
	struct ms_status_view view;
};

static void look_release(struct look *l) {
	for (unsigned i = 0; i < l->n; i++)
		ms_stream_status_release(&l->streams[i]);
	free(l->streams);
	free(l->thresholds);
}

static enum ms_code look(struct ms_control_server *s, struct look *l, struct ms_err *err) {
	enum ms_code code = s->ops->get_status(s->arg, &l->streams, &l->n, err);
	if (!code)
		code = s->ops->get_journal_stats(s->arg, &l->journal, err);
	if (!code && !(l->thresholds = calloc(l->n ? l->n : 1, sizeof *l->thresholds)))
		code = ms_err_set(err, MS_ENOMEM, "status: out of memory");
	for (unsigned i = 0; i < l->n && !code; i++)
		l->thresholds[i] = s->ops->threshold_us(s->arg, l->streams[i].name);
	s->ops->info(s->arg, &l->info);
	l->view = (struct ms_status_view){.info = &l->info, .streams = l->streams, .n = l->n, .thresholds_us = l->thresholds, .journal = &l->journal,
					  .now_us = ms_env_now_us(s->env)};
	return code;
}

static void page(struct ms_control_server *s, const char *path, struct answer *a) {
	struct look l = {0};
	struct ms_err err = MS_ERR_INIT;
	bool ok = false;
	enum ms_code code = look(s, &l, &err);
	a->status = 200;
	a->type = "text/plain; charset=utf-8";
	if (!code && strcmp(path, "/status") == 0) {
		answer_json(a, 200, ms_status_json(&l.view));
	} else if (!code && strcmp(path, "/metrics") == 0) {
		a->type = "text/plain; version=0.0.4; charset=utf-8";
		code = ms_metrics_page(&l.view, &a->body, &err);
	} else if (!code) {
		code = ms_health(l.streams, l.n, l.thresholds, l.view.now_us, &a->body, &ok, &err);
		if (!code && ok)
			code = ms_buf_append(&a->body, "ok\n", 3, &err);
		a->status = ok ? 200 : 503;
	}
	if (code)
		answer_error(a, &err, http_status(code));
	look_release(&l);
}

struct request {
	struct ms_control_server *s;
	struct MHD_Connection *connection;
	int fd;
};

static const char *query(const struct request *r, const char *key) {
	return MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, key);
}

static bool gone(void *arg) {
	const struct request *r = arg;
	struct pollfd p = {.fd = r->fd, .events = POLLRDHUP};
	return atomic_load(&r->s->closing) || (poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)));
}

static bool number(const char *text, uint64_t *ret) {
	char *end;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno)
		return false;
	*ret = v;
	return true;
}

static void wait_for(struct request *r, struct answer *a) {
	struct ms_control_server *s = r->s;
	struct ms_wait w = {.db = query(r, "db"), .replica = query(r, "replica"), .give_up = gone, .give_up_arg = r};
	const char *txid = query(r, "txid"), *timeout = query(r, "timeout_ms");
	struct ms_generation generation;
	struct ms_err err = MS_ERR_INIT;
	uint64_t ms = 0, reached;
	w.has_txid = txid;
	if (!w.db || (txid && !number(txid, &w.txid)) || (timeout && (!number(timeout, &ms) || ms > 1000000000000))) {
		fail(a, MS_EUSAGE, 400, "wait needs db, and numbers in txid and timeout_ms");
		return;
	}
	/* timeout_ms=0 means: only look. */
	w.timeout_us = timeout ? (ms ? (int64_t)ms * 1000 : 1) : 0;
	if (atomic_fetch_add(&s->waits, 1) >= WAITS) {
		fail(a, MS_EBUSY, 503, "too many commands are waiting already");
	} else {
		enum ms_code code = ms_control_wait(s->env, s->ops, s->arg, &w, &reached, &generation, &err);
		if (code)
			answer_error(a, &err, http_status(code));
		else
			answer_json(a, 200, json_pack("{s:s,s:I,s:s}", "db", w.db, "txid", (json_int_t)reached, "generation", generation.s));
	}
	atomic_fetch_sub(&s->waits, 1);
}

static void act(struct request *r, const char *path, struct answer *a) {
	const struct ms_control_ops *ops = r->s->ops;
	const char *db = query(r, "db");
	struct ms_err err = MS_ERR_INIT;
	uint64_t txid = 0;
	enum ms_code code;
	if (!db && strcmp(path, "/shutdown") != 0) {
		fail(a, MS_EUSAGE, 400, "which database? db is missing");
		return;
	}
	if (strcmp(path, "/pause") == 0)
		code = ops->pause(r->s->arg, db, &err);
	else if (strcmp(path, "/resume") == 0)
		code = ops->resume(r->s->arg, db, &err);
	else if (strcmp(path, "/takeover") == 0)
		code = ops->takeover(r->s->arg, db, &err);
	else if (strcmp(path, "/snapshot") == 0)
		code = ops->snapshot(r->s->arg, db, &txid, &err);
	else
		code = ops->shutdown(r->s->arg, &err);
	if (code)
		answer_error(a, &err, http_status(code));
	else if (strcmp(path, "/snapshot") == 0)
		answer_json(a, 200, json_pack("{s:b,s:I}", "ok", 1, "txid", (json_int_t)txid));
	else
		answer_json(a, 200, json_pack("{s:b}", "ok", 1));
}

static bool one_of(const char *path, const char *const *list) {
	for (; *list; list++)
		if (strcmp(*list, path) == 0)
			return true;
	return false;
}

static void route(struct request *r, bool local, const char *method, const char *path, struct answer *a) {
	static const char *const pages[] = {"/metrics", "/healthz", NULL}, *const local_pages[] = {"/status", "/wait", NULL},
				 *const actions[] = {"/pause", "/resume", "/snapshot", "/takeover", "/shutdown", NULL};
	bool get = one_of(path, pages) || (local && one_of(path, local_pages)), post = local && one_of(path, actions);
	if (!get && !post)
		fail(a, MS_ENOTFOUND, 404, "no such page");
	else if (strcmp(method, get ? "GET" : "POST") != 0)
		fail(a, MS_EUSAGE, 405, get ? "only GET here" : "only POST here");
	else if (atomic_load(&r->s->closing))
		fail(a, MS_ECLOSED, 503, "the daemon is stopping");
	else if (strcmp(path, "/wait") == 0)
		wait_for(r, a);
	else if (get)
		page(r->s, path, a);
	else
		act(r, path, a);
}

/* The socket's mode keeps others out already; this also holds where a file system ignores it. */
static bool peer_allowed(int fd) {
	struct ucred peer;
	socklen_t len = sizeof peer;
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == 0 || peer.uid == geteuid());
}

static enum MHD_Result reply(struct MHD_Connection *c, struct answer *a) {
	struct MHD_Response *response = MHD_create_response_from_buffer(a->body.len, a->body.data, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result result = MHD_NO;
	if (response) {
		MHD_add_response_header(response, "Content-Type", a->type);
		MHD_add_response_header(response, "Cache-Control", "no-store");
		result = MHD_queue_response(c, a->status, response);
		MHD_destroy_response(response);
	}
	return result;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *c, const char *path, const char *method, const char *version, const char *upload,
			      size_t *upload_size, void **state) {
	struct listener *l = cls;
	const union MHD_ConnectionInfo *fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct answer a = {.status = 500, .type = "text/plain"};
	(void)version, (void)upload;
	/* The first call has the headers only; a body is read and dropped. */
	if (!*state) {
		*state = l;
		return MHD_YES;
	}
	if (*upload_size) {
		*upload_size = 0;
		return MHD_YES;
	}
	if (!fd)
		return MHD_NO;
	/* A wait may take longer than the idle timeout, which would then end the connection unanswered. */
	if (l->local)
		MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	struct request r = {.s = l->s, .connection = c, .fd = fd->connect_fd};
	ms_buf_init(&a.body, PAGE_MAX);
	if (l->local && !peer_allowed(r.fd))
		fail(&a, MS_EPERM, 403, "only the daemon's own user and root may ask");
	else
		route(&r, l->local, method, path, &a);
	enum MHD_Result result = reply(c, &a);
	ms_buf_release(&a.body);
	return result;
}

static bool start(struct ms_control_server *s, struct listener *l, bool local, int fd) {
	l->s = s, l->local = local;
	l->mhd = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL, 0, NULL, NULL, handle, l,
				  MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
				  (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, MHD_OPTION_THREAD_STACK_SIZE,
				  (size_t)THREAD_STACK, MHD_OPTION_END);
	return l->mhd;
}

enum ms_code ms_control_server_new(struct ms_env *env, const char *shadow_dir, const char *metrics_address, const struct ms_control_ops *ops, void *arg,
				   struct ms_control_server **ret, struct ms_err *err) {
	struct ms_control_server *s = calloc(1, sizeof *s);
	char path[MS_PATH_MAX];
	int fd = -1;
	if (!s)
		return ms_err_set(err, MS_ENOMEM, "control server: out of memory");
	s->env = env, s->ops = ops, s->arg = arg;
	enum ms_code code = ms_path_join(path, sizeof path, shadow_dir, MS_CONTROL_SOCKET, err);
	if (!code)
		code = ms_unix_listen(path, &fd, err);
	if (code)
		goto out;
	memcpy(s->path, path, sizeof path);
	if (!start(s, &s->local, true, fd)) {
		code = ms_err_set(err, MS_EIO, "control server on %s does not start", path);
		goto out;
	}
	fd = -1;
	if (metrics_address && (code = ms_tcp_listen(metrics_address, &fd, &s->port, err)))
		goto out;
	if (metrics_address && !start(s, &s->tcp, false, fd)) {
		code = ms_err_set(err, MS_EIO, "metrics server on %s does not start", metrics_address);
		goto out;
	}
	fd = -1;
	*ret = s, s = NULL;
out:
	if (fd >= 0)
		close(fd);
	ms_control_server_free(s);
	return code;
}

unsigned ms_control_server_metrics_port(const struct ms_control_server *s) {
	return s->port;
}

void ms_control_server_close(struct ms_control_server *s) {
	atomic_store(&s->closing, true);
}

void ms_control_server_free(struct ms_control_server *s) {
	char address[MS_SOCKET_ADDRESS_MAX + 1];
	struct ms_err ignored = MS_ERR_INIT;
	int dirfd = -1;
	if (!s)
		return;
	atomic_store(&s->closing, true);
	if (s->tcp.mhd)
		MHD_stop_daemon(s->tcp.mhd);
	if (s->local.mhd)
		MHD_stop_daemon(s->local.mhd);
	if (s->path[0] && !ms_socket_address(s->path, address, &dirfd, &ignored)) {
		unlink(address);
		if (dirfd >= 0)
			close(dirfd);
	}
	free(s);
}
