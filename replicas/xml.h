/*
 * XML answers (S3, STS) as a flat walk: one call for each element that ends, with its path and its own text. Pure; any thread.
 * Bounds: depth 16, a path of 255 bytes, text of 64 KiB an element (mixed content is joined); a document type is refused, so that no entity but the five
 * of XML is ever expanded. Namespaces are not looked at: prefixes are cut off.
 */
#ifndef MS_REPLICAS_XML_H
#define MS_REPLICAS_XML_H

#include <stddef.h>
#include "base/err.h"

/* path: "/ListBucketResult/Contents/Key". `end` is false at an element's start (text then "") and true at its end. Any code but MS_OK ends the walk. */
typedef enum ms_code (*ms_xml_cb)(void *arg, const char *path, const char *text, bool end, struct ms_err *err);

/* MS_ECORRUPT: not well-formed, or beyond a bound. */
enum ms_code ms_xml_walk(const void *data, size_t len, ms_xml_cb cb, void *arg, struct ms_err *err) MS_WARN_UNUSED;

#endif
