/*
 * The other end of the control socket: one request, by libcurl over the Unix socket. Blocking.
 */
#ifndef MS_CMD_CONTROL_CLIENT_H
#define MS_CMD_CONTROL_CLIENT_H

#include <jansson.h>
#include "base/buf.h"
#include "cmd/shadow.h"

/* A query parameter; the list ends with key == NULL. */
struct ms_param {
	const char *key, *value;
};

/* GET (post false) or POST path with params. MS_OK: 2xx with a JSON object in *ret (caller's). MS_ECLOSED: nobody listens there (no socket,
 * or a dead one). Otherwise the daemon's own error, code and text. timeout_us 0 = none. */
enum ms_code ms_control_call(const char *socket_path, bool post, const char *path, const struct ms_param *params, int64_t timeout_us, json_t **ret,
			     struct ms_err *err) MS_WARN_UNUSED;

/* How a command names a database to a daemon: a configured name as it is, a path as its canonical form. */
enum ms_code ms_control_db(const struct ms_target *t, const char *db, char ret[MS_PATH_MAX], struct ms_err *err) MS_WARN_UNUSED;
/* ms_control_call() for one database of the target found by the command's options; MS_ECLOSED says how to start a daemon. */
enum ms_code ms_control_call_db(const struct ms_args *a, const char *db, bool post, const char *path, const struct ms_param *params,
				int64_t timeout_us, json_t **ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
