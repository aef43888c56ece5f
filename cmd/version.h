/* --version: ours and every library's, as they run. */
#ifndef MS_CMD_VERSION_H
#define MS_CMD_VERSION_H

#include <stdio.h>

void ms_version_print(const char *program, FILE *out);

#endif
