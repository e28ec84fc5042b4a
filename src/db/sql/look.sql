-- The full look: which (queue, priority) pairs have rows in the ready lane; is there a run that came back, and one that must be run alone?
-- Caller: services::claimer, twice a second at most while there is work. Index: jobs_ready, walked from pair to pair.
-- $1 the queues served (NULL: all that are not exclusive); $2 crashes in a row from which a run is claimed alone.
WITH RECURSIVE pair AS (
    (SELECT j.queue, j.priority FROM stepd.jobs j WHERE j.lane = 0 ORDER BY j.queue, j.priority LIMIT 1)
    UNION ALL
    SELECT n.queue, n.priority FROM pair p, LATERAL (
        SELECT j.queue, j.priority FROM stepd.jobs j WHERE j.lane = 0 AND (j.queue, j.priority) > (p.queue, p.priority)
        ORDER BY j.queue, j.priority LIMIT 1) n
)
SELECT p.queue AS "queue!", p.priority AS "priority!", false AS "back!", false AS "solo!" FROM pair p
    WHERE CASE WHEN $1::text[] IS NULL
        THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
        ELSE p.queue = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END
UNION ALL
(SELECT j.queue, j.priority, true, false FROM stepd.jobs j
    WHERE j.lane = 1 AND j.state = 'queued' AND j.streak < $2
      AND CASE WHEN $1::text[] IS NULL
        THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = j.queue AND (q.exclusive OR NOT q.open))
        ELSE j.queue = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = j.queue AND NOT q.open) END
    LIMIT 1)
UNION ALL
(SELECT j.queue, j.priority, true, true FROM stepd.jobs j
    WHERE j.lane = 1 AND j.state = 'queued' AND j.streak >= $2
      AND CASE WHEN $1::text[] IS NULL
        THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = j.queue AND (q.exclusive OR NOT q.open))
        ELSE j.queue = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = j.queue AND NOT q.open) END
    LIMIT 1)
