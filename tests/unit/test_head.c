#include "core/cbor.h"
#include "core/head.h"
#include "unit/bytes.h"

static struct ms_lineage lineage[3] = {
	{{"00000003-00000003"}, {"00000002-00000002"}, 77, true}, {{"00000002-00000002"}, {"00000001-00000001"}, 5, false}, {{"00000001-00000001"}, {""}, 0, false}};
static char *removals[2] = {(char *)"00000001-00000001/segments/0000000000000001.seg", (char *)"x"};

static struct ms_head full_head(void) {
	return (struct ms_head){.number = 9, .epoch = 3, .owner = "owner-1", .host = "db.example", .generation = {"00000003-00000003"}, .lineage = lineage,
				.nlineage = 3, .time_us = 1700000000000000, .settled_txid = 123456, .removals = removals, .nremovals = 2,
				.remove_after_us = 1700000000000001};
}

static enum ms_code decode_head(const uint8_t *p, size_t n, struct ms_err *err) {
	struct ms_head h;
	enum ms_code rc = ms_head_decode(p, n, &h, err);
	if (!rc)
		ms_head_release(&h);
	return rc;
}
static enum ms_code decode_fence(const uint8_t *p, size_t n, struct ms_err *err) {
	struct ms_fence f;
	return ms_fence_decode(p, n, &f, err);
}

Test(head, round_trip) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	struct ms_head h = full_head(), g;
	OK(ms_head_encode(&h, &b, &err));
	OK(ms_head_decode(b.data, b.len, &g, &err));
	cr_assert(g.number == 9 && g.epoch == 3 && g.time_us == h.time_us && g.settled_txid == 123456 && g.remove_after_us == h.remove_after_us);
	cr_assert_str_eq(g.owner, "owner-1");
	cr_assert_str_eq(g.host, "db.example");
	cr_assert_str_eq(g.generation.s, "00000003-00000003");
	cr_assert(g.nlineage == 3 && g.nremovals == 2);
	for (int i = 0; i < 3; i++) {
		cr_assert_str_eq(g.lineage[i].generation.s, lineage[i].generation.s);
		cr_assert_str_eq(g.lineage[i].parent.s, lineage[i].parent.s);
		cr_assert_eq(g.lineage[i].fork_txid, lineage[i].fork_txid);
		cr_assert_eq(g.lineage[i].seeded, i == 0);
	}
	cr_assert_str_eq(g.removals[0], removals[0]);
	cr_assert_str_eq(g.removals[1], "x");
	ms_head_release(&g);
	cr_assert(!g.lineage && !g.removals && !g.nremovals);

	ms_buf_clear(&b);
	struct ms_head bare = {.number = 1, .generation = {"00000001-00000001"}};
	OK(ms_head_encode(&bare, &b, &err));
	OK(ms_head_decode(b.data, b.len, &g, &err));
	cr_assert(!g.nlineage && !g.nremovals && !g.owner[0] && !g.remove_after_us);
	ms_head_release(&g);
	int kind;
	OK(ms_artefact_kind_of(b.data, b.len, &kind, &err));
	cr_assert_eq(kind, MS_ART_HEAD);
	ms_buf_release(&b);
}

Test(head, every_bit_counts, .timeout = 120) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	struct ms_head h = full_head();
	OK(ms_head_encode(&h, &b, &err));
	damage_everywhere(decode_head, b.data, b.len);
	ms_buf_release(&b);
}

Test(head, contract) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	struct ms_head h;
#define REFUSED(change)                                                                                                                  \
	h = full_head();                                                                                                                 \
	change;                                                                                                                          \
	FAILS(MS_EINVAL, ms_head_encode(&h, &b, &err))
	REFUSED(h.number = 0);
	REFUSED(h.generation.s[0] = 'z');
	REFUSED(h.time_us = -1);
	REFUSED(h.nlineage = MS_LINEAGE_MAX + 1);
	REFUSED(h.nremovals = MS_REMOVALS_MAX + 1);
	REFUSED(h.lineage = lineage + 1; h.nlineage = 2);
	struct ms_lineage odd[1] = {{{"00000003-00000003"}, {""}, 0, true}}; /* a root is one anyway */
	REFUSED(h.lineage = odd; h.nlineage = 1);
	odd[0] = (struct ms_lineage){{"00000003-00000003"}, {"00000002-00000002"}, UINT64_MAX, true};
	REFUSED(h.lineage = odd; h.nlineage = 1);
	REFUSED(strcpy(h.owner, "\xff\xfe")); /* not UTF-8 */
	char *empty = (char *)"";
	REFUSED(h.removals = &empty; h.nremovals = 1);
	cr_assert_eq(b.len, 0);
	ms_buf_release(&b);
}

/* A later version may add keys; this one skips them. */
Test(head, unknown_keys_are_skipped) {
	struct ms_buf cbor, out;
	ms_buf_init(&cbor, 1 << 12), ms_buf_init(&out, 1 << 12);
	static const char *const owner = "o";
	OK(ms_cbor_put_map(&cbor, 6, &err));
	for (uint64_t k = 1; k <= 5; k++) {
		OK(ms_cbor_put_uint(&cbor, k, &err));
		if (k == 1 || k == 5)
			OK(ms_cbor_put_text(&cbor, owner, &err));
		else
			OK(ms_cbor_put_uint(&cbor, k + 100, &err));
	}
	OK(ms_cbor_put_uint(&cbor, 99, &err));
	OK(ms_cbor_put_array(&cbor, 1, &err));
	OK(ms_cbor_put_bool(&cbor, true, &err));
	struct ms_artefact_writer *w = ms_artefact_writer_new(MS_ART_FENCE, 1, &out);
	OK(ms_artefact_begin(w, cbor.data, cbor.len, &err));
	OK(ms_artefact_end(w, NULL, 0, &err));
	ms_artefact_writer_free(w);
	struct ms_fence f;
	OK(ms_fence_decode(out.data, out.len, &f, &err));
	cr_assert(f.epoch == 102 && f.head_number == 103 && f.time_us == 104);
	ms_buf_release(&cbor), ms_buf_release(&out);
}

Test(fence, round_trip_and_damage, .timeout = 120) {
	struct ms_buf b;
	ms_buf_init(&b, 1 << 16);
	struct ms_fence f = {.epoch = 7, .head_number = 11, .owner = "them", .host = "h", .time_us = 1700000000000000}, g;
	OK(ms_fence_encode(&f, &b, &err));
	OK(ms_fence_decode(b.data, b.len, &g, &err));
	cr_assert(g.epoch == 7 && g.head_number == 11 && g.time_us == f.time_us);
	cr_assert_str_eq(g.owner, "them");
	cr_assert_str_eq(g.host, "h");
	int kind;
	OK(ms_artefact_kind_of(b.data, b.len, &kind, &err));
	cr_assert_eq(kind, MS_ART_FENCE);
	FAILS(MS_ECORRUPT, decode_head(b.data, b.len, &err));
	damage_everywhere(decode_fence, b.data, b.len);
	ms_buf_release(&b);
}
