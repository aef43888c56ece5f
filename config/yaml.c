/*
 * libfyaml's events to a tree. Events, not libfyaml's own documents, because these carry positions of mappings, let us stop at the second
 * document, and never expand an alias. Recursion is bounded by MS_YAML_DEPTH.
 */
#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>
#include "config/yaml.h"

struct loader {
	struct ms_yaml *y;
	struct fy_parser *parser;
	struct ms_err *err;
	unsigned line, column; /* of the last event that had a position */
};

static void quiet(struct fy_diag *diag, void *user, const char *buf, size_t len) {
	(void)diag, (void)user, (void)buf, (void)len;
}

static enum ms_code fail(struct loader *l, unsigned line, unsigned column, const char *text) {
	return ms_err_set(l->err, MS_ECONFIG, "%s:%u:%u: %s", l->y->file, line, column, text);
}

/* What libfyaml has collected, or where we were. */
static enum ms_code syntax(struct loader *l) {
	void *prev = NULL;
	struct fy_diag *diag = fy_parser_get_diag(l->parser);
	struct fy_diag_error *e = diag ? fy_diag_errors_iterate(diag, &prev) : NULL;
	enum ms_code code;
	if (e && e->msg) {
		unsigned line = e->line > 0 ? (unsigned)e->line : l->line, column = e->column > 0 ? (unsigned)e->column : l->column;
		code = ms_err_set(l->err, MS_ECONFIG, "%s:%u:%u: not valid YAML: %.200s", l->y->file, line, column, e->msg);
	} else {
		code = fail(l, l->line, l->column, "not valid YAML");
	}
	fy_diag_unref(diag);
	return code;
}

static void where(struct loader *l, struct fy_token *t) {
	const struct fy_mark *m = t ? fy_token_start_mark(t) : NULL;
	if (m)
		l->line = (unsigned)m->line + 1, l->column = (unsigned)m->column + 1;
}

/* The marks of quoted scalars and aliases stand behind the quote or asterisk. */
static void where_quoted(struct loader *l, struct fy_token *t, bool quoted) {
	where(l, t);
	if (t && quoted && l->column > 1)
		l->column--;
}

static enum ms_code node_new(struct loader *l, enum ms_yaml_type type, struct ms_yaml_node **ret) {
	if (l->y->nodes_ >= MS_YAML_NODES)
		return fail(l, l->line, l->column, "too many values");
	struct ms_yaml_node *n = calloc(1, sizeof *n);
	if (!n)
		return ms_err_set(l->err, MS_ENOMEM, "%s: out of memory", l->y->file);
	n->type = type;
	n->line = l->line, n->column = l->column;
	n->next_ = l->y->all_;
	l->y->all_ = n;
	l->y->nodes_++;
	*ret = n;
	return MS_OK;
}

static enum ms_code push(struct loader *l, struct ms_yaml_node *parent, struct ms_yaml_node *item, unsigned used) {
	if (used == parent->cap) {
		unsigned cap = parent->cap ? parent->cap * 2 : 8;
		struct ms_yaml_node **items = reallocarray(parent->items, cap, sizeof *items);
		if (!items)
			return ms_err_set(l->err, MS_ENOMEM, "%s: out of memory", l->y->file);
		parent->items = items, parent->cap = cap;
	}
	parent->items[used] = item;
	return MS_OK;
}

static enum ms_code scalar(struct loader *l, struct fy_event *e, struct ms_yaml_node **ret) {
	size_t len = 0;
	const char *text = e->scalar.value ? fy_token_get_text(e->scalar.value, &len) : "";
	if (!text)
		text = "", len = 0;
	if (memchr(text, 0, len))
		return fail(l, l->line, l->column, "a value holds a NUL byte");
	enum ms_code code = node_new(l, MS_YAML_SCALAR, ret);
	if (code)
		return code;
	(*ret)->plain = fy_token_scalar_style(e->scalar.value) == FYSS_PLAIN;
	(*ret)->text = strndup(text, len);
	return (*ret)->text ? MS_OK : ms_err_set(l->err, MS_ENOMEM, "%s: out of memory", l->y->file);
}

