/* The contract against OpenSSH's server, and what only SFTP has: servers that lack something, lost connections, slow links. Logins: test_sftp_login.c;
 * key exchanges in the middle: test_sftp_rekey.c */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "contract/objects.h"
#include "contract/sftp_rig.h"
#include "support/proxy.h"

TestSuite(sftp, .init = setup, .fini = teardown, .timeout = 120);

/* ---- the contract ---- */

Test(sftp, contract) {
	if (start("contract/test_sftp contract", false, NULL))
		run_contract("", NULL, 150, 64);
}

/* Rename in the place of links: where there are links OpenSSH's rename is one, and no race is lost there either. */
Test(sftp, contract_rename) {
	if (!start("contract/test_sftp contract_rename", false, NULL))
		return;
	run_contract("&exclusive=false", "create_only", 0, 0);
	run_contract("&exclusive=false", "race", 100, 0);
}

/* As root, with privilege separation, and a user of its own with a password. */
Test(sftp, contract_privileged) {
	if (!start("contract/test_sftp contract_privileged", true, NULL))
		return;
	run_contract("", "roundtrip", 0, 0);
	run_contract("", "list", 0, 0);
	run_contract("", "race", 50, 0);
	LOGIN_FAILS(MS_EAUTH, "login refused", "&keyPath=%s/host_rsa", server.dir);
	setenv("MIGSTREAM_SFTP_PASSWORD", "wrong horse", 1);
	LOGIN_FAILS(MS_EAUTH, "password refused", "%s", "");
	setenv("MIGSTREAM_SFTP_PASSWORD", "correct horse", 1);
	LOGIN_OK("%s", "");
	LOGIN_OK("&keyPath=%s/host_rsa", server.dir); /* the key is refused, the password is not */
	/* It never shows. */
	struct ms_err err;
	ms_sshd_stop(&server);
	cr_expect_eq(try_login("", &err), MS_ERETRY);
	cr_expect_null(strstr(err.msg, "horse"), "%s", err.msg);
}

/* ---- what the server lacks ---- */

Test(sftp, no_hardlink) {
	if (!start("contract/test_sftp no_hardlink", false, "Subsystem sftp internal-sftp -P hardlink"))
		return;
	LOGIN_FAILS(MS_EUNSUPPORTED, "exclusive: false", "&keyPath=%s/id", server.dir);
	struct ms_replica_caps caps;
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica *r = open_with(server.port, "d", "&exclusive=false");
	cr_expect_eq(ms_replica_put_mem(r, "a/b", "one", 3, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "a/b", "two", 3, &err), MS_EEXISTS);
	ms_replica_caps(r, &caps);
	cr_expect(!caps.create_if_absent && caps.settle_us == 0);
	ms_replica_close(r);
	/* Nothing is left of what was refused. */
	ms_sshd_sh(&server, "test -z \"$(find store -name '.ms-*')\" && test \"$(find store -type f | wc -l)\" = 1");
}

Test(sftp, no_fsync) {
	if (!start("contract/test_sftp no_fsync", false, "Subsystem sftp internal-sftp -P fsync"))
		return;
	struct ms_replica_caps caps;
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica *r = open_with(server.port, "d", "");
	cr_expect_eq(ms_replica_put_mem(r, "a/b", "one", 3, &err), MS_OK, "%s", err.msg);
	ms_replica_caps(r, &caps);
	cr_expect(caps.create_if_absent && caps.settle_us > 30000000, "%lld", (long long)caps.settle_us);
	ms_replica_close(r);
	/* With it the server syncs the file, and the directory that it was linked into. */
	ms_sshd_stop(&server);
	ms_sshd_sh(&server, "sed -i 's/internal-sftp.*/internal-sftp/' sshd_config");
	ms_sshd_restart(&server);
	r = open_with(server.port, "d", "");
	cr_expect_eq(ms_replica_put_mem(r, "a/c", "one", 3, &err), MS_OK, "%s", err.msg);
	ms_replica_caps(r, &caps);
	cr_expect_eq(caps.settle_us, 0);
	ms_replica_close(r);
}

