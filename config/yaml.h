/*
 * YAML (and so JSON) as a small tree that remembers where everything stood. One document, string keys, no aliases or tags; duplicate
 * keys are errors. Private to config/. Bounds: MS_YAML_* below; a tree is owned by one struct ms_yaml.
 */
#ifndef MS_CONFIG_YAML_H
#define MS_CONFIG_YAML_H

#include "base/err.h"

#define MS_YAML_DEPTH 12u	  /* levels of nesting */
#define MS_YAML_NODES 2000000u	  /* values and keys */
#define MS_YAML_KEYS 1000u	  /* keys of one mapping */

enum ms_yaml_type { MS_YAML_SCALAR, MS_YAML_MAP, MS_YAML_LIST };

struct ms_yaml_node {
	enum ms_yaml_type type;
	bool plain; /* a scalar written without quotes */
	char *text; /* scalar, terminated, without NUL bytes inside */
	struct ms_yaml_node **items; /* list: items; map: key, value, key, value ... */
	unsigned n;		     /* list: items; map: keys */
	unsigned cap;
	unsigned line, column; /* from 1 */
	struct ms_yaml_node *next_;
};

struct ms_yaml {
	const char *file; /* for errors, borrowed */
	struct ms_yaml_node *root; /* NULL: nothing but comments */
	struct ms_yaml_node *all_;
	unsigned nodes_;
};

enum ms_code ms_yaml_parse(const char *file, const char *text, size_t len, struct ms_yaml *ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_yaml_release(struct ms_yaml *y);
static inline const struct ms_yaml_node *ms_yaml_key(const struct ms_yaml_node *map, unsigned i) { return map->items[2 * i]; }
static inline const struct ms_yaml_node *ms_yaml_value(const struct ms_yaml_node *map, unsigned i) { return map->items[2 * i + 1]; }

#endif
