#include "sources/sqlite_watch.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define DIR_EVENTS (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

void ms_sqlite_watch_init(struct ms_sqlite_watch *w) {
	w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	w->dir_wd = w->wal_wd = w->db_wd = -1;
	w->dir[0] = 0;
}

void ms_sqlite_watch_release(struct ms_sqlite_watch *w) {
	if (w->fd >= 0)
		close(w->fd);
	w->fd = w->dir_wd = w->wal_wd = w->db_wd = -1;
}

void ms_sqlite_watch_dir(struct ms_sqlite_watch *w, const char *path) {
	char dir[sizeof w->dir];
	const char *slash = strrchr(path, '/');
	if (w->fd < 0)
		return;
	if (!slash)
		strcpy(dir, ".");
	else if ((size_t)snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path) >= sizeof dir)
		return;
	if (w->dir_wd >= 0 && strcmp(dir, w->dir) == 0)
		return;
	if (w->dir_wd >= 0)
		inotify_rm_watch(w->fd, w->dir_wd);
	w->dir_wd = inotify_add_watch(w->fd, dir, DIR_EVENTS);
	memcpy(w->dir, dir, sizeof dir);
}

void ms_sqlite_watch_arm(struct ms_sqlite_watch *w, const char *wal_path, const char *db_path) {
	if (w->fd >= 0 && w->wal_wd < 0)
		w->wal_wd = inotify_add_watch(w->fd, wal_path, IN_MODIFY);
	if (w->fd >= 0 && w->db_wd < 0)
		w->db_wd = inotify_add_watch(w->fd, db_path, IN_MODIFY);
}

static void forget(struct ms_sqlite_watch *w, int *wd) {
	if (*wd >= 0)
		inotify_rm_watch(w->fd, *wd);
	*wd = -1;
}

void ms_sqlite_watch_disarm(struct ms_sqlite_watch *w) {
	forget(w, &w->wal_wd);
	forget(w, &w->db_wd);
}

bool ms_sqlite_watch_drain(struct ms_sqlite_watch *w) {
	_Alignas(struct inotify_event) char buf[4096];
	bool names = false;
	ssize_t n;
	if (w->fd < 0)
		return false;
	while ((n = read(w->fd, buf, sizeof buf)) > 0) {
		for (char *p = buf; p < buf + n;) {
			struct inotify_event ev;
			memcpy(&ev, p, sizeof ev);
			p += sizeof ev + ev.len;
			if (ev.mask & IN_IGNORED) {
				if (ev.wd == w->wal_wd)
					w->wal_wd = -1;
				else if (ev.wd == w->db_wd)
					w->db_wd = -1;
				else if (ev.wd == w->dir_wd)
					w->dir_wd = -1;
			} else if (ev.mask & IN_MODIFY) {
				w->modified = true;
			} else if (ev.wd == w->dir_wd || ev.mask & IN_Q_OVERFLOW) {
				names = true;
			}
		}
	}
	return names;
}
