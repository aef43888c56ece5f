/* The epoch of a start: above every one that this shadow directory has used and every one that a replica's head names. */
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "core/stream_internal.h"

enum ms_code ms_stream_settle_epoch(struct ms_stream *s, uint32_t seen, uint32_t *ret_known, struct ms_err *err) {
	char path[MS_PATH_MAX], text[32];
	struct ms_buf b;
	ms_buf_init(&b, 64);
	*ret_known = 0;
	enum ms_code rc = ms_path_join(path, sizeof path, s->dir, "epoch", err);
	struct ms_err e = MS_ERR_INIT;
	if (rc == MS_OK && ms_fs_read_file(s->env, path, &b, &e) == MS_OK && b.len < sizeof text) {
		memcpy(text, b.data, b.len);
		text[b.len] = 0;
		unsigned long mine = strtoul(text, NULL, 10);
		*ret_known = mine < UINT32_MAX ? (uint32_t)mine : 0;
		if (mine > seen && mine < UINT32_MAX)
			seen = (uint32_t)mine;
	}
	ms_buf_release(&b);
	if (rc != MS_OK)
		return rc;
	s->epoch = seen + 1;
	snprintf(text, sizeof text, "%u\n", s->epoch);
	return ms_fs_replace_file(s->env, path, text, strlen(text), 0600, err);
}
