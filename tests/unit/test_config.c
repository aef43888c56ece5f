/* Configuration: what is read, defaults and inheritance, and the exact text of every error. Expected values are written by hand. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "config/config.h"

static struct ms_config *load(const char *text) {
	struct ms_config *c = NULL;
	struct ms_err err = MS_ERR_INIT;
	enum ms_code code = ms_config_load_string("c.yml", text, strlen(text), &c, &err);
	cr_assert_eq(code, MS_OK, "%s", err.msg);
	return c;
}

static void fails(const char *text, const char *message) {
	struct ms_config *c = NULL;
	struct ms_err err = MS_ERR_INIT;
	enum ms_code code = ms_config_load_string("c.yml", text, strlen(text), &c, &err);
	cr_assert_eq(code, MS_ECONFIG, "accepted or other code %d for:\n%s", code, text);
	cr_assert_eq(err.code, MS_ECONFIG);
	cr_assert_str_eq(err.msg, message);
	cr_assert_null(c);
}

Test(config, defaults) {
	struct ms_config *c = load("databases:\n- path: /srv/app.db\n");
	cr_assert_str_eq(c->file, "c.yml");
	cr_assert_null(c->shadow_dir);
	cr_assert_null(c->owner);
	cr_assert_null(c->metrics.address);
	cr_assert_eq(c->max_shadow_bytes, UINT64_C(16) << 30);
	cr_assert_eq(c->shutdown_timeout_us, 10000000);
	cr_assert_eq(c->journal.sync_mode, MS_CONFIG_FDATASYNC);
	cr_assert_eq(c->journal.sync_interval_us, 100000);
	cr_assert_eq(c->journal.sync_bytes, 1048576);
	cr_assert_eq(c->journal.max_size_bytes, 67108864);
	cr_assert_eq(c->journal.max_age_us, 3600000000);
	cr_assert_eq(c->journal.buffer_size, 10000);
	cr_assert_eq(c->log.level, 1);
	cr_assert_eq(c->log.format, MS_CONFIG_LOGFMT);
	cr_assert_eq(c->ndatabases, 1);
	const struct ms_config_database *d = &c->databases[0];
	cr_assert_str_eq(d->path, "/srv/app.db");
	cr_assert_str_eq(d->name, "app.db");
	cr_assert_eq(d->nreplicas, 0);
	cr_assert_eq(d->s.takeover, MS_TAKEOVER_NEVER);
	cr_assert_eq(d->s.snapshot_interval_us, 21600000000);
	cr_assert_eq(d->s.snapshot_share, 0.8);
	cr_assert_eq(d->s.retention.snapshot_interval_us, 21600000000);
	cr_assert_eq(d->s.retention.snapshot_retention_us, 86400000000);
	cr_assert_eq(d->s.retention.check_interval_us, 3600000000);
	cr_assert_eq(d->s.compression.codec, MS_CODEC_ZSTD);
	cr_assert_eq(d->s.compression.level, 1);
	cr_assert_eq(d->s.compression.window, 0);
	cr_assert_eq(d->s.min_interval_us, 1000000);
	cr_assert_eq(d->s.max_wal_bytes, 1073741824);
	cr_assert_eq(d->s.checkpoint, 1);
	cr_assert_eq(d->s.checkpoint_bytes, 3145728);
	cr_assert_eq(d->s.data_loss_window_threshold_us, 0);
	cr_assert_eq(d->s.restore.enabled, 0);
	cr_assert_null(d->s.restore.target_path);
	cr_assert_null(d->s.restore.temp_dir);
	cr_assert_eq(d->s.local.enabled, 0);
	ms_config_release(c);
}

static const char everything[] = "shadowDir: /var/lib/ms\n"
				 "owner: host-1\n"
				 "takeover: auto\n"
				 "snapshotInterval: 2h\n"
				 "snapshotShare: 0.5\n"
				 "retention: {snapshotInterval: 3h, snapshotRetention: 48h, checkInterval: 90s}\n"
				 "compression: {codec: zstd, level: 3, window: 17}\n"
				 "minInterval: 250ms\n"
				 "maxShadowBytes: 2GiB\n"
				 "maxWalBytes: 64MiB\n"
				 "checkpoint: false\n"
				 "checkpointBytes: 1MiB\n"
				 "dataLossWindowThreshold: 5m\n"
				 "restore: {enabled: true, targetPath: /srv/other.db, tempDir: /var/tmp}\n"
				 "local: {enabled: true}\n"
				 "journal:\n"
				 "  syncMode: async\n"
				 "  syncInterval: 0\n"
				 "  syncBytes: 0\n"
				 "  maxSizeBytes: 100MiB\n"
				 "  maxAge: 30m\n"
				 "  bufferSize: 500\n"
				 "metrics: {address: '127.0.0.1:9464'}\n"
				 "log: {level: debug, format: json}\n"
				 "shutdownTimeout: 3s\n"
				 "replicas:\n"
				 "- url: file:///backup/app\n"
				 "- name: away\n"
				 "  type: s3\n"
				 "  bucket: b\n"
				 "  accessKeyId: AK\n"
				 "  secretAccessKey: hush\n"
				 "  rootCAs: [/a.pem, /b.pem]\n"
				 "  required: false\n"
				 "  fencing: none\n"
				 "  minInterval: 10s\n"
				 "  bandwidth: 512KiB\n"
				 "  concurrency: 3\n"
				 "  retention: {snapshotRetention: 30d, snapshotInterval: 0}\n"
				 "databases:\n"
				 "- path: /srv/app.db\n"
				 "  name: app\n";

Test(config, every_key) {
	struct ms_config *c = load(everything);
	cr_assert_str_eq(c->shadow_dir, "/var/lib/ms");
	cr_assert_str_eq(c->owner, "host-1");
	cr_assert_eq(c->max_shadow_bytes, 2147483648);
	cr_assert_eq(c->journal.sync_mode, MS_CONFIG_ASYNC);
	cr_assert_eq(c->journal.sync_interval_us, 0);
	cr_assert_eq(c->journal.sync_bytes, 0);
	cr_assert_eq(c->journal.max_size_bytes, 104857600);
	cr_assert_eq(c->journal.max_age_us, 1800000000);
	cr_assert_eq(c->journal.buffer_size, 500);
	cr_assert_str_eq(c->metrics.address, "127.0.0.1:9464");
	cr_assert_eq(c->log.level, 0);
	cr_assert_eq(c->log.format, MS_CONFIG_JSON);
	cr_assert_eq(c->shutdown_timeout_us, 3000000);
	const struct ms_config_database *d = &c->databases[0];
	cr_assert_str_eq(d->name, "app");
	cr_assert_eq(d->s.takeover, MS_TAKEOVER_AUTO);
	cr_assert_eq(d->s.snapshot_interval_us, 7200000000);
	cr_assert_eq(d->s.snapshot_share, 0.5);
	cr_assert_eq(d->s.retention.snapshot_interval_us, 10800000000);
	cr_assert_eq(d->s.retention.snapshot_retention_us, 172800000000);
	cr_assert_eq(d->s.retention.check_interval_us, 90000000);
	cr_assert_eq(d->s.compression.level, 3);
	cr_assert_eq(d->s.compression.window, 17);
	cr_assert_eq(d->s.min_interval_us, 250000);
	cr_assert_eq(d->s.max_wal_bytes, 67108864);
	cr_assert_eq(d->s.checkpoint, 0);
	cr_assert_eq(d->s.checkpoint_bytes, 1048576);
	cr_assert_eq(d->s.data_loss_window_threshold_us, 300000000);
	cr_assert_eq(d->s.restore.enabled, 1);
	cr_assert_str_eq(d->s.restore.target_path, "/srv/other.db");
	cr_assert_str_eq(d->s.restore.temp_dir, "/var/tmp");
	cr_assert_eq(d->s.local.enabled, 1);
	cr_assert_eq(d->nreplicas, 2);
	cr_assert_str_eq(d->replicas[0].name, "file");
	cr_assert_str_eq(d->replicas[0].url, "file:///backup/app");
	cr_assert_null(d->replicas[0].type);
	cr_assert_eq(d->replicas[0].required, 1);
	cr_assert_eq(d->replicas[0].fencing, MS_FENCING_ENFORCE);
	cr_assert_eq(d->replicas[0].min_interval_us, 250000);
	cr_assert_eq(d->replicas[0].line, 27);
	cr_assert_eq(d->replicas[0].bandwidth, 0);
	cr_assert_eq(d->replicas[0].concurrency, 0);
	cr_assert_eq(d->replicas[0].retention.snapshot_retention_us, 172800000000);
	const struct ms_config_replica *r = &d->replicas[1];
	cr_assert_str_eq(r->name, "away");
	cr_assert_str_eq(r->type, "s3");
	cr_assert_eq(r->required, 0);
	cr_assert_eq(r->fencing, MS_FENCING_NONE);
	cr_assert_eq(r->min_interval_us, 10000000);
	cr_assert_eq(r->bandwidth, 524288);
	cr_assert_eq(r->concurrency, 3);
	/* Its own, and the database's where it says nothing or 0. */
	cr_assert_eq(r->retention.snapshot_retention_us, 2592000000000);
	cr_assert_eq(r->retention.snapshot_interval_us, 10800000000);
	cr_assert_eq(r->retention.check_interval_us, 90000000);
	cr_assert_eq(r->noptions, 4);
	cr_assert_str_eq(r->options[0].key, "bucket");
	cr_assert_str_eq(r->options[0].value, "b");
	cr_assert_eq(r->options[0].line, 30);
	cr_assert_eq(r->options[0].column, 11);
	cr_assert_str_eq(r->options[3].key, "rootCAs");
	cr_assert_str_eq(r->options[3].value, "/a.pem,/b.pem");
	ms_config_release(c);
}

