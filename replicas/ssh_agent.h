/*
 * A key agent on a Unix socket (draft-miller-ssh-agent): which keys it holds, and signatures by them. The library's own client is not used: in
 * libssh2 1.10 it cannot ask for SHA-2 signatures of RSA keys, and waits without a deadline.
 * Embedded, one owner. Every wait ends by deadline_ns or when wake_fd is readable. Bounds: 256 KiB for one answer.
 */
#ifndef MS_REPLICAS_SSH_AGENT_H
#define MS_REPLICAS_SSH_AGENT_H

#include "base/buf.h"
#include "base/env.h"
#include "replicas/ssh_bytes.h"
#include "replicas/ssh_key.h"

struct ms_ssh_agent {
	struct ms_env *env;
	uint64_t deadline_ns;
	int wake_fd, fd; /* fd < 0: not connected */
	struct ms_buf in; /* the last answer */
};

/* false: nobody answers at that path; also for the calls below. Always ends with ms_ssh_agent_close(). */
bool ms_ssh_agent_open(struct ms_ssh_agent *a, struct ms_env *env, const char *path, uint64_t deadline_ns, int wake_fd);
void ms_ssh_agent_close(struct ms_ssh_agent *a);
/* *ret_keys: over *ret_n pairs of (string public key, string comment) in a->in, until the next call. */
bool ms_ssh_agent_list(struct ms_ssh_agent *a, struct ms_ssh_reader *ret_keys, unsigned *ret_n);
/* By the key of `blob`; algorithm: what the signature must be called ("rsa-sha2-512"), else it counts as none. ret: the signature without its name. */
bool ms_ssh_agent_sign(struct ms_ssh_agent *a, const uint8_t *blob, size_t nblob, const uint8_t *data, size_t n, const char *algorithm, uint8_t ret[MS_SSH_SIG_MAX], size_t *ret_n);

#endif
