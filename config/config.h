/*
 * Configuration: options as plain data, no behaviour. Read from YAML (JSON is YAML), or made from command-line arguments; every
 * database carries its own fully resolved settings (its own key, else the top-level key, else the default of config/schema.h).
 *
 * A config is immutable once loaded and may be read from any thread. Strings are owned by it. Errors are MS_ECONFIG, and their text
 * is "<file>:<line>:<column>: <key>: <what is wrong, and what to do>" (a file that cannot be read: MS_EIO, MS_EPERM, MS_ENOTFOUND).
 *
 * Backends are unknown here: a replica is either a URL or a type with scalar options, checked by cmd against the driver's option table
 * (cmd/replica_spec.h). Which of these options are secret is asked of the caller (ms_config_secret_cb).
 */
#ifndef MS_CONFIG_CONFIG_H
#define MS_CONFIG_CONFIG_H

#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

#define MS_CONFIG_FILE_MAX (8u << 20) /* bytes */
#define MS_CONFIG_DATABASES_MAX 100000u
#define MS_CONFIG_NAME_MAX 100u /* bytes of a database's or replica's name: one object-name part, [A-Za-z0-9._+-], no dot first */

enum ms_config_codec { MS_CODEC_NONE, MS_CODEC_ZSTD };
enum ms_config_sync { MS_CONFIG_FSYNC, MS_CONFIG_FDATASYNC, MS_CONFIG_ASYNC };
enum ms_config_log_format { MS_CONFIG_LOGFMT, MS_CONFIG_JSON };
enum ms_config_fencing { MS_FENCING_ENFORCE, MS_FENCING_NONE };
enum ms_config_takeover { MS_TAKEOVER_NEVER, MS_TAKEOVER_AUTO };

struct ms_config_option {
	char *key, *value; /* a list's items are joined by ',' */
	unsigned line, column; /* of the value; 0 from the command line */
};

struct ms_config_retention {
	int64_t snapshot_interval_us; /* resolved: never 0 */
	int64_t snapshot_retention_us;
	int64_t check_interval_us;
};

struct ms_config_replica {
	char *name; /* unique within its database */
	char *url;  /* either url, with {db} replaced and the database's name appended where several share it, */
	char *type; /* or type ("file", "s3", ...) and options */
	int required; /* 0 or 1 */
	int fencing;  /* enum ms_config_fencing */
	int64_t min_interval_us; /* the database's, unless given */
	uint64_t bandwidth;	 /* bytes a second, 0 = no limit */
	int64_t concurrency;	 /* objects or parts at once, 0 = the backend's own measure */
	struct ms_config_retention retention; /* each the database's, unless given */
	struct ms_config_option *options; /* in file order, {db} replaced */
	unsigned noptions;
	unsigned line, column; /* 0 from the command line */
	bool min_interval_set_; /* private to config/ */
};

/* Keys that may stand at the top level and in each database. Booleans and enums are int, so that one table can set them. */
struct ms_config_settings {
	int takeover; /* enum ms_config_takeover */
	int64_t snapshot_interval_us;
	double snapshot_share; /* segment bytes / database bytes that trigger a snapshot; 0 = never by share */
	struct ms_config_retention retention;
	struct {
		int codec; /* enum ms_config_codec */
		int64_t level;
		int64_t window; /* zstd window log of blocks; 0 = the block */
	} compression;
	int64_t min_interval_us;
	uint64_t max_wal_bytes;
	int checkpoint; /* 0 or 1 */
	uint64_t checkpoint_bytes;
	int64_t data_loss_window_threshold_us; /* 0 = no warning */
	struct {
		int enabled;
		char *target_path; /* NULL = the database's path */
		char *temp_dir;	   /* NULL = beside the target */
	} restore;
	struct {
		int enabled;
	} local;
};

struct ms_config_database {
	char *path;
	char *name; /* unique; default: base name of path with foreign characters as '_' */
	struct ms_config_settings s;
	struct ms_config_replica *replicas;
	unsigned nreplicas;
	unsigned line, column;
	bool inherits_replicas_; /* private to config/ */
};

struct ms_config {
	char *file; /* as given to load; NULL from the command line */
	char *shadow_dir; /* NULL: cmd/shadow.h decides */
	char *owner;	  /* NULL: random id kept in the shadow directory */
	uint64_t max_shadow_bytes; /* 0 = no cap */
	int64_t shutdown_timeout_us;
	struct {
		int sync_mode; /* enum ms_config_sync */
		int64_t sync_interval_us;
		uint64_t sync_bytes, max_size_bytes;
		int64_t max_age_us;
		int64_t buffer_size; /* entries */
	} journal;
	struct {
		char *address; /* NULL = no TCP listener; else "host:port", "[v6]:port" or ":port" */
	} metrics;
	struct {
		int level;  /* enum ms_log_level */
		int format; /* enum ms_config_log_format */
	} log;
	struct ms_config_settings defaults; /* the top level's */
	struct ms_config_database *databases;
	unsigned ndatabases;
};

enum ms_code ms_config_load(const char *path, struct ms_config **ret, struct ms_err *err) MS_WARN_UNUSED;
/* name stands for the file in errors. text need not be terminated. */
enum ms_code ms_config_load_string(const char *name, const char *text, size_t len, struct ms_config **ret, struct ms_err *err) MS_WARN_UNUSED;
/* One database and its replicas' URLs (none: a local replica), everything else by default. MS_EUSAGE on a bad name or a repeated URL. */
enum ms_code ms_config_from_args(const char *db_path, const char *const *urls, unsigned nurls, struct ms_config **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_config_release(struct ms_config *c); /* accepts NULL */

const struct ms_config_database *ms_config_find(const struct ms_config *c, const char *name_or_path); /* NULL: none */

/* Is this backend's option a secret? type is "s3", or a URL's scheme. An unknown type or key must answer true. */
typedef bool (*ms_config_secret_cb)(const char *type, const char *key);
/* Resolved configuration into out, as YAML or JSON that loads again (but for secrets, which are "***"). secret NULL: every
 * option of a typed replica and every query value of a URL counts as one. */
enum ms_code ms_config_print(const struct ms_config *c, bool json, ms_config_secret_cb secret, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
/* What changes from a to b, one call for each line, e.g. "databases[app].minInterval: 1s -> 5s". Databases are told apart by name.
 * Secrets: "changed". Returns how many lines, or -1 when out of memory. */
int ms_config_diff(const struct ms_config *a, const struct ms_config *b, ms_config_secret_cb secret, void (*line)(void *arg, const char *text), void *arg);

#endif
