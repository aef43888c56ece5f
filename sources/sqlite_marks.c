/*
 * Read marks: what to hold when.
 *
 * Normally one mark in slots 1-4: the WAL cannot be reset, so nothing can be missed. Under load the mark stays where it is,
 * because past its checkpoint threshold each advance of ours makes the application's next commit checkpoint and sync.
 *
 * Release window: once the WAL has reached that threshold and everything is copied, end the read, watch the wal-index for at most
 * 50 ms, and begin again as soon as the salts have changed, or the time is up, or half a buffer is waiting. This is safe as long
 * as we are back before the writer has filled and reset a whole generation more. On a machine that lets us sleep too long for
 * that there is no window, and the WAL grows, up to a limit.
 *
 * Slot 0 (all is backfilled): the next commit resets the WAL, which is welcome, but checkpoints are blocked; so as soon as new
 * frames are there, move to another slot: begin the other connection's read, then end this one's.
 *
 * Quiet: the mark moves to the end of the WAL after 2 ms, so that FULL, RESTART and TRUNCATE checkpoints of the application get
 * through; a long WAL that nobody backfills is checkpointed (PASSIVE) while our mark is held.
 */
#include "sources/sqlite_wal_priv.h"

#include <string.h>

#include "base/log.h"

#define WINDOW_NS (50 * MS_WAL_MS)
#define WINDOW_STALL_NS (250 * MS_WAL_MS)
#define STALL_NS (2 * MS_WAL_MS)
#define WINDOW_BATCH 128u /* frames between two looks, about a millisecond */
#define WINDOW_POLL_US 50u /* at least; at most the time in which this part of what lies before us could be overwritten */
#define WINDOW_POLL_PART 64u
#define POLL_FRAMES 256u /* that a poll under load leaves uncaptured, by the rate so far */
#define ACTIVE_NS (25 * MS_WAL_MS) /* a writer that committed within this is at work */
#define QUIET_LEAP_NS (2 * MS_WAL_MS)
#define QUIET_CKPT_NS (50 * MS_WAL_MS)
#define DEFAULT_THRESHOLD 1000u
#define LEAST_WINDOW 16u
#define LOOK_TRIES 40
#define STARVED_LIMIT 8 /* times the threshold: a WAL this long is worth the risk of losing granularity */

void ms_wal_nap(struct ms_sqlite_wal *s, uint64_t us) {
	uint64_t start = ms_wal_now(s);
	s->env->ops->sleep_us(s->env, us);
	uint64_t took = ms_wal_now(s) - start;
	s->stall_ns -= s->stall_ns / 512;
	if (took > us * 1000 && took - us * 1000 > s->stall_ns)
		s->stall_ns = took - us * 1000;
}

enum ms_code ms_wal_look(struct ms_sqlite_wal *s, struct ms_wal_index *ret, struct ms_err *err) {
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < LOOK_TRIES; i++) {
			if (ms_wal_index_read(s->shm, ret))
				return MS_OK;
			if (i > 4)
				s->env->ops->sleep_us(s->env, 20);
		}
		/* A writer died between the two copies: any reader's begin makes SQLite recover the wal-index. */
		struct ms_sqlite_conn *c = &s->conn[s->cur == 0 ? 1 : 0];
		enum ms_code rc = ms_sqlite_conn_begin(c, err);
		if (rc != MS_OK)
			return rc;
		ms_sqlite_conn_end(c);
	}
	return ms_err_set(err, MS_EBUSY, "%s: header does not hold still", s->shm_path);
}

enum ms_code ms_wal_leap(struct ms_sqlite_wal *s, struct ms_err *err) {
	struct ms_wal_index before, after;
	int next = s->cur == 0 ? 1 : 0;
	enum ms_code rc;
	if ((rc = ms_wal_look(s, &before, err)) != MS_OK || (rc = ms_sqlite_conn_begin(&s->conn[next], err)) != MS_OK)
		return rc;
	if ((rc = ms_wal_look(s, &after, err)) != MS_OK) {
		ms_sqlite_conn_end(&s->conn[next]);
		return rc;
	}
	if (s->cur >= 0)
		ms_sqlite_conn_end(&s->conn[s->cur]);
	else
		s->pinned_since_ns = ms_wal_now(s);
	s->cur = next;
	bool same = ms_wal_index_same_gen(&before, &after);
	s->mark = (struct ms_wal_mark){.salt1 = after.salt1,
				       .salt2 = after.salt2,
				       .hi = after.mx_frame,
				       .backfill = same ? before.backfill : 0,
				       .slot0 = ms_sqlite_conn_slot(&s->conn[next]) == 0};
	return MS_OK;
}

