/*
 * Makes replicas out of real SQLite databases, step by step, with the encoders of core/ (for tests of readers). Each transaction is the
 * difference of two exact copies of the database file, and those copies, made by SQLite and read with stdio, are the
 * oracle. Writes plain files below a directory. A failure ends the process: it is a test's fixture.
 */
#ifndef TESTS_SUPPORT_REPLICA_MAKER_H
#define TESTS_SUPPORT_REPLICA_MAKER_H

#include <stddef.h>
#include <stdint.h>
#include "core/types.h"

#define MAKER_T0 1767225600000000 /* 2026-01-01T00:00:00Z, the time of txid 1; each txid is one second later */

struct maker;
/* A database of its own (a private directory), first commit made, generation "<epoch>-aaaaaaaa", nothing written to the replica yet. */
struct maker *maker_new(const char *replica_dir, uint32_t page_size);
void maker_free(struct maker *m);
/* One transaction (or VACUUM): the next txid, also when nothing changed. Returns the txid. */
uint64_t maker_exec(struct maker *m, const char *sql);
uint64_t maker_txid(const struct maker *m);
/* A transaction that fills `rows` rows of a table t with changing content. */
uint64_t maker_work(struct maker *m, unsigned rows);
/* Exact copy of the database at a txid of the present history. */
const uint8_t *maker_image(const struct maker *m, uint64_t txid, size_t *ret_len);
int64_t maker_time(const struct maker *m, uint64_t txid);
void maker_set_time(struct maker *m, int64_t us); /* of the next transaction */
const char *maker_generation(const struct maker *m);

/* Objects. */
void maker_snapshot(struct maker *m, uint64_t txid, uint32_t pages_per_chunk); /* 0: inline */
/* As maker_snapshot with the newest `patches` pages that differ from an older txid as patches over that txid's chunks. */
void maker_patched_snapshot(struct maker *m, uint64_t txid, uint64_t older, uint32_t pages_per_chunk);
void maker_segment(struct maker *m, uint64_t first, uint64_t last);
void maker_merged(struct maker *m, uint64_t first, uint64_t last);
/* One catch-up that stands for [first, last] and holds only the last of them. */
void maker_fold(struct maker *m, uint64_t first, uint64_t last);
/* One transaction over several objects. */
void maker_parts(struct maker *m, uint64_t txid, unsigned parts);
void maker_head(struct maker *m, uint32_t number, uint64_t settled, int64_t time_us);
void maker_fence(struct maker *m, uint64_t txid);
/* From here on everything goes to another directory (a second replica of the same database). */
void maker_set_dir(struct maker *m, const char *replica_dir);
/* The history forks at an earlier txid: the database goes back to its copy, a new generation of a higher epoch begins. */
void maker_fork(struct maker *m, uint64_t txid);

/* Names, for tests that remove or damage objects. Static buffers, overwritten by the next call. */
const char *maker_segment_path(const struct maker *m, uint64_t first);
const char *maker_snapshot_path(const struct maker *m, uint64_t txid);

#endif
