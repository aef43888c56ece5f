/*
 * Replica URLs (DESIGN §10) to and from struct ms_replica_spec.
 *   file:///dir   s3://bucket/prefix?endpoint=..&region=..   sftp://user@host:port/dir?keyPath=..   nats://host:4222/bucket/prefix
 *   scheme://user@host:port/path?key=value for a driver from outside: options user, host, port, path and the keys
 * A plain path (starting with '/' or '.') is a file replica and taken as it is. In URLs percent-escapes are decoded. Unknown query
 * keys, secrets in the URL and missing parts are MS_EUSAGE with the nearest known key. The scheme's driver must be registered.
 */
#ifndef MS_REPLICAS_URL_H
#define MS_REPLICAS_URL_H

#include "replicas/replica.h"

enum ms_code ms_url_parse(const char *url, struct ms_replica_spec *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Without secrets, for logs and status. Truncated to cap. */
char *ms_url_format(const struct ms_replica_spec *s, char *ret, size_t cap);

#endif
