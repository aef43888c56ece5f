#include "support/sshd.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/ports.h"

#define NOBODY 65534

static void die(const char *what) {
	fprintf(stderr, "sshd for the test: %s: %s\n", what, strerror(errno));
	_exit(99);
}

static bool find_sshd(char ret[500]) {
	const char *env = getenv("MS_SSHD"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	if (env) {
		snprintf(ret, 500, "%s", env);
		return access(ret, X_OK) == 0;
	}
	snprintf(ret, 500, "/usr/sbin/sshd");
	if (access(ret, X_OK) == 0)
		return true;
	snprintf(ret, 500, "%s%s/migstream/bin/sshd", cache ? cache : home ? home : "/root", cache ? "" : "/.cache");
	return access(ret, X_OK) == 0;
}

bool ms_sshd_usable(bool privileged, const char **ret_why) {
	char path[500];
	if (!find_sshd(path)) {
		*ret_why = "no sshd (scripts/setup tests fetches it)";
		return false;
	}
	if (!privileged)
		return true;
	if (geteuid() != 0) {
		*ret_why = "a privileged sshd needs root";
		return false;
	}
	pid_t pid = fork();
	if (pid == 0)
		_exit(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ? 0 : 1);
	int status;
	waitpid(pid, &status, 0);
	*ret_why = "a mount namespace of its own is not permitted here";
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void ms_sshd_sh(const struct ms_sshd *s, const char *fmt, ...) {
	char command[4096], whole[4700];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(command, sizeof command, fmt, ap);
	va_end(ap);
	snprintf(whole, sizeof whole, "cd '%s' && { %s; }", s->dir, command);
	if (system(whole) != 0)
		die(command);
}

static bool answers(unsigned port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
	close(fd);
	return ok;
}

/* In the child. */
static void own_namespace(const struct ms_sshd *s) {
	char from[500];
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("mount namespace");
	snprintf(from, sizeof from, "%s/passwd", s->dir);
	if (mount(from, "/etc/passwd", NULL, MS_BIND, NULL))
		die("mount passwd");
	snprintf(from, sizeof from, "%s/shadow", s->dir);
	if (mount(from, "/etc/shadow", NULL, MS_BIND, NULL) || mount("none", "/run", "tmpfs", 0, "mode=0755") || mkdir("/run/sshd", 0755))
		die("mount shadow, /run");
}

static void run(struct ms_sshd *s) {
	s->pid = fork();
	if (s->pid < 0)
		die("fork");
	if (s->pid == 0) {
		char conf[500], log[500];
		snprintf(conf, sizeof conf, "%s/sshd_config", s->dir);
		snprintf(log, sizeof log, "%s/log", s->dir);
		if (s->privileged)
			own_namespace(s);
		else if (geteuid() == 0 && (setgid(s->uid) || setuid(s->uid)))
			die("setuid");
		/* The test's end, however it comes, is the server's. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close_range(3, ~0u, 0);
		execl(s->program, s->program, "-D", "-f", conf, "-E", log, (char *)NULL);
		die(s->program);
	}
	for (int i = 0; i < 1000; i++) {
		int status;
		if (answers(s->port))
			return;
		if (waitpid(s->pid, &status, WNOHANG) == s->pid) {
			s->pid = 0;
			break;
		}
		usleep(10000);
	}
	ms_sshd_sh(s, "cat log >&2");
	fprintf(stderr, "sshd did not come up\n");
	_exit(99);
}

void ms_sshd_start(struct ms_sshd *s, const char *tmp, bool privileged, const char *config) {
	char path[600], found[500];
	struct passwd *pw;
	*s = (struct ms_sshd){.privileged = privileged, .port = (unsigned)ms_test_port()};
	snprintf(s->dir, sizeof s->dir, "%.300s/sshd", tmp);
	snprintf(s->store, sizeof s->store, "%s/store", s->dir);
	s->uid = privileged ? 4711 : geteuid() ? geteuid() : NOBODY;
	snprintf(s->user, sizeof s->user, "%s", privileged ? "msuser" : (pw = getpwuid(s->uid)) ? pw->pw_name : "nobody");
	if (chmod(tmp, 0755) || mkdir(s->dir, 0755) || mkdir(s->store, 0755) || !find_sshd(found))
		die(s->dir);
	if (geteuid() == 0 && (chown(s->dir, privileged ? 0 : s->uid, (gid_t)-1) || chown(s->store, s->uid, (gid_t)-1)))
		die("chown");
	/* Another user may have no way to where it lies; it starts itself anew for each connection. */
	snprintf(s->program, sizeof s->program, "%s/sshd", s->dir);
	ms_sshd_sh(s, "cp '%s' sshd && chmod 755 sshd", found);
	ms_sshd_sh(s, "ssh-keygen -q -t ed25519 -N '' -f host_ed25519 && ssh-keygen -q -t rsa -b 2048 -N '' -f host_rsa && ssh-keygen -q -t ecdsa -N '' -f host_ecdsa && "
		      "chmod 600 host_* && chmod 644 host_*.pub && : >authorized_keys && chmod 644 authorized_keys");
	if (privileged)
		ms_sshd_sh(s, "cp /etc/passwd passwd && cp /etc/shadow shadow && chmod 644 passwd && mkdir home && chown 4711 home && "
			      "{ grep -q ^sshd: passwd || { echo 'sshd:x:4710:65534::/run/sshd:/usr/sbin/nologin' >>passwd; echo 'sshd:*:19000:0:99999:7:::' >>shadow; }; } && "
			      "echo \"msuser:x:4711:65534::$PWD/home:/bin/sh\" >>passwd && "
			      "echo \"msuser:$(openssl passwd -6 -salt migstream 'correct horse'):19000:0:99999:7:::\" >>shadow");
	else if (geteuid() == 0)
		ms_sshd_sh(s, "chown %u host_*", (unsigned)s->uid);
	snprintf(path, sizeof path, "%s/sshd_config", s->dir);
	FILE *f = fopen(path, "w");
	if (!f)
		die(path);
	/* Which host keys: those of the extra lines, else all three. */
	fprintf(f, "%s\n", config ? config : "");
	if (!config || !strstr(config, "HostKey "))
		fprintf(f, "HostKey %s/host_ed25519\nHostKey %s/host_ecdsa\nHostKey %s/host_rsa\n", s->dir, s->dir, s->dir);
	if (!config || !strstr(config, "Subsystem "))
		fprintf(f, "Subsystem sftp internal-sftp\n");
	if (!config || !strstr(config, "MaxStartups "))
		fprintf(f, "MaxStartups 100\n");
	fprintf(f, "ListenAddress 127.0.0.1:%u\nAuthorizedKeysFile %s/authorized_keys\nPidFile none\nStrictModes no\nPrintMotd no\nLogLevel VERBOSE\nUsePAM %s\n", s->port,
		s->dir, privileged ? "no" : "yes"); /* who cannot read /etc/shadow needs PAM to find that an account is not locked */
	fclose(f);
	run(s);
}

void ms_sshd_restart(struct ms_sshd *s) { run(s); }

/* Sessions leave the server's process group; they are found by their parents. */
static void signal_tree(pid_t pid, int sig, int depth) {
	DIR *d = depth < 8 ? opendir("/proc") : NULL;
	for (struct dirent *e; d && (e = readdir(d));) {
		char path[300], line[600];
		int parent = 0;
		if (e->d_name[0] < '1' || e->d_name[0] > '9')
			continue;
		snprintf(path, sizeof path, "/proc/%s/stat", e->d_name);
		FILE *f = fopen(path, "r");
		if (!f)
			continue;
		if (fgets(line, sizeof line, f)) {
			char *close_paren = strrchr(line, ')');
			if (close_paren && sscanf(close_paren + 2, "%*c %d", &parent) == 1 && parent == pid)
				signal_tree(atoi(e->d_name), sig, depth + 1);
		}
		fclose(f);
	}
	if (d)
		closedir(d);
	kill(pid, sig);
}

void ms_sshd_signal(const struct ms_sshd *s, int sig) {
	if (s->pid > 0)
		signal_tree(s->pid, sig, 0);
}

void ms_sshd_stop(struct ms_sshd *s) {
	int status;
	if (s->pid <= 0)
		return;
	ms_sshd_signal(s, SIGKILL);
	waitpid(s->pid, &status, 0);
	s->pid = 0;
}
