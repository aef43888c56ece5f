/* The bucket by virtual time: what a put of so many bytes takes at so many bytes a second is arithmetic. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/env_sim.h"
#include "replicas/mem.h"
#include "replicas/throttle.h"
#include "replicas/url.h"

#define KIB UINT64_C(1024)
#define SECOND UINT64_C(1000000)
#define STORE "throttle"

static struct ms_env *env;
static struct ms_replica *r;
static struct ms_err err;
static struct ms_throttle t;

static void setup(void) {
	struct ms_replica_spec spec = {0};
	env = ms_env_sim_new(11);
	err = MS_ERR_INIT;
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK);
	cr_assert_eq(ms_url_parse("mem://" STORE, &spec, &err), MS_OK);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK);
	ms_replica_spec_release(&spec);
}
static void teardown(void) {
	ms_replica_close(r);
	ms_mem_drop(STORE);
	ms_throttle_release(&t);
	ms_env_sim_free(env);
}
TestSuite(throttle, .init = setup, .fini = teardown);

static uint64_t now_us(void) { return ms_env_mono_ns(env) / 1000; }

/* Microseconds that it took. */
static uint64_t put(const char *name, size_t n) {
	uint8_t *data = malloc(n);
	uint64_t from = now_us();
	for (size_t i = 0; i < n; i++)
		data[i] = (uint8_t)(i * 7);
	cr_assert_eq(ms_throttle_put_mem(&t, r, name, data, n, NULL, &err), MS_OK, "%s", err.msg);
	uint64_t took = now_us() - from;
	size_t len;
	const uint8_t *there = ms_mem_peek(STORE, name, &len);
	cr_assert(there && len == n && memcmp(there, data, n) == 0, "%s is not what was put", name);
	free(data);
	return took;
}

static void within(uint64_t took, double low_s, double high_s) {
	cr_expect(took >= (uint64_t)(low_s * (double)SECOND) && took <= (uint64_t)(high_s * (double)SECOND), "took %.3f s, not %.2f to %.2f", (double)took / 1e6, low_s, high_s);
}

Test(throttle, a_second_goes_at_once_and_the_rest_at_the_rate) {
	ms_throttle_init(&t, env, 10 * KIB);
	within(put("a", 10 * KIB), 0, 0.01);
	within(put("b", 50 * KIB), 4.99, 5.05);
	within(put("c", 10 * KIB), 0.99, 1.05);
	/* Quiet for a minute does not save up more than a second. */
	env->ops->sleep_us(env, 60 * SECOND);
	within(put("d", 30 * KIB), 1.99, 2.05);
}

Test(throttle, many_small_ones_add_up) {
	ms_throttle_init(&t, env, 1 * KIB);
	uint64_t from = now_us();
	for (int i = 0; i < 100; i++) {
		char name[8];
		snprintf(name, sizeof name, "n%02d", i);
		(void)put(name, 100);
	}
	within(now_us() - from, (10000 - 1024) / 1024.0 - 0.01, 10000 / 1024.0 + 0.1);
}

Test(throttle, none_and_lifted) {
	uint64_t waited;
	ms_throttle_init(&t, env, 0);
	within(put("a", 5000 * KIB), 0, 0.01);
	cr_expect_not(ms_throttle_holds(&t, &waited));
	cr_expect_eq(waited, 0);
	ms_throttle_set(&t, 100 * KIB);
	within(put("b", 1000 * KIB), 9, 10.1);
	cr_expect(ms_throttle_holds(&t, &waited));
	cr_expect(waited >= 9 * SECOND && waited <= 11 * SECOND, "%llu", (unsigned long long)waited);
	env->ops->sleep_us(env, 5 * SECOND);
	cr_expect_not(ms_throttle_holds(&t, &waited));
	ms_throttle_set(&t, 0);
	within(put("c", 1000 * KIB), 0, 0.01);
}

/* Two puts at once share the rate: what one has taken, the other waits for. */
Test(throttle, is_shared) {
	ms_throttle_init(&t, env, 10 * KIB);
	cr_expect_eq(ms_throttle_take(&t, 10 * KIB), 0);
	uint64_t one = ms_throttle_take(&t, 10 * KIB), two = ms_throttle_take(&t, 10 * KIB);
	within(one, 0.99, 1.01);
	within(two, 1.99, 2.01);
}

Test(throttle, a_wait_can_be_cancelled) {
	static const uint8_t data[64 * KIB];
	atomic_bool cancel = true;
	ms_throttle_init(&t, env, 1 * KIB);
	(void)ms_throttle_take(&t, 1 * KIB);
	uint64_t from = now_us();
	cr_expect_eq(ms_throttle_put_mem(&t, r, "a", data, sizeof data, &cancel, &err), MS_ECANCELED);
	within(now_us() - from, 0, 0.2);
	size_t len;
	cr_expect_null(ms_mem_peek(STORE, "a", &len), "half a put is visible");
}

static enum ms_code broken_read(struct ms_body *b, void *buf, size_t cap, size_t *ret_n, struct ms_err *e) {
	(void)b, (void)buf, (void)cap, (void)ret_n;
	return ms_err_set(e, MS_EIO, "cannot be read");
}

Test(throttle, a_body_that_fails_fails_the_put) {
	struct ms_body body = {.size = 10, .read = broken_read};
	ms_throttle_init(&t, env, 1 * KIB);
	cr_expect_eq(ms_throttle_put(&t, r, "a", &body, NULL, &err), MS_EIO);
	cr_expect_str_eq(err.msg, "cannot be read");
}
