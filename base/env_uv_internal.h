/* What the three files of the libuv environment share: env_uv.c (loop), env_uv_pool.c (threads), env_uv_file.c (files). */
#ifndef MS_BASE_ENV_UV_INTERNAL_H
#define MS_BASE_ENV_UV_INTERNAL_H

#include <pthread.h>

#include "base/env.h"

#define MS_POOL_THREADS_MAX 256 /* of one lane */

struct ms_pool_worker {
	struct ms_pool_lane *lane;
	pthread_t thread;
	enum { MS_WORKER_NONE, MS_WORKER_RUNNING, MS_WORKER_ENDED } state; /* ENDED: to be joined */
};

struct ms_pool_lane {
	struct ms_pool *pool;
	const char *name;
	struct ms_pool_worker *workers; /* max of them */
	unsigned max;
	/* Under the pool's mutex: */
	pthread_cond_t wake;
	struct ms_job *head, *tail;
	unsigned queued, running, idle; /* running counts threads, idle those of them that wait */
};

struct ms_pool {
	/* Takes over a job that has run; any pool thread, without the mutex. */
	void (*finished)(void *arg, struct ms_job *);
	void *arg;
	struct ms_pool_lane lanes[MS_LANE_COUNT];
	pthread_mutex_t mutex; /* over the lanes' queues and workers, and: */
	bool closing;
};

enum ms_code ms_pool_init(struct ms_pool *p, const unsigned threads[MS_LANE_COUNT], void (*finished)(void *, struct ms_job *),
			  void *arg, struct ms_err *err) MS_WARN_UNUSED;
/* Waits for running jobs, forgets queued ones. Accepts what ms_pool_init() left when it failed. */
void ms_pool_release(struct ms_pool *p);
/* False when no thread of the lane could be started: the job is queued, and ms_pool_kick() has to be called later. */
bool ms_pool_submit(struct ms_pool *p, enum ms_lane lane, struct ms_job *job);
/* Starts missing threads; false when a lane with queued jobs still has none. */
bool ms_pool_kick(struct ms_pool *p);

/* Fills in the file operations. */
void ms_env_uv_file_ops(struct ms_env_ops *ops);

#endif
