/*
 * The follower's operations: one pass looks at the wal-index, crosses a reset if the salts have changed, hands over what is new,
 * and keeps the right mark (sqlite_marks.c). Under load step() makes such passes every 0.5 to 6 ms for about 15 ms; when
 * quiet it arms the watch of the -wal file and returns, with polls that slow down to one a second.
 */
#include "sources/sqlite_wal_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOAD_GAP_NS (2 * MS_WAL_MS) /* frames that come closer together than this, a few times: load */
#define LOAD_END_NS (20 * MS_WAL_MS)
#define IDENTITY_NS (100 * MS_WAL_MS)
#define NO_EVENTS_POLL_US 50000u /* where no inotify instance could be had */
#define LET_GO_NS (1000 * MS_WAL_MS)
#define FIRST_NS (3 * MS_WAL_STEP_NS) /* for what was there when a step began */

static struct ms_sqlite_wal *self(struct ms_source *src) {
	return (struct ms_sqlite_wal *)src;
}

static void note_new(struct ms_sqlite_wal *s, uint32_t frames) {
	uint64_t now = ms_wal_now(s), gap = now - s->last_new_ns;
	if (gap < LOAD_GAP_NS)
		s->hits++;
	else
		s->hits = 0;
	if (s->hits >= 4)
		s->load = true;
	uint64_t per_ms = frames * 16ull * MS_WAL_MS / (gap ? gap : 1);
	if (per_ms > 16u << 12)
		per_ms = 16u << 12;
	s->rate = (uint32_t)((s->rate * 7ull + per_ms) / 8);
	s->last_new_ns = now;
	s->settle_us = MS_WAL_SETTLE_US;
}

static enum ms_code cross(struct ms_sqlite_wal *s, struct ms_err *err) {
	/* Begin first: that pins the generation which is current now. What we held until here can only have been slot 0. */
	bool sure = s->cur >= 0 && s->mark.slot0;
	bool fresh = s->cur >= 0 && (s->mark.salt1 != s->pos.salt1 || s->mark.salt2 != s->pos.salt2);
	enum ms_code rc;
	if (fresh) /* begun at the end of a window, already in the new generation */
		sure = false;
	else if ((rc = ms_wal_leap(s, err)) != MS_OK)
		return rc;
	return ms_wal_prove_reset(s, sure, err);
}

/*
 * Passes until the position is at the end of the WAL as last seen (and pinned), or the deadline. On MS_OK s->lost tells of doubt.
 */
static enum ms_code pass(struct ms_sqlite_wal *s, struct ms_sink *sink, uint64_t deadline, bool *ret_behind, struct ms_err *err) {
	struct ms_wal_index h;
	enum ms_code rc;
	bool again = false;

	*ret_behind = true;
	do {
		if (s->rest_last && (rc = ms_wal_deliver_rest(s, sink, err)) != MS_OK)
			return rc;
		if ((rc = ms_wal_look(s, &h, err)) != MS_OK)
			return rc;
		if (!ms_wal_in_gen(s, &h)) {
			if ((rc = cross(s, err)) != MS_OK || s->lost)
				return rc;
			s->last_new_ns = ms_wal_now(s);
			again = true;
			continue;
		}
		ms_wal_observe(s, &h);
		if (h.mx_frame < s->pos.frame) {
			ms_wal_doubt(s, "the WAL ends at frame %u, frame %u had been captured", h.mx_frame, s->pos.frame);
			return MS_OK;
		}
		uint32_t before = s->pos.frame;
		if (h.mx_frame > s->pos.frame && (rc = ms_wal_capture(s, sink, &h, deadline, err)) != MS_OK)
			return rc;
		if (s->lost) {
			/* Frames that fail because the WAL was reset while we read are no loss yet: cross and see. */
			struct ms_wal_index now;
			if ((rc = ms_wal_look(s, &now, err)) != MS_OK)
				return rc;
			if (ms_wal_in_gen(s, &now))
				return MS_OK;
			s->lost = false;
			again = true;
			continue;
		}
		if (s->pos.frame != before)
			note_new(s, s->pos.frame - before);
		if (s->pos.frame >= h.mx_frame)
			s->reached = true;
		if ((rc = ms_wal_tend(s, &h, &again, err)) != MS_OK)
			return rc;
		if (!again && ms_wal_window_due(s, &h)) {
			if ((rc = ms_wal_window(s, sink, err)) != MS_OK)
				return rc;
			again = true;
		}
		*ret_behind = again || s->pos.frame < h.mx_frame;
	} while (*ret_behind && (again || ms_wal_now(s) < deadline));
	return MS_OK;
}

