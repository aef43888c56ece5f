/*
 * The SFTP protocol, version 3 (draft-ietf-secsh-filexfer-02), with OpenSSH's extensions hardlink, fsync and statvfs, on a connection of
 * sftp_conn.h. Requests are queued and carry an id; their replies are collected later, so that any number can be under way: what costs one
 * round trip is one ms_sftp_collect(). One owner.
 *
 * Bounds: 4 MiB of requests not yet sent, 1 MiB of replies not yet taken, 256 KiB for one packet of the server (as OpenSSH).
 */
#ifndef MS_REPLICAS_SFTP_WIRE_H
#define MS_REPLICAS_SFTP_WIRE_H

#include "base/buf.h"
#include "replicas/sftp_conn.h"

#define MS_SFTP_CHUNK (32u << 10) /* bytes of one read or write: every server takes that much */
#define MS_SFTP_AHEAD 64	  /* reads or writes under way: 2 MiB, a 50 ms link at 40 MB/s */
#define MS_SFTP_HANDLE_MAX 256	  /* by the protocol */

enum ms_sftp_type {
	MS_SFTP_CLOSE = 4,
	MS_SFTP_LSTAT = 7,
	MS_SFTP_OPENDIR = 11,
	MS_SFTP_READDIR = 12,
	MS_SFTP_REMOVE = 13,
	MS_SFTP_RMDIR = 15,
	MS_SFTP_STAT = 17,
	MS_SFTP_RENAME = 18,
	MS_SFTP_STATUS = 101,
	MS_SFTP_HANDLE = 102,
	MS_SFTP_DATA = 103,
	MS_SFTP_NAME = 104,
	MS_SFTP_ATTRS = 105,
	MS_SFTP_EXTENDED_REPLY = 201,
};
enum ms_sftp_status {
	MS_SFTP_OK = 0,
	MS_SFTP_EOF = 1,
	MS_SFTP_NO_SUCH_FILE = 2,
	MS_SFTP_PERMISSION_DENIED = 3,
	MS_SFTP_FAILURE = 4, /* anything: exists, no space, I/O error */
	MS_SFTP_OP_UNSUPPORTED = 8,
};
enum { MS_SFTP_OPEN_READ = 1, MS_SFTP_OPEN_CREATE = 2 | 8 | 32 /* WRITE, CREAT, EXCL */ };

struct ms_sftp_attrs {
	bool has_size, has_mode, has_time;
	uint64_t size;
	uint32_t mode, mtime;
};
struct ms_sftp_handle {
	uint8_t id[MS_SFTP_HANDLE_MAX];
	unsigned n; /* 0: none */
};
/* A request under way, and what came of it. */
struct ms_sftp_call {
	uint32_t id;
	bool done;
	uint8_t type;	 /* of the reply */
	uint32_t status; /* MS_SFTP_OK also for a handle, attributes, ... */
	char text[128];	 /* the server's words */
	struct ms_sftp_attrs attrs;
	struct ms_sftp_handle handle;
	uint64_t free_bytes; /* statvfs: for us */
};
/* A reply as it came; borrowed until the next one is taken. */
struct ms_sftp_reply {
	uint32_t id;
	uint8_t type;
	const uint8_t *p; /* behind the id */
	size_t n;
};

struct ms_sftp {
	struct ms_sftp_conn conn;
	struct ms_buf in, out;
	size_t in_off, in_taken, out_off;
	uint32_t next_id;
	bool has_hardlink, has_fsync, has_statvfs;
};

void ms_sftp_init(struct ms_sftp *s);
void ms_sftp_release(struct ms_sftp *s);
/* Connects and agrees on the protocol. */
enum ms_code ms_sftp_start(struct ms_sftp *s, struct ms_err *err) MS_WARN_UNUSED;
/* Is the connection there, and not ended by the other side while nobody looked? */
bool ms_sftp_alive(struct ms_sftp *s);
void ms_sftp_stop(struct ms_sftp *s);

/* Queue a request; call->id is set. Replies that nobody collects are dropped. */
enum ms_code ms_sftp_ask_path(struct ms_sftp *s, enum ms_sftp_type t, const char *path, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_open(struct ms_sftp *s, const char *path, unsigned flags, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_mkdir(struct ms_sftp *s, const char *path, unsigned mode, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_handle(struct ms_sftp *s, enum ms_sftp_type t, const struct ms_sftp_handle *h, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_fsync(struct ms_sftp *s, const struct ms_sftp_handle *h, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_link(struct ms_sftp *s, const char *from, const char *to, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_rename(struct ms_sftp *s, const char *from, const char *to, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_statvfs(struct ms_sftp *s, const char *path, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_sftp_ask_read(struct ms_sftp *s, const struct ms_sftp_handle *h, uint64_t off, uint32_t n, uint32_t *ret_id, struct ms_err *err) MS_WARN_UNUSED;
/* A write whose data the caller puts at *ret_data (room for MS_SFTP_CHUNK); it is queued by write_end with the bytes that are there. */
enum ms_code ms_sftp_write_begin(struct ms_sftp *s, const struct ms_sftp_handle *h, uint64_t off, uint8_t **ret_data, struct ms_err *err) MS_WARN_UNUSED;
void ms_sftp_write_end(struct ms_sftp *s, size_t n);

/* Sends what is queued and waits for the replies of these calls. */
enum ms_code ms_sftp_collect(struct ms_sftp *s, struct ms_sftp_call *calls, unsigned n, struct ms_err *err) MS_WARN_UNUSED;
/* The next reply, whosever. wait=false: only one that is there (ret->type 0: none), or that comes before all but 256 KiB of the queue are sent. */
enum ms_code ms_sftp_next(struct ms_sftp *s, bool wait, struct ms_sftp_reply *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Fills done, type, status, ... from the reply. */
enum ms_code ms_sftp_parse(struct ms_sftp *s, const struct ms_sftp_reply *r, struct ms_sftp_call *call, struct ms_err *err) MS_WARN_UNUSED;

typedef enum ms_code (*ms_sftp_entry_cb)(void *arg, const char *name, const struct ms_sftp_attrs *a, struct ms_err *err);
/* The entries of one MS_SFTP_NAME reply; names that are longer than 255 bytes are skipped. */
enum ms_code ms_sftp_names(struct ms_sftp *s, const struct ms_sftp_reply *reply, ms_sftp_entry_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;
/* Reads a directory, read-ahead, in the server's order, without "." and "..". MS_OK with ret_opened->status when the server refused it. */
enum ms_code ms_sftp_read_dir(struct ms_sftp *s, const char *path, ms_sftp_entry_cb cb, void *arg, struct ms_sftp_call *ret_opened, struct ms_err *err) MS_WARN_UNUSED;

/* Sets err by the status: MS_ENOTFOUND, MS_EPERM, MS_EUNSUPPORTED, MS_ENOSPC (when the server says so, or its file system is full), else MS_ERETRY. */
enum ms_code ms_sftp_refused(struct ms_sftp *s, const struct ms_sftp_call *call, const char *what, const char *path, struct ms_err *err);

#endif
