#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "core/names.h"
#include "replicas/mem.h"
#include "support/worker_rig.h"

#define SECOND UINT64_C(1000000)

static struct ms_env *env;
static struct wrig a, b;
static char why[512];

static void setup(void) {
	env = ms_env_sim_new(7);
	wrig_init(&a, env, "/a", "owner-a", 1);
}
static void teardown(void) {
	wrig_free(&a);
	wrig_free(&b);
	ms_env_sim_free(env);
}
TestSuite(worker, .init = setup, .fini = teardown);

static const char *const one[] = {"s0"};

struct counter {
	enum ms_name_kind kind;
	unsigned n;
};
static void count_cb(void *arg, const char *name, const uint8_t *data, size_t len) {
	struct counter *c = arg;
	struct ms_name n;
	(void)data, (void)len;
	c->n += ms_name_parse(name, &n) && n.kind == c->kind;
}
static unsigned count_kind(const char *store, enum ms_name_kind kind) {
	struct counter c = {kind, 0};
	ms_mem_each(store, count_cb, &c);
	return c.n;
}

static void fault(const char *store, unsigned ops, const char *has, int times, enum ms_code code, bool lose) {
	ms_mem_fault(store, &(struct ms_mem_fault){.ops = ops, .name_has = has, .times = times, .code = code, .lose_response = lose});
}

/* Every state of the rig restores from the store. first: index of the first that must. */
static void expect_all(const struct wrig *r, const char *store, unsigned first) {
	const struct wrig *hosts[2] = {&a, &b};
	unsigned n = wrig_check(hosts, 2, store, why, sizeof why);
	cr_assert(n > 0, "%s", why);
	for (unsigned i = first; i < r->nstates; i++)
		cr_assert(wrig_restores(r, store, &r->states[i]), "state %u (%s/%llu) does not restore", i, r->states[i].generation.s,
			  (unsigned long long)r->states[i].db.txid);
}

static struct ms_worker_status status(const struct wrig *r, unsigned i) {
	struct ms_worker_status st;
	ms_worker_status(r->workers[i].w, &st);
	return st;
}

static void boot_with_commits(unsigned n) {
	wrig_boot(&a, one, 1);
	wrig_root(&a);
	for (unsigned i = 0; i < n; i++)
		wrig_commit(&a, 3, true);
}

Test(worker, ships_everything) {
	boot_with_commits(20);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	for (int i = 0; i < 30; i++) {
		wrig_commit(&a, 2, true);
		wrig_run(&a, NULL, NULL, 20000);
	}
	cr_assert(wrig_settle(&a, 60 * SECOND));
	expect_all(&a, "s0", a.workers[0].snap_seq ? 20 : 0);
	struct ms_worker_status st = status(&a, 0);
	cr_expect_eq(st.state, MS_WORKER_IDLE);
	cr_expect_eq(st.txid, wrig_now(&a)->db.txid);
	cr_expect_eq(st.settled_txid, st.txid);
	cr_expect_eq(st.oldest_unshipped_us, 0);
	cr_expect_eq(st.pending_bytes, 0);
	cr_expect_eq(st.last_error[0], '\0');
	cr_expect_eq(st.snapshots, 1);
	/* The journal is needed from behind the last entry on. */
	cr_expect_eq(ms_worker_needs_seq(a.workers[0].w), wrig_now(&a)->seq + 1);
}

static bool seen_two(void *arg) {
	(void)arg;
	return status(&a, 0).segments >= 2;
}
static bool seen_three(void *arg) {
	(void)arg;
	return status(&a, 0).segments >= 3;
}

Test(worker, leading_edge_then_at_most_one_per_interval) {
	a.cfg.min_interval_us = 10 * (int64_t)SECOND;
	boot_with_commits(0);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, SECOND), "the first goes at once");
	wrig_commit(&a, 1, true);
	cr_assert_not(wrig_run(&a, seen_two, NULL, 8 * SECOND), "the second came before the interval was over");
	for (int i = 0; i < 10; i++)
		wrig_commit(&a, 1, true);
	cr_assert(wrig_run(&a, seen_two, NULL, 3 * SECOND), "the second did not come");
	cr_assert(wrig_settle(&a, SECOND));
	cr_assert_eq(status(&a, 0).segments, 2, "eleven commits in one segment");
	/* Quiet for longer than the interval: at once again. */
	wrig_run(&a, NULL, NULL, 11 * SECOND);
	wrig_commit(&a, 1, true);
	cr_assert(wrig_run(&a, seen_three, NULL, SECOND / 10));
	expect_all(&a, "s0", 1);
}

