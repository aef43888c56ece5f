/*
 * Clients are curl multi handles: they hold the connections. A client that was made before a fork() is never used (nor closed) in the child, which
 * would write into its parent's connections.
 */
#include "replicas/http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#define POOL_IDLE_MAX 8
#define CLIENT_CONNECTIONS 4
#define HEADS_MAX (32u << 10)
#define POLL_MS 500

struct client {
	CURLM *multi;
	pid_t pid;
};

static struct {
	pthread_mutex_t lock;
	struct client *idle[POOL_IDLE_MAX];
	unsigned n;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct ms_http {
	char *ca_file;
	bool insecure, no_proxy;
	long connect_ms, stall_s;
	atomic_bool cancelled;
	struct ms_http_exchange *active; /* under way or ended and not yet fetched */
	pthread_mutex_t lock;		 /* of client, for cancel() */
	struct client *client;
};

static pthread_once_t global_once = PTHREAD_ONCE_INIT;
static bool global_ok;

static void global_init(void) { global_ok = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK; }

/* ---- pool ---- */

static struct client *client_take(struct ms_err *err) {
	struct client *c = NULL;
	pid_t pid = getpid();
	pthread_mutex_lock(&pool.lock);
	while (pool.n && !c) {
		c = pool.idle[--pool.n];
		if (c->pid != pid)
			c = NULL; /* the parent's: left alone */
	}
	pthread_mutex_unlock(&pool.lock);
	if (c)
		return c;
	c = calloc(1, sizeof *c);
	if (!c || !(c->multi = curl_multi_init())) {
		free(c);
		(void)ms_err_set(err, MS_ENOMEM, "HTTP client");
		return NULL;
	}
	c->pid = pid;
	curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)CLIENT_CONNECTIONS);
	return c;
}

static void client_give(struct client *c) {
	bool kept = false;
	pthread_mutex_lock(&pool.lock);
	if (pool.n < POOL_IDLE_MAX) {
		pool.idle[pool.n++] = c;
		kept = true;
	}
	pthread_mutex_unlock(&pool.lock);
	if (!kept) {
		curl_multi_cleanup(c->multi);
		free(c);
	}
}

/* ---- handles ---- */

enum ms_code ms_http_new(const struct ms_http_config *c, struct ms_http **ret, struct ms_err *err) {
	pthread_once(&global_once, global_init);
	if (!global_ok)
		return ms_err_set(err, MS_EPERMANENT, "libcurl cannot be initialised");
	struct ms_http *h = calloc(1, sizeof *h);
	if (!h || (c->ca_file && !(h->ca_file = strdup(c->ca_file)))) {
		free(h);
		return ms_err_set(err, MS_ENOMEM, "HTTP client");
	}
	h->insecure = c->insecure;
	h->no_proxy = c->no_proxy;
	h->connect_ms = (long)(c->connect_us / 1000);
	h->stall_s = (long)((c->stall_us + 999999) / 1000000);
	if (h->stall_s < 1)
		h->stall_s = 1;
	pthread_mutex_init(&h->lock, NULL);
	*ret = h;
	return MS_OK;
}

void ms_http_free(struct ms_http *h) {
	if (!h)
		return;
	ms_http_end(h);
	pthread_mutex_destroy(&h->lock);
	free(h->ca_file);
	free(h);
}

void ms_http_cancel(struct ms_http *h) {
	atomic_store(&h->cancelled, true);
	pthread_mutex_lock(&h->lock);
	if (h->client)
		curl_multi_wakeup(h->client->multi);
	pthread_mutex_unlock(&h->lock);
}

bool ms_http_cancelled(const struct ms_http *h) { return atomic_load(&h->cancelled); }

