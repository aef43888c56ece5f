#include "support/replica_maker.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/codec.h"
#include "core/hash.h"
#include "core/head.h"
#include "core/names.h"
#include "core/segment.h"
#include "core/snapshot.h"
#include "support/tmpdir.h"

#define TXIDS_MAX 20000
#define LINEAGE_MAX 16

struct state {
	uint8_t *image;
	size_t len;
	int64_t us;
	uint64_t checksum;
	uint8_t *records; /* of the transaction that led here, commit record included */
	size_t nrecords;
	uint64_t frames;
	struct ms_generation generation;
};
struct maker {
	char dir[512];
	char db_path[512];
	sqlite3 *db;
	uint32_t page_size;
	uint64_t txid;
	int64_t next_us;
	uint32_t epoch;
	struct ms_generation generation;
	struct ms_lineage lineage[LINEAGE_MAX]; /* newest first */
	unsigned nlineage;
	uint64_t first_of_generation; /* first txid with records in it */
	struct state *at; /* [TXIDS_MAX + 1] */
	uint8_t *chain; /* deltas since the last full record, by page */
	struct ms_page_encoder *encoder;
	unsigned works;
};

#define MUST(x) \
	do { \
		struct ms_err *e_ = &fail_; \
		(void)e_; \
		if ((x) != MS_OK) { \
			fprintf(stderr, "replica maker: %s:%d: %s\n", __FILE__, __LINE__, fail_.msg); \
			abort(); \
		} \
	} while (0)
static struct ms_err fail_;

static void die(const char *what) {
	fprintf(stderr, "replica maker: %s\n", what);
	abort();
}

static void sql(struct maker *m, const char *text) {
	char *msg = NULL;
	if (sqlite3_exec(m->db, text, NULL, NULL, &msg) != SQLITE_OK)
		die(msg ? msg : "sqlite");
}

static void open_db(struct maker *m) {
	char text[128];
	if (sqlite3_open(m->db_path, &m->db) != SQLITE_OK)
		die("cannot open the database");
	snprintf(text, sizeof text, "PRAGMA page_size=%u; PRAGMA synchronous=OFF;", m->page_size);
	sql(m, text);
}

static void read_image(struct maker *m, uint8_t **ret, size_t *ret_len) {
	FILE *f = fopen(m->db_path, "rb");
	struct stat st;
	if (!f || fstat(fileno(f), &st))
		die("cannot read the database");
	*ret_len = (size_t)st.st_size;
	*ret = malloc(*ret_len ? *ret_len : 1);
	if (fread(*ret, 1, *ret_len, f) != *ret_len)
		die("short read");
	fclose(f);
}

static void write_file(const struct maker *m, const char *name, const void *data, size_t n) {
	char path[1024];
	snprintf(path, sizeof path, "%s/%s", m->dir, name);
	for (char *p = path + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(path, 0755);
		*p = '/';
	}
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(data, 1, n, f) != n || fclose(f))
		die("cannot write an object");
}

