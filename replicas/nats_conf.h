/*
 * Options of a NATS replica as values: checked, with what the environment adds. Strings are owned; secrets are wiped on release.
 */
#ifndef MS_REPLICAS_NATS_CONF_H
#define MS_REPLICAS_NATS_CONF_H

#include "replicas/nats_meta.h"
#include "replicas/nats_nkey.h"

#define MS_NATS_SERVERS_MAX 16u
#define MS_NATS_CAS_MAX 16u

struct ms_nats_server {
	char *host, *url; /* url: "nats://host:port", host without brackets */
};

struct ms_nats_conf {
	struct ms_nats_server servers[MS_NATS_SERVERS_MAX];
	unsigned nservers;
	char *servers_text; /* "host:port,host:port", for messages */
	char *username, *password, *token, *creds;
	char *seed, public_key[MS_NATS_NKEY_MAX]; /* nkey */
	bool tls, insecure;
	char *cas[MS_NATS_CAS_MAX]; /* files */
	unsigned ncas;
	char *cert, *key, *server_name;
	int64_t timeout_us, connect_timeout_us;
	/* bucket */
	char bucket[MS_NATS_BUCKET_MAX + 1], stream[MS_NATS_BUCKET_MAX + 8];
	char prefix[MS_OBJECT_NAME_MAX + 2]; /* "" or "<prefix>/" */
	unsigned replicas;		     /* 0: not stated */
	bool storage_stated, memory, compression;
	uint64_t max_bytes; /* 0: not stated */
	int64_t sync_us, sweep_us;
};

extern const struct ms_option_def ms_nats_options[];

enum ms_code ms_nats_conf_init(struct ms_nats_conf *c, struct ms_env *env, const struct ms_replica_spec *spec, struct ms_err *err) MS_WARN_UNUSED;
void ms_nats_conf_release(struct ms_nats_conf *c);
/* Same servers, credentials and TLS: may use one connection. */
bool ms_nats_conf_same_link(const struct ms_nats_conf *a, const struct ms_nats_conf *b);

#endif
