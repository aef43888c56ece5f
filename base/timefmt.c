/*
 * Calendar arithmetic is proleptic Gregorian without leap seconds, over years 0000 to 9999 when parsing (RFC 3339 §5.6).
 * A second of 60 is taken as the first of the next minute.
 */
#include "base/timefmt.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define US_PER_S INT64_C(1000000)
#define US_PER_DAY (86400 * US_PER_S)
#define FRAC_DIGITS_MAX 15

__extension__ typedef unsigned __int128 u128;

static bool leap(int64_t y) {
	return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
}

static int month_days(int64_t y, int m) {
	static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

	return m == 2 && leap(y) ? 29 : days[m - 1];
}

static int64_t floor_div(int64_t a, int64_t b) {
	return a / b - (a % b < 0);
}

/* Days from 1970-01-01 to the first of January of year y. */
static int64_t days_to_year(int64_t y) {
	int64_t p = y - 1;

	/* 719162 days lie between 0001-01-01 and 1970-01-01. */
	return 365 * p + floor_div(p, 4) - floor_div(p, 100) + floor_div(p, 400) - 719162;
}

/* Exactly `digits` decimal digits at *s; moves *s behind them. -1 when they are not there. */
static int take(const char **s, int digits) {
	int v = 0;

	for (int i = 0; i < digits; i++, (*s)++) {
		if (**s < '0' || **s > '9')
			return -1;
		v = v * 10 + (**s - '0');
	}
	return v;
}

static bool skip(const char **s, char c) {
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

static bool take_fraction(const char **s, int *ret_us) {
	int us = 0, scale = 100000, n = 0;

	if (!skip(s, '.')) {
		*ret_us = 0;
		return true;
	}
	for (; **s >= '0' && **s <= '9'; (*s)++, n++) {
		us += (**s - '0') * scale;
		scale /= 10;
	}
	*ret_us = us;
	return n >= 1 && n <= 9;
}

/* Offset from UTC in minutes. */
static bool take_zone(const char **s, int *ret_min) {
	if (skip(s, 'Z') || skip(s, 'z')) {
		*ret_min = 0;
		return true;
	}
	int sign = **s == '+' ? 1 : **s == '-' ? -1 : 0;
	if (sign == 0)
		return false;
	(*s)++;
	int h = take(s, 2);
	if (h < 0 || h > 23 || !skip(s, ':'))
		return false;
	int m = take(s, 2);
	if (m < 0 || m > 59)
		return false;
	*ret_min = sign * (h * 60 + m);
	return true;
}

static enum ms_code bad_time(struct ms_err *err, const char *s, const char *why) {
	return ms_err_set(err, MS_EINVAL, "time \"%.80s\": %s", s, why);
}

enum ms_code ms_time_parse(const char *s, int64_t *ret_us, struct ms_err *err) {
	static const char shape[] = "want a form like 2026-11-21T10:00:00Z or 2026-11-21T12:00:00.5+02:00";
	const char *p = s;
	int y, mon, d, h, min, sec, us, zone;

	if ((y = take(&p, 4)) < 0 || !skip(&p, '-') || (mon = take(&p, 2)) < 0 || !skip(&p, '-') || (d = take(&p, 2)) < 0)
		return bad_time(err, s, shape);
	if (!skip(&p, 'T') && !skip(&p, 't') && !skip(&p, ' '))
		return bad_time(err, s, shape);
	if ((h = take(&p, 2)) < 0 || !skip(&p, ':') || (min = take(&p, 2)) < 0 || !skip(&p, ':') || (sec = take(&p, 2)) < 0)
		return bad_time(err, s, shape);
	if (!take_fraction(&p, &us) || !take_zone(&p, &zone) || *p != '\0')
		return bad_time(err, s, shape);
	if (mon < 1 || mon > 12 || d < 1 || d > month_days(y, mon))
		return bad_time(err, s, "there is no such day");
	if (h > 23 || min > 59 || sec > 60)
		return bad_time(err, s, "there is no such time of day");

	int64_t days = days_to_year(y) + d - 1;
	for (int m = 1; m < mon; m++)
		days += month_days(y, m);
	int64_t t = days * US_PER_DAY + ((h * 60 + min - zone) * INT64_C(60) + sec) * US_PER_S + us;
	/* The zone may carry it out of the years that can be written down again. */
	if (t < days_to_year(0) * US_PER_DAY || t >= days_to_year(10000) * US_PER_DAY)
		return bad_time(err, s, "outside of the years 0000 to 9999 in UTC");
	*ret_us = t;
	return MS_OK;
}

char *ms_time_format(char ret[32], int64_t us) {
	int64_t days = floor_div(us, US_PER_DAY), rest = us % US_PER_DAY;
	int64_t y = 1970 + floor_div(days * 400, 146097); /* right or one off */
	int mon = 1;

	if (rest < 0)
		rest += US_PER_DAY;
	while (days_to_year(y) > days)
		y--;
	while (days_to_year(y + 1) <= days)
		y++;
	int64_t d = days - days_to_year(y);
	for (; d >= month_days(y, mon); mon++)
		d -= month_days(y, mon);
	int sec = (int)(rest / US_PER_S);
	char text[96]; /* for what the compiler thinks is possible; 30 characters are */
	snprintf(text, sizeof text, "%04" PRId64 "-%02d-%02dT%02d:%02d:%02d.%06dZ", y, mon, (int)d + 1, sec / 3600, sec / 60 % 60,
		 sec % 60, (int)(rest % US_PER_S));
	memcpy(ret, text, 31);
	ret[31] = '\0';
	return ret;
}

static const struct {
	const char *name;
	uint64_t ns;
} units[] = {
    {"ns", 1},
    {"us", 1000},
    {"ms", 1000000},
    {"s", UINT64_C(1000000000)},
    {"m", UINT64_C(60000000000)},
    {"h", UINT64_C(3600000000000)},
    {"d", UINT64_C(86400000000000)},
    {"w", UINT64_C(604800000000000)},
};

static uint64_t unit_ns(const char **s) {
	size_t n = 0;

	while (isalpha((unsigned char)(*s)[n]))
		n++;
	for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
		if (strlen(units[i].name) == n && memcmp(units[i].name, *s, n) == 0) {
			*s += n;
			return units[i].ns;
		}
	}
	return 0;
}

