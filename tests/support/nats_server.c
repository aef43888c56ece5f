#include "support/nats_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/ports.h"
#include "support/skip.h"
#include "support/tmpdir.h"

extern char **environ;

static void die(const char *what, const char *which) {
	fprintf(stderr, "nats_server: %s %s: %s\n", what, which, strerror(errno));
	abort();
}

static const char *server_program = "nats-server";

static bool find(const char *program, char path[512]) {
	char dirs[4096];
	const char *env = getenv("PATH"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	snprintf(dirs, sizeof dirs, "%s:/usr/sbin:%s%s/migstream/bin", env ? env : "/usr/bin", cache ? cache : home ? home : "/root", cache ? "" : "/.cache");
	char *save = NULL;
	for (char *d = strtok_r(dirs, ":", &save); d; d = strtok_r(NULL, ":", &save)) {
		snprintf(path, 512, "%.460s/%.40s", d, program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static bool available(const char *program, const char *what) {
	char path[512], why[160];
	if (find(program, path))
		return true;
	snprintf(why, sizeof why, "no %s (scripts/setup tests %s)", program, strcmp(program, "nats-server") == 0 ? "fetches it" : "builds it, where go is on the PATH");
	ms_test_skipped(what, why);
	return false;
}

bool nats_server_available(const char *what) { return available("nats-server", what); }

bool nats_server_use_new(const char *what) {
	if (!available("nats-server-new", what))
		return false;
	server_program = "nats-server-new";
	return true;
}

bool nats_peer_available(const char *what) { return available("nats-peer", what); }

int nats_peer(char *ret, size_t cap, const char *fmt, ...) {
	char path[512], args[1600], cmd[2200];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(args, sizeof args, fmt, ap);
	va_end(ap);
	if (!find("nats-peer", path))
		die("find", "nats-peer");
	snprintf(cmd, sizeof cmd, "'%s' %s", path, args);
	FILE *f = popen(cmd, "r");
	if (!f)
		die("start", cmd);
	size_t n = cap ? fread(ret, 1, cap - 1, f) : 0;
	if (cap)
		ret[n] = '\0';
	int status = pclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static bool answers(int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char line[8];
	struct timeval t = {2, 0};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	bool ok = fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0 && read(fd, line, sizeof line) == (ssize_t)sizeof line;
	close(fd);
	return ok;
}

static void pause_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

static pid_t spawn(const char *const argv[], const char *log) {
	posix_spawn_file_actions_t fa;
	pid_t pid = 0;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	if (log) {
		posix_spawn_file_actions_addopen(&fa, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
		posix_spawn_file_actions_adddup2(&fa, 1, 2);
	}
	int e = posix_spawnp(&pid, argv[0], &fa, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	errno = e;
	return e ? 0 : pid;
}

static void launch(struct nats_server *s) {
	char path[512], conf[300], log[300];
	if (!find(server_program, path))
		abort();
	snprintf(conf, sizeof conf, "%s/conf", s->dir);
	snprintf(log, sizeof log, "%s/log", s->dir);
	/* It goes with the test, however that ends. */
	const char *argv[] = {"setpriv", "--pdeathsig", "KILL", path, "-c", conf, NULL};
	if (!(s->pid = spawn(argv, log)))
		die("start", path);
}

static void wait_up(struct nats_server *s) {
	for (int i = 0; i < 200 && !answers(s->port); i++) {
		if (waitpid(s->pid, NULL, WNOHANG) == s->pid || i == 199) {
			char cmd[400];
			snprintf(cmd, sizeof cmd, "tail -5 %s/log >&2", s->dir);
			(void)!system(cmd);
			die("no answer from the server in", s->dir);
		}
		pause_ms(50);
	}
}

static void write_conf(struct nats_server *s, const char *more) {
	char path[300];
	snprintf(s->dir, sizeof s->dir, "%s", ms_test_tmpdir());
	snprintf(path, sizeof path, "%s/conf", s->dir);
	FILE *f = fopen(path, "w");
	if (!f)
		die("write", path);
	fprintf(f, "listen: 127.0.0.1:%d\njetstream { store_dir: \"%s/data\" }\n%s\n", s->port, s->dir, more ? more : "");
	fclose(f);
}

void nats_server_start(struct nats_server *s, const char *config) {
	*s = (struct nats_server){.port = ms_test_port()};
	write_conf(s, config);
	launch(s);
	wait_up(s);
}

void nats_server_again(struct nats_server *s) {
	launch(s);
	wait_up(s);
}

void nats_server_kill(struct nats_server *s) {
	if (!s->pid)
		return;
	kill(s->pid, SIGKILL);
	kill(s->pid, SIGCONT);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

void nats_cluster_start(struct nats_server s[3]) {
	char config[600];
	for (int i = 0; i < 3; i++)
		s[i] = (struct nats_server){.port = ms_test_port(), .route_port = ms_test_port()};
	for (int i = 0; i < 3; i++) {
		snprintf(config, sizeof config,
			 "server_name: n%d\ncluster { name: c, listen: 127.0.0.1:%d, routes: [nats://127.0.0.1:%d, nats://127.0.0.1:%d, nats://127.0.0.1:%d] }", i,
			 s[i].route_port, s[0].route_port, s[1].route_port, s[2].route_port);
		write_conf(&s[i], config);
		launch(&s[i]);
	}
	for (int i = 0; i < 3; i++)
		wait_up(&s[i]);
}

int nats_run(const char *const argv[]) {
	int status;
	pid_t pid = spawn(argv, NULL);
	if (!pid)
		return 127;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 127;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
