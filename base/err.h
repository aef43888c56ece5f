/*
 * Errors. Every fallible function returns an enum ms_code and fills a caller-owned struct ms_err (last parameter).
 * The error is set once at its cause (with path, key or offset) and wrapped at most once per layer with ms_err_wrap().
 * On MS_OK the struct is left untouched, so initialise it with MS_ERR_INIT. Retry decides by code, never by text.
 * Text beyond msg is cut and ends in "...".
 * Thread-safe: a struct ms_err belongs to one thread at a time.
 */
#ifndef MS_BASE_ERR_H
#define MS_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

enum ms_code {
	MS_OK = 0,
	MS_EIO,		 /* a local read, write or sync failed; sys holds errno */
	MS_ENOMEM,	 /* allocation failed or a stated memory bound would be passed */
	MS_ENOSPC,	 /* no space left (disk, quota, or the configured cap) */
	MS_EPERM,	 /* local permission denied */
	MS_EUSAGE,	 /* command line or URL is wrong */
	MS_ECONFIG,	 /* configuration is wrong */
	MS_EINVAL,	 /* an argument breaks the callee's contract */
	MS_ENOTFOUND,	 /* object, file or txid does not exist */
	MS_EEXISTS,	 /* the name is taken: create-if-absent lost, or the target exists */
	MS_EBUSY,	 /* in use: database locked, shadow directory owned by another daemon */
	MS_EMODE,	 /* database is not in WAL mode, or is in exclusive locking mode */
	MS_ECORRUPT,	 /* bytes fail their checksum or break the format */
	MS_EUNSUPPORTED, /* newer version, unknown incompatible feature, or a backend without the ability */
	MS_EGAP,	 /* history is not contiguous: something in the middle is missing */
	MS_ENOTRESTORABLE, /* no such point, nothing there, ambiguous target */
	MS_EFENCED,	 /* another owner holds this replica */
	MS_ERETRY,	 /* transient remote failure: try again with backoff */
	MS_ETHROTTLED,	 /* remote asks to slow down (sys = seconds to wait, 0 unknown) */
	MS_EAUTH,	 /* credentials refused */
	MS_ECONFLICT,	 /* remote conflict that is neither "exists" nor transient */
	MS_EPERMANENT,	 /* remote failure that no retry mends */
	MS_ECANCELED,	 /* cancelled by the caller */
	MS_ETIMEDOUT,	 /* a stated deadline passed */
	MS_ETOOBIG,	 /* larger than a stated limit */
	MS_EDROPPED,	 /* bounded queue full: not accepted, not replicated */
	MS_ECLOSED,	 /* handle is closed */
	MS_ELOST,	 /* a backend no longer has what it had acknowledged */
	MS_ECODE_MAX
};

struct ms_err {
	enum ms_code code;
	int sys; /* errno, or a backend's status number; 0 if none */
	char msg[512];
};

#define MS_ERR_INIT ((struct ms_err){MS_OK, 0, ""})
#define MS_WARN_UNUSED __attribute__((warn_unused_result))
#define MS_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Sets err and returns code. err may be NULL (the code is still returned). */
enum ms_code ms_err_set(struct ms_err *err, enum ms_code code, const char *fmt, ...) MS_PRINTF(3, 4);
/* As ms_err_set, and appends ": <strerror(sys)>"; maps ENOSPC/EDQUOT, EACCES/EPERM, ENOENT, EEXIST to their codes and
 * everything else to `fallback`. */
enum ms_code ms_err_sys(struct ms_err *err, int sys, enum ms_code fallback, const char *fmt, ...) MS_PRINTF(4, 5);
/* Prefixes "<text>: " to the message, keeps the code; returns the code. Without an err the code is not known here and
 * MS_EINVAL is returned, so a caller that allows NULL returns its own code. */
enum ms_code ms_err_wrap(struct ms_err *err, const char *fmt, ...) MS_PRINTF(2, 3);
/* Short stable identifier for logs and JSON, e.g. "not-found". */
const char *ms_code_name(enum ms_code code);
/* True for MS_ERETRY, MS_ELOST, MS_ETHROTTLED, MS_ETIMEDOUT, MS_EAUTH (credentials may be corrected), MS_ENOSPC, MS_EIO. */
bool ms_code_retryable(enum ms_code code);
/* Exit code of the command line: 0 done, 1 failed, 2 usage/URL/config, 3 not restorable or verification failed, 4 fenced. */
int ms_code_exit(enum ms_code code);

#endif
