/* A worker's handles to its replica: opened by the first job that needs one, cancelled from the loop thread. */
#include <string.h>

#include "core/worker_internal.h"

enum ms_code ms_handle_open(struct ms_worker *w, struct ms_handle *h, bool create, struct ms_replica **ret, struct ms_err *err) {
	struct ms_replica *r = atomic_load(&h->r);
	if (!r) {
		const struct ms_replica_driver *d = ms_replica_driver_find(w->spec.scheme);
		struct ms_replica_spec spec = {0};
		enum ms_code rc = ms_replica_spec_copy(&spec, &w->spec, err);
		for (const struct ms_option_def *o = d ? d->options : NULL; !rc && create && o && o->key; o++)
			if (strcmp(o->key, "create") == 0)
				rc = ms_replica_spec_set(&spec, "create", "true", err);
		if (!rc)
			rc = ms_replica_open(w->env, &spec, &r, err);
		ms_replica_spec_release(&spec);
		if (rc)
			return rc;
		atomic_store(&h->r, r);
	}
	if (atomic_load(&h->cancel))
		ms_replica_cancel(r);
	*ret = r;
	return MS_OK;
}

void ms_handle_cancel(struct ms_handle *h) {
	atomic_store(&h->cancel, true);
	struct ms_replica *r = atomic_load(&h->r);
	if (r)
		ms_replica_cancel(r);
}

void ms_handle_close(struct ms_handle *h) {
	ms_replica_close(atomic_load(&h->r));
	atomic_store(&h->r, NULL);
}
