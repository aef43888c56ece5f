/*
 * Frames to transactions.
 *
 * Happy path: one read brings the frames between the position and mxFrame into the buffer; their salts and checksum chain are
 * verified from the running checksum of the last commit; they are cut at commit frames, and each transaction goes to the sink
 * with the newest image of each page. A transaction that does not fit the buffer is verified in a first pass and handed over in a
 * second, which verifies again.
 *
 * At the end of a batch the running checksum must be the wal-index's, and the commits counted must be what the change counter
 * grew by.
 *
 * Crossing a reset (SQLITE.md, release windows): the last frames of the old generation still lie in the file behind what the new
 * one has overwritten. They are believed when (1) they chain on from our position under the old salts, (2) the new generation
 * has, after they were read, not come past the frame where the reading began, and (3) the change counter grew by exactly the
 * commits found in both. Where an application pads its commits (no powersafe overwrite), (3) proves nothing: repeated commit frames are not
 * counted, and may hide as many commits that are missing. Then only a mark held all the time is proof, so no window is opened, and a reset
 * without a mark is doubt.
 */
#include "sources/sqlite_wal_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"

#define FIRST_BUFFER (256u << 10)

void ms_wal_doubt(struct ms_sqlite_wal *s, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof s->why, fmt, ap);
	va_end(ap);
	if (!s->lost) {
		s->lost_change = s->pos.change;
		s->lost_change_known = !s->padded;
	}
	s->lost = true;
	s->rest_last = 0;
	s->batch.count = 0;
}

static size_t buffer_most(const struct ms_sqlite_wal *s) {
	size_t most = s->opt.memory_bytes;
	return most < 2 * s->frame_bytes ? 2 * s->frame_bytes : most;
}

enum ms_code ms_wal_buffer(struct ms_sqlite_wal *s, size_t bytes, struct ms_err *err) {
	size_t most = buffer_most(s), cap = s->buf_cap ? s->buf_cap : FIRST_BUFFER;
	if (bytes > most)
		bytes = most;
	while (cap < bytes)
		cap *= 2;
	if (cap > most)
		cap = most;
	if (cap <= s->buf_cap)
		return MS_OK;
	s->batch.count = 0;
	free(s->buf);
	s->buf_cap = 0;
	if (!(s->buf = malloc(cap)))
		return ms_err_set(err, MS_ENOMEM, "WAL buffer of %zu bytes", cap);
	s->buf_cap = cap;
	return MS_OK;
}

/* Reads up to n frames from `first` and keeps the prefix that chains on from sum. *ret_sum: of the last one kept. */
static enum ms_code fill(struct ms_sqlite_wal *s, uint32_t first, uint32_t n, struct ms_wal_sum sum, struct ms_wal_sum *ret_sum,
			 struct ms_err *err) {
	size_t got;
	s->batch = (struct ms_wal_batch){.first = first};
	enum ms_code rc = ms_wal_buffer(s, (size_t)n * s->frame_bytes, err);
	if (rc != MS_OK)
		return rc;
	size_t fit = s->buf_cap / s->frame_bytes;
	if (n > fit)
		n = (uint32_t)fit;
	rc = ms_wal_pread(s, s->buf, (size_t)n * s->frame_bytes, ms_wal_frame_offset(s->page_size, first), &got, err);
	if (rc != MS_OK)
		return rc;
	n = (uint32_t)(got / s->frame_bytes);
	for (uint32_t i = 0; i < n; i++) {
		struct ms_wal_frame f;
		if (!ms_wal_frame_verify(&s->pos.gen, s->buf + i * s->frame_bytes, &sum, &f))
			break;
		s->batch.count++;
		if (f.db_pages) {
			s->batch.last_commit = first + i;
			s->batch.commits++;
		}
	}
	*ret_sum = sum;
	return MS_OK;
}

