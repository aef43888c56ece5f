/*
 * Races of replica handles: several threads, each with a handle of its own on the same directory, put, get, list and remove the same
 * names, and every handle is cancelled by another thread in the end. Of the puts of one name exactly one may win.
 */
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replicas/replica.h"
#include "replicas/url.h"

#define THREADS 4
#define NAMES 60

static struct ms_env *env;
static char url[256];
static struct ms_replica *handles[THREADS];
static atomic_uint wins[NAMES], failures;
static pthread_barrier_t barrier;

static enum ms_code same(void *arg, const void *data, size_t n, struct ms_err *err) {
	(void)err;
	const unsigned char *p = data;
	unsigned *sum = arg;
	for (size_t i = 0; i < n; i++)
		*sum += p[i] == p[0];
	return MS_OK;
}

static bool count(void *arg, const struct ms_object *o) {
	(void)o;
	++*(unsigned *)arg;
	return true;
}

static void failed(const char *what, const struct ms_err *err) {
	if (atomic_fetch_add(&failures, 1) < 5)
		fprintf(stderr, "%s: %s\n", what, err->msg);
}

static void *client(void *arg) {
	unsigned me = (unsigned)(uintptr_t)arg;
	struct ms_replica *r = handles[me];
	unsigned char body[5000];
	memset(body, 'a' + (int)me, sizeof body);
	for (unsigned i = 0; i < NAMES; i++) {
		char name[64];
		struct ms_err err = MS_ERR_INIT;
		unsigned equal = 0, listed = 0;
		snprintf(name, sizeof name, "dir%u/object%u", i % 3, i);
		pthread_barrier_wait(&barrier);
		enum ms_code code = ms_replica_put_mem(r, name, body, sizeof body, &err);
		if (code == MS_OK)
			atomic_fetch_add(&wins[i], 1);
		else if (code != MS_EEXISTS)
			failed("put", &err);
		err = MS_ERR_INIT;
		if (ms_replica_get(r, name, 0, -1, same, &equal, &err) || equal != sizeof body)
			failed("get", &err);
		if (ms_replica_list(r, "dir", "", count, &listed, &err) || listed < i + 1)
			failed("list", &err);
	}
	pthread_barrier_wait(&barrier);
	/* Cancelled by the neighbour while a listing may be under way: either outcome is right, once; afterwards it stays cancelled. */
	struct ms_err err = MS_ERR_INIT;
	unsigned listed = 0;
	ms_replica_cancel(handles[(me + 1) % THREADS]);
	enum ms_code code = ms_replica_list(r, "", "", count, &listed, &err);
	if (code != MS_OK && code != MS_ECANCELED)
		failed("list after cancel", &err);
	pthread_barrier_wait(&barrier);
	err = MS_ERR_INIT;
	if (ms_replica_list(r, "", "", count, &listed, &err) != MS_ECANCELED)
		failed("a cancelled handle went on", &err);
	return NULL;
}

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

int main(void) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica_spec spec = {0};
	char dir[] = "/tmp/ms-race-XXXXXX";
	pthread_t threads[THREADS];
	if (!mkdtemp(dir))
		return 1;
	snprintf(url, sizeof url, "file://%s?create=true", dir);
	env = ms_env_uv_new((const unsigned[MS_LANE_COUNT]){0}, &err);
	if (!env || ms_replicas_register_builtin(&err) || ms_url_parse(url, &spec, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (unsigned i = 0; i < THREADS; i++)
		if (ms_replica_open(env, &spec, &handles[i], &err)) {
			fprintf(stderr, "%s\n", err.msg);
			return 1;
		}
	for (unsigned i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, client, (void *)(uintptr_t)i))
			return 1;
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < THREADS; i++)
		ms_replica_close(handles[i]);
	for (unsigned i = 0; i < NAMES; i++)
		if (atomic_load(&wins[i]) != 1) {
			fprintf(stderr, "object %u was created %u times\n", i, atomic_load(&wins[i]));
			atomic_fetch_add(&failures, 1);
		}
	ms_replica_spec_release(&spec);
	ms_env_uv_free(env);
	nftw(dir, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
	return atomic_load(&failures) ? 1 : 0;
}
