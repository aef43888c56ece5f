#include "replicas/xml.h"

#include <expat.h>
#include <string.h>

#include "base/buf.h"

#define DEPTH_MAX 16
#define PATH_MAX_ 255
#define TEXT_MAX (64u << 10)
#define PIECE_MAX (1u << 20) /* expat counts in int */

struct walk {
	XML_Parser parser;
	ms_xml_cb cb;
	void *arg;
	struct ms_err *err;
	enum ms_code rc;
	unsigned depth;
	size_t npath, text_from[DEPTH_MAX]; /* where each open element's text begins */
	char path[PATH_MAX_ + 1];
	struct ms_buf text;
};

static void stop(struct walk *w, enum ms_code rc) {
	if (!w->rc) {
		w->rc = rc;
		XML_StopParser(w->parser, XML_FALSE);
	}
}

static void XMLCALL on_start(void *arg, const XML_Char *name, const XML_Char **attributes) {
	struct walk *w = arg;
	(void)attributes;
	if (w->rc)
		return;
	const char *colon = strrchr(name, ':');
	const char *local = colon ? colon + 1 : name;
	size_t n = strlen(local);
	if (w->depth == DEPTH_MAX || w->npath + 1 + n > PATH_MAX_) {
		stop(w, ms_err_set(w->err, MS_ECORRUPT, "XML is nested too deeply"));
		return;
	}
	w->path[w->npath] = '/';
	memcpy(w->path + w->npath + 1, local, n + 1);
	w->npath += n + 1;
	w->text_from[w->depth++] = w->text.len;
	enum ms_code rc = w->cb(w->arg, w->path, "", false, w->err);
	if (rc)
		stop(w, rc);
}

static void XMLCALL on_end(void *arg, const XML_Char *name) {
	struct walk *w = arg;
	(void)name;
	if (w->rc)
		return;
	size_t from = w->text_from[--w->depth];
	enum ms_code rc = ms_buf_u8(&w->text, 0, w->err);
	if (!rc)
		rc = w->cb(w->arg, w->path, (const char *)w->text.data + from, true, w->err);
	if (rc)
		stop(w, rc);
	w->text.len = from;
	while (w->npath && w->path[--w->npath] != '/')
		;
	w->path[w->npath] = '\0';
}

static void XMLCALL on_text(void *arg, const XML_Char *s, int n) {
	struct walk *w = arg;
	if (!w->rc && ms_buf_append(&w->text, s, (size_t)n, NULL))
		stop(w, ms_err_set(w->err, MS_ECORRUPT, "XML holds a text of more than %u bytes", TEXT_MAX));
}

static void XMLCALL on_doctype(void *arg, const XML_Char *name, const XML_Char *system, const XML_Char *public, int internal) {
	struct walk *w = arg;
	(void)name, (void)system, (void)public, (void)internal;
	stop(w, ms_err_set(w->err, MS_ECORRUPT, "XML with a document type is not accepted"));
}

enum ms_code ms_xml_walk(const void *data, size_t len, ms_xml_cb cb, void *arg, struct ms_err *err) {
	struct walk w = {.parser = XML_ParserCreate(NULL), .cb = cb, .arg = arg, .err = err};
	const char *p = data;
	enum XML_Status status = XML_STATUS_OK;
	if (!w.parser)
		return ms_err_set(err, MS_ENOMEM, "XML parser");
	ms_buf_init(&w.text, TEXT_MAX);
	XML_SetUserData(w.parser, &w);
	XML_SetElementHandler(w.parser, on_start, on_end);
	XML_SetCharacterDataHandler(w.parser, on_text);
	XML_SetStartDoctypeDeclHandler(w.parser, on_doctype);
	do {
		int n = len > PIECE_MAX ? (int)PIECE_MAX : (int)len;
		len -= (size_t)n;
		status = XML_Parse(w.parser, n ? p : "", n, len == 0);
		p += n;
	} while (status == XML_STATUS_OK && len);
	if (!w.rc && status != XML_STATUS_OK)
		w.rc = ms_err_set(err, MS_ECORRUPT, "not well-formed XML at line %lu: %s", (unsigned long)XML_GetCurrentLineNumber(w.parser),
				  XML_ErrorString(XML_GetErrorCode(w.parser)));
	XML_ParserFree(w.parser);
	ms_buf_release(&w.text);
	return w.rc;
}
