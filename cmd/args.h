/*
 * Command lines: one table (args_table.c) holds every command, its options, help and examples; parsing, --help, and the nearest
 * command or option for a mistyped one come from it. Options stand anywhere, "--x V" and "--x=V", "-c V"; "--" ends them.
 * Output of help goes to stdout, of errors to stderr.
 */
#ifndef MS_CMD_ARGS_H
#define MS_CMD_ARGS_H

#include <stdint.h>
#include <stdio.h>
#include "base/err.h"

#define MS_ARGS_OPTIONS 32
#define MS_ARGS_POSITIONALS 64

struct ms_arg_def {
	const char *name;  /* without "--" */
	char letter;	   /* 0 none */
	const char *value; /* what the help calls the value; NULL = a flag */
	const char *help;
};

struct ms_command_def {
	const char *program; /* "migstream" or "migrestore" */
	const char *name;    /* "status"; NULL for a program without subcommands */
	const char *usage;   /* after the name */
	const char *summary; /* one line */
	const char *details; /* more lines, or NULL */
	const struct ms_arg_def *options; /* ends with name == NULL */
	const char *examples;		  /* lines */
	unsigned min_positionals, max_positionals;
	int (*run)(int argc, char **argv); /* argv[0] is the command's name; NULL for migrestore */
};

struct ms_args {
	const struct ms_command_def *command;
	const char *values[MS_ARGS_OPTIONS]; /* by index in command->options; a flag given is "" */
	const char *positionals[MS_ARGS_POSITIONALS];
	unsigned npositionals;
};

/* Commands of migstream, ends with name == NULL. */
extern const struct ms_command_def ms_commands[];
extern const struct ms_command_def ms_migrestore_command;
const struct ms_command_def *ms_command_find(const char *name); /* in ms_commands; NULL: none */

/* Parses argv[1..argc) of a command. Returns -1 to go on; else the exit code to leave with (0 after --help, 2 after a usage
 * error, which has been printed). */
int ms_args_parse(const struct ms_command_def *command, int argc, char **argv, struct ms_args *ret);
const char *ms_args_get(const struct ms_args *a, const char *option); /* NULL when not given. An option the table lacks aborts: a bug. */
static inline bool ms_args_flag(const struct ms_args *a, const char *option) { return ms_args_get(a, option) != NULL; }
/* Typed values; *ret untouched when the option is absent. Return MS_OK or MS_EUSAGE. */
enum ms_code ms_args_duration(const struct ms_args *a, const char *option, int64_t *ret_us, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_args_uint(const struct ms_args *a, const char *option, uint64_t *ret, struct ms_err *err) MS_WARN_UNUSED;

void ms_command_help(const struct ms_command_def *command, FILE *out);
void ms_program_help(FILE *out); /* list of migstream's commands */
/* Prints "migstream status: <text>" to stderr and returns the exit code of the error's class. */
int ms_command_fail(const struct ms_command_def *command, const struct ms_err *err);

#endif
