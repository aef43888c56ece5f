/*
 * The simulated environment, for tests: the real objects run in one thread under virtual time and a seeded scheduler, on a
 * disk in memory that forgets in a crash what was not synced. The same seed and the same calls give the same run.
 *
 * Scheduler: among what is ready (jobs, their done-callbacks, posts, due timers) the next is picked at random. A job's run()
 * executes at once and as a whole, some virtual time after submit(); its done() is a later event. Within a lane jobs start
 * as far out of order as the lane's threads allow (one thread: in order). Posts and due timers have no order. Time moves a
 * little with every event, file operation and look at a clock, by sleep_us(), and jumps to the next event when none is ready.
 *
 * Disk: a write is in the file's volatile image at once, and in the durable one after fsync or fdatasync, or at any time
 * before by itself, 512 bytes at a time. create, mkdir, link, unlink and rename become durable by fsync_dir of the parent; a
 * crash keeps each earlier one, or not. A rename is kept or lost as a whole until one of two directories was synced: then
 * the new name never goes missing, but the old one may come back. A failed fsync forgets what it should have written, as
 * Linux does: the next one succeeds without it. There are no symlinks, no permission checks, no lasting mtime; umask is 022.
 *
 * Threads: everything on one thread. Running out of memory aborts.
 */
#ifndef MS_BASE_ENV_SIM_H
#define MS_BASE_ENV_SIM_H

#include "base/env.h"

enum ms_sim_op {
	MS_SIM_ANY, /* in rules and counts: every kind */
	MS_SIM_OPEN,
	MS_SIM_PREAD,
	MS_SIM_PWRITE,
	MS_SIM_FSYNC,
	MS_SIM_FDATASYNC,
	MS_SIM_TRUNCATE,
	MS_SIM_FSIZE,
	MS_SIM_FCHMOD,
	MS_SIM_LOCK,
	MS_SIM_STAT,
	MS_SIM_RENAME,
	MS_SIM_LINK,
	MS_SIM_UNLINK,
	MS_SIM_RMDIR,
	MS_SIM_MKDIR,
	MS_SIM_FSYNC_DIR,
	MS_SIM_READDIR,
	MS_SIM_DISK_FREE,
	MS_SIM_OP_COUNT
};

/* A file operation about to happen. */
struct ms_sim_step {
	enum ms_sim_op op;
	const char *name; /* as in struct ms_env_ops: "pwrite" */
	const char *path; /* as given to the operation, or to open */
	const char *to;	  /* rename and link, else NULL */
	int64_t off;	  /* pread and pwrite; truncate: the size */
	size_t len;
	uint64_t seq; /* 1 for the first operation since ms_env_sim_new() */
};

enum ms_sim_end {
	MS_SIM_DONE,	/* the predicate became true */
	MS_SIM_STOPPED, /* stop() was called */
	MS_SIM_IDLE,	/* nothing is left to do */
	MS_SIM_TIME,	/* the time is over */
	MS_SIM_DOWN	/* crashed or killed, not yet restarted */
};

#define MS_SIM_FOREVER UINT64_MAX

struct ms_env *ms_env_sim_new(uint64_t seed);
/* Frees the disk and whatever handles and timers were left. Accepts NULL. */
void ms_env_sim_free(struct ms_env *env);

/* Runs until pred(arg) is true (looked at before each event; NULL: never) or max_us of virtual time have passed. */
enum ms_sim_end ms_env_sim_run_until(struct ms_env *env, bool (*pred)(void *arg), void *arg, uint64_t max_us);

/* Power failure, now: the disk falls back to one of its possible states, queued jobs, posts and timers are dropped, and the
 * machine is down. May be called from anywhere, a step hook or a job included: the program that runs on goes on against a
 * dead machine, on which every file operation fails with MS_EIO and changes nothing, and nothing new is scheduled. Then its
 * own destructors take it down, which must not wait for a done(); files and timers that it still holds stay dead after
 * ms_env_sim_restart(), but what it submitted or posted from then on would run. */
void ms_env_sim_crash(struct ms_env *env);
/* The same, but only the process dies (SIGKILL): the disk loses nothing, though what was not synced still may be lost later. */
void ms_env_sim_kill(struct ms_env *env);
/* Power on. Clock, rules, hook and counters go on; the monotonic clock starts again near 0. */
void ms_env_sim_restart(struct ms_env *env);
bool ms_env_sim_is_down(struct ms_env *env);

/* Called before each file operation on a live machine. It may crash or kill the machine; the operation then fails. It returns 0,
 * or an errno with which the operation fails instead of being done. NULL takes the hook away. */
void ms_env_sim_set_hook(struct ms_env *env, int (*hook)(void *arg, const struct ms_sim_step *step), void *arg);
/* Of the operations of this kind whose path contains `part` (NULL: any path), fails the nth from now on (1 is the next) and
 * the times - 1 ones after it (0: all after it) with errno sys. A failed pwrite may have written a part. At most
 * 16 rules at a time. */
void ms_env_sim_fail(struct ms_env *env, enum ms_sim_op op, const char *part, uint64_t nth, uint64_t times, int sys);
/* Power failure just before the nth such operation. */
void ms_env_sim_crash_at(struct ms_env *env, enum ms_sim_op op, const char *part, uint64_t nth);
/* Forgets all rules. */
void ms_env_sim_clear_rules(struct ms_env *env);
/* ENOSPC when all files together pass this many bytes (0, the default: no bound). A pwrite fills what is left, then fails. */
void ms_env_sim_set_capacity(struct ms_env *env, uint64_t bytes);

/* Threads of each lane, 0 for the defaults of ms_env_uv_new(). */
void ms_env_sim_set_lanes(struct ms_env *env, const unsigned threads[MS_LANE_COUNT]);
/* With apart, what a job sleeps lies between its run(), whose effects are there at once, and its done(): others go on meanwhile, as beside a slow
 * backend, and the job's own clocks are ahead. Without (as it begins) everybody waits for a job that sleeps. */
void ms_env_sim_jobs_sleep_apart(struct ms_env *env, bool apart);
/* A job starts between 0 and max_us after submit(), and done() comes between 0 and max_us after run(); default 1000. */
void ms_env_sim_set_job_delay(struct ms_env *env, uint64_t max_us);
/* Moves the wall clock (the monotonic one stays). */
void ms_env_sim_shift_wall(struct ms_env *env, int64_t delta_us);
/* Makes everything durable, as a test's starting point. */
void ms_env_sim_sync_all(struct ms_env *env);

/* Operations begun on a live machine, failed ones included. */
uint64_t ms_env_sim_ops(struct ms_env *env, enum ms_sim_op op);
/* Operations failed by rules or the hook. */
uint64_t ms_env_sim_injected(struct ms_env *env);
/* Events run so far: jobs, done-callbacks, posts, timers. */
uint64_t ms_env_sim_events(struct ms_env *env);
/* Bytes of all files that have a name or are open. */
uint64_t ms_env_sim_disk_bytes(struct ms_env *env);
/* A random number of the simulator's own stream below n (n > 0), for tests that want one tied to the seed. */
uint64_t ms_env_sim_pick(struct ms_env *env, uint64_t n);

#endif
