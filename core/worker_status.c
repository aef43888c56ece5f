/* What a worker tells of itself. */
#include <stdio.h>

#include "base/log.h"
#include "core/worker_internal.h"

static enum ms_worker_state state_of(const struct ms_worker *w) {
	switch (w->phase) {
	case MS_PHASE_STOPPED:
		return MS_WORKER_STOPPED;
	case MS_PHASE_FENCED:
		return MS_WORKER_FENCED;
	case MS_PHASE_SHIPPING:
		break;
	default:
		return w->failed ? MS_WORKER_FAILED : w->retry.failures ? MS_WORKER_RETRYING : MS_WORKER_CLAIMING;
	}
	if (w->failed)
		return MS_WORKER_FAILED;
	if (w->retry.failures)
		return MS_WORKER_RETRYING;
	if (w->cur.base != MS_BASE_THERE)
		return MS_WORKER_SEEDING;
	if (ms_worker_owes(w))
		return MS_WORKER_CATCHUP;
	return w->nwaiting || w->part.part ? MS_WORKER_UPLOADING : MS_WORKER_IDLE;
}

void ms_worker_status(const struct ms_worker *w, struct ms_worker_status *ret) {
	*ret = w->st;
	snprintf(ret->name, sizeof ret->name, "%s", w->cfg.name);
	snprintf(ret->type, sizeof ret->type, "%s", w->spec.scheme);
	snprintf(ret->url, sizeof ret->url, "%s", w->cfg.url);
	ret->state = state_of(w);
	ret->required = w->cfg.required;
	ret->authority = w->cfg.authority;
	ret->txid = w->cur.state.txid;
	ret->settled_txid = w->cur.settled_txid;
	ret->cursor_time_us = w->cur.state.time_us;
	ret->pending_bytes = ms_worker_waiting_bytes(w);
	ret->last_snapshot_us = w->cur.snapshot_us;
	ret->last_snapshot_txid = w->cur.snapshot_txid;
	uint64_t since = w->failing_at_us, snap = w->snap_failing_at_us, now = ms_worker_mono_us(w);
	if (snap && (!since || snap < since))
		since = snap;
	ret->failing_us = since ? (int64_t)(now - since) + 1 : 0;
	ret->holds_snapshot = snap && ms_worker_snap_wanted(w);
	ret->bandwidth = ms_throttle_rate(&((struct ms_worker *)(uintptr_t)w)->throttle);
	ret->limited = ms_throttle_holds(&((struct ms_worker *)(uintptr_t)w)->throttle, &ret->limited_us_total) && (w->main_busy || ms_worker_snap_busy(w));
	ret->oldest_unshipped_us = w->waits_since_us;
	const struct ms_owed_info *o = &w->owed_info;
	if (ms_worker_owes(w) && o->end.txid > w->cur.state.txid) {
		ret->owed_first = w->cur.state.txid + 1;
		ret->owed_last = o->end.txid;
		ret->owed_commits = o->end.txid - w->cur.state.txid;
		ret->owed_pages = w->fold_busy ? 0 : w->owed.npages;
		ret->pending_bytes += ret->owed_pages * w->cur.state.page_size;
		if (o->since_us > 0 && (!ret->oldest_unshipped_us || o->since_us < ret->oldest_unshipped_us))
			ret->oldest_unshipped_us = o->since_us;
	}
	for (uint32_t i = 0; i < w->nwaiting; i++) {
		if (!w->waiting[i].bytes)
			continue;
		if (!ret->oldest_unshipped_us || w->waiting[i].time_us < ret->oldest_unshipped_us)
			ret->oldest_unshipped_us = w->waiting[i].time_us;
		break;
	}
}

void ms_worker_note_error(struct ms_worker *w, const struct ms_err *err) {
	snprintf(w->st.last_error, sizeof w->st.last_error, "%s", err->msg);
	w->st.last_error_us = ms_env_now_us(w->env);
}

void ms_worker_note_failure(struct ms_worker *w, uint64_t *since_us, const struct ms_err *err) {
	ms_worker_note_error(w, err);
	w->troubles++;
	w->st.failing_code = err->code;
	if (!*since_us)
		*since_us = ms_worker_mono_us(w);
}

void ms_worker_note_caps(struct ms_worker *w) {
	char q[600];
	if (w->caps.warning && !w->warned)
		ms_log(MS_LOG_WARN, "replica is less safe than it may seem", "db=%s replica=%s why=%s", w->cfg.db, w->cfg.name, ms_log_q(q, sizeof q, w->caps.warning));
	w->warned |= w->caps.warning != NULL;
	w->caps.warning = NULL; /* the handle's, which its calls change */
}