Test(config, json_is_yaml) {
	struct ms_config *c = load("{\"databases\": [{\"path\": \"/srv/app.db\", \"minInterval\": \"2s\", \"checkpoint\": false, \"compression\": \"none\"}],\n"
				   " \"log\": {\"level\": \"warn\"}, \"journal\": {\"bufferSize\": 7}}");
	cr_assert_eq(c->databases[0].s.min_interval_us, 2000000);
	cr_assert_eq(c->databases[0].s.checkpoint, 0);
	cr_assert_eq(c->databases[0].s.compression.codec, MS_CODEC_NONE);
	cr_assert_eq(c->log.level, 2);
	cr_assert_eq(c->journal.buffer_size, 7);
	ms_config_release(c);
}

Test(config, inheritance) {
	struct ms_config *c = load("databases:\n"
				   "- path: /a/x.db\n"
				   "  snapshotInterval: 30m\n"
				   "  compression: {level: 9}\n"
				   "  retention: {checkInterval: 0, snapshotRetention: 2h}\n"
				   "- path: /a/y.db\n"
				   "  replicas: [{url: 'file:///own', minInterval: 0}]\n"
				   "- path: /a/z.db\n"
				   "  replicas: []\n"
				   "compression: none\n"
				   "snapshotInterval: 1h\n"
				   "retention: {checkInterval: 5m, snapshotRetention: 0}\n"
				   "replicas: ['file:///all', {url: 'file:///by/{db}/deep?x=1', name: deep}, {type: file, path: /typed/, name: typed}]\n");
	const struct ms_config_database *x = &c->databases[0], *y = &c->databases[1], *z = &c->databases[2];
	cr_assert_eq(x->s.snapshot_interval_us, 1800000000);
	cr_assert_eq(x->s.retention.snapshot_interval_us, 1800000000);
	cr_assert_eq(x->s.retention.check_interval_us, 300000000);
	cr_assert_eq(x->s.retention.snapshot_retention_us, 7200000000);
	cr_assert_eq(x->s.compression.codec, MS_CODEC_NONE);
	cr_assert_eq(x->s.compression.level, 9);
	cr_assert_eq(y->s.snapshot_interval_us, 3600000000);
	cr_assert_eq(y->s.retention.snapshot_retention_us, 86400000000);
	cr_assert_eq(y->s.compression.level, 1);
	cr_assert_eq(x->nreplicas, 3);
	cr_assert_str_eq(x->replicas[0].url, "file:///all/x.db");
	cr_assert_str_eq(x->replicas[1].url, "file:///by/x.db/deep?x=1");
	cr_assert_str_eq(x->replicas[2].options[0].value, "/typed/x.db");
	cr_assert_eq(y->nreplicas, 1);
	cr_assert_str_eq(y->replicas[0].url, "file:///own");
	cr_assert_eq(y->replicas[0].min_interval_us, 0);
	cr_assert_eq(z->nreplicas, 0);
	ms_config_release(c);
}

