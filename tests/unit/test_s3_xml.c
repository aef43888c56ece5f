/* Answers as the S3 API Reference shows them, and what a hostile or broken server may send. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/s3_xml.h"
#include "replicas/xml.h"

static struct ms_s3_page page;
static struct ms_err err;

static enum ms_code decode(const char *text) {
	memset(&page, 0, sizeof page);
	return ms_s3_page_decode(text, strlen(text), &page, &err);
}

Test(s3_xml, list) {
	cr_assert_eq(decode("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
			    "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><Prefix/><KeyCount>2</KeyCount>"
			    "<MaxKeys>2</MaxKeys><IsTruncated>true</IsTruncated><NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>"
			    "<Contents><Key>my-image.jpg</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified><ETag>&quot;fba9&quot;</ETag>"
			    "<Size>434234</Size><Owner><ID>7</ID><DisplayName>Key</DisplayName></Owner><StorageClass>STANDARD</StorageClass></Contents>"
			    "<Contents><Key>a &amp; b&lt;&#x41;</Key><Size>0</Size></Contents></ListBucketResult>"),
		     MS_OK, "%s", err.msg);
	cr_assert_eq(page.n, 2);
	cr_assert_str_eq(ms_s3_page_key(&page, 0), "my-image.jpg");
	cr_assert_eq(page.entries[0].size, 434234);
	cr_assert_eq(page.entries[0].time_us, INT64_C(1255369830000000));
	cr_assert_str_eq(ms_s3_page_key(&page, 1), "a & b<A");
	cr_assert_eq(page.entries[1].time_us, 0);
	cr_assert(page.truncated);
	cr_assert_str_eq(page.token, "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=");
	ms_s3_page_release(&page);
}

Test(s3_xml, url_encoded) {
	cr_assert_eq(decode("<ListBucketResult><Contents><Key>a%2Bb+c%0A%C3%A4</Key><Size>1</Size></Contents><EncodingType>url</EncodingType></ListBucketResult>"),
		     MS_OK);
	cr_assert_str_eq(ms_s3_page_key(&page, 0), "a+b c\n\xc3\xa4");
	cr_assert(!page.truncated);
	ms_s3_page_release(&page);
	/* Only where it says so. */
	cr_assert_eq(decode("<ListBucketResult><Contents><Key>a%2Bb+c</Key><Size>1</Size></Contents></ListBucketResult>"), MS_OK);
	cr_assert_str_eq(ms_s3_page_key(&page, 0), "a%2Bb+c");
	ms_s3_page_release(&page);
}

Test(s3_xml, uploads) {
	cr_assert_eq(decode("<ListMultipartUploadsResult><Bucket>bucket</Bucket><NextKeyMarker>my%2Ddivisor</NextKeyMarker><NextUploadIdMarker>YW55</NextUploadIdMarker>"
			    "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><Upload><Key>my%2Fdivisor</Key><UploadId>XMgbGlrZSBlbHZpbmcncyBub3QgaGF2</UploadId>"
			    "<Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload></ListMultipartUploadsResult>"),
		     MS_OK, "%s", err.msg);
	cr_assert_eq(page.n, 1);
	cr_assert_str_eq(ms_s3_page_key(&page, 0), "my/divisor");
	cr_assert_str_eq(ms_s3_page_upload(&page, 0), "XMgbGlrZSBlbHZpbmcncyBub3QgaGF2");
	cr_assert_eq(page.entries[0].time_us, INT64_C(1289422113000000));
	cr_assert_str_eq(page.key_marker, "my-divisor");
	cr_assert_str_eq(page.upload_marker, "YW55");
	ms_s3_page_release(&page);
}

