/* The program migrestore, and migstream's list and verify, as programs: arguments, output, exit codes, signals. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/replica_maker.h"
#include "support/tmpdir.h"

struct fix {
	struct maker *m;
	char *replica, *dir, *out;
	char text[65536], errors[8192]; /* of the last run */
};

static struct fix *setup(void) {
	struct fix *f = calloc(1, sizeof *f);
	f->replica = ms_test_tmpdir();
	f->dir = ms_test_tmpdir();
	f->out = ms_test_path(f->dir, "out.db");
	f->m = maker_new(f->replica, 4096);
	for (int i = 0; i < 5; i++)
		maker_work(f->m, 50);
	maker_head(f->m, 1, 0, MAKER_T0);
	maker_snapshot(f->m, 2, 4);
	maker_segment(f->m, 3, 4);
	maker_segment(f->m, 5, 6);
	return f;
}

static void teardown(struct fix *f) {
	maker_free(f->m);
	free(f->out);
	free(f);
}

static void slurp(const char *path, char *ret, size_t cap) {
	FILE *fp = fopen(path, "rb");
	size_t n = fp ? fread(ret, 1, cap - 1, fp) : 0;
	ret[n] = '\0';
	if (fp)
		fclose(fp);
}

static pid_t start(struct fix *f, const char *program, char *const argv[]) {
	char *o = ms_test_path(f->replica, ".stdout"), *e = ms_test_path(f->replica, ".stderr");
	pid_t pid = fork();
	if (pid == 0) {
		char path[1024];
		int fo = open(o, O_WRONLY | O_CREAT | O_TRUNC, 0600), fe = open(e, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		dup2(fo, 1);
		dup2(fe, 2);
		unsetenv("MIGSTREAM_CONFIG");
		umask(022);
		snprintf(path, sizeof path, "%s/%s", MS_BIN_DIR, program);
		execv(path, argv);
		_exit(127);
	}
	free(o);
	free(e);
	return pid;
}

static int finish(struct fix *f, pid_t pid) {
	int status;
	char *o = ms_test_path(f->replica, ".stdout"), *e = ms_test_path(f->replica, ".stderr");
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	slurp(o, f->text, sizeof f->text);
	slurp(e, f->errors, sizeof f->errors);
	unlink(o);
	unlink(e);
	free(o);
	free(e);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Arguments up to NULL. */
static int run(struct fix *f, const char *program, ...) {
	char *argv[32];
	unsigned n = 0;
	va_list ap;
	argv[n++] = (char *)(uintptr_t)program;
	va_start(ap, program);
	while ((argv[n] = va_arg(ap, char *)))
		n++;
	va_end(ap);
	return finish(f, start(f, program, argv));
}
#define RESTORE(...) run(f, "migrestore", __VA_ARGS__, NULL)

static bool equals(const char *path, struct maker *m, uint64_t txid) {
	size_t len;
	const uint8_t *want = maker_image(m, txid, &len);
	uint8_t *p = malloc(len + 1);
	FILE *fp = fopen(path, "rb");
	bool ok = fp && fread(p, 1, len + 1, fp) == len && memcmp(p, want, len) == 0;
	if (fp)
		fclose(fp);
	free(p);
	return ok;
}

static unsigned files_in(const char *dir) {
	unsigned n = 0;
	DIR *d = opendir(dir);
	for (struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

static unsigned lines(const char *text) {
	unsigned n = 0;
	for (; *text; text++)
		n += *text == '\n';
	return n;
}

Test(migrestore, restores_and_says_what) {
	struct fix *f = setup();
	cr_assert_eq(RESTORE("-o", f->out, f->replica), 0, "%s", f->errors);
	cr_assert(equals(f->out, f->m, 6));
	cr_assert(strstr(f->text, "txid 6 of generation 00000001-aaaaaaaa (2026-01-01T00:00:05.000000Z)"), "%s", f->text);
	cr_assert_str_empty(f->errors);
	cr_assert_eq(files_in(f->dir), 1);
	cr_assert_eq(RESTORE("-o", f->out, "--force", "--quiet", "--txid", "3", f->replica), 0, "%s", f->errors);
	cr_assert(equals(f->out, f->m, 3));
	cr_assert_str_empty(f->text);
	cr_assert_eq(RESTORE("-o", f->out, "--force", "--timestamp=2026-01-01T01:00:03.5+01:00", "--verify", "full", f->replica), 0, "%s", f->errors);
	cr_assert(equals(f->out, f->m, 4));
	teardown(f);
}

Test(migrestore, exit_codes_and_one_clear_line) {
	struct fix *f = setup();
	char *nowhere = ms_test_path(f->dir, "nowhere");
	static const char *const bad[][4] = {
		{"--txid", "x"}, {"--txid", "0"}, {"--timestamp", "yesterday"}, {"--verify", "thoroughly"}, {"--parallel", "0"}, {"--parallel", "1000"},
		{"--generation", "main"}, {"--follow", "--quiet"}, {"--delta", "--quiet"}, {"--label", "x"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_assert_eq(RESTORE("-o", f->out, bad[i][0], bad[i][1], f->replica), 2, "%s %s: %s", bad[i][0], bad[i][1], f->errors);
	cr_assert_eq(RESTORE("-o", f->out, "--txid", "3", "--timestamp", "2026-01-01T00:00:00Z", f->replica), 2);
	cr_assert_eq(RESTORE(f->replica), 2);
	cr_assert_eq(RESTORE("-o", f->out), 2);
	cr_assert_eq(RESTORE("-o", f->out, "ftp://x/y"), 2);
	cr_assert_eq(RESTORE("-o", f->out, nowhere), 1);
	cr_assert(strstr(f->errors, "no such directory"), "%s", f->errors);
	cr_assert_eq(RESTORE("-o", f->out, "--txid", "7", f->replica), 3);
	cr_assert_eq(lines(f->errors), 1, "%s", f->errors);
	cr_assert(strncmp(f->errors, "migrestore: ", 12) == 0, "%s", f->errors);
	cr_assert_eq(RESTORE("-o", f->out, "--timestamp", "2025-12-31T00:00:00Z", f->replica), 3);
	cr_assert(strstr(f->errors, "txid 2 (2026-01-01T00:00:01.000000Z) to 6 ("), "%s", f->errors);
	cr_assert_eq(files_in(f->dir), 0);
	FILE *fp = fopen(f->out, "w");
	fclose(fp);
	cr_assert_eq(RESTORE("-o", f->out, f->replica), 1);
	cr_assert_eq(RESTORE("-o", f->out, "--if-not-exists", f->replica), 0);
	cr_assert(strstr(f->text, "exists"), "%s", f->text);
	cr_assert_eq(unlink(f->out), 0);
	cr_assert_eq(RESTORE("-o", f->out, "--if-not-exists", f->replica), 0);
	cr_assert(equals(f->out, f->m, 6));
	cr_assert_eq(RESTORE("--help"), 0);
	cr_assert(strstr(f->text, "Examples:"), "%s", f->text);
	cr_assert_eq(RESTORE("--version"), 0);
	cr_assert(strstr(f->text, "migrestore ") && strstr(f->text, "sqlite 3"), "%s", f->text);
	free(nowhere);
	teardown(f);
}

Test(migrestore, dry_run_and_json) {
	struct fix *f = setup();
	char *seg3 = strdup(maker_segment_path(f->m, 3)), *seg5 = strdup(maker_segment_path(f->m, 5));
	struct stat a, b;
	stat(seg3, &a);
	stat(seg5, &b);
	cr_assert_eq(RESTORE("-o", f->out, "--dry-run", "--json", f->replica), 0, "%s", f->errors);
	json_error_t e;
	json_t *j = json_loads(f->text, 0, &e);
	cr_assert_not_null(j, "%s: %s", e.text, f->text);
	const json_t *plan = json_object_get(j, "plan"), *segments = json_object_get(plan, "segments");
	cr_assert_eq(json_integer_value(json_object_get(j, "txid")), 6);
	cr_assert_eq(json_integer_value(json_object_get(segments, "bytes")), a.st_size + b.st_size);
	cr_assert_eq(json_integer_value(json_object_get(segments, "objects")), 2);
	cr_assert_eq(json_integer_value(json_object_get(json_object_get(plan, "snapshot"), "txid")), 2);
	cr_assert(json_is_true(json_object_get(j, "dryRun")));
	json_decref(j);
	cr_assert_eq(files_in(f->dir), 0);
	cr_assert_eq(RESTORE("--dry-run", f->replica), 0);
	cr_assert(strstr(f->text, "would restore txid 6"), "%s", f->text);
	/* a hole that names do not show is found by the dry run too */
	cr_assert_eq(unlink(seg3), 0);
	cr_assert_eq(RESTORE("--dry-run", f->replica), 3);
	cr_assert(strstr(f->errors, "txid 3 is missing"), "%s", f->errors);
	cr_assert_eq(RESTORE("-o", f->out, "--json", "--txid", "6", f->replica), 3);
	j = json_loads(f->text, 0, &e);
	cr_assert_str_eq(json_string_value(json_object_get(json_object_get(j, "error"), "code")), "gap");
	json_decref(j);
	cr_assert_eq(RESTORE("-o", f->out, "--json", "--stop-at-gap", f->replica), 0, "%s", f->errors);
	j = json_loads(f->text, 0, &e);
	cr_assert_eq(json_integer_value(json_object_get(j, "txid")), 2);
	cr_assert_eq(json_integer_value(json_object_get(j, "gapTxid")), 3);
	cr_assert_str_eq(json_string_value(json_object_get(j, "verified")), "checksum");
	json_decref(j);
	cr_assert(equals(f->out, f->m, 2));
	free(seg3);
	free(seg5);
	teardown(f);
}

Test(migrestore, replicas_from_a_configuration) {
	struct fix *f = setup();
	char *conf = ms_test_path(f->dir, "c.yml");
	FILE *fp = fopen(conf, "w");
	fprintf(fp, "databases:\n  - path: %s\n    name: app\n    replicas:\n      - name: r\n        url: file://%s\n", f->out, f->replica);
	fclose(fp);
	cr_assert_eq(RESTORE("-o", f->out, "-c", conf, "app"), 0, "%s", f->errors);
	cr_assert(equals(f->out, f->m, 6));
	cr_assert_eq(RESTORE("-o", f->out, "--force", "-c", conf, f->out), 0, "%s", f->errors); /* by path */
	cr_assert_eq(RESTORE("-o", f->out, "--force", "-c", conf, "other"), 2);
	cr_assert_eq(run(f, "migstream", "list", "-c", conf, "app", NULL), 0, "%s", f->errors);
	free(conf);
	teardown(f);
}

Test(migrestore, a_symbolic_link_stays_one) {
	struct fix *f = setup();
	struct stat st;
	char *real = ms_test_path(f->dir, "real.db"), *link = ms_test_path(f->dir, "link.db");
	FILE *fp = fopen(real, "w");
	fclose(fp);
	cr_assert_eq(symlink("real.db", link), 0);
	cr_assert_eq(RESTORE("-o", link, "--force", f->replica), 0, "%s", f->errors);
	cr_assert(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
	cr_assert(equals(real, f->m, 6));
	free(real);
	free(link);
	teardown(f);
}

/* Interrupted at any moment: whole, or nothing of it. */
Test(migrestore, interrupted) {
	struct fix *f = setup();
	unsigned done = 0, stopped = 0;
	for (int i = 0; i < 20; i++)
		maker_work(f->m, 3000);
	maker_snapshot(f->m, 25, 16);
	maker_segment(f->m, 7, 25);
	char *argv[] = {(char *)(uintptr_t)"migrestore", (char *)(uintptr_t)"-o", f->out, f->replica, NULL};
	for (int i = 0; i < 40; i++) {
		struct timespec t = {0, (long)i * 1500000};
		pid_t pid = start(f, "migrestore", argv);
		nanosleep(&t, NULL);
		kill(pid, i % 2 ? SIGINT : SIGTERM);
		int code = finish(f, pid);
		if (code == 0) {
			cr_assert(equals(f->out, f->m, 25));
			cr_assert_eq(unlink(f->out), 0);
			done++;
		} else {
			/* before the handler stands, the signal's own action ends it: nothing has begun then */
			cr_assert(code == 1 || code == -SIGINT || code == -SIGTERM, "%d: %s", code, f->errors);
			stopped++;
		}
		cr_assert_eq(files_in(f->dir), 0, "round %d, code %d: %s", i, code, f->errors);
	}
	cr_assert_gt(stopped, 0);
	teardown(f);
}

Test(migstream, list_and_verify) {
	struct fix *f = setup();
	json_error_t e;
	cr_assert_eq(run(f, "migstream", "list", f->replica, NULL), 0, "%s", f->errors);
	cr_assert(strstr(f->text, "generation 00000001-aaaaaaaa  (head)") && strstr(f->text, "restorable  txid 2 to 6"), "%s", f->text);
	cr_assert_eq(run(f, "migstream", "list", "--json", f->replica, NULL), 0, "%s", f->errors);
	json_t *j = json_loads(f->text, 0, &e);
	cr_assert_not_null(j, "%s", e.text);
	json_t *g = json_array_get(json_object_get(j, "generations"), 0), *r = json_array_get(json_object_get(g, "restorable"), 0);
	cr_assert(json_is_null(json_object_get(g, "parent")));
	cr_assert_eq(json_integer_value(json_object_get(r, "fromTxid")), 2);
	cr_assert_eq(json_integer_value(json_object_get(r, "toTxid")), 6);
	cr_assert_str_eq(json_string_value(json_object_get(r, "fromTime")), "2026-01-01T00:00:01.000000Z");
	cr_assert_str_eq(json_string_value(json_object_get(r, "granularity")), "commit");
	json_t *s = json_array_get(json_object_get(g, "segments"), 0);
	cr_assert_eq(json_integer_value(json_object_get(s, "objects")), 2);
	json_decref(j);
	cr_assert_eq(run(f, "migstream", "verify", "--deep", "--temp-dir", f->dir, f->replica, NULL), 0, "%s", f->errors);
	cr_assert(strstr(f->text, "every restore proven"), "%s", f->text);
	cr_assert_eq(files_in(f->dir), 0);
	FILE *fp = fopen(maker_segment_path(f->m, 3), "r+b");
	fseek(fp, 300, SEEK_SET);
	int c = fgetc(fp);
	fseek(fp, 300, SEEK_SET);
	fputc(c ^ 1, fp);
	fclose(fp);
	cr_assert_eq(run(f, "migstream", "verify", "--json", f->replica, NULL), 3);
	j = json_loads(f->text, 0, &e);
	cr_assert(json_is_false(json_object_get(j, "ok")));
	cr_assert(strstr(json_string_value(json_array_get(json_object_get(j, "problems"), 0)), "0000000000000003.seg"));
	json_decref(j);
	cr_assert_eq(run(f, "migstream", "verify", "/nonexistent/replica", NULL), 1);
	teardown(f);
}
