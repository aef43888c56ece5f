/* list and verify as library calls; what they promise is held against restores and exact copies. */
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "replicas/url.h"
#include "restore/check.h"
#include "restore/restore.h"
#include "support/replica_maker.h"
#include "support/tmpdir.h"

struct fix {
	struct ms_env *env;
	struct maker *m;
	char *dir, *scratch;
	struct ms_replica_spec spec;
	struct ms_restore_replica replica;
};

static void setup(struct fix *f) {
	struct ms_err err;
	memset(f, 0, sizeof *f);
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "%s", err.msg);
	unsigned lanes[MS_LANE_COUNT] = {0};
	f->env = ms_env_uv_new(lanes, &err);
	f->dir = ms_test_tmpdir();
	f->scratch = ms_test_tmpdir();
	f->m = maker_new(f->dir, 1024);
	cr_assert_eq(ms_url_parse(f->dir, &f->spec, &err), MS_OK, "%s", err.msg);
	f->replica = (struct ms_restore_replica){&f->spec, f->dir};
}

static void teardown(struct fix *f) {
	ms_replica_spec_release(&f->spec);
	maker_free(f->m);
	ms_env_uv_free(f->env);
}

static void history(struct maker *m) {
	for (int i = 0; i < 14; i++)
		maker_work(m, 20);
	maker_head(m, 1, 0, MAKER_T0);
	maker_segment(m, 2, 4); /* before the first snapshot: not restorable */
	maker_snapshot(m, 3, 4);
	maker_segment(m, 5, 5);
	maker_parts(m, 6, 2);
	maker_segment(m, 8, 9); /* 7 is missing */
	maker_snapshot(m, 9, 0);
	maker_segment(m, 10, 12);
	maker_merged(m, 10, 13);
	maker_segment(m, 14, 14);
}

static void list(struct fix *f, struct ms_list *l) {
	struct ms_list_options o = {.replicas = &f->replica, .nreplicas = 1};
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_list_run(f->env, &o, l, &err), MS_OK, "%s", err.msg);
}

static void check(struct fix *f, bool deep, struct ms_check_report *r) {
	struct ms_check_options o = {.replicas = &f->replica, .nreplicas = 1, .deep = deep, .scratch = f->scratch};
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_check_run(f->env, &o, r, &err), MS_OK, "%s", err.msg);
}

static bool reports(const struct ms_check_report *r, const char *text) {
	for (size_t i = 0; i < r->nproblems; i++) {
		if (strstr(r->problems[i], text))
			return true;
	}
	return false;
}

Test(list, what_is_there_and_what_restores) {
	struct fix f;
	struct ms_list l;
	setup(&f);
	history(f.m);
	list(&f, &l);
	cr_assert_eq(l.n, 1);
	cr_assert_eq(l.nwarnings, 0);
	const struct ms_list_generation *g = &l.generations[0];
	cr_assert(g->head);
	cr_assert_eq(g->nsnapshots, 2);
	cr_assert_eq(g->snapshots[0].txid, 3);
	cr_assert_eq(g->snapshots[0].time_us, maker_time(f.m, 3));
	cr_assert_gt(g->snapshots[0].objects, 1);
	cr_assert_eq(g->snapshots[1].objects, 1);
	cr_assert_eq(g->nruns, 2);
	cr_assert_eq(g->runs[0].first_txid, 2);
	cr_assert_eq(g->runs[0].last_txid, 6);
	cr_assert_eq(g->runs[0].objects, 4);
	cr_assert_eq(g->runs[1].first_txid, 8);
	cr_assert_eq(g->runs[1].last_txid, 14);
	cr_assert_eq(g->nranges, 2);
	cr_assert_eq(g->ranges[0].from_txid, 3);
	cr_assert_eq(g->ranges[0].to_txid, 6);
	cr_assert_eq(g->ranges[0].from_us, maker_time(f.m, 3));
	cr_assert_eq(g->ranges[0].to_us, maker_time(f.m, 6));
	cr_assert_eq(g->ranges[1].from_txid, 9);
	cr_assert_eq(g->ranges[1].to_txid, 14);
	ms_list_release(&l);
	teardown(&f);
}

