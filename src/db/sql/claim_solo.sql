-- Claims one run that has killed several workers in a row, for a worker that runs nothing else.
-- Caller: services::claimer, when its worker is empty. Locks and columns as in claim.sql.
-- At most half of the workers do this at one time: however many such runs there are, the others go on with the rest.
WITH RECURSIVE me AS MATERIALIZED (
    SELECT w.id FROM stepd_engine.workers w WHERE w.id = $1 FOR KEY SHARE
), place AS (
    (SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j WHERE j.lane = 1
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1)
    UNION ALL
    SELECT n.queue, n.alone, n.priority, n.ready_at FROM place p, LATERAL (
        SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j
        WHERE j.lane = 1 AND (j.queue, (j.streak >= 4), j.priority) > (p.queue, p.alone, p.priority)
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1) n
), back AS MATERIALIZED (
    SELECT x.ctid
    FROM (SELECT p.queue, p.alone, p.priority FROM place p
        WHERE p.alone AND EXISTS (SELECT FROM me)
            AND (SELECT count(*) FROM stepd.jobs r WHERE r.lane = 2 AND (r.streak >= 4) AND r.state = 'running')
                < greatest(1, (SELECT count(*) FROM stepd_engine.workers w WHERE NOT w.stopping) / 2)
            AND CASE WHEN $3::text[] IS NULL
            THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
            ELSE p.queue = ANY ($3::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END
        ORDER BY p.priority, p.ready_at) p,
    LATERAL (SELECT j.ctid FROM stepd.jobs j
        WHERE j.lane = 1 AND j.queue = p.queue AND (j.streak >= 4) = p.alone AND j.priority = p.priority AND j.state = 'queued'
        ORDER BY j.ready_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) x
    LIMIT 1
)
UPDATE stepd.jobs j SET
    state = 'running', worker = $1, epoch = least(j.epoch, 2147483646) + 1, started = false, lane = 2,
    started_at = coalesce(j.started_at, clock_timestamp()),
    definition = coalesce(j.definition, ($2::jsonb -> j.workflow)::integer,
        (SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = j.workflow))
WHERE j.ctid = ANY (ARRAY(SELECT b.ctid FROM back b))
RETURNING j.id, j.workflow, CASE WHEN pg_column_size(j.input) <= 4096 AND octet_length(j.input::text) <= 65536 THEN j.input::text END AS input, j.epoch, j.definition, j.queue AS "queue!", j.priority AS "priority!", j.lane, j.ready_at,
    j.run_at, j.started_at AS "started_at!", j.resumes, j.crashes, j.streak, j.taken, j.error IS NOT NULL AS "after_failure!", j.traceparent, j.session_id, j.parent IS NOT NULL AS "is_child!",
    j.unique_keep IS NOT NULL AS "keeps_key!"
