#include "support/sim_source.h"

#include <stdlib.h>
#include <string.h>

struct write {
	uint32_t pgno;
	uint8_t *data;
};
struct commit {
	uint32_t db_pages, nwrites;
	uint64_t id; /* random, so that a commit after going back differs from the one it replaces */
	struct write *writes;
};
struct sim_db {
	uint32_t page_size;
	uint64_t rng;
	struct commit *commits; /* [0] writes every page */
	uint64_t n, cap, log_start;
};
struct sim_source {
	struct ms_source base;
	struct sim_db *db;
	bool attached;
	uint64_t at, at_id;
	unsigned limit;
	uint64_t poll_us;
	uint32_t storm; /* writes of the commit that comes during each step, 0 none */
};

static uint64_t rnd(struct sim_db *db) {
	db->rng ^= db->rng << 13;
	db->rng ^= db->rng >> 7;
	db->rng ^= db->rng << 17;
	return db->rng;
}

static const uint8_t *find(const struct sim_db *db, uint64_t commit, uint32_t pgno) {
	for (uint64_t c = commit;; c--) {
		for (uint32_t i = 0; i < db->commits[c].nwrites; i++)
			if (db->commits[c].writes[i].pgno == pgno)
				return db->commits[c].writes[i].data;
		/* A page that fell off the end comes back without content. */
		if (c == 0 || db->commits[c].db_pages < pgno || db->commits[c - 1].db_pages < pgno)
			return NULL;
	}
}

static struct commit *push(struct sim_db *db) {
	if (db->n == db->cap) {
		db->cap = db->cap ? db->cap * 2 : 64;
		db->commits = realloc(db->commits, db->cap * sizeof *db->commits);
		if (!db->commits)
			abort();
	}
	struct commit *c = &db->commits[db->n++];
	*c = (struct commit){.id = rnd(db)};
	return c;
}

static void add_write(struct sim_db *db, struct commit *c, uint32_t pgno, const uint8_t *old) {
	for (uint32_t i = 0; i < c->nwrites; i++)
		if (c->writes[i].pgno == pgno)
			return;
	c->writes = realloc(c->writes, (c->nwrites + 1) * sizeof *c->writes);
	uint8_t *data = calloc(1, db->page_size);
	if (!c->writes || !data)
		abort();
	if (old && rnd(db) % 4) {
		memcpy(data, old, db->page_size);
		for (int i = 0; i < 5; i++)
			data[rnd(db) % db->page_size] = (uint8_t)rnd(db);
	} else {
		for (uint32_t i = 0; i < db->page_size; i++)
			data[i] = (uint8_t)(rnd(db) % (1 + rnd(db) % 255));
	}
	c->writes[c->nwrites++] = (struct write){pgno, data};
}

struct sim_db *sim_db_new(uint32_t page_size, uint32_t pages, uint64_t seed) {
	struct sim_db *db = calloc(1, sizeof *db);
	if (!db)
		abort();
	db->page_size = page_size;
	db->rng = seed * 0x9e3779b97f4a7c15u + 1;
	struct commit *c = push(db);
	c->db_pages = pages;
	for (uint32_t p = 1; p <= pages; p++)
		add_write(db, c, p, NULL);
	return db;
}

uint64_t sim_db_commit(struct sim_db *db, uint32_t writes) {
	uint32_t pages = db->commits[db->n - 1].db_pages, now = pages;
	uint64_t dice = rnd(db) % 16;
	if (dice == 0 && pages > 4)
		now = pages - 1 - (uint32_t)(rnd(db) % (pages / 3));
	else if (dice < 3)
		now = pages + 1 + (uint32_t)(rnd(db) % 3);
	struct commit *c = push(db);
	c->db_pages = now;
	for (uint32_t p = pages + 1; p <= now; p++)
		if (rnd(db) % 4 || p == now)
			add_write(db, c, p, NULL); /* else it comes into being without a frame */
	for (uint32_t i = 0; i < writes; i++) {
		uint32_t p = 1 + (uint32_t)(rnd(db) % now);
		add_write(db, c, p, p <= pages ? find(db, db->n - 2, p) : NULL);
	}
	return db->n - 1;
}

