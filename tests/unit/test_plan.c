/* Plans over inventories made of names; what headers would say comes from a table. The oracle is a bitmap of txids. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "restore/plan.h"

#define G1 "00000001-aaaaaaaa"
#define G2 "00000002-bbbbbbbb"
#define ROWS 400

struct row { /* what an object really holds */
	unsigned replica;
	const char *generation;
	uint64_t first, last, parent;
	bool fence, more, merged, fold;
};
struct world {
	struct ms_inventory inv;
	struct row rows[ROWS];
	unsigned n, probes;
	struct ms_plan_probe probe;
};
/* txid t was committed at t seconds */
static int64_t at(uint64_t txid) { return (int64_t)txid * 1000000; }

static enum ms_code probe_segment(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s, struct ms_err *err) {
	struct world *w = arg;
	w->probes++;
	for (unsigned i = 0; i < w->n; i++) {
		const struct row *r = &w->rows[i];
		if (r->replica != replica || r->merged != ((s->flags & MS_SEG_MERGED) != 0) || (r->merged && r->last != s->last) || strcmp(r->generation, g->id.s) != 0 || r->first != s->first)
			continue;
		if (r->fence) {
			s->flags |= MS_SEG_FENCE;
			return MS_OK;
		}
		struct ms_segment_info info = {.generation = g->id, .first_txid = r->first, .last_txid = r->last, .parent_txid = r->parent,
			.first_us = at(r->first), .last_us = at(r->last), .more = r->more, .kind = r->fold ? MS_SEG_CATCHUP : MS_SEG_COMMIT};
		return ms_inventory_probed(s, &info, &info, err);
	}
	return ms_err_set(err, MS_ENOTFOUND, "vanished");
}

static enum ms_code last_commit(void *arg, unsigned replica, struct ms_inv_generation *g, struct ms_inv_segment *s, int64_t time_us,
				uint64_t max_txid, uint64_t *ret_txid, int64_t *ret_us, struct ms_err *err) {
	(void)arg, (void)replica, (void)g, (void)err;
	*ret_txid = 0;
	for (uint64_t t = s->first; t <= s->last && t <= max_txid && at(t) <= time_us; t++) {
		*ret_txid = t;
		*ret_us = at(t);
	}
	return MS_OK;
}

static enum ms_code lineage(void *arg, struct ms_inv_generation *g, struct ms_lineage *ret, struct ms_err *err) {
	(void)arg, (void)err;
	*ret = (struct ms_lineage){.generation = g->id};
	return MS_OK;
}

static void begin(struct world *w, unsigned replicas) {
	memset(w, 0, sizeof *w);
	ms_inventory_init(&w->inv, replicas);
	w->probe = (struct ms_plan_probe){probe_segment, last_commit, lineage, w};
}

static void seg_of(struct world *w, unsigned replica, const char *gen, uint64_t first, uint64_t last, uint64_t parent) {
	char name[MS_NAME_MAX];
	w->rows[w->n++] = (struct row){.replica = replica, .generation = gen, .first = first, .last = last, .parent = parent};
	snprintf(name, sizeof name, "%s/segments/%016llx.seg", gen, (unsigned long long)first);
	cr_assert_eq(ms_inventory_add(&w->inv, replica, name, 100, NULL), MS_OK);
}
static void seg(struct world *w, uint64_t first, uint64_t last) { seg_of(w, 0, G1, first, last, first - 1); }

/* A catch-up that stands for all these and holds the last. */
static void fold(struct world *w, unsigned replica, uint64_t first, uint64_t last) {
	seg_of(w, replica, G1, first, last, first - 1);
	w->rows[w->n - 1].fold = true;
}