Test(worker, backlog_goes_in_full_segments_without_waiting) {
	a.cfg.min_interval_us = 100 * (int64_t)SECOND;
	a.cfg.segment_bytes = 2000;
	boot_with_commits(200);
	cr_assert(wrig_settle(&a, 90 * SECOND), "less than one interval for all of them");
	cr_expect_gt(status(&a, 0).segments, 5);
	expect_all(&a, "s0", 200);
}

Test(worker, transaction_over_object_max_is_cut_into_parts) {
	a.cfg.object_max = 150;
	boot_with_commits(3);
	for (int i = 0; i < 10; i++)
		wrig_commit_in(&a, 20, 5, 0, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	wrig_commit_in(&a, 20, 6, 0, true);
	wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	expect_all(&a, "s0", 13);
	cr_expect_gt(count_kind("s0", MS_NAME_SEGMENT_PART), 10, "nothing was cut");
}

Test(worker, lost_responses_of_parts_are_adopted) {
	a.cfg.object_max = 150;
	boot_with_commits(1);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	fault("s0", MS_MEM_PUT, "segments/", 8, MS_ERETRY, true);
	for (int i = 0; i < 4; i++)
		wrig_commit_in(&a, 20, 5, 0, true);
	cr_assert(wrig_settle(&a, 100 * SECOND));
	cr_assert_not(a.workers[0].fenced, "%s", a.workers[0].fenced_err.msg);
	expect_all(&a, "s0", 1);
	cr_expect_gt(count_kind("s0", MS_NAME_SEGMENT_PART), 3);
}

Test(worker, catch_up_transactions_get_segments_of_their_own) {
	boot_with_commits(2);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	uint64_t before = status(&a, 0).segments;
	wrig_commit(&a, 2, false);
	wrig_commit_in(&a, 2, 1, MS_COMMIT_CATCHUP, false);
	wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect_eq(status(&a, 0).segments, before + 3);
	expect_all(&a, "s0", 2);
}

Test(worker, every_lost_put_response_is_recognised) {
	/* Heads, segments, chunks, manifests: the first response of each kind is lost, the object is there. */
	fault("s0", MS_MEM_PUT, "head/", 1, MS_ERETRY, true);
	fault("s0", MS_MEM_PUT, "segments/", 2, MS_ETIMEDOUT, true);
	fault("s0", MS_MEM_PUT, "chunks/", 1, MS_ERETRY, true);
	fault("s0", MS_MEM_PUT, "snapshots/", 1, MS_ERETRY, true);
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 200 * SECOND), "%s", status(&a, 0).last_error);
	wrig_fork(&a);
	fault("s0", MS_MEM_PUT, "head/", 2, MS_ERETRY, true);
	fault("s0", MS_MEM_PUT, "segments/", 3, MS_ERETRY, true); /* the fence among them */
	for (int i = 0; i < 5; i++)
		wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 200 * SECOND), "%s", status(&a, 0).last_error);
	cr_assert_not(a.workers[0].fenced, "%s", a.workers[0].fenced_err.msg);
	expect_all(&a, "s0", 5);
}

Test(worker, errors_of_every_class_are_overcome) {
	static const enum ms_code codes[] = {MS_EIO,	MS_ENOMEM, MS_ENOSPC,	   MS_EPERM, MS_EINVAL, MS_ENOTFOUND,  MS_EBUSY,	 MS_ECORRUPT,  MS_EUNSUPPORTED,
					     MS_ERETRY, MS_ETHROTTLED, MS_EAUTH, MS_ECONFLICT, MS_EPERMANENT, MS_ETIMEDOUT, MS_ETOOBIG, MS_ECANCELED};
	boot_with_commits(1);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		fault("s0", MS_MEM_PUT, "segments/", 2, codes[i], false);
		wrig_commit(&a, 1, true);
		cr_assert(wrig_settle(&a, 300 * SECOND), "%s", ms_code_name(codes[i]));
		cr_assert_not(a.workers[0].fenced, "%s: %s", ms_code_name(codes[i]), a.workers[0].fenced_err.msg);
	}
	expect_all(&a, "s0", 1);
	cr_expect_eq(status(&a, 0).last_error[0], '\0');
	cr_expect_eq(status(&a, 0).put_failures, 2 * sizeof codes / sizeof codes[0]);
}

