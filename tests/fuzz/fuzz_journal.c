/*
 * Journal files: open with repair, reader, stand-alone recovery. First byte even: the rest is the newest file as it is. Odd: a
 * sound file is made of the rest (u8 steps: its entries), then some of its bytes are changed, so that the fuzzer gets behind the
 * checksums.
 *
 * Whatever the bytes are: open answers, entries come in ascending order and, in the second form, each with the content it was
 * written with; what is appended afterwards is there after another open.
 */
#include <string.h>

#include "core/crc.h"
#include "core/journal.h"
#include "fuzz/fuzz.h"

/* The few file operations that a journal needs, in memory. */
#define FILES 12
struct ms_file {
	char name[64];
	uint8_t *data;
	size_t len;
};
static struct ms_file disk[FILES];
static int64_t now;

static const char *base(const char *path) {
	const char *p = strrchr(path, '/');
	return p ? p + 1 : path;
}
static struct ms_file *look(const char *path) {
	for (int i = 0; i < FILES; i++)
		if (disk[i].name[0] && !strcmp(disk[i].name, base(path)))
			return &disk[i];
	return NULL;
}
static int64_t mem_now(struct ms_env *e) {
	return (void)e, now += 10;
}
static uint64_t mem_mono(struct ms_env *e) {
	return (void)e, (uint64_t)(now += 10) * 1000;
}
static enum ms_code mem_open(struct ms_env *e, const char *path, int flags, unsigned mode, struct ms_file **ret,
			     struct ms_err *err) {
	(void)e, (void)mode;
	if ((*ret = look(path)))
		return MS_OK;
	if (!(flags & MS_O_CREATE))
		return ms_err_set(err, MS_ENOTFOUND, "%s", path);
	for (int i = 0; i < FILES; i++)
		if (!disk[i].name[0]) {
			snprintf(disk[i].name, sizeof disk[i].name, "%s", base(path));
			*ret = &disk[i];
			return MS_OK;
		}
	return ms_err_set(err, MS_ENOSPC, "%s", path);
}
static void mem_close(struct ms_file *f) {
	(void)f;
}
static enum ms_code mem_pread(struct ms_file *f, void *buf, size_t n, int64_t off, size_t *ret_n, struct ms_err *err) {
	(void)err;
	*ret_n = (size_t)off < f->len ? f->len - (size_t)off : 0;
	if (*ret_n > n)
		*ret_n = n;
	if (*ret_n)
		memcpy(buf, f->data + off, *ret_n);
	return MS_OK;
}
static enum ms_code mem_truncate(struct ms_file *f, int64_t size, struct ms_err *err) {
	(void)err;
	uint8_t *p = realloc(f->data, (size_t)size + 1);
	REQUIRE(p);
	if ((size_t)size > f->len)
		memset(p + f->len, 0, (size_t)size - f->len);
	f->data = p;
	f->len = (size_t)size;
	return MS_OK;
}
static enum ms_code mem_pwrite(struct ms_file *f, const void *buf, size_t n, int64_t off, struct ms_err *err) {
	if ((size_t)off + n > f->len)
		(void)!mem_truncate(f, off + (int64_t)n, err);
	if (n)
		memcpy(f->data + off, buf, n);
	return MS_OK;
}
static enum ms_code mem_sync(struct ms_file *f, struct ms_err *err) {
	return (void)f, (void)err, MS_OK;
}
static enum ms_code mem_size(struct ms_file *f, int64_t *ret, struct ms_err *err) {
	return (void)err, *ret = (int64_t)f->len, MS_OK;
}
static enum ms_code mem_stat(struct ms_env *e, const char *path, struct ms_stat *ret, struct ms_err *err) {
	(void)e;
	struct ms_file *f = look(path);
	memset(ret, 0, sizeof *ret);
	if (!strcmp(path, "/j") || !strcmp(path, "/")) {
		ret->is_dir = true;
		return MS_OK;
	}
	if (!f)
		return ms_err_set(err, MS_ENOTFOUND, "%s", path);
	ret->is_file = true;
	ret->size = (int64_t)f->len;
	return MS_OK;
}
static enum ms_code mem_rename(struct ms_env *e, const char *from, const char *to, struct ms_err *err) {
	(void)e;
	struct ms_file *f = look(from);
	if (!f)
		return ms_err_set(err, MS_ENOTFOUND, "%s", from);
	REQUIRE(!look(to)); /* nothing that was set aside is replaced */
	snprintf(f->name, sizeof f->name, "%s", base(to));
	return MS_OK;
}
static enum ms_code mem_mkdir(struct ms_env *e, const char *path, unsigned mode, struct ms_err *err) {
	(void)e, (void)mode;
	return ms_err_set(err, MS_EEXISTS, "%s", path);
}
static enum ms_code mem_fsync_dir(struct ms_env *e, const char *path, struct ms_err *err) {
	return (void)e, (void)path, (void)err, MS_OK;
}
static enum ms_code mem_readdir(struct ms_env *e, const char *path, ms_dir_cb cb, void *arg, struct ms_err *err) {
	(void)e, (void)path, (void)err;
	for (int i = 0; i < FILES; i++)
		if (disk[i].name[0] && !cb(arg, disk[i].name, false))
			break;
	return MS_OK;
}
static const struct ms_env_ops ops = {.now_us = mem_now,
				      .mono_ns = mem_mono,
				      .open = mem_open,
				      .close = mem_close,
				      .pread = mem_pread,
				      .pwrite = mem_pwrite,
				      .fsync = mem_sync,
				      .fdatasync = mem_sync,
				      .truncate = mem_truncate,
				      .fsize = mem_size,
				      .stat = mem_stat,
				      .rename = mem_rename,
				      .mkdir = mem_mkdir,
				      .fsync_dir = mem_fsync_dir,
				      .readdir = mem_readdir};
