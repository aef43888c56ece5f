#include "support/source_rig.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/tmpdir.h"

static void die(const char *what, const struct ms_err *err) {
	fprintf(stderr, "rig: %s: %s\n", what, err ? err->msg : "");
	exit(97);
}

static void note(struct rig *r, const char *what, unsigned long long a, unsigned long long b) {
	r->mismatches++;
	if (!r->note[0])
		snprintf(r->note, sizeof r->note, "%s: %llu, %llu", what, a, b);
}

static void resize(struct rig *r, size_t len) {
	if (len > r->cap) {
		r->cap = len * 2;
		if (!(r->image = realloc(r->image, r->cap)))
			die("memory", NULL);
	}
	if (len > r->len)
		memset(r->image + r->len, 0, len - r->len);
	r->len = len;
}

static void drop(struct rig *r) {
	for (uint32_t i = 0; i < r->npages; i++)
		free(r->pages[i].data);
	r->npages = 0;
}

static enum ms_code on_begin(struct ms_sink *k, struct ms_err *err) {
	struct rig *r = (struct rig *)k;
	(void)err;
	if (r->npages)
		note(r, "begin inside a transaction, pages", r->npages, 0);
	drop(r);
	return MS_OK;
}

static enum ms_code on_page(struct ms_sink *k, uint32_t pgno, const uint8_t *page, struct ms_err *err) {
	struct rig *r = (struct rig *)k;
	if (r->fail_pages) {
		r->fail_pages--;
		return ms_err_set(err, MS_ENOSPC, "the rig is full");
	}
	r->page_calls++;
	if (r->check_prev && (uint64_t)pgno * r->page_size <= r->len) {
		uint8_t prev[MS_PAGE_SIZE_MAX];
		if (r->src->ops->prev_page(r->src, pgno, prev) &&
		    !memcmp(prev, r->image + (size_t)(pgno - 1) * r->page_size, r->page_size))
			r->prev_ok++;
	}
	if (r->npages == r->cap_pages) {
		r->cap_pages = r->cap_pages ? r->cap_pages * 2 : 64;
		if (!(r->pages = realloc(r->pages, r->cap_pages * sizeof *r->pages)))
			die("memory", NULL);
	}
	struct rig_page *p = &r->pages[r->npages++];
	*p = (struct rig_page){pgno, malloc(r->page_size)};
	memcpy(p->data, page, r->page_size);
	return MS_OK;
}

static enum ms_code on_commit(struct ms_sink *k, const struct ms_flush_meta *m, struct ms_err *err) {
	struct rig *r = (struct rig *)k;
	size_t ps = r->page_size, before = r->len / ps;
	(void)err;
	for (size_t pgno = before + 1; pgno <= m->db_pages; pgno++) {
		bool framed = pgno == ms_lock_page(r->page_size);
		for (uint32_t i = 0; i < r->npages && !framed; i++)
			framed = r->pages[i].pgno == pgno;
		if (framed)
			continue;
		uint8_t hole[MS_PAGE_SIZE_MAX];
		if (!r->src->ops->prev_page(r->src, (uint32_t)pgno, hole))
			note(r, "page came without a frame and cannot be read", pgno, 0);
		resize(r, pgno * ps);
		memcpy(r->image + (pgno - 1) * ps, hole, ps);
		r->holes++;
	}
	resize(r, (size_t)m->db_pages * ps);
	for (uint32_t i = 0; i < r->npages; i++) {
		if (r->pages[i].pgno > m->db_pages || !r->pages[i].pgno)
			note(r, "page lies past the end", r->pages[i].pgno, m->db_pages);
		else
			memcpy(r->image + (size_t)(r->pages[i].pgno - 1) * ps, r->pages[i].data, ps);
		for (uint32_t j = 0; j < i && r->npages < 200; j++)
			if (r->pages[j].pgno == r->pages[i].pgno)
				note(r, "page twice in a commit", r->pages[i].pgno, r->commits);
	}
	drop(r);
	r->cookie = m->cookie;
	if (r->nexpect) {
		if (r->at >= r->nexpect) {
			note(r, "commit is one more than expected", r->commits + 1, r->nexpect);
		} else {
			const struct rig_expect *e = &r->expect[r->at];
			if (e->len != r->len)
				note(r, "commit has another size than its oracle", r->at + 1, e->len);
			else if (memcmp(e->data, r->image, r->len) != 0) {
				size_t i = 0;
				while (e->data[i] == r->image[i])
					i++;
				note(r, "commit differs from its oracle at byte", r->at + 1, i);
			}
			r->at++;
		}
	}
	r->commits++;
	if (r->on_commit)
		r->on_commit(r);
	return MS_OK;
}

