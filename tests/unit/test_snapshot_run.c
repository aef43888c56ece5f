/*
 * A snapshot's reading side by itself: what it takes from the source, when it comes again, and what it refuses. That the objects are one state of a
 * changing database is tests/fault/test_stream_sim.c's; here no replica takes part, so a run ends without having published.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "core/hash.h"
#include "core/snapshot_run.h"

#define PS 4096u
#define SECOND UINT64_C(1000000)

/* A database that holds still, in memory. */
struct fake {
	struct ms_source base;
	uint8_t *data;
	uint32_t pages, busy, reads;
	uint32_t most; /* highest page asked for */
};

static struct ms_env *env;
static struct ms_journal *journal;
static struct ms_capture *cap;
static struct fake db;
static struct ms_snapshot_run *run;
static struct ms_err err;
static unsigned ended, woken;
static struct ms_snapshot_result result;

#define OK(call) cr_assert_eq(call, MS_OK, "%s", err.msg)

static enum ms_code read_pages(struct ms_source *s, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *e) {
	struct fake *f = (struct fake *)s;
	if (f->busy) {
		f->busy--;
		return ms_err_set(e, MS_EBUSY, "not pinned just now");
	}
	cr_assert_leq(first + count - 1, f->pages, "pages %u+%u of %u", first, count, f->pages);
	f->reads += count;
	f->most = first + count - 1 > f->most ? first + count - 1 : f->most;
	memcpy(out, f->data + (size_t)(first - 1) * PS, (size_t)count * PS);
	return MS_OK;
}
static const struct ms_source_ops ops = {.read_pages = read_pages};

static void done(void *arg, const struct ms_snapshot_result *r) {
	(void)arg;
	ended++;
	result = *r;
}
static void wake(void *arg) {
	(void)arg;
	woken++;
}

static void slow(void *arg, struct ms_worker *w) { (void)arg, (void)w; }

static void change(uint32_t pgno) {
	db.data[(size_t)(pgno - 1) * PS + 17]++;
}

static void begin(uint32_t pages) {
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC};
	struct ms_capture_config cc = {"db", "/s", 1, false};
	struct ms_lineage lineage = {.generation = {"00000001-aaaaaaaa"}};
	struct ms_generation_start g = {.generation = lineage.generation, .base = {1, 1000, 0, PS, pages}, .mode = 0600, .lineage = &lineage, .nlineage = 1};
	struct ms_cookie cookie = {.len = 1};
	char note[256];
	OK(ms_fs_mkdir_p(env, "/s", 0700, &err));
	OK(ms_journal_open(env, "/j", &jc, &journal, &err));
	OK(ms_capture_open(env, journal, &cc, &cap, note, sizeof note, &err));
	db = (struct fake){.base = {&ops}, .data = malloc((size_t)pages * PS), .pages = pages};
	uint32_t x = 1;
	for (size_t i = 0; i < (size_t)pages * PS; i++)
		db.data[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	struct ms_pagesums *sums = ms_capture_sums(cap);
	ms_pagesums_begin(sums);
	for (uint32_t p = 1; p <= pages; p++) {
		uint64_t hash = ms_page_hash(p, db.data + (size_t)(p - 1) * PS, PS);
		OK(ms_pagesums_set(sums, p, hash, 0, &err));
		g.base.checksum += hash;
	}
	OK(ms_pagesums_commit(sums, 0, &err));
	OK(ms_capture_start_generation(cap, &g, &cookie, &err));
	OK(ms_snapshot_run_new(env, journal, cap, NULL, 0, 1, 1, &(struct ms_snapshot_hooks){done, wake, slow, NULL}, &run, &err));
}

static void setup(void) {
	env = ms_env_sim_new(5);
	err = MS_ERR_INIT;
	ended = woken = 0;
}
static void teardown(void) {
	if (run)
		ms_snapshot_run_abandon(run);
	ms_capture_free(cap);
	ms_journal_free(journal);
	ms_env_sim_free(env);
	free(db.data);
}
TestSuite(snapshot_run, .init = setup, .fini = teardown);

static bool has_ended(void *arg) {
	(void)arg;
	return ended > 0;
}

Test(snapshot_run, a_small_database_is_read_once) {
	begin(50);
	cr_assert(ms_snapshot_run_wants_fill(run));
	OK(ms_snapshot_run_fill(run, &db.base, 10000, &err));
	cr_expect_eq(db.reads, 50);
	cr_expect_not(ms_snapshot_run_wants_fill(run));
	OK(ms_snapshot_run_fill(run, &db.base, 10000, &err));
	cr_expect_eq(db.reads, 50, "read again although nothing was asked for");
	ms_snapshot_run_advance(run);
	cr_assert_eq(ms_env_sim_run_until(env, has_ended, NULL, 10 * SECOND), MS_SIM_DONE);
	/* There was no replica to give it to, and that is no success. */
	cr_expect(result.err.code == MS_ECANCELED && result.published == 0, "%s", result.err.msg);
	cr_expect_eq(ended, 1);
}

/* A position that is not pinned just now costs nothing but another try. */
Test(snapshot_run, a_busy_source_is_asked_again) {
	begin(50);
	db.busy = 3;
	for (int i = 0; i < 3; i++) {
		cr_expect_eq(ms_snapshot_run_fill(run, &db.base, 10000, &err), MS_EBUSY);
		cr_expect(ms_snapshot_run_wants_fill(run));
	}
	err = MS_ERR_INIT;
	OK(ms_snapshot_run_fill(run, &db.base, 10000, &err));
	cr_expect_eq(db.reads, 50);
}

/* A page that is not what was captured never gets into a snapshot. */
Test(snapshot_run, a_page_that_differs_is_damage) {
	begin(50);
	change(31);
	cr_expect_eq(ms_snapshot_run_fill(run, &db.base, 10000, &err), MS_ECORRUPT);
	cr_expect(strstr(err.msg, "page 31 "), "%s", err.msg);
	change(31); /* 254 more bring it back */
	for (int i = 0; i < 254; i++)
		change(31);
	err = MS_ERR_INIT;
	OK(ms_snapshot_run_fill(run, &db.base, 10000, &err));
}

/* Above the size that a manifest holds by itself: one chunk, and no more before that has been taken on. */
Test(snapshot_run, a_large_database_comes_in_chunks) {
	begin(MS_SNAPSHOT_INLINE / PS + 300);
	uint32_t chunk = MS_SNAPSHOT_CHUNK_BYTES / PS;
	for (int i = 0; i < 1000 && ms_snapshot_run_wants_fill(run); i++) {
		uint32_t before = db.reads;
		OK(ms_snapshot_run_fill(run, &db.base, 0, &err)); /* no time: one piece */
		cr_expect_leq((db.reads - before) * PS, 256u << 10);
	}
	cr_expect_eq(db.reads, chunk);
	cr_expect_eq(db.most, chunk);
	cr_expect_not(ms_snapshot_run_wants_fill(run));
	cr_expect_eq(ms_snapshot_run_needs_seq(run), UINT64_MAX, "its state is not known yet");
	/* Given up before it was taken on: it goes at once, and says nothing more. */
	struct ms_snapshot_run *list = NULL;
	ms_snapshot_run_drop(run, &list);
	cr_expect_null(list);
	run = NULL;
	ms_env_sim_run_until(env, NULL, NULL, SECOND);
	cr_expect_eq(ended, 0);
}
