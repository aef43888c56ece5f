#include "cmd/control_client.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/control_socket.h"

#define BODY_MAX (256u << 20)
#define PARAMS 8

static size_t receive(char *data, size_t size, size_t n, void *arg) {
	struct ms_err ignored = MS_ERR_INIT;
	return ms_buf_append(arg, data, size * n, &ignored) ? 0 : size * n;
}

static enum ms_code code_of(const char *name) {
	for (int c = MS_OK + 1; name && c < MS_ECODE_MAX; c++)
		if (strcmp(ms_code_name((enum ms_code)c), name) == 0)
			return (enum ms_code)c;
	return MS_EPERMANENT;
}

/* The body of an answer: an object, or the daemon's error. */
static enum ms_code decode(long status, const struct ms_buf *body, json_t **ret, struct ms_err *err) {
	json_error_t e;
	json_t *o = body->len ? json_loadb((const char *)body->data, body->len, 0, &e) : NULL;
	if (!json_is_object(o)) {
		json_decref(o);
		return ms_err_set(err, MS_EPERMANENT, "the daemon's answer (HTTP %ld) is not JSON: is it a migstream of another version?", status);
	}
	if (status / 100 == 2) {
		*ret = o;
		return MS_OK;
	}
	const char *text = json_string_value(json_object_get(o, "error"));
	enum ms_code code = ms_err_set(err, code_of(json_string_value(json_object_get(o, "code"))), "%s", text ? text : "the daemon refused");
	json_decref(o);
	return code;
}

static enum ms_code make_url(CURL *curl, const char *path, const struct ms_param *params, struct ms_buf *url, struct ms_err *err) {
	enum ms_code code = ms_buf_printf(url, err, "http://localhost%s", path);
	char separator = '?';
	for (; params && params->key && !code; params++) {
		if (!params->value)
			continue;
		char *escaped = curl_easy_escape(curl, params->value, 0);
		code = escaped ? ms_buf_printf(url, err, "%c%s=%s", separator, params->key, escaped) : ms_err_set(err, MS_ENOMEM, "request: out of memory");
		curl_free(escaped);
		separator = '&';
	}
	return code ? code : ms_buf_u8(url, 0, err);
}

enum ms_code ms_control_call(const char *socket_path, bool post, const char *path, const struct ms_param *params, int64_t timeout_us, json_t **ret,
			     struct ms_err *err) {
	char address[MS_SOCKET_ADDRESS_MAX + 1], text[CURL_ERROR_SIZE] = "";
	struct ms_buf body, url;
	CURL *curl = NULL;
	int dirfd = -1;
	long status = 0, ms = timeout_us ? (long)(timeout_us / 1000 + 1) : 0;
	ms_buf_init(&body, BODY_MAX);
	ms_buf_init(&url, 16u << 10);
	if (access(socket_path, F_OK) != 0) {
		ms_buf_release(&body);
		return ms_err_set(err, MS_ECLOSED, "no daemon is running: there is no %s", socket_path);
	}
	enum ms_code code = ms_socket_address(socket_path, address, &dirfd, err);
	if (!code && !(curl = curl_easy_init()))
		code = ms_err_set(err, MS_ENOMEM, "request: out of memory");
	if (!code)
		code = make_url(curl, path, params, &url, err);
	if (code)
		goto out;
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, address);
	curl_easy_setopt(curl, CURLOPT_URL, (const char *)url.data);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, ms);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, text);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
	if (post) {
		curl_easy_setopt(curl, CURLOPT_POST, 1L);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 0L);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
	}
	CURLcode rc = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	if (rc == CURLE_COULDNT_CONNECT)
		code = access(socket_path, R_OK | W_OK) != 0 ? ms_err_set(err, MS_EPERM, "%s belongs to another user", socket_path)
							      : ms_err_set(err, MS_ECLOSED, "no daemon is running: nobody answers on %s", socket_path);
	else if (rc == CURLE_OPERATION_TIMEDOUT)
		code = ms_err_set(err, MS_ETIMEDOUT, "the daemon does not answer on %s", socket_path);
	else if (rc == CURLE_GOT_NOTHING || rc == CURLE_RECV_ERROR)
		code = ms_err_set(err, MS_ECLOSED, "the daemon ended while it was asked");
	else if (rc != CURLE_OK)
		code = ms_err_set(err, MS_EIO, "%s: %s", socket_path, text[0] ? text : curl_easy_strerror(rc));
	else
		code = decode(status, &body, ret, err);
out:
	curl_easy_cleanup(curl);
	if (dirfd >= 0)
		close(dirfd);
	ms_buf_release(&body);
	ms_buf_release(&url);
	return code;
}

enum ms_code ms_control_db(const struct ms_target *t, const char *db, char ret[MS_PATH_MAX], struct ms_err *err) {
	for (unsigned i = 0; t->config && i < t->config->ndatabases; i++)
		if (strcmp(t->config->databases[i].name, db) == 0) {
			snprintf(ret, MS_PATH_MAX, "%s", db);
			return MS_OK;
		}
	if (strchr(db, '/') || access(db, F_OK) == 0)
		return ms_canonical_path(db, ret, err);
	if (snprintf(ret, MS_PATH_MAX, "%s", db) >= MS_PATH_MAX)
		return ms_err_set(err, MS_EUSAGE, "the database's name is too long");
	return MS_OK;
}

enum ms_code ms_control_call_db(const struct ms_args *a, const char *db, bool post, const char *path, const struct ms_param *params,
				int64_t timeout_us, json_t **ret, struct ms_err *err) {
	struct ms_target t;
	struct ms_param all[PARAMS] = {{NULL, NULL}};
	char name[MS_PATH_MAX];
	unsigned n = 1;
	enum ms_code code = ms_target_find(a, db, &t, err);
	if (code)
		return code;
	if (!(code = ms_control_db(&t, db, name, err))) {
		all[0] = (struct ms_param){"db", name};
		for (; params && params->key && n + 1 < PARAMS; params++)
			all[n++] = *params;
		code = ms_control_call(t.socket, post, path, all, timeout_us, ret, err);
		/* A file may bear the name of a database: ask for the name then. */
		if (code == MS_ENOTFOUND && strcmp(name, db) != 0 && !strchr(db, '/')) {
			struct ms_err second = MS_ERR_INIT;
			all[0].value = db;
			enum ms_code by_name = ms_control_call(t.socket, post, path, all, timeout_us, ret, &second);
			if (by_name != MS_ENOTFOUND) {
				code = by_name;
				if (code && err)
					*err = second;
			}
		}
	}
	ms_target_release(&t);
	return code;
}
