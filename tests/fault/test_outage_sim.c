/*
 * One database, three replicas, a journal that is far too small for an outage: replicas go away and come back at random, are wiped or
 * put back to an older copy, the machine loses power, processes are killed. Oracle: the images of the database in memory. Invariants:
 * the journal stays below its cap and the database is never let go for the cap's sake; when all is healed every replica by itself, and all together,
 * restore the newest state, and every txid that `list` advertises restores to an image that the database really had, in order.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "base/log.h"
#include "core/stream_purge.h"
#include "replicas/mem.h"
#include "replicas/url.h"
#include "restore/list.h"
#include "restore/restore.h"
#include "support/sim_source.h"

/* A simulated crash drops jobs and puts whose return would have freed what belongs to them: that memory is the dead machine's. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return 1; }

#define REPLICAS 3
#define CAP (160u << 10)
typedef unsigned long long ull;

struct world {
	struct ms_env *env;
	struct sim_db *db;
	struct ms_journal *journal;
	struct ms_stream *stream;
	struct ms_source *source;
	struct ms_replica_spec spec[REPLICAS];
	char store[REPLICAS][64], copy[REPLICAS][64], url[REPLICAS][80];
	bool optional, copied[REPLICAS];
	bool ended;
	struct ms_err why;
	uint64_t most, catchups, seed;
};

static void changed(void *arg, struct ms_stream *s) {
	(void)arg;
	(void)s;
}

static void ended(void *arg, struct ms_stream *s, const struct ms_err *err) {
	struct world *w = arg;
	(void)s;
	w->ended = true;
	w->why = *err;
}

static void purge(struct world *w) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_journal_stats st;
	if (!w->stream)
		return;
	ms_journal_get_stats(w->journal, &st);
	w->most = st.total_bytes > w->most ? st.total_bytes : w->most;
	if (ms_streams_purge(w->journal, &w->stream, 1, CAP, &err) != MS_OK)
		cr_assert(ms_env_sim_is_down(w->env) || ms_env_sim_injected(w->env), "purge: %s", err.msg);
}

static void durable(void *arg, uint64_t seq, const struct ms_err *err) {
	struct world *w = arg;
	if (!w->stream)
		return;
	if (ms_streams_purge_pressed(w->journal, CAP))
		purge(w);
	ms_stream_durable(w->stream, seq, err);
}

static bool up(struct world *w) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 64 << 10, .max_bytes = CAP};
	if (ms_fs_mkdir_p(w->env, "/shadow/db/x", 0700, &err) != MS_OK || ms_journal_open(w->env, "/shadow/journal", &jc, &w->journal, &err) != MS_OK) {
		cr_assert(ms_env_sim_is_down(w->env), "start: %s", err.msg);
		return false;
	}
	ms_journal_set_hook(w->journal, durable, w);
	struct ms_worker_config wc[REPLICAS];
	char name[REPLICAS][16];
	for (int i = 0; i < REPLICAS; i++) {
		snprintf(name[i], sizeof name[i], "m%d", i);
		wc[i] = (struct ms_worker_config){.name = name[i], .spec = &w->spec[i], .url = w->url[i], .required = i != 2 || !w->optional,
						  .min_interval_us = 1000, .segment_bytes = 16 << 10};
	}
	struct ms_stream_config sc = {.name = "x", .path = "/x.db", .dir = "/shadow/db/x", .owner = "owner-a", .host = "h", .level = 1,
				      .snapshot_share = 4.0, .probe_timeout_us = 50000, .workers = wc, .nworkers = REPLICAS, .authority = -1};
	struct ms_stream_hooks hooks = {changed, ended, w};
	w->source = sim_source_new(w->db);
	if (ms_env_sim_pick(w->env, 2))
		sim_source_step_limit(w->source, 1 + (unsigned)ms_env_sim_pick(w->env, 4));
	enum ms_code rc = ms_stream_new(w->env, w->journal, w->source, &sc, &hooks, &w->stream, &err);
	if (rc != MS_OK) {
		cr_assert(ms_env_sim_is_down(w->env) || ms_env_sim_injected(w->env), "start: %s", err.msg);
		w->source->ops->free(w->source);
		ms_journal_free(w->journal);
		w->journal = NULL;
		return false;
	}
	ms_stream_start(w->stream);
	return true;
}

static void count(struct world *w) {
	struct ms_stream_status st;
	if (!w->stream || ms_stream_get_status(w->stream, &st, NULL) != MS_OK)
		return;
	for (uint32_t i = 0; i < st.nworkers; i++)
		w->catchups += st.workers[i].catchups;
	ms_stream_status_release(&st);
}

static void down(struct world *w) {
	count(w);
	if (w->stream)
		ms_stream_free(w->stream);
	if (w->journal)
		ms_journal_free(w->journal);
	w->stream = NULL;
	w->journal = NULL;
}

static bool caught_up(void *arg) {
	struct world *w = arg;
	return w->ended || (w->stream && ms_stream_caught_up(w->stream));
}

static void describe(struct world *w, char *text, size_t cap) {
	struct ms_stream_status st;
	if (ms_stream_get_status(w->stream, &st, NULL) != MS_OK)
		return;
	size_t n = (size_t)snprintf(text, cap, "state %s %s txid %llu", ms_stream_state_name(st.state), st.why, (ull)st.db.txid);
	for (uint32_t i = 0; i < st.nworkers && n < cap; i++)
		n += (size_t)snprintf(text + n, cap - n, "; %s %s txid %llu owed %llu pages %llu %s", st.workers[i].name, ms_worker_state_name(st.workers[i].state),
				      (ull)st.workers[i].txid, (ull)st.workers[i].owed_commits, (ull)st.workers[i].owed_pages, st.workers[i].last_error);
	ms_stream_status_release(&st);
}

static void settle(struct world *w) {
	for (int i = 0; i < REPLICAS; i++)
		ms_mem_clear_faults(w->store[i]);
	ms_env_sim_clear_rules(w->env);
	if (ms_env_sim_is_down(w->env)) {
		down(w);
		ms_env_sim_restart(w->env);
	}
	while (!w->stream) {
		if (ms_env_sim_is_down(w->env)) {
			down(w);
			ms_env_sim_restart(w->env);
		}
		(void)up(w);
	}
	enum ms_sim_end end = MS_SIM_DONE;
	for (int i = 0; i < 3; i++) {
		ms_stream_poke(w->stream);
		ms_env_sim_run_until(w->env, NULL, NULL, 2000000);
		purge(w);
		end = ms_env_sim_run_until(w->env, caught_up, w, 600000000);
	}
	char text[4000] = "";
	describe(w, text, sizeof text);
	cr_assert(end == MS_SIM_DONE && !w->ended, "seed %llu: not caught up: end %d %s %s", (ull)w->seed, end, w->ended ? w->why.msg : "", text);
}

static void world_init(struct world *w, uint64_t seed, uint32_t page_size, uint32_t pages) {
	struct ms_err err = MS_ERR_INIT;
	memset(w, 0, sizeof *w);
	w->seed = seed;
	ms_log_configure(2, getenv("MS_TEST_LOG") ? MS_LOG_DEBUG : MS_LOG_OFF, false);
	w->env = ms_env_sim_new(seed);
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK);
	for (int i = 0; i < REPLICAS; i++) {
		snprintf(w->store[i], sizeof w->store[i], "o%llu-%d", (ull)seed, i);
		snprintf(w->copy[i], sizeof w->copy[i], "o%llu-%d-copy", (ull)seed, i);
		snprintf(w->url[i], sizeof w->url[i], "mem://o%llu-%d", (ull)seed, i);
		cr_assert_eq(ms_url_parse(w->url[i], &w->spec[i], &err), MS_OK, "%s", err.msg);
	}
	w->db = sim_db_new(page_size, pages, seed);
}

static void world_release(struct world *w) {
	down(w);
	ms_env_sim_free(w->env);
	for (int i = 0; i < REPLICAS; i++) {
		ms_replica_spec_release(&w->spec[i]);
		ms_mem_drop(w->store[i]);
		ms_mem_drop(w->copy[i]);
	}
	sim_db_free(w->db);
}

/* ---- oracle ---- */

