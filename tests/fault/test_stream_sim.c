/*
 * The whole of a daemon's inside in the simulator: source, stream, journal, page sums, worker, replica, restore; under random
 * commits, cut logs, power failures, kills, failing and response-losing backends. Oracle: the images of the database in memory
 * (tests/support/sim_source), which knows nothing of our formats. Invariant: when all is healed, the newest state and every
 * advertised txid restore to an image that the database really had, in order.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "base/log.h"
#include "core/stream.h"
#include "replicas/mem.h"
#include "replicas/url.h"
#include "restore/restore.h"
#include "support/sim_source.h"

struct world {
	struct ms_env *env;
	struct sim_db *db;
	struct ms_journal *journal;
	struct ms_stream *stream;
	struct ms_source *source;
	struct ms_replica_spec spec;
	char store[64], url[80];
	bool stopped, ended;
	struct ms_err why;
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
static void durable(void *arg, uint64_t seq, const struct ms_err *err) {
	struct world *w = arg;
	if (w->stream)
		ms_stream_durable(w->stream, seq, err);
}

static bool up(struct world *w) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 64 << 10};
	if (ms_fs_mkdir_p(w->env, "/shadow/db/x", 0700, &err) != MS_OK || ms_journal_open(w->env, "/shadow/journal", &jc, &w->journal, &err) != MS_OK) {
		cr_assert(ms_env_sim_is_down(w->env), "start: %s", err.msg);
		return false;
	}
	ms_journal_set_hook(w->journal, durable, w);
	struct ms_worker_config wc = {.name = "m", .spec = &w->spec, .url = w->url, .required = true, .min_interval_us = 1000,
				      .segment_bytes = 32 << 10};
	struct ms_stream_config sc = {.name = "x", .path = "/x.db", .dir = "/shadow/db/x", .owner = "owner-a", .host = "h", .level = 1,
				      .snapshot_share = 1.0, .workers = &wc, .nworkers = 1, .authority = -1};
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

static void down(struct world *w) {
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

static void settle(struct world *w) {
	ms_mem_clear_faults(w->store);
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
	ms_stream_poke(w->stream);
	enum ms_sim_end end = MS_SIM_DONE;
	for (int i = 0; i < 3; i++) { /* what was visible at a poke, and once more for a barrier's sake */
		ms_stream_poke(w->stream);
		ms_env_sim_run_until(w->env, NULL, NULL, 2000000);
		end = ms_env_sim_run_until(w->env, caught_up, w, 600000000);
	}
	struct ms_stream_status st;
	cr_assert_eq(ms_stream_get_status(w->stream, &st, NULL), MS_OK);
	cr_assert(end == MS_SIM_DONE && !w->ended, "not caught up: end %d state %s why %s worker %s error %s txid %llu of %llu", end,
		  ms_stream_state_name(st.state), w->ended ? w->why.msg : st.why, ms_worker_state_name(st.workers[0].state), st.workers[0].last_error,
		  (unsigned long long)st.workers[0].txid, (unsigned long long)st.db.txid);
	ms_stream_status_release(&st);
}

static void world_init(struct world *w, uint64_t seed, uint32_t page_size, uint32_t pages) {
	struct ms_err err = MS_ERR_INIT;
	memset(w, 0, sizeof *w);
	ms_log_configure(2, getenv("MS_TEST_LOG") ? MS_LOG_DEBUG : MS_LOG_OFF, false);
	w->env = ms_env_sim_new(seed);
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK);
	snprintf(w->store, sizeof w->store, "s%llu", (unsigned long long)seed);
	snprintf(w->url, sizeof w->url, "mem://%s", w->store);
	cr_assert_eq(ms_url_parse(w->url, &w->spec, &err), MS_OK, "%s", err.msg);
	w->db = sim_db_new(page_size, pages, seed);
}

static void world_release(struct world *w) {
	down(w);
	ms_env_sim_free(w->env);
	ms_replica_spec_release(&w->spec);
	ms_mem_drop(w->store);
	sim_db_free(w->db);
}

