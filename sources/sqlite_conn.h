/*
 * One connection of ours to the user's database: a read mark that can be begun and ended, raw reads through SQLite's own
 * descriptor, the mapped wal-index, and the PASSIVE checkpoint. It never runs a statement that writes.
 *
 * No descriptor of our own is ever opened on the database or its -shm file: closing one would drop every POSIX lock that this
 * process holds on it. Reads go through SQLite's file object, polling through SQLite's mapping. Threads: one at a time. Errors
 * name the path.
 */
#ifndef MS_SOURCES_SQLITE_CONN_H
#define MS_SOURCES_SQLITE_CONN_H

#include "base/err.h"
#include <sqlite3.h>
#include <stdint.h>

struct ms_sqlite_conn {
	sqlite3 *db;
	sqlite3_stmt *begin, *probe, *end;
	sqlite3_file *file; /* SQLite's, borrowed */
	struct ms_sqlite_shim *shim; /* its methods, but for xShmLock (sqlite_conn.c); owned */
	bool reading;	    /* a read transaction, and so a mark, is held */
};

/* Opens without touching any lock: the header can be read, nothing else has happened. path is canonical. */
enum ms_code ms_sqlite_conn_open(struct ms_sqlite_conn *c, const char *path, struct ms_err *err) MS_WARN_UNUSED;
/* With sweep, SQLite may remove an empty -wal and its -shm when this is the last connection of all; without it they stay. */
void ms_sqlite_conn_close(struct ms_sqlite_conn *c, bool sweep); /* accepts a zeroed one */
/* Begins a read transaction. MS_EBUSY: no mark could be had just now. MS_EPERM: -wal or -shm cannot be opened. MS_ECORRUPT. */
enum ms_code ms_sqlite_conn_begin(struct ms_sqlite_conn *c, struct ms_err *err) MS_WARN_UNUSED;
/* The slot of the read that is held: 0 (everything was backfilled), 1 to 4; -1 none. */
int ms_sqlite_conn_slot(const struct ms_sqlite_conn *c);
void ms_sqlite_conn_end(struct ms_sqlite_conn *c); /* without begin: nothing */
/* n bytes at off; bytes past the end of the file are zero. */
enum ms_code ms_sqlite_conn_read(struct ms_sqlite_conn *c, void *buf, size_t n, int64_t off, struct ms_err *err) MS_WARN_UNUSED;
/* The wal-index header in SQLite's mapping, valid until close; NULL when there is none (heap memory in exclusive mode). After a
 * begin. */
const volatile void *ms_sqlite_conn_shm(struct ms_sqlite_conn *c);
/* PASSIVE; the caller holds a mark on another connection (SQLITE.md fact 12). MS_EBUSY when someone else checkpoints. */
enum ms_code ms_sqlite_conn_checkpoint(struct ms_sqlite_conn *c, struct ms_err *err) MS_WARN_UNUSED;

#endif
