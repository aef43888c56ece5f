#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const names[MS_ECODE_MAX] = {
    [MS_OK] = "ok",
    [MS_EIO] = "io",
    [MS_ENOMEM] = "no-memory",
    [MS_ENOSPC] = "no-space",
    [MS_EPERM] = "permission-denied",
    [MS_EUSAGE] = "usage",
    [MS_ECONFIG] = "config",
    [MS_EINVAL] = "invalid-argument",
    [MS_ENOTFOUND] = "not-found",
    [MS_EEXISTS] = "exists",
    [MS_EBUSY] = "busy",
    [MS_EMODE] = "wrong-mode",
    [MS_ECORRUPT] = "corrupt",
    [MS_EUNSUPPORTED] = "unsupported",
    [MS_EGAP] = "gap",
    [MS_ENOTRESTORABLE] = "not-restorable",
    [MS_EFENCED] = "fenced",
    [MS_ERETRY] = "retry",
    [MS_ETHROTTLED] = "throttled",
    [MS_EAUTH] = "auth",
    [MS_ECONFLICT] = "conflict",
    [MS_EPERMANENT] = "permanent",
    [MS_ECANCELED] = "canceled",
    [MS_ETIMEDOUT] = "timed-out",
    [MS_ETOOBIG] = "too-big",
    [MS_EDROPPED] = "dropped",
    [MS_ECLOSED] = "closed",
    [MS_ELOST] = "lost",
};

/* vsnprintf() that marks a cut with an ellipsis. Returns the length written. */
static size_t print(char *to, size_t cap, const char *fmt, va_list ap) {
	int n = vsnprintf(to, cap, fmt, ap);

	if (n < 0) {
		to[0] = '\0';
		return 0;
	}
	if ((size_t)n < cap)
		return (size_t)n;
	memcpy(to + cap - 4, "...", 4);
	return cap - 1;
}

static void append(char *to, size_t cap, size_t *len, const char *text) {
	size_t n = strlen(text), room = cap - 1 - *len;

	if (n > room) {
		memcpy(to + *len, text, room);
		memcpy(to + cap - 4, "...", 4);
		*len = cap - 1;
		return;
	}
	memcpy(to + *len, text, n + 1);
	*len += n;
}

enum ms_code ms_err_set(struct ms_err *err, enum ms_code code, const char *fmt, ...) {
	if (err) {
		char msg[sizeof err->msg]; /* the arguments may point into err->msg */
		va_list ap;

		va_start(ap, fmt);
		size_t len = print(msg, sizeof msg, fmt, ap);
		va_end(ap);
		err->code = code;
		err->sys = 0;
		memcpy(err->msg, msg, len + 1);
	}
	return code;
}

static enum ms_code code_of_errno(int sys, enum ms_code fallback) {
	switch (sys) {
	case ENOSPC:
	case EDQUOT:
		return MS_ENOSPC;
	case EACCES:
	case EPERM:
		return MS_EPERM;
	case ENOENT:
		return MS_ENOTFOUND;
	case EEXIST:
		return MS_EEXISTS;
	default:
		return fallback;
	}
}

enum ms_code ms_err_sys(struct ms_err *err, int sys, enum ms_code fallback, const char *fmt, ...) {
	enum ms_code code = code_of_errno(sys, fallback);

	if (err) {
		char msg[sizeof err->msg], reason[128] = "";
		va_list ap;

		va_start(ap, fmt);
		size_t len = print(msg, sizeof msg, fmt, ap);
		va_end(ap);
		append(msg, sizeof msg, &len, ": ");
		/* The GNU variant: returns the text, not always in the buffer. */
		append(msg, sizeof msg, &len, strerror_r(sys, reason, sizeof reason));
		err->code = code;
		err->sys = sys;
		memcpy(err->msg, msg, len + 1);
	}
	return code;
}

enum ms_code ms_err_wrap(struct ms_err *err, const char *fmt, ...) {
	char msg[sizeof err->msg];
	va_list ap;

	if (!err)
		return MS_EINVAL;
	va_start(ap, fmt);
	size_t len = print(msg, sizeof msg, fmt, ap);
	va_end(ap);
	append(msg, sizeof msg, &len, ": ");
	append(msg, sizeof msg, &len, err->msg);
	memcpy(err->msg, msg, len + 1);
	return err->code;
}

const char *ms_code_name(enum ms_code code) {
	if ((unsigned)code >= MS_ECODE_MAX)
		return "unknown";
	return names[code];
}

bool ms_code_retryable(enum ms_code code) {
	switch (code) {
	case MS_ERETRY:
	case MS_ELOST:
	case MS_ETHROTTLED:
	case MS_ETIMEDOUT:
	case MS_EAUTH:
	case MS_ENOSPC:
	case MS_EIO:
		return true;
	default:
		return false;
	}
}

int ms_code_exit(enum ms_code code) {
	switch (code) {
	case MS_OK:
		return 0;
	case MS_EUSAGE:
	case MS_ECONFIG:
		return 2;
	case MS_ENOTRESTORABLE:
	case MS_ECORRUPT:
	case MS_EGAP:
		return 3;
	case MS_EFENCED:
		return 4;
	default:
		return 1;
	}
}
