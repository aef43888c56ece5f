/*
 * Bounded write-back cache of pages over the file being built: several versions of one page cost one write. One thread.
 * Memory: bytes given to new, rounded down to whole pages (at least 8).
 */
#ifndef MS_RESTORE_PAGECACHE_H
#define MS_RESTORE_PAGECACHE_H

#include "base/env.h"

struct ms_pagecache;
enum ms_code ms_pagecache_new(struct ms_env *env, struct ms_file *file, uint32_t page_size, size_t bytes, struct ms_pagecache **ret,
			      struct ms_err *err) MS_WARN_UNUSED;
void ms_pagecache_free(struct ms_pagecache *c); /* writes nothing; accepts NULL */
/* Current bytes of a page: cached, else read from the file (beyond its end: zeros). Valid until the next call. */
enum ms_code ms_pagecache_get(struct ms_pagecache *c, uint32_t pgno, const uint8_t **ret, struct ms_err *err) MS_WARN_UNUSED;
/* Replaces a page. */
enum ms_code ms_pagecache_put(struct ms_pagecache *c, uint32_t pgno, const uint8_t *page, struct ms_err *err) MS_WARN_UNUSED;
/* Forgets every page above pages, unwritten. */
void ms_pagecache_drop_above(struct ms_pagecache *c, uint32_t pages);
/* Writes everything dirty, in page order. */
enum ms_code ms_pagecache_flush(struct ms_pagecache *c, struct ms_err *err) MS_WARN_UNUSED;
uint64_t ms_pagecache_writes(const struct ms_pagecache *c); /* pages written so far */

#endif