/* The state of the file now becomes `txid`; records are what differs from the state before. */
static void capture(struct maker *m, uint64_t txid, uint32_t flags) {
	struct state *s = &m->at[txid], *before = txid > 1 ? &m->at[txid - 1] : NULL;
	struct ms_buf out;
	ms_buf_init(&out, SIZE_MAX / 2);
	read_image(m, &s->image, &s->len);
	s->us = m->next_us;
	m->next_us += 1000000;
	s->generation = m->generation;
	uint32_t pages = (uint32_t)(s->len / m->page_size), old = before ? (uint32_t)(before->len / m->page_size) : 0;
	m->chain = realloc(m->chain, (pages > old ? pages : old) + 1u);
	s->checksum = 0;
	s->frames = 0;
	for (uint32_t p = 1; p <= pages; p++) {
		const uint8_t *now = s->image + (size_t)(p - 1) * m->page_size;
		const uint8_t *was = p <= old ? before->image + (size_t)(p - 1) * m->page_size : NULL;
		enum ms_record_type type;
		if (p == ms_lock_page(m->page_size))
			continue;
		uint64_t h = ms_page_hash(p, now, m->page_size);
		s->checksum += h;
		if (p > old)
			m->chain[p] = MS_MAX_CHAIN;
		if (!before || (was && memcmp(now, was, m->page_size) == 0))
			continue;
		MUST(ms_page_encode(m->encoder, p, now, m->page_size, m->chain[p] < MS_MAX_CHAIN ? was : NULL, h, &out, &type, &fail_));
		m->chain[p] = ms_record_needs_base(type) ? (uint8_t)(m->chain[p] + 1) : 0;
		s->frames++;
	}
	struct ms_commit c = {.flags = flags, .txid = txid, .time_us = s->us, .page_size = m->page_size, .db_pages = pages, .checksum = s->checksum};
	MUST(ms_commit_encode(&c, &out, &fail_));
	s->records = out.data;
	s->nrecords = out.len;
}

struct maker *maker_new(const char *replica_dir, uint32_t page_size) {
	struct maker *m = calloc(1, sizeof *m);
	char *dir = ms_test_tmpdir();
	m->at = calloc(TXIDS_MAX + 1, sizeof *m->at);
	m->page_size = page_size;
	m->epoch = 1;
	m->next_us = MAKER_T0;
	m->encoder = ms_page_encoder_new(1, false);
	ms_generation_make(&m->generation, m->epoch, 0xaaaaaaaa);
	m->lineage[0].generation = m->generation;
	m->nlineage = 1;
	m->first_of_generation = 2;
	snprintf(m->db_path, sizeof m->db_path, "%s/live.db", dir);
	maker_set_dir(m, replica_dir);
	open_db(m);
	sql(m, "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, body BLOB)");
	m->txid = 1;
	capture(m, 1, MS_COMMIT_ATTACH);
	return m;
}

void maker_free(struct maker *m) {
	sqlite3_close(m->db);
	for (size_t i = 0; i <= TXIDS_MAX; i++) {
		free(m->at[i].image);
		free(m->at[i].records);
	}
	free(m->at);
	free(m->chain);
	ms_page_encoder_free(m->encoder);
	free(m);
}

uint64_t maker_exec(struct maker *m, const char *text) {
	if (m->txid == TXIDS_MAX)
		die("too many transactions");
	sql(m, text);
	capture(m, ++m->txid, 0);
	return m->txid;
}

uint64_t maker_work(struct maker *m, unsigned rows) {
	char text[512];
	m->works++;
	snprintf(text, sizeof text,
		 "BEGIN; INSERT INTO t(n, body) SELECT %u, randomblob(40 + abs(random()) %% 400) FROM (WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL "
		 "SELECT i + 1 FROM c WHERE i < %u) SELECT i FROM c); UPDATE t SET n = n + 1, body = substr(body, 1, 30) || zeroblob(60) WHERE id %% 7 = %u; COMMIT",
		 m->works, rows, m->works % 7);
	return maker_exec(m, text);
}

uint64_t maker_txid(const struct maker *m) { return m->txid; }
const uint8_t *maker_image(const struct maker *m, uint64_t txid, size_t *ret_len) {
	*ret_len = m->at[txid].len;
	return m->at[txid].image;
}
int64_t maker_time(const struct maker *m, uint64_t txid) { return m->at[txid].us; }
void maker_set_time(struct maker *m, int64_t us) { m->next_us = us; }
const char *maker_generation(const struct maker *m) { return m->generation.s; }
void maker_set_dir(struct maker *m, const char *replica_dir) { snprintf(m->dir, sizeof m->dir, "%s", replica_dir); }

static const struct ms_generation *generation_of(const struct maker *m, uint64_t txid) { return &m->at[txid].generation; }

