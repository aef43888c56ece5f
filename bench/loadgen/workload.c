/*
 * The transactions. Order entry touches seven B-trees a commit; the others one or two. All of them read ids with MAX(id) or keep
 * within the seeded ranges, so that any number of processes can work on the same database.
 */
#include "workload.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum statement {
	S_BEGIN, S_COMMIT, S_ROLLBACK, S_SEQ, S_ORDER, S_LINE, S_STOCK, S_BALANCE, S_DELIVER, S_TRIM_LINES, S_TRIM_ORDERS, S_HISTORY_TOUCH,
	S_KV, S_DOC_PUT, S_DOC_PATCH, S_BULK, S_BULK_TRIM, S_COUNT
};

static const char *const sql[S_COUNT] = {
	[S_BEGIN] = "BEGIN IMMEDIATE",
	[S_COMMIT] = "COMMIT",
	[S_ROLLBACK] = "ROLLBACK",
	[S_SEQ] = "UPDATE ms_seq SET seq=seq+1, t=?1 WHERE id=1",
	[S_ORDER] = "INSERT INTO orders(customer_id,status,total,created,note) VALUES(?1,'open',?2,?3,?4)",
	[S_LINE] = "INSERT INTO order_lines(order_id,line,product_id,qty,price) VALUES(?1,?2,?3,?4,?5)",
	[S_STOCK] = "UPDATE products SET stock=stock-?2 WHERE id=?1",
	[S_BALANCE] = "UPDATE customers SET balance=balance+?2, updated=?3 WHERE id=?1",
	[S_DELIVER] = "UPDATE orders SET status='delivered' WHERE id=?1 AND status='open'",
	[S_TRIM_LINES] = "DELETE FROM order_lines WHERE order_id=?1",
	[S_TRIM_ORDERS] = "DELETE FROM orders WHERE id=?1",
	[S_HISTORY_TOUCH] = "UPDATE history SET at=?2 WHERE id=?1",
	[S_KV] = "UPDATE kv SET v=?2, version=version+1 WHERE k=?1",
	[S_DOC_PUT] = "INSERT INTO docs(id,kind,doc,updated) VALUES(?1,?2,?3,?4) ON CONFLICT(id) DO UPDATE SET doc=excluded.doc, updated=excluded.updated",
	[S_DOC_PATCH] = "UPDATE docs SET doc=json_set(doc,'$.version',?2,'$.entries[0].amount',?3), updated=?4 WHERE id=?1",
	[S_BULK] = "INSERT INTO bulk_rows(k,payload) VALUES(?1,?2)",
	[S_BULK_TRIM] = "DELETE FROM bulk_rows WHERE id <= ?1 - ?2",
};

static const char schema[] =
	"CREATE TABLE ms_seq(id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, t INTEGER NOT NULL);"
	"INSERT INTO ms_seq VALUES(1,0,0);"
	"CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT NOT NULL, region TEXT NOT NULL, balance INTEGER NOT NULL, updated INTEGER NOT NULL);"
	"CREATE INDEX customers_region ON customers(region, name);"
	"CREATE TABLE products(id INTEGER PRIMARY KEY, sku TEXT NOT NULL UNIQUE, name TEXT NOT NULL, price INTEGER NOT NULL, stock INTEGER NOT NULL);"
	"CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL, status TEXT NOT NULL, total INTEGER NOT NULL, created INTEGER NOT NULL, note TEXT);"
	"CREATE INDEX orders_customer ON orders(customer_id, created);"
	"CREATE INDEX orders_open ON orders(status, created);"
	"CREATE TABLE order_lines(order_id INTEGER NOT NULL, line INTEGER NOT NULL, product_id INTEGER NOT NULL, qty INTEGER NOT NULL, price INTEGER NOT NULL,"
	" PRIMARY KEY(order_id, line)) WITHOUT ROWID;"
	"CREATE INDEX order_lines_product ON order_lines(product_id);"
	"CREATE TABLE kv(k INTEGER PRIMARY KEY, v TEXT NOT NULL, version INTEGER NOT NULL);"
	"CREATE TABLE docs(id INTEGER PRIMARY KEY, kind TEXT NOT NULL, doc TEXT NOT NULL, updated INTEGER NOT NULL);"
	"CREATE INDEX docs_kind ON docs(kind, updated);"
	"CREATE TABLE bulk_rows(id INTEGER PRIMARY KEY, k INTEGER NOT NULL, payload TEXT NOT NULL);"
	"CREATE INDEX bulk_rows_k ON bulk_rows(k);"
	"CREATE TABLE history(id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL);"
	"CREATE INDEX history_customer ON history(customer_id, at);";

