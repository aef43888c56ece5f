#include "core/cbor.h"
#include "core/hash.h"
#include "core/snapshot.h"
#include "unit/bytes.h"

#define GEN "00000003-0badcafe"
#define OLD "00000002-00000002"

struct seen {
	struct ms_buf pages;	 /* concatenated in order of arrival */
	struct ms_buf numbers;	 /* u32 page number of each */
	uint32_t page_size;
};
static enum ms_code on_pages(void *arg, uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *data, struct ms_err *err) {
	struct seen *s = arg;
	s->page_size = page_size;
	enum ms_code rc = ms_buf_append(&s->pages, data, (size_t)count * page_size, err);
	for (uint32_t i = 0; i < count && !rc; i++)
		rc = ms_buf_u32(&s->numbers, first + i, err);
	return rc;
}
static void seen_init(struct seen *s) {
	memset(s, 0, sizeof *s);
	ms_buf_init(&s->pages, 64 << 20), ms_buf_init(&s->numbers, 4 << 20);
}
static void seen_release(struct seen *s) { ms_buf_release(&s->pages), ms_buf_release(&s->numbers); }

static enum ms_code read_chunk(const struct ms_chunk_ref *ref, uint32_t page_size, const uint8_t *p, size_t n, size_t piece, struct seen *s,
			       struct ms_err *err) {
	struct ms_page_sink sink = {on_pages, s};
	struct ms_chunk_reader *r = ms_chunk_reader_new(ref, page_size, s ? &sink : NULL);
	enum ms_code rc = MS_OK;
	for (size_t at = 0; at < n && !rc; at += piece)
		rc = ms_chunk_push(r, p + at, n - at < piece ? n - at : piece, err);
	if (!rc)
		rc = ms_chunk_finish(r, err);
	ms_chunk_reader_free(r);
	return rc;
}

static uint64_t sum_of(uint32_t first, uint32_t count, uint32_t page_size, const uint8_t *pages) {
	uint64_t sum = 0;
	for (uint32_t i = 0; i < count; i++)
		if (first + i != 0x40000000u / page_size + 1)
			sum += ms_page_hash(first + i, pages + (size_t)i * page_size, page_size);
	return sum;
}

Test(chunk, round_trip) {
	static const struct {
		uint32_t first, count, page_size;
	} cases[] = {{1, 1, 512}, {1, 1000, 4096}, {257, 300, 4096}, {5, 20, 65536}, {262100, 100, 4096} /* around the lock page */,
		     {UINT32_MAX, 1, 512}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		size_t n = (size_t)cases[i].count * cases[i].page_size;
		uint8_t *pages = malloc(n);
		fill_text(pages, n, i);
		struct ms_buf b;
		ms_buf_init(&b, 64 << 20);
		struct ms_chunk_ref ref = {.first_page = cases[i].first, .pages = cases[i].count};
		OK(ms_chunk_encode(ref.first_page, ref.pages, cases[i].page_size, pages, 1, &b, &ref.hash, &err));
		cr_assert_eq(ref.hash, sum_of(ref.first_page, ref.pages, cases[i].page_size, pages));
		cr_assert_lt(b.len, n);
		ref.bytes = b.len;
		struct seen s;
		seen_init(&s);
		OK(read_chunk(&ref, cases[i].page_size, b.data, b.len, 60001, &s, &err));
		cr_assert(s.pages.len == n && !memcmp(s.pages.data, pages, n));
		for (uint32_t k = 0; k < ref.pages; k++)
			cr_assert_eq(ms_get_le32(s.numbers.data + 4 * k), ref.first_page + k);
		seen_release(&s);
		OK(read_chunk(&ref, cases[i].page_size, b.data, b.len, b.len, NULL, &err));
		struct ms_chunk_ref bad;
#define REF_FAILS(change)                                                                                                                \
	bad = ref;                                                                                                                       \
	change;                                                                                                                          \
	FAILS(MS_ECORRUPT, read_chunk(&bad, cases[i].page_size, b.data, b.len, b.len, NULL, &err))
		REF_FAILS(bad.first_page ^= 1);
		REF_FAILS(bad.pages++);
		REF_FAILS(bad.hash++);
		REF_FAILS(bad.bytes++);
		FAILS(MS_ECORRUPT, read_chunk(&ref, cases[i].page_size == 512 ? 1024 : 512, b.data, b.len, b.len, NULL, &err));
		ms_buf_release(&b);
		free(pages);
	}
}

