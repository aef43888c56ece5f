#include "contract/contract.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

static void MS_PRINTF(3, 4) fail(struct ms_contract *c, int line, const char *fmt, ...) {
	va_list ap;
	if (c->failed)
		return;
	int n = snprintf(c->why, sizeof c->why, "line %d: ", line);
	va_start(ap, fmt);
	vsnprintf(c->why + n, sizeof c->why - (size_t)n, fmt, ap);
	va_end(ap);
	c->failed = true;
}
#define FAIL(c, ...) fail(c, __LINE__, __VA_ARGS__)
#define CHECK(c, cond, ...)                                                                                                                          \
	do {                                                                                                                                         \
		if (!(cond)) {                                                                                                                       \
			FAIL(c, __VA_ARGS__);                                                                                                        \
			return;                                                                                                                      \
		}                                                                                                                                    \
	} while (0)
#define HOLDS(...)                                                                                                                                   \
	do {                                                                                                                                         \
		if (!holds_pattern(__VA_ARGS__))                                                                                                     \
			return;                                                                                                                      \
	} while (0)
/* code: what the call must return. */
#define WANT(c, code, call)                                                                                                                          \
	do {                                                                                                                                         \
		struct ms_err *err = &(struct ms_err){0};                                                                                            \
		enum ms_code want_rc_ = (call);                                                                                                      \
		CHECK(c, want_rc_ == (code), "%s: %s (%s), wanted %s", #call, ms_code_name(want_rc_), err->msg, ms_code_name(code));                 \
	} while (0)

static struct ms_replica *open_or_fail(struct ms_contract *c) {
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	if (c->open(c, &r, &err))
		FAIL(c, "open: %s", err.msg);
	return r;
}
#define OPEN(c, r)                                                                                                                                   \
	struct ms_replica *r = open_or_fail(c);                                                                                                      \
	if (!r)                                                                                                                                      \
	return

/* Deterministic content: byte i of a body with this seed. */
static uint8_t byte_at(uint64_t seed, uint64_t i) {
	uint64_t x = (i / 8 + seed) * UINT64_C(0x9E3779B97F4A7C15);
	x ^= x >> 29;
	return (uint8_t)(x >> (i % 8 * 8));
}

struct pattern_body {
	struct ms_body body;
	uint64_t seed, len, off;
	size_t step;		   /* most bytes a read gives, 0 = all it can */
	uint64_t fail_at;	   /* an error here, UINT64_MAX never */
	void (*at_half)(void *arg); /* once, when half has been read */
	void *arg;
};

static enum ms_code pattern_read(struct ms_body *body, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct pattern_body *b = (struct pattern_body *)body;
	uint64_t n = b->len - b->off;
	if (n > cap)
		n = cap;
	if (b->step && n > b->step)
		n = b->step;
	if (b->off >= b->fail_at)
		return ms_err_set(err, MS_ECORRUPT, "the body failed");
	if (b->at_half && b->off >= b->len / 2) {
		b->at_half(b->arg);
		b->at_half = NULL;
	}
	for (uint64_t i = 0; i < n; i++)
		((uint8_t *)buf)[i] = byte_at(b->seed, b->off + i);
	b->off += n;
	*ret_n = (size_t)n;
	return MS_OK;
}

static enum ms_code pattern_rewind(struct ms_body *body, struct ms_err *err) {
	(void)err;
	((struct pattern_body *)body)->off = 0;
	return MS_OK;
}

static struct pattern_body pattern(uint64_t seed, uint64_t len) {
	return (struct pattern_body){.body = {.size = (int64_t)len, .read = pattern_read, .rewind = pattern_rewind}, .seed = seed, .len = len, .fail_at = UINT64_MAX};
}

struct pattern_check {
	uint64_t seed, off, bad;
};

static enum ms_code pattern_got(void *arg, const void *data, size_t n, struct ms_err *err) {
	struct pattern_check *k = arg;
	(void)err;
	for (size_t i = 0; i < n; i++)
		k->bad += ((const uint8_t *)data)[i] != byte_at(k->seed, k->off + i);
	k->off += n;
	return MS_OK;
}

static bool holds_pattern(struct ms_contract *c, struct ms_replica *r, const char *name, uint64_t seed, uint64_t from, int64_t len, uint64_t expect) {
	struct pattern_check k = {seed, from, 0};
	struct ms_err err = MS_ERR_INIT;
	enum ms_code rc = ms_replica_get(r, name, (int64_t)from, len, pattern_got, &k, &err);
	if (rc)
		FAIL(c, "get %s: %s", name, err.msg);
	else if (k.off - from != expect || k.bad)
		FAIL(c, "get %s: %llu bytes instead of %llu, %llu of them wrong", name, (unsigned long long)(k.off - from), (unsigned long long)expect,
		     (unsigned long long)k.bad);
	return !c->failed;
}

static enum ms_code put_pattern(struct ms_replica *r, const char *name, uint64_t seed, uint64_t len, struct ms_err *err) {
	struct pattern_body b = pattern(seed, len);
	return ms_replica_put(r, name, &b.body, err);
}

/* As core does it: what passes is tried again, and then a name that is taken may be taken by the try before. */
static enum ms_code put_again(struct ms_replica *r, const char *name, uint64_t seed, uint64_t len, struct ms_err *err) {
	enum ms_code rc = MS_ERETRY;
	for (int tries = 0; rc == MS_ERETRY && tries < 5; tries++) {
		rc = put_pattern(r, name, seed, len, err);
		if (rc == MS_EEXISTS && tries) {
			struct pattern_check k = {seed, 0, 0};
			if (ms_replica_get(r, name, 0, -1, pattern_got, &k, err) == MS_OK && !k.bad && k.off == len)
				rc = MS_OK;
		}
	}
	return rc;
}

/* Names of a listing, one per line, and their sizes' sum. */
struct names {
	struct ms_buf text;
	unsigned n, stop_after;
	int64_t bytes;
};

static bool names_cb(void *arg, const struct ms_object *o) {
	struct names *l = arg;
	if (ms_buf_printf(&l->text, NULL, "%s\n", o->name))
		abort();
	l->bytes += o->size;
	return ++l->n != l->stop_after;
}

static void names_init(struct names *l) {
	*l = (struct names){0};
	ms_buf_init(&l->text, 64u << 20);
}

static void expect_list(struct ms_contract *c, struct ms_replica *r, const char *prefix, const char *after, const char *expect) {
	struct names l;
	struct ms_err err = MS_ERR_INIT;
	names_init(&l);
	enum ms_code rc = ms_replica_list(r, prefix, after, names_cb, &l, &err);
	if (rc)
		FAIL(c, "list '%s' after '%s': %s", prefix, after, err.msg);
	else if (l.text.len != strlen(expect) || (l.text.len && memcmp(l.text.data, expect, l.text.len) != 0))
		FAIL(c, "list '%s' after '%s' is\n%.*swanted\n%s", prefix, after, (int)l.text.len, l.text.data ? (char *)l.text.data : "", expect);
	ms_buf_release(&l.text);
}

/* ---- cases ---- */

static void case_roundtrip(struct ms_contract *c) {
	OPEN(c, r);
	static const uint64_t sizes[] = {0, 1, 2, 4095, 4096, 65537, 1u << 20, (5u << 20) + 3};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		char name[64];
		snprintf(name, sizeof name, "sizes/%zu", i);
		WANT(c, MS_OK, put_pattern(r, name, i, sizes[i], err));
		HOLDS(c, r, name, i, 0, -1, sizes[i]);
	}
	/* Unknown length, delivered byte by byte in part. */
	struct pattern_body b = pattern(77, 300001);
	b.body.size = -1;
	b.step = 7;
	WANT(c, MS_OK, ms_replica_put(r, "sizes/unknown", &b.body, err));
	HOLDS(c, r, "sizes/unknown", 77, 0, -1, 300001);
	ms_replica_close(r);
}

