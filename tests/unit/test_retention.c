/* The retention plan: age, thinning by distance, pinned snapshots, segments and chunks that go with them. Times are in units of 100 us here. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include "core/retention.h"

#define MAX 128
#define NOW 1000

static const struct ms_generation gen = {"00000003-0000000a"}, parent = {"00000001-0000000b"};
static struct ms_name names[MAX];
static uint32_t nnames;

static void snapshot(const struct ms_generation *g, uint64_t txid, int64_t t) {
	names[nnames++] = (struct ms_name){.kind = MS_NAME_SNAPSHOT, .generation = *g, .first = txid, .first_us = t};
}

static void segment(const struct ms_generation *g, uint64_t first) {
	names[nnames++] = (struct ms_name){.kind = MS_NAME_SEGMENT, .generation = *g, .first = first};
}

static struct ms_retention_policy policy(int64_t retention, int64_t spacing) {
	static struct ms_lineage lineage[2];
	lineage[0] = (struct ms_lineage){.generation = gen, .parent = parent, .fork_txid = 50};
	lineage[1] = (struct ms_lineage){.generation = parent};
	return (struct ms_retention_policy){.now_us = NOW, .snapshot_retention_us = retention, .snapshot_spacing_us = spacing, .lineage = lineage, .nlineage = 2};
}

/* The txids of the snapshots that stay, e.g. "10 40". */
static const char *kept(const struct ms_retention_policy *p) {
	static char text[512];
	bool keep[MAX];
	struct ms_err err = MS_ERR_INIT;
	size_t n = 0;
	cr_assert_eq(ms_retention_kept_snapshots(names, nnames, p, keep, &err), MS_OK);
	text[0] = 0;
	for (uint32_t i = 0; i < nnames; i++) {
		cr_assert(!keep[i] || names[i].kind == MS_NAME_SNAPSHOT);
		if (keep[i])
			n += (size_t)snprintf(text + n, sizeof text - n, "%s%llu", n ? " " : "", (unsigned long long)names[i].first);
	}
	return text;
}

static bool planned(const struct ms_retention_plan *p, const struct ms_name *n) {
	char name[MS_NAME_MAX];
	ms_name_format(n, name);
	for (uint32_t i = 0; i < p->n; i++)
		if (strcmp(p->names[i], name) == 0)
			return true;
	return false;
}

Test(retention, without_spacing_age_alone_counts) {
	for (int i = 0; i < 10; i++)
		snapshot(&gen, 100 + (uint64_t)i, NOW - 10 + i);
	struct ms_retention_policy p = policy(5, 0);
	cr_assert_str_eq(kept(&p), "105 106 107 108 109");
	p = policy(0, 0);
	cr_assert_str_eq(kept(&p), "100 101 102 103 104 105 106 107 108 109");
}

Test(retention, dense_snapshots_are_thinned) {
	for (int i = 0; i <= 40; i++) /* one each unit of time */
		snapshot(&gen, (uint64_t)i + 1, NOW - 40 + i);
	struct ms_retention_policy p = policy(1000, 10);
	cr_assert_str_eq(kept(&p), "1 11 21 31 41");
	/* Their order in the listing means nothing. */
	for (uint32_t i = 0; i < nnames / 2; i++) {
		struct ms_name n = names[i];
		names[i] = names[nnames - 1 - i];
		names[nnames - 1 - i] = n;
	}
	cr_assert_str_eq(kept(&p), "41 31 21 11 1");
}

Test(retention, what_is_left_lies_no_further_apart_than_asked) {
	/* Uneven distances, each well below the spacing but for the one gap of 30. */
	static const int at[] = {0, 3, 4, 9, 12, 19, 20, 21, 51, 52, 60};
	const size_t n = sizeof at / sizeof *at;
	for (size_t i = 0; i < n; i++)
		snapshot(&gen, (uint64_t)at[i] + 1, NOW - 60 + at[i]);
	struct ms_retention_policy p = policy(1000, 10);
	bool keep[MAX];
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_retention_kept_snapshots(names, nnames, &p, keep, &err), MS_OK);
	int last = 0, left = 0;
	for (size_t i = 0; i < n; i++) {
		if (!keep[i])
			continue;
		cr_assert(at[i] - last <= 10 || (last == 21 && at[i] == 51), "%d to %d", last, at[i]);
		last = at[i];
		left++;
	}
	cr_assert_eq(last, 60);
	cr_assert_lt(left, (int)n);
	cr_assert(keep[0] && keep[7] && keep[8] && keep[10]);
}

Test(retention, thinning_again_changes_nothing) {
	for (int i = 0; i <= 60; i++)
		snapshot(&gen, (uint64_t)i + 1, NOW - 60 + i + (i * 7) % 5);
	struct ms_retention_policy p = policy(1000, 10);
	char first[512];
	snprintf(first, sizeof first, "%s", kept(&p));
	bool keep[MAX];
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_retention_kept_snapshots(names, nnames, &p, keep, &err), MS_OK);
	uint32_t n = 0;
	for (uint32_t i = 0; i < nnames; i++)
		if (keep[i])
			names[n++] = names[i];
	cr_assert_lt(n, nnames);
	nnames = n;
	cr_assert_str_eq(kept(&p), first);
}