void ms_wal_release(struct ms_sqlite_wal *s) {
	if (s->cur >= 0)
		ms_sqlite_conn_end(&s->conn[s->cur]);
	s->cur = -1;
	s->pinned_since_ns = 0;
}

void ms_wal_new_generation(struct ms_sqlite_wal *s) {
	if (!s->threshold)
		s->threshold = DEFAULT_THRESHOLD;
	if (s->ckpt_at) { /* learn downwards at once, upwards slowly: too early a window costs little, too late a checkpoint that
			     stops at our mark */
		s->threshold = s->ckpt_at < s->threshold || !s->threshold_known ? s->ckpt_at
										: s->threshold + (s->ckpt_at - s->threshold) / 4;
		if (s->threshold < LEAST_WINDOW)
			s->threshold = LEAST_WINDOW;
		s->threshold_known = true;
	}
	s->window_at = s->threshold;
	s->window_next_ns = s->window_wait_ns = 0;
	s->soft_next_ns = s->soft_wait_ns = 0;
	s->backfill0 = s->ckpt_at = 0;
}

void ms_wal_observe(struct ms_sqlite_wal *s, const struct ms_wal_index *h) {
	if (!s->ckpt_at && h->backfill > s->backfill0)
		s->ckpt_at = h->mx_frame;
	s->seen = *h;
}

enum ms_code ms_wal_soft_checkpoint(struct ms_sqlite_wal *s, struct ms_err *err) {
	struct ms_wal_index h;
	enum ms_code rc;
	/* Our own mark is held all the time (SQLITE.md fact 12), and at the end of the WAL, or it would stop the checkpoint
	 * itself. */
	if ((rc = ms_wal_leap(s, err)) != MS_OK)
		return rc;
	if (s->mark.salt1 != s->pos.salt1 || s->mark.salt2 != s->pos.salt2)
		return MS_OK; /* reset by the application meanwhile: what we wanted */
	if ((rc = ms_sqlite_conn_checkpoint(&s->conn[1 - s->cur], err)) != MS_OK)
		return rc;
	if ((rc = ms_wal_look(s, &h, err)) != MS_OK)
		return rc;
	if (ms_wal_in_gen(s, &h)) {
		s->backfill0 = h.backfill;
		s->seen = h;
	}
	return MS_OK;
}

static void back_off(uint64_t *wait, uint64_t *next, uint64_t now, uint64_t least, uint64_t most) {
	*wait = *wait ? *wait * 2 : least;
	if (*wait > most)
		*wait = most;
	*next = now + *wait;
}

/* Has the WAL come to where the application checkpoints? */
static bool ripe(const struct ms_sqlite_wal *s, const struct ms_wal_index *h) {
	return h->mx_frame >= LEAST_WINDOW && (s->ckpt_at || h->mx_frame >= s->threshold);
}

static enum ms_code tend_quiet(struct ms_sqlite_wal *s, const struct ms_wal_index *h, uint64_t now, struct ms_err *err) {
	uint64_t quiet = now - s->last_new_ns;
	enum ms_code rc;
	if (quiet > QUIET_LEAP_NS && s->mark.hi < h->mx_frame && (rc = ms_wal_leap(s, err)) != MS_OK)
		return rc;
	if (quiet < QUIET_CKPT_NS || h->backfill >= h->mx_frame || now < s->soft_next_ns)
		return MS_OK;
	if (!s->opt.checkpoint) {
		/* A slow application's own checkpoints never get past a mark that is moved after each commit: hold none, and be
		 * back at its next one. */
		if (ripe(s, h))
			ms_wal_release(s);
		return MS_OK;
	}
	if ((uint64_t)h->mx_frame * s->frame_bytes < s->opt.checkpoint_bytes)
		return MS_OK;
	rc = ms_wal_soft_checkpoint(s, err);
	if (rc == MS_EBUSY)
		rc = MS_OK;
	if (rc == MS_OK && ms_wal_in_gen(s, &s->seen) && s->seen.backfill >= s->seen.mx_frame)
		s->soft_wait_ns = 0, rc = ms_wal_leap(s, err);
	else
		back_off(&s->soft_wait_ns, &s->soft_next_ns, now, 5 * MS_WAL_MS, 500 * MS_WAL_MS);
	return rc;
}

