#include "core/codec.h"
#include "core/hash.h"
#include "unit/bytes.h"

struct fixture {
	struct ms_page_encoder *e;
	struct ms_page_decoder *d;
	struct ms_buf out;
	uint32_t page_size;
	uint8_t *base, *page, *got;
};

static struct fixture set_up(uint32_t page_size, int level, bool none) {
	struct fixture f = {.page_size = page_size, .e = ms_page_encoder_new(level, none), .d = ms_page_decoder_new()};
	cr_assert(f.e && f.d);
	ms_buf_init(&f.out, 16 << 20);
	f.base = malloc(page_size), f.page = malloc(page_size), f.got = malloc(page_size);
	return f;
}

static void tear_down(struct fixture *f) {
	ms_page_encoder_free(f->e);
	ms_page_decoder_free(f->d);
	ms_buf_release(&f->out);
	free(f->base), free(f->page), free(f->got);
}

/* Encodes, parses, decodes, compares; returns the record's type and its data length. */
static enum ms_record_type round_trip(struct fixture *f, uint32_t pgno, bool with_base, size_t *ret_len) {
	enum ms_record_type type;
	size_t start = f->out.len, used;
	uint64_t hash = ms_page_hash(pgno, f->page, f->page_size);
	OK(ms_page_encode(f->e, pgno, f->page, f->page_size, with_base ? f->base : NULL, hash, &f->out, &type, &err));
	struct ms_record r;
	OK(ms_record_parse(f->out.data + start, f->out.len - start, &r, &used, &err));
	cr_assert_eq(used, f->out.len - start);
	cr_assert(r.type == type && r.page.pgno == pgno && r.page.hash == hash);
	memset(f->got, 0xee, f->page_size);
	OK(ms_page_decode(f->d, r.type, &r.page, f->page_size, f->base, f->got, &err));
	cr_assert_arr_eq(f->got, f->page, f->page_size);
	if (ret_len)
		*ret_len = r.page.len;
	return type;
}

static const uint32_t sizes[] = {512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};

Test(codec, every_page_size_and_kind_of_content) {
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct fixture f = set_up(sizes[i], 1, false);
		uint32_t n = sizes[i];
		size_t len;
		fill_random(f.base, n, i);
		memcpy(f.page, f.base, n);
		f.page[n / 2] ^= 1;
		/* The previous version lies a whole page back: only a window of two pages reaches it. */
		cr_assert_eq(round_trip(&f, 1, true, &len), MS_REC_PATCH);
		cr_assert_lt(len, 64, "page size %u: patch of one byte takes %zu bytes", n, len);
		cr_assert_eq(round_trip(&f, 1, false, &len), MS_REC_STORED);
		cr_assert_eq(len, n);
		fill_random(f.page, n, i + 100); /* unrelated to base */
		cr_assert_eq(round_trip(&f, UINT32_MAX, true, &len), MS_REC_STORED);
		fill_text(f.page, n, i); /* unrelated as well, but half of it shrinks: the base is no help, so it is left out */
		fill_random(f.page, n / 2, i + 200);
		cr_assert_eq(round_trip(&f, 7, true, &len), MS_REC_FULL);
		cr_assert_lt(len, n * 9 / 10);
		memset(f.page, 0, n);
		cr_assert_eq(round_trip(&f, 8, false, &len), MS_REC_FULL);
		cr_assert_lt(len, 32);
		tear_down(&f);
	}
}

/* Blocks of rows moved inside the page, as a B-tree insert does: still found in the prefix. */
Test(codec, moved_content_is_a_delta) {
	struct fixture f = set_up(4096, 1, false);
	fill_random(f.base, 4096, 1);
	memcpy(f.page, f.base, 4096);
	memmove(f.page + 1000 + 80, f.page + 1000, 2000);
	fill_random(f.page + 1000, 80, 2);
	size_t len;
	cr_assert_eq(round_trip(&f, 3, true, &len), MS_REC_DELTA);
	cr_assert_lt(len, 80 + 80);
	tear_down(&f);
}

Test(codec, many_versions_through_one_context) {
	struct fixture f = set_up(4096, 1, false);
	uint64_t s = 99;
	fill_text(f.base, 4096, 1);
	for (int v = 0; v < 3000; v++) {
		memcpy(f.page, f.base, 4096);
		for (uint64_t k = rnd(&s) % 6; k > 0; k--) {
			size_t at = rnd(&s) % 4000;
			fill_random(f.page + at, rnd(&s) % 90, rnd(&s));
		}
		round_trip(&f, (uint32_t)v + 1, v % 64 != 0, NULL);
		memcpy(f.base, f.page, 4096);
		ms_buf_clear(&f.out);
	}
	tear_down(&f);
}

