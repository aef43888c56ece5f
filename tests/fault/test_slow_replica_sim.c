/*
 * One of three replicas is too slow for the others' snapshot: these have it soon, take another one while the slow one is still at it, and the
 * slow one gets its own afterwards, from which everything restores. Then replicas leave, join and change while the others go on. By virtual time; oracle: the
 * images of the database in memory.
 */
#include <criterion/criterion.h>
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

#define PAGE 65536u
#define SECOND UINT64_C(1000000)
#define REPLICAS 4 /* the last one joins later */

static struct ms_env *env;
static struct ms_stream *stream;
static struct ms_journal *journal;
static struct sim_db *db;
static struct ms_source *source;
static struct ms_err err;
static struct ms_replica_spec spec[REPLICAS];
static struct ms_worker_config wc[REPLICAS];
static char store[REPLICAS][24], url[REPLICAS][32], name[REPLICAS][8];

static void changed(void *arg, struct ms_stream *s) { (void)arg, (void)s; }
static void ended(void *arg, struct ms_stream *s, const struct ms_err *e) {
	(void)arg, (void)s;
	cr_assert_fail("ended: %s", e->msg);
}
static void durable(void *arg, uint64_t seq, const struct ms_err *e) {
	(void)arg;
	if (stream)
		ms_stream_durable(stream, seq, e);
}

static void up(uint64_t seed, uint32_t pages, unsigned n) {
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC};
	err = MS_ERR_INIT;
	ms_log_configure(2, getenv("MS_TEST_LOG") ? MS_LOG_DEBUG : MS_LOG_OFF, false);
	env = ms_env_sim_new(seed);
	ms_env_sim_jobs_sleep_apart(env, true);
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK);
	db = sim_db_new(PAGE, pages, seed);
	for (int i = 0; i < REPLICAS; i++) {
		snprintf(name[i], sizeof name[i], "m%d", i);
		snprintf(store[i], sizeof store[i], "slow%llu-%d", (unsigned long long)seed, i);
		snprintf(url[i], sizeof url[i], "mem://%s", store[i]);
		cr_assert_eq(ms_url_parse(url[i], &spec[i], &err), MS_OK);
		wc[i].name = name[i];
		wc[i].spec = &spec[i];
		wc[i].url = url[i];
		wc[i].required = true;
		wc[i].min_interval_us = 1000;
	}
	cr_assert_eq(ms_fs_mkdir_p(env, "/shadow/db/x", 0700, &err), MS_OK);
	cr_assert_eq(ms_journal_open(env, "/shadow/journal", &jc, &journal, &err), MS_OK);
	ms_journal_set_hook(journal, durable, NULL);
	struct ms_stream_config sc = {.name = "x", .path = "/x.db", .dir = "/shadow/db/x", .owner = "o", .host = "h", .level = 1, .workers = wc, .nworkers = n,
				      .authority = -1};
	struct ms_stream_hooks hooks = {changed, ended, NULL};
	source = sim_source_new(db);
	sim_source_poll(source, SECOND);
	cr_assert_eq(ms_stream_new(env, journal, source, &sc, &hooks, &stream, &err), MS_OK, "%s", err.msg);
	ms_stream_start(stream);
}

static void down(void) {
	ms_stream_free(stream);
	stream = NULL;
	ms_journal_free(journal);
	ms_env_sim_free(env);
	for (int i = 0; i < REPLICAS; i++) {
		ms_replica_spec_release(&spec[i]);
		ms_mem_drop(store[i]);
	}
	sim_db_free(db);
	memset(wc, 0, sizeof wc);
}

static void count_manifest(void *arg, const char *object, const uint8_t *data, size_t len) {
	(void)data, (void)len;
	*(unsigned *)arg += strstr(object, "/snapshots/") != NULL;
}

static unsigned manifests(int i) {
	unsigned n = 0;
	ms_mem_each(store[i], count_manifest, &n);
	return n;
}

static uint64_t now_us(void) { return ms_env_mono_ns(env) / 1000; }

/* The status of a replica, by its name. */
static struct ms_worker_status status(int i) {
	struct ms_stream_status st;
	struct ms_worker_status w = {.txid = UINT64_MAX};
	cr_assert_eq(ms_stream_get_status(stream, &st, &err), MS_OK);
	for (uint32_t k = 0; k < st.nworkers; k++)
		if (strcmp(st.workers[k].name, name[i]) == 0)
			w = st.workers[k];
	ms_stream_status_release(&st);
	return w;
}

