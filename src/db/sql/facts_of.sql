-- What a worker has said of itself. Caller: services::sweeper, before a take-over.
SELECT w.pid, w.facts FROM stepd_engine.workers w WHERE w.id = $1
