/* Command lines: parsing, suggestions, help, dispatch. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd/args.h"
#include "cmd/cmds.h"

static const struct ms_arg_def options[] = {
	{"config", 'c', "FILE", "a file"}, {"json", 0, NULL, "as JSON"}, {"timeout", 't', "DUR", "time"}, {"txid", 0, "N", "number"}, {NULL, 0, NULL, NULL}};
static const struct ms_command_def command = {"migstream", "try", "[-c FILE] DB [URL]", "try things", "More about it.", options, "  migstream try app.db\n", 1, 2, NULL};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))
#define ARGV(a) ((char **)(uintptr_t)(a)) /* nothing writes to them */
#define PARSE(...)                                                                                                                     \
	const char *argv[] = {"try", __VA_ARGS__};                                                                                          \
	struct ms_args a;                                                                                                              \
	int code = ms_args_parse(&command, COUNT(argv), ARGV(argv), &a)

/* Runs f with stderr (and stdout) caught into text. */
static char caught[8192];
static int catch_both(int (*f)(int, char **), int argc, char **argv) {
	FILE *file = tmpfile();
	fflush(stdout), fflush(stderr);
	int out = dup(1), err = dup(2);
	dup2(fileno(file), 1), dup2(fileno(file), 2);
	int code = f(argc, argv);
	fflush(stdout), fflush(stderr);
	dup2(out, 1), dup2(err, 2);
	close(out), close(err);
	rewind(file);
	caught[fread(caught, 1, sizeof caught - 1, file)] = 0;
	fclose(file);
	return code;
}

static int parse(int argc, char **argv) {
	struct ms_args a;
	return ms_args_parse(&command, argc, argv, &a);
}

static void usage_error(int argc, char **argv, const char *message) {
	char wanted[300];
	snprintf(wanted, sizeof wanted, "migstream try: %s\nTry 'migstream try --help'.\n", message);
	cr_assert_eq(catch_both(parse, argc, argv), 2);
	cr_assert_str_eq(caught, wanted);
}
#define USAGE(message, ...)                                                                                                            \
	do {                                                                                                                           \
		const char *argv_[] = {"try", __VA_ARGS__};                                                                                 \
		usage_error(COUNT(argv_), ARGV(argv_), message);                                                                             \
	} while (0)

Test(args, forms) {
	PARSE("-c", "a", "db", "--json", "--timeout=5s", "file:///x");
	cr_assert_eq(code, -1);
	cr_assert_str_eq(ms_args_get(&a, "config"), "a");
	cr_assert(ms_args_flag(&a, "json"));
	cr_assert_str_eq(ms_args_get(&a, "timeout"), "5s");
	cr_assert_null(ms_args_get(&a, "txid"));
	cr_assert_eq(a.npositionals, 2);
	cr_assert_str_eq(a.positionals[0], "db");
	cr_assert_str_eq(a.positionals[1], "file:///x");
}

Test(args, more_forms) {
	PARSE("-cfile", "-t", "-5", "--txid", "7", "--", "--json");
	cr_assert_eq(code, -1);
	cr_assert_str_eq(ms_args_get(&a, "config"), "file");
	cr_assert_str_eq(ms_args_get(&a, "timeout"), "-5");
	cr_assert_not(ms_args_flag(&a, "json"));
	cr_assert_str_eq(a.positionals[0], "--json");
	uint64_t txid = 0;
	int64_t us = 99;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_args_uint(&a, "txid", &txid, &err), MS_OK);
	cr_assert_eq(txid, 7);
	cr_assert_eq(ms_args_duration(&a, "timeout", &us, &err), MS_EUSAGE);
	cr_assert_str_eq(err.msg, "--timeout: '-5' is not a duration: write for example 30s, 1h30m or 500ms");
	cr_assert_eq(us, 99);
	cr_assert_eq(ms_args_uint(&a, "config", &txid, &err), MS_EUSAGE);
	cr_assert_str_eq(err.msg, "--config: 'file' is not a whole number");
}

Test(args, dash_is_an_argument) {
	PARSE("-");
	cr_assert_eq(code, -1);
	cr_assert_str_eq(a.positionals[0], "-");
}

Test(args, mistakes) {
	USAGE("unknown option --jsno; did you mean --json?", "--jsno", "db");
	USAGE("unknown option --helpp; did you mean --help?", "--helpp", "db");
	USAGE("unknown option --elephant", "--elephant", "db");
	USAGE("unknown option --passwrd", "--passwrd=hush", "db");
	USAGE("unknown option -x", "-x", "db");
	USAGE("--json takes no value", "--json=yes", "db");
	USAGE("--config needs a value: FILE", "db", "-c");
	USAGE("--config is given twice", "-c", "a", "--config", "b", "db");
	USAGE("an argument is missing: the usage is [-c FILE] DB [URL]", "--json");
	USAGE("one argument too many: the usage is [-c FILE] DB [URL]", "a", "b", "c");
}

