/* The source for engines that hand over their transactions themselves: what step() and skip() say of one that waits. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

#include "base/env.h"
#include "sources/push.h"

#define PS 512u

struct engine {
	struct ms_env *env;
	struct ms_source *src;
	uint8_t file[64][PS];
	struct ms_page_flush flush;
	struct ms_page_frame frames[8];
	enum ms_code rc;
	pthread_t thread;
};

static enum ms_code read_file(void *arg, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err) {
	struct engine *e = arg;
	(void)err;
	memcpy(out, e->file[first - 1], (size_t)count * PS);
	return MS_OK;
}

static void open_engine(struct engine *e, uint32_t pages) {
	struct ms_push_config cfg = {.page_size = PS, .db_pages = pages, .engine_txid = 10, .mode = 0600, .read = read_file, .arg = e};
	memset(e, 0, sizeof *e);
	cr_assert((e->env = ms_env_uv_new(NULL, NULL)));
	cr_assert((e->src = ms_push_source_new(e->env, &cfg, NULL)));
}

static void close_engine(struct engine *e) {
	e->src->ops->free(e->src);
	ms_env_uv_free(e->env);
}

static void *writer(void *arg) {
	struct engine *e = arg;
	ms_push_begin(e->src);
	e->rc = ms_push_flush(e->src, &e->flush, NULL);
	return NULL;
}

/* A transaction that writes page `pgno` and leaves `pages` of them waits to be taken. */
static void commit(struct engine *e, uint64_t txid, uint32_t pgno, uint32_t pages) {
	e->frames[0] = (struct ms_page_frame){pgno, e->file[pgno - 1]};
	e->flush = (struct ms_page_flush){.page_size = PS, .db_pages = pages, .engine_txid = txid, .nframes = 1, .frames = e->frames};
	cr_assert_eq(pthread_create(&e->thread, NULL, writer, e), 0);
}

static unsigned ncommits;
static enum ms_code sink_begin(struct ms_sink *k, struct ms_err *err) {
	(void)k, (void)err;
	return MS_OK;
}
static enum ms_code sink_page(struct ms_sink *k, uint32_t pgno, const uint8_t *page, struct ms_err *err) {
	(void)k, (void)pgno, (void)page, (void)err;
	return MS_OK;
}
static enum ms_code sink_commit(struct ms_sink *k, const struct ms_flush_meta *m, struct ms_err *err) {
	(void)k, (void)m, (void)err;
	ncommits++;
	return MS_OK;
}
static void sink_abort(struct ms_sink *k) { (void)k; }
static struct ms_sink sink = {sink_begin, sink_page, sink_commit, sink_abort, 0};

static void mark(void *arg, uint32_t pgno) { ((bool *)arg)[pgno] = true; }

Test(push, a_step_says_when_nothing_waits, .timeout = 20) {
	struct engine e;
	struct ms_source_info info;
	struct ms_step_result res;
	open_engine(&e, 4);
	cr_assert_eq(e.src->ops->attach(e.src, NULL, &info, &res, NULL), MS_OK);
	cr_assert_eq(e.src->ops->step(e.src, &sink, &res, NULL), MS_OK);
	cr_expect(res.state == MS_SRC_FOLLOWING && res.caught_up);
	commit(&e, 11, 2, 4);
	for (ncommits = 0; !ncommits;) {
		cr_assert_eq(e.src->ops->step(e.src, &sink, &res, NULL), MS_OK);
		cr_expect(res.state == MS_SRC_FOLLOWING && res.caught_up);
	}
	pthread_join(e.thread, NULL);
	cr_expect_eq(e.rc, MS_OK);
	/* What was flushed while nobody was attached was never handed over: that is no catching up. */
	e.src->ops->detach(e.src);
	commit(&e, 12, 2, 4);
	pthread_join(e.thread, NULL);
	cr_expect_eq(e.rc, MS_ECLOSED);
	struct ms_cookie old = info.cookie;
	cr_assert_eq(e.src->ops->attach(e.src, &old, &info, &res, NULL), MS_OK);
	cr_expect_not(info.continuous);
	close_engine(&e);
}

Test(push, skipped_growth_is_dirty, .timeout = 20) {
	struct engine e;
	struct ms_source_info info;
	struct ms_step_result res;
	bool dirty[64] = {false};
	open_engine(&e, 4);
	cr_assert_eq(e.src->ops->attach(e.src, NULL, &info, &res, NULL), MS_OK);
	commit(&e, 11, 2, 9); /* pages 5 .. 9 have no frame */
	do {
		cr_assert_eq(e.src->ops->skip(e.src, mark, dirty, &info, &res, NULL), MS_OK);
		cr_expect(res.state == MS_SRC_FOLLOWING && res.caught_up);
	} while (info.db_pages == 4);
	pthread_join(e.thread, NULL);
	cr_expect_eq(e.rc, MS_EBUSY);
	for (uint32_t p = 1; p < 64; p++)
		cr_expect_eq(dirty[p], p == 2 || (p >= 5 && p <= 9), "page %u", p);
	close_engine(&e);
}