void ms_wal_cookie(struct ms_sqlite_wal *s, struct ms_cookie *ret) {
	struct ms_sqlite_cookie c = {.page_size = s->page_size,
				     .salt1 = s->pos.salt1,
				     .salt2 = s->pos.salt2,
				     .frame = s->pos.frame,
				     .sum = s->pos.sum,
				     .change = s->pos.change,
				     .db_pages = s->pos.db_pages,
				     .ino = s->ino,
				     .wal_ino = s->wal_ino,
				     .big_endian = s->pos.have_gen && s->pos.gen.big_endian};
	ms_sqlite_cookie_put(&c, ret);
}

static bool shipped(const struct ms_sqlite_wal *s, uint32_t pgno, uint32_t db_pages) {
	return pgno <= db_pages && pgno != ms_lock_page(s->page_size);
}

static enum ms_code sink_commit(struct ms_sqlite_wal *s, struct ms_sink *sink, const struct ms_wal_frame *f, uint32_t frame,
				struct ms_err *err) {
	struct ms_wal_pos old = s->pos;
	struct ms_flush_meta m = {.db_pages = f->db_pages, .time_us = ms_env_now_us(s->env)};
	s->pos.frame = frame;
	s->pos.sum = f->sum;
	s->pos.db_pages = f->db_pages;
	s->pos.change++;
	ms_wal_cookie(s, &m.cookie);
	struct ms_wal_pos next = s->pos;
	s->pos = old; /* the sink may still ask for pages as they were before */
	enum ms_code rc = sink->commit(sink, &m, err);
	if (rc == MS_OK)
		s->pos = next;
	return rc;
}

/* Pages of frames first..last of the batch that are the newest of their transaction. */
static enum ms_code sink_pages(struct ms_sqlite_wal *s, struct ms_sink *sink, uint32_t first, uint32_t last, bool single,
			       uint32_t db_pages, struct ms_err *err) {
	for (uint32_t frame = first; frame <= last; frame++) {
		const uint8_t *p = s->buf + (size_t)(frame - s->batch.first) * s->frame_bytes;
		uint32_t pgno = ms_get_be32(p);
		if (!shipped(s, pgno, db_pages) || (!single && ms_page_map_get(&s->tx_map, pgno) != frame))
			continue;
		enum ms_code rc = sink->page(sink, pgno, p + MS_WAL_FRAME_HEADER, err);
		if (rc != MS_OK)
			return rc;
	}
	return MS_OK;
}

/* One transaction that lies whole in the batch. */
static enum ms_code deliver(struct ms_sqlite_wal *s, struct ms_sink *sink, uint32_t first, uint32_t last, struct ms_err *err) {
	const uint8_t *base = s->buf + (size_t)(first - s->batch.first) * s->frame_bytes;
	uint32_t n = last - first + 1;
	struct ms_wal_frame f;
	enum ms_code rc;

	ms_wal_frame_parse(base + (size_t)(n - 1) * s->frame_bytes, &f);
	if (n > 1) {
		ms_page_map_clear(&s->tx_map);
		if ((rc = ms_page_map_reserve(&s->tx_map, n, err)) != MS_OK)
			return rc;
		for (uint32_t i = 0; i < n; i++)
			ms_page_map_put(&s->tx_map, ms_get_be32(base + i * s->frame_bytes), first + i);
	}
	sink->backlog = s->seen.mx_frame > last ? (s->seen.mx_frame - last) * (uint64_t)s->frame_bytes : 0;
	if ((rc = ms_page_map_reserve(&s->map, n, err)) != MS_OK || (rc = sink->begin(sink, err)) != MS_OK)
		return rc;
	if ((rc = sink_pages(s, sink, first, last, n == 1, f.db_pages, err)) != MS_OK) {
		sink->abort(sink);
		return rc;
	}
	if ((rc = sink_commit(s, sink, &f, last, err)) != MS_OK)
		return rc;
	for (uint32_t i = 0; i < n; i++)
		ms_page_map_put(&s->map, ms_get_be32(base + i * s->frame_bytes), first + i);
	return MS_OK;
}

