/* Who we are and who the server is, against OpenSSH's server: keys, agents, passwords, host keys, algorithms. */
#include <libssh2.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "contract/sftp_rig.h"

TestSuite(sftp_login, .init = setup, .fini = teardown, .timeout = 120);

/* ---- who we are ---- */

Test(sftp_login, keys) {
	if (!start("contract/test_sftp_login keys", false, NULL))
		return;
	const char *d = server.dir;
	ms_sshd_sh(&server, "for t in ecdsa 'ecdsa -b 384' 'ecdsa -b 521' 'rsa -b 2048'; do f=key_$(echo $t | tr -d ' -'); ssh-keygen -q -t $t -N '' -f $f; done; "
			    "ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -f pem && ssh-keygen -q -t rsa -b 2048 -m PEM -N 'open sesame' -f pem_sealed && "
			    "ssh-keygen -q -t ed25519 -N 'open sesame' -f sealed && ssh-keygen -q -t ed25519 -N '' -f stranger && "
			    "cat key_*.pub pem.pub pem_sealed.pub sealed.pub >>authorized_keys");
	LOGIN_OK("&keyPath=%s/id", d);
	LOGIN_OK("&keyPath=%s/key_ecdsa", d);
	LOGIN_OK("&keyPath=%s/key_ecdsab384", d);
	LOGIN_OK("&keyPath=%s/key_ecdsab521", d);
	LOGIN_OK("&keyPath=%s/key_rsab2048", d);
	LOGIN_OK("&keyPath=%s/pem", d);
	LOGIN_FAILS(MS_EAUTH, "keyPassphrase", "&keyPath=%s/sealed", d);
	LOGIN_FAILS(MS_EAUTH, "keyPassphrase", "&keyPath=%s/pem_sealed", d);
	setenv("MIGSTREAM_SFTP_KEY_PASSPHRASE", "open seesaw", 1);
	LOGIN_FAILS(MS_EAUTH, "the passphrase does not open", "&keyPath=%s/sealed", d);
	LOGIN_FAILS(MS_EAUTH, "the passphrase does not open", "&keyPath=%s/pem_sealed", d);
	setenv("MIGSTREAM_SFTP_KEY_PASSPHRASE", "open sesame", 1);
	LOGIN_OK("&keyPath=%s/sealed", d);
	LOGIN_OK("&keyPath=%s/pem_sealed", d);
	LOGIN_FAILS(MS_EAUTH, "stranger (ssh-ed25519) refused", "&keyPath=%s/stranger", d);
	LOGIN_FAILS(MS_EAUTH, "holds no private key", "&keyPath=%s/id.pub", d);
	LOGIN_FAILS(MS_EAUTH, "nowhere", "&keyPath=%s/nowhere", d);
	/* No key named: the usual ones of the home directory, which is the server's here. */
	LOGIN_FAILS(MS_EAUTH, "neither a key, an agent nor a password", "%s", "");
	ms_sshd_sh(&server, "mkdir .ssh && cp id .ssh/id_ed25519");
	LOGIN_OK("%s", "");
}

