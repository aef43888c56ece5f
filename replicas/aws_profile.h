/*
 * The shared files of the AWS tools: ~/.aws/credentials ([name]) and ~/.aws/config ([default], [profile name]), or where
 * AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE say. The credentials file goes before the other. Blocking; any thread.
 */
#ifndef MS_REPLICAS_AWS_PROFILE_H
#define MS_REPLICAS_AWS_PROFILE_H

#include "base/buf.h"
#include "base/env.h"

#define MS_AWS_FILE_MAX (1u << 20)

struct ms_aws_profile {
	bool found; /* in either file */
	char access_key[257], secret_key[257], token[4097], region[64];
	char role_arn[2049], role_session[65], web_identity_file[4097];
	bool needs_tool; /* sso_*, credential_process or a role with a source: what only their tools can do */
};

/* name NULL: $AWS_PROFILE, else "default". A missing file is an empty one. MS_EAUTH names file and line of what cannot be read. */
enum ms_code ms_aws_profile_load(struct ms_env *env, const char *name, struct ms_aws_profile *ret, struct ms_err *err) MS_WARN_UNUSED;
/* One file's text. config: sections are "profile NAME". */
enum ms_code ms_aws_profile_parse(const char *file, const char *text, size_t len, bool config, const char *name, struct ms_aws_profile *p,
				  struct ms_err *err) MS_WARN_UNUSED;
void ms_aws_profile_clear(struct ms_aws_profile *p); /* overwrites the secrets */
const char *ms_aws_profile_name(const char *name);

#endif