enum ms_code ms_wal_tend(struct ms_sqlite_wal *s, const struct ms_wal_index *h, bool *ret_again, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	uint64_t now = ms_wal_now(s);
	bool moved_on = s->mark.salt1 != s->pos.salt1 || s->mark.salt2 != s->pos.salt2 || s->pos.frame > s->mark.hi;
	bool copied = s->pos.frame == h->mx_frame;
	int cur = s->cur;

	if (s->cur < 0) {
		/* Released on purpose while quiet: come back only for something new. */
		if (!copied || now - s->last_new_ns < QUIET_CKPT_NS || !ripe(s, h) || s->opt.checkpoint)
			rc = ms_wal_leap(s, err);
	} else if (s->mark.slot0 && moved_on) {
		rc = ms_wal_leap(s, err);
	} else if (!s->mark.slot0 && copied && h->mx_frame && h->backfill >= h->mx_frame) {
		/* To slot 0: the application's next commit, or its RESTART that waits for us, may reset the WAL. The checkpoint
		 * that backfilled all this may still hold that slot; then again, soon. */
		rc = ms_wal_leap(s, err);
		if (!s->mark.slot0)
			s->settle_us = MS_WAL_SETTLE_US;
	} else if (copied) {
		rc = tend_quiet(s, h, now, err);
	}
	*ret_again = s->cur >= 0 && s->cur != cur &&
		     (s->mark.hi > s->pos.frame || s->mark.salt1 != s->pos.salt1 || s->mark.salt2 != s->pos.salt2);
	return rc;
}

/* A window opens, and stays open, while at most this many frames are not captured: if the WAL is reset they must fit the buffer.
 */
static uint32_t backlog_most(const struct ms_sqlite_wal *s) {
	uint64_t most = s->opt.memory_bytes / 2 / s->frame_bytes;
	return most > UINT32_MAX ? UINT32_MAX : (uint32_t)most;
}

static uint32_t early_frames(const struct ms_sqlite_wal *s) {
	uint32_t early = s->rate / 8; /* frames of about two milliseconds */
	return early > s->threshold / 8 ? s->threshold / 8 : early;
}

uint64_t ms_wal_poll_us(const struct ms_sqlite_wal *s) {
	uint64_t us = MS_WAL_POLL_MOST_US;
	/* While a mark in slots 1-4 is held and no checkpoint has set in, nothing is to be done for the WAL's sake until it has grown
	 * to where a window opens: be there in time even if the writer doubles its rate. */
	if (s->cur < 0 || s->mark.slot0 || s->ckpt_at || s->seen.salt1 != s->pos.salt1 || s->seen.salt2 != s->pos.salt2 ||
	    s->seen.mx_frame + early_frames(s) >= s->window_at)
		return MS_WAL_POLL_US;
	if (s->rate) {
		uint64_t left = (s->window_at - early_frames(s) - s->seen.mx_frame) * 8000ull / s->rate;
		uint64_t batch = POLL_FRAMES * 16000ull / s->rate;
		us = left < us ? left : us;
		us = batch < us ? batch : us;
	}
	return us > MS_WAL_POLL_US ? us : MS_WAL_POLL_US;
}

