#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "core/scan.h"

/* Reads everything that is left; versions[p] is the version that the scan has seen of page p. */
static void drain(struct ms_scan *s, const unsigned *now, unsigned *seen, uint32_t most) {
	uint32_t first, n;
	while ((n = ms_scan_next(s, most, &first))) {
		cr_assert(first >= 1 && first + n - 1 <= s->db_pages);
		for (uint32_t i = 0; i < n; i++)
			seen[first + i] = now[first + i];
	}
}

Test(scan, reads_every_page_once_when_nothing_changes) {
	struct ms_scan s;
	unsigned times[101] = {0};
	uint32_t first, n;
	cr_assert_eq(ms_scan_init(&s, 100, NULL), MS_OK);
	cr_assert_eq(ms_scan_left(&s), 100);
	while ((n = ms_scan_next(&s, 7, &first)))
		for (uint32_t i = 0; i < n; i++)
			times[first + i]++;
	for (int i = 1; i <= 100; i++)
		cr_assert_eq(times[i], 1);
	cr_assert(ms_scan_main_done(&s));
	ms_scan_release(&s);
}

Test(scan, only_pages_written_after_they_were_read_come_again) {
	struct ms_scan s;
	uint32_t first;
	cr_assert_eq(ms_scan_init(&s, 50, NULL), MS_OK);
	cr_assert_eq(ms_scan_next(&s, 20, &first), 20);
	ms_scan_mark(&s, 5);
	ms_scan_mark(&s, 6);
	ms_scan_mark(&s, 5);
	ms_scan_mark(&s, 30); /* not read yet */
	ms_scan_mark(&s, 0);
	cr_assert_eq(ms_scan_left(&s), 32);
	cr_assert_eq(ms_scan_next(&s, 100, &first), 30);
	cr_assert_eq(first, 21);
	cr_assert_eq(ms_scan_next(&s, 100, &first), 2);
	cr_assert_eq(first, 5);
	cr_assert_eq(ms_scan_next(&s, 100, &first), 0);
	ms_scan_release(&s);
}

/* A model database: random writes, growth and shrink between random reads; at the end every page was read at its last version. */
Test(scan, random_model) {
	for (unsigned seed = 1; seed <= 200; seed++) {
		struct ms_scan s;
		enum { MAX = 600 };
		unsigned now[MAX + 1] = {0}, seen[MAX + 1], version = 0;
		uint32_t pages = 1 + (uint32_t)(rand() % 300), first, n;
		srand(seed);
		memset(seen, 0xff, sizeof seen);
		cr_assert_eq(ms_scan_init(&s, pages, NULL), MS_OK);
		for (int step = 0; step < 100; step++) {
			switch (rand() % 5) {
			case 0: {
				uint32_t to = 1 + (uint32_t)(rand() % MAX);
				if (rand() % 3)
					break;
				for (uint32_t p = pages + 1; p <= to; p++) /* what comes into being is new */
					now[p] = ++version;
				pages = to;
				ms_scan_resize(&s, pages);
				break;
			}
			case 1:
			case 2:
				for (int k = rand() % 10; k; k--) {
					uint32_t p = 1 + (uint32_t)rand() % pages;
					now[p] = ++version;
					ms_scan_mark(&s, p);
				}
				break;
			default:
				n = ms_scan_next(&s, 1 + (uint32_t)(rand() % 40), &first);
				for (uint32_t i = 0; i < n; i++)
					seen[first + i] = now[first + i];
			}
		}
		drain(&s, now, seen, 13);
		cr_assert_eq(ms_scan_left(&s), 0);
		for (uint32_t p = 1; p <= pages; p++)
			cr_assert_eq(seen[p], now[p], "seed %u: page %u of %u was last read at version %u, it is %u", seed, p, pages, seen[p], now[p]);
		ms_scan_release(&s);
	}
}
