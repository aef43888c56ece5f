/*
 * What an SSH server says before anything is encrypted: its name, and the algorithms it would take (RFC 4253, sections 4.2 and 7.1). The library says
 * of a handshake without a common algorithm only that it failed; from these bytes the reason can be told. Pure.
 */
#ifndef MS_REPLICAS_SSH_HELLO_H
#define MS_REPLICAS_SSH_HELLO_H

#include <stdint.h>
#include "base/err.h"

#define MS_SSH_HELLO_MAX (16u << 10) /* as much is kept; OpenSSH's has about 1.2 KiB */

/* What a handshake agrees on, each name list in the order of KEXINIT. */
enum ms_ssh_list { MS_SSH_KEX, MS_SSH_HOST_KEY, MS_SSH_CIPHER_OUT, MS_SSH_CIPHER_IN, MS_SSH_MAC_OUT, MS_SSH_MAC_IN, MS_SSH_LISTS };

/* The first list of the server in p[0..n) of which we have nothing, in words: "no MAC in common: the server takes ..., we have ...". ours: comma-separated
 * lists of what we offer. False: there is none, or the bytes are no whole SSH greeting. */
bool ms_ssh_hello_lacks(const uint8_t *p, size_t n, const char *const ours[MS_SSH_LISTS], char *ret, size_t cap);
/* Is `name` one of a comma-separated list? */
bool ms_ssh_listed(const char *list, size_t list_len, const char *name, size_t n);

#endif
