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

#include "replicas/mem.h"
#include "support/sim_world.h"

Test(stream_sim, follows_and_restores_every_txid, .timeout = 60) {
	struct sim_world w;
	sim_world_init(&w, 7, 1, 1024, 40);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	for (int i = 0; i < 60; i++) {
		sim_db_commit(w.db, 3);
		if (i % 3 == 0)
			ms_stream_poke(w.stream);
		ms_env_sim_run_until(w.env, NULL, NULL, 5000);
	}
	sim_world_settle(&w);
	unsigned n = sim_world_check(&w, 0, 1);
	cr_assert(n >= 60, "only %u older points restore", n);
	sim_world_release(&w);
}

static void random_history(uint64_t seed, bool power) {
	struct sim_world w;
	sim_world_init(&w, seed, 1, seed % 2 ? 512 : 4096, 20 + (uint32_t)(seed % 30));
	bool alive = sim_world_up(&w);
	for (int i = 0; i < 80; i++) {
		uint64_t dice = ms_env_sim_pick(w.env, 100);
		if (ms_env_sim_is_down(w.env)) {
			sim_world_die(&w, false);
			alive = false;
		}
		if (!alive)
			alive = sim_world_up(&w);
		if (dice < 60) {
			for (uint64_t k = 1 + ms_env_sim_pick(w.env, 4); k; k--)
				sim_db_commit(w.db, 1 + (uint32_t)ms_env_sim_pick(w.env, 5));
			if (alive && w.stream && dice < 40)
				ms_stream_poke(w.stream);
		} else if (dice < 64) {
			sim_db_cut_log(w.db);
		} else if (dice < 70) {
			ms_mem_fault(w.store[0], &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = 1 + (int)ms_env_sim_pick(w.env, 3),
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
	sim_world_settle(&w);
	sim_world_check(&w, 0, 1);
	sim_world_release(&w);
}

Test(stream_sim, random_histories, .timeout = 300) {
	uint64_t from = getenv("MS_SEED") ? strtoull(getenv("MS_SEED"), NULL, 10) : 1;
	uint64_t n = getenv("MS_SEEDS") ? strtoull(getenv("MS_SEEDS"), NULL, 10) : getenv("MS_QUICK") ? 15 : 60;
	for (uint64_t seed = from; seed < from + n; seed++)
		random_history(seed, true);
}

/* Power loss of the database itself: its last commits are gone although they were captured. */
Test(stream_sim, database_goes_back_forks, .timeout = 60) {
	struct sim_world w;
	sim_world_init(&w, 11, 1, 512, 30);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	for (int i = 0; i < 20; i++)
		sim_db_commit(w.db, 2);
	sim_world_settle(&w);
	struct ms_stream_status before, after;
	cr_assert_eq(ms_stream_get_status(w.stream, &before, NULL), MS_OK);
	sim_world_die(&w, false);
	sim_db_go_back(w.db, sim_db_latest(w.db) - 5);
	w.went_back = true;
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	cr_assert_eq(ms_stream_get_status(w.stream, &after, NULL), MS_OK);
	cr_assert_str_neq(after.generation.s, before.generation.s);
	cr_assert_eq(after.db.txid, before.db.txid - 5);
	for (int i = 0; i < 10; i++)
		sim_db_commit(w.db, 2);
	sim_world_settle(&w);
	unsigned n = sim_world_check(&w, 0, 1);
	cr_assert(n >= 20, "only %u older points restore", n);
	ms_stream_status_release(&before);
	ms_stream_status_release(&after);
	sim_world_release(&w);
}

static void lose_page_sums(struct sim_world *w) {
	sim_world_die(w, false);
	cr_assert_eq(w->env->ops->unlink(w->env, "/shadow/db/x/sums", NULL), MS_OK);
}

static bool shipping_goes_on(void *arg) {
	struct sim_world *w = arg;
	struct ms_stream_status st;
	cr_assert_eq(ms_stream_get_status(w->stream, &st, NULL), MS_OK);
	bool there = st.workers[0].txid == st.db.txid && st.db.txid > 21 && st.workers[0].no_base;
	ms_stream_status_release(&st);
	return there;
}

/* No trustworthy local state, and a database that has moved on: a new generation, but not without the history before it. */
Test(stream_sim, lost_page_sums_keep_the_history_reachable, .timeout = 60) {
	struct sim_world w;
	struct ms_err err = MS_ERR_INIT;
	size_t len;
	uint64_t got;
	sim_world_init(&w, 21, 1, 1024, 30);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	for (int i = 0; i < 20; i++) {
		sim_db_commit(w.db, 2);
		ms_stream_poke(w.stream);
		ms_env_sim_run_until(w.env, NULL, NULL, 5000);
	}
	sim_world_settle(&w);
	struct ms_stream_status before = sim_world_status(&w);
	cr_assert_eq(before.db.txid, 21);
	lose_page_sums(&w);
	uint64_t then = sim_db_latest(w.db);
	for (int i = 0; i < 3; i++)
		sim_db_commit(w.db, 2);
	ms_mem_fault(w.store[0], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/snapshots/", .times = 1000000, .code = MS_ERETRY});
	cr_assert(sim_world_up(&w));
	cr_assert_eq(ms_env_sim_run_until(w.env, shipping_goes_on, &w, 600000000), MS_SIM_DONE);
	struct ms_stream_status after = sim_world_status(&w);
	cr_assert_str_neq(after.generation.s, before.generation.s);
	cr_assert_eq(after.db.txid, before.db.txid + 1);
	ms_env_sim_run_until(w.env, NULL, NULL, 5000000);
	after = sim_world_status(&w);
	cr_assert_eq(after.state, MS_STREAM_SEEDING);
	cr_assert(strstr(after.why, after.generation.s) && strstr(after.why, "up to txid 21 of") && strstr(after.why, before.generation.s), "%s", after.why);
	/* Its first snapshot cannot be put: the newest that restores is what was before, and all of that. */
	uint8_t *p = sim_world_restore(&w, 0, 1, NULL, 0, &len, &got, &err);
	cr_assert(p, "%s", err.msg);
	cr_assert(got == before.db.txid && sim_world_equals(&w, then, p, len));
	free(p);
	for (uint64_t txid = 1; txid <= before.db.txid; txid++) {
		cr_assert((p = sim_world_restore(&w, 0, 1, NULL, txid, &len, &got, &err)), "txid %llu: %s", (unsigned long long)txid, err.msg);
		cr_assert(sim_world_equals(&w, txid - 1, p, len), "txid %llu", (unsigned long long)txid);
		free(p);
	}
	err = MS_ERR_INIT;
	cr_assert_null(sim_world_restore(&w, 0, 1, NULL, after.db.txid, &len, &got, &err));
	cr_assert_eq(err.code, MS_ENOTRESTORABLE, "%s", err.msg);
	for (int i = 0; i < 5; i++)
		sim_db_commit(w.db, 2);
	sim_world_settle(&w);
	sim_world_check(&w, 0, 1);
	cr_assert((p = sim_world_restore(&w, 0, 1, NULL, before.db.txid, &len, &got, &err)), "%s", err.msg);
	cr_assert(sim_world_equals(&w, then, p, len));
	free(p);
	sim_world_release(&w);
}

static bool journalled(void *arg) {
	struct sim_world *w = arg;
	return sim_world_status(w).journalled_txid == 1 + sim_db_latest(w->db);
}

/* The same over a database that has not moved: the journal knows its state, beyond what the replica holds, and the history just goes on. */
Test(stream_sim, lost_page_sums_of_an_unchanged_database, .timeout = 60) {
	struct sim_world w;
	sim_world_init(&w, 22, 1, 1024, 30);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	for (int i = 0; i < 20; i++) {
		sim_db_commit(w.db, 2);
		ms_stream_poke(w.stream);
		ms_env_sim_run_until(w.env, NULL, NULL, 5000);
	}
	sim_world_settle(&w);
	ms_mem_fault(w.store[0], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = 1000000, .code = MS_ERETRY});
	for (int i = 0; i < 5; i++) {
		sim_db_commit(w.db, 2);
		ms_stream_poke(w.stream);
		cr_assert_eq(ms_env_sim_run_until(w.env, journalled, &w, 60000000), MS_SIM_DONE);
	}
	struct ms_stream_status before = sim_world_status(&w);
	lose_page_sums(&w);
	ms_mem_clear_faults(w.store[0]);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	struct ms_stream_status after = sim_world_status(&w);
	cr_assert_str_eq(after.generation.s, before.generation.s);
	cr_assert_eq(after.db.txid, before.db.txid);
	unsigned n = sim_world_check(&w, 0, 1);
	cr_assert(n >= 25, "only %u older points restore", n);
	sim_world_release(&w);
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
		struct sim_world w;
		sim_world_init(&w, 30 + limit, 1, 512, 20);
		cr_assert(sim_world_up(&w));
		sim_world_settle(&w);
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
		sim_world_settle(&w);
		sim_world_check(&w, 0, 1);
		sim_world_release(&w);
	}
}

/* An application that writes what was there before, unseen: the database went on, so the history does, without a fork. */
Test(stream_sim, the_same_state_again_is_no_fork, .timeout = 60) {
	for (int running = 0; running < 2; running++) { /* while we are down, and under our eyes */
		struct sim_world w;
		sim_world_init(&w, 40 + (uint64_t)running, 1, 512, 30);
		cr_assert(sim_world_up(&w));
		sim_world_settle(&w);
		for (int i = 0; i < 10; i++) {
			sim_db_commit(w.db, 2);
			ms_stream_poke(w.stream);
			ms_env_sim_run_until(w.env, NULL, NULL, 5000);
		}
		sim_world_settle(&w);
		struct ms_stream_status before = sim_world_status(&w);
		cr_assert_eq(before.db.txid, 11);
		if (!running) {
			sim_world_die(&w, false);
		}
		sim_db_commit(w.db, 2);
		sim_db_repeat(w.db, 4);
		sim_db_cut_log(w.db);
		if (!running)
			cr_assert(sim_world_up(&w));
		sim_world_settle(&w);
		struct ms_stream_status after = sim_world_status(&w);
		cr_assert_str_eq(after.generation.s, before.generation.s);
		cr_assert_eq(after.db.txid, before.db.txid + 1, "one catch-up");
		sim_db_commit(w.db, 2);
		sim_world_settle(&w);
		unsigned n = sim_world_check(&w, 0, 1);
		cr_assert(n >= 12, "only %u older points restore", n);
		sim_world_release(&w);
	}
}

/* ---- snapshots ---- */

#define SECOND UINT64_C(1000000)

/* Chunks of an idle database are read one after the other as they arrive, not one at each of its rare looks; and it is then left alone. */
Test(stream_sim, snapshots_of_an_idle_database, .timeout = 120) {
	struct sim_world w;
	struct waiting b = {0};
	sim_world_init(&w, 50, 1, 4096, 6000); /* 24 MiB: six chunks */
	cr_assert(sim_world_up(&w));
	sim_source_step_limit(w.source, 0);
	sim_source_poll(w.source, 60 * SECOND);
	sim_world_settle(&w);
	cr_assert_eq(sim_world_status(&w).snapshots, 1);
	sim_db_commit(w.db, 3);
	ms_stream_poke(w.stream);
	ms_env_sim_run_until(w.env, NULL, NULL, SECOND);
	ms_stream_snapshot(w.stream, barrier_came, &b);
	cr_assert_eq(ms_env_sim_run_until(w.env, is_answered, &b, 10 * SECOND), MS_SIM_DONE, "a chunk waits for the next look");
	cr_assert_eq(b.err.code, MS_OK, "%s", b.err.msg);
	cr_assert_eq(b.txid, 2);
	struct ms_stream_status before = sim_world_status(&w);
	cr_assert_eq(before.snapshots, 2);
	ms_env_sim_run_until(w.env, NULL, NULL, 3600 * SECOND);
	cr_assert_eq(sim_world_status(&w).snapshots, 2, "an idle database got another snapshot");
	sim_world_check(&w, 0, 1);
	sim_world_release(&w);
}

/* Pages that are written, appended and cut off while the chunks are read: the snapshot is one state all the same. */
Test(stream_sim, snapshots_while_the_database_changes, .timeout = 300) {
	for (uint64_t seed = 51; seed < 55; seed++) {
		struct sim_world w;
		sim_world_init(&w, seed, 1, 4096, 2500 + 700 * (uint32_t)(seed % 3));
		cr_assert(sim_world_up(&w));
		sim_world_settle(&w);
		uint64_t had = sim_world_status(&w).snapshots;
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
			uint8_t *p = sim_world_restore(&w, 0, 1, NULL, b.txid, &len, &got, &err); /* no segment is needed for that one */
			cr_assert(p, "%s", err.msg);
			cr_assert(sim_world_equals(&w, b.txid - 1, p, len), "seed %llu: the snapshot of txid %llu is no state of the database", (unsigned long long)seed,
				  (unsigned long long)b.txid);
			free(p);
		}
		cr_assert_geq(sim_world_status(&w).snapshots, had + 4);
		sim_source_storm(w.source, 0);
		sim_world_settle(&w);
		sim_world_release(&w);
	}
}