static void on_abort(struct ms_sink *k) {
	drop((struct rig *)k);
}

void rig_init(struct rig *r, const char *db, const struct ms_sqlite_wal_options *opt) {
	struct ms_err err = MS_ERR_INIT;
	*r = (struct rig){.sink = {on_begin, on_page, on_commit, on_abort}};
	if (!(r->env = ms_env_uv_new(NULL, &err)) || !(r->src = ms_sqlite_wal_new(r->env, db, opt, &err)))
		die(db, &err);
}

void rig_release(struct rig *r) {
	r->src->ops->free(r->src);
	ms_env_uv_free(r->env);
	drop(r);
	for (uint32_t i = 0; i < r->nexpect; i++)
		free(r->expect[i].data);
	free(r->expect);
	free(r->pages);
	free(r->image);
}

void rig_seed(struct rig *r) {
	struct ms_err err = MS_ERR_INIT;
	for (int tries = 0; tries < 1000; tries++) {
		resize(r, 0);
		resize(r, (size_t)r->info.db_pages * r->page_size);
		enum ms_code rc = r->src->ops->read_pages(r->src, 1, r->info.db_pages, r->image, &err);
		if (rc == MS_OK)
			return;
		if (rc != MS_EBUSY)
			die("read_pages", &err);
		err = MS_ERR_INIT;
		if (r->src->ops->skip(r->src, NULL, NULL, &r->info, &r->res, &err) != MS_OK)
			die("skip", &err);
	}
	die("never pinned", NULL);
}

enum ms_source_state rig_attach_only(struct rig *r, const struct ms_cookie *resume) {
	struct ms_err err = MS_ERR_INIT;
	if (r->src->ops->attach(r->src, resume, &r->info, &r->res, &err) != MS_OK)
		die("attach", &err);
	if (r->res.state == MS_SRC_FOLLOWING)
		r->page_size = r->info.page_size;
	return r->res.state;
}

enum ms_source_state rig_attach(struct rig *r, const struct ms_cookie *resume) {
	if (rig_attach_only(r, resume) == MS_SRC_FOLLOWING && !r->info.continuous) {
		rig_seed(r);
		r->cookie = r->info.cookie;
	}
	return r->res.state;
}

enum ms_source_state rig_step(struct rig *r) {
	struct ms_err err = MS_ERR_INIT;
	if (r->src->ops->step(r->src, &r->sink, &r->res, &err) != MS_OK)
		die("step", &err);
	return r->res.state;
}

enum ms_source_state rig_drain(struct rig *r, unsigned quiet_ms) {
	uint64_t since = ms_env_mono_ns(r->env), commits = r->commits;
	while (ms_env_mono_ns(r->env) - since < quiet_ms * 1000000ull) {
		if (rig_step(r) != MS_SRC_FOLLOWING && r->res.state != MS_SRC_BUSY)
			return r->res.state;
		if (r->commits != commits) {
			commits = r->commits;
			since = ms_env_mono_ns(r->env);
		}
		if (!r->res.more)
			usleep(1000);
	}
	return r->res.state;
}

void rig_expect_now(struct rig *r, struct sq_worker *oracle, const char *db) {
	if (!(r->expect = realloc(r->expect, (r->nexpect + 1) * sizeof *r->expect)))
		die("memory", NULL);
	struct rig_expect *e = &r->expect[r->nexpect++];
	e->data = sq_image(oracle, db, &e->len);
}

const char *rig_compare(struct rig *r, struct sq_worker *oracle, const char *db) {
	static char why[200];
	size_t len, i = 0;
	uint8_t *want = sq_image(oracle, db, &len);
	why[0] = 0;
	if (len != r->len)
		snprintf(why, sizeof why, "%zu bytes, oracle has %zu", r->len, len);
	else {
		while (i < len && want[i] == r->image[i])
			i++;
		if (i < len)
			snprintf(why, sizeof why, "differs at byte %zu, page %zu", i, i / r->page_size + 1);
	}
	free(want);
	return why;
}

const char *rig_query(struct rig *r, const char *sql) {
	static char text[256];
	static char *dir;
	char path[4200];
	sqlite3 *db = NULL;
	sqlite3_stmt *st = NULL;
	if (!dir)
		dir = ms_test_tmpdir();
	snprintf(path, sizeof path, "%s/image.db", dir);
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(r->image, 1, r->len, f) != r->len || fclose(f) != 0)
		die(path, NULL);
	text[0] = 0;
	if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK ||
	    sqlite3_step(st) != SQLITE_ROW)
		snprintf(text, sizeof text, "error: %s", sqlite3_errmsg(db));
	else
		snprintf(text, sizeof text, "%s", (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	sqlite3_close(db);
	return text;
}
