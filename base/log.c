/*
 * A line is put together on the stack in two steps: the caller's pairs are formatted as logfmt, and then written out with
 * control characters and broken UTF-8 escaped, either as logfmt again or, pair by pair, as JSON. The sizes are such that
 * the second step always fits: no input byte becomes more than six.
 */
#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/timefmt.h"

#define MSG_MAX 512
#define KV_MAX 3072
#define LINE_MAX_ (6 * (MSG_MAX + KV_MAX) + 256)

static atomic_int log_fd = STDERR_FILENO;
static atomic_int log_level = MS_LOG_INFO;
static atomic_bool log_json;

struct line {
	size_t len;
	char text[LINE_MAX_];
};

void ms_log_configure(int fd, enum ms_log_level level, bool json) {
	atomic_store_explicit(&log_fd, fd, memory_order_relaxed);
	atomic_store_explicit(&log_json, json, memory_order_relaxed);
	atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

bool ms_log_enabled(enum ms_log_level level) {
	return level != MS_LOG_OFF && (int)level >= atomic_load_explicit(&log_level, memory_order_relaxed);
}

/* Length of the well-formed UTF-8 sequence at p that may be shown as it is; 0 for a broken one and for C1 controls. */
static size_t utf8_len(const unsigned char *p, size_t n) {
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t len = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
	if (len < 2 || len > n)
		return len == 1;
	uint32_t c = p[0] & (0x7fu >> len);

	for (size_t i = 1; i < len; i++) {
		if (p[i] >> 6 != 2)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) || (c >= 0x80 && c < 0xa0))
		return 0;
	return len;
}

/* The form of the character at p in to (at most 6 bytes); *ret_used bytes of p were taken. Quotes and backslashes are
 * escaped on demand. The escapes are those that JSON and logfmt share. */
static size_t escape(char to[8], const unsigned char *p, size_t n, bool quoted, size_t *ret_used) {
	size_t len = utf8_len(p, n);

	*ret_used = len ? len : 1;
	if (len == 0) {
		memcpy(to, "\\ufffd", 6);
		return 6;
	}
	if (len > 1) {
		memcpy(to, p, len);
		return len;
	}
	char c = (char)p[0];
	char short_form = c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : quoted && (c == '"' || c == '\\') ? c : '\0';
	if (short_form) {
		to[0] = '\\';
		to[1] = short_form;
		return 2;
	}
	if (p[0] < 0x20 || p[0] == 0x7f) {
		static const char hex[] = "0123456789abcdef";
		memcpy(to, "\\u00", 4);
		to[4] = hex[p[0] >> 4];
		to[5] = hex[p[0] & 15];
		return 6;
	}
	to[0] = c;
	return 1;
}

static void put(struct line *l, const char *text, size_t n) {
	memcpy(l->text + l->len, text, n);
	l->len += n;
}

static void put_str(struct line *l, const char *text) {
	put(l, text, strlen(text));
}

static void put_escaped(struct line *l, const char *text, size_t n, bool quoted) {
	for (size_t i = 0, used; i < n; i += used) {
		char form[8];
		size_t len = escape(form, (const unsigned char *)text + i, n - i, quoted, &used);

		put(l, form, len);
	}
}

static size_t skip_digits(const char *s, size_t n, size_t i) {
	while (i < n && s[i] >= '0' && s[i] <= '9')
		i++;
	return i;
}

/* What JSON writes without quotes. */
static bool is_bare_json(const char *s, size_t n) {
	size_t i = 0, from;

	if ((n == 4 && memcmp(s, "true", 4) == 0) || (n == 5 && memcmp(s, "false", 5) == 0) ||
	    (n == 4 && memcmp(s, "null", 4) == 0))
		return true;
	if (i < n && s[i] == '-')
		i++;
	from = i;
	i = skip_digits(s, n, i);
	if (i == from || (s[from] == '0' && i > from + 1))
		return false;
	if (i < n && s[i] == '.') {
		from = ++i;
		if ((i = skip_digits(s, n, i)) == from)
			return false;
	}
	return i == n;
}

