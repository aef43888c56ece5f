/* Environment expansion in values: ${VAR}, ${VAR:-default}; $${ is a literal ${. Private to config/. */
#ifndef MS_CONFIG_EXPAND_H
#define MS_CONFIG_EXPAND_H

#include "base/err.h"

#define MS_EXPAND_MAX 65536u /* bytes of one expanded value */

/* *ret is to be freed. *ret_expanded: a variable or its default was put in. A variable that is not set (or is empty, with :-) takes the default; without one it is
 * MS_ECONFIG. Reads the environment: before threads exist. The message has no position; it never holds a value. */
enum ms_code ms_expand(const char *text, char **ret, bool *ret_expanded, struct ms_err *err) MS_WARN_UNUSED;
/* The other way: every "${" as "$${". */
enum ms_code ms_expand_escape(const char *text, char **ret, struct ms_err *err) MS_WARN_UNUSED;
/* text with every {db} replaced by name; *ret_n = how many. */
enum ms_code ms_expand_db(const char *text, const char *name, char **ret, unsigned *ret_n, struct ms_err *err) MS_WARN_UNUSED;

#endif