/* Restores and returns the file's bytes (malloc), or NULL. */
static uint8_t *restore(struct world *w, uint64_t txid, size_t *ret_len, uint64_t *ret_txid, struct ms_err *err) {
	struct ms_restore_replica r = {&w->spec, w->url};
	struct ms_restore_options o = {.replicas = &r, .nreplicas = 1, .path = "/out/x", .verify = MS_VERIFY_CHECKSUM, .force = true,
				       .target = {.kind = txid ? MS_TARGET_TXID : MS_TARGET_NEWEST, .txid = txid}};
	struct ms_restore_result res;
	struct ms_buf b;
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

/* The newest state, and every txid down from it until the first that is not advertised. */
static unsigned check_all(struct world *w, uint64_t seed) {
	struct ms_err err = MS_ERR_INIT;
	size_t len;
	uint64_t newest, got, commit = sim_db_latest(w->db);
	unsigned n = 0;
	uint8_t *p = restore(w, 0, &len, &newest, &err);
	cr_assert(p, "seed %llu: newest: %s", (unsigned long long)seed, err.msg);
	cr_assert(equals(w, commit, p, len), "seed %llu: the newest state (txid %llu) is not the database", (unsigned long long)seed,
		  (unsigned long long)newest);
	free(p);
	for (uint64_t txid = newest - 1; txid > 0; txid--) {
		err = MS_ERR_INIT;
		if (!(p = restore(w, txid, &len, &got, &err))) {
			cr_assert_eq(err.code, MS_ENOTRESTORABLE, "seed %llu: txid %llu: %s", (unsigned long long)seed, (unsigned long long)txid, err.msg);
			break;
		}
		while (!equals(w, commit, p, len)) {
			cr_assert(commit > 0, "seed %llu: txid %llu restores to a state that the database never had in this order",
				  (unsigned long long)seed, (unsigned long long)txid);
			commit--;
		}
		free(p);
		n++;
	}
	return n;
}

Test(stream_sim, follows_and_restores_every_txid, .timeout = 60) {
	struct world w;
	world_init(&w, 7, 1024, 40);
	cr_assert(up(&w));
	settle(&w);
	for (int i = 0; i < 60; i++) {
		sim_db_commit(w.db, 3);
		if (i % 3 == 0)
			ms_stream_poke(w.stream);
		ms_env_sim_run_until(w.env, NULL, NULL, 5000);
	}
	settle(&w);
	unsigned n = check_all(&w, 7);
	cr_assert(n >= 60, "only %u older points restore", n);
	world_release(&w);
}

static void random_history(uint64_t seed, bool power) {
	struct world w;
	world_init(&w, seed, seed % 2 ? 512 : 4096, 20 + (uint32_t)(seed % 30));
	bool alive = up(&w);
	for (int i = 0; i < 80; i++) {
		uint64_t dice = ms_env_sim_pick(w.env, 100);
		if (ms_env_sim_is_down(w.env)) {
			down(&w);
			alive = false;
			ms_env_sim_restart(w.env);
		}
		if (!alive)
			alive = up(&w);
		if (dice < 60) {
			for (uint64_t k = 1 + ms_env_sim_pick(w.env, 4); k; k--)
				sim_db_commit(w.db, 1 + (uint32_t)ms_env_sim_pick(w.env, 5));
			if (alive && w.stream && dice < 40)
				ms_stream_poke(w.stream);
		} else if (dice < 64) {
			sim_db_cut_log(w.db);
		} else if (dice < 70) {
			ms_mem_fault(w.store, &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = 1 + (int)ms_env_sim_pick(w.env, 3),
								     .code = MS_ERETRY, .lose_response = dice % 2});
		} else if (dice < 80 && power) {
			enum ms_sim_op op = (enum ms_sim_op)(ms_env_sim_pick(w.env, 3) ? MS_SIM_ANY : MS_SIM_FDATASYNC);
			ms_env_sim_crash_at(w.env, op, NULL, 1 + ms_env_sim_pick(w.env, 30));
		} else if (dice < 83) {
			ms_env_sim_fail(w.env, MS_SIM_PWRITE, "/shadow", 1 + ms_env_sim_pick(w.env, 10), 1, ENOSPC);
		} else if (dice < 88 && alive) {
			ms_env_sim_kill(w.env);
		}
		ms_env_sim_run_until(w.env, NULL, NULL, ms_env_sim_pick(w.env, 60000));
		cr_assert(!w.ended, "seed %llu: ended: %s", (unsigned long long)seed, w.why.msg);
	}
	settle(&w);
	check_all(&w, seed);
	world_release(&w);
}

