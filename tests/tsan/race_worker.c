/* Two workers with file replicas on real threads: a thread commits into the journal, the loop kicks, snapshots are put, one worker is stopped in the
 * middle with a deadline of zero. Under ThreadSanitizer it must be silent; in every build the other one gets everything. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "core/hash.h"
#include "core/names.h"
#include "core/stream_entry.h"
#include "core/worker.h"
#include "replicas/url.h"

enum { COMMITS = 600, PAGE = 512 };

#define REQUIRE(cond)                                                                                                            \
	do {                                                                                                                     \
		if (!(cond)) {                                                                                                   \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                                 \
			abort();                                                                                                 \
		}                                                                                                                \
	} while (0)

static struct ms_env *env;
static struct ms_journal *journal;
static struct ms_worker *workers[2];
static struct ms_generation_start start;
static struct ms_lineage lineage;
static struct ms_timer *tick;
static atomic_uint finished;
static unsigned stopped, snapshots;
static bool putting, stopping;
static struct ms_buf object;
static struct ms_manifest manifest;
static char name[MS_NAME_MAX];
static uint64_t snapshot_seq;

static void append(uint16_t flags, const void *a, size_t na, const void *b, size_t nb, uint64_t *seq) {
	struct ms_err err = MS_ERR_INIT;
	struct iovec iov[2] = {{(void *)a, na}, {(void *)b, nb}};
	REQUIRE(ms_journal_append(journal, "db", 2, flags, iov, b ? 2 : 1, seq, &err) == MS_OK);
}

/* One page, rewritten by each commit; the page holds the txid. */
static void *committer(void *arg) {
	struct ms_page_encoder *enc = ms_page_encoder_new(1, true);
	struct ms_buf b;
	(void)arg;
	ms_buf_init(&b, 1u << 16);
	for (uint64_t txid = 2; txid <= COMMITS + 1; txid++) {
		uint8_t page[PAGE] = {0}, h[MS_RUN_HEADER_MAX];
		enum ms_record_type type;
		uint64_t seq;
		ms_put_le64(page, txid);
		struct ms_commit c = {.txid = txid, .time_us = 1000 + (int64_t)txid, .page_size = PAGE, .db_pages = 1, .checksum = ms_page_hash(1, page, PAGE)};
		ms_buf_clear(&b);
		REQUIRE(ms_page_encode(enc, 1, page, PAGE, NULL, c.checksum, &b, &type, NULL) == MS_OK && ms_commit_encode(&c, &b, NULL) == MS_OK);
		append(0, h, ms_run_header_put(h, MS_RUN_FIRST | MS_RUN_LAST, txid, NULL), b.data, b.len, &seq);
		if (txid % 4 == 0)
			REQUIRE(ms_journal_sync(journal, seq, NULL) == MS_OK);
		if (txid % 50 == 0)
			usleep(2000);
	}
	REQUIRE(ms_journal_sync(journal, ms_journal_next_seq(journal) - 1, NULL) == MS_OK);
	ms_buf_release(&b);
	ms_page_encoder_free(enc);
	atomic_store(&finished, 1);
	return NULL;
}

static void put_done(void *arg, const struct ms_err *err) {
	struct ms_worker *w = arg;
	putting = false;
	if (err->code == MS_OK) {
		ms_worker_snapshot_published(w, &manifest, snapshot_seq, object.len);
		snapshots++;
	}
}

static void snapshot(struct ms_worker *w) {
	uint8_t page[PAGE] = {0};
	ms_put_le64(page, 1);
	putting = true;
	snapshot_seq = 2;
	manifest = (struct ms_manifest){.generation = start.generation, .state = start.base, .mode = 0600, .pages_per_chunk = 1, .epoch = 1, .inline_pages = true};
	ms_buf_clear(&object);
	struct ms_err err = MS_ERR_INIT;
	REQUIRE(ms_manifest_encode(&manifest, page, NULL, NULL, 1, &object, &err) == MS_OK);
	snprintf(name, sizeof name, "%s/snapshots/%016x-%016x.snap", start.generation.s, 1u, 1001u);
	ms_worker_put_snapshot_object(w, name, object.data, object.len, put_done, w);
}

