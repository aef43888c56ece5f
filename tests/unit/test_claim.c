/* The table of DESIGN §15 "Who is right at start", line by line. */
#include <criterion/criterion.h>
#include <string.h>

#include "core/claim.h"

#define A "00000001-aaaaaaaa"
#define B "00000002-bbbbbbbb"
#define X "00000001-eeeeeeee"

static struct ms_head head;
static struct ms_lineage head_lineage[1] = {{{A}, {""}, 0, false}};
static struct ms_lineage local_lineage[2];
static struct ms_local_facts local;
static struct ms_cursor cursor;
static struct ms_claim_in in;

/* A replica at A/10 of ours, a host at A/12 with a cursor at A/10. */
static void setup(void) {
	head = (struct ms_head){.number = 4, .epoch = 3, .owner = "us", .host = "here", .generation = {A}, .lineage = head_lineage, .nlineage = 1, .time_us = 1};
	local_lineage[0] = (struct ms_lineage){{A}, {""}, 0, false};
	local = (struct ms_local_facts){.generation = {A}, .state = {.txid = 12, .checksum = 1200, .time_us = 1767225600000000}, .lineage = local_lineage, .nlineage = 1, .epoch = 3};
	cursor = (struct ms_cursor){.seq = 11, .generation = {A}, .state = {.txid = 10, .checksum = 1000}, .head_number = 4};
	in = (struct ms_claim_in){.db = "/data/app.db",
				  .replica = "file:///r",
				  .head = &head,
				  .same_owner = true,
				  .has_tail = true,
				  .has_base = true,
				  .tail = {.txid = 10, .checksum = 1000, .time_us = 1767225600000000},
				  .cursor = &cursor,
				  .local = &local,
				  .journal = {.cursor_ok = true,
					      .knows_head = true,
					      .head_end = {.txid = 12, .checksum = 1200},
					      .tail_found = true,
					      .resume = {.txid = 10, .checksum = 1000},
					      .resume_seq = 11,
					      .end_seq = 13}};
}
TestSuite(claim, .init = setup);

/* The host has gone on in B, forked from A at txid. */
static void forked(uint64_t txid) {
	local.generation = (struct ms_generation){B};
	local_lineage[0] = (struct ms_lineage){{B}, {A}, txid, false};
	local_lineage[1] = (struct ms_lineage){{A}, {""}, 0, false};
	local.nlineage = 2;
	in.journal.local_start = true;
	in.journal.start_seq = 13;
	in.journal.start_base = (struct ms_dbstate){.txid = txid};
}
static void new_root(void) {
	forked(0);
	local_lineage[0] = (struct ms_lineage){{B}, {""}, 0, false};
	local.nlineage = 1;
}

static struct ms_claim_out decide(void) {
	struct ms_claim_out o;
	ms_claim_decide(&in, &o);
	if (o.action == MS_CLAIM_REFUSE) {
		cr_expect_eq(o.refusal.code, MS_EFENCED);
		cr_expect(strstr(o.refusal.msg, "`migstream takeover /data/app.db`") && strstr(o.refusal.msg, "file:///r") && strstr(o.refusal.msg, A), "%s", o.refusal.msg);
		cr_expect(strstr(o.refusal.msg, "2026-01-01T00:00:00"), "times are named: %s", o.refusal.msg);
	} else {
		cr_expect_eq(o.refusal.code, MS_OK);
	}
	cr_expect_eq(o.need_snapshot, o.reason[0] != '\0');
	return o;
}
static void expect(enum ms_claim_action action, bool snapshot, bool fence) {
	struct ms_claim_out o = decide();
	cr_expect_eq(o.action, action, "action %d, reason '%s', refusal '%s'", (int)o.action, o.reason, o.refusal.msg);
	cr_expect_eq(o.need_snapshot, snapshot, "%s", o.reason);
	cr_expect_eq(o.fence, fence);
}

Test(claim, the_usual_start_continues) { expect(MS_CLAIM_CONTINUE, false, false); }

Test(claim, tail_ahead_of_the_cursor_is_adopted) {
	in.tail = in.journal.resume = (struct ms_dbstate){.txid = 12, .checksum = 1200};
	in.journal.resume_seq = 13;
	expect(MS_CLAIM_ADOPT, false, false);
	in.cursor = NULL; /* lost */
	in.journal.cursor_ok = false;
	expect(MS_CLAIM_ADOPT, false, false);
}

Test(claim, no_snapshot_yet) {
	in.has_base = false;
	expect(MS_CLAIM_CONTINUE, true, false);
	in.cursor = NULL;
	expect(MS_CLAIM_ADOPT, true, false);
}

Test(claim, new_replica) {
	in.head = NULL;
	in.has_tail = in.has_base = false;
	in.cursor = NULL;
	in.journal = (struct ms_claim_journal){.local_start = true, .start_seq = 2, .end_seq = 13};
	expect(MS_CLAIM_START, true, false);
	in.journal.local_start = false; /* added later: the journal's beginning is gone */
	expect(MS_CLAIM_SEED, true, false);
}

