#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "replicas/mem.h"
#include "replicas/url.h"

/* Stand-ins for backends of other folders, with options as the real ones have them. */
static enum ms_code no_open(struct ms_env *e, const struct ms_replica_spec *s, struct ms_replica **r, struct ms_err *err) {
	(void)e, (void)s, (void)r;
	return ms_err_set(err, MS_EUNSUPPORTED, "stand-in");
}
static enum ms_code no_put(struct ms_replica *r, const char *n, struct ms_body *b, struct ms_err *err) {
	(void)r, (void)n, (void)b;
	return ms_err_set(err, MS_EUNSUPPORTED, "stand-in");
}
static enum ms_code no_get(struct ms_replica *r, const char *n, int64_t o, int64_t l, ms_get_cb cb, void *arg, struct ms_err *err) {
	(void)r, (void)n, (void)o, (void)l, (void)cb, (void)arg;
	return ms_err_set(err, MS_EUNSUPPORTED, "stand-in");
}
static enum ms_code no_list(struct ms_replica *r, const char *p, const char *a, ms_list_cb cb, void *arg, struct ms_err *err) {
	(void)r, (void)p, (void)a, (void)cb, (void)arg;
	return ms_err_set(err, MS_EUNSUPPORTED, "stand-in");
}
static enum ms_code no_remove(struct ms_replica *r, const char *n, struct ms_err *err) {
	(void)r, (void)n;
	return ms_err_set(err, MS_EUNSUPPORTED, "stand-in");
}
static void no_caps(struct ms_replica *r, struct ms_replica_caps *c) { (void)r, (void)c; }
static void no_op(struct ms_replica *r) { (void)r; }
#define OPS .open = no_open, .put = no_put, .get = no_get, .list = no_list, .remove = no_remove, .caps = no_caps, .cancel = no_op, .close = no_op

static const struct ms_option_def s3_options[] = {{.key = "bucket", .type = "string", .required = true, .help = "bucket"},
						  {.key = "prefix", .type = "string", .help = "p"},
						  {.key = "endpoint", .type = "string", .help = "e"},
						  {.key = "region", .type = "string", .help = "r"},
						  {.key = "forcePathStyle", .type = "bool", .help = "f"},
						  {.key = "partSize", .type = "size", .help = "f"},
						  {.key = "secretAccessKey", .type = "string", .secret = true, .help = "s"},
						  {0}};
static const struct ms_replica_driver s3 = {.scheme = "s3", .help = "s3", .options = s3_options, OPS};
static const struct ms_option_def nats_options[] = {{.key = "url", .type = "string", .required = true, .help = "url"},
						    {.key = "bucket", .type = "string", .required = true, .help = "bucket"},
						    {.key = "prefix", .type = "string", .help = "p"},
						    {0}};
static const struct ms_replica_driver nats = {.scheme = "nats", .help = "nats", .options = nats_options, OPS};

static void setup(void) {
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK);
	cr_assert_eq(ms_replicas_register_builtin(&err), MS_OK, "twice is fine");
	cr_assert_eq(ms_replica_mem_register(&err), MS_OK);
	/* Backends that are built in already keep their own options, which hold these. */
	const struct ms_replica_driver *more[] = {&s3, &nats};
	for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
		if (!ms_replica_driver_find(more[i]->scheme))
			cr_assert_eq(ms_replica_register(more[i], &err), MS_OK, "%s", err.msg);
}
TestSuite(url, .init = setup);

static void expect(const char *url, const char *scheme, const char *options, const char *printed) {
	struct ms_replica_spec s = {0};
	struct ms_err err = MS_ERR_INIT;
	char got[2048] = "", text[2048];
	cr_assert_eq(ms_url_parse(url, &s, &err), MS_OK, "%s: %s", url, err.msg);
	cr_expect_str_eq(s.scheme, scheme);
	for (unsigned i = 0; i < s.noptions; i++) {
		strcat(got, s.options[i].key);
		strcat(got, "=");
		strcat(got, s.options[i].value);
		strcat(got, ";");
	}
	cr_expect_str_eq(got, options, "%s gives %s", url, got);
	cr_expect_str_eq(ms_url_format(&s, text, sizeof text), printed);
	/* What is printed is read back as the same. */
	struct ms_replica_spec again = {0};
	cr_assert_eq(ms_url_parse(text, &again, &err), MS_OK, "%s: %s", text, err.msg);
	cr_expect_eq(again.noptions, s.noptions);
	for (unsigned i = 0; i < s.noptions; i++)
		cr_expect_str_eq(ms_replica_spec_get(&again, s.options[i].key), s.options[i].value);
	ms_replica_spec_release(&again);
	ms_replica_spec_release(&s);
}

