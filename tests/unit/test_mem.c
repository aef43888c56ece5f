/* The test double's own switches; that it is a proper backend is shown by tests/contract. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/buf.h"
#include "base/env_sim.h"
#include "replicas/mem.h"
#include "replicas/url.h"

static struct ms_env *env;
static struct ms_replica *r;

static struct ms_replica *open_store(const char *url) {
	struct ms_replica_spec s = {0};
	struct ms_replica *ret = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_url_parse(url, &s, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_open(env, &s, &ret, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&s);
	return ret;
}
static void setup(void) {
	cr_assert_eq(ms_replica_mem_register(NULL), MS_OK);
	cr_assert_eq(ms_replica_mem_register(NULL), MS_OK);
	env = ms_env_sim_new(1);
	r = open_store("mem://m");
}
static void teardown(void) {
	ms_replica_close(r);
	ms_mem_drop("m");
	ms_env_sim_free(env);
}
TestSuite(mem, .init = setup, .fini = teardown);

static enum ms_code put(const char *name, const char *text) { return ms_replica_put_mem(r, name, text, strlen(text), NULL); }
static const char *peek(const char *name) {
	static char text[100];
	size_t n;
	const uint8_t *p = ms_mem_peek("m", name, &n);
	if (!p)
		return "(none)";
	memcpy(text, p, n);
	text[n] = '\0';
	return text;
}

Test(mem, handles_of_one_name_share_a_store) {
	struct ms_replica *same = open_store("mem://m"), *other = open_store("mem://n");
	cr_assert_eq(put("a", "1"), MS_OK);
	cr_expect_eq(ms_replica_put_mem(same, "a", "2", 1, NULL), MS_EEXISTS);
	cr_expect_eq(ms_replica_put_mem(other, "a", "2", 1, NULL), MS_OK);
	cr_expect_str_eq(peek("a"), "1");
	struct ms_mem_counts c;
	ms_mem_counts("m", &c);
	cr_expect(c.puts == 2 && c.refused == 1 && c.objects == 1 && c.bytes == 1);
	ms_replica_close(same), ms_replica_close(other);
	ms_mem_drop("n");
}

Test(mem, failures_skips_and_times) {
	struct ms_err err = MS_ERR_INIT;
	ms_mem_fault("m", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .name_has = "b", .skip = 1, .times = 2, .code = MS_ETHROTTLED, .sys = 9});
	cr_expect_eq(put("a", "1"), MS_OK, "another name");
	cr_expect_eq(put("b1", "1"), MS_OK, "skipped");
	cr_expect_eq(ms_replica_put_mem(r, "b2", "1", 1, &err), MS_ETHROTTLED);
	cr_expect_eq(err.sys, 9);
	cr_expect_eq(put("b2", "1"), MS_ETHROTTLED);
	cr_expect_str_eq(peek("b2"), "(none)");
	cr_expect_eq(put("b2", "1"), MS_OK, "twice only");
	ms_mem_fault("m", &(struct ms_mem_fault){.ops = MS_MEM_ALL, .times = -1, .code = MS_EAUTH});
	struct ms_buf b;
	ms_buf_init(&b, 100);
	for (int i = 0; i < 20; i++) {
		cr_expect_eq(put("c", "1"), MS_EAUTH);
		cr_expect_eq(ms_replica_get_buf(r, "a", 0, -1, &b, NULL), MS_EAUTH);
		cr_expect_eq(ms_replica_remove(r, "a", NULL), MS_EAUTH);
	}
	ms_mem_clear_faults("m");
	cr_expect_eq(ms_replica_get_buf(r, "a", 0, -1, &b, NULL), MS_OK);
	ms_buf_release(&b);
}

Test(mem, lost_responses_are_carried_out) {
	ms_mem_fault("m", &(struct ms_mem_fault){.ops = MS_MEM_PUT | MS_MEM_REMOVE, .times = 2, .code = MS_ERETRY, .lose_response = true});
	cr_expect_eq(put("a", "1"), MS_ERETRY);
	cr_expect_str_eq(peek("a"), "1");
	cr_expect_eq(ms_replica_remove(r, "a", NULL), MS_ERETRY);
	cr_expect_str_eq(peek("a"), "(none)");
}

Test(mem, half_a_get) {
	struct ms_buf b;
	ms_buf_init(&b, 100);
	cr_assert_eq(put("a", "12345678"), MS_OK);
	ms_mem_fault("m", &(struct ms_mem_fault){.ops = MS_MEM_GET, .times = 1, .code = MS_ERETRY, .partial = true});
	struct ms_err err = MS_ERR_INIT;
	cr_expect_eq(ms_replica_get_buf(r, "a", 0, -1, &b, &err), MS_ERETRY);
	cr_expect_eq(b.len, 0, "a failed get gives nothing to its caller");
	cr_expect_eq(ms_replica_get_buf(r, "a", 0, -1, &b, &err), MS_OK);
	cr_expect_eq(b.len, 8);
	ms_buf_release(&b);
}

Test(mem, delays_take_virtual_time) {
	ms_mem_fault("m", &(struct ms_mem_fault){.ops = MS_MEM_PUT, .times = 1, .delay_us = 3000000});
	uint64_t from = ms_env_mono_ns(env);
	cr_expect_eq(put("a", "1"), MS_OK);
	cr_expect_geq(ms_env_mono_ns(env) - from, UINT64_C(3000000000));
	cr_expect_lt(ms_env_mono_ns(env) - from, UINT64_C(3500000000));
}

Test(mem, chance) {
	ms_mem_fault("m", &(struct ms_mem_fault){.ops = MS_MEM_REMOVE, .times = -1, .permille = 300, .code = MS_ERETRY});
	int failed = 0;
	for (int i = 0; i < 2000; i++)
		failed += ms_replica_remove(r, "x", NULL) != MS_OK;
	cr_expect(failed > 450 && failed < 750, "%d of 2000", failed);
}

Test(mem, planting_wiping_copying) {
	ms_mem_plant("m", "../hostile", "h", 1);
	cr_assert_eq(put("a", "1"), MS_OK);
	ms_mem_plant("m", "a", "damaged", 7);
	cr_expect_str_eq(peek("a"), "damaged");
	ms_mem_copy("copy", "m");
	ms_mem_wipe("m");
	struct ms_mem_counts c;
	ms_mem_counts("m", &c);
	cr_expect(c.objects == 0 && c.bytes == 0);
	ms_mem_copy("m", "copy");
	cr_expect_str_eq(peek("a"), "damaged");
	ms_mem_erase("m", "a");
	cr_expect_str_eq(peek("a"), "(none)");
	ms_mem_drop("copy");
}