static int64_t lost_so_far(struct ms_sqlite_wal *s) {
	struct ms_wal_index h;
	if (!s->lost_change_known || ms_wal_look(s, &h, NULL) != MS_OK)
		return -1;
	int32_t n = (int32_t)(h.change - s->lost_change);
	return n > 0 ? n : -1; /* a recovery of the wal-index starts the counter again */
}

static void fill_result(struct ms_sqlite_wal *s, struct ms_step_result *res) {
	struct stat st;
	if (s->wal_fd >= 0 && fstat(s->wal_fd, &st) == 0)
		res->wal_bytes = (uint64_t)st.st_size;
	res->pinned_since_us = s->pinned_since_ns / 1000;
	if (s->lost) {
		res->state = MS_SRC_LOST;
		res->lost_commits = lost_so_far(s);
		memcpy(res->why, s->why, sizeof res->why);
	}
}

/*
 * Above the limit the mark goes, whoever pins the WAL: once a generation, and again when it has doubled. Only frames in use count
 * (a file that was once that large is not truncated by a reset), and only under a writer: a quiet database's WAL is checkpointed
 * instead.
 */
static bool must_let_go(struct ms_sqlite_wal *s) {
	struct ms_wal_index h;
	if (s->cur < 0 || ms_wal_look(s, &h, NULL) != MS_OK || ms_wal_now(s) - s->last_new_ns > LET_GO_NS)
		return false;
	uint64_t used = (uint64_t)h.mx_frame * s->frame_bytes;
	bool again = h.salt1 == s->let_go_salt[0] && h.salt2 == s->let_go_salt[1];
	if (used <= s->opt.max_wal_bytes || (again && used < 2 * s->let_go_bytes))
		return false;
	s->let_go_bytes = used;
	s->let_go_salt[0] = h.salt1;
	s->let_go_salt[1] = h.salt2;
	return true;
}

static void let_go(struct ms_sqlite_wal *s, uint64_t wal_bytes) {
	ms_wal_release(s);
	s->let_go_until_ns = ms_wal_now(s) + LET_GO_NS;
	ms_wal_doubt(s,
		     "the WAL has %llu bytes, above maxWalBytes %llu: let go of it so that it can be checkpointed; a long reader "
		     "of the application may pin it",
		     (unsigned long long)wal_bytes, (unsigned long long)s->opt.max_wal_bytes);
}

/* MS_EBUSY is no failure of a step: the state says so, and the next step tries again. */
static enum ms_code as_busy(struct ms_sqlite_wal *s, enum ms_code rc, struct ms_step_result *res, struct ms_err *err) {
	if (rc != MS_EBUSY || s->in_sink)
		return rc;
	res->state = MS_SRC_BUSY;
	res->next_poll_us = 5000;
	snprintf(res->why, sizeof res->why, "%.250s", err && err->code ? err->msg : "no read mark to be had just now");
	if (err)
		*err = MS_ERR_INIT;
	return MS_OK;
}

static enum ms_code check_identity(struct ms_sqlite_wal *s, struct ms_step_result *res, bool *ret_stop, struct ms_err *err) {
	*ret_stop = false;
	if (ms_wal_now(s) < s->identity_ns)
		return MS_OK;
	s->identity_ns = ms_wal_now(s) + IDENTITY_NS;
	res->state = ms_wal_identity(s, res->why);
	res->next_poll_us = MS_WAL_SLOW_POLL_US;
	if (res->state == MS_SRC_FOLLOWING)
		return MS_OK;
	*ret_stop = true;
	if (res->state != MS_SRC_LOST)
		return MS_OK;
	ms_wal_doubt(s, "%s", res->why);
	s->lost_change_known = false;
	uint64_t dev = s->dev, ino = s->ino;
	enum ms_code rc = ms_wal_reopen(s, err);
	if (rc == MS_OK && (s->dev != dev || s->ino != ino)) { /* that was only the beginning of a replacement */
		res->state = MS_SRC_REPLACED;
		snprintf(res->why, sizeof res->why, "%.200s is another file now", s->path);
	} else if (rc == MS_OK) {
		fill_result(s, res);
	}
	return rc;
}

static enum ms_code step(struct ms_source *src, struct ms_sink *sink, struct ms_step_result *res, struct ms_err *err) {
	struct ms_sqlite_wal *s = self(src);
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc;
	bool stop, behind;

