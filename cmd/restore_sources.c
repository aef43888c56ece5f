#include "cmd/restore_sources.h"

#include <stdio.h>
#include <stdlib.h>

#include "cmd/replica_spec.h"
#include "cmd/shadow.h"
#include "replicas/url.h"

#define URL_MAX 1024

void ms_restore_sources_release(struct ms_restore_sources *s) {
	for (unsigned i = 0; i < s->n; i++) {
		ms_replica_spec_release(&s->specs[i]);
		free(s->urls[i]);
	}
	free(s->specs);
	free(s->replicas);
	free(s->urls);
	*s = (struct ms_restore_sources){0};
}

/* Takes the spec. */
static enum ms_code add(struct ms_restore_sources *s, struct ms_replica_spec *spec, struct ms_err *err) {
	unsigned n = s->n + 1;
	char text[URL_MAX];
	struct ms_replica_spec *specs = realloc(s->specs, n * sizeof *specs);
	if (specs)
		s->specs = specs;
	struct ms_restore_replica *replicas = realloc(s->replicas, n * sizeof *replicas);
	if (replicas)
		s->replicas = replicas;
	char **urls = realloc(s->urls, n * sizeof *urls);
	if (urls)
		s->urls = urls;
	char *url = strdup(ms_url_format(spec, text, sizeof text));
	if (!specs || !replicas || !urls || !url) {
		free(url);
		ms_replica_spec_release(spec);
		return ms_err_set(err, MS_ENOMEM, "out of memory for %u replicas", n);
	}
	s->specs[s->n] = *spec;
	s->urls[s->n] = url;
	s->n = n;
	for (unsigned i = 0; i < n; i++)
		s->replicas[i] = (struct ms_restore_replica){&s->specs[i], s->urls[i]};
	return MS_OK;
}

static enum ms_code add_url(struct ms_restore_sources *s, const char *url, struct ms_err *err) {
	struct ms_replica_spec spec = {0};
	enum ms_code rc = ms_url_parse(url, &spec, err);
	return rc ? rc : add(s, &spec, err);
}

static bool is_dir(struct ms_env *env, const char *path) {
	struct ms_stat st;
	return env->ops->stat(env, path, &st, NULL) == MS_OK && st.is_dir;
}

/* The replica that a daemon keeps in its shadow directory, where there is one. */
static enum ms_code add_local(struct ms_env *env, struct ms_restore_sources *s, const char *shadow, const char *db, struct ms_err *err) {
	char path[MS_PATH_MAX];
	if (snprintf(path, sizeof path, "%s/db/%s/replica", shadow, db) >= (int)sizeof path)
		return ms_err_set(err, MS_EUSAGE, "%s: path of the shadow directory is too long", shadow);
	if (!is_dir(env, path))
		return MS_OK;
	struct ms_replica_spec spec = {0};
	/* Not parsed as a URL: a path may hold any character. */
	if (!(spec.scheme = strdup("file")))
		return ms_err_set(err, MS_ENOMEM, "out of memory");
	enum ms_code rc = ms_replica_spec_set(&spec, "path", path, err);
	if (rc) {
		ms_replica_spec_release(&spec);
		return rc;
	}
	return add(s, &spec, err);
}

struct names {
	char first[MS_CONFIG_NAME_MAX + 1];
	unsigned n;
	char all[300];
};

static bool on_name(void *arg, const char *name, bool dir) {
	struct names *v = arg;
	size_t len = strlen(v->all);
	if (!dir || strlen(name) > MS_CONFIG_NAME_MAX)
		return true;
	if (v->n++ == 0)
		snprintf(v->first, sizeof v->first, "%s", name);
	snprintf(v->all + len, sizeof v->all - len, "%s%s", len ? ", " : "", name);
	return true;
}

