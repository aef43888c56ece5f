#include "base/err.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(err, set_fills_code_and_text) {
	struct ms_err e = MS_ERR_INIT;

	e.sys = 7;
	cr_assert_eq(ms_err_set(&e, MS_ECORRUPT, "%s: at %d", "file", 12), MS_ECORRUPT);
	cr_assert_eq(e.code, MS_ECORRUPT);
	cr_assert_eq(e.sys, 0);
	cr_assert_str_eq(e.msg, "file: at 12");
}

Test(err, null_still_gives_the_code) {
	cr_assert_eq(ms_err_set(NULL, MS_EGAP, "x"), MS_EGAP);
	cr_assert_eq(ms_err_sys(NULL, ENOENT, MS_EIO, "x"), MS_ENOTFOUND);
	cr_assert_eq(ms_err_wrap(NULL, "x"), MS_EINVAL);
}

Test(err, sys_maps_errnos) {
	static const struct {
		int sys;
		enum ms_code code;
	} rows[] = {
	    {ENOSPC, MS_ENOSPC},    {EDQUOT, MS_ENOSPC},  {EACCES, MS_EPERM}, {EPERM, MS_EPERM},
	    {ENOENT, MS_ENOTFOUND}, {EEXIST, MS_EEXISTS}, {EIO, MS_EBUSY},    {ENOTDIR, MS_EBUSY},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct ms_err e = MS_ERR_INIT;

		cr_expect_eq(ms_err_sys(&e, rows[i].sys, MS_EBUSY, "/a/b: open"), rows[i].code);
		cr_expect_eq(e.sys, rows[i].sys);
		cr_expect_eq(e.code, rows[i].code);
	}
	struct ms_err e = MS_ERR_INIT;
	(void)ms_err_sys(&e, ENOENT, MS_EIO, "/a/b: open");
	cr_assert_str_eq(e.msg, "/a/b: open: No such file or directory");
}

Test(err, wrap_prefixes_and_keeps) {
	struct ms_err e = MS_ERR_INIT;

	(void)ms_err_sys(&e, EIO, MS_EIO, "f");
	cr_assert_eq(ms_err_wrap(&e, "journal %d", 3), MS_EIO);
	cr_assert_str_eq(e.msg, "journal 3: f: Input/output error");
	cr_assert_eq(e.sys, EIO);
}

Test(err, arguments_may_be_the_message_itself) {
	struct ms_err e = MS_ERR_INIT;

	(void)ms_err_set(&e, MS_EIO, "inner");
	(void)ms_err_set(&e, MS_EGAP, "outer(%s)", e.msg);
	cr_assert_str_eq(e.msg, "outer(inner)");
	(void)ms_err_wrap(&e, "%s", e.msg);
	cr_assert_str_eq(e.msg, "outer(inner): outer(inner)");
}

Test(err, long_text_is_cut_with_an_ellipsis) {
	struct ms_err e = MS_ERR_INIT;
	char text[1000];

	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	(void)ms_err_set(&e, MS_EIO, "%s", text);
	cr_assert_eq(strlen(e.msg), sizeof e.msg - 1);
	cr_assert_str_eq(e.msg + sizeof e.msg - 5, "x...");
	(void)ms_err_wrap(&e, "layer");
	cr_assert_eq(strlen(e.msg), sizeof e.msg - 1);
	cr_assert(strncmp(e.msg, "layer: xxx", 10) == 0);
	cr_assert_str_eq(e.msg + sizeof e.msg - 5, "x...");
	text[500] = '\0';
	(void)ms_err_sys(&e, ENOENT, MS_EIO, "%s", text);
	cr_assert_eq(strlen(e.msg), sizeof e.msg - 1);
	cr_assert_str_eq(e.msg + sizeof e.msg - 4, "...");
}

Test(err, every_code_has_its_own_name) {
	for (int i = 0; i < MS_ECODE_MAX; i++) {
		cr_assert_not_null(ms_code_name((enum ms_code)i));
		for (int k = 0; k < i; k++)
			cr_assert_str_neq(ms_code_name((enum ms_code)i), ms_code_name((enum ms_code)k));
	}
	cr_assert_str_eq(ms_code_name(MS_ENOTFOUND), "not-found");
	cr_assert_str_eq(ms_code_name((enum ms_code)9999), "unknown");
	cr_assert_str_eq(ms_code_name((enum ms_code) - 1), "unknown");
}

Test(err, retryable_codes) {
	static const enum ms_code yes[] = {MS_ERETRY, MS_ELOST, MS_ETHROTTLED, MS_ETIMEDOUT, MS_EAUTH, MS_ENOSPC, MS_EIO};
	int n = 0;

	for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
		cr_expect(ms_code_retryable(yes[i]));
	for (int i = 0; i < MS_ECODE_MAX; i++)
		n += ms_code_retryable((enum ms_code)i);
	cr_assert_eq(n, 7);
}

Test(err, exit_codes) {
	cr_assert_eq(ms_code_exit(MS_OK), 0);
	cr_assert_eq(ms_code_exit(MS_EIO), 1);
	cr_assert_eq(ms_code_exit(MS_ENOTFOUND), 1);
	cr_assert_eq(ms_code_exit(MS_EUSAGE), 2);
	cr_assert_eq(ms_code_exit(MS_ECONFIG), 2);
	cr_assert_eq(ms_code_exit(MS_ENOTRESTORABLE), 3);
	cr_assert_eq(ms_code_exit(MS_ECORRUPT), 3);
	cr_assert_eq(ms_code_exit(MS_EGAP), 3);
	cr_assert_eq(ms_code_exit(MS_EFENCED), 4);
}
