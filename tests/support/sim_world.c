#include "support/sim_world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/log.h"
#include "core/stream_purge.h"
#include "replicas/mem.h"
#include "replicas/url.h"
#include "restore/list.h"
#include "restore/restore.h"

typedef unsigned long long ull;

static void must(const struct sim_world *w, bool ok, const char *fmt, ...) MS_PRINTF(3, 4);
static void must(const struct sim_world *w, bool ok, const char *fmt, ...) {
	va_list ap;
	if (ok)
		return;
	fprintf(stderr, "seed %llu: ", (ull)w->seed);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

void sim_world_init(struct sim_world *w, uint64_t seed, unsigned replicas, uint32_t page_size, uint32_t pages) {
	struct ms_err err = MS_ERR_INIT;
	*w = (struct sim_world){.seed = seed, .n = replicas, .snapshot_share = 1.0, .min_interval_us = 1000, .segment_bytes = 32 << 10};
	ms_log_configure(2, getenv("MS_TEST_LOG") ? MS_LOG_DEBUG : MS_LOG_OFF, false);
	w->env = ms_env_sim_new(seed);
	must(w, ms_replica_mem_register(&err) == MS_OK, "%s", err.msg);
	for (unsigned i = 0; i < replicas; i++) {
		snprintf(w->store[i], sizeof w->store[i], "w%llu-%u", (ull)seed, i);
		snprintf(w->copy[i], sizeof w->copy[i], "w%llu-%u-copy", (ull)seed, i);
		snprintf(w->url[i], sizeof w->url[i], "mem://w%llu-%u", (ull)seed, i);
		must(w, ms_url_parse(w->url[i], &w->spec[i], &err) == MS_OK, "%s", err.msg);
	}
	w->db = sim_db_new(page_size, pages, seed);
}

void sim_world_release(struct sim_world *w) {
	sim_world_down(w);
	ms_env_sim_free(w->env);
	for (unsigned i = 0; i < w->n; i++) {
		ms_replica_spec_release(&w->spec[i]);
		ms_mem_drop(w->store[i]);
		ms_mem_drop(w->copy[i]);
	}
	sim_db_free(w->db);
}

/* ---- the daemon ---- */

static void changed(void *arg, struct ms_stream *s) { (void)arg, (void)s; }

static void ended(void *arg, struct ms_stream *s, const struct ms_err *err) {
	struct sim_world *w = arg;
	(void)s;
	w->ended = true;
	w->why = *err;
}

void sim_world_purge(struct sim_world *w) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_journal_stats st;
	if (!w->stream || w->no_purge)
		return;
	ms_journal_get_stats(w->journal, &st);
	w->most = st.total_bytes > w->most ? st.total_bytes : w->most;
	if (ms_streams_purge(w->journal, &w->stream, 1, w->cap, &err) != MS_OK)
		must(w, ms_env_sim_is_down(w->env) || ms_env_sim_injected(w->env), "purge: %s", err.msg);
}

static void durable(void *arg, uint64_t seq, const struct ms_err *err) {
	struct sim_world *w = arg;
	if (!w->stream)
		return;
	if (ms_streams_purge_pressed(w->journal, w->cap))
		sim_world_purge(w);
	ms_stream_durable(w->stream, seq, err);
}

bool sim_world_up(struct sim_world *w) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_journal_config jc = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 64 << 10, .max_bytes = w->cap};
	if (ms_fs_mkdir_p(w->env, "/shadow/db/x", 0700, &err) != MS_OK || ms_journal_open(w->env, "/shadow/journal", &jc, &w->journal, &err) != MS_OK) {
		must(w, ms_env_sim_is_down(w->env), "start: %s", err.msg);
		return false;
	}
	ms_journal_set_hook(w->journal, durable, w);
	struct ms_worker_config wc[SIM_REPLICAS];
	char name[SIM_REPLICAS][16];
	for (unsigned i = 0; i < w->n; i++) {
		snprintf(name[i], sizeof name[i], "m%u", i);
		wc[i] = (struct ms_worker_config){.name = name[i], .spec = &w->spec[i], .url = w->url[i], .required = i + 1 < w->n || !w->optional,
						  .min_interval_us = w->min_interval_us, .segment_bytes = w->segment_bytes,
						  .snapshot_retention_us = w->snapshot_retention_us, .check_interval_us = w->check_interval_us,
						  .removal_grace_us = w->removal_grace_us};
	}
	struct ms_stream_config sc = {.name = "x", .path = "/x.db", .dir = "/shadow/db/x", .owner = "owner-a", .host = "h", .level = 1,
				      .snapshot_share = w->snapshot_share, .probe_timeout_us = w->n > 1 ? 50000 : 0, .workers = wc, .nworkers = w->n,
				      .authority = -1};
	struct ms_stream_hooks hooks = {changed, ended, w};
	w->source = sim_source_new(w->db);
	if (ms_env_sim_pick(w->env, 2))
		sim_source_step_limit(w->source, 1 + (unsigned)ms_env_sim_pick(w->env, 4));
	if (ms_stream_new(w->env, w->journal, w->source, &sc, &hooks, &w->stream, &err) != MS_OK) {
		must(w, ms_env_sim_is_down(w->env) || ms_env_sim_injected(w->env), "start: %s", err.msg);
		w->source->ops->free(w->source);
		ms_journal_free(w->journal);
		w->journal = NULL;
		return false;
	}
	ms_stream_start(w->stream);
	return true;
}

