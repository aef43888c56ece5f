/*
 * Inside of the journal: bytes, window, scan, and the handle's fields. Private to core/journal*.c.
 *
 *   journal_format    bytes of headers and entries; a window over a file; the scan that goes from entry to entry and over damage
 *   journal_recovery  reads a directory: which files, which entries, which transactions are whole; repair at open; stand-alone
 * recovery journal_writer    append, write buffers, group commit, rotation, background sync, entry hook journal_reader    reader
 * over the durable prefix journal           open, close, purge, figures
 */
#ifndef MS_CORE_JOURNAL_INTERNAL_H
#define MS_CORE_JOURNAL_INTERNAL_H

#include "core/journal.h"
#include <pthread.h>
#include <stdatomic.h>

#define MSJ_FILE_HEADER 64u
#define MSJ_HEAD 48u		  /* entry header */
#define MSJ_WBUF (256u << 10)	  /* one write buffer; there are two */
#define MSJ_ASYNC_WBUF (8u << 20) /* the same in MS_SYNC_ASYNC, at most */
#define MSJ_WINDOW (64u << 10)	  /* read-ahead of a window */
#define MSJ_CHUNK (256u << 10)	  /* stretch of a file that one summary stands for */
#define MSJ_ENTRY_MAX (MSJ_HEAD + (uint64_t)MS_JOURNAL_NAME_MAX + MS_JOURNAL_PAYLOAD_MAX + 8)
#define MSJ_MARK 0x8000u /* entry flag: no entry but a note that everything before it is durable; takes no sequence */
#define MSJ_NAME_CAP 64

/* ---- format ---- */

struct msj_file_header {
	uint64_t first, features;
	int64_t created_us;
	uint16_t version;
};
void msj_file_header_put(uint8_t p[MSJ_FILE_HEADER], const struct msj_file_header *h);
/* False: the bytes are not a header. Version and features are the caller's to judge. */
bool msj_file_header_get(const uint8_t p[MSJ_FILE_HEADER], struct msj_file_header *ret);

struct msj_head {
	uint64_t off, seq, durable, size; /* size: of the whole entry, padding included */
	uint64_t hcrc, pcrc;
	int64_t time_us;
	uint32_t len;
	uint16_t flags, name_len;
	const uint8_t *name; /* in the window, until its next use */
};
static inline uint64_t msj_entry_size(uint64_t name_len, uint64_t len) {
	return (MSJ_HEAD + name_len + len + 7) & ~7ull;
}
/* Fills the header at p; sets h->hcrc. The payload's checksum is added by msj_head_seal(). */
void msj_head_put(uint8_t p[MSJ_HEAD], struct msj_head *h, uint64_t file_first, const void *name);
void msj_head_seal(uint8_t p[MSJ_HEAD], uint64_t pcrc);

/* A bounded view of a file. limit: bytes of it that exist for this reader. */
struct msj_window {
	struct ms_file *fh;
	const struct ms_env_ops *ops;
	uint64_t limit;
	uint8_t *buf;
	size_t cap, len;
	uint64_t off;
};
void msj_window_release(struct msj_window *w);
void msj_window_set(struct msj_window *w, struct ms_env *env, struct ms_file *fh,
		    uint64_t limit); /* another file; keeps the memory */
/* *ret = bytes [off, off + *ret_n) with *ret_n = n, or less at the limit. */
enum ms_code msj_window_get(struct msj_window *w, uint64_t off, size_t n, const uint8_t **ret, size_t *ret_n,
			    struct ms_err *err) MS_WARN_UNUSED;
/* Gives back memory that one large entry took. */
void msj_window_trim(struct msj_window *w);

/* Goes from header to header. */
struct msj_scan {
	struct msj_window w;
	uint64_t first; /* the file's first sequence: seed of its checksums */
	uint64_t off;	/* where the next header is due */
	uint64_t next;	/* its sequence */
};
enum msj_event {
	MSJ_ENTRY, /* a valid header; the scan stands behind the entry */
	MSJ_NOTE,  /* a mark */
	MSJ_LOST,  /* bytes that are no entry, `lost` sequences from `from` are missing; the scan stands at a valid header */
	MSJ_TAIL,  /* nothing valid up to the limit; the scan stays where the bad bytes begin */
	MSJ_END	   /* exactly at the limit */
};
struct msj_damage {
	uint64_t from, lost, bytes;
};
enum ms_code msj_scan_next(struct msj_scan *s, enum msj_event *ret, struct msj_head *h, struct msj_damage *d,
			   struct ms_err *err) MS_WARN_UNUSED;
