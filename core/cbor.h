/*
 * CBOR maps with small integer keys, over libcbor's streaming encoder and decoder (never the convenience loader).
 * Encoding is canonical: definite lengths, shortest integers, keys ascending (the caller adds them in order).
 * Decoding: limits on depth (4), items (65,536) and string length (input size); duplicate keys, indefinite lengths, tags, floats,
 * keys that are neither integer nor string, text that is not UTF-8 and trailing bytes are errors; unknown keys are kept in the item
 * list and skipped by the caller. Any thread.
 */
#ifndef MS_CORE_CBOR_H
#define MS_CORE_CBOR_H

#include "base/buf.h"
#include "core/types.h"

#define MS_CBOR_DEPTH_MAX 4
#define MS_CBOR_ITEMS_MAX 65536u

enum ms_code ms_cbor_put_map(struct ms_buf *b, size_t pairs, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_cbor_put_array(struct ms_buf *b, size_t items, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_cbor_put_uint(struct ms_buf *b, uint64_t v, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_cbor_put_bytes(struct ms_buf *b, const void *p, size_t n, struct ms_err *err) MS_WARN_UNUSED;
/* MS_EINVAL when s is not UTF-8. */
enum ms_code ms_cbor_put_text(struct ms_buf *b, const char *s, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_cbor_put_bool(struct ms_buf *b, bool v, struct ms_err *err) MS_WARN_UNUSED;

enum ms_cbor_type { MS_CBOR_UINT, MS_CBOR_NINT, MS_CBOR_BYTES, MS_CBOR_TEXT, MS_CBOR_ARRAY, MS_CBOR_MAP, MS_CBOR_BOOL, MS_CBOR_NULL };

/* A parsed document: a flat array in document order; `next` is the index after the item and all its children. */
struct ms_cbor_item {
	enum ms_cbor_type type;
	uint64_t u;	  /* UINT value, NINT as -1-u, BOOL 0/1, ARRAY items, MAP pairs */
	const uint8_t *p; /* BYTES, TEXT: borrowed from the input, not terminated */
	size_t n;
	uint32_t next;
};
struct ms_cbor_doc {
	struct ms_cbor_item *items;
	uint32_t count;
};

/* Parses exactly one item that fills p[0..n). */
enum ms_code ms_cbor_parse(const uint8_t *p, size_t n, struct ms_cbor_doc *ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_cbor_doc_release(struct ms_cbor_doc *d);
/* Value of integer key `key` in the map at index `map`, NULL when absent. */
const struct ms_cbor_item *ms_cbor_get(const struct ms_cbor_doc *d, uint32_t map, uint64_t key);
/* Typed look-ups in the top-level map; MS_ECORRUPT names the key when it is absent or of another type. */
enum ms_code ms_cbor_get_uint(const struct ms_cbor_doc *d, uint64_t key, uint64_t *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Copies text into ret[cap], terminated; NUL bytes inside or too long: MS_ECORRUPT. */
enum ms_code ms_cbor_get_text(const struct ms_cbor_doc *d, uint64_t key, char *ret, size_t cap, struct ms_err *err) MS_WARN_UNUSED;
/* As ms_cbor_get_uint, with a bound, and the value to take when the key is absent (NULL: it must be there). */
enum ms_code ms_cbor_get_uint_max(const struct ms_cbor_doc *d, uint64_t key, uint64_t max, const uint64_t *absent, uint64_t *ret,
				  struct ms_err *err) MS_WARN_UNUSED;
/* A text that names a generation; absent gives the empty one where that is allowed. */
enum ms_code ms_cbor_get_generation(const struct ms_cbor_doc *d, uint64_t key, bool may_be_absent, struct ms_generation *ret,
				    struct ms_err *err) MS_WARN_UNUSED;
/* The same for an item inside an array. */
enum ms_code ms_cbor_item_text(const struct ms_cbor_item *item, char *ret, size_t cap, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_cbor_item_generation(const struct ms_cbor_item *item, bool may_be_empty, struct ms_generation *ret,
				     struct ms_err *err) MS_WARN_UNUSED;

#endif
