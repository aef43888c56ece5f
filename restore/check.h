/*
 * What `verify` does: reads every object that a replica's history consists of, to its last byte, and looks for holes; deep: also
 * restores every range from its first snapshot to its end (which proves each commit's database checksum on the way) and every further
 * snapshot on its own, into scratch space.
 */
#ifndef MS_RESTORE_CHECK_H
#define MS_RESTORE_CHECK_H

#include "restore/list.h"

struct ms_check_options {
	const struct ms_restore_replica *replicas; /* one, or several that make up for each other in deep restores; each is read */
	unsigned nreplicas, parallel; /* 0 = 4 */
	bool deep;
	const char *scratch; /* directory, with deep */
	const atomic_bool *cancel;
	void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total); /* objects, then restores; may be NULL */
	void *arg;
};
struct ms_check_restore {
	struct ms_generation generation;
	uint64_t from_txid, to_txid, checksum, commits;
};
struct ms_check_report {
	uint64_t heads, segments, snapshots, chunks, bytes; /* objects read */
	char **problems; /* damage, holes, missing objects; as struct ms_list.warnings */
	size_t nproblems;
	struct ms_check_restore *restores; /* deep: what has been proven */
	size_t nrestores;
	struct ms_list list;
};
/* Runs the environment's loop. MS_OK also when there are problems: look at nproblems. */
enum ms_code ms_check_run(struct ms_env *env, const struct ms_check_options *o, struct ms_check_report *ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_check_report_release(struct ms_check_report *r);

#endif
