#include <criterion/criterion.h>
#include <stdio.h>

#include "restore/inventory.h"

#define G1 "00000001-aaaaaaaa"
#define G2 "00000002-bbbbbbbb"

static void add(struct ms_inventory *inv, unsigned replica, const char *name, uint64_t bytes) {
	struct ms_err err;
	cr_assert_eq(ms_inventory_add(inv, replica, name, bytes, &err), MS_OK, "%s", err.msg);
}

Test(inventory, names_fill_shelves) {
	struct ms_inventory inv;
	ms_inventory_init(&inv, 2);
	add(&inv, 0, G1 "/segments/000000000000000a.seg", 10);
	add(&inv, 0, G1 "/segments/0000000000000002.seg", 20);
	add(&inv, 0, G1 "/segments/0000000000000005.seg", 30);
	add(&inv, 0, G1 "/segments/0000000000000005+0002.seg", 2);
	add(&inv, 0, G1 "/segments/0000000000000005+0001.seg", 1);
	add(&inv, 0, G1 "/segments/0000000000000002-0000000000000009-0000000000000064-00000000000000c8.seg", 40);
	add(&inv, 0, G1 "/snapshots/0000000000000001-0000000000000064.snap", 50);
	add(&inv, 0, G1 "/chunks/00000001-0123456789abcdef", 60);
	add(&inv, 0, "head/00000001", 70);
	add(&inv, 1, G2 "/segments/0000000000000003.seg", 80);
	add(&inv, 1, "lost+found/x", 1);
	add(&inv, 1, G1 "/segments/2.seg", 1);
	add(&inv, 1, G1 "/segments/000000000000000A.seg", 1);
	ms_inventory_seal(&inv);
	cr_assert_eq(inv.ngens, 2);
	cr_assert_eq(inv.objects, 13);
	cr_assert_eq(inv.foreign, 3);
	struct ms_inv_generation *g = ms_inventory_find(&inv, G1);
	struct ms_inv_shelf *sh = &g->shelf[0];
	cr_assert_eq(sh->nlive, 3);
	cr_assert_eq(sh->live[0].first, 2);
	cr_assert_eq(sh->live[0].last, 4);
	cr_assert_eq(sh->live[1].first, 5);
	cr_assert_eq(sh->live[1].last, 9);
	cr_assert_eq(sh->live[1].nparts, 3);
	cr_assert_eq(sh->live[1].bytes, 33);
	cr_assert_eq(ms_inv_part_bytes(sh, &sh->live[1], 0), 30);
	cr_assert_eq(ms_inv_part_bytes(sh, &sh->live[1], 1), 1);
	cr_assert_eq(ms_inv_part_bytes(sh, &sh->live[1], 2), 2);
	cr_assert_eq(sh->live[2].last, MS_TXID_UNKNOWN);
	cr_assert_eq(sh->nmerged, 1);
	cr_assert_eq(sh->merged[0].last, 9);
	cr_assert_eq(sh->merged[0].last_us, 200);
	cr_assert_eq(sh->nsnaps, 1);
	cr_assert_eq(sh->snaps[0].time_us, 100);
	cr_assert_eq(g->shelf[1].nlive, 0);
	cr_assert_null(ms_inventory_find(&inv, "00000003-aaaaaaaa"));
	/* names come back as they were */
	char name[MS_NAME_MAX];
	ms_inv_segment_name(&g->id, &sh->live[1], 2, name);
	cr_assert_str_eq(name, G1 "/segments/0000000000000005+0002.seg");
	ms_inv_segment_name(&g->id, &sh->merged[0], 0, name);
	cr_assert_str_eq(name, G1 "/segments/0000000000000002-0000000000000009-0000000000000064-00000000000000c8.seg");
	ms_inv_snapshot_name(&g->id, &sh->snaps[0], name);
	cr_assert_str_eq(name, G1 "/snapshots/0000000000000001-0000000000000064.snap");
	/* sealing again changes nothing */
	ms_inventory_seal(&inv);
	cr_assert_eq(sh->live[1].bytes, 33);
	/* marks */
	cr_assert(ms_inventory_mark_bad(&inv, 0, G1 "/segments/0000000000000005+0001.seg"));
	cr_assert(sh->live[1].flags & MS_SEG_BAD);
	cr_assert(!ms_inventory_mark_bad(&inv, 1, G1 "/segments/0000000000000005.seg"));
	cr_assert(ms_inventory_mark_bad(&inv, 0, name));
	cr_assert(sh->snaps[0].bad);
	ms_inventory_release(&inv);
}

