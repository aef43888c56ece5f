#include <string.h>
#include "core/head.h"
#include "fuzz/wrap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_buf b, again;
	ms_buf_init(&b, 8 << 20), ms_buf_init(&again, 8 << 20);
	struct ms_head h, h2;
	if (wrap(MS_ART_HEAD, data, size, &b) && !ms_head_decode(b.data, b.len, &h, NULL)) {
		REQUIRE(!ms_head_encode(&h, &again, NULL) && !ms_head_decode(again.data, again.len, &h2, NULL));
		REQUIRE(h.number == h2.number && h.nlineage == h2.nlineage && h.nremovals == h2.nremovals && !strcmp(h.owner, h2.owner) &&
			h.remove_after_us == h2.remove_after_us);
		ms_head_release(&h), ms_head_release(&h2);
	}
	struct ms_fence f;
	b.len = 0;
	if (wrap(MS_ART_FENCE, data, size, &b) && !ms_fence_decode(b.data, b.len, &f, NULL)) {
		again.len = 0;
		REQUIRE(!ms_fence_encode(&f, &again, NULL));
	}
	int kind;
	(void)!ms_artefact_kind_of(data, size, &kind, NULL);
	ms_buf_release(&b), ms_buf_release(&again);
	return 0;
}
