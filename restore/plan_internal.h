/* Shared by chain.c and plan.c. */
#ifndef MS_RESTORE_PLAN_INTERNAL_H
#define MS_RESTORE_PLAN_INTERNAL_H

#include "restore/plan.h"

static inline bool ms_inv_usable(const struct ms_inv_segment *s) { return !(s->flags & (MS_SEG_FENCE | MS_SEG_INCOMPLETE | MS_SEG_BAD)); }
/* Damaged objects are no part of a plan, but they show that their transactions were there: what is missing is then a gap, not the end. */
static inline bool ms_inv_evidence(const struct ms_inv_segment *s) { return !(s->flags & (MS_SEG_FENCE | MS_SEG_INCOMPLETE)); }
/* Could it be a fold, as far as its name and neighbours tell? */
static inline bool ms_inv_may_fold(const struct ms_inv_segment *s) {
	return !(s->flags & (MS_SEG_MERGED | MS_SEG_PROBED | MS_SEG_FENCE | MS_SEG_BAD | MS_SEG_JOURNAL)) && s->last > s->first;
}
/* Reads its header unless that is known, or not worth it. */
enum ms_code ms_plan_probe_segment(const struct ms_plan_probe *probe, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s,
				   struct ms_err *err) MS_WARN_UNUSED;
/* Index of the last element of a segment array with first <= txid; n when there is none. */
size_t ms_inv_last_at_or_before(const struct ms_inv_segment *a, size_t n, uint64_t txid);
/* Is there anything in the link after txid? */
bool ms_chain_anything_after(const struct ms_inventory *inv, const struct ms_chain_link *l, uint64_t txid);
/* First and last points that restore, in words, for messages. */
void ms_chain_describe(const struct ms_inventory *inv, const struct ms_plan_probe *probe, const struct ms_chain *c, char *ret, size_t cap);

#endif
