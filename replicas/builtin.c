#include "replicas/builtin.h"

const struct ms_replica_driver *const ms_builtin_drivers[] = {&ms_replica_file_driver, &ms_replica_s3_driver, &ms_replica_sftp_driver, &ms_replica_nats_driver, NULL};
