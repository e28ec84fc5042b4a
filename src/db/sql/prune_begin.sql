-- Opens a pass of the retention: one at a time on a database, by index whatever the statistics say. Caller: db::retention.
SELECT pg_try_advisory_xact_lock(stepd_engine.lock_class(), -3) AS "alone!", set_config('enable_seqscan', 'off', true) AS "by_index!",
    (statement_timestamp() AT TIME ZONE 'UTC')::date::text AS "day!"
