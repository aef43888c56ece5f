/*
 * Which of the journal's files may go (DESIGN §6): one decision for all databases of a journal. Loop thread.
 */
#ifndef MS_CORE_STREAM_PURGE_H
#define MS_CORE_STREAM_PURGE_H

#include "core/stream.h"

/*
 * Whole files that no required replica needs go. Replicas that are not required, and those that are owed a catch-up already, are told to do without
 * them when they are a file behind the others; above half of max_bytes (0: no cap) every replica is, oldest file first, so that one that
 * is down for long never fills the disk. The other half is room for what comes until they have been told. Cheap; to be called now and then, and
 * when pressed.
 */
enum ms_code ms_streams_purge(struct ms_journal *j, struct ms_stream *const *streams, unsigned n, uint64_t max_bytes, struct ms_err *err) MS_WARN_UNUSED;
bool ms_streams_purge_pressed(struct ms_journal *j, uint64_t max_bytes); /* above half of max_bytes */

#endif
