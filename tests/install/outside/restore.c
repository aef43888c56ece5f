/* migrestore with a backend from outside. */
#include <stdio.h>

#include "cmd/programs.h"
#include "flat.h"

int main(int argc, char **argv) {
	struct ms_err err = MS_ERR_INIT;
	if (ms_replica_register(&flat_driver, &err) != MS_OK) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	return ms_migrestore(argc, argv);
}
