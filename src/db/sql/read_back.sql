-- After an unknown outcome (the connection was lost during the commit): what does the database hold of these runs?
-- Caller: services::writer. `mine`: the lease stands and the run has not moved. `ended`, `moved`: it has, under this epoch.
-- The lock makes a commit of it, as in answer_of.sql: what is seen here is told as recorded.
-- Counted, for a part that nobody asks is not done. Locks: the worker's row (key share).
WITH me AS MATERIALIZED (
    SELECT w.id FROM stepd_engine.workers w WHERE w.id = $1 FOR KEY SHARE
)
SELECT r.id AS "id!",
    coalesce((SELECT j.state = 'running' AND j.worker = $1 AND j.epoch = r.epoch FROM stepd.jobs j WHERE j.id = r.id), false) AS "mine!",
    EXISTS (SELECT FROM stepd_engine.ended e WHERE e.id = r.id AND e.epoch = r.epoch) AS "ended!",
    coalesce((SELECT j.epoch = r.epoch AND j.state <> 'running' AND j.state NOT IN ('completed', 'failed', 'cancelled') FROM stepd.jobs j WHERE j.id = r.id), false) AS "moved!"
FROM unnest($2::uuid[], $3::integer[]) AS r(id, epoch)
WHERE (SELECT count(*) FROM me) <= 1
