/*
 * The backend driver interface (DESIGN §6). Installed: a backend outside this tree implements struct ms_replica_driver and calls
 * ms_replica_register().
 *
 * Laws every driver keeps (tests/contract proves them):
 *   - put is all or nothing and creates only if absent: MS_EEXISTS when the name is taken, whoever took it. A put that fails or
 *     dies never becomes visible under its name. On MS_OK the object is as durable as the backend can make it (see caps.settle_us).
 *   - objects are immutable; names are '/'-separated, relative, each part 1..255 bytes of [A-Za-z0-9._+-], not beginning with '.', at most
 *     MS_OBJECT_NAME_MAX bytes together.
 *   - list returns exactly the visible objects whose names begin with `prefix` (a string, not only a folder; "" = all), ascending by byte
 *     order of the whole name, after `start_after` ("" = from the first). A name that breaks the rule above (hostile or foreign) is skipped,
 *     never passed on.
 *   - remove of a missing name is MS_OK.
 * Calls block and run on pool threads. A handle serves one thread at a time, except cancel(), which any thread may call: the
 * call under way returns MS_ECANCELED soon, and every later call too. Open several handles for parallel work.
 * Error codes: MS_ERETRY, MS_ETHROTTLED (sys = seconds), MS_EAUTH, MS_ENOTFOUND, MS_EEXISTS, MS_ECONFLICT, MS_EPERMANENT, MS_ENOSPC,
 * MS_EPERM, MS_ECANCELED, MS_ELOST (the call did nothing, because objects acknowledged earlier are gone: core claims the replica anew, from
 * what is really there, and takes a snapshot; told once for each loss); local classes as in base/err.h. Drivers do not retry whole calls: core does (replicas/retry.h, by class).
 */
#ifndef MS_REPLICAS_REPLICA_H
#define MS_REPLICAS_REPLICA_H

#include <stdint.h>
#include "base/env.h"
#include "core/types.h"

#define MS_OBJECT_NAME_MAX 512

struct ms_replica_caps {
	bool create_if_absent; /* false: needs `fencing: none` and cannot carry ownership */
	bool server_checks;    /* the server verifies the payload's integrity */
	int64_t settle_us;     /* how long after an acknowledged put the backend may still lose it in its own crash; 0 = durable at once */
	unsigned parallel;     /* useful number of handles at once */
	uint64_t max_object;   /* bytes; 0 = no known limit */
	const char *warning;   /* why objects are less safe there than one might think, as found by the calls so far; NULL: nothing known. The handle's */
};

/* Pull body of a put. read() fills up to cap bytes; *ret_n == 0 means the end. rewind() restarts from the first byte (a driver
 * calls it only before a retry of its own, e.g. after a redirect); it may be NULL: then the driver never rewinds. */
struct ms_body {
	int64_t size; /* bytes, -1 unknown */
	enum ms_code (*read)(struct ms_body *, void *buf, size_t cap, size_t *ret_n, struct ms_err *);
	enum ms_code (*rewind)(struct ms_body *, struct ms_err *);
};

/* A body over memory; embed and pass &b.body. */
struct ms_mem_body {
	struct ms_body body;
	const uint8_t *data;
	size_t len, off;
};
void ms_mem_body_init(struct ms_mem_body *b, const void *data, size_t len);

struct ms_object {
	const char *name; /* relative to the replica's prefix; borrowed for the callback */
	int64_t size;
	int64_t mtime_us; /* 0 unknown */
};
/* Return false to stop the listing (MS_OK). */
typedef bool (*ms_list_cb)(void *arg, const struct ms_object *o);
/* Receives the bytes of a get in order. Any code but MS_OK stops the get, which then returns it. */
typedef enum ms_code (*ms_get_cb)(void *arg, const void *data, size_t n, struct ms_err *);

/* A replica's address and options, parsed from a URL and/or typed config keys. Keys are the driver's option names. */
struct ms_option {
	char *key, *value;
};
struct ms_replica_spec {
	char *scheme; /* "file", "s3", "sftp", "nats", "mem" */
	struct ms_option *options;
	unsigned noptions;
};

struct ms_option_def {
	const char *key;
	const char *type; /* "string", "path", "bool", "uint", "duration", "size", "list" */
	bool secret;	  /* never printed, never accepted in a URL */
	bool required;
	const char *help;
};

