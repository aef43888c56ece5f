#include <criterion/criterion.h>
#include <stdlib.h>

#include "sources/page_map.h"

Test(page_map, newest_frame_of_each_page) {
	struct ms_page_map m = {0};
	struct ms_err err = MS_ERR_INIT;
	static uint32_t model[5001];
	cr_assert_eq(ms_page_map_get(&m, 1), 0);
	srand(3);
	for (int round = 0; round < 4; round++) {
		for (uint32_t frame = 1; frame <= 20000; frame++) {
			uint32_t pgno = 1 + (uint32_t)rand() % 5000;
			cr_assert_eq(ms_page_map_reserve(&m, 1, &err), MS_OK);
			ms_page_map_put(&m, pgno, frame);
			model[pgno] = frame;
		}
		uint32_t live = 0;
		for (uint32_t p = 1; p <= 5000; p++) {
			cr_assert_eq(ms_page_map_get(&m, p), model[p]);
			live += model[p] != 0;
		}
		cr_assert_eq(m.used, live);
		cr_assert_leq(m.used * 2, m.mask + 1);
		ms_page_map_clear(&m);
		for (uint32_t p = 1; p <= 5000; p++) {
			cr_assert_eq(ms_page_map_get(&m, p), 0);
			model[p] = 0;
		}
	}
	ms_page_map_release(&m);
	cr_assert_eq(ms_page_map_get(&m, 1), 0);
}

Test(page_map, clear_survives_the_epoch_coming_round) {
	struct ms_page_map m = {0};
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_page_map_reserve(&m, 10, &err), MS_OK);
	ms_page_map_put(&m, 7, 70);
	m.epoch = UINT32_MAX; /* as after four thousand million clears */
	ms_page_map_put(&m, 9, 90);
	ms_page_map_clear(&m);
	cr_assert_eq(ms_page_map_get(&m, 7), 0);
	cr_assert_eq(ms_page_map_get(&m, 9), 0);
	ms_page_map_put(&m, 9, 91);
	cr_assert_eq(ms_page_map_get(&m, 9), 91);
	ms_page_map_release(&m);
}
