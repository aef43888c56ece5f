/*
 * What the stream writes into journal entries (docs/formats.md "Journal payloads"); the journal itself sees opaque bytes.
 *
 *   run         u8 1 | u8 flags (1 FIRST entry of a transaction, 2 LAST: holds its commit record) | varint txid | u8 n | n bytes source
 *               cookie (only with LAST, else n = 0) | whole records (core/codec.h)
 *   generation  u8 2 | one CBOR map: 1 generation, 2 parent (absent: root), 3 fork txid, 4 page size, 5 db pages, 6 txid of the
 *               state it starts from, 7 checksum of that state, 8 time us, 9 lineage as in a head (core/head.h),
 *               10 permission bits
 * One transaction is one entry, or several with MS_ENTRY_CONTINUES on all but the last.
 * A root generation's base state is txid 1 (ATTACH), a seeded one's fork txid + 1: both are carried by a snapshot only. A forked one's
 * base state is (parent, fork txid); its first transaction is fork txid + 1. An entry of a generation that had begun before (its history goes
 * on in a new shadow directory) states the txid from which the journal leads on.
 */
#ifndef MS_CORE_STREAM_ENTRY_H
#define MS_CORE_STREAM_ENTRY_H

#include "core/codec.h"
#include "core/head.h"
#include "sources/source.h"

enum ms_entry_kind { MS_ENTRY_RUN = 1, MS_ENTRY_GENERATION = 2 };
enum { MS_RUN_FIRST = 1, MS_RUN_LAST = 2 };

struct ms_generation_start {
	struct ms_generation generation;
	struct ms_dbstate base; /* txid, checksum, page size, pages, time */
	uint32_t mode;
	struct ms_lineage *lineage; /* owned; [0] is this generation with its parent and fork txid */
	uint32_t nlineage;
};
void ms_generation_start_release(struct ms_generation_start *g);

struct ms_stream_entry {
	enum ms_entry_kind kind;
	/* run */
	unsigned flags;
	uint64_t txid;
	struct ms_cookie cookie;
	const uint8_t *records; /* borrowed from the payload */
	size_t records_len;
	/* generation */
	struct ms_generation_start start; /* owned: ms_stream_entry_release */
};
/* Longest run header. */
#define MS_RUN_HEADER_MAX (2 + 10 + 1 + MS_COOKIE_MAX)
size_t ms_run_header_put(uint8_t p[MS_RUN_HEADER_MAX], unsigned flags, uint64_t txid, const struct ms_cookie *cookie);
enum ms_code ms_generation_start_encode(const struct ms_generation_start *g, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_stream_entry_parse(const uint8_t *p, size_t n, struct ms_stream_entry *ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_stream_entry_release(struct ms_stream_entry *e);

#endif
