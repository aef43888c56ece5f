/*
 * A snapshot of a database that is rewritten all over while it is taken, on a replica that is slow: it ends, because each pass stores only
 * what has changed. Oracle: the images of the database in memory.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "base/log.h"
#include "core/snapshot.h"
#include "core/stream.h"
#include "replicas/mem.h"
#include "replicas/url.h"
#include "restore/restore.h"
#include "support/sim_source.h"

#define STORE "snapshot-sim"

static struct ms_env *env;
static struct ms_stream *stream;
static struct ms_journal *journal;
static struct ms_err err;

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

struct found {
	unsigned manifests, patches;
	uint64_t txid;
};

static void look(void *arg, const char *name, const uint8_t *data, size_t len) {
	struct found *f = arg;
	if (!strstr(name, "/snapshots/"))
		return;
	struct ms_manifest m = {0};
	struct ms_manifest_reader *r = ms_manifest_reader_new(&m, NULL);
	cr_assert_eq(ms_manifest_push(r, data, len, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_manifest_finish(r, &err), MS_OK, "%s", err.msg);
	for (uint32_t i = 0; i < m.nchunks; i++)
		f->patches += m.chunks[i].patch;
	f->manifests++;
	f->txid = m.state.txid;
	ms_manifest_reader_free(r);
	ms_manifest_release(&m);
}

static bool seeded(void *arg) {
	struct found f = {0};
	(void)arg;
	ms_mem_each(STORE, look, &f);
	return f.manifests;
}

/* Returns how many patch chunks the snapshot took. */
static unsigned history(uint64_t seed, uint32_t pages, uint32_t writes) {
	struct ms_replica_spec spec = {0};
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC};
	err = MS_ERR_INIT;
	ms_log_configure(2, getenv("MS_TEST_LOG") ? MS_LOG_DEBUG : MS_LOG_OFF, false);
	env = ms_env_sim_new(seed);
	ms_env_sim_jobs_sleep_apart(env, true);
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK);
	cr_assert_eq(ms_url_parse("mem://" STORE, &spec, &err), MS_OK);
	struct sim_db *db = sim_db_new(65536, pages, seed);
	cr_assert_eq(ms_fs_mkdir_p(env, "/shadow/db/x", 0700, &err), MS_OK);
	cr_assert_eq(ms_journal_open(env, "/shadow/journal", &jc, &journal, &err), MS_OK);
	ms_journal_set_hook(journal, durable, NULL);
	struct ms_worker_config wc = {.name = "m", .spec = &spec, .url = "mem://" STORE, .required = true, .min_interval_us = 1000, .concurrency = 1};
	struct ms_stream_config sc = {.name = "x", .path = "/x.db", .dir = "/shadow/db/x", .owner = "o", .host = "h", .level = 1, .workers = &wc, .nworkers = 1,
				      .authority = -1};
	struct ms_stream_hooks hooks = {changed, ended, NULL};
	cr_assert_eq(ms_stream_new(env, journal, sim_source_new(db), &sc, &hooks, &stream, &err), MS_OK, "%s", err.msg);
	ms_mem_fault(STORE, &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "/chunks/", .times = -1, .delay_us = 20000});
	ms_stream_start(stream);
	for (int i = 0; i < 400 && !seeded(NULL); i++) {
		sim_db_commit(db, writes);
		ms_stream_poke(stream);
		ms_env_sim_run_until(env, NULL, NULL, 12000);
	}
	struct found f = {0};
	ms_mem_each(STORE, look, &f);
	cr_assert_eq(f.manifests, 1, "seed %llu: no snapshot while the database is rewritten", (unsigned long long)seed);
	for (int i = 0; i < 2; i++) {
		ms_stream_poke(stream);
		ms_env_sim_run_until(env, NULL, NULL, 2000000);
	}
	struct ms_restore_replica rr = {&spec, "mem://" STORE};
	/* At the snapshot itself, and at the newest commit. */
	for (uint64_t txid = f.txid; txid != UINT64_MAX; txid = txid ? 0 : UINT64_MAX) {
		struct ms_restore_options o = {.replicas = &rr, .nreplicas = 1, .path = "/out/x", .verify = MS_VERIFY_CHECKSUM, .force = true,
					       .target = {.kind = txid ? MS_TARGET_TXID : MS_TARGET_NEWEST, .txid = txid}};
		struct ms_restore_result res;
		struct ms_buf b;
		cr_assert_eq(ms_fs_mkdir_p(env, "/out", 0700, &err), MS_OK);
		cr_assert_eq(ms_restore_run(env, &o, &res, &err), MS_OK, "seed %llu: %s", (unsigned long long)seed, err.msg);
		ms_buf_init(&b, 256 << 20);
		cr_assert_eq(ms_fs_read_file(env, "/out/x", &b, &err), MS_OK);
		uint64_t commit = sim_db_latest(db);
		bool same = false;
		for (; !same; commit--) {
			uint8_t *image = b.len == (size_t)sim_db_pages(db, commit) * 65536 ? malloc(b.len) : NULL;
			if (image)
				sim_db_image(db, commit, image);
			same = image && memcmp(image, b.data, b.len) == 0;
			free(image);
			if (!txid || !commit)
				break;
		}
		cr_assert(same, "seed %llu: txid %llu is not the database", (unsigned long long)seed, (unsigned long long)txid);
		ms_buf_release(&b);
	}
	ms_stream_free(stream);
	stream = NULL;
	ms_journal_free(journal);
	ms_env_sim_free(env);
	ms_replica_spec_release(&spec);
	ms_mem_drop(STORE);
	sim_db_free(db);
	return f.patches;
}

Test(snapshot_sim, ends_under_uniform_rewriting, .timeout = 120) {
	unsigned patches = 0;
	for (uint64_t seed = 1; seed < 4; seed++)
		patches += history(seed, 500, 40);
	cr_expect_gt(patches, 0, "the database was hardly rewritten");
}
