/*
 * The environment seam (DESIGN §13). Core, the replicas' retry logic, retention and restore reach clocks, randomness,
 * timers, files and threads only through a struct ms_env. Two implementations: base/env_uv.c (libuv and threads) and
 * base/env_sim.c (one thread, virtual time, a file system that forgets what was not synced, injected errors).
 *
 * Threads: "loop thread" is the one that runs ms_env_run(). Timers, polls, submit() and done-callbacks belong to the
 * loop thread. Jobs' run-callbacks execute on pool threads and may use only time, random, file operations and post().
 * A run-callback never waits for another job (the simulator runs each to its end before anything else).
 */
#ifndef MS_BASE_ENV_H
#define MS_BASE_ENV_H

#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct ms_env;
struct ms_timer;
struct ms_poll;
struct ms_file;

/* A lane bounds how many of its jobs run at once, so that slow uploads never starve capture. */
enum ms_lane {
	MS_LANE_SOURCE, /* capture steps */
	MS_LANE_SYNC,	/* fsync, journal */
	MS_LANE_UPLOAD, /* blocking backend calls */
	MS_LANE_CPU,	/* compression, verification */
	MS_LANE_COUNT
};

/* Owned by the submitter, must stay valid until done() has been called. A job may be submitted again from its done(). */
struct ms_job {
	void (*run)(void *arg);	 /* pool thread; may block */
	void (*done)(void *arg); /* loop thread, exactly once after run; may be NULL */
	void *arg;
	struct ms_job *next_; /* private to the environment */
	void *priv_;
};

enum { /* ms_env_open flags */
	MS_O_RDONLY = 0,
	MS_O_RDWR = 1,
	MS_O_CREATE = 2, /* create if missing, mode as given */
	MS_O_EXCL = 4,	 /* with CREATE: MS_EEXISTS when present */
	MS_O_TRUNC = 8,
	MS_O_NOFOLLOW = 16,
};

struct ms_stat {
	int64_t size;
	int64_t mtime_us;
	uint64_t dev, ino;
	uint32_t mode; /* st_mode */
	uint32_t uid, gid;
	bool is_dir, is_file;
};

/* Called for each entry but "." and ".."; return false to stop. */
typedef bool (*ms_dir_cb)(void *arg, const char *name, bool is_dir);

struct ms_env_ops {
	int64_t (*now_us)(struct ms_env *);   /* wall clock, microseconds since the epoch */
	uint64_t (*mono_ns)(struct ms_env *); /* monotonic nanoseconds */
	void (*random)(struct ms_env *, void *buf, size_t n);
	void (*sleep_us)(struct ms_env *, uint64_t us); /* pool threads only */

	struct ms_timer *(*timer_new)(struct ms_env *, void (*cb)(void *), void *arg); /* NULL: out of memory */
	void (*timer_start)(struct ms_timer *, uint64_t delay_us);			 /* one-shot; restarts when armed */
	void (*timer_stop)(struct ms_timer *);
	void (*timer_free)(struct ms_timer *); /* accepts NULL; cb is not called afterwards */
	/* cb on the loop thread whenever fd is readable or broken (level-triggered); fd becomes non-blocking and stays the
	 * caller's, to be closed after poll_free(). NULL: out of memory, or fd is of a kind that is always ready. The
	 * simulator returns NULL. */
	struct ms_poll *(*poll_new)(struct ms_env *, int fd, void (*cb)(void *), void *arg);
	void (*poll_free)(struct ms_poll *); /* accepts NULL; cb is not called afterwards */

	void (*submit)(struct ms_env *, enum ms_lane, struct ms_job *);
	void (*post)(struct ms_env *, void (*cb)(void *), void *arg); /* any thread: run cb on the loop thread soon */
	void (*run)(struct ms_env *); /* until stop(); the simulator also returns when nothing is left to do */
	void (*stop)(struct ms_env *); /* any thread; before run(), it makes that one return early */