Test(config, shared_url_with_query) {
	struct ms_config *c = load("replicas: ['s3://bucket/prefix/?endpoint=http://h:9000']\ndatabases: [{path: a.db}, {path: b.db}]\n");
	cr_assert_str_eq(c->databases[1].replicas[0].url, "s3://bucket/prefix/b.db?endpoint=http://h:9000");
	cr_assert_str_eq(c->databases[1].replicas[0].name, "s3");
	ms_config_release(c);
	c = load("replicas: ['file:///one']\ndatabases: [{path: a.db}]\n");
	cr_assert_str_eq(c->databases[0].replicas[0].url, "file:///one");
	ms_config_release(c);
}

Test(config, default_names) {
	struct ms_config *c = load("databases: [{path: '/srv/with space.db'}, {path: '/srv/.hidden'}, {path: '/srv/dir/'}, {path: /}]\n");
	cr_assert_str_eq(c->databases[0].name, "with_space.db");
	cr_assert_str_eq(c->databases[1].name, "_hidden");
	cr_assert_str_eq(c->databases[2].name, "dir");
	cr_assert_str_eq(c->databases[3].name, "db");
	ms_config_release(c);
}

Test(config, environment) {
	setenv("MS_T_DIR", "/data", 1);
	setenv("MS_T_LEVEL", "7", 1);
	setenv("MS_T_EMPTY", "", 1);
	setenv("MS_T_YAML", "a: [b", 1);
	unsetenv("MS_T_NONE");
	struct ms_config *c = load("databases: [{path: '${MS_T_DIR}/x.db', name: '${MS_T_NONE:-n}${MS_T_EMPTY:-e}'}]\n"
				   "compression: {level: \"${MS_T_LEVEL}\"}\n"
				   "checkpoint: ${MS_T_NONE:-false}\n"
				   "replicas: [{type: s3, password: '${MS_T_YAML}$${x}$y$$'}]\n");
	cr_assert_str_eq(c->databases[0].path, "/data/x.db");
	cr_assert_str_eq(c->databases[0].name, "ne");
	cr_assert_eq(c->databases[0].s.compression.level, 7);
	cr_assert_eq(c->databases[0].s.checkpoint, 0);
	cr_assert_str_eq(c->databases[0].replicas[0].options[0].value, "a: [b${x}$y$$");
	ms_config_release(c);
	fails("databases: [{path: x}]\nowner: ${MS_T_NONE}\n",
	      "c.yml:2:8: owner: environment variable MS_T_NONE is not set: set it, or write ${MS_T_NONE:-default}");
	fails("databases: [{path: x}]\nowner: ${MS_T_NONE\n", "c.yml:2:8: owner: ${ without a closing brace: write $${ for a literal ${");
	fails("databases: [{path: x}]\nowner: a${}\n", "c.yml:2:8: owner: ${ must be followed by a variable's name: write $${ for a literal ${");
	fails("databases: [{path: x}]\nowner: ${A!}\n", "c.yml:2:8: owner: only ${A} and ${A:-default} are known");
}

