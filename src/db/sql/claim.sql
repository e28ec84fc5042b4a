-- Claims up to $2 runs for worker $1: first those that came back, then new ones by watermark. $9 places are left for the new ones, so that a
-- hundred thousand runs that all wake at once do not keep a new job waiting until the last of them has its turn.
-- Caller: services::claimer. Locks: the worker's row (key share), then job rows (skip locked).
-- Index: jobs_returned, jobs_ready. A claim of a new row is a HOT update: it changes no indexed column.
-- $3 the definitions that this worker pins, {workflow: id}; $4..$7 the known (queue, priority) pairs with their
-- watermark (ready_at, id); $8 the queues served (NULL: all that are not exclusive).
-- A large input (as it is stored: to ask its size reads nothing of it; and as text, for a number of ten bytes can be one of 100 kB) does not come
-- along: a hundred of them would be a gigabyte, and would not come within a statement's time. The run that is at work loads its own: load_input.sql.
-- place: the (queue, priority) pairs of what came back, walked in the index from one to the next, with the oldest row of each. Only
-- what this worker serves is read; what is only claimed alone (claim_solo.sql) is not.
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
        WHERE NOT p.alone AND EXISTS (SELECT FROM me) AND CASE WHEN $8::text[] IS NULL
            THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
            ELSE p.queue = ANY ($8::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END
        ORDER BY p.priority, p.ready_at) p,
    LATERAL (SELECT j.ctid FROM stepd.jobs j
        WHERE j.lane = 1 AND j.queue = p.queue AND (j.streak >= 4) = p.alone AND j.priority = p.priority AND j.state = 'queued'
        ORDER BY j.ready_at, j.id LIMIT $2::bigint - $9::bigint FOR UPDATE SKIP LOCKED) x
    LIMIT $2::bigint - $9::bigint
), fresh AS MATERIALIZED (
    SELECT x.ctid
    FROM unnest($4::text[], $5::smallint[], $6::timestamptz[], $7::uuid[]) AS p(queue, priority, ready_at, id),
    LATERAL (SELECT j.ctid FROM stepd.jobs j
        WHERE j.lane = 0 AND j.queue = p.queue AND j.priority = p.priority AND (j.ready_at, j.id) >= (p.ready_at, p.id) AND j.state = 'queued'
          AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open)
        ORDER BY j.ready_at, j.id LIMIT $2 FOR UPDATE SKIP LOCKED) x
    WHERE EXISTS (SELECT FROM me)
    LIMIT $2 - (SELECT count(*) FROM back)
)
UPDATE stepd.jobs j SET
    state = 'running', worker = $1, epoch = least(j.epoch, 2147483646) + 1, started = false,
    lane = CASE j.lane WHEN 0 THEN 0 ELSE 2 END,
    started_at = coalesce(j.started_at, clock_timestamp()),
    definition = coalesce(j.definition, ($3::jsonb -> j.workflow)::integer,
        (SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = j.workflow))
WHERE j.ctid = ANY (ARRAY(SELECT b.ctid FROM back b UNION ALL SELECT f.ctid FROM fresh f))
RETURNING j.id, j.workflow, CASE WHEN pg_column_size(j.input) <= 4096 AND octet_length(j.input::text) <= 65536 THEN j.input::text END AS input, j.epoch, j.definition, j.queue AS "queue!", j.priority AS "priority!", j.lane, j.ready_at,
    j.run_at, j.started_at AS "started_at!", j.resumes, j.crashes, j.streak, j.taken, j.error IS NOT NULL AS "after_failure!", j.traceparent, j.session_id, j.parent IS NOT NULL AS "is_child!",
    j.unique_keep IS NOT NULL AS "keeps_key!"
