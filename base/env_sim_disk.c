/*
 * The disk of the simulator. A file has two images, `now` and `durable`, and the range of bytes in which they may differ. A
 * directory has two sets of names; what happened to the first since the second was made is the list of changes, oldest
 * first, each an assignment "name of dir is inode, or nothing". A crash applies some of the changes to the durable names
 * and some 512-byte sectors of the dirty ranges to the durable images, and then forgets everything else.
 *
 * Inodes are counted by reference, so one lives as long as any state that a crash could choose needs it. Recursion goes as
 * deep as the tree of directories, which only tests make.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_sim_internal.h"

#define SECTOR 512
#define PATH_BYTES_MAX 4096
#define DEPTH_MAX 256
#define WRITEBACK_ODDS 8 /* one write in so many is followed by some spontaneous writing back */

void *ms_sim_alloc(void *old, size_t n) {
	void *p = realloc(old, n ? n : 1);

	if (!p) {
		fprintf(stderr, "simulator: out of memory\n");
		abort();
	}
	return p;
}

static char *copy_text(const char *s) {
	size_t n = strlen(s) + 1;

	return memcpy(ms_sim_alloc(NULL, n), s, n);
}

static size_t min(size_t a, size_t b) {
	return a < b ? a : b;
}
static size_t max(size_t a, size_t b) {
	return a > b ? a : b;
}

/* --- images ---------------------------------------------------------------------------------------------------------- */

/* Bytes that become part of the image are zero. */
static void image_resize(struct ms_sim_image *m, size_t size) {
	if (size > m->cap) {
		m->cap = max(size, min(m->cap * 2, MS_SIM_FILE_MAX));
		m->data = ms_sim_alloc(m->data, m->cap);
	}
	if (size > m->size)
		memset(m->data + m->size, 0, size - m->size);
	m->size = size;
}

/* from[a..b) over to[a..b), which grows as needed; what `from` does not have is zero. */
static void image_copy(struct ms_sim_image *to, const struct ms_sim_image *from, size_t a, size_t b) {
	if (a >= b)
		return;
	if (to->size < b)
		image_resize(to, b);
	size_t have = from->size > a ? min(b, from->size) : a;
	if (have > a)
		memcpy(to->data + a, from->data + a, have - a);
	memset(to->data + have, 0, b - have);
}

static void mark_dirty(struct ms_sim_inode *i, size_t from, size_t to) {
	if (from >= to)
		return;
	if (i->dirty_from >= i->dirty_to) {
		i->dirty_from = from;
		i->dirty_to = to;
	} else {
		i->dirty_from = min(i->dirty_from, from);
		i->dirty_to = max(i->dirty_to, to);
	}
}

void ms_sim_inode_forget_dirty(struct ms_sim_inode *i) {
	i->dirty_from = i->dirty_to = 0;
	i->size_dirty = false;
}

void ms_sim_inode_sync(struct ms_sim_inode *i) {
	if (i->size_dirty)
		image_resize(&i->durable, i->now.size);
	image_copy(&i->durable, &i->now, i->dirty_from, min(i->dirty_to, i->now.size));
	ms_sim_inode_forget_dirty(i);
}

/* Some of the dirty sectors, each or none at a throw. */
static void copy_some_sectors(struct ms_sim_disk *d, struct ms_sim_inode *i, size_t limit) {
	size_t to = min(i->dirty_to, limit);

	for (size_t at = i->dirty_from / SECTOR * SECTOR; at < to; at += SECTOR)
		if (ms_sim_coin(d->rng))
			image_copy(&i->durable, &i->now, max(at, i->dirty_from), min(at + SECTOR, to));
}

