-- Waits in line for the worker's session lock: from a session of this worker that ends it passes on unseen. Caller: services::presence.
SELECT pg_advisory_lock(stepd_engine.lock_class(), $1) IS NULL AS waited