Test(codec, changing_page_sizes_and_levels) {
	for (int level = -1; level <= 9; level += 2) {
		struct fixture f = set_up(65536, level, false);
		for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
			f.page_size = sizes[(i * 5) % 8];
			fill_text(f.base, f.page_size, i);
			memcpy(f.page, f.base, f.page_size);
			f.page[17] = 'Z';
			cr_assert_eq(round_trip(&f, 5, true, NULL), MS_REC_PATCH);
			fill_random(f.page, f.page_size / 4, i); /* too much for a patch; a window of one page would not reach the rest */
			fill_random(f.base + f.page_size / 2, f.page_size / 2, i + 9);
			memcpy(f.page + f.page_size / 2, f.base + f.page_size / 2, f.page_size / 2);
			cr_assert_eq(round_trip(&f, 5, true, NULL), MS_REC_DELTA);
		}
		tear_down(&f);
	}
}

Test(codec, in_a_hurry_only_patches_and_stored_pages) {
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct fixture f = set_up(sizes[i], 1, false);
		uint32_t n = sizes[i];
		size_t len;
		ms_page_encoder_hurry(f.e, true);
		fill_random(f.base, n, i);
		memcpy(f.page, f.base, n);
		fill_random(f.page + n / 4, n / 4, i + 1); /* too much for a patch otherwise */
		cr_assert_eq(round_trip(&f, 1, true, &len), MS_REC_PATCH);
		cr_assert_leq(len, n / 2);
		fill_text(f.page, n, i);
		cr_assert_eq(round_trip(&f, 1, true, &len), MS_REC_STORED);
		cr_assert_eq(round_trip(&f, 1, false, &len), MS_REC_STORED);
		ms_page_encoder_hurry(f.e, false);
		cr_assert_eq(round_trip(&f, 1, false, &len), MS_REC_FULL);
		tear_down(&f);
	}
}

Test(codec, codec_none_stores) {
	struct fixture f = set_up(1024, 1, true);
	memset(f.page, 0, 1024);
	memset(f.base, 0, 1024);
	cr_assert_eq(round_trip(&f, 5, true, NULL), MS_REC_STORED);
	tear_down(&f);
}

/* zstd's simple interfaces take such a prefix for a dictionary. */
Test(codec, page_that_looks_like_a_dictionary_is_no_prefix) {
	struct fixture f = set_up(4096, 1, false);
	fill_random(f.base, 4096, 4);
	memcpy(f.base, "\x37\xa4\x30\xec", 4);
	memcpy(f.page, f.base, 4096);
	fill_random(f.page + 100, 1000, 5); /* too much for a patch */
	cr_assert_neq(round_trip(&f, 5, true, NULL), MS_REC_DELTA);
	tear_down(&f);
}

Test(codec, memory) {
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct fixture f = set_up(sizes[i], 1, false);
		fill_text(f.page, sizes[i], 1);
		fill_text(f.base, sizes[i], 2);
		round_trip(&f, 5, true, NULL);
		cr_assert_lt(ms_page_encoder_memory(f.e), sizes[i] <= 4096 ? 200u << 10 : 1u << 20, "page size %u: %zu", sizes[i],
			     ms_page_encoder_memory(f.e));
		tear_down(&f);
	}
}

Test(codec, wrong_base_is_found) {
	struct fixture f = set_up(4096, 1, false);
	fill_random(f.base, 4096, 4);
	memcpy(f.page, f.base, 4096);
	fill_random(f.page + 100, 1000, 5); /* too much for a patch */
	cr_assert_eq(round_trip(&f, 5, true, NULL), MS_REC_DELTA);
	struct ms_record r;
	size_t used;
	OK(ms_record_parse(f.out.data, f.out.len, &r, &used, &err));
	f.base[2000] ^= 0x40;
	FAILS(MS_ECORRUPT, ms_page_decode(f.d, r.type, &r.page, 4096, f.base, f.got, &err));
	FAILS(MS_EINVAL, ms_page_decode(f.d, r.type, &r.page, 4096, NULL, f.got, &err));
	f.base[2000] ^= 0x40;
	r.page.pgno = 6; /* the hash binds the page to its place */
	FAILS(MS_ECORRUPT, ms_page_decode(f.d, r.type, &r.page, 4096, f.base, f.got, &err));
	r.page.pgno = 5;
	FAILS(MS_ECORRUPT, ms_page_decode(f.d, r.type, &r.page, 2048, f.base, f.got, &err));
	FAILS(MS_EINVAL, ms_page_decode(f.d, MS_REC_COMMIT, &r.page, 4096, f.base, f.got, &err));
	tear_down(&f);
}

