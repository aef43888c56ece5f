#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "core/owed.h"
#include "core/stream_entry.h"

#define GEN "00000001-c0ffee00"
#define PATH "/owed-x"

static struct ms_env *env;
static struct ms_journal *journal;
static struct ms_err err;

static void setup(void) {
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC};
	err = MS_ERR_INIT;
	env = ms_env_sim_new(5);
	cr_assert_eq(ms_journal_open(env, "/journal", &cfg, &journal, &err), MS_OK, "%s", err.msg);
}

static void teardown(void) {
	ms_journal_free(journal);
	ms_env_sim_free(env);
}
TestSuite(owed, .init = setup, .fini = teardown);

static uint64_t append(const char *db, unsigned flags, uint64_t txid, const uint32_t *pages, unsigned n, uint32_t db_pages) {
	uint8_t header[MS_RUN_HEADER_MAX], page[512] = {0};
	struct ms_cookie cookie = {.len = 0};
	struct ms_page_encoder *enc = ms_page_encoder_new(1, true);
	enum ms_record_type type;
	struct ms_buf b;
	uint64_t seq;
	ms_buf_init(&b, 1 << 20);
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(ms_page_encode(enc, pages[i], page, sizeof page, NULL, 77, &b, &type, &err), MS_OK);
	if (flags & MS_RUN_LAST) {
		struct ms_commit c = {.txid = txid, .time_us = 1000 + (int64_t)txid, .page_size = 512, .db_pages = db_pages, .checksum = 100 + txid};
		cr_assert_eq(ms_commit_encode(&c, &b, &err), MS_OK);
	}
	size_t h = ms_run_header_put(header, flags, txid, &cookie);
	struct iovec iov[2] = {{header, h}, {b.data, b.len}};
	cr_assert_eq(ms_journal_append_sync(journal, db, strlen(db), flags & MS_RUN_LAST ? 0 : MS_ENTRY_CONTINUES, iov, 2, &seq, &err), MS_OK, "%s", err.msg);
	ms_buf_release(&b);
	ms_page_encoder_free(enc);
	return seq;
}

static struct ms_owed begin(uint64_t txid, uint64_t seq) {
	struct ms_owed o = {.i = {.base_txid = txid, .end = {.txid = txid, .page_size = 512, .db_pages = 9}, .next_seq = seq, .epoch = 1}};
	strcpy(o.i.generation.s, GEN);
	return o;
}

Test(owed, folds_the_pages_of_its_own_database) {
	append("a", MS_RUN_FIRST | MS_RUN_LAST, 2, (uint32_t[]){1, 3}, 2, 9);
	append("b", MS_RUN_FIRST | MS_RUN_LAST, 2, (uint32_t[]){5}, 1, 9);
	append("a", MS_RUN_FIRST | MS_RUN_LAST, 3, (uint32_t[]){3, 5000}, 2, 5000);
	append("a", MS_RUN_FIRST, 4, (uint32_t[]){7}, 1, 0);
	append("a", MS_RUN_LAST, 4, (uint32_t[]){8}, 1, 5001);
	struct ms_owed o = begin(1, 1);
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 4, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(o.i.next_seq, 4);
	cr_expect_eq(o.npages, 3);
	cr_expect(ms_owed_has(&o, 1) && ms_owed_has(&o, 3) && ms_owed_has(&o, 5000));
	cr_expect_not(ms_owed_has(&o, 5) || ms_owed_has(&o, 2) || ms_owed_has(&o, 4999) || ms_owed_has(&o, 5001) || ms_owed_has(&o, 0) || ms_owed_has(&o, UINT32_MAX));
	cr_expect_eq(o.i.commits, 2);
	cr_expect_eq(o.i.since_us, 1002);
	cr_expect(o.i.end.txid == 3 && o.i.end.checksum == 103 && o.i.end.db_pages == 5000 && !o.i.open);
	/* In the middle of a transaction its pages count, its commit does not yet. */
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 5, &err), MS_OK);
	cr_expect(o.i.open && ms_owed_has(&o, 7) && !ms_owed_has(&o, 8) && o.i.end.txid == 3);
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 100, &err), MS_OK);
	cr_expect(!o.i.open && ms_owed_has(&o, 8) && o.i.end.txid == 4 && o.i.next_seq == 6);
	ms_owed_release(&o);
}

static void start(const char *generation, const char *parent, uint64_t txid) {
	struct ms_generation_start g = {.base = {.txid = txid, .page_size = 512, .db_pages = 9, .checksum = 100 + txid}, .mode = 0644, .nlineage = 1};
	struct ms_lineage l = {.fork_txid = txid};
	struct ms_buf b;
	uint64_t seq;
	strcpy(g.generation.s, generation);
	l.generation = g.generation;
	strcpy(l.parent.s, parent);
	g.lineage = &l;
	ms_buf_init(&b, 4096);
	cr_assert_eq(ms_generation_start_encode(&g, &b, &err), MS_OK);
	struct iovec iov = {b.data, b.len};
	cr_assert_eq(ms_journal_append_sync(journal, "a", 1, 0, &iov, 1, &seq, &err), MS_OK, "%s", err.msg);
	ms_buf_release(&b);
}

