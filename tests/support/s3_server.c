#include "support/s3_server.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
	perror(what);
	_exit(99);
}

static void environment(void) {
	for (char **e = environ; *e;) {
		char name[128];
		size_t n = strcspn(*e, "=");
		if (strncmp(*e, "AWS_", 4) == 0 && n < sizeof name) {
			memcpy(name, *e, n);
			name[n] = '\0';
			unsetenv(name);
			e = environ;
			continue;
		}
		e++;
	}
	setenv("AWS_ACCESS_KEY_ID", "migstreamtest", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "migstream-test-secret", 1);
	setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
	setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials", 1);
	setenv("AWS_CONFIG_FILE", "/nonexistent/config", 1);
	unsetenv("http_proxy");
	unsetenv("HTTP_PROXY");
	unsetenv("all_proxy");
	unsetenv("ALL_PROXY");
}

bool ms_s3_server_start(struct ms_s3_server *s, const char *program, const char *arg) {
	char path[600], line[400] = "", last[400] = "";
	char *argv[] = {(char *)"python3", path, (char *)(size_t)arg, NULL};
	posix_spawn_file_actions_t files;
	int in[2], out[2], status;
	snprintf(path, sizeof path, "%s/%s", MS_TEST_ROOT, program);
	*s = (struct ms_s3_server){.to = -1};
	environment();
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		die("pipe");
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, in[0], 0);
	posix_spawn_file_actions_adddup2(&files, out[1], 1);
	posix_spawn_file_actions_addclosefrom_np(&files, 3);
	if (posix_spawnp(&s->pid, "python3", &files, NULL, argv, environ) != 0)
		die("python3");
	posix_spawn_file_actions_destroy(&files);
	close(in[0]);
	close(out[1]);
	s->to = in[1];
	if (!(s->from = fdopen(out[0], "r")))
		die("fdopen");
	while (fgets(line, sizeof line, s->from)) {
		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "ready %63s", s->endpoint) == 1)
			return true;
		snprintf(last, sizeof last, "%s", line);
	}
	waitpid(s->pid, &status, 0);
	fclose(s->from);
	close(s->to);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 77) {
		fprintf(stderr, "%s %s: ended with status %d: %s\n", program, arg ? arg : "", status, last);
		_exit(99);
	}
	snprintf(s->why, sizeof s->why, "%.250s", last);
	return false;
}

void ms_s3_server_ask(struct ms_s3_server *s, const char *line, char *ret, size_t cap) {
	if (dprintf(s->to, "%s\n", line) < 0 || !fgets(ret, (int)cap, s->from))
		die(line);
	ret[strcspn(ret, "\n")] = '\0';
}

void ms_s3_server_tell(struct ms_s3_server *s, const char *line) {
	char answer[1000];
	ms_s3_server_ask(s, line, answer, sizeof answer);
	if (strcmp(answer, "done") != 0) {
		fprintf(stderr, "%s: %s\n", line, answer);
		_exit(99);
	}
}

void ms_s3_server_stop(struct ms_s3_server *s) {
	int status;
	if (s->to < 0)
		return;
	close(s->to);
	fclose(s->from);
	waitpid(s->pid, &status, 0);
	s->to = -1;
}
