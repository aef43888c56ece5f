/*
 * A packet is u32 length, u8 type, u32 id, payload; strings are u32 length and bytes; everything big-endian.
 */
#include "replicas/sftp_wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "replicas/ssh_bytes.h"

#define OUT_LIMIT (4u << 20)
#define IN_LIMIT (1u << 20)
#define PACKET_MAX (256u << 10)
#define OUT_LOW (256u << 10)
#define HEAD 9 /* length, type, id */
#define INIT 1
#define VERSION 2
#define OPEN 3
#define READ 5
#define WRITE 6
#define MKDIR 14
#define EXTENDED 200
#define DIR_AHEAD_MAX 32

static void put_be64(uint8_t *p, uint64_t v) { ms_put_be32(p, (uint32_t)(v >> 32)), ms_put_be32(p + 4, (uint32_t)v); }

void ms_sftp_init(struct ms_sftp *s) {
	ms_buf_init(&s->in, IN_LIMIT);
	ms_buf_init(&s->out, OUT_LIMIT);
}

void ms_sftp_stop(struct ms_sftp *s) {
	ms_sftp_disconnect(&s->conn);
	ms_buf_clear(&s->in);
	ms_buf_clear(&s->out);
	s->in_off = s->in_taken = s->out_off = 0;
}

void ms_sftp_release(struct ms_sftp *s) {
	ms_sftp_stop(s);
	ms_buf_release(&s->in);
	ms_buf_release(&s->out);
}

/* ---- requests ---- */

/* Room for a packet with `room` bytes of payload; returns where the payload begins. */
static uint8_t *begin(struct ms_sftp *s, uint8_t type, size_t room, uint32_t *ret_id, struct ms_err *err) {
	/* What is sent makes room: all at once where that is everything, else by the megabyte. */
	if (s->out_off == s->out.len || s->out_off > OUT_LIMIT / 4) {
		memmove(s->out.data, s->out.data + s->out_off, s->out.len - s->out_off);
		s->out.len -= s->out_off;
		s->out_off = 0;
	}
	if (ms_buf_reserve(&s->out, HEAD + room, err))
		return NULL;
	uint8_t *p = s->out.data + s->out.len;
	*ret_id = s->next_id++;
	p[4] = type;
	ms_put_be32(p + 5, *ret_id);
	return p + HEAD;
}

/* end: behind the payload. */
static enum ms_code queue(struct ms_sftp *s, const uint8_t *end) {
	uint8_t *p = s->out.data + s->out.len;
	size_t n = (size_t)(end - p);
	ms_put_be32(p, (uint32_t)n - 4);
	s->out.len += n;
	return MS_OK;
}

static enum ms_code ask(struct ms_sftp *s, uint8_t type, const char *extension, const void *a, size_t na, const char *b, unsigned extra, uint32_t v,
			struct ms_sftp_call *call, struct ms_err *err) {
	*call = (struct ms_sftp_call){0};
	size_t nx = extension ? strlen(extension) : 0, nb = b ? strlen(b) : 0;
	uint8_t *p = begin(s, type, nx + na + nb + 32, &call->id, err);
	if (!p)
		return MS_ENOMEM;
	if (extension)
		p = ms_ssh_put(p, extension, nx);
	p = ms_ssh_put(p, a, na);
	if (b)
		p = ms_ssh_put(p, b, nb);
	if (extra) {
		/* OPEN: flags, then attributes; MKDIR: attributes. With a mode, or without any. */
		if (type == OPEN)
			ms_put_be32(p, extra), p += 4;
		ms_put_be32(p, v ? 4 : 0), p += 4; /* SSH_FILEXFER_ATTR_PERMISSIONS */
		if (v)
			ms_put_be32(p, v), p += 4;
	}
	return queue(s, p);
}

enum ms_code ms_sftp_ask_path(struct ms_sftp *s, enum ms_sftp_type t, const char *path, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, (uint8_t)t, NULL, path, strlen(path), NULL, 0, 0, call, err);
}

enum ms_code ms_sftp_ask_open(struct ms_sftp *s, const char *path, unsigned flags, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, OPEN, NULL, path, strlen(path), NULL, flags, flags == MS_SFTP_OPEN_CREATE ? 0600 : 0, call, err);
}

enum ms_code ms_sftp_ask_mkdir(struct ms_sftp *s, const char *path, unsigned mode, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, MKDIR, NULL, path, strlen(path), NULL, 1, mode, call, err);
}

