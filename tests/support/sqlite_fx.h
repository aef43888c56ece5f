/*
 * What the tests of the SQLite source start from: an application and an oracle in processes of their own, a database in WAL mode
 * with the tables of the load, and a source attached to it. Criterion assertions; each test runs in its own process.
 */
#ifndef MS_TESTS_SUPPORT_SQLITE_FX_H
#define MS_TESTS_SUPPORT_SQLITE_FX_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/source_rig.h"
#include "support/tmpdir.h"

struct fx {
	char *dir, *db;
	struct sq_worker *app, *oracle;
	struct rig r;
};

/* Processes and the database, no source yet. */
static inline void fx_database(struct fx *f, const char *before) {
	f->dir = ms_test_tmpdir();
	f->db = ms_test_path(f->dir, "app.db");
	f->app = sq_spawn();
	f->oracle = sq_spawn();
	cr_assert_eq(sq_open(f->app, f->db, 2000), 0);
	cr_assert_eq(sq_exec(f->app, "%s", before), 0);
	cr_assert_str_eq(sq_query(f->app, "PRAGMA journal_mode=WAL"), "wal");
	cr_assert_eq(sq_load_schema(f->app), 0);
}

static inline void fx_open(struct fx *f, const char *before, const struct ms_sqlite_wal_options *opt) {
	fx_database(f, before);
	rig_init(&f->r, f->db, opt);
	cr_assert_eq(rig_attach(&f->r, NULL), MS_SRC_FOLLOWING, "%s", f->r.res.why);
	cr_assert_not(f->r.info.continuous);
}

/* Image, count of commits and order are as the oracle says. */
static inline void fx_check(struct fx *f) {
	cr_assert_eq(rig_drain(&f->r, 30), MS_SRC_FOLLOWING, "%s", f->r.res.why);
	cr_assert_eq(f->r.mismatches, 0, "%s", f->r.note);
	cr_assert_eq(f->r.at, f->r.nexpect, "%u of %u commits", f->r.at, f->r.nexpect);
	const char *why = rig_compare(&f->r, f->oracle, f->db);
	cr_assert_str_empty(why, "%s", why);
	cr_assert_str_eq(rig_query(&f->r, "PRAGMA integrity_check"), "ok");
}

static inline void fx_close(struct fx *f) {
	rig_release(&f->r);
	sq_end(f->app);
	sq_end(f->oracle);
	free(f->db);
}

static inline void fx_run(struct fx *f, const char *sql) {
	const char *text = sq_query(f->app, "%s", sql);
	cr_assert_neq(strncmp(text, "error", 5), 0, "%s: %s", sql, text);
}

/* One committed transaction, expected as it is. */
static inline void fx_commit(struct fx *f, const char *sql) {
	fx_run(f, sql);
	rig_expect_now(&f->r, f->oracle, f->db);
}

static inline void fx_small(struct fx *f, unsigned n) {
	for (unsigned i = 0; i < n; i++)
		fx_commit(f, "BEGIN; UPDATE seq SET n=n+1; UPDATE kv SET v=randomblob(80) WHERE id=abs(random()%2000); COMMIT");
}

#endif
