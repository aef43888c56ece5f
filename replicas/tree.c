#include "replicas/tree.h"

#include <stdlib.h>
#include <string.h>

struct entry {
	char *name; /* with a trailing '/' for a directory */
	int64_t size, mtime_us;
};
struct ms_tree_dir {
	const char *dir, *prefix, *start_after;
	struct entry *v;
	size_t n, cap;
};
struct walk {
	struct ms_tree *t;
	const char *prefix, *start_after;
	ms_list_cb cb;
	void *arg;
	bool stopped;
};

/* Could a name that begins with dir (ending in '/') begin with prefix? */
static bool may_hold(const char *dir, const char *prefix) {
	size_t nd = strlen(dir), np = strlen(prefix);
	return strncmp(dir, prefix, nd < np ? nd : np) == 0;
}

static bool wanted(const char *name, const char *prefix, const char *start_after) {
	size_t n = strlen(name);
	if (name[n - 1] != '/')
		return strncmp(name, prefix, strlen(prefix)) == 0 && strcmp(name, start_after) > 0;
	/* A directory lies wholly before start_after when start_after is greater and not inside it. */
	return may_hold(name, prefix) && (strcmp(start_after, name) <= 0 || strncmp(start_after, name, n) == 0);
}

enum ms_code ms_tree_add(struct ms_tree_dir *to, const char *name, bool is_dir, int64_t size, int64_t mtime_us, struct ms_err *err) {
	char whole[MS_OBJECT_NAME_MAX + 2];
	size_t n = strlen(name), nd = strlen(to->dir);
	if (!ms_object_name_valid(name) || nd + n + is_dir > MS_OBJECT_NAME_MAX)
		return MS_OK;
	memcpy(whole, to->dir, nd);
	memcpy(whole + nd, name, n);
	whole[nd + n] = is_dir ? '/' : '\0';
	whole[nd + n + is_dir] = '\0';
	if (!wanted(whole, to->prefix, to->start_after))
		return MS_OK;
	if (to->n == MS_TREE_DIR_MAX)
		return ms_err_set(err, MS_ETOOBIG, "more than %u entries in '%s'", MS_TREE_DIR_MAX, to->dir);
	if (to->n == to->cap) {
		size_t cap = to->cap ? to->cap * 2 : 64;
		struct entry *grown = reallocarray(to->v, cap, sizeof *grown);
		if (!grown)
			return ms_err_set(err, MS_ENOMEM, "listing '%s'", to->dir);
		to->v = grown;
		to->cap = cap;
	}
	char *s = strdup(whole + nd);
	if (!s)
		return ms_err_set(err, MS_ENOMEM, "listing '%s'", to->dir);
	to->v[to->n++] = (struct entry){s, size, mtime_us};
	return MS_OK;
}

static int entry_cmp(const void *a, const void *b) { return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name); }

/* As deep as a name has parts. */
static enum ms_code walk(struct walk *w, const char *dir, struct ms_err *err) {
	struct ms_tree_dir d = {.dir = dir, .prefix = w->prefix, .start_after = w->start_after};
	char name[MS_OBJECT_NAME_MAX + 2];
	size_t nd = strlen(dir);
	enum ms_code rc = w->t->read(w->t, dir, &d, err);
	if (!rc && d.n)
		qsort(d.v, d.n, sizeof *d.v, entry_cmp);
	memcpy(name, dir, nd);
	for (size_t i = 0; i < d.n && !w->stopped && !rc; i++) {
		size_t n = strlen(d.v[i].name);
		memcpy(name + nd, d.v[i].name, n + 1);
		if ((rc = w->t->check(w->t, err)))
			break;
		if (name[nd + n - 1] == '/') {
			rc = walk(w, name, err);
			continue;
		}
		struct ms_object o = {name, d.v[i].size, d.v[i].mtime_us};
		if (!w->t->stat || w->t->stat(w->t, &o))
			w->stopped = !w->cb(w->arg, &o);
	}
	for (size_t i = 0; i < d.n; i++)
		free(d.v[i].name);
	free(d.v);
	return rc;
}

enum ms_code ms_tree_list(struct ms_tree *t, const char *dir, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	struct walk w = {.t = t, .prefix = prefix, .start_after = start_after, .cb = cb, .arg = arg};
	return walk(&w, dir, err);
}

void ms_tree_start(const char *prefix, char ret[MS_OBJECT_NAME_MAX + 2]) {
	const char *slash = strrchr(prefix, '/');
	size_t nd = slash ? (size_t)(slash - prefix) + 1 : 0;
	memcpy(ret, prefix, nd);
	ret[nd] = '\0';
}
