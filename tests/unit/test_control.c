/* The control server with a made-up daemon behind it, reached by our own client over the Unix socket and by plain HTTP over TCP. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cmd/cmds.h"
#include "cmd/control_client.h"
#include "cmd/control_server.h"
#include "cmd/control_socket.h"
#include "unit/fake_status.h"

struct fake {
	pthread_mutex_t mutex; /* guards what follows */
	uint64_t txid[2];      /* of the two replicas of app.db */
	enum ms_worker_state state[2];
	enum ms_stream_state stream_state;
	char generation[20];
	unsigned captures, pauses, resumes, snapshots, takeovers, shutdowns;
	char last_db[200];
};
static struct fake fake;
static struct ms_env *env;
static char dir[4000], root[64]; /* root: what to remove */
static struct ms_control_server *server;

static enum ms_code known(const char *db, struct ms_err *err) {
	snprintf(fake.last_db, sizeof fake.last_db, "%s", db);
	if (strcmp(db, "app.db") == 0 || strcmp(db, "/srv/app.db") == 0)
		return MS_OK;
	return ms_err_set(err, MS_ENOTFOUND, "no database %s; there are app.db, other", db);
}

static void op_info(void *arg, struct ms_daemon_info *ret) {
	(void)arg;
	*ret = (struct ms_daemon_info){.pid = 77, .started_us = FAKE_NOW_US, .shadow_dir = dir};
}

static enum ms_code op_status(void *arg, struct ms_stream_status **ret, unsigned *ret_n, struct ms_err *err) {
	(void)arg, (void)err;
	*ret = fake_streams(ret_n);
	pthread_mutex_lock(&fake.mutex);
	for (int i = 0; i < 2; i++)
		(*ret)[0].workers[i].txid = fake.txid[i], (*ret)[0].workers[i].state = fake.state[i];
	(*ret)[0].state = fake.stream_state;
	strcpy((*ret)[0].generation.s, fake.generation);
	pthread_mutex_unlock(&fake.mutex);
	return MS_OK;
}

static enum ms_code op_journal(void *arg, struct ms_journal_stats *ret, struct ms_err *err) {
	(void)arg, (void)err;
	*ret = (struct ms_journal_stats){.entries = 9};
	return MS_OK;
}

static int64_t op_threshold(void *arg, const char *name) {
	(void)arg;
	return strcmp(name, "app.db") == 0 ? 3600000000 : 0;
}

static enum ms_code op_capture(void *arg, const char *db, uint64_t *ret, struct ms_err *err) {
	(void)arg;
	pthread_mutex_lock(&fake.mutex);
	enum ms_code code = known(db, err);
	fake.captures++;
	*ret = 42;
	pthread_mutex_unlock(&fake.mutex);
	return code;
}

#define COUNTED(op, counter)                                                                                                           \
	static enum ms_code op(void *arg, const char *db, struct ms_err *err) {                                                       \
		(void)arg;                                                                                                             \
		pthread_mutex_lock(&fake.mutex);                                                                                      \
		enum ms_code code = known(db, err);                                                                                   \
		fake.counter += !code;                                                                                                 \
		pthread_mutex_unlock(&fake.mutex);                                                                                    \
		return code;                                                                                                           \
	}
COUNTED(op_pause, pauses)
COUNTED(op_resume, resumes)
COUNTED(op_takeover, takeovers)

static enum ms_code op_snapshot(void *arg, const char *db, uint64_t *ret, struct ms_err *err) {
	(void)arg;
	enum ms_code code = known(db, err);
	fake.snapshots += !code;
	*ret = 42;
	return code;
}

static enum ms_code op_shutdown(void *arg, struct ms_err *err) {
	(void)arg, (void)err;
	fake.shutdowns++;
	return MS_OK;
}

static const struct ms_control_ops ops = {op_info,  op_status, op_journal,  op_threshold, op_capture,
					  op_pause, op_resume, op_snapshot, op_takeover,  op_shutdown};

static void start(const char *metrics) {
	struct ms_err err = MS_ERR_INIT;
	unsetenv("MIGSTREAM_CONFIG");
	fake = (struct fake){.txid = {42, 40}, .state = {MS_WORKER_IDLE, MS_WORKER_RETRYING}, .stream_state = MS_STREAM_FOLLOWING};
	strcpy(fake.generation, "00000001-89abcdef");
	pthread_mutex_init(&fake.mutex, NULL);
	if (!dir[0]) {
		strcpy(dir, "/tmp/ms_control_XXXXXX");
		cr_assert_not_null(mkdtemp(dir));
		strcpy(root, dir);
	}
	setenv("MIGSTREAM_SHADOW", dir, 1);
	cr_assert_not_null(env = ms_env_uv_new(NULL, &err), "%s", err.msg);
	cr_assert_eq(ms_control_server_new(env, dir, metrics, &ops, NULL, &server, &err), MS_OK, "%s", err.msg);
}