/* Whether the payload is what was written; reads it piece by piece. */
enum ms_code msj_payload_check(struct msj_scan *s, const struct msj_head *h, bool *ret_ok, struct ms_err *err) MS_WARN_UNUSED;
/* The whole entry in memory; *ret_name and *ret_payload point into the window. *ret_ok false: the payload is damaged. */
enum ms_code msj_payload_load(struct msj_scan *s, const struct msj_head *h, bool *ret_ok, const uint8_t **ret_name,
			      const uint8_t **ret_payload, struct ms_err *err) MS_WARN_UNUSED;

/* ---- files ---- */

/* What is known of a stretch of a file: where its first entry is, and which databases have entries that begin in it (a Bloom
 * filter). */
struct msj_chunk {
	uint64_t first, off;
	uint64_t bloom[4];
};

#define MSJ_RECENT 32u
#define MSJ_RECENT_STEP 8192u

struct msj_file {
	unsigned refs;	      /* under the journal's mu: the list, readers */
	unsigned users;	      /* readers that need fh */
	uint64_t first, last; /* last = first - 1 when empty */
	uint64_t size;	      /* with what is still in the write buffer */
	_Atomic uint64_t durable_off;
	int64_t created_us;
	bool sealed, damaged, quarantined;
	bool marked; /* ends with a mark */
	char name[MSJ_NAME_CAP];
	struct ms_file *fh;
	struct msj_chunk *chunks;
	uint32_t nchunks, cap;
	/* Entries a few KiB apart near the end, a ring: whoever follows the journal's end finds its place without reading a stretch. */
	struct {
		uint64_t seq, off;
	} recent[MSJ_RECENT];
	uint32_t nrecent; /* ever noted */
};
uint64_t msj_name_hash(const void *name, size_t len);
/* Notes that an entry of the database with this hash begins at off. MS_ENOMEM leaves all as it was. */
enum ms_code msj_file_note(struct msj_file *f, uint64_t off, uint64_t seq, uint64_t hash, struct ms_err *err) MS_WARN_UNUSED;
/* The nearest place noted at or before seq: *ret_seq and *ret_off are moved forward where it is nearer than what they hold. */
void msj_file_recent(const struct msj_file *f, uint64_t seq, uint64_t *ret_seq, uint64_t *ret_off);
static inline bool msj_chunk_has(const struct msj_chunk *c, uint64_t h) {
	return c->bloom[h & 3] >> (h >> 8 & 63) & 1 && c->bloom[h >> 2 & 3] >> (h >> 16 & 63) & 1;
}
void msj_file_free(struct msj_file *f);

/* "journal-<first %016x>.msj", with ".quarantine" or ".quarantine-<n>" behind it when damaged. False: some other file. */
bool msj_name_parse(const char *name, uint64_t *ret_first, bool *ret_quarantined);

/* ---- transactions over several entries ---- */

/* One database's unfinished or broken run of entries. */
struct msj_run {
	char *db;
	size_t db_len;
	uint64_t first, last;
	bool broken; /* something of it is missing */
};
struct msj_runs {
	struct msj_run *v;
	size_t n, cap;
};
struct msj_run *msj_runs_find(struct msj_runs *r, const void *db, size_t db_len);
enum ms_code msj_runs_add(struct msj_runs *r, const void *db, size_t db_len, uint64_t first, struct ms_err *err) MS_WARN_UNUSED;
void msj_runs_remove(struct msj_runs *r, struct msj_run *run); /* forgets it */
void msj_runs_release(struct msj_runs *r);
/* True when the entry belongs to a transaction that is not whole. */
bool msj_runs_hold(const struct msj_runs *r, uint64_t seq, const void *db, size_t db_len);

/* ---- directory ---- */

struct msj_dir {
	struct msj_file **files; /* ascending */
	size_t n, cap;
	struct msj_runs open;	   /* at the end of what was read */
	struct msj_runs abandoned; /* not whole */
	uint64_t corrupt, lost_bytes, torn_bytes, entries, skipped;
	uint64_t next;	      /* sequence after the newest entry */
	bool newest_torn;     /* the newest file is longer than its size says */
	bool newest_headless; /* the newest file has no whole file header: its creation was cut short */
};
/* Reads every file of the directory and changes nothing. Files are not open. */
enum ms_code msj_dir_read(struct ms_env *env, const char *dir, const char *skip, const char *default_db, struct msj_dir *ret,
			  struct ms_err *err) MS_WARN_UNUSED;
void msj_dir_release(struct msj_dir *d);

/* ---- handle ---- */