static void put_manifest(struct maker *m, uint64_t txid, uint64_t chunks_of, uint32_t per, const uint32_t *patch, const uint8_t *patch_pages,
			 uint32_t npatches) {
	struct state *s = &m->at[txid], *base = &m->at[chunks_of];
	struct ms_manifest man = {.generation = *generation_of(m, txid), .mode = 0640, .pages_per_chunk = per, .npatches = npatches,
		.epoch = m->epoch, .inline_pages = per == 0,
		.state = {.txid = txid, .time_us = s->us, .checksum = s->checksum, .page_size = m->page_size, .db_pages = (uint32_t)(s->len / m->page_size)}};
	struct ms_buf out;
	char name[MS_NAME_MAX];
	uint32_t pages = man.state.db_pages, have = (uint32_t)(base->len / m->page_size);
	ms_buf_init(&out, SIZE_MAX / 2);
	if (per) {
		man.chunks = calloc(pages / per + 1, sizeof *man.chunks);
		for (uint32_t first = 1; first <= pages && first <= have; first += per) {
			struct ms_chunk_ref *c = &man.chunks[man.nchunks++];
			uint32_t end = pages < have ? pages : have;
			c->first_page = first;
			c->pages = end - first + 1 < per ? end - first + 1 : per;
			c->generation = man.generation;
			ms_buf_clear(&out);
			MUST(ms_chunk_encode(first, c->pages, m->page_size, base->image + (size_t)(first - 1) * m->page_size, 1, &out, &c->hash, &fail_));
			c->bytes = out.len;
			struct ms_name n = {.kind = MS_NAME_CHUNK, .generation = c->generation, .number = first, .hash = c->hash};
			ms_name_format(&n, name);
			write_file(m, name, out.data, out.len);
		}
	}
	ms_buf_clear(&out);
	MUST(ms_manifest_encode(&man, per ? NULL : s->image, patch, patch_pages, 1, &out, &fail_));
	struct ms_name n = {.kind = MS_NAME_SNAPSHOT, .generation = man.generation, .first = txid, .first_us = s->us};
	ms_name_format(&n, name);
	write_file(m, name, out.data, out.len);
	ms_buf_release(&out);
	free(man.chunks);
}

void maker_snapshot(struct maker *m, uint64_t txid, uint32_t per) { put_manifest(m, txid, txid, per, NULL, NULL, 0); }

void maker_patched_snapshot(struct maker *m, uint64_t txid, uint64_t older, uint32_t per) {
	struct state *s = &m->at[txid], *o = &m->at[older];
	uint32_t pages = (uint32_t)(s->len / m->page_size), n = 0;
	uint32_t *pgno = calloc(pages, sizeof *pgno);
	uint8_t *data = malloc(s->len);
	for (uint32_t p = 1; p <= pages; p++) {
		size_t off = (size_t)(p - 1) * m->page_size;
		if (off < o->len && memcmp(s->image + off, o->image + off, m->page_size) == 0)
			continue;
		memcpy(data + (size_t)n * m->page_size, s->image + off, m->page_size);
		pgno[n++] = p;
	}
	put_manifest(m, txid, older, per, pgno, data, n);
	free(pgno);
	free(data);
}

static struct ms_segment_info info_of(const struct maker *m, uint64_t first, uint64_t last) {
	struct ms_segment_info i = {.generation = *generation_of(m, first), .first_txid = first, .last_txid = last, .parent_txid = first - 1,
		.page_size = m->page_size, .db_pages = (uint32_t)(m->at[last].len / m->page_size), .first_us = m->at[first].us,
		.last_us = m->at[last].us, .checksum_before = m->at[first - 1].checksum, .checksum_after = m->at[last].checksum, .kind = MS_SEG_COMMIT,
		.epoch = m->epoch};
	for (uint64_t t = first; t <= last; t++)
		i.frames += m->at[t].frames;
	if (strcmp(generation_of(m, first)->s, generation_of(m, first - 1)->s) != 0) {
		i.parent_generation = *generation_of(m, first - 1);
		i.fork_txid = first - 1;
	}
	return i;
}

