/* A worker's settings: its own copy of them, and what may change while it works. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "core/worker_internal.h"

#define DEFAULT_SEGMENT_BYTES (16u << 20)
#define DEFAULT_OBJECT_MAX (UINT64_C(1) << 30)
#define SLOW_SEGMENT_S 8u
#define SLOW_SEGMENT_LEAST (64u << 10)

enum ms_code ms_worker_config_copy(struct ms_worker *w, const struct ms_worker_config *cfg, struct ms_err *err) {
	w->cfg = *cfg;
	w->cfg.spec = &w->spec;
	w->cfg.db = strdup(cfg->db);
	w->cfg.name = strdup(cfg->name ? cfg->name : cfg->spec->scheme);
	w->cfg.url = strdup(cfg->url ? cfg->url : "");
	w->cfg.state_path = strdup(cfg->state_path);
	w->cfg.owner = strdup(cfg->owner ? cfg->owner : "");
	w->cfg.host = strdup(cfg->host ? cfg->host : "");
	if (!w->cfg.db || !w->cfg.name || !w->cfg.url || !w->cfg.state_path || !w->cfg.owner || !w->cfg.host)
		return ms_err_set(err, MS_ENOMEM, "replica worker");
	if (!w->cfg.segment_bytes)
		w->cfg.segment_bytes = DEFAULT_SEGMENT_BYTES;
	if (!w->cfg.object_max)
		w->cfg.object_max = DEFAULT_OBJECT_MAX;
	if (strlen(w->cfg.owner) >= MS_OWNER_MAX || strlen(w->cfg.host) >= MS_OWNER_MAX)
		return ms_err_set(err, MS_EINVAL, "owner '%s' or host '%s' is longer than %d bytes", w->cfg.owner, w->cfg.host, MS_OWNER_MAX - 1);
	return ms_replica_spec_copy(&w->spec, cfg->spec, err);
}

void ms_worker_config_release(struct ms_worker *w) {
	ms_replica_spec_release(&w->spec);
	free((char *)w->cfg.db);
	free((char *)w->cfg.name);
	free((char *)w->cfg.url);
	free((char *)w->cfg.state_path);
	free((char *)w->cfg.owner);
	free((char *)w->cfg.host);
}

uint64_t ms_worker_segment_bytes(struct ms_worker *w) {
	uint64_t some = SLOW_SEGMENT_S * ms_throttle_rate(&w->throttle), least = SLOW_SEGMENT_LEAST;
	some = some && some < least ? least : some;
	return some && some < w->cfg.segment_bytes ? some : w->cfg.segment_bytes;
}

void ms_worker_plan_prune(struct ms_worker *w) {
	bool on = w->cfg.check_interval_us > 0 && w->cfg.snapshot_retention_us > 0;
	w->prune_at_us = on ? ms_worker_mono_us(w) + (uint64_t)w->cfg.check_interval_us : 0;
}

void ms_worker_tune(struct ms_worker *w, const struct ms_worker_config *cfg) {
	bool other = w->cfg.check_interval_us != cfg->check_interval_us || w->cfg.snapshot_retention_us != cfg->snapshot_retention_us;
	w->cfg.required = cfg->required;
	w->cfg.min_interval_us = cfg->min_interval_us;
	w->cfg.bandwidth = cfg->bandwidth;
	w->cfg.concurrency = cfg->concurrency;
	w->cfg.snapshot_retention_us = cfg->snapshot_retention_us;
	w->cfg.snapshot_spacing_us = cfg->snapshot_spacing_us;
	w->cfg.check_interval_us = cfg->check_interval_us;
	w->cfg.removal_grace_us = cfg->removal_grace_us;
	ms_throttle_set(&w->throttle, cfg->bandwidth);
	if (other && w->claimed)
		ms_worker_plan_prune(w);
	ms_worker_pump(w);
}
