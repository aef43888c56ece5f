/*
 * The `mem` backend: a store in this process, for tests and the simulator. Stores are shared by name: every handle opened for
 * mem://NAME sees the same objects. A store can be told to fail, delay or lose responses, and to take over objects that no put made.
 * Not registered by ms_replicas_register_builtin(): call ms_replica_mem_register().
 * All functions: any thread. A store is made at its first use and lives until ms_mem_store_drop().
 */
#ifndef MS_REPLICAS_MEM_H
#define MS_REPLICAS_MEM_H

#include "replicas/replica.h"

enum ms_code ms_replica_mem_register(struct ms_err *err) MS_WARN_UNUSED; /* may be called again */

enum { MS_MEM_PUT = 1, MS_MEM_GET = 2, MS_MEM_LIST = 4, MS_MEM_REMOVE = 8, MS_MEM_ALL = 15 };

/* What happens to calls. Rules are tried in the order they were added; the first that applies to a call is used. */
struct ms_mem_fault {
	unsigned ops;		/* MS_MEM_* */
	const char *name_has;	/* only names (or prefixes) that contain this; NULL = all. Copied, at most 63 bytes. */
	unsigned skip;		/* lets so many calls pass first */
	int times;		/* applies so many times, -1 = until cleared */
	unsigned permille;	/* with this chance (env's random); 0 = always */
	enum ms_code code;	/* MS_OK = only delay */
	int sys;
	bool lose_response;	/* the call is carried out, and then fails with code */
	bool partial;		/* a get delivers half of its bytes before it fails */
	uint64_t delay_us;	/* first; a cancelled handle returns early */
};
void ms_mem_fault(const char *store, const struct ms_mem_fault *f);
void ms_mem_clear_faults(const char *store);

/* Handles say from now on that what a put has acknowledged may go for so long (caps.settle_us); ms_mem_copy() is how it goes. */
void ms_mem_set_settle(const char *store, int64_t settle_us);

struct ms_mem_counts {
	uint64_t puts, gets, lists, removes; /* calls, failed ones included */
	uint64_t objects, bytes;	     /* held now */
	uint64_t refused;		     /* puts that found their name taken */
};
void ms_mem_counts(const char *store, struct ms_mem_counts *ret);
/* Puts an object past all checks and faults (hostile names, damage); replaces. */
void ms_mem_plant(const char *store, const char *name, const void *data, size_t len);
/* Borrowed until the next change of the store; NULL when absent. */
const uint8_t *ms_mem_peek(const char *store, const char *name, size_t *ret_len);
/* Calls back for each object in order, without faults. */
void ms_mem_each(const char *store, void (*cb)(void *arg, const char *name, const uint8_t *data, size_t len), void *arg);
void ms_mem_erase(const char *store, const char *name);
/* Empties it, keeps its faults; wipe = what happens when somebody deletes the bucket's content. */
void ms_mem_wipe(const char *store);
/* Makes dst hold exactly what src holds (a rolled-back or copied backend). */
void ms_mem_copy(const char *dst, const char *src);
void ms_mem_drop(const char *store); /* frees; no handle may be open */

#endif
