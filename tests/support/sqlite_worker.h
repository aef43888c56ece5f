/*
 * Other processes that use a SQLite database the way an application does: scripted statements, a load at full or paced speed, and
 * exact copies for an oracle. Everything here goes through SQLite itself in a child process, so that the process under test holds
 * its locks undisturbed, and no expected value comes from the code under test.
 *
 * A worker serves one request at a time.
 */
#ifndef MS_TESTS_SUPPORT_SQLITE_WORKER_H
#define MS_TESTS_SUPPORT_SQLITE_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sq_worker;
struct sq_worker *sq_spawn(void);
void sq_end(struct sq_worker *w);  /* closes its connection, ends it */
void sq_kill(struct sq_worker *w); /* SIGKILL: no close, no checkpoint */
void sq_signal(struct sq_worker *w, int sig);

/* SQLite result codes; path may be a URI. */
int sq_open(struct sq_worker *w, const char *path, int busy_ms);
int sq_close(struct sq_worker *w);
int sq_exec(struct sq_worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* First column of the last row as text, in a static buffer; "" when there is none, "error: ..." when it failed. */
const char *sq_query(struct sq_worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same, while the caller goes on; sq_running() tells, sq_result() waits for the text. */
void sq_start(struct sq_worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool sq_running(struct sq_worker *w);
const char *sq_result(struct sq_worker *w);

struct sq_load {
	uint32_t commits;     /* how many transactions */
	uint32_t per_second;  /* 0: full speed */
	uint32_t insert_rows; /* rows of 200 random bytes inserted by each, beside the sequence row and one update */
};
struct sq_load_result {
	uint32_t commits, busy; /* busy: SQLITE_BUSY seen by any statement */
	double seconds;
	int rc;
	uint32_t max_wal_frames;
};
/* Needs tables made by sq_load_schema(). Runs while the caller goes on. */
int sq_load_schema(struct sq_worker *w);
void sq_load_start(struct sq_worker *w, const struct sq_load *load);
struct sq_load_result sq_load_wait(struct sq_worker *w);

/* Exact image of the live database, which must be at rest: database and -wal copied, the copy checkpointed by SQLite. Into
 * a malloc'ed buffer; *ret_len bytes. Ends the test program when it fails. */
uint8_t *sq_image(struct sq_worker *w, const char *path, size_t *ret_len);

#endif
