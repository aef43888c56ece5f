#include "sources/sqlite_cookie.h"

#include "base/buf.h"

#define COOKIE_VERSION 1
#define COOKIE_BYTES 68
_Static_assert(COOKIE_BYTES <= MS_COOKIE_MAX, "cookie fits");

void ms_sqlite_cookie_put(const struct ms_sqlite_cookie *c, struct ms_cookie *ret) {
	uint8_t *p = ret->data;
	ret->len = COOKIE_BYTES;
	p[0] = COOKIE_VERSION;
	p[1] = (uint8_t)((c->big_endian ? 1 : 0) | (c->file_only ? 2 : 0));
	p[2] = p[3] = 0;
	ms_put_le32(p + 4, c->page_size);
	ms_put_le32(p + 8, c->salt1);
	ms_put_le32(p + 12, c->salt2);
	ms_put_le32(p + 16, c->frame);
	ms_put_le32(p + 20, c->sum.s1);
	ms_put_le32(p + 24, c->sum.s2);
	ms_put_le32(p + 28, c->change);
	ms_put_le32(p + 32, c->db_pages);
	ms_put_le64(p + 36, c->ino);
	ms_put_le64(p + 44, c->wal_ino);
	ms_put_le64(p + 52, c->file_bytes);
	ms_put_le64(p + 60, (uint64_t)c->file_mtime_ns);
}

bool ms_sqlite_cookie_get(const struct ms_cookie *c, struct ms_sqlite_cookie *ret) {
	const uint8_t *p = c->data;
	if (c->len != COOKIE_BYTES || p[0] != COOKIE_VERSION || p[1] > 3)
		return false;
	*ret = (struct ms_sqlite_cookie){.big_endian = p[1] & 1,
					 .file_only = p[1] & 2,
					 .page_size = ms_get_le32(p + 4),
					 .salt1 = ms_get_le32(p + 8),
					 .salt2 = ms_get_le32(p + 12),
					 .frame = ms_get_le32(p + 16),
					 .sum = {ms_get_le32(p + 20), ms_get_le32(p + 24)},
					 .change = ms_get_le32(p + 28),
					 .db_pages = ms_get_le32(p + 32),
					 .ino = ms_get_le64(p + 36),
					 .wal_ino = ms_get_le64(p + 44),
					 .file_bytes = ms_get_le64(p + 52),
					 .file_mtime_ns = (int64_t)ms_get_le64(p + 60)};
	return true;
}
