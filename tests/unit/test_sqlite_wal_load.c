/* Applications at work: full speed, several of them, attaching in the middle of it. Sampled commits are opened and judged by
 * SQLite itself. */
#include "sources/sqlite_wal_priv.h"
#include "support/sqlite_fx.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1
#else
#define SLOW 0
#endif

/* Each transaction raises seq.n by one, so the image after commit k must say start + k. */
static uint32_t sample_every = 1000, start_n, sampled, wrong;
static char wrong_note[300];
/* On a machine that starves us a loss is allowed, and must be told to the commit. */
static uint64_t lost;
static unsigned losses;
static bool starved;

static void sample(struct rig *r) {
	if (r->commits % sample_every)
		return;
	sampled++;
	char want[64];
	snprintf(want, sizeof want, "%llu ok", (unsigned long long)(start_n + r->commits + lost));
	const char *got = rig_query(r, "SELECT n || ' ' || (SELECT quick_check FROM pragma_quick_check LIMIT 1) FROM seq");
	if (strcmp(got, want) && !wrong++)
		snprintf(wrong_note, sizeof wrong_note, "after commit %llu: %s, not %s", (unsigned long long)r->commits, got,
			 want);
}

/* What the stream does after a loss: skip to now, read everything. The image must be one whole state, and the loss told right. */
static void catch_up(struct fx *f) {
	struct ms_err err = MS_ERR_INIT;
	uint64_t before = start_n + f->r.commits + lost;
	cr_assert_eq(f->r.src->ops->skip(f->r.src, NULL, NULL, &f->r.info, &f->r.res, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(f->r.res.state, MS_SRC_FOLLOWING, "%s", f->r.res.why);
	uint64_t told = f->r.res.lost_commits > 0 ? (uint64_t)f->r.res.lost_commits : 0;
	rig_seed(&f->r); /* may move on itself, over commits that come through no sink */
	const char *n = rig_query(&f->r, "SELECT n FROM seq");
	cr_assert(n[0] >= '0' && n[0] <= '9', "%s", n);
	cr_assert_geq((uint64_t)atoi(n), before + told, "%s, not %llu and %llu lost", n, (unsigned long long)before,
		      (unsigned long long)told);
	lost = (uint64_t)atoi(n) - start_n - f->r.commits;
	losses++;
}

/* One step as a stream makes it, a loss answered by a scan. */
static void follow(struct fx *f) {
	enum ms_source_state st = rig_step(&f->r);
	if (st == MS_SRC_LOST) {
		fprintf(stderr, "lost %lld: %s\n", (long long)f->r.res.lost_commits, f->r.res.why);
		catch_up(f);
		return;
	}
	starved |= ((struct ms_sqlite_wal *)f->r.src)->stall_ns > 3000000;
	cr_assert(st == MS_SRC_FOLLOWING || st == MS_SRC_BUSY, "state %d: %s", st, f->r.res.why);
	if (!f->r.res.more) {
		uint64_t t = ms_env_mono_ns(f->r.env);
		usleep(f->r.res.next_poll_us < 1000 ? (useconds_t)f->r.res.next_poll_us : 1000);
		starved |= ms_env_mono_ns(f->r.env) - t > 6000000;
	}
}

struct outcome {
	struct sq_load_result load;
	uint64_t most_wal;
};

static struct outcome follow_load(struct fx *f, const struct sq_load *l) {
	struct outcome o = {0};
	uint64_t worst = 0;
	sq_load_start(f->app, l);
	while (sq_running(f->app)) {
		uint64_t t = ms_env_mono_ns(f->r.env);
		follow(f);
		t = ms_env_mono_ns(f->r.env) - t;
		worst = t > worst ? t : worst;
		if (f->r.res.wal_bytes > o.most_wal)
			o.most_wal = f->r.res.wal_bytes;
	}
	starved |= worst > 80000000; /* longest window and step together are 65 ms */
	o.load = sq_load_wait(f->app);
	cr_assert_eq(o.load.rc, 0);
	cr_assert_eq(o.load.commits, l->commits);
	return o;
}

/* Everything captured, or exactly what is missing known. */
static void account(struct fx *f, uint64_t commits) {
	fx_check(f);
	cr_assert_eq(start_n + f->r.commits + lost, commits, "%llu captured, %llu lost of %llu", (unsigned long long)f->r.commits,
		     (unsigned long long)lost, (unsigned long long)commits);
	cr_assert(!losses || starved || SLOW, "%u losses on a machine at ease", losses);
	cr_assert_eq(wrong, 0, "%u samples: %s", sampled, wrong_note);
}

static void run(const char *sync, const struct sq_load *l, uint32_t wal_frames) {
	struct fx f;
	char sql[64];
	fx_open(&f, "", NULL);
	snprintf(sql, sizeof sql, "PRAGMA synchronous=%s", sync);
	fx_run(&f, sql);
	f.r.on_commit = sample;
	struct outcome o = follow_load(&f, l);
	account(&f, l->commits);
	cr_assert_eq(o.load.busy, 0);
	cr_assert_gt(sampled, 0);
	/* The application's own bound is 1,000 frames and a transaction. Here the sink is the slow one: it opens every sample. */
	if (!SLOW && !starved)
		cr_assert_leq(o.most_wal, 32 + wal_frames * 4120ull, "%llu", (unsigned long long)o.most_wal);
	fx_close(&f);
}

Test(sqlite_wal_load, full_speed_normal) {
	run("NORMAL", &(struct sq_load){.commits = 20000}, 2500);
}
Test(sqlite_wal_load, full_speed_full) {
	run("FULL", &(struct sq_load){.commits = 6000}, 2500);
}
Test(sqlite_wal_load, bulk_at_full_speed) {
	sample_every = 1500; /* a slow sink would hold the WAL, and rightly */
	run("NORMAL", &(struct sq_load){.commits = 1500, .insert_rows = 150}, 4000);
}
Test(sqlite_wal_load, paced) {
	sample_every = 200;
	run("NORMAL", &(struct sq_load){.commits = 1500, .per_second = 500}, 2500);
}

/* The buffer is smaller than what a window leaves behind: windows are cut short, nothing is lost. */
Test(sqlite_wal_load, full_speed_with_a_small_buffer) {
	struct fx f;
	struct ms_sqlite_wal_options opt = {.checkpoint = true, .memory_bytes = 256 << 10};
	fx_open(&f, "", &opt);
	fx_run(&f, "PRAGMA synchronous=NORMAL");
	follow_load(&f, &(struct sq_load){.commits = 10000});
	account(&f, 10000);
	fx_close(&f);
}

Test(sqlite_wal_load, attach_under_full_load) {
	struct fx f;
	fx_database(&f, "");
	fx_run(&f, "PRAGMA synchronous=NORMAL");
	sq_load_start(f.app, &(struct sq_load){.commits = 40000});
	usleep(100000);
	rig_init(&f.r, f.db, NULL);
	cr_assert_eq(rig_attach(&f.r, NULL), MS_SRC_FOLLOWING, "%s", f.r.res.why);
	cr_assert(sq_running(f.app), "the load was over before we attached");
	start_n = (uint32_t)atoi(rig_query(&f.r, "SELECT n FROM seq"));
	cr_assert_gt(start_n, 0);
	cr_assert_str_eq(rig_query(&f.r, "PRAGMA integrity_check"), "ok");
	f.r.on_commit = sample;
	while (sq_running(f.app))
		follow(&f);
	account(&f, sq_load_wait(f.app).commits);
	cr_assert_gt(sampled, 0);
	fx_close(&f);
}

/* Doubt in the middle of everything, again and again. */
Test(sqlite_wal_load, losses_under_full_load_are_told_exactly) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA synchronous=NORMAL");
	f.r.on_commit = sample;
	sq_load_start(f.app, &(struct sq_load){.commits = 30000});
	for (int i = 1; sq_running(f.app); i++) {
		follow(&f);
		if (i % 4 == 0) {
			ms_wal_doubt((struct ms_sqlite_wal *)f.r.src, "forced by the test");
			catch_up(&f);
			cr_assert_str_eq(rig_query(&f.r, "PRAGMA integrity_check"), "ok");
		}
	}
	struct sq_load_result l = sq_load_wait(f.app);
	starved = true;
	account(&f, l.commits);
	cr_assert_gt(losses, 5);
	fx_close(&f);
}

/* A scan as the stream runs it, again and again under load with checkpoints and resets: each image is a whole, consistent
 * database. */
Test(sqlite_wal_load, scans_under_load_read_one_state) {
	struct fx f;
	struct ms_err err = MS_ERR_INIT;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=200");
	sq_load_start(f.app, &(struct sq_load){.commits = 12000, .per_second = 6000, .insert_rows = 1});
	unsigned scans = 0;
	int last = -1;
	while (sq_running(f.app)) {
		cr_assert_eq(f.r.src->ops->skip(f.r.src, NULL, NULL, &f.r.info, &f.r.res, &err), MS_OK, "%s", err.msg);
		/* Late on a busy machine, what was skipped is not known; a scan from its start tells all the same. */
		cr_assert(f.r.res.state == MS_SRC_FOLLOWING || f.r.res.state == MS_SRC_LOST, "%s", f.r.res.why);
		rig_seed(&f.r);
		int n = atoi(rig_query(&f.r, "SELECT n FROM seq"));
		cr_assert_geq(n, last);
		cr_assert_str_eq(rig_query(&f.r, "PRAGMA integrity_check"), "ok");
		/* one row of bulk for each transaction: another table, other pages, the same moment */
		cr_assert_eq(atoi(rig_query(&f.r, "SELECT count(*) FROM bulk")), n);
		last = n;
		scans++;
	}
	sq_load_wait(f.app);
	cr_assert_gt(scans, 10);
	f.r.src->ops->skip(f.r.src, NULL, NULL, &f.r.info, &f.r.res, &err);
	rig_seed(&f.r);
	fx_check(&f);
	fx_close(&f);
}

/* Detached and attached again while the application writes: continuous, or told. Never a wrong image. */
Test(sqlite_wal_load, resume_under_load) {
	struct fx f;
	unsigned proven = 0;
	fx_open(&f, "", NULL);
	sq_load_start(f.app, &(struct sq_load){.commits = 3000, .per_second = 1500});
	for (int i = 0; sq_running(f.app); i++) {
		rig_step(&f.r);
		if (i % 5 == 4) {
			f.r.src->ops->detach(f.r.src);
			usleep(20000);
			struct ms_cookie c = f.r.cookie;
			uint64_t commits = f.r.commits;
			cr_assert_eq(rig_attach(&f.r, &c), MS_SRC_FOLLOWING, "%s", f.r.res.why);
			proven += f.r.info.continuous;
			if (!f.r.info.continuous) /* what is missing shows in the sequence */
				f.r.commits = (uint64_t)atoi(rig_query(&f.r, "SELECT n FROM seq"));
			cr_assert_geq(f.r.commits, commits);
		}
	}
	sq_load_wait(f.app);
	cr_assert_gt(proven, 5);
	fx_check(&f);
	cr_assert_eq(f.r.commits, 3000);
	fx_close(&f);
}

/* busy_timeout=0: nothing of ours ever holds a lock that the application needs, not even for the instant in which SQLite's readers take the
 * write lock to look again at a wal-index header that was being stored (sqlite_conn.c). */
Test(sqlite_wal_load, application_without_busy_timeout) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA busy_timeout=0; PRAGMA synchronous=NORMAL");
	struct outcome o = follow_load(&f, &(struct sq_load){.commits = 20000});
	cr_assert_eq(o.load.busy, 0);
	o = follow_load(&f, &(struct sq_load){.commits = 800, .per_second = 800});
	cr_assert_eq(o.load.busy, 0);
	account(&f, 20800);
	fx_close(&f);
}

