#include "replicas/s3_xml.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/timefmt.h"
#include "replicas/xml.h"

#define NAMES_MAX (4u << 20)

/* Copies what fits, printable bytes only: it goes into messages. */
static void plain(char *ret, size_t cap, const char *text) {
	size_t n = 0;
	for (; *text && n + 1 < cap; text++) {
		unsigned char c = (unsigned char)*text;
		ret[n++] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
	}
	ret[n] = '\0';
}

static enum ms_code exact(char *ret, size_t cap, const char *text, const char *what, struct ms_err *err) {
	size_t n = strlen(text);
	if (n >= cap)
		return ms_err_set(err, MS_ECORRUPT, "%s of %zu bytes", what, n);
	memcpy(ret, text, n + 1);
	return MS_OK;
}

/* ---- errors ---- */

static enum ms_code fault_cb(void *arg, const char *path, const char *text, bool end, struct ms_err *err) {
	struct ms_s3_fault *f = arg;
	(void)err;
	if (!end)
		return MS_OK;
	/* STS wraps it: /ErrorResponse/Error/Code. */
	const char *leaf = strncmp(path, "/ErrorResponse", 14) == 0 ? path + 14 : path;
	if (strncmp(leaf, "/Error/", 7) != 0)
		return MS_OK;
	leaf += 7;
	if (strcmp(leaf, "Code") == 0)
		plain(f->code, sizeof f->code, text);
	else if (strcmp(leaf, "Message") == 0)
		plain(f->message, sizeof f->message, text);
	else if (strcmp(leaf, "Region") == 0)
		plain(f->region, sizeof f->region, text);
	else if (strcmp(leaf, "ServerTime") == 0)
		plain(f->server_time, sizeof f->server_time, text);
	return MS_OK;
}

void ms_s3_fault_decode(const void *data, size_t len, struct ms_s3_fault *ret) {
	*ret = (struct ms_s3_fault){0};
	if (len)
		(void)!ms_xml_walk(data, len, fault_cb, ret, NULL);
}

/* ---- listings ---- */

struct list {
	struct ms_s3_page page;
	struct ms_s3_entry at;
	bool root, url_encoded;
	bool have_key, have_size;
};