Test(sftp_login, agent) {
	if (!start("contract/test_sftp_login agent", false, NULL))
		return;
	char sock[500], pid[64] = "";
	snprintf(sock, sizeof sock, "%s/agent", server.dir);
	setenv("SSH_AUTH_SOCK", sock, 1);
	LOGIN_FAILS(MS_EAUTH, "the agent of SSH_AUTH_SOCK does not answer", "%s", "");
	ms_sshd_sh(&server, "ssh-agent -a '%s' >agent.env && sed -n 's/SSH_AGENT_PID=\\([0-9]*\\);.*/\\1/p' agent.env >agent.pid", sock);
	LOGIN_FAILS(MS_EAUTH, "the agent holds no key", "%s", "");
	ms_sshd_sh(&server, "ssh-keygen -q -t ed25519 -N '' -f stranger && ssh-add -q stranger");
	LOGIN_FAILS(MS_EAUTH, "the agent's 1 key refused)", "%s", "");
	/* A certificate beside its key. */
	ms_sshd_sh(&server, "ssh-keygen -q -t ed25519 -N '' -f ca && ssh-keygen -q -s ca -I x stranger.pub && ssh-add -q stranger");
	LOGIN_FAILS(MS_EAUTH, "the agent's 1 key refused (certificates and security tokens are not supported)", "%s", "");
	ms_sshd_sh(&server, "for t in rsa ed25519 ecdsa; do ssh-keygen -q -t $t -N '' -f own.$t && cat own.$t.pub >>authorized_keys || exit 1; done");
	for (int i = 0; i < 3; i++) {
		static const char *const kinds[] = {"rsa", "ed25519", "ecdsa"};
		ms_sshd_sh(&server, "ssh-add -qD && ssh-add -q stranger && ssh-add -q own.%s", kinds[i]);
		LOGIN_OK("%s", "");
	}
	/* The server's patience ends before the right key comes. */
	ms_sshd_sh(&server, "ssh-add -qD && for i in 1 2 3 4 5 6 7; do ssh-keygen -q -t ed25519 -N '' -f s$i && ssh-add -q s$i; done && ssh-add -q own.rsa");
	LOGIN_FAILS(MS_EAUTH, "the agent offers too many keys", "%s", "");
	LOGIN_OK("&keyPath=%s/own.rsa", server.dir);
	FILE *f = fopen(strcat(strcpy(sock, server.dir), "/agent.pid"), "r");
	cr_assert(f && fgets(pid, sizeof pid, f) && atoi(pid) > 1);
	fclose(f);
	/* One that hangs costs no more than the time for connecting. */
	kill(atoi(pid), SIGSTOP);
	uint64_t began = now_ms();
	LOGIN_FAILS(MS_EAUTH, "does not answer", "&connectTimeout=1s");
	cr_expect_lt(now_ms() - began, 8000);
	kill(atoi(pid), SIGKILL);
}

/* A server that asks for the password in its own words, and one on IPv6. */
Test(sftp_login, keyboard_interactive) {
	if (!start("contract/test_sftp_login keyboard_interactive", true, "UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication yes"))
		return;
	ms_sshd_sh(&server, ": >authorized_keys");
	LOGIN_FAILS(MS_EAUTH, "the server offers publickey keyboard-interactive", "&keyPath=%s/id", server.dir);
	setenv("MIGSTREAM_SFTP_PASSWORD", "wrong horse", 1);
	LOGIN_FAILS(MS_EAUTH, "password refused", "&keyPath=%s/id", server.dir);
	setenv("MIGSTREAM_SFTP_PASSWORD", "correct horse", 1);
	LOGIN_OK("&keyPath=%s/id", server.dir);
}

/* Key and password, one after the other. */
Test(sftp_login, two_factors) {
	if (!start("contract/test_sftp_login two_factors", true, "AuthenticationMethods publickey,password"))
		return;
	LOGIN_FAILS(MS_EAUTH, "accepted", "&keyPath=%s/id", server.dir);
	setenv("MIGSTREAM_SFTP_PASSWORD", "correct horse", 1);
	LOGIN_OK("&keyPath=%s/id", server.dir);
}

/* ---- who the server is ---- */

