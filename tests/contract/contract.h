/*
 * The contract of replica drivers as a table of cases (replicas/replica.h states the laws). Each backend has one small program
 * that fills struct ms_contract and runs every case. No test framework here: a case fails through its context, so that the same table
 * runs under any runner.
 */
#ifndef MS_TESTS_CONTRACT_H
#define MS_TESTS_CONTRACT_H

#include "replicas/replica.h"

struct ms_contract {
	struct ms_env *env;
	/* Another handle on the store; the first call of a case finds it empty. */
	enum ms_code (*open)(struct ms_contract *, struct ms_replica **ret, struct ms_err *);
	/* Puts bytes under a name that no put would make (`name` is the backend's raw name below the prefix). NULL: cannot be done. */
	void (*plant)(struct ms_contract *, const char *name, const void *data, size_t len);
	unsigned listed;       /* objects in the large listing */
	unsigned races;	       /* rounds of racers for one name */
	uint64_t large;	       /* bytes of the largest object */
	bool across_processes; /* a forked child can put into the same store, and be killed */
	void *arg;
	/* Result. */
	bool failed;
	char why[1024];
};

struct ms_contract_case {
	const char *name;
	void (*run)(struct ms_contract *);
};
/* All of them; ends with name == NULL. In the order of the table, or, with MS_ORDER_SEED=n in the environment, in another that the number makes. */
const struct ms_contract_case *ms_contract_order(void);

#endif
