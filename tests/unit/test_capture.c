/*
 * From pages to the journal and back: a model of the database in memory, whose checksum is the plain sum of its pages' hashes (docs/formats.md), and
 * captures that are opened again over the same files. What a capture says after a restart comes from replaying the journal it has written.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "core/capture.h"
#include "core/hash.h"

#define PS 512u
#define MOST 4096u

static struct ms_env *env;
static struct ms_journal *journal;
static struct ms_capture *cap;
static uint8_t (*page)[PS]; /* [pgno] */
static uint32_t pages;
static uint64_t rng;
static struct ms_err err;

#define OK(call) cr_assert_eq(call, MS_OK, "%s", err.msg)

static uint8_t noise(void) {
	rng = rng * 6364136223846793005u + 1442695040888963407u;
	return (uint8_t)(rng >> 56);
}

static uint64_t model_sum(uint32_t n) {
	uint64_t sum = 0;
	for (uint32_t p = 1; p <= n; p++)
		sum += ms_page_hash(p, page[p], PS);
	return sum;
}

static void open_capture(void) {
	char note[256];
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 256 << 10};
	struct ms_capture_config cc = {"db", "/s", 1, false};
	OK(ms_journal_open(env, "/j", &jc, &journal, &err));
	OK(ms_capture_open(env, journal, &cc, &cap, note, sizeof note, &err));
	cr_assert_str_empty(note, "%s", note);
}

static void close_capture(bool power) {
	if (!power) {
		OK(ms_journal_sync(journal, ms_journal_next_seq(journal) - 1, &err));
		ms_env_sim_kill(env);
	} else {
		ms_env_sim_crash(env);
	}
	ms_capture_free(cap);
	ms_journal_free(journal);
	ms_env_sim_restart(env);
}

/* As the stream does after a seed. */
static void start_generation(uint32_t n) {
	struct ms_lineage lineage = {.generation = {"00000001-aaaaaaaa"}};
	struct ms_generation_start g = {.generation = lineage.generation, .base = {1, 1000, 0, PS, n}, .mode = 0600, .lineage = &lineage, .nlineage = 1};
	struct ms_pagesums *sums = ms_capture_sums(cap);
	struct ms_cookie cookie = {.len = 1, .data = {7}};
	OK(ms_pagesums_reset(sums, &err));
	pages = n;
	for (uint32_t p = 1; p <= n; p++) {
		for (uint32_t i = 0; i < PS; i++)
			page[p][i] = noise();
		ms_pagesums_begin(sums);
		OK(ms_pagesums_set(sums, p, ms_page_hash(p, page[p], PS), 0, &err));
		OK(ms_pagesums_commit(sums, 0, &err));
	}
	g.base.checksum = model_sum(n);
	OK(ms_capture_start_generation(cap, &g, &cookie, &err));
}

static void write_page(uint32_t p, bool whole) {
	for (uint32_t i = 0; i < (whole ? PS : 4); i++)
		page[p][whole ? i : 100 + i] = noise();
	OK(ms_capture_page(cap, p, page[p], whole, &err));
}

static void commit(uint32_t n, uint32_t flags, int64_t lost) {
	struct ms_flush_meta m = {.db_pages = n, .time_us = 2000, .cookie = {.len = 1, .data = {9}}};
	OK(ms_capture_commit(cap, &m, flags, lost, &err));
	pages = n;
}

static void expect_state(uint64_t txid) {
	const struct ms_dbstate *st = ms_capture_state(cap);
	uint64_t sum;
	cr_assert_eq(st->txid, txid);
	cr_assert_eq(st->db_pages, pages);
	cr_assert_eq(st->checksum, model_sum(pages), "txid %llu", (unsigned long long)txid);
	OK(ms_pagesums_sum(ms_capture_sums(cap), pages, &sum, &err));
	cr_assert_eq(sum, st->checksum);
	for (uint32_t p = pages + 1; p < pages + 64; p++) { /* nothing is left behind the end */
		uint64_t hash;
		uint8_t chain;
		OK(ms_pagesums_get(ms_capture_sums(cap), p, &hash, &chain, &err));
		cr_assert_eq(hash, 0, "page %u of %u", p, pages);
	}
}