enum ms_code ms_sftp_ask_handle(struct ms_sftp *s, enum ms_sftp_type t, const struct ms_sftp_handle *h, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, (uint8_t)t, NULL, h->id, h->n, NULL, 0, 0, call, err);
}

enum ms_code ms_sftp_ask_fsync(struct ms_sftp *s, const struct ms_sftp_handle *h, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, EXTENDED, "fsync@openssh.com", h->id, h->n, NULL, 0, 0, call, err);
}

enum ms_code ms_sftp_ask_link(struct ms_sftp *s, const char *from, const char *to, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, EXTENDED, "hardlink@openssh.com", from, strlen(from), to, 0, 0, call, err);
}

enum ms_code ms_sftp_ask_rename(struct ms_sftp *s, const char *from, const char *to, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, MS_SFTP_RENAME, NULL, from, strlen(from), to, 0, 0, call, err);
}

enum ms_code ms_sftp_ask_statvfs(struct ms_sftp *s, const char *path, struct ms_sftp_call *call, struct ms_err *err) {
	return ask(s, EXTENDED, "statvfs@openssh.com", path, strlen(path), NULL, 0, 0, call, err);
}

enum ms_code ms_sftp_ask_read(struct ms_sftp *s, const struct ms_sftp_handle *h, uint64_t off, uint32_t n, uint32_t *ret_id, struct ms_err *err) {
	uint8_t *p = begin(s, READ, 4 + h->n + 12, ret_id, err);
	if (!p)
		return MS_ENOMEM;
	p = ms_ssh_put(p, h->id, h->n);
	put_be64(p, off);
	ms_put_be32(p + 8, n);
	return queue(s, p + 12);
}

enum ms_code ms_sftp_write_begin(struct ms_sftp *s, const struct ms_sftp_handle *h, uint64_t off, uint8_t **ret_data, struct ms_err *err) {
	uint32_t id;
	uint8_t *p = begin(s, WRITE, 4 + h->n + 12 + MS_SFTP_CHUNK, &id, err);
	if (!p)
		return MS_ENOMEM;
	p = ms_ssh_put(p, h->id, h->n);
	put_be64(p, off);
	*ret_data = p + 12;
	return MS_OK;
}

void ms_sftp_write_end(struct ms_sftp *s, size_t n) {
	uint8_t *p = s->out.data + s->out.len + HEAD;
	p += 4 + ms_get_be32(p) + 8;
	ms_put_be32(p, (uint32_t)n);
	(void)queue(s, p + 4 + n);
}

/* ---- bytes both ways ---- */

/* Length of the whole packet that lies first in `in`, 0 when none does. */
static enum ms_code first_packet(struct ms_sftp *s, size_t *ret, struct ms_err *err) {
	size_t have = s->in.len - s->in_off;
	*ret = 0;
	if (have < 4)
		return MS_OK;
	uint32_t n = ms_get_be32(s->in.data + s->in_off);
	if (n < 5 || n > PACKET_MAX)
		return ms_sftp_err(&s->conn, err, MS_EPERMANENT, "the server sent a packet of %u bytes: what answers is no SFTP server (a login script that prints?)", n);
	*ret = have >= 4 + (size_t)n ? 4 + (size_t)n : 0;
	return MS_OK;
}

static enum ms_code receive(struct ms_sftp *s, bool *moved, struct ms_err *err) {
	size_t n;
	if (s->in_off == s->in.len) {
		s->in.len = s->in_off = 0;
	} else if (s->in_off > PACKET_MAX) {
		memmove(s->in.data, s->in.data + s->in_off, s->in.len - s->in_off);
		s->in.len -= s->in_off;
		s->in_off = 0;
	}
	/* Enough for the packet that begins here is always free, since one is at most a quarter of the limit. */
	if (s->in.len + (64u << 10) > IN_LIMIT)
		return MS_OK;
	enum ms_code rc = ms_buf_reserve(&s->in, 64u << 10, err);
	if (!rc)
		rc = ms_sftp_recv(&s->conn, s->in.data + s->in.len, s->in.cap - s->in.len, &n, err);
	if (rc)
		return rc;
	s->in.len += n;
	*moved |= n > 0;
	return MS_OK;
}

