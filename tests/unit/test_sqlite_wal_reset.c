/* WAL resets and checkpoints, the application's and ours: nothing lost, or the loss is told exactly. */
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include "sources/sqlite_wal_priv.h"
#include "support/sqlite_fx.h"
#include "support/wal_forge.h"

static int64_t wal_bytes(struct fx *f) {
	char path[4300];
	struct stat st;
	snprintf(path, sizeof path, "%s-wal", f->db);
	return stat(path, &st) == 0 ? st.st_size : -1;
}

static struct ms_sqlite_wal *inside(struct fx *f) {
	return (struct ms_sqlite_wal *)f->r.src;
}

Test(sqlite_wal_reset, autocheckpoints_of_the_application) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=20");
	for (int i = 0; i < 60; i++) {
		fx_small(&f, 2);
		rig_step(&f.r);
		usleep(3000);
		rig_step(&f.r);
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 120);
	fx_close(&f);
}

/* FULL, RESTART and TRUNCATE of the application wait for readers as long as its busy timeout: ours gives way. */
static void checkpoint_mode(const char *mode) {
	struct fx f;
	char sql[64];
	fx_open(&f, "", NULL);
	snprintf(sql, sizeof sql, "PRAGMA wal_checkpoint(%s)", mode);
	for (int i = 0; i < 8; i++) {
		fx_small(&f, 4);
		if (i % 2)
			rig_step(&f.r); /* from a caught-up follower, and from one that is behind */
		sq_start(f.app, "%s", sql);
		while (sq_running(f.app)) {
			rig_step(&f.r);
			usleep(f.r.res.more ? 0 : 1000);
		}
		cr_assert_str_eq(sq_result(f.app), "0", "busy at round %d", i);
	}
	if (!strcmp(mode, "TRUNCATE"))
		cr_assert_eq(wal_bytes(&f), 0);
	fx_small(&f, 3);
	fx_check(&f);
	fx_close(&f);
}
Test(sqlite_wal_reset, full_checkpoint_of_the_application) {
	checkpoint_mode("FULL");
}
Test(sqlite_wal_reset, restart_checkpoint_of_the_application) {
	checkpoint_mode("RESTART");
}
Test(sqlite_wal_reset, truncate_checkpoint_of_the_application) {
	checkpoint_mode("TRUNCATE");
}

/* A checkpoint tells that everything is backfilled an instant before it lets go of slot 0: a follower that moves its mark just
 * then gets another slot, and must move on from there, or a RESTART waits for it until it times out. */
Test(sqlite_wal_reset, slot_0_is_taken_as_soon_as_it_can_be_had) {
	struct fx f;
	char path[4300];
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	fx_small(&f, 4);
	rig_drain(&f.r, 10);
	snprintf(path, sizeof path, "%s-shm", f.db);
	int fd = open(path, O_RDWR); /* closed at the end only: that drops the locks of this process */
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 123, .l_len = 1};
	ms_wal_release(inside(&f));
	fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
	for (int i = 0; i < 3; i++) {
		rig_step(&f.r);
		cr_assert_geq(inside(&f)->cur, 0);
		cr_assert_not(inside(&f)->mark.slot0);
		cr_assert_leq(f.r.res.next_poll_us, 4000);
	}
	lock.l_type = F_UNLCK;
	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
	rig_step(&f.r);
	cr_assert(inside(&f)->mark.slot0);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(RESTART)"), "0");
	fx_small(&f, 3);
	fx_check(&f);
	close(fd);
	fx_close(&f);
}

/* SQLite writes a commit's frames first and tells of them in the wal-index after: the event of the first is followed by a look
 * soon, not by one at the end of a quiet database's long poll. */
