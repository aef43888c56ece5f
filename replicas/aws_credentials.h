/*
 * Credentials of the AWS kind, from the first of these that has any:
 *   1. the options accessKeyId and secretAccessKey (and sessionToken)
 *   2. with the option profile: that profile of the shared files
 *   3. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)
 *   4. AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN (STS)
 *   5. the profile $AWS_PROFILE, or "default"
 *   6. AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI
 *   7. the instance role (IMDSv2), unless AWS_EC2_METADATA_DISABLED=true
 * What expires (4, 6, 7) is kept once for the process, fetched by one thread while others wait, and renewed five minutes before its end; if that fails, the
 * old ones serve until their end.
 *
 * Any thread; blocking. Errors: MS_EAUTH says where it was looked, never with a secret in it.
 */
#ifndef MS_REPLICAS_AWS_CREDENTIALS_H
#define MS_REPLICAS_AWS_CREDENTIALS_H

#include "base/env.h"
#include "replicas/replica.h"

struct ms_aws_keys {
	char access_key[257], secret_key[257];
	char token[4097];    /* "" none */
	int64_t expires_us;  /* 0 never */
	char source[80];     /* "environment", "profile backup", ... for messages */
};
void ms_aws_keys_clear(struct ms_aws_keys *k);

struct ms_aws_source {
	struct ms_env *env;
	const char *access_key, *secret_key, *token; /* options; NULL or "" = not given */
	const char *profile;
	const char *region; /* for STS */
	const char *ca_file;
};

/* now_us: corrected for a clock that is off. renew: what is kept was refused, fetch anew. */
enum ms_code ms_aws_credentials(const struct ms_aws_source *s, int64_t now_us, bool renew, struct ms_aws_keys *ret, struct ms_err *err) MS_WARN_UNUSED;
/* {"AccessKeyId","SecretAccessKey","Token","Expiration"} as metadata services answer. */
enum ms_code ms_aws_keys_decode_json(const void *data, size_t len, struct ms_aws_keys *ret, struct ms_err *err) MS_WARN_UNUSED;
/* AssumeRoleWithWebIdentityResponse. */
enum ms_code ms_aws_keys_decode_sts(const void *data, size_t len, struct ms_aws_keys *ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
