#include "base/timefmt.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <string.h>

/* Seconds since the epoch from `date -u -d ... +%s`. */
static const struct {
	const char *text;
	int64_t us;
} times[] = {
    {"1970-01-01T00:00:00Z", 0},
    {"2026-11-21T10:00:00Z", INT64_C(1795255200000000)},
    {"2026-11-21T12:00:00.5+02:00", INT64_C(1795255200500000)},
    {"2026-11-21t05:30:00.123456-04:30", INT64_C(1795255200123456)},
    {"2026-11-21 10:00:00.123456789z", INT64_C(1795255200123456)},
    {"2000-02-29T23:59:59Z", INT64_C(951868799000000)},
    {"1969-12-31T23:59:59.999999Z", -1},
    {"1900-03-01T00:00:00Z", INT64_C(-2203891200000000)},
    {"0000-01-01T00:00:00Z", INT64_C(-62167219200000000)},
    {"9999-12-31T23:59:59.999999Z", INT64_C(253402300799999999)},
    {"2016-12-31T23:59:60Z", INT64_C(1483228800000000)},
    {"2026-11-21T00:00:00+23:59", INT64_C(1795132860000000)},
};

Test(timefmt, parses_rfc3339) {
	for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
		struct ms_err err = MS_ERR_INIT;
		int64_t us = 42;

		cr_expect_eq(ms_time_parse(times[i].text, &us, &err), MS_OK, "%s: %s", times[i].text, err.msg);
		cr_expect_eq(us, times[i].us, "%s: %" PRId64, times[i].text, us);
	}
}

Test(timefmt, refuses_what_is_no_time) {
	static const char *const bad[] = {
	    "",
	    "now",
	    "2026",
	    "2026-11-21",
	    "2026-11-21T10:00:00",
	    "2026-11-21T10:00Z",
	    "2026-1-21T10:00:00Z",
	    "2026-11-21T10:00:00ZZ",
	    "2026-11-21T10:00:00Z ",
	    " 2026-11-21T10:00:00Z",
	    "2026-11-21X10:00:00Z",
	    "2026-00-21T10:00:00Z",
	    "2026-13-21T10:00:00Z",
	    "2026-11-00T10:00:00Z",
	    "2026-11-31T10:00:00Z",
	    "2026-02-29T10:00:00Z",
	    "1900-02-29T10:00:00Z",
	    "2026-11-21T24:00:00Z",
	    "2026-11-21T10:60:00Z",
	    "2026-11-21T10:00:61Z",
	    "2026-11-21T10:00:00.Z",
	    "2026-11-21T10:00:00.1234567890Z",
	    "2026-11-21T10:00:00+0200",
	    "2026-11-21T10:00:00+24:00",
	    "2026-11-21T10:00:00+02:60",
	    "2026-11-21T10:00:00+2:00",
	    "-026-11-21T10:00:00Z",
	    "0000-01-01T00:00:00+00:01",
	    "9999-12-31T23:59:59-00:01",
	    "2026-11-21T10:00:00,5Z",
	};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct ms_err err = MS_ERR_INIT;
		int64_t us = 42;

		cr_expect_eq(ms_time_parse(bad[i], &us, &err), MS_EINVAL, "%s", bad[i]);
		cr_expect_eq(us, 42);
		cr_expect(strstr(err.msg, bad[i]));
	}
}

Test(timefmt, formats_times) {
	char text[32];

	cr_expect_str_eq(ms_time_format(text, 0), "1970-01-01T00:00:00.000000Z");
	cr_expect_str_eq(ms_time_format(text, -1), "1969-12-31T23:59:59.999999Z");
	cr_expect_str_eq(ms_time_format(text, INT64_C(1795255200123456)), "2026-11-21T10:00:00.123456Z");
	cr_expect_str_eq(ms_time_format(text, INT64_C(951868799000000)), "2000-02-29T23:59:59.000000Z");
	cr_expect_str_eq(ms_time_format(text, INT64_C(1735689599999999)), "2024-12-31T23:59:59.999999Z");
	cr_expect_str_eq(ms_time_format(text, INT64_C(1735689600000000)), "2025-01-01T00:00:00.000000Z");
	cr_expect_str_eq(ms_time_format(text, INT64_C(-62167219200000000)), "0000-01-01T00:00:00.000000Z");
	/* The ends of the type, as glibc's date has them. */
	cr_expect_str_eq(ms_time_format(text, INT64_MAX), "294247-01-10T04:00:54.775807Z");
	cr_expect_str_eq(ms_time_format(text, INT64_MIN), "-290308-12-21T19:59:05.224192Z");
}

Test(timefmt, time_round_trip) {
	/* Every 11 days and a bit through all the years. */
	for (int64_t us = INT64_C(-62167219200000000); us <= INT64_C(253402300799999999); us += INT64_C(987654321987)) {
		char text[32];
		int64_t back = 0;

		ms_time_format(text, us);
		cr_assert_eq(ms_time_parse(text, &back, NULL), MS_OK, "%s", text);
		cr_assert_eq(back, us, "%s", text);
	}
}

