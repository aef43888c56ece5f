/*
 * A driver that says MS_ELOST: objects that it had acknowledged are gone, it does not know which. And the objects of snapshots, several at once, which may
 * rest on what is gone.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "support/one_replica.h"

static bool restores(unsigned i) { return wrig_restores(&a, "s0", &a.states[i]); }

/* The server crashes: what it had acknowledged since `as_of` goes, and the next put is told so. */
static void crash(const char *as_of) {
	ms_mem_copy("s0", as_of);
	ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = 1, .code = MS_ELOST});
	wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 120 * SECOND), "%s", status().last_error);
	cr_expect_eq(status().state, MS_WORKER_IDLE, "%s", status().last_error);
}

Test(worker_lost, what_the_journal_still_holds_is_put_again) {
	begin(23, 3600 * SECOND); /* so that the journal holds it */
	commits(3);
	ms_mem_copy("synced", "s0");
	commits(5);
	purge();
	crash("synced");
	/* It is not known what else has gone: snapshots are not relied on any more. */
	cr_expect_eq(a.workers[0].needs, 2, "%u", a.workers[0].needs);
	sound();
	for (unsigned i = 0; i < a.nstates; i++)
		cr_expect(restores(i), "txid %llu does not restore", (unsigned long long)a.states[i].db.txid);
	end();
}

/* A tail that looked settled: the journal let go of it. Continuity comes from a snapshot, what came before the hole still restores, and nothing says
 * that the commits within it do. */
Test(worker_lost, a_settled_looking_tail_that_is_gone_becomes_a_snapshot) {
	begin(23, 0);
	commits(3);
	ms_mem_copy("synced", "s0");
	unsigned kept = a.nstates;
	commits(5);
	purge();
	cr_assert_eq(status().settled_txid, wrig_now(&a)->db.txid, "this backend says that it is durable at once");
	unsigned lost = a.nstates;
	crash("synced");
	cr_expect_gt(a.workers[0].needs, 1);
	sound();
	for (unsigned i = 0; i < kept; i++)
		cr_expect(restores(i), "txid %llu, before the hole, does not restore", (unsigned long long)a.states[i].db.txid);
	for (unsigned i = kept; i + 1 < lost; i++)
		cr_expect_not(restores(i), "txid %llu is gone with its only copy", (unsigned long long)a.states[i].db.txid);
	cr_expect(restores(a.nstates - 1), "the newest state");
	commits(3);
	for (unsigned i = lost; i < a.nstates; i++)
		cr_expect(restores(i), "txid %llu, after the hole, does not restore", (unsigned long long)a.states[i].db.txid);
	sound();
	end();
}

/* Nothing at all is there any more. */
Test(worker_lost, everything_gone_is_seeded_again) {
	begin(23, 0);
	commits(3);
	purge();
	ms_mem_wipe("empty");
	crash("empty");
	sound();
	cr_expect(restores(a.nstates - 1));
	commits(2);
	cr_expect(restores(a.nstates - 1) && restores(a.nstates - 2));
	end();
}

/* Told again and again, as by a server that crashes all the time: no hole, and it ends. */
Test(worker_lost, told_at_every_other_put) {
	begin(23, 3600 * SECOND);
	commits(2);
	ms_mem_copy("synced", "s0");
	commits(4);
	for (int i = 0; i < 5; i++)
		crash("synced");
	sound();
	for (unsigned i = 0; i < a.nstates; i++)
		cr_expect(restores(i), "txid %llu does not restore", (unsigned long long)a.states[i].db.txid);
	end();
}

/* ---- objects of snapshots ---- */

static struct put {
	enum ms_code code;
	unsigned done, order;
	char why[128];
} given[8];
static unsigned ends;

static void put_done(void *arg, const struct ms_err *err) {
	struct put *p = arg;
	p->done++;
	p->order = ++ends;
	p->code = err->code;
	snprintf(p->why, sizeof p->why, "%.120s", err->msg);
}

static void give(unsigned i, const char *name) {
	ms_worker_put_snapshot_object(a.workers[0].w, name, (const uint8_t *)"chunk", 5, put_done, &given[i]);
}

static void give_all(void) {
	static const char *const names[] = {"00000001-00000000/chunks/00000001-000000000000000a", "00000001-00000000/chunks/00000009-000000000000000b",
					    "00000001-00000000/chunks/00000011-000000000000000c", "00000001-00000000/chunks/00000019-000000000000000d"};
	memset(given, 0, sizeof given);
	cr_assert_eq(MS_WORKER_SNAP_PUTS, sizeof names / sizeof names[0]);
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		give(i, names[i]);
}

static unsigned ended(void) {
	unsigned n = 0;
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		n += given[i].done;
	return n;
}
static bool all_ended(void *arg) {
	(void)arg;
	return ended() == MS_WORKER_SNAP_PUTS;
}