static void count(struct sim_world *w) {
	struct ms_stream_status st;
	if (!w->stream || ms_stream_get_status(w->stream, &st, NULL) != MS_OK)
		return;
	for (uint32_t i = 0; i < st.nworkers; i++)
		w->catchups += st.workers[i].catchups;
	ms_stream_status_release(&st);
}

void sim_world_down(struct sim_world *w) {
	count(w);
	if (w->stream)
		ms_stream_free(w->stream);
	if (w->journal)
		ms_journal_free(w->journal);
	w->stream = NULL;
	w->journal = NULL;
}

void sim_world_die(struct sim_world *w, bool power) {
	if (!ms_env_sim_is_down(w->env)) {
		if (power)
			ms_env_sim_crash(w->env);
		else
			ms_env_sim_kill(w->env);
	}
	sim_world_down(w);
	ms_env_sim_restart(w->env);
}

static bool caught_up(void *arg) {
	struct sim_world *w = arg;
	return w->ended || (w->stream && ms_stream_caught_up(w->stream));
}

static void describe(struct sim_world *w, char *text, size_t cap) {
	struct ms_stream_status st;
	if (ms_stream_get_status(w->stream, &st, NULL) != MS_OK)
		return;
	size_t n = (size_t)snprintf(text, cap, "state %s %s txid %llu", ms_stream_state_name(st.state), st.why, (ull)st.db.txid);
	for (uint32_t i = 0; i < st.nworkers && n < cap; i++)
		n += (size_t)snprintf(text + n, cap - n, "; %s %s txid %llu owed %llu pages %llu %s", st.workers[i].name, ms_worker_state_name(st.workers[i].state),
				      (ull)st.workers[i].txid, (ull)st.workers[i].owed_commits, (ull)st.workers[i].owed_pages, st.workers[i].last_error);
	ms_stream_status_release(&st);
}

void sim_world_settle(struct sim_world *w) {
	for (unsigned i = 0; i < w->n; i++)
		ms_mem_clear_faults(w->store[i]);
	ms_env_sim_clear_rules(w->env);
	while (!w->stream || ms_env_sim_is_down(w->env)) {
		if (ms_env_sim_is_down(w->env))
			sim_world_die(w, false);
		if (!w->stream)
			(void)sim_world_up(w);
	}
	enum ms_sim_end end = MS_SIM_DONE;
	for (int i = 0; i < 3; i++) { /* what was visible at a poke, and once more for a barrier's sake */
		ms_stream_poke(w->stream);
		ms_env_sim_run_until(w->env, NULL, NULL, 2000000);
		sim_world_purge(w);
		end = ms_env_sim_run_until(w->env, caught_up, w, 600000000);
	}
	char text[4000] = "";
	describe(w, text, sizeof text);
	must(w, end == MS_SIM_DONE && !w->ended, "not caught up: end %d %s %s", end, w->ended ? w->why.msg : "", text);
}

void sim_world_load(struct sim_world *w, unsigned commits) {
	for (unsigned k = 0; k < commits; k++) {
		sim_db_commit(w->db, 1 + k % 4);
		ms_stream_poke(w->stream);
		ms_env_sim_run_until(w->env, NULL, NULL, 3000);
	}
}

struct ms_stream_status sim_world_status(struct sim_world *w) {
	struct ms_stream_status st;
	struct ms_err err = MS_ERR_INIT;
	must(w, ms_stream_get_status(w->stream, &st, &err) == MS_OK, "%s", err.msg);
	ms_stream_status_release(&st);
	st.workers = NULL;
	return st;
}

struct ms_worker_status sim_world_replica(struct sim_world *w, unsigned i) {
	struct ms_stream_status st;
	struct ms_err err = MS_ERR_INIT;
	must(w, ms_stream_get_status(w->stream, &st, &err) == MS_OK && i < st.nworkers, "%s", err.msg);
	struct ms_worker_status s = st.workers[i];
	ms_stream_status_release(&st);
	return s;
}

/* ---- oracle ---- */

static void replicas_of(struct sim_world *w, unsigned from, unsigned n, struct ms_restore_replica *ret) {
	for (unsigned i = 0; i < n; i++)
		ret[i] = (struct ms_restore_replica){&w->spec[from + i], w->url[from + i]};
}

