/* Runs and bodies out of a journal: the objects that come out are read back and compared with the model by the rig's checker's own means. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "core/segment_upload.h"
#include "replicas/mem.h"
#include "replicas/url.h"
#include "support/worker_rig.h"

static struct ms_env *env;
static struct wrig a;

static void setup(void) {
	env = ms_env_sim_new(11);
	wrig_init(&a, env, "/a", "owner", 5);
	wrig_boot(&a, NULL, 0);
	wrig_root(&a);
}
static void teardown(void) {
	wrig_free(&a);
	ms_env_sim_free(env);
}
TestSuite(segment_upload, .init = setup, .fini = teardown);

static struct ms_run_start from(unsigned state) {
	const struct wrig_state *s = &a.states[state];
	return (struct ms_run_start){.db = "db", .seq = s->seq + 1, .generation = s->generation, .state = s->db, .epoch = 3, .segment_bytes = 1u << 20, .object_max = 1u << 30};
}
static struct ms_run scan(const struct ms_run_start *s) {
	struct ms_run run;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_run_scan(a.journal, s, &run, &err), MS_OK, "%s", err.msg);
	return run;
}

/* What a segment holds, read by core's reader. */
struct content {
	struct ms_segment_info info;
	uint64_t pages, commits, last_txid, last_checksum;
};
static enum ms_code got_info(void *arg, const struct ms_segment_info *i, struct ms_err *err) {
	(void)err;
	((struct content *)arg)->info = *i;
	return MS_OK;
}
static enum ms_code got_record(void *arg, const struct ms_record *r, struct ms_err *err) {
	struct content *c = arg;
	(void)err;
	if (r->type != MS_REC_COMMIT) {
		c->pages++;
		return MS_OK;
	}
	c->commits++;
	c->last_txid = r->commit.txid;
	c->last_checksum = r->commit.checksum;
	return MS_OK;
}
static void drain(struct ms_body *b, size_t step, struct ms_buf *out) {
	uint8_t piece[70000];
	size_t n = 1;
	struct ms_err err = MS_ERR_INIT;
	while (n) {
		cr_assert_eq(b->read(b, piece, step, &n, &err), MS_OK, "%s", err.msg);
		cr_assert_eq(ms_buf_append(out, piece, n, &err), MS_OK);
	}
}
static struct content read_back(const struct ms_buf *b) {
	static const struct ms_segment_callbacks cb = {got_info, got_record};
	struct content c = {0};
	struct ms_err err = MS_ERR_INIT;
	struct ms_segment_reader *r = ms_segment_reader_new(&cb, &c);
	cr_assert(ms_segment_push(r, b->data, b->len, &err) == MS_OK && ms_segment_finish(r, &err) == MS_OK, "%s", err.msg);
	ms_segment_reader_free(r);
	return c;
}
static struct ms_segment_body *body_of(const struct ms_run *run) {
	struct ms_segment_body *b = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_segment_body_new(a.journal, "db", run, 0, &b, &err), MS_OK, "%s", err.msg);
	return b;
}

Test(segment_upload, nothing_yet) {
	struct ms_run_start s = from(0);
	cr_expect_eq(scan(&s).what, MS_RUN_NOTHING);
	wrig_commit(&a, 2, false); /* not durable: not there */
	cr_expect_eq(scan(&s).what, MS_RUN_NOTHING);
	wrig_sync(&a);
	cr_expect_eq(scan(&s).what, MS_RUN_SEGMENT);
}

