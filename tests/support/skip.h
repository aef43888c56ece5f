/* The one way in which a C test says that it, or a part of it, did not run here. */
#ifndef MS_TESTS_SUPPORT_SKIP_H
#define MS_TESTS_SUPPORT_SKIP_H

/* On stderr, and into $MS_SKIP_LOG for the closing summary of scripts/check. The caller then ends its test with cr_skip_test(). */
void ms_test_skipped(const char *test, const char *why);

#endif
