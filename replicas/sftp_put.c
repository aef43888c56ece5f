/*
 * Put, and the directories it makes. The order of the steps, and what each makes durable, is in sftp.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "replicas/sftp.h"

#define TMP_MAX_AGE_US (INT64_C(86400) * 1000000)
#define TMP_NAME_LEN 24 /* ".ms-", 16 hex, ".tmp" */
#define SWEEP_MAX 64	/* temporaries removed at once */
#define DIR_MODE 0700u
#define GRACE_NS UINT64_C(1000000000) /* for removing the temporary of a cancelled put */
#define RETRIES 8		      /* a directory that others keep removing */

/* ---- directories ---- */

static struct ms_sftp_dir *dir_find(struct ms_sftp_replica *r, const char *path) {
	for (unsigned i = 0; i < MS_SFTP_DIRS_KNOWN; i++)
		if (r->dirs[i].path && strcmp(r->dirs[i].path, path) == 0)
			return &r->dirs[i];
	return NULL;
}

static void dir_learn(struct ms_sftp_replica *r, const char *path, bool swept) {
	struct ms_sftp_dir *d = dir_find(r, path);
	if (!d) {
		d = &r->dirs[r->next_dir++ % MS_SFTP_DIRS_KNOWN];
		free(d->path);
		*d = (struct ms_sftp_dir){.path = strdup(path)}; /* NULL: asked again */
	}
	d->swept |= swept;
}

/* Makes the entries of a directory that `opened` holds open durable, and closes it. Servers other than OpenSSH on Unix cannot: then settle_us says so. */
static enum ms_code sync_opened(struct ms_sftp_replica *r, const struct ms_sftp_call *opened, const char *dir, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	struct ms_sftp_call c[2] = {*opened};
	enum ms_code rc;
	if (opened->handle.n && ((rc = ms_sftp_ask_fsync(s, &opened->handle, &c[0], err)) ||
				 (rc = ms_sftp_ask_handle(s, MS_SFTP_CLOSE, &opened->handle, &c[1], err)) || (rc = ms_sftp_collect(s, c, 2, err))))
		return rc;
	bool synced = opened->handle.n && c[0].status == MS_SFTP_OK;
	if (r->dir_sync && !synced && c[0].status != MS_SFTP_NO_SUCH_FILE)
		return ms_sftp_refused(s, &c[0], "sync of directory", dir, err);
	r->dir_sync |= synced;
	r->dir_sync_tried = true;
	return MS_OK;
}

static bool syncs_dirs(const struct ms_sftp_replica *r) { return r->s.has_fsync && (r->dir_sync || !r->dir_sync_tried); }

static enum ms_code sync_dir(struct ms_sftp_replica *r, const char *dir, struct ms_err *err) {
	struct ms_sftp_call c;
	enum ms_code rc;
	if (!syncs_dirs(r))
		return MS_OK;
	if ((rc = ms_sftp_ask_open(&r->s, dir, MS_SFTP_OPEN_READ, &c, err)) || (rc = ms_sftp_collect(&r->s, &c, 1, err)))
		return rc;
	return sync_opened(r, &c, dir, err);
}

struct sweep {
	struct ms_sftp_replica *r;
	const char *dir;
	int64_t before_us;
	char names[SWEEP_MAX][TMP_NAME_LEN + 1];
	unsigned n;
};

static bool is_tmp(const char *name) {
	return strlen(name) == TMP_NAME_LEN && strncmp(name, ".ms-", 4) == 0 && strspn(name + 4, "0123456789abcdef") == 16 && strcmp(name + 20, ".tmp") == 0;
}

static enum ms_code sweep_one(void *arg, const char *name, const struct ms_sftp_attrs *a, struct ms_err *err) {
	struct sweep *w = arg;
	(void)err;
	if (w->n < SWEEP_MAX && is_tmp(name) && a->has_time && (int64_t)a->mtime * 1000000 < w->before_us)
		memcpy(w->names[w->n++], name, TMP_NAME_LEN + 1);
	return MS_OK;
}

