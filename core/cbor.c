/*
 * Decoding walks the input once with libcbor's streaming decoder and a fixed stack of open containers. The item array grows with
 * the input only: a container that claims more items than bytes are left is refused before anything is reserved for it.
 */
#include "core/cbor.h"

#include <cbor.h>
#include <inttypes.h>
#include <stdlib.h>

/* libcbor's encoders never write more than this for a head. */
#define HEAD_MAX 9

static enum ms_code put(struct ms_buf *b, const uint8_t *head, size_t n, const void *p, size_t len, struct ms_err *err) {
	enum ms_code rc = ms_buf_reserve(b, n + len, err);
	if (rc)
		return rc;
	memcpy(b->data + b->len, head, n);
	if (len)
		memcpy(b->data + b->len + n, p, len);
	b->len += n + len;
	return MS_OK;
}

enum ms_code ms_cbor_put_map(struct ms_buf *b, size_t pairs, struct ms_err *err) {
	uint8_t h[HEAD_MAX];
	return put(b, h, cbor_encode_map_start(pairs, h, sizeof h), NULL, 0, err);
}

enum ms_code ms_cbor_put_array(struct ms_buf *b, size_t items, struct ms_err *err) {
	uint8_t h[HEAD_MAX];
	return put(b, h, cbor_encode_array_start(items, h, sizeof h), NULL, 0, err);
}

enum ms_code ms_cbor_put_uint(struct ms_buf *b, uint64_t v, struct ms_err *err) {
	uint8_t h[HEAD_MAX];
	return put(b, h, cbor_encode_uint(v, h, sizeof h), NULL, 0, err);
}

enum ms_code ms_cbor_put_bytes(struct ms_buf *b, const void *p, size_t n, struct ms_err *err) {
	uint8_t h[HEAD_MAX];
	return put(b, h, cbor_encode_bytestring_start(n, h, sizeof h), p, n, err);
}

/* RFC 3629: no over-long forms, no surrogates, nothing above U+10FFFF. */
static bool utf8_valid(const uint8_t *p, size_t n) {
	for (size_t i = 0; i < n;) {
		uint8_t c = p[i];
		size_t more = c < 0x80 ? 0 : c >= 0xc2 && c <= 0xdf ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c <= 0xf4 ? 3 : 4;
		if (more == 4 || more > n - i - 1)
			return false;
		for (size_t k = 1; k <= more; k++)
			if ((p[i + k] & 0xc0) != 0x80)
				return false;
		if ((c == 0xe0 && p[i + 1] < 0xa0) || (c == 0xed && p[i + 1] > 0x9f) || (c == 0xf0 && p[i + 1] < 0x90) ||
		    (c == 0xf4 && p[i + 1] > 0x8f))
			return false;
		i += more + 1;
	}
	return true;
}

enum ms_code ms_cbor_put_text(struct ms_buf *b, const char *s, struct ms_err *err) {
	size_t n = strlen(s);
	if (!utf8_valid((const uint8_t *)s, n))
		return ms_err_set(err, MS_EINVAL, "text is not UTF-8");
	uint8_t h[HEAD_MAX];
	return put(b, h, cbor_encode_string_start(n, h, sizeof h), s, n, err);
}

enum ms_code ms_cbor_put_bool(struct ms_buf *b, bool v, struct ms_err *err) {
	uint8_t h[HEAD_MAX];
	return put(b, h, cbor_encode_bool(v, h, sizeof h), NULL, 0, err);
}

struct open_item {
	uint32_t item;
	uint64_t left; /* children still to come; a map's pairs count twice */
};

struct parser {
	struct ms_cbor_item *items;
	uint32_t count, cap;
	struct open_item stack[MS_CBOR_DEPTH_MAX];
	unsigned depth;
	size_t left; /* input bytes after the current item's head */
	enum ms_code rc;
	struct ms_err *err;
};

static void fail(struct parser *s, enum ms_code code, const char *what) {
	if (!s->rc)
		s->rc = ms_err_set(s->err, code, "CBOR: %s", what);
}

