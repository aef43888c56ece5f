/* Files of every released format version decode for ever: what they hold is stated in golden/rule.h and here, not computed by the library. */
#include <stdio.h>
#include "core/head.h"
#include "core/segment.h"
#include "core/snapshot.h"
#include "golden/rule.h"
#include "unit/bytes.h"

#define GEN "00000001-c0ffee00"
#define FORK "00000002-c0ffee01"
#define PS GOLDEN_PAGE_SIZE

struct db {
	uint8_t pages[9][PS];
	uint8_t before[8][PS]; /* deltas refer to the version before the transaction */
	unsigned commits, pages_seen;
	struct ms_segment_info info;
	struct ms_commit last;
	uint8_t attrs[64];
	struct ms_page_decoder *dec;
};

static void load(const char *name, struct ms_buf *b) {
	char path[4096];
	ms_buf_clear(b);
	snprintf(path, sizeof path, "%s/golden/v1/%s", MS_TEST_DIR, name);
	FILE *f = fopen(path, "rb");
	cr_assert(f, "%s", path);
	OK(ms_buf_reserve(b, 1 << 16, &err));
	b->len = fread(b->data, 1, 1 << 16, f);
	cr_assert(b->len > 0 && feof(f));
	fclose(f);
}

static void same_as_rule(const struct db *db, unsigned txid) {
	for (uint32_t p = 1; p <= golden_states[txid].db_pages; p++) {
		uint8_t want[PS];
		golden_page(p, (unsigned)golden_states[txid].version[p - 1], want);
		cr_assert_arr_eq(db->pages[p - 1], want, PS, "txid %u page %u", txid, p);
	}
}

static enum ms_code on_pages(void *arg, uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *p, struct ms_err *err) {
	(void)err;
	struct db *db = arg;
	cr_assert(page_size == PS && first >= 1 && first + count <= 10);
	memcpy(db->pages[first - 1], p, (size_t)count * PS);
	db->pages_seen += count;
	return MS_OK;
}
static enum ms_code on_info(void *arg, const struct ms_segment_info *i, struct ms_err *err) {
	(void)err;
	((struct db *)arg)->info = *i;
	return MS_OK;
}
static enum ms_code on_record(void *arg, const struct ms_record *r, struct ms_err *err) {
	struct db *db = arg;
	if (r->type != MS_REC_COMMIT) {
		uint8_t *at = db->pages[r->page.pgno - 1];
		memcpy(db->before[r->page.pgno - 1], at, PS);
		return ms_page_decode(db->dec, r->type, &r->page, PS, db->before[r->page.pgno - 1], at, err);
	}
	db->commits++;
	db->last = r->commit;
	cr_assert(r->commit.attrs_len <= sizeof db->attrs);
	if (r->commit.attrs_len)
		memcpy(db->attrs, r->commit.attrs, r->commit.attrs_len);
	cr_assert_eq(r->commit.db_pages, golden_states[r->commit.txid].db_pages);
	cr_assert_eq(r->commit.time_us, GOLDEN_TIME(r->commit.txid));
	same_as_rule(db, (unsigned)r->commit.txid);
	return MS_OK;
}

static void apply(struct db *db, const char *name, struct ms_buf *b) {
	static const struct ms_segment_callbacks cb = {on_info, on_record};
	load(name, b);
	struct ms_segment_reader *r = ms_segment_reader_new(&cb, db);
	OK(ms_segment_push(r, b->data, b->len, &err));
	OK(ms_segment_finish(r, &err));
	ms_segment_reader_free(r);
}

static void snapshot(struct db *db, const char *name, struct ms_manifest *m, struct ms_buf *b) {
	load(name, b);
	struct ms_page_sink sink = {on_pages, db};
	db->pages_seen = 0;
	struct ms_manifest_reader *r = ms_manifest_reader_new(m, &sink);
	OK(ms_manifest_push(r, b->data, b->len, &err));
	OK(ms_manifest_finish(r, &err));
	ms_manifest_reader_free(r);
}

