#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *const lg_profile_names[LG_PROFILES] = {"oltp", "bulk", "zipf", "documents", "mixed"};

static const char usage[] =
	"Usage: ms-loadgen --db FILE [OPTIONS]\n"
	"Writes to a SQLite database the way applications do, and prints one JSON line of results.\n"
	"Every commit also counts up ms_seq.seq, so that a copy of the database tells which commit it is.\n"
	"\n"
	"  --db FILE             database; made when missing, always in WAL mode\n"
	"  --profile P           oltp (order entry, default) | bulk (80 KB commits) | zipf | documents | mixed\n"
	"  --rate N              commits per second over all workers (default 0: full speed)\n"
	"  --duration S          seconds to run      --commits N   commits to make (neither: 10 s; --commits 0: prepare only)\n"
	"  --sync M              normal (default) | full | off | extra\n"
	"  --page-size N         of a new database (default 4096)      --auto-vacuum full|incremental\n"
	"  --autocheckpoint N    pages (default 1000, 0 = off)         --cache-pages N\n"
	"  --processes N --threads N   workers = N * N (default 1 * 1)\n"
	"  --busy-timeout MS     default 5000\n"
	"  --size BYTES          grow the database first; K, M, G are powers of 1024\n"
	"  --scale F             rows of a new database (default 1: about 3 MiB)   --retain N   orders kept (default 100000)\n"
	"  --seed N              random seed (default 1)\n"
	"  --checkpoint MODE --checkpoint-every N   the application's own checkpoints: passive | full | restart | truncate\n"
	"  --reopen-every N      close and open the connection     --vacuum-every N   VACUUM\n"
	"  --rollback-every N    a large transaction that spills and is rolled back\n"
	"  --oracle-log FILE     appends \"seq sha256 begin_us end_us bytes\" for exact copies of the database\n"
	"  --oracle-every N      commits between copies (default 1)\n"
	"  --oracle-pause MS     wait that long after each, so that a moment after the commit is surely before the next one's\n"
	"  --oracle-dir DIR      scratch space for them (default: the log's directory)\n"
	"  --oracle-keep DIR     keep every copy there as <seq>.db\n"
	"  --json FILE           write the result line there (default: standard output)\n";

static int bad(const char *option, const char *value, const char *what) {
	fprintf(stderr, "ms-loadgen: --%s %s: %s\n", option, value, what);
	return 2;
}

static bool number(const char *s, double *ret) {
	char *end;
	errno = 0;
	double v = strtod(s, &end);
	if (end == s || *end || errno || !isfinite(v) || v < 0)
		return false;
	*ret = v;
	return true;
}

static bool integer(const char *s, uint64_t max, uint64_t *ret) {
	char *end;
	errno = 0;
	if (*s < '0' || *s > '9')
		return false;
	unsigned long long v = strtoull(s, &end, 10);
	if (errno)
		return false;
	unsigned shift = 0;
	if (*end == 'K' || *end == 'M' || *end == 'G')
		shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30, end++;
	if (*end || v > (max >> shift))
		return false;
	*ret = (uint64_t)v << shift;
	return true;
}

enum { O_DB = 256, O_PROFILE, O_RATE, O_DURATION, O_COMMITS, O_SYNC, O_PAGE_SIZE, O_AUTOCHECKPOINT, O_PROCESSES, O_THREADS, O_BUSY, O_SIZE,
       O_SCALE, O_RETAIN, O_SEED, O_CACHE, O_AUTO_VACUUM, O_CHECKPOINT, O_CHECKPOINT_EVERY, O_REOPEN, O_VACUUM, O_ROLLBACK, O_ORACLE_LOG,
       O_ORACLE_EVERY, O_ORACLE_PAUSE, O_ORACLE_DIR, O_ORACLE_KEEP, O_JSON, O_HELP };

static const struct option options[] = {
	{"db", 1, NULL, O_DB}, {"profile", 1, NULL, O_PROFILE}, {"rate", 1, NULL, O_RATE}, {"duration", 1, NULL, O_DURATION},
	{"commits", 1, NULL, O_COMMITS}, {"sync", 1, NULL, O_SYNC}, {"page-size", 1, NULL, O_PAGE_SIZE},
	{"autocheckpoint", 1, NULL, O_AUTOCHECKPOINT}, {"processes", 1, NULL, O_PROCESSES}, {"threads", 1, NULL, O_THREADS},
	{"busy-timeout", 1, NULL, O_BUSY}, {"size", 1, NULL, O_SIZE}, {"scale", 1, NULL, O_SCALE}, {"retain", 1, NULL, O_RETAIN},
	{"seed", 1, NULL, O_SEED}, {"cache-pages", 1, NULL, O_CACHE}, {"auto-vacuum", 1, NULL, O_AUTO_VACUUM},
	{"checkpoint", 1, NULL, O_CHECKPOINT}, {"checkpoint-every", 1, NULL, O_CHECKPOINT_EVERY}, {"reopen-every", 1, NULL, O_REOPEN},
	{"vacuum-every", 1, NULL, O_VACUUM}, {"rollback-every", 1, NULL, O_ROLLBACK}, {"oracle-log", 1, NULL, O_ORACLE_LOG},
	{"oracle-every", 1, NULL, O_ORACLE_EVERY}, {"oracle-pause", 1, NULL, O_ORACLE_PAUSE}, {"oracle-dir", 1, NULL, O_ORACLE_DIR}, {"oracle-keep", 1, NULL, O_ORACLE_KEEP},
	{"json", 1, NULL, O_JSON}, {"help", 0, NULL, O_HELP}, {NULL, 0, NULL, 0}};

