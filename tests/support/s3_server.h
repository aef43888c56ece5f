/*
 * Servers for tests of the S3 backend, as child processes that end with the test, however it ends: tests/support/s3server (real ones) and
 * tests/support/s3double (answers that real servers give rarely). The environment gets their keys: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and
 * loses every other AWS_ variable.
 */
#ifndef MS_TESTS_SUPPORT_S3_SERVER_H
#define MS_TESTS_SUPPORT_S3_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct ms_s3_server {
	char endpoint[64]; /* http://127.0.0.1:PORT */
	char why[256];	   /* why it cannot be had, for ms_test_skipped() */
	int to;		   /* its standard input */
	FILE *from;
	int pid;
};

/* program below tests/, e.g. "support/s3server"; arg NULL: none. False: it cannot be had here, see why. Ends the test on any other failure. */
bool ms_s3_server_start(struct ms_s3_server *s, const char *program, const char *arg);
/* Sends a line and reads the answer's line into ret; ends the test when the server has gone. */
void ms_s3_server_ask(struct ms_s3_server *s, const char *line, char *ret, size_t cap);
/* Expects "done". */
void ms_s3_server_tell(struct ms_s3_server *s, const char *line);
void ms_s3_server_stop(struct ms_s3_server *s);

#endif
