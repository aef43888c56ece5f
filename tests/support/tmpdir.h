/*
 * A directory of its own for a test, under $TMPDIR or /tmp. A small process of its own waits until the test's process and
 * what it forked are gone, however they ended, and then removes the directory with everything in it (Criterion's processes
 * run no atexit() functions). Ends the test when the directory cannot be made.
 */
#ifndef MS_TESTS_SUPPORT_TMPDIR_H
#define MS_TESTS_SUPPORT_TMPDIR_H

/* A new directory at each call; the string belongs to the helper and lives as long as the process. Absolute path. */
char *ms_test_tmpdir(void);
/* "<directory>/<name>" as a new string for free(). */
char *ms_test_path(const char *dir, const char *name);

#endif
