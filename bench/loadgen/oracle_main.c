/*
 * ms-oracle: one exact copy of a live database, from outside the application that writes it.
 * Prints "seq sha256 time_us time_us bytes". Leaves -wal and -shm as the application has them.
 */
#include <stdio.h>
#include <string.h>

#include "oracle.h"
#include "workload.h"

static const char usage[] = "Usage: ms-oracle DB [--log FILE] [--dir SCRATCH] [--keep DIR]\n"
			    "Hashes the database as it is after its newest commit: copies database and -wal while no one can commit, lets SQLite\n"
			    "checkpoint the copy, and prints \"seq sha256 time_us time_us bytes\" (seq: ms_seq.seq, 0 without that table).\n";

int main(int argc, char **argv) {
	const char *db = NULL, *log = NULL, *dir = NULL, *keep = NULL;
	for (int i = 1; i < argc; i++) {
		const char **v = !strcmp(argv[i], "--log") ? &log : !strcmp(argv[i], "--dir") ? &dir : !strcmp(argv[i], "--keep") ? &keep : NULL;
		if (!strcmp(argv[i], "--help")) {
			fputs(usage, stdout);
			return 0;
		}
		if (v && i + 1 < argc)
			*v = argv[++i];
		else if (!v && argv[i][0] != '-' && !db)
			db = argv[i];
		else {
			fputs(usage, stderr);
			return 2;
		}
	}
	if (!db) {
		fputs(usage, stderr);
		return 2;
	}
	/* Opened before SQLite and kept to the end of the process: see oracle.h. */
	struct lg_oracle *o = lg_oracle_open(db, log, dir, keep);
	sqlite3 *conn = NULL;
	struct lg_copy copy = {0};
	int rc = -1;
	if (!o)
		return 1;
	if (sqlite3_open_v2(db, &conn, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK ||
	    sqlite3_db_config(conn, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL) != SQLITE_OK ||
	    sqlite3_exec(conn, "PRAGMA wal_autocheckpoint=0", NULL, NULL, NULL) != SQLITE_OK) {
		fprintf(stderr, "ms-oracle: %s: %s\n", db, conn ? sqlite3_errmsg(conn) : "out of memory");
		goto out;
	}
	sqlite3_busy_timeout(conn, 30000);
	int64_t now = lg_wall_us();
	rc = lg_oracle_capture(o, conn, now, now, &copy);
	if (rc == SQLITE_BUSY)
		fprintf(stderr, "ms-oracle: %s: no write lock within 30 s\n", db);
	if (!rc)
		printf("%llu %s %lld %lld %lld\n", (unsigned long long)copy.seq, copy.sha256, (long long)now, (long long)now, (long long)copy.bytes);
out:
	sqlite3_close(conn);
	lg_oracle_close(o);
	return rc ? 1 : 0;
}