/* All whole transactions of the batch behind the position, up to frame `last`. */
static enum ms_code deliver_batch(struct ms_sqlite_wal *s, struct ms_sink *sink, uint32_t last, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	s->in_sink = true;
	for (uint32_t frame = s->pos.frame + 1; frame <= last && rc == MS_OK; frame++)
		if (ms_get_be32(s->buf + (size_t)(frame - s->batch.first) * s->frame_bytes + 4))
			rc = deliver(s, sink, s->pos.frame + 1, frame, err);
	s->in_sink = rc != MS_OK;
	return rc;
}

/* A transaction larger than the buffer, which begins behind the position and ends at or before frame mx. */
static enum ms_code deliver_large(struct ms_sqlite_wal *s, struct ms_sink *sink, uint32_t mx, struct ms_err *err) {
	struct ms_wal_sum sum = s->pos.sum;
	struct ms_wal_frame f = {0};
	uint32_t first = s->pos.frame + 1, last = 0;
	enum ms_code rc;

	ms_page_map_clear(&s->tx_map);
	for (uint32_t at = first; !last; at += s->batch.count) {
		if (at > mx) {
			ms_wal_doubt(s, "frame %u of the WAL, the last one committed, is no commit frame", mx);
			return MS_OK;
		}
		if ((rc = fill(s, at, mx - at + 1, sum, &sum, err)) != MS_OK ||
		    (rc = ms_page_map_reserve(&s->tx_map, s->batch.count, err)) != MS_OK)
			return rc;
		if (!s->batch.count) {
			ms_wal_doubt(s, "frame %u of the WAL fails its checksum", at);
			return MS_OK;
		}
		for (uint32_t i = 0; i < s->batch.count && !last; i++) {
			ms_wal_frame_parse(s->buf + i * s->frame_bytes, &f);
			ms_page_map_put(&s->tx_map, f.pgno, at + i);
			if (f.db_pages)
				last = at + i;
		}
	}
	sink->backlog = mx > last ? (mx - last) * (uint64_t)s->frame_bytes : 0;
	if ((rc = ms_page_map_reserve(&s->map, s->tx_map.used, err)) != MS_OK || (rc = sink->begin(sink, err)) != MS_OK)
		return rc;
	sum = s->pos.sum;
	s->in_sink = true;
	for (uint32_t at = first; at <= last && rc == MS_OK; at += s->batch.count) {
		if ((rc = fill(s, at, last - at + 1, sum, &sum, err)) != MS_OK)
			break;
		if (!s->batch.count) {
			ms_wal_doubt(s, "frame %u of the WAL changed while it was read", at);
			sink->abort(sink);
			s->in_sink = false;
			return MS_OK;
		}
		rc = sink_pages(s, sink, at, at + s->batch.count - 1, false, f.db_pages, err);
	}
	if (rc != MS_OK)
		sink->abort(sink);
	else
		rc = sink_commit(s, sink, &f, last, err);
	s->in_sink = rc != MS_OK;
	if (rc != MS_OK)
		return rc;
	for (uint32_t i = 0; s->tx_map.slots && i <= s->tx_map.mask; i++)
		if (s->tx_map.slots[i].pgno && s->tx_map.slots[i].epoch == s->tx_map.epoch)
			ms_page_map_put(&s->map, s->tx_map.slots[i].pgno, s->tx_map.slots[i].frame);
	return MS_OK;
}

enum ms_code ms_wal_load_generation(struct ms_sqlite_wal *s, const struct ms_wal_index *h, bool *ret_ok, struct ms_err *err) {
	uint8_t raw[MS_WAL_HEADER_BYTES];
	struct ms_wal_header g;
	size_t n;
	*ret_ok = false;
	/* The wal-index's salts are set before the WAL's header is written, but no frame is committed before that. */
	for (int tries = 0; tries < 10; tries++) {
		enum ms_code rc = ms_wal_pread(s, raw, sizeof raw, 0, &n, err);
		if (rc != MS_OK)
			return rc;
		if (n == sizeof raw && ms_wal_header_parse(raw, &g) && g.salt1 == h->salt1 && g.salt2 == h->salt2 &&
		    g.page_size == s->page_size) {
			s->pos.gen = g;
			s->pos.have_gen = true;
			s->pos.frame = 0;
			s->pos.sum = g.sum;
			ms_page_map_clear(&s->map);
			s->batch.count = 0;
			*ret_ok = true;
			return MS_OK;
		}
		s->env->ops->sleep_us(s->env, 100);
	}
	return MS_OK;
}

