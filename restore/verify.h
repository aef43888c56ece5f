/*
 * The proofs over a finished file: every page read back and hashed against what was applied, the database checksum, the file's size, the
 * empty lock page; and SQLite's own checks on request. Pool threads.
 */
#ifndef MS_RESTORE_VERIFY_H
#define MS_RESTORE_VERIFY_H

#include <stdatomic.h>
#include "core/types.h"
#include "restore/pagehash.h"

struct ms_verify_pages {
	struct ms_env *env;
	struct ms_file *file;
	struct ms_pagehash *hashes;
	const struct ms_dbstate *state;
	const atomic_bool *cancel; /* may be NULL */
	atomic_uint_fast64_t next; /* next stretch */
	atomic_uint_fast64_t sum, bytes;
	atomic_bool failed;
};
/* Takes stretches until none is left; any number of workers at once. MS_EIO names the page that does not read back as applied. */
enum ms_code ms_verify_pages_work(struct ms_verify_pages *v, struct ms_err *err) MS_WARN_UNUSED;
/* After all workers. */
enum ms_code ms_verify_pages_finish(struct ms_verify_pages *v, struct ms_err *err) MS_WARN_UNUSED;

/* quick_check or integrity_check of a database file that nobody else has open; leaves no file beside it. MS_ECORRUPT with SQLite's first
 * complaint. Needs real files (not the simulator). */
enum ms_code ms_verify_sqlite(const char *path, bool full, const atomic_bool *cancel, struct ms_err *err) MS_WARN_UNUSED;

#endif
