/*
 * Control of a running daemon: HTTP over a Unix socket in the shadow directory (mode 0600; peers of another uid than ours or root
 * are refused), and optionally GET /metrics and /healthz over TCP. libmicrohttpd with its own threads; the daemon is reached only through
 * struct ms_control_ops, whose functions are called from those threads and may block (post to the loop thread and wait).
 *
 *   GET  /status                                       status --json (cmd/status_json.h)
 *   GET  /metrics  /healthz                            Prometheus text; 200 "ok" or 503 with one reason a line
 *   GET  /wait?db=&txid=&replica=&timeout_ms=          200 {"txid","replica"...} when there, 504 timed out, 409 cannot come
 *   POST /pause?db=  /resume?db=  /snapshot?db=  /takeover?db=  /shutdown
 * Answers are JSON (metrics, healthz: text). An error is {"error":"<text>","code":"<ms_code_name>"}: 400 usage, 403, 404 no such
 * database, replica or path, 405, 409 state or fenced, 500, 503 closing, 504.
 *
 * Bounds: 64 connections on each listener, 16 KiB of memory each, request bodies are read and dropped.
 */
#ifndef MS_CMD_CONTROL_SERVER_H
#define MS_CMD_CONTROL_SERVER_H

#include <sys/types.h>
#include "base/env.h"
#include "core/journal.h"
#include "core/status.h"

#define MS_CONTROL_SOCKET "control.sock"

struct ms_daemon_info {
	pid_t pid;
	int64_t started_us; /* wall clock */
	const char *shadow_dir; /* as long as the server lives */
	const char *config_file; /* NULL none */
};

/* db is a database's name or path as the user gave it; MS_ENOTFOUND when there is none, with the known names in the text. */
struct ms_control_ops {
	void (*info)(void *arg, struct ms_daemon_info *ret);
	/* All databases, copied: the caller releases each with ms_stream_status_release() and frees the array. */
	enum ms_code (*get_status)(void *arg, struct ms_stream_status **ret, unsigned *ret_n, struct ms_err *err);
	enum ms_code (*get_journal_stats)(void *arg, struct ms_journal_stats *ret, struct ms_err *err);
	/* dataLossWindowThreshold of a database by its name, 0 none. */
	int64_t (*threshold_us)(void *arg, const char *name);
	/* Captures everything that is committed in the database at the time of the call; *ret_txid is the state then. MS_EMODE, MS_EBUSY ...
	 * when the database cannot be followed just now (state and reason in the text). While paused: what has been captured. */
	enum ms_code (*capture)(void *arg, const char *db, uint64_t *ret_txid, struct ms_err *err);
	enum ms_code (*pause)(void *arg, const char *db, struct ms_err *err);  /* returns once the database is let go of */
	enum ms_code (*resume)(void *arg, const char *db, struct ms_err *err);
	enum ms_code (*snapshot)(void *arg, const char *db, uint64_t *ret_txid, struct ms_err *err); /* started, or under way; state it will hold */
	enum ms_code (*takeover)(void *arg, const char *db, struct ms_err *err);
	enum ms_code (*shutdown)(void *arg, struct ms_err *err); /* asked for; does not wait */
};

struct ms_control_server;
/* Makes <shadow_dir>/control.sock (any length of path) and serves. A socket file left by a dead daemon is replaced; MS_EBUSY when
 * something still answers on it. The caller owns the shadow directory's lock. metrics_address: NULL or "host:port", ":port", "[v6]:port"; port 0 picks one. */
enum ms_code ms_control_server_new(struct ms_env *env, const char *shadow_dir, const char *metrics_address, const struct ms_control_ops *ops,
				   void *arg, struct ms_control_server **ret, struct ms_err *err) MS_WARN_UNUSED;
unsigned ms_control_server_metrics_port(const struct ms_control_server *s); /* 0 none */
/* From now on every request is answered 503 and waits end at once. Never blocks; any thread. Call it on the loop thread, make your ops
 * return MS_ECLOSED to whoever is blocked in one, and only then call free. */
void ms_control_server_close(struct ms_control_server *s);
/* Waits for requests under way, removes the socket. Not from a thread that an ops function waits for. Accepts NULL. */
void ms_control_server_free(struct ms_control_server *s);

#define MS_HEALTH_FAILING_US INT64_C(60000000) /* a replica may fail for so long, and be tried again, before that counts */
/* Why the daemon is not healthy, one line each into out; *ret_ok when nothing is wrong. Unhealthy: a database that is waiting, blocked, fenced,
 * failed or stopped; a required replica that is fenced, failed, or has been failing for MS_HEALTH_FAILING_US; a data-loss window past its threshold (thresholds[i] for s[i], 0 none). */
enum ms_code ms_health(const struct ms_stream_status *s, unsigned n, const int64_t *thresholds, int64_t now_us, struct ms_buf *out, bool *ret_ok,
		       struct ms_err *err) MS_WARN_UNUSED;

#endif