static void merged(struct world *w, unsigned replica, const char *gen, uint64_t first, uint64_t last) {
	char name[MS_NAME_MAX];
	w->rows[w->n++] = (struct row){.replica = replica, .generation = gen, .first = first, .last = last, .parent = first - 1, .merged = true};
	snprintf(name, sizeof name, "%s/segments/%016llx-%016llx-%016llx-%016llx.seg", gen, (unsigned long long)first, (unsigned long long)last,
		 (unsigned long long)at(first), (unsigned long long)at(last));
	cr_assert_eq(ms_inventory_add(&w->inv, replica, name, 300, NULL), MS_OK);
}

static void snap(struct world *w, unsigned replica, const char *gen, uint64_t txid) {
	char name[MS_NAME_MAX];
	snprintf(name, sizeof name, "%s/snapshots/%016llx-%016llx.snap", gen, (unsigned long long)txid, (unsigned long long)at(txid));
	cr_assert_eq(ms_inventory_add(&w->inv, replica, name, 1000, NULL), MS_OK);
}

static void head(struct world *w, uint32_t number, const char *gen, const char *parent, uint64_t fork, int64_t us, uint64_t settled) {
	struct ms_lineage l[2] = {{.fork_txid = fork}};
	struct ms_head h = {.number = number, .epoch = number, .owner = "o", .lineage = l, .nlineage = 1, .time_us = us, .settled_txid = settled};
	snprintf(h.generation.s, sizeof h.generation.s, "%s", gen);
	l[0].generation = h.generation;
	snprintf(l[0].parent.s, sizeof l[0].parent.s, "%s", parent);
	cr_assert_eq(ms_inventory_add_head(&w->inv, 0, &h, NULL), MS_OK);
}

static enum ms_code make(struct world *w, struct ms_plan_request req, struct ms_plan *p, struct ms_err *err) {
	*err = MS_ERR_INIT;
	ms_inventory_seal(&w->inv);
	return ms_plan_make(&w->inv, &req, &w->probe, p, err);
}

static struct ms_plan_request to_txid(uint64_t t) { return (struct ms_plan_request){.kind = MS_TARGET_TXID, .txid = t}; }
static struct ms_plan_request to_time(int64_t us) { return (struct ms_plan_request){.kind = MS_TARGET_TIME, .time_us = us}; }
static const struct ms_plan_request newest = {.kind = MS_TARGET_NEWEST};

