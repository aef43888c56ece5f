#include <string.h>
#include "core/codec.h"
#include "fuzz/fuzz.h"

/* Records one after the other; each page is decoded at two page sizes against a fixed base. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static struct ms_page_decoder *d;
	static uint8_t base[4096], out[4096];
	if (!d) {
		d = ms_page_decoder_new();
		for (size_t i = 0; i < sizeof base; i++)
			base[i] = (uint8_t)(i * 7);
	}
	size_t used;
	struct ms_record r;
	for (; size && !ms_record_parse(data, size, &r, &used, NULL); data += used, size -= used) {
		REQUIRE(used > 0 && used <= size && used <= MS_RECORD_MAX);
		if (r.type == MS_REC_COMMIT) {
			struct ms_buf b;
			ms_buf_init(&b, MS_RECORD_MAX);
			REQUIRE(!ms_commit_encode(&r.commit, &b, NULL));
			REQUIRE(b.len == used && !memcmp(b.data, data, used));
			ms_buf_release(&b);
			continue;
		}
		REQUIRE(r.page.data >= data && r.page.data + r.page.len == data + used);
		(void)!ms_page_decode(d, r.type, &r.page, 512, base, out, NULL);
		(void)!ms_page_decode(d, r.type, &r.page, 4096, base, out, NULL);
	}
	return 0;
}