Test(sqlite_wal_reset, event_that_comes_before_the_wal_index_is_followed_up) {
	struct fx f;
	char path[4300], magic[4];
	fx_open(&f, "", NULL);
	fx_small(&f, 4);
	rig_drain(&f.r, 10);
	while (f.r.res.next_poll_us < 100000) {
		usleep(2000);
		rig_step(&f.r);
	}
	snprintf(path, sizeof path, "%s-wal", f.db);
	int fd = open(path, O_RDWR);
	cr_assert_eq(pread(fd, magic, sizeof magic, 0), sizeof magic);
	cr_assert_eq(pwrite(fd, magic, sizeof magic, 0), sizeof magic); /* as it was: an event, and nothing to see */
	close(fd);
	struct pollfd p = {f.r.src->ops->event_fd(f.r.src), POLLIN, 0};
	cr_assert_eq(poll(&p, 1, 2000), 1);
	rig_step(&f.r);
	cr_assert_leq(f.r.res.next_poll_us, 4000);
	fx_small(&f, 1);
	fx_check(&f);
	fx_close(&f);
}

/* The waiting RESTART of a quiet database wakes us: it has written to the database, not to the WAL. */
Test(sqlite_wal_reset, checkpoint_of_a_quiet_database_is_an_event) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	fx_small(&f, 4);
	rig_drain(&f.r, 10);
	while (f.r.res.next_poll_us < 100000) {
		usleep(2000);
		rig_step(&f.r);
	}
	struct pollfd p = {f.r.src->ops->event_fd(f.r.src), POLLIN, 0};
	cr_assert_eq(poll(&p, 1, 0), 0);
	sq_start(f.app, "PRAGMA wal_checkpoint(RESTART)");
	cr_assert_eq(poll(&p, 1, 2000), 1);
	rig_step(&f.r);
	cr_assert_leq(f.r.res.next_poll_us, 4000);
	while (sq_running(f.app)) {
		rig_step(&f.r);
		usleep(1000);
	}
	cr_assert_str_eq(sq_result(f.app), "0");
	fx_check(&f);
	fx_close(&f);
}

/* The heart of the release window, step by step: the mark is gone, commits follow, the WAL is reset, and the rest is still found.
 */
Test(sqlite_wal_reset, rest_of_a_reset_wal_is_proven_and_handed_over) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	for (int round = 0; round < 6; round++) {
		fx_small(&f, 25);
		rig_drain(&f.r, 5);
		ms_wal_release(inside(&f));
		fx_small(&f, (unsigned)round * 3); /* not yet seen by us */
		fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
		fx_small(&f, 4); /* resets and overwrites the front */
		rig_step(&f.r);
		cr_assert_eq(f.r.res.state, MS_SRC_FOLLOWING, "round %d: %s", round, f.r.res.why);
	}
	fx_check(&f);
	fx_close(&f);
}

static void lose(struct fx *f, const char *checkpoint, unsigned unseen, unsigned after, int64_t want) {
	struct ms_err err = MS_ERR_INIT;
	for (unsigned i = 0; i < 25; i++)
		fx_run(f, "UPDATE seq SET n=n+1");
	rig_drain(&f->r, 5);
	uint64_t commits = f->r.commits;
	ms_wal_release(inside(f));
	for (unsigned i = 0; i < unseen; i++)
		fx_run(f, "UPDATE seq SET n=n+1");
	fx_run(f, checkpoint);
	for (unsigned i = 0; i < after; i++)
		fx_run(f, "UPDATE seq SET n=n+1");
	cr_assert_eq(rig_step(&f->r), MS_SRC_LOST);
	cr_assert_eq(f->r.res.lost_commits, want, "%lld: %s", (long long)f->r.res.lost_commits, f->r.res.why);
	cr_assert_eq(f->r.commits, commits, "nothing is handed over on doubt");
	cr_assert_eq(rig_step(&f->r), MS_SRC_LOST, "until the stream has caught up");
	cr_assert_eq(f->r.src->ops->read_pages(f->r.src, 1, 1, f->r.image, &err), MS_EBUSY);
	cr_assert_eq(f->r.src->ops->skip(f->r.src, NULL, NULL, &f->r.info, &f->r.res, &err), MS_OK);
	cr_assert_eq(f->r.res.state, MS_SRC_FOLLOWING, "%s", f->r.res.why);
	cr_assert_eq(f->r.res.lost_commits, want);
	rig_seed(&f->r);
	fx_small(f, 3);
	fx_check(f);
}

