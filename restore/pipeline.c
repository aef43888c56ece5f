#include "restore/pipeline.h"

#include <stdio.h>
#include <stdlib.h>

#define PIECES_MAX 16u /* of a slot: small objects travel together */
#define SLOTS_MIN 8u
#define SLOTS_MAX 64u
#define WINDOW_BYTES (16u << 20)

enum slot_state { SLOT_FREE, SLOT_FETCHING, SLOT_READY, SLOT_APPLYING };

struct piece {
	uint32_t step, part;
	uint64_t off;
	size_t at, len; /* in the slot's buffer */
	bool last;	/* of its object */
};
struct slot {
	struct ms_job job;
	struct ms_pipeline *p;
	enum slot_state state;
	unsigned worker;
	struct piece pieces[PIECES_MAX];
	unsigned n;
	uint8_t *buf;
	struct ms_err err;
	unsigned bad_piece; /* with err */
};
struct ms_pipeline {
	struct ms_env *env;
	struct ms_fetch *fetch;
	const struct ms_plan *plan;
	struct ms_apply *apply;
	void (*done)(void *arg, const struct ms_err *err);
	void *arg;
	struct slot *slots; /* ring: [head, head + used) in order */
	unsigned nslots, head, used;
	size_t slot_bytes;
	unsigned *idle; /* worker numbers */
	unsigned nidle;
	/* next piece to be fetched */
	size_t step, end;
	uint32_t part;
	uint64_t off;
	/* apply job */
	struct ms_job apply_job;
	unsigned applying; /* slots given to the job under way */
	struct ms_err apply_err;
	const struct piece *apply_bad;
	struct ms_segment_reader *reader; /* of the object at hand */
	const struct piece *current;
	bool skip_object;
	bool satisfied; /* the apply's target is reached, and what led there has been read to its end */
	/* outcome */
	struct ms_err err;
	bool failed, finished, has_culprit;
	unsigned culprit_replica;
	char culprit[MS_NAME_MAX];
};

static const struct ms_plan_step *step_of(const struct ms_pipeline *p, const struct piece *pc) { return &p->plan->steps[pc->step]; }

static void piece_name(const struct ms_pipeline *p, const struct piece *pc, char ret[MS_NAME_MAX]) {
	ms_inv_segment_name(&step_of(p, pc)->gen->id, step_of(p, pc)->seg, pc->part, ret);
}

/* ---- fetching ---- */

static bool next_piece(struct ms_pipeline *p, size_t room, struct piece *ret) {
	if (p->step >= p->end)
		return false;
	const struct ms_plan_step *s = &p->plan->steps[p->step];
	uint64_t size = ms_inv_part_bytes(&s->gen->shelf[s->replica], s->seg, p->part);
	uint64_t left = size - p->off;
	/* A slot is filled with whole small objects, or with one stretch of a large one. */
	if (left > room && room < p->slot_bytes)
		return false;
	size_t len = left < room ? (size_t)left : room;
	*ret = (struct piece){.step = (uint32_t)p->step, .part = p->part, .off = p->off, .len = len, .last = len == left};
	p->off += len;
	if (ret->last) {
		p->off = 0;
		if (++p->part >= s->seg->nparts) {
			p->part = 0;
			p->step++;
		}
	}
	return true;
}

static void fetch_run(void *arg) {
	struct slot *s = arg;
	struct ms_pipeline *p = s->p;
	for (unsigned i = 0; i < s->n; i++) {
		struct piece *pc = &s->pieces[i];
		char name[MS_NAME_MAX];
		size_t got = 0;
		piece_name(p, pc, name);
		s->bad_piece = i;
		if (ms_fetch_mem(p->fetch, s->worker, step_of(p, pc)->replica, name, (int64_t)pc->off, pc->len, s->buf + pc->at, &got, &s->err))
			return;
		if (got != pc->len) {
			ms_err_set(&s->err, MS_ECORRUPT, "%s of %s ends at byte %llu, before the size its listing states", name,
				   ms_fetch_url(p->fetch, step_of(p, pc)->replica), (unsigned long long)(pc->off + got));
			return;
		}
	}
}

static void pump(struct ms_pipeline *p);

