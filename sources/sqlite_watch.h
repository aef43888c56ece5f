/*
 * File events of one database: an inotify descriptor that lives as long as its owner.
 *
 * The directory is watched for names that come and go, which costs nobody anything; the -wal file (a commit) and the database
 * (a checkpoint, which may wait for our mark) are watched for writes only while the database is quiet, because each event costs
 * a full-speed writer (SQLITE.md fact 19). The kernel's queue may overflow
 * and a watch may vanish with its file: events are only hints, a slow poll always runs beside them. Threads: all calls by the
 * source's job, the descriptor may be polled by any.
 */
#ifndef MS_SOURCES_SQLITE_WATCH_H
#define MS_SOURCES_SQLITE_WATCH_H

#include <stdbool.h>

struct ms_sqlite_watch {
	int fd; /* -1: no inotify instance to be had, polling only */
	bool modified; /* set by drain when either file was written to; the user clears it */
	int dir_wd, wal_wd, db_wd;
	char dir[4096]; /* watched now */
};

void ms_sqlite_watch_init(struct ms_sqlite_watch *w);
void ms_sqlite_watch_release(struct ms_sqlite_watch *w);
/* Watches the directory of path (again, if it had vanished). */
void ms_sqlite_watch_dir(struct ms_sqlite_watch *w, const char *path);
void ms_sqlite_watch_arm(struct ms_sqlite_watch *w, const char *wal_path, const char *db_path);
void ms_sqlite_watch_disarm(struct ms_sqlite_watch *w);
static inline bool ms_sqlite_watch_armed(const struct ms_sqlite_watch *w) {
	return w->wal_wd >= 0;
}
/* Reads all pending events. True when names came or went, or events were lost. */
bool ms_sqlite_watch_drain(struct ms_sqlite_watch *w);

#endif
