/*
 * Who we are, in this order: the key file of `keyPath`; without one the agent, then the usual key files of ~/.ssh; then the password, as such or as the
 * answer to keyboard-interactive's one hidden question. What was tried is in the error.
 *
 * libssh2 builds and sends the messages, we sign (ssh_key.c, ssh_agent.c). RSA keys sign with SHA-2 only. From 1.11 on libssh2 chooses that by what the
 * server takes. 1.10 calls the algorithm what the key's blob begins with, where RFC 8332 has "rsa-sha2-512" for the one and "ssh-rsa" for the other:
 * so it is given a blob that begins with "rsa-sha2-512". OpenSSH's server takes that name for an RSA key; others need not.
 */
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "replicas/bcrypt_pbkdf.h"
#include "replicas/sftp_conn.h"
#include "replicas/ssh_agent.h"
#include "replicas/ssh_hello.h"
#include "replicas/ssh_key.h"

#define KEY_FILE_LIMIT (256u << 10)
#define AGENT_KEYS_MAX 64
#define NAMES_RSA_ITSELF 0x010b00 /* the first libssh2 that signs by SHA-2 as the standard has it */

enum { PUBLICKEY = 1, PASSWORD = 2, INTERACTIVE = 4, HOSTBASED = 8 };

struct attempt {
	struct ms_sftp_conn *c;
	unsigned methods; /* that the server still takes */
	bool done;	  /* let in */
	char tried[320];  /* for the error: "key /k refused, password refused" */
	size_t n;
};

static void MS_PRINTF(2, 3) tried(struct attempt *a, const char *fmt, ...) {
	va_list ap;
	if (a->n >= sizeof a->tried - 1)
		return;
	if (a->n)
		a->n += (size_t)snprintf(a->tried + a->n, sizeof a->tried - a->n, ", ");
	if (a->n >= sizeof a->tried - 1)
		return;
	va_start(ap, fmt);
	a->n += (size_t)vsnprintf(a->tried + a->n, sizeof a->tried - a->n, fmt, ap);
	va_end(ap);
}

static void offered(unsigned methods, char ret[80]) {
	snprintf(ret, 80, "%s%s%s%s", methods & PUBLICKEY ? " publickey" : "", methods & PASSWORD ? " password" : "",
		 methods & INTERACTIVE ? " keyboard-interactive" : "", methods & HOSTBASED ? " hostbased" : "");
}

static enum ms_code lost(struct ms_sftp_conn *c, struct ms_err *err) {
	if (strstr(c->words, "Too many authentication failures"))
		return ms_sftp_err(c, err, MS_EAUTH, "%s: the agent offers too many keys; name the right one with keyPath", c->words);
	return ms_sftp_lost(c, err, "the connection was lost while logging in");
}

/* Asks what the server takes, by a login without anything; that may succeed. */
static enum ms_code ask_methods(struct attempt *a, char **list, struct ms_err *err) {
	static const char *const names[] = {"publickey", "password", "keyboard-interactive", "hostbased"};
	struct ms_sftp_conn *c = a->c;
	enum ms_code code;
	int rc;
	MS_SFTP_LOOP(c, code, rc, (*list = libssh2_userauth_list(c->ssh, c->to->user, (unsigned)strlen(c->to->user))) || libssh2_userauth_authenticated(c->ssh) ? 0
				  : libssh2_session_last_errno(c->ssh) ? libssh2_session_last_errno(c->ssh) : LIBSSH2_ERROR_PROTO, err);
	if (code)
		return code;
	if (rc)
		return lost(c, err);
	a->methods = 0;
	a->done = libssh2_userauth_authenticated(c->ssh);
	for (unsigned i = 0; *list && i < sizeof names / sizeof names[0]; i++)
		if (ms_ssh_listed(*list, strlen(*list), names[i], strlen(names[i])))
			a->methods |= 1u << i;
	return MS_OK;
}

/* A server that wants two things takes the first without saying so in a way that libssh2 passes on: it lists other methods then. */
static enum ms_code accepted_in_part(struct attempt *a, char **list, bool *ret, struct ms_err *err) {
	unsigned before = a->methods;
	/* 1.10 drops the last answer where the next one comes. */
	if (*list && !libssh2_version(NAMES_RSA_ITSELF))
		libssh2_free(a->c->ssh, *list);
	*list = NULL;
	enum ms_code code = ask_methods(a, list, err);
	*ret = !code && a->methods != before;
	return code;
}

