#include <stdio.h>
#include "core/hash.h"
#include "core/segment.h"
#include "core/segment_index.h"
#include "unit/bytes.h"

#define PS 512u
#define GEN "00000003-0badcafe"

static struct ms_segment_info one_commit_info(void) {
	return (struct ms_segment_info){
		.generation = {GEN}, .first_txid = 5, .last_txid = 5, .parent_txid = 4, .page_size = PS, .db_pages = 3, .first_us = 1700000000000000,
		.last_us = 1700000000000000, .checksum_before = 0x1111111111111111, .checksum_after = 0x2222222222222222, .frames = 1, .epoch = 3,
	};
}

static void put_page(struct ms_buf *b, uint32_t pgno, uint64_t seed) {
	uint8_t page[PS];
	fill_text(page, PS, seed);
	struct ms_page_encoder *e = ms_page_encoder_new(1, false);
	enum ms_record_type type;
	OK(ms_page_encode(e, pgno, page, PS, NULL, ms_page_hash(pgno, page, PS), b, &type, &err));
	ms_page_encoder_free(e);
}

static void put_commit(struct ms_buf *b, uint64_t txid, int64_t us, uint64_t checksum) {
	struct ms_commit c = {.txid = txid, .time_us = us, .page_size = PS, .db_pages = 3, .checksum = checksum};
	OK(ms_commit_encode(&c, b, &err));
}

static enum ms_code make(const struct ms_segment_info *i, const struct ms_buf *records, struct ms_buf *out, struct ms_err *err) {
	struct ms_segment_writer *w = ms_segment_writer_new(i, out);
	enum ms_code rc = ms_segment_write(w, records->data, records->len, err);
	if (!rc)
		rc = ms_segment_end(w, err);
	ms_segment_writer_free(w);
	return rc;
}

struct seen {
	struct ms_segment_info info;
	unsigned infos, pages, commits;
	struct ms_buf data;
};
static enum ms_code on_info(void *arg, const struct ms_segment_info *i, struct ms_err *err) {
	(void)err;
	struct seen *s = arg;
	s->info = *i, s->infos++;
	return MS_OK;
}
static enum ms_code on_record(void *arg, const struct ms_record *r, struct ms_err *err) {
	struct seen *s = arg;
	if (r->type == MS_REC_COMMIT) {
		s->commits++;
		return ms_buf_u64(&s->data, r->commit.txid, err);
	}
	s->pages++;
	return ms_buf_append(&s->data, r->page.data, r->page.len, err);
}

static enum ms_code read_pieces(const uint8_t *p, size_t n, size_t piece, struct seen *s, struct ms_err *err) {
	static const struct ms_segment_callbacks cb = {on_info, on_record};
	memset(s, 0, sizeof *s);
	ms_buf_init(&s->data, 64 << 20);
	struct ms_segment_reader *r = ms_segment_reader_new(&cb, s);
	enum ms_code rc = MS_OK;
	for (size_t at = 0; at < n && !rc; at += piece)
		rc = ms_segment_push(r, p + at, n - at < piece ? n - at : piece, err);
	if (!rc)
		rc = ms_segment_finish(r, err);
	ms_segment_reader_free(r);
	return rc;
}
static enum ms_code decode(const uint8_t *p, size_t n, struct ms_err *err) {
	struct seen s;
	enum ms_code rc = read_pieces(p, n, n + 1, &s, err);
	ms_buf_release(&s.data);
	return rc;
}

static void one_commit(struct ms_buf *out) {
	struct ms_buf rec;
	ms_buf_init(&rec, 1 << 16);
	put_page(&rec, 2, 1);
	put_commit(&rec, 5, 1700000000000000, 0x2222222222222222);
	struct ms_segment_info i = one_commit_info();
	OK(make(&i, &rec, out, &err));
	/* What surrounds the encoded page itself: the budget of DESIGN section 4. */
	struct ms_record r;
	size_t used;
	OK(ms_record_parse(rec.data, rec.len, &r, &used, &err));
	cr_assert_lt(out->len - r.page.len, 250, "a one-commit segment costs %zu bytes around its page", out->len - r.page.len);
	ms_buf_release(&rec);
}