static void setup(void) {
	start(NULL);
}

static void teardown(void) {
	char command[100];
	ms_control_server_free(server);
	ms_env_uv_free(env);
	snprintf(command, sizeof command, "rm -rf '%s'", root);
	cr_assert_eq(system(command), 0);
}

static const char *socket_path(void) {
	static char path[4100];
	snprintf(path, sizeof path, "%s/control.sock", dir);
	return path;
}

static json_t *call(bool post, const char *path, const struct ms_param *params) {
	json_t *o = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_control_call(socket_path(), post, path, params, 10000000, &o, &err), MS_OK, "%s: %s", path, err.msg);
	return o;
}

static void refused(bool post, const char *path, const struct ms_param *params, enum ms_code code, const char *text) {
	json_t *o = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_control_call(socket_path(), post, path, params, 10000000, &o, &err), code, "%s: %s", path, err.msg);
	cr_assert_str_eq(err.msg, text);
	cr_assert_null(o);
}

Test(control, socket_file, .init = setup, .fini = teardown) {
	struct stat st;
	cr_assert_eq(stat(socket_path(), &st), 0);
	cr_assert(S_ISSOCK(st.st_mode));
	cr_assert_eq(st.st_mode & 07777, 0600);
	/* A second server on it is refused; after a crash the file is taken over. */
	struct ms_control_server *second = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_control_server_new(env, dir, NULL, &ops, NULL, &second, &err), MS_EBUSY);
	json_decref(call(false, "/status", NULL));
	ms_control_server_free(server);
	cr_assert_eq(stat(socket_path(), &st), -1);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	strcpy(sa.sun_path, socket_path());
	cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
	close(fd);
	cr_assert_eq(ms_control_server_new(env, dir, NULL, &ops, NULL, &server, &err), MS_OK, "%s", err.msg);
	json_decref(call(false, "/status", NULL));
}

Test(control, socket_name_taken, .init = setup, .fini = teardown) {
	struct ms_err err = MS_ERR_INIT;
	ms_control_server_free(server);
	server = NULL;
	FILE *f = fopen(socket_path(), "w");
	cr_assert_not_null(f);
	fclose(f);
	cr_assert_eq(ms_control_server_new(env, dir, NULL, &ops, NULL, &server, &err), MS_EEXISTS);
}

static void long_setup(void) {
	char command[4100];
	strcpy(dir, "/tmp/ms_control_XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	strcpy(root, dir);
	for (int i = 0; i < 12; i++)
		strcat(dir, "/a-directory-with-a-long-name");
	snprintf(command, sizeof command, "mkdir -p '%s'", dir);
	cr_assert_eq(system(command), 0);
	start(NULL);
}

Test(control, long_paths, .init = long_setup, .fini = teardown) {
	cr_assert_gt(strlen(socket_path()), 300);
	json_decref(call(false, "/status", NULL));
	ms_control_server_free(server);
	server = NULL;
	cr_assert_eq(access(socket_path(), F_OK), -1);
	json_t *o = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_control_call(socket_path(), false, "/status", NULL, 1000000, &o, &err), MS_ECLOSED);
}

Test(control, status, .init = setup, .fini = teardown) {
	json_t *o = call(false, "/status", NULL), *d = json_array_get(json_object_get(o, "databases"), 0);
	cr_assert_eq(json_integer_value(json_object_get(json_object_get(o, "daemon"), "pid")), 77);
	cr_assert_str_eq(json_string_value(json_object_get(d, "name")), "app.db");
	cr_assert_eq(json_real_value(json_object_get(d, "dataLossWindowThresholdSeconds")), 3600.0);
	cr_assert_eq(json_integer_value(json_object_get(json_object_get(o, "journal"), "entries")), 9);
	json_decref(o);
}

