#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include "core/names.h"

#define G "0000002a-deadbeef"
static const struct {
	const char *text;
	struct ms_name name;
} known[] = {
	{"head/00000001", {.kind = MS_NAME_HEAD, .number = 1}},
	{"head/ffffffff", {.kind = MS_NAME_HEAD, .number = UINT32_MAX}},
	{G "/segments/000000000000000a.seg", {.kind = MS_NAME_SEGMENT, .generation = {G}, .first = 10}},
	{G "/segments/000000000000000a+0001.seg", {.kind = MS_NAME_SEGMENT_PART, .generation = {G}, .first = 10, .number = 1}},
	{G "/segments/0000000000000002-00000000000000ff-00000000000003e8-00061d8d7a3d4d00.seg",
	 {.kind = MS_NAME_MERGED, .generation = {G}, .first = 2, .last = 255, .first_us = 1000, .last_us = 0x00061d8d7a3d4d00}},
	{G "/snapshots/ffffffffffffffff-7fffffffffffffff.snap",
	 {.kind = MS_NAME_SNAPSHOT, .generation = {G}, .first = UINT64_MAX, .first_us = INT64_MAX}},
	{G "/chunks/00000001-0123456789abcdef", {.kind = MS_NAME_CHUNK, .generation = {G}, .number = 1, .hash = 0x0123456789abcdef}},
};
#define N (sizeof known / sizeof known[0])

Test(names, known_names_both_ways) {
	for (size_t i = 0; i < N; i++) {
		char s[MS_NAME_MAX];
		ms_name_format(&known[i].name, s);
		cr_assert_str_eq(s, known[i].text);
		struct ms_name n;
		memset(&n, 0xff, sizeof n);
		cr_assert(ms_name_parse(known[i].text, &n), "%s", known[i].text);
		const struct ms_name *w = &known[i].name;
		cr_assert_eq(n.kind, w->kind);
		cr_assert_str_eq(n.generation.s, w->generation.s);
		cr_assert(n.number == w->number && n.first == w->first && n.last == w->last && n.first_us == w->first_us &&
				  n.last_us == w->last_us && n.hash == w->hash,
			  "%s", known[i].text);
	}
}

Test(names, foreign) {
	static const char *const foreign[] = {
		"", "/", "head", "head/", "head/1", "head/0000001", "head/000000001", "head/00000000", "head/0000000A", "head/00000001/",
		"head/00000001.tmp", "Head/00000001", "x/head/00000001", "head//00000001", "head/0x000001", "head/-0000001",
		G, G "/", G "/segments", G "/segments/", G "/segments/.seg", G "/segments/000000000000000a", G "/segments/000000000000000a.se",
		G "/segments/000000000000000a.segx", G "/segments/000000000000000A.seg", G "/segments/00000000000000a.seg",
		G "/segments/0000000000000000.seg", G "/segments/000000000000000a+0000.seg", G "/segments/000000000000000a+001.seg",
		G "/segments/000000000000000a+00001.seg", G "/segments/000000000000000a-000000000000000b.seg",
		/* last before first; times out of order; a time past the signed range */
		G "/segments/00000000000000ff-0000000000000002-00000000000003e8-00000000000003e8.seg",
		G "/segments/0000000000000002-00000000000000ff-00000000000003e8-00000000000003e7.seg",
		G "/segments/0000000000000002-00000000000000ff-00000000000003e8-8000000000000000.seg",
		G "/snapshots/0000000000000001.snap", G "/snapshots/0000000000000001-0000000000000001", G "/snapshots/0000000000000000-0000000000000001.snap",
		G "/snapshots/0000000000000001-ffffffffffffffff.snap", G "/chunks/00000000-0123456789abcdef", G "/chunks/00000001-0123456789abcde",
		G "/chunks/00000001-0123456789abcdef0", G "/chunk/00000001-0123456789abcdef", "0000002A-deadbeef/segments/000000000000000a.seg",
		"0000002a_deadbeef/segments/000000000000000a.seg", "0000002adeadbeef0/segments/000000000000000a.seg",
		"../0000002a-deadbeef/segments/000000000000000a.seg", G "/../segments/000000000000000a.seg", " " G "/segments/000000000000000a.seg",
	};
	for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
		struct ms_name n = {.number = 4711};
		cr_assert(!ms_name_parse(foreign[i], &n), "'%s' taken for ours", foreign[i]);
		cr_assert_eq(n.number, 4711, "output touched for '%s'", foreign[i]);
	}
}

/* Whatever parses is exactly what we would have written: two names never mean the same object. */
Test(names, one_changed_character) {
	for (size_t i = 0; i < N; i++) {
		char s[MS_NAME_MAX], again[MS_NAME_MAX];
		size_t len = strlen(known[i].text);
		for (size_t at = 0; at < len; at++)
			for (int c = 1; c < 256; c++) {
				memcpy(s, known[i].text, len + 1);
				s[at] = (char)c;
				struct ms_name n;
				if (!ms_name_parse(s, &n))
					continue;
				ms_name_format(&n, again);
				cr_assert_str_eq(again, s);
			}
	}
}

Test(names, truncated) {
	for (size_t i = 0; i < N; i++)
		for (size_t len = strlen(known[i].text); len-- > 0;) {
			char *s = strndup(known[i].text, len); /* exact allocation: sanitizers see a read past the end */
			struct ms_name n;
			cr_assert(!ms_name_parse(s, &n), "%s", s);
			free(s);
		}
}

Test(names, generations) {
	struct ms_generation g;
	ms_generation_make(&g, 0x2a, 0xdeadbeef);
	cr_assert_str_eq(g.s, G);
	cr_assert(ms_generation_valid(g.s));
	cr_assert_eq(ms_generation_epoch(&g), 0x2a);
	static const char *const bad[] = {"", "0000002a-deadbee", "0000002a-deadbeef0", "0000002A-deadbeef", "0000002a+deadbeef", "0000002adeadbeefff",
					  "g000002a-deadbeef", "0000002a-deadbee "};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		cr_assert(!ms_generation_valid(bad[i]), "%s", bad[i]);
		struct ms_generation b = {""};
		strncpy(b.s, bad[i], sizeof b.s - 1);
		if (strlen(bad[i]) <= MS_GENERATION_LEN)
			cr_assert_eq(ms_generation_epoch(&b), 0);
	}
	cr_assert_eq(ms_lock_page(4096), 262145);
	cr_assert_eq(ms_lock_page(65536), 16385);
	cr_assert(ms_page_size_valid(512) && ms_page_size_valid(65536) && !ms_page_size_valid(256) && !ms_page_size_valid(131072) &&
		  !ms_page_size_valid(1000) && !ms_page_size_valid(0));
}