static bool same_info(const struct ms_segment_info *a, const struct ms_segment_info *b) {
	return !strcmp(a->generation.s, b->generation.s) && a->first_txid == b->first_txid && a->last_txid == b->last_txid &&
	       a->parent_txid == b->parent_txid && a->page_size == b->page_size && a->db_pages == b->db_pages && a->first_us == b->first_us &&
	       a->last_us == b->last_us && a->checksum_before == b->checksum_before && a->checksum_after == b->checksum_after &&
	       a->kind == b->kind && a->part == b->part && a->more == b->more && a->frames == b->frames &&
	       !strcmp(a->parent_generation.s, b->parent_generation.s) && a->fork_txid == b->fork_txid && a->epoch == b->epoch;
}

Test(segment, one_commit_any_split) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	one_commit(&b);
	struct ms_segment_info want = one_commit_info();
	for (size_t piece = 1; piece <= b.len; piece++) {
		struct seen s;
		OK(read_pieces(b.data, b.len, piece, &s, &err));
		cr_assert(s.infos == 1 && s.pages == 1 && s.commits == 1 && same_info(&s.info, &want));
		ms_buf_release(&s.data);
	}
	struct ms_segment_info peeked;
	size_t need = 0;
	FAILS(MS_ETOOBIG, ms_segment_peek(b.data, 10, &peeked, &need, &err));
	FAILS(MS_ETOOBIG, ms_segment_peek(b.data, need, &peeked, &need, &err));
	OK(ms_segment_peek(b.data, need, &peeked, &need, &err));
	cr_assert(same_info(&peeked, &want));
	ms_buf_release(&b);
}

Test(segment, every_bit_counts, .timeout = 120) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	one_commit(&b);
	damage_everywhere(decode, b.data, b.len);
	ms_buf_release(&b);
}

Test(segment, all_header_fields) {
	struct ms_segment_info i = one_commit_info();
	i.first_txid = 100, i.last_txid = 230, i.parent_txid = 60; /* an engine's own numbers jump */
	i.last_us += 77, i.kind = MS_SEG_SQUASH, i.frames = 1ull << 40, i.epoch = 9;
	strcpy(i.parent_generation.s, "00000002-00000001");
	i.fork_txid = 60;
	struct ms_segment_info part = one_commit_info();
	part.part = 3, part.more = true, part.checksum_after = part.checksum_before;
	const struct ms_segment_info *all[] = {&i, &part};
	for (int k = 0; k < 2; k++) {
		struct ms_buf b;
		ms_buf_init(&b, 1 << 12);
		struct ms_segment_info got;
		OK(ms_segment_info_encode(all[k], &b, &err));
		OK(ms_segment_info_parse(b.data, b.len, &got, &err));
		cr_assert(same_info(&got, all[k]), "case %d", k);
		ms_buf_release(&b);
	}
}

Test(segment, info_contract) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 12);
	struct ms_segment_info i;
#define REFUSED(change)                                                                                                                  \
	i = one_commit_info();                                                                                                           \
	change;                                                                                                                          \
	FAILS(MS_EINVAL, ms_segment_info_encode(&i, &b, &err))
	REFUSED(i.generation.s[0] = 'x');
	REFUSED(i.first_txid = 0);
	REFUSED(i.last_txid = 4);
	REFUSED(i.parent_txid = 5);
	REFUSED(i.page_size = 513);
	REFUSED(i.first_us = -1);
	REFUSED(i.last_us--);
	REFUSED(i.kind = (enum ms_segment_kind)3);
	REFUSED((i.part = 1, i.last_txid = 6));
	REFUSED(i.more = true); /* and a changed checksum */
	REFUSED(i.fork_txid = 4);
	REFUSED((strcpy(i.parent_generation.s, GEN), i.fork_txid = 2)); /* 4, or 3 of a seeded generation */
	REFUSED((strcpy(i.parent_generation.s, GEN), i.fork_txid = 5));
	REFUSED((strcpy(i.parent_generation.s, GEN), i.fork_txid = UINT64_MAX));
	cr_assert_eq(b.len, 0);
	ms_buf_release(&b);
}

/* The header of a sound container that disagrees with the records: writer and reader both refuse. A reader's input is made with the
 * container writer, so that checksums are right. */
