/* migstream config check|print FILE. */
#include <stdio.h>
#include <string.h>

#include "cmd/args.h"
#include "cmd/cmds.h"
#include "cmd/replica_spec.h"

#define PRINT_MAX (256u << 20)

static enum ms_code print(const struct ms_config *c, bool json, struct ms_err *err) {
	struct ms_buf out;
	ms_buf_init(&out, PRINT_MAX);
	enum ms_code code = ms_config_print(c, json, ms_replica_option_secret, &out, err);
	if (!code && (fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout)))
		code = ms_err_set(err, MS_EIO, "standard output cannot be written");
	ms_buf_release(&out);
	return code;
}

int ms_cmd_config(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("config");
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	struct ms_config *c = NULL;
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	bool check = strcmp(a.positionals[0], "check") == 0;
	enum ms_code code;
	if (!check && strcmp(a.positionals[0], "print") != 0)
		code = ms_err_set(&err, MS_EUSAGE, "'%.40s' is neither check nor print", a.positionals[0]);
	else if (!(code = ms_replicas_register_builtin(&err)) && !(code = ms_config_load(a.positionals[1], &c, &err)))
		code = ms_replica_specs_check(c, &err);
	if (!code && check && ms_args_flag(&a, "json"))
		printf("{\"ok\": true, \"databases\": %u}\n", c->ndatabases);
	else if (!code && check)
		printf("%s: ok, %u database%s\n", a.positionals[1], c->ndatabases, c->ndatabases == 1 ? "" : "s");
	else if (!code)
		code = print(c, ms_args_flag(&a, "json"), &err);
	ms_config_release(c);
	/* A configuration that cannot be found is a wrong argument, not a failure of the disk. */
	if (code == MS_ENOTFOUND)
		err.code = MS_ECONFIG;
	return code ? ms_command_fail(command, &err) : 0;
}
