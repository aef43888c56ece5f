/*
 * Get: one round trip to look at the object and open it, then reads of 32 KiB, up to 64 under way, handed over in order.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "replicas/sftp.h"

/* Reads under way, in order of their offsets; answers may come in any order. */
struct ahead {
	struct slot {
		uint32_t id, want, have;
		uint64_t off;
		bool done;
		uint8_t *data; /* of one that came before its turn */
	} slots[MS_SFTP_AHEAD];
	unsigned first, n;
};

static enum ms_code deliver(struct ms_sftp_replica *r, const struct ms_sftp_handle *h, const char *name, uint64_t off, uint64_t end, ms_get_cb cb, void *arg,
			    bool *theirs, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	struct ahead a = {0};
	uint32_t first_id = s->next_id;
	uint64_t next = off;
	enum ms_code rc = MS_OK;
	while (!rc && (a.n || next < end)) {
		while (!rc && a.n < MS_SFTP_AHEAD && next < end) {
			struct slot *t = &a.slots[(a.first + a.n) % MS_SFTP_AHEAD];
			*t = (struct slot){.want = end - next < MS_SFTP_CHUNK ? (uint32_t)(end - next) : MS_SFTP_CHUNK, .off = next};
			rc = ms_sftp_ask_read(s, h, t->off, t->want, &t->id, err);
			next += t->want;
			a.n++;
		}
		struct ms_sftp_reply reply;
		if (rc || (rc = ms_sftp_next(s, true, &reply, err)))
			break;
		if (reply.id < first_id)
			continue;
		struct slot *t = NULL;
		for (unsigned i = 0; i < a.n && !t; i++)
			if (a.slots[(a.first + i) % MS_SFTP_AHEAD].id == reply.id)
				t = &a.slots[(a.first + i) % MS_SFTP_AHEAD];
		if (!t || t->done) {
			rc = ms_sftp_err(&s->conn, err, MS_EPERMANENT, "the server's answer breaks the SFTP protocol");
			break;
		}
		if (reply.type != MS_SFTP_DATA) {
			struct ms_sftp_call c = {0};
			if ((rc = ms_sftp_parse(s, &reply, &c, err)))
				break;
			/* The object was as long as that when it was opened, and objects do not change. */
			rc = c.status == MS_SFTP_EOF ? ms_sftp_err(&s->conn, err, MS_ERETRY, "%s ends before its size", name)
						     : ms_sftp_refused(s, &c, "reading", name, err);
			break;
		}
		uint32_t n = reply.n >= 4 ? ms_get_be32(reply.p) : 0;
		if (n == 0 || n > reply.n - 4 || n > t->want - t->have) {
			rc = ms_sftp_err(&s->conn, err, MS_EPERMANENT, "the server's answer breaks the SFTP protocol");
			break;
		}
		bool turn = t == &a.slots[a.first];
		if (turn && !t->data) {
			if ((rc = cb(arg, reply.p + 4, n, err)))
				*theirs = true;
		} else {
			if (!t->data && !(t->data = malloc(t->want)))
				rc = ms_err_set(err, MS_ENOMEM, "%s", name);
			if (!rc)
				memcpy(t->data + t->have, reply.p + 4, n);
		}
		if (rc)
			break;
		t->have += n;
		if (t->have < t->want) {
			/* A short read: the rest of this piece. What was handed over already needs no place. */
			if (turn && !t->data) {
				t->off += n;
				t->want -= n;
				t->have = 0;
			}
			rc = ms_sftp_ask_read(s, h, t->off + t->have, t->want - t->have, &t->id, err);
			continue;
		}
		t->done = true;
		while (!rc && a.n && a.slots[a.first].done) {
			t = &a.slots[a.first];
			if (t->data && (rc = cb(arg, t->data, t->have, err)))
				*theirs = true;
			free(t->data);
			t->data = NULL;
			a.first = (a.first + 1) % MS_SFTP_AHEAD;
			a.n--;
		}
		if (!rc && atomic_load(&r->cancelled))
			rc = ms_sftp_canceled(r, err);
	}
	for (; a.n; a.n--, a.first = (a.first + 1) % MS_SFTP_AHEAD)
		free(a.slots[a.first].data);
	return rc;
}

static enum ms_code get(struct ms_sftp_replica *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, bool *theirs, struct ms_err *err) {
	struct ms_sftp *s = &r->s;
	char path[MS_SFTP_PATH_CAP];
	struct ms_sftp_call c[2];
	enum ms_code rc;
	ms_sftp_path(r, path, name);
	if ((rc = ms_sftp_ask_path(s, MS_SFTP_LSTAT, path, &c[0], err)) || (rc = ms_sftp_ask_open(s, path, MS_SFTP_OPEN_READ, &c[1], err)) ||
	    (rc = ms_sftp_collect(s, c, 2, err)))
		return rc;
	*theirs = true; /* what the server refuses leaves the connection as it was */
	if (c[0].type != MS_SFTP_ATTRS || (c[0].attrs.has_mode && !S_ISREG(c[0].attrs.mode))) {
		if (c[1].handle.n && (rc = ms_sftp_ask_handle(s, MS_SFTP_CLOSE, &c[1].handle, &c[0], err)))
			return rc;
		if (c[0].type == MS_SFTP_STATUS && c[0].status != MS_SFTP_NO_SUCH_FILE && c[0].status != MS_SFTP_FAILURE)
			return ms_sftp_refused(s, &c[0], "looking for", path, err);
		return ms_sftp_missing(r, name, err);
	}
	if (!c[1].handle.n)
		return c[1].status == MS_SFTP_NO_SUCH_FILE ? ms_sftp_missing(r, name, err) : ms_sftp_refused(s, &c[1], "opening", path, err);
	if (!c[0].attrs.has_size)
		return ms_sftp_err(&s->conn, err, MS_EUNSUPPORTED, "the server does not say how long %s is", name);
	uint64_t size = c[0].attrs.size, from = (uint64_t)off > size ? size : (uint64_t)off;
	uint64_t end = len < 0 || (uint64_t)len > size - from ? size : from + (uint64_t)len;
	*theirs = false;
	if ((rc = deliver(r, &c[1].handle, name, from, end, cb, arg, theirs, err)) && !*theirs)
		return rc;
	struct ms_err e = MS_ERR_INIT;
	if (ms_sftp_ask_handle(s, MS_SFTP_CLOSE, &c[1].handle, &c[0], &e))
		*theirs = false;
	return rc;
}

enum ms_code ms_sftp_get(struct ms_replica *base, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	struct ms_sftp_replica *r = (struct ms_sftp_replica *)base;
	bool theirs = false;
	enum ms_code rc = ms_sftp_ready(r, err);
	if (!rc)
		rc = get(r, name, off, len, cb, arg, &theirs, err);
	return ms_sftp_finish(r, rc, rc && !theirs);
}