struct msj_wbuf {
	uint8_t *data;
	size_t len, cap;
	uint64_t off;	/* in the file, of data[0] */
	uint64_t last;	/* sequence */
	unsigned count; /* entries */
};

/* What a job and a post hold on to, so that the journal may be freed while they are still queued. */
struct msj_link {
	pthread_mutex_t mu;
	pthread_cond_t cond;
	struct ms_journal *j; /* NULL: freed */
	bool running;	      /* a pool thread is inside j */
	unsigned callbacks;   /* done() and posts to come */
	struct ms_job job;
	struct ms_err err;     /* of the job */
	struct msj_link *next; /* among those whose journal is gone */
};

struct ms_journal {
	struct ms_env *env;
	struct msj_link *link;
	char *dir;
	struct ms_journal_config cfg;
	char *default_db;
	uint64_t rotate_size;
	uint64_t default_hash;

	_Atomic uint64_t durable; /* sequence; written under mu */
	atomic_bool has_entry_hook;
	struct msj_runs abandoned; /* fixed after open */

	pthread_mutex_t mu;
	pthread_cond_t cond;
	/* Under mu. A flag is owned by the thread that set it, which may drop mu for I/O; everybody else waits on cond. */
	bool writing;	/* the write buffer `out` and the active file's end */
	bool syncing;	/* fsync of the active file; it is not replaced meanwhile */
	bool exclusive; /* nobody appends: rotation, or an entry larger than a buffer */
	bool purging;
	bool closed;		 /* no more appends */
	bool ended;		 /* no more syncs either */
	bool write_failed;	 /* the last write failed: its bytes wait in `out` */
	bool suspect;		 /* an fsync failed: the kernel may have dropped what it should have written */
	bool dirty_tail;	 /* the file may be longer than its entries */
	bool rotate_due;	 /* the active file is sealed, its successor could not be created yet */
	struct ms_err poison;	 /* code != MS_OK: written entries are lost; only a new open helps */
	struct msj_file **files; /* ascending; the last one is active */
	size_t nfiles, files_cap;
	struct msj_wbuf buf[2], *in, *out;
	uint64_t next; /* sequence of the next append */
	uint64_t written_seq, written_off;
	uint64_t since_sync;  /* bytes */
	uint64_t total;	      /* bytes of all files in the list, buffered ones included */
	struct msj_runs runs; /* databases whose last entry says "continues" */
	struct ms_journal_stats stats;
	ms_journal_entry_hook entry_hook;
	void *entry_hook_arg;
	uint64_t hook_next;
	bool hook_running;
	struct ms_journal_reader *hook_reader;
	bool posted; /* ASYNC: a look at the thresholds is on its way to the loop thread */
	bool want_kick;

	/* Loop thread only. */
	void (*hook)(void *arg, uint64_t durable_seq, const struct ms_err *err);
	void *hook_arg;
	bool job_busy, job_again, timer_armed; /* timer_armed: under mu */
	uint64_t job_began_ns;
	struct ms_timer *timer;
};

static inline struct msj_file *msj_active(struct ms_journal *j) {
	return j->files[j->nfiles - 1];
}
enum ms_code msj_path(char ret[4096], const char *dir, const char *name, struct ms_err *err) MS_WARN_UNUSED;
/* Creates the file that begins with sequence `first`, its header and name durable; fh open for reading and writing. */
enum ms_code msj_file_create(struct ms_journal *j, uint64_t first, struct msj_file **ret, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code msj_files_push(struct ms_journal *j, struct msj_file *f, struct ms_err *err) MS_WARN_UNUSED;
void msj_file_unref(struct ms_journal *j, struct msj_file *f); /* under mu */
/* Under mu: seals the active file and opens the next one, unless it is no longer `f` or holds nothing. */
enum ms_code msj_rotate(struct ms_journal *j, struct msj_file *f, struct ms_err *err) MS_WARN_UNUSED;
/* Without mu: hands durable entries to the entry hook. */
void msj_deliver(struct ms_journal *j);
/* Under mu: writes what is buffered; the caller owns `writing`. */
enum ms_code msj_write_out(struct ms_journal *j, uint64_t target, struct ms_err *err) MS_WARN_UNUSED;
struct msj_link *msj_link_new(struct ms_journal *j);
/* Has the loop thread look at ASYNC's thresholds. Any thread. */
void msj_post(struct ms_journal *j);
/* Waits for a job that runs; what comes later finds no journal. */
void msj_link_leave(struct msj_link *l);
enum ms_code msj_poisoned(struct ms_journal *j, struct ms_err *err) MS_WARN_UNUSED;

#endif
