/* Where things lie: canonical paths, default shadow directories, which daemon a command means. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd/shadow.h"
#include "replicas/replica.h"

static char dir[64];

static void setup(void) {
	strcpy(dir, "/tmp/ms_shadow_XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	unsetenv("MIGSTREAM_SHADOW");
	unsetenv("MIGSTREAM_CONFIG");
	cr_assert_eq(chdir(dir), 0);
}

static void teardown(void) {
	char command[100];
	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	cr_assert_eq(chdir("/"), 0);
	cr_assert_eq(system(command), 0);
}

static void write_file(const char *path, const char *text) {
	FILE *f = fopen(path, "w");
	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
}

static const char *canonical(const char *path) {
	static char ret[MS_PATH_MAX];
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_canonical_path(path, ret, &err), MS_OK, "%s", err.msg);
	return ret;
}

Test(shadow, canonical_paths, .init = setup, .fini = teardown) {
	char wanted[200];
	cr_assert_str_eq(canonical("/"), "/");
	cr_assert_str_eq(canonical("/nowhere/a/../b/./c//d"), "/nowhere/b/c/d");
	cr_assert_str_eq(canonical("/../.."), "/");
	cr_assert_str_eq(canonical("/nowhere/../../x"), "/x");
	snprintf(wanted, sizeof wanted, "%s/app.db", dir);
	cr_assert_str_eq(canonical("app.db"), wanted);
	cr_assert_str_eq(canonical("./x/../app.db"), wanted);
	write_file("real.db", "");
	cr_assert_eq(symlink("real.db", "link.db"), 0);
	snprintf(wanted, sizeof wanted, "%s/real.db", dir);
	cr_assert_str_eq(canonical("link.db"), wanted);
	char ret[MS_PATH_MAX], long_path[5000];
	struct ms_err err = MS_ERR_INIT;
	memset(long_path, 'x', sizeof long_path - 1);
	long_path[sizeof long_path - 1] = 0;
	cr_assert_eq(ms_canonical_path(long_path, ret, &err), MS_ETOOBIG);
	cr_assert_eq(ms_canonical_path("", ret, &err), MS_EUSAGE);
}

Test(shadow, defaults, .init = setup, .fini = teardown) {
	char ret[MS_PATH_MAX];
	struct ms_err err = MS_ERR_INIT;
	/* printf '%s' /nowhere/my\ app.db | sha256sum */
	if (geteuid() == 0) {
		cr_assert_eq(ms_shadow_default("/nowhere/my app.db", ret, &err), MS_OK);
		cr_assert_str_eq(ret, "/var/lib/migstream/my_app.db-42df90e9bf71771d");
		cr_assert_eq(seteuid(65534), 0);
	}
	setenv("XDG_STATE_HOME", "/state", 1);
	cr_assert_eq(ms_shadow_default("/nowhere/x/../my app.db", ret, &err), MS_OK);
	cr_assert_str_eq(ret, "/state/migstream/my_app.db-42df90e9bf71771d");
	unsetenv("XDG_STATE_HOME");
	setenv("HOME", "/home/me", 1);
	cr_assert_eq(ms_shadow_default("/nowhere/my app.db", ret, &err), MS_OK);
	cr_assert_str_eq(ret, "/home/me/.local/state/migstream/my_app.db-42df90e9bf71771d");
	setenv("MIGSTREAM_SHADOW", "/given/dir", 1);
	cr_assert_eq(ms_shadow_default("/nowhere/my app.db", ret, &err), MS_OK);
	cr_assert_str_eq(ret, "/given/dir");
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
}

static void parse(struct ms_args *a, const char *name, int argc, const char **argv) {
	cr_assert_eq(ms_args_parse(ms_command_find(name), argc, (char **)(uintptr_t)argv, a), -1);
}

