-- Claims one run that has killed several workers in a row, for a worker that runs nothing else.
-- Caller: services::claimer, when its worker is empty. Locks and columns as in claim.sql.
WITH me AS MATERIALIZED (
    SELECT w.id FROM stepd_engine.workers w WHERE w.id = $1 FOR KEY SHARE
), back AS MATERIALIZED (
    SELECT j.ctid FROM stepd.jobs j
    WHERE EXISTS (SELECT FROM me) AND j.lane = 1 AND j.state = 'queued' AND j.streak >= $4
      AND CASE WHEN $3::text[] IS NULL
            THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = j.queue AND (q.exclusive OR NOT q.open))
            ELSE j.queue = ANY ($3::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = j.queue AND NOT q.open) END
    ORDER BY j.priority, j.ready_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE stepd.jobs j SET
    state = 'running', worker = $1, epoch = j.epoch + 1, started = false, lane = 2,
    started_at = coalesce(j.started_at, clock_timestamp()),
    definition = coalesce(j.definition, ($2::jsonb -> j.workflow)::integer,
        (SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = j.workflow))
WHERE j.ctid = ANY (ARRAY(SELECT b.ctid FROM back b))
RETURNING j.id, j.workflow, j.input::text AS "input!", j.epoch, j.definition, j.queue AS "queue!", j.priority AS "priority!", j.lane, j.ready_at,
    j.run_at, j.started_at AS "started_at!", j.resumes, j.crashes, j.streak, j.taken, j.traceparent