static void put_segment(struct maker *m, uint64_t first, uint64_t last, bool merged) {
	struct ms_segment_info i = info_of(m, first, last);
	struct ms_buf out;
	char name[MS_NAME_MAX];
	ms_buf_init(&out, SIZE_MAX / 2);
	struct ms_segment_writer *w = ms_segment_writer_new(&i, &out);
	for (uint64_t t = first; t <= last; t++)
		MUST(ms_segment_write(w, m->at[t].records, m->at[t].nrecords, &fail_));
	MUST(ms_segment_end(w, &fail_));
	ms_segment_writer_free(w);
	struct ms_name n = {.kind = merged ? MS_NAME_MERGED : MS_NAME_SEGMENT, .generation = i.generation, .first = first, .last = last,
		.first_us = i.first_us, .last_us = i.last_us};
	ms_name_format(&n, name);
	write_file(m, name, out.data, out.len);
	ms_buf_release(&out);
}

void maker_segment(struct maker *m, uint64_t first, uint64_t last) { put_segment(m, first, last, false); }
void maker_merged(struct maker *m, uint64_t first, uint64_t last) { put_segment(m, first, last, true); }

void maker_fold(struct maker *m, uint64_t first, uint64_t last) {
	const struct state *from = &m->at[first - 1], *to = &m->at[last];
	struct ms_segment_info i = info_of(m, first, last);
	struct ms_buf records, out;
	char name[MS_NAME_MAX];
	ms_buf_init(&records, SIZE_MAX / 2);
	ms_buf_init(&out, SIZE_MAX / 2);
	i.kind = MS_SEG_CATCHUP;
	i.first_us = i.last_us;
	i.frames = 0;
	for (uint32_t p = 1; p <= i.db_pages; p++) {
		size_t off = (size_t)(p - 1) * m->page_size;
		enum ms_record_type type;
		if (off < from->len && memcmp(to->image + off, from->image + off, m->page_size) == 0)
			continue;
		MUST(ms_page_encode(m->encoder, p, to->image + off, m->page_size, NULL, ms_page_hash(p, to->image + off, m->page_size), &records, &type, &fail_));
		i.frames++;
	}
	struct ms_commit c = {.flags = MS_COMMIT_CATCHUP, .txid = last, .time_us = to->us, .page_size = m->page_size, .db_pages = i.db_pages,
		.checksum = to->checksum, .lost_commits = (int64_t)(last - first + 1)};
	MUST(ms_commit_encode(&c, &records, &fail_));
	struct ms_segment_writer *w = ms_segment_writer_new(&i, &out);
	MUST(ms_segment_write(w, records.data, records.len, &fail_));
	MUST(ms_segment_end(w, &fail_));
	ms_segment_writer_free(w);
	struct ms_name n = {.kind = MS_NAME_SEGMENT, .generation = i.generation, .first = first};
	ms_name_format(&n, name);
	write_file(m, name, out.data, out.len);
	ms_buf_release(&records);
	ms_buf_release(&out);
}

void maker_parts(struct maker *m, uint64_t txid, unsigned parts) {
	const struct state *s = &m->at[txid];
	size_t off = 0;
	if (parts > s->frames)
		parts = (unsigned)s->frames;
	for (unsigned part = 0; part < parts; part++) {
		struct ms_segment_info i = info_of(m, txid, txid);
		size_t end = off;
		uint64_t frames = 0;
		struct ms_buf out;
		char name[MS_NAME_MAX];
		bool last = part + 1 == parts;
		while (end < s->nrecords && (last || frames < s->frames / parts)) {
			struct ms_record rec;
			size_t used;
			MUST(ms_record_parse(s->records + end, s->nrecords - end, &rec, &used, &fail_));
			frames += rec.type != MS_REC_COMMIT;
			end += used;
		}
		i.part = part;
		i.more = !last;
		i.frames = frames;
		if (!last) {
			i.checksum_after = i.checksum_before;
			i.db_pages = (uint32_t)(m->at[txid - 1].len / m->page_size);
		}
		ms_buf_init(&out, SIZE_MAX / 2);
		struct ms_segment_writer *w = ms_segment_writer_new(&i, &out);
		MUST(ms_segment_write(w, s->records + off, end - off, &fail_));
		MUST(ms_segment_end(w, &fail_));
		ms_segment_writer_free(w);
		struct ms_name n = {.kind = part ? MS_NAME_SEGMENT_PART : MS_NAME_SEGMENT, .generation = i.generation, .first = txid, .number = part};
		ms_name_format(&n, name);
		write_file(m, name, out.data, out.len);
		ms_buf_release(&out);
		off = end;
	}
}