static uint8_t *restore(struct world *w, unsigned from, unsigned n, const char *generation, uint64_t txid, size_t *ret_len, uint64_t *ret_txid,
			struct ms_err *err) {
	struct ms_restore_replica r[REPLICAS];
	for (unsigned i = 0; i < n; i++)
		r[i] = (struct ms_restore_replica){&w->spec[from + i], w->url[from + i]};
	struct ms_restore_options o = {.replicas = r, .nreplicas = n, .path = "/out/x", .verify = MS_VERIFY_CHECKSUM, .force = true,
				       .target = {.kind = txid ? MS_TARGET_TXID : MS_TARGET_NEWEST, .txid = txid, .generation = generation}};
	struct ms_restore_result res;
	struct ms_buf b;
	*err = MS_ERR_INIT;
	if (ms_fs_mkdir_p(w->env, "/out", 0700, err) != MS_OK || ms_restore_run(w->env, &o, &res, err) != MS_OK)
		return NULL;
	*ret_txid = res.position.txid;
	ms_buf_init(&b, 64 << 20);
	cr_assert_eq(ms_fs_read_file(w->env, "/out/x", &b, err), MS_OK);
	*ret_len = b.len;
	return b.data;
}

static bool equals(struct world *w, uint64_t commit, const uint8_t *data, size_t len) {
	size_t want = (size_t)sim_db_pages(w->db, commit) * sim_db_page_size(w->db);
	if (want != len)
		return false;
	uint8_t *image = malloc(want);
	sim_db_image(w->db, commit, image);
	bool same = memcmp(image, data, len) == 0;
	free(image);
	return same;
}