/* Temporaries of writers that died, ours or others'. */
static enum ms_code sweep(struct ms_sftp_replica *r, const char *dir, struct ms_err *err) {
	struct sweep w = {.r = r, .dir = dir, .before_us = ms_env_now_us(r->env) - TMP_MAX_AGE_US};
	struct ms_sftp_call c;
	enum ms_code rc = ms_sftp_read_dir(&r->s, dir, sweep_one, &w, &c, err);
	for (unsigned i = 0; i < w.n && !rc; i++) {
		char path[MS_SFTP_PATH_CAP + TMP_NAME_LEN + 2];
		snprintf(path, sizeof path, "%s/%s", dir, w.names[i]);
		rc = ms_sftp_ask_path(&r->s, MS_SFTP_REMOVE, path, &c, err);
	}
	return rc;
}

/* mkdir of one directory, and sync of its parent: also when it is there, since its maker may not have come to the sync. Two round trips. */
static enum ms_code make_dir(struct ms_sftp_replica *r, const char *path, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	struct ms_sftp_call c[3];
	char parent[MS_SFTP_PATH_CAP];
	bool sync = syncs_dirs(r);
	enum ms_code rc;
	if (dir_find(r, path))
		return MS_OK;
	snprintf(parent, sizeof parent, "%s", path);
	char *slash = strrchr(parent, '/');
	if (slash)
		slash[slash == parent] = '\0';
	else
		snprintf(parent, sizeof parent, ".");
	if ((rc = ms_sftp_ask_mkdir(s, path, DIR_MODE, &c[0], err)) || (rc = ms_sftp_ask_path(s, MS_SFTP_STAT, path, &c[1], err)) ||
	    (sync && (rc = ms_sftp_ask_open(s, parent, MS_SFTP_OPEN_READ, &c[2], err))) || (rc = ms_sftp_collect(s, c, sync ? 3 : 2, err)))
		return rc;
	if (sync && (rc = sync_opened(r, &c[2], parent, err)))
		return rc;
	if (c[1].type != MS_SFTP_ATTRS)
		return ms_sftp_refused(s, &c[0], "making directory", path, err);
	if (c[1].attrs.has_mode && !S_ISDIR(c[1].attrs.mode))
		return ms_sftp_err(&s->conn, err, MS_EPERMANENT, "%.200s is not a directory", path);
	dir_learn(r, path, false);
	return MS_OK;
}

/* <path> itself: there, or made where that is allowed, with its parents. */
enum ms_code ms_sftp_make_root(struct ms_sftp_replica *r, struct ms_err *err) {
	struct ms_sftp_call c;
	enum ms_code rc = ms_sftp_ask_path(&r->s, MS_SFTP_STAT, r->root, &c, err);
	if (rc || (rc = ms_sftp_collect(&r->s, &c, 1, err)))
		return rc;
	if (c.type == MS_SFTP_ATTRS)
		return !c.attrs.has_mode || S_ISDIR(c.attrs.mode) ? MS_OK : ms_sftp_err(&r->s.conn, err, MS_ENOTFOUND, "%.200s is not a directory", r->root);
	if (c.status != MS_SFTP_NO_SUCH_FILE)
		return ms_sftp_refused(&r->s, &c, "looking for", r->root, err);
	if (!r->create)
		return ms_sftp_err(&r->s.conn, err, MS_ENOTFOUND, "directory %.200s does not exist (unmounted there, renamed or deleted?)", r->root);
	char path[MS_PATH_MAX];
	memcpy(path, r->root, sizeof path);
	for (char *slash = path + 1;; slash++) {
		slash = strchr(slash, '/');
		if (slash)
			*slash = '\0';
		if ((rc = make_dir(r, path, err)) || !slash)
			return rc;
		*slash = '/';
	}
}

