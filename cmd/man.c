/* Roff by the man macros. Table texts are plain: "-" and "\" are escaped, `code` becomes bold, a line never begins with a request. */
#include <stdbool.h>
#include <string.h>

#include "cmd/args.h"
#include "cmd/man.h"
#include "config/schema.h"
#include "replicas/replica.h"

#define DATE "2026-11-21" /* of the last change to the texts here */

/* ---- roff ---- */

static void put(FILE *out, char c, bool line_start) {
	if (line_start && (c == '.' || c == '\''))
		fputs("\\&", out);
	if (c == '\\')
		fputs("\\e", out);
	else if (c == '-')
		fputs("\\-", out);
	else if (c == '\'')
		fputs("\\(aq", out);
	else if (c == '`')
		fputs("\\(ga", out);
	else if (c == '~')
		fputs("\\(ti", out);
	else if (c == '^')
		fputs("\\(ha", out);
	else
		fputc(c, out);
}

/* Text with `code` in it; ends without a newline. */
static void text(FILE *out, const char *s) {
	bool code = false, start = true;
	for (; *s; s++) {
		if (*s == '`' && (code || strchr(s + 1, '`'))) {
			code = !code;
			fputs(code ? "\\fB" : "\\fR", out);
			start = false;
			continue;
		}
		if (*s == '\n') {
			fputc('\n', out);
			start = true;
			while (s[1] == ' ')
				s++;
			continue;
		}
		put(out, *s, start);
		start = false;
	}
	if (code)
		fputs("\\fR", out);
}

/* A sentence of the tables: its first letter is raised, and it ends in a full stop. */
static void sentence(FILE *out, const char *s) {
	char first[2] = {s[0], 0};
	size_t word = strspn(s, "abcdefghijklmnopqrstuvwxyz");
	/* Unless it begins with a value: "none, checksum or full". */
	if (word && s[word] != ',' && s[word] != ':' && s[word] != '.')
		first[0] = (char)(first[0] - 'a' + 'A');
	text(out, first);
	/* The rest cannot begin a request any more. */
	for (bool code = false; *++s;) {
		if (*s == '`') {
			code = !code;
			fputs(code ? "\\fB" : "\\fR", out);
		} else {
			put(out, *s, false);
		}
	}
	fputs(".\n", out);
}

static void section(FILE *out, const char *name) { fprintf(out, ".SH %s\n", name); }

static void examples(FILE *out, const char *s) {
	bool start = true;
	fputs(".RS 4\n.nf\n", out);
	for (; *s; s++) {
		if (start && s[0] == ' ' && s[1] == ' ') /* the tables' own indentation */
			s += 2;
		put(out, *s, start);
		start = *s == '\n';
	}
	fputs(".fi\n.RE\n", out);
}

/* A synopsis: words in capitals are the reader's to fill in. */
static void usage(FILE *out, const char *s) {
	while (*s) {
		size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
		bool word = n > 1 || (n == 1 && !strchr("abcdefghijklmnopqrstuvwxyz", s[1] ? s[1] : ' '));
		if (n && word)
			fputs("\\fI", out);
		for (size_t i = 0; i < (n ? n : 1); i++)
			put(out, s[i], false);
		if (n && word)
			fputs("\\fR", out);
		s += n ? n : 1;
	}
}

static void title(FILE *out, const char *name, const char *section_number, const char *what) {
	fprintf(out, ".\\\" Made from the program's tables by `migstream help --man`; do not edit.\n.TH %s %s \"%s\" \"migstream %s\"\n", name, section_number, DATE,
		MS_VERSION);
	section(out, "NAME");
	for (const char *p = name; *p; p++)
		fputc(*p >= 'A' && *p <= 'Z' ? *p - 'A' + 'a' : *p, out);
	fputs(" \\- ", out);
	text(out, what);
	fputc('\n', out);
}

/* ---- pieces ---- */