enum ms_code ms_http_begin(struct ms_http *h, struct ms_err *err) {
	if (atomic_load(&h->cancelled))
		return ms_err_set(err, MS_ECANCELED, "the call was cancelled");
	if (h->client)
		return ms_err_set(err, MS_EINVAL, "an HTTP handle is used twice at once");
	struct client *c = client_take(err);
	if (!c)
		return MS_ENOMEM;
	pthread_mutex_lock(&h->lock);
	h->client = c;
	pthread_mutex_unlock(&h->lock);
	return MS_OK;
}

/* ---- exchanges ---- */

void ms_http_exchange_init(struct ms_http_exchange *x) {
	*x = (struct ms_http_exchange){.err = MS_ERR_INIT};
	ms_buf_init(&x->answer, MS_HTTP_ANSWER_MAX);
	ms_buf_init(&x->heads_, HEADS_MAX);
}

static void detach(struct ms_http_exchange *x) {
	struct ms_http *h = x->http_;
	if (h) {
		struct ms_http_exchange **p = &h->active;
		while (*p && *p != x)
			p = &(*p)->next_;
		if (*p)
			*p = x->next_;
	}
	if (x->easy_ && h && h->client)
		curl_multi_remove_handle(h->client->multi, x->easy_);
	if (x->easy_)
		curl_easy_cleanup(x->easy_);
	curl_slist_free_all(x->list_);
	x->easy_ = x->list_ = NULL;
	x->http_ = NULL;
	x->next_ = NULL;
}

void ms_http_exchange_release(struct ms_http_exchange *x) {
	detach(x);
	ms_buf_release(&x->answer);
	ms_buf_release(&x->heads_);
}

void ms_http_end(struct ms_http *h) {
	while (h->active) {
		h->active->code = ms_err_set(&h->active->err, MS_ECANCELED, "the exchange was dropped");
		detach(h->active);
	}
	pthread_mutex_lock(&h->lock);
	struct client *c = h->client;
	h->client = NULL;
	pthread_mutex_unlock(&h->lock);
	if (c)
		client_give(c);
}

const char *ms_http_header(const struct ms_http_exchange *x, const char *name) {
	const char *found = NULL;
	for (size_t i = 0; i < x->heads_.len;) {
		const char *n = (const char *)x->heads_.data + i, *v = n + strlen(n) + 1;
		if (strcmp(n, name) == 0)
			found = v;
		i += strlen(n) + strlen(v) + 2;
	}
	return found;
}

