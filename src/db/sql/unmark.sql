-- Takes the marker of an earlier session back: this one could not have the lock, and when it falls free that proves nothing.
-- Caller: services::presence, after lock.sql and await_lock.sql have failed.
DELETE FROM stepd_engine.worker_sessions s WHERE s.worker = $1
