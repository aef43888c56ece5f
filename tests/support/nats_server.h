/*
 * nats-server for tests: found on PATH, in /usr/sbin or where scripts/setup puts it; started on free ports of 127.0.0.1 with its data in a
 * temporary directory, and killed by its pid. One thread. Failures end the test program.
 */
#ifndef MS_TESTS_NATS_SERVER_H
#define MS_TESTS_NATS_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct nats_server {
	char dir[256]; /* config, log, data/ */
	int port, route_port;
	pid_t pid; /* 0: not running */
};

/* False: there is none; said by ms_test_skipped(). The plain one is Debian's (2.9). */
bool nats_server_available(const char *what_is_skipped);
/* From now on servers are of the newer version that scripts/setup builds (nats-server-new). */
bool nats_server_use_new(const char *what_is_skipped);
/* The NATS project's own object-store client (tests/support/natspeer). */
bool nats_peer_available(const char *what_is_skipped);
/* Runs it with these shell words; its standard output, cut at cap, goes to ret. Returns its exit code. */
int nats_peer(char *ret, size_t cap, const char *args, ...) __attribute__((format(printf, 3, 4)));
/* config: what follows "listen" and "jetstream" in the configuration file; NULL: nothing. Returns when the port answers. */
void nats_server_start(struct nats_server *s, const char *config);
void nats_server_again(struct nats_server *s); /* with the same configuration and data */
void nats_server_kill(struct nats_server *s);  /* SIGKILL */
/* Three of them, one cluster; returns when it has a leader (a bucket of three replicas can be made). */
void nats_cluster_start(struct nats_server s[3]);
/* Runs a program to its end; its exit code, 127 when it cannot be started. */
int nats_run(const char *const argv[]);

#endif