Test(timefmt, parses_durations) {
	static const struct {
		const char *text;
		int64_t us;
	} rows[] = {
	    {"0", 0},
	    {"0s", 0},
	    {"500ms", 500000},
	    {"1h30m", INT64_C(5400000000)},
	    {"7d", INT64_C(604800000000)},
	    {"1w", INT64_C(604800000000)},
	    {"1.5s", 1500000},
	    {"0.25h", INT64_C(900000000)},
	    {"3us", 3},
	    {"1ns", 1}, /* rounded up */
	    {"1000ns", 1},
	    {"1001ns", 2},
	    {"0.000000000000001s", 1},
	    {"1m0.5s", 60500000},
	    {"2s1s", 3000000},
	    {"1d2h3m4s5ms6us", INT64_C(93784005006)},
	    {"9223372036854775807us", INT64_MAX},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct ms_err err = MS_ERR_INIT;
		int64_t us = 42;

		cr_expect_eq(ms_duration_parse(rows[i].text, &us, &err), MS_OK, "%s: %s", rows[i].text, err.msg);
		cr_expect_eq(us, rows[i].us, "%s: %" PRId64, rows[i].text, us);
	}
}

Test(timefmt, refuses_bad_durations) {
	static const char *const bad[] = {
	    "",
	    "1",
	    "00",
	    "s",
	    "-1s",
	    "+1s",
	    "1 s",
	    " 1s",
	    "1s ",
	    "1x",
	    "1S",
	    "1min",
	    "1.s",
	    ".5s",
	    "1..5s",
	    "1h30",
	    "1.0000000000000001s",
	    "9223372036854775808us",
	    "99999999999999999999999s",
	    "1e3s",
	    "400000000w",
	    "30500568904943w",
	};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct ms_err err = MS_ERR_INIT;
		int64_t us = 42;

		cr_expect_eq(ms_duration_parse(bad[i], &us, &err), MS_EINVAL, "%s", bad[i]);
		cr_expect_eq(us, 42);
		cr_expect_eq(err.code, MS_EINVAL);
	}
}

Test(timefmt, formats_durations) {
	static const struct {
		int64_t us;
		const char *text;
	} rows[] = {
	    {0, "0s"},
	    {1, "1us"},
	    {999, "999us"},
	    {1000, "1ms"},
	    {1500, "1.5ms"},
	    {1234, "1.234ms"},
	    {1000000, "1s"},
	    {1500000, "1.5s"},
	    {1000001, "1.000001s"},
	    {60000000, "1m"},
	    {60500000, "1m0.5s"},
	    {INT64_C(5400000000), "1h30m"},
	    {INT64_C(604800000000), "7d"},
	    {INT64_C(93784005006), "1d2h3m4.005006s"},
	    {-1500000, "-1.5s"},
	    {-3, "-3us"},
	    {INT64_MAX, "106751991d4h54.775807s"},
	    {INT64_MIN, "-106751991d4h54.775808s"},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char text[32];
		int64_t back;

		cr_expect_str_eq(ms_duration_format(text, rows[i].us), rows[i].text, "%s", text);
		if (rows[i].us >= 0) {
			cr_expect_eq(ms_duration_parse(text, &back, NULL), MS_OK);
			cr_expect_eq(back, rows[i].us);
		}
	}
}

Test(timefmt, parses_sizes) {
	static const struct {
		const char *text;
		uint64_t bytes;
	} rows[] = {
	    {"0", 0},
	    {"1", 1},
	    {"12B", 12},
	    {"4K", 4096},
	    {"4KB", 4000},
	    {"4KiB", 4096},
	    {"1M", 1048576},
	    {"1MB", 1000000},
	    {"64MiB", 67108864},
	    {"1G", 1073741824},
	    {"1GB", 1000000000},
	    {"1GiB", 1073741824},
	    {"2T", UINT64_C(2199023255552)},
	    {"2TB", UINT64_C(2000000000000)},
	    {"2TiB", UINT64_C(2199023255552)},
	    {"18446744073709551615", UINT64_MAX},
	    {"16777215TiB", UINT64_C(18446742974197923840)},
	};
	static const char *const bad[] = {"",
					  "K",
					  "-1",
					  "+1",
					  "1.5G",
					  "1 K",
					  "1k",
					  "1kb",
					  "1KIB",
					  "1P",
					  "0x10",
					  "1KK",
					  "18446744073709551616",
					  "16777216TiB",
					  "1B ",
					  " 1"};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		uint64_t v = 42;

		cr_expect_eq(ms_size_parse(rows[i].text, &v, NULL), MS_OK, "%s", rows[i].text);
		cr_expect_eq(v, rows[i].bytes, "%s", rows[i].text);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct ms_err err = MS_ERR_INIT;
		uint64_t v = 42;

		cr_expect_eq(ms_size_parse(bad[i], &v, &err), MS_EINVAL, "%s", bad[i]);
		cr_expect_eq(v, 42);
	}
}

Test(timefmt, formats_sizes) {
	static const struct {
		uint64_t bytes;
		const char *text;
	} rows[] = {
	    {0, "0 B"},
	    {1023, "1023 B"},
	    {1024, "1 KiB"},
	    {1536, "1.5 KiB"},
	    {1048575, "1 MiB"}, /* 1023.999 KiB */
	    {1610612736, "1.5 GiB"},
	    {UINT64_C(1) << 40, "1 TiB"},
	    {UINT64_MAX, "16777216 TiB"},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char text[32];

		cr_expect_str_eq(ms_size_format(text, rows[i].bytes), rows[i].text, "%s", text);
	}
}