/* Sends and receives until a packet is there, or, without `wait`, at most `low` bytes are queued. */
static enum ms_code pump(struct ms_sftp *s, bool wait, size_t low, size_t *ret_packet, struct ms_err *err) {
	ms_sftp_progress(&s->conn);
	for (;;) {
		bool moved = false;
		enum ms_code rc;
		if (!s->conn.grace && atomic_load(s->conn.cancelled))
			return ms_sftp_err(&s->conn, err, MS_ECANCELED, "the call was cancelled");
		if (s->out_off < s->out.len) {
			size_t n;
			if ((rc = ms_sftp_send(&s->conn, s->out.data + s->out_off, s->out.len - s->out_off, &n, err)))
				return rc;
			s->out_off += n;
			moved |= n > 0;
			if (s->out_off == s->out.len)
				s->out_off = s->out.len = 0;
		}
		if ((rc = first_packet(s, ret_packet, err)))
			return rc;
		if (*ret_packet)
			return MS_OK;
		if ((rc = receive(s, &moved, err)) || (rc = first_packet(s, ret_packet, err)))
			return rc;
		if (*ret_packet || (!wait && s->out.len - s->out_off <= low))
			return MS_OK;
		if (moved)
			ms_sftp_progress(&s->conn);
		else if ((rc = ms_sftp_wait(&s->conn, err)))
			return rc;
	}
}

enum ms_code ms_sftp_next(struct ms_sftp *s, bool wait, struct ms_sftp_reply *ret, struct ms_err *err) {
	size_t n;
	s->in_off += s->in_taken;
	s->in_taken = 0;
	enum ms_code rc = pump(s, wait, OUT_LOW, &n, err);
	if (rc)
		return rc;
	if (!n) {
		*ret = (struct ms_sftp_reply){0};
		return MS_OK;
	}
	const uint8_t *p = s->in.data + s->in_off;
	s->in_taken = n;
	if (n < HEAD)
		return ms_sftp_err(&s->conn, err, MS_EPERMANENT, "the server sent a packet of %zu bytes", n);
	*ret = (struct ms_sftp_reply){.id = ms_get_be32(p + 5), .type = p[4], .p = p + HEAD, .n = n - HEAD};
	return MS_OK;
}

/* ---- replies ---- */

static uint64_t take_u64(struct ms_ssh_reader *r) {
	uint64_t hi = ms_ssh_u32(r);
	return hi << 32 | ms_ssh_u32(r);
}

static void take_attrs(struct ms_ssh_reader *r, struct ms_sftp_attrs *a) {
	size_t n;
	*a = (struct ms_sftp_attrs){0};
	uint32_t flags = ms_ssh_u32(r);
	if ((a->has_size = flags & 1))
		a->size = take_u64(r);
	if (flags & 2)
		(void)take_u64(r); /* uid, gid */
	if ((a->has_mode = flags & 4))
		a->mode = ms_ssh_u32(r);
	if ((a->has_time = flags & 8)) {
		(void)ms_ssh_u32(r);
		a->mtime = ms_ssh_u32(r);
	}
	if (flags & UINT32_C(0x80000000))
		for (uint32_t i = ms_ssh_u32(r); i && !r->bad; i--)
			(void)ms_ssh_string(r, &n), (void)ms_ssh_string(r, &n);
}

static enum ms_code broken(struct ms_sftp *s, struct ms_err *err) {
	return ms_sftp_err(&s->conn, err, MS_EPERMANENT, "the server's answer breaks the SFTP protocol");
}

enum ms_code ms_sftp_parse(struct ms_sftp *s, const struct ms_sftp_reply *reply, struct ms_sftp_call *call, struct ms_err *err) {
	struct ms_ssh_reader r = {reply->p, reply->n, false};
	const uint8_t *p;
	size_t n;
	call->done = true;
	call->type = reply->type;
	call->status = MS_SFTP_OK;
	switch (reply->type) {
	case MS_SFTP_STATUS:
		call->status = ms_ssh_u32(&r);
		if (r.bad)
			break;
		/* Older servers send no text. */
		p = r.n ? ms_ssh_string(&r, &n) : NULL;
		if (p) {
			if (n >= sizeof call->text)
				n = sizeof call->text - 1;
			for (size_t i = 0; i < n; i++)
				call->text[i] = p[i] < 0x20 || p[i] >= 0x7f ? ' ' : (char)p[i];
			call->text[n] = '\0';
		}
		break;
	case MS_SFTP_HANDLE:
		p = ms_ssh_string(&r, &n);
		if (!p || n == 0 || n > MS_SFTP_HANDLE_MAX) {
			r.bad = true;
			break;
		}
		memcpy(call->handle.id, p, n);
		call->handle.n = (unsigned)n;
		break;
	case MS_SFTP_ATTRS:
		take_attrs(&r, &call->attrs);
		break;
	case MS_SFTP_EXTENDED_REPLY: /* of statvfs, the only one with such a reply: f_bsize, f_frsize, f_blocks, f_bfree, f_bavail */
		(void)take_u64(&r);
		call->free_bytes = take_u64(&r);
		(void)take_u64(&r), (void)take_u64(&r);
		uint64_t blocks = take_u64(&r);
		call->free_bytes = call->free_bytes && blocks > UINT64_MAX / call->free_bytes ? UINT64_MAX : blocks * call->free_bytes;
		break;
	case MS_SFTP_DATA:
	case MS_SFTP_NAME:
		break;
	default:
		r.bad = true;
	}
	return r.bad ? broken(s, err) : MS_OK;
}

