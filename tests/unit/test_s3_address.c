/* Where a bucket answers: addresses as the services document them. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/replica.h"
#include "replicas/s3_address.h"
#include "replicas/s3_xml.h"
#include "replicas/url.h"

static void setup(void) {
	struct ms_err err = MS_ERR_INIT;
	static const char *const off[] = {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"};
	for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
		unsetenv(off[i]);
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
}
TestSuite(s3_address, .init = setup);

static enum ms_code init(const char *url, struct ms_s3_address *a, struct ms_err *err) {
	struct ms_replica_spec spec = {0};
	*err = MS_ERR_INIT;
	cr_assert_eq(ms_url_parse(url, &spec, err), MS_OK, "%s: %s", url, err->msg);
	enum ms_code rc = ms_s3_address_init(a, &spec, NULL, err);
	ms_replica_spec_release(&spec);
	return rc;
}

/* The URL that the object a/b+c is asked for by, and the region that signs. */
static void expect(const char *url, const char *object, const char *region) {
	struct ms_s3_address a;
	struct ms_err err;
	struct ms_buf b;
	char host[600], key[MS_S3_KEY_MAX + 1];
	cr_assert_eq(init(url, &a, &err), MS_OK, "%s: %s", url, err.msg);
	ms_buf_init(&b, 4096);
	ms_s3_address_key(&a, "a/b+c", key);
	cr_assert_eq(ms_buf_printf(&b, &err, "http%s://%s", a.tls ? "s" : "", ms_s3_address_host(&a, host)), MS_OK);
	cr_assert_eq(ms_s3_address_path(&a, key, &b, &err), MS_OK);
	cr_assert_eq(ms_buf_u8(&b, 0, &err), MS_OK);
	cr_expect_str_eq((char *)b.data, object, "%s: %s", url, (char *)b.data);
	cr_expect_str_eq(a.region, region, "%s", url);
	ms_buf_release(&b);
}

Test(s3_address, services) {
	expect("s3://my-bucket", "https://my-bucket.s3.us-east-1.amazonaws.com/a/b%2Bc", "us-east-1");
	expect("s3://my-bucket/p/q?region=eu-west-1", "https://my-bucket.s3.eu-west-1.amazonaws.com/p/q/a/b%2Bc", "eu-west-1");
	expect("s3://my-bucket?region=cn-north-1", "https://my-bucket.s3.cn-north-1.amazonaws.com.cn/a/b%2Bc", "cn-north-1");
	/* A dot in the name is no label under the certificate, capitals are no host name. */
	expect("s3://my.bucket", "https://s3.us-east-1.amazonaws.com/my.bucket/a/b%2Bc", "us-east-1");
	expect("s3://Old_Bucket", "https://s3.us-east-1.amazonaws.com/Old_Bucket/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=https://s3.eu-central-1.amazonaws.com", "https://b-1.s3.eu-central-1.amazonaws.com/a/b%2Bc", "eu-central-1");
	expect("s3://b-1?endpoint=https://acc.r2.cloudflarestorage.com", "https://b-1.acc.r2.cloudflarestorage.com/a/b%2Bc", "auto");
	expect("s3://b-1?endpoint=https://s3.us-west-004.backblazeb2.com", "https://b-1.s3.us-west-004.backblazeb2.com/a/b%2Bc", "us-west-004");
	expect("s3://b-1?endpoint=nyc3.digitaloceanspaces.com", "https://b-1.nyc3.digitaloceanspaces.com/a/b%2Bc", "nyc3");
	expect("s3://b-1?endpoint=https://fsn1.your-objectstorage.com", "https://b-1.fsn1.your-objectstorage.com/a/b%2Bc", "fsn1");
	expect("s3://b-1?endpoint=https://fly.storage.tigris.dev", "https://b-1.fly.storage.tigris.dev/a/b%2Bc", "auto");
	expect("s3://b-1?endpoint=https://s3.fr-par.scw.cloud", "https://b-1.s3.fr-par.scw.cloud/a/b%2Bc", "fr-par");
}

