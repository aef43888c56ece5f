/* The drivers that ms_replicas_register_builtin() registers. `mem` is not among them: it is no replica, only a test double. */
#ifndef MS_REPLICAS_BUILTIN_H
#define MS_REPLICAS_BUILTIN_H

#include "replicas/replica.h"

extern const struct ms_replica_driver ms_replica_file_driver;
extern const struct ms_replica_driver ms_replica_s3_driver;
extern const struct ms_replica_driver ms_replica_sftp_driver;
extern const struct ms_replica_driver ms_replica_nats_driver;

/* Ends with NULL. */
extern const struct ms_replica_driver *const ms_builtin_drivers[];

#endif
