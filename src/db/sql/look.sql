-- The full look: which (queue, priority) pairs have rows in the ready lane, and from which place on; is there a run that came back, and one that must be run alone;
-- is anything due, or held? Each row is one finding; the last two are for the stager, which has no poll of its own.
-- Caller: services::claimer, twice a second at most while there is work. Index: jobs_ready and jobs_returned, walked from pair to pair; jobs_due, jobs_held.
-- $1 the queues served (NULL: all that are not exclusive).
WITH RECURSIVE pair AS (
    (SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j WHERE j.lane = 0
        ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT 1)
    UNION ALL
    SELECT n.queue, n.priority, n.ready_at, n.id FROM pair p, LATERAL (
        SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j WHERE j.lane = 0 AND (j.queue, j.priority) > (p.queue, p.priority)
        ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT 1) n
), place AS (
    (SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j WHERE j.lane = 1
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1)
    UNION ALL
    SELECT n.queue, n.alone, n.priority, n.ready_at FROM place p, LATERAL (
        SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j
        WHERE j.lane = 1 AND (j.queue, (j.streak >= 4), j.priority) > (p.queue, p.alone, p.priority)
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1) n
)
SELECT p.queue AS "queue!", p.priority AS "priority!", p.ready_at, p.id, false AS "back!", false AS "solo!", false AS "due!", false AS "held!" FROM pair p
    WHERE CASE WHEN $1::text[] IS NULL
        THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
        ELSE p.queue = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END
UNION ALL
SELECT p.queue, p.priority, NULL, NULL, true, p.alone, false, false FROM place p
    WHERE CASE WHEN $1::text[] IS NULL
        THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
        ELSE p.queue = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END
UNION ALL
SELECT '', 0::smallint, NULL, NULL, false, false, true, false WHERE EXISTS (SELECT FROM stepd.jobs j WHERE j.due_at <= now())
UNION ALL
SELECT '', 0::smallint, NULL, NULL, false, false, false, true
    WHERE EXISTS (SELECT FROM stepd.jobs j WHERE j.lane >= 4) OR EXISTS (SELECT FROM stepd_engine.queues q WHERE NOT q.open)
