/* `list --json` (DESIGN §10). */
#ifndef MS_CMD_LIST_JSON_H
#define MS_CMD_LIST_JSON_H

#include <jansson.h>
#include "restore/list.h"

json_t *ms_list_json(const struct ms_list *l); /* NULL: out of memory */

#endif
