#include <criterion/criterion.h>
#include <string.h>

#include "base/env_sim.h"
#include "base/fs.h"
#include "core/cursor.h"

static struct ms_env *env;
static void setup(void) { env = ms_env_sim_new(1); }
static void teardown(void) { ms_env_sim_free(env); }
TestSuite(cursor, .init = setup, .fini = teardown);

static struct ms_lineage lineage[3] = {{{"00000003-aaaaaaaa"}, {"00000002-bbbbbbbb"}, 70, true}, {{"00000002-bbbbbbbb"}, {"00000001-cccccccc"}, 30, false}, {{"00000001-cccccccc"}, {""}, 0, false}};

static struct ms_cursor sample(void) {
	struct ms_cursor c = {.seq = 123456789012,
			      .generation = {"00000003-aaaaaaaa"},
			      .state = {.txid = 77, .time_us = 1767225600123456, .checksum = UINT64_MAX - 5, .page_size = 65536, .db_pages = UINT32_MAX},
			      .head_number = 9,
			      .epoch = 3,
			      .segment_first = 75,
			      .base = MS_BASE_WANTED,
			      .snapshot_txid = 60,
			      .snapshot_us = 1767225600000001,
			      .bytes_since_snapshot = 4096,
			      .settled_seq = 123456789000,
			      .settled_txid = 76,
			      .settled_checksum = UINT64_MAX - 7};
	cr_assert_eq(ms_cursor_set_lineage(&c, lineage, 3, NULL), MS_OK);
	return c;
}

static void expect_equal(const struct ms_cursor *a, const struct ms_cursor *b) {
	cr_expect_eq(a->seq, b->seq);
	cr_expect_str_eq(a->generation.s, b->generation.s);
	cr_expect(a->state.txid == b->state.txid && a->state.time_us == b->state.time_us && a->state.checksum == b->state.checksum &&
		  a->state.page_size == b->state.page_size && a->state.db_pages == b->state.db_pages);
	cr_expect(a->head_number == b->head_number && a->epoch == b->epoch && a->segment_first == b->segment_first && a->base == b->base);
	cr_expect(a->snapshot_txid == b->snapshot_txid && a->snapshot_us == b->snapshot_us && a->bytes_since_snapshot == b->bytes_since_snapshot);
	cr_expect(a->settled_seq == b->settled_seq && a->settled_txid == b->settled_txid && a->settled_checksum == b->settled_checksum);
	cr_assert_eq(a->nlineage, b->nlineage);
	for (uint32_t i = 0; i < a->nlineage; i++)
		cr_expect(strcmp(a->lineage[i].generation.s, b->lineage[i].generation.s) == 0 && strcmp(a->lineage[i].parent.s, b->lineage[i].parent.s) == 0 &&
			  a->lineage[i].fork_txid == b->lineage[i].fork_txid && a->lineage[i].seeded == (i == 0));
}

Test(cursor, round_trip) {
	struct ms_cursor c = sample(), got = {0}, empty = {0}, copy = {0};
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_cursor_save(env, "/c", &c, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_cursor_load(env, "/c", &got, &err), MS_OK, "%s", err.msg);
	expect_equal(&c, &got);
	cr_assert_eq(ms_cursor_copy(&copy, &got, &err), MS_OK);
	cr_expect_neq(copy.lineage, got.lineage);
	expect_equal(&copy, &got);
	ms_cursor_release(&got), ms_cursor_release(&copy);
	cr_assert_eq(ms_cursor_save(env, "/c", &empty, &err), MS_OK);
	cr_assert_eq(ms_cursor_load(env, "/c", &got, &err), MS_OK, "%s", err.msg);
	expect_equal(&empty, &got);
	ms_cursor_release(&got), ms_cursor_release(&c);
}