static bool one_of(const char *s, const char *const *names, unsigned *ret) {
	for (unsigned i = 0; names[i]; i++)
		if (!strcasecmp(s, names[i])) {
			*ret = i;
			return true;
		}
	return false;
}

static int apply(struct lg_options *o, int c, const char *name, const char *v) {
	static const char *const profiles[] = {"oltp", "bulk", "zipf", "documents", "mixed", NULL};
	static const char *const syncs[] = {"NORMAL", "FULL", "OFF", "EXTRA", NULL};
	static const char *const modes[] = {"PASSIVE", "FULL", "RESTART", "TRUNCATE", NULL};
	static const char *const vacuums[] = {"full", "incremental", NULL};
	unsigned i;
	uint64_t n;
	switch (c) {
	case O_DB: o->db = v; return -1;
	case O_PROFILE:
		if (!one_of(v, profiles, &i))
			return bad(name, v, "not one of oltp, bulk, zipf, documents, mixed");
		o->profile = (enum lg_profile)i;
		return -1;
	case O_SYNC:
		if (!one_of(v, syncs, &i))
			return bad(name, v, "not one of normal, full, off, extra");
		o->sync = syncs[i];
		return -1;
	case O_CHECKPOINT:
		if (!one_of(v, modes, &i))
			return bad(name, v, "not one of passive, full, restart, truncate");
		o->checkpoint = modes[i];
		return -1;
	case O_AUTO_VACUUM:
		if (!one_of(v, vacuums, &i))
			return bad(name, v, "not one of full, incremental");
		o->auto_vacuum = vacuums[i];
		return -1;
	case O_RATE: return number(v, &o->rate) ? -1 : bad(name, v, "not a number >= 0");
	case O_DURATION: return number(v, &o->duration) ? -1 : bad(name, v, "not a number >= 0");
	case O_SCALE: return number(v, &o->scale) && o->scale > 0 && o->scale <= 10000 ? -1 : bad(name, v, "not a number in (0, 10000]");
	case O_ORACLE_LOG: o->oracle_log = v; return -1;
	case O_ORACLE_DIR: o->oracle_dir = v; return -1;
	case O_ORACLE_KEEP: o->oracle_keep = v; return -1;
	case O_JSON: o->json = v; return -1;
	default: break;
	}
	if (!integer(v, UINT64_C(1) << 50, &n))
		return bad(name, v, "not a whole number (K, M and G may follow)");
	switch (c) {
	case O_COMMITS: o->commits = n, o->commits_set = true; return -1;
	case O_PAGE_SIZE:
		if (n < 512 || n > 65536 || (n & (n - 1)))
			return bad(name, v, "not a power of two from 512 to 65536");
		o->page_size = (unsigned)n;
		return -1;
	case O_AUTOCHECKPOINT:
		if (n > INT32_MAX)
			return bad(name, v, "too large");
		o->autocheckpoint = (int)n;
		return -1;
	case O_CACHE:
		if (n > INT32_MAX)
			return bad(name, v, "too large");
		o->cache_pages = (int)n;
		return -1;
	case O_PROCESSES:
	case O_THREADS:
		if (n < 1 || n > 64)
			return bad(name, v, "not from 1 to 64");
		*(c == O_PROCESSES ? &o->processes : &o->threads) = (unsigned)n;
		return -1;
	case O_BUSY:
		if (n > 3600000)
			return bad(name, v, "too large");
		o->busy_timeout_ms = (unsigned)n;
		return -1;
	case O_SIZE: o->size = n; return -1;
	case O_RETAIN: o->retain = n; return -1;
	case O_SEED: o->seed = n; return -1;
	case O_CHECKPOINT_EVERY: o->checkpoint_every = n; return -1;
	case O_REOPEN: o->reopen_every = n; return -1;
	case O_VACUUM: o->vacuum_every = n; return -1;
	case O_ROLLBACK: o->rollback_every = n; return -1;
	case O_ORACLE_PAUSE:
		if (n > 60000)
			return bad(name, v, "too large");
		o->oracle_pause_ms = n;
		return -1;
	case O_ORACLE_EVERY:
		if (!n)
			return bad(name, v, "not 1 or more");
		o->oracle_every = n;
		return -1;
	default: return 2;
	}
}

int lg_options_parse(int argc, char **argv, struct lg_options *ret) {
	struct lg_options o = {.sync = "NORMAL", .page_size = 4096, .autocheckpoint = 1000, .processes = 1, .threads = 1,
			       .busy_timeout_ms = 5000, .scale = 1, .retain = 100000, .seed = 1, .oracle_every = 1};
	int c, index = 0, rc;
	while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
		if (c == O_HELP) {
			fputs(usage, stdout);
			return 0;
		}
		if (c == '?')
			return 2;
		if ((rc = apply(&o, c, options[index].name, optarg)) != -1)
			return rc;
	}
	if (optind < argc) {
		fprintf(stderr, "ms-loadgen: unexpected argument %s\n", argv[optind]);
		return 2;
	}
	if (!o.db) {
		fprintf(stderr, "ms-loadgen: --db FILE is missing (see --help)\n");
		return 2;
	}
	if ((o.checkpoint != NULL) != (o.checkpoint_every != 0)) {
		fprintf(stderr, "ms-loadgen: --checkpoint and --checkpoint-every go together\n");
		return 2;
	}
	if ((o.oracle_dir || o.oracle_keep) && !o.oracle_log) {
		fprintf(stderr, "ms-loadgen: --oracle-dir and --oracle-keep need --oracle-log\n");
		return 2;
	}
	if (!o.commits_set && o.duration == 0)
		o.duration = 10;
	*ret = o;
	return -1;
}
