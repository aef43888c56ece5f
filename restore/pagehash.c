#include "restore/pagehash.h"

#include <stdlib.h>
#include <string.h>

struct ms_pagehash {
	struct ms_env *env;
	char *path;
	size_t memory_max;
	uint32_t pages; /* reserved */
	uint64_t *mem;
	size_t cap; /* entries of mem */
	struct ms_file *file; /* set once spilled */
};

enum ms_code ms_pagehash_new(struct ms_env *env, const char *spill_path, size_t memory_max, struct ms_pagehash **ret, struct ms_err *err) {
	struct ms_pagehash *h = calloc(1, sizeof *h);
	if (h)
		h->path = strdup(spill_path);
	if (!h || !h->path) {
		free(h);
		return ms_err_set(err, MS_ENOMEM, "out of memory for page hashes");
	}
	h->env = env;
	h->memory_max = memory_max;
	*ret = h;
	return MS_OK;
}

void ms_pagehash_free(struct ms_pagehash *h) {
	if (!h)
		return;
	if (h->file) {
		h->env->ops->close(h->file);
		(void)h->env->ops->unlink(h->env, h->path, NULL);
	}
	free(h->mem);
	free(h->path);
	free(h);
}

static enum ms_code spill(struct ms_pagehash *h, struct ms_err *err) {
	struct ms_file *f = NULL;
	enum ms_code rc = h->env->ops->open(h->env, h->path, MS_O_RDWR | MS_O_CREATE | MS_O_EXCL | MS_O_NOFOLLOW, 0600, &f, err);
	if (!rc && h->pages)
		rc = h->env->ops->pwrite(f, h->mem, (size_t)h->pages * 8, 0, err);
	if (rc) {
		h->env->ops->close(f);
		if (f)
			(void)h->env->ops->unlink(h->env, h->path, NULL);
		return rc;
	}
	h->file = f;
	free(h->mem);
	h->mem = NULL;
	h->cap = 0;
	return MS_OK;
}

enum ms_code ms_pagehash_reserve(struct ms_pagehash *h, uint32_t pages, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	if (pages <= h->pages)
		return MS_OK;
	if (!h->file && pages > h->memory_max / 8)
		rc = spill(h, err);
	if (!rc && !h->file && pages > h->cap) {
		size_t cap = h->cap + h->cap / 2;
		if (cap < pages)
			cap = pages;
		if (cap > h->memory_max / 8)
			cap = h->memory_max / 8;
		uint64_t *p = realloc(h->mem, cap * 8);
		if (!p)
			return ms_err_set(err, MS_ENOMEM, "out of memory for the hashes of %u pages", pages);
		h->mem = p;
		h->cap = cap;
	}
	if (!rc && !h->file)
		memset(h->mem + h->pages, 0, ((size_t)pages - h->pages) * 8);
	if (!rc)
		h->pages = pages; /* in the file, what was never written reads as zeros or ends early */
	return rc;
}

enum ms_code ms_pagehash_get(struct ms_pagehash *h, uint32_t first, uint32_t n, uint64_t *ret, struct ms_err *err) {
	uint32_t have = first > h->pages ? 0 : h->pages - first + 1;
	size_t got = 0;
	enum ms_code rc = MS_OK;
	if (have > n)
		have = n;
	if (have && h->file)
		rc = h->env->ops->pread(h->file, ret, (size_t)have * 8, ((int64_t)first - 1) * 8, &got, err);
	else if (have)
		memcpy(ret, h->mem + first - 1, got = (size_t)have * 8);
	memset((uint8_t *)ret + got, 0, (size_t)n * 8 - got);
	return rc;
}

enum ms_code ms_pagehash_set(struct ms_pagehash *h, uint32_t first, uint32_t n, const uint64_t *v, struct ms_err *err) {
	if (first < 1 || n > h->pages || first > h->pages - n + 1)
		return ms_err_set(err, MS_EINVAL, "hashes of pages %u+%u of %u", first, n, h->pages);
	if (h->file)
		return h->env->ops->pwrite(h->file, v, (size_t)n * 8, ((int64_t)first - 1) * 8, err);
	memcpy(h->mem + first - 1, v, (size_t)n * 8);
	return MS_OK;
}

bool ms_pagehash_spilled(const struct ms_pagehash *h) { return h->file != NULL; }
