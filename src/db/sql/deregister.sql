-- The end of a registration, after its runs have been given back: the others are told to look. Caller: services::presence.
WITH gone AS (DELETE FROM stepd_engine.workers w WHERE w.id = $1
    -- By lane, as orphans.sql does.
    AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.lane = 0 AND j.worker = $1 AND j.state = 'running')
    AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.lane = 2 AND j.worker = $1 AND j.state = 'running') RETURNING w.id
), sessions AS (
    DELETE FROM stepd_engine.worker_sessions s WHERE s.worker IN (SELECT g.id FROM gone g)
)
SELECT pg_notify('stepd', '') FROM stepd_engine.settings s WHERE s.notify
