/* migstream verify: every object of a replica, its chain, and with --deep every restore. */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/timefmt.h"
#include "cmd/cmds.h"
#include "cmd/list_json.h"
#include "cmd/restore_sources.h"
#include "restore/check.h"

typedef unsigned long long ull;

static atomic_bool interrupted;

static void on_signal(int sig) {
	(void)sig;
	atomic_store(&interrupted, true);
}

static void show_progress(void *arg, const char *phase, uint64_t done, uint64_t total) {
	FILE *out = arg;
	if (total)
		fprintf(out, "\r\033[K%s %llu of %llu", phase, (ull)done, (ull)total);
	else
		fprintf(out, "\r\033[K%s", phase);
	fflush(out);
}

static void print_text(const struct ms_check_report *r, bool deep, FILE *out) {
	char size[32];
	fprintf(out, "read %llu heads, %llu snapshots with %llu chunks, %llu segments: %s\n", (ull)r->heads, (ull)r->snapshots, (ull)r->chunks,
		(ull)r->segments, ms_size_format(size, r->bytes));
	for (size_t i = 0; i < r->list.n; i++) {
		const struct ms_list_generation *g = &r->list.generations[i];
		for (size_t k = 0; k < g->nranges; k++)
			fprintf(out, "restorable: txid %llu to %llu of %s\n", (ull)g->ranges[k].from_txid, (ull)g->ranges[k].to_txid, g->id.s);
	}
	for (size_t i = 0; i < r->nrestores; i++)
		fprintf(out, "proven: snapshot of txid %llu, then %llu commits to txid %llu of %s: checksum %016llx\n", (ull)r->restores[i].from_txid,
			(ull)r->restores[i].commits, (ull)r->restores[i].to_txid, r->restores[i].generation.s, (ull)r->restores[i].checksum);
	for (size_t i = 0; i < r->nproblems; i++)
		fprintf(out, "problem: %s\n", r->problems[i]);
	if (!r->nproblems)
		fprintf(out, deep ? "no problem found, every restore proven\n" : "no problem found\n");
}

static json_t *report_json(const struct ms_check_report *r) {
	json_t *restores = json_array(), *problems = json_array(), *list = ms_list_json(&r->list);
	for (size_t i = 0; i < r->nrestores; i++) {
		char sum[17];
		snprintf(sum, sizeof sum, "%016llx", (ull)r->restores[i].checksum);
		json_array_append_new(restores, json_pack("{s:s,s:I,s:I,s:I,s:s}", "generation", r->restores[i].generation.s, "fromTxid",
							  (json_int_t)r->restores[i].from_txid, "toTxid", (json_int_t)r->restores[i].to_txid, "commits",
							  (json_int_t)r->restores[i].commits, "checksum", sum));
	}
	for (size_t i = 0; i < r->nproblems; i++)
		json_array_append_new(problems, json_string(r->problems[i]));
	json_t *gens = json_incref(json_object_get(list, "generations"));
	json_decref(list);
	return json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o}", "ok", r->nproblems == 0 ? 1 : 0, "heads", (json_int_t)r->heads, "snapshots",
			 (json_int_t)r->snapshots, "chunks", (json_int_t)r->chunks, "segments", (json_int_t)r->segments, "bytes", (json_int_t)r->bytes,
			 "problems", problems, "restores", restores, "generations", gens);
}

int ms_cmd_verify(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("verify");
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	struct ms_restore_sources s = {0};
	struct ms_check_report report = {0};
	struct ms_env *env = NULL;
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	bool deep = ms_args_flag(&a, "deep"), tty = isatty(STDERR_FILENO);
	const char *scratch = ms_args_get(&a, "temp-dir"), *tmpdir = getenv("TMPDIR");
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	enum ms_code rc = (env = ms_env_uv_new(NULL, &err)) ? MS_OK : err.code;
	if (!rc)
		rc = ms_restore_sources_find(env, &a, NULL, &s, &err);
	if (!rc) {
		struct ms_check_options o = {.replicas = s.replicas, .nreplicas = s.n, .deep = deep, .cancel = &interrupted,
			.scratch = scratch ? scratch : tmpdir && *tmpdir ? tmpdir : "/tmp", .progress = tty ? show_progress : NULL, .arg = stderr};
		rc = ms_check_run(env, &o, &report, &err);
		if (tty)
			fputs("\r\033[K", stderr);
	}
	if (rc) {
		exit_code = ms_command_fail(command, &err);
	} else {
		exit_code = report.nproblems ? 3 : 0;
		if (ms_args_flag(&a, "json")) {
			json_t *j = report_json(&report);
			json_dumpf(j, stdout, JSON_INDENT(2));
			putchar('\n');
			json_decref(j);
		} else {
			print_text(&report, deep, stdout);
		}
	}
	ms_check_report_release(&report);
	ms_restore_sources_release(&s);
	ms_env_uv_free(env);
	return exit_code;
}