Test(sqlite_wal_load, two_applications) {
	struct fx f;
	struct sq_worker *second = sq_spawn();
	fx_open(&f, "", NULL);
	cr_assert_eq(sq_open(second, f.db, 5000), 0);
	fx_run(&f, "PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000");
	cr_assert_eq(sq_exec(second, "PRAGMA synchronous=NORMAL"), 0);
	sample_every = 500;
	f.r.on_commit = sample;
	sq_load_start(second, &(struct sq_load){.commits = 3000});
	struct outcome o = follow_load(&f, &(struct sq_load){.commits = 3000, .insert_rows = 3});
	while (sq_running(second))
		follow(&f);
	struct sq_load_result l = sq_load_wait(second);
	cr_assert_eq(l.rc, 0);
	account(&f, o.load.commits + l.commits);
	cr_assert_gt(sampled, 0);
	sq_end(second);
	fx_close(&f);
}

/* A follower that was stopped holds its mark, so nothing is lost, and catches up. */
Test(sqlite_wal_load, follower_that_stood_still) {
	struct fx f;
	fx_open(&f, "", NULL);
	fx_run(&f, "PRAGMA synchronous=NORMAL");
	for (int i = 0; i < 5; i++) {
		rig_drain(&f.r, 10);
		sq_load_start(f.app, &(struct sq_load){.commits = 1500});
		struct sq_load_result l = sq_load_wait(f.app); /* not a step meanwhile */
		cr_assert_eq(l.rc, 0);
	}
	fx_check(&f);
	cr_assert_eq(f.r.commits, 7500);
	fx_close(&f);
}