Test(inventory, a_hole_among_parts_ends_the_segment) {
	struct ms_inventory inv;
	ms_inventory_init(&inv, 1);
	add(&inv, 0, G1 "/segments/0000000000000005.seg", 30);
	add(&inv, 0, G1 "/segments/0000000000000005+0001.seg", 1);
	add(&inv, 0, G1 "/segments/0000000000000005+0003.seg", 3);
	ms_inventory_seal(&inv);
	cr_assert_eq(inv.gens[0].shelf[0].live[0].nparts, 2);
	cr_assert_eq(inv.gens[0].shelf[0].live[0].bytes, 31);
	ms_inventory_release(&inv);
}

Test(inventory, heads_and_lineage) {
	struct ms_inventory inv;
	struct ms_err err = MS_ERR_INIT;
	struct ms_lineage l[2] = {{.generation = {G2}, .parent = {G1}, .fork_txid = 7}, {.generation = {G1}}};
	struct ms_head h1 = {.number = 4, .epoch = 1, .owner = "a", .generation = {G1}, .lineage = &l[1], .nlineage = 1, .time_us = 5};
	struct ms_head h2 = {.number = 3, .epoch = 2, .owner = "b", .generation = {G2}, .lineage = l, .nlineage = 2, .settled_txid = 9};
	ms_inventory_init(&inv, 1);
	cr_assert_null(ms_inventory_newest_head(&inv));
	cr_assert_eq(ms_inventory_add_head(&inv, 0, &h1, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_inventory_add_head(&inv, 0, &h2, &err), MS_OK, "%s", err.msg);
	ms_inventory_seal(&inv);
	/* the epoch decides, not the number (heads of two replicas are numbered apart) */
	cr_assert_str_eq(ms_inventory_newest_head(&inv)->generation.s, G2);
	struct ms_inv_generation *g = ms_inventory_find(&inv, G2);
	cr_assert(g->lineage_known);
	cr_assert_str_eq(g->parent.s, G1);
	cr_assert_eq(g->fork_txid, 7);
	l[0].fork_txid = 8;
	cr_assert_eq(ms_inventory_add_head(&inv, 0, &h2, &err), MS_ECORRUPT);
	ms_inventory_release(&inv);
}

Test(inventory, header_and_name_must_agree) {
	struct ms_inv_segment live = {.first = 5, .last = MS_TXID_UNKNOWN, .nparts = 1};
	struct ms_inv_segment merged = {.first = 5, .last = 9, .first_us = 1, .last_us = 2, .flags = MS_SEG_MERGED, .nparts = 1};
	struct ms_segment_info i = {.generation = {G1}, .first_txid = 5, .last_txid = 8, .parent_txid = 4, .first_us = 1, .last_us = 2};
	struct ms_err err;
	cr_assert_eq(ms_inventory_probed(&merged, &i, &i, &err), MS_ECORRUPT);
	cr_assert_eq(ms_inventory_probed(&live, &i, &i, &err), MS_OK);
	cr_assert_eq(live.last, 8);
	cr_assert_eq(live.parent, 4);
	i.first_txid = 6;
	cr_assert_eq(ms_inventory_probed(&live, &i, &i, &err), MS_ECORRUPT);
}
