#include "base/log.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int fds[2];
static char text[65536];

static void start(enum ms_log_level level, bool json) {
	cr_assert_eq(pipe(fds), 0);
	ms_log_configure(fds[1], level, json);
}

/* All that was written; ends the log. */
static const char *taken(void) {
	size_t n = 0;
	ssize_t got;

	close(fds[1]);
	while ((got = read(fds[0], text + n, sizeof text - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(fds[0]);
	return text;
}

/* What follows the time stamp, whose form is checked. */
static const char *after_time(const char *line) {
	int y, mon, d, h, min, s, us, end = 0;

	cr_assert_eq(sscanf(line, "time=%4d-%2d-%2dT%2d:%2d:%2d.%6dZ %n", &y, &mon, &d, &h, &min, &s, &us, &end), 7, "%s", line);
	cr_assert_gt(y, 2024);
	return line + end;
}

Test(log, logfmt_line) {
	char q[64];

	start(MS_LOG_INFO, false);
	ms_log(MS_LOG_INFO, "snapshot done", "db=%s txid=%llu error=%s", "main", 12ull, ms_log_q(q, sizeof q, "no \"space\""));
	cr_assert_str_eq(after_time(taken()), "level=info msg=\"snapshot done\" db=main txid=12 error=\"no \\\"space\\\"\"\n");
}

Test(log, no_pairs) {
	start(MS_LOG_DEBUG, false);
	ms_log(MS_LOG_DEBUG, "hello", NULL);
	cr_assert_str_eq(after_time(taken()), "level=debug msg=\"hello\"\n");
}

Test(log, levels) {
	start(MS_LOG_WARN, false);
	cr_assert(!ms_log_enabled(MS_LOG_DEBUG));
	cr_assert(!ms_log_enabled(MS_LOG_INFO));
	cr_assert(ms_log_enabled(MS_LOG_WARN));
	cr_assert(ms_log_enabled(MS_LOG_ERROR));
	cr_assert(!ms_log_enabled(MS_LOG_OFF));
	ms_log(MS_LOG_INFO, "not this", NULL);
	ms_log(MS_LOG_WARN, "this", NULL);
	ms_log(MS_LOG_OFF, "nor this", NULL);
	ms_log_configure(fds[1], MS_LOG_OFF, false);
	ms_log(MS_LOG_ERROR, "nor this", NULL);
	cr_assert_str_eq(after_time(taken()), "level=warn msg=\"this\"\n");
}

Test(log, one_event_is_one_line_whatever_is_in_it) {
	start(MS_LOG_INFO, false);
	ms_log(MS_LOG_INFO, "a\nb\x1b[31m", "k=%s", "x\ny\x7f\xff\xc3\xa4\xc2\x85");
	cr_assert_str_eq(after_time(taken()),
			 "level=info msg=\"a\\nb\\u001b[31m\" k=x\\ny\\u007f\\ufffd\xc3\xa4\\ufffd\\ufffd\n");
}

static json_t *parsed(void) {
	json_error_t why;
	json_t *j = json_loads(taken(), JSON_REJECT_DUPLICATES, &why);

	cr_assert_not_null(j, "%s in %s", why.text, text);
	cr_assert_eq(strchr(text, '\n'), text + strlen(text) - 1);
	return j;
}

Test(log, json_line) {
	char q[64], number[64];

	start(MS_LOG_INFO, true);
	ms_log(MS_LOG_ERROR, "said \"no\"", "n=%d neg=-1.5 zero=007 s=abc t=true e=%s num=%s flag path=/a=b empty= nul=null", 5,
	       ms_log_q(q, sizeof q, "two words\n\\ \"q\""), ms_log_q(number, sizeof number, "123"));
	json_t *j = parsed();
	cr_assert_str_eq(json_string_value(json_object_get(j, "level")), "error");
	cr_assert_str_eq(json_string_value(json_object_get(j, "msg")), "said \"no\"");
	cr_assert_eq(json_integer_value(json_object_get(j, "n")), 5);
	cr_assert_eq(json_real_value(json_object_get(j, "neg")), -1.5);
	cr_assert_str_eq(json_string_value(json_object_get(j, "zero")), "007");
	cr_assert_str_eq(json_string_value(json_object_get(j, "s")), "abc");
	cr_assert(json_is_true(json_object_get(j, "t")));
	cr_assert_str_eq(json_string_value(json_object_get(j, "e")), "two words\n\\ \"q\"");
	cr_assert_str_eq(json_string_value(json_object_get(j, "num")), "123");
	cr_assert(json_is_true(json_object_get(j, "flag")));
	cr_assert_str_eq(json_string_value(json_object_get(j, "path")), "/a=b");
	cr_assert_str_eq(json_string_value(json_object_get(j, "empty")), "");
	cr_assert(json_is_null(json_object_get(j, "nul")));
	cr_assert_eq(strlen(json_string_value(json_object_get(j, "time"))), 27);
	json_decref(j);
}

Test(log, json_stays_json_with_any_bytes) {
	unsigned state = 1;

	for (int round = 0; round < 300; round++) {
		static const char some[] = "\"\\= =\"\"\nab01u\\u12\x01\x7f\xc3\xa4\xff\xe2\x82\xac\xed\xa0\x80.-";
		char noise[5000];
		size_t n = (size_t)(round < 290 ? round : 4999);

		for (size_t i = 0; i < n; i++) {
			state = state * 1103515245 + 12345;
			noise[i] = some[(state >> 16) % (sizeof some - 1)];
		}
		noise[n] = '\0';
		start(MS_LOG_INFO, true);
		ms_log(MS_LOG_INFO, noise, "x %s", noise);
		json_error_t why;
		json_t *j = json_loads(taken(), 0, &why);
		cr_assert_not_null(j, "%s in %s", why.text, text);
		json_decref(j);
	}
}

Test(log, the_longest_line_fits) {
	char worst[8000];

	/* One byte that becomes six, as often as it fits. */
	memset(worst, '\x01', sizeof worst - 1);
	worst[sizeof worst - 1] = '\0';
	for (int json = 0; json < 2; json++) {
		start(MS_LOG_INFO, json);
		ms_log(MS_LOG_INFO, worst, "%s", worst);
		const char *line = taken();
		cr_assert_gt(strlen(line), 6 * 3000);
		cr_assert(strstr(line, "..."));
		cr_assert_eq(line[strlen(line) - 1], '\n');
	}
}

Test(log, quoting) {
	static const struct {
		const char *text, *want;
	} rows[] = {
	    {"plain", "plain"},
	    {"a/b-c.d", "a/b-c.d"},
	    {"", "\"\""},
	    {"two words", "\"two words\""},
	    {"a=b", "\"a=b\""},
	    {"say \"x\"", "\"say \\\"x\\\"\""},
	    {"back\\slash", "\"back\\\\slash\""},
	    {"line\nend", "\"line\\nend\""},
	    {"12", "\"12\""},
	    {"-1.5", "\"-1.5\""},
	    {"true", "\"true\""},
	    {"12a", "12a"},
	    {"\xc3\xa4", "\"\xc3\xa4\""},
	    {"\xff", "\"\\ufffd\""},
	};
	char buf[64], small[12];

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		cr_expect_str_eq(ms_log_q(buf, sizeof buf, rows[i].text), rows[i].want);
	cr_expect_str_eq(ms_log_q(buf, sizeof buf, NULL), "\"\"");
	cr_expect_str_eq(ms_log_q(small, sizeof small, "longer than it"), "\"longer...\"");
	cr_expect_str_eq(ms_log_q(small, sizeof small, "longerthanit"), "\"longer...\"");
	cr_expect_str_eq(ms_log_q(small, sizeof small, "elevenchars"), "elevenchars");
	cr_expect_str_eq(ms_log_q(small, sizeof small, "nine char"), "\"nine char\"");
	for (size_t cap = 1; cap < 40; cap++) {
		char tight[41];

		memset(tight, 'Z', sizeof tight);
		ms_log_q(tight, cap, "a \n b \n c \n d \n e \xe2\x82\xac\xe2\x82\xac\n\n\n\n\n\n\n");
		cr_assert_lt(strnlen(tight, sizeof tight), cap);
		cr_assert_eq(tight[cap], 'Z');
	}
}

static void *write_lines(void *arg) {
	for (int i = 0; i < 100; i++)
		ms_log(MS_LOG_INFO, "line", "who=%d i=%d", *(int *)arg, i);
	return NULL;
}

Test(log, lines_of_threads_do_not_mix) {
	pthread_t t[4];
	int who[4], lines = 0;

	start(MS_LOG_INFO, false);
	for (int i = 0; i < 4; i++) {
		who[i] = i;
		cr_assert_eq(pthread_create(&t[i], NULL, write_lines, &who[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	taken();
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
		int w, i, end = 0;

		cr_assert_eq(sscanf(after_time(line), "level=info msg=\"line\" who=%d i=%d%n", &w, &i, &end), 2, "%s", line);
		cr_assert_eq(after_time(line)[end], '\0');
	}
	cr_assert_eq(lines, 400);
}