Test(worker_lost, snapshot_objects_go_together_and_no_more_than_the_bound) {
	struct ms_mem_counts before, now;
	begin(23, 0);
	ms_mem_counts("s0", &before);
	give_all();
	give(5, "00000001-00000000/chunks/00000021-000000000000000e");
	cr_expect(given[5].done == 1 && given[5].code == MS_EINVAL, "%s", given[5].why);
	cr_assert(wrig_run(&a, all_ended, NULL, 20 * SECOND), "%u ended", ended());
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		cr_expect_eq(given[i].code, MS_OK, "%s", given[i].why);
	ms_mem_counts("s0", &now);
	cr_expect_eq(now.objects - before.objects, MS_WORKER_SNAP_PUTS);
	/* There is room again. */
	memset(given, 0, sizeof given);
	give(5, "00000001-00000000/chunks/00000021-000000000000000e");
	wrig_run(&a, NULL, NULL, 20 * SECOND);
	cr_expect(given[5].done == 1 && given[5].code == MS_OK, "%s", given[5].why);
	end();
}

/* One of them meets the loss: none that ends after it is called done, since it may rest on what is gone. After the claim the next snapshot's go through. */
Test(worker_lost, a_loss_spoils_the_objects_under_way) {
	unsigned spoilt = 0;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		begin(seed, 0);
		ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "-000000000000000b", .times = 1, .code = MS_ELOST});
		give_all();
		cr_assert(wrig_run(&a, all_ended, NULL, 20 * SECOND), "%u ended", ended());
		for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++) {
			bool after = given[i].order >= given[1].order;
			cr_expect_eq(given[i].code, after ? MS_ELOST : MS_OK, "seed %llu, object %u: %s", (unsigned long long)seed, i, given[i].why);
			spoilt += after && i != 1;
		}
		wrig_run(&a, NULL, NULL, 60 * SECOND); /* the claim */
		cr_assert(wrig_settle(&a, 60 * SECOND), "%s", status().last_error);
		cr_expect_eq(status().state, MS_WORKER_IDLE, "%s", status().last_error);
		cr_expect_eq(a.workers[0].needs, 2);
		sound();
		give_all();
		cr_assert(wrig_run(&a, all_ended, NULL, 20 * SECOND));
		for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
			cr_expect_eq(given[i].code, MS_OK, "%u: %s", i, given[i].why);
		end();
		ms_mem_drop("s0");
	}
	cr_expect_gt(spoilt, 10, "the order was never another");
}

/* A replica that is away is asked with growing pauses, not all the time. */
Test(worker_lost, a_failing_object_waits_before_its_next_try) {
	begin(23, 0);
	struct ms_mem_counts before, now;
	ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "chunks/", .times = -1, .code = MS_ERETRY});
	ms_mem_counts("s0", &before);
	give_all();
	wrig_run(&a, NULL, NULL, 30 * SECOND);
	ms_mem_counts("s0", &now);
	cr_expect_eq(ended(), 0);
	cr_expect(now.puts - before.puts >= 2 * MS_WORKER_SNAP_PUTS && now.puts - before.puts < 30 * MS_WORKER_SNAP_PUTS, "%llu tries in 30 s",
		  (unsigned long long)(now.puts - before.puts));
	ms_mem_clear_faults("s0");
	cr_assert(wrig_run(&a, all_ended, NULL, 120 * SECOND), "%u ended", ended());
	for (unsigned i = 0; i < MS_WORKER_SNAP_PUTS; i++)
		cr_expect_eq(given[i].code, MS_OK, "%s", given[i].why);
	end();
}

/* Nothing failed: the store was emptied by somebody, at once durable as it is, and takes whatever is put. */
static void wiped(bool idle) {
	begin(31, 0);
	commits(3);
	wrig_run(&a, NULL, NULL, 70 * SECOND); /* a look finds all there */
	purge();
	unsigned needs = a.workers[0].needs;
	ms_mem_wipe("s0");
	if (!idle)
		commits(2);
	cr_expect_eq(a.workers[0].needs, needs, "not before the next look");
	wrig_run(&a, NULL, NULL, (idle ? 21601 : 61) * SECOND);
	cr_assert(wrig_settle(&a, 120 * SECOND), "%s", status().last_error);
	cr_expect_gt(a.workers[0].needs, needs, "%s, %s", ms_worker_state_name(status().state), status().last_error);
	sound();
	cr_expect(restores(a.nstates - 1), "the newest state");
	commits(2);
	cr_expect(restores(a.nstates - 1) && restores(a.nstates - 2), "what follows");
	end();
}
Test(worker_lost, a_replica_that_is_wiped_behind_our_back_is_noticed) {
	wiped(false);
}
Test(worker_lost, and_that_of_an_idle_database) {
	wiped(true);
}
