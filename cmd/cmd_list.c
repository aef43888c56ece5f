/* migstream list: what a replica holds, and which points restore. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/timefmt.h"
#include "cmd/cmds.h"
#include "cmd/list_json.h"
#include "cmd/restore_sources.h"
#include "restore/list.h"

typedef unsigned long long ull;

static json_t *time_json(int64_t us) {
	char t[32];
	return us ? json_string(ms_time_format(t, us)) : json_null();
}

static json_t *generation_json(const struct ms_list_generation *g) {
	json_t *snapshots = json_array(), *segments = json_array(), *ranges = json_array(), *folds = json_array();
	for (size_t i = 0; i < g->nsnapshots; i++)
		json_array_append_new(snapshots, json_pack("{s:I,s:o,s:I}", "txid", (json_int_t)g->snapshots[i].txid, "time",
							   time_json(g->snapshots[i].time_us), "bytes", (json_int_t)g->snapshots[i].bytes));
	for (size_t i = 0; i < g->nruns; i++)
		json_array_append_new(segments, json_pack("{s:I,s:I,s:o,s:o,s:I,s:I}", "firstTxid", (json_int_t)g->runs[i].first_txid, "lastTxid",
							  (json_int_t)g->runs[i].last_txid, "firstTime", time_json(g->runs[i].first_us), "lastTime",
							  time_json(g->runs[i].last_us), "bytes", (json_int_t)g->runs[i].bytes, "objects",
							  (json_int_t)g->runs[i].objects));
	for (size_t i = 0; i < g->nranges; i++)
		json_array_append_new(ranges, json_pack("{s:I,s:I,s:o,s:o,s:s}", "fromTxid", (json_int_t)g->ranges[i].from_txid, "toTxid",
							(json_int_t)g->ranges[i].to_txid, "fromTime", time_json(g->ranges[i].from_us), "toTime",
							time_json(g->ranges[i].to_us), "granularity", g->ranges[i].squashed ? "point" : "commit"));
	for (size_t i = 0; i < g->nfolds; i++)
		json_array_append_new(folds, json_pack("{s:I,s:I,s:o}", "firstTxid", (json_int_t)g->folds[i].first_txid, "lastTxid",
						       (json_int_t)g->folds[i].last_txid, "time", time_json(g->folds[i].time_us)));
	return json_pack("{s:s,s:o,s:o,s:b,s:b,s:o,s:o,s:o,s:o}", "id", g->id.s, "parent", g->parent.s[0] ? json_string(g->parent.s) : json_null(), "forkTxid",
			 g->parent.s[0] ? json_integer((json_int_t)g->fork_txid) : json_null(), "seeded", g->seeded ? 1 : 0, "head", g->head ? 1 : 0, "snapshots", snapshots, "segments",
			 segments, "restorable", ranges, "catchups", folds);
}

json_t *ms_list_json(const struct ms_list *l) {
	json_t *gens = json_array(), *warnings = json_array();
	for (size_t i = 0; i < l->n; i++)
		json_array_append_new(gens, generation_json(&l->generations[i]));
	for (size_t i = 0; i < l->nwarnings; i++)
		json_array_append_new(warnings, json_string(l->warnings[i]));
	return json_pack("{s:o,s:o}", "generations", gens, "warnings", warnings);
}

static void print_text(const struct ms_list *l, FILE *out) {
	char t1[32], t2[32], size[32];
	for (size_t i = 0; i < l->n; i++) {
		const struct ms_list_generation *g = &l->generations[i];
		fprintf(out, "generation %s%s", g->id.s, g->head ? "  (head)" : "");
		if (g->parent.s[0])
			fprintf(out, g->seeded ? "  follows %s after txid %llu with a snapshot of its own" : "  forked from %s at txid %llu", g->parent.s,
				(ull)g->fork_txid);
		fputc('\n', out);
		for (size_t k = 0; k < g->nsnapshots; k++)
			fprintf(out, "  snapshot    txid %-10llu %s  %s\n", (ull)g->snapshots[k].txid, ms_time_format(t1, g->snapshots[k].time_us),
				ms_size_format(size, g->snapshots[k].bytes));
		for (size_t k = 0; k < g->nruns; k++)
			fprintf(out, "  segments    txid %llu to %llu  %s to %s  %s in %llu objects\n", (ull)g->runs[k].first_txid, (ull)g->runs[k].last_txid,
				ms_time_format(t1, g->runs[k].first_us), ms_time_format(t2, g->runs[k].last_us), ms_size_format(size, g->runs[k].bytes),
				(ull)g->runs[k].objects);
		for (size_t k = 0; k < g->nranges; k++)
			fprintf(out, "  restorable  txid %llu to %llu  %s to %s%s\n", (ull)g->ranges[k].from_txid, (ull)g->ranges[k].to_txid,
				ms_time_format(t1, g->ranges[k].from_us), ms_time_format(t2, g->ranges[k].to_us),
				g->ranges[k].squashed ? "  (kept points only)" : "");
		for (size_t k = 0; k < g->nfolds; k++)
			fprintf(out, "  catch-up    txid %llu to %llu  %s  only the last of them restores: the replica was down meanwhile\n",
				(ull)g->folds[k].first_txid, (ull)g->folds[k].last_txid, ms_time_format(t1, g->folds[k].time_us));
		if (!g->nranges)
			fprintf(out, "  restorable  nothing of it yet%s\n", g->nsnapshots || (g->parent.s[0] && !g->seeded) ? "" : ": its first snapshot has not come");
	}
}

int ms_cmd_list(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("list");
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	struct ms_restore_sources s = {0};
	struct ms_list list = {0};
	struct ms_env *env = NULL;
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	enum ms_code rc = (env = ms_env_uv_new(NULL, &err)) ? MS_OK : err.code;
	if (!rc)
		rc = ms_restore_sources_find(env, &a, NULL, &s, &err);
	if (!rc) {
		struct ms_list_options o = {.replicas = s.replicas, .nreplicas = s.n};
		rc = ms_list_run(env, &o, &list, &err);
	}
	if (rc) {
		exit_code = ms_command_fail(command, &err);
	} else {
		exit_code = 0;
		for (size_t i = 0; i < list.nwarnings; i++)
			fprintf(stderr, "migstream list: warning: %s\n", list.warnings[i]);
		if (ms_args_flag(&a, "json")) {
			json_t *j = ms_list_json(&list);
			json_dumpf(j, stdout, JSON_INDENT(2));
			putchar('\n');
			json_decref(j);
		} else {
			print_text(&list, stdout);
		}
	}
	ms_list_release(&list);
	ms_restore_sources_release(&s);
	ms_env_uv_free(env);
	return exit_code;
}