static bool is_hex(char c) {
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Length of the JSON escape at s, 0 if there is none. */
static size_t json_escape_len(const char *s, size_t n) {
	if (n < 2 || s[0] != '\\')
		return 0;
	if (strchr("\"\\/bfnrt", s[1]) && s[1])
		return 2;
	if (n >= 6 && s[1] == 'u' && is_hex(s[2]) && is_hex(s[3]) && is_hex(s[4]) && is_hex(s[5]))
		return 6;
	return 0;
}

/* A quoted logfmt value, s at its opening quote, as a JSON string. Returns the bytes taken. */
static size_t put_quoted_json(struct line *l, const char *s, size_t n) {
	size_t i = 1;

	put(l, "\"", 1);
	while (i < n && s[i] != '"') {
		size_t len = json_escape_len(s + i, n - i);

		if (len) {
			put(l, s + i, len);
			i += len;
			continue;
		}
		char form[8];
		size_t used;
		len = escape(form, (const unsigned char *)s + i, n - i, true, &used);
		put(l, form, len);
		i += used;
	}
	put(l, "\"", 1);
	return i < n ? i + 1 : n;
}

static void put_pairs_json(struct line *l, const char *kv, size_t n) {
	size_t i = 0;

	while (i < n) {
		if (kv[i] == ' ') {
			i++;
			continue;
		}
		size_t key = i;
		while (i < n && kv[i] != '=' && kv[i] != ' ')
			i++;
		put(l, ",\"", 2);
		put_escaped(l, kv + key, i - key, true);
		put(l, "\":", 2);
		if (i == n || kv[i] == ' ') {
			put(l, "true", 4);
			continue;
		}
		i++;
		if (i < n && kv[i] == '"') {
			i += put_quoted_json(l, kv + i, n - i);
			continue;
		}
		size_t value = i;
		while (i < n && kv[i] != ' ')
			i++;
		if (is_bare_json(kv + value, i - value)) {
			put(l, kv + value, i - value);
			continue;
		}
		put(l, "\"", 1);
		put_escaped(l, kv + value, i - value, true);
		put(l, "\"", 1);
	}
}

static void write_line(const struct line *l) {
	int fd = atomic_load_explicit(&log_fd, memory_order_relaxed);

	for (size_t at = 0; at < l->len;) {
		ssize_t n = write(fd, l->text + at, l->len - at);

		if (n > 0)
			at += (size_t)n;
		else if (errno != EINTR)
			return; /* there is nowhere left to tell it */
	}
}

void ms_log(enum ms_log_level level, const char *msg, const char *kv, ...) {
	static const char *const names[] = {"debug", "info", "warn", "error"};
	char pairs[KV_MAX] = "", when[32];
	struct line l;
	struct timespec now;
	bool json = atomic_load_explicit(&log_json, memory_order_relaxed);
	int saved = errno;

	if (!ms_log_enabled(level))
		return;
	if (kv) {
		va_list ap;

		va_start(ap, kv);
		int n = vsnprintf(pairs, sizeof pairs, kv, ap);
		va_end(ap);
		if (n >= (int)sizeof pairs)
			memcpy(pairs + sizeof pairs - 4, "...", 4);
	}
	size_t pairs_len = strlen(pairs), msg_len = strnlen(msg, MSG_MAX);
	clock_gettime(CLOCK_REALTIME, &now);
	ms_time_format(when, now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000);

	l.len = 0;
	put_str(&l, json ? "{\"time\":\"" : "time=");
	put_str(&l, when);
	put_str(&l, json ? "\",\"level\":\"" : " level=");
	put_str(&l, names[level]);
	put_str(&l, json ? "\",\"msg\":\"" : " msg=\"");
	put_escaped(&l, msg, msg_len, true);
	put(&l, "\"", 1);
	if (json) {
		put_pairs_json(&l, pairs, pairs_len);
		put(&l, "}", 1);
	} else if (pairs_len) {
		put(&l, " ", 1);
		put_escaped(&l, pairs, pairs_len, false);
	}
	put(&l, "\n", 1);
	write_line(&l);
	errno = saved;
}

/* A bare number or word would change its JSON type with its value, so text that looks like one is quoted too. */
static bool needs_quotes(const char *text, size_t n) {
	if (n == 0 || is_bare_json(text, n))
		return true;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] <= ' ' || text[i] == '"' || text[i] == '=' || text[i] == '\\' ||
		    (unsigned char)text[i] >= 0x7f)
			return true;
	return false;
}

const char *ms_log_q(char *buf, size_t cap, const char *text) {
	size_t n = text ? strlen(text) : 0, len = 0;

	if (cap == 0)
		return "";
	if (!needs_quotes(text, n) && n < cap) {
		memcpy(buf, text, n + 1);
		return buf;
	}
	if (cap < 6) { /* quotes, ellipsis, terminator */
		buf[0] = '\0';
		return buf;
	}
	size_t fit = 1; /* where an ellipsis still fits */
	buf[len++] = '"';
	for (size_t i = 0, used; i < n; i += used) {
		char form[8];
		size_t k = escape(form, (const unsigned char *)text + i, n - i, true, &used);

		if (len + k + 2 > cap) {
			memcpy(buf + fit, "...\"", 5);
			return buf;
		}
		memcpy(buf + len, form, k);
		len += k;
		if (len + 5 <= cap)
			fit = len;
	}
	memcpy(buf + len, "\"", 2);
	return buf;
}
