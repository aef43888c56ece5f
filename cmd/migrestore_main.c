#include "cmd/migrestore.h"

int main(int argc, char **argv) { return ms_migrestore(argc, argv); }