/* Every advertised txid of replicas [from, from + n); returns how many. */
static unsigned check_replicas(struct world *w, unsigned from, unsigned n) {
	struct ms_restore_replica r[REPLICAS];
	struct ms_err err = MS_ERR_INIT;
	struct ms_list list = {0};
	size_t len;
	uint64_t got, commit = sim_db_latest(w->db);
	unsigned checked = 0;
	uint8_t *p = restore(w, from, n, NULL, 0, &len, &got, &err);
	cr_assert(p, "seed %llu replica %u+%u: newest: %s", (ull)w->seed, from, n, err.msg);
	cr_assert(equals(w, commit, p, len), "seed %llu replica %u+%u: the newest state (txid %llu) is not the database", (ull)w->seed, from, n, (ull)got);
	free(p);
	for (unsigned i = 0; i < n; i++)
		r[i] = (struct ms_restore_replica){&w->spec[from + i], w->url[from + i]};
	struct ms_list_options o = {.replicas = r, .nreplicas = n};
	cr_assert_eq(ms_list_run(w->env, &o, &list, &err), MS_OK, "%s", err.msg);
	for (size_t g = list.n; g-- > 0;) {
		const struct ms_list_generation *d = &list.generations[g];
		commit = sim_db_latest(w->db);
		for (size_t k = d->nranges; k-- > 0;) {
			for (uint64_t txid = d->ranges[k].to_txid; txid >= d->ranges[k].from_txid && txid; txid--) {
				p = restore(w, from, n, d->id.s, txid, &len, &got, &err);
				cr_assert(p, "seed %llu replica %u+%u: generation %s txid %llu is advertised, but: %s", (ull)w->seed, from, n, d->id.s, (ull)txid, err.msg);
				while (!equals(w, commit, p, len)) {
					cr_assert(commit > 0, "seed %llu replica %u+%u: generation %s txid %llu restores to a state that the database never had in this order",
						  (ull)w->seed, from, n, d->id.s, (ull)txid);
					commit--;
				}
				free(p);
				checked++;
			}
		}
		for (size_t k = 0; k < d->nfolds; k++) {
			p = restore(w, from, n, d->id.s, d->folds[k].first_txid, &len, &got, &err);
			cr_assert(!p && err.code == MS_ENOTRESTORABLE, "seed %llu: txid %llu is within a catch-up, but restores, or fails with: %s", (ull)w->seed,
				  (ull)d->folds[k].first_txid, err.msg);
		}
	}
	ms_list_release(&list);
	return checked;
}

