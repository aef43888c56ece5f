/*
 * A replica of any kind, proven by probe objects through its driver: reached, written, refused a second time (the primitive that ownership rests on), read
 * back whole and in part, listed, removed, gone; then the speed, with a larger one. Where writing is refused the other rights are tried all the same, so
 * that one look shows all that is missing. Whatever fails, the probes are removed at the end.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fs.h"
#include "base/timefmt.h"
#include "cmd/doctor.h"

#define PROBE_BYTES 4096
#define SPEED_BYTES (2u << 20)
#define CLOCK_TOLERANCE_US INT64_C(5000000)

struct exam {
	struct ms_doctor *d;
	const char *subject;
	const struct ms_replica_spec *spec;
	struct ms_replica *r;
	bool fencing_none;
	char name[32];
	uint8_t data[PROBE_BYTES];
	int64_t put_us, get_us; /* how long the small one took */
	bool rights_missing;
};

static const char *advice_for(enum ms_code code) {
	switch (code) {
	case MS_EAUTH:
		return "check the credentials, and the environment they come from";
	case MS_EPERM:
		return "give migstream the right to do this there";
	case MS_ENOTFOUND:
		return "create the directory or bucket, or correct the address";
	case MS_ENOSPC:
		return "make room there";
	case MS_ETIMEDOUT:
	case MS_ERETRY:
		return "check the address, the network and the server";
	case MS_ETHROTTLED:
		return "the server asks to slow down: raise minInterval, or its limits";
	default:
		return "correct the replica's address and options";
	}
}

static bool failed(struct exam *e, const char *name, const struct ms_err *err) {
	e->rights_missing |= err->code == MS_EPERM;
	ms_doctor_add(e->d, MS_FINDING_FAIL, name, e->subject, advice_for(err->code), "%s (%s)", err->msg, ms_code_name(err->code));
	return false;
}

static void ok(struct exam *e, const char *name, const char *text) { ms_doctor_add(e->d, MS_FINDING_OK, name, e->subject, NULL, "%s", text); }

static int64_t mono_us(struct exam *e) { return (int64_t)(ms_env_mono_ns(e->d->env) / 1000); }

/* A backend with the option `create` makes its place at the first claim. Doctor must not: an unmounted mount point would be filled. */
static bool made_later(struct ms_replica *r) {
	for (const struct ms_option_def *o = MS_REPLICA_DRIVER(r)->options; o && o->key; o++)
		if (strcmp(o->key, "create") == 0)
			return true;
	return false;
}

/* A file replica's directory is made, but not the one that it lies in. */
static bool parent_missing(const struct exam *e) {
	const char *path = strcmp(e->spec->scheme, "file") == 0 ? ms_replica_spec_get(e->spec, "path") : NULL;
	char parent[MS_PATH_MAX];
	struct ms_stat st;
	return path && ms_path_dir(parent, sizeof parent, path, NULL) == MS_OK && e->d->env->ops->stat(e->d->env, parent, &st, NULL) == MS_ENOTFOUND;
}

static bool is_on(const struct ms_replica_spec *s, const char *key) {
	const char *v = ms_replica_spec_get(s, key);
	return v && strcmp(v, "true") == 0;
}

static bool stop_at_first(void *arg, const struct ms_object *o) {
	(void)arg, (void)o;
	return false;
}

/* Nothing else makes sense where nobody answers, or knows us. */
static bool reach(struct exam *e) {
	struct ms_err err = MS_ERR_INIT;
	char took[32];
	int64_t start = mono_us(e);
	enum ms_code code = ms_replica_list(e->r, "probe/", NULL, stop_at_first, NULL, &err);
	int64_t us = mono_us(e) - start;
	if (code == MS_ERETRY || code == MS_ETIMEDOUT)
		return failed(e, "reachable", &err);
	if (code == MS_EAUTH)
		return failed(e, "credentials", &err);
	if (code == MS_ENOTFOUND && !made_later(e->r))
		return failed(e, "reachable", &err);
	if (code != MS_ENOTFOUND)
		ms_doctor_add(e->d, MS_FINDING_OK, "reachable", e->subject, NULL, "it answers, in %s", ms_duration_format(took, us));
	return true;
}

static bool put_once(struct exam *e) {
	struct ms_err err = MS_ERR_INIT;
	char took[32];
	int64_t start = mono_us(e);
	enum ms_code code = ms_replica_put_mem(e->r, e->name, e->data, PROBE_BYTES, &err);
	e->put_us = mono_us(e) - start;
	if (code == MS_ENOTFOUND && made_later(e->r) && !parent_missing(e)) {
		ms_doctor_add(e->d, MS_FINDING_WARN, "writable", e->subject,
			      "nothing to do for a new replica: `migstream replicate` makes it; else mount it or correct the address", "no replica is there yet: %s", err.msg);
		return false;
	}
	if (code)
		return failed(e, "writable", &err);
	ms_doctor_add(e->d, MS_FINDING_OK, "writable", e->subject, NULL, "an object of %d bytes was put in %s", PROBE_BYTES, ms_duration_format(took, e->put_us));
	return true;
}

