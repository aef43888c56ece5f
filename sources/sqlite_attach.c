/*
 * Finding out what a path holds, and taking hold of it.
 *
 * Before SQLite is let near the database: does it exist, is it a file, may we use it without leaving -wal or -shm files of
 * another owner behind, does its header say WAL mode, is no hot rollback journal there that opening would roll back. Then two
 * connections, a mark, and the position: now, or the one that the resume cookie names when everything since is provably still
 * there.
 *
 * Resume is proven by one of
 *  - same salts, and the frame that the cookie names carries the cookie's running checksum: the chain goes on from there;
 *  - salt 1 one above the cookie's (one restart, and no fresh start, which would draw it at random) and the proof of
 * ms_wal_prove_reset();
 *  - the WAL was empty then, and the file has kept inode, size and modification time: whatever came since is in the WAL from
 * frame 1 on.
 */
#include "sources/sqlite_wal_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

#define HEADER_BYTES 100
#define ATTACH_TRIES 20 /* of 2 ms */
#define REBASE_TRIES 8
#define EXCLUSIVE_AFTER_NS (400 * MS_WAL_MS)
#define RACY_MTIME_NS (100 * (int64_t)MS_WAL_MS)

static void state(struct ms_step_result *res, enum ms_source_state st, const char *fmt, ...) MS_PRINTF(3, 4);
static void state(struct ms_step_result *res, enum ms_source_state st, const char *fmt, ...) {
	va_list ap;
	res->state = st;
	va_start(ap, fmt);
	vsnprintf(res->why, sizeof res->why, fmt, ap);
	va_end(ap);
}

static bool usable(const char *path) {
	return faccessat(AT_FDCWD, path, R_OK | W_OK, AT_EACCESS) == 0;
}
static bool exists(const char *path) {
	return faccessat(AT_FDCWD, path, F_OK, AT_EACCESS) == 0;
}

/* True when SQLite may be let near it. */
static bool probe_files(struct ms_sqlite_wal *s, struct ms_step_result *res) {
	struct stat st;
	char dir[sizeof s->canon], journal[sizeof s->canon + 16];
	uid_t uid = geteuid();

	ms_sqlite_watch_dir(&s->watch, s->path);
	if (!realpath(s->path, s->canon) || stat(s->canon, &st) != 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			state(res, MS_SRC_MISSING, "%s does not exist", s->path);
		else
			state(res, MS_SRC_REFUSED, "%s cannot be reached: %s", s->path, strerror(errno));
		return false;
	}
	ms_sqlite_watch_dir(&s->watch, s->canon);
	if (!S_ISREG(st.st_mode)) {
		state(res, MS_SRC_REFUSED, "%s is not a regular file", s->canon);
		return false;
	}
	if (st.st_size == 0) {
		state(res, MS_SRC_EMPTY, "%s is empty: nothing to replicate yet", s->canon);
		return false;
	}
	snprintf(s->wal_path, sizeof s->wal_path, "%s-wal", s->canon);
	snprintf(s->shm_path, sizeof s->shm_path, "%s-shm", s->canon);
	snprintf(journal, sizeof journal, "%s-journal", s->canon);
	s->mode = st.st_mode & 07777;
	s->uid = st.st_uid;
	s->gid = st.st_gid;
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	struct statx sx;
	bool born = statx(AT_FDCWD, s->canon, 0, STATX_BTIME, &sx) == 0 && (sx.stx_mask & STATX_BTIME) && sx.stx_btime.tv_sec > 0;
	s->born_us = born ? sx.stx_btime.tv_sec * 1000000 + sx.stx_btime.tv_nsec / 1000 : 0;
	s->made_wal = !exists(s->wal_path);
	if (faccessat(AT_FDCWD, s->canon, R_OK, AT_EACCESS) != 0) {
		state(res, MS_SRC_REFUSED, "%s cannot be read by uid %u: run as its owner, uid %u", s->canon, (unsigned)uid,
		      (unsigned)s->uid);
		return false;
	}
	bool have = usable(s->wal_path) && usable(s->shm_path);
	if (!have && (exists(s->wal_path) && !usable(s->wal_path))) {
		state(res, MS_SRC_REFUSED, "%s cannot be written by uid %u, and readers need it: run as its owner", s->wal_path,
		      (unsigned)uid);
		return false;
	}
	if (!have && (exists(s->shm_path) && !usable(s->shm_path))) {
		state(res, MS_SRC_REFUSED, "%s cannot be written by uid %u, and readers need it: run as its owner", s->shm_path,
		      (unsigned)uid);
		return false;
	}
	if (!have && uid != 0 && uid != s->uid) {
		/* They would be ours, and the application could then not write its own database. */
		state(res, MS_SRC_REFUSED,
		      "owned by uid %u, and we are uid %u: we would create -wal and -shm that the application cannot write; run "
		      "as uid %u or root",
		      (unsigned)s->uid, (unsigned)uid, (unsigned)s->uid);
		return false;
	}
	memcpy(dir, s->canon, sizeof dir);
	char *slash = strrchr(dir, '/');
	slash[slash == dir ? 1 : 0] = 0;
	if (!have && faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) != 0) {
		state(res, MS_SRC_REFUSED,
		      "directory %.120s is not writable (%s), so -wal and -shm cannot be made: mount or chmod it writable", dir,
		      strerror(errno));
		return false;
	}
	struct stat js;
	if (stat(journal, &js) == 0 && js.st_size > 0) {
		state(res, MS_SRC_BUSY,
		      "%.150s holds a rollback journal: the application is writing in rollback mode, or must be started to roll "
		      "it back",
		      journal);
		return false;
	}
	return true;
}

