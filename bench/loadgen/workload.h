/*
 * One connection of the workload and its transactions. A connection belongs to one thread.
 */
#ifndef MS_LOADGEN_WORKLOAD_H
#define MS_LOADGEN_WORKLOAD_H

#include <sqlite3.h>
#include <stdint.h>

#include "data.h"
#include "options.h"

struct lg_conn;

/* Makes the database and its schema and fills it (scale, size). Prints what failed; 0 or -1. */
int lg_prepare(const struct lg_options *o);

/* zipf is shared and must outlive the connection. NULL after printing what failed. */
struct lg_conn *lg_conn_new(const struct lg_options *o, const struct lg_zipf *zipf, uint64_t seed);
void lg_conn_free(struct lg_conn *c);
sqlite3 *lg_conn_db(struct lg_conn *c);
uint64_t lg_conn_wal_pages(struct lg_conn *c); /* pages this connection has written to the WAL since the last call */

/* One transaction of the profile that also sets ms_seq. begin_us: wall clock for its row. *ret_commit_ns: the COMMIT alone. 0, SQLITE_BUSY
 * (rolled back: try again), or -1 after printing what failed. */
int lg_transaction(struct lg_conn *c, int64_t begin_us, uint64_t *ret_commit_ns);
/* A transaction that rewrites much more than the page cache holds, so that it spills to the WAL, and is rolled back. */
int lg_rolled_back(struct lg_conn *c);
/* Runs one statement that may report busy. 0, SQLITE_BUSY or -1. */
int lg_exec(struct lg_conn *c, const char *sql);

uint32_t lg_zipf_rows(const struct lg_options *o);
uint64_t lg_mono_ns(void);
int64_t lg_wall_us(void);

#endif