Test(codec, encoder_contract) {
	struct fixture f = set_up(4096, 1, false);
	enum ms_record_type type;
	fill_text(f.page, 4096, 4);
	FAILS(MS_EINVAL, ms_page_encode(f.e, 0, f.page, 4096, NULL, 1, &f.out, &type, &err));
	FAILS(MS_EINVAL, ms_page_encode(f.e, 1, f.page, 1000, NULL, 1, &f.out, &type, &err));
	FAILS(MS_EINVAL, ms_page_encode(f.e, 1, f.page, 2048, f.page + 1024, 1, &f.out, &type, &err));
	struct ms_buf small;
	ms_buf_init(&small, 40);
	FAILS(MS_ETOOBIG, ms_page_encode(f.e, 1, f.page, 4096, NULL, 1, &small, &type, &err));
	cr_assert_eq(small.len, 0);
	ms_buf_release(&small);
	tear_down(&f);
}

/* A frame that is followed by another, a skippable one, or has other flags than ours: not of this format. */
Test(codec, only_one_frame) {
	struct fixture f = set_up(512, 1, false);
	memset(f.page, 'a', 512);
	enum ms_record_type type;
	OK(ms_page_encode(f.e, 1, f.page, 512, NULL, ms_page_hash(1, f.page, 512), &f.out, &type, &err));
	struct ms_record r;
	size_t used;
	OK(ms_record_parse(f.out.data, f.out.len, &r, &used, &err));
	uint8_t tail[64];
	memcpy(tail, r.page.data, r.page.len);
	struct ms_page_record p = r.page;
	p.data = tail;
	OK(ms_page_decode(f.d, type, &p, 512, NULL, f.got, &err));
	static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, empty[] = {0x00, 0x00, 0x01, 0, 0};
	memcpy(tail + r.page.len, skippable, sizeof skippable);
	p.len = r.page.len + sizeof skippable;
	FAILS(MS_ECORRUPT, ms_page_decode(f.d, type, &p, 512, NULL, f.got, &err));
	memcpy(tail + r.page.len, empty, sizeof empty);
	p.len = r.page.len + sizeof empty;
	FAILS(MS_ECORRUPT, ms_page_decode(f.d, type, &p, 512, NULL, f.got, &err));
	p.len = r.page.len - 1;
	FAILS(MS_ECORRUPT, ms_page_decode(f.d, type, &p, 512, NULL, f.got, &err));
	p.len = r.page.len;
	tail[1] = 0x41; /* window of 256 KiB and a bit: more than two pages of any size */
	FAILS(MS_ECORRUPT, ms_page_decode(f.d, type, &p, 512, NULL, f.got, &err));
	tear_down(&f);
}

static const struct ms_commit plain = {
	.txid = 300, .time_us = 1000000, .page_size = 4096, .db_pages = 2, .checksum = 0x1122334455667788};