Test(worker, error_classes_show_as_states) {
	boot_with_commits(1);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	fault("s0", MS_MEM_PUT, "segments/", -1, MS_EAUTH, false);
	wrig_commit(&a, 1, true);
	cr_assert_not(wrig_settle(&a, 20 * SECOND));
	cr_expect_eq(status(&a, 0).state, MS_WORKER_RETRYING);
	cr_expect(strstr(status(&a, 0).last_error, "injected"), "%s", status(&a, 0).last_error);
	ms_mem_clear_faults("s0");
	fault("s0", MS_MEM_PUT, "segments/", 1, MS_EPERMANENT, false);
	cr_assert_not(wrig_settle(&a, 35 * SECOND));
	cr_expect_eq(status(&a, 0).state, MS_WORKER_FAILED);
	cr_assert(wrig_settle(&a, 65 * SECOND));
	cr_expect_eq(status(&a, 0).state, MS_WORKER_IDLE);
}

Test(worker, lag_grows_while_nothing_arrives_and_is_zero_when_idle) {
	fault("s0", MS_MEM_ALL, NULL, -1, MS_ERETRY, false);
	boot_with_commits(0);
	int64_t born = wrig_now(&a)->db.time_us;
	wrig_run(&a, NULL, NULL, 100 * SECOND);
	struct ms_worker_status st = status(&a, 0);
	cr_expect_eq(st.state, MS_WORKER_RETRYING);
	cr_assert_gt(st.oldest_unshipped_us, 0, "never succeeded, so it lags");
	cr_expect_leq(st.oldest_unshipped_us, born + 10000000);
	ms_mem_clear_faults("s0");
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect_eq(status(&a, 0).oldest_unshipped_us, 0);
	wrig_run(&a, NULL, NULL, 1000 * SECOND);
	cr_expect_eq(status(&a, 0).oldest_unshipped_us, 0, "idle and caught up");

	fault("s0", MS_MEM_PUT, NULL, -1, MS_ERETRY, false);
	wrig_commit(&a, 1, true);
	int64_t first = wrig_now(&a)->db.time_us;
	uint64_t bytes = 0;
	for (int i = 0; i < 3000; i++) {
		wrig_commit(&a, 1, i % 100 == 99);
		if (i % 100 == 99) {
			wrig_run(&a, NULL, NULL, SECOND);
			cr_expect_geq(status(&a, 0).pending_bytes, bytes);
			bytes = status(&a, 0).pending_bytes;
		}
	}
	cr_expect_gt(bytes, 100000);
	cr_expect_eq(status(&a, 0).oldest_unshipped_us, first, "the oldest commit that is not there");
	ms_mem_clear_faults("s0");
	cr_assert(wrig_settle(&a, 100 * SECOND));
	cr_expect_eq(status(&a, 0).oldest_unshipped_us, 0);
	cr_expect_eq(status(&a, 0).pending_bytes, 0);
}

Test(worker, a_slow_or_dead_replica_does_not_delay_another) {
	static const char *const two[] = {"s0", "s1"};
	ms_mem_fault("s1", &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = -1, .delay_us = 30 * SECOND});
	wrig_boot(&a, two, 2);
	wrig_root(&a);
	for (int i = 0; i < 10; i++) {
		wrig_commit(&a, 1, true);
		wrig_run(&a, NULL, NULL, SECOND / 10);
	}
	ms_mem_clear_faults("s1");
	cr_assert(wrig_settle(&a, 400 * SECOND));
	fault("s1", MS_MEM_ALL, NULL, -1, MS_EAUTH, false);
	for (int i = 0; i < 10; i++) {
		wrig_commit(&a, 1, true);
		wrig_run(&a, NULL, NULL, SECOND);
		cr_assert_eq(status(&a, 0).txid, wrig_now(&a)->db.txid, "s0 is held up by s1");
	}
	/* The slow one holds the journal. */
	cr_expect_leq(ms_worker_needs_seq(a.workers[1].w), wrig_now(&a)->seq - 9);
	ms_mem_clear_faults("s1");
	cr_assert(wrig_settle(&a, 60 * SECOND));
	unsigned from = a.nstates - 10;
	expect_all(&a, "s0", from);
	expect_all(&a, "s1", from);
}