static void fail(struct ms_pipeline *p, const struct ms_err *err, const struct piece *pc) {
	if (p->failed)
		return;
	p->failed = true;
	p->err = *err;
	if (pc && err->code != MS_ECANCELED) {
		p->has_culprit = true;
		p->culprit_replica = step_of(p, pc)->replica;
		piece_name(p, pc, p->culprit);
	}
}

static void fetch_done(void *arg) {
	struct slot *s = arg;
	struct ms_pipeline *p = s->p;
	p->idle[p->nidle++] = s->worker;
	s->state = SLOT_READY; /* an error is met in order, when its turn to be applied comes */
	pump(p);
}

/* ---- applying ---- */

static enum ms_code on_info(void *arg, const struct ms_segment_info *info, struct ms_err *err) {
	struct ms_pipeline *p = arg;
	const struct ms_plan_step *s = step_of(p, p->current);
	if (strcmp(info->generation.s, s->gen->id.s) != 0 || info->part != p->current->part ||
	    (info->part == 0 && info->first_txid != s->seg->first))
		return ms_err_set(err, MS_ECORRUPT, "its header belongs to txid %llu of %s", (unsigned long long)info->first_txid, info->generation.s);
	return ms_apply_object(p->apply, info, s->upto, err);
}

static enum ms_code on_record(void *arg, const struct ms_record *rec, struct ms_err *err) {
	struct ms_pipeline *p = arg;
	return ms_apply_record(p->apply, rec, err);
}

static enum ms_code apply_piece(struct ms_pipeline *p, const struct piece *pc, const uint8_t *data, struct ms_err *err) {
	static const struct ms_segment_callbacks cb = {on_info, on_record};
	enum ms_code rc = MS_OK;
	p->current = pc;
	if (pc->off == 0) {
		ms_segment_reader_free(p->reader);
		p->skip_object = false;
		if (!(p->reader = ms_segment_reader_new(&cb, p)))
			return ms_err_set(err, MS_ENOMEM, "out of memory for reading a segment");
	}
	if (p->skip_object)
		return MS_OK;
	struct ms_err e = MS_ERR_INIT;
	rc = ms_segment_push(p->reader, data, pc->len, &e);
	if (!rc && pc->last)
		rc = ms_segment_finish(p->reader, &e);
	if (!rc && pc->last)
		rc = ms_apply_object_end(p->apply, &e);
	/* An object that is wanted whole is read and proven to its last byte. Where only a part of its transactions is wanted, damage
	 * in the rest does not matter. */
	if (ms_apply_object_done(p->apply) && step_of(p, pc)->upto < step_of(p, pc)->seg->last) {
		rc = MS_OK;
		p->skip_object = true;
	}
	p->satisfied = ms_apply_done(p->apply) && (p->skip_object || (!rc && pc->last && pc->part + 1 == step_of(p, pc)->seg->nparts));
	if (rc) {
		char name[MS_NAME_MAX];
		piece_name(p, pc, name);
		ms_err_wrap(&e, "%s of %s", name, ms_fetch_url(p->fetch, step_of(p, pc)->replica));
		if (err)
			*err = e;
	}
	return rc;
}

static void apply_run(void *arg) {
	struct ms_pipeline *p = arg;
	for (unsigned k = 0; k < p->applying; k++) {
		struct slot *s = &p->slots[(p->head + k) % p->nslots];
		for (unsigned i = 0; i < s->n; i++) {
			if (p->satisfied)
				return;
			p->apply_bad = &s->pieces[i];
			if (s->err.code && i == s->bad_piece) {
				p->apply_err = s->err;
				return;
			}
			if (ms_fetch_canceled(p->fetch)) {
				ms_err_set(&p->apply_err, MS_ECANCELED, "interrupted");
				return;
			}
			if (apply_piece(p, &s->pieces[i], s->buf + s->pieces[i].at, &p->apply_err))
				return;
		}
	}
}

static void apply_done(void *arg) {
	struct ms_pipeline *p = arg;
	if (p->apply_err.code)
		fail(p, &p->apply_err, p->apply_bad);
	for (unsigned k = 0; k < p->applying; k++)
		p->slots[(p->head + k) % p->nslots].state = SLOT_FREE;
	p->head = (p->head + p->applying) % p->nslots;
	p->used -= p->applying;
	p->applying = 0;
	pump(p);
}