static void crash_file(struct ms_sim_disk *d, struct ms_sim_inode *i) {
	size_t size = i->durable.size, small = min(size, i->now.size), large = max(size, i->now.size);

	switch (ms_sim_below(d->rng, 4)) {
	case 0: /* everything got there in time */
		ms_sim_inode_sync(i);
		break;
	case 1: /* nothing did */
		break;
	default:
		if (i->size_dirty && large > small) {
			switch (ms_sim_below(d->rng, 3)) {
			case 0:
				size = i->now.size;
				break;
			case 1:
				size = small + ms_sim_below(d->rng, large - small + 1);
				break;
			default:
				break;
			}
		}
		copy_some_sectors(d, i, max(size, i->durable.size));
		image_resize(&i->durable, size);
	}
	image_resize(&i->now, 0);
	image_copy(&i->now, &i->durable, 0, i->durable.size);
	ms_sim_inode_forget_dirty(i);
}

/* --- inodes ---------------------------------------------------------------------------------------------------------- */

static void account(struct ms_sim_disk *d, struct ms_sim_inode *i) {
	uint64_t bytes = i->links || i->opens ? i->now.size : 0;

	d->used = d->used - i->counted + bytes;
	i->counted = bytes;
}

static struct ms_sim_inode *inode_new(struct ms_sim_disk *d, bool is_dir, unsigned mode, int64_t now_us) {
	struct ms_sim_inode *i = ms_sim_alloc(NULL, sizeof *i);

	*i = (struct ms_sim_inode){.is_dir = is_dir, .mode = mode & 0777 & ~022u, .mtime_us = now_us, .next = d->inodes};
	i->ino = d->nfree ? d->free_inos[--d->nfree] : ++d->next_ino;
	if (i->next)
		i->next->prev = i;
	d->inodes = i;
	return i;
}

static void dir_clear(struct ms_sim_disk *d, struct ms_sim_dir *names, bool is_volatile);

static void unref(struct ms_sim_disk *d, struct ms_sim_inode *i) {
	if (--i->refs)
		return;
	dir_clear(d, &i->names, true);
	dir_clear(d, &i->durable_names, false);
	d->used -= i->counted;
	free(i->now.data);
	free(i->durable.data);
	if (i->prev)
		i->prev->next = i->next;
	else
		d->inodes = i->next;
	if (i->next)
		i->next->prev = i->prev;
	if (d->nfree == d->free_cap) {
		d->free_cap = d->free_cap ? d->free_cap * 2 : 64;
		d->free_inos = ms_sim_alloc(d->free_inos, d->free_cap * sizeof *d->free_inos);
	}
	d->free_inos[d->nfree++] = i->ino;
	free(i);
}

void ms_sim_inode_open(struct ms_sim_disk *d, struct ms_sim_inode *i) {
	i->refs++;
	i->opens++;
	account(d, i);
}

void ms_sim_inode_close(struct ms_sim_disk *d, struct ms_sim_inode *i) {
	i->opens--;
	account(d, i);
	unref(d, i);
}

int ms_sim_inode_write(struct ms_sim_disk *d, struct ms_sim_inode *i, const void *buf, size_t n, uint64_t off, int64_t now_us) {
	if (n == 0)
		return 0;
	if (off > MS_SIM_FILE_MAX || n > MS_SIM_FILE_MAX - off)
		return EFBIG;
	size_t old = i->now.size, at = (size_t)off, end = at + n;
	int rc = 0;

	if (d->capacity && end > old && d->used + (end - old) > d->capacity) {
		/* A hole costs as much as data here, so there may be no room at all. */
		size_t left = d->capacity > d->used ? (size_t)(d->capacity - d->used) : 0;
		end = old + left;
		rc = ENOSPC;
		if (end <= at)
			return rc;
	}
	if (end > old) {
		image_resize(&i->now, end);
		mark_dirty(i, old, end);
		i->size_dirty = true;
		account(d, i);
	}
	memcpy(i->now.data + at, buf, end - at);
	mark_dirty(i, at, end);
	i->mtime_us = now_us;
	if (ms_sim_below(d->rng, WRITEBACK_ODDS) == 0)
		copy_some_sectors(d, i, i->now.size);
	return rc;
}