Test(sqlite_wal_reset, overwritten_rest_is_lost_and_counted) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	lose(&f, "PRAGMA wal_checkpoint(PASSIVE)", 5, 300, 305);
	fx_close(&f);
}

Test(sqlite_wal_reset, truncated_rest_is_lost_and_counted) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	lose(&f, "PRAGMA wal_checkpoint(TRUNCATE)", 5, 2, 7);
	fx_close(&f);
}

Test(sqlite_wal_reset, two_resets_are_lost_and_counted) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	lose(&f, "PRAGMA wal_checkpoint(RESTART); UPDATE seq SET n=n+1; PRAGMA wal_checkpoint(RESTART)", 2, 2, 5);
	fx_close(&f);
}

/* A TRUNCATE behind our back with everything captured proves itself through the change counter. */
Test(sqlite_wal_reset, truncate_without_a_mark_and_nothing_unseen) {
	struct fx f;
	fx_open(&f, "", NULL);
	for (int i = 0; i < 5; i++) {
		fx_small(&f, 10);
		rig_drain(&f.r, 5);
		ms_wal_release(inside(&f));
		fx_run(&f, "PRAGMA wal_checkpoint(TRUNCATE)");
		fx_small(&f, 3);
		cr_assert_eq(rig_step(&f.r), MS_SRC_FOLLOWING, "%s", f.r.res.why);
	}
	fx_check(&f);
	fx_close(&f);
}

/* A quiet database whose application never checkpoints. */
Test(sqlite_wal_reset, soft_checkpoint_keeps_a_slow_writers_wal_short) {
	struct fx f;
	struct ms_sqlite_wal_options opt = {.checkpoint = true, .checkpoint_bytes = 100 << 10};
	fx_open(&f, "", &opt);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	for (int i = 0; i < 12; i++) {
		fx_small(&f, 8);
		rig_drain(&f.r, 80);
	}
	int64_t bytes = wal_bytes(&f);
	cr_assert_leq(bytes, 300 << 10, "%lld", (long long)bytes);
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal_reset, soft_checkpoint_can_be_turned_off) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	struct ms_sqlite_wal_options opt = {.checkpoint = false, .checkpoint_bytes = 100 << 10};
	fx_open(&f, "", &opt);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	int64_t before = wal_bytes(&f);
	for (int i = 0; i < 6; i++) {
		fx_small(&f, 8);
		rig_drain(&f.r, 80);
	}
	cr_assert_gt(wal_bytes(&f), before + 6 * 8 * 4096);
	cr_assert_eq(f.r.src->ops->checkpoint(f.r.src, &err), MS_EUNSUPPORTED);
	fx_check(&f);
	fx_close(&f);
}

/* Turned off, and a slow application with automatic checkpoints of its own: those must not be held up by our mark for ever. */
Test(sqlite_wal_reset, slow_application_checkpoints_by_itself) {
	struct fx f;
	struct ms_sqlite_wal_options opt = {.checkpoint = false};
	fx_open(&f, "", &opt);
	fx_run(&f, "PRAGMA wal_autocheckpoint=30");
	for (int i = 0; i < 40; i++) {
		fx_small(&f, 3);
		rig_drain(&f.r, 60);
	}
	int64_t bytes = wal_bytes(&f);
	cr_assert_leq(bytes, 2 * 31 * 4120 + 6 * 4120, "%lld", (long long)bytes);
	fx_check(&f);
	fx_close(&f);
}