/* ---- keys ---- */

struct signer {
	const struct ms_ssh_key *key; /* or */
	struct ms_ssh_agent *agent;
	const uint8_t *blob;
	size_t nblob;
	bool signed_it, failed; /* the server takes the key; and nobody signs */
};

/* data: string session id, u8 50, string user, string service, string "publickey", u8 1, string algorithm, string key. *sig is freed by libssh2. */
static LIBSSH2_USERAUTH_PUBLICKEY_SIGN_FUNC(on_sign) {
	struct signer *s = *abstract;
	struct ms_ssh_reader r = {data, data_len, false};
	char algorithm[64] = "";
	uint8_t *out = malloc(MS_SSH_SIG_MAX);
	size_t n;
	(void)session;
	(void)ms_ssh_string(&r, &n);
	if (!r.bad && r.n)
		r.p++, r.n--;
	for (int i = 0; i < 3; i++)
		(void)ms_ssh_string(&r, &n);
	if (!r.bad && r.n)
		r.p++, r.n--;
	const uint8_t *p = ms_ssh_string(&r, &n);
	if (p && n < sizeof algorithm)
		memcpy(algorithm, p, n);
	bool ok = out && (s->agent ? ms_ssh_agent_sign(s->agent, s->blob, s->nblob, data, data_len, algorithm, out, sig_len)
				   : ms_ssh_key_sign(s->key, algorithm, data, data_len, out, sig_len) == MS_OK);
	s->signed_it = ok;
	s->failed = !ok;
	if (!ok) {
		free(out);
		return -1;
	}
	*sig = out;
	return 0;
}

/* Is the type one of ssh_key.h's? Certificates and keys of security tokens sign in other ways. */
static bool plain_type(const uint8_t *blob, size_t n, char ret[32]) {
	static const char known[] = "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,ssh-rsa";
	struct ms_ssh_reader r = {blob, n, false};
	size_t len;
	const char *type = (const char *)ms_ssh_string(&r, &len);
	if (!type || len > 31 || !ms_ssh_listed(known, sizeof known - 1, type, len))
		return false;
	snprintf(ret, 32, "%.*s", (int)len, type);
	return true;
}

/* Offers a key, and signs when the server would take it. */
static enum ms_code offer(struct attempt *a, const char *type, struct signer *s, struct ms_err *err) {
	static const char sha2[] = "rsa-sha2-512";
	struct ms_sftp_conn *c = a->c;
	uint8_t renamed[MS_SSH_BLOB_MAX + sizeof sha2];
	const uint8_t *blob = s->blob;
	size_t n = s->nblob;
	void *arg = s;
	enum ms_code code;
	int rc;
	if (n > MS_SSH_BLOB_MAX)
		return MS_OK;
	if (strcmp(type, "ssh-rsa") == 0 && !libssh2_version(NAMES_RSA_ITSELF)) {
		uint8_t *p = ms_ssh_put(renamed, sha2, sizeof sha2 - 1);
		size_t head = 4 + strlen(type);
		memcpy(p, blob + head, n - head);
		blob = renamed;
		n = (size_t)(p - renamed) + n - head;
	}
	MS_SFTP_LOOP(c, code, rc, libssh2_userauth_publickey(c->ssh, c->to->user, blob, n, on_sign, &arg), err);
	if (code)
		return code;
	a->done = rc == 0;
	return c->gone ? lost(c, err) : MS_OK;
}

static const char *rsa_advice(struct ms_sftp_conn *c, const char *type) {
	const char *banner = libssh2_session_banner_get(c->ssh);
	if (strcmp(type, "ssh-rsa") != 0 || libssh2_version(NAMES_RSA_ITSELF) || (banner && strstr(banner, "OpenSSH")))
		return "";
	return " (libssh2 before 1.11 brings RSA keys only to OpenSSH's server: use ed25519)";
}

