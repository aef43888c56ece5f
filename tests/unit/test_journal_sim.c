/* Seed `wal`, checks 1, 2 and 9: what an acknowledgement is worth. Power failures and kills at every file operation, full disks,
 * failed syncs. */
#include <errno.h>

#include "unit/journal_rig.h"

Test(journal_sim, wal01_synchronous_append_returns_only_after_the_sync) {
	for (int mode = 0; mode < 2; mode++) {
		enum ms_sim_op op = mode ? MS_SIM_FDATASYNC : MS_SIM_FSYNC;
		for (uint64_t seed = 0; seed < 40; seed++) {
			struct ms_env *env = ms_env_sim_new(seed);
			struct ms_journal_config cfg = {.mode = mode ? MS_SYNC_FDATASYNC : MS_SYNC_FSYNC};
			struct ms_journal *j = rig_open(env, &cfg);
			for (uint64_t id = 1; id <= 5; id++) {
				uint64_t seq = 0, before = ms_env_sim_ops(env, op);
				struct iovec iov = {rig_payload(id, rig_len(id)), rig_len(id)};
				OK(ms_journal_append_sync(j, rig_db(id), strlen(rig_db(id)), 0, &iov, 1, &seq, &err));
				cr_assert_eq(ms_env_sim_ops(env, op), before + 1);
				cr_assert(seq == id && ms_journal_durable_seq(j) == id);
			}
			/* A plain append is not an acknowledgement, and does not pretend to be one. */
			rig_put(j, 6);
			cr_assert_eq(ms_journal_durable_seq(j), 5);
			ms_env_sim_crash(env);
			ms_journal_free(j);
			ms_env_sim_restart(env);
			j = rig_open(env, &cfg);
			rig_expect(j, 1, ms_journal_next_seq(j) - 1);
			cr_assert_geq(ms_journal_next_seq(j), 6);
			rig_close(j);
			ms_env_sim_free(env);
		}
	}
}

/* ---- every file operation ---- */

struct trace {
	struct ms_env *env;
	struct ms_journal *j;
	uint64_t next;	  /* id of the next append */
	uint64_t acked;	  /* highest synced sequence */
	uint64_t purged;  /* highest keep_from asked for */
	uint64_t at, ops; /* the operation before which the lights go out */
	bool power;	  /* power failure, else kill */
};

static int lights_out(void *arg, const struct ms_sim_step *step) {
	struct trace *t = arg;
	(void)step;
	if (++t->ops == t->at) {
		if (t->power)
			ms_env_sim_crash(t->env);
		else
			ms_env_sim_kill(t->env);
	}
	return 0;
}

static bool put(struct trace *t, uint16_t flags, size_t len) {
	uint64_t seq = 0;
	struct iovec iov = {rig_payload(t->next, len), len};
	const char *db = flags || len > 1000 ? "tx" : rig_db(t->next);
	if (ms_journal_append(t->j, db, strlen(db), flags, &iov, 1, &seq, NULL) != MS_OK)
		return false;
	cr_assert_eq(seq, t->next);
	t->next++;
	return true;
}
static bool sync_all(struct trace *t) {
	if (ms_journal_sync(t->j, UINT64_MAX, NULL) != MS_OK)
		return false;
	t->acked = t->next - 1;
	return true;
}

#define LARGE 300000

/* Opens, appends, rotates, purges, closes; false where it could not go on. */
static bool work(struct trace *t) {
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 900};
	uint64_t files, bytes;
	if (ms_journal_open(t->env, DIR_, &cfg, &t->j, NULL) != MS_OK)
		return false;
	for (int i = 1; i <= 30; i++) {
		if (i == 14 ? !put(t, 0, LARGE) : !put(t, i == 20 || i == 21 ? MS_ENTRY_CONTINUES : 0, rig_len(t->next)))
			return false;
		if (i % 4 == 0 && !sync_all(t))
			return false;
		if (i == 11 && (ms_journal_rotate(t->j, NULL) != MS_OK || !sync_all(t)))
			return false;
		if (i == 24) {
			t->purged = 10;
			if (ms_journal_purge(t->j, 10, &files, &bytes, NULL) != MS_OK)
				return false;
		}
	}
	if (ms_journal_close(t->j, NULL) != MS_OK)
		return false;
	t->acked = t->next - 1;
	return true;
}

