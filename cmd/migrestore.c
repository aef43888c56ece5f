#include "cmd/migrestore.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/timefmt.h"
#include "cmd/shadow.h"
#include "cmd/version.h"

static atomic_bool interrupted;

/* The second signal meets the default action. */
static void on_signal(int sig) {
	(void)sig;
	atomic_store(&interrupted, true);
}

static void catch_signals(void) {
	static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++)
		sigaction(caught[i], &sa, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
}

static enum ms_code read_target(const struct ms_args *a, struct ms_plan_request *ret, struct ms_err *err) {
	const char *txid = ms_args_get(a, "txid"), *time = ms_args_get(a, "timestamp");
	struct ms_err inner = MS_ERR_INIT;
	enum ms_code rc = MS_OK;
	*ret = (struct ms_plan_request){.kind = MS_TARGET_NEWEST, .generation = ms_args_get(a, "generation"),
		.stop_at_gap = ms_args_flag(a, "stop-at-gap"), .allow_loss = ms_args_flag(a, "allow-loss")};
	if (txid && time)
		return ms_err_set(err, MS_EUSAGE, "either --txid or --timestamp, not both");
	if (ret->generation && !ms_generation_valid(ret->generation))
		return ms_err_set(err, MS_EUSAGE, "--generation: '%.64s' is no generation; `migstream list` shows them", ret->generation);
	if (txid) {
		ret->kind = MS_TARGET_TXID;
		rc = ms_args_uint(a, "txid", &ret->txid, err);
		if (!rc && ret->txid == 0)
			rc = ms_err_set(err, MS_EUSAGE, "--txid: transactions are counted from 1");
	} else if (time) {
		ret->kind = MS_TARGET_TIME;
		if (ms_time_parse(time, &ret->time_us, &inner))
			rc = ms_err_set(err, MS_EUSAGE, "--timestamp: '%.64s' is no RFC 3339 time: write for example 2026-11-21T10:00:00Z", time);
	}
	return rc;
}

static enum ms_code read_options(const struct ms_args *a, struct ms_restore_options *o, char path[MS_PATH_MAX], struct ms_err *err) {
	const char *verify = ms_args_get(a, "verify"), *output = ms_args_get(a, "output");
	uint64_t parallel = 0;
	enum ms_code rc = read_target(a, &o->target, err);
	if (!rc)
		rc = ms_args_uint(a, "parallel", &parallel, err);
	if (rc)
		return rc;
	if (ms_args_get(a, "parallel") && (parallel < 1 || parallel > MS_FETCH_WORKERS_MAX))
		return ms_err_set(err, MS_EUSAGE, "--parallel: write a number from 1 to %u", MS_FETCH_WORKERS_MAX);
	o->parallel = (unsigned)parallel;
	o->verify = MS_VERIFY_CHECKSUM;
	if (verify) {
		unsigned v = MS_VERIFY_NONE;
		while (v <= MS_VERIFY_FULL && strcmp(ms_restore_verify_name((enum ms_restore_verify)v), verify) != 0)
			v++;
		if (v > MS_VERIFY_FULL)
			return ms_err_set(err, MS_EUSAGE, "--verify: '%.64s' is none of none, checksum, quick and full", verify);
		o->verify = (enum ms_restore_verify)v;
	}
	o->dry_run = ms_args_flag(a, "dry-run");
	o->force = ms_args_flag(a, "force");
	o->if_not_exists = ms_args_flag(a, "if-not-exists");
	o->temp_dir = ms_args_get(a, "temp-dir");
	if (!output && !o->dry_run)
		return ms_err_set(err, MS_EUSAGE, "where should the database go? give -o FILE");
	if (output && !*output)
		return ms_err_set(err, MS_EUSAGE, "-o: the name of the file is empty");
	/* Through a symbolic link, the file that it names is replaced, not the link. */
	if (output && !(rc = ms_canonical_path(output, path, err)))
		o->path = path;
	mode_t mask = umask(077);
	umask(mask);
	o->umask = mask;
	o->cancel = &interrupted;
	return rc;
}

static int report_error(const struct ms_err *err, bool json) {
	if (json) {
		json_t *j = json_pack("{s:{s:s,s:s}}", "error", "code", ms_code_name(err->code), "message", err->msg);
		if (j) {
			json_dumpf(j, stdout, JSON_INDENT(2));
			putchar('\n');
			json_decref(j);
		}
	}
	return ms_command_fail(&ms_migrestore_command, err);
}

static int report(const struct ms_restore_sources *s, const struct ms_restore_options *o, const struct ms_restore_result *r, bool json, bool quiet) {
	if (r->warning[0] && !json)
		fprintf(stderr, "migrestore: warning: %s\n", r->warning);
	if (json) {
		json_t *j = ms_restore_json(s, o, r);
		if (!j) {
			fprintf(stderr, "migrestore: out of memory\n");
			return 1;
		}
		json_dumpf(j, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(j);
	} else if (o->dry_run) {
		ms_restore_print_plan(s, r, stdout);
	} else if (!quiet) {
		ms_restore_print_done(o, r, stdout);
	}
	return fflush(stdout) == 0 ? 0 : 1;
}

int ms_migrestore(int argc, char **argv) {
	struct ms_args a;
	struct ms_err err = MS_ERR_INIT;
	struct ms_restore_options o = {0};
	struct ms_restore_sources s = {0};
	struct ms_restore_result r;
	struct ms_progress_line line = {.out = stderr};
	char path[MS_PATH_MAX];
	struct ms_env *env = NULL;
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0) {
			ms_version_print("migrestore", stdout);
			return 0;
		}
	}
	int exit_code = ms_args_parse(&ms_migrestore_command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	bool json = ms_args_flag(&a, "json"), quiet = ms_args_flag(&a, "quiet");
	catch_signals();
	enum ms_code rc = read_options(&a, &o, path, &err);
	unsigned lanes[MS_LANE_COUNT] = {[MS_LANE_UPLOAD] = o.parallel > 8 ? o.parallel : 0};
	if (!rc && !(env = ms_env_uv_new(lanes, &err)))
		rc = err.code;
	if (!rc)
		rc = ms_restore_sources_find(env, &a, ms_args_get(&a, "shadow"), &s, &err);
	if (!rc) {
		o.replicas = s.replicas;
		o.nreplicas = s.n;
		if (s.journal_dir[0]) {
			o.journal_dir = s.journal_dir;
			o.journal_db = s.journal_db;
		}
		if (!quiet && isatty(STDERR_FILENO)) {
			o.progress = ms_progress_show;
			o.arg = &line;
		}
		rc = ms_restore_run(env, &o, &r, &err);
		ms_progress_end(&line);
	}
	exit_code = rc ? report_error(&err, json) : report(&s, &o, &r, json, quiet);
	ms_restore_sources_release(&s);
	ms_env_uv_free(env);
	return exit_code;
}
