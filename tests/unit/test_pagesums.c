/* Page sums against a plain array: transactions of any size, eviction, crashes at every file operation, damage, failed syncs. */
#include <errno.h>

#include "base/env_sim.h"
#include "core/pagesums.h"
#include "support/tmpdir.h"
#include "unit/bytes.h"

#define PATH "/d/sums"
#define PER_BLOCK 448u
#define SMALL (64u << 10) /* a cache of 16 blocks */

/* The journal as page sums know it. */
struct fake {
	uint64_t durable, appended, syncs;
	bool stuck;
};
static enum ms_code fake_sync(void *arg, uint64_t seq, struct ms_err *err) {
	struct fake *f = arg;
	f->syncs++;
	if (f->stuck)
		return ms_err_set(err, MS_ENOSPC, "the journal is full");
	cr_assert_leq(seq, f->appended);
	f->durable = f->appended;
	return MS_OK;
}
static uint64_t fake_durable(void *arg) {
	return ((struct fake *)arg)->durable;
}

static struct ms_env *sim(uint64_t seed) {
	struct ms_env *env = ms_env_sim_new(seed);
	OK(env->ops->mkdir(env, "/d", 0700, &err));
	ms_env_sim_sync_all(env);
	return env;
}
static struct ms_pagesums *open_sums(struct ms_env *env, struct fake *f, size_t cache, uint64_t *mark) {
	struct ms_pagesums_hooks h = {fake_sync, fake_durable, f};
	struct ms_pagesums *p = NULL;
	uint8_t blob[MS_SUMS_BLOB_MAX];
	size_t n;
	OK(ms_pagesums_open(env, PATH, cache, &h, &p, mark, blob, &n, &err));
	return p;
}
static void expect(struct ms_pagesums *p, uint32_t pgno, uint64_t hash, uint8_t chain) {
	uint64_t h = 1;
	uint8_t c = 1;
	OK(ms_pagesums_get(p, pgno, &h, &c, &err));
	cr_assert(h == hash && c == chain, "page %u: %llx/%u instead of %llx/%u", pgno, (unsigned long long)h, c,
		  (unsigned long long)hash, chain);
}

Test(pagesums, unset_set_commit_abort) {
	struct ms_env *env = sim(1);
	struct fake f = {.appended = 9};
	uint64_t mark = 7, sum;
	struct ms_pagesums *p = open_sums(env, &f, SMALL, &mark);
	cr_assert_eq(mark, 0);
	expect(p, 1, 0, 0);
	expect(p, 40000000u, 0, 0);
	FAILS(MS_EINVAL, ms_pagesums_get(p, 0, &sum, &(uint8_t){0}, &err));
	FAILS(MS_EINVAL, ms_pagesums_set(p, 1, 5, 0, &err));
	FAILS(MS_EINVAL, ms_pagesums_commit(p, 1, &err));
	ms_pagesums_begin(p);
	OK(ms_pagesums_set(p, 1, 11, 1, &err));
	OK(ms_pagesums_set(p, 448, 22, 2, &err));
	OK(ms_pagesums_set(p, 449, 33, 255, &err));
	expect(p, 1, 11, 1); /* the transaction's own view */
	OK(ms_pagesums_sum(p, 1000, &sum, &err));
	cr_assert_eq(sum, 66);
	ms_pagesums_abort(p);
	expect(p, 1, 0, 0);
	expect(p, 449, 0, 0);
	ms_pagesums_begin(p);
	OK(ms_pagesums_set(p, 1, 11, 1, &err));
	OK(ms_pagesums_set(p, 448, 22, 2, &err));
	OK(ms_pagesums_set(p, 449, 33, 255, &err));
	OK(ms_pagesums_set(p, 40000000u, 44, 3, &err));
	OK(ms_pagesums_commit(p, 5, &err));
	expect(p, 1, 11, 1);
	expect(p, 449, 33, 255);
	expect(p, 40000000u, 44, 3);
	cr_assert_gt(ms_pagesums_dirty_bytes(p), 0);
	OK(ms_pagesums_sum(p, 448, &sum, &err));
	cr_assert_eq(sum, 33);
	ms_pagesums_begin(p);
	OK(ms_pagesums_truncate(p, 449, 447, &sum, &err));
	cr_assert_eq(sum, 55);
	expect(p, 448, 0, 0);
	ms_pagesums_abort(p);
	expect(p, 448, 22, 2);
	ms_pagesums_begin(p);
	OK(ms_pagesums_truncate(p, 40000000u, 448, &sum, &err));
	cr_assert_eq(sum, 77);
	OK(ms_pagesums_truncate(p, 10, 448, &sum, &err));
	cr_assert_eq(sum, 0);
	OK(ms_pagesums_commit(p, 6, &err));
	expect(p, 449, 0, 0);
	expect(p, 448, 22, 2);
	OK(ms_pagesums_checkpoint(p, 6, (const uint8_t *)"state", 5, &err));
	cr_assert(ms_pagesums_mark_seq(p) == 6 && ms_pagesums_dirty_bytes(p) == 0 && f.durable == 9);
	FAILS(MS_ETOOBIG, ms_pagesums_checkpoint(p, 6, NULL, MS_SUMS_BLOB_MAX + 1, &err));
	ms_pagesums_close(p);
	struct ms_pagesums_hooks h = {fake_sync, fake_durable, &f};
	uint8_t blob[MS_SUMS_BLOB_MAX];
	size_t n;
	OK(ms_pagesums_open(env, PATH, SMALL, &h, &p, &mark, blob, &n, &err));
	cr_assert(mark == 6 && n == 5 && !memcmp(blob, "state", 5));
	expect(p, 1, 11, 1);
	expect(p, 448, 22, 2);
	expect(p, 449, 0, 0);
	OK(ms_pagesums_reset(p, &err));
	expect(p, 1, 0, 0);
	ms_env_sim_crash(env);
	ms_pagesums_close(p);
	ms_env_sim_restart(env);
	p = open_sums(env, &f, SMALL, &mark);
	cr_assert_eq(mark, 0);
	expect(p, 1, 0, 0);
	ms_pagesums_close(p);
	ms_pagesums_close(NULL);
	ms_env_sim_free(env);
}