Test(segment_upload, a_run_and_its_object) {
	for (int i = 0; i < 10; i++)
		wrig_commit_in(&a, 3, 1 + (unsigned)i % 3, 0, true);
	struct ms_run_start s = from(0);
	struct ms_run run = scan(&s);
	const struct wrig_state *last = wrig_now(&a);
	cr_expect_eq(run.what, MS_RUN_SEGMENT);
	cr_expect(run.info.first_txid == 2 && run.info.last_txid == 11 && run.info.parent_txid == 1);
	cr_expect_eq(run.info.checksum_before, a.states[0].db.checksum);
	cr_expect_eq(run.info.checksum_after, last->db.checksum);
	cr_expect(run.info.first_us == a.states[1].db.time_us && run.info.last_us == last->db.time_us && run.info.db_pages == last->db.db_pages);
	cr_expect_eq(run.next_seq, last->seq + 1);
	cr_expect_eq(run.info.epoch, 3);
	cr_expect_not(run.full);
	struct ms_segment_body *b = body_of(&run);
	struct ms_buf whole, again;
	ms_buf_init(&whole, 1u << 20), ms_buf_init(&again, 1u << 20);
	drain(ms_segment_body(b), 7, &whole); /* small pieces */
	cr_expect_eq(ms_segment_body(b)->size, (int64_t)whole.len, "a small run's length is known");
	cr_expect_eq(ms_segment_body_sent(b), whole.len);
	struct content c = read_back(&whole);
	cr_expect(c.commits == 10 && c.last_txid == 11 && c.last_checksum == last->db.checksum && c.pages == run.info.frames);
	/* Rewound, it is the same. */
	cr_assert_eq(ms_segment_body(b)->rewind(ms_segment_body(b), NULL), MS_OK);
	drain(ms_segment_body(b), 70000, &again);
	cr_expect(again.len == whole.len && memcmp(again.data, whole.data, whole.len) == 0);
	ms_segment_body_free(b);
	ms_buf_release(&whole), ms_buf_release(&again);
}

Test(segment_upload, large_runs_stream_with_bounded_memory) {
	for (int i = 0; i < 3000; i++)
		wrig_commit_in(&a, 20, 1, 0, i == 2999);
	struct ms_run_start s = from(0);
	s.segment_bytes = UINT64_MAX;
	struct ms_run run = scan(&s);
	cr_assert_gt(run.bytes, 1u << 20);
	cr_expect_eq(run.info.last_txid, 3001);
	struct ms_segment_body *b = body_of(&run);
	cr_expect_eq(ms_segment_body(b)->size, -1);
	struct ms_buf one, two;
	ms_buf_init(&one, 64u << 20), ms_buf_init(&two, 64u << 20);
	/* Rewound in the middle. */
	uint8_t piece[50000];
	size_t n;
	for (int i = 0; i < 10; i++)
		cr_assert_eq(ms_segment_body(b)->read(ms_segment_body(b), piece, sizeof piece, &n, NULL), MS_OK);
	cr_assert_eq(ms_segment_body(b)->rewind(ms_segment_body(b), NULL), MS_OK);
	drain(ms_segment_body(b), 65536, &one);
	cr_expect_eq(read_back(&one).commits, 3000);
	cr_assert_eq(ms_segment_body(b)->rewind(ms_segment_body(b), NULL), MS_OK);
	drain(ms_segment_body(b), 4096, &two);
	cr_expect(one.len == two.len && memcmp(one.data, two.data, one.len) == 0);
	ms_segment_body_free(b);
	ms_buf_release(&one), ms_buf_release(&two);
}

Test(segment_upload, bounds_of_a_run) {
	for (int i = 0; i < 20; i++)
		wrig_commit(&a, 3, true);
	struct ms_run_start s = from(0);
	s.segment_bytes = 1500;
	unsigned at = 0, runs = 0;
	while (at < 20) {
		struct ms_run run = scan(&s);
		cr_assert_eq(run.what, MS_RUN_SEGMENT);
		cr_expect(run.bytes <= 1500 || run.info.first_txid == run.info.last_txid);
		cr_expect_eq(run.info.first_txid, a.states[at].db.txid + 1);
		at = (unsigned)(run.info.last_txid - 1);
		cr_expect_eq(run.full, at < 20);
		cr_expect(run.after.txid == a.states[at].db.txid && run.after.checksum == a.states[at].db.checksum && run.next_seq == a.states[at].seq + 1);
		s.state = run.after;
		s.seq = run.next_seq;
		runs++;
	}
	cr_expect_gt(runs, 3);
}

