/*
 * Makes the golden files of format version 1: `make_golden DIR`. A file that is there is left alone: golden bytes are made once and
 * decoded for ever. Not built by default (target make_golden).
 */
#include <stdio.h>
#include <stdlib.h>
#include "core/codec.h"
#include "core/hash.h"
#include "core/head.h"
#include "core/segment.h"
#include "core/segment_index.h"
#include "core/snapshot.h"
#include "golden/rule.h"

#define GEN "00000001-c0ffee00"
#define FORK "00000002-c0ffee01"
#define PS GOLDEN_PAGE_SIZE

static struct ms_err err;
#define DO(call)                                                                                                                     \
	do {                                                                                                                         \
		if (call) {                                                                                                          \
			fprintf(stderr, "%s: %s\n", #call, err.msg);                                                                 \
			exit(1);                                                                                                     \
		}                                                                                                                    \
	} while (0)

static const char *dir;
static void save(const char *name, struct ms_buf *b) {
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "wbx");
	if (!f)
		printf("%s is there\n", path);
	else if (fwrite(b->data, 1, b->len, f) != b->len || fclose(f)) {
		perror(path);
		exit(1);
	} else
		printf("%s: %zu bytes\n", path, b->len);
	ms_buf_clear(b);
}

static uint64_t checksum(unsigned txid) {
	uint64_t sum = 0;
	uint8_t page[PS];
	for (uint32_t p = 1; p <= golden_states[txid].db_pages; p++) {
		golden_page(p, (unsigned)golden_states[txid].version[p - 1], page);
		sum += ms_page_hash(p, page, PS);
	}
	return sum;
}

static struct ms_page_encoder *enc;
static uint64_t frames;
static void put_page(unsigned txid, uint32_t pgno, bool delta, struct ms_buf *rec) {
	uint8_t now[PS], before[PS];
	enum ms_record_type type;
	golden_page(pgno, (unsigned)golden_states[txid].version[pgno - 1], now);
	if (delta)
		golden_page(pgno, (unsigned)golden_states[txid - 1].version[pgno - 1], before);
	DO(ms_page_encode(enc, pgno, now, PS, delta ? before : NULL, ms_page_hash(pgno, now, PS), rec, &type, &err));
	frames++;
}
static void put_commit(unsigned txid, uint32_t flags, int64_t lost, const char *attrs, size_t attrs_len, struct ms_buf *rec) {
	struct ms_commit c = {.flags = flags, .txid = txid, .time_us = GOLDEN_TIME(txid), .page_size = PS, .db_pages = golden_states[txid].db_pages,
			      .checksum = checksum(txid), .lost_commits = lost, .attrs = (const uint8_t *)attrs, .attrs_len = attrs_len};
	DO(ms_commit_encode(&c, rec, &err));
}
static struct ms_segment_info info(unsigned first, unsigned last) {
	struct ms_segment_info i = {.generation = {GEN}, .first_txid = first, .last_txid = last, .parent_txid = first - 1, .page_size = PS,
				    .db_pages = golden_states[last].db_pages, .first_us = GOLDEN_TIME(first), .last_us = GOLDEN_TIME(last),
				    .checksum_before = checksum(first - 1), .checksum_after = checksum(last), .frames = frames, .epoch = 1};
	frames = 0;
	return i;
}
static void save_segment(const char *name, const struct ms_segment_info *i, struct ms_buf *rec, struct ms_buf *out) {
	struct ms_segment_writer *w = ms_segment_writer_new(i, out);
	DO(ms_segment_write(w, rec->data, rec->len, &err));
	DO(ms_segment_end(w, &err));
	ms_segment_writer_free(w);
	ms_buf_clear(rec);
	save(name, out);
}