enum ms_code ms_sftp_collect(struct ms_sftp *s, struct ms_sftp_call *calls, unsigned n, struct ms_err *err) {
	for (unsigned left = n; left;) {
		struct ms_sftp_reply r;
		enum ms_code rc = ms_sftp_next(s, true, &r, err);
		if (rc)
			return rc;
		for (unsigned i = 0; i < n; i++)
			if (calls[i].id == r.id && !calls[i].done) {
				if ((rc = ms_sftp_parse(s, &r, &calls[i], err)))
					return rc;
				left--;
				break;
			}
	}
	return MS_OK;
}

enum ms_code ms_sftp_start(struct ms_sftp *s, struct ms_err *err) {
	struct ms_sftp_reply reply;
	struct ms_ssh_reader r;
	enum ms_code rc = ms_sftp_connect(&s->conn, err);
	if (rc)
		return rc;
	s->next_id = 1;
	s->has_hardlink = s->has_fsync = s->has_statvfs = false;
	static const uint8_t init[9] = {0, 0, 0, 5, INIT, 0, 0, 0, 3};
	if ((rc = ms_buf_append(&s->out, init, sizeof init, err)) || (rc = ms_sftp_next(s, true, &reply, err)))
		goto out;
	/* In VERSION the number stands where others have their id. */
	if (reply.type != VERSION || reply.id < 3) {
		rc = ms_sftp_err(&s->conn, err, MS_EUNSUPPORTED, "the server does not speak SFTP version 3");
		goto out;
	}
	for (r = (struct ms_ssh_reader){reply.p, reply.n, false}; r.n && !r.bad;) {
		size_t n, nv;
		const uint8_t *p = ms_ssh_string(&r, &n);
		if (!p || !ms_ssh_string(&r, &nv))
			break;
		s->has_hardlink |= n == 20 && memcmp(p, "hardlink@openssh.com", n) == 0;
		s->has_fsync |= n == 17 && memcmp(p, "fsync@openssh.com", n) == 0;
		s->has_statvfs |= n == 19 && memcmp(p, "statvfs@openssh.com", n) == 0;
	}
	if (r.bad)
		rc = broken(s, err);
out:
	if (rc)
		ms_sftp_stop(s);
	return rc;
}

bool ms_sftp_alive(struct ms_sftp *s) {
	bool moved = true;
	if (!s->conn.ssh)
		return false;
	/* Late answers to what nobody waits for (the close after a get) are dropped. */
	while (moved) {
		size_t n;
		moved = false;
		if (receive(s, &moved, NULL) || first_packet(s, &n, NULL))
			return false;
		for (s->in_off += s->in_taken, s->in_taken = 0; first_packet(s, &n, NULL) == MS_OK && n; s->in_off += n)
			;
	}
	return true;
}

/* ---- directories ---- */

enum ms_code ms_sftp_names(struct ms_sftp *s, const struct ms_sftp_reply *reply, ms_sftp_entry_cb cb, void *arg, struct ms_err *err) {
	struct ms_ssh_reader r = {reply->p, reply->n, false};
	for (uint32_t left = ms_ssh_u32(&r); left && !r.bad; left--) {
		char name[256];
		size_t n, nl;
		struct ms_sftp_attrs a;
		const uint8_t *p = ms_ssh_string(&r, &n);
		(void)ms_ssh_string(&r, &nl);
		take_attrs(&r, &a);
		/* What is longer, or holds a zero byte, is no name of ours. */
		if (r.bad || n == 0 || n >= sizeof name || memchr(p, 0, n))
			continue;
		memcpy(name, p, n);
		name[n] = '\0';
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
			continue;
		enum ms_code rc = cb(arg, name, &a, err);
		if (rc)
			return rc;
	}
	return r.bad ? broken(s, err) : MS_OK;
}

