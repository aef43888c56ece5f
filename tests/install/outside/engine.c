/*
 * A toy engine: a single file of pages of 2 KiB. Page 1: "TOY1", u32 dirty, u64 number of the last transaction, u32 pages; all other pages are of bytes that
 * depend on the transaction that wrote them. Before a transaction is flushed, a copy of the whole file goes to copies/<number>: whatever is
 * restored names its transaction in page 1 and must equal that copy.
 *
 *   engine DIR run SHADOW SEED COUNT URL...   COUNT transactions under an observer; prints "committed N unshipped U"
 *   engine DIR blind SEED COUNT               the same without one
 *   engine DIR misuse SHADOW                  what the interface refuses
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/observer.h"
#include "flat.h"

#define PAGE 2048u
#define MAX_PAGES 600u

static struct {
	int fd;
	char dir[PATH_MAX / 2];
	uint64_t txid, seed;
	uint32_t pages;
} db;

static void die(const char *what) {
	fprintf(stderr, "engine: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t next_random(void) {
	db.seed = db.seed * 6364136223846793005u + 1442695040888963407u;
	return db.seed >> 33;
}

static void put_page(uint32_t pgno, const uint8_t *page) {
	if (pwrite(db.fd, page, PAGE, (off_t)(pgno - 1) * PAGE) != (ssize_t)PAGE)
		die("write");
}

static void header(uint8_t page[PAGE], uint32_t dirty) {
	memset(page, 0, PAGE);
	memcpy(page, "TOY1", 4);
	memcpy(page + 4, &dirty, 4);
	memcpy(page + 8, &db.txid, 8);
	memcpy(page + 16, &db.pages, 4);
}

static void copy_file(void) {
	char path[PATH_MAX];
	static uint8_t all[MAX_PAGES * PAGE];
	size_t len = (size_t)db.pages * PAGE;
	snprintf(path, sizeof path, "%s/copies/%llu", db.dir, (unsigned long long)db.txid);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || pread(db.fd, all, len, 0) != (ssize_t)len || write(fd, all, len) != (ssize_t)len)
		die(path);
	close(fd);
}

static void open_file(void) {
	char path[PATH_MAX];
	uint8_t page[PAGE];
	uint32_t dirty = 0;
	struct stat st;
	snprintf(path, sizeof path, "%s/copies", db.dir);
	mkdir(path, 0700);
	snprintf(path, sizeof path, "%s/toy.db", db.dir);
	db.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
	if (db.fd < 0 || fstat(db.fd, &st))
		die(path);
	if (st.st_size == 0) {
		db.pages = 40;
		db.txid = 1;
		for (uint32_t i = 2; i <= db.pages; i++) {
			memset(page, (int)i, PAGE);
			put_page(i, page);
		}
	} else {
		if (pread(db.fd, page, PAGE, 0) != (ssize_t)PAGE || memcmp(page, "TOY1", 4) != 0)
			die("not a toy");
		memcpy(&dirty, page + 4, 4);
		memcpy(&db.txid, page + 8, 8);
		memcpy(&db.pages, page + 16, 4);
		if (!dirty)
			return;
		/* Died in the middle: this engine knows no rollback, what is there is the next state. */
		db.txid++;
		db.pages = (uint32_t)((uint64_t)st.st_size / PAGE);
	}
	header(page, 0);
	put_page(1, page);
	if (ftruncate(db.fd, (off_t)db.pages * PAGE))
		die("truncate");
	copy_file();
}

static enum ms_code read_pages(void *arg, uint32_t first, uint32_t count, uint8_t *out, struct ms_err *err) {
	size_t len = (size_t)count * PAGE;
	(void)arg;
	ssize_t n = pread(db.fd, out, len, (off_t)(first - 1) * PAGE);
	if (n < 0)
		return ms_err_sys(err, errno, MS_EIO, "toy.db");
	memset(out + n, 0, len - (size_t)n);
	return MS_OK;
}

/* One transaction; o NULL: nobody watches. */
static void transact(struct ms_observer *o) {
	static uint8_t images[64][PAGE];
	struct ms_page_frame frames[64];
	uint32_t n = 0, old = db.pages;
	struct ms_err err = MS_ERR_INIT;
	static const uint8_t attrs[] = {0xa1, 0x63, 't', 'o', 'y', 0x61, '1'}; /* {"toy": "1"} */
	if (o)
		ms_observer_begin(o);
	header(images[0], 1);
	put_page(1, images[0]);
	db.txid++;
	/* Now and then the file grows or shrinks. */
	uint64_t r = next_random() % 10;
	if (r == 0 && db.pages + 5 < MAX_PAGES)
		db.pages += 1 + (uint32_t)(next_random() % 5);
	else if (r == 1 && db.pages > 30)
		db.pages -= 1 + (uint32_t)(next_random() % 5);
	uint32_t changes = 1 + (uint32_t)(next_random() % 12);
	for (n = 1; n <= changes; n++) {
		uint32_t pgno = 2 + (uint32_t)(next_random() % (db.pages - 1));
		bool again = false;
		for (uint32_t k = 1; k < n; k++)
			again |= frames[k].pgno == pgno;
		if (again) {
			n--;
			continue;
		}
		if (pread(db.fd, images[n], PAGE, (off_t)(pgno - 1) * PAGE) < 0)
			die("read");
		for (int k = 0; k < 40; k++)
			images[n][next_random() % PAGE] = (uint8_t)next_random();
		put_page(pgno, images[n]);
		frames[n] = (struct ms_page_frame){pgno, images[n]};
	}
	/* What the file has grown by without a frame of its own. */
	for (uint32_t pgno = old + 1; pgno <= db.pages; pgno++) {
		uint8_t page[PAGE];
		bool there = false;
		for (uint32_t k = 1; k < n; k++)
			there |= frames[k].pgno == pgno;
		memset(page, 0xee, PAGE);
		if (!there)
			put_page(pgno, page);
	}
	if (db.pages < old && ftruncate(db.fd, (off_t)db.pages * PAGE))
		die("truncate");
	header(images[0], 0);
	put_page(1, images[0]);
	frames[0] = (struct ms_page_frame){1, images[0]};
	if (fdatasync(db.fd))
		die("sync");
	copy_file();
	if (!o)
		return;
	struct ms_page_flush f = {.page_size = PAGE, .db_pages = db.pages, .engine_txid = db.txid, .nframes = n, .frames = frames, .attrs = attrs,
				  .attrs_len = sizeof attrs};
	if (ms_stream_on_page_flush(o, &f, &err) != MS_OK) {
		fprintf(stderr, "engine: flush: %s\n", err.msg);
		exit(1);
	}
}