static enum ms_code with_header(const struct ms_segment_info *i, const struct ms_buf *records, struct ms_err *ret_err) {
	struct ms_buf header, out;
	ms_buf_init(&header, 1 << 12), ms_buf_init(&out, 1 << 20);
	OK(ms_segment_info_encode(i, &header, &err));
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_SEGMENT, 1, &out);
	OK(ms_artefact_begin(w, header.data, header.len, &err));
	if (records->len)
		OK(ms_artefact_block(w, MS_BLOCK_RECORDS, records->data, records->len, false, &err));
	OK(ms_artefact_end(w, NULL, 0, &err));
	ms_artefact_writer_free(w);
	enum ms_code rc = decode(out.data, out.len, ret_err);
	ms_buf_release(&header), ms_buf_release(&out);
	return rc;
}

Test(segment, header_and_records_agree) {
	struct ms_buf rec, out;
	ms_buf_init(&rec, 1 << 16), ms_buf_init(&out, 1 << 20);
	put_page(&rec, 2, 1);
	put_commit(&rec, 5, 1700000000000000, 0x2222222222222222);
	struct ms_segment_info i;
#define DISAGREES(change)                                                                                                                \
	i = one_commit_info();                                                                                                           \
	change;                                                                                                                          \
	ms_buf_clear(&out);                                                                                                              \
	FAILS(MS_EINVAL, make(&i, &rec, &out, &err));                                                                                    \
	FAILS(MS_ECORRUPT, with_header(&i, &rec, &err))
	i = one_commit_info();
	OK(with_header(&i, &rec, &err));
	DISAGREES((i.first_txid = 4, i.parent_txid = 3));
	DISAGREES(i.last_txid = 6);
	DISAGREES((i.first_txid = i.last_txid = 6, i.parent_txid = 5));
	DISAGREES((i.first_us--, i.last_us--));
	DISAGREES(i.last_us++);
	DISAGREES(i.page_size = 1024);
	DISAGREES(i.db_pages = 4);
	DISAGREES(i.checksum_after++);
	DISAGREES(i.frames = 2);
	DISAGREES(i.frames = 0);
	DISAGREES((i.more = true, i.checksum_after = i.checksum_before)); /* a commit in a part without */
	put_page(&rec, 3, 2);
	DISAGREES(i.frames = 2); /* a page after the last commit */
	put_commit(&rec, 5, 1700000000000000, 0x2222222222222222);
	DISAGREES(i.frames = 2); /* the same txid twice */
	ms_buf_clear(&rec);
	DISAGREES(i.frames = 0); /* nothing at all */
	put_commit(&rec, 5, 1700000000000000, 1);
	put_commit(&rec, 6, 1699999999999999, 0x2222222222222222);
	DISAGREES((i.frames = 0, i.last_txid = 6)); /* time runs backwards */
	ms_buf_release(&rec), ms_buf_release(&out);
}

Test(segment, reader_refuses_half_records_and_other_blocks) {
	struct ms_buf rec;
	ms_buf_init(&rec, 1 << 16);
	put_page(&rec, 2, 1);
	put_commit(&rec, 5, 1700000000000000, 0x2222222222222222);
	struct ms_segment_info i = one_commit_info();
	rec.len--;
	FAILS(MS_ECORRUPT, with_header(&i, &rec, &err));
	struct ms_buf out;
	ms_buf_init(&out, 1 << 20);
	FAILS(MS_EINVAL, make(&i, &rec, &out, &err));
	ms_buf_release(&out);
	ms_buf_release(&rec);
}

/* A commit without pages (a VACUUM that only truncates, or an empty transaction). */
Test(segment, commit_without_pages) {
	struct ms_buf rec, out;
	ms_buf_init(&rec, 1 << 16), ms_buf_init(&out, 1 << 20);
	put_commit(&rec, 5, 1700000000000000, 0x2222222222222222);
	struct ms_segment_info i = one_commit_info();
	i.frames = 0;
	OK(make(&i, &rec, &out, &err));
	OK(decode(out.data, out.len, &err));
	ms_buf_release(&rec), ms_buf_release(&out);
}

