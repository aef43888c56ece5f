#include "support/sim_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(enum ms_code rc, const struct ms_err *err) {
	if (rc == MS_OK)
		return;
	fprintf(stderr, "%s: %s\n", ms_code_name(rc), err->msg);
	abort();
}

struct ms_file *ms_test_open(struct ms_env *env, const char *path, int flags) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = NULL;

	must(env->ops->open(env, path, flags, 0644, &f, &err), &err);
	return f;
}

struct ms_file *ms_test_create(struct ms_env *env, const char *path, const char *data) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = ms_test_open(env, path, MS_O_RDWR | MS_O_CREATE);

	must(env->ops->pwrite(f, data, strlen(data), 0, &err), &err);
	return f;
}

void ms_test_create_durable(struct ms_env *env, const char *path, const char *data) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = ms_test_create(env, path, data);

	must(env->ops->fsync(f, &err), &err);
	must(env->ops->fsync_dir(env, "/", &err), &err);
	env->ops->close(f);
}

const char *ms_test_content(struct ms_env *env, const char *path) {
	static char text[8192];
	struct ms_err err = MS_ERR_INIT;
	struct ms_file *f = NULL;
	size_t n = 0;

	if (env->ops->open(env, path, MS_O_RDONLY, 0, &f, NULL) != MS_OK)
		return "-";
	must(env->ops->pread(f, text, sizeof text - 1, 0, &n, &err), &err);
	env->ops->close(f);
	for (size_t i = 0; i < n; i++)
		if (!text[i])
			text[i] = '0';
	text[n] = '\0';
	return text;
}