Test(plan, by_names_alone) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	head(&w, 1, G1, "", 0, at(1), 0);
	snap(&w, 0, G1, 1);
	snap(&w, 0, G1, 50);
	for (uint64_t t = 2; t < 2000; t += 10)
		seg(&w, t, t + 9);
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.target.txid, 2001);
	cr_assert_eq(p.snap->txid, 50);
	cr_assert_eq(p.nsteps, 196); /* entered in the middle of 42..51 */
	cr_assert_eq(p.steps[0].seg->first, 42);
	cr_assert_eq(p.segment_bytes, 19600);
	cr_assert_leq(w.probes, 2); /* only the newest header, and that of the segment that is entered in the middle */
	ms_plan_release(&p);
	w.probes = 0;
	cr_assert_eq(make(&w, to_time(at(1234) + 5), &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.target.txid, 1234);
	cr_assert_leq(w.probes, 12); /* binary search */
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

Test(plan, merged_segments_win) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	snap(&w, 0, G1, 1);
	for (uint64_t t = 2; t <= 20; t++)
		seg(&w, t, t);
	merged(&w, 0, G1, 2, 5);
	merged(&w, 0, G1, 2, 15);
	merged(&w, 0, G1, 11, 18);
	cr_assert_eq(make(&w, to_txid(20), &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.nsteps, 4); /* 2..15, 11..18, 19, 20 */
	cr_assert_eq(p.steps[1].seg->first, 11);
	cr_assert_eq(p.steps[1].upto, 18);
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

static void expect(struct world *w, uint64_t txid, uint64_t snapshot, uint64_t first, unsigned steps) {
	struct ms_plan p;
	struct ms_err err;
	cr_assert_eq(make(w, to_txid(txid), &p, &err), MS_OK, "txid %llu: %s", (unsigned long long)txid, err.msg);
	cr_expect_eq(p.snap->txid, snapshot, "txid %llu: from %llu", (unsigned long long)txid, (unsigned long long)p.snap->txid);
	cr_expect_eq(p.nsteps, steps, "txid %llu: %zu steps", (unsigned long long)txid, p.nsteps);
	cr_expect_eq(p.nsteps ? p.steps[0].seg->first : 0, first);
	cr_expect_eq(p.segment_objects, steps);
	ms_plan_release(&p);
}

Test(plan, a_snapshot_within_a_catch_up_leads_nowhere) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	snap(&w, 0, G1, 1);
	snap(&w, 0, G1, 20);
	seg(&w, 2, 10);
	fold(&w, 0, 11, 40);
	expect(&w, 40, 1, 2, 2);
	fold(&w, 0, 41, 60);
	snap(&w, 0, G1, 50);
	seg(&w, 61, 70);
	snap(&w, 0, G1, 65);
	expect(&w, 20, 20, 0, 0);
	expect(&w, 50, 50, 0, 0);
	expect(&w, 60, 1, 2, 3);
	expect(&w, 63, 1, 2, 4);
	expect(&w, 68, 65, 61, 1);
	cr_assert_eq(make(&w, to_txid(30), &p, &err), MS_ENOTRESTORABLE);
	cr_expect(strstr(err.msg, "restorable are txid 20 and txid 40"), "%s", err.msg);
	/* A hole further back is told as such. */
	cr_assert(ms_inventory_mark_bad(&w.inv, 0, G1 "/segments/0000000000000002.seg"));
	cr_assert_eq(make(&w, to_txid(60), &p, &err), MS_EGAP);
	struct ms_plan_request req = to_txid(60);
	req.stop_at_gap = true;
	cr_assert_eq(make(&w, req, &p, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(p.target.txid, 50);
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

Test(plan, a_catch_up_takes_over_where_another_replica_ends) {
	struct world w;
	begin(&w, 2);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 10);
	fold(&w, 0, 11, 40);
	seg(&w, 41, 50);
	seg_of(&w, 1, G1, 2, 7, 1);
	seg_of(&w, 1, G1, 8, 20, 7);
	seg_of(&w, 1, G1, 21, 30, 20);
	expect(&w, 25, 1, 2, 3);
	expect(&w, 50, 1, 2, 3); /* to 10 by commits, then the catch-up */
	snap(&w, 1, G1, 15);
	expect(&w, 25, 15, 8, 2);
	expect(&w, 50, 1, 2, 3);
	ms_inventory_release(&w.inv);
}

Test(plan, numbers_of_an_engine_may_jump) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	snap(&w, 0, G1, 10);
	merged(&w, 0, G1, 12, 20);
	w.rows[0].parent = 10;
	seg_of(&w, 0, G1, 25, 25, 20);
	seg_of(&w, 0, G1, 40, 41, 25);
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.target.txid, 41);
	cr_assert_eq(p.nsteps, 3);
	ms_plan_release(&p);
	/* the same, but 25 continues something else */
	w.rows[1].parent = 23;
	w.inv.gens[0].shelf[0].live[0].flags = 0;
	cr_assert_eq(make(&w, newest, &p, &err), MS_EGAP);
	cr_assert(strstr(err.msg, "txid 21 is missing"), "%s", err.msg);
	ms_inventory_release(&w.inv);
}

Test(plan, a_fence_ends_the_generation) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 5);
	seg(&w, 6, 6);
	w.rows[w.n - 1].fence = true;
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.target.txid, 5);
	ms_plan_release(&p);
	cr_assert_eq(make(&w, to_txid(6), &p, &err), MS_ENOTRESTORABLE);
	ms_inventory_release(&w.inv);
}

Test(plan, an_incomplete_last_transaction_does_not_exist) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 5);
	seg(&w, 6, 6);
	w.rows[w.n - 1].more = true;
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.target.txid, 5);
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

