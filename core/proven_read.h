/* Reading pages of a database at the captured position and proving each by its page sum. Source job. */
#ifndef MS_CORE_PROVEN_READ_H
#define MS_CORE_PROVEN_READ_H

#include "core/capture.h"

/* count pages from `first` into out. MS_EBUSY: not pinned now, step first. MS_ECORRUPT: a page is not what was captured. The lock page is zeros. */
enum ms_code ms_proven_read(struct ms_capture *cap, struct ms_source *src, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err) MS_WARN_UNUSED;

#endif