static void check_all(struct world *w) {
	for (unsigned i = 0; i < REPLICAS; i++)
		check_replicas(w, i, 1);
	check_replicas(w, 0, REPLICAS);
}

/* ---- histories ---- */

static void gone(struct world *w, int i, int times, bool lose) {
	ms_mem_fault(w->store[i], &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = times, .code = MS_ERETRY, .lose_response = lose});
}

static void load(struct world *w, unsigned commits) {
	for (unsigned k = 0; k < commits; k++) {
		sim_db_commit(w->db, 1 + k % 4);
		ms_stream_poke(w->stream);
		ms_env_sim_run_until(w->env, NULL, NULL, 3000);
	}
}

static struct ms_worker_status status_of(struct world *w, unsigned i) {
	struct ms_stream_status st;
	cr_assert_eq(ms_stream_get_status(w->stream, &st, NULL), MS_OK);
	struct ms_worker_status s = st.workers[i];
	ms_stream_status_release(&st);
	return s;
}

Test(outage_sim, one_replica_down_past_the_cap, .timeout = 300) {
	struct world w;
	world_init(&w, 3, 4096, 60);
	cr_assert(up(&w));
	settle(&w);
	load(&w, 20);
	settle(&w);
	uint64_t before = status_of(&w, 1).txid;
	gone(&w, 1, -1, false);
	for (int i = 0; i < 25; i++) {
		load(&w, 10);
		struct ms_worker_status st = status_of(&w, 0);
		struct ms_stream_status s;
		cr_assert_eq(ms_stream_get_status(w.stream, &s, NULL), MS_OK);
		cr_expect_eq(s.state, MS_STREAM_FOLLOWING);
		cr_expect_eq(s.catchups, 0, "the database was let go");
		cr_expect_leq(s.db.txid - st.txid, 10, "the other replica is delayed");
		ms_stream_status_release(&s);
	}
	struct ms_worker_status st = status_of(&w, 1);
	cr_expect_gt(st.owed_commits, 150);
	cr_expect_eq(st.txid, before);
	cr_expect_leq(w.most, CAP);
	settle(&w);
	st = status_of(&w, 1);
	cr_expect_eq(st.catchups, 1, "%llu", (ull)st.catchups);
	cr_expect_eq(st.folded_first, before + 1, "%llu to %llu, not from %llu", (ull)st.folded_first, (ull)st.folded_last, (ull)before + 1);
	cr_expect_eq(st.snapshots, 1, "it was brought to the present without a new snapshot");
	cr_expect_eq(status_of(&w, 0).catchups, 0);
	uint64_t folded = st.folded_last;
	load(&w, 20);
	settle(&w);
	/* The replica that was never away holds everything, the other all but what was folded. */
	unsigned all = check_replicas(&w, 0, 1), part = check_replicas(&w, 1, 1);
	cr_expect_eq(all - part, folded - before - 1);
	cr_expect_eq(check_replicas(&w, 0, REPLICAS), all, "together they hold every commit");
	world_release(&w);
}

/* kill -9 and power loss at every stage of an outage and of its end. */
static void restarts(uint64_t seed, bool power) {
	struct world w;
	world_init(&w, seed, 1024, 60);
	cr_assert(up(&w));
	settle(&w);
	gone(&w, 1, -1, false);
	for (int round = 0; round < 12; round++) {
		while (!w.stream && !up(&w))
			if (ms_env_sim_is_down(w.env))
				ms_env_sim_restart(w.env);
		if (round == 6)
			ms_mem_clear_faults(w.store[1]);
		load(&w, 25);
		if (power)
			ms_env_sim_crash_at(w.env, MS_SIM_ANY, NULL, 1 + ms_env_sim_pick(w.env, 200));
		ms_env_sim_run_until(w.env, NULL, NULL, 20000 + ms_env_sim_pick(w.env, 100000));
		if (!ms_env_sim_is_down(w.env))
			ms_env_sim_kill(w.env);
		down(&w);
		ms_env_sim_restart(w.env);
	}
	settle(&w);
	check_all(&w);
	world_release(&w);
}

