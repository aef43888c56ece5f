/* A backend that may lose what it has acknowledged for a minute (caps.settle_us): what the journal is kept for, and what comes of it. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "core/cursor.h"
#include "support/one_replica.h"

#define SETTLE (60 * SECOND)

static void setup(void) { begin(11, SETTLE); }
TestSuite(worker_settle, .init = setup, .fini = end);

static void restart(void) {
	ms_env_sim_kill(env);
	wrig_bury(&a);
	wrig_boot(&a, one, 1);
	purge();
	cr_assert(wrig_settle(&a, 5 * SECOND));
	purge();
}

static uint64_t oldest(void) {
	struct ms_journal_stats st;
	ms_journal_get_stats(a.journal, &st);
	return st.first_seq;
}

static void all_settled(void) {
	wrig_run(&a, NULL, NULL, 2 * SETTLE);
	cr_assert_eq(status().settled_txid, wrig_now(&a)->db.txid);
	purge();
}

static void expect_all(void) {
	sound();
	for (unsigned i = 0; i < a.nstates; i++)
		cr_assert(wrig_restores(&a, "s0", &a.states[i]), "txid %llu does not restore", (unsigned long long)a.states[i].db.txid);
}

Test(worker_settle, a_commit_is_settled_when_it_is_seen_there_a_settle_time_later) {
	commits(3);
	wrig_run(&a, NULL, NULL, SETTLE / 2);
	cr_expect_lt(status().settled_txid, wrig_now(&a)->db.txid);
	cr_expect_leq(oldest(), a.states[0].seq);
	all_settled();
	cr_expect_gt(oldest(), a.states[2].seq);
	/* Nothing to do: nothing is asked. */
	struct ms_mem_counts before, after;
	ms_mem_counts("s0", &before);
	wrig_run(&a, NULL, NULL, 10 * SETTLE);
	ms_mem_counts("s0", &after);
	cr_expect_eq(after.lists, before.lists);
	/* Commits without a pause do not hold it up. */
	for (int i = 0; i < 150; i++) {
		commits(1);
		wrig_run(&a, NULL, NULL, SECOND);
	}
	cr_expect_gt(status().settled_txid + 80, wrig_now(&a)->db.txid);
	cr_expect_lt(status().settled_txid + 40, wrig_now(&a)->db.txid);
	ms_mem_counts("s0", &before);
	cr_expect_lt(before.lists - after.lists, 3 * 150 / 4, "looked for at every commit");
	expect_all();
}

Test(worker_settle, what_the_backend_loses_after_a_restart_is_put_again) {
	commits(3);
	all_settled();
	ms_mem_copy("synced", "s0");
	uint64_t settled = status().settled_txid;
	commits(5);
	purge();
	restart();
	commits(2);
	restart();
	cr_expect_eq(status().settled_txid, settled, "it counts as settled because a claim has seen it");
	cr_expect_gt(oldest(), a.states[3].seq - 1, "the settled state's own entry need not be there");
	/* The server crashes: everything since is gone, and the next put fails. */
	ms_mem_copy("s0", "synced");
	ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = 1, .code = MS_ERETRY});
	wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND), "%s", status().last_error);
	cr_expect_eq(a.workers[0].needs, 0, "a snapshot in the place of commits: %s", a.workers[0].reason);
	expect_all();
	all_settled();
	cr_expect_gt(oldest(), settled);
}

Test(worker_settle, a_loss_is_found_by_an_idle_worker_before_the_journal_goes) {
	commits(3);
	all_settled();
	ms_mem_copy("synced", "s0");
	commits(4);
	ms_mem_copy("s0", "synced");
	wrig_run(&a, NULL, NULL, SETTLE / 2);
	purge();
	all_settled();
	cr_expect_eq(a.workers[0].needs, 1, "the first snapshot only: %s", a.workers[0].reason);
	expect_all();
}

Test(worker_settle, nothing_is_settled_while_the_backend_is_away) {
	commits(3);
	all_settled();
	ms_mem_copy("synced", "s0");
	uint64_t settled = status().settled_txid;
	commits(4);
	ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = -1, .code = MS_ERETRY});
	wrig_run(&a, NULL, NULL, 5 * SETTLE);
	cr_expect_eq(status().settled_txid, settled);
	cr_expect_eq(status().state, MS_WORKER_RETRYING);
	purge();
	ms_mem_copy("s0", "synced");
	ms_mem_clear_faults("s0");
	all_settled();
	cr_expect_eq(a.workers[0].needs, 1, "%s", a.workers[0].reason);
	expect_all();
}

static const char *segment_of(const struct wrig_state *s) {
	static char name[128];
	snprintf(name, sizeof name, "%s/segments/%016llx.seg", s->generation.s, (unsigned long long)s->db.txid);
	return name;
}

Test(worker_settle, a_newer_snapshot_does_not_stand_for_segments) {
	for (int again = 0; again < 2; again++) { /* by a failure, and by an idle look */
		commits(3);
		all_settled();
		unsigned kept = a.nstates, needs = a.workers[0].needs;
		commits(4);
		wrig_snapshot(&a, 0);
		cr_assert(wrig_settle(&a, 5 * SECOND));
		for (unsigned i = kept; i < a.nstates; i++)
			ms_mem_erase("s0", segment_of(&a.states[i]));
		if (!again) {
			ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = 1, .code = MS_ERETRY});
			wrig_commit(&a, 2, true);
			cr_assert(wrig_settle(&a, 60 * SECOND), "%s", status().last_error);
		}
		all_settled();
		cr_expect_eq(a.workers[0].needs, needs, "%s", a.workers[0].reason);
		expect_all();
	}
}