Test(codec, commit_bytes) {
	struct ms_buf b;
	ms_buf_init(&b, 4096);
	OK(ms_commit_encode(&plain, &b, &err));
	static const uint8_t want[] = {4, 17, 0, 0xac, 0x02, 0xc0, 0x84, 0x3d, 0x80, 0x20, 2, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
	cr_assert_eq(b.len, sizeof want);
	cr_assert_arr_eq(b.data, want, sizeof want);
	ms_buf_clear(&b);

	static const uint8_t attrs[] = {0xa1, 0x61, 'k', 0x61, 'v'};
	struct ms_commit c = plain;
	c.flags = MS_COMMIT_CATCHUP, c.lost_commits = 5, c.attrs = attrs, c.attrs_len = sizeof attrs;
	OK(ms_commit_encode(&c, &b, &err));
	static const uint8_t want2[] = {4,    23,   1,	  0xac, 0x02, 0xc0, 0x84, 0x3d, 0x80, 0x20, 2,	  0x88, 0x77,
					0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 6,	  0xa1, 0x61, 'k',  0x61, 'v'};
	cr_assert_eq(b.len, sizeof want2);
	cr_assert_arr_eq(b.data, want2, sizeof want2);
	struct ms_record r;
	size_t used;
	OK(ms_record_parse(b.data, b.len, &r, &used, &err));
	cr_assert_eq(used, sizeof want2);
	cr_assert(r.type == MS_REC_COMMIT && r.commit.flags == MS_COMMIT_CATCHUP && r.commit.txid == 300 && r.commit.time_us == 1000000 &&
		  r.commit.page_size == 4096 && r.commit.db_pages == 2 && r.commit.checksum == plain.checksum && r.commit.lost_commits == 5 &&
		  r.commit.attrs_len == sizeof attrs && !memcmp(r.commit.attrs, attrs, sizeof attrs));
	ms_buf_clear(&b);

	c.lost_commits = -1, c.attrs = NULL, c.attrs_len = 0;
	OK(ms_commit_encode(&c, &b, &err));
	cr_assert_eq(b.data[b.len - 1], 0);
	OK(ms_record_parse(b.data, b.len, &r, &used, &err));
	cr_assert_eq(r.commit.lost_commits, -1);
	cr_assert_null(r.commit.attrs);
	ms_buf_release(&b);
}

Test(codec, commit_contract) {
	struct ms_buf b;
	ms_buf_init(&b, 4096);
	struct ms_commit c;
#define REFUSED(change)                                                                                                                  \
	c = plain;                                                                                                                       \
	change;                                                                                                                          \
	FAILS(MS_EINVAL, ms_commit_encode(&c, &b, &err))
	REFUSED(c.txid = 0);
	REFUSED(c.time_us = -1);
	REFUSED(c.page_size = 4095);
	REFUSED(c.flags = 8);
	REFUSED(c.lost_commits = -2);
	REFUSED((c.attrs = (const uint8_t *)"\xa1\x61k\x01", c.attrs_len = 4)); /* a value that is no text */
	REFUSED((c.attrs = (const uint8_t *)"\x61k", c.attrs_len = 2));		/* no map */
	REFUSED((c.attrs = (const uint8_t *)"\xa0\x00", c.attrs_len = 2));	/* a byte after the map */
	cr_assert_eq(b.len, 0);
	ms_buf_release(&b);
}

static void parse_fails(enum ms_code want, const char *bytes, size_t n) {
	uint8_t *p = malloc(n + !n);
	memcpy(p, bytes, n);
	struct ms_record r;
	size_t used;
	FAILS(want, ms_record_parse(p, n, &r, &used, &err));
	free(p);
}
#define PARSE_FAILS(want, s) parse_fails(want, s, sizeof s - 1)

Test(codec, broken_records) {
	PARSE_FAILS(MS_ECORRUPT, "");
	PARSE_FAILS(MS_EUNSUPPORTED, "\x00");
	PARSE_FAILS(MS_EUNSUPPORTED, "\x06\x01\x01");
	PARSE_FAILS(MS_ECORRUPT, "\x01\x00HHHHHHHH\x01z");		       /* page 0 */
	PARSE_FAILS(MS_ECORRUPT, "\x01\x01HHHHHHH");			       /* cut hash */
	PARSE_FAILS(MS_ECORRUPT, "\x01\x01HHHHHHHH\x02z");		       /* cut data */
	PARSE_FAILS(MS_ECORRUPT, "\x01\x01HHHHHHHH\x00");		       /* no data */
	PARSE_FAILS(MS_ECORRUPT, "\x01\xff\xff\xff\xff\x1fHHHHHHHH\x01z");     /* page number above 32 bits */
	PARSE_FAILS(MS_ECORRUPT, "\x01\x01HHHHHHHH\x81\x80\x04");	       /* longer than any page */
	PARSE_FAILS(MS_ECORRUPT, "\x04\x00");				       /* empty commit */
	PARSE_FAILS(MS_EUNSUPPORTED, "\x04\x0d\x08\x01\x01\x80\x20\x01" "CCCCCCCC"); /* unknown flag */
	PARSE_FAILS(MS_ECORRUPT, "\x04\x0d\x00\x00\x01\x80\x20\x01" "CCCCCCC"); /* txid 0, cut checksum */
	PARSE_FAILS(MS_ECORRUPT, "\x04\x0e\x00\x01\x01\x81\x20\x01" "CCCCCCCC"); /* page size 4097 */
	PARSE_FAILS(MS_ECORRUPT, "\x04\x0f\x00\x01\x01\x80\x20\x01" "CCCCCCCC\x01"); /* attributes that are no map */
	PARSE_FAILS(MS_ECORRUPT, "\x04\x0e\x01\x01\x01\x80\x20\x01" "CCCCCCCC"); /* catch-up without count */
	PARSE_FAILS(MS_ECORRUPT, "\x04\x17\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x80\x20\x01" "CCCCCCCC"); /* time above the signed range */
}

Test(codec, every_truncation_of_a_record) {
	struct fixture f = set_up(512, 1, false);
	fill_text(f.page, 512, 1);
	enum ms_record_type type;
	OK(ms_page_encode(f.e, 300, f.page, 512, NULL, 1, &f.out, &type, &err));
	size_t page_len = f.out.len;
	OK(ms_commit_encode(&plain, &f.out, &err));
	for (size_t n = 0; n < page_len; n++)
		parse_fails(MS_ECORRUPT, (const char *)f.out.data, n);
	for (size_t n = 0; n < f.out.len - page_len; n++)
		parse_fails(MS_ECORRUPT, (const char *)f.out.data + page_len, n);
	tear_down(&f);
}