/* Reads the header through SQLite's own descriptor, before any lock. */
static enum ms_code probe_header(struct ms_sqlite_wal *s, struct ms_step_result *res, bool *ret_ok, struct ms_err *err) {
	uint8_t h[HEADER_BYTES];
	*ret_ok = false;
	enum ms_code rc = ms_sqlite_conn_read(&s->conn[0], h, sizeof h, 0, err);
	if (rc != MS_OK)
		return rc;
	if (memcmp(h, "SQLite format 3", 16) != 0) {
		state(res, MS_SRC_REFUSED, "%.150s is not a SQLite database, or an encrypted one", s->canon);
		return MS_OK;
	}
	if (h[18] != 2 || h[19] != 2) {
		if (h[18] == 1 && h[19] == 1)
			state(res, MS_SRC_NOT_WAL,
			      "journal mode is not WAL: run PRAGMA journal_mode=WAL on it once (sqlite3 DB 'PRAGMA "
			      "journal_mode=WAL')");
		else
			state(res, MS_SRC_REFUSED, "file format versions %u/%u are unknown: made by a newer SQLite", h[18],
			      h[19]);
		return MS_OK;
	}
	uint32_t ps = (uint32_t)h[16] << 8 | h[17];
	if (ps == 1)
		ps = 65536;
	if (!ms_page_size_valid(ps)) {
		state(res, MS_SRC_REFUSED, "header gives page size %u: damaged", ps);
		return MS_OK;
	}
	s->page_size = ps;
	s->frame_bytes = ms_wal_frame_bytes(ps);
	*ret_ok = true;
	return MS_OK;
}

void ms_wal_close(struct ms_sqlite_wal *s) {
	struct stat st;
	bool sweep = false;
	ms_sqlite_watch_disarm(&s->watch);
	/* A -wal that SQLite made for us and that nobody has written goes again, as after any reader's visit. One with frames
	 * stays: it is the proof of continuity for the next attach, and the checkpoint is the application's. */
	if (s->wal_fd >= 0)
		sweep = s->attached && s->made_wal && fstat(s->wal_fd, &st) == 0 && st.st_size == 0;
	s->shm = NULL;
	s->cur = -1;
	ms_sqlite_conn_close(&s->conn[1], false);
	ms_sqlite_conn_close(&s->conn[0], sweep);
	if (s->wal_fd >= 0)
		close(s->wal_fd);
	s->wal_fd = -1;
	s->attached = s->lost = s->load = s->in_sink = false;
	s->rest_last = 0;
	s->hits = 0;
	s->pinned_since_ns = 0;
	s->batch.count = 0;
	memset(&s->pos, 0, sizeof s->pos);
	memset(&s->seen, 0, sizeof s->seen);
	ms_page_map_release(&s->map);
	ms_page_map_release(&s->tx_map);
	free(s->buf);
	s->buf = NULL;
	s->buf_cap = 0;
}

