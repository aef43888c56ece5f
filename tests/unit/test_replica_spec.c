/* From configured replicas to driver specs, against the drivers' own option tables. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd/replica_spec.h"
#include "support/tmpdir.h"

static const struct ms_option_def options[] = {{.key = "bucket", .type = "string", .required = true, .help = "the bucket"},
					       {.key = "secretAccessKey", .type = "string", .secret = true, .help = "the secret"},
					       {.key = "forcePathStyle", .type = "bool", .help = "path style"},
					       {.key = "port", .type = "uint", .help = "port"},
					       {.key = "timeout", .type = "duration", .help = "timeout"},
					       {.key = "part", .type = "size", .help = "part size"},
					       {.key = "rootCAs", .type = "list", .help = "certificates"},
					       {0}};
static struct ms_replica_driver driver; /* the file driver's functions, other options; never opened */

static void setup(void) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
	driver = *ms_replica_driver_find("file");
	driver.scheme = "try";
	driver.options = options;
	cr_assert_eq(ms_replica_register(&driver, &err), MS_OK, "%s", err.msg);
}

static enum ms_code check(const char *replica, struct ms_err *err) {
	char text[500];
	struct ms_config *c = NULL;
	int n = snprintf(text, sizeof text, "databases: [{path: a.db}]\nreplicas:\n- %s\n", replica);
	cr_assert_eq(ms_config_load_string("c.yml", text, (size_t)n, &c, err), MS_OK, "%s", err->msg);
	enum ms_code code = ms_replica_specs_check(c, err);
	ms_config_release(c);
	return code;
}

static void fails(const char *replica, const char *message) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(check(replica, &err), MS_ECONFIG, "%s", replica);
	cr_assert_str_eq(err.msg, message);
}

Test(replica_spec, errors, .init = setup) {
	fails("{type: try}", "c.yml:3:3: replicas: backend try needs bucket (the bucket)");
	fails("{type: try, buket: b}", "c.yml:3:22: replicas: buket: unknown key for backend try; did you mean bucket?");
	fails("{type: try, bucket: b, requird: false}", "c.yml:3:35: replicas: requird: unknown key for backend try; did you mean required?");
	fails("{type: try, bucket: b, elephant: hush}", "c.yml:3:36: replicas: elephant: unknown key for backend try");
	fails("{type: try, bucket: b, forcePathStyle: hush}", "c.yml:3:42: replicas: forcePathStyle: must be true or false");
	fails("{type: try, bucket: b, port: hush}", "c.yml:3:32: replicas: port: must be a whole number");
	fails("{type: try, bucket: b, timeout: hush}", "c.yml:3:35: replicas: timeout: must be a duration, e.g. 30s, 1h30m or 500ms");
	fails("{type: try, bucket: b, part: hush}", "c.yml:3:32: replicas: part: must be a size, e.g. 65536, 512KiB or 1GiB");
	fails("{type: try, bucket: ''}", "c.yml:3:23: replicas: bucket: is empty");
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(check("{type: s4, bucket: b}", &err), MS_ECONFIG);
	static const char unknown[] = "c.yml:3:3: replicas: type: 's4' is not a known backend (known: file, ";
	cr_assert_eq(strncmp(err.msg, unknown, sizeof unknown - 1), 0, "%s", err.msg);
	cr_assert_str_eq(err.msg + strlen(err.msg) - 6, ", try)");
	cr_assert_eq(check("{url: 's4://bucket'}", &err), MS_ECONFIG);
	cr_assert_eq(strncmp(err.msg, "c.yml:3:3: replicas: ", 21), 0, "%s", err.msg);
}

Test(replica_spec, values, .init = setup) {
	struct ms_config *c = NULL;
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica_spec s;
	static const char text[] = "databases: [{path: a.db}]\nreplicas:\n- {type: try, bucket: b, forcePathStyle: true, rootCAs: [/a, /b], secretAccessKey: hush}\n"
				   "- {url: 'file:///backup', prefix: deep}\n";
	cr_assert_eq(ms_config_load_string("c.yml", text, sizeof text - 1, &c, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_specs_check(c, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_spec_from_config("c.yml", &c->databases[0].replicas[0], &s, &err), MS_OK, "%s", err.msg);
	cr_assert_str_eq(s.scheme, "try");
	cr_assert_str_eq(ms_replica_spec_get(&s, "bucket"), "b");
	cr_assert_str_eq(ms_replica_spec_get(&s, "rootCAs"), "/a,/b");
	cr_assert_str_eq(ms_replica_spec_get(&s, "secretAccessKey"), "hush");
	ms_replica_spec_release(&s);
	cr_assert_eq(ms_replica_spec_from_config("c.yml", &c->databases[0].replicas[1], &s, &err), MS_OK, "%s", err.msg);
	cr_assert_str_eq(s.scheme, "file");
	cr_assert_str_eq(ms_replica_spec_get(&s, "path"), "/backup");
	cr_assert_str_eq(ms_replica_spec_get(&s, "prefix"), "deep");
	ms_replica_spec_release(&s);
	ms_config_release(c);
}

/* One directory by two names: the databases would overwrite each other's history. */
Test(replica_spec, same_directory, .init = setup) {
	const char *dir = ms_test_tmpdir();
	char *real = ms_test_path(dir, "real"), *link = ms_test_path(dir, "link");
	static const struct {
		const char *a, *b;
		enum ms_code code;
	} cases[] = {
		{"real/x", "link/x", MS_ECONFIG},	  {"real", "link/../real", MS_ECONFIG}, {"real/x", "link/y", MS_OK},
		{"real/x", "real//x/", MS_ECONFIG},	  {"link", "real", MS_ECONFIG},		{"gone/x", "link/../gone/x", MS_ECONFIG},
		{"real, prefix: one", "link, prefix: two", MS_OK}, {"real, prefix: one", "link, prefix: one", MS_ECONFIG},
	};
	cr_assert_eq(mkdir(real, 0700), 0);
	cr_assert_eq(symlink("real", link), 0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct ms_config *c = NULL;
		struct ms_err err = MS_ERR_INIT;
		char text[2000];
		snprintf(text, sizeof text, "databases:\n- {path: /a.db, replicas: [{type: file, path: %s/%s}]}\n- {path: /b.db, replicas: [{type: file, path: %s/%s}]}\n",
			 dir, cases[i].a, dir, cases[i].b);
		cr_assert_eq(ms_config_load_string("c.yml", text, strlen(text), &c, &err), MS_OK, "%s", err.msg);
		cr_assert_eq(ms_replica_specs_check(c, &err), cases[i].code, "%s and %s: %s", cases[i].a, cases[i].b, err.msg);
		if (cases[i].code)
			cr_assert(strstr(err.msg, "c.yml:3:") && strstr(err.msg, "a.db/file and b.db/file lie at the same place"), "%s", err.msg);
		ms_config_release(c);
	}
	free(real);
	free(link);
}

Test(replica_spec, secrets, .init = setup) {
	cr_assert(ms_replica_option_secret("try", "secretAccessKey"));
	cr_assert_not(ms_replica_option_secret("try", "bucket"));
	cr_assert(ms_replica_option_secret("try", "elephant"));
	cr_assert(ms_replica_option_secret("elephant", "bucket"));
}