Test(sftp_login, host_keys) {
	if (!start("contract/test_sftp_login host_keys", false, NULL))
		return;
	const char *d = server.dir;
	char pin[200] = "", line[600] = "";
	struct ms_err err;
	ms_sshd_sh(&server, "ssh-keygen -q -t ed25519 -N '' -f other && "
			    "grep -v ed25519 known_hosts >kh_not_ed && grep rsa known_hosts >kh_rsa && cp known_hosts kh_hashed && ssh-keygen -q -H -f kh_hashed 2>/dev/null && "
			    "echo \"[127.0.0.1]:%u $(cut -d' ' -f1,2 other.pub)\" >kh_wrong && "
			    "{ cat known_hosts; echo \"@revoked * $(cut -d' ' -f1,2 host_ed25519.pub)\"; } >kh_revoked && "
			    "echo \"@cert-authority [127.0.0.1]:%u $(cut -d' ' -f1,2 host_ed25519.pub)\" >kh_ca && "
			    "echo \"127.0.0.1 $(cut -d' ' -f1,2 host_ed25519.pub)\" >kh_bare && : >kh_empty && "
			    "ssh-keygen -lf host_ed25519.pub | cut -d' ' -f2 >print && grep ed25519 known_hosts >line", server.port, server.port);
	LOGIN_OK("&keyPath=%s/id&knownHostsPath=%s/known_hosts", d, d);
	LOGIN_OK("&keyPath=%s/id&knownHostsPath=%s/kh_hashed", d, d);
	LOGIN_OK("&keyPath=%s/id&knownHostsPath=%s/kh_not_ed", d, d); /* the server is asked for a key that is known */
	if (libssh2_version(0x010b00)) {
		LOGIN_OK("&keyPath=%s/id&knownHostsPath=%s/kh_rsa", d, d);
	} else {
		/* Older ones cannot check SHA-2 signatures of RSA host keys: the error says which line helps. */
		LOGIN_FAILS(MS_EAUTH, "kh_rsa holds only a key of type ssh-rsa", "&keyPath=%s/id&knownHostsPath=%s/kh_rsa", d, d);
		LOGIN_FAILS(MS_EAUTH, " ssh-ed25519 AAAA", "&keyPath=%s/id&knownHostsPath=%s/kh_rsa", d, d);
	}
	LOGIN_OK("&keyPath=%s/id&knownHostsPath=%s/kh_bare", d, d);
	LOGIN_FAILS(MS_EAUTH, "holds another", "&keyPath=%s/id&knownHostsPath=%s/kh_wrong", d, d);
	LOGIN_FAILS(MS_EAUTH, "kh_revoked line 4 revokes", "&keyPath=%s/id&knownHostsPath=%s/kh_revoked", d, d);
	LOGIN_FAILS(MS_EAUTH, "host certificates are not supported", "&keyPath=%s/id&knownHostsPath=%s/kh_ca", d, d);
	LOGIN_FAILS(MS_EAUTH, "known_hosts: ", "&keyPath=%s/id&knownHostsPath=%s/nowhere", d, d);
	/* Unknown: the fingerprint as ssh-keygen has it, and the very line to add. */
	FILE *f = fopen(strcat(strcpy(line, d), "/print"), "r");
	cr_assert(f && fgets(pin, sizeof pin, f));
	pin[strcspn(pin, "\n")] = '\0';
	fclose(f);
	f = fopen(strcat(strcpy(line, d), "/line"), "r");
	cr_assert(f && fgets(line, sizeof line, f));
	line[strcspn(line, "\n")] = '\0';
	fclose(f);
	LOGIN_FAILS(MS_EAUTH, pin, "&keyPath=%s/id&knownHostsPath=%s/kh_empty", d, d);
	LOGIN_FAILS(MS_EAUTH, line, "&keyPath=%s/id&knownHostsPath=%s/kh_empty", d, d);
	/* Pinned in the URL. */
	LOGIN_OK("&keyPath=%s/id&hostKey=%s", d, pin);
	LOGIN_OK("&keyPath=%s/id&hostKey=%s", d, strrchr(line, ' ') + 1);
	LOGIN_OK("&keyPath=%s/id&hostKey=ssh-ed25519%%20%s", d, strrchr(line, ' ') + 1);
	pin[20] ^= 1;
	LOGIN_FAILS(MS_EAUTH, "holds another", "&keyPath=%s/id&hostKey=%s", d, pin);
	LOGIN_FAILS(MS_EUSAGE, "hostKey is no public key", "&keyPath=%s/id&hostKey=abc", d);
	/* Nobody was let in meanwhile, and no password was sent to a stranger. */
	setenv("MIGSTREAM_SFTP_PASSWORD", "secret", 1);
	LOGIN_FAILS(MS_EAUTH, "holds another", "&keyPath=%s/id&knownHostsPath=%s/kh_wrong", d, d);
	(void)err;
}

/* A server hardened to what every libssh2 has, with SHA-2 signatures of users' RSA keys only. */
Test(sftp_login, hardened) {
	if (!start("contract/test_sftp_login hardened", false,
		   "Ciphers aes256-ctr\nMACs hmac-sha2-512\nKexAlgorithms curve25519-sha256\nHostKeyAlgorithms ssh-ed25519\nPubkeyAcceptedAlgorithms rsa-sha2-512"))
		return;
	ms_sshd_sh(&server, "ssh-keygen -q -t rsa -b 2048 -N '' -f rsa && cat rsa.pub >>authorized_keys");
	LOGIN_OK("&keyPath=%s/rsa", server.dir);
	LOGIN_FAILS(MS_EAUTH, "refused", "&keyPath=%s/id", server.dir);
}

