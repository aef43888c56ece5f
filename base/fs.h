/*
 * File helpers over struct ms_env: whole-file read, durable atomic replace, mkdir -p, path joining.
 * Blocking; any thread.
 */
#ifndef MS_BASE_FS_H
#define MS_BASE_FS_H

#include "base/buf.h"
#include "base/env.h"

/* Appends the whole file to out (bounded by out->limit). */
enum ms_code ms_fs_read_file(struct ms_env *env, const char *path, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
/* Temporary in the same directory, write, fsync, rename over path, fsync directory. Durable and atomic on MS_OK;
 * on failure path is untouched and the temporary is removed, except when only the last step failed: the new content is then
 * in place but may not survive a crash. The mode is set whatever the umask. */
enum ms_code ms_fs_replace_file(struct ms_env *env, const char *path, const void *data, size_t len, unsigned mode,
				struct ms_err *err) MS_WARN_UNUSED;
/* Creates path and its missing parents (each new one made durable by fsync of its parent; so is the deepest one that was
 * there, since whoever made it may have been killed before the sync: call it once per directory, not once per file). */
enum ms_code ms_fs_mkdir_p(struct ms_env *env, const char *path, unsigned mode, struct ms_err *err) MS_WARN_UNUSED;
/* Removes a file or a whole tree (symlinks are removed, never followed). Missing is fine. Makes nothing durable. */
enum ms_code ms_fs_remove_tree(struct ms_env *env, const char *path, struct ms_err *err) MS_WARN_UNUSED;
/* "a/b" into ret[cap], with one slash between them whatever they end and begin with; just b when a is empty. MS_ETOOBIG when
 * it does not fit. ret may be a. */
enum ms_code ms_path_join(char *ret, size_t cap, const char *a, const char *b, struct ms_err *err) MS_WARN_UNUSED;
/* Directory part of path into ret ("." when there is none). */
enum ms_code ms_path_dir(char *ret, size_t cap, const char *path, struct ms_err *err) MS_WARN_UNUSED;
const char *ms_path_base(const char *path); /* what follows the last slash; points into path */
/* Sum of the sizes of regular files below the directory path (a symlink to a file counts as that file). What vanishes
 * meanwhile is left out; MS_ENOTFOUND when path itself is missing. */
enum ms_code ms_fs_tree_bytes(struct ms_env *env, const char *path, uint64_t *ret, struct ms_err *err) MS_WARN_UNUSED;

#define MS_PATH_MAX 4096

#endif
