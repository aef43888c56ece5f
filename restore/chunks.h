/*
 * Builds the snapshot's state in the file: chunks by several workers at once, each fetching, decoding and writing on its own, then
 * patch chunks in their order, inline pages and patches from the manifest, then the proof of the database checksum.
 *
 * One ms_chunks object, worker functions on pool threads, each with its own worker number. Memory: about 3 MiB a worker
 * (the chunk reader's block, stored and raw).
 */
#ifndef MS_RESTORE_CHUNKS_H
#define MS_RESTORE_CHUNKS_H

#include <stdatomic.h>
#include "core/snapshot.h"
#include "restore/load.h"
#include "restore/pagehash.h"

struct ms_chunks {
	struct ms_fetch *fetch;
	const struct ms_manifest *manifest;
	unsigned replica; /* that the manifest came from: tried first */
	struct ms_file *file;
	struct ms_pagehash *hashes; /* reserved for manifest->state.db_pages */
	atomic_uint next;
	bool patching;	    /* patch chunks are being applied: by one worker */
	atomic_bool failed; /* a worker has failed: the others stop */
};

/* Takes chunks until none is left. A chunk that is damaged or missing on one replica is taken from another. */
enum ms_code ms_chunks_work(struct ms_chunks *c, unsigned worker, struct ms_err *err) MS_WARN_UNUSED;
/* After all workers: patches and inline pages (reads the manifest again when it has any), then the checksum over all page hashes. */
enum ms_code ms_chunks_finish(struct ms_chunks *c, unsigned worker, const struct ms_generation *g, const struct ms_inv_snapshot *s,
			      struct ms_err *err) MS_WARN_UNUSED;
/* Reads one chunk object through its reader, without keeping anything: proves its content hash. */
enum ms_code ms_chunk_check(struct ms_fetch *f, unsigned worker, unsigned replica, const struct ms_chunk_ref *ref, uint32_t page_size,
			    struct ms_err *err) MS_WARN_UNUSED;
void ms_chunk_name(const struct ms_chunk_ref *ref, char ret[MS_NAME_MAX]);

#endif
