/*
 * ms-loadgen: options, workers (processes of threads), pacing, the result line.
 *
 * All shared state lies in one anonymous shared mapping: a stop flag, the ticket counter that bounds --commits, and one result per
 * worker. A worker that fails sets `failed`; the others finish and the exit code is 1.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hist.h"
#include "oracle.h"
#include "workload.h"

struct result {
	struct lg_hist transaction, commit;
	uint64_t busy, wal_pages, captures, capture_ns, late;
};

struct shared {
	atomic_bool stop, failed;
	atomic_ullong tickets;
	atomic_llong wal_max;
	uint64_t start_ns;
	struct result results[];
};

static struct lg_options opt;
static struct shared *shared;
static struct lg_zipf zipf_table;
/* Per process. */
static struct lg_oracle *oracle;
static pthread_mutex_t oracle_lock = PTHREAD_MUTEX_INITIALIZER;

static void on_signal(int sig) {
	(void)sig;
	if (shared)
		atomic_store(&shared->stop, true);
}

static void note_wal_size(const char *wal) {
	struct stat st;
	if (stat(wal, &st))
		return;
	long long seen = atomic_load(&shared->wal_max);
	while (st.st_size > seen && !atomic_compare_exchange_weak(&shared->wal_max, &seen, (long long)st.st_size))
		;
}

static int capture(struct lg_conn *c, struct result *res, int64_t begin_us, int64_t end_us) {
	struct lg_copy copy;
	uint64_t t = lg_mono_ns();
	int rc;
	pthread_mutex_lock(&oracle_lock);
	do
		rc = lg_oracle_capture(oracle, lg_conn_db(c), begin_us, end_us, &copy);
	while (rc == SQLITE_BUSY);
	if (opt.oracle_pause_ms)
		nanosleep(&(struct timespec){(time_t)(opt.oracle_pause_ms / 1000), (long)(opt.oracle_pause_ms % 1000) * 1000000}, NULL);
	pthread_mutex_unlock(&oracle_lock);
	res->captures++;
	res->capture_ns += lg_mono_ns() - t;
	return rc;
}

/* Statements that meet another connection are tried again, as an application would. */
static int until_done(struct lg_conn *c, struct result *res, const char *sql) {
	for (;;) {
		int rc = sql ? lg_exec(c, sql) : lg_rolled_back(c);
		if (rc != SQLITE_BUSY)
			return rc;
		res->busy++;
		if (atomic_load(&shared->stop))
			return 0;
	}
}

static int periodic(struct lg_conn **c, struct result *res, uint64_t n, unsigned worker) {
	char sql[64];
	int rc = 0;
	if (opt.checkpoint && n % opt.checkpoint_every == 0) {
		snprintf(sql, sizeof sql, "PRAGMA wal_checkpoint(%s)", opt.checkpoint);
		rc = lg_exec(*c, sql);
		if (rc == SQLITE_BUSY)
			res->busy++, rc = 0;
	}
	if (!rc && opt.rollback_every && n % opt.rollback_every == 0)
		rc = until_done(*c, res, NULL);
	if (!rc && opt.vacuum_every && n % opt.vacuum_every == 0) {
		int64_t begin = lg_wall_us();
		rc = until_done(*c, res, "VACUUM");
		if (!rc && oracle)
			rc = capture(*c, res, begin, lg_wall_us());
	}
	if (!rc && opt.reopen_every && n % opt.reopen_every == 0) {
		res->wal_pages += lg_conn_wal_pages(*c);
		lg_conn_free(*c);
		*c = lg_conn_new(&opt, &zipf_table, opt.seed + worker + n);
		rc = *c ? 0 : -1;
	}
	return rc;
}

/* Open loop: the time of commit i is fixed beforehand, so a stall does not lower the offered load. */
static void pace(uint64_t i, uint64_t start_ns, struct result *res) {
	if (opt.rate <= 0)
		return;
	double workers = opt.processes * opt.threads;
	uint64_t due = start_ns + (uint64_t)((double)i * 1e9 * workers / opt.rate), now = lg_mono_ns();
	if (now >= due) {
		res->late += now - due > 100000000u;
		return;
	}
	struct timespec t = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR && !atomic_load(&shared->stop))
		;
}

