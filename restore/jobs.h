/*
 * A set of jobs that run side by side, and what comes when all are done: the step of the state machines in this folder.
 * Loop thread, but for the jobs' functions. Embedded; one set at a time.
 */
#ifndef MS_RESTORE_JOBS_H
#define MS_RESTORE_JOBS_H

#include "base/env.h"

#define MS_JOBS_MAX 36u

typedef enum ms_code (*ms_jobs_fn)(void *arg, unsigned worker, struct ms_err *err); /* pool thread */

struct ms_jobs {
	struct ms_env *env;
	void *arg;
	unsigned n, running;
	void (*next)(void *arg, const struct ms_err *err);
	struct ms_jobs_slot {
		struct ms_job job;
		struct ms_jobs *set;
		enum ms_lane lane;
		ms_jobs_fn fn;
		unsigned worker;
		struct ms_err err;
	} slots[MS_JOBS_MAX];
};

void ms_jobs_init(struct ms_jobs *j, struct ms_env *env, void *arg);
/* At most MS_JOBS_MAX before each run. */
void ms_jobs_add(struct ms_jobs *j, enum ms_lane lane, ms_jobs_fn fn, unsigned worker);
/* next(arg, err) when all are done: err is the first failure (one that is no cancellation before one that is), NULL when there is none. */
void ms_jobs_run(struct ms_jobs *j, void (*next)(void *arg, const struct ms_err *err));

#endif