static void read_at(const struct sim_db *db, uint64_t commit, uint32_t pgno, uint8_t *out) {
	const uint8_t *p = find(db, commit, pgno);
	if (p)
		memcpy(out, p, db->page_size);
	else
		memset(out, 0, db->page_size);
}

uint64_t sim_db_repeat(struct sim_db *db, uint64_t commit) {
	uint8_t *page = malloc(db->page_size);
	uint32_t pages = db->commits[commit].db_pages;
	struct commit *c = push(db);
	if (!page)
		abort();
	c->db_pages = pages;
	for (uint32_t p = 1; p <= pages; p++) {
		read_at(db, commit, p, page);
		add_write(db, c, p, NULL);
		memcpy(c->writes[c->nwrites - 1].data, page, db->page_size);
	}
	free(page);
	return db->n - 1;
}

uint64_t sim_db_latest(const struct sim_db *db) { return db->n - 1; }
uint32_t sim_db_pages(const struct sim_db *db, uint64_t commit) { return db->commits[commit].db_pages; }
uint32_t sim_db_page_size(const struct sim_db *db) { return db->page_size; }
void sim_db_cut_log(struct sim_db *db) { db->log_start = db->n - 1; }

void sim_db_image(const struct sim_db *db, uint64_t commit, uint8_t *out) {
	for (uint32_t p = 1; p <= db->commits[commit].db_pages; p++)
		read_at(db, commit, p, out + (size_t)(p - 1) * db->page_size);
}

static void drop(struct commit *c) {
	for (uint32_t i = 0; i < c->nwrites; i++)
		free(c->writes[i].data);
	free(c->writes);
}

void sim_db_go_back(struct sim_db *db, uint64_t commit) {
	while (db->n - 1 > commit)
		drop(&db->commits[--db->n]);
	if (db->log_start > commit)
		db->log_start = commit;
}

void sim_db_free(struct sim_db *db) {
	while (db->n)
		drop(&db->commits[--db->n]);
	free(db->commits);
	free(db);
}

static struct sim_source *of(struct ms_source *s) { return (struct sim_source *)s; }

static struct ms_cookie cookie_of(const struct sim_db *db, uint64_t commit) {
	struct ms_cookie c = {.len = 16};
	memcpy(c.data, &commit, 8);
	memcpy(c.data + 8, &db->commits[commit].id, 8);
	return c;
}

static void fill_info(struct sim_source *s, struct ms_source_info *i) {
	i->page_size = s->db->page_size;
	i->db_pages = s->db->commits[s->at].db_pages;
	i->mode = 0640;
	i->cookie = cookie_of(s->db, s->at);
}

static void ok(struct ms_step_result *r) {
	memset(r, 0, sizeof *r);
	r->state = MS_SRC_FOLLOWING;
	r->next_poll_us = 10000;
}

static void stand_at(struct sim_source *s, uint64_t commit) {
	s->at = commit;
	s->at_id = s->db->commits[commit].id;
}

static bool proven(struct sim_source *s, uint64_t commit, uint64_t id) {
	return commit >= s->db->log_start && commit < s->db->n && s->db->commits[commit].id == id;
}

static enum ms_code attach(struct ms_source *src, const struct ms_cookie *resume, struct ms_source_info *ret, struct ms_step_result *res,
			   struct ms_err *err) {
	struct sim_source *s = of(src);
	uint64_t commit = 0, id = 0;
	(void)err;
	memset(ret, 0, sizeof *ret);
	ok(res);
	if (resume && resume->len == 16) {
		memcpy(&commit, resume->data, 8);
		memcpy(&id, resume->data + 8, 8);
		ret->continuous = proven(s, commit, id);
		ret->behind = commit > s->db->n - 1 || s->db->commits[commit].id != id;
	}
	stand_at(s, ret->continuous ? commit : s->db->n - 1);
	s->attached = true;
	fill_info(s, ret);
	return MS_OK;
}

