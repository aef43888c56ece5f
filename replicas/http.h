/*
 * HTTP for the backends, on libcurl. A handle (struct ms_http) holds settings and can be cancelled; for the length of a call it borrows a client
 * (connections, name cache, sessions) from a pool that the whole process shares, so that ten thousand idle replicas keep no connection, and busy
 * ones reuse each other's. Pool: at most 8 idle clients of at most 4 idle connections each.
 *
 * Proxies follow libcurl's environment rules (https_proxy, http_proxy, all_proxy, no_proxy). HTTP/2 where the server offers it over TLS. Redirects are
 * never followed here. Several exchanges may be under way at once, all driven by the one thread that waits for them.
 *
 * Threads: a handle serves one thread at a time, except cancel(), which any thread may call; it lasts.
 * Errors: MS_ERETRY (refused, reset, cut short, not resolved), MS_ETIMEDOUT, MS_EAUTH (the server's certificate), MS_ECANCELED, MS_EPERMANENT. A status that
 * means failure is no error here.
 */
#ifndef MS_REPLICAS_HTTP_H
#define MS_REPLICAS_HTTP_H

#include "base/buf.h"
#include "replicas/replica.h"
#include "replicas/sigv4.h"

#define MS_HTTP_ANSWER_MAX (256u << 10) /* bytes of an answer that is collected, unless the exchange says otherwise */

struct ms_http_config {
	const char *ca_file; /* copied; NULL: the system's */
	bool insecure;	     /* certificates are not checked */
	bool no_proxy;	     /* never through a proxy (metadata services) */
	int64_t connect_us;
	int64_t stall_us; /* no byte for so long: MS_ETIMEDOUT; whole seconds, at least one */
};

struct ms_http_exchange {
	/* Request: borrowed until the exchange has ended. */
	const char *method, *url;
	const struct ms_sigv4_pair *headers;
	unsigned nheaders;
	const void *body; /* NULL: none */
	size_t body_len;
	/* Gets the body of a 2xx answer in order, status being known; a code it returns ends the exchange. NULL: collected in `answer`. */
	ms_get_cb sink;
	void *sink_arg;
	/* Answer. */
	int status;		/* 0 until it is known */
	struct ms_buf answer;	/* its limit may be set before the start; of other than 2xx answers more is dropped silently */
	struct ms_buf heads_;	/* "name\0value\0"..., names in lower case; at most 32 KiB */
	enum ms_code code;	/* once it has ended */
	struct ms_err err;
	/* Private. */
	struct ms_http *http_;
	struct ms_http_exchange *next_;
	void *easy_, *list_;
	char error_[256];
};
void ms_http_exchange_init(struct ms_http_exchange *x);
void ms_http_exchange_release(struct ms_http_exchange *x); /* drops it when it is under way */
const char *ms_http_header(const struct ms_http_exchange *x, const char *name); /* name in lower case; NULL: absent */

struct ms_http;
enum ms_code ms_http_new(const struct ms_http_config *c, struct ms_http **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_http_free(struct ms_http *h); /* accepts NULL; no call under way */
void ms_http_cancel(struct ms_http *h);
bool ms_http_cancelled(const struct ms_http *h);

/* A call: begin, exchanges, end. end() drops exchanges that are still under way. */
enum ms_code ms_http_begin(struct ms_http *h, struct ms_err *err) MS_WARN_UNUSED;
void ms_http_end(struct ms_http *h);
enum ms_code ms_http_start(struct ms_http *h, struct ms_http_exchange *x, struct ms_err *err) MS_WARN_UNUSED;
/* Moves what can be moved without waiting. */
void ms_http_pump(struct ms_http *h);
/* Waits until an exchange has ended (*ret), timeout_us has passed or none is under way (*ret NULL). timeout_us -1: no limit. */
enum ms_code ms_http_wait(struct ms_http *h, int64_t timeout_us, struct ms_http_exchange **ret, struct ms_err *err) MS_WARN_UNUSED;
/* Starts one and waits for it, while no other is under way. Its code and error are returned too. */
enum ms_code ms_http_run(struct ms_http *h, struct ms_http_exchange *x, struct ms_err *err) MS_WARN_UNUSED;

#endif
