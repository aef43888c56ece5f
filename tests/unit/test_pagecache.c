/* The write-back cache and the page hashes against plain arrays, with random operations. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "restore/pagecache.h"
#include "restore/pagehash.h"
#include "support/tmpdir.h"

#define PAGE 512u
#define PAGES 200u

static struct ms_env *env_new(void) {
	struct ms_err err;
	unsigned lanes[MS_LANE_COUNT] = {0};
	struct ms_env *env = ms_env_uv_new(lanes, &err);
	cr_assert_not_null(env, "%s", err.msg);
	return env;
}

Test(pagecache, behaves_like_memory) {
	static const size_t sizes[] = {0, 20 * PAGE, 1000 * PAGE};
	struct ms_env *env = env_new();
	struct ms_err err;
	for (size_t k = 0; k < 3; k++) {
		static uint8_t model[PAGES + 1][PAGE];
		uint8_t page[PAGE];
		char *path = ms_test_path(ms_test_tmpdir(), "f");
		struct ms_file *f;
		struct ms_pagecache *c;
		uint32_t extent = PAGES;
		memset(model, 0, sizeof model);
		cr_assert_eq(env->ops->open(env, path, MS_O_RDWR | MS_O_CREATE, 0600, &f, &err), MS_OK, "%s", err.msg);
		cr_assert_eq(ms_pagecache_new(env, f, PAGE, sizes[k], &c, &err), MS_OK, "%s", err.msg);
		srand(7);
		for (int i = 0; i < 20000; i++) {
			uint32_t p = 1 + (uint32_t)rand() % extent;
			const uint8_t *got;
			if (rand() % 3 == 0) {
				memset(page, rand(), PAGE);
				memcpy(page, &i, sizeof i);
				cr_assert_eq(ms_pagecache_put(c, p, page, &err), MS_OK, "%s", err.msg);
				memcpy(model[p], page, PAGE);
			} else if (rand() % 500 == 0) {
				cr_assert_eq(ms_pagecache_flush(c, &err), MS_OK);
			} else {
				cr_assert_eq(ms_pagecache_get(c, p, &got, &err), MS_OK, "%s", err.msg);
				cr_assert_eq(memcmp(got, model[p], PAGE), 0, "page %u, step %d", p, i);
			}
		}
		/* what is dropped is not written */
		cr_assert_eq(ms_pagecache_flush(c, &err), MS_OK);
		memset(page, 0xee, PAGE);
		for (uint32_t p = 151; p <= PAGES; p++)
			cr_assert_eq(ms_pagecache_put(c, p, page, &err), MS_OK);
		uint64_t before = ms_pagecache_writes(c);
		ms_pagecache_drop_above(c, 150);
		cr_assert_eq(ms_pagecache_flush(c, &err), MS_OK);
		if (k == 2)
			cr_assert_eq(ms_pagecache_writes(c), before);
		ms_pagecache_free(c);
		for (uint32_t p = 1; p <= 150; p++) {
			size_t n;
			cr_assert_eq(env->ops->pread(f, page, PAGE, (int64_t)(p - 1) * PAGE, &n, &err), MS_OK);
			cr_assert(n == PAGE && memcmp(page, model[p], PAGE) == 0, "page %u", p);
		}
		env->ops->close(f);
		free(path);
	}
	ms_env_uv_free(env);
}

Test(pagecache, versions_of_a_page_cost_one_write) {
	struct ms_env *env = env_new();
	struct ms_err err;
	struct ms_file *f;
	struct ms_pagecache *c;
	uint8_t page[PAGE] = {0};
	char *path = ms_test_path(ms_test_tmpdir(), "f");
	cr_assert_eq(env->ops->open(env, path, MS_O_RDWR | MS_O_CREATE, 0600, &f, &err), MS_OK);
	cr_assert_eq(ms_pagecache_new(env, f, PAGE, 100 * PAGE, &c, &err), MS_OK);
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(ms_pagecache_put(c, 1 + (uint32_t)i % 50, page, &err), MS_OK);
	cr_assert_eq(ms_pagecache_flush(c, &err), MS_OK);
	cr_assert_eq(ms_pagecache_writes(c), 50);
	ms_pagecache_free(c);
	env->ops->close(f);
	ms_env_uv_free(env);
	free(path);
}

Test(pagehash, in_memory_and_spilled) {
	struct ms_env *env = env_new();
	struct ms_err err;
	for (int spill = 0; spill < 2; spill++) {
		char *path = ms_test_path(ms_test_tmpdir(), "h");
		static uint64_t model[3000], got[3000];
		struct ms_pagehash *h;
		struct ms_stat st;
		uint32_t pages = 100;
		memset(model, 0, sizeof model);
		cr_assert_eq(ms_pagehash_new(env, path, spill ? 1000 * 8 : 1 << 20, &h, &err), MS_OK);
		cr_assert_eq(ms_pagehash_reserve(h, pages, &err), MS_OK);
		srand(3);
		for (int i = 0; i < 3000; i++) {
			if (rand() % 20 == 0 && pages < 2900) {
				pages += (uint32_t)rand() % 100;
				cr_assert_eq(ms_pagehash_reserve(h, pages, &err), MS_OK, "%s", err.msg);
			}
			uint32_t first = 1 + (uint32_t)rand() % pages, n = 1 + (uint32_t)rand() % 40;
			if (n > pages - first + 1)
				n = pages - first + 1;
			for (uint32_t k = 0; k < n; k++)
				model[first - 1 + k] = (uint64_t)rand() << 32 | (uint64_t)rand();
			cr_assert_eq(ms_pagehash_set(h, first, n, model + first - 1, &err), MS_OK, "%s", err.msg);
			first = 1 + (uint32_t)rand() % pages;
			n = 1 + (uint32_t)rand() % 50; /* also beyond the end */
			if (first + n > 3000)
				n = 3000 - first;
			cr_assert_eq(ms_pagehash_get(h, first, n, got, &err), MS_OK);
			cr_assert_eq(memcmp(got, model + first - 1, n * 8), 0, "step %d", i);
		}
		cr_assert_eq(ms_pagehash_spilled(h), spill == 1);
		cr_assert_eq(ms_pagehash_set(h, pages, 2, got, &err), MS_EINVAL);
		cr_assert_eq(ms_pagehash_set(h, 0, 1, got, &err), MS_EINVAL);
		ms_pagehash_free(h);
		cr_assert_eq(env->ops->stat(env, path, &st, NULL), MS_ENOTFOUND);
		free(path);
	}
	ms_env_uv_free(env);
}