/* ---- stepping ---- */

static void pump(struct ms_pipeline *p) {
	bool stop = p->failed || (!p->applying && p->satisfied);
	while (!stop && p->nidle > 0 && p->used < p->nslots && p->step < p->end) {
		struct slot *s = &p->slots[(p->head + p->used) % p->nslots];
		size_t at = 0;
		s->n = 0;
		s->err = MS_ERR_INIT;
		while (s->n < PIECES_MAX && at < p->slot_bytes && next_piece(p, p->slot_bytes - at, &s->pieces[s->n])) {
			s->pieces[s->n].at = at;
			at += s->pieces[s->n++].len;
		}
		if (!s->buf && !(s->buf = malloc(p->slot_bytes))) {
			struct ms_err e;
			ms_err_set(&e, MS_ENOMEM, "out of memory for prefetching");
			fail(p, &e, NULL);
			break;
		}
		s->state = SLOT_FETCHING;
		s->worker = p->idle[--p->nidle];
		s->p = p;
		s->job = (struct ms_job){.run = fetch_run, .done = fetch_done, .arg = s};
		p->used++;
		p->env->ops->submit(p->env, MS_LANE_UPLOAD, &s->job);
	}
	if (!stop && !p->failed && !p->applying) {
		while (p->applying < p->used && p->slots[(p->head + p->applying) % p->nslots].state == SLOT_READY)
			p->slots[(p->head + p->applying++) % p->nslots].state = SLOT_APPLYING;
		if (p->applying) {
			p->apply_job = (struct ms_job){.run = apply_run, .done = apply_done, .arg = p};
			p->env->ops->submit(p->env, MS_LANE_CPU, &p->apply_job);
		}
	}
	if (p->applying || p->nidle < ms_fetch_workers(p->fetch) || p->finished)
		return;
	if (p->failed || p->satisfied || (p->used == 0 && p->step >= p->end)) {
		p->finished = true;
		p->done(p->arg, p->failed ? &p->err : NULL);
	}
}

static void kick(void *arg) { pump(arg); }

enum ms_code ms_pipeline_start(struct ms_env *env, struct ms_fetch *fetch, const struct ms_plan *plan, size_t first, size_t end,
			       struct ms_apply *apply, void (*done)(void *arg, const struct ms_err *err), void *arg, struct ms_pipeline **ret, struct ms_err *err) {
	struct ms_pipeline *p = calloc(1, sizeof *p);
	unsigned workers = ms_fetch_workers(fetch), n = workers * 4;
	n = n < SLOTS_MIN ? SLOTS_MIN : n > SLOTS_MAX ? SLOTS_MAX : n;
	if (p) {
		p->slots = calloc(n, sizeof *p->slots);
		p->idle = calloc(workers, sizeof *p->idle);
	}
	if (!p || !p->slots || !p->idle || plan->nsteps > UINT32_MAX) {
		ms_pipeline_free(p);
		return ms_err_set(err, MS_ENOMEM, "out of memory for applying %zu segments", plan->nsteps);
	}
	p->env = env;
	p->fetch = fetch;
	p->plan = plan;
	p->step = first;
	p->end = end;
	p->apply = apply;
	p->done = done;
	p->arg = arg;
	p->nslots = n;
	p->slot_bytes = WINDOW_BYTES / n;
	if (p->slot_bytes > (1u << 20))
		p->slot_bytes = 1u << 20;
	for (unsigned w = workers; w-- > 0;)
		p->idle[p->nidle++] = w;
	*ret = p;
	env->ops->post(env, kick, p); /* done() never comes before start has returned */
	return MS_OK;
}

void ms_pipeline_free(struct ms_pipeline *p) {
	if (!p)
		return;
	for (unsigned i = 0; p->slots && i < p->nslots; i++)
		free(p->slots[i].buf);
	ms_segment_reader_free(p->reader);
	free(p->slots);
	free(p->idle);
	free(p);
}

bool ms_pipeline_culprit(const struct ms_pipeline *p, unsigned *ret_replica, char ret_name[MS_NAME_MAX]) {
	if (!p->has_culprit)
		return false;
	*ret_replica = p->culprit_replica;
	snprintf(ret_name, MS_NAME_MAX, "%s", p->culprit);
	return true;
}