#define TEXT_MAX 32768
#define BULK_BYTES 80000
#define BULK_ROW 800

struct lg_conn {
	const struct lg_options *o;
	const struct lg_zipf *zipf;
	sqlite3 *db;
	sqlite3_stmt *st[S_COUNT];
	struct lg_rng rng;
	uint64_t history_rows, bulk_keep;
	char text[TEXT_MAX];
};

uint64_t lg_mono_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int64_t lg_wall_us(void) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t scaled(const struct lg_options *o, double n) {
	double v = n * o->scale;
	return v < 10 ? 10 : (uint64_t)v;
}
static uint64_t customers(const struct lg_options *o) { return scaled(o, 2000); }
static uint64_t products(const struct lg_options *o) { return scaled(o, 3000); }
static uint64_t documents(const struct lg_options *o) { return scaled(o, 200); }
uint32_t lg_zipf_rows(const struct lg_options *o) { return (uint32_t)scaled(o, 6000); }

static int fail(sqlite3 *db, const char *what) {
	fprintf(stderr, "ms-loadgen: %s: %s\n", what, db ? sqlite3_errmsg(db) : "out of memory");
	return -1;
}

int lg_exec(struct lg_conn *c, const char *text) {
	int rc = sqlite3_exec(c->db, text, NULL, NULL, NULL);
	if ((rc & 0xff) == SQLITE_BUSY)
		return SQLITE_BUSY;
	return rc == SQLITE_OK ? 0 : fail(c->db, text);
}

