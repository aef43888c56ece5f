/*
 * Page images at the captured position.
 *
 * As SQLite itself reads: the newest frame of the page, unless a checkpoint had written it into the database before our mark was
 * taken, then the file. What was checkpointed after that may or may not be in the file: a checkpoint that stops at a mark leaves
 * out every page that has a newer frame behind the mark, though it counts the older one as backfilled.
 * The file is exact for pages without a frame because checkpoints stop at our mark, which is not above the position.
 */
#include "sources/sqlite_wal_priv.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"

enum ms_code ms_wal_pread(struct ms_sqlite_wal *s, void *buf, size_t n, int64_t off, size_t *ret_n, struct ms_err *err) {
	size_t done = 0;
	while (done < n) {
		ssize_t r = pread(s->wal_fd, (char *)buf + done, n - done, off + (int64_t)done);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return ms_err_sys(err, errno, MS_EIO, "%s: read of %zu bytes at %lld", s->wal_path, n, (long long)off);
		if (!r)
			break;
		done += (size_t)r;
	}
	*ret_n = done;
	return MS_OK;
}

static struct ms_sqlite_conn *any_conn(struct ms_sqlite_wal *s) {
	return &s->conn[s->cur < 0 ? 0 : s->cur];
}

/* False when the frame is no longer what it was. */
static bool frame_image(struct ms_sqlite_wal *s, uint32_t frame, uint32_t pgno, uint8_t *out) {
	const struct ms_wal_batch *b = &s->batch;
	uint8_t head[MS_WAL_FRAME_HEADER];
	struct ms_wal_frame f;
	size_t n = 0;
	if (frame >= b->first && frame - b->first < b->count) {
		const uint8_t *p = s->buf + (size_t)(frame - b->first) * s->frame_bytes;
		memcpy(out, p + MS_WAL_FRAME_HEADER, s->page_size);
		return ms_get_be32(p) == pgno;
	}
	int64_t off = ms_wal_frame_offset(s->page_size, frame);
	if (ms_wal_pread(s, out, s->page_size, off + (int64_t)MS_WAL_FRAME_HEADER, &n, NULL) != MS_OK || n != s->page_size)
		return false;
	/* A writer that starts the WAL anew stores the header before the page: read the header last. */
	if (ms_wal_pread(s, head, sizeof head, off, &n, NULL) != MS_OK || n != sizeof head)
		return false;
	ms_wal_frame_parse(head, &f);
	return f.pgno == pgno && f.salt1 == s->pos.gen.salt1 && f.salt2 == s->pos.gen.salt2;
}

bool ms_wal_prev_page(struct ms_source *src, uint32_t pgno, uint8_t *out) {
	struct ms_sqlite_wal *s = (struct ms_sqlite_wal *)src;
	if (!s->attached || !pgno)
		return false;
	uint32_t f = ms_page_map_get(&s->map, pgno);
	bool hole = pgno > s->pos.db_pages; /* not a page of the database before this transaction */
	if (f && !(hole && f <= s->seen.backfill) && frame_image(s, f, pgno, out))
		return true;
	return ms_sqlite_conn_read(any_conn(s), out, s->page_size, (int64_t)(pgno - 1) * s->page_size, NULL) == MS_OK;
}

enum ms_code ms_wal_read_pages(struct ms_source *src, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err) {
	struct ms_sqlite_wal *s = (struct ms_sqlite_wal *)src;
	struct ms_wal_index h, after;
	enum ms_code rc;
	uint32_t ps = s->page_size;

	if (!s->attached || !first || !count || (uint64_t)first + count - 1 > UINT32_MAX)
		return ms_err_set(err, MS_EINVAL, "%s: pages %u+%u while %s", s->path, first, count,
				  s->attached ? "attached" : "detached");
	if (!s->lost && s->cur < 0 && (rc = ms_wal_leap(s, err)) != MS_OK) /* released in a quiet moment */
		return rc;
	/* A mark of this generation that is not above the position pins exactly the position. */
	if (s->lost || s->rest_last || s->cur < 0 || s->mark.salt1 != s->pos.salt1 || s->mark.salt2 != s->pos.salt2 ||
	    s->mark.hi > s->pos.frame)
		return ms_err_set(err, MS_EBUSY, "%s: position is not pinned just now", s->path);
	if ((rc = ms_wal_look(s, &h, err)) != MS_OK)
		return rc;
	if (!ms_wal_in_gen(s, &h))
		return ms_err_set(err, MS_EBUSY, "%s: the WAL was just reset", s->path);
	if ((rc = ms_sqlite_conn_read(&s->conn[s->cur], out, (size_t)count * ps, (int64_t)(first - 1) * ps, err)) != MS_OK)
		return rc;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t pgno = first + i, f;
		uint8_t *page = out + (size_t)i * ps;
		if (pgno == ms_lock_page(ps) || pgno > s->pos.db_pages)
			memset(page, 0, ps);
		else if ((f = ms_page_map_get(&s->map, pgno)) > s->mark.backfill && !frame_image(s, f, pgno, page))
			return ms_err_set(err, MS_EBUSY, "%s: frame %u of page %u was just overwritten", s->wal_path, f, pgno);
	}
	/* Had slot 0 been ours, the WAL may have been reset meanwhile; no other way leads out of the generation. */
	if ((rc = ms_wal_look(s, &after, err)) != MS_OK)
		return rc;
	if (!ms_wal_in_gen(s, &after))
		return ms_err_set(err, MS_EBUSY, "%s: the WAL was just reset", s->path);
	return MS_OK;
}

bool ms_wal_matches(struct ms_source *src, const struct ms_cookie *cookie) {
	struct ms_sqlite_wal *s = (struct ms_sqlite_wal *)src;
	struct ms_sqlite_cookie c;
	struct ms_wal_frame f;
	uint8_t head[MS_WAL_FRAME_HEADER];
	size_t n = 0;
	if (!s->attached || s->lost || !s->pos.have_gen || !ms_sqlite_cookie_get(cookie, &c) || c.file_only || c.ino != s->ino ||
	    c.page_size != s->page_size || c.salt1 != s->pos.gen.salt1 || c.salt2 != s->pos.gen.salt2 || !c.frame ||
	    c.frame > s->pos.frame)
		return false;
	if (ms_wal_pread(s, head, sizeof head, ms_wal_frame_offset(s->page_size, c.frame), &n, NULL) != MS_OK || n != sizeof head)
		return false;
	ms_wal_frame_parse(head, &f);
	return f.salt1 == c.salt1 && f.salt2 == c.salt2 && f.db_pages && ms_wal_sum_eq(f.sum, c.sum);
}
