/*
 * A host for workers in tests: a model of a database whose commits go to a real journal, up to four workers of the real kind, and snapshots of
 * the model. Runs in the simulated environment against `mem` stores (replicas/mem.h). And a checker that restores everything a store
 * holds by itself and compares it with the model. A failure of the rig itself ends the process with a line on stderr.
 */
#ifndef TESTS_SUPPORT_WORKER_RIG_H
#define TESTS_SUPPORT_WORKER_RIG_H

#include "base/env_sim.h"
#include "core/worker.h"

#define WRIG_WORKERS 4
#define WRIG_PAGE 512u
#define WRIG_PAGES_MAX 24u

struct wrig_state { /* one state of the model */
	struct ms_generation generation;
	struct ms_dbstate db;
	uint64_t seq; /* of its last journal entry */
	uint8_t *image; /* db_pages * WRIG_PAGE */
};

struct wrig_worker {
	struct wrig *rig;
	struct ms_worker *w;
	char store[64];
	bool probed, started, fenced, stopped, wants_snapshot;
	struct ms_err fenced_err;
	struct ms_probe probe; /* head's pointers are not valid */
	char reason[256];
	unsigned needs; /* calls of need_snapshot */
	struct ms_manifest manifest;
	struct wrig_object {
		char name[192];
		struct ms_buf data;
	} objects[4];
	unsigned nobjects, object;
	bool snapping;
	uint64_t snap_seq;
};

struct wrig {
	struct ms_env *env;
	char dir[64], owner[32];
	struct ms_journal *journal;
	struct ms_worker_config cfg; /* template for workers */
	struct wrig_worker workers[WRIG_WORKERS];
	unsigned nworkers;
	bool auto_start, auto_snapshot, takeover;
	/* model */
	struct wrig_state *states; /* every state there ever was, of every generation, oldest first */
	unsigned nstates, cap;
	struct ms_lineage lineage[64];
	uint32_t nlineage;
	uint32_t epoch;
	uint64_t acked; /* journal sequence that was durable at the last look: never lost */
	uint64_t rng;
};

void wrig_init(struct wrig *r, struct ms_env *env, const char *dir, const char *owner, uint64_t seed);
/* Opens the journal and makes workers for mem stores; probes (auto_start: starts when probed). */
void wrig_boot(struct wrig *r, const char *const *stores, unsigned n);
/* After ms_env_sim_crash/kill: frees everything, forgets states that the journal does not hold (they must not have been acknowledged), then
 * wrig_boot may follow once the machine is up. */
void wrig_bury(struct wrig *r);
void wrig_free(struct wrig *r);

/* Starts a generation in the journal: root (a new database) or forked from the present state, or from an older one of the model. */
void wrig_root(struct wrig *r);
void wrig_fork(struct wrig *r);
void wrig_fork_at(struct wrig *r, uint64_t txid);
/* One commit that changes `pages` pages; sync: durable, and workers are kicked. entries: journal entries it is cut into. */
uint64_t wrig_commit(struct wrig *r, unsigned pages, bool sync);
uint64_t wrig_commit_in(struct wrig *r, unsigned pages, unsigned entries, uint32_t flags, bool sync);
void wrig_sync(struct wrig *r);
const struct wrig_state *wrig_now(const struct wrig *r);
/* Puts a snapshot of the present state through worker i (chunks and a manifest), as the stream would. */
void wrig_snapshot(struct wrig *r, unsigned i);
void wrig_start(struct wrig *r, unsigned i);

/* Runs until everything is shipped everywhere (fenced workers aside). False when max_us of virtual time pass before. */
bool wrig_settle(struct wrig *r, uint64_t max_us);
bool wrig_run(struct wrig *r, bool (*pred)(void *), void *arg, uint64_t max_us);

/* Restores all that a store holds: every snapshot, and all that follows from it. Each state found must equal one of the model's (of any of the hosts),
 * and no transaction may be there twice. Returns how many states restore, 0 with *why filled when something is wrong. */
unsigned wrig_check(const struct wrig *const *hosts, unsigned nhosts, const char *store, char *why, size_t cap);
/* ret[i]: does the store restore states[i]? */
void wrig_found(const struct wrig *r, const char *store, bool *ret);
/* Does the store restore exactly this state? */
bool wrig_restores(const struct wrig *r, const char *store, const struct wrig_state *s);

#endif