/* Txids 3 and 4 with a block for each record, and the index that the library writes only for large segments. */
static void save_many_blocks(struct ms_buf *rec, struct ms_buf *out) {
	struct ms_buf header, index;
	ms_buf_init(&header, 4096), ms_buf_init(&index, 4096);
	struct ms_segment_info i = info(3, 4);
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_SEGMENT, 1, out);
	struct ms_index_builder *x = ms_index_builder_new(3, 100);
	DO(ms_segment_info_encode(&i, &header, &err));
	DO(ms_artefact_begin(w, header.data, header.len, &err));
	for (size_t at = 0; at < rec->len;) {
		struct ms_record r;
		size_t used;
		DO(ms_record_parse(rec->data + at, rec->len - at, &r, &used, &err));
		uint64_t before = ms_artefact_offset(w);
		DO(ms_artefact_block(w, MS_BLOCK_RECORDS, rec->data + at, used, true, &err)); /* compressed where that helps */
		if (r.type == MS_REC_COMMIT)
			DO(ms_index_commit(x, r.commit.txid, &err));
		else
			DO(ms_index_add(x, r.page.pgno, 0, &err));
		DO(ms_index_block_done(x, (uint32_t)(ms_artefact_offset(w) - before) - MS_BLOCK_HEADER_LEN, &err));
		at += used;
	}
	DO(ms_index_encode(x, 4, &index, &err));
	DO(ms_artefact_end(w, index.data, index.len, &err));
	ms_artefact_writer_free(w);
	ms_index_builder_free(x);
	ms_buf_release(&header), ms_buf_release(&index), ms_buf_clear(rec);
	save("3-4-blocks.seg", out);
}

static void pages_of(unsigned txid, uint32_t first, uint32_t count, uint8_t *out) {
	for (uint32_t i = 0; i < count; i++)
		golden_page(first + i, (unsigned)golden_states[txid].version[first + i - 1], out + i * PS);
}
static struct ms_manifest manifest(unsigned txid) {
	return (struct ms_manifest){.generation = {GEN}, .mode = 0640, .epoch = 1,
				    .state = {.txid = txid, .time_us = GOLDEN_TIME(txid), .page_size = PS, .db_pages = golden_states[txid].db_pages,
					      .checksum = checksum(txid)}};
}