int ms_sim_inode_truncate(struct ms_sim_disk *d, struct ms_sim_inode *i, uint64_t size, int64_t now_us) {
	size_t old = i->now.size;

	if (size > MS_SIM_FILE_MAX)
		return EFBIG;
	if (d->capacity && size > old && d->used + (size - old) > d->capacity)
		return ENOSPC;
	if (size != old) {
		mark_dirty(i, min(old, (size_t)size), max(old, (size_t)size));
		image_resize(&i->now, (size_t)size);
		i->size_dirty = true;
		account(d, i);
	}
	i->mtime_us = now_us;
	return 0;
}

/* --- names ----------------------------------------------------------------------------------------------------------- */

/* Where name is, or belongs. */
static size_t dir_place(const struct ms_sim_dir *names, const char *name, bool *ret_found) {
	size_t a = 0, b = names->n;

	while (a < b) {
		size_t m = a + (b - a) / 2;
		int c = strcmp(names->entries[m].name, name);

		if (c == 0) {
			*ret_found = true;
			return m;
		}
		if (c < 0)
			a = m + 1;
		else
			b = m;
	}
	*ret_found = false;
	return a;
}

static struct ms_sim_inode *dir_get(const struct ms_sim_dir *names, const char *name) {
	bool found;
	size_t at = dir_place(names, name, &found);

	return found ? names->entries[at].inode : NULL;
}

/* inode NULL removes the name. Volatile names count as links. */
static void dir_set(struct ms_sim_disk *d, struct ms_sim_dir *names, const char *name, struct ms_sim_inode *inode,
		    bool is_volatile) {
	bool found;
	size_t at = dir_place(names, name, &found);
	struct ms_sim_inode *old = found ? names->entries[at].inode : NULL;

	if (inode) {
		inode->refs++;
		if (is_volatile) {
			inode->links++;
			account(d, inode);
		}
		if (!found) {
			if (names->n == names->cap) {
				names->cap = names->cap ? names->cap * 2 : 8;
				names->entries = ms_sim_alloc(names->entries, names->cap * sizeof *names->entries);
			}
			memmove(names->entries + at + 1, names->entries + at, (names->n - at) * sizeof *names->entries);
			names->n++;
			names->entries[at].name = copy_text(name);
		}
		names->entries[at].inode = inode;
	} else if (found) {
		free(names->entries[at].name);
		names->n--;
		memmove(names->entries + at, names->entries + at + 1, (names->n - at) * sizeof *names->entries);
	}
	if (old) {
		if (is_volatile) {
			old->links--;
			account(d, old);
		}
		unref(d, old);
	}
}

static void dir_clear(struct ms_sim_disk *d, struct ms_sim_dir *names, bool is_volatile) {
	while (names->n)
		dir_set(d, names, names->entries[names->n - 1].name, NULL, is_volatile);
	free(names->entries);
	*names = (struct ms_sim_dir){0};
}

static void add_change(struct ms_sim_disk *d, struct ms_sim_inode *dir, const char *name, struct ms_sim_inode *inode,
		       uint64_t group) {
	struct ms_sim_change *c = ms_sim_alloc(NULL, sizeof *c);

	*c = (struct ms_sim_change){.dir = dir, .inode = inode, .name = copy_text(name), .group = group, .prev = d->last};
	dir->refs++;
	if (inode)
		inode->refs++;
	if (c->prev)
		c->prev->next = c;
	else
		d->first = c;
	d->last = c;
}

static void drop_change(struct ms_sim_disk *d, struct ms_sim_change *c) {
	if (c->prev)
		c->prev->next = c->next;
	else
		d->first = c->next;
	if (c->next)
		c->next->prev = c->prev;
	else
		d->last = c->prev;
	if (c->inode)
		unref(d, c->inode);
	unref(d, c->dir);
	free(c->name);
	free(c);
}