#define DB "databases: [{path: x.db}]\n"

Test(config_errors, unknown_keys) {
	fails(DB "shadowdir: /x\n", "c.yml:2:1: shadowdir: unknown key; did you mean shadowDir?");
	fails(DB "snapshotIntervall: 1h\n", "c.yml:2:1: snapshotIntervall: unknown key; did you mean snapshotInterval?");
	fails(DB "retention:\n  chekInterval: 1h\n", "c.yml:3:3: retention.chekInterval: unknown key; did you mean checkInterval?");
	fails(DB "bananas: 1\n", "c.yml:2:1: bananas: unknown key");
	fails(DB "replica: []\n", "c.yml:2:1: replica: unknown key; did you mean replicas?");
	fails("database:\n- path: x\n", "c.yml:1:1: database: unknown key; did you mean databases?");
	fails("databases:\n- path: x\n  minIntervl: 1s\n", "c.yml:3:3: databases[0].minIntervl: unknown key; did you mean minInterval?");
	fails("databases:\n- path: x\n- paht: y\n", "c.yml:3:3: databases[1].paht: unknown key; did you mean path?");
	fails("databases:\n- dir: /srv\n", "c.yml:2:3: databases[0].dir: unknown key");
	fails("databases:\n- {path: x, pattern: '*.db'}\n", "c.yml:2:13: databases[0].pattern: unknown key");
	fails("databases:\n- {path: x, watch: true}\n", "c.yml:2:13: databases[0].watch: unknown key; did you mean path?");
	fails("databases:\n- path: x\n  retention: {keep: 1}\n", "c.yml:3:15: databases[0].retention.keep: unknown key");
	fails("databases:\n- path: x\n  log: {level: info}\n", "c.yml:3:3: databases[0].log: belongs to the whole daemon: move it to the top level");
	fails("databases:\n- path: x\n  shadowDir: /x\n", "c.yml:3:3: databases[0].shadowDir: belongs to the whole daemon: move it to the top level");
	fails(DB "path: x\n", "c.yml:2:1: path: unknown key");
}

