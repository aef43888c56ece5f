/*
 * Runs a fuzz target over files without libFuzzer, so that every build replays the corpus under CTest. Arguments are files or directories;
 * a corpus that is missing or empty is a failure.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long replayed;

static int file(const char *path) {
	FILE *f = fopen(path, "rb");
	struct stat st;
	uint8_t *data = NULL;
	int rc = -1;
	if (!f || fstat(fileno(f), &st)) {
		perror(path);
		goto out;
	}
	/* An exact allocation, so that a read past the end is seen by the sanitizer. */
	data = malloc(st.st_size ? (size_t)st.st_size : 1);
	if (!data || fread(data, 1, (size_t)st.st_size, f) != (size_t)st.st_size) {
		perror(path);
		goto out;
	}
	LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
	replayed++;
	rc = 0;
out:
	if (f)
		fclose(f);
	free(data);
	return rc;
}

static int one(const char *path) {
	struct stat st;
	if (stat(path, &st)) {
		perror(path);
		return -1;
	}
	if (!S_ISDIR(st.st_mode))
		return file(path);
	DIR *d = opendir(path);
	int rc = d ? 0 : -1;
	for (struct dirent *e; d && !rc && (e = readdir(d));) {
		char name[4096];
		if (e->d_name[0] == '.')
			continue;
		if ((size_t)snprintf(name, sizeof name, "%s/%s", path, e->d_name) < sizeof name)
			rc = file(name);
		else
			rc = -1;
	}
	if (d)
		closedir(d);
	return rc;
}

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++)
		if (one(argv[i]))
			return 1;
	printf("%lu inputs replayed\n", replayed);
	return replayed ? 0 : 1;
}
