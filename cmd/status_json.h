/*
 * `status --json` (DESIGN §10, with more fields than named there): {"running", "daemon": {...} | null, "journal": {...} | null,
 * "databases": [{"name","path","state","why","generation","txid","time",...,"replicas":[...]}]}. Times are RFC 3339 or null, durations seconds.
 */
#ifndef MS_CMD_STATUS_JSON_H
#define MS_CMD_STATUS_JSON_H

#include <jansson.h>
#include "cmd/status_view.h"

json_t *ms_status_json(const struct ms_status_view *v); /* NULL: out of memory */

#endif
