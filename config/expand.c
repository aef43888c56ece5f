#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"
#include "config/expand.h"

static enum ms_code finish(struct ms_buf *b, enum ms_code code, char **ret, struct ms_err *err) {
	if (!code)
		code = ms_buf_u8(b, 0, err);
	if (!code && !(*ret = strdup((const char *)b->data)))
		code = ms_err_set(err, MS_ENOMEM, "out of memory");
	ms_buf_release(b);
	if (code == MS_ETOOBIG)
		code = ms_err_set(err, MS_ECONFIG, "is longer than %u bytes", MS_EXPAND_MAX);
	return code;
}

static size_t variable_len(const char *s) {
	size_t n = 0;
	while (s[n] == '_' || isalpha((unsigned char)s[n]) || (n > 0 && isdigit((unsigned char)s[n])))
		n++;
	return n;
}

/* s stands behind "${". Appends the variable's value; *ret_used = bytes of s up to and with the closing brace. */
static enum ms_code variable(const char *s, struct ms_buf *out, size_t *ret_used, struct ms_err *err) {
	char name[128];
	size_t n = variable_len(s);
	const char *end = strchr(s, '}');
	if (!end)
		return ms_err_set(err, MS_ECONFIG, "${ without a closing brace: write $${ for a literal ${");
	if (n == 0 || n >= sizeof name)
		return ms_err_set(err, MS_ECONFIG, "${ must be followed by a variable's name: write $${ for a literal ${");
	memcpy(name, s, n);
	name[n] = 0;
	const char *value = getenv(name);
	*ret_used = (size_t)(end - s) + 1;
	if (s + n == end) {
		if (!value)
			return ms_err_set(err, MS_ECONFIG, "environment variable %s is not set: set it, or write ${%s:-default}", name, name);
		return ms_buf_append(out, value, strlen(value), err);
	}
	if (s[n] != ':' || s[n + 1] != '-')
		return ms_err_set(err, MS_ECONFIG, "only ${%s} and ${%s:-default} are known", name, name);
	if (value && *value)
		return ms_buf_append(out, value, strlen(value), err);
	return ms_buf_append(out, s + n + 2, (size_t)(end - (s + n + 2)), err);
}

enum ms_code ms_expand(const char *text, char **ret, bool *ret_expanded, struct ms_err *err) {
	struct ms_buf b;
	enum ms_code code = MS_OK;
	bool expanded = false;
	ms_buf_init(&b, MS_EXPAND_MAX);
	while (!code && *text) {
		size_t used = 1;
		if (strncmp(text, "$${", 3) == 0) {
			code = ms_buf_append(&b, "${", 2, err);
			used = 3;
		} else if (strncmp(text, "${", 2) == 0) {
			code = variable(text + 2, &b, &used, err);
			used += 2;
			expanded = true;
		} else {
			code = ms_buf_append(&b, text, 1, err);
		}
		text += used;
	}
	code = finish(&b, code, ret, err);
	if (!code)
		*ret_expanded = expanded;
	return code;
}

enum ms_code ms_expand_escape(const char *text, char **ret, struct ms_err *err) {
	struct ms_buf b;
	enum ms_code code = MS_OK;
	ms_buf_init(&b, 2 * MS_EXPAND_MAX);
	for (; !code && *text; text++) {
		if (text[0] == '$' && text[1] == '{')
			code = ms_buf_append(&b, "$", 1, err);
		if (!code)
			code = ms_buf_append(&b, text, 1, err);
	}
	return finish(&b, code, ret, err);
}

enum ms_code ms_expand_db(const char *text, const char *name, char **ret, unsigned *ret_n, struct ms_err *err) {
	struct ms_buf b;
	enum ms_code code = MS_OK;
	unsigned n = 0;
	ms_buf_init(&b, MS_EXPAND_MAX);
	while (!code && *text) {
		bool hit = strncmp(text, "{db}", 4) == 0;
		code = hit ? ms_buf_append(&b, name, strlen(name), err) : ms_buf_append(&b, text, 1, err);
		text += hit ? 4 : 1;
		n += hit;
	}
	code = finish(&b, code, ret, err);
	if (!code)
		*ret_n = n;
	return code;
}