/* At pos.frame == h->mx_frame: do the wal-index's own sums say the same? */
static void check_end(struct ms_sqlite_wal *s, const struct ms_wal_index *h, uint32_t from_change) {
	uint32_t found = s->pos.change - from_change, growth = h->change - from_change;
	if (!ms_wal_sum_eq(s->pos.sum, h->sum)) {
		ms_wal_doubt(s, "frame %u of the WAL has another checksum than the wal-index says", h->mx_frame);
		return;
	}
	if (found == growth)
		return;
	if ((int32_t)growth > 0 && found < growth) {
		ms_wal_doubt(s, "the wal-index counts %u commits where the WAL holds %u", growth, found);
		return;
	}
	/* More commit frames than commits: frames repeated up to a sector's end. Fewer than none: the wal-index was recovered and
	 * counts anew. The chain under one pair of salts proves continuity in both cases. */
	if ((int32_t)growth > 0)
		s->padded = true;
	s->pos.change = h->change;
}

enum ms_code ms_wal_capture(struct ms_sqlite_wal *s, struct ms_sink *sink, const struct ms_wal_index *h, uint64_t deadline_ns,
			    struct ms_err *err) {
	uint32_t from_change = s->pos.change;
	enum ms_code rc;
	bool ok;

	if (h->mx_frame && !s->pos.have_gen) {
		if ((rc = ms_wal_load_generation(s, h, &ok, err)) != MS_OK)
			return rc;
		if (!ok) {
			ms_wal_doubt(s, "the WAL's header is not the one that the wal-index names");
			return MS_OK;
		}
	}
	while (s->pos.frame < h->mx_frame) {
		struct ms_wal_sum sum;
		uint32_t n = h->mx_frame - s->pos.frame;
		if (s->batch_most && n > s->batch_most)
			n = s->batch_most;
		if ((rc = fill(s, s->pos.frame + 1, n, s->pos.sum, &sum, err)) != MS_OK)
			return rc;
		if (!s->batch.count) {
			ms_wal_doubt(s, "frame %u of the WAL fails its checksum", s->pos.frame + 1);
			return MS_OK;
		}
		rc = s->batch.last_commit ? deliver_batch(s, sink, s->batch.last_commit, err)
					  : deliver_large(s, sink, h->mx_frame, err);
		if (rc != MS_OK || s->lost)
			return rc;
		if (ms_wal_now(s) > deadline_ns && s->pos.frame < h->mx_frame)
			return MS_OK;
	}
	if (s->pos.have_gen)
		check_end(s, h, from_change);
	return MS_OK;
}

/* Commit frames among frames 1..mx under the salts of h, by their headers alone. *ret_bad: a frame is not of this generation. */
static enum ms_code count_commits(struct ms_sqlite_wal *s, const struct ms_wal_index *h, uint32_t *ret, bool *ret_bad,
				  struct ms_err *err) {
	*ret = 0;
	*ret_bad = false;
	for (uint32_t i = 1; i <= h->mx_frame; i++) {
		uint8_t head[MS_WAL_FRAME_HEADER];
		struct ms_wal_frame f;
		size_t n;
		enum ms_code rc = ms_wal_pread(s, head, sizeof head, ms_wal_frame_offset(s->page_size, i), &n, err);
		if (rc != MS_OK)
			return rc;
		ms_wal_frame_parse(head, &f);
		if (n != sizeof head || f.salt1 != h->salt1 || f.salt2 != h->salt2) {
			*ret_bad = true;
			return MS_OK;
		}
		*ret += f.db_pages != 0;
	}
	return MS_OK;
}

/*
 * Commit frames that only repeat the frame before them: without powersafe overwrite SQLite pads a commit to the sector's end that
 * way, and the change counter does not count them. Of frames 1..mx in the file, and of the batch. At least that many: a commit may also
 * write what was there.
 */
