#include "core/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void ms_name_format(const struct ms_name *n, char ret[MS_NAME_MAX]) {
	const char *g = n->generation.s;
	switch (n->kind) {
	case MS_NAME_HEAD:
		snprintf(ret, MS_NAME_MAX, "head/%08" PRIx32, n->number);
		break;
	case MS_NAME_SEGMENT:
		snprintf(ret, MS_NAME_MAX, "%s/segments/%016" PRIx64 ".seg", g, n->first);
		break;
	case MS_NAME_SEGMENT_PART:
		snprintf(ret, MS_NAME_MAX, "%s/segments/%016" PRIx64 "+%04" PRIx32 ".seg", g, n->first, n->number);
		break;
	case MS_NAME_MERGED:
		snprintf(ret, MS_NAME_MAX, "%s/segments/%016" PRIx64 "-%016" PRIx64 "-%016" PRIx64 "-%016" PRIx64 ".seg", g, n->first, n->last,
			 (uint64_t)n->first_us, (uint64_t)n->last_us);
		break;
	case MS_NAME_SNAPSHOT:
		snprintf(ret, MS_NAME_MAX, "%s/snapshots/%016" PRIx64 "-%016" PRIx64 ".snap", g, n->first, (uint64_t)n->first_us);
		break;
	case MS_NAME_CHUNK:
		snprintf(ret, MS_NAME_MAX, "%s/chunks/%08" PRIx32 "-%016" PRIx64, g, n->number, n->hash);
		break;
	}
}

/* Exactly `digits` lower-case hex digits. */
static bool hex(const char **s, unsigned digits, uint64_t *ret) {
	uint64_t v = 0;
	for (unsigned i = 0; i < digits; i++) {
		char c = **s;
		if (c >= '0' && c <= '9')
			v = v << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
		++*s;
	}
	*ret = v;
	return true;
}

static bool hex32(const char **s, unsigned digits, uint32_t *ret) {
	uint64_t v;
	bool ok = hex(s, digits, &v);
	if (ok)
		*ret = (uint32_t)v;
	return ok;
}

static bool time_us(const char **s, int64_t *ret) {
	uint64_t v;
	bool ok = hex(s, 16, &v) && v <= INT64_MAX;
	if (ok)
		*ret = (int64_t)v;
	return ok;
}

static bool literal(const char **s, const char *text) {
	size_t n = strlen(text);
	bool ok = !strncmp(*s, text, n);
	if (ok)
		*s += n;
	return ok;
}

static bool segment(const char *s, struct ms_name *n) {
	if (!hex(&s, 16, &n->first) || !n->first)
		return false;
	if (literal(&s, "+")) {
		n->kind = MS_NAME_SEGMENT_PART;
		if (!hex32(&s, 4, &n->number) || !n->number)
			return false;
	} else if (literal(&s, "-")) {
		n->kind = MS_NAME_MERGED;
		if (!hex(&s, 16, &n->last) || n->last < n->first || !literal(&s, "-") || !time_us(&s, &n->first_us) || !literal(&s, "-") ||
		    !time_us(&s, &n->last_us) || n->last_us < n->first_us)
			return false;
	} else
		n->kind = MS_NAME_SEGMENT;
	return !strcmp(s, ".seg");
}

bool ms_name_parse(const char *s, struct ms_name *ret) {
	struct ms_name n = {.kind = MS_NAME_HEAD};
	if (literal(&s, "head/")) {
		if (!hex32(&s, 8, &n.number) || !n.number || *s)
			return false;
		*ret = n;
		return true;
	}
	if (strnlen(s, MS_GENERATION_LEN) < MS_GENERATION_LEN)
		return false;
	memcpy(n.generation.s, s, MS_GENERATION_LEN);
	s += MS_GENERATION_LEN;
	if (!ms_generation_valid(n.generation.s))
		return false;
	if (literal(&s, "/segments/")) {
		if (!segment(s, &n))
			return false;
	} else if (literal(&s, "/snapshots/")) {
		n.kind = MS_NAME_SNAPSHOT;
		if (!hex(&s, 16, &n.first) || !n.first || !literal(&s, "-") || !time_us(&s, &n.first_us) || strcmp(s, ".snap"))
			return false;
	} else if (literal(&s, "/chunks/")) {
		n.kind = MS_NAME_CHUNK;
		if (!hex32(&s, 8, &n.number) || !n.number || !literal(&s, "-") || !hex(&s, 16, &n.hash) || *s)
			return false;
	} else
		return false;
	*ret = n;
	return true;
}