static enum ms_code bad_duration(struct ms_err *err, const char *s, const char *why) {
	return ms_err_set(err, MS_EINVAL, "duration \"%.80s\": %s", s, why);
}

enum ms_code ms_duration_parse(const char *s, int64_t *ret_us, struct ms_err *err) {
	static const char shape[] = "want numbers with units ns, us, ms, s, m, h, d or w, like 1h30m or 1.5s";
	const u128 max_ns = (u128)INT64_MAX * 1000;
	const char *p = s;
	u128 total = 0;

	if (strcmp(s, "0") == 0) {
		*ret_us = 0;
		return MS_OK;
	}
	if (*s == '-')
		return bad_duration(err, s, "must not be negative");
	if (*s == '\0')
		return bad_duration(err, s, shape);
	while (*p) {
		uint64_t whole = 0, frac = 0, scale = 1;
		int digits = 0;

		if (!isdigit((unsigned char)*p))
			return bad_duration(err, s, shape);
		for (; isdigit((unsigned char)*p); p++) {
			if (whole > (UINT64_MAX - 9) / 10)
				return bad_duration(err, s, "too large");
			whole = whole * 10 + (uint64_t)(*p - '0');
		}
		if (skip(&p, '.')) {
			for (; isdigit((unsigned char)*p); p++, digits++) {
				if (digits == FRAC_DIGITS_MAX)
					return bad_duration(err, s, "too many digits behind the point");
				frac = frac * 10 + (uint64_t)(*p - '0');
				scale *= 10;
			}
			if (digits == 0)
				return bad_duration(err, s, shape);
		}
		uint64_t unit = unit_ns(&p);
		if (unit == 0)
			return bad_duration(err, s, shape);
		/* Rounding is upwards everywhere: what was not zero must not become zero, which often means "off". */
		total += (u128)whole * unit + ((u128)frac * unit + scale - 1) / scale;
		if (total > max_ns)
			return bad_duration(err, s, "too large");
	}
	*ret_us = (int64_t)((total + 999) / 1000);
	return MS_OK;
}