static void setup(void) {
	env = ms_env_sim_new(3);
	page = calloc(MOST, PS);
	rng = 99;
	err = MS_ERR_INIT;
	OK(ms_fs_mkdir_p(env, "/s", 0700, &err));
	open_capture();
	start_generation(40);
}

static void teardown(void) {
	ms_capture_free(cap);
	ms_journal_free(journal);
	ms_env_sim_free(env);
	free(page);
}
TestSuite(capture, .init = setup, .fini = teardown);

Test(capture, a_restart_replays_what_was_captured) {
	uint64_t deltas = 0;
	for (int i = 0; i < 30; i++) {
		uint32_t n = i % 7 == 6 ? pages - 3 : pages + (i % 3 == 0);
		OK(ms_capture_begin(cap, &err));
		for (uint32_t p = pages + 1; p <= n; p++)
			write_page(p, true);
		write_page(1 + (uint32_t)i % 3, i % 2);
		commit(n, 0, 0);
		expect_state(2 + (uint64_t)i);
		if (i == 11)
			OK(ms_capture_checkpoint(cap, &err));
		if (i % 10 == 9) {
			struct ms_capture_stats st;
			ms_capture_stats(cap, &st);
			deltas += st.deltas;
			close_capture(false);
			open_capture();
			expect_state(2 + (uint64_t)i);
			cr_assert_eq(ms_capture_cookie(cap)->data[0], 9);
		}
	}
	cr_expect_gt(deltas, 0, "small changes of a page that was seen before are deltas");
}

/* A scan reads pages that are gone when it ends: their hashes must not stay in the sum, nor in the file, nor come back with a replay. */
Test(capture, catch_up_with_a_shrink_during_the_scan) {
	for (int grown = 0; grown < 2; grown++) {
		uint32_t before = pages, seen = grown ? pages + 50 : pages;
		uint64_t txid = ms_capture_state(cap)->txid;
		OK(ms_capture_begin(cap, &err));
		for (uint32_t p = 1; p <= seen; p += 3)
			write_page(p, true);
		if (grown)
			for (uint32_t p = before + 1; p <= seen; p++)
				write_page(p, true);
		cr_assert_eq(ms_capture_tx_extent(cap), seen);
		/* Of all pages up to there, the sum is known before the size at the end is. */
		cr_assert_eq(ms_capture_tx_checksum(cap), model_sum(seen));
		commit(grown ? before + 5 : before - 15, MS_COMMIT_CATCHUP, -1);
		expect_state(txid + 1);
		if (!grown)
			OK(ms_capture_checkpoint(cap, &err));
		close_capture(false);
		open_capture();
		expect_state(txid + 1);
	}
	OK(ms_capture_begin(cap, &err)); /* and the pages come back as new ones */
	for (uint32_t p = pages + 1; p <= pages + 20; p++)
		write_page(p, true);
	commit(pages + 20, 0, 0);
	expect_state(4);
}

