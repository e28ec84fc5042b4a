-- The marker that the lock is held under this start of Postgres. Caller: services::presence, right after lock.sql.
INSERT INTO stepd_engine.worker_sessions (worker) SELECT w.id FROM stepd_engine.workers w WHERE w.id = $1
ON CONFLICT (worker) DO UPDATE SET started = pg_postmaster_start_time()
