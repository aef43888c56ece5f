/*
 * The journal (DESIGN §4, seed `wal`): rolling append-only files in one directory, shared by all databases of a daemon.
 * Bytes in docs/formats.md "Journal". Usable alone: opaque payloads, a writer, a reader, recovery. One writer per directory; the
 * caller sees to that (cmd locks the shadow directory).
 *
 * File name: journal-<first sequence %016x>.msj. Sequences start at 1 and grow by one across files and restarts.
 *
 * Durability: append() puts the entry into a write buffer of 256 KiB, which is written when it is full or when a sync is asked
 * for; the entry is durable, and visible to readers, when durable_seq() >= its sequence. Modes FSYNC/FDATASYNC sync by that call
 * when ms_journal_sync() or ms_journal_kick() ask; ASYNC also syncs by interval and bytes, never blocks an append on the disk,
 * and refuses entries (MS_EDROPPED) when what waits to be written passes buffer_size entries or 8 MiB. A new file's header and
 * directory entry are durable before its first entry is written. A failed write or sync loses no accepted entry: it is repeated
 * by the next sync or append.
 *
 * A transaction may span entries: all but its last carry MS_ENTRY_CONTINUES. After recovery it appears whole or not at all.
 *
 * Threads: append, sync, stats, list, purge from any thread; kick, hooks and close on the loop thread. ASYNC needs the
 * loop running (or a caller that syncs). Readers are owned by one thread each and see only the durable prefix.
 */
#ifndef MS_CORE_JOURNAL_H
#define MS_CORE_JOURNAL_H

#include "base/buf.h"
#include "base/env.h"
#include <sys/uio.h>

#define MS_JOURNAL_NAME_MAX 65535u
#define MS_JOURNAL_PAYLOAD_MAX (100u << 20)

enum ms_sync_mode { MS_SYNC_FSYNC, MS_SYNC_FDATASYNC, MS_SYNC_ASYNC };

enum {			       /* entry flags, 16 bits */
       MS_ENTRY_CONTINUES = 1, /* the database's next entry belongs to the same transaction; whole or not at all after recovery */
       MS_ENTRY_UNNAMED = 2,   /* no envelope: belongs to the default database */
       MS_ENTRY_BEGINS = 4,    /* gives up an unfinished transaction of this database: the entry begins another one */
       MS_ENTRY_FOLLOWS = 8,   /* set by the journal: the database's entry before this one said CONTINUES */
};

struct ms_journal_config {
	enum ms_sync_mode mode;
	int64_t sync_interval_us; /* ASYNC: sync at the latest after this, 0 = at every write */
	uint64_t sync_bytes;	  /* ASYNC: sync after this many bytes, 0 = no threshold */
	uint64_t max_size_bytes;  /* rotate at this size; 0 = 64 MiB */
	int64_t max_age_us;	  /* rotate at this age; 0 = 1 h */
	unsigned buffer_size;	  /* ASYNC: entries accepted but not yet written, then MS_EDROPPED; 0 = 10,000 */
	uint64_t payload_max;	  /* 0 = MS_JOURNAL_PAYLOAD_MAX, which is also the most */
	const char *default_db;	  /* name reported for unnamed entries; NULL = "default" */
	uint64_t max_bytes; /* cap of all journal files together: append fails MS_ENOSPC beyond it and works again after a purge;
			     * files then rotate at an eighth of it at the latest; 0 = none */
};

struct ms_journal_entry {
	uint64_t seq;
	int64_t time_us;
	uint16_t flags;
	const char *db; /* terminated copy, borrowed */
	size_t db_len;
	const uint8_t *payload; /* borrowed until the next call */
	size_t len;
};