static void same(const struct ms_journal_entry *e) {
	uint64_t id = e->seq;
	size_t len = id == 14 ? LARGE : rig_len(id);
	cr_assert(e->len == len && !memcmp(e->payload, rig_payload(id, len), len), "entry %llu", (unsigned long long)id);
	cr_assert_str_eq(e->db, id == 14 || id == 20 || id == 21 ? "tx" : rig_db(id));
}

/* After the restart: what was acknowledged is there, nothing is reported as damaged, and the journal works. */
static void check(struct trace *t, uint64_t seed) {
	struct ms_journal *j = NULL;
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 900};
	struct ms_journal_reader *r = NULL;
	struct ms_journal_entry e;
	struct ms_err why = MS_ERR_INIT;
	enum ms_code rc;

	OK(ms_journal_open(t->env, DIR_, &cfg, &j, &err));
	struct ms_journal_stats st = rig_stats(j);
	cr_assert(st.corrupt_entries == 0 && st.quarantined_files == 0 && st.lost_bytes == 0, "seed %llu op %llu: corrupt %llu",
		  (unsigned long long)seed, (unsigned long long)t->at, (unsigned long long)st.corrupt_entries);
	cr_assert_gt(st.next_seq, t->acked, "seed %llu op %llu: acknowledged %llu, next %llu", (unsigned long long)seed,
		     (unsigned long long)t->at, (unsigned long long)t->acked, (unsigned long long)st.next_seq);
	cr_assert_leq(st.next_seq, t->next + 1); /* the append that failed may have got there */
	cr_assert(st.first_seq == 1 || st.first_seq <= t->purged);
	OK(ms_journal_reader_new(j, NULL, 0, st.first_seq, &r, &err));
	uint64_t due = st.first_seq;
	while ((rc = ms_journal_reader_next(r, &e, &why)) == MS_OK) {
		/* 20 and 21 say "continues" and nothing of theirs follows: absent after recovery. */
		while (due == 20 || due == 21)
			due++;
		cr_assert_eq(e.seq, due);
		same(&e);
		due++;
	}
	cr_assert_eq(rc, MS_ENOTFOUND, "seed %llu op %llu: %s", (unsigned long long)seed, (unsigned long long)t->at, why.msg);
	ms_journal_reader_free(r);
	for (int i = 0; i < 5; i++) {
		uint64_t seq = 0;
		OK(rig_try(j, "later", 0, 7, 100, &seq, &err));
		cr_assert_eq(seq, st.next_seq + (uint64_t)i);
	}
	OK(ms_journal_sync(j, UINT64_MAX, &err));
	OK(ms_journal_close(j, &err));
	ms_journal_free(j);
	OK(ms_journal_open(t->env, DIR_, &cfg, &j, &err));
	cr_assert(rig_stats(j).corrupt_entries == 0 && rig_stats(j).torn_bytes == 0);
	cr_assert_eq(rig_stats(j).next_seq, st.next_seq + 5);
	ms_journal_free(j);
}

static void everywhere(bool power, uint64_t seeds) {
	for (uint64_t seed = 0; seed < seeds; seed++)
		for (uint64_t at = 1;; at++) {
			struct trace t = {.env = ms_env_sim_new(seed * 1000 + at), .next = 1, .at = at, .power = power};
			ms_env_sim_set_hook(t.env, lights_out, &t);
			bool done = work(&t);
			cr_assert(done || t.ops >= at);
			ms_journal_free(t.j);
			if (t.ops < at) {
				ms_env_sim_free(t.env);
				cr_assert_gt(at, 60); /* the work is not a few operations */
				break;
			}
			ms_env_sim_set_hook(t.env, NULL, NULL);
			ms_env_sim_restart(t.env);
			check(&t, seed);
			ms_env_sim_free(t.env);
		}
}