Test(control, actions, .init = setup, .fini = teardown) {
	const struct ms_param app[] = {{"db", "app.db"}, {NULL, NULL}}, path[] = {{"db", "/srv/app.db"}, {NULL, NULL}}, odd[] = {{"db", "a b&c=d%"}, {NULL, NULL}};
	json_decref(call(true, "/pause", app));
	json_decref(call(true, "/resume", path));
	cr_assert_str_eq(fake.last_db, "/srv/app.db");
	json_t *o = call(true, "/snapshot", app);
	cr_assert_eq(json_integer_value(json_object_get(o, "txid")), 42);
	json_decref(o);
	json_decref(call(true, "/takeover", app));
	json_decref(call(true, "/shutdown", NULL));
	cr_assert_eq(fake.pauses, 1);
	cr_assert_eq(fake.resumes, 1);
	cr_assert_eq(fake.snapshots, 1);
	cr_assert_eq(fake.takeovers, 1);
	cr_assert_eq(fake.shutdowns, 1);
	refused(true, "/pause", odd, MS_ENOTFOUND, "no database a b&c=d%; there are app.db, other");
	refused(true, "/pause", NULL, MS_EUSAGE, "which database? db is missing");
	refused(false, "/pause", app, MS_EUSAGE, "only POST here");
	refused(true, "/status", NULL, MS_EUSAGE, "only GET here");
	refused(false, "/nothing", NULL, MS_ENOTFOUND, "no such page");
	cr_assert_eq(fake.pauses, 1);
}

static const struct ms_param *wait_params(const char *db, const char *txid, const char *replica, const char *ms) {
	static struct ms_param p[5];
	p[0] = (struct ms_param){"db", db};
	p[1] = (struct ms_param){"txid", txid};
	p[2] = (struct ms_param){"replica", replica};
	p[3] = (struct ms_param){"timeout_ms", ms};
	p[4] = (struct ms_param){NULL, NULL};
	return p;
}

Test(control, wait_done, .init = setup, .fini = teardown) {
	json_t *o = call(false, "/wait", wait_params("app.db", "40", NULL, NULL));
	cr_assert_eq(json_integer_value(json_object_get(o, "txid")), 40);
	cr_assert_str_eq(json_string_value(json_object_get(o, "generation")), "00000001-89abcdef");
	json_decref(o);
	cr_assert_eq(fake.captures, 0);
	o = call(false, "/wait", wait_params("app.db", NULL, "file", "0"));
	cr_assert_eq(json_integer_value(json_object_get(o, "txid")), 42);
	json_decref(o);
	cr_assert_eq(fake.captures, 1);
}

Test(control, wait_not_done, .init = setup, .fini = teardown) {
	refused(false, "/wait", wait_params("app.db", NULL, NULL, "30"), MS_ETIMEDOUT, "txid 42 is not there yet");
	refused(false, "/wait", wait_params("app.db", "41", NULL, "0"), MS_ETIMEDOUT, "txid 41 is not there yet");
	refused(false, "/wait", wait_params("app.db", "1", "nobody", "30"), MS_ENOTFOUND, "app.db has no replica nobody; it has file, slow");
	refused(false, "/wait", wait_params("zebra", "1", NULL, "30"), MS_ENOTFOUND, "no database zebra here");
	refused(false, "/wait", wait_params("zebra", NULL, NULL, "30"), MS_ENOTFOUND, "no database zebra; there are app.db, other");
	refused(false, "/wait", wait_params("app.db", "x", NULL, NULL), MS_EUSAGE, "wait needs db, and numbers in txid and timeout_ms");
	refused(false, "/wait", wait_params(NULL, NULL, NULL, NULL), MS_EUSAGE, "wait needs db, and numbers in txid and timeout_ms");
	fake.state[1] = MS_WORKER_FENCED;
	refused(false, "/wait", wait_params("app.db", NULL, NULL, NULL), MS_EFENCED, "app.db: replica slow is fenced: put \"x\": no\nroute");
	fake.state[1] = MS_WORKER_FAILED;
	refused(false, "/wait", wait_params("app.db", NULL, NULL, NULL), MS_EPERMANENT, "app.db: replica slow is failed: put \"x\": no\nroute");
	fake.state[1] = MS_WORKER_RETRYING;
	fake.stream_state = MS_STREAM_FENCED;
	refused(false, "/wait", wait_params("app.db", NULL, NULL, NULL), MS_EFENCED, "app.db: is fenced");
	/* What is there is there, whatever the state. */
	json_decref(call(false, "/wait", wait_params("app.db", "40", NULL, NULL)));
}

static void *arrive(void *arg) {
	(void)arg;
	struct timespec ts = {.tv_nsec = 150000000};
	nanosleep(&ts, NULL);
	pthread_mutex_lock(&fake.mutex);
	fake.txid[1] = 42;
	pthread_mutex_unlock(&fake.mutex);
	return NULL;
}

