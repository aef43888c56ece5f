/* The reader: durable prefix, polling, databases among others, positions. */
#include "unit/journal_rig.h"

Test(journal, reader_sees_the_durable_prefix_and_polls_without_touching_files) {
	struct ms_env *env = ms_env_sim_new(16);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 5000};
	struct ms_journal *j = rig_open(env, &cfg);
	struct ms_journal_reader *r;
	struct ms_journal_entry e;
	struct ms_err why = MS_ERR_INIT;
	OK(ms_journal_reader_new(j, NULL, 0, 1, &r, &err));
	uint64_t id = 1;
	for (int round = 0; round < 30; round++) {
		uint64_t from = id;
		for (int i = 0; i < 5; i++)
			rig_put(j, id++);
		uint64_t durable = ms_journal_durable_seq(j); /* a rotation makes some of them durable */
		for (; from <= durable; from++) {
			OK(ms_journal_reader_next(r, &e, &err));
			rig_same(&e, from);
		}
		cr_assert_eq(ms_journal_reader_next(r, &e, &why), MS_ENOTFOUND);
		OK(ms_journal_sync(j, UINT64_MAX, &err));
		for (; from < id; from++) {
			OK(ms_journal_reader_next(r, &e, &err));
			rig_same(&e, from);
		}
		cr_assert_eq(ms_journal_reader_seq(r), id);
		uint64_t ops = ms_env_sim_ops(env, MS_SIM_ANY);
		for (int i = 0; i < 1000; i++)
			cr_assert_eq(ms_journal_reader_next(r, &e, &why), MS_ENOTFOUND);
		cr_assert_eq(ms_env_sim_ops(env, MS_SIM_ANY), ops);
	}
	ms_journal_reader_free(r);
	/* A position the journal has never reached. */
	OK(ms_journal_reader_new(j, NULL, 0, id + 100, &r, &err));
	cr_assert_eq(ms_journal_reader_next(r, &e, &why), MS_EGAP);
	cr_assert_eq(ms_journal_reader_next(r, &e, &why), MS_ENOTFOUND);
	rig_put(j, id);
	OK(ms_journal_sync(j, id, &err));
	OK(ms_journal_reader_next(r, &e, &err));
	rig_same(&e, id);
	ms_journal_reader_free(r);
	rig_close(j);
	ms_env_sim_free(env);
}

/* One busy database and one that writes rarely: its reader does not read the other's bytes. */
Test(journal, reader_of_one_database_jumps_over_the_others) {
	struct ms_env *env = ms_env_sim_new(17);
	struct ms_journal *j = rig_open(env, NULL);
	uint64_t rare[8], seq;
	for (unsigned i = 0; i < 8; i++) {
		for (int k = 0; k < 40; k++) /* 4 MiB */
			OK(rig_try(j, "busy", 0, 1, 100000, &seq, &err));
		OK(rig_try(j, "rare", 0, i, 1000, &rare[i], &err));
	}
	OK(ms_journal_sync(j, seq, &err));
	for (int pass = 0; pass < 2; pass++) {
		struct ms_journal_reader *r;
		struct ms_journal_entry e;
		uint64_t reads = ms_env_sim_ops(env, MS_SIM_PREAD);
		OK(ms_journal_reader_new(j, "rare", 4, 1, &r, &err));
		for (unsigned i = 0; i < 8; i++) {
			OK(ms_journal_reader_next(r, &e, &err));
			cr_assert(e.seq == rare[i] && e.len == 1000 && !memcmp(e.payload, rig_payload(i, 1000), 1000));
		}
		FAILS(MS_ENOTFOUND, ms_journal_reader_next(r, &e, &err));
		ms_journal_reader_free(r);
		reads = ms_env_sim_ops(env, MS_SIM_PREAD) - reads;
		cr_assert_lt(reads, 60, "%llu reads for 8 entries", (unsigned long long)reads); /* 32 MiB are 512 windows */
		rig_close(j);
		j = rig_open(env, NULL);
	}
	rig_close(j);
	ms_env_sim_free(env);
}

/* Many databases, readers from every position, files that rotate: each reader gets exactly what is its own. */
Test(journal, readers_of_many_databases_from_any_position) {
	struct ms_env *env = ms_env_sim_new(18);
	struct ms_journal_config cfg = {.mode = MS_SYNC_FDATASYNC, .max_size_bytes = 700000};
	struct ms_journal *j = rig_open(env, &cfg);
	enum { DBS = 40, ENTRIES = 3000 };
	static uint8_t owner[ENTRIES + 1];
	uint64_t s = 99, seq;
	for (unsigned i = 1; i <= ENTRIES; i++) {
		char db[16];
		owner[i] = (uint8_t)(rnd(&s) >> 32) % DBS;
		if (i > 1000 && i < 2000)
			owner[i] = (uint8_t)(i % 3); /* a stretch of few */
		snprintf(db, sizeof db, "database-%u", owner[i]);
		OK(rig_try(j, db, 0, i, 200 + i % 900, &seq, &err));
	}
	OK(ms_journal_sync(j, seq, &err));
	cr_assert_geq(rig_stats(j).files, 3);
	for (unsigned db = 0; db < DBS; db++)
		for (unsigned from = 1; from <= ENTRIES; from += 331) {
			struct ms_journal_reader *r;
			struct ms_journal_entry e;
			char name[16];
			snprintf(name, sizeof name, "database-%u", db);
			OK(ms_journal_reader_new(j, name, strlen(name), from, &r, &err));
			for (unsigned i = from; i <= ENTRIES; i++)
				if (owner[i] == db) {
					OK(ms_journal_reader_next(r, &e, &err));
					cr_assert(e.seq == i && e.len == 200 + i % 900, "db %u: %llu instead of %u", db,
						  (unsigned long long)e.seq, i);
				}
			FAILS(MS_ENOTFOUND, ms_journal_reader_next(r, &e, &err));
			cr_assert_leq(ms_journal_reader_seq(r), ENTRIES + 1);
			ms_journal_reader_free(r);
		}
	rig_close(j);
	ms_env_sim_free(env);
}