	*res = (struct ms_step_result){.state = MS_SRC_FOLLOWING, .lost_commits = -1};
	if (!s->attached)
		return ms_err_set(err, MS_EINVAL, "%s: step while detached", s->path);
	if (ms_sqlite_watch_drain(&s->watch))
		s->identity_ns = 0;
	if (s->watch.modified) { /* files are written before the wal-index tells of it: look again soon */
		s->watch.modified = false;
		s->settle_us = MS_WAL_SETTLE_US;
	}
	if ((rc = check_identity(s, res, &stop, err)) != MS_OK || stop)
		return rc;
	if (s->lost) {
		fill_result(s, res);
		return MS_OK;
	}
	if (s->load)
		ms_sqlite_watch_disarm(&s->watch);
	s->in_sink = s->reached = false;
	uint64_t start = ms_wal_now(s), deadline = start + MS_WAL_STEP_NS;
	for (;;) {
		if ((rc = pass(s, sink, s->reached ? deadline : start + FIRST_NS, &behind, &e)) != MS_OK || s->lost)
			break;
		uint64_t now = ms_wal_now(s);
		if (s->load && now - s->last_new_ns > LOAD_END_NS)
			s->load = false, s->hits = 0;
		if (!s->load) {
			if (ms_sqlite_watch_armed(&s->watch) || behind)
				break;
			ms_sqlite_watch_arm(&s->watch, s->wal_path, s->canon); /* and one more look, for what came before it */
			if (!ms_sqlite_watch_armed(&s->watch))
				break;
			continue;
		}
		if (now >= deadline)
			break;
		ms_wal_nap(s, ms_wal_poll_us(s));
	}
	if (rc != MS_OK) {
		if (e.code == MS_EBUSY && rc == MS_EBUSY && !s->in_sink) {
			rc = as_busy(s, rc, res, &e);
			fill_result(s, res);
			return rc;
		}
		if (err)
			*err = e;
		return rc;
	}
	fill_result(s, res);
	if (!s->lost && must_let_go(s)) {
		let_go(s, res->wal_bytes);
		fill_result(s, res);
	}
	if (s->lost)
		return MS_OK;
	s->known_ino = s->ino;
	s->known_wal_ino = s->wal_ino;
	s->known_salt1 = s->pos.salt1;
	s->known_salt2 = s->pos.salt2;
	s->known_frame = s->pos.frame;
	res->more = behind || s->load;
	res->caught_up = s->reached;
	res->next_poll_us = s->settle_us;
	uint64_t slowest = s->watch.fd >= 0 ? MS_WAL_SLOW_POLL_US : NO_EVENTS_POLL_US;
	s->settle_us = s->settle_us * 2 < slowest ? s->settle_us * 2 : slowest;
	return MS_OK;
}

/* skip() runs the same passes with this sink. */
struct skipper {
	struct ms_sink sink;
	void (*dirty)(void *, uint32_t);
	void *arg;
	uint32_t db_pages; /* at the position */
};
static enum ms_code skip_begin(struct ms_sink *k, struct ms_err *err) {
	(void)k, (void)err;
	return MS_OK;
}
static enum ms_code skip_page(struct ms_sink *k, uint32_t pgno, const uint8_t *page, struct ms_err *err) {
	struct skipper *p = (struct skipper *)k;
	(void)page, (void)err;
	if (p->dirty)
		p->dirty(p->arg, pgno);
	return MS_OK;
}
static enum ms_code skip_commit(struct ms_sink *k, const struct ms_flush_meta *m, struct ms_err *err) {
	struct skipper *p = (struct skipper *)k;
	(void)err;
	/* Pages may come into being without a frame, and come back with another content where the database had shrunk before. */
	for (uint32_t pgno = p->db_pages + 1; p->dirty && pgno && pgno <= m->db_pages; pgno++)
		p->dirty(p->arg, pgno);
	p->db_pages = m->db_pages;
	return MS_OK;
}
static void skip_abort(struct ms_sink *k) {
	(void)k;
}