/* The directory of an object's path, below <path>. */
static enum ms_code make_dirs(struct ms_sftp_replica *r, const char *path, struct ms_err *err) {
	char p[MS_SFTP_PATH_CAP];
	size_t nroot = strlen(r->root);
	enum ms_code rc = dir_find(r, r->root) ? MS_OK : ms_sftp_make_root(r, err);
	if (!rc)
		dir_learn(r, r->root, false);
	snprintf(p, sizeof p, "%s", path);
	for (char *slash = p + nroot + (r->root[nroot - 1] != '/'); !rc && (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		rc = make_dir(r, p, err);
		*slash = '/';
	}
	return rc;
}

/* ---- put ---- */

/* Counts the answers to writes first_id.. that are there; wait: at least one. */
static enum ms_code take_writes(struct ms_sftp_replica *r, uint32_t first_id, bool wait, unsigned *flying, const char *tmp, struct ms_err *err) {
	while (*flying) {
		struct ms_sftp_reply reply;
		struct ms_sftp_call c = {0};
		enum ms_code rc = ms_sftp_next(&r->s, wait, &reply, err);
		if (rc)
			return rc;
		if (reply.type == 0)
			return MS_OK;
		if (reply.id < first_id)
			continue;
		if ((rc = ms_sftp_parse(&r->s, &reply, &c, err)))
			return rc;
		--*flying;
		if (c.status != MS_SFTP_OK)
			return ms_sftp_refused(&r->s, &c, "writing", tmp, err);
		wait = false;
	}
	return MS_OK;
}

/* *wire: the error is the connection's, not the server's or the body's. */
static enum ms_code write_body(struct ms_sftp_replica *r, const struct ms_sftp_handle *h, const char *name, const char *tmp, struct ms_body *b, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	uint32_t first = s->next_id;
	unsigned flying = 0;
	int64_t off = 0;
	enum ms_code rc = MS_OK;
	for (bool end = false; !end;) {
		uint8_t *data;
		size_t have = 0, n;
		if (atomic_load(&r->cancelled))
			return ms_sftp_canceled(r, err);
		if ((rc = ms_sftp_write_begin(s, h, (uint64_t)off, &data, err)))
			return rc;
		/* Bodies deliver in pieces as they come; a write is a full one. */
		do {
			if ((rc = b->read(b, data + have, MS_SFTP_CHUNK - have, &n, err)))
				return rc;
			have += n;
		} while (n && have < MS_SFTP_CHUNK);
		end = n == 0;
		if (have) {
			ms_sftp_write_end(s, have);
			flying++;
			off += (int64_t)have;
		}
		if ((rc = take_writes(r, first, flying >= MS_SFTP_AHEAD, &flying, tmp, err)))
			return rc;
	}
	if (b->size >= 0 && b->size != off)
		return ms_err_set(err, MS_EINVAL, "%s: the body gave %lld bytes instead of %lld", name, (long long)off, (long long)b->size);
	struct ms_sftp_call c;
	if (s->has_fsync && (rc = ms_sftp_ask_fsync(s, h, &c, err)))
		return rc;
	while (flying) {
		/* The fsync's answer comes behind the last write's. */
		if ((rc = take_writes(r, first, true, &flying, tmp, err)))
			return rc;
	}
	if (!s->has_fsync)
		return MS_OK;
	if ((rc = ms_sftp_collect(s, &c, 1, err)))
		return rc;
	return c.status == MS_SFTP_OK ? MS_OK : ms_sftp_refused(s, &c, "sync of", tmp, err);
}

/* The name was not made: why? */
static enum ms_code not_published(struct ms_sftp_replica *r, const struct ms_sftp_call *link, const char *name, const char *path, struct ms_err *err) {
	struct ms_sftp_call c;
	enum ms_code rc;
	if ((rc = ms_sftp_ask_path(&r->s, MS_SFTP_LSTAT, path, &c, err)) || (rc = ms_sftp_collect(&r->s, &c, 1, err)))
		return rc;
	if (c.type == MS_SFTP_ATTRS)
		return ms_sftp_err(&r->s.conn, err, MS_EEXISTS, "%s exists", name);
	if (link->status == MS_SFTP_NO_SUCH_FILE)
		return ms_sftp_err(&r->s.conn, err, MS_ERETRY, "the temporary of %s has vanished", name);
	rc = ms_sftp_refused(&r->s, link, "publishing", path, err);
	if (rc == MS_EUNSUPPORTED || rc == MS_EPERM)
		return ms_sftp_err(&r->s.conn, err, rc,
				   "%.160s cannot be created only if absent: the server may not make hard links there (%s). Choose another file system, or, if no other "
				   "writer can ever use this replica, set `exclusive: false` and `fencing: none`", path, link->text[0] ? link->text : "refused");
	return rc;
}

/* tmp is written and durable; makes it `path`. tmp is gone afterwards, or was tried to be. */
static enum ms_code publish(struct ms_sftp_replica *r, const char *name, const char *tmp, const char *path, const struct ms_sftp_handle *file,
			    const struct ms_sftp_handle *dir, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	struct ms_sftp_call c[5];
	unsigned n = 0, link, sync = 0;
	enum ms_code rc;
	if (r->exclusive && !s->has_hardlink)
		return ms_sftp_err(&s->conn, err, MS_EUNSUPPORTED,
				   "the server lacks hardlink@openssh.com, so an object cannot be created only if absent. If no other writer can ever use this replica, "
				   "set `exclusive: false` and `fencing: none`");
	if ((rc = ms_sftp_ask_handle(s, MS_SFTP_CLOSE, file, &c[n++], err)))
		return rc;
	if (!r->exclusive) {
		/* A check right before the rename is all there is. */
		if ((rc = ms_sftp_ask_path(s, MS_SFTP_LSTAT, path, &c[n++], err)) || (rc = ms_sftp_collect(s, c, n, err)))
			return rc;
		if (c[1].type == MS_SFTP_ATTRS)
			return ms_sftp_err(&s->conn, err, MS_EEXISTS, "%s exists", name);
		n = 0;
	}
	link = n++;
	if ((rc = r->exclusive ? ms_sftp_ask_link(s, tmp, path, &c[link], err) : ms_sftp_ask_rename(s, tmp, path, &c[link], err)))
		return rc;
	if (dir->n && s->has_fsync) {
		sync = n++;
		if ((rc = ms_sftp_ask_fsync(s, dir, &c[sync], err)))
			return rc;
	}
	if ((rc = ms_sftp_ask_path(s, MS_SFTP_REMOVE, tmp, &c[n++], err)) || (rc = ms_sftp_collect(s, c, n, err)))
		return rc;
	if (sync) {
		/* Linked, but nobody can say for how long: who asks again finds the name and has to be able to rely on it. */
		if (r->dir_sync && c[sync].status != MS_SFTP_OK) {
			struct ms_sftp_call undo;
			if (c[link].status == MS_SFTP_OK && ((rc = ms_sftp_ask_path(s, MS_SFTP_REMOVE, path, &undo, err)) || (rc = ms_sftp_collect(s, &undo, 1, err))))
				return rc;
			return ms_sftp_refused(s, &c[sync], "sync of the directory of", path, err);
		}
		r->dir_sync |= c[sync].status == MS_SFTP_OK;
	}
	r->dir_sync_tried = true;
	return c[link].status == MS_SFTP_OK ? MS_OK : not_published(r, &c[link], name, path, err);
}

static void add_orphan(struct ms_sftp_replica *r, const char *tmp) {
	char *copy = r->norphans < MS_SFTP_ORPHANS_MAX ? strdup(tmp) : NULL;
	if (copy)
		r->orphans[r->norphans++] = copy;
}

/* After a failure: tells the server to forget the temporary. What was queued and is not sent is dropped with the connection, if that is broken. */
static void clean_up(struct ms_sftp_replica *r, const char *tmp, const struct ms_sftp_handle *file, const struct ms_sftp_handle *dir) {
	struct ms_sftp *s = &r->s;
	struct ms_sftp_call c[3];
	bool ok = s->conn.ssh != NULL;
	if (atomic_load(&r->cancelled)) {
		s->conn.grace = true;
		s->conn.deadline_ns = ms_env_mono_ns(r->env) + GRACE_NS;
	}
	ok = ok && (!file->n || ms_sftp_ask_handle(s, MS_SFTP_CLOSE, file, &c[0], NULL) == MS_OK);
	ok = ok && (!dir->n || ms_sftp_ask_handle(s, MS_SFTP_CLOSE, dir, &c[1], NULL) == MS_OK);
	ok = ok && ms_sftp_ask_path(s, MS_SFTP_REMOVE, tmp, &c[2], NULL) == MS_OK && ms_sftp_collect(s, &c[2], 1, NULL) == MS_OK;
	if (!ok) {
		add_orphan(r, tmp);
		ms_sftp_stop(s);
	}
}

static enum ms_code put_once(struct ms_sftp_replica *r, const char *name, struct ms_body *b, bool *retry, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	char path[MS_SFTP_PATH_CAP], dir[MS_SFTP_PATH_CAP], tmp[MS_SFTP_PATH_CAP + TMP_NAME_LEN + 2];
	struct ms_sftp_call c[3];
	struct ms_sftp_handle none = {0};
	uint64_t id;
	enum ms_code rc;
	*retry = false;
	ms_sftp_path(r, path, name);
	memcpy(dir, path, sizeof dir);
	char *slash = strrchr(dir, '/');
	slash[slash == dir] = '\0';
	const struct ms_sftp_dir *known = dir_find(r, dir);
	if (!known || !known->swept) {
		bool root_known = dir_find(r, r->root) != NULL;
		if ((rc = make_dirs(r, path, err)) || (rc = sweep(r, dir, err))) {
			/* One that was known may have been removed since. What is missing without that is missing. */
			*retry = rc == MS_ENOTFOUND && root_known;
			if (*retry)
				ms_sftp_forget_dirs(r);
			return rc;
		}
		dir_learn(r, dir, true);
	}
	ms_env_random(r->env, &id, sizeof id);
	snprintf(tmp, sizeof tmp, "%s%s.ms-%016llx.tmp", dir, strcmp(dir, "/") == 0 ? "" : "/", (unsigned long long)id);
	/* The directory is opened last: while the temporary is in it, nobody can remove it and make another. */
	if ((rc = ms_sftp_ask_path(s, MS_SFTP_LSTAT, path, &c[0], err)) || (rc = ms_sftp_ask_open(s, tmp, MS_SFTP_OPEN_CREATE, &c[1], err)) ||
	    (rc = ms_sftp_ask_open(s, dir, MS_SFTP_OPEN_READ, &c[2], err)) || (rc = ms_sftp_collect(s, c, 3, err))) {
		add_orphan(r, tmp);
		return rc;
	}
	const struct ms_sftp_handle *file = c[1].type == MS_SFTP_HANDLE ? &c[1].handle : &none, *at = c[2].type == MS_SFTP_HANDLE ? &c[2].handle : &none;
	if (!file->n) {
		if (at->n && (rc = ms_sftp_ask_handle(s, MS_SFTP_CLOSE, at, &c[0], err)))
			return rc;
		if (c[1].status == MS_SFTP_NO_SUCH_FILE) {
			ms_sftp_forget_dirs(r);
			*retry = true;
		}
		return ms_sftp_refused(s, &c[1], "creating", tmp, err);
	}
	if (c[0].type == MS_SFTP_ATTRS) {
		/* Saves writing what cannot be published. Who finds its own object there (a lost response) may rely on it. */
		rc = sync_dir(r, dir, err);
		if (!rc)
			rc = ms_sftp_err(&s->conn, err, MS_EEXISTS, "%s exists", name);
	} else {
		rc = write_body(r, file, name, tmp, b, err);
		if (!rc) {
			rc = publish(r, name, tmp, path, file, at, err);
			if (!rc && at->n)
				rc = ms_sftp_ask_handle(s, MS_SFTP_CLOSE, at, &c[0], err);
			if (!rc) {
				r->create = false;
				return MS_OK;
			}
		}
	}
	clean_up(r, tmp, file, at);
	return rc;
}

enum ms_code ms_sftp_put(struct ms_replica *base, const char *name, struct ms_body *b, struct ms_err *err) {
	struct ms_sftp_replica *r = (struct ms_sftp_replica *)base;
	bool retry = true;
	enum ms_code rc = ms_sftp_ready(r, err);
	/* A remove may take away the empty directory that was just made: then it is made again. */
	for (int tries = 0; !rc && retry && tries < RETRIES; tries++) {
		struct ms_err e = MS_ERR_INIT;
		rc = put_once(r, name, b, &retry, &e);
		if (rc)
			ms_err_set(err, rc, "%s", e.msg);
		if (rc && retry && tries + 1 < RETRIES)
			rc = MS_OK;
	}
	bool lost = rc == MS_ETIMEDOUT || rc == MS_ECANCELED || rc == MS_EPERMANENT || rc == MS_ERETRY || rc == MS_ENOMEM;
	return ms_sftp_finish(r, rc, lost);
}