/* Servers that leave nothing that libssh2 1.10 has, each in one way: it is said what is missing, and what the server takes. Newer ones log in. */
Test(sftp_login, nothing_in_common) {
	static const struct {
		const char *config, *text;
	} cases[] = {
		{"MACs hmac-sha2-512-etm@openssh.com\nCiphers aes256-ctr", "no MAC in common: the server takes hmac-sha2-512-etm@openssh.com, we have hmac-sha2-256"},
		{"Ciphers aes256-gcm@openssh.com", "no cipher in common: the server takes aes256-gcm@openssh.com, we have aes128-ctr"},
		{"HostKeyAlgorithms rsa-sha2-512", "no host key algorithm in common: the server takes rsa-sha2-512, we have ssh-ed25519"},
	};
	if (!start("contract/test_sftp_login nothing_in_common", false, NULL))
		return;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		ms_sshd_stop(&server);
		ms_sshd_sh(&server, "test -e plain || cp sshd_config plain; { printf '%%b\\n' '%s'; cat plain; } >sshd_config", cases[i].config);
		ms_sshd_restart(&server);
		if (libssh2_version(0x010b00))
			LOGIN_OK("&keyPath=%s/id", server.dir);
		else
			LOGIN_FAILS(MS_ERETRY, cases[i].text, "&keyPath=%s/id", server.dir);
	}
}

Test(sftp_login, no_subsystem) {
	if (!start("contract/test_sftp_login no_subsystem", false, "Subsystem other /bin/false"))
		return;
	LOGIN_FAILS(MS_ERETRY, "no sftp subsystem", "&keyPath=%s/id", server.dir);
}

Test(sftp_login, ipv6) {
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool there = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
	close(fd);
	if (!there) {
		ms_test_skipped("contract/test_sftp_login ipv6", "this machine has no IPv6 loopback");
		cr_skip_test("no IPv6");
	}
	if (!start("contract/test_sftp_login ipv6", false, NULL))
		return;
	struct ms_replica *r = NULL;
	struct ms_replica_spec spec = {0};
	struct ms_err err = MS_ERR_INIT;
	char url[2000];
	ms_sshd_stop(&server);
	ms_sshd_sh(&server, "echo 'ListenAddress [::1]:%u' >>sshd_config && sed 's/127.0.0.1/::1/' known_hosts >kh6", server.port);
	ms_sshd_restart(&server);
	snprintf(url, sizeof url, "sftp://%s@[::1]:%u%s/d?create=true&keyPath=%s/id&knownHostsPath=%s/kh6", server.user, server.port, server.store, server.dir, server.dir);
	cr_assert_eq(ms_url_parse(url, &spec, &err), MS_OK, "%s", err.msg);
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "a", "x", 1, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "a", "x", 1, &err), MS_EEXISTS);
	char where[100];
	snprintf(where, sizeof where, "%s@[::1]:%u: a exists", server.user, server.port);
	cr_expect(strstr(err.msg, where), "%s", err.msg);
	/* A name with two addresses: the one that answers is found. */
	ms_replica_close(r);
	cr_assert_eq(ms_replica_spec_set(&spec, "host", "localhost", &err), MS_OK);
	ms_sshd_sh(&server, "sed 's/127.0.0.1/localhost/' known_hosts >kh6");
	cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
	cr_expect_eq(ms_replica_put_mem(r, "a", "x", 1, &err), MS_EEXISTS, "%s", err.msg);
	ms_replica_close(r);
	ms_replica_spec_release(&spec);
}

/* A name that nobody knows, an address where nobody listens. */
Test(sftp_login, nobody_there) {
	static const struct {
		const char *url, *text;
	} cases[] = {{"sftp://u@migstream.invalid/d?hostKey=SHA256:od4NPracnt73H/PEpu3q7oPyrON0nu3zzNBxnqlMAuo&connectTimeout=10s", "looking up migstream.invalid"},
		     {"sftp://u@127.0.0.1:1/d", "connecting to 127.0.0.1 port 1: Connection refused"}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct ms_replica *r = NULL;
		struct ms_replica_spec spec = {0};
		struct ms_err err = MS_ERR_INIT;
		cr_assert_eq(ms_url_parse(cases[i].url, &spec, &err), MS_OK, "%s", err.msg);
		cr_assert_eq(ms_replica_open(env, &spec, &r, &err), MS_OK, "%s", err.msg);
		enum ms_code rc = ms_replica_put_mem(r, "a", "x", 1, &err);
		cr_expect(rc == MS_ERETRY || (i == 0 && rc == MS_ETIMEDOUT), "%s %s", ms_code_name(rc), err.msg);
		cr_expect(strstr(err.msg, cases[i].text), "%s", err.msg);
		ms_replica_close(r);
		ms_replica_spec_release(&spec);
	}
}