static enum ms_code observe(const char *shadow, const char *const *urls, unsigned n, struct ms_observer **ret, struct ms_err *err) {
	static char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/toy.db", db.dir);
	struct ms_observer_config cfg = {.path = path, .shadow_dir = shadow, .urls = urls, .nurls = n,
					 .db = {.page_size = PAGE, .db_pages = db.pages, .engine_txid = db.txid, .mode = 0640, .read = read_pages}};
	return ms_observer_open(&cfg, ret, err);
}

static int run(const char *shadow, unsigned long count, const char *const *urls, unsigned n) {
	struct ms_observer *o = NULL;
	struct ms_err err = MS_ERR_INIT;
	uint64_t txid = 0;
	bool unshipped = true;
	if (observe(shadow, urls, n, &o, &err) != MS_OK || ms_observer_wait(o, 20000000, &txid, &err) != MS_OK) {
		fprintf(stderr, "engine: %s\n", err.msg);
		return 1;
	}
	printf("attached %llu\n", (unsigned long long)txid);
	fflush(stdout);
	for (unsigned long i = 0; i < count; i++) {
		transact(o);
		if (i % 50 == 7) { /* begun, and nothing came of it */
			ms_observer_begin(o);
			ms_observer_cancel(o);
		}
	}
	if (ms_observer_wait(o, 20000000, &txid, &err) != MS_OK) {
		fprintf(stderr, "engine: %s\n", err.msg);
		return 1;
	}
	ms_observer_close(o, &unshipped);
	printf("committed %llu unshipped %d\n", (unsigned long long)txid, unshipped);
	return 0;
}

#define EXPECT(c) \
	do { \
		if (!(c)) { \
			fprintf(stderr, "engine: line %d: not so: %s\n", __LINE__, #c); \
			return 1; \
		} \
	} while (0)

static int misuse(const char *shadow) {
	struct ms_observer *o = NULL, *second = NULL;
	struct ms_err err = MS_ERR_INIT;
	uint8_t page[PAGE];
	struct ms_page_frame frame = {1, page};
	header(page, 0);
	EXPECT(observe(shadow, NULL, 0, &o, &err) == MS_OK);
	EXPECT(observe(shadow, NULL, 0, &second, &err) == MS_EBUSY);
	EXPECT(strstr(err.msg, shadow) != NULL);
	EXPECT(ms_observer_wait(o, 20000000, NULL, &err) == MS_OK);
	struct ms_page_flush f = {.page_size = PAGE, .db_pages = db.pages, .engine_txid = db.txid, .nframes = 1, .frames = &frame};
	ms_observer_begin(o);
	EXPECT(ms_stream_on_page_flush(o, &f, &err) == MS_EINVAL); /* the same number again */
	f.engine_txid++;
	f.page_size = 4096;
	ms_observer_begin(o);
	EXPECT(ms_stream_on_page_flush(o, &f, &err) == MS_EINVAL);
	const char *bad[] = {"nowhere://x/y"};
	EXPECT(observe("/proc/none/shadow", NULL, 0, &second, &err) != MS_OK);
	EXPECT(observe(shadow, bad, 1, &second, &err) == MS_EUSAGE || err.code == MS_EUSAGE);
	ms_observer_close(o, NULL);
	ms_observer_close(NULL, NULL);
	/* Closed at once, before it was attached. */
	EXPECT(observe(shadow, NULL, 0, &o, &err) == MS_OK);
	ms_observer_close(o, NULL);
	puts("refused");
	return 0;
}

int main(int argc, char **argv) {
	struct ms_err err = MS_ERR_INIT;
	if (argc < 4 || ms_replica_register(&flat_driver, &err) != MS_OK)
		return 2;
	snprintf(db.dir, sizeof db.dir, "%s", argv[1]);
	open_file();
	if (strcmp(argv[2], "run") == 0 && argc > 6) {
		db.seed = strtoull(argv[4], NULL, 10);
		return run(argv[3], strtoul(argv[5], NULL, 10), (const char *const *)argv + 6, (unsigned)argc - 6);
	}
	if (strcmp(argv[2], "misuse") == 0)
		return misuse(argv[3]);
	if (strcmp(argv[2], "blind") == 0 && argc > 4) {
		db.seed = strtoull(argv[3], NULL, 10);
		for (unsigned long i = strtoul(argv[4], NULL, 10); i; i--)
			transact(NULL);
		return 0;
	}
	return 2;
}