static void options(FILE *out, const struct ms_command_def *c) {
	for (const struct ms_arg_def *o = c->options; o->name; o++) {
		fputs(".TP\n", out);
		if (o->letter)
			fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
		fputs("\\fB\\-\\-", out);
		for (const char *p = o->name; *p; p++)
			put(out, *p, false);
		fputs("\\fR", out);
		if (o->value)
			fprintf(out, " \\fI%s\\fR", o->value);
		fputc('\n', out);
		sentence(out, o->help);
	}
}

static void exit_codes(FILE *out) {
	static const char *const codes[] = {
		"done; also `--if-not-exists` on an existing target", "failed: I/O, network, credentials, target exists or is in use, database not in WAL mode",
		"usage, URL or configuration", "not restorable, or verification failed", "fenced: the replica belongs to another owner"};
	section(out, "EXIT STATUS");
	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
		fprintf(out, ".TP\n\\fB%zu\\fR\n", i);
		sentence(out, codes[i]);
	}
}

static void replicas(FILE *out, bool keys) {
	for (unsigned i = 0; ms_replica_driver_at(i); i++) {
		const struct ms_replica_driver *d = ms_replica_driver_at(i);
		fprintf(out, ".TP\n\\fB%s\\fR\n", d->scheme);
		sentence(out, d->help);
		for (const struct ms_option_def *o = d->options; keys && o->key; o++) {
			fprintf(out, ".RS\n.TP\n\\fB%s\\fR (%s%s%s)\n", o->key, o->type, o->required ? ", required" : "", o->secret ? ", secret: not in a URL" : "");
			sentence(out, o->help);
			fputs(".RE\n", out);
		}
	}
}

static void see_also(FILE *out, const char *a, const char *b) {
	section(out, "SEE ALSO");
	fprintf(out, ".BR %s ,\n.BR %s\n", a, b);
}

/* ---- pages ---- */

static void page_migstream(FILE *out) {
	title(out, "MIGSTREAM", "1", "replicates SQLite databases, commit by commit");
	section(out, "SYNOPSIS");
	for (const struct ms_command_def *c = ms_commands; c->name; c++) {
		fprintf(out, "%s\\fBmigstream %s\\fR ", c == ms_commands ? "" : ".br\n", c->name);
		usage(out, c->usage);
		fputc('\n', out);
	}
	fputs(".br\n\\fBmigstream\\fR \\fB\\-\\-version\\fR | [\\fIcommand\\fR] \\fB\\-\\-help\\fR\n", out);
	section(out, "DESCRIPTION");
	text(out, "It runs beside the application that writes a SQLite database in WAL mode, captures every commit, makes it durable in a local\n"
		  "journal and brings it to replicas, from which `migrestore` restores any of them.\n"
		  "The database is never changed, and a writer never waits for a replica.\n");
	section(out, "COMMANDS");
	for (const struct ms_command_def *c = ms_commands; c->name; c++) {
		fprintf(out, ".SS %s\n\\fBmigstream %s\\fR ", c->name, c->name);
		usage(out, c->usage);
		fputs("\n.PP\n", out);
		sentence(out, c->summary);
		if (c->details) {
			text(out, c->details);
			fputc('\n', out);
		}
		options(out, c);
		if (c->examples) {
			fputs(".PP\n", out);
			examples(out, c->examples);
		}
	}
	section(out, "REPLICAS");
	replicas(out, false);
	section(out, "ENVIRONMENT");
	fputs(".TP\n\\fBMIGSTREAM_CONFIG\\fR\nThe configuration where no \\fB\\-c\\fR names one.\n"
	      ".TP\n\\fBMIGSTREAM_SHADOW\\fR\nThe shadow directory where the configuration names none.\n"
	      ".TP\n\\fBXDG_STATE_HOME\\fR\nWhere default shadow directories lie, under \\fBmigstream\\fR; \\(ti/.local/state without it.\n", out);
	section(out, "FILES");
	fputs(".TP\n\\fI/etc/migstream.yml\\fR\nThe configuration that is looked for last.\n"
	      ".TP\n\\fI/var/lib/migstream\\fR\nWhere the shadow directories of root lie.\n"
	      ".TP\n\\fIcontrol.sock\\fR\nThe control socket, in the shadow directory.\n", out);
	exit_codes(out);
	see_also(out, "migrestore (1)", "migstream.yml (5)");
}

