/*
 * One sorted array of objects per store, under one mutex for all stores: put reads its body first and inserts at the end, so that
 * an object appears whole or not at all. Faults are decided when a call begins.
 */
#include "replicas/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define STORES_MAX 64
#define FAULTS_MAX 32
#define STORE_NAME_MAX 64
#define SLEEP_SLICE_US 10000u

struct object {
	char *name;
	uint8_t *data;
	size_t len;
	int64_t mtime_us;
};
struct fault {
	struct ms_mem_fault f;
	char name_has[64];
};
struct store {
	char name[STORE_NAME_MAX];
	struct object **objects; /* ascending by name */
	size_t n, cap;
	struct fault faults[FAULTS_MAX];
	unsigned nfaults;
	int64_t settle_us;
	struct ms_mem_counts counts;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct store *stores[STORES_MAX]; /* under lock, with all they hold */

struct handle {
	struct ms_replica_base base;
	struct ms_env *env;
	char name[STORE_NAME_MAX];
	atomic_bool cancelled;
};

static struct store *store_get(const char *name) {
	size_t free_slot = STORES_MAX;
	for (size_t i = 0; i < STORES_MAX; i++) {
		if (stores[i] && strcmp(stores[i]->name, name) == 0)
			return stores[i];
		if (!stores[i] && free_slot == STORES_MAX)
			free_slot = i;
	}
	struct store *s = free_slot < STORES_MAX && strlen(name) < STORE_NAME_MAX ? calloc(1, sizeof *s) : NULL;
	if (!s)
		abort(); /* a test with more than STORES_MAX stores, or without memory */
	memcpy(s->name, name, strlen(name) + 1);
	return stores[free_slot] = s;
}

/* Index of the first object whose name is >= name. */
static size_t lower_bound(const struct store *s, const char *name) {
	size_t lo = 0, hi = s->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (strcmp(s->objects[mid]->name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct object *find(const struct store *s, const char *name) {
	size_t i = lower_bound(s, name);
	return i < s->n && strcmp(s->objects[i]->name, name) == 0 ? s->objects[i] : NULL;
}

static void object_free(struct object *o) {
	if (!o)
		return;
	free(o->name);
	free(o->data);
	free(o);
}

/* Takes data. */
static bool insert(struct store *s, const char *name, uint8_t *data, size_t len, int64_t mtime_us) {
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 64;
		struct object **grown = reallocarray(s->objects, cap, sizeof *grown);
		if (!grown)
			return false;
		s->objects = grown;
		s->cap = cap;
	}
	struct object *o = calloc(1, sizeof *o);
	if (!o || !(o->name = strdup(name))) {
		free(o);
		return false;
	}
	o->data = data;
	o->len = len;
	o->mtime_us = mtime_us;
	size_t i = lower_bound(s, name);
	memmove(s->objects + i + 1, s->objects + i, (s->n - i) * sizeof *s->objects);
	s->objects[i] = o;
	s->n++;
	s->counts.objects++;
	s->counts.bytes += len;
	return true;
}

static void erase(struct store *s, const char *name) {
	size_t i = lower_bound(s, name);
	if (i == s->n || strcmp(s->objects[i]->name, name) != 0)
		return;
	s->counts.objects--;
	s->counts.bytes -= s->objects[i]->len;
	object_free(s->objects[i]);
	memmove(s->objects + i, s->objects + i + 1, (s->n - i - 1) * sizeof *s->objects);
	s->n--;
}

/* The fault that a call meets; code MS_OK and no delay when none. */
static struct ms_mem_fault meet(struct handle *h, unsigned op, const char *name) {
	struct ms_mem_fault none = {0}, met = none;
	pthread_mutex_lock(&lock);
	struct store *s = store_get(h->name);
	switch (op) {
	case MS_MEM_PUT:
		s->counts.puts++;
		break;
	case MS_MEM_GET:
		s->counts.gets++;
		break;
	case MS_MEM_LIST:
		s->counts.lists++;
		break;
	default:
		s->counts.removes++;
	}
	for (unsigned i = 0; i < s->nfaults; i++) {
		struct ms_mem_fault *f = &s->faults[i].f;
		uint32_t dice;
		if (!(f->ops & op) || f->times == 0 || (f->name_has && !strstr(name, s->faults[i].name_has)))
			continue;
		if (f->skip) {
			f->skip--;
			continue;
		}
		if (f->permille) {
			ms_env_random(h->env, &dice, sizeof dice);
			if (dice % 1000 >= f->permille)
				continue;
		}
		if (f->times > 0)
			f->times--;
		met = *f;
		break;
	}
	pthread_mutex_unlock(&lock);
	return met;
}

static enum ms_code canceled(struct ms_err *err) { return ms_err_set(err, MS_ECANCELED, "the call was cancelled"); }

/* Everything that comes before the work itself. */
static enum ms_code enter(struct handle *h, unsigned op, const char *name, struct ms_mem_fault *f, struct ms_err *err) {
	if (atomic_load(&h->cancelled))
		return canceled(err);
	*f = meet(h, op, name);
	for (uint64_t left = f->delay_us; left;) {
		uint64_t slice = left > SLEEP_SLICE_US ? SLEEP_SLICE_US : left;
		h->env->ops->sleep_us(h->env, slice);
		left -= slice;
		if (atomic_load(&h->cancelled))
			return canceled(err);
	}
	if (f->code && !f->lose_response && !f->partial) {
		enum ms_code rc = ms_err_set(err, f->code, "mem://%s: %s: injected failure", h->name, name);
		if (err)
			err->sys = f->sys;
		return rc;
	}
	return MS_OK;
}

static enum ms_code leave(struct handle *h, const char *name, const struct ms_mem_fault *f, struct ms_err *err) {
	if (!f->code)
		return MS_OK;
	enum ms_code rc = ms_err_set(err, f->code, "mem://%s: %s: response lost", h->name, name);
	if (err)
		err->sys = f->sys;
	return rc;
}

static enum ms_code mem_open(struct ms_env *env, const struct ms_replica_spec *spec, struct ms_replica **ret, struct ms_err *err) {
	const char *name = ms_replica_spec_get(spec, "name");
	if (strlen(name) >= STORE_NAME_MAX)
		return ms_err_set(err, MS_EUSAGE, "mem://%.40s...: the name is too long", name);
	struct handle *h = calloc(1, sizeof *h);
	if (!h)
		return ms_err_set(err, MS_ENOMEM, "mem://%s", name);
	h->base.driver = ms_replica_driver_find("mem");
	h->env = env;
	memcpy(h->name, name, strlen(name) + 1);
	*ret = (struct ms_replica *)h;
	return MS_OK;
}

static enum ms_code mem_put(struct ms_replica *r, const char *name, struct ms_body *b, struct ms_err *err) {
	struct handle *h = (struct handle *)r;
	struct ms_mem_fault f;
	uint8_t *data = NULL;
	size_t len = 0, cap = 0, n;
	enum ms_code rc = enter(h, MS_MEM_PUT, name, &f, err);
	if (rc)
		return rc;
	do {
		if (len == cap) {
			cap = cap ? cap * 2 : b->size > 0 ? (size_t)b->size + 1 : 4096;
			uint8_t *grown = realloc(data, cap);
			if (!grown) {
				rc = ms_err_set(err, MS_ENOMEM, "mem://%s: %s", h->name, name);
				goto out;
			}
			data = grown;
		}
		size_t want = cap - len > 1u << 20 ? 1u << 20 : cap - len;
		if ((rc = b->read(b, data + len, want, &n, err)))
			goto out;
		len += n;
		if (atomic_load(&h->cancelled)) {
			rc = canceled(err);
			goto out;
		}
	} while (n);
	if (b->size >= 0 && (uint64_t)b->size != len) {
		rc = ms_err_set(err, MS_EINVAL, "%s: the body gave %zu bytes instead of %lld", name, len, (long long)b->size);
		goto out;
	}
	pthread_mutex_lock(&lock);
	struct store *s = store_get(h->name);
	if (find(s, name)) {
		s->counts.refused++;
		rc = ms_err_set(err, MS_EEXISTS, "mem://%s: %s exists", h->name, name);
	} else if (insert(s, name, data, len, ms_env_now_us(h->env))) {
		data = NULL;
	} else {
		rc = ms_err_set(err, MS_ENOMEM, "mem://%s: %s", h->name, name);
	}
	pthread_mutex_unlock(&lock);
	if (f.code)
		rc = leave(h, name, &f, err);
out:
	free(data);
	return rc;
}

static enum ms_code mem_get(struct ms_replica *r, const char *name, int64_t off, int64_t len, ms_get_cb cb, void *arg, struct ms_err *err) {
	struct handle *h = (struct handle *)r;
	struct ms_mem_fault f;
	enum ms_code rc = enter(h, MS_MEM_GET, name, &f, err);
	if (rc)
		return rc;
	uint8_t *copy = NULL;
	size_t n = 0;
	pthread_mutex_lock(&lock);
	struct object *o = find(store_get(h->name), name);
	if (!o) {
		rc = ms_err_set(err, MS_ENOTFOUND, "mem://%s: %s does not exist", h->name, name);
	} else {
		size_t from = (uint64_t)off < o->len ? (size_t)off : o->len;
		n = len < 0 || (uint64_t)len > o->len - from ? o->len - from : (size_t)len;
		copy = malloc(n + 1);
		if (!copy)
			rc = ms_err_set(err, MS_ENOMEM, "mem://%s: %s", h->name, name);
		else
			memcpy(copy, o->data + from, n);
	}
	pthread_mutex_unlock(&lock);
	if (!rc && f.code)
		n /= 2;
	for (size_t at = 0; !rc && at < n;) {
		size_t step = n - at > 256u << 10 ? 256u << 10 : n - at;
		if (atomic_load(&h->cancelled))
			rc = canceled(err);
		else
			rc = cb(arg, copy + at, step, err);
		at += step;
	}
	free(copy);
	return rc ? rc : leave(h, name, &f, err);
}

static enum ms_code mem_list(struct ms_replica *r, const char *prefix, const char *start_after, ms_list_cb cb, void *arg, struct ms_err *err) {
	struct handle *h = (struct handle *)r;
	struct ms_mem_fault f;
	enum ms_code rc = enter(h, MS_MEM_LIST, prefix, &f, err);
	if (rc)
		return rc;
	/* One object at a time, without the lock during the callback: it may call this store again, as on a real backend. */
	char *last = strdup(start_after);
	if (!last)
		return ms_err_set(err, MS_ENOMEM, "mem://%s", h->name);
	size_t nprefix = strlen(prefix);
	for (;;) {
		struct ms_object o = {0};
		char *name = NULL;
		pthread_mutex_lock(&lock);
		struct store *s = store_get(h->name);
		size_t i = lower_bound(s, strcmp(last, prefix) < 0 ? prefix : last);
		if (i < s->n && strcmp(s->objects[i]->name, last) == 0)
			i++;
		if (i < s->n && strncmp(s->objects[i]->name, prefix, nprefix) == 0 && (name = strdup(s->objects[i]->name)))
			o = (struct ms_object){name, (int64_t)s->objects[i]->len, s->objects[i]->mtime_us};
		pthread_mutex_unlock(&lock);
		bool go = name && !atomic_load(&h->cancelled) && (!ms_object_name_valid(name) || cb(arg, &o));
		if (name) {
			free(last);
			last = name;
		}
		if (!go)
			break;
	}
	free(last);
	return atomic_load(&h->cancelled) ? canceled(err) : leave(h, prefix, &f, err);
}

static enum ms_code mem_remove(struct ms_replica *r, const char *name, struct ms_err *err) {
	struct handle *h = (struct handle *)r;
	struct ms_mem_fault f;
	enum ms_code rc = enter(h, MS_MEM_REMOVE, name, &f, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&lock);
	erase(store_get(h->name), name);
	pthread_mutex_unlock(&lock);
	return leave(h, name, &f, err);
}

static void mem_caps(struct ms_replica *r, struct ms_replica_caps *ret) {
	pthread_mutex_lock(&lock);
	*ret = (struct ms_replica_caps){
		.create_if_absent = true, .settle_us = store_get(((struct handle *)r)->name)->settle_us, .server_checks = true, .parallel = 8};
	pthread_mutex_unlock(&lock);
}

static void mem_cancel(struct ms_replica *r) { atomic_store(&((struct handle *)r)->cancelled, true); }

static void mem_close(struct ms_replica *r) { free(r); }

static const struct ms_option_def mem_options[] = {
	{.key = "name", .type = "string", .required = true, .help = "name of the store in this process"},
	{0},
};
static const struct ms_replica_driver mem_driver = {
	.scheme = "mem",
	.help = "a store in this process, for tests: mem://name",
	.options = mem_options,
	.open = mem_open,
	.put = mem_put,
	.get = mem_get,
	.list = mem_list,
	.remove = mem_remove,
	.caps = mem_caps,
	.cancel = mem_cancel,
	.close = mem_close,
};

enum ms_code ms_replica_mem_register(struct ms_err *err) {
	return ms_replica_driver_find("mem") ? MS_OK : ms_replica_register(&mem_driver, err);
}

void ms_mem_fault(const char *store, const struct ms_mem_fault *f) {
	pthread_mutex_lock(&lock);
	struct store *s = store_get(store);
	if (s->nfaults == FAULTS_MAX || (f->name_has && strlen(f->name_has) >= sizeof s->faults[0].name_has))
		abort(); /* a test that breaks the stated bounds */
	struct fault *n = &s->faults[s->nfaults++];
	n->f = *f;
	if (f->name_has) {
		memcpy(n->name_has, f->name_has, strlen(f->name_has) + 1);
		n->f.name_has = n->name_has;
	}
	pthread_mutex_unlock(&lock);
}

void ms_mem_clear_faults(const char *store) {
	pthread_mutex_lock(&lock);
	store_get(store)->nfaults = 0;
	pthread_mutex_unlock(&lock);
}

void ms_mem_counts(const char *store, struct ms_mem_counts *ret) {
	pthread_mutex_lock(&lock);
	*ret = store_get(store)->counts;
	pthread_mutex_unlock(&lock);
}

static void plant(struct store *s, const char *name, const void *data, size_t len) {
	uint8_t *copy = malloc(len + 1);
	if (!copy)
		abort();
	if (len)
		memcpy(copy, data, len);
	erase(s, name);
	if (!insert(s, name, copy, len, 0))
		abort();
}

void ms_mem_plant(const char *store, const char *name, const void *data, size_t len) {
	pthread_mutex_lock(&lock);
	plant(store_get(store), name, data, len);
	pthread_mutex_unlock(&lock);
}

const uint8_t *ms_mem_peek(const char *store, const char *name, size_t *ret_len) {
	pthread_mutex_lock(&lock);
	struct object *o = find(store_get(store), name);
	pthread_mutex_unlock(&lock);
	if (o && ret_len)
		*ret_len = o->len;
	return o ? o->data : NULL;
}

void ms_mem_each(const char *store, void (*cb)(void *arg, const char *name, const uint8_t *data, size_t len), void *arg) {
	pthread_mutex_lock(&lock);
	struct store *s = store_get(store);
	for (size_t i = 0; i < s->n; i++)
		cb(arg, s->objects[i]->name, s->objects[i]->data, s->objects[i]->len);
	pthread_mutex_unlock(&lock);
}

void ms_mem_erase(const char *store, const char *name) {
	pthread_mutex_lock(&lock);
	erase(store_get(store), name);
	pthread_mutex_unlock(&lock);
}

static void wipe(struct store *s) {
	for (size_t i = 0; i < s->n; i++)
		object_free(s->objects[i]);
	s->n = 0;
	s->counts.objects = s->counts.bytes = 0;
}

void ms_mem_wipe(const char *store) {
	pthread_mutex_lock(&lock);
	wipe(store_get(store));
	pthread_mutex_unlock(&lock);
}

void ms_mem_set_settle(const char *store, int64_t settle_us) {
	pthread_mutex_lock(&lock);
	store_get(store)->settle_us = settle_us;
	pthread_mutex_unlock(&lock);
}

void ms_mem_copy(const char *dst, const char *src) {
	pthread_mutex_lock(&lock);
	struct store *d = store_get(dst), *s = store_get(src);
	if (d != s) {
		wipe(d);
		for (size_t i = 0; i < s->n; i++)
			plant(d, s->objects[i]->name, s->objects[i]->data, s->objects[i]->len);
	}
	pthread_mutex_unlock(&lock);
}

void ms_mem_drop(const char *store) {
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < STORES_MAX; i++) {
		if (!stores[i] || strcmp(stores[i]->name, store) != 0)
			continue;
		wipe(stores[i]);
		free(stores[i]->objects);
		free(stores[i]);
		stores[i] = NULL;
	}
	pthread_mutex_unlock(&lock);
}