/* The newest state of a replica is the database's. */
static void restores(int i) {
	struct ms_restore_replica rr = {&spec[i], url[i]};
	struct ms_restore_options o = {.replicas = &rr, .nreplicas = 1, .path = "/out/x", .verify = MS_VERIFY_CHECKSUM, .force = true};
	struct ms_restore_result res;
	struct ms_buf b;
	cr_assert_eq(ms_fs_mkdir_p(env, "/out", 0700, &err), MS_OK);
	cr_assert_eq(ms_restore_run(env, &o, &res, &err), MS_OK, "%s: %s", url[i], err.msg);
	ms_buf_init(&b, 256 << 20);
	cr_assert_eq(ms_fs_read_file(env, "/out/x", &b, &err), MS_OK);
	uint64_t commit = sim_db_latest(db);
	uint8_t *image = malloc((size_t)sim_db_pages(db, commit) * PAGE);
	sim_db_image(db, commit, image);
	cr_expect(b.len == (size_t)sim_db_pages(db, commit) * PAGE && memcmp(image, b.data, b.len) == 0, "%s restores to something else", url[i]);
	free(image);
	ms_buf_release(&b);
}

static bool fast_ones_seeded(void *arg) {
	(void)arg;
	return manifests(0) && manifests(1);
}
static bool slow_one_seeded(void *arg) {
	(void)arg;
	return manifests(2);
}
static bool caught_up(void *arg) {
	(void)arg;
	return ms_stream_caught_up(stream);
}
static bool is_set(void *arg) { return *(bool *)arg; }

static void settle(void) {
	for (int i = 0; i < 2; i++) {
		ms_stream_poke(stream);
		ms_env_sim_run_until(env, NULL, NULL, 2 * SECOND);
	}
	cr_assert_eq(ms_env_sim_run_until(env, caught_up, NULL, 86400 * SECOND), MS_SIM_DONE, "not caught up");
}

struct answer {
	bool done;
	uint64_t txid;
	enum ms_code code;
};
static void answered(void *arg, uint64_t txid, const struct ms_err *e) {
	*(struct answer *)arg = (struct answer){true, txid, e ? e->code : MS_OK};
}

static void a_slow_one(uint64_t seed, uint32_t pages, uint64_t bandwidth, uint64_t delay_us, unsigned concurrency) {
	wc[2].bandwidth = bandwidth;
	for (int i = 0; i < 3; i++)
		wc[i].concurrency = concurrency;
	up(seed, pages, 3);
	if (delay_us)
		ms_mem_fault(store[2], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/chunks/", .times = 2, .delay_us = delay_us});
	uint64_t from = now_us();
	for (int i = 0; i < 200 && !fast_ones_seeded(NULL); i++) {
		sim_db_commit(db, 1);
		ms_stream_poke(stream);
		ms_env_sim_run_until(env, fast_ones_seeded, NULL, SECOND);
	}
	uint64_t took = now_us() - from;
	/* The bound: 30 s more than the snapshot moved, and that was seconds. */
	cr_expect(fast_ones_seeded(NULL) && took < 60 * SECOND, "seed %llu: the others had their snapshot after %.1f s", (unsigned long long)seed, (double)took / 1e6);
	cr_expect_eq(manifests(2), 0, "the slow one was not slow: nothing is tested");
	if (bandwidth)
		cr_expect(status(2).limited && !status(0).limited, "status does not say who is held back");
	/* Another one, while the slow one is at its own. */
	struct answer a = {0};
	sim_db_commit(db, 3);
	ms_stream_poke(stream);
	ms_env_sim_run_until(env, NULL, NULL, 2 * SECOND);
	from = now_us();
	ms_stream_snapshot(stream, answered, &a);
	cr_assert_eq(ms_env_sim_run_until(env, is_set, &a.done, 600 * SECOND), MS_SIM_DONE, "no answer");
	cr_expect(a.code == MS_OK && now_us() - from < 60 * SECOND, "code %d after %.1f s", (int)a.code, (double)(now_us() - from) / 1e6);
	cr_expect_eq(manifests(0), 2);
	cr_expect_eq(manifests(2), 0);
	cr_expect_eq(status(0).last_snapshot_txid, a.txid);
	/* And at last its own. */
	for (int i = 0; i < 100 && !manifests(2); i++) {
		sim_db_commit(db, 1);
		ms_stream_poke(stream);
		ms_env_sim_run_until(env, slow_one_seeded, NULL, 600 * SECOND);
	}
	cr_assert_gt(manifests(2), 0, "seed %llu: the slow one never got its snapshot", (unsigned long long)seed);
	struct ms_worker_config fast = wc[2];
	fast.bandwidth = 0;
	ms_stream_tune_replica(stream, &fast);
	cr_expect_eq(status(2).bandwidth, 0);
	settle();
	for (int i = 0; i < 3; i++)
		restores(i);
	down();
}

Test(slow_replica_sim, one_kib_a_second, .timeout = 120) { a_slow_one(1, 200, 1024, 0, 1); }
Test(slow_replica_sim, the_window_fills, .timeout = 120) { a_slow_one(2, 500, 16 << 10, 0, 1); }
Test(slow_replica_sim, stalled, .timeout = 120) { a_slow_one(3, 300, 0, 3600 * SECOND, 1); }
Test(slow_replica_sim, several_chunks_at_once, .timeout = 120) { a_slow_one(4, 500, 64 << 10, 0, 4); }

/* ---- changes ---- */

static void left(void *arg) { *(bool *)arg = true; }

static void commits(int n) {
	for (int i = 0; i < n; i++) {
		sim_db_commit(db, 2);
		ms_stream_poke(stream);
		ms_env_sim_run_until(env, NULL, NULL, 20000);
	}
}

static unsigned heads(int i) {
	struct ms_mem_counts c;
	unsigned n = 0;
	(void)c;
	char object[32];
	for (size_t len; snprintf(object, sizeof object, "head/%08x", n + 1), ms_mem_peek(store[i], object, &len); n++)
		;
	return n;
}

Test(slow_replica_sim, one_joins_and_one_leaves, .timeout = 120) {
	bool gone = false;
	up(5, 90, 3);
	commits(10);
	settle();
	unsigned before = heads(0);
	cr_expect_eq(ms_stream_add_replica(stream, &wc[1], &err), MS_EEXISTS);
	cr_assert_eq(ms_stream_add_replica(stream, &wc[3], &err), MS_OK, "%s", err.msg);
	commits(10);
	settle();
	cr_expect_eq(status(3).txid, status(0).txid);
	cr_expect_eq(heads(0), before, "a replica that stayed was claimed again");
	cr_expect_eq(manifests(0), 1, "a replica that stayed took a snapshot for the new one");
	for (int i = 0; i < 4; i++)
		restores(i);
	/* One that fails holds the journal, until it has left. */
	ms_mem_fault(store[1], &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = -1, .code = MS_ERETRY});
	commits(10);
	ms_env_sim_run_until(env, NULL, NULL, 5 * SECOND);
	uint64_t held = ms_stream_needs_seq(stream);
	ms_stream_remove_replica(stream, name[1], SECOND, left, &gone);
	commits(5);
	cr_assert_eq(ms_env_sim_run_until(env, is_set, &gone, 60 * SECOND), MS_SIM_DONE);
	settle();
	(void)ms_stream_let_go(stream, ms_journal_next_seq(journal)); /* moves what else may hold it: the mark of the page sums */
	ms_env_sim_run_until(env, NULL, NULL, 2 * SECOND);
	cr_expect_gt(ms_stream_needs_seq(stream), held, "what was held for it is held still");
	cr_expect_eq(status(1).txid, UINT64_MAX, "it is still in the status");
	/* It comes back to its place and goes on from its cursor. */
	ms_mem_clear_faults(store[1]);
	cr_assert_eq(ms_stream_add_replica(stream, &wc[1], &err), MS_OK, "%s", err.msg);
	commits(5);
	settle();
	cr_expect_eq(heads(0), before);
	cr_expect_eq(manifests(1), 1, "its journal was there all the time");
	for (int i = 0; i < 4; i++)
		restores(i);
	down();
}

