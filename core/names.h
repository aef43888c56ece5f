/*
 * Object names under a database's prefix (DESIGN §6), relative, '/'-separated. Formatting and strict parsing; a name that
 * does not parse exactly is foreign and is ignored by readers and never deleted.
 *
 *   head/<n %08x>
 *   <generation>/segments/<first %016x>.seg                 live
 *   <generation>/segments/<first %016x>+<part %04x>.seg     parts 1.. of a transaction that exceeds one object (part 0 has the live name)
 *   <generation>/segments/<first>-<last>-<unix us first>-<unix us last>.seg   merged (%016x four times)
 *   <generation>/snapshots/<txid %016x>-<unix us %016x>.snap
 *   <generation>/chunks/<first page %08x>-<content hash %016x>
 */
#ifndef MS_CORE_NAMES_H
#define MS_CORE_NAMES_H

#include "core/types.h"

#define MS_NAME_MAX 160

enum ms_name_kind { MS_NAME_HEAD, MS_NAME_SEGMENT, MS_NAME_SEGMENT_PART, MS_NAME_MERGED, MS_NAME_SNAPSHOT, MS_NAME_CHUNK };

struct ms_name {
	enum ms_name_kind kind;
	struct ms_generation generation; /* not for heads */
	uint32_t number;		 /* head number, part, or chunk's first page */
	uint64_t first, last;		 /* segments; snapshot txid in first */
	int64_t first_us, last_us;	 /* merged; snapshot time in first_us */
	uint64_t hash;			 /* chunk */
};

/* Writes the name of valid fields: numbers, first and the chunk's page from 1, part 1..0xffff, last >= first, times >= 0 and in order.
 * Anything else gives a name that does not parse. */
void ms_name_format(const struct ms_name *n, char ret[MS_NAME_MAX]);
/* False for a foreign name; *ret is then untouched. Fields that the kind does not have are zero. */
bool ms_name_parse(const char *s, struct ms_name *ret);

#endif
