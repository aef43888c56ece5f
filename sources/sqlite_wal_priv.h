/*
 * What the files of the WAL follower share: sqlite_attach.c (probe, attach, resume), sqlite_marks.c (read marks, windows, soft
 * checkpoint), sqlite_capture.c (frames to transactions, crossing a reset), sqlite_pages.c (page images), sqlite_wal.c (the
 * operations).
 *
 * Words: "generation" here is one life of the WAL, between two resets, named by its salts. "Doubt" means that continuity is not
 * proven; it is never guessed away but becomes MS_SRC_LOST.
 */
#ifndef MS_SOURCES_SQLITE_WAL_PRIV_H
#define MS_SOURCES_SQLITE_WAL_PRIV_H

#include "sources/page_map.h"
#include "sources/sqlite_conn.h"
#include "sources/sqlite_cookie.h"
#include "sources/sqlite_wal.h"
#include "sources/sqlite_watch.h"
#include "sources/wal_index.h"

#define MS_WAL_MS 1000000ull /* in ns */
#define MS_WAL_POLL_US 500u	    /* under load, where a window may be due */
#define MS_WAL_POLL_MOST_US 6000u /* under load otherwise: what a commit waits for its journal entry */
#define MS_WAL_STEP_NS (15 * MS_WAL_MS)
#define MS_WAL_SLOW_POLL_US 1000000u
#define MS_WAL_SETTLE_US 2000u

/* The last commit handed over. */
struct ms_wal_pos {
	bool have_gen; /* gen is the header of the WAL the frames lie in; false: nothing has been read under these salts */
	struct ms_wal_header gen;
	uint32_t salt1, salt2; /* as the wal-index names them */
	uint32_t frame;
	struct ms_wal_sum sum;
	uint32_t db_pages;
	uint32_t change;
};

/*
 * A read transaction of one of our two connections. Slots 1-4 keep the WAL from being reset; slot 0 keeps checkpoints from
 * writing the database. SQLite picks slot 0 where everything is backfilled, unless a checkpoint is just about to let go of it.
 */
struct ms_wal_mark {
	uint32_t salt1, salt2;
	uint32_t hi; /* the mark's frame is not above this */
	/* nBackfill when it was begun, or less. A checkpoint that stops at a mark skips pages that have a newer frame behind it,
	 * so only what was backfilled before our mark is in the file for certain. */
	uint32_t backfill;
	bool slot0;
};

struct ms_wal_batch { /* frames in s->buf, all valid, of generation pos.gen */
	uint32_t first, count;
	uint32_t last_commit; /* 0 none */
	uint32_t commits;
};

struct ms_sqlite_wal {
	struct ms_source base;
	struct ms_env *env;
	struct ms_sqlite_wal_options opt;
	char *path; /* as given */
	char canon[4096], wal_path[4096 + 8], shm_path[4096 + 8];
	struct ms_sqlite_watch watch;

	bool attached;
	struct ms_sqlite_conn conn[2];
	int cur; /* the connection that holds the mark, -1 none */
	struct ms_wal_mark mark;
	uint64_t pinned_since_ns; /* 0 none */
	const volatile void *shm;
	int wal_fd;
	uint64_t dev, ino, wal_ino, shm_ino;
	uint32_t mode, uid, gid;
	int64_t born_us; /* 0: the file system does not say */
	bool made_wal; /* there was no -wal before this attach */
	uint32_t page_size;
	size_t frame_bytes;

	struct ms_wal_pos pos;
	struct ms_wal_index seen; /* last wal-index header of pos's generation */
	struct ms_page_map map;	  /* newest frame <= pos.frame of each page, of pos.gen */
	struct ms_page_map tx_map;
	uint8_t *buf;
	size_t buf_cap;
	struct ms_wal_batch batch;
	uint32_t batch_most; /* frames; 0 = as many as the buffer holds */
	bool in_sink;	     /* a call of the sink is under way, or it failed and its code goes to the caller as it is */
	bool reached;	     /* the position has been at an end of the WAL that was seen since the call of step() or skip() began */

	/* After a reset: the old generation's last frames lie proven in buf, to be handed over before the new generation. */
	uint32_t rest_last;
	uint32_t next_salt1, next_salt2;

	bool lost;
	bool padded;	      /* an application writes commit frames more than once (no powersafe overwrite); since attach */
	uint32_t lost_change; /* change counter at the last commit before the loss */
	bool lost_change_known;
	char why[256];

	/* Policy. Frames and times of the present generation. */
	uint32_t threshold; /* frames at which this application's checkpoints have set in */
	bool threshold_known;
	uint32_t backfill0; /* nBackfill that is not the application's doing */
	uint32_t ckpt_at;   /* mxFrame when nBackfill first moved, 0 not yet */
	uint32_t window_at; /* no release window below this many frames */
	uint64_t window_next_ns, window_wait_ns;
	uint64_t soft_next_ns, soft_wait_ns;
	uint64_t last_new_ns;
	uint32_t rate;	   /* frames a ms, smoothed, times 16 */
	uint64_t stall_ns; /* by how much our own sleeps have been too long lately */
	unsigned hits;
	bool load;
	uint64_t settle_us;
	uint64_t identity_ns;
	uint64_t busy_since_ns;
	uint64_t let_go_until_ns, let_go_bytes; /* bytes in use of the generation that let_go_salt names */
	uint32_t let_go_salt[2];

	/* The database this source followed last, to know a WAL that was left beside another file. */
	uint64_t known_ino, known_wal_ino;
	uint32_t known_salt1, known_salt2, known_frame;
};

