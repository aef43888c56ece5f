/*
 * A source observes the page flushes of one database and hands them to a sink (DESIGN §1, SQLITE.md).
 *
 * All calls but event_fd() and interrupt() are made by one job at a time (a pool thread), and may block for a short while
 * (<= 50 ms is the aim of step()). The source holds its own position; the stream persists the cookie of the last commit it
 * has journalled and gives it back at attach.
 */
#ifndef MS_SOURCES_SOURCE_H
#define MS_SOURCES_SOURCE_H

#include <stdint.h>
#include "base/env.h"
#include "core/types.h"

#define MS_COOKIE_MAX 96

/* Where the source stood at a commit; opaque to the stream, journalled with the commit. */
struct ms_cookie {
	uint8_t len;
	uint8_t data[MS_COOKIE_MAX];
};

struct ms_flush_meta {
	uint32_t db_pages;     /* after the commit */
	int64_t time_us;       /* capture time, wall clock */
	struct ms_cookie cookie;
	const uint8_t *attrs;  /* CBOR map of text to text, or NULL */
	size_t attrs_len;
};

/*
 * What the stream gives to a source. begin, page*, then commit or abort. Pages of one transaction come once each, final
 * image, any order; `page` is borrowed for the call. Any code but MS_OK: the source stops, keeps its position before this
 * transaction and returns the code from step(); it offers the same transaction again at the next step. abort() is called when
 * page() failed, or the source itself failed, after begin(); not when commit() failed.
 * A page record's base for delta encoding: the sink may ask the source for the page's previous version through
 * prev_page() below, during page().
 */
struct ms_sink {
	enum ms_code (*begin)(struct ms_sink *, struct ms_err *);
	enum ms_code (*page)(struct ms_sink *, uint32_t pgno, const uint8_t *page, struct ms_err *);
	enum ms_code (*commit)(struct ms_sink *, const struct ms_flush_meta *, struct ms_err *);
	void (*abort)(struct ms_sink *);
	uint64_t backlog; /* bytes known to wait behind the transaction under way; set by the source before begin() */
};

enum ms_source_state {
	MS_SRC_FOLLOWING,  /* attached, everything visible has been handed over, up to `more` */
	MS_SRC_MISSING,	   /* the database does not exist (yet, or any more) */
	MS_SRC_EMPTY,	   /* exists with zero bytes: nothing to replicate yet */
	MS_SRC_NOT_WAL,	   /* journal mode is not WAL; `why` holds the pragma to run; keep watching */
	MS_SRC_REFUSED,	   /* exclusive locking, foreign uid, read-only directory, unsupported; `why` says what to do; keep watching */
	MS_SRC_REPLACED,   /* another file under the same name, or a page size change: detach, attach = new generation */
	MS_SRC_LOST,	   /* continuity cannot be proven: the stream runs a catch-up by page sums (source stays attached) */
	MS_SRC_BUSY,	   /* could not get a read mark in time; try again */
};

struct ms_step_result {
	enum ms_source_state state;
	bool more;		 /* call again at once */
	/* With FOLLOWING: all that was visible at some moment after the call began has been handed over (or skipped), whatever has come
	 * since. Under a writer that never rests `more` stays true, and this still comes. */
	bool caught_up;
	uint64_t next_poll_us;	 /* otherwise call again after this, or when event_fd is readable */
	int64_t lost_commits;	 /* with LOST: commits known to be lost, -1 unknown */
	uint64_t wal_bytes;	 /* current size of the WAL */
	uint64_t pinned_since_us; /* mono us since when a mark has been held without a break, 0 none */
	char why[256];
};

struct ms_source_info { /* filled by attach */
	uint32_t page_size;
	uint32_t db_pages; /* at the captured position */
	uint32_t mode, uid, gid;
	uint64_t dev, ino;
	bool continuous; /* the resume cookie is proven: every commit after it will come through the sink */
	/* Not continuous, and there is evidence that the database stands at an OLDER commit than the cookie, or at one of another history: what the
	 * cookie names must be there if it had only gone on, and is not (power loss under synchronous=NORMAL), or this is another file. Only then does
	 * the stream look for the older state. */
	bool behind;
	int64_t born_us; /* when the file was made, wall clock; 0 unknown. Later than the last captured commit: another file */
	struct ms_cookie cookie; /* of the captured position */
};

struct ms_source;
struct ms_source_ops {
	/* Opens the database and takes a read mark. resume == NULL or len 0: fresh. MS_OK also when result.state is not FOLLOWING
	 * (then the source is not attached); never REPLACED: a cookie of another file or page size is just not continuous. After a fresh or non-continuous attach the captured position is "now": the stream reads the
	 * whole database by read_pages() and later commits come through step(). */
	enum ms_code (*attach)(struct ms_source *, const struct ms_cookie *resume, struct ms_source_info *ret, struct ms_step_result *res,
			       struct ms_err *);
	/* Captures what has become visible since; bounded work (about 4 MiB of frames or 20 ms), then `more`. */
	enum ms_code (*step)(struct ms_source *, struct ms_sink *, struct ms_step_result *, struct ms_err *);
	/* After LOST or a fresh attach: moves the captured position to now, without handing over the commits in between, and
	 * calls dirty(arg, pgno) for each page whose frames it skipped, and for each page that a skipped commit grew the database by. Used while a catch-up or seed scan runs. */
	enum ms_code (*skip)(struct ms_source *, void (*dirty)(void *arg, uint32_t pgno), void *arg, struct ms_source_info *now,
			     struct ms_step_result *, struct ms_err *);
	/* Exact images of pages first .. first+count-1 at the captured position (WAL frame if there is one, else the file; pages
	 * past the end of the file within db_pages are zero). Only between steps while FOLLOWING; MS_EBUSY when the position is not
	 * pinned just now (step first). The lock page reads as zeros. */
	enum ms_code (*read_pages)(struct ms_source *, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *);
	/* Best effort, during the sink's page(): the version of pgno before the transaction under way into out. Returns false when unknown; the
	 * caller checks the hash in any case. Also during commit(), for pages that came into being without a frame. */
	bool (*prev_page)(struct ms_source *, uint32_t pgno, uint8_t *out);
	/* Does the WAL still hold exactly the commit that this cookie names (same salts, frame, running checksum)? */
	bool (*matches)(struct ms_source *, const struct ms_cookie *);
	/* PASSIVE checkpoint through the engine's own API, allowed only on a quiet database (law 1). */
	enum ms_code (*checkpoint)(struct ms_source *, struct ms_err *);
	void (*detach)(struct ms_source *); /* lets go of everything; attach may follow */
	int (*event_fd)(struct ms_source *); /* readable when the database may have changed (inotify), -1 none. Any thread. */
	void (*free)(struct ms_source *);    /* detaches first */
};
struct ms_source {
	const struct ms_source_ops *ops;
};

#endif