static size_t on_header(char *line, size_t one, size_t n, void *arg) {
	struct ms_http_exchange *x = arg;
	n *= one;
	if (n >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* what came before was an interim answer's */
		ms_buf_clear(&x->heads_);
		return n;
	}
	char *colon = memchr(line, ':', n);
	if (!colon || memchr(line, '\0', n))
		return n;
	const char *v = colon + 1, *end = line + n;
	while (v < end && (*v == ' ' || *v == '\t'))
		v++;
	while (end > v && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\t'))
		end--;
	size_t nname = (size_t)(colon - line), nvalue = (size_t)(end - v);
	if (ms_buf_reserve(&x->heads_, nname + nvalue + 2, NULL))
		return n; /* beyond the bound: the rest is not seen */
	uint8_t *p = x->heads_.data + x->heads_.len;
	for (size_t i = 0; i < nname; i++)
		p[i] = (uint8_t)(line[i] >= 'A' && line[i] <= 'Z' ? line[i] | 0x20 : line[i]);
	p[nname] = '\0';
	memcpy(p + nname + 1, v, nvalue);
	p[nname + 1 + nvalue] = '\0';
	x->heads_.len += nname + nvalue + 2;
	return n;
}

static void note_status(struct ms_http_exchange *x) {
	long status = 0;
	if (!x->status && curl_easy_getinfo(x->easy_, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK)
		x->status = (int)status;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg) {
	struct ms_http_exchange *x = arg;
	n *= one;
	note_status(x);
	bool good = x->status >= 200 && x->status < 300;
	if (atomic_load(&x->http_->cancelled))
		return CURL_WRITEFUNC_ERROR;
	if (good && x->sink) {
		x->code = x->sink(x->sink_arg, data, n, &x->err);
		return x->code ? CURL_WRITEFUNC_ERROR : n;
	}
	size_t room = x->answer.limit - x->answer.len, take = n < room ? n : room;
	if (take < n && good) {
		x->code = ms_err_set(&x->err, MS_EPERMANENT, "the answer is larger than %zu bytes", x->answer.limit);
		return CURL_WRITEFUNC_ERROR;
	}
	if ((x->code = ms_buf_append(&x->answer, data, take, &x->err)))
		return CURL_WRITEFUNC_ERROR;
	return n;
}

static bool set_headers(struct ms_http_exchange *x) {
	/* Neither is wanted: no server needs the first, and some do not know the second. */
	static const char *const off[] = {"Content-Type:", "Expect:", "Accept:"};
	struct ms_buf line;
	bool ok = true;
	ms_buf_init(&line, HEADS_MAX);
	for (unsigned i = 0; ok && i < sizeof off / sizeof off[0] + x->nheaders; i++) {
		const char *text = i < 3 ? off[i] : NULL;
		if (!text) {
			const struct ms_sigv4_pair *p = &x->headers[i - 3];
			ms_buf_clear(&line);
			/* A header without value is written with ';'. */
			ok = ms_buf_printf(&line, NULL, p->value[0] ? "%s: %s" : "%s;%s", p->name, p->value) == MS_OK && ms_buf_u8(&line, 0, NULL) == MS_OK;
			text = (const char *)line.data;
			ok = ok && !strpbrk(text, "\r\n");
		}
		struct curl_slist *grown = ok ? curl_slist_append(x->list_, text) : NULL;
		ok = grown != NULL;
		if (grown)
			x->list_ = grown;
	}
	ms_buf_release(&line);
	return ok;
}

enum ms_code ms_http_start(struct ms_http *h, struct ms_http_exchange *x, struct ms_err *err) {
	if (atomic_load(&h->cancelled))
		return ms_err_set(err, MS_ECANCELED, "the call was cancelled");
	detach(x);
	x->status = 0;
	x->code = MS_OK;
	x->err = MS_ERR_INIT;
	x->error_[0] = '\0';
	ms_buf_clear(&x->answer);
	ms_buf_clear(&x->heads_);
	CURL *e = x->easy_ = curl_easy_init();
	if (!e || !set_headers(x)) {
		detach(x);
		return ms_err_set(err, MS_ENOMEM, "HTTP request");
	}
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_PRIVATE, x);
	curl_easy_setopt(e, CURLOPT_URL, x->url);
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, x->list_);
	curl_easy_setopt(e, CURLOPT_USERAGENT, "migstream/" MS_VERSION);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, x->error_);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, h->connect_ms);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, h->stall_s);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 128L << 10);
	curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, 256L << 10);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
	if (h->ca_file)
		curl_easy_setopt(e, CURLOPT_CAINFO, h->ca_file);
	if (h->insecure) {
		curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (h->no_proxy)
		curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
	if (x->body) {
		curl_easy_setopt(e, CURLOPT_POST, 1L);
		curl_easy_setopt(e, CURLOPT_POSTFIELDS, x->body);
		curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)x->body_len);
	} else if (strcmp(x->method, "HEAD") == 0) {
		curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
	}
	curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, x->method);
	x->http_ = h;
	x->next_ = h->active;
	h->active = x;
	if (curl_multi_add_handle(h->client->multi, e) != CURLM_OK) {
		detach(x);
		return ms_err_set(err, MS_ENOMEM, "HTTP request");
	}
	return MS_OK;
}

static const char *origin(const char *url, char ret[300]) {
	const char *p = strstr(url, "://");
	size_t n = p ? (size_t)(p + 3 - url) + strcspn(p + 3, "/?") : 0;
	snprintf(ret, 300, "%.*s", (int)(n < 299 ? n : 299), url);
	return ret;
}

