/*
 * The two programs as functions, for a build of them with drivers from outside: register the drivers (replicas/replica.h), then call one. Each reads
 * its arguments as main() does, argv[0] included, and returns the exit code.
 */
#ifndef MS_CMD_PROGRAMS_H
#define MS_CMD_PROGRAMS_H

int ms_migstream(int argc, char **argv);
int ms_migrestore(int argc, char **argv);

#endif
