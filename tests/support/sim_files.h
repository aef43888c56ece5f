/* Short words for files, in tests on any environment. What fails fails the test (abort with a message). */
#ifndef MS_TESTS_SUPPORT_SIM_FILES_H
#define MS_TESTS_SUPPORT_SIM_FILES_H

#include "base/env.h"

/* Mode 0644 when created. */
struct ms_file *ms_test_open(struct ms_env *env, const char *path, int flags);
/* Created if need be, with data (a string) written to its start. Not synced. */
struct ms_file *ms_test_create(struct ms_env *env, const char *path, const char *data);
/* The same for a file in "/", durable and closed. */
void ms_test_create_durable(struct ms_env *env, const char *path, const char *data);
/* Up to 8191 bytes of the file as text, NUL bytes shown as '0'; "-" when it cannot be opened. Valid until the next call. */
const char *ms_test_content(struct ms_env *env, const char *path);

#endif
