/*
 * One database, three replicas, a journal that is far too small for an outage: replicas go away and come back at random, are wiped or
 * put back to an older copy, the machine loses power, processes are killed. Oracle: the images of the database in memory. Invariants:
 * the journal stays below its cap and the database is never let go for the cap's sake; when all is healed every replica by itself, and all together,
 * restore the newest state, and every txid that `list` advertises restores to an image that the database really had, in order.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/worker.h"
#include "replicas/mem.h"
#include "support/sim_world.h"

#define REPLICAS SIM_REPLICAS
#define CAP (160u << 10)
typedef unsigned long long ull;

static void begin(struct sim_world *w, uint64_t seed, uint32_t page_size, uint32_t pages) {
	sim_world_init(w, seed, REPLICAS, page_size, pages);
	w->cap = CAP;
	w->snapshot_share = 4.0;
	w->segment_bytes = 16 << 10;
}

/* ---- histories ---- */

static void gone(struct sim_world *w, int i, int times, bool lose) {
	ms_mem_fault(w->store[i], &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = times, .code = MS_ERETRY, .lose_response = lose});
}

Test(outage_sim, one_replica_down_past_the_cap, .timeout = 300) {
	struct sim_world w;
	begin(&w, 3, 4096, 60);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	sim_world_load(&w, 20);
	sim_world_settle(&w);
	uint64_t before = sim_world_replica(&w, 1).txid;
	gone(&w, 1, -1, false);
	for (int i = 0; i < 25; i++) {
		sim_world_load(&w, 10);
		struct ms_worker_status st = sim_world_replica(&w, 0);
		struct ms_stream_status s = sim_world_status(&w);
		cr_expect_eq(s.state, MS_STREAM_FOLLOWING);
		cr_expect_eq(s.catchups, 0, "the database was let go");
		cr_expect_leq(s.db.txid - st.txid, 10, "the other replica is delayed");
	}
	struct ms_worker_status st = sim_world_replica(&w, 1);
	cr_expect_gt(st.owed_commits, 150);
	cr_expect_eq(st.txid, before);
	cr_expect_leq(w.most, CAP);
	sim_world_settle(&w);
	st = sim_world_replica(&w, 1);
	cr_expect_eq(st.catchups, 1, "%llu", (ull)st.catchups);
	cr_expect_eq(st.folded_first, before + 1, "%llu to %llu, not from %llu", (ull)st.folded_first, (ull)st.folded_last, (ull)before + 1);
	cr_expect_eq(st.snapshots, 1, "it was brought to the present without a new snapshot");
	cr_expect_eq(sim_world_replica(&w, 0).catchups, 0);
	uint64_t folded = st.folded_last;
	sim_world_load(&w, 20);
	sim_world_settle(&w);
	/* The replica that was never away holds everything, the other all but what was folded. */
	unsigned all = sim_world_check(&w, 0, 1), part = sim_world_check(&w, 1, 1);
	cr_expect_eq(all - part, folded - before - 1);
	cr_expect_eq(sim_world_check(&w, 0, REPLICAS), all, "together they hold every commit");
	sim_world_release(&w);
}

static bool is_folded(void *arg) { return sim_world_replica(arg, 1).catchups > 0; }