Test(args, help) {
	const char *argv[] = {"try", "--bogus", "--help"};
	cr_assert_eq(catch_both(parse, COUNT(argv), ARGV(argv)), 0);
	cr_assert_str_eq(caught, "Usage: migstream try [-c FILE] DB [URL]\n\ntry things.\nMore about it.\n\nOptions:\n"
				 "  -c, --config FILE        a file\n"
				 "      --json               as JSON\n"
				 "  -t, --timeout DUR        time\n"
				 "      --txid N             number\n"
				 "  -h, --help               this text\n"
				 "\nExamples:\n  migstream try app.db\n");
}

Test(args, program) {
	const char *none[] = {"migstream"}, *version[] = {"migstream", "--version"}, *help[] = {"migstream", "--help"}, *wrong[] = {"migstream", "stauts"},
	     *odd[] = {"migstream", "elephant"}, *about[] = {"migstream", "help", "wait"};
	cr_assert_eq(catch_both(ms_migstream, 1, ARGV(none)), 2);
	cr_assert_eq(strncmp(caught, "Usage: migstream COMMAND", 24), 0);
	cr_assert_eq(catch_both(ms_migstream, 2, ARGV(version)), 0);
	cr_assert_eq(strncmp(caught, "migstream " MS_VERSION "\n  sqlite 3.", sizeof("migstream " MS_VERSION "\n  sqlite 3.") - 1), 0);
	cr_assert_not_null(strstr(caught, "\n  libcurl 7."));
	cr_assert_eq(catch_both(ms_migstream, 2, ARGV(help)), 0);
	for (const struct ms_command_def *c = ms_commands; c->name; c++)
		cr_assert_not_null(strstr(caught, c->name));
	cr_assert_eq(catch_both(ms_migstream, 2, ARGV(wrong)), 2);
	cr_assert_str_eq(caught, "migstream: unknown command 'stauts'; did you mean status?\nTry 'migstream --help'.\n");
	cr_assert_eq(catch_both(ms_migstream, 2, ARGV(odd)), 2);
	cr_assert_str_eq(caught, "migstream: unknown command 'elephant'\nTry 'migstream --help'.\n");
	cr_assert_eq(catch_both(ms_migstream, 3, ARGV(about)), 0);
	cr_assert_eq(strncmp(caught, "Usage: migstream wait ", 22), 0);
}

/* Every command has what the design names, a runner, and examples that its own table accepts. */
Test(args, table) {
	static const char *const names[] = {"replicate", "status", "wait", "pause", "resume", "snapshot", "takeover", "list", "verify", "config", "doctor"};
	for (int i = 0; i < COUNT(names); i++)
		cr_assert_not_null(ms_command_find(names[i]), "%s", names[i]);
	cr_assert_null(ms_command_find("elephant"));
	for (const struct ms_command_def *c = ms_commands; c->name; c++) {
		char *text = strdup(c->examples), *save;
		cr_assert_not_null(c->run);
		unsigned n = 0;
		for (const struct ms_arg_def *o = c->options; o->name; o++)
			n++;
		cr_assert_leq(n, MS_ARGS_OPTIONS);
		for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			char *argv[32], *word = line;
			int argc = 0;
			bool quoted = false;
			for (; *word; word++) { /* words, with '...' kept together */
				while (*word == ' ')
					word++;
				argv[argc++] = word + (*word == '\'');
				for (quoted = *word == '\'', word += quoted; *word && (quoted ? *word != '\'' : *word != ' ');)
					word++;
				if (!*word)
					break;
				*word = 0;
			}
			struct ms_args a;
			cr_assert_str_eq(argv[0], "migstream");
			cr_assert_str_eq(argv[1], c->name);
			cr_assert_eq(ms_args_parse(c, argc - 1, argv + 1, &a), -1, "example of %s", c->name);
		}
		free(text);
	}
}

Test(args, exit_codes) {
	struct ms_err err = MS_ERR_INIT;
	static const struct {
		enum ms_code code;
		int exit_code;
	} all[] = {{MS_EIO, 1}, {MS_EUSAGE, 2}, {MS_ECONFIG, 2}, {MS_ENOTRESTORABLE, 3}, {MS_EFENCED, 4}, {MS_ECLOSED, 1}, {MS_ETIMEDOUT, 1}};
	for (int i = 0; i < COUNT(all); i++) {
		(void)ms_err_set(&err, all[i].code, "text");
		FILE *null = freopen("/dev/null", "w", stderr);
		cr_assert_not_null(null);
		cr_assert_eq(ms_command_fail(&command, &err), all[i].exit_code, "%d", all[i].code);
	}
}