Test(plan, chains_through_parents) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	head(&w, 1, G1, "", 0, at(1), 0);
	head(&w, 2, G2, G1, 12, at(30), 0);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 20); /* goes past the fork */
	seg_of(&w, 0, G2, 13, 40, 12);
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.target.txid, 40);
	cr_assert_str_eq(p.target.generation.s, G2);
	cr_assert_eq(p.nsteps, 2);
	cr_assert_eq(p.steps[0].upto, 12);
	cr_assert_str_eq(p.steps[1].gen->id.s, G2);
	ms_plan_release(&p);
	cr_assert_eq(make(&w, to_txid(12), &p, &err), MS_OK, "%s", err.msg);
	cr_assert_str_eq(p.target.generation.s, G1);
	ms_plan_release(&p);
	struct ms_plan_request old = to_txid(20);
	old.generation = G1;
	cr_assert_eq(make(&w, old, &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.target.txid, 20);
	ms_plan_release(&p);
	/* a fork's own snapshot at the fork point serves when the parent is gone */
	ms_inventory_release(&w.inv);
	begin(&w, 1);
	head(&w, 2, G2, G1, 12, at(30), 0);
	snap(&w, 0, G2, 12);
	seg_of(&w, 0, G2, 13, 40, 12);
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(p.snap->txid, 12);
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

Test(plan, damage_at_the_end_is_a_gap_and_no_shorter_history) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 5);
	seg(&w, 6, 9);
	ms_inventory_seal(&w.inv);
	cr_assert(ms_inventory_mark_bad(&w.inv, 0, G1 "/segments/0000000000000006.seg"));
	cr_assert_eq(make(&w, newest, &p, &err), MS_EGAP);
	cr_assert(strstr(err.msg, "txid 6 is missing"), "%s", err.msg);
	cr_assert_eq(make(&w, to_time(at(9)), &p, &err), MS_EGAP);
	cr_assert_eq(make(&w, to_time(at(4)), &p, &err), MS_OK, "%s", err.msg);
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

Test(plan, vanished_objects_are_told) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 5);
	w.n = 0;
	cr_assert_eq(make(&w, newest, &p, &err), MS_ENOTFOUND);
	ms_inventory_release(&w.inv);
}

Test(plan, lineage_in_a_circle) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	head(&w, 1, G1, G2, 5, at(1), 0);
	head(&w, 2, G2, G1, 5, at(2), 0);
	cr_assert_eq(make(&w, newest, &p, &err), MS_ECORRUPT);
	ms_inventory_release(&w.inv);
}