/* A transaction in three objects. */
Test(segment, parts) {
	for (uint32_t part = 0; part < 3; part++) {
		struct ms_buf rec, out;
		ms_buf_init(&rec, 1 << 16), ms_buf_init(&out, 1 << 20);
		put_page(&rec, part + 1, part);
		struct ms_segment_info i = one_commit_info();
		i.part = part;
		if (part == 2)
			put_commit(&rec, 5, 1700000000000000, 0x2222222222222222);
		else
			i.more = true, i.checksum_after = i.checksum_before;
		OK(make(&i, &rec, &out, &err));
		struct seen s;
		OK(read_pieces(out.data, out.len, 100, &s, &err));
		cr_assert(s.info.part == part && s.info.more == (part < 2) && s.pages == 1 && s.commits == (part == 2));
		ms_buf_release(&s.data);
		ms_buf_release(&rec), ms_buf_release(&out);
	}
}

/* Several blocks; records handed over one by one, in any portions of whole records; output drained. */
Test(segment, many_blocks_and_index, .timeout = 120) {
	enum { TX = 3000 };
	struct ms_buf rec, out, all, want;
	ms_buf_init(&rec, 64 << 20), ms_buf_init(&out, 4 << 20), ms_buf_init(&all, 64 << 20), ms_buf_init(&want, 64 << 20);
	struct ms_page_encoder *e = ms_page_encoder_new(1, false);
	uint8_t page[4096];
	uint64_t s = 5, newest_txid[200] = {0}, prev_txid[200] = {0};
	uint64_t newest_seed[200] = {0};
	size_t *cut = calloc(TX + 1, sizeof *cut);
	for (unsigned t = 1; t <= TX; t++) {
		uint64_t txid = 10 + 3ull * t;
		uint32_t pgno = 1 + (uint32_t)(rnd(&s) % 199);
		fill_random(page, sizeof page, t);
		enum ms_record_type type;
		OK(ms_page_encode(e, pgno, page, sizeof page, NULL, ms_page_hash(pgno, page, sizeof page), &rec, &type, &err));
		struct ms_commit c = {.txid = txid, .time_us = t, .page_size = 4096, .db_pages = 200, .checksum = t};
		OK(ms_commit_encode(&c, &rec, &err));
		OK(ms_buf_append(&want, page, sizeof page, &err)); /* random: stored */
		OK(ms_buf_u64(&want, txid, &err));
		prev_txid[pgno] = newest_txid[pgno], newest_txid[pgno] = txid, newest_seed[pgno] = t;
		cut[t] = rec.len;
	}
	ms_page_encoder_free(e);
	struct ms_segment_info i = {.generation = {GEN}, .first_txid = 13, .last_txid = 10 + 3ull * TX, .parent_txid = 2, .page_size = 4096,
				    .db_pages = 200, .first_us = 1, .last_us = TX, .checksum_before = 0, .checksum_after = TX, .frames = TX, .epoch = 3};
	struct ms_segment_writer *w = ms_segment_writer_new(&i, &out);
	for (unsigned t = 0; t < TX;) {
		unsigned n = 1 + (unsigned)(rnd(&s) % 50);
		if (n > TX - t)
			n = TX - t;
		OK(ms_segment_write(w, rec.data + cut[t], cut[t + n] - cut[t], &err));
		t += n;
		OK(ms_buf_append(&all, out.data, out.len, &err));
		ms_buf_clear(&out);
	}
	OK(ms_segment_end(w, &err));
	OK(ms_buf_append(&all, out.data, out.len, &err));
	ms_segment_writer_free(w);

	struct seen got;
	OK(read_pieces(all.data, all.len, 65537, &got, &err));
	cr_assert(got.pages == TX && got.commits == TX && got.data.len == want.len && !memcmp(got.data.data, want.data, want.len));
	ms_buf_release(&got.data);

	/* From the last bytes alone: trailer, index, then one page's newest record by one more range. */
	struct ms_artefact_trailer tr;
	OK(ms_artefact_trailer_parse(all.data + all.len - MS_TRAILER_LEN, &tr, &err));
	cr_assert(tr.total_len == all.len && tr.index_stored > MS_BLOCK_HEADER_LEN);
	struct ms_buf unpacked;
	ms_buf_init(&unpacked, 4 << 20);
	uint16_t kind;
	size_t used, index_at = all.len - MS_TRAILER_LEN - tr.index_stored;
	OK(ms_artefact_block_decode(tr.header_crc, index_at, all.data + index_at, tr.index_stored, &unpacked, &kind, &used, &err));
	cr_assert(kind == MS_BLOCK_INDEX && used == tr.index_stored);
	const uint8_t *index = unpacked.data;
	size_t index_len = unpacked.len;
	struct ms_buf block;
	ms_buf_init(&block, MS_BLOCK_MAX);
	struct ms_page_decoder *d = ms_page_decoder_new();
	for (uint32_t pgno = 1; pgno < 200; pgno++) {
		struct ms_index_entry x;
		OK(ms_index_find(index, index_len, i.first_txid, tr.header_end, pgno, &x, &err));
		cr_assert(x.txid == newest_txid[pgno] && x.prev_txid == prev_txid[pgno]);
		ms_buf_clear(&block);
		OK(ms_artefact_block_decode(tr.header_crc, x.block_offset, all.data + x.block_offset, MS_BLOCK_HEADER_LEN + x.stored, &block,
					    &kind, &used, &err));
		cr_assert(kind == MS_BLOCK_RECORDS && used == MS_BLOCK_HEADER_LEN + x.stored);
		struct ms_record r;
		OK(ms_record_parse(block.data + x.offset, block.len - x.offset, &r, &used, &err));
		cr_assert(r.type != MS_REC_COMMIT && r.page.pgno == pgno);
		uint8_t out_page[4096];
		OK(ms_page_decode(d, r.type, &r.page, 4096, NULL, out_page, &err));
		fill_random(page, sizeof page, newest_seed[pgno]);
		cr_assert_arr_eq(out_page, page, 4096);
	}
	struct ms_index_entry x;
	FAILS(MS_ENOTFOUND, ms_index_find(index, index_len, i.first_txid, tr.header_end, 200, &x, &err));
	FAILS(MS_ENOTFOUND, ms_index_find(index, index_len, i.first_txid, tr.header_end, 0, &x, &err));
	for (size_t n = 0; n < index_len; n++) { /* cut short: an error, never a wrong answer or a read past the end */
		uint8_t *p = malloc(n + !n);
		memcpy(p, index, n);
		FAILS(MS_ECORRUPT, ms_index_find(p, n, i.first_txid, tr.header_end, 199, &x, &err));
		free(p);
	}
	ms_page_decoder_free(d);
	ms_buf_release(&block), ms_buf_release(&unpacked);
	free(cut);
	ms_buf_release(&rec), ms_buf_release(&out), ms_buf_release(&all), ms_buf_release(&want);
}

