/* Manual pages as roff, from the tables of commands, keys and backends: `migstream help --man NAME`, called by the build. */
#ifndef MS_CMD_MAN_H
#define MS_CMD_MAN_H

#include <stdbool.h>
#include <stdio.h>

/* name: "migstream", "migrestore" or "migstream.yml". False: there is no such page. Registers the drivers. */
bool ms_man_print(const char *name, FILE *out);

#endif
