#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/contract.h"
#include "replicas/url.h"
#include "support/tmpdir.h"

struct store {
	char dir[512];
};

static enum ms_code open_file(struct ms_contract *c, struct ms_replica **ret, struct ms_err *err) {
	struct store *s = c->arg;
	struct ms_replica_spec spec = {0};
	char url[600];
	snprintf(url, sizeof url, "file://%s?create=true", s->dir);
	enum ms_code rc = ms_url_parse(url, &spec, err);
	if (!rc)
		rc = ms_replica_open(c->env, &spec, ret, err);
	ms_replica_spec_release(&spec);
	return rc;
}

static void plant(struct ms_contract *c, const char *name, const void *data, size_t len) {
	char path[1200];
	snprintf(path, sizeof path, "%s/%s", ((struct store *)c->arg)->dir, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	cr_assert(fd >= 0 && write(fd, data, len) == (ssize_t)len, "%s", path);
	close(fd);
}

Test(contract, file) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "%s", err.msg);
	struct ms_env *env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env, "%s", err.msg);
	char *tmp = ms_test_tmpdir();
	for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
		struct store s;
		snprintf(s.dir, sizeof s.dir, "%s/%s", tmp, k->name);
		struct ms_contract c = {.env = env,	  .open = open_file,	     .plant = plant,		.listed = 12000,
					.races = 1000, .large = UINT64_C(400) << 20, .across_processes = true, .arg = &s};
		k->run(&c);
		cr_expect(!c.failed, "%s: %s", k->name, c.why);
	}
	ms_env_uv_free(env);
}