/* True: the probe is what it was. */
static bool put_twice(struct exam *e, bool promised) {
	uint8_t other[16] = {0};
	struct ms_err err = MS_ERR_INIT;
	enum ms_code code = promised ? ms_replica_put_mem(e->r, e->name, other, sizeof other, &err) : MS_OK;
	if (code == MS_EEXISTS) {
		ok(e, "create-if-absent", "a second object of the same name is refused");
		return true;
	}
	if (code)
		return failed(e, "create-if-absent", &err);
	if (e->fencing_none)
		ms_doctor_add(e->d, MS_FINDING_WARN, "create-if-absent", e->subject, "make sure by other means that only one migstream writes there",
			      "the backend overwrites objects; `fencing: none` is set, so nothing stops a second writer");
	else
		ms_doctor_add(e->d, MS_FINDING_FAIL, "create-if-absent", e->subject,
			      "use a backend that can create only if absent, or set `fencing: none` and guard against a second writer",
			      "the backend overwrites an object of the same name: a second writer could not be stopped");
	return !promised;
}

/* Known only once something was put: it depends on what the server could sync. */
static void durable(struct exam *e) {
	struct ms_replica_caps caps;
	char settle[32];
	ms_replica_caps(e->r, &caps);
	if (caps.warning)
		ms_doctor_add(e->d, MS_FINDING_WARN, "redundancy", e->subject, "correct it there, or keep a second replica elsewhere", "%s", caps.warning);
	if (caps.settle_us <= 0)
		ok(e, "durable", "what it acknowledges is durable at once");
	else
		ms_doctor_add(e->d, MS_FINDING_WARN, "durable", e->subject, "nothing, if that will do: the journal here is kept until then; else use a server that syncs",
			      "it may lose what it has acknowledged for %s, should it crash", ms_duration_format(settle, caps.settle_us));
}

static void read_back(struct exam *e) {
	struct ms_buf got;
	struct ms_err err = MS_ERR_INIT;
	ms_buf_init(&got, 2 * PROBE_BYTES);
	int64_t start = mono_us(e);
	enum ms_code code = ms_replica_get_buf(e->r, e->name, 0, -1, &got, &err);
	e->get_us = mono_us(e) - start;
	if (code) {
		(void)failed(e, "readable", &err);
	} else if (got.len != PROBE_BYTES || memcmp(got.data, e->data, PROBE_BYTES) != 0) {
		ms_doctor_add(e->d, MS_FINDING_FAIL, "readable", e->subject, "do not use this backend", "the object came back different: %zu bytes for %d", got.len, PROBE_BYTES);
	} else {
		ms_buf_clear(&got);
		if (ms_replica_get_buf(e->r, e->name, 1000, 50, &got, &err))
			(void)failed(e, "readable", &err);
		else if (got.len != 50 || memcmp(got.data, e->data + 1000, 50) != 0)
			ms_doctor_add(e->d, MS_FINDING_FAIL, "readable", e->subject, "do not use this backend", "50 bytes from its middle came back as %zu, or different", got.len);
		else
			ok(e, "readable", "the object came back as it was put, whole and in part");
	}
	ms_buf_release(&got);
}

struct listing {
	const char *name;
	bool found;
	int64_t mtime_us;
};

static bool listed(void *arg, const struct ms_object *o) {
	struct listing *l = arg;
	if (strcmp(o->name, l->name) == 0)
		l->found = true, l->mtime_us = o->mtime_us;
	return true;
}

/* there: the probe has been put. */
static void list(struct exam *e, bool there, int64_t put_us) {
	struct listing l = {.name = e->name};
	struct ms_err err = MS_ERR_INIT;
	char by[32];
	if (ms_replica_list(e->r, "probe/", NULL, listed, &l, &err))
		(void)failed(e, "listable", &err);
	else if (there && !l.found)
		ms_doctor_add(e->d, MS_FINDING_FAIL, "listable", e->subject, "do not use this backend: restores rely on its listing", "the object is not in the listing");
	else
		ok(e, "listable", there ? "the object is in the listing" : "listing is allowed");
	int64_t skew = l.mtime_us ? l.mtime_us - put_us : 0;
	if (skew > CLOCK_TOLERANCE_US || skew < -CLOCK_TOLERANCE_US)
		ms_doctor_add(e->d, MS_FINDING_WARN, "clock", e->subject, "synchronise the clocks of this machine and of the server", "the server's clock is %s %s ours",
			      ms_duration_format(by, skew < 0 ? -skew : skew), skew < 0 ? "behind" : "ahead of");
}