/* Appends an item; children: how many items follow inside it. */
static void add(struct parser *s, struct ms_cbor_item item, uint64_t children) {
	if (s->rc)
		return;
	if (s->count == MS_CBOR_ITEMS_MAX) {
		fail(s, MS_ECORRUPT, "more items than allowed");
		return;
	}
	if (s->count == s->cap) {
		uint32_t cap = s->cap ? s->cap * 2 : 32;
		struct ms_cbor_item *p = realloc(s->items, cap * sizeof *p);
		if (!p) {
			fail(s, MS_ENOMEM, "no memory");
			return;
		}
		s->items = p, s->cap = cap;
	}
	uint32_t at = s->count++;
	s->items[at] = item;
	s->items[at].next = s->count;
	if (s->depth)
		s->stack[s->depth - 1].left--;
	if (item.type == MS_CBOR_ARRAY || item.type == MS_CBOR_MAP) {
		if (s->depth == MS_CBOR_DEPTH_MAX) {
			fail(s, MS_ECORRUPT, "nested too deeply");
			return;
		}
		s->stack[s->depth++] = (struct open_item){at, children};
	}
	while (s->depth && !s->stack[s->depth - 1].left)
		s->items[s->stack[--s->depth].item].next = s->count;
}

static void on_uint(void *ctx, uint64_t v) { add(ctx, (struct ms_cbor_item){.type = MS_CBOR_UINT, .u = v}, 0); }
static void on_uint8(void *ctx, uint8_t v) { on_uint(ctx, v); }
static void on_uint16(void *ctx, uint16_t v) { on_uint(ctx, v); }
static void on_uint32(void *ctx, uint32_t v) { on_uint(ctx, v); }
static void on_nint(void *ctx, uint64_t v) { add(ctx, (struct ms_cbor_item){.type = MS_CBOR_NINT, .u = v}, 0); }
static void on_nint8(void *ctx, uint8_t v) { on_nint(ctx, v); }
static void on_nint16(void *ctx, uint16_t v) { on_nint(ctx, v); }
static void on_nint32(void *ctx, uint32_t v) { on_nint(ctx, v); }
static void on_bool(void *ctx, bool v) { add(ctx, (struct ms_cbor_item){.type = MS_CBOR_BOOL, .u = v}, 0); }
static void on_null(void *ctx) { add(ctx, (struct ms_cbor_item){.type = MS_CBOR_NULL}, 0); }

static void on_bytes(void *ctx, cbor_data p, size_t n) {
	add(ctx, (struct ms_cbor_item){.type = MS_CBOR_BYTES, .p = p, .n = n}, 0);
}

static void on_text(void *ctx, cbor_data p, size_t n) {
	if (!utf8_valid(p, n))
		fail(ctx, MS_ECORRUPT, "text is not UTF-8");
	add(ctx, (struct ms_cbor_item){.type = MS_CBOR_TEXT, .p = p, .n = n}, 0);
}

static void on_array(void *ctx, size_t n) {
	struct parser *s = ctx;
	if (n > s->left) /* every item takes a byte at least */
		fail(s, MS_ECORRUPT, "array longer than the input");
	add(s, (struct ms_cbor_item){.type = MS_CBOR_ARRAY, .u = n}, n);
}

static void on_map(void *ctx, size_t pairs) {
	struct parser *s = ctx;
	if (pairs > s->left / 2)
		fail(s, MS_ECORRUPT, "map longer than the input");
	add(s, (struct ms_cbor_item){.type = MS_CBOR_MAP, .u = pairs}, 2ull * pairs);
}

static void refuse(void *ctx) { fail(ctx, MS_ECORRUPT, "an indefinite length or a stray break"); }
static void refuse_undefined(void *ctx) { fail(ctx, MS_ECORRUPT, "undefined value"); }
static void refuse_float(void *ctx, float v) {
	(void)v;
	fail(ctx, MS_ECORRUPT, "floating-point value");
}
static void refuse_double(void *ctx, double v) { refuse_float(ctx, (float)v); }
static void refuse_tag(void *ctx, uint64_t tag) {
	(void)tag;
	fail(ctx, MS_ECORRUPT, "tag");
}