static void ended(struct ms_http_exchange *x, CURLcode c) {
	char at[300];
	const char *text = x->error_[0] ? x->error_ : curl_easy_strerror(c);
	note_status(x);
	if (x->code) /* the sink's own, or our bound */
		return;
	if (atomic_load(&x->http_->cancelled) && c != CURLE_OK) {
		x->code = ms_err_set(&x->err, MS_ECANCELED, "the call was cancelled");
		return;
	}
	origin(x->url, at);
	switch (c) {
	case CURLE_OK:
		return;
	case CURLE_OUT_OF_MEMORY:
		x->code = ms_err_set(&x->err, MS_ENOMEM, "%s: out of memory", at);
		return;
	case CURLE_OPERATION_TIMEDOUT:
		x->code = ms_err_set(&x->err, MS_ETIMEDOUT, "%s: %s", at, text);
		return;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
		x->code = ms_err_set(&x->err, MS_EAUTH, "%s: the server's certificate is not trusted: %s (name its authority with caFile)", at, text);
		return;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_NOT_BUILT_IN:
	case CURLE_BAD_FUNCTION_ARGUMENT:
		x->code = ms_err_set(&x->err, MS_EPERMANENT, "%s: %s", at, text);
		return;
	default: /* refused, reset, not resolved, cut short, nonsense instead of HTTP */
		x->code = ms_err_set(&x->err, MS_ERETRY, "%s: %s", at, text);
	}
}

void ms_http_pump(struct ms_http *h) {
	int running;
	if (h->active)
		(void)curl_multi_perform(h->client->multi, &running);
}

/* One that has ended, taken off; NULL: none. */
static struct ms_http_exchange *fetch(struct ms_http *h) {
	CURLMsg *m;
	int left;
	while ((m = curl_multi_info_read(h->client->multi, &left))) {
		struct ms_http_exchange *x = NULL;
		if (m->msg != CURLMSG_DONE || curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&x) != CURLE_OK || !x)
			continue;
		ended(x, m->data.result);
		detach(x);
		return x;
	}
	return NULL;
}

enum ms_code ms_http_wait(struct ms_http *h, int64_t timeout_us, struct ms_http_exchange **ret, struct ms_err *err) {
	int64_t left_ms = timeout_us < 0 ? INT64_MAX : (timeout_us + 999) / 1000;
	for (;;) {
		int running = 0;
		CURLMcode c = h->active ? curl_multi_perform(h->client->multi, &running) : CURLM_OK;
		if (c)
			return ms_err_set(err, c == CURLM_OUT_OF_MEMORY ? MS_ENOMEM : MS_EPERMANENT, "libcurl: %s", curl_multi_strerror(c));
		if (atomic_load(&h->cancelled))
			return ms_err_set(err, MS_ECANCELED, "the call was cancelled");
		if ((*ret = h->active ? fetch(h) : NULL) || left_ms <= 0 || (!h->active && timeout_us < 0))
			return MS_OK;
		int ms = left_ms < POLL_MS ? (int)left_ms : POLL_MS;
		if (curl_multi_poll(h->client->multi, NULL, 0, ms, NULL) != CURLM_OK)
			return ms_err_set(err, MS_ENOMEM, "libcurl: poll");
		/* Only without limit is it no matter that a poll may end early: a caller with one comes again. */
		if (left_ms != INT64_MAX)
			left_ms -= ms;
	}
}

enum ms_code ms_http_run(struct ms_http *h, struct ms_http_exchange *x, struct ms_err *err) {
	struct ms_http_exchange *done = NULL;
	enum ms_code rc = ms_http_start(h, x, err);
	if (!rc && !(rc = ms_http_wait(h, -1, &done, err)) && done != x)
		rc = ms_err_set(err, MS_EINVAL, "another HTTP exchange is under way");
	if (rc) {
		detach(x);
		return rc;
	}
	if (x->code && err)
		*err = x->err;
	return x->code;
}
