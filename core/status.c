#include "core/status.h"

#include <stdlib.h>

const char *ms_stream_state_name(enum ms_stream_state s) {
	static const char *const names[MS_STREAM_STATES] = {
		[MS_STREAM_STARTING] = "starting",   [MS_STREAM_WAITING] = "waiting", [MS_STREAM_SEEDING] = "seeding",
		[MS_STREAM_CATCHUP] = "catching-up", [MS_STREAM_PAUSED] = "paused",   [MS_STREAM_FOLLOWING] = "following",
		[MS_STREAM_BLOCKED] = "blocked",     [MS_STREAM_FENCED] = "fenced",   [MS_STREAM_FAILED] = "failed",
		[MS_STREAM_STOPPED] = "stopped",
	};
	return (unsigned)s < MS_STREAM_STATES ? names[s] : "unknown";
}

const char *ms_worker_state_name(enum ms_worker_state s) {
	static const char *const names[MS_WORKER_STATES] = {
		[MS_WORKER_CLAIMING] = "claiming",   [MS_WORKER_SEEDING] = "seeding",	[MS_WORKER_IDLE] = "idle",
		[MS_WORKER_UPLOADING] = "uploading", [MS_WORKER_CATCHUP] = "catching-up", [MS_WORKER_RETRYING] = "retrying", [MS_WORKER_FENCED] = "fenced",
		[MS_WORKER_FAILED] = "failed",	     [MS_WORKER_STOPPED] = "stopped",
	};
	return (unsigned)s < MS_WORKER_STATES ? names[s] : "unknown";
}

bool ms_worker_hopeless(const struct ms_worker_status *w, int64_t patience_us) {
	if (w->state == MS_WORKER_FENCED || w->state == MS_WORKER_FAILED)
		return true;
	if (!w->failing_us)
		return false;
	return w->failing_code == MS_EAUTH || w->failing_code == MS_EPERM || w->failing_code == MS_ENOTFOUND || w->failing_us >= patience_us;
}

void ms_stream_status_release(struct ms_stream_status *s) {
	free(s->workers);
	s->workers = NULL;
	s->nworkers = 0;
}

double ms_stream_data_loss_window(const struct ms_stream_status *s, int64_t now_us) {
	int64_t worst = 0;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		const struct ms_worker_status *w = &s->workers[i];
		if (w->required && w->oldest_unshipped_us > 0 && now_us - w->oldest_unshipped_us > worst)
			worst = now_us - w->oldest_unshipped_us;
	}
	return (double)worst / 1e6;
}
