/* migstream doctor [DB | URL]. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cmd/cmds.h"
#include "cmd/doctor.h"
#include "cmd/replica_spec.h"
#include "cmd/shadow.h"
#include "replicas/url.h"

static uint64_t size_of(const char *path) {
	struct stat st;
	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void replica(struct ms_doctor *d, const char *file, const struct ms_config_replica *r) {
	struct ms_replica_spec spec;
	struct ms_err err = MS_ERR_INIT;
	char url[200], subject[256];
	if (ms_replica_spec_from_config(file, r, &spec, &err)) {
		ms_doctor_add(d, MS_FINDING_FAIL, "address", r->name, "correct the replica's address and options", "%s", err.msg);
		return;
	}
	snprintf(subject, sizeof subject, "replica %s", ms_url_format(&spec, url, sizeof url));
	ms_doctor_replica(d, subject, &spec, r->fencing == MS_FENCING_NONE);
	ms_replica_spec_release(&spec);
}

static void config(struct ms_doctor *d, const struct ms_config *c, const char *only, struct ms_err *err) {
	char shadow[MS_PATH_MAX];
	uint64_t bytes = 0;
	for (unsigned i = 0; i < c->ndatabases; i++) {
		const struct ms_config_database *db = &c->databases[i];
		if (only && ms_config_find(c, only) != db)
			continue;
		ms_doctor_database(d, db->path);
		bytes += size_of(db->path);
		for (unsigned j = 0; j < db->nreplicas; j++)
			replica(d, c->file, &db->replicas[j]);
	}
	if (!ms_shadow_of_config(c, shadow, err))
		ms_doctor_shadow(d, shadow, bytes);
}

/* What the argument and the configuration say: a URL, a database of the configuration, or a database by its path. */
static enum ms_code examine(struct ms_doctor *d, const struct ms_args *a, struct ms_err *err) {
	const char *what = a->npositionals ? a->positionals[0] : NULL, *option = ms_args_get(a, "config"), *file = ms_config_lookup(option);
	struct ms_config *c = NULL;
	enum ms_code code;
	if (what && strstr(what, "://")) {
		struct ms_config_replica r = {.name = (char *)(uintptr_t)"replica", .url = (char *)(uintptr_t)what};
		struct ms_replica_spec spec;
		if ((code = ms_replica_spec_from_config(NULL, &r, &spec, err)))
			return code;
		ms_replica_spec_release(&spec);
		replica(d, NULL, &r);
		return MS_OK;
	}
	if (!what && !file)
		return ms_err_set(err, MS_EUSAGE, "name a database or a URL, or a configuration with -c FILE");
	if (file && (!what || option)) {
		if ((code = ms_config_load(file, &c, err)))
			return code;
		if (what && !ms_config_find(c, what))
			code = ms_err_set(err, MS_ENOTFOUND, "%s names no database %s", file, what);
	} else {
		code = ms_config_from_args(what, NULL, 0, &c, err);
	}
	if (!code)
		config(d, c, what, err);
	ms_config_release(c);
	return code ? code : err->code;
}

int ms_cmd_doctor(int argc, char **argv) {
	const struct ms_command_def *command = ms_command_find("doctor");
	struct ms_err err = MS_ERR_INIT;
	struct ms_args a;
	struct ms_doctor d;
	struct ms_env *env = NULL;
	int exit_code = ms_args_parse(command, argc, argv, &a);
	if (exit_code >= 0)
		return exit_code;
	if (ms_replicas_register_builtin(&err) || !(env = ms_env_uv_new(NULL, &err)))
		return ms_command_fail(command, &err);
	ms_doctor_init(&d, env);
	ms_doctor_system(&d);
	enum ms_code code = examine(&d, &a, &err);
	if (code) {
		exit_code = ms_command_fail(command, &err);
	} else {
		exit_code = ms_doctor_ok(&d) ? 0 : 1;
		if (ms_args_flag(&a, "json")) {
			json_t *o = ms_doctor_json(&d);
			json_dumpf(o, stdout, JSON_INDENT(2));
			putchar('\n');
			json_decref(o);
		} else {
			ms_doctor_print(&d, stdout);
		}
	}
	ms_doctor_release(&d);
	ms_env_uv_free(env);
	return exit_code;
}