Test(config_errors, wrong_types) {
	fails(DB "shadowDir: [a]\n", "c.yml:2:12: shadowDir: is a list, not a single value");
	fails(DB "shadowDir:\n", "c.yml:2:1: shadowDir: has no value");
	fails(DB "shadowDir: ~\n", "c.yml:2:12: shadowDir: has no value");
	fails(DB "shadowDir: ''\n", "c.yml:2:12: shadowDir: is empty");
	fails(DB "checkpoint: yes\n", "c.yml:2:13: checkpoint: 'yes' is not true or false");
	fails(DB "checkpoint: 'true'\n", "c.yml:2:13: checkpoint: \"true\" is text, not true or false: write it without quotes");
	fails(DB "compression: {level: fast}\n", "c.yml:2:22: compression.level: 'fast' is not a whole number");
	fails(DB "compression: {level: '3'}\n", "c.yml:2:22: compression.level: \"3\" is text, not a whole number: write it without quotes");
	fails(DB "compression: {level: 1.5}\n", "c.yml:2:22: compression.level: '1.5' is not a whole number");
	fails(DB "compression: lz4\n", "c.yml:2:14: compression.codec: 'lz4' is none of none, zstd");
	fails(DB "compression: [zstd]\n", "c.yml:2:14: compression: is a list, not a mapping of keys");
	fails(DB "retention: 24h\n", "c.yml:2:12: retention: is a single value, not a mapping of keys");
	fails(DB "snapshotShare: half\n", "c.yml:2:16: snapshotShare: 'half' is not a number");
	fails(DB "snapshotInterval: 6\n", "c.yml:2:19: snapshotInterval: '6' has no unit: write for example 30s, 1h30m or 500ms");
	fails(DB "snapshotInterval: soon\n", "c.yml:2:19: snapshotInterval: 'soon' is not a duration: write for example 30s, 1h30m or 500ms");
	fails(DB "maxWalBytes: lots\n", "c.yml:2:14: maxWalBytes: 'lots' is not a size: write for example 65536, 512KiB or 1GiB");
	fails(DB "takeover: always\n", "c.yml:2:11: takeover: 'always' is none of never, auto");
	fails(DB "log: {level: loud}\n", "c.yml:2:14: log.level: 'loud' is none of debug, info, warn, error, off");
	fails(DB "owner: a/b\n", "c.yml:2:8: owner: 'a/b' is not a name: 1 to 100 letters, digits or any of . _ + -, not beginning with a dot");
	fails("databases: {path: x}\n", "c.yml:1:12: databases: is a mapping, not a list");
	fails("databases: [x.db]\n", "c.yml:1:13: databases[0]: is a single value, not a mapping of keys");
	fails("databases: [{name: x}]\n", "c.yml:1:13: databases[0]: has no path");
	fails("databases: []\n", "c.yml:1:12: databases: no database: list at least one, e.g. databases: [{path: /var/lib/app/app.db}]");
	fails("log: {level: info}\n", "c.yml:1:1: databases: no database: list at least one, e.g. databases: [{path: /var/lib/app/app.db}]");
	fails("- a\n", "c.yml:1:1: is a list, not a mapping of keys");
	fails("hello\n", "c.yml:1:1: is a single value, not a mapping of keys");
	fails("", "c.yml: empty: a configuration needs at least databases: [{path: ...}]");
	fails("# nothing\n", "c.yml: empty: a configuration needs at least databases: [{path: ...}]");
}