/* From the middle of the journal: the base is the first state that all pages written since are noted for. */
Test(owed, finds_its_base) {
	append("a", MS_RUN_FIRST, 12, (uint32_t[]){1}, 1, 0);
	append("a", MS_RUN_LAST, 12, (uint32_t[]){2}, 1, 9);
	append("a", MS_RUN_FIRST | MS_RUN_LAST, 13, (uint32_t[]){3}, 1, 9);
	struct ms_owed o = begin(MS_OWED_BASE_UNKNOWN, 1);
	o.i.end.txid = 0;
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 100, &err), MS_OK, "%s", err.msg);
	cr_expect(o.i.base_txid == 11 && o.i.end.txid == 13 && o.npages == 3, "%llu", (unsigned long long)o.i.base_txid);
	ms_owed_release(&o);
	o = begin(MS_OWED_BASE_UNKNOWN, 2); /* the first entry of 12 is gone */
	o.i.end.txid = 0;
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 100, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(o.i.base_txid, 12);
	ms_owed_release(&o);
	/* A generation that forks from an older state begins on the way. */
	start(GEN, "00000001-00000009", 11);
	append("a", MS_RUN_FIRST | MS_RUN_LAST, 12, (uint32_t[]){4}, 1, 9);
	o = begin(MS_OWED_BASE_UNKNOWN, 1);
	o.i.end.txid = 0;
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 100, &err), MS_OK, "%s", err.msg);
	cr_expect(o.i.base_txid == 11 && o.i.end.txid == 12 && o.i.end.checksum == 112 && ms_owed_has(&o, 4) && !o.i.left);
	ms_owed_release(&o);
	/* It ends in another one than it is for. */
	start("00000002-00000002", GEN, 12);
	o = begin(MS_OWED_BASE_UNKNOWN, 1);
	o.i.end.txid = 0;
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 100, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(o.i.base_txid, MS_OWED_BASE_UNKNOWN);
	ms_owed_release(&o);
}

Test(owed, stops_where_another_generation_begins) {
	append("a", MS_RUN_FIRST | MS_RUN_LAST, 2, (uint32_t[]){1}, 1, 9);
	start("00000002-00000002", GEN, 2);
	append("a", MS_RUN_FIRST | MS_RUN_LAST, 3, (uint32_t[]){6}, 1, 9);
	struct ms_owed o = begin(1, 1);
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 4, &err), MS_OK);
	cr_expect(o.i.left && o.i.next_seq == 2 && ms_owed_has(&o, 1) && !ms_owed_has(&o, 6));
	ms_owed_release(&o);
}

Test(owed, missing_entries_are_no_silence) {
	for (uint64_t t = 2; t < 6; t++) {
		append("a", MS_RUN_FIRST | MS_RUN_LAST, t, (uint32_t[]){(uint32_t)t}, 1, 9);
		cr_assert_eq(ms_journal_rotate(journal, &err), MS_OK);
	}
	uint64_t files, bytes;
	cr_assert_eq(ms_journal_purge(journal, 3, &files, &bytes, &err), MS_OK);
	struct ms_owed o = begin(1, 1);
	cr_expect_eq(ms_owed_fold(&o, journal, "a", 5, &err), MS_EGAP);
	ms_owed_release(&o);
}

Test(owed, file_comes_back_whole_or_not_at_all) {
	struct ms_owed o = begin(7, 1), back = {0};
	struct ms_buf b;
	append("a", MS_RUN_FIRST | MS_RUN_LAST, 8, (uint32_t[]){2, 900, 9}, 3, 900);
	append("a", MS_RUN_FIRST, 9, (uint32_t[]){4}, 1, 0);
	cr_assert_eq(ms_owed_fold(&o, journal, "a", 3, &err), MS_OK);
	cr_expect_eq(ms_owed_load(env, PATH, &back, &err), MS_ENOTFOUND);
	cr_assert_eq(ms_owed_save(env, PATH, &o, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_owed_load(env, PATH, &back, &err), MS_OK, "%s", err.msg);
	cr_expect_str_eq(back.i.generation.s, GEN);
	cr_expect(back.i.base_txid == 7 && back.i.end.txid == 8 && back.i.end.checksum == 108 && back.i.end.time_us == 1008 && back.i.end.page_size == 512 &&
		  back.i.end.db_pages == 900 && back.i.next_seq == 3 && back.i.commits == 1 && back.i.since_us == 1008 && back.i.epoch == 1 && back.i.open);
	cr_expect_eq(back.npages, 4);
	for (uint32_t p = 1; p < 2000; p++)
		cr_expect_eq(ms_owed_has(&back, p), p == 2 || p == 4 || p == 9 || p == 900, "page %u", p);
	ms_owed_release(&back);
	ms_buf_init(&b, 1 << 20);
	cr_assert_eq(ms_fs_read_file(env, PATH, &b, &err), MS_OK);
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= (uint8_t)(1u << i % 8);
		cr_assert_eq(ms_fs_replace_file(env, "/flipped", b.data, b.len, 0600, &err), MS_OK);
		cr_expect_eq(ms_owed_load(env, "/flipped", &back, &err), MS_ECORRUPT, "byte %zu", i);
		b.data[i] ^= (uint8_t)(1u << i % 8);
	}
	for (size_t n = 0; n < b.len; n += 7) {
		cr_assert_eq(ms_fs_replace_file(env, "/cut", b.data, n, 0600, &err), MS_OK);
		cr_expect_eq(ms_owed_load(env, "/cut", &back, &err), MS_ECORRUPT, "cut to %zu", n);
	}
	ms_buf_release(&b);
	ms_owed_release(&o);
}
