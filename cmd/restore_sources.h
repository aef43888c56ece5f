/*
 * Which replicas a reading command means: URLs, or a database of a configuration, and with --shadow what a live host keeps for itself.
 * For migrestore, list and verify. Main thread, before anything runs.
 */
#ifndef MS_CMD_RESTORE_SOURCES_H
#define MS_CMD_RESTORE_SOURCES_H

#include "base/fs.h"
#include "cmd/args.h"
#include "config/config.h"
#include "restore/fetch.h"

struct ms_restore_sources {
	struct ms_replica_spec *specs;
	struct ms_restore_replica *replicas; /* for the restore library */
	char **urls;			     /* printable */
	unsigned n;
	char journal_dir[MS_PATH_MAX]; /* with shadow: "" none */
	char journal_db[MS_CONFIG_NAME_MAX + 1];
};

/*
 * From the arguments: with --config (or, when the only positional is no URL, the looked-up configuration) the positional names a database by
 * name or path; else each positional is a URL. shadow: value of --shadow, or NULL; its database is the configuration's, a positional that is no
 * URL, or the only one there. Registers the drivers. MS_EUSAGE, MS_ECONFIG.
 */
enum ms_code ms_restore_sources_find(struct ms_env *env, const struct ms_args *a, const char *shadow, struct ms_restore_sources *ret,
				     struct ms_err *err) MS_WARN_UNUSED;
void ms_restore_sources_release(struct ms_restore_sources *s);

#endif