static int work(unsigned worker) {
	struct result *res = &shared->results[worker];
	char wal[4200];
	snprintf(wal, sizeof wal, "%.4000s-wal", opt.db);
	struct lg_conn *c = lg_conn_new(&opt, &zipf_table, opt.seed + worker);
	int rc = c ? 0 : -1;
	uint64_t deadline = opt.duration > 0 ? shared->start_ns + (uint64_t)(opt.duration * 1e9) : UINT64_MAX;
	for (uint64_t i = 0; !rc && !atomic_load(&shared->stop); i++) {
		pace(i, shared->start_ns, res);
		if (lg_mono_ns() >= deadline || atomic_load(&shared->stop))
			break;
		if (opt.commits_set && atomic_fetch_add(&shared->tickets, 1) >= opt.commits)
			break;
		int64_t begin_us = 0;
		uint64_t commit_ns = 0, t = lg_mono_ns();
		do {
			begin_us = lg_wall_us();
			rc = lg_transaction(c, begin_us, &commit_ns);
			if (rc == SQLITE_BUSY)
				res->busy++;
		} while (rc == SQLITE_BUSY && !atomic_load(&shared->stop));
		if (rc == SQLITE_BUSY) {
			rc = 0;
			break;
		}
		if (rc)
			break;
		lg_hist_add(&res->transaction, lg_mono_ns() - t);
		lg_hist_add(&res->commit, commit_ns);
		int64_t end_us = lg_wall_us();
		if (i % 16 == 0)
			note_wal_size(wal);
		if (oracle && (i + 1) % opt.oracle_every == 0)
			rc = capture(c, res, begin_us, end_us);
		if (!rc)
			rc = periodic(&c, res, i + 1, worker);
	}
	if (c)
		res->wal_pages += lg_conn_wal_pages(c);
	note_wal_size(wal);
	lg_conn_free(c);
	if (rc) {
		atomic_store(&shared->failed, true);
		atomic_store(&shared->stop, true);
	}
	return rc;
}

static void *thread_main(void *arg) {
	work((unsigned)(uintptr_t)arg);
	return NULL;
}

static int process_main(unsigned index) {
	pthread_t threads[64];
	unsigned n = 0;
	if (opt.oracle_log && !(oracle = lg_oracle_open(opt.db, opt.oracle_log, opt.oracle_dir, opt.oracle_keep))) {
		atomic_store(&shared->failed, true);
		return 1;
	}
	for (unsigned i = 1; i < opt.threads; i++, n++)
		if (pthread_create(&threads[n], NULL, thread_main, (void *)(uintptr_t)(index * opt.threads + i))) {
			fprintf(stderr, "ms-loadgen: cannot start a thread\n");
			atomic_store(&shared->failed, true);
			atomic_store(&shared->stop, true);
			break;
		}
	work(index * opt.threads);
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	lg_oracle_close(oracle);
	return 0;
}

static void print_hist(FILE *f, const char *name, const struct lg_hist *h) {
	fprintf(f, "\"%s\":{\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f},", name,
		h->n ? (double)h->sum / (double)h->n / 1e3 : 0, (double)lg_hist_quantile(h, 0.5) / 1e3, (double)lg_hist_quantile(h, 0.9) / 1e3,
		(double)lg_hist_quantile(h, 0.99) / 1e3, (double)lg_hist_quantile(h, 0.999) / 1e3, (double)h->max / 1e3);
}

