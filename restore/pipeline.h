/*
 * Segments through bounded memory: several jobs fetch pieces of objects ahead, one job at a time applies them in order. A state machine on
 * the loop thread, stepped by the jobs' completions: fetches on MS_LANE_UPLOAD, applying on MS_LANE_CPU.
 *
 * Memory: at most 16 MiB of pieces, plus what ms_segment_reader and ms_apply hold.
 */
#ifndef MS_RESTORE_PIPELINE_H
#define MS_RESTORE_PIPELINE_H

#include "restore/apply.h"
#include "restore/fetch.h"
#include "restore/plan.h"

struct ms_pipeline;
/* Applies plan->steps[first .. end). Everything is borrowed until done. Uses all workers of fetch. done(arg, err): loop thread, once, when nothing is under way any more; err
 * is NULL when the last step (or the apply's target) has been reached. */
enum ms_code ms_pipeline_start(struct ms_env *env, struct ms_fetch *fetch, const struct ms_plan *plan, size_t first, size_t end,
			       struct ms_apply *apply, void (*done)(void *arg, const struct ms_err *err), void *arg, struct ms_pipeline **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_pipeline_free(struct ms_pipeline *p); /* after done; accepts NULL */
/* The object at fault when done() got an error that came from one: its replica and name. */
bool ms_pipeline_culprit(const struct ms_pipeline *p, unsigned *ret_replica, char ret_name[MS_NAME_MAX]);

#endif
