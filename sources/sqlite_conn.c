#include "sources/sqlite_conn.h"

#include <stdlib.h>
#include <string.h>

#define WAL_INDEX_REGION 32768
#define WAL_WRITE_LOCK 0
#define WAL_READ_LOCK_0 3
#define WAL_READERS 5
#define WRITE_LOCK_REFUSALS 8

/*
 * A reader that finds the wal-index header half stored (a writer is at it just then) takes the write lock for an instant and looks again, or
 * runs a recovery. An application with busy_timeout=0 that begins a transaction in that instant gets SQLITE_BUSY, which it would not have got
 * without us: measured, 1 in 100,000 commits at full speed. So the first requests of a begin for that lock are answered "busy" here; SQLite
 * then looks at the header again by itself, after the fifth time with pauses. A header that stays bad gets its recovery.
 *
 * The shim also sees which slot a read was given, which SQLite does not tell otherwise.
 */
struct ms_sqlite_shim {
	sqlite3_io_methods methods; /* first: the file points here */
	const sqlite3_io_methods *own;
	unsigned refused;
	int slot; /* read slot that is locked, -1 none */
};

static int shm_lock(sqlite3_file *file, int offset, int n, int flags) {
	struct ms_sqlite_shim *s = (struct ms_sqlite_shim *)(uintptr_t)file->pMethods;
	if (offset == WAL_WRITE_LOCK && flags == (SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE) && s->refused < WRITE_LOCK_REFUSALS) {
		s->refused++;
		return SQLITE_BUSY;
	}
	int rc = s->own->xShmLock(file, offset, n, flags);
	if (rc == SQLITE_OK && flags & SQLITE_SHM_SHARED && offset >= WAL_READ_LOCK_0 && offset < WAL_READ_LOCK_0 + WAL_READERS)
		s->slot = flags & SQLITE_SHM_LOCK ? offset - WAL_READ_LOCK_0 : -1;
	return rc;
}

int ms_sqlite_conn_slot(const struct ms_sqlite_conn *c) {
	return c->shim && c->reading ? c->shim->slot : -1;
}

static bool put_shim(struct ms_sqlite_conn *c) {
	if (c->file->pMethods->iVersion < 2 || !c->file->pMethods->xShmLock)
		return true; /* no shared memory: the source refuses such a database by itself */
	if (!(c->shim = malloc(sizeof *c->shim)))
		return false;
	*c->shim = (struct ms_sqlite_shim){.methods = *c->file->pMethods, .own = c->file->pMethods, .slot = -1};
	c->shim->methods.xShmLock = shm_lock;
	if (c->shim->methods.iVersion > 3)
		c->shim->methods.iVersion = 3; /* what our copy holds */
	c->file->pMethods = &c->shim->methods;
	return true;
}

static const char *db_path(struct ms_sqlite_conn *c) {
	const char *p = c->db ? sqlite3_db_filename(c->db, "main") : NULL;
	return p ? p : "database";
}

static enum ms_code fail(struct ms_sqlite_conn *c, const char *what, int rc, struct ms_err *err) {
	enum ms_code code;
	switch (rc & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL:
		code = MS_EBUSY;
		break;
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_AUTH:
		code = MS_EPERM;
		break;
	case SQLITE_NOTADB:
	case SQLITE_CORRUPT:
		code = MS_ECORRUPT;
		break;
	case SQLITE_NOMEM:
		code = MS_ENOMEM;
		break;
	case SQLITE_FULL:
		code = MS_ENOSPC;
		break;
	default:
		code = MS_EIO;
	}
	ms_err_set(err, code, "%s: %s: %s (SQLite %d)", db_path(c), what, c->db ? sqlite3_errmsg(c->db) : sqlite3_errstr(rc), rc);
	if (err)
		err->sys = c->db ? sqlite3_system_errno(c->db) : 0;
	return code;
}

static int prepare(struct ms_sqlite_conn *c, const char *sql, sqlite3_stmt **ret) {
	return sqlite3_prepare_v3(c->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);
}