static void case_ranges(struct ms_contract *c) {
	OPEN(c, r);
	const uint64_t n = 700001;
	WANT(c, MS_OK, put_pattern(r, "a/ranges", 5, n, err));
	static const int64_t ranges[][3] = {/* offset, length, bytes that come */
					    {0, 0, 0},	       {0, 1, 1},	  {1, 1, 1},	   {0, -1, 700001},	 {700000, 1, 1},   {700000, 10, 1},
					    {700001, 1, 0},    {800000, 5, 0},	  {800000, -1, 0}, {262143, 2, 2},	 {4095, 4097, 4097},
					    {699000, -1, 1001}, {0, 700001, 700001}, {0, INT64_MAX, 700001}};
	for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
		HOLDS(c, r, "a/ranges", 5, (uint64_t)ranges[i][0], ranges[i][1], (uint64_t)ranges[i][2]);
	struct ms_buf b;
	ms_buf_init(&b, 100);
	WANT(c, MS_ETOOBIG, ms_replica_get_buf(r, "a/ranges", 0, -1, &b, err));
	CHECK(c, b.len == 0, "a failed get left %zu bytes", b.len);
	ms_buf_release(&b);
	ms_replica_close(r);
}

static void case_absent(struct ms_contract *c) {
	OPEN(c, r);
	struct ms_buf b;
	ms_buf_init(&b, 100);
	expect_list(c, r, "", "", "");
	WANT(c, MS_ENOTFOUND, ms_replica_get_buf(r, "no/such", 0, -1, &b, err));
	WANT(c, MS_OK, put_pattern(r, "no/other", 1, 10, err));
	WANT(c, MS_ENOTFOUND, ms_replica_get_buf(r, "no/such", 0, -1, &b, err));
	WANT(c, MS_ENOTFOUND, ms_replica_get_buf(r, "no", 0, -1, &b, err));
	WANT(c, MS_OK, ms_replica_remove(r, "no/such", err));
	WANT(c, MS_OK, ms_replica_remove(r, "nowhere/at/all", err));
	WANT(c, MS_OK, ms_replica_remove(r, "no/other", err));
	WANT(c, MS_OK, ms_replica_remove(r, "no/other", err));
	WANT(c, MS_ENOTFOUND, ms_replica_get_buf(r, "no/other", 0, -1, &b, err));
	expect_list(c, r, "", "", "");
	/* The folder that became empty is usable again. */
	WANT(c, MS_OK, put_pattern(r, "no/other", 2, 10, err));
	HOLDS(c, r, "no/other", 2, 0, -1, 10);
	ms_buf_release(&b);
	ms_replica_close(r);
}