/* "<whole>[.<frac without trailing zeros>]<unit>" */
static int put_fraction(char *to, size_t cap, uint64_t v, uint64_t unit, const char *name) {
	char frac[8];
	int width = unit == 1000000 ? 6 : unit == 1000 ? 3 : 0;

	if (v % unit == 0)
		return snprintf(to, cap, "%" PRIu64 "%s", v / unit, name);
	snprintf(frac, sizeof frac, "%0*u", width, (unsigned)(v % unit));
	for (size_t n = strlen(frac); n > 0 && frac[n - 1] == '0'; n--)
		frac[n - 1] = '\0';
	return snprintf(to, cap, "%" PRIu64 ".%s%s", v / unit, frac, name);
}

char *ms_duration_format(char ret[32], int64_t us) {
	static const struct {
		uint64_t us;
		char name;
	} parts[] = {{UINT64_C(86400000000), 'd'}, {UINT64_C(3600000000), 'h'}, {60000000, 'm'}};
	uint64_t v = us < 0 ? (uint64_t)0 - (uint64_t)us : (uint64_t)us;
	int n = 0;

	if (us < 0)
		ret[n++] = '-';
	if (v < 1000 && v > 0) {
		put_fraction(ret + n, 32 - (size_t)n, v, 1, "us");
		return ret;
	}
	if (v < 1000000 && v > 0) {
		put_fraction(ret + n, 32 - (size_t)n, v, 1000, "ms");
		return ret;
	}
	int start = n;
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		if (v >= parts[i].us)
			n += snprintf(ret + n, 32 - (size_t)n, "%" PRIu64 "%c", v / parts[i].us, parts[i].name);
		v %= parts[i].us;
	}
	if (v > 0 || n == start)
		put_fraction(ret + n, 32 - (size_t)n, v, 1000000, "s");
	return ret;
}

enum ms_code ms_size_parse(const char *s, uint64_t *ret, struct ms_err *err) {
	static const struct {
		const char *name;
		uint64_t bytes;
	} sizes[] = {
	    {"", 1},
	    {"B", 1},
	    {"K", UINT64_C(1) << 10},
	    {"KB", 1000},
	    {"KiB", UINT64_C(1) << 10},
	    {"M", UINT64_C(1) << 20},
	    {"MB", 1000000},
	    {"MiB", UINT64_C(1) << 20},
	    {"G", UINT64_C(1) << 30},
	    {"GB", 1000000000},
	    {"GiB", UINT64_C(1) << 30},
	    {"T", UINT64_C(1) << 40},
	    {"TB", UINT64_C(1000000000000)},
	    {"TiB", UINT64_C(1) << 40},
	};
	const char *p = s;
	uint64_t v = 0;

	if (!isdigit((unsigned char)*p))
		return ms_err_set(err, MS_EINVAL, "size \"%.80s\": want a whole number with an optional unit, like 64MiB", s);
	for (; isdigit((unsigned char)*p); p++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return ms_err_set(err, MS_EINVAL, "size \"%.80s\": too large", s);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		if (strcmp(p, sizes[i].name) != 0)
			continue;
		if (__builtin_mul_overflow(v, sizes[i].bytes, &v))
			return ms_err_set(err, MS_EINVAL, "size \"%.80s\": too large", s);
		*ret = v;
		return MS_OK;
	}
	return ms_err_set(err, MS_EINVAL, "size \"%.80s\": unknown unit; use B, K, KB, KiB, M, MB, MiB, G, GB, GiB, T, TB or TiB",
			  s);
}

char *ms_size_format(char ret[32], uint64_t bytes) {
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	unsigned i = 0;

	while (i < 4 && bytes >> (10 * (i + 1)))
		i++;
	if (i == 0) {
		snprintf(ret, 32, "%" PRIu64 " B", bytes);
		return ret;
	}
	uint64_t unit = UINT64_C(1) << (10 * i);
	uint64_t tenths = bytes / unit * 10 + (bytes % unit * 10 + unit / 2) / unit;
	if (tenths >= 10240 && i < 4) {
		tenths = 10; /* rounded up to the next unit */
		i++;
	}
	if (tenths % 10)
		snprintf(ret, 32, "%" PRIu64 ".%d %s", tenths / 10, (int)(tenths % 10), names[i]);
	else
		snprintf(ret, 32, "%" PRIu64 " %s", tenths / 10, names[i]);
	return ret;
}
