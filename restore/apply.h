/*
 * Applies the records of segments, in order, to the file being built, and proves every step: each segment's parent and checksum
 * before, each page's hash, each commit's database checksum (the rolling sum of page hashes).
 *
 * One thread at a time. Memory: the page cache given to new, one page, one zstd context; page hashes are the caller's.
 * Errors: MS_EGAP names the txid that is missing; MS_ECORRUPT; file errors. The caller names the object.
 */
#ifndef MS_RESTORE_APPLY_H
#define MS_RESTORE_APPLY_H

#include "core/segment.h"
#include "restore/pagehash.h"

struct ms_apply;
/* base: the state that file and hashes hold now. target: txid after which everything is ignored. file and hashes are borrowed. */
enum ms_code ms_apply_new(struct ms_env *env, struct ms_file *file, struct ms_pagehash *hashes, size_t cache_bytes, const struct ms_dbstate *base,
			  uint64_t target, struct ms_apply **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_apply_free(struct ms_apply *a); /* accepts NULL */

/* An object begins. upto: last txid wanted from its segment. A segment that begins before the state's txid is entered in the middle. */
enum ms_code ms_apply_object(struct ms_apply *a, const struct ms_segment_info *info, uint64_t upto, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_apply_record(struct ms_apply *a, const struct ms_record *rec, struct ms_err *err) MS_WARN_UNUSED;
/* The object's last byte has been seen. */
enum ms_code ms_apply_object_end(struct ms_apply *a, struct ms_err *err) MS_WARN_UNUSED;
/* Nothing more is wanted from the object at hand (its upto, or the target, has been reached). */
bool ms_apply_object_done(const struct ms_apply *a);
bool ms_apply_done(const struct ms_apply *a); /* the target has been reached */
/* Records that lie in no segment (the journal of a shadow directory): the whole transactions after the state, without an object. */
void ms_apply_loose(struct ms_apply *a, uint64_t upto);

/* Writes out the cache. */
enum ms_code ms_apply_flush(struct ms_apply *a, struct ms_err *err) MS_WARN_UNUSED;
const struct ms_dbstate *ms_apply_state(const struct ms_apply *a); /* at the last commit applied */
uint64_t ms_apply_commits(const struct ms_apply *a);
uint64_t ms_apply_pages(const struct ms_apply *a); /* page records applied */

#endif
