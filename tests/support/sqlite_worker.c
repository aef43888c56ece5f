#include "support/sqlite_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/tmpdir.h"

#define MESSAGE 8192

struct sq_worker {
	pid_t pid;
	int fd;
	char *scratch;
};

struct reply {
	int rc;
	struct sq_load_result load;
	char text[MESSAGE];
};

static void die(const char *what) {
	fprintf(stderr, "sqlite worker: %s: %s\n", what, strerror(errno));
	_exit(99);
}

static double now_s(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void query(sqlite3 *db, const char *sql, struct reply *r) {
	sqlite3_stmt *st = NULL;
	const char *tail = sql;
	r->text[0] = 0;
	while (*tail) {
		if ((r->rc = sqlite3_prepare_v2(db, tail, -1, &st, &tail)) != SQLITE_OK)
			break;
		if (!st)
			continue;
		int rc;
		while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
			const unsigned char *t = sqlite3_column_text(st, 0);
			snprintf(r->text, sizeof r->text, "%s", t ? (const char *)t : "");
		}
		r->rc = sqlite3_finalize(st);
		if (r->rc != SQLITE_OK)
			break;
	}
	if (r->rc != SQLITE_OK)
		snprintf(r->text, sizeof r->text, "error: %s", sqlite3_errmsg(db));
}

static int run_statement(sqlite3_stmt *st, struct sq_load_result *out) {
	int rc = sqlite3_step(st);
	sqlite3_reset(st);
	if (rc == SQLITE_BUSY)
		out->busy++;
	return rc == SQLITE_ROW ? SQLITE_DONE : rc;
}

static int note_wal(void *arg, sqlite3 *db, const char *name, int frames) {
	struct sq_load_result *out = arg;
	if ((uint32_t)frames > out->max_wal_frames)
		out->max_wal_frames = (uint32_t)frames;
	if (frames >= 1000)
		sqlite3_wal_checkpoint_v2(db, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL); /* as SQLite's own hook does */
	return SQLITE_OK;
}

static void run_load(sqlite3 *db, const struct sq_load *l, struct sq_load_result *out) {
	static const char *const sql[] = {"BEGIN IMMEDIATE",
					  "UPDATE seq SET n = n + 1",
					  "UPDATE kv SET v = randomblob(80) WHERE id = abs(random() % 2000)",
					  "INSERT INTO bulk(data) VALUES(randomblob(200))",
					  "COMMIT",
					  "ROLLBACK"};
	sqlite3_stmt *st[6];
	memset(out, 0, sizeof *out);
	for (int i = 0; i < 6; i++)
		if ((out->rc = sqlite3_prepare_v2(db, sql[i], -1, &st[i], NULL)) != SQLITE_OK)
			return;
	sqlite3_wal_hook(db, note_wal, out);
	double start = now_s();
	while (out->commits < l->commits) {
		if (l->per_second) {
			double due = start + (double)out->commits / l->per_second, t = now_s();
			if (due > t)
				usleep((useconds_t)((due - t) * 1e6));
		}
		int rc = run_statement(st[0], out);
		for (int i = 1; i <= 2 && rc == SQLITE_DONE; i++)
			rc = run_statement(st[i], out);
		for (uint32_t i = 0; i < l->insert_rows && rc == SQLITE_DONE; i++)
			rc = run_statement(st[3], out);
		if (rc == SQLITE_DONE)
			rc = run_statement(st[4], out);
		if (rc == SQLITE_DONE) {
			out->commits++;
			continue;
		}
		run_statement(st[5], out);
		if (rc != SQLITE_BUSY) {
			out->rc = rc;
			break;
		}
	}
	out->seconds = now_s() - start;
	for (int i = 0; i < 6; i++)
		sqlite3_finalize(st[i]);
	sqlite3_wal_hook(db, NULL, NULL);
	sqlite3_wal_autocheckpoint(db, 1000);
}

static void copy_file(const char *from, const char *to, bool must) {
	char buf[65536];
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ssize_t n;
	if (out < 0 || (in < 0 && (must || errno != ENOENT)))
		die(from);
	while (in >= 0 && (n = read(in, buf, sizeof buf)) > 0)
		if (write(out, buf, (size_t)n) != n)
			die(to);
	if (in >= 0)
		close(in);
	close(out);
}

/* This worker has no connection to `path`, so closing these descriptors drops nobody's locks. */
static int image(const char *path, const char *to) {
	char a[MESSAGE + 8], b[MESSAGE + 8];
	sqlite3 *db;
	copy_file(path, to, true);
	snprintf(a, sizeof a, "%s-wal", path);
	snprintf(b, sizeof b, "%s-wal", to);
	copy_file(a, b, false);
	int rc = sqlite3_open(to, &db);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
	sqlite3_close(db);
	return rc;
}

static void serve(int fd) {
	static char msg[MESSAGE];
	static struct reply r;
	sqlite3 *db = NULL;
	ssize_t n;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while ((n = recv(fd, msg, sizeof msg - 1, 0)) > 0) {
		msg[n] = 0;
		memset(&r, 0, sizeof r);
		switch (msg[0]) {
		case 'o': {
			int busy = 0, at = 0;
			sscanf(msg + 1, "%d %n", &busy, &at);
			r.rc = sqlite3_open_v2(msg + 1 + at, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
					       NULL);
			sqlite3_busy_timeout(db, busy);
			break;
		}
		case 'c':
			r.rc = sqlite3_close(db);
			db = NULL;
			break;
		case 'q':
			query(db, msg + 1, &r);
			break;
		case 'l': {
			struct sq_load l;
			memcpy(&l, msg + 1, sizeof l);
			run_load(db, &l, &r.load);
			break;
		}
		case 'i': {
			char *to = strchr(msg, '\n');
			*to++ = 0;
			r.rc = image(msg + 1, to);
			break;
		}
		default:
			sqlite3_close(db);
			_exit(0);
		}
		if (send(fd, &r, sizeof r, MSG_NOSIGNAL) != sizeof r)
			_exit(98);
	}
	sqlite3_close(db);
	_exit(0);
}