static void page_migrestore(FILE *out) {
	const struct ms_command_def *c = &ms_migrestore_command;
	title(out, "MIGRESTORE", "1", c->summary);
	section(out, "SYNOPSIS");
	fputs("\\fBmigrestore\\fR ", out);
	usage(out, c->usage);
	fputs("\n", out);
	section(out, "DESCRIPTION");
	text(out, c->details);
	fputs("\n", out);
	text(out, "The result is proven equal to the database at that commit, or the target stays as it was.\n");
	section(out, "OPTIONS");
	options(out, c);
	section(out, "EXAMPLES");
	examples(out, c->examples);
	section(out, "REPLICAS");
	replicas(out, false);
	exit_codes(out);
	see_also(out, "migstream (1)", "migstream.yml (5)");
}

static void keys(FILE *out, enum ms_key_scope scope) {
	char about[200];
	for (const struct ms_key_def *k = ms_config_keys; k->path; k++) {
		if (k->scope != scope)
			continue;
		fprintf(out, ".TP\n\\fB%s\\fR (", k->path);
		text(out, ms_key_about(k, about, sizeof about));
		fputs(")\n", out);
		sentence(out, k->help);
	}
}

static void page_yml(FILE *out) {
	title(out, "MIGSTREAM.YML", "5", "configuration of migstream");
	section(out, "DESCRIPTION");
	text(out, "YAML, or JSON, which is YAML. An unknown key, a wrong type or a value out of range is an error that names file, line and key;\n"
		  "`migstream config check` `FILE` finds them, and `migstream config print` `FILE` shows every key with the value in force.\n"
		  "Durations are written `1h30m`, `250ms`; sizes `65536`, `64MiB`. In values ${NAME} stands for an environment variable.\n");
	section(out, "TOP LEVEL");
	keys(out, MS_SCOPE_DAEMON);
	fputs(".TP\n\\fBdatabases\\fR (list)\nThe databases, with the keys below.\n"
	      ".TP\n\\fBreplicas\\fR (list)\nReplicas of every database that names none of its own.\n", out);
	section(out, "TOP LEVEL AND EACH DATABASE");
	text(out, "At the top level they are for every database that does not say otherwise.\n");
	keys(out, MS_SCOPE_SETTINGS);
	section(out, "EACH DATABASE");
	keys(out, MS_SCOPE_DATABASE);
	section(out, "EACH REPLICA");
	keys(out, MS_SCOPE_REPLICA);
	fputs(".PP\nWith \\fBtype\\fR, the keys of the backend:\n", out);
	replicas(out, true);
	section(out, "EXAMPLE");
	examples(out, "  shadowDir: /var/lib/migstream/app\n"
		      "  dataLossWindowThreshold: 30s\n"
		      "  metrics: {address: \"127.0.0.1:9090\"}\n"
		      "  databases:\n"
		      "    - path: /srv/app/app.db\n"
		      "      replicas: [{name: backup, url: \"file:///mnt/backup/app\"}]\n");
	see_also(out, "migstream (1)", "migrestore (1)");
}

bool ms_man_print(const char *name, FILE *out) {
	struct ms_err err = MS_ERR_INIT;
	if (ms_replicas_register_builtin(&err) != MS_OK)
		return false;
	if (strcmp(name, "migstream") == 0)
		page_migstream(out);
	else if (strcmp(name, "migrestore") == 0)
		page_migrestore(out);
	else if (strcmp(name, "migstream.yml") == 0)
		page_yml(out);
	else
		return false;
	return true;
}