Test(claim, wiped_replica) {
	in.head = NULL;
	in.has_tail = in.has_base = in.journal.tail_found = in.journal.knows_head = false;
	expect(MS_CLAIM_CONTINUE, true, false);
	cr_expect(strstr(decide().reason, "txid 10"), "%s", decide().reason);
}

Test(claim, replica_with_less_than_the_cursor) {
	in.tail = (struct ms_dbstate){.txid = 5, .checksum = 500};
	in.journal.tail_found = false;
	expect(MS_CLAIM_CONTINUE, true, false);
	cr_expect(strstr(decide().reason, "txid 5") && strstr(decide().reason, "txid 10"), "%s", decide().reason);
	in.journal.cursor_ok = false;
	expect(MS_CLAIM_SEED, true, false);
}

Test(claim, replica_ahead_is_refused) {
	in.tail = (struct ms_dbstate){.txid = 99, .checksum = 9900, .time_us = 1767225600000000};
	in.journal.tail_found = false;
	expect(MS_CLAIM_REFUSE, false, false);
	struct ms_claim_out o = decide();
	cr_expect(strstr(o.refusal.msg, "txid 99") && strstr(o.refusal.msg, "txid 12"), "%s", o.refusal.msg);
	/* Takeover alone does not help: the same generation has one history only. */
	in.takeover = true;
	expect(MS_CLAIM_REFUSE, false, false);
	/* After the stream has forked, it does, from a base of its own. */
	forked(12);
	expect(MS_CLAIM_START, true, true);
	in.takeover = false;
	expect(MS_CLAIM_REFUSE, false, false);
	/* Also when the journal is empty or gone. */
	setup();
	in.tail = (struct ms_dbstate){.txid = 99, .time_us = 1767225600000000};
	in.journal = (struct ms_claim_journal){.end_seq = 5};
	expect(MS_CLAIM_REFUSE, false, false);
}

Test(claim, diverged_replica_is_refused) {
	in.journal.tail_found = false;
	in.journal.tail_differs = true;
	in.tail.checksum = 666;
	expect(MS_CLAIM_REFUSE, false, false);
	in.takeover = true;
	expect(MS_CLAIM_REFUSE, false, false);
	forked(9);
	expect(MS_CLAIM_START, true, true);
	setup();
	in.journal = (struct ms_claim_journal){.end_seq = 13};
	in.tail = (struct ms_dbstate){.txid = 12, .checksum = 666, .time_us = 1767225600000000};
	expect(MS_CLAIM_REFUSE, false, false);
}

Test(claim, another_owner) {
	in.same_owner = false;
	strcpy(head.owner, "them");
	expect(MS_CLAIM_REFUSE, false, false);
	cr_expect(strstr(decide().refusal.msg, "owner them on here"), "%s", decide().refusal.msg);
	in.takeover = true;
	expect(MS_CLAIM_CONTINUE, false, false);
	forked(10); /* a new owner's generation, from a point that the replica has */
	expect(MS_CLAIM_START, false, true);
	local_lineage[0].seeded = true; /* from a state of its own, behind that */
	expect(MS_CLAIM_START, true, true);
	forked(11); /* from one that it does not have */
	expect(MS_CLAIM_START, true, true);
	new_root();
	expect(MS_CLAIM_START, true, true);
	in.takeover = false;
	expect(MS_CLAIM_REFUSE, false, false);
}

Test(claim, the_host_has_forked_by_itself) {
	/* Database behind the shadow directory, or another page size: the journal leads from A to B, nothing is skipped. */
	forked(12);
	expect(MS_CLAIM_CONTINUE, false, false);
	in.tail = in.journal.resume = (struct ms_dbstate){.txid = 12, .checksum = 1200};
	expect(MS_CLAIM_ADOPT, false, false);
	/* The journal between is gone. */
	in.journal.tail_found = in.journal.knows_head = in.journal.cursor_ok = false;
	expect(MS_CLAIM_START, true, true);
	in.journal.local_start = false;
	expect(MS_CLAIM_SEED, true, true);
	/* Another database under the name: a root, in journal order too. */
	setup();
	new_root();
	expect(MS_CLAIM_CONTINUE, false, false);
}

Test(claim, unknown_history) {
	head.generation = (struct ms_generation){X};
	in.journal.tail_found = in.journal.knows_head = false;
	struct ms_claim_out o;
	ms_claim_decide(&in, &o);
	cr_expect_eq(o.action, MS_CLAIM_REFUSE);
	cr_expect(strstr(o.refusal.msg, X), "%s", o.refusal.msg);
	in.takeover = true;
	in.journal.local_start = true;
	expect(MS_CLAIM_START, true, true);
	in.journal.local_start = false;
	expect(MS_CLAIM_SEED, true, true);
}

Test(claim, purged_journal_of_the_same_generation) {
	in.cursor = NULL;
	in.journal = (struct ms_claim_journal){.end_seq = 13};
	expect(MS_CLAIM_SEED, true, false);
}
