#include "cmd/doctor.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>

#include "base/timefmt.h"

void ms_doctor_init(struct ms_doctor *d, struct ms_env *env) {
	*d = (struct ms_doctor){.env = env};
}

void ms_doctor_release(struct ms_doctor *d) {
	free(d->checks);
	d->checks = NULL;
	d->n = d->cap = 0;
}

void ms_doctor_add(struct ms_doctor *d, enum ms_finding result, const char *name, const char *subject, const char *advice, const char *fmt, ...) {
	va_list ap;
	if (d->n == d->cap) {
		unsigned cap = d->cap ? 2 * d->cap : 32;
		struct ms_check *checks = reallocarray(d->checks, cap, sizeof *checks);
		if (!checks) {
			d->out_of_memory = true;
			return;
		}
		d->checks = checks, d->cap = cap;
	}
	struct ms_check *c = &d->checks[d->n++];
	memset(c, 0, sizeof *c);
	c->result = result;
	snprintf(c->name, sizeof c->name, "%s", name);
	snprintf(c->subject, sizeof c->subject, "%s", subject);
	snprintf(c->advice, sizeof c->advice, "%s", advice ? advice : "");
	va_start(ap, fmt);
	vsnprintf(c->message, sizeof c->message, fmt, ap);
	va_end(ap);
}

bool ms_doctor_ok(const struct ms_doctor *d) {
	for (unsigned i = 0; i < d->n; i++)
		if (d->checks[i].result == MS_FINDING_FAIL)
			return false;
	return !d->out_of_memory;
}

static const char *const results[] = {"ok", "warn", "fail"};

void ms_doctor_print(const struct ms_doctor *d, FILE *out) {
	const char *subject = "";
	unsigned counts[3] = {0};
	for (unsigned i = 0; i < d->n; i++) {
		const struct ms_check *c = &d->checks[i];
		if (strcmp(subject, c->subject) != 0)
			fprintf(out, "%s\n", subject = c->subject);
		fprintf(out, "  %-5s %-16s %s\n", results[c->result], c->name, c->message);
		if (c->advice[0])
			fprintf(out, "        %-16s -> %s\n", "", c->advice);
		counts[c->result]++;
	}
	fprintf(out, "%u ok, %u warnings, %u failures\n", counts[MS_FINDING_OK], counts[MS_FINDING_WARN], counts[MS_FINDING_FAIL] + d->out_of_memory);
}

json_t *ms_doctor_json(const struct ms_doctor *d) {
	json_t *list = json_array(), *o = json_pack("{s:b,s:o}", "ok", ms_doctor_ok(d), "checks", list);
	for (unsigned i = 0; o && i < d->n; i++) {
		const struct ms_check *c = &d->checks[i];
		json_t *item = json_pack("{s:s,s:s,s:s,s:s}", "name", c->name, "subject", c->subject, "result", results[c->result], "message", c->message);
		if (!item)
			item = json_pack("{s:s,s:s,s:s}", "name", c->name, "result", results[c->result], "message", "(not UTF-8)");
		json_object_set_new(item, "advice", c->advice[0] ? json_string(c->advice) : json_null());
		json_array_append_new(list, item);
	}
	return o;
}

bool ms_sqlite_has_wal_reset_bug(uint32_t v) {
	if (v < 3007000 || v >= 3051003)
		return false;
	return !(v >= 3044006 && v < 3045000) && !(v >= 3050007 && v < 3051000);
}

void ms_doctor_system(struct ms_doctor *d) {
	static const char subject[] = "this machine";
	uint32_t v = (uint32_t)sqlite3_libversion_number();
	if (ms_sqlite_has_wal_reset_bug(v))
		ms_doctor_add(d, MS_FINDING_OK, "sqlite", subject, NULL,
			      "our SQLite is %s, which has the WAL-reset bug; we checkpoint only while a read mark is held, which keeps us from it", sqlite3_libversion());
	else
		ms_doctor_add(d, MS_FINDING_OK, "sqlite", subject, NULL, "our SQLite is %s", sqlite3_libversion());

	struct timex tx = {.modes = 0};
	int64_t now = ms_env_now_us(d->env);
	char text[32];
	int state = adjtimex(&tx);
	if (now < INT64_C(1704067200000000))
		ms_doctor_add(d, MS_FINDING_FAIL, "clock", subject, "set the clock: restores by time depend on it", "the clock says %s", ms_time_format(text, now));
	else if (state >= 0 && (state == TIME_ERROR || (tx.status & STA_UNSYNC)))
		ms_doctor_add(d, MS_FINDING_WARN, "clock", subject, "run an NTP client (chrony, systemd-timesyncd): restores by time depend on the clock",
			      "the clock says %s and is not synchronised", ms_time_format(text, now));
	else
		ms_doctor_add(d, MS_FINDING_OK, "clock", subject, NULL, "the clock says %s", ms_time_format(text, now));
}
