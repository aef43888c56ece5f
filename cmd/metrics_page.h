/* /metrics in Prometheus' text format: names begin with migstream_, base units, one HELP and TYPE for each family. Pure but for /proc/self. */
#ifndef MS_CMD_METRICS_PAGE_H
#define MS_CMD_METRICS_PAGE_H

#include "base/buf.h"
#include "cmd/status_view.h"

enum ms_code ms_metrics_page(const struct ms_status_view *v, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;

#endif