void maker_head(struct maker *m, uint32_t number, uint64_t settled, int64_t time_us) {
	struct ms_head h = {.number = number, .epoch = m->epoch, .owner = "owner", .host = "host", .generation = m->generation, .lineage = m->lineage,
		.nlineage = m->nlineage, .time_us = time_us, .settled_txid = settled};
	struct ms_buf out;
	struct ms_name n = {.kind = MS_NAME_HEAD, .number = number};
	char name[MS_NAME_MAX];
	ms_buf_init(&out, 1u << 20);
	MUST(ms_head_encode(&h, &out, &fail_));
	ms_name_format(&n, name);
	write_file(m, name, out.data, out.len);
	ms_buf_release(&out);
}

void maker_fence(struct maker *m, uint64_t txid) {
	struct ms_fence f = {.epoch = m->epoch + 1, .head_number = 2, .owner = "other", .host = "elsewhere", .time_us = m->next_us};
	struct ms_buf out;
	struct ms_name n = {.kind = MS_NAME_SEGMENT, .generation = m->generation, .first = txid};
	char name[MS_NAME_MAX];
	ms_buf_init(&out, 1u << 20);
	MUST(ms_fence_encode(&f, &out, &fail_));
	ms_name_format(&n, name);
	write_file(m, name, out.data, out.len);
	ms_buf_release(&out);
}

void maker_fork(struct maker *m, uint64_t txid) {
	sqlite3_close(m->db);
	FILE *f = fopen(m->db_path, "wb");
	if (!f || fwrite(m->at[txid].image, 1, m->at[txid].len, f) != m->at[txid].len || fclose(f))
		die("cannot go back");
	for (uint64_t t = txid + 1; t <= m->txid; t++) {
		free(m->at[t].image);
		free(m->at[t].records);
		m->at[t] = (struct state){0};
	}
	m->txid = txid;
	m->epoch++;
	struct ms_generation parent = m->generation;
	ms_generation_make(&m->generation, m->epoch, 0xbbbbbbbb);
	memmove(m->lineage + 1, m->lineage, m->nlineage * sizeof *m->lineage);
	m->nlineage++;
	m->lineage[0] = (struct ms_lineage){.generation = m->generation, .parent = parent, .fork_txid = txid};
	m->chain = realloc(m->chain, m->at[txid].len / m->page_size + 1);
	memset(m->chain, MS_MAX_CHAIN, m->at[txid].len / m->page_size + 1);
	open_db(m);
}

const char *maker_segment_path(const struct maker *m, uint64_t first) {
	static char path[1024];
	char name[MS_NAME_MAX];
	struct ms_name n = {.kind = MS_NAME_SEGMENT, .generation = *generation_of(m, first), .first = first};
	ms_name_format(&n, name);
	snprintf(path, sizeof path, "%s/%s", m->dir, name);
	return path;
}

const char *maker_snapshot_path(const struct maker *m, uint64_t txid) {
	static char path[1024];
	char name[MS_NAME_MAX];
	struct ms_name n = {.kind = MS_NAME_SNAPSHOT, .generation = *generation_of(m, txid), .first = txid, .first_us = m->at[txid].us};
	ms_name_format(&n, name);
	snprintf(path, sizeof path, "%s/%s", m->dir, name);
	return path;
}
