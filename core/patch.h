/*
 * Patch: the bytes in which a page differs from its previous version (docs/formats.md "Records"). A run of
 *   varint equal bytes to keep | varint n | n bytes
 * until the end of the patch; the rest of the page is kept. B-tree pages change in a few places, so this is as small as a zstd delta for
 * a tenth of the time. Pure.
 */
#ifndef MS_CORE_PATCH_H
#define MS_CORE_PATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Writes the patch from base to page (n bytes each) into out; returns its length, 0 when it would pass cap (also when equal). */
size_t ms_patch_encode(const uint8_t *page, const uint8_t *base, size_t n, uint8_t *out, size_t cap);
/* out = base with the patch applied (n bytes, not aliasing base). False when the patch is malformed or leaves the page. */
bool ms_patch_decode(const uint8_t *patch, size_t len, const uint8_t *base, size_t n, uint8_t *out);

#endif