static int64_t now_ms(void) {
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

Test(control, wait_arrives, .init = setup, .fini = teardown) {
	pthread_t t;
	int64_t begin = now_ms();
	pthread_create(&t, NULL, arrive, NULL);
	json_decref(call(false, "/wait", wait_params("app.db", NULL, NULL, "9000")));
	cr_assert_geq(now_ms() - begin, 140);
	pthread_join(t, NULL);
}

static void *regenerate(void *arg) {
	(void)arg;
	struct timespec ts = {.tv_nsec = 100000000};
	nanosleep(&ts, NULL);
	pthread_mutex_lock(&fake.mutex);
	strcpy(fake.generation, "00000002-00000000");
	pthread_mutex_unlock(&fake.mutex);
	return NULL;
}

Test(control, wait_new_generation, .init = setup, .fini = teardown) {
	pthread_t t;
	pthread_create(&t, NULL, regenerate, NULL);
	refused(false, "/wait", wait_params("app.db", "50", NULL, "9000"), MS_ECONFLICT,
		"app.db: a new generation 00000002-00000000 has begun at txid 42 while waiting for 50 of 00000001-89abcdef");
	pthread_join(t, NULL);
}

static void *closer(void *arg) {
	(void)arg;
	struct timespec ts = {.tv_nsec = 100000000};
	nanosleep(&ts, NULL);
	ms_control_server_close(server);
	return NULL;
}

Test(control, close_ends_waits, .init = setup, .fini = teardown) {
	pthread_t t;
	int64_t begin = now_ms();
	pthread_create(&t, NULL, closer, NULL);
	refused(false, "/wait", wait_params("app.db", "50", NULL, NULL), MS_ECLOSED, "the daemon is stopping");
	cr_assert_lt(now_ms() - begin, 5000);
	refused(false, "/status", NULL, MS_ECLOSED, "the daemon is stopping");
	pthread_join(t, NULL);
}

/* A client that goes away must not keep its thread: 60 of them, and the server still stops at once. */
Test(control, clients_that_leave, .init = setup, .fini = teardown) {
	static const char request[] = "GET /wait?db=app.db&txid=50 HTTP/1.1\r\nHost: x\r\n\r\n";
	for (int i = 0; i < 60; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		struct sockaddr_un sa = {.sun_family = AF_UNIX};
		strcpy(sa.sun_path, socket_path());
		cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
		cr_assert_eq(write(fd, request, sizeof request - 1), (ssize_t)sizeof request - 1);
		struct timespec ts = {.tv_nsec = 3000000};
		nanosleep(&ts, NULL);
		close(fd);
	}
	struct timespec ts = {.tv_nsec = 200000000};
	nanosleep(&ts, NULL);
	json_decref(call(false, "/wait", wait_params("app.db", "40", NULL, NULL)));
}

static void tcp_setup(void) {
	start("127.0.0.1:0");
}

/* One request over TCP; the whole answer. */
static char answer[1 << 18];
static unsigned http(const char *method, const char *path) {
	char request[200];
	int fd = socket(AF_INET, SOCK_STREAM, 0), n;
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)ms_control_server_metrics_port(server)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
	n = snprintf(request, sizeof request, "%s %s HTTP/1.0\r\n\r\n", method, path);
	cr_assert_eq(write(fd, request, (size_t)n), n);
	size_t used = 0;
	ssize_t got;
	while ((got = read(fd, answer + used, sizeof answer - 1 - used)) > 0)
		used += (size_t)got;
	answer[used] = 0;
	close(fd);
	unsigned status = 0;
	cr_assert_eq(sscanf(answer, "HTTP/1.%*u %u", &status), 1, "%s", answer);
	return status;
}

Test(control, tcp_pages, .init = tcp_setup, .fini = teardown) {
	cr_assert_neq(ms_control_server_metrics_port(server), 0);
	cr_assert_eq(http("GET", "/metrics"), 200);
	cr_assert_not_null(strstr(answer, "Content-Type: text/plain; version=0.0.4"));
	cr_assert_not_null(strstr(answer, "\nmigstream_commits_total{db=\"app.db\"} 41\n"));
	cr_assert_eq(http("GET", "/healthz"), 503);
	cr_assert_not_null(strstr(answer, "other: waiting: not in WAL mode: run PRAGMA journal_mode=WAL\n"));
	/* Nothing else is reachable from outside. */
	cr_assert_eq(http("GET", "/status"), 404);
	cr_assert_eq(http("GET", "/wait?db=app.db"), 404);
	cr_assert_eq(http("POST", "/pause?db=app.db"), 404);
	cr_assert_eq(http("POST", "/shutdown"), 404);
	cr_assert_eq(http("POST", "/metrics"), 405);
	cr_assert_eq(fake.pauses + fake.shutdowns, 0);
}

