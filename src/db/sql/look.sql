-- The look: which (queue, priority) pairs have runs that may be claimed, and from which place on; is there a run that came back, and one that must
-- be run alone; is anything due, or held? Each row is one finding; due and held are for the stager, which has no poll of its own.
-- Caller: services::claimer, twice a second at most while there is work. Index: jobs_ready and jobs_returned, walked from pair to pair; jobs_due, jobs_held.
-- $1 the queues served (NULL: all that are not exclusive); $2..$5 pairs that were seen before, each with the place below which it has no live
-- row and can get none (rules::horizon): a transaction that is held open anywhere keeps every dead row in place, and a look must not walk them.
-- The rest is walked from the bottom: the spans between those pairs (gap), and what comes after the last (tail).
WITH RECURSIVE known AS MATERIALIZED (
    SELECT k.queue, k.priority, k.ready_at, k.id,
        lag(k.queue, 1, '') OVER pairs AS after_queue, lag(k.priority, 1, -1::smallint) OVER pairs AS after_priority
    FROM unnest($2::text[], $3::smallint[], $4::timestamptz[], $5::uuid[]) AS k(queue, priority, ready_at, id)
    WINDOW pairs AS (ORDER BY k.queue, k.priority)
), gap AS (
    SELECT n.queue, n.priority, n.ready_at, n.id, k.queue AS before_queue, k.priority AS before_priority FROM known k, LATERAL (
        SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j
        WHERE j.lane = 0 AND (j.queue, j.priority) > (k.after_queue, k.after_priority) AND (j.queue, j.priority) < (k.queue, k.priority)
            AND j.state = 'queued'
        ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT 1) n
    UNION ALL
    SELECT n.queue, n.priority, n.ready_at, n.id, g.before_queue, g.before_priority FROM gap g, LATERAL (
        SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j
        WHERE j.lane = 0 AND (j.queue, j.priority) > (g.queue, g.priority) AND (j.queue, j.priority) < (g.before_queue, g.before_priority)
            AND j.state = 'queued'
        ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT 1) n
), tail AS (
    SELECT n.queue, n.priority, n.ready_at, n.id
    FROM (SELECT k.queue, k.priority FROM known k UNION ALL SELECT '', -1::smallint ORDER BY 1 DESC, 2 DESC LIMIT 1) l, LATERAL (
        SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j
        WHERE j.lane = 0 AND (j.queue, j.priority) > (l.queue, l.priority) AND j.state = 'queued'
        ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT 1) n
    UNION ALL
    SELECT n.queue, n.priority, n.ready_at, n.id FROM tail t, LATERAL (
        SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j
        WHERE j.lane = 0 AND (j.queue, j.priority) > (t.queue, t.priority) AND j.state = 'queued'
        ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT 1) n
), pair AS (
    SELECT n.queue, n.priority, n.ready_at, n.id FROM known k, LATERAL (
        SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j
        WHERE j.lane = 0 AND j.queue = k.queue AND j.priority = k.priority AND (j.ready_at, j.id) >= (k.ready_at, k.id) AND j.state = 'queued'
        ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT 1) n
    UNION ALL SELECT g.queue, g.priority, g.ready_at, g.id FROM gap g
    UNION ALL SELECT t.queue, t.priority, t.ready_at, t.id FROM tail t
), place AS (
    (SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j WHERE j.lane = 1
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1)
    UNION ALL
    SELECT n.queue, n.alone, n.priority, n.ready_at FROM place p, LATERAL (
        SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j
        WHERE j.lane = 1 AND (j.queue, (j.streak >= 4), j.priority) > (p.queue, p.alone, p.priority)
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1) n
)
SELECT p.queue AS "queue!", p.priority AS "priority!", p.ready_at, p.id, CASE WHEN $1::text[] IS NULL
        THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
        ELSE p.queue = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END AS "mine!",
    false AS "back!", false AS "solo!", false AS "due!", false AS "held!", NULL::timestamptz AS at, NULL::text AS inserter
    FROM pair p
UNION ALL
SELECT p.queue, p.priority, NULL, NULL, false, true, p.alone, false, false, NULL, NULL FROM place p
    WHERE CASE WHEN $1::text[] IS NULL
        THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
        ELSE p.queue = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END
UNION ALL
SELECT '', 0::smallint, NULL, NULL, false, false, false, true, false, NULL, NULL WHERE EXISTS (SELECT FROM stepd.jobs j WHERE j.due_at <= now())
UNION ALL
SELECT '', 0::smallint, NULL, NULL, false, false, false, false, true, NULL, NULL
    WHERE EXISTS (SELECT FROM stepd.jobs j WHERE j.lane >= 4) OR EXISTS (SELECT FROM stepd_engine.queues q WHERE NOT q.open)
UNION ALL
-- The time before anything was read here, and the transactions that may yet commit rows: who writes holds this lock until it has.
SELECT '', 0::smallint, NULL, NULL, false, false, false, false, false, statement_timestamp(), l.virtualtransaction
    FROM (SELECT) one LEFT JOIN (SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l
        WHERE l.locktype = 'relation' AND l.relation = 'stepd.jobs'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted
            AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())) l ON true