Test(stream_sim, random_histories, .timeout = 300) {
	uint64_t from = getenv("MS_SEED") ? strtoull(getenv("MS_SEED"), NULL, 10) : 1;
	uint64_t n = getenv("MS_SEEDS") ? strtoull(getenv("MS_SEEDS"), NULL, 10) : 60;
	for (uint64_t seed = from; seed < from + n; seed++)
		random_history(seed, true);
}

/* Power loss of the database itself: its last commits are gone although they were captured. */
Test(stream_sim, database_goes_back_forks, .timeout = 60) {
	struct world w;
	world_init(&w, 11, 512, 30);
	cr_assert(up(&w));
	settle(&w);
	for (int i = 0; i < 20; i++)
		sim_db_commit(w.db, 2);
	settle(&w);
	struct ms_stream_status before, after;
	cr_assert_eq(ms_stream_get_status(w.stream, &before, NULL), MS_OK);
	ms_env_sim_kill(w.env);
	down(&w);
	ms_env_sim_restart(w.env);
	sim_db_go_back(w.db, sim_db_latest(w.db) - 5);
	cr_assert(up(&w));
	settle(&w);
	cr_assert_eq(ms_stream_get_status(w.stream, &after, NULL), MS_OK);
	cr_assert_str_neq(after.generation.s, before.generation.s);
	cr_assert_eq(after.db.txid, before.db.txid - 5);
	for (int i = 0; i < 10; i++)
		sim_db_commit(w.db, 2);
	settle(&w);
	unsigned n = check_all(&w, 11);
	cr_assert(n >= 20, "only %u older points restore", n);
	ms_stream_status_release(&before);
	ms_stream_status_release(&after);
	world_release(&w);
}

static void lose_page_sums(struct world *w) {
	ms_env_sim_kill(w->env);
	down(w);
	ms_env_sim_restart(w->env);
	cr_assert_eq(w->env->ops->unlink(w->env, "/shadow/db/x/sums", NULL), MS_OK);
}

static struct ms_stream_status status_of(struct world *w) {
	struct ms_stream_status st;
	cr_assert_eq(ms_stream_get_status(w->stream, &st, NULL), MS_OK);
	ms_stream_status_release(&st);
	st.workers = NULL;
	return st;
}

static bool shipping_goes_on(void *arg) {
	struct world *w = arg;
	struct ms_stream_status st;
	cr_assert_eq(ms_stream_get_status(w->stream, &st, NULL), MS_OK);
	bool there = st.workers[0].txid == st.db.txid && st.db.txid > 21 && st.workers[0].no_base;
	ms_stream_status_release(&st);
	return there;
}

