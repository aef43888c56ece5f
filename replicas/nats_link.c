#include "replicas/nats_link.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLICE_NS 50000000L
/* One write of nats.c blocks this long at most before the connection is given up: the longest a cancelled call can take. A chunk in it: 26 KB/s. */
#define WRITE_DEADLINE_MS 5000

struct ms_nats_link {
	struct ms_nats_conf conf;
	unsigned refs; /* under `registry` */
	struct ms_nats_link *next;

	pthread_mutex_t mu;
	/* Under mu. */
	pthread_cond_t changed;
	struct ms_nats_conn *conn; /* a reference */
	bool connecting;
	uint64_t attempts;   /* rounds that have ended */
	unsigned first;	     /* server that the next round begins with */
	struct ms_err error; /* of the last round, MS_OK code when it succeeded */
};

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct ms_nats_link *links; /* under registry */
static _Atomic uint64_t serials;

void ms_nats_wait(pthread_cond_t *cond, pthread_mutex_t *mu) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += SLICE_NS;
	if (t.tv_nsec >= 1000000000L)
		t.tv_sec++, t.tv_nsec -= 1000000000L;
	pthread_cond_timedwait(cond, mu, &t);
}

struct ms_nats_link *ms_nats_link_get(struct ms_env *env, const struct ms_replica_spec *spec, const struct ms_nats_conf *c, struct ms_err *err) {
	pthread_mutex_lock(&registry);
	struct ms_nats_link *l = links;
	while (l && !ms_nats_conf_same_link(&l->conf, c))
		l = l->next;
	if (l) {
		l->refs++;
	} else if (!(l = calloc(1, sizeof *l))) {
		(void)ms_err_set(err, MS_ENOMEM, "nats replica");
	} else if (ms_nats_conf_init(&l->conf, env, spec, err)) {
		free(l);
		l = NULL;
	} else {
		pthread_mutex_init(&l->mu, NULL);
		pthread_cond_init(&l->changed, NULL);
		l->refs = 1;
		l->next = links;
		links = l;
	}
	pthread_mutex_unlock(&registry);
	return l;
}

void ms_nats_link_unref(struct ms_nats_link *l) {
	if (!l)
		return;
	pthread_mutex_lock(&registry);
	bool last = --l->refs == 0;
	if (last) {
		struct ms_nats_link **p = &links;
		while (*p != l)
			p = &(*p)->next;
		*p = l->next;
	}
	pthread_mutex_unlock(&registry);
	if (!last)
		return;
	ms_nats_conn_unref(l->conn);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->mu);
	ms_nats_conf_release(&l->conf);
	free(l);
}

void ms_nats_conn_unref(struct ms_nats_conn *c) {
	if (!c || atomic_fetch_sub(&c->refs, 1) != 1)
		return;
	natsConnection_Close(c->nc);
	for (unsigned i = 0; i < c->nended; i++)
		natsSubscription_Destroy(c->ended[i]);
	natsConnection_Destroy(c->nc);
	pthread_mutex_destroy(&c->mu);
	free(c->ended);
	free(c);
}

void ms_nats_conn_unsubscribe(struct ms_nats_conn *c, natsSubscription *sub, bool wait) {
	(void)natsSubscription_Unsubscribe(sub);
	if (wait && !atomic_load(&c->dead) && natsConnection_FlushTimeout(c->nc, 500) == NATS_OK) {
		natsSubscription_Destroy(sub);
		return;
	}
	pthread_mutex_lock(&c->mu);
	natsSubscription **grown = reallocarray(c->ended, c->nended + 1, sizeof(natsSubscription *));
	if (grown) {
		c->ended = grown;
		c->ended[c->nended++] = sub;
	} /* else it leaks, which is better than what might follow */
	pthread_mutex_unlock(&c->mu);
}

/* ---- one connection ---- */

static natsStatus sign(char **ret_error, unsigned char **ret_signature, int *ret_len, const char *nonce, void *closure) {
	(void)ret_error;
	return nats_Sign(((struct ms_nats_conf *)closure)->seed, nonce, ret_signature, ret_len);
}

