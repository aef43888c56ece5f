/*
 * The XML answers of S3, decoded. Pure; any thread. What is too long, of a wrong form or missing where it is needed is MS_ECORRUPT.
 */
#ifndef MS_REPLICAS_S3_XML_H
#define MS_REPLICAS_S3_XML_H

#include <stdint.h>
#include "base/buf.h"

#define MS_S3_KEY_MAX 1024
#define MS_S3_PAGE_MAX 1000
#define MS_S3_PAGE_BYTES (8u << 20) /* most bytes of a listing's answer */

/* An error answer. Fields that are absent are "". Lenient: an answer that is no error in XML leaves all empty. */
struct ms_s3_fault {
	char code[64], message[256], region[64], server_time[40];
};
void ms_s3_fault_decode(const void *data, size_t len, struct ms_s3_fault *ret);

/* One page of ListObjectsV2 or of ListMultipartUploads. */
struct ms_s3_entry {
	size_t key;	    /* offset into names: a terminated string, decoded */
	size_t upload;	    /* likewise, of an upload; SIZE_MAX: none */
	int64_t size;	    /* of an object */
	int64_t time_us;    /* last modified, or initiated; 0 unknown */
};
struct ms_s3_page {
	struct ms_s3_entry *entries;
	unsigned n;
	struct ms_buf names; /* private */
	bool truncated;
	char token[4096];		    /* continuation of ListObjectsV2 */
	char key_marker[MS_S3_KEY_MAX + 1]; /* of ListMultipartUploads */
	char upload_marker[1024];
};
enum ms_code ms_s3_page_decode(const void *data, size_t len, struct ms_s3_page *ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_s3_page_release(struct ms_s3_page *p);
const char *ms_s3_page_key(const struct ms_s3_page *p, unsigned i);
const char *ms_s3_page_upload(const struct ms_s3_page *p, unsigned i); /* NULL: none */

/* UploadId of InitiateMultipartUploadResult. */
enum ms_code ms_s3_upload_id_decode(const void *data, size_t len, char *ret, size_t cap, struct ms_err *err) MS_WARN_UNUSED;
/* Is it a CompleteMultipartUploadResult? S3 may answer 200 and an error in the body: false, and the fault is filled. */
bool ms_s3_complete_decode(const void *data, size_t len, struct ms_s3_fault *ret);

#endif
