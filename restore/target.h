/*
 * The file that a restore makes: whether its place is free, a temporary file beside it, and the last step that puts it there.
 *
 * Never a database in use: any lock on SQLite's lock bytes or on the -shm file, by whatever process, refuses (MS_EBUSY), --force or
 * not. The check opens and closes the database, which drops POSIX locks that this very process holds on it: a process
 * never restores over a database that it has open itself. Idle rollback-mode connections hold no lock and cannot be seen.
 * A leftover -wal, -shm or -journal counts as an existing target; with force they are set aside as <name>.migrestore-old-<time> before
 * the new file gets its name (SQLite would replay them into it), removed after it is durable, and put back on failure.
 * Blocking: pool threads, one at a time.
 */
#ifndef MS_RESTORE_TARGET_H
#define MS_RESTORE_TARGET_H

#include "base/env.h"
#include "base/fs.h"

struct ms_restore_target {
	struct ms_env *env;
	char path[MS_PATH_MAX];
	char dir[MS_PATH_MAX];	  /* of path */
	char work[MS_PATH_MAX];	  /* temporary file that is being built */
	char beside[MS_PATH_MAX]; /* temporary name in dir that is renamed or linked to path; equals work without a temporary directory */
	char scratch[MS_PATH_MAX]; /* name for a further temporary file beside work (not created here) */
	bool force;
	struct ms_file *file; /* work, open for reading and writing */
	bool made_beside;
	char aside[3][MS_PATH_MAX], old[3][MS_PATH_MAX]; /* set aside as, and what it was; "" none */
};

/* temp_dir NULL: beside the target. Touches nothing. MS_EUSAGE for a path that cannot be a file. */
enum ms_code ms_restore_target_init(struct ms_restore_target *t, struct ms_env *env, const char *path, const char *temp_dir, bool force, struct ms_err *err) MS_WARN_UNUSED;
/* MS_EEXISTS when the database exists (or, *ret_leftover true, only leftovers of one do) and force is off; MS_EBUSY when in use. */
enum ms_code ms_restore_target_check(struct ms_restore_target *t, bool *ret_leftover, struct ms_err *err) MS_WARN_UNUSED;
/* Creates the temporary file (0600). */
enum ms_code ms_restore_target_create(struct ms_restore_target *t, struct ms_err *err) MS_WARN_UNUSED;
/* The finished, verified content is in the temporary file. Copies it beside the target when it lies on another file system (read back and
 * compared), sets permission bits, fsyncs the file that gets the name, puts it in place, fsyncs the directory: on MS_OK the new file is
 * durable under its name. On failure the place is as it was before. cancel (may be NULL) is heeded until the name is taken. */
enum ms_code ms_restore_target_publish(struct ms_restore_target *t, unsigned mode, bool (*canceled)(void *arg), void *arg, struct ms_err *err) MS_WARN_UNUSED;
/* Removes temporary files that are left. Call in any case. */
void ms_restore_target_cleanup(struct ms_restore_target *t);

#endif