enum ms_code ms_sqlite_conn_open(struct ms_sqlite_conn *c, const char *path, struct ms_err *err) {
	*c = (struct ms_sqlite_conn){0};
	int rc = sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);
	sqlite3_int64 no_mmap = 0;
	if (rc != SQLITE_OK || (rc = sqlite3_db_config(c->db, SQLITE_DBCONFIG_LOOKASIDE, NULL, 0, 0)) != SQLITE_OK ||
	    (rc = sqlite3_db_config(c->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL)) != SQLITE_OK ||
	    (rc = sqlite3_wal_autocheckpoint(c->db, 0)) != SQLITE_OK ||
	    (rc = sqlite3_file_control(c->db, "main", SQLITE_FCNTL_MMAP_SIZE, &no_mmap)) != SQLITE_OK ||
	    (rc = sqlite3_file_control(c->db, "main", SQLITE_FCNTL_FILE_POINTER, &c->file)) != SQLITE_OK ||
	    /* user_version comes out of page 1 alone: the schema is never parsed, so a large one costs nothing. */
	    (rc = prepare(c, "BEGIN", &c->begin)) != SQLITE_OK ||
	    (rc = prepare(c, "PRAGMA user_version", &c->probe)) != SQLITE_OK ||
	    (rc = prepare(c, "COMMIT", &c->end)) != SQLITE_OK) {
		enum ms_code code = fail(c, "open", rc, err);
		ms_sqlite_conn_close(c, false);
		return code;
	}
	if (!c->file || !c->file->pMethods) {
		ms_sqlite_conn_close(c, false);
		return ms_err_set(err, MS_EIO, "%s: SQLite gives no file", path);
	}
	if (!put_shim(c)) {
		ms_sqlite_conn_close(c, false);
		return ms_err_set(err, MS_ENOMEM, "%s: connection", path);
	}
	return MS_OK;
}

void ms_sqlite_conn_close(struct ms_sqlite_conn *c, bool sweep) {
	ms_sqlite_conn_end(c);
	sqlite3_finalize(c->begin);
	sqlite3_finalize(c->probe);
	sqlite3_finalize(c->end);
	if (c->db && sweep)
		sqlite3_db_config(c->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	if (c->shim)
		c->file->pMethods = c->shim->own;
	sqlite3_close(c->db);
	free(c->shim);
	*c = (struct ms_sqlite_conn){0};
}

enum ms_code ms_sqlite_conn_begin(struct ms_sqlite_conn *c, struct ms_err *err) {
	if (c->reading)
		return MS_OK;
	if (c->shim)
		c->shim->refused = 0;
	int rc = sqlite3_step(c->begin);
	if (rc == SQLITE_DONE)
		rc = sqlite3_step(c->probe);
	if (rc != SQLITE_ROW) {
		enum ms_code code = fail(c, "begin a read", rc, err);
		sqlite3_reset(c->probe);
		sqlite3_reset(c->begin);
		if (!sqlite3_get_autocommit(c->db)) {
			sqlite3_step(c->end);
			sqlite3_reset(c->end);
		}
		return code;
	}
	sqlite3_reset(c->probe);
	sqlite3_reset(c->begin);
	c->reading = true;
	return MS_OK;
}

void ms_sqlite_conn_end(struct ms_sqlite_conn *c) {
	if (!c->reading)
		return;
	sqlite3_step(c->end);
	sqlite3_reset(c->end);
	c->reading = false;
}

enum ms_code ms_sqlite_conn_read(struct ms_sqlite_conn *c, void *buf, size_t n, int64_t off, struct ms_err *err) {
	/* SQLite's read takes an int. */
	for (size_t done = 0; done < n;) {
		size_t part = n - done < (1u << 30) ? n - done : 1u << 30;
		int rc = c->file->pMethods->xRead(c->file, (char *)buf + done, (int)part, off + (int64_t)done);
		if (rc == SQLITE_IOERR_SHORT_READ) {
			done += part; /* zero-filled by SQLite */
			continue;
		}
		if (rc != SQLITE_OK) {
			return ms_err_set(err, MS_EIO, "%s: read of %zu bytes at %lld: %s", db_path(c), part,
					  (long long)off + (long long)done, sqlite3_errstr(rc));
		}
		done += part;
	}
	return MS_OK;
}

const volatile void *ms_sqlite_conn_shm(struct ms_sqlite_conn *c) {
	volatile void *p = NULL;
	if (c->file->pMethods->iVersion < 2 || !c->file->pMethods->xShmMap ||
	    c->file->pMethods->xShmMap(c->file, 0, WAL_INDEX_REGION, 0, &p) != SQLITE_OK)
		return NULL;
	return p;
}

enum ms_code ms_sqlite_conn_checkpoint(struct ms_sqlite_conn *c, struct ms_err *err) {
	if (c->shim)
		c->shim->refused = 0;
	int rc = sqlite3_wal_checkpoint_v2(c->db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	return rc == SQLITE_OK ? MS_OK : fail(c, "checkpoint", rc, err);
}