/* nats.c would print to stderr. */
static void ignore_error(natsConnection *nc, natsSubscription *sub, natsStatus s, void *closure) { (void)nc, (void)sub, (void)s, (void)closure; }

static natsStatus set_options(natsOptions *o, struct ms_nats_conf *c, const struct ms_nats_server *s) {
	natsStatus st;
	if ((st = natsOptions_SetURL(o, s->url)) || (st = natsOptions_SetName(o, "migstream")) || (st = natsOptions_SetAllowReconnect(o, false)) ||
	    (st = natsOptions_SetTimeout(o, c->connect_timeout_us / 1000)) || (st = natsOptions_SetWriteDeadline(o, WRITE_DEADLINE_MS)) ||
	    (st = natsOptions_SetIgnoreDiscoveredServers(o, true)) || (st = natsOptions_SetSendAsap(o, true)) || (st = natsOptions_SetNoEcho(o, true)) ||
	    (st = natsOptions_SetErrorHandler(o, ignore_error, NULL)) || (st = natsOptions_SetPingInterval(o, 30000)))
		return st;
	if (c->username && (st = natsOptions_SetUserInfo(o, c->username, c->password ? c->password : "")))
		return st;
	if (c->token && (st = natsOptions_SetToken(o, c->token)))
		return st;
	if (c->creds && (st = natsOptions_SetUserCredentialsFromFiles(o, c->creds, NULL)))
		return st;
	if (c->seed && (st = natsOptions_SetNKey(o, c->public_key, sign, c)))
		return st;
	/* Also without `tls`: nats.c turns to TLS by itself where the server demands it. */
	if (!c->insecure && (st = natsOptions_SetExpectedHostname(o, c->server_name ? c->server_name : s->host)))
		return st;
	if (!c->tls)
		return NATS_OK;
	if ((st = natsOptions_SetSecure(o, true)))
		return st;
	for (unsigned i = 0; i < c->ncas; i++)
		if ((st = natsOptions_LoadCATrustedCertificates(o, c->cas[i])))
			return st;
	if (c->cert && (st = natsOptions_LoadCertificatesChain(o, c->cert, c->key)))
		return st;
	return c->insecure ? natsOptions_SkipServerVerification(o, true) : NATS_OK;
}

static enum ms_code explain(const struct ms_nats_server *s, natsStatus st, struct ms_err *err) {
	natsStatus last;
	const char *text = nats_GetLastError(&last), *where = s->url + 7;
	if (!text || !text[0])
		text = natsStatus_GetText(st);
	switch (st) {
	case NATS_CONNECTION_AUTH_FAILED:
	case NATS_NOT_PERMITTED:
		return ms_err_set(err, MS_EAUTH, "nats server %s refuses the login", where);
	case NATS_SECURE_CONNECTION_WANTED:
		return ms_err_set(err, MS_EPERMANENT, "nats server %s offers no TLS, which the configuration demands", where);
	case NATS_SECURE_CONNECTION_REQUIRED:
		return ms_err_set(err, MS_EPERMANENT, "nats server %s demands TLS: set tls: true, or rootCAs", where);
	case NATS_SSL_ERROR:
		return ms_err_set(err, MS_EAUTH, "nats server %s: TLS: %.200s (rootCAs, serverName, certFile and keyFile right?)", where, text);
	case NATS_TIMEOUT:
		return ms_err_set(err, MS_ETIMEDOUT, "nats server %s does not answer", where);
	case NATS_NO_MEMORY:
		return ms_err_set(err, MS_ENOMEM, "nats server %s", where);
	case NATS_INVALID_ARG:
	case NATS_ERR:
		return ms_err_set(err, MS_EPERMANENT, "nats server %s: %.200s", where, text);
	default:
		return ms_err_set(err, MS_ERETRY, "nats server %s: %.200s", where, text);
	}
}