static void every_advertised_point(void (*make)(struct maker *m)) {
	struct fix f;
	struct ms_list l;
	setup(&f);
	make(f.m);
	list(&f, &l);
	char *out = ms_test_path(f.scratch, "o.db");
	for (uint64_t t = 1; t <= 15; t++) {
		struct ms_restore_options o = {.replicas = &f.replica, .nreplicas = 1, .path = out, .target = {.kind = MS_TARGET_TXID, .txid = t}};
		struct ms_restore_result res;
		struct ms_err err = MS_ERR_INIT;
		bool advertised = false;
		for (size_t i = 0; i < l.generations[0].nranges; i++)
			advertised |= t >= l.generations[0].ranges[i].from_txid && t <= l.generations[0].ranges[i].to_txid;
		enum ms_code rc = ms_restore_run(f.env, &o, &res, &err);
		cr_assert_eq(rc == MS_OK, advertised, "txid %llu: %s", (unsigned long long)t, err.msg);
		if (rc == MS_OK) {
			size_t len;
			const uint8_t *want = maker_image(f.m, t, &len);
			uint8_t *got = malloc(len + 1);
			FILE *fp = fopen(out, "rb");
			cr_assert_eq(fread(got, 1, len + 1, fp), len);
			cr_assert_eq(memcmp(got, want, len), 0);
			fclose(fp);
			free(got);
			unlink(out);
		}
	}
	free(out);
	ms_list_release(&l);
	teardown(&f);
}

/* A catch-up and snapshots before, within and behind it. */
static void with_catch_up(struct maker *m) {
	for (int i = 0; i < 14; i++)
		maker_work(m, 20);
	maker_head(m, 1, 0, MAKER_T0);
	maker_snapshot(m, 2, 0);
	maker_segment(m, 2, 4);
	maker_fold(m, 5, 10);
	maker_snapshot(m, 7, 0);
	maker_segment(m, 11, 12);
	maker_segment(m, 14, 14);
}

Test(list, every_advertised_point_restores_and_no_other) {
	every_advertised_point(history);
	every_advertised_point(with_catch_up);
}

Test(list, forks) {
	struct fix f;
	struct ms_list l;
	setup(&f);
	history(f.m);
	maker_fork(f.m, 5);
	maker_head(f.m, 2, 0, MAKER_T0 + 100000000);
	maker_work(f.m, 3);
	maker_segment(f.m, 6, 6);
	list(&f, &l);
	cr_assert_eq(l.n, 2);
	cr_assert_str_eq(l.generations[1].parent.s, l.generations[0].id.s);
	cr_assert_eq(l.generations[1].fork_txid, 5);
	cr_assert(l.generations[1].head && !l.generations[0].head);
	cr_assert_eq(l.generations[1].nranges, 1);
	cr_assert_eq(l.generations[1].ranges[0].from_txid, 6);
	cr_assert_eq(l.generations[1].ranges[0].to_txid, 6);
	ms_list_release(&l);
	teardown(&f);
}

Test(list, nothing_there) {
	struct fix f;
	struct ms_list l;
	struct ms_err err = MS_ERR_INIT;
	setup(&f);
	struct ms_list_options o = {.replicas = &f.replica, .nreplicas = 1};
	cr_assert_eq(ms_list_run(f.env, &o, &l, &err), MS_ENOTRESTORABLE);
	teardown(&f);
}

