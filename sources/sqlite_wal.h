/*
 * SQLite WAL follower (docs of the protocol: SQLITE.md's facts, docs/architecture.md "Following SQLite"). Uses SQLite's own API
 * for locks and the real file system directly: it does not run in the simulator (tests/support has a simulated source).
 */
#ifndef MS_SOURCES_SQLITE_WAL_H
#define MS_SOURCES_SQLITE_WAL_H

#include "sources/source.h"

struct ms_sqlite_wal_options {
	bool checkpoint;	   /* allow the PASSIVE checkpoint on a quiet database with a long WAL */
	uint64_t checkpoint_bytes; /* soft checkpoint above this WAL size; 0 = 3 MiB */
	uint64_t max_wal_bytes;	   /* above this we let go of the mark and report LOST; 0 = 1 GiB */
	uint64_t memory_bytes;	   /* bound of buffers for one capture; 0 = 4 MiB */
};
struct ms_source *ms_sqlite_wal_new(struct ms_env *env, const char *path, const struct ms_sqlite_wal_options *opt,
				    struct ms_err *err);

#endif