Test(chunk, contract) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	uint8_t page[512] = {0};
	uint64_t hash;
	FAILS(MS_EINVAL, ms_chunk_encode(0, 1, 512, page, 1, &b, &hash, &err));
	FAILS(MS_EINVAL, ms_chunk_encode(1, 0, 512, page, 1, &b, &hash, &err));
	FAILS(MS_EINVAL, ms_chunk_encode(1, 1, 500, page, 1, &b, &hash, &err));
	FAILS(MS_EINVAL, ms_chunk_encode(UINT32_MAX, 2, 512, page, 1, &b, &hash, &err));
	FAILS(MS_EINVAL, ms_chunk_encode(1, MS_CHUNK_BYTES_MAX / 512 + 1, 512, page, 1, &b, &hash, &err));
	struct ms_chunk_ref ref = {.first_page = 1, .pages = 1};
	cr_assert_null(ms_chunk_reader_new(&ref, 500, NULL));
	ms_buf_release(&b);
}

static struct ms_chunk_ref small_ref;
static enum ms_code decode_chunk(const uint8_t *p, size_t n, struct ms_err *err) {
	return read_chunk(&small_ref, 512, p, n, n + 1, NULL, err);
}
Test(chunk, every_bit_counts, .timeout = 120) {
	uint8_t pages[3 * 512];
	fill_text(pages, sizeof pages, 1);
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	small_ref = (struct ms_chunk_ref){.first_page = 4, .pages = 3};
	OK(ms_chunk_encode(4, 3, 512, pages, 1, &b, &small_ref.hash, &err));
	damage_everywhere(decode_chunk, b.data, b.len);
	ms_buf_release(&b);
}

/* Sound containers with too many pages, too few, a piece of one, or a content hash that is a lie. */
Test(chunk, content_and_header_agree) {
	uint8_t pages[3 * 512];
	fill_text(pages, sizeof pages, 1);
	static const struct {
		size_t bytes;
		uint64_t lie;
		uint16_t kind;
		enum ms_code want;
	} cases[] = {{1024, 0, MS_BLOCK_PAGES, MS_OK},		 {512, 0, MS_BLOCK_PAGES, MS_ECORRUPT}, {1536, 0, MS_BLOCK_PAGES, MS_ECORRUPT},
		     {1023, 0, MS_BLOCK_PAGES, MS_ECORRUPT},	 {1024, 1, MS_BLOCK_PAGES, MS_ECORRUPT}, {1024, 0, 77, MS_EUNSUPPORTED}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct ms_buf h, b;
		ms_buf_init(&h, 4096), ms_buf_init(&b, 1 << 16);
		struct ms_chunk_ref ref = {.first_page = 1, .pages = 2, .hash = sum_of(1, 2, 512, pages) + cases[i].lie};
		const uint64_t f[] = {1, 1, 2, 2, 3, 512, 4, ref.hash};
		OK(ms_cbor_put_map(&h, 4, &err));
		for (int k = 0; k < 8; k++)
			OK(ms_cbor_put_uint(&h, f[k], &err));
		struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_CHUNK, 1, &b);
		OK(ms_artefact_begin(w, h.data, h.len, &err));
		OK(ms_artefact_block(w, cases[i].kind, pages, cases[i].bytes, true, &err));
		OK(ms_artefact_end(w, NULL, 0, &err));
		ms_artefact_writer_free(w);
		if (cases[i].want)
			FAILS(cases[i].want, read_chunk(&ref, 512, b.data, b.len, b.len, NULL, &err));
		else
			OK(read_chunk(&ref, 512, b.data, b.len, b.len, NULL, &err));
		ms_buf_release(&h), ms_buf_release(&b);
	}
}

static enum ms_code read_manifest(const uint8_t *p, size_t n, size_t piece, struct ms_manifest *m, struct seen *s, struct ms_err *err) {
	struct ms_page_sink sink = {on_pages, s};
	struct ms_manifest_reader *r = ms_manifest_reader_new(m, s ? &sink : NULL);
	enum ms_code rc = MS_OK;
	for (size_t at = 0; at < n && !rc; at += piece)
		rc = ms_manifest_push(r, p + at, n - at < piece ? n - at : piece, err);
	if (!rc)
		rc = ms_manifest_finish(r, err);
	ms_manifest_reader_free(r);
	return rc;
}
static enum ms_code decode_manifest(const uint8_t *p, size_t n, struct ms_err *err) {
	struct ms_manifest m;
	struct seen s;
	seen_init(&s);
	enum ms_code rc = read_manifest(p, n, n + 1, &m, &s, err);
	ms_manifest_release(&m);
	seen_release(&s);
	return rc;
}