/* ---- restarts ---- */

static void reboot(struct wrig *r) {
	ms_env_sim_crash(env);
	wrig_bury(r);
	wrig_boot(r, one, 1);
}

Test(worker, same_owner_goes_on_in_its_generation) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	wrig_run(&a, NULL, NULL, SECOND); /* the cursor file, too */
	uint64_t puts_before;
	struct ms_mem_counts n;
	for (int round = 0; round < 5; round++) {
		reboot(&a);
		wrig_commit(&a, 2, true);
		cr_assert(wrig_settle(&a, 60 * SECOND));
		cr_assert_not(a.workers[0].fenced);
		cr_assert_eq(a.workers[0].needs, 0, "%s", a.workers[0].reason);
	}
	ms_mem_counts("s0", &n);
	puts_before = n.puts;
	reboot(&a);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	ms_mem_counts("s0", &n);
	cr_expect_eq(n.puts, puts_before + 1, "an idle restart puts a head and nothing else");
	cr_expect_eq(n.refused, 0);
	expect_all(&a, "s0", 5);
}

/* A host without a past. */
static void anew(uint64_t seed) {
	ms_env_sim_crash(env); /* jobs of the one before are gone */
	wrig_free(&a);
	ms_env_sim_restart(env);
	cr_assert_eq(ms_fs_remove_tree(env, "/a", NULL), MS_OK);
	wrig_init(&a, env, "/a", "owner-a", seed);
}

static int crash_countdown;
static int crash_hook(void *arg, const struct ms_sim_step *step) {
	(void)step;
	if (crash_countdown > 0 && --crash_countdown == 0)
		ms_env_sim_crash(arg);
	return 0;
}

Test(worker, crash_at_every_file_operation) {
	/* From a state with a snapshot: commits, a fork, a snapshot; the machine dies at the nth file operation. */
	ms_env_sim_set_hook(env, crash_hook, env);
	for (int n = 1; n < 260; n++) {
		char store[16];
		const char *stores[1] = {store};
		snprintf(store, sizeof store, "c%d", n % 8);
		ms_mem_wipe(store);
		anew((uint64_t)n);
		wrig_boot(&a, stores, 1);
		wrig_root(&a);
		wrig_commit(&a, 2, true);
		cr_assert(wrig_settle(&a, 60 * SECOND));
		unsigned first = a.nstates - 1;
		ms_env_sim_sync_all(env);
		crash_countdown = n;
		for (int i = 0; i < 6 && !ms_env_sim_is_down(env); i++) {
			if (i == 3)
				wrig_fork(&a);
			if (ms_env_sim_is_down(env))
				break;
			wrig_commit(&a, 2, true);
			if (i == 4)
				wrig_snapshot(&a, 0);
			wrig_run(&a, NULL, NULL, 50000);
		}
		if (!ms_env_sim_is_down(env))
			wrig_settle(&a, 10 * SECOND);
		bool died = ms_env_sim_is_down(env);
		crash_countdown = 0;
		if (!died)
			ms_env_sim_crash(env);
		wrig_bury(&a);
		wrig_boot(&a, stores, 1);
		wrig_commit(&a, 1, true);
		cr_assert(wrig_settle(&a, 200 * SECOND), "n=%d: %s", n, a.workers[0].fenced ? a.workers[0].fenced_err.msg : status(&a, 0).last_error);
		cr_assert_not(a.workers[0].fenced, "n=%d: %s", n, a.workers[0].fenced_err.msg);
		expect_all(&a, store, first);
		if (!died)
			break;
	}
}

Test(worker, backend_dies_at_every_call) {
	for (unsigned n = 0; n < 40; n++)
		for (int lose = 0; lose < 2; lose++) {
			ms_mem_wipe("s0");
			ms_mem_clear_faults("s0");
			anew(n + 1);
			ms_mem_fault("s0", &(struct ms_mem_fault){.ops = MS_MEM_ALL, .skip = n, .times = 1, .code = MS_ERETRY, .lose_response = lose});
			wrig_boot(&a, one, 1);
			wrig_root(&a);
			wrig_commit(&a, 2, true);
			wrig_settle(&a, 5 * SECOND);
			wrig_fork(&a);
			wrig_commit(&a, 2, true);
			/* And a power failure on top. */
			if (n % 2)
				reboot(&a);
			cr_assert(wrig_settle(&a, 100 * SECOND), "n=%u lose=%d: %s", n, lose, status(&a, 0).last_error);
			cr_assert_not(a.workers[0].fenced, "n=%u lose=%d: %s", n, lose, a.workers[0].fenced_err.msg);
			expect_all(&a, "s0", a.nstates - 1);
		}
}