/* The writer killed at full speed, again and again. */
Test(sqlite_wal_load, writer_killed_at_full_speed) {
	struct fx f;
	fx_open(&f, "", NULL);
	for (int i = 0; i < 6; i++) {
		cr_assert_eq(sq_exec(f.app, "PRAGMA synchronous=NORMAL"), 0);
		sq_load_start(f.app, &(struct sq_load){.commits = 1000000});
		for (int k = 0; k < 3 + i; k++)
			follow(&f);
		sq_kill(f.app);
		follow(&f);
		f.app = sq_spawn();
		cr_assert_eq(sq_open(f.app, f.db, 2000), 0);
		rig_drain(&f.r, 20);
		char want[32];
		snprintf(want, sizeof want, "%llu", (unsigned long long)(f.r.commits + lost));
		cr_assert_str_eq(sq_query(f.app, "SELECT n FROM seq"), want, "round %d", i);
	}
	/* The last writer may have died between its commit frame and the wal-index: no reader sees that commit, but a copy of the files would
	 * recover it. A commit more writes over it. */
	cr_assert_eq(sq_exec(f.app, "UPDATE seq SET n = n + 1"), 0);
	fx_check(&f);
	fx_close(&f);
}

/* Padded commits: no window is opened, so nothing is lost and nothing is in doubt; the WAL is the price. */
Test(sqlite_wal_load, full_speed_without_powersafe_overwrite) {
	struct fx f;
	char uri[4300];
	fx_open(&f, "", NULL);
	cr_assert_eq(sq_close(f.app), 0);
	snprintf(uri, sizeof uri, "file:%s?psow=0", f.db);
	cr_assert_eq(sq_open(f.app, uri, 2000), 0);
	fx_run(&f, "PRAGMA synchronous=FULL");
	struct ms_sqlite_wal *s = (struct ms_sqlite_wal *)f.r.src;
	struct sq_load l = {.commits = 1500};
	sq_load_start(f.app, &l);
	while (sq_running(f.app)) {
		cr_assert(rig_step(&f.r) != MS_SRC_LOST, "%s", f.r.res.why);
		cr_assert(f.r.commits < 100 || s->padded);
		cr_assert(!s->padded || s->cur >= 0, "let go of the mark");
	}
	cr_assert_eq(sq_load_wait(f.app).commits, 1500);
	fx_check(&f);
	cr_assert_gt(f.r.commits, 1500); /* the repeated frames */
	cr_assert_str_eq(rig_query(&f.r, "SELECT n FROM seq"), "1500");
	fx_close(&f);
}