static enum ms_code skip(struct ms_source *src, void (*dirty)(void *, uint32_t), void *arg, struct ms_source_info *now,
			 struct ms_step_result *res, struct ms_err *err) {
	struct ms_sqlite_wal *s = self(src);
	struct skipper k = {{skip_begin, skip_page, skip_commit, skip_abort, 0}, dirty, arg, s->pos.db_pages};
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = MS_OK;
	bool stop, behind = true;

	*res = (struct ms_step_result){.state = MS_SRC_FOLLOWING, .lost_commits = -1};
	if (!s->attached)
		return ms_err_set(err, MS_EINVAL, "%s: skip while detached", s->path);
	if (ms_sqlite_watch_drain(&s->watch))
		s->identity_ns = 0;
	if ((rc = check_identity(s, res, &stop, err)) != MS_OK || stop)
		return rc;
	s->reached = false;
	if (s->lost) {
		if (ms_wal_now(s) < s->let_go_until_ns) {
			res->state = MS_SRC_BUSY;
			res->next_poll_us = 50000;
			memcpy(res->why, s->why, sizeof res->why);
			return MS_OK;
		}
		int64_t lost = lost_so_far(s);
		if ((rc = ms_wal_rebase(s, dirty, arg, &e)) == MS_OK) {
			s->lost = false;
			s->reached = true;
			res->lost_commits = lost;
			behind = false;
		}
	} else {
		/* Until pinned at the end: a window may leave the position behind the mark for a moment. */
		for (int tries = 0; tries < 100 && behind && rc == MS_OK && !s->lost; tries++)
			rc = pass(s, &k.sink, ms_wal_now(s) + MS_WAL_STEP_NS, &behind, &e);
	}
	if (rc != MS_OK) {
		rc = as_busy(s, rc, res, &e);
		if (rc != MS_OK && err)
			*err = e;
		return rc;
	}
	int64_t lost = res->lost_commits;
	fill_result(s, res);
	if (!s->lost) {
		res->lost_commits = lost;
		/* Released in a quiet moment, but now someone wants to read. */
		if (s->cur < 0 && (rc = ms_wal_leap(s, &e)) != MS_OK)
			return as_busy(s, rc, res, &e);
		res->more = behind;
		res->caught_up = s->reached;
		res->next_poll_us = s->settle_us;
		ms_wal_info(s, now);
	}
	return MS_OK;
}

static enum ms_code checkpoint(struct ms_source *src, struct ms_err *err) {
	struct ms_sqlite_wal *s = self(src);
	if (!s->attached)
		return ms_err_set(err, MS_EINVAL, "%s: checkpoint while detached", s->path);
	if (!s->opt.checkpoint)
		return ms_err_set(err, MS_EUNSUPPORTED, "%s: checkpoints are turned off", s->path);
	if (s->lost || s->rest_last || s->load)
		return ms_err_set(err, MS_EBUSY, "%s: not quiet", s->path);
	return ms_wal_soft_checkpoint(s, err);
}

static void detach(struct ms_source *src) {
	ms_wal_close(self(src));
}
static int event_fd(struct ms_source *src) {
	return self(src)->watch.fd;
}

static void source_free(struct ms_source *src) {
	struct ms_sqlite_wal *s = self(src);
	if (!s)
		return;
	ms_wal_close(s);
	ms_sqlite_watch_release(&s->watch);
	ms_page_map_release(&s->map);
	ms_page_map_release(&s->tx_map);
	free(s->buf);
	free(s->path);
	free(s);
}

static const struct ms_source_ops ops = {ms_wal_attach,	 step,	     skip,   ms_wal_read_pages, ms_wal_prev_page,
					 ms_wal_matches, checkpoint, detach, event_fd,		source_free};

struct ms_source *ms_sqlite_wal_new(struct ms_env *env, const char *path, const struct ms_sqlite_wal_options *opt,
				    struct ms_err *err) {
	struct ms_sqlite_wal *s = calloc(1, sizeof *s);
	if (!s || !(s->path = strdup(path))) {
		free(s);
		ms_err_set(err, MS_ENOMEM, "%s: source", path);
		return NULL;
	}
	s->base.ops = &ops;
	s->env = env;
	s->opt = opt ? *opt : (struct ms_sqlite_wal_options){.checkpoint = true};
	if (!s->opt.checkpoint_bytes)
		s->opt.checkpoint_bytes = 3u << 20;
	if (!s->opt.max_wal_bytes)
		s->opt.max_wal_bytes = 1u << 30;
	if (!s->opt.memory_bytes)
		s->opt.memory_bytes = 4u << 20;
	s->cur = s->wal_fd = -1;
	s->settle_us = MS_WAL_SETTLE_US;
	ms_sqlite_watch_init(&s->watch);
	return &s->base;
}
