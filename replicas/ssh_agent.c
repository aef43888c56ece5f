/* A message is u32 length, u8 type, contents. */
#include "replicas/ssh_agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "replicas/tcp.h"

#define MESSAGE_MAX (256u << 10) /* as OpenSSH's agent */
#define REQUEST_IDENTITIES 11
#define IDENTITIES_ANSWER 12
#define SIGN_REQUEST 13
#define SIGN_RESPONSE 14
#define FLAG_RSA_SHA2_256 2
#define FLAG_RSA_SHA2_512 4

bool ms_ssh_agent_open(struct ms_ssh_agent *a, struct ms_env *env, const char *path, uint64_t deadline_ns, int wake_fd) {
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	*a = (struct ms_ssh_agent){.env = env, .deadline_ns = deadline_ns, .wake_fd = wake_fd, .fd = -1};
	ms_buf_init(&a->in, MESSAGE_MAX);
	if (strlen(path) >= sizeof at.sun_path)
		return false;
	memcpy(at.sun_path, path, strlen(path) + 1);
	/* Without blocking: a Unix socket whose backlog is full says EAGAIN, and that agent is not there for us. */
	a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return a->fd >= 0 && connect(a->fd, (struct sockaddr *)&at, sizeof at) == 0;
}

void ms_ssh_agent_close(struct ms_ssh_agent *a) {
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
	ms_buf_release(&a->in);
}

static bool move(struct ms_ssh_agent *a, uint8_t *p, size_t n, bool out) {
	while (n) {
		ssize_t r = out ? send(a->fd, p, n, MSG_NOSIGNAL) : recv(a->fd, p, n, 0);
		if (r > 0)
			p += r, n -= (size_t)r;
		else if (r == 0 || (errno != EAGAIN && errno != EINTR) || ms_tcp_wait(a->env, a->fd, out ? POLLOUT : POLLIN, a->deadline_ns, a->wake_fd) != MS_OK)
			return false;
	}
	return true;
}

/* request: with its length. The answer's contents are in *ret. */
static bool call(struct ms_ssh_agent *a, uint8_t *request, size_t n, uint8_t type, struct ms_ssh_reader *ret) {
	uint8_t length[4];
	ms_put_be32(request, (uint32_t)n - 4);
	if (a->fd < 0 || !move(a, request, n, true) || !move(a, length, 4, false))
		return false;
	size_t len = ms_get_be32(length);
	ms_buf_clear(&a->in);
	if (len < 1 || len > MESSAGE_MAX || ms_buf_reserve(&a->in, len, NULL) || !move(a, a->in.data, len, false))
		return false;
	a->in.len = len;
	*ret = (struct ms_ssh_reader){a->in.data + 1, len - 1, false};
	return a->in.data[0] == type;
}

bool ms_ssh_agent_list(struct ms_ssh_agent *a, struct ms_ssh_reader *ret_keys, unsigned *ret_n) {
	uint8_t ask[5] = {0, 0, 0, 0, REQUEST_IDENTITIES};
	struct ms_ssh_reader r;
	if (!call(a, ask, sizeof ask, IDENTITIES_ANSWER, &r))
		return false;
	uint32_t n = ms_ssh_u32(&r);
	if (r.bad)
		return false;
	*ret_keys = r;
	*ret_n = n;
	return true;
}

bool ms_ssh_agent_sign(struct ms_ssh_agent *a, const uint8_t *blob, size_t nblob, const uint8_t *data, size_t n, const char *algorithm, uint8_t ret[MS_SSH_SIG_MAX],
		       size_t *ret_n) {
	struct ms_buf out;
	struct ms_ssh_reader r;
	bool ok = false;
	uint32_t flags = strcmp(algorithm, "rsa-sha2-512") == 0 ? FLAG_RSA_SHA2_512 : strcmp(algorithm, "rsa-sha2-256") == 0 ? FLAG_RSA_SHA2_256 : 0;
	ms_buf_init(&out, MESSAGE_MAX);
	if (nblob < MESSAGE_MAX && n < MESSAGE_MAX && ms_buf_reserve(&out, 4 + 1 + 4 + nblob + 4 + n + 4, NULL) == MS_OK) {
		out.data[4] = SIGN_REQUEST;
		uint8_t *p = ms_ssh_put(ms_ssh_put(out.data + 5, blob, nblob), data, n);
		ms_put_be32(p, flags);
		ok = call(a, out.data, (size_t)(p + 4 - out.data), SIGN_RESPONSE, &r);
	}
	ms_buf_release(&out);
	if (!ok)
		return false;
	size_t nsig;
	const uint8_t *sig = ms_ssh_string(&r, &nsig);
	r = (struct ms_ssh_reader){sig, nsig, r.bad};
	/* An agent that knows no flags signs with SHA-1: that is refused here, before a server does. */
	bool named = ms_ssh_is(&r, algorithm);
	sig = ms_ssh_string(&r, &nsig);
	if (!named || r.bad || nsig > MS_SSH_SIG_MAX)
		return false;
	memcpy(ret, sig, nsig);
	*ret_n = nsig;
	return true;
}