Test(config_errors, ranges) {
	fails(DB "compression: {level: 0}\n", "c.yml:2:22: compression.level: 0 is out of range: 1 to 19");
	fails(DB "compression: {level: 20}\n", "c.yml:2:22: compression.level: 20 is out of range: 1 to 19");
	fails(DB "compression: {level: -1}\n", "c.yml:2:22: compression.level: -1 is out of range: 1 to 19");
	fails(DB "compression: {level: 99999999999999999999}\n", "c.yml:2:22: compression.level: 99999999999999999999 is out of range: 1 to 19");
	fails(DB "compression: {window: 9}\n", "c.yml:2:23: compression.window: 9 is out of range: 10 to 27, or 0");
	fails(DB "snapshotShare: -1\n", "c.yml:2:16: snapshotShare: -1 is out of range: 0 to 1000000");
	fails(DB "shutdownTimeout: 2h\n", "c.yml:2:18: shutdownTimeout: 2h is out of range: 0 to 1h");
	fails(DB "snapshotInterval: 0\n", "c.yml:2:19: snapshotInterval: 0 is out of range: 10ms to 3650d");
	fails(DB "maxWalBytes: 4096\n", "c.yml:2:14: maxWalBytes: 4096 is out of range: 1MiB to 1024TiB");
	fails(DB "maxShadowBytes: 1KiB\n", "c.yml:2:17: maxShadowBytes: 1KiB is out of range: 16MiB to 1024TiB, or 0");
}

Test(config_errors, duplicates) {
	fails(DB "owner: a\nowner: b\n", "c.yml:3:1: owner: given twice, first in line 2");
	fails(DB "\"owner\": a\nowner: b\n", "c.yml:3:1: owner: given twice, first in line 2");
	fails("databases:\n- path: a\n- path: b\n- path: a\n", "c.yml:4:3: databases[2].path: 'a' is also databases[0] in line 2");
	fails("databases:\n- path: a/x\n- path: b/x\n", "c.yml:3:3: databases[1].name: 'x' is also databases[0] in line 2: give each a name of its own");
	fails(DB "replicas: ['file:///a', 'file:///b']\n",
	      "c.yml:2:25: replicas: two replicas of database x.db are named 'file' (by their type): give each a name of its own");
	fails("databases:\n- path: a\n  replicas: ['file:///r']\n- path: b\n  replicas: ['file:///r']\n",
	      "c.yml:5:14: replicas: a/file and b/file lie at the same place: every database needs its own");
}

