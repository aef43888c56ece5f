/*
 * Exact copies of a live database, made without any code of migstream: raw bytes of the database and its -wal, read while a
 * write transaction that writes nothing keeps every other writer and every WAL reset away, and then checkpointed by SQLite in a
 * directory of their own. What is hashed is the whole checkpointed file; nothing is masked.
 *
 * The raw descriptor of the database stays open as long as the process: closing any descriptor of that file would drop the
 * POSIX locks of the process's SQLite connections on it. -wal carries no locks.
 */
#ifndef MS_LOADGEN_ORACLE_H
#define MS_LOADGEN_ORACLE_H

#include <sqlite3.h>
#include <stdint.h>

struct lg_oracle;

/* scratch_dir NULL: the log's directory. log_path NULL: capture only fills *ret. keep_dir NULL: copies are removed. Prints what failed
 * and returns NULL. One capture at a time in a process; several processes may share a log (each line is one write). */
struct lg_oracle *lg_oracle_open(const char *db_path, const char *log_path, const char *scratch_dir, const char *keep_dir);
void lg_oracle_close(struct lg_oracle *o); /* keeps the database's descriptor */

struct lg_copy {
	uint64_t seq;	   /* ms_seq.seq in the copy, 0 without such a table */
	char sha256[65];
	int64_t bytes;
};
/* conn: an idle connection of this process to the database. begin_us, end_us: wall clock around the commit that it shows, for the log.
 * Returns 0, SQLITE_BUSY when the write lock was not to be had, or -1 after printing what failed. */
int lg_oracle_capture(struct lg_oracle *o, sqlite3 *conn, int64_t begin_us, int64_t end_us, struct lg_copy *ret);

#endif
