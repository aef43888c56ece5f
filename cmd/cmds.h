/* The commands of migstream: argv[0] is the command's name, the result the exit code (DESIGN §10). One file each, cmd_<name>.c. */
#ifndef MS_CMD_CMDS_H
#define MS_CMD_CMDS_H

#include "cmd/programs.h"

int ms_cmd_replicate(int argc, char **argv);
int ms_cmd_status(int argc, char **argv);
int ms_cmd_wait(int argc, char **argv);
int ms_cmd_pause(int argc, char **argv); /* also resume and takeover, by argv[0] */
int ms_cmd_snapshot(int argc, char **argv);
int ms_cmd_list(int argc, char **argv);
int ms_cmd_verify(int argc, char **argv);
int ms_cmd_config(int argc, char **argv);
int ms_cmd_doctor(int argc, char **argv);

#endif