Test(retention, at_the_spacing_itself_all_stay) {
	/* A database that gets a snapshot once in the interval keeps each of them. */
	for (int i = 0; i < 8; i++)
		snapshot(&gen, (uint64_t)i + 1, NOW - 80 + 10 * i);
	struct ms_retention_policy p = policy(1000, 10);
	cr_assert_str_eq(kept(&p), "1 2 3 4 5 6 7 8");
}

Test(retention, pinned_ones_stay) {
	for (int i = 0; i <= 20; i++)
		snapshot(&gen, (uint64_t)i + 1, NOW - 20 + i);
	bool pinned[MAX] = {[4] = true};
	struct ms_retention_policy p = policy(1000, 10);
	p.pinned = pinned;
	cr_assert_str_eq(kept(&p), "1 5 15 21");
}

Test(retention, generations_are_thinned_apart) {
	snapshot(&parent, 1, NOW - 30);
	snapshot(&parent, 2, NOW - 28);
	snapshot(&parent, 3, NOW - 26);
	snapshot(&gen, 51, NOW - 25);
	snapshot(&gen, 52, NOW - 24);
	snapshot(&gen, 53, NOW - 23);
	struct ms_retention_policy p = policy(1000, 100);
	cr_assert_str_eq(kept(&p), "1 3 51 53");
}

Test(retention, the_newest_stays_when_all_have_expired) {
	snapshot(&gen, 60, NOW - 500);
	snapshot(&gen, 61, NOW - 400);
	segment(&gen, 60);
	segment(&gen, 61);
	segment(&gen, 62);
	struct ms_retention_policy p = policy(100, 10);
	cr_assert_str_eq(kept(&p), "61");
	struct ms_retention_plan plan;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_retention_plan_make(names, nnames, &p, NULL, 0, 0, &plan, &err), MS_OK);
	cr_assert_eq(plan.n, 3);
	cr_assert(planned(&plan, &names[0]) && planned(&plan, &names[2]) && planned(&plan, &names[3]));
	ms_retention_plan_release(&plan);
}

/* The parent's snapshots lead into a fork, not into a seeded generation; its history stays by its age, and its newest point while there is no other. */
Test(retention, a_seeded_generation) {
	snapshot(&parent, 10, NOW - 500);
	segment(&parent, 11);
	snapshot(&parent, 40, NOW - 400);
	segment(&parent, 41);
	segment(&gen, 52);
	segment(&gen, 53);
	struct ms_retention_policy p = policy(100, 0);
	struct ms_lineage seeded[2] = {p.lineage[0], p.lineage[1]};
	seeded[0].seeded = true;
	struct ms_retention_plan plan;
	cr_assert_str_eq(kept(&p), "40");
	p.lineage = seeded;
	cr_assert_str_eq(kept(&p), "40");
	cr_assert_eq(ms_retention_plan_make(names, nnames, &p, NULL, 0, 0, &plan, NULL), MS_OK);
	cr_assert(plan.n == 2 && planned(&plan, &names[0]) && planned(&plan, &names[1]), "%u", plan.n); /* the rest is the newest point, and what comes */
	ms_retention_plan_release(&plan);
	/* With a snapshot of its own (which has expired as well, but is the newest), only what is in time stays of the parent. */
	snapshot(&gen, 54, NOW - 300);
	cr_assert_str_eq(kept(&p), "54");
	snapshot(&parent, 45, NOW - 50);
	cr_assert_str_eq(kept(&p), "54 45");
}

Test(retention, segments_between_kept_snapshots_stay) {
	for (int i = 0; i <= 20; i++) {
		snapshot(&gen, 60 + (uint64_t)i, NOW - 20 + i);
		segment(&gen, 60 + (uint64_t)i);
	}
	struct ms_retention_policy p = policy(1000, 10);
	cr_assert_str_eq(kept(&p), "60 70 80");
	struct ms_retention_plan plan;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_retention_plan_make(names, nnames, &p, NULL, 0, 0, &plan, &err), MS_OK);
	for (uint32_t i = 0; i < nnames; i++) {
		const struct ms_name *n = &names[i];
		bool goes = n->kind == MS_NAME_SNAPSHOT ? n->first % 10 != 0 : n->first == 60;
		cr_assert_eq(planned(&plan, n), goes, "%d of txid %llu", n->kind, (unsigned long long)n->first);
	}
	ms_retention_plan_release(&plan);
}

Test(retention, nothing_goes_without_a_snapshot) {
	segment(&gen, 60);
	segment(&gen, 61);
	struct ms_retention_policy p = policy(1, 1);
	struct ms_retention_plan plan;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_retention_plan_make(names, nnames, &p, NULL, 0, 0, &plan, &err), MS_OK);
	cr_assert_eq(plan.n, 0);
	ms_retention_plan_release(&plan);
}