static enum ms_code open_all(struct ms_sqlite_wal *s, struct ms_step_result *res, bool *ret_ok, struct ms_err *err) {
	struct stat st;
	enum ms_code rc;
	int moved = 0;
	bool ok;

	*ret_ok = false;
	if ((rc = ms_sqlite_conn_open(&s->conn[0], s->canon, err)) != MS_OK || (rc = probe_header(s, res, &ok, err)) != MS_OK)
		return rc;
	if (!ok)
		return MS_OK;
	struct ms_err e = MS_ERR_INIT;
	for (int i = 0;; i++) {
		rc = ms_sqlite_conn_begin(&s->conn[0], &e);
		if (rc != MS_EBUSY || i == ATTACH_TRIES)
			break;
		s->env->ops->sleep_us(s->env, 2000);
	}
	if (rc == MS_EBUSY) {
		if (!s->busy_since_ns)
			s->busy_since_ns = ms_wal_now(s);
		if (ms_wal_now(s) - s->busy_since_ns < EXCLUSIVE_AFTER_NS) {
			state(res, MS_SRC_BUSY, "locked by another process just now");
			res->next_poll_us = 50000;
		} else {
			state(res, MS_SRC_REFUSED,
			      "locked by another process%s: EXCLUSIVE locking mode? Take PRAGMA locking_mode=EXCLUSIVE out of "
			      "the application and let it reconnect",
			      exists(s->shm_path) ? "" : ", and there is no -shm");
		}
		return MS_OK;
	}
	s->busy_since_ns = 0;
	if (rc == MS_EPERM || rc == MS_ECORRUPT) {
		state(res, MS_SRC_REFUSED, "%.250s", e.msg);
		return MS_OK;
	}
	if (rc != MS_OK) {
		if (err)
			*err = e;
		return rc;
	}
	if (!(s->shm = ms_sqlite_conn_shm(&s->conn[0]))) {
		state(res, MS_SRC_REFUSED,
		      "no shared wal-index: EXCLUSIVE locking mode, or a file system without mmap; take PRAGMA "
		      "locking_mode=EXCLUSIVE out of the application");
		return MS_OK;
	}
	s->wal_fd = open(s->wal_path, O_RDONLY | O_CLOEXEC);
	if (s->wal_fd < 0) {
		state(res, MS_SRC_BUSY, "%.150s: %s", s->wal_path, strerror(errno));
		return MS_OK;
	}
	/* The second connection must have read once, or its checkpoints do nothing (fact 11). */
	if ((rc = ms_sqlite_conn_open(&s->conn[1], s->canon, err)) != MS_OK)
		return rc;
	if ((rc = ms_sqlite_conn_begin(&s->conn[1], err)) == MS_EBUSY) {
		state(res, MS_SRC_BUSY, "no second read mark to be had just now");
		return MS_OK;
	}
	if (rc != MS_OK)
		return rc;
	ms_sqlite_conn_end(&s->conn[1]);
	/* Is what SQLite opened what stat() saw? */
	if (sqlite3_file_control(s->conn[0].db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK || moved ||
	    stat(s->canon, &st) != 0 || (uint64_t)st.st_ino != s->ino || (uint64_t)st.st_dev != s->dev) {
		state(res, MS_SRC_BUSY, "replaced while it was opened");
		return MS_OK;
	}
	s->shm_ino = stat(s->shm_path, &st) == 0 ? st.st_ino : 0;
	s->wal_ino = fstat(s->wal_fd, &st) == 0 ? st.st_ino : 0;
	s->cur = 0;
	s->pinned_since_ns = ms_wal_now(s);
	/* Nothing is known of this mark: an impossible generation, to be left at the first leap. */
	s->mark = (struct ms_wal_mark){.hi = UINT32_MAX, .slot0 = true};
	*ret_ok = true;
	return MS_OK;
}

/* Pages of the database when the WAL holds none. */
static enum ms_code file_pages(struct ms_sqlite_wal *s, uint32_t *ret, struct ms_err *err) {
	sqlite3_int64 size = 0;
	sqlite3_file *f = s->conn[0].file;
	int rc = f->pMethods->xFileSize(f, &size);
	if (rc != SQLITE_OK)
		return ms_err_set(err, MS_EIO, "%s: size: %s", s->canon, sqlite3_errstr(rc));
	*ret = (uint32_t)((size + s->page_size - 1) / s->page_size);
	return MS_OK;
}

static void start_at(struct ms_sqlite_wal *s, const struct ms_wal_index *h) {
	s->pos = (struct ms_wal_pos){.salt1 = h->salt1, .salt2 = h->salt2, .change = h->change, .db_pages = h->db_pages};
	s->rest_last = 0;
	s->batch.count = 0;
	s->seen = *h;
	ms_page_map_clear(&s->map);
	ms_wal_new_generation(s);
	s->backfill0 = h->backfill;
}

/*
 * Position at the end of the WAL as h says, every frame verified. *ret_ok false: it was reset under us (slot 0 does not prevent
 * that), try again. With cookie: if the chain proves it, *ret_continuous and the position stays there.
 */
static enum ms_code position(struct ms_sqlite_wal *s, const struct ms_wal_index *h, const struct ms_sqlite_cookie *cookie,
			     bool *ret_continuous, bool *ret_ok, void (*dirty)(void *, uint32_t), void *arg, struct ms_err *err) {
	struct ms_wal_index now;
	struct ms_wal_pos there = {0};
	uint32_t commits, bad = 0;
	bool found = false;
	enum ms_code rc;

	*ret_ok = false;
	start_at(s, h);
	if (!h->mx_frame) {
		*ret_ok = true;
		return h->db_pages ? MS_OK : file_pages(s, &s->pos.db_pages, err);
	}
	if ((rc = ms_wal_load_generation(s, h, ret_ok, err)) != MS_OK)
		return rc;
	if (!*ret_ok)
		bad = 1;
	*ret_ok = false;
	if (!bad && cookie && cookie->frame <= h->mx_frame) {
		if ((rc = ms_wal_scan(s, cookie->frame, true, NULL, NULL, &commits, &bad, err)) != MS_OK)
			return rc;
		if (!bad && ms_wal_sum_eq(s->pos.sum, cookie->sum)) {
			s->pos.db_pages = cookie->db_pages;
			there = s->pos;
			found = true;
		}
	}
	if (!bad && (rc = ms_wal_scan(s, h->mx_frame, !found, dirty, arg, &commits, &bad, err)) != MS_OK)
		return rc;
	if (bad || !ms_wal_sum_eq(s->pos.sum, h->sum)) {
		if ((rc = ms_wal_look(s, &now, err)) != MS_OK)
			return rc;
		if (!ms_wal_index_same_gen(&now, h) || !s->mark.slot0)
			return ms_wal_index_same_gen(&now, h)
				   ? ms_err_set(err, MS_ECORRUPT,
						"%s: frame %u fails its checksum; the application reads it all the same: run "
						"PRAGMA wal_checkpoint(TRUNCATE), then integrity_check",
						s->wal_path, bad ? bad : h->mx_frame)
				   : MS_OK;
		if (now.backfill < h->mx_frame)
			return MS_OK;
		/* Everything is in the file, no frame is needed. */
		start_at(s, h);
		if ((rc = ms_wal_load_generation(s, h, ret_ok, err)) != MS_OK)
			return rc;
		s->pos.frame = h->mx_frame;
		s->pos.sum = h->sum;
		s->pos.db_pages = h->db_pages;
		*ret_ok = s->pos.have_gen;
		return MS_OK;
	}
	if (found) {
		/* The wal-index may have been recovered since, which starts its counter again: count backwards from what it says
		 * now. */
		there.change = h->change - commits;
		s->pos = there;
		*ret_continuous = true;
	}
	*ret_ok = true;
	return MS_OK;
}

static enum ms_code settle(struct ms_sqlite_wal *s, const struct ms_sqlite_cookie *cookie, bool *ret_continuous,
			   void (*dirty)(void *, uint32_t), void *arg, struct ms_err *err) {
	struct ms_wal_index h;
	enum ms_code rc = MS_OK;
	bool ok = false;
	for (int i = 0; i < REBASE_TRIES && !ok; i++) {
		/* h is read after the begin: the mark is not above the position that comes of it. */
		if ((rc = ms_wal_leap(s, err)) != MS_OK || (rc = ms_wal_look(s, &h, err)) != MS_OK)
			return rc;
		const struct ms_sqlite_cookie *use =
		    cookie && h.mx_frame && cookie->frame && cookie->salt1 == h.salt1 && cookie->salt2 == h.salt2 ? cookie : NULL;
		if ((rc = position(s, &h, use, ret_continuous, &ok, dirty, arg, err)) != MS_OK)
			return rc;
	}
	return ok ? MS_OK : ms_err_set(err, MS_EBUSY, "%s: reset again and again while it was read", s->wal_path);
}

enum ms_code ms_wal_rebase(struct ms_sqlite_wal *s, void (*dirty)(void *, uint32_t), void *arg, struct ms_err *err) {
	bool continuous = false;
	return settle(s, NULL, &continuous, dirty, arg, err);
}

static int64_t mtime_ns(const struct stat *st) {
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* The WAL held nothing when the cookie was made: if the file is the same to the nanosecond, no checkpoint has happened since, so
 * all commits since are in the WAL from frame 1 on. */
static enum ms_code resume_file_only(struct ms_sqlite_wal *s, const struct ms_sqlite_cookie *c, bool *ret_continuous,
				     struct ms_err *err) {
	struct ms_wal_index h;
	struct stat st;
	uint32_t commits, bad;
	bool ok = true;
	enum ms_code rc = ms_wal_look(s, &h, err);
	if (rc != MS_OK)
		return rc;
	if (stat(s->canon, &st) != 0 || (uint64_t)st.st_size != c->file_bytes || mtime_ns(&st) != c->file_mtime_ns || h.backfill)
		return MS_OK;
	start_at(s, &h);
	if (h.mx_frame) {
		if ((rc = ms_wal_load_generation(s, &h, &ok, err)) != MS_OK)
			return rc;
		struct ms_wal_pos there = s->pos;
		if (ok && (rc = ms_wal_scan(s, h.mx_frame, false, NULL, NULL, &commits, &bad, err)) != MS_OK)
			return rc;
		if (!ok || bad || !ms_wal_sum_eq(s->pos.sum, h.sum))
			return MS_OK;
		s->pos = there;
		s->pos.change = h.change - commits;
	}
	s->pos.db_pages = c->db_pages;
	*ret_continuous = true;
	return MS_OK;
}

/* The WAL was restarted once since the cookie. */
static enum ms_code resume_restarted(struct ms_sqlite_wal *s, const struct ms_sqlite_cookie *c, bool *ret_continuous,
				     struct ms_err *err) {
	struct ms_wal_index h;
	uint8_t head[MS_WAL_FRAME_HEADER];
	struct ms_wal_frame f;
	size_t n;
	enum ms_code rc = ms_wal_look(s, &h, err);
	if (rc != MS_OK || h.mx_frame >= c->frame)
		return rc;
	/* The change counter alone is no proof over a time when the wal-index may have been recovered: the cookie's own frame
	 * must still lie in the file, so that nothing behind it can have been cut off or overwritten unseen. */
	if ((rc = ms_wal_pread(s, head, sizeof head, ms_wal_frame_offset(s->page_size, c->frame), &n, err)) != MS_OK ||
	    n != sizeof head)
		return rc;
	ms_wal_frame_parse(head, &f);
	if (f.salt1 != c->salt1 || f.salt2 != c->salt2 || !ms_wal_sum_eq(f.sum, c->sum))
		return MS_OK;
	start_at(s, &h);
	s->pos = (struct ms_wal_pos){
	    .have_gen = true,
	    .salt1 = c->salt1,
	    .salt2 = c->salt2,
	    .frame = c->frame,
	    .sum = c->sum,
	    .db_pages = c->db_pages,
	    .change = c->change,
	    .gen = {.page_size = c->page_size, .salt1 = c->salt1, .salt2 = c->salt2, .big_endian = c->big_endian}};
	s->lost = false;
	rc = ms_wal_prove_reset(s, false, err);
	*ret_continuous = rc == MS_OK && !s->lost;
	s->lost = false;
	return rc;
}

static enum ms_code resume(struct ms_sqlite_wal *s, const struct ms_cookie *cookie, struct ms_source_info *ret,
			   struct ms_err *err) {
	struct ms_sqlite_cookie c;
	struct ms_wal_index h;
	enum ms_code rc;
	bool known = cookie && ms_sqlite_cookie_get(cookie, &c), ours = known && c.ino == s->ino && c.page_size == s->page_size;

	if ((rc = ms_wal_leap(s, err)) != MS_OK || (rc = ms_wal_look(s, &h, err)) != MS_OK)
		return rc;
	if (ours && c.file_only)
		rc = resume_file_only(s, &c, &ret->continuous, err);
	else if (ours && c.frame && h.salt1 == c.salt1 + 1)
		rc = resume_restarted(s, &c, &ret->continuous, err);
	if (rc != MS_OK || ret->continuous)
		return rc;
	if ((rc = settle(s, ours && !c.file_only ? &c : NULL, &ret->continuous, NULL, NULL, err)) != MS_OK)
		return rc;
	/* The WAL that the cookie names is there and does not hold its commit, or the one before it is back: the database stands
	 * at an older commit. Any other salts, or no WAL, mean that it went on, as far as can be told. */
	ret->behind = ours && !c.file_only && c.frame && !ret->continuous && s->pos.have_gen &&
		      ((c.salt1 == s->pos.salt1 && c.salt2 == s->pos.salt2) || c.salt1 == s->pos.salt1 + 1);
	ret->behind |= known && c.ino != s->ino;
	return MS_OK;
}

void ms_wal_info(struct ms_sqlite_wal *s, struct ms_source_info *ret) {
	struct stat st;
	bool continuous = ret->continuous, behind = ret->behind;
	*ret = (struct ms_source_info){.page_size = s->page_size,
				       .db_pages = s->pos.db_pages,
				       .mode = s->mode,
				       .uid = s->uid,
				       .gid = s->gid,
				       .dev = s->dev,
				       .ino = s->ino,
				       .born_us = s->born_us,
				       .continuous = continuous,
				       .behind = behind};
	if (s->pos.frame || s->rest_last || stat(s->canon, &st) != 0) {
		ms_wal_cookie(s, &ret->cookie);
		return;
	}
	struct ms_sqlite_cookie c = {.file_only = true,
				     .page_size = s->page_size,
				     .salt1 = s->pos.salt1,
				     .salt2 = s->pos.salt2,
				     .change = s->pos.change,
				     .db_pages = s->pos.db_pages,
				     .ino = s->ino,
				     .wal_ino = s->wal_ino,
				     .file_bytes = (uint64_t)st.st_size,
				     .file_mtime_ns = mtime_ns(&st)};
	/* A write within the clock's granularity would not be seen: such a cookie proves nothing. */
	if (ms_env_now_us(s->env) * 1000 - c.file_mtime_ns < RACY_MTIME_NS)
		c.file_mtime_ns = -1;
	ms_sqlite_cookie_put(&c, &ret->cookie);
}

/* A -wal that belonged to another file of this name: SQLite would show that one's content (fact 16). */
static bool stale_wal(struct ms_sqlite_wal *s, const struct ms_cookie *cookie, const struct ms_wal_index *h) {
	struct ms_sqlite_cookie c;
	if (!h->mx_frame)
		return false;
	if (s->known_ino && s->known_ino != s->ino && s->known_wal_ino == s->wal_ino && s->known_salt1 == h->salt1 &&
	    s->known_salt2 == h->salt2 && h->mx_frame <= s->known_frame)
		return true;
	return cookie && ms_sqlite_cookie_get(cookie, &c) && !c.file_only && c.ino != s->ino && c.wal_ino == s->wal_ino &&
	       c.salt1 == h->salt1 && c.salt2 == h->salt2 && h->mx_frame <= c.frame;
}

static enum ms_code take_hold(struct ms_sqlite_wal *s, const struct ms_cookie *cookie, struct ms_source_info *ret,
			      struct ms_step_result *res, bool *ret_ok, struct ms_err *err) {
	struct ms_wal_index h;
	enum ms_code rc;
	if ((rc = open_all(s, res, ret_ok, err)) != MS_OK || !*ret_ok)
		return rc;
	*ret_ok = false;
	if ((rc = ms_wal_look(s, &h, err)) != MS_OK)
		return rc;
	if (stale_wal(s, cookie, &h)) {
		state(res, MS_SRC_REFUSED,
		      "the database was replaced but the -wal of the old file still lies beside it, and SQLite shows the old "
		      "content: stop the application, remove -wal and -shm, put the file in place again");
		return MS_OK;
	}
	if (h.mx_frame && h.page_size != s->page_size) {
		state(res, MS_SRC_REFUSED,
		      "the -wal has pages of %u bytes, the database of %u: a -wal of another database lies beside it",
		      h.page_size, s->page_size);
		return MS_OK;
	}
	if ((rc = resume(s, cookie, ret, err)) == MS_ECORRUPT) {
		state(res, MS_SRC_REFUSED, "%.250s", err ? err->msg : "damaged WAL");
		if (err)
			*err = MS_ERR_INIT;
		return MS_OK;
	}
	*ret_ok = rc == MS_OK;
	return rc;
}

enum ms_code ms_wal_attach(struct ms_source *src, const struct ms_cookie *cookie, struct ms_source_info *ret,
			   struct ms_step_result *res, struct ms_err *err) {
	struct ms_sqlite_wal *s = (struct ms_sqlite_wal *)src;
	struct ms_source_info info = {0};
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc = MS_OK;
	bool ok = false;

	*res = (struct ms_step_result){.state = MS_SRC_FOLLOWING, .next_poll_us = MS_WAL_SLOW_POLL_US, .lost_commits = -1};
	if (s->attached)
		return ms_err_set(err, MS_EINVAL, "%s: already attached", s->path);
	if (cookie && !cookie->len)
		cookie = NULL;
	s->padded = false;
	ms_sqlite_watch_drain(&s->watch);
	if (probe_files(s, res))
		rc = take_hold(s, cookie, &info, res, &ok, &e);
	if (rc == MS_EBUSY) {
		state(res, MS_SRC_BUSY, "%.250s", e.msg);
		rc = MS_OK;
	}
	if (rc != MS_OK || !ok) {
		if (res->state == MS_SRC_BUSY)
			res->next_poll_us = 50000;
		ms_wal_close(s);
		ms_sqlite_watch_drain(&s->watch); /* what our own look at it has caused */
		if (rc != MS_OK && err)
			*err = e;
		return rc;
	}
	s->attached = true;
	s->settle_us = MS_WAL_SETTLE_US;
	s->last_new_ns = s->identity_ns = ms_wal_now(s);
	s->let_go_until_ns = s->let_go_bytes = 0;
	s->known_ino = s->ino;
	s->known_wal_ino = s->wal_ino;
	s->known_salt1 = s->pos.salt1;
	s->known_salt2 = s->pos.salt2;
	s->known_frame = s->pos.frame;
	struct stat st;
	if (fstat(s->wal_fd, &st) == 0)
		res->wal_bytes = (uint64_t)st.st_size;
	res->pinned_since_us = s->pinned_since_ns / 1000;
	res->more = true;
	ms_wal_info(s, &info);
	*ret = info;
	return MS_OK;
}

enum ms_source_state ms_wal_identity(struct ms_sqlite_wal *s, char why[256]) {
	struct stat st;
	if (stat(s->path, &st) != 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			return MS_SRC_FOLLOWING; /* a directory that cannot be searched just now says nothing about the file we
						    hold */
		snprintf(why, 256, "%.200s was deleted or moved away", s->path);
		return MS_SRC_MISSING;
	}
	if ((uint64_t)st.st_ino != s->ino || (uint64_t)st.st_dev != s->dev) {
		snprintf(why, 256, "%.200s is another file now", s->path);
		return MS_SRC_REPLACED;
	}
	if (fstat(s->wal_fd, &st) == 0 && st.st_nlink == 0) {
		snprintf(why, 256, "%.200s was deleted while in use", s->wal_path);
		return MS_SRC_LOST;
	}
	if (s->shm_ino && (stat(s->shm_path, &st) != 0 || (uint64_t)st.st_ino != s->shm_ino)) {
		snprintf(why, 256, "%.200s was deleted while in use", s->shm_path);
		return MS_SRC_LOST;
	}
	return MS_SRC_FOLLOWING;
}

enum ms_code ms_wal_reopen(struct ms_sqlite_wal *s, struct ms_err *err) {
	struct ms_step_result res = {0};
	char why[sizeof s->why];
	bool ok = false;
	memcpy(why, s->why, sizeof why);
	ms_wal_close(s);
	enum ms_code rc = MS_OK;
	if (probe_files(s, &res))
		rc = open_all(s, &res, &ok, err);
	if (rc == MS_OK && !ok)
		rc = ms_err_set(err, MS_EIO, "%s: cannot be opened again: %s", s->path, res.why);
	if (rc != MS_OK) {
		ms_wal_close(s);
		return rc;
	}
	s->attached = true;
	s->lost = true;
	memcpy(s->why, why, sizeof why);
	return MS_OK;
}