Test(check, sound_replica) {
	struct fix f;
	struct ms_check_report r;
	setup(&f);
	for (int i = 0; i < 9; i++)
		maker_work(f.m, 20);
	maker_head(f.m, 1, 10, MAKER_T0);
	maker_snapshot(f.m, 1, 0);
	maker_snapshot(f.m, 6, 4);
	maker_segment(f.m, 2, 9);
	maker_parts(f.m, 10, 3);
	check(&f, true, &r);
	cr_assert_eq(r.nproblems, 0, "%s", r.nproblems ? r.problems[0] : "");
	cr_assert_eq(r.snapshots, 2);
	cr_assert_gt(r.chunks, 2);
	cr_assert_eq(r.segments, 4);
	/* one range from its first snapshot on, and each snapshot on its own */
	cr_assert_eq(r.nrestores, 3);
	cr_assert_eq(r.restores[0].from_txid, 1);
	cr_assert_eq(r.restores[0].to_txid, 10);
	cr_assert_eq(r.restores[0].commits, 9);
	cr_assert_eq(r.restores[2].from_txid, 6);
	cr_assert_eq(r.restores[2].commits, 0);
	ms_check_report_release(&r);
	teardown(&f);
}

Test(check, holes_are_named) {
	struct fix f;
	struct ms_check_report r;
	setup(&f);
	history(f.m);
	maker_head(f.m, 2, 15, MAKER_T0 + 1);
	check(&f, false, &r);
	cr_assert(reports(&r, "txid 7 to 7 are missing"));
	cr_assert(reports(&r, "restores to txid 14 only"));
	cr_assert_eq(r.nproblems, 2);
	ms_check_report_release(&r);
	teardown(&f);
}

static char files[64][512];
static unsigned nfiles;
static int collect(const char *path, const struct stat *st, int type, struct FTW *ftw) {
	(void)ftw;
	if (type == FTW_F && st->st_size && nfiles < 64)
		snprintf(files[nfiles++], sizeof files[0], "%s", path);
	return 0;
}

Test(check, any_damage_and_any_loss_is_found) {
	struct fix f;
	struct ms_check_report r;
	setup(&f);
	for (int i = 0; i < 9; i++)
		maker_work(f.m, 20);
	maker_snapshot(f.m, 1, 0);
	maker_snapshot(f.m, 6, 16);
	maker_segment(f.m, 2, 7);
	maker_segment(f.m, 8, 9);
	maker_parts(f.m, 10, 3);
	maker_head(f.m, 1, 10, MAKER_T0);
	nfiles = 0;
	nftw(f.dir, collect, 16, FTW_PHYS);
	cr_assert_geq(nfiles, 8);
	srand(5);
	for (unsigned i = 0; i < nfiles; i++) {
		struct stat st;
		bool head = strstr(files[i], "/head/") != NULL;
		stat(files[i], &st);
		for (int k = 0; k < 25; k++) {
			long bit = (long)((double)rand() / RAND_MAX * (double)(st.st_size * 8 - 1));
			FILE *fp = fopen(files[i], "r+b");
			fseek(fp, bit / 8, SEEK_SET);
			int c = fgetc(fp);
			fseek(fp, bit / 8, SEEK_SET);
			fputc(c ^ 1 << bit % 8, fp);
			fclose(fp);
			check(&f, false, &r);
			cr_assert(reports(&r, files[i] + strlen(f.dir) + 1), "bit %ld of %s: %zu problems, %s", bit, files[i], r.nproblems,
				  r.nproblems ? r.problems[0] : "");
			ms_check_report_release(&r);
			fp = fopen(files[i], "r+b");
			fseek(fp, bit / 8, SEEK_SET);
			fputc(c, fp);
			fclose(fp);
		}
		/* gone: of two snapshots one may go, nothing needs it */
		if (head || strstr(files[i], "/snapshots/"))
			continue;
		char aside[600];
		snprintf(aside, sizeof aside, "%s/aside", f.scratch);
		cr_assert_eq(rename(files[i], aside), 0);
		check(&f, false, &r);
		cr_assert_gt(r.nproblems, 0, "%s is gone, and nothing is said", files[i]);
		ms_check_report_release(&r);
		cr_assert_eq(rename(aside, files[i]), 0);
	}
	teardown(&f);
}