static uint64_t one_number(sqlite3 *db, const char *text) {
	sqlite3_stmt *st = NULL;
	uint64_t v = 0;
	if (sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
		v = (uint64_t)sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return v;
}

sqlite3 *lg_conn_db(struct lg_conn *c) { return c->db; }

uint64_t lg_conn_wal_pages(struct lg_conn *c) {
	int now = 0, high = 0;
	sqlite3_db_status(c->db, SQLITE_DBSTATUS_CACHE_WRITE, &now, &high, 1);
	return (uint64_t)now;
}

/* A new database gets its page size and auto_vacuum before anything is in it. */
static int configure(sqlite3 *db, const struct lg_options *o) {
	char text[512];
	sqlite3_busy_timeout(db, (int)o->busy_timeout_ms);
	snprintf(text, sizeof text, "PRAGMA page_size=%u; PRAGMA auto_vacuum=%s; PRAGMA journal_mode=WAL; PRAGMA synchronous=%s; PRAGMA wal_autocheckpoint=%d",
		 o->page_size, o->auto_vacuum ? o->auto_vacuum : "none", o->sync, o->autocheckpoint);
	int rc = SQLITE_BUSY;
	/* Entering WAL mode and recovery do not wait for busy_timeout in every case. */
	for (unsigned tries = 0; tries < 200 && (rc & 0xff) == SQLITE_BUSY; tries++) {
		if (tries)
			nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
		rc = sqlite3_exec(db, text, NULL, NULL, NULL);
	}
	if (rc == SQLITE_OK && o->cache_pages) {
		snprintf(text, sizeof text, "PRAGMA cache_size=%d", o->cache_pages);
		rc = sqlite3_exec(db, text, NULL, NULL, NULL);
	}
	return rc == SQLITE_OK ? 0 : fail(db, "setting up the connection");
}

struct lg_conn *lg_conn_new(const struct lg_options *o, const struct lg_zipf *zipf, uint64_t seed) {
	struct lg_conn *c = calloc(1, sizeof *c);
	if (!c) {
		fail(NULL, "connection");
		return NULL;
	}
	c->o = o;
	c->zipf = zipf;
	c->rng.s = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	if (sqlite3_open_v2(o->db, &c->db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
		fail(c->db, o->db);
		lg_conn_free(c);
		return NULL;
	}
	if (configure(c->db, o)) {
		lg_conn_free(c);
		return NULL;
	}
	for (unsigned i = 0; i < S_COUNT; i++)
		if (sqlite3_prepare_v3(c->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &c->st[i], NULL) != SQLITE_OK) {
			fail(c->db, sql[i]);
			lg_conn_free(c);
			return NULL;
		}
	c->history_rows = one_number(c->db, "SELECT max(id) FROM history");
	c->bulk_keep = UINT64_C(1) << 62;
	lg_conn_wal_pages(c);
	return c;
}

void lg_conn_free(struct lg_conn *c) {
	if (!c)
		return;
	for (unsigned i = 0; i < S_COUNT; i++)
		sqlite3_finalize(c->st[i]);
	sqlite3_close(c->db);
	free(c);
}

/* Binds integers v[0..n) from parameter 1 and, with text, that text after them; runs. Returns the SQLite result, SQLITE_OK when done. */
static int run(struct lg_conn *c, enum statement s, const int64_t *v, int n, const char *text, size_t len) {
	sqlite3_stmt *st = c->st[s];
	for (int i = 0; i < n; i++)
		sqlite3_bind_int64(st, i + 1, v[i]);
	if (text)
		sqlite3_bind_text(st, n + 1, text, (int)len, SQLITE_STATIC);
	int rc = sqlite3_step(st);
	int rc2 = sqlite3_reset(st);
	return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc2 ? rc2 : rc;
}
#define RUN(c, s, ...) run((c), (s), (const int64_t[]){__VA_ARGS__}, (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), NULL, 0)

static int order(struct lg_conn *c, int64_t t) {
	struct lg_rng *r = &c->rng;
	int64_t customer = 1 + (int64_t)lg_below(r, customers(c->o)), total = (int64_t)lg_below(r, 100000);
	unsigned lines = 1 + (unsigned)lg_below(r, 3);
	lg_text(r, c->text, 40);
	int rc = run(c, S_ORDER, (const int64_t[]){customer, total, t}, 3, c->text, 40);
	int64_t id = sqlite3_last_insert_rowid(c->db);
	for (unsigned i = 0; rc == SQLITE_OK && i < lines; i++) {
		int64_t product = 1 + (int64_t)lg_below(r, products(c->o)), qty = 1 + (int64_t)lg_below(r, 9);
		rc = RUN(c, S_LINE, id, i, product, qty, (int64_t)lg_below(r, 10000));
		if (rc == SQLITE_OK)
			rc = RUN(c, S_STOCK, product, qty);
	}
	if (rc == SQLITE_OK)
		rc = RUN(c, S_BALANCE, customer, total, t);
	if (rc == SQLITE_OK && lg_below(r, 2))
		rc = RUN(c, S_DELIVER, id - (int64_t)lg_below(r, 200));
	if (rc == SQLITE_OK && (uint64_t)id > c->o->retain) {
		rc = RUN(c, S_TRIM_LINES, id - (int64_t)c->o->retain);
		if (rc == SQLITE_OK)
			rc = RUN(c, S_TRIM_ORDERS, id - (int64_t)c->o->retain);
	}
	if (rc == SQLITE_OK && c->history_rows && lg_below(r, 10) == 0)
		rc = RUN(c, S_HISTORY_TOUCH, 1 + (int64_t)lg_below(r, c->history_rows), t);
	return rc;
}

static int zipf(struct lg_conn *c) {
	/* Spread the ranks, so that hot rows are not neighbours. */
	uint64_t row = ((uint64_t)lg_zipf_next(c->zipf, &c->rng) * UINT64_C(2654435761)) % c->zipf->n;
	size_t len = 100 + lg_below(&c->rng, 100);
	lg_text(&c->rng, c->text, len);
	return run(c, S_KV, (const int64_t[]){(int64_t)row}, 1, c->text, len);
}

static int document(struct lg_conn *c, int64_t t) {
	struct lg_rng *r = &c->rng;
	int64_t id = 1 + (int64_t)lg_below(r, documents(c->o));
	if (lg_below(r, 4)) {
		return RUN(c, S_DOC_PATCH, id, (int64_t)lg_below(r, 100000), (int64_t)lg_below(r, 10000), t);
	}
	size_t len = lg_document(r, (uint64_t)id, c->text, 2048 + lg_below(r, 10240));
	sqlite3_stmt *st = c->st[S_DOC_PUT];
	sqlite3_bind_int64(st, 1, id);
	sqlite3_bind_text(st, 2, id & 1 ? "invoice" : "shipment", -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, c->text, (int)len, SQLITE_STATIC);
	sqlite3_bind_int64(st, 4, t);
	int rc = sqlite3_step(st);
	sqlite3_reset(st);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int bulk(struct lg_conn *c) {
	int rc = SQLITE_OK;
	for (unsigned i = 0; rc == SQLITE_OK && i < BULK_BYTES / BULK_ROW; i++) {
		lg_text(&c->rng, c->text, BULK_ROW);
		rc = run(c, S_BULK, (const int64_t[]){(int64_t)(lg_random(&c->rng) >> 24)}, 1, c->text, BULK_ROW);
	}
	return rc;
}

static int profile(struct lg_conn *c, int64_t t) {
	switch (c->o->profile) {
	case LG_OLTP: return order(c, t);
	case LG_BULK: return bulk(c);
	case LG_ZIPF: return zipf(c);
	case LG_DOCUMENTS: return document(c, t);
	default: break;
	}
	uint64_t x = lg_below(&c->rng, 100);
	return x < 60 ? order(c, t) : x < 80 ? zipf(c) : x < 97 ? document(c, t) : bulk(c);
}

/* What a failed transaction means to the caller: rolled back, and busy or fatal. */
static int undo(struct lg_conn *c, int rc) {
	if ((rc & 0xff) != SQLITE_BUSY)
		fail(c->db, "transaction");
	if (!sqlite3_get_autocommit(c->db))
		RUN(c, S_ROLLBACK, 0);
	return (rc & 0xff) == SQLITE_BUSY ? SQLITE_BUSY : -1;
}

int lg_transaction(struct lg_conn *c, int64_t begin_us, uint64_t *ret_commit_ns) {
	int rc = run(c, S_BEGIN, NULL, 0, NULL, 0);
	if (rc == SQLITE_OK)
		rc = profile(c, begin_us);
	if (rc == SQLITE_OK)
		rc = RUN(c, S_SEQ, begin_us);
	if (rc != SQLITE_OK)
		return undo(c, rc);
	uint64_t t = lg_mono_ns();
	rc = run(c, S_COMMIT, NULL, 0, NULL, 0);
	*ret_commit_ns = lg_mono_ns() - t;
	return rc == SQLITE_OK ? 0 : undo(c, rc);
}

int lg_rolled_back(struct lg_conn *c) {
	int rc = lg_exec(c, "PRAGMA cache_size=20; BEGIN IMMEDIATE");
	if (!rc)
		rc = lg_exec(c, "UPDATE kv SET v=v||'rolled back', version=version+1; UPDATE docs SET doc=doc||' '; DELETE FROM order_lines; ROLLBACK");
	if (rc && !sqlite3_get_autocommit(c->db))
		sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
	char text[64];
	snprintf(text, sizeof text, "PRAGMA cache_size=%d", c->o->cache_pages ? c->o->cache_pages : -2000);
	return rc ? rc : lg_exec(c, text);
}

/* ---- a new database ---- */

static int fill(sqlite3 *db, const struct lg_options *o) {
	struct lg_rng r = {.s = o->seed ^ 0x5eed};
	char text[16384];
	sqlite3_stmt *st = NULL;
	int rc;
#define EACH(statement, count, bindings)                                                                                                            \
	rc = sqlite3_prepare_v2(db, statement, -1, &st, NULL);                                                                                       \
	for (uint64_t i = 1; rc == SQLITE_OK && i <= (count); i++) {                                                                                 \
		bindings;                                                                                                                            \
		if (sqlite3_step(st) != SQLITE_DONE)                                                                                                 \
			rc = SQLITE_ERROR;                                                                                                           \
		sqlite3_reset(st);                                                                                                                   \
	}                                                                                                                                            \
	sqlite3_finalize(st);                                                                                                                        \
	if (rc != SQLITE_OK)                                                                                                                         \
	return fail(db, statement)
	EACH("INSERT INTO customers VALUES(?1,?2,'region '||(?1%17),0,0)", customers(o), {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)i);
		lg_text(&r, text, 30);
		sqlite3_bind_text(st, 2, text, 30, SQLITE_STATIC);
	});
	EACH("INSERT INTO products VALUES(?1,'sku-'||(?1*7919),?2,?1%1000,1000000)", products(o), {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)i);
		lg_text(&r, text, 40);
		sqlite3_bind_text(st, 2, text, 40, SQLITE_STATIC);
	});
	EACH("INSERT INTO kv VALUES(?1-1,?2,0)", lg_zipf_rows(o), {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)i);
		lg_text(&r, text, 150);
		sqlite3_bind_text(st, 2, text, 150, SQLITE_STATIC);
	});
	EACH("INSERT INTO docs VALUES(?1,iif(?1&1,'invoice','shipment'),?2,0)", documents(o), {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)i);
		sqlite3_bind_text(st, 2, text, (int)lg_document(&r, i, text, 4096), SQLITE_STATIC);
	});