struct ms_journal_stats {
	/* entries and bytes: accepted since open. corrupt_entries to torn_bytes: what the open found; lost_bytes are bytes that
	 * are no entry although they were durable once, torn_bytes what was cut off the end. quarantined_files: present now. */
	uint64_t entries, bytes, syncs, rotations, dropped, corrupt_entries, lost_bytes, quarantined_files, torn_bytes;
	uint64_t files, total_bytes; /* on disk now */
	uint64_t next_seq, durable_seq, first_seq;
	uint64_t recovered_files, recovered_entries;
	uint64_t failed_syncs;
	char current_file[256];
};

struct ms_journal;
/* Opens or creates dir (0700). Reads and checks every file. Repairs: cuts a torn tail of the newest file (only what no sync ever
 * covered); leaves out the entries of transactions that are not whole; goes on behind damage inside a file (counted) and sets
 * that file aside as <name>.quarantine: its readable entries stay readable through the reader, and purge renames it to
 * <name>.quarantine.kept instead of deleting it. MS_EUNSUPPORTED: a file of a newer version. */
enum ms_code ms_journal_open(struct ms_env *env, const char *dir, const struct ms_journal_config *cfg, struct ms_journal **ret,
			     struct ms_err *err) MS_WARN_UNUSED;
/* Loop thread. Syncs, closes; closed even when the sync fails. Appends fail MS_ECLOSED from now on; calling it twice is safe. */
enum ms_code ms_journal_close(struct ms_journal *j, struct ms_err *err) MS_WARN_UNUSED;
/* Loop thread, or after the loop has ended. Releases; after close (without one nothing is synced) and when all readers are freed.
 * Waits for a background sync that runs; one that is queued finds nothing to do. Accepts NULL. */
void ms_journal_free(struct ms_journal *j);

/* Appends one entry gathered from iov; the payload may be empty. flags: CONTINUES, UNNAMED (then db_len is 0), BEGINS. *ret_seq =
 * its sequence. MS_ETOOBIG above payload_max or name length; MS_EDROPPED (ASYNC) when the buffer is full; MS_ENOSPC when the disk
 * or max_bytes is full: nothing is left of the entry, and later appends work again when there is room. */
enum ms_code ms_journal_append(struct ms_journal *j, const char *db, size_t db_len, uint16_t flags, const struct iovec *iov,
			       int niov, uint64_t *ret_seq, struct ms_err *err) MS_WARN_UNUSED;
/* Append and sync in one: returns when the entry is durable. When the sync fails the entry stays accepted: *ret_seq is set, and a
 * later sync may still make it durable. */
enum ms_code ms_journal_append_sync(struct ms_journal *j, const char *db, size_t db_len, uint16_t flags, const struct iovec *iov,
				    int niov, uint64_t *ret_seq, struct ms_err *err) MS_WARN_UNUSED;
/* Makes everything up to seq durable (at most what has been appended) before it returns; one caller syncs for all waiting (group
 * commit), in its own thread. Blocking. */
enum ms_code ms_journal_sync(struct ms_journal *j, uint64_t seq, struct ms_err *err) MS_WARN_UNUSED;
uint64_t ms_journal_durable_seq(struct ms_journal *j);
uint64_t ms_journal_next_seq(struct ms_journal *j);
/* Starts a sync in the background (loop thread only): a job on MS_LANE_SYNC unless one is under way, repeated while appended >
 * durable, and again 250 ms after a failure. hook(arg, durable_seq, err or NULL) runs on the loop thread after each. One hook for
 * the journal. */
void ms_journal_set_hook(struct ms_journal *j, void (*hook)(void *arg, uint64_t durable_seq, const struct ms_err *err),
			 void *arg);
void ms_journal_kick(struct ms_journal *j);
/* What has been appended is to become durable as the mode says, and nobody waits for it: a kick, at the soonest 2 ms after the
 * last sync began; in ASYNC, where interval and bytes decide, nothing. Loop thread. */
void ms_journal_nudge(struct ms_journal *j);
/* Replication hook of the seed: called in file order, once for each entry accepted from now on, after it is durable, with the
 * entry, by one thread at a time (whichever made it durable). It may append, and must not clear the hook. NULL to clear, which
 * waits for a call under way. */