static enum ms_code count_padding(struct ms_sqlite_wal *s, uint32_t mx, uint32_t *ret, struct ms_err *err) {
	size_t n, fb = s->frame_bytes;
	uint8_t *two = malloc(2 * fb), last[8] = {0};
	enum ms_code rc = MS_OK;
	*ret = 0;
	if (!two)
		return ms_err_set(err, MS_ENOMEM, "two frames");
	for (uint32_t i = 1; i <= mx && rc == MS_OK; i++) {
		uint8_t head[8];
		rc = ms_wal_pread(s, head, sizeof head, ms_wal_frame_offset(s->page_size, i), &n, err);
		bool same = rc == MS_OK && n == sizeof head && ms_get_be32(head + 4) && !memcmp(head, last, sizeof last);
		memcpy(last, head, sizeof last);
		if (!same) /* most are told apart by page number and size alone */
			continue;
		rc = ms_wal_pread(s, two, 2 * fb, ms_wal_frame_offset(s->page_size, i - 1), &n, err);
		if (rc == MS_OK && n == 2 * fb && !memcmp(two + MS_WAL_FRAME_HEADER, two + fb + MS_WAL_FRAME_HEADER, s->page_size))
			++*ret;
	}
	free(two);
	for (uint32_t i = 1; i < s->batch.count; i++) {
		const uint8_t *p = s->buf + i * fb;
		if (ms_get_be32(p + 4) && !memcmp(p, p - fb, 8) &&
		    !memcmp(p + MS_WAL_FRAME_HEADER, p - fb + MS_WAL_FRAME_HEADER, s->page_size))
			++*ret;
	}
	return rc;
}

static void drop_last_commit(struct ms_sqlite_wal *s) {
	uint32_t last = s->batch.last_commit - s->batch.first;
	s->batch.last_commit = 0;
	s->batch.commits--;
	while (last-- && !s->batch.last_commit)
		if (ms_get_be32(s->buf + (size_t)last * s->frame_bytes + 4))
			s->batch.last_commit = s->batch.first + last;
}

static void enter_next(struct ms_sqlite_wal *s) {
	s->pos.have_gen = false;
	s->pos.salt1 = s->next_salt1;
	s->pos.salt2 = s->next_salt2;
	s->pos.frame = 0;
	s->pos.sum = (struct ms_wal_sum){0, 0};
	s->rest_last = 0;
	s->batch.count = 0;
	ms_page_map_clear(&s->map);
	memset(&s->seen, 0, sizeof s->seen);
	ms_wal_new_generation(s);
}

enum ms_code ms_wal_prove_reset(struct ms_sqlite_wal *s, bool sure, struct ms_err *err) {
	struct ms_wal_index h, after;
	enum ms_code rc;
	uint32_t rest = 0, fresh;
	struct stat st;
	bool bad;