/* Random cuts of one history over two replicas with random losses, against a bitmap. */
static void random_world(unsigned seed) {
	struct world w;
	struct ms_err err;
	enum { LAST = 60 };
	bool have[LAST + 2] = {false}, snaps[LAST + 2] = {false};
	srand(seed);
	begin(&w, 2);
	for (unsigned r = 0; r < 2; r++) {
		for (uint64_t t = 2; t <= LAST;) {
			uint64_t end = t + (uint64_t)(rand() % 6);
			if (end > LAST)
				end = LAST;
			if (rand() % 8) {
				seg_of(&w, r, G1, t, end, t - 1);
				for (uint64_t k = t; k <= end; k++)
					have[k] = true;
			}
			t = end + 1;
		}
		for (int k = 0; k < 2; k++) {
			uint64_t a = 2 + (uint64_t)(rand() % (LAST - 1)), b = a + (uint64_t)(rand() % 15);
			if (b > LAST)
				b = LAST;
			merged(&w, r, G1, a, b);
			for (uint64_t t = a; t <= b; t++)
				have[t] = true;
		}
		for (int k = 0; k < 2; k++) {
			uint64_t s = 1 + (uint64_t)(rand() % LAST);
			snap(&w, r, G1, s);
			snaps[s] = true;
		}
	}
	ms_inventory_seal(&w.inv);
	/* exact: every header read */
	for (unsigned r = 0; r < 2; r++) {
		struct ms_inv_shelf *sh = &w.inv.gens[0].shelf[r];
		for (size_t i = 0; i < sh->nlive; i++)
			cr_assert_eq(probe_segment(&w, r, &w.inv.gens[0], &sh->live[i], &err), MS_OK);
	}
	for (uint64_t x = 1; x <= LAST; x++) {
		struct ms_plan p;
		uint64_t s = x;
		while (s > 0 && !snaps[s])
			s--;
		bool want = s > 0;
		uint64_t gap = 0;
		for (uint64_t t = s + 1; want && t <= x; t++) {
			if (!have[t]) {
				gap = gap ? gap : t;
			}
		}
		enum ms_code rc = make(&w, to_txid(x), &p, &err);
		if (want && !gap) {
			cr_assert_eq(rc, MS_OK, "seed %u txid %llu: %s", seed, (unsigned long long)x, err.msg);
			cr_assert_eq(p.snap->txid, s);
			uint64_t cur = s;
			for (size_t i = 0; i < p.nsteps; i++) {
				cr_assert(p.steps[i].seg->first <= cur + 1 && p.steps[i].seg->last > cur);
				cr_assert_eq(p.steps[i].upto, p.steps[i].seg->last < x ? p.steps[i].seg->last : x);
				cur = p.steps[i].upto;
			}
			cr_assert_eq(cur, x);
			ms_plan_release(&p);
			/* and by time */
			rc = make(&w, to_time(at(x)), &p, &err);
			if (rc == MS_EGAP) {
				/* what comes next is missing: it may have been committed in the same microsecond */
				cr_assert(!have[x + 1], "seed %u time %llu: %s", seed, (unsigned long long)x, err.msg);
			} else {
				cr_assert_eq(rc, MS_OK, "seed %u time %llu: %s", seed, (unsigned long long)x, err.msg);
				cr_assert_eq(p.target.txid, x);
				ms_plan_release(&p);
			}
		} else {
			cr_assert_neq(rc, MS_OK, "seed %u txid %llu", seed, (unsigned long long)x);
			if (want && rc == MS_EGAP) {
				char text[64];
				snprintf(text, sizeof text, "txid %llu is missing", (unsigned long long)gap);
				cr_assert(strstr(err.msg, text), "seed %u: %s instead of %s", seed, err.msg, text);
				struct ms_plan_request stop = to_txid(x);
				stop.stop_at_gap = true;
				cr_assert_eq(make(&w, stop, &p, &err), MS_OK, "%s", err.msg);
				cr_assert_eq(p.target.txid, gap - 1);
				cr_assert_eq(p.gap_txid, gap);
				ms_plan_release(&p);
			}
			/* a time must never silently mean less than what was there */
			rc = make(&w, to_time(at(x)), &p, &err);
			if (rc == MS_OK) {
				bool later = false;
				for (uint64_t t = p.target.txid + 1; t <= LAST; t++)
					later |= have[t] || snaps[t];
				cr_assert(p.target.txid < x && !later, "seed %u: time %llu gave txid %llu", seed, (unsigned long long)x,
					  (unsigned long long)p.target.txid);
				ms_plan_release(&p);
			}
		}
	}
	ms_inventory_release(&w.inv);
}

Test(plan, random_histories) {
	for (unsigned seed = 1; seed <= 600; seed++)
		random_world(seed);
}

/* ---- generations that do not go on from their parent's state ---- */

