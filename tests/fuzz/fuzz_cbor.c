#include "core/cbor.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_cbor_doc d;
	if (ms_cbor_parse(data, size, &d, NULL))
		return 0;
	REQUIRE(d.count >= 1 && d.count <= size && d.count <= MS_CBOR_ITEMS_MAX && d.items[0].next == d.count);
	for (uint32_t i = 0; i < d.count; i++) {
		const struct ms_cbor_item *x = &d.items[i];
		REQUIRE(x->next > i && x->next <= d.count);
		if (x->type == MS_CBOR_BYTES || x->type == MS_CBOR_TEXT)
			REQUIRE(x->p >= data && x->n <= size && x->p + x->n <= data + size);
		if (x->type != MS_CBOR_ARRAY && x->type != MS_CBOR_MAP) {
			REQUIRE(x->next == i + 1);
			continue;
		}
		/* The children fill the container exactly. */
		uint32_t at = i + 1;
		for (uint64_t k = 0; k < (x->type == MS_CBOR_MAP ? 2 : 1) * x->u; k++) {
			REQUIRE(at < x->next);
			at = d.items[at].next;
		}
		REQUIRE(at == x->next);
	}
	uint64_t v;
	char text[32];
	for (uint64_t key = 0; key < 4; key++) {
		if (!ms_cbor_get_uint(&d, key, &v, NULL))
			REQUIRE(ms_cbor_get(&d, 0, key)->u == v);
		(void)!ms_cbor_get_text(&d, key, text, sizeof text, NULL);
	}
	ms_cbor_doc_release(&d);
	return 0;
}