	/* Files: blocking, any thread; paths are used as given and symlinks followed, except by unlink, rename and link. Errors
	 * name the path; err->sys is the errno where the code is not enough (ENOTEMPTY, ENOTDIR, EISDIR, EXDEV: MS_EIO).
	 * open() refuses directories. */
	enum ms_code (*open)(struct ms_env *, const char *path, int flags, unsigned mode, struct ms_file **ret, struct ms_err *);
	void (*close)(struct ms_file *); /* accepts NULL; makes nothing durable */
	/* Reads up to n bytes at off; *ret_n < n only at end of file. */
	enum ms_code (*pread)(struct ms_file *, void *buf, size_t n, int64_t off, size_t *ret_n, struct ms_err *);
	enum ms_code (*pwrite)(struct ms_file *, const void *buf, size_t n, int64_t off, struct ms_err *); /* all or error */
	enum ms_code (*fsync)(struct ms_file *, struct ms_err *);
	enum ms_code (*fdatasync)(struct ms_file *, struct ms_err *);
	enum ms_code (*truncate)(struct ms_file *, int64_t size, struct ms_err *);
	enum ms_code (*fsize)(struct ms_file *, int64_t *ret, struct ms_err *);
	enum ms_code (*fchmod)(struct ms_file *, unsigned mode, struct ms_err *);
	int (*fd)(struct ms_file *); /* -1 in the simulator */
	/* Advisory exclusive lock on the whole file, released by close; MS_EBUSY when held by another process. */
	enum ms_code (*lock)(struct ms_file *, struct ms_err *);
	enum ms_code (*stat)(struct ms_env *, const char *path, struct ms_stat *ret, struct ms_err *);
	enum ms_code (*rename)(struct ms_env *, const char *from, const char *to, struct ms_err *); /* replaces `to` */
	/* link(2): MS_EEXISTS when `to` is present. The create-if-absent primitive of the file replica. */
	enum ms_code (*link)(struct ms_env *, const char *from, const char *to, struct ms_err *);
	enum ms_code (*unlink)(struct ms_env *, const char *path, struct ms_err *); /* MS_ENOTFOUND when missing */
	enum ms_code (*rmdir)(struct ms_env *, const char *path, struct ms_err *);
	enum ms_code (*mkdir)(struct ms_env *, const char *path, unsigned mode, struct ms_err *); /* MS_EEXISTS when present */
	enum ms_code (*fsync_dir)(struct ms_env *, const char *path, struct ms_err *);
	enum ms_code (*readdir)(struct ms_env *, const char *path, ms_dir_cb cb, void *arg, struct ms_err *);
	/* Bytes free for us on the file system of path. */
	enum ms_code (*disk_free)(struct ms_env *, const char *path, uint64_t *ret, struct ms_err *);
};

struct ms_env {
	const struct ms_env_ops *ops;
};

/* Real environment: libuv loop owned by the env, pool threads started on demand.
 * lane_threads[i] = most threads for a lane (0 = default: SOURCE 2, SYNC 1, UPLOAD 16, CPU 2). */
struct ms_env *ms_env_uv_new(const unsigned lane_threads[MS_LANE_COUNT], struct ms_err *err);
/* Loop thread, outside of run(). Stops the pool (running jobs finish, queued ones are dropped; no done() and no post is called
 * any more), closes the loop. Timers and polls must have been freed before. Accepts NULL. */
void ms_env_uv_free(struct ms_env *env);
/* The libuv loop (uv_loop_t *), for cmd's signal and process handles only. */
void *ms_env_uv_loop(struct ms_env *env);

/* Thin callers, so that code reads env_now(env). All forward to ops. */
#define ms_env_now_us(e) ((e)->ops->now_us(e))
#define ms_env_mono_ns(e) ((e)->ops->mono_ns(e))
#define ms_env_random(e, b, n) ((e)->ops->random(e, b, n))

#endif