Test(sftp, no_base) {
	if (!start("contract/test_sftp no_base", false, NULL))
		return;
	struct ms_replica *r = NULL;
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica_spec spec = {0};
	struct ms_buf b;
	char url[1500];
	ms_buf_init(&b, 100);
	snprintf(url, sizeof url, "sftp://%s@127.0.0.1:%u%s/x/y/z?keyPath=%s/id&knownHostsPath=%s/known_hosts", server.user, server.port, server.store, server.dir, server.dir);
	cr_assert_eq(ms_url_parse(url, &spec, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	ms_replica_spec_release(&spec);
	/* Without create: a directory that is missing is not made, and is no empty replica. */
	cr_expect_eq(ms_replica_put_mem(r, "a", "x", 1, &err), MS_ENOTFOUND);
	cr_expect(strstr(err.msg, "/x/y/z does not exist"), "%s", err.msg);
	cr_expect_eq(ms_replica_get_buf(r, "a", 0, -1, &b, &err), MS_ENOTFOUND);
	cr_expect_eq(ms_replica_remove(r, "a", &err), MS_ENOTFOUND);
	struct ms_replica *maker = open_with(server.port, "x/y/z", "");
	cr_expect_eq(ms_replica_put_mem(maker, "a", "x", 1, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "b", "y", 1, &err), MS_OK, "%s", err.msg);
	/* Gone after a success: not made again. */
	ms_sshd_sh(&server, "rm -r store/x");
	cr_expect_eq(ms_replica_put_mem(maker, "c", "x", 1, &err), MS_ENOTFOUND, "%s", err.msg);
	ms_replica_close(maker);
	ms_replica_close(r);
	ms_buf_release(&b);
}

Test(sftp, refusals) {
	if (!start("contract/test_sftp refusals", false, NULL))
		return;
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica *r = open_with(server.port, "d", "");
	cr_expect_eq(ms_replica_put_mem(r, "a/b", "one", 3, &err), MS_OK, "%s", err.msg);
	ms_sshd_sh(&server, "chmod 555 store/d/a");
	cr_expect_eq(ms_replica_put_mem(r, "a/c", "one", 3, &err), MS_EPERM, "%s", err.msg);
	cr_expect(strstr(err.msg, "Permission denied") && strstr(err.msg, "/d/a/"), "%s", err.msg);
	cr_expect_eq(ms_replica_remove(r, "a/b", &err), MS_EPERM, "%s", err.msg);
	ms_sshd_sh(&server, "chmod 755 store/d/a && chmod 000 store/d/a/b");
	struct ms_buf b;
	ms_buf_init(&b, 100);
	cr_expect_eq(ms_replica_get_buf(r, "a/b", 0, -1, &b, &err), MS_EPERM, "%s", err.msg);
	/* A link in an object's place, and a directory, are no objects. */
	ms_sshd_sh(&server, "ln -s b store/d/a/link && mkdir store/d/a/dir && ln -s a store/d/other");
	cr_expect_eq(ms_replica_get_buf(r, "a/link", 0, -1, &b, &err), MS_ENOTFOUND, "%s", err.msg);
	cr_expect_eq(ms_replica_get_buf(r, "a/dir", 0, -1, &b, &err), MS_ENOTFOUND, "%s", err.msg);
	ms_buf_release(&b);
	ms_replica_close(r);
}

Test(sftp, no_space) {
	const char *why;
	if (!ms_sshd_usable(true, &why)) {
		ms_test_skipped("contract/test_sftp no_space (a small file system)", why);
		cr_skip_test("%s", why);
	}
	if (!start("contract/test_sftp no_space", false, NULL))
		return;
	/* Seen by the server and by us alike, and gone with the test. */
	ms_sshd_sh(&server, "mount -t tmpfs -o size=1m,mode=777 none store");
	struct ms_err err = MS_ERR_INIT;
	struct ms_replica *r = open_with(server.port, "d", "");
	uint8_t *big = calloc(1, 4u << 20);
	enum ms_code code = ms_replica_put_mem(r, "a/big", big, 4u << 20, &err);
	cr_expect_eq(code, MS_ENOSPC, "%s %s", ms_code_name(code), err.msg);
	cr_expect(strstr(err.msg, "the file system there is full"), "%s", err.msg);
	/* The part that was written is gone: there is room again. */
	code = ms_replica_put_mem(r, "a/small", big, 300000, &err);
	cr_expect_eq(code, MS_OK, "%s", err.msg);
	free(big);
	ms_replica_close(r);
	ms_sshd_stop(&server);
	ms_sshd_sh(&server, "umount store");
}

Test(sftp, sweep) {
	if (!start("contract/test_sftp sweep", false, NULL))
		return;
	struct ms_err err = MS_ERR_INIT;
	ms_sshd_sh(&server, "mkdir -p store/d/a && cd store/d/a && : >.ms-0123456789abcdef.tmp && : >.ms-00000000000000aa.tmp && : >.ms-keep.tmp && : >other.tmp && "
			    "touch -d '2 days ago' .ms-0123456789abcdef.tmp .ms-keep.tmp other.tmp; chmod -R 777 ../../d");
	struct ms_replica *r = open_with(server.port, "d", "");
	cr_expect_eq(ms_replica_put_mem(r, "a/b", "one", 3, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "a/c", "one", 3, &err), MS_OK, "%s", err.msg);
	ms_replica_close(r);
	/* Old and ours: gone. Young, or of another name: there. */
	ms_sshd_sh(&server, "test \"$(ls -A store/d/a | sort | tr '\\n' ' ')\" = '.ms-00000000000000aa.tmp .ms-keep.tmp b c other.tmp '");
}

/* ---- connections that break ---- */

static unsigned open_fds(void) {
	unsigned n = 0;
	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

Test(sftp, cut_everywhere) {
	if (!start("contract/test_sftp cut_everywhere", false, NULL))
		return;
	enum { SIZE = 300000, STEP = 16 << 10 };
	struct ms_proxy p;
	struct ms_err err = MS_ERR_INIT;
	uint8_t *data = noise(SIZE);
	ms_proxy_start(&p, server.port);
	ms_sshd_sh(&server, "sed 's/:%u /:%u /' known_hosts >kh_proxy && cat kh_proxy >>known_hosts", server.port, p.port);
	struct ms_replica *through = open_with(p.port, "d", ""), *direct = open_with(server.port, "d", "");
	unsigned cuts = 0, fds = 0, fds_now = 0;
	bool finished = false;
	for (int64_t at = 0; !finished; at += STEP) {
		char name[40];
		struct seen seen = {0, true, SIZE};
		snprintf(name, sizeof name, "cut/%05lld", (long long)(at / STEP));
		/* A new connection, which may not move more than `at` bytes. */
		atomic_store(&p.cut_after, (int64_t)atomic_load(&p.bytes) + at);
		enum ms_code rc = ms_replica_put_mem(through, name, data, SIZE, &err);
		finished = rc == MS_OK;
		cr_expect(finished || rc == MS_ERETRY, "cut at %lld: %s %s", (long long)at, ms_code_name(rc), err.msg);
		cuts += !finished;
		cr_expect_eq(ms_replica_list(direct, "cut/", "", see, &seen, &err), MS_OK, "%s", err.msg);
		cr_expect(seen.whole, "cut at %lld: a part of an object is listed", (long long)at);
		/* The same handle goes on: the object is there from the first try, or is put now. */
		atomic_store(&p.cut_after, -1);
		rc = ms_replica_put_mem(through, name, data, SIZE, &err);
		cr_expect(rc == MS_OK || rc == MS_EEXISTS, "after a cut at %lld: %s %s", (long long)at, ms_code_name(rc), err.msg);
		cr_expect(holds(direct, name, data, SIZE, &err), "cut at %lld: wrong content %s", (long long)at, err.msg);
		/* And a get that is cut. */
		if (!finished && at / STEP % 4 == 1) {
			atomic_store(&p.cut_after, (int64_t)atomic_load(&p.bytes) + at / 2);
			cr_expect_not(holds(through, name, data, SIZE, &err), "a get over a cut connection");
			cr_expect_eq(err.code, MS_ERETRY, "%s", err.msg);
			atomic_store(&p.cut_after, -1);
			cr_expect(holds(through, name, data, SIZE, &err), "%s", err.msg);
		}
		if (!finished)
			atomic_store(&p.cut_after, 0); /* this connection is no longer needed: the next put makes another */
		while (!finished && ms_replica_remove(through, "cut/none", &err) != MS_ERETRY)
			;
		/* No connection is open now, but for one that the proxy is still closing. */
		if (at == 2 * STEP)
			usleep(200000), fds = open_fds();
		for (int i = 0; !finished && at > 2 * STEP && i < 50 && (fds_now = open_fds()) > fds; i++)
			usleep(20000);
	}
	cr_expect_gt(cuts, 18, "only %u puts were cut", cuts);
	cr_expect(fds_now > 0 && fds_now <= fds, "descriptors leak: %u, then %u", fds, fds_now);
	/* What the broken connections left behind was removed by the next. */
	ms_replica_close(through);
	ms_sshd_sh(&server, "for i in 1 2 3 4 5 6 7 8; do test \"$(find store -name '.ms-*' | wc -l)\" -le 1 && break; sleep 0.2; done; test \"$(find store -name '.ms-*' | wc -l)\" -le 1");
	ms_replica_close(direct);
	ms_proxy_stop(&p);
	free(data);
}

struct late {
	pthread_t thread;
	struct ms_replica *r;
	unsigned ms;
};

static void *cancel_later(void *arg) {
	struct late *l = arg;
	usleep(l->ms * 1000);
	ms_replica_cancel(l->r);
	return NULL;
}

/* A body that stops the server when half of it is read. */
struct halting_body {
	struct ms_mem_body m;
	int sig;
};

static enum ms_code halting_read(struct ms_body *body, void *buf, size_t cap, size_t *ret_n, struct ms_err *err) {
	struct halting_body *h = (struct halting_body *)body;
	size_t n = h->m.len - h->m.off < cap ? h->m.len - h->m.off : cap;
	(void)err;
	if (h->sig && h->m.off >= h->m.len / 2) {
		ms_sshd_signal(&server, h->sig);
		h->sig = 0;
	}
	memcpy(buf, h->m.data + h->m.off, n);
	h->m.off += n;
	*ret_n = n;
	return MS_OK;
}

static enum ms_code put_halting(struct ms_replica *r, const char *name, const uint8_t *data, size_t n, int sig, struct ms_err *err) {
	struct halting_body h = {.sig = sig};
	ms_mem_body_init(&h.m, data, n);
	h.m.body.read = halting_read;
	h.m.body.rewind = NULL;
	return ms_replica_put(r, name, &h.m.body, err);
}

Test(sftp, frozen) {
	if (!start("contract/test_sftp frozen", false, NULL))
		return;
	struct ms_err err = MS_ERR_INIT;
	const size_t size = 12u << 20;
	uint8_t *data = noise(size);
	struct ms_replica *r = open_with(server.port, "d", "&stallTimeout=1s&connectTimeout=1s"), *other = open_with(server.port, "d", "");
	/* In the middle of a put: the call ends by itself. */
	uint64_t began = now_ms();
	enum ms_code rc = put_halting(r, "a/1", data, size, SIGSTOP, &err);
	cr_expect_eq(rc, MS_ETIMEDOUT, "%s %s", ms_code_name(rc), err.msg);
	cr_expect(strstr(err.msg, "the server does not answer"), "%s", err.msg);
	cr_expect_lt(now_ms() - began, 20000);
	/* While connecting. */
	began = now_ms();
	rc = ms_replica_put_mem(r, "a/1", "x", 1, &err);
	cr_expect(rc == MS_ETIMEDOUT, "%s %s", ms_code_name(rc), err.msg);
	cr_expect_lt(now_ms() - began, 10000);
	/* A cancel ends a handshake that would wait for 20 s. */
	struct late l = {.r = other, .ms = 200};
	pthread_create(&l.thread, NULL, cancel_later, &l);
	began = now_ms();
	cr_expect_eq(ms_replica_put_mem(other, "a/1", "x", 1, &err), MS_ECANCELED, "%s", err.msg);
	cr_expect_lt(now_ms() - began, 10000);
	pthread_join(l.thread, NULL);
	ms_replica_close(other);
	/* And it goes on once the server does. */
	ms_sshd_signal(&server, SIGCONT);
	cr_expect_eq(ms_replica_put_mem(r, "a/1", data, size, &err), MS_OK, "%s", err.msg);
	cr_expect(holds(r, "a/1", data, size, &err), "%s", err.msg);
	/* A cancel in the middle of a put to a server that hangs. */
	ms_replica_close(r);
	l.r = r = open_with(server.port, "d", "");
	cr_expect_eq(ms_replica_put_mem(r, "a/2", "x", 1, &err), MS_OK, "%s", err.msg);
	l.ms = 1500;
	pthread_create(&l.thread, NULL, cancel_later, &l);
	began = now_ms();
	cr_expect_eq(put_halting(r, "a/3", data, size, SIGSTOP, &err), MS_ECANCELED, "%s", err.msg);
	cr_expect_lt(now_ms() - began, 12000);
	pthread_join(l.thread, NULL);
	ms_replica_close(r);
	ms_sshd_signal(&server, SIGCONT);
	free(data);
}

Test(sftp, server_killed) {
	if (!start("contract/test_sftp server_killed", false, NULL))
		return;
	struct ms_err err = MS_ERR_INIT;
	const size_t size = 6u << 20;
	uint8_t *data = noise(size);
	struct ms_replica *r = open_with(server.port, "d", "");
	enum ms_code rc = put_halting(r, "a/1", data, size, SIGKILL, &err);
	cr_expect_eq(rc, MS_ERETRY, "%s %s", ms_code_name(rc), err.msg);
	cr_expect(strstr(err.msg, "the connection was lost"), "%s", err.msg);
	ms_sshd_stop(&server);
	cr_expect_eq(ms_replica_put_mem(r, "a/1", "x", 1, &err), MS_ERETRY, "%s", err.msg);
	cr_expect(strstr(err.msg, "Connection refused"), "%s", err.msg);
	ms_sshd_restart(&server);
	struct ms_buf b;
	ms_buf_init(&b, 10);
	cr_expect_eq(ms_replica_get_buf(r, "a/1", 0, 1, &b, &err), MS_ENOTFOUND, "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "a/1", data, size, &err), MS_OK, "%s", err.msg);
	/* Restarted between two calls: nobody notices. */
	ms_sshd_stop(&server);
	ms_sshd_restart(&server);
	cr_expect(holds(r, "a/1", data, size, &err), "%s", err.msg);
	ms_sshd_stop(&server);
	ms_sshd_restart(&server);
	cr_expect_eq(ms_replica_put_mem(r, "a/2", "x", 1, &err), MS_OK, "%s", err.msg);
	ms_buf_release(&b);
	ms_replica_close(r);
	ms_sshd_sh(&server, "test -z \"$(find store -name '.ms-*')\"");
	free(data);
}

/* A server that lets one in at a time: the others are told to come again. */
Test(sftp, max_startups) {
	if (!start("contract/test_sftp max_startups", false, "MaxStartups 1"))
		return;
	struct ms_err err = MS_ERR_INIT;
	/* Someone who connects and says nothing holds the one place. */
	char command[200];
	snprintf(command, sizeof command, "exec 3<>/dev/tcp/127.0.0.1/%u; read -r -u 3 line; sleep 30", server.port);
	pid_t pid = fork();
	if (pid == 0) {
		execlp("bash", "bash", "-c", command, (char *)NULL);
		_exit(127);
	}
	usleep(500000);
	struct ms_replica *r = open_with(server.port, "d", "");
	enum ms_code rc = ms_replica_put_mem(r, "a", "x", 1, &err);
	cr_expect_eq(rc, MS_ERETRY, "%s %s", ms_code_name(rc), err.msg);
	cr_expect(strstr(err.msg, "no SSH session"), "%s", err.msg);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (int i = 0; i < 50 && rc; i++) {
		usleep(100000);
		rc = ms_replica_put_mem(r, "a", "x", 1, &err);
	}
	cr_expect_eq(rc, MS_OK, "%s", err.msg);
	ms_replica_close(r);
}

/* 25 ms each way. One packet a round trip would be 32 KiB in 50 ms: 0.65 MB/s, so that 8 MiB would take 13 s. */
Test(sftp, long_way) {
	if (!start("contract/test_sftp long_way", false, NULL))
		return;
	struct ms_proxy p;
	struct ms_err err = MS_ERR_INIT;
	const size_t size = 8u << 20;
	uint8_t *data = noise(size);
	ms_proxy_start(&p, server.port);
	ms_sshd_sh(&server, "sed 's/:%u /:%u /' known_hosts >kh_proxy && cat kh_proxy >>known_hosts", server.port, p.port);
	struct ms_replica *r = open_with(p.port, "d", "");
	cr_expect_eq(ms_replica_put_mem(r, "a/0", "x", 1, &err), MS_OK, "%s", err.msg);
	atomic_store(&p.delay_us, 25000);
	uint64_t began = now_ms();
	cr_expect_eq(ms_replica_put_mem(r, "a/1", data, size, &err), MS_OK, "%s", err.msg);
	uint64_t put = now_ms() - began;
	began = now_ms();
	cr_expect(holds(r, "a/1", data, size, &err), "%s", err.msg);
	uint64_t get = now_ms() - began;
	/* Small ones: three round trips and no more. */
	began = now_ms();
	for (int i = 2; i < 6; i++) {
		char name[20];
		snprintf(name, sizeof name, "a/%d", i);
		cr_expect_eq(ms_replica_put_mem(r, name, data, 1000, &err), MS_OK, "%s", err.msg);
	}
	uint64_t small = (now_ms() - began) / 4;
	cr_expect_lt(put, 4000, "8 MiB put in %llu ms", (unsigned long long)put);
	cr_expect_lt(get, 4000, "8 MiB got in %llu ms", (unsigned long long)get);
	cr_expect_lt(small, 200, "a small put takes %llu ms", (unsigned long long)small);
	if (getenv("MS_TIMES"))
		fprintf(stderr, "50 ms link: put %llu ms, get %llu ms, small put %llu ms\n", (unsigned long long)put, (unsigned long long)get, (unsigned long long)small);
	ms_replica_close(r);
	ms_proxy_stop(&p);
	free(data);
}
