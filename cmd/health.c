#include <stdio.h>

#include "base/buf.h"
#include "base/timefmt.h"
#include "cmd/control_server.h"

static bool stuck(enum ms_stream_state s) {
	return s == MS_STREAM_WAITING || s == MS_STREAM_BLOCKED || s == MS_STREAM_FENCED || s == MS_STREAM_FAILED || s == MS_STREAM_STOPPED;
}

static enum ms_code one(const struct ms_stream_status *s, int64_t threshold_us, int64_t now_us, struct ms_buf *out, struct ms_err *err) {
	char have[32], allowed[32];
	enum ms_code code = MS_OK;
	if (stuck(s->state))
		code = ms_buf_printf(out, err, "%s: %s%s%s\n", s->name, ms_stream_state_name(s->state), s->why[0] ? ": " : "", s->why);
	for (uint32_t i = 0; i < s->nworkers && !code; i++) {
		const struct ms_worker_status *w = &s->workers[i];
		if (!w->required)
			continue;
		const char *colon = w->last_error[0] ? ": " : "";
		if (w->state == MS_WORKER_FENCED || w->state == MS_WORKER_FAILED)
			code = ms_buf_printf(out, err, "%s: replica %s: %s%s%s\n", s->name, w->name, ms_worker_state_name(w->state), colon, w->last_error);
		else if (w->failing_us >= MS_HEALTH_FAILING_US)
			code = ms_buf_printf(out, err, "%s: replica %s: failing for %s%s%s\n", s->name, w->name,
					     ms_duration_format(have, w->failing_us / 1000000 * 1000000), colon, w->last_error);
	}
	double window = ms_stream_data_loss_window(s, now_us);
	if (!code && threshold_us > 0 && window * 1e6 > (double)threshold_us)
		code = ms_buf_printf(out, err, "%s: data-loss window %s is past its threshold %s\n", s->name,
				     ms_duration_format(have, (int64_t)(window * 1e3) * 1000), ms_duration_format(allowed, threshold_us));
	return code;
}

enum ms_code ms_health(const struct ms_stream_status *s, unsigned n, const int64_t *thresholds, int64_t now_us, struct ms_buf *out, bool *ret_ok,
		       struct ms_err *err) {
	size_t before = out->len;
	for (unsigned i = 0; i < n; i++) {
		enum ms_code code = one(&s[i], thresholds ? thresholds[i] : 0, now_us, out, err);
		if (code)
			return code;
	}
	*ret_ok = out->len == before;
	return MS_OK;
}