Test(retention, segment_before_a_snapshot) {
	segment(&gen, 60);
	segment(&gen, 65);
	names[nnames++] = (struct ms_name){.kind = MS_NAME_SEGMENT_PART, .generation = gen, .first = 68, .number = 1};
	segment(&gen, 70);
	segment(&parent, 66);
	snapshot(&gen, 67, NOW);
	snapshot(&gen, 59, NOW);
	snapshot(&gen, 70, NOW);
	cr_assert_eq(ms_retention_segment_before(names, nnames, &names[5]), &names[1]);
	cr_assert_null(ms_retention_segment_before(names, nnames, &names[6]));
	cr_assert_eq(ms_retention_segment_before(names, nnames, &names[7]), &names[3]);
}

static void head_of(const struct ms_generation *g, uint32_t number) {
	names[nnames++] = (struct ms_name){.kind = MS_NAME_HEAD, .generation = *g, .number = number};
}

static const char *heads_that_go(const struct ms_retention_policy *p) {
	static char text[512];
	struct ms_retention_plan plan;
	size_t n = 0;
	text[0] = 0;
	cr_assert_eq(ms_retention_plan_make(names, nnames, p, NULL, 0, 0, &plan, NULL), MS_OK);
	for (uint32_t i = 0; i < plan.n; i++) {
		struct ms_name m;
		cr_assert(ms_name_parse(plan.names[i], &m));
		if (m.kind == MS_NAME_HEAD)
			n += (size_t)snprintf(text + n, sizeof text - n, "%s%u", n ? " " : "", m.number);
	}
	ms_retention_plan_release(&plan);
	return text;
}

/* Nothing leads on from a snapshot between the ends of a catch-up: the one before it stays, however old, until there is one behind. */
Test(retention, a_snapshot_within_a_catch_up) {
	struct ms_retention_policy p = policy(100, 0);
	snapshot(&gen, 55, NOW - 600);
	snapshot(&gen, 60, NOW - 500);
	snapshot(&gen, 80, NOW - 300);
	for (uint64_t first = 51; first <= 70; first++)
		segment(&gen, first);
	segment(&gen, 91);
	cr_assert_str_eq(kept(&p), "80");
	p.fold_first = 70;
	p.fold_last = 90;
	cr_assert_str_eq(kept(&p), "60 80");
	struct ms_retention_plan plan = {0};
	cr_assert_eq(ms_retention_plan_make(names, nnames, &p, NULL, 0, 0, &plan, NULL), MS_OK);
	for (uint32_t i = 0; i < nnames; i++)
		cr_expect_eq(planned(&plan, &names[i]), names[i].kind == MS_NAME_SNAPSHOT ? names[i].first == 55 : names[i].first <= 60, "%llu",
			     (unsigned long long)names[i].first);
	ms_retention_plan_release(&plan);
	snapshot(&gen, 90, NOW - 200);
	cr_assert_str_eq(kept(&p), "90");
}

/* Old heads: the first and the last of each generation of which something is left stay, and what nobody has read. */
Test(retention, old_heads) {
	const struct ms_generation gone = {"00000001-0000000c"}, unread = {""};
	struct ms_retention_policy p = policy(0, 0);
	for (uint32_t i = 30; i > 20; i--) /* in no order */
		head_of(&gen, i);
	for (uint32_t i = 1; i <= 5; i++)
		head_of(&parent, i);
	for (uint32_t i = 6; i <= 10; i++)
		head_of(&gone, i);
	for (uint32_t i = 11; i <= 15; i++)
		head_of(&parent, i); /* given back to it, say */
	for (uint32_t i = 16; i <= 18; i++)
		head_of(&unread, i);
	cr_assert_str_empty(heads_that_go(&p), "nothing goes without a snapshot");
	snapshot(&gen, 60, NOW - 5);
	segment(&parent, 11);
	cr_assert_str_eq(heads_that_go(&p), "2 3 4 5 6 7 8 9 10 11 12 13 14 22"); /* 21 is the first of gen; 23 to 30 are the newest */
	nnames--;				     /* the last object of parent has gone */
	cr_assert_str_eq(heads_that_go(&p), "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 22");
}

/* A plan puts a head itself: for a few of them alone it would never come to an end. */
Test(retention, few_old_heads_are_left_alone) {
	struct ms_retention_policy p = policy(100, 0);
	snapshot(&gen, 60, NOW - 5);
	for (uint32_t i = 1; i <= MS_HEADS_KEPT + 1; i++)
		head_of(&gen, i);
	for (uint32_t more = 1; more < MS_HEADS_KEPT; more++) {
		cr_assert_str_empty(heads_that_go(&p), "%u", more);
		head_of(&gen, MS_HEADS_KEPT + 1 + more);
	}
	head_of(&gen, 2 * MS_HEADS_KEPT + 1);
	cr_assert_str_eq(heads_that_go(&p), "2 3 4 5 6 7 8 9");
	nnames--;
	snapshot(&gen, 50, NOW - 500); /* something else goes as well */
	cr_assert_str_eq(heads_that_go(&p), "2 3 4 5 6 7 8");
}
