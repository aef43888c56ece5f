/*
 * Restore at start, or when a reload brings a database (`restore: {enabled: true}`): a database that is missing, empty, or fails validation comes back from its replicas before it
 * is followed: also from the local replica in the shadow directory, and with what its journal holds on top, so that nothing acknowledged is
 * lost with the file alone. What lies there (also a -wal, -shm or -journal without a database) is set aside as <path>.damaged-<time>, never
 * deleted. Replicas that hold nothing are no error at a first start; they
 * are one where the shadow directory knows the database: a disk may not be mounted. Validation: header, schema, and quick_check up to MS_AUTO_RESTORE_CHECK bytes.
 */
#ifndef MS_CMD_AUTO_RESTORE_H
#define MS_CMD_AUTO_RESTORE_H

#include <stdatomic.h>
#include "base/env.h"
#include "config/config.h"

#define MS_AUTO_RESTORE_CHECK (256u << 20)

/* Every database of the config. The caller has locked the shadow directory, and nobody follows the database. Runs the environment's loop. cancel may be NULL. */
enum ms_code ms_auto_restore(struct ms_env *env, const struct ms_config *config, const char *shadow, const atomic_bool *cancel,
			     struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_auto_restore_database(struct ms_env *env, const struct ms_config *config, const struct ms_config_database *c, const char *shadow,
				      const atomic_bool *cancel, struct ms_err *err) MS_WARN_UNUSED;

#endif
