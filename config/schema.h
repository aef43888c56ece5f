/*
 * The one table of configuration keys. Parsing, errors, `config print`, diffs and the manual page come from it.
 */
#ifndef MS_CONFIG_SCHEMA_H
#define MS_CONFIG_SCHEMA_H

#include "config/config.h"

enum ms_key_type {
	MS_KEY_STRING,	 /* char *, NULL when not given */
	MS_KEY_PATH,	 /* likewise */
	MS_KEY_BOOL,	 /* int */
	MS_KEY_ENUM,	 /* int: index in values */
	MS_KEY_UINT,	 /* int64_t */
	MS_KEY_NUMBER,	 /* double */
	MS_KEY_DURATION, /* int64_t microseconds */
	MS_KEY_SIZE,	 /* uint64_t bytes */
};

enum ms_key_scope {
	MS_SCOPE_DAEMON,   /* top level only; offset in struct ms_config */
	MS_SCOPE_SETTINGS, /* top level and databases[]; offset in struct ms_config_settings */
	MS_SCOPE_DATABASE, /* databases[] only; offset in struct ms_config_database */
	MS_SCOPE_REPLICA,  /* replicas[] only; offset in struct ms_config_replica */
};

enum {
	MS_KEY_ZERO_INHERITS = 1, /* 0 = as if not given */
	MS_KEY_BARE = 2,	  /* `compression: zstd` stands for `compression: {codec: zstd}` */
	MS_KEY_REQUIRED = 4,
	MS_KEY_NAME = 8, /* a name: see MS_CONFIG_NAME_MAX */
	MS_KEY_ZERO_OK = 16, /* 0 is allowed beside min..max */
};

struct ms_key_def {
	const char *path; /* within its scope, at most two levels: "retention.checkInterval" */
	enum ms_key_scope scope;
	enum ms_key_type type;
	size_t offset;
	const char *def;    /* as it would be written; NULL = none */
	const char *values; /* of an enum: "never|auto" */
	double min, max;    /* in the type's unit; max 0 = no range */
	unsigned flags;
	const char *help; /* one line */
};

extern const struct ms_key_def ms_config_keys[]; /* ends with path == NULL */

/* Sets the field at base + offset from text (defaults, files). plain: written without quotes or made by expansion, so that numbers and
 * booleans are allowed. The message (MS_ECONFIG) has no position: the caller wraps it. */
enum ms_code ms_key_set(const struct ms_key_def *k, void *base, const char *text, bool plain, struct ms_err *err) MS_WARN_UNUSED;
/* The field as it would be written, into ret (truncated); NULL when a string is not set. */
const char *ms_key_format(const struct ms_key_def *k, const void *base, char *ret, size_t cap);
/* For people: "duration, 10ms to 3650d or 0, default 6h", into ret (truncated). */
const char *ms_key_about(const struct ms_key_def *k, char *ret, size_t cap);
bool ms_config_name_valid(const char *s);

/* Private helpers shared by parse.c, resolve.c and diff.c. */
enum ms_code ms_config_set_defaults(struct ms_config *c, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_config_settings_copy(struct ms_config_settings *to, const struct ms_config_settings *from, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_config_replica_copy(struct ms_config_replica *to, const struct ms_config_replica *from, struct ms_err *err) MS_WARN_UNUSED;
void ms_config_settings_release(struct ms_config_settings *s);
void ms_config_replicas_release(struct ms_config_replica *r, unsigned n);
/* After parsing: names, inheritance, top-level replicas handed to the databases, checks between databases. */
enum ms_code ms_config_resolve(struct ms_config *c, const struct ms_config_replica *shared, unsigned nshared, struct ms_err *err) MS_WARN_UNUSED;
/* The backend that a replica's url or type names, into ret; "" when the URL has no scheme (a plain path: "file"). */
const char *ms_config_replica_type(const struct ms_config_replica *r, char ret[32]);
/* "<file>:<line>:<column>: ", or "" from the command line. */
const char *ms_config_where(const char *file, unsigned line, unsigned column, char *ret, size_t cap);

#endif