static void case_create_only(struct ms_contract *c) {
	OPEN(c, r);
	WANT(c, MS_OK, put_pattern(r, "x/once", 1, 1000, err));
	WANT(c, MS_EEXISTS, put_pattern(r, "x/once", 2, 1000, err));
	WANT(c, MS_EEXISTS, put_pattern(r, "x/once", 1, 1000, err));
	WANT(c, MS_EEXISTS, put_pattern(r, "x/once", 3, 0, err));
	HOLDS(c, r, "x/once", 1, 0, -1, 1000);
	expect_list(c, r, "", "", "x/once\n");
	OPEN(c, other);
	WANT(c, MS_EEXISTS, put_pattern(other, "x/once", 2, 5, err));
	ms_replica_close(other);
	ms_replica_close(r);
}

static void case_names(struct ms_contract *c) {
	OPEN(c, r);
	static const char legal[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.";
	char name[MS_OBJECT_NAME_MAX + 8], longest[MS_OBJECT_NAME_MAX + 8];
	/* Every legal byte, alone where it may be, and inside. */
	for (const char *p = legal; *p; p++) {
		snprintf(name, sizeof name, "names/x%cx", *p);
		WANT(c, MS_OK, put_pattern(r, name, (unsigned char)*p, 3, err));
		HOLDS(c, r, name, (unsigned char)*p, 0, -1, 3);
		snprintf(name, sizeof name, "names/%c", *p);
		WANT(c, *p == '.' ? MS_EINVAL : MS_OK, put_pattern(r, name, (unsigned char)*p, 3, err));
	}
	struct names l;
	names_init(&l);
	WANT(c, MS_OK, ms_replica_list(r, "names/", "", names_cb, &l, err));
	CHECK(c, l.n == 2 * (sizeof legal - 1) - 1, "%u names listed", l.n);
	ms_buf_release(&l.text);
	/* Case matters. */
	HOLDS(c, r, "names/A", 'A', 0, -1, 3);
	HOLDS(c, r, "names/a", 'a', 0, -1, 3);
	/* The longest name: 512 bytes in parts of 255, 250 and 5. */
	memset(longest, 'n', sizeof longest);
	longest[255] = longest[255 + 1 + 250] = '/';
	longest[MS_OBJECT_NAME_MAX] = '\0';
	WANT(c, MS_OK, put_pattern(r, longest, 9, 9, err));
	HOLDS(c, r, longest, 9, 0, -1, 9);
	static const char *const bad[] = {"",	  "/",	   "/a",   "a/",   "a//b",  ".",     "..",    "../a", "a/../b", "a/.", "a/..", ".hidden", "a/.hidden",
					  "a b",  "a\nb",  "a\\b", "a:b",  "a*",    "a%2fb", "\xc3\xa4", "a\x7f", "a~",	    "a,b", "a=b",  "a?b",     "a#b"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		WANT(c, MS_EINVAL, put_pattern(r, bad[i], 0, 1, err));
		WANT(c, MS_EINVAL, ms_replica_remove(r, bad[i], err));
	}
	memset(longest, 'n', 256);
	longest[256] = '\0';
	WANT(c, MS_EINVAL, put_pattern(r, longest, 0, 1, err));
	ms_replica_close(r);
}

static void case_list(struct ms_contract *c) {
	OPEN(c, r);
	/* Byte order of whole names: '+' '-' '.' come before '/', digits and letters after it. */
	static const char *const names[] = {"d/b", "d/a", "d", "d-x", "d.x", "d+x", "d/a-/z", "d0", "dd/a", "e/1/2/3", "e/1/2", "a", "d_"};
	static const bool blocked[] = {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}; /* a name that is another's folder: left out on purpose */
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (!blocked[i])
			WANT(c, MS_OK, put_pattern(r, names[i], i, i, err));
	expect_list(c, r, "", "", "a\nd+x\nd-x\nd.x\nd/a\nd/a-/z\nd/b\nd0\nd_\ndd/a\ne/1/2/3\n");
	expect_list(c, r, "d", "", "d+x\nd-x\nd.x\nd/a\nd/a-/z\nd/b\nd0\nd_\ndd/a\n");
	expect_list(c, r, "d/", "", "d/a\nd/a-/z\nd/b\n");
	expect_list(c, r, "d/a", "", "d/a\nd/a-/z\n");
	expect_list(c, r, "d/a-/", "", "d/a-/z\n");
	expect_list(c, r, "e/1/", "", "e/1/2/3\n");
	expect_list(c, r, "e/", "e/1/2/3", "");
	expect_list(c, r, "e/", "e/0", "e/1/2/3\n");
	expect_list(c, r, "z", "", "");
	expect_list(c, r, "d/b/c/", "", "");
	expect_list(c, r, "", "d/a", "d/a-/z\nd/b\nd0\nd_\ndd/a\ne/1/2/3\n");
	expect_list(c, r, "", "d/", "d/a\nd/a-/z\nd/b\nd0\nd_\ndd/a\ne/1/2/3\n");
	expect_list(c, r, "d", "d/a-/z", "d/b\nd0\nd_\ndd/a\n");
	expect_list(c, r, "d/", "zzz", "");
	expect_list(c, r, "d/", "a", "d/a\nd/a-/z\nd/b\n");
	struct names l;
	names_init(&l);
	l.stop_after = 2;
	WANT(c, MS_OK, ms_replica_list(r, "", "", names_cb, &l, err));
	CHECK(c, l.n == 2, "a stopped listing went on to %u", l.n);
	ms_buf_release(&l.text);
	ms_replica_close(r);
}

static void case_many(struct ms_contract *c) {
	OPEN(c, r);
	char name[64], last[64] = "";
	/* Put in an order that is not that of names. */
	for (unsigned i = 0; i < c->listed; i++) {
		snprintf(name, sizeof name, "many/%05u.seg", (unsigned)((uint64_t)i * 7919 % c->listed));
		WANT(c, MS_OK, put_pattern(r, name, 0, 1, err));
	}
	/* By pages of 999, each from where the one before ended. */
	unsigned total = 0;
	int64_t bytes = 0;
	for (;;) {
		struct names l;
		names_init(&l);
		l.stop_after = 999;
		WANT(c, MS_OK, ms_replica_list(r, "many/", last, names_cb, &l, err));
		char *save = NULL;
		if (l.n && ms_buf_u8(&l.text, 0, NULL))
			abort();
		for (char *s = l.n ? strtok_r((char *)l.text.data, "\n", &save) : NULL; s; s = strtok_r(NULL, "\n", &save)) {
			snprintf(name, sizeof name, "many/%05u.seg", total++);
			CHECK(c, strcmp(s, name) == 0, "listed %s where %s belongs", s, name);
			memcpy(last, name, sizeof last);
		}
		unsigned n = l.n;
		bytes += l.bytes;
		ms_buf_release(&l.text);
		if (n < 999)
			break;
	}
	CHECK(c, total == c->listed && bytes == (int64_t)c->listed, "%u of %u objects listed, %lld bytes", total, c->listed, (long long)bytes);
	ms_replica_close(r);
}

static void case_large(struct ms_contract *c) {
	OPEN(c, r);
	WANT(c, MS_OK, put_pattern(r, "large/one", 3, c->large, err));
	HOLDS(c, r, "large/one", 3, 0, -1, c->large);
	HOLDS(c, r, "large/one", 3, c->large - 100, -1, 100);
	HOLDS(c, r, "large/one", 3, c->large / 2 + 1, 4097, 4097);
	WANT(c, MS_OK, ms_replica_remove(r, "large/one", err));
	ms_replica_close(r);
}

static void case_failed_body(struct ms_contract *c) {
	OPEN(c, r);
	struct pattern_body b = pattern(1, 3u << 20);
	b.fail_at = 2u << 20;
	WANT(c, MS_ECORRUPT, ms_replica_put(r, "fail/body", &b.body, err));
	expect_list(c, r, "", "", "");
	/* A body that lies about its size. */
	b = pattern(1, 1000);
	b.body.size = 999;
	WANT(c, MS_EINVAL, ms_replica_put(r, "fail/long", &b.body, err));
	b = pattern(1, 1000);
	b.body.size = 1001;
	WANT(c, MS_EINVAL, ms_replica_put(r, "fail/short", &b.body, err));
	expect_list(c, r, "", "", "");
	WANT(c, MS_OK, put_pattern(r, "fail/body", 4, 10, err));
	HOLDS(c, r, "fail/body", 4, 0, -1, 10);
	ms_replica_close(r);
}

static void cancel_now(void *arg) { ms_replica_cancel(arg); }

static enum ms_code cancel_in_get(void *arg, const void *data, size_t n, struct ms_err *err) {
	(void)data, (void)n, (void)err;
	ms_replica_cancel(arg);
	return MS_OK;
}

static bool cancel_in_list(void *arg, const struct ms_object *o) {
	(void)o;
	ms_replica_cancel(arg);
	return true;
}

static void case_cancel(struct ms_contract *c) {
	OPEN(c, r);
	struct pattern_body b = pattern(1, 8u << 20);
	b.at_half = cancel_now;
	b.arg = r;
	WANT(c, MS_ECANCELED, ms_replica_put(r, "cancel/put", &b.body, err));
	WANT(c, MS_ECANCELED, put_pattern(r, "cancel/later", 1, 1, err));
	struct names l;
	names_init(&l);
	WANT(c, MS_ECANCELED, ms_replica_list(r, "", "", names_cb, &l, err));
	ms_buf_release(&l.text);
	ms_replica_close(r);

	OPEN(c, g);
	expect_list(c, g, "", "", "");
	WANT(c, MS_OK, put_pattern(g, "cancel/put", 2, 8u << 20, err));
	WANT(c, MS_OK, put_pattern(g, "cancel/put2", 2, 1, err));
	WANT(c, MS_ECANCELED, ms_replica_get(g, "cancel/put", 0, -1, cancel_in_get, g, err));
	ms_replica_close(g);

	OPEN(c, k);
	WANT(c, MS_ECANCELED, ms_replica_list(k, "", "", cancel_in_list, k, err));
	ms_replica_close(k);
}

/* ---- races ---- */

#define RACERS 4

struct race {
	struct ms_contract *c;
	struct ms_replica *r;
	unsigned id;
	pthread_barrier_t *gate;
	enum ms_code *codes; /* one per round */
	char why[640];
};

static void *racer(void *arg) {
	struct race *t = arg;
	for (unsigned i = 0; i < t->c->races; i++) {
		char name[64];
		struct ms_err err = MS_ERR_INIT;
		snprintf(name, sizeof name, "race/%u/%05u", i % 7, i);
		pthread_barrier_wait(t->gate);
		t->codes[i] = put_again(t->r, name, t->id + 1, 100 + t->id, &err);
		if (t->codes[i] != MS_OK && t->codes[i] != MS_EEXISTS)
			snprintf(t->why, sizeof t->why, "%s: %s", name, err.msg);
	}
	return NULL;
}

static void case_race(struct ms_contract *c) {
	struct race t[RACERS] = {0};
	pthread_t id[RACERS];
	pthread_barrier_t gate;
	pthread_barrier_init(&gate, NULL, RACERS);
	for (unsigned i = 0; i < RACERS; i++) {
		t[i] = (struct race){.c = c, .r = open_or_fail(c), .id = i, .gate = &gate, .codes = calloc(c->races, sizeof *t[i].codes)};
		if (!t[i].r || !t[i].codes)
			return;
	}
	for (unsigned i = 0; i < RACERS; i++)
		if (pthread_create(&id[i], NULL, racer, &t[i]))
			abort();
	for (unsigned i = 0; i < RACERS; i++)
		pthread_join(id[i], NULL);
	for (unsigned n = 0; n < c->races && !c->failed; n++) {
		char name[64];
		unsigned winners = 0, winner = 0;
		for (unsigned i = 0; i < RACERS; i++) {
			if (t[i].codes[n] == MS_OK)
				winners++, winner = i;
			else if (t[i].codes[n] != MS_EEXISTS)
				FAIL(c, "racer %u: %s", i, t[i].why);
		}
		if (winners != 1)
			FAIL(c, "round %u has %u winners", n, winners);
		snprintf(name, sizeof name, "race/%u/%05u", n % 7, n);
		if (!c->failed)
			(void)holds_pattern(c, t[0].r, name, winner + 1, 0, -1, 100 + winner);
	}
	for (unsigned i = 0; i < RACERS; i++) {
		ms_replica_close(t[i].r);
		free(t[i].codes);
	}
	pthread_barrier_destroy(&gate);
}

/* Writers of many names at once, while another lists: whatever is listed is whole. */
struct writer {
	struct ms_replica *r;
	unsigned id;
	atomic_uint *left;
	char why[640];
};
#define WRITER_OBJECTS 200

static void *writer(void *arg) {
	struct writer *w = arg;
	for (unsigned i = 0; i < WRITER_OBJECTS && !w->why[0]; i++) {
		char name[64];
		struct ms_err err = MS_ERR_INIT;
		snprintf(name, sizeof name, "w/%u/%u", i % 5, w->id * WRITER_OBJECTS + i);
		if (put_again(w->r, name, 42, 20000, &err))
			snprintf(w->why, sizeof w->why, "%s: %s", name, err.msg);
		if (i % 3 == 0 && ms_replica_remove(w->r, name, &err))
			snprintf(w->why, sizeof w->why, "%s: %s", name, err.msg);
	}
	atomic_fetch_sub(w->left, 1);
	return NULL;
}

static void case_writers(struct ms_contract *c) {
	struct writer w[RACERS] = {0};
	pthread_t id[RACERS];
	atomic_uint left = RACERS;
	OPEN(c, r);
	for (unsigned i = 0; i < RACERS; i++) {
		w[i] = (struct writer){.r = open_or_fail(c), .id = i, .left = &left};
		if (!w[i].r || pthread_create(&id[i], NULL, writer, &w[i]))
			abort();
	}
	struct names l;
	struct ms_err err = MS_ERR_INIT;
	bool last;
	do {
		last = atomic_load(&left) == 0;
		names_init(&l);
		if (ms_replica_list(r, "w/", "", names_cb, &l, &err))
			FAIL(c, "list while others write: %s", err.msg);
		else if (l.bytes != (int64_t)l.n * 20000)
			FAIL(c, "%u objects have %lld bytes", l.n, (long long)l.bytes);
		if (!last)
			ms_buf_release(&l.text);
	} while (!last);
	for (unsigned i = 0; i < RACERS; i++) {
		pthread_join(id[i], NULL);
		if (w[i].why[0])
			FAIL(c, "writer %u: %s", i, w[i].why);
		ms_replica_close(w[i].r);
	}
	if (!c->failed && l.n != RACERS * (WRITER_OBJECTS - (WRITER_OBJECTS + 2) / 3))
		FAIL(c, "%u objects at the end", l.n);
	ms_buf_release(&l.text);
	ms_replica_close(r);
}

/* ---- death in a put ---- */

static void tell_parent(void *arg) {
	int fd = *(int *)arg;
	if (write(fd, "h", 1) != 1)
		_exit(3);
	for (;;) /* killed here, in the middle of the body */
		pause();
}

static void case_killed(struct ms_contract *c) {
	if (!c->across_processes)
		return;
	for (int round = 0; round < 3; round++) {
		int fds[2], status;
		char byte;
		if (pipe(fds))
			abort();
		pid_t pid = fork();
		if (pid == 0) {
			struct ms_replica *r = NULL;
			struct ms_err err = MS_ERR_INIT;
			struct pattern_body b = pattern(6, 4u << 20);
			b.at_half = tell_parent;
			b.arg = &fds[1];
			if (c->open(c, &r, &err) == MS_OK)
				(void)!ms_replica_put(r, "killed/one", &b.body, &err);
			_exit(4);
		}
		close(fds[1]);
		bool told = read(fds[0], &byte, 1) == 1;
		close(fds[0]);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		CHECK(c, told && WIFSIGNALED(status), "the child ended by itself (status %d)", status);
		OPEN(c, r);
		struct ms_buf b;
		ms_buf_init(&b, 100);
		expect_list(c, r, "", "", "");
		WANT(c, MS_ENOTFOUND, ms_replica_get_buf(r, "killed/one", 0, 1, &b, err));
		ms_buf_release(&b);
		ms_replica_close(r);
	}
	OPEN(c, r);
	WANT(c, MS_OK, put_pattern(r, "killed/one", 8, 100, err));
	HOLDS(c, r, "killed/one", 8, 0, -1, 100);
	ms_replica_close(r);
}

static void case_hostile(struct ms_contract *c) {
	static const char *const hostile[] = {"plain/..x\n", "plain/sp ace", "plain/\xff\xfe", "plain/.hidden", "plain/tab\t", "plain/back\\slash", "plain/\"quoted\"", "plain/$(id)"};
	OPEN(c, r);
	WANT(c, MS_OK, put_pattern(r, "plain/a", 1, 1, err));
	WANT(c, MS_OK, put_pattern(r, "plain/z", 1, 1, err));
	if (c->plant)
		for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++)
			c->plant(c, hostile[i], "x", 1);
	expect_list(c, r, "", "", "plain/a\nplain/z\n");
	expect_list(c, r, "plain/", "plain/a", "plain/z\n");
	ms_replica_close(r);
}