Test(golden, version_1_history) {
	struct db *db = calloc(1, sizeof *db);
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	db->dec = ms_page_decoder_new();
	struct ms_manifest m;
	snapshot(db, "1-inline.snap", &m, &b);
	cr_assert(m.inline_pages && m.state.txid == 1 && m.state.page_size == PS && m.state.db_pages == 4 && m.mode == 0640 && m.epoch == 1 &&
		  m.state.time_us == GOLDEN_TIME(1) && db->pages_seen == 4);
	cr_assert_str_eq(m.generation.s, GEN);
	same_as_rule(db, 1);
	uint64_t first_checksum = m.state.checksum;
	ms_manifest_release(&m);

	apply(db, "2.seg", &b);
	cr_assert(db->commits == 1 && db->info.first_txid == 2 && db->info.last_txid == 2 && db->info.parent_txid == 1 && db->info.frames == 1 &&
		  db->info.kind == MS_SEG_COMMIT && db->info.checksum_before == first_checksum && db->info.epoch == 1);
	apply(db, "3-4-blocks.seg", &b);
	cr_assert(db->commits == 3 && db->info.first_txid == 3 && db->info.last_txid == 4 && db->info.frames == 5);
	cr_assert_arr_eq(db->attrs, "\xa1\x64user\x65" "alice", 12);
	apply(db, "5-part0.seg", &b);
	cr_assert(db->commits == 3 && db->info.part == 0 && db->info.more && db->info.kind == MS_SEG_CATCHUP && db->info.frames == 2);
	apply(db, "5-part1.seg", &b);
	cr_assert(db->commits == 4 && db->info.part == 1 && !db->info.more && db->last.flags == MS_COMMIT_CATCHUP && db->last.lost_commits == 7);
	apply(db, "6-fork.seg", &b);
	cr_assert(db->commits == 5 && db->info.fork_txid == 5 && db->info.epoch == 3);
	cr_assert_str_eq(db->info.generation.s, FORK);
	cr_assert_str_eq(db->info.parent_generation.s, GEN);
	apply(db, "7-patch.seg", &b);
	cr_assert(db->commits == 6 && db->info.first_txid == 7 && db->info.epoch == 2 && !db->info.parent_generation.s[0]);
	ms_page_decoder_free(db->dec);
	free(db);
	ms_buf_release(&b);
}

Test(golden, version_1_chunked_snapshot) {
	struct db *db = calloc(1, sizeof *db);
	struct db *chunked = calloc(1, sizeof *db);
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	struct ms_manifest m;
	snapshot(db, "5-chunked.snap", &m, &b);
	cr_assert(!m.inline_pages && m.nchunks == 2 && m.npatches == 4 && db->pages_seen == 4 && m.pages_per_chunk == 4 && m.fork_txid == 5 &&
		  m.epoch == 2);
	cr_assert_str_eq(m.generation.s, FORK);
	cr_assert_str_eq(m.parent_generation.s, GEN);
	cr_assert_str_eq(m.chunks[0].generation.s, GEN);
	cr_assert_str_eq(m.chunks[1].generation.s, FORK);
	for (int i = 0; i < 2; i++) {
		load(i ? "4-chunk2" : "4-chunk1", &b);
		struct ms_page_sink sink = {on_pages, chunked};
		struct ms_chunk_reader *r = ms_chunk_reader_new(&m.chunks[i], PS, &sink);
		OK(ms_chunk_push(r, b.data, b.len, &err));
		OK(ms_chunk_finish(r, &err));
		ms_chunk_reader_free(r);
	}
	cr_assert_eq(chunked->pages_seen, 6);
	static const int patched[] = {0, 2, 6, 7};
	for (int i = 0; i < 4; i++)
		memcpy(chunked->pages[patched[i]], db->pages[patched[i]], PS);
	same_as_rule(chunked, 5);
	ms_manifest_release(&m);
	free(db), free(chunked);
	ms_buf_release(&b);
}