Test(s3_address, own_servers) {
	expect("s3://b-1?endpoint=http://127.0.0.1:9000", "http://127.0.0.1:9000/b-1/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=https://127.0.0.1", "https://127.0.0.1/b-1/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=http://[::1]:9000", "http://[::1]:9000/b-1/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=http://minio:9000&region=here", "http://minio:9000/b-1/a/b%2Bc", "here");
	expect("s3://b-1?endpoint=http://minio", "http://minio/b-1/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=minio.example.com&insecure=true", "http://b-1.minio.example.com/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=minio.example.com&forcePathStyle=true", "https://minio.example.com/b-1/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=http://127.0.0.1:9000&forcePathStyle=false", "http://b-1.127.0.0.1:9000/a/b%2Bc", "us-east-1");
	/* The scheme's own port is left out of the Host header by HTTP libraries, and that header is signed. */
	expect("s3://b-1?endpoint=https://h.example.com:443", "https://b-1.h.example.com/a/b%2Bc", "us-east-1");
	expect("s3://b-1?endpoint=http://h.example.com:80/", "http://b-1.h.example.com/a/b%2Bc", "us-east-1");
	expect("s3://b-1/x?endpoint=https://h.example.com/gate/s3/&forcePathStyle=true", "https://h.example.com/gate/s3/b-1/x/a/b%2Bc", "us-east-1");
	expect("s3://b-1/env=prod/my app", "https://b-1.s3.us-east-1.amazonaws.com/env%3Dprod/my%20app/a/b%2Bc", "us-east-1");
}

Test(s3_address, environment) {
	setenv("AWS_DEFAULT_REGION", "eu-north-1", 1);
	expect("s3://b-1", "https://b-1.s3.eu-north-1.amazonaws.com/a/b%2Bc", "eu-north-1");
	setenv("AWS_REGION", "eu-south-1", 1);
	expect("s3://b-1", "https://b-1.s3.eu-south-1.amazonaws.com/a/b%2Bc", "eu-south-1");
	expect("s3://b-1?region=us-west-2", "https://b-1.s3.us-west-2.amazonaws.com/a/b%2Bc", "us-west-2");
	/* What the endpoint's own name says goes before. */
	expect("s3://b-1?endpoint=https://acc.r2.cloudflarestorage.com", "https://b-1.acc.r2.cloudflarestorage.com/a/b%2Bc", "auto");
	expect("s3://b-1?endpoint=https://minio.example.com", "https://b-1.minio.example.com/a/b%2Bc", "eu-south-1");
	setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1", 1);
	expect("s3://b-1?region=x", "http://127.0.0.1:1/b-1/a/b%2Bc", "x");
	setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2", 1);
	expect("s3://b-1?region=x", "http://127.0.0.1:2/b-1/a/b%2Bc", "x");
	expect("s3://b-1?region=x&endpoint=http://127.0.0.1:3", "http://127.0.0.1:3/b-1/a/b%2Bc", "x");
}

Test(s3_address, refused) {
	static const char *const bad[] = {"s3://b%2Fc",
					  "s3://b?endpoint=ftp://h",
					  "s3://b?endpoint=http://u@h",
					  "s3://b?endpoint=http://",
					  "s3://b?endpoint=https://h&insecure=true",
					  "s3://b?insecure=true",
					  "s3://b?region=eu/west",
					  "s3://b/p/../q",
					  "s3://b/p//q",
					  "s3://b/./q",
					  "s3://b/p%0Aq",
					  "s3://b/p%5Cq"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct ms_s3_address a;
		struct ms_err err;
		cr_expect_eq(init(bad[i], &a, &err), MS_EUSAGE, "%s", bad[i]);
	}
}

Test(s3_address, another_region) {
	struct ms_s3_address a;
	struct ms_err err;
	cr_assert_eq(init("s3://b-1", &a, &err), MS_OK);
	cr_expect(!ms_s3_address_region(&a, "us-east-1"));
	cr_expect(!ms_s3_address_region(&a, ""));
	cr_expect(!ms_s3_address_region(&a, "evil.example.com/"));
	cr_expect(ms_s3_address_region(&a, "ap-south-1"));
	cr_expect_str_eq(a.host, "s3.ap-south-1.amazonaws.com");
	/* Elsewhere only the signature follows. */
	cr_assert_eq(init("s3://b-1?endpoint=http://127.0.0.1:9000", &a, &err), MS_OK);
	cr_expect(ms_s3_address_region(&a, "ap-south-1"));
	cr_expect_str_eq(a.host, "127.0.0.1:9000");
}
