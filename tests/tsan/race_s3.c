/*
 * Races of what S3 handles share in a process: the pool of HTTP clients, what is known of a bucket, the budget of parts. Eight threads with handles of their
 * own, opened and closed all the time, against a server of a few lines; every last handle is cancelled by another thread in the middle.
 */
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replicas/replica.h"
#include "replicas/url.h"

#define THREADS 8
#define ROUNDS 12
#define LARGE (6u << 20)

static struct ms_env *env;
static char url[256];
static atomic_uint failures, done, cancelled;
static uint8_t *large;

/* Every name is free but the probe's, every object is "0123456789". */
static enum MHD_Result serve(void *arg, struct MHD_Connection *c, const char *path, const char *method, const char *version, const char *upload, size_t *n,
			     void **state) {
	static int seen;
	(void)arg, (void)version, (void)upload;
	if (!*state) {
		*state = &seen;
		return MHD_YES;
	}
	if (*n) {
		*n = 0;
		return MHD_YES;
	}
	const char *text = "", *id = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "uploadId");
	unsigned status = 200;
	bool probe = strstr(path, ".migstream-probe") != NULL;
	if (strcmp(method, "GET") == 0)
		text = "0123456789";
	else if (strcmp(method, "HEAD") == 0)
		status = 404;
	else if (strcmp(method, "DELETE") == 0)
		status = 204;
	else if (strcmp(method, "POST") == 0 && !id)
		text = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
	else if (strcmp(method, "POST") == 0)
		status = probe ? 412 : 200, text = "<CompleteMultipartUploadResult/>";
	else if (probe && !id)
		status = 412;
	struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
	MHD_add_response_header(r, "ETag", "\"e\"");
	enum MHD_Result ok = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return ok;
}

static struct ms_replica *open_one(void) {
	struct ms_replica_spec spec = {0};
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	if (ms_url_parse(url, &spec, &err) || ms_replica_open(env, &spec, &r, &err)) {
		fprintf(stderr, "open: %s\n", err.msg);
		exit(1);
	}
	ms_replica_spec_release(&spec);
	return r;
}

static void want(const char *what, enum ms_code rc, const struct ms_err *err) {
	if (rc && atomic_fetch_add(&failures, 1) < 5)
		fprintf(stderr, "%s: %s\n", what, err->msg);
}

static enum ms_code sum(void *arg, const void *data, size_t n, struct ms_err *err) {
	(void)err, (void)data;
	*(size_t *)arg += n;
	return MS_OK;
}

static void *client(void *arg) {
	unsigned me = (unsigned)(uintptr_t)arg;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct ms_replica *r = open_one();
		struct ms_replica_caps caps;
		struct ms_err err = MS_ERR_INIT;
		char name[64];
		size_t got = 0;
		ms_replica_caps(r, &caps);
		snprintf(name, sizeof name, "a/%u/%u", me, i);
		want("put", ms_replica_put_mem(r, name, "x", 1, &err), &err);
		want("get", ms_replica_get(r, name, 0, -1, sum, &got, &err), &err);
		want("remove", ms_replica_remove(r, name, &err), &err);
		if (got != 10 || !caps.create_if_absent)
			atomic_fetch_add(&failures, 1);
		if (i % 4 == 3)
			want("put in parts", ms_replica_put_mem(r, name, large, LARGE, &err), &err);
		ms_replica_close(r);
		atomic_fetch_add(&done, 1);
	}
	return NULL;
}

static void *cancel_later(void *arg) {
	usleep(20000);
	ms_replica_cancel(arg);
	return NULL;
}

static void *until_cancelled(void *arg) {
	struct ms_replica *r = open_one();
	struct ms_err err = MS_ERR_INIT;
	pthread_t t;
	enum ms_code rc = MS_OK;
	(void)arg;
	if (pthread_create(&t, NULL, cancel_later, r))
		abort();
	while (!rc)
		rc = ms_replica_put_mem(r, "b/x", large, LARGE, &err);
	if (rc == MS_ECANCELED)
		atomic_fetch_add(&cancelled, 1);
	else
		want("cancelled put", rc, &err);
	pthread_join(t, NULL);
	ms_replica_close(r);
	return NULL;
}

int main(void) {
	struct ms_err err = MS_ERR_INIT;
	pthread_t id[THREADS];
	setenv("AWS_ACCESS_KEY_ID", "a", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "b", 1);
	unsetenv("http_proxy");
	large = calloc(1, LARGE);
	struct MHD_Daemon *d = MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, serve, NULL, MHD_OPTION_END);
	const union MHD_DaemonInfo *info = d ? MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT) : NULL;
	if (!info || !large || ms_replicas_register_builtin(&err) || !(env = ms_env_uv_new(NULL, &err))) {
		fprintf(stderr, "set-up failed: %s\n", err.msg);
		return 1;
	}
	snprintf(url, sizeof url, "s3://race/p?endpoint=http://127.0.0.1:%u&partSize=5MiB&region=r", info->port);
	for (unsigned i = 0; i < THREADS; i++)
		if (pthread_create(&id[i], NULL, client, (void *)(uintptr_t)i))
			abort();
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(id[i], NULL);
	for (unsigned i = 0; i < THREADS; i++)
		if (pthread_create(&id[i], NULL, until_cancelled, NULL))
			abort();
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(id[i], NULL);
	ms_env_uv_free(env);
	MHD_stop_daemon(d);
	free(large);
	if (atomic_load(&failures) || atomic_load(&done) != THREADS * ROUNDS || atomic_load(&cancelled) != THREADS) {
		fprintf(stderr, "%u failures, %u rounds, %u cancelled\n", atomic_load(&failures), atomic_load(&done), atomic_load(&cancelled));
		return 1;
	}
	return 0;
}