uint8_t *sim_world_restore(struct sim_world *w, unsigned from, unsigned n, const char *generation, uint64_t txid, size_t *ret_len, uint64_t *ret_txid,
			   struct ms_err *err) {
	struct ms_restore_replica r[SIM_REPLICAS];
	struct ms_restore_options o = {.replicas = r, .nreplicas = n, .path = "/out/x", .verify = MS_VERIFY_CHECKSUM, .force = true,
				       .target = {.kind = txid ? MS_TARGET_TXID : MS_TARGET_NEWEST, .txid = txid, .generation = generation}};
	struct ms_restore_result res;
	struct ms_buf b;
	replicas_of(w, from, n, r);
	*err = MS_ERR_INIT;
	if (ms_fs_mkdir_p(w->env, "/out", 0700, err) != MS_OK || ms_restore_run(w->env, &o, &res, err) != MS_OK)
		return NULL;
	*ret_txid = res.position.txid;
	ms_buf_init(&b, 64 << 20);
	must(w, ms_fs_read_file(w->env, "/out/x", &b, err) == MS_OK, "%s", err->msg);
	*ret_len = b.len;
	return b.data;
}

bool sim_world_equals(struct sim_world *w, uint64_t commit, const uint8_t *data, size_t len) {
	size_t want = (size_t)sim_db_pages(w->db, commit) * sim_db_page_size(w->db);
	if (want != len)
		return false;
	uint8_t *image = malloc(want);
	sim_db_image(w->db, commit, image);
	bool same = memcmp(image, data, len) == 0;
	free(image);
	return same;
}

static bool advertised(const struct ms_list_generation *d, uint64_t txid) {
	for (size_t k = 0; k < d->nranges; k++)
		if (txid >= d->ranges[k].from_txid && txid <= d->ranges[k].to_txid)
			return true;
	return false;
}

static uint64_t fork_out_of(const struct ms_list *l, const struct ms_list_generation *d) {
	uint64_t fork = UINT64_MAX;
	for (size_t g = 0; g < l->n; g++)
		if (strcmp(l->generations[g].parent.s, d->id.s) == 0 && l->generations[g].fork_txid < fork)
			fork = l->generations[g].fork_txid;
	return fork;
}

static unsigned check_generation(struct sim_world *w, unsigned from, unsigned n, const struct ms_list_generation *d, uint64_t upto) {
	uint64_t commit = sim_db_latest(w->db), got;
	struct ms_err err;
	size_t len;
	unsigned checked = 0;
	for (size_t k = d->nranges; k-- > 0;) {
		for (uint64_t txid = d->ranges[k].to_txid; txid >= d->ranges[k].from_txid && txid; txid--) {
			if (txid > upto)
				continue;
			uint8_t *p = sim_world_restore(w, from, n, d->id.s, txid, &len, &got, &err);
			must(w, p, "replica %u+%u: generation %s txid %llu is advertised, but: %s", from, n, d->id.s, (ull)txid, err.msg);
			for (; !sim_world_equals(w, commit, p, len); commit--)
				must(w, commit > 0, "replica %u+%u: generation %s txid %llu restores to a state that the database never had in this order", from, n,
				     d->id.s, (ull)txid);
			free(p);
			checked++;
		}
	}
	for (size_t k = 0; k < d->nfolds; k++) {
		uint64_t txid = d->folds[k].first_txid;
		if (n > 1 || advertised(d, txid))
			continue; /* another replica has it as a commit; a snapshot is there */
		uint8_t *p = sim_world_restore(w, from, n, d->id.s, txid, &len, &got, &err);
		must(w, !p && err.code == MS_ENOTRESTORABLE, "txid %llu is within a catch-up, but restores, or fails with: %s", (ull)txid, err.msg);
	}
	return checked;
}

unsigned sim_world_check(struct sim_world *w, unsigned from, unsigned n) {
	struct ms_restore_replica r[SIM_REPLICAS];
	struct ms_err err = MS_ERR_INIT;
	struct ms_list list = {0};
	size_t len;
	uint64_t got;
	unsigned checked = 0;
	uint8_t *p = sim_world_restore(w, from, n, NULL, 0, &len, &got, &err);
	must(w, p, "replica %u+%u: newest: %s", from, n, err.msg);
	must(w, sim_world_equals(w, sim_db_latest(w->db), p, len), "replica %u+%u: the newest state (txid %llu) is not the database", from, n, (ull)got);
	free(p);
	replicas_of(w, from, n, r);
	struct ms_list_options o = {.replicas = r, .nreplicas = n};
	must(w, ms_list_run(w->env, &o, &list, &err) == MS_OK, "list: %s", err.msg);
	for (size_t g = list.n; g-- > 0;)
		checked += check_generation(w, from, n, &list.generations[g], w->went_back ? fork_out_of(&list, &list.generations[g]) : UINT64_MAX);
	ms_list_release(&list);
	return checked;
}

void sim_world_check_all(struct sim_world *w) {
	for (unsigned i = 0; i < w->n; i++)
		sim_world_check(w, i, 1);
	if (w->n > 1)
		sim_world_check(w, 0, w->n);
}
