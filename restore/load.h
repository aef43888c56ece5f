/*
 * Fills an inventory from the replicas and answers the plan's questions by reading headers. Blocking: pool threads.
 */
#ifndef MS_RESTORE_LOAD_H
#define MS_RESTORE_LOAD_H

#include <stdatomic.h>
#include "core/snapshot.h"
#include "restore/fetch.h"
#include "restore/plan.h"

struct ms_load {
	struct ms_fetch *fetch; /* borrowed */
	unsigned worker;
	bool tolerant; /* damage is noted and passed over also with one replica (list, verify) */
	void (*note)(void *arg, const struct ms_err *err); /* each thing passed over; may be NULL. Several loads may call it at once. */
	void *note_arg;
	char warning[512]; /* a replica of several that cannot be read, or damage that another replica makes good; "" none */
};

/* Lists every replica into inv (initialised; sealed on return). all: every head and generation; otherwise the newest head's lineage, and
 * everything when there is no head. A replica that fails is left out with a warning as long as another one answers.
 * MS_ENOTRESTORABLE when nothing is there. */
enum ms_code ms_load_inventory(struct ms_load *l, bool all, struct ms_inventory *inv, struct ms_err *err) MS_WARN_UNUSED;

/* The plan's probe over this load (arg must outlive the plan's making). With several replicas, an object whose header is damaged or gone
 * is marked bad with a warning; with one, the error is returned. */
struct ms_plan_probe ms_load_probe(struct ms_load *l);

/* Reads the header of every live segment of the inventory, so that last txids and times are exact. Several workers may run it at once
 * over one `next` (start it at 0), each with its own load. */
enum ms_code ms_load_probe_all(struct ms_load *l, struct ms_inventory *inv, atomic_size_t *next, struct ms_err *err) MS_WARN_UNUSED;

/* Reads a manifest (and, with a sink, its inline pages and patches). Checks that it is the one its name says. */
enum ms_code ms_load_manifest(struct ms_load *l, unsigned replica, const struct ms_generation *g, const struct ms_inv_snapshot *s,
			      const struct ms_page_sink *sink, struct ms_manifest *ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