#undef EACH
	return 0;
}

/* History rows of about 1 KiB in transactions of about 16 MiB until the file is large enough. */
static int grow(sqlite3 *db, const struct lg_options *o) {
	struct lg_rng r = {.s = o->seed ^ 0x9e0};
	char text[2048];
	sqlite3_stmt *st = NULL;
	if (sqlite3_prepare_v2(db, "INSERT INTO history(customer_id,at,body) VALUES(?1,0,?2)", -1, &st, NULL) != SQLITE_OK)
		return fail(db, "history");
	int rc = 0;
	while (!rc && one_number(db, "PRAGMA page_count") * one_number(db, "PRAGMA page_size") < o->size) {
		if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
			rc = fail(db, "BEGIN");
		for (unsigned i = 0; !rc && i < 16384; i++) {
			size_t len = 600 + lg_below(&r, 800);
			lg_text(&r, text, len);
			sqlite3_bind_int64(st, 1, 1 + (sqlite3_int64)lg_below(&r, customers(o)));
			sqlite3_bind_text(st, 2, text, (int)len, SQLITE_STATIC);
			if (sqlite3_step(st) != SQLITE_DONE)
				rc = fail(db, "history");
			sqlite3_reset(st);
			if ((i & 63) == 63 && one_number(db, "PRAGMA page_count") * one_number(db, "PRAGMA page_size") >= o->size)
				break;
		}
		if (!rc && sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
			rc = fail(db, "COMMIT");
	}
	sqlite3_finalize(st);
	return rc;
}

int lg_prepare(const struct lg_options *o) {
	sqlite3 *db = NULL;
	int rc = -1;
	if (sqlite3_open_v2(o->db, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK) {
		fail(db, o->db);
		goto out;
	}
	if (configure(db, o))
		goto out;
	if (!one_number(db, "SELECT count(*) FROM sqlite_schema WHERE name='ms_seq'")) {
		if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK || sqlite3_exec(db, schema, NULL, NULL, NULL) != SQLITE_OK) {
			fail(db, "schema");
			goto out;
		}
		if (fill(db, o))
			goto out;
		if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK) {
			fail(db, "COMMIT");
			goto out;
		}
	}
	rc = grow(db, o);
out:
	sqlite3_close(db);
	return rc;
}