Test(journal_sim, wal02_power_failure_at_every_file_operation, .timeout = 300) {
	everywhere(true, 20);
}
Test(journal_sim, wal02_kill_at_every_file_operation, .timeout = 300) {
	everywhere(false, 2);
}

/* A crash while the repair after a crash is under way. */
Test(journal_sim, wal02_power_failure_during_repair, .timeout = 300) {
	for (uint64_t seed = 0; seed < 300; seed++) {
		struct trace t = {.env = ms_env_sim_new(seed), .next = 1, .at = 20 + seed % 60, .power = true};
		ms_env_sim_set_hook(t.env, lights_out, &t);
		bool done = work(&t);
		ms_journal_free(t.j);
		for (uint64_t again = 1; !done && again < 12; again++) {
			struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 900};
			struct ms_journal *j = NULL;
			ms_env_sim_restart(t.env);
			t.ops = 0;
			t.at = again;
			(void)!ms_journal_open(t.env, DIR_, &cfg, &j, NULL);
			ms_env_sim_crash(t.env);
			ms_journal_free(j);
		}
		ms_env_sim_set_hook(t.env, NULL, NULL);
		ms_env_sim_restart(t.env);
		if (!done)
			check(&t, seed);
		ms_env_sim_free(t.env);
	}
}

/* ---- 9: no space ---- */

static void fill_up(bool large, bool crash, uint64_t seed) {
	struct ms_env *env = ms_env_sim_new(seed);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = large ? 4u << 20 : 3000};
	struct ms_journal *j = rig_open(env, &cfg);
	size_t len = large ? LARGE : 100;
	uint64_t accepted = 0, seq, acked = 0;
	bool refused = false;
	ms_env_sim_set_capacity(env, large ? 2000000 + seed * 777 : 20000 + seed * 13);
	for (int i = 0; i < 400; i++) {
		struct ms_err why = MS_ERR_INIT;
		enum ms_code rc = rig_try(j, "db", 0, accepted + 1, len, &seq, &why);
		if (rc == MS_OK) {
			cr_assert_eq(seq, accepted + 1);
			accepted++;
		} else {
			cr_assert_eq(rc, MS_ENOSPC, "%s", why.msg);
			refused = true;
			if (i % 3 == 0)
				continue;
		}
		if (i % 2 == 0) {
			rc = ms_journal_sync(j, UINT64_MAX, &why);
			cr_assert(rc == MS_OK || rc == MS_ENOSPC, "%s", why.msg);
			if (rc == MS_OK)
				acked = accepted;
		}
	}
	cr_assert(refused && acked && acked < 400);
	if (crash) {
		ms_env_sim_crash(env);
		ms_journal_free(j);
		ms_env_sim_restart(env);
		ms_env_sim_set_capacity(env, 0);
		j = rig_open(env, &cfg);
		struct ms_journal_stats st = rig_stats(j);
		cr_assert(st.corrupt_entries == 0 && st.quarantined_files == 0);
		cr_assert(st.next_seq > acked && st.next_seq <= accepted + 1);
		accepted = st.next_seq - 1;
	} else {
		/* Space returns: what was accepted goes out first, then service goes on. */
		ms_env_sim_set_capacity(env, 0);
	}
	for (int i = 0; i < 20; i++) {
		OK(rig_try(j, "db", 0, accepted + 1, len, &seq, &err));
		cr_assert_eq(seq, ++accepted);
	}
	OK(ms_journal_sync(j, UINT64_MAX, &err));
	for (int pass = 0; pass < 2; pass++) {
		struct ms_journal_reader *r;
		struct ms_journal_entry e;
		OK(ms_journal_reader_new(j, "db", 2, 1, &r, &err));
		for (uint64_t id = 1; id <= accepted; id++) {
			OK(ms_journal_reader_next(r, &e, &err));
			cr_assert(e.seq == id && e.len == len && !memcmp(e.payload, rig_payload(id, len), len));
		}
		FAILS(MS_ENOTFOUND, ms_journal_reader_next(r, &e, &err));
		ms_journal_reader_free(r);
		rig_close(j);
		j = rig_open(env, &cfg);
		cr_assert(rig_stats(j).torn_bytes == 0 && rig_stats(j).corrupt_entries == 0);
	}
	rig_close(j);
	ms_env_sim_free(env);
}

