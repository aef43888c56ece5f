/*
 * The database's own file and what lies around it. Reads with plain reads (nothing here may create -wal or -shm, nor run a recovery), asks for locks with
 * F_GETLK only. This process holds no locks on the file, so opening and closing it drops none.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/timefmt.h"
#include "cmd/doctor.h"

/* SQLite's locking bytes: PENDING, RESERVED, then the shared range. */
#define PENDING_BYTE 0x40000000
#define SHARED_FIRST (PENDING_BYTE + 2)
#define SHARED_SIZE 510
#define WAL_LARGE (UINT64_C(256) << 20)
#define SHADOW_FLOOR (UINT64_C(64) << 20)

enum ms_finding ms_doctor_filesystem(unsigned long magic, const char **ret_name) {
	static const struct {
		unsigned long magic;
		const char *name;
		enum ms_finding finding;
	} table[] = {
		{0xef53, "ext4", MS_FINDING_OK},	{0x58465342, "xfs", MS_FINDING_OK},	  {0x9123683e, "btrfs", MS_FINDING_OK},
		{0x2fc12fc1, "zfs", MS_FINDING_OK},	{0x01021994, "tmpfs", MS_FINDING_OK},	  {0x794c7630, "overlayfs", MS_FINDING_OK},
		{0xf2f52010, "f2fs", MS_FINDING_OK},	{0x6969, "NFS", MS_FINDING_FAIL},	  {0x517b, "SMB", MS_FINDING_FAIL},
		{0xff534d42, "CIFS", MS_FINDING_FAIL},	{0xfe534d42, "SMB2", MS_FINDING_FAIL},	  {0x01021997, "9p", MS_FINDING_FAIL},
		{0x5346414f, "AFS", MS_FINDING_FAIL},	{0x6b414653, "AFS", MS_FINDING_FAIL},	  {0x73757245, "Coda", MS_FINDING_FAIL},
		{0x65735546, "FUSE", MS_FINDING_WARN},	{0x00c36400, "Ceph", MS_FINDING_WARN},	  {0x01161970, "GFS2", MS_FINDING_WARN},
		{0x7461636f, "OCFS2", MS_FINDING_WARN}, {0x0bd00bd0, "Lustre", MS_FINDING_WARN}, {0x6a656a63, "virtiofs", MS_FINDING_WARN},
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (table[i].magic == magic) {
			*ret_name = table[i].name;
			return table[i].finding;
		}
	*ret_name = NULL;
	return MS_FINDING_OK;
}

static void filesystem(struct ms_doctor *d, const char *subject, const char *path, bool database) {
	struct statfs fs;
	const char *name;
	if (statfs(path, &fs) < 0) {
		ms_doctor_add(d, MS_FINDING_WARN, "filesystem", subject, "look at the mount", "statfs %s: %s", path, strerror(errno));
		return;
	}
	enum ms_finding f = ms_doctor_filesystem((unsigned long)fs.f_type & 0xffffffffUL, &name);
	if (f == MS_FINDING_OK && name)
		ms_doctor_add(d, f, "filesystem", subject, NULL, "%s", name);
	else if (f == MS_FINDING_OK)
		ms_doctor_add(d, f, "filesystem", subject, NULL, "type 0x%lx, not known to lack locks or shared memory", (unsigned long)fs.f_type & 0xffffffffUL);
	else if (f == MS_FINDING_WARN)
		ms_doctor_add(d, f, "filesystem", subject, database ? "all users of the database, migstream among them, must be on one host" : "a local file system is safer",
			      "%s: locks and shared memory may not reach other hosts", name);
	else
		ms_doctor_add(d, database ? MS_FINDING_FAIL : MS_FINDING_WARN, "filesystem", subject,
			      database ? "put the database on a local file system: WAL mode needs memory shared through its -shm file" : "put the shadow directory on a local file system",
			      "%s has no locks and shared memory that SQLite and migstream can rely on", name);
}

/* F_GETLK over a range: -1 the file system has no locks, 0 free, 1 somebody holds a write lock there. */
static int write_locked(int fd, off_t start, off_t len) {
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
	if (fcntl(fd, F_GETLK, &l) < 0)
		return -1;
	return l.l_type == F_WRLCK;
}

static void locks(struct ms_doctor *d, const char *path, int fd) {
	int held = write_locked(fd, SHARED_FIRST, SHARED_SIZE);
	if (held < 0)
		ms_doctor_add(d, MS_FINDING_FAIL, "locks", path, "put the database on a file system with POSIX locks (NFS: mount without nolock)", "asking for locks fails: %s",
			      strerror(errno));
	else if (held)
		ms_doctor_add(d, MS_FINDING_FAIL, "locks", path, "run PRAGMA locking_mode=NORMAL in the application, or wait until its exclusive work is done",
			      "another process holds the database exclusively");
	else
		ms_doctor_add(d, MS_FINDING_OK, "locks", path, NULL, "locks work");
}

static void shared_memory(struct ms_doctor *d, const char *path) {
	char shm[PATH_MAX + 8];
	snprintf(shm, sizeof shm, "%s-shm", path);
	int fd = open(shm, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		ms_doctor_add(d, MS_FINDING_OK, "shared-memory", path, NULL, errno == ENOENT ? "nobody has the database open" : "the -shm file cannot be opened by us");
		return;
	}
	struct stat st;
	void *p = fstat(fd, &st) == 0 && st.st_size >= 136 ? mmap(NULL, 136, PROT_READ, MAP_SHARED, fd, 0) : NULL;
	if (p == MAP_FAILED)
		ms_doctor_add(d, MS_FINDING_FAIL, "shared-memory", path, "put the database on a local file system", "the -shm file cannot be mapped: %s", strerror(errno));
	else
		ms_doctor_add(d, MS_FINDING_OK, "shared-memory", path, NULL, "the -shm file can be mapped");
	if (p && p != MAP_FAILED)
		munmap(p, 136);
	close(fd);
}

static uint32_t be32(const uint8_t *p) {
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void header(struct ms_doctor *d, const char *path, int fd, uint64_t size) {
	uint8_t h[100];
	char text[32];
	ssize_t n = pread(fd, h, sizeof h, 0);
	if (size == 0) {
		ms_doctor_add(d, MS_FINDING_WARN, "header", path, "nothing to do: replication starts with the first commit", "the database is empty");
		return;
	}
	if (n < (ssize_t)sizeof h || memcmp(h, "SQLite format 3", 16) != 0) {
		ms_doctor_add(d, MS_FINDING_FAIL, "header", path, "name a SQLite database; an encrypted one cannot be followed", "this is not a SQLite database");
		return;
	}
	uint32_t page = (uint32_t)h[16] << 8 | h[17], version = be32(h + 96);
	page = page == 1 ? 65536 : page;
	if (!ms_page_size_valid(page))
		ms_doctor_add(d, MS_FINDING_FAIL, "page-size", path, "the header is damaged: restore the database", "page size %" PRIu32 " is not possible", page);
	else if (size % page)
		ms_doctor_add(d, MS_FINDING_WARN, "page-size", path, "a copy that was cut short looks like this: run PRAGMA integrity_check",
			      "page size %" PRIu32 ", but the file's %" PRIu64 " bytes are no whole number of pages", page, size);
	else
		ms_doctor_add(d, MS_FINDING_OK, "page-size", path, NULL, "%" PRIu32 " bytes, %" PRIu64 " pages, %s", page, size / page, ms_size_format(text, size));
	if (h[18] == 2 && h[19] == 2)
		ms_doctor_add(d, MS_FINDING_OK, "wal-mode", path, NULL, "the database is in WAL mode");
	else
		ms_doctor_add(d, MS_FINDING_FAIL, "wal-mode", path, "run once: sqlite3 DB 'PRAGMA journal_mode=WAL'", "the database is not in WAL mode (header bytes 18 and 19 are %u and %u)",
			      h[18], h[19]);
	if (version == 0)
		ms_doctor_add(d, MS_FINDING_OK, "last-writer", path, NULL, "the header does not name the SQLite that wrote it last");
	else if (ms_sqlite_has_wal_reset_bug(version))
		ms_doctor_add(d, MS_FINDING_WARN, "last-writer", path,
			      "use SQLite 3.51.3, 3.50.7, 3.44.6 or newer in the application: its checkpoints can lose pages when two connections race",
			      "SQLite %" PRIu32 ".%" PRIu32 ".%" PRIu32 " updated the header last; it has the WAL-reset bug (3.7.0 to 3.51.2)", version / 1000000,
			      version / 1000 % 1000, version % 1000);
	else
		ms_doctor_add(d, MS_FINDING_OK, "last-writer", path, NULL, "SQLite %" PRIu32 ".%" PRIu32 ".%" PRIu32, version / 1000000, version / 1000 % 1000, version % 1000);
}

/* A sidecar that creates -wal or -shm owns them: only root (which keeps the owner) and the owner may. */
static void rights(struct ms_doctor *d, const char *path, const char *dir, const struct stat *st) {
	char wal[PATH_MAX + 8], shm[PATH_MAX + 8];
	snprintf(wal, sizeof wal, "%s-wal", path);
	snprintf(shm, sizeof shm, "%s-shm", path);
	uid_t me = geteuid();
	bool both = access(wal, F_OK) == 0 && access(shm, F_OK) == 0, usable = both && access(wal, R_OK) == 0 && access(shm, R_OK | W_OK) == 0;
	if (access(path, R_OK) != 0)
		ms_doctor_add(d, MS_FINDING_FAIL, "permissions", path, "run migstream as the database's owner or as root", "uid %u cannot read the database", (unsigned)me);
	else if (access(dir, W_OK) != 0 && !usable)
		ms_doctor_add(d, MS_FINDING_FAIL, "permissions", path, "make the directory writable for migstream, or keep a connection of the application open",
			      "the directory is read-only for uid %u, and there are no -wal and -shm to use", (unsigned)me);
	else if (me == 0 || me == st->st_uid)
		ms_doctor_add(d, MS_FINDING_OK, "permissions", path, NULL, "we run as %s", me == st->st_uid ? "the database's owner" : "root, which keeps the owner of what it creates");
	else if (usable)
		ms_doctor_add(d, MS_FINDING_WARN, "permissions", path, "run migstream as the database's owner or as root",
			      "we run as uid %u, the owner is uid %u: it works only while the application keeps -wal and -shm in being", (unsigned)me, (unsigned)st->st_uid);
	else
		ms_doctor_add(d, MS_FINDING_FAIL, "permissions", path, "run migstream as the database's owner or as root: -wal and -shm made by another user lock the application out",
			      "we run as uid %u, the owner is uid %u, and there are no -wal and -shm to use", (unsigned)me, (unsigned)st->st_uid);
}

static void wal(struct ms_doctor *d, const char *path) {
	char name[PATH_MAX + 16], text[32];
	struct stat st;
	snprintf(name, sizeof name, "%s-wal", path);
	if (stat(name, &st) == 0 && (uint64_t)st.st_size > WAL_LARGE)
		ms_doctor_add(d, MS_FINDING_WARN, "wal-size", path, "look for a reader that never ends; or set wal_autocheckpoint, or run PRAGMA wal_checkpoint(TRUNCATE)",
			      "the WAL has grown to %s", ms_size_format(text, (uint64_t)st.st_size));
	snprintf(name, sizeof name, "%s-journal", path);
	if (stat(name, &st) == 0 && st.st_size > 0)
		ms_doctor_add(d, MS_FINDING_WARN, "rollback-journal", path, "open the database once with sqlite3, so that it is rolled back",
			      "a rollback journal lies beside the database: a crash in rollback mode");
}

static void room(struct ms_doctor *d, const char *subject, const char *dir, uint64_t wanted, const char *what) {
	uint64_t free_bytes;
	struct ms_err err = MS_ERR_INIT;
	char have[32], need[32];
	if (d->env->ops->disk_free(d->env, dir, &free_bytes, &err))
		ms_doctor_add(d, MS_FINDING_WARN, "free-disk", subject, "look at the mount", "%s", err.msg);
	else if (free_bytes < SHADOW_FLOOR)
		ms_doctor_add(d, MS_FINDING_FAIL, "free-disk", subject, "make room", "only %s free", ms_size_format(have, free_bytes));
	else if (free_bytes < wanted)
		ms_doctor_add(d, MS_FINDING_WARN, "free-disk", subject, "make room", "%s free; %s may need %s", ms_size_format(have, free_bytes), what, ms_size_format(need, wanted));
	else
		ms_doctor_add(d, MS_FINDING_OK, "free-disk", subject, NULL, "%s free", ms_size_format(have, free_bytes));
}

void ms_doctor_database(struct ms_doctor *d, const char *path) {
	char real[PATH_MAX], dir[MS_PATH_MAX];
	struct stat st, link;
	struct ms_err err = MS_ERR_INIT;
	if (stat(path, &st) < 0) {
		ms_doctor_add(d, errno == ENOENT ? MS_FINDING_WARN : MS_FINDING_FAIL, "file", path,
			      errno == ENOENT ? "nothing to do if the application will create it; else check the path" : "check the path and its permissions", "%s", strerror(errno));
		return;
	}
	if (!S_ISREG(st.st_mode)) {
		ms_doctor_add(d, MS_FINDING_FAIL, "file", path, "name the database file itself", "this is not a regular file");
		return;
	}
	if (!realpath(path, real) || ms_path_dir(dir, sizeof dir, real, &err)) {
		ms_doctor_add(d, MS_FINDING_FAIL, "file", path, "check the path and its permissions", "%s", err.code ? err.msg : strerror(errno));
		return;
	}
	if (lstat(path, &link) == 0 && S_ISLNK(link.st_mode))
		ms_doctor_add(d, MS_FINDING_OK, "file", path, NULL, "a symbolic link to %.400s", real);
	else
		ms_doctor_add(d, MS_FINDING_OK, "file", path, NULL, "exists");
	rights(d, real, dir, &st);
	int fd = open(real, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		header(d, path, fd, (uint64_t)st.st_size);
		locks(d, path, fd);
		close(fd);
	}
	shared_memory(d, real);
	filesystem(d, path, real, true);
	wal(d, real);
	room(d, path, dir, (uint64_t)st.st_size / 2, "the WAL");
	/* Everything under one heading, however the parts named the file. */
	for (unsigned i = 0; i < d->n; i++)
		if (strcmp(d->checks[i].subject, real) == 0)
			snprintf(d->checks[i].subject, sizeof d->checks[i].subject, "%s", path);
}

void ms_doctor_shadow(struct ms_doctor *d, const char *shadow_dir, uint64_t db_bytes) {
	char subject[256], dir[MS_PATH_MAX], up[MS_PATH_MAX];
	struct ms_err err = MS_ERR_INIT;
	snprintf(subject, sizeof subject, "shadow directory %s", shadow_dir);
	snprintf(dir, sizeof dir, "%s", shadow_dir);
	/* Not made yet: its nearest existing parent decides. */
	while (access(dir, F_OK) != 0 && !ms_path_dir(up, sizeof up, dir, &err) && strcmp(up, dir) != 0)
		memcpy(dir, up, sizeof dir);
	if (access(dir, W_OK | X_OK) != 0)
		ms_doctor_add(d, MS_FINDING_FAIL, "permissions", subject, "set shadowDir or MIGSTREAM_SHADOW to a directory that migstream may write to", "%s is not writable for uid %u",
			      dir, (unsigned)geteuid());
	else
		ms_doctor_add(d, MS_FINDING_OK, "permissions", subject, NULL, strcmp(dir, shadow_dir) == 0 ? "writable" : "can be made");
	filesystem(d, subject, dir, false);
	room(d, subject, dir, db_bytes > SHADOW_FLOOR ? db_bytes : SHADOW_FLOOR, "journal and snapshots");
}