Test(url, forms) {
	expect("file:///backup/app", "file", "path=/backup/app;", "file:///backup/app");
	expect("file://localhost/backup", "file", "path=/backup;", "file:///backup");
	expect("FILE:///b", "file", "path=/b;", "file:///b");
	expect("/plain/path", "file", "path=/plain/path;", "file:///plain/path");
	expect("file:///with%20space/%2525", "file", "path=/with space/%25;", "file:///with%20space/%2525");
	expect("file:///b?prefix=app/db&create=true", "file", "path=/b;prefix=app/db;create=true;", "file:///b?prefix=app/db&create=true");
	expect("mem://x", "mem", "name=x;", "mem://x");
	expect("s3://bucket", "s3", "bucket=bucket;", "s3://bucket");
	expect("s3://bucket/a/b/?endpoint=http://h:9000&region=eu-1&forcePathStyle=true", "s3",
	       "bucket=bucket;prefix=a/b;endpoint=http://h:9000;region=eu-1;forcePathStyle=true;",
	       "s3://bucket/a/b?endpoint=http://h:9000&region=eu-1&forcePathStyle=true");
	expect("sftp://me@host:2222/dir/x?keyPath=/k", "sftp", "user=me;port=2222;host=host;path=/dir/x;keyPath=/k;", "sftp://me@host:2222/dir/x?keyPath=/k");
	expect("sftp://me@host/~/d", "sftp", "user=me;host=host;path=/~/d;", "sftp://me@host/~/d");
	expect("sftp://host", "sftp", "host=host;", "sftp://host");
	expect("sftp://host/d?hostKey=ssh-ed25519%20AAAA+/=", "sftp", "host=host;path=/d;hostKey=ssh-ed25519 AAAA+/=;", "sftp://host/d?hostKey=ssh-ed25519%20AAAA+/%3D");
	expect("sftp://[::1]:22/d", "sftp", "port=22;host=::1;path=/d;", "sftp://[::1]:22/d");
	expect("nats://h:4222/bucket/p/q", "nats", "url=nats://h:4222;bucket=bucket;prefix=p/q;", "nats://h:4222/bucket/p/q");
	expect("nats://h/bucket", "nats", "url=nats://h;bucket=bucket;", "nats://h/bucket");
}

Test(url, plain_paths_are_taken_as_they_are) {
	struct ms_replica_spec s = {0};
	cr_assert_eq(ms_url_parse("./100%/what?x=1#y", &s, NULL), MS_OK);
	cr_expect_str_eq(ms_replica_spec_get(&s, "path"), "./100%/what?x=1#y");
	ms_replica_spec_release(&s);
}

static void refused(const char *url, const char *says) {
	struct ms_replica_spec s = {0};
	struct ms_err err = MS_ERR_INIT;
	cr_expect_eq(ms_url_parse(url, &s, &err), MS_EUSAGE, "%s was taken", url);
	cr_expect(strstr(err.msg, says), "%s says: %s", url, err.msg);
	cr_expect_null(s.scheme, "the output was touched");
	cr_expect_eq(ms_code_exit(MS_EUSAGE), 2);
}

