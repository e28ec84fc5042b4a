-- Takes the worker's session lock, if nobody has it. Caller: services::presence, on the session that keeps it.
SELECT pg_try_advisory_lock(stepd_engine.lock_class(), $1) AS "locked!"