static struct ms_manifest inline_manifest(uint32_t db_pages, const uint8_t *pages) {
	return (struct ms_manifest){.generation = {GEN}, .mode = 0640, .epoch = 3, .inline_pages = true,
				    .state = {.txid = 9, .time_us = 1700000000000000, .page_size = 512, .db_pages = db_pages,
					      .checksum = sum_of(1, db_pages, 512, pages)}};
}

Test(manifest, inline_pages) {
	enum { N = 5000 }; /* several blocks */
	uint8_t *pages = malloc(N * 512);
	fill_text(pages, N * 512, 3);
	struct ms_manifest m = inline_manifest(N, pages), g;
	struct ms_buf b;
	ms_buf_init(&b, 8 << 20);
	OK(ms_manifest_encode(&m, pages, NULL, NULL, 1, &b, &err));
	struct seen s;
	seen_init(&s);
	OK(read_manifest(b.data, b.len, 10007, &g, &s, &err));
	cr_assert(s.pages.len == N * 512 && !memcmp(s.pages.data, pages, N * 512));
	cr_assert(g.inline_pages && !g.nchunks && !g.npatches && g.mode == 0640 && g.epoch == 3 && g.state.txid == 9 && g.state.db_pages == N &&
		  g.state.page_size == 512 && g.state.time_us == m.state.time_us && g.state.checksum == m.state.checksum);
	cr_assert_str_eq(g.generation.s, GEN);
	ms_manifest_release(&g);
	OK(read_manifest(b.data, b.len, b.len, &g, NULL, &err));
	cr_assert_eq(g.state.db_pages, N);
	ms_manifest_release(&g);
	seen_release(&s);

	ms_buf_clear(&b); /* pages that do not sum up to the checksum the manifest states */
	m.state.checksum++;
	OK(ms_manifest_encode(&m, pages, NULL, NULL, 1, &b, &err));
	FAILS(MS_ECORRUPT, decode_manifest(b.data, b.len, &err));
	ms_buf_release(&b);
	free(pages);
}

Test(manifest, every_bit_counts_inline, .timeout = 120) {
	uint8_t pages[3 * 512];
	fill_text(pages, sizeof pages, 4);
	struct ms_manifest m = inline_manifest(3, pages);
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	OK(ms_manifest_encode(&m, pages, NULL, NULL, 1, &b, &err));
	damage_everywhere(decode_manifest, b.data, b.len);
	ms_buf_release(&b);
}

static struct ms_chunk_ref chunks[3] = {{1, 1000, 0x1111, 900, {GEN}, false}, {1001, 1000, 0x2222, 901, {OLD}, false}, {2001, 1, 0x3333, 90, {OLD}, false}};
static const uint32_t patched[] = {1, 1500, 2002, 2003};

static struct ms_manifest chunked_manifest(void) {
	return (struct ms_manifest){.generation = {GEN}, .mode = 0600, .epoch = 4, .pages_per_chunk = 1000, .chunks = chunks, .nchunks = 3, .npatches = 4,
				    .parent_generation = {OLD}, .fork_txid = 8,
				    .state = {.txid = 9, .time_us = 1, .page_size = 512, .db_pages = 2003, .checksum = 0xabcdef}};
}

Test(manifest, chunks_and_patches) {
	uint8_t patches[4 * 512];
	fill_random(patches, sizeof patches, 3);
	struct ms_manifest m = chunked_manifest(), g;
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	OK(ms_manifest_encode(&m, NULL, patched, patches, 1, &b, &err));
	struct seen s;
	seen_init(&s);
	OK(read_manifest(b.data, b.len, 77, &g, &s, &err));
	cr_assert(s.pages.len == sizeof patches && !memcmp(s.pages.data, patches, sizeof patches));
	for (int i = 0; i < 4; i++)
		cr_assert_eq(ms_get_le32(s.numbers.data + 4 * i), patched[i]);
	cr_assert(g.nchunks == 3 && g.npatches == 4 && g.pages_per_chunk == 1000 && g.epoch == 4 && g.fork_txid == 8 && !g.inline_pages);
	cr_assert_str_eq(g.parent_generation.s, OLD);
	for (int i = 0; i < 3; i++) {
		const struct ms_chunk_ref *x = &g.chunks[i], *y = &chunks[i];
		cr_assert(x->first_page == y->first_page && x->pages == y->pages && x->hash == y->hash && x->bytes == y->bytes);
		cr_assert_str_eq(x->generation.s, y->generation.s);
	}
	ms_manifest_release(&g);
	seen_release(&s);
	ms_buf_release(&b);
}