Test(shadow, replicate_config, .init = setup, .fini = teardown) {
	struct ms_args a;
	struct ms_err err = MS_ERR_INIT;
	struct ms_config *c = NULL;
	char shadow[MS_PATH_MAX], wanted[200];
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
	const char *args[] = {"replicate", "app.db", "file:///backup", "--takeover"};
	setenv("MIGSTREAM_SHADOW", dir, 1);
	parse(&a, "replicate", 4, args);
	cr_assert_eq(ms_replicate_config(&a, &c, shadow, &err), MS_OK, "%s", err.msg);
	cr_assert_str_eq(shadow, dir);
	cr_assert_str_eq(c->databases[0].path, "app.db");
	cr_assert_str_eq(c->databases[0].replicas[0].url, "file:///backup");
	cr_assert_eq(c->databases[0].s.takeover, MS_TAKEOVER_AUTO);
	ms_config_release(c);
	c = NULL;

	const char *bad[] = {"replicate", "app.db", "elephant://x"};
	parse(&a, "replicate", 3, bad);
	cr_assert_eq(ms_replicate_config(&a, &c, shadow, &err), MS_EUSAGE);
	cr_assert_null(c);
	const char *both[] = {"replicate", "-c", "x.yml", "app.db"};
	parse(&a, "replicate", 4, both);
	cr_assert_eq(ms_replicate_config(&a, &c, shadow, &err), MS_EUSAGE);
	cr_assert_str_eq(err.msg, "either -c FILE or DB URL..., not both");

	write_file("m.yml", "shadowDir: sub/../here\ndatabases: [{path: a.db}]\n");
	const char *file[] = {"replicate", "-c", "m.yml"};
	parse(&a, "replicate", 3, file);
	cr_assert_eq(ms_replicate_config(&a, &c, shadow, &err), MS_OK, "%s", err.msg);
	snprintf(wanted, sizeof wanted, "%s/here", dir);
	cr_assert_str_eq(shadow, wanted);
	cr_assert_eq(c->databases[0].s.takeover, MS_TAKEOVER_NEVER);
	ms_config_release(c);
	c = NULL;
	/* The same by the environment. */
	setenv("MIGSTREAM_CONFIG", "m.yml", 1);
	const char *none[] = {"replicate"};
	parse(&a, "replicate", 1, none);
	cr_assert_eq(ms_replicate_config(&a, &c, shadow, &err), MS_OK, "%s", err.msg);
	cr_assert_str_eq(c->file, "m.yml");
	ms_config_release(c);
	c = NULL;
	write_file("m.yml", "databases: [{path: a.db, replicas: [{type: file, pth: x}]}]\n");
	cr_assert_eq(ms_replicate_config(&a, &c, shadow, &err), MS_ECONFIG);
	cr_assert_str_eq(err.msg, "m.yml:1:55: replicas: pth: unknown key for backend file; did you mean path?");
}

Test(shadow, targets, .init = setup, .fini = teardown) {
	struct ms_args a;
	struct ms_err err = MS_ERR_INIT;
	struct ms_target t;
	char wanted[MS_PATH_MAX + 20], own[MS_PATH_MAX];
	const char *socket_given[] = {"pause", "--socket", "/run/x.sock", "app.db"};
	parse(&a, "pause", 4, socket_given);
	cr_assert_eq(ms_target_find(&a, "app.db", &t, &err), MS_OK);
	cr_assert_str_eq(t.socket, "/run/x.sock");
	cr_assert_str_eq(t.shadow, "");
	ms_target_release(&t);

	write_file("m.yml", "shadowDir: here\ndatabases: [{path: a.db, name: app}]\n");
	const char *file[] = {"pause", "-c", "m.yml", "app"};
	parse(&a, "pause", 4, file);
	cr_assert_eq(ms_target_find(&a, "app", &t, &err), MS_OK, "%s", err.msg);
	snprintf(wanted, sizeof wanted, "%s/here/control.sock", dir);
	cr_assert_str_eq(t.socket, wanted);
	cr_assert_not_null(t.config);
	ms_target_release(&t);

	/* A database's own shadow directory, once it exists, before the looked-up configuration; without it, the configuration. */
	snprintf(wanted, sizeof wanted, "%s/state", dir);
	setenv("XDG_STATE_HOME", wanted, 1);
	setenv("MIGSTREAM_CONFIG", "m.yml", 1);
	const char *plain[] = {"pause", "b.db"};
	parse(&a, "pause", 2, plain);
	cr_assert_eq(ms_target_find(&a, "b.db", &t, &err), MS_OK);
	snprintf(wanted, sizeof wanted, "%s/here", dir);
	cr_assert_str_eq(t.shadow, wanted);
	ms_target_release(&t);
	cr_assert_eq(ms_shadow_default("b.db", own, &err), MS_OK);
	if (geteuid() != 0) {
		snprintf(wanted, sizeof wanted, "mkdir -p '%s'", own);
		cr_assert_eq(system(wanted), 0);
		cr_assert_eq(ms_target_find(&a, "b.db", &t, &err), MS_OK);
		cr_assert_str_eq(t.shadow, own);
		ms_target_release(&t);
	}
	unsetenv("MIGSTREAM_CONFIG");
	if (access("/etc/migstream.yml", F_OK) != 0) {
		const char *status[] = {"status"};
		cr_assert_eq(ms_target_find(&a, "b.db", &t, &err), MS_OK);
		cr_assert_str_eq(t.shadow, own);
		ms_target_release(&t);
		parse(&a, "status", 1, status);
		cr_assert_eq(ms_target_find(&a, NULL, &t, &err), MS_EUSAGE);
		setenv("MIGSTREAM_SHADOW", "/given", 1);
		cr_assert_eq(ms_target_find(&a, NULL, &t, &err), MS_OK);
		cr_assert_str_eq(t.socket, "/given/control.sock");
		ms_target_release(&t);
	}
}
