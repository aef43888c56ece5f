#include "cmd/version.h"

#include <cbor.h>
#include <curl/curl.h>
#include <jansson.h>
#include <libfyaml.h>
#include <libssh2.h>
#include <microhttpd.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <uv.h>
#include <zstd.h>

void ms_version_print(const char *program, FILE *out) {
	fprintf(out, "%s %s\n", program, MS_VERSION);
	fprintf(out, "  sqlite %s\n  zstd %s\n  libcbor %d.%d.%d\n  libuv %s\n", sqlite3_libversion(), ZSTD_versionString(), CBOR_MAJOR_VERSION,
		CBOR_MINOR_VERSION, CBOR_PATCH_VERSION, uv_version_string());
	fprintf(out, "  libcurl %s\n  %s\n  libssh2 %s\n  libfyaml %s\n  jansson %s\n  libmicrohttpd %s\n", curl_version_info(CURLVERSION_NOW)->version,
		OpenSSL_version(OPENSSL_VERSION), libssh2_version(0), fy_library_version(), jansson_version_str(), MHD_get_version());
}
