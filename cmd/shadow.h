/*
 * Where things lie (DESIGN §10): the configuration that a command uses, and the shadow directory of a configuration or database.
 * Called before threads exist (environment variables are read).
 */
#ifndef MS_CMD_SHADOW_H
#define MS_CMD_SHADOW_H

#include "base/fs.h"
#include "cmd/args.h"
#include "config/config.h"

/* Default shadow directory for `path` (a configuration file or a database; need not exist): $MIGSTREAM_SHADOW, else
 * <state>/<base name>-<first 16 hex digits of SHA-256 of the canonical path>, where state is /var/lib/migstream for root, else
 * $XDG_STATE_HOME/migstream, else ~/.local/state/migstream. */
enum ms_code ms_shadow_default(const char *path, char ret[MS_PATH_MAX], struct ms_err *err) MS_WARN_UNUSED;
/* Of a loaded configuration: its shadowDir, else the default by its file, else by its one database. */
enum ms_code ms_shadow_of_config(const struct ms_config *c, char ret[MS_PATH_MAX], struct ms_err *err) MS_WARN_UNUSED;
/* Absolute path without symlinks as far as it exists; a missing tail is kept. */
enum ms_code ms_canonical_path(const char *path, char ret[MS_PATH_MAX], struct ms_err *err) MS_WARN_UNUSED;

/* -c FILE, else $MIGSTREAM_CONFIG, else /etc/migstream.yml where it exists; NULL: none. */
const char *ms_config_lookup(const char *option);

/*
 * For `replicate`: the configuration of its arguments (-c FILE, or DB URL..., or the looked-up file) and its shadow directory.
 * --takeover sets takeover of every database.
 */
enum ms_code ms_replicate_config(const struct ms_args *a, struct ms_config **ret, char shadow[MS_PATH_MAX], struct ms_err *err) MS_WARN_UNUSED;

/* For commands that talk to a daemon (options socket and config in the table; db NULL when the command names none). */
struct ms_target {
	char socket[MS_PATH_MAX]; /* path of the socket; any length */
	char shadow[MS_PATH_MAX]; /* "" with --socket */
	struct ms_config *config; /* NULL: none was needed */
};
/* --socket, else -c, else the database's own default shadow directory where that exists, else the looked-up configuration, else (with a
 * database) the default of the database. MS_EUSAGE when nothing says where to look. */
enum ms_code ms_target_find(const struct ms_args *a, const char *db, struct ms_target *ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_target_release(struct ms_target *t);

#endif