Test(worker_settle, segments_are_looked_for_before_the_first_snapshot_too) {
	size_t len;
	ms_env_sim_kill(env);
	wrig_free(&a);
	ms_env_sim_restart(env);
	wrig_init(&a, env, "/b", "owner-a", 2);
	ms_mem_wipe("s0");
	a.auto_snapshot = false;
	wrig_boot(&a, one, 1);
	wrig_root(&a);
	wrig_run(&a, NULL, NULL, SECOND);
	for (int i = 0; i < 6; i++) {
		wrig_commit(&a, 2, true);
		wrig_run(&a, NULL, NULL, SECOND);
		if (i == 2)
			ms_mem_copy("synced", "s0");
	}
	cr_assert_eq(status().txid, wrig_now(&a)->db.txid);
	ms_mem_copy("s0", "synced");
	cr_assert_null(ms_mem_peek("s0", segment_of(&a.states[4]), &len));
	wrig_run(&a, NULL, NULL, 2 * SETTLE);
	cr_expect_eq(status().state, MS_WORKER_SEEDING);
	cr_expect_not_null(ms_mem_peek("s0", segment_of(&a.states[4]), &len), "what was lost has not been put again");
	wrig_run(&a, NULL, NULL, 2 * SETTLE);
	cr_expect_eq(status().settled_txid, wrig_now(&a)->db.txid);
	wrig_snapshot(&a, 0);
	cr_assert(wrig_settle(&a, 5 * SECOND));
	all_settled();
	cr_expect(wrig_restores(&a, "s0", wrig_now(&a)));
}

Test(worker_settle, a_snapshot_that_is_lost_is_replaced) {
	commits(3);
	all_settled();
	ms_mem_copy("synced", "s0");
	wrig_snapshot(&a, 0);
	cr_assert(wrig_settle(&a, 5 * SECOND));
	uint64_t txid = status().last_snapshot_txid;
	cr_assert_eq(txid, wrig_now(&a)->db.txid);
	/* Idle, and the server crashes: the segments had settled. */
	ms_mem_copy("s0", "synced");
	wrig_run(&a, NULL, NULL, 2 * SETTLE);
	cr_expect_eq(a.workers[0].needs, 2, "%s", a.workers[0].reason);
	cr_expect_eq(status().last_snapshot_txid, txid);
	expect_all();
}

/* It came back with an older copy, and what was asked of it first (a retention plan) says nothing about that. */
Test(worker_settle, a_failure_is_followed_by_a_look_whatever_succeeds_before) {
	struct ms_mem_counts before, after;
	ms_mem_set_settle("s0", 0);
	restart();
	commits(3);
	ms_mem_copy("synced", "s0");
	commits(3);
	ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_LIST, .times = 1, .code = MS_ERETRY});
	ms_worker_prune_now(a.workers[0].w);
	wrig_run(&a, NULL, NULL, SECOND / 100);
	ms_mem_copy("s0", "synced");
	ms_mem_counts("s0", &before);
	wrig_run(&a, NULL, NULL, 30 * SECOND);
	ms_mem_counts("s0", &after);
	cr_assert_gt(after.lists, before.lists, "no plan was made");
	commits(2);
	expect_all();
}

Test(worker_settle, a_cursor_without_a_settled_position_keeps_the_journal_for_a_settle_time) {
	struct ms_cursor c = {0};
	struct ms_err err = MS_ERR_INIT;
	commits(3);
	all_settled();
	commits(3);
	uint64_t first = oldest();
	ms_env_sim_kill(env);
	wrig_bury(&a);
	cr_assert_eq(ms_cursor_load(env, "/a/cursor0", &c, &err), MS_OK, "%s", err.msg);
	cr_expect(c.settled_seq > 0 && c.settled_seq < c.seq && c.settled_txid < c.state.txid);
	c.settled_seq = c.settled_txid = c.settled_checksum = 0;
	cr_assert_eq(ms_cursor_save(env, "/a/cursor0", &c, &err), MS_OK, "%s", err.msg);
	ms_cursor_release(&c);
	wrig_boot(&a, one, 1);
	cr_expect_eq(ms_worker_needs_seq(a.workers[0].w), 0);
	cr_assert(wrig_settle(&a, 5 * SECOND));
	purge();
	cr_expect_eq(oldest(), first);
	all_settled();
	cr_expect_gt(oldest(), first);
}

Test(worker_settle, a_backend_that_is_durable_at_once_settles_at_once) {
	struct ms_cursor c = {0};
	ms_mem_set_settle("s0", 0);
	restart();
	commits(3);
	cr_expect_eq(status().settled_txid, wrig_now(&a)->db.txid);
	cr_assert_eq(ms_cursor_load(env, "/a/cursor0", &c, NULL), MS_OK);
	cr_expect(c.settled_seq == c.seq && c.settled_txid == c.state.txid && c.settled_checksum == c.state.checksum);
	ms_cursor_release(&c);
}
