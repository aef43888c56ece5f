#include "replicas/s3_error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct meaning {
	const char *code; /* of the answer; ends with NULL */
	enum ms_code is;
	const char *advice;
};

#define KEYS_ADVICE "check accessKeyId and secretAccessKey, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

/* By code first: servers disagree on statuses. Codes that are not here are judged by status. */
static const struct meaning by_code[] = {
	{"PreconditionFailed", MS_EEXISTS, NULL},
	{"ConditionalRequestConflict", MS_ERETRY, "another writer is at the same name"},
	{"OperationAborted", MS_ERETRY, NULL},
	/* versitygw on a file system: a put meets the removal of the folder's last object. */
	{"ExistingObjectIsDirectory", MS_ERETRY, NULL},
	{"NoSuchKey", MS_ENOTFOUND, NULL},
	{"NoSuchBucket", MS_ENOTFOUND, "create the bucket, or correct its name, the endpoint or the region"},
	{"NoSuchUpload", MS_ERETRY, NULL}, /* swept, or completed by an answer that was lost: the next try finds out */
	{"InvalidAccessKeyId", MS_EAUTH, KEYS_ADVICE},
	{"SignatureDoesNotMatch", MS_EAUTH, "the secret key is wrong, or a proxy changes requests; " KEYS_ADVICE},
	{"AuthorizationHeaderMalformed", MS_EAUTH, "check region and credentials"},
	{"ExpiredToken", MS_EAUTH, "the temporary credentials have expired: renew them"},
	{"InvalidToken", MS_EAUTH, "the session token does not belong to these keys"},
	{"TokenRefreshRequired", MS_EAUTH, "renew the temporary credentials"},
	{"RequestTimeTooSkewed", MS_EAUTH, "set this machine's clock"},
	{"RequestExpired", MS_EAUTH, "set this machine's clock"},
	{"AccountProblem", MS_EAUTH, "ask the service about the account"},
	{"NotSignedUp", MS_EAUTH, "ask the service about the account"},
	{"AccessDenied", MS_EPERM, "give these credentials the right (docs/operations.md has the smallest policy)"},
	{"AllAccessDisabled", MS_EPERM, "the bucket is blocked by its owner or by the service"},
	{"SlowDown", MS_ETHROTTLED, NULL},
	{"ServiceUnavailable", MS_ETHROTTLED, NULL},
	{"Throttling", MS_ETHROTTLED, NULL},
	{"ThrottlingException", MS_ETHROTTLED, NULL},
	{"TooManyRequests", MS_ETHROTTLED, NULL},
	{"RequestLimitExceeded", MS_ETHROTTLED, NULL},
	{"BandwidthLimitExceeded", MS_ETHROTTLED, NULL},
	{"SlowDownRead", MS_ETHROTTLED, NULL},
	{"SlowDownWrite", MS_ETHROTTLED, NULL},
	{"RequestTimeout", MS_ERETRY, NULL},
	{"IncompleteBody", MS_ERETRY, NULL},
	{"InternalError", MS_ERETRY, NULL},
	{"BadDigest", MS_ERETRY, "the bytes were changed on their way"},
	{"InvalidDigest", MS_ERETRY, "the bytes were changed on their way"},
	{"XAmzContentSHA256Mismatch", MS_ERETRY, "the bytes were changed on their way"},
	{"InvalidPart", MS_ERETRY, NULL},
	{"QuotaExceeded", MS_ENOSPC, "the bucket's or account's quota is used up"},
	{"XMinioStorageFull", MS_ENOSPC, "the server's disks are full"},
	{"XMinioAdminBucketQuotaExceeded", MS_ENOSPC, "the bucket's quota is used up"},
	{"InsufficientStorage", MS_ENOSPC, "the server's disks are full"},
	{"InvalidObjectState", MS_EPERMANENT, "the object lies in an archive class: restore it there first"},
	{"PermanentRedirect", MS_EPERMANENT, "the bucket lies in another region: set `region` (and `endpoint`)"},
	{"TemporaryRedirect", MS_ERETRY, NULL},
	{"IllegalLocationConstraintException", MS_EPERMANENT, "the bucket lies in another region: set `region`"},
	{"NotImplemented", MS_EPERMANENT, "this server does not know a header or call that was used"},
	{"InvalidBucketName", MS_EPERMANENT, "correct the bucket's name"},
	{"KeyTooLongError", MS_EPERMANENT, "shorten the prefix"},
	{"InvalidRange", MS_EPERMANENT, NULL},
	{NULL, MS_OK, NULL},
};