static enum ms_code load_key(struct ms_sftp_conn *c, const char *path, struct ms_ssh_key *ret, struct ms_err *err) {
	struct ms_buf text;
	struct ms_err e = MS_ERR_INIT;
	enum ms_code rc;
	ms_buf_init(&text, KEY_FILE_LIMIT);
	rc = ms_fs_read_file(c->env, path, &text, &e);
	if (!rc)
		rc = ms_buf_u8(&text, 0, &e);
	if (rc) {
		rc = ms_sftp_err(c, err, rc == MS_ENOTFOUND ? MS_EAUTH : rc, "key file: %s", e.msg);
		goto out;
	}
	switch (ms_ssh_key_read(ret, (const char *)text.data, c->to->key_passphrase)) {
	case MS_SSH_KEY_READ:
		break;
	case MS_SSH_KEY_SEALED:
		rc = ms_sftp_err(c, err, MS_EAUTH, "key file %s is protected: give its passphrase as keyPassphrase or in MIGSTREAM_SFTP_KEY_PASSPHRASE", path);
		break;
	case MS_SSH_KEY_WRONG:
		rc = ms_sftp_err(c, err, MS_EAUTH, "the passphrase does not open key file %s", path);
		break;
	case MS_SSH_KEY_CIPHER:
		rc = ms_sftp_err(c, err, MS_EAUTH, "key file %.120s is protected by a cipher that is not known here, or by more than %d rounds: ssh-keygen -p -Z aes256-ctr -a 16 -f %.120s", path,
				 MS_BCRYPT_ROUNDS_MAX, path);
		break;
	case MS_SSH_KEY_NONE:
	default:
		rc = ms_sftp_err(c, err, MS_EAUTH, "%s holds no private key that can be used (ed25519, ECDSA and RSA can; a public key cannot)", path);
	}
out:
	if (text.data)
		explicit_bzero(text.data, text.cap);
	ms_buf_release(&text);
	return rc;
}

static enum ms_code with_key(struct attempt *a, const char *path, char **list, struct ms_err *err) {
	struct ms_ssh_key key;
	bool partly = false;
	enum ms_code code = load_key(a->c, path, &key, err);
	if (code)
		return code;
	struct signer s = {.key = &key, .blob = key.blob, .nblob = key.blob_len};
	code = offer(a, key.type, &s, err);
	if (!code && !a->done && s.signed_it)
		code = accepted_in_part(a, list, &partly, err);
	if (!code && !a->done)
		tried(a, "key %.100s (%s) %s%s", path, key.type, partly ? "accepted" : s.failed ? "cannot sign as the server wants (SHA-2 is needed)" : "refused",
		      partly ? "" : rsa_advice(a->c, key.type));
	ms_ssh_key_release(&key);
	return code;
}

static enum ms_code with_agent(struct attempt *a, char **list, struct ms_err *err) {
	struct ms_sftp_conn *c = a->c;
	const char *path = getenv("SSH_AUTH_SOCK"), *advice = "";
	struct ms_ssh_agent agent;
	struct ms_ssh_reader keys = {0};
	struct ms_buf copy;
	unsigned n = 0, offers = 0, others = 0, silent = 0;
	bool partly = false;
	enum ms_code code = MS_OK;
	if (!path || !path[0])
		return MS_OK;
	ms_buf_init(&copy, 1u << 20);
	bool answers = ms_ssh_agent_open(&agent, c->env, path, c->deadline_ns, c->wake_fd) && ms_ssh_agent_list(&agent, &keys, &n);
	if (!answers || n == 0) {
		tried(a, answers ? "the agent holds no key" : "the agent of SSH_AUTH_SOCK does not answer");
		goto out;
	}
	/* Its next answer would take their place. */
	if ((code = ms_buf_append(&copy, keys.p, keys.n, err)))
		goto out;
	keys.p = copy.data;
	for (unsigned i = 0; i < n && i < AGENT_KEYS_MAX && !keys.bad && !code && !a->done && !partly; i++) {
		char type[32];
		size_t nblob, ncomment;
		const uint8_t *blob = ms_ssh_string(&keys, &nblob);
		(void)ms_ssh_string(&keys, &ncomment);
		if (keys.bad)
			break;
		if (!plain_type(blob, nblob, type)) {
			others++;
			continue;
		}
		struct signer s = {.agent = &agent, .blob = blob, .nblob = nblob};
		code = offer(a, type, &s, err);
		offers++;
		silent += s.failed;
		if (advice[0] == '\0')
			advice = rsa_advice(c, type);
		if (!code && !a->done && s.signed_it)
			code = accepted_in_part(a, list, &partly, err);
	}
	if (!code && !a->done)
		tried(a, "the agent's %u key%s %s%s%s%s", offers, offers == 1 ? "" : "s", partly ? "accepted in part" : "refused",
		      silent ? " (it would not sign)" : "", others ? " (certificates and security tokens are not supported)" : "", partly ? "" : advice);
out:
	ms_ssh_agent_close(&agent);
	ms_buf_release(&copy);
	return code;
}

