/* GET /wait of the control server: polls the daemon's status until replicas hold a transaction. Runs on a connection's thread. */
#ifndef MS_CMD_CONTROL_WAIT_H
#define MS_CMD_CONTROL_WAIT_H

#include "cmd/control_server.h"

struct ms_wait {
	const char *db;	     /* name or path */
	const char *replica; /* NULL: every required one; without any, the journal */
	bool has_txid;
	uint64_t txid;
	int64_t timeout_us; /* 0 = for ever */
	/* true: give up at once (the server closes, or the client has gone away) */
	bool (*give_up)(void *arg);
	void *give_up_arg;
};

/* MS_OK with the txid waited for and the generation it belongs to. MS_ENOTFOUND: no such database or replica. MS_ETIMEDOUT, MS_ECLOSED. MS_EFENCED,
 * MS_EPERMANENT, MS_ECONFLICT: it cannot come any more, the text says why. */
enum ms_code ms_control_wait(struct ms_env *env, const struct ms_control_ops *ops, void *arg, const struct ms_wait *w, uint64_t *ret_txid,
			     struct ms_generation *ret_generation, struct ms_err *err) MS_WARN_UNUSED;

#endif
