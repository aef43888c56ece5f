/* What the SFTP tests share: a server, a replica handle on it, a login and what it says. For one test program at a time. */
#ifndef MS_TESTS_CONTRACT_SFTP_RIG_H
#define MS_TESTS_CONTRACT_SFTP_RIG_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "contract/contract.h"
#include "replicas/url.h"
#include "support/skip.h"
#include "support/sshd.h"
#include "support/tmpdir.h"

static struct ms_env *env;
static struct ms_sshd server;

static inline void setup(void) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "%s", err.msg);
	env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env, "%s", err.msg);
	/* Nothing of who runs the test. */
	unsetenv("SSH_AUTH_SOCK");
	unsetenv("MIGSTREAM_SFTP_PASSWORD");
	unsetenv("MIGSTREAM_SFTP_KEY_PASSPHRASE");
}

static inline void teardown(void) {
	ms_sshd_stop(&server);
	ms_env_uv_free(env);
}

/* A server with the user's key `id` let in and its own keys in `known_hosts`. false: skipped, loudly. */
static inline bool start(const char *test, bool privileged, const char *config) {
	const char *why;
	if (!ms_sshd_usable(privileged, &why)) {
		ms_test_skipped(test, why);
		cr_skip_test("%s", why);
	}
	const char *tmp = ms_test_tmpdir();
	ms_sshd_start(&server, tmp, privileged, config);
	setenv("HOME", server.dir, 1);
	ms_sshd_sh(&server, "ssh-keygen -q -t ed25519 -N '' -f id && cat id.pub >>authorized_keys && "
			    "for k in host_*.pub; do echo \"[127.0.0.1]:%u $(cut -d' ' -f1,2 $k)\"; done >known_hosts", server.port);
	return true;
}

/* options: "&key=value..." in the URL; the rest as for open_at(). */
static inline enum ms_code open_url(unsigned port, const char *dir, const char *options, struct ms_replica **ret, struct ms_err *err) {
	struct ms_replica_spec spec = {0};
	char url[3000];
	snprintf(url, sizeof url, "sftp://%s@127.0.0.1:%u%s/%s?create=true%s%s%s", server.user, port, server.store, dir, strstr(options, "knownHostsPath=") ||
		 strstr(options, "hostKey=") ? "" : "&knownHostsPath=", strstr(options, "knownHostsPath=") || strstr(options, "hostKey=") ? "" : server.dir,
		 strstr(options, "knownHostsPath=") || strstr(options, "hostKey=") ? "" : "/known_hosts");
	strncat(url, options, sizeof url - strlen(url) - 1);
	enum ms_code rc = ms_url_parse(url, &spec, err);
	if (!rc)
		rc = ms_replica_open(env, &spec, ret, err);
	ms_replica_spec_release(&spec);
	return rc;
}

static inline struct ms_replica *open_with(unsigned port, const char *dir, const char *options) {
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	char with_key[1500];
	snprintf(with_key, sizeof with_key, "%s%s%s%s", options, strstr(options, "keyPath=") ? "" : "&keyPath=", strstr(options, "keyPath=") ? "" : server.dir,
		 strstr(options, "keyPath=") ? "" : "/id");
	cr_assert_eq(open_url(port, dir, with_key, &r, &err), MS_OK, "%s", err.msg);
	return r;
}

/* What a first call says. */
static inline enum ms_code try_login(const char *options, struct ms_err *err) {
	struct ms_replica *r = NULL;
	*err = MS_ERR_INIT;
	enum ms_code rc = open_url(server.port, "login", options, &r, err);
	if (!rc)
		rc = ms_replica_put_mem(r, "a", "x", 1, err);
	if (rc == MS_EEXISTS)
		rc = MS_OK;
	ms_replica_close(r);
	return rc;
}
#define LOGIN_OK(...)                                                                                                                                \
	do {                                                                                                                                         \
		char options_[1500];                                                                                                                 \
		struct ms_err err_;                                                                                                                  \
		snprintf(options_, sizeof options_, __VA_ARGS__);                                                                                    \
		cr_expect_eq(try_login(options_, &err_), MS_OK, "%s: %s", options_, err_.msg);                                                       \
	} while (0)
#define LOGIN_FAILS(code, text, ...)                                                                                                                 \
	do {                                                                                                                                         \
		char options_[1500];                                                                                                                 \
		struct ms_err err_;                                                                                                                  \
		snprintf(options_, sizeof options_, __VA_ARGS__);                                                                                    \
		enum ms_code got_ = try_login(options_, &err_);                                                                                      \
		cr_expect_eq(got_, code, "%s: %s (%s)", options_, ms_code_name(got_), err_.msg);                                                     \
		cr_expect(strstr(err_.msg, text), "%s: '%s' lacks '%s'", options_, err_.msg, text);                                                  \
	} while (0)

static inline uint64_t now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A directory for each case. */
struct store {
	const char *name, *options;
};

static inline enum ms_code open_store(struct ms_contract *c, struct ms_replica **ret, struct ms_err *err) {
	struct store *s = c->arg;
	char options[900];
	snprintf(options, sizeof options, "&keyPath=%s/id%s", server.dir, s->options);
	return open_url(server.port, s->name, options, ret, err);
}

static inline void plant(struct ms_contract *c, const char *name, const void *data, size_t len) {
	char path[1200];
	snprintf(path, sizeof path, "%s/%s/%s", server.store, ((struct store *)c->arg)->name, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0644);
	cr_assert(fd >= 0 && write(fd, data, len) == (ssize_t)len, "%s", path);
	close(fd);
}

/* only: one case; NULL: all. */
static inline void run_contract(const char *options, const char *only, unsigned races, unsigned large_mb) {
	for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
		struct store s = {k->name, options};
		if (only && strcmp(only, k->name) != 0)
			continue;
		struct ms_contract c = {.env = env,	   .open = open_store,		 .plant = plant,	    .listed = 1200,
					.races = races, .large = (uint64_t)large_mb << 20, .across_processes = true, .arg = &s};
		uint64_t began = now_ms();
		k->run(&c);
		cr_expect(!c.failed, "%s: %s", k->name, c.why);
		if (getenv("MS_TIMES"))
			fprintf(stderr, "%-12s %llu ms\n", k->name, (unsigned long long)(now_ms() - began));
	}
}

#endif
