#include <criterion/criterion.h>

#include "contract/contract.h"
#include "replicas/mem.h"
#include "replicas/url.h"

static enum ms_code open_mem(struct ms_contract *c, struct ms_replica **ret, struct ms_err *err) {
	struct ms_replica_spec s = {0};
	enum ms_code rc = ms_url_parse("mem://contract", &s, err);
	if (!rc)
		rc = ms_replica_open(c->env, &s, ret, err);
	ms_replica_spec_release(&s);
	return rc;
}

static void plant(struct ms_contract *c, const char *name, const void *data, size_t len) {
	(void)c;
	ms_mem_plant("contract", name, data, len);
}

Test(contract, mem) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK, "%s", err.msg);
	struct ms_env *env = ms_env_uv_new((unsigned[MS_LANE_COUNT]){0}, &err);
	cr_assert(env, "%s", err.msg);
	for (const struct ms_contract_case *k = ms_contract_order(); k->name; k++) {
		ms_mem_wipe("contract");
		struct ms_contract c = {.env = env, .open = open_mem, .plant = plant, .listed = 12000, .races = 1000, .large = 64u << 20};
		k->run(&c);
		cr_expect(!c.failed, "%s: %s", k->name, c.why);
	}
	ms_mem_drop("contract");
	ms_env_uv_free(env);
}