static const struct cbor_callbacks callbacks = {
	.uint8 = on_uint8,
	.uint16 = on_uint16,
	.uint32 = on_uint32,
	.uint64 = on_uint,
	.negint8 = on_nint8,
	.negint16 = on_nint16,
	.negint32 = on_nint32,
	.negint64 = on_nint,
	.byte_string = on_bytes,
	.byte_string_start = refuse,
	.string = on_text,
	.string_start = refuse,
	.array_start = on_array,
	.indef_array_start = refuse,
	.map_start = on_map,
	.indef_map_start = refuse,
	.tag = refuse_tag,
	.float2 = refuse_float,
	.float4 = refuse_float,
	.float8 = refuse_double,
	.undefined = refuse_undefined,
	.null = on_null,
	.boolean = on_bool,
	.indef_break = refuse,
};

static int compare_keys(const struct ms_cbor_item *a, const struct ms_cbor_item *b) {
	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	if (a->type == MS_CBOR_UINT || a->type == MS_CBOR_NINT)
		return a->u < b->u ? -1 : a->u > b->u;
	if (a->n != b->n)
		return a->n < b->n ? -1 : 1;
	return a->n ? memcmp(a->p, b->p, a->n) : 0;
}

static int compare_key_pointers(const void *a, const void *b) {
	return compare_keys(*(const struct ms_cbor_item *const *)a, *(const struct ms_cbor_item *const *)b);
}

/* Keys in ascending order, as we write them, cost one pass; others are sorted to find a duplicate. */
static void check_map(struct parser *s, uint32_t map) {
	const struct ms_cbor_item *m = &s->items[map], *last = NULL;
	bool ascending = true;
	uint32_t i = map + 1;
	for (uint64_t k = 0; k < m->u; k++) {
		const struct ms_cbor_item *key = &s->items[i];
		if (key->type > MS_CBOR_TEXT) {
			fail(s, MS_ECORRUPT, "map key is neither an integer nor a string");
			return;
		}
		if (last && compare_keys(last, key) >= 0)
			ascending = false;
		last = key;
		i = s->items[key->next].next;
	}
	if (ascending)
		return;
	const struct ms_cbor_item **keys = malloc((size_t)m->u * sizeof *keys);
	if (!keys) {
		fail(s, MS_ENOMEM, "no memory");
		return;
	}
	i = map + 1;
	for (uint64_t k = 0; k < m->u; k++) {
		keys[k] = &s->items[i];
		i = s->items[keys[k]->next].next;
	}
	qsort(keys, (size_t)m->u, sizeof *keys, compare_key_pointers);
	for (uint64_t k = 1; k < m->u; k++)
		if (!compare_keys(keys[k - 1], keys[k]))
			fail(s, MS_ECORRUPT, "duplicate key");
	free(keys);
}

enum ms_code ms_cbor_parse(const uint8_t *p, size_t n, struct ms_cbor_doc *ret, struct ms_err *err) {
	struct parser s = {.err = err};
	size_t at = 0;
	do {
		/* The claim of a container is held against what is left after its own head, which takes a byte at least. */
		s.left = n > at ? n - at - 1 : 0;
		struct cbor_decoder_result r = cbor_stream_decode(p + at, n - at, &callbacks, &s);
		if (r.status != CBOR_DECODER_FINISHED || !r.read) {
			if (!s.rc)
				s.rc = ms_err_set(err, MS_ECORRUPT, "CBOR: %s at byte %zu",
						  r.status == CBOR_DECODER_NEDATA ? "cut short" : "not an item", at);
		} else
			at += r.read;
	} while (!s.rc && s.depth);
	if (!s.rc && at != n)
		s.rc = ms_err_set(err, MS_ECORRUPT, "CBOR: %zu bytes after the item", n - at);
	for (uint32_t i = 0; !s.rc && i < s.count; i++)
		if (s.items[i].type == MS_CBOR_MAP)
			check_map(&s, i);
	if (s.rc) {
		free(s.items);
		return s.rc;
	}
	*ret = (struct ms_cbor_doc){s.items, s.count};
	return MS_OK;
}