Test(outage_sim, restarts_while_owing, .timeout = 400) {
	for (uint64_t seed = 100; seed < (getenv("MS_QUICK") ? 102 : 106); seed++)
		restarts(seed, seed % 2);
}

static uint64_t random_history(uint64_t seed) {
	struct world w;
	world_init(&w, seed, seed % 2 ? 512 : 4096, 20 + (uint32_t)(seed % 60));
	w.optional = seed % 3 == 0;
	bool alive = up(&w);
	unsigned lost = 0;
	for (int i = 0; i < 120; i++) {
		uint64_t dice = ms_env_sim_pick(w.env, 100);
		int r = (int)ms_env_sim_pick(w.env, REPLICAS);
		if (ms_env_sim_is_down(w.env)) {
			down(&w);
			alive = false;
			ms_env_sim_restart(w.env);
		}
		if (!alive)
			alive = up(&w);
		if (dice < 50) {
			for (uint64_t k = 1 + ms_env_sim_pick(w.env, 12); k; k--)
				sim_db_commit(w.db, 1 + (uint32_t)ms_env_sim_pick(w.env, 8));
			if (alive && w.stream)
				ms_stream_poke(w.stream);
		} else if (dice < 53) {
			sim_db_cut_log(w.db);
		} else if (dice < 60) {
			gone(&w, r, -1, false);
		} else if (dice < 68) {
			gone(&w, r, 1 + (int)ms_env_sim_pick(w.env, 3), dice % 2);
		} else if (dice < 76) {
			ms_mem_clear_faults(w.store[r]);
		} else if (dice < 80) {
			ms_env_sim_crash_at(w.env, ms_env_sim_pick(w.env, 3) ? MS_SIM_ANY : MS_SIM_FDATASYNC, NULL, 1 + ms_env_sim_pick(w.env, 60));
		} else if (dice < 84 && alive) {
			ms_env_sim_kill(w.env);
		} else if (dice < 86 && !(seed % 4)) {
			ms_mem_copy(w.copy[r], w.store[r]);
			w.copied[r] = true;
		} else if (dice < 88 && (w.copied[r] || !(seed % 5))) { /* away, and back with an older copy, or empty */
			gone(&w, r, -1, false);
			sim_db_commit(w.db, 1);
			if (alive && w.stream)
				ms_stream_poke(w.stream);
			ms_env_sim_run_until(w.env, NULL, NULL, 100000);
			if (w.copied[r])
				ms_mem_copy(w.store[r], w.copy[r]);
			else
				ms_mem_wipe(w.store[r]);
			lost |= 1u << r;
		} else if (alive && w.stream) {
			purge(&w);
		}
		ms_env_sim_run_until(w.env, NULL, NULL, ms_env_sim_pick(w.env, 60000));
		cr_assert(!w.ended, "seed %llu: ended: %s", (ull)seed, w.why.msg);
	}
	settle(&w);
	count(&w);
	if (lost) { /* one that was idle when it came back is looked at with the next commit */
		sim_db_commit(w.db, 1);
		settle(&w);
	}
	check_all(&w);
	cr_expect_leq(w.most, CAP, "seed %llu: the journal took %llu bytes", (ull)seed, (ull)w.most);
	uint64_t n = w.catchups;
	world_release(&w);
	return n;
}

Test(outage_sim, random_histories, .timeout = 500) {
	uint64_t from = getenv("MS_SEED") ? strtoull(getenv("MS_SEED"), NULL, 10) : 1;
	uint64_t n = getenv("MS_SEEDS") ? strtoull(getenv("MS_SEEDS"), NULL, 10) : getenv("MS_QUICK") ? 4 : 20, catchups = 0;
	for (uint64_t seed = from; seed < from + n; seed++)
		catchups += random_history(seed);
	if (n >= 40)
		cr_expect_gt(catchups, 10, "the histories hardly met a catch-up");
}