Test(segment_upload, kinds_and_generations_end_a_run) {
	wrig_commit(&a, 2, true);
	wrig_commit_in(&a, 2, 1, MS_COMMIT_CATCHUP, true);
	wrig_commit(&a, 2, true);
	wrig_fork(&a);
	wrig_commit(&a, 2, true);
	struct ms_run_start s = from(0);
	struct ms_run run = scan(&s);
	cr_expect(run.info.last_txid == 2 && run.full && run.info.kind == MS_SEG_COMMIT);
	s = from(1);
	run = scan(&s);
	cr_expect(run.info.first_txid == 3 && run.info.last_txid == 3 && run.full && run.info.kind == MS_SEG_CATCHUP);
	s = from(2);
	run = scan(&s);
	cr_expect(run.info.last_txid == 4 && run.full);
	s = from(3);
	run = scan(&s);
	cr_expect_eq(run.what, MS_RUN_GENERATION);
	cr_expect_str_eq(run.start.generation.s, a.states[4].generation.s);
	cr_expect_eq(run.next_seq, a.states[4].seq + 1);
	ms_run_release(&run);
	/* In the fork: the first run names the parent. */
	s = from(4);
	s.fork = a.lineage[0];
	run = scan(&s);
	cr_expect_eq(run.what, MS_RUN_SEGMENT);
	cr_expect_str_eq(run.info.parent_generation.s, a.states[3].generation.s);
	cr_expect_eq(run.info.fork_txid, 4);
	/* The entry that starts the generation the cursor is in already is passed over. */
	s.seq = a.states[4].seq;
	run = scan(&s);
	cr_expect(run.what == MS_RUN_SEGMENT && run.info.first_txid == 5);
}

Test(segment_upload, entries_before_the_cursor_are_skipped_and_gaps_are_not) {
	for (int i = 0; i < 5; i++)
		wrig_commit(&a, 2, true);
	struct ms_run_start s = from(3);
	s.seq = a.states[1].seq; /* a snapshot ran ahead of its journal position */
	struct ms_run run = scan(&s);
	cr_expect(run.info.first_txid == 5 && run.from_seq == a.states[4].seq);
	s = from(1);
	s.seq = a.states[4].seq;
	struct ms_err err = MS_ERR_INIT;
	cr_expect_eq(ms_run_scan(a.journal, &s, &run, &err), MS_EGAP);
	cr_expect(strstr(err.msg, "txid 2"), "%s", err.msg);
}