/* Reads one node, or sets *ret to NULL at the end of the enclosing collection or document. */
static enum ms_code node(struct loader *l, unsigned depth, struct ms_yaml_node **ret);

static enum ms_code duplicate(struct loader *l, const struct ms_yaml_node *map, const struct ms_yaml_node *key) {
	for (unsigned i = 0; i < map->n; i++)
		if (strcmp(ms_yaml_key(map, i)->text, key->text) == 0)
			return ms_err_set(l->err, MS_ECONFIG, "%s:%u:%u: %.100s: given twice, first in line %u", l->y->file, key->line,
					  key->column, key->text, ms_yaml_key(map, i)->line);
	return MS_OK;
}

static enum ms_code mapping(struct loader *l, unsigned depth, struct ms_yaml_node *map) {
	for (;;) {
		struct ms_yaml_node *key = NULL, *value = NULL;
		enum ms_code code = node(l, depth, &key);
		if (code || !key)
			return code;
		if (key->type != MS_YAML_SCALAR)
			return fail(l, key->line, key->column, "a key must be plain text");
		if (map->n >= MS_YAML_KEYS)
			return fail(l, key->line, key->column, "too many keys in one mapping");
		code = duplicate(l, map, key);
		if (!code)
			code = node(l, depth, &value);
		if (code)
			return code;
		if (!value)
			return fail(l, key->line, key->column, "a key without a value");
		if ((code = push(l, map, key, 2 * map->n)) || (code = push(l, map, value, 2 * map->n + 1)))
			return code;
		if (map->n++ == 0 && key->line == map->line && key->column < map->column)
			map->column = key->column;
	}
}

static enum ms_code node(struct loader *l, unsigned depth, struct ms_yaml_node **ret) {
	struct fy_event *e = fy_parser_parse(l->parser);
	if (!e)
		return syntax(l);
	enum ms_code code = MS_OK;
	struct ms_yaml_node *n = NULL;
	switch (e->type) {
	case FYET_SCALAR:
		where_quoted(l, e->scalar.value,
			     fy_token_scalar_style(e->scalar.value) == FYSS_SINGLE_QUOTED || fy_token_scalar_style(e->scalar.value) == FYSS_DOUBLE_QUOTED);
		code = e->scalar.tag ? fail(l, l->line, l->column, "tags are not used here") : scalar(l, e, &n);
		break;
	case FYET_ALIAS:
		where_quoted(l, e->alias.anchor, true);
		code = fail(l, l->line, l->column, "aliases are not used here: what all databases share stands at the top level");
		break;
	case FYET_MAPPING_START:
	case FYET_SEQUENCE_START: {
		bool map = e->type == FYET_MAPPING_START;
		where(l, map ? e->mapping_start.mapping_start : e->sequence_start.sequence_start);
		if (map ? e->mapping_start.tag : e->sequence_start.tag)
			code = fail(l, l->line, l->column, "tags are not used here");
		else if (depth >= MS_YAML_DEPTH)
			code = fail(l, l->line, l->column, "nested too deeply");
		else
			code = node_new(l, map ? MS_YAML_MAP : MS_YAML_LIST, &n);
		fy_parser_event_free(l->parser, e);
		e = NULL;
		if (!code && map)
			code = mapping(l, depth + 1, n);
		while (!code && !map) {
			struct ms_yaml_node *item = NULL;
			code = node(l, depth + 1, &item);
			if (code || !item)
				break;
			code = push(l, n, item, n->n);
			n->n++;
		}
		break;
	}
	case FYET_MAPPING_END:
	case FYET_SEQUENCE_END:
	case FYET_DOCUMENT_END:
		break;
	default:
		code = fail(l, l->line, l->column, "not valid YAML");
		break;
	}
	fy_parser_event_free(l->parser, e);
	if (!code)
		*ret = n;
	return code;
}

