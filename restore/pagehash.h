/*
 * The hash of every page of the database being built: 8 bytes a page, in memory up to a bound, beyond it in a temporary file.
 * A page that was never set has hash 0. set_range of disjoint ranges may run on several threads at once after reserve();
 * everything else by one thread at a time.
 */
#ifndef MS_RESTORE_PAGEHASH_H
#define MS_RESTORE_PAGEHASH_H

#include "base/env.h"

struct ms_pagehash;
/* spill_path: file to create (0600, exclusive) when more than memory_max bytes are needed; removed by free. Copied. */
enum ms_code ms_pagehash_new(struct ms_env *env, const char *spill_path, size_t memory_max, struct ms_pagehash **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_pagehash_free(struct ms_pagehash *h); /* accepts NULL */
/* Makes room for pages 1..pages. */
enum ms_code ms_pagehash_reserve(struct ms_pagehash *h, uint32_t pages, struct ms_err *err) MS_WARN_UNUSED;
/* Hashes of pages first .. first+n-1; a page beyond what was reserved reads as 0. */
enum ms_code ms_pagehash_get(struct ms_pagehash *h, uint32_t first, uint32_t n, uint64_t *ret, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_pagehash_set(struct ms_pagehash *h, uint32_t first, uint32_t n, const uint64_t *v, struct ms_err *err) MS_WARN_UNUSED;
bool ms_pagehash_spilled(const struct ms_pagehash *h);

#endif