/* Who leaves takes its part of whatever is under way along: a snapshot, or nothing yet at all. */
Test(slow_replica_sim, comings_and_goings, .timeout = 300) {
	for (uint64_t seed = 10; seed < (getenv("MS_QUICK") ? 18 : 40); seed++) {
		bool in[REPLICAS] = {true, true, true, false}, gone[REPLICAS] = {false};
		up(seed, seed % 2 ? 90 : 300, 3);
		for (int i = 0; i < REPLICAS; i++)
			ms_mem_fault(store[i], &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = -1, .permille = 300, .delay_us = 3 * SECOND});
		while (!ms_stream_replicas_changeable(stream))
			ms_env_sim_run_until(env, NULL, NULL, 1000);
		for (int k = 0; k < 12; k++) {
			int i = 1 + (int)ms_env_sim_pick(env, REPLICAS - 1);
			if (in[i]) {
				in[i] = gone[i] = false;
				ms_stream_remove_replica(stream, name[i], (int64_t)ms_env_sim_pick(env, 2 * SECOND), left, &gone[i]);
				if (ms_env_sim_pick(env, 2)) /* it may still be shipping when the next one goes */
					ms_env_sim_run_until(env, is_set, &gone[i], 600 * SECOND);
			} else {
				cr_assert(ms_env_sim_run_until(env, is_set, (bool *)(gone[i] || i == 3 ? &(bool){true} : &gone[i]), 600 * SECOND) == MS_SIM_DONE);
				cr_assert_eq(ms_stream_add_replica(stream, &wc[i], &err), MS_OK, "seed %llu: %s", (unsigned long long)seed, err.msg);
				in[i] = true;
			}
			commits((int)ms_env_sim_pick(env, 5));
			ms_env_sim_run_until(env, NULL, NULL, ms_env_sim_pick(env, 8 * SECOND));
		}
		for (int i = 0; i < REPLICAS; i++)
			ms_mem_clear_faults(store[i]);
		settle();
		for (int i = 0; i < REPLICAS; i++)
			if (in[i])
				restores(i);
		bool stopped = false;
		ms_stream_stop(stream, 10 * (int64_t)SECOND, left, &stopped);
		cr_assert_eq(ms_env_sim_run_until(env, is_set, &stopped, 600 * SECOND), MS_SIM_DONE, "seed %llu: does not stop", (unsigned long long)seed);
		down();
	}
}