Test(worker, lost_or_damaged_cursor_is_looked_up_in_the_journal) {
	boot_with_commits(10);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	for (int round = 0; round < 2; round++) {
		ms_env_sim_sync_all(env);
		ms_env_sim_crash(env);
		wrig_bury(&a);
		if (round)
			cr_assert_eq(ms_fs_replace_file(env, "/a/cursor0", "garbage", 7, 0600, NULL), MS_OK);
		else
			cr_assert_eq(env->ops->unlink(env, "/a/cursor0", NULL), MS_OK);
		wrig_boot(&a, one, 1);
		wrig_commit(&a, 2, true);
		cr_assert(wrig_settle(&a, 60 * SECOND));
		cr_assert_not(a.workers[0].fenced, "%s", a.workers[0].fenced_err.msg);
		cr_expect_eq(a.workers[0].needs, 0, "%s", a.workers[0].reason);
	}
	struct ms_mem_counts n;
	ms_mem_counts("s0", &n);
	cr_expect_eq(n.refused, 0, "nothing was put twice");
	expect_all(&a, "s0", 10);
}

Test(worker, older_cursor_finds_what_was_put_since) {
	struct ms_buf old;
	ms_buf_init(&old, 1u << 20);
	boot_with_commits(3);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_assert_eq(ms_fs_read_file(env, "/a/cursor0", &old, NULL), MS_OK);
	for (int i = 0; i < 5; i++) {
		wrig_commit(&a, 2, true);
		cr_assert(wrig_settle(&a, 60 * SECOND));
	}
	wrig_fork(&a);
	for (int i = 0; i < 5; i++) {
		wrig_commit(&a, 2, true);
		cr_assert(wrig_settle(&a, 60 * SECOND));
	}
	ms_env_sim_sync_all(env);
	ms_env_sim_crash(env);
	wrig_bury(&a);
	cr_assert_eq(ms_fs_replace_file(env, "/a/cursor0", old.data, old.len, 0600, NULL), MS_OK);
	ms_buf_release(&old);
	wrig_boot(&a, one, 1);
	wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_assert_not(a.workers[0].fenced, "%s", a.workers[0].fenced_err.msg);
	expect_all(&a, "s0", 3);
}

Test(worker, snapshot_put_again_after_a_crash_serves) {
	boot_with_commits(3);
	fault("s0", MS_MEM_PUT, "segments/", 3, MS_ERETRY, false);
	wrig_settle(&a, 60 * SECOND);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	ms_env_sim_crash(env);
	wrig_bury(&a);
	cr_assert_eq(env->ops->unlink(env, "/a/cursor0", NULL), MS_OK); /* it does not know of its snapshot */
	wrig_boot(&a, one, 1);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	wrig_snapshot(&a, 0); /* of the state that the one before had: another epoch in its manifest */
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect_eq(status(&a, 0).snapshots, 1, "%s", status(&a, 0).last_error);
	expect_all(&a, "s0", 3);
}

/* ---- several writers ---- */

static void boot_second(const char *owner) {
	wrig_init(&b, env, "/b", owner, 99);
}

Test(worker, another_owner_is_refused) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	boot_second("owner-b");
	wrig_boot(&b, one, 1);
	wrig_root(&b);
	struct ms_mem_counts before, after;
	wrig_run(&b, NULL, NULL, SECOND);
	ms_mem_counts("s0", &before);
	cr_assert(b.workers[0].fenced);
	cr_expect_eq(b.workers[0].fenced_err.code, MS_EFENCED);
	const char *msg = b.workers[0].fenced_err.msg;
	cr_expect(strstr(msg, "owner-a") && strstr(msg, "migstream takeover db") && strstr(msg, wrig_now(&a)->generation.s) && strstr(msg, "txid 6"), "%s", msg);
	cr_expect_eq(status(&b, 0).state, MS_WORKER_FENCED);
	wrig_commit(&b, 1, true);
	wrig_run(&b, NULL, NULL, 100 * SECOND);
	ms_mem_counts("s0", &after);
	cr_expect_eq(after.puts, before.puts, "a refused worker put something");
	wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	expect_all(&a, "s0", 5);
}

