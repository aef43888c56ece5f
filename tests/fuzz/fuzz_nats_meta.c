#include <string.h>
#include "fuzz/fuzz.h"
#include "replicas/nats_meta.h"

/* Metadata, and a subject, as a foreign client could have written them. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_nats_meta m, again;
	struct ms_err err = MS_ERR_INIT;
	if (ms_nats_meta_decode(data, size, &m, &err) == MS_OK) {
		uint64_t sum = 0;
		for (unsigned i = 0; i < m.nruns; i++)
			sum += m.runs[i].count;
		REQUIRE(m.nruns == 0 || sum == m.chunks);
		REQUIRE(m.nruns <= MS_NATS_RUNS && ms_nats_runs_at(&m, m.chunks) == 0);
		struct ms_buf b;
		ms_buf_init(&b, 2 * MS_NATS_META_MAX);
		if (!m.deleted && !m.link) {
			REQUIRE(ms_nats_meta_encode(&m, &b, &err) == MS_OK);
			REQUIRE(ms_nats_meta_decode(b.data, b.len, &again, &err) == MS_OK);
			REQUIRE(strcmp(m.name, again.name) == 0 && m.size == again.size && m.chunks == again.chunks && m.nruns == again.nruns);
		}
		ms_buf_release(&b);
	}
	char *s = malloc(size + 8), name[MS_NATS_FULL_NAME_MAX + 1], back[MS_NATS_SUBJECT_MAX];
	memcpy(s, "$O.b.M.", 7);
	memcpy(s + 7, data, size);
	s[7 + size] = '\0';
	if (ms_nats_meta_subject_name("b", s, name)) {
		ms_nats_meta_subject("b", name, back);
		REQUIRE(strlen(name) > 0 && strncmp(back, "$O.b.M.", 7) == 0);
	}
	free(s);
	return 0;
}