Test(url, mistakes_are_named) {
	refused("", "no replica URL");
	refused("backup", "no replica URL");
	refused("file:/x", "no replica URL");
	refused("ftp://host/x", "did you mean 'sftp'");
	refused("gopher-plus://host/x", "no replica driver for 'gopher-plus'");
	refused("file://host/x", "three slashes");
	refused("file://", "needs 'path'");
	refused("file:///x?creat=true", "did you mean 'create'");
	refused("file:///x?create=maybe", "wants a bool");
	refused("file:///x?quite-different-thing=1", "no option");
	refused("file:///x?create", "no value");
	refused("file:///x?create=true&create=true", "twice");
	refused("file:///x#y", "%23");
	refused("file:///x%zz", "percent-escape");
	refused("file:///x%2", "percent-escape");
	refused("file:///x%00y", "percent-escape");
	refused("s3:///prefix", "needs 'bucket'");
	refused("s3://b/p?regoin=x", "did you mean 'region'");
	refused("s3://b/p?secretAccessKey=hunter2", "does not belong in a URL");
	refused("s3://b:80/p", "no port");
	refused("s3://u@b/p", "no user");
	refused("s3://b?partSize=many", "wants a size");
	refused("sftp://me:hunter2@host/x", "password does not belong");
	refused("sftp://me@host/x?password=hunter2", "'password' is a secret");
	refused("sftp://me@host/x?keyPassphrase=hunter2", "'keyPassphrase' is a secret");
	refused("sftp://me@host/x?knownHosts=/k", "did you mean 'knownHostsPath'");
	refused("sftp://host:0/x", "not a port");
	refused("sftp://host:70000/x", "not a port");
	refused("sftp://host:22x/x", "not a port");
	refused("sftp://[::1/x", "lacks its ']'");
	refused("sftp://host/x?stallTimeout=soon", "wants a duration");
	refused("nats://host", "needs 'bucket'");
	char longest[5000];
	memset(longest, 'a', sizeof longest);
	memcpy(longest, "file:///", 8);
	longest[sizeof longest - 1] = '\0';
	refused(longest, "longer than");
}

Test(url, secrets_are_never_printed) {
	struct ms_replica_spec s = {0};
	char text[64];
	cr_assert_eq(ms_url_parse("s3://b/p", &s, NULL), MS_OK);
	cr_assert_eq(ms_replica_spec_set(&s, "secretAccessKey", "hunter2", NULL), MS_OK);
	cr_expect_str_eq(ms_url_format(&s, text, sizeof text), "s3://b/p");
	/* A type error does not quote a secret either. */
	cr_expect_eq(ms_replica_spec_check(&s, NULL), MS_OK);
	/* Truncation stays terminated. */
	cr_expect_str_eq(ms_url_format(&s, text, 6), "s3://");
	ms_replica_spec_release(&s);
}

Test(url, specs) {
	struct ms_replica_spec s = {0}, c = {0};
	cr_assert_eq(ms_url_parse("mem://x", &s, NULL), MS_OK);
	cr_assert_eq(ms_replica_spec_set(&s, "name", "y", NULL), MS_OK);
	cr_expect_eq(s.noptions, 1, "set replaces");
	cr_assert_eq(ms_replica_spec_copy(&c, &s, NULL), MS_OK);
	ms_replica_spec_release(&s);
	cr_expect_str_eq(ms_replica_spec_get(&c, "name"), "y");
	cr_expect_null(ms_replica_spec_get(&c, "nothing"));
	ms_replica_spec_release(&c);
	ms_replica_spec_release(&c);
}

Test(url, registry) {
	struct ms_err err = MS_ERR_INIT;
	cr_expect_eq(ms_replica_register(ms_replica_driver_find("file"), &err), MS_EEXISTS);
	cr_expect_eq(ms_replica_register(&(struct ms_replica_driver){.scheme = "x"}, &err), MS_EINVAL);
	unsigned n = 0;
	while (ms_replica_driver_at(n))
		n++;
	cr_expect_geq(n, 5);
	cr_expect_null(ms_replica_driver_at(n));
	/* A driver from outside is reached by URL. */
	static const struct ms_option_def options[] = {{.key = "host", .type = "string", .required = true, .help = "h"},
						       {.key = "path", .type = "path", .help = "p"},
						       {0}};
	static const struct ms_replica_driver mine = {.scheme = "x-mine", .help = "mine", .options = options, OPS};
	cr_assert_eq(ms_replica_register(&mine, &err), MS_OK);
	expect("x-mine://h/a/b", "x-mine", "host=h;path=/a/b;", "x-mine://h/a/b");
}