Test(worker, takeover_fences_the_old_owner_at_its_next_upload) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	boot_second("owner-b");
	b.takeover = true;
	wrig_boot(&b, one, 1);
	wrig_root(&b);
	wrig_commit(&b, 2, true);
	cr_assert(wrig_settle(&b, 60 * SECOND));
	cr_assert_not(a.workers[0].fenced, "it has not uploaded anything yet");
	wrig_commit(&a, 1, true);
	wrig_run(&a, NULL, NULL, 10 * SECOND);
	cr_assert(a.workers[0].fenced);
	cr_expect(strstr(a.workers[0].fenced_err.msg, "owner-b"), "%s", a.workers[0].fenced_err.msg);
	wrig_commit(&b, 2, true);
	cr_assert(wrig_settle(&b, 60 * SECOND));
	expect_all(&b, "s0", 1);
	/* What the old owner had put still restores; its commit after the takeover is nowhere. */
	cr_expect(wrig_restores(&a, "s0", &a.states[a.nstates - 2]));
	cr_expect_not(wrig_restores(&a, "s0", wrig_now(&a)));
}

Test(worker, takeover_from_refused_state) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	boot_second("owner-b");
	wrig_boot(&b, one, 1);
	wrig_root(&b);
	wrig_run(&b, NULL, NULL, SECOND);
	cr_assert(b.workers[0].fenced);
	b.workers[0].fenced = false;
	ms_worker_allow_takeover(b.workers[0].w);
	wrig_commit(&b, 2, true);
	cr_assert(wrig_settle(&b, 60 * SECOND));
	cr_assert_not(b.workers[0].fenced);
	expect_all(&b, "s0", 1);
}

/* Copies the files of a host: a stale shadow directory, or a resumed image of the machine. */
static void copy_file(const char *from, const char *to) {
	struct ms_buf f;
	ms_buf_init(&f, 16u << 20);
	cr_assert_eq(ms_fs_read_file(env, from, &f, NULL), MS_OK);
	cr_assert_eq(ms_fs_replace_file(env, to, f.data, f.len, 0600, NULL), MS_OK);
	ms_buf_release(&f);
}
static bool copy_journal(void *arg, const char *name, bool is_dir) {
	char from[300], to[300];
	(void)is_dir;
	snprintf(from, sizeof from, "/a/journal/%s", name);
	snprintf(to, sizeof to, "%s/journal/%s", (const char *)arg, name);
	copy_file(from, to);
	return true;
}
static void copy_host(const char *to_dir) {
	char path[300];
	snprintf(path, sizeof path, "%s/journal", to_dir);
	cr_assert_eq(ms_fs_mkdir_p(env, path, 0700, NULL), MS_OK);
	cr_assert_eq(env->ops->readdir(env, "/a/journal", copy_journal, (void *)to_dir, NULL), MS_OK);
	snprintf(path, sizeof path, "%s/cursor0", to_dir);
	copy_file("/a/cursor0", path);
}
/* The model of rig `to` becomes that of `from`, as of now. */
static void copy_model(struct wrig *to, const struct wrig *from) {
	to->states = calloc(from->nstates + 1, sizeof *to->states);
	for (unsigned i = 0; i < from->nstates; i++) {
		to->states[i] = from->states[i];
		to->states[i].image = malloc(WRIG_PAGES_MAX * WRIG_PAGE);
		memcpy(to->states[i].image, from->states[i].image, WRIG_PAGES_MAX * WRIG_PAGE);
	}
	to->nstates = to->cap = from->nstates;
	memcpy(to->lineage, from->lineage, sizeof to->lineage);
	to->nlineage = from->nlineage;
	to->epoch = from->epoch;
	to->acked = from->acked;
}

static void twin(void) {
	wrig_sync(&a);
	copy_host("/b");
	wrig_init(&b, env, "/b", "owner-a", 12345);
	copy_model(&b, &a);
}

