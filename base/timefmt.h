/*
 * RFC 3339 timestamps, durations ("1h30m", "500ms", "7d") and byte sizes ("64MiB"), both ways. Pure.
 */
#ifndef MS_BASE_TIMEFMT_H
#define MS_BASE_TIMEFMT_H

#include <stdint.h>
#include "base/err.h"

/* RFC 3339 with any zone and 0-9 fraction digits (truncated to microseconds); "T", "t" or a space between date and time. */
enum ms_code ms_time_parse(const char *s, int64_t *ret_us, struct ms_err *err) MS_WARN_UNUSED;
/* "2026-11-21T10:00:00.123456Z" (27 characters; up to 30 outside of the years 0000 to 9999) into ret[32]; returns ret. */
char *ms_time_format(char ret[32], int64_t us);
/* Sum of number+unit, units ns us ms s m h d w, fractions allowed; a bare "0" is 0. Negative and overflow are errors.
 * What is finer than a microsecond is rounded up, so that only zero becomes 0. */
enum ms_code ms_duration_parse(const char *s, int64_t *ret_us, struct ms_err *err) MS_WARN_UNUSED;
char *ms_duration_format(char ret[32], int64_t us); /* exact and short, e.g. "1h30m", "1.5s"; days are the largest unit */
/* Integer with optional B, K, KB, KiB, M, MB, MiB, G, GB, GiB, T, TB, TiB (K..T and KiB..TiB are powers of 1024, KB.. of 1000). */
enum ms_code ms_size_parse(const char *s, uint64_t *ret, struct ms_err *err) MS_WARN_UNUSED;
char *ms_size_format(char ret[32], uint64_t bytes); /* "1.5 GiB" */

#endif