static enum ms_code add_shadow(struct ms_env *env, struct ms_restore_sources *s, const char *given, const char *db, struct ms_err *err) {
	char dbs[MS_PATH_MAX], shadow[MS_PATH_MAX];
	struct names names = {.n = 0};
	enum ms_code rc = ms_canonical_path(given, shadow, err);
	if (rc)
		return rc;
	if ((rc = ms_path_join(dbs, sizeof dbs, shadow, "db", err)))
		return rc;
	if (!is_dir(env, dbs))
		return ms_err_set(err, MS_EUSAGE, "--shadow %s: there is no shadow directory of a daemon (no folder db in it)", given);
	if (!db) {
		if ((rc = env->ops->readdir(env, dbs, on_name, &names, err)))
			return rc;
		if (names.n == 0)
			return ms_err_set(err, MS_EUSAGE, "--shadow %s: it keeps no database", given);
		if (names.n > 1)
			return ms_err_set(err, MS_EUSAGE, "--shadow %s: it keeps several databases (%s); name one as an argument", given, names.all);
		db = names.first;
	} else {
		char path[MS_PATH_MAX];
		if ((rc = ms_path_join(path, sizeof path, dbs, db, err)))
			return rc;
		if (!is_dir(env, path))
			return ms_err_set(err, MS_EUSAGE, "--shadow %s: it keeps no database named %s", given, db);
	}
	if ((rc = add_local(env, s, shadow, db, err)) || (rc = ms_path_join(s->journal_dir, sizeof s->journal_dir, shadow, "journal", err)))
		return rc;
	if (!is_dir(env, s->journal_dir))
		s->journal_dir[0] = '\0';
	snprintf(s->journal_db, sizeof s->journal_db, "%s", db);
	return MS_OK;
}

static enum ms_code from_config(struct ms_env *env, struct ms_restore_sources *s, const char *file, const char *db, char name[MS_CONFIG_NAME_MAX + 1],
				struct ms_err *err) {
	struct ms_config *c = NULL;
	char canonical[MS_PATH_MAX], shadow[MS_PATH_MAX];
	enum ms_code rc = ms_config_load(file, &c, err);
	if (rc)
		return rc;
	const struct ms_config_database *d = ms_config_find(c, db);
	if (!d && ms_canonical_path(db, canonical, NULL) == MS_OK)
		d = ms_config_find(c, canonical);
	if (!d)
		rc = ms_err_set(err, MS_EUSAGE, "%s names no database %s", file, db);
	for (unsigned i = 0; !rc && i < d->nreplicas; i++) {
		struct ms_replica_spec spec = {0};
		rc = ms_replica_spec_from_config(file, &d->replicas[i], &spec, err);
		if (!rc)
			rc = add(s, &spec, err);
	}
	if (!rc && (d->nreplicas == 0 || d->s.local.enabled) && !(rc = ms_shadow_of_config(c, shadow, err)))
		rc = add_local(env, s, shadow, d->name, err);
	if (!rc)
		snprintf(name, MS_CONFIG_NAME_MAX + 1, "%s", d->name);
	ms_config_release(c);
	return rc;
}

static bool looks_like_url(const char *s) { return strstr(s, "://") || s[0] == '/' || s[0] == '.'; }

enum ms_code ms_restore_sources_find(struct ms_env *env, const struct ms_args *a, const char *shadow, struct ms_restore_sources *ret,
				     struct ms_err *err) {
	struct ms_restore_sources s = {0};
	char name[MS_CONFIG_NAME_MAX + 1] = "";
	const char *option = ms_args_get(a, "config"), *file = option;
	enum ms_code rc = ms_replicas_register_builtin(err);
	if (!rc && !option && !shadow && a->npositionals == 1 && !looks_like_url(a->positionals[0]))
		file = ms_config_lookup(NULL);
	if (!rc && file) {
		rc = a->npositionals == 1 ? from_config(env, &s, file, a->positionals[0], name, err)
					  : ms_err_set(err, MS_EUSAGE, "with a configuration, name one database in it");
	} else {
		for (unsigned i = 0; !rc && i < a->npositionals; i++) {
			if (shadow && !name[0] && !looks_like_url(a->positionals[i]) && strlen(a->positionals[i]) < sizeof name)
				snprintf(name, sizeof name, "%s", a->positionals[i]);
			else
				rc = add_url(&s, a->positionals[i], err);
		}
	}
	if (!rc && shadow)
		rc = add_shadow(env, &s, shadow, name[0] ? name : NULL, err);
	if (!rc && s.n == 0 && shadow)
		rc = ms_err_set(err, MS_EUSAGE, "--shadow %s keeps no replica of its own: name the URL of one as well", shadow);
	else if (!rc && s.n == 0)
		rc = ms_err_set(err, MS_EUSAGE, "no replica is named: give its URL, or -c FILE DB");
	if (rc)
		ms_restore_sources_release(&s);
	else
		*ret = s;
	return rc;
}