/* G2 follows txid 20 of G1 with a first state of its own, txid 21. */
static void seeded(struct world *w, uint64_t settled1, uint64_t settled2) {
	struct ms_lineage l[2] = {{.generation = {G2}, .parent = {G1}, .fork_txid = 20, .seeded = true}, {.generation = {G1}}};
	struct ms_head h = {.number = 2, .epoch = 2, .owner = "o", .generation = {G2}, .lineage = l, .nlineage = 2, .time_us = at(21), .settled_txid = settled2};
	begin(w, 1);
	head(w, 1, G1, "", 0, at(1), settled1);
	cr_assert_eq(ms_inventory_add_head(&w->inv, 0, &h, NULL), MS_OK);
	snap(w, 0, G1, 1);
	seg(w, 2, 20);
}

/* Nothing may be taken for the state behind a fork that no snapshot holds, and nothing before it may be lost. */
Test(plan, a_seeded_generation_before_its_first_snapshot) {
	for (int segments = 0; segments < 2; segments++) {
		struct world w;
		struct ms_plan p;
		struct ms_err err;
		seeded(&w, 20, segments ? 30 : 21);
		if (segments)
			seg_of(&w, 0, G2, 22, 30, 21);
		cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
		cr_expect_eq(p.target.txid, 20);
		cr_expect_str_eq(p.target.generation.s, G1);
		cr_expect(strstr(p.warning, "generation " G2 " has no snapshot yet") && strstr(p.warning, "txid 20 of generation " G1), "%s", p.warning);
		cr_expect_eq(strstr(p.warning, "txid 30") != NULL, segments, "%s", p.warning);
		ms_plan_release(&p);
		for (uint64_t t = 1; t <= 20; t++) { /* all that was before stays reachable, by txid and by time */
			cr_assert_eq(make(&w, to_txid(t), &p, &err), MS_OK, "%s", err.msg);
			cr_expect(p.target.txid == t && strcmp(p.target.generation.s, G1) == 0 && !p.warning[0]);
			ms_plan_release(&p);
			cr_assert_eq(make(&w, to_time(at(t)), &p, &err), MS_OK, "%s", err.msg);
			cr_expect(p.target.txid == t && strcmp(p.target.generation.s, G1) == 0 && !p.warning[0]);
			ms_plan_release(&p);
		}
		for (uint64_t t = 21; t <= 31; t++) { /* and nothing of it is passed off as what came after */
			cr_assert_eq(make(&w, to_txid(t), &p, &err), MS_ENOTRESTORABLE, "txid %llu", (unsigned long long)t);
			cr_expect(strstr(err.msg, "txid 1 (") && strstr(err.msg, "to 20 ("), "%s", err.msg);
			cr_expect_not(strstr(err.msg, "to 30 ("), "%s", err.msg);
			cr_assert_eq(make(&w, to_time(at(t)), &p, &err), MS_ENOTRESTORABLE, "time %llu", (unsigned long long)t);
			cr_expect(strstr(err.msg, G2), "%s", err.msg);
		}
		struct ms_plan_request own = newest;
		own.generation = G2; /* asked for by name: nothing else will do */
		cr_assert_eq(make(&w, own, &p, &err), MS_ENOTRESTORABLE);
		ms_inventory_release(&w.inv);
	}
}