/* Sets the name now, and remembers that it is not durable. */
static void change(struct ms_sim_disk *d, struct ms_sim_inode *dir, const char *name, struct ms_sim_inode *inode, uint64_t group,
		   int64_t now_us) {
	add_change(d, dir, name, inode, group);
	dir_set(d, &dir->names, name, inode, true);
	dir->mtime_us = now_us;
}

static void apply_change(struct ms_sim_disk *d, struct ms_sim_change *c) {
	dir_set(d, &c->dir->durable_names, c->name, c->inode, false);
	drop_change(d, c);
}

/* Makes a change durable ahead of its turn: earlier ones of the same name are overtaken by it. */
static void apply_early(struct ms_sim_disk *d, struct ms_sim_change *c) {
	for (struct ms_sim_change *e = c->prev, *prev; e; e = prev) {
		prev = e->prev;
		if (e->dir == c->dir && strcmp(e->name, c->name) == 0)
			drop_change(d, e);
	}
	apply_change(d, c);
}

/* The other half of a rename whose first half became durable, if it has to follow: the new name always (no file system loses
 * a file in a rename), the old one only for a directory, which cannot have two names. */
static struct ms_sim_change *must_follow(struct ms_sim_disk *d, uint64_t group, const struct ms_sim_inode *dir, bool was_new_name,
					 bool moved_dir) {
	for (struct ms_sim_change *c = d->first; c; c = c->next)
		if (c->group == group && c->dir != dir && (!was_new_name || moved_dir))
			return c;
	return NULL;
}

void ms_sim_dir_sync(struct ms_sim_disk *d, struct ms_sim_inode *dir) {
	struct ms_sim_change *c = d->first;

	while (c) {
		if (c->dir != dir) {
			c = c->next;
			continue;
		}
		uint64_t group = c->group;
		bool is_new = c->inode, is_dir = is_new && c->inode->is_dir;

		apply_change(d, c);
		if ((c = must_follow(d, group, dir, is_new, is_dir)))
			apply_early(d, c);
		c = d->first; /* anything may have been dropped */
	}
}

void ms_sim_disk_sync_all(struct ms_sim_disk *d) {
	while (d->first)
		apply_change(d, d->first);
	for (struct ms_sim_inode *i = d->inodes; i; i = i->next)
		ms_sim_inode_sync(i);
}

static void crash_names(struct ms_sim_disk *d) {
	uint64_t how = ms_sim_below(d->rng, 4), last = d->next_group, group = 0;
	bool keep = false;

	if (how == 2) /* an ordered journal: all up to some point */
		last = d->first ? d->first->group + ms_sim_below(d->rng, d->next_group - d->first->group + 1) : 0;
	while (d->first) {
		struct ms_sim_change *c = d->first;

		/* The halves of a rename are neighbours here, unless one of them is durable already. */
		if (c->group != group) {
			group = c->group;
			keep = how == 0 || (how == 2 && group < last) || (how == 3 && ms_sim_coin(d->rng));
		}
		if (keep)
			apply_change(d, c);
		else
			drop_change(d, c);
	}
}

void ms_sim_disk_crash(struct ms_sim_disk *d) {
	crash_names(d);
	/* First all the new names, then away with the old: no inode that is needed goes in between. */
	for (struct ms_sim_inode *i = d->inodes; i; i = i->next)
		i->refs++;
	for (struct ms_sim_inode *i = d->inodes; i; i = i->next) {
		i->locked = false;
		if (!i->is_dir) {
			crash_file(d, i);
			continue;
		}
		dir_clear(d, &i->names, true);
		for (size_t k = 0; k < i->durable_names.n; k++)
			dir_set(d, &i->names, i->durable_names.entries[k].name, i->durable_names.entries[k].inode, true);
	}
	size_t n = 0, k = 0;
	for (struct ms_sim_inode *i = d->inodes; i; i = i->next) {
		account(d, i);
		n++;
	}
	/* Letting one go may free others below it, but none that is still held here. */
	struct ms_sim_inode **all = ms_sim_alloc(NULL, n * sizeof(*all));
	for (struct ms_sim_inode *i = d->inodes; i; i = i->next)
		all[k++] = i;
	for (k = 0; k < n; k++)
		unref(d, all[k]);
	free(all);
}

