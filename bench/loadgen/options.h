/*
 * Options of ms-loadgen as plain data. Parsed once in the first process; read-only afterwards, so any worker may read it.
 */
#ifndef MS_LOADGEN_OPTIONS_H
#define MS_LOADGEN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum lg_profile { LG_OLTP, LG_BULK, LG_ZIPF, LG_DOCUMENTS, LG_MIXED, LG_PROFILES };
extern const char *const lg_profile_names[LG_PROFILES];

struct lg_options {
	const char *db;
	enum lg_profile profile;
	double rate;	      /* commits per second over all workers; 0 = full speed */
	double duration;      /* seconds; 0 = no limit */
	uint64_t commits;     /* 0 with a duration = no limit; 0 without one = only prepare the database */
	bool commits_set;
	const char *sync;     /* "NORMAL", "FULL", "OFF", "EXTRA" */
	unsigned page_size;   /* bytes, for a new database */
	int autocheckpoint;   /* pages; 0 = off */
	unsigned processes, threads; /* workers = processes * threads, each with a connection of its own */
	unsigned busy_timeout_ms;
	uint64_t size;	      /* grow the database to this many bytes before the measured part */
	double scale;	      /* rows of a new database; 1 is about 3 MiB */
	uint64_t retain;      /* orders kept by oltp; older ones are deleted */
	uint64_t seed;
	int cache_pages;      /* PRAGMA cache_size; 0 = SQLite's default */
	const char *auto_vacuum; /* NULL, "full" or "incremental", for a new database */
	const char *checkpoint;	 /* mode of the application's own checkpoint, NULL = none */
	uint64_t checkpoint_every, reopen_every, vacuum_every, rollback_every; /* commits of a worker; 0 = never */
	const char *oracle_log, *oracle_dir, *oracle_keep;
	uint64_t oracle_every;
	uint64_t oracle_pause_ms; /* the writer waits that long after each copy */
	const char *json; /* file for the result line, NULL = stdout */
};

/* Fills *ret. Returns -1 to go on, else the exit code (0 after --help, 2 after an error that has been printed). */
int lg_options_parse(int argc, char **argv, struct lg_options *ret);

#endif
