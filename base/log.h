/*
 * Structured log, logfmt or JSON, one line per event, to one descriptor (stderr by default). Thread-safe: a line is
 * written by one write(2). Values are quoted where needed; control characters are escaped. Never pass a secret.
 * In JSON an unquoted number, true, false or null keeps its type and every other value is a string; a key alone is true.
 * Text beyond 512 bytes of message and 3 KiB of pairs is cut.
 * Libraries log at debug only; cmd and the stream controller log at info and above.
 */
#ifndef MS_BASE_LOG_H
#define MS_BASE_LOG_H

#include <stdint.h>
#include "base/err.h"

enum ms_log_level { MS_LOG_DEBUG, MS_LOG_INFO, MS_LOG_WARN, MS_LOG_ERROR, MS_LOG_OFF };

void ms_log_configure(int fd, enum ms_log_level level, bool json);
bool ms_log_enabled(enum ms_log_level level);
/* Pairs: key, printf-style value format... is clumsy, so: `kv` is a printf format producing logfmt pairs, e.g.
 *   ms_log(MS_LOG_INFO, "snapshot done", "db=%s txid=%llu", name, txid)
 * String values that may hold spaces or quotes go through ms_log_q() first: "error=%s", ms_log_q(buf, sizeof buf, text). */
void ms_log(enum ms_log_level level, const char *msg, const char *kv, ...) MS_PRINTF(3, 4);
/* Quotes text for logfmt into buf if it needs it or looks like a number (always terminated, truncated with an ellipsis if
 * needed; cap at least 6); returns buf. */
const char *ms_log_q(char *buf, size_t cap, const char *text);

#endif