static enum ms_code stream(struct loader *l) {
	bool document = false;
	for (;;) {
		struct fy_event *e = fy_parser_parse(l->parser);
		if (!e)
			return syntax(l);
		enum fy_event_type type = e->type;
		if (type == FYET_DOCUMENT_START)
			where(l, e->document_start.document_start);
		fy_parser_event_free(l->parser, e);
		if (type == FYET_STREAM_END)
			return MS_OK;
		if (type != FYET_DOCUMENT_START)
			continue;
		if (document)
			return fail(l, l->line, l->column, "a second document: a configuration is one");
		document = true;
		enum ms_code code = node(l, 0, &l->y->root);
		if (code)
			return code;
	}
}

/* Length of the UTF-8 sequence at s (n bytes left), 0 when it is none. */
static size_t utf8_len(const unsigned char *s, size_t n) {
	size_t len = s[0] < 0x80 ? 1 : (s[0] & 0xe0) == 0xc0 && s[0] > 0xc1 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : (s[0] & 0xf8) == 0xf0 && s[0] < 0xf5 ? 4 : 0;
	if (!len || len > n)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

/* What libfyaml must not see: it never comes back from a directive with invalid UTF-8 (0.7.12), and steps over NUL bytes. */
static enum ms_code screen(const char *file, const char *text, size_t len, struct ms_err *err) {
	unsigned line = 1, column = 1;
	for (size_t i = 0, n; i < len; i += n, column++) {
		const unsigned char *s = (const unsigned char *)text + i;
		const char *what = NULL;
		n = utf8_len(s, len - i);
		if (!n)
			what = "not UTF-8 text";
		else if (!*s)
			what = "a NUL byte: not a text file";
		else if (*s == '%' && column == 1)
			what = "YAML directives are not used here";
		if (what)
			return ms_err_set(err, MS_ECONFIG, "%s:%u:%u: %s", file, line, column, what);
		if (*s == '\n')
			line++, column = 0;
	}
	return MS_OK;
}

enum ms_code ms_yaml_parse(const char *file, const char *text, size_t len, struct ms_yaml *ret, struct ms_err *err) {
	struct ms_yaml y = {.file = file};
	struct loader l = {.y = &y, .err = err, .line = 1, .column = 1};
	enum ms_code code;
	struct fy_diag *diag = NULL;
	struct fy_diag_cfg dcfg;
	struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET | FYPCF_JSON_NONE | FYPCF_DISABLE_MMAP_OPT | FYPCF_COLLECT_DIAG};
	if ((code = screen(file, text, len, err)))
		return code;
	fy_diag_cfg_default(&dcfg);
	dcfg.fp = NULL, dcfg.output_fn = quiet;
	if (!(diag = fy_diag_create(&dcfg))) {
		code = ms_err_set(err, MS_ENOMEM, "%s: out of memory", file);
		goto out;
	}
	fy_diag_set_collect_errors(diag, true);
	cfg.diag = diag;
	l.parser = fy_parser_create(&cfg);
	if (!l.parser || fy_parser_set_string(l.parser, text, len)) {
		code = ms_err_set(err, MS_ENOMEM, "%s: the YAML reader does not start", file);
		goto out;
	}
	code = stream(&l);
out:
	if (l.parser)
		fy_parser_destroy(l.parser);
	fy_diag_destroy(diag);
	if (code)
		ms_yaml_release(&y);
	else
		*ret = y;
	return code;
}

void ms_yaml_release(struct ms_yaml *y) {
	for (struct ms_yaml_node *n = y->all_; n;) {
		struct ms_yaml_node *next = n->next_;
		free(n->text);
		free(n->items);
		free(n);
		n = next;
	}
	y->all_ = y->root = NULL;
	y->nodes_ = 0;
}
