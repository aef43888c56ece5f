/* Every command with its options, help and examples; the manual pages come from here too. */
#include "cmd/args.h"
#include "cmd/cmds.h"

#define CONFIG {"config", 'c', "FILE", "configuration; default: $MIGSTREAM_CONFIG, then /etc/migstream.yml"}
#define SOCKET {"socket", 0, "PATH", "the daemon's control socket; default: control.sock in the shadow directory"}
#define JSON {"json", 0, NULL, "machine-readable output"}
#define END {NULL, 0, NULL, NULL}

static const struct ms_arg_def replicate_options[] = {
	CONFIG,
	{"once", 0, NULL, "capture and ship what is there now, then exit (1 if anything is unshipped)"},
	{"exec", 0, "CMD", "run CMD by the shell once attached; exit with its code when it ends"},
	{"takeover", 0, NULL, "take the replicas over from another owner, as `takeover: auto` in a configuration"},
	END,
};
static const struct ms_arg_def status_options[] = {CONFIG, SOCKET, JSON, END};
static const struct ms_arg_def wait_options[] = {
	CONFIG,
	SOCKET,
	{"txid", 0, "N", "wait for this transaction; default: everything committed up to now"},
	{"replica", 0, "NAME", "wait for this replica only; default: every required one"},
	{"timeout", 0, "DUR", "give up after this time, e.g. 30s; default: wait for ever"},
	JSON,
	END,
};
static const struct ms_arg_def control_options[] = {CONFIG, SOCKET, END};
static const struct ms_arg_def list_options[] = {CONFIG, JSON, END};
static const struct ms_arg_def verify_options[] = {
	CONFIG,
	{"deep", 0, NULL, "also restore every point into scratch space and compare checksums"},
	{"temp-dir", 0, "DIR", "scratch space; default: $TMPDIR, else /tmp"},
	JSON,
	END,
};
static const struct ms_arg_def config_options[] = {JSON, END};
static const struct ms_arg_def doctor_options[] = {CONFIG, JSON, END};

#define WHERE                                                                                                                          \
	"Talks to the daemon found by --socket, else by the configuration's shadow directory, else by the\n"                          \
	"shadow directory of DB (what `migstream replicate DB` uses)."