/* No trustworthy local state, and a database that has moved on: a new generation, but not without the history before it. */
Test(stream_sim, lost_page_sums_keep_the_history_reachable, .timeout = 60) {
	struct world w;
	struct ms_err err = MS_ERR_INIT;
	size_t len;
	uint64_t got;
	world_init(&w, 21, 1024, 30);
	cr_assert(up(&w));
	settle(&w);
	for (int i = 0; i < 20; i++) {
		sim_db_commit(w.db, 2);
		ms_stream_poke(w.stream);
		ms_env_sim_run_until(w.env, NULL, NULL, 5000);
	}
	settle(&w);
	struct ms_stream_status before = status_of(&w);
	cr_assert_eq(before.db.txid, 21);
	lose_page_sums(&w);
	uint64_t then = sim_db_latest(w.db);
	for (int i = 0; i < 3; i++)
		sim_db_commit(w.db, 2);
	ms_mem_fault(w.store, &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/snapshots/", .times = 1000000, .code = MS_ERETRY});
	cr_assert(up(&w));
	cr_assert_eq(ms_env_sim_run_until(w.env, shipping_goes_on, &w, 600000000), MS_SIM_DONE);
	struct ms_stream_status after = status_of(&w);
	cr_assert_str_neq(after.generation.s, before.generation.s);
	cr_assert_eq(after.db.txid, before.db.txid + 1);
	ms_env_sim_run_until(w.env, NULL, NULL, 5000000);
	after = status_of(&w);
	cr_assert_eq(after.state, MS_STREAM_SEEDING);
	cr_assert(strstr(after.why, after.generation.s) && strstr(after.why, "up to txid 21 of") && strstr(after.why, before.generation.s), "%s", after.why);
	/* Its first snapshot cannot be put: the newest that restores is what was before, and all of that. */
	uint8_t *p = restore(&w, 0, &len, &got, &err);
	cr_assert(p, "%s", err.msg);
	cr_assert(got == before.db.txid && equals(&w, then, p, len));
	free(p);
	for (uint64_t txid = 1; txid <= before.db.txid; txid++) {
		cr_assert((p = restore(&w, txid, &len, &got, &err)), "txid %llu: %s", (unsigned long long)txid, err.msg);
		cr_assert(equals(&w, txid - 1, p, len), "txid %llu", (unsigned long long)txid);
		free(p);
	}
	err = MS_ERR_INIT;
	cr_assert_null(restore(&w, after.db.txid, &len, &got, &err));
	cr_assert_eq(err.code, MS_ENOTRESTORABLE, "%s", err.msg);
	for (int i = 0; i < 5; i++)
		sim_db_commit(w.db, 2);
	settle(&w);
	check_all(&w, 21);
	cr_assert((p = restore(&w, before.db.txid, &len, &got, &err)), "%s", err.msg);
	cr_assert(equals(&w, then, p, len));
	free(p);
	world_release(&w);
}

static bool journalled(void *arg) {
	struct world *w = arg;
	return status_of(w).journalled_txid == 1 + sim_db_latest(w->db);
}

/* The same over a database that has not moved: the journal knows its state, beyond what the replica holds, and the history just goes on. */
Test(stream_sim, lost_page_sums_of_an_unchanged_database, .timeout = 60) {
	struct world w;
	world_init(&w, 22, 1024, 30);
	cr_assert(up(&w));
	settle(&w);
	for (int i = 0; i < 20; i++) {
		sim_db_commit(w.db, 2);
		ms_stream_poke(w.stream);
		ms_env_sim_run_until(w.env, NULL, NULL, 5000);
	}
	settle(&w);
	ms_mem_fault(w.store, &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = 1000000, .code = MS_ERETRY});
	for (int i = 0; i < 5; i++) {
		sim_db_commit(w.db, 2);
		ms_stream_poke(w.stream);
		cr_assert_eq(ms_env_sim_run_until(w.env, journalled, &w, 60000000), MS_SIM_DONE);
	}
	struct ms_stream_status before = status_of(&w);
	lose_page_sums(&w);
	ms_mem_clear_faults(w.store);
	cr_assert(up(&w));
	settle(&w);
	struct ms_stream_status after = status_of(&w);
	cr_assert_str_eq(after.generation.s, before.generation.s);
	cr_assert_eq(after.db.txid, before.db.txid);
	unsigned n = check_all(&w, 22);
	cr_assert(n >= 25, "only %u older points restore", n);
	world_release(&w);
}

struct waiting {
	bool answered;
	uint64_t txid;
	struct ms_err err;
};

static void barrier_came(void *arg, uint64_t txid, const struct ms_err *err) {
	struct waiting *b = arg;
	b->answered = true;
	b->txid = txid;
	b->err = err ? *err : MS_ERR_INIT;
}

static bool is_answered(void *arg) { return ((struct waiting *)arg)->answered; }

/* Another commit comes with every look at the database: a barrier stands for what was there, and does not wait for the writer to rest. */
Test(stream_sim, barriers_come_under_a_writer_that_never_rests, .timeout = 60) {
	for (unsigned limit = 2; limit <= 8; limit *= 2) {
		struct world w;
		world_init(&w, 30 + limit, 512, 20);
		cr_assert(up(&w));
		settle(&w);
		sim_source_step_limit(w.source, limit);
		for (int i = 0; i < 30; i++) /* more than a step takes */
			sim_db_commit(w.db, 2);
		sim_source_storm(w.source, 2);
		struct waiting b = {0};
		uint64_t visible = sim_db_latest(w.db);
		ms_stream_barrier(w.stream, barrier_came, &b);
		cr_assert_eq(ms_env_sim_run_until(w.env, is_answered, &b, 60000000), MS_SIM_DONE, "no answer");
		cr_assert_eq(b.err.code, MS_OK, "%s", b.err.msg);
		cr_assert_geq(b.txid, visible + 1, "txid %llu does not hold commit %llu", (unsigned long long)b.txid, (unsigned long long)visible);
		sim_source_storm(w.source, 0);
		settle(&w);
		check_all(&w, 30 + limit);
		world_release(&w);
	}
}