static struct meaning by_status(int s) {
	switch (s) {
	case 301:
	case 307:
	case 308:
		return (struct meaning){"", MS_EPERMANENT, "the address redirects elsewhere: correct `endpoint` or `region`"};
	case 401:
		return (struct meaning){"", MS_EAUTH, KEYS_ADVICE};
	case 403:
		return (struct meaning){"", MS_EPERM, "check the credentials and their rights"};
	case 404:
		return (struct meaning){"", MS_ENOTFOUND, NULL};
	case 409:
		return (struct meaning){"", MS_ECONFLICT, NULL};
	case 412:
		return (struct meaning){"", MS_EEXISTS, NULL};
	case 408:
	case 425:
		return (struct meaning){"", MS_ERETRY, NULL};
	case 429:
	case 503:
		return (struct meaning){"", MS_ETHROTTLED, NULL};
	case 507:
		return (struct meaning){"", MS_ENOSPC, "the server has no room"};
	case 501:
	case 505:
		return (struct meaning){"", MS_EPERMANENT, "this server does not know what was asked"};
	default:
		if (s >= 500)
			return (struct meaning){"", MS_ERETRY, NULL};
		return (struct meaning){"", MS_EPERMANENT, NULL};
	}
}

static struct meaning meaning_of(const struct ms_s3_answer *a) {
	for (const struct meaning *m = by_code; a->fault.code[0] && m->code; m++)
		if (strcmp(m->code, a->fault.code) == 0)
			return *m;
	return by_status(a->status);
}

enum ms_code ms_s3_error(const struct ms_s3_answer *a, const char *subject, const char *what, struct ms_err *err) {
	struct meaning m = meaning_of(a);
	const char *id = a->request_id ? a->request_id : "";
	enum ms_code rc = ms_err_set(err, m.is, "%s: %s: %s%s%d%s%.160s%s%s%s%s%.40s%s", subject, what, a->fault.code[0] ? a->fault.code : "",
				     a->fault.code[0] ? ", HTTP " : "HTTP ", a->status, a->fault.message[0] ? ": " : "", a->fault.message,
				     m.advice ? " (" : "", m.advice ? m.advice : "", m.advice ? ")" : "", id[0] ? " [request " : "", id,
				     id[0] ? "]" : "");
	if (err) {
		err->sys = a->status;
		if (rc == MS_ETHROTTLED) {
			/* A date is possible too; then the schedule of the class is used. */
			long s = a->retry_after && strspn(a->retry_after, "0123456789") == strlen(a->retry_after) ? strtol(a->retry_after, NULL, 10) : 0;
			err->sys = s > 0 && s < 86400 ? (int)s : 0;
		}
	}
	return rc;
}

static bool is(const struct ms_s3_answer *a, const char *code) { return strcmp(a->fault.code, code) == 0; }

bool ms_s3_is_region(const struct ms_s3_answer *a) {
	return a->status == 301 || a->status == 307 || a->status == 308 || is(a, "PermanentRedirect") || is(a, "TemporaryRedirect") ||
	       is(a, "AuthorizationHeaderMalformed") || is(a, "IllegalLocationConstraintException") || is(a, "InvalidRegion");
}

bool ms_s3_is_clock(const struct ms_s3_answer *a) { return is(a, "RequestTimeTooSkewed") || is(a, "RequestExpired"); }

bool ms_s3_is_expired(const struct ms_s3_answer *a) { return is(a, "ExpiredToken") || is(a, "TokenRefreshRequired") || is(a, "InvalidToken"); }

bool ms_s3_wants_md5(const struct ms_s3_answer *a) {
	return a->status == 400 && (is(a, "MissingContentMD5") || ((is(a, "InvalidRequest") || is(a, "InvalidArgument")) && strcasestr(a->fault.message, "Content-MD5")));
}

bool ms_s3_not_implemented(const struct ms_s3_answer *a) { return a->status == 501 || is(a, "NotImplemented"); }