	if ((rc = ms_wal_look(s, &h, err)) != MS_OK)
		return rc;
	s->batch = (struct ms_wal_batch){0};
	if (s->pos.have_gen) {
		/* The checks below do not care how much of the file is the old generation's; the chain finds its end. */
		struct ms_wal_sum sum;
		if (fstat(s->wal_fd, &st) != 0)
			st.st_size = 0;
		int64_t room = st.st_size - ms_wal_frame_offset(s->page_size, s->pos.frame + 1);
		size_t most = buffer_most(s) / s->frame_bytes;
		uint64_t n = room > 0 ? (uint64_t)room / s->frame_bytes : 0;
		if (n > most)
			n = most;
		if (n && (rc = fill(s, s->pos.frame + 1, (uint32_t)n, s->pos.sum, &sum, err)) != MS_OK)
			return rc;
		rest = s->batch.commits;
		if (s->batch.count == most) {
			ms_wal_doubt(s, "more than %zu frames were left of a WAL that was reset", most);
			return MS_OK;
		}
	}
	if ((rc = ms_wal_look(s, &after, err)) != MS_OK)
		return rc;
	if (!ms_wal_index_same_gen(&h, &after) && h.mx_frame) {
		ms_wal_doubt(s, "the WAL was reset again although a mark was held");
		return MS_OK;
	}
	if (!sure && s->pos.have_gen && after.mx_frame > s->pos.frame) {
		ms_wal_doubt(s, "the WAL was reset and written up to frame %u before frame %u was read", after.mx_frame,
			     s->pos.frame + 1);
		return MS_OK;
	}
	if ((rc = count_commits(s, &after, &fresh, &bad, err)) != MS_OK)
		return rc;
	uint32_t growth = after.change - s->pos.change, found = rest + fresh;
	if (bad) {
		ms_wal_doubt(s, "the WAL holds other frames than the wal-index says");
		return MS_OK;
	}
	/* Whoever has not padded so far does not begin with it in the one moment that was not watched. */
	bool unsure = !sure && (s->padded || !s->attached || found != growth);
	if (unsure || (found > growth && (int32_t)growth > 0)) {
		uint32_t padding;
		if ((rc = count_padding(s, after.mx_frame, &padding, err)) != MS_OK)
			return rc;
		if (padding && found > growth && found - growth <= padding) {
			s->padded = true;
			if (sure)
				found = growth;
		}
		if (padding && unsure) {
			ms_wal_doubt(s, "the WAL was reset; %u of the commit frames found repeat another one, so that the wal-index's count of %u commits proves nothing",
				     padding, growth);
			return MS_OK;
		}
	}
	/* A writer that died between its commit frame and the wal-index leaves one commit that never was; what was committed lies
	 * in front of it. Only where a single reset is certain, and the counter has been watched all the time. */
	if (found == growth + 1 && rest && s->attached && (sure || after.salt1 == s->pos.salt1 + 1)) {
		drop_last_commit(s);
		found = growth;
	}
	if (found != growth) {
		ms_wal_doubt(s, "the WAL was reset; the wal-index counts %u commits since, %u were found", growth, found);
		return MS_OK;
	}
	s->next_salt1 = after.salt1;
	s->next_salt2 = after.salt2;
	s->rest_last = s->batch.last_commit;
	if (!s->rest_last)
		enter_next(s);
	return MS_OK;
}

enum ms_code ms_wal_deliver_rest(struct ms_sqlite_wal *s, struct ms_sink *sink, struct ms_err *err) {
	enum ms_code rc = deliver_batch(s, sink, s->rest_last, err);
	if (rc == MS_OK)
		enter_next(s);
	return rc;
}

enum ms_code ms_wal_scan(struct ms_sqlite_wal *s, uint32_t upto, bool keep_map, void (*dirty)(void *, uint32_t), void *arg,
			 uint32_t *ret_commits, uint32_t *ret_bad, struct ms_err *err) {
	enum ms_code rc;
	*ret_commits = *ret_bad = 0;
	while (s->pos.frame < upto) {
		if ((rc = fill(s, s->pos.frame + 1, upto - s->pos.frame, s->pos.sum, &s->pos.sum, err)) != MS_OK)
			return rc;
		if (!s->batch.count) {
			*ret_bad = s->pos.frame + 1;
			return MS_OK;
		}
		if (keep_map && (rc = ms_page_map_reserve(&s->map, s->batch.count, err)) != MS_OK)
			return rc;
		for (uint32_t i = 0; i < s->batch.count; i++) {
			struct ms_wal_frame f;
			ms_wal_frame_parse(s->buf + i * s->frame_bytes, &f);
			if (keep_map)
				ms_page_map_put(&s->map, f.pgno, s->batch.first + i);
			if (dirty)
				dirty(arg, f.pgno);
			if (!f.db_pages)
				continue;
			for (uint32_t pgno = s->pos.db_pages + 1; dirty && pgno && pgno <= f.db_pages; pgno++)
				dirty(arg, pgno); /* pages that it grew the database by need no frame */
			s->pos.db_pages = f.db_pages;
		}
		*ret_commits += s->batch.commits;
		s->pos.frame += s->batch.count;
	}
	s->batch.count = 0;
	return MS_OK;
}