bool ms_wal_window_due(struct ms_sqlite_wal *s, const struct ms_wal_index *h) {
	uint64_t now = ms_wal_now(s);
	uint32_t early = early_frames(s);
	if (s->padded) /* a reset that no mark watches could not be proven */
		return false;
	if (s->cur < 0 || s->mark.slot0 || h->mx_frame - s->pos.frame > backlog_most(s) / 2 || h->mx_frame < LEAST_WINDOW ||
	    now < s->window_next_ns || now - s->last_new_ns > ACTIVE_NS)
		return false;
	uint64_t generation_ns = s->rate ? s->threshold * 16ull * MS_WAL_MS / s->rate : UINT64_MAX;
	if (s->stall_ns > generation_ns / 2 && h->mx_frame / STARVED_LIMIT < s->threshold)
		return false;
	return s->ckpt_at || h->mx_frame + early >= s->window_at;
}

static void window_nap(struct ms_sqlite_wal *s) {
	uint64_t us = s->rate ? s->pos.frame * 16000ull / s->rate / WINDOW_POLL_PART : MS_WAL_POLL_US;
	us = us < MS_WAL_POLL_US ? us : MS_WAL_POLL_US;
	ms_wal_nap(s, us > WINDOW_POLL_US ? us : WINDOW_POLL_US);
}

/*
 * Without a mark the WAL may be reset at any moment, so looks must be frequent: between two of them the new generation must not
 * write past our position. Capturing goes on in small batches all the same (frames are believed by salts and chain, mark or not):
 * a follower that waited here would fall behind in every window, and one that is a little behind would never get one. A writer
 * that stands still, in its checkpoint, is waited for: its next commit resets the WAL.
 */
enum ms_code ms_wal_window(struct ms_sqlite_wal *s, struct ms_sink *sink, struct ms_err *err) {
	uint64_t start = ms_wal_now(s), now = start, moved = start;
	struct ms_wal_index h;
	uint32_t backfill = s->seen.backfill, frames = s->pos.frame, most = backlog_most(s);
	bool reset = false, late = false;
	enum ms_code rc;

	ms_wal_release(s);
	for (; now - start < WINDOW_NS || (now - moved > STALL_NS && now - start < WINDOW_STALL_NS); now = ms_wal_now(s)) {
		if (!ms_wal_index_read(s->shm, &h)) {
			ms_wal_nap(s, WINDOW_POLL_US);
			continue;
		}
		if ((reset = !ms_wal_in_gen(s, &h)))
			break;
		ms_wal_observe(s, &h);
		if (h.mx_frame != frames)
			moved = now;
		frames = h.mx_frame;
		if ((late = h.mx_frame < s->pos.frame || h.mx_frame - s->pos.frame > most))
			break;
		if (h.mx_frame == s->pos.frame) {
			window_nap(s);
			continue;
		}
		s->batch_most = WINDOW_BATCH;
		rc = ms_wal_capture(s, sink, &h, now, err);
		s->batch_most = 0;
		if (rc != MS_OK)
			return rc;
		s->last_new_ns = ms_wal_now(s);
		if (s->lost) {
			if (!ms_wal_index_read(s->shm, &h) || ms_wal_in_gen(s, &h))
				break;
			s->lost = false; /* reset while we read: crossing will tell */
			reset = true;
			break;
		}
	}
	rc = ms_wal_leap(s, err);
	now = ms_wal_now(s);
	ms_log(MS_LOG_DEBUG, "release window", "frames=%u us=%llu reset=%d behind=%d stall_us=%llu", frames,
	       (unsigned long long)((now - start) / 1000), reset, (int)(frames - s->pos.frame),
	       (unsigned long long)(s->stall_ns / 1000));
	if (reset) {
		if (!s->ckpt_at) /* backfilled and reset between two looks */
			s->ckpt_at = frames;
		return rc;
	}
	if (frames > s->pos.frame)
		s->last_new_ns = now;
	if (late || s->seen.backfill > backfill) {
		s->window_next_ns = now + 2 * MS_WAL_MS;
	} else {
		back_off(&s->window_wait_ns, &s->window_next_ns, now, 20 * MS_WAL_MS, 1000 * MS_WAL_MS);
		if (!s->ckpt_at && !s->threshold_known && s->window_at < UINT32_MAX / 2)
			s->window_at = frames * 2;
	}
	return rc;
}