/* An application that writes what was there before, unseen: the database went on, so the history does, without a fork. */
Test(stream_sim, the_same_state_again_is_no_fork, .timeout = 60) {
	for (int running = 0; running < 2; running++) { /* while we are down, and under our eyes */
		struct world w;
		world_init(&w, 40 + (uint64_t)running, 512, 30);
		cr_assert(up(&w));
		settle(&w);
		for (int i = 0; i < 10; i++) {
			sim_db_commit(w.db, 2);
			ms_stream_poke(w.stream);
			ms_env_sim_run_until(w.env, NULL, NULL, 5000);
		}
		settle(&w);
		struct ms_stream_status before = status_of(&w);
		cr_assert_eq(before.db.txid, 11);
		if (!running) {
			ms_env_sim_kill(w.env);
			down(&w);
			ms_env_sim_restart(w.env);
		}
		sim_db_commit(w.db, 2);
		sim_db_repeat(w.db, 4);
		sim_db_cut_log(w.db);
		if (!running)
			cr_assert(up(&w));
		settle(&w);
		struct ms_stream_status after = status_of(&w);
		cr_assert_str_eq(after.generation.s, before.generation.s);
		cr_assert_eq(after.db.txid, before.db.txid + 1, "one catch-up");
		sim_db_commit(w.db, 2);
		settle(&w);
		unsigned n = check_all(&w, 40);
		cr_assert(n >= 12, "only %u older points restore", n);
		world_release(&w);
	}
}

/* ---- snapshots ---- */

#define SECOND UINT64_C(1000000)

/* Chunks of an idle database are read one after the other as they arrive, not one at each of its rare looks; and it is then left alone. */
Test(stream_sim, snapshots_of_an_idle_database, .timeout = 120) {
	struct world w;
	struct waiting b = {0};
	world_init(&w, 50, 4096, 6000); /* 24 MiB: six chunks */
	cr_assert(up(&w));
	sim_source_step_limit(w.source, 0);
	sim_source_poll(w.source, 60 * SECOND);
	settle(&w);
	cr_assert_eq(status_of(&w).snapshots, 1);
	sim_db_commit(w.db, 3);
	ms_stream_poke(w.stream);
	ms_env_sim_run_until(w.env, NULL, NULL, SECOND);
	ms_stream_snapshot(w.stream, barrier_came, &b);
	cr_assert_eq(ms_env_sim_run_until(w.env, is_answered, &b, 10 * SECOND), MS_SIM_DONE, "a chunk waits for the next look");
	cr_assert_eq(b.err.code, MS_OK, "%s", b.err.msg);
	cr_assert_eq(b.txid, 2);
	struct ms_stream_status before = status_of(&w);
	cr_assert_eq(before.snapshots, 2);
	ms_env_sim_run_until(w.env, NULL, NULL, 3600 * SECOND);
	cr_assert_eq(status_of(&w).snapshots, 2, "an idle database got another snapshot");
	check_all(&w, 50);
	world_release(&w);
}

/* Pages that are written, appended and cut off while the chunks are read: the snapshot is one state all the same. */
Test(stream_sim, snapshots_while_the_database_changes, .timeout = 300) {
	for (uint64_t seed = 51; seed < 55; seed++) {
		struct world w;
		world_init(&w, seed, 4096, 2500 + 700 * (uint32_t)(seed % 3));
		cr_assert(up(&w));
		settle(&w);
		uint64_t had = status_of(&w).snapshots;
		sim_source_step_limit(w.source, 3);
		sim_source_storm(w.source, 4);
		for (int i = 0; i < 4; i++) {
			struct waiting b = {0};
			ms_stream_snapshot(w.stream, barrier_came, &b);
			cr_assert_eq(ms_env_sim_run_until(w.env, is_answered, &b, 600 * SECOND), MS_SIM_DONE);
			cr_assert_eq(b.err.code, MS_OK, "%s", b.err.msg);
			struct ms_err err = MS_ERR_INIT;
			size_t len;
			uint64_t got;
			uint8_t *p = restore(&w, b.txid, &len, &got, &err); /* no segment is needed for that one */
			cr_assert(p, "%s", err.msg);
			cr_assert(equals(&w, b.txid - 1, p, len), "seed %llu: the snapshot of txid %llu is no state of the database", (unsigned long long)seed,
				  (unsigned long long)b.txid);
			free(p);
		}
		cr_assert_geq(status_of(&w).snapshots, had + 4);
		sim_source_storm(w.source, 0);
		settle(&w);
		world_release(&w);
	}
}