enum ms_code ms_sftp_read_dir(struct ms_sftp *s, const char *path, ms_sftp_entry_cb cb, void *arg, struct ms_sftp_call *opened, struct ms_err *err) {
	struct ms_sftp_call ask_one = {0};
	unsigned ahead = 2, flying = 0;
	uint32_t oldest = 0, status = MS_SFTP_OK;
	enum ms_code rc = ms_sftp_ask_path(s, MS_SFTP_OPENDIR, path, opened, err);
	if (rc || (rc = ms_sftp_collect(s, opened, 1, err)) || opened->status != MS_SFTP_OK)
		return rc;
	if (opened->type != MS_SFTP_HANDLE)
		return broken(s, err);
	while (!rc && (status == MS_SFTP_OK || flying)) {
		struct ms_sftp_reply r;
		while (!rc && status == MS_SFTP_OK && flying < ahead) {
			rc = ms_sftp_ask_handle(s, MS_SFTP_READDIR, &opened->handle, &ask_one, err);
			if (!flying++ && !oldest)
				oldest = ask_one.id;
		}
		if (rc || (rc = ms_sftp_next(s, true, &r, err)))
			break;
		if (r.id < oldest) /* of an earlier call */
			continue;
		flying--;
		if (r.type == MS_SFTP_NAME) {
			/* A large directory: more at a time. */
			ahead = ahead * 2 > DIR_AHEAD_MAX ? DIR_AHEAD_MAX : ahead * 2;
			rc = ms_sftp_names(s, &r, cb, arg, err);
		} else {
			struct ms_sftp_call c = {0};
			if (!(rc = ms_sftp_parse(s, &r, &c, err)) && (r.type != MS_SFTP_STATUS || c.status == MS_SFTP_OK))
				rc = broken(s, err);
			if (!rc && c.status != MS_SFTP_EOF) {
				*opened = c;
				opened->handle = (struct ms_sftp_handle){0};
			}
			if (!rc && status == MS_SFTP_OK)
				status = c.status;
		}
	}
	if (opened->handle.n && s->conn.ssh) {
		struct ms_err e = MS_ERR_INIT;
		if (ms_sftp_ask_handle(s, MS_SFTP_CLOSE, &opened->handle, &ask_one, &e) && !rc)
			rc = ms_err_set(err, e.code, "%s", e.msg);
	}
	return rc;
}

enum ms_code ms_sftp_refused(struct ms_sftp *s, const struct ms_sftp_call *call, const char *what, const char *path, struct ms_err *err) {
	static const char *const words[] = {"no space", "quota", "disk full", "disk is full", "not enough space"};
	enum ms_code code = call->status == MS_SFTP_NO_SUCH_FILE	? MS_ENOTFOUND
			    : call->status == MS_SFTP_PERMISSION_DENIED ? MS_EPERM
			    : call->status == MS_SFTP_OP_UNSUPPORTED	? MS_EUNSUPPORTED
									: MS_ERETRY;
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		if (strcasestr(call->text, words[i]))
			code = MS_ENOSPC;
	if (code == MS_ERETRY && s->has_statvfs && s->conn.ssh) {
		/* OpenSSH says no more than "Failure". */
		char dir[4096];
		struct ms_sftp_call fs;
		struct ms_err e = MS_ERR_INIT;
		snprintf(dir, sizeof dir, "%s", path);
		char *slash = strrchr(dir, '/');
		if (slash)
			slash[slash == dir] = '\0';
		if (ms_sftp_ask_statvfs(s, slash ? dir : ".", &fs, &e) == MS_OK && ms_sftp_collect(s, &fs, 1, &e) == MS_OK &&
		    fs.type == MS_SFTP_EXTENDED_REPLY && fs.free_bytes < MS_SFTP_CHUNK)
			code = MS_ENOSPC;
	}
	return ms_sftp_err(&s->conn, err, code, "%s %.200s: %s%s", what, path, call->text[0] ? call->text : "refused",
			   code == MS_ENOSPC && call->status == MS_SFTP_FAILURE ? " (the file system there is full)" : "");
}