typedef void (*ms_journal_entry_hook)(void *arg, const struct ms_journal_entry *e);
void ms_journal_set_entry_hook(struct ms_journal *j, ms_journal_entry_hook hook, void *arg);

/* Removes whole files whose last sequence is < keep_from, oldest first. The active file stays; with max_bytes, when it holds
 * nothing that is to be kept either and all files together are above half of the cap, it is rotated first. Nothing but keep_from
 * decides: the caller passes the slowest required cursor. */
enum ms_code ms_journal_purge(struct ms_journal *j, uint64_t keep_from, uint64_t *ret_files, uint64_t *ret_bytes,
			      struct ms_err *err) MS_WARN_UNUSED;
/* Removes all files, keeps the sequence (an empty file that names the next sequence). For a journal whose content is needed no
 * more, open or closed. */
enum ms_code ms_journal_purge_all(struct ms_journal *j, uint64_t *ret_files, uint64_t *ret_bytes,
				  struct ms_err *err) MS_WARN_UNUSED;
/* Syncs and seals the active file, unless it is empty; the next append goes to a new one. */
enum ms_code ms_journal_rotate(struct ms_journal *j, struct ms_err *err) MS_WARN_UNUSED;
void ms_journal_get_stats(struct ms_journal *j, struct ms_journal_stats *ret);
/* cb for each file in order: name, first seq, last seq, bytes, active. */
void ms_journal_list(struct ms_journal *j,
		     void (*cb)(void *arg, const char *name, uint64_t first, uint64_t last, uint64_t bytes, bool active),
		     void *arg);

/* Reader over the durable prefix. db NULL = all. Entries of an unfinished transaction at the end are returned too (flags tell);
 * those of transactions that recovery found not whole are not. Holds no descriptor and, at the durable end, no buffer of its own;
 * polling there costs a load. Other databases' entries are skipped by header, long stretches by an in-memory summary. */
struct ms_journal_reader;
enum ms_code ms_journal_reader_new(struct ms_journal *j, const char *db, size_t db_len, uint64_t from_seq,
				   struct ms_journal_reader **ret, struct ms_err *err) MS_WARN_UNUSED;
/* MS_OK with *ret filled; MS_ENOTFOUND at the durable end (try again later); MS_EGAP when from_seq has been purged, when damage
 * lies between (sequence jump within what should be there, unless it is known to be another database's), or when the journal ends
 * before from_seq (it has been replaced by an older one), naming both sequences; reading may go on after it. */
enum ms_code ms_journal_reader_next(struct ms_journal_reader *r, struct ms_journal_entry *ret, struct ms_err *err) MS_WARN_UNUSED;
uint64_t ms_journal_reader_seq(const struct ms_journal_reader *r); /* next sequence to be looked at */
void ms_journal_reader_free(struct ms_journal_reader *r);

/* Stand-alone recovery over a directory that no writer has open (seed `wal` 12): changes nothing, skips the file named skip_file
 * (NULL: none), calls back in batches of at most `batch` entries (0 = no limit; a batch also ends at 16 MiB) with all entries
 * from from_seq on whose transactions are whole. When the callback fails, its code is returned and ret->next_seq is the first
 * entry of that batch; a callback that got half-way passes the sequence after the last one it took as from_seq of the next call.
 */
struct ms_journal_recovery_stats {
	uint64_t files, batches, entries, corrupt, skipped_files;
	int64_t duration_us;
	uint64_t next_seq; /* where the next call would go on */
};
enum ms_code ms_journal_recover(struct ms_env *env, const char *dir, const char *skip_file, unsigned batch, uint64_t from_seq,
				enum ms_code (*cb)(void *arg, const struct ms_journal_entry *entries, unsigned n,
						   struct ms_err *err),
				void *arg, struct ms_journal_recovery_stats *ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
