/*
 * What a live host has not shipped yet (`--shadow`): the journal of a shadow directory as one more source of transactions. The journal
 * is read, never changed, and may belong to a running daemon. Its runs do not all name their generation (the entry that does may
 * have been purged); what is applied is proven by the database checksum in every commit, whatever the names say.
 * Blocking: pool threads, one at a time.
 */
#ifndef MS_RESTORE_JOURNAL_SOURCE_H
#define MS_RESTORE_JOURNAL_SOURCE_H

#include "restore/apply.h"
#include "restore/plan.h"

struct ms_journal_source;
/* dir: of journal files; db: name of the database in them. Copied. */
enum ms_code ms_journal_source_new(struct ms_env *env, const char *dir, const char *db, struct ms_journal_source **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_journal_source_free(struct ms_journal_source *s); /* accepts NULL */
/* Enters the journal's stretches into inv, on shelf `replica`, and the generations that it starts. */
enum ms_code ms_journal_source_scan(struct ms_journal_source *s, struct ms_inventory *inv, unsigned replica, struct ms_err *err) MS_WARN_UNUSED;
/* `below`, but for questions about stretches of the journal. below is copied. */
struct ms_plan_probe ms_journal_source_probe(struct ms_journal_source *s, const struct ms_plan_probe *below);
/* Applies the transactions after the state, up to upto, of generation g (or of none named). */
enum ms_code ms_journal_source_apply(struct ms_journal_source *s, struct ms_apply *a, const struct ms_generation *g, uint64_t upto,
				     bool (*canceled)(void *arg), void *arg, struct ms_err *err) MS_WARN_UNUSED;

#endif
