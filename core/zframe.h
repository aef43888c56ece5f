/*
 * The zstd frames of this format (docs/formats.md "zstd frames"): magicless, frame header descriptor 0 (no content size, no
 * single segment, no checksum, no dictionary id). Internal to core.
 */
#ifndef MS_CORE_ZFRAME_H
#define MS_CORE_ZFRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True when p[0..n) is framed as exactly one such frame whose window is at most 2^max_window_log bytes. Walks block headers
 * only: libzstd's one-shot decoder would go on into concatenated, skippable and legacy frames, which are not part of the format. */
bool ms_zframe_single(const uint8_t *p, size_t n, unsigned max_window_log);

#endif
