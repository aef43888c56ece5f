/*
 * Listing of a tree of directories in ascending byte order of whole object names, for the backends whose objects are files: one directory
 * at a time is read, filtered and sorted. A directory sorts as its name with '/', which is where its objects' names sort.
 *
 * Memory: the entries of the directories on the way down (each at most MS_TREE_DIR_MAX) that can still pass prefix and start_after.
 */
#ifndef MS_REPLICAS_TREE_H
#define MS_REPLICAS_TREE_H

#include "replicas/replica.h"

#define MS_TREE_DIR_MAX (4u << 20) /* entries of one directory; MS_ETOOBIG above */

struct ms_tree_dir; /* entries of one directory, being collected */
struct ms_tree {
	/* ms_tree_add() for each entry of dir ("" or "a/b/"). One that is missing has none and is no error. */
	enum ms_code (*read)(struct ms_tree *, const char *dir, struct ms_tree_dir *to, struct ms_err *);
	/* Sets size and time of o, whose name is whole; false: gone, or no plain file. NULL: read() gave them. */
	bool (*stat)(struct ms_tree *, struct ms_object *o);
	/* Before each entry; an error ends the listing. */
	enum ms_code (*check)(struct ms_tree *, struct ms_err *);
};
/* Skips names that no object has. */
enum ms_code ms_tree_add(struct ms_tree_dir *to, const char *name, bool is_dir, int64_t size, int64_t mtime_us, struct ms_err *err) MS_WARN_UNUSED;
/* dir: where to begin, from ms_tree_start(). */
enum ms_code ms_tree_list(struct ms_tree *t, const char *dir, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;
/* The deepest directory that holds all names with this prefix: what lies beside it need not be read. "" or ends in '/'. */
void ms_tree_start(const char *prefix, char ret[MS_OBJECT_NAME_MAX + 2]);

#endif