/* --- paths ----------------------------------------------------------------------------------------------------------- */

/* Length of the path without slashes at its end. */
static size_t trim(const char *path) {
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	return n;
}

/* The inode that path[0..n) names, from the root: the working directory is the root too. ".." goes back the way we came, which
 * is exact where there are no symlinks. */
static int walk(struct ms_sim_disk *d, const char *path, size_t n, struct ms_sim_inode **ret) {
	struct ms_sim_inode *way[DEPTH_MAX] = {d->root};
	size_t depth = 0, at = 0;

	while (at < n) {
		char name[MS_SIM_NAME_MAX + 1];
		size_t from = at;

		while (at < n && path[at] != '/')
			at++;
		size_t len = at - from;
		at++;
		if (!way[depth]->is_dir)
			return ENOTDIR;
		if (len == 0 || (len == 1 && path[from] == '.'))
			continue;
		if (len == 2 && path[from] == '.' && path[from + 1] == '.') {
			if (depth)
				depth--;
			continue;
		}
		if (len > MS_SIM_NAME_MAX || depth + 1 == DEPTH_MAX)
			return ENAMETOOLONG;
		memcpy(name, path + from, len);
		name[len] = '\0';
		struct ms_sim_inode *child = dir_get(&way[depth]->names, name);
		if (!child)
			return ENOENT;
		way[++depth] = child;
	}
	*ret = way[depth];
	return 0;
}

int ms_sim_disk_find(struct ms_sim_disk *d, const char *path, struct ms_sim_inode **ret) {
	size_t n = strlen(path);

	if (n == 0)
		return ENOENT;
	if (n >= PATH_BYTES_MAX)
		return ENAMETOOLONG;
	int rc = walk(d, path, n, ret);
	if (rc == 0 && path[n - 1] == '/' && !(*ret)->is_dir)
		return ENOTDIR;
	return rc;
}

int ms_sim_disk_parent(struct ms_sim_disk *d, const char *path, struct ms_sim_inode **ret_dir,
		       char ret_name[MS_SIM_NAME_MAX + 1]) {
	size_t end = trim(path), from = end;

	if (end == 0)
		return ENOENT;
	if (end >= PATH_BYTES_MAX)
		return ENAMETOOLONG;
	while (from > 0 && path[from - 1] != '/')
		from--;
	size_t len = end - from;
	if (len > MS_SIM_NAME_MAX)
		return ENAMETOOLONG;
	int rc = walk(d, path, from, ret_dir);
	if (rc)
		return rc;
	if (!(*ret_dir)->is_dir)
		return ENOTDIR;
	memcpy(ret_name, path + from, len);
	ret_name[len] = '\0';
	return 0;
}