static inline uint64_t ms_wal_now(struct ms_sqlite_wal *s) {
	return ms_env_mono_ns(s->env);
}
static inline bool ms_wal_in_gen(const struct ms_sqlite_wal *s, const struct ms_wal_index *h) {
	return h->salt1 == s->pos.salt1 && h->salt2 == s->pos.salt2;
}

/* sqlite_marks.c */
/* Sleeps, and keeps account of how much longer that took. */
void ms_wal_nap(struct ms_sqlite_wal *s, uint64_t us);
/* Reads the wal-index header; lets SQLite recover it where a writer died. MS_EBUSY: not readable just now. */
enum ms_code ms_wal_look(struct ms_sqlite_wal *s, struct ms_wal_index *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Takes a mark, or begins a newer one before it ends the present one. */
enum ms_code ms_wal_leap(struct ms_sqlite_wal *s, struct ms_err *err) MS_WARN_UNUSED;
void ms_wal_release(struct ms_sqlite_wal *s);
void ms_wal_observe(struct ms_sqlite_wal *s, const struct ms_wal_index *h);
void ms_wal_new_generation(struct ms_sqlite_wal *s); /* policy state starts afresh */
/* Keeps the right mark for what h says. *ret_again: look again before returning to the caller. */
enum ms_code ms_wal_tend(struct ms_sqlite_wal *s, const struct ms_wal_index *h, bool *ret_again,
			 struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_wal_soft_checkpoint(struct ms_sqlite_wal *s, struct ms_err *err) MS_WARN_UNUSED;
/* Under load: how long until the next look. */
uint64_t ms_wal_poll_us(const struct ms_sqlite_wal *s);
bool ms_wal_window_due(struct ms_sqlite_wal *s, const struct ms_wal_index *h);
/* Lets go of the mark for a while, and goes on capturing meanwhile; ends with a mark held again unless MS_EBUSY. */
enum ms_code ms_wal_window(struct ms_sqlite_wal *s, struct ms_sink *sink, struct ms_err *err) MS_WARN_UNUSED;

/* sqlite_capture.c. Doubt: MS_OK with s->lost set. */
void ms_wal_doubt(struct ms_sqlite_wal *s, const char *fmt, ...) MS_PRINTF(2, 3);
enum ms_code ms_wal_buffer(struct ms_sqlite_wal *s, size_t bytes, struct ms_err *err) MS_WARN_UNUSED;
/* Hands over what lies between pos and h, transactions whole, until about deadline. */
enum ms_code ms_wal_capture(struct ms_sqlite_wal *s, struct ms_sink *sink, const struct ms_wal_index *h, uint64_t deadline_ns,
			    struct ms_err *err) MS_WARN_UNUSED;
/* The salts have changed. With a mark on what is current now: proves that nothing lies between pos and the new generation but the
 * rest that it reads into the buffer. sure: a mark was held all the time (slot 0). */
enum ms_code ms_wal_prove_reset(struct ms_sqlite_wal *s, bool sure, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_wal_deliver_rest(struct ms_sqlite_wal *s, struct ms_sink *sink, struct ms_err *err) MS_WARN_UNUSED;
/* Reads the header of the WAL that h names into pos.gen, and starts its chain. *ret_ok false: not (yet) there. */
enum ms_code ms_wal_load_generation(struct ms_sqlite_wal *s, const struct ms_wal_index *h, bool *ret_ok,
				    struct ms_err *err) MS_WARN_UNUSED;
/* Verifies frames pos.frame + 1 .. upto, moves pos, calls dirty for each if given. *ret_bad: 0 or the first bad frame. */
enum ms_code ms_wal_scan(struct ms_sqlite_wal *s, uint32_t upto, bool keep_map, void (*dirty)(void *, uint32_t), void *arg,
			 uint32_t *ret_commits, uint32_t *ret_bad, struct ms_err *err) MS_WARN_UNUSED;
void ms_wal_cookie(struct ms_sqlite_wal *s, struct ms_cookie *ret);

/* sqlite_attach.c */
enum ms_code ms_wal_attach(struct ms_source *src, const struct ms_cookie *resume, struct ms_source_info *ret,
			   struct ms_step_result *res, struct ms_err *err);
/* A mark on now, and the position there. */
enum ms_code ms_wal_rebase(struct ms_sqlite_wal *s, void (*dirty)(void *, uint32_t), void *arg,
			   struct ms_err *err) MS_WARN_UNUSED;
void ms_wal_close(struct ms_sqlite_wal *s);
void ms_wal_info(struct ms_sqlite_wal *s, struct ms_source_info *ret);
/* Is path still the file we follow? FOLLOWING, MISSING or REPLACED; LOST where the -wal or -shm was taken away from under us. */
enum ms_source_state ms_wal_identity(struct ms_sqlite_wal *s, char why[256]);
/* Closes and opens everything again; the position is lost. */
enum ms_code ms_wal_reopen(struct ms_sqlite_wal *s, struct ms_err *err) MS_WARN_UNUSED;

/* sqlite_pages.c */
enum ms_code ms_wal_read_pages(struct ms_source *src, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err);
bool ms_wal_prev_page(struct ms_source *src, uint32_t pgno, uint8_t *out);
bool ms_wal_matches(struct ms_source *src, const struct ms_cookie *cookie);
/* Up to n bytes of the WAL at off; *ret_n < n at the end of the file. */
enum ms_code ms_wal_pread(struct ms_sqlite_wal *s, void *buf, size_t n, int64_t off, size_t *ret_n,
			  struct ms_err *err) MS_WARN_UNUSED;

#endif
