-- Removes ended runs with all that belongs to them, and the queue of each that only its own `stepd run` served. Caller: db::retention,
-- with the rows of `ended` locked. Lock order: ended, then what hangs on it, as in stepd.retry.
WITH gone AS (
    DELETE FROM stepd_engine.ended e WHERE e.id = ANY($1) RETURNING e.workflow, e.state, e.queue
), steps AS (
    DELETE FROM stepd_engine.checkpoints c WHERE c.run = ANY($1) RETURNING 1
), events AS (
    DELETE FROM stepd_engine.events v WHERE v.run = ANY($1) RETURNING 1
), signals AS (
    DELETE FROM stepd_engine.signals g WHERE g.run = ANY($1)
), children AS (
    DELETE FROM stepd_engine.children k WHERE k.parent = ANY($1) OR k.child = ANY($1)
), queues AS (
    DELETE FROM stepd_engine.queues q WHERE q.name IN (SELECT g.queue FROM gone g) AND q.exclusive
        AND q.name ~ '^run-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.queue = q.name AND j.state NOT IN ('completed', 'failed', 'cancelled'))
)
SELECT g.workflow, g.state::text AS "state!", count(*) AS "runs!",
    (SELECT count(*) FROM steps) AS "steps!", (SELECT count(*) FROM events) AS "events!"
FROM gone g GROUP BY g.workflow, g.state ORDER BY g.workflow, g.state
