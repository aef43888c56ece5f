#include <string.h>
#include "fuzz/fuzz.h"
#include "replicas/aws_credentials.h"
#include "replicas/s3_xml.h"

/* Everything that a server's XML is decoded by. A page's keys and markers are terminated and within their bounds. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct ms_s3_page *page = calloc(1, sizeof *page);
	struct ms_s3_fault fault;
	struct ms_err err = MS_ERR_INIT;
	struct ms_aws_keys keys;
	char id[64];
	if (ms_s3_page_decode(data, size, page, &err) == MS_OK) {
		REQUIRE(page->n <= MS_S3_PAGE_MAX);
		for (unsigned i = 0; i < page->n; i++) {
			const char *upload = ms_s3_page_upload(page, i);
			REQUIRE(strlen(ms_s3_page_key(page, i)) <= MS_S3_KEY_MAX);
			REQUIRE(page->entries[i].size >= 0);
			REQUIRE(!upload || strlen(upload) <= 3 * MS_S3_KEY_MAX);
		}
		REQUIRE(memchr(page->token, 0, sizeof page->token) && memchr(page->key_marker, 0, sizeof page->key_marker));
		ms_s3_page_release(page);
	}
	ms_s3_fault_decode(data, size, &fault);
	REQUIRE(strlen(fault.code) < sizeof fault.code && strlen(fault.message) < sizeof fault.message);
	if (ms_s3_complete_decode(data, size, &fault))
		REQUIRE(fault.code[0] == '\0');
	if (ms_s3_upload_id_decode(data, size, id, sizeof id, &err) == MS_OK)
		REQUIRE(id[0] && memchr(id, 0, sizeof id));
	if (ms_aws_keys_decode_sts(data, size, &keys, &err) == MS_OK)
		REQUIRE(keys.access_key[0] && keys.secret_key[0] && keys.token[0]);
	free(page);
	return 0;
}
