/*
 *   canonical request = method \n path \n query \n (name:value\n for each header, sorted) \n signed names \n payload hash
 *   string to sign    = "AWS4-HMAC-SHA256" \n time \n date/region/service/aws4_request \n sha256(canonical request)
 *   key               = HMAC(HMAC(HMAC(HMAC("AWS4" + secret, date), region), service), "aws4_request")
 */
#include "replicas/sigv4.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CANONICAL_MAX (64u << 10)

static void hex(char *ret, const uint8_t *p, size_t n) {
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < n; i++) {
		ret[2 * i] = digits[p[i] >> 4];
		ret[2 * i + 1] = digits[p[i] & 15];
	}
	ret[2 * n] = '\0';
}

void ms_sha256_hex(char ret[MS_SHA256_HEX], const void *data, size_t len) {
	uint8_t sum[32];
	if (!EVP_Digest(data ? data : "", len, sum, NULL, EVP_sha256(), NULL))
		abort(); /* SHA-256 is in every provider; only a broken OpenSSL comes here */
	hex(ret, sum, sizeof sum);
}

void ms_sigv4_time(char ret[17], int64_t us) {
	time_t t = (time_t)(us / 1000000);
	struct tm tm;
	if (us < 0 || !gmtime_r(&t, &tm) || tm.tm_year > 9999 - 1900 || !strftime(ret, 17, "%Y%m%dT%H%M%SZ", &tm))
		memcpy(ret, "19700101T000000Z", 17);
}

enum ms_code ms_sigv4_encode(struct ms_buf *out, const char *text, bool keep_slash, struct ms_err *err) {
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
			     c == '~' || (keep_slash && c == '/');
		enum ms_code rc = plain ? ms_buf_u8(out, c, err) : ms_buf_printf(out, err, "%%%02X", c);
		if (rc)
			return rc;
	}
	return MS_OK;
}

/* One encoded parameter, in the memory of the caller's buffer. */
struct part {
	size_t name, value; /* offsets of terminated strings */
	const char *base;
};

static int part_cmp(const void *a, const void *b) {
	const struct part *x = a, *y = b;
	int c = strcmp(x->base + x->name, y->base + y->name);
	return c ? c : strcmp(x->base + x->value, y->base + y->value);
}

enum ms_code ms_sigv4_query(struct ms_buf *out, const struct ms_sigv4_pair *params, unsigned n, struct ms_err *err) {
	struct part parts[MS_SIGV4_PARAMS_MAX];
	struct ms_buf text;
	enum ms_code rc = MS_OK;
	if (n > MS_SIGV4_PARAMS_MAX)
		return ms_err_set(err, MS_EINVAL, "%u query parameters", n);
	ms_buf_init(&text, CANONICAL_MAX);
	for (unsigned i = 0; i < n && !rc; i++) {
		parts[i].name = text.len;
		if ((rc = ms_sigv4_encode(&text, params[i].name, false, err)) || (rc = ms_buf_u8(&text, 0, err)))
			break;
		parts[i].value = text.len;
		if (!(rc = ms_sigv4_encode(&text, params[i].value, false, err)))
			rc = ms_buf_u8(&text, 0, err);
	}
	for (unsigned i = 0; i < n && !rc; i++)
		parts[i].base = (const char *)text.data;
	if (!rc && n)
		qsort(parts, n, sizeof parts[0], part_cmp);
	for (unsigned i = 0; i < n && !rc; i++)
		rc = ms_buf_printf(out, err, "%s%s=%s", i ? "&" : "", parts[i].base + parts[i].name, parts[i].base + parts[i].value);
	ms_buf_release(&text);
	return rc;
}

static int pair_cmp(const void *a, const void *b) {
	return strcmp(((const struct ms_sigv4_pair *)a)->name, ((const struct ms_sigv4_pair *)b)->name);
}

/* Without spaces at both ends, runs of spaces inside as one. */
static enum ms_code trimmed(struct ms_buf *out, const char *v, struct ms_err *err) {
	enum ms_code rc = MS_OK;
	bool any = false;
	while (!rc && *v) {
		size_t gap = strspn(v, " \t");
		v += gap;
		size_t n = strcspn(v, " \t");
		if (n && gap && any)
			rc = ms_buf_u8(out, ' ', err);
		if (n && !rc)
			rc = ms_buf_append(out, v, n, err);
		any |= n > 0;
		v += n;
	}
	return rc;
}