static const struct ms_contract_case cases[] = {
	{"roundtrip", case_roundtrip}, {"ranges", case_ranges},	  {"absent", case_absent},   {"create_only", case_create_only}, {"names", case_names},
	{"list", case_list},	       {"many", case_many},	  {"large", case_large},     {"failed_body", case_failed_body}, {"cancel", case_cancel},
	{"race", case_race},	       {"writers", case_writers}, {"killed", case_killed},   {"hostile", case_hostile},
};
#define CASES (sizeof cases / sizeof cases[0])

const struct ms_contract_case *ms_contract_order(void) {
	static struct ms_contract_case order[CASES + 1]; /* the last stays empty */
	const char *text = getenv("MS_ORDER_SEED");
	uint64_t x = text ? strtoull(text, NULL, 10) * 2 + 1 : 0;
	memcpy(order, cases, sizeof cases);
	for (size_t i = CASES - 1; x && i > 0; i--) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		size_t k = (size_t)((x >> 33) % (i + 1));
		struct ms_contract_case t = order[i];
		order[i] = order[k];
		order[k] = t;
	}
	if (x) {
		fprintf(stderr, "contract in the order of MS_ORDER_SEED=%s:", text);
		for (size_t i = 0; i < CASES; i++)
			fprintf(stderr, " %s", order[i].name);
		fputc('\n', stderr);
	}
	return order;
}