/* Names that are always there and can be neither made nor taken away. */
static bool is_fixed(const char *name) {
	return !name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static bool ends_in_slash(const char *path) {
	size_t n = strlen(path);

	return n > 0 && path[n - 1] == '/';
}

int ms_sim_disk_create(struct ms_sim_disk *d, const char *path, bool is_dir, unsigned mode, int64_t now_us,
		       struct ms_sim_inode **ret) {
	char name[MS_SIM_NAME_MAX + 1];
	struct ms_sim_inode *dir;
	int rc = ms_sim_disk_parent(d, path, &dir, name);

	if (rc)
		return rc;
	if (is_fixed(name) || dir_get(&dir->names, name))
		return EEXIST;
	if (!is_dir && ends_in_slash(path))
		return EISDIR;
	struct ms_sim_inode *i = inode_new(d, is_dir, mode, now_us);
	i->refs++;
	change(d, dir, name, i, d->next_group++, now_us);
	unref(d, i);
	if (ret)
		*ret = i;
	return 0;
}

int ms_sim_disk_link(struct ms_sim_disk *d, const char *from, const char *to, int64_t now_us) {
	char name[MS_SIM_NAME_MAX + 1];
	struct ms_sim_inode *i, *dir;
	int rc = ms_sim_disk_find(d, from, &i);

	if (rc || (rc = ms_sim_disk_parent(d, to, &dir, name)))
		return rc;
	if (is_fixed(name) || dir_get(&dir->names, name))
		return EEXIST;
	if (i->is_dir)
		return EPERM;
	if (ends_in_slash(to))
		return ENOENT;
	change(d, dir, name, i, d->next_group++, now_us);
	return 0;
}

static bool is_below(const struct ms_sim_inode *top, const struct ms_sim_inode *i) {
	if (top == i)
		return true;
	for (size_t k = 0; k < top->names.n; k++)
		if (top->names.entries[k].inode->is_dir && is_below(top->names.entries[k].inode, i))
			return true;
	return false;
}

int ms_sim_disk_rename(struct ms_sim_disk *d, const char *from, const char *to, int64_t now_us) {
	char from_name[MS_SIM_NAME_MAX + 1], to_name[MS_SIM_NAME_MAX + 1];
	struct ms_sim_inode *from_dir, *to_dir;
	int rc = ms_sim_disk_parent(d, from, &from_dir, from_name);

	if (rc || (rc = ms_sim_disk_parent(d, to, &to_dir, to_name)))
		return rc;
	if (is_fixed(from_name) || is_fixed(to_name))
		return EBUSY;
	struct ms_sim_inode *i = dir_get(&from_dir->names, from_name), *old = dir_get(&to_dir->names, to_name);
	if (!i)
		return ENOENT;
	if (!i->is_dir && (ends_in_slash(from) || ends_in_slash(to)))
		return ENOTDIR;
	if (i == old)
		return 0;
	if (i->is_dir && is_below(i, to_dir))
		return EINVAL;
	if (old && old->is_dir != i->is_dir)
		return i->is_dir ? ENOTDIR : EISDIR;
	if (old && old->is_dir && old->names.n)
		return ENOTEMPTY;
	uint64_t group = d->next_group++;
	/* The new name first, so that the inode is never without one. */
	change(d, to_dir, to_name, i, group, now_us);
	change(d, from_dir, from_name, NULL, group, now_us);
	return 0;
}

int ms_sim_disk_remove(struct ms_sim_disk *d, const char *path, bool is_dir, int64_t now_us) {
	char name[MS_SIM_NAME_MAX + 1];
	struct ms_sim_inode *dir;
	int rc = ms_sim_disk_parent(d, path, &dir, name);

	if (rc)
		return rc;
	if (is_fixed(name))
		return is_dir ? EBUSY : EISDIR;
	struct ms_sim_inode *i = dir_get(&dir->names, name);
	if (!i)
		return ENOENT;
	if (is_dir && !i->is_dir)
		return ENOTDIR;
	if (!is_dir && i->is_dir)
		return EISDIR;
	if (!is_dir && ends_in_slash(path))
		return ENOTDIR;
	if (is_dir && i->names.n)
		return ENOTEMPTY;
	change(d, dir, name, NULL, d->next_group++, now_us);
	return 0;
}

void ms_sim_disk_init(struct ms_sim_disk *d, struct ms_sim_rng *rng) {
	*d = (struct ms_sim_disk){.rng = rng, .next_group = 1};
	d->root = inode_new(d, true, 0755, 0);
	d->root->refs = 1;
	d->root->links = 1;
}

void ms_sim_disk_release(struct ms_sim_disk *d) {
	while (d->first)
		drop_change(d, d->first);
	unref(d, d->root);
	free(d->free_inos);
}
