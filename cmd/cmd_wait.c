/* migstream wait: until the replicas hold what is committed now, or a given transaction. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd/cmds.h"
#include "cmd/control_client.h"

/* The daemon answers its own timeout; this is for one that hangs. */
#define GRACE_US 15000000

int ms_cmd_wait(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("wait");
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	char txid_text[24], ms_text[24];
	uint64_t txid = 0;
	int64_t timeout = -1;
	json_t *o = NULL;
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	if (ms_args_uint(&a, "txid", &txid, &err) || ms_args_duration(&a, "timeout", &timeout, &err))
		return ms_command_fail(command, &err);
	snprintf(txid_text, sizeof txid_text, "%" PRIu64, txid);
	snprintf(ms_text, sizeof ms_text, "%" PRId64, (timeout + 999) / 1000);
	const struct ms_param params[] = {{"txid", ms_args_flag(&a, "txid") ? txid_text : NULL},
					  {"replica", ms_args_get(&a, "replica")},
					  {"timeout_ms", timeout >= 0 ? ms_text : NULL},
					  {NULL, NULL}};
	if (ms_control_call_db(&a, a.positionals[0], false, "/wait", params, timeout >= 0 ? timeout + GRACE_US : 0, &o, &err))
		return ms_command_fail(command, &err);
	if (ms_args_flag(&a, "json")) {
		json_dumpf(o, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(o);
	return 0;
}
