/*
 * A source for databases that replicate from inside (page-flush observer): the engine hands over each committed transaction's
 * pages itself. Engines call ms_push_begin() before they change the file, ms_push_flush() when the transaction is on disk (or
 * ms_push_cancel()); between the two the stream reads no pages, so what it reads is always exactly the last flushed state.
 *
 * Threads: the engine's calls come from any thread, one write transaction at a time (begin waits for the one before). flush() returns once
 * the stream has captured the transaction; durability is the journal's (ms_journal_sync; ms_observer in cmd/observer.h does both).
 */
#ifndef MS_SOURCES_PUSH_H
#define MS_SOURCES_PUSH_H

#include "sources/source.h"

struct ms_page_frame {
	uint32_t pgno; /* from 1 */
	const uint8_t *data; /* page_size bytes */
};
struct ms_page_flush {
	uint32_t page_size;
	uint32_t db_pages; /* size of the file after the transaction */
	int64_t time_us;   /* wall clock; 0 = now */
	uint64_t engine_txid; /* the engine's own number: proves continuity over a restart; strictly growing */
	uint32_t nframes;
	const struct ms_page_frame *frames; /* final image of each changed page, once each. A page that the file has grown by may be missing: read() is
					     * then asked for it during the flush */
	const uint8_t *attrs; /* CBOR map of text to text, or NULL */
	size_t attrs_len;
};
struct ms_push_config {
	uint32_t page_size, db_pages; /* now */
	uint64_t engine_txid;	      /* of the state the file holds now */
	uint32_t mode;		      /* permission bits */
	/* Reads pages of the last flushed state into out, zeros past the file's end; called on a pool thread, outside of begin..flush but for the pages
	 * named above. It must not wait for what the engine holds while it calls begin, flush or cancel. */
	enum ms_code (*read)(void *arg, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err);
	void *arg;
};

struct ms_source *ms_push_source_new(struct ms_env *env, const struct ms_push_config *cfg, struct ms_err *err);
void ms_push_begin(struct ms_source *s);
void ms_push_cancel(struct ms_source *s);
/* The transaction is on disk whatever the result. MS_ECLOSED: the stream is not attached just now, and a catch-up will bring it. MS_EBUSY: the
 * stream is reading the whole file, and the transaction becomes part of the state that it finds. MS_EINVAL: the flush contradicts the ones before. Others: capturing
 * failed, a catch-up will bring it. */
enum ms_code ms_push_flush(struct ms_source *s, const struct ms_page_flush *f, struct ms_err *err) MS_WARN_UNUSED;
/* Ends a flush that waits and refuses later ones (before the stream is stopped). */
void ms_push_close(struct ms_source *s);

#endif
