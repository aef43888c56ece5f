/*
 * The daemon: everything between a resolved configuration and running streams. Owns the shadow directory (lock, owner id), the
 * journal, one stream for each database, the control server. Loop thread, but for the control operations (daemon_control.c).
 */
#ifndef MS_CMD_DAEMON_H
#define MS_CMD_DAEMON_H

#include <stdatomic.h>

#include "base/fs.h"
#include "cmd/control_server.h"
#include "config/config.h"
#include "core/stream_purge.h"

struct ms_daemon_db {
	char *name;
	char *path; /* canonical */
	struct ms_stream *stream;
	struct ms_err ended; /* code != MS_OK once it is fenced or failed */
	bool stopping, stopped;
	bool tune;     /* a reload changes what needs no start */
	bool given_up; /* --once: a replica cannot be reached */
	struct ms_daemon *daemon;
};

struct ms_daemon_options {
	bool once;
	/* Instead of the SQLite follower (observer); NULL: the follower. */
	struct ms_source *(*make_source)(void *arg, const struct ms_config_database *c, struct ms_err *err);
	void *make_source_arg;
	/* Called once the shadow directory is locked, before anything in it is opened; NULL: nothing. May run the loop. */
	enum ms_code (*prepare)(void *arg, const struct ms_config *config, const char *shadow, struct ms_err *err);
	void *prepare_arg;
};

struct ms_daemon {
	struct ms_env *env;
	struct ms_config *config; /* owned */
	char shadow[MS_PATH_MAX];
	char owner[128], host[128];
	struct ms_file *lock;
	struct ms_journal *journal;
	struct ms_control_server *control;
	struct ms_daemon_db **dbs;
	unsigned ndbs;
	uint64_t cap_bytes; /* maxShadowBytes of the start */
	struct ms_timer *tick;
	unsigned restarting; /* databases that are stopped to be started again after a takeover */
	int64_t started_us;
	struct ms_daemon_options opt;
	bool stopping;
	int exit_code;
	/* SIGHUP under way (daemon_reload.c): what has to stop first, databases and replicas. */
	struct ms_config *next_config;
	unsigned changing;
	bool reload_again;	    /* SIGHUP while that was under way */
	unsigned restoring;	    /* databases that came with it and are being restored */
	atomic_bool restore_cancel;
	/* Loop-thread callback whenever something changed (for --exec and --once). */
	void (*changed)(void *arg);
	void *changed_arg;
	void *ops_state; /* daemon_control.c */
};

/* Locks the shadow directory (MS_EBUSY: another daemon, named by pid where known), opens the journal, builds the streams. Takes config on MS_OK. */
enum ms_code ms_daemon_new(struct ms_env *env, struct ms_config *config, const char *shadow, const struct ms_daemon_options *opt, struct ms_daemon **ret,
			   struct ms_err *err) MS_WARN_UNUSED;
void ms_daemon_start(struct ms_daemon *d);
/* Ships what is pending for at most the configured time, then stops the loop; exit code in d->exit_code. */
void ms_daemon_stop(struct ms_daemon *d, int exit_code);
void ms_daemon_db_stopped(void *db);
void ms_daemon_maybe_stopped(struct ms_daemon *d); /* ends the loop when nothing is left to stop */
/* Loads the file again. What concerns replicas is changed while the database is followed; a database with other changes is stopped and started. One
 * that is new is restored first where its configuration says so. Logs what changed. */
void ms_daemon_reload(struct ms_daemon *d);
void ms_daemon_reload_later(struct ms_daemon *d); /* the reload that was asked for meanwhile, if any */
bool ms_daemon_all_attached(const struct ms_daemon *d);
/* What is not on every required replica yet, for the last line: databases and their newest unshipped commits. */
unsigned ms_daemon_unshipped(const struct ms_daemon *d, uint64_t *ret_bytes);
void ms_daemon_free(struct ms_daemon *d);
/* Takes the database's replicas over. One that was refused or fenced, and has ended for that, starts again; the mark that asks for it is durable. */
enum ms_code ms_daemon_takeover(struct ms_daemon *d, struct ms_daemon_db *db, struct ms_err *err) MS_WARN_UNUSED;
struct ms_daemon_db *ms_daemon_find(struct ms_daemon *d, const char *name_or_path);

/* daemon_db.c: builds the stream of one configured database. */
enum ms_code ms_daemon_db_new(struct ms_daemon *d, const struct ms_config_database *c, struct ms_daemon_db **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_daemon_db_free(struct ms_daemon_db *db);
/* Its own directory in the shadow directory. */
enum ms_code ms_daemon_db_dir(const struct ms_daemon *d, const char *name, char ret[MS_PATH_MAX], struct ms_err *err) MS_WARN_UNUSED;
/* What ms_stream_tune() looks at. */
void ms_daemon_db_policy(const struct ms_config_database *c, struct ms_stream_config *ret);

/* daemon_replicas.c: as a stream's configuration wants them; n of each, names borrowed from c. file: of the configuration, for errors; may be NULL. */
struct ms_daemon_replicas {
	struct ms_worker_config *w;
	struct ms_replica_spec *specs;
	char (*urls)[512];
	unsigned n;
};
enum ms_code ms_daemon_replicas_make(const char *file, const struct ms_config_database *c, const char *dir, struct ms_daemon_replicas *ret,
				     struct ms_err *err) MS_WARN_UNUSED;
void ms_daemon_replicas_release(struct ms_daemon_replicas *r);
void ms_daemon_replica_warn(const char *db, const struct ms_worker_config *w); /* says what is unsafe about it */

/* daemon_control.c */
enum ms_code ms_daemon_control_start(struct ms_daemon *d, struct ms_err *err) MS_WARN_UNUSED;
void ms_daemon_control_close(struct ms_daemon *d); /* loop thread: ends operations that wait */
void ms_daemon_control_free(struct ms_daemon *d);

#endif
