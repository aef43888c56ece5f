#include "oracle.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4200
#define CHUNK (1u << 20)

struct lg_oracle {
	int db_fd, log_fd; /* log_fd -1: none */
	char wal_path[PATH_BYTES], dir[PATH_BYTES], copy[PATH_BYTES + 16], copy_wal[PATH_BYTES + 16], keep[PATH_BYTES];
	unsigned char *buf; /* CHUNK */
};

static void complain(const char *what, const char *path) { fprintf(stderr, "oracle: %s %s: %s\n", what, path, strerror(errno)); }

struct lg_oracle *lg_oracle_open(const char *db_path, const char *log_path, const char *scratch_dir, const char *keep_dir) {
	struct lg_oracle *o = calloc(1, sizeof *o);
	char parent[PATH_BYTES];
	if (!o || !(o->buf = malloc(CHUNK))) {
		fprintf(stderr, "oracle: out of memory\n");
		free(o);
		return NULL;
	}
	o->log_fd = o->db_fd = -1;
	if (strlen(db_path) > 4000 || (scratch_dir && strlen(scratch_dir) > 4000) || (log_path && strlen(log_path) > 4000) ||
	    (keep_dir && strlen(keep_dir) > 4000)) {
		fprintf(stderr, "oracle: a path is longer than 4000 bytes\n");
		goto fail;
	}
	if (scratch_dir || keep_dir) /* a kept copy is renamed, so it is made on the same file system */
		snprintf(parent, sizeof parent, "%s", keep_dir ? keep_dir : scratch_dir);
	else {
		snprintf(parent, sizeof parent, "%s", log_path ? log_path : db_path);
		char *slash = strrchr(parent, '/');
		if (slash)
			slash[slash == parent] = 0;
		else
			strcpy(parent, ".");
	}
	/* SQLite follows symbolic links before it appends -wal. */
	char *real = realpath(db_path, NULL);
	if (!real || strlen(real) > 4000) {
		complain("cannot resolve", db_path);
		free(real);
		goto fail;
	}
	snprintf(o->wal_path, sizeof o->wal_path, "%s-wal", real);
	free(real);
	if (keep_dir)
		snprintf(o->keep, sizeof o->keep, "%s", keep_dir);
	o->db_fd = open(db_path, O_RDONLY | O_CLOEXEC);
	if (o->db_fd < 0) {
		complain("cannot open", db_path);
		goto fail;
	}
	if (log_path && (o->log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0) {
		complain("cannot open", log_path);
		goto fail;
	}
	snprintf(o->dir, sizeof o->dir, "%.4100s/oracle.XXXXXX", parent);
	if (!mkdtemp(o->dir)) {
		complain("cannot make a directory in", parent);
		o->dir[0] = 0;
		goto fail;
	}
	snprintf(o->copy, sizeof o->copy, "%s/copy.db", o->dir);
	snprintf(o->copy_wal, sizeof o->copy_wal, "%s/copy.db-wal", o->dir);
	return o;
fail:
	lg_oracle_close(o);
	return NULL;
}

static void discard(struct lg_oracle *o) {
	char shm[sizeof o->copy + 8];
	snprintf(shm, sizeof shm, "%s-shm", o->copy);
	unlink(o->copy);
	unlink(o->copy_wal);
	unlink(shm);
}

void lg_oracle_close(struct lg_oracle *o) {
	if (!o)
		return;
	if (o->dir[0]) {
		discard(o);
		rmdir(o->dir);
	}
	if (o->log_fd >= 0)
		close(o->log_fd);
	free(o->buf);
	free(o);
}

static int copy_fd(struct lg_oracle *o, int from, const char *to, int64_t *ret_bytes) {
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int64_t at = 0;
	if (fd < 0) {
		complain("cannot make", to);
		return -1;
	}
	for (;;) {
		ssize_t n = pread(from, o->buf, CHUNK, at);
		if (n < 0) {
			complain("cannot read the source of", to);
			close(fd);
			return -1;
		}
		if (n == 0)
			break;
		for (ssize_t done = 0; done < n;) {
			ssize_t k = write(fd, o->buf + done, (size_t)(n - done));
			if (k < 0) {
				complain("cannot write", to);
				close(fd);
				return -1;
			}
			done += k;
		}
		at += n;
	}
	if (close(fd)) {
		complain("cannot write", to);
		return -1;
	}
	*ret_bytes = at;
	return 0;
}

static int sequence(sqlite3 *conn, uint64_t *ret) {
	sqlite3_stmt *st = NULL;
	*ret = 0;
	/* Also the read that makes BEGIN IMMEDIATE's snapshot certain to be the newest. */
	int rc = sqlite3_prepare_v2(conn, "SELECT count(*) FROM sqlite_schema WHERE name='ms_seq'", -1, &st, NULL);
	bool there = rc == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW && sqlite3_column_int(st, 0) > 0;
	sqlite3_finalize(st);
	if (rc != SQLITE_OK || !there)
		return rc;
	rc = sqlite3_prepare_v2(conn, "SELECT seq FROM ms_seq WHERE id=1", -1, &st, NULL);
	if (rc == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
		*ret = (uint64_t)sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return rc;
}

static int copy_files(struct lg_oracle *o, int64_t *ret_wal) {
	int64_t n;
	*ret_wal = 0;
	if (copy_fd(o, o->db_fd, o->copy, &n))
		return -1;
	int wal = open(o->wal_path, O_RDONLY | O_CLOEXEC);
	if (wal < 0) {
		if (errno == ENOENT)
			return 0;
		complain("cannot open", o->wal_path);
		return -1;
	}
	int rc = copy_fd(o, wal, o->copy_wal, ret_wal);
	close(wal);
	return rc;
}

/* SQLite itself folds the copied WAL into the copied database. */
static int checkpoint(struct lg_oracle *o) {
	sqlite3 *db = NULL;
	int log = -1, done = -1;
	int rc = sqlite3_open_v2(o->copy, &db, SQLITE_OPEN_READWRITE, NULL);
	/* Without a read first, a connection knows no WAL, checkpoints nothing and says OK. */
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, "PRAGMA synchronous=OFF; SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_TRUNCATE, &log, &done);
	if (rc != SQLITE_OK || log != 0 || done != 0) {
		fprintf(stderr, "oracle: checkpoint of the copy failed: %s (%d frames, %d done)\n", db ? sqlite3_errmsg(db) : "no memory", log, done);
		rc = -1;
	}
	if (sqlite3_close(db) != SQLITE_OK)
		rc = -1;
	return rc == SQLITE_OK ? 0 : -1;
}

static int hash(struct lg_oracle *o, struct lg_copy *ret) {
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	int rc = -1, fd = open(o->copy, O_RDONLY | O_CLOEXEC);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (fd < 0 || !ctx || !EVP_DigestInit_ex(ctx, EVP_sha256(), NULL)) {
		complain("cannot hash", o->copy);
		goto out;
	}
	ret->bytes = 0;
	for (ssize_t n; (n = read(fd, o->buf, CHUNK)) != 0; ret->bytes += n)
		if (n < 0 || !EVP_DigestUpdate(ctx, o->buf, (size_t)n)) {
			complain("cannot hash", o->copy);
			goto out;
		}
	if (!EVP_DigestFinal_ex(ctx, md, &len) || len != 32)
		goto out;
	for (unsigned i = 0; i < 32; i++)
		snprintf(ret->sha256 + 2 * i, 3, "%02x", md[i]);
	rc = 0;
out:
	if (fd >= 0)
		close(fd);
	EVP_MD_CTX_free(ctx);
	return rc;
}

int lg_oracle_capture(struct lg_oracle *o, sqlite3 *conn, int64_t begin_us, int64_t end_us, struct lg_copy *ret) {
	int64_t wal = 0;
	int rc = sqlite3_exec(conn, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	if (rc == SQLITE_BUSY)
		return rc;
	if (rc != SQLITE_OK) {
		fprintf(stderr, "oracle: BEGIN IMMEDIATE: %s\n", sqlite3_errmsg(conn));
		return -1;
	}
	rc = sequence(conn, &ret->seq);
	if (rc != SQLITE_OK)
		fprintf(stderr, "oracle: reading ms_seq: %s\n", sqlite3_errmsg(conn));
	else
		rc = copy_files(o, &wal);
	if (sqlite3_exec(conn, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK) {
		fprintf(stderr, "oracle: ROLLBACK: %s\n", sqlite3_errmsg(conn));
		rc = -1;
	}
	if (!rc && wal > 0)
		rc = checkpoint(o);
	if (!rc)
		rc = hash(o, ret);
	if (!rc && o->log_fd >= 0) {
		char line[256];
		int n = snprintf(line, sizeof line, "%llu %s %lld %lld %lld\n", (unsigned long long)ret->seq, ret->sha256, (long long)begin_us,
				 (long long)end_us, (long long)ret->bytes);
		if (write(o->log_fd, line, (size_t)n) != n) {
			complain("cannot append to", "the oracle log");
			rc = -1;
		}
	}
	if (!rc && o->keep[0]) {
		char kept[PATH_BYTES + 32];
		snprintf(kept, sizeof kept, "%s/%llu.db", o->keep, (unsigned long long)ret->seq);
		if (rename(o->copy, kept)) {
			complain("cannot keep a copy as", kept);
			rc = -1;
		}
	}
	discard(o);
	return rc ? -1 : 0;
}