static enum ms_code with_usual_keys(struct attempt *a, char **list, struct ms_err *err) {
	static const char *const names[] = {"id_ed25519", "id_ecdsa", "id_rsa"};
	const char *home = getenv("HOME");
	struct passwd *pw = home && home[0] ? NULL : getpwuid(getuid());
	if (pw)
		home = pw->pw_dir;
	for (size_t i = 0; home && home[0] && i < sizeof names / sizeof names[0] && !a->done && a->methods & PUBLICKEY; i++) {
		char path[MS_PATH_MAX];
		snprintf(path, sizeof path, "%s/.ssh/%s", home, names[i]);
		if (access(path, R_OK) != 0)
			continue;
		struct ms_err e = MS_ERR_INIT;
		enum ms_code code = with_key(a, path, list, &e);
		/* A key that cannot be opened is not an error here: nobody named it. */
		if (code == MS_EAUTH && !a->c->gone)
			tried(a, "key %.100s cannot be opened", path);
		else if (code)
			return ms_err_set(err, code, "%s", e.msg);
	}
	return MS_OK;
}

/* ---- passwords ---- */

/* One question whose answer is hidden is the password's, once; anything else nobody can answer here, and goes without an answer. */
static LIBSSH2_USERAUTH_KBDINT_RESPONSE_FUNC(on_questions) {
	struct ms_sftp_conn *c = *abstract;
	(void)name, (void)name_len, (void)instruction, (void)instruction_len;
	if (num_prompts != 1 || prompts[0].echo || c->answered)
		return;
	responses[0].text = strdup(c->to->password);
	responses[0].length = responses[0].text ? (unsigned)strlen(responses[0].text) : 0;
	c->answered = true;
}

static enum ms_code with_password(struct attempt *a, char **list, struct ms_err *err) {
	struct ms_sftp_conn *c = a->c;
	const char *user = c->to->user, *password = c->to->password;
	bool partly = false;
	int rc;
	enum ms_code code;
	if (a->methods & PASSWORD) {
		MS_SFTP_LOOP(c, code, rc, libssh2_userauth_password_ex(c->ssh, user, (unsigned)strlen(user), password, (unsigned)strlen(password), NULL), err);
	} else if (a->methods & INTERACTIVE) {
		MS_SFTP_LOOP(c, code, rc, libssh2_userauth_keyboard_interactive_ex(c->ssh, user, (unsigned)strlen(user), on_questions), err);
	} else {
		tried(a, "the server takes no password");
		return MS_OK;
	}
	if (!code && c->gone)
		code = lost(c, err);
	a->done = rc == 0;
	if (!code && !a->done && rc != LIBSSH2_ERROR_PASSWORD_EXPIRED)
		code = accepted_in_part(a, list, &partly, err);
	if (!code && !a->done)
		tried(a, "password %s", rc == LIBSSH2_ERROR_PASSWORD_EXPIRED ? "expired" : partly ? "accepted" : "refused");
	return code;
}

enum ms_code ms_sftp_authenticate(struct ms_sftp_conn *c, struct ms_err *err) {
	struct attempt a = {.c = c};
	char *list = NULL, methods[80];
	enum ms_code code = ask_methods(&a, &list, err);
	if (code || a.done)
		return code;
	offered(a.methods, methods);
	if (c->to->key_path && !(a.methods & PUBLICKEY) && !c->to->password)
		return ms_sftp_err(c, err, MS_EAUTH, "the server takes no keys for this user; it offers%s", methods);
	if (a.methods & PUBLICKEY) {
		if (c->to->key_path)
			code = with_key(&a, c->to->key_path, &list, err);
		else if (!(code = with_agent(&a, &list, err)) && !a.done)
			code = with_usual_keys(&a, &list, err);
		if (code || a.done)
			return code;
	}
	if (c->to->password) {
		code = with_password(&a, &list, err);
		if (code || a.done)
			return code;
	}
	offered(a.methods, methods);
	return ms_sftp_err(c, err, MS_EAUTH, "login refused (%s); the server offers%s. Keys belong into this user's authorized_keys there",
			   a.n ? a.tried : "neither a key, an agent nor a password is there", methods);
}