Test(worker, stale_copy_is_refused_with_both_positions) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	twin(); /* an old disk: state at txid 6 */
	for (int i = 0; i < 5; i++)
		wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	struct ms_mem_counts before, after;
	ms_mem_counts("s0", &before);
	wrig_boot(&b, one, 1);
	wrig_commit(&b, 2, true);
	wrig_run(&b, NULL, NULL, 20 * SECOND);
	ms_mem_counts("s0", &after);
	cr_assert(b.workers[0].fenced);
	const char *msg = b.workers[0].fenced_err.msg;
	cr_expect(strstr(msg, "txid 11") && strstr(msg, "txid 7") && strstr(msg, "migstream takeover db"), "%s", msg);
	cr_expect_eq(after.puts, before.puts);
	wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	expect_all(&a, "s0", 5);
}

Test(worker, resumed_copy_that_runs_on_is_fenced_at_its_first_upload) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	twin();
	wrig_boot(&b, one, 1); /* both run, both believe to be the owner; nothing new yet */
	cr_assert(wrig_settle(&b, 60 * SECOND));
	wrig_commit(&b, 2, true);
	cr_assert(wrig_settle(&b, 60 * SECOND));
	wrig_commit(&a, 2, true);
	wrig_run(&a, NULL, NULL, 20 * SECOND);
	cr_assert(a.workers[0].fenced, "the one that came second must lose");
	cr_expect(strstr(a.workers[0].fenced_err.msg, "another writer"), "%s", a.workers[0].fenced_err.msg);
	for (int i = 0; i < 3; i++)
		wrig_commit(&b, 2, true);
	cr_assert(wrig_settle(&b, 60 * SECOND));
	expect_all(&b, "s0", 5);
	cr_expect_not(wrig_restores(&a, "s0", wrig_now(&a)));
}

Test(worker, a_generation_that_was_left_is_fenced) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	twin();
	wrig_boot(&b, one, 1);
	cr_assert(wrig_settle(&b, 60 * SECOND));
	wrig_fork(&b); /* by itself, as for another page size: the old generation is left for good */
	wrig_commit(&b, 2, true);
	cr_assert(wrig_settle(&b, 60 * SECOND));
	wrig_commit(&a, 2, true);
	wrig_run(&a, NULL, NULL, 20 * SECOND);
	cr_assert(a.workers[0].fenced, "the other copy went on in the generation that was left");
	cr_expect(strstr(a.workers[0].fenced_err.msg, "fence at"), "%s", a.workers[0].fenced_err.msg);
	expect_all(&b, "s0", 5);
}

static void newest_head(void *arg, const char *name, const uint8_t *data, size_t len) {
	struct ms_head h;
	struct ms_name n;
	if (!ms_name_parse(name, &n) || n.kind != MS_NAME_HEAD)
		return;
	cr_assert_eq(ms_head_decode(data, len, &h, NULL), MS_OK);
	((uint32_t *)arg)[0] = h.number;
	((uint32_t *)arg)[1] = h.epoch;
	ms_head_release(&h);
}

Test(worker, every_start_raises_the_epoch) {
	uint32_t last[2] = {0, 0}, now[2];
	boot_with_commits(1);
	for (int i = 0; i < 5; i++) {
		cr_assert(wrig_settle(&a, 60 * SECOND));
		ms_mem_each("s0", newest_head, now);
		cr_expect_eq(now[0], last[0] + 1, "one head a start");
		cr_expect_gt(now[1], last[1]);
		memcpy(last, now, sizeof last);
		if (i == 2) { /* a shadow directory that knows of no epoch any more */
			a.epoch = 0;
			cr_assert_eq(env->ops->unlink(env, "/a/cursor0", NULL), MS_OK);
			cr_assert_eq(env->ops->fsync_dir(env, "/a", NULL), MS_OK);
		}
		reboot(&a);
	}
}