Test(plan, a_seeded_generation_with_a_snapshot) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	seeded(&w, 20, 30);
	seg_of(&w, 0, G2, 22, 30, 21);
	snap(&w, 0, G2, 25);
	for (uint64_t t = 1; t <= 31; t++) {
		bool there = t <= 20 || (t >= 25 && t <= 30);
		enum ms_code rc = make(&w, to_txid(t), &p, &err);
		cr_assert_eq(rc, there ? MS_OK : MS_ENOTRESTORABLE, "txid %llu: %s", (unsigned long long)t, err.msg);
		if (!there)
			continue;
		cr_expect_eq(p.snap->txid, t >= 25 ? 25 : 1);
		cr_expect_str_eq(p.target.generation.s, t >= 25 ? G2 : G1);
		ms_plan_release(&p);
	}
	for (uint64_t t = 21; t < 25; t++) {
		cr_assert_eq(make(&w, to_time(at(t)), &p, &err), MS_ENOTRESTORABLE);
		cr_expect(strstr(err.msg, "txid 25 (") && strstr(err.msg, "to 30 (") && strstr(err.msg, "txid 1 (") && strstr(err.msg, "to 20 ("), "%s", err.msg);
	}
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_expect(p.target.txid == 30 && !p.warning[0]);
	ms_plan_release(&p);
	/* A verify that starts from an older snapshot cannot cross over. */
	struct ms_plan_request from = to_txid(30);
	from.base_txid = 1;
	cr_assert_eq(make(&w, from, &p, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(p.snap->txid, 25);
	ms_plan_release(&p);
	/* A damaged snapshot is damage, and no reason to restore something older. */
	w.inv.gens[1].shelf[0].snaps[0].bad = true;
	cr_assert_eq(make(&w, newest, &p, &err), MS_ENOTRESTORABLE);
	ms_inventory_release(&w.inv);
}

/* Commits of the parent that its head had settled and that are gone are still told. */
Test(plan, falling_back_does_not_hide_a_loss) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	struct ms_lineage l[1] = {{.generation = {G2}, .parent = {G1}, .fork_txid = 25, .seeded = true}};
	struct ms_head h = {.number = 2, .epoch = 2, .owner = "o", .generation = {G2}, .lineage = l, .nlineage = 1, .time_us = at(26), .settled_txid = 26};
	begin(&w, 1);
	head(&w, 1, G1, "", 0, at(1), 25);
	cr_assert_eq(ms_inventory_add_head(&w.inv, 0, &h, NULL), MS_OK);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 20);
	cr_assert_eq(make(&w, newest, &p, &err), MS_ENOTRESTORABLE);
	cr_expect(strstr(err.msg, "txid 20") && strstr(err.msg, "txid 25"), "%s", err.msg);
	struct ms_plan_request loss = newest;
	loss.allow_loss = true;
	cr_assert_eq(make(&w, loss, &p, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(p.target.txid, 20);
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

/* A root that a takeover put in front of another owner's history. */
Test(plan, a_root_before_its_first_snapshot) {
	struct world w;
	struct ms_plan p;
	struct ms_err err;
	begin(&w, 1);
	head(&w, 1, G1, "", 0, at(1), 20);
	snap(&w, 0, G1, 1);
	seg(&w, 2, 20);
	head(&w, 2, G2, "", 0, at(30), 1);
	ms_inventory_seal(&w.inv);
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_expect(p.target.txid == 20 && strcmp(p.target.generation.s, G1) == 0 && strstr(p.warning, G2), "%s", p.warning);
	ms_plan_release(&p);
	cr_assert_eq(make(&w, to_time(at(10)), &p, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(p.target.txid, 10);
	ms_plan_release(&p);
	cr_assert_eq(make(&w, to_time(at(40)), &p, &err), MS_ENOTRESTORABLE);
	cr_expect(strstr(err.msg, "behind the start of generation " G2), "%s", err.msg);
	snap(&w, 0, G2, 1);
	cr_assert_eq(make(&w, newest, &p, &err), MS_OK, "%s", err.msg);
	cr_expect(p.target.txid == 1 && strcmp(p.target.generation.s, G2) == 0 && !p.warning[0]);
	ms_plan_release(&p);
	ms_inventory_release(&w.inv);
}

/* Restores read the newest head's lineage alone, and everything where that has no snapshot. */
Test(plan, when_everything_is_to_be_read) {
	struct world w;
	begin(&w, 1);
	head(&w, 2, G2, "", 0, at(30), 1);
	ms_inventory_seal(&w.inv);
	cr_expect(ms_plan_wants_all(&w.inv));
	snap(&w, 0, G2, 1);
	cr_expect_not(ms_plan_wants_all(&w.inv));
	ms_inventory_release(&w.inv);
	seeded(&w, 20, 21); /* the parent has one */
	cr_expect_not(ms_plan_wants_all(&w.inv));
	ms_inventory_release(&w.inv);
}