/* The same where the state found is an older one. */
Test(capture, fork_with_a_shrink_during_the_scan) {
	uint8_t old[41][PS];
	struct ms_dbstate older;
	memcpy(old, page, sizeof old);
	uint64_t sum = model_sum(40);
	for (int i = 0; i < 3; i++) {
		OK(ms_capture_begin(cap, &err));
		for (uint32_t p = pages + 1; p <= pages + 10; p++)
			write_page(p, true);
		write_page(5, false);
		commit(pages + 10, 0, 0);
	}
	OK(ms_journal_sync(journal, ms_capture_last_seq(cap), &err));
	OK(ms_capture_begin(cap, &err));
	for (uint32_t p = 41; p <= 90; p++) /* seen before the database went back under the scan */
		write_page(p, true);
	for (uint32_t p = 1; p <= 40; p++)
		OK(ms_capture_page(cap, p, old[p], true, &err));
	memcpy(page, old, sizeof old);
	OK(ms_capture_find_state(cap, sum, 40, &older, &err));
	cr_assert_eq(older.txid, 1);
	cr_assert_eq(ms_capture_find_state(cap, sum + 1, 40, &older, &err), MS_ENOTFOUND);
	err = MS_ERR_INIT;
	OK(ms_capture_find_state(cap, sum, 40, &older, &err));
	struct ms_lineage lineage[2] = {{.generation = {"00000001-bbbbbbbb"}, .parent = {"00000001-aaaaaaaa"}, .fork_txid = 1}, {.generation = {"00000001-aaaaaaaa"}}};
	struct ms_generation_start g = {.generation = lineage[0].generation, .base = older, .mode = 0600, .lineage = lineage, .nlineage = 2};
	struct ms_cookie cookie = {.len = 1, .data = {8}};
	OK(ms_capture_fork(cap, &g, &cookie, &err));
	pages = 40;
	expect_state(1);
	close_capture(false);
	open_capture();
	expect_state(1);
	cr_assert_str_eq(ms_capture_generation(cap)->generation.s, "00000001-bbbbbbbb");
}

/* What was given up, and what no commit record ended, never was; a transaction above the payload's bound is whole or not at all. */
Test(capture, transactions_are_whole_or_not_at_all) {
	uint8_t(*kept)[PS] = malloc(MOST * PS);
	OK(ms_capture_begin(cap, &err));
	for (uint32_t p = 41; p <= 3000; p++)
		write_page(p, true);
	commit(3000, 0, 0);
	expect_state(2);
	memcpy(kept, page, MOST * PS);
	OK(ms_capture_begin(cap, &err));
	for (uint32_t p = 1; p <= 2900; p++)
		write_page(p, true);
	ms_capture_abort(cap);
	memcpy(page, kept, MOST * PS);
	expect_state(2);
	OK(ms_capture_begin(cap, &err));
	for (uint32_t p = 1; p <= 2900; p++)
		write_page(p, true); /* some of it lies in the journal when the process dies */
	memcpy(page, kept, MOST * PS);
	close_capture(false);
	open_capture();
	expect_state(2);
	OK(ms_capture_begin(cap, &err));
	write_page(7, false);
	commit(3000, 0, 0);
	expect_state(3);
	close_capture(false);
	open_capture();
	expect_state(3);
	free(kept);
}

/* A power failure keeps a state that was journalled, and none that is half there. */
Test(capture, power_failures) {
	for (uint64_t round = 0; round < 20; round++) {
		uint64_t sums[12], durable = ms_capture_state(cap)->txid, first = durable;
		uint32_t sizes[12];
		uint8_t(*images)[MOST / 16][PS] = malloc(sizeof *images * 12);
		unsigned n = 0;
		for (;; n++) {
			sums[n] = ms_capture_state(cap)->checksum;
			sizes[n] = pages;
			memcpy(images[n], page, sizeof images[n]);
			if (n == 10)
				break;
			OK(ms_capture_begin(cap, &err));
			write_page(1 + noise() % 40, noise() % 2);
			commit(pages, 0, 0);
			if (noise() % 4 == 0) {
				OK(ms_journal_sync(journal, ms_capture_last_seq(cap), &err));
				durable = ms_capture_state(cap)->txid;
			}
			if (noise() % 8 == 0) {
				OK(ms_capture_checkpoint(cap, &err));
				durable = ms_capture_state(cap)->txid;
			}
		}
		close_capture(true);
		open_capture();
		uint64_t txid = ms_capture_state(cap)->txid;
		cr_assert(txid >= durable && txid <= first + 10, "txid %llu, durable %llu", (unsigned long long)txid, (unsigned long long)durable);
		cr_assert_eq(ms_capture_state(cap)->checksum, sums[txid - first]);
		memcpy(page, images[txid - first], sizeof images[0]);
		pages = sizes[txid - first];
		expect_state(txid);
		free(images);
	}
}