int main(int argc, char **argv) {
	if (argc != 2)
		return 2;
	dir = argv[1];
	struct ms_buf rec, out;
	ms_buf_init(&rec, 1 << 20), ms_buf_init(&out, 1 << 20);
	enc = ms_page_encoder_new(1, false);
	uint8_t pages[8 * PS];

	struct ms_manifest m = manifest(1);
	m.inline_pages = true;
	pages_of(1, 1, 4, pages);
	DO(ms_manifest_encode(&m, pages, NULL, NULL, 1, &out, &err));
	save("1-inline.snap", &out);

	put_page(2, 2, true, &rec);
	put_commit(2, 0, 0, NULL, 0, &rec);
	struct ms_segment_info i = info(2, 2);
	save_segment("2.seg", &i, &rec, &out);

	put_page(3, 1, true, &rec), put_page(3, 5, false, &rec), put_page(3, 6, false, &rec);
	put_commit(3, 0, 0, "\xa1\x64user\x65" "alice", 12, &rec);
	put_page(4, 2, true, &rec), put_page(4, 4, false, &rec);
	put_commit(4, 0, 0, NULL, 0, &rec);
	save_many_blocks(&rec, &out);

	/* Txid 5 in two objects: the catch-up exceeds the first. */
	put_page(5, 1, false, &rec), put_page(5, 3, true, &rec);
	i = info(5, 5);
	i.kind = MS_SEG_CATCHUP, i.more = true, i.checksum_after = i.checksum_before;
	save_segment("5-part0.seg", &i, &rec, &out);
	put_page(5, 7, false, &rec), put_page(5, 8, false, &rec);
	put_commit(5, MS_COMMIT_CATCHUP, 7, NULL, 0, &rec);
	i = info(5, 5);
	i.kind = MS_SEG_CATCHUP, i.part = 1;
	save_segment("5-part1.seg", &i, &rec, &out);

	put_page(6, 1, true, &rec), put_page(6, 3, true, &rec);
	put_commit(6, 0, 0, NULL, 0, &rec);
	i = info(6, 6);
	strcpy(i.generation.s, FORK), strcpy(i.parent_generation.s, GEN);
	i.fork_txid = 5, i.epoch = 3;
	save_segment("6-fork.seg", &i, &rec, &out);

	put_page(7, 2, true, &rec);
	put_commit(7, 0, 0, NULL, 0, &rec);
	i = info(7, 7);
	strcpy(i.generation.s, FORK);
	i.epoch = 2;
	save_segment("7-patch.seg", &i, &rec, &out);

	/* Txid 5 as chunks of 4 pages; the first is of txid 4 in the older generation, so pages 1 and 3 are patched, and so are 7 and 8. */
	struct ms_chunk_ref chunks[2] = {{1, 4, 0, 0, {GEN}, false}, {5, 2, 0, 0, {FORK}, false}};
	pages_of(4, 1, 4, pages);
	DO(ms_chunk_encode(1, 4, PS, pages, 1, &out, &chunks[0].hash, &err));
	chunks[0].bytes = out.len;
	save("4-chunk1", &out);
	pages_of(4, 5, 2, pages);
	DO(ms_chunk_encode(5, 2, PS, pages, 1, &out, &chunks[1].hash, &err));
	chunks[1].bytes = out.len;
	save("4-chunk2", &out);
	m = manifest(5);
	strcpy(m.generation.s, FORK), strcpy(m.parent_generation.s, GEN);
	m.epoch = 2, m.fork_txid = 5, m.chunks = chunks, m.nchunks = 2, m.pages_per_chunk = 4, m.npatches = 4;
	static const uint32_t patched[4] = {1, 3, 7, 8};
	for (int k = 0; k < 4; k++)
		pages_of(5, patched[k], 1, pages + k * PS);
	DO(ms_manifest_encode(&m, NULL, patched, pages, 1, &out, &err));
	save("5-chunked.snap", &out);

	struct ms_lineage lineage[2] = {{{FORK}, {GEN}, 5, false}, {{GEN}, {""}, 0, false}};
	char *removals[1] = {(char *)GEN "/segments/0000000000000002.seg"};
	struct ms_head h = {.number = 2, .epoch = 2, .owner = "golden owner", .host = "h\xc3\xb6st", .generation = {FORK}, .lineage = lineage, .nlineage = 2,
			    .time_us = GOLDEN_TIME(5), .settled_txid = 5, .removals = removals, .nremovals = 1, .remove_after_us = GOLDEN_TIME(6)};
	DO(ms_head_encode(&h, &out, &err));
	save("head-2", &out);
	struct ms_fence f = {.epoch = 2, .head_number = 2, .owner = "golden owner", .host = "h\xc3\xb6st", .time_us = GOLDEN_TIME(5)};
	DO(ms_fence_encode(&f, &out, &err));
	save("fence", &out);

	/* Txids 3 to 5 as the catch-up of one replica, in two parts. */
	bool cut = false;
	for (uint32_t p = 1; p <= golden_states[5].db_pages; p++) {
		if (p <= golden_states[2].db_pages && golden_states[2].version[p - 1] == golden_states[5].version[p - 1])
			continue;
		put_page(5, p, false, &rec);
		if (frames == 2 && !cut) {
			i = info(3, 3);
			i.kind = MS_SEG_CATCHUP, i.more = cut = true, i.checksum_after = i.checksum_before, i.first_us = i.last_us = GOLDEN_TIME(2);
			i.db_pages = golden_states[2].db_pages;
			save_segment("3-5-fold-part0.seg", &i, &rec, &out);
		}
	}
	put_commit(5, MS_COMMIT_CATCHUP, 3, NULL, 0, &rec);
	i = info(3, 5);
	i.kind = MS_SEG_CATCHUP, i.part = 1, i.first_us = i.last_us = GOLDEN_TIME(5);
	save_segment("3-5-fold-part1.seg", &i, &rec, &out);

	/* Txid 5 once more: pages 1 and 3 in a patch chunk, with one that the database does not have. */
	struct ms_chunk_ref three[3] = {chunks[0], chunks[1], {.first_page = 1, .pages = 3, .generation = {FORK}, .patch = true}};
	static const uint32_t anywhere[3] = {1, 3, 9};
	for (int k = 0; k < 2; k++)
		pages_of(5, anywhere[k], 1, pages + k * PS);
	golden_page(9, 1, pages + 2 * PS);
	DO(ms_chunk_encode_patch(anywhere, 3, PS, pages, 1, &out, &three[2].hash, &err));
	three[2].bytes = out.len;
	save("5-patch-chunk", &out);
	m.chunks = three, m.nchunks = 3, m.npatches = 2;
	for (int k = 0; k < 2; k++)
		pages_of(5, patched[2 + k], 1, pages + k * PS);
	DO(ms_manifest_encode(&m, NULL, patched + 2, pages, 1, &out, &err));
	save("5-patched.snap", &out);

	ms_page_encoder_free(enc);
	ms_buf_release(&rec), ms_buf_release(&out);
	return 0;
}
