#include "restore/verify.h"

#include <sqlite3.h>
#include <stdlib.h>

#include "base/fs.h"
#include "core/hash.h"

#define STRETCH_BYTES (1u << 20)
#define PROGRESS_OPS 100000

static bool canceled(const atomic_bool *c) { return c && atomic_load(c); }

static enum ms_code stretch(struct ms_verify_pages *v, uint64_t first, uint32_t n, uint8_t *buf, uint64_t *h, struct ms_err *err) {
	uint32_t size = v->state->page_size, lock = ms_lock_page(size);
	size_t got = 0;
	uint64_t sum = 0;
	enum ms_code rc = v->env->ops->pread(v->file, buf, (size_t)n * size, ((int64_t)first - 1) * size, &got, err);
	if (!rc && got != (size_t)n * size)
		rc = ms_err_set(err, MS_EIO, "the restored file ends at byte %llu, before page %llu", (unsigned long long)((first - 1) * size + got),
				(unsigned long long)first + got / size);
	if (!rc)
		rc = ms_pagehash_get(v->hashes, (uint32_t)first, n, h, err);
	for (uint32_t i = 0; !rc && i < n; i++) {
		const uint8_t *page = buf + (size_t)i * size;
		uint32_t pgno = (uint32_t)first + i;
		if (pgno == lock) {
			for (uint32_t k = 0; k < size; k++) {
				if (page[k])
					return ms_err_set(err, MS_ECORRUPT, "the lock page, %u, is not empty", pgno);
			}
			continue;
		}
		uint64_t is = ms_page_hash(pgno, page, size);
		if (is != h[i])
			rc = ms_err_set(err, MS_EIO, "page %u of the restored file does not read back as it was written", pgno);
		sum += is;
	}
	atomic_fetch_add(&v->sum, sum);
	atomic_fetch_add(&v->bytes, (uint64_t)n * size);
	return rc;
}

enum ms_code ms_verify_pages_work(struct ms_verify_pages *v, struct ms_err *err) {
	uint32_t per = STRETCH_BYTES / v->state->page_size;
	uint8_t *buf = malloc(STRETCH_BYTES);
	uint64_t *h = malloc((size_t)per * sizeof *h);
	enum ms_code rc = buf && h ? MS_OK : ms_err_set(err, MS_ENOMEM, "out of memory for verifying");
	while (!rc && !atomic_load(&v->failed)) {
		uint64_t first = atomic_fetch_add(&v->next, 1) * per + 1;
		if (first > v->state->db_pages)
			break;
		uint64_t left = v->state->db_pages - first + 1;
		if (canceled(v->cancel))
			rc = ms_err_set(err, MS_ECANCELED, "interrupted");
		else
			rc = stretch(v, first, left < per ? (uint32_t)left : per, buf, h, err);
	}
	if (rc)
		atomic_store(&v->failed, true);
	free(buf);
	free(h);
	return rc;
}

enum ms_code ms_verify_pages_finish(struct ms_verify_pages *v, struct ms_err *err) {
	int64_t size = 0, want = (int64_t)v->state->db_pages * v->state->page_size;
	enum ms_code rc = v->env->ops->fsize(v->file, &size, err);
	if (!rc && size != want)
		rc = ms_err_set(err, MS_EIO, "the restored file has %lld bytes, it should have %lld", (long long)size, (long long)want);
	if (!rc && atomic_load(&v->sum) != v->state->checksum)
		rc = ms_err_set(err, MS_ECORRUPT, "the restored file has database checksum %016llx, it should be %016llx",
				(unsigned long long)atomic_load(&v->sum), (unsigned long long)v->state->checksum);
	return rc;
}

/* file: URI of a path: everything but the harmless characters escaped. */
static void uri_of(const char *path, char *ret, size_t cap) {
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;
	const char *head = "file:", *tail = "?immutable=1";
	for (; *head; head++)
		ret[n++] = *head;
	for (const unsigned char *p = (const unsigned char *)path; *p && n + 16 < cap; p++) {
		if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("/._-", *p)) {
			ret[n++] = (char)*p;
		} else {
			ret[n++] = '%';
			ret[n++] = hex[*p >> 4];
			ret[n++] = hex[*p & 15];
		}
	}
	for (; *tail; tail++)
		ret[n++] = *tail;
	ret[n] = '\0';
}

static int on_progress(void *arg) { return canceled(arg); }

enum ms_code ms_verify_sqlite(const char *path, bool full, const atomic_bool *cancel, struct ms_err *err) {
	const char *what = full ? "integrity_check" : "quick_check";
	char uri[3 * MS_PATH_MAX + 64];
	sqlite3 *db = NULL;
	sqlite3_stmt *st = NULL;
	enum ms_code rc = MS_OK;
	uri_of(path, uri, sizeof uri);
	int s = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
	if (s == SQLITE_OK && cancel)
		sqlite3_progress_handler(db, PROGRESS_OPS, on_progress, (void *)(uintptr_t)cancel);
	if (s == SQLITE_OK)
		s = sqlite3_prepare_v2(db, full ? "PRAGMA integrity_check(1)" : "PRAGMA quick_check(1)", -1, &st, NULL);
	if (s == SQLITE_OK)
		s = sqlite3_step(st);
	if (s == SQLITE_INTERRUPT || canceled(cancel)) {
		rc = ms_err_set(err, MS_ECANCELED, "interrupted");
	} else if (s != SQLITE_ROW) {
		rc = ms_err_set(err, s == SQLITE_NOMEM ? MS_ENOMEM : MS_ECORRUPT, "%s of the restored database: %s", what, db ? sqlite3_errmsg(db) : "out of memory");
	} else {
		const char *text = (const char *)sqlite3_column_text(st, 0);
		if (!text || strcmp(text, "ok") != 0)
			rc = ms_err_set(err, MS_ECORRUPT, "%s of the restored database: %.300s (its bytes are those of the source at this txid)", what,
					text ? text : "no answer");
	}
	sqlite3_finalize(st);
	sqlite3_close(db);
	return rc;
}