/* Its segments stayed out while a snapshot came: that one lies within the catch-up, and nothing leads on from it. */
static void snapshot_within(uint64_t seed, bool killed) {
	struct sim_world w;
	begin(&w, seed, 1024, 60);
	w.snapshot_share = 0; /* none but those that are asked for */
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	sim_world_load(&w, 20);
	sim_world_settle(&w);
	ms_mem_fault(w.store[1], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/segments/", .times = -1, .code = MS_ERETRY});
	for (int i = 0; i < 5; i++)
		sim_db_commit(w.db, 2);
	ms_stream_snapshot(w.stream, NULL, NULL); /* before it is known to fail */
	sim_world_load(&w, 250);
	uint64_t within = sim_world_replica(&w, 1).last_snapshot_txid;
	cr_assert(within > 21 && sim_world_replica(&w, 1).owed_first <= within && sim_world_replica(&w, 1).owed_last > within);
	ms_mem_clear_faults(w.store[1]);
	cr_assert_eq(ms_env_sim_run_until(w.env, is_folded, &w, 60000000), MS_SIM_DONE);
	uint64_t end = sim_world_replica(&w, 1).folded_last;
	cr_assert_lt(sim_world_replica(&w, 1).last_snapshot_txid, end);
	sim_world_check(&w, 1, 1); /* from the older snapshot */
	if (killed)
		sim_world_die(&w, false);
	sim_world_settle(&w);
	cr_expect_geq(sim_world_replica(&w, 1).last_snapshot_txid, end, "no new snapshot was asked for");
	sim_world_check_all(&w);
	sim_world_release(&w);
}

Test(outage_sim, a_snapshot_within_a_catch_up_is_replaced_at_once, .timeout = 100) {
	snapshot_within(4, false);
	snapshot_within(5, true);
}

/* A backend that settles late does not hold the journal beyond its cap; and what it then loses comes back as a catch-up. */
static void late_settling(uint64_t seed, bool loses, bool killed) {
	struct sim_world w;
	begin(&w, seed, 1024, 60);
	w.snapshot_share = 0;
	ms_mem_set_settle(w.store[1], 3600 * INT64_C(1000000));
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	for (int i = 0; i < 2; i++) {
		sim_world_load(&w, 50);
		sim_world_settle(&w);
		if (!i)
			ms_mem_copy(w.copy[1], w.store[1]);
	}
	uint64_t held = 51;
	for (int i = 0; i < 8; i++) {
		sim_world_load(&w, 50);
		ms_env_sim_run_until(w.env, NULL, NULL, 10000);
		cr_expect_eq(sim_world_status(&w).catchups, 0, "the database was let go");
		cr_expect_eq(sim_world_status(&w).state, MS_STREAM_FOLLOWING);
	}
	cr_expect_leq(w.most, CAP);
	struct ms_journal_stats js;
	ms_journal_get_stats(w.journal, &js);
	struct ms_worker_status st = sim_world_replica(&w, 1);
	cr_expect_lt(st.settled_txid, 100);
	cr_expect_gt(js.first_seq, 200);
	cr_expect(st.catchups == 0 && st.owed_commits == 0, "commits of a replica that was never away were folded");
	if (killed)
		sim_world_die(&w, seed % 2);
	if (loses) {
		ms_mem_copy(w.store[1], w.copy[1]);
		if (!killed)
			ms_mem_fault(w.store[1], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/segments/", .times = 1, .code = MS_ERETRY});
		else
			cr_assert(sim_world_up(&w));
		sim_world_load(&w, 1);
		cr_assert_eq(ms_env_sim_run_until(w.env, is_folded, &w, 60000000), MS_SIM_DONE);
		st = sim_world_replica(&w, 1);
		cr_expect_eq(st.folded_first, held + 1, "%llu", (ull)st.folded_first);
		cr_expect_eq(st.snapshots, !killed, "a snapshot in the place of a catch-up");
	}
	sim_world_settle(&w);
	unsigned all = sim_world_check(&w, 0, 1), part = sim_world_check(&w, 1, 1);
	cr_expect_eq(all - part, loses ? st.folded_last - held - 1 : 0);
	sim_world_release(&w);
}

Test(outage_sim, a_backend_that_settles_late_does_not_hold_the_journal, .timeout = 200) {
	late_settling(7, true, false);
	late_settling(8, true, true);
	if (getenv("MS_QUICK"))
		return;
	late_settling(6, false, false);
	late_settling(9, true, true);
}

/* Away since before the start, and the database begins another generation meanwhile: only a snapshot brings it on, so nothing is kept for it. */
Test(outage_sim, a_replica_that_is_not_claimed_does_not_hold_the_journal, .timeout = 100) {
	struct sim_world w;
	begin(&w, 10, 1024, 60);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	sim_world_load(&w, 20);
	sim_world_settle(&w);
	gone(&w, 1, -1, false);
	sim_world_load(&w, 10);
	sim_world_die(&w, false);
	sim_db_go_back(w.db, sim_db_latest(w.db) - 3);
	w.went_back = true;
	cr_assert(sim_world_up(&w));
	ms_env_sim_run_until(w.env, NULL, NULL, 1000000);
	for (int i = 0; i < 30; i++) {
		sim_world_load(&w, 10);
		cr_expect_neq(sim_world_status(&w).state, MS_STREAM_BLOCKED);
	}
	cr_expect_eq(sim_world_replica(&w, 1).state, MS_WORKER_RETRYING);
	struct ms_journal_stats js;
	ms_journal_get_stats(w.journal, &js);
	cr_expect_gt(js.first_seq, 100, "the journal is kept from entry %llu on", (ull)js.first_seq);
	cr_expect_leq(w.most, CAP);
	sim_world_settle(&w);
	sim_world_check_all(&w);
	sim_world_release(&w);
}

/* The catch-up is there, the cursor behind it could not be saved: what is owed is not forgotten before it is. */
Test(outage_sim, what_is_owed_stays_until_the_cursor_is_durable, .timeout = 100) {
	for (int power = 0; power < 2; power++) {
		struct sim_world w;
		begin(&w, 12 + (uint64_t)power, 1024, 60);
		w.snapshot_share = 0;
		cr_assert(sim_world_up(&w));
		sim_world_settle(&w);
		sim_world_load(&w, 20);
		sim_world_settle(&w);
		gone(&w, 1, -1, false);
		sim_world_load(&w, 250);
		cr_assert_gt(sim_world_replica(&w, 1).owed_commits, 150);
		ms_env_sim_fail(w.env, MS_SIM_RENAME, "cursor-m1", 1, 0, EIO);
		ms_mem_clear_faults(w.store[1]);
		cr_assert_eq(ms_env_sim_run_until(w.env, is_folded, &w, 60000000), MS_SIM_DONE);
		uint64_t end = sim_world_replica(&w, 1).folded_last;
		ms_env_sim_run_until(w.env, NULL, NULL, 30000);
		sim_world_load(&w, 3);
		ms_env_sim_clear_rules(w.env);
		sim_world_die(&w, power);
		sim_world_settle(&w);
		struct ms_worker_status st = sim_world_replica(&w, 1);
		cr_expect_eq(st.snapshots, 0, "a snapshot, although the catch-up is there");
		cr_expect_geq(st.txid, end);
		sim_world_check_all(&w);
		sim_world_release(&w);
	}
}

/* kill -9 and power loss at every stage of an outage and of its end. */
static void restarts(uint64_t seed, bool power) {
	struct sim_world w;
	begin(&w, seed, 1024, 60);
	cr_assert(sim_world_up(&w));
	sim_world_settle(&w);
	gone(&w, 1, -1, false);
	for (int round = 0; round < 12; round++) {
		while (!w.stream && !sim_world_up(&w))
			if (ms_env_sim_is_down(w.env))
				ms_env_sim_restart(w.env);
		if (round == 6)
			ms_mem_clear_faults(w.store[1]);
		sim_world_load(&w, 25);
		if (power)
			ms_env_sim_crash_at(w.env, MS_SIM_ANY, NULL, 1 + ms_env_sim_pick(w.env, 200));
		ms_env_sim_run_until(w.env, NULL, NULL, 20000 + ms_env_sim_pick(w.env, 100000));
		sim_world_die(&w, false);
	}
	sim_world_settle(&w);
	sim_world_check_all(&w);
	sim_world_release(&w);
}

Test(outage_sim, restarts_while_owing, .timeout = 400) {
	for (uint64_t seed = 100; seed < (getenv("MS_QUICK") ? 102 : 106); seed++)
		restarts(seed, seed % 2);
}

#define SETTLE 3000000u

/* What a backend has acknowledged and may lose: everything since a copy that is not older than its settle time. */
struct backend {
	bool settles, copied;
	uint64_t copied_us;
};

static uint64_t now_us(struct sim_world *w) { return (uint64_t)ms_env_now_us(w->env); }

static void backend_crash(struct sim_world *w, struct backend *b, unsigned r) {
	if (!b->copied || now_us(w) - b->copied_us >= SETTLE)
		return;
	ms_mem_copy(w->store[r], w->copy[r]);
	/* Its connections are gone too. */
	ms_mem_fault(w->store[r], &(struct ms_mem_fault){.ops = MS_MEM_GET | MS_MEM_LIST, .times = 1, .code = MS_ERETRY});
	ms_mem_fault(w->store[r], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/segments/", .times = 1, .code = MS_ERETRY});
}

/* Away, and back with an older copy, or empty. */
static void comes_back_with_less(struct sim_world *w, const struct backend *b, unsigned r) {
	gone(w, (int)r, -1, false);
	sim_db_commit(w->db, 1);
	if (w->stream)
		ms_stream_poke(w->stream);
	ms_env_sim_run_until(w->env, NULL, NULL, 100000);
	if (b->copied)
		ms_mem_copy(w->store[r], w->copy[r]);
	else
		ms_mem_wipe(w->store[r]);
}

static uint64_t random_history(uint64_t seed) {
	struct sim_world w;
	struct backend b[REPLICAS] = {0};
	/* All pages as one catch-up of the database fit into the journal. */
	begin(&w, seed, seed % 2 ? 512 : 2048, 20 + (uint32_t)(seed % (seed % 2 ? 60 : 20)));
	w.optional = seed % 3 == 0;
	if (seed % 5 == 2) {
		w.snapshot_retention_us = 4000000;
		w.check_interval_us = 1000000;
		w.removal_grace_us = 500000;
	}
	for (unsigned r = 0; r < REPLICAS; r++) {
		b[r].settles = seed % 4 == 1 && r != 1;
		ms_mem_set_settle(w.store[r], b[r].settles ? SETTLE : 0);
	}
	bool alive = sim_world_up(&w), lost = false;
	for (int i = 0; i < 120; i++) {
		uint64_t dice = ms_env_sim_pick(w.env, 100);
		unsigned r = (unsigned)ms_env_sim_pick(w.env, REPLICAS);
		if (ms_env_sim_is_down(w.env)) {
			sim_world_die(&w, false);
			alive = false;
		}
		if (!alive)
			alive = sim_world_up(&w);
		if (dice < 50) {
			for (uint64_t k = 1 + ms_env_sim_pick(w.env, 12); k; k--)
				sim_db_commit(w.db, 1 + (uint32_t)ms_env_sim_pick(w.env, 8));
			if (alive)
				ms_stream_poke(w.stream);
		} else if (dice < 53) {
			sim_db_cut_log(w.db);
		} else if (dice < 60) {
			gone(&w, (int)r, -1, false);
		} else if (dice < 67) {
			gone(&w, (int)r, 1 + (int)ms_env_sim_pick(w.env, 3), dice % 2);
		} else if (dice < 68) { /* its segments stay out, while its snapshots come */
			ms_mem_fault(w.store[r], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/segments/", .times = -1, .code = MS_ERETRY});
		} else if (dice < 76) {
			ms_mem_clear_faults(w.store[r]);
		} else if (dice < 80) {
			ms_env_sim_crash_at(w.env, ms_env_sim_pick(w.env, 3) ? MS_SIM_ANY : MS_SIM_FDATASYNC, NULL, 1 + ms_env_sim_pick(w.env, 60));
		} else if (dice < 84 && alive) {
			ms_env_sim_kill(w.env);
		} else if (dice < 86 && (b[r].settles || !(seed % 4))) {
			ms_mem_copy(w.copy[r], w.store[r]);
			b[r].copied = true;
			b[r].copied_us = now_us(&w);
		} else if (dice < 88 && b[r].settles) {
			backend_crash(&w, &b[r], r);
			lost = true;
		} else if (dice < 88 && seed % 4 != 1 && (b[r].copied || !(seed % 5))) {
			comes_back_with_less(&w, &b[r], r);
			lost = true;
		} else if (dice < 90 && alive) {
			ms_stream_snapshot(w.stream, NULL, NULL);
		} else if (alive) {
			sim_world_purge(&w);
		}
		ms_env_sim_run_until(w.env, NULL, NULL, ms_env_sim_pick(w.env, dice % 10 ? 60000 : 2 * SETTLE));
		cr_assert(!w.ended, "seed %llu: ended: %s", (ull)seed, w.why.msg);
	}
	sim_world_settle(&w);
	if (lost) { /* one that was idle when it came back is looked at with the next commit, or a settle time later */
		ms_env_sim_run_until(w.env, NULL, NULL, 3 * SETTLE);
		sim_db_commit(w.db, 1);
		sim_world_settle(&w);
	}
	sim_world_check_all(&w);
	cr_expect_leq(w.most, CAP, "seed %llu: the journal took %llu bytes", (ull)seed, (ull)w.most);
	sim_world_release(&w);
	return w.catchups;
}

Test(outage_sim, random_histories, .timeout = 500) {
	uint64_t from = getenv("MS_SEED") ? strtoull(getenv("MS_SEED"), NULL, 10) : 1;
	uint64_t n = getenv("MS_SEEDS") ? strtoull(getenv("MS_SEEDS"), NULL, 10) : getenv("MS_QUICK") ? 4 : 20, catchups = 0;
	for (uint64_t seed = from; seed < from + n; seed++)
		catchups += random_history(seed);
	if (n >= 40)
		cr_expect_gt(catchups, 10, "the histories hardly met a catch-up");
}
