/*
 * A database that lives in the test's memory, with every commit it ever made, and a source over it that keeps the contract of
 * sources/source.h: a log of recent commits that proves continuity (as a WAL does), which may be cut. Knows nothing of records,
 * hashes or the journal, so its images serve as the oracle.
 */
#ifndef TESTS_SUPPORT_SIM_SOURCE_H
#define TESTS_SUPPORT_SIM_SOURCE_H

#include "sources/source.h"

struct sim_db;
struct sim_db *sim_db_new(uint32_t page_size, uint32_t pages, uint64_t seed);
void sim_db_free(struct sim_db *db);
/* One commit that rewrites `writes` random pages (often nearly equal bytes, sometimes wholly new), and sometimes grows or shrinks the database.
 * Returns the new commit's number (the initial state is 0). */
uint64_t sim_db_commit(struct sim_db *db, uint32_t writes);
/* One commit after which the database holds exactly what it held at an older one. */
uint64_t sim_db_repeat(struct sim_db *db, uint64_t commit);
uint64_t sim_db_latest(const struct sim_db *db);
uint32_t sim_db_pages(const struct sim_db *db, uint64_t commit);
uint32_t sim_db_page_size(const struct sim_db *db);
/* The bytes of the whole database at a commit into out (sim_db_pages * page size). */
void sim_db_image(const struct sim_db *db, uint64_t commit, uint8_t *out);
/* The log's beginning is cut: commits up to the latest can no longer be handed over one by one. */
void sim_db_cut_log(struct sim_db *db);
/* Power loss of the database: it goes back to an older commit, later ones never happened. */
void sim_db_go_back(struct sim_db *db, uint64_t commit);
/* The number of the newest commit handed over or folded into a scan. */
struct ms_source *sim_source_new(struct sim_db *db);
/* At most this many commits in one step (0 = all). */
void sim_source_step_limit(struct ms_source *s, unsigned n);
/* How long a quiet source lets the stream wait between two looks (10 ms unless told). */
void sim_source_poll(struct ms_source *s, uint64_t us);
/* A writer that never rests: another commit of so many writes comes during each step (0 = no more). */
void sim_source_storm(struct ms_source *s, uint32_t writes);

#endif
