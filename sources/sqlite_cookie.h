/*
 * Where the follower stood: the bytes inside a struct ms_cookie. All little-endian:
 *   u8 version (1) | u8 flags (1: checksums big-endian, 2: the WAL was empty and the file alone was the state) | u16 0 | u32 page
 * size | u32 salt 1 | u32 salt 2 | u32 frame | u32 checksum [2] | u32 change counter | u32 db pages | u64 inode | u64 inode of
 * the -wal | u64 file bytes | i64 file mtime ns
 */
#ifndef MS_SOURCES_SQLITE_COOKIE_H
#define MS_SOURCES_SQLITE_COOKIE_H

#include "sources/source.h"
#include "sources/wal_format.h"

struct ms_sqlite_cookie {
	bool big_endian, file_only;
	uint32_t page_size, salt1, salt2, frame;
	struct ms_wal_sum sum; /* running checksum of that frame, a commit frame */
	uint32_t change, db_pages;
	uint64_t ino, wal_ino;
	uint64_t file_bytes; /* these two only with file_only */
	int64_t file_mtime_ns;
};

void ms_sqlite_cookie_put(const struct ms_sqlite_cookie *c, struct ms_cookie *ret);
bool ms_sqlite_cookie_get(const struct ms_cookie *c,
			  struct ms_sqlite_cookie *ret); /* false: not one of ours, or another version */

#endif