static double cpu_seconds(int who) {
	struct rusage u;
	getrusage(who, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Bytes 16-17 of the header, big-endian; 1 stands for 65536. */
static uint64_t page_size_of(FILE *db) {
	unsigned char b[2];
	if (!db || fseek(db, 16, SEEK_SET) || fread(b, 1, 2, db) != 2)
		return 0;
	uint64_t n = (uint64_t)b[0] << 8 | b[1];
	return n == 1 ? 65536 : n;
}

static int report(double seconds, double cpu) {
	static struct result all;
	struct stat st = {0};
	FILE *f = opt.json ? fopen(opt.json, "w") : stdout;
	if (!f) {
		fprintf(stderr, "ms-loadgen: cannot write %s: %s\n", opt.json, strerror(errno));
		return -1;
	}
	for (unsigned i = 0; i < opt.processes * opt.threads; i++) {
		const struct result *r = &shared->results[i];
		lg_hist_merge(&all.transaction, &r->transaction);
		lg_hist_merge(&all.commit, &r->commit);
		all.busy += r->busy, all.wal_pages += r->wal_pages, all.captures += r->captures, all.capture_ns += r->capture_ns, all.late += r->late;
	}
	FILE *db = fopen(opt.db, "rb"); /* every connection is closed by now */
	uint64_t page_size = page_size_of(db);
	if (db)
		fclose(db);
	if (stat(opt.db, &st))
		fprintf(stderr, "ms-loadgen: cannot stat %s: %s\n", opt.db, strerror(errno));
	fprintf(f, "{\"profile\":\"%s\",\"sync\":\"%s\",\"workers\":%u,\"rate\":%g,\"commits\":%llu,\"seconds\":%.3f,\"commits_per_s\":%.1f,", lg_profile_names[opt.profile],
		opt.sync, opt.processes * opt.threads, opt.rate, (unsigned long long)all.transaction.n, seconds, seconds > 0 ? (double)all.transaction.n / seconds : 0);
	print_hist(f, "transaction_us", &all.transaction);
	print_hist(f, "commit_us", &all.commit);
	fprintf(f,
		"\"busy\":%llu,\"late\":%llu,\"cpu_s\":%.3f,\"db_bytes\":%lld,\"wal_max_bytes\":%lld,\"wal_frame_bytes\":%llu,\"captures\":%llu,\"capture_s\":%.3f}\n",
		(unsigned long long)all.busy, (unsigned long long)all.late, cpu, (long long)st.st_size, (long long)atomic_load(&shared->wal_max),
		(unsigned long long)(all.wal_pages * (page_size + 24)), (unsigned long long)all.captures, (double)all.capture_ns / 1e9);
	return (f == stdout ? fflush(f) : fclose(f)) ? -1 : 0;
}

int main(int argc, char **argv) {
	int rc = lg_options_parse(argc, argv, &opt);
	if (rc != -1)
		return rc;
	struct sigaction sa = {.sa_handler = on_signal};
	size_t bytes = sizeof *shared + (size_t)opt.processes * opt.threads * sizeof *shared->results;
	shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || lg_zipf_init(&zipf_table, lg_zipf_rows(&opt))) {
		fprintf(stderr, "ms-loadgen: out of memory\n");
		return 1;
	}
	if (lg_prepare(&opt))
		return 1;
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	shared->start_ns = lg_mono_ns();
	double cpu = -cpu_seconds(RUSAGE_SELF);
	if (!opt.commits_set || opt.commits) {
		/* SQLite must not be carried across fork(): with several processes, every worker is a child. */
		unsigned children = 0;
		for (; opt.processes > 1 && children < opt.processes; children++) {
			pid_t pid = fork();
			if (pid == 0)
				_exit(process_main(children));
			if (pid < 0) {
				fprintf(stderr, "ms-loadgen: cannot start a process: %s\n", strerror(errno));
				atomic_store(&shared->failed, true);
				atomic_store(&shared->stop, true);
				break;
			}
		}
		if (opt.processes == 1)
			process_main(0);
		for (unsigned i = 0; i < children; i++) {
			int status = 0;
			pid_t pid;
			while ((pid = wait(&status)) < 0 && errno == EINTR)
				;
			if (pid < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) {
				atomic_store(&shared->failed, true);
				atomic_store(&shared->stop, true);
			}
		}
	}
	double seconds = (double)(lg_mono_ns() - shared->start_ns) / 1e9;
	cpu += cpu_seconds(RUSAGE_SELF) + cpu_seconds(RUSAGE_CHILDREN);
	if (report(seconds, cpu))
		return 1;
	lg_zipf_release(&zipf_table);
	return atomic_load(&shared->failed) ? 1 : 0;
}
