/* The wal-index header as SQLite keeps it, against SQLite's own counts. */
#include <sys/mman.h>

#include "sources/sqlite_conn.h"
#include "sources/sqlite_cookie.h"
#include "sources/wal_index.h"
#include "support/sqlite_fx.h"

Test(wal_index, says_what_sqlite_says) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	struct ms_sqlite_conn c;
	struct ms_wal_index a, b;
	fx_database(&f, "PRAGMA page_size=65536");
	fx_run(&f, "PRAGMA wal_checkpoint(RESTART)");
	fx_run(&f, "UPDATE seq SET n=n+1");
	cr_assert_eq(ms_sqlite_conn_open(&c, f.db, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_sqlite_conn_begin(&c, &err), MS_OK);
	const volatile void *shm = ms_sqlite_conn_shm(&c);
	cr_assert(shm && ms_wal_index_read(shm, &a));
	ms_sqlite_conn_end(&c);
	cr_assert_eq(a.page_size, 65536);
	cr_assert_eq(a.mx_frame, 1);
	cr_assert_eq(a.backfill, 0);
	cr_assert_eq((int)a.db_pages, atoi(sq_query(f.app, "PRAGMA page_count")));
	for (int i = 0; i < 5; i++)
		fx_run(&f, "UPDATE seq SET n=n+1");
	cr_assert(ms_wal_index_read(shm, &b));
	cr_assert_eq(b.change, a.change + 5);
	cr_assert_eq(b.mx_frame, 6);
	cr_assert(ms_wal_index_same_gen(&a, &b));
	cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(PASSIVE)"), "0");
	cr_assert(ms_wal_index_read(shm, &b));
	cr_assert_eq(b.backfill, 6);
	fx_run(&f, "UPDATE seq SET n=n+1"); /* resets the WAL */
	cr_assert(ms_wal_index_read(shm, &b));
	cr_assert_eq(b.change, a.change + 6);
	cr_assert_eq(b.mx_frame, 1);
	cr_assert_eq(b.salt1, a.salt1 + 1);
	cr_assert_not(ms_wal_index_same_gen(&a, &b));
	/* Any single changed byte of either copy makes it unreadable, as between two stores of a writer. */
	uint8_t copy[MS_WAL_INDEX_BYTES];
	for (size_t i = 0; i < 96; i++) {
		memcpy(copy, (const void *)(uintptr_t)shm, sizeof copy);
		copy[i] ^= 1;
		cr_assert_not(ms_wal_index_read((void *)copy, &a), "byte %zu", i);
	}
	ms_sqlite_conn_close(&c, false);
	sq_end(f.app);
	sq_end(f.oracle);
	free(f.db);
}

Test(wal_index, zeros_are_no_header) {
	_Alignas(8) uint8_t zero[MS_WAL_INDEX_BYTES] = {0};
	struct ms_wal_index h;
	cr_assert_not(ms_wal_index_read(zero, &h));
}

Test(sqlite_cookie, bytes_are_as_documented) {
	struct ms_sqlite_cookie c = {.big_endian = true,
				     .page_size = 4096,
				     .salt1 = 0x11121314,
				     .salt2 = 0x21222324,
				     .frame = 7,
				     .sum = {0x31323334, 0x41424344},
				     .change = 9,
				     .db_pages = 50,
				     .ino = 0x5152535455565758,
				     .wal_ino = 3,
				     .file_bytes = 0x6162,
				     .file_mtime_ns = -1},
				back;
	static const uint8_t want[68] = {1,    1,    0, 0, 0,	16,  0,	   0,	 0x14, 0x13, 0x12, 0x11, 0x24, 0x23,
					 0x22, 0x21, 7, 0, 0,	0,   0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41,
					 9,    0,    0, 0, 50,	0,   0,	   0,	 0x58, 0x57, 0x56, 0x55, 0x54, 0x53,
					 0x52, 0x51, 3, 0, 0,	0,   0,	   0,	 0,    0,    0x62, 0x61, 0,    0,
					 0,    0,    0, 0, 255, 255, 255,  255,	 255,  255,  255,  255};
	struct ms_cookie k;
	ms_sqlite_cookie_put(&c, &k);
	cr_assert_eq(k.len, sizeof want);
	cr_assert_eq(memcmp(k.data, want, sizeof want), 0);
	cr_assert(ms_sqlite_cookie_get(&k, &back));
	cr_assert(back.big_endian && !back.file_only && back.frame == 7 && back.salt2 == c.salt2 && back.ino == c.ino &&
		  back.wal_ino == 3 && back.file_mtime_ns == -1 && back.change == 9 && back.db_pages == 50 &&
		  back.sum.s2 == c.sum.s2);
	k.data[0] = 2;
	cr_assert_not(ms_sqlite_cookie_get(&k, &back), "another version");
	k.data[0] = 1;
	k.len--;
	cr_assert_not(ms_sqlite_cookie_get(&k, &back));
	k.len = 0;
	cr_assert_not(ms_sqlite_cookie_get(&k, &back));
}