Test(sqlite_wal_reset, checkpoint_on_request_empties_the_wal_into_the_file) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	fx_small(&f, 10);
	rig_drain(&f.r, 20);
	cr_assert_eq(f.r.src->ops->checkpoint(f.r.src, &err), MS_OK, "%s", err.msg);
	/* log = checkpointed: nothing is left for the application to do */
	size_t len;
	uint8_t *image = sq_image(f.oracle, f.db, &len);
	FILE *file = fopen(f.db, "rb"); /* our own process: only a test may do this, right before the end */
	uint8_t *raw = malloc(len);
	cr_assert_eq(fread(raw, 1, len, file), len);
	cr_assert_eq(memcmp(raw, image, len), 0);
	fclose(file);
	free(raw);
	free(image);
	fx_close(&f);
}

Test(sqlite_wal_reset, long_reader_of_the_application) {
	struct fx f;
	struct sq_worker *reader = sq_spawn();
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA wal_autocheckpoint=20");
	cr_assert_eq(sq_open(reader, f.db, 1000), 0);
	char sum[64];
	snprintf(sum, sizeof sum, "%s", sq_query(reader, "BEGIN; SELECT n FROM seq"));
	for (int i = 0; i < 40; i++) {
		fx_small(&f, 2);
		rig_step(&f.r);
	}
	cr_assert_gt(wal_bytes(&f), 80 * 4096); /* theirs, not ours */
	cr_assert_str_eq(sq_query(reader, "SELECT n FROM seq; COMMIT"), sum);
	for (int i = 0; i < 20; i++) {
		fx_small(&f, 2);
		rig_drain(&f.r, 4);
	}
	fx_check(&f);
	cr_assert_lt(f.r.info.db_pages, 400);
	sq_end(reader);
	fx_close(&f);
}

Test(sqlite_wal_reset, wal_above_its_limit_is_let_go) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	struct ms_sqlite_wal_options opt = {.checkpoint = false, .max_wal_bytes = 400 << 10};
	fx_open(&f, "", &opt);
	fx_run(&f, "PRAGMA wal_autocheckpoint=0");
	for (int i = 0; i < 150 && f.r.res.state != MS_SRC_LOST; i++) {
		fx_run(&f, "UPDATE seq SET n=n+1");
		rig_step(&f.r);
	}
	cr_assert_eq(f.r.res.state, MS_SRC_LOST);
	cr_assert(strstr(f.r.res.why, "maxWalBytes"), "%s", f.r.res.why);
	cr_assert_eq(f.r.res.pinned_since_us, 0);
	/* Nobody is in the application's way now. */
	cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(TRUNCATE)"), "0");
	cr_assert_eq(wal_bytes(&f), 0);
	do {
		usleep(50000);
		cr_assert_eq(f.r.src->ops->skip(f.r.src, NULL, NULL, &f.r.info, &f.r.res, &err), MS_OK);
	} while (f.r.res.state == MS_SRC_BUSY);
	rig_seed(&f.r);
	fx_small(&f, 5);
	fx_check(&f);
	fx_close(&f);
}

/* The wal-index left half-written by a writer that died: SQLite recovers it, counting from 0 again, and the chain still proves
 * all. */
Test(sqlite_wal_reset, recovered_wal_index) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_small(&f, 6);
	rig_drain(&f.r, 5);
	fx_small(&f, 2);
	((volatile uint32_t *)(uintptr_t)inside(&f)->shm)[2] ^= 0x55; /* one copy's counter, as after a crash between the two */
	fx_small(&f, 5);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 13);
	fx_close(&f);
}