/* A page twice in one transaction counts once for the index; above the limit the index is dropped, not the segment. */
Test(segment, index_builder) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	struct ms_index_builder *x = ms_index_builder_new(10, 3);
	OK(ms_index_add(x, 7, 0, &err));
	OK(ms_index_commit(x, 10, &err));
	OK(ms_index_add(x, 7, 100, &err));
	OK(ms_index_add(x, 7, 200, &err));
	OK(ms_index_add(x, 2, 300, &err));
	OK(ms_index_block_done(x, 400, &err));
	OK(ms_index_commit(x, 12, &err));
	OK(ms_index_encode(x, 99, &b, &err));
	static const uint8_t want[] = {1, 0x90, 0x03, 2, 2, 0, 0xac, 0x02, 2, 0, 5, 0, 0xc8, 0x01, 2, 2};
	cr_assert_eq(b.len, sizeof want);
	cr_assert_arr_eq(b.data, want, sizeof want);
	ms_index_builder_free(x);

	ms_buf_clear(&b);
	x = ms_index_builder_new(10, 3);
	for (uint32_t p = 1; p <= 5; p++)
		OK(ms_index_add(x, p, p, &err));
	OK(ms_index_commit(x, 10, &err));
	OK(ms_index_block_done(x, 400, &err));
	OK(ms_index_encode(x, 99, &b, &err));
	cr_assert_eq(b.len, 0);
	ms_index_builder_free(x);
	ms_buf_release(&b);
}
