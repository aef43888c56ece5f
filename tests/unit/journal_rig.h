/* What the tests of the journal share: entries whose content follows from a number, and a journal of them to be compared with. */
#ifndef MS_TESTS_UNIT_JOURNAL_RIG_H
#define MS_TESTS_UNIT_JOURNAL_RIG_H

#include "base/env_sim.h"
#include "core/journal.h"
#include "unit/bytes.h"
#include <stdio.h>

#define DIR_ "/j"

/* Entry `id`: database, length and bytes follow from it. */
static inline const char *rig_db(uint64_t id) {
	static const char *const names[] = {"a", "beta", "third-database.db"};
	return names[id % 3];
}
static inline size_t rig_len(uint64_t id) {
	return (size_t)(id * 7 % 41);
}
static inline uint8_t *rig_payload(uint64_t id, size_t n) {
	static uint8_t p[1 << 22];
	cr_assert(n <= sizeof p);
	fill_random(p, n, id);
	return p;
}

static inline struct ms_journal *rig_open(struct ms_env *env, const struct ms_journal_config *cfg) {
	struct ms_journal_config c = {.mode = MS_SYNC_FDATASYNC};
	struct ms_journal *j = NULL;
	OK(ms_journal_open(env, DIR_, cfg ? cfg : &c, &j, &err));
	return j;
}

static inline enum ms_code rig_try(struct ms_journal *j, const char *db, uint16_t flags, uint64_t id, size_t n, uint64_t *seq,
				   struct ms_err *err) {
	uint8_t *p = rig_payload(id, n);
	size_t half = n / 3;
	struct iovec iov[2] = {{p, half}, {p + half, n - half}};
	return ms_journal_append(j, db, db ? strlen(db) : 0, flags, iov, 2, seq, err);
}

/* Appends entry id (which is to get this sequence). */
static inline void rig_put(struct ms_journal *j, uint64_t id) {
	uint64_t seq = 0;
	OK(rig_try(j, rig_db(id), 0, id, rig_len(id), &seq, &err));
	cr_assert_eq(seq, id);
}

static inline void rig_same(const struct ms_journal_entry *e, uint64_t id) {
	cr_assert_eq(e->seq, id);
	cr_assert_eq(e->len, rig_len(id), "entry %llu: %zu bytes", (unsigned long long)id, e->len);
	cr_assert(!memcmp(e->payload, rig_payload(id, e->len), e->len), "entry %llu: bytes differ", (unsigned long long)id);
	cr_assert_str_eq(e->db, rig_db(id));
	cr_assert_eq(e->db_len, strlen(rig_db(id)));
}

/* Reads from..to with nothing missing, and the end behind it. */
static inline void rig_expect(struct ms_journal *j, uint64_t from, uint64_t to) {
	struct ms_journal_reader *r = NULL;
	struct ms_journal_entry e;
	OK(ms_journal_reader_new(j, NULL, 0, from, &r, &err));
	for (uint64_t id = from; id <= to; id++) {
		OK(ms_journal_reader_next(r, &e, &err));
		rig_same(&e, id);
	}
	FAILS(MS_ENOTFOUND, ms_journal_reader_next(r, &e, &err));
	ms_journal_reader_free(r);
}

static inline struct ms_journal_stats rig_stats(struct ms_journal *j) {
	struct ms_journal_stats st;
	ms_journal_get_stats(j, &st);
	return st;
}

static inline void rig_close(struct ms_journal *j) {
	OK(ms_journal_close(j, &err));
	ms_journal_free(j);
}

/* Whole files of a simulated disk. */
static inline size_t rig_load(struct ms_env *env, const char *path, uint8_t *p, size_t cap) {
	struct ms_file *f;
	size_t n;
	OK(env->ops->open(env, path, MS_O_RDONLY, 0, &f, &err));
	OK(env->ops->pread(f, p, cap, 0, &n, &err));
	env->ops->close(f);
	return n;
}
static inline void rig_store(struct ms_env *env, const char *path, const uint8_t *p, size_t n) {
	struct ms_file *f;
	OK(env->ops->open(env, path, MS_O_RDWR | MS_O_CREATE | MS_O_TRUNC, 0600, &f, &err));
	OK(env->ops->pwrite(f, p, n, 0, &err));
	env->ops->close(f);
}
static inline bool rig_unlink_one(void *arg, const char *name, bool is_dir) {
	(void)is_dir;
	snprintf(arg, 300, DIR_ "/%.200s", name);
	return false;
}
static inline void rig_empty(struct ms_env *env) {
	for (;;) {
		char path[300] = "";
		OK(env->ops->readdir(env, DIR_, rig_unlink_one, path, &err));
		if (!path[0])
			return;
		OK(env->ops->unlink(env, path, &err));
	}
}
static inline bool rig_exists(struct ms_env *env, const char *path) {
	struct ms_stat st;
	return env->ops->stat(env, path, &st, NULL) == MS_OK;
}

#define FILE1 "/j/journal-0000000000000001.msj"

#endif