Test(journal_sim, wal09_enospc_surfaces_and_service_resumes, .timeout = 120) {
	for (uint64_t seed = 0; seed < 30; seed++)
		fill_up(false, false, seed);
	for (uint64_t seed = 0; seed < 4; seed++)
		fill_up(true, false, seed);
}
Test(journal_sim, wal09_crash_while_the_disk_is_full, .timeout = 120) {
	for (uint64_t seed = 0; seed < 60; seed++)
		fill_up(false, true, seed);
	for (uint64_t seed = 0; seed < 4; seed++)
		fill_up(true, true, seed);
}

/* ENOSPC and EIO at each write, sync, open of a busy journal, once each: nothing accepted is lost, and it goes on. */
Test(journal_sim, wal09_each_operation_fails_once, .timeout = 300) {
	static const enum ms_sim_op ops[] = {MS_SIM_PWRITE,    MS_SIM_FDATASYNC, MS_SIM_FSYNC,
					     MS_SIM_FSYNC_DIR, MS_SIM_OPEN,	 MS_SIM_TRUNCATE};
	for (size_t k = 0; k < sizeof ops / sizeof *ops; k++)
		for (uint64_t nth = 1; nth < 60; nth++) {
			struct ms_env *env = ms_env_sim_new(nth);
			struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 700};
			struct ms_journal *j = rig_open(env, &cfg);
			uint64_t id = 1, acked = 0, seq;
			ms_env_sim_fail(env, ops[k], NULL, nth, 1, nth % 2 ? ENOSPC : EIO);
			while (id <= 60) {
				struct ms_err why = MS_ERR_INIT;
				enum ms_code rc = rig_try(j, rig_db(id), 0, id, rig_len(id), &seq, &why);
				if (rc == MS_OK)
					cr_assert_eq(seq, id++);
				else
					cr_assert(rc == MS_ENOSPC || rc == MS_EIO, "%s", why.msg);
				if (id % 3 == 0 && ms_journal_sync(j, UINT64_MAX, &why) == MS_OK)
					acked = id - 1;
			}
			ms_env_sim_clear_rules(env);
			OK(ms_journal_sync(j, UINT64_MAX, &err));
			cr_assert_leq(acked, id - 1);
			acked = id - 1;
			rig_expect(j, 1, acked);
			ms_env_sim_crash(env);
			ms_journal_free(j);
			ms_env_sim_restart(env);
			j = rig_open(env, &cfg);
			cr_assert(rig_stats(j).corrupt_entries == 0 && rig_stats(j).quarantined_files == 0);
			rig_expect(j, 1, acked);
			rig_close(j);
			ms_env_sim_free(env);
		}
}

/* ---- failed syncs ---- */