Test(config_errors, replicas) {
	fails(DB "replicas: file:///x\n", "c.yml:2:11: replicas: is a single value, not a list");
	fails(DB "replicas:\n", "c.yml:2:1: replicas: has no value");
	fails(DB "replicas:\n- name: x\n", "c.yml:3:3: replicas[0]: needs a url, or a type with that backend's keys");
	fails(DB "replicas:\n- [x]\n", "c.yml:3:3: replicas[0]: is a list, not a URL or a mapping of keys");
	fails(DB "replicas:\n- url: file:///x\n  required: perhaps\n", "c.yml:4:13: replicas[0].required: 'perhaps' is not true or false");
	fails(DB "replicas:\n- type: s3\n  bucket: {a: b}\n", "c.yml:4:11: replicas[0].bucket: is a mapping, not a single value or a list of values");
	fails(DB "replicas:\n- type: s3\n  rootCAs: ['a,b']\n", "c.yml:4:13: replicas[0].rootCAs: an item of a list must not hold a comma");
	fails("databases: [{path: a}, {path: b}]\nreplicas:\n- type: s3\n  bucket: c\n",
	      "c.yml:3:3: replicas: several databases share this replica: give it a prefix or path, e.g. prefix: \"{db}\"");
	fails("databases: [{path: a}, {path: b}]\nrestore: {targetPath: /t}\n",
	      "c.yml:2:23: restore.targetPath: one target for several databases: set it in each database");
	fails("databases: [{path: a, replicas: [{url: 'x y://'}]}]\n", "c.yml:1:34: replicas: 'x y' is not a backend");
}

Test(config_errors, yaml) {
	fails(DB "---\nowner: x\n", "c.yml:2:1: a second document: a configuration is one");
	fails("databases: &a [{path: x}]\nother: *a\n", "c.yml:2:8: aliases are not used here: what all databases share stands at the top level");
	fails("databases: !!seq [{path: x}]\n", "c.yml:1:18: tags are not used here");
	fails("? [a]\n: b\n", "c.yml:1:3: a key must be plain text");
	fails("a: [[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]\n", "c.yml:1:15: nested too deeply");
	struct ms_config *c = NULL;
	struct ms_err err = MS_ERR_INIT;
	static const char broken[] = "databases:\n- path: x\n owner: [\n";
	cr_assert_eq(ms_config_load_string("c.yml", broken, sizeof broken - 1, &c, &err), MS_ECONFIG);
	cr_assert_eq(strncmp(err.msg, "c.yml:3:", 8), 0, "%s", err.msg);
	cr_assert_not_null(strstr(err.msg, "not valid YAML"), "%s", err.msg);
	cr_assert_eq(ms_config_load_string("c.yml", "a: b\0c", 6, &c, &err), MS_ECONFIG);
	cr_assert_str_eq(err.msg, "c.yml:1:5: a NUL byte: not a text file");
	fails("%YAML 1.2\n---\na: b\n", "c.yml:1:1: YAML directives are not used here");
	fails("a: b\nc: \xff\n", "c.yml:2:4: not UTF-8 text");
}

Test(config_errors, secrets_stay_out) {
	static const char *const texts[] = {
		DB "replicas: [{type: s3, secretAccessKey: {hush: hush}}]\n", DB "replicas: [{type: s3, rootCAs: ['hush,hush']}]\n",
		DB "replicas: ['sftp://u:hush@h/x', 'sftp://u:hush@h/x']\n",	DB "replicas: [{name: a, url: 'sftp://u:hush@h/x'}, {name: b, url: 'sftp://u:hush@h/x'}]\n",
		"databases: [{path: a}, {path: b}]\nreplicas: [{type: s3, secretAccessKey: hush}]\n",
	};
	for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct ms_config *c = NULL;
		struct ms_err err = MS_ERR_INIT;
		cr_assert_eq(ms_config_load_string("c.yml", texts[i], strlen(texts[i]), &c, &err), MS_ECONFIG, "%s", texts[i]);
		cr_assert_null(strstr(err.msg, "hush"), "%s", err.msg);
	}
}

