/* migstream snapshot: asks the daemon for one now. */
#include <inttypes.h>
#include <stdio.h>

#include "cmd/cmds.h"
#include "cmd/control_client.h"

#define ANSWER_US 60000000

int ms_cmd_snapshot(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("snapshot");
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	json_t *o = NULL;
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	if (ms_control_call_db(&a, a.positionals[0], true, "/snapshot", NULL, ANSWER_US, &o, &err))
		return ms_command_fail(command, &err);
	printf("snapshot at txid %" PRId64 " or later has been started\n", (int64_t)json_integer_value(json_object_get(o, "txid")));
	json_decref(o);
	return 0;
}