/* The simulator's kernel forgets, as Linux does, what a failed fsync should have written. */
Test(journal_sim, failed_sync_is_not_called_a_success_later) {
	for (uint64_t seed = 0; seed < 60; seed++) {
		struct ms_env *env = ms_env_sim_new(seed);
		struct ms_journal *j = rig_open(env, NULL);
		for (uint64_t id = 1; id <= 5; id++)
			rig_put(j, id);
		OK(ms_journal_sync(j, 5, &err));
		for (uint64_t id = 6; id <= 30; id++)
			rig_put(j, id);
		ms_env_sim_fail(env, MS_SIM_FDATASYNC, NULL, 1, 1 + seed % 3, EIO);
		for (uint64_t i = 0; i < 1 + seed % 3; i++)
			FAILS(MS_EIO, ms_journal_sync(j, 30, &err));
		cr_assert_eq(ms_journal_durable_seq(j), 5);
		cr_assert_eq(rig_stats(j).failed_syncs, 1 + seed % 3);
		if (seed % 2)
			rig_put(j, 31);
		uint64_t last = 30 + seed % 2;
		OK(ms_journal_sync(j, last, &err));
		ms_env_sim_crash(env);
		ms_journal_free(j);
		ms_env_sim_restart(env);
		j = rig_open(env, NULL);
		cr_assert_eq(rig_stats(j).corrupt_entries, 0);
		rig_expect(j, 1, last);
		rig_close(j);
		ms_env_sim_free(env);
	}
}

/* And when what was written cannot be proven any more, nobody is told it was durable. */
Test(journal_sim, entries_lost_by_a_failed_sync_poison_the_journal) {
	struct ms_env *env = ms_env_sim_new(3);
	struct ms_journal *j = rig_open(env, NULL);
	uint64_t seq;
	for (uint64_t id = 1; id <= 5; id++)
		rig_put(j, id);
	OK(ms_journal_sync(j, 5, &err));
	size_t end = (size_t)rig_stats(j).total_bytes;
	rig_put(j, 6);
	rig_put(j, 7);
	ms_env_sim_fail(env, MS_SIM_FDATASYNC, NULL, 1, 1, EIO);
	FAILS(MS_EIO, ms_journal_sync(j, 7, &err));
	struct ms_file *f; /* the kernel has dropped the page, the disk gives back zeros */
	OK(env->ops->open(env, FILE1, MS_O_RDWR, 0, &f, &err));
	OK(env->ops->pwrite(f, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16, (int64_t)end, &err));
	env->ops->close(f);
	FAILS(MS_EIO, ms_journal_sync(j, 7, &err));
	FAILS(MS_EIO, rig_try(j, "a", 0, 8, 10, &seq, &err));
	FAILS(MS_EIO, ms_journal_rotate(j, &err));
	cr_assert_eq(ms_journal_durable_seq(j), 5);
	rig_expect(j, 1, 5);
	FAILS(MS_EIO, ms_journal_close(j, &err));
	ms_journal_free(j);
	j = rig_open(env, NULL);
	cr_assert(rig_stats(j).corrupt_entries == 0 && rig_stats(j).torn_bytes > 0);
	rig_expect(j, 1, 5);
	rig_put(j, 6);
	rig_close(j);
	ms_env_sim_free(env);
}

static uint64_t told;
static unsigned failures;
static void on_sync(void *arg, uint64_t durable, const struct ms_err *err) {
	(void)arg;
	told = durable;
	failures += err != NULL;
}
static bool everything(void *arg) {
	return told + 1 == ms_journal_next_seq(arg);
}

/* A background sync that fails is tried again by itself. */
Test(journal_sim, background_sync_retries_until_the_disk_is_well) {
	struct ms_env *env = ms_env_sim_new(4);
	struct ms_journal *j = rig_open(env, NULL);
	ms_journal_set_hook(j, on_sync, NULL);
	for (uint64_t id = 1; id <= 9; id++)
		rig_put(j, id);
	ms_env_sim_fail(env, MS_SIM_FDATASYNC, NULL, 1, 4, EIO);
	ms_journal_kick(j);
	cr_assert_eq(ms_env_sim_run_until(env, everything, j, 10000000), MS_SIM_DONE);
	cr_assert(told == 9 && failures == 4);
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, 10000000), MS_SIM_IDLE);
	ms_journal_kick(j); /* freed while a job is queued: it finds nothing to do */
	rig_close(j);
	cr_assert_eq(ms_env_sim_run_until(env, NULL, NULL, 10000000), MS_SIM_IDLE);
	ms_env_sim_free(env);
}