static enum ms_code step(struct ms_source *src, struct ms_sink *sink, struct ms_step_result *res, struct ms_err *err) {
	struct sim_source *s = of(src);
	unsigned done = 0;
	ok(res);
	if (!proven(s, s->at, s->at_id)) {
		res->state = MS_SRC_LOST;
		res->lost_commits = -1;
		return MS_OK;
	}
	uint64_t end = s->db->n - 1;
	while (s->at < s->db->n - 1 && (!s->limit || done++ < s->limit)) {
		const struct commit *c = &s->db->commits[s->at + 1];
		struct ms_flush_meta m = {.db_pages = c->db_pages, .time_us = 1700000000000000 + (int64_t)s->at, .cookie = cookie_of(s->db, s->at + 1)};
		enum ms_code rc = sink->begin(sink, err);
		for (uint32_t i = 0; rc == MS_OK && i < c->nwrites; i++)
			rc = sink->page(sink, c->writes[i].pgno, c->writes[i].data, err);
		if (rc == MS_OK)
			rc = sink->commit(sink, &m, err);
		if (rc != MS_OK) {
			sink->abort(sink);
			return rc;
		}
		stand_at(s, s->at + 1);
	}
	if (s->poll_us)
		res->next_poll_us = s->poll_us;
	if (s->storm)
		sim_db_commit(s->db, s->storm);
	res->more = s->at < s->db->n - 1;
	res->caught_up = s->at >= end;
	return MS_OK;
}

static enum ms_code skip(struct ms_source *src, void (*dirty)(void *arg, uint32_t pgno), void *arg, struct ms_source_info *now,
			 struct ms_step_result *res, struct ms_err *err) {
	struct sim_source *s = of(src);
	(void)err;
	ok(res);
	if (!proven(s, s->at, s->at_id)) {
		res->state = MS_SRC_LOST;
		res->lost_commits = -1;
		stand_at(s, s->db->n - 1);
		fill_info(s, now);
		return MS_OK;
	}
	for (uint64_t c = s->at + 1; c < s->db->n; c++)
		for (uint32_t i = 0; i < s->db->commits[c].nwrites; i++)
			dirty(arg, s->db->commits[c].writes[i].pgno);
	/* Pages that fell off the end and came back within the skipped stretch have no frame. */
	for (uint64_t c = s->at + 1; c < s->db->n; c++)
		for (uint32_t p = s->db->commits[c - 1].db_pages + 1; p <= s->db->commits[c].db_pages; p++)
			dirty(arg, p);
	stand_at(s, s->db->n - 1);
	fill_info(s, now);
	res->caught_up = true;
	return MS_OK;
}

static enum ms_code read_pages(struct ms_source *src, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err) {
	struct sim_source *s = of(src);
	(void)err;
	if (!proven(s, s->at, s->at_id))
		return MS_EBUSY;
	for (uint32_t i = 0; i < count; i++)
		read_at(s->db, s->at, first + i, out + (size_t)i * s->db->page_size);
	return MS_OK;
}

/* During a transaction `at` still names the commit before it, and grown pages without a frame are known to the new one. */
static bool prev_page(struct ms_source *src, uint32_t pgno, uint8_t *out) {
	struct sim_source *s = of(src);
	read_at(s->db, s->at, pgno, out);
	return true;
}

static bool matches(struct ms_source *src, const struct ms_cookie *c) {
	uint64_t commit, id;
	memcpy(&commit, c->data, 8);
	memcpy(&id, c->data + 8, 8);
	return proven(of(src), commit, id);
}

static enum ms_code checkpoint(struct ms_source *src, struct ms_err *err) {
	(void)src;
	(void)err;
	return MS_OK;
}

static void detach(struct ms_source *src) { of(src)->attached = false; }

static int event_fd(struct ms_source *src) {
	(void)src;
	return -1;
}

static void source_free(struct ms_source *src) { free(src); }

static const struct ms_source_ops ops = {attach, step, skip, read_pages, prev_page, matches, checkpoint, detach, event_fd, source_free};

struct ms_source *sim_source_new(struct sim_db *db) {
	struct sim_source *s = calloc(1, sizeof *s);
	if (!s)
		abort();
	s->base.ops = &ops;
	s->db = db;
	return &s->base;
}

void sim_source_step_limit(struct ms_source *s, unsigned n) { of(s)->limit = n; }
void sim_source_storm(struct ms_source *s, uint32_t writes) { of(s)->storm = writes; }
void sim_source_poll(struct ms_source *s, uint64_t us) { of(s)->poll_us = us; }
