/*
 * Where a bucket answers: endpoint, region and addressing style, from options and environment. Pure but for getenv().
 */
#ifndef MS_REPLICAS_S3_ADDRESS_H
#define MS_REPLICAS_S3_ADDRESS_H

#include "base/buf.h"
#include "replicas/replica.h"

#define MS_S3_PREFIX_MAX 500 /* with a '/' and the longest object name it is a key of at most 1,024 bytes */

struct ms_s3_address {
	char bucket[256], prefix[MS_S3_PREFIX_MAX + 1]; /* prefix without slashes at its ends, may be "" */
	char region[64];
	bool aws;	   /* Amazon's own endpoint, which follows the region */
	bool tls;
	bool path_style;   /* https://host/bucket/key, else https://bucket.host/key */
	char host[300];	   /* with the port, where it is not the scheme's own; without the bucket */
	char base[256];	   /* path before the bucket: "" or "/s3" */
};

/* profile_region: from the shared configuration, NULL none. MS_EUSAGE. */
enum ms_code ms_s3_address_init(struct ms_s3_address *a, const struct ms_replica_spec *spec, const char *profile_region, struct ms_err *err) MS_WARN_UNUSED;
/* Another region became known: the endpoint follows where it is Amazon's. False: no region by its form, or the same. */
bool ms_s3_address_region(struct ms_s3_address *a, const char *region);
/* The Host header's value. */
const char *ms_s3_address_host(const struct ms_s3_address *a, char ret[600]);
/* Appends the path as it is sent: key NULL = the bucket. */
enum ms_code ms_s3_address_path(const struct ms_s3_address *a, const char *key, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
/* <prefix>/<name>, or name. ret holds MS_S3_KEY_MAX + 1 bytes. */
void ms_s3_address_key(const struct ms_s3_address *a, const char *name, char *ret);

#endif
