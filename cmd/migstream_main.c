#include "cmd/cmds.h"

int main(int argc, char **argv) { return ms_migstream(argc, argv); }
