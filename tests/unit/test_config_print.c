/* Printing and comparing configurations: resolved, loadable again, and without secrets. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "config/nearest.h"

static bool secret(const char *type, const char *key) {
	(void)type;
	return strcmp(key, "bucket") && strcmp(key, "endpoint") && strcmp(key, "note");
}

static struct ms_config *load(const char *text) {
	struct ms_config *c = NULL;
	struct ms_err err = MS_ERR_INIT;
	cr_assert_eq(ms_config_load_string("c.yml", text, strlen(text), &c, &err), MS_OK, "%s", err.msg);
	return c;
}

static char *print(const struct ms_config *c, bool json, ms_config_secret_cb cb) {
	struct ms_buf out;
	struct ms_err err = MS_ERR_INIT;
	ms_buf_init(&out, 1u << 20);
	cr_assert_eq(ms_config_print(c, json, cb, &out, &err), MS_OK, "%s", err.msg);
	char *text = strndup((const char *)out.data, out.len);
	ms_buf_release(&out);
	return text;
}

static const char source[] = "snapshotShare: 0.5\n"
			     "owner: 'true'\n"
			     "databases:\n"
			     "- path: /srv/a b.db\n"
			     "  compression: none\n"
			     "  replicas:\n"
			     "  - {type: s3, name: away, bucket: '$${b}: #x', secretAccessKey: hush}\n"
			     "  - url: sftp://user:hush@host:22/dir?endpoint=e&keyPassword=hush\n"
			     "- path: b.db\n"
			     "  restore: {enabled: true, tempDir: /tmp}\n";

static const char yaml[] = "owner: \"true\"\n"
			   "maxShadowBytes: 16GiB\n"
			   "journal:\n"
			   "  syncMode: fdatasync\n"
			   "  syncInterval: 100ms\n"
			   "  syncBytes: 1MiB\n"
			   "  maxSizeBytes: 64MiB\n"
			   "  maxAge: 1h\n"
			   "  bufferSize: 10000\n"
			   "log:\n"
			   "  level: info\n"
			   "  format: logfmt\n"
			   "shutdownTimeout: 10s\n"
			   "databases:\n"
			   "  - path: \"/srv/a b.db\"\n"
			   "    name: a_b.db\n"
			   "    takeover: never\n"
			   "    snapshotInterval: 6h\n"
			   "    snapshotShare: 0.5\n"
			   "    retention:\n"
			   "      snapshotInterval: 6h\n"
			   "      snapshotRetention: 1d\n"
			   "      checkInterval: 1h\n"
			   "    compression:\n"
			   "      codec: none\n"
			   "      level: 1\n"
			   "      window: 0\n"
			   "    minInterval: 1s\n"
			   "    maxWalBytes: 1GiB\n"
			   "    checkpoint: true\n"
			   "    checkpointBytes: 3MiB\n"
			   "    dataLossWindowThreshold: 0\n"
			   "    restore:\n"
			   "      enabled: false\n"
			   "    local:\n"
			   "      enabled: false\n"
			   "    replicas:\n"
			   "      - name: away\n"
			   "        type: s3\n"
			   "        required: true\n"
			   "        minInterval: 1s\n"
			   "        bandwidth: 0\n"
			   "        concurrency: 0\n"
			   "        retention:\n"
			   "          snapshotInterval: 6h\n"
			   "          snapshotRetention: 1d\n"
			   "          checkInterval: 1h\n"
			   "        fencing: enforce\n"
			   "        bucket: \"$${b}: #x\"\n"
			   "        secretAccessKey: \"***\"\n"
			   "      - name: sftp\n"
			   "        url: \"sftp://user:***@host:22/dir?endpoint=e&keyPassword=***\"\n"
			   "        required: true\n"
			   "        minInterval: 1s\n"
			   "        bandwidth: 0\n"
			   "        concurrency: 0\n"
			   "        retention:\n"
			   "          snapshotInterval: 6h\n"
			   "          snapshotRetention: 1d\n"
			   "          checkInterval: 1h\n"
			   "        fencing: enforce\n"
			   "  - path: b.db\n"
			   "    name: b.db\n"
			   "    takeover: never\n"
			   "    snapshotInterval: 6h\n"
			   "    snapshotShare: 0.5\n"
			   "    retention:\n"
			   "      snapshotInterval: 6h\n"
			   "      snapshotRetention: 1d\n"
			   "      checkInterval: 1h\n"
			   "    compression:\n"
			   "      codec: zstd\n"
			   "      level: 1\n"
			   "      window: 0\n"
			   "    minInterval: 1s\n"
			   "    maxWalBytes: 1GiB\n"
			   "    checkpoint: true\n"
			   "    checkpointBytes: 3MiB\n"
			   "    dataLossWindowThreshold: 0\n"
			   "    restore:\n"
			   "      enabled: true\n"
			   "      tempDir: /tmp\n"
			   "    local:\n"
			   "      enabled: false\n"
			   "    replicas: []\n";

Test(config_print, yaml) {
	struct ms_config *c = load(source);
	char *text = print(c, false, secret);
	cr_assert_str_eq(text, yaml);
	struct ms_config *again = load(text);
	char *second = print(again, false, secret);
	cr_assert_str_eq(second, yaml);
	free(text), free(second);
	ms_config_release(again);
	ms_config_release(c);
}

Test(config_print, json) {
	struct ms_config *c = load(source);
	char *text = print(c, true, secret);
	static const char start[] = "{\n  \"owner\": \"true\",\n  \"maxShadowBytes\": \"16GiB\",\n  \"journal\": {\n";
	cr_assert_eq(strncmp(text, start, sizeof start - 1), 0, "%s", text);
	cr_assert_not_null(strstr(text, "        {\n          \"name\": \"away\",\n          \"type\": \"s3\",\n          \"required\": true,\n"));
	cr_assert_null(strstr(text, "hush"));
	struct ms_config *again = load(text);
	char *as_yaml = print(again, false, secret);
	cr_assert_str_eq(as_yaml, yaml);
	free(text), free(as_yaml);
	ms_config_release(again);
	ms_config_release(c);
}

Test(config_print, nobody_to_ask) {
	struct ms_config *c = load(source);
	char *text = print(c, false, NULL);
	cr_assert_not_null(strstr(text, "bucket: \"***\"\n"));
	cr_assert_not_null(strstr(text, "?endpoint=***&keyPassword=***"));
	cr_assert_null(strstr(text, "hush"));
	free(text);
	ms_config_release(c);
}

static char lines[4096];
static void line(void *arg, const char *text) {
	(void)arg;
	strcat(lines, text);
	strcat(lines, "\n");
}

Test(config_diff, lines) {
	struct ms_config *a = load("log: {level: info}\n"
				   "databases:\n"
				   "- {path: b.db, minInterval: 1s, replicas: [{type: s3, name: x, bucket: one, secret: hush1, note: n}, 'file:///gone']}\n"
				   "- {path: a.db}\n");
	struct ms_config *b = load("log: {level: debug}\nowner: me\n"
				   "databases:\n"
				   "- {path: c.db}\n"
				   "- {path: b.db, minInterval: 5s, replicas: [{type: s3, name: x, bucket: two, secret: hush2, more: hush}, {name: y, url: 'sftp://u:hush@h/p'}]}\n");
	lines[0] = 0;
	cr_assert_eq(ms_config_diff(a, b, secret, line, NULL), 12);
	cr_assert_str_eq(lines, "owner: (none) -> me\n"
				"log.level: info -> debug\n"
				"databases[a.db]: removed\n"
				"databases[b.db].minInterval: 1s -> 5s\n"
				"databases[b.db].replicas[file]: removed\n"
				"databases[b.db].replicas[x].minInterval: 1s -> 5s\n"
				"databases[b.db].replicas[x].note: removed\n"
				"databases[b.db].replicas[x].bucket: one -> two\n"
				"databases[b.db].replicas[x].secret: changed\n"
				"databases[b.db].replicas[x].more: added\n"
				"databases[b.db].replicas[y]: added\n"
				"databases[c.db]: added\n");
	lines[0] = 0;
	cr_assert_eq(ms_config_diff(a, a, secret, line, NULL), 0);
	cr_assert_str_eq(lines, "");
	ms_config_release(a);
	ms_config_release(b);
}

static const char *const words[] = {"status", "snapshot", "wait", "list", "verify", NULL};
static const char *word(void *arg, unsigned i) {
	(void)arg;
	return words[i];
}

Test(nearest, words) {
	cr_assert_str_eq(ms_nearest("stauts", word, NULL), "status");
	cr_assert_str_eq(ms_nearest("STATUS", word, NULL), "status");
	cr_assert_str_eq(ms_nearest("snapshto", word, NULL), "snapshot");
	cr_assert_str_eq(ms_nearest("lst", word, NULL), "list");
	cr_assert_str_eq(ms_nearest("verfy", word, NULL), "verify");
	cr_assert_null(ms_nearest("elephant", word, NULL));
	cr_assert_null(ms_nearest("", word, NULL));
	char longest[400];
	memset(longest, 's', sizeof longest - 1);
	longest[sizeof longest - 1] = 0;
	cr_assert_null(ms_nearest(longest, word, NULL));
}
