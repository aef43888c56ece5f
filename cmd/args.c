#include "cmd/args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/timefmt.h"
#include "config/nearest.h"

#define HELP_COLUMN 24

static const char *full_name(const struct ms_command_def *c, char ret[64]) {
	snprintf(ret, 64, "%s%s%s", c->program, c->name ? " " : "", c->name ? c->name : "");
	return ret;
}

/* The error, then where to read on. */
static int usage(const struct ms_command_def *c, const char *fmt, ...) MS_PRINTF(2, 3);
static int usage(const struct ms_command_def *c, const char *fmt, ...) {
	char name[64];
	va_list ap;
	va_start(ap, fmt);
	fprintf(stderr, "%s: ", full_name(c, name));
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\nTry '%s --help'.\n", name);
	va_end(ap);
	return 2;
}

const struct ms_command_def *ms_command_find(const char *name) {
	for (const struct ms_command_def *c = ms_commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static int option_index(const struct ms_command_def *c, const char *name, size_t n) {
	for (int i = 0; c->options[i].name; i++)
		if (strlen(c->options[i].name) == n && strncmp(c->options[i].name, name, n) == 0)
			return i;
	return -1;
}

static int letter_index(const struct ms_command_def *c, char letter) {
	for (int i = 0; c->options[i].name; i++)
		if (letter && c->options[i].letter == letter)
			return i;
	return -1;
}

static const char *option_name(void *arg, unsigned i) {
	const struct ms_command_def *c = arg;
	unsigned n = 0;
	while (c->options[n].name)
		n++;
	return i < n ? c->options[i].name : i == n ? "help" : NULL;
}

static int unknown_option(const struct ms_command_def *c, const char *arg) {
	char word[64];
	/* Only the name: what follows '=' may be a secret. */
	size_t n = strcspn(arg, "=");
	snprintf(word, sizeof word, "%.*s", (int)(n > 60 ? 60 : n), arg);
	const char *nearest = word[1] == '-' ? ms_nearest(word + 2, option_name, (void *)(uintptr_t)c) : NULL;
	if (nearest)
		return usage(c, "unknown option %s; did you mean --%s?", word, nearest);
	return usage(c, "unknown option %s", word);
}

/* One option at argv[*i]; *i moves to its last argument. -1 to go on. */
static int option(const struct ms_command_def *c, int argc, char **argv, int *i, struct ms_args *ret) {
	const char *arg = argv[*i], *value = NULL;
	int index;
	if (arg[1] == '-') {
		size_t n = strcspn(arg + 2, "=");
		index = option_index(c, arg + 2, n);
		if (arg[2 + n] == '=')
			value = arg + 3 + n;
	} else {
		index = letter_index(c, arg[1]);
		if (arg[2])
			value = arg + 2;
	}
	if (index < 0)
		return unknown_option(c, arg);
	const struct ms_arg_def *o = &c->options[index];
	if (ret->values[index])
		return usage(c, "--%s is given twice", o->name);
	if (!o->value) {
		if (value)
			return usage(c, "--%s takes no value", o->name);
		ret->values[index] = "";
		return -1;
	}
	if (!value) {
		if (*i + 1 >= argc)
			return usage(c, "--%s needs a value: %s", o->name, o->value);
		value = argv[++*i];
	}
	ret->values[index] = value;
	return -1;
}

int ms_args_parse(const struct ms_command_def *command, int argc, char **argv, struct ms_args *ret) {
	bool options = true;
	memset(ret, 0, sizeof *ret);
	ret->command = command;
	/* Help wins over whatever else is wrong. */
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			ms_command_help(command, stdout);
			return 0;
		}
	for (int i = 1; i < argc; i++) {
		if (options && strcmp(argv[i], "--") == 0) {
			options = false;
		} else if (options && argv[i][0] == '-' && argv[i][1]) {
			int code = option(command, argc, argv, &i, ret);
			if (code >= 0)
				return code;
		} else if (ret->npositionals >= command->max_positionals || ret->npositionals >= MS_ARGS_POSITIONALS) {
			return usage(command, "one argument too many: the usage is %s", command->usage);
		} else {
			ret->positionals[ret->npositionals++] = argv[i];
		}
	}
	if (ret->npositionals < command->min_positionals)
		return usage(command, "an argument is missing: the usage is %s", command->usage);
	return -1;
}

const char *ms_args_get(const struct ms_args *a, const char *option_) {
	int i = option_index(a->command, option_, strlen(option_));
	if (i < 0)
		abort();
	return a->values[i];
}

enum ms_code ms_args_duration(const struct ms_args *a, const char *option_, int64_t *ret_us, struct ms_err *err) {
	const char *s = ms_args_get(a, option_);
	struct ms_err inner = MS_ERR_INIT;
	if (s && ms_duration_parse(s, ret_us, &inner))
		return ms_err_set(err, MS_EUSAGE, "--%s: '%.64s' is not a duration: write for example 30s, 1h30m or 500ms", option_, s);
	return MS_OK;
}

enum ms_code ms_args_uint(const struct ms_args *a, const char *option_, uint64_t *ret, struct ms_err *err) {
	const char *s = ms_args_get(a, option_);
	char *end;
	if (!s)
		return MS_OK;
	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || errno)
		return ms_err_set(err, MS_EUSAGE, "--%s: '%.64s' is not a whole number", option_, s);
	*ret = v;
	return MS_OK;
}

void ms_command_help(const struct ms_command_def *c, FILE *out) {
	char name[64], left[64];
	fprintf(out, "Usage: %s %s\n\n%s.\n", full_name(c, name), c->usage, c->summary);
	if (c->details)
		fprintf(out, "%s\n", c->details);
	fprintf(out, "\nOptions:\n");
	for (const struct ms_arg_def *o = c->options; o->name; o++) {
		snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : "", o->letter ? o->letter : ' ', o->letter ? ", " : "   ", o->name,
			 o->value ? " " : "", o->value ? o->value : "");
		fprintf(out, "  %-*s %s\n", HELP_COLUMN, left, o->help);
	}
	fprintf(out, "  %-*s %s\n", HELP_COLUMN, "-h, --help", "this text");
	if (c->examples)
		fprintf(out, "\nExamples:\n%s", c->examples);
}

void ms_program_help(FILE *out) {
	fprintf(out, "Usage: migstream COMMAND [OPTION...] [ARGUMENT...]\n\n"
		     "Replicates SQLite databases, commit by commit, to file systems and object stores.\n\nCommands:\n");
	for (const struct ms_command_def *c = ms_commands; c->name; c++)
		fprintf(out, "  %-10s %s\n", c->name, c->summary);
	fprintf(out, "\n'migstream COMMAND --help' tells more, with examples; 'migstream --version' names the libraries.\n"
		     "'migrestore' brings a database back.\n\n"
		     "Exit codes: 0 done, 1 failed, 2 usage, URL or configuration, 3 not restorable or verification failed, 4 fenced.\n");
}

int ms_command_fail(const struct ms_command_def *c, const struct ms_err *err) {
	char name[64];
	fprintf(stderr, "%s: %s\n", full_name(c, name), err->msg);
	int code = ms_code_exit(err->code);
	return code ? code : 1;
}