static int hex(char c) {
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* In place; '+' is a space in this encoding. */
static enum ms_code url_decode(char *s, struct ms_err *err) {
	char *o = s;
	for (; *s; s++, o++) {
		*o = *s == '+' ? ' ' : *s;
		if (*s != '%')
			continue;
		int hi = hex(s[1]), lo = hi < 0 ? -1 : hex(s[2]);
		if (lo < 0 || (hi == 0 && lo == 0))
			return ms_err_set(err, MS_ECORRUPT, "a listed key is not URL-encoded");
		*o = (char)(hi << 4 | lo);
		s += 2;
	}
	*o = '\0';
	return MS_OK;
}

static enum ms_code keep(struct list *l, const char *text, size_t *ret, struct ms_err *err) {
	size_t n = strlen(text);
	/* Encoded, a key may be three times as long. */
	if (n > 3 * MS_S3_KEY_MAX)
		return ms_err_set(err, MS_ECORRUPT, "a listed key of %zu bytes", n);
	*ret = l->page.names.len;
	return ms_buf_append(&l->page.names, text, n + 1, err);
}

static enum ms_code number(const char *text, int64_t *ret, struct ms_err *err) {
	if (!text[0] || strlen(text) > 18 || strspn(text, "0123456789") != strlen(text))
		return ms_err_set(err, MS_ECORRUPT, "a listed size is '%.40s'", text);
	*ret = strtoll(text, NULL, 10);
	return MS_OK;
}

static enum ms_code entry_field(struct list *l, const char *leaf, const char *text, struct ms_err *err) {
	int64_t us;
	if (strcmp(leaf, "Key") == 0) {
		if (l->have_key)
			return ms_err_set(err, MS_ECORRUPT, "a listed object has two keys");
		l->have_key = true;
		return keep(l, text, &l->at.key, err);
	}
	if (strcmp(leaf, "UploadId") == 0)
		return keep(l, text, &l->at.upload, err);
	if (strcmp(leaf, "Size") == 0) {
		l->have_size = true;
		return number(text, &l->at.size, err);
	}
	if ((strcmp(leaf, "LastModified") == 0 || strcmp(leaf, "Initiated") == 0) && ms_time_parse(text, &us, NULL) == MS_OK)
		l->at.time_us = us;
	return MS_OK;
}

static enum ms_code entry_add(struct list *l, bool upload, struct ms_err *err) {
	struct ms_s3_page *p = &l->page;
	if (!l->have_key || (upload ? l->at.upload == SIZE_MAX : !l->have_size))
		return ms_err_set(err, MS_ECORRUPT, "a listed %s without %s", upload ? "upload" : "object", l->have_key ? upload ? "id" : "size" : "key");
	if (p->n == MS_S3_PAGE_MAX)
		return ms_err_set(err, MS_ECORRUPT, "a listing of more than %d entries a page", MS_S3_PAGE_MAX);
	if (!p->entries && !(p->entries = calloc(MS_S3_PAGE_MAX, sizeof *p->entries)))
		return ms_err_set(err, MS_ENOMEM, "listing");
	p->entries[p->n++] = l->at;
	return MS_OK;
}

static enum ms_code list_cb(void *arg, const char *path, const char *text, bool end, struct ms_err *err) {
	struct list *l = arg;
	bool objects = strncmp(path, "/ListBucketResult", 17) == 0, uploads = strncmp(path, "/ListMultipartUploadsResult", 27) == 0;
	if (!objects && !uploads)
		return ms_err_set(err, MS_ECORRUPT, "the answer is no listing but %.60s", path);
	const char *leaf = path + (objects ? 17 : 27), *group = objects ? "/Contents" : "/Upload";
	size_t ngroup = strlen(group);
	if (!leaf[0]) {
		l->root = true;
		return MS_OK;
	}
	if (strcmp(leaf, group) == 0) {
		if (end)
			return entry_add(l, uploads, err);
		l->at = (struct ms_s3_entry){.upload = SIZE_MAX};
		l->have_key = l->have_size = false;
		return MS_OK;
	}
	if (!end)
		return MS_OK;
	if (strncmp(leaf, group, ngroup) == 0 && leaf[ngroup] == '/')
		return entry_field(l, leaf + ngroup + 1, text, err);
	if (strcmp(leaf, "/IsTruncated") == 0)
		l->page.truncated = strcmp(text, "true") == 0;
	else if (strcmp(leaf, "/EncodingType") == 0)
		l->url_encoded = strcmp(text, "url") == 0;
	else if (strcmp(leaf, "/NextContinuationToken") == 0)
		return exact(l->page.token, sizeof l->page.token, text, "a continuation token", err);
	else if (strcmp(leaf, "/NextKeyMarker") == 0)
		return exact(l->page.key_marker, sizeof l->page.key_marker, text, "a key marker", err);
	else if (strcmp(leaf, "/NextUploadIdMarker") == 0)
		return exact(l->page.upload_marker, sizeof l->page.upload_marker, text, "an upload marker", err);
	return MS_OK;
}

enum ms_code ms_s3_page_decode(const void *data, size_t len, struct ms_s3_page *ret, struct ms_err *err) {
	struct list l = {.root = false};
	ms_buf_init(&l.page.names, NAMES_MAX);
	enum ms_code rc = ms_xml_walk(data, len, list_cb, &l, err);
	if (!rc && !l.root)
		rc = ms_err_set(err, MS_ECORRUPT, "the answer is no listing");
	/* The encoding may be named after the keys. */
	for (unsigned i = 0; i < l.page.n && !rc; i++) {
		char *key = (char *)l.page.names.data + l.page.entries[i].key;
		if (l.url_encoded)
			rc = url_decode(key, err);
		if (!rc && strlen(key) > MS_S3_KEY_MAX)
			rc = ms_err_set(err, MS_ECORRUPT, "a listed key of %zu bytes", strlen(key));
	}
	if (!rc && l.url_encoded)
		rc = url_decode(l.page.key_marker, err);
	if (rc)
		ms_s3_page_release(&l.page);
	else
		*ret = l.page;
	return rc;
}

void ms_s3_page_release(struct ms_s3_page *p) {
	free(p->entries);
	ms_buf_release(&p->names);
	p->entries = NULL;
	p->n = 0;
}

const char *ms_s3_page_key(const struct ms_s3_page *p, unsigned i) { return (const char *)p->names.data + p->entries[i].key; }

const char *ms_s3_page_upload(const struct ms_s3_page *p, unsigned i) {
	size_t at = p->entries[i].upload;
	return at == SIZE_MAX ? NULL : (const char *)p->names.data + at;
}

/* ---- multipart ---- */

struct upload {
	char *ret;
	size_t cap;
	bool found;
};

static enum ms_code upload_cb(void *arg, const char *path, const char *text, bool end, struct ms_err *err) {
	struct upload *u = arg;
	if (!end || strcmp(path, "/InitiateMultipartUploadResult/UploadId") != 0)
		return MS_OK;
	u->found = text[0] != '\0';
	return exact(u->ret, u->cap, text, "an upload id", err);
}

enum ms_code ms_s3_upload_id_decode(const void *data, size_t len, char *ret, size_t cap, struct ms_err *err) {
	struct upload u = {ret, cap, false};
	enum ms_code rc = ms_xml_walk(data, len, upload_cb, &u, err);
	if (!rc && !u.found)
		rc = ms_err_set(err, MS_ECORRUPT, "the answer has no upload id");
	return rc;
}

static enum ms_code complete_cb(void *arg, const char *path, const char *text, bool end, struct ms_err *err) {
	bool *found = arg;
	(void)text, (void)end, (void)err;
	*found |= strcmp(path, "/CompleteMultipartUploadResult") == 0;
	return MS_OK;
}

bool ms_s3_complete_decode(const void *data, size_t len, struct ms_s3_fault *ret) {
	bool found = false;
	*ret = (struct ms_s3_fault){0};
	if (len && ms_xml_walk(data, len, complete_cb, &found, NULL) == MS_OK && found)
		return true;
	ms_s3_fault_decode(data, len, ret);
	return false;
}