Test(control, addresses) {
	struct ms_err err = MS_ERR_INIT;
	int fd = -1;
	unsigned port = 0;
	cr_assert_eq(ms_tcp_listen("elephant", &fd, &port, &err), MS_ECONFIG);
	cr_assert_str_eq(err.msg, "metrics.address: 'elephant' is not host:port, [v6]:port or :port");
	cr_assert_eq(ms_tcp_listen("::1:80", &fd, &port, &err), MS_ECONFIG);
	cr_assert_str_eq(err.msg, "metrics.address: write an IPv6 address in brackets: [::1]:80");
	cr_assert_eq(ms_tcp_listen("localhost:http", &fd, &port, &err), MS_ECONFIG);
	cr_assert_eq(ms_tcp_listen(":0", &fd, &port, &err), MS_OK, "%s", err.msg);
	cr_assert_neq(port, 0);
	char taken[40];
	int second = -1;
	snprintf(taken, sizeof taken, ":%u", port);
	cr_assert_eq(ms_tcp_listen(taken, &second, &port, &err), MS_EIO);
	cr_assert_eq(second, -1);
	close(fd);
}

/* Another user is turned away although the file's mode would let him in. */
Test(control, foreign_uid, .init = setup, .fini = teardown) {
	if (geteuid() != 0)
		cr_skip_test("needs root");
	cr_assert_eq(chmod(dir, 0755), 0);
	cr_assert_eq(chmod(socket_path(), 0666), 0);
	pid_t pid = fork();
	cr_assert_neq(pid, -1);
	if (pid == 0) {
		json_t *o = NULL;
		struct ms_err err = MS_ERR_INIT;
		if (setgid(65534) || setuid(65534))
			_exit(9);
		enum ms_code code = ms_control_call(socket_path(), false, "/status", NULL, 5000000, &o, &err);
		_exit(code == MS_EPERM && strcmp(err.msg, "only the daemon's own user and root may ask") == 0 ? 0 : 1);
	}
	int status;
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

/* The commands themselves, by MIGSTREAM_SHADOW. */
#define RUN(...)                                                                                                                       \
	({                                                                                                                             \
		const char *argv_[] = {"migstream", __VA_ARGS__};                                                                     \
		ms_migstream((int)(sizeof argv_ / sizeof *argv_), (char **)(uintptr_t)argv_);                                          \
	})

Test(control, commands, .init = setup, .fini = teardown) {
	cr_assert_not_null(freopen("/dev/null", "w", stdout));
	cr_assert_not_null(freopen("/dev/null", "w", stderr));
	cr_assert_eq(RUN("status"), 0);
	cr_assert_eq(RUN("status", "--json"), 0);
	cr_assert_eq(RUN("status", "app.db"), 0);
	cr_assert_eq(RUN("status", "zebra"), 1);
	cr_assert_eq(RUN("status", "--socket", "/nowhere/control.sock"), 1);
	cr_assert_eq(RUN("wait", "app.db", "--txid", "40"), 0);
	cr_assert_eq(RUN("wait", "app.db", "--timeout", "20ms"), 1);
	cr_assert_eq(RUN("wait", "app.db", "--timeout", "soon"), 2);
	cr_assert_eq(RUN("wait", "zebra"), 1);
	fake.state[1] = MS_WORKER_FENCED;
	cr_assert_eq(RUN("wait", "app.db"), 4);
	cr_assert_eq(RUN("pause", "app.db"), 0);
	cr_assert_eq(RUN("pause", "zebra"), 1);
	cr_assert_eq(RUN("resume", "app.db"), 0);
	cr_assert_eq(RUN("snapshot", "/srv/app.db"), 0);
	cr_assert_eq(RUN("takeover", "app.db"), 0);
	cr_assert_eq(RUN("pause"), 2);
	cr_assert_eq(fake.pauses, 1);
	cr_assert_eq(fake.resumes, 1);
	cr_assert_eq(fake.snapshots, 1);
	cr_assert_eq(fake.takeovers, 1);
	ms_control_server_free(server);
	server = NULL;
	cr_assert_eq(RUN("status"), 1);
	cr_assert_eq(RUN("pause", "app.db"), 1);
	cr_assert_eq(RUN("wait", "app.db"), 1);
}
