/*
 * `migstream doctor`: looks at a database, its surroundings and its replicas, changes nothing of the user's, and says what would keep
 * replication from working and what to do. Each finding is one check. Blocking; one thread.
 */
#ifndef MS_CMD_DOCTOR_H
#define MS_CMD_DOCTOR_H

#include <jansson.h>
#include <stdio.h>
#include "base/env.h"
#include "replicas/replica.h"

enum ms_finding { MS_FINDING_OK, MS_FINDING_WARN, MS_FINDING_FAIL };

struct ms_check {
	enum ms_finding result;
	char name[32];	   /* "wal-mode"; stable, for --json */
	char subject[256]; /* what was looked at: a path, a replica's printable URL */
	char message[512]; /* what was found */
	char advice[1280]; /* what to do; "" with ok */
};

struct ms_doctor {
	struct ms_env *env;
	struct ms_check *checks;
	unsigned n, cap;
	bool out_of_memory; /* a finding got lost: counts as a failure */
};

void ms_doctor_init(struct ms_doctor *d, struct ms_env *env);
void ms_doctor_release(struct ms_doctor *d);
/* advice NULL with ok. */
void ms_doctor_add(struct ms_doctor *d, enum ms_finding result, const char *name, const char *subject, const char *advice, const char *fmt, ...) MS_PRINTF(6, 7);

/* Our own SQLite, the clock. */
void ms_doctor_system(struct ms_doctor *d);
/* The database file, its directory, its file system; works without opening it through SQLite. */
void ms_doctor_database(struct ms_doctor *d, const char *path);
/* Room, rights and file system of the shadow directory (or of where it will be made) for a database of that many bytes. */
void ms_doctor_shadow(struct ms_doctor *d, const char *shadow_dir, uint64_t db_bytes);
/* Any backend, through its driver: reachable, credentials, each right by itself (write, read, list, remove), create only if absent, clock, speed. Puts, reads,
 * lists and removes probe objects "probe/<16 hex digits>", at most 2 MiB. subject: how to name the replica, without secrets. fencing_none: the configuration says
 * that the backend cannot create only if absent. */
void ms_doctor_replica(struct ms_doctor *d, const char *subject, const struct ms_replica_spec *spec, bool fencing_none);

bool ms_doctor_ok(const struct ms_doctor *d); /* nothing failed */
void ms_doctor_print(const struct ms_doctor *d, FILE *out);
json_t *ms_doctor_json(const struct ms_doctor *d); /* {"ok":bool,"checks":[{"name","subject","result","message","advice"}]} */

/* A file system's name by its statfs magic, and what it is good for: OK, WARN (locks and mmap may not reach every host), FAIL (they do not). */
enum ms_finding ms_doctor_filesystem(unsigned long magic, const char **ret_name);
/* The WAL-reset bug: 3.7.0 to 3.51.2, but not 3.44.6 and later in 3.44, nor 3.50.7 and later in 3.50. version as SQLITE_VERSION_NUMBER. */
bool ms_sqlite_has_wal_reset_bug(uint32_t version);

#endif
