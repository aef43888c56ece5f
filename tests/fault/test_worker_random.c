/*
 * Workers under random weather: commits, forks, new roots, power failures, kills, failing, slow and response-losing backends, failing cursor
 * files, purges of the journal, retention. After healing: everything restores that must, nothing was ever overwritten. A failing
 * seed is named: MS_SEED=n runs it alone, MS_SEEDS=n says how many are run.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc.h"
#include "replicas/mem.h"
#include "support/worker_rig.h"

#define SECOND UINT64_C(1000000)
#define STORES 2

/* ---- objects never change ---- */

struct seen {
	char name[160];
	uint64_t crc;
};
struct witness {
	struct seen *v;
	unsigned n, cap;
	char changed[160];
};

static int seen_cmp(const void *a, const void *b) { return strcmp(((const struct seen *)a)->name, ((const struct seen *)b)->name); }

struct looking {
	struct witness *w;
	unsigned known;
};

static void look(void *arg, const char *name, const uint8_t *data, size_t len) {
	struct looking *l = arg;
	struct witness *w = l->w;
	struct seen s = {.crc = ms_crc64(0, data, len)};
	snprintf(s.name, sizeof s.name, "%s", name);
	struct seen *old = l->known ? bsearch(&s, w->v, l->known, sizeof s, seen_cmp) : NULL;
	if (old) {
		if (old->crc != s.crc)
			memcpy(w->changed, s.name, sizeof w->changed);
		return;
	}
	if (w->n == w->cap) {
		w->cap = w->cap ? w->cap * 2 : 256;
		w->v = realloc(w->v, w->cap * sizeof *w->v);
		cr_assert(w->v);
	}
	w->v[w->n++] = s;
}

/* Names are never forgotten: one that was removed must not come back with other bytes either. */
static void witness_look(struct witness *w, const char *store) {
	struct looking l = {w, w->n};
	ms_mem_each(store, look, &l);
	if (w->n)
		qsort(w->v, w->n, sizeof *w->v, seen_cmp);
}

/* ---- one run ---- */

static const char *const stores[STORES] = {"r0", "r1"};

struct run {
	struct ms_env *env;
	struct wrig rig;
	struct witness witness[STORES];
	uint64_t seed;
	bool retention, purge, cursor_loss;
};

static uint64_t pick(struct run *x, uint64_t n) { return ms_env_sim_pick(x->env, n); }

static void weather(struct run *x) {
	static const enum ms_code codes[] = {MS_ERETRY, MS_ETIMEDOUT, MS_ETHROTTLED, MS_EAUTH, MS_EIO, MS_ENOSPC, MS_OK};
	const char *store = stores[pick(x, STORES)];
	struct ms_mem_fault f = {.ops = 1u << pick(x, 4), .times = (int)pick(x, 12) + 1, .code = codes[pick(x, sizeof codes / sizeof codes[0])]};
	if (pick(x, 3) == 0)
		f.ops = MS_MEM_ALL;
	if (pick(x, 2))
		f.permille = 300;
	f.lose_response = f.code && pick(x, 2);
	if (f.code == MS_OK || pick(x, 4) == 0)
		f.delay_us = pick(x, 3 * SECOND);
	if (f.code == MS_ETHROTTLED)
		f.sys = (int)pick(x, 3);
	if (pick(x, 8) == 0)
		ms_mem_clear_faults(store);
	if (pick(x, 4))
		ms_mem_fault(store, &f);
}

static void boot(struct run *x) {
	x->rig.cfg.min_interval_us = pick(x, 2) ? 0 : (int64_t)pick(x, 3 * SECOND);
	x->rig.cfg.segment_bytes = pick(x, 2) ? 0 : 500 + pick(x, 4000);
	x->rig.cfg.object_max = pick(x, 3) ? 0 : 150;
	x->rig.cfg.snapshot_retention_us = x->retention ? (int64_t)(20 * SECOND) : 0;
	x->rig.cfg.check_interval_us = x->retention ? (int64_t)(7 * SECOND) : 0;
	x->rig.cfg.removal_grace_us = x->retention ? (int64_t)(3 * SECOND) : 0;
	wrig_boot(&x->rig, stores, STORES);
}

