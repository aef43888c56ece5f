/*
 * A source with a sink that keeps the replica as an image in memory, exactly as the stream would: pages of a transaction are
 * applied at its commit, a shrink cuts, and pages that come into being without a frame are asked from the source (prev_page).
 * Expected images are queued by the test and compared byte for byte, one at each commit.
 */
#ifndef MS_TESTS_SUPPORT_SOURCE_RIG_H
#define MS_TESTS_SUPPORT_SOURCE_RIG_H

#include "base/env.h"
#include "sources/sqlite_wal.h"
#include "support/sqlite_worker.h"

struct rig {
	struct ms_sink sink;
	struct ms_env *env;
	struct ms_source *src;
	struct ms_source_info info;
	struct ms_step_result res;
	uint8_t *image;
	size_t len, cap;
	uint32_t page_size;
	/* the transaction under way */
	struct rig_page {
		uint32_t pgno;
		uint8_t *data;
	} * pages;
	uint32_t npages, cap_pages;
	uint64_t commits, page_calls, prev_ok, holes;
	struct ms_cookie cookie; /* of the last commit */
	/* expected images, in order */
	struct rig_expect {
		uint8_t *data;
		size_t len;
	} * expect;
	uint32_t nexpect, at, mismatches;
	char note[256];			 /* what was wrong first */
	uint32_t fail_pages;		 /* fail page() this many times */
	bool check_prev;		 /* compare prev_page with the image */
	void (*on_commit)(struct rig *); /* after each commit */
	void *arg;
};

void rig_init(struct rig *r, const char *db, const struct ms_sqlite_wal_options *opt);
void rig_release(struct rig *r);
/* Attaches; a fresh or non-continuous one reads the whole database into the image. Returns the state. */
enum ms_source_state rig_attach(struct rig *r, const struct ms_cookie *resume);
enum ms_source_state rig_attach_only(struct rig *r, const struct ms_cookie *resume); /* leaves the image alone */
void rig_seed(struct rig *r);
enum ms_source_state rig_step(struct rig *r);
/* Steps until nothing is new for `quiet_ms`. */
enum ms_source_state rig_drain(struct rig *r, unsigned quiet_ms);
/* Queues the live database's present image as the next expected one (the database is at rest). */
void rig_expect_now(struct rig *r, struct sq_worker *oracle, const char *db);
/* "" when the image is the live database's, byte for byte; else what differs. */
const char *rig_compare(struct rig *r, struct sq_worker *oracle, const char *db);
/* First column of the query on the image, opened by SQLite, as text in a static buffer. */
const char *rig_query(struct rig *r, const char *sql);

#endif