Test(config, files) {
	char path[] = "/tmp/ms_config_XXXXXX";
	int fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	static const char text[] = "databases: [{path: a.db}]\nlog: {levle: info}\n";
	cr_assert_eq(write(fd, text, sizeof text - 1), (ssize_t)(sizeof text - 1));
	struct ms_config *c = NULL;
	struct ms_err err = MS_ERR_INIT;
	char wanted[200];
	cr_assert_eq(ms_config_load(path, &c, &err), MS_ECONFIG);
	snprintf(wanted, sizeof wanted, "%s:2:7: log.levle: unknown key; did you mean level?", path);
	cr_assert_str_eq(err.msg, wanted);
	cr_assert_eq(ftruncate(fd, 26), 0);
	cr_assert_eq(ms_config_load(path, &c, &err), MS_OK);
	ms_config_release(c);
	c = NULL;
	cr_assert_eq(ftruncate(fd, (off_t)MS_CONFIG_FILE_MAX + 1), 0);
	cr_assert_eq(ms_config_load(path, &c, &err), MS_ECONFIG);
	snprintf(wanted, sizeof wanted, "%s: larger than 8 MiB", path);
	cr_assert_str_eq(err.msg, wanted);
	close(fd);
	unlink(path);
	cr_assert_eq(ms_config_load(path, &c, &err), MS_ENOTFOUND);
	cr_assert_not_null(strstr(err.msg, path));
}

Test(config, from_args) {
	struct ms_config *c = NULL;
	struct ms_err err = MS_ERR_INIT;
	const char *const one[] = {"file:///b"};
	cr_assert_eq(ms_config_from_args("/srv/app.db", one, 1, &c, &err), MS_OK, "%s", err.msg);
	cr_assert_null(c->file);
	cr_assert_eq(c->ndatabases, 1);
	cr_assert_str_eq(c->databases[0].name, "app.db");
	cr_assert_str_eq(c->databases[0].replicas[0].name, "file");
	cr_assert_str_eq(c->databases[0].replicas[0].url, "file:///b");
	cr_assert_eq(c->databases[0].s.min_interval_us, 1000000);
	cr_assert_eq(c->databases[0].s.retention.snapshot_interval_us, 21600000000);
	ms_config_release(c);
	c = NULL;
	/* FNV-1a of the URLs, computed elsewhere. Names do not depend on the order. */
	const char *const two[] = {"file:///b", "file:///a", "s3://c"};
	cr_assert_eq(ms_config_from_args("app.db", two, 3, &c, &err), MS_OK, "%s", err.msg);
	cr_assert_str_eq(c->databases[0].replicas[0].name, "file-f6ab5070");
	cr_assert_str_eq(c->databases[0].replicas[1].name, "file-f9ab5529");
	cr_assert_str_eq(c->databases[0].replicas[2].name, "s3");
	ms_config_release(c);
	c = NULL;
	const char *const same[] = {"file:///b", "file:///b"};
	cr_assert_eq(ms_config_from_args("app.db", same, 2, &c, &err), MS_EUSAGE);
	cr_assert_str_eq(err.msg, "the replica's URL is given twice");
	cr_assert_eq(ms_config_from_args("", NULL, 0, &c, &err), MS_EUSAGE);
	cr_assert_eq(ms_config_from_args("app.db", NULL, 0, &c, &err), MS_OK);
	cr_assert_eq(c->databases[0].nreplicas, 0);
	cr_assert_eq(ms_config_find(c, "app.db"), &c->databases[0]);
	cr_assert_null(ms_config_find(c, "other.db"));
	ms_config_release(c);
}

/* Every seed of the fuzz target: no crash, and either a config or an error that names the file. */
Test(config, fuzz_corpus) {
	char path[4096];
	snprintf(path, sizeof path, "%s/fuzz/corpus/config", MS_TEST_DIR);
	DIR *d = opendir(path);
	cr_assert_not_null(d, "%s", path);
	unsigned n = 0;
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		if (e->d_name[0] == '.')
			continue;
		struct ms_config *c = NULL;
		struct ms_err err = MS_ERR_INIT;
		snprintf(path, sizeof path, "%s/fuzz/corpus/config/%.200s", MS_TEST_DIR, e->d_name);
		if (ms_config_load(path, &c, &err))
			cr_assert_not_null(strstr(err.msg, e->d_name), "%s", err.msg);
		ms_config_release(c);
		n++;
	}
	closedir(d);
	cr_assert_geq(n, 10);
}
