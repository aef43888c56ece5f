/* What the files of the simulator share: env_sim.c (scheduler, rules), env_sim_disk.c (disk), env_sim_file.c (file operations). */
#ifndef MS_BASE_ENV_SIM_INTERNAL_H
#define MS_BASE_ENV_SIM_INTERNAL_H

#include "base/env_sim.h"

#define MS_SIM_NAME_MAX 255
#define MS_SIM_FILE_MAX (INT64_C(1) << 31)

struct ms_sim_rng {
	uint64_t s;
};

uint64_t ms_sim_rand(struct ms_sim_rng *r);
static inline uint64_t ms_sim_below(struct ms_sim_rng *r, uint64_t n) { return ms_sim_rand(r) % n; }
static inline bool ms_sim_coin(struct ms_sim_rng *r) { return ms_sim_rand(r) >> 63; }
/* realloc() that aborts; bytes beyond the old size are not cleared. */
void *ms_sim_alloc(void *old, size_t n);

/* --- disk ------------------------------------------------------------------------------------------------------------ */

struct ms_sim_image {
	uint8_t *data;
	size_t size, cap; /* bytes from size to cap may be anything */
};

struct ms_sim_entry {
	char *name;
	struct ms_sim_inode *inode; /* a reference */
};

struct ms_sim_dir {
	struct ms_sim_entry *entries; /* by name */
	size_t n, cap;
};

struct ms_sim_inode {
	uint64_t ino;
	bool is_dir;
	unsigned mode;
	int64_t mtime_us;
	unsigned refs;		/* entries of either kind, pending changes, handles */
	unsigned links, opens;	/* volatile names, handles */
	uint64_t counted;	/* bytes of it in the disk's `used` */
	bool locked;
	struct ms_sim_image now, durable; /* file */
	size_t dirty_from, dirty_to;	  /* bytes of `now` that `durable` may not have; empty when equal */
	bool size_dirty;
	struct ms_sim_dir names, durable_names; /* directory */
	struct ms_sim_inode *prev, *next;	/* all inodes of the disk */
};

/* One name that was set or removed and is not durable yet; a rename is two of one group. */
struct ms_sim_change {
	struct ms_sim_inode *dir, *inode; /* references; inode NULL: removed */
	char *name;
	uint64_t group;
	struct ms_sim_change *prev, *next;
};

struct ms_sim_disk {
	struct ms_sim_rng *rng;
	struct ms_sim_inode *root, *inodes;
	struct ms_sim_change *first, *last; /* oldest first */
	uint64_t next_group, next_ino, used, capacity;
	uint64_t *free_inos; /* numbers to use again, as file systems do */
	size_t nfree, free_cap;
};

/* All return 0 or an errno. Inodes found are not referenced for the caller. */
void ms_sim_disk_init(struct ms_sim_disk *d, struct ms_sim_rng *rng);
void ms_sim_disk_release(struct ms_sim_disk *d);
int ms_sim_disk_find(struct ms_sim_disk *d, const char *path, struct ms_sim_inode **ret);
/* The directory and the last name of path, which need not exist. */
int ms_sim_disk_parent(struct ms_sim_disk *d, const char *path, struct ms_sim_inode **ret_dir, char ret_name[MS_SIM_NAME_MAX + 1]);
int ms_sim_disk_create(struct ms_sim_disk *d, const char *path, bool is_dir, unsigned mode, int64_t now_us,
		       struct ms_sim_inode **ret);
int ms_sim_disk_link(struct ms_sim_disk *d, const char *from, const char *to, int64_t now_us);
int ms_sim_disk_rename(struct ms_sim_disk *d, const char *from, const char *to, int64_t now_us);
int ms_sim_disk_remove(struct ms_sim_disk *d, const char *path, bool is_dir, int64_t now_us);
void ms_sim_inode_open(struct ms_sim_disk *d, struct ms_sim_inode *i);
void ms_sim_inode_close(struct ms_sim_disk *d, struct ms_sim_inode *i);
int ms_sim_inode_write(struct ms_sim_disk *d, struct ms_sim_inode *i, const void *buf, size_t n, uint64_t off, int64_t now_us);
int ms_sim_inode_truncate(struct ms_sim_disk *d, struct ms_sim_inode *i, uint64_t size, int64_t now_us);
void ms_sim_inode_sync(struct ms_sim_inode *i);
/* After a failed sync: what is not durable now is not written later either. */
void ms_sim_inode_forget_dirty(struct ms_sim_inode *i);
void ms_sim_dir_sync(struct ms_sim_disk *d, struct ms_sim_inode *dir);
void ms_sim_disk_sync_all(struct ms_sim_disk *d);
/* Falls back to one of the states that a crash may leave. No inode may be open. */
void ms_sim_disk_crash(struct ms_sim_disk *d);

/* --- machine --------------------------------------------------------------------------------------------------------- */

#define MS_SIM_RULES 16

struct ms_sim_rule {
	enum ms_sim_op op;
	char *part;
	uint64_t nth, times; /* nth counts down to 1; then times does (0: for ever) */
	int sys;
	bool crash;
};

struct ms_sim_event {
	enum { MS_SIM_JOB, MS_SIM_FINISHED, MS_SIM_POST } kind;
	enum ms_lane lane; /* not of a post */
	uint64_t at_ns;	   /* not before */
	uint64_t asleep_until_ns; /* of a finished job: its thread is busy so long */
	struct ms_job *job;
	void (*cb)(void *); /* of a post */
	void *arg;
};

struct ms_sim {
	struct ms_env env; /* first: ms_env pointers are cast */
	struct ms_env_ops ops;
	struct ms_sim_rng sched, data;
	uint64_t t_ns, boot_ns; /* virtual time; of the last start */
	int64_t wall_us;	/* wall clock at t_ns 0 */
	bool down, stop;
	uint64_t epoch;	     /* counts crashes: older handles and timers are dead */
	uint64_t dead_calls; /* on a dead machine, to notice who never gives up */
	unsigned threads[MS_LANE_COUNT];
	uint64_t job_delay_us;
	bool in_job, jobs_sleep_apart;
	uint64_t slept_ns; /* by the job that runs: its clocks are ahead by that */
	struct ms_sim_event *events; /* oldest first */
	size_t nevents, events_cap;
	struct ms_timer *timers;
	struct ms_file *files;
	struct ms_sim_disk disk;
	struct ms_sim_rule rules[MS_SIM_RULES];
	int (*hook)(void *arg, const struct ms_sim_step *step);
	void *hook_arg;
	uint64_t count[MS_SIM_OP_COUNT], injected, events_run;
};

static inline struct ms_sim *ms_sim_of(struct ms_env *env) { return (struct ms_sim *)env; }
int64_t ms_sim_wall_us(struct ms_sim *s);
/* Counts the operation, moves time, asks hook and rules. 0: go on; else the errno to fail with, EIO when down. */
int ms_sim_step_begin(struct ms_sim *s, struct ms_sim_step *step);
void ms_sim_file_ops(struct ms_env_ops *ops);
/* Takes the inodes away from all handles, which stay for their owners to close. */
void ms_sim_files_detach(struct ms_sim *s);
void ms_sim_files_free(struct ms_sim *s);

#endif