static bool remove_probe(struct exam *e) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf got;
	if (ms_replica_remove(e->r, e->name, &err))
		return failed(e, "removable", &err);
	ms_buf_init(&got, 2 * PROBE_BYTES);
	bool gone = ms_replica_get_buf(e->r, e->name, 0, -1, &got, &err) == MS_ENOTFOUND;
	if (gone)
		ok(e, "removable", "the object was removed");
	else
		ms_doctor_add(e->d, MS_FINDING_WARN, "removable", e->subject, "look for versioning or object lock: retention frees no space there",
			      "the object is still there after its removal");
	ms_buf_release(&got);
	return gone;
}

/* Where nothing could be put: what of the rest is allowed? */
static void other_rights(struct exam *e) {
	struct ms_err err = MS_ERR_INIT;
	struct ms_buf got;
	ms_buf_init(&got, 2 * PROBE_BYTES);
	enum ms_code code = ms_replica_get_buf(e->r, e->name, 0, -1, &got, &err);
	if (code && code != MS_ENOTFOUND)
		(void)failed(e, "readable", &err);
	else
		ok(e, "readable", "reading is allowed: a missing object is reported as missing");
	ms_buf_release(&got);
	list(e, false, 0);
	if (ms_replica_remove(e->r, e->name, &err))
		(void)failed(e, "removable", &err);
	else
		ok(e, "removable", "removing is allowed");
}

static double rate(int64_t us) { return us > 0 ? (double)SPEED_BYTES / (1 << 20) / ((double)us / 1e6) : 0; }

static void speed(struct exam *e) {
	uint8_t *data = malloc(SPEED_BYTES);
	struct ms_buf got;
	struct ms_err err = MS_ERR_INIT;
	char put[32], get[32];
	ms_buf_init(&got, SPEED_BYTES);
	if (!data)
		return;
	ms_env_random(e->d->env, data, SPEED_BYTES);
	int64_t t0 = mono_us(e);
	enum ms_code code = ms_replica_put_mem(e->r, e->name, data, SPEED_BYTES, &err);
	int64_t t1 = mono_us(e);
	if (!code)
		code = ms_replica_get_buf(e->r, e->name, 0, -1, &got, &err);
	int64_t t2 = mono_us(e);
	if (code)
		(void)failed(e, "speed", &err);
	else if (got.len != SPEED_BYTES || memcmp(got.data, data, SPEED_BYTES) != 0)
		ms_doctor_add(e->d, MS_FINDING_FAIL, "speed", e->subject, "do not use this backend", "an object of %u MiB came back different", SPEED_BYTES >> 20);
	else
		ms_doctor_add(e->d, MS_FINDING_OK, "speed", e->subject, NULL, "a small object takes %s to write and %s to read; one stream writes %.1f MiB/s and reads %.1f MiB/s",
			      ms_duration_format(put, e->put_us), ms_duration_format(get, e->get_us), rate(t1 - t0), rate(t2 - t1));
	(void)!ms_replica_remove(e->r, e->name, &err);
	ms_buf_release(&got);
	free(data);
}

static void examine(struct exam *e) {
	struct ms_replica_caps caps;
	if (!reach(e))
		return;
	ms_replica_caps(e->r, &caps);
	int64_t now = ms_env_now_us(e->d->env);
	unsigned before = e->d->n;
	if (put_once(e)) {
		durable(e);
		/* Where a second put went through, its bytes are what is there now. */
		if (put_twice(e, caps.create_if_absent))
			read_back(e);
		list(e, true, now);
		if (remove_probe(e))
			speed(e);
	} else if (e->d->n > before && e->d->checks[e->d->n - 1].result == MS_FINDING_FAIL) {
		other_rights(e);
	}
}

void ms_doctor_replica(struct ms_doctor *d, const char *subject, const struct ms_replica_spec *spec, bool fencing_none) {
	struct exam e = {.d = d, .subject = subject, .spec = spec, .fencing_none = fencing_none, .name = "probe/"};
	const struct ms_replica_driver *driver = ms_replica_driver_find(spec->scheme);
	struct ms_err err = MS_ERR_INIT;
	uint8_t id[8];
	ms_env_random(d->env, e.data, sizeof e.data);
	ms_env_random(d->env, id, sizeof id);
	for (unsigned i = 0; i < sizeof id; i++)
		snprintf(e.name + 6 + 2 * i, 3, "%02x", id[i]);
	if (is_on(spec, "insecureSkipVerify"))
		ms_doctor_add(d, MS_FINDING_WARN, "certificate", subject, "remove insecureSkipVerify, and name the server's authority with caFile",
			      "the server's certificate is not checked: anybody in between can read and change everything");
	if (ms_replica_open(d->env, spec, &e.r, &err)) {
		(void)failed(&e, "reachable", &err);
		return;
	}
	examine(&e);
	ms_replica_close(e.r);
	char rights[1200] = "";
	if (e.rights_missing && driver && driver->rights && driver->rights(spec, rights, sizeof rights)[0])
		ms_doctor_add(d, MS_FINDING_WARN, "rights", subject, rights, "these credentials lack rights; the smallest that are enough:");
}