Test(worker, takeover_of_a_replica_that_is_ahead_forks) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	twin();
	for (int i = 0; i < 5; i++)
		wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	b.takeover = true;
	b.auto_start = false;
	wrig_boot(&b, one, 1);
	wrig_run(&b, NULL, NULL, SECOND);
	cr_assert(b.workers[0].probed && b.workers[0].probe.same_owner);
	cr_expect_eq(b.workers[0].probe.tail.txid, 11);
	wrig_fork(&b); /* what the stream does when it may take over */
	wrig_start(&b, 0);
	wrig_commit(&b, 2, true);
	cr_assert(wrig_settle(&b, 60 * SECOND), "%s", status(&b, 0).last_error);
	cr_assert_not(b.workers[0].fenced, "%s", b.workers[0].fenced_err.msg);
	cr_assert(wrig_restores(&b, "s0", wrig_now(&b)));
	/* The one that was ahead is fenced at its next upload, and what it had put is untouched. */
	wrig_commit(&a, 2, true);
	wrig_run(&a, NULL, NULL, 20 * SECOND);
	cr_assert(a.workers[0].fenced);
	for (unsigned i = 5; i + 1 < a.nstates; i++)
		cr_assert(wrig_restores(&a, "s0", &a.states[i]));
}

Test(worker, two_owners_start_at_once) {
	boot_second("owner-b");
	wrig_boot(&a, one, 1);
	wrig_root(&a);
	wrig_boot(&b, one, 1);
	wrig_root(&b);
	wrig_commit(&a, 2, true);
	wrig_commit(&b, 2, true);
	wrig_run(&a, NULL, NULL, 60 * SECOND);
	cr_assert_neq(a.workers[0].fenced, b.workers[0].fenced, "exactly one has it");
	struct wrig *winner = a.workers[0].fenced ? &b : &a;
	wrig_commit(winner, 2, true);
	cr_assert(wrig_settle(winner, 60 * SECOND));
	cr_assert(wrig_restores(winner, "s0", wrig_now(winner)));
}

/* ---- the backend is not what it was ---- */

Test(worker, wiped_replica_is_seeded_anew) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	ms_mem_wipe("s0");
	reboot(&a);
	wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect(strstr(a.workers[0].reason, "empty"), "%s", a.workers[0].reason);
	cr_assert(wrig_restores(&a, "s0", wrig_now(&a)));
}

Test(worker, rolled_back_replica_gets_again_what_the_journal_has) {
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	ms_mem_copy("backup", "s0");
	for (int i = 0; i < 4; i++)
		wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	ms_mem_copy("s0", "backup");
	reboot(&a);
	wrig_commit(&a, 2, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect_eq(a.workers[0].needs, 0, "%s", a.workers[0].reason);
	expect_all(&a, "s0", 5);
}

Test(worker, purged_journal_leads_to_a_snapshot) {
	a.cfg.required = false;
	boot_with_commits(5);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect_not(ms_worker_holds_journal(a.workers[0].w), "not required: it holds nothing");
	fault("s0", MS_MEM_PUT, NULL, -1, MS_ERETRY, false);
	for (int i = 0; i < 600; i++)
		wrig_commit(&a, 3, i % 10 == 9);
	struct ms_err err = MS_ERR_INIT;
	uint64_t files = 0, bytes = 0;
	cr_assert_eq(ms_journal_rotate(a.journal, &err), MS_OK);
	wrig_commit(&a, 1, true);
	cr_assert_eq(ms_journal_purge(a.journal, wrig_now(&a)->seq, &files, &bytes, &err), MS_OK, "%s", err.msg);
	cr_assert_gt(files, 0);
	ms_mem_clear_faults("s0");
	cr_assert(wrig_settle(&a, 100 * SECOND), "%s", status(&a, 0).last_error);
	cr_expect_gt(a.workers[0].needs, 1);
	for (int i = 0; i < 3; i++)
		wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, 100 * SECOND));
	expect_all(&a, "s0", a.nstates - 4);
}

Test(worker, replica_added_later_is_seeded_by_its_own_snapshot) {
	static const char *const two[] = {"s0", "s1"};
	boot_with_commits(50);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	struct ms_err err = MS_ERR_INIT;
	uint64_t files, bytes;
	cr_assert_eq(ms_journal_rotate(a.journal, &err), MS_OK);
	wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_assert_eq(ms_journal_purge(a.journal, wrig_now(&a)->seq, &files, &bytes, &err), MS_OK);
	ms_env_sim_crash(env);
	wrig_bury(&a);
	wrig_boot(&a, two, 2);
	wrig_commit(&a, 1, true);
	cr_assert(wrig_settle(&a, 60 * SECOND));
	cr_expect_eq(a.workers[0].needs, 0);
	cr_assert(wrig_restores(&a, "s1", wrig_now(&a)));
	cr_assert(wrig_restores(&a, "s0", wrig_now(&a)));
}
