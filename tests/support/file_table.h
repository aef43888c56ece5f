/*
 * One table of file operations and of what POSIX says comes of them. Every environment must give the same results
 * (tests/unit/test_env_uv.c, test_env_sim.c run it). The process umask must be 022.
 */
#ifndef MS_TESTS_SUPPORT_FILE_TABLE_H
#define MS_TESTS_SUPPORT_FILE_TABLE_H

#include "base/env.h"

/* Runs all rows in the existing, empty directory dir. Returns how many rows went wrong; the first is described in why. */
int ms_test_file_table(struct ms_env *env, const char *dir, char why[512]);
/* How many rows there are. */
int ms_test_file_table_rows(void);

#endif