Test(manifest, every_bit_counts_chunked, .timeout = 120) {
	uint8_t patches[4 * 512];
	fill_text(patches, sizeof patches, 3);
	struct ms_manifest m = chunked_manifest();
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	OK(ms_manifest_encode(&m, NULL, patched, patches, 1, &b, &err));
	damage_everywhere(decode_manifest, b.data, b.len);
	ms_buf_release(&b);
}

Test(manifest, contract) {
	uint8_t patches[4 * 512] = {0};
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	struct ms_manifest m;
	struct ms_chunk_ref c[3];
	uint32_t p[4];
#define REFUSED(change)                                                                                                                  \
	m = chunked_manifest();                                                                                                          \
	memcpy(c, chunks, sizeof c), memcpy(p, patched, sizeof p), m.chunks = c;                                                         \
	change;                                                                                                                          \
	FAILS(MS_EINVAL, ms_manifest_encode(&m, patches, p, patches, 1, &b, &err))
	REFUSED(m.generation.s[0] = 0);
	REFUSED(m.state.txid = 0);
	REFUSED(m.state.page_size = 100);
	REFUSED(m.state.db_pages = 0);
	REFUSED(m.state.time_us = -1);
	REFUSED(m.mode = 0100644); /* st_mode instead of permission bits */
	REFUSED(m.inline_pages = true);
	REFUSED(c[1].first_page = 1002);
	REFUSED(c[1].pages = 0);
	REFUSED(c[1].generation.s[0] = 0);
	REFUSED(c[0].pages = MS_CHUNK_BYTES_MAX / 512 + 1);
	REFUSED(m.parent_generation.s[0] = 0);
	REFUSED(m.state.db_pages = 2000);     /* chunks reach past it */
	REFUSED(m.state.db_pages = 2004);     /* page 2004 is nowhere */
	REFUSED((m.npatches = 3));	      /* page 2003 is nowhere */
	REFUSED((p[0] = 1500, p[1] = 1));     /* out of order */
	REFUSED(p[3] = 2004);
	cr_assert_eq(b.len, 0);
	ms_buf_release(&b);
}

/* The lock page alone may be missing behind the chunks: no page is ever there. */
Test(manifest, lock_page_needs_no_patch) {
	uint32_t lock = 0x40000000u / 65536 + 1;
	struct ms_chunk_ref *many = calloc(17, sizeof *many);
	for (uint32_t i = 0; i < 16; i++)
		many[i] = (struct ms_chunk_ref){1 + i * 1024, 1024, i, 1, {GEN}, false};
	struct ms_manifest m = {.generation = {GEN}, .epoch = 3, .chunks = many, .nchunks = 16,
				.state = {.txid = 1, .page_size = 65536, .db_pages = lock}};
	cr_assert_eq(lock, 16385);
	struct ms_buf b;
	ms_buf_init(&b, 1 << 20);
	OK(ms_manifest_encode(&m, NULL, NULL, NULL, 1, &b, &err));
	OK(decode_manifest(b.data, b.len, &err));
	free(many);
	ms_buf_release(&b);
}

/* A terabyte in chunks of 4 MiB: the manifest stays far below its limit. */
Test(manifest, a_terabyte, .timeout = 60) {
	uint32_t n = 262144;
	struct ms_chunk_ref *many = calloc(n, sizeof *many);
	for (uint32_t i = 0; i < n; i++)
		many[i] = (struct ms_chunk_ref){1 + i * 1024, 1024, i * 77777777777ull, 1000000 + i, {GEN}, false};
	struct ms_manifest m = {.generation = {GEN}, .epoch = 3, .chunks = many, .nchunks = n, .pages_per_chunk = 1024,
				.state = {.txid = 1, .page_size = 4096, .db_pages = n * 1024}},
			   g;
	struct ms_buf b;
	ms_buf_init(&b, 32 << 20);
	OK(ms_manifest_encode(&m, NULL, NULL, NULL, 1, &b, &err));
	cr_assert_lt(b.len, 4u << 20);
	OK(read_manifest(b.data, b.len, 1 << 16, &g, NULL, &err));
	cr_assert(g.nchunks == n && g.chunks[n - 1].first_page == 1 + (n - 1) * 1024 && g.chunks[n - 1].hash == (n - 1) * 77777777777ull);
	ms_manifest_release(&g);
	free(many);
	ms_buf_release(&b);
}

/* ---- patch chunks ---- */

static const uint32_t scattered[] = {3, 4, 900, 2003, 2100};

