/*
 * From a configured replica (URL, or type and options) to a driver's spec, checked against the driver's option table: unknown, missing and badly
 * typed options name file, line and the nearest known option. Drivers must be registered before.
 */
#ifndef MS_CMD_REPLICA_SPEC_H
#define MS_CMD_REPLICA_SPEC_H

#include "config/config.h"
#include "replicas/replica.h"

/* file: for errors, NULL from the command line. ret is released by ms_replica_spec_release(). MS_ECONFIG, or MS_EUSAGE for a URL from the command line. */
enum ms_code ms_replica_spec_from_config(const char *file, const struct ms_config_replica *r, struct ms_replica_spec *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Every replica of every database; also that a database with fencing somewhere is sound. */
enum ms_code ms_replica_specs_check(const struct ms_config *c, struct ms_err *err) MS_WARN_UNUSED;
/* For ms_config_print and ms_config_diff: by the driver's table; unknown = secret. */
bool ms_replica_option_secret(const char *type, const char *key);

#endif