void ms_cbor_doc_release(struct ms_cbor_doc *d) {
	free(d->items);
	*d = (struct ms_cbor_doc){NULL, 0};
}

const struct ms_cbor_item *ms_cbor_get(const struct ms_cbor_doc *d, uint32_t map, uint64_t key) {
	if (map >= d->count || d->items[map].type != MS_CBOR_MAP)
		return NULL;
	uint32_t i = map + 1;
	for (uint64_t k = 0; k < d->items[map].u; k++) {
		const struct ms_cbor_item *item = &d->items[i];
		if (item->type == MS_CBOR_UINT && item->u == key)
			return &d->items[item->next];
		i = d->items[item->next].next;
	}
	return NULL;
}

static enum ms_code wrong(uint64_t key, const struct ms_cbor_item *item, const char *wanted, struct ms_err *err) {
	return ms_err_set(err, MS_ECORRUPT, "header: key %" PRIu64 " is %s (%s)", key, item ? "of another type, or out of range" : "missing",
			  wanted);
}

enum ms_code ms_cbor_get_uint(const struct ms_cbor_doc *d, uint64_t key, uint64_t *ret, struct ms_err *err) {
	const struct ms_cbor_item *item = ms_cbor_get(d, 0, key);
	if (!item || item->type != MS_CBOR_UINT)
		return wrong(key, item, "integer", err);
	*ret = item->u;
	return MS_OK;
}

enum ms_code ms_cbor_get_uint_max(const struct ms_cbor_doc *d, uint64_t key, uint64_t max, const uint64_t *absent, uint64_t *ret,
				  struct ms_err *err) {
	const struct ms_cbor_item *item = ms_cbor_get(d, 0, key);
	if (!item && absent) {
		*ret = *absent;
		return MS_OK;
	}
	if (!item || item->type != MS_CBOR_UINT || item->u > max)
		return wrong(key, item, "integer", err);
	*ret = item->u;
	return MS_OK;
}

enum ms_code ms_cbor_item_text(const struct ms_cbor_item *item, char *ret, size_t cap, struct ms_err *err) {
	if (item->type != MS_CBOR_TEXT || item->n >= cap || (item->n && memchr(item->p, 0, item->n)))
		return ms_err_set(err, MS_ECORRUPT, "header: not a text of less than %zu bytes", cap);
	if (item->n)
		memcpy(ret, item->p, item->n);
	ret[item->n] = '\0';
	return MS_OK;
}

enum ms_code ms_cbor_get_text(const struct ms_cbor_doc *d, uint64_t key, char *ret, size_t cap, struct ms_err *err) {
	const struct ms_cbor_item *item = ms_cbor_get(d, 0, key);
	if (!item || item->type != MS_CBOR_TEXT)
		return wrong(key, item, "text", err);
	enum ms_code rc = ms_cbor_item_text(item, ret, cap, NULL);
	return rc ? wrong(key, item, "text", err) : MS_OK;
}

enum ms_code ms_cbor_item_generation(const struct ms_cbor_item *item, bool may_be_empty, struct ms_generation *ret, struct ms_err *err) {
	struct ms_generation g;
	enum ms_code rc = ms_cbor_item_text(item, g.s, sizeof g.s, NULL);
	if (rc || !(ms_generation_valid(g.s) || (may_be_empty && !g.s[0])))
		return ms_err_set(err, MS_ECORRUPT, "header: not a generation");
	*ret = g;
	return MS_OK;
}

enum ms_code ms_cbor_get_generation(const struct ms_cbor_doc *d, uint64_t key, bool may_be_absent, struct ms_generation *ret,
				    struct ms_err *err) {
	const struct ms_cbor_item *item = ms_cbor_get(d, 0, key);
	if (!item && may_be_absent) {
		ret->s[0] = '\0';
		return MS_OK;
	}
	if (!item || ms_cbor_item_generation(item, false, ret, NULL))
		return wrong(key, item, "generation", err);
	return MS_OK;
}
