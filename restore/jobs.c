#include "restore/jobs.h"

#include <stdlib.h>
#include <string.h>

void ms_jobs_init(struct ms_jobs *j, struct ms_env *env, void *arg) {
	memset(j, 0, sizeof *j);
	j->env = env;
	j->arg = arg;
}

void ms_jobs_add(struct ms_jobs *j, enum ms_lane lane, ms_jobs_fn fn, unsigned worker) {
	if (j->running || j->n == MS_JOBS_MAX)
		abort(); /* a bug of the caller */
	j->slots[j->n++] = (struct ms_jobs_slot){.set = j, .lane = lane, .fn = fn, .worker = worker, .err = MS_ERR_INIT};
}

static void slot_run(void *arg) {
	struct ms_jobs_slot *s = arg;
	enum ms_code rc = s->fn(s->set->arg, s->worker, &s->err);
	if (rc && !s->err.code)
		ms_err_set(&s->err, rc, "%s", ms_code_name(rc));
	else if (!rc)
		s->err = MS_ERR_INIT;
}

static void slot_done(void *arg) {
	struct ms_jobs *j = ((struct ms_jobs_slot *)arg)->set;
	const struct ms_err *first = NULL;
	struct ms_err copy;
	if (--j->running)
		return;
	/* Workers that stopped because another one failed say "interrupted" at most: the cause comes first. */
	for (unsigned i = 0; i < j->n; i++) {
		const struct ms_err *e = &j->slots[i].err;
		if (e->code && (!first || (first->code == MS_ECANCELED && e->code != MS_ECANCELED)))
			first = e;
	}
	if (first)
		copy = *first;
	j->n = 0;
	j->next(j->arg, first ? &copy : NULL);
}

void ms_jobs_run(struct ms_jobs *j, void (*next)(void *arg, const struct ms_err *err)) {
	j->next = next;
	j->running = j->n;
	for (unsigned i = 0, n = j->n; i < n; i++) {
		j->slots[i].job = (struct ms_job){.run = slot_run, .done = slot_done, .arg = &j->slots[i]};
		j->env->ops->submit(j->env, j->slots[i].lane, &j->slots[i].job);
	}
}
