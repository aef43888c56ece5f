/* Writers, syncs, two readers, a purge, figures and a rotation on one journal at once. Under ThreadSanitizer it must be silent;
 * in every build each entry arrives at each reader once and in order. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "core/journal.h"

enum { WRITERS = 4, EACH = 1500 };

static struct ms_journal *journal;
static atomic_uint finished;
static uint64_t hooked;

#define REQUIRE(cond)                                                                                                            \
	do {                                                                                                                     \
		if (!(cond)) {                                                                                                   \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                                 \
			abort();                                                                                                 \
		}                                                                                                                \
	} while (0)

static void *writer(void *arg) {
	unsigned tag = (unsigned)(uintptr_t)arg;
	char db[8];
	snprintf(db, sizeof db, "db%u", tag);
	for (uint64_t i = 0; i < EACH; i++) {
		uint8_t payload[400] = {0};
		uint64_t seq;
		struct ms_err err = MS_ERR_INIT;
		ms_put_le64(payload, i);
		struct iovec iov = {payload, 8 + (i * 31 + tag) % 390};
		REQUIRE(ms_journal_append(journal, db, strlen(db), 0, &iov, 1, &seq, &err) == MS_OK);
		if (i % 8 == 0)
			REQUIRE(ms_journal_sync(journal, seq, &err) == MS_OK && ms_journal_durable_seq(journal) >= seq);
	}
	atomic_fetch_add(&finished, 1);
	return NULL;
}

static void *reader(void *arg) {
	const char *db = arg;
	struct ms_err err = MS_ERR_INIT;
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	uint64_t next[WRITERS] = {0}, total = 0, want = db ? EACH : WRITERS * EACH;
	REQUIRE(ms_journal_reader_new(journal, db, db ? strlen(db) : 0, 1, &r, &err) == MS_OK);
	while (total < want) {
		enum ms_code rc = ms_journal_reader_next(r, &e, &err);
		if (rc == MS_ENOTFOUND) {
			usleep(100);
			continue;
		}
		REQUIRE(rc == MS_OK && e.db_len == 3);
		unsigned tag = (unsigned)(e.db[2] - '0');
		REQUIRE(tag < WRITERS && ms_get_le64(e.payload) == next[tag]);
		next[tag]++;
		total++;
	}
	ms_journal_reader_free(r);
	return NULL;
}

static void *caretaker(void *arg) {
	struct ms_err err = MS_ERR_INIT;
	(void)arg;
	while (atomic_load(&finished) < WRITERS) {
		struct ms_journal_stats st;
		uint64_t files, bytes;
		ms_journal_get_stats(journal, &st);
		REQUIRE(st.durable_seq < st.next_seq && st.corrupt_entries == 0);
		REQUIRE(ms_journal_purge(journal, 1, &files, &bytes, &err) == MS_OK && files == 0);
		REQUIRE(ms_journal_rotate(journal, &err) == MS_OK);
		usleep(3000);
	}
	REQUIRE(ms_journal_sync(journal, UINT64_MAX, &err) == MS_OK);
	return NULL;
}

static void on_entry(void *arg, const struct ms_journal_entry *e) {
	(void)arg;
	REQUIRE(e->seq == hooked + 1);
	hooked = e->seq;
}

int main(void) {
	char dir[] = "/tmp/race_journal.XXXXXX";
	struct ms_err err = MS_ERR_INIT;
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 200000};
	pthread_t t[WRITERS + 3];
	struct ms_env *env = ms_env_uv_new(NULL, &err);
	REQUIRE(env && mkdtemp(dir));
	REQUIRE(ms_journal_open(env, dir, &cfg, &journal, &err) == MS_OK);
	ms_journal_set_entry_hook(journal, on_entry, NULL);
	for (unsigned i = 0; i < WRITERS; i++)
		REQUIRE(!pthread_create(&t[i], NULL, writer, (void *)(uintptr_t)i));
	REQUIRE(!pthread_create(&t[WRITERS], NULL, reader, NULL));
	REQUIRE(!pthread_create(&t[WRITERS + 1], NULL, reader, (void *)"db2"));
	REQUIRE(!pthread_create(&t[WRITERS + 2], NULL, caretaker, NULL));
	for (unsigned i = 0; i < WRITERS + 3; i++)
		pthread_join(t[i], NULL);
	REQUIRE(ms_journal_close(journal, &err) == MS_OK);
	REQUIRE(hooked == WRITERS * EACH);
	struct ms_journal_stats st;
	ms_journal_get_stats(journal, &st);
	printf("%llu entries, %llu syncs, %llu files\n", (unsigned long long)st.entries, (unsigned long long)st.syncs,
	       (unsigned long long)st.files);
	ms_journal_free(journal);
	REQUIRE(ms_fs_remove_tree(env, dir, &err) == MS_OK);
	ms_env_uv_free(env);
	return 0;
}
