/* The program migstream: dispatch by the table of commands. */
#include <stdio.h>
#include <string.h>

#include "cmd/args.h"
#include "cmd/cmds.h"
#include "cmd/man.h"
#include "cmd/version.h"
#include "config/nearest.h"

static const char *command_name(void *arg, unsigned i) {
	(void)arg;
	return ms_commands[i].name;
}

int ms_migstream(int argc, char **argv) {
	if (argc < 2) {
		ms_program_help(stderr);
		return 2;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		ms_version_print("migstream", stdout);
		return 0;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		ms_program_help(stdout);
		return 0;
	}
	if (argc == 4 && strcmp(argv[1], "help") == 0 && strcmp(argv[2], "--man") == 0)
		return ms_man_print(argv[3], stdout) && fflush(stdout) == 0 ? 0 : 2;
	if (strcmp(argv[1], "help") == 0) {
		const struct ms_command_def *c = argc > 2 ? ms_command_find(argv[2]) : NULL;
		if (c)
			ms_command_help(c, stdout);
		else
			ms_program_help(stdout);
		return 0;
	}
	const struct ms_command_def *c = ms_command_find(argv[1]);
	if (c)
		return c->run(argc - 1, argv + 1);
	const char *nearest = ms_nearest(argv[1], command_name, NULL);
	if (nearest)
		fprintf(stderr, "migstream: unknown command '%.40s'; did you mean %s?\n", argv[1], nearest);
	else
		fprintf(stderr, "migstream: unknown command '%.40s'\n", argv[1]);
	fprintf(stderr, "Try 'migstream --help'.\n");
	return 2;
}