/* ---- bytes ---- */

static uint64_t crc64(const uint8_t *p, size_t n) {
	uint64_t crc = ~0ull;
	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? 0xc96c5795d7870f42ull : 0);
	}
	return ~crc;
}
static void le(uint8_t *p, int n, uint64_t v) {
	for (int i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}
static size_t load(struct ms_env *env, uint8_t *to, size_t cap) {
	struct ms_file *fh;
	size_t n;
	OK(env->ops->open(env, PATH, MS_O_RDONLY, 0, &fh, &err));
	OK(env->ops->pread(fh, to, cap, 0, &n, &err));
	env->ops->close(fh);
	return n;
}
static void store(struct ms_env *env, const uint8_t *p, size_t n) {
	struct ms_file *fh;
	OK(env->ops->open(env, PATH, MS_O_RDWR | MS_O_CREATE | MS_O_TRUNC, 0600, &fh, &err));
	OK(env->ops->pwrite(fh, p, n, 0, &err));
	env->ops->close(fh);
}

Test(pagesums, bytes_are_as_documented) {
	struct ms_env *env = sim(2);
	struct fake f = {.appended = 9};
	uint64_t mark;
	static uint8_t got[65536], want[65536];
	struct ms_pagesums *p = open_sums(env, &f, SMALL, &mark);
	ms_pagesums_begin(p);
	OK(ms_pagesums_set(p, 2, 0x1122334455667788, 7, &err));
	OK(ms_pagesums_set(p, 896, 5, 1, &err));
	OK(ms_pagesums_commit(p, 3, &err));
	OK(ms_pagesums_checkpoint(p, 3, (const uint8_t *)"blob", 4, &err));
	ms_pagesums_begin(p);
	OK(ms_pagesums_set(p, 2, 0x99, 0, &err));
	OK(ms_pagesums_commit(p, 9, &err));
	OK(ms_pagesums_checkpoint(p, 9, NULL, 0, &err));
	ms_pagesums_close(p);
	static const struct {
		size_t at;
		uint64_t number, seq;
		const char *blob;
	} marks[] = {{0, 2, 3, "blob"}, {4096, 3, 9, ""}};
	for (int i = 0; i < 2; i++) {
		uint8_t *m = want + marks[i].at;
		memcpy(m, "MSPS", 4);
		le(m + 4, 2, 1);
		le(m + 16, 8, marks[i].number);
		le(m + 24, 8, marks[i].seq);
		le(m + 32, 4, strlen(marks[i].blob));
		memcpy(m + 40, marks[i].blob, strlen(marks[i].blob));
		le(m + 4088, 8, crc64(m, 4088));
	}
	static const struct {
		size_t slot;
		uint32_t block, version, page;
		uint64_t hash;
		uint8_t chain;
	} blocks[] = {{1, 0, 1, 1, 0x1122334455667788, 7}, {0, 0, 2, 1, 0x99, 0}, {3, 1, 1, 447, 5, 1}};
	for (int i = 0; i < 3; i++) {
		uint8_t *b = want + 8192 + blocks[i].slot * 4096;
		le(b + 8, 4, blocks[i].block);
		le(b + 12, 4, blocks[i].version);
		le(b + 24 + 8 * blocks[i].page, 8, blocks[i].hash);
		b[3608 + blocks[i].page] = blocks[i].chain;
		le(b, 8, crc64(b + 8, 4088));
	}
	size_t n = 8192 + 4 * 4096;
	cr_assert_eq(load(env, got, sizeof got), n);
	cr_assert(!memcmp(got, want, n));
	/* And a file made by hand is read. */
	store(env, want, n);
	p = open_sums(env, &f, SMALL, &mark);
	cr_assert_eq(mark, 9);
	expect(p, 2, 0x99, 0);
	expect(p, 896, 5, 1);
	ms_pagesums_close(p);
	le(want + 4096 + 4, 2, 2);
	le(want + 4096 + 4088, 8, crc64(want + 4096, 4088));
	store(env, want, n);
	struct ms_pagesums_hooks h = {fake_sync, fake_durable, &f};
	uint8_t blob[MS_SUMS_BLOB_MAX];
	FAILS(MS_EUNSUPPORTED, ms_pagesums_open(env, PATH, SMALL, &h, &p, &mark, blob, &n, &err));
	ms_env_sim_free(env);
}

/* docs/formats.md, "Page sums": the bytes named at its end. */
Test(pagesums, worked_example_of_the_documentation) {
	static const uint8_t slot[] = {0x9f, 0x1f, 0x49, 0x1f, 0x2e, 0x81, 0xe3, 0x77, 0,    0,	   0,	 0,   1, 0,
				       0,    0,	   0,	 0,    0,    0,	   0,	 0,    0,    0,	   0,	 0,   0, 0,
				       0,    0,	   0,	 0,    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
	static const uint8_t mark[] = {0xf8, 0xc9, 0x6d, 0xce, 0xd7, 0x22, 0xc1, 0x28};
	struct ms_env *env = sim(8);
	struct fake f = {.appended = 1};
	uint64_t seq;
	static uint8_t got[65536];
	struct ms_pagesums *p = open_sums(env, &f, SMALL, &seq);
	cr_assert_eq(load(env, got, sizeof got), 8192);
	cr_assert(!memcmp(got + 8184, mark, sizeof mark));
	ms_pagesums_begin(p);
	OK(ms_pagesums_set(p, 2, 0x1122334455667788, 7, &err));
	OK(ms_pagesums_commit(p, 1, &err));
	OK(ms_pagesums_checkpoint(p, 1, NULL, 0, &err));
	ms_pagesums_close(p);
	cr_assert_eq(load(env, got, sizeof got), 0x4000);
	cr_assert(!memcmp(got + 0x3000, slot, sizeof slot) && got[0x3e19] == 7);
	ms_env_sim_free(env);
}

/* ---- against an array ---- */

#define PAGES 12000u /* 27 blocks, cache of 16 */

struct model {
	uint64_t *hash;
	uint8_t *chain;
};
static struct model model_new(void) {
	return (struct model){calloc(PAGES + 1, sizeof(uint64_t)), calloc(PAGES + 1, 1)};
}
static void model_free(struct model *m) {
	free(m->hash);
	free(m->chain);
}
static void model_copy(struct model *to, const struct model *from) {
	memcpy(to->hash, from->hash, (PAGES + 1) * sizeof(uint64_t));
	memcpy(to->chain, from->chain, PAGES + 1);
}

/* One random transaction on both; the same seed gives the same one. */
static enum ms_code random_tx(struct ms_pagesums *p, struct model *m, uint64_t seed, struct ms_err *err) {
	uint64_t s = seed * 7919 + 1;
	unsigned n =
	    rnd(&s) >> 60 ? 1 + (unsigned)(rnd(&s) >> 32) % 20 : 1 + (unsigned)(rnd(&s) >> 32) % 4000; /* one of 16 spills */
	enum ms_code rc;
	for (unsigned i = 0; i < n; i++) {
		uint32_t pgno = 1 + (uint32_t)(rnd(&s) >> 32) % PAGES;
		uint64_t hash = rnd(&s);
		uint8_t chain = (uint8_t)(rnd(&s) >> 40);
		if (p && (rc = ms_pagesums_set(p, pgno, hash, chain, err)) != MS_OK)
			return rc;
		m->hash[pgno] = hash;
		m->chain[pgno] = chain;
	}
	if (rnd(&s) >> 61 == 0) {
		uint32_t to = (uint32_t)(rnd(&s) >> 32) % PAGES, from = to + (uint32_t)(rnd(&s) >> 32) % 3000;
		uint64_t dropped = 0, want = 0;
		from = from > PAGES ? PAGES : from;
		if (p && (rc = ms_pagesums_truncate(p, from, to, &dropped, err)) != MS_OK)
			return rc;
		for (uint32_t pgno = to + 1; pgno <= from; pgno++) {
			want += m->hash[pgno];
			m->hash[pgno] = 0;
			m->chain[pgno] = 0;
		}
		cr_assert(!p || dropped == want);
	}
	return MS_OK;
}
static void compare(struct ms_pagesums *p, const struct model *m, uint64_t seed) {
	uint64_t sum, want = 0, s = seed + 5;
	for (uint32_t i = 1; i <= PAGES; i++)
		want += m->hash[i];
	OK(ms_pagesums_sum(p, PAGES, &sum, &err));
	cr_assert_eq(sum, want);
	for (int i = 0; i < 300; i++) {
		uint32_t pgno = 1 + (uint32_t)(rnd(&s) >> 32) % PAGES;
		expect(p, pgno, m->hash[pgno], m->chain[pgno]);
	}
}

Test(pagesums, random_transactions_equal_an_array, .timeout = 120) {
	struct ms_env *env = sim(3);
	struct fake f = {0};
	uint64_t mark, s = 1;
	struct model m = model_new(), was = model_new();
	struct ms_pagesums *p = open_sums(env, &f, SMALL, &mark);
	for (uint64_t tx = 1; tx <= 400; tx++) {
		model_copy(&was, &m);
		ms_pagesums_begin(p);
		OK(random_tx(p, &m, tx, &err));
		if (tx % 5 == 0)
			compare(p, &m, tx); /* inside the transaction */
		f.appended++;
		if (rnd(&s) >> 61 == 0) {
			ms_pagesums_abort(p);
			model_copy(&m, &was);
		} else {
			OK(ms_pagesums_commit(p, f.appended, &err));
		}
		if (tx % 7 == 0)
			compare(p, &m, tx);
		if (tx % 50 == 0)
			OK(ms_pagesums_checkpoint(p, f.appended, NULL, 0, &err));
		if (tx % 100 == 0) { /* all that was committed is in the mark */
			ms_pagesums_close(p);
			p = open_sums(env, &f, SMALL, &mark);
			cr_assert_eq(mark, f.appended);
			compare(p, &m, tx);
		}
	}
	ms_pagesums_close(p);
	struct ms_stat st;
	FAILS(MS_ENOTFOUND, env->ops->stat(env, PATH ".tx", &st, &err)); /* nothing is left of spilled transactions */
	model_free(&m);
	model_free(&was);
	ms_env_sim_free(env);
}

/* A cache of 1 MiB and a transaction that sets every page of a database of 16 GB, then takes it back, then does it. */
Test(pagesums, transaction_far_larger_than_the_cache, .timeout = 120) {
	struct fake f = {.appended = 2};
	struct ms_err why = MS_ERR_INIT;
	struct ms_env *env = ms_env_uv_new(NULL, &why);
	char *path = ms_test_path(ms_test_tmpdir(), "sums");
	struct ms_pagesums_hooks h = {fake_sync, fake_durable, &f};
	uint8_t blob[MS_SUMS_BLOB_MAX];
	size_t n;
	uint64_t mark, sum;
	uint32_t pages = 4000000;
	struct ms_pagesums *p;
	cr_assert(env, "%s", why.msg);
	OK(ms_pagesums_open(env, path, 0, &h, &p, &mark, blob, &n, &err));
	for (int round = 0; round < 2; round++) {
		ms_pagesums_begin(p);
		for (uint32_t i = 1; i <= pages; i++)
			OK(ms_pagesums_set(p, i, i, 1, &err));
		OK(ms_pagesums_sum(p, pages, &sum, &err));
		cr_assert_eq(sum, (uint64_t)pages * (pages + 1) / 2);
		if (!round)
			ms_pagesums_abort(p);
		else
			OK(ms_pagesums_commit(p, 2, &err));
		OK(ms_pagesums_sum(p, pages, &sum, &err));
		cr_assert_eq(sum, round ? (uint64_t)pages * (pages + 1) / 2 : 0);
	}
	OK(ms_pagesums_checkpoint(p, 2, NULL, 0, &err));
	ms_pagesums_close(p);
	OK(ms_pagesums_open(env, path, 0, &h, &p, &mark, blob, &n, &err));
	cr_assert_eq(mark, 2);
	for (uint32_t i = 1; i <= pages; i += 99991)
		expect(p, i, i, 1);
	ms_pagesums_close(p);
	free(path);
	ms_env_uv_free(env);
}

/* ---- what is written, and when ---- */

static uint64_t block_writes;
static int count_writes(void *arg, const struct ms_sim_step *step) {
	(void)arg;
	block_writes += step->op == MS_SIM_PWRITE && !strstr(step->path, ".tx");
	return 0;
}

Test(pagesums, no_block_is_written_before_its_journal_entry_is_durable) {
	struct ms_env *env = sim(5);
	struct fake f = {.stuck = true};
	uint64_t mark;
	struct ms_pagesums *p = open_sums(env, &f, SMALL, &mark);
	struct ms_err why = MS_ERR_INIT;
	ms_env_sim_set_hook(env, count_writes, NULL);
	uint32_t n = 0;
	enum ms_code rc = MS_OK;
	while (n < 100 && rc == MS_OK) { /* blocks, one commit each */
		ms_pagesums_begin(p);
		rc = ms_pagesums_set(p, n * PER_BLOCK + 1, n + 1, 0, &why);
		if (rc == MS_OK)
			OK(ms_pagesums_commit(p, ++f.appended, &err));
		n += rc == MS_OK;
	}
	cr_assert_eq(rc, MS_ENOSPC); /* the cache is full of what the journal does not hold yet */
	cr_assert(n >= 10 && n <= 16);
	cr_assert_eq(block_writes, 0);
	ms_pagesums_abort(p);
	FAILS(MS_ENOSPC, ms_pagesums_checkpoint(p, f.appended, NULL, 0, &err));
	cr_assert_eq(block_writes, 0);
	f.stuck = false;
	for (uint32_t i = 0; i < n; i++)
		expect(p, i * PER_BLOCK + 1, i + 1, 0);
	for (; n < 100; n++) {
		ms_pagesums_begin(p);
		OK(ms_pagesums_set(p, n * PER_BLOCK + 1, n + 1, 0, &err));
		OK(ms_pagesums_commit(p, ++f.appended, &err));
	}
	cr_assert_gt(block_writes, 50);
	for (uint32_t i = 0; i < n; i++)
		expect(p, i * PER_BLOCK + 1, i + 1, 0);
	ms_pagesums_close(p);
	ms_env_sim_free(env);
}

Test(pagesums, hits_touch_no_file) {
	struct ms_env *env = sim(6);
	struct fake f = {.appended = 1000000};
	uint64_t mark, h;
	uint8_t c;
	struct ms_pagesums *p = open_sums(env, &f, 0, &mark);
	for (uint32_t i = 1; i <= 40000; i++)
		expect(p, i, 0, 0);
	uint64_t ops = ms_env_sim_ops(env, MS_SIM_ANY);
	for (uint32_t tx = 1; tx <= 20000; tx++) {
		ms_pagesums_begin(p);
		for (uint32_t i = 0; i < 5; i++) {
			uint32_t pgno = 1 + (tx * 31 + i * 977) % 40000;
			OK(ms_pagesums_get(p, pgno, &h, &c, &err));
			OK(ms_pagesums_set(p, pgno, h + 1, 0, &err));
		}
		OK(ms_pagesums_commit(p, tx, &err));
	}
	cr_assert_eq(ms_env_sim_ops(env, MS_SIM_ANY), ops);
	ms_pagesums_close(p);
	ms_env_sim_free(env);
}

/* ---- crashes ---- */

struct trace {
	struct ms_env *env;
	uint64_t ops, at;
	bool power;
};
static int lights_out(void *arg, const struct ms_sim_step *step) {
	struct trace *t = arg;
	(void)step;
	if (++t->ops == t->at) {
		if (t->power)
			ms_env_sim_crash(t->env);
		else
			ms_env_sim_kill(t->env);
	}
	return 0;
}

/* After the lights went out: replay from the mark gives the last transaction whose journal entry is durable. Two lives, the first
 * cut short by another power failure in its replay. */
static void revive(struct ms_env *env, struct fake *f, uint64_t seed) {
	struct model m = model_new(), before = model_new();
	struct ms_pagesums *p;
	uint64_t mark;
	if (ms_env_sim_is_down(env))
		ms_env_sim_restart(env);
	for (int life = 0; life < 2; life++) {
		p = open_sums(env, f, SMALL, &mark);
		cr_assert_leq(mark, f->durable);
		memset(m.hash, 0, (PAGES + 1) * sizeof *m.hash);
		memset(m.chain, 0, PAGES + 1);
		for (uint64_t tx = 1; tx <= f->durable; tx++) {
			model_copy(&before, &m);
			OK(random_tx(NULL, &m, tx, &err));
			if (tx <= mark)
				continue;
			ms_pagesums_begin(p); /* the pages as the transaction leaves them */
			for (uint32_t i = 1; i <= PAGES; i++)
				if (m.hash[i] != before.hash[i] || m.chain[i] != before.chain[i])
					OK(ms_pagesums_set(p, i, m.hash[i], m.chain[i], &err));
			OK(ms_pagesums_commit(p, tx, &err));
		}
		compare(p, &m, seed);
		if (life == 0) {
			ms_env_sim_crash(env);
			ms_pagesums_close(p);
			ms_env_sim_restart(env);
		}
	}
	OK(ms_pagesums_checkpoint(p, f->durable, NULL, 0, &err));
	compare(p, &m, seed);
	ms_pagesums_close(p);
	p = open_sums(env, f, SMALL, &mark);
	cr_assert_eq(mark, f->durable);
	compare(p, &m, seed + 1);
	ms_pagesums_close(p);
	model_free(&m);
	model_free(&before);
}

static void crash_everywhere(bool power, uint64_t seeds, uint64_t step) {
	enum { TXS = 40 };
	for (uint64_t seed = 0; seed < seeds; seed++)
		for (uint64_t at = 1 + seed % step;; at += step) {
			struct trace t = {sim(seed * 100000 + at), 0, at, power};
			struct model m = model_new();
			struct fake f = {0};
			uint64_t mark = 0;
			struct ms_pagesums *p = NULL;
			struct ms_pagesums_hooks h = {fake_sync, fake_durable, &f};
			uint8_t blob[MS_SUMS_BLOB_MAX];
			size_t n;
			ms_env_sim_set_hook(t.env, lights_out, &t);
			bool alive = ms_pagesums_open(t.env, PATH, SMALL, &h, &p, &mark, blob, &n, NULL) == MS_OK;
			for (uint64_t tx = 1; alive && tx <= TXS; tx++) {
				ms_pagesums_begin(p);
				f.appended = tx; /* the journal entry comes before the commit */
				alive = random_tx(p, &m, tx, NULL) == MS_OK && ms_pagesums_commit(p, tx, NULL) == MS_OK &&
					(tx % 9 || ms_pagesums_checkpoint(p, tx, (const uint8_t *)&tx, 8, NULL) == MS_OK);
			}
			bool ended = t.ops < at;
			cr_assert(alive || !ended);
			ms_pagesums_close(p);
			ms_env_sim_set_hook(t.env, NULL, NULL);
			model_free(&m);
			revive(t.env, &f, seed);
			ms_env_sim_free(t.env);
			if (ended)
				break;
		}
}

/* Mark and blocks in one checkpoint: the mark never comes before what it stands for. */
Test(pagesums, power_failure_within_a_checkpoint, .timeout = 300) {
	for (uint64_t seed = 0; seed < 150; seed++)
		for (uint64_t back = 1; back <= 3; back++) { /* before the last operations: sync, mark, sync */
			struct trace t = {sim(seed), 0, 0, true};
			struct model m = model_new();
			struct fake f = {0};
			uint64_t mark, ops[2] = {0, 0};
			for (int pass = 0; pass < 2; pass++) { /* the first one counts */
				struct trace u = {sim(seed), 0, UINT64_MAX, true};
				f = (struct fake){0};
				memset(m.hash, 0, (PAGES + 1) * sizeof *m.hash);
				memset(m.chain, 0, PAGES + 1);
				if (pass) {
					ms_env_sim_free(u.env);
					u.env = t.env;
				}
				struct ms_pagesums *p = open_sums(u.env, &f, SMALL, &mark);
				for (uint64_t tx = 1; tx <= 7; tx++) {
					ms_pagesums_begin(p);
					f.appended = tx;
					OK(random_tx(p, &m, tx, &err));
					OK(ms_pagesums_commit(p, tx, &err));
					if (tx == 4)
						OK(ms_pagesums_checkpoint(p, tx, NULL, 0, &err));
				}
				if (pass)
					u.at = ops[0] - back + 1;
				ms_env_sim_set_hook(u.env, lights_out, &u);
				enum ms_code rc = ms_pagesums_checkpoint(p, 7, NULL, 0, NULL);
				cr_assert_eq(rc == MS_OK, !pass);
				ops[pass] = u.ops;
				ms_env_sim_set_hook(u.env, NULL, NULL);
				ms_pagesums_close(p);
				if (!pass)
					ms_env_sim_free(u.env);
			}
			model_free(&m);
			revive(t.env, &f, seed);
			ms_env_sim_free(t.env);
		}
}

Test(pagesums, power_failure_at_file_operations, .timeout = 300) {
	crash_everywhere(true, 6, 41);
}
/* A killed process leaves versions that only the page cache holds: the next one makes them durable before it writes over the
 * versions before them. Page 100 of each block is set in the second life and never again: a block that falls back behind the mark
 * loses it. */
Test(pagesums, power_failure_after_a_kill, .timeout = 300) {
	for (uint64_t seed = 0; seed < 60; seed++) {
		struct ms_env *env = sim(seed);
		struct fake f = {.appended = 8};
		uint64_t mark, sum, want = 0;
		for (uint64_t life = 1; life <= 7;
		     life++) { /* each but the last, which replays, is killed; each writes most blocks once */
			struct ms_pagesums *p = open_sums(env, &f, SMALL, &mark);
			cr_assert_eq(mark, life <= 2 ? life - 1 : 2);
			want = 0;
			for (uint32_t b = 0; b < 30; b++) {
				ms_pagesums_begin(p);
				OK(ms_pagesums_set(p, b * PER_BLOCK + 1, life * 100 + b, 0, &err));
				OK(ms_pagesums_set(p, b * PER_BLOCK + 400, life * 1000 + b, 0, &err));
				if (life == 2)
					OK(ms_pagesums_set(p, b * PER_BLOCK + 100, b + 7, 0, &err));
				OK(ms_pagesums_commit(p, 8, &err));
				want += life * 1100 + 2 * b + b + 7;
			}
			if (life <= 2)
				OK(ms_pagesums_checkpoint(p, life, NULL, 0, &err));
			if (life == 7) {
				OK(ms_pagesums_sum(p, 30 * PER_BLOCK, &sum, &err));
				cr_assert_eq(sum, want, "seed %llu", (unsigned long long)seed);
			} else if (life == 6) {
				ms_env_sim_crash(env);
			} else {
				ms_env_sim_kill(env);
			}
			ms_pagesums_close(p);
			if (life < 7)
				ms_env_sim_restart(env);
		}
		ms_env_sim_free(env);
	}
}

Test(pagesums, kill_at_file_operations, .timeout = 300) {
	crash_everywhere(false, 2, 83);
}

/* ---- damage ---- */

Test(pagesums, flipped_bits_never_pass_for_sums, .timeout = 120) {
	struct ms_env *env = sim(7);
	struct fake f = {.appended = 50};
	uint64_t mark, sum, good;
	static uint8_t file[65536];
	struct ms_pagesums *p = open_sums(env, &f, SMALL, &mark);
	for (uint64_t tx = 1; tx <= 5; tx++) { /* both slots of both blocks and both marks are in use */
		ms_pagesums_begin(p);
		for (uint32_t i = 1; i <= 2 * PER_BLOCK; i += 3)
			OK(ms_pagesums_set(p, i, tx * 1000003 + i, (uint8_t)tx, &err));
		OK(ms_pagesums_commit(p, tx, &err));
		OK(ms_pagesums_checkpoint(p, tx, (const uint8_t *)"blob", 4, &err));
	}
	OK(ms_pagesums_sum(p, 2 * PER_BLOCK, &good, &err));
	ms_pagesums_close(p);
	size_t n = load(env, file, sizeof file);
	unsigned found = 0, harmless = 0, older = 0;
	uint64_t s = 9;
	for (unsigned i = 0; i < 40000; i++) {
		size_t bit = (size_t)(rnd(&s) >> 20) % (n * 8);
		struct ms_pagesums_hooks h = {fake_sync, fake_durable, &f};
		uint8_t blob[MS_SUMS_BLOB_MAX];
		size_t len;
		file[bit / 8] ^= (uint8_t)(1u << bit % 8);
		store(env, file, n);
		file[bit / 8] ^= (uint8_t)(1u << bit % 8);
		enum ms_code rc = ms_pagesums_open(env, PATH, SMALL, &h, &p, &mark, blob, &len, NULL);
		cr_assert_eq(rc, MS_OK); /* one of two marks is left */
		rc = ms_pagesums_sum(p, 2 * PER_BLOCK, &sum, NULL);
		if (rc == MS_ECORRUPT || (rc == MS_OK && sum != good)) {
			found++;
		} else {
			cr_assert_eq(rc, MS_OK);
			/* An old slot or the newest mark was hit: the sums are right, the mark may be the one before (replay
			 * repeats). */
			cr_assert(mark == 5 || (mark == 4 && bit / 8 < 8192));
			older += mark == 4;
			harmless++;
		}
		ms_pagesums_close(p);
	}
	cr_assert(found > 5000 && harmless > 5000 && older > 1000);
	/* While the program runs a damaged block is an error, not an older version. */
	store(env, file, n);
	p = open_sums(env, &f, SMALL, &mark);
	OK(ms_pagesums_checkpoint(p, 5, NULL, 0, &err));
	for (size_t slot = 0; slot < 4; slot++)
		file[8192 + slot * 4096 + 100] ^= 1;
	struct ms_file *fh;
	OK(env->ops->open(env, PATH, MS_O_RDWR, 0, &fh, &err));
	OK(env->ops->pwrite(fh, file + 8192, n - 8192, 8192, &err));
	env->ops->close(fh);
	uint64_t hash;
	uint8_t chain;
	FAILS(MS_ECORRUPT, ms_pagesums_get(p, 1, &hash, &chain, &err));
	FAILS(MS_ECORRUPT, ms_pagesums_get(p, 449, &hash, &chain, &err));
	ms_pagesums_close(p);
	/* Neither mark: the caller resets. */
	file[50] ^= 1;
	file[4096 + 50] ^= 1;
	store(env, file, n);
	struct ms_pagesums_hooks h = {fake_sync, fake_durable, &f};
	uint8_t blob[MS_SUMS_BLOB_MAX];
	FAILS(MS_ECORRUPT, ms_pagesums_open(env, PATH, SMALL, &h, &p, &mark, blob, &n, &err));
	store(env, file, 0); /* created, but never more */
	p = open_sums(env, &f, SMALL, &mark);
	cr_assert_eq(mark, 0);
	ms_pagesums_close(p);
	ms_env_sim_free(env);
}

/* ---- failures ---- */

Test(pagesums, failed_syncs_and_writes_lose_nothing, .timeout = 120) {
	static const enum ms_sim_op ops[] = {MS_SIM_PWRITE, MS_SIM_FDATASYNC, MS_SIM_PREAD, MS_SIM_OPEN};
	for (size_t k = 0; k < 4; k++) {
		uint64_t all = 0;
		for (uint64_t nth = 1; nth < 400; nth += 7) {
			struct ms_env *env = sim(nth);
			struct fake f = {0};
			struct model m = model_new();
			uint64_t mark;
			unsigned failed = 0;
			struct ms_pagesums *p = open_sums(env, &f, SMALL, &mark);
			ms_env_sim_fail(env, ops[k], NULL, nth, 1 + nth % 3, nth % 2 ? ENOSPC : EIO);
			for (uint64_t tx = 1; tx <= 25; tx++) {
				struct model was = model_new();
				model_copy(&was, &m);
				struct ms_err why = MS_ERR_INIT;
				f.appended = tx;
				for (int try = 0; try < 6; try++) {
					ms_pagesums_begin(p);
					if (random_tx(p, &m, tx, &why) == MS_OK)
						break;
					failed++;
					cr_assert(why.code == MS_ENOSPC || why.code == MS_EIO, "%s", why.msg);
					ms_pagesums_abort(p);
					model_copy(&m, &was);
				}
				/* From here the transaction exists: a commit that fails goes on with the next call. */
				failed += ms_pagesums_commit(p, tx, &why) != MS_OK;
				for (int try = 0; tx % 6 == 0 && try < 6 && ms_pagesums_checkpoint(p, tx, NULL, 0, &why) != MS_OK;
				     try++)
					failed++;
				model_free(&was);
			}
			ms_env_sim_clear_rules(env);
			compare(p, &m, nth);
			OK(ms_pagesums_checkpoint(p, 25, NULL, 0, &err));
			all += failed;
			ms_env_sim_crash(env);
			ms_pagesums_close(p);
			ms_env_sim_restart(env);
			p = open_sums(env, &f, SMALL, &mark);
			cr_assert_eq(mark, 25);
			compare(p, &m, nth);
			ms_pagesums_close(p);
			model_free(&m);
			ms_env_sim_free(env);
		}
		cr_assert_gt(all, 0, "operation %zu: nothing failed", k);
	}
}