const struct ms_command_def ms_commands[] = {
	{"migstream", "replicate", "[-c FILE] [--once] [--exec CMD] [--takeover] [DB URL...]", "replicate databases, in the foreground",
	 "With a configuration: every database in it. With DB: that one, to each URL; without URL to a local replica in the\n"
	 "shadow directory. SIGTERM and SIGINT ship what is pending for at most shutdownTimeout and exit 0; SIGHUP reads the\n"
	 "configuration again. --once gives a replica up, and exits 1, when it has failed for shutdownTimeout, or at once where\n"
	 "waiting does not help: credentials, permissions, a directory that is not there.",
	 replicate_options,
	 "  migstream replicate app.db file:///backup/app\n"
	 "  migstream replicate -c /etc/migstream.yml\n"
	 "  migstream replicate --exec './server --port 8080' app.db file:///backup/app\n"
	 "  migstream replicate --once app.db file:///backup/app\n",
	 0, 64, ms_cmd_replicate},
	{"migstream", "status", "[-c FILE] [--socket PATH] [--json] [DB]", "what a daemon is doing: position, lag and state of every replica",
	 "Without a running daemon it says \"stopped\", what the shadow directory knows (position, replicas, what is not\n"
	 "shipped), and exits 1. " WHERE, status_options,
	 "  migstream status\n"
	 "  migstream status -c /etc/migstream.yml --json\n"
	 "  migstream status app.db\n",
	 0, 1, ms_cmd_status},
	{"migstream", "wait", "[--txid N] [--replica NAME] [--timeout DUR] DB", "wait until commits are on the replicas",
	 "DB is a path or a configured name. Exits 0 when the replicas hold the state, 1 after the timeout or when they cannot\n"
	 "get there, 4 when fenced. " WHERE,
	 wait_options,
	 "  migstream wait app.db --timeout 30s\n"
	 "  migstream wait app --txid 1234 --replica s3\n",
	 1, 1, ms_cmd_wait},
	{"migstream", "pause", "[-c FILE] [--socket PATH] DB", "let go of a database, e.g. to VACUUM with another page size or to leave WAL mode",
	 "Commits made meanwhile come as one catch-up after `migstream resume`. " WHERE, control_options,
	 "  migstream pause app.db\n", 1, 1, ms_cmd_pause},
	{"migstream", "resume", "[-c FILE] [--socket PATH] DB", "follow a paused database again", WHERE, control_options, "  migstream resume app.db\n", 1, 1,
	 ms_cmd_pause},
	{"migstream", "snapshot", "[-c FILE] [--socket PATH] DB", "take a snapshot of a database now", WHERE, control_options,
	 "  migstream snapshot app.db\n", 1, 1, ms_cmd_snapshot},
	{"migstream", "takeover", "[-c FILE] [--socket PATH] DB", "take a database's replicas over from another owner",
	 "For a daemon that was refused or fenced. The other owner's next upload fails, and it stops. Where no daemon runs,\n"
	 "a mark is left in the shadow directory, and the next start takes over. " WHERE,
	 control_options, "  migstream takeover app.db\n", 1, 1, ms_cmd_pause},
	{"migstream", "list", "[--json] (URL | -c FILE DB)", "what a replica holds and which points restore", NULL, list_options,
	 "  migstream list file:///backup/app\n"
	 "  migstream list --json file:///backup/app\n"
	 "  migstream list -c /etc/migstream.yml app\n",
	 1, 1, ms_cmd_list},
	{"migstream", "verify", "[--deep] [--temp-dir DIR] [--json] (URL | -c FILE DB)", "check a replica: every object, the chain, and with --deep every restore",
	 "Exits 3 when anything is missing or damaged.", verify_options,
	 "  migstream verify file:///backup/app\n"
	 "  migstream verify --deep file:///backup/app\n",
	 1, 1, ms_cmd_verify},
	{"migstream", "config", "check|print [--json] FILE", "check a configuration, or print it with every default and override resolved",
	 "Secrets are printed as ***.", config_options,
	 "  migstream config check /etc/migstream.yml\n"
	 "  migstream config print --json /etc/migstream.yml\n",
	 2, 2, ms_cmd_config},
	{"migstream", "doctor", "[-c FILE] [--json] [DB | URL]", "explain what would keep a database or a replica from working",
	 "DB: the database, its file system and rights, and its shadow directory. URL: reach, credentials, each right, speed, by probe objects.\n"
	 "Neither: everything in the configuration. Exits 1 when a check fails.",
	 doctor_options,
	 "  migstream doctor app.db\n"
	 "  migstream doctor file:///backup/app\n"
	 "  migstream doctor 's3://bucket/prefix?region=eu-central-1'\n"
	 "  migstream doctor -c /etc/migstream.yml\n",
	 0, 1, ms_cmd_doctor},
	{NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL},
};

static const struct ms_arg_def migrestore_options[] = {
	{"output", 'o', "FILE", "where to put the database"},
	{"txid", 0, "N", "restore the state of this transaction; default: the newest"},
	{"timestamp", 0, "T", "restore the last commit at or before T, e.g. 2026-11-21T10:00:00Z"},
	{"generation", 0, "G", "in this generation"},
	{"verify", 0, "HOW", "none, checksum (default), quick or full: SQLite's own check of the result as well"},
	{"if-not-exists", 0, NULL, "do nothing, successfully, when FILE exists"},
	{"force", 0, NULL, "replace FILE; a database in use is never replaced"},
	{"stop-at-gap", 0, NULL, "where something in the middle is missing, restore up to it"},
	{"allow-loss", 0, NULL, "accept a newest state below what the replica once confirmed"},
	{"shadow", 0, "DIR", "add what a live host has not shipped yet, from its shadow directory"},
	{"temp-dir", 0, "DIR", "directory of the unfinished file; default: beside FILE"},
	{"dry-run", 0, NULL, "print the plan and its bytes, restore nothing"},
	{"json", 0, NULL, "machine-readable output"},
	{"parallel", 0, "N", "fetches at once"},
	{"quiet", 0, NULL, "no progress"},
	{"config", 'c', "FILE", "take the replicas of DB from a configuration"},
	END,
};

const struct ms_command_def ms_migrestore_command = {
	"migrestore", NULL, "-o FILE [OPTION...] (URL... | -c FILE DB)", "restore a database from its replicas",
	"Needs nothing but a replica. Exits 0 when done, 1 on failure, 2 on a usage error, 3 when the point is not there or is\n"
	"damaged (the target is then untouched).",
	migrestore_options,
	"  migrestore -o app.db file:///backup/app\n"
	"  migrestore -o then.db --timestamp 2026-11-21T10:00:00Z file:///backup/app\n"
	"  migrestore -o app.db --if-not-exists file:///backup/app\n"
	"  migrestore -o app.db --dry-run file:///backup/app\n"
	"  migrestore -o app.db --shadow /var/lib/migstream/app.db-0123456789abcdef file:///backup/app\n",
	0, 64, NULL,
};
