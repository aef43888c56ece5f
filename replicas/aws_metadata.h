/*
 * Temporary credentials from services: a container's endpoint, an instance's metadata (version 2: with a session token), STS for a web identity.
 * One request or two each, none longer than a few seconds, none through a proxy but STS. Blocking; any thread.
 */
#ifndef MS_REPLICAS_AWS_METADATA_H
#define MS_REPLICAS_AWS_METADATA_H

#include "replicas/aws_credentials.h"

enum ms_aws_fetch_kind { MS_AWS_CONTAINER, MS_AWS_INSTANCE, MS_AWS_WEB_IDENTITY };

struct ms_aws_fetch {
	enum ms_aws_fetch_kind kind;
	const char *uri;	/* container: the variable's value; instance: another endpoint, NULL the usual one */
	bool relative;		/* container: uri is a path on 169.254.170.2 */
	const char *token_file; /* container: of the Authorization header; web identity: the token */
	const char *token;	/* container: the Authorization header */
	const char *role_arn, *session, *region, *ca_file;
};

/* What they are kept under: no secret. */
void ms_aws_fetch_name(const struct ms_aws_fetch *f, char ret[256]);
enum ms_code ms_aws_fetch(struct ms_env *env, const struct ms_aws_fetch *f, struct ms_aws_keys *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Only https, this host, and the container services' own addresses may see the Authorization header. */
bool ms_aws_container_uri_allowed(const char *uri);

#endif