Test(cursor, every_flipped_bit_and_every_cut_is_seen) {
	struct ms_cursor c = sample(), got = {.seq = 42};
	struct ms_buf b, file;
	struct ms_err err = MS_ERR_INIT;
	ms_buf_init(&b, 1u << 20), ms_buf_init(&file, 1u << 20);
	cr_expect_eq(ms_cursor_load(env, "/none", &got, &err), MS_ENOTFOUND);
	cr_assert_eq(ms_cursor_save(env, "/c", &c, &err), MS_OK);
	cr_assert_eq(ms_fs_read_file(env, "/c", &file, &err), MS_OK);
	for (size_t bit = 0; bit < file.len * 8; bit++) {
		file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_eq(ms_fs_replace_file(env, "/d", file.data, file.len, 0600, NULL), MS_OK);
		file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_eq(ms_cursor_load(env, "/d", &got, &err), MS_ECORRUPT, "bit %zu", bit);
	}
	for (size_t n = 0; n < file.len; n++) {
		cr_assert_eq(ms_fs_replace_file(env, "/d", file.data, n, 0600, NULL), MS_OK);
		cr_assert_eq(ms_cursor_load(env, "/d", &got, &err), MS_ECORRUPT, "%zu bytes", n);
	}
	cr_expect_eq(got.seq, 42, "the output was touched");
	ms_buf_release(&b), ms_buf_release(&file), ms_cursor_release(&c);
}

static int crash_in;
static int hook(void *arg, const struct ms_sim_step *s) {
	(void)arg, (void)s;
	if (crash_in && --crash_in == 0)
		ms_env_sim_crash(env);
	return 0;
}

Test(cursor, a_crash_leaves_the_old_or_the_new_one) {
	struct ms_err err = MS_ERR_INIT;
	for (int n = 1; n < 15; n++) {
		struct ms_cursor a = sample(), b = sample(), got = {0};
		b.seq = 999;
		cr_assert_eq(ms_cursor_save(env, "/c", &a, &err), MS_OK, "%s", err.msg);
		ms_env_sim_set_hook(env, hook, NULL);
		crash_in = n;
		enum ms_code rc = ms_cursor_save(env, "/c", &b, &err);
		crash_in = 0;
		if (!ms_env_sim_is_down(env))
			ms_env_sim_crash(env);
		ms_env_sim_restart(env);
		cr_assert_eq(ms_cursor_load(env, "/c", &got, &err), MS_OK, "%s", err.msg);
		cr_expect(got.seq == 999 || (rc != MS_OK && got.seq == a.seq));
		ms_cursor_release(&a), ms_cursor_release(&b), ms_cursor_release(&got);
	}
}

Test(cursor, joined_lineage) {
	struct ms_cursor c = {0};
	cr_assert_eq(ms_cursor_set_lineage(&c, lineage + 1, 2, NULL), MS_OK);
	/* Only the newest fork is named: the rest comes from the older lineage, which is the cursor's own here. */
	cr_assert_eq(ms_cursor_join_lineage(&c, lineage, 1, c.lineage, c.nlineage, NULL), MS_OK);
	cr_assert_eq(c.nlineage, 3);
	cr_expect_str_eq(c.lineage[2].generation.s, "00000001-cccccccc");
	/* A root joins nothing, nor does one whose parent is unknown there. */
	struct ms_lineage root = {{"00000009-dddddddd"}, {""}, 0, false}, foreign = {{"00000009-dddddddd"}, {"00000008-eeeeeeee"}, 5, false};
	cr_assert_eq(ms_cursor_join_lineage(&c, &foreign, 1, lineage, 3, NULL), MS_OK);
	cr_expect_eq(c.nlineage, 1);
	cr_assert_eq(ms_cursor_join_lineage(&c, &root, 1, lineage, 3, NULL), MS_OK);
	cr_expect_eq(c.nlineage, 1);
	/* In the middle of the older one. */
	struct ms_lineage side = {{"00000009-dddddddd"}, {"00000002-bbbbbbbb"}, 50, false};
	cr_assert_eq(ms_cursor_join_lineage(&c, &side, 1, lineage, 3, NULL), MS_OK);
	cr_expect_eq(c.nlineage, 3);
	cr_expect_str_eq(c.lineage[1].generation.s, "00000002-bbbbbbbb");
	ms_cursor_release(&c);
}
