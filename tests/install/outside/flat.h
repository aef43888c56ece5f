/* A backend from outside: every object is a file in one directory, "/" in its name written as "%". Built from installed headers only. */
#ifndef FLAT_H
#define FLAT_H

#include "replicas/replica.h"

extern const struct ms_replica_driver flat_driver; /* flat:///directory */

#endif