static struct ms_env env = {&ops};

static struct {
	uint32_t len;
	uint64_t crc;
} written[300];
static unsigned nwritten;
static bool sound;

static enum ms_code each(void *arg, const struct ms_journal_entry *e, unsigned n, struct ms_err *err) {
	uint64_t *last = arg;
	(void)err;
	for (unsigned i = 0; i < n; i++) {
		REQUIRE(e[i].seq > *last);
		*last = e[i].seq;
		uint64_t crc = ms_crc64(ms_crc64(0, e[i].payload, e[i].len), e[i].db, e[i].db_len);
		if (sound && e[i].seq <= nwritten)
			REQUIRE(e[i].len == written[e[i].seq - 1].len && crc == written[e[i].seq - 1].crc);
	}
	return MS_OK;
}

static void read_all(struct ms_journal *j, const char *db, uint64_t from, bool gaps) {
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	struct ms_err err = MS_ERR_INIT;
	uint64_t last = from ? from - 1 : 0;
	enum ms_code rc;
	REQUIRE(ms_journal_reader_new(j, db, db ? strlen(db) : 0, from, &r, &err) == MS_OK);
	while ((rc = ms_journal_reader_next(r, &e, &err)) == MS_OK || (rc == MS_EGAP && gaps))
		if (rc == MS_OK) {
			(void)!each(&last, &e, 1, NULL);
			REQUIRE(!db || !strcmp(db, e.db));
		}
	REQUIRE(rc == MS_ENOTFOUND);
	ms_journal_reader_free(r);
}