struct ms_replica; /* begins with struct ms_replica_base in every driver */
struct ms_replica_driver {
	const char *scheme;
	const char *help; /* one line, with an example URL */
	const struct ms_option_def *options; /* ends with key == NULL */
	/* Cheap and local where possible: a replica that is unreachable may open and fail at the first call. */
	enum ms_code (*open)(struct ms_env *, const struct ms_replica_spec *, struct ms_replica **ret, struct ms_err *);
	enum ms_code (*put)(struct ms_replica *, const char *name, struct ms_body *, struct ms_err *);
	/* len -1 = to the end. A range past the end delivers what is there. */
	enum ms_code (*get)(struct ms_replica *, const char *name, int64_t off, int64_t len, ms_get_cb, void *arg, struct ms_err *);
	enum ms_code (*list)(struct ms_replica *, const char *prefix, const char *start_after, ms_list_cb, void *arg, struct ms_err *);
	enum ms_code (*remove)(struct ms_replica *, const char *name, struct ms_err *);
	void (*caps)(struct ms_replica *, struct ms_replica_caps *ret);
	void (*cancel)(struct ms_replica *); /* any thread */
	void (*close)(struct ms_replica *);  /* no call under way */
	/* The smallest rights that the credentials of this spec need, in the backend's own form (a policy, a line of a file), for `migstream doctor`. Returns ret;
	 * "" when there is nothing to say. May be NULL. */
	char *(*rights)(const struct ms_replica_spec *, char *ret, size_t cap);
};
struct ms_replica_base {
	const struct ms_replica_driver *driver;
};
#define MS_REPLICA_DRIVER(r) (((const struct ms_replica_base *)(const void *)(r))->driver)

/* Registry: register before any open, from one thread. The built-in drivers are registered by ms_replicas_register_builtin(), which may be
 * called again. */
enum ms_code ms_replica_register(const struct ms_replica_driver *d, struct ms_err *err) MS_WARN_UNUSED;
const struct ms_replica_driver *ms_replica_driver_find(const char *scheme);
/* i-th registered driver, NULL past the last. */
const struct ms_replica_driver *ms_replica_driver_at(unsigned i);
enum ms_code ms_replicas_register_builtin(struct ms_err *err) MS_WARN_UNUSED;

/* Calls that went to a driver through the callers below since the process began, those that failed or were repeated too. */
struct ms_replica_calls {
	uint64_t open, put, get, list, remove;
};
/* Of the i-th registered driver, all 0 past the last. Any thread. */
void ms_replica_calls_at(unsigned i, struct ms_replica_calls *ret);

enum ms_code ms_replica_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) MS_WARN_UNUSED;

/* Thin callers. Object names are checked against the rule above first (MS_EINVAL). */
enum ms_code ms_replica_put(struct ms_replica *r, const char *name, struct ms_body *b, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_replica_put_mem(struct ms_replica *r, const char *name, const void *data, size_t n, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_replica_get(struct ms_replica *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;
/* Appends the range to out (bounded by out->limit). */
struct ms_buf;
enum ms_code ms_replica_get_buf(struct ms_replica *r, const char *name, int64_t off, int64_t len, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_replica_list(struct ms_replica *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_replica_remove(struct ms_replica *r, const char *name, struct ms_err *err) MS_WARN_UNUSED;
void ms_replica_caps(struct ms_replica *r, struct ms_replica_caps *ret);
void ms_replica_cancel(struct ms_replica *r);
void ms_replica_close(struct ms_replica *r); /* accepts NULL */
bool ms_object_name_valid(const char *name);

/* A spec against its driver's options: unknown driver or key, missing or ill-typed value are MS_EUSAGE. open() checks this too. */
enum ms_code ms_replica_spec_check(const struct ms_replica_spec *s, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_replica_spec_copy(struct ms_replica_spec *ret, const struct ms_replica_spec *s, struct ms_err *err) MS_WARN_UNUSED;
void ms_replica_spec_release(struct ms_replica_spec *s);
const char *ms_replica_spec_get(const struct ms_replica_spec *s, const char *key); /* NULL when absent */
enum ms_code ms_replica_spec_set(struct ms_replica_spec *s, const char *key, const char *value, struct ms_err *err) MS_WARN_UNUSED;

#endif
