/*
 * The whole of a daemon's inside in the simulator, for tests: one database (support/sim_source.h), stream, journal, page sums, up to three replicas of
 * the `mem` kind, purge, and restore. Oracle: the images of the database in memory. A check that fails ends the process, with a line on stderr that
 * names the seed.
 */
#ifndef TESTS_SUPPORT_SIM_WORLD_H
#define TESTS_SUPPORT_SIM_WORLD_H

#include "base/env_sim.h"
#include "core/stream.h"
#include "support/sim_source.h"

#define SIM_REPLICAS 3

struct sim_world {
	/* Set between init and the first start. */
	uint64_t cap; /* bytes of the journal; 0 none */
	double snapshot_share;
	int64_t min_interval_us, snapshot_retention_us, check_interval_us, removal_grace_us;
	uint64_t segment_bytes;
	bool optional; /* the last replica is not required */

	uint64_t seed;
	unsigned n;
	struct ms_env *env;
	struct sim_db *db;
	struct ms_journal *journal;
	struct ms_stream *stream;
	struct ms_source *source;
	struct ms_replica_spec spec[SIM_REPLICAS];
	char store[SIM_REPLICAS][64], copy[SIM_REPLICAS][64], url[SIM_REPLICAS][80]; /* copy: a store for ms_mem_copy() */
	bool ended;
	struct ms_err why;
	bool no_purge;		  /* nobody purges */
	bool went_back;		  /* the database has lost commits: what lies behind the fork out of a generation is not checked */
	uint64_t most, catchups;  /* bytes that the journal has taken; catch-ups of replicas over all runs */
};

void sim_world_init(struct sim_world *w, uint64_t seed, unsigned replicas, uint32_t page_size, uint32_t pages);
void sim_world_release(struct sim_world *w);
/* Starts the daemon; false when the machine died or a file operation was made to fail: try again. */
bool sim_world_up(struct sim_world *w);
/* Takes a dead daemon down. */
void sim_world_down(struct sim_world *w);
/* kill -9 (or a power failure), and the machine is up again. */
void sim_world_die(struct sim_world *w, bool power);
/* What the daemon does once a second. */
void sim_world_purge(struct sim_world *w);
/* Heals everything, and runs until all replicas have all. */
void sim_world_settle(struct sim_world *w);
/* So many commits, 3 ms from one to the next. */
void sim_world_load(struct sim_world *w, unsigned commits);
/* Its replicas' states are not there (workers is NULL). */
struct ms_stream_status sim_world_status(struct sim_world *w);
struct ms_worker_status sim_world_replica(struct sim_world *w, unsigned i);

/* From replicas [from, from + n); txid 0: the newest; generation NULL: the one that is head. The file's bytes (malloc), or NULL. */
uint8_t *sim_world_restore(struct sim_world *w, unsigned from, unsigned n, const char *generation, uint64_t txid, size_t *ret_len, uint64_t *ret_txid,
			   struct ms_err *err);
bool sim_world_equals(struct sim_world *w, uint64_t commit, const uint8_t *data, size_t len);
/* The newest state that replicas [from, from + n) restore is the database's; every txid that `list` advertises restores to an image that the database
 * really had, in order; what lies within a catch-up does not. Returns how many txids restore. */
unsigned sim_world_check(struct sim_world *w, unsigned from, unsigned n);
/* Each replica by itself, and all together. */
void sim_world_check_all(struct sim_world *w);

#endif