/* p: entries (u8 length code, u8 flags and database), 0xff ends; then changes (u16le place, u8 xor). */
static void make(const uint8_t *p, size_t n) {
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC};
	struct ms_journal *j;
	struct ms_err err = MS_ERR_INIT;
	unsigned rotations = 0;
	static const char *const dbs[] = {"a", "b", "", "longer name"};
	REQUIRE(ms_journal_open(&env, "/j", &cfg, &j, &err) == MS_OK);
	while (n >= 2 && p[0] != 0xff && nwritten < 250) {
		uint8_t data[9000];
		uint32_t len = p[0] < 200 ? p[0] : (p[0] - 199u) * 150;
		uint64_t seq;
		memset(data, p[1], len);
		struct iovec iov = {data, len};
		const char *db = dbs[p[1] >> 4 & 3];
		uint16_t flags = (p[1] & 1 ? MS_ENTRY_CONTINUES : 0) | (p[1] & 2 ? MS_ENTRY_BEGINS : 0);
		REQUIRE(ms_journal_append(j, db, strlen(db), flags, &iov, 1, &seq, &err) == MS_OK && seq == nwritten + 1);
		written[nwritten].len = len;
		written[nwritten++].crc = ms_crc64(ms_crc64(0, data, len), db, strlen(db));
		if (p[1] & 4)
			REQUIRE(ms_journal_sync(j, seq, &err) == MS_OK);
		if (p[1] & 8 && rotations++ < 4)
			REQUIRE(ms_journal_rotate(j, &err) == MS_OK);
		p += 2, n -= 2;
	}
	if (n && p[0] == 0xff)
		p++, n--;
	if (n & 1)
		REQUIRE(ms_journal_close(j, &err) == MS_OK);
	else
		REQUIRE(ms_journal_sync(j, UINT64_MAX, &err) == MS_OK);
	ms_journal_free(j);
	for (; n >= 3; p += 3, n -= 3) {
		struct ms_file *f = &disk[p[1] >> 6 & 3];
		size_t at = (size_t)p[0] | (size_t)(p[1] & 63) << 8;
		if (f->len)
			f->data[at % f->len] ^= p[2];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC};
	struct ms_journal_recovery_stats st;
	struct ms_journal_stats js;
	struct ms_journal *j;
	struct ms_err err = MS_ERR_INIT;
	uint64_t last = 0, seq;
	if (n < 1)
		return 0;
	nwritten = 0;
	sound = p[0] & 1;
	if (sound) {
		make(p + 1, n - 1);
	} else {
		struct ms_file *f;
		REQUIRE(mem_open(&env, "/j/journal-0000000000000001.msj", MS_O_CREATE, 0, &f, NULL) == MS_OK);
		(void)!mem_pwrite(f, p + 1, n - 1, 0, NULL);
	}
	enum ms_code rc = ms_journal_recover(&env, "/j", NULL, 3, 0, each, &last, &st, &err);
	REQUIRE(rc == MS_OK || rc == MS_EUNSUPPORTED);
	rc = ms_journal_open(&env, "/j", &cfg, &j, &err);
	REQUIRE(rc == MS_OK || rc == MS_EUNSUPPORTED);
	if (rc == MS_OK) {
		ms_journal_get_stats(j, &js);
		read_all(j, NULL, 1, true);
		read_all(j, "a", 1, true);
		read_all(j, "longer name", 2, true);
		struct iovec iov = {(void *)"after", 5};
		REQUIRE(ms_journal_append(j, "a", 1, MS_ENTRY_BEGINS, &iov, 1, &seq, &err) == MS_OK && seq == js.next_seq);
		REQUIRE(ms_journal_close(j, &err) == MS_OK);
		ms_journal_free(j);
		REQUIRE(ms_journal_open(&env, "/j", &cfg, &j, &err) == MS_OK);
		REQUIRE(ms_journal_next_seq(j) == seq + 1);
		struct ms_journal_reader *r;
		struct ms_journal_entry e;
		REQUIRE(ms_journal_reader_new(j, "a", 1, seq, &r, &err) == MS_OK);
		REQUIRE(ms_journal_reader_next(r, &e, &err) == MS_OK && e.seq == seq && e.len == 5);
		ms_journal_reader_free(r);
		ms_journal_free(j);
	}
	for (int i = 0; i < FILES; i++) {
		free(disk[i].data);
		memset(&disk[i], 0, sizeof disk[i]);
	}
	return 0;
}