static void die(struct run *x) {
	if (!ms_env_sim_is_down(x->env)) {
		if (pick(x, 2))
			ms_env_sim_crash(x->env);
		else
			ms_env_sim_kill(x->env);
	}
	ms_env_sim_clear_rules(x->env);
	wrig_bury(&x->rig);
	if (x->cursor_loss && pick(x, 4) == 0)
		(void)x->env->ops->unlink(x->env, pick(x, 2) ? "/h/cursor0" : "/h/cursor1", NULL);
	boot(x);
}

static void purge(struct run *x) {
	uint64_t need = UINT64_MAX, files, bytes;
	struct ms_err err = MS_ERR_INIT;
	for (unsigned i = 0; i < x->rig.nworkers; i++) {
		uint64_t n = ms_worker_needs_seq(x->rig.workers[i].w);
		need = n < need ? n : need;
	}
	if (ms_journal_rotate(x->rig.journal, &err) != MS_OK)
		return;
	x->rig.acked = ms_journal_durable_seq(x->rig.journal); /* a rotation syncs */
	if (need != UINT64_MAX)
		(void)!ms_journal_purge(x->rig.journal, need, &files, &bytes, &err);
}

static void act(struct run *x) {
	struct wrig *r = &x->rig;
	switch (pick(x, 24)) {
	case 0:
	case 1:
		weather(x);
		break;
	case 2:
		die(x);
		break;
	case 3:
		ms_env_sim_clear_rules(x->env);
		if (pick(x, 2))
			ms_env_sim_crash_at(x->env, MS_SIM_ANY, "/h", 1 + pick(x, 60));
		else
			ms_env_sim_fail(x->env, 1 + (enum ms_sim_op)pick(x, MS_SIM_OP_COUNT - 1), "cursor", 1 + pick(x, 5), 1 + pick(x, 4), pick(x, 2) ? EIO : ENOSPC);
		break;
	case 4:
		if (pick(x, 3) == 0)
			wrig_fork(r);
		break;
	case 5:
		if (pick(x, 6) == 0)
			wrig_root(r);
		break;
	case 6:
		if (wrig_now(r)->db.txid > r->lineage[0].fork_txid + 3 && pick(x, 2))
			wrig_fork_at(r, wrig_now(r)->db.txid - 1 - pick(x, 2));
		break;
	case 7: {
		unsigned i = (unsigned)pick(x, STORES);
		struct ms_worker_status st;
		ms_worker_status(r->workers[i].w, &st);
		if (st.state == MS_WORKER_IDLE || st.state == MS_WORKER_UPLOADING || st.state == MS_WORKER_SEEDING) /* as the stream does */
			wrig_snapshot(r, i);
		break;
	}
	case 8:
		if (x->purge)
			purge(x);
		break;
	case 9:
		wrig_run(r, NULL, NULL, pick(x, 20 * SECOND));
		break;
	case 10:
		wrig_commit_in(r, 12, 2 + (unsigned)pick(x, 4), 0, true);
		break;
	case 11:
		wrig_commit_in(r, 2, 1, MS_COMMIT_CATCHUP, true);
		break;
	default:
		wrig_commit(r, 1 + (unsigned)pick(x, 3), pick(x, 3) > 0);
		wrig_run(r, NULL, NULL, pick(x, SECOND / 3));
	}
}

/* Behind the first state of a root's history that restores, every one must. Returns false with a line on stderr. */
static bool all_there(struct run *x, const char *store) {
	const struct wrig *r = &x->rig;
	bool *found = calloc(r->nstates + 1, sizeof *found), ok = true;
	wrig_found(r, store, found);
	bool begun = false;
	for (unsigned i = 0; i < r->nstates && ok; i++) {
		/* A root begins with a state of txid 1. */
		if (r->states[i].db.txid == 1)
			begun = false;
		/* A fork from an older state, which may lie before the first snapshot, or before what retention had kept. */
		if (i && r->states[i].db.txid > 1 && r->states[i].db.txid < r->states[i - 1].db.txid)
			for (unsigned k = i; k-- > 0;)
				if (r->states[k].db.txid == r->states[i].db.txid && strcmp(r->states[k].generation.s, r->states[i - 1].generation.s) == 0) {
					begun = found[k];
					break;
				}
		begun |= found[i];
		ok = !begun || found[i];
		if (!ok)
			fprintf(stderr, "seed %llu: %s: state %u (%s/%llu) does not restore\n", (unsigned long long)x->seed, store, i, r->states[i].generation.s,
				(unsigned long long)r->states[i].db.txid);
	}
	ok = ok && found[r->nstates - 1];
	if (!ok && getenv("MS_VERBOSE"))
		for (unsigned i = 0; i < r->nstates; i++)
			fprintf(stderr, "  %u: %s/%llu seq %llu %s\n", i, r->states[i].generation.s, (unsigned long long)r->states[i].db.txid,
				(unsigned long long)r->states[i].seq, found[i] ? "restores" : "-");
	if (!found[r->nstates - 1])
		fprintf(stderr, "seed %llu: %s: the newest state does not restore\n", (unsigned long long)x->seed, store);
	free(found);
	return ok;
}