static enum ms_code connect_one(struct ms_nats_conf *c, const struct ms_nats_server *s, struct ms_nats_conn **ret, struct ms_err *err) {
	natsOptions *o = NULL;
	natsConnection *nc = NULL;
	natsStatus st = natsOptions_Create(&o);
	if (!st)
		st = set_options(o, c, s);
	if (!st)
		st = natsConnection_Connect(&nc, o);
	enum ms_code rc = st ? explain(s, st, err) : MS_OK;
	natsOptions_Destroy(o);
	if (!rc && natsConnection_HasHeaderSupport(nc) != NATS_OK)
		rc = ms_err_set(err, MS_EUNSUPPORTED, "nats server %s is too old: it has no message headers (2.2 and later have)", s->url + 7);
	struct ms_nats_conn *conn = rc ? NULL : calloc(1, sizeof *conn);
	if (!rc && !conn)
		rc = ms_err_set(err, MS_ENOMEM, "nats server %s", s->url + 7);
	if (rc) {
		natsConnection_Destroy(nc);
		return rc;
	}
	conn->nc = nc;
	conn->serial = atomic_fetch_add(&serials, 1) + 1;
	conn->max_payload = natsConnection_GetMaxPayload(nc);
	atomic_init(&conn->refs, 1);
	pthread_mutex_init(&conn->mu, NULL);
	*ret = conn;
	return MS_OK;
}

static void *connector(void *arg) {
	struct ms_nats_link *l = arg;
	struct ms_nats_conn *conn = NULL;
	struct ms_err err = MS_ERR_INIT;
	unsigned at = l->first; /* written only here, and one connector runs at a time */
	for (unsigned i = 0; i < l->conf.nservers && !conn; i++, at++) {
		struct ms_err e = MS_ERR_INIT;
		if (connect_one(&l->conf, &l->conf.servers[at % l->conf.nservers], &conn, &e) && err.code != MS_EAUTH)
			err = e;
	}
	nats_ReleaseThreadMemory();
	pthread_mutex_lock(&l->mu);
	l->conn = conn;
	l->first = at % l->conf.nservers;
	l->error = conn ? MS_ERR_INIT : err;
	l->connecting = false;
	l->attempts++;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->mu);
	ms_nats_link_unref(l);
	return NULL;
}

static enum ms_code start_connector(struct ms_nats_link *l, struct ms_err *err) {
	pthread_t id;
	pthread_attr_t attr;
	pthread_mutex_lock(&registry);
	l->refs++;
	pthread_mutex_unlock(&registry);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int e = pthread_create(&id, &attr, connector, l);
	pthread_attr_destroy(&attr);
	if (!e)
		return MS_OK;
	pthread_mutex_lock(&registry);
	l->refs--; /* the caller has another */
	pthread_mutex_unlock(&registry);
	return ms_err_sys(err, e, MS_ENOMEM, "nats: a thread to connect");
}

enum ms_code ms_nats_link_connect(struct ms_nats_link *l, const atomic_bool *cancelled, struct ms_nats_conn **ret, struct ms_err *err) {
	struct ms_nats_conn *old = NULL;
	enum ms_code rc = MS_OK;
	pthread_mutex_lock(&l->mu);
	if (l->conn && atomic_load(&l->conn->dead)) {
		old = l->conn;
		l->conn = NULL;
	}
	uint64_t before = l->attempts;
	if (!l->conn && !l->connecting) {
		rc = start_connector(l, err);
		l->connecting = !rc;
	}
	while (!rc && !l->conn) {
		if (atomic_load(cancelled))
			rc = ms_err_set(err, MS_ECANCELED, "nats %s: the call was cancelled", l->conf.servers_text);
		else if (l->attempts != before)
			rc = ms_err_set(err, l->error.code ? l->error.code : MS_ERETRY, "%s", l->error.code ? l->error.msg : "nats: the connection was lost at once");
		else
			ms_nats_wait(&l->changed, &l->mu);
	}
	if (!rc) {
		atomic_fetch_add(&l->conn->refs, 1);
		*ret = l->conn;
	}
	pthread_mutex_unlock(&l->mu);
	ms_nats_conn_unref(old);
	return rc;
}