Test(s3_xml, refused) {
	static const char *const bad[] = {
		"", "x", "<ListBucketResult>", "<html><body>Welcome to the hotel</body></html>", "<Error><Code>NoSuchKey</Code></Error>",
		"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a</Key><Size>9999999999999999999</Size></Contents></ListBucketResult>",
		"<ListBucketResult><Contents><Key>a</Key><Key>b</Key><Size>1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a%0</Key><Size>1</Size></Contents></ListBucketResult>",
		"<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a%00</Key><Size>1</Size></Contents></ListBucketResult>",
		"<ListMultipartUploadsResult><Upload><Key>a</Key></Upload></ListMultipartUploadsResult>",
		"<!DOCTYPE x [<!ENTITY a \"aaaa\">]><ListBucketResult><Contents><Key>&a;</Key><Size>1</Size></Contents></ListBucketResult>",
		"<ListBucketResult></ListBucketResult><ListBucketResult></ListBucketResult>",
		"<ListBucketResult><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a></a></a></a></a></a></a></a></ListBucketResult>",
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect_eq(decode(bad[i]), MS_ECORRUPT, "%s", bad[i]);
	/* One entry too many, one key too long. */
	char *text = malloc(200000), *p = text + sprintf(text, "<ListBucketResult>");
	for (int i = 0; i <= MS_S3_PAGE_MAX; i++)
		p += sprintf(p, "<Contents><Key>%d</Key><Size>1</Size></Contents>", i);
	sprintf(p, "</ListBucketResult>");
	cr_expect_eq(decode(text), MS_ECORRUPT);
	memcpy(text, "<ListBucketResult><Contents><Key>", 33);
	memset(text + 33, 'k', MS_S3_KEY_MAX + 1);
	strcpy(text + 33 + MS_S3_KEY_MAX + 1, "</Key><Size>1</Size></Contents></ListBucketResult>");
	cr_expect_eq(decode(text), MS_ECORRUPT);
	memset(text, 'x', 199999);
	memcpy(text, "<ListBucketResult><Name>", 24);
	text[199999] = '\0';
	cr_expect_eq(decode(text), MS_ECORRUPT);
	free(text);
}

Test(s3_xml, faults) {
	struct ms_s3_fault f;
	static const char text[] = "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>The region 'us-east-1' is wrong;\n expecting 'eu-west-1'</Message>"
				   "<Region>eu-west-1</Region><RequestId>1</RequestId></Error>";
	ms_s3_fault_decode(text, sizeof text - 1, &f);
	cr_assert_str_eq(f.code, "AuthorizationHeaderMalformed");
	cr_assert_str_eq(f.message, "The region 'us-east-1' is wrong;  expecting 'eu-west-1'");
	cr_assert_str_eq(f.region, "eu-west-1");
	ms_s3_fault_decode("<html>502</html>", 16, &f);
	cr_assert_str_eq(f.code, "");
	ms_s3_fault_decode(NULL, 0, &f);
	cr_assert_str_eq(f.code, "");
	static const char sts[] = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code></Error></ErrorResponse>";
	ms_s3_fault_decode(sts, sizeof sts - 1, &f);
	cr_assert_str_eq(f.code, "InvalidIdentityToken");
}

Test(s3_xml, multipart) {
	struct ms_s3_fault f;
	char id[40];
	static const char begun[] = "<InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>b</Bucket><Key>k</Key><UploadId>VXBs</UploadId>"
				    "</InitiateMultipartUploadResult>";
	cr_assert_eq(ms_s3_upload_id_decode(begun, sizeof begun - 1, id, sizeof id, &err), MS_OK);
	cr_assert_str_eq(id, "VXBs");
	cr_assert_eq(ms_s3_upload_id_decode(begun, sizeof begun - 1, id, 4, &err), MS_ECORRUPT);
	cr_assert_eq(ms_s3_upload_id_decode("<a/>", 4, id, sizeof id, &err), MS_ECORRUPT);
	static const char done[] = "<?xml version=\"1.0\"?>\n\n<CompleteMultipartUploadResult><ETag>\"x-1\"</ETag></CompleteMultipartUploadResult>";
	cr_assert(ms_s3_complete_decode(done, sizeof done - 1, &f));
	/* 200, and yet an error: "Note that if CompleteMultipartUpload fails, applications should be prepared". */
	static const char failed[] = "<?xml version=\"1.0\"?>  <Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>";
	cr_assert(!ms_s3_complete_decode(failed, sizeof failed - 1, &f));
	cr_assert_str_eq(f.code, "InternalError");
	cr_assert(!ms_s3_complete_decode(NULL, 0, &f));
}

static enum ms_code collect(void *arg, const char *path, const char *text, bool end, struct ms_err *e) {
	char *out = arg;
	(void)e;
	sprintf(out + strlen(out), "%s%s=%s;", end ? "" : "+", path, text);
	return MS_OK;
}

Test(xml, walk) {
	char out[500] = "";
	static const char text[] = "<a:r xmlns:a='urn:x'>one<b c='d'>two<![CDATA[<3>]]></b>four<b/></a:r>";
	cr_assert_eq(ms_xml_walk(text, sizeof text - 1, collect, out, &err), MS_OK, "%s", err.msg);
	cr_assert_str_eq(out, "+/r=;+/r/b=;/r/b=two<3>;+/r/b=;/r/b=;/r=onefour;");
}