static struct ms_chunk_ref scattered_ref(const uint8_t *pages) {
	uint64_t sum = 0;
	for (int i = 0; i < 5; i++)
		sum += ms_page_hash(scattered[i], pages + 512 * i, 512);
	return (struct ms_chunk_ref){.first_page = 3, .pages = 5, .hash = ~sum, .generation = {GEN}, .patch = true};
}

static struct ms_chunk_ref damaged_ref;
static enum ms_code decode_scattered(const uint8_t *p, size_t n, struct ms_err *e) { return read_chunk(&damaged_ref, 512, p, n, 100, NULL, e); }

Test(chunk, patch_round_trip) {
	uint8_t pages[5 * 512];
	struct ms_buf b;
	struct seen s;
	uint64_t hash;
	fill_text(pages, sizeof pages, 9);
	struct ms_chunk_ref ref = scattered_ref(pages);
	ms_buf_init(&b, 1 << 20);
	OK(ms_chunk_encode_patch(scattered, 5, 512, pages, 1, &b, &hash, &err));
	cr_expect_eq(hash, ref.hash);
	ref.bytes = b.len;
	seen_init(&s);
	OK(read_chunk(&ref, 512, b.data, b.len, 77, &s, &err));
	cr_assert(s.pages.len == sizeof pages && !memcmp(s.pages.data, pages, sizeof pages));
	for (int i = 0; i < 5; i++)
		cr_assert_eq(ms_get_le32(s.numbers.data + 4 * i), scattered[i]);
	damaged_ref = ref;
	damage_everywhere(decode_scattered, b.data, b.len);
	/* It is no chunk of consecutive pages, nor of other pages. */
	struct ms_chunk_ref wrong[] = {ref, ref, ref, ref};
	wrong[0].patch = false, wrong[1].first_page = 4, wrong[2].pages = 4, wrong[3].hash = ~ref.hash;
	for (int i = 0; i < 4; i++)
		cr_expect_eq(read_chunk(&wrong[i], 512, b.data, b.len, 4096, NULL, NULL), MS_ECORRUPT, "%d", i);
	uint32_t unordered[] = {3, 900, 4, 2003, 2100}, twice[] = {3, 3, 4, 5, 6};
	cr_expect_eq(ms_chunk_encode_patch(unordered, 5, 512, pages, 1, &b, &hash, NULL), MS_EINVAL);
	cr_expect_eq(ms_chunk_encode_patch(twice, 5, 512, pages, 1, &b, &hash, NULL), MS_EINVAL);
	cr_expect_eq(ms_chunk_encode_patch(scattered, 0, 512, pages, 1, &b, &hash, NULL), MS_EINVAL);
	seen_release(&s);
	ms_buf_release(&b);
}

Test(manifest, patch_chunks, .timeout = 60) {
	uint8_t patches[4 * 512];
	struct ms_chunk_ref refs[5];
	struct ms_manifest m = chunked_manifest(), g;
	struct ms_buf b;
	fill_text(patches, sizeof patches, 3);
	memcpy(refs, chunks, sizeof chunks);
	refs[3] = (struct ms_chunk_ref){1999, 2, 0x4444, 44, {OLD}, true};
	refs[4] = (struct ms_chunk_ref){7, 1000, 0x5555, 0, {GEN}, true};
	m.chunks = refs;
	m.nchunks = 5;
	ms_buf_init(&b, 1 << 20);
	OK(ms_manifest_encode(&m, NULL, patched, patches, 1, &b, &err));
	OK(read_manifest(b.data, b.len, 50, &g, NULL, &err));
	cr_assert_eq(g.nchunks, 5);
	for (int i = 0; i < 5; i++) {
		const struct ms_chunk_ref *x = &g.chunks[i], *y = &refs[i];
		cr_assert(x->first_page == y->first_page && x->pages == y->pages && x->hash == y->hash && x->bytes == y->bytes && x->patch == y->patch, "%d", i);
		cr_assert_str_eq(x->generation.s, y->generation.s);
	}
	ms_manifest_release(&g);
	damage_everywhere(decode_manifest, b.data, b.len);
	ms_buf_clear(&b);
	/* They come last, and hold something. */
	refs[1].patch = true;
	cr_expect_eq(ms_manifest_encode(&m, NULL, patched, patches, 1, &b, NULL), MS_EINVAL);
	refs[1].patch = false;
	refs[4].pages = 0;
	cr_expect_eq(ms_manifest_encode(&m, NULL, patched, patches, 1, &b, NULL), MS_EINVAL);
	refs[4].pages = 1000;
	refs[4].first_page = 0;
	cr_expect_eq(ms_manifest_encode(&m, NULL, patched, patches, 1, &b, NULL), MS_EINVAL);
	ms_buf_release(&b);
}