Test(golden, version_1_catch_up_of_one_replica) {
	struct db *db = calloc(1, sizeof *db);
	struct ms_buf b;
	struct ms_manifest m;
	ms_buf_init(&b, 1 << 20);
	db->dec = ms_page_decoder_new();
	snapshot(db, "1-inline.snap", &m, &b);
	ms_manifest_release(&m);
	apply(db, "2.seg", &b);
	apply(db, "3-5-fold-part0.seg", &b);
	cr_assert(db->commits == 1 && db->info.more && db->info.kind == MS_SEG_CATCHUP && db->info.first_txid == 3 && db->info.last_txid == 3 &&
		  db->info.parent_txid == 2 && db->info.frames == 2);
	apply(db, "3-5-fold-part1.seg", &b); /* the state is compared at its commit */
	cr_assert(db->commits == 2 && !db->info.more && db->info.first_txid == 3 && db->info.last_txid == 5 && db->info.parent_txid == 2 && db->info.part == 1);
	cr_assert(db->last.txid == 5 && db->last.flags == MS_COMMIT_CATCHUP && db->last.lost_commits == 3);
	ms_page_decoder_free(db->dec);
	free(db);
	ms_buf_release(&b);
}

Test(golden, version_1_patched_snapshot) {
	struct db *db = calloc(1, sizeof *db);
	struct db *late = calloc(1, sizeof *late);
	struct ms_buf b;
	struct ms_manifest m;
	static const char *const names[] = {"4-chunk1", "4-chunk2", "5-patch-chunk"};
	ms_buf_init(&b, 1 << 20);
	snapshot(late, "5-patched.snap", &m, &b);
	cr_assert(m.nchunks == 3 && m.npatches == 2 && late->pages_seen == 2 && !m.chunks[1].patch && m.chunks[2].patch && m.chunks[2].first_page == 1 &&
		  m.chunks[2].pages == 3);
	for (int i = 0; i < 3; i++) {
		load(names[i], &b);
		struct ms_page_sink sink = {on_pages, db};
		struct ms_chunk_reader *r = ms_chunk_reader_new(&m.chunks[i], PS, &sink);
		OK(ms_chunk_push(r, b.data, b.len, &err));
		OK(ms_chunk_finish(r, &err));
		ms_chunk_reader_free(r);
	}
	cr_assert_eq(db->pages_seen, 9);
	for (int i = 6; i < 8; i++)
		memcpy(db->pages[i], late->pages[i], PS);
	same_as_rule(db, 5);
	ms_manifest_release(&m);
	free(db), free(late);
	ms_buf_release(&b);
}

Test(golden, version_1_head_and_fence) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	struct ms_head h;
	struct ms_fence f;
	load("head-2", &b);
	OK(ms_head_decode(b.data, b.len, &h, &err));
	cr_assert(h.number == 2 && h.epoch == 2 && h.time_us == GOLDEN_TIME(5) && h.settled_txid == 5 && h.nlineage == 2 && h.nremovals == 1 &&
		  h.remove_after_us == GOLDEN_TIME(6));
	cr_assert_str_eq(h.owner, "golden owner");
	cr_assert_str_eq(h.host, "h\xc3\xb6st");
	cr_assert_str_eq(h.lineage[0].parent.s, GEN);
	cr_assert_eq(h.lineage[0].fork_txid, 5);
	cr_assert_str_eq(h.lineage[1].parent.s, "");
	cr_assert_str_eq(h.removals[0], GEN "/segments/0000000000000002.seg");
	ms_head_release(&h);
	load("fence", &b);
	OK(ms_fence_decode(b.data, b.len, &f, &err));
	cr_assert(f.epoch == 2 && f.head_number == 2 && f.time_us == GOLDEN_TIME(5));
	cr_assert_str_eq(f.owner, "golden owner");
	ms_buf_release(&b);
}
