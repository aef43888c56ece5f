/* The program migrestore. migrestore_main.c calls it; the printing is apart. */
#ifndef MS_CMD_MIGRESTORE_H
#define MS_CMD_MIGRESTORE_H

#include <jansson.h>
#include <stdio.h>
#include "cmd/programs.h"
#include "cmd/restore_sources.h"
#include "restore/restore.h"

/* One line on a terminal, rewritten in place: phase, bar, share, rate, time left. */
struct ms_progress_line {
	FILE *out;
	char phase[16];
	uint64_t phase_began_us, total_bytes;
	bool shown;
};
void ms_progress_show(void *line, const struct ms_restore_progress *p); /* for ms_restore_options.progress */
void ms_progress_end(struct ms_progress_line *l); /* clears the line */

/* What a dry run found, and what a restore did, in words and as JSON. */
void ms_restore_print_plan(const struct ms_restore_sources *s, const struct ms_restore_result *r, FILE *out);
void ms_restore_print_done(const struct ms_restore_options *o, const struct ms_restore_result *r, FILE *out);
json_t *ms_restore_json(const struct ms_restore_sources *s, const struct ms_restore_options *o, const struct ms_restore_result *r); /* NULL: out of memory */
const char *ms_restore_verify_name(enum ms_restore_verify v);

#endif
