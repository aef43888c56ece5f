/* `migstream status` for people, from the JSON that the daemon answers (cmd/status_json.h). */
#ifndef MS_CMD_STATUS_TEXT_H
#define MS_CMD_STATUS_TEXT_H

#include <jansson.h>
#include <stdio.h>

void ms_status_text(const json_t *status, FILE *out);

#endif