static bool check(struct run *x) {
	char why[512];
	const struct wrig *hosts[1] = {&x->rig};
	for (unsigned s = 0; s < STORES; s++) {
		witness_look(&x->witness[s], stores[s]);
		if (x->witness[s].changed[0]) {
			fprintf(stderr, "seed %llu: %s: %s has changed\n", (unsigned long long)x->seed, stores[s], x->witness[s].changed);
			return false;
		}
		if (!wrig_check(hosts, 1, stores[s], why, sizeof why)) {
			fprintf(stderr, "seed %llu: %s: %s\n", (unsigned long long)x->seed, stores[s], why[0] ? why : "nothing restores");
			return false;
		}
		if (!all_there(x, stores[s]))
			return false;
	}
	return true;
}

static bool heal(struct run *x) {
	struct wrig *r = &x->rig;
	for (unsigned s = 0; s < STORES; s++)
		ms_mem_clear_faults(stores[s]);
	ms_env_sim_clear_rules(x->env);
	if (ms_env_sim_is_down(x->env))
		die(x);
	if (!wrig_now(r))
		wrig_root(r);
	wrig_commit(r, 1, true);
	if (!wrig_settle(r, 300 * SECOND)) {
		for (unsigned i = 0; i < r->nworkers; i++) {
			struct ms_worker_status st;
			ms_worker_status(r->workers[i].w, &st);
			fprintf(stderr, "seed %llu: worker %u does not come to rest: %s, %s\n", (unsigned long long)x->seed, i, ms_worker_state_name(st.state), st.last_error);
		}
		return false;
	}
	for (unsigned i = 0; i < r->nworkers; i++)
		if (r->workers[i].fenced) {
			fprintf(stderr, "seed %llu: worker %u is fenced: %s\n", (unsigned long long)x->seed, i, r->workers[i].fenced_err.msg);
			return false;
		}
	return true;
}

static bool run_seed(uint64_t seed) {
	struct run x = {.seed = seed, .retention = seed % 3 == 1, .purge = seed % 3 != 2, .cursor_loss = seed % 3 == 2};
	bool ok = true;
	x.env = ms_env_sim_new(seed);
	for (unsigned s = 0; s < STORES; s++) {
		ms_mem_wipe(stores[s]);
		ms_mem_clear_faults(stores[s]);
	}
	ms_env_sim_jobs_sleep_apart(x.env, seed % 2); /* a slow backend holds up its own job only, or all */
	wrig_init(&x.rig, x.env, "/h", "owner", seed);
	boot(&x);
	wrig_root(&x.rig);
	for (int phase = 0; phase < 4 && ok; phase++) {
		unsigned n = 20 + (unsigned)pick(&x, 60);
		for (unsigned i = 0; i < n; i++) {
			if (ms_env_sim_is_down(x.env))
				die(&x);
			if (!wrig_now(&x.rig))
				wrig_root(&x.rig);
			if (i % 16 == 15)
				ms_mem_clear_faults(stores[pick(&x, STORES)]);
			act(&x);
		}
		ok = heal(&x) && check(&x);
	}
	for (unsigned s = 0; s < STORES; s++)
		free(x.witness[s].v);
	ms_env_sim_crash(x.env);
	wrig_free(&x.rig);
	ms_env_sim_free(x.env);
	return ok;
}

Test(worker_random, weather, .timeout = 600) {
	const char *one = getenv("MS_SEED"), *many = getenv("MS_SEEDS");
	uint64_t n = many ? strtoull(many, NULL, 10) : getenv("MS_QUICK") ? 80 : 300;
	if (one) {
		cr_assert(run_seed(strtoull(one, NULL, 10)));
		return;
	}
	for (uint64_t seed = 1; seed <= n; seed++)
		cr_assert(run_seed(seed), "seed %llu (MS_SEED=%llu runs it alone)", (unsigned long long)seed, (unsigned long long)seed);
}
