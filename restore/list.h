/*
 * What `list` shows: generations with their snapshots, the stretches of segments that hang together, and the ranges of txids that
 * restore. Every header is read, so that what is advertised is there; damaged objects are left out and noted.
 */
#ifndef MS_RESTORE_LIST_H
#define MS_RESTORE_LIST_H

#include <stdatomic.h>
#include "restore/fetch.h"
#include "restore/load.h"

struct ms_list_snapshot {
	uint64_t txid, bytes; /* manifest and the chunks that it names */
	int64_t time_us;
	uint32_t objects;
};
struct ms_list_run { /* segments without a hole */
	uint64_t first_txid, last_txid, bytes, objects;
	int64_t first_us, last_us;
};
struct ms_list_range { /* every txid of it restores */
	uint64_t from_txid, to_txid;
	int64_t from_us, to_us;
	bool squashed; /* only kept points of it do */
};
struct ms_list_fold { /* txids that one catch-up stands for: only the last of them restores from it */
	uint64_t first_txid, last_txid;
	int64_t time_us; /* of the last */
};
struct ms_list_generation {
	struct ms_generation id, parent; /* parent empty: a root */
	uint64_t fork_txid;
	bool seeded; /* as in struct ms_lineage */
	bool head; /* the newest head names it */
	uint64_t settled_txid;
	struct ms_list_snapshot *snapshots;
	struct ms_list_run *runs;
	struct ms_list_range *ranges;
	struct ms_list_fold *folds;
	size_t nsnapshots, nruns, nranges, nfolds;
};
struct ms_list {
	struct ms_list_generation *generations; /* oldest first */
	size_t n;
	char **warnings; /* what is damaged or cannot be read; at most MS_LIST_WARNINGS, then a last one that counts the rest */
	size_t nwarnings;
};
#define MS_LIST_WARNINGS 100u

struct ms_list_options {
	const struct ms_restore_replica *replicas;
	unsigned nreplicas, parallel; /* 0 = 4 */
	const atomic_bool *cancel;
};
/* Runs the environment's loop. MS_ENOTRESTORABLE when no replica is there. */
enum ms_code ms_list_run(struct ms_env *env, const struct ms_list_options *o, struct ms_list *ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_list_release(struct ms_list *l);

/* The same over a loaded inventory (blocking, a pool thread). */
enum ms_code ms_list_make(struct ms_load *l, struct ms_inventory *inv, struct ms_list *ret, struct ms_err *err) MS_WARN_UNUSED;

/* Notes from several threads, for ms_load.note. */
struct ms_notes;
struct ms_notes *ms_notes_new(void);
void ms_notes_free(struct ms_notes *n);
void ms_notes_add(void *notes, const struct ms_err *err);
/* Moves them out: an array of strings for free(). */
char **ms_notes_take(struct ms_notes *n, size_t *ret_n);

#endif