static void probed(void *arg, struct ms_worker *w, const struct ms_probe *p) {
	struct ms_local_facts local = {.generation = start.generation, .state = start.base, .lineage = &lineage, .nlineage = 1, .epoch = 1};
	(void)arg;
	REQUIRE(p->reachable && p->empty);
	ms_worker_start(w, &local);
}
static void changed(void *arg, struct ms_worker *w) { (void)arg, (void)w; }
static void fenced(void *arg, struct ms_worker *w, const struct ms_err *err) {
	(void)arg, (void)w;
	fprintf(stderr, "%s\n", err->msg);
	abort();
}
static void need(void *arg, struct ms_worker *w, const char *reason) { (void)arg, (void)w, (void)reason; }

static void was_stopped(void *arg) {
	(void)arg;
	if (++stopped == 2)
		env->ops->stop(env);
}

static void on_tick(void *arg) {
	struct ms_worker_status st;
	(void)arg;
	for (int i = 0; i < 2; i++) {
		ms_worker_kick(workers[i]);
		ms_worker_status(workers[i], &st);
		(void)ms_worker_needs_seq(workers[i]);
		if (!putting && st.state == MS_WORKER_SEEDING)
			snapshot(workers[i]);
	}
	ms_worker_status(workers[0], &st);
	if (!stopping && st.txid > COMMITS / 3) {
		stopping = true;
		ms_worker_stop(workers[0], 0, was_stopped, NULL);
	}
	if (atomic_load(&finished) == 1 && stopping && ms_worker_caught_up(workers[1])) {
		atomic_store(&finished, 2);
		ms_worker_stop(workers[1], 10000000, was_stopped, NULL);
	}
	env->ops->timer_start(tick, 2000);
}

int main(void) {
	char dir[] = "/tmp/race-worker-XXXXXX", path[300], url[400];
	struct ms_err err = MS_ERR_INIT;
	uint8_t page[PAGE] = {0};
	pthread_t thread;
	uint64_t seq;
	REQUIRE(mkdtemp(dir));
	REQUIRE(ms_replicas_register_builtin(&err) == MS_OK);
	env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	REQUIRE(env);
	snprintf(path, sizeof path, "%s/journal", dir);
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 32u << 10};
	REQUIRE(ms_journal_open(env, path, &jc, &journal, &err) == MS_OK);

	ms_put_le64(page, 1);
	ms_generation_make(&start.generation, 1, 7);
	lineage.generation = start.generation;
	start.base = (struct ms_dbstate){.txid = 1, .time_us = 1001, .page_size = PAGE, .db_pages = 1, .checksum = ms_page_hash(1, page, PAGE)};
	start.mode = 0600;
	start.lineage = &lineage;
	start.nlineage = 1;
	struct ms_buf b;
	ms_buf_init(&b, 1u << 16);
	ms_buf_init(&object, 1u << 20);
	REQUIRE(ms_generation_start_encode(&start, &b, &err) == MS_OK);
	append(0, b.data, b.len, NULL, 0, &seq);
	ms_buf_release(&b);

	for (int i = 0; i < 2; i++) {
		struct ms_replica_spec spec = {0};
		struct ms_worker_hooks hooks = {probed, changed, fenced, need, NULL};
		snprintf(url, sizeof url, "file://%s/replica%d", dir, i);
		snprintf(path, sizeof path, "%s/cursor%d", dir, i);
		REQUIRE(ms_url_parse(url, &spec, &err) == MS_OK);
		struct ms_worker_config cfg = {.db = "db", .name = "r", .spec = &spec, .url = url, .state_path = path, .owner = "o", .host = "h", .required = true,
					       .snapshot_retention_us = 1, .check_interval_us = 20000, .removal_grace_us = 1};
		REQUIRE(ms_worker_new(env, journal, &cfg, &hooks, &workers[i], &err) == MS_OK);
		ms_replica_spec_release(&spec);
		ms_worker_probe(workers[i], 5000000);
	}
	tick = env->ops->timer_new(env, on_tick, NULL);
	env->ops->timer_start(tick, 1000);
	REQUIRE(pthread_create(&thread, NULL, committer, NULL) == 0);
	env->ops->run(env);
	pthread_join(thread, NULL);

	struct ms_worker_status st;
	ms_worker_status(workers[1], &st);
	REQUIRE(st.state == MS_WORKER_STOPPED && st.txid == COMMITS + 1 && snapshots >= 1);
	for (int i = 0; i < 2; i++)
		ms_worker_free(workers[i]);
	env->ops->timer_free(tick);
	REQUIRE(ms_journal_close(journal, &err) == MS_OK);
	ms_journal_free(journal);
	ms_buf_release(&object);
	REQUIRE(ms_fs_remove_tree(env, dir, &err) == MS_OK);
	ms_env_uv_free(env);
	return 0;
}