Test(segment_upload, parts_of_a_large_transaction) {
	wrig_commit(&a, 2, true);
	wrig_commit_in(&a, 24, 6, 0, true);
	wrig_commit(&a, 2, true);
	struct ms_run_start s = from(0);
	s.segment_bytes = 1;
	const uint64_t most = scan(&s).bytes; /* the small transaction is not cut */
	s = from(0);
	s.object_max = most;
	struct ms_run run = scan(&s);
	cr_expect(run.info.last_txid == 2 && run.full, "the large one is not mixed with others");
	s = from(1);
	s.object_max = most;
	uint64_t frames = 0;
	unsigned parts = 0;
	struct ms_replica_spec spec = {0};
	struct ms_replica *r = NULL;
	cr_assert_eq(ms_url_parse("mem://parts", &spec, NULL), MS_OK);
	cr_assert_eq(ms_replica_open(env, &spec, &r, NULL), MS_OK);
	for (bool more = true; more; parts++) {
		run = scan(&s);
		cr_assert_eq(run.what, MS_RUN_SEGMENT);
		cr_expect(run.info.first_txid == 3 && run.info.last_txid == 3 && run.info.part == parts);
		cr_expect_eq(run.info.checksum_before, a.states[1].db.checksum);
		cr_expect_eq(run.info.checksum_after, run.info.more ? a.states[1].db.checksum : a.states[2].db.checksum);
		struct ms_segment_body *b = body_of(&run);
		struct ms_buf whole;
		ms_buf_init(&whole, 1u << 20);
		drain(ms_segment_body(b), 999, &whole);
		struct content c = read_back(&whole);
		cr_expect_eq(c.commits, !run.info.more);
		frames += c.pages;
		ms_segment_body_free(b);
		/* The same part on a replica is recognised, another one is not. */
		char name[32];
		bool same = false;
		uint64_t next = 0;
		snprintf(name, sizeof name, "part%u", parts);
		cr_assert_eq(ms_replica_put_mem(r, name, whole.data, whole.len, NULL), MS_OK);
		cr_assert_eq(ms_run_same_part(a.journal, &s, r, name, &same, &next, NULL), MS_OK);
		cr_expect(same && next == run.next_seq);
		if (parts) {
			cr_assert_eq(ms_run_same_part(a.journal, &s, r, "part0", &same, &next, NULL), MS_OK);
			cr_expect_not(same);
		}
		ms_buf_release(&whole);
		more = run.info.more;
		s.part = parts + 1;
		s.seq = run.next_seq;
	}
	cr_expect_gt(parts, 1);
	cr_expect_eq(run.next_seq, a.states[2].seq + 1);
	cr_expect_eq(run.after.checksum, a.states[2].db.checksum);
	s = from(1);
	run = scan(&s);
	cr_expect_eq(run.info.last_txid, 4, "below the bound it is one of many");
	cr_expect_gt(frames, 2);
	ms_replica_close(r);
	ms_replica_spec_release(&spec);
	ms_mem_drop("parts");
}

Test(segment_upload, same_chain_or_not) {
	for (int i = 0; i < 6; i++)
		wrig_commit(&a, 2, true);
	struct ms_run_start s = from(1);
	struct ms_dbstate after;
	uint64_t seq;
	bool same;
	/* An object that ends earlier than the run of now would: from an earlier attempt. */
	struct ms_segment_info i = {.generation = a.states[0].generation, .first_txid = 3, .last_txid = 5, .parent_txid = 2, .page_size = WRIG_PAGE,
				    .db_pages = a.states[4].db.db_pages, .checksum_before = a.states[1].db.checksum, .checksum_after = a.states[4].db.checksum};
	cr_assert_eq(ms_run_same(a.journal, &s, &i, &same, &after, &seq, NULL), MS_OK);
	cr_expect(same && after.txid == 5 && after.checksum == a.states[4].db.checksum && seq == a.states[4].seq + 1);
	struct ms_segment_info x = i;
	x.checksum_after++;
	cr_assert_eq(ms_run_same(a.journal, &s, &x, &same, &after, &seq, NULL), MS_OK);
	cr_expect_not(same);
	x = i, x.checksum_before++;
	cr_assert_eq(ms_run_same(a.journal, &s, &x, &same, &after, &seq, NULL), MS_OK);
	cr_expect_not(same);
	x = i, x.parent_txid = 1;
	cr_assert_eq(ms_run_same(a.journal, &s, &x, &same, &after, &seq, NULL), MS_OK);
	cr_expect_not(same);
	x = i, x.last_txid = 99; /* further than the journal */
	cr_assert_eq(ms_run_same(a.journal, &s, &x, &same, &after, &seq, NULL), MS_OK);
	cr_expect_not(same);
	x = i, strcpy(x.generation.s, "00000001-00000000");
	cr_assert_eq(ms_run_same(a.journal, &s, &x, &same, &after, &seq, NULL), MS_OK);
	cr_expect_not(same);
	x = i, x.db_pages++;
	cr_assert_eq(ms_run_same(a.journal, &s, &x, &same, &after, &seq, NULL), MS_OK);
	cr_expect_not(same);
}
