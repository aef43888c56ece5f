/*
 * What the parts of the sftp driver share: sftp.c (open, connection, remove, list), sftp_put.c, sftp_get.c.
 */
#ifndef MS_REPLICAS_SFTP_H
#define MS_REPLICAS_SFTP_H

#include <stdatomic.h>

#include "base/fs.h"
#include "replicas/replica.h"
#include "replicas/sftp_wire.h"

#define MS_SFTP_DIRS_KNOWN 32
#define MS_SFTP_ORPHANS_MAX 16
#define MS_SFTP_PATH_CAP (MS_PATH_MAX + MS_OBJECT_NAME_MAX + 64)

struct ms_sftp_replica {
	struct ms_replica_base base;
	struct ms_env *env;
	struct ms_replica_spec spec; /* a copy: `to` points into it */
	struct ms_sftp_target to;
	struct ms_sftp s;
	atomic_bool cancelled;
	int wake_fd;
	unsigned parallel;
	bool create;	/* may make <path>; cleared by the first success */
	bool exclusive; /* the name must be created only if absent */
	bool dir_sync;	/* this server has synced a directory for us */
	bool dir_sync_tried;
	uint64_t used_ns; /* when the connection was last heard */
	char root[MS_PATH_MAX];	     /* <path>, without a trailing slash but for "/"; "." for the login directory */
	struct ms_sftp_dir {
		char *path;
		bool swept; /* of dead temporaries */
	} dirs[MS_SFTP_DIRS_KNOWN]; /* that are there and durable, in a ring; forgotten with the connection, and when one is found missing */
	unsigned next_dir;
	char *orphans[MS_SFTP_ORPHANS_MAX]; /* temporaries whose removal was not answered */
	unsigned norphans;
	char user[64];
};

/* A connection that is up, made anew where it has to be. */
enum ms_code ms_sftp_ready(struct ms_sftp_replica *r, struct ms_err *err) MS_WARN_UNUSED;
/* Every call ends here, with its result. wire_broken: the connection is in an unknown state and goes. */
enum ms_code ms_sftp_finish(struct ms_sftp_replica *r, enum ms_code rc, bool wire_broken);
/* <path>/<name> */
void ms_sftp_path(const struct ms_sftp_replica *r, char ret[MS_SFTP_PATH_CAP], const char *name);
enum ms_code ms_sftp_missing(struct ms_sftp_replica *r, const char *name, struct ms_err *err);
enum ms_code ms_sftp_canceled(struct ms_sftp_replica *r, struct ms_err *err);
void ms_sftp_forget_dirs(struct ms_sftp_replica *r);

/* sftp_put.c: <path> itself is there, or was made where that is allowed. */
enum ms_code ms_sftp_make_root(struct ms_sftp_replica *r, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_put(struct ms_replica *base, const char *name, struct ms_body *b, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_get(struct ms_replica *base, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;

#endif
