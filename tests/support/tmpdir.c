#include "support/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIRS_MAX 64

static char dirs[DIRS_MAX][PATH_MAX];
static unsigned ndirs;

static void die(const char *what) {
	perror(what);
	_exit(99);
}

/* A shell in a session of its own waits until nobody holds the other end of the pipe, which is when the test's process has ended
 * in whatever way, and removes the directory. Started by posix_spawn: the code between fork and exec may not take locks where the
 * process has threads, and Criterion's always has one. */
static void remove_when_gone(const char *path) {
	/* In the background, so that the test has no child to wait for. */
	char *argv[] = {(char *)"sh", (char *)"-c", (char *)"(cat <&3 >&2; exec rm -rf -- \"$0\") &", (char *)(uintptr_t)path, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	int ends[2], status, rc;
	pid_t child;

	if (pipe2(ends, O_CLOEXEC) != 0)
		die("pipe");
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	/* Not in the way of who waits for the test's output, or for its process group. */
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID);
	posix_spawn_file_actions_adddup2(&files, ends[0], 3);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, 0, 1);
	posix_spawn_file_actions_adddup2(&files, 0, 2);
	posix_spawn_file_actions_addclosefrom_np(&files, 4);
	if ((rc = posix_spawn(&child, "/bin/sh", &files, &attr, argv, environ)) != 0) {
		errno = rc;
		die("/bin/sh");
	}
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	close(ends[0]); /* and the other end stays open until the process ends */
	while (waitpid(child, &status, 0) < 0)
		;
}

char *ms_test_path(const char *dir, const char *name) {
	char *path = NULL;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		die("asprintf");
	return path;
}

char *ms_test_tmpdir(void) {
	const char *base = getenv("TMPDIR");

	if (ndirs == DIRS_MAX) {
		fprintf(stderr, "more than %d temporary directories in one test\n", DIRS_MAX);
		_exit(99);
	}
	char *path = dirs[ndirs++];
	if (snprintf(path, PATH_MAX, "%s/migstream-test-XXXXXX", base && base[0] == '/' ? base : "/tmp") >= PATH_MAX)
		die("TMPDIR");
	if (!mkdtemp(path))
		die(path);
	remove_when_gone(path);
	return path;
}