/* A writer that dies after its commit frame and before the wal-index has committed nothing, though the frame chains on. */
Test(sqlite_wal_reset, unpublished_commit_of_a_dead_writer) {
	struct fx f;
	char path[4300];
	fx_open(&f, "", NULL);
	for (int round = 0; round < 3; round++) {
		fx_small(&f, 20);
		cr_assert_eq(rig_drain(&f.r, 20), MS_SRC_FOLLOWING);
		if (round == 1) { /* with commits in front of it that were not captured yet */
			ms_wal_release(inside(&f));
			fx_small(&f, 2);
		}
		fx_run(&f, "PRAGMA wal_checkpoint(PASSIVE)");
		if (round != 1)
			rig_drain(&f.r, 20);
		struct ms_wal_index h;
		cr_assert(ms_wal_index_read(inside(&f)->shm, &h));
		uint32_t mx = h.mx_frame;
		snprintf(path, sizeof path, "%s-wal", f.db);
		struct forge w = forge_read(path);
		w.len = 32 + mx * 4120u;
		uint8_t page[4096];
		memset(page, 0x77, sizeof page);
		forge_append(&w, 2, h.db_pages, page);
		uint32_t salts[2] = {forge_get(w.data + 16), forge_get(w.data + 20)};
		forge_seal(&w, forge_get(w.data) & 1); /* gives the same checksums for what SQLite wrote */
		cr_assert(forge_get(w.data + 16) == salts[0] && forge_get(w.data + 20) == salts[1]);
		int fd = open(path, O_WRONLY);
		cr_assert_eq(pwrite(fd, forge_frame(&w, mx + 1), 4120, 32 + (off_t)mx * 4120), 4120);
		close(fd);
		fx_small(&f, 3);
		cr_assert_eq(rig_drain(&f.r, 10), MS_SRC_FOLLOWING, "round %d: %s", round, f.r.res.why);
		free(w.data);
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 71);
	fx_close(&f);
}

/* POSIX locks belong to the process: a second source on the file that comes and goes must not take the first one's mark with it
 * (fact 8). */
Test(sqlite_wal_reset, another_source_on_the_same_file_keeps_our_mark) {
	struct fx f;
	struct rig other;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA busy_timeout=0; PRAGMA wal_autocheckpoint=0");
	fx_small(&f, 3);
	rig_step(&f.r);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(TRUNCATE)"), "1", "our mark stops it");
	rig_init(&other, f.db, NULL);
	cr_assert_eq(rig_attach(&other, NULL), MS_SRC_FOLLOWING);
	rig_step(&other);
	rig_release(&other);
	fx_small(&f, 1);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(TRUNCATE)"), "1", "and still does");
	fx_small(&f, 3);
	fx_check(&f);
	fx_close(&f);
}

/* -wal or -shm taken away from under everybody: noticed, told, followed again. */
Test(sqlite_wal_reset, wal_deleted_while_in_use) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	char path[4300];
	fx_open(&f, "", NULL);
	fx_small(&f, 3);
	rig_drain(&f.r, 5);
	f.r.src->ops->detach(f.r.src);
	cr_assert_str_eq(sq_query(f.app, "PRAGMA wal_checkpoint(TRUNCATE)"), "0"); /* so that the file alone is whole */
	cr_assert_eq(rig_attach(&f.r, NULL), MS_SRC_FOLLOWING);
	snprintf(path, sizeof path, "%s-wal", f.db);
	unlink(path);
	snprintf(path, sizeof path, "%s-shm", f.db);
	unlink(path);
	usleep(120000);
	cr_assert_eq(rig_step(&f.r), MS_SRC_LOST);
	cr_assert(strstr(f.r.res.why, "deleted"), "%s", f.r.res.why);
	sq_kill(f.app);
	f.app = sq_spawn();
	cr_assert_eq(sq_open(f.app, f.db, 1000), 0);
	cr_assert_eq(f.r.src->ops->skip(f.r.src, NULL, NULL, &f.r.info, &f.r.res, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(f.r.res.state, MS_SRC_FOLLOWING);
	rig_seed(&f.r);
	f.r.at = f.r.nexpect;
	fx_small(&f, 3);
	fx_check(&f);
	fx_close(&f);
}
