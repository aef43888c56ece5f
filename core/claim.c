#include "core/claim.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/timefmt.h"

static void refuse(const struct ms_claim_in *in, struct ms_claim_out *o, const char *what, const char *advice) {
	char theirs[32], ours[32];
	const struct ms_dbstate *mine = in->local->generation.s[0] || !in->cursor ? &in->local->state : &in->cursor->state;
	const char *generation = in->local->generation.s[0] ? in->local->generation.s : in->cursor ? in->cursor->generation.s : "none";
	o->action = MS_CLAIM_REFUSE;
	(void)ms_err_set(&o->refusal, MS_EFENCED,
			 "replica %s %s: it is at generation %s txid %" PRIu64 " (%s, owner %s on %s), this host at generation %s txid %" PRIu64
			 " (%s). %s`migstream takeover %s`",
			 in->replica, what, in->head->generation.s, in->has_tail ? in->tail.txid : in->head->settled_txid,
			 ms_time_format(theirs, in->has_tail ? in->tail.time_us : in->head->time_us), in->head->owner, in->head->host, generation,
			 mine->txid, ms_time_format(ours, mine->time_us), advice, in->db);
}

static void need(struct ms_claim_out *o, enum ms_claim_action action, const char *reason) {
	o->action = action;
	o->need_snapshot = true;
	snprintf(o->reason, sizeof o->reason, "%s", reason);
}

/* Local generation from its start entry, or from a snapshot where the journal no longer has that. */
static void start_local(const struct ms_claim_in *in, struct ms_claim_out *o, const char *reason) {
	if (in->journal.local_start && reason)
		need(o, MS_CLAIM_START, reason);
	else if (in->journal.local_start)
		o->action = MS_CLAIM_START;
	else
		need(o, MS_CLAIM_SEED, reason ? reason : "the journal no longer holds what the replica lacks");
	o->fence = in->head && strcmp(in->head->generation.s, in->local->generation.s) != 0;
}

static const struct ms_lineage *leaves(const struct ms_local_facts *l, const struct ms_generation *g) {
	for (uint32_t i = 0; i < l->nlineage; i++)
		if (strcmp(l->lineage[i].parent.s, g->s) == 0)
			return &l->lineage[i];
	return NULL;
}

static void decide_empty(const struct ms_claim_in *in, struct ms_claim_out *o) {
	char reason[200];
	if (in->cursor && in->cursor->seq && in->journal.cursor_ok) {
		snprintf(reason, sizeof reason, "the replica is empty, although everything up to txid %" PRIu64 " had been put there", in->cursor->state.txid);
		need(o, MS_CLAIM_CONTINUE, reason);
		return;
	}
	start_local(in, o, "a new replica");
}

void ms_claim_decide(const struct ms_claim_in *in, struct ms_claim_out *ret) {
	struct ms_claim_out o = {.refusal = MS_ERR_INIT};
	const struct ms_claim_journal *j = &in->journal;
	char reason[200];
	*ret = o;
	if (!in->head) {
		decide_empty(in, &o);
		*ret = o;
		return;
	}
	const struct ms_generation *theirs = &in->head->generation;
	bool forked = strcmp(theirs->s, in->local->generation.s) != 0;
	const struct ms_lineage *fork = leaves(in->local, theirs);
	/* From the start of our own generation, if there is one that is not theirs. */
	bool may_leave = in->takeover && forked;

	if (!in->same_owner && !in->takeover) {
		refuse(in, &o, "belongs to another owner", "If that one is gone for good: ");
	} else if (j->tail_differs) {
		if (may_leave)
			start_local(in, &o, "taken over: the replica holds another history");
		else
			refuse(in, &o, "holds another history of this database", "To go on with this host's and leave the other behind: ");
	} else if (j->tail_found) {
		if (!in->same_owner && may_leave && j->local_start) {
			/* Straight to our own generation: in theirs the other owner may still be writing. */
			bool leads = fork == &in->local->lineage[0] && !fork->seeded && fork->fork_txid <= in->tail.txid;
			start_local(in, &o, leads ? NULL : "taken over from another owner");
		} else {
			bool same = in->cursor && in->cursor->seq && j->cursor_ok && strcmp(in->cursor->generation.s, theirs->s) == 0 &&
				    in->cursor->state.txid == j->resume.txid;
			o.action = same ? MS_CLAIM_CONTINUE : MS_CLAIM_ADOPT;
			if (!in->has_base)
				need(&o, o.action, "the replica has no snapshot yet");
		}
	} else if (j->knows_head && in->has_tail && in->tail.txid > j->head_end.txid) {
		if (may_leave)
			start_local(in, &o, "taken over: the replica was ahead of this host");
		else
			refuse(in, &o, "is ahead of this host (an old disk or a resumed machine?)", "To give up what only the replica has: ");
	} else if (j->knows_head) {
		if (in->cursor && in->has_tail && in->tail.txid >= in->cursor->state.txid)
			snprintf(reason, sizeof reason, "the journal no longer holds what the replica lacks");
		else
			snprintf(reason, sizeof reason, "the replica holds generation %s up to txid %" PRIu64 " only, although txid %" PRIu64 " had been put there",
			 theirs->s, in->has_tail ? in->tail.txid : 0, in->cursor ? in->cursor->state.txid : j->head_end.txid);
		need(&o, in->cursor && in->cursor->seq && j->cursor_ok ? MS_CLAIM_CONTINUE : MS_CLAIM_SEED, reason);
	} else if (!forked) {
		/* The journal is empty or no longer has the tail. */
		if (in->has_tail && in->tail.txid > in->local->state.txid) {
			refuse(in, &o, "is ahead of this host (an old disk or a resumed machine?)", "To give up what only the replica has: ");
		} else if (in->has_tail && in->tail.txid == in->local->state.txid && in->tail.checksum != in->local->state.checksum) {
			refuse(in, &o, "holds another history of this database", "To go on with this host's and leave the other behind: ");
		} else {
			need(&o, MS_CLAIM_SEED, "the journal no longer holds what the replica lacks");
		}
	} else if (fork) {
		start_local(in, &o, fork->seeded ? "a new generation that does not go on from its parent's state"
						 : "the journal no longer holds what the replica lacks of the parent generation");
	} else if (in->takeover) {
		start_local(in, &o, "taken over: the replica held another history");
	} else {
		refuse(in, &o, "holds a history that this host does not know", "To start anew and leave the other behind: ");
	}
	*ret = o;
}
