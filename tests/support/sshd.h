/*
 * OpenSSH's server for a test: its own host keys, configuration and authorized_keys in the test's directory, on a free port of 127.0.0.1, with
 * internal-sftp. The program is $MS_SSHD, /usr/sbin/sshd or what scripts/setup put into the user's cache directory.
 *
 * Normally it runs as an ordinary user: who runs the test, or `nobody` when that is root. With `privileged` (root only) it runs as root in a
 * mount namespace of its own, where /etc/passwd has two users more: sshd's own for privilege separation, and `msuser` with password `correct horse`.
 */
#ifndef MS_TESTS_SUPPORT_SSHD_H
#define MS_TESTS_SUPPORT_SSHD_H

#include <stdbool.h>
#include <sys/types.h>

struct ms_sshd {
	char dir[400];	 /* keys and configuration */
	char store[450]; /* a directory that the logged-in user may write */
	char user[64];
	uid_t uid;
	unsigned port;
	pid_t pid; /* 0: not running */
	bool privileged;
	char program[500];
};

/* false: why not, for ms_test_skipped(). */
bool ms_sshd_usable(bool privileged, const char **ret_why);
/* tmp: an empty directory of the test. config: further lines for sshd_config. Ends the test when the server does not come up. */
void ms_sshd_start(struct ms_sshd *s, const char *tmp, bool privileged, const char *config);
/* With everything it forked; kept for ms_sshd_restart() on the same port. */
void ms_sshd_stop(struct ms_sshd *s);
void ms_sshd_restart(struct ms_sshd *s);
/* To the server and all its sessions. */
void ms_sshd_signal(const struct ms_sshd *s, int sig);
/* Runs a shell command in the server's directory, as who runs the test; ends the test when it fails. */
void ms_sshd_sh(const struct ms_sshd *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