/* A worker is this program executed again: a fork alone would inherit what SQLite knows of the databases that the source has
 * open. */
#define WORKER_FD "MS_TEST_SQLITE_WORKER_FD"
__attribute__((constructor)) static void worker_main(void) {
	const char *fd = getenv(WORKER_FD);
	if (fd)
		serve(atoi(fd));
}

struct sq_worker *sq_spawn(void) {
	int fd[2];
	struct sq_worker *w = calloc(1, sizeof *w);
	if (!w || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) != 0)
		die("socketpair");
	w->scratch = ms_test_tmpdir();
	/* Spawned, not forked: see tmpdir.c. */
	posix_spawn_file_actions_t files;
	char *argv[] = {(char *)"sqlite-worker", NULL};
	int rc;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, fd[1], 3);
	posix_spawn_file_actions_addclosefrom_np(&files, 4);
	setenv(WORKER_FD, "3", 1);
	rc = posix_spawn(&w->pid, "/proc/self/exe", &files, NULL, argv, environ);
	unsetenv(WORKER_FD);
	posix_spawn_file_actions_destroy(&files);
	if (rc != 0) {
		errno = rc;
		die("spawn");
	}
	close(fd[1]);
	w->fd = fd[0];
	return w;
}

static void reap(struct sq_worker *w) {
	int status;
	while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR) {
	}
	close(w->fd);
	free(w);
}

void sq_end(struct sq_worker *w) {
	if (send(w->fd, "x", 1, MSG_NOSIGNAL) < 0) {
	}
	reap(w);
}

void sq_kill(struct sq_worker *w) {
	kill(w->pid, SIGKILL);
	reap(w);
}

void sq_signal(struct sq_worker *w, int sig) {
	kill(w->pid, sig);
}

static void ask(struct sq_worker *w, const void *msg, size_t n) {
	if (send(w->fd, msg, n, MSG_NOSIGNAL) != (ssize_t)n)
		die("send");
}

static struct reply *answer(struct sq_worker *w) {
	static struct reply r;
	if (recv(w->fd, &r, sizeof r, 0) != sizeof r)
		die("worker has gone");
	return &r;
}

int sq_open(struct sq_worker *w, const char *path, int busy_ms) {
	char msg[MESSAGE];
	int n = snprintf(msg, sizeof msg, "o%d %s", busy_ms, path);
	ask(w, msg, (size_t)n);
	return answer(w)->rc;
}

int sq_close(struct sq_worker *w) {
	ask(w, "c", 1);
	return answer(w)->rc;
}

static void vstart(struct sq_worker *w, const char *fmt, va_list ap) {
	char msg[MESSAGE] = "q";
	int n = vsnprintf(msg + 1, sizeof msg - 1, fmt, ap);
	if (n < 0 || n >= (int)sizeof msg - 1)
		die("statement too long");
	ask(w, msg, (size_t)n + 1);
}

static struct reply *vquery(struct sq_worker *w, const char *fmt, va_list ap) {
	vstart(w, fmt, ap);
	return answer(w);
}

void sq_start(struct sq_worker *w, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	vstart(w, fmt, ap);
	va_end(ap);
}

const char *sq_result(struct sq_worker *w) {
	return answer(w)->text;
}

int sq_exec(struct sq_worker *w, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	struct reply *r = vquery(w, fmt, ap);
	va_end(ap);
	return r->rc;
}

const char *sq_query(struct sq_worker *w, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	struct reply *r = vquery(w, fmt, ap);
	va_end(ap);
	return r->text;
}

int sq_load_schema(struct sq_worker *w) {
	return sq_exec(w,
		       "CREATE TABLE seq(n INTEGER); INSERT INTO seq VALUES(0); CREATE TABLE kv(id INTEGER PRIMARY KEY, v BLOB);"
		       "CREATE TABLE bulk(id INTEGER PRIMARY KEY, data BLOB);"
		       "WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c WHERE x < 1999) INSERT INTO kv SELECT x, "
		       "randomblob(80) FROM c;");
}

void sq_load_start(struct sq_worker *w, const struct sq_load *load) {
	char msg[1 + sizeof *load] = "l";
	memcpy(msg + 1, load, sizeof *load);
	ask(w, msg, sizeof msg);
}

bool sq_running(struct sq_worker *w) {
	struct pollfd p = {w->fd, POLLIN, 0};
	return poll(&p, 1, 0) == 0;
}

struct sq_load_result sq_load_wait(struct sq_worker *w) {
	return answer(w)->load;
}

uint8_t *sq_image(struct sq_worker *w, const char *path, size_t *ret_len) {
	char msg[MESSAGE], to[4200];
	struct stat st;
	snprintf(to, sizeof to, "%s/copy.db", w->scratch);
	int n = snprintf(msg, sizeof msg, "i%s\n%s", path, to);
	ask(w, msg, (size_t)n);
	if (answer(w)->rc != SQLITE_OK)
		die("image");
	int fd = open(to, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) != 0)
		die(to);
	uint8_t *p = malloc((size_t)st.st_size + 1);
	if (!p || read(fd, p, (size_t)st.st_size) != st.st_size)
		die(to);
	close(fd);
	*ret_len = (size_t)st.st_size;
	return p;
}
