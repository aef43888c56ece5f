/*
 * Who is right at start (DESIGN §6 "Ownership", §15): a pure decision from what the replica holds, what the local journal and cursor know, and
 * what the stream has settled. Nothing is read or written here.
 */
#ifndef MS_CORE_CLAIM_H
#define MS_CORE_CLAIM_H

#include "core/cursor.h"

/* What the stream knows when workers start. generation empty: nothing (no shadow directory). */
struct ms_local_facts {
	struct ms_generation generation;
	struct ms_dbstate state; /* at the end of the journal */
	struct ms_lineage *lineage; /* [0] = generation */
	uint32_t nlineage;
	uint32_t epoch; /* highest epoch this shadow directory has used, 0 none */
};

/* What a walk over the journal found, from the cursor on, or from its beginning without one. */
struct ms_claim_journal {
	bool cursor_ok;	  /* the journal leads on from the cursor without a gap */
	bool knows_head;  /* the cursor or an entry is of the head's generation */
	struct ms_dbstate head_end; /* newest state of that generation in the journal (or at the cursor) */
	bool tail_found;  /* the journal (or the cursor) has exactly the replica's tail */
	/* With tail_found: where shipping goes on. The tail, or before it where the tail is a snapshot that ran ahead of the segments. */
	struct ms_dbstate resume;
	uint64_t resume_seq; /* next entry behind it */
	bool tail_differs; /* it has the tail's txid with another checksum */
	bool local_start;  /* the entry that starts local.generation was found, and everything behind it is there */
	uint64_t start_seq; /* next entry behind it */
	struct ms_dbstate start_base;
	uint64_t end_seq; /* end of the walk */
};

struct ms_claim_in {
	const char *db, *replica; /* for texts */
	bool takeover;
	const struct ms_head *head; /* NULL: the replica has none */
	bool same_owner;
	bool has_tail; /* some object states a position in head->generation */
	bool has_base; /* a snapshot of that generation, or a parent generation, is there */
	struct ms_dbstate tail;
	const struct ms_cursor *cursor; /* NULL: none */
	const struct ms_local_facts *local;
	struct ms_claim_journal journal;
};

enum ms_claim_action {
	MS_CLAIM_REFUSE,   /* refusal says why; nothing may be written */
	MS_CLAIM_CONTINUE, /* from the cursor */
	MS_CLAIM_ADOPT,	   /* from journal.resume, found in the replica's head's generation */
	MS_CLAIM_START,	   /* from the start of local.generation */
	MS_CLAIM_SEED,	   /* no position: a snapshot of local.generation becomes the cursor */
};

struct ms_claim_out {
	enum ms_claim_action action;
	bool need_snapshot;
	bool fence;	  /* the head's generation is left: no one else may go on in it */
	char reason[256]; /* why a snapshot is needed, or empty */
	struct ms_err refusal; /* MS_EFENCED */
};

void ms_claim_decide(const struct ms_claim_in *in, struct ms_claim_out *ret);

#endif