static void hmac(uint8_t ret[32], const void *key, size_t nkey, const char *data, size_t n) {
	unsigned len = 32;
	if (!HMAC(EVP_sha256(), key, (int)nkey, (const unsigned char *)data, n, ret, &len))
		abort();
}

static enum ms_code canonical(const struct ms_sigv4_request *q, const struct ms_sigv4_pair *sorted, struct ms_buf *names, struct ms_buf *out, struct ms_err *err) {
	enum ms_code rc = ms_buf_printf(out, err, "%s\n%s\n%s\n", q->method, q->path, q->query);
	for (unsigned i = 0; i < q->nheaders && !rc; i++) {
		if (i && strcmp(sorted[i].name, sorted[i - 1].name) == 0)
			return ms_err_set(err, MS_EINVAL, "header %s twice", sorted[i].name);
		if ((rc = ms_buf_printf(out, err, "%s:", sorted[i].name)) || (rc = trimmed(out, sorted[i].value, err)) || (rc = ms_buf_u8(out, '\n', err)))
			return rc;
		rc = ms_buf_printf(names, err, "%s%s", i ? ";" : "", sorted[i].name);
	}
	if (!rc)
		rc = ms_buf_u8(names, 0, err);
	if (!rc)
		rc = ms_buf_printf(out, err, "\n%s\n%s", (const char *)names->data, q->payload_sha256);
	return rc;
}

enum ms_code ms_sigv4_authorization(const struct ms_sigv4_request *q, struct ms_buf *out, struct ms_err *err) {
	struct ms_sigv4_pair sorted[MS_SIGV4_HEADERS_MAX];
	struct ms_buf text, names;
	char scope[200], hash[MS_SHA256_HEX], signature[MS_SHA256_HEX], first[4 + 256];
	uint8_t key[32], next[32];
	enum ms_code rc;
	size_t nsecret = strlen(q->secret_key);
	if (q->nheaders == 0 || q->nheaders > MS_SIGV4_HEADERS_MAX)
		return ms_err_set(err, MS_EINVAL, "%u headers to sign", q->nheaders);
	if (nsecret > 256 || strlen(q->access_key) > 256)
		return ms_err_set(err, MS_EAUTH, "the access key is longer than 256 bytes");
	if (snprintf(scope, sizeof scope, "%.8s/%s/%s/aws4_request", q->time, q->region, q->service) >= (int)sizeof scope)
		return ms_err_set(err, MS_EUSAGE, "region '%.100s' is too long", q->region);
	memcpy(sorted, q->headers, q->nheaders * sizeof sorted[0]);
	qsort(sorted, q->nheaders, sizeof sorted[0], pair_cmp);
	ms_buf_init(&text, CANONICAL_MAX);
	ms_buf_init(&names, CANONICAL_MAX);
	if ((rc = canonical(q, sorted, &names, &text, err)))
		goto out;
	ms_sha256_hex(hash, text.data, text.len);
	ms_buf_clear(&text);
	if ((rc = ms_buf_printf(&text, err, "AWS4-HMAC-SHA256\n%s\n%s\n%s", q->time, scope, hash)))
		goto out;
	memcpy(first, "AWS4", 4);
	memcpy(first + 4, q->secret_key, nsecret);
	hmac(key, first, 4 + nsecret, q->time, 8);
	hmac(next, key, 32, q->region, strlen(q->region));
	hmac(key, next, 32, q->service, strlen(q->service));
	hmac(next, key, 32, "aws4_request", 12);
	hmac(key, next, 32, (const char *)text.data, text.len);
	hex(signature, key, 32);
	rc = ms_buf_printf(out, err, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", q->access_key, scope, (const char *)names.data,
			   signature);
out:
	explicit_bzero(first, sizeof first);
	explicit_bzero(key, sizeof key);
	explicit_bzero(next, sizeof next);
	ms_buf_release(&text);
	ms_buf_release(&names);
	return rc;
}
